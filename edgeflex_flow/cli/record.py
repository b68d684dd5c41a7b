"""`edgeflex record`: write down what crosses the wires of flows that run."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import click
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from edgeflex_flow import signals
from edgeflex_flow.cli.places import Definition, find_site
from edgeflex_flow.cli.problems import console
from edgeflex_flow.cli.run import EXIT_BAD_FILE, Seconds, tell_problems
from edgeflex_flow.cli.selection import work_to_run
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import Plan, load_flows
from edgeflex_flow.recording import SUFFIX, lost_rows_of
from edgeflex_flow.runtime.recorder import recorded_nodes
from edgeflex_flow.runtime.recording_requests import RecordingRequest, asked_to_record, nodes_by_flow
from edgeflex_flow.units import parse_quantity

EXIT_NOTHING: Final = 3
EXIT_LOST: Final = 4
NOBODY_AFTER_S: Final = 8.0
LOOK_S: Final = 0.25
PART_BYTES: Final = 64 << 20


class Size(click.ParamType[int]):
    """A number of bytes with its unit, `1GiB`."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return round(parse_quantity(str(value), "B"))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_Tell: TypeAlias = Callable[[int, int], None]


class _Asked(NamedTuple):
    """What is asked of a flow."""

    plan: Plan
    nodes: tuple[str, ...]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--site", help="Site file, or the name of one in sites/ beside the flow file.")
@click.option("-D", "definitions", type=Definition(), multiple=True, help="Set a parameter: -D pmu_port=4713.")
@click.option("--select", "wanted", type=Definition(), multiple=True, help="Only flows with this label: region=north.")
@click.option("--wires", multiple=True, metavar="NODE[,NODE…]", help="Of which nodes; FLOW/NODE of one flow. Else all.")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), default="recording", show_default=True,
    help="Folder to write to.",
)  # fmt: skip
@click.option("--for", "duration_s", type=Seconds(), help="End after this time, for example 1h; else at Ctrl-C.")
@click.option("--part", "part_bytes", type=Size(), default=PART_BYTES, help="A new file after this size: 64MiB.")
@click.option("--most", "total_bytes", type=Size(), help="Drop the oldest files of a flow beyond this size: 10GiB.")
@click.option("--json", "as_json", is_flag=True, help="Print what was recorded as JSON.")
@click.pass_context
def record(
    context: click.Context,
    *,
    files: tuple[Path, ...],
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
    wanted: tuple[tuple[str, str], ...],
    wires: tuple[str, ...],
    folder: Path,
    duration_s: float | None,
    part_bytes: int,
    total_bytes: int | None,
    as_json: bool,
) -> None:
    """Record what crosses the wires of flows that `edgeflex up` or `edgeflex run` have running on this machine.

    FILE is a flow file, or a site file, which stands for all flows that it lists. The flows go on as they are. Their
    processes write the recording: rows with both times, quality and all columns, and messages, compressed, each file
    telling what it is about. `edgeflex replay` and the records of `edgeflex policy preview` read it.

    Exit codes: 0 recorded; 1 a file is wrong; 2 wrong usage; 3 nothing was recorded, since the flows do not run; 4
    rows are lost, which the disk did not take.
    """
    try:
        work = work_to_run(files, find_site(site, files[0]), dict(wanted))
        plans = load_flows(
            work.files,
            context.obj,
            site=work.site,
            params=dict(definitions),
            secrets="optional",
            connections="optional",
        )
    except FlowFileError as error:
        tell_problems(error)
        sys.exit(EXIT_BAD_FILE)
    asked = _asked(plans, tuple(name for text in wires for name in text.split(",") if name))
    folder = folder.resolve()
    before = _sizes(folder)
    try:
        with ExitStack() as stack:
            for each in asked:
                request = RecordingRequest(
                    site=each.plan.site,
                    folder=str(folder),
                    nodes=each.nodes,
                    part_bytes=part_bytes,
                    total_bytes=total_bytes,
                )
                stack.enter_context(asked_to_record(each.plan, request))
            _wait(folder, before, duration_s, quiet=as_json)
    except OSError as error:
        raise click.ClickException(f"{error.filename or folder}: {error.strerror or error}") from error
    _wait_for_end(folder)
    _tell(asked, folder, before, as_json=as_json)


def _asked(plans: Sequence[Plan], wires: tuple[str, ...]) -> list[_Asked]:
    try:
        nodes = nodes_by_flow({plan.name: tuple(recorded_nodes(plan)) for plan in plans}, wires)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--wires") from error
    return [_Asked(plan, nodes[plan.name]) for plan in plans if plan.name in nodes]


def _sizes(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_size for file in folder.glob(f"*{SUFFIX}")} if folder.is_dir() else {}


def _new_sizes(folder: Path, before: dict[Path, int]) -> dict[Path, int]:
    return {file: size for file, size in _sizes(folder).items() if file not in before}


def _wait(folder: Path, before: dict[Path, int], duration_s: float | None, *, quiet: bool) -> None:
    """Until it is over, telling how much there is; no longer than it takes to see that nobody records."""
    over = threading.Event()
    began_s = time.monotonic()
    with signals.heed(lambda _number: over.set()), _progress(quiet=quiet) as tell:
        while not over.wait(LOOK_S):
            found = _new_sizes(folder, before)
            tell(len(found), sum(found.values()))
            gone_s = time.monotonic() - began_s
            if duration_s is not None and gone_s >= duration_s:
                return
            if not found and gone_s >= NOBODY_AFTER_S:
                return


@contextmanager
def _progress(*, quiet: bool) -> Iterator[_Tell]:
    out = console(err=True)
    columns = (TextColumn("recording: {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=quiet or not out.is_terminal) as progress:
        task = progress.add_task("waiting for the flow")

        def tell(files: int, size: int) -> None:
            if files:
                progress.update(task, description=f"{size / 2**20:.2f} MiB in {files} files")

        yield tell


def _wait_for_end(folder: Path) -> None:
    """Until the processes of the flows have written the last of it."""
    size = -1
    for _ in range(12):
        now = sum(_sizes(folder).values())
        if now == size:
            return
        size = now
        time.sleep(1.2)


def _tell(asked: Sequence[_Asked], folder: Path, before: dict[Path, int], *, as_json: bool) -> None:
    found = _new_sizes(folder, before)
    lost = {str(file): count for file in found if (count := lost_rows_of(file))}
    if as_json:
        files = {str(file): size for file, size in found.items()}
        click.echo(json.dumps({"folder": str(folder), "files": files, "lost_rows": lost}))
    elif found:
        files_ = "1 file" if len(found) == 1 else f"{len(found)} files"
        click.echo(f"{sum(found.values()):,} bytes in {files_} in {folder}")
    for name, count in lost.items():
        click.echo(f"{name}: {count:,} rows are lost: the disk did not take them", err=True)
    silent = [each.plan.name for each in asked if not any(file.name.startswith(f"{each.plan.name}-") for file in found)]
    if silent:
        text = f"nothing came of {', '.join(silent)}: does it run on this machine, and does anything cross its wires?"
        click.echo(text, err=True)
    if not found:
        sys.exit(EXIT_NOTHING)
    if lost:
        sys.exit(EXIT_LOST)
