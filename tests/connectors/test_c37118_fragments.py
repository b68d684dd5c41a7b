from __future__ import annotations

import re
import subprocess
from pathlib import Path
from random import Random

import msgspec
import pytest
from c37118_cases import plain_config, random_config
from captures import RAW, ip, pcap, udp
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import find_program

from edgeflex_connectors import c37118_fragments
from edgeflex_connectors.c37118 import ConfigFrame, FrameError, FrameType, PmuConfig, encode_config
from edgeflex_connectors.c37118_fragments import FragmentedConfigs, encode_config_frames


def third(pmus: int = 3) -> ConfigFrame:
    one = plain_config(kind=FrameType.CFG3)
    header = msgspec.structs.replace(one.header, version=2)
    config = random_config(Random(1), FrameType.CFG3)
    return msgspec.structs.replace(config, header=header, pmus=config.pmus[:1] * pmus)


@given(st.integers(0, 2**32), st.integers(30, 400))
@settings(max_examples=100)
def test_parts_of_any_size_are_the_configuration_again(seed: int, most_bytes: int) -> None:
    config = random_config(Random(seed), FrameType.CFG3)
    frames = encode_config_frames(config, most_bytes)
    assert all(len(frame) <= most_bytes for frame in frames)
    reader = FragmentedConfigs()
    found = [reader.decode(1, frame) for frame in frames]
    assert found[:-1] == [None] * (len(frames) - 1)
    assert found[-1] == config


def test_a_configuration_that_fits_is_one_frame() -> None:
    for config in (third(), plain_config()):
        assert encode_config_frames(config) == [encode_config(config)]


def test_configurations_of_more_than_a_frame_pass_in_parts() -> None:
    config = third(1500)
    frames = encode_config_frames(config)
    assert len(frames) > 1
    reader = FragmentedConfigs()
    assert [reader.decode(1, frame) for frame in frames][-1] == config


def test_parts_of_two_peers_do_not_mix() -> None:
    config, other = third(), msgspec.structs.replace(third(), time_base=1000)
    reader = FragmentedConfigs()
    found = []
    for one, two in zip(encode_config_frames(config, 150), encode_config_frames(other, 150), strict=True):
        found += [reader.decode(1, one), reader.decode(2, two)]
    assert found[-2:] == [config, other]


def test_a_part_that_comes_twice_counts_once() -> None:
    reader = FragmentedConfigs()
    frames = [frame for frame in encode_config_frames(third(), 150) for _ in range(2)][:-1]
    assert [reader.decode(1, frame) for frame in frames][-1] == third()


def test_parts_out_of_order_are_refused_and_the_next_ones_taken() -> None:
    frames = encode_config_frames(third(), 150)
    reader = FragmentedConfigs()
    reader.decode(1, frames[0])
    with pytest.raises(FrameError, match="part 3 of a CFG-3 configuration came out of order; expected 2"):
        reader.decode(1, frames[2])
    with pytest.raises(FrameError, match="part 2 of a CFG-3 configuration came out of order; expected 1"):
        reader.decode(1, frames[1])
    assert [reader.decode(1, frame) for frame in frames][-1] == third()


def test_a_lost_part_is_noticed() -> None:
    frames = encode_config_frames(third(), 150)
    reader = FragmentedConfigs()
    with pytest.raises(FrameError) as caught:
        [reader.decode(1, frame) for frame in [*frames[:-2], frames[-1]]]
    assert caught.value.reason == "bad_config"


def test_parts_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c37118_fragments, "MOST_BYTES", 300)
    monkeypatch.setattr(c37118_fragments, "MOST_UNFINISHED", 2)
    frames = encode_config_frames(third(), 150)
    reader = FragmentedConfigs()
    with pytest.raises(FrameError, match="of more than 300 bytes"):
        [reader.decode(1, frame) for frame in frames]
    for peer in range(3):
        reader.decode(peer, frames[0])
    with pytest.raises(FrameError, match="out of order"):
        reader.decode(0, frames[1])
    assert reader.decode(1, frames[1]) is None


def test_configurations_of_the_second_kind_cannot_be_parted() -> None:
    pmu = PmuConfig(station="S", idcode=1)
    config = msgspec.structs.replace(plain_config(), pmus=(pmu,) * 2500)
    with pytest.raises(ValueError, match="a CFG2 of 2500 PMUs does not fit into 65535 bytes"):
        encode_config_frames(config)


@pytest.mark.needs("tshark")
def test_tshark_finds_every_part_sound(tmp_path: Path) -> None:
    tshark = find_program("tshark")
    assert tshark is not None
    frames = encode_config_frames(third(), 150)
    file = tmp_path / "parts.pcap"
    file.write_bytes(pcap([ip(17, udp(frame)) for frame in frames], RAW))
    command = [tshark, "-r", str(file), "-d", "udp.port==4713,synphasor", "-V"]
    shown = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout
    assert shown.count("Configuration Frame 3 [correct]") == len(frames)
    # It sees by CONT_IDX that these are parts, and joins none.
    assert shown.count("CFG-3 Fragmented Frame") == len(frames)
    assert [int(size) for size in re.findall(r"Framesize: (\d+)", shown)] == [len(frame) for frame in frames]
