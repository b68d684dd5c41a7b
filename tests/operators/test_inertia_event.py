from __future__ import annotations

import numpy as np
import pytest
from inertia_cases import Case, load_case, window_of, with_column
from msgspec.structs import replace

from edgeflex_flow.messages import InertiaEstimate
from edgeflex_operators import inertia_event
from edgeflex_operators.inertia_event import InertiaEventConfig


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


def test_an_estimate_names_the_policies_of_its_event(case: Case) -> None:
    found = estimate(case, policies={"south/excitation": "3"})
    assert [each.policies for each in found] == [{"south/excitation": "3"}] * len(found)


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
        samples = with_column(samples, device, "active_power_w", lambda p: p * np.nan)
    found = estimate(case, samples=window_of(case, samples).samples)
    assert {each.status for each in found} == {"not_excited"}
    assert "1 of 4 units" in found[0].reason


def test_rows_that_came_late_are_remarked(case: Case) -> None:
    assert estimate(case, missing=("GENROU_2",))[1].remarks == ("late_rows",)
