"""Child processes of the benchmarks: started, measured and ended without leaving anything behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

FLOWS = Path(__file__).parent / "flows"
STOP_TIMEOUT_S = 30.0


@contextmanager
def child(
    arguments: Sequence[str], *, environment: Mapping[str, str] | None = None, stdout: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    """`python ARGUMENTS` as a process; SIGTERM at the end, SIGKILL if that does not help."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=stdout,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def flow_arguments(name: str, pmu_port: int, mqtt_port: int, folder: str = "/tmp") -> list[str]:
    """Arguments for `python` that run a flow of this folder, with its store in `folder`."""
    return [
        *("-m", "edgeflex_flow", "--log-level", "warning", "run", str(FLOWS / f"{name}.yaml")),
        *("--site", str(FLOWS / "site.yaml"), "-D", f"pmu_port={pmu_port}", "-D", f"mqtt_port={mqtt_port}"),
        *("-D", f"folder={folder}"),
    ]


def cpu_percent(pid: int, seconds: float) -> float:
    """Processor time that a process used over `seconds`, in per cent of one core."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return 100 * (after.user + after.system - before.user - before.system) / seconds


def memory_mb(pid: int) -> float:
    """Resident memory of a process in MB (10^6 bytes)."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6
