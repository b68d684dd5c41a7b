"""`edgeflex demo`: the whole thing at work on one machine, with real frames, a real broker and a real store."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import click
from rich.console import Console

from edgeflex_flow.cli.demo.folder import demo_folder
from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.registry import Registry


@click.command()
@click.option("--seconds", type=click.FloatRange(min=3.0), help="End by itself after this time (else Ctrl-C ends it).")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON and nothing else.")
@click.option("--picture", type=click.Path(path_type=Path), help="Save the last screen as an SVG picture.")
@click.pass_obj
def demo(registry: Registry, seconds: float | None, as_json: bool, picture: Path | None) -> None:
    """See it work: PMU frames in, frequency events and inertia out.

    Starts a local MQTT broker, a simulator that sends C37.118.2 frames of a recorded disturbance (IEEE 39-bus system,
    one stream a generator), and flows/inertia_estimation.yaml on them; shows what happens. Everything it writes is in a
    temporary folder that goes when it ends (after a kill -9, with the next demo).

    Exit codes: 0 all went well; 1 something did not, the summary says what.
    """
    from edgeflex_flow.cli.demo.session import Session  # noqa: PLC0415 - starts slowly, and only the demo needs it

    if picture is not None and not picture.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder '{picture.parent}'", param_hint="--picture")
    console = Console(quiet=as_json)
    if as_json:
        logging.getLogger("edgeflex").setLevel(logging.ERROR)
    logging.getLogger("edgeflex.supervisor").setLevel(logging.WARNING)  # the page's address is told already
    try:
        with demo_folder() as folder:
            session = Session(registry, folder, console, seconds)
            summary = session.run()
            if picture is not None:
                session.save_picture(picture)
    except EdgeflexError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(summary.as_dict()))
    else:
        summary.show(console)
    sys.exit(0 if not summary.problems else 1)
