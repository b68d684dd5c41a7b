"""Where flow files and site files are found."""

from __future__ import annotations

from pathlib import Path

import click

from edgeflex_flow.errors import nearest
from edgeflex_flow.flowfile.site import sites_beside


def shipped_flows() -> Path:
    """The folder of the flow files that come with edgeflex-flow, in a checkout or in an installed wheel."""
    package = Path(__file__).parent.parent
    installed = package / "shipped_flows"
    return installed if installed.is_dir() else package.parent / "flows"


def find_site(text: str | None, flow_file: Path) -> Path | None:
    """The site file that `--site` names: a path, or the name of a file in `sites/` beside the flow file."""
    if text is None:
        return None
    given = Path(text)
    if given.is_file():
        return given
    beside = flow_file.parent / "sites" / f"{text}.yaml"
    if beside.is_file():
        return beside
    known = sites_beside(flow_file.parent)
    guess = nearest(text, known)
    raise click.BadParameter(
        f"no site file '{text}', and no '{beside}'"
        + (f"; known sites: {', '.join(known)}" if known else "")
        + (f"; did you mean '{guess}'?" if guess else ""),
        param_hint="--site",
    )


class Definition(click.ParamType[tuple[str, str]]):
    """`name=value` of the option `-D`."""

    name = "name=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return (str(value[0]), str(value[1]))
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"'{value}' is not of the form name=value", param, ctx)
        return (name, text)


class Address(click.ParamType[tuple[str, int]]):
    """`HOST:PORT`, or a port on this machine alone."""

    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return (str(value[0]), int(value[1]))
        host, _, port = str(value).rpartition(":")
        if not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and host[:1] != "["):
            self.fail(f"'{value}' is not HOST:PORT, for example 127.0.0.1:9464 or [::1]:9464", param, ctx)
        return (host.strip("[]") or "127.0.0.1", int(port))
