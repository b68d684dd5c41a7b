"""The options of commands that run a flow on what was recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgeflex_flow.cli.places import Definition
from edgeflex_flow.cli.times import Time

_Command = TypeVar("_Command", bound=Callable[..., Any])


def on_records(command: _Command) -> _Command:
    """`--site`, `-D`, `--record`, `--begin` and `--end`: which flow, and which part of which records."""
    for option in (
        click.option("--end", type=Time(), default=None, help="Use what was recorded before: 2026-05-01T10:00:00Z."),
        click.option("--begin", type=Time(), default=None, help="Use what was recorded from this time on."),
        click.option(
            "--record",
            "records",
            required=True,
            multiple=True,
            help="What sources gave: FILE, FOLDER or store:NAME; of one source, SOURCE=FILE.",
        ),
        click.option("-D", "definitions", type=Definition(), multiple=True, help="Set a parameter: -D pmu_port=4713."),
        click.option("--site", help="Site file, or the name of one in sites/ beside the flow file."),
    ):
        command = option(command)
    return command
