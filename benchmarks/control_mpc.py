"""A day of `voltage_mpc` with forecasts that err, beside the same with perfect ones.

`python -m benchmarks.control_mpc` writes benchmarks/results/control-mpc.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.control_voltage import PACE, Operator, local, nobody
from benchmarks.kerber import (
    NOTE,
    Controller,
    Course,
    KerberDay,
    above_nominal,
    hours,
    run_day,
    settings_of,
    voltages_of_day,
)
from benchmarks.report import Report
from edgeflex_operators import voltage_mpc
from edgeflex_operators._voltage_state import take_available, take_charge
from edgeflex_operators.voltage_control import VoltageControlConfig
from edgeflex_operators.voltage_mpc import VoltageMpcConfig
from edgeflex_services.grid_forecasts import GridForecaster
from edgeflex_services.powerflow_grid import Grid, make_grid
from edgeflex_services.powerflow_loop import batches_of, obey
from edgeflex_services.powerflow_plant import Measurements, Plant
from edgeflex_services.profiles import QUARTERS_A_DAY

MIDNIGHT_NS = 1000 * 86_400 * 1_000_000_000
HISTORY_DAYS = 28
STORAGE_KWH = 5.0
"""In each house, at half of that in kW: too little for what would be curtailed without."""


@dataclass
class Planner:
    """`voltage_mpc` as a flow has it: batches and forecasts in, set-points out at its ticks."""

    config: VoltageMpcConfig
    forecaster: GridForecaster
    state: voltage_mpc.VoltageMpcState = field(init=False)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = voltage_mpc.start(self.config)

    def __call__(self, plant: Plant, measured: Measurements, time_s: float) -> None:
        now_ns = MIDNIGHT_NS + round(time_s * 1e9)
        known, batches = (self.config, self.state), batches_of(plant.grid, measured, now_ns)
        for each in self.forecaster.due(time_s):
            voltage_mpc.take_forecast(*known, each)
        assert batches.charge is not None
        take_charge(*known, batches.charge)
        take_available(*known, batches.available)
        voltage_mpc.take_voltage(*known, batches.voltage)
        began_s = time.perf_counter()
        told = voltage_mpc.tick(*known, now_ns)
        self.seconds.append(time.perf_counter() - began_s)
        obey(plant, told)


class Run(NamedTuple):
    """A day under one controller."""

    name: str
    course: Course
    step_ms: float | None
    """Median of a step of its operator."""


def _planner(grid: Grid, day: KerberDay, known: dict[str, Any], method: Any) -> Planner:
    config = VoltageMpcConfig(name="mpc", period=15.0, **known)
    history = HISTORY_DAYS * QUARTERS_A_DAY
    forecaster = GridForecaster(
        grid, day.mean, method, midnight_ns=MIDNIGHT_NS, steps=config.horizon + 1, history_quarters=history
    )
    return Planner(config, forecaster)


_CONTROLLERS: dict[str, Callable[[Grid, KerberDay, dict[str, Any]], Controller]] = {
    "no control": lambda _grid, _day, _known: nobody,
    "Q(V)": lambda _grid, _day, _known: local,
    "voltage_control, one step": lambda _grid, _day, known: Operator(
        VoltageControlConfig(name="voltage", **known, **PACE)
    ),
    "perfect forecasts": lambda grid, day, known: _planner(grid, day, known, "perfect"),
    "forecasts by regression": lambda grid, day, known: _planner(grid, day, known, "regression"),
    "forecasts by persistence": lambda grid, day, known: _planner(grid, day, known, "persistence"),
}


def run(name: str) -> Run:
    grid = make_grid("kerber", storage_kwh=STORAGE_KWH)
    day = KerberDay(grid)
    controller = _CONTROLLERS[name](grid, day, settings_of(grid, day.at(12.5 * 3600.0)))
    course = run_day(grid, day, controller)
    seconds = controller.seconds if isinstance(controller, Planner | Operator) else None
    return Run(name, course, None if seconds is None else 1e3 * float(np.median(seconds)))


def measure(report: Report) -> None:
    """Fill in the rows of `voltage_mpc`."""
    section = f"A day of SimBench (25 May) on the Kerber feeder, a storage of {STORAGE_KWH:g} kWh in each of 14 houses"
    with ProcessPoolExecutor(2) as pool:
        runs = {each.name: each for each in track(pool.map(run, _CONTROLLERS), "days", total=len(_CONTROLLERS))}
    for name, (_, course, step_ms) in runs.items():
        plans = name.startswith("forecasts")
        asked: dict[str, Any] = {"asked": "0", "good": lambda v: v == 0} if plans else {}
        report.add(section, f"{name}: highest voltage", "mpu above 1 pu", [above_nominal(course.max_voltage_pu)])
        report.add(section, f"{name}: minutes beyond 1.051 pu", "min", [course.violation_minutes], **asked)
        report.add(section, f"{name}: curtailed", "kWh", [course.curtailed_kwh])
        if step_ms is not None:
            report.add(section, f"{name}: one step of the operator", "ms", [step_ms])
    best_kwh = runs["perfect forecasts"].course.curtailed_kwh
    for name in ("forecasts by regression", "forecasts by persistence"):
        more = 100.0 * (runs[name].course.curtailed_kwh / best_kwh - 1.0)
        shipped: dict[str, Any] = {"asked": "≤ 2", "good": lambda v: v <= 2.0} if "regression" in name else {}
        report.add(section, f"{name}: curtailed beside perfect ones", "%", [more], **shipped)
    courses = {name: each.course for name, each in runs.items() if name != "Q(V)"}
    report.figure, lower = voltages_of_day(courses)
    for name, course in courses.items():
        if name != "no control":
            lower.plot(hours(course.charge_percent), course.charge_percent, label=name)
    lower.set_ylabel("mean state of charge, %")
    lower.legend(fontsize=8, frameon=False, loc="upper left")
    report.notes.append(NOTE)
    report.notes.append(
        f"Regression has learned from the {HISTORY_DAYS} days before. Plans are made each 15 s; two runs at once share "
        "the cores, so the times of steps are upper bounds."
    )


def main() -> None:
    report = Report("control-mpc", command="python -m benchmarks.control_mpc")
    measure(report)
    report.show(Console())
    report.save()


if __name__ == "__main__":
    main()
