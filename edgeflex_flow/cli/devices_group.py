"""`edgeflex devices group`: groups that are set apart in the network."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import click

from edgeflex_flow.cli.devices_client import Access, Service
from edgeflex_flow.cli.devices_common import as_json, carry_out, do, finish, of_quality, pass_access, show, wanted
from edgeflex_flow.cli.devices_show import group_table, member_table


@click.group()
def group() -> None:
    """Make groups that are set apart in the network, and change who is in them."""


@group.command("list")
@as_json
@pass_access
def group_list(access: Access, *, as_json: bool) -> None:
    """List groups."""
    with Service(access) as service:
        found = service.ask("GET", "/groups")["groups"]
    show(found, group_table(found), as_json=as_json)


@group.command("show")
@click.argument("name")
@as_json
@pass_access
def group_show(access: Access, *, name: str, as_json: bool) -> None:
    """Show who is in a group."""
    with Service(access) as service:
        found = service.ask("GET", _group(name))
    show(found, member_table(found), as_json=as_json)


@group.command("create")
@click.argument("name")
@click.option("--owner", required=True, metavar="GROUP", help="Group of the policy system whose members manage it.")
@click.option(
    "--profile", "profiles_", multiple=True, help="A quality that its devices may have; several are possible."
)
@as_json
@pass_access
def group_create(access: Access, *, name: str, owner: str, profiles_: tuple[str, ...], as_json: bool) -> None:
    """Make a group."""
    do(access, "POST", "/groups", {"name": name, "owner": owner, "profiles": profiles_}, as_json=as_json)


@group.command("delete")
@click.argument("name")
@as_json
@pass_access
def group_delete(access: Access, *, name: str, as_json: bool) -> None:
    """Take a group away; its devices stay in the network."""
    do(access, "DELETE", _group(name), as_json=as_json)


@group.command("add")
@click.argument("name")
@click.argument("device", nargs=-1, required=True)
@as_json
@pass_access
def group_add(access: Access, *, name: str, device: tuple[str, ...], as_json: bool) -> None:
    """Put devices into a group."""
    _change_members(access, name, "add", device, as_json=as_json)


@group.command("remove")
@click.argument("name")
@click.argument("device", nargs=-1, required=True)
@as_json
@pass_access
def group_remove(access: Access, *, name: str, device: tuple[str, ...], as_json: bool) -> None:
    """Take devices out of a group."""
    _change_members(access, name, "remove", device, as_json=as_json)


@group.command("qos")
@click.argument("name")
@of_quality("all links of the group are", "Give the qualities back.")
@as_json
@pass_access
def group_qos(
    access: Access,
    *,
    name: str,
    profile: str | None,
    server: tuple[str, tuple[int, ...]] | None,
    duration: int | None,
    end: bool,
    as_json: bool,
) -> None:
    """Change the quality of all links of a group."""
    quality = wanted(profile, server, duration, end=end)
    if quality is None and not end:
        raise click.UsageError("give --profile and --server, or --end")
    do(access, "DELETE" if end else "PUT", _group(name, "qos"), quality, as_json=as_json)


def _group(name: str, *more: str) -> str:
    return "/".join(["/groups", quote(name, safe=""), *more])


def _change_members(access: Access, name: str, what: str, names: Sequence[str], *, as_json: bool) -> None:
    with Service(access) as service:
        body = {what: [service.gpsi(each) for each in names]}
        done = carry_out(service, "PATCH", _group(name), body, as_json=as_json)
    finish([done], as_json=as_json)
