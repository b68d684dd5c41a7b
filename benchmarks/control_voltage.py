"""Voltage control on the Kerber feeder: steps to the limit, and what a day costs beside the optimal power flow."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from msgspec.structs import replace
from rich.console import Console

from benchmarks.kerber import (
    NOTE,
    Controller,
    KerberDay,
    above_nominal,
    hours,
    run_day,
    settings_of,
    voltages_of_day,
)
from benchmarks.other_solver import by_clarabel
from benchmarks.report import Report
from edgeflex_operators import voltage_control
from edgeflex_operators._inverters import Storage
from edgeflex_operators._limits import Bounds
from edgeflex_operators._network import Sensitivities
from edgeflex_operators._voltage_horizon import HorizonProgram, Outlook
from edgeflex_operators._voltage_program import VoltageProgram
from edgeflex_operators._voltage_state import take_available, take_charge
from edgeflex_operators.voltage_control import VoltageControlConfig, local_share
from edgeflex_services.powerflow_grid import TAN_PHI, Grid, make_grid
from edgeflex_services.powerflow_loop import batches_of, obey
from edgeflex_services.powerflow_optimum import optimum
from edgeflex_services.powerflow_plant import REACTIVE_POWER, V_MAX_PU, Measurements, Plant
from edgeflex_services.profiles import QUARTER_S, Inputs, Profiles, make_profiles

NS = 1_000_000_000
PACE: dict[str, Any] = {"period": 15.0, "valid_for": 45.0}
"""Of the days: a step each 15 s."""
ABOVE = "mpu above 1 pu"


def config_of(grid: Grid, inputs: Inputs, **fields: Any) -> VoltageControlConfig:
    """A controller that knows the feeder by sensitivities at these inputs."""
    return VoltageControlConfig(name="voltage", **settings_of(grid, inputs), **{**PACE, **fields})


@dataclass
class Operator:
    """`voltage_control` as a flow has it: batches in, set-points out."""

    config: VoltageControlConfig
    state: voltage_control.VoltageControlState = field(init=False)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = voltage_control.start(self.config)

    def __call__(self, plant: Plant, measured: Measurements, time_s: float) -> None:
        now_ns = round((1.0 + time_s) * NS)
        batches = batches_of(plant.grid, measured, now_ns)
        began_s = time.perf_counter()
        take_available(self.config, self.state, batches.available)
        if batches.charge is not None:
            take_charge(self.config, self.state, batches.charge)
        told = voltage_control.take_voltage(self.config, self.state, batches.voltage)
        self.seconds.append(time.perf_counter() - began_s)
        obey(plant, told)


def nobody(_plant: Plant, _measured: Measurements, _time_s: float) -> None:
    """No control."""


def local(plant: Plant, measured: Measurements, _time_s: float) -> None:
    """Each inverter by the characteristic Q(V) of its own voltage."""
    pv, base_w = plant.grid.inverters, plant.grid.power_base_w
    shares = [local_share(float(measured.voltage_pu[node])) for node in pv.node]
    reactive = np.array(shares) * TAN_PHI * measured.available_w / base_w
    plant.apply(REACTIVE_POWER, dict(zip(pv.names, reactive.tolist(), strict=True)))


def measure(report: Report) -> None:
    """Fill in the rows of voltage control."""
    grid = make_grid("kerber")
    _measure_steps(report, grid)
    _measure_horizon(report, grid)
    _measure_day(report, grid)


def _measure_steps(report: Report, grid: Grid) -> None:
    section = "Kerber feeder, 14 houses with 22 kW of PV each, full sun: voltages after some steps"
    inputs = make_profiles(grid, "constant").at(0.0)
    for name, method, steps in (("central", "central", 5), ("distributed", "distributed", 200)):
        plant = Plant(grid)
        operator = Operator(config_of(grid, inputs, method=method))
        measured = plant.step(0.0)
        if method == "central":
            report.add(section, "before", ABOVE, [above_nominal(float(measured.voltage_pu.max()))])
        for number in range(steps):
            operator(plant, measured, float(number))
            measured = plant.step(number + 1.0)
        asked: dict[str, Any] = {"asked": "≤ 51", "good": lambda v: v <= 51.0} if method == "central" else {}
        highest = above_nominal(float(measured.voltage_pu.max()))
        report.add(section, f"{name}, {steps} steps: highest voltage", ABOVE, [highest], **asked)
        report.add(section, f"{name}: curtailed", "kW", [float((inputs.available_w - measured.active_w).sum()) / 1e3])
        if method == "central":
            report.add(
                section, "least possible (AC optimal power flow)", "kW", [optimum(grid, inputs).curtailed_w.sum() / 1e3]
            )
            report.add(section, "one step of the operator", "ms", [1e3 * each for each in operator.seconds[1:]])


def _measure_horizon(report: Report, grid: Grid) -> None:
    section = "A horizon of 24 quarters of an hour on this feeder, a storage of 10 kWh in each house"
    profiles = make_profiles(grid, "clear")
    config = config_of(grid, profiles.at(12.0 * 3600.0))
    storage = Storage(capacity=10.0, max_charge=5.0, max_discharge=5.0)
    inverters = tuple(replace(each, storage=storage) for each in config.inverters.values())
    known = config.sensitivities_to(config.feeders)
    houses = [config.nodes.index(node) for node in config.feeders]
    fourteen = Sensitivities(known.resistance[houses], known.reactance[houses])
    program = HorizonProgram(VoltageProgram(fourteen, inverters, config.power_base), 24, 0.25, 0.5)
    times: list[float] = []
    others: list[float] = []
    apart = residual = 0.0
    for hour in range(4, 20):
        outlook = _outlook(program, profiles, 3600.0 * hour, grid.power_base_w)
        began_s = time.perf_counter()
        plan = program.plan(outlook)
        times.append(1e3 * (time.perf_counter() - began_s))
        stated = program.program(outlook)
        began_s = time.perf_counter()
        objective = by_clarabel(stated)
        others.append(1e3 * (time.perf_counter() - began_s))
        apart = max(apart, abs(plan.objective - objective) / max(1.0, abs(objective)))
        residual = max(residual, plan.residual)
    report.add(section, "plan, by PIQP", "ms", times, asked="≤ 100", good=lambda value: value <= 100.0)
    report.add(section, "the same program by Clarabel", "ms", others)
    report.add(section, "objectives apart, relative", "1e-6", [1e6 * apart], asked="≤ 1", good=lambda v: v <= 1.0)
    report.add(
        section, "conditions of optimality missed by", "1e-6", [1e6 * residual], asked="≤ 1", good=lambda v: v <= 1
    )


def _outlook(program: HorizonProgram, profiles: Profiles, begin_s: float, base_w: float) -> Outlook:
    """All that the sun will give from here on, known exactly."""
    available = np.array([profiles.at(begin_s + QUARTER_S * step).available_w for step in range(24)]) / base_w
    voltage = 1.0 + available @ program.sensitivities.resistance.T
    houses = available.shape[1]
    most = np.full(houses, 0.1)
    upper = np.concatenate([most, available[0], np.full(2 * houses, 0.05)])
    lower = np.concatenate([-most, np.zeros(3 * houses)])
    nothing = np.full(available.shape, np.nan)
    bounds = Bounds(0.95, 1.05)
    energy = 0.3 * program.capacity
    return Outlook(voltage, np.zeros_like(voltage), available, energy, (lower, upper), bounds, 1.0, nothing)


def _measure_day(report: Report, grid: Grid) -> None:
    section = "A day of SimBench (25 May) on the same feeder, a step each 15 s"
    profiles = KerberDay(grid)
    known = config_of(grid, profiles.at(12.5 * 3600.0))
    controllers: dict[str, Controller] = {
        "no control": nobody,
        "Q(V)": local,
        "dual ascent": Operator(config_of(grid, profiles.at(12.5 * 3600.0), method="distributed")),
        "voltage_control": Operator(known),
    }
    courses = {name: run_day(grid, profiles, controller) for name, controller in controllers.items()}
    best = [optimum(grid, profiles.at(number * QUARTER_S)) for number in range(96)]
    best_w = np.array([each.curtailed_w.sum() for each in best])
    possible = max(float(each.voltage_pu.max()) for each in best) <= V_MAX_PU + 1e-4
    for name, course in courses.items():
        report.add(section, f"{name}: highest voltage", ABOVE, [above_nominal(course.max_voltage_pu)])
        wanted = name == "voltage_control" and possible
        asked: dict[str, Any] = {"asked": "0", "good": lambda v: v == 0} if wanted else {}
        report.add(section, f"{name}: minutes beyond 1.051 pu", "min", [course.violation_minutes], **asked)
        report.add(section, f"{name}: curtailed", "kWh", [course.curtailed_kwh])
    report.add(section, "optimum: curtailed, at the quarters of an hour", "kWh", [0.25 * best_w.sum() / 1e3])
    own_w = courses["voltage_control"].curtailed_w
    report.add(
        section,
        "voltage_control: curtailed there, beside the optimum",
        "%",
        [100.0 * (own_w.sum() / best_w.sum() - 1.0)],
        asked="≤ 1",
        good=lambda value: value <= 1.0,
    )
    operator = controllers["voltage_control"]
    assert isinstance(operator, Operator)
    report.add(section, "one step of the operator", "ms", [1e3 * float(np.median(operator.seconds))])
    report.notes.append(NOTE)
    report.figure, lower = voltages_of_day(courses)
    for name in ("dual ascent", "voltage_control"):
        lower.plot(hours(courses[name].curtailed_w), courses[name].curtailed_w / 1e3, label=name)
    lower.plot(hours(best_w), best_w / 1e3, color="black", linewidth=0.8, linestyle="--", label="AC optimal power flow")
    lower.set_ylabel("curtailed, kW")
    lower.legend(fontsize=8, frameon=False, loc="upper left")


def main() -> None:
    console = Console()
    report = Report("control-voltage", command="make bench-control")
    with console.status("measuring voltage control"):
        measure(report)
    report.show(console)
    report.save()


if __name__ == "__main__":
    main()
