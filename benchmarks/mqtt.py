"""`make bench-mqtt`: messages a second over MQTT beside a bare paho client, and what a restart of the broker costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

from benchmarks.children import child
from benchmarks.mqtt_clients import alarm, context_of
from benchmarks.mqtt_feeder import Feeder
from benchmarks.report import Report
from edgeflex_connectors import mqtt_publish, mqtt_subscribe
from edgeflex_connectors.mqtt_publish import MqttPublish, MqttPublishConfig
from edgeflex_connectors.mqtt_subscribe import MqttSubscribe, MqttSubscribeConfig
from edgeflex_services.broker import find_mosquitto, free_tcp_port

COUNT = 30_000
RATE_PER_S = 500
DOWN_S = 3.0


class Broker:
    """Mosquitto on a port that stays the same when it is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_tcp_port()
        self._folder = folder
        program = find_mosquitto()
        if program is None:
            raise click.ClickException("this benchmark needs mosquitto")
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\n"
            f"persistence true\npersistence_location {folder}/\nautosave_interval 1\nmax_inflight_messages 0\n"
            + ("user root\n" if os.geteuid() == 0 else "")
        )

    def start(self) -> float:
        """Gives the time at which it takes connections."""
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._folder / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while True:
            try:
                client = Client(CallbackAPIVersion.VERSION2)
                client.connect("127.0.0.1", self.port)
                client.disconnect()
                return time.monotonic()
            except OSError:
                time.sleep(0.01)

    def end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait()


@contextmanager
def running_broker() -> Iterator[Broker]:
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        broker.start()
        try:
            yield broker
        finally:
            broker.end(signal.SIGTERM)


def measure_one(broker: Broker, way: str, client: str, qos: int, feeder: Feeder, count: int) -> tuple[float, float]:
    """Messages a second of one client in a process of its own, and µs of the processor for each."""
    arguments = ["-m", "benchmarks.mqtt_clients", way, client, str(broker.port), str(qos), str(count)]
    with child(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if way == "in":
            process.stdout.readline()  # it has subscribed
            feeder.feed(broker.port)
        answer = json.loads(process.stdout.readline())
        process.wait(60.0)
    return count / float(answer["seconds"]), 1e6 * float(answer["cpu_seconds"]) / count


NAMES = {
    ("out", "edgeflex"): "mqtt_publish",
    ("in", "edgeflex"): "mqtt_subscribe",
    ("out", "paho"): "bare paho",
    ("in", "paho"): "bare paho",
}


def measure_rates(report: Report, broker: Broker, rounds: int, count: int) -> None:
    for qos in (0, 1):
        feeder = Feeder(count, qos)
        for way in ("out", "in"):
            section = f"Messages {way} at QoS {qos}"
            found: dict[str, list[tuple[float, float]]] = {"edgeflex": [], "paho": []}
            for turn in range(rounds):
                for client in ("edgeflex", "paho") if turn % 2 else ("paho", "edgeflex"):
                    found[client].append(measure_one(broker, way, client, qos, feeder, count))
            for client, pairs in found.items():
                report.add(section, NAMES[way, client], "messages/s", [per_s for per_s, _ in pairs])
            ratios = [ours[0] / bare[0] for ours, bare in zip(found["edgeflex"], found["paho"], strict=True)]
            report.add(section, "ratio, by round", "ratio", ratios, asked="≥ 0.9", good=lambda value: value >= 0.9)
            for client, pairs in found.items():
                report.add(section, f"{NAMES[way, client]}: processor", "µs/message", [cpu for _, cpu in pairs])


class Watcher:
    """A subscriber in a session that the broker keeps, and which numbers came."""

    def __init__(self, port: int) -> None:
        self.numbers: list[int] = []
        self.client = Client(CallbackAPIVersion.VERSION2, client_id="watcher", clean_session=False)
        self.client.reconnect_delay_set(0.01, 0.01)  # type: ignore[arg-type]
        self.client.on_connect = self._subscribe
        self.client.on_message = self._keep
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _subscribe(self, *_: Any) -> None:
        self.client.subscribe("bench/alarm", 1)

    def _keep(self, _client: Client, _userdata: Any, message: Any) -> None:
        self.numbers.append(json.loads(message.payload)["time_ns"])

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def measure_restart(report: Report, broker: Broker, rounds: int) -> None:
    """The broker is killed while a sink publishes at QoS 1, and starts again after some seconds."""
    section = f"Broker killed and started again after {DOWN_S:g} s, {RATE_PER_S} messages/s at QoS 1, default settings"
    recovered_s: list[float] = []
    subscribed_s: list[float] = []
    lost = doubled = disordered = 0
    for _ in range(rounds):
        one = _restart_once(broker)
        recovered_s.append(one["recovered_s"])
        subscribed_s.append(one["subscribed_s"])
        lost, doubled, disordered = (
            lost + int(one["lost"]),
            doubled + int(one["doubled"]),
            disordered + int(one["disordered"]),
        )
    report.add(section, "until the broker takes a message again", "s", recovered_s)
    report.add(section, "until a source has subscribed again", "s", subscribed_s)
    report.add(section, "messages lost, in all rounds", "messages", [lost], asked="0", good=lambda value: value == 0)
    report.add(section, "messages out of order", "messages", [disordered], asked="0", good=lambda value: value == 0)
    report.add(section, "messages that came twice", "messages", [doubled])


def _restart_once(broker: Broker) -> dict[str, float]:
    context, reading = context_of("out", broker.port), context_of("in", broker.port)
    sink = mqtt_publish.NODE.open(MqttPublishConfig(bus="databus", topic="bench/alarm"), context)
    source = mqtt_subscribe.NODE.open(MqttSubscribeConfig(bus="databus", topics=("x",), messages=("alarm",)), reading)
    assert isinstance(sink, MqttPublish)
    assert isinstance(source, MqttSubscribe)
    watcher = Watcher(broker.port)
    sink.open()
    source.open()
    time.sleep(2.0)  # mosquitto has written down the watcher's session
    stop = threading.Event()
    counted: list[int] = []

    def send() -> None:
        number = 0
        while not stop.wait(1.0 / RATE_PER_S):
            sink.write([alarm(number)])
            number += 1
        counted.append(number)

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(2.0)
    broker.end(signal.SIGKILL)
    time.sleep(DOWN_S)
    back_s = broker.start()
    acknowledged = context.counters.get("acknowledged")
    recovered_s = subscribed_s = 0.0
    while not recovered_s or not subscribed_s:
        if source._session is not None and source._session.is_up:
            subscribed_s = subscribed_s or time.monotonic() - back_s
        if context.counters.get("acknowledged") > acknowledged:
            recovered_s = recovered_s or time.monotonic() - back_s
        time.sleep(0.002)
    time.sleep(3.0)
    stop.set()
    sender.join()
    flushed = sink.flush(30.0)
    time.sleep(1.0)
    sink.close()
    source.close()
    watcher.close()
    first = list(dict.fromkeys(watcher.numbers))
    return {
        "recovered_s": recovered_s,
        "subscribed_s": subscribed_s,
        "lost": counted[0] - len(first) if flushed else float("nan"),
        "doubled": len(watcher.numbers) - len(first),
        "disordered": sum(later < earlier for earlier, later in pairwise(first)),
    }


@click.command()
@click.option("--quick", is_flag=True, help="Short and few rounds, to see that it runs; nothing is written then.")
def main(*, quick: bool) -> None:
    """Measure the MQTT connectors beside a bare paho client."""
    console = Console()
    report = Report("connectors-mqtt", command="make bench-mqtt")
    with running_broker() as broker, console.status("measuring"):
        report.notes.append(
            f"Broker: mosquitto. {os.cpu_count()} cores shared by broker, feeder and client; nothing is pinned."
        )
        report.notes.append(
            "Each client runs in a process of its own, one after the other in each round; ratios are by round."
        )
        report.notes.append(
            f"Processes that were ready to run when it began, on average over a minute: {os.getloadavg()[0]:.1f}."
        )
        measure_rates(report, broker, 2 if quick else 5, 10_000 if quick else COUNT)
        measure_restart(report, broker, 1 if quick else 3)
    report.show(console)
    if not quick:
        report.save()


if __name__ == "__main__":
    sys.exit(main())
