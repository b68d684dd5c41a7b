"""Networks for tests: bad ones over UDP, ones that listen in over TCP, and ones that can be cut."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Self

from programs import find_program

CLONE_NEWNET = 0x40000000


class FaultyUdp:
    """Passes datagrams between a client and a server. Of each direction some are lost, some come twice, some later
    than those that were sent up to four after them; the same seed gives the same faults."""

    def __init__(self, server: tuple[str, int], *, seed: int, share: float = 0.05) -> None:
        self._server = server
        self._share = share
        self._random = Random(seed)
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for each in (self._front, self._back):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            each.bind(("127.0.0.1", 0))
        self.port = int(self._front.getsockname()[1])
        self.client: tuple[str, int] | None = None
        self.passed: dict[str, list[bytes]] = {"to_client": [], "to_server": []}
        self.came = {"to_client": 0, "to_server": 0}
        self.lost = {"to_client": 0, "to_server": 0}
        self._held: dict[str, list[tuple[int, bytes]]] = {"to_client": [], "to_server": []}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._front.close()
        self._back.close()

    def _run(self) -> None:
        while not self._over.is_set():
            ready = select.select([self._front, self._back], [], [], 0.05)[0]
            for each in ready:
                datagram, address = each.recvfrom(65_536)
                if each is self._front:
                    self.client = address
                    self._pass("to_server", datagram)
                else:
                    self._pass("to_client", datagram)
            if not ready:
                for direction in self._held:
                    self._let_go(direction, everything=True)

    def _pass(self, direction: str, datagram: bytes) -> None:
        self.came[direction] += 1
        if self._random.random() < self._share:
            self.lost[direction] += 1
        elif self._random.random() < self._share:
            self._held[direction].append((self.came[direction] + self._random.randint(1, 4), datagram))
        else:
            for _ in range(2 if self._random.random() < self._share else 1):
                self._send(direction, datagram)
        self._let_go(direction)

    def _let_go(self, direction: str, *, everything: bool = False) -> None:
        due = [item for item in self._held[direction] if everything or item[0] <= self.came[direction]]
        for item in due:
            self._held[direction].remove(item)
            self._send(direction, item[1])

    def _send(self, direction: str, datagram: bytes) -> None:
        self.passed[direction].append(datagram)
        if direction == "to_server":
            self._back.sendto(datagram, self._server)
        elif self.client is not None:
            self._front.sendto(datagram, self.client)


class ListeningIn:
    """Passes connections on to a server, and keeps the bytes of both directions."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.to_server = bytearray()
        self.to_client = bytearray()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
                self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        ways = {client: (server, self.to_server), server: (client, self.to_client)}
        while True:
            for came in select.select(list(ways), [], [])[0]:
                try:
                    data = came.recv(65_536)
                except ConnectionError:
                    data = b""
                if not data:
                    return
                goes, kept = ways[came]
                kept += data
                with contextlib.suppress(ConnectionError):
                    goes.sendall(data)


class TwoHosts:
    """Two network namespaces with a wire between them, 10.77.0.1 and 10.77.0.2, that can be cut."""

    addresses = ("10.77.0.1", "10.77.0.2")

    def __init__(self, ip: str, names: tuple[str, str]) -> None:
        self._ip = ip
        self.names = names

    def call(self, *words: str) -> None:
        subprocess.run([self._ip, *words], check=True, capture_output=True, timeout=20)

    def cut(self) -> None:
        """As if somebody pulled the plug of the first host: the second sees packets disappear."""
        self.call("-n", self.names[0], "link", "set", "wire0", "down")

    def mend(self) -> None:
        self.call("-n", self.names[0], "link", "set", "wire0", "up")

    def on(self, host: int, work: Callable[[], object]) -> threading.Thread:
        """A thread that works on a host: its sockets are there."""

        def target() -> None:
            _enter(self.names[host])
            work()

        thread = threading.Thread(target=target)
        thread.start()
        return thread


def _enter(name: str) -> None:
    """Move the calling thread into a network namespace."""
    with Path(f"/var/run/netns/{name}").open("rb") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def namespaces_allowed() -> bool:
    """Whether this user may make network namespaces on this machine."""
    ip = find_program("ip")
    if ip is None:
        return False
    name = f"edgeflex-probe-{os.getpid()}"
    made = subprocess.run([ip, "netns", "add", name], check=False, capture_output=True, timeout=20)
    subprocess.run([ip, "netns", "del", name], check=False, capture_output=True, timeout=20)
    return made.returncode == 0


@contextlib.contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    ip = find_program("ip")
    assert ip is not None, "mark the test with @pytest.mark.needs('ip')"
    hosts = TwoHosts(ip, (f"edgeflex-{os.getpid()}-a", f"edgeflex-{os.getpid()}-b"))
    try:
        for name in hosts.names:
            hosts.call("netns", "add", name)
        ends = ("wire0", "wire1")
        hosts.call(
            "link", "add", "wire0", "netns", hosts.names[0], "type", "veth", "peer", "wire1", "netns", hosts.names[1]
        )
        for name, end, address in zip(hosts.names, ends, hosts.addresses, strict=True):
            hosts.call("-n", name, "address", "add", f"{address}/24", "dev", end)
            for link in ("lo", end):
                hosts.call("-n", name, "link", "set", link, "up")
        yield hosts
    finally:
        for name in hosts.names:
            subprocess.run([ip, "netns", "del", name], check=False, capture_output=True, timeout=20)
