"""`make demo-mpc`: a sunny day on a feeder with storages under voltage_mpc, with a market, as numbers and as a picture.

    python -m edgeflex_flow.cli.demo.mpc --picture mpc.png

Runs flows/voltage_mpc.yaml in closed loop with the grid of `edgeflex serve powerflow`, both on the grid's own time. It
is told that today will be as yesterday was; the market gives a share of what it is asked for.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import click

from edgeflex_flow.cli.closed_loop import FlowInLoop, flow_in_loop
from edgeflex_flow.cli.demo.voltage import START_NS, VALID_S, React, measure, nothing, run_day, tell
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.messages import FlexRequest, FlexResponse
from edgeflex_services.grid_forecasts import GridForecaster
from edgeflex_services.powerflow_grid import Grid, make_grid
from edgeflex_services.powerflow_loop import obey
from edgeflex_services.powerflow_network import write_network
from edgeflex_services.powerflow_plant import Measurements, Plant
from edgeflex_services.profiles import QUARTER_S, QUARTERS_A_DAY, Inputs, SyntheticDay, make_profiles

STORAGE_KWH: Final = 5.0
STEPS: Final = 25
"""The horizon of the flow, and the quarter of an hour that is under way."""
MIDNIGHT_NS: Final = START_NS - START_NS % round(QUARTER_S * 1e9)
FIRST_HOUR: Final = 4.0
NOON_S: Final = 12.0 * 3600.0


def yesterday_again(grid: Grid, profile: str) -> GridForecaster:
    """Forecasts by the day before, which was as sunny and as cloudy, at other times."""
    today = SyntheticDay(grid, is_cloudy=profile == "cloudy", seed=0)
    yesterday = SyntheticDay(grid, is_cloudy=profile == "cloudy", seed=1)

    def means(quarter: int) -> Inputs:
        return (yesterday if quarter < 0 else today).at((quarter % QUARTERS_A_DAY + 0.5) * QUARTER_S)

    return GridForecaster(
        grid, means, "daily", midnight_ns=MIDNIGHT_NS, steps=STEPS, history_quarters=2 * QUARTERS_A_DAY
    )


def answer(request: FlexRequest, share: float) -> FlexResponse:
    """What the market gives: a share of all that is asked for."""
    return FlexResponse(
        variable=request.variable,
        nodes=request.nodes,
        unit=request.unit,
        flex_response={step: tuple(share * value for value in values) for step, values in request.flex_request.items()},
        request_id=request.id,
    )


def by_plans(loop: FlowInLoop, forecaster: GridForecaster, share: float) -> React:
    """The reaction of the running flow, with forecasts at each quarter of an hour and a market that answers at once."""

    def react(plant: Plant, measured: Measurements, time_s: float) -> None:
        now_ns = MIDNIGHT_NS + round(time_s * 1e9)
        for each in forecaster.due(time_s):
            loop.take("forecasts", each, now_ns)
        measure(loop, plant.grid, measured, now_ns)
        setpoints = loop.react(None, now_ns)
        while loop.requests:
            loop.take("answers", answer(loop.requests.pop(), share), now_ns)
            setpoints += loop.react(None, now_ns)
        obey(plant, setpoints, time_s + VALID_S)

    return react


@click.command()
@click.option("--picture", type=click.Path(path_type=Path), help="Save a picture: .png, .svg or .pdf.")
@click.option("--profile", type=click.Choice(["clear", "cloudy"]), default="clear", show_default=True, help="The day.")
@click.option(
    "--market", "share", type=click.FloatRange(0.0, 1.0), default=0.7, show_default=True, help="Share that it gives."
)
@click.option("--until", type=click.FloatRange(5.0, 24.0), default=22.0, show_default=True, help="Hour; from 4 on.")
def main(picture: Path | None, profile: str, share: float, until: float) -> None:
    """See what foresight, storages and a market do on a day with much sun."""
    grid = make_grid("kerber", storage_kwh=STORAGE_KWH)
    flows, hours = shipped_flows(), (FIRST_HOUR, until)
    before = run_day(grid, profile, nothing, "without", hours)
    with tempfile.TemporaryDirectory() as folder:
        write_network(Path(folder), grid, make_profiles(grid, "clear").at(NOON_S))
        params = {"grid": folder, "mpc_mode": "control"}
        site = flows / "sites" / "local.yaml"
        plan = load_flow(flows / "voltage_mpc.yaml", shipped_registry(), site=site, params=params)
    with flow_in_loop(plan, measuring="voltages", actuating=("control",)) as loop:
        after = run_day(grid, profile, by_plans(loop, yesterday_again(grid, profile), share), "with", hours)
    tell(before, after, "voltage_mpc", picture)


if __name__ == "__main__":
    main()
