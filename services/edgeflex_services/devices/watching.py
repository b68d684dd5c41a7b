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
        told = await self._asking.once(lambda: self._network.read_link(device_of(device), parameters, traffic, profile))
        return self._seen(device.gpsi, told)

    def _seen(self, gpsi: str, told: LinkReadings) -> LinkEntry:
        before = self._book.links.get(gpsi)
        readings = {} if before is None else before.readings
        missing = {} if before is None else before.not_told
        link = LinkEntry(
            gpsi=gpsi,
            seq=self._book.next_seq(),
            time_ns=told.time_ns,
            readings={**{name: each for name, each in readings.items() if name not in told.not_told}, **told.readings},
            not_told={**{name: each for name, each in missing.items() if name not in told.readings}, **told.not_told},
            told_ns=0 if before is None else before.told_ns,
        )
        self._book.see([link])
        return link

    async def watch(self, device: DeviceEntry, wanted: WantedWatch) -> Result:
        """Have the network tell of a link, in place of what it was to tell before. Raises NetworkError."""
        before = self._book.watches.get(device.gpsi)
        now_ns = self._book.clock.now_ns()
        expires_ns = now_ns + wanted.lasts_s * NS_PER_S
        callback = uuid.uuid4().hex
        url, token = self._groups.url_of(callback), self._book.callback_token(callback)
        leftover = () if before is None else (*before.refs, *before.leftover)
        entry = WatchEntry(gpsi=device.gpsi, wanted=wanted, callback=callback, leftover=leftover, expires_ns=expires_ns)
        # Known before it is asked for: the network may tell at once.
        self._book.change([entry])
        try:
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
        except NetworkError:
            self._book.change([] if before is None else [before], gone=[entry] if before is None else [])
            raise
        now = self._book.watches[device.gpsi]  # what the network told meanwhile may have ended it
        ends_ns = min(now.expires_ns, watch.expires_ns or expires_ns)
        self._book.change([replace(now, refs=watch.refs, parameters=watch.parameters, expires_ns=ends_ns)])
        with suppress(NetworkError):
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
            self._book.change(gone=[self._book.watches[device.gpsi]])
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
        if entry is None or device is None:
            return
        await self.watch(device, entry.wanted)
        await self.read(device, entry.wanted.parameters, entry.wanted.server_ipv4, entry.wanted.profile)

    def told(self, entry: WatchEntry, change: LinkChanged, time_ns: int | None) -> bool:
        """Take over what a notification says; whether it was news."""
        now_ns = self._book.clock.now_ns()
        before = self._book.links.get(entry.gpsi)
        told_ns = time_ns if time_ns is not None else now_ns
        if before is not None and told_ns < before.told_ns:
            return False
        readings: Mapping[Parameter, Reading] = {} if before is None else before.readings
        link = LinkEntry(
            gpsi=entry.gpsi,
            seq=self._book.next_seq(),
            time_ns=told_ns,
            readings={**readings, **change.readings},
            not_told={} if before is None else before.not_told,
            told_ns=told_ns,
        )
        # Made by a request whose answer was lost, beside what took its place.
        is_stray = bool(entry.refs) and change.watch_ref is not None and change.watch_ref not in entry.refs
        if is_stray and not change.ends_watch and change.watch_ref not in entry.leftover:
            self._book.change([replace(entry, leftover=(*entry.leftover, str(change.watch_ref)))])
        # What the network ends before its time, even in part, upkeep asks for anew.
        if change.ends_watch and not is_stray:
            self._book.change([replace(entry, expires_ns=now_ns)])
        self._book.see([link])
        return True


def _traffic(server_ipv4: str | None) -> Traffic | None:
    return None if server_ipv4 is None else Traffic(server_ipv4=server_ipv4)
