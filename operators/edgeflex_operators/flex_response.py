"""`flex_response`: holds answers to requests of flexibility against what was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Alarm, FlexRequest, FlexResponse, Node
from edgeflex_flow.node import Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire, quantity

TICK_S = 1.0
BEYOND = 1e-6
"""Relative: more than this beyond a request is more than rounding."""


class FlexResponseConfig(NodeConfig, frozen=True, kw_only=True):
    """Gives what is to hold after each request of flexibility: its answer as far as that can be used, or what was
    declared for none.

    An answer is held against the newest request. It is refused as a whole, with an alarm, when no request waits for
    one (it is late, or a second one), names another request, another variable or another unit, or when a list has not
    one value for each of its nodes. Of an answer that is used

    - nodes and predictions that were not asked for are left out,
    - values are cut to between 0 and what was asked: nobody gives more, or the opposite,
    - what was asked and not answered becomes what `own` says,

    and an alarm tells all of that. Where nothing usable came within `timeout`, that holds for the whole request: for
    nodes of `own` what was asked, since their owner's plan stands, and for all others, the market's, zero.

    Input:
        request: `FlexRequest`, as it goes out.
        response: `FlexResponse`. With `positions`, as CoVEE has it, these are places among the request's nodes.
    Output:
        `FlexResponse` for each request, with all its nodes and predictions: `status` `full`, `changed` or `none`, and
        the reason. `Alarm` (`warning`) for whatever is not `full` and for each answer that is refused.
    Errors:
        Dead letter `bad_request` for a request in which a list has not one finite value for each node. What is wrong
        with an answer is an alarm.
    Source:
        edgeFLEX deliverable D4.3, section 6.4; that nothing comes instead of an answer is what CoVEE applies for all.

    >>> asked = {"prediction 1": (2.0, 3.0)}
    >>> request = FlexRequest(variable="active_power", nodes=(4, 5), unit="kW", flex_request=asked)
    >>> config = FlexResponseConfig(own=(5,))
    >>> state = start(config)
    >>> ask(config, state, request)
    []
    >>> answer = FlexResponse(variable="active_power", nodes=(4,), unit="kW", flex_response={"prediction 1": (9.0,)})
    >>> held, alarm = take(config, state, answer)
    >>> held.flex_response, held.status
    ({'prediction 1': (2.0, 3.0)}, 'changed')
    """

    own: Annotated[
        tuple[Node, ...], Meta(description="Nodes whose plan stands without an answer; those of others become zero.")
    ] = ()
    timeout: Annotated[float, quantity("s", "How long an answer is waited for.", gt=0, le=86_400)] = 60.0


@dataclass(slots=True)
class FlexResponseState:
    """The request that waits for its answer."""

    request: FlexRequest | None = None
    asked_ns: int | None = None
    """When the clock first saw the request; None until it does."""


def start(_config: FlexResponseConfig) -> FlexResponseState:
    return FlexResponseState()


def ask(_config: FlexResponseConfig, state: FlexResponseState, request: FlexRequest) -> list[WireMessage]:
    problem = _unfit(request.flex_request, len(request.nodes))
    if problem:
        raise BadMessageError(f"request '{request.id}': {problem}", reason="bad_request")
    state.request, state.asked_ns = request, None
    return []


def take(config: FlexResponseConfig, state: FlexResponseState, response: FlexResponse) -> list[WireMessage]:
    request = state.request
    problem = _refusal(request, response)
    if problem or request is None:
        return [_alarm(f"an answer is refused: {problem}", response.time_ns or (request and request.time_ns) or 0)]
    values, remarks = _held(config, request, response)
    state.request = None
    held = replace(
        _empty(request),
        flex_response=values,
        time_ns=response.time_ns,
        status="changed" if remarks else "full",
        reason="; ".join(remarks),
    )
    if not remarks:
        return [held]
    return [held, _alarm(f"the answer to '{request.id}': {held.reason}", response.time_ns or request.time_ns or 0)]


def tick(config: FlexResponseConfig, state: FlexResponseState, now_ns: int) -> list[WireMessage]:
    request = state.request
    if request is None:
        return []
    if state.asked_ns is None:
        state.asked_ns = now_ns
    if now_ns - state.asked_ns < config.timeout * 1e9:
        return []
    state.request = None
    reason = f"no answer within {config.timeout:g} s"
    values = {key: _without_answer(config, request, key) for key in request.flex_request}
    return [
        replace(_empty(request), flex_response=values, time_ns=now_ns, status="none", reason=reason),
        _alarm(f"{reason} to the request '{request.id}'", now_ns),
    ]


def _refusal(request: FlexRequest | None, response: FlexResponse) -> str:
    """Why an answer cannot be used at all; empty if it can."""
    if request is None:
        return "no request waits for one; it is late, or the second"
    if response.request_id and response.request_id != request.id:
        return f"it answers '{response.request_id}', the request that waits is '{request.id}'"
    if (response.variable, response.unit) != (request.variable, request.unit):
        return f"{request.variable} in {request.unit} was asked for, it has {response.variable} in {response.unit}"
    return _unfit(response.flex_response, len(response.positions or response.nodes))


def _unfit(rows: Mapping[str, tuple[float, ...]], count: int) -> str:
    for key, values in rows.items():
        if len(values) != count:
            return f"'{key}' has {len(values)} values for {count} nodes"
        if not all(math.isfinite(value) for value in values):
            return f"'{key}' has a value that is not a number"
    return ""


def _held(
    config: FlexResponseConfig, request: FlexRequest, response: FlexResponse
) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    """What holds of an answer, and what had to be changed."""
    answered: dict[Node, int] = {}
    unknown: list[str] = []
    for place, node in enumerate(response.positions or response.nodes):
        if response.positions and 0 <= int(node) < len(request.nodes):
            answered[request.nodes[int(node)]] = place
        elif not response.positions and node in request.nodes:
            answered[node] = place
        else:
            unknown.append(str(node))
    remarks = [f"nodes that were not asked are left out: {', '.join(unknown)}"] if unknown else []
    strange = [key for key in response.flex_response if key not in request.flex_request]
    if strange:
        remarks.append(f"predictions that were not asked are left out: {', '.join(strange)}")
    values: dict[str, tuple[float, ...]] = {}
    cut: list[str] = []
    missing: list[str] = []
    for key, asked in request.flex_request.items():
        row = list(_without_answer(config, request, key))
        given = response.flex_response.get(key)
        for place, node in enumerate(request.nodes):
            if given is None or node not in answered:
                missing.append(f"{node} in {key}")
                continue
            wanted = given[answered[node]]
            row[place] = min(max(wanted, min(0.0, asked[place])), max(0.0, asked[place]))
            if abs(row[place] - wanted) > BEYOND * max(abs(asked[place]), 1.0):
                cut.append(f"{node} in {key} from {wanted:g} to {row[place]:g} {request.unit}")
        values[key] = tuple(row)
    if missing:
        remarks.append(f"not answered: {_some(missing)}")
    if cut:
        remarks.append(f"beyond what was asked and cut: {_some(cut)}")
    return values, remarks


def _some(texts: list[str]) -> str:
    most = 5
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _without_answer(config: FlexResponseConfig, request: FlexRequest, key: str) -> tuple[float, ...]:
    asked = request.flex_request[key]
    return tuple([value if node in config.own else 0.0 for node, value in zip(request.nodes, asked, strict=True)])


def _empty(request: FlexRequest) -> FlexResponse:
    return FlexResponse(
        variable=request.variable, nodes=request.nodes, unit=request.unit, flex_response={}, request_id=request.id
    )


def _alarm(text: str, time_ns: int) -> Alarm:
    return Alarm(source="flex_response", severity="warning", text=text, time_ns=time_ns)


def _output(_config: FlexResponseConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(FlexResponse, Alarm)


NODE = OperatorNode(
    kind="flex_response",
    config=FlexResponseConfig,
    inputs={
        "request": Input(accepts=(FlexRequest,), step=ask),
        "response": Input(accepts=(FlexResponse,), step=take),
    },
    output=_output,
    start=start,
    tick=tick,
    tick_period_s=lambda _config: TICK_S,
    scope="site",
)
