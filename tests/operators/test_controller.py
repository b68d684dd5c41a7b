"""What all controllers share, shown with the simplest one."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from control_cases import Bench, alarms, seen, setpoints, shadows

from edgeflex_flow import __version__
from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Quality, decode_message, encode_message
from edgeflex_flow.messages import Setpoints as SetpointsMessage
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
