"""`edgeflex graph`: a flow as a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click
from rich.text import Text

from edgeflex_flow.cli.places import Definition, find_site
from edgeflex_flow.cli.problems import console, show_problems
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import Plan, load_flow, to_mermaid, to_svg
from edgeflex_flow.flowfile.fields import config_fields
from edgeflex_flow.registry import Registry

EXIT_WRONG = 1

FORMATS: Final = {".svg": "svg", ".mmd": "mermaid", ".md": "mermaid"}
"""By ending of the file to write."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--format",
    "form",
    type=click.Choice(["mermaid", "svg"]),
    help="What to make; unless given, what the ending of --out says: .svg, or .mmd and .md for mermaid.",
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
    form: str | None,
    out: Path | None,
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
) -> None:
    """Draw a flow: its nodes, its wires and what they carry.

    Needs no secrets, and no site unless the flow takes params from it. Without --format, Mermaid goes to standard
    output, and a file gets what its ending says; in a .md file, Mermaid stands in a block of code.

    Exit codes: 0 drawn; 1 the flow is wrong; 2 wrong usage.
    """
    form = form or _format_of(out)
    found = find_site(site, file)
    try:
        plan = load_flow(
            file, registry, site=found, params=dict(definitions), secrets="optional", connections="optional"
        )
    except FlowFileError as error:
        show_problems(error.problems, console(err=True))
        sys.exit(EXIT_WRONG)
    if found is None and _names_connections(plan):
        text = "no --site: names of connections are not known, and were not checked"
        console(err=True).print(Text.assemble(("note", "bold yellow"), ": ", text))
    write(to_svg(plan) if form == "svg" else _mermaid_for(plan, out), out)


def _format_of(out: Path | None) -> str:
    """The format that the ending of the file says: a picture in a file of another kind opens nowhere."""
    if out is None:
        return "mermaid"
    form = FORMATS.get(out.suffix.lower())
    if form is None:
        text = f"the ending of '{out}' names no format; known: {', '.join(FORMATS)}; or give --format"
        raise click.BadParameter(text, param_hint="--out")
    return form


def _mermaid_for(plan: Plan, out: Path | None) -> str:
    text = to_mermaid(plan)
    return f"```mermaid\n{text}```\n" if out is not None and out.suffix.lower() == ".md" else text


def _names_connections(plan: Plan) -> bool:
    return any(field.hint.family for node in plan.nodes for field in config_fields(type(node.config)))


def write(text: str, out: Path | None) -> None:
    """Write a text to a file, or to standard output when there is none."""
    if out is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error.strerror}") from error
