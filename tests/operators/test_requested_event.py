from __future__ import annotations

import math
from typing import Any

import pytest

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import FrequencyEvent, ServiceRequest
from edgeflex_operators.requested_event import RequestedEventConfig, step

CONFIG = RequestedEventConfig(service="inertia_estimation")


def request(**changes: Any) -> ServiceRequest:
    told: dict[str, Any] = {
        "service": "inertia_estimation", "policy": "south/excitation", "version": 3, "rule": "excited",
        "reason": "", "time_ns": 7, "device": "G1",
    }  # fmt: skip
    return ServiceRequest(**{**told, **changes})


def test_a_request_becomes_an_event_with_what_the_policy_looked_at() -> None:
    (event,) = step(CONFIG, None, request(values={"frequency_hz": 49.9}))
    assert isinstance(event, FrequencyEvent)
    assert (event.device, event.state, event.onset_time_ns, event.frequency_extreme_hz) == ("G1", "started", 7, 49.9)
    assert math.isnan(event.rocof_hz_per_s)


def test_a_request_for_another_service_is_left_out() -> None:
    assert step(CONFIG, None, request(service="voltage_control")) == []


def test_a_request_without_a_device_is_a_dead_letter() -> None:
    with pytest.raises(BadMessageError) as raised:
        step(CONFIG, None, request(device=None))
    assert raised.value.reason == "no_device"
