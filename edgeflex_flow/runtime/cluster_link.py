"""What processes of a cluster say to each other beside the dataflow, over a connection to process 0.

A frame is a length and a msgpack object; nothing in it is a pickle but the states of operators, which only processes
that were let in send. Each side proves that it knows the cluster's secret before it is believed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import platform
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Generic, TypeAlias, TypeVar

import msgspec
import numpy as np

import edgeflex_flow
from edgeflex_flow.errors import EdgeflexError, FatalError
from edgeflex_flow.flowfile.cluster import Address
from edgeflex_flow.messages import Alarm, DeadLetter
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.state_folder import NodeState

TCP_LISTEN = "0A"
"""As `/proc/net/tcp` has it."""
NAME_AGAIN_S = 0.5
NONCE_BYTES = 32
MOST_HELLO_BYTES = 4096
MOST_FRAME_BYTES = 1 << 30
"""States of all operators."""
_LENGTH = struct.Struct(">I")
Summary: TypeAlias = dict[str, dict[str, dict[str, int]]]
"""As `FlowRun.summary` gives it."""


class LinkError(EdgeflexError):
    """The other process is gone, or is none of this cluster."""


def versions() -> dict[str, str]:
    """What must be the same everywhere, or messages and states would not be read as they were written."""
    major, minor, _ = platform.python_version_tuple()
    numpy_major, _, _ = np.__version__.partition(".")
    return {"edgeflex-flow": edgeflex_flow.__version__, "Python": f"{major}.{minor}", "NumPy": numpy_major}


class Challenge(msgspec.Struct, frozen=True, tag="challenge"):
    """By process 0, to whoever connects."""

    nonce: bytes


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """By a process that wants in."""

    process: int
    nonce: bytes
    flow: str
    flow_digest: str
    cluster_digest: str
    versions: dict[str, str]
    proof: bytes = b""

    def proved(self, secret: str, challenge: Challenge) -> bytes:
        """What only a process can say that knows the secret, and only in answer to this challenge."""
        body = msgspec.msgpack.encode(msgspec.structs.replace(self, proof=b""))
        return _proof(secret, b"process", challenge.nonce + body)


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """By process 0: it is in, and knows by this that it speaks to the right one."""

    proof: bytes


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """By process 0."""

    text: str


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """By process 0: join the dataflow. `states`: what operators go on with; None if no state is kept."""

    states: tuple[NodeState, ...] | None


class Count(msgspec.Struct, frozen=True, tag="count"):
    """By process 0: tell how many items you made and did, after all that you have to tell of them."""

    number: int


class Save(msgspec.Struct, frozen=True, tag="save"):
    """By process 0, while nothing is on its way: give the states of your operators."""


class InForceNow(msgspec.Struct, frozen=True, tag="in_force"):
    """By process 0: a policy gave a node another config."""

    node: str
    config: bytes
    """As msgpack."""
    policies: dict[str, str]


class Farewell(msgspec.Struct, frozen=True, tag="farewell"):
    """By process 0, once all have come to the end; or at any time, with what ends the cluster at once."""

    error: str | None
    at_once: bool = False


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """By both, so that silence is noticed."""

    summary: Summary | None = None


class Joined(msgspec.Struct, frozen=True, tag="joined"):
    """To process 0: listens for those with higher numbers."""


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """To process 0, in answer to `Count`."""

    number: int
    made: int
    done: int


class States(msgspec.Struct, frozen=True, tag="states"):
    """To process 0, in answer to `Save`."""

    states: tuple[NodeState, ...]


class Own(msgspec.Struct, frozen=True, tag="own"):
    """To process 0: what comes on wires of the flow itself."""

    messages: list[DeadLetter | Alarm]


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """To process 0: this process is asked to end, or cannot go on."""

    error: str | None


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """To process 0: the dataflow has come to its end here."""

    summary: Summary
    states: tuple[NodeState, ...]


ByHead: TypeAlias = Challenge | Welcome | Refused | Begin | Count | Save | InForceNow | Farewell | Beat
ToHead: TypeAlias = Hello | Joined | Counted | States | Own | Stop | Ended | Beat
T = TypeVar("T")


class Link(Generic[T]):
    """One end of the connection. Sends from any thread; one thread receives."""

    def __init__(self, connection: socket.socket, decoder: msgspec.msgpack.Decoder[T]) -> None:
        """`decoder`: of what the other side says."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._decoder = decoder
        self._lock = threading.Lock()
        self.most_bytes = MOST_HELLO_BYTES
        """Larger frames are refused; raised once the other side is known."""

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def peer(self) -> str:
        """The address of the other side. Raises OSError when it is gone."""
        return str(self._connection.getpeername()[0])

    def silence(self, seconds: float) -> None:
        """How long to wait for what the other side says, or takes."""
        self._connection.settimeout(seconds)

    def say(self, what: ByHead | ToHead) -> None:
        """Raises LinkError."""
        body = msgspec.msgpack.encode(what)
        with self._lock:
            try:
                self._connection.sendall(_LENGTH.pack(len(body)) + body)
            except OSError as error:
                raise LinkError(_why(error)) from error

    def hear(self) -> T:
        """The next that the other side says. Raises LinkError when nothing will come, or comes in time."""
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > self.most_bytes:
            raise LinkError(f"it says {length} bytes at once, and speaks another language")
        try:
            return self._decoder.decode(self._read(length))
        except msgspec.DecodeError as error:
            raise LinkError(f"it speaks another language: {error}") from error

    def _read(self, size: int) -> bytearray:
        read = bytearray(size)
        view = memoryview(read)
        at = 0
        while at < size:
            try:
                count = self._connection.recv_into(view[at:])
            except OSError as error:
                raise LinkError(_why(error)) from error
            if not count:
                raise LinkError("it closed the connection")
            at += count
        return read

    def close(self) -> None:
        shut(self._connection)


def shut(connection: socket.socket) -> None:
    """Close a socket on which another thread waits, in `accept` or `recv`: that ends, too."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def link_to_head(connection: socket.socket) -> Link[ByHead]:
    decoder: msgspec.msgpack.Decoder[ByHead] = msgspec.msgpack.Decoder(ByHead)
    return Link(connection, decoder)


def link_from(connection: socket.socket) -> Link[ToHead]:
    """Process 0's end."""
    decoder: msgspec.msgpack.Decoder[ToHead] = msgspec.msgpack.Decoder(ToHead)
    return Link(connection, decoder)


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it is silent"
    return error.strerror or str(error)


def new_challenge() -> Challenge:
    return Challenge(os.urandom(NONCE_BYTES))


def welcome_for(hello: Hello, secret: str) -> Welcome:
    return Welcome(_proof(secret, b"process 0", hello.nonce))


def knows(proof: bytes, wanted: bytes) -> bool:
    return hmac.compare_digest(proof, wanted)


def _proof(secret: str, who: bytes, what: bytes) -> bytes:
    return hmac.new(secret.encode(), who + b"\0" + what, hashlib.sha256).digest()


def wait_for_own_name(run: FlowRun, address: Address, most_s: float) -> None:
    """Wait until this process's own host name is known: Kubernetes tells names of pods a while after their start.

    Raises FatalError when it is not in time.
    """
    deadline_s = time.monotonic() + most_s
    told = False
    while not run.stopping:
        try:
            socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
            return
        except socket.gaierror as error:
            if time.monotonic() >= deadline_s:
                raise FatalError(f"the own address {address} is not known: {error.strerror}") from error
            if not told:
                told = True
                run.log.info("waits until the own address %s is known, at most %.0f s", address, most_s)
        run.wait_for_stop(NAME_AGAIN_S)


def listens_on(port: int) -> bool:
    """Whether this process, or another in its network, listens on a TCP port; true where that cannot be known."""
    wanted = f"{port:04X}"
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/self/net/{name}", encoding="ascii") as table:
                rows = [line.split() for line in table]
        except OSError:
            return True
        if any(row[1].rpartition(":")[2] == wanted and row[3] == TCP_LISTEN for row in rows):
            return True
    return False
