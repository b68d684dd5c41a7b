from __future__ import annotations

import logging
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeflex_connectors import udp_receive
from edgeflex_connectors.udp_receive import UdpReceiver, host_number
from edgeflex_flow.errors import FatalError, RetryableError

LOG = logging.getLogger("edgeflex.test")


@pytest.fixture
def receiver() -> Iterator[UdpReceiver]:
    with closing(UdpReceiver("127.0.0.1", 0, 1_000_000, LOG)) as opened:
        yield opened


@pytest.fixture
def send(receiver: UdpReceiver) -> Iterator[Callable[[bytes], object]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", receiver.port))
        yield sender.send


def test_datagrams_come_whole_and_in_order(receiver: UdpReceiver, send: Callable[[bytes], object]) -> None:
    sent = [bytes([number]) * (number + 1) for number in range(100)]
    for datagram in sent:
        send(datagram)
    assert receiver.receive() == 100
    assert [receiver.datagram(index) for index in range(100)] == sent
    assert receiver.lengths[:100].tolist() == list(range(1, 101))
    start = 3 * receiver.stride
    assert receiver.data[start : start + 4].tobytes() == sent[3]


def test_nothing_there_is_no_datagram(receiver: UdpReceiver) -> None:
    assert receiver.receive() == 0


def test_empty_datagram_is_one(receiver: UdpReceiver, send: Callable[[bytes], object]) -> None:
    send(b"")
    assert receiver.receive() == 1
    assert receiver.datagram(0) == b""


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_datagrams_around_the_size_of_a_slot_are_whole(
    receiver: UdpReceiver, send: Callable[[bytes], object], beyond: int
) -> None:
    sent = bytes(number % 251 for number in range(receiver.stride + beyond))
    send(sent)
    assert receiver.receive() == 1
    assert receiver.datagram(0) == sent


def test_the_largest_datagram_is_whole(receiver: UdpReceiver, send: Callable[[bytes], object]) -> None:
    sent = bytes(number % 251 for number in range(65_507))
    send(b"before")
    send(sent)
    send(b"after")
    assert receiver.receive() == 3
    assert [receiver.datagram(index) for index in range(3)] == [b"before", sent, b"after"]


@pytest.mark.parametrize("size", [1, 577, 5000, 65_507])
def test_slots_are_fitted_to_the_datagrams(receiver: UdpReceiver, send: Callable[[bytes], object], size: int) -> None:
    receiver.fit(size)
    assert receiver.stride >= min(size, 65_472)
    # An odd number of cache lines: slots then spread over all sets of the cache.
    assert receiver.stride % 128 == 64
    sent = [bytes(number % 251 for number in range(size)), bytes(reversed(range(200)))]
    for datagram in sent:
        send(datagram)
    assert receiver.receive() == 2
    assert [receiver.datagram(index) for index in range(2)] == sent


def test_a_call_reads_no_more_than_a_block_or_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_receive, "BLOCK", 50)
    with (
        closing(UdpReceiver("127.0.0.1", 0, 100_000, LOG)) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        for _ in range(60):
            sender.sendto(b"x", ("127.0.0.1", receiver.port))
        assert [receiver.receive(7), receiver.receive(), receiver.receive(), receiver.receive()] == [7, 50, 3, 0]


def test_peer_is_the_host_and_not_its_port(receiver: UdpReceiver) -> None:
    for host in ("127.0.0.1", "127.0.0.1", "127.0.0.2"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((host, 0))
            sender.sendto(b"x", ("127.0.0.1", receiver.port))
    assert receiver.receive() == 3
    peers = receiver.peers[:3].tolist()
    assert peers[0] == peers[1] != peers[2]
    assert [receiver.peer_name(peer) for peer in peers] == ["127.0.0.1", "127.0.0.1", "127.0.0.2"]


def _ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _ipv6_works(), reason="this machine has no IPv6")
def test_ipv6_works_too() -> None:
    with (
        closing(UdpReceiver("::1", 0, 100_000, LOG)) as receiver,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
    ):
        sender.sendto(b"six", ("::1", receiver.port))
        assert receiver.receive() == 1
        assert receiver.datagram(0) == b"six"
        assert receiver.peers[0] != 0
        assert receiver.peer_name(int(receiver.peers[0])) == "::1"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.1.2.3",
        pytest.param("::1", marks=pytest.mark.skipif(not _ipv6_works(), reason="this machine has no IPv6")),
    ],
)
def test_the_number_of_a_host_is_known_before_it_sends(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    local = "::1" if ":" in address else "127.0.0.1"
    with closing(UdpReceiver(local, 0, 100_000, LOG)) as receiver, socket.socket(family, socket.SOCK_DGRAM) as device:
        device.bind((address, 0))
        device.sendto(b"x", (local, receiver.port))
        assert receiver.receive() == 1
        assert int(receiver.peers[0]) == host_number(address)
        assert receiver.peer_name(int(receiver.peers[0])) == address


def test_answers_go_out_from_the_port_that_is_listened_on(receiver: UdpReceiver) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.bind(("127.0.0.1", 0))
        device.settimeout(10.0)
        assert receiver.send(b"hello", device.getsockname())
        assert device.recvfrom(100) == (b"hello", ("127.0.0.1", receiver.port))
    assert not receiver.send(b"x" * 70_000, ("127.0.0.1", 9))


def test_descriptor_is_readable_when_a_datagram_is_there(
    receiver: UdpReceiver, send: Callable[[bytes], object]
) -> None:
    assert select.select([receiver.fileno()], [], [], 0) == ([], [], [])
    send(b"x")
    assert select.select([receiver.fileno()], [], [], 5.0)[0] == [receiver.fileno()]


def test_what_the_operating_system_drops_is_counted() -> None:
    with (
        closing(UdpReceiver("127.0.0.1", 0, 4096, LOG)) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        for _ in range(500):
            sender.sendto(bytes(46), ("127.0.0.1", receiver.port))
        received = 0
        while count := receiver.receive():
            received += count
        drops = receiver.read_kernel_drops()
        assert drops is not None
        assert drops > 0
        assert received + drops == 500


def test_port_in_use_is_fatal_and_says_what_to_do(receiver: UdpReceiver) -> None:
    with pytest.raises(FatalError) as caught:
        UdpReceiver("127.0.0.1", receiver.port, 4096, LOG)
    text = str(caught.value)
    assert f"127.0.0.1:{receiver.port}" in text
    assert "in use by another program" in text
    assert "choose another port" in text


def test_address_that_is_not_there_yet_is_retryable() -> None:
    # A network of documentation (RFC 5737), which no interface has.
    with pytest.raises(RetryableError, match=r"192\.0\.2\.1:4713: no network interface"):
        UdpReceiver("192.0.2.1", 4713, 4096, LOG)


def test_host_that_is_no_address_is_an_error() -> None:
    with pytest.raises((FatalError, RetryableError), match=r"no-such-host\.invalid' is no address"):
        UdpReceiver("no-such-host.invalid", 4713, 4096, LOG)


def test_a_smaller_buffer_than_asked_for_is_told_with_its_remedy(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a machine where the program may not exceed the limit.
    monkeypatch.setattr(udp_receive, "_SO_RCVBUFFORCE", socket.SO_RCVBUF)
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    with caplog.at_level(logging.WARNING), closing(UdpReceiver("127.0.0.1", 0, 2 * limit, LOG)):
        pass
    assert f"sysctl -w net.core.rmem_max={2 * limit}" in caplog.text


def test_a_system_that_cannot_tell_its_drops_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp_receive, "_SO_MEMINFO", 9999)
    with caplog.at_level(logging.WARNING), closing(UdpReceiver("127.0.0.1", 0, 4096, LOG)) as receiver:
        assert receiver.kernel_drops is None
    assert "does not tell how many datagrams it drops" in caplog.text
