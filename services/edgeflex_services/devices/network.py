"""What the service asks of a network, whichever standard the network speaks.

Each back end translates these requests to network functions: `camara.py` to the APIs of CAMARA, `nef.py` to those of
3GPP's Network Exposure Function. Times are UTC nanoseconds, durations seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec

_MSISDN: Final = re.compile(r"msisdn-([0-9]{5,15})")
_SECRET: Final = re.compile(r"[0-9a-f]{64}")
"""What callbacks are told apart by."""
_EXTERNAL: Final = re.compile(r"extid-([^@]+@[^@]+)")
GPSI_PATTERN: Final = r"^(msisdn-[0-9]{5,15}|extid-[A-Za-z0-9._-]{1,64}@[A-Za-z0-9.-]{1,120})$(?!\n)"
"""A Generic Public Subscription Identifier as TS 29.571 writes it, without the forms that nobody can read."""
UUID_PATTERN: Final = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A field device as networks know it.

    >>> Device(gpsi="msisdn-491701234567").phone_number, Device(gpsi="extid-pmu7@grid.example").external_id
    ('+491701234567', 'pmu7@grid.example')
    """

    gpsi: str
    ipv4_address: str | None = None
    """Its address inside the network: TS 29.122 knows the device of a session by it."""

    @property
    def phone_number(self) -> str | None:
        """E.164 with `+`; None if the GPSI is no MSISDN."""
        found = _MSISDN.fullmatch(self.gpsi)
        return None if found is None else f"+{found[1]}"

    @property
    def external_id(self) -> str | None:
        """`local@domain`; None if the GPSI is no External Identifier."""
        found = _EXTERNAL.fullmatch(self.gpsi)
        return None if found is None else found[1]


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """The flow between a device and a server that a quality is asked for."""

    server_ipv4: str
    server_ports: tuple[int, ...] = ()
    """None: all of the server's."""


MemberState: TypeAlias = Literal["pending", "member", "refused", "gone"]
"""`pending`: the network will tell; `gone`: not, or no longer, in the group."""
SessionState: TypeAlias = Literal["requested", "available", "not_guaranteed", "ended"]
"""`not_guaranteed`: the session stands, but the network cannot hold its quality for now."""
Parameter: TypeAlias = Literal["reachability", "latency", "jitter", "loss", "downlink", "uplink", "signal"]
"""What can be told of a link."""
PARAMETERS: Final[tuple[Parameter, ...]] = (
    "reachability", "latency", "jitter", "loss", "downlink", "uplink", "signal",
)  # fmt: skip


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why the network did what it did, in its own words."""

    code: str
    """Its short word, such as `DEDICATED_NETWORK_ACCESSES.NO_VALID_DEVICE` or `REQUEST_REJECTED`."""
    text: str = ""
    status: int | None = None
    """Of the HTTP answer that told it; None if a notification did."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a device is in a group."""

    state: MemberState
    reason: Reason | None = None


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A quality that a device's link was given."""

    ref: str
    """As the network calls it."""
    state: SessionState
    profile: str
    reason: Reason | None = None
    started_ns: int | None = None
    expires_ns: int | None = None
    """When the network ends it; None: not by itself, or not known yet."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the network says of a parameter of a link."""

    value: float | bool | str | None
    """A number in `unit`, whether data reach it, or a word of the network; None: only `meets_profile` is known."""
    unit: str = ""
    """`s`, `1` (a share), `bit/s`, `dBm`; empty for what is no number."""
    meets_profile: bool | None = None
    """Of parameters that the network compares with the profile."""


class LinkReadings(msgspec.Struct, frozen=True, kw_only=True):
    """What the network says of a link."""

    time_ns: int
    """When it was so; of the answer if the network does not say."""
    readings: dict[Parameter, Reading]
    not_told: dict[Parameter, Reason] = {}
    """What was asked for and is not told, each with why."""


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription to what happens to a link."""

    refs: tuple[str, ...]
    """As the network calls its parts."""
    parameters: tuple[Parameter, ...]
    expires_ns: int | None = None


class MembersChanged(msgspec.Struct, frozen=True, kw_only=True, tag="members"):
    """Devices came into a group, or did not, or left."""

    group_ref: str
    members: dict[str, Membership]
    """By what `Network.member_key` gives for the device."""


class SessionChanged(msgspec.Struct, frozen=True, kw_only=True, tag="session"):
    """A session is in another state."""

    session_ref: str
    state: SessionState | None
    """None: nothing is said of it; only `readings` are told."""
    reason: Reason | None = None
    readings: dict[Parameter, Reading] = {}
    """What the network measured of it, if it said so."""


class LinkChanged(msgspec.Struct, frozen=True, kw_only=True, tag="link"):
    """What a watch saw."""

    watch_ref: str | None
    """Which of the `Watch.refs` saw it; None where the standard does not tell: the callback says which watch it is."""
    readings: dict[Parameter, Reading]
    ends_watch: bool = False
    """This part of the watch tells no more."""


Change: TypeAlias = MembersChanged | SessionChanged | LinkChanged


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """What the network told by itself."""

    id: str | None
    """By which one that comes twice is known; None if the standard has none."""
    time_ns: int | None
    """When it happened; None if the standard does not tell: then the order in which they come is all there is."""
    changes: tuple[Change, ...]


class NetworkError(Exception):
    """The network did not do what was asked."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"{reason.code}: {reason.text}" if reason.text else reason.code)
        self.reason = reason


class NetworkRefusedError(NetworkError):
    """It said no: the same request again gets the same answer."""


class NetworkMissingError(NetworkRefusedError):
    """What the request is about is not there."""


class NetworkAwayError(NetworkError):
    """No answer, or one that says to come again. `may_be_done`: whether it may have carried the request out."""

    def __init__(self, reason: Reason, *, may_be_done: bool, retry_s: float | None = None) -> None:
        super().__init__(reason)
        self.may_be_done = may_be_done
        self.retry_s = retry_s


class BadNotificationError(ValueError):
    """What came back is no notification of the standard."""


class Network(Protocol):
    """A back end. Requests raise NetworkRefusedError, NetworkMissingError or NetworkAwayError.

    `callback_url`s are those of the service, one for each group, session and watch: the network sends its
    notifications there, and shows `callback_token` if its standard lets it.
    """

    standard: str
    identity: str
    """Which network it is, for people: its standard, where it is, and what the service is called there."""
    most_members: int
    """Devices in one request."""
    has_durations: bool
    """Whether the network ends sessions by itself when their time is over."""

    async def profiles(self) -> Sequence[Mapping[str, Any]]:
        """Which qualities there are: each with its `name` and, as far as the network says, `state`, `latency_s`,
        `jitter_s`, `loss`, `downlink_bit_per_s`, `uplink_bit_per_s`, `priority` and `longest_s`. Empty where it does
        not tell of any."""
        ...

    def member_key(self, device: Device) -> str:
        """By what the network names a device in a group. Raises NetworkRefusedError if it cannot know the device."""
        ...

    async def create_group(self, name: str, profiles: Sequence[str], callback_url: str, callback_token: str) -> str:
        """Make an empty group; gives how the network calls it."""
        ...

    async def find_group(self, name: str, callback_url: str) -> str | None:
        """How the network calls a group that was made, perhaps by a request whose answer was lost; None: it was not."""

    async def delete_group(self, ref: str) -> None:
        """Take a group away with all memberships; one that is not there any more is no error."""

    async def add_members(self, ref: str, devices: Sequence[Device]) -> Mapping[str, Membership]:
        """Put devices into a group; what became of each by its `member_key`. At most `most_members`."""
        ...

    async def remove_members(self, ref: str, devices: Sequence[Device]) -> Mapping[str, Membership]:
        """Take devices out; `gone` also for those that were not in it."""
        ...

    async def members(self, ref: str) -> Mapping[str, Membership]:
        """Who is in a group as the network has it."""
        ...

    async def create_session(
        self,
        device: Device,
        traffic: Traffic,
        profile: str,
        duration_s: int,
        callback_url: str,
        callback_token: str,
    ) -> Session:
        """Give the link a quality."""
        ...

    async def session(self, ref: str) -> Session | None:
        """As the network has it; None: it is not there. `requested` where the standard tells no state."""

    async def find_session(self, device: Device, callback_url: str) -> Session | None:
        """The session that was made with this callback, perhaps by a request whose answer was lost."""

    async def extend_session(self, ref: str, more_s: int) -> Session:
        """Let it last longer. NetworkRefusedError where the standard knows no duration."""
        ...

    async def end_session(self, ref: str) -> None:
        """Give the quality back; one that is not there any more is no error."""

    async def read_link(
        self, device: Device, parameters: Sequence[Parameter], traffic: Traffic | None, profile: str | None
    ) -> LinkReadings:
        """What the network says of a link now."""
        ...

    async def watch_link(
        self,
        device: Device,
        parameters: Sequence[Parameter],
        traffic: Traffic | None,
        profile: str | None,
        expires_ns: int,
        callback_url: str,
        callback_token: str,
    ) -> Watch:
        """Have the network tell when a link changes."""
        ...

    async def has_watch(self, watch: Watch) -> bool:
        """Whether the network still has a watch: it may have lost it without a word."""
        ...

    async def end_watch(self, watch: Watch) -> None:
        """Have it tell no more; parts that are not there any more are no error."""

    def read_notification(self, content_type: str, body: bytes) -> Notification:
        """What came to a callback. Raises BadNotificationError."""
        ...

    async def close(self) -> None:
        """Let connections go."""


def reason_of(status: int, body: Mapping[str, Any] | None, code_key: str, text_key: str) -> Reason:
    """What an answer with an error says, as far as it says anything."""
    told = body or {}
    code, text = told.get(code_key), told.get(text_key)
    shown = _SECRET.sub("***", str(text or ""))  # networks send back what they do not like
    return Reason(code=str(code or f"HTTP_{status}"), text=shown[:400], status=status)
