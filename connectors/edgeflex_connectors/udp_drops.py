"""Counts what the operating system drops of a UDP port, as the counter `kernel_drops`."""

from __future__ import annotations

from typing import Final

from edgeflex_connectors.speaker import Speaker
from edgeflex_connectors.udp_receive import UdpReceiver
from edgeflex_flow.node import Context

_WARNING_PERIOD_NS: Final = 10_000_000_000
_LOOK_PERIOD_NS: Final = 100_000_000
_FEW: Final = 4
"""After a burst the system is asked at once what it dropped, after few datagrams only now and then: it costs 7 µs."""


class DropCounter:
    """Asks the operating system now and then; warns when something was dropped."""

    def __init__(self, receiver: UdpReceiver, context: Context) -> None:
        self._receiver = receiver
        self._context = context
        self._speaker = Speaker(context)
        self._looked_ns = 0

    def look(self, datagrams: int) -> None:
        """Call after so many datagrams were read."""
        if datagrams > _FEW or self._context.clock.monotonic_ns() - self._looked_ns >= _LOOK_PERIOD_NS:
            self.count()

    def count(self) -> None:
        self._looked_ns = self._context.clock.monotonic_ns()
        before = self._receiver.kernel_drops
        drops = self._receiver.read_kernel_drops()
        if drops is None or drops == before:
            return
        self._context.counters.set("kernel_drops", drops)
        if self._speaker.may_speak("kernel_drops", _WARNING_PERIOD_NS):
            self._context.log.warning(
                "the operating system dropped frames that were not read in time: %d so far", drops
            )
