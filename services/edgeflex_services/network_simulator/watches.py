"""Subscriptions to what happens to a link."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgeflex_services.network_simulator.world import KEEP_S, Hook, Subscriber, UnknownError, World

WatchState: TypeAlias = Literal["requested", "active", "ended"]
WatchNews: TypeAlias = Literal["started", "seen", "ended"]
EndReason: TypeAlias = Literal[
    "MAX_EVENTS_REACHED", "NETWORK_TERMINATED", "SUBSCRIPTION_EXPIRED", "ACCESS_TOKEN_EXPIRED", "SUBSCRIPTION_DELETED"
]


@dataclass(frozen=True)
class Wanted:
    """What is to be watched, and for how long."""

    look: Callable[[Subscriber], Hashable]
    """What is seen of a link. Told when it becomes something else…"""
    matters: Callable[[Hashable], bool]
    """…that matters."""
    at_once: bool = False
    """Whether also to tell what is seen at the beginning, if it matters."""
    most_events: int | None = None
    ends: tuple[tuple[int, EndReason], ...] = ()
    """When it ends by itself, UTC nanoseconds, and why; the first one counts."""


@dataclass(eq=False)
class Watch:
    """A subscription."""

    id: str
    subscriber: Subscriber
    wanted: Wanted
    tell: Callable[[Watch, WatchNews], None]
    created_ns: int
    about: object = None
    """What the API by which it was made keeps of it."""
    state: WatchState = "requested"
    started_ns: int | None = None
    reason: EndReason | None = None
    seen: Hashable = None
    """What was seen last, which is told with the news `seen`."""
    events: int = 0


class Watches:
    """All subscriptions."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._watches: dict[str, Watch] = {}
        world.gone.append(self._lose)

    def __iter__(self) -> Iterator[Watch]:
        return iter(self._watches.values())

    def watch(self, watch_id: str) -> Watch:
        """Raises UnknownError."""
        if (found := self._watches.get(watch_id)) is None:
            raise UnknownError(f"there is no subscription '{watch_id}'")
        return found

    def create(
        self,
        subscriber: Subscriber,
        wanted: Wanted,
        tell: Callable[[Watch, WatchNews], None],
        *,
        about: object = None,
        waits: bool = True,
        watch_id: str | None = None,
    ) -> Watch:
        """Watch a link; `tell` is called with what happens. `waits`: until the network has made up its mind.

        `watch_id`: of one in whose place it comes.
        """
        watch = Watch(watch_id or str(uuid.uuid4()), subscriber, wanted, tell, self._world.now_ns, about)
        self._watches[watch.id] = watch
        for time_ns, reason in wanted.ends:
            self._world.plan(time_ns, self._ender(watch, reason))
        if waits:
            self._world.grant_later(lambda: self._start(watch))
        else:
            self._start(watch)
        return watch

    def delete(self, watch: Watch) -> None:
        """Watch no more: it is gone at once."""
        self._end(watch, "SUBSCRIPTION_DELETED")
        self._forget(watch)

    def _ender(self, watch: Watch, reason: EndReason) -> Hook:
        return lambda: self._end(watch, reason)

    def _start(self, watch: Watch) -> None:
        if watch.state != "requested":
            return
        if watch.subscriber.is_gone:
            self._end(watch, "NETWORK_TERMINATED")
            return
        watch.state, watch.started_ns = "active", self._world.now_ns
        watch.seen = watch.wanted.look(watch.subscriber)
        watch.subscriber.lookers[watch.id] = lambda: self._look(watch)
        self._tell(watch, "started")
        if watch.wanted.at_once:
            self._see(watch)

    def _look(self, watch: Watch) -> None:
        seen = watch.wanted.look(watch.subscriber)
        if watch.state == "active" and seen != watch.seen:
            watch.seen = seen
            self._see(watch)

    def _see(self, watch: Watch) -> None:
        if not watch.wanted.matters(watch.seen):
            return
        watch.events += 1
        self._tell(watch, "seen")
        if watch.events == watch.wanted.most_events:
            self._end(watch, "MAX_EVENTS_REACHED")

    def _end(self, watch: Watch, reason: EndReason) -> None:
        if watch.state == "ended":
            return
        watch.state, watch.reason = "ended", reason
        watch.subscriber.lookers.pop(watch.id, None)
        self._tell(watch, "ended")
        self._world.plan_in(KEEP_S, lambda: self._forget(watch))

    def _tell(self, watch: Watch, news: WatchNews) -> None:
        self._world.observe({"event": "watch", "id": watch.id, "device": watch.subscriber.device.gpsi, "news": news})
        watch.tell(watch, news)

    def _forget(self, watch: Watch) -> None:
        if self._watches.get(watch.id) is watch:
            del self._watches[watch.id]

    def _lose(self, subscriber: Subscriber) -> None:
        for each in list(subscriber.lookers):
            if each in self._watches:
                self._end(self._watches[each], "NETWORK_TERMINATED")
