"""How good the links are over which devices send: latency and loss, from the rows that came and those that did not."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import DeadLetter, Quality, Samples
from edgeflex_flow.units import NS_PER_S

UNTIMED = int(Quality.SYNC_LOST | Quality.TIME_UNCERTAIN | Quality.REPLAYED | Quality.LATE)
"""Flags of rows whose time tag says nothing about how long they were on their way."""
LEAST_ROWS = 5
"""Latency and period of fewer rows are chance."""
STEP_NS = NS_PER_S // 2
"""A gap between time tags that is longer, but was none between receptions, is that of a clock that was set."""
EARLY_S = 0.005
"""Clocks that are set over a network differ by so much; a row that comes earlier is from a clock that is wrong."""
PERIOD_QUANTILE = 0.1
"""Of the times between rows: what it finds is one period also when most of the rows are lost."""
SAME_PERIOD = 1.5
"""Times between rows up to so many periods are one period."""
REGULAR = 0.8
"""Share of them that must be one period before another one than the known is believed: where many rows are lost, the
times between those that are left look like a longer period."""


class MeasuredLink(NamedTuple):
    """The quality of one link."""

    latency_s: float | None
    """The asked quantile; None if it cannot be told."""
    loss: float | None
    """Share of rows that are missing; None before the device's period is known."""
    silent_s: float
    """For how long nothing has come."""
    doubt: str
    """Why its clock is not believed; empty if it is, or if that cannot be told."""


class Sight(NamedTuple):
    """What is looked at."""

    window_ns: int
    quantile: float
    plausible_s: float
    """A latency above this is a clock that is wrong."""
    silent_after_ns: int
    max_devices: int


class _Heard(NamedTuple):
    """Rows that came; arrays of shape (n,)."""

    at_ns: int
    """By the clock of the ticks."""
    slot: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    age_s: NDArray[np.float64]
    """From the time tag to the reception; NaN where that is not known."""
    is_timed: NDArray[np.bool_]
    """Whether the clock of the device was right."""

    def take(self, rows: NDArray[Any] | slice) -> _Heard:
        return _Heard(self.at_ns, self.slot[rows], self.time_ns[rows], self.age_s[rows], self.is_timed[rows])


def _joined(parts: Sequence[_Heard], at_ns: int) -> _Heard:
    return _Heard(
        at_ns,
        np.concatenate([each.slot for each in parts]),
        np.concatenate([each.time_ns for each in parts]),
        np.concatenate([each.age_s for each in parts]),
        np.concatenate([each.is_timed for each in parts]),
    )


_NOTHING = _Heard(0, np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.bool_))


@dataclass(slots=True)
class _Sender:
    """What is known of one device, besides its rows."""

    heard_ns: int
    """When it was heard last, by the clock of the ticks."""
    period_ns: int | None = None


@dataclass(slots=True)
class Measuring:
    """Rows of the window, by slots of devices. Its clock is that of the ticks, which never jumps."""

    slots: dict[str, int] = field(default_factory=dict)
    senders: list[_Sender | None] = field(default_factory=list)
    """By slot; None for a device that is listed, but has not sent."""
    fresh: list[_Heard] = field(default_factory=list)
    """What came since the last tick."""
    heard: deque[_Heard] = field(default_factory=deque)
    first_ns: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """By slot, when the first rows of a device were received; 0 before that."""
    known: tuple[tuple[str, ...], NDArray[np.int32]] = ((), np.zeros(0, dtype=np.int32))
    """The last table of devices, and the slot of each of its codes; -1 for one too many."""

    def take(self, samples: Samples, sight: Sight) -> list[DeadLetter]:
        """Take over which rows came, and when."""
        slot = self._slots(samples.devices, sight.max_devices)[samples.device]
        age_s = (samples.received_ns - samples.time_ns) / NS_PER_S
        if not samples.received_ns:
            age_s[:] = np.nan
        rows = slot >= 0
        is_timed = ((samples.quality & UNTIMED) == 0) & ~self._waited(slot, samples, sight)
        self.fresh.append(_Heard(0, slot, samples.time_ns, age_s, is_timed).take(rows))
        beyond = samples.rows - int(rows.sum())
        if not beyond:
            return []
        text = f"{beyond} rows of devices beyond max_devices ({sight.max_devices})"
        return [DeadLetter(node="", reason="too_many_devices", text=text, time_ns=0, count=beyond)]

    def _waited(self, slot: NDArray[np.int32], samples: Samples, sight: Sight) -> NDArray[np.bool_]:
        """Which rows were measured before anything of their device was received: they waited, for a configuration or
        for the flow to begin, and tell nothing of the link."""
        if not samples.received_ns:
            return np.zeros(samples.rows, dtype=np.bool_)
        missing = len(self.senders) - len(self.first_ns)
        if missing:
            self.first_ns = np.append(self.first_ns, np.zeros(missing, dtype=np.int64))
        known = np.unique(slot[slot >= 0])
        new = known[self.first_ns[known] == 0]
        self.first_ns[new] = samples.received_ns
        first_ns = self.first_ns[np.maximum(slot, 0)] if len(self.first_ns) else np.zeros(samples.rows, dtype=np.int64)
        before_ns = first_ns - samples.time_ns
        waited: NDArray[np.bool_] = (before_ns > 0) & (before_ns <= sight.plausible_s * NS_PER_S)
        return waited

    def _slots(self, devices: tuple[str, ...], most: int) -> NDArray[np.int32]:
        if self.known[0] is not devices:
            for name in devices:
                if name not in self.slots and len(self.slots) < most:
                    self.slots[name] = len(self.slots)
                    self.senders.append(None)
            self.known = devices, np.array([self.slots.get(name, -1) for name in devices], dtype=np.int32)
        return self.known[1]

    def look(self, now_ns: int, sight: Sight, *, after_pause: bool = False) -> Iterator[tuple[str, MeasuredLink]]:
        """The quality of each link on which something has ever come.

        `after_pause`: the flow has just begun, or stood still. What came since waited for it, or was lost meanwhile,
        and tells nothing of the links.
        """
        if after_pause:
            self._begin_anew(now_ns)
        self._move_on(now_ns, sight)
        heard = _joined((_NOTHING, *self.heard), now_ns)
        heard = heard.take(np.argsort(heard.slot, kind="stable"))
        ends = np.searchsorted(heard.slot, np.arange(len(self.senders) + 1)).tolist()
        for name, place in self.slots.items():
            sender = self.senders[place]
            if sender is not None:
                yield name, _measured(sender, heard.take(slice(ends[place], ends[place + 1])), now_ns, sight)

    def _begin_anew(self, now_ns: int) -> None:
        """Keep who has sent alone."""
        heard = {place for each in self.fresh for place in np.unique(each.slot).tolist()}
        self.fresh.clear()
        self.heard.clear()
        for place, sender in enumerate(self.senders):
            if sender is not None:
                sender.heard_ns = now_ns
            elif place in heard:
                self.senders[place] = _Sender(now_ns)

    def _move_on(self, now_ns: int, sight: Sight) -> None:
        """Take over what is fresh, and let go of what is older than the window."""
        if self.fresh:
            fresh = _joined(self.fresh, now_ns)
            self.heard.append(fresh)
            self.fresh.clear()
            for place in np.unique(fresh.slot).tolist():
                sender = self.senders[place]
                if sender is None:
                    self.senders[place] = _Sender(now_ns)
                else:
                    sender.heard_ns = now_ns
        while self.heard and self.heard[0].at_ns <= now_ns - sight.window_ns:
            self.heard.popleft()


def _measured(sender: _Sender, heard: _Heard, now_ns: int, sight: Sight) -> MeasuredLink:
    """`heard` are the rows of one device."""
    silent_ns = now_ns - sender.heard_ns
    latency_s, doubt = _latency(heard, sight)
    loss = _loss(sender, heard, silent_ns if silent_ns >= sight.silent_after_ns else 0, sight.window_ns)
    return MeasuredLink(latency_s, loss, silent_ns / NS_PER_S, doubt)


def _latency(heard: _Heard, sight: Sight) -> tuple[float | None, str]:
    """The quantile, or why there is none."""
    known = np.isfinite(heard.age_s)
    timed = np.sort(heard.age_s[known & heard.is_timed])
    if len(timed) < LEAST_ROWS:
        return None, "its clock is not set by UTC" if int(known.sum()) >= LEAST_ROWS else ""
    middle_s = float(timed[len(timed) // 2])
    if middle_s < -EARLY_S:
        return None, f"its clock is {-middle_s:.3g} s ahead of the site's"
    if middle_s > sight.plausible_s:
        return None, f"its clock, or the site's, is wrong: rows come {middle_s:.3g} s after their time"
    return max(float(timed[math.ceil(sight.quantile * len(timed)) - 1]), 0.0), ""


def _loss(sender: _Sender, heard: _Heard, silent_ns: int, window_ns: int) -> float | None:
    """Share of rows that are missing between others, and since the device fell silent."""
    time_ns, first = np.unique(heard.time_ns, return_index=True)
    gaps_ns = np.diff(time_ns)
    gaps_ns = gaps_ns[~_is_set(gaps_ns, np.diff(heard.age_s[first]), window_ns)]
    sender.period_ns = _period_ns(gaps_ns, sender.period_ns)
    if sender.period_ns is None:
        return None
    missing = int((np.rint(gaps_ns / sender.period_ns) - 1).clip(min=0).sum())
    missing += min(silent_ns, window_ns) // sender.period_ns
    expected = missing + len(gaps_ns) + 1
    return missing / expected if len(time_ns) else 1.0


def _is_set(gaps_ns: NDArray[np.int64], older_s: NDArray[np.float64], window_ns: int) -> NDArray[np.bool_]:
    """Which gaps are those of a clock that was set. `older_s`: by how much the row after it came later than its tag."""
    without_a_gap = older_s * NS_PER_S < -gaps_ns / 2
    return (gaps_ns > window_ns) | ((gaps_ns > STEP_NS) & without_a_gap)


def _period_ns(gaps_ns: NDArray[np.int64], known_ns: int | None) -> int | None:
    """The time between two rows as it usually is.

    >>> _period_ns(np.array([20, 20, 40, 20, 80, 20]), None), _period_ns(np.array([60, 20, 100, 40, 80, 140]), 20)
    (20, 20)
    """
    if len(gaps_ns) < LEAST_ROWS:
        return known_ns
    gaps_ns = np.sort(gaps_ns)
    shortest_ns = int(gaps_ns[int(PERIOD_QUANTILE * len(gaps_ns))])
    single = gaps_ns[: np.searchsorted(gaps_ns, SAME_PERIOD * shortest_ns, side="right")]
    if known_ns is not None and len(single) < REGULAR * len(gaps_ns):
        return known_ns
    return round(float(single.mean()))
