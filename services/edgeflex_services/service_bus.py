"""The MQTT client of a service: connected again and again, with what comes in kept until it is taken."""

from __future__ import annotations

import ssl
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgeflex_connectors.topics import TopicMap
from edgeflex_connectors.urls import split_url
from edgeflex_flow.errors import FatalError
from edgeflex_services.broker import hang_up

PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
MOST_WAITING: Final = 1000
LARGEST_PAYLOAD: Final = 256 * 1024
RECONNECT_S: Final = (1, 5)
SUBSCRIBE_QOS: Final = 1
REFUSED_THE_USER: Final = ("Bad user name or password", "Not authorized")


class Bus:
    """A client of the broker at `url` that reads `topics`, whose names get `prefix` on the wire.

    `tell(event, **fields)` hears of connections, from paho's thread. Raises FatalError when the url is wrong or the
    authority's file cannot be read.
    """

    def __init__(
        self,
        url: str,
        topics: Sequence[str],
        *,
        tell: Callable[..., None],
        prefix: str = "",
        user: str | None = None,
        password: str | None = None,
        ca: str | None = None,
        name: str = "edgeflex-powerflow",
        protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311,
    ) -> None:
        try:
            split = split_url(url, PORTS, "mqtt:// or mqtts://")
        except ValueError as error:
            raise FatalError(str(error)) from error
        self.url = url
        self.failure: str | None = None
        """Why trying again will not help."""
        self._topics = topics
        self._names = TopicMap(prefix)
        self._tell = tell
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, bytes, bool]] = deque()
        self._overflow = 0
        client_id = f"{name}-{uuid.uuid4().hex[:8]}"
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol)
        self._client.reconnect_delay_set(*RECONNECT_S)
        if user is not None:
            self._client.username_pw_set(user, password)
        if split.scheme == "mqtts":
            self._client.tls_set_context(_trust(ca))
        self._client.on_connect = self._connected
        self._client.on_connect_fail = self._not_there
        self._client.on_disconnect = self._disconnected
        self._client.on_message = self._came
        self._is_away = False
        self._client.connect_async(str(split.hostname), split.port or PORTS[split.scheme])

    def start(self) -> None:
        """Connect as soon as the broker is there. Returns at once."""
        self._client.loop_start()

    def close(self) -> None:
        hang_up(self._client)

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send if the broker is there; what is measured now is of no use later. Whether it went."""
        # paho keeps what it cannot send, and brings it late.
        if not self._client.is_connected():
            return False
        self._client.publish(self._names.outward(topic), payload)
        return True

    def take(self) -> list[tuple[str, bytes, bool]]:
        """What came since the last call, as (topic, payload, whether the broker had kept it)."""
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
        return taken

    def take_overflow(self) -> int:
        """How many messages were dropped since the last call: too many waited, or they were too large."""
        with self._lock:
            overflow, self._overflow = self._overflow, 0
        return overflow

    def _connected(self, client: Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        try:
            self._greet(client, reason)
        except Exception as error:  # noqa: BLE001
            # It would end paho's thread, and nobody would hear of it.
            self._cannot_listen(error)

    def _cannot_listen(self, error: Exception) -> None:
        self.failure = f"{self.url}: cannot listen to {', '.join(self._topics)}: {error}"
        self._tell("failed", url=self.url, reason=str(error))

    def _greet(self, client: Client, reason: Any) -> None:
        if reason.is_failure:
            if str(reason) in REFUSED_THE_USER:
                self.failure = f"{self.url}: the broker refused the user: {str(reason).lower()}"
            self._tell("refused", url=self.url, reason=str(reason).lower())
            return
        self._is_away = False
        self._tell("connected", url=self.url)
        # A broker that was restarted knows of no subscriptions.
        client.subscribe([self._subscription(self._names.outward(topic)) for topic in self._topics])

    def _subscription(self, topic: str) -> tuple[str, Any]:
        """A topic, as it is on the wire, and how it is subscribed to."""
        return topic, SUBSCRIBE_QOS

    def _not_there(self, _client: Client, _userdata: Any) -> None:
        if not self._is_away:
            self._is_away = True
            self._tell("away", url=self.url)

    def _disconnected(self, _client: Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure and self.failure is None:
            self._tell("disconnected", url=self.url, reason=str(reason).lower())

    def _came(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        with self._lock:
            if len(self._waiting) >= MOST_WAITING or len(message.payload) > LARGEST_PAYLOAD:
                self._overflow += 1
                return
            self._waiting.append((self._names.inward(message.topic), bytes(message.payload), message.retain))


def _trust(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise FatalError(f"--ca '{ca}' cannot be read: {error.strerror or error}") from error
