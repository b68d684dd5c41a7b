"""Sends at 1,000 messages/s what the latency benchmarks measure. `python -m benchmarks.latency_sender MODE PORT`.

MODE `frames`: C37.118 frames of 20 PMUs at 50 frames/s over UDP, tagged with the time of sending; the frequency of each
PMU jumps to and fro with each frame, so that each frame crosses a limit; configurations each second. MODE `start`: the
same with configurations each 100 ms, so that a flow that starts does not wait for them. MODE `mqtt`: bare MQTT messages
that hold the time of sending.
"""

from __future__ import annotations

import binascii
import socket
import struct
import sys
import time
from collections.abc import Callable

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

PMUS = 20
PERIOD_S = 0.001
TIME_BASE = 1_000_000


def frame(idcode: int, time_ns: int, frequency_hz: float) -> bytes:
    """A 46-byte data frame: two float phasors, float frequency, one float analog."""
    soc, rest_ns = divmod(time_ns, 1_000_000_000)
    body = struct.pack(
        ">HHHIIHfffffff", 0xAA01, 46, idcode, soc, rest_ns // 1000, 0, 1e5, 0.1, 1e3, 0.2, frequency_hz, 0.0, 1e8
    )
    return body + struct.pack(">H", binascii.crc_hqx(body, 0xFFFF))


def configuration(idcode: int) -> bytes:
    """The CFG-2 frame of such a PMU."""
    names = b"".join(name.ljust(16).encode() for name in ("V1", "I1", "P"))
    pmu = struct.pack(">16sHHHHH", f"PMU{idcode}".ljust(16).encode(), idcode, 0x000F, 2, 1, 0) + names
    pmu += struct.pack(">IIIHH", 0, 1 << 24, 0, 1, 1)
    size = 14 + 6 + len(pmu) + 4
    body = struct.pack(">HHHIIIH", 0xAA31, size, idcode, int(time.time()), 0, TIME_BASE, 1) + pmu
    body += struct.pack(">h", 50)
    return body + struct.pack(">H", binascii.crc_hqx(body, 0xFFFF))


def frames_over_udp(port: int, configure_every: int) -> Callable[[int], None]:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(("127.0.0.1", port))

    def send(turn: int) -> None:
        idcode = turn % PMUS + 1
        try:
            if turn % configure_every < PMUS:
                sender.send(configuration(idcode))
            high = turn // PMUS % 2
            sender.send(frame(idcode, time.time_ns(), 50.5 if high else 49.5))
        except ConnectionRefusedError:
            return  # nobody listens yet

    return send


def messages_over_mqtt(port: int) -> Callable[[int], None]:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()

    def send(_turn: int) -> None:
        client.publish("bench/hop", str(time.time_ns()))

    return send


def main(mode: str, port: int) -> None:
    send = messages_over_mqtt(port) if mode == "mqtt" else frames_over_udp(port, 100 if mode == "start" else 1000)
    start_s = time.monotonic()
    turn = 0
    while True:
        send(turn)
        turn += 1
        wait_s = start_s + turn * PERIOD_S - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
