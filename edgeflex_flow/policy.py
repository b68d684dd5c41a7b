"""Settings that a policy may change within limits which the flow file declares, and what gives policies to a flow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from edgeflex_flow.errors import RetryableError
from edgeflex_flow.messages import Policy, PolicyKind, TimeNs

POLICIES = "policies"
"""Family of the connections to policy systems. A site has one at most."""

WILDCARD = "*"
_WORD = "[A-Za-z0-9_-]+"

Texts: TypeAlias = str | tuple[str, ...]


class PolicyBinding(msgspec.Struct, frozen=True, kw_only=True):
    """A config field bound to a policy: `{policy: NAME, field: FIELD, default: …, min: …, max: …}`.

    Values are in the unit of the config field; `default` holds until a policy says otherwise.
    """

    policy: str
    field: str
    default: float
    min: float
    max: float

    @property
    def key(self) -> str:
        """How messages name it."""
        return f"{self.policy}.{self.field}"


class TextBinding(msgspec.Struct, frozen=True, kw_only=True):
    """A text, or texts, bound to a policy: `{policy: NAME, field: FIELD, default: …, allowed: [PATTERN, …]}`."""

    policy: str
    field: str
    default: Texts
    allowed: tuple[str, ...]
    """Patterns, of which each text that a policy gives must match one as a whole."""

    @property
    def key(self) -> str:
        """How messages name it."""
        return f"{self.policy}.{self.field}"


Binding: TypeAlias = PolicyBinding | TextBinding


def is_allowed(text: str, patterns: Sequence[str]) -> bool:
    """Whether a text matches one of the patterns as a whole.

    `*` stands for ASCII letters, digits, `_` and `-`, one at least: it crosses no `/`, `.`, `:` or `@`, so that it lets
    in neither another folder, host or port nor a user, and no wildcard of MQTT.

    >>> is_allowed("grid/north/pmu", ["grid/*/pmu"]), is_allowed("grid/../pmu", ["grid/*/pmu"])
    (True, False)
    >>> is_allowed("https://b.evil.example/api", ["https://*.example/api"])
    False
    """
    return any(_expression(pattern).fullmatch(text) for pattern in patterns)


@lru_cache(maxsize=1000)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(_WORD.join(re.escape(part) for part in pattern.split(WILDCARD)))


CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)"
"""A time of day (UTC) as people write it in a policy of flexibility: `06:00`. In Python, `$` alone lets a newline
follow."""
TIMES_OF_DAY = ("window_begin", "window_end")


def field_values(kind: PolicyKind, written: Mapping[str, Any]) -> dict[str, Any]:
    """What parameters of flows can be bound to, of the fields of a policy as they are written: what is left empty is
    not said, and a time of day is the time since midnight.

    >>> field_values("flexibility", {"window_begin": "06:00", "window_end": "22:30", "min_power": None})
    {'window_begin': '6 h', 'window_end': '1350 min'}
    """
    said = {name: value for name, value in written.items() if value is not None}
    if kind != "flexibility":
        return said
    return said | {name: _since_midnight(said[name]) for name in TIMES_OF_DAY if name in said}


def _since_midnight(time: Any) -> Any:
    """As a quantity; what is no time of day stays as it is."""
    if not isinstance(time, str) or not re.match(CLOCK, time):
        return time
    minutes = minutes_of(time)
    return f"{minutes} min" if minutes % 60 else f"{minutes // 60} h"


def minutes_of(clock: str) -> int:
    """Minutes since midnight of HH:MM.

    >>> minutes_of("06:30")
    390
    """
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)


class PolicyEffect(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy changed in a flow, or could not change, as it is reported to the policy system."""

    policy_group: str
    policy_id: str
    version: int
    """When the default holds again, since the policy says nothing any more, that which held before."""
    site: str
    flow: str
    node: str
    """For a connection of the site `connection NAME`."""
    setting: str
    before: str
    """In words, with the unit."""
    after: str
    """What holds now, or what was wanted and refused."""
    refused: str | None
    """Why it was refused."""
    time_ns: TimeNs


class RefusedEffect(msgspec.Struct, frozen=True):
    """One that was not kept."""

    at: int
    """Its place among those that were sent, from 0."""
    why: str


class KeptEffects(msgspec.Struct, frozen=True):
    """What became of effects."""

    kept: int
    refused: list[RefusedEffect]


class PolicyAnswer(NamedTuple):
    """What a policy system answered."""

    policies: tuple[Policy, ...]
    etag: str = ""
    """Names this answer in later questions; empty if the policy system gives none."""
    unreadable: frozenset[str] = frozenset()
    """Ids of policies that are there, but cannot be read."""


class PolicySystemError(RetryableError):
    """The policy system gave no answer that can be used."""

    def __init__(self, text: str, *, wait_s: float = 0.0, is_refusal: bool = False, is_final: bool = False) -> None:
        self.wait_s = wait_s
        """How long it asks to be left alone, in seconds."""
        self.is_refusal = is_refusal
        """It knows this client and lets it not in, or does not know it (401, 403)."""
        self.is_final = is_final
        """The same again would be refused again."""
        super().__init__(text)


class PolicyTerms(NamedTuple):
    """How a site uses its policy system."""

    group: str
    url: str
    refresh_s: float
    max_age_s: float
    """Without the policy system for so long, what it said last holds no longer."""
    keep: str | None
    """Folder for what it said last; as in the site file."""


class PolicySystem(Protocol):
    """A client of a policy system: what a connection of the family `policies` opens. One thread uses it."""

    @property
    def terms(self) -> PolicyTerms: ...

    def ask(self, policy_ids: Sequence[str], etag: str) -> PolicyAnswer | None:
        """The policies with these ids (all of the group for none) that this site may read, in one request.

        None if they are as in the answer with this `etag`. Raises PolicySystemError.
        """
        ...

    def report(self, effects: Sequence[PolicyEffect]) -> Sequence[RefusedEffect]:
        """Tell what policies changed; those that it does not keep. Raises PolicySystemError."""
        ...

    def abort(self) -> None:
        """Give up a request that is on its way, and all later ones. Any thread."""

    def close(self) -> None:
        """Release everything."""
