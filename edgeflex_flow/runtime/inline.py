"""The inline runtime: the same flow in one thread of plain Python, with a real or a virtual clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from edgeflex_flow.node import OperatorNode, Sink, WireMessage
from edgeflex_flow.runtime.feed import Feed
from edgeflex_flow.runtime.lifecycle import execute
from edgeflex_flow.runtime.run import FlowRun, count_on
from edgeflex_flow.runtime.runners import OperatorRunner, SinkRunner, Tick

POLL_WAIT_S = 0.02


class _Graph:
    """Passes each message on to its readers until nothing is left to do."""

    def __init__(self, run: FlowRun, sinks: Mapping[str, Sink]) -> None:
        self._operators = {
            planned.id: OperatorRunner(run, planned)
            for planned in run.plan.nodes
            if isinstance(planned.node, OperatorNode)
        }
        self._sinks = {
            planned.id: SinkRunner(run, planned, sinks[planned.id]) for planned in run.plan.nodes if planned.id in sinks
        }
        self._wires = run.wires
        sources = {source for planned in run.plan.nodes for ids in planned.inputs.values() for source in ids}
        self._readers = {source: [(reader.id, port) for reader, port in run.plan.readers(source)] for source in sources}

    def push(self, node_id: str, message: WireMessage | Tick) -> None:
        if isinstance(message, Tick):
            pending = deque((node_id, given) for given in self._operators[node_id].step("", message))
        else:
            pending = deque([(node_id, message)])
        while pending:
            source, current = pending.popleft()
            for reader, port in self._readers.get(source, ()):
                count_on(self._wires[source, reader, port], [current])
                sink = self._sinks.get(reader)
                if sink is not None:
                    sink.write([current])
                else:
                    pending.extend((reader, given) for given in self._operators[reader].step(port, current))


def run_inline(run: FlowRun) -> None:
    """Run a flow to its end in this thread. Raises FatalError as `execute` does."""

    def pass_messages(feed: Feed, sinks: Mapping[str, Sink]) -> None:
        graph = _Graph(run, sinks)
        while not feed.ended:
            for node_id, message in feed.poll(POLL_WAIT_S):
                graph.push(node_id, message)

    execute(run, pass_messages)
