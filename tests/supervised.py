"""A site under `edgeflex up`, for tests."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from broker import wait_until

from edgeflex_services.broker import free_udp_port

LONGEST_S = 40.0

FLOW = """\
flow: {name}
{top}
nodes:
  samples: {{kind: samples_udp, host: 127.0.0.1, port: {port}, format: json.edgeflex, columns: [active_power_w]}}
  step: {{{step}, from: samples}}
  out: {{kind: file_write, from: step, path: ../{name}.jsonl}}
"""
PER_S = 1000
PASS = "kind: select, columns: [active_power_w]"


class Up:
    """A supervised site in a folder; its flows take samples by UDP and write what comes to `NAME.jsonl`."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.ports: dict[str, int] = {}
        self._environment = environment
        (folder / "sites").mkdir(exist_ok=True)
        self._lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def again(self) -> Up:
        """Another supervisor of the same files."""
        again = Up(self.folder, self._environment)
        again.ports = self.ports
        return again

    @property
    def site(self) -> Path:
        return self.folder / "sites" / "yard.yaml"

    def flow(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    def write(self, name: str, step: str = PASS, *, top: str = "", port: int | None = None) -> None:
        """Write a flow file as an editor does, whole."""
        port = self.ports.setdefault(name, free_udp_port()) if port is None else port
        self.replace(self.flow(name), FLOW.format(name=name, step=step, top=top, port=port))

    def run_these(self, *names: str, more: str = "state: {folder: state, every: 200ms}") -> None:
        self.replace(self.site, f"site: yard\nflows: [{', '.join(names or self.ports)}]\n{more}\n")

    def replace(self, file: Path, text: str) -> None:
        new = file.with_suffix(".part")
        new.write_text(text)
        new.replace(file)

    def start(self, *arguments: str, command: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*(command or (sys.executable, "-m", "edgeflex_flow", "up", str(self.site))), *arguments],
            cwd=self.folder,
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader.start()

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self._lines.append(line)

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def times(self, pattern: str) -> int:
        return len(re.findall(pattern, self.log))

    def wait_for(self, pattern: str, times: int = 1) -> None:
        self.wait(lambda: self.times(pattern) >= times, f"'{pattern}' did not come {times} times")

    def wait(self, condition: Callable[[], object], otherwise: str) -> None:
        try:
            wait_until(lambda: bool(condition()) or self._is_over, LONGEST_S)
        except AssertionError:
            raise AssertionError(f"{otherwise}:\n{self.log}") from None
        if self._is_over and not condition():
            raise AssertionError(f"{otherwise}, and it has ended:\n{self.log}")

    @property
    def _is_over(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def running(self, *names: str) -> None:
        for name in names or self.ports:
            self.wait_for(f"flow '{name}' runs\n")

    def member(self, name: str) -> psutil.Process:
        """The process of a flow."""
        (found,) = self.members(name)
        return found

    def members(self, name: str = "[^/]*") -> list[psutil.Process]:
        """The processes of flows."""
        assert self.process is not None
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if re.fullmatch(f"edgeflex yard/{name}", " ".join(child.cmdline()).strip()):
                    found.append(child)
        return found

    def send(self, name: str, number: int, *, rows: int = 1) -> None:
        """Send a flow a row, or several at once, whose value is this number."""
        row = {"device": "meter", "time_ns": time.time_ns(), "active_power_w": float(number)}
        self._sender.sendto(json.dumps(rows * [row]).encode(), ("127.0.0.1", self.ports[name]))

    def written(self, name: str) -> list[int]:
        """The numbers that a flow has written."""
        file = self.folder / f"{name}.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [int(each["active_power_w"]) for each in rows]

    def gets(self, name: str, number: int) -> None:
        """Send a number until it comes out: the flow works."""

        def came() -> bool:
            self.send(name, number)
            time.sleep(0.05)
            return number in self.written(name)

        self.wait(came, f"flow '{name}' gave nothing")

    def end(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(LONGEST_S)
        self._reader.join()
        return code

    def close(self) -> None:
        """End it if it is not ended, and all that it started."""
        self._sender.close()
        if self.process is None:
            return
        if self.process.poll() is None:
            left = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            for each in left:
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGCONT)
                    each.kill()
            psutil.wait_procs(left, LONGEST_S)
        self._reader.join()


@contextmanager
def up(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Up]:
    """A site that is ended whatever happens."""
    made = Up(folder, dict(environment or os.environ))
    try:
        yield made
    finally:
        made.close()


class Stream:
    """Sends numbered rows, `PER_S` of them a second, until it is stopped."""

    def __init__(self, site: Up, name: str) -> None:
        self.sent = 0
        self._site, self._name = site, name
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        began_s = time.monotonic()
        while not self._over.is_set():
            while self.sent < (time.monotonic() - began_s) * PER_S:
                self._site.send(self._name, self.sent)
                self.sent += 1
            time.sleep(0.002)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
