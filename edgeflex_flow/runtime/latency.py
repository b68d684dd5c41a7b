"""How long messages take through a flow: histograms for each path from a source to a sink."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from edgeflex_flow.messages import FrequencyEvent, Samples, message_time_ns
from edgeflex_flow.node import WireMessage

BOUNDS_S = tuple(float(f"{step}e{power}") for power in range(-4, 3) for step in (1, 2, 5))
"""Upper bounds of the buckets, 100 µs to 500 s; what takes longer is in one more."""


class Histogram:
    """Counts durations in buckets. One thread adds; others may look at any time."""

    __slots__ = ("counts", "largest_s", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0
        self.largest_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds
        self.largest_s = max(self.largest_s, seconds)

    def quantile_s(self, share: float) -> float | None:
        """The bound below which at least this share lies; None if there is nothing yet.

        >>> some = Histogram()
        >>> for seconds in (0.0003, 0.0004, 0.003): some.add(seconds)
        >>> some.quantile_s(0.5), some.quantile_s(1.0)
        (0.0005, 0.003)
        """
        total = sum(self.counts)
        if not total:
            return None
        passed = 0
        for bound_s, count in zip(BOUNDS_S, self.counts, strict=False):
            passed += count
            if passed >= share * total:
                return min(bound_s, self.largest_s)
        return self.largest_s


class Origin(NamedTuple):
    """What a message came of, on its way through the flow."""

    node: str
    """The source, or the operator whose period was over."""
    polled_s: float
    """When the process that has the sources and the sinks took it in, in its monotonic seconds."""


class PathTimes:
    """Of one path: `took` from the poll that a message came by to its sink, `age` at the sink from its time tag."""

    __slots__ = ("age", "took")

    def __init__(self) -> None:
        self.took = Histogram()
        self.age = Histogram()


def newest_time_ns(messages: Sequence[WireMessage]) -> int | None:
    """The latest time tag among messages; None if none has one."""
    newest: int | None = None
    for message in messages:
        if isinstance(message, Samples):
            time_ns = int(message.time_ns.max()) if message.rows else None
        else:
            ended_ns = message.end_time_ns if isinstance(message, FrequencyEvent) else None
            time_ns = message_time_ns(message) if ended_ns is None else ended_ns
        if time_ns is not None and (newest is None or time_ns > newest):
            newest = time_ns
    return newest
