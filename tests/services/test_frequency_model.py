"""The grid obeys the physics that it claims, and obeys set-points as real units must."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edgeflex_flow.messages import Setpoints
from edgeflex_services.frequency_model import (
    START_NS,
    FrequencyGrid,
    Layout,
    LoadStep,
    MachineTrip,
    Resource,
    close_loop,
    single_area,
    two_areas,
)

STEP = LoadStep(at_s=1.0, area="north", power_w=50e6)


def nothing(_samples: object, _now_ns: int) -> list[Setpoints]:
    return []


def told(time_s: float, valid_for_s: float = 2.0, quantity: str = "active_power_w", **values: float) -> Setpoints:
    return Setpoints(
        controller="test",
        time_ns=START_NS + round(time_s * 1e9),
        quantity=quantity,
        values=values,
        valid_for_s=valid_for_s,
        status="ok",
    )


def resource_grid(**values: object) -> FrequencyGrid:
    """An area with one resource."""
    settings = {"name": "unit", "minimum_w": -10e6, "maximum_w": 10e6, **values}
    [area] = single_area().areas
    resource = Resource(**settings)  # type: ignore[arg-type]
    machine = replace(area.machines[0], power_w=1e9 - resource.scheduled_w)
    return FrequencyGrid(Layout(areas=(replace(area, machines=(machine,), resources=(resource,)),)), noise_w=0.0)


def run(grid: FrequencyGrid, seconds: float) -> None:
    close_loop(grid, nothing, seconds)


@pytest.mark.parametrize("layout", [single_area(), two_areas(), two_areas(100e6)], ids=["one", "two", "exchange"])
def test_grid_stays_at_rest_until_something_happens(layout: Layout) -> None:
    course = close_loop(FrequencyGrid(layout), nothing, 10.0)
    assert np.abs(course.frequency_hz - 50.0).max() < 1e-9
    assert np.abs(course.exchange_w - course.exchange_w[0]).max() < 1.0


def test_load_step_of_5_percent_has_the_nadir_of_the_reference_case() -> None:
    course = close_loop(FrequencyGrid(single_area(), [STEP]), nothing, 60.0)
    assert course.nadir_hz("north") == pytest.approx(-0.272, abs=0.001)
    assert course.settled_s("north", 1.0) == math.inf


def test_first_slope_is_what_the_swing_equation_says() -> None:
    course = close_loop(FrequencyGrid(single_area(), [STEP]), nothing, 1.2)
    slope = (course.deviation_hz("north")[52] - course.deviation_hz("north")[49]) / 0.06
    assert slope == pytest.approx(-50e6 * 50.0 / (2.0 * 5.0 * 1e9), rel=0.03)


def test_steady_deviation_is_what_droop_and_load_leave() -> None:
    course = close_loop(FrequencyGrid(single_area(), [STEP]), nothing, 120.0)
    assert course.deviation_hz("north")[-1] == pytest.approx(-0.05 * 50.0 / (1.0 / 0.05 + 1.0), rel=1e-3)


def test_machine_that_trips_takes_its_power_and_its_inertia_along() -> None:
    [area] = single_area().areas
    large, small = (replace(area.machines[0], name=name, power_w=power_w, rated_power_w=rated_w)
                    for name, power_w, rated_w in (("large", 760e6, 900e6), ("small", 40e6, 100e6)))  # fmt: skip
    layout = Layout(areas=(replace(area, machines=(large, small)),))
    course = close_loop(FrequencyGrid(layout, [MachineTrip(at_s=1.0, machine="small")]), nothing, 120.0)
    slope = (course.deviation_hz("north")[52] - course.deviation_hz("north")[49]) / 0.06
    assert slope == pytest.approx(-40e6 * 50.0 / (2.0 * 5.0 * 0.9e9), rel=0.03)
    assert course.deviation_hz("north")[-1] == pytest.approx(-0.04 * 50.0 / (0.9 / 0.05 + 1.0), rel=1e-3)


def test_area_without_machines_is_told() -> None:
    with pytest.raises(ValueError, match="area 'north' has no machine left"):
        close_loop(FrequencyGrid(single_area(), [MachineTrip(at_s=0.1, machine="north_steam")]), nothing, 1.0)


def test_event_at_what_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="no area or machine 'west'; known: north, north_steam"):
        FrequencyGrid(single_area(), [replace(STEP, area="west")])


def test_areas_share_a_loss_by_their_stiffness() -> None:
    course = close_loop(FrequencyGrid(two_areas(100e6), [STEP]), nothing, 120.0)
    # Their loads are 900 MW and 1.1 GW.
    exchange_w = 100e6 - 50e6 * (20.0 + 1.1) / (2.0 * 20.0 + 2.0)
    assert course.exchange_w[-1] == pytest.approx([exchange_w, -exchange_w], rel=1e-3)
    assert np.ptp(course.frequency_hz[-1]) < 1e-4


def test_same_seed_gives_the_same_measurements() -> None:
    def measured(seed: int) -> float:
        samples = FrequencyGrid(single_area(), seed=seed).advance()
        assert samples is not None
        return float(samples.columns["frequency_hz"][0])

    assert measured(1) == measured(1) != measured(2)


def test_measurements_come_after_the_delay_with_the_time_at_which_they_were_made() -> None:
    grid = FrequencyGrid(single_area(), delay_s=0.1)
    came = [grid.advance() for _ in range(7)]
    assert [each is None for each in came] == [True] * 5 + [False] * 2
    assert came[5] is not None
    assert came[5].time_ns[0] == grid.time_ns(1)


def test_phasors_give_frequency_and_power() -> None:
    grid = FrequencyGrid(single_area(), [STEP], noise_hz=0.0, noise_w=0.0)
    before, now = None, None
    for _ in range(100):
        before, now = now, grid.advance()
    assert before is not None
    assert now is not None
    columns = now.columns
    lag = columns["voltage_angle_rad"] - columns["current_angle_rad"]
    power_w = 3.0 * columns["voltage_v"] * columns["current_a"] * np.cos(lag)
    assert power_w == pytest.approx(columns["active_power_w"], abs=1.0)
    turned = math.remainder(columns["voltage_angle_rad"][0] - before.columns["voltage_angle_rad"][0], 2.0 * math.pi)
    assert turned / (2.0 * math.pi * 0.02) == pytest.approx(columns["frequency_hz"][0] - 50.0, abs=3e-3)


# ---- what a resource does with set-points


def test_resource_follows_its_set_point_with_its_lag_and_ramp() -> None:
    lagging = resource_grid(lag_s=0.5)
    lagging.obey(told(0.0, unit=8e6))
    run(lagging, 0.5)
    assert lagging.course().power_w[-1, 0] == pytest.approx(8e6 * (1.0 - math.exp(-1.0)))
    slow = resource_grid(ramp_w_per_s=1e6)
    slow.obey(told(0.0, unit=8e6))
    run(slow, 1.0)
    assert slow.course().power_w[-1, 0] == pytest.approx(1e6)


def test_set_point_that_runs_out_sends_the_resource_back_to_its_schedule() -> None:
    grid = resource_grid(scheduled_w=1e6)
    grid.obey(told(0.0, valid_for_s=2.0, unit=8e6))
    run(grid, 1.9)
    assert grid.course().power_w[-1, 0] == pytest.approx(8e6, rel=1e-3)
    run(grid, 1.5)
    assert grid.course().power_w[-1, 0] == pytest.approx(1e6, rel=1e-3)
    assert grid.counts.expired == 1


def test_late_and_older_set_points_are_not_obeyed() -> None:
    grid = resource_grid()
    run(grid, 5.0)
    grid.obey(told(1.0, unit=8e6))
    assert grid.course().setpoint_w[-1, 0] == 0.0
    grid.obey(told(4.5, unit=6e6))
    grid.obey(told(4.0, unit=7e6))
    run(grid, 1.0)
    assert grid.course().setpoint_w[-1, 0] == 6e6
    assert (grid.counts.obeyed, grid.counts.late) == (1, 2)


def test_hardware_stands_above_the_set_point() -> None:
    grid = resource_grid()
    grid.obey(told(0.0, unit=80e6))
    run(grid, 1.9)
    assert grid.course().power_w.max() <= 10e6
    assert grid.counts.clipped == 1


@pytest.mark.parametrize("message", [told(0.0, other=1e6), told(0.0, quantity="reactive_power_var", unit=1e6)])
def test_values_for_others_or_of_another_quantity_are_counted(message: Setpoints) -> None:
    grid = resource_grid()
    grid.obey(message)
    assert (grid.counts.unknown, grid.counts.obeyed) == (1, 0)


def test_storage_empties_and_then_gives_no_more() -> None:
    grid = resource_grid(capacity_wh=10e3, charge_percent=20.0)  # 7.2 MWs
    grid.obey(told(0.0, valid_for_s=60.0, unit=8e6))
    run(grid, 5.0)
    assert (grid.course().power_w[:, 0].sum() / 50.0) == pytest.approx(7.2e6, rel=0.15)
    assert abs(grid.course().power_w[-1, 0]) < 1e3
