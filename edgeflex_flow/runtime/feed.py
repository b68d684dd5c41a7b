"""The feed: everything that comes into a flow. One poll waits for all sources, ticks and dead letters at once."""

from __future__ import annotations

import math
import random
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgeflex_flow.clock import RecordedClock, VirtualClock
from edgeflex_flow.errors import BadMessageError, FatalError, RetryableError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import (
    AcknowledgingSource,
    ChangingSource,
    DecodingSource,
    OperatorNode,
    SourceNode,
    WireMessage,
)
from edgeflex_flow.runtime.inputs import FIRST_RETRY_S, Input, MadeOf, NumberedPolls, make_input, make_source
from edgeflex_flow.runtime.letters import marked_replayed
from edgeflex_flow.runtime.policies import take_back, try_again
from edgeflex_flow.runtime.run import FlowRun, Replay
from edgeflex_flow.runtime.runners import Again, Tick

LAST_RETRY_S = 30.0
GIVE_WAY_S = 5.0
"""How long a source that is to be opened anew, since a policy changed it, waits until what it gave is durable."""
GIVE_WAY_LOOK_S = 0.01
LINGER_POLLS = 5
LINGER_WAIT_S = 0.002
READ_OUT_S = 2.0
"""How long a stopping flow goes on reading what its sources still have; what comes after that is after the stop."""
BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL

FeedItem = tuple[str, WireMessage | Tick | Again]
"""Node that the message comes from (or, for a tick or what is given once more, goes to) and the message."""


@dataclass
class _Ticker:
    """When an operator's next tick is due."""

    node: str
    period_ns: int
    due_ns: int = field(default=0)


def _nothing_in_flight() -> bool:
    return False


class Feed:
    """Polls the sources of a flow. `poll` gives what is there, and waits at most `wait_s` when nothing is."""

    def __init__(self, run: FlowRun) -> None:
        self._run = run
        self.in_flight: Callable[[], bool] = _nothing_in_flight
        """Whether operators still have messages of this feed to deal with; the runtime that needs it sets it."""
        self._read_until_s: float | None = None
        self._again_at_s = math.inf
        """When something that was taken back is to be tried again, in monotonic seconds."""
        self._broken: set[int] = set()
        """Descriptors that have failed and hold nothing more."""
        self._poller = select.poll()  # `selectors` would wrap it in 5 µs of bookkeeping for each wake-up
        self._wakeup_fd = run.wakeup.fileno()
        self._poller.register(self._wakeup_fd, select.POLLIN)
        self._inputs = [make_input(run, planned) for planned in run.plan.nodes if isinstance(planned.node, SourceNode)]
        for item in self._inputs:
            run.gauges[item.planned.id].watch("opened", item.is_opened)
        self._changes_seen = run.source_changes
        self._numbered = {
            item.planned.id: NumberedPolls(item.source)
            for item in self._inputs
            if isinstance(item.source, AcknowledgingSource)
        }
        self._tickers = [_Ticker(node, period_ns) for node, period_ns in run.plan.periods_ns.items()]
        self._ends = [
            planned.id
            for planned in run.plan.nodes
            if isinstance(planned.node, OperatorNode) and planned.node.end is not None
        ]
        """Operators that are still to be told that nothing will come any more, those that give first."""
        self._keeps_state = run.recovery is not None
        self._is_virtual = isinstance(run.clock, VirtualClock)
        self._follows_rows = self._is_virtual and not isinstance(run.clock, RecordedClock)
        self._linger = LINGER_POLLS
        self.ended = False

    @property
    def acknowledging(self) -> list[NumberedPolls]:
        """The sources that are to be told when what came of their messages is durable."""
        return list(self._numbered.values())

    def gives_again(self, node: str) -> bool:
        """Whether a source is one whose far side waits for its messages to be acknowledged."""
        return node in self._numbered and self._numbered[node].poll_number() > 0

    def open(self) -> None:
        """Open every source. One that is away for now is tried again while the others run; FatalError is raised."""
        for item in self._inputs:
            try:
                self._open(item)
            except FatalError as error:
                if item.last_good is None:
                    raise
                self._release(item)
                self._fall_back(item, error)

    def _open(self, item: Input) -> None:
        self._run.turn_s = time.monotonic()
        try:
            item.source.open()
        except RetryableError as error:
            self._retry_later(item, error)
            return
        except FatalError:
            raise
        except Exception as error:
            raise FatalError(f"source '{item.planned.id}' cannot open: {error!r}") from error
        item.open = True
        item.retry_delay_s = FIRST_RETRY_S
        item.fd = item.source.fileno()
        if item.fd is not None:
            self._poller.register(item.fd, select.POLLIN)

    def _retry_later(self, item: Input, error: RetryableError) -> None:
        self._release(item)
        delay_s = item.retry_delay_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
        self._run.counters[item.planned.id].add("retries")
        self._run.log.warning("source '%s': %s; trying again in %.1f s", item.planned.id, error, delay_s)
        item.retry_at_s = time.monotonic() + delay_s
        item.retry_delay_s = min(2 * item.retry_delay_s, LAST_RETRY_S)

    def _release(self, item: Input) -> None:
        self._pause(item)
        try:
            item.source.close()
        except Exception as error:  # noqa: BLE001 - a source's bug must not keep sinks from flushing
            self._run.fail(error)

    def poll(self, wait_s: float) -> list[FeedItem]:
        """What came in since the last call. Sets `ended` once nothing will ever come again."""
        if self.ended:
            return []
        ready = self._wait(wait_s)
        self._run.turn_s = time.monotonic()
        self._run.budgets.look()
        items: list[FeedItem] = []
        if time.monotonic() >= self._again_at_s:
            self._look_again()
            try_again(self._run)
        if self._changes_seen != self._run.source_changes:
            self._look_for_changes(items)
        for item in self._inputs:
            if item.failure is not None and not item.finished:
                self._failed_later(item, item.failure)
            elif item.gives_way_until_s is not None:
                self._give_way(item)
            elif item.open:
                self._poll_one(item, ready, items)
            elif not item.finished and time.monotonic() >= item.retry_at_s and not self._run.stopping:
                self._reopen(item)
        if self._is_virtual:
            self._move_clock(items)
        self._take_own(items)
        if self._sources_are_done():
            self._linger_on(items)
        elif self._tickers:
            items.extend(self._due_ticks())
        return items

    def _wait(self, wait_s: float) -> set[int]:
        """Descriptors that are readable, after waiting for one (or a due time) at most `wait_s`."""
        events = self._poller.poll(1e3 * self._timeout_s(wait_s))
        ready = {fd for fd, _ in events}
        if self._wakeup_fd in ready:
            self._run.wakeup.drain()
        self._broken = {fd for fd, event in events if event & BROKEN and not event & select.POLLIN}
        return ready

    def _timeout_s(self, wait_s: float) -> float:
        if wait_s == 0.0 or self._is_virtual or self._run.stopping:
            return 0.0
        now_ns = self._run.clock.monotonic_ns()
        for item in self._inputs:
            if item.gives_way_until_s is not None:
                wait_s = min(wait_s, GIVE_WAY_LOOK_S)
            elif item.open:
                next_ns = item.source.next_poll_ns()
                if next_ns is not None:
                    wait_s = min(wait_s, (next_ns - now_ns) / 1e9)
                elif item.fd is None:
                    return 0.0
            elif not item.finished:
                wait_s = min(wait_s, item.retry_at_s - time.monotonic())
        if self._again_at_s < math.inf:
            wait_s = min(wait_s, self._again_at_s - time.monotonic())
        for ticker in self._tickers:
            wait_s = min(wait_s, (ticker.due_ns - now_ns) / 1e9)
        return max(wait_s, 0.0)

    def _look_for_changes(self, items: list[FeedItem]) -> None:
        """Have sources go on with what a policy gave them: as they are, or else anew."""
        self._changes_seen = self._run.source_changes
        for item in self._inputs:
            if item.gives_way_until_s is None and not MadeOf.now(self._run, item.planned).is_as(item.made_of):
                self._change(item, items)

    def _change(self, item: Input, items: list[FeedItem]) -> None:
        wanted = MadeOf.now(self._run, item.planned)
        if item.open and wanted.at_the_same_place(item.made_of) and isinstance(item.source, ChangingSource):
            item.settle(self._run)
            before, item.last_good = item.last_good, item.last_good or item.made_of
            if item.source.change(wanted.own.config):
                item.made_of = wanted
                item.changed_at_s, item.gave = time.monotonic(), False
                return
            item.last_good = before
        if item.open:  # what it has is not thrown away
            self._poll_one(item, set() if item.fd is None else {item.fd}, items)
        if item.open:
            self._pause(item)
            item.gives_way_until_s = time.monotonic() + GIVE_WAY_S
        elif not item.finished:
            self._make_anew(item)

    def _give_way(self, item: Input) -> None:
        """Close a source and open it anew, once nothing of what it gave waits to be acknowledged, or has for long."""
        if self._run.stopping:
            return  # what it has to acknowledge it does as those that linger
        polls = self._numbered.get(item.planned.id)
        if polls is not None and polls.is_waiting:
            assert item.gives_way_until_s is not None
            if time.monotonic() < item.gives_way_until_s:
                return
            text = "source '%s' goes on with other settings though not all of what it gave is durable yet"
            self._run.log.warning(text, item.planned.id)
        item.gives_way_until_s = None
        self._release(item)
        self._make_anew(item)

    def _make_anew(self, item: Input) -> None:
        """Another source in its place, as a policy wants it; else it goes on as it was."""
        item.settle(self._run)
        item.last_good = item.last_good or item.made_of
        try:
            self._make(item)
        except Exception as error:  # noqa: BLE001 - whatever a policy wants, the flow goes on
            self._fall_back(item, error)
            return
        try:
            self._open(item)
        except FatalError as error:
            self._release(item)
            self._fall_back(item, error)

    def _failed_later(self, item: Input, error: BaseException) -> None:
        if item.open:
            self._release(item)
        self._fall_back(item, error)

    def _fall_back(self, item: Input, error: BaseException) -> None:
        """A source, closed by now, could not be what a policy wants: it goes on as it was.

        One that has worked with it goes on with it, after some time.
        """
        item.settle(self._run)
        good = item.last_good or item.made_of
        item.failure = item.gives_way_until_s = None
        if good is item.made_of:
            self._make(item)
            item.last_good = item.made_of
            self._wait_after_failure(item, error)
            return
        take_back(self._run, item.planned, good, str(error))
        self._make(item)
        item.holds_good(self._run)
        item.retry_at_s = 0.0
        self._look_again()

    def _wait_after_failure(self, item: Input, error: BaseException) -> None:
        delay_s = item.failure_delay_s
        item.failure_delay_s = min(2 * delay_s, LAST_RETRY_S)
        item.retry_at_s = time.monotonic() + delay_s
        self._run.counters[item.planned.id].add("retries")
        text = "source '%s': %s; it has worked as the policy wants: trying again in %.1f s"
        self._run.log.warning(text, item.planned.id, error, delay_s)

    def _look_again(self) -> None:
        """Know when something that was taken back is to be tried again."""
        now_s = time.monotonic()
        due = [each.again_at_s for each in list(self._run.taken_back.values()) if each.again_at_s > now_s]
        self._again_at_s = min(due, default=math.inf)

    def _make(self, item: Input) -> None:
        """Another source in its place, of what is in force now."""
        made_of = MadeOf.now(self._run, item.planned)
        item.source = make_source(self._run, item)
        item.made_of = made_of
        item.changed_at_s, item.gave = time.monotonic(), False
        if isinstance(item.source, AcknowledgingSource):
            self._numbered[item.planned.id].go_on_with(item.source)

    def _poll_one(self, item: Input, ready: set[int], items: list[FeedItem]) -> None:
        source = item.source
        if not self._run.stopping and not self._is_due(item, ready):
            return
        try:
            messages = list(source.poll())
        except RetryableError as error:
            self._retry_later(item, error)
            return
        except BadMessageError as error:
            self._run.dead_letter(item.planned.id, error.reason, str(error), error.payload)
            return
        except Exception as error:  # noqa: BLE001 - a source's bug, too, ends the flow in order, its cause kept
            self._run.fail(error)
            self._release(item)
            item.finished = True
            return
        if messages:
            item.gave = True
            self._run.emitted(item.planned.id, messages)
            items.extend((item.planned.id, message) for message in messages)
        if source.ended or (self._run.stopping and self._is_read_out(item, bool(messages))):
            self._finish(item)
        elif item.fd in self._broken and not messages:
            self._retry_later(item, RetryableError("its connection has failed"))

    def _take_own(self, items: list[FeedItem]) -> None:
        """What comes of the run itself, and what people want given once more."""
        if self._run.has_own_messages:
            items.extend(self._run.take_own_messages())
        while self._run.people.replays:
            self._replay(self._run.people.replays.popleft(), items)

    def _replay(self, replay: Replay, items: list[FeedItem]) -> None:
        """Give a dead letter once more: to the node that refused it, or to the source that could not decode it."""
        head, payload, refused = replay.letter
        self._run.log.info("dead letter %d is given again by %s", head.id, replay.who, extra={"node": head.node})
        self._run.counters[head.node].add("replayed")
        if refused is not None:
            items.extend((head.node, Again(refused.port, marked_replayed(each))) for each in refused.messages)
            replay.done(True, f"given to '{head.node}' once more")
            return
        source = next((each.source for each in self._inputs if each.planned.id == head.node and each.open), None)
        if not isinstance(source, DecodingSource):
            replay.done(False, f"source '{head.node}' is not open, or cannot decode a payload by itself")
            return
        try:
            messages = [marked_replayed(each) for each in source.decode_again(payload)]
        except BadMessageError as error:
            self._run.dead_letter(head.node, error.reason, str(error), payload)
            replay.done(False, f"refused again: {error}")
            return
        self._run.emitted(head.node, messages)
        items.extend((head.node, message) for message in messages)
        replay.done(True, f"decoded by '{head.node}' once more: {len(messages)} message(s)")

    def _finish(self, item: Input) -> None:
        """No more polls. A source that acknowledges stays connected until what came of its messages is durable."""
        if isinstance(item.source, AcknowledgingSource):
            self._pause(item)
            item.lingers = True
        else:
            self._release(item)
        item.finished = True

    def _pause(self, item: Input) -> None:
        if item.fd is not None:
            self._poller.unregister(item.fd)
            item.fd = None
        item.open = False

    def _is_read_out(self, item: Input, gave: bool) -> bool:
        """While draining: what the operating system already took is not thrown away."""
        now_s = time.monotonic()
        if self._read_until_s is None:
            self._read_until_s = now_s + READ_OUT_S
        if item.fd is None or not gave:
            return True
        if now_s < self._read_until_s:
            return False
        self._run.log.warning("source '%s' still has input after %g s of draining", item.planned.id, READ_OUT_S)
        return True

    def _is_due(self, item: Input, ready: set[int]) -> bool:
        next_ns = item.source.next_poll_ns()
        if next_ns is not None and self._run.clock.monotonic_ns() >= next_ns:
            return True
        if item.fd is not None:
            return item.fd in ready
        return next_ns is None

    def _reopen(self, item: Input) -> None:
        try:
            self._open(item)
        except FatalError as error:
            if item.last_good is None:
                self._run.fail(error)
                return
            self._release(item)
            self._fall_back(item, error)

    def _move_clock(self, items: list[FeedItem]) -> None:
        """A virtual clock follows the data, unless those are recorded; when none is there it jumps to what is due
        next."""
        clock = self._run.clock
        assert isinstance(clock, VirtualClock)
        for _, message in items:
            if self._follows_rows and isinstance(message, Samples) and message.rows:
                clock.advance_to(int(message.time_ns.max()))
        if not items:
            due = [item.source.next_poll_ns() for item in self._inputs if item.open]
            known = [time_ns for time_ns in due if time_ns is not None]
            if known and len(known) == len(due):
                clock.advance_to(min(known))

    def _due_ticks(self) -> list[FeedItem]:
        monotonic_ns = self._run.clock.monotonic_ns()
        due: list[FeedItem] = []
        for ticker in self._tickers:
            if monotonic_ns >= ticker.due_ns:
                due.append((ticker.node, Tick(self._run.ticked(ticker.node))))
                ticker.due_ns = (monotonic_ns // ticker.period_ns + 1) * ticker.period_ns
        return due

    def _sources_are_done(self) -> bool:
        for item in self._inputs:  # noqa: SIM110 - asked at every poll, and a generator costs 1 µs
            if item.open or not (item.finished or self._run.stopping):
                return False
        return True

    def _linger_on(self, items: list[FeedItem]) -> None:
        """Stay for a few turns of the dataflow after the last message: operators may still send dead letters.

        Then let operators give what they hold, one after the other, each when all before it is done: unless they go on
        with it in the next run.
        """
        self._linger = LINGER_POLLS if items or self.in_flight() else self._linger - 1
        if self._ends and self._linger < LINGER_POLLS and not (self._keeps_state and self._run.stopping):
            ending = self._ends.pop(0)
            items.append((ending, Tick(self._run.ticked(ending, last=True), last=True)))
            self._linger = LINGER_POLLS
        if not items and not self._is_virtual:
            time.sleep(LINGER_WAIT_S)
        self.ended = self._linger <= 0

    def close(self) -> None:
        """Release every source that still has a connection."""
        for item in self._inputs:
            if item.open or item.lingers or item.gives_way_until_s is not None:
                self._release(item)
