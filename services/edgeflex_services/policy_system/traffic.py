"""How much each user asks of the policy system: what policies about traffic look at."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from edgeflex_flow.clock import Clock

COUNTED_S = 60
MOST_USERS = 20_000


class Traffic:
    """Requests of the last minute by user, to whole seconds. Any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: OrderedDict[str, deque[list[int]]] = OrderedDict()
        """By user: seconds in which there were requests, and how many; who asked last stands last."""

    def count(self, user: str) -> None:
        """Count a request."""
        now_s = self._now_s()
        with self._lock:
            seconds = self._seconds.setdefault(user, deque())
            self._seconds.move_to_end(user)
            if seconds and seconds[-1][0] == now_s:
                seconds[-1][1] += 1
            else:
                seconds.append([now_s, 1])
                self._forget(seconds, now_s)
            if len(self._seconds) > MOST_USERS:
                self._seconds.popitem(last=False)

    def of(self, user: str) -> int:
        """How many requests a user made within the last minute."""
        with self._lock:
            seconds = self._seconds.get(user, deque())
            self._forget(seconds, self._now_s())
            return sum(count for _, count in seconds)

    def users(self) -> list[str]:
        """Who asked within the last minute."""
        with self._lock:
            first_s = self._now_s() - COUNTED_S
            return [user for user, seconds in self._seconds.items() if seconds and seconds[-1][0] > first_s]

    @staticmethod
    def _forget(seconds: deque[list[int]], now_s: int) -> None:
        while seconds and seconds[0][0] <= now_s - COUNTED_S:
            seconds.popleft()

    def _now_s(self) -> int:
        return self._clock.monotonic_ns() // 1_000_000_000
