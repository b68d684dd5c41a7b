"""The simulated network itself: who its subscribers are, what their links give, and what happens when.

For one thread. Nothing happens by itself: `go_on` does what is due by the clock, each thing at the time at which it was
due, so that a clock that jumps gives the same course as one that runs.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from edgeflex_flow.clock import Clock
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.network_simulator.model import (
    Behaviour,
    Device,
    Link,
    Profile,
    Quality,
    Setup,
    quality_of,
)

KEEP_S: Final = 360.0
"""How long what has ended can still be looked at: the least that CAMARA's Quality-On-Demand asks for."""

LOG = logging.getLogger("edgeflex.network")

Hook = Callable[[], None]


class UnknownError(Exception):
    """There is no such thing in the network."""


class TakenError(Exception):
    """Another device has this number, external id or address."""


class MovedClock:
    """A clock that may be moved ahead of another one, and goes as fast."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead_ns = 0

    def now_ns(self) -> int:
        return self._clock.now_ns() + self.ahead_ns

    def monotonic_ns(self) -> int:
        return self._clock.monotonic_ns() + self.ahead_ns

    def move(self, ahead_s: float) -> None:
        """Move it ahead, from where it is, by that much."""
        self.ahead_ns += round(ahead_s * NS_PER_S)


@dataclass(eq=False)
class Subscriber:
    """A device while the network knows it."""

    device: Device
    promises: dict[str, Profile] = field(default_factory=dict)
    """Profiles in force, by the id of their session."""
    lookers: dict[str, Hook] = field(default_factory=dict)
    """Called when the link gives something else, by who looks."""
    changes: int = 0
    """Of its link so far."""
    is_gone: bool = False
    """Whether the network knows it no more."""

    @property
    def link(self) -> Link:
        return self.device.link

    @property
    def quality(self) -> Quality | None:
        """What its link gives now; None: no data reach it."""
        return quality_of(self.link, self.promises.values())

    @property
    def keeps_promises(self) -> bool:
        """Whether its link gives now what profiles promise."""
        return self.link.reach == "data" and self.link.holds_profiles

    def look(self) -> None:
        """Have all look who look at its link."""
        for each in list(self.lookers.values()):
            each()


class _Due(NamedTuple):
    time_ns: int
    number: int
    """In which order things were planned for a time."""
    do: Hook


class World:
    """Subscribers, profiles, time and chance."""

    def __init__(self, clock: Clock, setup: Setup, *, seed: int | None = None) -> None:
        self.profiles = {each.name: each for each in setup.profiles}
        self.application_profiles = {each.application_profile_id: each for each in setup.profiles}
        self.most_members = setup.most_members
        self.chance = random.Random(seed)  # noqa: S311 - refuses and loses in tests, guards nothing
        self.wake: Hook = lambda: None
        """Called when something was planned that is due before all else."""
        self.observe: Callable[[Mapping[str, object]], None] = lambda _: None
        """Called with what happens, for those who look on."""
        self.gone: list[Callable[[Subscriber], None]] = []
        """Called with a subscriber that the network does not know any more."""
        self._clock = clock
        self._now_ns = clock.now_ns()
        self._due: list[_Due] = []
        self._numbers = itertools.count()
        self._subscribers: dict[str, Subscriber] = {}
        """By each of their GPSIs."""
        self._addresses: dict[str, Subscriber] = {}
        self._behaviour = Behaviour()
        self._refused: frozenset[str] = frozenset()
        for each in setup.devices:
            self.add(each)

    # Time -----------------------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """UTC nanoseconds up to which all that was due is done."""
        return self._now_ns

    @property
    def next_due_ns(self) -> int | None:
        """When something is due next."""
        return self._due[0].time_ns if self._due else None

    def plan(self, time_ns: int, do: Hook) -> None:
        """Have something done at a time. Whether it is still to be done then is for it to see."""
        due = _Due(max(time_ns, self._now_ns), next(self._numbers), do)
        heapq.heappush(self._due, due)
        if self._due[0] is due:
            self.wake()

    def plan_in(self, wait_s: float, do: Hook) -> None:
        """Have something done after so long."""
        self.plan(self._now_ns + round(wait_s * NS_PER_S), do)

    def grant_later(self, do: Hook) -> None:
        """Do something once the network has made up its mind, which it may have already."""
        if self._behaviour.grant_delay_s == 0:
            do()
        else:
            self.plan_in(self._behaviour.grant_delay_s, do)

    def go_on(self) -> None:
        """Do what is due."""
        until_ns = max(self._clock.now_ns(), self._now_ns)
        while self._due and self._due[0].time_ns <= until_ns:
            due = heapq.heappop(self._due)
            self._now_ns = max(self._now_ns, due.time_ns)
            try:
                due.do()
            except Exception:
                LOG.exception("what was due in the network cannot be done")
        self._now_ns = until_ns

    # Behaviour ------------------------------------------------------------------------------------------------------

    @property
    def behaviour(self) -> Behaviour:
        return self._behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._refused = frozenset(behaviour.refuse_devices)
        if behaviour.seed is not None:
            self.chance.seed(behaviour.seed)

    def refuses(self, subscriber: Subscriber) -> bool:
        """Whether it is to have nothing."""
        return not self._refused.isdisjoint(subscriber.device.gpsis)

    def is_unwilling(self) -> bool:
        """Whether, by chance, what was taken is not granted."""
        return self.chance.random() < self._behaviour.refuse_share

    # Subscribers ----------------------------------------------------------------------------------------------------

    def subscriber(self, gpsi: str) -> Subscriber:
        """Raises UnknownError."""
        if (found := self._subscribers.get(gpsi)) is None:
            raise UnknownError(f"the network knows no device '{gpsi}'")
        return found

    def at_address(self, ipv4_address: str) -> Subscriber:
        """Raises UnknownError."""
        if (found := self._addresses.get(ipv4_address)) is None:
            raise UnknownError(f"no device of the network has the address '{ipv4_address}'")
        return found

    def subscribers(self) -> Iterator[Subscriber]:
        """Each once."""
        return (each for gpsi, each in self._subscribers.items() if gpsi == each.device.gpsi)

    def add(self, device: Device) -> Subscriber:
        """Raises TakenError."""
        for gpsi in device.gpsis:
            if gpsi in self._subscribers:
                raise TakenError(f"another device is '{gpsi}' already")
        if device.ipv4_address in self._addresses:
            raise TakenError(f"another device has the address '{device.ipv4_address}' already")
        subscriber = Subscriber(device)
        self._subscribers |= dict.fromkeys(device.gpsis, subscriber)
        if device.ipv4_address is not None:
            self._addresses[device.ipv4_address] = subscriber
        return subscriber

    def remove(self, gpsi: str) -> None:
        """Know a device no more: what it was given ends. Raises UnknownError."""
        subscriber = self.subscriber(gpsi)
        for each in subscriber.device.gpsis:
            del self._subscribers[each]
        if subscriber.device.ipv4_address is not None:
            del self._addresses[subscriber.device.ipv4_address]
        subscriber.is_gone = True
        self.observe({"event": "gone", "device": gpsi})
        for tell in self.gone:
            tell(subscriber)

    def change_link(self, subscriber: Subscriber, changes: Mapping[str, Any], for_s: float | None = None) -> None:
        """Let a link give something else: for so long, if it does not change again before; None: from now on."""
        before = {name: getattr(subscriber.link, name) for name in changes}
        self._set_link(subscriber, changes)
        if for_s is not None:
            number = subscriber.changes
            self.plan_in(for_s, lambda: self._set_back(subscriber, before, number))

    def _set_back(self, subscriber: Subscriber, before: Mapping[str, Any], number: int) -> None:
        if subscriber.changes == number:
            self._set_link(subscriber, before)

    def _set_link(self, subscriber: Subscriber, changes: Mapping[str, Any]) -> None:
        link = msgspec.structs.replace(subscriber.link, **changes)
        subscriber.device = msgspec.structs.replace(subscriber.device, link=link)
        subscriber.changes += 1
        self.observe({"event": "link", "device": subscriber.device.gpsi, **changes})
        subscriber.look()
