"""A site under `edgeflex up` for benchmarks: written, started, looked at, ended."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

IDLE = """\
flow: {name}
nodes:
  pmu: {{kind: pmu_udp, host: 127.0.0.1, port: {port}}}
  rocof: {{kind: rocof, from: pmu}}
  event: {{kind: frequency_event, from: rocof}}
  out: {{kind: file_write, from: event, path: ../{name}.jsonl}}
"""


class Site:
    """A supervised site in a folder."""

    def __init__(self, folder: Path, connections: str = "") -> None:
        self.folder = folder
        self._connections = connections
        self._lines: list[str] = []
        (folder / "sites").mkdir(exist_ok=True)
        self.process: subprocess.Popen[str] | None = None

    def write(self, name: str, text: str) -> None:
        part = self.folder / f"{name}.part"
        part.write_text(text)
        part.replace(self.folder / f"{name}.yaml")

    def start(self, names: Sequence[str]) -> float:
        """Start it; seconds until all run."""
        text = f"site: yard\nstate: {{folder: state}}\nflows: [{', '.join(names)}]\n{self._connections}\n"
        (self.folder / "sites" / "yard.yaml").write_text(text)
        began_s = time.monotonic()
        command = [sys.executable, "-m", "edgeflex_flow", "up", str(self.folder / "sites" / "yard.yaml")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()
        for name in names:
            self.wait_for(f"flow '{name}' runs\n")
        return time.monotonic() - began_s

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        self._lines.extend(self.process.stderr)

    def wait_for(self, pattern: str, times: int = 1) -> None:
        until(lambda: len(re.findall(pattern, "".join(self._lines))) >= times, lambda: "".join(self._lines))

    def processes(self) -> list[psutil.Process]:
        assert self.process is not None
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def members(self) -> dict[str, psutil.Process]:
        titles = {" ".join(each.cmdline()).strip(): each for each in self.processes()}
        return {
            title.removeprefix("edgeflex yard/"): each
            for title, each in titles.items()
            if title.startswith("edgeflex yard/")
        }

    def end(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60.0)


@contextmanager
def site(connections: str = "") -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as folder:
        made = Site(Path(folder), connections)
        try:
            yield made
        finally:
            made.end()


def until(condition: Callable[[], bool], otherwise: Callable[[], str] = str, timeout_s: float = 120.0) -> None:
    """Wait for a condition; RuntimeError with what `otherwise` says if it does not come."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise RuntimeError(f"it did not happen within {timeout_s:g} s: {otherwise()}")
        time.sleep(0.002)


def shared_mb(process: psutil.Process) -> float:
    """Memory of a process in MB, of what it shares with others its part (PSS)."""
    return float(process.memory_full_info().pss) / 1e6


def used_s(before: Any, after: Any) -> float:
    return float(after.user + after.system - before.user - before.system)
