"""Sockets that outlive the process that reads them: what comes while nobody does waits in the operating system."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

LONGEST_NAME_BYTES = 1024


def send_socket(line: socket.socket, name: str, descriptor: int) -> None:
    """Give a socket to the process at the other end of a line (Unix, SOCK_SEQPACKET). Raises OSError."""
    socket.send_fds(line, [name.encode()[:LONGEST_NAME_BYTES]], [descriptor])


def receive_socket(line: socket.socket) -> tuple[str, int]:
    """A name and a descriptor that came; the name is empty at the end of the line. Raises OSError."""
    name, descriptors, _, _ = socket.recv_fds(line, LONGEST_NAME_BYTES, 1)
    return name.decode(), descriptors[0] if descriptors else -1


class SocketStore:
    """The flow's end: sockets come from and go to the supervisor over a line. Implements `node.SocketKeeper`."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._kept: dict[str, int] = {}
        self._own: dict[str, int] = {}
        """What the supervisor keeps stays open; so a source that is opened anew in this process gets it from here."""

    def receive(self, count: int) -> None:
        """Take in as many as the supervisor has sent."""
        for _ in range(count):
            name, descriptor = receive_socket(self._line)
            if descriptor >= 0:
                self._kept[name] = descriptor

    def take(self, name: str) -> int | None:
        kept = self._kept.pop(name, None)
        if kept is None and name in self._own:
            return os.dup(self._own[name])
        return kept

    def keep(self, name: str, descriptor: int) -> None:
        before = self._own.pop(name, None)
        self._own[name] = os.dup(descriptor)
        if before is not None:
            os.close(before)
        with suppress(OSError):  # the supervisor is gone: this process ends, too
            send_socket(self._line, name, descriptor)

    def drop_rest(self) -> None:
        """Close those that nobody took."""
        for descriptor in self._kept.values():
            os.close(descriptor)
        self._kept.clear()
