"""Receipts: tells sources what came of their messages is durable, so that they may acknowledge them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgeflex_flow.node import AcknowledgingSource, ProgressingSink, Sink
from edgeflex_flow.runtime.run import FlowRun

MOST_WAITING = 1000


class _Receipt(NamedTuple):
    """Polls of the sources, and how far each sink must get until all that came of them is durable."""

    polls: tuple[int, ...]
    taken: tuple[int, ...]


class Receipts:
    """After each turn of the flow notes what the sinks have taken by then, and acknowledges once that is durable.

    What operators keep in their state is none of a sink's business: a window that is open when the process is killed
    is lost, though the messages in it are acknowledged.
    """

    def __init__(self, run: FlowRun, sources: Sequence[AcknowledgingSource], sinks: Mapping[str, Sink]) -> None:
        self._run = run
        self._sources = sources
        self._sinks = [sink for sink in sinks.values() if isinstance(sink, ProgressingSink)] if sources else []
        self._waiting: deque[_Receipt] = deque()
        self._noted = tuple(source.poll_number() for source in sources)
        if sources:
            run.on_progress = self._progressed

    def after_turn(self, *, busy: bool = False) -> None:
        """`busy`: what the sources gave is not all with the sinks yet."""
        if not self._sources:
            return
        polls = tuple(source.poll_number() for source in self._sources)
        # A dead letter on its way to its sink is something that came of a message, too.
        if polls != self._noted and not busy and not self._run.has_own_messages:
            self._note(polls)
        if self._waiting:
            self._acknowledge()

    def _note(self, polls: tuple[int, ...]) -> None:
        progress = [sink.progress() for sink in self._sinks]
        receipt = _Receipt(polls, tuple(each.taken for each in progress))
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(receipt)
        else:  # a sink is away for long: acknowledge more at once, later
            self._waiting[-1] = receipt
        self._noted = polls
        for sink, each in zip(self._sinks, progress, strict=True):
            if each.durable < each.taken:
                sink.hurry()

    def _acknowledge(self) -> None:
        durable = [sink.progress().durable for sink in self._sinks]
        last: _Receipt | None = None
        while self._waiting and all(map(int.__ge__, durable, self._waiting[0].taken)):
            last = self._waiting.popleft()
        if last is not None:
            for source, number in zip(self._sources, last.polls, strict=True):
                source.acknowledge(number)

    def _progressed(self) -> None:
        """A sink got something out, from a thread of its own."""
        if self._waiting:
            self._run.wakeup.wake()
