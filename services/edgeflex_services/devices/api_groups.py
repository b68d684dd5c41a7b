"""REST interface: groups of devices that are set apart in the network."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar import Controller, Response, delete, get, patch, post, put
from litestar.exceptions import HTTPException
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK, HTTP_404_NOT_FOUND, HTTP_409_CONFLICT

from edgeflex_services.devices.answering import (
    AnyRequest,
    Asked,
    How,
    carried_out,
    desk_of,
    device_for,
    user_of,
)
from edgeflex_services.devices.grouping import BASE
from edgeflex_services.devices.model import GroupEntry, MembersChange, NewGroup, WantedQos
from edgeflex_services.devices.shown import (
    CHANGING,
    READING,
    GroupList,
    ShownGroup,
    ShownOperation,
    shown_group,
    shown_members,
)
from edgeflex_services.devices.who import Role, User


class GroupApi(Controller):
    """Requirement 4: groups."""

    path = "/groups"
    tags: Sequence[str] | None = ["groups"]

    @post(status_code=HTTP_200_OK, summary="Make a group", responses=CHANGING)
    async def create(self, request: AnyRequest, data: JSONBody[NewGroup], how: How) -> Response[ShownOperation]:
        """Its name is its identifier. Managers of its owner."""

        def asked_by(user: User) -> Asked:
            user.need("manager", data.owner)
            there = desk_of(request).book.groups.get(data.name)
            if data.name == BASE or (there is not None and not _is_same(there, data)):
                raise HTTPException(status_code=HTTP_409_CONFLICT, detail=f"another group has the name '{data.name}'")
            return Asked("create_group", data.name, data.owner, {"profiles": data.profiles})

        return await carried_out(request, how, asked_by)

    @get(summary="Groups", responses=READING)
    async def list(self, request: AnyRequest) -> GroupList:
        """Those that the user may see, with how many devices are in them."""
        user = await user_of(request)
        groups = sorted(desk_of(request).book.groups.values(), key=lambda each: each.name)
        seen = [each for each in groups if user.may("reader", each.owner) and each.name != BASE]
        return GroupList(groups=[shown_group(each) for each in seen])

    @get("/{name:str}", summary="A group", responses=READING)
    async def look(self, request: AnyRequest, name: str) -> ShownGroup:
        """With its members."""
        user = await user_of(request)
        group = _group_for(request, user, "reader", name)
        return shown_group(group, shown_members(desk_of(request).book, group))

    @patch("/{name:str}", status_code=HTTP_200_OK, summary="Change who is in a group", responses=CHANGING)
    async def change(
        self, request: AnyRequest, name: str, data: JSONBody[MembersChange], how: How
    ) -> Response[ShownOperation]:
        """Each device may be of another owner: its managers too must have asked. Managers of the group's owner."""

        def asked_by(user: User) -> Asked:
            group = _group_for(request, user, "manager", name)
            devices = desk_of(request).book.devices
            for gpsi in (*data.add, *data.remove):
                if gpsi in devices or gpsi not in group.members:  # else only the membership is left
                    device_for(request, user, "manager", gpsi)
            return Asked("change_group", name, group.owner, {"change": msgspec.to_builtins(data)})

        return await carried_out(request, how, asked_by)

    @put("/{name:str}/qos", summary="Change the quality of all links of a group", responses=CHANGING)
    async def change_qos(
        self, request: AnyRequest, name: str, data: JSONBody[WantedQos], how: How
    ) -> Response[ShownOperation]:
        """One operation, with what became of each device. Editors of the owners of all its devices."""

        def asked_by(user: User) -> Asked:
            group = _group_for(request, user, "reader", name)
            devices = desk_of(request).book.devices
            gpsis = [gpsi for gpsi, each in group.members.items() if each.state == "member" and gpsi in devices]
            for gpsi in gpsis:
                device_for(request, user, "editor", gpsi)
            asked = {"gpsis": gpsis, "wanted": msgspec.to_builtins(data)}
            return Asked("set_qos", name, group.owner, asked)

        return await carried_out(request, how, asked_by)

    @delete("/{name:str}/qos", status_code=HTTP_200_OK, summary="Give a group's qualities back", responses=CHANGING)
    async def end_qos(self, request: AnyRequest, name: str, how: How) -> Response[ShownOperation]:
        """Editors of the owners of all its devices."""

        def asked_by(user: User) -> Asked:
            group = _group_for(request, user, "reader", name)
            gpsis = [gpsi for gpsi in group.members if gpsi in desk_of(request).book.devices]
            for gpsi in gpsis:
                device_for(request, user, "editor", gpsi)
            return Asked("end_qos", name, group.owner, {"gpsis": gpsis})

        return await carried_out(request, how, asked_by)

    @delete("/{name:str}", status_code=HTTP_200_OK, summary="Take a group away", responses=CHANGING)
    async def remove(self, request: AnyRequest, name: str, how: How) -> Response[ShownOperation]:
        """Its devices stay in the network. Managers."""

        def asked_by(user: User) -> Asked:
            group = _group_for(request, user, "manager", name)
            return Asked("delete_group", name, group.owner, {})

        return await carried_out(request, how, asked_by)


def _is_same(known: GroupEntry, new: NewGroup) -> bool:
    return known.owner == new.owner and known.profiles == new.profiles


def _group_for(request: AnyRequest, user: User, role: Role, name: str) -> GroupEntry:
    group = desk_of(request).book.groups.get(name)
    if group is None or name == BASE or not user.may("reader", group.owner):
        detail = f"there is no group '{name}', or it is not yours"
        raise HTTPException(status_code=HTTP_404_NOT_FOUND, detail=detail)
    user.need(role, group.owner)
    return group
