"""What the commands of `edgeflex devices` share: how qualities are written, operations followed and results told."""

from __future__ import annotations

import ipaddress
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click
from rich.console import Console

from edgeflex_flow.cli.devices_client import Access, Service, ServiceError
from edgeflex_flow.cli.devices_show import outcome, under_way
from edgeflex_flow.cli.problems import console
from edgeflex_flow.units import parse_quantity

FAILED: Final = 1
USUAL_S: Final = 3600
"""How long a quality is asked for."""
SILENT_S: Final = 2.0
"""After so long it is told what an operation waits for."""
WIDTH_OF_PIPES: Final = 240
"""Columns of tables when the output is no terminal."""
_Command = TypeVar("_Command", bound=Callable[..., Any])


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
            numbers = tuple(int(each) for each in ports.split(",") if each)
            return str(ipaddress.IPv4Address(address)), numbers
        except ValueError:
            self.fail(f"expected an IPv4 ADDRESS or ADDRESS:PORT,PORT; got '{value}'", param, ctx)


as_json = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
owner = click.option("--owner", metavar="GROUP", help="Only those of this group of the policy system.")
pass_access = click.pass_obj


def of_quality(whose: str, end: str) -> Callable[[_Command], _Command]:
    """The options by which a quality is asked for or given back."""

    def add(command: _Command) -> _Command:
        for option in (
            click.option("--end", is_flag=True, help=end),
            click.option("--for", "duration", type=Duration(), help="How long; 1h unless given."),
            click.option("--server", type=Server(), help="The far end: ADDRESS or ADDRESS:PORT,PORT."),
            click.option("--profile", help=f"The quality that {whose} to have: edgeflex devices profiles."),
        ):
            command = option(command)
        return command

    return add


def wanted(
    profile: str | None, server: tuple[str, tuple[int, ...]] | None, duration: int | None, *, end: bool
) -> dict[str, Any] | None:
    """A quality as the service takes it; None if none is asked for. Raises UsageError for half of one."""
    asked = [each is not None for each in (profile, server, duration)]
    if end and any(asked):
        raise click.UsageError("--end gives the quality back: leave out --profile, --server and --for")
    if not any(asked):
        return None
    if profile is None or server is None:
        raise click.UsageError("give --profile and --server together")
    seconds = USUAL_S if duration is None else duration
    return {"profile": profile, "server_ipv4": server[0], "server_ports": server[1], "duration_s": seconds}


@contextmanager
def _waiting(*, quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Tells what an operation waits for, once it is worth it: as it changes on a terminal, else once each reason."""
    out, begun_s, told = console(err=True), time.monotonic(), set[str]()

    def tell(operation: dict[str, Any]) -> None:
        text = under_way(operation)
        if operation["state"] == "running" and time.monotonic() - begun_s >= SILENT_S and text not in told:
            told.add(text)
            click.echo(text, err=True)

    if quiet or not out.is_terminal:
        yield (lambda _: None) if quiet else tell
        return
    with out.status("the network is asked…") as status:
        yield lambda operation: status.update(under_way(operation))


def carry_out(service: Service, method: str, path: str, body: Any = None, *, as_json: bool) -> dict[str, Any]:
    """The operation that a request began, once it is over."""
    return followed(service.follow(method, path, body), as_json=as_json)


def followed(steps: Iterator[dict[str, Any]], *, as_json: bool) -> dict[str, Any]:
    """The last of what was seen of an operation; of one that the network refused as it tells it."""
    operation: dict[str, Any] = {}
    with _waiting(quiet=as_json) as tell:
        try:
            for operation in steps:
                tell(operation)
        except ServiceError as error:
            if "operation" not in error.told:
                raise
            operation = error.told["operation"]
        except KeyboardInterrupt:
            if operation:
                click.echo(f"it goes on: edgeflex devices operation {operation['id']}", err=True)
            raise
    return operation


def finish(done: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print what became of operations; exit code 1 where any failed, also in part."""
    if as_json:
        click.echo(json.dumps(done[0] if len(done) == 1 else done))
    else:
        out = console()
        for each in done:
            out.print(outcome(each))
    if any(each["state"] != "succeeded" for each in done):
        sys.exit(FAILED)


def do(access: Access, method: str, path: str, body: Any = None, *, as_json: bool) -> None:
    """One operation, from asking to telling."""
    with Service(access) as service:
        done = carry_out(service, method, path, body, as_json=as_json)
    finish([done], as_json=as_json)


def show(told: Any, table: Any, *, as_json: bool) -> None:
    """As JSON, or as a table: in whole lines where the output is no terminal, for those who look for words in it."""
    if as_json:
        click.echo(json.dumps(told))
    else:
        width = None if sys.stdout.isatty() else WIDTH_OF_PIPES
        Console(file=sys.stdout, width=width, highlight=False).print(table)
