"""`edgeflex devices`: field devices, their links and their groups on the 5G network."""

from __future__ import annotations

import csv
import io
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
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A table instead: CSV with columns gpsi,name,owner[,ipv4_address].",
)
@as_json
@pass_access
def onboard(
    access: Access,
    *,
    gpsi: str | None,
    name: str | None,
    owner: str | None,
    ipv4: str | None,
    file: Path | None,
    as_json: bool,
) -> None:
    """Bring a device into the network, or all of a table."""
    if file is None:
        if gpsi is None or name is None or owner is None:
            raise click.UsageError("give GPSI NAME --owner GROUP, or --file TABLE")
        new = [{"gpsi": gpsi, "name": name, "owner": owner, **({} if ipv4 is None else {"ipv4_address": ipv4})}]
    elif gpsi is not None or ipv4 is not None:
        raise click.UsageError("--file names all devices: leave out GPSI, NAME and --ipv4")
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
                raise ServiceError(_by_line(error.message, file, begin + FIRST_LINE, len(new)), error.told) from error
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
    duration: int | None,
    end: bool,
    as_json: bool,
) -> None:
    """Show the quality of a device's link, change it, or give it back."""
    quality = wanted(profile, server, duration, end=end)
    with Service(access) as service:
        path = of(service.gpsi(device), "qos")
        if quality is None and not end:
            told = service.ask("GET", path)
            show(told, device_table([{**service.ask("GET", path.removesuffix("/qos"))}]), as_json=as_json)
            return
        done = carry_out(service, "DELETE" if end else "PUT", path, quality, as_json=as_json)
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
@click.option("--for", "duration", type=Duration(), default="1h", show_default=True, help="Renewed until it ends.")
@click.option("--keep", is_flag=True, help="Let the network go on to tell after this ends.")
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
    keep: bool,
    once: bool,
    as_json: bool,
) -> None:
    """Watch links as they change, until Ctrl-C. With --json each change is a line.

    The network is asked to tell by itself of the link of each DEVICE, beside what others have asked it to, and no more
    once this ends. Without any, those are shown that somebody else asked for, and the qualities of all.
    """
    wanted = {"profile": profile, "lasts_s": duration, "server_ipv4": None if server is None else server[0]}
    names = parameters.split(",")
    with Service(access) as service:
        known = _known(service, owner, device)
        begun: list[str] = []
        try:
            for gpsi in [service.gpsi(each) for each in device]:
                there = known[gpsi].get("watched", [])
                if set(names) <= set(there):
                    continue
                body = {**wanted, "parameters": list(dict.fromkeys([*there, *names]))}
                done = carry_out(service, "PUT", of(gpsi, "watch"), body, as_json=as_json)
                if done["state"] != "succeeded":
                    finish([done], as_json=as_json)
                begun += [] if there else [gpsi]
            if once:
                links = list(_known(service, owner, device).values())
                show(links, link_table(links), as_json=as_json)
            else:
                _watch(service, owner, known, as_json=as_json)
        except KeyboardInterrupt:
            return
        finally:
            for gpsi in begun if not keep else ():
                carry_out(service, "DELETE", of(gpsi, "watch"), as_json=True)


def _known(service: Service, owner: str | None, device: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What is known of links by GPSI, those of named devices first, also where nothing is."""
    named = [service.ask("GET", of(service.gpsi(each))) for each in device]
    known = {each["gpsi"]: {**each, "seq": 0, "time_ns": None, "readings": {}} for each in named}
    return known | {each["gpsi"]: each for each in service.ask("GET", "/links", owner=owner)["links"]}


def _watch(service: Service, owner: str | None, known: dict[str, dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for links in _changes(service, owner):
            for each in links:
                click.echo(json.dumps(each))
        return
    with Live(link_table(list(known.values())), console=console(), auto_refresh=False) as live:
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


def _by_line(text: str, file: Path, first: int, count: int) -> str:
    """What the service says of devices of a request, with their lines in the table instead."""
    if count == 1:
        return f"{file}, line {first}: {text}"
    placed = _PLACE.sub(lambda place: f"{file}, line {first + int(place[1])}: ", text)
    return placed if placed != text else f"{file}, from line {first} on: {text}"


def _read(file: Path, owner: str | None) -> Iterator[dict[str, str]]:
    """Devices of a table. Raises UsageError for one that is none."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets put a mark at its beginning
    except OSError as error:
        raise click.UsageError(f"--file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"--file {file}: byte {error.start} is not UTF-8: save it as CSV in UTF-8") from error
    head = text.partition("\n")[0]
    table = csv.DictReader(io.StringIO(text), delimiter=";" if ";" in head and "," not in head else ",")
    known = {"gpsi", "name", "owner", "ipv4_address"}
    names = set(table.fieldnames or ())
    if not {"gpsi", "name"} <= names or names - known:
        shown = ", ".join(table.fieldnames or ()) or "none"
        raise click.UsageError(f"--file {file}: columns are gpsi,name,owner[,ipv4_address]; got {shown}")
    line = FIRST_LINE
    for line, row in enumerate(table, FIRST_LINE):
        if None in row:
            raise click.UsageError(f"--file {file}, line {line}: more values than columns")
        given = {name: (value or "").strip() for name, value in row.items()}
        given["owner"] = given.get("owner") or owner or ""
        if not all(given[name] for name in ("gpsi", "name", "owner")):
            raise click.UsageError(f"--file {file}, line {line}: gpsi, name and owner (or --owner) are needed")
        yield {name: value for name, value in given.items() if value}
    if line == FIRST_LINE and not text.partition("\n")[2].strip():
        raise click.UsageError(f"--file {file}: there is no device in it")


for _command in (group, operations, operation, audit):
    devices.add_command(_command)
