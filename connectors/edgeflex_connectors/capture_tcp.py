"""C37.118 frames in the byte streams of captured TCP connections."""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from typing import Final

from edgeflex_connectors.c37118_header import CHECK_BYTES, SMALLEST_FRAME_BYTES, SYNC_BYTE, FrameType

MOST_WAITING_SEGMENTS: Final = 256
MOST_WAITING_BYTES: Final = 1 << 20
"""Segments that came before an earlier one, kept until that comes or is given up."""
MOST_STRIKES: Final = 200
"""Beginnings of frames in a row that turned out to be none, until a connection is taken for something else."""
_AROUND: Final = 1 << 32


class FrameStream:
    """One direction of a connection: segments in, in any order and also twice; whole frames out."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._buffer = bytearray()
        self._waiting: dict[int, bytes] = {}
        self._strikes = 0
        self.gaps = 0
        """How often bytes were missing in the capture."""

    def add(self, sequence: int, payload: bytes, *, starts: bool) -> Iterator[bytes]:
        """The frames that a segment completes."""
        if starts:
            self._next, self._waiting = sequence, {}
            self._buffer.clear()
        if self._strikes >= MOST_STRIKES or not payload:
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
                self._buffer += fresh
                yield from self._frames()

    def _skip_gap(self) -> Iterator[bytes]:
        self.gaps += 1
        self._buffer.clear()
        self._next = min(self._waiting, key=self._ahead)
        yield from self._take_what_follows()

    def _frames(self) -> Iterator[bytes]:
        """Cut whole frames off the buffer; what is none is passed over up to the next that could be one."""
        buffer, place = self._buffer, 0
        while self._strikes < MOST_STRIKES:
            place = buffer.find(SYNC_BYTE, place)
            if place < 0:
                place = len(buffer)
                break
            if place + 4 > len(buffer):
                break
            size = buffer[place + 2] << 8 | buffer[place + 3]
            if buffer[place + 1] >> 4 > max(FrameType) or size < SMALLEST_FRAME_BYTES:
                place += 1
                continue
            if place + size > len(buffer):
                break
            frame = bytes(buffer[place : place + size])
            if binascii.crc_hqx(frame[:-CHECK_BYTES], 0xFFFF) != int.from_bytes(frame[-CHECK_BYTES:], "big"):
                self._strikes += 1
                place += 1
                continue
            self._strikes = 0
            yield frame
            place += size
        del buffer[:place]
