"""Keeps one flow running: starts it, starts it again when it ends, and moves it over to another version."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple
from uuid import uuid4

from msgspec.structs import asdict

from edgeflex_flow.flowfile import Plan
from edgeflex_flow.flowfile.difference import difference
from edgeflex_flow.flowfile.plan import Limits
from edgeflex_flow.flowfile.revision import new_calls
from edgeflex_flow.monitor.status import FlowStatus, Move, Word
from edgeflex_flow.runtime.state_folder import StateUse
from edgeflex_flow.supervisor.channel import Answer, Show
from edgeflex_flow.supervisor.nursery import Launch, Nursery
from edgeflex_flow.supervisor.process import KILL_AFTER_S, FlowProcess
from edgeflex_flow.supervisor.watch import Watch

WAITS_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Before one try after the other."""
PROVEN_AFTER_S = 60.0
"""After a run that lasted so long the waits begin anew."""
TRY_AGAIN_S = 60.0
LOOK_S = 1.0
BEAT_S = 2.5
TURN_S = 0.5
"""A flow tells each second how it is, and takes a turn each tenth of a second, also where nothing comes."""
MOVES_KEPT = 20
STOPPED = "was stopped"
OLD_FAILED = "was not ready when the old one failed"
ENDED = "came to its end"
"""As a flow over a recording does."""
TRIES_WITH_STATE = 2
"""What it holds may be what breaks it: then it begins anew rather than break down again and again."""


class Version(NamedTuple):
    """What is to run, and by what it is told from others."""

    digest: str
    """As people see it."""
    identity: bytes
    """Of all that makes it run as it does, its secrets too."""
    launch: Launch
    plan: Plan


class Keeper:
    """One flow. `proven` is called with each version that has shown that it runs, `shows` with what the flow tells for
    people."""

    def __init__(
        self,
        version: Version,
        nursery: Nursery,
        proven: Callable[[Version], None],
        shows: Callable[[str, Show | Answer], None],
        held_by: str = "",
    ) -> None:
        """`held_by`: who wants it not to run, from before."""
        self.version = version
        self.word: Word = "starting"
        self.why = ""
        """Why it waits, or was started again last."""
        self.restarts = 0
        self.since_ns = time.time_ns()
        self.moves: deque[Move] = deque(maxlen=MOVES_KEPT)
        self._moves_worked = self._moves_failed = 0
        self.process: FlowProcess | None = None
        self._nursery = nursery
        self._proven = proven
        self._shows = partial(shows, version.plan.name)
        self._wanted = version
        self._told_proven = ""
        """Digest of the version of which it was told that it runs well."""
        self._refused = b""
        """Identity of the version that it could not move over to."""
        self._again_s = math.inf
        """When that is tried once more."""
        self._sockets: dict[str, int] = {}
        """Of the process that runs, or ran last: what comes to them waits for the next."""
        self._state_of = uuid4().hex
        """Tells the state of the version that runs from what was kept for those before: another one after each move."""
        self._broke_down = 0
        """How often in a row it broke down within `PROVEN_AFTER_S`, not counting errors that it told itself."""
        self._began_anew = False
        """Whether its state was set aside since it last ran well."""
        self._good_limits: Limits | None = None
        """With which it has run well."""
        self._stopping = False
        self._held_by = held_by
        """Who wants it not to run."""
        self._restarted_by = ""
        """Who wants it to be started anew."""
        self._event = asyncio.Event()
        self._failures = 0
        """In a row, each within `PROVEN_AFTER_S`."""
        self._log = logging.getLogger(f"edgeflex.{version.plan.name}")

    @property
    def name(self) -> str:
        return self.version.plan.name

    @property
    def status(self) -> FlowStatus:
        process = self.process
        return FlowStatus(
            name=self.name,
            file=str(self.version.plan.file),
            word=self.word,
            why=self.why,
            since_ns=self.since_ns,
            restarts=self.restarts,
            digest=self.version.digest,
            moves=tuple(self.moves),
            moves_worked=self._moves_worked,
            moves_failed=self._moves_failed,
            pid=None if process is None or process.phase == "ended" else process.pid,
            vitals=None if process is None else process.vitals,
            refused=self._why_refused,
        )

    @property
    def _why_refused(self) -> str:
        is_refused = self._wanted.identity == self._refused != self.version.identity
        return self.moves[-1].why if is_refused and self.moves else ""

    def want(self, version: Version) -> None:
        """Move over to what its files say now, if it is another than what runs."""
        if version.identity == self.version.identity:
            self._take_limits(version)
        before, self._wanted = self._wanted, version
        if (version.identity, version.plan.limits) == (before.identity, before.plan.limits):
            return
        if self._refused and version.identity == self.version.identity:
            self._log.info("flow '%s': its files are again those of the version that runs", self.name)
        self._refused = b""
        self._event.set()

    def _take_limits(self, version: Version) -> None:
        """What runs has the same settings, and may have other limits."""
        before, limits = self.version.plan.limits, version.plan.limits
        self.version = version
        if limits == before:
            return
        changed = ", ".join(f"{key}: {value}" for key, value in asdict(limits).items() if value != getattr(before, key))
        self._log.info("flow '%s' has other limits from now on: %s", self.name, changed)
        vitals = None if self.process is None else self.process.vitals
        if limits.memory is not None and vitals is not None and vitals.memory_bytes > limits.memory:
            text = "flow '%s' needs %.0f MiB now: with a limit of %.0f MiB it is ended"
            self._log.warning(text, self.name, vitals.memory_bytes / 2**20, limits.memory / 2**20)

    def stop(self) -> None:
        self._stopping = True
        self._event.set()

    def restart(self, who: str) -> None:
        """A person wants it started anew."""
        self._restarted_by = who
        self._event.set()

    def hold(self, who: str) -> None:
        """A person wants it not to run, until `release`."""
        self._held_by = who
        self._event.set()

    def release(self, who: str) -> None:
        """A person wants it to run, be it held or at its end."""
        if not self._held_by:
            self._restarted_by = who
        self._held_by = ""
        self._event.set()

    @property
    def is_held(self) -> bool:
        return bool(self._held_by)

    @property
    def _wish(self) -> str:
        """What a person wants of it, as what became of it then; empty if nothing."""
        if self._held_by:
            return f"was stopped by {self._held_by}"
        return f"was restarted by {self._restarted_by}" if self._restarted_by else ""

    async def run(self) -> None:
        """Until it is stopped."""
        has_failed = False
        while not self._stopping:
            if self._held_by:
                self._hold({})
                self._say("stopped", f"stopped by {self._held_by}")
                await self._event.wait()
                self._event.clear()
                self.why = ""
                continue
            if has_failed and self._wanted.identity not in (self.version.identity, self._refused):
                self._hold({})  # it may as well be tried as its files are now
                self.version = self._wanted
            self._say("starting", self.why)
            why = await self._life_of_new()
            if self._stopping:
                break
            has_failed = not self._wish
            if self._wish:
                self._log.info("flow '%s' %s", self.name, why)
                self.restarts += not self._held_by
                self.why = "" if self._held_by else why
                self._restarted_by, self._failures = "", 0
                continue
            if why == ENDED:
                self._log.info("flow '%s' %s: it is not started again before its files change", self.name, why)
                self._say("stopped", why)
                await self._until_wanted()
                continue
            self.restarts += 1
            wait_s = WAITS_S[min(self._failures, len(WAITS_S) - 1)]
            self._failures += 1
            when = f"in {wait_s:.0f} s" if wait_s else "at once"
            self._log.error("flow '%s' %s; starting it again %s", self.name, why, when)
            self._say("waiting", why)
            await self._pause(wait_s)
        self._hold({})
        self._say("stopped", "")

    async def _until_wanted(self) -> None:
        """Wait for another version, or for a person to start it again."""
        while not (self._stopping or self._is_to_move or self._wish):
            await self._event.wait()
            self._event.clear()
        self._restarted_by = ""

    async def _life_of_new(self) -> str:
        """Have a new process run; why it ended."""
        try:
            self.process = FlowProcess(self._nursery, self.version.launch, self._event.set, self._shows)
            if not await self._unless_stopped(self.process.start()):
                return STOPPED
            return await self._life(self.process)
        except Exception as error:  # noqa: BLE001 - no memory, no processes: whatever it is, the flow is tried again
            self._log.debug("keeping flow '%s'", self.name, exc_info=error)
            return f"could not be kept: {error!r}"
        finally:
            await self._bury()

    async def _unless_stopped(self, start: Coroutine[None, None, None]) -> bool:
        """Whether it has started before this was to stop. The first start waits for the kernels of all flows."""
        starting = asyncio.create_task(start)
        while not starting.done() and not self._stopping:
            stopping = asyncio.create_task(self._event.wait())
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if self._event.is_set() and not self._stopping:
                self._event.clear()
        if starting.done():
            starting.result()
            return True
        starting.cancel()
        return False

    async def _bury(self) -> None:
        """Nothing of the process is left but its sockets, for the next."""
        if self.process is not None:
            with suppress(OSError):
                await self.process.kill()
            if self.process.sockets:
                self._hold(self.process.forget_sockets())

    def _hold(self, sockets: dict[str, int]) -> None:
        """Hold these sockets for the next process, and no others."""
        before, self._sockets = self._sockets, sockets
        close_all(before)

    def _open(self, process: FlowProcess) -> None:
        anew = self._broke_down >= TRIES_WITH_STATE and not self._began_anew
        if anew:  # once: if it breaks down without its state, too, the state was not to blame
            self._broke_down, self._began_anew = 0, True
        state = StateUse("anew" if anew else "go_on", self._state_of)
        process.order("open", {**self._sockets, **process.sockets}, state=state)

    async def _life(self, process: FlowProcess) -> str:
        """Have a process, or the one that takes over from it, run until it ends or has to be ended; why."""
        watch = Watch(self.version.plan.limits)
        while not self._stopping:
            watch.limits = self.version.plan.limits
            why = self._wish
            if why:
                await process.end()
                break
            why = self._fault(process, watch)
            if why:
                self._note_breakdown(process)
                await self._put_down(process, watch)
                break
            if process.phase == "prepared":
                self._open(process)
            elif process.phase == "running":
                self._say("running", "")
                self._prove(process)
            if self._is_to_move and process.phase in ("prepared", "opening", "running"):
                process = await self._move(process, watch)
                watch = Watch(self.version.plan.limits)
            else:
                await self._look(process)
        else:
            await process.end()
            why = STOPPED
        return why

    def _note_breakdown(self, process: FlowProcess) -> None:
        opened = process.opened_s > 0 and process.phase != "standing_by"
        soon = time.monotonic() - process.opened_s < PROVEN_AFTER_S
        by_limits = self._good_limits not in (None, self.version.plan.limits)  # those that a person has just changed
        self._broke_down = self._broke_down + 1 if opened and soon and not by_limits else 0

    def _prove(self, process: FlowProcess) -> None:
        ran_s = time.monotonic() - process.opened_s
        if ran_s > PROVEN_AFTER_S:
            self._failures = self._broke_down = 0
            self._began_anew, self._good_limits = False, self.version.plan.limits
        settled = ran_s > self.version.plan.limits.settle and _is_lively(process)
        if settled and self._told_proven != self.version.digest:
            self._told_proven = self.version.digest
            self._proven(self.version)

    @property
    def _is_to_move(self) -> bool:
        if self._wanted.identity == self._refused and time.monotonic() < self._again_s:
            return False
        return self._wanted.identity != self.version.identity

    def _fault(self, process: FlowProcess, watch: Watch) -> str:
        """What is wrong with a process; empty if nothing is."""
        now_s, limits = time.monotonic(), watch.limits
        match process.phase:
            case "ended":
                return _how_it_ended(process)
            case "standing_by":
                return _why_standing(process)
            case "starting" if now_s - process.began_s > limits.prepare:
                return f"was not prepared within {limits.prepare:g} s"
            case "opening" | "running" if now_s - process.heard_s > limits.silent:
                return f"said nothing for {limits.silent:g} s"
            case "opening" | "running" if process.vitals is not None:
                return watch.fault(process.vitals)
            case _:
                return ""

    async def _put_down(self, process: FlowProcess, watch: Watch) -> None:
        """End what has a fault: in order if it still listens."""
        silent = time.monotonic() - process.heard_s > self.version.plan.limits.silent
        await (process.kill() if silent or watch.stands else process.end())

    async def _move(self, old: FlowProcess, watch: Watch) -> FlowProcess:
        """Move over to the wanted version; the process that runs after that, the old one if the new one is no good."""
        version, since_ns = self._wanted, self.since_ns
        self._say("moving", "")
        if version.identity != self._refused:
            changed = "; ".join(each.text for each in difference(self.version.plan, version.plan))
            self._log.info("flow '%s' has changed (%s): preparing it beside the one that runs", self.name, changed)
        try:
            new = FlowProcess(self._nursery, version.launch, self._event.set, self._shows)
            await new.start()
        except (OSError, EOFError) as error:  # no memory, no processes or no descriptors are left
            return self._stay(old, version, f"could not be started: {error!r}", TRY_AGAIN_S)
        why, again_s = await self._prepared_beside(new, version, old, watch), math.inf
        if not why:
            why, again_s = await self._reaches_beside(new, version, old, watch), TRY_AGAIN_S
        if why:
            await self._drop(new)
            old = self._stay(old, version, why, again_s)
            self._say("running", "")
            self.since_ns = since_ns  # it never stopped
            return old
        await self._stand_by(old)
        sockets = {**self._sockets, **old.sockets}
        new.order("open", sockets, state=StateUse("on_trial", self._state_of))
        why = await self._becomes(new, "running", version.plan.limits.open) or await self._settles(new, version)
        if why and not self._stopping:
            await self._drop(new)
            if old.phase == "standing_by" and not self._wish:
                old.order("open", sockets, state=StateUse("go_on", self._state_of))
            return self._stay(old, version, why)
        await old.end()
        close_all(old.forget_sockets())
        return self._go_over(new, version)

    async def _prepared_beside(self, new: FlowProcess, version: Version, old: FlowProcess, watch: Watch) -> str:
        """Wait until the new one is prepared; why it does not come to be."""
        within_s = version.plan.limits.prepare
        return await self._beside(new, old, watch, lambda: new.phase == "prepared", "prepared", within_s)

    async def _reaches_beside(self, new: FlowProcess, version: Version, old: FlowProcess, watch: Watch) -> str:
        """Have the new one try what it calls otherwise than the old one; why it is not to take over."""
        calls = new_calls(self.version.plan, version.plan) if version.plan.limits.reach else ()
        if not calls:
            return ""
        new.reach(calls)
        within_s = version.plan.limits.open
        why = await self._beside(new, old, watch, lambda: new.unreached is not None, "tried out", within_s)
        return why or (f"does not reach {'; '.join(new.unreached)}" if new.unreached else "")

    async def _beside(
        self,
        new: FlowProcess,
        old: FlowProcess,
        watch: Watch,
        is_there: Callable[[], bool],
        what: str,
        within_s: float,
    ) -> str:
        """Wait for something of the new one; why it does not come. The old one is watched meanwhile."""
        until_s = time.monotonic() + within_s
        while not is_there():
            if new.phase == "ended":
                return _how_it_ended(new)
            if self._is_unwanted:
                return STOPPED
            if self._fault(old, watch):
                return OLD_FAILED
            if time.monotonic() > until_s:
                return f"was not {what} within {within_s:g} s"
            await self._look(old)
        return ""

    async def _drop(self, new: FlowProcess) -> None:
        """A version that did not make it drains what it has taken, if it runs; it may not listen any more."""
        await (new.end() if new.phase == "running" else new.kill())
        close_all(new.forget_sockets())

    @property
    def _is_unwanted(self) -> bool:
        """Whether it is not to run any more, or not now."""
        return self._stopping or bool(self._wish)

    async def _stand_by(self, process: FlowProcess) -> None:
        """Have it drain and close everything; one that does not is ended, for there must not be two."""
        if process.phase == "prepared":
            return
        process.order("stand_by")
        silent_s = self.version.plan.limits.silent
        if await self._becomes(process, "standing_by", KILL_AFTER_S, silent_s):
            await process.kill()

    async def _becomes(self, process: FlowProcess, phase: str, within_s: float, silent_s: float = math.inf) -> str:
        """Wait for a phase; why it does not come, or that nothing was said for so long."""
        until_s = time.monotonic() + within_s
        while process.phase != phase:
            if process.phase == "ended":
                return _how_it_ended(process)
            if process.phase == "standing_by":
                return _why_standing(process)
            if self._is_unwanted and phase != "standing_by":
                return STOPPED
            if time.monotonic() > until_s:
                return f"was not {phase.replace('_', ' ')} within {within_s:g} s"
            if time.monotonic() - process.heard_s > silent_s:
                return f"said nothing for {silent_s:g} s"
            await self._look(process)
        return ""

    async def _settles(self, process: FlowProcess, version: Version) -> str:
        """Whether a new version goes on to run; why it does not. One that stands when its time is over gets as long as
        it needs to go on, or to break a limit."""
        watch = Watch(version.plan.limits)
        until_s = time.monotonic() + version.plan.limits.settle
        while time.monotonic() < until_s or not _is_lively(process):
            why = STOPPED if self._is_unwanted else self._fault(process, watch)
            if why:
                return why
            await self._look(process)
        return ""

    def _stay(self, old: FlowProcess, version: Version, why: str, again_s: float = math.inf) -> FlowProcess:
        """`again_s`: after how long it is tried once more."""
        if why in (STOPPED, OLD_FAILED):  # that says nothing about the version
            return old
        told = self._refused == version.identity and self.moves[-1].why == why
        self._refused, self._again_s = version.identity, time.monotonic() + again_s
        if told:
            self._say("running", "")
            return old
        self._moved(version, why)
        goes_on = "is started again" if old.phase == "ended" else "runs on"
        text = "flow '%s': the new version %s; the old one %s"
        if again_s < math.inf:
            text += f", and the new one is tried again each {again_s:g} s (`limits: {{reach: false}}`: it is not tried)"
        self._log.error(text, self.name, why, goes_on)
        return old

    def _go_over(self, new: FlowProcess, version: Version) -> FlowProcess:
        self.version, self.process, self._state_of = version, new, uuid4().hex
        self._hold(new.forget_sockets())
        self._moved(version, "")
        self._log.info("flow '%s' runs its new version", self.name)
        return new

    def _moved(self, version: Version, why: str) -> None:
        self.moves.append(Move(digest=version.digest, worked=not why, why=why, time_ns=time.time_ns()))
        self._moves_worked += not why
        self._moves_failed += bool(why)
        self._say("running", "")

    async def _look(self, process: FlowProcess) -> None:
        """Until something happens, at most for `LOOK_S`."""
        began_s = time.monotonic()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), LOOK_S)
        self._event.clear()
        # What a process said while this one was held up may still be unread: that is no silence of its own.
        process.heard_s += max(time.monotonic() - began_s - LOOK_S, 0.0)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless it is stopped or there is another version to try."""
        until_s = time.monotonic() + seconds
        while not (self._stopping or self._is_to_move or self._wish) and (left_s := until_s - time.monotonic()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), left_s)
            self._event.clear()
        self._restarted_by = ""

    def _say(self, word: Word, why: str) -> None:
        if (word, why) != (self.word, self.why):
            self.word, self.why, self.since_ns = word, why, time.time_ns()


def _is_lively(process: FlowProcess) -> bool:
    """Whether it has just told that it has just taken a turn."""
    return process.beat_age_s < BEAT_S and process.vitals is not None and process.vitals.turn_age_s < TURN_S


def _how_it_ended(process: FlowProcess) -> str:
    code = process.exit_code
    if code is None:
        return "ended"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _why_standing(process: FlowProcess) -> str:
    assert process.last is not None
    return ENDED if process.last.error is None else f"ended: {process.last.error}"


def close_all(sockets: Mapping[str, int]) -> None:
    for descriptor in sockets.values():
        os.close(descriptor)
