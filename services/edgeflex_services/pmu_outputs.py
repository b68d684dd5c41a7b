"""How simulated PMUs bring their frames out: unasked over UDP, or to clients whose commands they obey."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from edgeflex_connectors.c37118 import ConfigFrame
from edgeflex_connectors.c37118_fragments import encode_config_frames
from edgeflex_connectors.pmu_server import LARGEST_DATAGRAM, PmuServer, ServedStream, Transport, udp_sender
from edgeflex_flow.errors import EdgeflexError

CHANGE_CONFIGURATION = 0x0100
"""A command that the standard leaves to users: simulated PMUs then announce another configuration, and change to it."""
HEADER = "simulated by edgeflex-flow: a recorded disturbance of the IEEE 39-bus system"


class Output(Protocol):
    """Where frames go."""

    @property
    def send_errors(self) -> int:
        """Frames that could not be sent."""
        ...

    def tell(self, configs: Sequence[ConfigFrame]) -> int:
        """Take over configurations, and send them if nobody asks for them; how many frames went out."""
        ...

    def send(self, frames: Sequence[tuple[int, bytes]]) -> None:
        """Send data frames, each with the IDCODE of its stream."""

    def close(self) -> None:
        """Let go of sockets."""


class Spontaneous:
    """Datagrams to one address, whether anybody listens or not."""

    def __init__(self, host: str, port: int, interface: str | None = None) -> None:
        self.send_errors = 0
        self._address: Any
        try:
            family, _, _, _, self._address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        except socket.gaierror as error:
            raise OSError(f"host '{host}': {error.strerror}") from error
        self._socket = udp_sender(family, 1, interface)

    def tell(self, configs: Sequence[ConfigFrame]) -> int:
        frames = [frame for config in configs for frame in encode_config_frames(config, LARGEST_DATAGRAM)]
        for frame in frames:
            self._send(frame)
        return len(frames)

    def send(self, frames: Sequence[tuple[int, bytes]]) -> None:
        for _, frame in frames:
            self._send(frame)

    def _send(self, frame: bytes) -> None:
        try:
            self._socket.sendto(frame, self._address)
        except OSError:
            # A network that is away for a moment must not end the simulation; what it cost is in the report.
            self.send_errors += 1

    def close(self) -> None:
        self._socket.close()


class Obedient:
    """Streams for clients who turn them on. `on_change` is called when one asks for another configuration."""

    def __init__(
        self,
        host: str,
        port: int,
        transport: Transport,
        configs: Sequence[ConfigFrame],
        *,
        data_address: tuple[str | None, int] = (None, 4713),
        interface: str | None = None,
        on_change: Callable[[], None],
    ) -> None:
        self._counts: Counter[str] = Counter()
        self.server = PmuServer(
            host,
            port,
            [ServedStream(config, HEADER) for config in configs],
            transport=transport,
            data_address=data_address,
            interface=interface,
            count=self._count,
        )

        def obey(_idcode: int, command: int, _extended: bytes) -> None:
            if command == CHANGE_CONFIGURATION:
                on_change()

        self.server.on_command = obey
        self.server.start()

    def _count(self, name: str, number: int) -> None:
        self._counts[name] += number

    @property
    def send_errors(self) -> int:
        return self._counts["send_errors"] + self._counts["overflow"]

    def tell(self, configs: Sequence[ConfigFrame]) -> int:
        for config in configs:
            self.server.change(ServedStream(config, HEADER))
        return 0

    def send(self, frames: Sequence[tuple[int, bytes]]) -> None:
        for idcode, frame in frames:
            self.server.publish(idcode, [frame])

    def close(self) -> None:
        self.server.close()


class BadLink:
    """Frames on a link that loses a share of them, and brings the others later: when the first frame goes out that is
    due at `delay_s` after them or more."""

    def __init__(self, output: Output, *, loss: float, delay_s: float, seed: int = 0) -> None:
        self._output = output
        self._loss, self._delay_s = loss, delay_s
        self._random = np.random.default_rng(seed)
        self._under_way: deque[tuple[float, Sequence[tuple[int, bytes]]]] = deque()

    @property
    def send_errors(self) -> int:
        return self._output.send_errors

    def tell(self, configs: Sequence[ConfigFrame]) -> int:
        return self._output.tell(configs)

    def send(self, frames: Sequence[tuple[int, bytes]]) -> None:
        now_s = time.monotonic()
        self._under_way.append(
            (now_s + self._delay_s, [each for each in frames if self._random.random() >= self._loss])
        )
        while self._under_way and self._under_way[0][0] <= now_s:
            self._output.send(self._under_way.popleft()[1])

    def close(self) -> None:
        self._output.close()


@contextlib.contextmanager
def closing_output(make: Callable[[], Output]) -> Iterator[Output]:
    """The output while it is needed. Raises OSError when it cannot be had."""
    try:
        output = make()
    except EdgeflexError as error:
        raise OSError(str(error)) from error
    try:
        yield output
    finally:
        output.close()
