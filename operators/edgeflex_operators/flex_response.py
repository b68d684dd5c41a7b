"""`flex_response`: holds answers to requests of flexibility against what was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Alarm, FlexRequest, FlexResponse, Node
from edgeflex_flow.node import Delays, Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire, quantity
from edgeflex_operators._told import MOST_TOLD, some

TICK_S = 1.0
BEYOND = 1e-6
"""Relative: more than this beyond a request is more than rounding."""


class FlexResponseConfig(NodeConfig, frozen=True, kw_only=True):
    """Gives what is to hold after each request of flexibility: its answer as far as that can be used, or what was
    declared for none.

    An answer is held against the newest request. It may come in parts, as CoVEE's older answers do with one prediction
    each: parts are put together, of two values the later one, until all predictions of all nodes but those of `own` are
    answered, or `timeout` is over. A payload that has all is used at once.

    An answer or part is refused, with an alarm, when no request waits for one (it is late, or a second one), when it
    names another request, another variable or another unit, when it names no request and its own time lies before the
    request's, or when a list has not one finite value for each of its nodes. One that says neither its request nor its
    time counts for the request that waits, even if it is a late one to the request before: only `request_id` tells. Of
    an answer that is used

    - nodes and predictions that were not asked for are left out,
    - values are cut to between 0 and what was asked: nobody gives more, or the opposite,
    - what was asked and not answered becomes what `own` says,

    and an alarm tells all of that. Where nothing usable came within `timeout`, the last holds for the whole request:
    for nodes of `own` what was asked, since their owner's plan stands, and for all others, the market's, zero.

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
    """The request that waits for its answer, and the parts that came."""

    request: FlexRequest | None = None
    asked_ns: int | None = None
    """When the clock first saw the request; None until it does."""
    now_ns: int = 0
    """Of the clock's last turn."""
    given: dict[tuple[str, Node], float] = field(default_factory=dict)
    """By prediction and node of the request."""
    remarks: list[str] = field(default_factory=list)
    """On what was answered and not asked."""


def start(_config: FlexResponseConfig) -> FlexResponseState:
    return FlexResponseState()


def ask(_config: FlexResponseConfig, state: FlexResponseState, request: FlexRequest) -> list[WireMessage]:
    problem = unfit(request.flex_request, len(request.nodes))
    if problem:
        raise BadMessageError(f"request '{request.id}': {problem}", reason="bad_request")
    state.request, state.asked_ns = request, None
    state.given, state.remarks = {}, []
    return []


def take(config: FlexResponseConfig, state: FlexResponseState, response: FlexResponse) -> list[WireMessage]:
    request = state.request
    problem = _refusal(request, response)
    time_ns = response.time_ns or state.now_ns or (request and request.time_ns) or 0
    if problem or request is None:
        return [_alarm(f"an answer is refused: {problem}", time_ns)]
    _add(state, request, response)
    waits_for = [node for node in request.nodes if node not in config.own]
    if not state.given or any((key, node) not in state.given for key in request.flex_request for node in waits_for):
        return []
    return _decide(config, state, request, time_ns)


def tick(config: FlexResponseConfig, state: FlexResponseState, now_ns: int) -> list[WireMessage]:
    state.now_ns = now_ns
    request = state.request
    if request is None:
        return []
    if state.asked_ns is None:
        state.asked_ns = now_ns
    if now_ns - state.asked_ns < config.timeout * 1e9:
        return []
    if state.given:
        return _decide(config, state, request, now_ns)
    state.request = None
    reason = "; ".join([f"no answer within {config.timeout:g} s", *state.remarks])
    values = {key: _without_answer(config, request, key) for key in request.flex_request}
    return [
        replace(_empty(request), flex_response=values, time_ns=now_ns, status="none", reason=reason),
        _alarm(f"{reason} to the request '{request.id}'", now_ns),
    ]


def _decide(
    config: FlexResponseConfig, state: FlexResponseState, request: FlexRequest, time_ns: int
) -> list[WireMessage]:
    """What holds of all that was answered."""
    state.request = None
    values, remarks = _held(config, request, state.given)
    reason = "; ".join([*state.remarks, *remarks])
    held = replace(
        _empty(request),
        flex_response=values,
        time_ns=time_ns or None,
        status="changed" if reason else "full",
        reason=reason,
    )
    return [held, _alarm(f"the answer to '{request.id}': {reason}", time_ns)] if reason else [held]


def _refusal(request: FlexRequest | None, response: FlexResponse) -> str:
    """Why an answer cannot be used at all; empty if it can."""
    if request is None:
        return "no request waits for one; it is late, or the second"
    if response.request_id and response.request_id != request.id:
        return f"it answers '{response.request_id}', the request that waits is '{request.id}'"
    if not response.request_id and (response.time_ns or math.inf) < (request.time_ns or 0):
        return "it is from before the request that waits, and does not say which one it answers"
    if (response.variable, response.unit) != (request.variable, request.unit):
        return f"{request.variable} in {request.unit} was asked for, it has {response.variable} in {response.unit}"
    return unfit(response.flex_response, len(response.positions or response.nodes))


def unfit(rows: Mapping[str, tuple[float, ...]], count: int) -> str:
    """What is wrong with the values of a request or answer for so many nodes; empty if nothing is."""
    for key, values in rows.items():
        if len(values) != count:
            return f"'{key}' has {len(values)} values for {count} nodes"
        if not all(math.isfinite(value) for value in values):
            return f"'{key}' has a value that is not a number"
    return ""


def _add(state: FlexResponseState, request: FlexRequest, response: FlexResponse) -> None:
    """Take over what a part answers of what was asked."""
    answered: dict[Node, int] = {}
    unknown: list[str] = []
    for place, node in enumerate(response.positions or response.nodes):
        if response.positions and 0 <= int(node) < len(request.nodes):
            answered[request.nodes[int(node)]] = place
        elif not response.positions and node in request.nodes:
            answered[node] = place
        else:
            unknown.append(str(node))
    for key, values in response.flex_response.items():
        if key in request.flex_request:
            state.given |= {(key, node): values[place] for node, place in answered.items()}
    strange = [key for key in response.flex_response if key not in request.flex_request]
    for what, names in (("nodes", unknown), ("predictions", strange)):
        remark = f"{what} that were not asked are left out: {some(names)}"
        if names and remark not in state.remarks and len(state.remarks) < MOST_TOLD:
            state.remarks.append(remark)


def _held(
    config: FlexResponseConfig, request: FlexRequest, given: Mapping[tuple[str, Node], float]
) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    """What holds of an answer, and what had to be changed."""
    values: dict[str, tuple[float, ...]] = {}
    cut: list[str] = []
    missing: list[str] = []
    for key, asked in request.flex_request.items():
        row = list(_without_answer(config, request, key))
        for place, node in enumerate(request.nodes):
            wanted = given.get((key, node))
            if wanted is None:
                missing.append(f"{node} in {key}")
                continue
            row[place] = min(max(wanted, min(0.0, asked[place])), max(0.0, asked[place]))
            if abs(row[place] - wanted) > BEYOND * max(abs(asked[place]), 1.0):
                cut.append(f"{node} in {key} from {wanted:g} to {row[place]:g} {request.unit}")
        values[key] = tuple(row)
    remarks: list[str] = []
    if missing:
        remarks.append(f"not answered: {some(missing)}")
    if cut:
        remarks.append(f"beyond what was asked and cut: {some(cut)}")
    return values, remarks


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


def _delays(config: FlexResponseConfig) -> Delays:
    """An answer in parts waits for the rest. A turn of the clock finds the request, and one that `timeout` is over."""
    return Delays(lag_s=config.timeout, period_s=2 * TICK_S, age_s=0.0)


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
    delays=_delays,
)
