"""What a store is: where samples and messages are kept to be read again. Connections of family `store` give one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec

from edgeflex_flow.messages import FrequencyEvent, Message, Samples, encode_message

TIMES = ("time_ns", "onset_time_ns")
"""Where messages hold the time they are about; the first that a message has counts."""


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as stores keep it. Type and id together are its key: written twice it is kept once."""

    type: str
    id: str
    time_ns: int | None
    device: str | None
    body: bytes
    """The message as JSON."""


def message_time_ns(message: Message) -> int | None:
    """The time that a message is about, UTC nanoseconds; None if it has none."""
    for name in TIMES:
        time_ns: int | None = getattr(message, name, None)
        if time_ns is not None:
            return time_ns
    return None


def stored_message(message: Message) -> StoredMessage:
    """A message with the key that it always has.

    A frequency event is known by its id and state, any other message by what it says.

    >>> from edgeflex_flow.messages import Alarm
    >>> stored_message(Alarm(source="n", severity="info", text="x", time_ns=1)).id
    'ff840db0b1c22454a73eddc9f2a5c6f9'
    """
    body = encode_message(message)
    if isinstance(message, FrequencyEvent):
        key = f"{message.id} {message.state}"
    else:
        key = hashlib.sha256(body).hexdigest()[:32]
    return StoredMessage(
        type=str(message.__struct_config__.tag),
        id=key,
        time_ns=message_time_ns(message),
        device=getattr(message, "device", None),
        body=body,
    )


class Store(Protocol):
    """A store that one thread uses. RetryableError: nothing was written, try again. FatalError: trying cannot help."""

    def open(self) -> None:
        """Connect, create what is missing, check the version of what is there."""

    def write(self, samples: Sequence[Samples], messages: Sequence[StoredMessage]) -> None:
        """Write all or nothing. Rows with the same device, time and column as a row that is there replace it, and so
        do messages with the same key, so that writing again changes nothing."""

    def sync(self) -> None:
        """Return when everything written survives a power failure."""

    def close(self) -> None: ...
