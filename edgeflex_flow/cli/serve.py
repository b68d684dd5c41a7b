"""`edgeflex serve`: programs that stand beside a flow."""

from __future__ import annotations

import sys

import click

from edgeflex_services.pmu_simulator import main as pmu_simulator


@click.group()
def serve() -> None:
    """Run a program that stands beside a flow."""


@serve.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def pmu(arguments: tuple[str, ...]) -> None:
    """Be ten PMUs, or a PDC: a recorded disturbance of the IEEE 39-bus system (--help tells the options)."""
    sys.exit(pmu_simulator(arguments, prog="edgeflex serve pmu"))
