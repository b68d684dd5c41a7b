"""`flex_request`: asks others for the flexibility that a plan counts on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Alarm, DispatchPlan, FlexRequest, Message, Node, Setpoints, ShadowSetpoints
from edgeflex_flow.node import Input, NodeConfig, OperatorNode, Wire, at_once, message_wire

W_PER_KW = 1e3


class FlexRequestConfig(NodeConfig, frozen=True, kw_only=True):
    """Turns the first steps of each plan into a request of flexibility, in the shape of the edgeFLEX platform.

    The plan's own set-points are its first pass: what `flex_response` makes of the answer is the second.

    Input:
        in: `DispatchPlan`; plans of controllers in shadow, and what else they give, are passed over.
    Output:
        `FlexRequest` of active power in kW, positive into the grid, for each plan: a list under `prediction 1`,
        `prediction 2` …, each with a value for every node of `nodes`. `id` is the controller and the time of the plan.
        Over MQTT, `format: flex` writes it without the key `type`.
    Errors:
        Dead letter `unknown_asset` for a plan that lacks one of the assets: what it would ask for is not known.
    Source:
        edgeFLEX deliverable D4.3, section 6.4.

    >>> plan = DispatchPlan(
    ...     controller="vpp", time_ns=7, begin_ns=0, step_s=900.0, status="ok", powers_w={"battery": (2e3, -1e3)},
    ...     exchange_w=(2e3, -1e3), prices_eur_per_mwh=(1.0, 1.0), profit_eur=0.0, solver="lp",
    ...     solver_status="optimal", gap=0.0, solver_s=0.1,
    ... )
    >>> [asked] = step(FlexRequestConfig(nodes={"battery": 4}), None, plan)
    >>> asked.nodes, asked.flex_request, asked.id
    ((4,), {'prediction 1': (2.0,), 'prediction 2': (-1.0,)}, 'vpp@7')
    """

    nodes: Annotated[
        dict[str, Node], Meta(min_length=1, description="Node of each asset whose flexibility is asked for.")
    ]
    predictions: Annotated[int, Meta(ge=1, le=288, description="How many steps are asked for at most.")] = 96


def start(_config: FlexRequestConfig) -> None:
    """No state: each plan stands for itself."""


def step(config: FlexRequestConfig, _state: None, plan: Message) -> list[FlexRequest]:
    if not isinstance(plan, DispatchPlan) or plan.shadow:
        return []
    unknown = sorted(config.nodes.keys() - plan.powers_w.keys())
    if unknown:
        known = ", ".join(sorted(plan.powers_w))
        raise BadMessageError(f"the plan lacks {', '.join(unknown)}; known: {known}", reason="unknown_asset")
    steps = min(config.predictions, len(plan.exchange_w))
    return [
        FlexRequest(
            variable="active_power",
            nodes=tuple(config.nodes.values()),
            unit="kW",
            flex_request={
                f"prediction {place + 1}": tuple([plan.powers_w[name][place] / W_PER_KW for name in config.nodes])
                for place in range(steps)
            },
            id=f"{plan.controller}@{plan.time_ns}",
            time_ns=plan.time_ns,
            begin_ns=plan.begin_ns,
            step_s=plan.step_s,
        )
    ]


def _output(_config: FlexRequestConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(FlexRequest)


NODE = OperatorNode(
    kind="flex_request",
    config=FlexRequestConfig,
    inputs={"in": Input(accepts=(DispatchPlan, Setpoints, ShadowSetpoints, Alarm), step=step)},
    output=_output,
    start=start,
    scope="site",
    delays=at_once,
)
