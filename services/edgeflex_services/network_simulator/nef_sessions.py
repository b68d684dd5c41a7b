"""3GPP's AsSessionWithQoS (TS 29.122, Release 17), as the simulated network speaks it.

Left out, and of no effect in requests: what other features of the API would add, such as alternative qualities,
Ethernet flows and requirements of time-sensitive communication.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Response, delete, get, patch, post, put
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from edgeflex_flow.units import NS_PER_S
from edgeflex_services.network_simulator.door import base_url
from edgeflex_services.network_simulator.model import Profile
from edgeflex_services.network_simulator.nef_common import (
    Features,
    NefBody,
    NefError,
    Snssai,
    Unsigned,
    convert,
    incorrect,
    merged,
    missing,
    negotiated,
    read,
    tell,
)
from edgeflex_services.network_simulator.sessions import News, NotAvailableError, Session
from edgeflex_services.network_simulator.simulation import AnyRequest, Simulation, simulation_of
from edgeflex_services.network_simulator.world import Subscriber, UnknownError, World

API: Final = "/3gpp-as-session-with-qos/v1"
USUAL_PERIOD_S: Final = 10
"""Between two reports that are periodic, where the request says nothing."""
EVENTS: Final[Mapping[News, str]] = {
    "granted": "SUCCESSFUL_RESOURCES_ALLOCATION",
    "refused": "FAILED_RESOURCES_ALLOCATION",
    "ended": "SESSION_TERMINATION",
    "guaranteed": "QOS_GUARANTEED",
    "not_guaranteed": "QOS_NOT_GUARANTEED",
}
FEATURES: Final = 0x62
"""Notification_test_event (2), QoSMonitoring_5G (6) and DisableUENotification_5G (7), as a string of bits."""
FIXED: Final = ("ueIpv4Addr", "dnn", "snssai")
"""What no request may change."""
_END: Final = r"(?:any|assigned|[0-9a-fA-F.:]+(?:/[0-9]+)?)(?: [0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*)?"
_FLOW: Final = re.compile(rf"permit (?:in|out) (?:ip|[0-9]{{1,3}}) from {_END} to {_END}")
"""Of an IPFilterRule of RFC 6733 the part that TS 29.214 leaves."""


class FlowInfo(NefBody, frozen=True, kw_only=True):
    flow_id: int
    flow_descriptions: Annotated[list[str], Meta(min_length=1, max_length=2)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        for each in () if self.flow_descriptions is UNSET else self.flow_descriptions:
            if not _FLOW.fullmatch(each):
                raise ValueError(f"a flow is such as 'permit out ip from 198.51.100.10 4712 to 10.0.0.7'; got '{each}'")


class Monitoring(NefBody, frozen=True, kw_only=True):
    """Which delays are to be told, and when. Thresholds are milliseconds, the others seconds."""

    req_qos_mon_params: Annotated[list[str], Meta(min_length=1)]
    rep_freqs: Annotated[list[str], Meta(min_length=1)]
    rep_thresh_dl: Unsigned | UnsetType = UNSET
    rep_thresh_ul: Unsigned | UnsetType = UNSET
    rep_thresh_rp: Unsigned | UnsetType = UNSET
    wait_time: Unsigned | UnsetType = UNSET
    rep_period: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


class AsSession(NefBody, frozen=True, kw_only=True):
    notification_destination: Annotated[str, Meta(min_length=1)]
    supported_features: Features | UnsetType = UNSET
    dnn: str | UnsetType = UNSET
    snssai: Snssai | UnsetType = UNSET
    exter_app_id: str | UnsetType = UNSET
    flow_info: Annotated[list[FlowInfo], Meta(min_length=1)] | UnsetType = UNSET
    qos_reference: str | UnsetType = UNSET
    dis_ue_notif: bool | UnsetType = UNSET
    ue_ipv4_addr: str | UnsetType = UNSET
    ip_domain: str | UnsetType = UNSET
    qos_mon_info: Monitoring | UnsetType = UNSET
    events: Annotated[list[str], Meta(min_length=1)] | UnsetType = UNSET
    request_test_notification: bool | UnsetType = UNSET


@dataclass
class NefSession:
    """What this API keeps of a session."""

    owner: str
    """The SCS or AS whose it is."""
    asked: AsSession
    base: str
    """With which the links to the owner's sessions begin."""
    reported: Mapping[str, list[int]] | None = None
    """The delays that were told last."""
    reported_ns: int = 0
    begun: int = 0
    """How often reports were begun or ended: those of before are told no more."""


class AsSessionWithQos(Controller):
    path = API

    @post("/{owner:str}/subscriptions")
    async def create(self, request: AnyRequest, owner: FromPath[str]) -> Response[Any]:
        simulation = simulation_of(request)
        asked = await read(request, AsSession)
        subscriber = _subscriber_of(simulation.world, asked)
        profile = _profile_of(simulation.world, asked)
        about = NefSession(owner, asked, f"{base_url(request)}{API}/{owner}/subscriptions")
        session = simulation.sessions.create(
            subscriber, profile, None, lambda changed, news: _tell(simulation, changed, news), about=about
        )
        if asked.request_test_notification is True:
            tell(simulation, asked.notification_destination, {"subscription": _link(session)})
        return Response(_shown(session), status_code=201, headers={"Location": _link(session)})

    @get("/{owner:str}/subscriptions")
    async def sessions(self, request: AnyRequest, owner: FromPath[str]) -> Response[Any]:
        wanted = _wanted(request)
        return Response([_shown(each) for each in wanted if _is_of(each, owner)])

    @get("/{owner:str}/subscriptions/{session_id:str}")
    async def look(self, request: AnyRequest, owner: FromPath[str], session_id: FromPath[str]) -> Response[Any]:
        return Response(_shown(_session(request, owner, session_id)))

    @put("/{owner:str}/subscriptions/{session_id:str}")
    async def replace(self, request: AnyRequest, owner: FromPath[str], session_id: FromPath[str]) -> Response[Any]:
        session = _session(request, owner, session_id)
        _change(simulation_of(request), session, await read(request, AsSession))
        return Response(_shown(session))

    @patch("/{owner:str}/subscriptions/{session_id:str}")
    async def change(self, request: AnyRequest, owner: FromPath[str], session_id: FromPath[str]) -> Response[Any]:
        session = _session(request, owner, session_id)
        change = await read(request, dict[str, Any])
        document = merged(msgspec.to_builtins(_about(session).asked), change)
        _change(simulation_of(request), session, convert(document, AsSession))
        return Response(_shown(session))

    @delete("/{owner:str}/subscriptions/{session_id:str}", status_code=200)
    async def remove(self, request: AnyRequest, owner: FromPath[str], session_id: FromPath[str]) -> Response[Any]:
        simulation = simulation_of(request)
        session = _session(request, owner, session_id)
        simulation.sessions.delete(session)
        _end_reports(session)
        events = _about(session).asked.events
        if events is UNSET or "USAGE_REPORT" not in events or session.started_ns is None:
            return Response(None, status_code=204)
        lasted_s = (simulation.world.now_ns - session.started_ns) // NS_PER_S
        usage = {"event": "USAGE_REPORT", "accumulatedUsage": {"duration": lasted_s}}
        return Response({"transaction": _link(session), "eventReports": [usage]})


# Requests -----------------------------------------------------------------------------------------------------------


def _about(session: Session) -> NefSession:
    assert isinstance(session.about, NefSession)
    return session.about


def _link(session: Session) -> str:
    """By which answers and notifications name it."""
    return f"{_about(session).base}/{session.id}"


def _is_of(session: Session, owner: str) -> bool:
    return isinstance(session.about, NefSession) and session.about.owner == owner


def _session(request: AnyRequest, owner: str, session_id: str) -> Session:
    try:
        session = simulation_of(request).sessions.session(session_id)
    except UnknownError as error:
        raise NefError(404, "SUBSCRIPTION_NOT_FOUND", str(error)) from error
    if not _is_of(session, owner):
        raise NefError(404, "SUBSCRIPTION_NOT_FOUND", f"'{owner}' has no session '{session_id}'")
    return session


def _wanted(request: AnyRequest) -> list[Session]:
    """The sessions that a request asks for, by address or all. Raises NefError."""
    simulation = simulation_of(request)
    text = request.query_params.get("ip-addrs")
    if text is None:
        return list(simulation.sessions)
    try:
        addresses = msgspec.json.decode(text, type=list[dict[str, str]])
    except msgspec.DecodeError as error:
        raise NefError(400, "INVALID_QUERY_PARAM", f"`ip-addrs`: {error}", "ip-addrs") from error
    found: dict[str, Session] = {}
    for each in addresses:
        try:
            subscriber = simulation.world.at_address(each.get("ipv4Addr", ""))
        except UnknownError:
            continue
        found |= {each.id: each for each in simulation.sessions.of_device(subscriber)}
    return list(found.values())


def _subscriber_of(world: World, asked: AsSession) -> Subscriber:
    if asked.ue_ipv4_addr is UNSET:
        raise missing("/ueIpv4Addr")
    try:
        subscriber = world.at_address(asked.ue_ipv4_addr)
    except UnknownError as error:
        raise NefError(404, "PDU_SESSION_NOT_AVAILABLE", str(error), "/ueIpv4Addr") from error
    if world.refuses(subscriber):
        raise NefError(403, "REQUESTED_SERVICE_NOT_AUTHORIZED", "the service is not offered for this device")
    return subscriber


def _profile_of(world: World, asked: AsSession) -> Profile:
    if asked.flow_info is UNSET and asked.exter_app_id is UNSET:
        raise missing("/flowInfo")
    if asked.qos_reference is UNSET:
        raise missing("/qosReference")
    profile = world.profiles.get(asked.qos_reference)
    if profile is None:
        known = ", ".join(world.profiles)
        raise incorrect("/qosReference", f"there is no profile '{asked.qos_reference}'; known: {known}")
    if profile.status != "ACTIVE":
        raise NefError(403, "REQUESTED_SERVICE_NOT_AUTHORIZED", f"the profile '{profile.name}' is {profile.status}")
    return profile


def _change(simulation: Simulation, session: Session, asked: AsSession) -> None:
    """Raises NefError."""
    about = _about(session)
    before, after = msgspec.to_builtins(about.asked), msgspec.to_builtins(asked)
    for name in FIXED:
        if before.get(name) != after.get(name):
            raise NefError(403, "MODIFICATION_NOT_ALLOWED", f"`{name}` cannot be changed", f"/{name}")
    profile = _profile_of(simulation.world, asked)
    earlier, about.asked = about.asked, asked
    try:
        if profile is not session.profile:
            simulation.sessions.change(session, profile)
        elif asked.qos_mon_info != earlier.qos_mon_info and session.state == "available":
            _begin_reports(simulation, session)
    except NotAvailableError as error:
        about.asked = earlier
        raise NefError(403, "MODIFICATION_NOT_ALLOWED", str(error)) from error


def _shown(session: Session) -> dict[str, Any]:
    about = _about(session)
    features = negotiated(about.asked.supported_features, FEATURES)
    return {**msgspec.to_builtins(about.asked), **features, "self": _link(session)}


# Notifications ------------------------------------------------------------------------------------------------------


def _tell(simulation: Simulation, session: Session, news: News) -> None:
    if news == "granted":
        _begin_reports(simulation, session)
    elif news in ("ended", "refused"):
        _end_reports(session)
    if session.reason != "DELETE_REQUESTED":
        _report(simulation, session, {"event": EVENTS[news]})


def _report(simulation: Simulation, session: Session, report: Mapping[str, Any]) -> None:
    about = _about(session)
    asked = about.asked
    if asked.events is not UNSET and report["event"] not in asked.events:
        return
    flows = {} if asked.flow_info is UNSET else {"flowIds": [each.flow_id for each in asked.flow_info]}
    told = {"transaction": _link(session), "eventReports": [{**report, **flows}]}
    tell(simulation, asked.notification_destination, told)


def _looker(session: Session) -> str:
    """Under which name the link is looked at for reports of delays."""
    return f"{session.id}/delays"


def _begin_reports(simulation: Simulation, session: Session) -> None:
    """Tell delays from now on, as far as that was asked for."""
    _end_reports(session)
    about = _about(session)
    info = about.asked.qos_mon_info
    if info is UNSET:
        return
    if "EVENT_TRIGGERED" in info.rep_freqs:
        session.subscriber.lookers[_looker(session)] = lambda: _look(simulation, session)
    if "PERIODIC" in info.rep_freqs:
        _report_again(simulation, session, about.begun)


def _end_reports(session: Session) -> None:
    session.subscriber.lookers.pop(_looker(session), None)
    _about(session).begun += 1


def _report_again(simulation: Simulation, session: Session, begun: int) -> None:
    info = _about(session).asked.qos_mon_info
    if info is UNSET:
        return
    period_s = USUAL_PERIOD_S if info.rep_period is UNSET else info.rep_period

    def report() -> None:
        if session.state == "available" and _about(session).begun == begun:
            _report_delays(simulation, session)
            _report_again(simulation, session, begun)

    simulation.world.plan_in(period_s, report)


def _look(simulation: Simulation, session: Session) -> None:
    """Tell delays once they are over a threshold, but not more often than was asked for."""
    about = _about(session)
    info = about.asked.qos_mon_info
    delays = _delays(session)
    if info is UNSET or session.state != "available" or delays == about.reported or not _is_over(info, delays):
        return
    wait_s = 0 if info.wait_time is UNSET else info.wait_time
    from_ns = about.reported_ns + wait_s * NS_PER_S
    if simulation.world.now_ns < from_ns:
        simulation.world.plan(from_ns, lambda: _look(simulation, session))
        return
    _report_delays(simulation, session)


def _report_delays(simulation: Simulation, session: Session) -> None:
    about = _about(session)
    about.reported, about.reported_ns = _delays(session), simulation.world.now_ns
    if about.reported:
        _report(simulation, session, {"event": "QOS_MONITORING", "qosMonReports": [about.reported]})


def _delays(session: Session) -> dict[str, list[int]]:
    """The delays that were asked for, in ms; none while no data reach the device."""
    info, quality = _about(session).asked.qos_mon_info, session.subscriber.quality
    if info is UNSET or quality is None:
        return {}
    one_way_ms = round(quality.latency_s * 1000)
    all_of_them = {
        "UPLINK": ("ulDelays", one_way_ms),
        "DOWNLINK": ("dlDelays", one_way_ms),
        "ROUND_TRIP": ("rtDelays", round(2 * quality.latency_s * 1000)),
    }
    wanted = (all_of_them[each] for each in info.req_qos_mon_params if each in all_of_them)
    return {name: [delay_ms] for name, delay_ms in wanted}


def _is_over(info: Monitoring, delays: Mapping[str, list[int]]) -> bool:
    thresholds = {"ulDelays": info.rep_thresh_ul, "dlDelays": info.rep_thresh_dl, "rtDelays": info.rep_thresh_rp}
    return any((limit := thresholds[name]) is not UNSET and max(told) > limit for name, told in delays.items())
