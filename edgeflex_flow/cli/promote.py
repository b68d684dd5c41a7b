"""`edgeflex promote`: put an edited flow, which ran beside the running one, in its place."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import click

from edgeflex_flow.cli.diff import compare, show_differences
from edgeflex_flow.cli.problems import console, show_problems
from edgeflex_flow.cli.run import EXIT_BAD_FILE
from edgeflex_flow.cli.selection import listed_flows
from edgeflex_flow.cli.shadowed import verdict
from edgeflex_flow.cli.shadowed.in_place import Running, meeting_folder, plan_in_its_place, running_plan
from edgeflex_flow.cli.shadowed.options import beside_running
from edgeflex_flow.disk import replace_durably
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import Plan
from edgeflex_flow.flowfile.outline import outline
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.recording import BadRecordingError, Follower
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.recording_requests import RecordingRequest, asked_to_record

EXIT_REFUSED: Final = 3
EXIT_NOT_SEEN: Final = 4
SEEN_WITHIN_S: Final = 60.0
TAKEN_WITHIN_S: Final = 20.0
"""So long a supervisor may go on with the version before until it is said not to take the new one."""
AFTER_TRIAL_S: Final = 3.0
LOOK_S: Final = 0.5
PART_BYTES: Final = 16 << 20
Went: TypeAlias = Literal["runs", "back", "not taken", "unseen"]


class _Wanted(NamedTuple):
    """An edited flow, and the one in whose place it is to be."""

    new: Path
    running: Running
    before: Plan
    plan: Plan
    told: verdict.Shadowed


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

    Both files, the site and the -D must be as they were then. NEW is checked together with all flows of the site. Then
    the file that runs gets the content of NEW; what it said before is kept beside it as `.FILE.before`. `edgeflex up`
    moves over to it, on trial. If it does not, or goes back, the file gets what it said before again. A flow that
    `edgeflex run` has running goes on as it is until it is started again.

    Exit codes: 0 promoted, and seen to run beyond its trial; 1 a file is wrong; 2 wrong usage; 3 refused: it was not
    shadowed as it is now, or not wanted; 4 not taken, or gone back from, or not seen to run within a minute.
    """
    try:
        wanted = _wanted(registry, new, Running.of(running, site, definitions))
        show_differences(compare({wanted.before.name: wanted.before}, {wanted.plan.name: wanted.plan}))
        click.echo(f"beside the running flow, {verdict.in_words(wanted.told)}")
        if not yes and not click.confirm(f"put it in the place of {running}?"):
            sys.exit(EXIT_REFUSED)
        _refuse_others(wanted.told, new, running)  # meanwhile somebody may have edited one
        kept = _put(new.read_bytes(), running)
    except FlowFileError as error:
        show_problems(error.problems, console(err=True))
        sys.exit(EXIT_BAD_FILE)
    except verdict.NoShadowError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_REFUSED)
    except OSError as error:
        click.echo(f"error: {error.filename or running}: {error.strerror}", err=True)
        sys.exit(EXIT_BAD_FILE)
    click.echo(f"{running} is {new} now; what it said before is in {kept}")
    if not no_wait:
        _tell(wanted, kept)


def _wanted(registry: Registry, new: Path, running: Running) -> _Wanted:
    """Raises NoShadowError, FlowFileError, OSError."""
    told = verdict.read(new, running.file)
    _refuse_others(told, new, running.file)
    before = running_plan(registry, running)
    plan = plan_in_its_place(registry, new, running, _beside(running))
    if told.site != plan.site:
        raise verdict.NoShadowError(f"the shadow was at site '{told.site}', and this is '{plan.site}': give its --site")
    if told.revision != digest_of(plan):
        raise verdict.NoShadowError("the shadow ran with another site file, tables or -D: run it again")
    return _Wanted(new, running, before, plan, told)


def _beside(running: Running) -> Sequence[Path]:
    """The other flow files of the site."""
    if running.site is None:
        return ()
    files = [each.file for each in listed_flows(outline(running.site))]
    return [file for file in files if file.resolve() != running.file.resolve()]


def _refuse_others(told: verdict.Shadowed, new: Path, running: Path) -> None:
    """Raises NoShadowError, OSError."""
    for file, content in ((new, told.new_content), (running, told.running_content)):
        if verdict.content_of(file) != content:
            raise verdict.NoShadowError(f"{file} is not as it was in the shadow: run it again")
    if not told.compared:
        raise verdict.NoShadowError("nothing has been compared yet: let the shadow run until something comes of both")


def _put(content: bytes, running: Path) -> Path:
    """Gives where the content from before is. Raises OSError."""
    kept = running.with_name(f".{running.name}.before")
    replace_durably(kept, running.read_bytes(), like=running)
    replace_durably(running.resolve(), content, like=running)
    verdict.take_away(running)
    return kept


def _tell(wanted: _Wanted, kept: Path) -> None:
    """Wait for what becomes of it, and put the file back if `edgeflex up` does not want it."""
    name = wanted.plan.name
    try:
        went = _went(wanted.plan)
        if went in ("back", "not taken"):
            replace_durably(wanted.running.file.resolve(), kept.read_bytes(), like=wanted.running.file)
    except (BadRecordingError, OSError) as error:
        click.echo(f"it is in place, and nobody knows whether it runs: {error}", err=True)
        sys.exit(EXIT_NOT_SEEN)
    if went == "runs":
        click.echo(f"'{name}' runs as revision {digest_of(wanted.plan)}")
        return
    if went == "unseen":
        text = (
            f"'{name}' is not seen to run yet: what `edgeflex run` has running goes on as it is until it starts again"
        )
    else:
        how = "ran, and what ran before runs again" if went == "back" else "was not taken"
        text = f"it {how}: `edgeflex up` says why in its log; {wanted.running.file} says again what it said before"
    click.echo(text, err=True)
    sys.exit(EXIT_NOT_SEEN)


def _went(plan: Plan) -> Went:
    """What becomes of the new version, as recordings of the running flow name it. Raises BadRecordingError, OSError."""
    wanted = digest_of(plan)
    began_s, seen_s = time.monotonic(), math.inf
    revision, supervised, reached_ns = "", False, 0
    with meeting_folder(plan) as folder:
        request = RecordingRequest(site=plan.site, folder=str(folder), part_bytes=PART_BYTES, at_once=True)
        with asked_to_record(plan, request):
            follower = Follower(folder)
            while (now_s := time.monotonic()) < began_s + SEEN_WITHIN_S:
                for turn in follower.turns():
                    if turn.reached_ns >= reached_ns:
                        revision, supervised = turn.about.revision, turn.about.supervised
                        reached_ns = turn.reached_ns
                if revision == wanted:
                    seen_s = min(seen_s, now_s)
                elif seen_s < math.inf:
                    return "back"
                elif supervised and now_s >= began_s + TAKEN_WITHIN_S + plan.limits.settle:
                    return "not taken"
                if now_s >= seen_s + plan.limits.settle + AFTER_TRIAL_S:
                    return "runs"
                time.sleep(LOOK_S)
    return "unseen"
