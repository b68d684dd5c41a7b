"""Growing waits between attempts, and which failed attempts deserve a line in the log."""

from __future__ import annotations

import random

JITTER = 0.2
"""Waits differ by up to this share, so that a restarted broker is not called by all its clients at once."""


class Backoff:
    """Waits that double from `first_s` to `most_s` while attempts fail.

    The 1st, 2nd, 4th, 8th … failure in a row is worth a line in the log, so lines come at growing intervals too.

    >>> backoff = Backoff(1.0, 4.0)
    >>> [backoff.failed() for _ in range(5)]
    [True, True, False, True, False]
    >>> 3.2 <= backoff.delay_s() <= 4.8
    True
    """

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self.failures = 0

    def failed(self) -> bool:
        """Count a failed attempt; whether to say so in the log."""
        self.failures += 1
        return self.failures & (self.failures - 1) == 0

    def succeeded(self) -> int:
        """Start anew; how many attempts had failed before."""
        failures, self.failures = self.failures, 0
        return failures

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt failed."""
        return self.failures > 0

    def delay_s(self) -> float:
        """How long to wait now, in seconds."""
        doublings = min(max(self.failures - 1, 0), 32)
        delay_s = min(self._first_s * float(2**doublings), self._most_s)
        return delay_s * random.uniform(1.0 - JITTER, 1.0 + JITTER)  # noqa: S311 - spreads calls, guards nothing
