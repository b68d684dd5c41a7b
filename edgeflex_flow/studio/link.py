"""The studio's end of the channel to the supervisor."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable
from typing import Literal

import msgspec

from edgeflex_flow.errors import FatalError
from edgeflex_flow.studio.model import Model
from edgeflex_flow.supervisor.studio_channel import (
    Alive,
    Answered,
    AskLetter,
    Begin,
    FromStudio,
    Serving,
    ToStudio,
    Watching,
    Wish,
)

ANSWER_S = 15.0
"""How long an answer of the supervisor is waited for."""
MOST_WAITING = 32
"""Questions at once; beyond, payloads are not told, so that nobody keeps a flow busy with them."""
ALIVE_S = 1.0
TAKEN_AHEAD = 32
"""Lines that are decoded before the event loop has taken them: beyond, the supervisor has to wait, and leaves out."""


class Link:
    """Reads in a thread of its own; all else in the event loop."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._requests = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answered]] = {}
        self._ahead = threading.Semaphore(TAKEN_AHEAD)
        self._lock = threading.Lock()

    def begin(self) -> Begin:
        """What comes first. Raises FatalError when it does not."""
        line = self._lines.readline()
        if not line:
            raise FatalError("the supervisor said nothing")
        return msgspec.json.decode(line, type=Begin)

    def serve(self, model: Model, on_end: Callable[[], None]) -> None:
        """Let the model know all that the supervisor tells, from now on. Call it in the event loop.

        `on_end`: called, by another thread, once the supervisor has ended.
        """
        loop = asyncio.get_running_loop()
        model.on_watch = lambda nodes: self._tell(Watching(nodes))
        threading.Thread(target=self._read, args=(loop, model, on_end), name="supervisor", daemon=True).start()
        threading.Thread(target=self._live, args=(loop,), name="alive", daemon=True).start()

    def close(self) -> None:
        self._lines.close()
        self._connection.close()

    def tell_serving(self, url: str) -> None:
        self._tell(Serving(url))

    async def wish(self, do: Literal["restart", "stop", "start"], flow: str, who: str) -> Answered:
        """Have the supervisor do something with a flow."""
        return await self._ask(lambda number: Wish(number, do, flow, who))

    async def letter(self, do: Literal["payload", "replay"], flow: str, letter: int, who: str) -> Answered:
        """Ask a flow about a dead letter."""
        if do == "payload" and len(self._waiting) >= MOST_WAITING:
            return Answered(0, is_done=False, text="too many ask at once; try again")
        return await self._ask(lambda number: AskLetter(number, do, flow, letter, who))

    async def _ask(self, question: Callable[[int], Wish | AskLetter]) -> Answered:
        number = next(self._requests)
        self._waiting[number] = future = asyncio.get_running_loop().create_future()
        try:
            self._tell(question(number))
            return await asyncio.wait_for(future, ANSWER_S)
        except TimeoutError:
            return Answered(number, is_done=False, text=f"no answer within {ANSWER_S:g} s; look whether it was done")
        finally:
            del self._waiting[number]

    def _read(self, loop: asyncio.AbstractEventLoop, model: Model, on_end: Callable[[], None]) -> None:
        try:
            for line in self._lines:
                told: ToStudio = msgspec.json.decode(line, type=ToStudio)
                self._ahead.acquire()
                loop.call_soon_threadsafe(self._take, model, told)
        except (OSError, RuntimeError):
            pass  # the supervisor, or the loop, has ended
        on_end()

    def _take(self, model: Model, told: ToStudio) -> None:
        try:
            if not isinstance(told, Answered):
                model.take(told)
            elif told.request in self._waiting and not self._waiting[told.request].done():
                self._waiting[told.request].set_result(told)
        finally:
            self._ahead.release()

    def _live(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell each second that the event loop goes round."""
        gone_round, pause = threading.Event(), threading.Event()
        try:
            while True:
                gone_round.clear()
                loop.call_soon_threadsafe(gone_round.set)
                gone_round.wait()
                self._tell(Alive())
                pause.wait(ALIVE_S)
        except RuntimeError:
            return  # the loop has ended

    def _tell(self, told: FromStudio) -> None:
        with self._lock:
            try:
                self._connection.sendall(msgspec.json.encode(told) + b"\n")
            except OSError:
                return


def connect(descriptor: int) -> Link:
    """The link over a descriptor that was inherited."""
    return Link(socket.socket(fileno=descriptor))
