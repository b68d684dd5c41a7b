"""What a thread of its own hands to a source, until the runtime polls. The thread may outlive the source."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from edgeflex_flow.wakeup import Wakeup

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Handover(Generic[K, T]):
    """Holds the newest item of each key, in the order in which the keys came, `most` at the most."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._waiting: dict[K, T] = {}
        self._wakeup: Wakeup | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self) -> None:
        self._wakeup = Wakeup()

    def put(self, items: Mapping[K, T]) -> int | None:
        """Hold these and wake the source: how many of the oldest had to go. None: the source is closed. Any thread."""
        with self._lock:
            if self._wakeup is None:
                return None
            self._waiting.update(items)
            dropped = 0 if self._most is None else max(len(self._waiting) - self._most, 0)
            for key in list(self._waiting)[:dropped]:
                del self._waiting[key]
            if items:
                self._wakeup.wake()
            return dropped

    def take(self) -> list[T]:
        """All that is held."""
        with self._lock:
            if self._wakeup is None or not self._waiting:
                return []
            self._wakeup.drain()
            taken = list(self._waiting.values())
            self._waiting.clear()
        return taken

    def fileno(self) -> int | None:
        """Readable while something is held; None if it is not open."""
        return None if self._wakeup is None else self._wakeup.fileno()

    def close(self) -> int:
        """How many items were held, and are lost."""
        with self._lock:
            lost = len(self._waiting)
            self._waiting.clear()
            if self._wakeup is not None:
                self._wakeup.close()
                self._wakeup = None
        return lost
