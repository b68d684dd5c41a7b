"""A flow over two processes beside the same flow in one: rows a second, and how long a batch takes through it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from rich.console import Console

from benchmarks.children import STOP_TIMEOUT_S
from benchmarks.report import Report
from edgeflex_connectors.records import write_npz
from edgeflex_flow.messages import Samples
from edgeflex_services.broker import free_udp_port

PMUS = 200
RATE_HZ = 50
LIGHT, HEAVY, BUSY = "one window and events", "eight windows and events", "an operator of 20 µs a row"
WINDOWS = {LIGHT: ("500ms",), HEAVY: ("200ms", "300ms", "400ms", "500ms", "700ms", "1s", "1500ms", "2s"), BUSY: ()}
SHARES = {LIGHT: 8.0, HEAVY: 1.0, BUSY: 0.3}
"""How long the recording is, to make runs of a like length."""
LAYOUTS = {"one worker": 1, "two workers of one process": 2, "two processes": 0}


class Outcome(NamedTuple):
    """What one run told."""

    rows_per_s: float
    took_s: list[float]


def write_flow(folder: Path, name: str, *, speed: float | str) -> Path:
    """A flow over the recording that keeps what the windows give."""
    nodes: dict[str, Any] = {
        "pmu": {"kind": "file_replay", "path": "pmu.npz", "columns": ["frequency_hz"], "speed": speed},
        "out": {"kind": "file_write", "from": [], "path": "out.npz", "queue": 100_000_000},
    }
    for number, window in enumerate(WINDOWS[name]):
        nodes[f"rocof{number}"] = {"kind": "rocof", "from": "pmu", "window": window}
        nodes[f"event{number}"] = {"kind": "frequency_event", "from": f"rocof{number}"}
        nodes["out"]["from"].append(f"rocof{number}")
    if name == BUSY:
        nodes["busy"] = {"kind": "busy", "from": "pmu"}
        nodes["out"]["from"].append("busy")
    file = folder / "flow.yaml"
    file.write_text(json.dumps({"flow": "cluster_bench", "nodes": nodes}))
    return file


def write_recording(folder: Path, seconds: float) -> None:
    turns = round(seconds * RATE_HZ)
    times_ns = np.repeat(np.arange(turns, dtype=np.int64) * (1_000_000_000 // RATE_HZ), PMUS)
    device = np.tile(np.arange(PMUS, dtype=np.int32), turns)
    frequency = 50 + 0.002 * np.random.default_rng(1).standard_normal(len(times_ns))
    samples = Samples(
        time_ns=times_ns,
        device=device,
        devices=tuple(f"PMU_{k}" for k in range(PMUS)),
        columns={"frequency_hz": frequency},
        quality=np.zeros(len(times_ns), dtype=np.uint16),
        received_ns=0,
    )
    with (folder / "pmu.npz").open("wb") as file:
        write_npz(file, samples)


def run_flow(folder: Path, flow: Path, layout: str) -> Outcome:
    """Run the flow over the recording to its end."""
    for part in folder.glob("out-*.npz"):
        part.unlink()
    command = [sys.executable, "-m", "benchmarks.cluster_process", str(flow), str(LAYOUTS[layout] or 1)]
    if LAYOUTS[layout]:
        return _outcome([_start(command)])
    cluster = folder / "cluster.yaml"
    addresses = [f"127.0.0.1:{free_udp_port()}" for _ in range(2)]
    cluster.write_text(json.dumps({"processes": addresses, "control_port": free_udp_port()}))
    return _outcome([_start([*command, str(cluster), str(process)]) for process in range(2)])


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _outcome(processes: Sequence[subprocess.Popen[str]]) -> Outcome:
    outputs = [process.communicate(timeout=STOP_TIMEOUT_S * 10)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"exit codes {[process.returncode for process in processes]}")
    told = json.loads(outputs[0])
    return Outcome(told["rows"] / told["seconds"], told["took_s"])


def measure(report: Report, folder: Path, *, rounds: int, seconds: float) -> None:
    """Each round measures all layouts one after the other: a shared machine drifts, ratios do not."""
    for name, windows in WINDOWS.items():
        section = f"Rate, {PMUS} PMUs, {name} (input rows/s)"
        write_recording(folder, seconds * SHARES[name])
        flow = write_flow(folder, name, speed="max")
        rates: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
        for _ in range(rounds):
            for layout, values in rates.items():
                values.append(run_flow(folder, flow, layout).rows_per_s / max(len(windows), 1))
        for layout, values in rates.items():
            report.add(section, layout, "rows/s", values)
        ratio = [two / one for two, one in zip(rates["two processes"], rates["one worker"], strict=True)]
        report.add(section, "two processes over one worker, by round", "ratio", ratio)
    section = f"Latency, {PMUS} PMUs at {RATE_HZ} rows/s each, {LIGHT}: from poll to sink"
    write_recording(folder, 10)
    flow = write_flow(folder, LIGHT, speed=1)
    for layout in LAYOUTS:
        took_ms = 1e3 * np.array(run_flow(folder, flow, layout).took_s)
        for share in (50, 99):
            report.add(section, f"{layout}, p{share}", "ms", [float(np.percentile(took_ms, share))])


@click.command()
@click.option("--quick", is_flag=True, help="Short and few rounds, to see that it runs; nothing is written then.")
def main(*, quick: bool) -> None:
    """Measure a cluster of two processes beside one process."""
    console = Console()
    report = Report("cluster", command="make bench-cluster")
    report.notes.append(f"{os.cpu_count()} cores, shared by all processes; loopback; nothing is pinned.")
    report.notes.append("Each batch to process 1 and what comes of it is pickled, sent over TCP and read again.")
    with tempfile.TemporaryDirectory() as folder, console.status("measuring"):
        measure(report, Path(folder), rounds=1 if quick else 5, seconds=20 if quick else 60)
    report.show(console)
    if not quick:
        report.save()


if __name__ == "__main__":
    main()
