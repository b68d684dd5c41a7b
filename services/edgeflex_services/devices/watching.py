"""What the network says of links, asked now or told as it changes: requirement 3."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from edgeflex_flow.units import NS_PER_S
from edgeflex_services.devices.asking import Asking
from edgeflex_services.devices.book import Book
from edgeflex_services.devices.grouping import Groups, device_of
from edgeflex_services.devices.model import DeviceEntry, LinkEntry, Result, WantedWatch, WatchEntry
from edgeflex_services.devices.network import (
    LinkChanged,
    LinkReadings,
    Network,
    NetworkError,
    Parameter,
    Reading,
    Reason,
    Traffic,
    Watch,
)

RENEW_SHARE: Final = 0.2
"""A watch is renewed when this share of its time is left."""


class Watches:
    """Reads links and has the network tell of them."""

    def __init__(self, network: Network, asking: Asking, book: Book, groups: Groups) -> None:
        self._network = network
        self._asking = asking
        self._book = book
        self._groups = groups

    async def read(
        self, device: DeviceEntry, parameters: Sequence[Parameter], server_ipv4: str | None, profile: str | None
    ) -> LinkEntry:
        """What the network says now. Raises NetworkError."""
        traffic = _traffic(server_ipv4)
        before = self._book.links.get(device.gpsi)
        told = await self._asking.once(lambda: self._network.read_link(device_of(device), parameters, traffic, profile))
        return self._seen(device.gpsi, told, 0 if before is None else before.told_ns)

    def _seen(self, gpsi: str, told: LinkReadings, told_ns: int) -> LinkEntry:
        """Take over an answer. What a notification told since `told_ns` is newer."""
        before = self._book.links.get(gpsi)
        known: Mapping[Parameter, Reading] = {} if before is None else before.readings
        is_newer = before is not None and before.told_ns > told_ns
        readings: dict[Parameter, Reading] = {}
        for each in (told.readings, known) if is_newer else (known, told.readings):
            readings.update(each)
        link = LinkEntry(
            gpsi=gpsi,
            seq=self._book.next_seq(),
            time_ns=self._book.not_before(gpsi, told.time_ns),
            readings=readings,
            not_told={name: each for name, each in told.not_told.items() if name not in readings},
            told_ns=0 if before is None else before.told_ns,
        )
        if gpsi in self._book.devices:  # else it was removed meanwhile, and whoever has it next is another
            self._book.see([link])
        return link

    async def watch(self, device: DeviceEntry, wanted: WantedWatch) -> Result:
        """Have the network tell of a link, in place of what it was to tell before. Raises NetworkError.

        A device's watch keeps its callback, whatever it is asked for anew: so the old one is heard until the new one
        stands, and what requests made whose answers were lost is known once it tells something.
        """
        entry = self._book.watches.get(device.gpsi)
        begun_ns = self._book.clock.now_ns()
        expires_ns = begun_ns + wanted.lasts_s * NS_PER_S
        if entry is None:
            callback = uuid.uuid4().hex
            entry = WatchEntry(gpsi=device.gpsi, wanted=wanted, callback=callback, expires_ns=expires_ns, is_over=True)
            self._book.change([entry])  # known before it is asked for: the network may tell at once
        url, token = self._groups.url_of(entry.callback), self._book.callback_token(entry.callback)
        watch = await self._asking.patiently(
            lambda: self._network.watch_link(
                device_of(device),
                wanted.parameters,
                _traffic(wanted.server_ipv4),
                wanted.profile,
                expires_ns,
                url,
                token,
            )
        )
        now = self._book.watches[device.gpsi]
        left = [ref for ref in dict.fromkeys((*now.refs, *now.leftover)) if ref not in watch.refs]
        granted_ns = watch.expires_ns or expires_ns
        after = replace(
            now,
            wanted=wanted,
            refs=watch.refs,
            parameters=watch.parameters,
            leftover=tuple(left),
            since_ns=begun_ns,
            expires_ns=granted_ns,
            is_over=False,
        )
        self._book.change([after])
        with suppress(NetworkError):  # upkeep tries it again
            await self.tidy(device.gpsi)
        not_told = [name for name in wanted.parameters if name not in watch.parameters]
        reason = Reason(code="NOT_ALL", text=f"not told by this network: {', '.join(not_told)}") if not_told else None
        return Result(gpsi=device.gpsi, state="watched", reason=reason)

    async def end(self, device: DeviceEntry) -> Result:
        """Have it tell no more. Raises NetworkError."""
        entry = self._book.watches.get(device.gpsi)
        if entry is not None:
            refs = (*entry.refs, *entry.leftover)
            await self._asking.patiently(lambda: self._network.end_watch(Watch(refs=refs, parameters=())))
            now = self._book.watches[device.gpsi]
            self._book.change([replace(now, refs=(), leftover=(), parameters=(), is_over=True)])
        return Result(gpsi=device.gpsi, state="not_watched")

    async def tidy(self, gpsi: str) -> None:
        """Have the network tell no more of what a watch has left over. Raises NetworkError."""
        entry = self._book.watches.get(gpsi)
        if entry is None or not entry.leftover:
            return
        await self._asking.once(lambda: self._network.end_watch(Watch(refs=entry.leftover, parameters=())))
        now = self._book.watches[gpsi]
        self._book.change([replace(now, leftover=tuple(ref for ref in now.leftover if ref not in entry.leftover))])

    async def renew(self, gpsi: str) -> None:
        """Ask for a watch anew before the network ends it, if it is wanted for longer; read what it may have missed.

        Raises NetworkError.
        """
        entry, device = self._book.watches.get(gpsi), self._book.devices.get(gpsi)
        if entry is None or entry.is_over or device is None:
            return
        await self.watch(device, entry.wanted)
        with suppress(NetworkError):
            await self.read(device, entry.wanted.parameters, entry.wanted.server_ipv4, entry.wanted.profile)

    async def compare(self, gpsi: str) -> None:
        """Ask for a watch anew that the network lost without a word. Raises NetworkError."""
        entry = self._book.watches.get(gpsi)
        if entry is None or entry.is_over:
            return
        watch = Watch(refs=entry.refs, parameters=entry.parameters)
        if await self._asking.once(lambda: self._network.has_watch(watch)):
            return
        self._book.change(audit=[self._book.noted("network", "lose_watch", gpsi, "gone")])
        await self.renew(gpsi)

    def told(self, entry: WatchEntry, change: LinkChanged, time_ns: int | None) -> bool:
        """Take over what a notification says; whether it was news."""
        now_ns = self._book.clock.now_ns()
        self._look_at_part(entry, change, now_ns)
        before = self._book.links.get(entry.gpsi)
        # Nothing is told of what is still to come: a clock that is ahead must not make all later news too late.
        told_ns = 0 if time_ns is None else min(time_ns, now_ns)
        if before is not None and time_ns is not None and told_ns < before.told_ns:
            return False
        readings: Mapping[Parameter, Reading] = {} if before is None else before.readings
        link = LinkEntry(
            gpsi=entry.gpsi,
            seq=self._book.next_seq(),
            time_ns=self._book.not_before(entry.gpsi, told_ns or now_ns),
            readings={**readings, **change.readings},
            not_told={} if before is None else before.not_told,
            told_ns=max(told_ns, 0 if before is None else before.told_ns),
        )
        if entry.gpsi in self._book.devices:
            self._book.see([link])
        return True

    def _look_at_part(self, entry: WatchEntry, change: LinkChanged, now_ns: int) -> None:
        """Which subscription tells: one that nobody wants is to be ended; one that ends, to be asked for anew."""
        ref = change.watch_ref
        if ref is not None and ref not in entry.refs:
            if not change.ends_watch and ref not in entry.leftover:
                self._book.change([replace(entry, leftover=(*entry.leftover, ref))])
        elif change.ends_watch:
            self._book.change([replace(entry, expires_ns=now_ns)])


def _traffic(server_ipv4: str | None) -> Traffic | None:
    return None if server_ipv4 is None else Traffic(server_ipv4=server_ipv4)
