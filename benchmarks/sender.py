"""A fast sender: C37.118 frames of many PMUs by UDP segmentation, 64 datagrams a system call.

`python -m benchmarks.sender PORT PMUS` reads one JSON object a line, `{"count": 500000, "rate": 0}`, sends so many data
frames (at `rate` a second; 0 is as fast as it can) and answers `{"sent": …, "seconds": …}`. Time tags go on from one
command to the next at 50 frames/s for each PMU. Frequencies carry 1 mHz of noise. Each 30 s (of the tags) the first
`"disturbed"` PMUs (10 when not given) see a ramp of -0.1 Hz/s for 1 s and back: an event on each of them.
"""

from __future__ import annotations

import json
import socket
import sys
import time

import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.latency_sender import configuration, frame
from edgeflex_services.udp_send import UdpSegmentSender

FRAME_BYTES = 46
RATE_HZ = 50
EVENT_PERIOD = 30 * RATE_HZ
PACE_FRAMES = 1024
DISTURBED = 10


def crc_table() -> NDArray[np.uint16]:
    """CRC-CCITT of each byte, polynomial 0x1021."""
    table = np.zeros(256, dtype=np.uint16)
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = (value << 1) ^ 0x1021 if value & 0x8000 else value << 1
        table[byte] = value & 0xFFFF
    return table


@numba.njit(cache=True, nogil=True)
def stamp(
    frames: NDArray[np.uint8],
    first_tick: int,
    soc: int,
    frequencies: NDArray[np.uint8],
    table: NDArray[np.uint16],
    pmus: int,
) -> None:
    """Give each row of `frames` its time tag, its frequency (big-endian float32 bytes) and its CRC."""
    for row in range(frames.shape[0]):
        tick = first_tick + row // pmus
        second = soc + tick // RATE_HZ
        micros = (tick % RATE_HZ) * (1_000_000 // RATE_HZ)
        for byte in range(4):
            frames[row, 6 + byte] = (second >> (24 - 8 * byte)) & 0xFF
            frames[row, 10 + byte] = (micros >> (24 - 8 * byte)) & 0xFF
            frames[row, 32 + byte] = frequencies[row, byte]
        crc = 0xFFFF
        for byte in range(FRAME_BYTES - 2):
            crc = ((crc << 8) & 0xFFFF) ^ table[((crc >> 8) ^ frames[row, byte]) & 0xFF]
        frames[row, FRAME_BYTES - 2] = crc >> 8
        frames[row, FRAME_BYTES - 1] = crc & 0xFF


class FrameSource:
    """Data frames of `pmus` PMUs, tick after tick."""

    def __init__(self, pmus: int, seed: int = 1) -> None:
        self._pmus = pmus
        self._tick = 0
        self.disturbed = DISTURBED
        self._soc = int(time.time())
        self._table = crc_table()
        self._noise = np.random.default_rng(seed)
        one_tick = b"".join(frame(idcode, 0, 50.0) for idcode in range(1, pmus + 1))
        self._one_tick = np.frombuffer(one_tick, dtype=np.uint8).reshape(pmus, FRAME_BYTES)

    def frames(self, ticks: int) -> NDArray[np.uint8]:
        """The next `ticks` ticks, shape (ticks * pmus, 46)."""
        block = np.tile(self._one_tick, (ticks, 1))
        frequencies = self._frequencies(ticks).astype(">f4").view(np.uint8).reshape(-1, 4)
        stamp(block, self._tick, self._soc, frequencies, self._table, self._pmus)
        self._tick += ticks
        return block

    def _frequencies(self, ticks: int) -> NDArray[np.float64]:
        """Hz, shape (ticks * pmus,)."""
        phase_s = ((self._tick + np.arange(ticks)) % EVENT_PERIOD) / RATE_HZ
        dip_hz = np.interp(phase_s, [0, 10, 11, 12, 13, 30], [0, 0, -0.1, -0.1, 0, 0])
        noise_hz = self._noise.normal(0.0, 0.001, (ticks, self._pmus))
        noise_hz[:, : self.disturbed] += dip_hz[:, np.newaxis]
        return np.ravel(50.0 + noise_hz)


def main(port: int, pmus: int) -> None:
    source = FrameSource(pmus)
    connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connection.connect(("127.0.0.1", port))
    segmented = UdpSegmentSender("127.0.0.1", port, FRAME_BYTES)
    for line in sys.stdin:
        command = json.loads(line)
        if command.get("configure"):
            for idcode in range(1, pmus + 1):
                connection.send(configuration(idcode))
            print(json.dumps({"sent": 0}), flush=True)
            continue
        source.disturbed = command.get("disturbed", DISTURBED)
        sent, seconds = send(segmented, source, pmus, command["count"], command["rate"])
        print(json.dumps({"sent": sent, "seconds": seconds}), flush=True)


def send(segmented: UdpSegmentSender, source: FrameSource, pmus: int, count: int, rate: float) -> tuple[int, float]:
    """Send at least `count` frames, in whole ticks. Returns how many, and in which time."""
    ticks_a_block = max(1, 16_384 // pmus)
    sent = 0
    start_s = time.monotonic()
    while sent < count:
        block = source.frames(ticks_a_block)
        for first in range(0, len(block), PACE_FRAMES):
            segmented.send(block[first : first + PACE_FRAMES])
            wait_s = start_s + (sent + first) / rate - time.monotonic() if rate else 0.0
            if wait_s > 0:
                time.sleep(wait_s)
        sent += len(block)
    return sent, time.monotonic() - start_s


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
