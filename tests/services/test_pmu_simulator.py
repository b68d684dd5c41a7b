from __future__ import annotations

import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
from c37118_cases import plain_config, plain_data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeflex_connectors.c37118 import (
    Analog,
    CommandFrame,
    ConfigFrame,
    DataFrame,
    FrameHeader,
    Phasor,
    PmuConfig,
    PmuData,
    decode_config,
    decode_frame,
    encode_command,
    encode_data,
    time_ns,
)
from edgeflex_connectors.c37118_encode import encode_data_block
from edgeflex_connectors.pmu_client import PmuClientConfig, PmuClientSource
from edgeflex_connectors.pmu_server import Transport
from edgeflex_flow.messages import Samples, join_samples
from edgeflex_services.broker import free_udp_port
from edgeflex_services.pmu_outputs import CHANGE_CONFIGURATION
from edgeflex_services.pmu_recording import RECORDING, RESTORE_S, Measurements, Playback, Recording
from edgeflex_services.pmu_simulator import PmuSimulator, main
from edgeflex_services.udp_send import SEGMENTS, UdpSegmentSender

if TYPE_CHECKING:
    from conftest import ContextMaker

RATE = 60


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording.load()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        # As much as any user may ask for on a machine with Linux's default limit: some 500 small datagrams.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(10.0)
        yield opened


def received(listener: socket.socket) -> list[bytes]:
    """All datagrams that are there now."""
    listener.setblocking(False)
    datagrams = []
    try:
        while True:
            datagrams.append(listener.recv(65_536))
    except BlockingIOError:
        return datagrams


# -- the encoder of many frames ---------------------------------------------------------------------------------------


@given(
    st.integers(0, 65_534),
    st.integers(0, 0xFFFFFFFF * 10**9 - 1),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=9, max_size=9),
    st.integers(0, 0xFFFF),
    st.integers(0, 0x7F),
    st.sampled_from([1_000_000, 600, 16_777_215]),
)
@settings(max_examples=200)
def test_block_encoder_makes_the_bytes_that_the_codec_makes(
    idcode: int, tag_ns: int, numbers: list[float], stat: int, time_quality: int, time_base: int
) -> None:
    v, va, i, ia, frequency, rocof, a, b, c = numbers
    (found,) = encode_data_block(
        idcode=idcode,
        time_ns=[tag_ns],
        phasors=np.array([[[v, va], [i, ia]]]),
        frequency_hz=frequency,
        rocof_hz_per_s=rocof,
        analogs=np.array([[a, b, c]]),
        stat=stat,
        time_quality=time_quality,
        time_base=time_base,
    )
    counts = (tag_ns * time_base * 2 + 10**9) // (2 * 10**9)
    header = FrameHeader(idcode=idcode, soc=counts // time_base, fraction=counts % time_base, time_quality=time_quality)
    pmu = PmuConfig(station="S", idcode=1, format=15, phasors=(Phasor(name="V"),) * 2, analogs=(Analog(name="P"),) * 3)
    data = PmuData(
        stat=stat, phasors=((v, va), (i, ia)), frequency_hz=frequency, rocof_hz_per_s=rocof, analogs=(a, b, c)
    )
    expected = encode_data(
        DataFrame(header=header, pmus=(data,)), ConfigFrame(header=header, pmus=(pmu,), time_base=time_base)
    )
    assert found.tobytes() == expected


def test_block_encoder_seals_more_frames_than_one_chunk() -> None:
    count = 10_000
    config = plain_config()
    data = encode_data_block(
        idcode=7,
        time_ns=1_700_000_000 * 10**9 + np.arange(count) * 20_000_000,
        phasors=np.tile([[230.0, 0.5], [231.0, 0.5]], (count, 1, 1)),
        frequency_hz=50.0,
        rocof_hz_per_s=0.25,
        analogs=np.full((count, 1), 1000.0),
    )
    assert data.shape == (count, 46)
    for number in (0, 4095, 4096, count - 1):
        assert data[number].tobytes() == encode_data(plain_data(config, number), config)


# -- the sender of many datagrams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, SEGMENTS, SEGMENTS + 1, 200])
def test_segments_arrive_as_single_datagrams(listener: socket.socket, count: int) -> None:
    datagrams = np.arange(count * 46, dtype=np.uint64).astype(np.uint8).reshape(count, 46)
    sender = UdpSegmentSender("127.0.0.1", listener.getsockname()[1], 46)
    try:
        assert sender.send(datagrams) == count
    finally:
        sender.close()
    assert received(listener) == [row.tobytes() for row in datagrams]


def test_large_segments_are_sent_in_smaller_groups(listener: socket.socket) -> None:
    datagrams = np.arange(100, dtype=np.uint8).repeat(1400).reshape(100, 1400)
    sender = UdpSegmentSender("127.0.0.1", listener.getsockname()[1], 1400)
    try:
        sender.send(datagrams)
    finally:
        sender.close()
    assert received(listener) == [row.tobytes() for row in datagrams]


def test_datagrams_of_another_size_are_refused() -> None:
    sender = UdpSegmentSender("127.0.0.1", 9, 46)
    try:
        with pytest.raises(ValueError, match=r"shape \(3, 40\); expected \(n, 46\)"):
            sender.send(np.zeros((3, 40), dtype=np.uint8))
    finally:
        sender.close()


# -- the recording ----------------------------------------------------------------------------------------------------


def test_recording_is_in_volts_amperes_and_watts(recording: Recording) -> None:
    assert recording.generators[0] == "GENROU_1"
    assert (recording.frames_per_s, recording.nominal_hz, len(recording.generators)) == (60, 60.0, 10)
    first = Measurements(*(values[0] for values in recording.measured))
    # 1.0355 pu of 345 kV / sqrt 3, 4.305 pu of 100 MVA / (sqrt 3 · 345 kV), 436 MW.
    assert first.voltage_v[0] == pytest.approx(206_263, abs=1)
    assert first.current_a[0] == pytest.approx(720.5, abs=0.1)
    assert first.active_power_w[0] == pytest.approx(436.09e6, rel=1e-4)


def test_power_of_the_phasors_is_the_recorded_power(recording: Recording) -> None:
    with np.load(RECORDING) as data:
        assert recording.measured.active_power_w == pytest.approx(data["p"] * 100e6, rel=1e-5)


def play(recording: Recording, seconds: float, *, event_at_s: float, loop: bool) -> Measurements:
    frames = np.arange(round(seconds * RATE), dtype=np.int64)
    return Playback(recording, event_at_s=event_at_s, loop=loop).frames_at(frames)


def slopes(frequency_hz: NDArray[np.float64], seconds: float = 0.5) -> NDArray[np.float64]:
    """Magnitude of the change over a window, Hz/s, by the frame that ends it."""
    window = round(seconds * RATE)
    return np.abs(frequency_hz[window:] - frequency_hz[:-window]) / seconds


@pytest.mark.parametrize("event_at_s", [0.5, 3.0, 8.0])
def test_the_event_comes_when_it_is_wanted(recording: Recording, event_at_s: float) -> None:
    measured = play(recording, event_at_s + 3.0, event_at_s=event_at_s, loop=False)
    # A phasor's window of one cycle each way sees the event one frame early.
    quiet = round(event_at_s * RATE) - 1
    assert np.all(measured.frequency_hz[:quiet] == 60.0)
    assert np.all(np.abs(measured.frequency_hz[quiet + 60] - 60.0) > 0.005)


@pytest.mark.parametrize("loop", [False, True])
def test_only_the_event_is_an_event(recording: Recording, loop: bool) -> None:
    """Away from the response to the event, nothing that a detector could take for one."""
    cycle_s = 15.0 + RESTORE_S
    measured = play(recording, 3.5 * cycle_s, event_at_s=5.0, loop=loop)
    starts = [5.0 + cycle * (cycle_s - 1 / RATE) for cycle in range(4 if loop else 1)]
    frame = np.arange(len(measured.frequency_hz) - 30) + 30
    calm = np.ones(len(frame), dtype=bool)
    for start in starts:
        calm &= (frame < start * RATE - 1) | (frame > (start + 9.0) * RATE)
    steepest = slopes(measured.frequency_hz)[calm].max()
    assert steepest < 0.005
    assert slopes(measured.frequency_hz)[~calm].max() > 0.02


@pytest.mark.parametrize("loop", [False, True])
def test_frequency_is_the_slope_of_the_angle_throughout(recording: Recording, loop: bool) -> None:
    """No step of an angle anywhere: not where the recording ends, nor where it begins again."""
    measured = play(recording, 150.0, event_at_s=5.0, loop=loop)
    slope_hz = np.diff(measured.voltage_angle_rad, axis=0) * RATE / math.tau + 60.0
    mean_hz = (measured.frequency_hz[1:] + measured.frequency_hz[:-1]) / 2.0
    # Within the event the frequency turns between two frames; elsewhere the two are the same.
    assert np.abs(slope_hz - mean_hz).max() < 0.01
    assert np.median(np.abs(slope_hz - mean_hz)) < 1e-4


def test_repeats_are_alike(recording: Recording) -> None:
    playback = Playback(recording, event_at_s=5.0, loop=True)
    cycle = len(recording.measured.frequency_hz) + round(RESTORE_S * RATE) - 1
    frames = np.arange(0, cycle, 7, dtype=np.int64) + 200
    once, again = playback.frames_at(frames), playback.frames_at(frames + 2 * cycle)
    assert again.frequency_hz == pytest.approx(once.frequency_hz)
    assert again.active_power_w == pytest.approx(once.active_power_w)
    turned = again.voltage_angle_rad - once.voltage_angle_rad
    assert turned == pytest.approx(np.full_like(turned, turned[0, 0]))


def test_last_values_go_on_when_the_recording_ends(recording: Recording) -> None:
    measured = play(recording, 60.0, event_at_s=3.0, loop=False)
    assert np.all(measured.frequency_hz[-1] == recording.measured.frequency_hz[-1])
    assert np.all(measured.rocof_hz_per_s[-1] == 0.0)
    assert measured.active_power_w[-1] == pytest.approx(recording.measured.active_power_w[-1])


# -- the simulator ----------------------------------------------------------------------------------------------------


def test_simulator_sends_configurations_then_data_that_fit_them(listener: socket.socket) -> None:
    before_ns = time.time_ns()
    simulator = PmuSimulator("127.0.0.1", listener.getsockname()[1], event_at_s=0.1, speed=20.0)
    report = simulator.run(seconds=0.01)
    datagrams = received(listener)
    configs = {config.header.idcode: config for config in map(decode_config, datagrams[:10])}
    assert {idcode: config.pmus[0].station for idcode, config in configs.items()} == {
        number: f"GENROU_{number}" for number in range(1, 11)
    }
    data = [decode_frame(datagram, configs[int.from_bytes(datagram[4:6], "big")]) for datagram in datagrams[10:]]
    assert {len(datagram) for datagram in datagrams[10:]} == {46}
    assert (report.frames, report.configurations, report.send_errors) == (120, 10, 0)
    assert Counter(frame.header.idcode for frame in data) == dict.fromkeys(range(1, 11), 12)
    tags = [time_ns(frame.header.soc, frame.header.fraction, 1_000_000) for frame in data[::10]]
    # Whole frames of UTC, none left out: k/60 s, rounded to a microsecond.
    first = round(tags[0] * RATE / 1e9)
    assert [round(tag * RATE / 1e9) for tag in tags] == list(range(first, first + 12))
    assert all(abs(tag * RATE - round(tag * RATE / 1e9) * 10**9) <= 500 * RATE for tag in tags)
    assert 0 <= tags[0] - before_ns < 60_000_000_000


def test_simulated_values_are_those_of_the_recording(recording: Recording) -> None:
    simulator = PmuSimulator("127.0.0.1", 9, recording, event_at_s=0.5)
    config = decode_config(simulator.configurations()[3])
    data = simulator.encode(0, 120, 0)
    expected = play(recording, 2.0, event_at_s=0.5, loop=False)
    for frame in (0, 29, 31, 119):
        decoded = decode_frame(data[frame, 3].tobytes(), config)
        assert isinstance(decoded, DataFrame)
        pmu = decoded.pmus[0]
        assert pmu.frequency_hz == pytest.approx(expected.frequency_hz[frame, 3], rel=1e-6)
        assert pmu.rocof_hz_per_s == pytest.approx(expected.rocof_hz_per_s[frame, 3], rel=1e-6)
        assert pmu.phasors[0][0] == pytest.approx(expected.voltage_v[frame, 3], rel=1e-6)
        assert pmu.phasors[1][0] == pytest.approx(expected.current_a[frame, 3], rel=1e-6)
        assert pmu.analogs[0] == pytest.approx(expected.active_power_w[frame, 3], rel=1e-6)
        off_rad = math.remainder(pmu.phasors[0][1] - expected.voltage_angle_rad[frame, 3], math.tau)
        assert abs(off_rad) < 1e-6
        assert pmu.stat == 0


def frequencies(data: NDArray[np.uint8]) -> NDArray[np.float64]:
    return data[:, :, 32:36].copy().view(">f4")[:, :, 0].astype(np.float64)


def test_noise_has_its_size_and_repeats_with_its_seed() -> None:
    def made(seed: int, first: int, count: int) -> NDArray[np.float64]:
        simulator = PmuSimulator("127.0.0.1", 9, event_at_s=1000.0, frequency_noise_hz=0.001, seed=seed)
        return frequencies(simulator.encode(first, count, 0))

    noise_hz = made(1, 0, 600) - 60.0
    assert noise_hz.std() == pytest.approx(0.001, rel=0.05)
    assert np.array_equal(made(1, 0, 600), made(1, 0, 600))
    assert not np.array_equal(made(1, 0, 600), made(2, 0, 600))
    # Neighbouring samples are independent.
    assert abs(np.corrcoef(noise_hz[1:].ravel(), noise_hz[:-1].ravel())[0, 1]) < 0.05


def test_a_bad_link_loses_its_share_and_brings_the_rest_late(listener: socket.socket) -> None:
    rate = 60
    simulator = PmuSimulator("127.0.0.1", listener.getsockname()[1], loss=0.25, delay_s=0.3)
    assert simulator.recording.frames_per_s == rate
    simulator.run(seconds=1.0)
    datagrams = received(listener)
    configs = {config.header.idcode: config for config in map(decode_config, datagrams[:10])}
    data = [decode_frame(datagram, configs[int.from_bytes(datagram[4:6], "big")]) for datagram in datagrams[10:]]
    tags = {(frame.header.soc, frame.header.fraction) for frame in data}
    held_back = round(0.3 * rate)
    assert len(tags) == pytest.approx(rate - held_back, abs=3)
    assert len(data) == pytest.approx(0.75 * 10 * (rate - held_back), rel=0.15)


def test_configurations_are_repeated(listener: socket.socket) -> None:
    simulator = PmuSimulator("127.0.0.1", listener.getsockname()[1], config_period_s=0.1)
    report = simulator.run(seconds=0.35)
    assert report.configurations == 40
    kinds = Counter(datagram[1] for datagram in received(listener))
    assert kinds == {0x31: 40, 0x01: report.frames}


# -- peers that obey commands -----------------------------------------------------------------------------------------


class Peer:
    """A simulator that runs in a thread while the block does."""

    def __init__(self, transport: Transport, **settings_of: Any) -> None:
        self.simulator = PmuSimulator("127.0.0.1", 0, transport=transport, **settings_of)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.simulator.run, args=(self._stop,))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self.simulator.listening.wait(10.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Watch:
    """`pmu_client` on a stream of a simulator."""

    def __init__(self, make_context: ContextMaker, peer: Peer, **settings_of: Any) -> None:
        config = PmuClientConfig(host="127.0.0.1", listen="127.0.0.1", port=peer.simulator.port, **settings_of)
        self.context = make_context("pmu")
        self.source = PmuClientSource(config, self.context)
        self.batches: list[Samples] = []
        self.source.open()

    def until(self, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 20.0
        descriptor = self.source.fileno()
        assert descriptor is not None
        while not holds():
            assert time.monotonic() < deadline_s, self.context.counters.snapshot()
            select.select([descriptor], [], [], 0.02)
            self.batches += self.source.poll()

    def rows(self) -> int:
        return sum(batch.rows for batch in self.batches)


@pytest.mark.parametrize("transport", ["tcp", "udp", "tcp_udp"])
def test_a_stream_of_ten_that_is_turned_on_comes_alone(make_context: ContextMaker, transport: Transport) -> None:
    port = free_udp_port() if transport == "tcp_udp" else 0
    with Peer(transport, data_port=port) as peer:
        watch = Watch(make_context, peer, transport=transport, data_port=port, idcode=3)
        watch.until(lambda: watch.rows() > 20)
        watch.source.close()
    assert {name for batch in watch.batches for name in batch.devices} == {"GENROU_3"}
    tags = [tag for batch in watch.batches for tag in batch.time_ns.tolist()]
    assert tags == sorted(set(tags))


def test_a_pdc_sends_all_in_one_stream(make_context: ContextMaker) -> None:
    with Peer("tcp", pdc=99) as peer:
        watch = Watch(make_context, peer, idcode=99)
        watch.until(lambda: watch.rows() > 50)
        watch.source.close()
    assert watch.batches[0].devices == tuple(f"GENROU_{number}" for number in range(1, 11))


def test_a_change_that_is_commanded_is_announced_and_then_made(make_context: ContextMaker) -> None:
    with Peer("tcp", pdc=99, announce_s=0.2) as peer:
        watch = Watch(make_context, peer, idcode=99, channels={"P": "active_power_w", "Q": "reactive_power_var"})
        watch.until(lambda: watch.rows() > 50)
        with socket.create_connection(("127.0.0.1", peer.simulator.port)) as engineer:
            header = FrameHeader(idcode=99, soc=0)
            engineer.sendall(encode_command(CommandFrame(header=header, command=CHANGE_CONFIGURATION)))
            watch.until(lambda: watch.context.counters.get("config_changes") == 1)
            before = watch.rows()
            watch.until(lambda: watch.rows() > before + 50)
        watch.source.close()
    rows = join_samples(watch.batches)
    assert watch.context.counters.get("config_announced") > 0
    # Two times q = 3 V I sin: no row was read by the wrong configuration.
    lag_rad = rows.columns["v1_angle_rad"] - rows.columns["i1_angle_rad"]
    apparent_va = 3.0 * rows.columns["v1_v"] * rows.columns["i1_a"]
    assert rows.columns["active_power_w"] == pytest.approx(apparent_va * np.cos(lag_rad), rel=1e-3, abs=1e4)
    reactive_var = rows.columns["reactive_power_var"]
    changed = np.isfinite(reactive_var)
    assert changed[-1]
    assert not changed[0]
    assert reactive_var[changed] == pytest.approx((apparent_va * np.sin(lag_rad))[changed], rel=1e-3, abs=1e4)
    # Held while the configuration was asked for, and lost not one.
    frames = np.unique(np.rint(rows.time_ns * (RATE / 1e9)))
    assert len(frames) == frames[-1] - frames[0] + 1


def test_stop_ends_the_run_at_once(listener: socket.socket) -> None:
    stop = threading.Event()
    stop.set()
    report = PmuSimulator("127.0.0.1", listener.getsockname()[1]).run(stop)
    assert report.frames == 0


def test_simulator_sleeps_between_frames(listener: socket.socket) -> None:
    before = time.process_time()
    PmuSimulator("127.0.0.1", listener.getsockname()[1]).run(seconds=1.0)
    # A loop that waits by spinning uses all of the second.
    assert time.process_time() - before < 0.5


@pytest.mark.parametrize(
    "settings_of", [{"speed": 0.0}, {"config_period_s": -1.0}, {"frequency_noise_hz": -1.0}, {"event_at_s": -1.0}]
)
def test_settings_that_make_no_sense_are_refused(settings_of: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        PmuSimulator("127.0.0.1", 9, **settings_of)  # type: ignore[arg-type]


def test_program_refuses_what_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--speed", "0"])
    assert caught.value.code == 2
    assert "speed and config_period_s must be positive" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "abc"], "a port is a number from 1 to 65535; got 'abc'"),
        (["--port", "65536"], "a port is a number from 1 to 65535; got '65536'"),
        (["--seconds", "-1"], "a positive number of seconds; got '-1'"),
        (["--seconds", "nan"], "a positive number of seconds; got 'nan'"),
        (["--seconds", "soon"], "a positive number of seconds; got 'soon'"),
        (["--pdc", "0"], "an IDCODE is a number from 1 to 65534; got '0'"),
        (["--transport", "tcp", "--host", "192.0.2.1"], "TCP 192.0.2.1:4713: cannot assign requested address"),
        (["--host", "no such host"], "host 'no such host': "),
    ],
)
def test_a_wrong_argument_is_told_in_words(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_the_usage_names_the_command_that_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"], prog="edgeflex serve pmu")
    assert capsys.readouterr().out.startswith("usage: edgeflex serve pmu [")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_program_ends_with_exit_code_0_on_a_signal(listener: socket.socket, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "edgeflex_services.pmu_simulator", "--port", str(listener.getsockname()[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=Path(__file__).parent)
    try:
        assert listener.recv(1000)[:2] == b"\xaa\x31"
        process.send_signal(number)
        output, _ = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert b"data frames and 10 configurations" in output
