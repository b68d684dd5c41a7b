"""A grid in operation: time moves it, set-points act on it, and it tells what is measured.

    plant = Plant(make_grid("kerber"))
    measured = plant.step(0.0)
    plant.apply("reactive_power", {"node_26": -0.09})
    measured = plant.step(1.0)

Nothing waits for a clock, so a closed loop runs as fast as the processor allows. `powerflow_service` puts the same
plant on the databus.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeflex_services.powerflow_grid import EFFICIENCY, Grid
from edgeflex_services.powerflow_solver import AcSolver
from edgeflex_services.profiles import Constant, Profiles

ACTIVE_POWER: Final = "active_power"
"""Change of the power of PV, not above 0."""
REACTIVE_POWER: Final = "reactive_power"
STORAGE_POWER: Final = "active_power_ESS"
"""Positive is discharge."""

V_MIN_PU: Final = 0.95
V_MAX_PU: Final = 1.05
VIOLATION_PU: Final = 0.001
"""Less than this beyond a limit does not count: set-points reach the grid one step late, and so does their effect."""
SOC_MIN: Final = 0.1
SOC_MAX: Final = 0.9
SOC_AT_START: Final = 0.5


@dataclass(frozen=True)
class Measurements:
    """A grid at one time, exactly. Arrays are by node, inverter and storage of the grid."""

    time_s: float
    voltage_pu: NDArray[np.float64]
    available_w: NDArray[np.float64]
    """What sun or wind would give."""
    active_w: NDArray[np.float64]
    """What of it is fed in."""
    reactive_var: NDArray[np.float64]
    storage_w: NDArray[np.float64]
    """Positive is discharge."""
    state_of_charge: NDArray[np.float64]
    """Share of the capacity."""


@dataclass
class Report:
    """What a run did. Minutes and energies are simulated ones."""

    steps: int = 0
    minutes: float = 0.0
    max_voltage_pu: float = -math.inf
    min_voltage_pu: float = math.inf
    violation_minutes: float = 0.0
    """In which some voltage was out of its limits by more than `VIOLATION_PU`."""
    available_kwh: float = 0.0
    curtailed_kwh: float = 0.0
    applied: int = 0
    """Set-points, each for one node."""
    refused: int = 0
    expired: int = 0


class _Orders:
    """The set-points in force for one quantity, in W or var, shape (assets,)."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.place = {name: index for index, name in enumerate(names)}
        self.value_w = np.zeros(len(names))
        self.until_s = np.full(len(names), math.inf)

    def expire(self, time_s: float) -> int:
        """Set to 0 what nobody has renewed; how many those are."""
        old = self.until_s < time_s
        self.value_w[old] = 0.0
        self.until_s[old] = math.inf
        return int(np.count_nonzero(old))


class Plant:
    """A grid whose assets obey set-points as far as they can.

    An inverter feeds in what is available, less what is curtailed, never below 0, and gives reactive power within
    `Inverters.most_var`. A storage keeps its state of charge from 10 to 90 % and its power within its own. Without
    set-points, and when those it had have expired, an asset goes to what it does alone: all that is available, no
    reactive power, no charging.
    """

    def __init__(self, grid: Grid, profiles: Profiles | None = None) -> None:
        self.grid = grid
        self.report = Report()
        self._profiles = profiles or Constant(grid)
        self._solver = AcSolver(grid)
        self._time_s: float | None = None
        self._energy_wh = SOC_AT_START * grid.storages.capacity_wh
        self._orders = {
            ACTIVE_POWER: _Orders(grid.inverters.names),
            REACTIVE_POWER: _Orders(grid.inverters.names),
            STORAGE_POWER: _Orders(grid.storages.names),
        }

    def apply(self, quantity: str, values: Mapping[str, float], until_s: float = math.inf) -> list[str]:
        """Have assets do this from the next step on, until a time; what was refused, in words.

        `values` are per unit by node. Nodes that are not named keep what they do. Raises ValueError when there is no
        such quantity.
        """
        if quantity not in self._orders:
            raise ValueError(f"no set-points are called '{quantity}'; known: {', '.join(self._orders)}")
        orders = self._orders[quantity]
        refusals = []
        for node, value in values.items():
            if node not in orders.place:
                refusals.append(f"{quantity} of '{node}': no asset there; known: {', '.join(orders.place) or 'none'}")
            elif not math.isfinite(value):
                refusals.append(f"{quantity} of '{node}': {value} is no finite number")
            else:
                orders.value_w[orders.place[node]] = value * self.grid.power_base_w
                orders.until_s[orders.place[node]] = until_s
        self.report.applied += len(values) - len(refusals)
        self.report.refused += len(refusals)
        return refusals

    def step(self, time_s: float) -> Measurements:
        """Go on to a time, in seconds since midnight of the first day, and measure.

        What is measured holds for all the time since the last step. Raises FatalError when the grid cannot carry it.
        """
        seconds = 0.0 if self._time_s is None else time_s - self._time_s
        if seconds < 0.0:
            raise ValueError(f"time {time_s:g} s is before that of the last step, {self._time_s:g} s")
        self._time_s = time_s
        self.report.expired += sum(orders.expire(time_s) for orders in self._orders.values())
        inputs = self._profiles.at(time_s)
        grid = self.grid
        active_w = np.clip(inputs.available_w + self._orders[ACTIVE_POWER].value_w, 0.0, inputs.available_w)
        most_var = grid.inverters.most_var(inputs.available_w)
        reactive_var = np.clip(self._orders[REACTIVE_POWER].value_w, -most_var, most_var)
        storage_w = self._use_storages(self._orders[STORAGE_POWER].value_w, seconds / 3600.0)
        power_w = grid.steady_w - inputs.load_w
        power_w[grid.inverters.node] += active_w
        power_w[grid.storages.node] += storage_w
        power_var = -inputs.load_var
        power_var[grid.inverters.node] += reactive_var
        measured = Measurements(
            time_s=time_s,
            voltage_pu=self._solver.voltages_pu(power_w, power_var),
            available_w=inputs.available_w,
            active_w=active_w,
            reactive_var=reactive_var,
            storage_w=storage_w,
            state_of_charge=self._energy_wh / grid.storages.capacity_wh,
        )
        self._count(measured, seconds)
        return measured

    def _use_storages(self, wanted_w: NDArray[np.float64], hours: float) -> NDArray[np.float64]:
        """Charge and discharge for so long; the power, which is as wanted where power and energy allow it."""
        storages = self.grid.storages
        room_wh = np.maximum(SOC_MAX * storages.capacity_wh - self._energy_wh, 0.0) / EFFICIENCY
        left_wh = np.maximum(self._energy_wh - SOC_MIN * storages.capacity_wh, 0.0) * EFFICIENCY
        # In no time any power fits, unless nothing is left at all.
        span_h = max(hours, 1e-9)
        lowest_w = -np.minimum(storages.power_w, room_wh / span_h)
        highest_w = np.minimum(storages.power_w, left_wh / span_h)
        power_w = np.clip(wanted_w, lowest_w, highest_w)
        stored_w = np.where(power_w < 0.0, -power_w * EFFICIENCY, -power_w / EFFICIENCY)
        self._energy_wh = self._energy_wh + hours * stored_w
        return power_w

    def _count(self, measured: Measurements, seconds: float) -> None:
        report = self.report
        highest, lowest = float(measured.voltage_pu.max()), float(measured.voltage_pu.min())
        report.steps += 1
        report.minutes += seconds / 60.0
        report.max_voltage_pu = max(report.max_voltage_pu, highest)
        report.min_voltage_pu = min(report.min_voltage_pu, lowest)
        if highest > V_MAX_PU + VIOLATION_PU or lowest < V_MIN_PU - VIOLATION_PU:
            report.violation_minutes += seconds / 60.0
        kwh_a_watt = seconds / 3.6e6
        report.available_kwh += kwh_a_watt * float(measured.available_w.sum())
        report.curtailed_kwh += kwh_a_watt * float((measured.available_w - measured.active_w).sum())
