"""Receipts: tells sources what came of their messages is durable, so that they may acknowledge them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from edgeflex_flow.node import AcknowledgingSource, ProgressingSink, Sink
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.state_folder import FlowState

MOST_WAITING = 1000
MOST_STATES_WAITING = 2
"""States may be large, and only the newest counts."""


class _Receipt(NamedTuple):
    """Polls of the sources, and how far each sink must get until all that came of them is durable."""

    polls: tuple[int, ...]
    taken: tuple[int, ...]
    state: FlowState | None


def _never() -> bool:
    return False


class Receipts:
    """After each turn of the flow notes what the sinks have taken by then, and acknowledges once that is durable.

    Where a run keeps state, it notes that too, every so often; it is saved when all else is durable, and only then is
    acknowledged. Where it does not, a window that is open when the process is killed is lost, though the messages in it
    are acknowledged.
    """

    def __init__(self, run: FlowRun, sources: Sequence[AcknowledgingSource], sinks: Mapping[str, Sink]) -> None:
        self._run = run
        self._sources = sources
        self._recovery = run.recovery
        self._heeds = bool(sources) or self._recovery is not None
        self._sinks = [sink for sink in sinks.values() if isinstance(sink, ProgressingSink)] if self._heeds else []
        self._waiting: deque[_Receipt] = deque()
        self._most_waiting = MOST_WAITING if self._recovery is None else MOST_STATES_WAITING
        self._saving: deque[tuple[int, tuple[int, ...]]] = deque()
        """States that are being saved, by number, and the polls that are in them."""
        self._noted = self._polls()
        if self._heeds:
            run.on_progress = self._progressed

    def _polls(self) -> tuple[int, ...]:
        return tuple(source.poll_number() for source in self._sources)

    @property
    def waits_for_quiet(self) -> bool:
        """Whether the state is to be noted as soon as nothing is on its way."""
        return self._recovery is not None and self._recovery.is_due

    def after_turn(self, busy: Callable[[], bool] = _never) -> None:
        """`busy`: whether what the sources gave is not all with the sinks yet. Asked only when it matters."""
        if not self._heeds:
            return
        polls = self._polls()
        if self._recovery is not None:
            self._recovery.mark()
        # A dead letter on its way to its sink is something that came of a message, too.
        if self._is_due(polls) and not busy() and not self._run.has_own_messages:
            self._note(polls)
        if self._waiting:
            self._let_go()
        if self._saving:
            self._acknowledge_saved()

    def at_the_end(self, *, in_order: bool) -> None:
        """Acknowledge the rest, now that sinks have flushed. `in_order`: and that the last state, if any, is saved."""
        if self._saving:
            self._acknowledge_saved()
        if self._run.cluster.is_broken:
            self._let_go()  # what was noted before; what is on its way now is lost
            return
        if in_order:
            self._recovery = None
            self._waiting.clear()
            self._note(self._polls())
            self._let_go()

    def _is_due(self, polls: tuple[int, ...]) -> bool:
        return polls != self._noted if self._recovery is None else self._recovery.is_due

    def _note(self, polls: tuple[int, ...]) -> None:
        progress = [sink.progress() for sink in self._sinks]
        state = None if self._recovery is None else self._recovery.take()
        receipt = _Receipt(polls, tuple(each.taken for each in progress), state)
        if len(self._waiting) < self._most_waiting:
            self._waiting.append(receipt)
        else:  # a sink is away for long: acknowledge more at once, later
            self._waiting[-1] = receipt
        self._noted = polls
        for sink, each in zip(self._sinks, progress, strict=True):
            if each.durable < each.taken:
                sink.hurry()

    def _let_go(self) -> None:
        """Acknowledge, or first save, what is durable in all sinks."""
        durable = [sink.progress().durable for sink in self._sinks]
        last: _Receipt | None = None
        while self._waiting and all(map(int.__ge__, durable, self._waiting[0].taken)):
            last = self._waiting.popleft()
        if last is None:
            return
        if self._recovery is None or last.state is None:
            self._acknowledge(last.polls)
        else:
            self._saving.append((self._recovery.save(last.state), last.polls))

    def _acknowledge_saved(self) -> None:
        assert self._recovery is not None
        done: tuple[int, ...] | None = None
        while self._saving and self._saving[0][0] <= self._recovery.saved_to:
            done = self._saving.popleft()[1]
        if done is not None:
            self._acknowledge(done)

    def _acknowledge(self, polls: tuple[int, ...]) -> None:
        for source, number in zip(self._sources, polls, strict=True):
            source.acknowledge(number)

    def _progressed(self) -> None:
        """A sink got something out, from a thread of its own."""
        if self._waiting:
            self._run.wakeup.wake()
