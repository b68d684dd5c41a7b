"""The bytewax runtime: compiles a plan to a bytewax dataflow. The only module that imports bytewax.

What it adds to bytewax 0.21.1: one source that waits in a selector for all inputs at once (an empty default poll costs
up to 1 ms), draining on a signal, errors that stay with their message, sinks that open once, not once a worker,
stages: operators that need no exchange between workers pass messages on as plain calls (a step costs 20 µs), and keys
of which it is known on which worker they are, in this process or in another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import bytewax.operators as op
from bytewax._bytewax import cluster_main, run_main
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, FixedPartitionedSource, StatefulSourcePartition, StatelessSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from edgeflex_flow.errors import FatalError
from edgeflex_flow.flowfile.cluster import ClusterConfig
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.node import FLOW_WIRES, OperatorNode, Sink, SourceNode, WireMessage
from edgeflex_flow.runtime.cluster_head import Head
from edgeflex_flow.runtime.cluster_link import listens_on
from edgeflex_flow.runtime.cluster_member import Member
from edgeflex_flow.runtime.feed import Feed, FeedItem
from edgeflex_flow.runtime.latency import Origin
from edgeflex_flow.runtime.lifecycle import execute, warm_up_patiently
from edgeflex_flow.runtime.receipts import Receipts
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.runners import Again, Tick
from edgeflex_flow.runtime.sharding import InFlight, Sharding
from edgeflex_flow.runtime.stage import WHOLE, Stage, StagePlan, begun, by_scope, whole

EPOCH_INTERVAL = timedelta(seconds=1)
POLL_WAIT_S = 0.1
SHARED_POLL_WAIT_S = 0.001
"""With several workers the feed's worker also has others' messages to pass on, so it must not sleep for long."""
TURNS_AFTER_INPUT = 2
"""With several workers: polls that do not wait after one that gave something. The dataflow takes these turns to pass it
to the sinks."""
SPARE_KEYS = 4
"""Keys that are tried beyond those needed, since some workers get fewer than others."""
AT_ONCE = datetime.fromtimestamp(0, UTC)

Keyed = tuple[str, tuple[str, Sequence[WireMessage] | Tick | Again, Origin]]
"""Between steps: (shard key, (node, what it gave or its tick, what it came of))."""

_Share = tuple[str, str, Sequence[WireMessage] | Tick | Again, Origin]
"""Into a stage: its shard key, and the shard's part of what a node gave, or its tick; and what it came of."""

_Leaving = tuple[str, Sequence[WireMessage], Origin]
"""Out of a stage: a node, messages that it gave, and what they came of."""


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
        if self._feed.ended or self._run.cluster.is_broken:
            raise StopIteration
        try:
            if self._receipts.waits_for_quiet and self._feed.in_flight():
                return []
            items = self._feed.poll(0.0 if self._turns_left else self._wait_s)
            self._turns_left = self._turns if items else max(self._turns_left - 1, 0)
            given = self._take(items)
            self._receipts.after_turn(self._feed.in_flight)
            return given
        except Exception as error:  # noqa: BLE001 - bytewax would bury it; the run ends with it instead
            self._run.fail(error)
            raise StopIteration from None

    def next_awake(self) -> datetime:
        return AT_ONCE  # the feed waits in its own selector

    def snapshot(self) -> None:
        return None


class _FeedSource(FixedPartitionedSource[Any, None]):
    def __init__(self, build: Callable[[], _FeedPartition], *, is_here: bool = True) -> None:
        self._build = build
        self._is_here = is_here

    def list_parts(self) -> list[str]:
        return ["feed"] if self._is_here else []

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


class _StageLogic(StatefulBatchLogic[_Share, _Leaving, None]):
    """The stage of one shard of devices, or of the site. `readers`: how many steps read what it gives."""

    def __init__(self, make: Callable[[str], Stage], in_flight: InFlight, readers: int) -> None:
        self._make = make
        self._stage: Stage | None = None
        self._in_flight = in_flight
        self._readers = readers

    def on_batch(self, values: list[_Share]) -> tuple[Iterable[_Leaving], bool]:
        leaving: list[_Leaving] = []
        for key, node, given, origin in values:
            if self._stage is None:
                self._stage = self._make(key)  # bytewax tells nobody's key
            leaving += [(left, messages, origin) for left, messages in self._stage.take(node, given, origin)]
        self._in_flight.add(made=len(leaving) * self._readers, done=len(values))
        return leaving, self.RETAIN

    def snapshot(self) -> None:
        return None  # bytewax asks at each epoch's end, wanted or not; pickling all windows each second costs a third


def _on_one_worker(run: FlowRun, feed: Feed, sinks: Mapping[str, Sink], receipts: Receipts) -> Dataflow:
    """The whole flow is one stage, and the feed's step runs it."""
    stage = Stage(run, whole(run.plan), sinks)

    def take(items: list[FeedItem]) -> list[Keyed]:
        for node, message in items:
            stage.begin(node, message)
        return []

    flow = Dataflow(run.plan.name)
    source = _FeedSource(partial(_FeedPartition, feed, run, receipts, take, wait_s=POLL_WAIT_S, turns=0))
    op.output("end", op.input("feed", flow, source), _End())
    return flow


class _Stream(NamedTuple):
    """A bytewax stream of `Keyed` items: what these nodes gave."""

    nodes: frozenset[str]
    items: Any


class _Workers(NamedTuple):
    """The workers of a dataflow, in one process or in several."""

    sharding: Sharding
    in_flight: InFlight


def _on_workers(
    run: FlowRun, feed: Feed | None, sinks: Mapping[str, Sink], receipts: Receipts | None, workers: _Workers
) -> Dataflow:
    """Stages as keyed steps: bytewax gives each its shard of devices, on whichever worker has it.

    Without a feed: as a process other than the first sees it.
    """
    stages = by_scope(run.plan)
    refuse_late_ticks(stages)
    sharding, in_flight = workers.sharding, workers.in_flight

    def take(items: list[FeedItem]) -> list[Keyed]:
        in_flight.add(made=len(items) * len(stages))  # every stage looks through what the feed gives
        return [("", begun(node, given, run.turn_s)) for node, given in items]

    def partition() -> _FeedPartition:
        assert feed is not None
        assert receipts is not None
        return _FeedPartition(feed, run, receipts, take, wait_s=SHARED_POLL_WAIT_S, turns=TURNS_AFTER_INPUT)

    flow = Dataflow(run.plan.name)
    source = _FeedSource(partition, is_here=feed is not None)
    streams = [_Stream(_fed(run.plan), op.input("feed", flow, source))]
    for number, stage in enumerate(stages):
        readers = sum(bool(stage.ids & later.wanted) for later in stages[number + 1 :])
        step = _StageStep(f"stage{number}", run, stage, sharding, sinks, in_flight, readers)
        streams.append(step.behind(streams))
    op.output("end", op.merge("all", *(stream.items for stream in streams)), _End())
    return flow


def refuse_late_ticks(stages: Sequence[StagePlan]) -> None:
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
        sharding: Sharding,
        sinks: Mapping[str, Sink],
        in_flight: InFlight,
        readers: int,
    ) -> None:
        self._name = name
        self._sharding = sharding
        self._scope, self._ids, self._wanted = stage.scope, stage.ids, stage.wanted
        self._in_flight = in_flight

        def make(key: str) -> Stage:
            try:
                return Stage(run, stage, sinks, f"{name}/{sharding.name_of(key)}")
            except FatalError as error:
                run.fail(error)  # other processes may break by it, and bytewax tell of them instead
                raise

        self._build: Callable[[None], _StageLogic] = lambda _resume: _StageLogic(make, in_flight, readers)

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

    def _route(self, items: list[Keyed]) -> list[tuple[str, _Share]]:
        routed: list[tuple[str, _Share]] = []
        for _, (node, given, origin) in items:
            if isinstance(given, Tick):
                if node in self._ids:
                    routed += [(key, (key, node, given, origin)) for key in self._sharding.keys_of(self._scope)]
            elif isinstance(given, Again):
                if node in self._ids:
                    shares = self._sharding.split(self._scope, [given.message])
                    routed += [(key, (key, node, Again(given.port, each), origin)) for key, (each,) in shares]
            elif node in self._wanted:
                shares = self._sharding.split(self._scope, given)
                routed += [(key, (key, node, share, origin)) for key, share in shares]
        self._in_flight.add(made=len(routed), done=len(items))
        return routed


def run_bytewax(run: FlowRun, *, workers: int = 1) -> None:
    """Run a flow to its end on bytewax, with `workers` threads. Raises FatalError as `execute` does."""
    if workers == 1:

        def pass_in_one(feed: Feed, sinks: Mapping[str, Sink], receipts: Receipts) -> None:
            flow = _on_one_worker(run, feed, sinks, receipts)
            with _told():
                run_main(flow, epoch_interval=EPOCH_INTERVAL)  # type: ignore[no-untyped-call]

        execute(run, pass_in_one, layout=WHOLE)
        return
    shared = _Workers(sharding_among(workers, workers), InFlight())

    def pass_messages(feed: Feed, sinks: Mapping[str, Sink], receipts: Receipts) -> None:
        feed.in_flight = partial(bool, shared.in_flight)
        _join(_on_workers(run, feed, sinks, receipts, shared), [], 0, workers)

    execute(run, pass_messages, layout=shared.sharding.layout)


def _join(flow: Dataflow, addresses: Sequence[str], process: int, workers: int) -> None:
    """Pass messages until the dataflow has ended, in all processes. Raises FatalError."""
    with _told():
        cluster_main(  # type: ignore[no-untyped-call]
            flow, list(addresses), process, epoch_interval=EPOCH_INTERVAL, worker_count_per_proc=workers
        )


@contextmanager
def _told() -> Iterator[None]:
    """What bytewax raises, as a FatalError. A worker that loses another process panics, which is no Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        cause = _cause(error)
        raise cause if isinstance(cause, FatalError) else FatalError(f"bytewax stopped: {cause!r}") from error


def run_in_cluster(run: FlowRun, cluster: ClusterConfig, process: int) -> None:
    """Run a process of a cluster to its end. Raises FatalError as `execute` does, also when another process is gone."""
    refuse_late_ticks(by_scope(run.plan))
    shared = _Workers(sharding_among(cluster.total_workers, cluster.total_shards), InFlight())
    join = partial(_join, addresses=cluster.processes, process=process, workers=cluster.workers)
    listens = partial(listens_on, cluster.address(process).port)
    if process > 0:
        warm_up_patiently(run)
        member = Member(run, cluster, process, shared.in_flight)
        try:
            member.serve(lambda: join(_on_workers(run, None, {}, None, shared)), listens=listens)
        finally:
            run.wakeup.close()
        run.raise_failure()
        return
    head = Head(run, cluster, shared.in_flight)

    def pass_messages(feed: Feed, sinks: Mapping[str, Sink], receipts: Receipts) -> None:
        feed.in_flight = head.is_busy
        flow = _on_workers(run, feed, sinks, receipts, shared)
        head.pass_messages(lambda: join(flow), listens=listens)

    try:
        execute(run, pass_messages, layout=shared.sharding.layout, before_opening=head.gather)
    finally:
        head.close()


def sharding_among(workers: int, shards: int) -> Sharding:
    """Shards that take turns among the workers, and what exists once on the first worker."""
    free: dict[int, list[str]] = {worker: [] for worker in range(workers)}
    tried = 0
    most = -(-shards // workers) + 1
    while any(len(keys) < most for keys in free.values()):
        keys = [str(number) for number in range(tried, tried + workers * (most + SPARE_KEYS))]
        tried += len(keys)
        for key, worker in places_of(workers, keys).items():
            free[worker].append(key)
    site_key = free[0].pop()
    return Sharding([free[shard % workers].pop() for shard in range(shards)], site_key)


def places_of(workers: int, keys: Sequence[str]) -> dict[str, int]:
    """To which worker bytewax gives each key. It depends on the key and the number of workers alone, so it is tried out
    with a dataflow of as many workers in this process."""
    worker_of: dict[int, int] = {}
    places: dict[str, int] = {}
    flow = Dataflow("places")

    class Place(StatefulBatchLogic[str, str, None]):
        def on_batch(self, values: list[str]) -> tuple[Iterable[str], bool]:
            places.update(dict.fromkeys(values, threading.get_ident()))
            return (), self.DISCARD

        def snapshot(self) -> None:
            return None

    class Keys(DynamicSource[tuple[str, str]]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> _Once:
            del step_id, worker_count
            worker_of[threading.get_ident()] = worker_index
            return _Once([(key, key) for key in keys] if worker_index == 0 else [])

    op.output("end", op.stateful_batch("place", op.input("keys", flow, Keys()), lambda _resume: Place()), _End())
    _join(flow, [], 0, workers)
    return {key: worker_of[thread] for key, thread in places.items()}


class _Once(StatelessSourcePartition[tuple[str, str]]):
    def __init__(self, items: list[tuple[str, str]]) -> None:
        self._items = items

    def next_batch(self) -> list[tuple[str, str]]:
        if not self._items:
            raise StopIteration
        items, self._items = self._items, []
        return items


def _cause(error: BaseException) -> BaseException:
    """The FatalError under bytewax's own; else what is at the bottom."""
    while error.__cause__ is not None and not isinstance(error, FatalError):
        error = error.__cause__
    return error
