"""CAMARA's Dedicated Networks 0.2.0-rc.1: networks, and accesses that let groups of devices use them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Response, delete, get, post
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from edgeflex_flow.clock import moment_ns
from edgeflex_services.network_simulator.camara_common import (
    GENERAL_CODES,
    NOT_OFFERED,
    CamaraBody,
    CamaraError,
    DeviceIds,
    Moment,
    ProfileName,
    Sink,
    convert,
    correlator_of,
    id_in_path,
    invalid,
    not_found,
    page_answer,
    read,
    sink_of,
    tell,
)
from edgeflex_services.network_simulator.door import base_url, moment_text
from edgeflex_services.network_simulator.groups import (
    EndedError,
    Group,
    Member,
    MemberError,
    Network,
    QuotaError,
)
from edgeflex_services.network_simulator.model import NETWORK_NAME, id_of
from edgeflex_services.network_simulator.simulation import AnyRequest, Simulation, simulation_of
from edgeflex_services.network_simulator.world import Subscriber, UnknownError, World

NETWORKS: Final = "/dedicated-network/v0.2rc1"
ACCESSES: Final = "/dedicated-network-accesses/v0.2rc1"
NETWORK_EVENT: Final = "org.camaraproject.dedicated-network.v0.network-status-changed"
DEVICE_EVENT: Final = "org.camaraproject.dedicated-network-accesses.v0.device-status-changed"
SERVICE_AREA_ID: Final = id_of("service-area", NETWORK_NAME)
NETWORK_PROFILE_ID: Final = id_of("network-profile", NETWORK_NAME)
MOST_AT_ONCE: Final = 100
_STATUSES: Final = ("REQUESTED", "GRANTED", "DENIED")
_PHONE: Final = re.compile(r'(?:^|,)\s*phonenumber="\+([1-9][0-9]{4,14})"')


class ServiceTime(CamaraBody, frozen=True, kw_only=True):
    start: Moment
    end: Moment


class CreateNetwork(CamaraBody, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=1024)] | UnsetType = UNSET
    network_profile_id: str | UnsetType = UNSET
    qos_profile_name: ProfileName | UnsetType = UNSET
    service_time: ServiceTime
    service_area_id: str
    sink: str | UnsetType = UNSET
    sink_credential: dict[str, Any] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.network_profile_id is UNSET) == (self.qos_profile_name is UNSET):
            raise ValueError("one of `networkProfileId` and `qosProfileName` is needed, not both")


_Devices = Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MOST_AT_ONCE)]


class CreateAccess(CamaraBody, frozen=True, kw_only=True):
    network_id: str
    qos_profiles: Annotated[list[ProfileName], Meta(min_length=1, max_length=32)] | UnsetType = UNSET
    default_qos_profile: ProfileName | UnsetType = UNSET
    devices: _Devices | UnsetType = UNSET
    sink: str | UnsetType = UNSET
    sink_credential: dict[str, Any] | UnsetType = UNSET


class SomeDevices(CamaraBody, frozen=True, kw_only=True):
    devices: _Devices


@dataclass(frozen=True)
class DedicatedNetworkAbout:
    """What this API keeps of a network."""

    shown: dict[str, Any]
    sink: Sink | None = None
    correlator: str | None = None


@dataclass
class AccessAbout:
    """What this API keeps of a group."""

    shown: dict[str, Any]
    sink: Sink | None
    correlator: str | None
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By GPSI, as they were named."""
    recent: list[Member] = field(default_factory=list)
    """That the last request put in."""


class DedicatedNetworks(Controller):
    path = NETWORKS

    @get("/networks")
    async def networks(self, request: AnyRequest) -> Response[Any]:
        networks = list(simulation_of(request).groups.networks.values())
        if (name := request.query_params.get("name")) is not None:
            networks = [each for each in networks if _network_shown(each).get("name") == name]
        return page_answer(request, "items", networks, len(networks), _network_shown)

    @post("/networks")
    async def create(self, request: AnyRequest) -> Response[Any]:
        simulation = simulation_of(request)
        asked = await read(request, CreateNetwork)
        sink = sink_of(asked.sink, asked.sink_credential, GENERAL_CODES)
        _check_network(simulation.world, asked)
        shown: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(asked, sink_credential=UNSET))
        network = simulation.groups.create_network(
            moment_ns(asked.service_time.start),
            moment_ns(asked.service_time.end),
            lambda changed: _tell_network(simulation, changed),
            DedicatedNetworkAbout(shown, sink, correlator_of(request)),
        )
        location = f"{base_url(request)}{NETWORKS}/networks/{network.id}"
        return Response(_network_shown(network), status_code=201, headers={"Location": location})

    @get("/networks/{network_id:str}")
    async def look(self, request: AnyRequest, network_id: FromPath[str]) -> Response[Any]:
        return Response(_network_shown(_network(request, network_id)))

    @delete("/networks/{network_id:str}")
    async def remove(self, request: AnyRequest, network_id: FromPath[str]) -> None:
        simulation_of(request).groups.delete_network(_network(request, network_id))


class DedicatedNetworkAccesses(Controller):
    path = ACCESSES

    @get("/accesses")
    async def accesses(self, request: AnyRequest) -> Response[Any]:
        groups = _wanted_groups(request)
        return page_answer(request, "items", groups, len(groups), _access_shown)

    @post("/accesses")
    async def create(self, request: AnyRequest) -> Response[Any]:
        simulation = simulation_of(request)
        asked = await read(request, CreateAccess)
        sink = sink_of(asked.sink, asked.sink_credential, GENERAL_CODES)
        _check_profiles(simulation.world, asked)
        network = _network(request, asked.network_id)
        shown = msgspec.to_builtins(msgspec.structs.replace(asked, devices=UNSET, sink_credential=UNSET))
        try:
            group = simulation.groups.create(
                network,
                lambda changed, members: _tell_members(simulation, changed, members),
                AccessAbout(shown, sink, correlator_of(request)),
            )
        except EndedError as error:
            raise CamaraError(409, "INCOMPATIBLE_STATE", str(error)) from error
        results = [] if asked.devices is UNSET else _add(simulation, group, asked.devices)
        location = f"{base_url(request)}{ACCESSES}/accesses/{group.id}"
        told = {**_extended(group), **({"results": results} if results else {})}
        return Response(told, status_code=207 if results else 201, headers={"Location": location})

    @get("/accesses/{access_id:str}")
    async def look(self, request: AnyRequest, access_id: FromPath[str]) -> Response[Any]:
        return Response(_extended(_group(request, access_id)))

    @delete("/accesses/{access_id:str}")
    async def remove(self, request: AnyRequest, access_id: FromPath[str]) -> None:
        simulation_of(request).groups.delete(_group(request, access_id))

    @get("/accesses/{access_id:str}/devices")
    async def devices(self, request: AnyRequest, access_id: FromPath[str]) -> Response[Any]:
        group = _group(request, access_id)
        members = _wanted_members(request, group)
        total = len(group.members) if members is None else len(members)
        of_all = group.members.values() if members is None else members
        return page_answer(request, "items", of_all, total, lambda each: _member_shown(group, each))

    @post("/accesses/{access_id:str}/devices/add")
    async def add_devices(self, request: AnyRequest, access_id: FromPath[str]) -> Response[Any]:
        simulation = simulation_of(request)
        group = _group(request, access_id)
        asked = await read(request, SomeDevices)
        _check_state(group)
        results = _add(simulation, group, asked.devices)
        if len(results) == len(asked.devices):
            raise _none_valid(results)
        told = {"recentAccessDevices": _recent(group)}
        if results:
            return Response({**told, "results": results}, status_code=207)
        return Response(told, status_code=201)

    @post("/accesses/{access_id:str}/devices/remove")
    async def remove_devices(self, request: AnyRequest, access_id: FromPath[str]) -> Response[Any]:
        simulation = simulation_of(request)
        group = _group(request, access_id)
        asked = await read(request, SomeDevices)
        _check_state(group)
        results = [each for each in (_take_out(simulation, group, device) for device in asked.devices) if each]
        if len(results) == len(asked.devices):
            raise _none_valid(results)
        if results:
            return Response({"results": results}, status_code=207)
        return Response(None, status_code=204)


# Networks -----------------------------------------------------------------------------------------------------------


def _network(request: AnyRequest, network_id: str) -> Network:
    try:
        return simulation_of(request).groups.network(id_in_path(network_id))
    except UnknownError as error:
        raise not_found(error) from error


def _check_network(world: World, asked: CreateNetwork) -> None:
    time = asked.service_time
    if time.end <= time.start or moment_ns(time.end) <= world.now_ns:
        raise CamaraError(
            422, "DEDICATED_NETWORK.INCORRECT_SERVICE_TIME", "`serviceTime` ends after its start, and not in the past"
        )
    if id_in_path(asked.service_area_id) != SERVICE_AREA_ID:
        raise CamaraError(
            404, "DEDICATED_NETWORK.SERVICE_AREA_IDENTIFIER_NOT_FOUND", f"the only service area is {SERVICE_AREA_ID}"
        )
    if asked.qos_profile_name is not UNSET and asked.qos_profile_name not in world.profiles:
        known = ", ".join(world.profiles)
        raise CamaraError(404, "DEDICATED_NETWORK.QOS_PROFILE_NAME_NOT_FOUND", f"known profiles: {known}")
    if asked.network_profile_id is not UNSET and id_in_path(asked.network_profile_id) != NETWORK_PROFILE_ID:
        raise CamaraError(
            404,
            "DEDICATED_NETWORK.NETWORK_PROFILE_IDENTIFIER_NOT_FOUND",
            f"the only network profile is {NETWORK_PROFILE_ID}",
        )


def _network_shown(network: Network) -> dict[str, Any]:
    shown = network.about.shown if isinstance(network.about, DedicatedNetworkAbout) else _first_shown(network)
    return {**shown, "id": network.id, "status": network.status}


def _first_shown(network: Network) -> dict[str, Any]:
    """Of the network that is there from the beginning."""
    return {
        "name": NETWORK_NAME,
        "networkProfileId": NETWORK_PROFILE_ID,
        "serviceAreaId": SERVICE_AREA_ID,
        "serviceTime": {"start": moment_text(network.starts_ns), "end": moment_text(network.ends_ns)},
    }


def _tell_network(simulation: Simulation, network: Network) -> None:
    assert isinstance(network.about, DedicatedNetworkAbout)
    event = {
        "source": f"{NETWORKS}/networks/{network.id}",
        "type": NETWORK_EVENT,
        "data": {"networkId": network.id, "status": network.status},
    }
    tell(simulation, network.about.sink, event, network.about.correlator)


# Accesses -----------------------------------------------------------------------------------------------------------


def _about(group: Group) -> AccessAbout:
    assert isinstance(group.about, AccessAbout)
    return group.about


def _group(request: AnyRequest, access_id: str) -> Group:
    try:
        group = simulation_of(request).groups.group(id_in_path(access_id))
    except UnknownError as error:
        raise not_found(error) from error
    if not isinstance(group.about, AccessAbout):
        raise CamaraError(404, "NOT_FOUND", f"there is no access '{access_id}'")
    return group


def _wanted_groups(request: AnyRequest) -> Sequence[Group]:
    """The accesses that a request asks for, by network, by device or all."""
    simulation = simulation_of(request)
    network_id = request.query_params.get("networkId")
    network = None if network_id is None else _network(request, network_id)
    if (header := request.headers.get("x-device")) is not None:
        groups = simulation.groups.of_device(_by_header(simulation.world, header))
        return [each for each in groups if isinstance(each.about, AccessAbout) and network in (None, each.network)]
    if network is not None:
        return list(network.groups.values())
    return [each for each in simulation.groups if isinstance(each.about, AccessAbout)]


def _wanted_members(request: AnyRequest, group: Group) -> Sequence[Member] | None:
    """The members that a request asks for; None: all."""
    status = request.query_params.get("deviceStatus")
    if status is not None and status not in _STATUSES:
        raise invalid(f"`deviceStatus` is one of {', '.join(_STATUSES)}; got '{status[:40]}'")
    header = request.headers.get("x-device")
    if header is None and status is None:
        return None
    members = group.members.values()
    if header is not None:
        gpsi = _by_header(simulation_of(request).world, header).device.gpsi
        members = {gpsi: group.members[gpsi]}.values() if gpsi in group.members else {}.values()
    return [each for each in members if status in (None, each.status)]


def _by_header(world: World, header: str) -> Subscriber:
    """The device of `x-device`, a dictionary of RFC 8941. Raises CamaraError."""
    found = _PHONE.search(header)
    if found is None:
        raise invalid(f"""`x-device` is such as phonenumber="+491701234567"; got '{header[:100]}'""")
    try:
        return world.subscriber(f"msisdn-{found[1]}")
    except UnknownError as error:
        raise CamaraError(404, "IDENTIFIER_NOT_FOUND", str(error)) from error


def _check_profiles(world: World, asked: CreateAccess) -> None:
    profiles = [] if asked.qos_profiles is UNSET else asked.qos_profiles
    default = [] if asked.default_qos_profile is UNSET else [asked.default_qos_profile]
    for each in (*profiles, *default):
        if each not in world.profiles:
            raise invalid(f"there is no profile '{each}'; known: {', '.join(world.profiles)}")
    if default and profiles and default[0] not in profiles:
        raise invalid(f"`defaultQosProfile` is one of `qosProfiles`; got '{default[0]}'")


def _check_state(group: Group) -> None:
    if group.network is not None and group.network.status == "TERMINATED":
        raise CamaraError(409, "INCOMPATIBLE_STATE", f"the network '{group.network.id}' has ended")


def _add(simulation: Simulation, group: Group, devices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put devices in; gives what is wrong with those that cannot be."""
    results = []
    accepted = []
    for device in devices:
        try:
            subscriber = _usable(simulation.world, device)
            accepted.append(simulation.groups.add(group, subscriber))
            _about(group).devices[subscriber.device.gpsi] = dict(device)
        except CamaraError as error:
            results.append({**error.told, "device": device})
        except MemberError as error:
            results.append(_result(409, "ALREADY_EXISTS", str(error), device))
        except QuotaError as error:
            results.append(_result(429, "QUOTA_EXCEEDED", str(error), device))
    if accepted:
        _about(group).recent = accepted
        simulation.groups.ask(group, accepted)
    return results


def _take_out(simulation: Simulation, group: Group, device: Mapping[str, Any]) -> dict[str, Any] | None:
    """Take a device out; gives what is wrong with it."""
    try:
        gpsi = _known(simulation.world, group, device)
        simulation.groups.remove(group, gpsi)
    except CamaraError as error:
        return {**error.told, "device": device}
    except UnknownError as error:
        return _result(404, "NOT_FOUND", str(error), device)
    about = _about(group)
    about.devices.pop(gpsi)
    about.recent = [each for each in about.recent if each.gpsi != gpsi]
    return None


def _known(world: World, group: Group, device: Mapping[str, Any]) -> str:
    """The GPSI of a member, which the network may not know any more, or of another device. Raises CamaraError."""
    gpsi = _gpsi_of(device)
    if gpsi in group.members:
        return gpsi
    try:
        return world.subscriber(gpsi).device.gpsi
    except UnknownError as error:
        raise CamaraError(404, "IDENTIFIER_NOT_FOUND", str(error)) from error


def _usable(world: World, device: Mapping[str, Any]) -> Subscriber:
    """Raises CamaraError."""
    try:
        subscriber = world.subscriber(_gpsi_of(device))
    except UnknownError as error:
        raise CamaraError(404, "IDENTIFIER_NOT_FOUND", str(error)) from error
    if world.refuses(subscriber):
        raise CamaraError(422, "SERVICE_NOT_APPLICABLE", NOT_OFFERED)
    return subscriber


def _gpsi_of(device: Mapping[str, Any]) -> str:
    """By number only, whatever else is told. Raises CamaraError."""
    ids = convert(device, DeviceIds)
    if ids.phone_number is UNSET:
        raise invalid("devices are known by `phoneNumber` here")
    return f"msisdn-{ids.phone_number[1:]}"


def _result(status: int, code: str, message: str, device: Mapping[str, Any]) -> dict[str, Any]:
    return {**CamaraError(status, code, message).told, "device": device}


def _none_valid(results: Sequence[Mapping[str, Any]]) -> CamaraError:
    code = "DEDICATED_NETWORK_ACCESSES.NO_VALID_DEVICE"
    return CamaraError(422, code, "none of the devices can be dealt with", results=results)


def _access_shown(group: Group) -> dict[str, Any]:
    stats = {
        "totalDevices": len(group.members),
        "totalGranted": group.counts["GRANTED"],
        "totalDenied": group.counts["DENIED"],
    }
    return {**_about(group).shown, "id": group.id, "stats": stats}


def _extended(group: Group) -> dict[str, Any]:
    recent = _recent(group)
    return {**_access_shown(group), **({"recentAccessDevices": recent} if recent else {})}


def _recent(group: Group) -> list[dict[str, Any]]:
    return [_member_shown(group, each) for each in _about(group).recent]


def _member_shown(group: Group, member: Member) -> dict[str, Any]:
    told: dict[str, Any] = {"device": _about(group).devices[member.gpsi], "status": member.status}
    if member.reason is not None:
        told["statusInfo"] = {"reason": {"code": member.reason, "message": member.reason.replace("_", " ").lower()}}
    return told


def _tell_members(simulation: Simulation, group: Group, members: Sequence[Member]) -> None:
    event = {
        "source": f"{ACCESSES}/accesses/{group.id}",
        "type": DEVICE_EVENT,
        "data": {"accessId": group.id, "accessDevices": [_member_shown(group, each) for each in members]},
    }
    tell(simulation, _about(group).sink, event, _about(group).correlator)
