"""`edgeflex schema`: the JSON Schema of flow and site files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeflex_flow.cli.graph import write
from edgeflex_flow.flowfile import json_schema
from edgeflex_flow.registry import Registry


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write instead of standard output."
)
@click.pass_obj
def schema(registry: Registry, *, out: Path | None) -> None:
    """Print the JSON Schema of flow and site files, with every kind that is installed.

    Editors complete and check with it: write it to a file and begin a flow file with
    `# yaml-language-server: $schema=flow.schema.json`.
    """
    write(json.dumps(json_schema(registry), indent=2, ensure_ascii=False) + "\n", out)
