"""A plain paho subscriber that measures the age of what it receives: its payloads carry UTC nanoseconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


class Listener:
    """Subscribes to `topic` and keeps the age in ms of each message. Use it in a `with` statement."""

    def __init__(self, port: int, topic: str, sent_ns: Callable[[bytes], int | None]) -> None:
        self.ages_ms: list[float] = []
        self.first = threading.Event()
        self._subscribed = threading.Event()
        self._sent_ns = sent_ns
        self._port = port
        self._topic = topic
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._subscribe
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message

    def _subscribe(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(self._topic)

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        now_ns = time.time_ns()
        sent_ns = self._sent_ns(bytes(message.payload))
        if sent_ns is not None:
            self.ages_ms.append((now_ns - sent_ns) / 1e6)
            self.first.set()

    def __enter__(self) -> Listener:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        self._subscribed.wait(10.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def collect(listener: Listener, warm_up_s: float, seconds: float) -> list[float]:
    """The ages of `seconds`, after messages have come for `warm_up_s`."""
    if not listener.first.wait(60.0):
        raise RuntimeError("no message came within 60 s")
    time.sleep(warm_up_s)
    listener.ages_ms.clear()
    time.sleep(seconds)
    return list(listener.ages_ms)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
