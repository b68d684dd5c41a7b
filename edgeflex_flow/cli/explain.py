"""`edgeflex explain`: where an event, an estimate, a set-point or any other message comes from."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import msgspec
import numpy as np
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from edgeflex_connectors.recording_table import RecordingError
from edgeflex_flow.cli.explained.again import again
from edgeflex_flow.cli.explained.behind import (
    devices_of,
    messages_behind,
    nodes_behind,
    samples_behind,
    span_of,
    told_of,
)
from edgeflex_flow.cli.explained.evidence import (
    Found,
    NothingFoundError,
    OnPlace,
    Run,
    find,
    is_computed,
    listed,
    recorded_runs,
)
from edgeflex_flow.cli.explained.identity import identity_of, type_of
from edgeflex_flow.cli.explained.kept import KeptRun
from edgeflex_flow.cli.explained.show import Explanation, show, show_list
from edgeflex_flow.cli.places import Definition, find_site
from edgeflex_flow.cli.preview_records import STORE, NoRecordError
from edgeflex_flow.cli.problems import console, show_problems
from edgeflex_flow.cli.run import EXIT_BAD_FILE, Seconds
from edgeflex_flow.errors import FlowFileError, how_to_install
from edgeflex_flow.flowfile import Plan, load_flow
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.messages import BUILT_IN_MESSAGES, EventWindow, Samples, encode_message
from edgeflex_flow.recording import SUFFIX, BadRecordingError
from edgeflex_flow.registry import Registry

EXIT_NOT_FOUND: Final = 3
EXIT_DIFFERS: Final = 5
_KNOWN_TYPES: Final = {*(each.__struct_config__.tag for each in BUILT_IN_MESSAGES), EventWindow.__struct_config__.tag}


@click.command()
@click.argument("wanted", required=False, metavar="[ID]")
@click.option(
    "--record", "places", multiple=True, default=["recording"], show_default=True,
    help="Recording, or folder with recordings, that `edgeflex record` made; with --flow also store:NAME or its file.",
)  # fmt: skip
@click.option("--replay", is_flag=True, help="Compute it again, and say whether it is the same.")
@click.option("--which", type=click.IntRange(1), default=1, help="Of several that are called so, the first, second, …")
@click.option("--node", "node", help="Without ID: only what this node gave.")
@click.option("--type", "kind", help="Without ID: only messages of this type, such as frequency_event.")
@click.option("--last", type=click.IntRange(1), default=20, show_default=True, help="Without ID: how many to list.")
@click.option(
    "--flow",
    "flow_file",
    type=click.Path(path_type=Path, exists=True),
    help="The flow file; for recordings not needed: they say what ran.",
)
@click.option("--site", help="Site file of --flow, or the name of one in sites/ beside it.")
@click.option("-D", "definitions", type=Definition(), multiple=True, help="Set a parameter of --flow.")
@click.option(
    "--back", "back_s", type=Seconds(), default="10min", show_default=True,
    help="Of stores: how long before it samples are looked at.",
)  # fmt: skip
@click.option("--samples", "table", type=click.Path(path_type=Path, dir_okay=False), help="Write the samples: out.csv.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw the samples: out.png, out.svg.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_obj
def explain(
    registry: Registry,
    *,
    wanted: str | None,
    places: tuple[str, ...],
    replay: bool,
    which: int,
    node: str | None,
    kind: str | None,
    last: int,
    flow_file: Path | None,
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
    back_s: float,
    table: Path | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Tell what is behind a message that a flow gave: samples, policies, settings, versions.

    ID is the `id` of an event; EVENT/DEVICE of an estimate; WHO@TIME of all else, with the time in UTC nanoseconds and,
    of set-points, /QUANTITY. Without ID the newest messages are listed. Recordings tell all of it, also the settings
    and the versions that were in force. A store, or a file with what a flow gave, has messages and samples alone: with
    --flow they do as well, as far as the flow file is the one that ran.

    With --replay the message is computed again from all since the recording began; then from the samples behind it
    alone, or from more where those do not suffice.

    Exit codes: 0 told, and with --replay the same; 1 a file is wrong; 2 wrong usage; 3 nothing is called so; 5 with
    --replay, when something else, or nothing, comes of it.
    """
    try:
        with _progress(quiet=as_json) as told:
            plan = None if flow_file is None else _plan(registry, flow_file, site, dict(definitions))
            runs = _runs(places, plan, back_s)
            if wanted is None:
                chosen_ones = [
                    (name, each)
                    for name, each in listed(runs, told)
                    if node in (None, each.given.node) and kind in (None, type_of(each.message))
                ]
                _list(chosen_ones, last, as_json=as_json)
                return
            found = find(runs, wanted, told)
            if which > len(found):
                raise click.BadParameter(f"{len(found)} are called '{wanted}'", param_hint="--which")
            chosen = found[which - 1]
            revision_now = "" if plan is None else digest_of(plan)
            explanation, samples = _explained(registry, chosen, revision_now, replays=replay)
    except FlowFileError as error:
        show_problems(error.problems, console(err=True))
        sys.exit(EXIT_BAD_FILE)
    except NothingFoundError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_NOT_FOUND)
    except (BadRecordingError, RecordingError, NoRecordError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_BAD_FILE)
    if table is not None:
        write_table(samples, table)
    if picture is not None:
        _draw(explanation, samples, picture)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(explanation), indent=2).decode())
    else:
        show(explanation)
        if len(found) > 1:
            click.echo(f"{len(found)} are called so: --which 1 to {len(found)}", err=True)
    sys.exit(0 if explanation.again is None or explanation.again.same else EXIT_DIFFERS)


def _explained(
    registry: Registry, found: Found, revision_now: str, *, replays: bool
) -> tuple[Explanation, dict[str, Samples]]:
    about, given = found.run.about, found.given
    plan = found.run.plan(registry, given)
    computed = is_computed(plan, given.node)
    span, devices = (span_of(found, plan), devices_of(found, plan)) if computed else (None, ())
    samples = samples_behind(found, plan, span, devices) if computed else {}
    explanation = Explanation(
        id=identity_of(found.message),
        type=type_of(found.message),
        node=given.node,
        given_ns=given.at_ns,
        message=msgspec.Raw(encode_message(found.message)),
        flow=about.flow,
        site=about.site,
        revision=about.revision,
        revision_now=revision_now,
        version=about.version,
        places=found.run.places,
        computed=computed,
        nodes=tuple(nodes_behind(found, plan)) if computed else (),
        devices=tuple(devices),
        samples=tuple(told_of(samples)),
        window_known=span is not None,
        messages=tuple(messages_behind(found, plan)) if computed else (),
        notes=tuple(_notes(found)),
        again=again(found, plan, span, devices) if replays else None,
    )
    return explanation, samples


def _notes(found: Found) -> Iterator[str]:
    yield from found.run.gaps()
    if found.run.about.shared:
        yield "the flow worked in several processes: what its operators gave is not in the recording"
    if not found.run.is_whole:
        yield "settings, periods and versions are those of the flow file now: a store does not keep them"
    unknown = {name for node in found.run.about.nodes.values() for name in node.messages} - _KNOWN_TYPES
    if unknown:
        yield f"messages of types that are not known here are left out: {', '.join(sorted(unknown))}"


def _plan(registry: Registry, file: Path, site: str | None, params: dict[str, str]) -> Plan:
    return load_flow(
        file, registry, site=find_site(site, file), params=params, secrets="optional", connections="optional"
    )


def _runs(places: Sequence[str], plan: Plan | None, back_s: float) -> list[Run]:
    """Raises NothingFoundError, BadRecordingError, OSError."""
    kept = [place for place in places if not _is_recording(place)]
    recorded = [Path(place).expanduser() for place in places if place not in kept]
    missing = [place for place in recorded if not place.exists()]
    if missing:
        raise NothingFoundError(f"there is no {missing[0]}: `edgeflex record` makes recordings, --record names them")
    if kept and plan is None:
        raise NothingFoundError(f"{kept[0]} is no recording: --flow FILE says which flow's it is")
    found: list[Run] = [*recorded_runs(recorded)] if recorded else []
    if plan is not None and kept:
        found.append(KeptRun(plan, kept, back_s))
    return found


def _is_recording(place: str) -> bool:
    file = Path(place).expanduser()
    return not place.startswith(STORE) and (file.is_dir() or file.suffix == SUFFIX or not file.exists())


def _list(found: list[tuple[str, Found]], most: int, *, as_json: bool) -> None:
    if not as_json:
        show_list(found, most)
        return
    told = [
        {
            "id": name,
            "type": type_of(each.message),
            "node": each.given.node,
            "at_ns": each.given.at_ns,
        }
        for name, each in found[-most:]
    ]
    click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())


@contextmanager
def _progress(*, quiet: bool) -> Iterator[OnPlace]:
    shown = console(err=True)
    columns = (TextColumn("reading {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=shown, transient=True, disable=quiet or not shown.is_terminal) as progress:
        task = progress.add_task("")
        yield lambda place: progress.update(task, description=place)


def write_table(samples: dict[str, Samples], file: Path) -> None:
    """As CSV that `edgeflex replay` reads; of several sources a file each, named after it."""
    for source, each in samples.items():
        own = file if len(samples) == 1 else file.with_name(f"{file.stem}-{source}{file.suffix}")
        names = list(each.columns)
        rows = zip(each.time_ns, each.device, each.quality, *each.columns.values(), strict=True)
        with own.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["time_ns", "device", "quality", *names])
            for time_ns, device, quality, *values in rows:
                shown = ["" if np.isnan(value) else repr(float(value)) for value in values]
                writer.writerow([int(time_ns), each.devices[device], int(quality), *shown])


def _draw(explanation: Explanation, samples: dict[str, Samples], file: Path) -> None:
    try:
        # Imported here since it needs the extra `plot`.
        from edgeflex_flow.cli.explained.picture import draw  # noqa: PLC0415
    except ImportError as error:
        raise click.ClickException(f"--picture needs matplotlib: {how_to_install('plot')} ({error})") from error
    draw(explanation, samples, file)
