"""A network by the APIs of 3GPP's Network Exposure Function: AsSessionWithQoS, MonitoringEvent and 5GLAN parameter
provision.

Its notifications carry no id, and a time only where they are of reachability. They show no token either: that nobody
but the network knows the callback's own url must do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeflex_flow.clock import Clock, SystemClock
from edgeflex_services.devices.nef_api import NefApi, problem_reason
from edgeflex_services.devices.nef_groups import Lan, LanGroups
from edgeflex_services.devices.nef_links import MonitoringNotification, Reachability
from edgeflex_services.devices.nef_sessions import Monitoring, Periodic, QosSessions, UserPlaneNotification
from edgeflex_services.devices.network import (
    BadNotificationError,
    Device,
    LinkReadings,
    Membership,
    Notification,
    Parameter,
    Session,
    Traffic,
    Watch,
)
from edgeflex_services.devices.network_http import JSON, Access, NetworkHttp, decoded, notified

ApiName: TypeAlias = Literal["3gpp-as-session-with-qos", "3gpp-monitoring-event", "3gpp-5glan-pp"]
PATHS: Final[dict[ApiName, str]] = {
    "3gpp-as-session-with-qos": "/3gpp-as-session-with-qos/v1",
    "3gpp-monitoring-event": "/3gpp-monitoring-event/v1",
    "3gpp-5glan-pp": "/3gpp-5glan-pp/v1",
}
"""As the APIs are published."""
NOWHERE: Final = "https://edgeflex.invalid/late-reports"
"""No host has this name (RFC 2606)."""
MOST_MEMBERS: Final = 100
"""The standard has no limit; should the network refuse one of them, its group is taken apart to find out which."""
_Path: TypeAlias = Annotated[str, Meta(pattern=r"^/[^\s?#]*$")]


class NefConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="standard", tag="nef"):
    """A network that speaks the APIs of a Network Exposure Function.

    >>> lan = {"domain": "grid.example", "dnn": "grid", "snssai": {"sst": 1}, "gateway": "msisdn-491700000000",
    ...        "applications": {"97a498e3-fc92-5c94-8986-0333d06e4e47": ["pmu"]}}
    >>> config = {"standard": "nef", "api": {"url": "https://nef.network.example"}, "af_id": "grid", "lan": lan}
    >>> msgspec.convert(config, NefConfig).lan.session_type
    'IPV4'
    """

    api: Access
    af_id: Annotated[str, Meta(min_length=1, description="How the network calls the service (scsAsId and afId).")]
    lan: Lan
    monitoring: Annotated[
        Monitoring | None, Meta(description="When delays of sessions are told; not at all if null.")
    ] = Periodic()
    detection_s: Annotated[int, Meta(ge=1, description="How soon the loss of a device is to be noticed.")] | None = None
    late_reports_url: Annotated[
        str, Meta(pattern=r"^https?://\S+$", description="Given with questions; no report is waited for there.")
    ] = NOWHERE
    paths: Annotated[
        dict[ApiName, _Path], Meta(description="Where APIs are below `api.url`, if not where they are published.")
    ] = {}


class NefNetwork:
    """A `Network`. For one event loop."""

    standard = "nef"
    most_members = MOST_MEMBERS
    has_durations = False

    def __init__(self, config: NefConfig, clock: Clock | None = None) -> None:
        """Raises FatalError if the file of `config.api.ca` cannot be used."""
        self.identity = f"NEF, af_id {config.af_id}, domain {config.lan.domain}"
        own_clock = clock or SystemClock()
        self._http = NetworkHttp(config.api, problem_reason, own_clock)
        apis = {
            name: NefApi(self._http, config.paths.get(name, path).rstrip("/"), config.af_id)
            for name, path in PATHS.items()
        }
        self._groups = LanGroups(apis["3gpp-5glan-pp"], config.lan)
        self._sessions = QosSessions(apis["3gpp-as-session-with-qos"], config.monitoring)
        self._links = Reachability(
            apis["3gpp-monitoring-event"], config.late_reports_url, config.detection_s, own_clock
        )

    async def close(self) -> None:
        await self._http.close()

    async def profiles(self) -> Sequence[Mapping[str, Any]]:
        """References to qualities are agreed upon beforehand: no API tells them."""
        return []

    # Groups ---------------------------------------------------------------------------------------------------------

    def member_key(self, device: Device) -> str:
        return self._groups.key(device)

    async def create_group(self, name: str, profiles: Sequence[str], callback_url: str, callback_token: str) -> str:
        """Which profiles its members may have, the standard does not say; it tells nothing of a group either."""
        del profiles, callback_url, callback_token
        return await self._groups.create(name)

    async def find_group(self, name: str, callback_url: str) -> str | None:
        del callback_url
        return await self._groups.find(name)

    async def delete_group(self, ref: str) -> None:
        await self._groups.delete(ref)

    async def add_members(self, ref: str, devices: Sequence[Device]) -> Mapping[str, Membership]:
        return await self._groups.add(ref, [self.member_key(device) for device in devices])

    async def remove_members(self, ref: str, devices: Sequence[Device]) -> Mapping[str, Membership]:
        return await self._groups.remove(ref, [self.member_key(device) for device in devices])

    async def members(self, ref: str) -> Mapping[str, Membership]:
        return await self._groups.members(ref)

    # Sessions -------------------------------------------------------------------------------------------------------

    async def create_session(
        self, device: Device, traffic: Traffic, profile: str, duration_s: int, callback_url: str, callback_token: str
    ) -> Session:
        """Lasts until it is ended, whatever `duration_s`."""
        del duration_s, callback_token
        return await self._sessions.create(device, traffic, profile, callback_url)

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
        del traffic, profile
        return await self._links.read(device, parameters)

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
        del traffic, profile, callback_token
        return await self._links.begin(device, parameters, expires_ns, callback_url)

    async def has_watch(self, watch: Watch) -> bool:
        return await self._links.has(watch)

    async def end_watch(self, watch: Watch) -> None:
        await self._links.end(watch)

    # Notifications --------------------------------------------------------------------------------------------------

    def read_notification(self, content_type: str, body: bytes) -> Notification:
        """Which API it comes from is known by what it refers to."""
        link = notified(content_type, JSON, body, _Link)
        if link.transaction is not None:
            return Notification(id=None, time_ns=None, changes=decoded(body, UserPlaneNotification).changes())
        if link.subscription is None:
            raise BadNotificationError("the notification refers to nothing; known: transaction, subscription")
        told = decoded(body, MonitoringNotification)
        return Notification(id=None, time_ns=told.time_ns, changes=told.changes())


class _Link(msgspec.Struct, frozen=True):
    """What a notification refers to."""

    transaction: str | None = None
    subscription: str | None = None
