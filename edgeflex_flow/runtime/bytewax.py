"""The bytewax runtime: compiles a plan to a bytewax dataflow. The only module that imports bytewax.

What it adds to bytewax 0.21.1: one source that waits in a selector for all inputs at once (an empty default poll costs
up to 1 ms), draining on a signal, errors that stay with their message, sinks that open once, not once a worker, and
stages: operators that need no exchange between workers pass messages on as plain calls (a step costs 20 µs).
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import bytewax.operators as op
import numpy as np
from bytewax._bytewax import cluster_main, run_main
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from edgeflex_flow.errors import FatalError
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import FLOW_WIRES, OperatorNode, Sink, SourceNode, WireMessage
from edgeflex_flow.runtime.feed import Feed, FeedItem
from edgeflex_flow.runtime.lifecycle import execute
from edgeflex_flow.runtime.receipts import Receipts
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.runners import Tick
from edgeflex_flow.runtime.stage import DEVICE, SITE, Given, Stage, StagePlan, by_scope, whole

EPOCH_INTERVAL = timedelta(seconds=1)
POLL_WAIT_S = 0.1
SHARED_POLL_WAIT_S = 0.001
"""With several workers the feed's worker also has others' messages to pass on, so it must not sleep for long."""
TURNS_AFTER_INPUT = 2
"""With several workers: polls that do not wait after one that gave something. The dataflow takes these turns to pass it
to the sinks."""
SHARDS_PER_WORKER = 4
AT_ONCE = datetime.fromtimestamp(0, UTC)

Keyed = tuple[str, tuple[str, Sequence[WireMessage] | Tick]]
"""Between steps: (shard key, (node, what it gave or its tick))."""


class _FeedPartition(StatefulSourcePartition[Keyed, None]):
    """The flow's feed as bytewax's one source. `take` carries on what came in; gives what further steps have to do."""

    def __init__(
        self,
        feed: Feed,
        run: FlowRun,
        receipts: Receipts,
        take: Callable[[list[FeedItem]], list[Keyed]],
        *,
        wait_s: float,
        turns: int,
    ) -> None:
        self._feed = feed
        self._receipts = receipts
        self._run = run
        self._take = take
        self._wait_s = wait_s
        self._turns = turns
        self._turns_left = 0

    def next_batch(self) -> Iterable[Keyed]:
        if self._feed.ended:
            raise StopIteration
        try:
            items = self._feed.poll(0.0 if self._turns_left else self._wait_s)
            self._turns_left = self._turns if items else max(self._turns_left - 1, 0)
            given = self._take(items)
            self._receipts.after_turn(busy=self._feed.in_flight())
            return given
        except Exception as error:  # noqa: BLE001 - bytewax would bury it; the run ends with it instead
            self._run.fail(error)
            raise StopIteration from None

    def next_awake(self) -> datetime:
        return AT_ONCE  # the feed waits in its own selector

    def snapshot(self) -> None:
        return None


class _FeedSource(FixedPartitionedSource[Any, None]):
    def __init__(self, build: Callable[[], _FeedPartition]) -> None:
        self._build = build

    def list_parts(self) -> list[str]:
        return ["feed"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _FeedPartition:
        del step_id, for_part, resume_state
        return self._build()


class _NothingLeft(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        del items


class _End(DynamicSink[Any]):
    """Where all streams end, since bytewax waits only for what an output waits for. Stages hold the flow's sinks."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _NothingLeft:
        del step_id, worker_index, worker_count
        return _NothingLeft()


class _InFlight:
    """Counts items on their way between the steps of a dataflow, over all its workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self, items: int) -> None:
        with self._lock:
            self._count += items

    def __bool__(self) -> bool:
        return self._count > 0


class _StageLogic(StatefulBatchLogic[tuple[str, Any], Given, None]):
    """The stage of one shard of devices, or of the site. `readers`: how many steps read what it gives."""

    def __init__(self, stage: Stage, in_flight: _InFlight, readers: int) -> None:
        self._stage = stage
        self._in_flight = in_flight
        self._readers = readers

    def on_batch(self, values: list[tuple[str, Sequence[WireMessage] | Tick]]) -> tuple[Iterable[Given], bool]:
        leaving: list[Given] = []
        for node, given in values:
            leaving += self._stage.take(node, given)
        self._in_flight.add(len(leaving) * self._readers - len(values))
        return leaving, self.RETAIN

    def snapshot(self) -> None:
        return None  # bytewax asks at each epoch's end, wanted or not; pickling all windows each second costs a third


class _Sharding:
    """Shares rows out by device among several workers."""

    def __init__(self, workers: int) -> None:
        self._keys = [str(shard) for shard in range(SHARDS_PER_WORKER * workers)]
        self._shard_of: dict[tuple[str, ...], Any] = {}

    def keys_of(self, scope: str) -> list[str]:
        return self._keys if scope == DEVICE else [SITE]

    def split(self, scope: str, messages: Sequence[WireMessage]) -> list[tuple[str, Sequence[WireMessage]]]:
        """The messages by key."""
        if scope == SITE:
            return [(SITE, messages)]
        shares: dict[str, list[WireMessage]] = {}
        for message in messages:
            for key, share in self._split_one(message):
                shares.setdefault(key, []).append(share)
        return list(shares.items())

    def _split_one(self, message: WireMessage) -> list[tuple[str, WireMessage]]:
        if isinstance(message, Samples):
            return self._split_samples(message)
        device = str(getattr(message, "device", None) or "")
        return [(self._keys[zlib.crc32(device.encode(errors="replace")) % len(self._keys)], message)]

    def _split_samples(self, samples: Samples) -> list[tuple[str, WireMessage]]:
        shard_of = self._shard_of.get(samples.devices)
        if shard_of is None:
            shard_of = np.array([zlib.crc32(name.encode()) % len(self._keys) for name in samples.devices])
            self._shard_of = {samples.devices: shard_of}
        shards = shard_of[samples.device]
        return [(self._keys[shard], samples.take(shards == shard)) for shard in np.unique(shards)]


def _on_one_worker(run: FlowRun, feed: Feed, sinks: Mapping[str, Sink], receipts: Receipts) -> Dataflow:
    """The whole flow is one stage, and the feed's step runs it."""
    stage = Stage(run, whole(run.plan), sinks)

    def take(items: list[FeedItem]) -> list[Keyed]:
        for node, message in items:
            stage.take(node, message if isinstance(message, Tick) else [message])
        return []

    flow = Dataflow(run.plan.name)
    source = _FeedSource(partial(_FeedPartition, feed, run, receipts, take, wait_s=POLL_WAIT_S, turns=0))
    op.output("end", op.input("feed", flow, source), _End())
    return flow


class _Stream(NamedTuple):
    """A bytewax stream of `Keyed` items: what these nodes gave."""

    nodes: frozenset[str]
    items: Any


def _on_workers(run: FlowRun, feed: Feed, sinks: Mapping[str, Sink], receipts: Receipts, workers: int) -> Dataflow:
    """Stages as keyed steps: bytewax gives each its shard of devices, on whichever worker has it."""
    stages = by_scope(run.plan)
    _refuse_late_ticks(stages)
    in_flight = _InFlight()
    feed.in_flight = partial(bool, in_flight)

    def take(items: list[FeedItem]) -> list[Keyed]:
        in_flight.add(len(items) * len(stages))  # every stage looks through what the feed gives
        return [("", (node, given if isinstance(given, Tick) else [given])) for node, given in items]

    flow = Dataflow(run.plan.name)
    source = _FeedSource(
        partial(_FeedPartition, feed, run, receipts, take, wait_s=SHARED_POLL_WAIT_S, turns=TURNS_AFTER_INPUT)
    )
    sharding = _Sharding(workers)
    streams = [_Stream(_fed(run.plan), op.input("feed", flow, source))]
    for number, stage in enumerate(stages):
        readers = sum(bool(stage.ids & later.wanted) for later in stages[number + 1 :])
        step = _StageStep(f"stage{number}", run, stage, sharding, sinks, in_flight, readers)
        streams.append(step.behind(streams))
    op.output("end", op.merge("all", *(stream.items for stream in streams)), _End())
    return flow


def _refuse_late_ticks(stages: Sequence[StagePlan]) -> None:
    """A tick comes from the feed and would overtake rows that are still in an earlier stage."""
    for stage in stages:
        behind = any(stage.wanted & earlier.ids for earlier in stages)
        ticking = [
            each.id
            for each in stage.nodes
            if isinstance(each.node, OperatorNode) and each.node.tick and not each.node.loose_ticks
        ]
        if behind and ticking:
            raise FatalError(
                f"operator '{ticking[0]}' works by the clock behind operators of another scope, whose order several "
                "workers cannot keep: run this flow with one worker"
            )


def _fed(plan: Plan) -> frozenset[str]:
    """Nodes whose messages come from the feed."""
    return frozenset(node.id for node in plan.nodes if isinstance(node.node, SourceNode)) | FLOW_WIRES.keys()


class _StageStep:
    """One stage as a bytewax step."""

    def __init__(
        self,
        name: str,
        run: FlowRun,
        stage: StagePlan,
        sharding: _Sharding,
        sinks: Mapping[str, Sink],
        in_flight: _InFlight,
        readers: int,
    ) -> None:
        self._name = name
        self._sharding = sharding
        self._scope, self._ids, self._wanted = stage.scope, stage.ids, stage.wanted
        self._in_flight = in_flight
        self._make: Callable[[], _StageLogic] = lambda: _StageLogic(Stage(run, stage, sinks), in_flight, readers)

    def behind(self, streams: Sequence[_Stream]) -> _Stream:
        """The step behind the streams that it reads."""
        first, *later = streams  # the first is the feed, which has ticks for all
        read = [first, *(stream for stream in later if stream.nodes & self._wanted)]
        routed = [
            op.flat_map_batch(f"{self._name}:from{number}", stream.items, self._route)
            for number, stream in enumerate(read)
        ]
        merged = routed[0] if len(routed) == 1 else op.merge(f"{self._name}:merge", *routed)
        return _Stream(self._ids, op.stateful_batch(self._name, merged, self._build))

    def _build(self, _resume: None) -> _StageLogic:
        return self._make()

    def _route(self, items: list[Keyed]) -> list[Keyed]:
        routed: list[Keyed] = []
        for _, (node, given) in items:
            if isinstance(given, Tick):
                if node in self._ids:
                    routed += [(key, (node, given)) for key in self._sharding.keys_of(self._scope)]
            elif node in self._wanted:
                routed += [(key, (node, share)) for key, share in self._sharding.split(self._scope, given)]
        self._in_flight.add(len(routed) - len(items))
        return routed


def run_bytewax(run: FlowRun, *, workers: int = 1) -> None:
    """Run a flow to its end on bytewax, with `workers` threads. Raises FatalError as `execute` does."""

    def pass_messages(feed: Feed, sinks: Mapping[str, Sink], receipts: Receipts) -> None:
        try:
            if workers == 1:
                flow = _on_one_worker(run, feed, sinks, receipts)
                run_main(flow, epoch_interval=EPOCH_INTERVAL)  # type: ignore[no-untyped-call]
            else:
                flow = _on_workers(run, feed, sinks, receipts, workers)
                cluster_main(  # type: ignore[no-untyped-call]
                    flow, [], 0, epoch_interval=EPOCH_INTERVAL, worker_count_per_proc=workers
                )
        except BytewaxRuntimeError as error:
            cause = _root_cause(error)
            raise cause if isinstance(cause, FatalError) else FatalError(f"bytewax stopped: {cause!r}") from error

    execute(run, pass_messages)


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
