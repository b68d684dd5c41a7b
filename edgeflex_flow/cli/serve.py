"""`edgeflex serve`: programs that stand beside a flow."""

from __future__ import annotations

import click
from edgeflex_services.pmu_simulator import main as pmu


@click.group()
def serve() -> None:
    """Run a program that stands beside a flow."""


serve.add_command(pmu, "pmu")
