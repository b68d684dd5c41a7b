"""What Wireshark's decoder, an independent one, tells of C37.118 frames."""

from __future__ import annotations

import struct
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from programs import find_program


class Packet:
    """What tshark tells of one frame: the shown values, and the texts, of each field in their order."""

    def __init__(self, packet: ET.Element) -> None:
        self.values: dict[str, list[str]] = {}
        self.texts: dict[str, list[str]] = {}
        for field in packet.iterfind("proto[@name='synphasor']//field"):
            name = field.attrib["name"].removeprefix("synphasor.")
            self.values.setdefault(name, []).append(field.attrib.get("show", ""))
            self.texts.setdefault(name, []).append(field.attrib.get("showname", field.attrib.get("show", "")))
        self.whole = "".join(field.attrib.get("showname", "") for field in packet.iter())

    def numbers(self, name: str) -> list[float]:
        return [float(int(value, 0)) if "0x" in value else float(value) for value in self.values.get(name, [])]

    def number(self, name: str) -> float:
        (value,) = self.numbers(name)
        return value

    def names(self, name: str) -> list[str]:
        return [value.rstrip() for value in self.values.get(name, [])]


def pcap(datagrams: Sequence[tuple[int, bytes]]) -> bytes:
    """A capture file of UDP datagrams from a source port to port 4713: raw IPv4, no checksums."""
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)]
    for source_port, payload in datagrams:
        udp = struct.pack(">HHHH", source_port, 4713, 8 + len(payload), 0) + payload
        hosts = bytes([10, 0, 0, 1, 10, 0, 0, 2])
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + hosts + udp
        out.append(struct.pack("<IIII", 0, 0, len(ip), len(ip)) + ip)
    return b"".join(out)


def dissect(datagrams: Sequence[tuple[int, bytes]], folder: Path) -> list[Packet]:
    """What tshark tells of frames, each from a source port: those of one port share their configuration."""
    tshark = find_program("tshark")
    assert tshark is not None, "mark the test with @pytest.mark.needs('tshark')"
    file = folder / "frames.pcap"
    file.write_bytes(pcap(datagrams))
    shown = subprocess.run(
        [tshark, "-r", str(file), "-T", "pdml", "-d", "udp.port==4713,synphasor"],
        capture_output=True,
        check=True,
        timeout=120,
    )
    packets = [Packet(packet) for packet in ET.fromstring(shown.stdout).iterfind("packet")]
    assert len(packets) == len(datagrams)
    return packets


def assert_sound(packets: Sequence[Packet]) -> None:
    """Each is a whole frame with a right check word that tshark can read to its end."""
    for packet in packets:
        assert packet.values["checksum.status"] == ["1"], packet.whole
        assert "alformed" not in packet.whole
        assert "data.unknown" not in packet.values
