"""Runs the edited flow and the running one on what comes in at the running one, and compares what they give."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final

from msgspec.structs import replace

from edgeflex_flow.cli.explained.behind import window_s
from edgeflex_flow.cli.explained.show import when
from edgeflex_flow.cli.shadowed.compare import Comparison, Counts, Deviation, Side
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.messages import EventWindow, Samples
from edgeflex_flow.node import OperatorNode, SinkNode, SourceNode, WireMessage
from edgeflex_flow.recording import Given, Settings, Turn, run_of
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.policy_values import value_of
from edgeflex_flow.runtime.rerun import Rerun, config_of, plan_of
from edgeflex_flow.runtime.run import NO_POLICY, InForce

SETTLE_S: Final = 5.0
LEFT_NS: Final = 5_000_000_000
"""A process that goes on so long after another one had begun is the running one again: the other was rolled back."""


def outputs_of(plan: Plan) -> list[str]:
    """The operators that sinks read from."""
    read = {
        source
        for node in plan.nodes
        if isinstance(node.node, SinkNode)
        for sources in node.inputs.values()
        for source in sources
    }
    return [node.id for node in plan.nodes if node.id in read and isinstance(node.node, OperatorNode)]


def sources_of(plan: Plan) -> list[str]:
    return [node.id for node in plan.nodes if isinstance(node.node, SourceNode)]


def settle_s(plans: Iterable[Plan]) -> float:
    """How long windows need until a past plays no part in what is given to sinks; `SETTLE_S` where nobody tells."""
    known = [window_s(plan, node) for plan in plans for node in outputs_of(plan)]
    return max([SETTLE_S, *(2.0 * each for each in known if each is not None)])


class Trial:
    """An edited flow beside the one that runs.

    Both are computed here, from what the running one's sources give and its periods, from the same moment on, so that
    what differs comes of the edit alone and not of a past that only one of them has. What the running flow gives itself
    is compared with what is computed of it here: where both agree, the past plays no part any more.
    """

    def __init__(self, new: Plan, registry: Registry, *, tolerance: float, apart_ns: int, settle_ns: int) -> None:
        """`settle_ns`: so long after the begin, what deviates does not count: windows are still to be filled."""
        self.new = new
        self._registry = registry
        self._tolerance = tolerance
        self._apart_ns = apart_ns
        self._settle_ns = settle_ns
        self._run = ""
        self._settings: dict[str, dict[str, Settings]] = {}
        """By process of the running flow and node, the last that were told."""
        self._left: set[str] = set()
        self._reruns: dict[Side, Rerun] = {}
        self._edit: dict[str, Comparison] = {}
        self._live: dict[str, Comparison] = {}
        self.counts: dict[str, Counts] = {}
        """By node, how what both give compares, since all has settled."""
        self.live_counts: dict[str, Counts] = {}
        """By node, how what the running flow gives compares to what is computed of it here."""
        self.notes: dict[str, None] = {}
        """What people should know of it, each once."""
        self.revision = ""
        """Of the running flow."""
        self.begun_ns = 0
        self.reached_ns = 0
        self.settled = False
        self.rows = 0
        """That came in."""

    def take(self, turn: Turn) -> list[Deviation]:
        """What happened in the running flow; what deviates by now. Raises BadRecordingError."""
        run = run_of(turn.file)
        settings = self._settings.setdefault(run, {})
        settings |= {each.node: each for each in turn.entries if isinstance(each, Settings)}
        if run != self._run:
            if run in self._left and turn.reached_ns < self.reached_ns + LEFT_NS:
                return []  # the last of what is not the running process any more
            self._begin(turn, settings.values())
        self._look_whether_settled()
        for entry in turn.entries:
            if isinstance(entry, Settings):
                self._bind(entry)
            elif isinstance(entry, Given):
                self._note(entry)
            for rerun in self._reruns.values():
                rerun.take(entry)
        for rerun in self._reruns.values():
            rerun.reach(turn.reached_ns)
        self.reached_ns = turn.reached_ns
        return self._settle()

    def _begin(self, turn: Turn, settings: Iterable[Settings]) -> None:
        """The running flow begins, or begins anew as it was or as another version."""
        if self._run:
            self._left.add(self._run)
            self.notes[f"the running flow began anew at {when(turn.reached_ns)}: so did this"] = None
        running = plan_of(turn.about, settings, self._registry)
        self._run, self.revision, self.settled = run_of(turn.file), turn.about.revision, False
        self.begun_ns = self.reached_ns = turn.about.begun_ns
        self._reruns = {
            "running": Rerun(running, self.begun_ns - 1),
            "new": Rerun(self.new, self.begun_ns - 1, with_settings=False, own_ticks=_other_periods(running, self.new)),
        }
        self._edit, self._live = {}, {}
        for node in dict.fromkeys([*outputs_of(running), *outputs_of(self.new)]):
            self._edit[node] = self._comparison(node)
            for side, rerun in self._reruns.items():
                rerun.tap(node, partial(self._made, side, node))
        for node in outputs_of(running):
            self._live[node] = self._comparison(node)
        self._tell_inputs(turn, running)

    def _comparison(self, node: str) -> Comparison:
        return Comparison(node, tolerance=self._tolerance, apart_ns=self._apart_ns)

    def _tell_inputs(self, turn: Turn, running: Plan) -> None:
        there = set(sources_of(running))
        for name in sources_of(self.new):
            if name not in there:
                self.notes[f"source '{name}' is new: nothing comes of it here"] = None
            elif name not in turn.about.nodes:
                self.notes[f"source '{name}' is not recorded: nothing comes of it here"] = None

    def _made(self, side: Side, node: str, message: WireMessage) -> None:
        if isinstance(message, EventWindow):
            return  # no recording has it: it holds what its source's wire has
        now_ns = self._reruns[side].run.clock.now_ns()
        self._edit[node].take(side, message, now_ns)
        if side == "running" and node in self._live:
            self._live[node].take("running", message, now_ns)

    def _note(self, given: Given) -> None:
        if given.node in self._live:
            self._live[given.node].take("new", given.message, given.at_ns)
        elif isinstance(given.message, Samples):
            self.rows += given.message.rows

    def _bind(self, settings: Settings) -> None:
        """What policies say at the running flow holds for the edited one, too, within its own limits."""
        planned = next((node for node in self.new.nodes if node.id == settings.node), None)
        if planned is None or planned.node.kind != settings.kind or not isinstance(planned.node, OperatorNode):
            return
        told = config_of(settings, planned.node.config)
        run = self._reruns["new"].run
        config, policies = run.in_force[planned.id]
        for name, binding in planned.policies.items():
            version = settings.policies.get(binding.key, NO_POLICY)
            wanted = getattr(planned.config if version == NO_POLICY else told, name)
            try:
                config = replace(config, **{name: value_of(config, name, binding, wanted, is_written=False)})
            except (ValueError, TypeError) as error:
                self.notes[f"policy {binding.key} at {planned.id}.{name}: the edited flow refuses it: {error}"] = None
                continue
            policies = {**policies, binding.key: version}
        before = run.in_force[planned.id].config
        run.in_force[planned.id] = InForce(before if config == before else config, policies)

    def _settle(self) -> list[Deviation]:
        found = [each for comparison in self._edit.values() for each in comparison.settle(self.reached_ns)]
        for comparison in self._live.values():
            comparison.settle(self.reached_ns)
        return found if self.settled else []

    def _look_whether_settled(self) -> None:
        """From then on what deviates counts."""
        if self.settled or self.reached_ns - self.begun_ns < self._settle_ns:
            return
        self.settled = True
        for comparisons, counts in ((self._edit, self.counts), (self._live, self.live_counts)):
            for node, comparison in comparisons.items():
                comparison.counts = counts.setdefault(node, Counts())

    @property
    def compared(self) -> int:
        return sum(each.compared for each in self.counts.values())

    @property
    def deviating(self) -> int:
        return sum(each.deviating for each in self.counts.values())

    @property
    def agrees(self) -> float | None:
        """Share in which what the running flow gave is what is computed of it here; None if it gave nothing."""
        compared = sum(each.compared for each in self.live_counts.values())
        return sum(each.alike for each in self.live_counts.values()) / compared if compared else None

    @property
    def dead_letters(self) -> dict[Side, int]:
        """Of all operators, since the running flow began the last time."""
        return {
            side: sum(counters.get("dead_letters") for counters in rerun.run.counters.values())
            for side, rerun in self._reruns.items()
        }


def _other_periods(running: Plan, new: Plan) -> set[str]:
    """Operators of the new plan whose periods are not those of the running one."""
    before = {node.id: _period_s(node) for node in running.nodes}
    return {node.id for node in new.nodes if (period_s := _period_s(node)) and before.get(node.id) != period_s}


def _period_s(planned: PlannedNode) -> float | None:
    node = planned.node
    if not isinstance(node, OperatorNode) or node.tick_period_s is None:
        return None
    return node.tick_period_s(planned.config)
