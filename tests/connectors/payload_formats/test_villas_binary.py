from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from payload_cases import (
    assert_right_or_refused,
    assert_same_rows,
    batches,
    decode_all,
    decoder_of,
    encoder_of,
    mutated,
    refusal,
    rows_of,
)

from edgeflex_connectors.payload_formats import VillasBinary
from edgeflex_connectors.payload_formats.signals import Signal
from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Samples, samples_from_rows

LATEST_NS = 2**32 * 10**9 - 1
SIGNALS = (
    Signal(column="frequency_hz"),
    Signal(),
    Signal(column="tap_count", integer=True),
    Signal(column="quality"),
)
CONFIG = VillasBinary(signals=SIGNALS, sequence="sample_count")
TWO = VillasBinary(signals=(Signal(column="frequency_hz"), Signal(column="voltage_kv", unit="V")))
FLOAT32 = st.floats(width=32, allow_infinity=False)
INTEGERS = st.integers(0, 2**32 - 1).map(float)


def packet(
    *values: float, kind: int = 0x20, source: int = 0, sequence: int = 7, ns: int = 2, length: int = -1
) -> bytes:
    """A sample as it is on the wire, by `struct` alone."""
    count = len(values) if length < 0 else length
    return struct.pack(f">BBHIII{len(values)}f", kind, source, count, sequence, 1, ns, *values)


@given(
    batches(("frequency_hz",), values=FLOAT32, devices=st.just("G1"), latest_ns=LATEST_NS),
    st.data(),
    st.sampled_from(["big", "little"]),
    st.integers(1, 4),
)
def test_what_is_encoded_decodes_to_the_same_rows(
    samples: Samples, data: st.DataObject, byte_order: str, vectorize: int
) -> None:
    rows = samples.rows
    counts = data.draw(st.lists(st.tuples(INTEGERS, INTEGERS), min_size=rows, max_size=rows))
    taps, numbers = np.array(counts).T
    samples = samples.with_columns({**samples.columns, "tap_count": taps, "sample_count": numbers})
    config = VillasBinary(signals=SIGNALS, sequence="sample_count", byte_order=byte_order, vectorize=vectorize)  # type: ignore[arg-type]
    payloads = encoder_of(config).encode(samples)
    assert sum(len(payload) for payload in payloads) == rows * (16 + 4 * 4)
    assert len(payloads) == -(-rows // vectorize)
    assert_same_rows(decode_all(decoder_of(config, given=True), payloads, "G1", config.columns), samples)


@given(batches(TWO.columns, values=st.floats(0.5, 1e4), devices=st.just("G1"), flags=st.just(0), latest_ns=LATEST_NS))
def test_values_are_kept_to_24_bits(samples: Samples) -> None:
    payloads = encoder_of(TWO).encode(samples)
    assert_same_rows(decode_all(decoder_of(TWO, given=True), payloads, "G1", TWO.columns), samples, rel=2.0**-23)


def test_a_sample_stands_on_the_wire_as_villasnode_has_it() -> None:
    samples = samples_from_rows([(1_000_000_002, "G1", {"frequency_hz": 50.0, "voltage_kv": 0.2305})])
    big = encoder_of(TWO).encode(samples)
    assert big == [bytes.fromhex("2000 0002 00000000 00000001 00000002 42480000 43668000")]
    little = encoder_of(VillasBinary(signals=TWO.signals, byte_order="little", source_index=5)).encode(samples)
    assert little == [bytes.fromhex("2005 0200 00000000 01000000 02000000 00004842 00806643")]


def test_integers_and_floats_are_told_apart_by_the_settings_alone() -> None:
    payload = packet(50.0, 0.0, 0.0, 0.0)[:-8] + struct.pack(">II", 4_294_967_295, 2)
    assert rows_of(decoder_of(CONFIG, given=True), payload, "G1") == [
        (1_000_000_002, "G1", 2, (50.0, 4_294_967_295.0, 7.0))
    ]


def test_several_samples_in_a_packet_are_several_rows() -> None:
    rows = rows_of(decoder_of(TWO, given=True), packet(50.0, 230.0) + packet(51.0, math.nan, ns=3), "G1")
    assert rows[0] == (1_000_000_002, "G1", 0, (50.0, 0.23))
    assert rows[1][:3] == (1_000_000_003, "G1", 0)
    assert math.isnan(rows[1][3][1])


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "byte 0: 0 bytes, known: a header of 16"),
        (packet(1.0, 2.0)[:10], "byte 0: 10 bytes, known: a header of 16"),
        (packet(1.0, 2.0)[:20], "byte 2: length: got 2 values, 4 bytes are left for them"),
        (packet(1.0, 2.0, kind=0x10), "byte 0: version: got 1, known: 2"),
        (packet(1.0, 2.0, kind=0x24), "byte 0: type: got 1 (start), known: 0 (data)"),
        (packet(kind=0x28), "byte 0: type: got 2 (stop), known: 0 (data)"),
        (packet(1.0, 2.0, kind=0x21), "byte 0: the reserved bits are not 0"),
        (packet(1.0), "byte 2: length: got 1 values, known: 2 signals"),
        (packet(1.0, 2.0, 3.0), "byte 2: length: got 3 values, known: 2 signals"),
        (packet(1.0, 2.0, length=65535), "byte 2: length: got 65535 values, 8 bytes are left for them"),
        (packet(1.0, 2.0, ns=10**9), "byte 12: nanoseconds: got 1000000000, known: 0 to 999999999"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_byte(payload: bytes, complaint: str) -> None:
    assert str(refusal(decoder_of(TWO, given=True), payload, "G1")) == complaint


def test_samples_of_another_source_are_refused_where_one_is_declared() -> None:
    decoder = decoder_of(VillasBinary(signals=TWO.signals, source_index=4), given=True)
    assert rows_of(decoder, packet(1.0, 2.0, source=4), "G1")
    assert str(refusal(decoder, packet(1.0, 2.0, source=3), "G1")) == "byte 1: source index: got 3, known: 4"


def test_quality_flags_beyond_16_bits_are_refused() -> None:
    payload = packet(50.0, 0.0, 0.0, 0.0)[:-4] + struct.pack(">I", 65536)
    assert str(refusal(decoder_of(CONFIG, given=True), payload, "G1")) == (
        "byte 28: quality flags: got 65536, known: 0 to 65535"
    )


def test_samples_that_are_right_are_given_beside_wrong_ones() -> None:
    payload = packet(1.0, 2000.0) + packet(1.0) + packet(3.0, 4000.0) + packet(5.0, 6000.0)[:-1]
    decoded = decoder_of(TWO, given=True).decode(payload, "G1")
    assert [row[3] for row in decoded.rows] == [(1.0, 2.0), (3.0, 4.0)]
    assert decoded.bad_rows == 2
    assert decoded.error is not None
    assert "2 of 4 rows cannot be used, first: byte 26: length: got 1 values" in str(decoded.error)
    assert decoded.error.payload == packet(1.0)


@settings(max_examples=200)
@given(st.binary(max_size=200) | mutated(packet(1.0, 2.0) * 3) | mutated(packet(1.0, 2.0, 3.0, 4.0)))
def test_no_payload_raises_anything_but_bad_message(payload: bytes) -> None:
    for config in (TWO, CONFIG, VillasBinary(signals=TWO.signals, byte_order="little", source_index=0)):
        decoder = decoder_of(config, given=True)
        assert_right_or_refused(decoder, payload, "G1", config.columns)


@pytest.mark.parametrize(
    ("time_ns", "values", "complaint"),
    [
        (-1, {}, "times from 1970 to 2106"),
        (2**32 * 10**9, {}, "times from 1970 to 2106"),
        (0, {"frequency_hz": 1e39}, "'frequency_hz' holds a value too large for 32 bits"),
        (0, {"tap_count": 1.5}, "'tap_count' is not made of integers"),
        (0, {"tap_count": -1.0}, "'tap_count' is not made of integers"),
        (0, {"tap_count": math.nan}, "'tap_count' is not made of integers"),
        (0, {"sample_count": 2.0**32}, "'sample_count' holds no sequence numbers"),
    ],
)
def test_what_the_format_cannot_hold_is_not_sent(time_ns: int, values: dict[str, float], complaint: str) -> None:
    good = {"frequency_hz": 1.0, "tap_count": 1.0, "sample_count": 1.0}
    with pytest.raises(ValueError, match=complaint):
        encoder_of(CONFIG).encode(samples_from_rows([(time_ns, "G1", {**good, **values})]))


def test_complex_values_are_refused_in_the_settings() -> None:
    with pytest.raises(ConfigError, match="the format holds no complex values"):
        VillasBinary(signals=(Signal(column="a_v", angle_column="b_rad"),))
