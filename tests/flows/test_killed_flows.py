"""A flow that is killed again and again loses no message that it had acknowledged, and stores none twice."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from broker import Mosquitto, wait_until
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
    messages: [alarm]
  store: {kind: store_write, from: [rows, dead_letters], store: history, commit_every: 50ms}
"""
SITE = """\
site: yard
flows: [keep]
connections:
  databus: {{kind: mqtt, url: "{url}", version: 5, reconnect_min: 100ms}}
  history: {{kind: sqlite, path: history.db, synchronous: full}}
"""
KILLS = 50
PERIOD_S = 0.004


class Publisher:
    """Publishes numbered rows and alarms with QoS 1; knows which the broker has taken."""

    def __init__(self, port: int) -> None:
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
            time_ns = 1_700_000_000_000_000_000 + number * 1_000_000
            if number % 10:
                payload = json.dumps([{"device": "G1", "time_ns": time_ns, "frequency_hz": float(number)}])
            else:
                alarm = {"type": "alarm", "source": "x", "severity": "info", "text": str(number), "time_ns": time_ns}
                payload = json.dumps(alarm)
            self._numbers[self._client.publish("pmu/G1", payload, qos=1).mid] = number

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
def publisher(port: int) -> Iterator[Publisher]:
    made = Publisher(port)
    try:
        yield made
    finally:
        made.stop()


class Runs:
    """One run of the flow after the other; none outlives the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "flow.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgeflex_flow", "run", "keep.yaml", "--site", "yard"],
                cwd=self._folder,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(30.0)

    def __enter__(self) -> Runs:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGKILL)


def wait_until_connected(folder: Path, times: int) -> None:
    wait_until(lambda: (folder / "flow.log").read_text(errors="replace").count(": connected") >= times, 60.0)


def stored(folder: Path) -> tuple[list[int], list[int]]:
    """Numbers of the rows and of the alarms in the store, as often as they are there."""
    with closing(sqlite3.connect(folder / "sites" / "history.db")) as store:
        rows = [int(value) for (value,) in store.execute("SELECT value FROM samples")]
        alarms = [json.loads(body)["text"] for (body,) in store.execute("SELECT body FROM messages")]
    return sorted(rows), sorted(map(int, alarms))


@pytest.mark.long
def test_a_flow_that_is_killed_fifty_times_loses_nothing_and_stores_nothing_twice(tmp_path: Path) -> None:
    chance = random.Random(3)
    (tmp_path / "keep.yaml").write_text(FLOW)
    (tmp_path / "sites").mkdir()
    with Mosquitto(tmp_path, more=["max_inflight_messages 500"]) as broker:
        (tmp_path / "sites" / "yard.yaml").write_text(SITE.format(url=broker.url))
        with Runs(tmp_path) as runs:
            wait_until_connected(tmp_path, 1)  # so that the broker knows the session before anything is published
            with publisher(broker.port) as sent:
                for kill in range(1, KILLS + 1):
                    time.sleep(chance.uniform(0.0, 0.5))
                    runs.end(signal.SIGKILL)
                    runs.start()
                    wait_until_connected(tmp_path, kill + 1)
            wait_until(lambda: sum(map(len, stored(tmp_path))) >= len(sent.taken), 60.0)
            assert runs.end(signal.SIGTERM) == 0
    rows, alarms = stored(tmp_path)
    assert rows == sorted(number for number in sent.taken if number % 10)
    assert alarms == sorted(number for number in sent.taken if number % 10 == 0)
    assert len(sent.taken) > 1000
