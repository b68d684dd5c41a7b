"""CFG-3 configurations that are larger than a frame: several frames, which CONT_IDX numbers.

Source: IEEE Std C37.118.2-2011, clause 6.4.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from edgeflex_connectors.c37118_config import ConfigFrame, decode_config_body, encode_config_body
from edgeflex_connectors.c37118_header import (
    CHECK_BYTES,
    CONFIG_TYPES,
    HEADER_BYTES,
    LARGEST_FRAME_BYTES,
    FrameError,
    FrameHeader,
    FrameType,
    read_header,
    seal,
)

MOST_UNFINISHED: Final = 64
"""Configurations whose parts are kept at a time; the oldest goes first."""
MOST_BYTES: Final = 4 * 1024 * 1024
"""Bound on one configuration; one of as many PMUs as fit into a data frame needs about 1 MiB."""
WHOLE: Final = 0
FIRST: Final = 1
LAST: Final = 0xFFFF
_INDEX_BYTES: Final = 2


class _Parts(msgspec.Struct):
    """Parts of a configuration, in their order."""

    header: FrameHeader
    head: bytes
    next: int
    last_part: bytes
    bodies: list[bytes]
    size: int


class FragmentedConfigs:
    """Reads configuration frames of many peers and joins those that come in parts.

    Parts must come in their order, as over TCP; one that comes twice counts once. Out of order, all of the
    configuration is lost, so that whoever wants it asks again.
    """

    def __init__(self) -> None:
        self._unfinished: OrderedDict[tuple[int, int], _Parts] = OrderedDict()

    def decode(self, peer: int, frame: bytes) -> ConfigFrame | None:
        """The configuration that a frame holds or completes; None when more is to come. Raises FrameError."""
        kind, header = read_header(frame)
        if kind not in CONFIG_TYPES:
            raise FrameError(f"a {kind.name} frame is no configuration", reason="bad_config", payload=frame)
        if kind is not FrameType.CFG3 or len(frame) < HEADER_BYTES + _INDEX_BYTES + CHECK_BYTES:
            return decode_config_body(frame, kind, header)
        index = int.from_bytes(frame[HEADER_BYTES : HEADER_BYTES + _INDEX_BYTES], "big")
        if index == WHOLE:
            return decode_config_body(frame, kind, header)
        return self._join((peer, header.idcode), index, header, frame)

    def _join(self, key: tuple[int, int], index: int, header: FrameHeader, frame: bytes) -> ConfigFrame | None:
        body = frame[HEADER_BYTES + _INDEX_BYTES : -CHECK_BYTES]
        parts = self._unfinished.get(key)
        if index == FIRST:
            self._begin(key, header, frame, body)
            return None
        if parts is not None and parts.last_part == frame:
            return None
        if parts is None or index not in (parts.next, LAST):
            self._unfinished.pop(key, None)
            text = f"part {index} of a CFG-3 configuration came out of order; expected {parts.next if parts else FIRST}"
            raise FrameError(text, reason="bad_config", payload=frame)
        parts.bodies.append(body)
        parts.size += len(body)
        parts.next += 1
        parts.last_part = frame
        if parts.size > MOST_BYTES:
            del self._unfinished[key]
            raise FrameError(
                f"a CFG-3 configuration of more than {MOST_BYTES} bytes", reason="bad_config", payload=frame
            )
        if index != LAST:
            return None
        del self._unfinished[key]
        whole = parts.head + bytes(_INDEX_BYTES) + b"".join(parts.bodies) + bytes(CHECK_BYTES)
        return decode_config_body(whole, FrameType.CFG3, parts.header)

    def _begin(self, key: tuple[int, int], header: FrameHeader, frame: bytes, body: bytes) -> None:
        self._unfinished.pop(key, None)
        self._unfinished[key] = _Parts(header, frame[:HEADER_BYTES], FIRST + 1, frame, [body], len(body))
        while len(self._unfinished) > MOST_UNFINISHED:
            self._unfinished.popitem(last=False)


def encode_config_frames(config: ConfigFrame, most_bytes: int = LARGEST_FRAME_BYTES) -> list[bytes]:
    """The frames of a configuration: one, or several when it is a CFG-3 of more than `most_bytes`.

    Raises ValueError when a field does not fit its place, or a CFG-1 or CFG-2 its frame.
    """
    body = encode_config_body(config)
    if config.kind is not FrameType.CFG3:
        if HEADER_BYTES + len(body) + CHECK_BYTES > most_bytes:
            raise ValueError(f"a {config.kind.name} of {len(config.pmus)} PMUs does not fit into {most_bytes} bytes")
        return [seal(config.kind, config.header, body)]
    room = most_bytes - HEADER_BYTES - _INDEX_BYTES - CHECK_BYTES
    if len(body) <= room:
        return [_part(config, WHOLE, body)]
    pieces = [body[start : start + room] for start in range(0, len(body), room)]
    if len(pieces) >= LAST:
        raise ValueError(f"a CFG-3 of {len(pieces)} parts; at most {LAST - 1} can be numbered")
    return [
        _part(config, LAST if number == len(pieces) else number, piece) for number, piece in enumerate(pieces, start=1)
    ]


def _part(config: ConfigFrame, index: int, piece: bytes) -> bytes:
    return seal(config.kind, config.header, index.to_bytes(_INDEX_BYTES, "big") + piece)
