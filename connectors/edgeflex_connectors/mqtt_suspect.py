"""Finds the payload for which a broker ends the connection, since brokers of MQTT 3.1.1 do not say why they do."""

from __future__ import annotations

from collections.abc import Iterable

from edgeflex_flow.segments import Entry

ALONE_AFTER = 2
PASSED_OVER_AFTER = 4


class Suspect:
    """The payload that was the oldest without an answer at the end of each of the last connections.

    Once `ALONE_AFTER` connections ended so, payloads go one at a time. After `PASSED_OVER_AFTER` the suspect is passed
    over once: if the broker answers the next payload, the suspect was the cause, and not the broker or the network.
    """

    def __init__(self) -> None:
        self._number = 0
        self._ended = 0
        self._passed_over: Entry | None = None

    @property
    def is_alone(self) -> bool:
        """Whether payloads go one at a time, to see which one it is."""
        return self._ended >= ALONE_AFTER

    def is_due(self, entry: Entry) -> bool:
        """Whether this is the suspect, and the next payload is to go before it, if there is one."""
        return entry.number == self._number and self._ended >= PASSED_OVER_AFTER and self._passed_over is None

    def pass_over(self, entry: Entry) -> None:
        self._passed_over = entry

    def connection_ended(self, under_way: Iterable[Entry]) -> Entry | None:
        """What was passed over, which has to go first again: the broker did not take the next one either."""
        oldest = min((entry.number for entry in under_way), default=0)
        back, self._passed_over = self._passed_over, None
        if back is not None:
            self._ended = ALONE_AFTER
        elif oldest:
            self._ended = self._ended + 1 if oldest == self._number else 1
            self._number = oldest
        return back

    def answered(self) -> Entry | None:
        """The broker has answered a payload. What was passed over for it is the one for which it ends connections."""
        found, self._passed_over = self._passed_over, None
        self._number = self._ended = 0
        return found
