"""Alive means that the process turns; ready means that all flows run and all they need is connected."""

from __future__ import annotations

from typing import Any

import pytest
from monitored_sites import flow_known, full_vitals, site_known
from msgspec.structs import replace

from edgeflex_flow.monitor.health import liveness, readiness


def vitals_with(**more: Any) -> Any:
    return replace(full_vitals(), **{"gauges": {}, **more})


def test_a_process_that_turns_is_alive_whatever_its_flows_do() -> None:
    assert liveness(site_known(flow_known(word="waiting"))).ok


def test_a_process_that_stands_still_is_not_alive() -> None:
    told = liveness(site_known(turn_age_s=11.0))
    assert not told.ok
    assert told.why == ("the process stands still for 11 s",)


def test_all_flows_running_and_connected_is_ready() -> None:
    gauges = {"pmu": {"opened": 1.0}, "alarm": {"connected": 1.0}, "policy system": {"connected": 0.0}}
    told = readiness(site_known(flow_known(vitals=vitals_with(gauges=gauges))))
    assert told.ok
    assert told.flows == {"one": ()}


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (flow_known(word="waiting", why="ended with exit code 3"), "is waiting: ended with exit code 3"),
        (flow_known(word="starting"), "is starting"),
        (flow_known(vitals=None), "has told nothing yet"),
        (flow_known(vitals=vitals_with(phase="draining")), "is draining"),
        (flow_known(vitals=vitals_with(turn_age_s=30.0)), "stands still for 30 s"),
        (flow_known(vitals=vitals_with(gauges={"bus": {"connected": 0.0}})), "'bus' is not connected"),
        (flow_known(vitals=vitals_with(gauges={"pmu": {"opened": 0.0}})), "source 'pmu' is not open"),
    ],
)
def test_what_a_flow_lacks_is_said(known: Any, why: str) -> None:
    other = flow_known(name="two", vitals=vitals_with())
    told = readiness(site_known(known, other))
    assert not told.ok
    assert told.flows == {"one": (why,), "two": ()}


def test_a_site_without_flows_is_not_ready() -> None:
    assert readiness(site_known()).why == ("no flow runs",)
