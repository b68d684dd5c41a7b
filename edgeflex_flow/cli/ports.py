"""`edgeflex ports`: which ports a site needs, for its firewall."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from edgeflex_flow.cli.places import Definition
from edgeflex_flow.cli.site_plans import plans_of, site_file
from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.flowfile.network import ports as ports_of
from edgeflex_flow.registry import Registry


@click.command()
@click.argument("site", metavar="SITE")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE…]")
@click.option("-D", "definitions", type=Definition(), multiple=True, help="Set a parameter: -D pmu_port=4714.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@click.pass_obj
def ports(
    registry: Registry,
    *,
    site: str,
    files: tuple[Path, ...],
    definitions: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Print the ports on which a site and its flows listen, and the hosts and ports that they call.

    SITE is a site file, or the name of one in sites/ or flows/sites/. The flows are those that it lists, or those of
    the FILEs. Names of hosts are told as they are written: looking them up needs a name server besides.

    Opens nothing. Exit codes: 0 printed; 1 something is wrong or not there; 2 wrong usage.
    """
    plans = plans_of(site_file(site), files, registry, definitions)
    try:
        found = ports_of(plans)
    except EdgeflexError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        told = {
            "site": plans[0].site,
            "flows": [plan.name for plan in plans],
            "ports": [asdict(port) for port in found],
        }
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    titles = ("direction", "protocol", "host", "port", "scheme", "used by")
    rows = [(each.direction, each.protocol, each.host, str(each.port), each.scheme, each.users) for each in found]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
