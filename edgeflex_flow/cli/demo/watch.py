"""What the demo sees: taps on the running flow, and a real MQTT subscriber beside it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgeflex_flow.messages import (
    BUILT_IN_MESSAGES,
    FrequencyEvent,
    InertiaEstimate,
    Samples,
    SystemInertia,
    decode_message,
)
from edgeflex_flow.node import WireMessage
from edgeflex_services.broker import hang_up

TRACE_POINTS = 50
TRACE_PERIOD_NS = 300_000_000


@dataclass
class Trace:
    """The latest of one PMU."""

    frequency_hz: float = float("nan")
    rocof_hz_per_s: float = float("nan")
    time_ns: int = 0
    history_hz: deque[float] = field(default_factory=lambda: deque(maxlen=TRACE_POINTS))
    _kept_ns: int = 0

    def update(self, time_ns: int, frequency_hz: float, rocof_hz_per_s: float) -> None:
        self.frequency_hz = frequency_hz
        self.rocof_hz_per_s = rocof_hz_per_s
        self.time_ns = time_ns
        if time_ns - self._kept_ns >= TRACE_PERIOD_NS:
            self.history_hz.append(frequency_hz)
            self._kept_ns = time_ns


@dataclass
class SeenEvent:
    """One event: when the flow emitted it, and when the subscriber had it (UTC ns; None until then)."""

    event: FrequencyEvent
    emitted_ns: int
    received_ns: int | None = None


class Watch:
    """Collects what the screen and the summary show. Written by the runtime's and the subscriber's threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._traces: dict[str, Trace] = {}
        self._events: dict[tuple[str, str], SeenEvent] = {}
        self._early: dict[tuple[str, str], int] = {}
        self._estimates: dict[str, InertiaEstimate] = {}
        self._system: SystemInertia | None = None

    def on_rocof(self, message: WireMessage) -> None:
        """Tap of the node `rocof`."""
        if not isinstance(message, Samples):
            return
        frequency_hz = message.columns["frequency_hz"]
        rocof_hz_per_s = message.columns["rocof_hz_per_s"]
        with self._lock:
            for row in range(message.rows):
                trace = self._traces.setdefault(message.devices[message.device[row]], Trace())
                trace.update(int(message.time_ns[row]), float(frequency_hz[row]), float(rocof_hz_per_s[row]))

    def on_event(self, message: WireMessage) -> None:
        """Tap of the node `event`."""
        if isinstance(message, FrequencyEvent):
            key = (message.id, message.state)
            with self._lock:
                self._events[key] = SeenEvent(message, time.time_ns(), self._early.pop(key, None))

    def on_inertia(self, message: WireMessage) -> None:
        """Tap of the node `inertia`."""
        if isinstance(message, InertiaEstimate):
            with self._lock:
                self._estimates[message.device] = message

    def on_mqtt(self, payload: bytes) -> None:
        """A message that the subscriber received."""
        received_ns = time.time_ns()
        message = decode_message(payload, BUILT_IN_MESSAGES)
        if isinstance(message, FrequencyEvent):
            key = (message.id, message.state)
            with self._lock:
                if key in self._events:
                    self._events[key].received_ns = received_ns
                else:
                    self._early[key] = received_ns
        elif isinstance(message, SystemInertia):
            with self._lock:
                self._system = message

    def traces(self) -> dict[str, Trace]:
        with self._lock:
            return dict(sorted(self._traces.items(), key=lambda pair: (len(pair[0]), pair[0])))

    def estimates(self) -> dict[str, InertiaEstimate]:
        with self._lock:
            return dict(self._estimates)

    def system(self) -> SystemInertia | None:
        """The sum over the units, once the subscriber has it."""
        with self._lock:
            return self._system

    def events(self) -> list[SeenEvent]:
        with self._lock:
            return list(self._events.values())


class Subscriber:
    """A plain MQTT client that hears what the flow tells as any other program would. Use it in a `with` statement."""

    def __init__(self, port: int, topics: Sequence[str], watch: Watch) -> None:
        self._port = port
        self._topics = topics
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="edgeflex-demo-listener")
        self._client.on_connect = self._subscribe
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _client, _data, message: watch.on_mqtt(bytes(message.payload))

    def _subscribe(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe([(topic, 1) for topic in self._topics])

    def __enter__(self) -> Subscriber:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        self._ready.wait(10.0)
        return self

    def __exit__(self, *_: object) -> None:
        hang_up(self._client)
