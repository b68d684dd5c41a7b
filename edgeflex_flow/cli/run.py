"""`edgeflex run`: run flows until a signal ends them."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple, NoReturn

import click
from rich.console import Console
from rich.table import Table

from edgeflex_flow.cli import monitored
from edgeflex_flow.cli.logs import logs_are_json, tell
from edgeflex_flow.cli.places import Definition, find_site
from edgeflex_flow.cli.problems import console, show_problems
from edgeflex_flow.cli.run_each import Family
from edgeflex_flow.cli.selection import work_to_run
from edgeflex_flow.errors import FatalError, FlowFileError
from edgeflex_flow.flowfile import Plan, load_flows
from edgeflex_flow.flowfile.cluster import PROCESS_VARIABLE, ClusterConfig, load_cluster, process_number
from edgeflex_flow.flowfile.plan import MonitorConfig
from edgeflex_flow.runtime.every import every
from edgeflex_flow.runtime.lifecycle import EXIT_NOT_DRAINED, stop_on_signals
from edgeflex_flow.runtime.policies import policies_from
from edgeflex_flow.runtime.policy_loader import policies_of_site
from edgeflex_flow.runtime.recording_requests import recordings_on_request
from edgeflex_flow.runtime.recovery import keep_state
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
@click.option("--select", "wanted", type=Definition(), multiple=True, help="Only flows with this label: region=north.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="bytewax workers (threads).")
@click.option(
    "--runtime", type=click.Choice(["bytewax", "inline"]), default="bytewax", show_default=True, help="What runs it."
)
@click.option(
    "--policies",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file of policies, {policy: {field: value}}; followed in place of the policy system.",
)
@click.option(
    "--cluster",
    "cluster_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Cluster file: run as one of several processes that share the devices of one flow.",
)
@click.option(
    "--process",
    type=click.IntRange(0),
    help=f"Which process of the cluster this is; else {PROCESS_VARIABLE}, else the number in the host's name.",
)
@click.option("--for", "duration_s", type=Seconds(), help="Drain and end after this time, for example 30s.")
@click.option("--stats", "stats_s", type=Seconds(), help="Log all counters with this period, for example 10s.")
@monitored.option
@click.option("--json", "as_json", is_flag=True, help="Print the summary at the end as JSON.")
@click.pass_context
def run(
    context: click.Context,
    *,
    files: tuple[Path, ...],
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
    wanted: tuple[tuple[str, str], ...],
    workers: int,
    runtime: str,
    policies: Path | None,
    cluster_file: Path | None,
    process: int | None,
    duration_s: float | None,
    stats_s: float | None,
    monitor: MonitorConfig | None,
    as_json: bool,
) -> None:
    """Run flows until SIGTERM, SIGINT or SIGHUP, then drain: sources end, the flow empties, sinks flush.

    FILE is a flow file, or a site file, which stands for all flows that it lists. Of several site files --select
    chooses one by its labels, so that one repository serves many places.

    Several files run as one process each, so that one flow's crash never touches another: it is logged at once, and
    the others go on. All end when this process does.

    With --cluster one flow runs over several processes, each started by this command with its own --process, on one
    host or on several. Process 0 has the sources, the sinks and the state. All end when one is asked to, and all end
    with exit code 3 when one dies.

    Exit codes: 0 drained, nothing lost; 1 a file is wrong; 2 wrong usage; 3 the flow could not go on (a port in use, a
    refused password); 4 the drain took too long, or sinks could not bring out all that they held; of several flows the
    highest, where 128 + N stands for one killed by signal N.
    """
    if cluster_file is not None and (workers > 1 or runtime == "inline"):
        raise click.UsageError(
            "--cluster runs on bytewax with the workers of its file: leave out --workers and --runtime"
        )
    if process is not None and cluster_file is None:
        raise click.UsageError("--process is of a cluster: give its file with --cluster")
    try:
        work = work_to_run(files, find_site(site, files[0]), dict(wanted))
        site_file = work.site
        plans = load_flows(work.files, context.obj, site=site_file, params=dict(definitions))
        part = None if cluster_file is None else _part_of(cluster_file, process)
    except FlowFileError as error:
        tell_problems(error)
        if as_json:
            _print_summary(None, EXIT_BAD_FILE, str(error))
        sys.exit(EXIT_BAD_FILE)
    plan, *others = plans
    if others and part is not None:
        raise click.UsageError(f"a cluster runs one flow; got {len(plans)}: {', '.join(each.name for each in plans)}")
    if others and monitor is not None:
        raise click.UsageError(f"--monitor tells of one flow, and {len(plans)} would run: `edgeflex up` tells of many")
    if others:
        family = Family(
            lambda plan: _child_arguments(context, plan, site_file),
            lambda plan, code, text: _print_summary(plan, code, text) if as_json else None,
        )
        sys.exit(family.run(plans))
    flow_run = FlowRun(plan)
    if part is None or part.process == 0:
        keep_state(flow_run)
    with (
        stop_on_signals(
            flow_run, lambda: _show_summary(flow_run, EXIT_NOT_DRAINED, "the drain took too long", as_json)
        ),
        every(stats_s, lambda: _log_stats(flow_run), "stats") if stats_s is not None else nullcontext(),
        _after(duration_s, flow_run.stop),
    ):
        errors = errors_of(flow_run, runtime, workers, policies, monitor, part)
    code = next(iter(errors.values()), 0)  # what ended the run stands first, what was lost by it after
    _show_summary(flow_run, code, "; ".join(errors) or None, as_json)
    for text in errors:
        tell(logging.ERROR, text, plan.name, exit_code=code)
    if flow_run.cluster.is_broken:
        _leave(code)
    sys.exit(code)


class _Part(NamedTuple):
    """The process of a cluster that this is."""

    cluster: ClusterConfig
    process: int


def _part_of(file: Path, process: int | None) -> _Part:
    """Raises FlowFileError, and BadParameter when nothing says which process this is."""
    cluster = load_cluster(file)
    try:
        return _Part(cluster, process_number(cluster, process, os.environ, socket.gethostname()))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--process") from error


def _leave(code: int) -> NoReturn:
    """End at once: threads of a dataflow that lost another process may wait for it forever."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def errors_of(
    flow_run: FlowRun,
    runtime: str,
    workers: int,
    policies: Path | None,
    monitor: MonitorConfig | None = None,
    part: _Part | None = None,
) -> dict[str, int]:
    """Run to the end; what went wrong, with its exit code."""
    errors: dict[str, int] = {}
    try:
        with (
            monitored.flow_monitored(flow_run, monitor),
            _policies(flow_run, policies, part),
            recordings_on_request(flow_run) if part is None or part.process == 0 else nullcontext(),
        ):
            if part is not None:
                flow_run.is_shared = True
                _start_in_cluster(flow_run, part)
            else:
                start(flow_run, runtime, workers)
    except FatalError as error:
        errors[str(error)] = EXIT_FATAL
    for node, count in flow_run.lost_at_the_end.items():
        much = f" ({count} lost)" if count else ""
        errors[f"sink '{node}' could not bring out all it held{much}"] = EXIT_NOT_DRAINED
    return errors


def _policies(flow_run: FlowRun, policies: Path | None, part: _Part | None) -> AbstractContextManager[object]:
    """What has the run follow policies."""
    if part is not None and part.process > 0:
        return nullcontext()  # process 0 tells what they change
    # A file is for a trial, or for the day on which the policy system is wrong: it alone holds then.
    return policies_of_site(flow_run) if policies is None else policies_from(policies, flow_run)


def tell_problems(error: FlowFileError) -> None:
    if not logs_are_json():
        show_problems(error.problems, console(err=True))
        return
    for problem in error.problems:
        tell(logging.ERROR, str(problem), exit_code=EXIT_BAD_FILE)


def start(flow_run: FlowRun, runtime: str, workers: int) -> None:
    """Run on the named runtime until it ends."""
    # Imported here because each costs start-up time that the other does not need.
    if runtime == "inline":
        from edgeflex_flow.runtime.inline import run_inline  # noqa: PLC0415

        run_inline(flow_run)
    else:
        from edgeflex_flow.runtime.bytewax import run_bytewax  # noqa: PLC0415

        run_bytewax(flow_run, workers=workers)


def _start_in_cluster(flow_run: FlowRun, part: _Part) -> None:
    from edgeflex_flow.runtime.bytewax import run_in_cluster  # noqa: PLC0415 - as in `start`

    run_in_cluster(flow_run, part.cluster, part.process)


def _child_arguments(context: click.Context, plan: Plan, site: Path | None) -> list[str]:
    """The arguments for a process that runs one of the files. Built from what was parsed, never from the text of the
    command line. The files were checked together: of the definitions it gets those that its file or its site declares.
    """
    options = context.params
    assert context.parent is not None
    before = context.parent.params
    arguments = ["--log-level", before["log_level"], "--log-format", before["log_format"], "run"]
    arguments += ["--workers", str(options["workers"]), "--runtime", options["runtime"]]
    arguments += ["--site", str(site)] if site else []
    arguments += ["--policies", str(options["policies"])] if options["policies"] else []
    arguments += ["--json"] if options["as_json"] else []
    for name in ("for", "stats"):
        seconds = options[{"for": "duration_s", "stats": "stats_s"}[name]]
        arguments += [f"--{name}", f"{seconds!r}s"] if seconds is not None else []
    for name, value in options["definitions"]:
        arguments += ["-D", f"{name}={value}"] if name in plan.params else []
    return [*arguments, "--", str(plan.file)]


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


def _log_stats(flow_run: FlowRun) -> None:
    for node, counters in flow_run.summary()["nodes"].items():
        text = " ".join(f"{name}={count}" for name, count in counters.items())
        if text:
            flow_run.log.info("%s", text, extra={"node": node})


def _print_summary(plan: Plan | None, code: int, error: str | None, counts: Mapping[str, object] | None = None) -> None:
    """The summary as one line of JSON: the same keys however the run ended."""
    name, site = (plan.name, plan.site) if plan else (None, None)
    counts = counts or {"nodes": {}, "wires": {}}
    click.echo(json.dumps({"flow": name, "site": site, **counts, "exit_code": code, "error": error}))


def _show_summary(flow_run: FlowRun, code: int, error: str | None, as_json: bool) -> None:
    """What the run counted. Of one that never began nothing is shown but the JSON that was asked for."""
    if as_json:
        _print_summary(flow_run.plan, code, error, flow_run.summary())
    elif not flow_run.started.is_set():
        return
    elif logs_are_json():
        flow_run.log.info("summary", extra=flow_run.summary())
    else:
        _print_table(flow_run)


def _print_table(flow_run: FlowRun) -> None:
    summary = flow_run.summary()
    table = Table("node", "counter", "count", title=f"{flow_run.plan.name} at {flow_run.plan.site}")
    for node, counters in summary["nodes"].items():
        for index, (name, count) in enumerate(sorted(counters.items())):
            table.add_row(node if index == 0 else "", name, f"{count:,}")
    for wire, counts in summary["wires"].items():
        table.add_row(wire, "messages", f"{counts['messages']:,}")
        table.add_row("", "rows", f"{counts['rows']:,}")
    Console(stderr=True).print(table)
