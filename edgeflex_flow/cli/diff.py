"""`edgeflex diff`: what differs between two versions of a flow, in engineers' words."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

import click
import msgspec
from rich.console import Console
from rich.text import Text

from edgeflex_flow.cli.graph import write
from edgeflex_flow.cli.places import Definition, find_site
from edgeflex_flow.cli.problems import console, show_problems, table_console
from edgeflex_flow.cli.run import EXIT_BAD_FILE
from edgeflex_flow.cli.selection import work_to_run
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import Plan, load_flows, to_svg
from edgeflex_flow.flowfile.difference import Change, both_of, difference, marks_of, renamed
from edgeflex_flow.node import OperatorNode
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.recovery import begins_anew

EXIT_DIFFERS: Final = 5
Fate: TypeAlias = Literal["keeps its state", "begins anew", "opens again"]
_STYLES: Final = {"added": "green", "removed": "red", "changed": "yellow", "renamed": "cyan"}
_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~", "renamed": "~"}


class NodeFate(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a node when the new version takes over."""

    node: str
    fate: Fate
    why: str = ""


class FlowDifference(msgspec.Struct, frozen=True, kw_only=True):
    """What differs in one flow."""

    flow: str
    how: Literal["added", "removed", "changed", "same"]
    changes: tuple[Change, ...] = ()
    fates: tuple[NodeFate, ...] = ()
    """Of all nodes, when anything differs: the whole flow moves over to a new process."""


@click.command()
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@click.option("--site", help="Site file, or the name of one in sites/ beside the flow file.")
@click.option("-D", "definitions", type=Definition(), multiple=True, help="Set a parameter: -D pmu_port=4713.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw a flow with what differs marked: out.svg."
)
@click.option("--exit-code", "tells", is_flag=True, help=f"End with code {EXIT_DIFFERS} if anything differs.")
@click.pass_obj
def diff(
    registry: Registry,
    *,
    old: str,
    new: str,
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
    as_json: bool,
    picture: Path | None,
    tells: bool,
) -> None:
    """Tell what differs between two versions of a flow or of a site, whatever their files look like.

    A and B are flow files, or site files, which stand for all flows that they list; REVISION:FILE is a file as it was
    in a revision of git. Nodes, wires, limits, units, policies and connections are told, and what becomes of each node
    when B takes over: which operators keep their state, and which begin anew.

    Exit codes: 0 told; 1 a file is wrong; 2 wrong usage; 5 with --exit-code, when anything differs.
    """
    if picture is not None and picture.suffix.lower() != ".svg":
        raise click.BadParameter(f"'{picture}' does not end in .svg", param_hint="--picture")
    try:
        with _file_of(old) as before, _file_of(new) as after:
            plans = [_plans(registry, file, site, dict(definitions)) for file in (before, after)]
            found = compare(*plans)
            if picture is not None:
                write(_picture(*plans), picture)
    except FlowFileError as error:
        show_problems(error.problems, console(err=True))
        sys.exit(EXIT_BAD_FILE)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        show_differences(found)
    sys.exit(EXIT_DIFFERS if tells and any(each.how != "same" for each in found) else 0)


@contextmanager
def _file_of(text: str) -> Iterator[Path]:
    """The file, also as it was in a revision of git."""
    file = Path(text)
    revision, colon, name = text.partition(":")
    if file.exists() or not colon:
        if not file.exists():
            raise click.UsageError(f"there is no file '{text}'")
        yield file
        return
    wanted = Path(name).absolute()
    top = Path(_git(wanted.parent, "rev-parse", "--show-toplevel").decode().strip())
    with tempfile.TemporaryDirectory(prefix="edgeflex-diff-") as folder:
        with tarfile.open(fileobj=io.BytesIO(_git(top, "archive", "--format=tar", revision))) as archive:
            archive.extractall(folder, filter="data")
        there = Path(folder) / wanted.resolve().relative_to(top.resolve())
        if not there.exists():
            raise click.UsageError(f"revision '{revision}' has no file '{name}'")
        yield there


def _git(folder: Path, *arguments: str) -> bytes:
    while not folder.is_dir():  # a folder that is there in the other revision alone
        folder = folder.parent
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise click.UsageError("REVISION:FILE needs git") from error
    if done.returncode:
        raise click.UsageError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _plans(registry: Registry, file: Path, site: str | None, params: Mapping[str, str]) -> dict[str, Plan]:
    work = work_to_run([file], find_site(site, file), {})
    plans = load_flows(work.files, registry, site=work.site, params=params, secrets="optional", connections="optional")
    return {plan.name: plan for plan in plans}


def compare(old: Mapping[str, Plan], new: Mapping[str, Plan]) -> list[FlowDifference]:
    """What differs, flow by flow. Two files of one flow each are compared whatever the flows are called."""
    if len(old) == len(new) == 1:
        old = {next(iter(new)): next(iter(old.values()))}
    found = [FlowDifference(flow=name, how="removed") for name in old if name not in new]
    for name, plan in new.items():
        if name not in old:
            found.append(FlowDifference(flow=name, how="added"))
            continue
        changes = difference(old[name], plan)
        found.append(
            FlowDifference(
                flow=name,
                how="changed" if changes else "same",
                changes=tuple(changes),
                fates=tuple(fates(old[name], plan)) if changes else (),
            )
        )
    return found


def fates(old: Plan, new: Plan) -> Iterator[NodeFate]:
    """What becomes of each node when the new version takes over."""
    before = {node.id: node for node in old.nodes}
    keeps = old.state is not None and new.state is not None
    for node in new.nodes:
        if not isinstance(node.node, OperatorNode):
            yield NodeFate(node=node.id, fate="opens again")
            continue
        why = begins_anew(before.get(node.id), node) if keeps else "the site keeps no state"
        yield NodeFate(node=node.id, fate="keeps its state" if why is None else "begins anew", why=why or "")


def _picture(old: Mapping[str, Plan], new: Mapping[str, Plan]) -> str:
    """Raises UsageError where there is not one flow that differs."""
    if len(old) == len(new) == 1:
        old = {next(iter(new)): next(iter(old.values()))}
    differing = [name for name, plan in new.items() if name in old and difference(old[name], plan)]
    if len(differing) != 1:
        told = ", ".join(differing) or "none"
        raise click.UsageError(f"--picture draws one flow that differs; these do: {told}")
    before, after = old[differing[0]], new[differing[0]]
    nodes, wires = marks_of(difference(before, after))
    try:
        both = both_of(before, after, renamed(before, after))
    except ValueError:
        both = after  # without what is gone
    return to_svg(both, nodes=nodes, wires=wires)


def show_differences(found: Sequence[FlowDifference]) -> None:
    """For people."""
    out = table_console()
    for each in found:
        if each.how != "changed":
            words = {"added": "is new", "removed": "is gone", "same": "is the same"}[each.how]
            out.print(Text(f"flow {each.flow} {words}", _STYLES.get(each.how, "")))
            continue
        out.print(Text(f"flow {each.flow}", "bold"))
        for change in each.changes:
            out.print(Text(f"  {_SIGNS[change.how]} {change.text}", _STYLES[change.how]))
        out.print(Text("  when it takes over", "bold"))
        for fate in ("keeps its state", "begins anew", "opens again"):
            _show_fate(out, fate, [node for node in each.fates if node.fate == fate])


def _show_fate(out: Console, fate: str, nodes: Sequence[NodeFate]) -> None:
    if not nodes:
        return
    reasons = dict.fromkeys(node.why for node in nodes)
    for why in reasons:
        named = ", ".join(node.node for node in nodes if node.why == why)
        out.print(f"    {named}: {fate}" + (f" ({why})" if why else ""))
