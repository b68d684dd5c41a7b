"""`/simulation`: what is in the simulated network, and how tests and people let things happen to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, Router, delete, get, patch, post, put
from litestar.exceptions import HTTPException
from litestar.params import JSONBody, PathParameter
from litestar.status_codes import (
    HTTP_200_OK,
    HTTP_201_CREATED,
    HTTP_404_NOT_FOUND,
    HTTP_409_CONFLICT,
    HTTP_422_UNPROCESSABLE_ENTITY,
)
from msgspec import UNSET, Meta, UnsetType

from edgeflex_flow.units import NS_PER_S
from edgeflex_services.network_simulator.groups import Group
from edgeflex_services.network_simulator.model import Behaviour, Device, Link, Profile
from edgeflex_services.network_simulator.notify import Outcome
from edgeflex_services.network_simulator.sessions import Session, SessionState
from edgeflex_services.network_simulator.simulation import AnyRequest, Simulation, simulation_of
from edgeflex_services.network_simulator.watches import Watch, WatchState
from edgeflex_services.network_simulator.world import Subscriber, TakenError, UnknownError

_Gpsi = Annotated[str, PathParameter(description="Either GPSI of the device.", max_length=200)]
_SessionId = Annotated[str, PathParameter(description="Of whichever API.", max_length=64)]
_Latency = Annotated[float, Meta(ge=0, le=60)]
_Rate = Annotated[int, Meta(ge=0, le=10**12)]


class LinkChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a link is to give; what is not said stays as it is."""

    covered: bool | UnsetType = UNSET
    sms_only: bool | UnsetType = UNSET
    holds_profiles: bool | UnsetType = UNSET
    latency_s: _Latency | UnsetType = UNSET
    jitter_s: _Latency | UnsetType = UNSET
    loss: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    downlink_bit_per_s: _Rate | UnsetType = UNSET
    uplink_bit_per_s: _Rate | UnsetType = UNSET
    signal_dbm: Annotated[float, Meta(ge=-160, le=0)] | UnsetType = UNSET


class DeviceChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another link of a device."""

    link: LinkChange
    for_s: Annotated[
        Annotated[float, Meta(gt=0, le=86_400)] | None,
        Meta(description="After so long it is as before; null: it stays."),
    ] = None


class Advance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far time is to be moved ahead."""

    seconds: Annotated[float, Meta(gt=0, le=100 * 365 * 86_400)]


class DeviceShown(msgspec.Struct, frozen=True, kw_only=True):
    """A device, and what its link gives with the profiles that are in force."""

    gpsi: str
    msisdn: str | None
    external_id: str | None
    ipv4_address: str | None
    link: Link
    profiles: Sequence[str]
    measured: Mapping[str, float] | None
    """None: no data reach it."""


class SessionShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    gpsi: str
    profile: str
    state: SessionState
    reason: str | None
    started_ns: int | None
    expires_ns: int | None


class GroupShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str | None
    network_id: str | None
    members: Mapping[str, str]
    """Their status by GPSI."""


class NetworkShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    status: str
    members: int


class WatchShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    gpsi: str
    state: WatchState
    reason: str | None
    events: int


class ProfileShown(msgspec.Struct, frozen=True, kw_only=True):
    """A profile, and by what Connectivity Insights knows it."""

    name: str
    status: str
    application_profile_id: str


class Notifications(msgspec.Struct, frozen=True, kw_only=True):
    """How many were dealt with, by what became of them, and how many are waiting."""

    counts: Mapping[Outcome, int]
    waiting: int


class Everything(msgspec.Struct, frozen=True, kw_only=True):
    """All that is in the network."""

    time_ns: int
    ahead_s: float
    """How far time was moved."""
    behaviour: Behaviour
    network_id: str
    """Of the dedicated network that is there from the beginning."""
    profiles: Sequence[ProfileShown]
    devices: Sequence[DeviceShown]
    sessions: Sequence[SessionShown]
    networks: Sequence[NetworkShown]
    groups: Sequence[GroupShown]
    watches: Sequence[WatchShown]
    notifications: Notifications


async def enter(request: AnyRequest) -> None:
    """Before each request, what is due is done."""
    simulation_of(request).world.go_on()


class SimulationApi(Controller):
    tags: Sequence[str] | None = ["simulation"]

    @get("/", summary="All that is in the network")
    async def everything(self, request: AnyRequest) -> Everything:
        """As it is now, whatever clients were told of it."""
        return _everything(simulation_of(request))

    @get("/behaviour", summary="How the network behaves")
    async def behaviour(self, request: AnyRequest) -> Behaviour:
        return simulation_of(request).world.behaviour

    @put("/behaviour", summary="Make the network late, unwilling or forgetful")
    async def set_behaviour(self, request: AnyRequest, data: JSONBody[Behaviour]) -> Behaviour:
        """In place of how it behaved before; what is not said is as at the beginning."""
        simulation_of(request).world.behaviour = data
        return data

    @get("/devices/{gpsi:str}", summary="A device")
    async def device(self, request: AnyRequest, gpsi: _Gpsi) -> DeviceShown:
        return _device_shown(_subscriber(request, gpsi))

    @put("/devices/{gpsi:str}", summary="Let the network know a device")
    async def put_device(self, request: AnyRequest, gpsi: _Gpsi, data: JSONBody[Device]) -> Response[DeviceShown]:
        """A new one, or another link of one that is known; its numbers and address stay what they are."""
        if gpsi not in data.gpsis:
            raise HTTPException(status_code=HTTP_422_UNPROCESSABLE_ENTITY, detail=f"the device is not '{gpsi}'")
        world = simulation_of(request).world
        try:
            known = world.subscriber(gpsi)
        except UnknownError:
            return Response(_device_shown(_added(request, data)), status_code=HTTP_201_CREATED)
        if (known.device.gpsis, known.device.ipv4_address) != (data.gpsis, data.ipv4_address):
            detail = f"'{gpsi}' has other numbers or another address: take it away first"
            raise HTTPException(status_code=HTTP_409_CONFLICT, detail=detail)
        world.change_link(known, msgspec.structs.asdict(data.link))
        return Response(_device_shown(known), status_code=HTTP_200_OK)

    @patch("/devices/{gpsi:str}", summary="Let a device's link change")
    async def change_device(self, request: AnyRequest, gpsi: _Gpsi, data: JSONBody[DeviceChange]) -> DeviceShown:
        """For a while or from now on: it vanishes without `covered`, and with `for_s` it returns."""
        subscriber = _subscriber(request, gpsi)
        changes: dict[str, Any] = msgspec.to_builtins(data.link)
        simulation_of(request).world.change_link(subscriber, changes, data.for_s)
        return _device_shown(subscriber)

    @delete("/devices/{gpsi:str}", summary="Let the network know a device no more")
    async def remove_device(self, request: AnyRequest, gpsi: _Gpsi) -> None:
        """What it was given ends, and who asked for it is told."""
        try:
            simulation_of(request).world.remove(gpsi)
        except UnknownError as error:
            raise HTTPException(status_code=HTTP_404_NOT_FOUND, detail=str(error)) from error

    @post("/advance", status_code=HTTP_200_OK, summary="Move time ahead")
    async def advance(self, request: AnyRequest, data: JSONBody[Advance]) -> dict[str, int]:
        """What is due until then happens at once; from then on time goes on as before."""
        simulation = simulation_of(request)
        simulation.clock.move(data.seconds)
        simulation.world.go_on()
        simulation.world.wake()
        return {"time_ns": simulation.world.now_ns}

    @post("/sessions/{session_id:str}/terminate", status_code=HTTP_200_OK, summary="End a session by the network")
    async def terminate(self, request: AnyRequest, session_id: _SessionId) -> SessionShown:
        """Nothing happens to one that has ended."""
        sessions = simulation_of(request).sessions
        try:
            session = sessions.session(session_id)
        except UnknownError as error:
            raise HTTPException(status_code=HTTP_404_NOT_FOUND, detail=str(error)) from error
        sessions.terminate(session)
        return _session_shown(session)


def make_router() -> Router:
    return Router("/simulation", route_handlers=[SimulationApi], before_request=enter)


def _everything(simulation: Simulation) -> Everything:
    world, notifier = simulation.world, simulation.notifier
    return Everything(
        time_ns=world.now_ns,
        ahead_s=simulation.clock.ahead_ns / NS_PER_S,
        behaviour=world.behaviour,
        network_id=simulation.groups.first.id,
        profiles=[_profile_shown(each) for each in world.profiles.values()],
        devices=[_device_shown(each) for each in world.subscribers()],
        sessions=[_session_shown(each) for each in simulation.sessions],
        networks=[
            NetworkShown(id=each.id, status=each.status, members=each.members)
            for each in simulation.groups.networks.values()
        ],
        groups=[_group_shown(each) for each in simulation.groups],
        watches=[_watch_shown(each) for each in simulation.watches],
        notifications=Notifications(counts={**notifier.counts}, waiting=notifier.waiting),
    )


def _subscriber(request: AnyRequest, gpsi: str) -> Subscriber:
    try:
        return simulation_of(request).world.subscriber(gpsi)
    except UnknownError as error:
        raise HTTPException(status_code=HTTP_404_NOT_FOUND, detail=str(error)) from error


def _added(request: AnyRequest, device: Device) -> Subscriber:
    try:
        return simulation_of(request).world.add(device)
    except TakenError as error:
        raise HTTPException(status_code=HTTP_409_CONFLICT, detail=str(error)) from error


def _device_shown(subscriber: Subscriber) -> DeviceShown:
    quality = subscriber.quality
    return DeviceShown(
        gpsi=subscriber.device.gpsi,
        msisdn=subscriber.device.msisdn,
        external_id=subscriber.device.external_id,
        ipv4_address=subscriber.device.ipv4_address,
        link=subscriber.link,
        profiles=[each.name for each in subscriber.promises.values()],
        measured=None if quality is None else quality._asdict(),
    )


def _session_shown(session: Session) -> SessionShown:
    return SessionShown(
        id=session.id,
        gpsi=session.subscriber.device.gpsi,
        profile=session.profile.name,
        state=session.state,
        reason=session.reason,
        started_ns=session.started_ns,
        expires_ns=session.expires_ns,
    )


def _profile_shown(profile: Profile) -> ProfileShown:
    application_profile_id = profile.application_profile_id
    return ProfileShown(name=profile.name, status=profile.status, application_profile_id=application_profile_id)


def _group_shown(group: Group) -> GroupShown:
    return GroupShown(
        id=group.id,
        name=group.name,
        network_id=None if group.network is None else group.network.id,
        members={gpsi: member.status for gpsi, member in group.members.items()},
    )


def _watch_shown(watch: Watch) -> WatchShown:
    gpsi = watch.subscriber.device.gpsi
    return WatchShown(id=watch.id, gpsi=gpsi, state=watch.state, reason=watch.reason, events=watch.events)
