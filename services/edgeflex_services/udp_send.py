"""Sends UDP datagrams of one size, 64 with each system call, so that a sender is never slower than a receiver."""

from __future__ import annotations

import socket
from typing import Final

import numpy as np
from numpy.typing import NDArray

SEGMENTS: Final = 64
"""Datagrams of one call: what all versions of Linux that know UDP_SEGMENT take."""
_LARGEST_PAYLOAD: Final = 65_507
_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103


class UdpSegmentSender:
    """Sends rows of bytes as datagrams to one address. Linux 4.18 and later.

    Raises OSError where the system or the network card's driver does not know UDP segmentation.
    """

    def __init__(self, host: str, port: int, datagram_bytes: int, send_buffer_bytes: int = 4 * 1024 * 1024) -> None:
        if not 1 <= datagram_bytes <= _LARGEST_PAYLOAD:
            raise ValueError(f"a datagram has 1 to {_LARGEST_PAYLOAD} bytes; got {datagram_bytes}")
        self.datagram_bytes = datagram_bytes
        self._rows = min(SEGMENTS, _LARGEST_PAYLOAD // datagram_bytes)
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
            self._socket.setsockopt(_SOL_UDP, _UDP_SEGMENT, datagram_bytes)
            self._socket.connect(address)
        except BaseException:
            self._socket.close()
            raise

    def send(self, datagrams: NDArray[np.uint8]) -> int:
        """Send each row of (n, datagram_bytes) as a datagram, waiting when the socket is full; gives n."""
        if datagrams.ndim != 2 or datagrams.shape[1] != self.datagram_bytes:
            raise ValueError(f"datagrams have the shape {datagrams.shape}; expected (n, {self.datagram_bytes})")
        octets = np.ascontiguousarray(datagrams).reshape(-1)
        step = self._rows * self.datagram_bytes
        for start in range(0, len(octets), step):
            self._socket.send(octets[start : start + step].data)
        return len(datagrams)

    def close(self) -> None:
        self._socket.close()
