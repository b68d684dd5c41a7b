"""Who may speak now: what comes a thousand times a second is told once."""

from __future__ import annotations

from typing import Final

from edgeflex_flow.node import Context

SECOND_NS: Final = 1_000_000_000


class Speaker:
    """Lets each subject speak at most once in a period, for log lines and dead letters about what strangers send."""

    def __init__(self, context: Context) -> None:
        self._clock = context.clock
        self._spoke_ns: dict[str, int] = {}

    def may_speak(self, subject: str, period_ns: int = SECOND_NS) -> bool:
        now_ns = self._clock.monotonic_ns()
        spoke_ns = self._spoke_ns.get(subject)
        if spoke_ns is not None and now_ns - spoke_ns < period_ns:
            return False
        self._spoke_ns[subject] = now_ns
        return True
