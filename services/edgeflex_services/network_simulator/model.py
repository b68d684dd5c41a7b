"""What the simulated network is made of: devices, their links, profiles of quality, and how the network behaves.

Times are seconds, rates bit/s. Latency is one way, from the device to the operator's gateway; jitter is that of the
round trip at the 99th percentile, as CAMARA's QoS profiles have both.
"""

from __future__ import annotations

import ipaddress
import random
import uuid
from collections.abc import Iterable
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

MOST_DEVICES: Final = 100_000
NAMESPACE: Final = uuid.UUID("5f0e9d4c-3e51-4ac4-9d0d-8f7d4d3b5a64")
"""Of ids that are the same each time the network starts: of its network, areas and application profiles."""
NETWORK_NAME: Final = "grid"
FIRST_ADDRESS: Final = ipaddress.IPv4Address("10.64.0.1")

_Latency = Annotated[float, Meta(ge=0, le=60)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Rate = Annotated[int, Meta(ge=0, le=10**12)]
_Duration = Annotated[int, Meta(ge=1, le=31_536_000)]
Gpsi: TypeAlias = Annotated[str, Meta(pattern=r"^(msisdn-[1-9][0-9]{4,14}|extid-[^@\s]{1,64}@[^@\s]{1,120})$")]

Reach: TypeAlias = Literal["data", "sms", "disconnected"]
"""`data`: text messages too; `sms`: nothing else."""


def id_of(kind: str, name: str) -> str:
    """The id of something that has a name, as UUID."""
    return str(uuid.uuid5(NAMESPACE, f"{kind}/{name}"))


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device's link gives by itself."""

    covered: bool = True
    """Whether the network reaches it."""
    sms_only: bool = False
    """Whether it is reached for text messages alone."""
    holds_profiles: bool = True
    """False: its cell is so full that no profile has an effect."""
    latency_s: _Latency = 0.04
    jitter_s: _Latency = 0.01
    loss: _Share = 0.001
    downlink_bit_per_s: _Rate = 20_000_000
    uplink_bit_per_s: _Rate = 10_000_000
    signal_dbm: Annotated[float, Meta(ge=-160, le=0)] = -85.0
    """Power of the reference signal (RSRP)."""

    @property
    def reach(self) -> Reach:
        """For what the network reaches it."""
        if not self.covered:
            return "disconnected"
        return "sms" if self.sms_only else "data"

    @property
    def signal_word(self) -> Literal["excellent", "good", "fair", "poor", "no signal"]:
        """
        >>> Link(signal_dbm=-85).signal_word, Link(signal_dbm=-85, covered=False).signal_word
        ('good', 'no signal')
        """
        if not self.covered:
            return "no signal"
        if self.signal_dbm >= -80:
            return "excellent"
        if self.signal_dbm >= -90:
            return "good"
        return "fair" if self.signal_dbm >= -100 else "poor"


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A subscriber of the network.

    >>> Device(msisdn="491701234567", external_id="pmu7@grid.example").gpsis
    ('msisdn-491701234567', 'extid-pmu7@grid.example')
    """

    msisdn: Annotated[str, Meta(pattern=r"^[1-9][0-9]{4,14}$")] | None = None
    external_id: Annotated[str, Meta(pattern=r"^[^@\s]{1,64}@[^@\s]{1,120}$")] | None = None
    ipv4_address: str | None = None
    """Its address inside the network."""
    link: Link = msgspec.field(default_factory=Link)

    def __post_init__(self) -> None:
        if self.msisdn is None and self.external_id is None:
            raise ValueError("a device has an `msisdn`, an `external_id` or both")
        if self.ipv4_address is not None:
            ipaddress.IPv4Address(self.ipv4_address)

    @property
    def gpsis(self) -> tuple[str, ...]:
        """By which it is known; the first one is its name here."""
        msisdn = () if self.msisdn is None else (f"msisdn-{self.msisdn}",)
        return msisdn if self.external_id is None else (*msisdn, f"extid-{self.external_id}")

    @property
    def gpsi(self) -> str:
        return self.gpsis[0]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A quality that the network sells: what it promises; None: nothing is said of it."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{3,256}$")]
    description: Annotated[str, Meta(max_length=400)] = ""
    status: Literal["ACTIVE", "INACTIVE", "DEPRECATED"] = "ACTIVE"
    latency_s: Annotated[float, Meta(ge=1e-9, le=60)] | None = None
    jitter_s: Annotated[float, Meta(ge=1e-9, le=60)] | None = None
    loss: Annotated[float, Meta(ge=1e-10, le=0.1)] | None = None
    min_downlink_bit_per_s: _Rate | None = None
    min_uplink_bit_per_s: _Rate | None = None
    min_duration_s: _Duration = 1
    max_duration_s: _Duration = 86_400
    priority: Annotated[int, Meta(ge=1, le=100)] = 50
    """The lower, the more important."""

    @property
    def application_profile_id(self) -> str:
        """By which Connectivity Insights knows what the profile asks of a link."""
        return id_of("application-profile", self.name)


PROFILES: Final = (
    Profile(
        name="QOS_E",
        description="Control and protection: low latency, little loss.",
        latency_s=0.01,
        jitter_s=0.005,
        loss=1e-5,
        min_downlink_bit_per_s=1_000_000,
        min_uplink_bit_per_s=1_000_000,
        priority=10,
    ),
    Profile(
        name="QOS_L",
        description="Streams of measurements.",
        latency_s=0.02,
        jitter_s=0.01,
        loss=1e-4,
        min_downlink_bit_per_s=5_000_000,
        min_uplink_bit_per_s=5_000_000,
        priority=20,
    ),
    Profile(name="QOS_M", description="Telemetry.", latency_s=0.05, jitter_s=0.02, loss=1e-3, priority=40),
    Profile(name="QOS_S", description="Readings now and then.", latency_s=0.1, loss=1e-2, priority=60),
    Profile(name="QOS_OLD", description="Not sold any more.", status="DEPRECATED", latency_s=0.1),
)
"""What the network sells if nothing else is said."""


class Quality(NamedTuple):
    """What a link gives while data reach the device."""

    latency_s: float
    jitter_s: float
    loss: float
    downlink_bit_per_s: int
    uplink_bit_per_s: int


def quality_of(link: Link, promises: Iterable[Profile]) -> Quality | None:
    """What a link gives with these profiles in force: the better of its own and what they promise; None: nothing.

    >>> quality_of(Link(latency_s=0.04, loss=0.0), PROFILES[:1])
    Quality(latency_s=0.01, jitter_s=0.005, loss=0.0, downlink_bit_per_s=20000000, uplink_bit_per_s=10000000)
    """
    if link.reach != "data":
        return None
    best = Quality(link.latency_s, link.jitter_s, link.loss, link.downlink_bit_per_s, link.uplink_bit_per_s)
    for each in promises if link.holds_profiles else ():
        best = Quality(
            _lower(best.latency_s, each.latency_s),
            _lower(best.jitter_s, each.jitter_s),
            _lower(best.loss, each.loss),
            max(best.downlink_bit_per_s, each.min_downlink_bit_per_s or 0),
            max(best.uplink_bit_per_s, each.min_uplink_bit_per_s or 0),
        )
    return best


def _lower(own: float, promised: float | None) -> float:
    return own if promised is None else min(own, promised)


class NotifyBehaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong with notifications."""

    lose_share: Annotated[_Share, Meta(description="Share of the notifications that are never sent.")] = 0.0
    double: Annotated[bool, Meta(description="Whether each is sent twice.")] = False
    delay_s: Annotated[float, Meta(ge=0, le=3600, description="So long each is held back.")] = 0.0
    reorder: Annotated[
        bool, Meta(description="Whether each waits until the next one for the same place has been sent.")
    ] = False


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the network is to behave, for tests of its clients."""

    answer_delay_s: Annotated[
        float, Meta(ge=0, le=600, description="So long answers are held back; what they tell of is done before.")
    ] = 0.0
    grant_delay_s: Annotated[
        float,
        Meta(ge=0, le=86_400, description="From a request for a session, membership or watch to its being granted."),
    ] = 0.05
    refuse_share: Annotated[
        _Share, Meta(description="Share of sessions and memberships that are taken and then not granted.")
    ] = 0.0
    seed: Annotated[int | None, Meta(description="Begin chance anew with it; null: go on.")] = None
    refuse_devices: Annotated[
        list[Gpsi], Meta(max_length=MOST_DEVICES, description="GPSIs whose requests are refused at once.")
    ] = []
    fail_status: Annotated[
        Annotated[int, Meta(ge=400, le=599)] | None,
        Meta(description="All requests get this status and nothing is done; null: none."),
    ] = None
    notify: NotifyBehaviour = msgspec.field(default_factory=NotifyBehaviour)


class Setup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network to begin with, as its file gives it."""

    devices: Annotated[list[Device], Meta(max_length=MOST_DEVICES)]
    profiles: Annotated[tuple[Profile, ...], Meta(min_length=1, max_length=100)] = PROFILES
    most_members: Annotated[int, Meta(ge=1, le=10**9)] = MOST_DEVICES
    """Devices that a dedicated network takes."""


def made_up_devices(count: int, seed: int) -> list[Device]:
    """So many devices, each with number, external id, address and a link of its own.

    >>> made_up_devices(2, 1)[1].gpsis
    ('msisdn-4915550000002', 'extid-device-2@grid.example')
    """
    chance = random.Random(seed)  # noqa: S311 - makes up links, guards nothing
    return [
        Device(
            msisdn=f"4915550{number:06d}",
            external_id=f"device-{number}@grid.example",
            ipv4_address=str(FIRST_ADDRESS + number - 1),
            link=Link(
                latency_s=round(chance.uniform(0.03, 0.06), 4),
                jitter_s=round(chance.uniform(0.002, 0.02), 4),
                loss=round(10 ** chance.uniform(-4, -2), 6),
                downlink_bit_per_s=round(chance.uniform(5e6, 1e8)),
                uplink_bit_per_s=round(chance.uniform(2e6, 5e7)),
                signal_dbm=round(chance.uniform(-105, -75), 1),
            ),
        )
        for number in range(1, count + 1)
    ]
