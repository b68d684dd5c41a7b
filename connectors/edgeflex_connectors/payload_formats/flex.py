"""`flex`: requests of flexibility and their answers, as the edgeFLEX platform and CoVEE have them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NoReturn, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from edgeflex_connectors.payload_formats.codec import (
    FormatConfig,
    MessageFormat,
    NoSamplesDecoder,
    NoSamplesEncoder,
    PayloadFormat,
    bad_payload,
    quoted,
)
from edgeflex_flow.messages import FlexRequest, FlexResponse, Message, Node
from edgeflex_flow.units import UNITS

UNIT_OF = {"active_power": "kW", "reactive_power": "kvar"}

Values: TypeAlias = dict[str, list[float]]


class Flex(FormatConfig, frozen=True, kw_only=True, tag="flex"):
    """Requests of flexibility and answers without the key `type`: an object with `variable`, `nodes` and `flex_request`
    or `flex_response`, which hold a list of values, one a node, under `prediction 1`, `prediction 2` ….

    Also read are CoVEE's older shapes, with one variable a payload: requests `{"variables": ["active_power"],
    "flex_dict": {"active_power": {"pred_1": {"node_4": 0.1}}}}` and answers `{"variable": ["active_power"],
    "active_power": {"vector_position": [0], "flex_value": [0.1], "prediction": 1}}`. Written is the first shape alone,
    with `unit`; `id`, `request_id`, `begin_ns` and `step_s` besides, where they are known, and `status` and `reason` of
    an answer that is not `full`, which other readers skip.
    """

    active_unit: Annotated[str, Meta(description="Unit of active power in payloads that do not say it.")] = "kW"
    reactive_unit: Annotated[str, Meta(description="Unit of reactive power in payloads that do not say it.")] = "kvar"


class _Payload(msgspec.Struct):
    """All shapes in one."""

    variable: str | list[str] | UnsetType = UNSET
    variables: list[str] | UnsetType = UNSET
    nodes: list[Node] | UnsetType = UNSET
    unit: str | UnsetType = UNSET
    flex_request: Values | UnsetType = UNSET
    flex_response: Values | UnsetType = UNSET
    flex_dict: dict[str, dict[str, dict[str, float]]] | UnsetType = UNSET
    active_power: _OldAnswer | UnsetType = UNSET
    reactive_power: _OldAnswer | UnsetType = UNSET
    id: str = ""
    request_id: str = ""
    time_ns: int | None = None
    begin_ns: int | None = None
    step_s: float | None = None
    status: Literal["full", "changed", "none"] = "full"
    reason: str = ""


class _OldAnswer(msgspec.Struct):
    vector_position: list[int]
    flex_value: list[float]
    prediction: int


def decode(config: Flex, payload: bytes) -> Message:
    """The request or answer in a payload.

    >>> made = decode(Flex(), b'{"variable":"active_power","nodes":[4],"flex_request":{"prediction 1":[1.5]}}')
    >>> made.nodes, made.flex_request, made.unit
    ((4,), {'prediction 1': (1.5,)}, 'kW')
    """
    try:
        found = msgspec.json.decode(payload, type=_Payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_payload(str(error), payload) from error
    variable = _variable(found, payload)
    factor = _factor(config, found, variable, payload)
    fields: dict[str, Any] = {"variable": variable, "unit": UNIT_OF[variable], "time_ns": found.time_ns}
    if found.flex_request is not UNSET and found.nodes is not UNSET:
        fields |= {"id": found.id, "begin_ns": found.begin_ns, "step_s": found.step_s}
        return FlexRequest(nodes=tuple(found.nodes), flex_request=_scaled(found.flex_request, factor), **fields)
    if found.flex_response is not UNSET and found.nodes is not UNSET:
        values = _scaled(found.flex_response, factor)
        fields |= {"request_id": found.request_id, "status": found.status, "reason": found.reason}
        return FlexResponse(nodes=tuple(found.nodes), flex_response=values, **fields)
    if found.flex_dict is not UNSET:
        return _old_request(found.flex_dict, variable, factor, fields, payload)
    answer = getattr(found, variable)
    if answer is UNSET:
        _refuse("neither `flex_request` nor `flex_response` with `nodes`, nor a shape of CoVEE's", payload)
    values = _scaled({f"prediction {answer.prediction}": answer.flex_value}, factor)
    return FlexResponse(nodes=(), positions=tuple(answer.vector_position), flex_response=values, **fields)


def _refuse(text: str, payload: bytes) -> NoReturn:
    raise bad_payload(text, payload)


def _variable(found: _Payload, payload: bytes) -> str:
    named = found.variables if found.variable is UNSET else found.variable
    names = [named] if isinstance(named, str) else [] if named is UNSET else named
    if len(names) != 1 or names[0] not in UNIT_OF:
        _refuse(f"expected one variable of {', '.join(UNIT_OF)}; got {quoted(', '.join(names))}", payload)
    return names[0]


def _factor(config: Flex, found: _Payload, variable: str, payload: bytes) -> float:
    own = config.active_unit if variable == "active_power" else config.reactive_unit
    unit = own if found.unit is UNSET else found.unit
    wanted = UNITS[UNIT_OF[variable]]
    if unit not in UNITS or UNITS[unit].dimension != wanted.dimension:
        _refuse(f"`unit`: {quoted(unit)} is no unit of {variable.replace('_', ' ')}", payload)
    return UNITS[unit].factor / wanted.factor


def _scaled(values: Values, factor: float) -> dict[str, tuple[float, ...]]:
    return {key: tuple([factor * value for value in row]) for key, row in values.items()}


def _old_request(
    steps: dict[str, dict[str, dict[str, float]]], variable: str, factor: float, fields: dict[str, Any], payload: bytes
) -> FlexRequest:
    by_step = steps.get(variable, {})
    names = list(dict.fromkeys(name for values in by_step.values() for name in values))
    if not names or any(len(values) != len(names) for values in by_step.values()):
        _refuse(f"`flex_dict.{variable}`: every prediction names the same nodes, one at least", payload)
    values = {
        f"prediction {key.removeprefix('pred_')}": [by_name[name] for name in names] for key, by_name in by_step.items()
    }
    return FlexRequest(nodes=tuple(_node(name) for name in names), flex_request=_scaled(values, factor), **fields)


def _node(name: str) -> Node:
    """`node_4` is what the newer shape calls 4."""
    number = name.removeprefix("node_")
    return int(number) if number.isdecimal() else name


def encode(_config: Flex, message: Message) -> bytes:
    """A request or answer without `type` and what is not known."""
    assert isinstance(message, FlexRequest | FlexResponse)
    key = "flex_request" if isinstance(message, FlexRequest) else "flex_response"
    if not message.nodes:
        raise ValueError("an answer that names places in place of nodes has no such shape")
    content = {"variable": message.variable, "nodes": message.nodes, key: getattr(message, key), "unit": message.unit}
    for name in ("id", "request_id", "time_ns", "begin_ns", "step_s", "status", "reason"):
        value = getattr(message, name, None)
        if value not in (None, "", "full"):
            content[name] = value
    return msgspec.json.encode(content)


FORMAT = PayloadFormat(
    config=Flex,
    decoder=NoSamplesDecoder,
    encoder=NoSamplesEncoder,
    messages=MessageFormat((FlexRequest, FlexResponse), decode, encode),
)
