"""Groups of devices as accesses to a dedicated network.

An access has no name: it is known by its sink, the callback that is the group's own.

Source: CAMARA dedicated-network-accesses 0.2.0-rc.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

import msgspec

from edgeflex_flow.clock import Clock
from edgeflex_services.devices.camara_api import CamaraApi, CloudEvent, Page, phone_number, sink_objects
from edgeflex_services.devices.network import (
    Change,
    Device,
    MembersChanged,
    Membership,
    MemberState,
    NetworkMissingError,
    Reason,
)

DEVICE_STATUS_CHANGED: Final = "org.camaraproject.dedicated-network-accesses.v0.device-status-changed"
NO_VALID_DEVICE: Final = "DEDICATED_NETWORK_ACCESSES.NO_VALID_DEVICE"
UNPROCESSABLE: Final = 422
WAS_IN: Final = frozenset({"ACCESS_REVOKED", "ACCESS_FAILED"})
"""Reasons why a device that had access has it no longer."""
NOT_IN: Final = frozenset({"NOT_FOUND", "IDENTIFIER_NOT_FOUND"})

Members: TypeAlias = dict[str, Membership]


class _Numbered(msgspec.Struct, frozen=True, rename="camel"):
    phone_number: str


class _Told(msgspec.Struct, frozen=True):
    code: str
    message: str = ""


class _StatusInfo(msgspec.Struct, frozen=True):
    """The schema has `reason`; the standard's own example has what is in it directly."""

    reason: _Told | None = None
    code: str | None = None
    message: str = ""

    def as_reason(self) -> Reason | None:
        if self.reason is not None:
            return Reason(code=self.reason.code, text=self.reason.message[:400])
        return None if self.code is None else Reason(code=self.code, text=self.message[:400])


class _AccessDevice(msgspec.Struct, frozen=True, rename="camel"):
    device: _Numbered
    status: Literal["REQUESTED", "GRANTED", "DENIED"]
    status_info: _StatusInfo = _StatusInfo()

    def membership(self) -> Membership:
        reason = self.status_info.as_reason()
        state: MemberState = "refused" if reason is None or reason.code not in WAS_IN else "gone"
        if self.status == "GRANTED":
            return Membership(state="member")
        return Membership(state="pending") if self.status == "REQUESTED" else Membership(state=state, reason=reason)


class _Failure(msgspec.Struct, frozen=True):
    """Why the request was not carried out for a device."""

    status: int
    code: str
    message: str = ""
    device: dict[str, Any] = {}
    """As it was sent, which need not be a device at all."""

    @property
    def key(self) -> str | None:
        number = self.device.get("phoneNumber")
        return number if isinstance(number, str) else None

    @property
    def reason(self) -> Reason:
        return Reason(code=self.code, text=self.message[:400], status=self.status)


class _Outcome(msgspec.Struct, frozen=True, rename="camel"):
    """What became of a request about several devices."""

    code: str = ""
    recent_access_devices: list[_AccessDevice] = []
    results: list[_Failure] = []


class _Access(msgspec.Struct, frozen=True):
    id: str
    sink: str | None = None


class _Changed(msgspec.Struct, frozen=True, rename="camel"):
    access_id: str
    access_devices: list[_AccessDevice]


class Accesses:
    """Groups of one dedicated network."""

    def __init__(self, api: CamaraApi, network_id: str, clock: Clock) -> None:
        self._api = api
        self._network_id = network_id
        self._clock = clock

    async def create(self, profiles: Sequence[str], callback_url: str, callback_token: str) -> str:
        body: dict[str, Any] = {
            "networkId": self._network_id,
            **sink_objects(callback_url, callback_token, self._clock),
        }
        if profiles:
            body["qosProfiles"] = list(profiles)
        answer = await self._api.request("POST", "/accesses", body=body)
        return answer.read(_Access).id

    async def find(self, callback_url: str) -> str | None:
        query = [("networkId", self._network_id)]
        async for access in self._api.items("/accesses", Page[_Access], query):
            if access.sink == callback_url:
                return access.id
        return None

    async def delete(self, ref: str) -> None:
        try:
            await self._api.request("DELETE", _path(ref))
        except NetworkMissingError:
            return

    async def add(self, ref: str, devices: Sequence[Device]) -> Members:
        outcome = await self._change(ref, "add", devices)
        keys = [phone_number(device) for device in devices]
        members = {each.device.phone_number: each.membership() for each in outcome.recent_access_devices}
        members |= _refused(outcome.results, [key for key in keys if key not in members])
        if any(each.code == "ALREADY_EXISTS" for each in outcome.results):
            # They are in, or are to be, or were denied: only the list says which.
            known = await self.members(ref)
            for each in outcome.results:
                if each.code == "ALREADY_EXISTS" and each.key is not None:
                    members[each.key] = known.get(each.key, Membership(state="pending"))
        return {key: members.get(key, Membership(state="pending")) for key in keys}

    async def remove(self, ref: str, devices: Sequence[Device]) -> Members:
        outcome = await self._change(ref, "remove", devices)
        failed = [each for each in outcome.results if each.code not in NOT_IN]
        # Where the network does not say for whom it failed, the list does.
        still_in = await self.members(ref) if any(each.key is None for each in failed) else {}
        named = {each.key: each.reason for each in failed if each.key is not None}
        still_in |= {key: Membership(state="member", reason=reason) for key, reason in named.items()}
        return {key: still_in.get(key, Membership(state="gone")) for key in map(phone_number, devices)}

    async def members(self, ref: str) -> Members:
        listed = self._api.items(f"{_path(ref)}/devices", Page[_AccessDevice])
        return {each.device.phone_number: each.membership() async for each in listed}

    async def _change(self, ref: str, what: Literal["add", "remove"], devices: Iterable[Device]) -> _Outcome:
        """For some devices or for all it may fail, which is no error of the request."""
        body = {"devices": [{"phoneNumber": phone_number(device)} for device in devices]}
        answer = await self._api.request("POST", f"{_path(ref)}/devices/{what}", body=body, also=[UNPROCESSABLE])
        if not answer.body:
            return _Outcome()
        if answer.status != UNPROCESSABLE:
            return answer.read(_Outcome)
        error = self._api.error_of(answer)
        if error.reason.code != NO_VALID_DEVICE:
            raise error
        return answer.read(_Outcome)


def _path(ref: str) -> str:
    return f"/accesses/{quote(ref, safe='')}"


def _refused(failures: Sequence[_Failure], unaccounted: Sequence[str]) -> Members:
    """Those for which it failed. A device that the network could not even read is named by no result: it is one of
    those of which nothing is said otherwise."""
    members = {each.key: Membership(state="refused", reason=each.reason) for each in failures if each.key is not None}
    unnamed = [each for each in failures if each.key is None]
    for key in unaccounted:
        if key not in members and unnamed:
            members[key] = Membership(state="refused", reason=unnamed[0].reason)
    return members


def changes_of(event: CloudEvent) -> tuple[Change, ...]:
    """What a notification of an access says. Raises BadNotificationError."""
    told = event.read(_Changed)
    members = {each.device.phone_number: each.membership() for each in told.access_devices}
    return (MembersChanged(group_ref=told.access_id, members=members),)
