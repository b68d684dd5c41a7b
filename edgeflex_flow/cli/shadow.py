"""`edgeflex shadow`: an edited flow beside the one that runs, on the same inputs, with nothing going out."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from edgeflex_flow import signals
from edgeflex_flow.cli.diff import compare, show_differences
from edgeflex_flow.cli.explained.show import when
from edgeflex_flow.cli.preview_run import told_nodes
from edgeflex_flow.cli.problems import console, show_problems, table_console
from edgeflex_flow.cli.run import EXIT_BAD_FILE, Seconds
from edgeflex_flow.cli.shadowed import verdict
from edgeflex_flow.cli.shadowed.compare import Counts, Deviation, Side
from edgeflex_flow.cli.shadowed.in_place import Running, meeting_folder, plan_in_its_place, running_plan
from edgeflex_flow.cli.shadowed.options import beside_running
from edgeflex_flow.cli.shadowed.trial import Trial, settle_s, sources_of
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import Plan
from edgeflex_flow.flowfile.difference import difference
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.recording import BadRecordingError, Follower
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.recording_requests import RecordingRequest, asked_to_record

EXIT_NOTHING: Final = 3
EXIT_DIFFERS: Final = 5
NOBODY_AFTER_S: Final = 15.0
LOOK_S: Final = 0.2
TELL_S: Final = 2.0
"""How often it is written down for `promote` how things stand."""
PART_BYTES: Final = 16 << 20
TOTAL_BYTES: Final = 256 << 20
MOST_SHOWN: Final = 5
"""Deviations of one sort that are shown; all are counted."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a shadow."""

    flow: str
    site: str
    new: str
    running: str
    revision: str
    """Digest of the flow that runs."""
    new_revision: str
    seconds: float
    rows: int
    nodes: dict[str, Counts]
    live: dict[str, Counts]
    """By node, what the running flow itself gave, against what was computed of it here."""
    dead_letters: dict[Side, int]
    would_end: bool
    """Whether the edited flow met something that ends it."""
    changes: tuple[str, ...]
    """What the edit is, as `edgeflex diff` tells it."""
    worst: tuple[Deviation, ...]
    """Of each node and place that deviates, where it does most."""
    notes: tuple[str, ...]
    deviating: int
    compared: int


@click.command()
@beside_running
@click.option("--for", "duration_s", type=Seconds(), help="End after this time, for example 1h; else at Ctrl-C.")
@click.option("--settle", "settling_s", type=Seconds(), help="What deviates before counts not; else as windows need.")
@click.option(
    "--tolerance", type=click.FloatRange(0.0, 0.5), default=1e-9, show_default=True,
    help="Share by which numbers may differ.",
)  # fmt: skip
@click.option(
    "--apart", "apart_s", type=Seconds(), default="1s", show_default=True,
    help="Messages about the same thing belong together when their times are so close.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print deviations and what came of it as JSON, an object a line.")
@click.pass_obj
def shadow(
    registry: Registry,
    *,
    new: Path,
    running: Path,
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
    duration_s: float | None,
    settling_s: float | None,
    tolerance: float,
    apart_s: float,
    as_json: bool,
) -> None:
    """Run an edited flow beside the one that runs, and tell what it would do otherwise, as it happens.

    The process of the running flow (`edgeflex up`, `edgeflex run`) goes on as it is, and writes down what its sources
    give and when its periods are over. NEW gets that, live; none of its sources and sinks is opened: nothing of it goes
    out. What it gives to its sinks is compared with what the running version makes of the same inputs from the same
    moment on; how well that agrees with what the running flow itself gives is told, too. Settings that policies change
    change in both.

    Then `edgeflex promote NEW --beside RUNNING` puts NEW in its place, and `edgeflex discard` ends it.

    Exit codes: 0 nothing deviates; 1 a file is wrong; 2 wrong usage; 3 nothing came of the running flow, or nothing
    could be compared; 5 some deviates.
    """
    beside = Running.of(running, site, definitions)
    if beside.site is not None and new.resolve().parent == running.resolve().parent:
        raise click.UsageError(f"{new} lies beside {running}: the site would find two files of one flow; move it away")
    try:
        before, after = running_plan(registry, beside), plan_in_its_place(registry, new, beside)
    except FlowFileError as error:
        show_problems(error.problems, console(err=True))
        sys.exit(EXIT_BAD_FILE)
    except OSError as error:
        click.echo(f"error: {error.filename}: {error.strerror}", err=True)
        sys.exit(EXIT_BAD_FILE)
    if before.name != after.name:
        raise click.UsageError(f"{new} is flow '{after.name}', and what runs is '{before.name}': they have one name")
    if not as_json:
        show_differences(compare({before.name: before}, {after.name: after}))
    settling_s = settle_s([before, after]) if settling_s is None else settling_s
    trial = Trial(
        before, after, registry, tolerance=tolerance, apart_ns=round(apart_s * 1e9), settle_ns=round(settling_s * 1e9)
    )
    session = _Session(trial, new, before, duration_s, settling_s, as_json=as_json)
    try:
        result = session.run()
    except (BadRecordingError, verdict.NoShadowError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_BAD_FILE)
    if result is None:
        sys.exit(EXIT_NOTHING)
    options = [*([f"--site {site}"] if site else []), *(f"-D {name}={value}" for name, value in definitions)]
    _show(result, " ".join([str(new), "--beside", str(running), *options]), as_json=as_json)
    if not result.compared:
        sys.exit(EXIT_NOTHING)
    sys.exit(EXIT_DIFFERS if result.deviating or result.would_end else 0)


class _Session:
    """One shadow, from its begin to its end."""

    def __init__(
        self, trial: Trial, new: Path, running: Plan, duration_s: float | None, settling_s: float, *, as_json: bool
    ) -> None:
        self._trial = trial
        self._new = new
        self._running = running
        self._duration_s = duration_s
        self._settling_s = settling_s
        self._as_json = as_json
        self._shown: dict[tuple[str, str], int] = {}
        self._worst: dict[tuple[str, str], Deviation] = {}
        self._over = threading.Event()
        self._verdict = verdict.Shadowed(
            new=str(new.absolute()),
            new_content=verdict.content_of(new),
            running_content=verdict.content_of(running.file),
            site=running.site,
            revision=digest_of(trial.new),
            began_ns=time.time_ns(),
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    def run(self) -> Result | None:
        """None: nothing came of the running flow. Raises BadRecordingError, OSError."""
        nodes = tuple(dict.fromkeys([*sources_of(self._running), *told_nodes(self._running)]))
        with ExitStack() as stack:
            folder = stack.enter_context(meeting_folder(self._running))
            request = RecordingRequest(
                site=self._running.site,
                folder=str(folder),
                nodes=nodes,
                part_bytes=PART_BYTES,
                total_bytes=TOTAL_BYTES,
                at_once=True,
            )
            verdict.refuse_twin(self._running.file)
            verdict.write(self._running.file, self._verdict)
            stack.enter_context(asked_to_record(self._running, request))
            stack.enter_context(signals.heed(lambda _number: self._over.set()))
            self._follow(Follower(folder), stack.enter_context(self._progress()))
        if not self._trial.revision:
            text = f"nothing came of '{self._running.name}': does it run on this machine, and does anything come in?"
            click.echo(text, err=True)
            if verdict.is_ours(self._running.file, self._verdict):
                verdict.take_away(self._running.file)
            return None
        self._write(ended=True)
        return self._result()

    def _follow(self, follower: Follower, progress: Progress) -> None:
        heard_s = told_s = time.monotonic()
        task = progress.add_task("waiting for the running flow")
        while not self._over.wait(LOOK_S):
            now_s = time.monotonic()
            for turn in follower.turns():
                self._tell(self._trial.take(turn), progress.console)
                heard_s = now_s
            progress.update(task, description=self._standing())
            if now_s - told_s >= TELL_S:
                told_s = now_s
                if not verdict.is_ours(self._running.file, self._verdict):
                    return  # promoted or discarded
                self._write(ended=False)
            if self._duration_s is not None and self._seconds >= self._duration_s:
                return
            if now_s - heard_s >= NOBODY_AFTER_S:  # a flow at which nothing happens tells so each second
                if self._trial.revision:
                    self._trial.notes["the running flow has said nothing any more: it has ended, or hangs"] = None
                return

    @property
    def _seconds(self) -> float:
        """Since it has settled, on the running flow's clock."""
        return max((self._trial.reached_ns - self._trial.begun_ns) / 1e9 - self._settling_s, 0.0)

    def _standing(self) -> str:
        trial = self._trial
        if not trial.revision:
            return "waiting for the running flow"
        if not trial.settled:
            return f"settling, {self._settling_s:g} s"
        return f"{trial.rows:,} rows; {trial.deviating:,} of {trial.compared:,} deviate"

    def _tell(self, deviations: Sequence[Deviation], out: Console) -> None:
        for each in deviations:
            sort = each.node, each.place if each.what == "differs" else each.what
            if sort not in self._worst or each.size > self._worst[sort].size:
                self._worst[sort] = each
            if self._as_json:
                click.echo(msgspec.json.encode(each))
                continue
            shown = self._shown[sort] = self._shown.get(sort, 0) + 1
            if shown <= MOST_SHOWN:
                out.print(_line(each))
            elif shown == MOST_SHOWN + 1:
                out.print(Text(f"  more of {each.node}, {sort[1]}, are counted only", "dim"))

    def _write(self, *, ended: bool) -> None:
        if ended and not verdict.is_ours(self._running.file, self._verdict):
            return
        trial = self._trial
        self._verdict = msgspec.structs.replace(
            self._verdict,
            seconds=self._seconds,
            compared=trial.compared,
            deviating=trial.deviating,
            agrees=trial.agrees,
            ended=ended,
        )
        verdict.write(self._running.file, self._verdict)

    def _progress(self) -> Progress:
        out = console(err=True)
        columns = (TextColumn("{task.description}"), TimeElapsedColumn())
        return Progress(*columns, console=out, transient=True, disable=self._as_json or not out.is_terminal)

    def _result(self) -> Result:
        trial, running = self._trial, self._running
        notes = list(trial.notes)
        if trial.revision != digest_of(running):
            notes.append("what runs is not what the file says: it is another version, or was started with other -D")
        if trial.agrees is not None and trial.agrees < 1.0:
            notes.append(
                "the running flow gave other things than what is computed of it here: it has a past that this lacks, "
                "such as an integral; what deviates comes of the edit all the same"
            )
        if not trial.settled:
            notes.append(f"it ended before all had settled, which takes {self._settling_s:g} s: nothing was compared")
        return Result(
            flow=running.name,
            site=running.site,
            new=str(self._new),
            running=str(running.file),
            revision=trial.revision,
            new_revision=digest_of(trial.new),
            seconds=self._seconds,
            rows=trial.rows,
            nodes=trial.counts,
            live=trial.live_counts,
            dead_letters=trial.dead_letters,
            would_end=trial.would_end,
            changes=tuple(change.text for change in difference(running, trial.new)),
            worst=tuple(self._worst.values()),
            notes=tuple(notes),
            deviating=trial.deviating,
            compared=trial.compared,
        )


def _line(each: Deviation) -> Text:
    if each.what == "differs":
        words = f"{each.place}: {each.running} → {each.new}" if each.running else f"{each.place} {each.new}"
    else:
        words = f"{each.what} {each.running or each.new}".rstrip()
    words += f" (the most of {each.rows} rows)" if each.rows > 1 else ""
    style = {"differs": "yellow", "only running": "red", "only new": "green"}[each.what]
    return Text.assemble((f"{when(each.time_ns)} ", "dim"), f"{each.node}: {each.about}: ", (words, style))


def _show(result: Result, arguments: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    out = table_console()
    title = (
        f"{result.flow}: what {Path(result.new).name} would do otherwise, {result.seconds:.0f} s, {result.rows:,} rows"
    )
    table = Table("node", "alike", "differs", "only running", "only new", "live as computed", title=title)
    for node, counts in result.nodes.items():
        live = result.live.get(node)
        shown = f"{live.alike:,} of {live.compared:,}" if live is not None else ""
        cells = [f"{count:,}" for count in (counts.alike, counts.differs, counts.only_running, counts.only_new)]
        table.add_row(node, *cells, shown, style="yellow" if counts.deviating else None)
    out.print(table)
    if result.worst:
        out.print(Text("where it deviates most", "bold"))
    for each in result.worst:
        out.print(_line(each))
    if any(result.dead_letters.values()):
        out.print("dead letters: " + ", ".join(f"{side} {count:,}" for side, count in result.dead_letters.items()))
    for note in result.notes:
        out.print(Text(f"note: {note}", "yellow"))
    if result.compared and not result.deviating:
        out.print(Text(f"✓ nothing of {result.compared:,} deviates", "green"))
    click.echo(f"next: edgeflex promote {arguments}")
    click.echo(f"or:   edgeflex discard {arguments}")
