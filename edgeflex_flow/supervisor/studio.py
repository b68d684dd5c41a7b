"""The supervisor's end of the studio: a process of its own that shows the site to people, and may fail without harm.

Nothing waits for it. What it does not read in time is left out: of each thing the newest is told once it reads again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from edgeflex_flow.flowfile.picture import picture_of
from edgeflex_flow.flowfile.plan import Plan, StudioConfig
from edgeflex_flow.monitor.status import SiteStatus
from edgeflex_flow.signals import blocked
from edgeflex_flow.supervisor.board import Board, Numbered
from edgeflex_flow.supervisor.channel import MOST_LINE_BYTES, Answer, Ask
from edgeflex_flow.supervisor.studio_channel import (
    Alive,
    Answered,
    AskLetter,
    Begin,
    Drawn,
    FlowBound,
    FlowEvents,
    FlowLetters,
    FlowSeen,
    FromStudio,
    Serving,
    Settings,
    Status,
    ToStudio,
    Watching,
    Wish,
)
from edgeflex_flow.tied import tied

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
PROVEN_AFTER_S = 30.0
TELL_S = 0.25
STATUS_S = 1.0
SILENCE_S = 15.0
"""Without a sign of life it is ended and started again."""
END_S = 5.0
MOST_WAITING_BYTES = 1024 * 1024
"""What the studio has not read; while it is so much, nothing more is told."""
PART = 32
"""Of what comes after each other: a line holds so much at most."""
ASKED_MOST = 100
"""Questions that a flow has not answered."""

log = logging.getLogger("edgeflex.supervisor")


def settings_of(config: StudioConfig, plan: Plan) -> Settings:
    """With paths as they are for any process."""

    def place(path: str | None) -> str | None:
        return None if path is None else str((plan.folder / path).absolute())

    return Settings(
        host=config.host,
        port=config.port,
        users=place(config.users),
        base_path=config.base_path,
        proxies=config.proxies,
        certificate=place(config.certificate),
        key=place(config.key),
    )


class ShownVersion(Protocol):
    """Of a flow, what is drawn."""

    @property
    def digest(self) -> str: ...

    @property
    def plan(self) -> Plan: ...


class ShownProcess(Protocol):
    """Where a flow runs."""

    def watch(self, nodes: tuple[str, ...]) -> None: ...

    def ask(self, ask: Ask) -> bool: ...


class ShownFlow(Protocol):
    """A flow of the site."""

    @property
    def version(self) -> ShownVersion: ...

    @property
    def process(self) -> ShownProcess | None: ...

    @property
    def is_held(self) -> bool: ...

    def restart(self, who: str) -> None: ...


class ShownSite(Protocol):
    """What the studio shows; only the event loop touches it."""

    @property
    def board(self) -> Board: ...

    @property
    def status(self) -> SiteStatus: ...

    @property
    def keepers(self) -> Mapping[str, ShownFlow]: ...

    def hold(self, flow: str, who: str) -> None: ...

    def release(self, flow: str, who: str) -> None: ...


class StudioKeeper:
    """Keeps the studio running."""

    def __init__(self, site: ShownSite, settings: Callable[[], Settings | None], command: Sequence[str]) -> None:
        """`settings`: as the site file says now; None: nothing is to be shown."""
        self._site = site
        self._settings = settings
        self._command = command
        self._requests = itertools.count(1)
        self._asked: dict[int, int] = {}
        """By number of a question to a flow, the studio's own number of it."""
        self._writer: asyncio.StreamWriter | None = None
        self._heard_s = 0.0
        self._watching: dict[str, tuple[str, ...]] = {}
        site.board.on_answer = self._answered

    async def run(self) -> None:
        """Until it is cancelled."""
        wait_s = FIRST_WAIT_S
        while True:
            settings = self._settings()
            if settings is None:
                await asyncio.sleep(TELL_S)
                continue
            began_s = time.monotonic()
            try:
                why = await self._life(settings)
            except OSError as error:  # no memory, no processes or no descriptors are left
                why = f"could not be started: {error}"
            if self._settings() != settings:
                log.info("the studio has other settings now")
                continue
            if time.monotonic() - began_s > PROVEN_AFTER_S:
                wait_s = FIRST_WAIT_S
            log.error("the studio %s; starting it again in %.0f s; flows are not touched", why, wait_s)
            until_s = time.monotonic() + wait_s
            while time.monotonic() < until_s and self._settings() == settings:
                await asyncio.sleep(TELL_S)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _life(self, settings: Settings) -> str:
        """Start it, and talk to it until it ends or has to be ended; why."""
        ours, theirs = socket.socketpair()
        with theirs, blocked():
            process = await asyncio.create_subprocess_exec(
                *tied(*self._command, str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=MOST_LINE_BYTES)
        self._heard_s = time.monotonic()
        self._say(Begin(self._site.status.site, settings))
        tasks = [asyncio.create_task(each) for each in (self._listen(reader), self._tell(), self._watch_over(settings))]
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
            failed = [error for task in tasks if task.done() and (error := task.exception())]
            if failed:
                return f"could not be talked to: {failed[0]!r}"
            if tasks[0].done():  # it has closed its end, and ends itself now
                await asyncio.wait([ended], timeout=END_S)
            return _how_it_ended(process.returncode)
        finally:
            for task in tasks:
                task.cancel()
            self._writer.transport.abort()  # what it has not read is of no use to anybody
            self._writer = None
            self._watch({})
            await asyncio.shield(_end(process, ended))

    async def _watch_over(self, settings: Settings) -> None:
        """Until it was silent for too long, or is to be otherwise."""
        while time.monotonic() - self._heard_s < SILENCE_S and self._settings() == settings:
            await asyncio.sleep(STATUS_S)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                self._heard_s = time.monotonic()
                self._heard(msgspec.json.decode(line, type=FromStudio))

    def _heard(self, told: FromStudio) -> None:
        match told:
            case Serving():
                log.info("the site is shown at %s", told.url)
            case Watching():
                self._watch(told.nodes)
            case Wish():
                self._say(Answered(told.request, *self._do(told)))
            case AskLetter():
                self._ask(told)
            case Alive():
                return

    def _watch(self, nodes: dict[str, tuple[str, ...]]) -> None:
        self._watching = nodes
        for name, keeper in self._site.keepers.items():
            if keeper.process is not None:
                keeper.process.watch(nodes.get(name, ()))

    def _do(self, wish: Wish) -> tuple[bool, str]:
        keeper = self._site.keepers.get(wish.flow)
        if keeper is None:
            return False, f"there is no flow '{wish.flow}'"
        log.info("%s wants flow '%s': %s", wish.who, wish.flow, wish.do)
        match wish.do:
            case "restart" if keeper.is_held:
                return False, "it is stopped; start it"
            case "restart":
                keeper.restart(wish.who)
                return True, "it drains and is started anew"
            case "stop":
                self._site.hold(wish.flow, wish.who)
                return True, "it drains and stays stopped until somebody starts it"
            case "start":
                self._site.release(wish.flow, wish.who)
                return True, "it is started"

    def _ask(self, ask: AskLetter) -> None:
        keeper = self._site.keepers.get(ask.flow)
        process = None if keeper is None else keeper.process
        number = next(self._requests)
        if process is None or not process.ask(Ask(number, ask.do, ask.letter, ask.who)):
            self._say(Answered(ask.request, is_done=False, text=f"flow '{ask.flow}' does not run"))
            return
        self._asked[number] = ask.request
        while len(self._asked) > ASKED_MOST:
            self._asked.pop(next(iter(self._asked)))

    def _answered(self, answer: Answer) -> None:
        request = self._asked.pop(answer.request, None)
        if request is not None:
            self._say(Answered(request, answer.is_done, answer.text, answer.payload))

    def _say(self, told: ToStudio) -> bool:
        """Tell it something, unless it reads too slowly; whether it was told."""
        writer = self._writer
        if writer is None or writer.transport.get_write_buffer_size() > MOST_WAITING_BYTES:
            return False
        writer.write(msgspec.json.encode(told) + b"\n")
        return True

    async def _tell(self) -> None:
        """What changes, for as long as it lives."""
        status_due_s = 0.0
        drawn: dict[str, str] = {}
        board = self._site.board
        bound = letters = events = 0
        seen = board.last
        while True:
            now_s = time.monotonic()
            if now_s >= status_due_s:
                status_due_s = now_s + STATUS_S
                self._say(Status(self._site.status))
                self._draw(drawn)
                self._watch(self._watching)
            bound = self._tell_bound(bound)
            letters = self._tell_parts(FlowLetters, board.letters, letters)
            seen = self._tell_parts(FlowSeen, board.seen, seen)
            events = self._tell_parts(FlowEvents, board.events, events)
            await asyncio.sleep(TELL_S)

    def _tell_bound(self, told: int) -> int:
        """Tell which policies are in force in flows in which that has changed; up to which number all is told."""
        board = self._site.board
        for flow, changed in sorted(board.bound_changes.items(), key=lambda item: item[1]):
            if changed > told:
                if not self._say(FlowBound(flow, board.bound[flow])):
                    break
                told = changed
        return told

    def _tell_parts(self, kind: Callable[[str, Any], ToStudio], kept: Iterable[Numbered], told: int) -> int:
        """Tell what came after a number, a few of a flow at once; up to which number all is told."""
        for last, flow, items in _parts(kept, told):
            if not self._say(kind(flow, items)):
                break
            told = last
        return told

    def _draw(self, drawn: dict[str, str]) -> None:
        """Tell the pictures of flows of which another version runs. `drawn`: what it has."""
        for gone in drawn.keys() - self._site.keepers.keys():
            del drawn[gone]
        for name, keeper in self._site.keepers.items():
            if drawn.get(name) != keeper.version.digest and self._say(
                Drawn(keeper.version.digest, picture_of(keeper.version.plan))
            ):
                drawn[name] = keeper.version.digest


def _parts(kept: Iterable[Numbered], after: int) -> Iterator[tuple[int, str, tuple[object, ...]]]:
    """What came after a number, in order: of one flow at most `PART` together, with the number of the last."""
    new = (each for each in kept if each[0] > after)
    for flow, run in itertools.groupby(new, key=lambda each: each[1]):
        while part := tuple(itertools.islice(run, PART)):
            yield part[-1][0], flow, tuple(item for _, _, item in part)


async def _end(process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
    """Its channel is closed, by which it ends; what does not is killed."""
    try:
        await asyncio.wait_for(asyncio.shield(ended), END_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await ended


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return f"said nothing for {SILENCE_S:g} s"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
