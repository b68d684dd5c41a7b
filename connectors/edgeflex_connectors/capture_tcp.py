"""C37.118 frames in the byte streams of captured TCP connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edgeflex_connectors.c37118_cutter import FrameCutter

MOST_WAITING_SEGMENTS: Final = 256
MOST_WAITING_BYTES: Final = 1 << 20
"""Segments that came before an earlier one, kept until that comes or is given up."""
_AROUND: Final = 1 << 32


class FrameStream:
    """One direction of a connection: segments in, in any order and also twice; whole frames out."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._cutter = FrameCutter()
        self._waiting: dict[int, bytes] = {}
        self.gaps = 0
        """How often bytes were missing in the capture."""

    def add(self, sequence: int, payload: bytes, *, starts: bool) -> Iterator[bytes]:
        """The frames that a segment completes."""
        if starts:
            self._next, self._waiting = sequence, {}
            self._cutter.clear()
        if self._cutter.lost or not payload:
            return
        if self._next is None:
            self._next = sequence
        self._waiting[sequence] = max(payload, self._waiting.get(sequence, b""), key=len)
        yield from self._take_what_follows()
        if len(self._waiting) > MOST_WAITING_SEGMENTS or sum(map(len, self._waiting.values())) > MOST_WAITING_BYTES:
            yield from self._skip_gap()

    def finish(self) -> Iterator[bytes]:
        """The frames behind gaps that were still waited for."""
        while self._waiting:
            yield from self._skip_gap()

    def _ahead(self, sequence: int) -> int:
        """How far a sequence number is ahead of what is taken; negative for what came before."""
        assert self._next is not None
        ahead = (sequence - self._next) % _AROUND
        return ahead - _AROUND if ahead >= _AROUND // 2 else ahead

    def _take_what_follows(self) -> Iterator[bytes]:
        while self._waiting:
            first = min(self._waiting, key=self._ahead)
            ahead = self._ahead(first)
            if ahead > 0:
                return
            fresh = self._waiting.pop(first)[-ahead:]
            if fresh:
                assert self._next is not None
                self._next = (self._next + len(fresh)) % _AROUND
                yield from self._cutter.add(fresh)

    def _skip_gap(self) -> Iterator[bytes]:
        self.gaps += 1
        self._cutter.clear()
        self._next = min(self._waiting, key=self._ahead)
        yield from self._take_what_follows()
