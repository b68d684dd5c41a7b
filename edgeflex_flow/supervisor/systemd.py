"""Tells systemd how the supervisor is (sd_notify(3)): ready, its status in words, alive, and that it ends."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

MOST_STATUS = 200


class Notifier:
    """Says nothing where no systemd asks (`NOTIFY_SOCKET`). Children do not inherit the request."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            with suppress(OSError):
                self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
        self._alive_every_s = _watchdog_s() / 3
        self._alive_s = 0.0
        self._status = ""

    def ready(self) -> None:
        """What is to run runs, or is being tried again: systemd goes on with what comes after."""
        self._send("READY=1")

    def alive(self, status: str) -> None:
        """Call it often, from what must not hang: the supervisor's own loop."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status[:MOST_STATUS]}")
        now_s = time.monotonic()
        if self._alive_every_s and now_s - self._alive_s >= self._alive_every_s:
            self._alive_s = now_s
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.send(text.encode())

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _watchdog_s() -> float:
    """How long systemd waits for a word; 0 if it does not, or asks another process."""
    asked, whom = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    if not asked.isdigit() or (whom and whom != str(os.getpid())):
        return 0.0
    return int(asked) / 1e6
