"""Captures of C37.118 streams become recordings."""

from __future__ import annotations

import math
import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import captures
import numpy as np
import pytest
from c37118_cases import plain_config, plain_data, random_config, random_data, vector_bytes, vectors
from captures import ETHERNET, LINUX_COOKED, LINUX_COOKED_2, RAW, ip, link, pcap, pcapng, tcp, udp
from recorded import read_or_refusal

from edgeflex_connectors.c37118 import (
    Command,
    CommandFrame,
    ConfigFrame,
    DataFrame,
    FrameHeader,
    FrameType,
    Phasor,
    decode_frame,
    encode_command,
    encode_config,
    encode_data,
)
from edgeflex_connectors.recording_table import Recording, RecordingError
from edgeflex_connectors.recordings import read_recording
from edgeflex_flow.messages import Quality

CONFIG = plain_config()
DATA = [encode_data(plain_data(CONFIG, number), CONFIG) for number in range(100)]
FRAMES = [encode_config(CONFIG), *DATA]


def over_udp(frames: Sequence[bytes], source: str = "10.0.0.1") -> list[bytes]:
    return [link(ip(captures.UDP, udp(frame), source=source), ETHERNET) for frame in frames]


def over_tcp(stream: bytes, cuts: Sequence[int], first: int = 7) -> list[bytes]:
    """A byte stream in segments that begin at these places."""
    ends = [*cuts[1:], len(stream)]
    return [
        link(ip(captures.TCP, tcp(stream[begin:end], first + begin)), ETHERNET)
        for begin, end in zip(cuts, ends, strict=True)
    ]


def read(tmp_path: Path, content: bytes, name: str = "a.pcap", channels: dict[str, str] | None = None) -> Recording:
    file = tmp_path / name
    file.write_bytes(content)
    return read_recording(file, channels=channels)


def assert_whole(recording: Recording, rows: int = 100) -> None:
    samples = recording.samples
    assert list(samples.problems()) == []
    assert samples.rows == rows
    assert samples.columns["frequency_hz"].tolist() == [50.0] * rows
    assert samples.columns["voltage_v"].tolist() == [230.0] * rows
    assert samples.columns["current_a"].tolist() == [231.0] * rows
    assert samples.columns["voltage_angle_rad"].tolist() == [0.5] * rows
    assert samples.columns["current_angle_rad"].tolist() == [0.5] * rows
    assert np.all(np.diff(samples.time_ns) == 20_000_000)


@pytest.mark.parametrize("link_type", [ETHERNET, RAW, LINUX_COOKED, LINUX_COOKED_2])
@pytest.mark.parametrize("source", ["10.0.0.1", "fd00::1"])
@pytest.mark.parametrize("vlans", [(), (7,), (7, 8)])
def test_frames_over_udp_become_rows(tmp_path: Path, link_type: int, source: str, vlans: tuple[int, ...]) -> None:
    if link_type == RAW and vlans:
        return
    target = "fd00::9" if ":" in source else "10.0.0.9"
    packets = [link(ip(captures.UDP, udp(frame), source=source, target=target), link_type, vlans) for frame in FRAMES]
    recording = read(tmp_path, pcap(packets, link_type))
    assert_whole(recording)
    assert recording.warnings == ()
    assert recording.samples.devices == ("G7",)
    assert set(recording.samples.quality.tolist()) == {int(Quality.REPLAYED)}


@pytest.mark.parametrize(
    "content",
    [
        pcap(over_udp(FRAMES), order=">"),
        pcap(over_udp(FRAMES), nanoseconds=True),
        pcapng(over_udp(FRAMES)),
        pcapng(over_udp(FRAMES), order=">"),
        pcapng(over_udp(FRAMES), simple=True),
        pcapng(over_udp(FRAMES[:50])) + pcapng(over_udp(FRAMES[50:]), order=">"),
    ],
    ids=["big-endian", "nanoseconds", "pcapng", "pcapng big-endian", "pcapng simple", "pcapng of two sections"],
)
def test_all_forms_of_capture_files_are_read(tmp_path: Path, content: bytes) -> None:
    assert_whole(read(tmp_path, content))


def test_frames_over_tcp_become_rows_however_they_are_cut(tmp_path: Path) -> None:
    stream = b"".join(FRAMES)
    randomly = random.Random(3)
    for _ in range(20):
        cuts = [0, *sorted(randomly.sample(range(1, len(stream)), 60))]
        recording = read(tmp_path, pcap(over_tcp(stream, cuts, first=2**32 - 500)))
        assert_whole(recording)
        assert recording.warnings == ()


def test_segments_of_tcp_may_come_twice_and_in_any_order(tmp_path: Path) -> None:
    stream = b"".join(FRAMES)
    packets = over_tcp(stream, list(range(0, len(stream), 100)))
    shuffled = packets[:1] + [packet for pair in zip(packets[2::2], packets[1::2], strict=False) for packet in pair]
    rest = [packet for packet in packets if packet not in shuffled]
    assert_whole(read(tmp_path, pcap([*shuffled, *rest, *packets[:9]])))


def test_gap_in_tcp_costs_the_frames_it_touches_and_is_told(tmp_path: Path) -> None:
    stream = b"".join(FRAMES)
    packets = over_tcp(stream, list(range(0, len(stream), 100)))
    recording = read(tmp_path, pcap(packets[:20] + packets[21:]))
    assert 94 <= recording.samples.rows < 100
    assert any("gaps in TCP" in warning for warning in recording.warnings)


def test_capture_that_begins_within_a_frame_is_read_from_the_next_on(tmp_path: Path) -> None:
    stream = b"".join([*DATA[:5], *FRAMES])
    recording = read(tmp_path, pcap(over_tcp(stream[20:], [0])))
    assert_whole(recording)


def test_new_connection_on_the_same_ports_starts_anew(tmp_path: Path) -> None:
    syn = link(ip(captures.TCP, tcp(b"", 1_000_000, starts=True)), ETHERNET)
    first, second = b"".join(FRAMES[:60]), b"".join(FRAMES[60:])
    packets = [*over_tcp(first, [0, 300]), syn, *over_tcp(second, [0, 301], first=1_000_001)]
    assert_whole(read(tmp_path, pcap(packets)))


def test_tcp_connection_of_something_else_is_given_up(tmp_path: Path) -> None:
    junk = bytes([0xAA, 0x01, 0x10, 0x00]) * 50_000
    packets = [
        link(ip(captures.TCP, tcp(junk[i : i + 1000], i, source_port=80)), ETHERNET) for i in range(0, len(junk), 1000)
    ]
    assert_whole(read(tmp_path, pcap([*packets, *over_udp(FRAMES)])))


@pytest.mark.parametrize("hosts", [("10.0.0.1", "10.0.0.9"), ("fd00::1", "fd00::9")])
@pytest.mark.parametrize("backwards", [False, True])
def test_fragments_of_large_datagrams_are_put_together(tmp_path: Path, hosts: tuple[str, str], backwards: bool) -> None:
    packets: list[bytes] = []
    for number, frame in enumerate(FRAMES):
        whole = udp(frame)
        parts = [
            link(
                ip(
                    captures.UDP,
                    whole[at : at + 16],
                    source=hosts[0],
                    target=hosts[1],
                    identity=number,
                    offset=at,
                    more=at + 16 < len(whole),
                ),
                ETHERNET,
            )
            for at in range(0, len(whole), 16)
        ]
        packets += reversed(parts) if backwards else parts
    assert_whole(read(tmp_path, pcap(packets)))


def test_data_before_their_configuration_are_decoded_by_it(tmp_path: Path) -> None:
    assert_whole(read(tmp_path, pcap(over_udp([*DATA, encode_config(CONFIG)]))))


def test_cfg_1_does_not_stand_for_what_is_sent(tmp_path: Path) -> None:
    could = plain_config(phasors=(Phasor(name="other"),), kind=FrameType.CFG1)
    assert_whole(read(tmp_path, pcap(over_udp([encode_config(could), *FRAMES]))))


def test_data_without_configuration_are_told_with_their_sender(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"stream 7 from 10\.0\.0\.1: 100 data frames left out"):
        read(tmp_path, pcap(over_udp(DATA)))
    other = plain_config(idcode=9)
    frames = [*FRAMES, encode_data(plain_data(other), other)]
    recording = read(tmp_path, pcap(over_udp(frames)))
    assert recording.warnings == ("no configuration of stream 9 from 10.0.0.1: 1 data frames left out",)


def test_commands_and_other_traffic_are_passed_over(tmp_path: Path) -> None:
    command = encode_command(CommandFrame(header=FrameHeader(idcode=7, soc=1), command=Command.DATA_ON))
    others = [
        *over_udp([command, b"", b"GET / HTTP/1.1", b"\xaa\x01"]),
        b"",
        b"\0" * 14,
        link(ip(1, b"ping"), ETHERNET),
    ]
    recording = read(tmp_path, pcap([*others, *over_udp(FRAMES)]))
    assert_whole(recording)
    assert recording.warnings == ()


def test_frames_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    bad = DATA[0][:-1] + bytes([DATA[0][-1] ^ 1])
    recording = read(tmp_path, pcap(over_udp([*FRAMES, bad, bad])))
    assert_whole(recording)
    assert recording.warnings == ("2 frames that cannot be used: bad_crc",)


def test_same_frame_captured_on_two_interfaces_is_one_row(tmp_path: Path) -> None:
    recording = read(tmp_path, pcap([packet for packet in over_udp(FRAMES) for _ in range(2)]))
    assert_whole(recording)
    assert recording.warnings == ()


def test_first_voltage_and_first_current_are_taken(tmp_path: Path) -> None:
    config = plain_config(
        phasors=(
            Phasor(name="", is_current=True),
            Phasor(name=""),
            Phasor(name="VB"),
            Phasor(name="IB", is_current=True),
        )
    )
    recording = read(tmp_path, pcap(over_udp([encode_config(config), encode_data(plain_data(config), config)])))
    assert recording.samples.columns["current_a"].tolist() == [230.0]
    assert recording.samples.columns["voltage_v"].tolist() == [231.0]


def test_positive_sequence_of_a_cfg_3_goes_first(tmp_path: Path) -> None:
    config = plain_config(
        kind=FrameType.CFG3,
        phasors=(
            Phasor(name="VA", component=4),
            Phasor(name="V1", component=1),
            Phasor(name="IA", is_current=True, component=4),
        ),
    )
    recording = read(tmp_path, pcap(over_udp([encode_config(config), encode_data(plain_data(config), config)])))
    assert recording.samples.columns["voltage_v"].tolist() == [231.0]
    assert recording.samples.columns["current_a"].tolist() == [232.0]


def test_mapping_says_otherwise(tmp_path: Path) -> None:
    config = plain_config(phasors=(Phasor(name="VA"), Phasor(name="V1"), Phasor(name="I1", is_current=True)))
    content = pcap(over_udp([encode_config(config), encode_data(plain_data(config), config)]))
    recording = read(tmp_path, content, channels={"V1": "voltage_kv", "P": "active_power_mw"})
    assert recording.samples.columns["voltage_v"].tolist() == [231.0]
    assert recording.samples.columns["active_power_w"].tolist() == [1000.0 * 1e6]
    assert recording.samples.columns["current_a"].tolist() == [232.0]


def test_a_channel_that_is_named_misses_no_other(tmp_path: Path) -> None:
    config = plain_config(phasors=(Phasor(name="V1"), Phasor(name="I1", is_current=True)))
    content = pcap(over_udp([encode_config(config), encode_data(plain_data(config), config)]))
    recording = read(tmp_path, content, channels={"V1": "voltage_v", "P": "active_power_mw"})
    assert not any("sends no channel" in warning for warning in recording.warnings)


def test_pmu_without_current_has_none(tmp_path: Path) -> None:
    config = plain_config(phasors=(Phasor(name="V1"),))
    recording = read(tmp_path, pcap(over_udp([encode_config(config), encode_data(plain_data(config), config)])))
    assert math.isnan(recording.samples.columns["current_a"][0])
    assert "'G7' sends no channel 'first current'; known: first voltage, P" in recording.warnings
    assert "no values of current_a, current_angle_rad" in recording.warnings


def test_flags_of_frames_are_kept(tmp_path: Path) -> None:
    data = encode_data(plain_data(CONFIG, stat=0x2000), CONFIG)
    recording = read(tmp_path, pcap(over_udp([FRAMES[0], data])))
    assert recording.samples.quality.tolist() == [Quality.SYNC_LOST | Quality.REPLAYED]


def test_random_streams_are_decoded_as_the_codec_decodes_them(tmp_path: Path) -> None:
    randomly = random.Random(11)
    for _ in range(20):
        config = random_config(randomly, FrameType.CFG2)
        frames = [encode_data(random_data(randomly, config), config) for _ in range(5)]
        decoded = [decode_frame(frame, config) for frame in frames]
        wanted = sorted(
            pmu.frequency_hz
            for frame in decoded
            if isinstance(frame, DataFrame)
            for pmu in frame.pmus
            if not math.isnan(pmu.frequency_hz)
        )
        (tmp_path / "a.pcap").write_bytes(pcap(over_udp([encode_config(config), *frames])))
        found = read_or_refusal(tmp_path / "a.pcap")
        if isinstance(found, str):
            assert "there is no frequency in it" in found
            assert wanted == []
            continue
        values = found.samples.columns["frequency_hz"]
        assert sorted(values[~np.isnan(values)].tolist()) == pytest.approx(wanted)


def test_captured_frames_of_devices_are_read(tmp_path: Path) -> None:
    frames = [vector_bytes(name) for name in vectors()]
    configs = {
        decoded.header.idcode: decoded
        for frame in frames
        if (frame[1] >> 4) in (FrameType.CFG2, FrameType.CFG3)
        if isinstance(decoded := decode_frame(frame), ConfigFrame)
    }
    assert configs
    recording = read(tmp_path, pcapng(over_udp(frames)))
    assert recording.samples.rows > 0
    assert not np.isnan(recording.samples.columns["frequency_hz"]).all()


def test_capture_cut_off_anywhere_gives_what_came_before(tmp_path: Path) -> None:
    for whole in (pcap(over_udp(FRAMES)), pcapng(over_udp(FRAMES))):
        for size in range(0, len(whole), 251):
            (tmp_path / "a.pcap").write_bytes(whole[:size])
            found = read_or_refusal(tmp_path / "a.pcap")
            if isinstance(found, str):
                assert found.startswith(str(tmp_path / "a.pcap"))
            else:
                assert_whole(found, found.samples.rows)


def test_mutated_captures_end_in_rows_or_a_named_error(tmp_path: Path) -> None:
    randomly = random.Random(5)
    stream = b"".join(FRAMES)
    contents = [
        pcap(over_udp(FRAMES)),
        pcapng(over_udp(FRAMES)),
        pcap(over_tcp(stream, list(range(0, len(stream), 90)))),
        pcap(
            [link(ip(captures.UDP, udp(f), source="fd00::1", target="fd00::2"), LINUX_COOKED) for f in FRAMES],
            LINUX_COOKED,
        ),
    ]
    for _ in range(150):
        mutated = bytearray(randomly.choice(contents))
        for _ in range(randomly.choice((1, 10, 200))):
            mutated[randomly.randrange(len(mutated))] = randomly.randrange(256)
        (tmp_path / "a.pcap").write_bytes(bytes(mutated))
        found = read_or_refusal(tmp_path / "a.pcap")
        if isinstance(found, str):
            assert found.startswith(str(tmp_path / "a.pcap"))
        else:
            assert list(found.samples.problems()) == []


@pytest.mark.parametrize("content", [b"", b"\xd4\xc3\xb2\xa1", b"PK\x03\x04" + bytes(100), pcap([]), pcapng([])])
def test_file_without_frames_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RecordingError, match=r"a\.pcap: (it is neither pcap nor pcapng|no C37.118 frames)"):
        read(tmp_path, content)


@pytest.mark.needs("tshark")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_tshark_reads_the_same_rows(tmp_path: Path, program: Callable[[str], str], transport: str, form: str) -> None:
    stream = b"".join(FRAMES)
    packets = over_udp(FRAMES) if transport == "udp" else over_tcp(stream, list(range(0, len(stream), 77)))
    content = (pcap if form == "pcap" else pcapng)(packets)
    recording = read(tmp_path, content, f"a.{form}")
    command = [program("tshark"), "-r", str(tmp_path / f"a.{form}"), "-T", "fields", "-E", "occurrence=a"]
    command += ["-e", "synphasor.frtype", "-d", "udp.port==4713,synphasor", "-d", "tcp.port==4712,synphasor"]
    shown = subprocess.run(command, capture_output=True, check=True, timeout=60)
    kinds = [int(kind, 0) for kind in shown.stdout.decode().replace(",", " ").split()]
    assert kinds == [FrameType.CFG2, *[FrameType.DATA] * 100]
    assert_whole(recording)
