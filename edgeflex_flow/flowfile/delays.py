"""What a path needs at worst by the settings of its nodes, as its budget counts it: windows, lags, periods, epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from edgeflex_flow.flowfile.plan import BudgetConfig, PlannedNode
from edgeflex_flow.node import Delays, NodeConfig, SinkNode, SourceNode, at_once

Sort: TypeAlias = Literal["window", "lag", "period", "epoch"]
"""No node has a part of an epoch: messages pass to the sinks within it. What waits for states to be saved are
acknowledgements to far sides, on which no message behind the source waits."""

NEARLY: Final = 1e-9
"""What sums of decimal fractions may be off by."""


class Part(NamedTuple):
    """What one node adds."""

    node: str
    sort: Sort
    seconds: float


Way: TypeAlias = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class BudgetSum:
    """What the worst path of a budget needs by its settings."""

    budget: BudgetConfig
    parts: Way
    """In the order of the path; those of 0 are left out."""
    unknown: tuple[str, ...] = ()
    """Nodes on the paths whose kind does not tell what it adds: the sum is not complete."""
    since: str | None = None
    """Of an age: the node from which it counts, since what that gives carries a time by its own clock."""

    @property
    def sum_s(self) -> float:
        return _seconds(self.parts)

    @property
    def left_s(self) -> float:
        """For networks and computing; below 0 when the budget cannot be kept."""
        return self.budget.within - self.sum_s

    @property
    def is_kept(self) -> bool:
        return self.sum_s <= self.budget.within * (1.0 + NEARLY)

    def of_sort(self, sort: Sort) -> float:
        return sum((part.seconds for part in self.parts if part.sort == sort), 0.0)

    def __str__(self) -> str:
        """`'rocof' window 500 ms + 'event' window 300 ms = 800 ms of 1 s`."""
        parts = " + ".join(f"'{part.node}' {part.sort} {duration(part.seconds)}" for part in self.parts)
        return f"{parts or 'nothing'} = {duration(self.sum_s)} of {duration(self.budget.within)}"


def duration(seconds: float) -> str:
    """A time as people read it.

    >>> duration(0.0), duration(0.0004), duration(0.25), duration(1.2), duration(3600.0)
    ('0', '0.4 ms', '250 ms', '1.2 s', '3600 s')
    """
    if not seconds:
        return "0"
    if abs(seconds) < 1.0 - NEARLY:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.0f} s" if abs(seconds) >= 1000.0 else f"{seconds:.3g} s"


@dataclass(frozen=True, slots=True)
class PathNodes:
    """The nodes on all paths from a source to a sink, each after those that it reads from."""

    nodes: tuple[PlannedNode, ...]

    @classmethod
    def between(cls, source: str, sink: str, nodes: Iterable[PlannedNode]) -> PathNodes:
        ordered = tuple(nodes)
        ahead = {source}
        for node in ordered:
            if any(each in ahead for each in _upstream(node)):
                ahead.add(node.id)
        back = {sink}
        for node in reversed(ordered):
            if node.id in back:
                back.update(_upstream(node))
        return cls(tuple(node for node in ordered if node.id in ahead & back))

    def sum(self, budget: BudgetConfig, configs: Mapping[str, NodeConfig] | None = None) -> BudgetSum:
        """What the worst path needs; with other configs of some nodes."""
        ways: dict[str, _Ways] = {}
        unknown: list[str] = []
        for node in self.nodes:
            config = (configs or {}).get(node.id, node.config)
            if node.node.delays is None:
                unknown.append(node.id)
            if isinstance(node.node, SourceNode):
                ways[node.id] = _read(node.id, _delays_of(node, config))
                continue
            found = [
                _passed(ways[each], node, _delays_of(node, config, port))
                for port, ids in node.inputs.items()
                for each in ids
                if each in ways
            ]
            if found:
                ways[node.id] = _worst(found)
        parts, since = ways[budget.to].of(budget.of)
        return BudgetSum(budget, _merged(parts), tuple(unknown), since)


@dataclass(frozen=True, slots=True)
class _Ways:
    """The worst ways to a node, as each kind of budget counts."""

    response: Way = ()
    took: Way = ()
    age: Way = ()
    since: str | None = None

    def of(self, what: Literal["age", "took", "response"]) -> tuple[Way, str | None]:
        if what == "age":
            return self.age, self.since
        return (self.took if what == "took" else self.response), None


def _upstream(node: PlannedNode) -> Iterator[str]:
    for ids in node.inputs.values():
        yield from ids


def _delays_of(node: PlannedNode, config: NodeConfig, port: str = "") -> Delays:
    """Those of the node, and of what it reads and writes by."""
    tell: Callable[[Any], Delays] = node.node.delays or at_once
    if not isinstance(node.node, SourceNode):
        tell = node.node.inputs[port].delays or tell
    own = tell(config)
    others = [each.node.delays(each.config) for each in node.connections.values()]
    return own._replace(
        lag_s=own.lag_s + sum(each.lag_s for each in others),
        period_s=own.period_s + sum(each.period_s for each in others),
    )


def _read(node: str, delays: Delays) -> _Ways:
    """What is read has waited on the far side, and the flow begins to count when it reads it."""
    held = (Part(node, "lag", delays.lag_s), Part(node, "period", delays.period_s))
    return _Ways(response=(Part(node, "window", delays.window_s), *held), age=held)


def _passed(before: _Ways, node: PlannedNode, delays: Delays) -> _Ways:
    window = Part(node.id, "window", delays.window_s)
    held = (Part(node.id, "lag", delays.lag_s), Part(node.id, "period", delays.period_s))
    onset_s = delays.onset_window_s + delays.onset_lag_s
    sort: Sort = "lag" if delays.onset_lag_s else "window"
    response = _at_least((*before.response, window, *held), Part(node.id, sort, onset_s))
    if isinstance(node.node, SinkNode):
        # Time and age end where the sink takes a message; only what follows on the far side waits for the rest.
        return _Ways(response, before.took, before.age, before.since)
    took = _at_least((*before.took, *held), Part(node.id, "lag", delays.onset_lag_s))
    if delays.age_s is not None:
        return _Ways(response, took, (Part(node.id, "lag", delays.age_s),), node.id)
    if delays.tells_onset:
        return _Ways(response, took, _at_least(response, Part(node.id, "lag", delays.end_lag_s)))
    return _Ways(response, took, (*before.age, *held), before.since)


def _at_least(way: Way, least: Part) -> Way:
    """The way, made as long as `least` by its node if it is shorter."""
    lacking_s = least.seconds - _seconds(way)
    return (*way, least._replace(seconds=lacking_s)) if lacking_s > 0.0 else way


def _worst(ways: Sequence[_Ways]) -> _Ways:
    oldest = max(ways, key=lambda each: _length(each.age))
    return _Ways(
        response=max((each.response for each in ways), key=_length),
        took=max((each.took for each in ways), key=_length),
        age=oldest.age,
        since=oldest.since,
    )


def _seconds(way: Way) -> float:
    return sum(part.seconds for part in way)


def _length(way: Way) -> tuple[float, int]:
    """Of two that are as long the one with more parts, which tells more."""
    return round(_seconds(way), 9), sum(part.seconds > 0.0 for part in way)


def _merged(way: Way) -> Way:
    """One part for each node and sort, without those of 0."""
    seconds: dict[tuple[str, Sort], float] = {}
    for part in way:
        seconds[part.node, part.sort] = seconds.get((part.node, part.sort), 0.0) + part.seconds
    return tuple(Part(node, sort, each) for (node, sort), each in seconds.items() if each)
