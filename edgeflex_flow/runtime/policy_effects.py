"""Reports to the policy system what its policies changed in a flow: in batches, bounded, never in its way."""

from __future__ import annotations

import threading
from collections import deque

from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.policy import PolicyEffect, PolicySystem, PolicySystemError
from edgeflex_flow.runtime.run import POLICY_SYSTEM, FlowRun

MOST_WAITING = 1000
MOST_AT_ONCE = 100
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
LONGEST_END_S = 1.0
"""How long the end of a flow waits for the last report."""


class EffectReports:
    """Takes effects from any thread; a thread of its own, begun with the first one, reports them in order.

    Counts `effects_sent` and `effects_lost`: beyond `MOST_WAITING` the oldest, what the policy system does not take,
    and what is still here at the end.
    """

    def __init__(self, run: FlowRun, system: PolicySystem) -> None:
        self._counters = run.counters[POLICY_SYSTEM]
        self._log = run.log
        self._system = system
        self._condition = threading.Condition()
        self._waiting: deque[PolicyEffect] = deque()
        self._under_way = 0
        self._is_ending = False
        self._thread: threading.Thread | None = None

    def add(self, effect: PolicyEffect) -> None:
        """Report this later. Never blocks."""
        with self._condition:
            self._waiting.append(effect)
            if len(self._waiting) > MOST_WAITING:
                self._waiting.popleft()
                self._counters.add("effects_lost")
            if self._thread is None and not self._is_ending:
                self._thread = threading.Thread(target=self._run, name="policy effects", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def close(self) -> None:
        """Try once more what waits, for `LONGEST_END_S`; what is left is lost, and counted."""
        with self._condition:
            self._is_ending = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(LONGEST_END_S)
            self._system.abort()
            self._thread.join(LONGEST_END_S)
        else:
            self._system.close()
        with self._condition:
            left = len(self._waiting) + self._under_way
            self._waiting.clear()
        if left:
            self._counters.add("effects_lost", left)

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        try:
            while batch := self._next_batch():
                wait_s = self._report(batch, failures)
                failures = 0 if wait_s is None else failures + 1
                if wait_s is not None and not self._pause(wait_s):
                    return
        except EdgeflexError as error:
            self._log.error("policies: what they changed cannot be reported: %s", error)
        finally:
            self._system.close()

    def _next_batch(self) -> list[PolicyEffect]:
        """Wait for effects; none when the flow ends and all are reported. They stay first in line until they are."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._is_ending)
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_AT_ONCE))]
            self._under_way = len(batch)
            return batch

    def _report(self, batch: list[PolicyEffect], failures: int) -> float | None:
        """Report once; None when that is done with, else how long to wait before these are reported again."""
        try:
            refused = self._system.report(batch)
        except PolicySystemError as error:
            if failures & (failures + 1) == 0:  # the 1st, 2nd, 4th, 8th … in a row
                self._log.warning("policies: what they changed is not reported: %s", error)
            if error.is_final:
                self._done(lost=len(batch))
                return None
            with self._condition:
                self._waiting.extendleft(reversed(batch))
                self._under_way = 0
            return max(min(FIRST_RETRY_S * 2.0 ** min(failures, 32), LONGEST_RETRY_S), error.wait_s)
        if refused:
            text = "policies: %d of %d changes are not kept by the policy system: %s"
            self._log.warning(text, len(refused), len(batch), refused[0].why)
        self._done(sent=len(batch) - len(refused), lost=len(refused))
        return None

    def _done(self, *, sent: int = 0, lost: int = 0) -> None:
        self._counters.add_all(effects_sent=sent, effects_lost=lost)
        with self._condition:
            self._under_way = 0

    def _pause(self, wait_s: float) -> bool:
        """Wait before the next attempt, which an ending flow makes at once and once; whether there is to be one."""
        with self._condition:
            was_ending = self._is_ending
            self._condition.wait_for(lambda: self._is_ending, wait_s)
            return not was_ending
