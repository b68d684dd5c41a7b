"""What the flows of a site have shown: the newest of it is kept for who comes to look."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from edgeflex_flow.runtime.letters import LetterHead
from edgeflex_flow.runtime.showing import Bound, Happened, SeenMessages, SeenRows
from edgeflex_flow.supervisor.channel import Answer, Show

EVENTS_KEPT = 1000
LETTERS_KEPT = 500
SEEN_KEPT = 100
"""Seconds of one watched wire, or one of a hundred: who is slow gets the newest."""


class Numbered(NamedTuple):
    """Something a flow showed; numbers grow."""

    number: int
    flow: str
    item: Happened | LetterHead | SeenRows | SeenMessages


class Board:
    """Bounded in all that it keeps."""

    def __init__(self) -> None:
        self.events: deque[Numbered] = deque(maxlen=EVENTS_KEPT)
        self.letters: deque[Numbered] = deque(maxlen=LETTERS_KEPT)
        self.seen: deque[Numbered] = deque(maxlen=SEEN_KEPT)
        self.bound: dict[str, tuple[Bound, ...]] = {}
        """By flow."""
        self.bound_changes: dict[str, int] = {}
        """By flow, when that changed last, as a number."""
        self.on_answer: Callable[[Answer], None] | None = None
        self.last = 0
        """The newest number."""

    def heard(self, flow: str, told: Show | Answer) -> None:
        """A flow tells something for people."""
        if isinstance(told, Answer):
            if self.on_answer is not None:
                self.on_answer(told)
            return
        shown = told.shown
        for kept, items in ((self.events, shown.events), (self.letters, shown.letters), (self.seen, shown.seen)):
            for item in items:
                self.last += 1
                kept.append(Numbered(self.last, flow, item))
        if shown.bound is not None:
            self.last += 1
            self.bound[flow], self.bound_changes[flow] = shown.bound, self.last
