"""`edgeflex run`: run flows until a signal ends them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.table import Table

from edgeflex_flow.cli.places import Definition, find_site
from edgeflex_flow.cli.problems import console, show_problems
from edgeflex_flow.errors import FatalError, FlowFileError
from edgeflex_flow.flowfile import load_flows
from edgeflex_flow.runtime.lifecycle import EXIT_NOT_DRAINED, stop_on_signals
from edgeflex_flow.runtime.policies import policies_from
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.units import parse_quantity

EXIT_BAD_FILE = 1
EXIT_FATAL = 3


class Seconds(click.ParamType[float]):
    """A duration with its unit, `10s`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_quantity(str(value), "s")
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--site", help="Site file, or the name of one in sites/ beside the flow file.")
@click.option("-D", "definitions", type=Definition(), multiple=True, help="Set a parameter: -D pmu_port=4713.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="bytewax workers (threads).")
@click.option(
    "--runtime", type=click.Choice(["bytewax", "inline"]), default="bytewax", show_default=True, help="What runs it."
)
@click.option(
    "--policies",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file of policies, {policy: {field: value}}; followed while the flow runs.",
)
@click.option("--for", "duration_s", type=Seconds(), help="Drain and end after this time, for example 30s.")
@click.option("--stats", "stats_s", type=Seconds(), help="Log all counters with this period, for example 10s.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary at the end as JSON.")
@click.pass_context
def run(
    context: click.Context,
    *,
    files: tuple[Path, ...],
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
    workers: int,
    runtime: str,
    policies: Path | None,
    duration_s: float | None,
    stats_s: float | None,
    as_json: bool,
) -> None:
    """Run flows until SIGTERM or SIGINT, then drain: sources end, the flow empties, sinks flush.

    Several files run as one process each, so that one flow's crash never touches another.

    Exit codes: 0 drained, nothing lost; 1 a file is wrong; 2 wrong usage; 3 the flow could not go on (a port in use, a
    refused password); 4 the drain took too long, or sinks could not bring out all that they held.
    """
    try:
        plan, *others = load_flows(files, context.obj, site=find_site(site, files[0]), params=dict(definitions))
    except FlowFileError as error:
        show_problems(error.problems, console(err=True))
        sys.exit(EXIT_BAD_FILE)
    if others:
        sys.exit(_run_each(context))
    flow_run = FlowRun(plan)
    code = 0

    def show_summary() -> None:
        if as_json:
            click.echo(json.dumps({"flow": plan.name, "site": plan.site, **flow_run.summary()}))
        elif context.parent is not None and context.parent.params["log_format"] == "json":
            flow_run.log.info("summary", extra=flow_run.summary())
        else:
            _show_summary(flow_run)

    with (
        stop_on_signals(flow_run, show_summary),
        policies_from(policies, flow_run),
        _every(stats_s, lambda: _log_stats(flow_run)),
        _after(duration_s, flow_run.stop),
    ):
        try:
            start(flow_run, runtime, workers)
        except FatalError as error:
            click.echo(f"error: flow '{plan.name}': {error}", err=True)
            code = EXIT_FATAL
    show_summary()
    for node, count in flow_run.lost_at_the_end.items():
        much = f" ({count} lost)" if count else ""
        click.echo(f"error: flow '{plan.name}': sink '{node}' could not bring out all it held{much}", err=True)
        code = code or EXIT_NOT_DRAINED
    sys.exit(code)


def start(flow_run: FlowRun, runtime: str, workers: int) -> None:
    """Run on the named runtime until it ends."""
    # Imported here because each costs start-up time that the other does not need.
    if runtime == "inline":
        from edgeflex_flow.runtime.inline import run_inline  # noqa: PLC0415

        run_inline(flow_run)
    else:
        from edgeflex_flow.runtime.bytewax import run_bytewax  # noqa: PLC0415

        run_bytewax(flow_run, workers=workers)


def _child_arguments(context: click.Context) -> list[str]:
    """The options of this command, for a process that runs one file. Built from what was parsed, never from the text of
    the command line.
    """
    options = context.params
    assert context.parent is not None
    before = context.parent.params
    arguments = ["--log-level", before["log_level"], "--log-format", before["log_format"], "run"]
    arguments += ["--workers", str(options["workers"]), "--runtime", options["runtime"]]
    arguments += ["--site", options["site"]] if options["site"] else []
    arguments += ["--policies", str(options["policies"])] if options["policies"] else []
    arguments += ["--json"] if options["as_json"] else []
    for name in ("for", "stats"):
        seconds = options[{"for": "duration_s", "stats": "stats_s"}[name]]
        arguments += [f"--{name}", f"{seconds!r}s"] if seconds is not None else []
    for name, value in options["definitions"]:
        arguments += ["-D", f"{name}={value}"]
    return arguments


def _run_each(context: click.Context) -> int:
    """One process a file, with the same options. Signals are passed on; the worst exit code is given back."""
    command = [sys.executable, "-m", "edgeflex_flow", *_child_arguments(context), "--"]
    children = {file: subprocess.Popen([*command, str(file)]) for file in context.params["files"]}

    def forward(number: int, _frame: FrameType | None) -> None:
        for child in children.values():
            if child.poll() is None:
                child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    codes: list[int] = []
    for file, child in children.items():
        code = child.wait()
        if code < 0:
            click.echo(f"error: the process of '{file}' was killed by {signal.Signals(-code).name}", err=True)
        codes.append(code if code >= 0 else 128 - code)
    return max(codes)


@contextmanager
def _after(duration_s: float | None, call: Callable[[], object]) -> Iterator[None]:
    """Call `call` once after `duration_s`, unless the block ends before."""
    if duration_s is None:
        yield
        return
    timer = threading.Timer(duration_s, call)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _every(period_s: float | None, call: Callable[[], object]) -> Iterator[None]:
    """Call `call` each `period_s` from a thread, until the block ends."""
    if period_s is None:
        yield
        return
    over = threading.Event()

    def loop() -> None:
        while not over.wait(period_s):
            call()

    thread = threading.Thread(target=loop, name="stats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _log_stats(flow_run: FlowRun) -> None:
    for node, counters in flow_run.summary()["nodes"].items():
        text = " ".join(f"{name}={count}" for name, count in counters.items())
        if text:
            flow_run.log.info("%s", text, extra={"node": node})


def _show_summary(flow_run: FlowRun) -> None:
    summary = flow_run.summary()
    table = Table("node", "counter", "count", title=f"{flow_run.plan.name} at {flow_run.plan.site}")
    for node, counters in summary["nodes"].items():
        for index, (name, count) in enumerate(sorted(counters.items())):
            table.add_row(node if index == 0 else "", name, f"{count:,}")
    for wire, counts in summary["wires"].items():
        table.add_row(wire, "messages", f"{counts['messages']:,}")
        table.add_row("", "rows", f"{counts['rows']:,}")
    Console(stderr=True).print(table)
