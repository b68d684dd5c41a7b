"""Cuts C37.118 frames off a stream of bytes, and finds the next one where the bytes are none."""

from __future__ import annotations

from typing import Final

from edgeflex_connectors.c37118_header import CHECK_BYTES, SMALLEST_FRAME_BYTES, SYNC_BYTE, FrameType, check_word

_MOST_TYPE: Final = max(FrameType)
MOST_STRIKES: Final = 200
"""Beginnings of frames in a row that turn out to be none, until the bytes are taken for something else."""
_KEPT: Final = 1024
"""How much of a frame that is none is kept for people to look at."""


class FrameCutter:
    """Bytes in, in any pieces; whole frames with a right check word out. Holds less than one frame (64 KiB).

    What is no frame is passed over, up to the next bytes that begin one. A length that is too large makes the frames
    behind it wait, until as many bytes have come or `give_up_head` says that they never will.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.strikes = 0
        """Beginnings of frames in a row that turned out to be none."""
        self.rejected = 0
        """Frames with a wrong check word, and beginnings that were none."""
        self.skipped_bytes = 0
        """Bytes that are part of no frame."""
        self.last_rejected = b""

    def __len__(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._buffer)

    def clear(self) -> None:
        self._buffer.clear()

    @property
    def lost(self) -> bool:
        """Whether so much was no frame that the bytes must be something else; nothing is taken from then on."""
        return self.strikes >= MOST_STRIKES

    def add(self, data: bytes | memoryview) -> list[bytes]:
        """The frames that these bytes complete."""
        if self.lost:
            return []
        self._buffer += data
        return self._cut(0)

    def give_up_head(self) -> list[bytes]:
        """Take the beginning of the frame that is waited for as none; the frames that stand behind it."""
        if not self._buffer or self.lost:
            return []
        self._reject(bytes(self._buffer[:_KEPT]))
        self.skipped_bytes += 1
        return self._cut(1)

    def _cut(self, place: int) -> list[bytes]:
        buffer, frames = self._buffer, []
        while not self.lost:
            place = self._next_beginning(place)
            if place + 4 > len(buffer):
                break
            end = place + (buffer[place + 2] << 8 | buffer[place + 3])
            if end > len(buffer):
                break
            frame = bytes(buffer[place:end])
            if check_word(frame[:-CHECK_BYTES]) == int.from_bytes(frame[-CHECK_BYTES:], "big"):
                self.strikes = 0
                frames.append(frame)
                place = end
                continue
            self._reject(frame)
            # A frame that was damaged ends where another begins; anything else was no frame.
            step = end - place if end == len(buffer) or self._begins_one(end) else 1
            place += step
            self.skipped_bytes += step
        del buffer[:place]
        return frames

    def _next_beginning(self, place: int) -> int:
        """Where the next bytes stand, from `place` on, that may begin a frame; the end of the buffer if none do."""
        start = place
        while True:
            place = self._buffer.find(SYNC_BYTE, place)
            if place < 0:
                place = len(self._buffer)
                break
            if self._begins_one(place):
                break
            place += 1
        self.skipped_bytes += place - start
        return place

    def _begins_one(self, place: int) -> bool:
        """Whether bytes that may begin a frame stand here, as far as they have come."""
        head = self._buffer[place : place + 4]
        if head[0] != SYNC_BYTE or (len(head) > 1 and head[1] >> 4 > _MOST_TYPE):
            return False
        return len(head) < 4 or (head[2] << 8 | head[3]) >= SMALLEST_FRAME_BYTES

    def _reject(self, frame: bytes) -> None:
        self.strikes += 1
        self.rejected += 1
        self.last_rejected = frame
