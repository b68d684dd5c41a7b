"""The Kerber feeder on days of SimBench: what benchmarks of voltage control share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edgeflex_flow.cli.pictures import plain_frame, two_panels
from edgeflex_operators._inverters import Inverter, Storage
from edgeflex_operators._network import NodeSensitivity
from edgeflex_services.powerflow_grid import POWER_FACTOR, Grid
from edgeflex_services.powerflow_network import sensitivities
from edgeflex_services.powerflow_plant import Measurements, Plant
from edgeflex_services.profiles import DAY_S, QUARTER_S, QUARTERS_A_DAY, Inputs, Profiles

DAY = 145
"""25 May of SimBench's year: its day with the most sun."""
STEP_S = 15.0
LOAD_PROFILES = ("H0-A", "H0-B", "H0-C")
SUN_PROFILES = ("PV5", "PV6", "PV8")
NOTE = (
    "Profiles: SimBench households and PV, each scaled to its highest value of the year; they are read from the "
    "package simbench (ODbL) and not kept here."
)

Controller = Callable[[Plant, Measurements, float], None]
"""What reacts to measurements at a time of the day, in s."""


class KerberDay:
    """The houses of the Kerber feeder with SimBench's profiles of households and PV.

    The highest PV of the year is the rated power; a house consumes its nominal power at the highest load of the year.
    Between the quarters of an hour loads and sun go straight, with 5 % (loads) and 1 % (sun) of noise by the minute.
    """

    def __init__(self, grid: Grid, day: int = DAY, seed: int = 1) -> None:
        profiles = importlib.import_module("simbench").get_simbench_net("1-LV-rural1--0-sw").profiles
        houses = np.flatnonzero(grid.load_w > 0)
        self._grid = grid
        self._houses = houses
        self._first = (day - 1) * QUARTERS_A_DAY

        def table(frame: Any, columns: list[str], count: int) -> NDArray[np.float64]:
            values = np.stack([frame[name].to_numpy() / frame[name].max() for name in columns], axis=1)
            return values[:, np.arange(count) % len(columns)]

        active = [f"{name}_pload" for name in LOAD_PROFILES]
        self._load = table(profiles["load"], active, len(houses))
        self._sun = table(profiles["renewables"], list(SUN_PROFILES), len(grid.inverters.names))
        random = np.random.default_rng(seed)
        self._load_noise = 1.0 + random.normal(0.0, 0.05, (1441, len(houses)))
        self._sun_noise = 1.0 + random.normal(0.0, 0.01, (1441, len(grid.inverters.names)))

    def at(self, time_s: float) -> Inputs:
        quarter = self._first + time_s / QUARTER_S
        sun = _between(self._sun, quarter) * _between(self._sun_noise, time_s / 60.0)
        return self._inputs(_between(self._load, quarter) * _between(self._load_noise, time_s / 60.0), sun)

    def mean(self, quarter: int) -> Inputs:
        """Means over a quarter of an hour, which is counted from midnight of the day and may lie on another one;
        without noise."""
        first = self._first + quarter
        return self._inputs(_between(self._load, first + 0.5), _between(self._sun, first + 0.5))

    def _inputs(self, load: NDArray[np.float64], sun: NDArray[np.float64]) -> Inputs:
        load_w, load_var = self._grid.load_w.copy(), self._grid.load_var.copy()
        load_w[self._houses] *= load
        load_var[self._houses] *= load
        return Inputs(load_w, load_var, self._grid.inverters.rated_w * np.clip(sun, 0.0, 1.0))


def _between(table: NDArray[np.float64], place: float) -> NDArray[np.float64]:
    first = min(int(place), len(table) - 2)
    part = place - first
    row: NDArray[np.float64] = (1.0 - part) * table[first] + part * table[first + 1]
    return row


def settings_of(grid: Grid, inputs: Inputs) -> dict[str, Any]:
    """What a controller knows of the feeder: its assets, and sensitivities at these inputs."""
    found = sensitivities(grid, inputs)
    table = {
        node: NodeSensitivity(
            voltage_per_active_power=dict(zip(found.assets, active, strict=True)),
            voltage_per_reactive_power=dict(zip(found.assets, reactive, strict=True)),
        )
        for node, active, reactive in zip(grid.nodes, found.active.tolist(), found.reactive.tolist(), strict=True)
    }
    stores = grid.storages
    storages = {
        name: Storage(capacity=capacity_wh / 1e3, max_charge=power_w / 1e3, max_discharge=power_w / 1e3)
        for name, power_w, capacity_wh in zip(
            stores.names, stores.power_w.tolist(), stores.capacity_wh.tolist(), strict=True
        )
    }
    inverters = {
        name: Inverter(rated_power=rated_va / 1e3, min_power_factor=POWER_FACTOR, storage=storages.get(name))
        for name, rated_va in zip(grid.inverters.names, grid.inverters.rated_va.tolist(), strict=True)
    }
    return {"inverters": inverters, "sensitivities": table, "power_base": grid.power_base_kva, "settle": 0.0}


@dataclass
class Course:
    """What a controller made of a day."""

    violation_minutes: float
    max_voltage_pu: float
    curtailed_kwh: float
    curtailed_w: NDArray[np.float64]
    """At each quarter of an hour."""
    highest_pu: NDArray[np.float64]
    charge_percent: NDArray[np.float64]
    """At each step, the highest voltage and the mean charge of all storages (NaN without any)."""


def run_day(grid: Grid, profiles: Profiles, controller: Controller) -> Course:
    plant = Plant(grid, profiles)
    curtailed: list[float] = []
    seen: list[tuple[float, float]] = []
    for number in range(int(DAY_S / STEP_S)):
        time_s = number * STEP_S
        measured = plant.step(time_s)
        if time_s % QUARTER_S == 0.0:
            curtailed.append(float((measured.available_w - measured.active_w).sum()))
        charge = measured.state_of_charge
        seen.append((float(measured.voltage_pu.max()), 100.0 * float(charge.mean()) if len(charge) else np.nan))
        controller(plant, measured, time_s)
    report = plant.report
    highest, charges = np.array(seen).T
    return Course(
        report.violation_minutes, report.max_voltage_pu, report.curtailed_kwh, np.array(curtailed), highest, charges
    )


def voltages_of_day(courses: Mapping[str, Course]) -> tuple[Figure, Any]:
    """A figure with the highest voltages of these days above; and its lower panel, over the same hours."""
    figure, upper, lower = two_panels()
    upper.axhline(1.05, color="#999999", linewidth=0.8, linestyle="--", label="limit")
    for name, course in courses.items():
        upper.plot(hours(course.highest_pu), course.highest_pu, linewidth=0.9, label=name)
    upper.set_ylabel("highest voltage in pu")
    upper.legend(fontsize=8, frameon=False, loc="upper left")
    lower.set_xlabel("hour of the day")
    for panel in (upper, lower):
        plain_frame(panel)
    return figure, lower


def hours(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of values that are evenly spread over a day."""
    return np.arange(len(values)) * 24.0 / len(values)


def above_nominal(voltage_pu: float) -> float:
    """In mpu, as reports show it."""
    return 1e3 * (voltage_pu - 1.0)
