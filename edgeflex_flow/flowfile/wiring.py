"""Who reads from whom: `from` in its forms, unknown ids and ports, cycles, order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeflex_flow.errors import nearest
from edgeflex_flow.flowfile.decode import Decoded
from edgeflex_flow.flowfile.document import Value
from edgeflex_flow.flowfile.report import FileReport, got
from edgeflex_flow.flowfile.secrecy import Place
from edgeflex_flow.node import DEFAULT_PORT, FLOW_WIRES, Input, OperatorNode, SinkNode, SourceNode


@dataclass(frozen=True, slots=True)
class Reference:
    """A node id in a `from`, and where it stands."""

    id: str
    place: Place


@dataclass(slots=True)
class Draft:
    """A node of the flow while it is being checked."""

    id: str
    place: Place
    """Where its id stands."""
    node: OperatorNode[Any, Any] | SourceNode[Any] | SinkNode[Any] | None
    """None when its kind is unknown."""
    decoded: Decoded = field(default_factory=Decoded)
    inputs: dict[str, list[Reference]] = field(default_factory=dict)
    wired: bool = True
    """Whether its `from` is right, as far as the node alone can tell."""

    @property
    def ports(self) -> Mapping[str, Input]:
        return {} if self.node is None or isinstance(self.node, SourceNode) else self.node.inputs

    def references(self) -> Iterator[tuple[str, Reference]]:
        for port, references in self.inputs.items():
            for reference in references:
                yield port, reference


def read_from(draft: Draft, entries: Mapping[str, Value], keys: Mapping[str, Place], report: FileReport) -> None:
    """Fill in `draft.inputs` from the node's `from`. Ids are looked up later, when all nodes are known."""

    def wrong(place: Place, message: str, **more: object) -> None:
        draft.wired = False
        report.problem(place, message, node=draft.id, **more)  # type: ignore[arg-type]

    value = entries.get("from")
    if isinstance(draft.node, SourceNode):
        if value is not None:
            wrong(keys["from"], f"'{draft.node.kind}' is a source: nothing can be wired into it, so it has no 'from'")
        return
    if value is None:
        if draft.node is not None:
            wrong(draft.place, f"'from' is missing: which node does it read? {_how(draft.ports)}")
        return
    ports = value.mapping()
    if ports is None:
        ports, port_places = {DEFAULT_PORT: value}, {DEFAULT_PORT: value.place}
    else:
        port_places = dict(value.keys)
    if not ports:
        wrong(value.place, "'from' names no node")
    for port, each in ports.items():
        if draft.node is not None and port not in draft.ports:
            close = nearest(port, draft.ports)
            text = f"unknown port '{port}'" if value.mapping() is not None else f"no default port: {_how(draft.ports)}"
            wrong(port_places[port], text, known=tuple(draft.ports), nearest=close)
        draft.inputs[port] = list(_references(each, wrong))
    absent = [name for name, port in draft.ports.items() if not port.optional and name not in ports]
    if absent and ports and draft.wired:
        names = ", ".join(f"'{name}'" for name in absent)
        wrong(value.place, f"nothing is wired into port {names}", known=tuple(draft.ports))


def _how(ports: Mapping[str, Input]) -> str:
    if DEFAULT_PORT in ports:
        return "write 'from: NODE'"
    return "write 'from: {" + ", ".join(f"{name}: NODE" for name in ports) + "}'"


def _references(value: Value, wrong: object) -> Iterator[Reference]:
    assert callable(wrong)
    items = value.data if isinstance(value.data, tuple) else (value,)
    if not items:
        wrong(value.place, "'from' names no node")
    seen: set[str] = set()
    for item in items:
        if not isinstance(item.data, str):
            wrong(item.place, "'from' needs a node id, a list of ids, or a mapping of ports to them", got=got(item))
        elif item.data in seen:
            wrong(item.place, f"node '{item.data}' stands twice in one 'from'")
        else:
            seen.add(item.data)
            yield Reference(item.data, item.place)


def check_references(drafts: Mapping[str, Draft], report: FileReport) -> None:
    """Report ids that name no node, and reading from sinks. Wrong references are taken out."""
    known = (*(name for name, draft in drafts.items() if not isinstance(draft.node, SinkNode)), *FLOW_WIRES)
    for draft in drafts.values():
        for port, references in draft.inputs.items():
            good = []
            for reference in references:
                if reference.id in known:
                    good.append(reference)
                    continue
                draft.wired = False
                if reference.id in drafts:
                    text = f"node '{reference.id}' is a sink and gives nothing to read"
                    report.problem(reference.place, text, node=draft.id, known=_others(known, draft.id))
                    continue
                others = _others(known, draft.id)
                close = nearest(reference.id, others)
                text = f"'from' names the unknown node '{reference.id}'"
                report.problem(reference.place, text, node=draft.id, known=others, nearest=close)
            draft.inputs[port] = good


def _others(known: tuple[str, ...], node_id: str) -> tuple[str, ...]:
    return tuple(name for name in known if name != node_id)


def order(drafts: Mapping[str, Draft], report: FileReport) -> list[Draft]:
    """Nodes in topological order, in the file's order where that leaves a choice.

    Cycles are reported; nodes in them stand before those behind them, which are checked as far as they can be.
    """
    ids = list(drafts)
    index = {name: i for i, name in enumerate(ids)}
    upstream = {
        i: {index[reference.id] for _, reference in draft.references() if reference.id not in FLOW_WIRES}
        for i, draft in enumerate(drafts.values())
    }
    downstream: dict[int, list[int]] = {i: [] for i in upstream}
    for i, needs in upstream.items():
        for need in needs:
            downstream[need].append(i)
    done: list[int] = []
    _take_ready([i for i, needs in upstream.items() if not needs], upstream, downstream, done)
    cycles = list(_cycles(upstream))
    for cycle in cycles:
        _report_cycle([ids[i] for i in cycle], drafts, report)
    _take_ready(sorted({i for cycle in cycles for i in cycle}), upstream, downstream, done)
    return [drafts[ids[i]] for i in (*done, *upstream)]


def _take_ready(
    ready: list[int], upstream: dict[int, set[int]], downstream: Mapping[int, list[int]], done: list[int]
) -> None:
    """Move nodes from `upstream` to `done`: those that are ready, and those that become so by it."""
    while ready:
        i = heapq.heappop(ready)
        done.append(i)
        del upstream[i]
        for reader in downstream[i]:
            waits = upstream.get(reader, set())
            waits.discard(i)
            if not waits and reader in upstream and reader not in ready:
                heapq.heappush(ready, reader)


def _cycles(upstream: Mapping[int, set[int]]) -> Iterator[list[int]]:
    """Cycles among nodes that all wait for another one of them, each in the direction of the wires."""
    visited: set[int] = set()
    for start in upstream:
        path: dict[int, None] = {}
        node = start
        while node not in path and node not in visited:
            path[node] = None
            node = min(upstream[node])
        if node in path:
            walked = list(path)
            yield walked[walked.index(node) :][::-1]
        visited.update(path)


def _report_cycle(cycle: list[str], drafts: Mapping[str, Draft], report: FileReport) -> None:
    order_in_file = list(drafts)
    first = min(cycle, key=order_in_file.index)
    turned = cycle[cycle.index(first) :] + cycle[: cycle.index(first)]
    place = next(reference.place for _, reference in drafts[first].references() if reference.id == turned[-1])
    report.problem(place, f"the wires form a cycle: {' → '.join((*turned, first))}", node=first)


def note_unread(drafts: Mapping[str, Draft], report: FileReport) -> None:
    """Note nodes whose output nobody reads: allowed, but seldom meant."""
    read = {reference.id for draft in drafts.values() for _, reference in draft.references()}
    for draft in drafts.values():
        if draft.id not in read and isinstance(draft.node, OperatorNode | SourceNode):
            report.note(draft.place, "nobody reads what it gives", node=draft.id)
