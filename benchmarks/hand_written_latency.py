"""The latency benchmark's flow written by hand: recv, struct, crc_hqx, a ring for ROCOF, a limit, paho publish.

`python -m benchmarks.hand_written_latency PORT MQTT_PORT`
"""

from __future__ import annotations

import binascii
import json
import socket
import struct
import sys
from collections import deque

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

WINDOW = 26
FRAME = struct.Struct(">HHHIIHfffffffH")


def main(port: int, mqtt_port: int) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", mqtt_port)
    client.loop_start()
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", port))
    state: dict[int, str] = {}
    rings: dict[int, deque[float]] = {}
    centred = (np.arange(WINDOW) - (WINDOW - 1) / 2) / 50.0
    weights = centred / (centred @ centred)
    while True:
        payload = receiver.recv(2048)
        if len(payload) != FRAME.size or binascii.crc_hqx(payload, 0xFFFF) != 0:
            continue
        _, _, idcode, soc, fraction, _, _, _, _, _, frequency_hz, _, _, _ = FRAME.unpack(payload)
        ring = rings.setdefault(idcode, deque(maxlen=WINDOW))
        ring.append(frequency_hz)
        if len(ring) < WINDOW:
            continue
        rocof_hz_per_s = float(weights @ np.array(ring))
        now = "above" if rocof_hz_per_s > 0.001 else "below" if rocof_hz_per_s < -0.001 else "normal"
        if state.get(idcode) != now:
            state[idcode] = now
            time_ns = soc * 1_000_000_000 + fraction * 1000
            event = {"type": "crossing", "device": idcode, "state": now, "time_ns": time_ns, "value": rocof_hz_per_s}
            client.publish("bench/event", json.dumps(event))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
