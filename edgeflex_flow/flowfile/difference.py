"""What differs between two versions of a flow, in the words of those who write flow files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from edgeflex_flow.flowfile.fields import ConfigField, config_fields, secret_keys, tag_field
from edgeflex_flow.flowfile.graph import output_wires
from edgeflex_flow.flowfile.picture import hides, in_file_words
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.flowfile.revision import connections_of
from edgeflex_flow.flowfile.secrecy import HIDDEN, SecretKeys
from edgeflex_flow.flowfile.svg import wire_name
from edgeflex_flow.flowfile.wires import describe
from edgeflex_flow.node import OpenConnection
from edgeflex_flow.policy import Binding, PolicyBinding

Kind: TypeAlias = Literal["added", "removed", "changed", "renamed"]
What: TypeAlias = Literal["node", "wire", "setting", "policy", "carries", "connection", "flow"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that differs."""

    what: What
    """`carries`: what a node gives, its messages, columns and units; `flow`: what is about all of it."""
    how: Kind
    name: str
    """The node, `source -> node.port`, `node.setting`, or the connection."""
    before: str = ""
    after: str = ""

    @property
    def text(self) -> str:
        """For people.

        >>> Change(what="setting", how="changed", name="rocof.window", before="500 ms", after="1 s").text
        'rocof.window: 500 ms → 1 s'
        """
        head = {"node": "node ", "wire": "wire ", "carries": "what ", "connection": "connection "}.get(self.what, "")
        told = f"{head}{self.name}" + (" carries" if self.what == "carries" else "")
        match self.how:
            case "added":
                return f"{told} is new" + (f": {self.after}" if self.after else "")
            case "removed":
                return f"{told} is gone" + (f": {self.before}" if self.before else "")
            case "renamed":
                return f"node {self.before} is called {self.after} now"
            case "changed":
                return f"{told}: {self.before} → {self.after}"


def difference(old: Plan, new: Plan) -> list[Change]:
    """All that differs, nodes first."""
    names = renamed(old, new)
    before = {names.get(node.id, node.id): node for node in old.nodes}
    now = {node.id: node for node in new.nodes}
    connections = [each for plan in (old, new) for each in connections_of(plan).values()]
    nodes = (*old.nodes, *new.nodes)
    secrets = secret_keys([*(type(node.config) for node in nodes), *(type(each.config) for each in connections)])
    return [
        *(Change(what="node", how="renamed", name=after, before=name, after=after) for name, after in names.items()),
        *_nodes(before, now),
        *_wires(old, new, names),
        *(change for name in now if name in before for change in _settings(name, before[name], now[name], secrets)),
        *_carried(old, new, names),
        *_connections(old, new, secrets),
        *_flow(old, new),
    ]


def renamed(old: Plan, new: Plan) -> dict[str, str]:
    """New names of nodes that are the same in all else, wires aside, where no other node is like them."""
    there, now = {node.id: node for node in old.nodes}, {node.id: node for node in new.nodes}
    gone = [node for name, node in there.items() if name not in now]
    come = [node for name, node in now.items() if name not in there]
    found: dict[str, str] = {}
    for node in gone:
        alike = [each for each in come if _alike(node, each)]
        if len(alike) == 1 and sum(_alike(each, alike[0]) for each in gone) == 1:
            found[node.id] = alike[0].id
    return found


def _alike(one: PlannedNode, other: PlannedNode) -> bool:
    return one.node.kind == other.node.kind and one.config == other.config and one.policies == other.policies


def _nodes(before: Mapping[str, PlannedNode], now: Mapping[str, PlannedNode]) -> Iterator[Change]:
    for name, node in before.items():
        if name not in now:
            yield Change(what="node", how="removed", name=name, before=node.node.kind)
    for name, node in now.items():
        if name not in before:
            yield Change(what="node", how="added", name=name, after=node.node.kind)
        elif before[name].node.kind != node.node.kind:
            yield Change(what="node", how="changed", name=name, before=before[name].node.kind, after=node.node.kind)


def wires_of(plan: Plan, names: Mapping[str, str] | None = None) -> dict[str, None]:
    """`source -> reader.port` of each wire, in order; nodes as `names` call them now."""
    called = names or {}
    return {
        wire_name(called.get(source, source), called.get(node.id, node.id), port): None
        for node in plan.nodes
        for port, sources in node.inputs.items()
        for source in sources
    }


def both_of(old: Plan, new: Plan, names: Mapping[str, str]) -> Plan:
    """The new flow with all that is gone from it, for a picture. Raises ValueError where both go round in circles."""
    before = {names.get(node.id, node.id): node for node in old.nodes}
    now = {node.id: node for node in new.nodes}
    merged: dict[str, PlannedNode] = {}
    for name, node in {**before, **now}.items():
        inputs: dict[str, tuple[str, ...]] = {}
        for version in (now.get(name), before.get(name)):
            for port, sources in version.inputs.items() if version is not None else ():
                called = [source if version is now.get(name) else names.get(source, source) for source in sources]
                inputs[port] = tuple(dict.fromkeys([*inputs.get(port, ()), *called]))
        merged[name] = replace(node, id=name, inputs=inputs)
    graph = {
        name: {source for sources in node.inputs.values() for source in sources if source in merged}
        for name, node in merged.items()
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ValueError("the wires of both versions together go round in circles") from error
    return replace(new, nodes=tuple(merged[name] for name in order))


def _wires(old: Plan, new: Plan, names: Mapping[str, str]) -> Iterator[Change]:
    before, now = wires_of(old, names), wires_of(new)
    for name in before:
        if name not in now:
            yield Change(what="wire", how="removed", name=name)
    for name in now:
        if name not in before:
            yield Change(what="wire", how="added", name=name)


def _settings(name: str, old: PlannedNode, new: PlannedNode, secrets: SecretKeys) -> Iterator[Change]:
    if old.node.kind != new.node.kind:
        return  # its settings are others
    fields = {field.name: field for field in config_fields(type(new.config))}
    for field in fields.values():
        if field.name not in old.policies.keys() | new.policies.keys():
            yield from _value(f"{name}.{field.key}", field, old.config, new.config, secrets)
        yield from _binding(
            f"{name}.{field.key}", field, old.policies.get(field.name), new.policies.get(field.name), secrets
        )


class _Valued(NamedTuple):
    """What a setting, or a part of one, is."""

    value: Any = None
    unit: str | None = None
    hidden: bool = False

    def text(self, secrets: SecretKeys) -> str:
        return HIDDEN if self.hidden else in_file_words(self.value, self.unit, secrets)


def _value(
    name: str, field: ConfigField, old: msgspec.Struct, new: msgspec.Struct, secrets: SecretKeys
) -> Iterator[Change]:
    yield from _changed(name, _valued(old, field), _valued(new, field), secrets)


def _valued(config: msgspec.Struct, field: ConfigField) -> _Valued:
    return _Valued(getattr(config, field.name), field.hint.unit, hides(config, field))


def _changed(name: str, old: _Valued, new: _Valued, secrets: SecretKeys) -> Iterator[Change]:
    """What differs in a setting; in one that is a mapping, key by key."""
    if old.value == new.value:
        return
    both = [each.value for each in (old, new)]
    if old.hidden or new.hidden or not all(isinstance(each, Mapping | msgspec.Struct) for each in both):
        before, after = old.text(secrets), new.text(secrets)
        yield Change(what="setting", how="changed", name=name, before=before, after=after)
        return
    whole = type(old.value) is type(new.value)
    before_parts, now_parts = (_parts(each, secrets, whole=whole) for each in both)
    for key in {**before_parts, **now_parts}:
        one, other = before_parts.get(key, _Valued()), now_parts.get(key, _Valued())
        yield from _changed(f"{name}.{key}", one, other, secrets)


def _parts(value: Mapping[Any, Any] | msgspec.Struct, secrets: SecretKeys, *, whole: bool) -> dict[str, _Valued]:
    """By key. `whole`: with what is as it is by default, which tells nothing beside a form that has other keys."""
    if isinstance(value, Mapping):
        return {str(key): _Valued(each, hidden=secrets.name_secret(str(key))) for key, each in value.items()}
    tag = tag_field(type(value))
    told = {} if tag is None else {tag: _Valued(value.__struct_config__.tag)}
    for field in config_fields(type(value)):
        if whole or field.required or getattr(value, field.name) != field.default:
            told[field.key] = _valued(value, field)
    return told


def _binding(
    name: str, field: ConfigField, old: Binding | None, new: Binding | None, secrets: SecretKeys
) -> Iterator[Change]:
    if old == new:
        return
    if old is None or new is None or old.key != new.key or type(old) is not type(new):
        texts = [_bound(each, field, secrets) for each in (old, new)]
        yield Change(what="policy", how="changed", name=name, before=texts[0], after=texts[1])
        return
    for part in old.__struct_fields__:
        values = [getattr(each, part) for each in (old, new)]
        if values[0] != values[1]:
            before, after = (in_file_words(value, field.hint.unit, secrets) for value in values)
            yield Change(what="policy", how="changed", name=f"{name} ({new.key}) {part}", before=before, after=after)


def _bound(binding: Binding | None, field: ConfigField, secrets: SecretKeys) -> str:
    if binding is None:
        return "bound to no policy"
    default = in_file_words(binding.default, field.hint.unit, secrets)
    if isinstance(binding, PolicyBinding):
        low, high = (in_file_words(value, field.hint.unit, secrets) for value in (binding.min, binding.max))
        return f"policy {binding.key}, {low} to {high}, else {default}"
    return f"policy {binding.key}, {', '.join(binding.allowed)}, else {default}"


def _carried(old: Plan, new: Plan, names: Mapping[str, str]) -> Iterator[Change]:
    before = {names.get(name, name): wire for name, wire in output_wires(old).items()}
    for name, wire in output_wires(new).items():
        other = before.get(name)
        if wire is None or other is None or other == wire:
            continue
        texts = ["; ".join(describe(each)) for each in (other, wire)]
        if texts[0] != texts[1]:
            yield Change(what="carries", how="changed", name=name, before=texts[0], after=texts[1])


def _connections(old: Plan, new: Plan, secrets: SecretKeys) -> Iterator[Change]:
    before, now = connections_of(old), connections_of(new)
    for name in before.keys() | now.keys():
        one, other = before.get(name), now.get(name)
        if one is None and other is not None:
            yield Change(what="connection", how="added", name=name, after=other.node.kind)
        elif other is None and one is not None:
            yield Change(what="connection", how="removed", name=name, before=one.node.kind)
        elif one is not None and other is not None:
            yield from _connection(name, one, other, secrets)


def _connection(name: str, old: OpenConnection, new: OpenConnection, secrets: SecretKeys) -> Iterator[Change]:
    if old.node.kind != new.node.kind:
        yield Change(what="connection", how="changed", name=name, before=old.node.kind, after=new.node.kind)
        return
    for field in config_fields(type(new.config)):
        yield from _value(f"connection {name}.{field.key}", field, old.config, new.config, secrets)


def _flow(old: Plan, new: Plan) -> Iterator[Change]:
    told: dict[str, tuple[Any, Any]] = {
        "flow": (old.name, new.name),
        "site": (old.site, new.site),
        "folder": (str(old.folder), str(new.folder)) if old.file == new.file else ("", ""),
        "policies of connections": (_bound_connections(old), _bound_connections(new)),
        "budgets": (_budgets(old), _budgets(new)),
        "state": (_state(old), _state(new)),
    }
    for name, (before, after) in told.items():
        if before != after:
            yield Change(what="flow", how="changed", name=name, before=before or "none", after=after or "none")


def _bound_connections(plan: Plan) -> str:
    bound = [
        f"{name}.{key} by {each.key}" for name, fields in plan.bound_connections.items() for key, each in fields.items()
    ]
    return ", ".join(sorted(bound))


def _budgets(plan: Plan) -> str:
    return ", ".join(f"{each.from_} to {each.to} within {each.within:g} s ({each.of})" for each in plan.budgets)


def _state(plan: Plan) -> str:
    return "" if plan.state is None else f"kept in {plan.state.folder}, every {plan.state.every:g} s"


def marks_of(changes: Sequence[Change]) -> tuple[dict[str, Kind], dict[str, Kind]]:
    """Of nodes and of wires, by name, what happened to them: for a picture."""
    nodes: dict[str, Kind] = {}
    wires: dict[str, Kind] = {}
    for each in changes:
        if each.what == "wire":
            wires[each.name] = each.how
        elif each.what == "node":
            nodes[each.name] = each.how
        elif each.what in ("setting", "policy") and not each.name.startswith("connection "):
            nodes.setdefault(each.name.partition(".")[0], "changed")
    return nodes, wires
