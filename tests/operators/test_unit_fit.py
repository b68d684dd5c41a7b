"""One unit's inertia from recorded load steps, and every way in which the data can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from inertia_cases import NS, Case, load_case, with_column
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeflex_flow.messages import Quality, Samples
from edgeflex_operators._terminals import Grid
from edgeflex_operators._unit_fit import Limits, UnitFit, fit_unit, without_noise
from edgeflex_operators._units import GeneratingUnit

LIMITS = Limits(min_deviation_hz=0.01, stand_out=3.0, max_deviation=0.15, max_residual=2.5)
UNIT = "GENROU_2"


@pytest.fixture(scope="module")
def kundur() -> Case:
    return load_case("kundur_load_step")


@pytest.fixture(scope="module")
def ieee39() -> Case:
    return load_case("ieee39_load_step")


def fit(
    case: Case,
    device: str = UNIT,
    *,
    samples: Samples | None = None,
    unit: GeneratingUnit | None = None,
    limits: Limits = LIMITS,
) -> UnitFit:
    return fit_unit(
        case.samples if samples is None else samples,
        device,
        unit or case.units.get(device),
        onset_ns=case.onset_ns,
        begin_ns=case.onset_ns - 2 * NS,
        end_ns=case.onset_ns + 5 * NS,
        limits=limits,
        nominal_hz=60.0,
    )


def error(case: Case, device: str, found: UnitFit) -> float:
    assert found.status == "ok", found.reason
    assert found.h_s is not None
    return found.h_s / case.h_s[device] - 1.0


def test_without_noise_slow_governors_leave_no_error(kundur: Case) -> None:
    for device in kundur.units:
        assert error(kundur, device, fit(kundur, device)) == pytest.approx(0.0, abs=0.01)


def test_without_noise_fast_governors_leave_a_few_per_cent(ieee39: Case) -> None:
    errors = [abs(error(ieee39, device, fit(ieee39, device))) for device in ieee39.units]
    assert np.median(errors) < 0.03
    assert max(errors) < 0.09


@pytest.mark.parametrize("name", ["kundur_load_step", "ieee39_load_step"])
def test_with_noise_the_error_stays_within_the_interval_that_is_told(name: str) -> None:
    inside: list[bool] = []
    asked = 0
    for case in [load_case(name, seed=seed) for seed in range(3)]:
        asked += len(case.units)
        for device in case.units:
            interval_s = fit(case, device).interval_s
            if interval_s is not None:
                inside.append(interval_s[0] <= case.h_s[device] <= interval_s[1])
    assert len(inside) >= 0.9 * asked
    assert sum(inside) >= 0.9 * len(inside)


def test_the_fitted_course_explains_the_measured_one(kundur: Case) -> None:
    found = fit(kundur)
    assert found.time_s is not None
    assert found.measured_hz is not None
    assert found.fitted_hz is not None
    swung_hz = float(np.ptp(found.measured_hz))
    assert float(np.abs(found.measured_hz - found.fitted_hz).max()) < 0.03 * swung_hz


def test_the_same_rows_give_the_same_estimate_bit_for_bit(kundur: Case) -> None:
    assert fit(kundur).h_s == fit(kundur).h_s


def test_a_known_quadrature_axis_narrows_the_interval(ieee39: Case) -> None:
    unit = ieee39.units["GENROU_6"]
    known = replace(
        unit,
        quadrature_reactance_pu=2.41,
        transient_quadrature_reactance_pu=0.5,
        quadrature_time_constant=0.4,
        subtransient_quadrature_time_constant=0.04,
    )
    deviation, narrower = fit(ieee39, "GENROU_6").deviation, fit(ieee39, "GENROU_6", unit=known).deviation
    assert deviation is not None
    assert narrower is not None
    assert narrower < deviation


def test_frequency_and_power_alone_give_a_wider_interval_and_say_so(kundur: Case) -> None:
    columns = {name: kundur.samples.columns[name] for name in ("frequency_hz", "active_power_w")}
    found = fit(kundur, samples=kundur.samples.with_columns(columns))
    with_phasors = fit(kundur)
    assert "bus_frequency" in found.remarks
    assert found.deviation is not None
    assert with_phasors.deviation is not None
    assert found.deviation > 1.5 * with_phasors.deviation
    assert abs(error(kundur, UNIT, found)) < 2.0 * found.deviation


def test_a_typical_reactance_is_taken_where_none_is_given_and_said(kundur: Case) -> None:
    unit = replace(kundur.units[UNIT], transient_reactance_pu=None, subtransient_reactance_pu=None)
    found = fit(kundur, unit=unit)
    assert "typical_reactance" in found.remarks
    assert abs(error(kundur, UNIT, found)) < 0.1


def lost_frames(samples: Samples) -> Samples:
    rng = np.random.default_rng(0)
    return samples.take(rng.uniform(size=samples.rows) > 0.05)


def not_a_number(samples: Samples) -> Samples:
    values = samples.columns["voltage_angle_rad"].copy()
    values[::37] = np.nan
    return samples.with_columns({**samples.columns, "voltage_angle_rad": values})


def flagged_bad(samples: Samples) -> Samples:
    quality = samples.quality.copy()
    current = samples.columns["current_a"].copy()
    quality[::41] |= int(Quality.BAD_DATA)
    current[::41] *= 7.0
    return replace(samples.with_columns({**samples.columns, "current_a": current}), quality=quality)


def wrapped_angles(samples: Samples) -> Samples:
    def wrap(values: Any) -> Any:
        return (values + 2.9) % (2.0 * np.pi) - np.pi

    names = ("voltage_angle_rad", "current_angle_rad")
    return samples.with_columns({**samples.columns, **{name: wrap(samples.columns[name]) for name in names}})


@pytest.mark.parametrize("spoil", [lost_frames, not_a_number, flagged_bad, wrapped_angles])
def test_rows_that_are_missing_or_marked_bad_are_left_out(kundur: Case, spoil: Callable[[Samples], Samples]) -> None:
    found = fit(kundur, samples=spoil(kundur.samples))
    assert error(kundur, UNIT, found) == pytest.approx(0.0, abs=0.03)


def test_the_flags_of_used_rows_are_told(kundur: Case) -> None:
    quality = np.full(kundur.samples.rows, int(Quality.TIME_UNCERTAIN), dtype=np.uint16)
    assert fit(kundur, samples=replace(kundur.samples, quality=quality)).quality == int(Quality.TIME_UNCERTAIN)


def without(samples: Samples, begin_s: float, end_s: float, onset_ns: int) -> Samples:
    time_s = (samples.time_ns - onset_ns) * 1e-9
    return samples.take((time_s < begin_s) | (time_s >= end_s))


def coarse(samples: Samples, step_hz: float) -> Samples:
    """Frequency and power alone, frequency as a meter with few digits tells it."""
    frequency_hz = np.round(samples.columns["frequency_hz"] / step_hz) * step_hz
    return samples.with_columns({"frequency_hz": frequency_hz, "active_power_w": samples.columns["active_power_w"]})


@pytest.mark.parametrize(
    ("spoil", "status", "words"),
    [
        (lambda s, _: s.take(np.zeros(0, dtype=np.intp)), "no_data", "no rows"),
        (lambda s, t: without(s, -9.0, -0.5, t), "no_data", "rows from"),
        (lambda s, t: without(s, 2.0, 9.0, t), "no_data", "rows from"),
        (lambda s, t: without(s, 0.5, 0.8, t), "bad_data", "gap of 0.3"),
        (lambda s, _: replace(s, time_ns=np.full(s.rows, s.time_ns[120])), "bad_data", "do not increase"),
        (lambda s, _: replace(s, quality=np.full(s.rows, 2, dtype=np.uint16)), "bad_data", "usable"),
        (lambda s, _: s.with_columns({"voltage_v": s.columns["voltage_v"]}), "no_data", "known: voltage_v"),
        (lambda s, _: with_column(s, UNIT, "current_a", lambda a: 20.0 * a), "implausible", "rated_power"),
        (lambda s, _: with_column(s, UNIT, "voltage_v", lambda v: 1.9 * v), "implausible", "rated_voltage"),
        (lambda s, _: with_column(s, UNIT, "current_angle_rad", lambda a: a + np.pi), "implausible", "polarity"),
        (lambda s, _: with_column(s, UNIT, "current_a", lambda a: 0.5 * a), "implausible", "ratios of voltage"),
        (lambda s, _: with_column(s, UNIT, "voltage_v", lambda v: 1.2 * v), "implausible", "ratios of voltage"),
        (lambda s, _: coarse(s, 0.01), "bad_data", "steps of 10 mHz"),
    ],
)
def test_what_is_wrong_with_the_data_is_told(
    kundur: Case, spoil: Callable[[Samples, int], Samples], status: str, words: str
) -> None:
    found = fit(kundur, samples=spoil(kundur.samples, kundur.onset_ns))
    assert (found.status, found.h_s) == (status, None)
    assert words in found.reason


def test_a_refused_fit_keeps_its_courses_for_who_wants_to_see_why(kundur: Case) -> None:
    found = fit(kundur, limits=LIMITS._replace(max_deviation=0.001))
    assert found.status == "ill_conditioned"
    assert found.time_s is not None
    assert found.fitted_hz is not None


def test_too_few_frames_per_second_are_refused(kundur: Case) -> None:
    found = fit(kundur, samples=kundur.samples.take(np.arange(kundur.samples.rows) % 6 == 0))
    assert found.status == "bad_data"
    assert "10 frames/s; at least 20" in found.reason


def test_values_that_no_grid_has_count_as_missing(kundur: Case) -> None:
    def spoil(current_a: NDArray[np.float64]) -> NDArray[np.float64]:
        current_a[::50] = 1e300
        return current_a

    assert fit(kundur, samples=with_column(kundur.samples, UNIT, "current_a", spoil)).status == "ok"


def test_a_unit_without_data_says_so(kundur: Case) -> None:
    assert fit(kundur, "GENROU_9").status == "no_unit_data"


def test_phasors_whose_base_is_not_known_give_way_to_frequency_and_power(kundur: Case) -> None:
    unit = replace(kundur.units[UNIT], rated_voltage=None)
    found = fit(kundur, unit=unit)
    assert (found.status, found.remarks) == ("ok", ("bus_frequency",))
    columns = {name: values for name, values in kundur.samples.columns.items() if name != "active_power_w"}
    refused = fit(kundur, unit=unit, samples=replace(kundur.samples, columns=columns))
    assert refused.status == "no_unit_data"
    assert "rated_voltage" in refused.reason


def test_a_name_that_no_device_has_is_told_beside_those_that_send(kundur: Case) -> None:
    found = fit(kundur, "GENROU1", unit=kundur.units[UNIT])
    assert found.status == "no_data"
    assert "GENROU_1, GENROU_2" in found.reason


def test_those_that_send_are_named_only_if_they_have_rows(kundur: Case) -> None:
    named = replace(kundur.samples, devices=(*kundur.samples.devices, "RETIRED"))
    assert "RETIRED" not in fit(kundur, "GENROU1", unit=kundur.units[UNIT], samples=named).reason


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"rated_power": 500.0}, "overloaded"),
        ({"transient_reactance_pu": 0.033, "subtransient_reactance_pu": 0.028}, "unusual_reactance"),
        ({"transient_reactance_pu": 0.25, "subtransient_reactance_pu": 0.26}, "unusual_reactance"),
    ],
)
def test_data_of_a_unit_that_can_hardly_be_right_are_remarked(
    kundur: Case, changes: dict[str, float], remark: str
) -> None:
    tolerant = LIMITS._replace(max_residual=100.0)
    assert remark in fit(kundur, unit=replace(kundur.units[UNIT], **changes), limits=tolerant).remarks


def with_current(samples: Samples, share: NDArray[np.float64]) -> Samples:
    """The unit's current, and with it its power, changed by this factor."""
    for name in ("current_a", "active_power_w"):
        samples = with_column(samples, UNIT, name, lambda values: values * share)
    return samples


def test_a_unit_that_trips_is_none_to_estimate_but_tells_what_it_gave(kundur: Case) -> None:
    after = kundur.samples.time_ns[kundur.samples.device == 1] > kundur.onset_ns
    found = fit(kundur, samples=with_current(kundur.samples, np.where(after, 0.0, 1.0)))
    assert found.status == "tripped"
    assert found.power_before_pu == pytest.approx(0.778, abs=0.01)


def test_a_unit_that_trips_after_the_event_did_not_make_it(kundur: Case) -> None:
    after = kundur.samples.time_ns[kundur.samples.device == 1] > kundur.onset_ns + NS
    found = fit(kundur, samples=with_current(kundur.samples, np.where(after, 0.0, 1.0)))
    assert (found.status, found.power_before_pu) == ("tripped", None)
    assert "1.0 s after the onset" in found.reason


def test_a_unit_without_current_is_off_line(kundur: Case) -> None:
    noise = np.random.default_rng(1).normal(0.0, 1e-4, int((kundur.samples.device == 1).sum()))
    found = fit(kundur, samples=with_current(kundur.samples, noise))
    assert (found.status, found.guess_h_s) == ("offline", None)


def test_a_current_of_none_beside_power_is_a_fault_of_the_meter(kundur: Case) -> None:
    dead = with_column(kundur.samples, UNIT, "current_a", lambda a: 0.0 * a)
    after = kundur.samples.time_ns[kundur.samples.device == 1] > kundur.onset_ns
    dying = with_column(kundur.samples, UNIT, "current_a", lambda a: np.where(after, 0.0, a))
    for samples in (dead, dying):
        found = fit(kundur, samples=samples)
        assert found.status == "implausible"
        assert "is the current transformer connected?" in found.reason


@pytest.mark.parametrize("changes", [{"rated_voltage": 0.02}, {"rated_power": 900_000.0}])
def test_a_wrong_base_is_not_taken_for_a_unit_that_is_off_line(kundur: Case, changes: dict[str, float]) -> None:
    without_power = {name: each for name, each in kundur.samples.columns.items() if name != "active_power_w"}
    unit = replace(kundur.units[UNIT], **changes)
    for samples in (kundur.samples, kundur.samples.with_columns(without_power)):
        assert fit(kundur, unit=unit, samples=samples).status not in {"offline", "ok"}


def test_a_condenser_without_load_is_not_off_line(kundur: Case) -> None:
    """Its current is less than noise until frequency moves, and then what inertia asks for."""
    mine = kundur.samples.device == 1
    slope = np.gradient(kundur.samples.columns["frequency_hz"][mine], 1.0 / 60.0) / 60.0
    noise = np.random.default_rng(2).normal(0.0, 1e-4, len(slope))
    per_pu_a = 900e6 / (3.0 * 20e3 / np.sqrt(3.0))
    current = -2.0 * 3.0 * slope + noise
    columns = dict(kundur.samples.columns)
    del columns["active_power_w"]
    samples = with_column(kundur.samples.with_columns(columns), UNIT, "current_a", lambda _: per_pu_a * np.abs(current))
    angle = np.where(current > 0.0, 0.0, np.pi)
    volt = kundur.samples.columns["voltage_angle_rad"][mine]
    floating = with_column(samples, UNIT, "current_angle_rad", lambda _: volt + angle)
    assert fit(kundur, samples=floating).status != "offline"


def test_a_condenser_that_idles_at_the_grid_is_not_off_line(kundur: Case) -> None:
    """All of its current is what inertia makes of the event."""
    other = replace(kundur.units[UNIT], rated_power=45_000.0)
    assert fit(kundur, unit=other).status != "offline"


def test_a_subtransient_reactance_above_the_transient_one_counts_as_both(kundur: Case) -> None:
    wrong, right = (
        fit(kundur, unit=replace(kundur.units[UNIT], transient_reactance_pu=x, subtransient_reactance_pu=0.26))
        for x in (0.2, 0.26)
    )
    assert wrong.guess_h_s == right.guess_h_s is not None


def test_a_frequency_in_steps_of_a_c37118_frame_is_fine_enough(kundur: Case) -> None:
    assert error(kundur, UNIT, fit(kundur, samples=coarse(kundur.samples, 0.001))) == pytest.approx(0.0, abs=0.05)


def test_a_fit_after_a_phase_jump_is_no_guess(kundur: Case) -> None:
    after = kundur.samples.time_ns[kundur.samples.device == 1] > kundur.onset_ns + NS
    turned = kundur.samples
    for name in ("voltage_angle_rad", "current_angle_rad"):
        turned = with_column(turned, UNIT, name, lambda a: a + np.where(after, 0.3, 0.0))
    found = fit(kundur, samples=turned)
    assert (found.status, found.guess_h_s) == ("phase_jump", None)


def test_frequency_that_hardly_moves_excites_nothing(kundur: Case) -> None:
    found = fit_unit(
        kundur.samples,
        UNIT,
        kundur.units[UNIT],
        onset_ns=kundur.onset_ns,
        begin_ns=kundur.onset_ns - 2 * NS,
        end_ns=kundur.onset_ns + 5 * NS,
        limits=LIMITS._replace(min_deviation_hz=0.5),
        nominal_hz=60.0,
    )
    assert found.status == "not_excited"
    assert "at least 500 are needed" in found.reason
    assert found.guess_h_s == pytest.approx(kundur.h_s[UNIT], rel=0.02)


def test_swings_before_the_onset_that_are_as_large_as_after_it_are_no_event() -> None:
    case = load_case("kundur_load_step")
    late = Case(case.samples, case.units, case.onset_ns + 4 * NS, case.h_s, case.energy_mws)
    assert fit(late).status == "not_excited"


@pytest.mark.parametrize("degrees", [5.0, -20.0])
def test_a_jump_of_the_angle_that_no_power_explains_is_a_phase_jump(kundur: Case, degrees: float) -> None:
    after = kundur.samples.time_ns[kundur.samples.device == 1] > kundur.onset_ns + NS
    turned = kundur.samples
    for name in ("voltage_angle_rad", "current_angle_rad"):
        turned = with_column(turned, UNIT, name, lambda a: a + np.where(after, np.radians(degrees), 0.0))
    assert fit(kundur, samples=turned).status == "phase_jump"


def test_power_of_another_unit_does_not_fit(kundur: Case) -> None:
    other = kundur.samples.columns["current_a"][kundur.samples.device == 3]
    swapped = with_column(kundur.samples, UNIT, "current_a", lambda _: other)
    found = fit(kundur, samples=swapped)
    assert found.status in {"model_mismatch", "phase_jump"}
    assert found.deviation is None or found.deviation >= 0.3


def test_currents_lose_their_noise_but_keep_their_steps() -> None:
    rng = np.random.default_rng(5)
    time_s = np.arange(-2.0, 5.0, 1.0 / 60.0)
    truth = 0.8 + 0.01 * np.sin(5.0 * time_s) + np.where(time_s > 0.0, 0.05, 0.0)
    noisy = truth + rng.normal(0.0, 1e-3, len(truth))
    grid = Grid(1.0 / 60.0, time_s, np.ones(len(truth), dtype=np.bool_), 105, {}, len(truth), 0, None, None)
    found = without_noise(noisy, grid, 0.2)
    near = np.abs(time_s) < 0.1
    assert np.std((found - truth)[~near]) < 0.6 * np.std((noisy - truth)[~near])
    assert found[near] == pytest.approx(noisy[near], abs=1e-9)
