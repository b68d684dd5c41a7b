"""`edgeflex promote`: put an edited flow, which ran beside the running one, in its place."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
import msgspec

from edgeflex_flow.cli.diff import compare, show_differences
from edgeflex_flow.cli.places import find_site
from edgeflex_flow.cli.problems import console, show_problems
from edgeflex_flow.cli.run import EXIT_BAD_FILE
from edgeflex_flow.cli.shadowed import verdict
from edgeflex_flow.cli.shadowed.options import beside_running
from edgeflex_flow.disk import replace_durably
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import Plan, load_flow
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.recording import BadRecordingError, Follower
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.recording_requests import RecordingRequest, asked_to_record

EXIT_REFUSED: Final = 3
EXIT_NOT_SEEN: Final = 4
SEEN_WITHIN_S: Final = 60.0
AFTER_TRIAL_S: Final = 3.0
LOOK_S: Final = 0.5
PART_BYTES: Final = 16 << 20


@click.command()
@beside_running
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is seen to run.")
@click.pass_obj
def promote(
    registry: Registry,
    *,
    new: Path,
    running: Path,
    site: str | None,
    definitions: tuple[tuple[str, str], ...],
    yes: bool,
    no_wait: bool,
) -> None:
    """Put an edited flow in the place of the running one, beside which `edgeflex shadow` ran it.

    Both files must be as they were then. The file that runs gets the content of NEW, and what it said before is kept
    beside it as `.FILE.before`. `edgeflex up` moves over to it, on trial, and back if it fails; then this says so. A
    flow that `edgeflex run` has running goes on as it is until it is started again.

    Exit codes: 0 promoted, and seen to run beyond its trial; 1 a file is wrong; 2 wrong usage; 3 refused: it was not
    shadowed as it is now, or not wanted; 4 promoted, but not seen to run within a minute, or gone back from.
    """
    try:
        told = verdict.read(new, running)
        content = new.read_bytes()
        _refuse_others(told, new, running)
        site_file, params = find_site(site, running), dict(definitions)
        before = plan_in_its_place(registry, running.read_bytes(), running, site_file, params)
        plan = plan_in_its_place(registry, content, running, site_file, params)
    except FlowFileError as error:
        show_problems([msgspec.structs.replace(each, file=str(new)) for each in error.problems], console(err=True))
        sys.exit(EXIT_BAD_FILE)
    except verdict.NoShadowError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_REFUSED)
    except OSError as error:
        click.echo(f"error: {error.filename}: {error.strerror}", err=True)
        sys.exit(EXIT_BAD_FILE)
    show_differences(compare({before.name: before}, {plan.name: plan}))
    click.echo(f"beside the running flow, {verdict.in_words(told)}")
    if not yes and not click.confirm(f"put it in the place of {running}?"):
        sys.exit(EXIT_REFUSED)
    try:
        kept = _put(content, running)
    except OSError as error:
        click.echo(f"error: {error.filename}: {error.strerror}", err=True)
        sys.exit(EXIT_BAD_FILE)
    click.echo(f"{running} is {new} now; what it said before is in {kept}")
    if not no_wait:
        try:
            _tell(plan, _went(plan))
        except (BadRecordingError, OSError) as error:
            click.echo(f"it is in place, and nobody knows whether it runs: {error}", err=True)
            sys.exit(EXIT_NOT_SEEN)


def _tell(plan: Plan, what: str) -> None:
    match what:
        case "runs":
            click.echo(f"'{plan.name}' runs as revision {digest_of(plan)}")
        case "back":
            click.echo("it ran, and what ran before runs again: `edgeflex up` says why in its log", err=True)
            sys.exit(EXIT_NOT_SEEN)
        case _:
            click.echo(
                "not seen to run yet: `edgeflex up` says why in its log; what `edgeflex run` has running goes on as "
                "it is",
                err=True,
            )
            sys.exit(EXIT_NOT_SEEN)


def _refuse_others(told: verdict.Shadowed, new: Path, running: Path) -> None:
    """Raises NoShadowError, OSError."""
    for file, content in ((new, told.new_content), (running, told.running_content)):
        if verdict.content_of(file) != content:
            raise verdict.NoShadowError(f"{file} is not as it was in the shadow: run it again")
    if not told.compared:
        raise verdict.NoShadowError("nothing has been compared yet: let the shadow run until something comes of both")


def plan_in_its_place(
    registry: Registry, content: bytes, running: Path, site: Path | None, params: dict[str, str]
) -> Plan:
    """The plan that a content is as the file that runs. Raises FlowFileError, OSError."""
    with tempfile.NamedTemporaryFile(dir=running.absolute().parent, prefix=".", suffix=".promoted") as file:
        file.write(content)
        file.flush()
        plan = load_flow(
            Path(file.name), registry, site=site, params=params, secrets="optional", connections="optional"
        )
    return replace(plan, file=running)


def _put(content: bytes, running: Path) -> Path:
    """Gives where the content from before is. Raises OSError."""
    mode = running.stat().st_mode & 0o7777
    kept = running.with_name(f".{running.name}.before")
    replace_durably(kept, running.read_bytes())
    kept.chmod(mode)
    replace_durably(running.resolve(), content)
    running.chmod(mode)
    verdict.take_away(running)
    return kept


def _went(plan: Plan) -> str:
    """What becomes of the new version, as recordings of the running flow name it: `runs`, `back`, or `unseen`. Raises
    BadRecordingError, OSError.
    """
    wanted = digest_of(plan)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeflex-promote-")))
        request = RecordingRequest(site=plan.site, folder=str(folder), part_bytes=PART_BYTES, at_once=True)
        stack.enter_context(asked_to_record(plan, request))
        follower = Follower(folder)
        end_s = time.monotonic() + SEEN_WITHIN_S
        seen_s = math.inf
        revision, reached_ns = "", 0
        while time.monotonic() < end_s:
            for turn in follower.turns():
                if turn.reached_ns >= reached_ns:
                    revision, reached_ns = turn.about.revision, turn.reached_ns
            now_s = time.monotonic()
            if revision == wanted:
                seen_s = min(seen_s, now_s)
            elif seen_s < math.inf:
                return "back"
            if now_s >= seen_s + plan.limits.settle + AFTER_TRIAL_S:
                return "runs"
            time.sleep(LOOK_S)
    return "unseen"
