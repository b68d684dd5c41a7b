"""3GPP's 5GLAN parameter provision (TS 29.522, Release 17): groups of devices that form a network of their own."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Response, delete, get, patch, post, put
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from edgeflex_services.network_simulator.door import base_url
from edgeflex_services.network_simulator.groups import Group, NamedError
from edgeflex_services.network_simulator.nef_common import (
    Features,
    NefBody,
    NefError,
    Snssai,
    convert,
    merged,
    read,
)
from edgeflex_services.network_simulator.simulation import AnyRequest, Simulation, simulation_of
from edgeflex_services.network_simulator.world import Subscriber, UnknownError, World

API: Final = "/3gpp-5glan-pp/v1"


class AppDescriptor(NefBody, frozen=True, kw_only=True):
    os_id: uuid.UUID
    app_ids: Annotated[dict[str, str], Meta(min_length=1)]


class LanParameters(NefBody, frozen=True, kw_only=True):
    exter_group_id: Annotated[str, Meta(min_length=1)]
    gpsis: Annotated[dict[str, Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]
    """By any key."""
    dnn: str
    snssai: Snssai
    session_type: str
    app_desps: Annotated[dict[str, AppDescriptor], Meta(min_length=1)]


class Provision(NefBody, frozen=True, kw_only=True):
    parameters: LanParameters = msgspec.field(name="5gLanParams")
    supp_feat: Features


class LanChange(NefBody, frozen=True, kw_only=True):
    """A merge patch of what may be patched."""

    gpsis: Annotated[dict[str, str | None], Meta(min_length=1)] | UnsetType = UNSET
    app_desps: Annotated[dict[str, dict[str, Any] | None], Meta(min_length=1)] | UnsetType = UNSET


class ProvisionChange(NefBody, frozen=True, kw_only=True):
    change: LanChange | UnsetType = msgspec.field(name="5gLanParamsPatch", default=UNSET)


@dataclass
class LanGroup:
    """What this API keeps of a group."""

    owner: str
    asked: Provision
    base: str
    """With which the links to the owner's groups begin."""


class LanGroups(Controller):
    path = API

    @post("/{owner:str}/subscriptions")
    async def create(self, request: AnyRequest, owner: FromPath[str]) -> Response[Any]:
        simulation = simulation_of(request)
        asked = await read(request, Provision)
        members = _members_of(simulation.world, asked.parameters)
        about = LanGroup(owner, asked, f"{base_url(request)}{API}/{owner}/subscriptions")
        try:
            group = simulation.groups.create(None, lambda *_: None, about, name=asked.parameters.exter_group_id)
        except NamedError as error:
            raise NefError(403, "OPERATION_PROHIBITED", str(error), "/5gLanParams/exterGroupId") from error
        _set_members(simulation, group, members)
        return Response(_shown(group), status_code=201, headers={"Location": _link(group)})

    @get("/{owner:str}/subscriptions")
    async def groups(self, request: AnyRequest, owner: FromPath[str]) -> Response[Any]:
        return Response([_shown(each) for each in simulation_of(request).groups if _is_of(each, owner)])

    @get("/{owner:str}/subscriptions/{group_id:str}")
    async def look(self, request: AnyRequest, owner: FromPath[str], group_id: FromPath[str]) -> Response[Any]:
        return Response(_shown(_group(request, owner, group_id)))

    @put("/{owner:str}/subscriptions/{group_id:str}")
    async def replace(self, request: AnyRequest, owner: FromPath[str], group_id: FromPath[str]) -> Response[Any]:
        group = _group(request, owner, group_id)
        asked = await read(request, Provision)
        if asked.parameters.exter_group_id != group.name:
            detail = "`exterGroupId` cannot be changed"
            raise NefError(403, "MODIFICATION_NOT_ALLOWED", detail, "/5gLanParams/exterGroupId")
        _change(simulation_of(request), group, asked)
        return Response(_shown(group))

    @patch("/{owner:str}/subscriptions/{group_id:str}")
    async def change(self, request: AnyRequest, owner: FromPath[str], group_id: FromPath[str]) -> Response[Any]:
        group = _group(request, owner, group_id)
        change = (await read(request, ProvisionChange)).change
        if change is not UNSET:
            document = merged(msgspec.to_builtins(_about(group).asked), {"5gLanParams": msgspec.to_builtins(change)})
            _change(simulation_of(request), group, convert(document, Provision))
        return Response(None, status_code=204)

    @delete("/{owner:str}/subscriptions/{group_id:str}")
    async def remove(self, request: AnyRequest, owner: FromPath[str], group_id: FromPath[str]) -> None:
        simulation_of(request).groups.delete(_group(request, owner, group_id))


def _about(group: Group) -> LanGroup:
    assert isinstance(group.about, LanGroup)
    return group.about


def _link(group: Group) -> str:
    return f"{_about(group).base}/{group.id}"


def _is_of(group: Group, owner: str) -> bool:
    return isinstance(group.about, LanGroup) and group.about.owner == owner


def _group(request: AnyRequest, owner: str, group_id: str) -> Group:
    try:
        group = simulation_of(request).groups.group(group_id)
    except UnknownError as error:
        raise NefError(404, "SUBSCRIPTION_NOT_FOUND", str(error)) from error
    if not _is_of(group, owner):
        raise NefError(404, "SUBSCRIPTION_NOT_FOUND", f"'{owner}' has no group '{group_id}'")
    return group


def _change(simulation: Simulation, group: Group, asked: Provision) -> None:
    """Raises NefError, and then nothing has changed."""
    members = _members_of(simulation.world, asked.parameters, group)
    _about(group).asked = asked
    _set_members(simulation, group, members)


def _members_of(world: World, parameters: LanParameters, group: Group | None = None) -> Mapping[str, Subscriber]:
    """Who is to be in a group, by GPSI. Those that are in it may stay, whatever became of them. Raises NefError."""
    members = {}
    for key, gpsi in parameters.gpsis.items():
        if group is not None and gpsi in group.members:
            members[gpsi] = group.members[gpsi].subscriber
            continue
        place = f"/5gLanParams/gpsis/{key}"
        try:
            subscriber = world.subscriber(gpsi)
        except UnknownError as error:
            raise NefError(404, "USER_NOT_FOUND", str(error), place) from error
        if world.refuses(subscriber):
            raise NefError(403, "REQUESTED_SERVICE_NOT_AUTHORIZED", f"not offered for '{gpsi}'", place)
        members[subscriber.device.gpsi] = subscriber
    return members


def _set_members(simulation: Simulation, group: Group, members: Mapping[str, Subscriber]) -> None:
    for gpsi in [each for each in group.members if each not in members]:
        simulation.groups.remove(group, gpsi)
    for gpsi, subscriber in members.items():
        if gpsi not in group.members:
            simulation.groups.grant(group, simulation.groups.add(group, subscriber))


def _shown(group: Group) -> dict[str, Any]:
    return {**msgspec.to_builtins(_about(group).asked), "suppFeat": "0", "self": _link(group)}
