from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from payload_cases import (
    HOSTILE,
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

from edgeflex_connectors.payload_formats import JsonEdgeflex
from edgeflex_connectors.payload_formats.channels import Channel
from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Samples, samples_from_rows

COLUMNS = ("frequency_hz", "rocof_hz_per_s")
PLAIN = JsonEdgeflex()
DECODER = decoder_of(PLAIN, *COLUMNS)
PHASOR = JsonEdgeflex(
    fields={
        "V1": Channel(column="voltage_v", angle_column="voltage_angle_deg", unit="kV"),
        "f": Channel(column="frequency_hz", unit="mHz"),
    },
    extension=False,
)


@given(batches(COLUMNS))
def test_what_is_encoded_decodes_to_the_same_rows(samples: Samples) -> None:
    assert_same_rows(decode_all(DECODER, encoder_of(PLAIN).encode(samples), None, COLUMNS), samples)


@given(batches(COLUMNS, devices=st.just("G1"), flags=st.just(0), resolution_ns=1_000_000))
def test_without_the_extension_times_are_kept_to_the_millisecond(samples: Samples) -> None:
    config = JsonEdgeflex(extension=False)
    payloads = encoder_of(config).encode(samples)
    assert set(json.loads(payloads[0])[0]) == {"created", *COLUMNS}
    assert_same_rows(decode_all(decoder_of(config, *COLUMNS, given=True), payloads, "G1", COLUMNS), samples)


@given(
    batches(
        PHASOR.columns,
        values=st.floats(0.001, 179.0),
        devices=st.just("G1"),
        flags=st.just(0),
        resolution_ns=1_000_000,
    )
)
def test_phasors_and_units_are_turned_there_and_back(samples: Samples) -> None:
    payloads = encoder_of(PHASOR).encode(samples)
    assert_same_rows(decode_all(decoder_of(PHASOR, given=True), payloads, "G1", PHASOR.columns), samples, rel=1e-12)


def test_a_phasor_becomes_magnitude_and_angle_in_the_units_of_their_columns() -> None:
    payload = b'[{"created":1,"V1":{"real":0.0,"imag":2.0},"f":49980}]'
    assert rows_of(decoder_of(PHASOR, given=True), payload, "G1") == [(1_000_000, "G1", 0, (2000.0, 90.0, 49.98))]


def test_the_example_of_villasnode_decodes() -> None:
    config = JsonEdgeflex(
        fields={
            "signal0": Channel(column="frequency_hz"),
            "signal1": Channel(column="breaker_bits"),
            "signal2": Channel(column="events_count"),
            "signal3": Channel(column="current_a", angle_column="current_angle_rad"),
        }
    )
    ((time_ns, device, quality, values),) = rows_of(
        decoder_of(config, given=True), golden("json.edgeflex.villas.json"), "G1"
    )
    assert (time_ns, device, quality) == (1633791645123_000_000, "G1", 0)
    magnitude, angle = math.hypot(1234.4556, 23232.12312), math.atan2(23232.12312, 1234.4556)
    assert values == (123.456, 1.0, 1234.0, magnitude, angle)


def test_the_payload_of_an_edge_pmu_decodes() -> None:
    # As it is published on /edgeflex/edgepmu0/ch0.
    config = JsonEdgeflex(
        fields={
            "frequency": Channel(column="frequency_hz"),
            "amplitude": Channel(column="voltage_kv", unit="V"),
            "rocof": Channel(column="rocof_hz_per_s"),
        }
    )
    rows = rows_of(decoder_of(config, given=True), golden("json.edgeflex.pmu.json"), "edgepmu0")
    assert rows == [(1633791645123_000_000, "edgepmu0", 0, (49.98, 0.3251, -0.02))]


def test_without_the_extension_others_keys_of_its_names_are_not_read() -> None:
    decoder = decoder_of(JsonEdgeflex(extension=False), "x_v", given=True)
    payload = b'[{"created":5,"time_ns":"noon","quality":"fine","device":3,"x_v":1.0}]'
    assert rows_of(decoder, payload, "G1") == [(5_000_000, "G1", 0, (1.0,))]


def test_infinity_is_null_for_readers_of_json() -> None:
    (payload,) = encoder_of(PLAIN).encode(samples_from_rows([(1, "G", {"x_v": float("inf")})]))
    assert json.loads(payload)[0]["x_v"] is None


def test_created_serves_where_the_exact_time_is_missing() -> None:
    payload = (
        b'[{"created":1633791645123,"device":"G1","frequency_hz":50},'
        b'{"created":1.5,"device":"G1","frequency_hz":50},'
        b'{"created":1,"time_ns":null,"device":"G1","frequency_hz":50},'
        b'{"created":1,"time_ns":1000001,"device":"G1","frequency_hz":50}]'
    )
    assert [row[0] for row in rows_of(DECODER, payload)] == [1633791645123_000_000, 1_500_000, 1_000_000, 1_000_001]


def test_a_column_that_a_row_lacks_is_nan() -> None:
    ((_, _, _, values),) = rows_of(
        DECODER, b'[{"created":1,"device":"G1","rocof_hz_per_s":1,"frequency_hz":null,"other":{"a":[1]}}]'
    )
    assert math.isnan(values[0])
    assert values[1] == 1.0


def test_rows_that_are_right_are_given_beside_wrong_ones() -> None:
    wrong = b'{"created":2,"device":"G1","frequency_hz":"fast"}'
    payload = (
        b'[{"created":1,"device":"G1","frequency_hz":1},'
        + wrong
        + b',{"created":3,"device":"","frequency_hz":1},{"created":4,"device":"G1","frequency_hz":4}]'
    )
    decoded = DECODER.decode(payload, None)
    assert [row[0] for row in decoded.rows] == [1_000_000, 4_000_000]
    assert decoded.bad_rows == 2
    assert decoded.error is not None
    assert str(decoded.error) == (
        "2 of 4 rows cannot be used, first: Expected `int | float | null`, got `str` - at `$[1].frequency_hz`"
    )
    assert decoded.error.payload == wrong


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "Input data was truncated"),
        (b"[", "Input data was truncated"),
        (b"\xff\xfe", "no UTF-8 text: byte 0xff at 0"),
        (b'[{"created":1,"device":"G1","other":"\xff"}]', "no UTF-8 text: byte 0xff at 37"),
        (b'[{"created":1,"device":"G1","frequency_hz":NaN}]', "JSON is malformed: invalid character (byte 43)"),
        (b'{"created":1}', "Expected `array`, got no array - at `$`"),
        (b"[3]", "Expected `object`, got `int` - at `$[0]`"),
        (
            b'[{"device":"G1","frequency_hz":1}]',
            "neither `time_ns` nor `created`; got device, frequency_hz - at `$[0]`",
        ),
        (
            b'[{"created":1,"frequency_hz":1}]',
            "under the key `device`; got created, frequency_hz - at `$[0]`",
        ),
        (
            b'[{"created":1,"device":"","frequency_hz":1}]',
            "Expected `str` of length >= 1 - at `$[0].device`",
        ),
        (b'[{"created":1,"device":3,"frequency_hz":1}]', "Expected `str | null`, got `int` - at `$[0].device`"),
        (
            b'[{"created":1,"device":"G1","f_hz":1}]',
            "hz, rocof_hz_per_s; got created, device, f_hz - at `$[0]`",
        ),
        (b'[{"created":1,"device":"G1","frequency_hz":true}]', "got `bool` - at `$[0].frequency_hz`"),
        (b'[{"created":1,"device":"G1","frequency_hz":"50"}]', "got `str` - at `$[0].frequency_hz`"),
        (b'[{"created":1,"device":"G1","frequency_hz":{"real":1,"imag":0}}]', "got `object` - at `$[0].frequency_hz`"),
        (b'[{"created":1,"device":"G1","frequency_hz":9007199254740993}]', "<= 9007199254740992 - at `$[0].freq"),
        (b'[{"created":1,"device":"G1","frequency_hz":1e999}]', "Number out of range - at `$[0].frequency_hz`"),
        (b'[{"created":-1,"device":"G1","frequency_hz":1}]', "Expected `int` >= 0 - at `$[0].created`"),
        (
            b'[{"created":1e300,"device":"G1","frequency_hz":1}]',
            "`float` < 9223372036854.0 - at `$[0].created`",
        ),
        (
            b'[{"created":"1","device":"G1","frequency_hz":1}]',
            "null`, got `str` - at `$[0].created`",
        ),
        (
            b'[{"created":[],"device":"G1","frequency_hz":1}]',
            "null`, got `array` - at `$[0].created`",
        ),
        (b'[{"time_ns":9223372036854775808,"device":"G1","frequency_hz":1}]', "- at `$[0].time_ns`"),
        (b'[{"created":1,"device":"G1","quality":65536,"frequency_hz":1}]', "<= 65535 - at `$[0].quality`"),
        (b'[{"created":1,"device":"G1","frequency_hz":1,"frequency_hz":2}]', "`frequency_hz` stands twice - at `$[0]`"),
        (b'[{"created":1,"device":"G1","frequency_hz":1,"frequency\\u005fhz":2}]', "`frequency_hz` stands twice"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(payload: bytes, complaint: str) -> None:
    error = refusal(DECODER, payload)
    assert complaint in str(error)
    assert error.reason == "bad_payload"
    assert error.payload or not payload


def test_a_key_that_is_not_read_may_stand_twice_and_hold_anything() -> None:
    payload = b'[{"created":1,"device":"G\\u0031","frequency_hz":1,"a":1,"a":' + b"9" * 5000 + b"}]"
    ((_, device, _, _),) = rows_of(DECODER, payload)
    assert device == "G1"


@settings(max_examples=200)
@given(st.binary() | WILD_JSON | mutated(golden("json.edgeflex.pmu.json")))
@example(HOSTILE[6])
@example(HOSTILE[7])
def test_no_payload_raises_anything_but_bad_message(payload: bytes) -> None:
    assert_right_or_refused(decoder_of(PLAIN, "x_v"), payload, None, ("x_v",))
    decoder = decoder_of(PHASOR, "x_v", given=True)
    assert_right_or_refused(decoder, payload, "G1", ("x_v", *PHASOR.columns))


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_payloads_are_right_or_refused(payload: bytes) -> None:
    assert_right_or_refused(decoder_of(PLAIN, "x_v"), payload, None, ("x_v",))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"device": "created"}, "`device` is another key of the format"),
        ({"fields": {"quality": Channel(column="a_count")}}, "'quality' is a key of the format"),
        ({"fields": {"a": Channel(column="x_v"), "b": Channel(column="x_v")}}, "column 'x_v' comes from two fields"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        JsonEdgeflex(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"column": "frequency"}, "does not end in a unit"),
        ({"column": "x_v", "unit": "kW"}, "measures voltage; got 'kW'; known: mV, V, kV"),
        ({"column": "x_v", "unit": "kv"}, "did you mean 'kV'"),
        ({"column": "x_count", "unit": "V"}, "carries no unit"),
        ({"column": "x_v", "angle_column": "y_v"}, "does not end in `_rad` or `_deg`"),
    ],
)
def test_a_column_with_a_unit_that_does_not_fit_is_refused(fields: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Channel(**fields)
