"""Configurations of streams that outlive the process that heard them: devices may repeat theirs a minute later only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from edgeflex_connectors.c37118 import ConfigFrame
from edgeflex_flow.node import SocketKeeper

_Kept = list[tuple[int, ConfigFrame]]


class KeptConfigs:
    """The configurations of one port, in memory that the supervisor holds as it holds the socket.

    Where nothing does, or the system has no such memory (Linux has), nothing is kept.
    """

    def __init__(self, name: str, keeper: SocketKeeper) -> None:
        self._configs: dict[tuple[int, int], ConfigFrame] = {}
        self._memory = keeper.take(name)
        if self._memory is None and hasattr(os, "memfd_create"):
            self._memory = os.memfd_create("edgeflex configurations")
            keeper.keep(name, self._memory)
        elif self._memory is not None:
            keeper.keep(name, self._memory)
            for peer, config in self._read():
                self._configs[peer, config.header.idcode] = config

    def __iter__(self) -> Iterator[tuple[int, ConfigFrame]]:
        """Peers, as `UdpReceiver.peers` numbers them, and what they sent before this process was."""
        return iter([(peer, config) for (peer, _), config in self._configs.items()])

    def put(self, peer: int, config: ConfigFrame) -> None:
        self._configs[peer, config.header.idcode] = config
        if self._memory is not None:
            content = msgspec.msgpack.encode(list(self))
            with suppress(OSError):  # no memory is left: then it is told again by the device
                os.ftruncate(self._memory, 0)
                os.pwrite(self._memory, content, 0)

    def _read(self) -> _Kept:
        assert self._memory is not None
        content = os.pread(self._memory, os.fstat(self._memory).st_size, 0)
        with suppress(msgspec.MsgspecError):  # a process that was killed while it wrote, or before it did
            return msgspec.msgpack.decode(content, type=_Kept)
        return []

    def close(self) -> None:
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None
