"""Groups of devices as 5G LAN groups.

The standard reports nothing of what becomes of a member: one that was taken is one. It knows no empty groups either, so
each has a gateway: a device of the site's own through which the group reaches its servers.

Source: 3GPP TS 29.522 V17.6.0 (5GLANParameterProvision).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeflex_services.devices.nef_api import NefApi, Resource, ref_in, ref_of
from edgeflex_services.devices.network import (
    GPSI_PATTERN,
    UUID_PATTERN,
    Device,
    Membership,
    NetworkMissingError,
    NetworkRefusedError,
    Reason,
)
from edgeflex_services.devices.network_http import UNAUTHORIZED, bad_answer

GATEWAY: Final = "GATEWAY"
Members: TypeAlias = dict[str, Membership]
_Name: TypeAlias = Annotated[str, Meta(min_length=1)]
_Uuid: TypeAlias = Annotated[str, Meta(pattern=UUID_PATTERN)]


class Slice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A network slice, as TS 29.571 names it (S-NSSAI)."""

    sst: Annotated[int, Meta(ge=0, le=255, description="Kind of slice and service.")]
    sd: Annotated[str, Meta(pattern=r"^[A-Fa-f0-9]{6}$", description="Which of that kind.")] | None = None


class Lan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all groups have in common: the standard wants all of it."""

    domain: Annotated[_Name, Meta(description="Groups are called `name@domain` in the network.")]
    dnn: Annotated[_Name, Meta(description="The data network that members are in.")]
    snssai: Slice
    session_type: Annotated[
        Literal["IPV4", "IPV6", "IPV4V6", "UNSTRUCTURED", "ETHERNET"], Meta(description="What members send.")
    ] = "IPV4"
    gateway: Annotated[
        str,
        Meta(pattern=GPSI_PATTERN, description="GPSI of the device that is in every group: none may be empty."),
    ]
    applications: Annotated[
        dict[_Uuid, Annotated[list[_Name], Meta(min_length=1)]],
        Meta(min_length=1, description="Applications that use the groups, by the id of their operating system."),
    ]


class _LanParameters(msgspec.Struct, frozen=True, rename="camel"):
    exter_group_id: str
    gpsis: dict[str, str] = {}


class _Provision(Resource, frozen=True, kw_only=True):
    lan: _LanParameters = msgspec.field(name="5gLanParams")


class LanGroups:
    """Groups of one application function."""

    def __init__(self, api: NefApi, lan: Lan) -> None:
        self._api = api
        self._lan = lan

    def key(self, device: Device) -> str:
        """The gateway is in every group anyway, and must not be taken out of any."""
        if device.gpsi == self._lan.gateway:
            text = f"'{device.gpsi}' is the gateway of all groups: it can be in none as a member"
            raise NetworkRefusedError(Reason(code=GATEWAY, text=text))
        return device.gpsi

    async def create(self, name: str) -> str:
        lan = self._lan
        parameters = {
            "exterGroupId": self._id(name),
            # The key of a member is its GPSI, so that a patch can name it to take it out.
            "gpsis": {lan.gateway: lan.gateway},
            "dnn": lan.dnn,
            "snssai": lan.snssai,
            "sessionType": lan.session_type,
            "appDesps": {
                system: {"osId": system, "appIds": {each: each for each in names}}
                for system, names in lan.applications.items()
            },
        }
        return ref_of(await self._api.make({"5gLanParams": parameters, "suppFeat": "0"}))

    async def find(self, name: str) -> str | None:
        for each in await self._api.all(_Provision):
            if each.lan.exter_group_id == self._id(name):
                ref = ref_in(each.link)
                if not ref:
                    raise bad_answer(200, f"the network does not say where the group '{self._id(name)}' is")
                return ref
        return None

    async def delete(self, ref: str) -> None:
        await self._api.delete(ref)

    async def add(self, ref: str, gpsis: Sequence[str]) -> Members:
        """The network takes all or none, and need not say whom it does not want: then each half is tried by itself."""
        try:
            await self._patch(ref, {gpsi: gpsi for gpsi in gpsis})
        except NetworkRefusedError as error:
            if error.reason.status == UNAUTHORIZED:
                raise
            if isinstance(error, NetworkMissingError):
                await self.members(ref)  # raises if it is the group, and not a device, that is not there
            if len(gpsis) == 1:
                return {gpsis[0]: Membership(state="refused", reason=error.reason)}
            middle = len(gpsis) // 2
            return {**await self.add(ref, gpsis[:middle]), **await self.add(ref, gpsis[middle:])}
        return {gpsi: Membership(state="member") for gpsi in gpsis}

    async def remove(self, ref: str, gpsis: Sequence[str]) -> Members:
        await self._patch(ref, dict.fromkeys(gpsis))
        return {gpsi: Membership(state="gone") for gpsi in gpsis}

    async def members(self, ref: str) -> Members:
        provision = await self._api.get(ref, _Provision)
        gpsis = provision.lan.gpsis.values()
        return {gpsi: Membership(state="member") for gpsi in gpsis if gpsi != self._lan.gateway}

    async def _patch(self, ref: str, gpsis: dict[str, Any]) -> None:
        await self._api.patch(ref, {"5gLanParamsPatch": {"gpsis": gpsis}})

    def _id(self, name: str) -> str:
        return f"{name}@{self._lan.domain}"
