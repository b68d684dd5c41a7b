from __future__ import annotations

from typing import Any

import pytest
from control_cases import HOUR_S, Bench, S, alarms, setpoints
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Setpoints
from edgeflex_operators.setpoint_watchdog import NODE, SetpointWatchdogConfig


def config(**values: Any) -> SetpointWatchdogConfig:
    settings: dict[str, Any] = {
        "name": "watchdog",
        "controller": "vpp",
        "quantity": "active_power_w",
        "safe": {"bess": 0.0, "chp": 2e6},
        "timeout": 2.0,
        **values,
    }
    return SetpointWatchdogConfig(**settings)


def told(time_s: float, controller: str = "vpp") -> Setpoints:
    return Setpoints(
        controller=controller,
        time_ns=round(time_s * S),
        quantity="active_power_w",
        values={"bess": 1e6},
        valid_for_s=5.0,
        status="ok",
    )


def test_nothing_is_sent_while_the_controller_is_heard() -> None:
    bench = Bench(NODE, config())
    for k in range(100):
        bench.take(told(0.5 * k))
        assert bench.tick(0.5 * k) == []


def test_silence_is_an_alarm_once_and_the_safe_state_again_and_again() -> None:
    bench = Bench(NODE, config())
    bench.take(told(0.0))
    for k in range(20):
        bench.tick(0.5 * k)
    assert [(each.severity, each.time_ns) for each in alarms(bench.told)] == [("critical", 2_500_000_000)]
    sent = setpoints(bench.told)
    assert len(sent) == 15
    assert {each.status for each in sent} == {"safe"}
    assert sent[0].values == {"bess": 0.0, "chp": 2e6}
    assert sent[0].missing == ("vpp",)


def test_controller_that_is_back_ends_it_and_is_told() -> None:
    bench = Bench(NODE, config())
    for k in range(10):
        bench.tick(0.5 * k)
    bench.told.clear()
    bench.take(told(5.0))
    [back] = bench.tick(5.0)
    assert "come again" in str(back)
    assert bench.tick(5.5) == []


def test_controller_that_never_came_is_silent_from_the_start() -> None:
    bench = Bench(NODE, config())
    assert [len(bench.tick(0.5 * k)) for k in range(6)] == [0, 0, 0, 0, 0, 2]


@pytest.mark.parametrize(
    "message", [told(9.0, "other"), told(9.0, "watchdog"), told(1.0), told(30.0)], ids=["other", "own", "old", "ahead"]
)
def test_what_was_not_decided_just_now_by_the_controller_does_not_count(message: Setpoints) -> None:
    bench = Bench(NODE, config())
    bench.take(told(1.0))
    bench.tick(1.0)
    for k in range(10):
        bench.take(message)
        bench.tick(9.0 + 0.1 * k)
    assert setpoints(bench.told)[-1].status == "safe"
    assert len(alarms(bench.told)) == 1


@given(st.lists(st.floats(0.0, 60.0), max_size=40))
def test_safe_state_is_sent_exactly_while_nothing_came_for_the_timeout(times_s: list[float]) -> None:
    bench, heard_s = Bench(NODE, config()), 0.0
    waiting = sorted(times_s)
    for k in range(120):
        now_s = 0.5 * k
        while waiting and waiting[0] <= now_s:
            heard_s = max(heard_s, waiting[0])
            bench.take(told(waiting.pop(0)))
        silent_s = now_s - heard_s
        if abs(silent_s - 2.0) > 1e-6:
            assert bool(setpoints(bench.tick(now_s))) == (silent_s > 2.0)
        else:
            bench.tick(now_s)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"valid_for": 0.5}, "valid_for .* is not longer than period"),
        ({"quantity": "power"}, "does not end in a unit"),
        ({"controller": "watchdog"}, "would watch itself"),
        ({"safe": {"bess": float("nan")}}, "the safe value of 'bess' is not finite"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        config(**values)


def test_silence_is_noticed_in_time_though_the_clock_was_set_back() -> None:
    bench = Bench(NODE, config(timeout=1.5, period=0.25))
    for k in range(4):
        bench.take(told(7200.0 + 0.25 * k))
        bench.tick(7200.0 + 0.25 * k)
    course = [bool(setpoints(bench.tick(7201.0 - HOUR_S + 0.25 * k))) for k in range(12)]
    assert course.index(True) * 0.25 <= 1.5 + 0.25


def test_controller_that_goes_on_is_heard_when_the_clock_was_set_back() -> None:
    bench = Bench(NODE, config())
    for k in range(40):
        now_s = 7200.0 + 0.5 * k - HOUR_S * (k >= 20)
        bench.take(told(now_s))
        assert bench.tick(now_s) == []


def test_clock_that_is_set_back_does_not_make_a_silent_controller_heard() -> None:
    bench = Bench(NODE, config())
    bench.take(told(100.0))
    for k in range(21):
        bench.tick(100.0 + 0.5 * k)
    bench.told.clear()
    assert len(setpoints(bench.tick(101.0))) == 1
    bench.take(told(100.0))  # kept by the broker
    assert len(setpoints(bench.tick(101.5))) == 1
    assert alarms(bench.told) == []
