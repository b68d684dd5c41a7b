"""Budgets of paths: whether messages reach their sinks in the time that the flow file gives them.

A budget is broken when more than 1 % of what reached the sink in the last 10 s was late. It holds again once that was
so at no moment of 20 s. Nothing is concluded from silence: a path of events is silent while all is well.

A budget of a response is the check's alone: no message tells when that began on the grid which it follows from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from edgeflex_flow.clock import Clock
from edgeflex_flow.flowfile.delays import duration
from edgeflex_flow.flowfile.plan import BudgetConfig, Plan

NS: Final = 1_000_000_000
WINDOW_S: Final = 10
HOLDS_AFTER_S: Final = 20
"""So long no window may have been too late before a budget holds again."""
MOST_LATE: Final = 0.01
"""Share of the messages of a window."""


class _Second(NamedTuple):
    """What reached the sink within one second."""

    messages: int
    late: int
    worst_s: float


class Budget:
    """One budget. The thread that writes the sink calls `note`, the one that polls the sources `next_second`."""

    def __init__(self, config: BudgetConfig) -> None:
        self.config = config
        self.messages = 0
        self.late = 0
        self.is_broken = False
        self._worst_s = 0.0
        self._before = (0, 0)
        self._window: deque[_Second] = deque(maxlen=WINDOW_S)
        self._well_s = 0

    def note(self, seconds: float) -> None:
        """A message has reached the sink after this time."""
        self.messages += 1
        if seconds > self.config.within:
            self.late += 1
            self._worst_s = max(self._worst_s, seconds)

    def next_second(self) -> str | None:
        """A second is over. What is to be told of it: that the budget is broken, or holds again."""
        messages, late = self.messages, self.late
        worst_s, self._worst_s = self._worst_s, 0.0
        self._window.append(_Second(messages - self._before[0], late - self._before[1], worst_s))
        self._before = (messages, late)
        came = sum(each.messages for each in self._window)
        too_late = sum(each.late for each in self._window)
        is_late = too_late > MOST_LATE * came
        self._well_s = 0 if is_late else self._well_s + 1
        if is_late and not self.is_broken:
            self.is_broken = True
            worst_s = max(each.worst_s for each in self._window)
            return f"{self} is broken: {_share(too_late, came)}, the worst after {duration(worst_s)}"
        if self.is_broken and self._well_s >= HOLDS_AFTER_S:
            self.is_broken = False
            return f"{self} holds again: {_share(too_late, came)}"
        return None

    def __str__(self) -> str:
        config = self.config
        what = "the age of messages at" if config.of == "age" else "the time to"
        return f"the budget of {duration(config.within)} for {what} '{config.to}', from '{config.from_}',"


def _share(late: int, came: int) -> str:
    return f"{late} of {came} in {WINDOW_S} s were late" if came else f"nothing came in {WINDOW_S} s"


class Budgets:
    """All budgets of a run that can be measured."""

    def __init__(self, plan: Plan, clock: Clock, tell: Callable[[Budget, str], None]) -> None:
        """`tell` is called, by the thread that polls, when a budget breaks and when it holds again."""
        self.all = tuple(Budget(config) for config in plan.budgets if config.of != "response")
        self._clock = clock
        self._tell = tell
        self._due_ns: int | None = None
        self._of_path: Mapping[tuple[str, str], Sequence[Budget]] = _by_path(plan, self.all)

    def arrived(self, source: str, sink: str, took_s: float, age_s: float | None) -> None:
        """A message has reached a sink. `source`: what its way through the flow began with."""
        for budget in self._of_path.get((source, sink), ()):
            seconds = took_s if budget.config.of == "took" else age_s
            if seconds is not None:
                budget.note(seconds)

    def look(self) -> None:
        """Judge what came since the last second was over, if another one is."""
        if not self.all:
            return
        now_ns = self._clock.monotonic_ns()
        if self._due_ns is None:
            self._due_ns = now_ns + NS
        if now_ns < self._due_ns:
            return
        seconds = (now_ns - self._due_ns) // NS + 1
        self._due_ns += seconds * NS
        for budget in self.all:
            for _ in range(min(seconds, WINDOW_S + HOLDS_AFTER_S)):  # what is longer ago tells nothing more
                told = budget.next_second()
                if told is not None:
                    self._tell(budget, told)


def _by_path(plan: Plan, budgets: Iterable[Budget]) -> dict[tuple[str, str], list[Budget]]:
    """By where a way through the flow may begin, and its sink. What an operator makes by the clock begins with it."""
    found: dict[tuple[str, str], list[Budget]] = {}
    for budget in budgets:
        waiting, begins = [budget.config.from_], {budget.config.from_}
        while waiting:
            readers = {reader.id for reader, _ in plan.readers(waiting.pop())} - begins
            begins |= readers
            waiting += readers
        for begin in begins:
            found.setdefault((begin, budget.config.to), []).append(budget)
    return found
