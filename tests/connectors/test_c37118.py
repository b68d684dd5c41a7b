from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from c37118_cases import plain_config, plain_data, random_config, random_data, vector_bytes, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeflex_connectors.c37118 import (
    CommandFrame,
    ConfigFrame,
    DataFrame,
    FrameError,
    FrameHeader,
    FrameType,
    HeaderFrame,
    PmuData,
    decode_config,
    decode_frame,
    encode_command,
    encode_config,
    encode_data,
    encode_header,
    row_quality,
    time_ns,
)
from edgeflex_connectors.c37118_header import check_word
from edgeflex_flow.messages import Quality

RANDOMS = st.integers(0, 2**64 - 1).map(Random)
"""Seeds rather than hypothesis's own randomness: a configuration takes hundreds of draws."""

CONFIG_READERS: dict[str, Callable[[ConfigFrame], Any]] = {
    "type": lambda config: config.kind.name,
    "idcode": lambda config: config.header.idcode,
    "soc": lambda config: config.header.soc,
    "fracsec": lambda config: config.header.fraction,
    "leap_dir": lambda config: int(config.header.leap_second_deleted),
    "leap_pending": lambda config: int(config.header.leap_second_pending),
    "msg_tq": lambda config: config.header.message_time_quality,
    "time_base": lambda config: config.time_base,
    "num_pmu": lambda config: len(config.pmus),
    "data_rate": lambda config: config.data_rate,
    "stn": lambda config: config.pmus[0].station,
    "data_idcode": lambda config: config.pmus[0].idcode,
    "format": lambda config: config.pmus[0].format,
    "phnmr": lambda config: len(config.pmus[0].phasors),
    "annmr": lambda config: len(config.pmus[0].analogs),
    "dgnmr": lambda config: len(config.pmus[0].digitals),
    "phunit": lambda config: [round(phasor.scale * 1e5) for phasor in config.pmus[0].phasors],
    "phtype": lambda config: ["I" if phasor.is_current else "V" for phasor in config.pmus[0].phasors],
    "phnam": lambda config: [phasor.name for phasor in config.pmus[0].phasors],
    "annam": lambda config: [analog.name for analog in config.pmus[0].analogs],
    "anunit_type": lambda config: [analog.kind for analog in config.pmus[0].analogs],
    "anunit": lambda config: [analog.unit for analog in config.pmus[0].analogs],
    "digunit": lambda config: [[word.normal_mask, word.valid_mask] for word in config.pmus[0].digitals],
    "fnom": lambda config: config.pmus[0].nominal_hz,
    "cfgcnt": lambda config: config.pmus[0].change_count,
    "phscale": lambda config: [config.pmus[0].phasors[0].scale, config.pmus[0].phasors[0].angle_offset_rad],
    "phcomponent": lambda config: ("zero", "positive", "negative", "", "A", "B", "C")[
        config.pmus[0].phasors[0].component
    ],
    "anscale": lambda config: [config.pmus[0].analogs[0].gain, config.pmus[0].analogs[0].offset],
    "lat": lambda config: round(details(config).latitude_deg, 4),
    "lon": lambda config: round(details(config).longitude_deg, 4),
    "elev": lambda config: details(config).elevation_m,
    "svc": lambda config: details(config).service_class,
    "window_us": lambda config: details(config).window_us,
    "grp_dly_us": lambda config: details(config).group_delay_us,
}


# `crc` is checked on the bytes; a configuration in parts (`cont_idx` other than 0) does not decode at all.
NOT_DECODED = ("note", "config", "crc", "cont_idx")


def details(config: ConfigFrame) -> Any:
    assert config.pmus[0].details is not None
    return config.pmus[0].details


def data_value(key: str, data: DataFrame, config: ConfigFrame) -> Any:
    pmu = data.pmus[0]
    phasors = [_complex(*phasor) for phasor in pmu.phasors]
    values: dict[str, Any] = {
        "type": "DATA",
        "num_pmu": len(data.pmus),
        "soc": data.header.soc,
        "fracsec": data.header.fraction,
        "stat": pmu.stat,
        "trigger": bool(pmu.stat & 0x0800),
        "sort_by_arrival": bool(pmu.stat & 0x1000),
        "sync_lost": bool(pmu.stat & 0x2000),
        "pmu_tq": pmu.stat >> 6 & 7,
        "unlocked": pmu.stat >> 4 & 3,
        "phasor_mag": [magnitude for magnitude, _ in pmu.phasors],
        "phasor_deg": [math.degrees(angle) for _, angle in pmu.phasors],
        "phasor0_polar": list(pmu.phasors[0]),
        "phasor0": [phasors[0].real, phasors[0].imag],
        "phasor0_real_V": phasors[0].real,
        "phasor_raw": [
            [round(value.real / phasor.scale), round(value.imag / phasor.scale)]
            for value, phasor in zip(phasors, config.pmus[0].phasors, strict=True)
            if not config.pmus[0].float_phasors
        ],
        "freq_hz": pmu.frequency_hz if len(data.pmus) == 1 else [each.frequency_hz for each in data.pmus],
        "rocof_hz_s": pmu.rocof_hz_per_s,
        "analog": list(pmu.analogs),
        "digital": list(pmu.digitals),
    }
    return values[key]


@pytest.mark.parametrize("name", vectors())
def test_captured_frame_decodes_to_its_expected_values(name: str) -> None:
    vector = vectors()[name]
    frame = vector_bytes(name)
    expect = {key: value for key, value in vector["expect"].items() if key not in NOT_DECODED}
    config = decode_config(vector_bytes(vector["expect"]["config"])) if "config" in vector["expect"] else None
    decoded = decode_frame(frame, config)

    assert len(frame) == vector["bytes"]
    assert check_word(frame[:-2]) == vector["expect"].get("crc", int.from_bytes(frame[-2:], "big"))
    if isinstance(decoded, ConfigFrame):
        found = {key: CONFIG_READERS[key](decoded) for key in expect}
    elif isinstance(decoded, DataFrame):
        assert config is not None
        found = {key: data_value(key, decoded, config) for key in expect}
    elif isinstance(decoded, CommandFrame):
        known = {
            "type": "CMD",
            "cmd": decoded.command,
            "idcode": decoded.header.idcode,
            "soc": decoded.header.soc,
            "fracsec": decoded.header.fraction,
            "msg_tq": decoded.header.message_time_quality,
        }
        found = {key: known[key] for key in expect}
    else:
        found = {"type": "HDR", "text": decoded.text, "msg_tq": decoded.header.message_time_quality}
    for key, value in expect.items():
        if isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float)):
            # The expected values are written with three decimals or more.
            assert found[key] == pytest.approx(value, abs=5.1e-4), key
        else:
            assert found[key] == value, key


@pytest.mark.parametrize("name", [name for name, vector in vectors().items() if "CFG" in vector["expect"]["type"]])
def test_captured_configuration_encodes_to_the_same_bytes(name: str) -> None:
    frame = vector_bytes(name)
    assert encode_config(decode_config(frame)) == frame


def test_command_with_a_fraction_beyond_its_time_base_is_accepted() -> None:
    # A device on the market sends FRACSEC 9448978 with TIME_BASE 1000000.
    decoded = decode_frame(vector_bytes("ge_udp_cmd_cfg2"))
    assert isinstance(decoded, CommandFrame)
    assert decoded.header.fraction == 9_448_978


@pytest.mark.parametrize(
    ("text", "word"), [(b"ABCD", 0xBFFA), (b"123456", 0x2EF4), (b"abc", 0x514A), (b"123456789", 0x29B1)]
)
def test_check_word_agrees_with_annex_b(text: bytes, word: int) -> None:
    assert check_word(text) == word


@given(RANDOMS)
@settings(max_examples=200)
def test_any_configuration_survives_encoding(random: Random) -> None:
    config = random_config(random)
    assert decode_config(encode_config(config)) == config


@given(RANDOMS)
@settings(max_examples=200)
def test_any_data_survive_encoding_within_half_a_count(random: Random) -> None:
    config = random_config(random)
    data = random_data(random, config)
    decoded = decode_frame(encode_data(data, config), config)
    assert isinstance(decoded, DataFrame)
    assert decoded.header == data.header
    for sent, found, pmu in zip(data.pmus, decoded.pmus, config.pmus, strict=True):
        assert found.stat == sent.stat
        assert found.digitals == sent.digitals
        step_hz = 0.0 if pmu.float_frequency else 0.0005001
        assert found.frequency_hz == pytest.approx(sent.frequency_hz, abs=step_hz, rel=1e-9, nan_ok=True)
        step_hz_per_s = 0.0 if pmu.float_frequency else 0.005001
        assert found.rocof_hz_per_s == pytest.approx(sent.rocof_hz_per_s, abs=step_hz_per_s, rel=1e-9, nan_ok=True)
        assert found.analogs == pytest.approx(sent.analogs, rel=1e-9, abs=1e-6, nan_ok=True)
        for (magnitude, angle), (found_magnitude, found_angle), phasor in zip(
            sent.phasors, found.phasors, pmu.phasors, strict=True
        ):
            if math.isnan(magnitude):
                assert math.isnan(found_magnitude)
                assert math.isnan(found_angle)
                continue
            # How far the tip of the phasor moved: half a count each way, or a float32's last digit.
            moved = abs(_complex(found_magnitude, found_angle) - _complex(magnitude, angle))
            angle_step = 0.0 if pmu.float_phasors or not pmu.polar else magnitude * 0.5001e-4
            scale_step = 0.0 if pmu.float_phasors else 0.7072 * phasor.scale
            assert moved <= scale_step + angle_step + 1e-6 * (1.0 + magnitude)


def _complex(magnitude: float, angle_rad: float) -> complex:
    return complex(magnitude * math.cos(angle_rad), magnitude * math.sin(angle_rad))


def test_header_and_command_survive_encoding() -> None:
    header = FrameHeader(idcode=7, soc=1_700_000_000, fraction=500_000, time_quality=0x15)
    text = HeaderFrame(header=header, text="PMU in bay 3")
    command = CommandFrame(header=header, command=8, extended=b"\x01\x02\x03")
    assert decode_frame(encode_header(text)) == text
    assert decode_frame(encode_command(command)) == command


def broken(frame: bytes, place: int, octets: bytes) -> bytes:
    return frame[:place] + octets + frame[place + len(octets) :]


def resealed(frame: bytes) -> bytes:
    return frame[:-2] + check_word(frame[:-2]).to_bytes(2, "big")


CONFIG = plain_config()
DATA = encode_data(plain_data(CONFIG), CONFIG)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "truncated"),
        (DATA[:15], "truncated"),
        (broken(DATA, 0, b"\xab"), "bad_sync"),
        (broken(DATA, 1, b"\x61"), "bad_sync"),
        (broken(DATA, 1, b"\x81"), "bad_sync"),
        (broken(DATA, 1, b"\x03"), "bad_version"),
        (DATA[:-1], "bad_size"),
        (DATA + b"\x00", "bad_size"),
        (broken(DATA, 20, b"\xff\xff"), "bad_crc"),
        (resealed(broken(DATA, 1, b"\x31")), "bad_config"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_unusable_frame_is_refused_with_its_reason(frame: bytes, reason: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_frame(frame, CONFIG)
    assert caught.value.reason == reason
    assert caught.value.payload == frame


def test_data_without_configuration_are_refused() -> None:
    with pytest.raises(FrameError, match="stream 7, whose configuration is not known") as caught:
        decode_frame(DATA)
    assert caught.value.reason == "unknown_idcode"


def test_data_that_do_not_fit_their_configuration_are_refused() -> None:
    other = plain_config(analogs=())
    with pytest.raises(FrameError, match="has 46 bytes; its configuration says 42") as caught:
        decode_frame(DATA, other)
    assert caught.value.reason == "size_mismatch"


def test_part_of_a_fragmented_configuration_is_refused() -> None:
    frame = resealed(broken(vector_bytes("own_cfg3"), 14, b"\x00\x01"))
    with pytest.raises(FrameError, match="part 1 of a fragmented CFG-3") as caught:
        decode_config(frame)
    assert caught.value.reason == "bad_config"


@pytest.mark.parametrize("place", [14 + 2, 14 + 4])
def test_configuration_without_time_base_or_pmus_is_refused(place: int) -> None:
    frame = encode_config(CONFIG)
    octets = bytes(3) if place == 16 else bytes(2)
    with pytest.raises(FrameError) as caught:
        decode_config(resealed(broken(frame, 15 if place == 16 else 18, octets)))
    assert caught.value.reason == "bad_config"


@given(RANDOMS, st.data())
@settings(max_examples=300)
def test_damaged_configuration_raises_only_frame_errors(random: Random, draw: st.DataObject) -> None:
    frame = bytearray(encode_config(random_config(random)))
    for _ in range(draw.draw(st.integers(1, 4))):
        frame[draw.draw(st.integers(2, len(frame) - 3))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(16, len(frame)))
    damaged = bytearray(frame[:cut])
    damaged[2:4] = len(damaged).to_bytes(2, "big")
    try:
        decoded = decode_frame(resealed(bytes(damaged)), CONFIG)
    except FrameError as error:
        assert error.reason  # noqa: PT017 - either outcome is right, and nothing else is
    else:
        assert isinstance(decoded, msgspec.Struct)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_frame_errors(octets: bytes) -> None:
    with pytest.raises(FrameError):
        decode_frame(octets, CONFIG)


@pytest.mark.parametrize(
    ("stat", "time_quality", "flags"),
    [
        (0x0000, 0x00, Quality.GOOD),
        (0x4000, 0x00, Quality.BAD_DATA),
        (0x8000, 0x00, Quality.TEST),
        (0xC000, 0x00, Quality.BAD_DATA),
        (0x2000, 0x00, Quality.SYNC_LOST),
        (0x1000, 0x00, Quality.TIME_UNCERTAIN),
        (0x0800, 0x00, Quality.GOOD),  # a trigger tells nothing about the values
        (0x0400, 0x00, Quality.GOOD),  # nor does a change that is announced
        (0x0200, 0x00, Quality.ESTIMATED),
        (0x00C0, 0x00, Quality.GOOD),  # PMU_TQ 3: < 10 µs
        (0x0100, 0x00, Quality.TIME_UNCERTAIN),  # PMU_TQ 4: < 100 µs
        (0x01C0, 0x00, Quality.TIME_UNCERTAIN),
        (0x0000, 0x05, Quality.GOOD),  # MSG_TQ 5: 10 µs
        (0x0000, 0x06, Quality.TIME_UNCERTAIN),  # MSG_TQ 6: 100 µs
        (0x0000, 0x0B, Quality.TIME_UNCERTAIN),
        (0x0000, 0x0F, Quality.TIME_UNCERTAIN | Quality.SYNC_LOST),
        (0x0000, 0x70, Quality.GOOD),  # leap second bits
        (0x21F0, 0x0F, Quality.TIME_UNCERTAIN | Quality.SYNC_LOST),
    ],
)
def test_stat_and_time_quality_become_flags(stat: int, time_quality: int, flags: Quality) -> None:
    header = FrameHeader(idcode=1, soc=0, fraction=20_000, time_quality=time_quality)
    assert row_quality(stat, header, 1_000_000, 50.0) == flags


def test_absent_frequency_is_bad_data() -> None:
    assert row_quality(0, FrameHeader(idcode=1, soc=0), 1, math.nan) == Quality.BAD_DATA | Quality.GOOD


def test_tag_that_contradicts_its_second_is_uncertain() -> None:
    header = FrameHeader(idcode=1, soc=0, fraction=1_000_000)
    assert row_quality(0, header, 1_000_000, 50.0) == Quality.TIME_UNCERTAIN


def test_time_is_exact_where_floats_are_not() -> None:
    assert time_ns(0xFFFFFFFF, 16_777_214, 16_777_215) == 4_294_967_295_999_999_940


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: encode_config(plain_config(station="a name of 17 byt")), None),
        (lambda: encode_config(plain_config(station="a name of 17 byte")), "at most 16 bytes; got 'a name of 17 byte'"),
        (lambda: encode_data(DataFrame(header=CONFIG.header, pmus=()), CONFIG), "data of 0 PMUs"),
        (lambda: encode_data(int16_frequency(90.0), plain_config(format_bits=7)), "do not fit their formats"),
        (lambda: encode_command(CommandFrame(header=FrameHeader(idcode=70_000, soc=0), command=1)), "does not fit"),
    ],
)
def test_what_does_not_fit_a_field_is_an_error_of_the_encoder(make: Callable[[], bytes], text: str | None) -> None:
    if text is None:
        assert decode_frame(make())
        return
    with pytest.raises(ValueError, match=text):
        make()


def int16_frequency(frequency_hz: float) -> DataFrame:
    data = plain_data(CONFIG).pmus[0]
    return DataFrame(
        header=CONFIG.header, pmus=(msgspec.structs.replace(data, frequency_hz=frequency_hz, rocof_hz_per_s=0.0),)
    )


@pytest.mark.parametrize("format_bits", range(16))
def test_absent_values_are_nan_in_every_format(format_bits: int) -> None:
    config = plain_config(format_bits=format_bits)
    absent = PmuData(phasors=((math.nan, math.nan),) * 2, analogs=(math.nan,))
    frame = encode_data(DataFrame(header=CONFIG.header, pmus=(absent,)), config)
    decoded = decode_frame(frame, config)
    assert isinstance(decoded, DataFrame)
    pmu = decoded.pmus[0]
    numbers = [pmu.frequency_hz, pmu.rocof_hz_per_s, *pmu.analogs, *(n for phasor in pmu.phasors for n in phasor)]
    assert all(math.isnan(number) for number in numbers)


def test_infinite_values_count_as_absent() -> None:
    data = PmuData(
        phasors=((math.inf, 0.0), (1.0, 0.0)), frequency_hz=math.inf, rocof_hz_per_s=0.0, analogs=(-math.inf,)
    )
    decoded = decode_frame(encode_data(DataFrame(header=CONFIG.header, pmus=(data,)), CONFIG), CONFIG)
    assert isinstance(decoded, DataFrame)
    assert math.isnan(decoded.pmus[0].frequency_hz)
    assert math.isnan(decoded.pmus[0].phasors[0][0])
    assert math.isnan(decoded.pmus[0].analogs[0])


def test_every_configuration_kind_survives_encoding() -> None:
    for kind in (FrameType.CFG1, FrameType.CFG2, FrameType.CFG3):
        config = random_config(Random(1), kind)
        assert decode_config(encode_config(config)) == config
