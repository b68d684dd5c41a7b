"""The swing simulator obeys the physics that it claims, and its PMUs report what the same filter would."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeflex_flow.messages import Quality
from edgeflex_services.swing_grid import BASE_MVA, Grid, Turbine, random_grid, two_areas
from edgeflex_services.swing_record import PhaseJump, PmuFault, PmuNoise, measure
from edgeflex_services.swing_simulator import LineSwitch, LoadNoise, LoadStep, SwingRun, UnitTrip, simulate

STEP = LoadStep(at_s=3.0, load=0, power_mw=100.0)


def ideal(grid: Grid) -> Grid:
    """The grid without losses, damping, governors and exciters."""
    units = tuple(replace(u, resistance_pu=0.0, damping_pu=0.0, turbine=None, exciter_gain=0.0) for u in grid.units)
    return replace(grid, units=units, lines=tuple(replace(line, resistance_pu=0.0) for line in grid.lines))


def electric_power(run: SwingRun) -> NDArray[np.float64]:
    return (run.voltage * np.conj(run.current)).real


def momentum(run: SwingRun) -> NDArray[np.float64]:
    """M of each unit in s on BASE_MVA."""
    return 2.0 * run.inertia_mws / BASE_MVA


@pytest.mark.parametrize("grid", [two_areas(), random_grid(6, 1), random_grid(10, 2)], ids=["two", "six", "ten"])
def test_a_grid_stays_at_rest_until_something_happens(grid: Grid) -> None:
    run = simulate(grid, 5.0)
    assert np.abs(run.speed_pu - 1.0).max() < 1e-10
    assert np.abs(run.voltage - run.voltage[0]).max() < 1e-8


@pytest.mark.parametrize("seed", range(4))
def test_every_unit_follows_the_swing_equation_within_a_thousandth(seed: int) -> None:
    run = simulate(random_grid(6, seed), 10.0, [STEP])
    units = run.grid.units
    after = slice(np.searchsorted(run.time_s, 3.02), None)
    acceleration = np.gradient(run.speed_pu, run.time_s, axis=0)[after]
    scale = np.array([unit.rated_power_mva / BASE_MVA for unit in units])
    loss = np.array([unit.resistance_pu for unit in units]) / scale * np.abs(run.current) ** 2
    damping = np.array([unit.damping_pu for unit in units]) * scale * (run.speed_pu - 1.0)
    surplus = (run.mechanical_power - electric_power(run) - loss - damping)[after]
    found = (acceleration * surplus).sum(axis=0) / (acceleration**2).sum(axis=0)
    assert found == pytest.approx(momentum(run), rel=1e-3)


def test_power_is_conserved_at_every_step() -> None:
    run = simulate(ideal(random_grid(8, 3)), 8.0, [STEP], noise=LoadNoise(share=0.01))
    assert electric_power(run).sum(axis=1) == pytest.approx(run.load_power, rel=1e-6)


def test_kinetic_energy_gives_what_the_loads_take_too_much() -> None:
    run = simulate(ideal(random_grid(8, 3)), 8.0, [STEP])
    gained = (momentum(run) * (run.speed_pu - 1.0)).sum(axis=1)
    # Powers stand for torques, so it is the momentum that adds up exactly.
    step_s = run.time_s[1]
    missing = np.cumsum(run.load_power[0] - run.load_power) * step_s
    assert gained[-1] == pytest.approx(missing[-2], rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_inertia_of_the_grid_is_the_lost_power_over_the_first_slope(seed: int) -> None:
    run = simulate(ideal(random_grid(6, seed)), 4.0, [STEP])
    at = int(np.searchsorted(run.time_s, 3.0))
    mean = (run.speed_pu * momentum(run)).sum(axis=1) / momentum(run).sum()
    slope = (mean[at + 20] - mean[at]) / (run.time_s[at + 20] - run.time_s[at])
    assert 100.0 / (2.0 * -slope) == pytest.approx(run.grid.kinetic_energy_mws, rel=0.01)


def test_quadrature_axis_answers_with_its_two_poles() -> None:
    run = simulate(random_grid(5, 4), 6.0, [STEP])
    unit = run.grid.units[2]
    scale = unit.rated_power_mva / BASE_MVA
    nominal = 2.0 * np.pi * run.grid.nominal_hz
    v, i = run.voltage[:, 2], run.current[:, 2] / scale
    rotor = np.angle(v[0] + complex(unit.resistance_pu, unit.xq_pu) * i[0])
    step_s = run.time_s[1]
    slip = run.speed_pu[:, 2] - 1.0
    delta = rotor + nominal * np.concatenate([[0.0], np.cumsum((slip[1:] + slip[:-1]) / 2) * step_s])
    frame = np.exp(-1j * (delta - np.pi / 2))
    vd, id_, iq = (v * frame).real, (i * frame).real, (i * frame).imag
    first = np.empty(len(iq))
    second = np.empty(len(iq))
    x1 = (unit.xq_pu - unit.xq1_pu) * iq[0]
    x2 = x1 + (unit.xq1_pu - unit.xd2_pu) * iq[0]
    for k in range(len(iq)):
        first[k], second[k] = x1, x2
        x1 += step_s / unit.tq01_s * ((unit.xq_pu - unit.xq1_pu) * iq[k] - x1)
        x2 += step_s / unit.tq02_s * (first[k] + (unit.xq1_pu - unit.xd2_pu) * iq[k] - x2)
    expected = second + unit.xd2_pu * iq
    assert vd + unit.resistance_pu * id_ == pytest.approx(expected, abs=3e-4)
    # The angle behind X''d is not the rotor's.
    behind = np.unwrap(np.angle(v + complex(unit.resistance_pu, unit.xd2_pu) * i))
    assert np.abs((behind - behind[0]) - (delta - delta[0])).max() > 0.005


def test_governors_bring_the_frequency_back_and_keep_to_their_limits() -> None:
    grid = two_areas()
    run = simulate(grid, 60.0, [STEP])
    droop = sum(unit.rated_power_mva / BASE_MVA / 0.05 + unit.damping_pu * 9.0 for unit in grid.units)
    assert run.speed_pu[-1, 0] - 1.0 == pytest.approx(-1.0 / droop, rel=0.1)
    tight = replace(grid, units=tuple(replace(u, turbine=Turbine(valve_max_pu=0.78)) for u in grid.units))
    held = simulate(tight, 60.0, [replace(STEP, power_mw=120.0)])
    assert held.mechanical_power.max() * BASE_MVA <= 0.78 * 900.0 + 1e-6
    assert held.speed_pu[-1, 0] < run.speed_pu[-1, 0]


def test_water_first_moves_the_power_the_wrong_way() -> None:
    grid = two_areas()
    run = simulate(replace(grid, units=tuple(replace(u, turbine=Turbine.hydro()) for u in grid.units)), 6.0, [STEP])
    change = run.mechanical_power[:, 1] - run.mechanical_power[0, 1]
    assert change.min() < -0.01
    assert run.speed_pu[-1, 1] < 1.0


def test_unit_that_trips_gives_nothing_and_the_others_take_over() -> None:
    run = simulate(random_grid(8, 5), 10.0, [UnitTrip(at_s=3.0, unit=2)])
    power = electric_power(run)
    assert run.connected.tolist() == [True, True, False] + [True] * 5
    assert np.abs(power[run.time_s > 3.0, 2]).max() == 0.0
    assert power[-1, run.connected].sum() == pytest.approx(power[0].sum(), rel=0.02)
    assert run.speed_pu[-1, 0] < 0.9999


def test_line_that_opens_makes_phases_jump_without_lost_power() -> None:
    run = simulate(two_areas(), 10.0, [LineSwitch(at_s=3.0, line=8)])
    at = int(np.searchsorted(run.time_s, 3.0))
    assert np.abs(np.angle(run.voltage[at] / run.voltage[at - 1])).max() > 0.01
    assert np.ptp(run.load_power) == 0.0
    assert np.ptp(run.speed_pu[at:], axis=0).min() > 1e-4
    assert abs(run.speed_pu[-1].mean() - 1.0) < 1e-4


def test_load_that_cannot_be_fed_is_told() -> None:
    with pytest.raises(ValueError, match=r"the grid collapses at 3\.0"):
        simulate(two_areas(), 5.0, [replace(STEP, power_mw=20_000.0)])


def test_noise_of_loads_is_the_same_for_the_same_seed_and_has_its_rms() -> None:
    runs = [simulate(random_grid(5, 1), 60.0, noise=LoadNoise(share=0.01, memory_s=1.0), seed=s) for s in (1, 1, 2)]
    assert (runs[0].voltage == runs[1].voltage).all()
    assert (runs[0].voltage != runs[2].voltage).any()
    shares = np.array([load.power_mw for load in runs[0].grid.loads])
    expected = 0.01 * np.sqrt((shares**2).sum()) / shares.sum()
    assert (runs[0].load_power.std() / runs[0].load_power[0]) == pytest.approx(expected, rel=0.3)


# ---- what PMUs report


@pytest.fixture(scope="module")
def run() -> SwingRun:
    return simulate(two_areas(), 10.0, [STEP])


def test_phasors_are_means_under_a_triangle_of_one_cycle_to_each_side(run: SwingRun) -> None:
    record = measure(run)
    at = int(np.searchsorted(record.time_s, 3.0))
    step = int(np.searchsorted(run.time_s, record.time_s[at]))
    weights = 9.0 - np.abs(np.arange(-8, 9))
    expected = (run.voltage[step - 8 : step + 9, 1] * weights).sum() / weights.sum()
    assert record.voltage_pu[at, 1] == pytest.approx(abs(expected), abs=1e-12)
    assert record.voltage_angle_rad[at, 1] == pytest.approx(np.angle(expected), abs=1e-12)


@pytest.mark.parametrize("frames_per_s", [10, 25, 50, 60, 100])
def test_frequency_and_power_agree_with_the_phasors_at_any_rate(run: SwingRun, frames_per_s: int) -> None:
    record = measure(run, frames_per_s=frames_per_s)
    assert np.diff(record.time_s) == pytest.approx(1.0 / frames_per_s)
    turned = np.trapezoid(record.frequency_hz - 50.0, record.time_s, axis=0) * 2.0 * np.pi
    assert record.voltage_angle_rad[-1] - record.voltage_angle_rad[0] == pytest.approx(turned, abs=0.1)
    power = record.voltage_pu * record.current_pu * np.cos(record.voltage_angle_rad - record.current_angle_rad)
    assert record.active_power == pytest.approx(power, abs=1e-12)


def test_columns_hold_line_to_ground_volts_and_the_three_phase_power(run: SwingRun) -> None:
    columns = measure(run, noise=PmuNoise()).samples().columns
    lag = columns["voltage_angle_rad"] - columns["current_angle_rad"]
    power = 3.0 * columns["voltage_v"] * columns["current_a"] * np.cos(lag)
    assert power == pytest.approx(columns["active_power_w"], rel=1e-9)
    assert columns["voltage_v"].mean() == pytest.approx(20e3 / math.sqrt(3.0), rel=0.01)


@pytest.mark.parametrize("frames_per_s", [25, 50])
def test_noise_has_the_rms_that_was_asked_for(run: SwingRun, frames_per_s: int) -> None:
    clean = measure(run, frames_per_s=frames_per_s)
    noisy = measure(run, frames_per_s=frames_per_s, noise=PmuNoise(), seed=3)
    off_hz = noisy.frequency_hz - clean.frequency_hz
    assert off_hz.std() == pytest.approx(1e-3, rel=0.1)
    assert (noisy.active_power / clean.active_power - 1.0).std() == pytest.approx(1e-3, rel=0.1)
    angle = noisy.voltage_angle_rad - clean.voltage_angle_rad
    assert off_hz[1:-1] == pytest.approx((angle[2:] - angle[:-2]) * frames_per_s / (4.0 * np.pi), abs=1e-9)


def test_clock_that_is_ahead_shows_the_past_and_turns_the_angle(run: SwingRun) -> None:
    right = measure(run, faults={3: PmuFault(clock_offset_s=0.02)})
    ahead = measure(run, faults={1: PmuFault(clock_offset_s=0.02)})
    assert ahead.active_power[1:, 1] == pytest.approx(right.active_power[:-1, 1], abs=1e-6)
    turned = ahead.voltage_angle_rad[1:, 1] - right.voltage_angle_rad[:-1, 1]
    assert turned == pytest.approx(np.full(len(turned), -2.0 * np.pi), abs=1e-6)


def test_mistakes_spoil_the_phasors_of_their_own_pmu(run: SwingRun) -> None:
    clean = measure(run)
    fault = PmuFault(voltage_angle_negated=True, current_reversed=True, voltage_scale=0.5, current_scale=2.0)
    spoilt = measure(run, faults={0: fault, 1: PmuFault(current_angle_negated=True)})
    assert spoilt.voltage_angle_rad[:, 0] == pytest.approx(-clean.voltage_angle_rad[:, 0])
    assert spoilt.current_angle_rad[:, 0] == pytest.approx(clean.current_angle_rad[:, 0] + np.pi)
    assert spoilt.current_angle_rad[:, 1] == pytest.approx(-clean.current_angle_rad[:, 1])
    assert spoilt.voltage_pu[:, 0] == pytest.approx(0.5 * clean.voltage_pu[:, 0])
    assert spoilt.current_pu[:, 0] == pytest.approx(2.0 * clean.current_pu[:, 0])
    assert (spoilt.active_power == clean.active_power).all()
    assert (spoilt.voltage_pu[:, 2:] == clean.voltage_pu[:, 2:]).all()


def test_lost_frames_are_absent_and_blank_ones_flagged(run: SwingRun) -> None:
    faults = {0: PmuFault(gaps_s=((2.0, 4.0),)), 1: PmuFault(nan_share=0.2)}
    samples = measure(run, faults=faults).samples()
    whole = measure(run).samples()
    assert whole.rows - samples.rows == 100
    blank = np.isnan(samples.columns["active_power_w"])
    assert blank.sum() == pytest.approx(0.2 * 500, rel=0.25)
    assert (blank == (samples.quality == Quality.BAD_DATA)).all()
    assert set(samples.device[blank].tolist()) == {1}


def test_jump_of_the_time_source_turns_phasors_and_leaves_the_power(run: SwingRun) -> None:
    clean, jumped = measure(run), measure(run, jump=PhaseJump(at_s=6.0, angle_rad=0.2, units=(0,)))
    turned = jumped.voltage_angle_rad[:, 0] - clean.voltage_angle_rad[:, 0]
    assert turned[-1] == pytest.approx(0.2)
    assert turned[0] == 0.0
    away = np.abs(jumped.time_s - 6.0) > 0.03
    assert jumped.active_power[away] == pytest.approx(clean.active_power[away])
    assert (jumped.frequency_hz - clean.frequency_hz)[~away, 0].max() > 0.5


def test_batches_together_are_the_whole(run: SwingRun) -> None:
    record = measure(run, faults={0: PmuFault(gaps_s=((2.0, 4.0),))})
    batches = list(record.batches(frames=7))
    assert np.concatenate([batch.time_ns for batch in batches]).tolist() == record.samples().time_ns.tolist()
    assert max(len(np.unique(batch.time_ns)) for batch in batches) == 7
    assert [problem for batch in batches for problem in batch.problems()] == []


def test_saved_record_has_the_fields_of_the_recorded_cases(run: SwingRun, tmp_path: Path) -> None:
    measure(run).save(tmp_path / "load.npz")
    tripped = simulate(random_grid(4, 1), 5.0, [UnitTrip(at_s=2.0, unit=1)])
    measure(tripped).save(tmp_path / "trip.npz")
    with np.load(tmp_path / "load.npz") as load, np.load(tmp_path / "trip.npz") as trip:
        assert str(load["event_kind"]) == "load"
        assert float(load["event_mw"]) == 100.0
        assert load["m_sys"] * load["s_base"] == pytest.approx(2.0 * load["h"] * load["sn"])
        assert float(load["ek_mws"]) == pytest.approx(22_815.0)
        assert load["v_mag"].shape == load["omega"].shape == (len(load["t"]), 4)
        assert str(trip["tripped"]) == "G2"
        assert float(trip["ek_all_mws"] - trip["ek_mws"]) == pytest.approx(float((trip["h"] * trip["sn"])[1]))
        assert float(trip["event_mw"]) == pytest.approx(float(trip["p"][0, 1]) * 100.0, rel=1e-3)
