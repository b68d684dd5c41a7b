"""Sessions of the simulated network: a device's link has the quality of a profile while one of them stands."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from edgeflex_flow.units import NS_PER_S
from edgeflex_services.network_simulator.model import Profile
from edgeflex_services.network_simulator.world import KEEP_S, Subscriber, UnknownError, World

SessionState: TypeAlias = Literal["requested", "available", "ended"]
EndReason: TypeAlias = Literal["DURATION_EXPIRED", "NETWORK_TERMINATED", "DELETE_REQUESTED"]
News: TypeAlias = Literal["granted", "refused", "ended", "guaranteed", "not_guaranteed"]
"""What happened to a session. `refused`: it was taken and then not granted; `ended`: it was there."""
LONGEST_S: Final = 2**31 - 1


class ConflictError(Exception):
    """The device has a session for this flow already."""


class NotAvailableError(Exception):
    """The session is not there yet, or not any more."""


@dataclass(eq=False)
class Session:
    """A quality that a link was given, or is to be given."""

    id: str
    subscriber: Subscriber
    profile: Profile
    flow: Hashable
    """Of which a device has one session at most; None: it may have any number."""
    duration_s: int | None
    """None: until it is given back."""
    tell: Callable[[Session, News], None]
    about: object = None
    """What the API by which it was made keeps of it."""
    state: SessionState = "requested"
    reason: EndReason | None = None
    started_ns: int | None = None
    expires_ns: int | None = None
    is_held: bool = True
    """Whether the link gives what the profile promises, as it was told last."""
    requests: int = 0
    """How often the network was asked for it: only what it says to the last one counts."""


class Sessions:
    """All sessions, and which of them are in force."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sessions: dict[str, Session] = {}
        self._of_flow: dict[tuple[str, Hashable], Session] = {}
        self._of_device: dict[str, dict[str, Session]] = {}
        world.gone.append(self._lose)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def session(self, session_id: str) -> Session:
        """Raises UnknownError."""
        if (found := self._sessions.get(session_id)) is None:
            raise UnknownError(f"there is no session '{session_id}'")
        return found

    def of_device(self, subscriber: Subscriber) -> list[Session]:
        return list(self._of_device.get(subscriber.device.gpsi, {}).values())

    def create(
        self,
        subscriber: Subscriber,
        profile: Profile,
        duration_s: int | None,
        tell: Callable[[Session, News], None],
        *,
        flow: Hashable = None,
        about: object = None,
    ) -> Session:
        """Ask for a session; `tell` is called with what becomes of it. Raises ConflictError."""
        gpsi = subscriber.device.gpsi
        if flow is not None and (gpsi, flow) in self._of_flow:
            raise ConflictError(f"'{gpsi}' has the session '{self._of_flow[gpsi, flow].id}' for this flow")
        session = Session(str(uuid.uuid4()), subscriber, profile, flow, duration_s, tell, about)
        self._sessions[session.id] = session
        self._of_device.setdefault(gpsi, {})[session.id] = session
        if flow is not None:
            self._of_flow[gpsi, flow] = session
        self._ask(session)
        return session

    def change(self, session: Session, profile: Profile) -> None:
        """Ask for another quality in place of the one that it has. Raises NotAvailableError once it has ended."""
        if session.state == "ended":
            raise NotAvailableError(f"the session '{session.id}' has ended")
        self._take_out_of_force(session)
        session.state, session.profile = "requested", profile
        self._ask(session)

    def extend(self, session: Session, more_s: int) -> None:
        """Let it last longer, up to what its profile allows. Raises NotAvailableError."""
        if session.state != "available" or session.duration_s is None or session.started_ns is None:
            raise NotAvailableError(f"the session '{session.id}' is {session.state}, and only one that is there lasts")
        session.duration_s = min(session.duration_s + more_s, session.profile.max_duration_s)
        self._set_end(session, session.started_ns, session.duration_s)

    def delete(self, session: Session) -> None:
        """Give it back: it is gone at once."""
        was_available = session.state == "available"
        self._take_out_of_force(session)
        self._forget(session)
        session.state, session.reason = "ended", "DELETE_REQUESTED"
        if was_available:
            self._tell(session, "ended")

    def terminate(self, session: Session) -> None:
        """End it from the network's side. Nothing happens to one that has ended."""
        if session.state != "ended":
            self._end(session, "NETWORK_TERMINATED", "ended")

    # What the network does ------------------------------------------------------------------------------------------

    def _ask(self, session: Session) -> None:
        session.requests += 1
        request = session.requests
        self._world.grant_later(lambda: self._decide(session, request))

    def _decide(self, session: Session, request: int) -> None:
        if session.state != "requested" or session.requests != request:
            return
        if self._world.is_unwilling():
            self._end(session, "NETWORK_TERMINATED", "refused")
            return
        session.state, session.started_ns, session.is_held = "available", self._world.now_ns, True
        if session.duration_s is not None:
            self._set_end(session, session.started_ns, session.duration_s)
        self._tell(session, "granted")
        session.subscriber.promises[session.id] = session.profile
        session.subscriber.lookers[session.id] = lambda: self._look(session)
        session.subscriber.look()

    def _look(self, session: Session) -> None:
        """See whether the link still gives what the profile promises."""
        if session.is_held != session.subscriber.keeps_promises:
            session.is_held = session.subscriber.keeps_promises
            self._tell(session, "guaranteed" if session.is_held else "not_guaranteed")

    def _set_end(self, session: Session, started_ns: int, duration_s: int) -> None:
        session.expires_ns = started_ns + duration_s * NS_PER_S
        self._world.plan(session.expires_ns, lambda: self._expire(session))

    def _expire(self, session: Session) -> None:
        # One that was made longer has a later end, for which this is planned too.
        is_due = session.expires_ns is not None and session.expires_ns <= self._world.now_ns
        if session.state == "available" and is_due:
            self._end(session, "DURATION_EXPIRED", "ended")

    def _end(self, session: Session, reason: EndReason, news: News) -> None:
        self._take_out_of_force(session)
        session.state, session.reason = "ended", reason
        self._cut_short(session)
        if reason == "DURATION_EXPIRED":
            self._free_flow(session)
        self._world.plan_in(KEEP_S, lambda: self._forget(session))
        self._tell(session, news)

    def _cut_short(self, session: Session) -> None:
        """While a session is over, its duration is how long it really was."""
        if session.duration_s is not None and session.started_ns is not None:
            session.expires_ns = self._world.now_ns
            session.duration_s = max((session.expires_ns - session.started_ns) // NS_PER_S, 1)

    def _tell(self, session: Session, news: News) -> None:
        self._world.observe(
            {
                "event": "session",
                "id": session.id,
                "device": session.subscriber.device.gpsi,
                "profile": session.profile.name,
                "news": news,
                "reason": session.reason,
            }
        )
        session.tell(session, news)

    def _take_out_of_force(self, session: Session) -> None:
        session.subscriber.lookers.pop(session.id, None)
        if session.subscriber.promises.pop(session.id, None) is not None:
            session.subscriber.look()

    def _free_flow(self, session: Session) -> None:
        key = (session.subscriber.device.gpsi, session.flow)
        if self._of_flow.get(key) is session:
            del self._of_flow[key]

    def _forget(self, session: Session) -> None:
        if self._sessions.pop(session.id, None) is None:
            return
        self._free_flow(session)
        gpsi = session.subscriber.device.gpsi
        mine = self._of_device[gpsi]
        del mine[session.id]
        if not mine:
            del self._of_device[gpsi]

    def _lose(self, subscriber: Subscriber) -> None:
        for each in self.of_device(subscriber):
            self.terminate(each)
