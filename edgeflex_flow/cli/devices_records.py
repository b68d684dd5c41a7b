"""`edgeflex devices operations`, `operation` and `audit`: what was asked of the network, and by whom."""

from __future__ import annotations

import click

from edgeflex_flow.cli.devices_client import Access, Service
from edgeflex_flow.cli.devices_common import as_json, finish, followed, pass_access, show
from edgeflex_flow.cli.devices_show import audit_table, operation_table

_limit = click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The newest ones.")


@click.command()
@click.option("--state", type=click.Choice(["running", "succeeded", "partly", "failed"]))
@_limit
@as_json
@pass_access
def operations(access: Access, *, state: str | None, limit: int, as_json: bool) -> None:
    """List what the network was asked for, the newest first."""
    with Service(access) as service:
        found = service.ask("GET", "/operations", state=state, limit=limit)["operations"]
    show(found, operation_table(found), as_json=as_json)


@click.command()
@click.argument("operation_id", metavar="ID")
@as_json
@pass_access
def operation(access: Access, *, operation_id: str, as_json: bool) -> None:
    """Wait for the end of an operation, and tell it."""
    with Service(access) as service:
        done = followed(service.follow_up(operation_id), as_json=as_json)
    finish([done], as_json=as_json)


@click.command()
@_limit
@as_json
@pass_access
def audit(access: Access, *, limit: int, as_json: bool) -> None:
    """List who did what, the newest first. Administrators of the policy system."""
    with Service(access) as service:
        found = service.ask("GET", "/audit", limit=limit)["audit"]
    show(found, audit_table(found), as_json=as_json)
