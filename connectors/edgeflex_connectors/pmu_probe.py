"""Tries a PMU or PDC: asks for its configuration, and leaves again. Turns data neither on nor off."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from edgeflex_connectors.c37118 import Command, ConfigFrame
from edgeflex_connectors.c37118_cutter import FrameCutter
from edgeflex_connectors.c37118_fragments import FragmentedConfigs
from edgeflex_connectors.c37118_header import CONFIG_TYPES, FrameError, read_header
from edgeflex_connectors.pmu_dialogue import command_frame
from edgeflex_flow.errors import RetryableError
from edgeflex_flow.node import Probe

_PEER: Final = 1
_CHUNK_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where a device is and what to ask it for."""

    host: str
    port: int
    transport: str
    idcode: int
    asks: Sequence[Command]
    answer_s: float

    def __str__(self) -> str:
        return f"{self.host}:{self.port} ({self.transport})"


def try_device(device: Device, now_ns: int) -> Probe:
    """The time from asking for the configuration to having it, and what it tells. RetryableError if it does not come.

    Over UDP the question comes from any free port, so that a flow that is running keeps its own.
    """
    with _connected(device) as (connection, address):
        others: set[int] = set()
        for command in device.asks:
            began_s = time.monotonic()
            question = command_frame(command, device.idcode, now_ns)
            try:
                if address is None:
                    connection.sendall(question)
                else:
                    connection.sendto(question, address)
                config = _answer(connection, address, device, others)
            except (OSError, FrameError) as error:
                raise RetryableError(f"{device}: {_reason(error, device)}") from error
            if config is not None:
                return Probe(time.monotonic() - began_s, _told(config))
    names = " nor to ".join(command.name for command in device.asks)
    came = f"; frames of stream {', '.join(map(str, sorted(others)))} came" if others else ""
    hint = f"{came}; is {device.idcode} its IDCODE?"
    raise RetryableError(f"{device}: no answer to {names} within {device.answer_s:g} s each{hint}")


@contextmanager
def _connected(device: Device) -> Iterator[tuple[socket.socket, tuple[str, int] | None]]:
    """A socket for talking with the device; over UDP with its address."""
    where = device.host, device.port
    try:
        if device.transport != "udp":
            connection, address = socket.create_connection(where, device.answer_s), None
        else:
            family, kind, _, _, found = socket.getaddrinfo(*where, type=socket.SOCK_DGRAM)[0]
            connection, address = socket.socket(family, kind), (str(found[0]), device.port)
    except (OSError, UnicodeError) as error:
        raise RetryableError(f"{device}: {_reason(error, device)}") from error
    with connection:
        yield connection, address


def _reason(error: Exception, device: Device) -> str:
    text = getattr(error, "strerror", None) or str(error)
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"host '{device.host}' cannot be resolved: {text}"
    if isinstance(error, TimeoutError):
        return f"no connection within {device.answer_s:g} s"
    return text.lower()


def _answer(
    connection: socket.socket, address: tuple[str, int] | None, device: Device, others: set[int]
) -> ConfigFrame | None:
    """The configuration, if it comes in time; data that others have turned on may come between. Streams that the device
    was not asked for are noted in `others`."""
    cutter, fragments = FrameCutter(), FragmentedConfigs()
    deadline_s = time.monotonic() + device.answer_s
    while (left_s := deadline_s - time.monotonic()) > 0.0:
        connection.settimeout(left_s)
        try:
            data, sender = connection.recvfrom(_CHUNK_BYTES)
        except TimeoutError:
            return None
        if address is not None:
            cutter.clear()  # no frame goes on in the next datagram
            if sender[0] != address[0]:
                continue
        elif not data:
            raise RetryableError(f"{device}: the peer closed the connection")
        for frame in cutter.add(data):
            kind, header = read_header(frame)
            if header.idcode != device.idcode:
                others.add(header.idcode)
            elif kind in CONFIG_TYPES and (config := fragments.decode(_PEER, frame)) is not None:
                return config
        if cutter.lost:
            raise RetryableError(f"{device}: what the peer sends is no C37.118")
    return None


def _told(config: ConfigFrame) -> str:
    rate = f"{config.data_rate} frames/s" if config.data_rate > 0 else f"a frame each {-config.data_rate} s"
    if len(config.pmus) != 1:
        return f"{config.kind.name}: {len(config.pmus)} PMUs, {rate}"
    station = "".join(each if each.isprintable() else " " for each in config.pmus[0].station).strip()
    return f"{config.kind.name}: '{station}', {rate}"
