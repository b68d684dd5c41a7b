"""Qualities of links: asked for, changed, made longer, given back, and what the network says of them: requirement 2."""

from __future__ import annotations

import uuid
from typing import Final

from msgspec.structs import replace

from edgeflex_flow.units import NS_PER_S
from edgeflex_services.devices.asking import Asking
from edgeflex_services.devices.book import Book
from edgeflex_services.devices.grouping import NOT_TOLD, Groups, device_of
from edgeflex_services.devices.model import Before, DeviceEntry, LinkEntry, QosEntry, Result, WantedQos
from edgeflex_services.devices.network import (
    Network,
    NetworkAwayError,
    NetworkError,
    NetworkMissingError,
    NetworkRefusedError,
    Reason,
    Session,
    SessionChanged,
)

POLL_S: Final = 2.0
"""How long a session may be only requested before the network is asked."""
EXPIRED: Final = Reason(code="DURATION_EXPIRED", text="its time was over")
VANISHED: Final = Reason(code="GONE", text="the network does not have it any more")
NOT_MADE: Final = Reason(code="NO_ANSWER", text="the network did not answer, and has not made it")
TOLD_NS: Final = 1
"""In place of the time of a notification that tells none: only that it came."""
SERVICE: Final = "service"
"""Who does what nobody asked for, in the audit log."""
GIVEN_BACK: Final = Reason(code="DELETE_REQUESTED", text="it was given back")


class Qualities:
    """One session at a time for each device."""

    def __init__(self, network: Network, asking: Asking, book: Book, groups: Groups) -> None:
        self._network = network
        self._asking = asking
        self._book = book
        self._groups = groups

    async def set(self, device: DeviceEntry, wanted: WantedQos) -> Result:
        """Give a link a quality, in place of the one that it has. Where the new one is refused the old one comes back.

        Raises NetworkError.
        """
        await self._asking.patiently(lambda: self.look_for(device))
        entry = self._book.qos.get(device.gpsi)
        if entry is not None and entry.is_there and _is_same(entry.wanted, wanted):
            try:
                return await self._longer(entry, wanted)
            except NetworkMissingError:  # it ended without a word
                self._over(entry.callback, VANISHED)
                entry = self._book.qos.get(device.gpsi)
        before = None if entry is None else entry.before
        if entry is not None and entry.is_there:
            before = Before(wanted=entry.wanted, expires_ns=entry.expires_ns) if entry.is_in_force else before
            await self._give_back(entry, GIVEN_BACK, before)
        try:
            return await self._new(device, wanted, before)
        except NetworkRefusedError as error:
            raise NetworkRefusedError(await self._refused(device, error.reason)) from error

    async def _refused(self, device: DeviceEntry, reason: Reason) -> Reason:
        """Why a change came to nothing, and what became of the quality from before."""
        had = self._book.qos[device.gpsi].before if device.gpsi in self._book.qos else None
        lost = await self.restore(device)
        if had is None or not lost:
            return reason
        return replace(reason, text=f"{reason.text}; {had.wanted.profile} cannot be had again: {lost}".lstrip("; "))

    async def go_on(self, device: DeviceEntry, wanted: WantedQos, since_ns: int) -> Result | None:
        """After a restart: what became of a session that was being asked for; None if it was not asked for yet.

        Raises NetworkError.
        """
        entry = self._book.qos.get(device.gpsi)
        if entry is None or entry.wanted != wanted or entry.state == "ended":
            return None
        if entry.is_in_force:
            return self._result(device.gpsi) if entry.confirmed_ns >= since_ns else None
        try:
            if entry.is_in_doubt:
                return await self._made(device, entry, may_be_there=True)
            return await self._outcome(device.gpsi, entry.callback)
        except NetworkRefusedError as error:
            raise NetworkRefusedError(await self._refused(device, error.reason)) from error

    async def restore(self, device: DeviceEntry) -> str:
        """Ask for what a link had before a change that came to nothing, for the time that was left; why not, or empty.

        While the network is away upkeep tries it again.
        """
        entry = self._book.qos.get(device.gpsi)
        if entry is None or not needs_restoring(entry) or entry.before is None:
            return ""
        before, left_s = entry.before, entry.before.wanted.duration_s
        if before.expires_ns is not None:
            left_s = (before.expires_ns - self._book.clock.now_ns()) // NS_PER_S
        if left_s < 1:
            self._save(replace(entry, before=None))
            return "its time is over"
        try:
            await self._new(device, replace(before.wanted, duration_s=left_s), before)
            outcome, why = "succeeded", ""
        except NetworkRefusedError as error:
            self._save(replace(self._book.qos[device.gpsi], before=None))
            outcome, why = "failed", str(error)
        except NetworkAwayError as error:
            outcome, why = "put off", str(error)
        text = f"{before.wanted.profile} {why}".strip()
        self._book.change(audit=[self._book.noted(SERVICE, "restore_qos", device.gpsi, outcome, text)])
        return why

    async def _new(self, device: DeviceEntry, wanted: WantedQos, before: Before | None) -> Result:
        now_ns = self._book.clock.now_ns()
        entry = QosEntry(gpsi=device.gpsi, wanted=wanted, callback=uuid.uuid4().hex, confirmed_ns=now_ns, before=before)
        self._save(entry)
        return await self._made(device, entry)

    async def _made(self, device: DeviceEntry, entry: QosEntry, *, may_be_there: bool = False) -> Result:
        """Ask for the session of an entry, and wait for what becomes of it. Raises NetworkError."""
        known, url = device_of(device), self._groups.url_of(entry.callback)
        token = self._book.callback_token(entry.callback)
        wanted = entry.wanted

        async def find() -> Session | None:
            return await self._network.find_session(known, url)

        async def make() -> Session:
            return await self._network.create_session(
                known, wanted.traffic, wanted.profile, wanted.duration_s, url, token
            )

        try:
            found = await self._asking.patiently(find) if may_be_there else None
            session = await self._asking.patiently(make, find) if found is None else found
        except NetworkError as error:
            # What may have been made after all stays in doubt, and upkeep looks for it.
            if not (isinstance(error, NetworkAwayError) and error.may_be_done):
                self._over(entry.callback, error.reason)
            raise
        self._answered(entry.callback, session)
        return await self._outcome(device.gpsi, entry.callback)

    async def _outcome(self, gpsi: str, callback: str) -> Result:
        """What became of a session that the network took. Raises NetworkRefusedError if it was not given after all."""
        await self._settled(gpsi, callback)
        entry = self._book.qos[gpsi]
        if entry.state == "ended":
            raise NetworkRefusedError(entry.reason or VANISHED)
        return self._result(gpsi)

    async def look_for(self, device: DeviceEntry) -> None:
        """Find out whether the network made what nobody could be told of. Raises NetworkError."""
        entry = self._book.qos.get(device.gpsi)
        if entry is None or not entry.is_in_doubt:
            return
        url = self._groups.url_of(entry.callback)
        found = await self._asking.once(lambda: self._network.find_session(device_of(device), url))
        if found is None:
            self._over(entry.callback, entry.reason or NOT_MADE)
        else:
            self._answered(entry.callback, found)

    async def tidy(self, device: DeviceEntry) -> None:
        """Give back what the network ended but still has: it may stand in the way of the next. Raises NetworkError."""
        entry = self._book.qos.get(device.gpsi)
        if entry is None or entry.state != "ended" or entry.ref is None:
            return
        ref = entry.ref
        await self._asking.once(lambda: self._network.end_session(ref))
        now = self._book.called_back(entry.callback)
        if isinstance(now, QosEntry):
            self._save(replace(now, ref=None))

    def _answered(self, callback: str, session: Session) -> None:
        """Take over an answer; what a notification said meanwhile is newer."""
        entry = self._book.called_back(callback)
        if not isinstance(entry, QosEntry):
            return
        after = entry.after(session, self._book.clock.now_ns())
        if entry.told_ns:
            after = replace(after, state=entry.state, reason=entry.reason)
        if after.expires_ns is None and session.expires_ns is None and after.state != "requested":
            after = replace(after, expires_ns=self._own_end_ns(after))
        self._save(after)

    def _own_end_ns(self, entry: QosEntry) -> int:
        """When the service itself gives it back, where the network knows no duration."""
        begun_ns = entry.started_ns or self._book.clock.now_ns()
        return begun_ns + entry.wanted.duration_s * NS_PER_S

    async def _longer(self, entry: QosEntry, wanted: WantedQos) -> Result:
        """Let a session last for a duration from now, or longer if it does so already."""
        assert entry.ref is not None
        ref, until_ns = entry.ref, self._book.clock.now_ns() + wanted.duration_s * NS_PER_S
        if not self._network.has_durations:
            there = await self._asking.patiently(lambda: self._network.session(ref))
            if there is None or there.state == "ended":
                raise NetworkMissingError(VANISHED)
            self._save(replace(self._book.qos[entry.gpsi], wanted=wanted, expires_ns=until_ns))
            return self._result(entry.gpsi)

        async def extend() -> Session:
            """Look first, each time: an earlier request may have had no answer."""
            session = await self._network.session(ref)
            if session is None or session.state == "ended":
                raise NetworkMissingError(VANISHED)
            more_ns = until_ns - (session.expires_ns or self._book.clock.now_ns())
            return session if more_ns <= 0 else await self._network.extend_session(ref, -(-more_ns // NS_PER_S))

        session = await self._asking.patiently(extend)
        now = self._book.qos[entry.gpsi]
        after = replace(now.after(session, self._book.clock.now_ns()), wanted=wanted)
        if now.told_ns != entry.told_ns or now.state != entry.state:  # a notification that came meanwhile is newer
            after = replace(after, state=now.state, reason=now.reason, ref=now.ref)
        self._save(after)
        return self._result(entry.gpsi)

    async def end(self, device: DeviceEntry, reason: Reason = GIVEN_BACK) -> Result:
        """Give a quality back. Raises NetworkError."""
        await self._asking.patiently(lambda: self.look_for(device))
        entry = self._book.qos.get(device.gpsi)
        if entry is not None:
            await self._give_back(entry, reason, None)
        return Result(gpsi=device.gpsi, state="ended")

    async def _give_back(self, entry: QosEntry, reason: Reason, before: Before | None) -> None:
        ref = entry.ref
        if ref is not None:
            await self._asking.patiently(lambda: self._network.end_session(ref))
        now = self._book.called_back(entry.callback)
        if isinstance(now, QosEntry):
            why = now.reason if now.state == "ended" else reason
            confirmed_ns = self._book.clock.now_ns()
            self._save(replace(now, state="ended", ref=None, reason=why, before=before, confirmed_ns=confirmed_ns))

    async def _settled(self, gpsi: str, callback: str) -> None:
        """Wait until the network has said what became of a session, asking it where it does not."""
        await self._asking.until_told(
            lambda: self._is_requested(callback),
            lambda seconds: self._book.wait(QosEntry, gpsi, seconds),
            lambda: self.poll(gpsi),
            POLL_S,
        )

    def _is_requested(self, callback: str) -> bool:
        entry = self._book.called_back(callback)
        return isinstance(entry, QosEntry) and entry.state == "requested"

    async def poll(self, gpsi: str) -> None:
        """Take over what the network says of a session: notifications may have been lost. Raises NetworkError."""
        entry = self._book.qos.get(gpsi)
        if entry is None or entry.ref is None or entry.state == "ended":
            return
        ref = entry.ref
        session = await self._asking.once(lambda: self._network.session(ref))
        now = self._book.called_back(entry.callback)
        if now != entry:
            return  # what came meanwhile is newer
        if session is None:
            self._over(entry.callback, VANISHED)
        elif session.state == "requested" and entry.state != "requested":
            self._save(replace(entry, confirmed_ns=self._book.clock.now_ns()))  # the network tells no state this way
        else:
            self._save(entry.after(session, self._book.clock.now_ns()))

    async def end_if_over(self, device: DeviceEntry) -> None:
        """Give back what lasted as long as was asked, where the network does not do so. Raises NetworkError."""
        entry = self._book.qos.get(device.gpsi)
        if entry is None or entry.ref is None or entry.expires_ns is None or entry.state == "ended":
            return
        if entry.expires_ns > self._book.clock.now_ns():
            return
        if self._network.has_durations:
            await self.poll(device.gpsi)
        else:
            await self._give_back(entry, EXPIRED, None)
            note = self._book.noted(SERVICE, "end_qos", device.gpsi, "succeeded", EXPIRED.text)
            self._book.change(audit=[note])

    def told(self, entry: QosEntry, change: SessionChanged, time_ns: int | None) -> bool:
        """Take over what a notification says; whether it was news."""
        now_ns = self._book.clock.now_ns()
        if time_ns is not None:
            time_ns = min(time_ns, now_ns)  # a clock that is ahead must not make all later news too late
            if time_ns < entry.told_ns:
                return False
        if entry.state == "ended" or (entry.ref is not None and change.session_ref not in ("", entry.ref)):
            return False
        state = change.state or entry.state
        after = replace(
            entry,
            state=state,
            reason=entry.reason if change.state is None else change.reason,
            confirmed_ns=now_ns,
            told_ns=max(entry.told_ns, TOLD_NS if time_ns is None else time_ns),
            ref=entry.ref or change.session_ref or None,
        )
        if state == "available" and after.started_ns is None:
            after = replace(after, started_ns=time_ns or now_ns)
        if state != "ended" and after.expires_ns is None:
            after = replace(after, expires_ns=self._own_end_ns(after))
        self._save(after, change)
        if state == "ended" and entry.is_in_force:
            why = "" if change.reason is None else change.reason.code
            self._book.change(audit=[self._book.noted("network", "end_qos", entry.gpsi, "ended", why)])
        return True

    def _over(self, callback: str, reason: Reason) -> None:
        entry = self._book.called_back(callback)
        if isinstance(entry, QosEntry) and entry.state != "ended":
            now_ns = self._book.clock.now_ns()
            self._save(replace(entry, state="ended", ref=None, reason=reason, confirmed_ns=now_ns))

    def _save(self, entry: QosEntry, change: SessionChanged | None = None) -> None:
        """Keep it, and let those who follow the link know."""
        if entry.is_in_force and entry.before is not None:
            entry = replace(entry, before=None)
        link = self._book.links.get(entry.gpsi)
        now_ns = self._book.clock.now_ns()
        seq = self._book.next_seq()
        time_ns = self._book.not_before(entry.gpsi, now_ns)
        link = replace(
            LinkEntry(gpsi=entry.gpsi, seq=seq, time_ns=0) if link is None else link, seq=seq, time_ns=time_ns
        )
        if change is not None and change.readings:
            link = replace(link, readings={**link.readings, **change.readings})
        if change is not None and change.state is None:
            self._book.see([entry, link])
        else:
            self._book.change([entry, link])

    def _result(self, gpsi: str) -> Result:
        entry = self._book.qos[gpsi]
        reason = NOT_TOLD if entry.state == "requested" else entry.reason
        return Result(gpsi=gpsi, state=entry.state, reason=reason)


def needs_restoring(entry: QosEntry) -> bool:
    """Whether what a link had before should come back."""
    return entry.state == "ended" and entry.before is not None


def needs_upkeep(entry: QosEntry, now_ns: int) -> bool:
    """Whether something of it is overdue."""
    if entry.state == "ended":
        return entry.ref is not None or entry.before is not None
    return entry.is_in_doubt or (entry.expires_ns is not None and entry.expires_ns <= now_ns)


def _is_same(one: WantedQos, other: WantedQos) -> bool:
    return replace(one, duration_s=1) == replace(other, duration_s=1)
