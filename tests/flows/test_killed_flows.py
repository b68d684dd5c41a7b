"""A flow that is killed again and again loses no message that it had acknowledged, stores none twice, and goes on with
what its operators held."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from broker import Mosquitto, wait_until
from numbered import FLOW, SITE, publisher, series, stored, time_ns_of

from edgeflex_flow.messages import Samples, samples_from_rows
from edgeflex_operators import rocof

KILLS = 50


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


def wait_until_connected(folder: Path, runs: int) -> None:
    """Each run has two connections."""
    wait_until(lambda: (folder / "flow.log").read_text(errors="replace").count(": connected") >= 2 * runs, 60.0)


class Kept(NamedTuple):
    """What there is after all kills."""

    sent: set[int]
    """Numbers that the broker had taken."""
    rows: list[int]
    alarms: list[int]
    slopes: list[tuple[int, float]]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("killed")
    chance = random.Random(3)
    (folder / "keep.yaml").write_text(FLOW)
    (folder / "sites").mkdir()
    with Mosquitto(folder, more=["max_inflight_messages 500"]) as broker:
        (folder / "sites" / "yard.yaml").write_text(SITE.format(url=broker.url))
        with Runs(folder) as runs:
            wait_until_connected(folder, 1)  # so that the broker knows the session before anything is published
            with publisher(broker.port) as sent:
                for kill in range(1, KILLS + 1):
                    time.sleep(chance.uniform(0.0, 0.5))
                    runs.end(signal.SIGKILL)
                    runs.start()
                    wait_until_connected(folder, kill + 1)
            wait_until(lambda: sum(map(len, stored(folder))) >= len(sent.taken), 60.0)
            assert runs.end(signal.SIGTERM) == 0
    with closing(sqlite3.connect(folder / "sites" / "history.db")) as store:
        slopes = series(store, "rocof_hz_per_s")
    return Kept(sent.taken, *stored(folder), slopes)


@pytest.mark.long
def test_a_flow_that_is_killed_fifty_times_loses_nothing_and_stores_nothing_twice(kept: Kept) -> None:
    assert kept.rows == sorted(number for number in kept.sent if number % 10)
    assert kept.alarms == sorted(number for number in kept.sent if number % 10 == 0)
    assert len(kept.sent) > 1000


@pytest.mark.long
def test_windows_of_a_flow_that_is_killed_fifty_times_are_those_of_one_that_never_was(kept: Kept) -> None:
    config = rocof.RocofConfig()
    rows = [(time_ns_of(each), "G1", {"frequency_hz": float(each)}) for each in kept.rows]
    [unbroken] = rocof.step(config, rocof.start(config), samples_from_rows(rows))
    assert isinstance(unbroken, Samples)
    assert [time_ns for time_ns, _ in kept.slopes] == unbroken.time_ns.tolist()
    assert [value for _, value in kept.slopes] == pytest.approx(unbroken.columns["rocof_hz_per_s"], rel=1e-9)
