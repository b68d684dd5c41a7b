"""What the supervisor and the process of a flow say to each other, one JSON object a line over a pair of sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from edgeflex_flow.flowfile.revision import Call
from edgeflex_flow.runtime.showing import Shown
from edgeflex_flow.runtime.state_folder import GO_ON, StateUse
from edgeflex_flow.runtime.vitals import Vitals

MOST_LINE_BYTES = 16 * 1024 * 1024


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """The flow is checked and its kernels are compiled; nothing is open."""


class Running(msgspec.Struct, frozen=True, tag="running"):
    """Everything is open."""


class StandingBy(msgspec.Struct, frozen=True, tag="standing_by"):
    """The run is over: everything is closed and the state is saved."""

    exit_code: int
    """As that of `edgeflex run`."""
    error: str | None = None


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """How the flow is, each second."""

    vitals: Vitals


class Tried(msgspec.Struct, frozen=True, tag="tried"):
    """What came of a `Reach`."""

    unreached: tuple[str, ...]
    """Why some are not reached."""


class Show(msgspec.Struct, frozen=True, tag="show"):
    """What people who look may see."""

    shown: Shown


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """What came of an `Ask`."""

    request: int
    is_done: bool
    text: str
    payload: bytes = b""


Told: TypeAlias = Prepared | Tried | Running | StandingBy | Beat | Show | Answer
"""By the flow."""


class Order(msgspec.Struct, frozen=True, tag="order"):
    """By the supervisor. `open`: run; `stand_by`: drain and wait; the end of the channel: drain and end."""

    do: Literal["open", "stand_by"]
    sockets: int = 0
    """How many were sent over the line for sockets before."""
    state: StateUse = GO_ON


class Reach(msgspec.Struct, frozen=True, tag="reach"):
    """Try whether these connections and nodes reach what they call; nothing is opened to stay."""

    calls: tuple[Call, ...]


class Watch(msgspec.Struct, frozen=True, tag="watch"):
    """Show what these nodes give, and no others."""

    nodes: tuple[str, ...]


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Something about a dead letter: its payload, or to give it to its node once more."""

    request: int
    do: Literal["payload", "replay"]
    letter: int
    who: str


Ordered: TypeAlias = Order | Reach | Watch | Ask
"""By the supervisor."""


class Channel:
    """The flow's end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def tell(self, told: Told) -> None:
        """Any thread. What nobody hears any more is let go."""
        line = msgspec.json.encode(told) + b"\n"
        with self._lock:
            try:
                self._connection.sendall(line)
            except OSError:
                return

    def orders(self) -> Iterator[Ordered]:
        """Until the supervisor closes its end, or dies."""
        with self._connection.makefile("rb") as lines:
            try:
                for line in lines:
                    yield msgspec.json.decode(line, type=Ordered)
            except OSError:
                return
