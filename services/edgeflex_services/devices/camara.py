"""A network by the APIs of CAMARA: Quality-On-Demand, QoS Profiles, Dedicated Networks, Device Reachability Status and
Connectivity Insights.

Groups know devices by phone number only; all else also by External Identifier, as far as the network supports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeflex_flow.clock import Clock, SystemClock, moment_ns
from edgeflex_services.devices import camara_accesses, camara_profiles, camara_sessions, camara_watches
from edgeflex_services.devices.camara_accesses import Accesses
from edgeflex_services.devices.camara_api import CamaraApi, CloudEvent, camara_reason, phone_number, read_event
from edgeflex_services.devices.camara_links import Links, Profiles
from edgeflex_services.devices.camara_sessions import Sessions
from edgeflex_services.devices.camara_watches import INSIGHTS, REACHABILITY, Watches
from edgeflex_services.devices.network import (
    UUID_PATTERN,
    BadNotificationError,
    Change,
    Device,
    LinkReadings,
    Membership,
    Notification,
    Parameter,
    Session,
    Traffic,
    Watch,
)
from edgeflex_services.devices.network_http import Access, NetworkHttp

ApiName: TypeAlias = Literal[
    "quality-on-demand",
    "qos-profiles",
    "dedicated-network-accesses",
    "device-reachability-status",
    "device-reachability-status-subscriptions",
    "connectivity-insights",
    "connectivity-insights-subscriptions",
]
PATHS: Final[dict[ApiName, str]] = {
    "quality-on-demand": "/quality-on-demand/v1",
    "qos-profiles": "/qos-profiles/v1",
    "dedicated-network-accesses": "/dedicated-network-accesses/v0.2rc1",
    "device-reachability-status": "/device-reachability-status/v1rc3",
    "device-reachability-status-subscriptions": "/device-reachability-status-subscriptions/v0.9rc1",
    "connectivity-insights": "/connectivity-insights/v0.7rc1",
    "connectivity-insights-subscriptions": "/connectivity-insights-subscriptions/v0.7rc1",
}
"""As the APIs are published."""
MOST_MEMBERS: Final = 100
_Path: TypeAlias = Annotated[str, Meta(pattern=r"^/[^\s?#]*$")]
_Uuid: TypeAlias = Annotated[str, Meta(pattern=UUID_PATTERN)]


class CamaraConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="standard", tag="camara"
):
    """A network that speaks CAMARA.

    >>> config = {"api": {"url": "https://api.network.example"}, "network_id": "3f1a8d6e-4b59-4c0e-8a7f-2d1c5b6e9f00"}
    >>> msgspec.convert({"standard": "camara", **config}, CamaraConfig).paths
    {}
    """

    api: Access
    network_id: Annotated[_Uuid, Meta(description="The dedicated network of which groups are accesses.")]
    application_profiles: Annotated[
        dict[str, _Uuid], Meta(description="Ids of the application profiles to compare links with, by QoS profile.")
    ] = {}
    paths: Annotated[
        dict[ApiName, _Path], Meta(description="Where APIs are below `api.url`, if not where they are published.")
    ] = {}


class CamaraNetwork:
    """A `Network`. For one event loop."""

    standard = "camara"
    most_members = MOST_MEMBERS
    has_durations = True

    def __init__(self, config: CamaraConfig, clock: Clock | None = None) -> None:
        """Raises FatalError if the file of `config.api.ca` cannot be used."""
        self.identity = f"CAMARA, network_id {config.network_id}"
        own_clock = clock or SystemClock()
        self._http = NetworkHttp(config.api, camara_reason, own_clock)
        apis = {name: CamaraApi(self._http, config.paths.get(name, path)) for name, path in PATHS.items()}
        profiles = Profiles(config.application_profiles)
        self._accesses = Accesses(apis["dedicated-network-accesses"], config.network_id, own_clock)
        self._profiles = apis["qos-profiles"]
        self._sessions = Sessions(apis["quality-on-demand"], own_clock)
        self._links = Links(apis["device-reachability-status"], apis["connectivity-insights"], profiles, own_clock)
        subscriptions = {REACHABILITY: apis[REACHABILITY], INSIGHTS: apis[INSIGHTS]}
        self._watches = Watches(subscriptions, profiles, own_clock)

    async def close(self) -> None:
        await self._http.close()

    async def profiles(self) -> Sequence[Mapping[str, Any]]:
        return await camara_profiles.profiles(self._profiles)

    # Groups ---------------------------------------------------------------------------------------------------------

    def member_key(self, device: Device) -> str:
        return phone_number(device)

    async def create_group(self, name: str, profiles: Sequence[str], callback_url: str, callback_token: str) -> str:
        del name
        return await self._accesses.create(profiles, callback_url, callback_token)

    async def find_group(self, name: str, callback_url: str) -> str | None:
        del name
        return await self._accesses.find(callback_url)

    async def delete_group(self, ref: str) -> None:
        await self._accesses.delete(ref)

    async def add_members(self, ref: str, devices: Sequence[Device]) -> Mapping[str, Membership]:
        return await self._accesses.add(ref, devices)

    async def remove_members(self, ref: str, devices: Sequence[Device]) -> Mapping[str, Membership]:
        return await self._accesses.remove(ref, devices)

    async def members(self, ref: str) -> Mapping[str, Membership]:
        return await self._accesses.members(ref)

    # Sessions -------------------------------------------------------------------------------------------------------

    async def create_session(
        self, device: Device, traffic: Traffic, profile: str, duration_s: int, callback_url: str, callback_token: str
    ) -> Session:
        return await self._sessions.create(device, traffic, profile, duration_s, callback_url, callback_token)

    async def session(self, ref: str) -> Session | None:
        return await self._sessions.get(ref)

    async def find_session(self, device: Device, callback_url: str) -> Session | None:
        return await self._sessions.find(device, callback_url)

    async def extend_session(self, ref: str, more_s: int) -> Session:
        return await self._sessions.extend(ref, more_s)

    async def end_session(self, ref: str) -> None:
        await self._sessions.end(ref)

    # Links ----------------------------------------------------------------------------------------------------------

    async def read_link(
        self, device: Device, parameters: Sequence[Parameter], traffic: Traffic | None, profile: str | None
    ) -> LinkReadings:
        return await self._links.read(device, parameters, traffic, profile)

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
        return await self._watches.begin(device, parameters, traffic, profile, expires_ns, callback_url, callback_token)

    async def has_watch(self, watch: Watch) -> bool:
        return await self._watches.has(watch)

    async def end_watch(self, watch: Watch) -> None:
        await self._watches.end(watch)

    # Notifications --------------------------------------------------------------------------------------------------

    def read_notification(self, content_type: str, body: bytes) -> Notification:
        """The standard makes source and id together unlike those of any other event."""
        event = read_event(content_type, body)
        return Notification(id=f"{event.source} {event.id}", time_ns=moment_ns(event.time), changes=_changes_of(event))


def _changes_of(event: CloudEvent) -> tuple[Change, ...]:
    if event.kind == camara_sessions.QOS_STATUS_CHANGED:
        return camara_sessions.changes_of(event)
    if event.kind == camara_accesses.DEVICE_STATUS_CHANGED:
        return camara_accesses.changes_of(event)
    changes = camara_watches.changes_of(event)
    if changes is None:
        raise BadNotificationError(f"no API of this network has events of this type; got '{event.kind[:200]}'")
    return changes
