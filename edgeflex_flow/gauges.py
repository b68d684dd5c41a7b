"""What nodes tell about how they are now: queues, connections, certificates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Final

CONNECTED: Final = "connected"
OPENED: Final = "opened"

GAUGES: Final[Mapping[str, str]] = {
    CONNECTED: "1 while the far side is there, 0 while it is not.",
    OPENED: "1 while a source is open, 0 while it could not be opened and is tried again.",
    "queue_messages": "Messages, payloads, frames or batches that wait in memory.",
    "queue_rows": "Rows that wait in memory to be written.",
    "queue_bytes": "Bytes of frames or answers that wait in memory.",
    "outbox_messages": "Payloads that wait to be sent, in memory and on disk.",
    "outbox_disk_bytes": "Bytes of the outbox on disk.",
    "clients": "Clients that are connected to the node.",
    "certificate_until_s": "When the certificate of the far side ends, UTC seconds since 1970.",
    "policy_age_s": "How long ago the policy system answered last, earlier runs counted.",
    "state_age_s": "How long ago the states of operators were saved last.",
}
"""Every name that a node may tell, with its unit at the end, and what it means."""

Read = Callable[[], float | None]


class Gauges:
    """The gauges of one node."""

    def __init__(self) -> None:
        self._reads: dict[str, Read] = {}

    def watch(self, name: str, read: Read) -> None:
        """Have `read` tell a gauge of `GAUGES` from now on, in place of what told it before.

        It is called from any thread, each second: it looks and never waits. None: not known now.
        """
        if name not in GAUGES:
            raise ValueError(f"no gauge '{name}'; known: {', '.join(GAUGES)}")
        self._reads[name] = read

    def read(self) -> dict[str, float]:
        """All gauges that are known now."""
        told: dict[str, float] = {}
        for name, read in list(self._reads.items()):
            # What is read belongs to another thread, which may be closing it; the next look is a second away.
            with contextlib.suppress(Exception):
                value = read()
                if value is not None:
                    told[name] = float(value)
        return told
