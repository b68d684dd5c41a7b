"""What would have been different: two outcomes of one flow on one record, compared node by node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from edgeflex_flow.cli.preview_run import Outcome, told_nodes
from edgeflex_flow.cli.preview_samples import SamplesDifference, compare_samples
from edgeflex_flow.cli.preview_setpoints import SetpointsDifference, compare_setpoints
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.flowfile.wires import message_name
from edgeflex_flow.messages import Alarm, FrequencyEvent, Message, message_time_ns

SAME_EVENT_NS: Final = 2_000_000_000
"""What a device told at most this far apart is taken for the same, seen otherwise: an event that is noticed later has
a later onset."""
NOT_COMPARED: Final = frozenset(
    {"type", "policies", "version", "config_digest", "unit_digest", "settings", "solver_s", "id", "event_id"}
)
"""Fields that tell how something was made, and names that follow from the time."""
WHO: Final = (
    *("device", "source", "controller", "service", "quantity", "column", "variable"),
    *("location", "request_id"),
)
"""Fields by which messages of one type are told apart, beside their time; an empty one says nothing."""
Who: TypeAlias = tuple[tuple[str, str], ...]
MOST_FIELDS: Final = 50


class Told(Struct, frozen=True):
    """Something that only one of the runs told."""

    who: dict[str, str]
    time_ns: int
    fields: dict[str, Any]


class FieldDifference(Struct, frozen=True):
    """A field in which both runs differ. `by`: how much more it is, of numbers."""

    today: Any
    proposed: Any
    by: float | None = None


class Changed(Struct, frozen=True):
    """Something that both runs told, but not the same. `time_ns`: when today."""

    who: dict[str, str]
    time_ns: int
    fields: dict[str, FieldDifference]


class MessagesDifference(Struct, frozen=True):
    """Messages of one type of a node."""

    node: str
    type: str
    today: int
    """How many today's policies give."""
    proposed: int
    same: int
    only_today: list[Told]
    only_proposed: list[Told]
    changed: list[Changed]

    @property
    def differs(self) -> bool:
        return bool(self.only_today or self.only_proposed or self.changed)


class Comparison(Struct, frozen=True):
    """Everything that nodes told which feed a sink, and every alarm."""

    messages: list[MessagesDifference]
    setpoints: list[SetpointsDifference]
    samples: list[SamplesDifference]

    @property
    def differs(self) -> bool:
        found: tuple[MessagesDifference | SetpointsDifference | SamplesDifference, ...] = (
            *self.messages,
            *self.setpoints,
            *self.samples,
        )
        return any(each.differs for each in found)


def compare(plan: Plan, today: Outcome, proposed: Outcome, end_ns: int) -> Comparison:
    """Compare what came of today's and of the proposed policies. `end_ns`: where the record ends."""
    return Comparison(
        messages=[
            _compare_messages(node.id, kind, today, proposed)
            for node in plan.nodes
            for kind in _kinds([*today.messages.get(node.id, ()), *proposed.messages.get(node.id, ())])
        ],
        setpoints=compare_setpoints(plan, today.setpoints, proposed.setpoints, end_ns),
        samples=[
            found
            for node in told_nodes(plan)
            if (found := compare_samples(node, today.samples.get(node, ()), proposed.samples.get(node, ()))) is not None
        ],
    )


def _kinds(messages: Iterable[Message]) -> list[type[Message]]:
    """Types of messages, alarms last."""
    return sorted({type(each) for each in messages}, key=lambda kind: (kind is Alarm, message_name(kind)))


def _compare_messages(node: str, kind: type[Message], today: Outcome, proposed: Outcome) -> MessagesDifference:
    before = _told(each for each in today.messages.get(node, ()) if type(each) is kind)
    after = _told(each for each in proposed.messages.get(node, ()) if type(each) is kind)
    only_today: list[Told] = []
    only_proposed: list[Told] = []
    changed: list[Changed] = []
    for who in dict.fromkeys([*before, *after]):
        pairs, left_before, left_after = _pair(before.get(who, []), after.get(who, []))
        only_today += left_before
        only_proposed += left_after
        changed += [Changed(old.who, old.time_ns, fields) for old, new in pairs if (fields := _differences(old, new))]
    counts = [sum(map(len, each.values())) for each in (before, after)]
    return MessagesDifference(
        node=node,
        type=message_name(kind),
        today=counts[0],
        proposed=counts[1],
        same=counts[0] - len(only_today) - len(changed),
        only_today=sorted(only_today, key=_order),
        only_proposed=sorted(only_proposed, key=_order),
        changed=sorted(changed, key=_order),
    )


def _order(told: Told | Changed) -> tuple[int, list[str]]:
    return told.time_ns, list(told.who.values())


def _told(messages: Iterable[Message]) -> dict[Who, list[Told]]:
    """Messages by who they are of, in order of time. The start and the end of an event are one."""
    found: dict[Who, list[Told]] = {}
    events: dict[str, FrequencyEvent] = {}
    latest_ns = 0
    for message in messages:
        if isinstance(message, FrequencyEvent):
            events[message.id] = message
            continue
        time_ns = message_time_ns(message)
        latest_ns = latest_ns if time_ns is None else time_ns
        _add(found, message, latest_ns)
    for event in events.values():
        _add(found, event, event.onset_time_ns)
    for each in found.values():
        each.sort(key=lambda told: told.time_ns)
    return found


def _add(found: dict[Who, list[Told]], message: Message, time_ns: int) -> None:
    fields: dict[str, Any] = msgspec.to_builtins(message, enc_hook=str)
    who = {name: str(fields[name]) for name in WHO if fields.get(name) not in (None, "")}
    kept = {name: value for name, value in fields.items() if name not in NOT_COMPARED and name not in who}
    found.setdefault(tuple(who.items()), []).append(Told(who, time_ns, kept))


def _pair(before: Sequence[Told], after: Sequence[Told]) -> tuple[list[tuple[Told, Told]], list[Told], list[Told]]:
    """Those of the two runs that are the same thing, nearest first, and what is left of each."""
    candidates: list[tuple[int, int, int]] = []
    first = 0
    for place, old in enumerate(before):
        while first < len(after) and after[first].time_ns < old.time_ns - SAME_EVENT_NS:
            first += 1
        other = first
        while other < len(after) and after[other].time_ns <= old.time_ns + SAME_EVENT_NS:
            candidates.append((abs(after[other].time_ns - old.time_ns), place, other))
            other += 1
    of_after: dict[int, int] = {}
    of_before: dict[int, int] = {}
    # Of several at one time, the first of one run belongs to the first of the other.
    for _, old_place, new_place in sorted(candidates, key=lambda each: (each[0], each[1] + each[2], each[1])):
        if old_place not in of_before and new_place not in of_after:
            of_before[old_place], of_after[new_place] = new_place, old_place
    pairs = [(before[old], after[new]) for old, new in sorted(of_before.items())]
    return (
        pairs,
        [each for place, each in enumerate(before) if place not in of_before],
        [each for place, each in enumerate(after) if place not in of_after],
    )


def _differences(old: Told, new: Told) -> dict[str, FieldDifference]:
    before, after = dict(_flat("", old.fields)), dict(_flat("", new.fields))
    names = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    return {name: _difference(before.get(name), after.get(name)) for name in names[:MOST_FIELDS]}


def _difference(before: Any, after: Any) -> FieldDifference:
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (before, after))
    return FieldDifference(before, after, after - before if numbers else None)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The single values within a value, by where they stand: `values.north`, `powers_w.chp[3]`."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _flat(f"{path}.{name}" if path else str(name), each)
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield from _flat(f"{path}[{place}]", each)
    else:
        yield path, value
