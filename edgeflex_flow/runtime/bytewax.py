"""The bytewax runtime: compiles a plan to a bytewax dataflow. The only module that imports bytewax.

What it adds to bytewax 0.21.1: one source that waits in a selector for all inputs at once (an empty default poll costs
up to 1 ms), draining on a signal, errors that stay with their message, and sinks that open once, not once a worker.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
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
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from edgeflex_flow.errors import FatalError
from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import DEAD_LETTERS, Counters, OperatorNode, Sink, SinkNode, SourceNode, WireMessage
from edgeflex_flow.runtime.feed import Feed, FeedItem
from edgeflex_flow.runtime.lifecycle import execute
from edgeflex_flow.runtime.run import FlowRun, count_on
from edgeflex_flow.runtime.runners import OperatorRunner, SinkRunner, Tick

EPOCH_INTERVAL = timedelta(seconds=1)
POLL_WAIT_S = 0.1
SHARED_POLL_WAIT_S = 0.001
"""With several workers the feed's worker also has others' messages to pass on, so it must not sleep for long."""
TURNS_AFTER_INPUT = 2
"""Polls that do not wait after one that gave something: the dataflow takes these turns to pass it to the sinks."""
SHARDS_PER_WORKER = 4
SITE_KEY = "site"
AT_ONCE = datetime.fromtimestamp(0, UTC)

Item = tuple[str, tuple[str, WireMessage | Tick]]
"""What goes into an operator: (shard key, (port, message)). What comes out of a node is (some key, message)."""


class _FeedPartition(StatefulSourcePartition[FeedItem, None]):
    """The flow's feed as bytewax's one source."""

    def __init__(self, feed: Feed, run: FlowRun, wait_s: float) -> None:
        self._feed = feed
        self._run = run
        self._wait_s = wait_s
        self._turns = 0

    def next_batch(self) -> Iterable[FeedItem]:
        if self._feed.ended:
            raise StopIteration
        try:
            items = self._feed.poll(0.0 if self._turns else self._wait_s)
        except Exception as error:  # noqa: BLE001 - bytewax would bury it; the run ends with it instead
            self._run.fail(error)
            raise StopIteration from None
        self._turns = TURNS_AFTER_INPUT if items else max(self._turns - 1, 0)
        return items

    def next_awake(self) -> datetime:
        return AT_ONCE  # the feed waits in its own selector

    def snapshot(self) -> None:
        return None


class _FeedSource(FixedPartitionedSource[Any, None]):
    def __init__(self, feed: Feed, run: FlowRun, wait_s: float) -> None:
        self._build = partial(_FeedPartition, feed, run, wait_s)

    def list_parts(self) -> list[str]:
        return ["feed"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _FeedPartition:
        del step_id, for_part, resume_state
        return self._build()


class _SinkPartition(StatefulSinkPartition[WireMessage, None]):
    def __init__(self, runner: SinkRunner, wire: Counters | None) -> None:
        self._runner = runner
        self._wire = wire

    def write_batch(self, values: list[WireMessage]) -> None:
        if self._wire is not None:
            count_on(self._wire, values)
        self._runner.write(values)

    def snapshot(self) -> None:
        return None


class _OneSink(FixedPartitionedSink[WireMessage, None]):
    """A sink that exists once, however many workers there are. `wire` is counted here if it is the sink's only one."""

    def __init__(self, runner: SinkRunner, wire: Counters | None = None) -> None:
        self._runner = runner
        self._wire = wire

    def list_parts(self) -> list[str]:
        return ["sink"]

    def part_fn(self, item_key: str) -> int:
        del item_key
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _SinkPartition:
        del step_id, for_part, resume_state
        return _SinkPartition(self._runner, self._wire)


class _OneWireLogic(StatefulBatchLogic[WireMessage, WireMessage, None]):
    """An operator that reads one wire, whose messages come as they are."""

    def __init__(self, runner: OperatorRunner, port: str, wire: Counters) -> None:
        self._runner = runner
        self._port = port
        self._wire = wire

    def on_batch(self, values: list[WireMessage]) -> tuple[Iterable[WireMessage], bool]:
        count_on(self._wire, values)
        step, port = self._runner.step, self._port
        return [given for message in values for given in step(port, message)], self.RETAIN

    def snapshot(self) -> None:
        return None  # bytewax asks at each epoch's end, wanted or not; pickling all windows each second costs a third


class _ManyWiresLogic(StatefulBatchLogic[tuple[str, WireMessage | Tick], WireMessage, None]):
    """An operator that reads several wires or ticks: each message comes with its port."""

    def __init__(self, runner: OperatorRunner) -> None:
        self._runner = runner

    def on_batch(self, values: list[tuple[str, WireMessage | Tick]]) -> tuple[Iterable[WireMessage], bool]:
        step = self._runner.step
        return [given for port, message in values for given in step(port, message)], self.RETAIN

    def snapshot(self) -> None:
        return None


class _Sharding:
    """Shares rows out by device. With one worker everything has one key, so that batches stay whole."""

    def __init__(self, workers: int) -> None:
        self.keys = [str(shard) for shard in range(SHARDS_PER_WORKER * workers)] if workers > 1 else ["0"]
        self._shard_of: dict[tuple[str, ...], Any] = {}

    @property
    def is_whole(self) -> bool:
        """Whether nothing is split."""
        return len(self.keys) == 1

    def keys_of(self, scope: str) -> list[str]:
        return self.keys if scope == "device" else [SITE_KEY]

    def split(self, message: WireMessage) -> list[tuple[str, WireMessage]]:
        if self.is_whole:
            return [(self.keys[0], message)]
        if isinstance(message, Samples):
            return self._split_samples(message)
        device: str = getattr(message, "device", None) or ""
        return [(self.keys[zlib.crc32(device.encode()) % len(self.keys)], message)]

    def _split_samples(self, samples: Samples) -> list[tuple[str, WireMessage]]:
        shard_of = self._shard_of.get(samples.devices)
        if shard_of is None:
            shard_of = np.array([zlib.crc32(name.encode()) % len(self.keys) for name in samples.devices])
            self._shard_of = {samples.devices: shard_of}
        shards = shard_of[samples.device]
        return [(self.keys[shard], samples.take(shards == shard)) for shard in np.unique(shards)]


class _Stream(NamedTuple):
    """What a node gives, as (key, message) items. `keys` says which keys: those of a scope, or some constant one."""

    items: Any
    keys: str | None = None


class _Compiler:
    """Turns a plan into a dataflow: one bytewax step a node, and one more where keys or ports have to be put on.

    Each step costs some 20 µs on a message's way, so what can be wired directly is.
    """

    def __init__(self, run: FlowRun, feed: Feed, sinks: Mapping[str, Sink], workers: int) -> None:
        self._run = run
        self._sinks = sinks
        self._sharding = _Sharding(workers)
        self.flow = Dataflow(run.plan.name)
        wait_s = POLL_WAIT_S if workers == 1 else SHARED_POLL_WAIT_S
        self._feed = op.input("feed", self.flow, _FeedSource(feed, run, wait_s))
        self._streams: dict[str, _Stream] = {}

    def compile(self) -> Dataflow:
        plan = self._run.plan
        sources = [planned.id for planned in plan.nodes if isinstance(planned.node, SourceNode)]
        if plan.keeps_dead_letters:
            sources.append(DEAD_LETTERS)
        ticks = any(isinstance(planned.node, OperatorNode) and planned.node.tick for planned in plan.nodes)
        for source in sources:
            alone = len(sources) == 1 and not ticks
            self._streams[source] = _Stream(self._feed if alone else self._from_feed(source))
        for planned in plan.nodes:
            if isinstance(planned.node, OperatorNode):
                self._streams[planned.id] = _Stream(self._operator(planned, planned.node), planned.node.scope)
            elif isinstance(planned.node, SinkNode):
                self._sink(planned)
        return self.flow

    def _from_feed(self, node_id: str) -> Any:
        """The messages of one source, as (node id, message)."""

        def pick(items: list[FeedItem]) -> list[FeedItem]:
            return [item for item in items if item[0] == node_id and not isinstance(item[1], Tick)]

        return op.flat_map_batch(f"{node_id}:feed", self._feed, pick)

    def _operator(self, planned: PlannedNode, node: OperatorNode[Any, Any]) -> Any:
        wires = [(port, source) for port, sources in planned.inputs.items() for source in sources]
        if len(wires) == 1 and node.tick is None:
            [(port, source)] = wires
            if self._sharding.is_whole or self._streams[source].keys == node.scope:
                return self._one_wire(planned, port, source)
        return self._many_wires(planned, node, wires)

    def _one_wire(self, planned: PlannedNode, port: str, source: str) -> Any:
        wire = self._run.wires[source, planned.id, port]

        def build(_resume: None) -> _OneWireLogic:
            return _OneWireLogic(OperatorRunner(self._run, planned), port, wire)

        return op.stateful_batch(planned.id, self._streams[source].items, build)

    def _many_wires(self, planned: PlannedNode, node: OperatorNode[Any, Any], wires: list[tuple[str, str]]) -> Any:
        routed = [
            op.flat_map_batch(
                f"{planned.id}:{port}:{source}",
                self._streams[source].items,
                self._router(node.scope, port, self._run.wires[source, planned.id, port]),
            )
            for port, source in wires
        ]
        if node.tick is not None:
            keys = self._sharding.keys_of(node.scope)
            routed.append(op.flat_map_batch(f"{planned.id}:tick", self._feed, _ticker(planned.id, keys)))
        merged = routed[0] if len(routed) == 1 else op.merge(f"{planned.id}:merge", *routed)

        def build(_resume: None) -> _ManyWiresLogic:
            return _ManyWiresLogic(OperatorRunner(self._run, planned))

        return op.stateful_batch(planned.id, merged, build)

    def _router(self, scope: str, port: str, wire: Counters) -> Callable[[list[tuple[str, WireMessage]]], list[Item]]:
        split = self._sharding.split

        def route(items: list[tuple[str, WireMessage]]) -> list[Item]:
            count_on(wire, [message for _, message in items])
            if scope == "site":
                return [(SITE_KEY, (port, message)) for _, message in items]
            return [(key, (port, part)) for _, message in items for key, part in split(message)]

        return route

    def _sink(self, planned: PlannedNode) -> None:
        runner = SinkRunner(self._run, planned, self._sinks[planned.id])
        wires = [(port, source) for port, sources in planned.inputs.items() for source in sources]
        if len(wires) == 1:
            [(port, source)] = wires
            sink = _OneSink(runner, self._run.wires[source, planned.id, port])
            op.output(planned.id, self._streams[source].items, sink)
            return
        counted = [
            op.flat_map_batch(
                f"{planned.id}:{port}:{source}",
                self._streams[source].items,
                _counter(self._run.wires[source, planned.id, port]),
            )
            for port, source in wires
        ]
        op.output(planned.id, op.merge(f"{planned.id}:merge", *counted), _OneSink(runner))


def _counter(wire: Counters) -> Callable[[list[tuple[str, WireMessage]]], list[tuple[str, WireMessage]]]:
    def count(items: list[tuple[str, WireMessage]]) -> list[tuple[str, WireMessage]]:
        count_on(wire, [message for _, message in items])
        return items

    return count


def _ticker(node_id: str, keys: list[str]) -> Callable[[list[FeedItem]], list[Item]]:
    def pick(items: list[FeedItem]) -> list[Item]:
        return [(key, ("", m)) for target, m in items if target == node_id and isinstance(m, Tick) for key in keys]

    return pick


def run_bytewax(run: FlowRun, *, workers: int = 1) -> None:
    """Run a flow to its end on bytewax, with `workers` threads. Raises FatalError as `execute` does."""

    def pass_messages(feed: Feed, sinks: Mapping[str, Sink]) -> None:
        flow = _Compiler(run, feed, sinks, workers).compile()
        try:
            if workers == 1:
                run_main(flow, epoch_interval=EPOCH_INTERVAL)  # type: ignore[no-untyped-call]
            else:
                cluster_main(  # type: ignore[no-untyped-call]
                    flow, [], 0, epoch_interval=EPOCH_INTERVAL, worker_count_per_proc=workers
                )
        except BytewaxRuntimeError as error:
            raise FatalError(f"bytewax stopped: {_root_cause(error)!r}") from error

    execute(run, pass_messages)


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
