"""`edgeflex serve`: programs that stand beside a flow."""

from __future__ import annotations

import sys

import click

from edgeflex_services.frequency_grid import main as frequency_grid_service
from edgeflex_services.pmu_simulator import main as pmu_simulator


@click.group()
def serve() -> None:
    """Run a program that stands beside a flow."""


@serve.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def pmu(arguments: tuple[str, ...]) -> None:
    """Be ten PMUs, or a PDC: a recorded disturbance of the IEEE 39-bus system (--help tells the options)."""
    sys.exit(pmu_simulator(arguments, prog="edgeflex serve pmu"))


@serve.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def powerflow(arguments: tuple[str, ...]) -> None:
    """Be a grid: publish its voltages over MQTT and obey set-points (--help tells the options)."""
    try:
        # Imported here: it takes seconds, and is not everywhere.
        from edgeflex_services.powerflow_service import main as powerflow_service  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "pandapower":
            raise
        raise click.UsageError("serve powerflow needs pandapower: pip install 'edgeflex-flow[grid]'") from error
    sys.exit(powerflow_service(arguments, prog="edgeflex serve powerflow"))


@serve.command("frequency-grid", context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def frequency_grid(arguments: tuple[str, ...]) -> None:
    """Be a grid of one or two areas whose frequency can be held: PMU frames out, set-points in over MQTT (--help)."""
    sys.exit(frequency_grid_service(arguments, prog="edgeflex serve frequency-grid"))


@serve.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def market(arguments: tuple[str, ...]) -> None:
    """Be a market of FlexOffers: accept, clear by merit order, assign (--help tells the options)."""
    try:
        from edgeflex_services.market import main as market_service  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("litestar", "uvicorn"):
            raise
        raise click.UsageError("serve market needs Litestar: pip install 'edgeflex-flow[services]'") from error
    sys.exit(market_service(arguments, prog="edgeflex serve market"))
