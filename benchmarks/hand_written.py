"""What a user would write by hand, tuned: recv, struct, crc_hqx, a NumPy ring for each PMU, paho. No framework.

`python -m benchmarks.hand_written PORT PMUS MQTT_PORT` prints a JSON line a second: frames so far, events so far. The
same work as the flow under test: decode with CRC, ROCOF of each PMU over 500 ms, event detection, publishing.
"""

from __future__ import annotations

import binascii
import json
import socket
import struct
import sys
import time

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

WINDOW = 26
THRESHOLD_HZ_PER_S = 0.02
CONFIRM = 15
FRAME = struct.Struct(">HHHIIHfffffffH")


def main(port: int, pmus: int, mqtt_port: int) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", mqtt_port)
    client.loop_start()
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, 33, 512 << 20)  # SO_RCVBUFFORCE, as the flow under test asks for
    receiver.bind(("127.0.0.1", port))
    receiver.settimeout(1.0)
    # Each ring is written twice, so that the window is one contiguous slice.
    rings = np.zeros((pmus, 2 * WINDOW))
    rows = [rings[k] for k in range(pmus)]
    position = [0] * pmus
    filled = [0] * pmus
    above = [0] * pmus
    centred = (np.arange(WINDOW) - (WINDOW - 1) / 2) / 50.0
    weights = centred / (centred @ centred)
    slope = weights.dot
    buffer = bytearray(2048)
    view = memoryview(buffer)
    receive, unpack, crc = receiver.recv_into, FRAME.unpack_from, binascii.crc_hqx
    frames = events = 0
    told = time.monotonic()
    while True:
        try:
            size = receive(buffer)
        except TimeoutError:
            size = 0
        if size == FRAME.size:
            sync, length, idcode, _, _, stat, _, _, _, _, frequency, _, _, check = unpack(buffer)
            if sync == 0xAA01 and length == size and crc(view[: size - 2], 0xFFFF) == check and not stat & 0xC000:
                pmu = idcode - 1
                at = position[pmu]
                ring = rows[pmu]
                ring[at] = ring[at + WINDOW] = frequency
                position[pmu] = at = (at + 1) % WINDOW
                if filled[pmu] < WINDOW:
                    filled[pmu] += 1
                elif abs(slope(ring[at : at + WINDOW])) > THRESHOLD_HZ_PER_S:
                    above[pmu] += 1
                    if above[pmu] == CONFIRM:
                        events += 1
                        client.publish("event", json.dumps({"pmu": pmu, "time": time.time()}))
                else:
                    above[pmu] = 0
                frames += 1
        if not frames & 0x3FF or not size:
            now = time.monotonic()
            if now - told >= 0.05:
                told = now
                print(json.dumps({"time_s": now, "frames": frames, "events": events}), flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
