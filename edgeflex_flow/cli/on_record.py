"""A flow on recorded data: its sources replaced by records, its sinks by nothing, and a clock that the records move.

`plan_on_record` gives a plan like any other, for the inline runtime with `clock_of` its records. Operators and their
ticks run as they do live; nothing outside the process is read, written or spoken to.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeflex_flow import recording
from edgeflex_flow.cli.preview_files import Timed
from edgeflex_flow.clock import Clock, RecordedClock
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.messages import BUILT_IN_MESSAGES, Message, Quality, Samples
from edgeflex_flow.node import Context, NodeConfig, OperatorNode, Sink, SinkNode, SourceNode, WireMessage

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


class Due(NamedTuple):
    """Something that a source gives at one time, in nanoseconds on the flow's clock."""

    due_ns: int
    source: str
    given: Callable[[], WireMessage]


def plan_on_record(
    plan: Plan, records: Mapping[str, Record], *, on_time: OnTime = _ignore, sends: bool = False
) -> Plan:
    """`plan_on_stream` of records that are in memory, by the id of their source. It can be run once.

    A source without a record gives nothing. Each source gives its rows once the latest of a batch was measured. A batch
    ends where a tick of the flow or something of another source comes between, after 1 s, and at every gap of 100 ms:
    nodes see rows, messages and ticks in the order in which they saw them live, had nothing come late.
    """
    return plan_on_stream(plan, stream_of_records(plan, records), on_time=on_time, sink=None if sends else nowhere)


def plan_on_recording(
    plan: Plan, files: Sequence[Path], *, span: tuple[int, int], on_time: OnTime = _ignore, sends: bool = False
) -> Plan:
    """`plan_on_stream` of a recording of the wires of the flow's sources, of which only what was given within the span
    counts, UTC nanoseconds. It can be run once, and needs no more memory for a year than for a minute.

    Sources give what they gave, when they did, in the same order; batches are joined where that makes no difference: as
    in `plan_on_record`, and not at all where an operator looks at when rows arrived. Raises BadRecordingError while it
    runs.
    """
    stream = stream_of_recording(plan, files, span)
    return plan_on_stream(plan, stream, on_time=on_time, sink=None if sends else nowhere)


OpenSink = Callable[[NodeConfig, Context], Sink]


def nowhere(_config: NodeConfig, _context: Context) -> Sink:
    """A sink that takes everything to nowhere."""
    return _Nowhere()


def plan_on_stream(
    plan: Plan, stream: Iterator[Due], *, on_time: OnTime = _ignore, sink: OpenSink | None = nowhere
) -> Plan:
    """The plan with its sources giving what comes on a stream, in order of time, and other sinks; None: its own."""
    shared = _Stream(stream, list(plan.periods_ns.values()), on_time)

    def replaced(planned: PlannedNode) -> PlannedNode:
        if isinstance(planned.node, SinkNode):
            if sink is None:
                return planned
            return dataclasses.replace(planned, node=dataclasses.replace(planned.node, open=sink), connections={})
        if not isinstance(planned.node, SourceNode):
            return planned

        def open_source(_config: NodeConfig, context: Context) -> _Recorded:
            return _Recorded(planned.id, shared, context.clock)

        return dataclasses.replace(planned, node=dataclasses.replace(planned.node, open=open_source), connections={})

    # No node of a record uses a connection: nothing is left of those that a policy may change.
    nodes = tuple(replaced(planned) for planned in plan.nodes)
    return dataclasses.replace(plan, nodes=nodes, bound_connections={})


def stream_of_records(
    plan: Plan, records: Mapping[str, Record], *, longest_ns: int = LONGEST_BATCH_NS
) -> Iterator[Due]:
    """What sources give of records that are in memory, in order of time, in batches of at most so long."""
    periods_ns = [longest_ns, *plan.periods_ns.values()]
    times = {node: record.times_ns for node, record in records.items()}
    sources = [node.id for node in plan.nodes if isinstance(node.node, SourceNode) and node.id in records]
    made = []
    for source in sources:
        others = [each for node, each in times.items() if node != source]
        batches = _batches(records[source], periods_ns, others)
        made.append([Due(batch.due_ns, source, batch.given) for batch in batches])
    return heapq.merge(*made, key=lambda due: due.due_ns)


def stream_of_recording(
    plan: Plan,
    files: Sequence[Path],
    span: tuple[int, int],
    *,
    sources: Collection[str] | None = None,
    as_given: bool = False,
) -> Iterator[Due]:
    """What sources give of a recording of their wires, or these sources alone, in the order in which they did.
    `as_given`: no batches are joined."""
    known = {node.id: node for node in plan.nodes if isinstance(node.node, SourceNode)}
    wanted = {name: node for name, node in known.items() if sources is None or name in sources}
    types = {each for node in wanted.values() for each in _messages_of(node)}
    given = recording.read(
        files, nodes=wanted, types=types | set(BUILT_IN_MESSAGES), begins=None if as_given else _begins_of(plan)
    )
    for each in given:
        if span[0] <= each.at_ns < span[1]:
            yield Due(each.at_ns, each.node, partial(_replayed, each.message, wanted[each.node]))


def _messages_of(node: PlannedNode) -> set[type[Message]]:
    return set() if node.wire is None else {each for each in node.wire.messages if issubclass(each, Message)}


def _replayed(message: WireMessage, source: PlannedNode) -> WireMessage:
    """Marked, and with all columns that the source promises."""
    if not isinstance(message, Samples):
        return message
    columns = message.columns
    absent = () if source.wire is None else source.wire.columns - columns.keys()
    if absent:
        columns = {**columns, **dict.fromkeys(absent, np.full(message.rows, np.nan))}
    return replace(message, columns=columns, quality=message.quality | np.uint16(Quality.REPLAYED))


def _begins_of(plan: Plan) -> recording.Begins | None:
    """Where a batch must begin; None: they stay as they were given."""
    if any(isinstance(node.node, OperatorNode) and node.node.by_arrival for node in plan.nodes):
        return None
    periods_ns = (LONGEST_BATCH_NS, *plan.periods_ns.values())

    def begins(at_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        found = np.ones(len(at_ns), dtype=np.bool_)
        found[1:] = np.diff(at_ns) >= APART_NS
        for period_ns in periods_ns:
            found[1:] |= np.diff(at_ns // period_ns) != 0
        return found

    return begins


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


def clock_of(records: Mapping[str, Record]) -> RecordedClock:
    """A clock that stands right before the records begin, so that a tick of their first moment comes first, too."""
    return RecordedClock(span_of(records)[0] - 1)


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
    for period_ns in periods_ns:
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


class _Stream:
    """What is to be given, by whichever source, in order."""

    def __init__(self, stream: Iterator[Due], periods_ns: Sequence[int], on_time: OnTime) -> None:
        self._stream = stream
        self._periods_ns = periods_ns
        self._on_time = on_time
        self._head: Due | None = None
        self._began = False

    @property
    def head(self) -> Due | None:
        if not self._began:
            self._began, self._head = True, next(self._stream, None)
        return self._head

    def take(self, source: str, now_ns: int) -> Sequence[WireMessage]:
        """What is due of this source, up to what comes of another one."""
        given: list[WireMessage] = []
        while (head := self.head) is not None and head.source == source and head.due_ns <= now_ns:
            given.append(head.given())
            self._head = next(self._stream, None)
        if given:
            self._on_time(now_ns)
        return given

    def next_ns(self, now_ns: int) -> int:
        """When to look again: also at each tick of the flow, so that none is left out."""
        if self.head is None:
            return now_ns
        ticks = ((now_ns // period_ns + 1) * period_ns for period_ns in self._periods_ns)
        return min([self.head.due_ns, *ticks])


class _Recorded:
    """A source that gives its part of a stream on the flow's clock."""

    def __init__(self, source: str, stream: _Stream, clock: Clock) -> None:
        self._source = source
        self._stream = stream
        self._clock = clock

    def open(self) -> None:
        return None

    def poll(self) -> Sequence[WireMessage]:
        return self._stream.take(self._source, self._clock.monotonic_ns())

    @property
    def ended(self) -> bool:
        return self._stream.head is None

    def fileno(self) -> int | None:
        return None

    def next_poll_ns(self) -> int | None:
        return self._stream.next_ns(self._clock.monotonic_ns())

    def close(self) -> None:
        return None


class _Nowhere:
    """A sink in place of one that would write or send."""

    def open(self) -> None:
        return None

    def write(self, messages: Sequence[WireMessage]) -> None:
        del messages

    def flush(self, timeout_s: float) -> bool:
        del timeout_s
        return True

    def close(self) -> None:
        return None
