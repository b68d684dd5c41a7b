"""What a running flow tells about itself: counters, how long messages take, what the process needs."""

from __future__ import annotations

import os
import resource
import time
from typing import Literal, TypeVar

import msgspec

from edgeflex_flow.runtime.budgets import Budget
from edgeflex_flow.runtime.latency import Histogram
from edgeflex_flow.runtime.run import FlowRun

PAGE_BYTES = resource.getpagesize()

Value = TypeVar("Value", int, float, str)

Phase = Literal["starting", "running", "draining"]


class PathVitals(msgspec.Struct, frozen=True, kw_only=True):
    """How long messages took from a source to a sink. Counts are those of the buckets of `latency.BOUNDS_S`."""

    source: str
    sink: str
    took: tuple[int, ...]
    took_sum_s: float
    age: tuple[int, ...]
    age_sum_s: float


class BudgetVitals(msgspec.Struct, frozen=True, kw_only=True):
    """A budget of the flow file, and what reached its sink."""

    source: str
    sink: str
    of: str
    within_s: float
    messages: int
    late: int
    """Of these messages."""
    is_broken: bool


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """A flow at one moment."""

    flow: str
    phase: Phase
    time_ns: int
    """UTC nanoseconds since 1970."""
    monotonic_s: float
    """The same moment by a clock that nobody sets."""
    turn_age_s: float
    """How long ago the flow last took a turn, or began to open a source or sink; what stands still grows old."""
    memory_bytes: int
    """Resident memory of the process."""
    cpu_s: float
    """Time that the process has used of a processor."""
    nodes: dict[str, dict[str, int]]
    """Counters by node."""
    wires: dict[str, dict[str, int]]
    """Counters by wire, `pmu -> rocof.in`."""
    paths: tuple[PathVitals, ...]
    quality: dict[str, dict[str, int]] = {}
    """By node, rows that it gave with each quality flag."""
    gauges: dict[str, dict[str, float]] = {}
    """By node, what it tells of `gauges.GAUGES`."""
    budgets: tuple[BudgetVitals, ...] = ()
    policies: dict[str, dict[str, str]] = {}
    """By node or connection with bound settings, the version in force of each `policy.field`."""


def vitals_of(run: FlowRun) -> Vitals:
    """How a run is now. Any thread."""
    counts = run.summary()
    bound = (*run.in_force.items(), *run.connections.items())
    return Vitals(
        flow=run.plan.name,
        phase="draining" if run.stopping or run.ending else "running" if run.started.is_set() else "starting",
        time_ns=run.clock.now_ns(),
        monotonic_s=time.monotonic(),
        turn_age_s=time.monotonic() - run.turn_s if run.turn_s else 0.0,
        memory_bytes=memory_bytes(),
        cpu_s=time.process_time(),
        nodes=counts["nodes"],
        wires=counts["wires"],
        paths=tuple(
            PathVitals(
                source=source,
                sink=sink,
                took=_counts(times.took),
                took_sum_s=times.took.sum_s,
                age=_counts(times.age),
                age_sum_s=times.age.sum_s,
            )
            for (source, sink), times in list(run.paths.items())
        ),
        quality=_told({name: counters.snapshot() for name, counters in run.quality.items()}),
        gauges=_told({name: gauges.read() for name, gauges in list(run.gauges.items())}),
        budgets=tuple(_budget(budget) for budget in run.budgets.all),
        policies=_told({name: dict(each.policies) for name, each in bound}),
    )


def _budget(budget: Budget) -> BudgetVitals:
    config = budget.config
    return BudgetVitals(
        source=config.from_,
        sink=config.to,
        of=config.of,
        within_s=config.within,
        messages=budget.messages,
        late=budget.late,
        is_broken=budget.is_broken,
    )


def _told(by_node: dict[str, dict[str, Value]]) -> dict[str, dict[str, Value]]:
    """Without the nodes that have nothing to tell."""
    return {name: values for name, values in by_node.items() if values}


def _counts(histogram: Histogram) -> tuple[int, ...]:
    return tuple(histogram.counts)


def memory_bytes() -> int:
    """Resident memory of this process; the largest it ever was, where the system tells no more."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * PAGE_BYTES
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)
