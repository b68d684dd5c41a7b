from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from payload_cases import (
    HOSTILE,
    SCALABLE,
    WILD_JSON,
    assert_right_or_refused,
    assert_same_rows,
    batches,
    decode_all,
    decoder_of,
    encoder_of,
    golden,
    mutated,
    refusal,
    rows_of,
)

from edgeflex_connectors.payload_formats import VillasJson
from edgeflex_connectors.payload_formats.signals import Signal
from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Samples, samples_from_rows

CONFIG = VillasJson(
    signals=(Signal(column="frequency_hz"), Signal(column="quality"), Signal(), Signal(column="voltage_kv", unit="V")),
    sequence="sample_count",
)
FULL = VillasJson(
    signals=(
        Signal(column="frequency_hz"),
        Signal(column="breaker_bits"),
        Signal(column="tap_count", integer=True),
        Signal(column="current_a", angle_column="current_angle_rad"),
    )
)
TWO = VillasJson(signals=(Signal(column="frequency_hz"), Signal(column="quality")))
DECODER = decoder_of(TWO, given=True)
ONE_DEVICE = st.just("G1")


@given(
    batches(("frequency_hz", "voltage_kv"), devices=ONE_DEVICE, values=SCALABLE),
    st.integers(1, 4),
)
def test_what_is_encoded_decodes_to_the_same_rows(samples: Samples, vectorize: int) -> None:
    config = VillasJson(signals=CONFIG.signals, vectorize=vectorize)
    payloads = encoder_of(config).encode(samples)
    assert len(payloads) == -(-samples.rows // vectorize)
    assert_same_rows(decode_all(decoder_of(config, given=True), payloads, "G1", config.columns), samples, rel=1e-12)


def test_sequence_numbers_are_a_column_where_one_is_named() -> None:
    rows = [
        (time_ns, "G1", {"frequency_hz": 50.0, "voltage_kv": 1.0, "sample_count": 7.0 + time_ns}) for time_ns in (1, 2)
    ]
    samples = samples_from_rows(rows)
    payloads = encoder_of(CONFIG).encode(samples)
    assert [json.loads(payload)[0]["sequence"] for payload in payloads] == [8, 9]
    assert_same_rows(decode_all(decoder_of(CONFIG, given=True), payloads, "G1", CONFIG.columns), samples)


def test_sequence_numbers_count_up_for_each_device() -> None:
    encoder = encoder_of(TWO)
    made = [
        json.loads(payload)[0]["sequence"]
        for device in ("G1", "G2", "G1")
        for payload in encoder.encode(samples_from_rows([(1, device, {"frequency_hz": 1.0})] * 2))
    ]
    assert made == [0, 1, 0, 1, 2, 3]


def test_a_payload_of_villasnode_decodes() -> None:
    ((time_ns, device, quality, values),) = rows_of(decoder_of(FULL, given=True), golden("villas.json"), "pmu0")
    assert (time_ns, device, quality) == (1633791645_123456789, "pmu0", 0)
    assert values == (49.98, 1.0, 12.0, 5.0, math.atan2(-4.0, 3.0))


def test_what_is_sent_looks_as_villasnode_writes_it() -> None:
    values = {"frequency_hz": 49.98, "breaker_bits": 1.0, "tap_count": 12.0, "current_a": 5.0, "current_angle_rad": 0.0}
    encoder = encoder_of(FULL)
    (payload,) = encoder.encode(samples_from_rows([(1633791645_123456789, "G1", values)]))
    # Floats keep their point and integers have none: VILLASnode refuses a value of another type.
    wanted = b'[{"ts":{"origin":[1633791645,123456789]},"sequence":0,"data":[49.98,1.0,12,{"real":5.0,"imag":0.0}]}]'
    assert payload == wanted


def test_a_batch_of_several_devices_is_refused() -> None:
    samples = samples_from_rows([(1, "G1", {"frequency_hz": 1.0}), (1, "G2", {"frequency_hz": 1.0})])
    with pytest.raises(ValueError, match=r"put \{device\} into the topic, or select one; got G1, G2"):
        encoder_of(TWO).encode(samples)


def sample(data: str = "[50.0, 0]", ts: str = '{"origin": [1, 2]}', more: str = "") -> bytes:
    return f'[{{"ts": {ts}, "data": {data}{more}}}]'.encode()


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"{}", "Expected `array`, got no array - at `$`"),
        (b'[{"data":[1,2]}]', "missing required field `ts` - at `$[0]`"),
        (sample(ts="{}"), "missing required field `origin` - at `$[0].ts`"),
        (sample(ts='{"origin": [1]}'), "Expected `array` of length 2 - at `$[0].ts.origin`"),
        (sample(ts='{"origin": [-1, 0]}'), "Expected `int` >= 0 - at `$[0].ts.origin[0]`"),
        (sample(ts='{"origin": [1, 1000000000]}'), "- at `$[0].ts.origin[1]`"),
        (sample(ts='{"origin": [9223372037, 0]}'), "- at `$[0].ts.origin[0]`"),
        (sample(ts='{"origin": [9223372036, 999999999]}'), "to 2262, got 9223372036 s - at `$[0].ts.origin`"),
        (sample("[50.0]"), "1 values, known: 2 signals - at `$[0].data`"),
        (sample("[50.0, 0, 1]"), "3 values, known: 2 signals - at `$[0].data`"),
        (sample('["50", 0]'), "got `str` - at `$[0].data[0]`"),
        (sample("[true, 0]"), "Expected a number, got `bool` - at `$[0].data[0]`"),
        (sample('[{"real": 1, "imag": 2}, 0]'), "got `object` - at `$[0].data[0]`"),
        (sample("[50.0, 1.5]"), "expected quality flags from 0 to 65535, got 1.5 - at `$[0].data[1]`"),
        (sample("[50.0, 65536]"), "expected quality flags from 0 to 65535, got 65536 - at `$[0].data[1]`"),
        (sample(more=', "sequence": -1'), "Expected `int` >= 0 - at `$[0].sequence`"),
        (sample(more=', "data": [1.0, 0]'), "key `data` stands twice - at `$[0]`"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(payload: bytes, complaint: str) -> None:
    assert complaint in str(refusal(DECODER, payload, "G1"))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("[1.0, 1, 2, 3.0]", "Expected an object, got a number - at `$[0].data[3]`"),
        (
            '[{"real": 1, "imag": 2}, 1, 2, {"real": 1, "imag": 2}]',
            "Expected a number, got an object - at `$[0].data[0]`",
        ),
        ('[1.0, 1, 2, {"real": 1}]', "missing required field `imag` - at `$[0].data[3]`"),
        ('[1.0, 1, 2, {"real": 1, "real": 2, "imag": 2}]', "key `real` stands twice"),
    ],
)
def test_complex_values_stand_where_they_are_declared(data: str, complaint: str) -> None:
    assert complaint in str(refusal(decoder_of(FULL, given=True), sample(data), "G1"))


def test_a_sequence_number_beyond_32_bits_is_refused_where_it_is_kept() -> None:
    payload = sample("[1.0, 0, 0, 1.0]", more=', "sequence": 4294967296')
    assert "below 2^32, got 4294967296 - at `$[0].sequence`" in str(
        refusal(decoder_of(CONFIG, given=True), payload, "G1")
    )


def test_samples_that_are_right_are_given_beside_wrong_ones() -> None:
    payload = b"[" + b",".join([sample()[1:-1], sample("[1.0]")[1:-1], sample("[51.0, 2]")[1:-1]]) + b"]"
    decoded = DECODER.decode(payload, "G1")
    assert [row[2:] for row in decoded.rows] == [(0, (50.0,)), (2, (51.0,))]
    assert decoded.bad_rows == 1
    assert "1 of 3 rows cannot be used, first: 1 values, known: 2 signals - at `$[1].data`" in str(decoded.error)


@settings(max_examples=200)
@given(st.binary() | WILD_JSON | mutated(golden("villas.json")) | mutated(sample()))
def test_no_payload_raises_anything_but_bad_message(payload: bytes) -> None:
    for config in (TWO, FULL, CONFIG):
        decoder = decoder_of(config, given=True)
        assert_right_or_refused(decoder, payload, "G1", config.columns)


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_payloads_are_right_or_refused(payload: bytes) -> None:
    assert_right_or_refused(DECODER, payload, "G1", TWO.columns)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"signals": (Signal(),)}, "`signals` names no column"),
        ({"signals": (Signal(column="a_v"), Signal(column="a_v"))}, "column 'a_v' comes from two fields"),
        ({"signals": (Signal(column="quality"), Signal(column="a_v"), Signal(column="quality"))}, "two fields"),
        ({"signals": (Signal(column="a_v"),), "sequence": "number"}, "`sequence` is a column that ends in `_count`"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        VillasJson(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"column": "a"}, "does not end in a unit"),
        ({"column": "a_v", "angle_column": "b_v"}, "does not end in `_rad` or `_deg`"),
        ({"column": "a_v", "angle_column": "b_rad", "integer": True}, "a complex value is no integer"),
        ({"column": "quality", "unit": "V"}, "`unit` goes with a column of values"),
        ({"angle_column": "b_rad"}, "`angle_column` goes with a column of values"),
    ],
)
def test_a_signal_that_cannot_be_is_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Signal(**fields)  # type: ignore[arg-type]
