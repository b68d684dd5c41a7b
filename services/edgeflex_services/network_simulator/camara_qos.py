"""CAMARA's Quality-On-Demand 1.1.0 and QoS Profiles 1.1.0, as the simulated network speaks them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Controller, Response, delete, get, post
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from edgeflex_services.network_simulator.camara_common import (
    ApplicationServer,
    CamaraBody,
    CamaraError,
    DeviceIds,
    Ports,
    ProfileName,
    Sink,
    correlator_of,
    find,
    find_willing,
    id_in_path,
    invalid,
    not_found,
    read,
    sink_of,
    tell,
)
from edgeflex_services.network_simulator.door import moment_text
from edgeflex_services.network_simulator.model import Profile
from edgeflex_services.network_simulator.sessions import (
    LONGEST_S,
    ConflictError,
    News,
    NotAvailableError,
    Session,
    SessionState,
)
from edgeflex_services.network_simulator.simulation import AnyRequest, Simulation, simulation_of
from edgeflex_services.network_simulator.world import UnknownError, World

SESSIONS: Final = "/quality-on-demand/v1"
EVENT: Final = "org.camaraproject.quality-on-demand.v1.qos-status-changed"
STATUSES: Final[Mapping[SessionState, str]] = {
    "requested": "REQUESTED",
    "available": "AVAILABLE",
    "ended": "UNAVAILABLE",
}

_Duration = Annotated[int, Meta(ge=1, le=LONGEST_S)]


class CreateSession(CamaraBody, frozen=True, kw_only=True):
    device: DeviceIds | UnsetType = UNSET
    application_server: ApplicationServer
    device_ports: Ports | UnsetType = UNSET
    application_server_ports: Ports | UnsetType = UNSET
    qos_profile: ProfileName
    duration: _Duration
    sink: str | UnsetType = UNSET
    sink_credential: dict[str, Any] | UnsetType = UNSET


class ExtendSession(CamaraBody, frozen=True, kw_only=True):
    requested_additional_duration: _Duration


class RetrieveSessions(CamaraBody, frozen=True, kw_only=True):
    device: DeviceIds | UnsetType = UNSET


class RetrieveProfiles(CamaraBody, frozen=True, kw_only=True):
    device: DeviceIds | UnsetType = UNSET
    name: ProfileName | UnsetType = UNSET
    status: Literal["ACTIVE", "INACTIVE", "DEPRECATED"] | UnsetType = UNSET


@dataclass(frozen=True)
class QodSession:
    """What this API keeps of a session."""

    shown: dict[str, Any]
    """Of the request, what answers repeat."""
    sink: Sink | None
    correlator: str | None


class QualityOnDemand(Controller):
    """Sessions that give a device's traffic with a server the quality of a profile for a while."""

    path = SESSIONS

    @post("/sessions")
    async def create(self, request: AnyRequest) -> Response[Any]:
        simulation = simulation_of(request)
        asked = await read(request, CreateSession)
        sink = sink_of(asked.sink, asked.sink_credential)
        found = find_willing(simulation.world, asked.device)
        profile = _profile_of(simulation.world, asked)
        shown = {"device": found.shown, **msgspec.to_builtins(_repeated(asked))}
        try:
            session = simulation.sessions.create(
                found.subscriber,
                profile,
                asked.duration,
                lambda changed, news: _tell(simulation, changed, news),
                flow=_flow(asked),
                about=QodSession(shown, sink, correlator_of(request)),
            )
        except ConflictError as error:
            raise CamaraError(409, "CONFLICT", str(error)) from error
        return Response(_info(session), status_code=201)

    @get("/sessions/{session_id:str}")
    async def look(self, request: AnyRequest, session_id: FromPath[str]) -> Response[Any]:
        return Response(_info(_session(request, session_id)))

    @delete("/sessions/{session_id:str}")
    async def remove(self, request: AnyRequest, session_id: FromPath[str]) -> None:
        simulation_of(request).sessions.delete(_session(request, session_id))

    @post("/sessions/{session_id:str}/extend", status_code=200)
    async def extend(self, request: AnyRequest, session_id: FromPath[str]) -> Response[Any]:
        session = _session(request, session_id)
        asked = await read(request, ExtendSession)
        try:
            simulation_of(request).sessions.extend(session, asked.requested_additional_duration)
        except NotAvailableError as error:
            raise CamaraError(409, "QUALITY_ON_DEMAND.SESSION_EXTENSION_NOT_ALLOWED", str(error)) from error
        return Response(_info(session))

    @post("/retrieve-sessions", status_code=200)
    async def retrieve(self, request: AnyRequest) -> Response[Any]:
        simulation = simulation_of(request)
        asked = await read(request, RetrieveSessions)
        found = find(simulation.world, asked.device)
        sessions = simulation.sessions.of_device(found.subscriber)
        return Response([_info(each) for each in sessions if isinstance(each.about, QodSession)])


class QosProfiles(Controller):
    """What the network sells."""

    path = "/qos-profiles/v1"

    @post("/retrieve-qos-profiles", status_code=200)
    async def retrieve(self, request: AnyRequest) -> Response[Any]:
        world = simulation_of(request).world
        asked = await read(request, RetrieveProfiles)
        if asked.device is not UNSET:
            find(world, asked.device)
        return Response(
            [
                _profile_shown(each)
                for each in world.profiles.values()
                if asked.name in (UNSET, each.name) and asked.status in (UNSET, each.status)
            ]
        )

    @get("/qos-profiles/{name:str}")
    async def look(self, request: AnyRequest, name: FromPath[str]) -> Response[Any]:
        profile = simulation_of(request).world.profiles.get(name)
        if profile is None:
            raise CamaraError(404, "NOT_FOUND", f"there is no profile '{name}'")
        return Response(_profile_shown(profile))


def _session(request: AnyRequest, session_id: str) -> Session:
    try:
        session = simulation_of(request).sessions.session(id_in_path(session_id))
    except UnknownError as error:
        raise not_found(error) from error
    if not isinstance(session.about, QodSession):
        raise CamaraError(404, "NOT_FOUND", f"there is no session '{session_id}'")
    return session


def _profile_of(world: World, asked: CreateSession) -> Profile:
    profile = world.profiles.get(asked.qos_profile)
    if profile is None:
        raise invalid(f"`qosProfile`: there is no profile '{asked.qos_profile}'; known: {', '.join(world.profiles)}")
    if profile.status != "ACTIVE":
        code = "QUALITY_ON_DEMAND.QOS_PROFILE_NOT_APPLICABLE"
        raise CamaraError(422, code, f"the profile '{profile.name}' is {profile.status}")
    if not profile.min_duration_s <= asked.duration <= profile.max_duration_s:
        limits = f"from {profile.min_duration_s} to {profile.max_duration_s} s"
        code = "QUALITY_ON_DEMAND.DURATION_OUT_OF_RANGE"
        raise CamaraError(400, code, f"a session of '{profile.name}' lasts {limits}; got {asked.duration}")
    return profile


def _repeated(asked: CreateSession) -> CreateSession:
    """Of a request what answers repeat: not the device, of which they name one identifier, nor any secret."""
    return msgspec.structs.replace(asked, device=UNSET, sink_credential=UNSET)


def _flow(asked: CreateSession) -> Hashable:
    """What a device may have one session for."""
    server = asked.application_server
    return (
        server.ipv4_address,
        server.ipv6_address,
        _all_of(asked.application_server_ports),
        _all_of(asked.device_ports),
    )


def _all_of(ports: Ports | UnsetType) -> Hashable:
    if ports is UNSET:
        return None
    ranges = () if ports.ranges is UNSET else ((each.from_, each.to) for each in ports.ranges)
    single = () if ports.ports is UNSET else ((each, each) for each in ports.ports)
    return frozenset((*ranges, *single))


def _info(session: Session) -> dict[str, Any]:
    assert isinstance(session.about, QodSession)
    told = {
        **session.about.shown,
        "sessionId": session.id,
        "duration": session.duration_s,
        "qosStatus": STATUSES[session.state],
    }
    if session.started_ns is not None:
        told["startedAt"] = moment_text(session.started_ns)
    if session.expires_ns is not None:
        told["expiresAt"] = moment_text(session.expires_ns)
    if session.reason is not None:
        told["statusInfo"] = session.reason
    return told


def _tell(simulation: Simulation, session: Session, news: News) -> None:
    assert isinstance(session.about, QodSession)
    if news in ("guaranteed", "not_guaranteed"):
        return
    data = {"sessionId": session.id, "qosStatus": STATUSES[session.state]}
    if session.reason is not None:
        data["statusInfo"] = session.reason
    event = {"source": f"{SESSIONS}/sessions/{session.id}", "type": EVENT, "data": data}
    tell(simulation, session.about.sink, event, session.about.correlator)


# Profiles -----------------------------------------------------------------------------------------------------------

_RATE_UNITS: Final = (("bps", 1), ("kbps", 10**3), ("Mbps", 10**6), ("Gbps", 10**9), ("Tbps", 10**12))
_MOST_OF_RATE: Final = 1024
_DURATION_UNITS_NS: Final = (
    ("Days", 86_400 * 10**9),
    ("Hours", 3600 * 10**9),
    ("Minutes", 60 * 10**9),
    ("Seconds", 10**9),
    ("Milliseconds", 10**6),
    ("Microseconds", 10**3),
    ("Nanoseconds", 1),
)


def _profile_shown(profile: Profile) -> dict[str, Any]:
    told = {
        "name": profile.name,
        "description": profile.description,
        "status": profile.status,
        "targetMinUpstreamRate": _rate(profile.min_uplink_bit_per_s),
        "targetMinDownstreamRate": _rate(profile.min_downlink_bit_per_s),
        "minDuration": _duration(profile.min_duration_s),
        "maxDuration": _duration(profile.max_duration_s),
        "priority": profile.priority,
        "packetDelayBudget": _duration(profile.latency_s),
        "jitter": _duration(profile.jitter_s),
        "packetErrorLossRate": None if profile.loss is None else _loss_exponent(profile.loss),
    }
    return {name: value for name, value in told.items() if value is not None}


def _rate(bit_per_s: int | None) -> dict[str, Any] | None:
    """In the smallest unit in which the number is small enough.

    >>> _rate(500_000), _rate(5_000_000)
    ({'value': 500, 'unit': 'kbps'}, {'value': 5, 'unit': 'Mbps'})
    """
    if bit_per_s is None:
        return None
    unit, factor = next(each for each in _RATE_UNITS if bit_per_s <= _MOST_OF_RATE * each[1])
    return {"value": round(bit_per_s / factor), "unit": unit}


def _duration(seconds: float | None) -> dict[str, Any] | None:
    """In the largest unit in which the number is whole.

    >>> _duration(0.02), _duration(86_400)
    ({'value': 20, 'unit': 'Milliseconds'}, {'value': 1, 'unit': 'Days'})
    """
    if seconds is None:
        return None
    duration_ns = round(seconds * 10**9)
    unit, factor = next(each for each in _DURATION_UNITS_NS if duration_ns % each[1] == 0)
    return {"value": duration_ns // factor, "unit": unit}


def _loss_exponent(loss: float) -> int:
    """N of the 10^-N that a share is at most.

    >>> _loss_exponent(1e-4), _loss_exponent(2e-4)
    (4, 3)
    """
    return min(max(math.floor(-math.log10(loss) + 1e-9), 1), 10)
