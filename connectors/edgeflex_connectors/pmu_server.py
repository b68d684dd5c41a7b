"""Obeys commands of IEEE C37.118.2 clients and sends them the frames of the streams that they turned on.

Over TCP, over UDP, or commands over TCP and data over UDP. All sockets belong to one thread; `publish` hands frames
over and returns.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from edgeflex_connectors.c37118 import Command, CommandFrame, FrameError, HeaderFrame, decode_frame, encode_header
from edgeflex_connectors.c37118_config import ConfigFrame
from edgeflex_connectors.c37118_cutter import FrameCutter
from edgeflex_connectors.c37118_fragments import encode_config_frames
from edgeflex_connectors.c37118_header import LARGEST_FRAME_BYTES, FrameHeader, FrameType
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.wakeup import Wakeup

Transport: TypeAlias = Literal["tcp", "udp", "tcp_udp"]
LARGEST_DATAGRAM: Final = 65_507
MOST_CLIENTS: Final = 64
MOST_ANSWERS: Final = 256
"""Answers that may wait for a client that does not read; it is cut off then."""
INBOX_PUBLICATIONS: Final = 10_000
"""Calls of `publish` that may wait for the thread."""
_BACKLOG: Final = 16
_CHUNK: Final = 65_536
_SEND_BUFFER_BYTES: Final = 262_144
_KEEPALIVE_S: Final = 60
_NS: Final = 1_000_000_000
_KINDS: Final = {
    Command.SEND_CFG1: FrameType.CFG1,
    Command.SEND_CFG2: FrameType.CFG2,
    Command.SEND_CFG3: FrameType.CFG3,
}


class ServedStream(NamedTuple):
    """A stream that clients can turn on."""

    config: ConfigFrame
    """Sent as the kind that is asked for."""
    header: str = ""
    """Text of its header frame."""
    kinds: frozenset[FrameType] = frozenset({FrameType.CFG1, FrameType.CFG2, FrameType.CFG3})
    """Kinds of configuration that it tells; others are not answered, as devices of the 2005 edition do with CFG-3."""


def config_of_kind(config: ConfigFrame, kind: FrameType, now_ns: int) -> ConfigFrame:
    """The same configuration as another kind of frame, sent now."""
    version = 2 if kind is FrameType.CFG3 else 1
    header = msgspec.structs.replace(header_now(config.header.idcode, config.time_base, now_ns), version=version)
    return msgspec.structs.replace(config, kind=kind, header=header)


def header_now(idcode: int, time_base: int, now_ns: int) -> FrameHeader:
    """The header of a frame that is made now."""
    seconds, rest_ns = divmod(now_ns, _NS)
    return FrameHeader(idcode=idcode, soc=seconds & 0xFFFFFFFF, fraction=rest_ns * time_base // _NS)


class _Client:
    """One connection over TCP, or one address over UDP."""

    def __init__(self, name: str, address: Any, connection: socket.socket | None) -> None:
        self.name = name
        self.address = address
        self.connection = connection
        self.cutter = FrameCutter()
        self.on: set[int] = set()
        """IDCODEs of the streams that are turned on."""
        self.answers: deque[bytes] = deque()
        self.data: deque[tuple[int, bytes]] = deque()
        self.half_sent = b""

    @property
    def waits(self) -> bool:
        return bool(self.half_sent or self.answers or self.data)

    def next_frame(self) -> bytes:
        """What to send now: the rest of a frame, else an answer, else data; empty if there is nothing."""
        if self.half_sent:
            return self.half_sent
        if self.answers:
            return self.answers.popleft()
        return self.data.popleft()[1] if self.data else b""


def _nothing(_idcode: int, _command: int, _extended: bytes) -> None:
    return None


class PmuServer:
    """Serves streams on one port until it is closed.

    A client that does not read has up to `queue` data frames waiting; beyond that its oldest are dropped, which
    `count("overflow")` tells. `data_address`: where data go with `tcp_udp`; host None stands for the client's own.
    `count(name, number)` may be called from the thread at any time.
    """

    def __init__(
        self,
        host: str,
        port: int,
        streams: Sequence[ServedStream],
        *,
        transport: Transport = "tcp",
        data_address: tuple[str | None, int] = (None, 4713),
        multicast_ttl: int = 1,
        interface: str | None = None,
        queue: int = 1000,
        count: Callable[[str, int], None] = lambda _name, _number: None,
    ) -> None:
        self._streams: dict[int, ServedStream] = {stream.config.header.idcode: stream for stream in streams}
        self._transport = transport
        self._data_address = data_address
        self._queue = queue
        self._count = count
        self.on_command: Callable[[int, int, bytes], None] = _nothing
        """Told of each command: IDCODE, command, extended frame. Called by the thread."""
        self._clients: dict[Any, _Client] = {}
        self._inbox: deque[tuple[int, Sequence[bytes]]] = deque()
        self._wakeup = Wakeup()
        self._stop = threading.Event()
        self._idle = threading.Event()
        self._poller = select.poll()
        self._poller.register(self._wakeup, select.POLLIN)
        self._thread: threading.Thread | None = None
        self._data_socket: socket.socket | None = None
        try:
            self._listener = self._listen(host, port)
        except BaseException:
            self._wakeup.close()
            raise
        self._poller.register(self._listener, select.POLLIN)
        if transport == "tcp_udp":
            self._data_socket = udp_sender(self._listener.family, multicast_ttl, interface)

    @property
    def waiting(self) -> int:
        """How many data frames wait for clients to read."""
        return sum(len(client.data) for client in list(self._clients.values()))

    def _listen(self, host: str, port: int) -> socket.socket:
        is_udp = self._transport == "udp"
        where = f"{'UDP' if is_udp else 'TCP'} {host}:{port}"
        kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
        except socket.gaierror as error:
            raise FatalError(f"{where}: '{host}' is no address of this machine: {error.strerror}") from error
        opened = socket.socket(family, kind)
        try:
            if not is_udp:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            if not is_udp:
                opened.listen(_BACKLOG)
        except OSError as error:
            opened.close()
            text = f"{where}: {(error.strerror or str(error)).lower()}"
            # An address that is not there may come: a network that starts after this program.
            raise (RetryableError if error.errno == errno.EADDRNOTAVAIL else FatalError)(text) from error
        opened.setblocking(False)
        return opened

    # -- any thread --------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def clients(self) -> Mapping[str, frozenset[int]]:
        """Who is connected, and the streams that each has turned on."""
        return {client.name: frozenset(client.on) for client in list(self._clients.values())}

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"pmu server {self.port}", daemon=True)
        self._thread.start()

    def publish(self, idcode: int, frames: Sequence[bytes]) -> None:
        """Send frames to all who turned the stream on."""
        if len(self._inbox) >= INBOX_PUBLICATIONS:
            self._count("overflow", len(frames))
            return
        self._idle.clear()
        self._inbox.append((idcode, frames))
        self._wakeup.wake()

    def change(self, stream: ServedStream) -> None:
        """Tell another configuration from now on."""
        self._streams[stream.config.header.idcode] = stream

    def flush(self, timeout_s: float) -> bool:
        """Wait until the operating system has taken all; whether it has."""
        deadline_s = time.monotonic() + timeout_s
        self._wakeup.wake()
        while self._inbox or not self._idle.wait(0.01):
            if time.monotonic() >= deadline_s:
                return False
            self._wakeup.wake()
        return True

    def close(self) -> None:
        self._stop.set()
        self._wakeup.wake()
        if self._thread is not None:
            self._thread.join()
        for client in self._clients.values():
            if client.connection is not None:
                client.connection.close()
        self._listener.close()
        if self._data_socket is not None:
            self._data_socket.close()
        self._wakeup.close()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            ready = dict(self._poller.poll(1000))
            if self._wakeup.fileno() in ready:
                self._wakeup.drain()
            if self._listener.fileno() in ready:
                self._look_at_listener()
            for client in list(self._clients.values()):
                if client.connection is not None and ready.get(client.connection.fileno(), 0) & ~select.POLLOUT:
                    self._read(client)
            self._distribute()
            for client in list(self._clients.values()):
                self._send_waiting(client)
            if not self._inbox and not any(client.waits for client in self._clients.values()):
                self._idle.set()
            else:
                self._idle.clear()

    def _look_at_listener(self) -> None:
        if self._transport == "udp":
            for _ in range(100):
                try:
                    datagram, address = self._listener.recvfrom(_CHUNK)
                except OSError:
                    return  # nothing there, or what a datagram that was sent before met with
                self._obey_datagram(datagram, address)
            return
        with contextlib.suppress(OSError):
            connection, address = self._listener.accept()
            if len(self._clients) >= MOST_CLIENTS:
                self._count("refused_clients", 1)
                connection.close()
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # What waits for a slow client waits here, where it is bounded and counted, and not in the system.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            # A client that went away without a word, and has nothing turned on, would stay for ever.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
            self._poller.register(connection, select.POLLIN)
            self._clients[connection.fileno()] = _Client(f"{address[0]}:{address[1]}", address, connection)
            self._count("clients", 1)

    def _obey_datagram(self, datagram: bytes, address: Any) -> None:
        client = self._clients.get(address)
        if client is None:
            if len(self._clients) >= MOST_CLIENTS:
                self._count("refused_clients", 1)
                return
            client = _Client(f"{address[0]}:{address[1]}", address, None)
        self._obey(client, datagram)
        # Kept only while it has something turned on: anyone may send a datagram.
        if client.on:
            if address not in self._clients:
                self._count("clients", 1)
            self._clients[address] = client
        else:
            self._send_waiting(client)
            self._clients.pop(address, None)

    def _read(self, client: _Client) -> None:
        assert client.connection is not None
        try:
            data = client.connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        for frame in client.cutter.add(data):
            self._obey(client, frame)
        if client.cutter.lost or len(client.answers) > MOST_ANSWERS:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        connection = client.connection
        if connection is None or self._clients.pop(connection.fileno(), None) is None:
            return
        self._poller.unregister(connection)
        connection.close()
        self._count("lost", len(client.data))

    def _obey(self, client: _Client, frame: bytes) -> None:
        try:
            command = decode_frame(frame)
        except FrameError as error:
            self._count(error.reason, 1)
            return
        if not isinstance(command, CommandFrame):
            self._count("not_a_command", 1)
            return
        idcode = command.header.idcode
        stream = self._streams.get(idcode)
        if stream is None:
            self._count("unknown_idcode", 1)
            return
        self._count("commands", 1)
        self._answer(client, stream, command)
        self.on_command(idcode, command.command, command.extended)

    def _answer(self, client: _Client, stream: ServedStream, command: CommandFrame) -> None:
        idcode = command.header.idcode
        if command.command == Command.DATA_ON:
            client.on.add(idcode)
        elif command.command == Command.DATA_OFF:
            client.on.discard(idcode)
            client.data = deque(item for item in client.data if item[0] != idcode)
        elif command.command == Command.SEND_HEADER:
            header = header_now(idcode, stream.config.time_base, time.time_ns())
            client.answers.append(encode_header(HeaderFrame(header=header, text=stream.header)))
        elif command.command in _KINDS and _KINDS[Command(command.command)] in stream.kinds:
            client.answers.extend(self._config_frames(stream, _KINDS[Command(command.command)]))

    def _config_frames(self, stream: ServedStream, kind: FrameType) -> list[bytes]:
        most = LARGEST_DATAGRAM if self._transport == "udp" else LARGEST_FRAME_BYTES
        try:
            return encode_config_frames(config_of_kind(stream.config, kind, time.time_ns()), most)
        except ValueError:
            # Too many PMUs, or names too long, for the older kinds: like a device that does not know the kind.
            self._count("config_too_large", 1)
            return []

    def _distribute(self) -> None:
        for _ in range(len(self._inbox)):
            idcode, frames = self._inbox.popleft()
            for client in self._clients.values():
                if idcode in client.on:
                    client.data.extend((idcode, frame) for frame in frames)
        for client in self._clients.values():
            over = len(client.data) - self._queue
            if over > 0:
                for _ in range(over):
                    client.data.popleft()
                self._count("overflow", over)

    def _send_waiting(self, client: _Client) -> None:
        if client.connection is None or self._transport == "tcp_udp":
            self._send_datagrams(client)
        if client.connection is not None:
            self._send_bytes(client, client.connection)

    def _send_datagrams(self, client: _Client) -> None:
        """All that waits: what the system does not take at once is dropped, as a network would."""
        sender, address = self._listener, client.address
        if self._data_socket is not None:
            host, port = self._data_address
            sender, address = self._data_socket, (host or client.address[0], port)
        else:
            while client.answers:
                self._send_datagram(sender, client.answers.popleft(), address)
        while client.data:
            self._send_datagram(sender, client.data.popleft()[1], address)

    def _send_datagram(self, sender: socket.socket, frame: bytes, address: Any) -> None:
        try:
            sender.sendto(frame, address)
        except OSError:
            self._count("send_errors", 1)
        else:
            self._count("frames", 1)

    def _send_bytes(self, client: _Client, connection: socket.socket) -> None:
        while client.waits:
            frame = client.next_frame()
            if not frame:
                break
            began = not client.half_sent
            try:
                sent = connection.send(frame, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._drop(client)
                return
            if began:
                self._count("frames", 1)
            client.half_sent = frame[sent:]
            if client.half_sent:
                break
        self._poller.modify(connection, select.POLLIN | (select.POLLOUT if client.half_sent else 0))


def udp_sender(family: int, multicast_ttl: int, interface: str | None) -> socket.socket:
    """A socket that sends datagrams to anyone, broadcast too, and multicast on the network of `interface`."""
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if family == socket.AF_INET:
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, multicast_ttl)
            if interface is not None:
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
    except OSError as error:
        opened.close()
        raise RetryableError(f"interface {interface}: {(error.strerror or str(error)).lower()}") from error
    return opened
