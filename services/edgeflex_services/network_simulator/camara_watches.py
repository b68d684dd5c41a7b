"""Subscriptions of CAMARA: to Device Reachability Status (0.9.0-rc.1) and Connectivity Insights (0.7.0-rc.1).

Both have the same life: granted at once (201) or later (202), told to begin and to end, ended by a time, by a number of
events, by the end of the token that the sink is shown, by the client or by the network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Controller, Response, delete, get, post
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from edgeflex_flow.clock import moment_ns
from edgeflex_services.network_simulator.camara_common import (
    ApplicationServer,
    CamaraBody,
    CamaraError,
    DeviceIds,
    Found,
    Moment,
    Ports,
    Sink,
    convert,
    correlator_of,
    find_willing,
    invalid,
    not_found,
    page_answer,
    read,
    sink_of,
    tell,
)
from edgeflex_services.network_simulator.camara_links import application_profile, kpis_of, outlook_of, seen_of
from edgeflex_services.network_simulator.door import moment_text
from edgeflex_services.network_simulator.model import Profile, Reach
from edgeflex_services.network_simulator.simulation import AnyRequest, Simulation, simulation_of
from edgeflex_services.network_simulator.watches import EndReason, Wanted, Watch, WatchNews
from edgeflex_services.network_simulator.world import UnknownError

REACHABILITY: Final = "/device-reachability-status-subscriptions/v0.9rc1"
INSIGHTS: Final = "/connectivity-insights-subscriptions/v0.7rc1"
REACHABILITY_TYPE: Final = "org.camaraproject.device-reachability-status-subscriptions.v0."
INSIGHTS_TYPE: Final = "org.camaraproject.connectivity-insights-subscriptions.v0."
EVENTS: Final[Mapping[str, Reach]] = {
    "reachability-data": "data",
    "reachability-sms": "sms",
    "reachability-disconnected": "disconnected",
}
"""For what a device is reached when they are told: the second one if text messages alone reach it."""
_STATUSES: Final = {"requested": "ACTIVATION_REQUESTED", "active": "ACTIVE", "ended": "EXPIRED"}


class HttpSettings(CamaraBody, frozen=True, kw_only=True):
    headers: dict[str, Annotated[str, Meta(max_length=512)]] | UnsetType = UNSET
    method: Literal["POST"] | UnsetType = UNSET


class Config(CamaraBody, frozen=True, kw_only=True):
    subscription_detail: dict[str, Any]
    subscription_expire_time: Moment | UnsetType = UNSET
    subscription_max_events: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType = UNSET
    initial_event: bool | UnsetType = UNSET


class Subscribe(CamaraBody, frozen=True, kw_only=True):
    sink: str
    protocol: str
    types: Annotated[list[str], Meta(min_length=1)]
    config: Config
    sink_credential: dict[str, Any] | UnsetType = UNSET
    protocol_settings: HttpSettings | UnsetType = UNSET


class ReachabilityDetail(CamaraBody, frozen=True, kw_only=True):
    device: DeviceIds | UnsetType = UNSET


class InsightsDetail(CamaraBody, frozen=True, kw_only=True):
    device: DeviceIds
    application_server: ApplicationServer | UnsetType = UNSET
    application_server_ports: Ports | UnsetType = UNSET
    application_profile_id: str


@dataclass(frozen=True)
class CamaraWatch:
    """What these APIs keep of a subscription."""

    api: str
    """The path of the API to which it belongs."""
    prefix: str
    """With which the types of its events begin."""
    event: str
    """What it is a subscription to, without the prefix."""
    shown: dict[str, Any]
    sink: Sink | None
    correlator: str | None
    device: dict[str, Any]
    profile: Profile | None = None
    """What the application asks for, of Connectivity Insights."""


class ReachabilitySubscriptions(Controller):
    path = REACHABILITY

    @post("/subscriptions")
    async def create(self, request: AnyRequest) -> Response[Any]:
        simulation = simulation_of(request)
        asked, sink = await _asked(request)
        event = _event_of(asked, REACHABILITY_TYPE, EVENTS)
        if event is None:
            raise invalid(f"`types`: no event of this API; got '{asked.types[0][:100]}'")
        detail = convert(asked.config.subscription_detail, ReachabilityDetail)
        found = find_willing(simulation.world, detail.device)
        about = _about(request, REACHABILITY, REACHABILITY_TYPE, event, asked, sink, found)
        wanted_reach = EVENTS[event]
        wanted = Wanted(
            look=lambda subscriber: subscriber.link.reach,
            matters=lambda reach: reach == wanted_reach,
            **_limits(simulation, asked, sink),
        )
        return _create(simulation, found, wanted, about)

    @get("/subscriptions")
    async def subscriptions(self, request: AnyRequest) -> Response[Any]:
        return _list(request, REACHABILITY)

    @get("/subscriptions/{subscription_id:str}")
    async def look(self, request: AnyRequest, subscription_id: FromPath[str]) -> Response[Any]:
        return Response(_shown(_watch(request, REACHABILITY, subscription_id)))

    @delete("/subscriptions/{subscription_id:str}")
    async def remove(self, request: AnyRequest, subscription_id: FromPath[str]) -> None:
        simulation_of(request).watches.delete(_watch(request, REACHABILITY, subscription_id))


class InsightsSubscriptions(Controller):
    path = INSIGHTS

    @post("/subscriptions")
    async def create(self, request: AnyRequest) -> Response[Any]:
        simulation = simulation_of(request)
        asked, sink = await _asked(request)
        event = _event_of(asked, INSIGHTS_TYPE, ("network-quality",))
        if event is None:
            raise CamaraError(403, "SUBSCRIPTION_MISMATCH", f"`types`: got '{asked.types[0][:100]}'")
        detail = convert(asked.config.subscription_detail, InsightsDetail)
        profile = application_profile(simulation.world, detail.application_profile_id)
        found = find_willing(simulation.world, detail.device)
        about = _about(request, INSIGHTS, INSIGHTS_TYPE, event, asked, sink, found, profile)
        wanted = Wanted(
            look=lambda subscriber: seen_of(subscriber, profile),
            matters=lambda _: True,
            **_limits(simulation, asked, sink),
        )
        return _create(simulation, found, wanted, about)

    @get("/subscriptions")
    async def subscriptions(self, request: AnyRequest) -> Response[Any]:
        return _list(request, INSIGHTS)

    @get("/subscriptions/{subscription_id:str}")
    async def look(self, request: AnyRequest, subscription_id: FromPath[str]) -> Response[Any]:
        return Response(_shown(_watch(request, INSIGHTS, subscription_id)))

    @delete("/subscriptions/{subscription_id:str}")
    async def remove(self, request: AnyRequest, subscription_id: FromPath[str]) -> None:
        simulation_of(request).watches.delete(_watch(request, INSIGHTS, subscription_id))


# Requests -----------------------------------------------------------------------------------------------------------


async def _asked(request: AnyRequest) -> tuple[Subscribe, Sink | None]:
    asked = await read(request, Subscribe)
    if asked.protocol != "HTTP":
        raise CamaraError(400, "INVALID_PROTOCOL", f"`protocol` is HTTP; got '{asked.protocol[:40]}'")
    return asked, sink_of(asked.sink, asked.sink_credential)


def _event_of(asked: Subscribe, prefix: str, known: Collection[str]) -> str | None:
    """What it is to be a subscription to; None: something that is not known. Raises CamaraError."""
    if len(asked.types) > 1:
        raise CamaraError(422, "MULTIEVENT_SUBSCRIPTION_NOT_SUPPORTED", "one event type in a subscription")
    event = asked.types[0].removeprefix(prefix)
    return event if event in known and asked.types[0].startswith(prefix) else None


def _limits(simulation: Simulation, asked: Subscribe, sink: Sink | None) -> dict[str, Any]:
    """Of what is wanted, how long and how often. Raises CamaraError."""
    config = asked.config
    ends: list[tuple[int, EndReason]] = []
    if config.subscription_expire_time is not UNSET:
        ends.append((moment_ns(config.subscription_expire_time), "SUBSCRIPTION_EXPIRED"))
        if ends[0][0] <= simulation.world.now_ns:
            raise invalid("`subscriptionExpireTime` is not in the past")
    if sink is not None and sink.token_expires_ns is not None:
        ends.append((sink.token_expires_ns, "ACCESS_TOKEN_EXPIRED"))
    most = config.subscription_max_events
    return {
        "at_once": config.initial_event is True,
        "most_events": None if most is UNSET else most,
        "ends": tuple(ends),
    }


def _about(
    request: AnyRequest,
    api: str,
    prefix: str,
    event: str,
    asked: Subscribe,
    sink: Sink | None,
    found: Found,
    profile: Profile | None = None,
) -> CamaraWatch:
    shown = msgspec.to_builtins(msgspec.structs.replace(asked, sink_credential=UNSET))
    # One identifier of the device, whatever the request named.
    shown["config"]["subscriptionDetail"] = {**asked.config.subscription_detail, "device": found.shown}
    return CamaraWatch(api, prefix, event, shown, sink, correlator_of(request), found.shown, profile)


def _create(simulation: Simulation, found: Found, wanted: Wanted, about: CamaraWatch) -> Response[Any]:
    watch = simulation.watches.create(
        found.subscriber, wanted, lambda changed, news: _tell(simulation, changed, news), about=about
    )
    if watch.state == "requested":
        return Response({"id": watch.id}, status_code=202)
    return Response(_shown(watch), status_code=201)


# Answers ------------------------------------------------------------------------------------------------------------


def _watch(request: AnyRequest, api: str, subscription_id: str) -> Watch:
    try:
        watch = simulation_of(request).watches.watch(subscription_id)
    except UnknownError as error:
        raise not_found(error) from error
    if not isinstance(watch.about, CamaraWatch) or watch.about.api != api:
        raise CamaraError(404, "NOT_FOUND", f"there is no subscription '{subscription_id}'")
    return watch


def _list(request: AnyRequest, api: str) -> Response[Any]:
    all_of_them = simulation_of(request).watches
    watches = [each for each in all_of_them if isinstance(each.about, CamaraWatch) and each.about.api == api]
    return page_answer(request, "subscriptions", watches, len(watches), _shown)


def _shown(watch: Watch) -> dict[str, Any]:
    assert isinstance(watch.about, CamaraWatch)
    began_ns = watch.created_ns if watch.started_ns is None else watch.started_ns
    told = {
        **watch.about.shown,
        "id": watch.id,
        "status": _STATUSES[watch.state],
        "startsAt": moment_text(began_ns),
    }
    if watch.wanted.ends:
        told["expiresAt"] = moment_text(min(watch.wanted.ends)[0])
    return told


def _tell(simulation: Simulation, watch: Watch, news: WatchNews) -> None:
    about = watch.about
    assert isinstance(about, CamaraWatch)
    if news == "seen":
        event, data = about.event, _seen(watch, about)
    elif news == "started":
        event = "subscription-started"
        data = {"subscriptionId": watch.id, "initiationReason": "SUBSCRIPTION_CREATED"}
    else:
        event = "subscription-ended"
        data = {"subscriptionId": watch.id, "terminationReason": watch.reason}
    whole = {"source": f"{about.api}/subscriptions/{watch.id}", "type": about.prefix + event, "data": data}
    tell(simulation, about.sink, whole, about.correlator)


def _seen(watch: Watch, about: CamaraWatch) -> dict[str, Any]:
    if about.profile is None:
        return {"subscriptionId": watch.id, "device": about.device}
    return {
        "applicationProfileId": about.profile.application_profile_id,
        **outlook_of(watch.subscriber, about.profile),
        "additionalKpis": kpis_of(watch.subscriber),
    }
