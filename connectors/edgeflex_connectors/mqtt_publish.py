"""`mqtt_publish`: messages and samples out to an MQTT broker."""

from __future__ import annotations

import string
import time
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from edgeflex_connectors.mqtt_session import MqttSession
from edgeflex_connectors.payload_formats import AnyFormat, JsonEdgeflex
from edgeflex_connectors.payloads import PayloadEncoder
from edgeflex_flow.errors import FieldError, nearest
from edgeflex_flow.messages import Samples, encode_message
from edgeflex_flow.node import ANY, DEFAULT_PORT, Context, Input, NodeConfig, SinkNode, WireMessage, connection

PLACEHOLDERS = ("device", "type")
LONGEST_TOPIC_BYTES = 65535
NO_DEVICE = "_"
FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cn", "Cs"})
"""Control characters, no characters, surrogates: brokers may end the connection of who sends them (MQTT-1.5.3)."""

MOST_IN_FLIGHT = {0: 1, 1: 100, 2: 20}
"""Payloads on their way, by QoS: with QoS 0 not wholly written yet, else not answered yet. Brokers limit the latter (20
in mosquitto for QoS 2, 100 in some clouds) and drop or disconnect beyond; the rest waits in the node's own queue."""

FLUSH_POLL_S = 0.002


class MqttPublishConfig(NodeConfig, frozen=True, kw_only=True):
    """Publish every message and every batch of samples on a topic of an MQTT broker.

    Messages go out as JSON objects with their meaning in the key `type`. Samples go out in `format`, by default as
    `json.edgeflex`, a batch as one payload where the format allows it: in the units and under the names that it
    declares, or with all columns by their names. Values that are not finite are null. A format without quality flags
    has no rows flagged `bad_data` or `test`, which readers would take for good ones.

    In `topic`, `{device}` and `{type}` are filled in from the message (`samples` is the type of samples; the device is
    `_` in messages that have none). With `{device}` a batch of samples is split into one payload for each device.
    A device's name, which may come from the network, chooses no other topics: `/`, `+`, `#`, control characters and a
    `$` at its start become `_` in the topic. Two devices may then share one; the payload has their names as they are.

    While the broker is away, or slower than the flow, up to `queue` payloads wait; beyond that the oldest are dropped
    and counted under `overflow`. With QoS 1 and 2 every payload is sent again until the broker acknowledges it.
    With QoS 0 what the operating system took just before a connection broke is lost, as MQTT has it.

    Input:
        in: any message, or Samples with any columns.

    Output:
        None. Counts `published` and `bytes` (handed to the connection), `acknowledged` (QoS 1 and 2), `overflow`,
        `reconnects`, `lost` (still held when the flow ended), `withheld` (rows that the format cannot mark as bad).

    Errors:
        Dead letter `bad_topic` for a message whose device makes a topic too long to publish to, `not_encodable` for
        one that JSON or the format cannot hold.
        Those of the connection: see `mqtt`.

    Source:
        MQTT Version 3.1.1, OASIS Standard; `json.edgeflex` of VILLASnode.

    >>> MqttPublishConfig(bus="databus", topic="edgeflex/{device}/{type}").qos
    1
    """

    bus: Annotated[str, connection("bus", "Connection to the broker.")]
    topic: Annotated[str, Meta(min_length=1, description="Topic; {device} and {type} come from the message.")]
    qos: Annotated[Literal[0, 1, 2], Meta(description="0: at most once, 1: at least once, 2: exactly once.")] = 1
    retain: Annotated[bool, Meta(description="Whether the broker keeps the last one for later subscribers.")] = False
    format: Annotated[AnyFormat, Meta(description="How samples are written; a name, or `type` and settings.")] = (
        JsonEdgeflex()
    )
    queue: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Payloads held while the broker is away; the oldest drop first.")
    ] = 10_000

    def refusals(self) -> Iterator[FieldError]:
        try:
            names = [name for _, name, form, turn in string.Formatter().parse(self.topic) if name is not None]
            plain = all(not form and not turn for _, _, form, turn in string.Formatter().parse(self.topic))
        except ValueError as error:
            yield FieldError(f"`topic`: {error}", "topic", got=f"'{self.topic}'")
            return
        for name in names:
            if name not in PLACEHOLDERS:
                text = f"`topic`: no placeholder '{{{name}}}'"
                yield FieldError(text, "topic", known=("{device}", "{type}"), nearest=_nearest_placeholder(name))
        if not plain:
            text = "`topic`: placeholders are plain {device} and {type}"
            yield FieldError(text, "topic", got=f"'{self.topic}'")
        problem = topic_problem(self.topic)
        if problem is not None:
            yield FieldError(f"`topic`: {problem}", "topic")


def _nearest_placeholder(name: str) -> str | None:
    close = nearest(name, PLACEHOLDERS)
    return None if close is None else f"{{{close}}}"


@lru_cache(maxsize=4096)
def topic_problem(topic: str) -> str | None:
    """Why nothing can be published on this topic; None if it can."""
    if not topic:
        return "a topic must not be empty"
    for character in ("+", "#", "\0"):
        if character in topic:
            return f"a topic to publish on must not hold {character!r}; got {topic!r}"
    if len(topic.encode(errors="replace")) > LONGEST_TOPIC_BYTES:
        return f"a topic holds at most {LONGEST_TOPIC_BYTES} bytes"
    return None


def topic_level(device: str) -> str:
    """A device's name as part of a topic.

    >>> topic_level("$SYS/broker"), topic_level("G1+"), topic_level("")
    ('_SYS_broker', 'G1_', '_')
    """
    level = "".join(
        "_" if character in "/+#" or unicodedata.category(character) in FORBIDDEN_CATEGORIES else character
        for character in device
    )
    return "_" + level[1:] if level.startswith("$") else level or NO_DEVICE


def _type(message: WireMessage) -> str:
    return Samples.tag if isinstance(message, Samples) else str(message.__struct_config__.tag)


@lru_cache(maxsize=4096)
def topic_of(pattern: str, device: str, message_type: str) -> str:
    """What `topic` of the config becomes for a message of this device (may be empty) and type."""
    return pattern.format(device=topic_level(device), type=message_type)


def payloads(
    config: MqttPublishConfig, message: WireMessage, encoder: PayloadEncoder
) -> Iterator[tuple[str, bytes | ValueError]]:
    """Topic and payload of everything that one message becomes, or why a part of it cannot be encoded."""
    if not isinstance(message, Samples):
        device: str = getattr(message, "device", None) or ""
        yield topic_of(config.topic, device, _type(message)), encode_message(message)
    elif "{device}" not in config.topic:
        yield from _samples(topic_of(config.topic, "", Samples.tag), message, encoder)
    else:
        for code in np.unique(message.device).tolist():
            topic = topic_of(config.topic, message.devices[code], Samples.tag)
            yield from _samples(topic, message.take(message.device == code), encoder)


def _samples(topic: str, samples: Samples, encoder: PayloadEncoder) -> Iterator[tuple[str, bytes | ValueError]]:
    try:
        made: list[bytes] = encoder.encode(samples)
    except ValueError as error:
        yield topic, ValueError(f"{samples.rows} rows for topic '{topic}': {error}")
    else:
        yield from ((topic, payload) for payload in made)


class MqttPublish:
    """The sink. `write` runs in a thread of the runtime, `_publish_waiting` in whichever has the client."""

    def __init__(self, config: MqttPublishConfig, context: Context, session: MqttSession | None = None) -> None:
        self._config = config
        self._context = context
        self._session = session
        self._encoder = PayloadEncoder(config.format)
        self._waiting: deque[tuple[str, bytes]] = deque()
        # Both change only under the lock of the client.
        self._handed_over = 0
        self._out = 0

    def open(self) -> None:
        if self._session is None:
            bus = self._context.connections["bus"]
            self._session = bus.node.open(bus.config, self._context)
        session = self._session
        session.on_connecting = self._give_up_half_sent
        session.on_turn = self._publish_waiting
        if self._config.qos:
            session.on_published = self._acknowledged
        session.start()

    def write(self, messages: Sequence[WireMessage]) -> None:
        for message in messages:
            try:
                for topic, payload in payloads(self._config, message, self._encoder):
                    if isinstance(payload, ValueError):
                        self._refuse(message, payload)
                    else:
                        self._enqueue(topic, payload)
            except (ValueError, OverflowError) as error:
                self._refuse(message, error)
        if self._encoder.withheld:
            self._context.counters.set("withheld", self._encoder.withheld)
        assert self._session is not None
        self._session.turn()

    def _refuse(self, message: WireMessage, error: Exception) -> None:
        self._context.dead_letter("not_encodable", f"a message of type '{_type(message)}': {error}", b"")

    def _enqueue(self, topic: str, payload: bytes) -> None:
        problem = topic_problem(topic)
        if problem is not None:
            self._context.dead_letter("bad_topic", problem, payload)
            return
        self._waiting.append((topic, payload))
        if len(self._waiting) > self._config.queue:
            try:
                self._waiting.popleft()
            except IndexError:
                return  # the network thread sent them all meanwhile
            self._context.counters.add("overflow")

    def flush(self, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not self._is_all_out():
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(FLUSH_POLL_S)
        return True

    def _is_all_out(self) -> bool:
        return not self._waiting and self._handed_over == self._out

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        held = len(self._waiting) + self._handed_over - self._out
        if held:
            self._context.counters.add("lost", held)
            self._context.log.error("%d payloads were never taken by the broker and are lost", held)

    # Under the lock of the client -----------------------------------------------------------------------------------

    def _publish_waiting(self) -> None:
        assert self._session is not None
        client = self._session.client
        qos, retain, most = self._config.qos, self._config.retain, MOST_IN_FLIGHT[self._config.qos]
        if qos == 0 and not client.want_write():
            self._out = self._handed_over
        published = size = 0
        while self._waiting and not client.want_write() and self._handed_over - self._out < most:
            try:
                topic, payload = item = self._waiting.popleft()
            except IndexError:
                break  # `write` dropped the last one for a newer that is not there yet
            self._handed_over += 1
            code = client.publish(topic, payload, qos, retain).rc
            if code and qos == 0:
                self._handed_over -= 1
                self._waiting.appendleft(item)
                break
            published += 1
            size += len(payload)
            if qos == 0 and not client.want_write():
                self._out = self._handed_over
            if code:
                break  # paho keeps it and sends it again on the next connection
        if published:
            self._context.counters.add("published", published)
            self._context.counters.add("bytes", size)

    def _acknowledged(self) -> None:
        self._out += 1
        self._context.counters.add("acknowledged")

    def _give_up_half_sent(self) -> None:
        """With QoS 0, paho forgets what the old connection took only in part; it keeps the rest."""
        if self._config.qos == 0 and self._handed_over != self._out:
            self._context.counters.add("lost", self._handed_over - self._out)
            self._out = self._handed_over


def open_sink(config: MqttPublishConfig, context: Context) -> MqttPublish:
    return MqttPublish(config, context)


NODE = SinkNode(
    kind="mqtt_publish",
    config=MqttPublishConfig,
    inputs={DEFAULT_PORT: Input(accepts=ANY, needs=lambda config: config.format.columns)},
    open=open_sink,
)
