"""`edgeflex replay`: run a flow on what was recorded."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from edgeflex_connectors.recording_table import RecordingError
from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS
from edgeflex_flow import recording
from edgeflex_flow.cli.on_record import OnTime, clock_of, plan_on_record, plan_on_recording, span_of
from edgeflex_flow.cli.places import find_site
from edgeflex_flow.cli.preview_policies import PolicyFileError, read_policy_file
from edgeflex_flow.cli.preview_records import NoRecordError, Span, find_records, of_flow, read_records
from edgeflex_flow.cli.problems import console, show_problems, table_console
from edgeflex_flow.cli.record_options import on_records
from edgeflex_flow.cli.run import EXIT_BAD_FILE, EXIT_FATAL
from edgeflex_flow.clock import PacedClock, RecordedClock
from edgeflex_flow.errors import FatalError, FlowFileError
from edgeflex_flow.flowfile import Plan, load_flow
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.messages import Message, encode_message
from edgeflex_flow.node import OperatorNode, SourceNode, WireMessage
from edgeflex_flow.recording import BadRecordingError
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.lifecycle import stop_on_signals
from edgeflex_flow.runtime.policies import apply_policies
from edgeflex_flow.runtime.recorder import Recorder
from edgeflex_flow.runtime.run import FlowRun

STEPS: Final = 1000
"""Of the progress bar: finer ones cost time and show nothing."""


class Speed(click.ParamType[float]):
    """`max`, `real`, or how many times as fast as it was."""

    name = "max|real|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        words = {"max": math.inf, "real": 1.0}
        try:
            speed = words[value] if value in words else float(str(value).removeprefix("x"))
        except ValueError:
            speed = math.nan
        if not speed > 0.0:
            self.fail(f"expected max, real or a positive number; got '{value}'", param, ctx)
        return speed


class Recorded(NamedTuple):
    """What is given to the sources of a flow."""

    plan: Callable[[OnTime], Plan]
    begin_ns: int
    end_ns: int
    notes: Sequence[str] = ()


@click.command()
@click.argument("flow_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FLOW")
@on_records
@click.option("--speed", type=Speed(), default="max", show_default=True, help="How fast, beside how it was.")
@click.option("--policies", type=click.Path(path_type=Path, dir_okay=False), help="Policies that hold, as a file.")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="Record what nodes give to this folder."
)
@click.option(
    "--lines", type=click.File("wb", lazy=False), help="Write messages of operators as JSON lines; - is the terminal."
)
@click.option("--send", "sends", is_flag=True, help="Let the flow's sinks write and send as if it ran.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
@click.pass_context
def replay(
    context: click.Context,
    *,
    flow_file: Path,
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
    records: tuple[str, ...],
    begin: int | None,
    end: int | None,
    speed: float,
    policies: Path | None,
    folder: Path | None,
    lines: Any,
    sends: bool,
    as_json: bool,
) -> None:
    """Run a flow on what was recorded, on a clock that the recording moves.

    The same recording gives the same results, to the last byte. Sources give what they gave, marked `replayed`;
    nothing is sent or written but with --send. A record is a recording of `edgeflex record`, what `file_write` or a
    store has kept (.jsonl, .npz, .db), a .csv, or a capture (.pcap, .pcapng). One that is given for no certain source
    serves all whose columns it has.

    Exit codes: 0 replayed; 1 a file is wrong, or a source lacks its record; 2 wrong usage; 3 the flow could not go on.
    """
    try:
        needed: Literal["required", "optional"] = "required" if sends else "optional"
        plan = load_flow(
            flow_file,
            context.obj,
            site=find_site(site, flow_file),
            params=dict(definitions),
            secrets=needed,
            connections=needed,
        )
        began_s = time.monotonic()
        recorded = find_recorded(
            plan, records, Span(EARLIEST_NS if begin is None else begin, LATEST_NS if end is None else end), sends=sends
        )
        given = {} if policies is None else read_policy_file(policies).values
        with ExitStack() as stack:
            on_time = stack.enter_context(_progress(recorded, quiet=as_json))
            run = prepared(recorded, on_time, speed)
            apply_policies(run, given, written=True)
            if folder is not None:
                stack.enter_context(Recorder(run, folder, plan.name, at_once=True, revision=digest_of(plan)))
            if lines is not None:
                _write_lines(run, lines)
            stack.enter_context(stop_on_signals(run))
            run_inline(run)
        took_s = time.monotonic() - began_s
    except FlowFileError as error:
        show_problems(error.problems, console(err=True))
        sys.exit(EXIT_BAD_FILE)
    except (NoRecordError, PolicyFileError, RecordingError, BadRecordingError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_BAD_FILE)
    except FatalError as error:
        click.echo(f"error: {error.__cause__ or error}", err=True)
        sys.exit(EXIT_FATAL)
    _tell(run, recorded, took_s, as_json=as_json)


def find_recorded(plan: Plan, texts: Sequence[str], span: Span, *, sends: bool = False) -> Recorded:
    """What is given to the flow's sources. Raises NoRecordError, RecordingError, BadRecordingError, and OSError."""
    files = _recordings(texts, plan)
    if files:
        return _of_wires(plan, files, span, sends=sends)
    found = read_records(plan, find_records(texts, plan), span)
    _, last_ns = span_of(found.by_source)

    def made(on_time: OnTime) -> Plan:
        return plan_on_record(plan, found.by_source, on_time=on_time, sends=sends)

    return Recorded(made, clock_of(found.by_source).now_ns(), last_ns, found.notes)


def _recordings(texts: Sequence[str], plan: Plan) -> list[Path]:
    """The files if all that is given are recordings of wires; of several flows those of this one."""
    files = [file for text in texts for file in recording.recordings_in(Path(text).expanduser())]
    if not files or not all(file.suffix == recording.SUFFIX and file.is_file() for file in files):
        return []
    return of_flow(files, plan)


def _of_wires(plan: Plan, files: Sequence[Path], span: Span, *, sends: bool) -> Recorded:
    sources = [node.id for node in plan.nodes if isinstance(node.node, SourceNode)]
    told = [recording.about(file) for file in files]
    nodes = {name for each in told for name in each.nodes}
    missing = [name for name in sources if name not in nodes]
    if len(missing) == len(sources):
        raise NoRecordError(
            f"{files[0]}: no source of '{plan.name}' is in it: {', '.join(sources)}; it has {', '.join(sorted(nodes))}"
        )
    notes = [f"source '{name}' is not in the recording: it gives nothing" for name in missing]
    found = recording.overview(files, sources)
    first_ns, last_ns = max(found.first_ns, span.begin_ns), min(found.last_ns, span.end_ns)
    if first_ns > last_ns:
        raise NoRecordError(f"{files[0]}: nothing of it is from --begin to --end")
    notes += found.gaps
    if found.policies:
        versions = ", ".join(sorted(found.policies))
        notes.append(f"policies were in force ({versions}): a replay goes by the flow's defaults, or by --policies")
    ordered = [file for parts in recording.runs_in(files) for file in parts]

    def made(on_time: OnTime) -> Plan:
        return plan_on_recording(plan, ordered, span=(span.begin_ns, span.end_ns), on_time=on_time, sends=sends)

    return Recorded(made, first_ns - 1, last_ns, notes)


def prepared(recorded: Recorded, on_time: OnTime, speed: float = math.inf) -> FlowRun:
    """A run on what was recorded that has not begun."""
    clock = RecordedClock(recorded.begin_ns)
    run = FlowRun(recorded.plan(on_time), clock=clock)
    if speed < math.inf:
        run.clock = PacedClock(recorded.begin_ns, speed, run.wait_for_stop)
    return run


def _write_lines(run: FlowRun, lines: Any) -> None:
    def tap(message: WireMessage) -> None:
        if isinstance(message, Message):
            lines.write(encode_message(message) + b"\n")

    for node in run.plan.nodes:
        if isinstance(node.node, OperatorNode):
            run.taps[node.id] = tap


@contextmanager
def _progress(recorded: Recorded, *, quiet: bool) -> Iterator[OnTime]:
    out = console(err=True)
    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TimeRemainingColumn())
    total = max(recorded.end_ns - recorded.begin_ns, 1)
    with Progress(*columns, console=out, transient=True, disable=quiet or not out.is_terminal) as progress:
        task = progress.add_task("", total=total)
        shown_ns = 0

        def on_time(time_ns: int) -> None:
            nonlocal shown_ns
            done_ns = time_ns - recorded.begin_ns
            if done_ns - shown_ns >= total // STEPS:
                shown_ns = done_ns
                progress.update(task, completed=done_ns)

        yield on_time


def _tell(run: FlowRun, recorded: Recorded, took_s: float, *, as_json: bool) -> None:
    summary = run.summary()
    length_s = (recorded.end_ns - recorded.begin_ns) / 1e9
    if as_json:
        told = {"flow": run.plan.name, "site": run.plan.site, "recorded_s": length_s, "took_s": took_s}
        told["whole"] = not run.stopping
        click.echo(json.dumps({**told, "notes": list(recorded.notes), **summary}))
        return
    for note in recorded.notes:
        click.echo(f"note: {note}", err=True)
    out = table_console()
    out.print(_table(run, summary["nodes"]))
    if run.stopping:
        out.print(f"stopped after {took_s:.2f} s: this is not all of the {length_s:,.1f} s")
        return
    out.print(f"{length_s:,.1f} s in {took_s:.2f} s: {length_s / max(took_s, 1e-9):,.0f} times as fast as it was")


def _table(run: FlowRun, nodes: Mapping[str, Mapping[str, int]]) -> Table:
    table = Table("node", "kind", "rows", "messages", "dead letters", title=f"{run.plan.name} on what was recorded")
    for node in run.plan.nodes:
        counts = nodes[node.id]
        shown = [counts.get(name, 0) for name in ("rows_out", "messages_out", "dead_letters")]
        if not isinstance(node.node, SourceNode | OperatorNode):
            shown[:2] = [
                sum(wire.get(name) for (_, reader, _), wire in run.wires.items() if reader == node.id)
                for name in ("rows", "messages")
            ]
        table.add_row(node.id, node.node.kind, *(f"{count:,}" if count else "" for count in shown))
    return table
