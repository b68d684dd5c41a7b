from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from c37118_cases import plain_config, plain_data, vector_bytes

from edgeflex_connectors import c37118_table, pmu_decoder, pmu_frames
from edgeflex_connectors.c37118 import (
    Analog,
    CommandFrame,
    ConfigFrame,
    FrameHeader,
    FrameType,
    HeaderFrame,
    Phasor,
    PmuConfig,
    encode_command,
    encode_config,
    encode_data,
    encode_header,
)
from edgeflex_connectors.c37118_fragments import encode_config_frames
from edgeflex_connectors.c37118_header import check_word
from edgeflex_connectors.pmu_kept import KeptConfigs
from edgeflex_connectors.pmu_udp import NODE, PmuUdpConfig, PmuUdpSource
from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import Quality, Samples, join_samples
from edgeflex_flow.node import Context
from edgeflex_flow.units import names_its_unit
from edgeflex_services.broker import free_udp_port

if TYPE_CHECKING:
    from conftest import ContextMaker

CHANNELS = {"V1": "voltage_v", "I1": "current_a", "P": "active_power_w"}
CONFIG = plain_config()


def frame(config: ConfigFrame = CONFIG, number: int = 0, **values: Any) -> bytes:
    return encode_data(plain_data(config, number, **values), config)


class Bench:
    """A source under test and a device that sends to it."""

    def __init__(self, make_context: ContextMaker, clock: VirtualClock | None, **settings: Any) -> None:
        self.context: Context = make_context("pmu", clock=clock)
        self.maker = make_context
        defaults: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "receive_buffer": 1_000_000.0}
        self.config = msgspec.convert(defaults | settings, PmuUdpConfig)
        source = NODE.open(self.config, self.context)
        assert isinstance(source, PmuUdpSource)
        self.source = source
        self.source.open()
        self.device = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send(self, *frames: bytes, host: str | None = None) -> None:
        sender = self.device
        if host is not None:
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sender.bind((host, 0))
        for each in frames:
            sender.sendto(each, ("127.0.0.1", self.source.port))
        if sender is not self.device:
            sender.close()

    def poll(self) -> list[Samples]:
        """All that there is now."""
        batches: list[Samples] = []
        while (found := self.source.poll()) or self.source.next_poll_ns() is not None:
            batches += found
        for batch in batches:
            assert list(batch.problems()) == []
            assert batch.rows > 0
            assert all(names_its_unit(column) for column in batch.columns)
        return batches

    def rows(self) -> Samples:
        return join_samples(self.poll())

    def count(self, name: str) -> int:
        return self.context.counters.get(name)

    def close(self) -> None:
        self.source.close()
        self.device.close()


@pytest.fixture
def bench(make_context: ContextMaker) -> Iterator[Callable[..., Bench]]:
    opened: list[Bench] = []

    def make(clock: VirtualClock | None = None, **settings: Any) -> Bench:
        opened.append(Bench(make_context, clock, **settings))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


MakeBench = Callable[..., Bench]


def device_names(samples: Samples) -> list[str]:
    return [samples.devices[code] for code in samples.device]


def test_frames_become_rows(bench: MakeBench) -> None:
    pmu = bench(channels=CHANNELS)
    pmu.send(encode_config(CONFIG), *(frame(number=number, frequency_hz=50.0 + number) for number in range(3)))
    rows = pmu.rows()
    assert rows.devices == ("G7",)
    assert rows.time_ns.tolist() == [1_700_000_000_000_000_000 + number * 20_000_000 for number in range(3)]
    assert {name: values.tolist() for name, values in rows.columns.items()} == {
        "frequency_hz": [50.0, 51.0, 52.0],
        "dfreq_hz_per_s": [0.25] * 3,
        "voltage_v": [230.0] * 3,
        "voltage_angle_rad": [0.5] * 3,
        "current_a": [231.0] * 3,
        "current_angle_rad": [0.5] * 3,
        "active_power_w": [1000.0] * 3,
    }
    assert rows.quality.tolist() == [0, 0, 0]
    assert pmu.context.counters.snapshot() == {"frames": 4, "rows": 3, "config_frames": 1}


def test_columns_of_the_wire_are_there_whatever_the_device_sends(bench: MakeBench) -> None:
    bare = plain_config(phasors=(), analogs=())
    pmu = bench(channels=CHANNELS)
    pmu.send(encode_config(bare), frame(bare))
    rows = pmu.rows()
    assert NODE.output(pmu.config, {}).columns <= set(rows.columns)
    assert math.isnan(rows.columns["voltage_v"][0])


def test_received_time_is_the_clock_of_the_runtime(bench: MakeBench) -> None:
    pmu = bench(clock=VirtualClock(12_345))
    pmu.send(encode_config(CONFIG), frame())
    assert pmu.rows().received_ns == 12_345


def test_nothing_there_is_no_batch(bench: MakeBench) -> None:
    pmu = bench()
    assert list(pmu.source.poll()) == []
    assert pmu.source.next_poll_ns() is None
    assert not pmu.source.ended


def test_a_batch_is_not_touched_by_later_ones(bench: MakeBench) -> None:
    pmu = bench()
    pmu.send(encode_config(CONFIG), frame(frequency_hz=49.0))
    (first,) = pmu.poll()
    pmu.send(frame(frequency_hz=51.0))
    (second,) = pmu.poll()
    assert first.columns["frequency_hz"].tolist() == [49.0]
    assert second.columns["frequency_hz"].tolist() == [51.0]
    assert second.devices is first.devices


def test_several_pmus_in_a_frame_are_several_devices(bench: MakeBench) -> None:
    pmu = bench()
    pmu.send(vector_bytes("pypmu_cfg2_2pmu"), vector_bytes("pypmu_data_2pmu"))
    rows = pmu.rows()
    assert device_names(rows) == ["Station A", "Station A-7734"]
    assert rows.columns["frequency_hz"].tolist() == [62.5, 62.5]
    assert rows.columns["va_v"][0] == pytest.approx(133987.376, abs=0.001)
    assert rows.columns["digital1_bits"].tolist() == [0x3C12, 0x3C12]


@pytest.mark.parametrize(
    ("stat", "time_quality", "flag"),
    [
        (0x4000, 0, Quality.BAD_DATA),
        (0x8000, 0, Quality.TEST),
        (0x2000, 0, Quality.SYNC_LOST),
        (0x0200, 0, Quality.ESTIMATED),
        (0x0000, 6, Quality.TIME_UNCERTAIN),
    ],
)
def test_flags_reach_the_quality_of_the_row(bench: MakeBench, stat: int, time_quality: int, flag: Quality) -> None:
    pmu = bench()
    pmu.send(encode_config(CONFIG), frame(stat=stat, time_quality=time_quality))
    assert pmu.rows().quality.tolist() == [int(flag)]


def test_names_of_the_flow_file_win_over_station_names(bench: MakeBench) -> None:
    pmu = bench(names={"7": "feeder_12"})
    pmu.send(encode_config(CONFIG), frame())
    assert pmu.rows().devices == ("feeder_12",)


def test_device_that_restarts_on_another_port_stays_the_same(bench: MakeBench) -> None:
    pmu = bench()
    pmu.send(encode_config(CONFIG), frame(), host="127.0.0.1")
    pmu.send(frame(number=1), encode_config(CONFIG), frame(number=2), host="127.0.0.1")
    rows = pmu.rows()
    assert device_names(rows) == ["G7"] * 3
    assert pmu.count("config_changes") == 0


def test_two_hosts_with_the_same_idcode_are_two_devices(bench: MakeBench) -> None:
    pmu = bench()
    for host, hz in (("127.0.0.1", 49.0), ("127.0.0.2", 51.0)):
        pmu.send(encode_config(CONFIG), frame(frequency_hz=hz), host=host)
    rows = pmu.rows()
    assert device_names(rows) == ["G7", "G7-7"]
    assert rows.columns["frequency_hz"].tolist() == [49.0, 51.0]


# -- frames that cannot be used ---------------------------------------------------------------------------------------


def test_bad_frames_are_counted_by_reason_and_the_flow_goes_on(bench: MakeBench) -> None:
    pmu = bench()
    good = frame()
    bad = {
        "truncated": good[:9],
        "bad_sync": b"\x00" + good[1:],
        "bad_version": good[:1] + b"\x09" + good[2:],
        "bad_size": good + b"\x00",
        "bad_crc": good[:-1] + bytes([good[-1] ^ 1]),
        "size_mismatch": encode_data(plain_data(plain_config(analogs=())), plain_config(analogs=())),
    }
    pmu.send(encode_config(CONFIG), good, *bad.values(), good)
    assert pmu.rows().rows == 2
    assert {reason: pmu.count(reason) for reason in bad} == dict.fromkeys(bad, 1)
    assert {(reason, payload) for reason, _, payload in pmu.maker.dead_letters} == set(bad.items())
    texts = {reason: text for reason, text, _ in pmu.maker.dead_letters}
    assert texts["size_mismatch"] == ("from 127.0.0.1: data frame of stream 7 has 42 bytes; its configuration says 46")


def test_a_flood_of_bad_frames_is_counted_in_full_but_kept_once_a_second(bench: MakeBench) -> None:
    clock = VirtualClock(0)
    pmu = bench(clock=clock)
    for second in range(2):
        clock.advance_to(second * 1_000_000_000)
        for _ in range(3):
            pmu.send(*[b"garbage"] * 100)
            pmu.poll()
    assert pmu.count("truncated") == 600
    assert len(pmu.maker.dead_letters) == 2


def test_bad_frames_alone_do_not_hold_a_poll_up(bench: MakeBench) -> None:
    pmu = bench(max_rows=10)
    pmu.send(*[b"garbage"] * 25)
    assert [pmu.source.poll() and None for _ in range(4)] == [[]] * 4
    assert pmu.count("frames") == 25


def test_headers_and_commands_are_counted(bench: MakeBench) -> None:
    header = FrameHeader(idcode=7, soc=0, fraction=9_448_978)
    pmu = bench()
    pmu.send(
        encode_header(HeaderFrame(header=header, text="bay 3")), encode_command(CommandFrame(header=header, command=2))
    )
    assert pmu.poll() == []
    assert pmu.context.counters.snapshot() == {"frames": 2, "header_frames": 1, "command_frames": 1}


def test_bad_configuration_is_a_dead_letter(bench: MakeBench) -> None:
    broken = bytearray(encode_config(CONFIG))
    broken[19] = 9  # NUM_PMU
    broken[-2:] = check_word(bytes(broken[:-2])).to_bytes(2, "big")
    pmu = bench()
    pmu.send(bytes(broken))
    assert pmu.poll() == []
    assert pmu.count("bad_config") == 1
    assert "configuration ends at byte" in pmu.maker.dead_letters[0][1]


# -- data before their configuration ----------------------------------------------------------------------------------


def test_data_before_their_configuration_are_kept_and_given_out_in_order(bench: MakeBench) -> None:
    pmu = bench()
    pmu.send(*(frame(number=number) for number in range(5)))
    assert pmu.poll() == []
    assert pmu.count("before_config") == 5
    # In one block: more data, the configuration, and data behind it.
    pmu.send(frame(number=5), encode_config(CONFIG), frame(number=6))
    rows = pmu.rows()
    assert rows.time_ns.tolist() == [1_700_000_000_000_000_000 + number * 20_000_000 for number in range(7)]
    assert pmu.count("unknown_idcode") == 0
    assert pmu.count("rows") == 7


class Keeper:
    """Holds descriptors as the supervisor does: whatever becomes of who gave them."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}

    def take(self, name: str) -> int | None:
        return os.dup(self.kept[name]) if name in self.kept else None

    def keep(self, name: str, descriptor: int) -> None:
        before = self.kept.get(name)
        self.kept[name] = os.dup(descriptor)
        if before is not None:
            os.close(before)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    made = Keeper()
    yield made
    for descriptor in made.kept.values():
        os.close(descriptor)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_devices_told_the_process_before_is_known_to_the_next(
    make_context: ContextMaker, keeper: Keeper, host: str
) -> None:
    settings = {"host": host, "port": free_udp_port()}
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as device:

        def opened() -> PmuUdpSource:
            context = dataclasses.replace(make_context("pmu"), sockets=keeper)
            source = NODE.open(msgspec.convert(settings, PmuUdpConfig), context)
            assert isinstance(source, PmuUdpSource)
            source.open()
            return source

        def send(*frames: bytes) -> None:
            for each in frames:
                device.sendto(each, (host, settings["port"]))

        first = opened()
        send(encode_config(CONFIG), frame())
        assert join_samples(first.poll()).rows == 1
        # Killed, and not closed: what comes meanwhile waits in the socket.
        send(frame(number=1))
        second = opened()
        send(frame(number=2))
        rows = join_samples(second.poll())
        assert (rows.devices, rows.rows) == (("G7",), 2)
        second.close()
        first.close()


def test_memory_that_was_cut_short_costs_only_the_wait_for_a_configuration(
    make_context: ContextMaker, keeper: Keeper
) -> None:
    kept = KeptConfigs("port", keeper)
    kept.put(7, CONFIG)
    assert list(KeptConfigs("port", keeper)) == [(7, CONFIG)]
    os.ftruncate(keeper.kept["port"], 20)
    assert list(KeptConfigs("port", keeper)) == []


def test_data_are_only_counted_when_the_flow_wants_so(bench: MakeBench) -> None:
    pmu = bench(before_config="count")
    pmu.send(frame(), frame(number=1), encode_config(CONFIG), frame(number=2))
    assert pmu.rows().rows == 1
    assert pmu.count("unknown_idcode") == 2
    assert pmu.count("before_config") == 0


def test_the_oldest_of_too_many_waiting_frames_is_lost_and_counted(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pmu_frames, "HELD_FRAMES", 3)
    pmu = bench()
    pmu.send(*(frame(number=number) for number in range(5)), encode_config(CONFIG))
    rows = pmu.rows()
    assert [tag // 20_000_000 % 50 for tag in rows.time_ns.tolist()] == [2, 3, 4]
    assert pmu.count("before_config") == 5
    assert pmu.count("unknown_idcode") == 2
    assert "stream 7, whose configuration is not known" in pmu.maker.dead_letters[0][1]


def test_frames_that_wait_take_bounded_memory(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pmu_frames, "HELD_BYTES", 100)
    pmu = bench()
    pmu.send(*(frame(number=number) for number in range(5)), encode_config(CONFIG))
    assert pmu.rows().rows == 2
    assert pmu.count("unknown_idcode") == 3


def test_frames_that_still_wait_at_the_end_are_counted(bench: MakeBench) -> None:
    pmu = bench()
    pmu.send(frame(), frame())
    pmu.poll()
    pmu.source.close()
    assert pmu.count("unknown_idcode") == 2


# -- configurations that change ---------------------------------------------------------------------------------------


def test_a_change_of_configuration_is_followed_and_told(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    longer = plain_config(analogs=(Analog(name="P"), Analog(name="Q")), change_count=2)
    pmu = bench()
    pmu.send(encode_config(CONFIG), frame(), encode_config(longer), frame(longer, 1), frame(CONFIG, 2))
    with caplog.at_level(logging.WARNING):
        rows = pmu.rows()
    assert device_names(rows) == ["G7", "G7"]
    assert math.isnan(rows.columns["q_raw"][0])
    assert rows.columns["q_raw"][1] == 1001.0
    assert pmu.count("config_changes") == 1
    assert pmu.count("size_mismatch") == 1
    assert "G7 changed its configuration: frame size 46 -> 50; 'G7': analogs ['P'] -> ['P', 'Q']" in caplog.text


def test_new_columns_begin_a_new_batch(bench: MakeBench) -> None:
    other = plain_config(8, analogs=(Analog(name="Q"),))
    pmu = bench()
    pmu.send(encode_config(CONFIG), frame(), encode_config(other), frame(other, 1))
    first, second = pmu.poll()
    assert "q_raw" not in first.columns
    assert list(second.columns) == [*first.columns, "q_raw"]
    assert second.devices[: len(first.devices)] == first.devices


def test_an_announced_change_is_counted_and_logged_once(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    pmu = bench()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            pmu.send(encode_config(CONFIG), frame(number=number, stat=0x0400))
            pmu.poll()
    assert pmu.count("config_announced") == 3
    assert caplog.text.count("G7 announces that its configuration will change") == 1


def test_what_does_not_fit_the_flow_file_is_told_once(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    pmu = bench(channels={"V1": "current_a"})
    with caplog.at_level(logging.WARNING):
        pmu.send(encode_config(CONFIG), encode_config(CONFIG), frame())
        pmu.poll()
    assert caplog.text.count("phasor 'V1' is a voltage; column 'current_a' states a current") == 1


def test_parts_of_a_configuration_are_joined(bench: MakeBench) -> None:
    config = plain_config(kind=FrameType.CFG3, station="a station whose name is longer than a CFG-2 can tell")
    pmu = bench(channels=CHANNELS)
    parts = encode_config_frames(config, 60)
    assert len(parts) > 2
    pmu.send(*parts, frame(config))
    rows = pmu.rows()
    assert rows.devices == ("a station whose name is longer than a CFG-2 can tell",)
    assert pmu.count("config_frames") == len(parts)


def test_the_text_of_a_header_is_logged_once(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    pmu = bench()
    header = encode_header(HeaderFrame(header=FrameHeader(idcode=7, soc=0), text="bay 3\x1b[31m"))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            pmu.send(header)
            pmu.poll()
    assert caplog.text.count("header of stream 7 from 127.0.0.1: bay 3 [31m") == 1


# -- multicast --------------------------------------------------------------------------------------------------------


def test_frames_of_a_multicast_group_become_rows(make_context: ContextMaker) -> None:
    context = make_context("pmu")
    source = PmuUdpSource(PmuUdpConfig(port=0, host="127.0.0.1", group="239.192.7.7"), context)
    source.open()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for each in (encode_config(CONFIG), frame()):
            device.sendto(each, ("239.192.7.7", source.port))
            device.sendto(each, ("127.0.0.1", source.port))  # not of the group
    descriptor = source.fileno()
    assert descriptor is not None
    assert select.select([descriptor], [], [], 5.0)[0]
    [rows] = source.poll()
    source.close()
    assert rows.rows == 1
    assert context.counters.snapshot() == {"frames": 2, "rows": 1, "config_frames": 1}


# -- configurations from a file ---------------------------------------------------------------------------------------

OTHER = plain_config(8)


@pytest.mark.parametrize(
    "content",
    [
        encode_config(CONFIG) + encode_config(OTHER),
        (encode_config(CONFIG).hex() + "\n" + encode_config(OTHER).hex() + "\n").encode(),
        json.dumps([encode_config(CONFIG).hex(), encode_config(OTHER).hex()]).encode(),
    ],
    ids=["bytes", "hexadecimal text", "JSON"],
)
def test_configurations_come_from_a_file(bench: MakeBench, make_context: ContextMaker, content: bytes) -> None:
    (make_context.folder / "config").write_bytes(content)
    pmu = bench(config_file="config")
    pmu.send(frame(), frame(OTHER), frame(number=1))
    rows = pmu.rows()
    assert device_names(rows) == ["G7", "G8", "G7"]
    assert pmu.count("before_config") == 0


def test_configuration_from_a_file_makes_each_host_a_device_of_its_own(
    bench: MakeBench, make_context: ContextMaker
) -> None:
    (make_context.folder / "config").write_bytes(encode_config(CONFIG))
    pmu = bench(config_file="config")
    pmu.send(frame(), host="127.0.0.1")
    pmu.send(frame(), host="127.0.0.2")
    assert device_names(pmu.rows()) == ["G7", "G7-7"]


def test_configuration_that_is_sent_wins_over_the_file(bench: MakeBench, make_context: ContextMaker) -> None:
    (make_context.folder / "config").write_bytes(encode_config(CONFIG))
    changed = plain_config(analogs=(Analog(name="Q"),), change_count=2)
    pmu = bench(config_file="config")
    pmu.send(frame(), encode_config(changed), frame(changed, 1))
    rows = pmu.rows()
    assert device_names(rows) == ["G7", "G7"]
    assert rows.columns["q_raw"][1] == 1000.0
    assert pmu.count("config_changes") == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"not a frame", "holds no C37.118 frames"),
        (b"[1, 2]", "holds no C37.118 frames"),
        (b"\xaa\x31garbage, and more of it", "frame 1 at byte 0 of 25: FRAMESIZE"),
        (encode_config(CONFIG) + frame(), "frame 2 at byte 114 of 160: a DATA frame is no configuration"),
        (encode_config(CONFIG)[:-3], "frame 1 at byte 0 of 111: FRAMESIZE is 114, the frame has 111 bytes"),
        (encode_config(CONFIG)[:-1] + b"\x00", "frame 1 at byte 0 of 114: CHK is"),
    ],
)
def test_file_without_configurations_is_fatal_and_named(
    bench: MakeBench, make_context: ContextMaker, content: bytes | None, text: str
) -> None:
    if content is not None:
        (make_context.folder / "pmu.cfg").write_bytes(content)
    with pytest.raises(FatalError) as caught:
        bench(config_file="pmu.cfg")
    assert str(make_context.folder / "pmu.cfg") in str(caught.value)
    assert text in str(caught.value)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_port_in_use_is_fatal(bench: MakeBench) -> None:
    first = bench()
    with pytest.raises(FatalError, match=rf"127\.0\.0\.1:{first.source.port}: the port is in use"):
        bench(port=first.source.port)


def test_a_batch_has_at_most_the_rows_asked_for(bench: MakeBench) -> None:
    pmu = bench(max_rows=10)
    pmu.send(encode_config(CONFIG), *(frame(number=number) for number in range(25)))
    batches = pmu.poll()
    assert sum(batch.rows for batch in batches) == 25
    assert max(batch.rows for batch in batches) <= 10


def pdc(pmus: int) -> ConfigFrame:
    """One stream that carries many PMUs; its data frames are larger than a slot."""
    blocks = tuple(
        PmuConfig(station=f"S{number}", idcode=100 + number, format=15, phasors=(Phasor(name="VA"),) * 3)
        for number in range(pmus)
    )
    return ConfigFrame(header=FrameHeader(idcode=99, soc=0), pmus=blocks)


@pytest.mark.parametrize("max_rows", [1, 7, 64, 8192])
def test_frames_of_many_pmus_come_whole_whatever_the_batch(bench: MakeBench, max_rows: int) -> None:
    config = pdc(30)
    pmu = bench(max_rows=max_rows)
    pmu.send(encode_config(config), *(frame(config, number) for number in range(10)))
    batches = pmu.poll()
    rows = join_samples(batches)
    assert device_names(rows) == [f"S{number}" for number in range(30)] * 10
    assert sorted(set(rows.time_ns.tolist())) == rows.time_ns[::30].tolist()
    assert pmu.count("frames") == 11
    assert pmu.count("rows") == 300
    # A frame's rows belong to one time: they stay in one batch.
    assert all(batch.rows % 30 == 0 for batch in batches)


def test_data_and_configurations_larger_than_a_slot_wait_and_come_out_too(bench: MakeBench) -> None:
    config = pdc(40)
    pmu = bench()
    pmu.send(frame(config), frame(config, 1))
    assert pmu.poll() == []
    pmu.send(encode_config(config), frame(config, 2))
    assert pmu.rows().rows == 120


def test_wide_streams_get_shorter_batches(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pmu_decoder, "MOST_CELLS", 70)
    pmu = bench()
    pmu.send(encode_config(CONFIG), *(frame(number=number) for number in range(25)))
    batches = pmu.poll()
    assert sum(batch.rows for batch in batches) == 25
    assert max(batch.rows for batch in batches) == 10


def test_more_streams_than_are_kept_are_refused(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c37118_table, "MOST_STREAMS", 1)
    pmu = bench()
    pmu.send(encode_config(CONFIG), encode_config(OTHER), frame())
    assert pmu.rows().rows == 1
    assert pmu.count("table_full") == 1


def test_every_frame_is_received_or_counted_as_dropped(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    pmu = bench(receive_buffer=4096.0)
    pmu.send(encode_config(CONFIG))
    pmu.poll()
    with caplog.at_level(logging.WARNING):
        pmu.send(*[frame()] * 500)
        pmu.poll()
    assert pmu.count("kernel_drops") > 0
    assert pmu.count("frames") + pmu.count("kernel_drops") == 501
    assert "the operating system dropped frames" in caplog.text


def test_a_burst_of_many_streams_is_few_batches(bench: MakeBench) -> None:
    configs = [plain_config(idcode) for idcode in range(1, 201)]
    pmu = bench()
    pmu.send(*(encode_config(config) for config in configs))
    pmu.poll()
    pmu.send(*(frame(config, number) for number in range(2) for config in configs))
    (batch,) = pmu.poll()
    assert batch.rows == 400
    assert set(device_names(batch)) == {f"G{idcode}" for idcode in range(1, 201)}


# -- the config -------------------------------------------------------------------------------------------------------


def refusal(**settings: Any) -> str:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"port": 4713} | settings, PmuUdpConfig)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"channels": {"V1": "my_voltage"}}, "column 'my_voltage' of channel 'V1' must end in its unit"),
        ({"channels": {"V1": "frequency_hz"}}, "is taken by the frame's own field"),
        (
            {"channels": {"R": "rocof_hz_per_s"}},
            "is what node kind 'rocof' computes from the frequency: no channel may",
        ),
        ({"channels": {"V1": "voltage_v", "V2": "voltage_v"}}, "column 'voltage_v' is given twice"),
        ({"channels": {"V1": "Voltage_v"}}, "matching regex"),
        ({"names": {"7": "a", "8": "a"}}, "device 'a' is given twice"),
        ({"names": {"seven": "a"}}, "matching regex"),
        ({"names": {"7": "a", "65535": "b"}}, "an IDCODE is a number from 1 to 65534; got '65535'"),
        ({"port": 65536}, "<= 65535"),
        ({"group": "10.0.0.1"}, "`group`: a multicast group is an IPv4 address"),
        ({"group": "239.1.1.1", "host": "::"}, "`group` needs an IPv4 address as `host`"),
        ({"before_config": "drop"}, "Invalid enum value 'drop'"),
    ],
)
def test_config_that_makes_no_sense_is_refused(settings: dict[str, Any], text: str) -> None:
    assert text in refusal(**settings)


def test_descriptor_tells_when_to_poll(bench: MakeBench) -> None:
    pmu = bench()
    descriptor = pmu.source.fileno()
    assert descriptor is not None
    assert select.select([descriptor], [], [], 0)[0] == []
    pmu.send(encode_config(CONFIG))
    assert select.select([descriptor], [], [], 5.0)[0] == [descriptor]


class ClockSetWrong(VirtualClock):
    """A clock whose wall time is not that of pacing."""

    def now_ns(self) -> int:
        return super().now_ns() - 3600 * 10**9


def test_frames_left_over_are_due_at_once_by_the_clock_that_never_jumps(bench: MakeBench) -> None:
    config = pdc(3)
    pmu = bench(clock=ClockSetWrong(7), max_rows=8)
    pmu.send(*(frame(config, number) for number in range(5)), encode_config(config))
    pmu.source.poll()
    assert pmu.source.next_poll_ns() == 7


def test_frames_received_but_not_decoded_at_the_end_are_counted(bench: MakeBench) -> None:
    config = pdc(3)
    pmu = bench(max_rows=8)
    pmu.send(*(frame(config, number) for number in range(5)), encode_config(config))
    (batch,) = pmu.source.poll()
    assert batch.rows == 6
    assert pmu.source.next_poll_ns() is not None
    pmu.source.close()
    assert pmu.count("undecoded") == 3
