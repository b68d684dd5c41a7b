"""3GPP's MonitoringEvent (TS 29.122, Release 17) for single devices: whether they can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from edgeflex_flow.clock import moment_ns
from edgeflex_services.network_simulator.door import base_url, moment_text
from edgeflex_services.network_simulator.nef_common import (
    Features,
    Moment,
    NefBody,
    NefError,
    Unsigned,
    missing,
    negotiated,
    read,
    tell,
)
from edgeflex_services.network_simulator.simulation import AnyRequest, Simulation, simulation_of
from edgeflex_services.network_simulator.watches import EndReason, Wanted, Watch, WatchNews
from edgeflex_services.network_simulator.world import Subscriber, UnknownError, World

API: Final = "/3gpp-monitoring-event/v1"
REACHABLE, LOST = "UE_REACHABILITY", "LOSS_OF_CONNECTIVITY"
TEST_NOTIFICATION: Final = 0x2
"""Notification_test_event (2) as a string of bits, the only feature that is there."""
DETECTION_TIME_EXPIRED: Final = 2
"""Of the reasons why connectivity is lost that TS 29.336 lists: the device was not heard of for too long."""


class MonitoringEvent(NefBody, frozen=True, kw_only=True):
    notification_destination: Annotated[str, Meta(min_length=1)]
    monitoring_type: str
    supported_features: Features | UnsetType = UNSET
    external_id: str | UnsetType = UNSET
    msisdn: str | UnsetType = UNSET
    ipv4_addr: str | UnsetType = UNSET
    dnn: str | UnsetType = UNSET
    maximum_number_of_reports: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    monitor_expire_time: Moment | UnsetType = UNSET
    maximum_detection_time: Unsigned | UnsetType = UNSET
    reachability_type: str | UnsetType = UNSET
    maximum_latency: Unsigned | UnsetType = UNSET
    maximum_response_time: Unsigned | UnsetType = UNSET
    immediate_rep: bool | UnsetType = UNSET
    request_test_notification: bool | UnsetType = UNSET


@dataclass(frozen=True)
class NefWatch:
    """What this API keeps of a subscription."""

    owner: str
    asked: MonitoringEvent
    base: str
    """With which the links to the owner's subscriptions begin."""


class MonitoringEvents(Controller):
    path = API

    @post("/{owner:str}/subscriptions")
    async def create(self, request: AnyRequest, owner: FromPath[str]) -> Response[Any]:
        simulation = simulation_of(request)
        asked = await read(request, MonitoringEvent)
        subscriber = _subscriber_of(simulation.world, asked)
        _check(simulation.world, asked)
        report = _report(simulation.world, asked) if _is_so(asked, subscriber) else None
        if report is not None and asked.maximum_number_of_reports == 1:
            # What is asked for once and can be told now needs no subscription.
            return Response(report, status_code=200)
        watch = _watch_now(request, owner, subscriber, asked, report is not None)
        if asked.request_test_notification is True:
            tell(simulation, asked.notification_destination, {"subscription": _link(watch)})
        at_once = {} if report is None or asked.immediate_rep is not True else {"monitoringEventReport": report}
        return Response({**_shown(watch), **at_once}, status_code=201, headers={"Location": _link(watch)})

    @get("/{owner:str}/subscriptions")
    async def subscriptions(self, request: AnyRequest, owner: FromPath[str]) -> Response[Any]:
        return Response([_shown(each) for each in simulation_of(request).watches if _is_of(each, owner)])

    @get("/{owner:str}/subscriptions/{watch_id:str}")
    async def look(self, request: AnyRequest, owner: FromPath[str], watch_id: FromPath[str]) -> Response[Any]:
        return Response(_shown(_watch(request, owner, watch_id)))

    @put("/{owner:str}/subscriptions/{watch_id:str}")
    async def replace(self, request: AnyRequest, owner: FromPath[str], watch_id: FromPath[str]) -> Response[Any]:
        simulation = simulation_of(request)
        watch = _watch(request, owner, watch_id)
        asked = await read(request, MonitoringEvent)
        if _subscriber_of(simulation.world, asked) is not watch.subscriber:
            raise NefError(403, "MODIFICATION_NOT_ALLOWED", "the device cannot be changed")
        _check(simulation.world, asked)
        simulation.watches.delete(watch)
        return Response(_shown(_watch_now(request, owner, watch.subscriber, asked, is_told=False, watch_id=watch.id)))

    @delete("/{owner:str}/subscriptions/{watch_id:str}")
    async def remove(self, request: AnyRequest, owner: FromPath[str], watch_id: FromPath[str]) -> None:
        simulation_of(request).watches.delete(_watch(request, owner, watch_id))


def _about(watch: Watch) -> NefWatch:
    assert isinstance(watch.about, NefWatch)
    return watch.about


def _link(watch: Watch) -> str:
    """By which answers and notifications name it."""
    return f"{_about(watch).base}/{watch.id}"


def _is_of(watch: Watch, owner: str) -> bool:
    return isinstance(watch.about, NefWatch) and watch.about.owner == owner and watch.state != "ended"


def _watch(request: AnyRequest, owner: str, watch_id: str) -> Watch:
    try:
        watch = simulation_of(request).watches.watch(watch_id)
    except UnknownError as error:
        raise NefError(404, "SUBSCRIPTION_NOT_FOUND", str(error)) from error
    if not _is_of(watch, owner):
        raise NefError(404, "SUBSCRIPTION_NOT_FOUND", f"'{owner}' has no subscription '{watch_id}'")
    return watch


def _subscriber_of(world: World, asked: MonitoringEvent) -> Subscriber:
    try:
        if asked.external_id is not UNSET:
            subscriber = world.subscriber(f"extid-{asked.external_id}")
        elif asked.msisdn is not UNSET:
            subscriber = world.subscriber(f"msisdn-{asked.msisdn}")
        elif asked.ipv4_addr is not UNSET:
            subscriber = world.at_address(asked.ipv4_addr)
        else:
            raise missing("/externalId")
    except UnknownError as error:
        raise NefError(404, "USER_NOT_FOUND", str(error)) from error
    if world.refuses(subscriber):
        raise NefError(403, "REQUESTED_SERVICE_NOT_AUTHORIZED", "the service is not offered for this device")
    return subscriber


def _check(world: World, asked: MonitoringEvent) -> None:
    if asked.monitoring_type not in (REACHABLE, LOST):
        detail = f"`monitoringType` is {REACHABLE} or {LOST} here; got '{asked.monitoring_type}'"
        raise NefError(403, "EVENT_UNSUPPORTED", detail, "/monitoringType")
    if asked.maximum_number_of_reports is UNSET and asked.monitor_expire_time is UNSET:
        raise missing("/maximumNumberOfReports")
    if asked.monitor_expire_time is not UNSET and moment_ns(asked.monitor_expire_time) <= world.now_ns:
        detail = "`monitorExpireTime` is not in the past"
        raise NefError(403, "PARAMETER_OUT_OF_RANGE", detail, "/monitorExpireTime")


def _is_so(asked: MonitoringEvent, subscriber: Subscriber) -> bool:
    """Whether what is to be told is so."""
    reach = subscriber.link.reach
    if asked.monitoring_type == LOST:
        return reach == "disconnected"
    return reach == "data" or (reach == "sms" and asked.reachability_type == "SMS")


def _watch_now(
    request: AnyRequest,
    owner: str,
    subscriber: Subscriber,
    asked: MonitoringEvent,
    is_told: bool,
    watch_id: str | None = None,
) -> Watch:
    simulation = simulation_of(request)
    ends: tuple[tuple[int, EndReason], ...] = ()
    if asked.monitor_expire_time is not UNSET:
        ends = ((moment_ns(asked.monitor_expire_time), "SUBSCRIPTION_EXPIRED"),)
    most = None if asked.maximum_number_of_reports is UNSET else asked.maximum_number_of_reports
    if most is not None and is_told and asked.immediate_rep is True:
        most -= 1
    wanted = Wanted(
        look=lambda subscriber: _is_so(asked, subscriber),
        matters=lambda is_so: is_so is True,
        most_events=most,
        ends=ends,
    )
    return simulation.watches.create(
        subscriber,
        wanted,
        lambda changed, news: _tell(simulation, changed, news),
        about=NefWatch(owner, asked, f"{base_url(request)}{API}/{owner}/subscriptions"),
        waits=False,
        watch_id=watch_id,
    )


def _shown(watch: Watch) -> dict[str, Any]:
    asked = _about(watch).asked
    features = negotiated(asked.supported_features, TEST_NOTIFICATION)
    return {**msgspec.to_builtins(asked), **features, "self": _link(watch)}


def _report(world: World, asked: MonitoringEvent) -> dict[str, Any]:
    told: dict[str, Any] = {"monitoringType": asked.monitoring_type, "eventTime": moment_text(world.now_ns)}
    if asked.external_id is not UNSET:
        told["externalId"] = asked.external_id
    elif asked.msisdn is not UNSET:
        told["msisdn"] = asked.msisdn
    if asked.monitoring_type == LOST:
        return {**told, "lossOfConnectReason": DETECTION_TIME_EXPIRED}
    return {**told, "reachabilityType": "DATA" if asked.reachability_type is UNSET else asked.reachability_type}


def _tell(simulation: Simulation, watch: Watch, news: WatchNews) -> None:
    told: Mapping[str, Any]
    if news == "seen":
        told = {"monitoringEventReports": [_report(simulation.world, _about(watch).asked)]}
    elif watch.reason == "NETWORK_TERMINATED":
        told = {"cancelInd": True}
    else:
        return
    tell(simulation, _about(watch).asked.notification_destination, {"subscription": _link(watch), **told})
