"""`make demo-frequency`: a load step with and without frequency control, as numbers and as a picture.

    python -m edgeflex_flow.cli.demo.frequency --picture frequency.png

Runs flows/frequency_control.yaml in closed loop with the simulated grid of `edgeflex serve frequency-grid`, both on the
grid's own time: a minute takes about a second.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import click

from edgeflex_flow.cli.closed_loop import flow_in_loop
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.pictures import plain_frame, save_picture, two_panels
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.flowfile import load_flow
from edgeflex_services.frequency_model import Course, FrequencyGrid, LoadStep, close_loop, single_area

AREA: Final = "north"
EVENT_S: Final = 5.0
BEFORE, AFTER, BAND = "#c4561a", "#1f6fb4", "#e8eef4"


def run_both(step_w: float, seconds: float, delay_s: float) -> tuple[Course, Course]:
    """What happens without the flow, and with it."""

    def grid() -> FrequencyGrid:
        step = LoadStep(at_s=EVENT_S, area=AREA, power_w=step_w)
        return FrequencyGrid(single_area(AREA), [step], delay_s=delay_s)

    flows = shipped_flows()
    plan = load_flow(flows / "frequency_control.yaml", shipped_registry(), site=flows / "sites" / "local.yaml")
    before = close_loop(grid(), lambda _samples, _now_ns: (), seconds)
    with flow_in_loop(plan) as loop:
        return before, close_loop(grid(), loop.react, seconds)


def draw(before: Course, after: Course, file: Path) -> None:
    """Frequency above, power of the units below. The file's ending tells the format. Raises OSError."""
    figure, upper, lower = two_panels()
    upper.axhspan(-50.0, 50.0, color=BAND, label="±50 mHz")
    for course, color, label in ((before, BEFORE, "without control"), (after, AFTER, "with frequency_control")):
        upper.plot(course.time_s - EVENT_S, 1e3 * course.deviation_hz(AREA), color=color, label=label)
    for place, name in enumerate(after.resources):
        change_w = after.power_w[:, place] - after.power_w[0, place]
        lower.plot(after.time_s - EVENT_S, change_w / 1e6, label=name)
    upper.set_ylabel("deviation in mHz")
    lower.set_ylabel("change of power in MW")
    lower.set_xlabel("time since the load step in s")
    for panel in (upper, lower):
        plain_frame(panel)
        panel.legend(fontsize=8, frameon=False, loc="lower right")
    save_picture(figure, file)


def describe(course: Course) -> str:
    """The measures of one run in words."""
    settled_s = course.settled_s(AREA, EVENT_S)
    settled = "not settled" if math.isinf(settled_s) else f"within ±50 mHz for good after {settled_s:.1f} s"
    return f"nadir {1e3 * course.nadir_hz(AREA):.0f} mHz, {settled}"


@click.command()
@click.option("--picture", type=click.Path(path_type=Path), help="Save a picture: .png, .svg or .pdf.")
@click.option("--step", default=50.0, show_default=True, help="Load step in MW; the area has 1 GW.")
@click.option("--delay", default=0.1, show_default=True, help="How long a frame is on its way, in s.")
@click.option(
    "--seconds", type=click.FloatRange(min=10.0), default=60.0, show_default=True, help="How long it goes on."
)
def main(picture: Path | None, step: float, delay: float, seconds: float) -> None:
    """See what frequency control does after a load step."""
    before, after = run_both(1e6 * step, seconds, delay)
    click.echo(f"without control: {describe(before)}")
    click.echo(f"with control:    {describe(after)}")
    if picture is not None:
        draw(before, after, picture)
        click.echo(f"picture: {picture}")


if __name__ == "__main__":
    main()
