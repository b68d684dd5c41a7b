"""The command `edgeflex`: the composition root of the project."""

from __future__ import annotations

import importlib
import logging

import click

from edgeflex_flow import __version__, signals
from edgeflex_flow.cli.logs import tell
from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.log_lines import set_up_logs

COMMANDS = {
    "demo": "edgeflex_flow.cli.demo",
    "init": "edgeflex_flow.cli.init",
    "check": "edgeflex_flow.cli.check",
    "test": "edgeflex_flow.cli.test",
    "run": "edgeflex_flow.cli.run",
    "up": "edgeflex_flow.cli.up",
    "studio-user": "edgeflex_flow.cli.studio_user",
    "diff": "edgeflex_flow.cli.diff",
    "record": "edgeflex_flow.cli.record",
    "replay": "edgeflex_flow.cli.replay",
    "explain": "edgeflex_flow.cli.explain",
    "shadow": "edgeflex_flow.cli.shadow",
    "promote": "edgeflex_flow.cli.promote",
    "discard": "edgeflex_flow.cli.discard",
    "estimate": "edgeflex_flow.cli.estimate",
    "policy": "edgeflex_flow.cli.policy",
    "devices": "edgeflex_flow.cli.devices",
    "nodes": "edgeflex_flow.cli.nodes",
    "graph": "edgeflex_flow.cli.graph",
    "schema": "edgeflex_flow.cli.schema",
    "acl": "edgeflex_flow.cli.acl",
    "ports": "edgeflex_flow.cli.ports",
    "serve": "edgeflex_flow.cli.serve",
    "reference": "edgeflex_flow.cli.reference",
}
DRAINING = ("run", "up", "demo", "record", "replay", "shadow")
"""Commands that end in order on a signal; the others die by it."""

WITHOUT_KINDS = ("serve", "studio-user", "devices")
"""Commands that look at no flow: they start sooner, and with half the memory."""


class LazyGroup(click.Group):
    """Imports a command's module when the command is used: a restart of a flow should not wait for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
    if context.invoked_subcommand not in DRAINING:
        signals.release()
    set_up_logs(log_level, log_format)
    if context.invoked_subcommand in WITHOUT_KINDS:
        return
    # Imported here so that `edgeflex --help` answers at once: the kinds bring numba with them.
    from edgeflex_flow.cli.kinds import full_registry  # noqa: PLC0415

    try:
        context.obj, problems = full_registry()
    except EdgeflexError as error:
        raise click.ClickException(str(error)) from error
    for problem in problems:
        tell(logging.WARNING, problem)
