"""Whether what a flow gave is what a test expects."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.cli.differing import differing, shown
from edgeflex_flow.cli.golden.bounds import Bound
from edgeflex_flow.cli.golden.case_file import Expectation, Scalar
from edgeflex_flow.messages import Message, Samples, encode_message
from edgeflex_flow.node import WireMessage
from edgeflex_flow.units import NS_PER_S, UNITS, column_unit

MOST_SHOWN = 10
"""Differences that are told of an expectation."""
_UNIT: Final = re.compile(r"(?<=\d)\s*([^\s\d+±.-][^\s+±]*)")
"""What follows a number."""


class Collected(NamedTuple):
    """What a node gave, or a sink got, and when."""

    at_ns: int
    message: WireMessage


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as expected."""

    place: str
    expected: str
    got: str


class Points(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers over time, for a picture."""

    name: str
    time_s: tuple[float, ...]
    """Since the begin of the recording."""
    values: tuple[float, ...]
    low: float = -math.inf
    high: float = math.inf


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an expectation holds."""

    text: str
    good: bool
    got: str
    differences: tuple[Difference, ...] = ()
    more: int = 0
    """How many differences there are beside those."""
    points: tuple[Points, ...] = ()


class _Items(NamedTuple):
    """Rows or messages that count, in order."""

    at_s: NDArray[np.float64]
    """Since the begin: of messages when they were given, of rows their time tag."""
    values: Mapping[str, Sequence[Any]]
    """By path; several of one item stand beside each other in a list."""
    units: Mapping[str, str | None]

    def __len__(self) -> int:
        return len(self.at_s)


def judge(expected: Expectation, given: Sequence[Collected], begin_ns: int, folder: Path, *, update: bool) -> Verdict:
    """`update`: write the file of `same_as` anew. Raises OSError."""
    items = _rows(expected, given, begin_ns) if _is_of_rows(expected, given) else _messages(expected, given, begin_ns)
    differences = [*_count(expected, items), *_in_time(expected, items), *_values(expected, items)]
    if expected.same_as is not None:
        differences += _same(expected, given, folder / expected.same_as, update=update)
    return Verdict(
        text=expected.text,
        good=not differences,
        got=_summary(items),
        differences=tuple(differences[:MOST_SHOWN]),
        more=max(len(differences) - MOST_SHOWN, 0),
        points=tuple(_points(expected, items)),
    )


def _is_of_rows(expected: Expectation, given: Sequence[Collected]) -> bool:
    return expected.type == Samples.tag or (
        not expected.type and any(isinstance(each.message, Samples) for each in given)
    )


def _messages(expected: Expectation, given: Sequence[Collected], begin_ns: int) -> _Items:
    at_s: list[float] = []
    values: dict[str, list[Any]] = {path: [] for path in expected.values}
    units: dict[str, str | None] = dict.fromkeys(expected.values)
    for each in given:
        if not isinstance(each.message, Message) or not _counts(expected, (each.at_ns - begin_ns) / NS_PER_S):
            continue
        if expected.type and each.message.__struct_config__.tag != expected.type:
            continue
        told = msgspec.json.decode(encode_message(each.message))
        if not all(_matches(told, path, value) for path, value in expected.where.items()):
            continue
        at_s.append((each.at_ns - begin_ns) / NS_PER_S)
        for path in expected.values:
            values[path].append(list(_at(told, path.split("."))))
            units[path] = _unit(path, each.message)
    return _Items(np.array(at_s), values, units)


def _counts(expected: Expectation, at_s: float) -> bool:
    first_s, last_s = expected.after_s, expected.until_s
    return (first_s is None or at_s >= first_s) and (last_s is None or at_s < last_s)


def _at(told: Any, path: Sequence[str]) -> Iterator[Any]:
    """What stands at a path; `*` is every entry."""
    if not path:
        yield told
    elif path[0] == "*":
        for each in told.values() if isinstance(told, dict) else told if isinstance(told, list) else ():
            yield from _at(each, path[1:])
    elif isinstance(told, dict) and path[0] in told:
        yield from _at(told[path[0]], path[1:])
    elif isinstance(told, list) and path[0].isdigit() and int(path[0]) < len(told):
        yield from _at(told[int(path[0])], path[1:])


def _matches(told: Any, path: str, wanted: Scalar) -> bool:
    bound = Bound.parse(str(wanted), None)
    return any(bound.holds(each) for each in _at(told, path.split(".")))


def _unit(path: str, message: Message | None) -> str | None:
    """Of the last part of a path whose name ends in one, as of `exchange_w.0`, else of what the message is about."""
    about = str(getattr(message, "quantity", "") or getattr(message, "column", ""))
    units = (column_unit(each) for each in (*reversed(path.split(".")), about))
    return next((unit.symbol for unit in units if unit is not None), None)


def _rows(expected: Expectation, given: Sequence[Collected], begin_ns: int) -> _Items:
    at_s: list[NDArray[np.float64]] = []
    values: dict[str, list[Any]] = {name: [] for name in expected.values}
    for each in given:
        if not isinstance(each.message, Samples):
            continue
        samples = each.message
        time_s = (samples.time_ns - begin_ns) / NS_PER_S
        kept = np.array([_counts(expected, at) for at in time_s.tolist()], dtype=np.bool_)
        for name, wanted in expected.where.items():
            kept &= _rows_that(samples, name, wanted)
        at_s.append(time_s[kept])
        for name in expected.values:
            column = samples.columns.get(name)
            found = samples.quality if name == "quality" else column
            values[name] += [[]] * int(kept.sum()) if found is None else [[value] for value in found[kept].tolist()]
    units = {name: None if (unit := column_unit(name)) is None else unit.symbol for name in expected.values}
    return _Items(np.concatenate(at_s) if at_s else np.empty(0), values, units)


def _rows_that(samples: Samples, name: str, wanted: Scalar) -> NDArray[np.bool_]:
    bound = Bound.parse(str(wanted), None)
    if name == "device":
        fits = np.array([bound.holds(each) for each in samples.devices], dtype=np.bool_)
        return fits[samples.device] if len(fits) else np.zeros(samples.rows, dtype=np.bool_)
    values = samples.quality if name == "quality" else samples.columns.get(name)
    if values is None:
        return np.zeros(samples.rows, dtype=np.bool_)
    return np.array([bound.holds(each) for each in values.tolist()], dtype=np.bool_)


def _count(expected: Expectation, items: _Items) -> Iterator[Difference]:
    if not Bound.parse(str(expected.count), None).holds(len(items)):
        yield Difference(place="count", expected=str(expected.count), got=str(len(items)))


def _in_time(expected: Expectation, items: _Items) -> Iterator[Difference]:
    if expected.within_s is None or expected.after_s is None:
        return
    asked = Bound.parse(str(expected.count), None)
    last = next((number for number in range(1, len(items) + 1) if asked.holds(number)), max(len(items), 1))
    place = "first" if last == 1 else f"number {last}"
    if not len(items):
        yield Difference(place=place, expected=f"within {expected.within}", got="none")
    elif (late_s := float(items.at_s[last - 1]) - expected.after_s) > expected.within_s:
        yield Difference(place=place, expected=f"within {expected.within}", got=f"after {late_s * 1e3:.0f} ms")


def _values(expected: Expectation, items: _Items) -> Iterator[Difference]:
    for path, wanted in expected.values.items() if len(items) else ():  # without any, no unit is known
        bound = Bound.parse(str(wanted), items.units[path])
        for at_s, found in zip(items.at_s.tolist(), items.values[path], strict=True):
            place = f"{path} at {at_s:.3f} s"
            if not found:
                yield Difference(place=place, expected=bound.text, got="nothing")
            for each in found:
                if not bound.holds(each):
                    yield Difference(
                        place=place, expected=bound.text, got=_shown_as(bound.text, each, items.units[path])
                    )


def _shown(value: Any, unit: str | None) -> str:
    return f"{value:.6g} {unit or ''}".strip() if isinstance(value, float) else str(value)


def _shown_as(expected: str, value: Any, unit: str | None) -> str:
    """In the unit in which the expectation is written.

    >>> _shown_as("20 MW +- 1 kW", 2.84193e7, "W"), _shown_as("<= 3", 4.0, "W"), _shown_as("started", "ended", None)
    ('28.4193 MW', '4 W', 'ended')
    """
    found = next((word for word in _UNIT.findall(expected) if word in UNITS), unit)
    if unit is None or found is None or found == unit or UNITS[found].dimension != UNITS[unit].dimension:
        return _shown(value, unit)
    return _shown(value * UNITS[unit].factor / UNITS[found].factor, found) if _is_number(value) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _summary(items: _Items) -> str:
    parts = [str(len(items))]
    if len(items):
        parts.append(f"the first at {items.at_s[0]:.3f} s")
    for path, found in items.values.items():
        numbers = [each for some in found for each in some if _is_number(each)]
        if numbers:
            low, high = (_shown(float(each), items.units[path]) for each in (min(numbers), max(numbers)))
            parts.append(f"{path} {low}" if low == high else f"{path} {low} to {high}")
    return ", ".join(parts)


def _points(expected: Expectation, items: _Items) -> Iterator[Points]:
    for path, wanted in expected.values.items() if len(items) else ():
        bound = Bound.parse(str(wanted), items.units[path])
        pairs = [
            (at_s, float(each))
            for at_s, some in zip(items.at_s.tolist(), items.values[path], strict=True)
            for each in some
            if _is_number(each)
        ]
        if pairs:
            times, values = zip(*pairs, strict=True)
            unit = items.units[path]
            name = f"{expected.of} {path}{f' ({unit})' if unit else ''}"
            yield Points(name=name, time_s=times, values=values, low=bound.low, high=bound.high)


# Files ----------------------------------------------------------------------------------------------------------------


def _same(expected: Expectation, given: Sequence[Collected], file: Path, *, update: bool) -> Iterator[Difference]:
    told = [
        encode_message(each.message)
        for each in given
        if isinstance(each.message, Message) and expected.type in ("", each.message.__struct_config__.tag)
    ]
    if update:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"".join(line + b"\n" for line in told))
        return
    try:
        wanted = [json.loads(line) for line in file.read_bytes().splitlines() if line.strip()]
    except FileNotFoundError:
        yield Difference(
            place=file.name, expected="there to compare with", got="no file: edgeflex test --update writes it"
        )
        return
    found = [json.loads(line) for line in told]
    for number in range(max(len(wanted), len(found))):
        one = wanted[number] if number < len(wanted) else None
        other = found[number] if number < len(found) else None
        for each in differing(one, other, expected.tolerance, f"{file.name}:{number + 1}"):
            yield Difference(place=each.place, expected=shown(each.one), got=shown(each.other))
