"""Every frame that the encoder makes means the same to Wireshark, whose decoder is an independent one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from c37118_cases import plain_config, plain_data, random_config, random_data, random_header
from tshark import Packet, assert_sound, dissect

from edgeflex_connectors.c37118 import (
    CommandFrame,
    ConfigFrame,
    DataFrame,
    FrameHeader,
    FrameType,
    HeaderFrame,
    PmuConfig,
    PmuData,
    decode_frame,
    encode_command,
    encode_config,
    encode_data,
    encode_header,
)

pytestmark = pytest.mark.needs("tshark")

STREAMS = 150


class Capture:
    """Random frames of many streams, and what tshark says about each."""

    def __init__(self, folder: Path) -> None:
        self.frames = list(_frames())
        # Each stream from a port of its own, so that tshark keeps their configurations apart.
        self.packets = dissect([(port, frame) for port, frame, _ in self.frames], folder)

    def configs(self) -> Iterator[tuple[Packet, ConfigFrame]]:
        for packet, (_, frame, config) in zip(self.packets, self.frames, strict=True):
            decoded = decode_frame(frame, config)
            if isinstance(decoded, ConfigFrame):
                yield packet, decoded

    def data(self) -> Iterator[tuple[Packet, DataFrame, ConfigFrame]]:
        for packet, (_, frame, config) in zip(self.packets, self.frames, strict=True):
            decoded = decode_frame(frame, config)
            if isinstance(decoded, DataFrame) and config is not None:
                yield packet, decoded, config


def _frames() -> Iterator[tuple[int, bytes, ConfigFrame | None]]:
    """(source port, frame, configuration for data)."""
    random = Random(20260101)
    for stream in range(STREAMS):
        port = 20_000 + stream
        # tshark decodes data by CFG-2 and CFG-3; it tells the content of CFG-1 as well.
        config = random_config(random, FrameType.CFG3 if stream % 3 == 0 else FrameType.CFG2)
        yield port, encode_config(config), None
        for _ in range(3):
            yield port, encode_data(random_data(random, config), config), config
        yield port, encode_config(random_config(random, FrameType.CFG1)), None
    for stat_bit in range(16):
        config = plain_config(station="flags")
        port = 30_000 + stat_bit
        yield port, encode_config(config), None
        for time_quality in range(0, 0x80, 5):
            data = plain_data(config, stat=1 << stat_bit, time_quality=time_quality)
            yield port, encode_data(data, config), config
    for command in (1, 2, 3, 4, 5, 6, 8):
        header = random_header(random)
        extended = random.randbytes(8) if command == 8 else b""
        yield 31_000, encode_command(CommandFrame(header=header, command=command, extended=extended)), None
    yield 31_001, encode_header(HeaderFrame(header=random_header(random), text="PMU in bay 3")), None


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return Capture(tmp_path_factory.mktemp("tshark"))


def test_tshark_finds_every_frame_sound(capture: Capture) -> None:
    assert len(capture.packets) > 5 * STREAMS
    assert_sound(capture.packets)


def test_headers_mean_the_same_to_tshark(capture: Capture) -> None:
    for packet, (_, frame, config) in zip(capture.packets, capture.frames, strict=True):
        header: FrameHeader = decode_frame(frame, config).header
        assert packet.number("frsize") == len(frame)
        assert packet.number("version") == header.version
        assert packet.number("idcode_stream_source") == header.idcode
        assert packet.number("fracsec_raw") == header.fraction
        assert packet.number("timeqal.lsdir") == header.leap_second_deleted
        assert packet.number("timeqal.lsocc") == header.leap_second_occurred
        assert packet.number("timeqal.lspend") == header.leap_second_pending
        assert packet.number("timeqal.timequalindic") == header.message_time_quality


def test_configurations_mean_the_same_to_tshark(capture: Capture) -> None:
    kinds = set()
    for packet, config in capture.configs():
        kinds.add(config.kind)
        assert packet.number("frtype") == config.kind
        assert packet.number("conf.timebase") == config.time_base
        assert packet.number("conf.numpmu") == len(config.pmus)
        assert packet.number("rate_of_transmission") == config.data_rate
        stations = [re.fullmatch(r'Station #\d+: "(.*?) *"', text) for text in packet.texts[""]]
        assert [match[1] for match in stations if match] == [pmu.station for pmu in config.pmus]
        assert packet.numbers("idcode_data_source") == [pmu.idcode for pmu in config.pmus]
        assert packet.numbers("num_phasors") == [len(pmu.phasors) for pmu in config.pmus]
        assert packet.numbers("num_analog_values") == [len(pmu.analogs) for pmu in config.pmus]
        assert packet.numbers("num_digital_status_words") == [len(pmu.digitals) for pmu in config.pmus]
        assert packet.numbers("conf.fnom") == [pmu.nominal_hz == 50 for pmu in config.pmus]
        assert packet.numbers("conf.cfgcnt") == [pmu.change_count for pmu in config.pmus]
        formats = zip(
            packet.numbers("conf.dfreq_format"),
            packet.numbers("conf.analog_format"),
            packet.numbers("conf.phasor_format"),
            packet.numbers("conf.phasor_notation"),
            strict=True,
        )
        assert [8 * a + 4 * b + 2 * c + d for a, b, c, d in formats] == [pmu.format for pmu in config.pmus]
        words = [word for pmu in config.pmus for word in pmu.digitals]
        assert packet.numbers("status_word_mask.normal_state") == [word.normal_mask for word in words]
        assert packet.numbers("status_word_mask.valid_bits") == [word.valid_mask for word in words]
        # The channels in the order of the frame: phasors, analogs, bits, for each PMU.
        field = "conf.chnam" if config.kind is FrameType.CFG3 else "channel_name"
        found = packet.names(field)
        assert found == [name for pmu in config.pmus for name in channel_names(pmu)]
    assert kinds == {FrameType.CFG1, FrameType.CFG2, FrameType.CFG3}


def channel_names(pmu: PmuConfig) -> list[str]:
    phasors = [phasor.name for phasor in pmu.phasors]
    return phasors + [analog.name for analog in pmu.analogs] + [bit for word in pmu.digitals for bit in word.labels]


def test_factors_of_cfg_2_mean_the_same_to_tshark(capture: Capture) -> None:
    for packet, config in capture.configs():
        if config.kind is FrameType.CFG3:
            continue
        phasors = [phasor for pmu in config.pmus for phasor in pmu.phasors]
        assert packet.numbers("conversion_factor") == [
            phasor.is_current * 0x1000000 + round(phasor.scale * 1e5) for phasor in phasors
        ]
        found = [re.search(r"value: (-?\d+)", text) for text in packet.texts.get("factor_for_analog_value", [])]
        assert [int(match[1]) for match in found if match] == [a.unit for pmu in config.pmus for a in pmu.analogs]


def test_details_of_cfg_3_mean_the_same_to_tshark(capture: Capture) -> None:
    for packet, config in capture.configs():
        if config.kind is not FrameType.CFG3:
            continue
        phasors = [phasor for pmu in config.pmus for phasor in pmu.phasors]
        analogs = [analog for pmu in config.pmus for analog in pmu.analogs]
        details = [pmu.details for pmu in config.pmus if pmu.details is not None]
        assert packet.numbers("conf.phasor_scale_factor") == pytest.approx(
            [p.scale for p in phasors], rel=1e-5, abs=1e-9
        )
        assert packet.numbers("conf.phasor_angle_offset") == pytest.approx(
            [p.angle_offset_rad for p in phasors], rel=1e-5, abs=1e-9
        )
        assert packet.numbers("conf.phasor_type") == [phasor.is_current for phasor in phasors]
        assert packet.numbers("conf.phasor_component") == [phasor.component for phasor in phasors]
        assert packet.numbers("conf.analog_scale_factor") == pytest.approx(
            [a.gain for a in analogs], rel=1e-5, abs=1e-9
        )
        assert packet.numbers("conf.analog_offset") == pytest.approx([a.offset for a in analogs], rel=1e-5, abs=1e-9)
        assert packet.numbers("conf.pmu_latitude") == pytest.approx(
            [each.latitude_deg for each in details], rel=1e-5, abs=1e-9
        )
        assert packet.numbers("conf.pmu_longitude") == pytest.approx(
            [each.longitude_deg for each in details], rel=1e-5, abs=1e-9
        )
        assert packet.numbers("conf.pmu_elevation") == pytest.approx(
            [each.elevation_m for each in details], rel=1e-5, abs=1e-9
        )
        assert [text[0] for text in packet.values["conf.svc_class"]] == [each.service_class for each in details]
        assert packet.numbers("conf.window") == [each.window_us for each in details]
        assert packet.numbers("conf.grp_dly") == [each.group_delay_us for each in details]
        assert [text.replace(":", "") for text in packet.values["gpmuid"]] == [each.global_id.hex() for each in details]


STAT_FIELDS: tuple[tuple[str, Callable[[int], int]], ...] = (
    ("data.status", lambda stat: stat >> 14),
    ("data.sync", lambda stat: stat >> 13 & 1),
    ("data.sorting", lambda stat: stat >> 12 & 1),
    ("data.trigger", lambda stat: stat >> 11 & 1),
    ("data.CFGchange", lambda stat: stat >> 10 & 1),
    ("data.data_modified", lambda stat: stat >> 9 & 1),
    ("data.pmu_tq", lambda stat: stat >> 6 & 7),
    ("data.t_unlock", lambda stat: stat >> 4 & 3),
    ("data.trigger_reason", lambda stat: stat & 15),
)


def test_stat_words_and_digital_words_mean_the_same_to_tshark(capture: Capture) -> None:
    for packet, data, _ in capture.data():
        for field, part in STAT_FIELDS:
            assert packet.numbers(field) == [part(pmu.stat) for pmu in data.pmus], field
        words = [number for pmu in data.pmus for number in pmu.digitals]
        assert packet.numbers("digital_status_word") == words


def test_frequencies_mean_the_same_to_tshark(capture: Capture) -> None:
    for packet, data, config in capture.data():
        absolute = iter(packet.numbers("actual_frequency_value"))
        deviations = iter(packet.numbers("frequency_deviation_from_nominal"))
        rocofs = packet.numbers("rate_change_frequency")
        for pmu, layout, rocof in zip(data.pmus, config.pmus, rocofs, strict=True):
            if layout.float_frequency:
                assert next(absolute) == pytest.approx(pmu.frequency_hz, rel=1e-5, nan_ok=True)
                assert rocof == pytest.approx(pmu.rocof_hz_per_s, rel=1e-5, nan_ok=True)
                continue
            # tshark shows what integer formats send for an absent value as the number that it looks like.
            found = layout.nominal_hz + next(deviations) / 1000
            assert found == pytest.approx(or_absent(pmu.frequency_hz, layout.nominal_hz - 32.768), abs=1e-9)
            assert rocof == pytest.approx(or_absent(pmu.rocof_hz_per_s, -327.68), abs=1e-4)


def or_absent(value: float, absent: float) -> float:
    return absent if math.isnan(value) else value


PHASOR = re.compile(r", +([-\d.]+|-?nan)([VA]) ∠ *([-\d.]+|-?nan)°", re.IGNORECASE)


def test_phasors_mean_the_same_to_tshark(capture: Capture) -> None:
    compared = 0
    for packet, data, config in capture.data():
        texts = iter(packet.texts.get("phasor", []))
        for pmu, layout in zip(data.pmus, config.pmus, strict=True):
            for (magnitude, angle_rad), phasor in zip(pmu.phasors, layout.phasors, strict=True):
                text = next(texts)
                match = PHASOR.search(text)
                assert match is not None, text
                assert match[2] == ("A" if phasor.is_current else "V")
                compared += compare_phasor(float(match[1]), float(match[3]), magnitude, angle_rad)
        assert next(texts, None) is None
    assert compared > STREAMS


def compare_phasor(shown: float, shown_deg: float, magnitude: float, angle_rad: float) -> int:
    """tshark gives three decimals, and no phase of the circle to an angle less its offset."""
    if math.isnan(magnitude):
        assert math.isnan(shown)
        return 0
    assert shown == pytest.approx(magnitude, rel=1e-6, abs=6e-4)
    apart_deg = math.remainder(shown_deg - math.degrees(angle_rad), 360.0)
    assert abs(apart_deg) < 1e-3
    return 1


def test_analogs_mean_the_same_to_tshark(capture: Capture) -> None:
    for packet, data, config in capture.data():
        texts = iter(packet.texts.get("analog_value", []))
        for pmu, layout in zip(data.pmus, config.pmus, strict=True):
            for value, analog in zip(pmu.analogs, layout.analogs, strict=True):
                match = re.search(r'", (-?[\d.]+|-?nan)', next(texts), re.IGNORECASE)
                assert match is not None
                expected = value
                if math.isnan(value) and not layout.float_analogs:
                    expected = -32768 * analog.gain + analog.offset
                assert float(match[1]) == pytest.approx(expected, rel=1e-6, abs=6e-4, nan_ok=True)


def test_commands_mean_the_same_to_tshark(capture: Capture) -> None:
    commands = [
        (packet, decoded)
        for packet, (_, frame, config) in zip(capture.packets, capture.frames, strict=True)
        if isinstance(decoded := decode_frame(frame, config), CommandFrame)
    ]
    assert len(commands) == 7
    for packet, command in commands:
        assert packet.number("command") == command.command
        if command.extended:
            assert packet.values["extended_frame_data"][0].replace(":", "") == command.extended.hex()


def test_the_test_would_notice_a_wrong_value(capture: Capture) -> None:
    packet, data, _ = next(capture.data())
    wrong = PmuData(stat=data.pmus[0].stat ^ 0x2000)
    assert packet.numbers("data.sync")[0] != wrong.stat >> 13 & 1
