"""Time as the runtime sees it: the system's clock, or a virtual one that recorded data moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol, overload


class Clock(Protocol):
    """Tells the time."""

    def now_ns(self) -> int:
        """UTC nanoseconds since 1970: for time tags. It may jump when the computer's clock is set."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds that never jump: for pacing and due times."""
        ...


class SystemClock:
    """The computer's own clock."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


class VirtualClock:
    """A clock that stands still until it is moved, so that a replay gives the same result every time."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_ns(self) -> int:
        return self._now_ns

    def advance_to(self, time_ns: int) -> None:
        """Move forward to `time_ns`; a time in the past leaves the clock where it is."""
        self._now_ns = max(self._now_ns, time_ns)


class RecordedClock(VirtualClock):
    """A virtual clock for what was recorded: it goes from what is due to what is due next and never beyond. Rows do not
    move it: they may be of the time to come, as prices of the next day are.
    """


class PacedClock(RecordedClock):
    """A clock for what was recorded that moves no faster than `speed` times real time. `wait` waits so many seconds, or
    less."""

    def __init__(self, start_ns: int, speed: float, wait: Callable[[float], object]) -> None:
        super().__init__(start_ns)
        self._start_ns = start_ns
        self._began_ns: int | None = None
        self._speed = speed
        self._wait = wait

    def advance_to(self, time_ns: int) -> None:
        real_ns = time.monotonic_ns()
        if self._began_ns is None:
            self._began_ns = real_ns
        due_ns = self._began_ns + round((time_ns - self._start_ns) / self._speed)
        if due_ns > real_ns:
            self._wait((due_ns - real_ns) / 1e9)
        super().advance_to(time_ns)


@overload
def moment_ns(moment: datetime) -> int: ...
@overload
def moment_ns(moment: datetime | None) -> int | None: ...
def moment_ns(moment: datetime | None) -> int | None:
    """UTC nanoseconds of a moment with its offset.

    >>> moment_ns(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000000
    """
    if moment is None:
        return None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
