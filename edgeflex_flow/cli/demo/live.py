"""The live page of a demo: the same studio as that of a site, beside the one flow of this process."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

from edgeflex_flow.flowfile import Plan
from edgeflex_flow.flowfile.plan import StudioConfig
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.monitor.status import SiteStatus, Word, status_of_run
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.supervisor.board import Board
from edgeflex_flow.supervisor.channel import Answer, Ask, Show, Watch
from edgeflex_flow.supervisor.looks import Looks
from edgeflex_flow.supervisor.studio import StudioKeeper, settings_of
from edgeflex_services.broker import free_tcp_port

HOST = "127.0.0.1"


class _Version(NamedTuple):
    digest: str
    plan: Plan


class _Flow:
    """The flow of the demo, which nobody may operate: there is no file of users."""

    is_held = False

    def __init__(self, run: FlowRun, looks: Looks) -> None:
        self.version = _Version(digest_of(run.plan), run.plan)
        self.process = self
        self._looks = looks
        self._watched: tuple[str, ...] = ()

    def watch(self, nodes: tuple[str, ...]) -> None:
        if nodes != self._watched:
            self._watched = nodes
            self._looks.obey(Watch(nodes))

    def ask(self, ask: Ask) -> bool:
        self._looks.obey(ask)
        return True

    def restart(self, who: str) -> None:
        raise PermissionError(f"nobody operates the demo; got {who}")


class _Site:
    """A site of one flow."""

    def __init__(self, run: FlowRun, flow: _Flow) -> None:
        self.board = Board()
        self.keepers = {run.plan.name: flow}
        self._run = run
        self._digest = flow.version.digest
        self._started_ns = time.time_ns()

    @property
    def status(self) -> SiteStatus:
        run = self._run
        word: Word = "stopped" if run.stopping else "running" if run.started.is_set() else "starting"
        return status_of_run(run, word, self._digest, self._started_ns)

    def hold(self, flow: str, who: str) -> None:
        self.keepers[flow].restart(who)

    release = hold


@contextmanager
def shown_live(run: FlowRun) -> Iterator[str]:
    """Show a run live while the block lasts, from a thread and a process beside it; where. Empty: nothing is installed
    that could."""
    if find_spec("litestar") is None:
        yield ""
        return
    port = free_tcp_port()
    settings = settings_of(StudioConfig(host=HOST, port=port), run.plan)
    loop = asyncio.new_event_loop()

    def tell(told: Show | Answer) -> None:
        loop.call_soon_threadsafe(site.board.heard, run.plan.name, told)

    looks = Looks(tell)
    site = _Site(run, _Flow(run, looks))
    keeper = StudioKeeper(site, lambda: settings, [sys.executable, "-m", "edgeflex_flow.studio", "info", "text"])
    task = loop.create_task(keeper.run())
    thread = threading.Thread(target=_run, args=(loop, task), name="studio")
    with looks.at(run):
        thread.start()
        try:
            yield f"http://{HOST}:{port}"
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
    loop.close()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    asyncio.set_event_loop(loop)
    loop.run_until_complete(asyncio.wait([task]))
