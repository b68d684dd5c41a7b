"""All flows of a site: each in a process of its own, watched, and moved over when its files change."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import edgeflex_flow
from edgeflex_flow.disk import lock_file
from edgeflex_flow.errors import FatalError, FlowFileError
from edgeflex_flow.flowfile.plan import MonitorConfig
from edgeflex_flow.monitor.status import SiteStatus
from edgeflex_flow.supervisor.aside import aside
from edgeflex_flow.supervisor.board import Board
from edgeflex_flow.supervisor.held import HeldFlows
from edgeflex_flow.supervisor.keeper import Keeper, Version
from edgeflex_flow.supervisor.nursery import Nursery
from edgeflex_flow.supervisor.orphans import wait_for_orphans
from edgeflex_flow.supervisor.systemd import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOK_S = 1.0
LOCK = "supervisor.lock"
HELD = "held.json"
START_WAIT_S = 30.0
"""How long all flows together wait for those before them to run: a broker that is away must not hold up the rest."""
START_LOOK_S = 0.02
PROVE_AGAIN_S = 60.0

T = TypeVar("T")

log = logging.getLogger("edgeflex.supervisor")


class SiteFiles(Protocol):
    """The files of a site."""

    @property
    def name(self) -> str:
        """Of the site."""
        ...

    @property
    def file(self) -> Path: ...

    def load(self) -> Mapping[str, Version]:
        """The flows that are to run, in order of start, as their files say now. Raises FlowFileError."""
        ...

    def load_proven(self) -> Mapping[str, Version]:
        """The same as they last ran well, empty if they never did."""
        ...

    def prove(self, version: Version) -> bool:
        """Keep a version as one that has run well; whether that went well. One at a time, any thread."""
        ...

    def stamps(self) -> object:
        """Other than `seen` whenever a file is that `load` reads. Any thread."""
        ...

    @property
    def seen(self) -> object:
        """What `stamps` would have given when `load` read the files last. Known, and not looked up."""
        ...


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One supervisor for a site. Raises FatalError when another is there."""
    descriptor: int | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = lock_file(folder / LOCK)
    except BlockingIOError:
        raise FatalError(f"another supervisor runs this site: it holds '{folder / LOCK}'") from None
    except OSError as error:  # a broken disk must not keep a substation dark
        text = "'%s' cannot be used (%s): another supervisor of this site, or flows of one, will not be noticed"
        log.error(text, folder, error.strerror or error)  # noqa: TRY400
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


class SupervisedSite:
    """The flows of a site."""

    def __init__(self, files: SiteFiles, make_nursery: Callable[[Iterable[str]], Nursery], folder: Path) -> None:
        """`make_nursery`: makes what processes come from, with the kernels of these modules; `folder`: where it keeps
        what is its own."""
        self._files = files
        self._folder = folder
        self._held = HeldFlows(folder / HELD)
        self._make_nursery = make_nursery
        self._notifier = Notifier()
        self._started_ns = time.time_ns()
        self.keepers: dict[str, Keeper] = {}
        self.problem = ""
        """Why the files as they are now are not what runs."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._proving: set[asyncio.Task[None]] = set()
        self._one_proof = asyncio.Lock()
        self.board = Board()

    def stop(self) -> None:
        self._stopping.set()

    @property
    def status(self) -> SiteStatus:
        """Any thread."""
        return SiteStatus(
            site=self._files.name,
            file=str(self._files.file),
            version=edgeflex_flow.__version__,
            started_ns=self._started_ns,
            time_ns=time.time_ns(),
            problem=self.problem,
            flows=tuple(keeper.status for keeper in list(self.keepers.values())),
        )

    def load(self) -> Mapping[str, Version]:
        """What is to run at first. Raises FlowFileError when the files are wrong, and no flow has ever run.

        After a power failure, wrong files must not keep a substation dark: it goes on with what ran before.
        """
        try:
            return self._files.load()
        except Exception as error:
            proven = self._files.load_proven()
            if not proven:
                raise
            self._tell_wrong(error, "the files are wrong; what ran well last is started")
            return proven

    async def run(self, versions: Mapping[str, Version]) -> None:
        """What was loaded, and what the files say later, until `stop`."""
        self._nursery = self._make_nursery(_modules(versions))
        self._monitor = _monitor(versions)
        notifying = asyncio.create_task(self._notify())
        try:
            await wait_for_orphans(self._folder, self._stopping)
            await self._start(versions)
            self._notifier.ready()
            await self._follow_files()
        finally:
            self._notifier.stopping()
            log.info("all %d flows drain and end", len(self.keepers))
            await self._end(self.keepers)
            await self._held.end()
            for task in (notifying, *self._proving):
                task.cancel()
            self._notifier.close()

    async def _notify(self) -> None:
        """That this goes on shows that the loop does, on which all depends."""
        while True:
            running = sum(keeper.word == "running" for keeper in self.keepers.values())
            self._notifier.alive(f"{running} of {len(self.keepers)} flows run")
            await asyncio.sleep(LOOK_S)

    async def _follow_files(self) -> None:
        """Follow changes, once the files have stood for a moment: an editor may not have written them all."""
        before: object = None
        while not self._stopping.is_set():
            await self._wait(LOOK_S)
            now = await self._unless_stopped(self._files.stamps)
            if now == before and now != self._files.seen and not self._stopping.is_set():
                await self._follow()
            before = now

    async def _end(self, names: Iterable[str]) -> None:
        """End these flows, side by side."""
        ending = [each for each in names if each in self._tasks]
        for name in ending:
            self.keepers[name].stop()
        await asyncio.gather(*(self._tasks.pop(name) for name in ending))

    def _tell_wrong(self, error: Exception, what: str) -> None:
        self.problem = str(error) if isinstance(error, FlowFileError) else repr(error)
        log.error("%s:\n%s", what, self.problem)

    async def _start(self, versions: Mapping[str, Version]) -> None:
        """One after the other, each once the one before runs; for those that take long or fail no other waits."""
        until_s = time.monotonic() + START_WAIT_S
        for name, version in versions.items():
            if self._stopping.is_set():
                return
            keeper = self._add(name, version)
            while keeper.word == "starting" and time.monotonic() < until_s and not self._stopping.is_set():
                await asyncio.sleep(START_LOOK_S)

    def _add(self, name: str, version: Version) -> Keeper:
        held_by = self._held.by(name)
        if held_by:
            text = (
                "flow '%s' stays stopped, as %s wanted: start it on the live page, or have '%s' gone at the next start"
            )
            log.warning(text, name, held_by, self._held.file)
        keeper = self.keepers[name] = Keeper(version, self._nursery, self._prove, self.board.heard, held_by)
        self._tasks[name] = asyncio.create_task(keeper.run())
        return keeper

    def hold(self, flow: str, who: str) -> None:
        """A person wants a flow not to run, until `release`, also when the supervisor is started anew."""
        self.keepers[flow].hold(who)
        self._held.hold(flow, who)

    def release(self, flow: str, who: str) -> None:
        """A person wants a flow to run, be it held or at its end."""
        self.keepers[flow].release(who)
        self._held.release(flow)

    def _prove(self, version: Version) -> None:
        task = asyncio.create_task(self._keep_proven(version))
        self._proving.add(task)
        task.add_done_callback(self._proving.discard)

    async def _keep_proven(self, version: Version) -> None:
        """Until it is kept: a disk may be full for a while, and takes its time, for which nothing else waits."""
        while True:
            async with self._one_proof:
                if await aside(lambda: self._files.prove(version)):
                    return
            await asyncio.sleep(PROVE_AGAIN_S)

    async def _follow(self) -> None:
        """Files have changed: what runs otherwise by them is moved over, started or ended, and nothing else touched."""
        try:
            versions = await self._unless_stopped(self._files.load)
        except Exception as error:  # noqa: BLE001 - whatever they are, what runs must go on
            self._tell_wrong(error, "the files have changed and are wrong; everything runs on as it was")
            return
        if versions is None:
            return
        if self.problem:
            log.info("the files are right again")
        monitor = _monitor(versions)
        if monitor != self._monitor:
            log.warning("`monitor` has changed: that holds from the next start of `edgeflex up` on")
            self._monitor = monitor
        self.problem = ""
        gone = [each for each in self.keepers if each not in versions]
        if gone:
            log.info("not listed any more, and ended: %s", ", ".join(gone))
            await self._end(gone)
        for name in gone:
            del self.keepers[name]
        for name, version in versions.items():
            if name in self.keepers:
                self.keepers[name].want(version)
            else:
                self._add(name, version)
        self.keepers = {name: self.keepers[name] for name in versions}  # in the order of the site file

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _unless_stopped(self, read: Callable[[], T]) -> T | None:
        """What reading gives, which may take seconds; None if the site is stopped before."""
        reading = asyncio.create_task(aside(read))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([reading, stopping], return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            stopping.cancel()


def _monitor(versions: Mapping[str, Version]) -> MonitorConfig | None:
    return next((version.plan.monitor for version in versions.values()), None)


def _modules(versions: Mapping[str, Version]) -> set[str]:
    """Names of the modules that the flows' nodes are made of."""
    return {node.node.config.__module__ for version in versions.values() for node in version.plan.nodes}
