"""What a message rests on: samples of sources, messages that its node took, nodes on the way, policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edgeflex_flow.cli.explained.evidence import Found, sources_behind, upstream
from edgeflex_flow.cli.explained.identity import Span, identity_of, span_behind, type_of, who_of
from edgeflex_flow.flowfile.fields import config_fields, secret_keys
from edgeflex_flow.flowfile.picture import in_file_words
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import Message, Quality, Samples, join_samples
from edgeflex_flow.node import NodeConfig, OperatorNode
from edgeflex_flow.recording import Given, Settings
from edgeflex_flow.runtime.node_settings import code_of


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of an operator."""

    name: str
    value: str
    """As it would stand in a flow file."""
    is_default: bool = False


class NodeBehind(msgspec.Struct, frozen=True, kw_only=True):
    """A node on the way to a message, as it was then."""

    node: str
    kind: str
    version: str
    code: str
    code_now: str
    """Of the kind as it is installed here; empty if unknown."""
    reads: tuple[str, ...]
    policies: dict[str, str]
    settings: tuple[Setting, ...] = ()


class ColumnBehind(msgspec.Struct, frozen=True, kw_only=True):
    """Values of a column, NaN left out."""

    name: str
    least: float | None
    mean: float | None
    most: float | None


class SamplesBehind(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a source that a message rests on."""

    source: str
    rows: int
    devices: tuple[str, ...]
    first_ns: int | None
    last_ns: int | None
    flags: dict[str, int]
    """By name, how many rows have this flag of quality."""
    columns: tuple[ColumnBehind, ...]


class MessageBehind(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a node on the way had taken last."""

    node: str
    id: str
    type: str
    at_ns: int


def span_of(found: Found, plan: Plan) -> Span | None:
    """The time tags of the samples behind a message, those of the event included that it follows from."""
    span = span_behind(found.message, window_s(plan, found.given.node))
    event_id = getattr(found.message, "event_id", "")
    if span is None or not event_id:
        return span
    for each in found.run.messages():
        if getattr(each.message, "id", "") == event_id and each.given.seq < found.given.seq:
            event = span_behind(each.message, window_s(plan, each.given.node))
            return span if event is None else Span(min(span.begin_ns, event.begin_ns), max(span.end_ns, event.end_ns))
    return span


def window_s(plan: Plan, node: str) -> float | None:
    """How far back the longest way to a node looks; None if an operator on it does not say."""
    names = upstream(plan, node)
    total: dict[str, float | None] = {}
    for planned in plan.nodes:
        if planned.id not in names:
            continue
        before = [total.get(source, 0.0) for sources in planned.inputs.values() for source in sources]
        own = _window_s(planned.node, planned.config)
        known = [each for each in before if each is not None]
        total[planned.id] = None if own is None or len(known) < len(before) else own + max(known, default=0.0)
    return total.get(node)


def _window_s(node: Any, config: NodeConfig) -> float | None:
    if not isinstance(node, OperatorNode):
        return 0.0
    if node.delays is None:
        return None
    delays = node.delays(config)
    return max(delays.window_s, delays.onset_window_s + delays.onset_lag_s) + delays.lag_s


def devices_of(found: Found, plan: Plan) -> tuple[str, ...]:
    """The devices on whose samples a message rests; none: all. A controller's settings name those that it uses."""
    giver = next(each for each in plan.nodes if each.id == found.given.node)
    named: tuple[str, ...] = getattr(giver.config, "devices", ())
    if isinstance(named, tuple) and named:
        return named
    device: str = getattr(found.message, "device", "")
    names = upstream(plan, found.given.node)
    by_device = all(
        each.node.scope == "device" for each in plan.nodes if each.id in names and isinstance(each.node, OperatorNode)
    )
    return (device,) if device and by_device else ()


def nodes_behind(found: Found, plan: Plan) -> list[NodeBehind]:
    """The nodes on the way, in order."""
    settings = found.run.settings_before(found.given)
    by_id = {each.id: each for each in plan.nodes}
    return [
        NodeBehind(
            node=name,
            kind=settings[name].kind,
            version=settings[name].version,
            code=settings[name].code,
            code_now=code_of(by_id[name].node.config),
            reads=tuple(dict.fromkeys(source for sources in settings[name].inputs.values() for source in sources)),
            policies=settings[name].policies,
            settings=tuple(_settings(by_id[name].config, settings[name])),
        )
        for name in upstream(plan, found.given.node)
    ]


def _settings(config: NodeConfig, settings: Settings) -> Iterator[Setting]:
    written: dict[str, Any] = msgspec.json.decode(settings.config) or {}
    secrets = secret_keys([type(config)])
    for field in config_fields(type(config)):
        if field.key not in written:
            continue
        value = getattr(config, field.name)
        shown = in_file_words(value, field.hint.unit, secrets)
        yield Setting(name=field.key, value=shown, is_default=not field.required and value == field.default)


def samples_behind(found: Found, plan: Plan, span: Span | None, devices: Sequence[str]) -> dict[str, Samples]:
    """By source, the rows that a message rests on, of those that came before it."""
    taken: dict[str, list[Samples]] = {}
    for entry in found.run.until(found.given, sources_behind(plan, found.given.node)):
        if isinstance(entry, Given) and isinstance(entry.message, Samples):
            rows = (span or Span(-(2**63), 2**63 - 1)).of(entry.message, devices)
            if rows is not None:
                taken.setdefault(entry.node, []).append(rows)
    return {source: join_samples(batches) for source, batches in taken.items()}


def told_of(samples: Mapping[str, Samples]) -> list[SamplesBehind]:
    """In few words."""
    return [_told_of(source, each) for source, each in samples.items()]


def _told_of(source: str, samples: Samples) -> SamplesBehind:
    flags = {
        flag.name.lower(): count
        for flag in Quality
        if flag.name and (count := int(np.count_nonzero(samples.quality & np.uint16(flag))))
    }
    return SamplesBehind(
        source=source,
        rows=samples.rows,
        devices=tuple(samples.devices[code] for code in np.unique(samples.device)),
        first_ns=int(samples.time_ns.min()),
        last_ns=int(samples.time_ns.max()),
        flags=flags,
        columns=tuple(_column(name, values) for name, values in samples.columns.items()),
    )


def _column(name: str, values: Any) -> ColumnBehind:
    known = values[~np.isnan(values)]
    if not len(known):
        return ColumnBehind(name=name, least=None, mean=None, most=None)
    return ColumnBehind(name=name, least=float(known.min()), mean=float(known.mean()), most=float(known.max()))


def messages_behind(found: Found, plan: Plan) -> list[MessageBehind]:
    """Of each node that it reads from: what belongs to the same event, else the last message about each."""
    planned = next(each for each in plan.nodes if each.id == found.given.node)
    read = {source for sources in planned.inputs.values() for source in sources}
    event_id: str = getattr(found.message, "event_id", "")
    latest: dict[tuple[str, str, str], MessageBehind] = {}
    for each in found.run.messages():
        if each.given.seq >= found.given.seq:
            break
        if each.given.node not in read or (event_id and not _is_of(each.message, event_id)):
            continue
        name = type_of(each.message)
        told = MessageBehind(node=each.given.node, id=identity_of(each.message), type=name, at_ns=each.given.at_ns)
        latest[each.given.node, name, told.id if event_id else who_of(each.message)] = told
    return list(latest.values())


def _is_of(message: Message, event_id: str) -> bool:
    return event_id in (getattr(message, "id", ""), getattr(message, "event_id", ""))
