"""Runs the edited flow and the running one on what comes in at the running one, and compares what they give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple

from msgspec.structs import replace

from edgeflex_flow.cli.explained.behind import window_s
from edgeflex_flow.cli.explained.show import when
from edgeflex_flow.cli.preview_run import told_nodes
from edgeflex_flow.cli.shadowed.compare import SIDES, Comparison, Counts, Deviation, Side
from edgeflex_flow.flowfile.difference import difference, renamed
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.messages import EventWindow, Samples
from edgeflex_flow.node import FLOW_WIRES, OperatorNode, SinkNode, SourceNode, WireMessage
from edgeflex_flow.policy import Binding
from edgeflex_flow.recording import NO_POLICY, Given, Settings, Turn, run_of
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.policy_values import value_of
from edgeflex_flow.runtime.rerun import Rerun, config_of, plan_of
from edgeflex_flow.runtime.run import InForce

SETTLE_S: Final = 5.0
LEFT_NS: Final = 5_000_000_000
"""A process that goes on so long after another one had begun is the running one again: the other was rolled back."""


def sources_of(plan: Plan) -> list[str]:
    return [node.id for node in plan.nodes if isinstance(node.node, SourceNode)]


def settle_s(plans: Iterable[Plan]) -> float:
    """How long windows need until a past plays no part in what is given to sinks; `SETTLE_S` where nobody tells."""
    known = [window_s(plan, node) for plan in plans for node in told_nodes(plan)]
    return max([SETTLE_S, *(2.0 * each for each in known if each is not None)])


class _Bound(NamedTuple):
    """A setting of the edited flow that a policy may change."""

    planned: PlannedNode
    name: str
    binding: Binding
    theirs: str
    """Which setting of the running flow goes by the same field."""


class Trial:
    """An edited flow beside the one that runs.

    Both are computed here, from what the running one's sources give and its periods, from the same moment on, so that
    what differs comes of the edit alone and not of a past that only one of them has. What the running flow gives itself
    is compared with what is computed of it here: where both agree, the past plays no part any more.
    """

    def __init__(
        self, running: Plan, new: Plan, registry: Registry, *, tolerance: float, apart_ns: int, settle_ns: int
    ) -> None:
        """`running`: as its file says. `settle_ns`: so long after the begin, what deviates does not count: windows are
        still to be filled.
        """
        self.new = new
        self._registry = registry
        self._tolerance = tolerance
        self._apart_ns = apart_ns
        self._settle_ns = settle_ns
        self._names = renamed(running, new)
        """Of nodes that are called otherwise in the edited flow."""
        self.notes: dict[str, None] = dict.fromkeys(_not_judged(running, new))
        """What people should know of it, each once."""
        self._bound = self._bound_alike(running)
        self._run = ""
        self._settings: dict[str, dict[str, Settings]] = {}
        """By process of the running flow and node, the last that were told."""
        self._left: set[str] = set()
        self._reruns: dict[Side, Rerun] = {}
        self._fed: dict[tuple[Side, str], list[Comparison]] = {}
        """By flow and node, what compares what it gives."""
        self._edit: dict[str, Comparison] = {}
        self._live: dict[str, Comparison] = {}
        self.counts: dict[str, Counts] = {}
        """By node, or wire to a sink that only one flow has, how what both give compares, since all has settled."""
        self.live_counts: dict[str, Counts] = {}
        """By node, how what the running flow gives compares to what is computed of it here."""
        self.revision = ""
        """Of the running flow."""
        self.begun_ns = 0
        self.reached_ns = 0
        self.settled = False
        self.rows = 0
        """That came in."""
        self.would_end = False
        """Whether the edited flow has met something that ends it."""

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
            for rerun in self._reruns.values():
                rerun.take(entry)
            if isinstance(entry, Given):
                self._note(entry)
        for rerun in self._reruns.values():
            rerun.reach(turn.reached_ns)
        self.reached_ns = turn.reached_ns
        failure = self._reruns["new"].run.failure
        if failure is not None:
            self.notes[f"the edited flow would end: {failure}"] = None
            self.would_end = True
        return self._settle()

    def _begin(self, turn: Turn, settings: Iterable[Settings]) -> None:
        """The running flow begins, or begins anew as it was or as another version."""
        if self._run:
            self._left.add(self._run)
            self.notes[f"the running flow began anew at {when(turn.reached_ns)}: so did this"] = None
        running = plan_of(turn.about, settings, self._registry)
        self._run, self.revision, self.settled = run_of(turn.file), turn.about.revision, False
        self.begun_ns = self.reached_ns = turn.about.begun_ns
        self._sources: dict[Side, set[str]] = {
            "running": set(sources_of(running)),
            "new": set(sources_of(self.new)),
        }
        self._reruns = {
            "running": Rerun(running, self.begun_ns - 1),
            "new": Rerun(self.new, self.begun_ns - 1, with_settings=False, own_ticks=_other_periods(running, self.new)),
        }
        self._fed, self._edit, self._live = {}, {}, {}
        wires: dict[Side, dict[str, set[str]]] = {
            "running": _to_sinks(running, self._names),
            "new": _to_sinks(self.new, {}),
        }
        for node in dict.fromkeys([*wires["running"], *wires["new"]]):
            self._compare_wires(node, wires["running"].get(node, set()), wires["new"].get(node, set()))
        if turn.about.shared:
            self.notes["the running flow works in several processes: what it gives itself is not compared"] = None
        else:
            self._compare_live()
        for side, rerun in self._reruns.items():
            for planned in rerun.run.plan.nodes:
                called = self._names.get(planned.id, planned.id) if side == "running" else planned.id
                if isinstance(planned.node, OperatorNode) and (side, called) in self._fed:
                    rerun.tap(planned.id, partial(self._made, side, called))
        self._tell_inputs(turn, running)

    def _compare_live(self) -> None:
        """What the running flow gives itself, with what is computed of it here."""
        before = {after: name for name, after in self._names.items()}
        for (side, node), comparisons in self._fed.items():
            if side == "running" and node in self._edit:
                name = before.get(node, node)
                self._live[name] = self._comparison(name)
                comparisons.append(self._live[name])

    def _compare_wires(self, node: str, running: set[str], new: set[str]) -> None:
        """What a node gives to sinks that both flows have, and to each that only one has."""
        is_source = any(each.id == node and isinstance(each.node, SourceNode) for each in self.new.nodes)
        if running & new and not is_source:  # both get the same of a source
            self._edit[node] = comparison = self._comparison(node)
            for side in SIDES:
                self._fed.setdefault((side, node), []).append(comparison)
        alone: dict[Side, set[str]] = {"running": running - new, "new": new - running}
        for side in SIDES:
            for sink in sorted(alone[side]):
                wire = f"{node} → {sink}"
                self._edit[wire] = comparison = self._comparison(wire)
                self._fed.setdefault((side, node), []).append(comparison)

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
        for comparison in self._fed.get((side, node), ()):
            comparison.take(side, message, now_ns)

    def _note(self, given: Given) -> None:
        if given.node in self._live:
            self._live[given.node].take("new", given.message, given.at_ns)
            return
        self.rows += given.message.rows if isinstance(given.message, Samples) else 0
        for side in SIDES:
            if given.node in self._sources[side]:
                self._made(
                    side, self._names.get(given.node, given.node) if side == "running" else given.node, given.message
                )

    def _bound_alike(self, running: Plan) -> dict[str, list[_Bound]]:
        """By node of the running flow, the settings of the edited one that go by the same field of a policy."""
        there = {
            binding.key: (node.id, name)
            for node in running.nodes
            if isinstance(node.node, OperatorNode)
            for name, binding in node.policies.items()
        }
        found: dict[str, list[_Bound]] = {}
        for planned in self.new.nodes:
            for name, binding in planned.policies.items() if isinstance(planned.node, OperatorNode) else ():
                if binding.key in there:
                    node, theirs = there[binding.key]
                    found.setdefault(node, []).append(_Bound(planned, name, binding, theirs))
                else:
                    where = f"policy {binding.key} at {planned.id}.{name}"
                    self.notes[f"{where}: only the edited flow has it; its default holds here"] = None
        return found

    def _bind(self, settings: Settings) -> None:
        """What policies say at the running flow holds for the edited one, too, within its own limits."""
        kind = self._registry.nodes[settings.kind].config
        for planned, name, binding, theirs in self._bound.get(settings.node, ()):
            version = settings.policies.get(binding.key, NO_POLICY)
            wanted = (
                getattr(planned.config, name) if version == NO_POLICY else getattr(config_of(settings, kind), theirs)
            )
            run = self._reruns["new"].run
            before, policies = run.in_force[planned.id]
            try:
                config = replace(before, **{name: value_of(before, name, binding, wanted, is_written=False)})
            except (ValueError, TypeError) as error:
                self.notes[f"policy {binding.key} at {planned.id}.{name}: the edited flow refuses it: {error}"] = None
                continue
            same = before if config == before else config
            run.in_force[planned.id] = InForce(same, {**policies, binding.key: version})

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


def _to_sinks(plan: Plan, names: Mapping[str, str]) -> dict[str, set[str]]:
    """By node that sinks read, those; called as `names` say."""
    found: dict[str, set[str]] = {}
    for sink in plan.nodes:
        for sources in sink.inputs.values() if isinstance(sink.node, SinkNode) else ():
            for source in sources:
                if source not in FLOW_WIRES:
                    found.setdefault(names.get(source, source), set()).add(names.get(sink.id, sink.id))
    return found


def _not_judged(running: Plan, new: Plan) -> Iterator[str]:
    """What differs in sources, sinks and connections, which are not opened here."""
    connectors = {node.id for plan in (running, new) for node in plan.nodes if not isinstance(node.node, OperatorNode)}
    for change in difference(running, new):
        if change.what == "connection" or (
            change.what in ("setting", "policy") and change.name.partition(".")[0].split(" ")[0] in connectors
        ):
            yield f"not judged, since sources and sinks are not opened: {change.text}"


def _other_periods(running: Plan, new: Plan) -> set[str]:
    """Operators of the new plan whose periods are not those of the running one."""
    before = running.periods_ns
    return {node for node, period_ns in new.periods_ns.items() if before.get(node) != period_ns}
