"""`requested_event`: what the event service of the policy system wants looked at, as an event."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import FrequencyEvent, ServiceRequest
from edgeflex_flow.node import Input, NodeConfig, OperatorNode, Wire, WireMessage, at_once, message_wire


class RequestedEventConfig(NodeConfig, frozen=True, kw_only=True):
    """Turns requests to run a service into events, which `event_window` and an estimate follow.

    The policy system watches the grid's state, and a policy says at which state a service is to run. This node takes
    the requests for one service. The event begins when the state was measured; `event_window` looks for the step of
    power around it.

    Input:
        ServiceRequest; those for other services are left out and count nothing.
    Output:
        FrequencyEvent that has started, with `rocof_hz_per_s` if the policy looked at it, NaN for what it did not look
        at. `policies` names the policy and its version.
    Errors:
        Dead letter `no_device` for a request that names no device.
    Source:
        edgeFLEX deliverable D4.3, section 6.1.

    >>> request = ServiceRequest(
    ...     service="inertia_estimation", policy="south/excitation", version=3, rule="excited", reason="", time_ns=5,
    ...     device="G1", values={"rocof_hz_per_s": -0.03})
    >>> [event] = step(RequestedEventConfig(service="inertia_estimation"), None, request)
    >>> event.id, event.onset_time_ns, event.rocof_hz_per_s, event.policies
    ('G1@5', 5, -0.03, {'south/excitation': '3'})
    """

    service: Annotated[str, Meta(min_length=1, description="Name of the service in the policy.")]


def start(_config: RequestedEventConfig) -> None:
    return None


def step(config: RequestedEventConfig, _state: None, request: ServiceRequest) -> list[WireMessage]:
    if request.service != config.service:
        return []
    if not request.device:
        raise BadMessageError(f"a request of policy '{request.policy}' names no device", reason="no_device")
    return [
        FrequencyEvent(
            id=f"{request.device}@{request.time_ns}",
            state="started",
            device=request.device,
            onset_time_ns=request.time_ns,
            detected_time_ns=request.time_ns,
            rocof_hz_per_s=request.values.get("rocof_hz_per_s", math.nan),
            frequency_before_hz=math.nan,
            frequency_extreme_hz=request.values.get("frequency_hz", math.nan),
            policies={request.policy: str(request.version)},
        )
    ]


def _output(_config: RequestedEventConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(FrequencyEvent)


NODE = OperatorNode(
    kind="requested_event",
    config=RequestedEventConfig,
    inputs={"in": Input(accepts=(ServiceRequest,), step=step)},
    output=_output,
    start=start,
    scope="site",
    delays=at_once,
)
