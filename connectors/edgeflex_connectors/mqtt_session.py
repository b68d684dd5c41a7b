"""A client of an MQTT 3.1.1 broker with the thread that connects it, keeps it connected and reads from it.

paho's own network thread would write every message after a switch of threads. Here `turn` lets the thread that has a
message write it straight to the socket, under the lock that all use of the client needs; the network thread does what
remains: reading, keep-alive, what did not fit into the socket's buffer, and connecting again.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from edgeflex_connectors.backoff import Backoff
from edgeflex_flow.errors import EdgeflexError, FatalError, RetryableError
from edgeflex_flow.node import Context

LONGEST_WAIT_S = 1.0
"""paho checks its keep-alive when called, so the network thread looks up at least this often."""
LONGEST_WAIT_FOR_ANSWER_S = 0.1
LONGEST_CLOSE_S = 2.0
"""How long `close` waits for the network thread, which may be in an attempt to connect that nothing can break off."""

X509_V_ERR_CERT_NOT_YET_VALID = 9

REFUSED_FOR_NOW = frozenset({"Server unavailable", "Server busy"})
REFUSED_THE_USER = frozenset({"Bad user name or password", "Not authorized"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where a broker is and how to speak to it. `name` is the connection's name in the site file."""

    name: str
    url: str
    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    trust: str = ""
    """What the broker's certificate is checked against, for people."""
    shows_certificate: bool = False
    """Whether the client has a certificate of its own."""
    keepalive_s: float = 30.0
    connect_timeout_s: float = 5.0
    reconnect_min_s: float = 0.5
    reconnect_max_s: float = 30.0

    def __str__(self) -> str:
        return f"{self.name} {self.url}"


def connect_problem(error: OSError | UnicodeError, broker: Broker) -> EdgeflexError:
    """What a failed attempt to connect means: FatalError where trying again cannot help."""
    if isinstance(error, ssl.SSLError):
        return _tls_problem(error, broker)
    if isinstance(error, UnicodeError):
        return FatalError(f"{broker}: '{broker.host}' is no host name: {error}")
    if isinstance(error, socket.gaierror):
        reason = f"host '{broker.host}' cannot be resolved: {error.strerror}"
    elif isinstance(error, TimeoutError):
        reason = f"no answer within {broker.connect_timeout_s:g} s"
    else:
        reason = (error.strerror or str(error)).lower()
    return RetryableError(f"{broker}: {reason}")


def _tls_problem(error: ssl.SSLError, broker: Broker) -> EdgeflexError:
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"{broker}: the broker's certificate is refused: {error.verify_message}; checked against {broker.trust}"
        if error.verify_code == X509_V_ERR_CERT_NOT_YET_VALID:
            # A computer without a battery clock starts in the past and learns the time later.
            return RetryableError(f"{text}; is this computer's clock right?")
        return FatalError(text)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return RetryableError(f"{broker}: the broker closed the connection during the TLS handshake")
    return FatalError(f"{broker}: TLS failed: {error.reason or error}; does this port speak TLS?")


def refusal(reason: str, broker: Broker) -> EdgeflexError:
    """What the broker's refusal of a connection means."""
    if reason in REFUSED_FOR_NOW:
        return RetryableError(f"{broker}: the broker refused: {reason.lower()}")
    if reason in REFUSED_THE_USER:
        who = "a client without user name" if broker.username is None else f"user '{broker.username}'"
        return FatalError(f"{broker}: the broker refused {who}: {reason.lower()}")
    return FatalError(f"{broker}: the broker refused client '{broker.client_id}': {reason.lower()}")


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


class MqttSession:
    """One client of a broker. Set the hooks, then `start`. Every hook runs under the lock of the client.

    The flow starts whether the broker is there or not; attempts to connect go on with growing waits, logged at
    growing intervals. A refusal that trying again cannot cure (credentials, TLS) goes to `context.fail`.
    Counts `reconnects`: connections made after the first.
    """

    def __init__(self, broker: Broker, context: Context) -> None:
        self.broker = broker
        self.on_connecting: Callable[[], None] = _nothing
        """Before each attempt: what was on its way on the old connection is no longer."""
        self.on_up: Callable[[], None] = _nothing
        """The broker has accepted the connection: the time to subscribe."""
        self.on_turn: Callable[[], None] = _nothing
        """The client is connected and free: the time to publish what waits."""
        self.on_message: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self.on_published: Callable[[], None] = _nothing
        """A message is out: written for QoS 0, acknowledged by the broker for QoS 1 and 2. When set, each message
        costs 20 µs more: paho makes a reason and properties for the call."""
        self._context = context
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._up = False
        self._was_up = False
        self._accepted = False
        self._refusal: EdgeflexError | None = None
        self._last_error = _LastError()
        self._backoff = Backoff(broker.reconnect_min_s, broker.reconnect_max_s)
        self._wake_read, self._wake_write = -1, -1
        self._done_with_pipe = 0
        self._pipe_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.client = self._make_client()

    def _make_client(self) -> Client:
        broker = self.broker
        client = Client(
            CallbackAPIVersion.VERSION2, client_id=broker.client_id, clean_session=True, reconnect_on_failure=False
        )
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
        client.on_message = self._message_came
        client.connect_async(broker.host, broker.port, keepalive=max(1, round(broker.keepalive_s)))
        return client

    def start(self) -> None:
        """Start the network thread. Returns at once."""
        if self.on_published is not _nothing:
            self.client.on_publish = self._message_went
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name=f"mqtt {self.broker.client_id}", daemon=True)
        self._thread.start()

    def turn(self) -> None:
        """Run `on_turn` now and here if the client is free; else have the network thread do it. Never blocks."""
        if not self._lock.acquire(blocking=False):
            self._wake()
            return
        try:
            if self._up:
                self.on_turn()
                if self.client.want_write():
                    self._wake()
        finally:
            self._lock.release()

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
        for descriptor in (self._wake_read, self._wake_write):
            os.close(descriptor)
        self._wake_read, self._wake_write = -1, -1

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            return  # the pipe is full, so the thread is waking up anyway

    # The network thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._one_connection()
        except FatalError as error:
            self._give_up(error)
        except Exception as error:
            self._context.log.debug("%s: the network thread ended", self.broker, exc_info=True)
            failure = FatalError(f"{self.broker}: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._give_up(failure)
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
            self._refusal, self._accepted = None, False
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
                if self.client.socket() is None:
                    raise RetryableError(self._how_it_ended())
                if self._up:
                    self.on_turn()
                elif time.monotonic() > accepted_by_s:
                    raise RetryableError(f"{self.broker}: no answer within {self.broker.connect_timeout_s:g} s")

    def _wait(self) -> bool:
        """Wait for the socket or for `_wake`; whether the socket may have something to read."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        with self._lock:
            connection = self.client.socket()
            if connection is None:
                return False
            if isinstance(connection, ssl.SSLSocket) and connection.pending():
                return True  # decrypted already, so the operating system no longer has it
            descriptor = connection.fileno()
            poller.register(descriptor, select.POLLIN | (select.POLLOUT if self.client.want_write() else 0))
        ready = dict(poller.poll(1e3 * (LONGEST_WAIT_S if self._up else LONGEST_WAIT_FOR_ANSWER_S)))
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        return bool(ready.get(descriptor, 0) & ~select.POLLOUT)

    def _pass_packets(self, readable: bool) -> None:
        if readable:
            self.client.loop_read()
        if self.client.want_write():
            self.client.loop_write()
        self.client.loop_misc()

    def _how_it_ended(self) -> str:
        detail = self._last_error.take()
        text = "connection lost" if self._accepted else "the broker closed the connection before accepting it"
        if not self._accepted and self.broker.tls is not None and not self.broker.shows_certificate:
            text += "; does it want a client certificate?"
        return f"{self.broker}: {text}" + (f" ({detail})" if detail else "")

    def _hang_up(self) -> None:
        with self._lock:
            self._up = False
            self.client.disconnect()
            connection = self.client.socket()
            if connection is not None:  # the good-bye did not fit into the socket's buffer
                connection.close()

    # Callbacks of paho ----------------------------------------------------------------------------------------------

    def _socket_opened(self, _client: Client, _userdata: Any, opened: Any) -> None:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _connect_answered(
        self, _client: Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._refusal = refusal(reason.getName(), self.broker)
            return
        if self._was_up:
            self._context.counters.add("reconnects")
        self._up = self._was_up = self._accepted = True
        self._context.log.info("%s: connected", self.broker)
        self.on_up()

    def _disconnected(self, _client: Client, _userdata: Any, _flags: Any, _reason: Any, _properties: Any) -> None:
        self._up = False
        self._wake()  # it may be the publishing thread that saw it

    def _subscribe_answered(
        self, _client: Client, _userdata: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            user = self.broker.username or "anonymous"
            self._refusal = FatalError(f"{self.broker}: the broker refused a subscription to user '{user}'")

    def _message_came(self, _client: Client, _userdata: Any, message: Any) -> None:
        payload = bytes(message.payload)
        try:
            topic: str = message.topic
        except UnicodeDecodeError as error:
            self._context.dead_letter("bad_topic", f"{self.broker}: a topic is not UTF-8: {error}", payload)
            return
        self.on_message(topic, payload)

    def _message_went(self, _client: Client, _userdata: Any, _mid: int, _reason: Any, _properties: Any) -> None:
        self.on_published()
