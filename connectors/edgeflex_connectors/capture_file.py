"""Packets of capture files: pcap and pcapng, as tcpdump and Wireshark write them.

Source: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; https://www.tcpdump.org/linktypes.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

LARGEST_FILE_BYTES: Final = 1 << 29
LARGEST_BLOCK_BYTES: Final = 1 << 24
_SECTION: Final = 0x0A0D0D0A
_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_MAGICS: Final = (0xA1B2C3D4, 0xA1B23C4D)
"""Of pcap files with time in µs and in ns; packets are the same."""
_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 1, 2, 3, 6

Order = Literal["<", ">"]


class CaptureError(ValueError):
    """The file is no capture."""


class Packet(NamedTuple):
    """A packet as captured, possibly cut off behind a snap length."""

    link_type: int
    data: bytes


class CaptureFile:
    """Reads packets; `damage` tells afterwards where reading had to end before the file did."""

    def __init__(self, file: Path) -> None:
        size = file.stat().st_size
        if size > LARGEST_FILE_BYTES:
            raise CaptureError(f"it has {size} bytes; at most {LARGEST_FILE_BYTES} are read")
        self._data = file.read_bytes()
        self.damage = ""

    def packets(self) -> Iterator[Packet]:
        """All packets until the end or until the file is damaged. Raises CaptureError when it is no capture."""
        start = self._data[:4]
        if int.from_bytes(start, "big") == _SECTION:
            yield from self._packets_ng()
            return
        for order in ("<", ">"):
            if len(self._data) >= 24 and struct.unpack(f"{order}I", start)[0] in _MAGICS:
                yield from self._packets_classic(order)
                return
        raise CaptureError(f"it is neither pcap nor pcapng: it begins with {start.hex() or 'nothing'}")

    def _packets_classic(self, order: Literal["<", ">"]) -> Iterator[Packet]:
        (link_type,) = struct.unpack_from(f"{order}I", self._data, 20)
        head = struct.Struct(f"{order}8xII")
        place = 24
        while place < len(self._data):
            if place + 16 > len(self._data):
                self._end(place)
                return
            captured, _ = head.unpack_from(self._data, place)
            end = place + 16 + captured
            if captured > LARGEST_BLOCK_BYTES or end > len(self._data):
                self._end(place)
                return
            yield Packet(link_type & 0xFFFF, self._data[place + 16 : end])
            place = end

    def _end(self, place: int) -> None:
        self.damage = f"damaged or cut off at byte {place} of {len(self._data)}; what comes behind is not read"

    def _packets_ng(self) -> Iterator[Packet]:
        place = 0
        order: Order = "<"
        link_types: list[tuple[int, int]] = []
        while place < len(self._data):
            if place + 12 > len(self._data):
                self._end(place)
                return
            if int.from_bytes(self._data[place : place + 4], "big") == _SECTION:
                little = struct.unpack_from("<I", self._data, place + 8)[0] == _BYTE_ORDER_MAGIC
                order = "<" if little else ">"
                link_types = []
            kind, size = struct.unpack_from(f"{order}II", self._data, place)
            if size < 12 or size % 4 or size > LARGEST_BLOCK_BYTES or place + size > len(self._data):
                self._end(place)
                return
            body = self._data[place + 8 : place + size - 4]
            if kind == _INTERFACE and len(body) >= 8:
                link_types.append(struct.unpack_from(f"{order}H2xI", body))
            packet = _packet_of(kind, body, order, link_types)
            if packet is not None:
                yield packet
            place += size


def _packet_of(kind: int, body: bytes, order: Order, link_types: list[tuple[int, int]]) -> Packet | None:
    """The packet in a block; None when it holds none or names an interface that is not described."""
    if kind == _PACKET and len(body) >= 20:
        interface, captured = struct.unpack_from(f"{order}I8xI", body)
        start = 20
    elif kind == _OLD_PACKET and len(body) >= 20:
        interface, captured = struct.unpack_from(f"{order}H10xI", body)
        start = 20
    elif kind == _SIMPLE_PACKET and len(body) >= 4 and link_types:
        (length,) = struct.unpack_from(f"{order}I", body)
        interface, start = 0, 4
        captured = min(length, link_types[0][1] or length)
    else:
        return None
    if interface >= len(link_types):
        return None
    return Packet(link_types[interface][0], body[start : start + captured])
