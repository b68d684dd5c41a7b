from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from operator_streams import cut, letters, one_device, tags

from edgeflex_flow.messages import InertiaEstimate, Quality, Samples
from edgeflex_operators import inertia_online
from edgeflex_operators._units import GeneratingUnit
from edgeflex_operators.inertia_online import NODE, InertiaOnlineConfig
from edgeflex_services.pmu_recording import Recording
from edgeflex_services.swing_grid import Grid, random_grid, two_areas
from edgeflex_services.swing_record import PhaseJump, PmuFault, PmuNoise, PmuRecord, measure
from edgeflex_services.swing_simulator import LoadNoise, LoadStep, UnitTrip, simulate

H_S = 4.0
UNITS = {"G1": GeneratingUnit(rated_power=100.0)}
CONFIG = InertiaOnlineConfig(units=UNITS)


def estimates(
    samples: Samples, config: InertiaOnlineConfig = CONFIG, sizes: Sequence[int] = (10_000,)
) -> list[InertiaEstimate]:
    state = inertia_online.start(config)
    found: list[InertiaEstimate] = []
    for batch in cut(samples, sizes):
        messages = inertia_online.step(config, state, batch)
        found += [message for message in messages if isinstance(message, InertiaEstimate)]
    return found


def stream(frequency_hz: NDArray[np.float64], power_w: NDArray[np.float64], per_s: int = 50) -> Samples:
    time_ns = tags(np.arange(len(frequency_hz)) / per_s)
    return one_device(time_ns, frequency_hz, active_power_w=power_w)


def falling(
    h_s: float = H_S, step_w: float = 10e6, steps_s: Sequence[float] = (2.01,), seconds: float = 4.0
) -> Samples:
    """A unit of 100 MVA whose load steps by so much, time after time, between two frames."""
    time_s = np.arange(round(seconds * 50)) / 50
    power_w = np.full(len(time_s), 60e6)
    frequency_hz = np.full(len(time_s), 50.0)
    for begin_s in steps_s:
        power_w[time_s > begin_s] += step_w
        frequency_hz -= step_w / 100e6 * 50.0 / (2.0 * h_s) * np.maximum(0.0, time_s - begin_s)
    return stream(frequency_hz, power_w)


def simulated(grid: Grid, seed: int, *, share: float = 0.02, frames_per_s: int = 50) -> PmuRecord:
    power_mw = share * sum(unit.rated_power_mva for unit in grid.units)
    run = simulate(grid, 7.0, [LoadStep(at_s=3.007, load=seed % len(grid.loads), power_mw=power_mw)])
    return measure(run, noise=PmuNoise(), seed=seed, frames_per_s=frames_per_s)


def accepted(record: PmuRecord) -> dict[str, InertiaEstimate]:
    """The first accepted estimate of each unit."""
    found = estimates(record.samples(), InertiaOnlineConfig(units=record.run.grid.unit_table))
    return {estimate.device: estimate for estimate in reversed(found) if estimate.status == "ok"}


# ---- what it is worth


def test_exact_swing_gives_the_inertia() -> None:
    [estimate] = estimates(falling())
    assert estimate.status == "ok"
    assert estimate.h_s == pytest.approx(H_S, rel=0.01)
    assert estimate.kinetic_energy_mws == pytest.approx(100.0 * H_S, rel=0.01)
    assert (estimate.method, estimate.indicative, estimate.remarks) == ("online", True, ("bus_frequency",))
    assert estimate.event_id == f"G1@{estimate.time_ns}"
    assert estimate.time_ns == tags(np.array([2.02]))[0]


@functools.cache
def worth() -> tuple[NDArray[np.float64], float, float]:
    """Relative errors of all accepted estimates, share of intervals that hold the truth, share of units accepted."""
    errors: list[float] = []
    held: list[bool] = []
    units = 0
    for seed in range(12):
        grid = two_areas() if seed == 0 else random_grid(8, seed)
        found = accepted(simulated(grid, seed, share=(0.01, 0.02, 0.03)[seed % 3], frames_per_s=(50, 25)[seed % 2]))
        units += len(grid.units)
        for unit in grid.units:
            if unit.name in found:
                estimate = found[unit.name]
                assert estimate.h_s is not None
                assert estimate.h_ci95_low_s is not None
                assert estimate.h_ci95_high_s is not None
                errors.append(estimate.h_s / unit.inertia_s - 1.0)
                held.append(estimate.h_ci95_low_s <= unit.inertia_s <= estimate.h_ci95_high_s)
    return np.array(errors), float(np.mean(held)), len(errors) / units


def test_estimates_on_simulated_grids_are_as_good_as_the_manual_page_says() -> None:
    errors, held, share = worth()
    assert np.median(np.abs(errors)) < 0.06
    assert np.quantile(np.abs(errors), 0.9) < 0.16
    assert abs(np.median(errors)) < 0.03
    assert held > 0.93
    assert share > 0.6


def test_governors_faster_than_the_window_are_noticed() -> None:
    recording = Recording.load()
    measured = recording.measured
    frames, machines = measured.frequency_hz.shape
    samples = Samples(
        time_ns=np.repeat(tags(np.arange(frames) / 60), machines),
        device=np.tile(np.arange(machines, dtype=np.int32), frames),
        devices=recording.generators,
        columns={
            "frequency_hz": measured.frequency_hz.ravel(),
            "active_power_w": measured.active_power_w.ravel(),
        },
        quality=np.zeros(frames * machines, dtype=np.uint16),
        received_ns=0,
    )
    units = {name: GeneratingUnit(rated_power=1000.0) for name in recording.generators}
    found = estimates(samples, InertiaOnlineConfig(units=units, nominal=60.0))
    assert len({estimate.device for estimate in found}) >= 8
    assert sum(estimate.status == "model_mismatch" for estimate in found) >= 0.7 * len(found)


@pytest.mark.parametrize("seed", range(3))
def test_wandering_loads_alone_excite_nothing(seed: int) -> None:
    run = simulate(random_grid(6, seed), 60.0, noise=LoadNoise(share=0.01), seed=seed)
    assert accepted(measure(run, noise=PmuNoise(), seed=seed)) == {}


def test_jump_of_the_time_source_excites_nothing() -> None:
    run = simulate(random_grid(6, 1), 6.0)
    assert accepted(measure(run, noise=PmuNoise(), jump=PhaseJump(at_s=3.0, angle_rad=0.3))) == {}


def test_unit_that_trips_is_told_and_the_others_are_estimated() -> None:
    run = simulate(random_grid(8, 3), 6.0, [UnitTrip(at_s=3.0, unit=2)])
    found = estimates(measure(run).samples(), InertiaOnlineConfig(units=run.grid.unit_table))
    of_tripped = [estimate for estimate in found if estimate.device == "G3"]
    assert [(estimate.status, estimate.h_s) for estimate in of_tripped] == [("tripped", None)]
    assert "0%" in of_tripped[0].reason
    assert sum(estimate.status == "ok" for estimate in found) >= 4


# ---- when there is none


def test_change_of_power_without_frequency_is_no_excitation() -> None:
    samples = falling(h_s=1e6)
    [estimate] = estimates(samples)
    assert (estimate.status, estimate.h_s) == ("not_excited", None)
    assert "0.0 mHz" in estimate.reason


def test_step_below_the_threshold_is_none() -> None:
    assert estimates(falling(step_w=0.4e6)) == []
    assert (
        estimates(falling(step_w=0.4e6), InertiaOnlineConfig(units=UNITS, excitation=0.003, displacement=0.001)) != []
    )


@pytest.mark.parametrize("h_s", [0.1, 100.0])
def test_inertia_that_no_unit_has_is_implausible(h_s: float) -> None:
    config = InertiaOnlineConfig(units=UNITS, displacement=0.001)
    [estimate] = estimates(falling(h_s=h_s), config)
    assert estimate.status == "implausible"
    assert "0.3 to 60 s" in estimate.reason


def test_frequency_that_does_not_follow_the_power_is_a_mismatch() -> None:
    samples = falling()
    wild = 50.0 + 0.1 * np.sin(np.arange(samples.rows) ** 2)
    [estimate] = estimates(samples.with_columns({**samples.columns, "frequency_hz": wild}))
    assert estimate.status == "model_mismatch"


def test_power_and_frequency_of_the_same_course_are_ill_conditioned() -> None:
    sums = np.array([0.0, 0.0, 0.0, 1.0, 4.0, 9.0, 2.0, 3.0, 6.0])
    assert inertia_online.solve(sums, 20)[1] == np.inf


def test_gap_in_the_window_ends_it() -> None:
    samples = falling()
    [estimate] = estimates(samples.take((np.arange(200) < 110) | (np.arange(200) > 120)))
    assert (estimate.status, estimate.rows) == ("no_data", 0)


def test_device_without_unit_data_is_told_once() -> None:
    samples = falling()
    config = InertiaOnlineConfig(units={"G2": UNITS["G1"]})
    [estimate] = estimates(samples, config, sizes=(7,))
    assert (estimate.status, estimate.device) == ("no_unit_data", "G1")
    assert "known: G2" in estimate.reason


def test_excitation_before_a_second_at_rest_is_not_used() -> None:
    assert estimates(falling(steps_s=(0.81,))) == []


# ---- rows, gaps, time


def test_unusable_rows_are_left_out() -> None:
    samples = falling()
    for row, flag in ((60, Quality.BAD_DATA), (105, Quality.SYNC_LOST), (112, Quality.TEST)):
        samples.columns["frequency_hz"][row] = 40.0
        samples.quality[row] = int(flag)
    samples.columns["active_power_w"][116] = np.nan
    [estimate] = estimates(samples)
    assert estimate.h_s == pytest.approx(H_S, rel=0.01)
    assert estimate.quality == 0


def test_rows_in_test_mode_are_used_and_flagged_when_asked_for() -> None:
    samples = falling()
    samples.quality[:] = int(Quality.TEST)
    assert estimates(samples) == []
    [estimate] = estimates(samples, InertiaOnlineConfig(units=UNITS, accept_test=True))
    assert (estimate.status, estimate.quality) == ("ok", int(Quality.TEST))


def test_quality_holds_the_flags_of_the_rows_that_were_used() -> None:
    samples = falling()
    samples.quality[10] = int(Quality.TIME_UNCERTAIN)
    samples.quality[90] = int(Quality.ESTIMATED)
    samples.quality[190] = int(Quality.REPLAYED)
    [estimate] = estimates(samples)
    assert estimate.quality == Quality.ESTIMATED


def test_estimates_keep_their_period() -> None:
    samples = falling(steps_s=(2.01, 5.01, 9.01), seconds=11.0)
    onsets = [estimate.time_ns for estimate in estimates(samples, InertiaOnlineConfig(units=UNITS))]
    assert onsets == tags(np.array([2.02, 9.02])).tolist()


def test_begin_and_end_are_those_of_the_regression() -> None:
    [estimate] = estimates(falling())
    assert [estimate.begin_ns, estimate.end_ns] == tags(np.array([1.62, 2.52])).tolist()
    assert estimate.rows == 46


def test_rows_out_of_order_are_dropped_and_reported() -> None:
    state = inertia_online.start(CONFIG)
    samples = falling().take(np.array([0, 1, 2, 1, 3]))
    [letter] = letters(inertia_online.step(CONFIG, state, samples))
    assert letter.reason == "out_of_order"


def test_each_device_is_followed_alone() -> None:
    one, two = falling(), falling(h_s=6.0)
    both = Samples(
        time_ns=np.repeat(one.time_ns, 2),
        device=np.tile(np.arange(2, dtype=np.int32), one.rows),
        devices=("G1", "G2"),
        columns={
            name: np.stack([one.columns[name], two.columns[name]], axis=1).ravel()
            for name in ("frequency_hz", "active_power_w")
        },
        quality=np.zeros(2 * one.rows, dtype=np.uint16),
        received_ns=0,
    )
    config = InertiaOnlineConfig(units={"G1": UNITS["G1"], "G2": UNITS["G1"]})
    found = {estimate.device: estimate.h_s for estimate in estimates(both, config)}
    assert found == pytest.approx({"G1": 4.0, "G2": 6.0}, rel=0.01)


def test_state_in_the_middle_of_a_window_survives_pickling() -> None:
    first, second = cut(falling(), (115, 1000))
    state = inertia_online.start(CONFIG)
    inertia_online.step(CONFIG, state, first)
    copied = pickle.loads(pickle.dumps(state))
    assert inertia_online.step(CONFIG, copied, second) == inertia_online.step(CONFIG, state, second) != []


def test_window_that_a_policy_changes_begins_anew() -> None:
    first, second = cut(falling(steps_s=(2.01, 4.01), seconds=6.0), (115, 1000))
    state = inertia_online.start(CONFIG)
    inertia_online.step(CONFIG, state, first)
    changed = InertiaOnlineConfig(units=UNITS, window=0.25)
    [estimate] = inertia_online.step(changed, state, second)
    assert isinstance(estimate, InertiaEstimate)
    assert estimate.end_ns == tags(np.array([4.28]))[0]
    assert estimate.config_digest != estimates(falling())[0].config_digest


def test_config_without_units_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"length >= 1.*units"):
        msgspec.convert({"units": {}}, InertiaOnlineConfig)


def test_needs_frequency_and_power_and_gives_estimates() -> None:
    assert NODE.inputs["in"].columns(CONFIG) == {"frequency_hz", "active_power_w"}
    assert NODE.output(CONFIG, {}).messages == {InertiaEstimate}


# ---- kernels


def slow_regression(samples: Samples, estimate: InertiaEstimate) -> tuple[float, float]:
    """H and its standard error by `numpy.linalg.lstsq` over the rows that the estimate says it used."""
    time_s = (samples.time_ns - estimate.time_ns) * 1e-9
    hz, power_w = samples.columns["frequency_hz"], samples.columns["active_power_w"] / 100e6
    rest = (time_s >= -1.201) & (time_s <= -0.099)
    off_pu, off_w = (hz - hz[rest].mean()) / 50.0, power_w - power_w[rest].mean()
    used = np.flatnonzero((samples.time_ns >= estimate.begin_ns) & (samples.time_ns < estimate.end_ns))
    y = np.concatenate([[0.0], np.cumsum((off_w[used][1:] + off_w[used][:-1]) / 2 * np.diff(time_s[used]))])
    slope = (power_w[used + 1] - power_w[used - 1]) / (time_s[used + 1] - time_s[used - 1])
    columns = np.stack([-off_pu[used], -slope / (100.0 * np.pi), np.ones(len(used))], axis=1)
    found, *_ = np.linalg.lstsq(columns, y, rcond=None)
    left = y - columns @ found
    covariance = left @ left / (len(y) - 3) * np.linalg.inv(columns.T @ columns)
    return float(found[0] / 2), float(np.sqrt(covariance[0, 0]) / 2)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e-4), st.floats(1.0, 12.0))
def test_regression_agrees_with_numpy(seed: int, noise: float, h_s: float) -> None:
    random = np.random.default_rng(seed)
    samples = falling(h_s=h_s)
    noisy = samples.with_columns(
        {name: values * (1.0 + noise * random.normal(size=samples.rows)) for name, values in samples.columns.items()}
    )
    for estimate in estimates(noisy):
        if estimate.status == "ok":
            assert estimate.h_s is not None
            expected_s, error_s = slow_regression(noisy, estimate)
            assert estimate.h_s == pytest.approx(expected_s, rel=1e-6)
            assert estimate.h_ci95_high_s is not None
            assert estimate.h_ci95_high_s - estimate.h_s >= 1.96 * error_s * (1 - 1e-6)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 90), min_size=1, max_size=5),
    st.floats(0.0, 0.1),
)
def test_batches_of_any_size_give_the_same(seed: int, sizes: list[int], spoilt: float) -> None:
    random = np.random.default_rng(seed)
    samples = falling(steps_s=(2.01, 7.51), seconds=10.0)
    broken = random.random(samples.rows) < spoilt
    samples.columns["frequency_hz"][broken] = np.nan
    samples.quality[random.random(samples.rows) < spoilt / 4] = int(Quality.BAD_DATA)
    kept = samples.take(random.random(samples.rows) >= spoilt / 2)
    assert estimates(kept, sizes=sizes) == estimates(kept)


def test_faults_of_a_pmu_spoil_only_its_own_estimate() -> None:
    grid = random_grid(6, 2)
    run = simulate(grid, 6.0, [LoadStep(at_s=3.0, load=0, power_mw=100.0)])
    config = InertiaOnlineConfig(units=grid.unit_table)
    clean = estimates(measure(run).samples(), config)
    gap = {0: PmuFault(gaps_s=((3.1, 3.3),))}
    spoilt = estimates(measure(run, faults=gap).samples(), config)
    others = [estimate for estimate in clean if estimate.device != "G1"]
    assert [estimate for estimate in spoilt if estimate.device != "G1"] == others
    assert [estimate.status for estimate in spoilt if estimate.device == "G1"] == ["no_data"]


@pytest.mark.parametrize("value", [1e300, -1e300])
def test_values_that_no_grid_has_make_no_estimate(value: float) -> None:
    samples = falling(seconds=6.0)
    assert [estimate.status for estimate in estimates(samples)] == ["ok"]
    for name in ("frequency_hz", "active_power_w"):
        samples.columns[name][[90, 120]] = value
    assert "ok" not in {estimate.status for estimate in estimates(samples)}


def test_a_grid_of_another_nominal_frequency_gives_no_estimate_but_a_letter() -> None:
    samples = falling(seconds=6.0)
    samples.columns["frequency_hz"][:] += 10.0
    given = inertia_online.step(CONFIG, inertia_online.start(CONFIG), samples)
    assert [each.reason for each in letters(given)] == ["not_nominal"]
    assert "nominal is 50 Hz; is `nominal` right?" in letters(given)[0].text
    assert not any(isinstance(each, InertiaEstimate) and each.status == "ok" for each in given)
