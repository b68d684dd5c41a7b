from __future__ import annotations

import pytest
from inertia_cases import Case, load_case, window_of, with_column
from msgspec.structs import replace

from edgeflex_flow.messages import InertiaEstimate, SystemInertia
from edgeflex_operators import inertia_event, system_inertia
from edgeflex_operators.inertia_event import InertiaEventConfig
from edgeflex_operators.system_inertia import SystemInertiaConfig


@pytest.fixture(scope="module")
def case() -> Case:
    return load_case("kundur_load_step", seed=4)


def estimate(case: Case, **changes: object) -> list[InertiaEstimate]:
    config = InertiaEventConfig(units=case.units)
    return inertia_event.step(config, None, replace(window_of(case), **changes))  # type: ignore[return-value]


def test_every_unit_of_the_table_has_an_estimate(case: Case) -> None:
    found = estimate(case)
    assert [each.device for each in found] == list(case.units)
    for each in found:
        assert each.status == "ok"
        assert each.h_ci95_low_s is not None
        assert each.h_ci95_high_s is not None
        assert each.h_ci95_low_s < case.h_s[each.device] < each.h_ci95_high_s
        assert each.kinetic_energy_mws == pytest.approx(900.0 * (each.h_s or 0.0))


def test_a_device_that_sends_but_is_no_unit_of_the_table_is_told(case: Case) -> None:
    units = {name: unit for name, unit in case.units.items() if name != "GENROU_3"}
    found = inertia_event.step(InertiaEventConfig(units=units), None, window_of(case))
    last = found[-1]
    assert isinstance(last, InertiaEstimate)
    assert (last.device, last.status, last.rated_power_mva) == ("GENROU_3", "no_unit_data", None)
    assert len(found) == 4


def test_a_device_without_rows_in_the_window_is_not_told(case: Case) -> None:
    samples = replace(case.samples, devices=(*case.samples.devices, "RETIRED"))
    assert [each.device for each in estimate(case, samples=window_of(case, samples).samples)] == list(case.units)


@pytest.mark.parametrize("factor", [0.0, 1e-3, 1e300])
def test_a_frequency_that_no_grid_has_gives_no_estimate(case: Case, factor: float) -> None:
    """Taken for 50 Hz, it would make H of a 60 Hz system a fifth too small."""
    samples = case.samples
    for device in case.units:
        samples = with_column(samples, device, "frequency_hz", lambda hz: hz * factor)
    found = estimate(case, samples=window_of(case, samples).samples)
    assert {each.status for each in found} == {"implausible"}
    assert "nominal is 50 or 60 Hz" in found[0].reason


def test_an_estimate_tells_the_settings_that_a_policy_may_have_changed(case: Case) -> None:
    config = InertiaEventConfig(units=case.units, max_deviation=0.036)
    [found, *_] = inertia_event.step(config, None, window_of(case))
    assert isinstance(found, InertiaEstimate)
    assert found.settings["max_deviation"] == 0.036
    assert set(found.settings) == set(config.__struct_fields__) - {"units"}


def test_an_estimate_says_what_it_was_made_of(case: Case) -> None:
    first, second = estimate(case)[:2]
    assert (first.begin_ns, first.end_ns, first.rows) == (case.onset_ns - 2 * 10**9, case.onset_ns + 5 * 10**9, 420)
    assert len(first.config_digest) == len(first.unit_digest) == 16
    assert first.config_digest == second.config_digest
    assert "/" in first.version
    other = InertiaEventConfig(units=case.units, stand_out=2.0)
    [changed, *_] = inertia_event.step(other, None, window_of(case))
    assert isinstance(changed, InertiaEstimate)
    assert changed.config_digest != first.config_digest


def test_a_joint_step_of_power_that_is_none_refuses_all(case: Case) -> None:
    found = estimate(case, power_step=8.0)
    assert {each.status for each in found} == {"not_excited"}
    assert all("25 are needed" in each.reason and each.h_s is None for each in found)


def test_an_event_that_few_units_show_is_none(case: Case) -> None:
    samples = case.samples
    for device in ("GENROU_2", "GENROU_3", "GENROU_4"):
        samples = with_column(samples, device, "voltage_angle_rad", lambda a: a * 0.0)
        samples = with_column(samples, device, "current_angle_rad", lambda a: a * 0.0 - 0.3)
        samples = with_column(samples, device, "current_a", lambda a: a * 0.0 + 2e4)
    found = estimate(case, samples=window_of(case, samples).samples)
    assert {each.status for each in found} == {"not_excited"}
    assert "1 of 4 units" in found[0].reason


def test_rows_that_came_late_are_remarked(case: Case) -> None:
    assert estimate(case, missing=("GENROU_2",))[1].remarks == ("late_rows",)


def sum_of(case: Case, found: list[InertiaEstimate], **changes: object) -> SystemInertia:
    config = replace(SystemInertiaConfig(units=case.units), **changes)
    state = system_inertia.start(config)
    given = [message for each in found for message in system_inertia.step(config, state, each)]
    assert len(given) == 1
    assert isinstance(given[0], SystemInertia)
    return given[0]


def test_the_sum_comes_with_the_last_unit_and_holds_the_truth(case: Case) -> None:
    total = sum_of(case, estimate(case))
    assert total.kinetic_energy_mws == pytest.approx(case.energy_mws, rel=0.03)
    assert total.ci95_low_mws is not None
    assert total.ci95_high_mws is not None
    assert total.ci95_low_mws < case.energy_mws < total.ci95_high_mws
    assert total.estimated == tuple(case.units)


def test_a_known_lost_power_is_checked_against_the_sum(case: Case) -> None:
    total = sum_of(case, estimate(case), lost_power=100.0)
    assert total.kinetic_energy_from_lost_power_mws == pytest.approx(case.energy_mws, rel=0.25)
    assert total.agrees is True
    assert sum_of(case, estimate(case), lost_power=50.0).agrees is False


def refused(found: list[InertiaEstimate], device: str, **changes: object) -> list[InertiaEstimate]:
    return [
        replace(each, status="no_data", h_s=None, guess_h_s=None, deviation=None, **changes)
        if each.device == device
        else each
        for each in found
    ]


def test_there_is_no_sum_when_nothing_is_known_of_a_unit(case: Case) -> None:
    total = sum_of(case, refused(estimate(case), "GENROU_3"))
    assert total.kinetic_energy_mws is None
    assert total.reason == "nothing is known of GENROU_3"


def test_a_known_constant_stands_in_for_an_estimate(case: Case) -> None:
    units = {**case.units, "GENROU_3": replace(case.units["GENROU_3"], inertia_constant=6.175)}
    total = sum_of(case, refused(estimate(case), "GENROU_3"), units=units)
    assert total.kinetic_energy_mws == pytest.approx(case.energy_mws, rel=0.03)
    assert total.assumed == ("GENROU_3",)


def test_a_wide_guess_counts_and_widens_the_interval(case: Case) -> None:
    found = estimate(case)
    guessed = [
        replace(each, status="ill_conditioned", guess_h_s=each.h_s, h_s=None, deviation=0.3)
        if each.device == "GENROU_1"
        else each
        for each in found
    ]
    sure, unsure = sum_of(case, found), sum_of(case, guessed)
    assert unsure.kinetic_energy_mws == sure.kinetic_energy_mws
    assert unsure.ci95_high_mws is not None
    assert sure.ci95_high_mws is not None
    assert unsure.ci95_high_mws > sure.ci95_high_mws
    assert unsure.assumed == ("GENROU_1",)


def test_a_tripped_unit_does_not_count_but_tells_the_lost_power(case: Case) -> None:
    found = [
        replace(each, status="tripped", h_s=None, power_before_mw=100.0) if each.device == "GENROU_4" else each
        for each in estimate(case)
    ]
    total = sum_of(case, found)
    assert total.tripped == ("GENROU_4",)
    assert total.kinetic_energy_mws == pytest.approx(3 * 900 * 6.4, rel=0.05)
    assert total.lost_power_mw == 100.0


def test_without_any_estimate_there_is_no_sum(case: Case) -> None:
    assert sum_of(case, estimate(case, power_step=1.0)).reason == "no unit could be estimated"


def test_events_that_never_complete_are_forgotten(case: Case) -> None:
    config = SystemInertiaConfig(units=case.units)
    state = system_inertia.start(config)
    [first, *_] = estimate(case)
    for number in range(100):
        system_inertia.step(config, state, replace(first, event_id=str(number)))
    assert len(state.waiting) <= 17
