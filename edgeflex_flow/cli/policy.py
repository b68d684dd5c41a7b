"""`edgeflex policy`: what is done with policies on the command line."""

from __future__ import annotations

import click

from edgeflex_flow.cli.preview import preview


@click.group()
def policy() -> None:
    """Work with policies: try one on what was recorded."""


policy.add_command(preview)
