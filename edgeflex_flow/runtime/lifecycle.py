"""The life of a run, the same for both runtimes: warm up, open, pass messages, flush, close."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.kernel import warm_up
from edgeflex_flow.node import Sink, SinkNode
from edgeflex_flow.runtime.feed import LAST_RETRY_S, Feed
from edgeflex_flow.runtime.inputs import FIRST_RETRY_S
from edgeflex_flow.runtime.receipts import Receipts
from edgeflex_flow.runtime.run import UNFLUSHED, FlowRun
from edgeflex_flow.signals import heed

DRAIN_TIMEOUT_S = 10.0
"""How long a stopping flow may take to empty and flush."""

EXIT_NOT_DRAINED = 4
"""The drain took too long, or sinks lost something at the end."""

GIL_SWITCH_INTERVAL_S = 0.0005
"""Python's default of 5 ms would let a connector's thread hold up a frame that long."""


def warm_up_plan(plan: Plan, unless: Callable[[], bool]) -> None:
    """Compile, or load from the cache, the kernels of every kind in the plan. Stops early once `unless` is true."""
    warm_up({planned.node.config.__module__ for planned in plan.nodes}, unless)


def open_sinks(run: FlowRun) -> dict[str, Sink]:
    """Make and open all sinks. On a FatalError those already open are closed again and it is raised."""
    opened: dict[str, Sink] = {}
    try:
        for planned in run.plan.nodes:
            if isinstance(planned.node, SinkNode):
                sink = planned.node.open(planned.config, run.context(planned))
                opened[planned.id] = sink
                _open_with_retries(run, planned.id, sink)
    except BaseException:
        close_sinks(run, opened)
        raise
    return opened


def _open_with_retries(run: FlowRun, node_id: str, sink: Sink) -> None:
    delay_s = FIRST_RETRY_S
    while not run.stopping:
        run.turn_s = time.monotonic()
        try:
            sink.open()
            return
        except RetryableError as error:
            run.counters[node_id].add("retries")
            run.log.warning("sink '%s': %s; trying again in %.1f s", node_id, error, delay_s)
        except FatalError:
            raise
        except Exception as error:
            raise FatalError(f"sink '{node_id}' cannot open: {error!r}") from error
        run.turn_s = 0.0  # while it waits it does not stand still
        run.wait_for_stop(delay_s)
        delay_s = min(2 * delay_s, LAST_RETRY_S)


def close_sinks(run: FlowRun, sinks: Mapping[str, Sink], *, flush_s: float = 0.0) -> None:
    """Flush (for at most `flush_s`) and close all sinks side by side: a broker that is away must not cost the store its
    last rows. What could not be flushed is said and counted.
    """
    threads = [
        threading.Thread(target=_close_sink, args=(run, node_id, sink, flush_s), name=f"close {node_id}")
        for node_id, sink in sinks.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _close_sink(run: FlowRun, node_id: str, sink: Sink, flush_s: float) -> None:
    try:
        if flush_s and not sink.flush(flush_s):
            run.counters[node_id].add(UNFLUSHED)
            run.log.error("sink '%s' could not write everything before the end of the drain", node_id)
        sink.close()
    except Exception as error:
        run.log.exception("closing sink '%s'", node_id)
        run.fail(error)


PassMessages: TypeAlias = Callable[[Feed, Mapping[str, Sink], Receipts], None]


def _nothing() -> None:
    return None


def warm_up_patiently(run: FlowRun) -> None:
    """`warm_up_plan` for a run, which says what takes so long."""
    patience = threading.Timer(1.0, run.log.info, ["compiling kernels: once for each version, some ten seconds"])
    patience.daemon = True
    patience.start()
    warm_up_plan(run.plan, lambda: run.stopping)
    patience.cancel()


def execute(
    run: FlowRun, pass_messages: PassMessages, *, layout: str, before_opening: Callable[[], None] = _nothing
) -> None:
    """Run the flow to its end: `pass_messages` moves the messages from feed to sinks until the feed has ended.

    `layout`: how the flow's nodes are shared out among stages, which a state from the run before must fit.
    `before_opening` is called once kernels are compiled. Raises FatalError when the flow could not start or could not
    go on. Everything is closed in every case.
    """
    warm_up_patiently(run)
    before_opening()
    if run.stopping:
        run.log.info("stopped before it began")
        run.wakeup.close()
        run.raise_failure()
        return
    was_frozen = gc.get_freeze_count() > 0  # in a process that was forked: what it shares must stay so
    feed = Feed(run)
    if run.recovery is not None:
        run.recovery.open(layout, feed.gives_again)
    sinks: dict[str, Sink] = {}
    receipts: Receipts | None = None
    went_well = False
    try:
        sinks = open_sinks(run)
        receipts = Receipts(run, feed.acknowledging, sinks)
        if not run.stopping:  # else not every sink may be open, and no source may give to one that is not
            feed.open()
            gc.freeze()  # what start-up made lives until the end: keep the collector from walking it again and again
            run.started.set()
            run.log.info("flow '%s' runs", run.plan.name, extra={"site": run.plan.site, "nodes": len(run.plan.nodes)})
            pass_messages(feed, sinks, receipts)
        went_well = True
    finally:
        run.ending = True
        run.on_draining()
        close_sinks(run, sinks, flush_s=DRAIN_TIMEOUT_S)
        # A state that has what a sink could not bring out would keep the next run from giving it once more.
        ended_well = went_well and run.failure is None
        in_order = ended_well and not run.lost_at_the_end
        if run.recovery is not None:
            run.recovery.close(in_order=in_order, finished=ended_well and not run.stopping)
        if receipts is not None:
            receipts.at_the_end(in_order=in_order)
        feed.close()
        run.wakeup.close()
        if not was_frozen:
            gc.unfreeze()
    run.raise_failure()


@contextmanager
def stop_on_signals(
    run: FlowRun, on_timeout: Callable[[], None] | None = None, on_signal: Callable[[], None] | None = None
) -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP drain the run (or call `on_signal`, which must see to it), also one that came before.
    Further ones change nothing, and that is said.

    A drain that takes too long, whatever began it, ends the process with code 4 after `on_timeout`.
    """
    longest_s = 2 * DRAIN_TIMEOUT_S

    def give_up() -> None:
        run.log.critical("drain took longer than %.0f s: giving up", longest_s)
        if on_timeout is not None:
            on_timeout()
        os._exit(EXIT_NOT_DRAINED)

    timer = threading.Timer(longest_s, give_up)
    timer.daemon = True
    first = threading.Lock()

    def begin_countdown() -> None:
        if first.acquire(blocking=False):
            timer.start()

    heeded = threading.Event()

    def handle(number: int) -> None:
        name = signal.Signals(number).name
        if heeded.is_set() or run.stopping:
            run.log.info("%s: ignored, draining already, at most %.0f s in all", name, longest_s)
            return
        heeded.set()
        run.log.info("%s: draining, at most %.0f s", name, longest_s)
        (on_signal or run.stop)()

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(GIL_SWITCH_INTERVAL_S)
    run.on_draining = begin_countdown
    try:
        with heed(handle):
            yield
    finally:
        timer.cancel()
        sys.setswitchinterval(interval_s)
