from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from control_cases import Bench, seen
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_flow.errors import ConfigError
from edgeflex_operators._active_power import without_band
from edgeflex_operators.frequency_droop import NODE, RULES, FrequencyDroopConfig, fcr_w


def config(**values: Any) -> FrequencyDroopConfig:
    settings: dict[str, Any] = {
        "name": "fcr",
        "asset": "bess",
        "devices": ("PMU",),
        "fcr_power": 10e6,
        "minimum": -100e6,
        "maximum": 100e6,
        "frozen_after": 86_400.0,  # tests hold the frequency for long
        **values,
    }
    return FrequencyDroopConfig(**settings)


def lfsm(**values: Any) -> Bench:
    """A plant of 60 MW without FCR."""
    return Bench(NODE, config(fcr_power=0.0, minimum=0.0, scheduled=60e6, dead_band=0.0, **values))


def at(bench: Bench, time_s: float, frequency_hz: float) -> float:
    bench.take(seen(time_s, frequency_hz=frequency_hz))
    return bench.power_w(time_s)


@pytest.mark.parametrize("area", RULES)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_all_of_the_reserve_is_active_where_the_area_says_so(area: Any, sign: float) -> None:
    rule, made = RULES[area], config(area=area)
    assert fcr_w(made, sign * rule.full_hz) == pytest.approx(-sign * 10e6)
    assert fcr_w(made, sign * rule.full_hz * 3.0) == -sign * 10e6
    assert abs(fcr_w(made, sign * rule.full_hz * 0.97)) < 10e6


@pytest.mark.parametrize(("area", "full_hz", "band_hz"), [
    ("ce", 0.2, 0.01), ("gb", 0.5, 0.015), ("ie_ni", 0.5, 0.015), ("nordic", 0.5, 0.01),
])  # fmt: skip
def test_rules_are_those_of_the_guideline(area: str, full_hz: float, band_hz: float) -> None:
    assert (RULES[area].full_hz, RULES[area].dead_band_hz) == (full_hz, band_hz)


@given(st.floats(-1.0, 1.0), st.floats(0.0, 0.01))
def test_reserve_agrees_with_interpolation_between_its_corners(deviation_hz: float, band_hz: float) -> None:
    corners = [-0.2, -band_hz, band_hz, 0.2]
    expected = np.interp(deviation_hz, corners, [10e6, 0.0, 0.0, -10e6])
    assert fcr_w(config(dead_band=band_hz), deviation_hz) == pytest.approx(expected, abs=1.0)


@given(st.floats(-10.0, 10.0), st.floats(0.0, 5.0))
def test_dead_band_makes_no_step_and_swallows_no_more_than_itself(deviation: float, band: float) -> None:
    left = without_band(deviation, band)
    assert abs(left) == pytest.approx(max(abs(deviation) - band, 0.0))
    assert left * deviation >= 0.0
    nudge = 1e-6
    assert abs(without_band(deviation + nudge, band) - left) <= nudge * (1.0 + 1e-6)


def test_ramp_limits_how_fast_the_reserve_comes() -> None:
    bench = Bench(NODE, config(ramp=1e6))
    assert at(bench, 0.0, 49.8) == 0.0
    assert at(bench, 1.0, 49.8) == pytest.approx(1e6)
    assert at(bench, 3.0, 49.8) == pytest.approx(3e6)


def test_over_frequency_takes_the_power_down_from_where_it_was() -> None:
    bench = lfsm(over_threshold=50.2)
    assert at(bench, 0.0, 50.1) == 60e6
    # 5 % droop: 2.5 Hz change all of P_ref.
    assert at(bench, 1.0, 50.7) == pytest.approx(60e6 * (1.0 - 0.5 / 2.5))
    assert at(bench, 2.0, 50.45) == pytest.approx(60e6 * (1.0 - 0.25 / 2.5))
    assert at(bench, 3.0, 53.0) == 0.0


def test_under_frequency_takes_the_power_up_as_far_as_the_hardware_can() -> None:
    bench = lfsm(under_threshold=49.8)
    assert at(bench, 0.0, 49.9) == 60e6
    assert at(bench, 1.0, 49.3) == pytest.approx(60e6 * 1.2)
    assert at(bench, 2.0, 46.0) == 100e6


def test_reference_is_what_was_measured_at_the_crossing() -> None:
    bench = lfsm(over_threshold=50.2, power_device="meter")
    bench.take(seen(0.0, "meter", active_power_w=40e6, frequency_hz=np.nan))
    assert at(bench, 0.1, 50.7) == pytest.approx(40e6 * 0.8)
    bench.take(seen(0.2, "meter", active_power_w=32e6, frequency_hz=np.nan))
    assert at(bench, 0.3, 50.7) == pytest.approx(40e6 * 0.8)


def test_reference_is_the_set_point_in_force_where_the_meter_is_silent() -> None:
    bench = lfsm(over_threshold=50.2, power_device="meter")
    assert at(bench, 0.0, 50.7) == pytest.approx(60e6 * 0.8)


def test_plant_that_was_taken_down_is_released_only_after_the_delay() -> None:
    bench = lfsm(over_threshold=50.2, power_device="meter", release_delay=600.0)
    bench.take(seen(0.0, "meter", active_power_w=40e6, frequency_hz=np.nan))
    assert at(bench, 0.1, 50.7) == pytest.approx(32e6)
    assert at(bench, 10.0, 50.1) == pytest.approx(40e6)
    assert at(bench, 300.0, 50.45) == pytest.approx(36e6)  # the same P_ref, and the delay begins anew
    assert at(bench, 310.0, 50.0) == pytest.approx(40e6)
    assert at(bench, 909.0, 50.0) == pytest.approx(40e6)
    assert at(bench, 910.0, 50.0) == 60e6


def test_storage_that_charges_charges_more_at_over_frequency() -> None:
    bench = Bench(NODE, config(fcr_power=0.0, scheduled=-50e6, over_threshold=50.2))
    assert at(bench, 0.0, 50.7) == pytest.approx(-60e6)


def test_reserve_and_limited_mode_together_go_on_from_each_other() -> None:
    bench = Bench(NODE, config(scheduled=60e6, minimum=0.0, over_threshold=50.2))
    assert at(bench, 0.0, 50.2) == pytest.approx(50e6)
    assert at(bench, 1.0, 50.201) == pytest.approx(50e6 * (1.0 - 0.001 / 2.5))


@given(st.lists(st.floats(45.0, 55.0), min_size=1, max_size=30), st.floats(-50e6, 0.0), st.floats(0.0, 50e6))
def test_power_is_within_policy_bounds_and_hardware_whatever_the_frequency(
    course_hz: list[float], lowest: float, highest: float
) -> None:
    made = config(fcr_power=80e6, over_threshold=50.2, under_threshold=49.8, lowest=lowest, highest=highest)
    bench = Bench(NODE, made)
    for k, frequency_hz in enumerate(course_hz):
        assert lowest <= at(bench, 0.1 * k, frequency_hz) <= highest


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"dead_band": 0.02}, "above the 0.01 Hz that the area allows"),
        ({"over_threshold": 51.0}, r"over_threshold \(51 Hz\) is not within 50.2 to 50.5 Hz"),
        ({"under_threshold": 49.9}, "is not within 49.5 to 49.8 Hz"),
        ({"ramp": 0.3e6}, r"ramp \(300000 W/s\) takes 33 s for fcr_power \(1e\+07 W\); the area allows 30 s"),
        ({"ramp": 0.9e6, "area": "gb"}, "the area allows 10 s"),
        ({"fcr_power": 120e6}, "is more than the hardware can give in either direction"),
    ],
)
def test_settings_that_no_rule_knows_are_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        config(**values)


def test_reserve_that_ramp_and_hardware_can_just_give_is_accepted() -> None:
    assert config(ramp=10e6 / 30.0, fcr_power=10e6).fcr_power == 10e6
    assert config(fcr_power=100e6).fcr_power == 100e6
    # A plant at its most, which can only go down.
    assert config(fcr_power=100e6, minimum=0.0, scheduled=100e6).fcr_power == 100e6


def test_limited_mode_never_gives_less_reaction_than_the_reserve() -> None:
    for sign, threshold in ((1.0, {"over_threshold": 50.2}), (-1.0, {"under_threshold": 49.8})):
        bench = Bench(NODE, config(scheduled=10e6, dead_band=0.0, **threshold))
        assert at(bench, 0.0, 50.0) == 10e6
        # P_ref is still 10 MW: LFSM alone would give that, the reserve gives up 10 MW more.
        assert at(bench, 1.0, 50.0 + sign * 0.201) == pytest.approx(10e6 - sign * 10e6)
        assert at(bench, 2.0, 50.0 + sign * 0.1) == pytest.approx(10e6 - sign * 5e6)


def test_delay_of_release_ends_though_the_clock_was_set_back() -> None:
    bench = lfsm(over_threshold=50.2, release_delay=600.0)
    at(bench, 7200.0, 50.7)
    bench.state.over.reference_w = 40e6
    at(bench, 7201.0, 50.0)
    for k in range(0, 601, 100):
        now_s = 3600.0 + k
        bench.take(seen(now_s, frequency_hz=50.0, received_s=now_s))
        assert bench.power_w(now_s) == (60e6 if k >= 600 else 40e6)
