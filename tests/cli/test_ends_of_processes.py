"""How `edgeflex run` and `edgeflex demo` end on signals, and what becomes of their processes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgeflex_flow.cli.demo.folder import LOCK, demo_folder
from edgeflex_services.broker import free_udp_port

EDGEFLEX = [sys.executable, "-m", "edgeflex_flow"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `edgeflex` with flows `one` and `two` in its folder; what is left of it afterwards is killed."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(
            f"flow: {name}\nnodes:\n  pmu: {{kind: pmu_udp, host: 127.0.0.1, port: {free_udp_port()}}}\n"
            f"  out: {{kind: file_write, from: pmu, path: {name}.jsonl}}\n"
        )
    started: list[subprocess.Popen[str]] = []
    # A program keeps ignoring what its parent ignores, as under nohup; the tests must not depend on who runs them.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def begin(*arguments: str, stderr: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*EDGEFLEX, *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    signal.signal(signal.SIGHUP, before)
    for process in started:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], text: str, times: int = 1) -> None:
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        times -= text in line
        if not times:
            return
    raise AssertionError("".join(seen))


def processes_of(parent: int, count: int) -> list[psutil.Process]:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        children = psutil.Process(parent).children(recursive=True)
        if len(children) == count and not any("edgeflex_flow.tied" in child.cmdline() for child in children):
            return children
        time.sleep(0.02)
    raise AssertionError(f"not {count} processes")


def process_of(parent: int, file: str) -> psutil.Process:
    [found] = [child for child in processes_of(parent, 2) if child.cmdline()[-1] == file]
    return found


def test_a_flow_that_is_killed_is_told_at_once_and_the_other_goes_on(start: Start) -> None:
    process = start("run", "one.yaml", "two.yaml", "--json")
    read_until(process, "runs", 2)
    process_of(process.pid, "two.yaml").kill()
    read_until(process, "the process of the flow 'two' (two.yaml) was killed by SIGKILL; the others go on")
    assert process_of_one_is_alive(process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL
    summaries = {summary["flow"]: summary for summary in map(json.loads, output.splitlines())}
    assert (summaries["one"]["exit_code"], summaries["one"]["error"]) == (0, None)
    assert summaries["two"]["exit_code"] == 128 + signal.SIGKILL
    assert "killed by SIGKILL" in summaries["two"]["error"]


def process_of_one_is_alive(process: subprocess.Popen[str]) -> bool:
    return any(child.cmdline()[-1:] == ["one.yaml"] for child in psutil.Process(process.pid).children())


def test_a_flow_that_cannot_go_on_is_told_with_its_code(start: Start, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(
        "flow: two\nnodes:\n  in: {kind: file_replay, path: none.jsonl, columns: [frequency_hz]}\n"
        "  out: {kind: file_write, from: in, path: two.jsonl}\n"
    )
    process = start("--log-format", "json", "run", "one.yaml", "two.yaml")
    read_until(process, "ended with exit code 3; the others go on")
    assert process_of_one_is_alive(process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 3


def test_flows_drain_when_the_process_that_started_them_is_killed(start: Start) -> None:
    process = start("run", "one.yaml", "two.yaml")
    read_until(process, "runs", 2)
    children = processes_of(process.pid, 2)
    process.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert process.stderr is not None
    assert process.stderr.read().count("SIGTERM: draining") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("files", [["one.yaml"], ["one.yaml", "two.yaml"]])
@pytest.mark.parametrize("delay_s", [0.1, 0.3, 0.6, 1.0])
def test_a_signal_while_it_starts_ends_it_with_code_0(
    start: Start, number: signal.Signals, files: list[str], delay_s: float
) -> None:
    process = start("run", *files)
    deadline_s = time.monotonic() + 10
    while not heeds(process.pid, number) and time.monotonic() < deadline_s:
        time.sleep(0.001)
    time.sleep(delay_s - 0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Aborted" not in errors


def heeds(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for each of the signals that end a run."""
    status = Path(f"/proc/{pid}/status").read_text()
    [caught] = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt")]
    return all(caught >> (each - 1) & 1 for each in (number, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def test_a_signal_ends_a_check_as_it_ends_other_programs(start: Start) -> None:
    process = start("check", "one.yaml")
    while not heeds(process.pid, signal.SIGTERM):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("pause_s", [0.0, 0.01, 0.05, 0.1, 0.2])
def test_further_signals_change_nothing(start: Start, pause_s: float) -> None:
    process = start("run", "one.yaml")
    read_until(process, "runs")
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        time.sleep(pause_s)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert errors.count("SIGINT: draining, at most 20 s") == 1


def test_a_signal_during_the_drain_is_ignored_and_says_so(start: Start, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("site: s\nconnections:\n  databus: {kind: mqtt, url: 'mqtt://127.0.0.1:1'}\n")
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"type": "samples", "time_ns": 1, "device": "G1", "quality": 0, "frequency_hz": 50.0}) + "\n"
    )
    (tmp_path / "held.yaml").write_text(
        "flow: held\nnodes:\n  in: {kind: file_replay, path: in.jsonl, columns: [frequency_hz]}\n"
        f"  pmu: {{kind: pmu_udp, host: 127.0.0.1, port: {free_udp_port()}}}\n"
        "  out: {kind: mqtt_publish, from: in, bus: databus, topic: t}\n"
        "  file: {kind: file_write, from: pmu, path: out.jsonl}\n"
    )
    process = start("run", "held.yaml", "--site", "site.yaml")
    read_until(process, "runs")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    read_until(process, "SIGINT: draining, at most 20 s")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    read_until(process, "SIGINT: ignored, draining already, at most 20 s in all")
    process.communicate(timeout=30)
    assert process.returncode == 4


def test_nohup_keeps_a_flow_running_when_its_terminal_closes(start: Start) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start("run", "one.yaml")
    finally:
        signal.signal(signal.SIGHUP, former)
    read_until(process, "runs")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)


def test_a_flow_whose_terminal_closes_drains(start: Start) -> None:
    terminal, side = pty.openpty()
    process = start("run", "one.yaml", stderr=side)
    os.close(side)
    said = b""
    while b"runs" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 0


def demo_at_work(start: Start, temporary: Path, **environment: str) -> tuple[subprocess.Popen[str], Any]:
    temporary.mkdir()
    process = start("demo", "--json", TMPDIR=str(temporary), **environment)
    return process, processes_of(process.pid, 3)  # broker, page, simulator


@pytest.mark.long
def test_a_demo_whose_terminal_closes_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    process, children = demo_at_work(start, tmp_path / "tmp")
    time.sleep(1.0)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert [child for child in children if child.is_running()] == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("broker", ["", "amqtt"])
def test_nothing_that_a_killed_demo_started_lives_on(start: Start, tmp_path: Path, broker: str) -> None:
    process, children = demo_at_work(start, tmp_path / "tmp", EDGEFLEX_DEMO_BROKER=broker)
    process.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


@pytest.mark.long
def test_a_demo_that_is_stopped_while_it_starts_ends_well(start: Start, tmp_path: Path) -> None:
    process = start("demo", "--json")
    while not heeds(process.pid, signal.SIGTERM):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, output + errors


def test_the_folder_of_a_killed_demo_goes_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    abandoned = tmp_path / "edgeflex-demo-abandoned"
    abandoned.mkdir()
    (abandoned / LOCK).touch()
    other = tmp_path / "edgeflex-demo-of-something-else"
    other.mkdir()
    with demo_folder() as living, demo_folder() as second:
        assert set(tmp_path.iterdir()) == {living, second, other}
    assert list(tmp_path.iterdir()) == [other]
