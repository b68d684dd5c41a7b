from __future__ import annotations

import math
from typing import Any

import pytest
from control_cases import HOUR_S, Bench, seen, setpoints
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_flow.errors import ConfigError
from edgeflex_operators._active_power import without_band
from edgeflex_operators.virtual_inertia import NODE, Phasor, VirtualInertiaConfig, unexplained_rad


def config(**values: Any) -> VirtualInertiaConfig:
    settings: dict[str, Any] = {
        "name": "inertia",
        "asset": "bess",
        "devices": ("PMU",),
        "inertia": 2.0,
        "rated_power": 10e6,
        "minimum": -5e6,
        "maximum": 5e6,
        "wash_out": 60.0,
        "frozen_after": 86_400.0,  # tests hold the ROCOF for long
        **values,
    }
    return VirtualInertiaConfig(**settings)


def at(bench: Bench, time_s: float, rocof_hz_per_s: float, frequency_hz: float = 49.95) -> float:
    bench.take(seen(time_s, frequency_hz=frequency_hz, rocof_hz_per_s=rocof_hz_per_s))
    return bench.power_w(time_s)


@given(st.floats(-2.0, 2.0), st.floats(0.0, 0.5))
def test_power_is_that_of_the_swing_equation_beyond_the_dead_band(rocof: float, band: float) -> None:
    expected = -2.0 * 2.0 * 10e6 / 50.0 * without_band(rocof, band)
    assert at(Bench(NODE, config(dead_band=band)), 0.0, rocof) == pytest.approx(expected, abs=1.0)


def test_answer_fades_with_the_wash_out() -> None:
    bench = Bench(NODE, config(dead_band=0.0, wash_out=2.0))
    course = [at(bench, 0.05 * k, -1.0 - 1e-9 * k) for k in range(81)]
    assert course[0] == pytest.approx(800e3)
    assert course[40] == pytest.approx(800e3 * math.exp(-1.0), rel=0.01)
    assert course[80] == pytest.approx(800e3 * math.exp(-2.0), rel=0.01)


def phasor(bench: Bench, time_s: float, angle_rad: float, frequency_hz: float = 50.0) -> None:
    bench.take(seen(time_s, frequency_hz=frequency_hz, voltage_angle_rad=angle_rad), "phasors")


def test_phase_jump_blocks_the_answer_for_its_time() -> None:
    bench = Bench(NODE, config(block_for=0.7))
    phasor(bench, 0.98, 0.1)
    assert at(bench, 0.98, 0.0) == 0.0
    phasor(bench, 1.0, 0.1 + math.radians(10.0))
    bench.take(seen(1.0, frequency_hz=50.0, rocof_hz_per_s=5.0))
    [told] = setpoints(bench.tick(1.0))
    assert (told.values["bess"], told.limits) == (0.0, {"bess": ("phase_jump",)})
    assert at(bench, 1.6, 0.5) == 0.0
    assert at(bench, 1.8, 0.5) < -0.3e6


@given(st.floats(45.5, 54.5), st.floats(-math.pi, math.pi), st.floats(0.004, 0.1))
def test_angle_that_turns_with_the_frequency_is_no_jump(frequency_hz: float, angle_rad: float, gap_s: float) -> None:
    turned = math.remainder(angle_rad + 2.0 * math.pi * (frequency_hz - 50.0) * gap_s, 2.0 * math.pi)
    now = Phasor(round(gap_s * 1e9), turned, frequency_hz)
    assert unexplained_rad(Phasor(0, angle_rad, frequency_hz), now, 50.0) < math.radians(0.01)


def test_frames_far_apart_tell_of_no_jump() -> None:
    assert unexplained_rad(Phasor(0, 0.0, 50.0), Phasor(200_000_000, 1.0, 50.0), 50.0) == 0.0


def test_stream_without_phasors_and_bad_rows_are_passed_over() -> None:
    bench = Bench(NODE, config())
    bench.take(seen(0.0, frequency_hz=50.0), "phasors")
    for time_s, device, angle_rad in ((0.0, "PMU", 0.0), (0.02, "PMU", math.nan), (0.02, "other", 1.0)):
        bench.take(seen(time_s, device, frequency_hz=50.0, voltage_angle_rad=angle_rad), "phasors")
    phasor(bench, 0.0, 1.0)  # not later than the last
    assert at(bench, 0.1, -0.55) == pytest.approx(400e3)


def test_rocof_of_a_frequency_in_another_unit_is_not_relied_on() -> None:
    bench = Bench(NODE, config(max_age=0.5))
    bench.tick(0.0)
    bench.take(seen(1.0, frequency_hz=49_950.0, rocof_hz_per_s=-1.0))
    [told] = setpoints(bench.tick(1.0))
    assert (told.status, told.values["bess"], told.missing) == ("fallback", 0.0, ("PMU",))
    assert told.reason == "PMU: 49950 is not plausible: outside 45 to 55"


def test_block_that_ends_before_the_next_decision_is_refused() -> None:
    with pytest.raises(ConfigError, match="block_for"):
        config(block_for=0.04)


@pytest.mark.parametrize(
    ("age_s", "share"), [(0.0, 1.0), (0.2, 1.0), (0.225, 0.75), (0.275, 0.25), (0.3, 0.0), (0.45, 0.0)]
)
def test_rocof_that_comes_late_counts_less_and_in_the_end_not_at_all(age_s: float, share: float) -> None:
    bench = Bench(NODE, config(fresh=0.2, stale=0.3, max_age=0.5))
    bench.take(seen(1.0, frequency_hz=49.95, rocof_hz_per_s=-0.55))
    [told] = setpoints(bench.tick(1.0 + age_s))
    assert told.values["bess"] == pytest.approx(400e3 * share, abs=1.0)
    assert told.limits == ({"bess": ("late",)} if share < 1.0 else {})


def test_rocof_that_would_be_stale_before_it_is_not_fresh_is_refused() -> None:
    with pytest.raises(ConfigError, match="stale"):
        config(fresh=0.3, stale=0.3)


def test_phase_jump_blocks_what_the_wash_out_gives_back_as_well() -> None:
    bench = Bench(NODE, config(wash_out=0.5, dead_band=0.0))
    for k in range(20):
        at(bench, 0.05 * k, -1.0 - 1e-9 * k)
    phasor(bench, 0.96, 0.1)
    phasor(bench, 0.98, 0.1 + math.radians(10.0))
    assert at(bench, 1.0, -1.0) == 0.0
    assert at(bench, 1.05, 0.0) == 0.0


def test_rocof_is_as_late_as_the_oldest_of_the_devices() -> None:
    bench = Bench(NODE, config(devices=("A", "B", "C"), fresh=0.2, stale=0.3))
    for name, time_s, rocof_hz_per_s in (("A", 1.0, 0.0), ("B", 0.75, -1.0), ("C", 0.75, -1.0)):
        bench.take(seen(time_s, name, frequency_hz=49.9, rocof_hz_per_s=rocof_hz_per_s))
    [told] = setpoints(bench.tick(1.0))
    assert told.values["bess"] == pytest.approx(0.5 * 4 * 10e6 / 50.0 * 0.95)
    assert told.limits == {"bess": ("late",)}


def jumps(bench: Bench, begin_s: float, *, received: bool) -> bool:
    """Whether a phase jump is seen at the third of four frames."""
    for k in range(4):
        time_s = begin_s + 0.02 * k
        received_s, angle_rad = received * time_s, math.radians(10.0 * (k >= 2))
        bench.take(seen(time_s, received_s=received_s, frequency_hz=50.0, voltage_angle_rad=angle_rad), "phasors")
        bench.take(seen(time_s, received_s=received_s, frequency_hz=50.0, rocof_hz_per_s=1e-9 * k))
        bench.tick(time_s)
    return "phase_jump" in setpoints(bench.told)[-1].limits.get("bess", ())


@pytest.mark.parametrize("received", [True, False])
def test_frame_from_a_clock_that_is_ahead_does_not_hide_the_phase_jumps_after_it(received: bool) -> None:
    bench = Bench(NODE, config())
    late = seen(10.0 + HOUR_S, received_s=received * 10.0, frequency_hz=50.0, voltage_angle_rad=0.0)
    bench.take(late, "phasors")
    assert jumps(bench, 10.0, received=received)


def test_phase_jumps_are_seen_after_the_clock_was_set_back_which_is_none_itself() -> None:
    bench = Bench(NODE, config())
    phasor(bench, 7200.0, 1.0)
    assert jumps(bench, 3600.0, received=True)
    assert bench.state.jumped_ns == {"PMU": 3_600_040_000_000}


@pytest.mark.parametrize("before_s", [10.0 + HOUR_S, 7200.0], ids=["ahead", "set back"])
def test_wrong_time_hides_no_phase_jump_that_comes_before_the_next_decision(before_s: float) -> None:
    bench = Bench(NODE, config())
    received_s = 10.0 if before_s != 7200.0 else before_s
    bench.take(seen(before_s, received_s=received_s, frequency_hz=50.0, voltage_angle_rad=0.0), "phasors")
    for time_s, angle_rad in ((10.02, 0.0), (10.04, 1.0)):
        bench.take(seen(time_s, received_s=time_s, frequency_hz=50.0, voltage_angle_rad=angle_rad), "phasors")
    assert bench.state.jumped_ns == {"PMU": 10_040_000_000}


def test_frame_that_is_ahead_does_not_take_the_place_of_the_last_good_one() -> None:
    bench = Bench(NODE, config())
    for time_s, received_s, angle_rad in ((10.0, 10.0, 0.0), (10.0 + HOUR_S, 10.01, 0.0), (10.02, 10.02, 1.0)):
        bench.take(seen(time_s, received_s=received_s, frequency_hz=50.0, voltage_angle_rad=angle_rad), "phasors")
    assert bench.state.jumped_ns == {"PMU": 10_020_000_000}
