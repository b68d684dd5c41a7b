"""One run of a flow on a record: what its nodes told, and with which settings."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.cli.on_record import OnTime, Record, clock_of, plan_on_record
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import Alarm, EventWindow, Message, Samples, Setpoints, ShadowSetpoints
from edgeflex_flow.node import OperatorNode, SinkNode, WireMessage
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.policies import PolicyValues, apply_policies
from edgeflex_flow.runtime.run import FlowRun, Tap

SeriesKey: TypeAlias = tuple[str, str, str, str]
"""Node, controller, quantity, asset."""


@dataclass
class Series:
    """Set-points of one asset, in order of time."""

    times_ns: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    valid_s: array[float] = field(default_factory=lambda: array("d"))
    status: list[str] = field(default_factory=list)

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        return np.array(self.times_ns, dtype=np.int64), np.array(self.values, dtype=np.float64)


@dataclass
class Outcome:
    """What came of a run."""

    run: FlowRun
    """With its settings in force, what was refused, and its counters."""
    messages: dict[str, list[Message]] = field(default_factory=dict)
    """By node, without set-points and windows of samples."""
    setpoints: dict[SeriesKey, Series] = field(default_factory=dict)
    samples: dict[str, list[Samples]] = field(default_factory=dict)

    def take(self, node: str, message: WireMessage) -> None:
        if isinstance(message, Setpoints | ShadowSetpoints):
            for asset, value in message.values.items():
                series = self.setpoints.setdefault((node, message.controller, message.quantity, asset), Series())
                series.times_ns.append(message.time_ns)
                series.values.append(value)
                series.valid_s.append(message.valid_for_s)
                series.status.append(message.status)
        elif isinstance(message, Samples):
            self.samples.setdefault(node, []).append(message)
        elif not isinstance(message, EventWindow):
            self.messages.setdefault(node, []).append(message)


def told_nodes(plan: Plan) -> list[str]:
    """Operators whose output reaches somebody: those that feed a sink."""
    fed = {
        source
        for node in plan.nodes
        if isinstance(node.node, SinkNode)
        for ids in node.inputs.values()
        for source in ids
    }
    return [node.id for node in plan.nodes if node.id in fed and isinstance(node.node, OperatorNode)]


def prepare(plan: Plan, records: Mapping[str, Record], policies: Sequence[PolicyValues], *, on_time: OnTime) -> FlowRun:
    """A run on the records that has not begun, after these policies have come one after the other."""
    run = FlowRun(plan_on_record(plan, records, on_time=on_time), clock=clock_of(records))
    with _silent(run.log):
        for each in policies:
            apply_policies(run, each, written=True)
    return run


def run_through(run: FlowRun, *, samples_of: Collection[str] = ()) -> Outcome:
    """Run to the end, as fast as it can, and keep what nodes told that feed a sink, and all alarms.

    `samples_of`: nodes of which samples are kept as well, when they feed a sink. Raises FatalError.
    """
    outcome = Outcome(run)
    told = set(told_nodes(run.plan))
    for node in told | run.alarms.keys():
        run.taps[node] = _tap(outcome, node, all_messages=node in told, samples=node in told and node in samples_of)
    with _silent(run.log):
        run_inline(run)
    return outcome


def _tap(outcome: Outcome, node: str, *, all_messages: bool, samples: bool) -> Tap:
    def tap(message: WireMessage) -> None:
        if isinstance(message, Alarm) or (samples if isinstance(message, Samples) else all_messages):
            outcome.take(node, message)

    return tap


@contextmanager
def _silent(log: logging.Logger) -> Iterator[None]:
    """What the flow would log is part of what is compared, or counted."""
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)
