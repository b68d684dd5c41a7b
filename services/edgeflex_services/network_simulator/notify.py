"""Sends what the network tells by itself, and gets it wrong on demand.

What goes to the same place is sent one after the other in the order in which it happened; other places do not wait.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import httpx
from litestar.status_codes import HTTP_410_GONE

from edgeflex_flow.errors import FatalError
from edgeflex_services.network_simulator import LOG
from edgeflex_services.network_simulator.model import NotifyBehaviour

TIMEOUT_S: Final = 5.0
RETRIES_S: Final = (0.1, 0.5, 2.0, 5.0)
"""Waits between two attempts."""
AGAIN: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Answers after which it is tried again."""
HELD_S: Final = 2.0
"""How long one that is to be overtaken waits for the next at most."""
MOST_AT_ONCE: Final = 50

Outcome: TypeAlias = Literal["sent", "lost", "refused", "failed", "gone"]
"""`lost`: on demand; `refused`: by who was to get it; `failed`: nobody answered; `gone`: the place wants no more."""


class Notification(NamedTuple):
    """Something to be told."""

    url: str
    content_type: str
    body: bytes
    token: str | None = None
    """To be shown to who gets it."""
    correlator: str | None = None
    """Of the request that asked for it."""


class _Waiting(NamedTuple):
    from_s: float
    """Time of the loop before which it is held back."""
    notification: Notification


@dataclass
class _Lane:
    """What goes to a place."""

    waiting: deque[_Waiting] = field(default_factory=deque)
    held: list[Notification] = field(default_factory=list)
    """Waits to be overtaken."""
    task: asyncio.Task[None] | None = None


class Notifier:
    """For one event loop. `behaviour` is asked each time what is to go wrong. Raises FatalError for a bad `ca`."""

    def __init__(self, behaviour: Callable[[], NotifyBehaviour], chance: random.Random, ca: Path | None = None) -> None:
        self.counts: Counter[Outcome] = Counter()
        self._behaviour, self._chance = behaviour, chance
        self._lanes: dict[str, _Lane] = {}
        self._gone: set[str] = set()
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._http = httpx.AsyncClient(verify=_trust(ca), trust_env=False, timeout=TIMEOUT_S)

    @property
    def waiting(self) -> int:
        """Notifications that are not sent yet."""
        return sum(len(each.waiting) + len(each.held) for each in self._lanes.values())

    def send(self, notification: Notification) -> None:
        """Send it as soon as may be."""
        faults = self._behaviour()
        if notification.url in self._gone:
            self.counts["gone"] += 1
            return
        if self._chance.random() < faults.lose_share:
            self.counts["lost"] += 1
            return
        lane = self._lanes.setdefault(notification.url, _Lane())
        coming = [notification] * (2 if faults.double else 1)
        if faults.reorder and not lane.held:
            lane.held = coming
            asyncio.get_running_loop().call_later(HELD_S, self._let_go, notification.url, lane, coming)
            return
        self._enqueue(notification.url, lane, [*coming, *lane.held], faults.delay_s)
        lane.held = []

    async def close(self) -> None:
        """Send nothing more."""
        tasks = [each.task for each in self._lanes.values() if each.task is not None]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()

    def _let_go(self, url: str, lane: _Lane, held: list[Notification]) -> None:
        if lane.held is held:
            lane.held = []
            self._enqueue(url, lane, held, self._behaviour().delay_s)

    def _enqueue(self, url: str, lane: _Lane, notifications: list[Notification], delay_s: float) -> None:
        from_s = asyncio.get_running_loop().time() + delay_s
        lane.waiting.extend(_Waiting(from_s, each) for each in notifications)
        if lane.task is None:
            lane.task = asyncio.create_task(self._work(url, lane))

    async def _work(self, url: str, lane: _Lane) -> None:
        loop = asyncio.get_running_loop()
        while lane.waiting:
            first = lane.waiting[0]
            await asyncio.sleep(max(first.from_s - loop.time(), 0.0))
            self.counts[await self._deliver(first.notification)] += 1
            lane.waiting.popleft()
        lane.task = None
        if not lane.held:
            del self._lanes[url]

    async def _deliver(self, notification: Notification) -> Outcome:
        outcome: Outcome = "failed"
        for wait_s in (*RETRIES_S, None):
            if notification.url in self._gone:
                return "gone"
            async with self._slots:
                outcome = await self._attempt(notification)
            if outcome != "failed" or wait_s is None:
                break
            await asyncio.sleep(wait_s)
        if outcome != "sent":
            LOG.warning("notification to %s: %s", notification.url, outcome)
        return outcome

    async def _attempt(self, notification: Notification) -> Outcome:
        """`failed`: it may be tried again."""
        try:
            answer = await self._http.post(
                notification.url, content=notification.body, headers=_headers_of(notification)
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            LOG.info("notification to %s: %s: %s", notification.url, type(error).__name__, error)
            return "failed"
        if answer.is_success:
            return "sent"
        if answer.status_code == HTTP_410_GONE:
            self._gone.add(notification.url)
            return "gone"
        return "failed" if answer.status_code in AGAIN else "refused"


def _headers_of(notification: Notification) -> Mapping[str, str]:
    told = {"Content-Type": notification.content_type}
    if notification.token is not None:
        told["Authorization"] = f"Bearer {notification.token}"
    if notification.correlator is not None:
        told["x-correlator"] = notification.correlator
    return told


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise FatalError(f"{ca}: no certificate of an authority ({error})") from error
