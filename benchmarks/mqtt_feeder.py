"""A publisher that is faster than any client under test: packets made before, written to the socket in one go."""

from __future__ import annotations

import socket
import struct
import threading

from edgeflex_connectors.payload_formats import JsonEdgeflex
from edgeflex_connectors.payloads import PayloadEncoder
from edgeflex_flow.messages import samples_from_rows

CONNECT = b"\x10\x12\x00\x04MQTT\x04\x02\x00\x00\x00\x06feeder"
CONNACK = b"\x20\x02\x00\x00"
DISCONNECT = b"\xe0\x00"


def packet(number: int, qos: int) -> bytes:
    """A PUBLISH of one row of one device."""
    row = (number * 20_000_000, "G1", {"frequency_hz": 49.98, "rocof_hz_per_s": -0.02})
    topic = b"bench/pmu/G1"
    body = struct.pack("!H", len(topic)) + topic
    if qos:
        body += struct.pack("!H", number % 65_535 + 1)
    [payload] = PayloadEncoder(JsonEdgeflex()).encode(samples_from_rows([row]))
    body += payload
    length, rest = b"", len(body)
    while True:
        rest, digit = divmod(rest, 128)
        length += bytes([digit | (0x80 if rest else 0)])
        if not rest:
            return bytes([0x30 | qos << 1]) + length + body


class Feeder:
    """Publishes `count` rows as fast as the broker takes them, each time that `feed` is called."""

    def __init__(self, count: int, qos: int) -> None:
        self._data = b"".join(packet(number, qos) for number in range(count))

    def feed(self, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(CONNECT)
            assert connection.recv(4) == CONNACK
            reader = threading.Thread(target=self._discard, args=(connection,), daemon=True)
            reader.start()
            connection.sendall(self._data)
            connection.sendall(DISCONNECT)
            reader.join(60.0)

    @staticmethod
    def _discard(connection: socket.socket) -> None:
        while connection.recv(65_536):
            pass
