"""`edgeflex policy preview`: what a policy would have changed on recorded data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import click
import msgspec
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from edgeflex_connectors.recording_table import RecordingError
from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS
from edgeflex_flow.cli.on_record import OnTime, behind, span_of
from edgeflex_flow.cli.places import find_site
from edgeflex_flow.cli.preview_compare import compare
from edgeflex_flow.cli.preview_policies import (
    Change,
    Given,
    PolicyFileError,
    changed_connections,
    changes,
    policies_of_system,
    read_policy_file,
    unbound,
)
from edgeflex_flow.cli.preview_records import NoRecordError, Records, Span, find_records, read_records
from edgeflex_flow.cli.preview_run import Outcome, prepare, run_through
from edgeflex_flow.cli.preview_show import OPEN_LOOP, Preview, RecordFacts, show
from edgeflex_flow.cli.preview_words import summary, within_a_day
from edgeflex_flow.cli.problems import console, show_problems, table_console
from edgeflex_flow.cli.record_options import on_records
from edgeflex_flow.errors import FatalError, FlowFileError, how_to_install
from edgeflex_flow.flowfile import Plan, load_flow
from edgeflex_flow.messages import Setpoints, ShadowSetpoints
from edgeflex_flow.node import OperatorNode

EXIT_BAD_FILE: Final = 1
EXIT_FATAL: Final = 3
EXIT_DIFFERS: Final = 5
DEFAULTS: Final = "defaults"
DRAWN_AS: Final = (".png", ".svg", ".pdf")


@click.command()
@click.argument("policy", type=click.Path(path_type=Path, dir_okay=False), metavar="POLICY")
@click.option("--flow", "flow_file", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Flow file.")
@on_records
@click.option(
    "--today",
    metavar="FILE|defaults",
    help="The policies in force today. Without it what the site's policy system says now; where the site has none, the "
    "flow's own defaults.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw it: out.png, out.svg or out.pdf."
)
@click.option("--exit-code", "tells", is_flag=True, help=f"End with code {EXIT_DIFFERS} if anything is different.")
@click.pass_context
def preview(
    context: click.Context,
    *,
    policy: Path,
    flow_file: Path,
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
    records: tuple[str, ...],
    begin: int | None,
    end: int | None,
    today: str | None,
    as_json: bool,
    picture: Path | None,
    tells: bool,
) -> None:
    """Show what would have been different with a proposed policy.

    Runs the flow twice on recorded data, with today's policies and with the proposed ones in their place, and compares
    what it tells: events, estimates, set-points, alarms. Nothing is sent or written, and nothing opened but the record;
    the policy system is asked what it says now.

    POLICY is a policy of the policy system as JSON, one as it is written there (its id is the name of the file), or a
    file of policies, {policy: {field: value}}, as `edgeflex run --policies` takes it. A record is what `file_write` or
    a store has kept (.jsonl, .npz, .db), a .csv, or a capture (.pcap, .pcapng). One that is given for no certain
    source serves all whose columns it has.

    Exit codes: 0 shown, whether anything is different or not; 1 a file is wrong, or a source lacks its record; 2 wrong
    usage; 3 the flow could not go on; 5 with --exit-code, when anything is different.
    """
    if picture is not None and picture.suffix.lower() not in DRAWN_AS:
        raise click.BadParameter(f"ends in none of {', '.join(DRAWN_AS)}", param_hint="--picture")
    try:
        proposed = read_policy_file(policy)
        plan = load_flow(flow_file, context.obj, site=find_site(site, flow_file), params=dict(definitions))
        in_force, told = _today(plan, today)
        span = Span(EARLIEST_NS if begin is None else begin, LATEST_NS if end is None else end)
        recorded = read_records(plan, find_records(records, plan), span)
        found, outcomes = _preview(plan, recorded, proposed, in_force, names=(str(policy), told))
        if picture is not None:
            _draw(found, recorded, outcomes, picture)
    except FlowFileError as error:
        show_problems(error.problems, console(err=True))
        sys.exit(EXIT_BAD_FILE)
    except (NoRecordError, PolicyFileError, RecordingError) as error:
        _end(str(error), EXIT_BAD_FILE)
    except FatalError as error:
        _end(str(error), EXIT_FATAL)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        show(found, table_console())
    sys.exit(EXIT_DIFFERS if tells and found.differs else 0)


def _today(plan: Plan, wanted: str | None) -> tuple[Given, str | None]:
    """The policies in force today, and where they were found; None: the flow's own values."""
    if wanted == DEFAULTS or (wanted is None and (plan.policy_system is None or not plan.policy_ids)):
        return Given({}), None
    if wanted is None:
        return policies_of_system(plan), "what the policy system says now"
    return read_policy_file(Path(wanted)), f"the policies in {wanted}"


def _end(text: str, code: int) -> NoReturn:
    for line in text.splitlines():
        click.echo(f"error: {line}", err=True)
    sys.exit(code)


def _preview(
    plan: Plan, recorded: Records, proposed: Given, in_force: Given, *, names: tuple[str, str | None]
) -> tuple[Preview, tuple[Outcome, Outcome]]:
    """Run both and compare."""
    records = recorded.by_source
    first_ns, last_ns = span_of(records)
    with _progress(first_ns, last_ns) as (on_first, on_second):
        before = prepare(plan, records, [in_force.values], on_time=on_first)
        # One after the other, as live: what is refused leaves today's value in force.
        both = {**in_force.values, **proposed.values}
        after = prepare(plan, records, [in_force.values, both], on_time=on_second)
        changed = changes(plan, before, after)
        refused = sorted({each.text for told in after.refusals.values() for each in told.values()})
        reached = behind(plan, {each.node for each in changed})
        outcomes = (run_through(before, samples_of=reached), run_through(after, samples_of=reached))
    comparison = compare(plan, *outcomes, last_ns)
    return (
        Preview(
            flow=plan.name,
            site=plan.site,
            policy=names[0],
            today=names[1],
            record=RecordFacts(first_ns, last_ns, recorded.rows, recorded.messages, recorded.places),
            changes=changed,
            refused=refused,
            unbound=list(unbound(plan, proposed.values)),
            differs=comparison.differs,
            summary=summary(comparison, dated=not within_a_day(first_ns, last_ns)),
            comparison=comparison,
            open_loop=OPEN_LOOP if _has_controllers(plan) else None,
            notes=[
                *proposed.notes,
                *in_force.notes,
                *_without_effect(plan, changed),
                *changed_connections(plan, in_force.values, both),
                *recorded.notes,
                *_unusable(outcomes),
            ],
        ),
        outcomes,
    )


def _has_controllers(plan: Plan) -> bool:
    return any(
        node.wire is not None and not node.wire.messages.isdisjoint({Setpoints, ShadowSetpoints}) for node in plan.nodes
    )


def _without_effect(plan: Plan, changed: Sequence[Change]) -> Iterator[str]:
    """Settings that matter only to what was replaced."""
    operators = {node.id for node in plan.nodes if isinstance(node.node, OperatorNode)}
    for each in changed:
        if each.node not in operators:
            yield f"{each.node}.{each.setting} would be another one, which a record cannot show"


def _unusable(outcomes: tuple[Outcome, Outcome]) -> Iterator[str]:
    """What nodes could not use of the record."""
    for node in outcomes[0].run.plan.nodes:
        counts = [outcome.run.counters[node.id].get("dead_letters") for outcome in outcomes]
        if any(counts):
            yield f"node '{node.id}' could not use {counts[0]:,} messages today, {counts[1]:,} with the proposed policy"


@contextmanager
def _progress(first_ns: int, last_ns: int) -> Iterator[tuple[OnTime, OnTime]]:
    """Bars of both runs, on a terminal."""
    out = console(err=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        total = max(last_ns - first_ns, 1)
        tasks = [progress.add_task(name, total=total) for name in ("with today's policies", "with the proposed policy")]

        def moves(task: TaskID) -> OnTime:
            shown_ns = 0

            def move(time_ns: int) -> None:
                nonlocal shown_ns
                done_ns = time_ns - first_ns
                if done_ns - shown_ns >= total // 100:  # the bar has no finer steps, and each costs time
                    shown_ns = done_ns
                    progress.update(task, completed=done_ns)

            return move

        first, second = map(moves, tasks)
        yield first, second


def _draw(found: Preview, recorded: Records, outcomes: tuple[Outcome, Outcome], file: Path) -> None:
    try:
        # Imported here since it needs the extra `plot`.
        from edgeflex_flow.cli.preview_picture import draw  # noqa: PLC0415
    except ImportError as error:
        raise click.ClickException(f"--picture needs matplotlib: {how_to_install('plot')} ({error})") from error
    try:
        draw(found, recorded.by_source, outcomes, file)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror or error}") from error
