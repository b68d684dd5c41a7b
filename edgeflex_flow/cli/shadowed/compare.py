"""Compares what two flows give on the same inputs, as it comes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.cli.differing import differing, shown
from edgeflex_flow.cli.explained.identity import WHO, essence, type_of, who_of
from edgeflex_flow.messages import TIMES, Message, Samples, message_time_ns
from edgeflex_flow.node import WireMessage

Side: TypeAlias = Literal["running", "new"]
SIDES: Final[tuple[Side, Side]] = ("running", "new")
ABOUT: Final = ("state", "quantity", "column", "severity", "method", "variable")
"""Fields that tell, beside type and whom it is about, which messages of both flows belong together."""
LEFT_OUT: Final = frozenset({"id", "event_id", "policies", "config_digest", "version", *TIMES})
"""Fields that say how a message came to be; its time is compared by itself."""


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that both flows do not give alike."""

    node: str
    what: Literal["differs", "only running", "only new"]
    about: str
    """What it is about: type and device, or a device's column."""
    time_ns: int
    """Its time, UTC nanoseconds."""
    place: str = ""
    """Of what differs, where."""
    running: str = ""
    new: str = ""
    rows: int = 1
    """Of rows, how many deviate at this place in one batch; this is the one that does most."""
    size: float = math.inf
    """By which share; infinite for what is no number."""


class Counts(msgspec.Struct, kw_only=True):
    """Of one node."""

    alike: int = 0
    differs: int = 0
    only_running: int = 0
    only_new: int = 0

    @property
    def deviating(self) -> int:
        return self.differs + self.only_running + self.only_new

    @property
    def compared(self) -> int:
        return self.alike + self.deviating


class _Waiting(msgspec.Struct, frozen=True):
    """Something that one flow gave, for which the other's is still to come."""

    time_ns: int
    at_ns: int
    given: Any


class Comparison:
    """Compares what a node gives in both flows.

    Rows belong together by device and time tag. Messages of one type about the same thing belong together by their
    times, the nearest ones first, if those are at most `apart_ns` apart. Numbers may differ by a share `tolerance`.
    """

    def __init__(self, node: str, *, tolerance: float, apart_ns: int) -> None:
        self._node = node
        self._tolerance = tolerance
        self._apart_ns = apart_ns
        self._batches: dict[Side, deque[tuple[int, Samples]]] = {side: deque() for side in SIDES}
        self._rows: dict[Side, dict[tuple[str, int, int], tuple[int, dict[str, float]]]] = {side: {} for side in SIDES}
        """By device, time tag, and how often both were there before."""
        self._messages: dict[Side, dict[tuple[str, ...], list[_Waiting]]] = {side: {} for side in SIDES}
        self.counts = Counts()

    def take(self, side: Side, message: WireMessage, at_ns: int) -> None:
        """A flow has given something."""
        if isinstance(message, Samples):
            self._batches[side].append((at_ns, message))
        else:
            time_ns = message_time_ns(message)
            waiting = _Waiting(at_ns if time_ns is None else time_ns, at_ns, message)
            self._messages[side].setdefault(_key(message), []).append(waiting)

    def settle(self, reached_ns: int) -> list[Deviation]:
        """What deviates by now: both flows have given all that they give before this time."""
        return [*self._settle_batches(), *self._settle_rows(reached_ns), *self._settle_messages(reached_ns)]

    def _settle_batches(self) -> Iterator[Deviation]:
        """Most batches come alike: these are compared as a whole, the others row by row."""
        running, new = (self._batches[side] for side in SIDES)
        while running and new:
            (at_ns, one), (new_at_ns, other) = running.popleft(), new.popleft()
            if _same_rows(one, other):
                yield from self._compare_rows(one, other)
            else:
                self._split("running", one, at_ns)
                self._split("new", other, new_at_ns)
        for side in SIDES:
            while self._batches[side]:
                at_ns, batch = self._batches[side].popleft()
                self._split(side, batch, at_ns)

    def _compare_rows(self, one: Samples, other: Samples) -> Iterator[Deviation]:
        """A deviation for each column, of the row that deviates most."""
        deviating = one.quality != other.quality
        if deviating.any():
            row = int(np.argmax(deviating))
            yield self._rows_differ(one, row, "quality", int(one.quality[row]), int(other.quality[row]), deviating)
        for name in dict.fromkeys([*one.columns, *other.columns]):
            before, after = (_column(each, name) for each in (one, other))
            far = ~_close(before, after, self._tolerance) | (name not in one.columns) | (name not in other.columns)
            if far.any():
                row = int(np.argmax(np.where(far, np.nan_to_num(np.abs(before - after), nan=np.inf), -1.0)))
                yield self._rows_differ(one, row, name, float(before[row]), float(after[row]), far)
                deviating |= far
        self.counts.differs += int(np.count_nonzero(deviating))
        self.counts.alike += int(np.count_nonzero(~deviating))

    def _rows_differ(
        self, samples: Samples, row: int, name: str, before: float, after: float, far: NDArray[np.bool_]
    ) -> Deviation:
        return Deviation(
            node=self._node,
            what="differs",
            about=samples.devices[samples.device[row]],
            time_ns=int(samples.time_ns[row]),
            place=name,
            running=shown(before),
            new=shown(after),
            rows=int(np.count_nonzero(far)),
            size=_size(before, after),
        )

    def _split(self, side: Side, samples: Samples, at_ns: int) -> None:
        columns = {name: values.tolist() for name, values in samples.columns.items()}
        columns["quality"] = samples.quality.tolist()
        for row, (time_ns, code) in enumerate(zip(samples.time_ns.tolist(), samples.device.tolist(), strict=True)):
            values = {name: each[row] for name, each in columns.items()}
            device, rows, times = samples.devices[code], self._rows[side], 0
            while (device, time_ns, times) in rows:
                times += 1
            rows[device, time_ns, times] = (at_ns, values)

    def _settle_rows(self, reached_ns: int) -> Iterator[Deviation]:
        running, new = (self._rows[side] for side in SIDES)
        for key in list(running.keys() & new.keys()):
            (_, one), (_, other) = running.pop(key), new.pop(key)
            yield from self._pair(key[0], key[1], one, other)
        for side in SIDES:
            rows = self._rows[side]
            late = [key for key, (at_ns, _) in rows.items() if at_ns + self._apart_ns < reached_ns]
            for key in late:
                del rows[key]
                yield self._only(side, key[0], key[1])

    def _settle_messages(self, reached_ns: int) -> Iterator[Deviation]:
        running, new = (self._messages[side] for side in SIDES)
        for key in list(dict.fromkeys([*running, *new])):
            ones, others = running.setdefault(key, []), new.setdefault(key, [])
            for apart_ns, one, other in _pairs(ones, others, self._apart_ns):
                # A pair that is not of one time waits: a nearer one may still come.
                if apart_ns and max(one.at_ns, other.at_ns) + self._apart_ns >= reached_ns:
                    continue
                ones.remove(one)
                others.remove(other)
                about = " ".join(part for part in key if part)
                yield from self._pair(about, one.time_ns, _told(one), _told(other), other.time_ns - one.time_ns)
            for side in SIDES:
                waiting = self._messages[side][key]
                for each in [each for each in waiting if each.at_ns + 2 * self._apart_ns < reached_ns]:
                    waiting.remove(each)
                    yield self._only(side, " ".join(part for part in key if part), each.time_ns, each.given)
            if not ones and not others:
                del running[key], new[key]

    def _pair(
        self, about: str, time_ns: int, one: dict[str, Any], other: dict[str, Any], later_ns: int = 0
    ) -> Iterator[Deviation]:
        """The place that differs most alone: a message is one deviation, however many places differ."""
        places = list(differing(one, other, self._tolerance))
        if not places and not later_ns:
            self.counts.alike += 1
            return
        self.counts.differs += 1
        if later_ns:
            later = f"{later_ns / 1e9:+g} s"
            yield Deviation(node=self._node, what="differs", about=about, time_ns=time_ns, place="time", new=later)
            return
        worst = max(places, key=lambda each: _size(each.one, each.other))
        yield Deviation(
            node=self._node,
            what="differs",
            about=about,
            time_ns=time_ns,
            place=worst.place,
            running=shown(worst.one),
            new=shown(worst.other),
            size=_size(worst.one, worst.other),
        )

    def _only(self, side: Side, about: str, time_ns: int, message: Message | None = None) -> Deviation:
        told = "" if message is None else shown(_told_of(message, short=True))
        if side == "running":
            self.counts.only_running += 1
            return Deviation(node=self._node, what="only running", about=about, time_ns=time_ns, running=told)
        self.counts.only_new += 1
        return Deviation(node=self._node, what="only new", about=about, time_ns=time_ns, new=told)


def _key(message: Message) -> tuple[str, ...]:
    return (type_of(message), who_of(message), *(str(getattr(message, name, "") or "") for name in ABOUT))


def _pairs(ones: Sequence[_Waiting], others: Sequence[_Waiting], apart_ns: int) -> list[tuple[int, _Waiting, _Waiting]]:
    """Those that belong together, the nearest first."""
    near = [
        (abs(one.time_ns - other.time_ns), place, at)
        for place, one in enumerate(ones)
        for at, other in enumerate(others)
        if abs(one.time_ns - other.time_ns) <= apart_ns
    ]
    found: list[tuple[int, _Waiting, _Waiting]] = []
    taken: tuple[set[int], set[int]] = (set(), set())
    for distance_ns, place, at in sorted(near):
        if place not in taken[0] and at not in taken[1]:
            taken[0].add(place)
            taken[1].add(at)
            found.append((distance_ns, ones[place], others[at]))
    return found


def _told(waiting: _Waiting) -> dict[str, Any]:
    return _told_of(waiting.given)


def _told_of(message: Message, *, short: bool = False) -> dict[str, Any]:
    """`short`: without what its key says."""
    plain: dict[str, Any] = msgspec.msgpack.decode(essence(message))
    left_out = LEFT_OUT.union(("type", *WHO, *ABOUT)) if short else LEFT_OUT
    return {name: value for name, value in plain.items() if name not in left_out}


def _same_rows(one: Samples, other: Samples) -> bool:
    return (
        one.devices == other.devices
        and np.array_equal(one.time_ns, other.time_ns)
        and np.array_equal(one.device, other.device)
    )


def _column(samples: Samples, name: str) -> NDArray[np.float64]:
    values = samples.columns.get(name)
    return np.full(samples.rows, np.nan) if values is None else values


def _close(one: NDArray[np.float64], other: NDArray[np.float64], tolerance: float) -> NDArray[np.bool_]:
    return np.isclose(one, other, rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True)


def _size(one: Any, other: Any) -> float:
    """How much two values differ, as a share; what is no number differs most."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) / max(abs(one), abs(other), 1e-300)
    return math.inf
