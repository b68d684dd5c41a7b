"""`make demo-voltage`: a sunny day on the Kerber feeder with and without voltage control, as numbers and as a picture.

    python -m edgeflex_flow.cli.demo.voltage --picture voltage.png

Runs flows/voltage_control.yaml in closed loop with the grid of `edgeflex serve powerflow`, both on the grid's own time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from edgeflex_flow.cli.closed_loop import FlowInLoop, flow_in_loop
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.pictures import plain_frame, save_picture, two_panels
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.flowfile import load_flow
from edgeflex_services.powerflow_grid import Grid, make_grid
from edgeflex_services.powerflow_loop import batches_of, obey
from edgeflex_services.powerflow_plant import Measurements, Plant
from edgeflex_services.profiles import make_profiles

START_NS: Final = 1_700_000_000_000_000_000
STEP_S: Final = 30.0
VALID_S: Final = 2.0 * STEP_S
"""So long the grid obeys a set-point."""
BEFORE, AFTER, LIMIT, CHARGE = "#c4561a", "#1f6fb4", "#999999", "#3c8f4d"


React = Callable[[Plant, Measurements, float], None]
"""To what was measured at a time of the day, in s."""


class Course(NamedTuple):
    """A day, a value for each step."""

    hours: NDArray[np.float64]
    highest_pu: NDArray[np.float64]
    available_kw: NDArray[np.float64]
    fed_in_kw: NDArray[np.float64]
    reactive_kvar: NDArray[np.float64]
    charge_percent: NDArray[np.float64]
    """Mean of all storages; NaN where there are none."""
    violation_minutes: float
    curtailed_kwh: float


def run_day(grid: Grid, profile: str, react: React, told: str, hours: tuple[float, float] = (0.0, 24.0)) -> Course:
    """The day, or some hours of it, with a reaction to each measurement."""
    plant = Plant(grid, make_profiles(grid, profile))  # type: ignore[arg-type]
    rows: list[tuple[float, ...]] = []
    begin_s, end_s = (3600.0 * hour for hour in hours)
    for number in track(range(int((end_s - begin_s) / STEP_S)), description=told):
        time_s = begin_s + number * STEP_S
        measured = plant.step(time_s)
        react(plant, measured, time_s)
        powers = (measured.available_w.sum(), measured.active_w.sum(), measured.reactive_var.sum())
        charge = 100.0 * float(measured.state_of_charge.mean()) if len(measured.state_of_charge) else math.nan
        highest = float(measured.voltage_pu.max())
        rows.append((time_s / 3600.0, highest, *(float(each) / 1e3 for each in powers), charge))
    minutes, curtailed = plant.report.violation_minutes, plant.report.curtailed_kwh
    hour, highest_pu, available, fed_in, reactive, charges = np.array(rows).T
    return Course(hour, highest_pu, available, fed_in, reactive, charges, minutes, curtailed)


def nothing(_plant: Plant, _measured: Measurements, _time_s: float) -> None:
    """Without control."""


def by_flow(loop: FlowInLoop) -> React:
    """The reaction of a running flow."""

    def react(plant: Plant, measured: Measurements, time_s: float) -> None:
        now_ns = START_NS + round(time_s * 1e9)
        measure(loop, plant.grid, measured, now_ns)
        obey(plant, loop.react(None, now_ns), time_s + VALID_S)

    return react


def measure(loop: FlowInLoop, grid: Grid, measured: Measurements, now_ns: int) -> None:
    """Give the flow what the field publishes."""
    batches = batches_of(grid, measured, now_ns)
    loop.take("sun", batches.available, now_ns)
    if batches.charge is not None:
        loop.take("charges", batches.charge, now_ns)
    loop.take("voltages", batches.voltage, now_ns)


def draw(before: Course, after: Course, by: str, file: Path) -> None:
    """Voltages above, powers below. The file's ending tells the format. Raises OSError."""
    figure, upper, lower = two_panels()
    upper.axhline(1.05, color=LIMIT, linewidth=0.8, linestyle="--", label="limit")
    for course, color, label in ((before, BEFORE, "without control"), (after, AFTER, f"with {by}")):
        upper.plot(course.hours, course.highest_pu, color=color, label=label)
    lower.plot(after.hours, after.available_kw, color=BEFORE, label="available, kW")
    lower.plot(after.hours, after.fed_in_kw, color=AFTER, label="fed in, kW")
    lower.plot(after.hours, after.reactive_kvar, color=LIMIT, label="reactive, kvar")
    if np.isfinite(after.charge_percent).all():
        lower.plot(after.hours, after.charge_percent, color=CHARGE, label="state of charge, %")
    upper.set_ylabel("highest voltage in pu")
    lower.set_ylabel("power of all houses")
    lower.set_xlabel("hour of the day")
    for panel in (upper, lower):
        plain_frame(panel)
        panel.legend(fontsize=8, frameon=False, loc="upper left")
    save_picture(figure, file)


def describe(course: Course) -> str:
    """The measures of one day in words."""
    beyond = f"{course.violation_minutes:.0f} min above 1.051 pu"
    return f"highest {course.highest_pu.max():.4f} pu, {beyond}, {course.curtailed_kwh:.1f} kWh curtailed"


def tell(before: Course, after: Course, by: str, picture: Path | None) -> None:
    """Both days in words, and as a picture if one is wanted."""
    click.echo(f"without control: {describe(before)}")
    click.echo(f"with control:    {describe(after)}")
    if picture is not None:
        draw(before, after, by, picture)
        click.echo(f"picture: {picture}")


@click.command()
@click.option("--picture", type=click.Path(path_type=Path), help="Save a picture: .png, .svg or .pdf.")
@click.option("--profile", type=click.Choice(["clear", "cloudy"]), default="clear", show_default=True, help="The day.")
def main(picture: Path | None, profile: str) -> None:
    """See what voltage control does on a day with much sun."""
    flows = shipped_flows()
    plan = load_flow(flows / "voltage_control.yaml", shipped_registry(), site=flows / "sites" / "local.yaml")
    grid = make_grid("kerber")
    before = run_day(grid, profile, nothing, "without")
    with flow_in_loop(plan, measuring="voltages", actuating=("control",)) as loop:
        after = run_day(grid, profile, by_flow(loop), "with")
    tell(before, after, "voltage_control", picture)


if __name__ == "__main__":
    main()
