"""Requests of flexibility and answers on a databus, in the shapes of the edgeFLEX platform and of CoVEE."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from payload_cases import WILD_JSON

from edgeflex_connectors.payload_formats import Flex
from edgeflex_connectors.payloads import PayloadDecoder, PayloadEncoder
from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Alarm, FlexRequest, FlexResponse, Message, encode_message, samples_from_rows

DECODER = PayloadDecoder(Flex(), (), (FlexRequest, FlexResponse, Alarm), None)
ENCODER = PayloadEncoder(Flex())
REQUEST = FlexRequest(
    variable="active_power", nodes=(4, 5), unit="kW", flex_request={"prediction 1": (1.0, 2.0)}, id="a@1", time_ns=1
)
RESPONSE = FlexResponse(
    variable="reactive_power", nodes=("north",), unit="kvar", flex_response={"prediction 1": (0.5,)}, request_id="a@1"
)


def decoded(content: object, config: Flex | None = None) -> Message:
    decoder = DECODER if config is None else PayloadDecoder(config, (), (FlexRequest, FlexResponse), None)
    made = decoder.decode("flex", json.dumps(content).encode())
    assert isinstance(made, Message)
    return made


def test_request_of_the_platform_is_read() -> None:
    content = {
        "variable": "active_power",
        "nodes": [4, 5, 6],
        "flex_request": {"prediction 1": [1, 2, 3], "prediction 2": [0.1, 0.2, 0.3]},
    }
    made = decoded(content)
    assert made == FlexRequest(
        variable="active_power",
        nodes=(4, 5, 6),
        unit="kW",
        flex_request={"prediction 1": (1.0, 2.0, 3.0), "prediction 2": (0.1, 0.2, 0.3)},
    )


def test_answer_of_the_platform_is_read() -> None:
    made = decoded({"variable": "active_power", "nodes": [4], "flex_response": {"prediction 1": [1]}})
    assert made == FlexResponse(variable="active_power", nodes=(4,), unit="kW", flex_response={"prediction 1": (1.0,)})


def test_request_of_covee_is_read() -> None:
    steps = {"pred_1": {"node_4": 0.1, "bay": 0.2}, "pred_2": {"bay": 0.4, "node_4": 0.3}}
    made = decoded({"variables": ["active_power"], "flex_dict": {"active_power": steps}})
    assert isinstance(made, FlexRequest)
    assert made.nodes == (4, "bay")
    assert made.flex_request == {"prediction 1": (0.1, 0.2), "prediction 2": (0.3, 0.4)}


def test_answer_of_covee_is_read() -> None:
    answer = {"vector_position": [0, 2], "flex_value": [-0.1, 0.05], "prediction": 1}
    made = decoded({"variable": ["active_power"], "active_power": answer})
    assert isinstance(made, FlexResponse)
    assert (made.nodes, made.positions) == ((), (0, 2))
    assert made.flex_response == {"prediction 1": (-0.1, 0.05)}


def test_units_are_those_of_the_payload_or_the_config() -> None:
    content = {"variable": "active_power", "nodes": [4], "flex_request": {"prediction 1": [2.0]}}
    by_config = decoded(content, Flex(active_unit="MW"))
    by_payload = decoded({**content, "unit": "W"})
    assert isinstance(by_config, FlexRequest)
    assert isinstance(by_payload, FlexRequest)
    assert by_config.flex_request["prediction 1"] == (2000.0,)
    assert by_payload.flex_request["prediction 1"] == (0.002,)


@pytest.mark.parametrize("message", [REQUEST, RESPONSE])
def test_what_is_written_is_the_platforms_shape_and_reads_back(message: FlexRequest | FlexResponse) -> None:
    (payload,) = ENCODER.encode_message(message)
    content = json.loads(payload)
    assert list(content)[:4] == ["variable", "nodes", message.__struct_config__.tag, "unit"]
    assert "type" not in content
    assert DECODER.decode("flex", payload) == message


def test_messages_of_other_types_are_read_and_not_written() -> None:
    alarm = Alarm(source="n", severity="info", text="x", time_ns=1)
    assert ENCODER.encode_message(alarm) == []
    assert DECODER.decode("flex", encode_message(alarm)) == alarm
    assert DECODER.decode("flex", encode_message(REQUEST)) == REQUEST


def test_answer_by_places_has_no_shape_to_be_written_in() -> None:
    with pytest.raises(ValueError, match="names places"):
        ENCODER.encode_message(msgspec.structs.replace(RESPONSE, nodes=(), positions=(1,)))


def test_samples_have_no_place_in_it() -> None:
    with pytest.raises(ValueError, match="holds no samples"):
        ENCODER.encode(samples_from_rows([(1, "G1", {"active_power_w": 1.0})]))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"variable": "voltage", "nodes": [1], "flex_request": {}}, "one variable of active_power, reactive_power"),
        ({"variables": ["active_power", "reactive_power"], "flex_dict": {}}, "one variable"),
        ({"variable": "active_power", "flex_request": {"prediction 1": [1.0]}}, "neither `flex_request` nor"),
        ({"variable": "active_power", "nodes": [1], "flex_request": {}, "unit": "kvar"}, "no unit of active power"),
        ({"variable": "active_power", "nodes": [1], "flex_request": {"prediction 1": ["x"]}}, "Expected `float`"),
        (
            {"variables": ["active_power"], "flex_dict": {"active_power": {"pred_1": {"a": 1}, "pred_2": {}}}},
            "every prediction names the same nodes",
        ),
        ({"variables": ["active_power"], "flex_dict": {"reactive_power": {"pred_1": {"a": 1}}}}, "the same nodes"),
    ],
)
def test_what_is_wrong_is_told(content: object, text: str) -> None:
    with pytest.raises(BadMessageError, match=text) as caught:
        DECODER.decode("flex", json.dumps(content).encode())
    assert caught.value.reason == "bad_payload"


@given(WILD_JSON | st.binary(max_size=30))
def test_nothing_but_a_bad_message_comes_of_wild_payloads(payload: bytes) -> None:
    try:
        DECODER.decode("flex", payload)
    except BadMessageError as error:
        assert error.reason == "bad_payload"  # noqa: PT017 - any other exception fails the test
