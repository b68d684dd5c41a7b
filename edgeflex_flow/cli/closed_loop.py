"""A flow in a closed loop with a simulated grid, on the grid's own time: as fast as it can be computed, and every time
the same. What a running flow has besides, sockets, queues and the clock, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import Alarm, FlexRequest, Samples, Setpoints
from edgeflex_flow.node import OperatorNode, WireMessage
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.runners import Tick
from edgeflex_flow.runtime.stage import Stage, whole


class FlowInLoop:
    """The operators of a flow, fed by hand. `actuating`: nodes whose set-points the grid obeys."""

    def __init__(self, plan: Plan, *, measuring: str, actuating: Iterable[str]) -> None:
        self._clock = VirtualClock()
        taps = {planned.id: self._alarmed for planned in plan.nodes}
        self.run = FlowRun(plan, clock=self._clock, taps={**taps, **dict.fromkeys(actuating, self._told)})
        """Policies may change its configs between two reactions."""
        self.alarms: list[Alarm] = []
        self.requests: list[FlexRequest] = []
        """What the market was asked for."""
        self._stage = Stage(self.run, whole(plan), {})
        self._measuring = measuring
        self._setpoints: list[Setpoints] = []
        self._period_ns = plan.periods_ns
        self._due_ns = dict.fromkeys(self._period_ns, 0)

    def _alarmed(self, message: WireMessage) -> None:
        if isinstance(message, Alarm):
            self.alarms.append(message)

    def _told(self, message: WireMessage) -> None:
        self._alarmed(message)
        if isinstance(message, Setpoints):
            self._setpoints.append(message)
        elif isinstance(message, FlexRequest):
            self.requests.append(message)

    def take(self, node: str, message: WireMessage, now_ns: int) -> None:
        """Give what a source has to what reads it; set-points that come of it are those of the next `react`."""
        self._clock.advance_to(now_ns)
        self._stage.begin(node, message)

    def react(self, samples: Samples | None, now_ns: int) -> list[Setpoints]:
        """Take what was measured, let all ticks that are due pass, and give the set-points that came of it."""
        self._clock.advance_to(now_ns)
        if samples is not None:
            self._stage.begin(self._measuring, samples)
        for node, due_ns in self._due_ns.items():
            if now_ns >= due_ns:
                self._stage.begin(node, Tick(now_ns))
                period_ns = self._period_ns[node]
                # As the feed does: on whole periods, so that nodes of one period stay in step.
                self._due_ns[node] = now_ns - now_ns % period_ns + period_ns
        given, self._setpoints = self._setpoints, []
        return given

    def end(self, now_ns: int) -> list[Setpoints]:
        """What the operators still give when the flow drains."""
        for node in self.run.plan.nodes:
            if isinstance(node.node, OperatorNode) and node.node.end is not None:
                self._stage.begin(node.id, Tick(now_ns, last=True))
        given, self._setpoints = self._setpoints, []
        return given


@contextmanager
def flow_in_loop(
    plan: Plan, *, measuring: str = "pmu", actuating: Iterable[str] = ("dispatch",)
) -> Iterator[FlowInLoop]:
    """The flow while the block lasts."""
    loop = FlowInLoop(plan, measuring=measuring, actuating=actuating)
    try:
        yield loop
    finally:
        loop.run.wakeup.close()
