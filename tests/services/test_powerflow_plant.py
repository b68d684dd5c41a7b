from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeflex_services.powerflow_grid import make_grid
from edgeflex_services.powerflow_plant import ACTIVE_POWER, REACTIVE_POWER, STORAGE_POWER, Plant

LAST = "node_26"
"""The house at the end of the long feeder of `kerber`."""
LAST_HOUSE = 11
SMALL_STORAGES = make_grid("kerber", storage_kwh=10.0)


@pytest.fixture
def plant() -> Plant:
    return Plant(SMALL_STORAGES)


def last_voltage_pu(plant: Plant, time_s: float) -> float:
    return float(plant.step(time_s).voltage_pu[plant.grid.nodes.index(LAST)])


@pytest.mark.parametrize(
    ("quantity", "value", "lowers"),
    [
        (ACTIVE_POWER, -0.1, True),
        (REACTIVE_POWER, -0.05, True),
        (REACTIVE_POWER, 0.05, False),
        (STORAGE_POWER, -0.04, True),
        (STORAGE_POWER, 0.04, False),
    ],
)
def test_set_points_move_the_voltage_the_right_way(plant: Plant, quantity: str, value: float, *, lowers: bool) -> None:
    before_pu = last_voltage_pu(plant, 0.0)
    assert plant.apply(quantity, {LAST: value}) == []
    after_pu = last_voltage_pu(plant, 1.0)
    assert abs(after_pu - before_pu) > 1e-4
    assert (after_pu < before_pu) is lowers


def test_set_points_are_per_unit_of_the_power_base() -> None:
    for base_kva in (10.0, 1000.0):
        plant = Plant(make_grid("kerber", power_base_kva=base_kva))
        plant.apply(ACTIVE_POWER, {LAST: -11.0 / base_kva})
        assert plant.step(0.0).active_w[LAST_HOUSE] == pytest.approx(11e3)


def test_inverters_keep_their_limits_whatever_they_are_told(plant: Plant) -> None:
    plant.apply(ACTIVE_POWER, {LAST: -1e300, "node_4": 0.5})
    plant.apply(REACTIVE_POWER, {LAST: -1e300, "node_4": 1e300})
    measured = plant.step(0.0)
    assert measured.active_w[LAST_HOUSE] == 0.0
    assert measured.active_w[0] == pytest.approx(22e3)
    assert measured.reactive_var[LAST_HOUSE] == pytest.approx(-9592.0, abs=1.0)
    assert measured.reactive_var[0] == pytest.approx(9592.0, abs=1.0)


def test_a_storage_stops_at_a_tenth_and_at_nine_tenths_of_its_capacity(plant: Plant) -> None:
    plant.step(0.0)
    plant.apply(STORAGE_POWER, {LAST: 1.0, "node_4": -1.0})
    measured = [plant.step(900.0 * quarter) for quarter in range(1, 9)][-1]
    assert measured.state_of_charge[LAST_HOUSE] == pytest.approx(0.1)
    assert measured.state_of_charge[0] == pytest.approx(0.9)
    assert measured.storage_w[LAST_HOUSE] == pytest.approx(0.0)
    assert measured.storage_w[0] == pytest.approx(0.0)


def test_charging_and_discharging_cost_their_efficiency(plant: Plant) -> None:
    plant.step(0.0)
    plant.apply(STORAGE_POWER, {LAST: -0.02, "node_4": 0.02})
    measured = plant.step(3600.0)
    # 2 kW for an hour with 95 %, of 10 kWh.
    assert measured.state_of_charge[LAST_HOUSE] == pytest.approx(0.5 + 0.2 * 0.95)
    assert measured.state_of_charge[0] == pytest.approx(0.5 - 0.2 / 0.95)


@given(st.lists(st.tuples(st.floats(-1.0, 1.0), st.floats(0.0, 7200.0)), max_size=20))
@settings(max_examples=25)
def test_no_sequence_of_orders_takes_a_storage_out_of_its_bounds(orders: list[tuple[float, float]]) -> None:
    plant = Plant(SMALL_STORAGES)
    begin_s = plant.step(0.0).time_s
    for value, seconds in orders:
        plant.apply(STORAGE_POWER, {LAST: value})
        begin_s += seconds
        measured = plant.step(begin_s)
        assert 0.1 - 1e-9 <= measured.state_of_charge[LAST_HOUSE] <= 0.9 + 1e-9
        assert abs(measured.storage_w[LAST_HOUSE]) <= 5e3


def test_set_points_that_nobody_renews_expire(plant: Plant) -> None:
    free_pu = last_voltage_pu(plant, 0.0)
    plant.apply(REACTIVE_POWER, {LAST: -0.05}, until_s=10.0)
    plant.apply(ACTIVE_POWER, {LAST: -0.05}, until_s=20.0)
    assert last_voltage_pu(plant, 10.0) < free_pu
    assert plant.report.expired == 0
    measured = plant.step(10.1)
    assert measured.reactive_var[LAST_HOUSE] == 0.0
    assert measured.active_w[LAST_HOUSE] == pytest.approx(17e3)
    assert plant.report.expired == 1
    assert last_voltage_pu(plant, 21.0) == pytest.approx(free_pu)
    assert plant.report.expired == 2


def test_a_set_point_holds_for_nodes_that_the_next_message_does_not_name(plant: Plant) -> None:
    plant.apply(REACTIVE_POWER, {LAST: -0.05})
    plant.apply(REACTIVE_POWER, {"node_4": -0.01})
    assert plant.step(0.0).reactive_var[[0, LAST_HOUSE]] == pytest.approx([-1e3, -5e3])


def test_what_makes_no_sense_is_refused_and_the_rest_obeyed(plant: Plant) -> None:
    refusals = plant.apply(REACTIVE_POWER, {"node_27": 0.1, "node_4": math.nan, "node_6": math.inf, LAST: -0.01})
    assert refusals == [
        f"reactive_power of 'node_27': no asset there; known: {', '.join(plant.grid.inverters.names)}",
        "reactive_power of 'node_4': nan is no finite number",
        "reactive_power of 'node_6': inf is no finite number",
    ]
    assert plant.report.refused == 3
    assert plant.report.applied == 1
    assert plant.step(0.0).reactive_var.sum() == pytest.approx(-1e3)


def test_an_unknown_quantity_is_refused_with_those_that_are_known(plant: Plant) -> None:
    with pytest.raises(ValueError, match="'power'; known: active_power, reactive_power, active_power_ESS"):
        plant.apply("power", {})


def test_time_does_not_go_back(plant: Plant) -> None:
    plant.step(10.0)
    with pytest.raises(ValueError, match="time 9 s is before that of the last step, 10 s"):
        plant.step(9.0)


def test_the_report_counts_minutes_and_energy(plant: Plant) -> None:
    plant.step(0.0)
    plant.step(1800.0)
    plant.apply(ACTIVE_POWER, dict.fromkeys(plant.grid.inverters.names, -1.0))
    plant.step(3600.0)
    report = plant.report
    assert report.steps == 3
    assert report.minutes == pytest.approx(60.0)
    assert report.violation_minutes == pytest.approx(30.0)
    assert report.available_kwh == pytest.approx(308.0)
    assert report.curtailed_kwh == pytest.approx(154.0)
    assert report.max_voltage_pu == pytest.approx(1.1189, abs=1e-4)
    assert report.min_voltage_pu < 1.0


def test_measurements_of_before_do_not_change_afterwards(plant: Plant) -> None:
    first = plant.step(0.0)
    kept = {name: np.copy(getattr(first, name)) for name in ("voltage_pu", "storage_w", "state_of_charge", "active_w")}
    plant.apply(STORAGE_POWER, {LAST: -1.0})
    plant.apply(ACTIVE_POWER, {LAST: -1.0})
    plant.step(900.0)
    assert all((getattr(first, name) == value).all() for name, value in kept.items())
