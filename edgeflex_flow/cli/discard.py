"""`edgeflex discard`: end the shadow of an edited flow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from edgeflex_flow.cli.shadowed import verdict

EXIT_NONE: Final = 3


@click.command()
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--beside", "running", required=True, type=click.Path(path_type=Path), help="The flow file that runs.")
def discard(*, new: Path, running: Path) -> None:
    """End what `edgeflex shadow` runs of NEW beside the running flow, or forget what came of it.

    Neither file changes, and the running flow never was another one.

    Exit codes: 0 done; 2 wrong usage; 3 there was nothing to discard.
    """
    try:
        told = verdict.read(new, running)
    except (verdict.NoShadowError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_NONE)
    verdict.take_away(running)
    click.echo(f"discarded: {verdict.in_words(told)}; {new} stays as it is")
