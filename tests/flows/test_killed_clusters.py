"""A cluster of which processes are killed ends at once, starts again, and loses and doubles nothing."""

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
from clusters import free_ports
from numbered import FLOW, SITE, device_of, publisher, series, stored, time_ns_of

from edgeflex_flow.messages import Samples, samples_from_rows
from edgeflex_operators import rocof

KILLED = (1, 0)
"""Which process each time."""
DEVICES = 6
MOST_S = 5.0
"""How long the others may go on."""


class Cluster:
    """Three processes of one flow, started again as a supervisor does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.starts = 0
        *ports, control = free_ports(4)
        addresses = ", ".join(f"'127.0.0.1:{port}'" for port in ports)
        (folder / "cluster.yaml").write_text(
            f"processes: [{addresses}]\ncontrol_port: {control}\nsecret: '${{file:secret}}'\n"
        )
        (folder / "secret").write_text("of the cluster")

    def start(self) -> None:
        self.starts += 1
        command = [sys.executable, "-m", "edgeflex_flow", "run", "keep.yaml", "--site", "yard"]
        self.processes = []
        for number in (2, 1, 0):  # whoever comes first waits
            with (self._folder / f"{number}.log").open("ab") as log:
                process = subprocess.Popen(
                    [*command, "--cluster", "cluster.yaml", "--process", str(number)],
                    cwd=self._folder,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            self.processes.insert(0, process)

    def wait_until_it_runs(self) -> None:
        wait_until(lambda: self.log(0).count(": connected") >= 2 * self.starts, 60.0)
        wait_until(lambda: all("as process" in self.log(number) for number in (1, 2)), 60.0)

    def log(self, number: int) -> str:
        file = self._folder / f"{number}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def end(self, number: int, how: signal.Signals) -> list[int]:
        """Signal one process; with which codes all end."""
        self.processes[number].send_signal(how)
        return [process.wait(MOST_S if how == signal.SIGKILL else 30.0) for process in self.processes]


class Kept(NamedTuple):
    """What there is in the end."""

    sent: set[int]
    rows: list[int]
    alarms: list[int]
    slopes: list[tuple[int, float]]
    codes: list[list[int]]
    """Exit codes of all processes after each kill, and at last after SIGTERM to one."""
    logs: list[str]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("killed")
    chance = random.Random(5)
    (folder / "keep.yaml").write_text(FLOW)
    (folder / "sites").mkdir()
    cluster = Cluster(folder)
    codes = []
    with Mosquitto(folder, more=["max_inflight_messages 500"]) as broker:
        (folder / "sites" / "yard.yaml").write_text(SITE.format(url=broker.url))
        try:
            cluster.start()
            cluster.wait_until_it_runs()
            with publisher(broker.port, DEVICES) as sent:
                for number in KILLED:
                    time.sleep(chance.uniform(0.3, 0.8))
                    codes.append(cluster.end(number, signal.SIGKILL))
                    cluster.start()
                    cluster.wait_until_it_runs()
            wait_until(lambda: sum(map(len, stored(folder))) >= len(sent.taken), 60.0)
            codes.append(cluster.end(2, signal.SIGTERM))
        finally:
            for process in cluster.processes:
                process.kill()
                process.wait()
    with closing(sqlite3.connect(folder / "sites" / "history.db")) as store:
        slopes = series(store, "rocof_hz_per_s")
    return Kept(sent.taken, *stored(folder), slopes, codes, [cluster.log(number) for number in range(3)])


@pytest.mark.long
def test_nothing_is_lost_or_stored_twice(kept: Kept) -> None:
    assert kept.rows == sorted(number for number in kept.sent if number % 10)
    assert kept.alarms == sorted(number for number in kept.sent if number % 10 == 0)
    assert len(kept.sent) > 300


@pytest.mark.long
def test_windows_are_those_of_a_flow_that_never_was_killed(kept: Kept) -> None:
    config = rocof.RocofConfig()
    wanted: list[tuple[int, float]] = []
    for device in {device_of(number, DEVICES) for number in kept.rows}:
        rows = [(time_ns_of(each), device, {"frequency_hz": float(each)}) for each in kept.rows]
        of_device = [row for row in rows if device_of(int(row[2]["frequency_hz"]), DEVICES) == device]
        for given in rocof.step(config, rocof.start(config), samples_from_rows(of_device)):
            assert isinstance(given, Samples)
            wanted += zip(given.time_ns.tolist(), given.columns["rocof_hz_per_s"].tolist(), strict=True)
    wanted.sort()
    assert [time_ns for time_ns, _ in kept.slopes] == [time_ns for time_ns, _ in wanted]
    assert [value for _, value in kept.slopes] == pytest.approx([value for _, value in wanted], rel=1e-9)


@pytest.mark.long
def test_all_end_at_once_with_an_error_when_one_is_killed_and_in_order_when_one_is_asked_to(kept: Kept) -> None:
    for number, codes in zip(KILLED, kept.codes, strict=False):
        assert codes == [-signal.SIGKILL if each == number else 3 for each in range(3)]
    assert kept.codes[-1] == [0, 0, 0]
    assert "process 1 (127.0.0.1:" in kept.logs[0]
    assert "of the cluster is gone" in kept.logs[0]
    assert "the cluster ends: process 1 (127.0.0.1:" in kept.logs[2]
    assert "process 0 (127.0.0.1:" in kept.logs[1]
    assert "process 2 is asked to end: the cluster drains" in kept.logs[0]
