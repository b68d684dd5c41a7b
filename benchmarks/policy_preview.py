"""How fast a policy is tried on a record of ten PMUs at 50 frames/s: both runs, reading and comparing included.

`python -m benchmarks.policy_preview` shows it and writes benchmarks/results/policy-preview.*.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import click
import numpy as np
from rich.console import Console

from benchmarks.report import Report
from edgeflex_connectors.records import write_npz
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.messages import Samples

DEVICES: Final = ("north", "north_bess", "north_chp", *(f"pmu_{number}" for number in range(7)))
FRAMES_PER_S: Final = 50
START_NS: Final = 1_780_000_000_000_000_000
EVENT_EVERY_S: Final = 300.0
CASES: Final = {
    "frequency_events": {"rocof_trigger": {"onset": "30 mHz/s"}},
    "inertia_estimation": {"inertia_trigger": {"onset": "30 mHz/s"}},
    "frequency_control": {"frequency_reserve": {"fcr_power": "20 MW"}},
}
"""What is proposed for each flow."""


class Measure(NamedTuple):
    seconds: float
    memory_mb: float


def hour(seconds: float) -> Samples:
    """Rows of all devices: noise, and an event every five minutes."""
    frames = round(seconds * FRAMES_PER_S)
    time_s = np.arange(frames) / FRAMES_PER_S
    since_s = time_s % EVENT_EVERY_S
    drop_hz = 0.1 * (1.0 - np.exp(-since_s / 2.0)) * np.exp(-since_s / 60.0) * (time_s >= EVENT_EVERY_S)
    noise = np.random.default_rng(1)
    rows = frames * len(DEVICES)
    constant = {"voltage_v": 63e3, "voltage_angle_rad": 0.0, "current_a": 100.0, "current_angle_rad": 0.0}
    frequency_hz = np.repeat(50.0 - drop_hz, len(DEVICES)) + noise.normal(0.0, 2e-4, rows)
    return Samples(
        time_ns=np.repeat(START_NS + np.arange(frames, dtype=np.int64) * (10**9 // FRAMES_PER_S), len(DEVICES)),
        device=np.tile(np.arange(len(DEVICES), dtype=np.int32), frames),
        devices=DEVICES,
        columns={
            "frequency_hz": frequency_hz,
            "active_power_w": np.full(rows, 1e6),
            "state_of_charge_percent": np.full(rows, 50.0),
            **{name: np.full(rows, value) for name, value in constant.items()},
        },
        quality=np.zeros(rows, dtype=np.uint16),
        received_ns=0,
    )


def tried(folder: Path, flow: str) -> Measure:
    """The command as a process, on one core."""
    policy = folder / f"{flow}.json"
    policy.write_text(json.dumps(CASES[flow]))
    flows = shipped_flows()
    command = [sys.executable, "-m", "edgeflex_flow", "policy", "preview", policy, "--flow", flows / f"{flow}.yaml"]
    command += ["--site", flows / "sites" / "local.yaml", "--record", f"pmu={folder / 'hour.npz'}", "--json"]
    began_s = time.perf_counter()
    with subprocess.Popen([str(each) for each in command], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{flow}: the command ended with code {process.returncode}")
    return Measure(time.perf_counter() - began_s, usage.ru_maxrss / 1024.0)


@click.command()
@click.option("--quick", is_flag=True, help="A minute instead of an hour; nothing is written then.")
def main(quick: bool) -> None:
    """Measure previews of policies."""
    seconds = 60.0 if quick else 3600.0
    report = Report("policy-preview", command="python -m benchmarks.policy_preview")
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = hour(seconds)
        with (folder / "hour.npz").open("wb") as file:
            write_npz(file, made)
        for flow in CASES:
            with console.status(f"trying a policy of {flow}"):
                runs = [tried(folder, flow) for _ in range(1 if flow == "frequency_control" else 3)]
            asked = {"asked": "well below 60", "good": lambda s: s < 30.0} if flow == "frequency_events" else {}
            middle_s = report.add(flow, "both runs, read, compared", "s", [run.seconds for run in runs], **asked)  # type: ignore[arg-type]
            report.add(flow, "rows a second, of both runs", "1/s", [2 * made.rows / middle_s])
            report.add(flow, "times as fast as they were recorded", "", [2 * seconds / middle_s])
            report.add(flow, "most memory", "MB", [run.memory_mb for run in runs])
    report.notes.append(
        f"{made.rows:,} rows, {seconds / 60:.0f} minutes of {len(DEVICES)} PMUs at {FRAMES_PER_S} frames/s."
    )
    report.notes.append("The controllers of frequency_control tick every 50 ms, which takes most of the time.")
    report.show(console)
    if not quick:
        report.save()


if __name__ == "__main__":
    main()
