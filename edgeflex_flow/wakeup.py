"""How a thread wakes one that waits in a selector."""

from __future__ import annotations

import os

CHUNK = 4096


class Wakeup:
    """A pipe that makes a selector return at once. Safe from any thread and from signal handlers."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._read

    def wake(self) -> None:
        if self._write < 0:
            return  # it is over
        try:
            os.write(self._write, b"!")
        except OSError:
            return  # full means that it is awake already

    def drain(self) -> bool:
        """Make the selector wait again; whether anybody woke it since."""
        woken = False
        try:
            while len(os.read(self._read, CHUNK)) == CHUNK:
                woken = True
        except BlockingIOError:
            return woken
        return True

    def close(self) -> None:
        read, write = self._read, self._write
        self._read = self._write = -1  # the numbers may soon belong to other files
        os.close(read)
        os.close(write)
