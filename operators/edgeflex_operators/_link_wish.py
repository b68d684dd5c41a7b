"""Which quality a link should have, what was asked for, and what its network made of that.

Times are nanoseconds of a clock that only goes forward; the time of day is asked for where the network's own times are
looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from edgeflex_flow.messages import LinkStatus
from edgeflex_flow.units import NS_PER_S

MOST_PATIENCE = 5
"""How often the time before a quality is given back doubles at most."""
MOST_DOUBLINGS = 32

_Mark = tuple[str | None, str | None, int | None]
"""By which two answers about the same quality are told apart."""


class Terms(NamedTuple):
    """What holds for all links."""

    profiles: tuple[str, ...]
    """That may be asked for, the worst first."""
    hold_ns: int
    settle_ns: int
    """How long rows from before a change of quality are still looked at."""
    release_after_ns: int
    answer_within_ns: int
    retry_min_ns: int
    retry_max_ns: int


class Need(NamedTuple):
    """What measuring says of a link now."""

    text: str
    """What is wrong with it, in words; empty: nothing."""
    broken_since_ns: int | None
    good_since_ns: int | None
    may_help: bool = True
    """Whether a better quality could help."""
    is_lost: bool = False
    """Whether it has been silent for so long that no quality is kept for it."""


class Ask(NamedTuple):
    """What the network is to be asked for now."""

    action: Literal["raise", "release"]
    profile: str | None
    why: str


@dataclass(slots=True)
class _Asked:
    """What was asked for, and is not answered yet."""

    profile: str | None
    """None: to give back what there is."""
    at_ns: int
    before: _Mark | None
    """What the network said at that time."""


@dataclass(slots=True)
class Wish:
    """What is wanted of the quality of one link."""

    status: LinkStatus | None = None
    wanted: str | None = None
    """The profile that should be in force."""
    why: str = ""
    """Why that is wanted, or is not any more."""
    ours: set[str] = field(default_factory=set)
    """Profiles that were asked for here, and may be in force or come into it. Those of others are left to them."""
    asked: _Asked | None = None
    failures: int = 0
    """How often in a row the network did not give what was asked for, or took it away."""
    wait_until_ns: int = 0
    """Until when nothing better is asked for."""
    release_from_ns: int = 0
    """From when on it may be asked once more that a quality is given back."""
    complaint: str = ""
    """What is to be told of what the network does not do."""
    in_force: str | None = None
    """What was in force when it was looked at last."""
    settled_ns: int = 0
    """When what is measured begins to tell of that alone."""
    given_back_ns: int | None = None
    patience: int = 0
    """How often `release_after` is doubled: a quality that was given back too early was needed."""

    def here(self, time_ns: int) -> str | None:
        """The profile that is in force by what the network said last; `time_ns` is the time of day."""
        if self.status is None:
            return None
        expires_ns = self.status.qos_expires_ns
        return None if expires_ns is not None and expires_ns <= time_ns else _given(self.status)

    def hear(self, status: LinkStatus, now_ns: int, terms: Terms) -> None:
        """Take over what the network says."""
        before, self.status = self.status, status
        if self.asked is not None:
            self._answer(self.asked, status, now_ns, terms)
        elif self.wanted is not None and before is not None and _given(before) == self.wanted != _given(status):
            self.ours.clear()
            self._fail(f"{self.wanted} is not in force any more{_because(status)}", now_ns, terms)
        was_held = before is None or before.qos_state != "not_guaranteed"
        if was_held and status.qos_state == "not_guaranteed" and status.profile in self.ours:
            self.complaint = f"the network cannot hold {status.profile} for now{_because(status)}"

    def _answer(self, asked: _Asked, status: LinkStatus, now_ns: int, terms: Terms) -> None:
        if asked.profile is None:
            if status.qos_state in (None, "ended"):
                self.asked, self.failures = None, 0
                self.ours.clear()
        elif _given(status) == asked.profile:
            self.asked = None
        elif status.profile == asked.profile and status.qos_state == "ended" and _mark(status) != asked.before:
            self.ours.discard(asked.profile)
            self._fail(f"the network refuses {asked.profile}{_because(status)}", now_ns, terms)

    def _fail(self, text: str, now_ns: int, terms: Terms) -> None:
        """Wait before the next request, each time longer."""
        self.asked = None
        if now_ns - self.wait_until_ns > terms.retry_max_ns:
            self.failures = 0
        wait_ns = min(terms.retry_min_ns << min(self.failures, MOST_DOUBLINGS), terms.retry_max_ns)
        self.failures += 1
        self.wait_until_ns = now_ns + wait_ns
        if self.failures == 1:
            self.complaint = f"{text}; it is asked again in {wait_ns / NS_PER_S:g} s if it is needed then"

    def decide(self, need: Need, now_ns: int, time_ns: int, terms: Terms) -> Ask | None:
        """What to ask for now; `time_ns` is the time of day."""
        here = self.here(time_ns)
        if here != self.in_force:
            self.in_force = here
            self.settled_ns = now_ns + (terms.settle_ns if here is not None else 0)
        if self.asked is not None:
            if self.asked.profile is not None and self.asked.profile not in terms.profiles:
                self._drop(f"{self.asked.profile} may not be asked for any more")
                self.asked = None
                return self._give_back(here, now_ns)
            if now_ns - self.asked.at_ns < terms.answer_within_ns:
                return None
            self._unanswered(self.asked, now_ns, terms)
        self._want(here, need, now_ns, terms)
        if self.wanted is None:
            return self._give_back(here, now_ns)
        if now_ns < self.wait_until_ns or not need.may_help or self._has(here, terms):
            return None
        self.ours.add(self.wanted)
        self.asked = _Asked(self.wanted, now_ns, _mark(self.status))
        return Ask("raise", self.wanted, self.why)

    def _has(self, here: str | None, terms: Terms) -> bool:
        """Whether what is wanted is in force, or something better."""
        assert self.wanted is not None
        return here is not None and terms.profiles.index(here) >= terms.profiles.index(self.wanted)

    def _unanswered(self, asked: _Asked, now_ns: int, terms: Terms) -> None:
        what = "to a release" if asked.profile is None else f"to what was asked for, {asked.profile},"
        self._fail(f"no answer {what} within {terms.answer_within_ns / NS_PER_S:g} s", now_ns, terms)
        if asked.profile is None:
            self.release_from_ns = self.wait_until_ns

    def _want(self, here: str | None, need: Need, now_ns: int, terms: Terms) -> None:
        if self.wanted is not None and self.wanted not in terms.profiles:
            self._drop(f"{self.wanted} may not be asked for any more")
        if here is not None and here not in terms.profiles:
            self.wanted = None
            return
        broken_ns, good_ns = need.broken_since_ns, need.good_since_ns
        if self.wanted is not None and need.is_lost:
            self._drop(need.text)
        elif broken_ns is not None and need.may_help and now_ns - max(broken_ns, self.settled_ns) >= terms.hold_ns:
            self._want_better(here, need.text, now_ns, terms)
        elif self.wanted is not None and good_ns is not None:
            needed_ns = terms.hold_ns if here is None else terms.release_after_ns << self.patience
            good_for_ns = now_ns - max(good_ns, self.settled_ns)
            if good_for_ns >= needed_ns:
                self.given_back_ns = self.given_back_ns if here is None else now_ns
                self._drop(f"the link has been good for {good_for_ns / NS_PER_S:.0f} s")

    def _drop(self, why: str) -> None:
        self.wanted, self.why = None, why

    def _want_better(self, here: str | None, why: str, now_ns: int, terms: Terms) -> None:
        """The next better profile than the one in force, if there is one; never less than what is wanted already."""
        place = 0 if here is None else terms.profiles.index(here) + 1
        if place == len(terms.profiles) or (self.wanted is not None and terms.profiles.index(self.wanted) >= place):
            return
        if self.wanted is None and self.given_back_ns is not None:
            was_early = now_ns - self.given_back_ns < terms.release_after_ns << self.patience
            self.patience = min(self.patience + 1, MOST_PATIENCE) if was_early else 0
            self.given_back_ns = None
        self.wanted, self.why = terms.profiles[place], why

    def _give_back(self, here: str | None, now_ns: int) -> Ask | None:
        if here is not None and here not in self.ours:
            self.ours.clear()
        if not self.ours or now_ns < self.release_from_ns:
            return None
        if here is None:
            # Nobody knows whether it will come; no change may follow that would answer.
            self.ours.clear()
        else:
            self.asked = _Asked(None, now_ns, _mark(self.status))
        return Ask("release", None, self.why)

    def standing(self, terms: Terms, time_ns: int) -> str:
        """How it stands with the quality, for people who are told that the link is bad."""
        here = self.here(time_ns)
        if self.asked is not None and self.asked.profile is not None:
            return f"{self.asked.profile} is asked for"
        if here is not None and here not in terms.profiles:
            return f"it has {here}, which is not among what may be asked for here"
        if not terms.profiles:
            return "no better quality may be asked for"
        if here == terms.profiles[-1]:
            return f"{here} is in force, and nothing better may be asked for"
        return f"{here} is in force" if here is not None else ""

    def complaints(self) -> list[str]:
        """What is to be told, once."""
        told, self.complaint = self.complaint, ""
        return [told] if told else []


def _given(status: LinkStatus) -> str | None:
    return status.profile if status.qos_state in ("available", "not_guaranteed") else None


def _mark(status: LinkStatus | None) -> _Mark | None:
    return None if status is None else (status.profile, status.qos_state, status.qos_confirmed_ns)


def _because(status: LinkStatus) -> str:
    return f": {status.reason}" if status.reason else ""
