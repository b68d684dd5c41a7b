from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from control_cases import HOUR_S, Bench, S, alarms, seen, setpoints, shadows
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgeflex_flow.errors import BadMessageError, ConfigError
from edgeflex_flow.messages import Setpoints, ShadowSetpoints
from edgeflex_operators.dispatch import NODE, DispatchConfig, DispatchedUnit, Storage, water_filled

UNITS = {
    "chp": DispatchedUnit(minimum=0.0, maximum=10e6, scheduled=4e6),
    "pv": DispatchedUnit(minimum=0.0, maximum=5e6, scheduled=5e6),
    "bess": DispatchedUnit(minimum=-3e6, maximum=3e6, storage=Storage(capacity=1e6)),
}


def bench(**values: Any) -> Bench:
    given: dict[str, Any] = {"name": "vpp", "area": "north", "controllers": ("droop", "agc"), "units": UNITS, **values}
    return Bench(NODE, DispatchConfig(**given))


def asked(controller: str, time_s: float, change_w: float, **values: Any) -> Setpoints:
    given: dict[str, Any] = {
        "controller": controller,
        "time_ns": round(time_s * S),
        "quantity": "active_power_w",
        "values": {"north": change_w},
        "valid_for_s": 10.0,
        "status": "ok",
        **values,
    }
    return Setpoints(**given)


def ready(droop_w: float = 0.0, agc_w: float = 0.0, *, charge: float = 50.0, **values: Any) -> Bench:
    made = bench(**values)
    made.take(asked("droop", 0.0, droop_w))
    made.take(asked("agc", 0.0, agc_w))
    made.take(seen(0.0, "bess", state_of_charge_percent=charge), "measurements")
    return made


def shares(made: Bench, now_s: float) -> dict[str, float]:
    [told] = setpoints(made.tick(now_s))
    return told.values


def change_w(made: Bench, now_s: float) -> float:
    return sum(shares(made, now_s).values()) - 9e6


def test_sum_of_what_is_asked_is_split_by_headroom() -> None:
    # Headroom up: 6, 0 and of the battery 1.6 MW, which 40 % of 1 MWh give for 15 min.
    assert shares(ready(1e6, 2e6), 0.0) == pytest.approx(
        {"chp": 4e6 + 3e6 * 6.0 / 7.6, "pv": 5e6, "bess": 3e6 * 1.6 / 7.6}
    )


def test_participation_weighs_the_headroom_and_0_takes_a_unit_out() -> None:
    units = {
        "a": DispatchedUnit(minimum=-1e6, maximum=1e6, participation=3.0),
        "b": DispatchedUnit(minimum=-1e6, maximum=1e6),
        "c": DispatchedUnit(minimum=-1e6, maximum=1e6, participation=0.0),
    }
    made = bench(units=units, controllers=("agc",))
    made.take(asked("agc", 0.0, -0.8e6))
    assert shares(made, 0.0) == pytest.approx({"a": -0.6e6, "b": -0.2e6, "c": 0.0})
    made.take(asked("agc", 1.0, 1.8e6))
    assert shares(made, 1.0) == pytest.approx({"a": 1e6, "b": 0.8e6, "c": 0.0})


@pytest.mark.parametrize(("charge", "low_w", "high_w"), [
    (10.0, -3e6, 0.0), (12.0, -3e6, 0.08e6), (90.0, 0.0, 3e6), (5.0, -3e6, 0.0), (99.0, 0.0, 3e6),
])  # fmt: skip
def test_storage_is_limited_by_its_energy(charge: float, low_w: float, high_w: float) -> None:
    assert shares(ready(100e6, charge=charge), 0.0)["bess"] == pytest.approx(high_w)
    assert shares(ready(-100e6, charge=charge), 0.0)["bess"] == pytest.approx(low_w)


def test_limits_that_were_met_are_named() -> None:
    [told] = setpoints(ready(100e6).tick(0.0))
    assert told.limits == {"chp": ("hardware",), "bess": ("energy",)}
    [told] = setpoints(ready(100e6, highest=2e6).tick(0.0))
    assert told.limits == {"chp": ("policy",), "pv": ("policy",), "bess": ("policy",)}


def test_shortfall_is_told_once_and_so_is_its_end() -> None:
    made = ready(100e6)
    for k in range(5):
        made.tick(0.1 * k)
    [alarm] = alarms(made.told)
    assert alarm.text == "asked to change the power of north by 1e+08 W, the units can give 7.6e+06 W"
    made.take(asked("droop", 1.0, 1e6))
    [alarm] = alarms(made.tick(1.0))
    assert alarm.severity == "info"
    assert alarms(made.tick(1.1)) == []


def test_policy_bounds_what_is_asked_of_all_together() -> None:
    assert change_w(ready(7e6, highest=2e6), 0.0) == pytest.approx(2e6)
    assert change_w(ready(-7e6, lowest=-3e6), 0.0) == pytest.approx(-3e6)


def test_ramp_of_a_unit_is_kept() -> None:
    units = {"a": DispatchedUnit(minimum=-1e6, maximum=1e6, ramp=1e5)}
    made = bench(units=units, controllers=("agc",))
    made.take(asked("agc", 0.0, 1e6))
    assert [shares(made, float(k))["a"] for k in range(3)] == pytest.approx([0.0, 1e5, 2e5])


def test_silent_controller_is_held_then_counts_as_0_and_the_others_go_on() -> None:
    made = ready(1e6, 2e6, hold_for=5.0, max_age=60.0)
    made.tick(0.0)
    made.take(asked("droop", 12.0, 1e6))
    [told] = setpoints(made.tick(12.0))
    assert sum(told.values.values()) == pytest.approx(12e6)
    assert (told.status, told.missing) == ("fallback", ("agc",))
    assert told.reason == "agc: expired 2.0 s ago"
    assert change_w(made, 15.1) == pytest.approx(1e6)
    assert [each.text.split(": ")[1] for each in alarms(made.told)] == [
        "agc is silent, its last value holds",
        "agc is silent, it counts as 0",
    ]


def test_fallback_safe_counts_a_silent_controller_as_0_at_once() -> None:
    made = ready(1e6, 2e6, fallback="safe", max_age=60.0)
    made.tick(0.0)
    made.take(asked("droop", 10.5, 1e6))
    assert change_w(made, 10.5) == pytest.approx(1e6)


def test_unknown_state_of_charge_keeps_the_storage_safe_and_others_take_over() -> None:
    made = ready(3e6)
    made.tick(0.0)
    for name in ("droop", "agc"):
        made.take(asked(name, 40.0, 3e6 * (name == "droop")))
    [told] = setpoints(made.tick(40.0))
    assert told.values == pytest.approx({"chp": 7e6, "pv": 5e6, "bess": 0.0})
    assert (told.status, told.missing) == ("fallback", ("bess",))


def test_controller_in_fallback_shows_in_what_follows() -> None:
    made = ready()
    made.take(asked("agc", 1.0, 0.0, status="fallback", reason="PMU: 3.2 s old"))
    [told] = setpoints(made.tick(1.0))
    assert (told.status, told.reason) == ("fallback", "agc: PMU: 3.2 s old")


def test_older_set_points_change_nothing_and_those_of_others_do_not_count() -> None:
    made = ready(1e6)
    made.take(asked("droop", -1.0, 5e6))
    made.take(asked("stranger", 1.0, 5e6))
    made.take(asked("droop", 1.0, 5e6, values={"south": 5e6}))
    assert change_w(made, 1.0) == pytest.approx(1e6)


def test_shadow_is_not_obeyed_in_control_and_counts_in_shadow() -> None:
    ask = asked("droop", 0.0, 1e6)
    shadow = ShadowSetpoints(**{name: getattr(ask, name) for name in ask.__struct_fields__})
    made = ready()
    made.take(ShadowSetpoints(**{name: getattr(shadow, name) for name in shadow.__struct_fields__}))
    assert change_w(made, 0.0) == pytest.approx(0.0)
    made = ready(mode="shadow")
    made.take(shadow)
    [told] = shadows(made.tick(0.0))
    assert sum(told.values.values()) == pytest.approx(10e6)


@pytest.mark.parametrize("values", [{"quantity": "active_power_kw"}, {"values": {"north": float("nan")}}])
def test_set_points_in_another_quantity_are_dead_letters(values: dict[str, Any]) -> None:
    with pytest.raises(BadMessageError, match="known: active_power_w"):
        bench().take(asked("agc", 0.0, 1.0, **values))


def test_end_leaves_each_unit_in_its_safe_state() -> None:
    units = {"a": DispatchedUnit(minimum=0.0, maximum=1e6, scheduled=5e5, safe=1e5), "b": UNITS["chp"]}
    made = bench(units=units, controllers=("agc",))
    made.take(asked("agc", 0.0, 1e6))
    made.tick(0.0)
    [last] = setpoints(made.end())
    assert (last.values, last.status) == ({"a": 1e5, "b": 4e6}, "safe")


numbers = st.floats(-1e3, 1e3)
bounds = st.tuples(numbers, numbers).map(sorted)


@given(st.floats(-5e3, 5e3), st.lists(st.tuples(st.floats(0.0, 10.0), bounds), min_size=1, max_size=8))
def test_water_filling_keeps_all_bounds_and_places_all_that_can_be_placed(
    total: float, given_units: list[tuple[float, list[float]]]
) -> None:
    weight = np.array([unit[0] for unit in given_units])
    low = np.array([unit[1][0] for unit in given_units])
    high = np.array([unit[1][1] for unit in given_units])
    share = water_filled(total, weight, low, high)
    assert (share >= low).all()
    assert (share <= high).all()
    forced = np.clip(0.0, low, high)
    able = forced.sum() + ((high - forced)[weight > 1e-6].sum() if total > forced.sum() else 0.0)
    able -= (forced - low)[weight > 1e-6].sum() if total < forced.sum() else 0.0
    reached = min(total, able) if total > forced.sum() else max(total, able)
    if not ((weight > 0.0) & (weight <= 1e-6)).any():
        assert share.sum() == pytest.approx(reached, abs=1e-6)


@given(st.floats(-20e6, 20e6), st.floats(0.0, 100.0))
def test_no_unit_is_asked_for_more_than_its_hardware(asked_w: float, charge: float) -> None:
    for name, value in shares(ready(asked_w, charge=charge), 0.0).items():
        assert UNITS[name].minimum <= value <= UNITS[name].maximum


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"highest": 50e6}, r"highest \(5e\+07 W\) is outside what the units can: -1.2e\+07 to 9e\+06 W"),
        ({"controllers": ("a", "a")}, "a controller is named twice"),
        ({"units": {"a": DispatchedUnit(minimum=1.0, maximum=0.0)}}, "unit 'a': minimum"),
        ({"units": {"a": DispatchedUnit(minimum=0.0, maximum=1.0, scheduled=2.0)}}, "scheduled"),
        (
            {"units": {"a": DispatchedUnit(minimum=1.0, maximum=2.0, scheduled=1.0, storage=Storage(capacity=1.0))}},
            "a storage can be at rest",
        ),
        (
            {
                "units": {
                    "a": DispatchedUnit(
                        minimum=-1.0, maximum=2.0, storage=Storage(capacity=1.0, least_percent=9.0, most_percent=8.0)
                    )
                }
            },
            "least_percent is not less",
        ),
    ],
)
def test_units_and_bounds_that_contradict_each_other_are_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        bench(**values)


def ramped(**storage: Any) -> Bench:
    """A storage on a slow ramp beside a plant that can give all by itself."""
    units = {
        "bess": DispatchedUnit(minimum=-4e6, maximum=4e6, ramp=1e4, storage=Storage(capacity=1e6, **storage)),
        "chp": DispatchedUnit(minimum=0.0, maximum=8e6),
    }
    return bench(units=units, controllers=("agc",), period=1.0)


def course(made: Bench, seconds: range, change_w: float, charge: float) -> list[dict[str, float]]:
    given: list[dict[str, float]] = []
    for k in seconds:
        made.take(seen(float(k), "bess", state_of_charge_percent=charge), "measurements")
        made.take(asked("agc", float(k), change_w))
        given.append(shares(made, float(k)))
    return given


def test_others_make_up_for_what_the_ramp_of_a_unit_keeps_it_from_giving() -> None:
    made = ramped()
    given = course(made, range(60), 6e6, 60.0)
    assert [sum(each.values()) for each in given] == pytest.approx([6e6] * 60)
    assert [each["bess"] for each in given] == pytest.approx([1e4 * k for k in range(60)])
    # And the other way round: the storage is still on its way down.
    given = course(made, range(60, 160), 2e6, 60.0)
    assert [sum(each.values()) for each in given] == pytest.approx([2e6] * 100)
    assert alarms(made.told) == []


@pytest.mark.parametrize(("change_w", "full", "charge"), [(6e6, 90.0, 10.0), (-3e6, 10.0, 90.0), (6e6, 90.0, 4.0)])
def test_storage_stops_at_the_end_of_its_energy_whatever_its_ramp(change_w: float, full: float, charge: float) -> None:
    made = ramped()
    assert abs(course(made, range(100), change_w, full)[-1]["bess"]) > 0.5e6
    [stopped] = course(made, range(100, 101), change_w, charge)
    assert stopped == pytest.approx({"bess": 0.0, "chp": max(change_w, 0.0)})


def test_storage_whose_charge_is_unknown_goes_to_its_safe_power_along_the_ramp() -> None:
    made = ramped()
    course(made, range(60), 6e6, 60.0)
    made.config = replace(made.config, max_age=0.5)
    made.take(asked("agc", 60.0, 6e6))
    assert shares(made, 60.0) == pytest.approx({"bess": 580e3, "chp": 5.42e6})


def test_ramp_is_no_shortfall_until_it_takes_longer_than_ramps_explain() -> None:
    units = {"a": DispatchedUnit(minimum=-1e6, maximum=1e6, ramp=1e5)}  # 20 s from end to end
    made = bench(units=units, controllers=("agc",))
    for k in range(30):
        made.take(asked("agc", float(k), 1e6))
        made.tick(float(k))
    assert alarms(made.told) == []
    for k in range(30, 80):
        made.take(asked("agc", float(k), 1e6 if k > 34 and k % 2 else -1e6))
        made.tick(float(k))
    [alarm] = alarms(made.told)
    assert alarm.time_ns == 51 * S
    assert alarm.text == "asked to change the power of north by 1e+06 W, the units have given 600000 W after 21 s"
    for k in range(80, 100):
        made.take(asked("agc", float(k), 1e6))
        made.tick(float(k))
    assert [each.severity for each in alarms(made.told)] == ["warning", "info"]


@given(st.lists(st.tuples(st.floats(-14e6, 14e6), st.floats(0.0, 100.0), st.floats(0.0, 3.0)), min_size=1, max_size=12))
def test_sum_is_given_wherever_energy_hardware_and_ramps_allow(steps: list[tuple[float, float, float]]) -> None:
    units = {
        "bess": DispatchedUnit(minimum=-4e6, maximum=4e6, ramp=5e5, storage=Storage(capacity=1e6)),
        "chp": DispatchedUnit(minimum=0.0, maximum=8e6, scheduled=2e6, ramp=1e6),
        "free": DispatchedUnit(minimum=-1e6, maximum=1e6),
    }
    made, now_s = bench(units=units, controllers=("agc",)), 0.0
    before = {name: unit.scheduled for name, unit in units.items()}
    for change_w, charge, gap_s in steps:
        reach = min(gap_s if made.state.controller.decided_ns is not None else 0.0, made.config.valid_for)
        now_s += gap_s
        made.take(seen(now_s, "bess", state_of_charge_percent=charge), "measurements")
        made.take(asked("agc", now_s, change_w))
        made.state.charge.readings["bess"].value = charge  # also where the time did not move
        given_w = shares(made, now_s)
        energy = units["bess"].storage.bounds(charge)  # type: ignore[union-attr]
        low_w = high_w = -2e6
        for name, unit in units.items():
            low, high = unit.minimum, unit.maximum
            if name == "bess":
                low, high = max(low, energy.low), min(high, energy.high)
            if unit.ramp is not None:
                low, high = (min(max(before[name] + sign * unit.ramp * reach, low), high) for sign in (-1.0, 1.0))
            assert low - 1.0 <= given_w[name] <= high + 1.0
            low_w, high_w = low_w + low, high_w + high
        assert sum(given_w.values()) - 2e6 == pytest.approx(min(max(change_w, low_w), high_w), abs=5.0)
        before = given_w


def test_clock_that_is_set_back_lets_old_set_points_expire_in_time() -> None:
    made = bench(controllers=("agc",), units={"a": DispatchedUnit(minimum=-1e7, maximum=1e7)}, hold_for=5.0)
    made.take(asked("agc", 7200.0, 9e6, valid_for_s=2.0))
    made.tick(7200.0)
    told = [setpoints(made.tick(7200.0 - HOUR_S + k))[0] for k in range(10)]
    assert [each.status for each in told] == ["ok"] * 3 + ["fallback"] * 7
    assert [each.values["a"] for each in told] == [9e6] * 8 + [0.0] * 2


def test_set_points_count_after_the_clock_was_set_back() -> None:
    made = bench(controllers=("agc",), units={"a": DispatchedUnit(minimum=-1e7, maximum=1e7)})
    made.take(asked("agc", 7200.0, 9e6))
    made.tick(7200.0)
    course_w: list[float] = []
    for k in range(3):
        made.take(asked("agc", 3600.0 + k, 1e6))
        course_w.append(shares(made, 3600.0 + k)["a"])
    assert course_w == [9e6, 1e6, 1e6]


def test_clock_that_is_set_forward_does_not_stretch_a_ramp() -> None:
    made = bench(controllers=("agc",), units={"a": DispatchedUnit(minimum=-1e6, maximum=1e6, ramp=1e5)}, valid_for=2.0)
    for now_s, expected_w in ((0.0, 0.0), (1.0, 1e5), (1.0 + HOUR_S, 3e5)):
        made.take(asked("agc", now_s, 1e6))
        assert shares(made, now_s)["a"] == pytest.approx(expected_w)


def test_set_back_of_the_clock_does_not_stretch_how_long_ramps_explain_a_shortfall() -> None:
    made = bench(controllers=("agc",), units={"a": DispatchedUnit(minimum=-1e6, maximum=1e6, ramp=1e5)})
    for k in range(40):
        now_s = 7200.0 + k - HOUR_S * (k >= 10)
        made.take(asked("agc", now_s, 1e6 if k % 2 else -1e6))
        made.tick(now_s)
    assert [each.time_ns for each in alarms(made.told)] == [(7210 - 3600 + 21) * S]


def test_shortfall_is_over_once_the_units_can_give_what_is_asked_though_they_are_on_their_ramp() -> None:
    made = bench(controllers=("agc",), units={"a": DispatchedUnit(minimum=-1e6, maximum=1e6, ramp=1e5)})
    for k in range(60):
        made.take(asked("agc", float(k), 5e6 if k < 50 else -1e6))
        made.tick(float(k))
    assert [(each.severity, each.time_ns) for each in alarms(made.told)] == [("warning", 0), ("info", 50 * S)]
    assert setpoints(made.told)[-1].limits == {"a": ("hardware", "ramp")}


def test_decision_counts_as_seeing_while_a_controller_is_heard() -> None:
    made = ready(hold_for=5.0, max_age=60.0)
    made.tick(0.0)
    made.take(asked("droop", 6.0, 0.0))
    made.tick(12.0)
    made.tick(20.0)
    assert made.state.controller.normal_ns == 12 * S
