"""Capture files with frames in them, for tests."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import Literal

ETHERNET, RAW, LINUX_COOKED, LINUX_COOKED_2 = 1, 101, 113, 276
UDP, TCP = 17, 6
Order = Literal["<", ">"]


def _checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(payload: bytes, *, source_port: int = 4713, target_port: int = 4713) -> bytes:
    return struct.pack(">HHHH", source_port, target_port, 8 + len(payload), 0) + payload


def tcp(
    payload: bytes, sequence: int, *, source_port: int = 4712, target_port: int = 50_000, starts: bool = False
) -> bytes:
    flags = 0x02 if starts else 0x18
    ports = struct.pack(">HHII", source_port, target_port, sequence % 2**32, 0)
    return ports + struct.pack(">BBHHH", 5 << 4, flags, 0xFFFF, 0, 0) + payload


def ip(
    protocol: int,
    payload: bytes,
    *,
    source: str = "10.0.0.1",
    target: str = "10.0.0.9",
    identity: int = 0,
    offset: int = 0,
    more: bool = False,
) -> bytes:
    """An IPv4 or IPv6 packet, a fragment if `offset` or `more` say so."""
    sender, receiver = ipaddress.ip_address(source), ipaddress.ip_address(target)
    if sender.version == 4:
        fragment = offset // 8 | more << 13
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), identity, fragment, 64, protocol, 0)
        head += sender.packed + receiver.packed
        return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + payload
    if offset or more:
        payload = struct.pack(">BBHI", protocol, 0, offset | more, identity) + payload
        protocol = 44
    head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
    return head + sender.packed + receiver.packed + payload


def link(packet: bytes, link_type: int, vlans: Sequence[int] = ()) -> bytes:
    """An IP packet in a frame of this link layer."""
    kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    tags, first = b"", kind
    for number, vlan in enumerate(reversed(vlans)):
        tags = struct.pack(">HH", vlan, first) + tags
        first = 0x8100 if number == 0 else 0x88A8
    if link_type == ETHERNET:
        # Padded, as short frames are.
        return (bytes(12) + struct.pack(">H", first) + tags + packet).ljust(60, b"\xaa")
    if link_type == LINUX_COOKED:
        return struct.pack(">HHH8sH", 0, 1, 6, bytes(8), first) + tags + packet
    if link_type == LINUX_COOKED_2:
        return struct.pack(">HHIHBB8s", first, 0, 1, 1, 0, 6, bytes(8)) + tags + packet
    return packet


def pcap(frames: Sequence[bytes], link_type: int = ETHERNET, *, order: Order = "<", nanoseconds: bool = False) -> bytes:
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    out = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link_type)]
    out += [struct.pack(f"{order}IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames]
    return b"".join(out)


def _block(kind: int, body: bytes, order: Order) -> bytes:
    body += bytes(-len(body) % 4)
    size = 12 + len(body)
    return struct.pack(f"{order}II", kind, size) + body + struct.pack(f"{order}I", size)


def pcapng(frames: Sequence[bytes], link_type: int = ETHERNET, *, order: Order = "<", simple: bool = False) -> bytes:
    out = [
        _block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order),
        _block(1, struct.pack(f"{order}HHI", link_type, 0, 0), order),
        _block(0xBAD, b"what no reader knows", order),
    ]
    for frame in frames:
        if simple:
            out.append(_block(3, struct.pack(f"{order}I", len(frame)) + frame, order))
        else:
            out.append(_block(6, struct.pack(f"{order}IIIII", 0, 0, 0, len(frame), len(frame)) + frame, order))
    return b"".join(out)
