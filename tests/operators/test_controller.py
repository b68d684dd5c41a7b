"""What all controllers share, shown with the simplest one."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from control_cases import HOUR_S, Bench, S, alarms, seen, setpoints, shadows

from edgeflex_flow import __version__
from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Quality, decode_message, encode_message
from edgeflex_flow.messages import Setpoints as SetpointsMessage
from edgeflex_operators._controller import ControllerState, Decision
from edgeflex_operators._units import digest
from edgeflex_operators.frequency_droop import NODE, FrequencyDroopConfig


def bench(**values: Any) -> Bench:
    settings: dict[str, Any] = {
        "name": "fcr",
        "asset": "bess",
        "devices": ("PMU",),
        "fcr_power": 1e6,
        "dead_band": 0.0,
        "minimum": -2e6,
        "maximum": 2e6,
        **values,
    }
    return Bench(NODE, FrequencyDroopConfig(**settings))


def blinded(**values: Any) -> Bench:
    """A controller that saw 49.9 Hz at 0 s, decided, and sees nothing from then on."""
    made = bench(**values)
    made.take(seen(0.0, frequency_hz=49.9))
    assert made.power_w(0.1) == pytest.approx(500e3)
    return made


def test_set_points_tell_who_when_for_how_long_and_why() -> None:
    made = bench(highest=400e3)
    made.take(seen(1.0, frequency_hz=49.9, quality=int(Quality.TIME_UNCERTAIN)))
    [told] = setpoints(made.tick(1.25))
    assert told == SetpointsMessage(
        controller="fcr",
        time_ns=1_250_000_000,
        quantity="active_power_w",
        values={"bess": 400e3},
        valid_for_s=2.0,
        status="ok",
        limits={"bess": ("policy",)},
        measured_begin_ns=1_000_000_000,
        measured_end_ns=1_000_000_000,
        quality=int(Quality.TIME_UNCERTAIN),
        config_digest=digest(made.config),
        version=f"{__version__}/droop-1",
    )
    assert decode_message(encode_message(told), [SetpointsMessage]) == told


def test_nothing_is_told_while_the_first_measurement_may_still_come() -> None:
    made = bench(max_age=0.5)
    assert made.tick(10.0) == made.tick(10.4) == []
    [alarm, *_] = made.tick(10.5)
    assert "PMU: nothing came" in str(alarm)


def test_shadow_tells_the_same_and_nothing_that_is_obeyed() -> None:
    made, other = bench(mode="shadow"), bench()
    for each in (made, other):
        each.take(seen(0.0, frequency_hz=49.9))
    told = made.tick(0.1)
    assert setpoints(told) == []
    assert [each.values for each in shadows(told)] == [each.values for each in setpoints(other.tick(0.1))]
    assert shadows(made.end())[0].status == "safe"


def test_set_points_are_held_for_the_declared_time_then_the_safe_state_holds() -> None:
    made = blinded(safe=-100e3, hold_for=3.0)
    [held] = setpoints(made.tick(3.0))
    [safe] = setpoints(made.tick(3.2))
    assert held.values["bess"] == pytest.approx(500e3)
    assert held.status == "fallback"
    assert (safe.values["bess"], safe.status, safe.missing) == (-100e3, "fallback", ("PMU",))
    assert safe.reason == "PMU: 3.2 s old"


def test_fallback_safe_does_not_hold() -> None:
    made = blinded(fallback="safe", safe=-100e3)
    assert made.power_w(1.0) == -100e3


def test_each_change_is_an_alarm_once() -> None:
    made = blinded(hold_for=3.0)
    for k in range(7, 100):
        made.tick(k / 10)
    assert [each.severity for each in alarms(made.told)] == ["warning", "warning"]
    assert [each.text.split(": ")[1] for each in alarms(made.told)] == ["hold", "safe"]
    made.told.clear()
    for k in range(100, 150):
        made.take(seen(k / 10, frequency_hz=50.0 + k * 1e-5))
        made.tick(k / 10)
    [back] = alarms(made.told)
    assert (back.severity, back.time_ns) == ("info", 11_000_000_000)
    assert {each.status for each in setpoints(made.told)} == {"ok"}


def test_measurements_that_come_and_go_make_one_alarm() -> None:
    made = blinded(hold_for=30.0)
    for k in range(10, 200):
        if k % 8 == 0:
            made.take(seen(k / 10, frequency_hz=50.0 + k * 1e-5))
        made.tick(k / 10)
    assert len(alarms(made.told)) == 1


def test_orderly_end_leaves_the_safe_state_after_the_last_set_point() -> None:
    made = blinded(safe=100e3)
    [last] = setpoints(made.end())
    assert (last.values, last.status, last.time_ns) == ({"bess": 100e3}, "safe", 100_000_001)


def test_end_before_anything_was_decided_tells_nothing() -> None:
    assert bench().end() == []


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"valid_for": 0.1}, r"valid_for \(0.1 s\) is not longer than period"),
        ({"minimum": 3e6}, "minimum .* is not less than maximum"),
        ({"highest": 3e6}, r"highest \(3e\+06 W\) is outside what the hardware can: -2e\+06 to 2e\+06 W"),
        ({"lowest": -3e6}, "lowest .* is outside what the hardware can"),
        ({"lowest": 1e6, "highest": 0.0}, "lowest .* is above highest"),
        ({"safe": 9e6}, "safe .* is outside what the hardware can"),
        ({"scheduled": 9e6}, "scheduled .* is outside what the hardware can"),
        ({"devices": ("PMU", "other", "PMU")}, "devices: named twice"),
    ],
)
def test_config_that_contradicts_itself_or_the_hardware_is_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        bench(**values)


@pytest.mark.parametrize("flag", [Quality.SYNC_LOST, Quality.TIME_UNCERTAIN])
def test_clock_that_is_not_locked_is_refused_where_that_is_required(flag: Quality) -> None:
    for required, expected in ((False, "ok"), (True, "fallback")):
        made = bench(require_sync=required, max_age=0.2)
        made.tick(0.0)
        made.take(seen(1.0, frequency_hz=49.9, quality=int(flag)))
        assert setpoints(made.tick(1.0))[0].status == expected


def test_median_of_the_devices_that_can_be_relied_on_counts() -> None:
    made = bench(devices=("A", "B", "C", "D"))
    for name, frequency_hz in {"A": 49.9, "B": 49.91, "C": 55.0, "D": 49_900.0}.items():
        made.take(seen(0.0, name, frequency_hz=frequency_hz))
    [told] = setpoints(made.tick(0.0))
    assert told.values["bess"] == pytest.approx(450e3)
    assert (told.missing, told.status) == (("D",), "ok")


def test_state_survives_pickling_with_what_is_in_force() -> None:
    made = blinded()
    made.state = pickle.loads(pickle.dumps(made.state))
    assert made.power_w(3.0) == pytest.approx(500e3)


def test_set_points_are_held_no_longer_when_the_clock_is_set_back() -> None:
    made = bench(hold_for=5.0)
    made.take(seen(7200.0, frequency_hz=49.9))
    made.tick(7200.1)
    course = [made.power_w(7200.1 - HOUR_S + k) for k in range(8)]
    assert course == pytest.approx([500e3] * 6 + [0.0] * 2)


def test_start_ends_when_the_clock_is_set_back_meanwhile() -> None:
    made = bench(max_age=0.5)
    assert made.tick(7200.0) == []
    assert made.tick(7200.0 - HOUR_S) == []
    assert made.tick(7200.6 - HOUR_S) != []


def test_return_to_normal_is_told_though_the_clock_was_set_back() -> None:
    made = blinded(fallback="safe")
    made.tick(7200.0)
    made.take(seen(7200.1, frequency_hz=49.91))
    assert setpoints(made.tick(7200.1))[0].status == "ok"
    made.told.clear()
    for k in range(12):
        made.take(seen(3600.0 + k / 5, frequency_hz=49.9 + 1e-6 * k, received_s=3600.0 + k / 5))
        made.tick(3600.0 + k / 5)
    assert [each.severity for each in alarms(made.told)] == ["info"]


def test_time_since_the_last_decision_is_never_that_of_a_clock_that_was_set() -> None:
    state, config = ControllerState(), bench(valid_for=2.0).config
    assert state.elapsed_s(5 * S) == 0.0
    state.tell(config, 10 * S, Decision("active_power_w", {"bess": 0.0}))
    assert (state.elapsed_s(11 * S), state.paced_s(config, 11 * S)) == (1.0, 1.0)
    assert (state.elapsed_s(3610 * S), state.paced_s(config, 3610 * S)) == (3600.0, 2.0)
    assert state.elapsed_s(4 * S) == 0.0
    assert state.elapsed_s(5 * S) == 1.0


def test_ramp_holds_when_the_clock_is_set_forward_or_the_process_paused() -> None:
    made = bench(ramp=1e5, valid_for=2.0)
    for now_s, expected_w in ((0.0, 0.0), (1.0, 1e5), (1.0 + HOUR_S, 3e5)):
        made.take(seen(now_s, frequency_hz=49.8 - 1e-6 * now_s))
        assert made.power_w(now_s) == pytest.approx(expected_w)


def test_degraded_decision_from_measurements_may_be_held_and_a_blind_one_may_not() -> None:
    config = bench(hold_for=5.0).config
    for is_blind, kind in ((False, "hold"), (True, "safe")):
        state = ControllerState()
        state.tell(config, 0, Decision("active_power_w", {"bess": 1.0}, "one is missing", is_blind=is_blind))
        assert state.fallback(config, 4 * S, {"bess": 0.0})[0] == kind


def test_decision_that_rests_on_the_fallback_does_not_prolong_it() -> None:
    state, config = ControllerState(), bench(hold_for=5.0).config
    state.tell(config, 0, Decision("active_power_w", {"bess": 1.0}))
    kinds: list[str] = []
    for k in range(1, 8):
        kind, values = state.fallback(config, k * S, {"bess": 0.0})
        state.tell(config, k * S, Decision("active_power_w", values, kind, is_blind=True))
        kinds.append(kind)
    assert kinds == ["hold"] * 5 + ["safe"] * 2


def test_no_policy_keeps_an_asset_from_its_safe_state_but_its_ramp_leads_there() -> None:
    made = bench(fallback="safe", safe=0.0, lowest=100e3, ramp=1e5)
    made.take(seen(0.0, frequency_hz=49.9))
    made.tick(0.1)
    for k in range(3):
        made.take(seen(1.0 + k, frequency_hz=49.9 + 1e-6 * k))
        made.tick(1.0 + k)
    assert [made.power_w(4.0 + k) for k in range(4)] == pytest.approx([190e3, 90e3, 0.0, 0.0], abs=1.0)


def test_policy_bounds_what_is_held() -> None:
    made = blinded(hold_for=30.0)
    made.config = bench(hold_for=30.0, highest=200e3).config
    assert made.power_w(1.0) == 200e3


@pytest.mark.parametrize(
    ("other_hz", "power_w", "status"), [(49.95, 375e3, "ok"), (49.7, 500e3, "fallback"), (50.4, 500e3, "fallback")]
)
def test_of_two_pmus_that_disagree_the_one_nearer_to_nominal_counts(
    other_hz: float, power_w: float, status: str
) -> None:
    made = bench(devices=("A", "B"))
    made.take(seen(0.0, "A", frequency_hz=49.9))
    made.take(seen(0.0, "B", frequency_hz=other_hz))
    [told] = setpoints(made.tick(0.0))
    assert told.values["bess"] == pytest.approx(power_w)
    assert told.status == status
    assert [each.text for each in alarms(made.told)] == [
        f"not in normal operation: two PMUs disagree, the one nearer to nominal counts: 49.900 and {other_hz:.3f} Hz"
    ] * (status != "ok")
