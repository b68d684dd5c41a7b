"""`mqtt_subscribe`: messages and samples in from an MQTT broker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta
from msgspec.structs import replace
from paho.mqtt.client import topic_matches_sub

from edgeflex_connectors.batching import SamplesBuilder, message_types, promise_refusals
from edgeflex_connectors.mqtt_session import MqttSession
from edgeflex_connectors.payload_formats import AnyFormat, JsonEdgeflex
from edgeflex_connectors.payloads import DEVICE, PayloadDecoder, samples_of, subscription_columns, subscription_refusals
from edgeflex_connectors.refused_from import RefusedFrom
from edgeflex_connectors.topics import SHARED
from edgeflex_flow.errors import BadMessageError, FieldError
from edgeflex_flow.messages import Message, Samples
from edgeflex_flow.node import Context, NodeConfig, SourceNode, Wire, WireMessage, at_once, connection, quantity
from edgeflex_flow.node import topic as bus_topics
from edgeflex_flow.wakeup import Wakeup

MOST_HELD_BYTES = 256 << 20
"""Of all payloads that wait."""
KEPT_OF_LARGE = 1024
RESTART_S = 60.0
"""Longer than a restart of a flow takes, also of one on a small computer."""
MOST_TOPICS = 10_000


class MqttSubscribeConfig(NodeConfig, frozen=True, kw_only=True):
    """Receive samples and messages from topics of an MQTT broker.

    Samples come in the `format` of this subscription, by default `json.edgeflex`. Values are turned into the unit that
    their column's name ends in. A column that a row lacks, or that is null, is NaN. Messages come as JSON objects whose
    key `type` names their meaning. What came since the last turn of the flow is given in order, samples that follow
    each other as one batch.

    Up to `queue` payloads, and 256 MiB, wait for the flow; beyond that the oldest are dropped and counted under
    `overflow`.

    What others publish while the connection is down, or while the flow is started again, arrives later if the broker
    keeps the subscription and, of QoS 1 and 2, what came meanwhile; `keep_session` says for how long, else it does not
    arrive. (Brokers of MQTT 3.1.1 keep sessions as long as they are set up to.) What comes by topics that the flow
    subscribed to in a run before, and does no more, is counted as `not_subscribed`. With `group` the broker shares the
    messages out among all clients that subscribe in this group, each message to one of them; with MQTT 3.1.1 not every
    broker can.

    Where the runtime holds acknowledgements, a payload of QoS 1 or 2 is acknowledged once all that came of it is
    durable: what a killed program had not brought so far the broker sends again to the next run, if it keeps the
    session. At most `queue` payloads are then under way with MQTT 5, else as many as the broker sends without
    acknowledgement. Otherwise a payload is acknowledged when it is received: when the program is killed (kill -9) or
    the power fails, what waited in the queue, was on its way through the flow or waited in a sink is lost, whatever the
    QoS. An orderly stop counts what it could not use (`lost`).

    What came of a payload is what it led to at once. Rows that an operator keeps to give later, such as those that
    `pmu_align` waits with or that stand in a window, are not waited for: a killed program loses them.

    When a policy changes `topics`, the new ones are subscribed to on the same connection before the old ones are left
    (`resubscribed`): nothing is missed, and what is not acknowledged stays so. Where an old and a new topic overlap,
    a payload may come twice meanwhile.

    What a broker retains comes at each new connection, again if it came before: brokers do not tell whether it is new.

    Input:
        None: payloads of the topics.

    Output:
        Samples with `columns` and those that `format` names, and the message types of `messages`. Counts `received`
        payloads, `overflow`, `reconnects`, `redelivered` (sent again by the broker while they were known),
        `not_accepted` (well made, but a type that `messages` and `columns` do not ask for), `bad_rows`, `lost` (came
        after the last turn of a flow that ends).

    Errors:
        Dead letter `bad_payload`, naming topic, field and position, for a payload that cannot be read, is larger than
        `largest_payload`, or in which a row lacks its time, its device or all of the columns, or has a wrong value. The
        other rows of the payload are given; `bad_rows` counts those that are not. FatalError if the broker refuses a
        subscription. Those of the connection: see `mqtt`.

    Source:
        MQTT Versions 3.1.1 and 5.0, OASIS Standards; `json.edgeflex` of VILLASnode.

    >>> MqttSubscribeConfig(bus="databus", topics=("pmu/+",), columns=("frequency_hz",), device="pmu/{device}").qos
    1
    """

    bus: Annotated[str, connection("bus", "Connection to the broker.")]
    topics: Annotated[tuple[str, ...], bus_topics("Topic filters; + and # are wildcards.", "subscribe")]
    qos: Annotated[Literal[0, 1, 2], Meta(description="Highest quality of service to receive with.")] = 1
    keep_session: Annotated[
        Annotated[float, Meta(ge=0, le=31_536_000)] | None,
        quantity(
            "s",
            "How long the broker keeps what came while the client is away; 0: not at all. Unless given, a minute with"
            " MQTT 5 and `qos` 1 or 2, else not at all.",
        ),
    ] = None
    group: Annotated[
        Annotated[str, Meta(pattern=r"^[^/+#]+$")] | None,
        Meta(description="Group of clients among which messages are shared out."),
    ] = None
    columns: Annotated[tuple[str, ...], Meta(description="Columns that payloads have under the same names.")] = ()
    messages: Annotated[tuple[str, ...], Meta(description="Types of messages to take, such as frequency_event.")] = ()
    format: Annotated[AnyFormat, Meta(description="How samples are written; a name, or `type` and settings.")] = (
        JsonEdgeflex()
    )
    device: Annotated[
        str | None,
        Meta(description="The device's name, or a pattern of the topic like site/{device}/pmu; none: payloads tell."),
    ] = None
    largest_payload: Annotated[int, quantity("B", "Larger payloads are refused unread.", ge=64, le=1 << 28)] = 1 << 20
    queue: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Payloads held while the flow is busy; the oldest drop first.")
    ] = 10_000

    def refusals(self) -> Iterator[FieldError]:
        if self.keep_session and not self.qos:
            yield FieldError(
                "`keep_session` needs `qos` 1 or 2: brokers keep no messages of QoS 0", "keep_session", "qos"
            )
        if self.columns or self.messages:
            yield from promise_refusals(self.columns, self.messages)
        yield from subscription_refusals(self.columns, self.messages, self.format, self.device)
        for place, topic in enumerate(self.topics):
            problem = filter_problem(topic)
            if problem is not None:
                yield FieldError(f"`topics`: {problem}", f"topics[{place}]", got=f"'{topic}'")
            elif self.device is not None and DEVICE in self.device and not can_match(topic, self.device):
                text = f"`device`: no topic of '{topic}' matches '{self.device}', which tells the device"
                yield FieldError(text, "device", f"topics[{place}]")


def can_match(topic_filter: str, pattern: str) -> bool:
    """Whether some topic that comes by a filter matches a pattern of topics.

    >>> can_match("pmu/+", "pmu/{device}"), can_match("pmu/+", "meter/{device}"), can_match("pmu/#", "pmu/{device}/x")
    (True, False, True)
    """
    for level, wanted in zip_longest(topic_filter.split("/"), pattern.replace(DEVICE, "+").split("/")):
        if "#" in (level, wanted):
            return True
        if level is None or wanted is None or ("+" not in (level, wanted) and level != wanted):
            return False
    return True


def filter_problem(topic: str) -> str | None:
    """What is wrong with a topic filter; None if nothing is.

    >>> filter_problem("pmu/+/frequency") is None
    True
    >>> filter_problem("pmu/#/frequency")
    "'#' must be the last level"
    """
    levels = topic.split("/")
    if not topic or "\0" in topic:
        return "a topic filter must not be empty or hold NUL"
    if any("#" in level for level in levels[:-1]):
        return "'#' must be the last level"
    if any(("#" in level or "+" in level) and len(level) > 1 for level in levels):
        return "a wildcard must be a level of its own"
    return None


class _TooLarge(NamedTuple):
    """What is kept of a payload that is refused unread."""

    size: int
    head: bytes

    def __len__(self) -> int:
        return len(self.head)


class MqttSubscribe:
    """The source. The network thread fills the inbox; `poll` decodes in the thread of the runtime."""

    def __init__(self, config: MqttSubscribeConfig, context: Context, session: MqttSession | None = None) -> None:
        self._config = config
        self._context = context
        self._session = session
        self.holds_acknowledgements = False
        """Set by the runtime before `open`: then nothing is acknowledged before `acknowledge` says so."""
        self._polls = 0
        self._polled: deque[tuple[int, int]] = deque()
        """Polls that are not acknowledged, with the last receipt of each."""
        self._inbox: deque[tuple[str, bytes | _TooLarge, int]] = deque()
        # Bytes of payloads, each counted by one thread.
        self._bytes_in = self._bytes_dropped = self._bytes_out = 0
        self._refused = RefusedFrom[str]()
        self._signalled = False
        self._wakeup: Wakeup | None = None
        self._decoder = self._make_decoder()
        self._decoder_before: PayloadDecoder | None = None
        """For what comes by topics that are left, after a policy changed by which part of them devices are told."""
        self._topics_before: tuple[str, ...] = ()
        self._known_topics: dict[str, bool] = {}
        """Whether topics are subscribed to: a kept session may have subscriptions that the flow had in a run before."""
        self._builder = SamplesBuilder(subscription_columns(config.columns, config.format))

    def open(self) -> None:
        if self._session is None:
            bus = self._context.connections["bus"]
            self._session = bus.node.open(bus.config, self._context)
        self._wakeup = Wakeup()
        self._context.gauges.watch("queue_messages", lambda: len(self._inbox))
        self._context.gauges.watch("queue_bytes", lambda: self._bytes_in - self._bytes_dropped - self._bytes_out)
        self._session.on_up = self._subscribe
        self._session.on_message = self._receive
        self._session.keep_session_s = self._keep_session_s(self._session)
        if self.holds_acknowledgements:
            self._session.hold_acknowledgements()
            self._session.receive_most = self._config.queue
        self._session.start()

    def _keep_session_s(self, session: MqttSession) -> float:
        """A flow that is started again or moves over misses nothing; a broker of 3.1.1 would keep sessions for ever."""
        if self._config.keep_session is not None:
            return self._config.keep_session
        return RESTART_S if self._config.qos and session.broker.is_v5 else 0.0

    def _subscribe(self) -> None:
        # Runs on every connect, so that the subscription survives a reconnect.
        assert self._session is not None
        self._session.subscribe(self._filters(), self._config.qos)

    def change(self, config: MqttSubscribeConfig) -> bool:
        """Go on with other topics on the same connection, and with what tells devices by them."""
        before = self._config
        as_before = replace(config, topics=before.topics, device=before.device, largest_payload=before.largest_payload)
        if as_before != before or self._session is None:
            return False
        self._config = config
        if config.topics != before.topics:
            self._topics_before = before.topics
            self._known_topics.clear()
        if config.device != before.device:
            self._decoder_before = self._decoder
            self._decoder = self._make_decoder()
        if config.topics != before.topics:
            self._session.resubscribe(self._filters(), config.qos)
        return True

    def _make_decoder(self) -> PayloadDecoder:
        config = self._config
        return PayloadDecoder(config.format, config.columns, message_types(config.messages), config.device)

    def _filters(self) -> list[str]:
        share = "" if self._config.group is None else f"{SHARED}{self._config.group}/"
        return [share + topic for topic in self._config.topics]

    def _receive(self, topic: str, payload: bytes, receipt: int) -> None:
        held: bytes | _TooLarge = payload
        if len(payload) > self._config.largest_payload:
            held = _TooLarge(len(payload), payload[:KEPT_OF_LARGE])
        self._inbox.append((topic, held, receipt))
        self._bytes_in += len(held)
        while len(self._inbox) > self._config.queue or self._held_bytes() > MOST_HELD_BYTES:
            try:
                self._bytes_dropped += len(self._inbox.popleft()[1])
            except IndexError:
                return  # `poll` took them all meanwhile
            self._context.counters.add("overflow")
        if not self._signalled and self._wakeup is not None:
            # `poll` clears the flag before it empties the inbox, so no payload stays behind unseen.
            self._signalled = True
            self._wakeup.wake()

    def _held_bytes(self) -> int:
        return self._bytes_in - self._bytes_dropped - self._bytes_out

    def poll(self) -> Sequence[WireMessage]:
        self._clear_signal()
        if not self._inbox:
            return ()
        received_ns = self._context.clock.now_ns()
        given: list[WireMessage] = []
        count = last_receipt = 0
        while self._inbox:
            try:
                topic, payload, receipt = self._inbox.popleft()
            except IndexError:
                break  # the network thread dropped the last one for a newer that is not there yet
            self._bytes_out += len(payload)
            count += 1
            last_receipt = max(last_receipt, receipt)
            self._decode(topic, payload, received_ns, given)
        self._end_batch(received_ns, given)
        self._context.counters.add("received", count)
        if last_receipt:
            self._polls += 1
            self._polled.append((self._polls, last_receipt))
        return given

    def poll_number(self) -> int:
        """Number of the last poll that found something to acknowledge; that is done by this number."""
        return self._polls

    def acknowledge(self, up_to: int) -> None:
        """Everything that came of the polls up to this number is durable. Called by the thread that polls.

        What an overflow dropped is acknowledged with what came after it.
        """
        receipt = 0
        while self._polled and self._polled[0][0] <= up_to:
            receipt = self._polled.popleft()[1]
        if receipt and self._session is not None:
            self._session.acknowledge(receipt)

    def _clear_signal(self) -> None:
        if self._wakeup is not None and self._wakeup.drain():
            self._signalled = False

    def _decode(self, topic: str, payload: bytes | _TooLarge, received_ns: int, given: list[WireMessage]) -> None:
        if isinstance(payload, _TooLarge):
            text = f"topic '{topic}': {payload.size} bytes, at most {self._config.largest_payload} are taken"
            self._context.dead_letter("bad_payload", text, payload.head)
            return
        if not self._is_subscribed(topic):
            self._context.counters.add("not_subscribed")
            return
        try:
            decoded = self._decoder_of(topic).decode(topic, payload)
        except BadMessageError as error:
            self._refuse(topic, error, payload, received_ns)
            return
        if decoded is None:
            self._context.counters.add("not_accepted")
        elif isinstance(decoded, Message):
            self._end_batch(received_ns, given)
            given.append(decoded)
        else:
            if decoded.error is not None:
                # Of a payload of which rows were given, what was not is kept; else all of it can be decoded once more.
                kept = decoded.error.payload if decoded.rows else payload
                self._refuse(topic, decoded.error, kept, received_ns)
                self._context.counters.add("bad_rows", decoded.bad_rows)
            for row in decoded.rows:
                self._builder.add(*row)

    def _refuse(self, topic: str, error: BadMessageError, payload: bytes, received_ns: int) -> None:
        self._refused.note(payload, topic, received_ns)
        self._context.dead_letter(error.reason, str(error), payload)

    def decode_again(self, payload: bytes) -> Sequence[WireMessage]:
        """Raises BadMessageError."""
        topic, received_ns = self._refused.origin_of(payload)
        decoded = self._decoder_of(topic).decode(topic, payload)
        if decoded is None:
            raise BadMessageError("a type that `messages` and `columns` do not ask for", reason="bad_payload")
        if isinstance(decoded, Message):
            return [decoded]
        columns = subscription_columns(self._config.columns, self._config.format)
        return [*samples_of(decoded, columns, received_ns)]

    def _is_subscribed(self, topic: str) -> bool:
        known = self._known_topics.get(topic)
        if known is None:
            if len(self._known_topics) >= MOST_TOPICS:
                self._known_topics.clear()
            filters = (*self._config.topics, *self._topics_before)
            known = self._known_topics[topic] = any(topic_matches_sub(each, topic) for each in filters)
        return known

    def _decoder_of(self, topic: str) -> PayloadDecoder:
        if self._decoder_before is None or any(topic_matches_sub(each, topic) for each in self._config.topics):
            return self._decoder
        return self._decoder_before

    def _end_batch(self, received_ns: int, given: list[WireMessage]) -> None:
        if len(self._builder):
            given.append(self._builder.take(received_ns))

    @property
    def ended(self) -> bool:
        return False

    def fileno(self) -> int | None:
        return None if self._wakeup is None else self._wakeup.fileno()

    def next_poll_ns(self) -> int | None:
        return None

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._inbox:
            self._context.counters.add("lost", len(self._inbox))
            self._inbox.clear()
        if self._wakeup is not None:
            self._wakeup.close()
            self._wakeup = None


def output(config: MqttSubscribeConfig, _inputs: Mapping[str, Wire]) -> Wire:
    types: set[type[WireMessage]] = set(message_types(config.messages))
    columns = subscription_columns(config.columns, config.format)
    if columns:
        types.add(Samples)
    return Wire(frozenset(types), frozenset(columns))


def open_source(config: MqttSubscribeConfig, context: Context) -> MqttSubscribe:
    return MqttSubscribe(config, context)


NODE = SourceNode(
    kind="mqtt_subscribe", config=MqttSubscribeConfig, output=output, open=open_source, decodes=True, delays=at_once
)
