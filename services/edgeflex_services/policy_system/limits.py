"""Limits on how often something may be tried in vain."""

from __future__ import annotations

import threading
from collections import OrderedDict

from edgeflex_flow.clock import Clock

MOST_KEYS = 10_000


class FailureLimit:
    """At most `most` failures in `span_s`, by whom: a bucket that refills steadily. Any thread."""

    def __init__(self, most: int, span_s: float, clock: Clock) -> None:
        self._most = most
        self._per_s = most / span_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By whom: how many count at which time; the longest known first."""

    def wait_s(self, key: str) -> float:
        """How long until another attempt may be made; 0: now."""
        with self._lock:
            over = self._count(key, self._now_s()) - (self._most - 1)
        return max(over / self._per_s, 0.0)

    def failed(self, key: str) -> None:
        now_s = self._now_s()
        with self._lock:
            count = self._count(key, now_s)
            self._failures[key] = (min(count + 1, self._most), now_s)
            self._failures.move_to_end(key)
            if len(self._failures) > MOST_KEYS:
                self._failures.popitem(last=False)

    def take_back(self, key: str) -> None:
        """It was none after all: count one less."""
        now_s = self._now_s()
        with self._lock:
            self._failures[key] = (max(self._count(key, now_s) - 1.0, 0.0), now_s)

    def _count(self, key: str, now_s: float) -> float:
        count, at_s = self._failures.get(key, (0.0, now_s))
        return max(count - (now_s - at_s) * self._per_s, 0.0)

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9
