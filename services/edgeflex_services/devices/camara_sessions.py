"""Qualities of links as sessions of Quality-On-Demand.

A session that the network ends stays for a while, and stands in the way of the next for the same flow until it is
deleted.

Source: CAMARA quality-on-demand 1.1.0.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

import msgspec

from edgeflex_flow.clock import Clock, moment_ns
from edgeflex_services.devices.camara_api import (
    CamaraApi,
    CloudEvent,
    device_object,
    server_objects,
    sink_objects,
)
from edgeflex_services.devices.network import (
    Change,
    Device,
    NetworkMissingError,
    NetworkRefusedError,
    Reason,
    Session,
    SessionChanged,
    SessionState,
    Traffic,
)
from edgeflex_services.devices.times import Moment

QOS_STATUS_CHANGED: Final = "org.camaraproject.quality-on-demand.v1.qos-status-changed"
CONFLICT: Final = "CONFLICT"
QosStatus: TypeAlias = Literal["REQUESTED", "AVAILABLE", "UNAVAILABLE"]
STATES: Final[dict[QosStatus, SessionState]] = {
    "REQUESTED": "requested",
    "AVAILABLE": "available",
    "UNAVAILABLE": "ended",
}


class _SessionInfo(msgspec.Struct, frozen=True, rename="camel"):
    session_id: str
    qos_status: QosStatus
    qos_profile: str
    status_info: str | None = None
    started_at: Moment | None = None
    expires_at: Moment | None = None
    sink: str | None = None

    def session(self) -> Session:
        return Session(
            ref=self.session_id,
            state=STATES[self.qos_status],
            profile=self.qos_profile,
            reason=_reason(self.status_info),
            started_ns=moment_ns(self.started_at),
            expires_ns=moment_ns(self.expires_at),
        )


class _Changed(msgspec.Struct, frozen=True, rename="camel"):
    session_id: str
    qos_status: Literal["AVAILABLE", "UNAVAILABLE"]
    status_info: str | None = None


class Sessions:
    """Sessions of one network."""

    def __init__(self, api: CamaraApi, clock: Clock) -> None:
        self._api = api
        self._clock = clock

    async def create(
        self, device: Device, traffic: Traffic, profile: str, duration_s: int, callback_url: str, callback_token: str
    ) -> Session:
        body: dict[str, Any] = {
            "device": device_object(device),
            **server_objects(traffic),
            "qosProfile": profile,
            "duration": duration_s,
            **sink_objects(callback_url, callback_token, self._clock),
        }
        try:
            answer = await self._api.request("POST", "/sessions", body=body)
        except NetworkRefusedError as error:
            if error.reason.code != CONFLICT or not await self._clear(device):
                raise
            answer = await self._api.request("POST", "/sessions", body=body)
        return answer.read(_SessionInfo).session()

    async def _clear(self, device: Device) -> bool:
        """Take away what is over of a device's sessions and may stand in the way of a new one; whether any was."""
        over = [each.session_id for each in await self._of(device) if STATES[each.qos_status] == "ended"]
        for ref in over:
            await self.end(ref)
        return bool(over)

    async def _of(self, device: Device) -> list[_SessionInfo]:
        try:
            answer = await self._api.request("POST", "/retrieve-sessions", body={"device": device_object(device)})
        except NetworkMissingError:
            return []  # a device that the network does not know has no sessions
        return answer.read(list[_SessionInfo])

    async def get(self, ref: str) -> Session | None:
        try:
            answer = await self._api.request("GET", _path(ref))
        except NetworkMissingError:
            return None
        return answer.read(_SessionInfo).session()

    async def find(self, device: Device, callback_url: str) -> Session | None:
        """One that has ended only if there is no other."""
        found = [each.session() for each in await self._of(device) if each.sink == callback_url]
        return min(found, key=lambda each: each.state == "ended", default=None)

    async def extend(self, ref: str, more_s: int) -> Session:
        body = {"requestedAdditionalDuration": more_s}
        answer = await self._api.request("POST", f"{_path(ref)}/extend", body=body)
        return answer.read(_SessionInfo).session()

    async def end(self, ref: str) -> None:
        try:
            await self._api.request("DELETE", _path(ref))
        except NetworkMissingError:
            return


def _path(ref: str) -> str:
    return f"/sessions/{quote(ref, safe='')}"


def _reason(status_info: str | None) -> Reason | None:
    return None if status_info is None else Reason(code=status_info)


def changes_of(event: CloudEvent) -> tuple[Change, ...]:
    """What a notification of a session says. Raises BadNotificationError."""
    told = event.read(_Changed)
    changed = SessionChanged(
        session_ref=told.session_id, state=STATES[told.qos_status], reason=_reason(told.status_info)
    )
    return (changed,)
