"""From captured packets to what UDP and TCP carry in them: link layers, VLANs, IPv4, IPv6, fragments."""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, NamedTuple

from edgeflex_connectors.capture_file import Packet

UDP: Final = 17
TCP: Final = 6
MOST_FRAGMENTED: Final = 256
"""Datagrams whose fragments are kept at once."""
MOST_FRAGMENTS: Final = 256
MOST_HEADERS: Final = 8
"""VLAN tags or IPv6 extension headers that are looked through."""

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLANS: Final = frozenset({0x8100, 0x88A8, 0x9100})
_RAW_LINKS: Final = frozenset({12, 14, 101, 228, 229})
_FAMILY_LINKS: Final = frozenset({0, 108})
"""Loopback of BSD: four bytes of address family, then IP."""
_ETHERNET, _LINUX_COOKED, _LINUX_COOKED_2 = 1, 113, 276
_OPTION_HEADERS: Final = frozenset({0, 43, 60})
_FRAGMENT_HEADER, _AUTHENTICATION_HEADER = 44, 51


class Segment(NamedTuple):
    """What one UDP datagram or TCP segment carries."""

    protocol: int
    source: bytes
    """Address of the host, 4 or 16 bytes."""
    source_port: int
    target: bytes
    target_port: int
    sequence: int
    """TCP's sequence number of the first byte of the payload."""
    starts: bool
    """TCP: the first segment of a connection."""
    payload: bytes


def address_text(address: bytes) -> str:
    """An address as people write it."""
    return str(ipaddress.ip_address(address))


class _Internet(NamedTuple):
    """An IP packet, or a fragment of one."""

    source: bytes
    target: bytes
    protocol: int
    payload: bytes
    identity: bytes = b""
    offset: int = 0
    more: bool = False


class PacketReader:
    """Takes packets apart; puts fragments together. Whatever is malformed or something else gives None."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[bytes, bytes, int, bytes], list[_Internet]] = {}

    def segment(self, packet: Packet) -> Segment | None:
        """The UDP datagram or TCP segment in a packet, if it is one, or completes one."""
        try:
            internet = _internet(packet)
            if internet is not None and (internet.more or internet.offset):
                internet = self._joined(internet)
            return None if internet is None else _transport(internet)
        except (struct.error, IndexError):
            return None

    def _joined(self, part: _Internet) -> _Internet | None:
        key = (part.source, part.target, part.protocol, part.identity)
        parts = self._waiting.setdefault(key, [])
        parts.append(part)
        if len(self._waiting) > MOST_FRAGMENTED:
            del self._waiting[next(iter(self._waiting))]
        if len(parts) > MOST_FRAGMENTS:
            self._waiting.pop(key, None)
            return None
        payload = b""
        for each in sorted(parts, key=lambda each: each.offset):
            if each.offset > len(payload):
                return None
            payload = payload[: each.offset] + each.payload
            if not each.more:
                self._waiting.pop(key, None)
                return each._replace(payload=payload)
        return None


def _internet(packet: Packet) -> _Internet | None:
    data = packet.data
    if packet.link_type == _ETHERNET:
        place, kind = 14, int.from_bytes(data[12:14], "big")
    elif packet.link_type == _LINUX_COOKED:
        place, kind = 16, int.from_bytes(data[14:16], "big")
    elif packet.link_type == _LINUX_COOKED_2:
        place, kind = 20, int.from_bytes(data[0:2], "big")
    elif packet.link_type in _RAW_LINKS or packet.link_type in _FAMILY_LINKS:
        place = 4 if packet.link_type in _FAMILY_LINKS else 0
        kind = _IPV6 if data[place] >> 4 == 6 else _IPV4
    else:
        return None
    for _ in range(MOST_HEADERS):
        if kind not in _VLANS:
            break
        place, kind = place + 4, int.from_bytes(data[place + 2 : place + 4], "big")
    if kind == _IPV4:
        return _ipv4(data[place:])
    return _ipv6(data[place:]) if kind == _IPV6 else None


def _ipv4(data: bytes) -> _Internet | None:
    first, length, identity, fragment, protocol, source, target = struct.unpack_from(">BxH2sHxB2x4s4s", data)
    start = (first & 0x0F) * 4
    if first >> 4 != 4 or start < 20:
        return None
    # A length of 0 is what a card that segments for the system leaves in the packets it is handed.
    payload = data[start : length or len(data)]
    return _Internet(source, target, protocol, payload, identity, (fragment & 0x1FFF) * 8, bool(fragment & 0x2000))


def _ipv6(data: bytes) -> _Internet | None:
    first, length, protocol, source, target = struct.unpack_from(">B3xHBx16s16s", data)
    if first >> 4 != 6:
        return None
    end = 40 + length if length else len(data)
    place = 40
    identity, offset, more = b"", 0, False
    for _ in range(MOST_HEADERS):
        if protocol in _OPTION_HEADERS:
            protocol, place = data[place], place + (data[place + 1] + 1) * 8
        elif protocol == _AUTHENTICATION_HEADER:
            protocol, place = data[place], place + (data[place + 1] + 2) * 4
        elif protocol == _FRAGMENT_HEADER:
            protocol, field, identity = struct.unpack_from(">BxH4s", data, place)
            offset, more, place = field & 0xFFF8, bool(field & 1), place + 8
        else:
            break
    return _Internet(source, target, protocol, data[place:end], identity, offset, more)


def _transport(internet: _Internet) -> Segment | None:
    data = internet.payload
    if internet.protocol == UDP:
        source_port, target_port, length = struct.unpack_from(">HHH", data)
        if length < 8 or length > len(data):
            return None
        return Segment(UDP, internet.source, source_port, internet.target, target_port, 0, False, data[8:length])
    if internet.protocol != TCP:
        return None
    source_port, target_port, sequence, offset, flags = struct.unpack_from(">HHI4xBB", data)
    start = (offset >> 4) * 4
    if start < 20 or start > len(data):
        return None
    starts = bool(flags & 0x02)
    first = (sequence + starts) & 0xFFFFFFFF
    return Segment(TCP, internet.source, source_port, internet.target, target_port, first, starts, data[start:])
