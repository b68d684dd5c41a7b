"""How fast a flow goes: what its counters and histograms told within the last minute."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edgeflex_flow.monitor.counts import COUNTS
from edgeflex_flow.runtime.latency import BOUNDS_S
from edgeflex_flow.runtime.vitals import Vitals

MINUTE = 60
"""Vitals that are kept, one a second."""
RATE_OVER = 3
"""Seconds over which rates are told, so that batches do not make them jump."""
STANDS_AFTER_S = 5.0
"""Samples come steadily: a wire without them for so long stands."""


class Moment(NamedTuple):
    """What one beat told."""

    pid: int | None
    vitals: Vitals


class Rates:
    """The last minute of one flow."""

    def __init__(self) -> None:
        self._kept: deque[Moment] = deque(maxlen=MINUTE + 1)

    def add(self, pid: int | None, vitals: Vitals) -> None:
        """Vitals of another process, or run, begin anew."""
        if self._kept:
            last = self._kept[-1]
            if last.vitals.time_ns == vitals.time_ns:
                return
            if last.pid != pid or _total(vitals) < _total(last.vitals):
                self._kept.clear()
        self._kept.append(Moment(pid, vitals))

    @property
    def newest(self) -> Vitals | None:
        return self._kept[-1].vitals if self._kept else None

    def _before(self, seconds: int) -> tuple[Vitals, float] | None:
        """Vitals of so long ago, or the oldest that are kept, and how long ago that was."""
        if len(self._kept) < 2:
            return None
        then = self._kept[max(len(self._kept) - 1 - seconds, 0)].vitals
        passed_s = self._kept[-1].vitals.monotonic_s - then.monotonic_s
        return (then, passed_s) if passed_s > 0 else None

    def wires(self) -> dict[str, dict[str, float | bool | int]]:
        """By wire: messages and rows a second, how many there were, and whether it stands."""
        now = self.newest
        if now is None:
            return {}
        before = self._before(RATE_OVER)
        long_before = self._before(int(STANDS_AFTER_S))
        told: dict[str, dict[str, float | bool | int]] = {}
        for name, counts in now.wires.items():
            told[name] = {
                "messages_s": _rate(counts, before, name, "messages"),
                "rows_s": _rate(counts, before, name, "rows"),
                "messages": counts.get("messages", 0),
                "stands": long_before is not None
                and long_before[1] >= STANDS_AFTER_S - 1
                and counts.get("messages", 0) == long_before[0].wires.get(name, {}).get("messages", 0),
            }
        return told

    def nodes(self) -> dict[str, dict[str, object]]:
        """By node: what it gives a second, its counters, and what was dropped or failed within a minute."""
        now = self.newest
        if now is None:
            return {}
        before, minute = self._before(RATE_OVER), self._before(MINUTE)
        quality = now.quality
        gauges = now.gauges
        told: dict[str, dict[str, object]] = {}
        for name, counts in now.nodes.items():
            then = {} if minute is None else minute[0].nodes.get(name, {})
            flagged_then = {} if minute is None else minute[0].quality.get(name, {})
            rows = counts.get("rows_out", 0) - then.get("rows_out", 0)
            told[name] = {
                "messages_s": _node_rate(counts, before, name, "messages_out"),
                "rows_s": _node_rate(counts, before, name, "rows_out"),
                "counters": counts,
                "lost_minute": _of_sort("drop", counts, then) if minute else 0,
                "failed_minute": _of_sort("error", counts, then) if minute else 0,
                "letters_minute": counts.get("dead_letters", 0) - then.get("dead_letters", 0) if minute else 0,
                "quality": {
                    flag: round(max(count - flagged_then.get(flag, 0), 0) / rows, 4)
                    for flag, count in quality.get(name, {}).items()
                    if rows > 0 and count > flagged_then.get(flag, 0)
                },
                "gauges": gauges.get(name, {}),
            }
        return told

    def sums(self) -> dict[str, float | int | None]:
        """Of the whole flow: rates of its sources, losses and latency."""
        now = self.newest
        if now is None:
            return {}
        before, minute = self._before(RATE_OVER), self._before(MINUTE)
        sources = _sources(now)
        earlier = {(path.source, path.sink): path.took for path in minute[0].paths} if minute else {}
        took = [0] * (len(BOUNDS_S) + 1)
        for path in now.paths:
            then = earlier.get((path.source, path.sink))
            for place, count in enumerate(path.took):
                took[place] += count - (0 if then is None else then[place])
        drops = sum(_of_sort("drop", counts, {}) for counts in now.nodes.values())
        drops_then = sum(_of_sort("drop", counts, {}) for counts in minute[0].nodes.values()) if minute else drops
        return {
            "messages_s": sum(_node_rate(now.nodes.get(each, {}), before, each, "messages_out") for each in sources),
            "rows_s": sum(_node_rate(now.nodes.get(each, {}), before, each, "rows_out") for each in sources),
            "drops": drops,
            "drops_minute": max(drops - drops_then, 0),
            "dead_letters": sum(counts.get("dead_letters", 0) for counts in now.nodes.values()),
            "p50_s": quantile_s(took, 0.5),
            "p99_s": quantile_s(took, 0.99),
            "cpu": (now.cpu_s - before[0].cpu_s) / before[1] if before else None,
        }


def quantile_s(counts: Iterable[int], share: float) -> float | None:
    """The bound of `latency.BOUNDS_S` below which at least this share lies; None if there is nothing.

    >>> quantile_s([0, 2, 1], 0.5), quantile_s([0], 0.5)
    (0.0002, None)
    """
    told = list(counts)
    total, passed = sum(told), 0
    for bound_s, count in zip((*BOUNDS_S, BOUNDS_S[-1]), told, strict=False):
        passed += count
        if total and passed >= share * total:
            return bound_s
    return None


def _sources(vitals: Vitals) -> set[str]:
    """Nodes that read from none."""
    ends = [wire.partition(" -> ") for wire in vitals.wires]
    readers = {reader.rpartition(".")[0] for _, _, reader in ends}
    return {source for source, _, _ in ends if source not in readers and source in vitals.nodes}


def _total(vitals: Vitals) -> int:
    return sum(counts.get("messages", 0) for counts in vitals.wires.values())


def _rate(counts: Mapping[str, int], before: tuple[Vitals, float] | None, wire: str, what: str) -> float:
    if before is None:
        return 0.0
    then, passed_s = before
    return max(counts.get(what, 0) - then.wires.get(wire, {}).get(what, 0), 0) / passed_s


def _node_rate(counts: Mapping[str, int], before: tuple[Vitals, float] | None, node: str, what: str) -> float:
    if before is None:
        return 0.0
    then, passed_s = before
    return max(counts.get(what, 0) - then.nodes.get(node, {}).get(what, 0), 0) / passed_s


def _of_sort(sort: str, counts: Mapping[str, int], then: Mapping[str, int]) -> int:
    """How much of one sort the counters of a node grew."""
    known = ((name, count) for name, count in counts.items() if name in COUNTS and COUNTS[name].sort == sort)
    return sum(max(count - then.get(name, 0), 0) for name, count in known)
