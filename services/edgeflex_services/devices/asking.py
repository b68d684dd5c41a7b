"""Requests to the network: not too many at once, again while it is away, and never twice what was done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Final, TypeVar

from edgeflex_services.devices.network import NetworkAwayError, Reason

AT_ONCE: Final = 64
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 10.0

_T = TypeVar("_T")
TOLD_WHY: ContextVar[Callable[[Reason | None], None]] = ContextVar("told_why", default=lambda _: None)
"""Is told why a network has not done yet what it was asked for; None once it has answered."""


class Asking:
    """How the service asks a network."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        """How long an operation waits for a network that is away, or that has not said yet what became of it."""
        self._free = asyncio.Semaphore(AT_ONCE)

    async def once(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Raises NetworkError as the network's request does."""
        async with self._free:
            return await request()

    async def patiently(
        self, request: Callable[[], Awaitable[_T]], find: Callable[[], Awaitable[_T | None]] | None = None
    ) -> _T:
        """Ask until there is an answer. Raises NetworkRefusedError, and NetworkAwayError when patience is over.

        `find` looks for what the request makes, where an earlier one may have made it before its answer was lost.
        """
        end_s = time.monotonic() + self.patience_s
        wait_s = FIRST_WAIT_S
        in_doubt = False
        while True:
            try:
                if in_doubt and find is not None:
                    found = await self.once(find)
                    if found is not None:
                        TOLD_WHY.get()(None)
                        return found
                    in_doubt = False
                answer = await self.once(request)
                TOLD_WHY.get()(None)
                return answer
            except NetworkAwayError as error:
                TOLD_WHY.get()(error.reason)
                in_doubt = in_doubt or error.may_be_done
                pause_s = max(wait_s, error.retry_s or 0.0)
                if time.monotonic() + pause_s > end_s:
                    error.may_be_done = in_doubt
                    raise
                await asyncio.sleep(pause_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    async def until_told(
        self,
        is_open: Callable[[], object],
        wait: Callable[[float], Awaitable[None]],
        look: Callable[[], Awaitable[None]],
        every_s: float,
    ) -> None:
        """Wait as long as patience lasts until the network has said what became of something, asking it every so often.

        `wait` waits for news, at most so many seconds; `look` asks, and may fail while the network is away.
        """
        end_s = time.monotonic() + self.patience_s
        ask_s = time.monotonic() + every_s
        while is_open() and time.monotonic() < end_s:
            await wait(min(ask_s, end_s) - time.monotonic())
            if time.monotonic() >= ask_s and is_open():
                with suppress(NetworkAwayError):
                    await look()
                ask_s = time.monotonic() + every_s


def portions(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """All of them, at most `size` at a time.

    >>> list(portions("abcde", 2))
    ['ab', 'cd', 'e']
    """
    return (items[begin : begin + size] for begin in range(0, len(items), size))
