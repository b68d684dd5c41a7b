"""The service's work: operations that users ask for, notifications that the network sends, and upkeep between them."""

from __future__ import annotations

import asyncio
import hmac
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, Literal
from weakref import WeakValueDictionary

import msgspec
from msgspec.structs import replace

from edgeflex_services.devices import LOG
from edgeflex_services.devices.asking import TOLD_WHY, Asking
from edgeflex_services.devices.book import Book
from edgeflex_services.devices.grouping import BASE, Groups
from edgeflex_services.devices.model import (
    AuditEntry,
    DeviceEntry,
    GroupEntry,
    MembersChange,
    Operation,
    OperationKind,
    OperationState,
    QosEntry,
    Remembered,
    Result,
    WantedQos,
    WantedWatch,
    WatchEntry,
)
from edgeflex_services.devices.network import (
    BadNotificationError,
    LinkChanged,
    MembersChanged,
    Network,
    NetworkAwayError,
    NetworkError,
    NetworkMissingError,
    NetworkRefusedError,
    Reason,
    SessionChanged,
)
from edgeflex_services.devices.quality import Qualities
from edgeflex_services.devices.store import Entry, StoreError
from edgeflex_services.devices.watching import Watches

GOOD: Final[Mapping[OperationKind, frozenset[str]]] = {
    "onboard": frozenset({"member"}),
    "remove": frozenset({"gone"}),
    "set_qos": frozenset({"available", "not_guaranteed"}),
    "end_qos": frozenset({"ended"}),
    "watch": frozenset({"watched"}),
    "end_watch": frozenset({"not_watched"}),
    "create_group": frozenset(),
    "change_group": frozenset({"member", "gone"}),
    "delete_group": frozenset(),
}
"""States of a device that an operation was to bring about."""
NOT_THERE: Final = Reason(code="NOT_THERE", text="the device is not there any more, or about to be removed")
NOT_ONBOARDED: Final = Reason(code="NOT_ONBOARDED", text="the device is not in the network")
NO_GROUP: Final = Reason(code="NOT_THERE", text="the group is not there any more")
KNOWN_NOTIFICATIONS: Final = 100_000
CANNOT_WRITE: Final = "CANNOT_WRITE"
DEFECT: Final = "DEFECT"
NOT_OF_GROUP: Final = "NOT_OF_GROUP"
NAME_TAKEN: Final = "NAME_TAKEN"


def _not_of_groups(device: DeviceEntry, profile: str, groups: Iterable[GroupEntry]) -> Reason | None:
    """Why a link may not have a quality: groups that name qualities allow their members these, any of them."""
    allowed = {name for each in groups for name in each.profiles}
    if not allowed or profile in allowed:
        return None
    text = f"groups of '{device.name}' have {', '.join(sorted(allowed))}; got {profile}"
    return Reason(code=NOT_OF_GROUP, text=text)


class Desk:
    """Takes requests and has them carried out, one at a time for each device and group."""

    def __init__(self, network: Network, book: Book, callback_url: str, patience_s: float) -> None:
        self.network = network
        self.book = book
        self.asking = Asking(patience_s)
        self.groups = Groups(network, self.asking, book, callback_url)
        self.qualities = Qualities(network, self.asking, book, self.groups)
        self.watches = Watches(network, self.asking, book, self.groups)
        self.counts: Counter[str] = Counter()
        self.waits: dict[str, Reason] = {}
        """By operation, why the network has not done it yet."""
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: dict[str, None] = {}
        self._over: dict[str, tuple[Operation, AuditEntry]] = {}
        """Operations that ended, and are not written down yet."""
        self._staying: set[str] = set()
        """Devices that could not be removed, of which that is still to be written down."""

    # Operations -----------------------------------------------------------------------------------------------------

    def begin(
        self,
        kind: OperationKind,
        target: str,
        owner: str,
        user: str,
        asked: Mapping[str, Any],
        *,
        entries: Iterable[Entry] = (),
        key: Remembered | None = None,
    ) -> Operation:
        """Write a request down, and begin to carry it out. Raises StoreError."""
        entries = list(entries)
        operation = Operation(
            id=uuid.uuid4().hex,
            kind=kind,
            target=target,
            owner=owner,
            requested_by=user,
            asked={**asked, "owners": self._owners(asked, entries)},
            created_ns=self.book.clock.now_ns(),
            number=self.book.next_seq(),
        )
        keys = [] if key is None else [replace(key, operation=operation.id)]
        told = {name: each for name, each in asked.items() if name != "new"}
        note = self.book.noted(user, kind, target, "asked", msgspec.json.encode(told).decode())
        self.book.change([*entries, operation, *keys], audit=[note])
        self._start(operation)
        return operation

    def _owners(self, asked: Mapping[str, Any], entries: Iterable[Entry]) -> dict[str, str]:
        """Of the devices of a request: whoever asks may do so for them, and not for who has the GPSI later."""
        change = asked.get("change", {})
        gpsis = [*asked.get("gpsis", ()), *change.get("add", ()), *change.get("remove", ())]
        known = {gpsi: self.book.devices[gpsi].owner for gpsi in gpsis if gpsi in self.book.devices}
        return known | {each.gpsi: each.owner for each in entries if isinstance(each, DeviceEntry)}

    def resume(self) -> None:
        """Go on with what was under way when the service ended."""
        for operation in self.book.running():  # in the order in which they were asked for
            self._start(operation, again=True)

    async def end(self) -> None:
        """Let go of what is under way: it goes on after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, operation: Operation, *, again: bool = False) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(operation, again=again))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def over(self, operation: Operation, seconds: float) -> Operation:
        """The operation once it is over, or as it is when the time is."""
        end_s = asyncio.get_running_loop().time() + seconds
        while True:
            now = self.book.operations.get(operation.id, operation)
            left_s = end_s - asyncio.get_running_loop().time()
            if now.is_over or left_s <= 0 or self.book.is_closing:
                return now
            await self.book.wait(Operation, operation.id, left_s)

    async def _carry_out(self, operation: Operation, *, again: bool) -> None:
        TOLD_WHY.set(partial(self._wait_for, operation.id))  # in this task, and those that it begins
        try:
            self._finish(operation, await self._work(operation, again=again))
        except NetworkError as error:
            self._finish(operation, (), error.reason)
        except StoreError as error:
            self._finish(operation, (), Reason(code=CANNOT_WRITE, text=str(error)))
        except Exception as error:  # noqa: BLE001 - a defect must not leave an operation without an end
            LOG.exception("operation %s (%s %s)", operation.id, operation.kind, operation.target)
            self._finish(operation, (), Reason(code=DEFECT, text=type(error).__name__))
        finally:
            self.waits.pop(operation.id, None)

    def _wait_for(self, operation_id: str, reason: Reason | None) -> None:
        if reason is None:
            self.waits.pop(operation_id, None)
        else:
            self.waits[operation_id] = reason

    def turn(self, what: Literal["device", "group"], key: str) -> asyncio.Lock:
        """Held by whoever changes a device or group: changes of one come one after the other. Devices come before
        groups, and both in their order, or two would wait for each other."""
        return self._turns.setdefault(f"{what} {key}", asyncio.Lock())

    def is_busy(self, what: Literal["device", "group"], key: str) -> bool:
        """Whether somebody changes it now."""
        turn = self._turns.get(f"{what} {key}")
        return turn is not None and turn.locked()

    @asynccontextmanager
    async def _turns_of(self, gpsis: Iterable[str], group: str | None = None) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for gpsi in sorted(set(gpsis)):
                await stack.enter_async_context(self.turn("device", gpsi))
            if group is not None:
                await stack.enter_async_context(self.turn("group", group))
            yield

    def _finish(self, operation: Operation, results: Sequence[Result], reason: Reason | None = None) -> None:
        good = sum(each.state in GOOD[operation.kind] for each in results)
        if reason is not None or (results and not good):
            state: OperationState = "failed"
        else:
            state = "succeeded" if good == len(results) else "partly"
        if reason is None and state != "succeeded":
            reason = next((each.reason for each in results if each.state not in GOOD[operation.kind]), None)
        done = replace(
            operation,
            state=state,
            reason=reason,
            results=tuple(results),
            asked={},
            ended_ns=self.book.clock.now_ns(),
        )
        text = "" if reason is None else f"{reason.code}: {reason.text}"
        self._over[done.id] = (done, self.book.noted(done.requested_by, done.kind, done.target, state, text))
        self.write_down()

    def _stay(self) -> None:
        """Devices that were to be removed, and could not be, are what they are in the network."""
        for gpsi in list(self._staying):
            device = self.book.devices.get(gpsi)
            try:
                if device is not None and device.state == "removing":
                    self.groups.stays(device)
            except StoreError as error:
                LOG.error("device '%s' is not removed, which cannot be written down: %s", gpsi, error)
                return
            self._staying.discard(gpsi)

    def write_down(self) -> None:
        """Keep how operations ended; while the file takes nothing, at the next time."""
        self._stay()
        for operation, note in list(self._over.values()):
            try:
                self.book.change([operation], audit=[note])
            except StoreError as error:
                LOG.error("operation %s is over, which cannot be written down: %s", operation.id, error)
                return
            del self._over[operation.id]

    def _work(self, operation: Operation, *, again: bool) -> Awaitable[tuple[Result, ...]]:
        """All but a change of quality can be begun anew `again`: what is so already changes nothing."""
        work: dict[OperationKind, Callable[[Operation], Awaitable[tuple[Result, ...]]]] = {
            "onboard": self._onboard,
            "remove": self._remove,
            "set_qos": partial(self._set_qos, again=again),
            "end_qos": self._end_qos,
            "watch": self._watch,
            "end_watch": self._end_watch,
            "create_group": self._create_group,
            "change_group": self._change_group,
            "delete_group": self._delete_group,
        }
        return work[operation.kind](operation)

    async def _each(self, operation: Operation, work: Callable[[DeviceEntry], Awaitable[Result]]) -> tuple[Result, ...]:
        """The same for each device in its turn, beside each other. What goes wrong for one of several is its result;
        for a single one it is raised."""
        gpsis, owners = operation.asked["gpsis"], operation.asked.get("owners", {})

        async def one(gpsi: str) -> Result:
            try:
                async with self.turn("device", gpsi):
                    device = self.book.devices.get(gpsi)  # whoever had the turn before may have removed it
                    if device is None or device.owner != owners.get(gpsi, device.owner):
                        return Result(gpsi=gpsi, state="missing", reason=NOT_THERE)
                    return await work(device)
            except NetworkError as error:
                if len(gpsis) == 1:
                    raise
                state = "unknown" if isinstance(error, NetworkAwayError) else "refused"
                return Result(gpsi=gpsi, state=state, reason=error.reason)
            except StoreError as error:
                if len(gpsis) == 1:
                    raise
                return Result(gpsi=gpsi, state="unknown", reason=Reason(code=CANNOT_WRITE, text=str(error)))

        if len(gpsis) == 1:
            return (await one(gpsis[0]),)
        done = await asyncio.gather(*(one(gpsi) for gpsi in gpsis), return_exceptions=True)
        for each in done:  # only now: nothing goes on unknown to whoever waits for all of it
            if isinstance(each, BaseException):
                raise each
        return tuple(each for each in done if isinstance(each, Result))

    async def _of_onboarded(
        self, operation: Operation, work: Callable[[DeviceEntry], Awaitable[Result]]
    ) -> tuple[Result, ...]:
        """The same for each device that is in the network: others have no link, and may be somebody else's."""

        async def one(device: DeviceEntry) -> Result:
            if device.state != "onboarded":
                return Result(gpsi=device.gpsi, state="refused", reason=NOT_ONBOARDED)
            return await work(device)

        return await self._each(operation, one)

    def _split(self, operation: Operation, gpsis: Sequence[str]) -> tuple[list[DeviceEntry], list[Result]]:
        """Devices that are there and stay, and results for those that do not, or are somebody else's now."""
        owners = operation.asked.get("owners", {})
        there = [self.book.devices[gpsi] for gpsi in gpsis if gpsi in self.book.devices]
        own = [each for each in there if each.owner == owners.get(each.gpsi, each.owner)]
        staying = [each for each in own if each.state != "removing"]
        known = {each.gpsi for each in staying}
        return staying, [Result(gpsi=each, state="missing", reason=NOT_THERE) for each in gpsis if each not in known]

    async def _onboard(self, operation: Operation) -> tuple[Result, ...]:
        gpsis = operation.asked["gpsis"]
        async with self._turns_of(gpsis):
            async with self.turn("group", BASE):
                await self._base(operation)
            devices, missing = self._split(operation, gpsis)
            try:
                return (*await self._added(BASE, devices), *missing)
            except NetworkError as error:
                self.groups.wait_for(gpsis, error.reason)
                raise

    async def _base(self, operation: Operation) -> None:
        """Make the group in which all devices are, if it is not there; without it no device can be."""
        try:
            await self.groups.ensure(BASE)
        except NetworkError as error:
            self.groups.refuse(operation.asked["gpsis"], error.reason)
            raise

    async def _added(self, name: str, devices: Sequence[DeviceEntry]) -> tuple[Result, ...]:
        """Into a group, which is made again if the network lost it."""
        try:
            return await self.groups.add(name, devices)
        except NetworkMissingError:
            await self.groups.renew(name)
            return await self.groups.add(name, devices)

    async def _remove(self, operation: Operation) -> tuple[Result, ...]:
        """Out of all groups and out of the network; its session and watch end first."""

        async def remove(device: DeviceEntry) -> Result:
            try:
                result = await self._removed(device)
            except Exception:
                self._staying.add(device.gpsi)
                raise
            if result.state == "gone":
                self._forget(device)
            else:
                self.groups.stays(device)
            return result

        try:
            return await self._each(operation, remove)
        finally:
            self._stay()

    async def _removed(self, device: DeviceEntry) -> Result:
        await self.qualities.end(device)
        await self.watches.end(device)
        # Out of the base group last, and in any case: it is what gives the device its link.
        names = [each.name for each in self.book.groups_of(device.gpsi) if each.name != BASE]
        result = Result(gpsi=device.gpsi, state="gone")
        for name in (*sorted(names), BASE):
            async with self.turn("group", name):
                [result] = await self.groups.remove(name, [device])
            if result.state != "gone":
                break
        return result

    def _forget(self, device: DeviceEntry) -> None:
        # A watch stays: what its network may still tell of it is to be ended.
        tables: tuple[Mapping[str, Entry], ...] = (self.book.qos, self.book.links)
        self.book.change(gone=[device, *(table[device.gpsi] for table in tables if device.gpsi in table)])

    async def _set_qos(self, operation: Operation, *, again: bool) -> tuple[Result, ...]:
        wanted = msgspec.convert(operation.asked["wanted"], type=WantedQos)

        async def give(device: DeviceEntry) -> Result:
            groups = self.book.groups_of(device.gpsi)
            among = [each for each in groups if each.members[device.gpsi].state in ("member", "pending")]
            reason = _not_of_groups(device, wanted.profile, among)
            if reason is not None:
                raise NetworkRefusedError(reason)
            done = await self.qualities.go_on(device, wanted, operation.created_ns) if again else None
            return done or await self.qualities.set(device, wanted)

        return await self._of_onboarded(operation, give)

    async def _end_qos(self, operation: Operation) -> tuple[Result, ...]:
        return await self._each(operation, self.qualities.end)

    async def _watch(self, operation: Operation) -> tuple[Result, ...]:
        wanted = msgspec.convert(operation.asked["wanted"], type=WantedWatch)
        return await self._of_onboarded(operation, lambda device: self.watches.watch(device, wanted))

    async def _end_watch(self, operation: Operation) -> tuple[Result, ...]:
        return await self._each(operation, self.watches.end)

    async def _create_group(self, operation: Operation) -> tuple[Result, ...]:
        profiles = tuple(operation.asked["profiles"])
        async with self.turn("group", operation.target):
            there = self.book.groups.get(operation.target)
            if there is not None and (there.owner, there.profiles) != (operation.owner, profiles):
                raise NetworkRefusedError(Reason(code=NAME_TAKEN, text=f"another group is called '{there.name}'"))
            await self.groups.ensure(operation.target, operation.owner, profiles)
        return ()

    async def _change_group(self, operation: Operation) -> tuple[Result, ...]:
        name, wanted = operation.target, msgspec.convert(operation.asked["change"], type=MembersChange)
        async with self._turns_of((*wanted.remove, *wanted.add), name):
            group = self.book.groups.get(name)
            if group is None or group.owner != operation.owner:
                raise NetworkRefusedError(NO_GROUP)
            leaving, _ = self._split(operation, wanted.remove)
            # Also those of which nothing but the membership is left.
            ghosts = [gpsi for gpsi in wanted.remove if gpsi not in self.book.devices]
            left = [DeviceEntry(gpsi=gpsi, name="", owner="", updated_ns=0) for gpsi in ghosts]
            gone = await self.groups.remove(name, [*leaving, *left])
            coming, missing = self._split(operation, wanted.add)
            refused = [each for device in coming if (each := self._refused_by(group, device)) is not None]
            kept = {each.gpsi for each in refused}
            added = await self._added(name, [device for device in coming if device.gpsi not in kept])
            return (*gone, *added, *refused, *missing)

    def _refused_by(self, group: GroupEntry, device: DeviceEntry) -> Result | None:
        """A device whose link has a quality that it could not have in a group does not come into it."""
        qos = self.book.qos.get(device.gpsi)
        if qos is None or qos.state == "ended":
            return None
        reason = _not_of_groups(device, qos.wanted.profile, [*self.book.groups_of(device.gpsi), group])
        return None if reason is None else Result(gpsi=device.gpsi, state="refused", reason=reason)

    async def _delete_group(self, operation: Operation) -> tuple[Result, ...]:
        async with self.turn("group", operation.target):
            if operation.target in self.book.groups:
                await self.groups.delete(operation.target)
        return ()

    # Notifications --------------------------------------------------------------------------------------------------

    def is_from_network(self, callback: str, token: str) -> bool:
        """Whether who calls back knows what only the network was told."""
        return hmac.compare_digest(self.book.callback_token(callback).encode(), token.encode())

    def notified(self, callback: str, content_type: str, body: bytes) -> None:
        """Take over what the network tells. Raises BadNotificationError, and LookupError if nobody waits for it."""
        notification = self.network.read_notification(content_type, body)
        entry = self.book.called_back(callback)
        if entry is None:
            self.counts["notifications_for_nobody"] += 1
            raise LookupError(callback)
        key = f"{callback} {notification.id}"
        if key in self._seen:
            self.counts["notifications_twice"] += 1
            return
        for change in notification.changes:
            is_news = self._take(entry, change, notification.time_ns)
            self.counts["notifications" if is_news else "notifications_late"] += 1
        if notification.id is not None:
            self._remember(key)

    def _remember(self, key: str) -> None:
        """Only now that it was taken: one that could not be written down comes again."""
        self._seen[key] = None
        if len(self._seen) > KNOWN_NOTIFICATIONS:
            del self._seen[next(iter(self._seen))]

    def _take(self, entry: Entry, change: MembersChanged | SessionChanged | LinkChanged, time_ns: int | None) -> bool:
        match entry, change:
            case GroupEntry(), MembersChanged():
                return self.groups.told(entry, change, time_ns)
            case QosEntry(), SessionChanged():
                return self.qualities.told(entry, change, time_ns)
            case WatchEntry(), LinkChanged():
                return self.watches.told(entry, change, time_ns)
            case _:
                raise BadNotificationError(
                    f"this callback is for a {type(entry).__name__}, not {type(change).__name__}"
                )
