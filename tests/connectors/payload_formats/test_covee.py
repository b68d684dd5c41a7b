from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from payload_cases import (
    HOSTILE,
    WILD_JSON,
    assert_right_or_refused,
    batches,
    decode_all,
    decoder_of,
    mutated,
    refusal,
    rows_of,
)

from edgeflex_connectors.batching import AT_ARRIVAL, SamplesBuilder
from edgeflex_connectors.payload_formats import Covee
from edgeflex_connectors.payload_formats.codec import Decoded
from edgeflex_connectors.payloads import PayloadDecoder, PayloadEncoder
from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Alarm, Quality, Samples, Setpoints, ShadowSetpoints, samples_from_rows

SEED = Covee(field="voltage_measurements", column="voltage_pu")
TIMED = Covee(field="voltage_measurements", column="voltage_pu", extension=True)
DECODER = decoder_of(SEED)


def setpoints(quantity: str = "reactive_power_pu", value: float = -0.3) -> Setpoints:
    return Setpoints(
        controller="voltage", time_ns=7, quantity=quantity, values={"node_7": value}, valid_for_s=5.0, status="ok"
    )


def values_by_time_and_node(samples: Samples) -> dict[tuple[int, str], float]:
    """The last value of each time and node that may be sent."""
    rows = zip(samples.time_ns.tolist(), samples.device.tolist(), samples.columns["voltage_pu"].tolist(), strict=True)
    sent = ((samples.quality & (Quality.BAD_DATA | Quality.TEST)) == 0).tolist()
    return {
        (time_ns, samples.devices[code]): value
        for (time_ns, code, value), is_sent in zip(rows, sent, strict=True)
        if is_sent and math.isfinite(value)
    }


@given(batches(("voltage_pu",)))
def test_what_is_encoded_with_its_time_decodes_to_the_same_values(samples: Samples) -> None:
    got = decode_all(decoder_of(TIMED), PayloadEncoder(TIMED).encode(samples), None, TIMED.columns)
    assert values_by_time_and_node(got) == values_by_time_and_node(samples)


def test_payload_of_the_platform_has_the_time_of_its_arrival_and_says_so() -> None:
    rows = rows_of(DECODER, b'{"voltage_measurements":{"node_7":1.031,"node_8":1}}')
    assert rows == [
        (AT_ARRIVAL, "node_7", int(Quality.TIME_UNCERTAIN), (1.031,)),
        (AT_ARRIVAL, "node_8", int(Quality.TIME_UNCERTAIN), (1.0,)),
    ]
    builder = SamplesBuilder(SEED.columns)
    for row in rows:
        builder.add(*row)
    assert builder.take(received_ns=42).time_ns.tolist() == [42, 42]


def test_measurements_go_out_as_the_platform_has_them() -> None:
    samples = samples_from_rows([(1, "node_7", {"voltage_pu": 1.031}), (1, "node_8", {"voltage_pu": math.nan})])
    assert PayloadEncoder(SEED).encode(samples) == [b'{"voltage_measurements":{"node_7":1.031}}']


def test_set_points_go_out_as_the_platform_has_them() -> None:
    encoder = PayloadEncoder(Covee(field="reactive_power", column="reactive_power_pu"))
    assert encoder.encode_message(setpoints()) == [b'{"reactive_power":{"node_7":-0.3}}']


def test_nothing_else_goes_out_with_set_points() -> None:
    encoder = PayloadEncoder(Covee(field="reactive_power", column="reactive_power_pu"))
    shadow = ShadowSetpoints(
        controller="c", time_ns=1, quantity="reactive_power_pu", values={"a": 1.0}, valid_for_s=1.0, status="ok"
    )
    alarm = Alarm(source="c", severity="info", text="x", time_ns=1)
    for message in (setpoints("active_power_pu"), shadow, alarm):
        assert encoder.encode_message(message) == []


def test_set_point_that_is_not_a_number_is_not_sent() -> None:
    encoder = PayloadEncoder(Covee(field="reactive_power", column="reactive_power_pu"))
    with pytest.raises(ValueError, match="the set-point of node_7 is not finite"):
        encoder.encode_message(setpoints(value=math.nan))


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"[1]", "expected an object, got [1] - at `$`"),
        (b'{"pv_input_measurements":{"node_7":1.1}}', "no `voltage_measurements`; got pv_input_measurements - at `$`"),
        (b'{"voltage_measurements":[1]}', "expected values by node, got [1] - at `$.voltage_measurements`"),
        (b'{"voltage_measurements":{"a":null}}', "expected a number, got None - at `$.voltage_measurements.a`"),
        (b'{"voltage_measurements":{"a":true}}', "expected a number, got True - at `$.voltage_measurements.a`"),
        (
            b'{"voltage_measurements":{"a":9007199254740993}}',
            "expected a number, got 9007199254740993 - at `$.voltage_measurements.a`",
        ),
        (b'{"voltage_measurements":{"a":1e999}}', "expected a number, got inf - at `$.voltage_measurements.a`"),
        (b'{"voltage_measurements":{"a":NaN}}', "no JSON: NaN is no number of JSON"),
        (b'{"voltage_measurements":{"a":1,"a":2}}', "key `a` stands twice"),
        (b'{"voltage_measurements":{"":1}}', "a node without a name of its own - at `$.voltage_measurements`"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(payload: bytes, text: str) -> None:
    assert str(refusal(DECODER, payload)) == text


def test_number_of_hundreds_of_digits_is_refused() -> None:
    payload = b'{"voltage_measurements":{"a":' + b"9" * 400 + b"}}"
    assert "expected a number, got 9999" in str(refusal(DECODER, payload))


def test_nodes_that_are_right_are_given_beside_those_that_are_not() -> None:
    decoded = DECODER.decode(b'{"voltage_measurements":{"a":1.0,"b":"1.0","c":null}}', None)
    assert [row[1] for row in decoded.rows] == ["a"]
    assert decoded.bad_rows == 2
    assert "2 of 3 rows cannot be used, first: expected a number, got '1.0'" in str(decoded.error)


@pytest.mark.parametrize("time", ["-1", "1.5", '"now"', str(2**63)])
def test_time_that_is_none_is_refused(time: str) -> None:
    payload = f'{{"voltage_measurements":{{"a":1.0}},"time_ns":{time}}}'.encode()
    assert "expected nanoseconds since 1970" in str(refusal(decoder_of(TIMED), payload))
    assert rows_of(DECODER, payload)[0][0] == AT_ARRIVAL  # without the extension nobody looks


@pytest.mark.parametrize("wrong", [{"field": "time_ns"}, {"field": ""}, {"column": "voltage"}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ValueError)):
        Covee(**{"field": "a", "column": "voltage_pu", **wrong})


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_payloads_are_rows_or_refused(payload: bytes) -> None:
    assert_right_or_refused(DECODER, payload, None, SEED.columns)


@given(WILD_JSON)
def test_wild_json_is_rows_or_refused(payload: bytes) -> None:
    for decoder in (DECODER, decoder_of(TIMED)):
        assert_right_or_refused(decoder, payload, None, SEED.columns)
        wrapped = json.dumps({"voltage_measurements": json.loads(payload)}).encode()
        assert_right_or_refused(decoder, wrapped, None, SEED.columns)


@given(mutated(b'{"voltage_measurements":{"node_7":1.031,"node_8":0.99},"time_ns":1633791645123456789}'))
def test_damaged_payloads_are_rows_or_refused(payload: bytes) -> None:
    assert_right_or_refused(decoder_of(TIMED), payload, None, TIMED.columns)


def test_subscription_takes_it_though_it_is_an_object_as_messages_are() -> None:
    decoder = PayloadDecoder(SEED, (), (), None)
    decoded = decoder.decode("/voltage_control/measuremnts/voltage", b'{"voltage_measurements":{"node_7":1.031}}')
    assert isinstance(decoded, Decoded)
    assert [(row[1], row[3]) for row in decoded.rows] == [("node_7", (1.031,))]
