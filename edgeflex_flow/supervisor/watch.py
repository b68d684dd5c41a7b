"""Watches what a running flow tells of itself, and finds what must not go on."""

from __future__ import annotations

import time

from edgeflex_flow.flowfile.plan import Limits
from edgeflex_flow.runtime.vitals import Vitals


class Watch:
    """Over one run of one flow."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._seen: Vitals | None = None
        self._waits_since_s: dict[str, float] = {}
        """By wire, since when its reader has taken nothing of what came."""

    def fault(self, vitals: Vitals) -> str:
        """Which limit the flow breaks; empty if none."""
        before, self._seen = self._seen, vitals
        if self._stands_still(vitals):
            return f"stood still for {vitals.turn_age_s:.0f} s"
        most = self.limits.memory
        if most is not None and vitals.memory_bytes > most:
            used_mib, most_mib = vitals.memory_bytes / 2**20, most / 2**20
            return f"needs {used_mib:.0f} MiB of memory, at most {most_mib:.0f} MiB are allowed"
        return self._stalled_wire(before, vitals)

    @property
    def stands(self) -> bool:
        """Whether the flow takes no turns, so that it would not end in order either."""
        return self._seen is not None and self._stands_still(self._seen)

    def _stands_still(self, vitals: Vitals) -> bool:
        """A drain has a limit of its own."""
        longest_s = {"starting": self.limits.open, "running": self.limits.stalled}.get(vitals.phase)
        return longest_s is not None and vitals.turn_age_s > longest_s

    def _stalled_wire(self, before: Vitals | None, vitals: Vitals) -> str:
        """Name a wire onto which its source gives, and of which its reader has long taken nothing."""
        if before is None or before is vitals:
            return ""
        now_s = time.monotonic()
        for wire, counts in vitals.wires.items():
            source = wire.partition(" -> ")[0]
            if counts["messages"] != before.wires.get(wire, {}).get("messages"):
                self._waits_since_s.pop(wire, None)
            elif _given(vitals, source) > _given(before, source):
                self._waits_since_s.setdefault(wire, now_s)
            since_s = self._waits_since_s.get(wire)
            if since_s is not None and now_s - since_s > self.limits.stalled:
                return f"wire '{wire}' stood still for {now_s - since_s:.0f} s while '{source}' gave"
        return ""


def _given(vitals: Vitals, node: str) -> int:
    return vitals.nodes.get(node, {}).get("messages_out", 0)
