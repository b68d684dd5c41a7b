"""A market of FlexOffers in a process of its own, on a free port.

with MarketProcess("--demand=-5") as market:
    market.url
    wait_until(lambda: market.events("offer"))
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any, Self

import httpx
from broker import wait_until


class MarketProcess:
    """Keeps what the program tells, line by line. `stop` ends it and gives its exit code."""

    def __init__(self, *options: str, port: int = 0) -> None:
        self.lines: list[dict[str, Any]] = []
        self._options, self._port = options, port
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "edgeflex_services.market", "--port", str(self._port), "--json"]
        self._process = subprocess.Popen(
            [*command, "--clear-every", "0.05", *self._options], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: self.events("started"))

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(json.loads(line))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [each for each in list(self.lines) if each["event"] == name]

    def states(self, state: str) -> list[dict[str, Any]]:
        """What was told of offers that came into a state."""
        return [each for each in self.events("offer") if each["state"] == state]

    @property
    def url(self) -> str:
        return str(self.events("started")[-1]["url"])

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def put(self, path: str, content: object) -> None:
        """Change demand or behaviour."""
        httpx.put(self.url + path, json=content).raise_for_status()

    def kill(self) -> None:
        """End it in the midst of what it does."""
        assert self._process is not None
        self._process.kill()
        self.stop()

    def stop(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            if self._reader is not None:
                self._reader.join(10.0)
            if process.stdout is not None:
                process.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.stop()
