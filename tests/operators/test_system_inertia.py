from __future__ import annotations

import math
from typing import Any

import pytest
from inertia_cases import Case, load_case, window_of
from inertia_results import inertia_estimate
from msgspec.structs import replace

from edgeflex_flow.messages import InertiaEstimate, SystemInertia
from edgeflex_operators import inertia_event, system_inertia
from edgeflex_operators._units import GeneratingUnit
from edgeflex_operators.inertia_event import InertiaEventConfig
from edgeflex_operators.system_inertia import SystemInertiaConfig


@pytest.fixture(scope="module")
def case() -> Case:
    return load_case("kundur_load_step", seed=4)


def estimate(case: Case, **changes: object) -> list[InertiaEstimate]:
    config = InertiaEventConfig(units=case.units)
    return inertia_event.step(config, None, replace(window_of(case), **changes))  # type: ignore[return-value]


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


def test_the_sum_names_the_policies_of_its_estimates(case: Case) -> None:
    found = [replace(each, policies={"south/excitation": "3"}) for each in estimate(case)]
    assert sum_of(case, found).policies == {"south/excitation": "3"}


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
    assert total.reason.startswith("nothing is known of GENROU_3; give `inertia_constant`")


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


# Sums that can be worked out by hand --------------------------------------------------------------------------------

TWO = {"G1": GeneratingUnit(rated_power=1000.0), "G2": GeneratingUnit(rated_power=500.0)}


def two(**of_the_second: Any) -> SystemInertia:
    """4 s on 1000 MVA to 5 %, and a second unit of 500 MVA."""
    first = inertia_estimate("G1", h_s=4.0, deviation=0.05, rocof_hz_per_s=-0.1)
    return system_inertia.system_inertia([first, inertia_estimate("G2", **of_the_second)], TWO)


def half_width(total: SystemInertia) -> float:
    assert total.ci95_low_mws is not None
    assert total.ci95_high_mws is not None
    assert total.kinetic_energy_mws is not None
    assert total.ci95_high_mws - total.kinetic_energy_mws == pytest.approx(
        total.kinetic_energy_mws - total.ci95_low_mws
    )
    return (total.ci95_high_mws - total.ci95_low_mws) / 2.0


def test_the_interval_holds_the_errors_of_the_units_and_one_that_they_share() -> None:
    total = two(h_s=3.0, deviation=0.1)
    assert total.kinetic_energy_mws == pytest.approx(5500.0)
    own = math.hypot(0.05 * 4000.0, 0.1 * 1500.0)
    shared = system_inertia.COMMON_DEVIATION * 5500.0
    assert half_width(total) == pytest.approx(1.959964 * math.hypot(own, shared))


def test_units_that_are_known_exactly_still_share_an_error() -> None:
    exact = [inertia_estimate(name, h_s=4.0, deviation=1e-9) for name in TWO]
    assert 0.01 < half_width(system_inertia.system_inertia(exact, TWO)) / 6000.0 < 0.1


@pytest.mark.parametrize("nominal_hz", [50.0, 60.0])
def test_energy_from_the_lost_power_takes_the_nominal_frequency_of_the_grid(nominal_hz: float) -> None:
    found = [inertia_estimate(n, h_s=4.0, deviation=0.05, rocof_hz_per_s=-0.1, nominal_hz=nominal_hz) for n in TWO]
    total = system_inertia.system_inertia(found, TWO, lost_power_mw=24.0)
    assert total.kinetic_energy_from_lost_power_mws == pytest.approx(24.0 * nominal_hz / (2.0 * 0.1))


def test_a_unit_that_is_off_line_adds_nothing_though_its_constant_is_known() -> None:
    units = {**TWO, "G2": replace(TWO["G2"], inertia_constant=9.0)}
    found = [inertia_estimate("G1", h_s=4.0, deviation=0.05), inertia_estimate("G2", "offline")]
    total = system_inertia.system_inertia(found, units)
    assert (total.kinetic_energy_mws, total.offline, total.assumed) == (4000.0, ("G2",), ())


def test_a_guess_that_is_all_but_unknown_is_none() -> None:
    assert two(status="ill_conditioned", guess_h_s=3.0, deviation=0.8).reason.startswith("nothing is known of G2;")


def test_a_sum_that_is_mostly_guessed_is_none() -> None:
    guessed = [
        inertia_estimate("G1", "not_excited", guess_h_s=4.0, deviation=0.3),
        inertia_estimate("G2", h_s=3.0, deviation=0.1),
    ]
    assert "only 27 % of the sum" in system_inertia.system_inertia(guessed, TWO).reason


def test_the_sum_says_what_its_units_remark_and_what_it_was_made_of() -> None:
    total = two(h_s=3.0, deviation=0.1, remarks=("clock_offset",), version="1/2")
    assert (total.remarks, total.begin_ns, total.end_ns, total.version) == (("clock_offset",), 0, 1, "1/2")
    other = system_inertia.system_inertia([inertia_estimate("G1", h_s=4.0, deviation=0.1)], {"G1": TWO["G1"]})
    assert len(total.config_digest) == 16
    assert total.config_digest != other.config_digest
