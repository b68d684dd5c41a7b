"""A client of an MQTT broker with the thread that connects it, keeps it connected and reads from it.

paho's own network thread would write every message after a switch of threads. Here `turn` lets the thread that has a
message write it straight to the socket, under the lock that all use of the client needs; the network thread does what
remains: reading, keep-alive, what did not fit into the socket's buffer, and connecting again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edgeflex_connectors.backoff import Backoff
from edgeflex_connectors.certificate_end import certificate_until_s
from edgeflex_connectors.mqtt_broker import (
    Broker,
    BrokerLimits,
    certificate_alert,
    connect_problem,
    limits_of,
    reason_of,
    refusal,
    who,
)
from edgeflex_connectors.mqtt_client import FAILURE, Incoming, MqttClient
from edgeflex_flow import __version__
from edgeflex_flow.errors import EdgeflexError, FatalError, RetryableError, unforeseen
from edgeflex_flow.gauges import CONNECTED
from edgeflex_flow.node import Context
from edgeflex_flow.wakeup import Wakeup

LONGEST_UNSENT_S = 86_400.0
LONGEST_WAIT_S = 1.0
"""paho checks its keep-alive when called, so the network thread looks up at least this often."""
LONGEST_WAIT_FOR_ANSWER_S = 0.1
CLOSE_TURNS_S = 50e-6
MOST_PACKETS_AT_ONCE = 200
LONGEST_GOOD_BYE_S = 0.5
LONGEST_CLOSE_S = 2.0
"""How long `close` waits for the network thread, which may be in an attempt to connect that nothing can break off."""

TAKEN_OVER = "Session taken over"

STATUS_QOS = 1


@dataclass(slots=True)
class Receipt:
    """A message of QoS 1 or 2 that is not acknowledged yet."""

    number: int
    mid: int
    qos: int
    content: int
    """Hash of topic and payload: ids are used again."""
    connection: int
    """The connection on which it came last: only there it can be acknowledged."""
    durable: bool = False
    """What came of it is safe: it can be acknowledged, and is not given again."""


class _LastError(logging.Handler):
    """Keeps the last error that paho tells only its log, such as a TLS alert in place of the first answer."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()

    def take(self) -> str:
        text, self.text = self.text, ""
        return text


def _nothing() -> None:
    return None


def _ignore(*_arguments: object) -> None:
    return None


class MqttSession:
    """One client of a broker. Set the hooks, then `start`. Every hook runs under the lock of the client.

    The flow starts whether the broker is there or not; attempts to connect go on with growing waits, logged at
    growing intervals. A refusal that trying again cannot cure (credentials, TLS) goes to `context.fail`.
    Counts `reconnects`: connections made after the first; `redelivered`: messages that came again while they were
    known.
    """

    def __init__(self, broker: Broker, context: Context) -> None:
        self.broker = broker
        self.on_connecting: Callable[[], None] = _nothing
        """Before each attempt: what was on its way on the old connection is no longer."""
        self.on_up: Callable[[], None] = _nothing
        """The broker has accepted the connection: the time to subscribe."""
        self.on_turn: Callable[[], None] = _nothing
        """The client is connected and free: the time to publish what waits."""
        self.on_message: Callable[[str, bytes, int], None] = _ignore
        """`on_message(topic, payload, receipt)`: receipts grow; 0 means that nothing is to be acknowledged."""
        self.on_answer: Callable[[int, str | None], bool] | None = None
        """`on_answer(mid, problem)`: the broker has taken or refused a message of QoS 1 that `MqttClient.packet_of`
        made; whether it is known."""
        self.on_published: Callable[[int, str | None], object] = _ignore
        """`on_published(mid, problem)`: the broker has taken or refused a message of paho's own `publish`. When set,
        each message costs 20 µs more: paho makes a reason and properties for the call."""
        self.keep_session_s = 0.0
        """How long the broker keeps the session when the connection ends."""
        self.begin_clean = False
        """Whether what the broker has kept of an earlier run of the program is forgotten."""
        self.receive_most: int | None = None
        """MQTT 5: how many messages may be under way to this client without acknowledgement."""
        self.subscriptions: list[str] = []
        """What was asked for, in the names of the broker."""
        self._asked: dict[int, tuple[list[str], list[str]]] = {}
        """By the number of a request that is not answered yet: topics asked for, and those to leave then."""
        self._next_subscriptions: tuple[list[str], int] | None = None
        self.limits = BrokerLimits()
        self._context = context
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._unsent_s: float | None = None
        self._up = self._was_up = False
        self._certificate_until_s: float | None = None
        self._accepted = False
        self._refusal: EdgeflexError | None = None
        self._last_error = _LastError()
        self._backoff = Backoff(broker.reconnect_min_s, broker.reconnect_max_s)
        self._wakeup: Wakeup | None = None
        self._woken = False
        self._next_turn_s = 0.0
        self._done_with_pipe = 0
        self._pipe_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        # Receipts, under the lock of the client but for `_durable_to`, which only grows.
        self._holds = False
        self._connection = 0
        self._receipts = 0
        self._durable_to = 0
        self._unacknowledged: deque[Receipt] = deque()
        self._known: dict[int, Receipt] = {}
        self._reconnect_now = False
        self._ended_by = ""
        self.client = self._make_client()

    def _make_client(self) -> MqttClient:
        broker = self.broker
        client = MqttClient(broker.client_id, is_v5=broker.is_v5)
        client.connect_timeout = broker.connect_timeout_s
        # Limits are this project's own (see `mqtt_publish`); paho's queue walks all messages at each acknowledgement.
        client.max_inflight_messages_set(0)
        logger = logging.Logger("paho", logging.ERROR)
        logger.addHandler(self._last_error)
        client.enable_logger(logger)
        if broker.username is not None:
            client.username_pw_set(broker.username, broker.password)
        if broker.tls is not None:
            client.tls_set_context(broker.tls)
        client.on_socket_open = self._socket_opened
        client.on_connect = self._connect_answered
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribe_answered
        client.on_incoming = self._message_came
        if broker.status_topic is not None:
            client.will_set(broker.status_topic, self._status("lost"), STATUS_QOS, retain=True)
        return client

    def _status(self, state: str) -> bytes:
        return msgspec.json.encode({"type": "status", "state": state, **self.broker.status, "version": __version__})

    def hold_acknowledgements(self) -> None:
        """What comes in with QoS 1 or 2 is acknowledged by `acknowledge` alone. Before `start`."""
        self._holds = True
        self.client.hold_acknowledgements()
        self.client.released = self._forget_released  # type: ignore[method-assign]

    def start(self) -> None:
        """Start the network thread. Returns at once."""
        if self.on_published is not _ignore:
            self.client.on_publish = self._message_went
        if self.on_answer is not None:
            self.client.on_answer = self._answer_came
        broker = self.broker
        self.client.aim_at(
            broker.host,
            broker.port,
            broker.keepalive_s,
            clean=self.begin_clean,
            keep_session_s=self.keep_session_s,
            receive_most=self.receive_most,
        )
        gauges = self._context.gauges
        gauges.watch(CONNECTED, lambda: self._up)
        gauges.watch("certificate_until_s", lambda: self._certificate_until_s)
        self._wakeup = Wakeup()
        self._thread = threading.Thread(target=self._run, name=f"mqtt {self.broker.client_id}", daemon=True)
        self._thread.start()

    @property
    def is_up(self) -> bool:
        """Whether the broker has accepted the connection, as far as is known."""
        return self._up

    def limit_unsent(self, seconds: float) -> None:
        """Under the lock: what the far side's computer has not confirmed for so long, the operating system no longer
        sends, but ends the connection. Else a broken link would bring set-points late when it heals."""
        if self._unsent_s is None or seconds < self._unsent_s:
            self._unsent_s = seconds
            self._set_user_timeout(self.client.socket())

    def _set_user_timeout(self, connection: Any) -> None:
        option = getattr(socket, "TCP_USER_TIMEOUT", None)  # not on every system
        if option is not None and connection is not None and self._unsent_s is not None:
            milliseconds = round(1e3 * min(self._unsent_s, LONGEST_UNSENT_S))
            connection.setsockopt(socket.IPPROTO_TCP, option, max(1, milliseconds))

    def acknowledge(self, receipt: int) -> None:
        """Tell the broker, now or in the next turn, that all messages up to this receipt are dealt with. Any thread."""
        self._durable_to = max(self._durable_to, receipt)
        self.turn()

    def turn(self) -> None:
        """Run `on_turn` now and here if the client is free; else have the network thread do it. Never blocks.

        Turns that follow each other closely go to the network thread too, which then writes much at once.
        """
        if time.monotonic() < self._next_turn_s or not self._lock.acquire(blocking=False):
            self._wake()
            return
        try:
            if self._up:
                self._take_turn()
                self._next_turn_s = time.monotonic() + CLOSE_TURNS_S
                if self.client.want_write():
                    self._wake()
        finally:
            self._lock.release()

    def _take_turn(self) -> None:
        if self._next_subscriptions is not None:
            self._change_subscriptions()
        if self._unacknowledged:
            with self.client.together():
                self._send_acknowledgements()
        self.on_turn()

    def close(self) -> None:
        """Say good-bye to the broker and end the thread. Waits `LONGEST_CLOSE_S` at most.

        A thread that is in an attempt to connect longer than that is left behind: it hangs up and ends once the attempt
        has.
        """
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._wake()
        thread.join(LONGEST_CLOSE_S)
        if thread.is_alive():
            self._context.log.warning(
                "%s: closed during an attempt to connect, which is left to end alone", self.broker
            )
        self._release_pipe()

    def _release_pipe(self) -> None:
        """Called by `close` and by the network thread; the one who comes last closes the pipe."""
        with self._pipe_lock:
            self._done_with_pipe += 1
            if self._done_with_pipe < 2:
                return
        assert self._wakeup is not None
        self._wakeup.close()

    def _wake(self) -> None:
        if self._woken or self._wakeup is None:
            return  # the network thread has not looked yet, and will see this too; or the session is not started
        self._woken = True
        self._wakeup.wake()

    # The network thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._one_connection()
        except FatalError as error:
            self._give_up(error)
        except Exception as error:
            self._context.log.debug("%s: the network thread ended", self.broker, exc_info=True)
            self._give_up(unforeseen(str(self.broker), error))
        finally:
            self._hang_up()
            self._release_pipe()

    def _give_up(self, error: FatalError) -> None:
        self._context.log.error("%s", error)
        if not self._stop.is_set():  # else the flow has let go of this session, and may have ended
            self._context.fail(error)

    def _one_connection(self) -> None:
        """Connect, serve until the connection ends, then wait before the next attempt."""
        started_s = time.monotonic()
        try:
            self._connect()
            self._serve(accepted_by_s=time.monotonic() + self.broker.connect_timeout_s)
            if self._reconnect_now:
                return
        except RetryableError as error:
            if self._stop.is_set():
                return
            if time.monotonic() - started_s > self.broker.reconnect_max_s + self.broker.connect_timeout_s:
                self._backoff.succeeded()  # it held: not one of a row of failures
            if self._backoff.failed():
                self._context.log.warning("%s; trying again", error)
        self._stop.wait(self._backoff.delay_s())

    def _connect(self) -> None:
        with self._lock:
            self.on_connecting()
            self._refusal, self._accepted, self._ended_by, self._reconnect_now = None, False, "", False
            self._last_error.take()
            try:
                self.client.reconnect()
            except (OSError, UnicodeError) as error:
                raise connect_problem(error, self.broker) from error

    def _serve(self, accepted_by_s: float) -> None:
        """Pass packets until the connection ends (RetryableError or FatalError) or the session closes."""
        while not self._stop.is_set():
            readable = self._wait()
            with self._lock:
                self._pass_packets(readable)
                if self._refusal is not None:
                    raise self._refusal
                if self._reconnect_now:
                    return
                if self.client.socket() is None:
                    raise self._how_it_ended()
                if self._up:
                    self._take_turn()
                    self._next_turn_s = time.monotonic() + CLOSE_TURNS_S
                elif time.monotonic() > accepted_by_s:
                    text = f"{self.broker}: no answer within {self.broker.connect_timeout_s:g} s"
                    raise RetryableError(text + self._version_hint())

    def _wait(self) -> bool:
        """Wait for the socket or for `_wake`; whether the socket may have something to read."""
        assert self._wakeup is not None
        poller = select.poll()
        poller.register(self._wakeup, select.POLLIN)
        with self._lock:
            connection = self.client.socket()
            if connection is None:
                return False
            if self.client.has_read or (isinstance(connection, ssl.SSLSocket) and connection.pending()):
                return True  # read or decrypted already, so the operating system no longer has it
            descriptor = connection.fileno()
            poller.register(descriptor, select.POLLIN | (select.POLLOUT if self.client.want_write() else 0))
        ready = dict(poller.poll(1e3 * (LONGEST_WAIT_S if self._up else LONGEST_WAIT_FOR_ANSWER_S)))
        if self._wakeup.fileno() in ready:
            self._wakeup.drain()
            self._woken = False  # before it looks
        return bool(ready.get(descriptor, 0) & ~select.POLLOUT)

    def _pass_packets(self, readable: bool) -> None:
        if readable:
            self.client.read_packets(MOST_PACKETS_AT_ONCE)
        if self.client.want_write():
            self.client.loop_write()
        self.client.loop_misc()

    def _how_it_ended(self) -> EdgeflexError:
        broker, detail = self.broker, self._last_error.take()
        alert = certificate_alert(detail)
        if alert and broker.certificate is not None:
            text = f"the broker refused this client's certificate '{broker.certificate}'"
            return FatalError(f"{broker}: {text}: {alert}")
        if alert:
            return FatalError(f"{broker}: the broker wants a client certificate: set `certificate` and `key` ({alert})")
        text = "connection lost" if self._accepted else "the broker closed the connection before accepting it"
        if self._ended_by:
            text += f": {self._ended_by.lower()}"
        if self._ended_by == TAKEN_OVER or (self._accepted and self._backoff.failures > 1):
            text += f"; is there another client with the id '{broker.client_id}', a second run of this flow?"
        if not self._accepted and broker.tls is not None and broker.certificate is None:
            text += "; does it want a client certificate?"
        if not self._accepted:
            text += self._version_hint()
        return RetryableError(f"{broker}: {text}" + (f" ({detail})" if detail else ""))

    def _version_hint(self) -> str:
        return "; does it speak MQTT 5? else set `version: 3.1.1`" if self.broker.is_v5 else ""

    def _hang_up(self) -> None:
        with self._lock:
            if self._up:
                self._take_turn()  # the last acknowledgements came after the last turn
                if self.broker.status_topic is not None:
                    self.client.publish(self.broker.status_topic, self._status("stopped"), STATUS_QOS, retain=True)
            connection = self.client.socket()
            held = None if connection is None or not self._up else os.dup(connection.fileno())
            self._up = False
            self.client.disconnect()
            connection = self.client.socket()
            if connection is not None:  # the good-bye did not fit into the socket's buffer
                connection.close()
        if held is not None:
            _let_arrive(socket.socket(fileno=held))

    # Callbacks of paho ----------------------------------------------------------------------------------------------

    def _socket_opened(self, _client: Client, _userdata: Any, opened: Any) -> None:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_user_timeout(opened)

    def _connect_answered(
        self, client: Client, _userdata: Any, flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._refusal = refusal(reason.getName(), self.broker)
            return
        if self.begin_clean and self.keep_session_s and not self.broker.is_v5 and self._connection == 0:
            # MQTT 3.1.1 cannot ask for a new session that is kept: let it forget the old one, then connect once more.
            self._connection = 1
            self.client.resume_from_now_on()
            client.disconnect()
            self._reconnect_now = True
            return
        self._connection += 1
        if not flags.session_present:
            self._known.clear()
            self._unacknowledged.clear()
        if self.broker.is_v5:
            self.limits = limits_of(_properties)
        if self._was_up:
            self._context.counters.add("reconnects")
        self._certificate_until_s = certificate_until_s(client.socket())
        self._up = self._was_up = self._accepted = True
        self._context.log.info("%s: connected", self.broker)
        if self.broker.status_topic is not None:
            client.publish(self.broker.status_topic, self._status("online"), STATUS_QOS, retain=True)
        self.on_up()

    def _disconnected(self, _client: Client, _userdata: Any, flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self._up = False
        if flags.is_disconnect_packet_from_server:
            self._ended_by = reason.getName()
        self._wake()  # it may be the publishing thread that saw it

    def _subscribe_answered(
        self, client: Client, _userdata: Any, mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        asked, left = self._asked.pop(mid, ([], []))
        refused = [place for place, reason in enumerate(reasons) if reason.is_failure]
        if refused:
            names = [asked[place] for place in refused if place < len(asked)]
            what = ", ".join(f"'{name}'" for name in names) or "its topic"
            text = f"the broker refused {who(self.broker)} the subscription to {what}"
            reason = reasons[refused[0]].getName().lower()
            self._refusal = FatalError(f"{self.broker}: {text}: {reason}")
        elif left:
            client.unsubscribe(left)
            self._context.counters.add("resubscribed")

    def subscribe(self, filters: list[str], qos: int) -> None:
        """Ask for topics, in the names of the flow. From `on_up`."""
        self._asked.clear()
        self._next_subscriptions = None
        names = self._names_of(filters)
        self._ask_for(names, names, qos)

    def resubscribe(self, filters: list[str], qos: int) -> None:
        """Ask for these topics in place of those so far, which are left once the broker grants the new ones: nothing
        is missed between. Any thread."""
        self._next_subscriptions = filters, qos
        self._wake()

    def _names_of(self, filters: list[str]) -> list[str]:
        topics = self.broker.topics
        return list(dict.fromkeys(name for each in filters for name in topics.filters_outward(each)))

    def _ask_for(self, names: list[str], new: list[str], qos: int) -> None:
        """Ask for the new ones of these, then leave all others."""
        left = [each for each in self.subscriptions if each not in names]
        self.subscriptions = names
        if new:
            _, mid = self.client.subscribe([(each, qos) for each in new])
            if mid is not None:
                self._asked[mid] = new, left
        elif left:
            self.client.unsubscribe(left)
            self._context.counters.add("resubscribed")

    def _change_subscriptions(self) -> None:
        assert self._next_subscriptions is not None
        (filters, qos), self._next_subscriptions = self._next_subscriptions, None
        names = self._names_of(filters)
        self._ask_for(names, [each for each in names if each not in self.subscriptions], qos)

    def _message_came(self, message: Incoming) -> None:
        receipt = self._receive(message) if self._holds and message.qos else 0
        if receipt is None:
            return
        try:
            topic = message.topic.decode()
        except UnicodeDecodeError as error:
            self._context.dead_letter("bad_topic", f"{self.broker}: a topic is not UTF-8: {error}", message.payload)
            return
        self.on_message(self.broker.topics.inward(topic), message.payload, receipt)

    def _answer_came(self, mid: int, code: int) -> bool:
        assert self.on_answer is not None
        problem = None
        if code >= FAILURE:
            problem = reason_of(PacketTypes.PUBACK, code)
        return self.on_answer(mid, problem)

    def _message_went(self, _client: Client, _userdata: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        self.on_published(mid, reason.getName().lower() if reason.is_failure else None)

    # Receipts, under the lock of the client -------------------------------------------------------------------------

    def _receive(self, message: Incoming) -> int | None:
        """The receipt of a message; None if it is one that the broker sends again and that was given already."""
        mid, content = message.mid, hash((message.qos, message.topic, message.payload))
        known = self._known.get(mid)
        if message.dup and known is not None and known.content == content:
            known.connection = self._connection
            self._context.counters.add("redelivered")
            if known.durable:
                self._acknowledge(known)
            return None
        self._receipts += 1
        receipt = Receipt(self._receipts, mid, message.qos, content, self._connection)
        self._known[mid] = receipt
        self._unacknowledged.append(receipt)
        return receipt.number

    def _send_acknowledgements(self) -> None:
        """In the order in which the messages came, as MQTT wants it."""
        waiting, durable_to = self._unacknowledged, self._durable_to
        while waiting and waiting[0].number <= durable_to:
            receipt = waiting.popleft()
            receipt.durable = True
            if receipt.connection == self._connection:
                self._acknowledge(receipt)

    def _acknowledge(self, receipt: Receipt) -> None:
        if receipt.qos == 1:
            self._known.pop(receipt.mid, None)  # one of QoS 2 is known until the broker releases its id
        self.client.acknowledge(receipt.mid, receipt.qos)

    def _forget_released(self, mid: int) -> None:
        self._known.pop(mid, None)


def _let_arrive(connection: socket.socket) -> None:
    """Close a connection once the broker has: closed while more comes in, the system would take back what was sent."""
    end_s = time.monotonic() + LONGEST_GOOD_BYE_S
    with connection, contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while (left_s := end_s - time.monotonic()) > 0:
            connection.settimeout(left_s)
            if not connection.recv(65_536):
                return
