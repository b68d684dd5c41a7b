from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_connectors.topics import OWN, PLATFORM
from edgeflex_flow.errors import BadMessageError
from edgeflex_services.powerflow_payloads import (
    KEYS,
    PV_TOPIC,
    QUANTITIES,
    SOC_TOPIC,
    VOLTAGE_TOPIC,
    decode_setpoints,
    encode_measurements,
)


def test_topics_are_those_of_the_platform_and_one_of_our_own() -> None:
    platform = {topic.name for topic in PLATFORM}
    assert {VOLTAGE_TOPIC, PV_TOPIC, *QUANTITIES} <= platform
    assert {SOC_TOPIC} <= {name for name, _ in OWN}


def test_payloads_are_exactly_those_of_covee() -> None:
    assert encode_measurements(VOLTAGE_TOPIC, {"node_7": 1.031}) == b'{"voltage_measurements":{"node_7":1.031}}'
    assert encode_measurements(PV_TOPIC, {"node_7": 1.1}) == b'{"pv_input_measurements":{"node_7":1.1}}'
    assert sorted(QUANTITIES.values()) == ["active_power", "active_power_ESS", "reactive_power"]


def test_time_is_an_extension() -> None:
    assert encode_measurements(PV_TOPIC, {}, 5) == b'{"pv_input_measurements":{},"time_ns":5}'
    assert len(KEYS) == 3


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"", "the payload of reactive_power: "),
        (b"\xff\xfe", "the payload of reactive_power: "),
        (b"[1]", "the payload of reactive_power: Expected `object`, got `array`"),
        (b'{"active_power":{"node_7":1}}', "the payload has no key 'reactive_power'"),
        (b'{"reactive_power":[1]}', "the payload of reactive_power: Expected `object`, got `array`"),
        (b'{"reactive_power":{"node_7":"1"}}', "the payload of reactive_power: Expected `float`, got `str`"),
        (b'{"reactive_power":{"node_7":true}}', "the payload of reactive_power: Expected `float`, got `bool`"),
        (b'{"reactive_power":{"node_7":NaN}}', "the payload of reactive_power: JSON is malformed"),
        (b'{"reactive_power":{"node_7":1e999}}', "the payload of reactive_power: Number out of range"),
    ],
)
def test_what_is_no_payload_is_refused_in_words(payload: bytes, told: str) -> None:
    with pytest.raises(BadMessageError) as caught:
        decode_setpoints("reactive_power", payload)
    assert str(caught.value).startswith(told)


@given(st.binary(max_size=200))
def test_no_bytes_raise_another_error(payload: bytes) -> None:
    try:
        decode_setpoints("active_power", payload)
    except BadMessageError:
        return


def test_other_keys_are_not_read() -> None:
    assert decode_setpoints("active_power", b'{"active_power":{"node_7":-1},"time_ns":3}') == {"node_7": -1.0}
