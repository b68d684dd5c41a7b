"""What the service does by itself: it asks the network where notifications may have been lost, ends what is over, and
renews what is to last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final

from msgspec.structs import replace

from edgeflex_services.devices import LOG
from edgeflex_services.devices.desk import Desk
from edgeflex_services.devices.model import DeviceEntry, QosEntry, WatchEntry
from edgeflex_services.devices.network import NetworkAwayError, NetworkError, NetworkMissingError, NetworkRefusedError
from edgeflex_services.devices.quality import needs_upkeep
from edgeflex_services.devices.store import StoreError
from edgeflex_services.devices.watching import RENEW_SHARE

PERIOD_S: Final = 1.0
TRY_AGAIN_S: Final = 30.0
"""After the network did not do what upkeep asked."""
AT_ONCE: Final = 16
AUDIT_PERIOD_S: Final = 3600.0


class Upkeep:
    """Compares what is known with what the network has, each thing every `compare_s`."""

    def __init__(self, desk: Desk, compare_s: float) -> None:
        self._desk = desk
        self._compare_s = compare_s
        self._due_s: dict[str, float] = {}
        self._audit_s = time.monotonic()
        self._failed_s: dict[str, float] = {}
        self._free = asyncio.Semaphore(AT_ONCE)
        self._running: dict[str, asyncio.Task[None]] = {}

    async def go_on(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                try:
                    self._begin_what_is_due()
                except StoreError as error:
                    LOG.warning("upkeep: %s", error)
                except Exception:  # noqa: BLE001 - upkeep of all else goes on
                    LOG.exception("upkeep")
                await asyncio.sleep(PERIOD_S)
        finally:
            for task in list(self._running.values()):
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _begin_what_is_due(self) -> None:
        self._desk.write_down()
        if time.monotonic() >= self._audit_s:
            self._desk.book.forget_audit()
            self._audit_s = time.monotonic() + AUDIT_PERIOD_S
        for name, work in self._due():
            task = asyncio.create_task(self._do(name, work))
            self._running[name] = task
            task.add_done_callback(lambda _, name=name: self._running.pop(name, None))  # type: ignore[misc]

    def _due(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        book, now_ns = self._desk.book, self._desk.book.clock.now_ns()
        for group in book.groups.values():
            is_lost = group.ref is None and bool(group.members)
            if (is_lost or group.ref is not None) and self._is_due(f"group {group.name}", is_urgent=is_lost):
                yield f"group {group.name}", lambda name=group.name: self._group(name)  # type: ignore[misc]
        for qos in book.qos.values():
            device = book.devices.get(qos.gpsi)
            is_over = needs_upkeep(qos, now_ns)
            if device is None or (qos.ref is None and not is_over) or self._desk.is_busy("device", qos.gpsi):
                continue
            name = f"{'overdue ' if is_over else ''}session {qos.gpsi}"
            if self._is_due(name, is_urgent=is_over):
                yield name, lambda qos=qos, device=device: self._session(qos, device)  # type: ignore[misc]
        yield from self._due_watches(now_ns)

    def _due_watches(self, now_ns: int) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        book = self._desk.book
        for watch in list(book.watches.values()):
            gpsi, left_ns = watch.gpsi, watch.expires_ns - now_ns
            is_wanted = gpsi in book.devices and not watch.is_over
            if watch.leftover:
                if self._is_due(f"leftover of {gpsi}", is_urgent=True):
                    yield f"leftover of {gpsi}", partial(self._in_turn, gpsi, self._desk.watches.tidy)
            elif not is_wanted:
                if left_ns <= 0 and not self._desk.is_busy("device", gpsi):
                    book.change(gone=[watch])
            elif left_ns < RENEW_SHARE * (watch.expires_ns - watch.since_ns):
                if self._is_due(f"watch {gpsi}", is_urgent=True):
                    yield f"watch {gpsi}", lambda watch=watch: self._watch(watch)  # type: ignore[misc]
            elif self._is_due(f"compare watch {gpsi}"):
                yield f"compare watch {gpsi}", partial(self._in_turn, gpsi, self._desk.watches.compare)

    async def _in_turn(self, gpsi: str, work: Callable[[str], Awaitable[None]]) -> None:
        async with self._desk.turn("device", gpsi):
            await work(gpsi)

    def _is_due(self, name: str, *, is_urgent: bool = False) -> bool:
        """Whether it is time. What is urgent waits for its turn no longer than a failure takes to be tried again."""
        now_s = time.monotonic()
        if name in self._running:
            return False
        if is_urgent:
            return now_s - self._failed_s.get(name, -TRY_AGAIN_S) >= TRY_AGAIN_S
        return self._due_s.setdefault(name, now_s + self._compare_s) <= now_s

    async def _do(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        wait_s = self._compare_s
        try:
            async with self._free:
                await work()
        except NetworkAwayError as error:
            LOG.warning("%s: %s", name, error)
            wait_s = min(TRY_AGAIN_S, self._compare_s)
        except (NetworkError, StoreError) as error:
            LOG.warning("%s: %s", name, error)
            wait_s = TRY_AGAIN_S
        except Exception:  # noqa: BLE001 - one thing that fails must not end upkeep of all others
            LOG.exception("upkeep of %s", name)
            wait_s = TRY_AGAIN_S
        else:
            self._failed_s.pop(name, None)
            self._due_s[name] = time.monotonic() + wait_s
            return
        self._failed_s[name] = time.monotonic()
        self._due_s[name] = self._failed_s[name] + wait_s
        for times in (self._failed_s, self._due_s):
            if len(times) > 4 * len(self._desk.book.devices) + 1000:
                times.clear()  # names of what is long gone

    async def _group(self, name: str) -> None:
        group = self._desk.book.groups.get(name)
        try:
            if group is not None and group.ref is not None:
                await self._desk.groups.poll(name)
                return
        except NetworkMissingError:
            LOG.warning("the network has lost group '%s': it is made again", name)
        if group is not None:
            async with self._desk.turn("group", name):
                if name in self._desk.book.groups:
                    await self._desk.groups.renew(name)

    async def _session(self, qos: QosEntry, device: DeviceEntry) -> None:
        async with self._desk.turn("device", device.gpsi):
            qualities = self._desk.qualities
            await qualities.look_for(device)
            await qualities.tidy(device)
            await qualities.restore(device)
            await qualities.end_if_over(device)
            now = self._desk.book.qos.get(device.gpsi)
            if now is not None and now.callback == qos.callback:
                await qualities.poll(device.gpsi)

    async def _watch(self, watch: WatchEntry) -> None:
        async with self._desk.turn("device", watch.gpsi):
            now = self._desk.book.watches.get(watch.gpsi)
            if now is None or now.is_over or now.expires_ns != watch.expires_ns:
                return
            try:
                await self._desk.watches.renew(watch.gpsi)
            except NetworkRefusedError as error:
                note = self._desk.book.noted("network", "renew_watch", watch.gpsi, "refused", str(error))
                self._desk.book.change([replace(now, is_over=True, parameters=())], audit=[note])
