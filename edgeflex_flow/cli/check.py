"""`edgeflex check`: whether flow files are right, without opening anything."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.text import Text

from edgeflex_flow.cli.budget_sums import budget_line, budgets_as_json
from edgeflex_flow.cli.connect import line, reach_all
from edgeflex_flow.cli.places import Definition, find_site
from edgeflex_flow.cli.problems import console, show_problems
from edgeflex_flow.cli.selection import chosen, listed_flows, work_to_run
from edgeflex_flow.flowfile import CheckedFlow, CheckedSite, check_files
from edgeflex_flow.flowfile.graph import role
from edgeflex_flow.flowfile.load import Secrets
from edgeflex_flow.flowfile.outline import outline
from edgeflex_flow.registry import Registry

EXIT_WRONG = 1


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--site", help="Site file, or the name of one in sites/ beside the flow file.")
@click.option("-D", "definitions", type=Definition(), multiple=True, help="Set a parameter: -D pmu_port=4713.")
@click.option("--select", "wanted", type=Definition(), multiple=True, help="Only files with this label: region=north.")
@click.option("--connect", is_flag=True, help="Also try the connections and devices of the flows; changes nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def check(
    registry: Registry,
    *,
    files: tuple[Path, ...],
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
    wanted: tuple[tuple[str, str], ...],
    connect: bool,
    as_json: bool,
) -> None:
    """Check flow files and their site file, and report all that is wrong at once.

    A site file alone stands for the flows that it lists, and is checked itself: all its connections, also those that
    no flow uses. Files that are checked together run together: a UDP port or a written file that two nodes take is an
    error, and so are reading a file that another node writes, and an asset with two controllers.

    Opens nothing and needs no secrets: those that are missing are noted. With --connect a site file stands for its
    flows, as for `run`, secrets are needed, and each connection is opened and tried: whether it lets us in, how long it
    takes to answer, and when its certificate ends. Of the policies to which flows bind settings, those that are missing
    or leave something open are warned of, and what a flow would refuse is wrong. A PMU that obeys commands is asked for
    its configuration. Ports on which a node only listens are told and not tried.

    Of each budget it adds up what its worst path needs by the settings of its nodes, windows, lags, periods and epochs,
    and tells what that leaves; a budget that is less than its path needs is an error.

    Exit codes: 0 all is right; 1 something is wrong; 2 wrong usage.
    """
    site_file = find_site(site, files[0])
    if connect:
        files, site_file = work_to_run(files, site_file, dict(wanted))
    else:
        files, site_file = _with_flows(files, site_file)
        files = chosen(files, site_file, dict(wanted))
    secrets: Secrets = "required" if connect else "optional"
    checked = check_files(files, registry, site=site_file, params=dict(definitions), secrets=secrets)
    problems = list(dict.fromkeys(problem for flow in checked for problem in flow.problems))
    plans = [flow.plan for flow in checked if isinstance(flow, CheckedFlow) and flow.plan is not None]
    reached = reach_all(plans) if connect and not problems else []
    ok = not problems and all(each.ok for each in reached)
    notes = list(dict.fromkeys(note for flow in checked for note in flow.notes))
    if as_json:
        result = {"ok": ok, "problems": msgspec.to_builtins(problems), "notes": notes}
        flows = [each for each in checked if isinstance(each, CheckedFlow)]
        result |= {"budgets": [each for flow in flows for each in budgets_as_json(flow)]}
        result |= {"connections": msgspec.to_builtins(reached)} if connect else {}
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        out = console()
        show_problems(problems, out)
        for note in notes:
            out.print(Text.assemble(("note", "bold yellow"), ": ", note))
        for each in checked:
            _show_result(each, out)
        for connection in reached:
            out.print(line(connection))
    sys.exit(0 if ok else EXIT_WRONG)


def _with_flows(files: tuple[Path, ...], site: Path | None) -> tuple[tuple[Path, ...], Path | None]:
    """A site file alone, and the flows that it lists; other files as they are."""
    first, *others = files
    if site is not None or others:
        return files, site
    alone = outline(first)
    if not alone.is_site or not alone.flows:
        return files, site
    return (first, *(each.file for each in listed_flows(alone))), first


def _show_result(checked: CheckedFlow | CheckedSite, out: Console) -> None:
    wrong = bool(checked.problems)
    text = _count(len(checked.problems), "problem") if wrong else _contents(checked)
    sign = ("✗ ", "bold red") if wrong else ("✓ ", "bold green")
    out.print(Text.assemble(sign, (str(checked.file), "bold"), f": {text}"))
    for found in checked.budgets if isinstance(checked, CheckedFlow) else ():
        out.print(budget_line(found))


def _contents(checked: CheckedFlow | CheckedSite) -> str:
    if isinstance(checked, CheckedSite):
        return f"site '{checked.name}', {_count(checked.connections, 'connection')}"
    flow = checked
    roles = Counter(role(node) for node in flow.plan.nodes) if flow.plan else Counter[str]()
    parts = [_count(flow.nodes, "node"), *(_count(roles[name], name) for name in ("source", "operator", "sink"))]
    return f"{parts[0]} ({', '.join(parts[1:])})" if roles else parts[0]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
