"""CAMARA's Device Reachability Status 1.2.0-rc.3 and Connectivity Insights 0.7.0-rc.1: what a link gives now."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, Final

from litestar import Controller, Response, post
from msgspec import UNSET, UnsetType

from edgeflex_services.network_simulator.camara_common import (
    ApplicationServer,
    CamaraBody,
    CamaraError,
    DeviceIds,
    Moment,
    Ports,
    find,
    id_in_path,
    read,
)
from edgeflex_services.network_simulator.door import moment_text
from edgeflex_services.network_simulator.model import Profile, Quality, Reach
from edgeflex_services.network_simulator.simulation import AnyRequest, simulation_of
from edgeflex_services.network_simulator.world import Subscriber, World

MEETS: Final = "meets the application requirements"
FAILS: Final = "unable to meet the application requirements"
CONNECTIVITY: Final[Mapping[Reach, list[str]]] = {"data": ["DATA", "SMS"], "sms": ["SMS"], "disconnected": []}
TECHNOLOGY: Final = "5G-SA"
_NOTHING: Final = Quality(math.inf, math.inf, math.inf, -1, -1)
"""What a link gives while no data reach the device: it meets nothing."""


class RetrieveReachability(CamaraBody, frozen=True, kw_only=True):
    device: DeviceIds | UnsetType = UNSET


class CheckQuality(CamaraBody, frozen=True, kw_only=True):
    application_profile_id: str
    device: DeviceIds | UnsetType = UNSET
    application_server: ApplicationServer
    application_server_ports: Ports | UnsetType = UNSET
    monitoring_time_stamp: Moment | UnsetType = UNSET
    """Also for a time to come what is so now is told."""


class DeviceReachabilityStatus(Controller):
    path = "/device-reachability-status/v1rc3"

    @post("/retrieve", status_code=200)
    async def retrieve(self, request: AnyRequest) -> Response[Any]:
        world = simulation_of(request).world
        asked = await read(request, RetrieveReachability)
        found = find(world, asked.device)
        connectivity = CONNECTIVITY[found.subscriber.link.reach]
        told = {"lastStatusTime": moment_text(world.now_ns), "reachable": bool(connectivity), "device": found.shown}
        return Response({**told, **({"connectivity": connectivity} if connectivity else {})})


class ConnectivityInsights(Controller):
    path = "/connectivity-insights/v0.7rc1"

    @post("/check-network-quality", status_code=200)
    async def check(self, request: AnyRequest) -> Response[Any]:
        world = simulation_of(request).world
        asked = await read(request, CheckQuality)
        profile = application_profile(world, asked.application_profile_id)
        found = find(world, asked.device)
        kpis = {"additionalKPIs": kpis_of(found.subscriber)}
        return Response({**outlook_of(found.subscriber, profile), **kpis, "device": found.shown})


def application_profile(world: World, profile_id: str) -> Profile:
    """What an application asks for. Raises CamaraError."""
    profile = world.application_profiles.get(id_in_path(profile_id))
    if profile is None:
        known = ", ".join(f"{each.application_profile_id} ({each.name})" for each in world.profiles.values())
        raise CamaraError(404, "NOT_FOUND", f"there is no application profile '{profile_id}'; known: {known}")
    return profile


def outlook_of(subscriber: Subscriber, profile: Profile) -> dict[str, str]:
    """Of what the profile asks for, what the link gives and what not."""
    given = subscriber.quality or _NOTHING
    compared = (
        ("packetDelayBudget", given.latency_s, profile.latency_s),
        ("jitter", given.jitter_s, profile.jitter_s),
        ("packetlossErrorRate", given.loss, profile.loss),
        ("targetMinDownstreamRate", -given.downlink_bit_per_s, _negative(profile.min_downlink_bit_per_s)),
        ("targetMinUpstreamRate", -given.uplink_bit_per_s, _negative(profile.min_uplink_bit_per_s)),
    )
    return {name: MEETS if value <= most else FAILS for name, value, most in compared if most is not None}


def _negative(least: int | None) -> int | None:
    """A limit from below as one from above."""
    return None if least is None else -least


def kpis_of(subscriber: Subscriber) -> dict[str, str]:
    signal: dict[str, str] = {"signalStrength": subscriber.link.signal_word}
    return {**signal, "connectivityType": TECHNOLOGY} if subscriber.link.covered else signal


def seen_of(subscriber: Subscriber, profile: Profile) -> Hashable:
    """An outlook in a form that can be compared with another."""
    return tuple(outlook_of(subscriber, profile).items())
