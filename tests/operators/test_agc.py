from __future__ import annotations

import math
from typing import Any

import pytest
from control_cases import HOUR_S, Bench, seen, setpoints
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edgeflex_flow.errors import ConfigError
from edgeflex_operators.agc import NODE, AgcConfig


def config(**values: Any) -> AgcConfig:
    given: dict[str, Any] = {
        "name": "agc",
        "asset": "north",
        "devices": ("PMU",),
        "bias": 100e6,
        "gain": 0.5,
        "integral_time": 50.0,
        "minimum": -80e6,
        "maximum": 80e6,
        "frozen_after": 86_400.0,  # tests hold the frequency for long
        **values,
    }
    return AgcConfig(**given)


def at(bench: Bench, time_s: float, frequency_hz: float, tie_w: float = math.nan) -> float:
    bench.take(seen(time_s, frequency_hz=frequency_hz))
    if not math.isnan(tie_w):
        bench.take(seen(time_s, "tie", frequency_hz=math.nan, active_power_w=tie_w))
    return bench.power_w(time_s)


def test_area_control_error_counts_exchange_and_frequency() -> None:
    bench = Bench(NODE, config(ties=("tie",), programme=20e6))
    # 30 - 20 MW too much out, and 0.1 Hz too low: the area gives what the other one lacks.
    assert at(bench, 0.0, 49.9, 30e6) == pytest.approx(0.0, abs=1.0)
    assert at(Bench(NODE, config(ties=("tie",))), 0.0, 50.0, 30e6) == pytest.approx(-15e6)


@settings(max_examples=40)
@given(st.lists(st.floats(49.95, 50.05), min_size=2, max_size=60))
def test_within_limits_it_is_the_plain_proportional_integral_law(course_hz: list[float]) -> None:
    bench, integral_w = Bench(NODE, config()), 0.0
    for k, frequency_hz in enumerate(course_hz):
        ace_w = 100e6 * (frequency_hz - 50.0)
        integral_w -= ace_w * (2.0 if k else 0.0) / 50.0
        assert at(bench, 2.0 * k, frequency_hz) == pytest.approx(integral_w - 0.5 * ace_w, abs=10.0)


def test_integral_does_not_wind_up_while_the_power_is_at_its_limit() -> None:
    bench = Bench(NODE, config(maximum=10e6, tracking_time=5.0))
    for k in range(300):
        assert at(bench, 2.0 * k, 49.5) == 10e6 or k == 0
    # Once the deviation is over it leaves the limit at the next cycle or two, not after as long as it was there.
    assert at(bench, 600.0, 50.05) < 10e6
    assert at(bench, 602.0, 50.05) < 9.9e6


def test_integral_does_not_wind_up_while_the_ramp_is_followed() -> None:
    bench = Bench(NODE, config(ramp=0.1e6, tracking_time=5.0))
    course = [at(bench, 2.0 * k, 49.6) for k in range(100)]
    assert course[-1] == pytest.approx(99 * 0.2e6)
    after = [at(bench, 200.0 + 2.0 * k, 50.0 + 1e-4 * k) for k in range(5)]
    assert max(after) <= course[-1] + 0.2e6
    assert after[-1] < after[0]


@given(st.floats(-60e6, 60e6), st.floats(-60e6, 60e6))
def test_new_bounds_come_without_a_jump(one: float, other: float) -> None:
    bench = Bench(NODE, config(ramp=1e6))
    before = [at(bench, 2.0 * k, 49.9) for k in range(40)][-1]
    bench.config = replace(bench.config, lowest=min(one, other), highest=max(one, other))
    after = at(bench, 80.0, 49.9)
    assert abs(after - before) <= 2e6 + 1.0
    if min(one, other) <= before <= max(one, other):
        assert after == pytest.approx(before, abs=1.0)


def test_wider_bounds_are_entered_from_where_it_was() -> None:
    bench = Bench(NODE, config(highest=5e6))
    for k in range(50):
        at(bench, 2.0 * k, 49.8)
    bench.config = replace(bench.config, highest=50e6)
    assert at(bench, 100.0, 49.8) == pytest.approx(5e6)
    assert 5e6 < at(bench, 102.0, 49.8) < 7e6


def test_after_a_fallback_it_goes_on_from_the_set_point_that_was_held() -> None:
    bench = Bench(NODE, config(hold_for=20.0))
    held_w = [at(bench, 2.0 * k, 49.9) for k in range(30)][-1]
    assert bench.power_w(70.0) == held_w
    assert at(bench, 72.0, 49.9) == pytest.approx(held_w)


@pytest.mark.parametrize("begins_s", [0.0, 12.0])
def test_measurements_that_begin_in_a_disturbance_never_make_it_pull_the_wrong_way(begins_s: float) -> None:
    bench = Bench(NODE, config(safe=0.0, hold_for=1.0))
    asked: list[float] = []
    for k in range(40):
        time_s = 2.0 * k
        if time_s < begins_s:
            bench.tick(time_s)
            continue
        asked.append(at(bench, time_s, 49.73 + 0.005 * min(k, 40)))
    assert min(asked) > 5e6
    assert asked[0] == pytest.approx(0.5 * 100e6 * (0.27 - 0.0025 * begins_s))


def test_unknown_exchange_is_a_fallback_though_the_frequency_is_known() -> None:
    bench = Bench(NODE, config(ties=("tie", "other")))
    bench.take(seen(0.0, frequency_hz=50.0))
    bench.take(seen(0.0, "tie", frequency_hz=math.nan, active_power_w=1e6))
    assert bench.tick(0.0) == []
    bench.take(seen(4.5, frequency_hz=50.0))
    bench.take(seen(4.5, "tie", frequency_hz=math.nan, active_power_w=1e6))
    [told] = setpoints(bench.tick(5.0))
    assert (told.status, told.missing, told.reason) == ("fallback", ("other",), "other: nothing came")


def test_tracking_that_is_slower_than_the_integral_is_refused() -> None:
    with pytest.raises(ConfigError, match="tracking_time"):
        config(tracking_time=60.0)


def test_ties_named_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match="ties: named twice"):
        config(ties=("tie", "tie"))


@pytest.mark.parametrize("tracking_s", [0.5, 5.0])
def test_cycle_longer_than_the_time_of_tracking_does_not_overshoot(tracking_s: float) -> None:
    bench = Bench(NODE, config(maximum=10e6, tracking_time=tracking_s))
    course = [at(bench, 2.0 * k, 49.5) for k in range(30)]
    assert course == [10e6] * 30
    # What is kept of the integral is what came of it: the next smaller deviation shows at once.
    assert at(bench, 60.0, 49.52) == pytest.approx(10e6 - 0.5 * 100e6 * 0.02 + 2.0 * 48e6 / 50.0, abs=3e6)


def test_tie_that_carries_the_same_for_long_is_not_frozen_and_a_frequency_is() -> None:
    bench = Bench(NODE, config(ties=("tie",), frozen_after=10.0))
    for k in range(20):
        at(bench, 2.0 * k, 50.0 + 1e-6 * k, 0.0)
    assert {each.status for each in setpoints(bench.told)} == {"ok"}
    for k in range(20, 30):
        at(bench, 2.0 * k, 50.0, 1e-3 * k)
    assert setpoints(bench.told)[-1].reason.startswith("PMU: frozen at 50")


def test_exchange_beyond_what_a_tie_can_carry_is_not_relied_on() -> None:
    bench = Bench(NODE, config(ties=("tie",), tie_power_max=500e6))
    at(bench, 0.0, 50.0, -400e6)
    for k in range(1, 4):
        at(bench, 2.0 * k, 50.0 + 1e-6 * k, 30e9)
    last = setpoints(bench.told)[-1]
    assert (last.status, last.reason) == ("fallback", "tie: 3e+10 is not plausible: outside -5e+08 to 5e+08")


def test_clock_that_is_set_back_neither_stops_it_nor_makes_it_jump() -> None:
    bench = Bench(NODE, config(ramp=1e6))
    before_w = [at(bench, 7200.0 + 2.0 * k, 49.95) for k in range(10)][-1]
    after_w: list[float] = []
    for k in range(5):
        now_s = 7220.0 - HOUR_S + 2.0 * k
        bench.take(seen(now_s, frequency_hz=49.95, received_s=now_s))
        after_w.append(bench.power_w(now_s))
    assert {each.status for each in setpoints(bench.told)} == {"ok"}
    assert after_w[0] == pytest.approx(before_w)
    assert after_w[1] == pytest.approx(before_w + 2.0 * 5e6 / 50.0)


def test_clock_that_is_set_forward_moves_integral_and_ramp_by_no_more_than_set_points_are_valid() -> None:
    for ramp_w, most_w in ((None, 10.0 * 5e6 / 50.0), (0.1e6, 10.0 * 0.1e6)):
        bench = Bench(NODE, config(ramp=ramp_w, valid_for=10.0))
        before_w = [at(bench, 2.0 * k, 49.95) for k in range(10)][-1]
        assert at(bench, 18.0 + HOUR_S, 49.95) - before_w == pytest.approx(most_w, rel=1e-6)
