"""`edgeflex devices`: field devices, their links and their groups on the 5G network."""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from rich.live import Live

from edgeflex_flow.cli.devices_client import Access, Service, ServiceError, of
from edgeflex_flow.cli.devices_common import (
    Duration,
    Server,
    as_json,
    carry_out,
    finish,
    of_quality,
    owner,
    pass_access,
    show,
    wanted,
)
from edgeflex_flow.cli.devices_group import group
from edgeflex_flow.cli.devices_records import audit, operation, operations
from edgeflex_flow.cli.devices_show import device_table, link_table, profile_table
from edgeflex_flow.cli.problems import console

DEFAULT_URL: Final = "http://127.0.0.1:8630"
AT_ONCE: Final = 500
"""Devices in a request."""
FIRST_LINE: Final = 2
"""Of a table, the one below the names of its columns."""
_PLACE: Final = re.compile(r"\bdevices\[(\d+)\]\.")
LIVE_WAIT_S: Final = 10


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
@owner
@click.option("--state", type=click.Choice(["onboarding", "onboarded", "refused", "removing"]))
@as_json
@pass_access
def list_(access: Access, *, owner: str | None, state: str | None, as_json: bool) -> None:
    """List devices with their state and the quality of their links."""
    with Service(access) as service:
        found = list(service.devices(owner=owner, state=state))
    show(found, device_table(found), as_json=as_json)


@devices.command()
@click.argument("gpsi", required=False)
@click.argument("name", required=False)
@click.option("--owner", metavar="GROUP", help="Group of the policy system whose members may see and change it.")
@click.option("--ipv4", metavar="ADDRESS", help="Its address inside the network.")
@click.option("--file", type=click.File(), help="A table instead: CSV with columns gpsi,name,owner[,ipv4_address].")
@as_json
@pass_access
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
            try:
                done.append(carry_out(service, "POST", path, body, as_json=as_json))
            except ServiceError as error:
                if file is None:
                    raise
                raise ServiceError(_by_line(error.message, file.name, begin + FIRST_LINE), error.told) from error
    finish(done, as_json=as_json)


@devices.command()
@click.argument("device")
@as_json
@pass_access
def remove(access: Access, *, device: str, as_json: bool) -> None:
    """Take a device out of the network."""
    with Service(access) as service:
        done = carry_out(service, "DELETE", of(service.gpsi(device)), as_json=as_json)
    finish([done], as_json=as_json)


@devices.command()
@click.argument("device")
@of_quality("its link is", "Give the quality back.")
@as_json
@pass_access
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
            done = carry_out(service, "DELETE", path, as_json=as_json)
        elif profile is not None and server is not None:
            done = carry_out(service, "PUT", path, wanted(profile, server, duration), as_json=as_json)
        elif profile is None and server is None:
            told = service.ask("GET", path)
            show(told, device_table([{**service.ask("GET", path.removesuffix("/qos"))}]), as_json=as_json)
            return
        else:
            raise click.UsageError("give --profile and --server together")
    finish([done], as_json=as_json)


@devices.command()
@click.argument("device")
@click.option("--parameters", default="reachability", show_default=True, help="By commas, such as latency,loss.")
@click.option("--server", type=Server(), help="The far end, for what depends on it.")
@click.option("--profile", help="The quality to compare with.")
@as_json
@pass_access
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
    show(told, link_table([told]), as_json=as_json)


@devices.command()
@click.argument("device", nargs=-1)
@owner
@click.option("--parameters", default="reachability", show_default=True, help="By commas, such as latency,loss.")
@click.option("--server", type=Server(), help="The far end, for what depends on it.")
@click.option("--profile", help="The quality to compare with.")
@click.option("--for", "duration", type=Duration(), default="1h", show_default=True, help="How long it is to tell.")
@click.option("--once", is_flag=True, help="Print what is known now, and end.")
@as_json
@pass_access
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
            done = carry_out(service, "PUT", of(service.gpsi(each), "watch"), wanted, as_json=as_json)
            if done["state"] != "succeeded":
                finish([done], as_json=as_json)
        if once:
            links = service.ask("GET", "/links", owner=owner)["links"]
            show(links, link_table(links), as_json=as_json)
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
@as_json
@pass_access
def profiles(access: Access, *, as_json: bool) -> None:
    """List the qualities that the network has."""
    with Service(access) as service:
        found = service.ask("GET", "/profiles")["profiles"]
    show(found, profile_table(found), as_json=as_json)


def _by_line(text: str, name: str, first: int) -> str:
    """What the service says of devices of a request, with their lines in the table instead."""
    return _PLACE.sub(lambda place: f"{name}, line {first + int(place[1])}: ", text)


def _read(file: Any, owner: str | None) -> Iterator[dict[str, str]]:
    """Devices of a table. Raises UsageError for one that is none."""
    table = csv.DictReader(file)
    known = {"gpsi", "name", "owner", "ipv4_address"}
    names = set(table.fieldnames or ())
    if not {"gpsi", "name"} <= names or names - known:
        shown = ", ".join(table.fieldnames or ()) or "none"
        raise click.UsageError(f"--file {file.name}: columns are gpsi,name,owner[,ipv4_address]; got {shown}")
    for line, row in enumerate(table, FIRST_LINE):
        given = {name: (text or "").strip() for name, text in row.items() if name is not None}
        given.setdefault("owner", owner or "")
        given["owner"] = given["owner"] or owner or ""
        if not all(given[name] for name in ("gpsi", "name", "owner")):
            raise click.UsageError(f"--file {file.name}, line {line}: gpsi, name and owner (or --owner) are needed")
        yield {name: text for name, text in given.items() if text}


for _command in (group, operations, operation, audit):
    devices.add_command(_command)
