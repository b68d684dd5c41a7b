from __future__ import annotations

import logging
import math
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from c37118_cases import single
from hypothesis import given
from hypothesis import strategies as st
from tshark import assert_sound, dissect

from edgeflex_connectors.c37118 import (
    Command,
    CommandFrame,
    ConfigFrame,
    DataFrame,
    FrameHeader,
    FrameType,
    HeaderFrame,
    decode_frame,
    encode_command,
    row_quality,
)
from edgeflex_connectors.c37118_cutter import FrameCutter
from edgeflex_connectors.c37118_encode import stat_words
from edgeflex_connectors.pmu_client import PmuClientConfig, PmuClientSource
from edgeflex_connectors.pmu_send import NODE, PmuSend, PmuSendConfig
from edgeflex_connectors.pmu_udp import PmuUdpConfig, PmuUdpSource
from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import Quality, Samples, join_samples

if TYPE_CHECKING:
    from conftest import ContextMaker

START_NS = 1_700_000_000_000_000_000
PHASORS = {"V1": "voltage_kv", "I1": "current_a"}
ANALOGS = {"P": "active_power_w"}
CHANNELS = PHASORS | ANALOGS
DEVICES = {"G1": 1, "G2": 20, "G3": 3}
COLUMNS = ("frequency_hz", "dfreq_hz_per_s", "voltage_kv", "voltage_angle_rad", "current_a", "current_angle_rad")
CARRIED = Quality.BAD_DATA | Quality.SYNC_LOST | Quality.TIME_UNCERTAIN | Quality.ESTIMATED | Quality.TEST
PATIENCE_S = 20.0


def samples(frames: int, devices: tuple[str, ...] = tuple(DEVICES), first: int = 0, seed: int = 1) -> Samples:
    """Rows of all devices, frame by frame, with every flag that STAT carries and values absent here and there."""
    random = np.random.default_rng(seed)
    rows = frames * len(devices)

    def values(low: float, high: float) -> Any:
        drawn = random.uniform(low, high, rows).astype(np.float32).astype(np.float64)
        return np.where(random.random(rows) < 0.05, np.nan, drawn)

    columns = {
        "frequency_hz": random.uniform(49.0, 51.0, rows).astype(np.float32).astype(np.float64),
        "dfreq_hz_per_s": values(-1.0, 1.0),
        "voltage_kv": values(100.0, 200.0),
        "voltage_angle_rad": random.uniform(-3.0, 3.0, rows).astype(np.float32).astype(np.float64),
        "current_a": values(0.0, 1e4),
        "current_angle_rad": random.uniform(-3.0, 3.0, rows).astype(np.float32).astype(np.float64),
        "active_power_w": values(-1e8, 1e8),
        "digital1_bits": random.integers(0, 0x10000, rows).astype(np.float64),
    }
    flags = random.integers(0, 64, rows) & int(CARRIED)
    flags = np.where((flags & 1) != 0, flags & ~int(Quality.TEST), flags)
    return Samples(
        time_ns=START_NS + np.repeat(np.arange(first, first + frames, dtype=np.int64) * 20_000_000, len(devices)),
        device=np.tile(np.arange(len(devices), dtype=np.int32), frames),
        devices=devices,
        columns=columns,
        quality=flags.astype(np.uint16),
        received_ns=0,
    )


class Bench:
    """A sink under test."""

    def __init__(self, make_context: ContextMaker, **settings: Any) -> None:
        self.maker = make_context
        self.context = make_context("send")
        defaults: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": 0,
            "idcode": 9,
            "devices": DEVICES,
            "phasors": PHASORS,
            "analogs": ANALOGS,
            "digitals": ["digital1_bits"],
        }
        sink = NODE.open(msgspec.convert(defaults | settings, PmuSendConfig), self.context)
        assert isinstance(sink, PmuSend)
        self.sink = sink
        self.sink.open()

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
        each.sink.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(10.0)
        yield opened


MakeBench = Callable[..., Bench]


def received(listener: socket.socket) -> list[bytes]:
    listener.setblocking(False)
    datagrams = []
    try:
        while True:
            datagrams.append(listener.recv(65_536))
    except BlockingIOError:
        return datagrams


def assert_same(found: Samples, sent: Samples) -> None:
    """Times, devices, quality and values are those that were sent; kV have been V on their way."""
    assert [found.devices[code] for code in found.device] == [sent.devices[code] for code in sent.device]
    assert found.time_ns.tolist() == sent.time_ns.tolist()
    assert found.quality.tolist() == sent.quality.tolist()
    for column in sent.columns:
        # A phasor is absent as a whole.
        absent = np.isnan(sent.columns[column])
        if column.endswith("_angle_rad"):
            absent = absent | np.isnan(sent.columns[column.replace("_angle_rad", "_kv" if "volt" in column else "_a")])
        expected = np.where(absent, np.nan, sent.columns[column])
        np.testing.assert_allclose(found.columns[column], expected, rtol=1e-7, atol=0, err_msg=column)


# -- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cfg2", "cfg3"])
def test_what_pmu_udp_reads_is_what_was_sent(bench: MakeBench, make_context: ContextMaker, kind: str) -> None:
    context = make_context("pmu")
    source = PmuUdpSource(PmuUdpConfig(port=0, host="127.0.0.1", channels=CHANNELS), context)
    source.open()
    send = bench(port=source.port, config_kind=kind)
    sent = samples(50)
    send.sink.write([sent.take(np.arange(60)), sent.take(np.arange(60, 150))])
    found = join_samples(list(source.poll()))
    source.close()
    assert_same(found, sent)
    assert send.context.counters.snapshot() == {"config_frames": 1, "frames": 50, "rows": 150}


def test_what_pmu_client_reads_is_what_was_sent(bench: MakeBench, make_context: ContextMaker) -> None:
    send = bench(transport="tcp", header="grid of the north")
    context = make_context("pmu")
    config = PmuClientConfig(host="127.0.0.1", port=send.sink.port, idcode=9, channels=CHANNELS)
    source = PmuClientSource(config, context)
    source.open()
    sent = samples(200)
    found: list[Samples] = []
    written = False
    deadline_s = time.monotonic() + PATIENCE_S
    while sum(batch.rows for batch in found) < sent.rows:
        assert time.monotonic() < deadline_s, context.counters.snapshot()
        if not written and send.count("commands") >= 4:
            send.sink.write([sent])
            written = True
        descriptor = source.fileno()
        assert descriptor is not None
        select.select([descriptor], [], [], 0.01)
        found += source.poll()
    source.close()
    assert_same(join_samples(found), sent)
    assert send.sink.flush(5.0)


@given(st.integers(0, 0x1FF))
def test_flags_that_stat_can_hold_come_back(flags: int) -> None:
    [stat] = stat_words(np.array([flags], dtype=np.uint16)).tolist()
    back = row_quality(stat, FrameHeader(idcode=1, soc=0), 1_000_000, 50.0)
    expected = Quality(flags) & CARRIED
    if flags & Quality.REPLAYED:
        expected |= Quality.TEST
    if flags & Quality.CLIPPED:
        expected |= Quality.ESTIMATED
    if flags & Quality.BAD_DATA:
        expected &= ~Quality.TEST
    assert back == expected


@pytest.mark.needs("tshark")
def test_every_frame_means_the_same_to_tshark(bench: MakeBench, listener: socket.socket, tmp_path: Path) -> None:
    send = bench(port=listener.getsockname()[1], config_kind="cfg3")
    sent = samples(40)
    send.sink.write([sent])
    frames = received(listener)
    packets = dissect([(5000, frame) for frame in frames], tmp_path)
    assert_sound(packets)
    assert packets[0].number("frtype") == FrameType.CFG3
    assert packets[0].numbers("idcode_data_source") == [1, 20, 3]
    for number, packet in enumerate(packets[1:]):
        rows = np.arange(3 * number, 3 * number + 3)
        assert packet.number("idcode_stream_source") == 9
        assert packet.numbers("actual_frequency_value") == pytest.approx(
            sent.columns["frequency_hz"][rows].tolist(), rel=1e-5
        )
        flags = sent.quality[rows]
        assert packet.numbers("data.sync") == [bool(flag & Quality.SYNC_LOST) for flag in flags]
        assert packet.numbers("data.data_modified") == [bool(flag & Quality.ESTIMATED) for flag in flags]
        assert packet.numbers("data.pmu_tq") == [7 * bool(flag & Quality.TIME_UNCERTAIN) for flag in flags]
        expected = [3 if flag & Quality.BAD_DATA else 2 if flag & Quality.TEST else 0 for flag in flags]
        assert packet.numbers("data.status") == expected
        assert packet.numbers("digital_status_word") == sent.columns["digital1_bits"][rows].tolist()


# -- times and devices ------------------------------------------------------------------------------------------------


def decoded(frames: list[bytes]) -> list[DataFrame]:
    config = decode_frame(frames[0])
    assert isinstance(config, ConfigFrame)
    data = [decode_frame(frame, config) for frame in frames[1:]]
    assert all(isinstance(each, DataFrame) for each in data)
    return [each for each in data if isinstance(each, DataFrame)]


def test_a_device_without_a_row_goes_out_as_absent(bench: MakeBench, listener: socket.socket) -> None:
    send = bench(port=listener.getsockname()[1])
    send.sink.write([samples(2, devices=("G3", "G1"))])
    data = decoded(received(listener))
    assert [math.isnan(pmu.frequency_hz) for pmu in data[0].pmus] == [False, True, False]
    assert data[0].pmus[1].stat == 0x4000
    assert row_quality(0x4000, data[0].header, 1_000_000, math.nan) == Quality.BAD_DATA
    assert send.count("incomplete_frames") == 2


def test_rows_in_any_order_become_frames_in_the_order_of_time(bench: MakeBench, listener: socket.socket) -> None:
    send = bench(port=listener.getsockname()[1])
    sent = samples(10)
    send.sink.write([sent.take(np.random.default_rng(3).permutation(sent.rows))])
    data = decoded(received(listener))
    assert [frame.header.fraction for frame in data] == [20_000 * number for number in range(10)]
    found = [pmu.frequency_hz for frame in data for pmu in frame.pmus]
    assert found == [single(value) for value in sent.columns["frequency_hz"].tolist()]


def test_a_time_is_sent_once(bench: MakeBench, listener: socket.socket) -> None:
    send = bench(port=listener.getsockname()[1])
    sent = samples(3)
    send.sink.write([sent.take(np.array([0, 1, 2, 0, 3, 4])), sent.take(np.array([5, 6, 7, 8]))])
    assert [frame.header.fraction for frame in decoded(received(listener))] == [0, 20_000, 40_000]
    assert (send.count("duplicate_rows"), send.count("late_rows"), send.count("rows")) == (1, 1, 8)


def test_a_clock_that_is_set_back_begins_the_stream_anew(
    bench: MakeBench, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    send = bench(port=listener.getsockname()[1])
    with caplog.at_level(logging.WARNING):
        send.sink.write([samples(2, first=50 * 60), samples(2)])
    assert len(decoded(received(listener))) == 4
    assert send.count("set_back") == 1
    assert "begun anew" in caplog.text


def test_rows_of_devices_that_are_not_declared_are_told(bench: MakeBench, listener: socket.socket) -> None:
    send = bench(port=listener.getsockname()[1])
    send.sink.write([samples(4, devices=("G1", "elsewhere")), samples(4, devices=("G1", "elsewhere"), first=4)])
    assert send.count("unknown_device") == 8
    assert [text for _, text, _ in send.maker.dead_letters] == ["`devices` does not name 'elsewhere'"]
    assert len(decoded(received(listener))) == 8


def test_a_batch_without_the_angle_of_a_phasor_is_told(bench: MakeBench, listener: socket.socket) -> None:
    send = bench(port=listener.getsockname()[1])
    sent = samples(1)
    columns = {name: values for name, values in sent.columns.items() if name != "voltage_angle_rad"}
    send.sink.write([sent.with_columns(columns), sent])
    assert len(decoded(received(listener))) == 1
    assert "samples lack column voltage_angle_rad" in send.maker.dead_letters[0][1]


def test_values_that_no_frame_can_hold_are_absent(bench: MakeBench, listener: socket.socket) -> None:
    send = bench(port=listener.getsockname()[1], digitals=["digital1_bits"])
    sent = samples(1)
    columns = dict(sent.columns) | {
        "active_power_w": np.array([1e300, -1e300, 1.0]),
        "digital1_bits": np.array([-1.0, 1e9, np.nan]),
    }
    send.sink.write([sent.with_columns(columns)])
    [frame] = decoded(received(listener))
    assert [math.isnan(pmu.analogs[0]) for pmu in frame.pmus] == [True, True, False]
    assert [pmu.digitals[0] for pmu in frame.pmus] == [0, 0, 0]


def test_the_configuration_is_repeated(bench: MakeBench, listener: socket.socket) -> None:
    send = bench(port=listener.getsockname()[1], config_every=0.1)
    for number in range(3):
        send.sink.write([samples(1, first=number)])
        time.sleep(0.11)
    kinds = [frame[1] for frame in received(listener)]
    assert kinds == [0x31, 0x01] * 3


def test_frames_go_to_a_multicast_group(bench: MakeBench, make_context: ContextMaker) -> None:
    source = PmuUdpSource(PmuUdpConfig(port=0, host="127.0.0.1", group="239.192.7.9"), make_context("pmu"))
    source.open()
    send = bench(host="239.192.7.9", port=source.port, interface="127.0.0.1")
    send.sink.write([samples(2)])
    assert sum(batch.rows for batch in source.poll()) == 6
    source.close()


def test_a_network_that_is_away_costs_datagrams_and_no_flow(bench: MakeBench) -> None:
    send = bench(host="255.255.255.255", port=9, interface=None)
    send.sink._address = ("240.0.0.1", 9)  # no route leads there
    send.sink.write([samples(2)])
    assert send.count("send_errors") + send.count("frames") + send.count("config_frames") == 3


# -- clients over TCP -------------------------------------------------------------------------------------------------


class Client:
    """A client that sends commands and keeps all frames that come."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(10.0)
        self.cutter = FrameCutter()
        self.frames: list[bytes] = []

    def say(self, *commands: int, idcode: int = 9) -> None:
        header = FrameHeader(idcode=idcode, soc=0)
        for command in commands:
            self.socket.sendall(encode_command(CommandFrame(header=header, command=command)))

    def until(self, count: int) -> list[bytes]:
        while len(self.frames) < count:
            self.frames += self.cutter.add(self.socket.recv(65_536))
        return self.frames

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def wait_for(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def is_over(connection: socket.socket) -> bool:
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def test_several_clients_each_get_what_they_asked_for(bench: MakeBench) -> None:
    send = bench(transport="tcp", header="for people")
    with Client(send.sink.port) as one, Client(send.sink.port) as two, Client(send.sink.port) as three:
        one.say(Command.SEND_CFG1, Command.SEND_CFG2, Command.SEND_CFG3, Command.SEND_HEADER, Command.DATA_ON)
        two.say(Command.SEND_CFG2, Command.DATA_ON, Command.DATA_OFF, 0x0100)
        three.say(Command.DATA_ON, idcode=8)
        wait_for(lambda: send.count("commands") == 9 and send.count("unknown_idcode") == 1)
        send.sink.write([samples(3)])
        kinds = [frame[1] for frame in one.until(7)]
        assert kinds == [0x21, 0x31, 0x52, 0x11, 0x01, 0x01, 0x01]
        header = decode_frame(one.frames[3])
        assert isinstance(header, HeaderFrame)
        assert header.text == "for people"
        assert [frame[1] for frame in two.until(1)] == [0x31]
        assert send.sink.flush(5.0)
    assert send.count("clients") == 3


def test_a_client_that_does_not_read_loses_the_oldest_frames_and_holds_nobody_up(bench: MakeBench) -> None:
    send = bench(transport="tcp", queue=50)
    with Client(send.sink.port) as stuck, Client(send.sink.port) as reader:
        stuck.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for client in (stuck, reader):
            client.say(Command.DATA_ON)
        wait_for(lambda: send.count("commands") == 2)
        reader.socket.setblocking(False)
        for number in range(400):
            send.sink.write([samples(40, first=40 * number, seed=number)])
            deadline_s = time.monotonic() + PATIENCE_S
            while len(reader.frames) < 40 * (number + 1) and time.monotonic() < deadline_s:
                select.select([reader.socket], [], [], 0.1)
                try:
                    reader.frames += reader.cutter.add(reader.socket.recv(1 << 20))
                except BlockingIOError:
                    continue
        assert len(reader.frames) == 16_000
        assert send.count("overflow") > 0
    wait_for(lambda: send.count("lost") == 50)


def test_garbage_from_a_client_costs_its_connection_alone(bench: MakeBench) -> None:
    send = bench(transport="tcp")
    with Client(send.sink.port) as bad, Client(send.sink.port) as good:
        bad.socket.sendall(b"\xaa\x41\x00\x12" * 5000)
        good.say(Command.DATA_ON)
        wait_for(lambda: send.count("commands") == 1)
        assert is_over(bad.socket)
        send.sink.write([samples(1)])
        assert good.until(1)[0][1] == 0x01


def test_a_port_in_use_is_fatal(bench: MakeBench) -> None:
    first = bench(transport="tcp")
    with pytest.raises(FatalError, match=r"TCP 127\.0\.0\.1:\d+: address already in use"):
        bench(transport="tcp", port=first.sink.port)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"nominal": 16.7}, "`nominal` is 50 Hz or 60 Hz; got 16.7 Hz"),
        ({"phasors": {"V1": "active_power_w"}}, "must end in a unit of voltage or current"),
        ({"digitals": ["state_raw"]}, "column 'state_raw' of a digital word must end in `_bits`"),
        ({"devices": {"a name of more than 16 bytes": 1}}, "a name has at most 16 bytes in a frame"),
        ({"devices": {"G1": 1, "G2": 1}}, "IDCODE 1 is given twice"),
        ({"devices": {}}, "length >= 1"),
        ({"devices": {"G1": 0}}, ">= 1"),
    ],
)
def test_config_that_makes_no_sense_is_refused(settings: dict[str, Any], text: str) -> None:
    base: dict[str, Any] = {"host": "10.0.0.9", "port": 4713, "idcode": 9, "devices": {"G1": 1}}
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(base | settings, PmuSendConfig)
    assert text in str(caught.value)
