"""Processes of flows whose supervisor was killed: a new one lets them end first, or each flow would run twice."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from edgeflex_flow.disk import lock_file
from edgeflex_flow.supervisor.member import END_S

LOCK = "flows.lock"
"""Shared by all processes of flows, each as long as it lives."""
LONGEST_S = END_S + 10.0
LOOK_S = 0.05

log = logging.getLogger("edgeflex.supervisor")


def join(folder: Path) -> None:
    """Be one of the processes of flows until this process ends, however it does."""
    with suppress(OSError):  # a broken disk must not keep a substation dark
        lock_file(folder / LOCK, shared=True)


async def wait_for_orphans(folder: Path, stopping: asyncio.Event) -> None:
    """Wait until no process of a flow is left of a supervisor before this one, or this one is to stop. They drain, and
    end by themselves."""
    until_s = time.monotonic() + LONGEST_S
    told = False
    while not stopping.is_set() and _some_are_left(folder):
        if not told:
            told = True
            log.warning("a supervisor of this site was killed: waits until its flows have ended")
        if time.monotonic() >= until_s:
            log.error("flows of a supervisor that was killed still run after %.0f s: they may run twice now", LONGEST_S)
            return
        await asyncio.sleep(LOOK_S)


def _some_are_left(folder: Path) -> bool:
    try:
        os.close(lock_file(folder / LOCK))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
