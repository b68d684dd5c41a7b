"""The physical floor: draining a full UDP socket with recvmmsg, doing nothing with it, or only decode and CRC."""

from __future__ import annotations

import ctypes
import socket
import time
from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.sender import FRAME_BYTES, crc_table

SO_RCVBUFFORCE = 33
VECTOR = 1024
SLOT_BYTES = 64
MSG_DONTWAIT = 0x40


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("length", ctypes.c_uint))


class FloorReceiver:
    """recvmmsg with nothing around it."""

    def __init__(self, buffer_bytes: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        force_buffer(self.socket, buffer_bytes)
        self.socket.bind(("127.0.0.1", 0))
        self.port = int(self.socket.getsockname()[1])
        self.slots = np.zeros((VECTOR, SLOT_BYTES), dtype=np.uint8)
        self._vectors = (_IoVec * VECTOR)()
        self._messages = (_MMsgHdr * VECTOR)()
        for k in range(VECTOR):
            self._vectors[k].base = self.slots.ctypes.data + k * SLOT_BYTES
            self._vectors[k].length = SLOT_BYTES
            self._messages[k].header.iov = ctypes.addressof(self._vectors[k])
            self._messages[k].header.iovlen = 1
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg

    def receive(self) -> int:
        """Datagrams received, at most 1,024; 0 or less when there are none."""
        return int(self._recvmmsg(self.socket.fileno(), self._messages, VECTOR, MSG_DONTWAIT, None))


def force_buffer(receiver: socket.socket, buffer_bytes: int) -> None:
    """As large a receive buffer as this user may have."""
    try:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
    except PermissionError:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)


@numba.njit(cache=True, nogil=True)
def decode(slots: NDArray[np.uint8], count: int, table: NDArray[np.uint16], columns: NDArray[np.float64]) -> int:
    """Check the CRC of each frame and decode its time and its seven floats. Returns how many were good."""
    good = 0
    word = np.empty(1, dtype=np.uint32)
    value = word.view(np.float32)
    for row in range(count):
        crc = 0xFFFF
        for byte in range(FRAME_BYTES - 2):
            crc = ((crc << 8) & 0xFFFF) ^ table[((crc >> 8) ^ slots[row, byte]) & 0xFF]
        if crc != (np.int64(slots[row, FRAME_BYTES - 2]) << 8 | slots[row, FRAME_BYTES - 1]):
            continue
        good += 1
        for column in range(9):
            at = 6 + 4 * column if column < 2 else 8 + 4 * column
            bits = np.int64(0)
            for byte in range(4):
                bits = bits << 8 | slots[row, at + byte]
            if column < 2:
                columns[column, row] = bits
            else:
                word[0] = bits
                columns[column, row] = value[0]
    return good


def drain(receiver: FloorReceiver, use: Callable[[int], object]) -> tuple[int, float]:
    """Empty the socket. Returns datagrams and seconds."""
    total = 0
    start_s = time.perf_counter()
    while True:
        count = receiver.receive()
        if count <= 0:
            return total, time.perf_counter() - start_s
        total += count
        use(count)


def decoder(receiver: FloorReceiver) -> Callable[[int], object]:
    """Decodes what `receiver` holds."""
    table = crc_table()
    columns = np.zeros((9, VECTOR))
    decode(receiver.slots, 0, table, columns)
    return lambda count: decode(receiver.slots, count, table, columns)
