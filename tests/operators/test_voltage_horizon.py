"""The program of a horizon: what its plans keep within, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from voltage_cases import BRANCHES, NODES, STORAGE

from edgeflex_operators._inverters import Inverter
from edgeflex_operators._limits import Bounds
from edgeflex_operators._network import radial_sensitivities
from edgeflex_operators._voltage_horizon import HorizonProgram, Outlook, Plan
from edgeflex_operators._voltage_program import VoltageProgram

STEPS = 8
BASE_KVA = 100.0
INVERTERS = tuple(Inverter(rated_power=24.0, min_power_factor=0.9, storage=STORAGE) for _ in NODES)


def program(**fields: Any) -> HorizonProgram:
    known = radial_sensitivities(BRANCHES, NODES, NODES, voltage_base_kv=0.4, power_base_kva=BASE_KVA)
    return HorizonProgram(VoltageProgram(known, INVERTERS, BASE_KVA), STEPS, 0.25, **{"wanted_charge": 0.5, **fields})


def outlook(made: HorizonProgram, sun_pu: float = 0.22, charge: float = 0.5, **fields: Any) -> Outlook:
    count = len(NODES)
    available = np.full((STEPS, count), sun_pu)
    most = made.now.most_reactive(available[0])
    zero = np.zeros(count)
    power = np.full(count, STORAGE.max_charge / BASE_KVA)
    voltage = 1.0 + available @ made.sensitivities.resistance.T
    settings: dict[str, Any] = {
        "voltage": voltage,
        "margin": np.zeros_like(voltage),
        "available": available,
        "energy": charge * made.capacity,
        "first": (
            np.concatenate([-most, zero, zero, zero]),
            np.concatenate([most, available[0], power, power]),
        ),
        "voltage_bounds": Bounds(0.95, 1.05),
        "curtailable_share": 1.0,
        "targets": np.full((STEPS, count), np.nan),
    }
    return Outlook(**{**settings, **fields})


def planned(charge: float = 0.5, sun_pu: float = 0.22, **fields: Any) -> tuple[HorizonProgram, Plan]:
    made = program()
    return made, made.plan(outlook(made, sun_pu, charge, **fields))


@pytest.mark.parametrize("charge", [0.1, 0.5, 0.88])
def test_storages_stay_within_their_energy_and_power_in_every_step(charge: float) -> None:
    made, plan = planned(charge)
    share = plan.energy / made.capacity
    assert share.min() >= STORAGE.lowest - 1e-6
    assert share.max() <= STORAGE.highest + 1e-6
    assert np.abs(plan.storage).max() <= STORAGE.max_charge / BASE_KVA + 1e-6


def test_storages_discharge_no_faster_than_they_can() -> None:
    voltage = np.full((STEPS, len(NODES)), 1.0)
    voltage[:4] = 0.9
    made, plan = planned(0.9, 0.0, voltage=voltage)
    assert plan.storage.max() == pytest.approx(STORAGE.max_discharge / BASE_KVA, abs=1e-5)
    assert (plan.energy / made.capacity).min() >= STORAGE.lowest - 1e-6


def test_energy_follows_from_what_is_charged_and_discharged() -> None:
    made, plan = planned()
    charged, discharged = np.maximum(-plan.storage, 0.0), np.maximum(plan.storage, 0.0)
    change = 0.25 * (STORAGE.efficiency * charged - discharged / STORAGE.efficiency)
    assert plan.energy == pytest.approx(0.5 * made.capacity + np.cumsum(change, axis=0), abs=1e-5)


def test_reactive_power_stays_within_the_hardware_in_every_step() -> None:
    made, plan = planned()
    most = made.now.most_reactive(np.full((STEPS, len(NODES)), 0.22))
    assert (np.abs(plan.reactive) <= most + 1e-6).all()
    assert np.abs(plan.reactive[1:]).max() == pytest.approx(most.max(), abs=1e-5)


def test_margin_keeps_both_limits_at_a_distance() -> None:
    high = np.zeros((STEPS, len(NODES)))
    high[1:] = 0.01
    _, plan = planned(margin=high)
    assert plan.voltage[0].max() == pytest.approx(1.05, abs=1e-4)
    assert plan.voltage[1:].max() == pytest.approx(1.04, abs=1e-4)
    _, low = planned(0.9, 0.0, voltage=np.full((STEPS, len(NODES)), 0.9), margin=high)
    assert low.voltage[0].min() < low.voltage[1:].min() - 0.005 or low.slack[1:].max() > low.slack[0].max()


def test_storages_are_filled_early_and_not_held_back() -> None:
    made, plan = planned(0.3)
    stored = plan.energy[:, 3] - 0.3 * made.capacity[3]
    assert stored[-1] > 0.02
    assert stored[STEPS // 2 - 1] > 0.8 * stored[-1]
    assert plan.curtailed[0].sum() < plan.curtailed[-1].sum()


def test_targets_are_kept_but_not_at_the_cost_of_voltages() -> None:
    targets = np.full((STEPS, len(NODES)), np.nan)
    targets[:, 3] = -0.05
    _, plan = planned(targets=targets)
    assert (plan.storage - plan.curtailed)[:, 3] == pytest.approx(np.full(STEPS, -0.05), abs=1e-3)
    assert plan.voltage.max() < 1.0505
