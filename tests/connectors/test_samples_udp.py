from __future__ import annotations

import math
import socket
import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from networks import FaultyUdp

from edgeflex_connectors.samples_udp import NODE, SamplesUdpConfig, SamplesUdpSource
from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import Samples, join_samples

if TYPE_CHECKING:
    from conftest import ContextMaker

START_S = 1_700_000_000
FORMAT = {
    "type": "villas.binary",
    "signals": [{"column": "frequency_hz"}, {"column": "voltage_v"}],
    "sequence": "sample_count",
}


def sample(number: int, *values: float, order: str = ">") -> bytes:
    """A VILLAS binary sample, written by hand: 50 a second."""
    header = struct.pack(
        f"{order}BBHIII", 0x20, 0, len(values), number, START_S + number // 50, number % 50 * 20_000_000
    )
    return header + struct.pack(f"{order}{len(values)}f", *values)


class Bench:
    """A source under test and a device that sends to it."""

    def __init__(self, make_context: ContextMaker, clock: VirtualClock | None = None, **settings: Any) -> None:
        self.maker = make_context
        self.context = make_context("samples", clock=clock)
        defaults: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "format": FORMAT, "receive_buffer": 1_000_000.0}
        source = NODE.open(msgspec.convert(defaults | settings, SamplesUdpConfig), self.context)
        assert isinstance(source, SamplesUdpSource)
        self.source = source
        self.source.open()

    def send(self, *datagrams: bytes, host: str = "127.0.0.1", to: str = "127.0.0.1") -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
            device.bind((host, 0))
            for each in datagrams:
                device.sendto(each, (to, self.source.port))

    def rows(self) -> Samples:
        batches: list[Samples] = []
        while found := self.source.poll():
            batches += found
        for batch in batches:
            assert list(batch.problems()) == []
        return join_samples(batches)

    def count(self, name: str) -> int:
        return self.context.counters.get(name)


@pytest.fixture
def bench(make_context: ContextMaker) -> Iterator[Callable[..., Bench]]:
    opened: list[Bench] = []

    def make(**settings: Any) -> Bench:
        opened.append(Bench(make_context, **settings))
        return opened[-1]

    yield make
    for each in opened:
        each.source.close()


MakeBench = Callable[..., Bench]


def test_samples_become_rows(bench: MakeBench) -> None:
    samples = bench()
    samples.send(*(sample(number, 50.0 + number, 230.0) for number in range(3)))
    rows = samples.rows()
    assert rows.devices == ("127.0.0.1",)
    assert rows.time_ns.tolist() == [START_S * 10**9 + number * 20_000_000 for number in range(3)]
    assert {name: values.tolist() for name, values in rows.columns.items()} == {
        "frequency_hz": [50.0, 51.0, 52.0],
        "voltage_v": [230.0] * 3,
        "sample_count": [0.0, 1.0, 2.0],
    }
    assert samples.context.counters.snapshot() == {"received": 3, "rows": 3}


def test_a_datagram_may_hold_several_samples(bench: MakeBench) -> None:
    samples = bench()
    samples.send(sample(0, 50.0, 230.0) + sample(1, 51.0, 231.0))
    assert samples.rows().columns["voltage_v"].tolist() == [230.0, 231.0]


def test_other_formats_and_byte_orders_do_as_well(bench: MakeBench) -> None:
    little = bench(format=FORMAT | {"byte_order": "little"})
    little.send(sample(0, 50.5, 1.0, order="<"))
    assert little.rows().columns["frequency_hz"].tolist() == [50.5]
    edgeflex = bench(format={"type": "json.edgeflex"}, columns=["frequency_hz"])
    edgeflex.send(b'[{"created":1700000000000,"device":"G1","frequency_hz":49.98}]')
    rows = edgeflex.rows()
    assert rows.columns["frequency_hz"].tolist() == [49.98]
    assert rows.devices == ("G1",)


def test_devices_are_named_by_the_address_that_they_send_from(bench: MakeBench) -> None:
    samples = bench(devices={"127.0.0.1": "bay_1", "127.0.0.3": "bay_3"})
    for host in ("127.0.0.3", "127.0.0.1", "127.0.0.2"):
        samples.send(sample(0, 50.0, 1.0), host=host)
    rows = samples.rows()
    assert [rows.devices[code] for code in rows.device] == ["bay_3", "bay_1"]
    assert samples.count("strangers") == 1


def test_what_cannot_be_read_is_told_once_a_second_and_counted(bench: MakeBench) -> None:
    clock = VirtualClock(0)
    samples = bench(clock=clock)
    for second in range(2):
        clock.advance_to(second * 10**9)
        samples.send(*[b"garbage"] * 5, sample(0, 50.0))
        samples.source.poll()
    assert samples.count("bad_payload") == 12
    assert [text.partition(":")[0] for _, text, _ in samples.maker.dead_letters] == ["from 127.0.0.1"] * 2


def test_a_sample_that_is_wrong_costs_no_other(bench: MakeBench) -> None:
    samples = bench()
    wrong = sample(1, 50.0, 230.0)[:12] + struct.pack(">I", 2_000_000_000) + sample(1, 50.0, 230.0)[16:]
    samples.send(sample(0, 50.0, 230.0) + wrong + sample(2, 50.0, 230.0))
    assert samples.rows().columns["sample_count"].tolist() == [0.0, 2.0]
    assert samples.count("bad_rows") == 1


def test_random_bytes_do_no_harm(bench: MakeBench) -> None:
    samples, random = bench(), Random(5)
    samples.send(*(random.randbytes(random.randrange(100)) for _ in range(500)), sample(7, 50.0, math.nan))
    rows = samples.rows()
    assert rows.columns["sample_count"].tolist()[-1] == 7.0
    assert samples.count("received") == 501


def test_a_batch_has_at_most_the_datagrams_asked_for(bench: MakeBench) -> None:
    samples = bench(max_datagrams=10)
    samples.send(*(sample(number, 50.0, 230.0) for number in range(25)))
    assert [batch.rows for _ in range(3) for batch in samples.source.poll()] == [10, 10, 5]


@pytest.mark.parametrize("seed", range(3))
def test_datagrams_that_the_network_passes_are_rows(bench: MakeBench, seed: int) -> None:
    samples = bench()
    with FaultyUdp(("127.0.0.1", samples.source.port), seed=seed) as network:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
            for number in range(500):
                device.sendto(sample(number, 50.0, 230.0), ("127.0.0.1", network.port))
        while network.came["to_server"] < 500:
            pass
    rows = samples.rows()
    assert network.lost["to_server"] > 10
    assert samples.count("received") == rows.rows == len(network.passed["to_server"])
    assert len(set(rows.columns["sample_count"].tolist())) == 500 - network.lost["to_server"] - len(
        network._held["to_server"]
    )


def test_samples_of_a_multicast_group_are_taken(bench: MakeBench) -> None:
    samples = bench(group="239.192.7.10")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        device.sendto(sample(0, 50.0, 230.0), ("239.192.7.10", samples.source.port))
    assert samples.rows().rows == 1


def test_a_port_in_use_is_fatal(bench: MakeBench) -> None:
    first = bench()
    with pytest.raises(FatalError, match="the port is in use"):
        bench(port=first.source.port)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"devices": {"bay": "G1"}}, "`devices`: 'bay' is no IP address"),
        ({"group": "10.0.0.1"}, "a multicast group is an IPv4 address"),
        ({"group": "239.0.0.1", "host": "::"}, "`group` needs an IPv4 address"),
        ({"columns": ["frequency_hz"]}, "`columns`: fields of villas.binary have no names"),
        ({"format": {"type": "json.edgeflex"}}, "give `columns` or columns in `format`"),
    ],
)
def test_config_that_makes_no_sense_is_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"port": 12000, "format": FORMAT} | settings, SamplesUdpConfig)
    assert text in str(caught.value)
