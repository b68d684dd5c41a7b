"""Dead letters of a run that a person may look at, and give to their node once more."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edgeflex_flow.messages import DeadLetter, Quality, Samples, encode_message
from edgeflex_flow.node import WireMessage

LETTERS_KEPT = 200
KEPT_BYTES = 4 * 1024 * 1024
"""Of all letters of a flow."""
PAYLOAD_BYTES = 64 * 1024
"""Of one; what is longer is cut, and cannot be given again."""
MESSAGE_BYTES = 512
"""What a message is taken to need; rows are counted."""
TOLD_AT_ONCE = 50
ROWS_SHOWN = 50


class Refused(NamedTuple):
    """What a node refused: messages that came to a port of an operator, or to a sink."""

    port: str
    messages: Sequence[WireMessage]


class LetterHead(msgspec.Struct, frozen=True, kw_only=True):
    """What the list of dead letters tells of one."""

    id: int
    node: str
    reason: str
    text: str
    time_ns: int
    """UTC nanoseconds since 1970."""
    count: int
    """How many rows or messages it stands for."""
    payload_bytes: int
    port: str = ""
    can_replay: bool = False
    why_not: str = ""
    """Why it cannot be given again."""


class Letter(NamedTuple):
    """A dead letter, whole."""

    head: LetterHead
    payload: bytes
    refused: Refused | None

    @property
    def kept_bytes(self) -> int:
        refused = () if self.refused is None else self.refused.messages
        return len(self.payload) + sum(map(_bytes_of, refused))


class Letters:
    """The newest dead letters of a run. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._letters: deque[Letter] = deque()
        self._bytes = 0
        # From the clock, so that a number means one letter whatever runs were before.
        self._next = time.time_ns() // 1_000_000
        self._told = self._next - 1

    def add(self, letter: DeadLetter, payload: bytes, refused: Refused | None, *, decodes: bool) -> None:
        """`payload`: whole; `decodes`: whether it is a source that can decode it again."""
        why_not = _why_not(payload, refused, decodes=decodes)
        with self._lock:
            head = LetterHead(
                id=self._next,
                node=letter.node,
                reason=letter.reason,
                text=letter.text,
                time_ns=letter.time_ns,
                count=letter.count,
                payload_bytes=len(payload),
                port="" if refused is None else refused.port,
                can_replay=not why_not,
                why_not=why_not,
            )
            self._next += 1
            kept = Letter(head, payload[:PAYLOAD_BYTES], refused)
            self._letters.append(kept)
            self._bytes += kept.kept_bytes
            while len(self._letters) > LETTERS_KEPT or (self._bytes > KEPT_BYTES and len(self._letters) > 1):
                self._bytes -= self._letters.popleft().kept_bytes

    def find(self, number: int) -> Letter | None:
        with self._lock:
            return next((each for each in self._letters if each.head.id == number), None)

    @property
    def newest(self) -> int:
        """Number of the newest letter."""
        return self._next - 1

    @property
    def has_new(self) -> bool:
        """Whether some were not told yet."""
        return self._told < self._next - 1

    def take_new(self) -> tuple[LetterHead, ...]:
        """Heads of letters that were not told yet, of many the newest."""
        with self._lock:
            new = [each.head for each in self._letters if each.head.id > self._told]
            self._told = self._next - 1
        return tuple(new[-TOLD_AT_ONCE:])


def shown_payload(letter: Letter) -> bytes:
    """What a person sees of a letter: its payload, else the messages as JSON, of samples the first rows."""
    if letter.payload or letter.refused is None:
        return letter.payload
    return b"\n".join(_as_json(each) for each in letter.refused.messages[:ROWS_SHOWN])[:PAYLOAD_BYTES]


def marked_replayed(message: WireMessage) -> WireMessage:
    """A message that is given once more: rows carry the quality flag `replayed`."""
    if not isinstance(message, Samples):
        return message
    return msgspec.structs.replace(message, quality=message.quality | np.uint16(Quality.REPLAYED))


def _as_json(message: WireMessage) -> bytes:
    if not isinstance(message, Samples):
        return encode_message(message)
    first = message.take(slice(0, ROWS_SHOWN))  # type: ignore[arg-type]  # a slice is an index too
    told = {
        "type": "samples",
        "rows": message.rows,
        "time_ns": first.time_ns.tolist(),
        "device": [message.devices[code] for code in first.device],
        **{name: values.tolist() for name, values in first.columns.items()},
        "quality": first.quality.tolist(),
    }
    return msgspec.json.encode(told)


def _why_not(payload: bytes, refused: Refused | None, *, decodes: bool) -> str:
    if refused is not None:
        return ""
    if not payload:
        return "nothing of it was kept"
    if not decodes:
        return "its node cannot decode a payload by itself"
    return f"only its first {PAYLOAD_BYTES} bytes were kept" if len(payload) > PAYLOAD_BYTES else ""


def _bytes_of(message: WireMessage) -> int:
    if not isinstance(message, Samples):
        parts = (getattr(message, name) for name in message.__struct_fields__)
        return MESSAGE_BYTES + sum(_bytes_of(each) for each in parts if isinstance(each, Samples))
    row_bytes = 8 + 4 + 2 + 8 * len(message.columns)
    return MESSAGE_BYTES + row_bytes * message.rows
