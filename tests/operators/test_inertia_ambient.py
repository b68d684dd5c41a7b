from __future__ import annotations

import functools
import math
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
from edgeflex_operators import inertia_ambient
from edgeflex_operators._units import GeneratingUnit
from edgeflex_operators.inertia_ambient import NODE, InertiaAmbientConfig
from edgeflex_services.swing_grid import random_grid
from edgeflex_services.swing_record import PmuNoise, measure
from edgeflex_services.swing_simulator import LoadNoise, simulate

UNITS = {"G1": GeneratingUnit(rated_power=100.0)}
CONFIG = InertiaAmbientConfig(units=UNITS)
RATE_RAD_PER_S = 2.0 * np.pi * np.arange(4, 61) / 40.0


def estimates(
    samples: Samples, config: InertiaAmbientConfig = CONFIG, sizes: Sequence[int] = (10_000,)
) -> list[InertiaEstimate]:
    state = inertia_ambient.start(config)
    found: list[InertiaEstimate] = []
    for batch in cut(samples, sizes):
        messages = inertia_ambient.step(config, state, batch)
        found += [message for message in messages if isinstance(message, InertiaEstimate)]
    return found


def stream(frequency_hz: NDArray[np.float64], power_w: NDArray[np.float64], per_s: int = 25) -> Samples:
    time_ns = tags(np.arange(len(frequency_hz)) / per_s)
    return one_device(time_ns, frequency_hz, active_power_w=power_w)


def swinging(h_s: float = 4.0, rms_hz: float = 0.005, seconds: float = 621.0, seed: int = 1) -> Samples:
    """A unit of 100 MVA without governor, seen at its rotor, that swings at every bin of the band."""
    random = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * 25)) / 25
    frequency_hz = np.full(len(time_s), 50.0)
    power_w = np.full(len(time_s), 60e6)
    amplitude_hz = rms_hz * math.sqrt(2.0 / len(RATE_RAD_PER_S))
    for rate in RATE_RAD_PER_S.tolist():
        angle = rate * time_s + random.uniform(0.0, 6.28)
        frequency_hz += amplitude_hz * np.cos(angle)
        power_w += 2.0 * h_s / 50.0 * 100e6 * amplitude_hz * rate * np.sin(angle)
    return stream(frequency_hz, power_w)


def with_columns(samples: Samples, **columns: NDArray[np.float64]) -> Samples:
    return samples.with_columns({**samples.columns, **columns})


# ---- what it is worth


def test_exact_swing_gives_the_inertia() -> None:
    [estimate] = estimates(swinging())
    assert (estimate.status, estimate.method, estimate.remarks) == ("ok", "ambient", ("bus_frequency",))
    assert estimate.h_s == pytest.approx(4.0, rel=0.005)
    assert estimate.kinetic_energy_mws == pytest.approx(400.0, rel=0.005)
    assert [estimate.begin_ns, estimate.end_ns] == pytest.approx(tags(np.array([0.0, 600.0])).tolist(), abs=1e8)


@functools.cache
def worth() -> tuple[list[float], list[bool], int]:
    """Relative errors of accepted estimates, whether their intervals hold the truth, and how many units there were."""
    errors: list[float] = []
    held: list[bool] = []
    units = 0
    for seed in range(4):
        grid = random_grid(6, 500 + seed)
        run = simulate(grid, 621.0, noise=LoadNoise(share=0.01), seed=seed)
        samples = measure(run, noise=PmuNoise(), seed=seed).samples()
        truth = {unit.name: unit.inertia_s for unit in grid.units}
        units += len(truth)
        for estimate in estimates(samples, InertiaAmbientConfig(units=grid.unit_table)):
            if estimate.h_s is not None:
                assert estimate.h_ci95_low_s is not None
                assert estimate.h_ci95_high_s is not None
                errors.append(estimate.h_s / truth[estimate.device] - 1.0)
                held.append(estimate.h_ci95_low_s <= truth[estimate.device] <= estimate.h_ci95_high_s)
    return errors, held, units


@pytest.mark.long
def test_ten_minutes_of_wandering_loads_give_the_inertia_within_a_tenth() -> None:
    errors, held, units = worth()
    assert len(errors) > 0.8 * units
    assert np.median(np.abs(errors)) < 0.04
    assert np.quantile(np.abs(errors), 0.9) < 0.1
    assert abs(np.median(errors)) < 0.03
    assert np.mean(held) > 0.9


def test_unit_without_governor_needs_no_terms_for_one() -> None:
    units = {"G1": msgspec.structs.replace(UNITS["G1"], governor=None)}
    [estimate] = estimates(swinging(), InertiaAmbientConfig(units=units))
    assert estimate.h_s == pytest.approx(4.0, rel=0.005)


def test_noise_on_the_power_does_not_pull_the_estimate() -> None:
    samples = swinging()
    noise_w = np.random.default_rng(2).normal(0.0, 2e5, samples.rows)
    [estimate] = estimates(with_columns(samples, active_power_w=samples.columns["active_power_w"] + noise_w))
    assert estimate.status == "ok"
    assert estimate.h_s == pytest.approx(4.0, rel=0.06)


# ---- when there is none


def test_grid_at_rest_excites_nothing() -> None:
    [estimate] = estimates(swinging(rms_hz=0.0005))
    assert (estimate.status, estimate.h_s) == ("not_excited", None)
    assert "0.49 mHz" in estimate.reason


def test_constant_values_are_no_excitation() -> None:
    [estimate] = estimates(stream(np.full(16_000, 50.0), np.full(16_000, 6e7)))
    assert estimate.status == "not_excited"


def test_power_that_has_nothing_to_do_with_the_frequency_is_refused() -> None:
    samples, other = swinging(), swinging(seed=2)
    random = np.random.default_rng(3)
    noise_w = 60e6 + 3e6 * random.normal(size=samples.rows)
    [estimate] = estimates(with_columns(samples, active_power_w=noise_w))
    assert estimate.status == "not_excited"
    assert "coherence" in estimate.reason
    [estimate] = estimates(with_columns(samples, active_power_w=other.columns["active_power_w"]))
    assert estimate.status != "ok"


def test_power_counted_into_the_unit_is_implausible() -> None:
    samples = swinging()
    [estimate] = estimates(with_columns(samples, active_power_w=-samples.columns["active_power_w"]))
    assert estimate.status == "implausible"


def test_unit_off_the_grid_for_a_while_is_told() -> None:
    samples = swinging()
    samples.columns["active_power_w"][9000:9100] = 0.0
    [estimate] = estimates(samples)
    assert estimate.status == "tripped"


def test_window_with_too_many_gaps_has_no_data() -> None:
    samples = swinging(seconds=640.0)
    row = np.arange(samples.rows)
    [estimate] = estimates(samples.take(row % 2500 > 50))
    assert estimate.status == "no_data"
    assert "of 29 segments" in estimate.reason


def test_one_gap_costs_only_its_segments() -> None:
    samples = swinging(seconds=640.0)
    row = np.arange(samples.rows)
    [estimate] = estimates(samples.take((row < 5000) | (row > 5100)))
    assert estimate.status == "ok"
    assert estimate.h_s == pytest.approx(4.0, rel=0.02)


def test_device_without_unit_data_is_told_once() -> None:
    config = InertiaAmbientConfig(units={"G2": UNITS["G1"]})
    [estimate] = estimates(swinging(), config)
    assert (estimate.status, estimate.device) == ("no_unit_data", "G1")


def test_window_shorter_than_ten_minutes_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"600.*window"):
        msgspec.convert({"units": {"G1": {"rated_power": 100.0}}, "window": 300.0}, InertiaAmbientConfig)


# ---- rows, gaps, time


def test_lost_and_unusable_rows_are_bridged() -> None:
    samples = swinging()
    random = np.random.default_rng(4)
    bad = random.random(samples.rows) < 0.05
    samples.columns["frequency_hz"][bad] = 40.0
    samples.quality[bad] = int(Quality.BAD_DATA)
    samples.columns["active_power_w"][random.random(samples.rows) < 0.02] = np.nan
    [estimate] = estimates(samples.take(random.random(samples.rows) > 0.05))
    assert estimate.status == "ok"
    assert estimate.h_s == pytest.approx(4.0, rel=0.03)
    assert estimate.quality == 0


def test_rows_in_test_mode_are_used_and_flagged_when_asked_for() -> None:
    samples = swinging()
    samples.quality[:] = int(Quality.TEST)
    assert estimates(samples) == []
    [estimate] = estimates(samples, InertiaAmbientConfig(units=UNITS, accept_test=True))
    assert (estimate.status, estimate.quality) == ("ok", int(Quality.TEST))


def test_windows_follow_each_other() -> None:
    first, second = estimates(swinging(seconds=1225.0))
    assert first.end_ns == second.begin_ns
    assert [first.h_s, second.h_s] == pytest.approx([4.0, 4.0], rel=0.01)
    assert first.event_id != second.event_id


def test_rows_out_of_order_are_dropped_and_reported() -> None:
    state = inertia_ambient.start(CONFIG)
    [letter] = letters(inertia_ambient.step(CONFIG, state, swinging(seconds=1.0).take(np.array([0, 1, 2, 1, 3]))))
    assert letter.reason == "out_of_order"


def test_clock_set_back_begins_anew() -> None:
    later = swinging(seconds=100.0)
    later = msgspec.structs.replace(later, time_ns=later.time_ns + 10**13)
    config, state = CONFIG, inertia_ambient.start(CONFIG)
    inertia_ambient.step(config, state, later)
    found = inertia_ambient.step(config, state, swinging(seconds=640.0))
    [estimate] = [each for each in found if isinstance(each, InertiaEstimate)]
    assert estimate.status == "ok"


def test_state_in_the_middle_of_a_window_survives_pickling() -> None:
    first, second = cut(swinging(), (9_001, 100_000))
    state = inertia_ambient.start(CONFIG)
    inertia_ambient.step(CONFIG, state, first)
    copied = pickle.loads(pickle.dumps(state))
    assert inertia_ambient.step(CONFIG, copied, second) == inertia_ambient.step(CONFIG, state, second) != []


def test_what_was_gathered_outlives_a_change_of_policy() -> None:
    first, second = cut(swinging(), (9_001, 100_000))
    state = inertia_ambient.start(CONFIG)
    inertia_ambient.step(CONFIG, state, first)
    changed = InertiaAmbientConfig(units=UNITS, excitation=0.002)
    [estimate] = inertia_ambient.step(changed, state, second)
    assert isinstance(estimate, InertiaEstimate)
    assert estimate.status == "ok"


def test_a_device_costs_less_than_ten_kilobytes() -> None:
    state = inertia_ambient.start(CONFIG)
    inertia_ambient.step(CONFIG, state, swinging(seconds=100.0))
    tables = (state.marks, state.levels, state.sums, state.spectra)
    assert sum(table[0].nbytes for table in tables) < 10_000


def test_needs_frequency_and_power_and_gives_estimates() -> None:
    assert NODE.inputs["in"].columns(CONFIG) == {"frequency_hz", "active_power_w"}
    assert NODE.output(CONFIG, {}).messages == {InertiaEstimate}


# ---- kernels


def slow_spectra(samples: Samples, segments: int) -> NDArray[np.float64]:
    """The sums of spectra by NumPy's FFT."""
    count = 1000
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(count) / count)
    sums = np.zeros((4, inertia_ambient.BINS))
    for segment in range(segments):
        rows = slice(500 * segment, 500 * segment + count)
        f, p = (np.fft.rfft(window * samples.columns[name][rows])[4:61] / 25.0 for name in samples.columns)
        cross = p * f.conj()
        sums += np.stack([np.abs(f) ** 2, np.abs(p) ** 2, cross.real, cross.imag])
    return sums


@pytest.mark.parametrize("segments", [1, 4])
def test_spectra_are_those_of_the_fft(segments: int) -> None:
    samples = swinging(seconds=20.0 * segments + 20.08)
    state = inertia_ambient.start(CONFIG)
    inertia_ambient.step(CONFIG, state, samples)
    assert state.marks[0, inertia_ambient.SEGMENTS] == segments
    expected = slow_spectra(samples, segments)
    for found, wanted in zip(state.spectra[0], expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-6 * np.abs(wanted).max())


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 4000), min_size=1, max_size=4), st.floats(0.0, 0.02))
def test_batches_of_any_size_give_the_same(seed: int, sizes: list[int], spoilt: float) -> None:
    random = np.random.default_rng(seed)
    samples = swinging(seconds=630.0)
    samples.columns["frequency_hz"][random.random(samples.rows) < spoilt] = np.nan
    samples.quality[random.random(samples.rows) < spoilt] = int(Quality.SYNC_LOST)
    kept = samples.take(random.random(samples.rows) >= spoilt)
    sizes = [max(size, 50) for size in sizes]
    assert estimates(kept, sizes=sizes) == estimates(kept)
