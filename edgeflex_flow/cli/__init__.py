"""The command `edgeflex`: the composition root of the project."""

from __future__ import annotations

import click

from edgeflex_flow import __version__
from edgeflex_flow.cli.check import check
from edgeflex_flow.cli.demo import demo
from edgeflex_flow.cli.graph import graph
from edgeflex_flow.cli.logs import set_up_logs
from edgeflex_flow.cli.nodes import nodes
from edgeflex_flow.cli.reference import reference
from edgeflex_flow.cli.run import run
from edgeflex_flow.cli.schema import schema
from edgeflex_flow.cli.serve import serve


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edgeflex")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least level that is logged.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Log lines for people, or one JSON object a line.",
)
@click.pass_context
def main(context: click.Context, log_level: str, log_format: str) -> None:
    """Dataflows for power-grid control, from declarative flow files.

    Try `edgeflex demo`. Then write a flow file, `edgeflex check` it and `edgeflex run` it.
    """
    set_up_logs(log_level, log_format)
    # Imported here so that `edgeflex --help` answers at once: the kinds bring numba with them.
    from edgeflex_flow.cli.kinds import full_registry  # noqa: PLC0415

    context.obj = full_registry()


for command in (demo, check, run, nodes, graph, schema, serve, reference):
    main.add_command(command)
