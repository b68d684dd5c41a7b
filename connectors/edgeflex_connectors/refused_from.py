"""Where payloads came from that could not be used: a person may have them decoded once more."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

from edgeflex_flow.errors import BadMessageError

MOST_KEPT = 1000

OriginT = TypeVar("OriginT")


class RefusedFrom(Generic[OriginT]):
    """Remembers origin and time of the newest payloads that were refused, not the payloads.

    The time is for payloads that tell none: what is decoded an hour later must not pass for what is measured now.

    >>> refused = RefusedFrom[str]()
    >>> refused.note(b"{", "meters/7", 1_700_000_000_000_000_000)
    >>> refused.origin_of(b"{")
    ('meters/7', 1700000000000000000)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._origins: OrderedDict[bytes, tuple[OriginT, int]] = OrderedDict()

    def note(self, payload: bytes, origin: OriginT, received_ns: int) -> None:
        key = _key(payload)
        with self._lock:
            self._origins.pop(key, None)
            self._origins[key] = origin, received_ns
            if len(self._origins) > MOST_KEPT:
                self._origins.popitem(last=False)

    def origin_of(self, payload: bytes) -> tuple[OriginT, int]:
        """With UTC nanoseconds since 1970 at which it came. Raises BadMessageError when it is not known any more."""
        with self._lock:
            found = self._origins.get(_key(payload))
        if found is None:
            text = "nobody knows any more where this payload came from"
            raise BadMessageError(text, reason="bad_payload", payload=payload)
        return found


def _key(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()
