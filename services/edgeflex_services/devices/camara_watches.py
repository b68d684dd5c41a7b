"""Links that the network tells of by itself.

A subscription is to one type of event, and reachability has three: a watch has up to four parts.

Source: CAMARA device-reachability-status-subscriptions 0.9.0-rc.1, connectivity-insights-subscriptions 0.7.0-rc.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from edgeflex_flow.clock import Clock, moment_ns
from edgeflex_services.devices.camara_api import (
    CamaraApi,
    CloudEvent,
    device_object,
    server_objects,
    sink_objects,
)
from edgeflex_services.devices.camara_links import NetworkQuality, Profiles
from edgeflex_services.devices.network import (
    Change,
    Device,
    LinkChanged,
    NetworkError,
    NetworkMissingError,
    NetworkRefusedError,
    Parameter,
    Reading,
    Reason,
    Traffic,
    Watch,
)
from edgeflex_services.devices.times import Moment, time_text

REACHABILITY: Final = "device-reachability-status-subscriptions"
INSIGHTS: Final = "connectivity-insights-subscriptions"
REACHABILITY_EVENTS: Final = f"org.camaraproject.{REACHABILITY}.v0"
INSIGHTS_EVENTS: Final = f"org.camaraproject.{INSIGHTS}.v0"
DATA_REACH: Final[dict[str, bool]] = {
    f"{REACHABILITY_EVENTS}.reachability-data": True,
    f"{REACHABILITY_EVENTS}.reachability-sms": False,
    f"{REACHABILITY_EVENTS}.reachability-disconnected": False,
}
"""Whether data reach a device after an event."""
NETWORK_QUALITY: Final = f"{INSIGHTS_EVENTS}.network-quality"
ENDED: Final = {
    f"{REACHABILITY_EVENTS}.subscription-ended": REACHABILITY,
    f"{INSIGHTS_EVENTS}.subscription-ended": INSIGHTS,
}
NO_NEWS: Final = frozenset(
    f"{events}.subscription-{what}"
    for events in (REACHABILITY_EVENTS, INSIGHTS_EVENTS)
    for what in ("started", "updated")
)


class _Subscription(msgspec.Struct, frozen=True, rename="camel"):
    """Made (201), or to be made (202, with nothing but the id)."""

    id: str
    expires_at: Moment | None = None


class _Subscribed(msgspec.Struct, frozen=True, rename="camel"):
    subscription_id: str


class _Part(NamedTuple):
    """A subscription to make."""

    api: str
    event: str
    detail: dict[str, Any]


class Watches:
    """Subscriptions at the two APIs, by their names."""

    def __init__(self, apis: dict[str, CamaraApi], profiles: Profiles, clock: Clock) -> None:
        self._apis = apis
        self._profiles = profiles
        self._clock = clock

    async def begin(
        self,
        device: Device,
        parameters: Sequence[Parameter],
        traffic: Traffic | None,
        profile: str | None,
        expires_ns: int,
        callback_url: str,
        callback_token: str,
    ) -> Watch:
        """All parts or none."""
        parts = [*_reachability_parts(device, parameters), *self._quality_parts(device, parameters, traffic, profile)]
        sink = sink_objects(callback_url, callback_token, self._clock)
        refs: list[str] = []
        ends_ns = [expires_ns]
        try:
            for part in parts:
                made = await self._subscribe(part, expires_ns, sink)
                refs.append(f"{part.api}:{made.id}")
                ends_ns += [] if made.expires_at is None else [moment_ns(made.expires_at)]
        except NetworkError:
            await self._give_up(refs)
            raise
        apis = {part.api for part in parts}
        told: list[Parameter] = [name for name in parameters if _api_of(name) in apis]
        return Watch(refs=tuple(refs), parameters=tuple(told), expires_ns=min(ends_ns))

    async def has(self, watch: Watch) -> bool:
        """By its first part: of single parts that end the network tells."""
        for ref in watch.refs[:1]:
            api, _, subscription_id = ref.partition(":")
            try:
                await self._apis[api].request("GET", f"/subscriptions/{quote(subscription_id, safe='')}")
            except NetworkMissingError:
                return False
        return True

    async def end(self, watch: Watch) -> None:
        """Every part is tried, whatever becomes of the others."""
        failed: list[NetworkError] = []
        for ref in watch.refs:
            api, _, subscription_id = ref.partition(":")
            try:
                await self._apis[api].request("DELETE", f"/subscriptions/{quote(subscription_id, safe='')}")
            except NetworkMissingError:
                continue
            except NetworkError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    async def _subscribe(self, part: _Part, expires_ns: int, sink: dict[str, Any]) -> _Subscription:
        config = {
            "subscriptionDetail": part.detail,
            "subscriptionExpireTime": time_text(expires_ns),
            "initialEvent": True,  # so that the state as it is now is known too
        }
        body = {"protocol": "HTTP", "types": [part.event], "config": config, **sink}
        answer = await self._apis[part.api].request("POST", "/subscriptions", body=body)
        return answer.read(_Subscription)

    async def _give_up(self, refs: Sequence[str]) -> None:
        """What is left over ends by itself at the watch's time."""
        try:
            await self.end(Watch(refs=tuple(refs), parameters=()))
        except NetworkError:
            return

    def _quality_parts(
        self, device: Device, parameters: Sequence[Parameter], traffic: Traffic | None, profile: str | None
    ) -> Iterator[_Part]:
        """None if there is no application profile and other things can be watched all the same."""
        if all(name == "reachability" for name in parameters):
            return
        profile_id = self._profiles.id_of(profile)
        if not isinstance(profile_id, Reason):
            server = {} if traffic is None else server_objects(traffic)
            detail = {"device": device_object(device), "applicationProfileId": profile_id, **server}
            yield _Part(INSIGHTS, NETWORK_QUALITY, detail)
        elif "reachability" not in parameters:
            raise NetworkRefusedError(profile_id)


def _api_of(parameter: Parameter) -> str:
    return REACHABILITY if parameter == "reachability" else INSIGHTS


def _reachability_parts(device: Device, parameters: Sequence[Parameter]) -> Iterator[_Part]:
    if "reachability" in parameters:
        for event in DATA_REACH:
            yield _Part(REACHABILITY, event, {"device": device_object(device)})


def changes_of(event: CloudEvent) -> tuple[Change, ...] | None:
    """What a notification of a watch says; None if it is another's. Raises BadNotificationError."""
    if event.kind in DATA_REACH:
        ref = f"{REACHABILITY}:{event.read(_Subscribed).subscription_id}"
        return (LinkChanged(watch_ref=ref, readings={"reachability": Reading(value=DATA_REACH[event.kind])}),)
    if event.kind == NETWORK_QUALITY:
        return (LinkChanged(watch_ref=None, readings=event.read(NetworkQuality).readings()),)
    if event.kind in ENDED:
        ref = f"{ENDED[event.kind]}:{event.read(_Subscribed).subscription_id}"
        return (LinkChanged(watch_ref=ref, readings={}, ends_watch=True),)
    return () if event.kind in NO_NEWS else None
