"""Groups in the network, and the one in which every device is: requirements 1 and 4.

To bring a device into the network is to make it a member of the group `BASE`, whose access gives it a link.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, TypeAlias

from msgspec.structs import replace

from edgeflex_services.devices.asking import Asking, portions
from edgeflex_services.devices.book import Book
from edgeflex_services.devices.model import DeviceEntry, DeviceState, GroupEntry, Result
from edgeflex_services.devices.network import (
    Device,
    MembersChanged,
    Membership,
    MemberState,
    Network,
    NetworkMissingError,
    NetworkRefusedError,
    Reason,
)
from edgeflex_services.devices.store import Entry

BASE: Final = "onboarded"
POLL_S: Final = 5.0
"""How long a membership may be pending before the network is asked what became of it."""
NOT_TOLD: Final = Reason(code="NO_NEWS", text="the network has not said in time what became of it")
GONE: Final = Reason(code="GONE", text="the network does not have it in the group any more")

_Request: TypeAlias = Callable[[], Awaitable[Mapping[str, Membership]]]


def device_of(entry: DeviceEntry) -> Device:
    return Device(gpsi=entry.gpsi, ipv4_address=entry.ipv4_address)


class Groups:
    """Makes groups, fills them, and takes them away."""

    def __init__(self, network: Network, asking: Asking, book: Book, callback_url: str) -> None:
        self._network = network
        self._asking = asking
        self._book = book
        self._callback_url = callback_url
        self._busy: set[tuple[str, str]] = set()
        """Members, by group and GPSI, of which a request is on its way."""
        self._turn = 0
        self._touched: dict[tuple[str, str], int] = {}
        """When something was last learned of them, counted in turns: what was asked before is older. Only while the
        network is asked."""
        self._polls = 0
        """How many times it is asked now."""

    def url_of(self, callback: str) -> str:
        """Where the network tells of a group, session or watch."""
        return f"{self._callback_url}/{callback}/{self._book.callback_token(callback)}"

    # Groups ---------------------------------------------------------------------------------------------------------

    async def ensure(self, name: str, owner: str = "", profiles: Sequence[str] = ()) -> str:
        """How the network calls a group, which is made if it is not there. Raises NetworkError."""
        group = self._book.groups.get(name)
        if group is not None and group.ref is not None:
            return group.ref
        if group is None:
            group = GroupEntry(name=name, owner=owner, profiles=tuple(profiles), callback=uuid.uuid4().hex)
            self._book.change([group])
        try:
            ref = await self._made(group)
        except NetworkRefusedError:
            if not group.members:
                self._book.change(gone=[group])
            raise
        self._book.change([replace(self._book.groups.get(name, group), ref=ref)])
        return ref

    async def _made(self, group: GroupEntry) -> str:
        url = self.url_of(group.callback)
        token = self._book.callback_token(group.callback)

        async def find() -> str | None:
            return await self._network.find_group(group.name, url)

        # A request from before, perhaps with a book that was lost, may have made it.
        found = await self._asking.patiently(find)
        if found is not None:
            return found
        return await self._asking.patiently(
            lambda: self._network.create_group(group.name, group.profiles, url, token), find
        )

    async def delete(self, name: str) -> None:
        """Take a group away; its devices stay in the network. Raises NetworkError."""
        group = self._book.groups[name]
        ref = group.ref
        if ref is None:  # a request for it may have had no answer
            url = self.url_of(group.callback)
            ref = await self._asking.patiently(lambda: self._network.find_group(name, url))
        if ref is not None:
            there = ref
            with suppress(NetworkMissingError):  # somebody did it already, or an answer was lost
                await self._asking.patiently(lambda: self._network.delete_group(there))
        self._book.change(gone=[self._book.groups[name]])

    async def renew(self, name: str) -> None:
        """Make a group again that the network lost, with all who were in it. Raises NetworkError."""
        group = self._book.groups[name]
        if group.ref is not None:
            note = self._book.noted("network", "lose_group", name, "gone")
            members = {
                gpsi: Membership(state="pending") if each.state == "member" else each
                for gpsi, each in group.members.items()
            }
            lost = replace(group, ref=None, callback=uuid.uuid4().hex, members=members, told_ns={})
            self._book.change([lost], audit=[note])
        await self.add(name, ())

    # Members --------------------------------------------------------------------------------------------------------

    async def add(self, name: str, devices: Sequence[DeviceEntry]) -> tuple[Result, ...]:
        """Put devices into a group, and wait for what becomes of each: `member`, `pending` or `refused`. Into one that
        the network had lost all come that were in it.

        Raises NetworkError; NetworkMissingError if the network has no such group.
        """
        wanted = devices
        devices = [*devices, *self._lost(name, {each.gpsi for each in devices})]
        ref = await self.ensure(name)
        keys, refused = self._keys(devices)
        members = self._book.groups[name].members
        new = [gpsi for gpsi in keys.values() if gpsi not in members or members[gpsi].state != "member"]
        self._apply(name, {gpsi: Membership(state="pending") for gpsi in new} | refused)
        can = [each for each in devices if each.gpsi not in refused]
        with self._busy_with(name, keys.values()):
            for portion in portions(can, self._network.most_members):
                asked = [device_of(each) for each in portion]
                told = await self._told_of(partial(self._network.add_members, ref, asked), asked)
                self._apply(name, {keys[key]: each for key, each in told.items() if key in keys}, is_answer=True)
        await self._settled(name, [each.gpsi for each in can])
        return self._results(name, [each.gpsi for each in wanted])

    def _lost(self, name: str, others: Collection[str]) -> list[DeviceEntry]:
        """Who was in a group that the network lost, and has to come in again, beside these others."""
        group = self._book.groups.get(name)
        if group is None or group.ref is not None:
            return []
        again = [gpsi for gpsi, each in group.members.items() if each.state == "pending" and gpsi not in others]
        devices = [self._book.devices[gpsi] for gpsi in again if gpsi in self._book.devices]
        return [each for each in devices if each.state != "removing"]

    async def remove(self, name: str, devices: Sequence[DeviceEntry]) -> tuple[Result, ...]:
        """Take devices out of a group: each is `gone` or `refused`. Raises NetworkError."""
        group = self._book.groups.get(name)
        keys, _ = self._keys(devices)
        results = {each.gpsi: Result(gpsi=each.gpsi, state="gone") for each in devices}
        if group is None:
            return tuple(results.values())
        if group.ref is None:
            self._apply(name, dict.fromkeys(results, Membership(state="gone")))
            return tuple(results.values())
        ref = group.ref
        there = [each for each in devices if each.gpsi in keys.values()]
        with self._busy_with(name, keys.values()), suppress(NetworkMissingError):  # without the group nobody is in it
            for portion in portions(there, self._network.most_members):
                asked = [device_of(each) for each in portion]
                told = await self._told_of(partial(self._network.remove_members, ref, asked), asked)
                for key, each in told.items():
                    if each.state != "gone":
                        results[keys[key]] = Result(gpsi=keys[key], state="refused", reason=each.reason)
        gone = [gpsi for gpsi, each in results.items() if each.state == "gone"]
        self._apply(name, {gpsi: Membership(state="gone") for gpsi in gone})
        return tuple(results.values())

    @contextmanager
    def _busy_with(self, name: str, gpsis: Iterable[str]) -> Iterator[None]:
        """While the block runs, what the network says of these elsewhere counts for nothing."""
        members = {(name, gpsi) for gpsi in gpsis}
        self._busy |= members
        try:
            yield
        finally:
            self._busy -= members
            self._touch(name, (gpsi for _, gpsi in members))

    def refuse(self, gpsis: Iterable[str], reason: Reason) -> None:
        """Say of devices that were to come in why they cannot."""
        now_ns = self._book.clock.now_ns()
        devices = [self._book.devices[gpsi] for gpsi in gpsis if gpsi in self._book.devices]
        self._book.change(
            [
                replace(each, state="refused", reason=reason, updated_ns=now_ns)
                for each in devices
                if not self._is_in(each)
            ]
        )

    def wait_for(self, gpsis: Iterable[str], reason: Reason) -> None:
        """Say of devices that are still to come in why they are not."""
        devices = [self._book.devices[gpsi] for gpsi in gpsis if gpsi in self._book.devices]
        self._book.change([replace(each, reason=reason) for each in devices if each.state == "onboarding"])

    def stays(self, device: DeviceEntry) -> None:
        """A device that was to be removed is what it is in the network. Raises StoreError."""
        state: DeviceState = "onboarded" if self._is_in(device) else "refused"
        self._book.change([replace(device, state=state, updated_ns=self._book.clock.now_ns())])

    def _is_in(self, device: DeviceEntry) -> bool:
        base = self._book.groups.get(BASE)
        membership = None if base is None else base.members.get(device.gpsi)
        return membership is not None and membership.state == "member"

    def _touch(self, name: str, gpsis: Iterable[str]) -> None:
        self._turn += 1
        if not self._polls:
            return
        self._touched.update(dict.fromkeys(((name, gpsi) for gpsi in gpsis), self._turn))

    async def _told_of(self, request: _Request, asked: Sequence[Device]) -> Mapping[str, Membership]:
        """What became of each; a refusal of all of them is one of each."""
        try:
            return await self._asking.patiently(request)
        except NetworkMissingError:
            raise
        except NetworkRefusedError as error:
            refused = Membership(state="refused", reason=error.reason)
            return {self._network.member_key(each): refused for each in asked}

    def _keys(self, devices: Iterable[DeviceEntry]) -> tuple[dict[str, str], dict[str, Membership]]:
        """GPSIs by what the network calls the devices, and those that it cannot know."""
        keys: dict[str, str] = {}
        refused: dict[str, Membership] = {}
        for each in devices:
            try:
                keys[self._network.member_key(device_of(each))] = each.gpsi
            except NetworkRefusedError as error:
                refused[each.gpsi] = Membership(state="refused", reason=error.reason)
        return keys, refused

    async def _settled(self, name: str, gpsis: Sequence[str]) -> None:
        """Wait until the network has said of each what became of it, asking it where it does not."""
        await self._asking.until_told(
            lambda: self._pending(name, gpsis),
            lambda seconds: self._book.wait(GroupEntry, name, seconds),
            lambda: self.poll(name),
            POLL_S,
        )

    def _pending(self, name: str, gpsis: Iterable[str]) -> list[str]:
        group = self._book.groups.get(name)
        members = {} if group is None else group.members
        return [gpsi for gpsi in gpsis if gpsi in members and members[gpsi].state == "pending"]

    async def poll(self, name: str) -> None:
        """Take over what the network says of all members: notifications may have been lost. Raises NetworkError."""
        group = self._book.groups[name]
        if group.ref is None:
            return
        ref, asked = group.ref, self._turn
        self._polls += 1
        try:
            told = await self._asking.once(lambda: self._network.members(ref))
            self._compare(name, told, asked)
        finally:
            self._polls -= 1
            if not self._polls:
                self._touched.clear()

    def _compare(self, name: str, told: Mapping[str, Membership], asked: int) -> None:
        """Take over what the network has, but of those of which something was learned since it was asked."""
        now = self._book.groups.get(name)
        if now is None:
            return
        known = [each for each in self._book.devices.values() if each.state != "removing"]
        keys, _ = self._keys(known)
        gone = Membership(state="gone", reason=GONE)
        seen = {
            gpsi: told.get(key, gone)
            for key, gpsi in keys.items()
            if (key in told or gpsi in now.members)
            and (name, gpsi) not in self._busy
            and self._touched.get((name, gpsi), 0) <= asked
        }
        self._apply(name, seen)

    def told(self, group: GroupEntry, change: MembersChanged, time_ns: int | None) -> bool:
        """Take over what a notification says; whether any of it was news."""
        members = [self._book.devices[gpsi] for gpsi in group.members if gpsi in self._book.devices]
        keys, _ = self._keys(members)
        if time_ns is not None:
            time_ns = min(time_ns, self._book.clock.now_ns())  # a clock that is ahead must not make later news too late
        newer = {
            keys[key]: each
            for key, each in change.members.items()
            if key in keys and (time_ns is None or time_ns >= group.told_ns.get(keys[key], 0))
        }
        return self._apply(group.name, newer, told_ns=time_ns)

    def _apply(
        self,
        name: str,
        members: Mapping[str, Membership],
        *,
        told_ns: int | None = None,
        is_answer: bool = False,
    ) -> bool:
        """Take over what became of members; whether anything changed."""
        group = self._book.groups.get(name)
        if group is None:
            return False
        # An answer that still waits says nothing new of what a notification has told meanwhile, and one that refuses
        # what is so already takes nothing away.
        stale = {
            gpsi
            for gpsi, each in members.items()
            if is_answer and _is_stale(each.state, group.members.get(gpsi, each).state)
        }
        self._touch(name, members)
        changed = {
            gpsi: each for gpsi, each in members.items() if gpsi not in stale and group.members.get(gpsi) != each
        }
        if not changed:
            return False
        kept = {**group.members, **changed}
        times = group.told_ns if told_ns is None else {**group.told_ns, **dict.fromkeys(changed, told_ns)}
        after = replace(
            group,
            members={gpsi: each for gpsi, each in kept.items() if each.state != "gone"},
            told_ns={gpsi: each for gpsi, each in times.items() if kept[gpsi].state != "gone"},
        )
        self._book.change([after, *self._devices_after(name, changed)])
        return True

    def _devices_after(self, name: str, changed: Mapping[str, Membership]) -> list[Entry]:
        """Devices as their membership of the base group has it."""
        if name != BASE:
            return []
        now_ns = self._book.clock.now_ns()
        entries: list[Entry] = []
        for gpsi, each in changed.items():
            device = self._book.devices.get(gpsi)
            if device is None or device.state == "removing":
                continue
            state = {"member": "onboarded", "pending": "onboarding"}.get(each.state, "refused")
            entries.append(replace(device, state=state, reason=each.reason, updated_ns=now_ns))
        return entries

    def _results(self, name: str, gpsis: Iterable[str]) -> tuple[Result, ...]:
        group = self._book.groups.get(name)
        members = {} if group is None else group.members
        gone = Membership(state="refused", reason=GONE)
        found = [(gpsi, members.get(gpsi, gone)) for gpsi in gpsis]
        return tuple(
            Result(gpsi=gpsi, state=each.state, reason=NOT_TOLD if each.state == "pending" else each.reason)
            for gpsi, each in found
        )


def _is_stale(answer: MemberState, known: MemberState) -> bool:
    return (answer == "pending" and known != "pending") or (answer == "refused" and known == "member")
