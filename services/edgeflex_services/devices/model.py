"""What the service keeps, and tells those who ask."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeflex_services.devices.network import (
    GPSI_PATTERN,
    Membership,
    Parameter,
    Reading,
    Reason,
    Session,
    SessionState,
    Traffic,
)

MOST_AT_ONCE: Final = 1000
"""Devices in a request."""
LONGEST_DURATION_S: Final = 30 * 86_400

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$(?!\n)"
_PROFILE: Final = r"^[A-Za-z0-9_.-]{3,256}$(?!\n)"
_OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = rf"^({_OCTET}\.){{3}}{_OCTET}$(?!\n)"
WORDS: Final = {
    GPSI_PATTERN: "a GPSI, such as msisdn-491701234567 or extid-pmu7@grid.example",
    _NAME: "a name of at most 64 letters, digits and ._:- that begins with a letter or digit",
    _PROFILE: "a quality's name: 3 to 256 letters, digits and _.-",
    _IPV4: "an IPv4 address",
}
"""What each pattern asks for, for people."""

Gpsi: TypeAlias = Annotated[str, Meta(pattern=GPSI_PATTERN)]
Name: TypeAlias = Annotated[str, Meta(pattern=_NAME)]
Profile: TypeAlias = Annotated[str, Meta(pattern=_PROFILE)]
Ipv4: TypeAlias = Annotated[str, Meta(pattern=_IPV4)]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65_535)]
Ports: TypeAlias = Annotated[tuple[Port, ...], Meta(max_length=32)]
Seconds: TypeAlias = Annotated[int, Meta(ge=1, le=LONGEST_DURATION_S)]
Gpsis: TypeAlias = Annotated[tuple[Gpsi, ...], Meta(max_length=MOST_AT_ONCE)]


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request: what nobody knows in it is refused."""


class NewDevice(_Asked, frozen=True, kw_only=True):
    """A device that is to come into the network."""

    gpsi: Gpsi
    name: Name
    """What flows call it."""
    owner: Name
    """The group of the policy system whose members may see and change it."""
    ipv4_address: Ipv4 | None = None
    """Its address inside the network, by which 3GPP's sessions know it."""


class NewDevices(_Asked, frozen=True, kw_only=True):
    """Several devices."""

    devices: Annotated[tuple[NewDevice, ...], Meta(min_length=1, max_length=MOST_AT_ONCE)]


class WantedQos(_Asked, frozen=True, kw_only=True):
    """The quality that a link is to have."""

    profile: Profile
    server_ipv4: Ipv4
    server_ports: Ports = ()
    """None: all of the server's."""
    duration_s: Seconds

    @property
    def traffic(self) -> Traffic:
        return Traffic(server_ipv4=self.server_ipv4, server_ports=self.server_ports)


class WantedWatch(_Asked, frozen=True, kw_only=True):
    """What the network is to tell of a link by itself."""

    parameters: Annotated[tuple[Parameter, ...], Meta(min_length=1, max_length=7)]
    server_ipv4: Ipv4 | None = None
    profile: Profile | None = None
    lasts_s: Seconds


class NewGroup(_Asked, frozen=True, kw_only=True):
    """A group of devices that is to be set apart in the network."""

    name: Name
    owner: Name
    profiles: Annotated[tuple[Profile, ...], Meta(max_length=32)] = ()
    """Which qualities its devices may ask for; none: the network's own choice."""


class MembersChange(_Asked, frozen=True, kw_only=True):
    """Devices that are to come into a group, and to leave it."""

    add: Gpsis = ()
    remove: Gpsis = ()


DeviceState: TypeAlias = Literal["onboarding", "onboarded", "refused", "removing"]


class DeviceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A device."""

    gpsi: str
    name: str
    owner: str
    ipv4_address: str | None = None
    state: DeviceState = "onboarding"
    reason: Reason | None = None
    """Why the network refused it."""
    updated_ns: int


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """A quality that a link had."""

    wanted: WantedQos
    expires_ns: int | None


class QosEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The quality that a device's link has, or was refused."""

    gpsi: str
    wanted: WantedQos
    callback: str
    """Where the network tells of it."""
    state: SessionState = "requested"
    ref: str | None = None
    """As the network calls the session; None: it did not answer, or has it no more."""
    reason: Reason | None = None
    before: Before | None = None
    """What it takes the place of, until it is in force: if it never is, that comes back."""
    started_ns: int | None = None
    expires_ns: int | None = None
    confirmed_ns: int
    """When the network last said so, or when it was asked."""
    told_ns: int = 0
    """The time in the last notification: older ones are too late."""

    @property
    def is_in_force(self) -> bool:
        return self.state in ("available", "not_guaranteed")

    @property
    def is_there(self) -> bool:
        """Whether the network has the session, as far as is known."""
        return self.ref is not None and self.state != "ended"

    @property
    def is_in_doubt(self) -> bool:
        """Whether it was asked for, and nobody knows whether the network made it."""
        return self.state == "requested" and self.ref is None

    def after(self, session: Session, now_ns: int) -> QosEntry:
        """As an answer of the network has it."""
        return msgspec.structs.replace(
            self,
            ref=session.ref,
            state=session.state,
            reason=session.reason,
            started_ns=session.started_ns or self.started_ns,
            expires_ns=session.expires_ns or self.expires_ns,
            confirmed_ns=now_ns,
        )


class WatchEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What the network tells of a link by itself."""

    gpsi: str
    wanted: WantedWatch
    callback: str
    refs: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    """What it really tells."""
    leftover: tuple[str, ...] = ()
    """What the network may tell of beside it, and need not any more."""
    since_ns: int = 0
    """When the network granted it last."""
    expires_ns: int
    is_over: bool = False
    """Nobody wants it any more. Its callback stays until its time is over: what else the network tells there comes of a
    request whose answer was lost, and is ended."""


class LinkEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a link. `seq` grows with each change of any link."""

    gpsi: str
    seq: int
    time_ns: int
    readings: dict[Parameter, Reading] = {}
    not_told: dict[Parameter, Reason] = {}
    told_ns: int = 0


class GroupEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A group in the network."""

    name: str
    owner: str
    profiles: tuple[str, ...] = ()
    callback: str
    ref: str | None = None
    members: dict[str, Membership] = {}
    """By GPSI."""
    told_ns: dict[str, int] = {}
    """The time of the last notification about a member."""


OperationKind: TypeAlias = Literal[
    "onboard", "remove", "set_qos", "end_qos", "watch", "end_watch", "create_group", "change_group", "delete_group"
]
OperationState: TypeAlias = Literal["running", "succeeded", "partly", "failed"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one device of an operation."""

    gpsi: str
    state: str
    reason: Reason | None = None


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A change that the network is asked for."""

    id: str
    kind: OperationKind
    target: str
    """The device or group; of several devices how many."""
    owner: str
    requested_by: str
    asked: dict[str, Any] = {}
    """What it was asked with, to go on with after a restart."""
    state: OperationState = "running"
    created_ns: int
    number: int = 0
    """Grows with each: the order in which they were asked for, whatever the clock does."""
    ended_ns: int | None = None
    reason: Reason | None = None
    results: tuple[Result, ...] = ()

    @property
    def is_over(self) -> bool:
        return self.state != "running"


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What an idempotency key was used for."""

    key: str
    """User and key."""
    digest: str
    operation: str
    time_ns: int


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done or refused."""

    id: int
    time_ns: int
    actor: str
    """A user, or `network` for what it did by itself."""
    action: str
    target: str
    outcome: str
    detail: str = ""
