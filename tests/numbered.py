"""Numbered rows and alarms: published with QoS 1, and looked for in a store."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from broker import wait_until
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from edgeflex_services.broker import hang_up

FLOW = """\
flow: keep
nodes:
  rows:
    kind: mqtt_subscribe
    bus: databus
    topics: ["pmu/+"]
    qos: 1
    keep_session: 1 h
    columns: [frequency_hz]
  alarms:
    kind: mqtt_subscribe
    bus: databus
    topics: ["alarm/+"]
    qos: 1
    keep_session: 1 h
    messages: [alarm]
  rocof: {kind: rocof, from: rows}
  slope: {kind: select, from: rocof, columns: [rocof_hz_per_s]}
  store: {kind: store_write, from: [rows, alarms, slope, dead_letters], store: history, commit_every: 50ms}
"""
SITE = """\
site: yard
flows: [keep]
state: {{folder: state, every: 100ms}}
connections:
  databus: {{kind: mqtt, url: "{url}", version: 5, reconnect_min: 100ms}}
  history: {{kind: sqlite, path: history.db, synchronous: full}}
"""
PERIOD_S = 0.004


def time_ns_of(number: int) -> int:
    """Time tag of a row: 50 a second, and not quite even."""
    return 1_700_000_000_000_000_000 + number * 20_000_000 + number % 3 * 1_000_000


def device_of(number: int, devices: int) -> str:
    """Whose a row is: they take turns."""
    return f"G{1 + number // 2 % devices}"


class Publisher:
    """Publishes numbered rows and alarms with QoS 1; knows which the broker has taken."""

    def __init__(self, port: int, devices: int) -> None:
        self._devices = devices
        self._numbers: dict[int, int] = {}
        """By message id, fewer than there are ids."""
        self._acknowledged: set[int] = set()
        self._stop = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, "publisher", protocol=MQTTv5)
        self._client.on_publish = self._published
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _published(self, _client: object, _userdata: object, mid: int, *_: object) -> None:
        self._acknowledged.add(mid)  # without a lock: paho holds its own, and `publish` may not be over

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(PERIOD_S):
            number += 1
            time_ns = time_ns_of(number)
            device = device_of(number, self._devices)
            topic = f"pmu/{device}" if number % 10 else f"alarm/{device}"
            if number % 10:
                payload = json.dumps([{"device": device, "time_ns": time_ns, "frequency_hz": float(number)}])
            else:
                alarm = {"type": "alarm", "source": "x", "severity": "info", "text": str(number), "time_ns": time_ns}
                payload = json.dumps(alarm)
            self._numbers[self._client.publish(topic, payload, qos=1).mid] = number

    @property
    def taken(self) -> set[int]:
        """The numbers that the broker has taken."""
        return {self._numbers[mid] for mid in self._acknowledged}

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        wait_until(lambda: self._acknowledged == self._numbers.keys())
        hang_up(self._client)


@contextmanager
def publisher(port: int, devices: int = 1) -> Iterator[Publisher]:
    made = Publisher(port, devices)
    try:
        yield made
    finally:
        made.stop()


def series(store: sqlite3.Connection, quantity: str) -> list[tuple[int, float]]:
    """Times and values of a quantity."""
    return store.execute(
        "SELECT time_ns, value FROM samples JOIN quantities ON id = quantity_id WHERE name = ? ORDER BY time_ns",
        [quantity],
    ).fetchall()


def stored(folder: Path) -> tuple[list[int], list[int]]:
    """Numbers of the rows and of the alarms in the store, as often as they are there."""
    with closing(sqlite3.connect(folder / "sites" / "history.db")) as store:
        rows = [int(value) for _, value in series(store, "frequency_hz")]
        alarms = [
            json.loads(body)["text"] for (body,) in store.execute("SELECT body FROM messages WHERE type = 'alarm'")
        ]
    return sorted(rows), sorted(map(int, alarms))
