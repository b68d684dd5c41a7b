"""`edgeflex devices`: field devices, their links and their groups on the 5G network."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click
from rich.console import Console
from rich.live import Live

from edgeflex_flow.cli.devices_client import Access, Service, ServiceError, of
from edgeflex_flow.cli.devices_show import device_table, group_table, link_table, member_table, outcome, profile_table
from edgeflex_flow.cli.problems import console
from edgeflex_flow.units import parse_quantity

DEFAULT_URL: Final = "http://127.0.0.1:8630"
FAILED: Final = 1
AT_ONCE: Final = 500
"""Devices in a request."""
LIVE_WAIT_S: Final = 10
WIDTH_OF_PIPES: Final = 240
"""Columns of tables when the output is no terminal."""


class Duration(click.ParamType[int]):
    """Whole seconds, written with their unit: 1h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return round(parse_quantity(value, "s"))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Server(click.ParamType[tuple[str, tuple[int, ...]]]):
    """The far end of a link: ADDRESS or ADDRESS:PORT,PORT."""

    name = "server"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        address, _, ports = str(value).partition(":")
        try:
            return address, tuple(int(each) for each in ports.split(",") if each)
        except ValueError:
            self.fail(f"expected ADDRESS or ADDRESS:PORT,PORT; got '{value}'", param, ctx)


_as_json = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
_owner = click.option("--owner", metavar="GROUP", help="Only those of this group of the policy system.")


@click.group()
@click.option("--url", envvar="EDGEFLEX_DEVICES_URL", default=DEFAULT_URL, show_default=True, help="Of the service.")
@click.option("--ca", type=click.Path(path_type=Path), help="Authority of its certificate, if the system has none.")
@click.option("--token-file", type=click.Path(path_type=Path), help="A token; also EDGEFLEX_DEVICES_TOKEN.")
@click.option(
    "--policy",
    "policy_url",
    metavar="URL",
    envvar="EDGEFLEX_POLICY_URL",
    help="Policy system that grants a token for EDGEFLEX_POLICY_CLIENT with EDGEFLEX_POLICY_SECRET.",
)
@click.pass_context
def devices(ctx: click.Context, *, url: str, ca: Path | None, token_file: Path | None, policy_url: str | None) -> None:
    """Manage field devices on the 5G network by the service that `edgeflex serve devices` runs.

    DEVICE is a GPSI (msisdn-491701234567, extid-pmu7@grid.example) or the name that flows have for it.
    """
    token = None
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except OSError as error:
            raise click.UsageError(f"--token-file {token_file}: {error.strerror}") from error
    ctx.obj = Access(
        url=url,
        ca=ca,
        token=token or os.environ.get("EDGEFLEX_DEVICES_TOKEN"),
        policy_url=policy_url,
        client=os.environ.get("EDGEFLEX_POLICY_CLIENT"),
        secret=os.environ.get("EDGEFLEX_POLICY_SECRET"),
    )


@devices.command("list")
@_owner
@click.option("--state", type=click.Choice(["onboarding", "onboarded", "refused", "removing"]))
@_as_json
@click.pass_obj
def list_(access: Access, *, owner: str | None, state: str | None, as_json: bool) -> None:
    """List devices with their state and the quality of their links."""
    with Service(access) as service:
        found = list(service.devices(owner=owner, state=state))
    _show(found, device_table(found), as_json=as_json)


@devices.command()
@click.argument("gpsi", required=False)
@click.argument("name", required=False)
@click.option("--owner", metavar="GROUP", help="Group of the policy system whose members may see and change it.")
@click.option("--ipv4", metavar="ADDRESS", help="Its address inside the network.")
@click.option("--file", type=click.File(), help="A table instead: CSV with columns gpsi,name,owner[,ipv4_address].")
@_as_json
@click.pass_obj
def onboard(
    access: Access,
    *,
    gpsi: str | None,
    name: str | None,
    owner: str | None,
    ipv4: str | None,
    file: Any,
    as_json: bool,
) -> None:
    """Bring a device into the network, or all of a table."""
    if file is None:
        if gpsi is None or name is None or owner is None:
            raise click.UsageError("give GPSI NAME --owner GROUP, or --file TABLE")
        new = [{"gpsi": gpsi, "name": name, "owner": owner, **({} if ipv4 is None else {"ipv4_address": ipv4})}]
    else:
        new = list(_read(file, owner))
    with Service(access) as service:
        done = []
        for begin in range(0, len(new), AT_ONCE):
            portion = new[begin : begin + AT_ONCE]
            path, body = ("/devices", portion[0]) if len(new) == 1 else ("/devices/many", {"devices": portion})
            done.append(_carry_out(service, "POST", path, body, as_json=as_json))
    _end(done, as_json=as_json)


@devices.command()
@click.argument("device")
@_as_json
@click.pass_obj
def remove(access: Access, *, device: str, as_json: bool) -> None:
    """Take a device out of the network."""
    with Service(access) as service:
        done = _carry_out(service, "DELETE", of(service.gpsi(device)), as_json=as_json)
    _end([done], as_json=as_json)


@devices.command()
@click.argument("device")
@click.option("--profile", help="The quality that its link is to have: edgeflex devices profiles.")
@click.option("--server", type=Server(), help="The far end: ADDRESS or ADDRESS:PORT,PORT.")
@click.option("--for", "duration", type=Duration(), default="1h", show_default=True, help="How long.")
@click.option("--end", is_flag=True, help="Give the quality back.")
@_as_json
@click.pass_obj
def qos(
    access: Access,
    *,
    device: str,
    profile: str | None,
    server: tuple[str, tuple[int, ...]] | None,
    duration: int,
    end: bool,
    as_json: bool,
) -> None:
    """Show the quality of a device's link, change it, or give it back."""
    with Service(access) as service:
        path = of(service.gpsi(device), "qos")
        if end:
            done = _carry_out(service, "DELETE", path, as_json=as_json)
        elif profile is not None and server is not None:
            done = _carry_out(service, "PUT", path, _wanted(profile, server, duration), as_json=as_json)
        elif profile is None and server is None:
            told = service.ask("GET", path)
            _show(told, device_table([{**service.ask("GET", path.removesuffix("/qos"))}]), as_json=as_json)
            return
        else:
            raise click.UsageError("give --profile and --server together")
    _end([done], as_json=as_json)


@devices.command()
@click.argument("device")
@click.option("--parameters", default="reachability", show_default=True, help="By commas, such as latency,loss.")
@click.option("--server", type=Server(), help="The far end, for what depends on it.")
@click.option("--profile", help="The quality to compare with.")
@_as_json
@click.pass_obj
def link(
    access: Access,
    *,
    device: str,
    parameters: str,
    server: tuple[str, tuple[int, ...]] | None,
    profile: str | None,
    as_json: bool,
) -> None:
    """Ask the network about a device's link now."""
    with Service(access) as service:
        path = of(service.gpsi(device), "link")
        address = None if server is None else server[0]
        told = service.ask("GET", path, parameters=parameters, server_ipv4=address, profile=profile)
    _show(told, link_table([told]), as_json=as_json)


@devices.command()
@click.argument("device", nargs=-1)
@_owner
@click.option("--parameters", default="reachability", show_default=True, help="By commas, such as latency,loss.")
@click.option("--server", type=Server(), help="The far end, for what depends on it.")
@click.option("--profile", help="The quality to compare with.")
@click.option("--for", "duration", type=Duration(), default="1h", show_default=True, help="How long it is to tell.")
@click.option("--once", is_flag=True, help="Print what is known now, and end.")
@_as_json
@click.pass_obj
def watch(
    access: Access,
    *,
    device: tuple[str, ...],
    owner: str | None,
    parameters: str,
    server: tuple[str, tuple[int, ...]] | None,
    profile: str | None,
    duration: int,
    once: bool,
    as_json: bool,
) -> None:
    """Watch links as they change, until Ctrl-C. With --json each change is a line.

    The network is asked to tell by itself of the links of each DEVICE. Without any, those are shown that somebody else
    asked for, and the qualities of all.
    """
    with Service(access) as service:
        wanted = {"parameters": parameters.split(","), "profile": profile, "lasts_s": duration}
        wanted |= {"server_ipv4": None if server is None else server[0]}
        for each in device:
            done = _carry_out(service, "PUT", of(service.gpsi(each), "watch"), wanted, as_json=as_json)
            if done["state"] != "succeeded":
                _end([done], as_json=as_json)
        if once:
            links = service.ask("GET", "/links", owner=owner)["links"]
            _show(links, link_table(links), as_json=as_json)
            return
        try:
            _watch(service, owner, as_json=as_json)
        except KeyboardInterrupt:
            return


def _watch(service: Service, owner: str | None, *, as_json: bool) -> None:
    if as_json:
        for links in _changes(service, owner):
            for each in links:
                click.echo(json.dumps(each))
        return
    known: dict[str, Any] = {}
    with Live(link_table([]), console=console(), auto_refresh=False) as live:
        for links in _changes(service, owner):
            known |= {each["gpsi"]: each for each in links}
            known = {gpsi: each for gpsi, each in known.items() if not each.get("removed")}
            live.update(link_table(list(known.values())), refresh=True)


def _changes(service: Service, owner: str | None) -> Iterator[list[dict[str, Any]]]:
    """What changed, as it does; a service that is away is asked again."""
    seq = 0
    while True:
        try:
            told = service.ask("GET", "/links", owner=owner, since=seq, wait_s=LIVE_WAIT_S if seq else 0)
        except ServiceError as error:
            if error.told:
                raise  # it answered: a refusal
            click.echo(f"{error}; trying again", err=True)
            time.sleep(2.0)
            continue
        seq = told["seq"] or seq
        yield told["links"]
        if not seq:
            time.sleep(1.0)


@devices.command()
@_as_json
@click.pass_obj
def profiles(access: Access, *, as_json: bool) -> None:
    """List the qualities that the network has."""
    with Service(access) as service:
        found = service.ask("GET", "/profiles")["profiles"]
    _show(found, profile_table(found), as_json=as_json)


@devices.group()
def group() -> None:
    """Make groups that are set apart in the network, and change who is in them."""


@group.command("list")
@_as_json
@click.pass_obj
def group_list(access: Access, *, as_json: bool) -> None:
    """List groups."""
    with Service(access) as service:
        found = service.ask("GET", "/groups")["groups"]
    _show(found, group_table(found), as_json=as_json)


@group.command("show")
@click.argument("name")
@_as_json
@click.pass_obj
def group_show(access: Access, *, name: str, as_json: bool) -> None:
    """Show who is in a group."""
    with Service(access) as service:
        found = service.ask("GET", _group(name))
    _show(found, member_table(found), as_json=as_json)


@group.command("create")
@click.argument("name")
@click.option("--owner", required=True, metavar="GROUP", help="Group of the policy system whose members manage it.")
@click.option(
    "--profile", "profiles_", multiple=True, help="A quality that its devices may have; several are possible."
)
@_as_json
@click.pass_obj
def group_create(access: Access, *, name: str, owner: str, profiles_: tuple[str, ...], as_json: bool) -> None:
    """Make a group."""
    _do(access, "POST", "/groups", {"name": name, "owner": owner, "profiles": profiles_}, as_json=as_json)


@group.command("delete")
@click.argument("name")
@_as_json
@click.pass_obj
def group_delete(access: Access, *, name: str, as_json: bool) -> None:
    """Take a group away; its devices stay in the network."""
    _do(access, "DELETE", _group(name), as_json=as_json)


@group.command("add")
@click.argument("name")
@click.argument("device", nargs=-1, required=True)
@_as_json
@click.pass_obj
def group_add(access: Access, *, name: str, device: tuple[str, ...], as_json: bool) -> None:
    """Put devices into a group."""
    _change_members(access, name, "add", device, as_json=as_json)


@group.command("remove")
@click.argument("name")
@click.argument("device", nargs=-1, required=True)
@_as_json
@click.pass_obj
def group_remove(access: Access, *, name: str, device: tuple[str, ...], as_json: bool) -> None:
    """Take devices out of a group."""
    _change_members(access, name, "remove", device, as_json=as_json)


@group.command("qos")
@click.argument("name")
@click.option("--profile", help="The quality that all links of the group are to have.")
@click.option("--server", type=Server(), help="The far end: ADDRESS or ADDRESS:PORT,PORT.")
@click.option("--for", "duration", type=Duration(), default="1h", show_default=True, help="How long.")
@click.option("--end", is_flag=True, help="Give the qualities back.")
@_as_json
@click.pass_obj
def group_qos(
    access: Access,
    *,
    name: str,
    profile: str | None,
    server: tuple[str, tuple[int, ...]] | None,
    duration: int,
    end: bool,
    as_json: bool,
) -> None:
    """Change the quality of all links of a group."""
    if end:
        _do(access, "DELETE", _group(name, "qos"), as_json=as_json)
    elif profile is None or server is None:
        raise click.UsageError("give --profile and --server, or --end")
    else:
        _do(access, "PUT", _group(name, "qos"), _wanted(profile, server, duration), as_json=as_json)


def _group(name: str, *more: str) -> str:
    return "/".join(["/groups", quote(name, safe=""), *more])


def _change_members(access: Access, name: str, what: str, names: Sequence[str], *, as_json: bool) -> None:
    with Service(access) as service:
        body = {what: [service.gpsi(each) for each in names]}
        done = _carry_out(service, "PATCH", _group(name), body, as_json=as_json)
    _end([done], as_json=as_json)


def _do(access: Access, method: str, path: str, body: Any = None, *, as_json: bool) -> None:
    with Service(access) as service:
        done = _carry_out(service, method, path, body, as_json=as_json)
    _end([done], as_json=as_json)


def _wanted(profile: str, server: tuple[str, tuple[int, ...]], duration: int) -> dict[str, Any]:
    return {"profile": profile, "server_ipv4": server[0], "server_ports": server[1], "duration_s": duration}


def _read(file: Any, owner: str | None) -> Iterator[dict[str, str]]:
    """Devices of a table. Raises UsageError for one that is none."""
    table = csv.DictReader(file)
    known = {"gpsi", "name", "owner", "ipv4_address"}
    names = set(table.fieldnames or ())
    if not {"gpsi", "name"} <= names or names - known:
        shown = ", ".join(table.fieldnames or ()) or "none"
        raise click.UsageError(f"--file {file.name}: columns are gpsi,name,owner[,ipv4_address]; got {shown}")
    for line, row in enumerate(table, 2):
        given = {name: (text or "").strip() for name, text in row.items() if name is not None}
        given.setdefault("owner", owner or "")
        given["owner"] = given["owner"] or owner or ""
        if not all(given[name] for name in ("gpsi", "name", "owner")):
            raise click.UsageError(f"--file {file.name}, line {line}: gpsi, name and owner (or --owner) are needed")
        yield {name: text for name, text in given.items() if text}


@contextmanager
def _waiting(text: str, *, quiet: bool) -> Iterator[None]:
    out = console(err=True)
    if quiet or not out.is_terminal:
        yield
        return
    with out.status(text):
        yield


def _carry_out(service: Service, method: str, path: str, body: Any = None, *, as_json: bool) -> dict[str, Any]:
    """The operation that a request began, once it is over; of one that the network refused as it tells it."""
    operation: dict[str, Any] = {}
    with _waiting("the network is asked…", quiet=as_json):
        try:
            for seen in service.follow(method, path, body):
                operation = seen
        except ServiceError as error:
            if "operation" not in error.told:
                raise
            operation = error.told["operation"]
    return operation


def _end(done: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print what became of operations; exit code 1 where any failed, also in part."""
    if as_json:
        click.echo(json.dumps(done[0] if len(done) == 1 else done))
    else:
        out = console()
        for each in done:
            out.print(outcome(each))
    if any(each["state"] != "succeeded" for each in done):
        sys.exit(FAILED)


def _tables() -> Console:
    """Whole lines where the output is no terminal, for those who look for words in it."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_OF_PIPES, highlight=False)


def _show(told: Any, table: Any, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(told))
    else:
        _tables().print(table)
