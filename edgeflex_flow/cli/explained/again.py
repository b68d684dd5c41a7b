"""Computes a message again, from its recording alone, and says whether it is the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from edgeflex_flow.cli.differing import differing
from edgeflex_flow.cli.explained.evidence import Found, Run, is_computed, sources_behind
from edgeflex_flow.cli.explained.identity import Span, essence, identity_of
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import Alarm, Message, Samples
from edgeflex_flow.node import DEAD_LETTERS, FLOW_ALARMS, WireMessage
from edgeflex_flow.recording import Entry, Given, Ticked
from edgeflex_flow.runtime.rerun import Rerun

ROUNDING: Final = 1e-9


class FieldDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A place of the message at which another value came out."""

    name: str
    recorded: str
    again: str


class Sufficient(msgspec.Struct, frozen=True, kw_only=True):
    """Samples from which alone the same comes, but for rounding: sums that go on for hours round otherwise."""

    since_ns: int
    """With time tags from here on, UTC nanoseconds."""
    devices: tuple[str, ...]
    """Of these alone; none: of all."""
    rows: int


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """What came of computing a message again."""

    same: bool
    """From all since the recording began: to the last bit, but for rounding where periods and batches are not told."""
    exact: bool = True
    """To the last bit."""
    why: str = ""
    """Why not, in words."""
    differences: tuple[FieldDifference, ...] = ()
    rows: int = 0
    """Of its sources, before it, all since the recording began: from those it was computed."""
    suffices: Sufficient | None = None
    """The least that was found to suffice; None: all do, or nothing tells how far back it looks."""
    recorded_s: float = 0.0
    """How long the recording had run by then."""


def again(found: Found, plan: Plan, span: Span | None, devices: Sequence[str]) -> Again:
    """Compute a message again from all since the recording began; then from the samples behind it alone, from those of
    twice as long a time, and so on, until the same comes of it. Raises BadRecordingError.
    """
    node = found.given.node
    if not is_computed(plan, node):
        return Again(same=False, why=f"nothing computed it: '{node}' tells what it was told")
    sources = sources_behind(plan, node)
    missing = [name for name in sources if name not in found.run.about.nodes]
    if missing:
        return Again(same=False, why=f"the recording lacks what {', '.join(missing)} gave: record that wire as well")
    begin_ns = next((each.at_ns for each in _entries(found, plan) if isinstance(each, Given | Ticked)), 0)
    recorded_s = (found.given.at_ns - begin_ns) / 1e9
    whole = _Part(None, ())
    made = _made(found, plan, whole.of(_entries(found, plan)))
    if made is None:
        return Again(same=False, why=_why_nothing(found), recorded_s=recorded_s)
    exact = found.run.is_whole and essence(made) == essence(found.message)
    if not exact and not _is_close(made, found.message, found.run):
        differences = tuple(_differences(found, made))
        why = (
            f"other values came of it, without what operators held when the recording began, {recorded_s:.1f} s before"
        )
        return Again(same=False, why=why, differences=differences, recorded_s=recorded_s)
    for since_ns in _beginnings(span, begin_ns, devices):
        part = _Part(since_ns, devices)
        made = _made(found, plan, part.of(_entries(found, plan)))
        if made is not None and _is_close(made, found.message, found.run):
            told = Sufficient(since_ns=since_ns, devices=tuple(devices), rows=part.rows)
            return Again(same=True, exact=exact, rows=whole.rows, suffices=told, recorded_s=recorded_s)
    return Again(same=True, exact=exact, rows=whole.rows, recorded_s=recorded_s)


def _beginnings(span: Span | None, begin_ns: int, devices: Sequence[str]) -> Iterator[int]:
    """From when on samples may suffice; each time twice as long as the one before, in the end all of one device."""
    if span is not None:
        length_ns = max(span.end_ns - span.begin_ns, 1_000_000)
        while span.end_ns - length_ns > begin_ns:
            yield span.end_ns - length_ns
            length_ns *= 2
    if devices:
        yield begin_ns


def _entries(found: Found, plan: Plan) -> Iterator[Entry]:
    """What happened up to the message, without what operators gave: that is made anew."""
    return found.run.until(found.given, [*sources_behind(plan, found.given.node), DEAD_LETTERS, FLOW_ALARMS])


class _Part:
    """Of all that happened, all settings and messages, and the samples from a time on. Counts their rows."""

    def __init__(self, since_ns: int | None, devices: Sequence[str]) -> None:
        self._since_ns = since_ns
        self._devices = devices
        self.rows = 0

    def of(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        for entry in entries:
            match entry:
                case Ticked(at_ns=at_ns) if self._since_ns is not None and at_ns < self._since_ns:
                    continue
                case Given(message=Samples() as samples):
                    rows = samples
                    if self._since_ns is not None:
                        chosen = Span(self._since_ns, 2**63 - 1).of(samples, self._devices)
                        if chosen is None:
                            continue
                        rows = chosen
                    self.rows += rows.rows
                    yield entry._replace(message=rows)
                case _:
                    yield entry


def _made(found: Found, plan: Plan, entries: Iterator[Entry]) -> Message | None:
    """What the node gives of that name: the same as the message if it does, else the last one like it."""
    rerun = Rerun(plan, 0)
    like: list[Message] = []

    def tap(message: WireMessage) -> None:
        if type(message) is type(found.message) and isinstance(message, Message) and _is_like(message, found.message):
            like.append(message)

    rerun.tap(found.given.node, tap)
    for entry in entries:
        rerun.take(entry)
    wanted = essence(found.message)
    return next((each for each in like if essence(each) == wanted), like[-1] if like else None)


def _is_like(one: Message, other: Message) -> bool:
    """Of one name and one state: an event begins and ends under one name."""
    return identity_of(one) == identity_of(other) and getattr(one, "state", None) == getattr(other, "state", None)


def _why_nothing(found: Found) -> str:
    if isinstance(found.message, Alarm):
        return "no operator gives it: the run itself tells of policies and budgets through its nodes, or it has a past"
    return "nothing of this name came of it"


def _is_close(one: Message, other: Message, run: Run) -> bool:
    """The same but for rounding. Of stores policies do not count: nobody knows their values."""
    left_out = () if run.is_whole else ("policies",)
    return not any(each.place.split(" ")[0] not in left_out for each in differing(_plain(one), _plain(other), ROUNDING))


def _differences(found: Found, made: Message) -> Iterator[FieldDifference]:
    for place, before, after in differing(_plain(found.message), _plain(made), ROUNDING):
        yield FieldDifference(name=place, recorded=json.dumps(before), again=json.dumps(after))


def _plain(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.msgpack.decode(essence(message))
    return found
