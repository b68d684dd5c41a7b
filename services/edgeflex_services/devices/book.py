"""All that the service knows, in memory and on disk, and who waits for a change of it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from edgeflex_flow.clock import Clock
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.devices.model import (
    AuditEntry,
    DeviceEntry,
    GroupEntry,
    LinkEntry,
    Operation,
    QosEntry,
    Remembered,
    WatchEntry,
)
from edgeflex_services.devices.store import Entry, Store, key_of

KEPT_OPERATIONS: Final = 20_000
KEPT_RESULTS: Final = 200_000
"""Of operations, in all."""
KEPT_KEYS: Final = 20_000
KEPT_REMOVED: Final = 10_000
ANY: Final = "*"
"""No key of an entry."""


class Book:
    """Entries by kind and key. For one thread: that of the event loop.

    A change is on disk before it is seen here, so that nothing is told that a loss of power would take back. Links are
    in memory alone.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self.clock = clock
        self.devices: dict[str, DeviceEntry] = {}
        self.groups: dict[str, GroupEntry] = {}
        self.links: dict[str, LinkEntry] = {}
        self.operations: dict[str, Operation] = {}
        self.qos: dict[str, QosEntry] = {}
        self.keys: dict[str, Remembered] = {}
        self.watches: dict[str, WatchEntry] = {}
        self._tables: dict[type[Entry], dict[str, Any]] = {
            DeviceEntry: self.devices,
            GroupEntry: self.groups,
            LinkEntry: self.links,
            Operation: self.operations,
            QosEntry: self.qos,
            Remembered: self.keys,
            WatchEntry: self.watches,
        }
        self.is_closing = False
        """Nobody should wait any longer."""
        self.removed: dict[str, tuple[int, DeviceEntry]] = {}
        """Devices that left while the service ran, and the `seq` of that, for those who follow links."""
        self._results = 0
        """Of all operations that are kept."""
        self._names: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._callbacks: dict[str, Entry] = {}
        self._store = store
        self._secret = store.secret()
        self._waiting: dict[tuple[type[Entry], str], set[asyncio.Future[None]]] = {}
        for entry in sorted(store.read(), key=_since):
            self._see(entry)
        # Nobody who followed links before a restart takes an old one for a new one.
        newest = max((each.number for each in self.operations.values()), default=0)
        self.seq = max(1000 * clock.now_ns() // NS_PER_S, newest)

    # Reading --------------------------------------------------------------------------------------------------------

    def gpsi_of(self, name: str) -> str | None:
        """Of the device that flows call so."""
        return self._names.get(name)

    def gpsi_at(self, ipv4_address: str) -> str | None:
        """Of the device that has this address in the network."""
        return self._addresses.get(ipv4_address)

    def called_back(self, callback: str) -> Entry | None:
        """The group, session or watch that a callback tells of."""
        return self._callbacks.get(callback)

    def callback_token(self, callback: str) -> str:
        """What a notification must show: nobody else can make it."""
        return hmac.new(self._secret, callback.encode(), "sha256").hexdigest()

    def groups_of(self, gpsi: str) -> Iterator[GroupEntry]:
        return (group for group in self.groups.values() if gpsi in group.members)

    def running(self) -> list[Operation]:
        return [each for each in self.operations.values() if not each.is_over]

    def audit(self, most: int, before: int | None) -> list[AuditEntry]:
        return self._store.audit(most, before)

    def can_write(self) -> bool:
        return self._store.can_write()

    # Changing -------------------------------------------------------------------------------------------------------

    def change(
        self, entries: Iterable[Entry] = (), gone: Iterable[Entry] = (), audit: Sequence[AuditEntry] = ()
    ) -> None:
        """All of it or nothing, on disk first. Raises StoreError."""
        saved, dropped = list(entries), [*gone, *self._too_many()]
        self._store.write(saved, dropped, audit)
        for entry in dropped:
            self._unsee(entry)
            if isinstance(entry, DeviceEntry):
                self.removed[entry.gpsi] = self.next_seq(), entry
                if len(self.removed) > KEPT_REMOVED:
                    del self.removed[next(iter(self.removed))]
        self.see(saved)
        for entry in dropped:
            self._wake(entry)

    def see(self, entries: Iterable[Entry]) -> None:
        """Take over what need not outlive the service: what the network measures comes often, and comes again."""
        for entry in entries:
            self._see(entry)
            self._wake(entry)

    def noted(self, actor: str, action: str, target: str, outcome: str, detail: str = "") -> AuditEntry:
        """An entry of the audit log for `change`."""
        return AuditEntry(
            id=0,
            time_ns=self.clock.now_ns(),
            actor=actor,
            action=action,
            target=target,
            outcome=outcome,
            detail=detail[:400],
        )

    def not_before(self, gpsi: str, time_ns: int) -> int:
        """The time of what is told of a link: now at most, and never before what was told of it last."""
        before = self.links.get(gpsi)
        return max(min(time_ns, self.clock.now_ns()), 0 if before is None else before.time_ns)

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def _see(self, entry: Entry) -> None:
        self._unsee(entry)
        self._tables[type(entry)][key_of(entry)] = entry
        if isinstance(entry, Operation):
            self._results += len(entry.results)
        if isinstance(entry, DeviceEntry):
            self.removed.pop(entry.gpsi, None)
            self._names[entry.name] = entry.gpsi
            if entry.ipv4_address is not None:
                self._addresses[entry.ipv4_address] = entry.gpsi
        if isinstance(entry, GroupEntry | QosEntry | WatchEntry):
            self._callbacks[entry.callback] = entry

    def _unsee(self, entry: Entry) -> None:
        before = self._tables[type(entry)].pop(key_of(entry), None)
        if isinstance(before, Operation):
            self._results -= len(before.results)
        if isinstance(before, DeviceEntry):
            self._names.pop(before.name, None)
            self._addresses.pop(before.ipv4_address or "", None)
        if isinstance(before, GroupEntry | QosEntry | WatchEntry):
            self._callbacks.pop(before.callback, None)

    def _too_many(self) -> Iterator[Entry]:
        """The oldest operations that are over, and the oldest keys, a tenth at once."""
        if len(self.operations) > KEPT_OPERATIONS or self._results > KEPT_RESULTS:
            oldest = islice(self.operations.values(), max(len(self.operations) // 10, 1))
            yield from (each for each in oldest if each.is_over)
        if len(self.keys) > KEPT_KEYS:
            yield from islice(self.keys.values(), KEPT_KEYS // 10)

    # Waiting --------------------------------------------------------------------------------------------------------

    async def wait(self, kind: type[Entry], key: str, seconds: float) -> None:
        """Until that entry changes, or that long. `ANY` as key: until any of its kind does."""
        waiting = self._waiting.setdefault((kind, key), set())
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.add(future)
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await future
        except TimeoutError:
            return
        finally:
            waiting.discard(future)
            if not waiting:
                self._waiting.pop((kind, key), None)

    def _wake(self, entry: Entry) -> None:
        for key in (key_of(entry), ANY):
            _let_go(self._waiting.get((type(entry), key), ()))

    def let_go(self) -> None:
        """Of all who wait: the service ends."""
        self.is_closing = True
        for waiting in self._waiting.values():
            _let_go(waiting)

    def forget_audit(self) -> None:
        self._store.forget_audit()

    def close(self) -> None:
        self._store.close()


def _let_go(waiting: Iterable[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)


def _since(entry: Entry) -> tuple[int, int]:
    """What came first stands first, as it did before a restart."""
    match entry:
        case Operation():
            return entry.number, entry.created_ns
        case Remembered():
            return 0, entry.time_ns
        case _:
            return 0, 0
