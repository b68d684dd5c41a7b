"""Clients for the MQTT benchmark, each in a process of its own: those of edgeflex-flow and bare paho ones.

`python -m benchmarks.mqtt_clients WAY CLIENT PORT QOS COUNT` publishes (`out`) or receives (`in`) COUNT payloads with
the client `edgeflex` or `paho`, and prints `{"seconds": …, "cpu_seconds": …}`; a receiver first prints a line when it
has subscribed. Both clients do the same work: a row or message is encoded to JSON and published, or received, decoded
and kept as a row.
"""

from __future__ import annotations

import json
import logging
import select
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from edgeflex_connectors import mqtt, mqtt_publish
from edgeflex_connectors.mqtt_publish import MOST_IN_FLIGHT, MqttPublish, MqttPublishConfig
from edgeflex_connectors.mqtt_subscribe import MqttSubscribe, MqttSubscribeConfig
from edgeflex_flow.clock import SystemClock
from edgeflex_flow.messages import Alarm, Samples
from edgeflex_flow.node import Context, Counters, OpenConnection
from edgeflex_flow.runtime.lifecycle import GIL_SWITCH_INTERVAL_S

TOPIC = "bench/alarm"
WARM_UP = 500


class Stopwatch:
    """Time that passed, and time of the processor that this process used, since it was made."""

    def __init__(self) -> None:
        self._started = (time.perf_counter(), time.process_time())

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._started[0], time.process_time() - self._started[1]


def main() -> None:
    way, client, port, qos, count = sys.argv[1:]
    run = {("out", "edgeflex"): publish, ("out", "paho"): publish_bare, ("in", "edgeflex"): receive}
    seconds, cpu_seconds = run.get((way, client), receive_bare)(int(port), int(qos), int(count))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}), flush=True)


def context_of(node: str, port: int, **connection: Any) -> Context:
    config = mqtt.MqttConfig(url=f"mqtt://127.0.0.1:{port}", client_id=f"bench-{node}", **connection)
    return Context(
        flow="bench",
        site="bench",
        node=node,
        clock=SystemClock(),
        counters=Counters(),
        log=logging.getLogger("bench"),
        dead_letter=lambda *_: None,
        fail=lambda error: print(error, file=sys.stderr),
        folder=Path("/tmp"),
        connections={"bus": OpenConnection("databus", mqtt.NODE, config)},
    )


def alarm(number: int) -> Alarm:
    return Alarm(source="bench", severity="info", text="frequency below 49.8 Hz", time_ns=number, device="G1")


# Out ------------------------------------------------------------------------------------------------------------------


def publish(port: int, qos: int, count: int) -> tuple[float, float]:
    sys.setswitchinterval(GIL_SWITCH_INTERVAL_S)  # as the runtime does
    context = context_of("out", port)
    config = MqttPublishConfig(bus="databus", topic=TOPIC, qos=qos, queue=1_000_000)  # type: ignore[arg-type]
    sink = mqtt_publish.NODE.open(config, context)
    assert isinstance(sink, MqttPublish)
    sink.open()
    sink.write([alarm(number) for number in range(WARM_UP)])
    assert sink.flush(30.0)
    watch = Stopwatch()
    for number in range(count):
        sink.write([alarm(number)])
    assert sink.flush(300.0)
    measured = watch.read()
    sink.close()
    return measured


def publish_bare(port: int, qos: int, count: int) -> tuple[float, float]:
    """As a careful user would: as many under way as the other client allows itself, and every answer counted."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(0)  # paho's own limit walks through all that waits, at each answer
    encode = msgspec.json.Encoder().encode
    free = threading.Semaphore(MOST_IN_FLIGHT[1])
    if qos:
        client.on_publish = lambda *_: free.release()
    client.connect("127.0.0.1", port)
    client.loop_start()

    def send(begin: int, end: int) -> None:
        for number in range(begin, end - 1):
            if qos:
                free.acquire()
            client.publish(TOPIC, encode(alarm(number)), qos)
        if qos:
            free.acquire()
        client.publish(TOPIC, encode(alarm(end - 1)), qos).wait_for_publish(60.0)
        for _ in range(MOST_IN_FLIGHT[1] if qos else 0):
            free.acquire()
        if qos:
            free.release(MOST_IN_FLIGHT[1])

    send(0, WARM_UP)
    watch = Stopwatch()
    send(0, count)
    measured = watch.read()
    client.disconnect()
    client.loop_stop()
    return measured


# In -------------------------------------------------------------------------------------------------------------------


def say_subscribed(*_: Any) -> None:
    print("subscribed", flush=True)


def receive(port: int, qos: int, count: int) -> tuple[float, float]:
    sys.setswitchinterval(GIL_SWITCH_INTERVAL_S)
    context = context_of("in", port)
    bus = context.connections["bus"]
    session = bus.node.open(bus.config, context)
    answered = session.client.on_subscribe

    def subscribed(*arguments: Any) -> None:
        answered(*arguments)
        say_subscribed()

    session.client.on_subscribe = subscribed
    config = MqttSubscribeConfig(
        bus="databus",
        topics=("bench/pmu/+",),
        columns=("frequency_hz", "rocof_hz_per_s"),
        qos=qos,  # type: ignore[arg-type]
        queue=1_000_000,
    )
    source = MqttSubscribe(config, context, session)
    source.open()
    rows = 0
    watch: Stopwatch | None = None
    while rows < count:
        descriptor = source.fileno()
        assert descriptor is not None
        select.select([descriptor], [], [], 10.0)
        for batch in source.poll():
            assert isinstance(batch, Samples)
            rows += batch.rows
            watch = watch or Stopwatch()
    assert watch is not None
    measured = watch.read()
    source.close()
    return measured


class BareRow(msgspec.Struct):
    """What a bare client decodes: the same keys."""

    created: int
    device: str
    time_ns: int
    quality: int
    frequency_hz: float
    rocof_hz_per_s: float


def receive_bare(port: int, qos: int, count: int) -> tuple[float, float]:
    client = Client(CallbackAPIVersion.VERSION2)
    decode = msgspec.json.Decoder(list[BareRow]).decode
    rows: list[tuple[int, str, int, float, float]] = []
    watches: list[Stopwatch] = []
    done = threading.Event()

    def keep(_client: Client, _userdata: Any, message: Any) -> None:
        if not watches:
            watches.append(Stopwatch())
        rows.extend(
            (row.time_ns, row.device, row.quality, row.frequency_hz, row.rocof_hz_per_s)
            for row in decode(message.payload)
        )
        if len(rows) >= count:
            done.set()

    def subscribe(*_: Any) -> None:
        client.subscribe("bench/pmu/+", qos)

    client.on_message = keep
    client.on_subscribe = say_subscribed
    client.on_connect = subscribe
    client.connect("127.0.0.1", port)
    client.loop_start()
    done.wait()
    table = np.array([row[3:] for row in rows])
    measured = watches[0].read()
    assert len(table) == count
    client.disconnect()
    client.loop_stop()
    return measured


if __name__ == "__main__":
    main()
