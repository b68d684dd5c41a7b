from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
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

from edgeflex_connectors.payload_formats import Sogno
from edgeflex_connectors.payload_formats.sogno import Reading
from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Samples, samples_from_rows

READINGS = (
    Reading(column="voltage_kv", measurand="voltmagnitude", phase="A"),
    Reading(column="voltage_angle_deg", measurand="voltangle", phase="A"),
    Reading(column="frequency_hz", measurand="frequency"),
)
CONFIG = Sogno(readings=READINGS)
VALUES = st.floats(0.001, 1e6)
GIVEN_VALUES = st.floats(0.001, 1e6) | st.just(math.nan)


@given(batches(CONFIG.columns, values=VALUES))
def test_what_is_encoded_decodes_to_the_same_rows(samples: Samples) -> None:
    payloads = encoder_of(CONFIG).encode(samples)
    assert len(payloads) == samples.rows
    assert_same_rows(decode_all(decoder_of(CONFIG), payloads, None, CONFIG.columns), samples, rel=1e-12)


@given(batches(CONFIG.columns, values=VALUES, flags=st.just(0), resolution_ns=1_000))
def test_without_the_extension_times_are_kept_to_the_microsecond(samples: Samples) -> None:
    config = Sogno(readings=READINGS, extension=False)
    payloads = encoder_of(config).encode(samples)
    assert set(json.loads(payloads[0])) == {"device", "timestamp", "readings"}
    assert_same_rows(decode_all(decoder_of(config), payloads, None, config.columns), samples, rel=1e-12)


@given(batches(("frequency_hz",), values=VALUES))
def test_flat_readings_decode_to_the_same_rows(samples: Samples) -> None:
    config = Sogno(readings=READINGS[2:], flat=True)
    payloads = encoder_of(config).encode(samples)
    assert_same_rows(decode_all(decoder_of(config), payloads, None, config.columns), samples)


def test_components_may_be_the_devices() -> None:
    config = Sogno(readings=READINGS[:1], device="component")
    (row1, row2) = rows_of(decoder_of(config), golden("sogno.nested.json"))
    assert row1 == (1589970477980802000, "BUS1", 0, (0.123,))
    assert row2 == (1589970477980802000, "BUS2", 0, (0.123,))
    samples = samples_from_rows([(1000, "BUS1", {"voltage_kv": 1.0})])
    (payload,) = encoder_of(config).encode(samples)
    assert json.loads(payload)["readings"] == [
        {"component": "BUS1", "measurand": "voltmagnitude", "phase": "A", "data": 1000.0}
    ]


def test_components_choose_columns() -> None:
    config = Sogno(
        readings=(
            Reading(column="voltage_1_v", measurand="voltmagnitude", component="BUS1"),
            Reading(column="voltage_2_v", measurand="voltmagnitude", component="BUS2"),
        )
    )
    assert rows_of(decoder_of(config), golden("sogno.nested.json")) == [
        (1589970477980802000, "device1", 0, (123.0, 123.0))
    ]


def test_the_older_form_decodes() -> None:
    assert rows_of(decoder_of(Sogno(readings=READINGS[:1])), golden("sogno.flat.json")) == [
        (1633594272_123_124_100, "pmu-abc0", 0, (123.124,))
    ]


def test_senders_that_keep_to_other_units_are_told_apart() -> None:
    config = Sogno(readings=(Reading(column="angle_rad", measurand="voltangle", unit="deg"),))
    payload = b'{"device":"d","timestamp":"1970-01-01T00:00:00Z","readings":[{"measurand":"voltangle","data":180}]}'
    ((_, _, _, (angle_rad,)),) = rows_of(decoder_of(config), payload)
    assert angle_rad == pytest.approx(math.pi)


def test_a_value_that_is_not_there_is_left_out() -> None:
    samples = samples_from_rows(
        [(0, "d", {"voltage_kv": math.nan, "frequency_hz": 50.0}), (1, "d", {"voltage_kv": math.nan})]
    )
    (payload,) = encoder_of(CONFIG).encode(samples)
    assert [each["measurand"] for each in json.loads(payload)["readings"]] == ["frequency"]
    ((_, _, _, values),) = rows_of(decoder_of(CONFIG), payload)
    assert math.isnan(values[0])
    assert values[2] == 50.0


def message(readings: str, more: str = "") -> bytes:
    return f'{{"device":"d","timestamp":"1970-01-01T00:00:00Z",{more}"readings":[{readings}]}}'.encode()


FREQUENCY = '{"measurand":"frequency","data":50}'


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "Input data was truncated"),
        (b"[]", "Expected `object`, got an array - at `$`"),
        (b"{}", "missing required field `timestamp` - at `$`"),
        (b'{"timestamp":"1970-01-01T00:00:00Z"}', "neither `readings` nor `measurand` - at `$`"),
        (b'{"timestamp":"1970-01-01T00:00:00Z","measurand":"frequency"}', "neither `readings` nor `data`"),
        (
            message(""),
            "no reading that is asked for; got none; known: voltmagnitude A, voltangle A, frequency - at `$`",
        ),
        (message('{"measurand":"current","data":1}'), "got current; known: voltmagnitude A"),
        (message('{"measurand":"frequency","data":"50"}'), "got `str` - at `$.readings[0].data`"),
        (message(f'{FREQUENCY},{{"measurand":"frequency"}}'), "missing required field `data` - at `$.readings[1]`"),
        (message(f"{FREQUENCY},{FREQUENCY}"), "a second reading for column 'frequency_hz': name its phase or comp"),
        (message(FREQUENCY, '"quality":-1,'), "Expected `int` >= 0 - at `$.quality`"),
        (message(FREQUENCY, '"time_ns":-1,'), "got '-1' - at `$.time_ns`"),
        (message(FREQUENCY, '"device":"e",'), "key `device` stands twice - at `$`"),
        (
            message(FREQUENCY).replace(b"1970-01", b"1969-01"),
            "from 1970 to 2262, got '1969-01-01T00:00:00Z' - at `$.ti",
        ),
        (message(FREQUENCY).replace(b'"device":"d",', b""), "no device under the key `device` - at `$`"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(payload: bytes, complaint: str) -> None:
    assert complaint in str(refusal(decoder_of(CONFIG), payload))


def test_a_component_that_should_name_the_device_is_missed() -> None:
    error = refusal(decoder_of(Sogno(readings=READINGS, device="component")), message(FREQUENCY))
    assert "no device under the key `component` - at `$.readings[0]`" in str(error)


@settings(max_examples=200)
@given(st.binary() | WILD_JSON | mutated(golden("sogno.nested.json")) | mutated(golden("sogno.flat.json")))
def test_no_payload_raises_anything_but_bad_message(payload: bytes) -> None:
    assert_right_or_refused(decoder_of(CONFIG), payload, None, CONFIG.columns)


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_payloads_are_right_or_refused(payload: bytes) -> None:
    assert_right_or_refused(decoder_of(CONFIG), payload, None, CONFIG.columns)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="'x_v' does not hold what `measurand` measures; got 'Hz'"):
        Reading(column="x_v", measurand="frequency")
    with pytest.raises(ConfigError, match="column 'frequency_hz' comes from two fields"):
        Sogno(readings=(READINGS[2], READINGS[2]))
