"""What all frames of IEEE C37.118.2 share: the 14-byte header, the time tag and the check word."""

from __future__ import annotations

import binascii
import enum
import struct
from typing import Final

import msgspec

from edgeflex_flow.errors import BadMessageError

SYNC_BYTE: Final = 0xAA
HEADER_BYTES: Final = 14
CHECK_BYTES: Final = 2
SMALLEST_FRAME_BYTES: Final = HEADER_BYTES + CHECK_BYTES
LARGEST_FRAME_BYTES: Final = 0xFFFF
KNOWN_VERSIONS: Final = (1, 2)
"""1: all messages of the 2005 edition; 2: what the 2011 edition added (CFG-3)."""

_HEADER = struct.Struct(">BBHHII")


class FrameError(BadMessageError):
    """A frame that cannot be used. `reason` is one of

    `truncated`, `bad_sync`, `bad_version`, `bad_size`, `bad_crc` (the frame itself), `bad_config` (a configuration
    that contradicts itself), `unknown_idcode` (data without configuration), `size_mismatch` (data that do not fit
    their configuration).
    """


class FrameType(enum.IntEnum):
    """Bits 6 to 4 of the second SYNC byte."""

    DATA = 0
    HEADER = 1
    CFG1 = 2
    CFG2 = 3
    COMMAND = 4
    CFG3 = 5


CONFIG_TYPES: Final = (FrameType.CFG1, FrameType.CFG2, FrameType.CFG3)


class FrameHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a frame and when: the fields that every frame has."""

    idcode: int
    """Identity of the stream, 1 to 65534."""
    soc: int
    """Second of century: UTC seconds since 1970, without leap seconds."""
    fraction: int = 0
    """Count of 1/TIME_BASE seconds, 24 bits. In command frames it may exceed TIME_BASE: devices on the market do so."""
    time_quality: int = 0
    """The whole byte: leap-second bits and, in bits 3 to 0, the message's time quality."""
    version: int = 1

    @property
    def leap_second_deleted(self) -> bool:
        """Direction of the leap second: True to be deleted, False to be inserted."""
        return bool(self.time_quality & 0x40)

    @property
    def leap_second_occurred(self) -> bool:
        return bool(self.time_quality & 0x20)

    @property
    def leap_second_pending(self) -> bool:
        return bool(self.time_quality & 0x10)

    @property
    def message_time_quality(self) -> int:
        """0 locked; 1 to 0xB within 10^-9 s to 10 s, a power of ten each; 0xF clock failure."""
        return self.time_quality & 0x0F


def check_word(data: bytes | memoryview) -> int:
    """CRC-CCITT: polynomial 0x1021, start 0xFFFF, not reflected (C37.118.2-2011 annex B).

    >>> hex(check_word(b"123456789"))
    '0x29b1'
    """
    return binascii.crc_hqx(data, 0xFFFF)


def time_ns(soc: int, fraction: int, time_base: int) -> int:
    """UTC nanoseconds since 1970 of a time tag, rounded to the nearest, in integers throughout.

    >>> time_ns(1, 500_000, 1_000_000)
    1500000000
    """
    return soc * 1_000_000_000 + (fraction * 1_000_000_000 + time_base // 2) // time_base


def read_header(frame: bytes) -> tuple[FrameType, FrameHeader]:
    """Check a frame as a whole and read its header. Raises FrameError."""
    if len(frame) < SMALLEST_FRAME_BYTES:
        raise FrameError(
            f"frame of {len(frame)} bytes; the smallest has {SMALLEST_FRAME_BYTES}", reason="truncated", payload=frame
        )
    sync, kind, size, idcode, soc, fracsec = _HEADER.unpack_from(frame)
    if sync != SYNC_BYTE or kind >> 4 not in FrameType._value2member_map_:
        raise FrameError(
            f"SYNC is 0x{sync:02X}{kind:02X}; expected 0xAA and a frame type of 0 to 5",
            reason="bad_sync",
            payload=frame,
        )
    if kind & 0x0F not in KNOWN_VERSIONS:
        raise FrameError(f"version {kind & 0x0F} of the frame format; known: 1, 2", reason="bad_version", payload=frame)
    if size != len(frame):
        raise FrameError(f"FRAMESIZE is {size}, the frame has {len(frame)} bytes", reason="bad_size", payload=frame)
    expected = check_word(memoryview(frame)[:-CHECK_BYTES])
    found = int.from_bytes(frame[-CHECK_BYTES:], "big")
    if found != expected:
        raise FrameError(f"CHK is 0x{found:04X}, computed 0x{expected:04X}", reason="bad_crc", payload=frame)
    header = FrameHeader(
        idcode=idcode, soc=soc, fraction=fracsec & 0xFFFFFF, time_quality=fracsec >> 24, version=kind & 0x0F
    )
    return FrameType(kind >> 4), header


def seal(kind: FrameType, header: FrameHeader, body: bytes) -> bytes:
    """A whole frame: header, body, check word. Raises ValueError when a field does not fit its place."""
    size = HEADER_BYTES + len(body) + CHECK_BYTES
    if size > LARGEST_FRAME_BYTES:
        raise ValueError(f"a frame has at most {LARGEST_FRAME_BYTES} bytes; got {size}")
    if not 0 <= header.fraction <= 0xFFFFFF:
        raise ValueError(f"FRACSEC counts 0 to 0xFFFFFF; got {header.fraction}")
    try:
        head = _HEADER.pack(
            SYNC_BYTE,
            kind << 4 | header.version,
            size,
            header.idcode,
            header.soc,
            header.time_quality << 24 | header.fraction,
        )
    except struct.error as error:
        raise ValueError(f"header does not fit its fields: {header}") from error
    frame = head + body
    return frame + check_word(frame).to_bytes(CHECK_BYTES, "big")
