"""The options of commands that put an edited flow beside the running one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeflex_flow.cli.places import Definition

_Command = TypeVar("_Command", bound=Callable[..., Any])


def beside_running(command: _Command) -> _Command:
    """`NEW`, `--beside`, `--site` and `-D`: which edited flow, beside which running one."""
    a_file = click.Path(path_type=Path, exists=True, dir_okay=False)
    for option in (
        click.option("-D", "definitions", type=Definition(), multiple=True, help="Set a parameter: -D pmu_port=4713."),
        click.option("--site", help="Site file, or the name of one in sites/ beside the flow file that runs."),
        click.option("--beside", "running", required=True, type=a_file, help="The flow file that runs."),
        click.argument("new", type=a_file),
    ):
        command = option(command)
    return command
