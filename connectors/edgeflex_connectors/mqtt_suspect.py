"""Finds the payload for which a broker ends the connection, since brokers of MQTT 3.1.1 do not say why they do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from edgeflex_flow.segments import Entry

ALONE_AFTER = 2
PASSED_OVER_AFTER = 4


class Verdict(NamedTuple):
    """What is to be done at the end of a connection."""

    again: Entry | None = None
    """What was passed over, and has to go first again: the broker did not take the next one either."""
    guilty: Entry | None = None
    """For this one the broker ends connections."""


class Suspect:
    """The payload that was the oldest without an answer at the end of each of the last connections.

    Once `ALONE_AFTER` connections ended so, payloads go one at a time. After `PASSED_OVER_AFTER` the suspect is passed
    over once. If the broker answers the next payload, neither it nor the network is the cause, and the suspect is tried
    alone once more: if that connection ends too, it is guilty.
    """

    def __init__(self) -> None:
        self._number = 0
        self._ended = 0
        self._passed_over: Entry | None = None
        self._is_on_trial = False

    @property
    def is_alone(self) -> bool:
        """Whether payloads go one at a time, to see which one it is."""
        return self._ended >= ALONE_AFTER

    def is_due(self, entry: Entry) -> bool:
        """Whether this is the suspect, and the next payload is to go before it, if there is one."""
        due = self._ended >= PASSED_OVER_AFTER and self._passed_over is None and not self._is_on_trial
        return due and entry.number == self._number

    def pass_over(self, entry: Entry) -> None:
        self._passed_over = entry

    def connection_ended(self, under_way: Iterable[Entry]) -> Verdict:
        oldest = min(under_way, key=lambda entry: entry.number, default=None)
        back, self._passed_over = self._passed_over, None
        if back is not None:
            self._ended = ALONE_AFTER
            return Verdict(again=back)
        if oldest is None:
            return Verdict()
        if oldest.number == self._number and self._is_on_trial:
            self._clear()
            return Verdict(guilty=oldest)
        self._ended = self._ended + 1 if oldest.number == self._number else 1
        self._number, self._is_on_trial = oldest.number, False
        return Verdict()

    def answered(self) -> Entry | None:
        """The broker has answered a payload. What was passed over for it is to be tried again."""
        back, self._passed_over = self._passed_over, None
        if back is None:
            self._clear()
        else:
            self._is_on_trial = True
        return back

    def _clear(self) -> None:
        self._number = self._ended = 0
        self._is_on_trial = False
