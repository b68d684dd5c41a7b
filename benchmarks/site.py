"""A site of many flows under `edgeflex up`: `python -m benchmarks.site [--soak 30min]`.

What an idle flow costs, how soon all run, what a move to a new version loses, how soon a killed flow gives again, and
whether memory stays flat. Sender, broker, supervisor and flows are processes of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import psutil
from matplotlib.figure import Figure
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import track

from benchmarks.children import child
from benchmarks.mqtt import running_broker
from benchmarks.report import Report
from benchmarks.site_run import IDLE, Site, shared_mb, site, until, used_s
from benchmarks.site_viewers import viewers
from benchmarks.throughput import WARM_UP_FRAMES, Sender, sender
from edgeflex_flow.units import parse_quantity
from edgeflex_services.broker import free_tcp_port, free_udp_port

FLOWS = 20
IDLE_S = 30.0
MOVES = 5
KILLS = 5
PER_S = 1000
LIMITS = "limits: {settle: 1s}"
CALIBRATION_PER_S = 50_000.0
CALIBRATION_FRAMES = 500_000
MOST_PER_S = 400_000.0
"""The sender shares the machine."""
LOOK_S = 5.0
SETTLE_S = 3.0
"""Flows tell each second how they are."""
FEW = 5
FLAT_MB = 5.0
ROWS, DROPS = "edgeflex_rows_total", "edgeflex_drops_total"

BY_UDP = "{kind: samples_udp, host: 127.0.0.1, port: PORT, format: json.edgeflex, columns: [active_power_w]}"
BY_MQTT = "{kind: mqtt_subscribe, bus: databus, topics: [bench], format: json.edgeflex, columns: [active_power_w]}"
NUMBERED = """\
flow: {name}
{limits}
nodes:
  samples: {source}
  step: {{kind: select, from: samples, columns: [active_power_w]{more}}}
  out: {{kind: file_write, from: step, path: ../{name}.jsonl}}
"""
SOAK = """\
flow: soak
nodes:
  pmu: {{kind: pmu_udp, host: 127.0.0.1, port: {port}, receive_buffer: 64 MiB}}
  rocof: {{kind: rocof, from: pmu, window: 500ms}}
  event: {{kind: frequency_event, from: rocof}}
  out: {{kind: mqtt_publish, from: event, bus: databus, topic: "bench/soak/event"}}
"""


def idle(report: Report) -> None:
    """What `FLOWS` flows cost that get nothing."""
    with site() as yard:
        names = idle_flows(yard, FLOWS)
        warm_s = yard.start(names)
        time.sleep(5.0)
        members = list(yard.members().values())
        before = {each: each.cpu_times() for each in members}
        time.sleep(IDLE_S)
        cpu = [used_s(before[each], each.cpu_times()) * 100 / IDLE_S for each in members]
        section = f"{FLOWS} idle flows (PMU, ROCOF, events, file)"
        report.add(section, "from the command to the last flow running", "s", [warm_s])
        report.add(section, "memory of a flow (PSS)", "MB", [shared_mb(each) for each in members])
        report.add(section, "memory of the whole site (PSS)", "MB", [sum(map(shared_mb, yard.processes()))])
        report.add(section, "processor of a flow", "% of a core", cpu)
        alone_mb = memory_alone(yard)
        report.add(section, "memory of such a flow by `edgeflex run` alone", "MB", [alone_mb])


def idle_flows(yard: Site, count: int) -> list[str]:
    """Write flows that get nothing; their names."""
    names = [f"idle{number}" for number in range(count)]
    for name in names:
        yard.write(name, IDLE.format(name=name, port=free_udp_port()))
    return names


def memory_alone(yard: Site) -> float:
    """Memory of one flow in an interpreter of its own."""
    yard.write("alone", IDLE.format(name="alone", port=free_udp_port()))
    with child(["-m", "edgeflex_flow", "--log-level", "error", "run", str(yard.folder / "alone.yaml")]) as process:
        time.sleep(8.0)
        return shared_mb(psutil.Process(process.pid))


def row_of(number: int) -> bytes:
    return json.dumps([{"device": "meter", "time_ns": time.time_ns(), "active_power_w": float(number)}]).encode()


def first_came(send: Callable[[bytes], object], file: Path) -> bool:
    """Send rows that do not count until one is written: the flow is connected."""
    send(row_of(-1))
    time.sleep(0.05)
    return file.exists() and file.stat().st_size > 0


class Numbers:
    """Sends numbered rows, `PER_S` a second, until the block ends."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self.sent = 0
        self._send = send
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        began_s = time.monotonic()
        while not self._over.is_set():
            while self.sent < (time.monotonic() - began_s) * PER_S:
                self._send(row_of(self.sent))
                self.sent += 1
            time.sleep(0.001)

    def __enter__(self) -> Numbers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Silence:
    """The longest time in which a file did not grow, while the block runs."""

    def __init__(self, file: Path) -> None:
        self.longest_s = 0.0
        self._file = file
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        size, since_s = self._file.stat().st_size, time.monotonic()
        while not self._over.wait(0.002):
            now, now_s = self._file.stat().st_size, time.monotonic()
            self.longest_s = max(self.longest_s, now_s - since_s)
            if now != size:
                size, since_s = now, now_s

    def __enter__(self) -> Silence:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def written(file: Path) -> list[int]:
    """The numbers that a flow has written."""
    return [number for line in whole_lines(file) if (number := int(json.loads(line)["active_power_w"])) >= 0]


def move(report: Report, name: str, source: str, send: Callable[[bytes], object], connections: str) -> None:
    """Move a flow over to a new version under load."""
    took_s, silent_s, lost, twice = [], [], [], []
    with site(connections) as yard:
        yard.write("moved", NUMBERED.format(name="moved", limits=LIMITS, source=source, more=""))
        yard.start([*idle_flows(yard, FLOWS - 1), "moved"])
        file = yard.folder / "moved.jsonl"
        until(lambda: first_came(send, file))
        with Numbers(send) as numbers:
            time.sleep(3.0)
            for number in track(range(1, MOVES + 1), description=f"moves, {name}", transient=True):
                with Silence(file) as silence:
                    more = f", without_quality: [{'test' if number % 2 else 'stale'}]"
                    yard.write("moved", NUMBERED.format(name="moved", limits=LIMITS, source=source, more=more))
                    began_s = time.monotonic()
                    yard.wait_for("flow 'moved' runs its new version", number)
                    took_s.append(time.monotonic() - began_s)
                silent_s.append(silence.longest_s)
        time.sleep(3.0)
        came = np.bincount(written(file), minlength=numbers.sent)
        lost.append(float(np.count_nonzero(came == 0)))
        twice.append(float(np.sum(came[came > 1] - 1)))
    section = f"one of {FLOWS} flows moves over at {PER_S} messages/s, {name} ({MOVES} times)"
    report.add(section, f"messages lost, of {numbers.sent}", "", lost, asked="none", good=lambda value: value == 0)
    report.add(section, "messages that came twice", "", twice)
    report.add(section, "from the saved file to the new version proven", "s", took_s)
    report.add(section, "longest time without output", "ms", [1e3 * each for each in silent_s])


def kill(report: Report) -> None:
    """Kill flows that get rows, each once."""
    again_s, lost = [], []
    for _ in track(range(KILLS), description="kills", transient=True):
        port = free_udp_port()
        with site() as yard, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            source = BY_UDP.replace("PORT", str(port))
            yard.write("killed", NUMBERED.format(name="killed", limits=LIMITS, source=source, more=""))
            yard.start([*idle_flows(yard, FLOWS - 1), "killed"])
            file = yard.folder / "killed.jsonl"
            until(lambda: first_came(lambda row: sender.sendto(row, ("127.0.0.1", port)), file))  # noqa: B023
            with Numbers(lambda row, to=port, by=sender: by.sendto(row, ("127.0.0.1", to))) as numbers:  # type: ignore[misc]
                time.sleep(3.0)
                yard.members()["killed"].kill()
                began_s, size = time.monotonic(), file.stat().st_size
                until(lambda: file.stat().st_size > size)  # noqa: B023
                again_s.append(time.monotonic() - began_s)
                time.sleep(1.0)
            time.sleep(2.0)
            lost.append(float(numbers.sent - len(set(written(file)))))
    section = f"kill -9 of one of {FLOWS} flows that gets {PER_S} messages/s by UDP ({KILLS} times)"
    report.add(section, "to the first output", "ms", [1e3 * each for each in again_s])
    report.add(section, "messages lost with the process", "", lost)


def whole_lines(file: Path) -> list[str]:
    """Lines of a file; a kill may have cut one in two, which the next then follows."""
    lines = []
    for line in file.read_text().splitlines():
        with contextlib.suppress(ValueError):
            json.loads(line)
            lines.append(line)
    return lines


def soak(report: Report, minutes: float) -> None:
    """A flow at half the load that it could bear, for long."""
    udp, told = free_udp_port(), free_tcp_port()
    with running_broker() as broker:
        more = f"connections: {{databus: {{kind: mqtt, url: 'mqtt://127.0.0.1:{broker.port}', version: 5}}}}\n"
        with site(more + f"monitor: {{port: {told}}}") as yard, sender(udp) as send:
            yard.write("soak", SOAK.format(port=udp))
            yard.start(["soak"])
            flow = yard.members()["soak"]
            send(configure=True)
            send(count=WARM_UP_FRAMES, rate=CALIBRATION_PER_S)
            rate = half_load(flow, send)
            time.sleep(SETTLE_S)
            began = metrics(told)
            memory, cpu, sent = watch(flow, send, rate, minutes)
            time.sleep(SETTLE_S)
            ended = metrics(told)
    section = f"soak of {minutes:g} minutes at half load, {rate:,.0f} frames/s (PMU, ROCOF, events, MQTT)"
    grown = float(np.median(memory[-FEW:]) - np.median(memory[:FEW]))
    report.add(section, "memory that it grew by", "MB", [grown], asked="flat", good=lambda mb: mb < FLAT_MB)
    report.add(section, "memory", "MB", memory)
    report.add(section, "processor", "% of a core", cpu)
    came = ended[ROWS] - began[ROWS]
    report.add(section, f"frames lost, of {sent:,}", "", [sent - came], asked="none", good=lambda lost: lost == 0)
    report.add(
        section, "drops of any kind", "", [ended[DROPS] - began[DROPS]], asked="none", good=lambda drops: drops == 0
    )
    report.figure = draw_memory(memory)


def half_load(flow: psutil.Process, send: Sender) -> float:
    """Frames a second at which the flow uses half of a core."""
    before, began_s = flow.cpu_times(), time.monotonic()
    send(count=CALIBRATION_FRAMES, rate=CALIBRATION_PER_S)
    share = used_s(before, flow.cpu_times()) / (time.monotonic() - began_s)
    return min(CALIBRATION_PER_S * 0.5 / share, MOST_PER_S)


def watch(flow: psutil.Process, send: Sender, rate: float, minutes: float) -> tuple[list[float], list[float], int]:
    """Memory in MB and processor in % of a core, each `LOOK_S`; frames sent."""
    memory, cpu, sent = [], [], 0
    for _ in track(range(round(minutes * 60 / LOOK_S)), description="soak", transient=True):
        before, began_s = flow.cpu_times(), time.monotonic()
        sent += int(send(count=round(rate * LOOK_S), rate=rate)["sent"])
        cpu.append(100 * used_s(before, flow.cpu_times()) / (time.monotonic() - began_s))
        memory.append(shared_mb(flow))
    return memory, cpu, sent


def metrics(port: int) -> dict[str, float]:
    """Sums of what the site tells, by name: rows that came from PMUs, and drops."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    sums = {ROWS: 0.0, DROPS: 0.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == ROWS and (sample.labels["node"], sample.labels["direction"]) == ("pmu", "out"):
                sums[ROWS] += sample.value
            elif sample.name == DROPS:
                sums[DROPS] += sample.value
    return sums


def draw_memory(memory: Sequence[float]) -> Figure:
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.arange(len(memory)) * LOOK_S / 60, memory)
    axes.set_xlabel("minutes at half load")
    axes.set_ylabel("memory of the flow in MB")
    axes.set_ylim(0, 1.25 * max(memory))
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.site", description=__doc__)
    parser.add_argument(
        "--only", choices=["idle", "move", "kill", "page", "soak"], help="measure this part alone, and keep no table"
    )
    parser.add_argument("--soak", default="30min", metavar="TIME", help="how long the soak takes (default %(default)s)")
    options = parser.parse_args()
    report = Report("site", "make bench-site")
    minutes = parse_quantity(options.soak, "s") / 60
    parts: dict[str, Callable[[Report], None]] = {
        "idle": idle,
        "move": moves,
        "kill": kill,
        "page": viewers,
        "soak": lambda report: soak(report, minutes),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            part(report)
    report.show(Console())
    if options.only is None:
        report.save()


def moves(report: Report) -> None:
    port = free_udp_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        by_udp = BY_UDP.replace("PORT", str(port))
        move(report, "UDP", by_udp, lambda row: sender.sendto(row, ("127.0.0.1", port)), "")
    with running_broker() as broker:
        client = Client(CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        bus = f"connections: {{databus: {{kind: mqtt, url: 'mqtt://127.0.0.1:{broker.port}', version: 5}}}}"
        move(report, "MQTT QoS 1", BY_MQTT, lambda row: client.publish("bench", row, qos=1), bus)
        client.disconnect()
        client.loop_stop()


if __name__ == "__main__":
    main()
