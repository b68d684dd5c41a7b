"""A flow on recorded data: its sources replaced by records, its sinks by nothing, and a clock that the records move.

`plan_on_record` gives a plan like any other, for the inline runtime with `clock_of` its records. Operators and their
ticks run as they do live; nothing outside the process is read, written or spoken to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeflex_flow.cli.preview_files import Timed
from edgeflex_flow.clock import Clock, VirtualClock
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Context, NodeConfig, OperatorNode, SinkNode, SourceNode, WireMessage

LONGEST_BATCH_NS: Final = 1_000_000_000
APART_NS: Final = 100_000_000
"""Rows this far apart never come in one batch: live they would not either."""


class Record(NamedTuple):
    """What a source gave while it was recorded: rows and messages, each in order of time."""

    samples: Samples | None
    messages: tuple[Timed, ...] = ()

    @property
    def times_ns(self) -> NDArray[np.int64]:
        """Times of all rows and messages, in order."""
        rows = self.samples.time_ns if self.samples is not None else np.empty(0, dtype=np.int64)
        messages = np.array([each.time_ns for each in self.messages], dtype=np.int64)
        return np.sort(np.concatenate([rows, messages]))


OnTime = Callable[[int], None]
"""Told how far the records have been given, UTC nanoseconds."""


def _ignore(_time_ns: int) -> None:
    return None


def plan_on_record(plan: Plan, records: Mapping[str, Record], *, on_time: OnTime = _ignore) -> Plan:
    """The plan with its sources giving these records, by id, and sinks that take everything to nowhere.

    A source without a record gives nothing. Each source gives its rows once the latest of a batch was measured. A batch
    ends where a tick of the flow or something of another source comes between, after 1 s, and at every gap of 100 ms:
    nodes see rows, messages and ticks in the order in which they saw them live, had nothing come late.
    """
    periods_ns = [
        round(planned.node.tick_period_s(planned.config) * 1e9)
        for planned in plan.nodes
        if isinstance(planned.node, OperatorNode) and planned.node.tick_period_s is not None
    ]
    times = {node: record.times_ns for node, record in records.items()}

    def replaced(planned: PlannedNode) -> PlannedNode:
        if isinstance(planned.node, SinkNode):
            return dataclasses.replace(planned, node=dataclasses.replace(planned.node, open=_Nowhere), connections={})
        if not isinstance(planned.node, SourceNode):
            return planned
        others = [each for node, each in times.items() if node != planned.id]
        batches = _batches(records.get(planned.id, Record(None)), periods_ns, others)

        def open_source(_config: NodeConfig, context: Context) -> _Recorded:
            return _Recorded(batches, periods_ns, context.clock, on_time)

        return dataclasses.replace(planned, node=dataclasses.replace(planned.node, open=open_source), connections={})

    # No node of a record uses a connection: nothing is left of those that a policy may change.
    nodes = tuple(replaced(planned) for planned in plan.nodes)
    return dataclasses.replace(plan, nodes=nodes, bound_connections={})


def behind(plan: Plan, nodes: Iterable[str]) -> set[str]:
    """These nodes and all that their output reaches, through whatever others."""
    reached = set(nodes)
    for node in plan.nodes:
        if any(source in reached for ids in node.inputs.values() for source in ids):
            reached.add(node.id)
    return reached


def span_of(records: Mapping[str, Record]) -> tuple[int, int]:
    """Time of the first and of the last that was recorded, UTC nanoseconds. Raises ValueError if nothing was."""
    ends = [(int(times[0]), int(times[-1])) for record in records.values() if len(times := record.times_ns)]
    return min(first for first, _ in ends), max(last for _, last in ends)


def clock_of(records: Mapping[str, Record]) -> VirtualClock:
    """A clock that stands right before the records begin, so that a tick of their first moment comes first, too."""
    return VirtualClock(span_of(records)[0] - 1)


def _batches(record: Record, periods_ns: Sequence[int], others: Sequence[NDArray[np.int64]]) -> list[_Batch]:
    """What a source gives, and when. Of one time, rows come before messages."""
    batches = [_Batch(each.time_ns, each.message) for each in record.messages]
    if record.samples is not None:
        samples = record.samples
        own = np.array([each.time_ns for each in record.messages], dtype=np.int64)
        cuts = _cuts(samples.time_ns, periods_ns, [*others, own])
        edges = pairwise([0, *cuts.tolist(), samples.rows])
        batches += [_Batch(int(samples.time_ns[end - 1]), samples, (begin, end)) for begin, end in edges if end > begin]
    return sorted(batches, key=lambda batch: (batch.due_ns, batch.rows is None))


def _cuts(
    time_ns: NDArray[np.int64], periods_ns: Sequence[int], others: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Places before which a new batch begins."""
    if not len(time_ns):
        return np.empty(0, dtype=np.int64)
    cut = np.diff(time_ns) >= APART_NS
    for period_ns in (LONGEST_BATCH_NS, *periods_ns):
        cut |= np.diff(time_ns // period_ns) != 0
    for other_ns in others:
        cut |= np.diff(np.searchsorted(other_ns, time_ns, side="left")) != 0
    return np.flatnonzero(cut) + 1


class _Batch(NamedTuple):
    """Something that a source gives at one time."""

    due_ns: int
    item: WireMessage
    rows: tuple[int, int] | None = None
    """Of samples: from this row to before that one."""

    def given(self) -> WireMessage:
        if self.rows is None:
            return self.item
        assert isinstance(self.item, Samples)
        there = slice(*self.rows)
        columns = {name: values[there] for name, values in self.item.columns.items()}
        return replace(
            self.item,
            time_ns=self.item.time_ns[there],
            device=self.item.device[there],
            columns=columns,
            quality=self.item.quality[there],
            received_ns=self.due_ns,
        )


class _Recorded:
    """A source that gives a record on the flow's clock. Stops at each tick of the flow, so that none is left out."""

    def __init__(self, batches: Sequence[_Batch], periods_ns: Sequence[int], clock: Clock, on_time: OnTime) -> None:
        self._batches = batches
        self._periods_ns = periods_ns
        self._clock = clock
        self._on_time = on_time
        self._next = 0

    def open(self) -> None:
        return None

    def poll(self) -> Sequence[WireMessage]:
        now_ns = self._clock.monotonic_ns()
        if self.ended or self._batches[self._next].due_ns > now_ns:
            return ()
        first = self._next
        while not self.ended and self._batches[self._next].due_ns <= now_ns:
            self._next += 1
        self._on_time(now_ns)
        return [batch.given() for batch in self._batches[first : self._next]]

    @property
    def ended(self) -> bool:
        return self._next >= len(self._batches)

    def fileno(self) -> int | None:
        return None

    def next_poll_ns(self) -> int | None:
        now_ns = self._clock.monotonic_ns()
        if self.ended:
            return now_ns
        ticks = ((now_ns // period_ns + 1) * period_ns for period_ns in self._periods_ns)
        return min([self._batches[self._next].due_ns, *ticks])

    def close(self) -> None:
        return None


class _Nowhere:
    """A sink in place of one that would write or send."""

    def __init__(self, _config: Any, _context: Context) -> None:
        """Acquires nothing."""

    def open(self) -> None:
        return None

    def write(self, messages: Sequence[WireMessage]) -> None:
        del messages

    def flush(self, timeout_s: float) -> bool:
        del timeout_s
        return True

    def close(self) -> None:
        return None
