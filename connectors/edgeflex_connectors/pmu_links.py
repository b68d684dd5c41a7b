"""How a client of a PMU or PDC sends commands and gets frames: over TCP, over UDP, or commands over TCP and data over
UDP. Nothing here blocks; `step` moves a connection on, and RetryableError says why it cannot be had or is over.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from edgeflex_connectors.c37118_cutter import FrameCutter
from edgeflex_connectors.c37118_header import HEADER_BYTES
from edgeflex_connectors.pmu_frames import Block, block_of
from edgeflex_connectors.udp_receive import BLOCK, UdpReceiver, host_number
from edgeflex_flow.errors import RetryableError
from edgeflex_flow.node import Context

NS: Final = 1_000_000_000
PEER: Final = 1
"""The number of the only peer of a client."""
_CHUNK_BYTES: Final = 256 * 1024
_RESOLVE_POLL_NS: Final = NS // 50
_NEVER: Final = 2**62


class Refused(NamedTuple):
    """Frames that are not for this client, or none at all."""

    reason: str
    number: int
    example: bytes


class Link(Protocol):
    """A way to a device."""

    @property
    def up(self) -> bool:
        """Whether commands can be sent."""
        ...

    def step(self, now_ns: int) -> None:
        """Go on with connecting, and with frames whose rest does not come. Raises RetryableError."""

    def due_ns(self, now_ns: int) -> int:
        """When `step` wants to be called, whatever comes."""
        ...

    def send(self, frame: bytes) -> None:
        """Send a command. Raises RetryableError."""

    def receive(self, most: int, now_ns: int) -> Block | None:
        """Up to `most` frames that are there. Raises RetryableError."""
        ...

    def take_refused(self) -> list[Refused]:
        """What was passed over since the last call."""
        ...

    def whole_frame(self, index: int) -> bytes: ...

    def close(self) -> None: ...


class Resolver:
    """Looks an address up: at once if it is one, else in a thread of its own, since a name server may be slow."""

    def __init__(self, host: str, port: int, kind: socket.SocketKind) -> None:
        self._where = f"host '{host}'"
        self._found: list[Any] | OSError | None = None
        try:
            self._found = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            thread = threading.Thread(target=self._look_up, args=(host, port, kind), name="resolver", daemon=True)
            thread.start()

    def _look_up(self, host: str, port: int, kind: socket.SocketKind) -> None:
        try:
            self._found = socket.getaddrinfo(host, port, type=kind)
        except (OSError, UnicodeError) as error:
            self._found = error if isinstance(error, OSError) else OSError(0, str(error))

    def result(self) -> tuple[socket.AddressFamily, Any] | None:
        """Family and address, None while they are looked up. Raises RetryableError."""
        if self._found is None:
            return None
        if isinstance(self._found, OSError):
            raise RetryableError(f"{self._where} cannot be resolved: {self._found.strerror or self._found}")
        family, _, _, _, address = self._found[0]
        return family, address


class TcpLink:
    """A connection over TCP. What comes faster than it is read waits with the peer: TCP slows it down."""

    def __init__(self, host: str, port: int, epoll: select.epoll, timeout_s: float, now_ns: int) -> None:
        self.up = False
        self._epoll = epoll
        self._timeout_ns = round(timeout_s * NS)
        self._deadline_ns = now_ns + self._timeout_ns
        self._resolver = Resolver(host, port, socket.SOCK_STREAM)
        self._socket: socket.socket | None = None
        self._cutter = FrameCutter()
        self._frames: list[bytes] = []
        self._waits_since_ns: int | None = None
        """Since when the frame at hand is incomplete."""
        self._told = (0, 0)
        self.peer_host = ""

    def step(self, now_ns: int) -> None:
        if not self.up:
            self._connect(now_ns)
        elif self._waits_since_ns is not None and now_ns - self._waits_since_ns >= self._timeout_ns:
            self._take(self._cutter.give_up_head(), now_ns)

    def due_ns(self, now_ns: int) -> int:
        if self._frames:
            return now_ns
        if self._socket is None:
            return now_ns + _RESOLVE_POLL_NS
        if not self.up:
            return self._deadline_ns
        return _NEVER if self._waits_since_ns is None else self._waits_since_ns + self._timeout_ns

    def _connect(self, now_ns: int) -> None:
        if self._socket is None:
            found = self._resolver.result()
            if found is not None:
                self._begin(*found)
        elif self._epoll_says_connected():
            return
        if now_ns >= self._deadline_ns:
            raise RetryableError(f"no connection within {self._timeout_ns / NS:g} s")

    def _begin(self, family: socket.AddressFamily, address: Any) -> None:
        self.peer_host = str(address[0])
        self._socket = opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A peer that is cut off without a word is noticed by its silence; this is for one that only ever listens.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        code = opened.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise RetryableError(os.strerror(code).lower())
        self._epoll.register(opened.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _epoll_says_connected(self) -> bool:
        assert self._socket is not None
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        if not poller.poll(0):
            return False
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise RetryableError(os.strerror(code).lower())
        self._epoll.modify(self._socket.fileno(), select.EPOLLIN)
        self.up = True
        return True

    def send(self, frame: bytes) -> None:
        assert self._socket is not None
        try:
            sent = self._socket.send(frame, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise RetryableError(f"cannot send: {(error.strerror or str(error)).lower()}") from error
        if sent < len(frame):
            raise RetryableError("cannot send: the peer does not read")

    def receive(self, most: int, now_ns: int) -> Block | None:
        if not self._frames:
            self._read(now_ns)
        if not self._frames:
            return None
        taken, self._frames = self._frames[:most], self._frames[most:]
        return block_of(taken, PEER)

    def _read(self, now_ns: int) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise RetryableError(f"connection lost: {(error.strerror or str(error)).lower()}") from error
        if not data:
            raise RetryableError("the peer closed the connection")
        self._take(self._cutter.add(data), now_ns)

    def _take(self, frames: list[bytes], now_ns: int) -> None:
        self._frames += frames
        if not len(self._cutter):
            self._waits_since_ns = None
        elif frames or self._waits_since_ns is None:
            self._waits_since_ns = now_ns
        if self._cutter.lost:
            raise RetryableError("what the peer sends is no C37.118")

    def take_refused(self) -> list[Refused]:
        told = self._cutter.rejected, self._cutter.skipped_bytes
        before, self._told = self._told, told
        found = []
        if told[0] != before[0]:
            found.append(Refused("bad_crc", told[0] - before[0], self._cutter.last_rejected))
        if told[1] != before[1]:
            found.append(Refused("skipped_bytes", told[1] - before[1], b""))
        return found

    def whole_frame(self, index: int) -> bytes:
        raise AssertionError(index)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self.up = False


class Listener:
    """The UDP port on which a client gets data, through all of its connections: opened once, for one device."""

    def __init__(self, receiver: UdpReceiver, epoll: select.epoll) -> None:
        self.receiver = receiver
        self.peer: int | None = None
        """Number of the host whose datagrams are taken."""
        self.strangers = 0
        epoll.register(receiver.fileno(), select.EPOLLIN)

    def receive(self, most: int) -> Block | None:
        """A block of datagrams, those of other hosts left out."""
        receiver = self.receiver
        count = receiver.receive(min(most, BLOCK))
        if not count:
            return None
        ours = receiver.peers[:count] == (self.peer or 0)
        foreign = count - int(np.count_nonzero(ours))
        if foreign:
            self.strangers += foreign
            frames = [receiver.datagram(index) for index in np.flatnonzero(ours).tolist()]
            return block_of(frames, PEER) if any(frames) else None
        receiver.peers[:count] = PEER
        return Block(receiver.data, receiver.stride, receiver.lengths, receiver.peers, count)

    def discard(self) -> int:
        """Throw away a block of what came while there is no connection, so that it does not wake the flow again and
        again; how many datagrams."""
        return self.receiver.receive()

    def take_strangers(self) -> list[Refused]:
        count, self.strangers = self.strangers, 0
        return [Refused("strangers", count, b"")] if count else []


class UdpLink:
    """Commands and frames over UDP."""

    def __init__(self, host: str, port: int, listener: Listener) -> None:
        self.up = False
        self._listener = listener
        self._resolver = Resolver(host, port, socket.SOCK_DGRAM)
        self._address: Any = None

    def step(self, now_ns: int) -> None:
        del now_ns
        if self.up:
            return
        found = self._resolver.result()
        if found is not None:
            self._address = found[1]
            self._listener.peer = host_number(self._address[0])
            self.up = True

    def due_ns(self, now_ns: int) -> int:
        return _NEVER if self.up else now_ns + _RESOLVE_POLL_NS

    def send(self, frame: bytes) -> None:
        self._listener.receiver.send(frame, self._address)

    def receive(self, most: int, now_ns: int) -> Block | None:
        del now_ns
        return self._listener.receive(most)

    def take_refused(self) -> list[Refused]:
        return self._listener.take_strangers()

    def whole_frame(self, index: int) -> bytes:
        return self._listener.receiver.datagram(index)

    def close(self) -> None:
        self.up = False


class TcpUdpLink:
    """Commands, configurations and headers over TCP, data over UDP."""

    def __init__(self, commands: TcpLink, listener: Listener) -> None:
        self._commands = commands
        self._listener = listener

    @property
    def up(self) -> bool:
        return self._commands.up

    def step(self, now_ns: int) -> None:
        self._commands.step(now_ns)
        if self._commands.up and self._listener.peer is None:
            self._listener.peer = host_number(self._commands.peer_host)

    def due_ns(self, now_ns: int) -> int:
        return self._commands.due_ns(now_ns)

    def send(self, frame: bytes) -> None:
        self._commands.send(frame)

    def receive(self, most: int, now_ns: int) -> Block | None:
        # Configurations first: they tell what the data that are there hold.
        return self._commands.receive(most, now_ns) or self._listener.receive(most)

    def take_refused(self) -> list[Refused]:
        return self._commands.take_refused() + self._listener.take_strangers()

    def whole_frame(self, index: int) -> bytes:
        return self._listener.receiver.datagram(index)

    def close(self) -> None:
        self._commands.close()


def only_stream(block: Block, idcode: int, whole_frame: Callable[[int], bytes]) -> tuple[Block | None, list[bytes]]:
    """The block without frames of other streams, and those."""
    if block.stride < HEADER_BYTES:
        return block, []
    starts = np.arange(block.count) * block.stride
    codes = block.data[starts + 4].astype(np.uint16) << np.uint16(8) | block.data[starts + 5]
    other = (codes != idcode) & (block.lengths[: block.count] >= HEADER_BYTES)
    if not other.any():
        return block, []
    frames = [_frame(block, index, whole_frame) for index in range(block.count)]
    kept = [frame for frame, refused in zip(frames, other.tolist(), strict=True) if not refused]
    refused = [frame for frame, refused in zip(frames, other.tolist(), strict=True) if refused]
    return (block_of(kept, PEER) if any(kept) else None), refused


def _frame(block: Block, index: int, whole_frame: Callable[[int], bytes]) -> bytes:
    return block.frame(index) if block.lengths[index] <= block.stride else whole_frame(index)


def holds_data(block: Block) -> bool:
    """Whether a data frame is among these, by its SYNC word."""
    if block.stride < HEADER_BYTES:
        return False
    starts = np.arange(block.count) * block.stride
    return bool(((block.data[starts] == 0xAA) & (block.data[starts + 1] < 0x10)).any())


def listen(
    host: str, port: int, group: str | None, buffer_bytes: int, context: Context, epoll: select.epoll
) -> Listener:
    """Open the UDP port of a client. Raises FatalError, RetryableError."""
    return Listener(UdpReceiver(host, port, buffer_bytes, context.log, group=group, sockets=context.sockets), epoll)
