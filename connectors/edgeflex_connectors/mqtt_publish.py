"""`mqtt_publish`: messages and samples out to an MQTT broker."""

from __future__ import annotations

import math
import string
import time
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeflex_connectors.mqtt import MqttConfig
from edgeflex_connectors.mqtt_client import MqttClient, new_properties
from edgeflex_connectors.mqtt_session import MqttSession
from edgeflex_connectors.mqtt_suspect import Suspect
from edgeflex_connectors.payload_formats import AnyFormat, JsonEdgeflex
from edgeflex_connectors.payloads import PayloadEncoder, mark_late
from edgeflex_flow.errors import FatalError, FieldError, nearest, unforeseen
from edgeflex_flow.messages import Policy, Samples, validity_s
from edgeflex_flow.node import (
    ANY,
    DEFAULT_PORT,
    Context,
    Input,
    NodeConfig,
    Progress,
    SinkNode,
    WireMessage,
    at_once,
    connection,
    quantity,
)
from edgeflex_flow.node import topic as bus_topic
from edgeflex_flow.outbox import Limits, Outbox
from edgeflex_flow.segments import Entry

PLACEHOLDERS = ("device", "type", "policy_id")
SHOWN_PLACEHOLDERS = tuple(f"{{{name}}}" for name in PLACEHOLDERS)
LONGEST_TOPIC_BYTES = 65535
NO_DEVICE = "_"
FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cn", "Cs"})
"""Control characters, no characters, surrogates: brokers may end the connection of who sends them (MQTT-1.5.3)."""

MOST_IN_FLIGHT = {1: 100, 2: 10}
"""Payloads on their way, by QoS, that are not answered yet. Brokers limit them (10 in some for QoS 2, 20 in mosquitto,
100 in some clouds for QoS 1) and drop or disconnect beyond; the rest waits in the outbox."""
MOST_OVERHEAD_BYTES = 40
"""Of a packet, beside topic and payload, properties included."""
MOST_AT_ONCE, MOST_AT_ONCE_BYTES = 1000, 64 << 10
"""Payloads are written together up to these limits."""

HANGS_AT_MOST_NS = 60_000_000_000
FLUSH_POLL_S = 0.002
SAVE_AFTER, SAVE_AFTER_WHEN_AWAY = 0.8, 0.4
"""Shares of the time that a flush has, after which it saves to disk what the broker has not taken."""

KEEP_SESSION_S = 3600.0
"""How long brokers keep which messages of QoS 2 they received, for a client that reconnects."""


class MqttPublishConfig(NodeConfig, frozen=True, kw_only=True):
    """Publish every message and every batch of samples on a topic of an MQTT broker.

    Messages go out as JSON objects with their meaning in the key `type`; in the formats `covee` and `flex` those alone
    that they are for. Samples go out in `format`, by default as
    `json.edgeflex`, a batch as one payload where the format allows it: in the units and under the names that it
    declares, or with all columns by their names. Values that are not finite are null. A format without quality flags
    has no rows flagged `bad_data` or `test`, which readers would take for good ones.

    In `topic`, `{device}` and `{type}` are filled in from the message (`samples` is the type of samples; the device is
    `_` in messages that have none), and `{policy_id}` from a `policy`. With `{device}` a batch of samples is split into
    one payload for each device. A device's name, which may come from the network, chooses no other topics: `/`, `+`,
    `#`, control characters and a `$` at its start become `_` in the topic, and so in a policy's id. Two devices may
    then share one; the payload has their names as they are.

    While the broker is away, or slower than the flow, up to `queue` payloads (and 64 MiB) wait in memory. Where the
    connection has an `outbox`, what has waited there for a second, or when half of `queue` waits, goes on to disk,
    within the connection's `outbox_size` and `outbox_age`; it outlives the program and goes out with the next run, the
    oldest first. `on_disk` says otherwise than the default, which is yes with QoS 1 and 2. Beyond the limits the oldest
    are dropped and counted under `overflow`, what is older under `too_old`. Of a killed program the last second is
    lost. While the disk is full, payloads wait in memory (`disk_errors`).

    What is sent more than `late_after` after it was written is marked: the flag `late` in `quality` where there is one,
    else the key `"late": true` in messages, and with MQTT 5 the user property `late`. Samples in a format without
    quality have no such place: with MQTT 3.1.1 they are counted under `late_unmarked`.

    Set-points must never come late: a message that says how long it is valid is not sent once that has passed since its
    `time_ns`, and nothing that waited here longer than `expires`, but counted under `expired`, also after a reconnect;
    none outlives the program. While a broker has not answered one in time, no other goes out. What a broker that hangs
    has taken in before, it passes on when it goes on: readers should look at `time_ns` (`covee` sends it with
    `extension`).
    With MQTT 5 the broker is told how long it may pass it on; with 3.1.1, where the broker would retain it for ever, it
    is not asked to `retain` it. Such payloads go out with QoS 1 at most: one of QoS 2 cannot be taken back.

    With QoS 1 and 2 every payload is sent again until the broker acknowledges it; the order of each topic is kept. With
    QoS 1 a connection that breaks may cause duplicates, after a restart of the program also QoS 2. With QoS 0 what the
    operating system took just before a connection broke is lost, as MQTT has it.

    Input:
        in: any message, or Samples with any columns.

    Output:
        None. Counts `published` and `bytes` (handed to the connection), `late` and `late_unmarked` (of these),
        `acknowledged` (QoS 1 and 2), `overflow`, `expired`, `too_old`, `spilled` (to disk), `recovered` (left by an
        earlier run), `disk_errors`, `corrupt_bytes` (of the outbox, set aside), `reconnects`, `lost` (still in memory
        when the flow ended), `withheld` (rows that the format cannot mark as bad).

    Errors:
        Dead letter `bad_topic` for a message whose device makes a topic too long to publish to, `not_encodable` for
        one that JSON or the format cannot hold, `too_large` for one larger than the broker says it takes (MQTT 5),
        `refused` for one that the broker does not let the user publish (MQTT 5; brokers of 3.1.1 drop it and say
        nothing), and with QoS 1 and 2 for one at which the broker has ended the connection five times, though it took
        the next one.
        RetryableError while another process has the folder of the outbox. Those of the connection: see `mqtt`.

    Source:
        MQTT Versions 3.1.1 and 5.0, OASIS Standards; `json.edgeflex` of VILLASnode.

    >>> MqttPublishConfig(bus="databus", topic="edgeflex/{device}/{type}").qos
    1
    """

    bus: Annotated[str, connection("bus", "Connection to the broker.")]
    topic: Annotated[str, bus_topic("Topic; {device}, {type} and {policy_id} come from the message.", "publish")]
    qos: Annotated[Literal[0, 1, 2], Meta(description="0: at most once, 1: at least once, 2: exactly once.")] = 1
    retain: Annotated[bool, Meta(description="Whether the broker keeps the last one for later subscribers.")] = False
    format: Annotated[AnyFormat, Meta(description="How samples are written; a name, or `type` and settings.")] = (
        JsonEdgeflex()
    )
    queue: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Payloads held in memory; the oldest go to disk, or drop.")
    ] = 10_000
    expires: Annotated[
        Annotated[float, quantity("s", "A validity.", gt=0, le=86400)] | None,
        Meta(description="How long a payload may wait; then it is dropped: for set-points."),
    ] = None
    late_after: Annotated[float, quantity("s", "A payload that waited longer is marked as late.", gt=0, le=86400)] = 1
    on_disk: Annotated[
        bool | None,
        Meta(description="Whether payloads wait in the connection's `outbox`; by default those of QoS 1 and 2."),
    ] = None

    def refusals(self) -> Iterator[FieldError]:
        if self.expires is not None and self.qos == 2:
            text = "`expires` needs `qos` 0 or 1: a payload of QoS 2 cannot be taken back once it is under way"
            yield FieldError(text, "expires", "qos")
        try:
            names = [name for _, name, form, turn in string.Formatter().parse(self.topic) if name is not None]
            plain = all(not form and not turn for _, _, form, turn in string.Formatter().parse(self.topic))
        except ValueError as error:
            yield FieldError(f"`topic`: {error}", "topic", got=f"'{self.topic}'")
            return
        for name in names:
            if name not in PLACEHOLDERS:
                text = f"`topic`: no placeholder '{{{name}}}'"
                yield FieldError(text, "topic", known=SHOWN_PLACEHOLDERS, nearest=_nearest_placeholder(name))
        if not plain:
            text = f"`topic`: placeholders are plain {', '.join(SHOWN_PLACEHOLDERS)}"
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
def topic_of(pattern: str, device: str, message_type: str, policy_id: str = "") -> str:
    """What `topic` of the config becomes for a message of this device and policy (may be empty) and type."""
    return pattern.format(device=topic_level(device), type=message_type, policy_id=topic_level(policy_id))


def payloads(
    config: MqttPublishConfig, message: WireMessage, encoder: PayloadEncoder
) -> Iterator[tuple[str, bytes | ValueError]]:
    """Topic and payload of everything that one message becomes, or why a part of it cannot be encoded."""
    if not isinstance(message, Samples):
        device: str = getattr(message, "device", None) or ""
        policy_id = message.policy_id if isinstance(message, Policy) else ""
        topic = topic_of(config.topic, device, _type(message), policy_id)
        yield from ((topic, payload) for payload in encoder.encode_message(message))
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
        self._outbox = self._make_outbox()
        self._late_after_ns = round(config.late_after * 1e9)
        self._suspect = Suspect()
        self._under_way: dict[int, Entry] = {}
        """By message id, what is not answered yet. This and what follows change only under the lock of the client."""
        self._ids_again: dict[int, int] = {}
        """With QoS 2, by the number of an entry that waits again: the message id under which the broker may have it."""
        self._sizes: list[tuple[Entry, int]] = []
        """With QoS 0: what was written last, with the size of each packet, and the packets as one."""
        self._packets = b""

    def _make_outbox(self) -> Outbox:
        config, context = self._config, self._context
        opened = context.connections.get("bus")
        bus = opened.config if opened is not None and isinstance(opened.config, MqttConfig) else None
        limits = Limits(memory_entries=config.queue)
        folder = None
        if (
            bus is not None
            and bus.outbox is not None
            and (config.qos > 0 if config.on_disk is None else config.on_disk)
        ):
            folder = context.resolve(bus.outbox) / context.site / context.flow / context.node
            limits = Limits(memory_entries=config.queue, disk_bytes=int(bus.outbox_size), age_s=bus.outbox_age)
        return Outbox(
            limits,
            context.counters,
            context.log,
            folder=folder,
            on_ready=self._look_again,
            on_failure=self._outbox_failed,
        )

    def _look_again(self) -> None:
        self._context.progressed()
        session = self._session
        if session is not None:
            session.turn()

    def progress(self) -> Progress:
        """A payload is durable when the broker has acknowledged it, when it is on disk, or written with QoS 0."""
        return Progress(self._outbox.put_to, self._outbox.safe_to())

    def hurry(self) -> None:
        """Payloads go out as fast as the broker takes them anyway."""

    def _outbox_failed(self, error: BaseException) -> None:
        self._context.fail(unforeseen(f"node '{self._context.node}': the outbox failed", error))

    def open(self) -> None:
        self._outbox.open()
        self._context.gauges.watch("outbox_messages", self._outbox.held)
        if self._outbox.is_on_disk:
            self._context.gauges.watch("outbox_disk_bytes", self._outbox.disk_bytes)
        if self._session is None:
            bus = self._context.connections["bus"]
            self._session = bus.node.open(bus.config, self._context)
        session = self._session
        session.on_connecting = self._take_back
        session.on_up = self._check_limits
        session.on_turn = self._publish_waiting
        if self._config.qos == 1:
            session.on_answer = self._answered
        if self._config.qos == 2:
            session.on_published = self._answered
            # Only a session that outlives the connection knows what it has received already.
            session.keep_session_s, session.begin_clean = KEEP_SESSION_S, True
        session.start()

    def write(self, messages: Sequence[WireMessage]) -> None:
        now_ns = self._context.clock.now_ns()
        for message in messages:
            valid_s = validity_s(message, now_ns, self._config.expires)
            if valid_s <= 0.0:
                self._context.counters.add("expired")
                continue
            try:
                for topic, payload in payloads(self._config, message, self._encoder):
                    if isinstance(payload, ValueError):
                        self._refuse(message, payload)
                    else:
                        self._enqueue(topic, payload, valid_s)
            except (ValueError, OverflowError) as error:
                self._refuse(message, error)
        if self._encoder.withheld:
            self._context.counters.set("withheld", self._encoder.withheld)
        assert self._session is not None
        self._session.turn()

    def _refuse(self, message: WireMessage, error: Exception) -> None:
        self._context.dead_letter("not_encodable", f"a message of type '{_type(message)}': {error}", b"")

    def _enqueue(self, topic: str, payload: bytes, valid_s: float) -> None:
        assert self._session is not None
        problem = topic_problem(topic) or topic_problem(self._session.broker.topics.outward(topic))
        if problem is not None:
            self._context.dead_letter("bad_topic", problem, payload)
            return
        self._outbox.put(topic, payload, 0.0 if valid_s == math.inf else valid_s)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is out, or, with an outbox on disk and a broker that does not take it, until it is saved."""
        started_s = time.monotonic()
        while self._outbox.held():
            waited_s = time.monotonic() - started_s
            is_up = self._session is not None and self._session.is_up
            if self._outbox.is_on_disk and waited_s >= (SAVE_AFTER if is_up else SAVE_AFTER_WHEN_AWAY) * timeout_s:
                return self._outbox.save(timeout_s - waited_s)
            if waited_s >= timeout_s:
                return False
            time.sleep(FLUSH_POLL_S)
        return True

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        held = self._outbox.held()
        kept = self._outbox.held_for_the_next_run()
        lost = self._outbox.close()
        if lost:
            self._context.counters.add("lost", lost)
            self._context.log.error("%d payloads were never taken by the broker and are lost", lost)
        if held > lost:
            self._context.log.warning(
                "%d payloads wait in the outbox for the next run%s",
                kept,
                f"; {held - kept} that expire are never sent" if held > kept else "",
            )

    # Under the lock of the client -----------------------------------------------------------------------------------

    def _publish_waiting(self) -> None:
        assert self._session is not None
        client = self._session.client
        while not client.want_write():
            self._written()
            count, size = self._publish_some(client) if self._config.qos < 2 else self._publish_qos_2(client)
            if not count:
                break
            self._context.counters.add_all(published=count, bytes=size)

    def _hangs(self) -> bool:
        """Whether the broker has not answered a payload while it was valid: what is sent now would come late too.

        One that it has not answered for much longer it never will, though it goes on.
        """
        now_ns = time.monotonic_ns()
        return any(
            each.valid_ns and 0 < now_ns - each.put_ns - each.valid_ns < HANGS_AT_MOST_NS
            for each in self._under_way.values()
        )

    def _publish_some(self, client: MqttClient) -> tuple[int, int]:
        """Write what may go out with QoS 0 or 1 as one; how many payloads that were and their bytes."""
        qos, length, size = self._config.qos, 0, 0
        if self._hangs():
            return 0, 0
        packets: list[bytes] = []
        most = self._most_in_flight() - len(self._under_way) if qos else MOST_AT_ONCE
        while len(packets) < most and length < MOST_AT_ONCE_BYTES:
            entry = self._next()
            if entry is None:
                break
            topic, payload, properties = self._dressed(entry)
            retain = self._retains(entry)
            packet, mid = client.packet_of(topic, payload, qos, retain=retain, properties=properties)
            if self._is_too_large(entry, len(packet)):
                continue
            if qos:
                self._under_way[mid] = entry
            else:
                self._sizes.append((entry, len(packet)))
            packets.append(packet)
            length += len(packet)
            size += len(payload)
        if not packets:
            return 0, 0
        self._packets = b"".join(packets)
        if not client.write_packets(self._packets):
            self._take_back_unwritten(length)  # those of QoS 1 are taken back before the next connection
            return 0, 0
        return len(packets), size

    def _next(self) -> Entry | None:
        entry = self._outbox.take()
        if entry is None or not self._suspect.is_due(entry):
            return entry
        other = self._outbox.take()
        if other is None:
            return entry
        self._suspect.pass_over(entry)
        return other

    def _most_in_flight(self) -> int:
        assert self._session is not None
        if self._suspect.is_alone:
            return 1
        return min(MOST_IN_FLIGHT[self._config.qos], self._session.limits.in_flight)

    def _is_too_large(self, entry: Entry, size: int) -> bool:
        """Whether the broker takes no packet so large; then the entry is over, since sending it ends the connection."""
        assert self._session is not None
        most = self._session.limits.packet_bytes
        if most is None or size <= most:
            return False
        named = self._session.broker.topics.told(entry.key)
        text = f"{self._session.broker}: a packet of {size} bytes for {named}; the broker takes {most}"
        self._context.dead_letter("too_large", text, entry.payload)
        self._outbox.done(entry)
        return True

    def _check_limits(self) -> None:
        """FatalError to the flow where the broker cannot do what the config asks for."""
        assert self._session is not None
        limits, broker = self._session.limits, self._session.broker
        if self._config.qos > limits.qos:
            self._context.fail(FatalError(f"{broker}: the broker takes `qos` up to {limits.qos}"))
        elif self._config.retain and not limits.retains:
            self._context.fail(FatalError(f"{broker}: the broker does not `retain`"))

    def _publish_qos_2(self, client: MqttClient) -> tuple[int, int]:
        """Hand one payload to paho, which keeps it, under its id, until the broker has it for good."""
        entry = self._next() if len(self._under_way) < self._most_in_flight() and not self._hangs() else None
        if entry is None:
            return 0, 0
        again = self._ids_again.pop(entry.number, None)
        topic, payload, properties = self._dressed(entry)
        if self._is_too_large(entry, len(payload) + len(topic.encode()) + MOST_OVERHEAD_BYTES):
            return 0, 0
        qos = 1 if entry.valid_ns else 2
        retain = self._retains(entry)
        if again is None:
            mid = client.publish(topic, payload, qos, retain, properties).mid
        else:
            mid = client.publish_again(again, topic, payload, qos, retain=retain, properties=properties)
        self._under_way[mid] = entry
        return 1, len(payload)

    def _retains(self, entry: Entry) -> bool:
        assert self._session is not None
        return self._config.retain and (self._session.client.is_v5 or not entry.valid_ns)

    def _dressed(self, entry: Entry) -> tuple[str, bytes, Properties | None]:
        """Topic, payload and properties as they go out now."""
        assert self._session is not None
        session, payload = self._session, entry.payload
        if entry.valid_ns:
            session.limit_unsent(entry.valid_ns / 1e9)
        is_late = entry.age_ns > self._late_after_ns
        if is_late:
            marked = mark_late(payload)
            self._context.counters.add("late")
            if marked is payload and not session.client.is_v5:
                self._context.counters.add("late_unmarked")
            payload = marked
        properties = None
        if session.client.is_v5 and (is_late or entry.valid_ns):
            properties = self._properties(entry, is_late=is_late)
        return session.broker.topics.outward(entry.key), payload, properties

    def _properties(self, entry: Entry, *, is_late: bool) -> Properties:
        properties = new_properties(PacketTypes.PUBLISH)
        if entry.valid_ns:
            properties.MessageExpiryInterval = max(1, (entry.valid_ns - entry.age_ns) // 1_000_000_000)
        if is_late:
            properties.UserProperty = ("late", "true")
        return properties

    def _written(self) -> None:
        """With QoS 0: the operating system has taken all that was handed over."""
        for entry, _ in self._sizes:
            self._outbox.done(entry)
        if self._sizes:
            self._context.progressed()
        self._sizes.clear()

    def _answered(self, mid: int, problem: str | None) -> bool:
        entry = self._under_way.pop(mid, None)
        if entry is None:
            return False  # a status message of the session
        if problem is None:
            self._context.counters.add("acknowledged")
            self._outbox.done(entry)
        else:
            self._refused(entry, problem)
        back = self._suspect.answered()
        if back is not None:
            self._outbox.again([back])
        self._context.progressed()
        return True

    def _refused(self, entry: Entry, problem: str) -> None:
        assert self._session is not None
        named = self._session.broker.topics.told(entry.key)
        text = f"{self._session.broker}: the broker refused to take {named}: {problem}"
        self._context.dead_letter("refused", text, entry.payload)
        self._outbox.done(entry)  # after the dead letter, which has to be kept before a source is told

    def _take_back(self) -> None:
        """Before a new connection: what was under way on the old one goes out again, unless it has expired.

        Of QoS 2 paho itself sends again what the broker has not acknowledged, under the same ids; unless one of them
        seems to be what the broker ends connections for.
        """
        assert self._session is not None
        self._take_back_unwritten(self._session.client.unwritten(self._packets))
        client = self._session.client
        back = {mid: each for mid, each in self._under_way.items() if not client.has_arrived(mid)}
        verdict = self._suspect.connection_ended(back.values())
        if self._config.qos == 2 and not self._suspect.is_alone and verdict.guilty is None:
            back = {mid: each for mid, each in back.items() if each.valid_ns}
        client.forget(back)
        for mid, entry in back.items():
            del self._under_way[mid]
            if self._config.qos == 2 and not entry.valid_ns:
                self._ids_again[entry.number] = mid
        again = [*back.values(), *([] if verdict.again is None else [verdict.again])]
        self._outbox.again(each for each in again if each is not verdict.guilty)
        if verdict.guilty is not None:
            self._ids_again.pop(verdict.guilty.number, None)
            size = len(verdict.guilty.payload)
            self._refused(verdict.guilty, f"it ended the connection each time, at {size} bytes")

    def _take_back_unwritten(self, left: int) -> None:
        """With QoS 0: of `left` bytes the operating system has taken nothing; what it took in part is lost."""
        again: list[Entry] = []
        while self._sizes and left > 0:
            entry, size = self._sizes.pop()
            if size <= left:
                again.append(entry)
            else:
                self._outbox.done(entry)
                self._context.counters.add("lost")
            left -= size
        self._outbox.again(again)
        self._written()


def open_sink(config: MqttPublishConfig, context: Context) -> MqttPublish:
    return MqttPublish(config, context)


NODE = SinkNode(
    kind="mqtt_publish",
    config=MqttPublishConfig,
    inputs={DEFAULT_PORT: Input(accepts=ANY, needs=lambda config: config.format.columns)},
    open=open_sink,
    delays=at_once,
)
