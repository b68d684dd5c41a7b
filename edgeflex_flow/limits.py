"""Limits on how often somebody may do something."""

from __future__ import annotations

import threading
from collections import OrderedDict

from edgeflex_flow.clock import Clock

MOST_KEYS = 10_000


class RateLimit:
    """At most `most` times in `span_s`, by whom: a bucket that refills steadily. Any thread."""

    def __init__(self, most: int, span_s: float, clock: Clock) -> None:
        self._most = most
        self._per_s = most / span_s
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By whom: how many count at which time; the longest known first."""

    def wait_s(self, key: str) -> float:
        """How long until it may be done again; 0: now."""
        with self._lock:
            over = self._count(key, self._now_s()) - (self._most - 1)
        return max(over / self._per_s, 0.0)

    def add(self, key: str, times: int = 1) -> None:
        """Count what was done or tried; what was done at once may go beyond the limit, and is waited for longer."""
        now_s = self._now_s()
        with self._lock:
            count = self._count(key, now_s)
            self._counts[key] = (max(count, min(count, self._most - 1) + times), now_s)
            self._counts.move_to_end(key)
            if len(self._counts) > MOST_KEYS:
                self._counts.popitem(last=False)

    def take_back(self, key: str) -> None:
        """It does not count after all."""
        now_s = self._now_s()
        with self._lock:
            self._counts[key] = (max(self._count(key, now_s) - 1.0, 0.0), now_s)

    def _count(self, key: str, now_s: float) -> float:
        count, at_s = self._counts.get(key, (0.0, now_s))
        return max(count - (now_s - at_s) * self._per_s, 0.0)

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9
