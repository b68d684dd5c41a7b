"""A stage: nodes of a flow that work in one place, so that what passes between them is a plain call.

The inline runtime, and bytewax with one worker, run the whole flow as one stage. With several workers a flow has a
stage wherever rows have to be shared out by device or brought together again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.node import Counters, OperatorNode, Sink, SourceNode, WireMessage
from edgeflex_flow.runtime.latency import Origin
from edgeflex_flow.runtime.run import FlowRun, count_on
from edgeflex_flow.runtime.runners import Again, OperatorRunner, SinkRunner, Tick

SITE = "site"
DEVICE = "device"
WHOLE = "one stage"
"""How a flow's nodes are laid out when they all work in one place."""

Given = tuple[str, Sequence[WireMessage]]
"""A node and messages that it gave."""


def begun(
    node: str, given: WireMessage | Tick | Again, polled_s: float
) -> tuple[str, Sequence[WireMessage] | Tick | Again, Origin]:
    """What the feed gives, as stages take it."""
    return node, given if isinstance(given, Tick | Again) else [given], Origin(node, polled_s)


class StagePlan(NamedTuple):
    """Nodes of one stage. Scope `device`: each shard of devices has a stage of its own; `site`: there is one."""

    scope: str
    nodes: tuple[PlannedNode, ...]

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(node.id for node in self.nodes)

    @property
    def wanted(self) -> frozenset[str]:
        """Nodes of which this stage reads what they give, its own left out."""
        read = {source for node in self.nodes for sources in node.inputs.values() for source in sources}
        return frozenset(read) - self.ids


def whole(plan: Plan) -> StagePlan:
    """The whole flow as one stage."""
    return StagePlan(SITE, tuple(node for node in plan.nodes if not isinstance(node.node, SourceNode)))


def by_scope(plan: Plan) -> list[StagePlan]:
    """Stages such that a message changes from one to another only where the scope changes, those that give first."""
    place: dict[str, tuple[int, str]] = {}
    stages: dict[tuple[int, str], list[PlannedNode]] = {}
    for planned in plan.nodes:
        if isinstance(planned.node, SourceNode):
            continue
        scope = planned.node.scope if isinstance(planned.node, OperatorNode) else SITE
        before = [place[id_] for ids in planned.inputs.values() for id_ in ids if id_ in place]
        level = max((level + (given != scope) for level, given in before), default=0)
        place[planned.id] = level, scope
        stages.setdefault((level, scope), []).append(planned)
    return [StagePlan(scope, tuple(nodes)) for (_, scope), nodes in sorted(stages.items(), key=lambda item: item[0][0])]


class _Reader(NamedTuple):
    """One wire into a node of the stage."""

    wire: Counters
    node: str
    port: str
    operator: OperatorRunner | None
    sink: SinkRunner | None


class Stage:
    """Runs the nodes of a stage. Holds the states of its operators."""

    def __init__(self, run: FlowRun, planned: StagePlan, sinks: Mapping[str, Sink], name: str = SITE) -> None:
        """`name`: of this stage among those of the flow, by which it finds the state that it had in the run before."""
        self._run = run
        self._operators = {
            node.id: OperatorRunner(run, node, name) for node in planned.nodes if isinstance(node.node, OperatorNode)
        }
        self._sinks = {node.id: SinkRunner(run, node, sinks[node.id]) for node in planned.nodes if node.id in sinks}
        self._readers: dict[str, list[_Reader]] = {}
        for node in planned.nodes:
            for port, sources in node.inputs.items():
                for source in sources:
                    wire = run.wires[source, node.id, port]
                    reader = _Reader(wire, node.id, port, self._operators.get(node.id), self._sinks.get(node.id))
                    self._readers.setdefault(source, []).append(reader)
        self._leaves = {
            node.id for node in planned.nodes for reader, _ in run.plan.readers(node.id) if reader.id not in planned.ids
        }

    def begin(self, node: str, given: WireMessage | Tick | Again) -> list[Given]:
        """Take what has just come from a source, or the period of a node that is over just now."""
        return self.take(*begun(node, given, self._run.turn_s))

    def take(self, node: str, given: Sequence[WireMessage] | Tick | Again, origin: Origin) -> list[Given]:
        """Pass on what `node` gave, or let its period be over, or give it something once more, until nothing is left to
        do.

        Gives what nodes of other stages read.
        """
        if isinstance(given, Tick):
            given = self._operators[node].step("", given)
        elif isinstance(given, Again) and node in self._sinks:
            self._sinks[node].write([given.message], None)
            return []
        elif isinstance(given, Again):
            given = self._operators[node].again(given)
        return self._pass_on(deque([(node, given)]), origin)

    def _pass_on(self, pending: deque[Given], origin: Origin) -> list[Given]:
        leaving: list[Given] = []
        while pending:
            source, messages = pending.popleft()
            if not messages:
                continue
            if source in self._leaves:
                leaving.append((source, messages))
            for wire, node, port, operator, sink in self._readers.get(source, ()):
                count_on(wire, messages)
                if operator is not None:
                    pending.extend((node, operator.step(port, message)) for message in messages)
                elif sink is not None:
                    sink.write(messages, origin)
        return leaving
