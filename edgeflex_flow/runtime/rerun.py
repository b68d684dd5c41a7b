"""Runs the operators of a flow once more on what happened in a run: the same batches in the same order, the same
periods, and, unless others are wanted, the same settings. There is no chance in it, and no clock but the recording's.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace

from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.messages import DeadLetter, Samples
from edgeflex_flow.node import DEAD_LETTERS, FLOW_ALARMS, NodeConfig, OperatorNode, SourceNode, WireMessage
from edgeflex_flow.recording import About, BadRecordingError, Entry, Given, Settings, Ticked
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.lifecycle import warm_up_plan
from edgeflex_flow.runtime.run import FlowRun, InForce, Tap
from edgeflex_flow.runtime.runners import Tick
from edgeflex_flow.runtime.stage import Stage, whole

SILENT: Final = logging.CRITICAL + 1


def plan_of(about: About, settings: Iterable[Settings], registry: Registry) -> Plan:
    """The flow that a recording is of, for `Rerun` alone: its sources and sinks cannot be opened.

    Raises BadRecordingError for kinds that are not installed, or that take other settings by now.
    """
    nodes = tuple(_planned(each, registry) for each in settings)
    return Plan(name=about.flow, about="", file=Path(about.flow), site=about.site, folder=Path(), nodes=nodes)


def _planned(settings: Settings, registry: Registry) -> PlannedNode:
    node = registry.nodes.get(settings.kind)
    if node is None:
        raise BadRecordingError(
            f"node '{settings.node}' is of kind '{settings.kind}' {settings.version}, which is not installed here"
        )
    config = config_of(settings, node.config) if isinstance(node, OperatorNode) else NodeConfig()
    return PlannedNode(id=settings.node, node=node, config=config, inputs=settings.inputs)


def config_of(settings: Settings, kind: type[NodeConfig]) -> NodeConfig:
    """The settings of an operator. Raises BadRecordingError."""
    try:
        return msgspec.json.decode(settings.config, type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadRecordingError(
            f"node '{settings.node}': its kind '{settings.kind}' {settings.version} does not take these settings here: "
            f"{error}"
        ) from error


class Rerun:
    """One flow, of which `take` gets entry by entry what happened.

    `own_ticks`: operators whose periods are not in the recording: they end by the recording's time. `with_settings`:
    operators go on with what the recording says that they did.
    """

    def __init__(
        self, plan: Plan, begin_ns: int, *, with_settings: bool = True, own_ticks: Collection[str] = ()
    ) -> None:
        warm_up_plan(plan, lambda: False)
        self._clock = VirtualClock(begin_ns)
        self.run = FlowRun(plan, clock=self._clock)
        self.run.log = logging.getLogger(f"edgeflex.rerun.{plan.name}")
        self.run.log.setLevel(SILENT)
        self._stage = Stage(self.run, whole(plan), {})
        self._sources = {node.id: node for node in plan.nodes if isinstance(node.node, SourceNode)}
        self._operators = {node.id: node for node in plan.nodes if isinstance(node.node, OperatorNode)}
        self._with_settings = with_settings
        self._due = {
            node: _Due(begin_ns, period_ns) for node, period_ns in plan.periods_ns.items() if node in own_ticks
        }

    def tap(self, node: str, tap: Tap) -> None:
        """Be told all that an operator gives."""
        self.run.taps[node] = tap

    def take(self, entry: Entry) -> None:
        """One thing that happened. What operators gave is made anew; what only the run itself could tell is taken."""
        self.reach(entry.at_ns)
        match entry:
            case Given(node=node, message=message):
                if node in self._sources:
                    self._begin(node, self._complete(node, message))
                elif node == FLOW_ALARMS or (node == DEAD_LETTERS and not self._is_operators(message)):
                    self._begin(node, message)
            case Ticked(node=node, at_ns=now_ns, last=last):
                if node in self._operators and node not in self._due:
                    self._begin(node, Tick(now_ns, last))
            case Settings():
                self._settle(entry)

    def reach(self, at_ns: int) -> None:
        """Time goes on: periods of `own_ticks` are over."""
        while self._due and min(due.at_ns for due in self._due.values()) <= at_ns:
            node, due = min(self._due.items(), key=lambda item: item[1].at_ns)
            self._clock.advance_to(due.at_ns)
            self._begin(node, Tick(due.at_ns))
            due.at_ns += due.period_ns
        self._clock.advance_to(at_ns)

    def _begin(self, node: str, given: WireMessage | Tick) -> None:
        self._stage.begin(node, given)
        while self.run.has_own_messages:
            for wire, message in self.run.take_own_messages():
                self._stage.begin(wire, message)

    def _is_operators(self, message: WireMessage) -> bool:
        return isinstance(message, DeadLetter) and message.node in self._operators

    def _complete(self, node: str, message: WireMessage) -> WireMessage:
        """With all columns that the source promises: those that it did not have then are unknown."""
        wire = self._sources[node].wire
        if wire is None or not isinstance(message, Samples) or wire.columns <= message.columns.keys():
            return message
        absent = dict.fromkeys(sorted(wire.columns - message.columns.keys()), np.full(message.rows, np.nan))
        return replace(message, columns={**message.columns, **absent})

    def _settle(self, settings: Settings) -> None:
        planned = self._operators.get(settings.node)
        if planned is None or not self._with_settings:
            return
        config = config_of(settings, planned.node.config)
        before = self.run.in_force[settings.node].config
        # The same object while nothing changes: by that nodes know.
        self.run.in_force[settings.node] = InForce(before if config == before else config, settings.policies)


@dataclasses.dataclass
class _Due:
    """When a period is over next."""

    at_ns: int
    period_ns: int

    def __post_init__(self) -> None:
        self.at_ns = (self.at_ns // self.period_ns + 1) * self.period_ns
