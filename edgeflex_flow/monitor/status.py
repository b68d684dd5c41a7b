"""How a site is, by whatever runs it: what metrics, health and the page for people tell."""

from __future__ import annotations

import os
import time
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from edgeflex_flow import __version__
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.vitals import Vitals, vitals_of

Word: TypeAlias = Literal["starting", "running", "waiting", "moving", "stopped"]
"""`waiting`: it ended or had to be ended, and is started again after a pause; `moving`: to another version."""
WORDS: Final[tuple[Word, ...]] = get_args(Word)
WELL: Final = "running"
"""The word of a flow that runs as it should."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a move to another version of a flow."""

    digest: str
    worked: bool
    why: str
    """Why it did not work; empty if it did."""
    time_ns: int
    """When that was known, UTC nanoseconds since 1970."""


class FlowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One flow."""

    name: str
    file: str
    word: Word
    why: str
    """Why it waits; empty while all is well."""
    since_ns: int
    """Since when the word holds, UTC nanoseconds since 1970."""
    restarts: int
    """How often it was started again since the supervisor started."""
    digest: str
    """The version that runs."""
    moves: tuple[Move, ...]
    """The last ones, oldest first."""
    moves_worked: int = 0
    moves_failed: int = 0
    """Since the supervisor started."""
    pid: int | None
    vitals: Vitals | None
    """The newest; None as long as there are none."""
    refused: str = ""
    """Why the version that the files want does not run; empty if what they want runs."""


class SiteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All flows of a site, in order of start; or the one flow of it that a process runs."""

    site: str
    file: str
    version: str
    """Of edgeflex-flow."""
    started_ns: int
    """When the process that tells began, UTC nanoseconds since 1970."""
    time_ns: int
    turn_age_s: float = 0.0
    """How long ago that process last took a turn; what hangs grows old."""
    problem: str
    """Why the files as they are now are not what runs; empty if they are."""
    flows: tuple[FlowStatus, ...]


def status_of_run(run: FlowRun, word: Word, digest: str, started_ns: int) -> SiteStatus:
    """Of the one flow that this process runs."""
    vitals = vitals_of(run)
    flow = FlowStatus(
        name=run.plan.name,
        file=str(run.plan.file),
        word=word,
        why="",
        since_ns=started_ns,
        restarts=0,
        digest=digest,
        moves=(),
        pid=os.getpid(),
        vitals=vitals,
    )
    return SiteStatus(
        site=run.plan.site,
        file=run.plan.file.name,
        version=__version__,
        started_ns=started_ns,
        time_ns=time.time_ns(),
        turn_age_s=vitals.turn_age_s,
        problem="",
        flows=(flow,),
    )
