"""`edgeflex graph`: a flow as a picture."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgeflex_flow.cli.places import Definition, find_site
from edgeflex_flow.cli.problems import console, show_problems
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import load_flow, to_mermaid, to_svg
from edgeflex_flow.registry import Registry

EXIT_WRONG = 1


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--format",
    "form",
    type=click.Choice(["mermaid", "svg"]),
    default="mermaid",
    show_default=True,
    help="What to make.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write instead of standard output."
)
@click.option("--site", help="Site file, or the name of one in sites/ beside the flow file.")
@click.option("-D", "definitions", type=Definition(), multiple=True, help="Set a parameter: -D pmu_port=4713.")
@click.pass_obj
def graph(
    registry: Registry,
    *,
    file: Path,
    form: str,
    out: Path | None,
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
) -> None:
    """Draw a flow: its nodes, its wires and what they carry.

    Needs no secrets. Exit codes: 0 drawn; 1 the flow is wrong; 2 wrong usage.
    """
    try:
        plan = load_flow(file, registry, site=find_site(site, file), params=dict(definitions), secrets="optional")
    except FlowFileError as error:
        show_problems(error.problems, console(err=True))
        sys.exit(EXIT_WRONG)
    write(to_mermaid(plan) if form == "mermaid" else to_svg(plan), out)


def write(text: str, out: Path | None) -> None:
    """Write a text to a file, or to standard output when there is none."""
    if out is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error.strerror}") from error
