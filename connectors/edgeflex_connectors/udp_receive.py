"""Receives UDP datagrams in blocks, with one system call for up to 1024 of them (`recvmmsg`).

A socket in Python costs several microseconds a datagram; this costs a few nanoseconds more than the operating system.
The call is made from compiled code, because a single datagram that wakes an idle process finds cold caches: ctypes and
NumPy take some 40 µs then, a kernel 8. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import logging
import mmap
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.kernel import kernel
from edgeflex_flow.node import NO_SOCKET_KEEPER, SocketKeeper

BLOCK: Final = 1024
"""Datagrams of one call."""
LARGEST_DATAGRAM: Final = 65_536
_SMALLEST_SLOT: Final = 9 * 64

_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("9I")
_MEMINFO_DROPS: Final = 8
_MSG_DONTWAIT: Final = 0x40
_IP_MULTICAST_ALL: Final = 49
_ADDRESS_BYTES: Final = 32

_MSGHDR: Final = np.dtype(
    [
        ("name", np.uintp),
        ("namelen", np.uint32),
        ("iov", np.uintp),
        ("iovlen", np.uintp),
        ("control", np.uintp),
        ("controllen", np.uintp),
        ("flags", np.int32),
    ],
    align=True,
)
_MMSGHDR: Final = np.dtype([("header", _MSGHDR), ("length", np.uint32)], align=True)
"""`struct mmsghdr` of Linux; NumPy pads it as the C compiler does."""
_IOVEC: Final = np.dtype([("base", np.uintp), ("length", np.uintp)])

_call_recvmmsg: Any = types.ExternalFunction(
    "recvmmsg", types.int32(types.int32, types.uintp, types.uint32, types.int32, types.uintp)
)


_MIX: Final = np.uint64(0x9E3779B97F4A7C15)


@kernel("uint64(uint8[:, ::1], int64, int64, int64)")
def _big_endian(table: NDArray[np.uint8], row: int, begin: int, end: int) -> np.uint64:
    number = np.uint64(0)
    for column in range(begin, end):
        number = number << np.uint64(8) | np.uint64(table[row, column])
    return number


@kernel("int64(int64, uint64, int64, Array(uint32, 1, 'A'), uint8[:, ::1], boolean, int32[::1], uint64[::1])")
def receive_block(
    descriptor: int,
    headers_at: int,
    most: int,
    received: NDArray[np.uint32],
    addresses: NDArray[np.uint8],
    is_ipv4: bool,
    lengths: NDArray[np.int32],
    peers: NDArray[np.uint64],
) -> int:
    """Read up to `most` datagrams into what the headers point to. Fills `lengths` and `peers`; how many, or -1."""
    count: int = _call_recvmmsg(descriptor, headers_at, most, _MSG_DONTWAIT, 0)
    for i in range(count):
        lengths[i] = received[i]
        # sockaddr_in holds the address at byte 4, sockaddr_in6 at byte 8; both in network order.
        if is_ipv4:
            peers[i] = _big_endian(addresses, i, 4, 8)
        else:
            peers[i] = _big_endian(addresses, i, 8, 16) * _MIX ^ _big_endian(addresses, i, 16, 24)
    return count


def host_number(address: str) -> int:
    """The number by which `UdpReceiver.peers` tells a host.

    >>> host_number("127.0.0.1") == 0x7F000001
    True
    """
    host = ipaddress.ip_address(address.partition("%")[0])
    if host.version == 4:
        return int(host)
    return ((int(host) >> 64) * int(_MIX) & (1 << 64) - 1) ^ (int(host) & (1 << 64) - 1)


def group_problem(group: str) -> str | None:
    """Why this is no multicast group; None if it is one.

    >>> group_problem("239.1.2.3"), group_problem("10.0.0.1")
    (None, 'a multicast group is an IPv4 address from 224.0.0.0 to 239.255.255.255')
    """
    try:
        if ipaddress.IPv4Address(group).is_multicast:
            return None
    except ValueError:
        pass
    return "a multicast group is an IPv4 address from 224.0.0.0 to 239.255.255.255"


def _lazy_memory() -> NDArray[np.uint8]:
    """Room for a block of the largest datagrams. The system provides each page of it only when data come there."""
    memory = mmap.mmap(-1, BLOCK * LARGEST_DATAGRAM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # A system without huge pages does not know the word.
        # A huge page is provided as a whole at its first byte.
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)


def _recvmmsg() -> Callable[..., int]:
    function = ctypes.CDLL(None, use_errno=True).recvmmsg
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
    function.restype = ctypes.c_int
    return function


class UdpReceiver:
    """A UDP socket that is read in blocks. After `receive()` gave n, datagram i < n lies in
    `data[i * stride : i * stride + lengths[i]]` if it is no longer than `stride`, and came from the host `peers[i]`.
    `datagram(i)` gives any of them whole.

    Raises FatalError when the port is taken or may not be used, RetryableError when the address is not there yet.
    """

    def __init__(
        self,
        host: str,
        port: int,
        receive_buffer_bytes: int,
        log: logging.Logger,
        group: str | None = None,
        *,
        sockets: SocketKeeper = NO_SOCKET_KEEPER,
    ) -> None:
        """`sockets`: keeps the port open while nothing reads it, unless the port is any (0)."""
        self._where = f"UDP {host}:{port}"
        self._log = log
        name = f"udp {host} {port} {group or ''}"
        kept = sockets.take(name) if port else None
        self._socket = self._bind(host, port, group) if kept is None else socket.socket(fileno=kept)
        try:
            self._socket.setblocking(False)
            if group is not None and kept is None:
                self._join(host, group)
            if port:
                sockets.keep(name, self._socket.fileno())
            self._enlarge_buffer(receive_buffer_bytes)
            self._call = _recvmmsg()
            self._is_ipv4 = self._socket.family == socket.AF_INET
            self._fileno = self._socket.fileno()
            self._drops_before = 0
            self.kernel_drops: int | None = 0
            """Datagrams that the operating system dropped because they were not read in time; None: it cannot tell."""
            self._allocate()
            if self.read_kernel_drops() is None:
                log.warning("%s: this system does not tell how many datagrams it drops", self._where)
        except BaseException:
            self._socket.close()
            raise

    def _bind(self, host: str, port: int, group: str | None) -> socket.socket:
        address: Any
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        except socket.gaierror as error:
            text = f"{self._where}: '{host}' is no address of this machine: {error.strerror}"
            raise (RetryableError if error.errno == socket.EAI_AGAIN else FatalError)(text) from error
        opened = socket.socket(family, socket.SOCK_DGRAM)
        try:
            if group is not None:
                # Several programs of a machine may listen to one group.
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                address = (group, port)
            opened.bind(address)
        except OSError as error:
            opened.close()
            raise self._bind_error(error, port) from error
        return opened

    def _bind_error(self, error: OSError, port: int) -> Exception:
        if error.errno == errno.EADDRINUSE:
            return FatalError(
                f"{self._where}: the port is in use by another program (`ss -lunp sport = :{port}` names it);"
                " stop that program, or choose another port here and in the device"
            )
        if error.errno == errno.EACCES:
            return FatalError(f"{self._where}: ports below 1024 need a privilege; choose another port")
        if error.errno == errno.EADDRNOTAVAIL:
            return RetryableError(f"{self._where}: no network interface of this machine has this address now")
        return FatalError(f"{self._where}: {error.strerror}")

    def _join(self, host: str, group: str) -> None:
        """Take part in a multicast group, on the network that `host` is an address of."""
        try:
            interface = socket.getaddrinfo(host, 0, socket.AF_INET, socket.SOCK_DGRAM)[0][4][0]
            request = socket.inet_aton(group) + socket.inet_aton(str(interface))
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            # Else the system also gives datagrams of groups that other programs of the machine joined.
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        except OSError as error:
            text = f"{self._where}: cannot join the group {group}: {error.strerror}"
            raise RetryableError(text) from error

    def send(self, datagram: bytes, address: tuple[Any, ...]) -> bool:
        """Send from the port that is listened on; whether the system took it. Never blocks."""
        try:
            self._socket.sendto(datagram, address)
        except OSError:
            return False
        return True

    def _enlarge_buffer(self, wanted: int) -> None:
        """Linux doubles what it is asked for, to cover its own overhead, and gives the double back."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
        granted = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        if granted < wanted:
            self._log.warning(
                "%s: the receive buffer has %d of the %d bytes asked for, so that bursts may be dropped;"
                " `sysctl -w net.core.rmem_max=%d` allows them",
                self._where,
                granted,
                wanted,
                wanted,
            )

    def _allocate(self) -> None:
        self.data = _lazy_memory()
        self._overflow = _lazy_memory()
        self.lengths = np.zeros(BLOCK, dtype=np.int32)
        self.peers = np.zeros(BLOCK, dtype=np.uint64)
        """The sender's host, not its port: a device that restarts sends from another port."""
        rows = np.arange(BLOCK, dtype=np.uintp)
        self._vectors = np.zeros((BLOCK, 2), dtype=_IOVEC)
        self._vectors["base"][:, 1] = self._overflow.ctypes.data + rows * np.uintp(LARGEST_DATAGRAM)
        self._vectors["length"][:, 1] = LARGEST_DATAGRAM
        self._addresses = np.zeros((BLOCK, _ADDRESS_BYTES), dtype=np.uint8)
        self._headers = np.zeros(BLOCK, dtype=_MMSGHDR)
        headers = self._headers["header"]
        headers["name"] = self._addresses.ctypes.data + rows * np.uintp(_ADDRESS_BYTES)
        headers["namelen"] = _ADDRESS_BYTES
        headers["iov"] = self._vectors.ctypes.data + rows * np.uintp(2 * _IOVEC.itemsize)
        headers["iovlen"] = 2
        self._headers_at = self._headers.ctypes.data
        self._received = self._headers["length"]
        self.fit(_SMALLEST_SLOT)

    def fit(self, datagram_bytes: int) -> None:
        """Make the slots large enough for datagrams of this size. Longer ones are whole all the same, but slower."""
        # Close together, so that a block touches few pages, and an odd number of cache lines apart, so that the slots
        # spread over all sets of the cache: together a third of the decoder's time.
        lines = max(_SMALLEST_SLOT, min(datagram_bytes, LARGEST_DATAGRAM - 64)) + 63 >> 6 | 1
        self.stride = lines * 64
        """Distance between two slots in `data`, and their size."""
        self._vectors["base"][:, 0] = self.data.ctypes.data + np.arange(BLOCK, dtype=np.uintp) * np.uintp(self.stride)
        self._vectors["length"][:, 0] = self.stride

    @property
    def port(self) -> int:
        """The port that it listens on, also when port 0 asked for any free one."""
        return int(self._socket.getsockname()[1])

    def fileno(self) -> int:
        return self._fileno

    def receive(self, most: int = BLOCK) -> int:
        """Read up to `most` datagrams that are there; how many. Never blocks."""
        count = receive_block(
            self._fileno,
            self._headers_at,
            min(most, BLOCK),
            self._received,
            self._addresses,
            self._is_ipv4,
            self.lengths,
            self.peers,
        )
        return count if count > 0 else self._nothing()

    def _nothing(self) -> int:
        """Why there is none: compiled code cannot read the error number. Takes nothing: it asks for no datagram."""
        if self._call(self._fileno, self._headers_at, 0, _MSG_DONTWAIT, None) >= 0:
            return 0
        code = ctypes.get_errno()
        # ECONNREFUSED and the like report on datagrams that were sent from this port; nothing is lost by them.
        if code in (errno.EBADF, errno.ENOTSOCK, errno.EFAULT, errno.ENOSYS):
            raise FatalError(f"{self._where}: recvmmsg: {os.strerror(code)}")
        return 0

    def datagram(self, index: int) -> bytes:
        """Datagram `index` of the last block, whole, however long it is."""
        length = int(self.lengths[index])
        start = index * self.stride
        overflow = index * LARGEST_DATAGRAM
        first = self.data[start : start + min(length, self.stride)].tobytes()
        return first + self._overflow[overflow : overflow + max(0, length - self.stride)].tobytes()

    def peer_name(self, peer: int) -> str:
        """The address of a host by its number in `peers`."""
        if self._is_ipv4:
            return str(ipaddress.IPv4Address(peer))
        # IPv6 addresses are longer than their number; the last block tells it if the host was in it.
        found = np.flatnonzero(self.peers == peer)
        if not len(found):
            return f"host {peer:016x}"
        return str(ipaddress.IPv6Address(self._addresses[found[0], 8:24].tobytes()))

    def read_kernel_drops(self) -> int | None:
        """Bring `kernel_drops` up to date and give it."""
        if self.kernel_drops is None:
            return None
        try:
            now = _MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[
                _MEMINFO_DROPS
            ]
        except (OSError, struct.error):
            self.kernel_drops = None
            return None
        # The system's counter has 32 bits.
        self.kernel_drops += (now - self._drops_before) & 0xFFFFFFFF
        self._drops_before = now
        return self.kernel_drops

    def close(self) -> None:
        self._socket.close()
