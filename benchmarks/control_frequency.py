"""Frequency control in closed loop with the simulated grid: the measures of one area, of two, and of delays.

`rows()` gives them for a report; `python -m benchmarks.control_frequency` shows them. All runs are on the grid's own
time, and the same every time.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from msgspec.structs import replace
from rich.console import Console

from benchmarks.report import Report, Row
from edgeflex_flow.cli.closed_loop import flow_in_loop
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.pictures import plain_frame, two_panels
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import samples_from_rows
from edgeflex_operators.frequency_droop import RULES
from edgeflex_services.frequency_model import (
    START_NS,
    Course,
    FrequencyGrid,
    Layout,
    LoadStep,
    close_loop,
    single_area,
    two_areas,
)

EVENT_S = 5.0
STEP_W = 50e6
DELAYS_S = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
SETTLES_WITHIN_S = 15.0
HUNTS_HZ = 2e-3
"""A deviation from its own trend, a cubic from 25 s after the step on, that is no hunting yet."""
FULL_WITHIN_S = RULES["ce"].full_within_s
EXCHANGE_W = 2e6

# The settings of the reference case: no dead-bands; off is what a case leaves out.
IDEAL: dict[str, dict[str, Any]] = {"droop": {"dead_band": 0.0}, "inertia": {"dead_band": 0.0}, "agc": {"gain": 0.0}}
OFF: dict[str, dict[str, Any]] = {
    "droop": {"fcr_power": 0.0},
    "inertia": {"inertia": 0.0},
    "agc": {"lowest": 0.0, "highest": 0.0},
}


class Case(NamedTuple):
    """A case of the reference, with the controllers that are off, and its nadir."""

    name: str
    off: tuple[str, ...]
    nadir_mhz: float


REFERENCE = (
    Case("none", ("droop", "inertia", "agc"), -272.0),
    Case("droop of 4 %", ("inertia", "agc"), -141.0),
    Case("and virtual inertia of 2 s", ("agc",), -132.0),
    Case("and integral", (), -132.0),
)


def plan_of(area: str = "north", plant: Path | None = None) -> Plan:
    flows = shipped_flows()
    params = {"area": area, **({} if plant is None else {"plant": str(plant)})}
    return load_flow(
        flows / "frequency_control.yaml", shipped_registry(), site=flows / "sites" / "local.yaml", params=params
    )


def held(settings: Mapping[str, Mapping[str, Any]], *, seconds: float, delay_s: float = 0.0) -> Course:
    """One area with the shipped flow, some of whose settings are changed."""
    grid = FrequencyGrid(single_area(), [LoadStep(at_s=EVENT_S, area="north", power_w=STEP_W)], delay_s=delay_s)
    with flow_in_loop(plan_of()) as loop:
        for node, values in settings.items():
            loop.run.set_config(node, replace(loop.run.in_force[node].config, **values))
        return close_loop(grid, loop.react, seconds)


def held_apart(layout: Layout, area: str, *, seconds: float, delay_s: float = 0.0) -> Course:
    """Two areas with a flow each; the load of one rises."""
    grid = FrequencyGrid(layout, [LoadStep(at_s=EVENT_S, area=area, power_w=STEP_W)], delay_s=delay_s)
    plant = (shipped_flows() / "units" / "plant.yaml").read_text()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "south.yaml"
        file.write_text(plant.replace("north", "south"))
        loops = [stack.enter_context(flow_in_loop(plan)) for plan in (plan_of(), plan_of("south", file))]
        return close_loop(
            grid, lambda rows, now_ns: [told for loop in loops for told in loop.react(rows, now_ns)], seconds
        )


def hunting_hz(course: Course, area: str = "north") -> float:
    """How far the deviation leaves its trend, from 25 s after the step on."""
    late = course.time_s > EVENT_S + 25.0
    deviation = course.deviation_hz(area)[late]
    trend = np.polynomial.Polynomial.fit(course.time_s[late], deviation, 3)
    return float(np.abs(deviation - trend(course.time_s[late])).max())


def full_after_s() -> float:
    """How long the reserve takes to be active in full once the PMU shows a deviation of 200 mHz, units included."""
    grid = FrequencyGrid(single_area())
    with flow_in_loop(plan_of()) as loop:
        for node in ("inertia", "agc"):
            loop.run.set_config(node, replace(loop.run.in_force[node].config, **OFF[node]))

        def react(_rows: object, now_ns: int) -> Any:
            hz = 50.0 if now_ns - START_NS < EVENT_S * 1e9 else 49.8
            row = {"frequency_hz": hz, "active_power_w": 0.0, "state_of_charge_percent": 50.0}
            # Its last bit changes, as that of a living sensor does.
            row["frequency_hz"] += 1e-9 * (now_ns // 20_000_000 % 2)
            return loop.react(samples_from_rows([(now_ns, name, row) for name in ("north", "north_bess")]), now_ns)

        course = close_loop(grid, react, EVENT_S + 40.0)
    given_w = course.power_w.sum(axis=1) - course.power_w[0].sum()
    reached = np.flatnonzero(given_w >= 0.999 * 40e6)
    return float(course.time_s[reached[0]]) - EVENT_S if len(reached) else math.inf


def back_after_s(course: Course) -> float:
    """How long the exchange takes to come back for good."""
    outside = np.flatnonzero(np.abs(course.exchange_w).max(axis=1) > EXCHANGE_W)
    return float(course.time_s[outside[-1]]) - EVENT_S if len(outside) < len(course.time_s) else math.inf


def row(name: str, unit: str, value: float, asked: str = "", good: Callable[[float], bool] | None = None) -> Row:
    return Row(name, unit, (value,), asked, None if good is None else good(value))


def rows() -> dict[str, list[Row]]:
    """Rows by section."""
    return {
        "one area, 5 % load step": _reference_rows(),
        "one area, the shipped flow": _delay_rows(),
        "two areas, a flow each": _exchange_rows(),
    }


def _reference_rows() -> list[Row]:
    made = []
    for case in REFERENCE:
        course = held({**IDEAL, **{node: OFF[node] for node in case.off}}, seconds=EVENT_S + 60.0)
        nadir_mhz = 1e3 * course.nadir_hz("north")
        asked = f"{case.nadir_mhz:g}"
        # With the integral, less deep than the reference is as good.
        met = abs(nadir_mhz - case.nadir_mhz) <= 2.0 or (not case.off and nadir_mhz > case.nadir_mhz)
        made.append(Row(f"nadir, {case.name}", "mHz", (nadir_mhz,), asked, met))
        if not case.off:
            settled_s = course.settled_s("north", EVENT_S)
            made.append(row("settled within ±50 mHz", "s", settled_s, "≤ 15", lambda value: value <= SETTLES_WITHIN_S))
    made.append(row("reserve active in full at 200 mHz", "s", full_after_s(), "≤ 30", lambda v: v <= FULL_WITHIN_S))
    return made


def _delay_rows() -> list[Row]:
    made = []
    for delay_s in DELAYS_S:
        course = held({}, seconds=EVENT_S + 60.0, delay_s=delay_s)
        name = f"frames {1e3 * delay_s:.0f} ms late"
        made.append(row(f"{name}: nadir", "mHz", 1e3 * course.nadir_hz("north")))
        settled_s = course.settled_s("north", EVENT_S)
        made.append(row(f"{name}: settled", "s", settled_s, "≤ 15", lambda value: value <= SETTLES_WITHIN_S))
        hunts_mhz = 1e3 * hunting_hz(course)
        made.append(row(f"{name}: off its trend", "mHz", hunts_mhz, "≤ 2", lambda value: value <= 1e3 * HUNTS_HZ))
    return made


def _exchange_rows() -> list[Row]:
    made = []
    for area in ("north", "south"):
        course = held_apart(two_areas(), area, seconds=EVENT_S + 200.0)
        most_mw, last_mw = (float(np.abs(part).max()) / 1e6 for part in (course.exchange_w, course.exchange_w[-250:]))
        made.append(row(f"step in {area}: largest deviation of the exchange", "MW", most_mw))
        back_s = back_after_s(course)
        made.append(row(f"step in {area}: exchange within 2 MW after", "s", back_s, "≤ 200", lambda v: v <= 200.0))
        made.append(row(f"step in {area}: exchange at the end", "MW", last_mw, "≤ 2", lambda value: value <= 2.0))
    for delay_s in DELAYS_S[1:]:
        course = held_apart(two_areas(), "north", seconds=EVENT_S + 60.0, delay_s=delay_s)
        name = f"frames {1e3 * delay_s:.0f} ms late: off its trend"
        made.append(row(name, "mHz", 1e3 * hunting_hz(course), "≤ 2", lambda value: value <= 1e3 * HUNTS_HZ))
    return made


def picture() -> Figure:
    """Frequencies after the step: by controllers above, by the delay of frames below."""
    figure, upper, lower = two_panels()
    for case in REFERENCE:
        course = held({**IDEAL, **{node: OFF[node] for node in case.off}}, seconds=EVENT_S + 40.0)
        upper.plot(course.time_s - EVENT_S, 1e3 * course.deviation_hz("north"), label=case.name)
    for delay_s in DELAYS_S[::2] + DELAYS_S[-1:]:
        course = held({}, seconds=EVENT_S + 40.0, delay_s=delay_s)
        label = f"the flow, frames {1e3 * delay_s:.0f} ms late"
        lower.plot(course.time_s - EVENT_S, 1e3 * course.deviation_hz("north"), label=label)
    lower.set_xlabel("s after a load step of 5 %")
    for panel in (upper, lower):
        panel.set_ylabel("mHz from 50 Hz")
        panel.legend(fontsize=8, frameon=False, loc="lower right")
        plain_frame(panel)
    return figure


def main() -> None:
    report = Report("control-frequency", command="python -m benchmarks.control_frequency")
    began_s = time.perf_counter()
    report.sections.update(rows())
    report.figure = picture()
    report.notes.append(f"All of it took {time.perf_counter() - began_s:.0f} s.")
    report.show(Console())
    report.save()


if __name__ == "__main__":
    main()
