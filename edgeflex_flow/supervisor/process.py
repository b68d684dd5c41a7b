"""The supervisor's end of one flow's process."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from edgeflex_flow.flowfile.revision import Call
from edgeflex_flow.runtime.state_folder import GO_ON, StateUse
from edgeflex_flow.runtime.vitals import Vitals
from edgeflex_flow.signals import blocked
from edgeflex_flow.sockets import receive_socket, send_socket
from edgeflex_flow.supervisor.aside import aside
from edgeflex_flow.supervisor.channel import (
    MOST_LINE_BYTES,
    Answer,
    Ask,
    Beat,
    Order,
    Ordered,
    Prepared,
    Reach,
    Running,
    Show,
    StandingBy,
    Told,
    Tried,
    Watch,
)
from edgeflex_flow.supervisor.nursery import Launch, Nursery

GONE_LOOK_S = 0.5
GONE_LOOKS = 4
"""In a row: its exit code may still be told."""
KILLED_S = 5.0
KILL_AFTER_S = 25.0
"""A drain ends by itself after 20 s."""
Phase = Literal["starting", "prepared", "opening", "running", "standing_by", "ended"]


def _show_nobody(_told: Show | Answer) -> None:
    return None


def _is_gone(pid: int | None) -> bool:
    """Whether a process has ended, as far as the system tells."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        return Path("/proc/self").exists()
    except OSError:
        return False
    return state == "Z" and threads == 1


class FlowProcess:
    """A process that runs one flow when it is told to. `changed` is called whenever something about it is another."""

    def __init__(
        self,
        nursery: Nursery,
        launch: Launch,
        changed: Callable[[], None],
        shows: Callable[[Show | Answer], None] = _show_nobody,
    ) -> None:
        """`shows` is called with what it tells for people."""
        self._shows = shows
        self._watched: tuple[str, ...] = ()
        self._changed = changed
        self.phase: Phase = "starting"
        self.vitals: Vitals | None = None
        self.unreached: tuple[str, ...] | None = None
        """Why some of what it was last to try is not reached; None while it is not known."""
        self.last: StandingBy | None = None
        """How the last run ended."""
        self.began_s = time.monotonic()
        self.heard_s = self.began_s
        """When it last told something."""
        self.opened_s = 0.0
        self._beat_s = -math.inf
        self.exit_code: int | None = None
        """Of the process, once it has ended; negative: the signal that killed it."""
        self.sockets: dict[str, int] = {}
        """Descriptors of the sockets that it wants to outlive it, by name."""
        self._orders, theirs = socket.socketpair()
        self._line, their_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setblocking(False)
        self._theirs = (theirs, their_line)
        self._process = nursery.process(launch, theirs, their_line)
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def beat_age_s(self) -> float:
        """How long ago it told how it is; endless before it has since it was opened."""
        return time.monotonic() - self._beat_s if self._beat_s > self.opened_s else math.inf

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def start(self) -> None:
        def fork() -> None:
            with blocked():
                self._process.start()

        # The first one waits for all imports, which must not keep the supervisor from its other work, nor from its end.
        try:
            await aside(fork)
        finally:
            for each in self._theirs:
                each.close()
        reader, self._writer = await asyncio.open_connection(sock=self._orders, limit=MOST_LINE_BYTES)
        asyncio.get_running_loop().add_reader(self._line, self._take_socket)
        self._tasks = [asyncio.create_task(self._listen(reader)), asyncio.create_task(self._wait())]

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                self._heard(msgspec.json.decode(line, type=Told))

    def _heard(self, told: Told) -> None:
        self.heard_s = time.monotonic()
        match told:
            case Tried():
                self.unreached = told.unreached
            case Prepared():
                self.phase = "prepared"
            case Running():
                self.phase, self.opened_s = "running", self.heard_s
            case StandingBy():
                self.phase, self.last = "standing_by", told
            case Beat():
                self.vitals, self._beat_s = told.vitals, self.heard_s
            case Show() | Answer():
                self._shows(told)
                return
        self._changed()

    def _take_socket(self) -> None:
        try:
            name, descriptor = receive_socket(self._line)
        except BlockingIOError:
            return
        except OSError:
            name, descriptor = "", -1
        if descriptor < 0:
            asyncio.get_running_loop().remove_reader(self._line)
            return
        before = self.sockets.get(name)
        self.sockets[name] = descriptor
        if before is not None:
            os.close(before)

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._process.sentinel, ended.set)
        listening = self._tasks[0]
        try:
            # The one that it was forked from tells its end, and may be gone before it, or stand still.
            await asyncio.wait([listening])
            gone = 0
            while not ended.is_set() and gone < GONE_LOOKS:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), GONE_LOOK_S)
                gone = gone + 1 if _is_gone(self._process.pid) else 0
        finally:
            loop.remove_reader(self._process.sentinel)
        self._process.join(0)
        self.exit_code = self._process.exitcode
        self.phase = "ended"
        self._changed()

    def order(
        self,
        do: Literal["open", "stand_by"],
        sockets: Mapping[str, int] | None = None,
        *,
        state: StateUse = GO_ON,
    ) -> None:
        """`open`: with the sockets that the process before kept, by name, and with the state that it left."""
        if self._writer is None or self.phase == "ended":
            return
        sent = 0
        for name, descriptor in (sockets or {}).items():
            with contextlib.suppress(OSError):
                send_socket(self._line, name, descriptor)
                sent += 1
        if do == "open":
            self.phase = "opening"
            self.opened_s = self.heard_s = time.monotonic()
        self._write(Order(do, sent, state))

    def reach(self, calls: tuple[Call, ...]) -> None:
        """Have it try, once it is prepared, whether these connections and nodes reach what they call."""
        self.unreached = None
        self._write(Reach(calls))

    def watch(self, nodes: tuple[str, ...]) -> None:
        """Have it show what these nodes give, and no others."""
        if nodes != self._watched and self.phase in ("opening", "running"):
            self._watched = nodes
            self._write(Watch(nodes))

    def ask(self, ask: Ask) -> bool:
        """Ask it for something about a dead letter; whether it can be asked."""
        if self.phase == "running":
            self._write(ask)
        return self.phase == "running"

    def _write(self, order: Ordered) -> None:
        if self._writer is not None:
            self._writer.write(msgspec.json.encode(order) + b"\n")

    async def end(self) -> int | None:
        """Have it drain and end; its exit code."""
        if self._writer is not None:
            self._writer.close()
        await self._ended_within(KILL_AFTER_S)
        return self.exit_code

    async def kill(self) -> None:
        """End it at once: it does not obey, or must not touch anything more."""
        if self.phase != "ended":
            self._signal(signal.SIGKILL)
        await self._ended_within(KILL_AFTER_S)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def _ended_within(self, seconds: float) -> None:
        if self._tasks:
            done, _ = await asyncio.wait(self._tasks[1:], timeout=seconds)
            if not done:
                self._signal(signal.SIGKILL)
            await asyncio.wait(self._tasks, timeout=KILLED_S)  # what waits for a disk cannot be killed
        if self._writer is not None:
            self._writer.close()
        else:
            self._orders.close()
        if self._line.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._line)
            self._line.close()

    def forget_sockets(self) -> dict[str, int]:
        """The sockets that it kept: who calls this has them from now on."""
        kept, self.sockets = self.sockets, {}
        return kept
