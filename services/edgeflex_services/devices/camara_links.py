"""What the network says of a link when it is asked: whether data reach the device, and whether the network expects its
link to meet what an application needs.

Source: CAMARA device-reachability-status 1.2.0-rc.3, connectivity-insights 0.7.0-rc.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from edgeflex_flow.clock import Clock, moment_ns
from edgeflex_services.devices.camara_api import CamaraApi, device_object, server_objects
from edgeflex_services.devices.network import (
    Device,
    LinkReadings,
    NetworkError,
    Parameter,
    Reading,
    Reason,
    Traffic,
)
from edgeflex_services.devices.times import Moment

NO_SERVER: Final = "NO_SERVER"
NO_APPLICATION_PROFILE: Final = "NO_APPLICATION_PROFILE"
NOT_IN_ANSWER: Final = Reason(code="NOT_IN_ANSWER", text="the network says nothing of it")
MEETS: Final = "meets the application requirements"
Outlook: TypeAlias = Literal["meets the application requirements", "unable to meet the application requirements"]


class _Reachability(msgspec.Struct, frozen=True, rename="camel"):
    last_status_time: Moment
    reachable: bool
    connectivity: list[str] | None = None


class _Kpis(msgspec.Struct, frozen=True, rename="camel"):
    signal_strength: str | None = None


class NetworkQuality(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the network expects. Answers and notifications spell one of the names in two ways."""

    packet_delay_budget: Outlook | None = None
    jitter: Outlook | None = None
    packetloss_error_rate: Outlook | None = None
    target_min_downstream_rate: Outlook | None = None
    target_min_upstream_rate: Outlook | None = None
    answered_kpis: _Kpis | None = msgspec.field(name="additionalKPIs", default=None)
    notified_kpis: _Kpis | None = msgspec.field(name="additionalKpis", default=None)

    def readings(self) -> dict[Parameter, Reading]:
        """No number is told: only whether the profile is met."""
        outlooks: dict[Parameter, Outlook | None] = {
            "latency": self.packet_delay_budget,
            "jitter": self.jitter,
            "loss": self.packetloss_error_rate,
            "downlink": self.target_min_downstream_rate,
            "uplink": self.target_min_upstream_rate,
        }
        readings: dict[Parameter, Reading] = {
            name: Reading(value=None, meets_profile=outlook == MEETS)
            for name, outlook in outlooks.items()
            if outlook is not None
        }
        kpis = self.answered_kpis or self.notified_kpis
        if kpis is not None and kpis.signal_strength is not None:
            readings["signal"] = Reading(value=kpis.signal_strength)
        return readings


class Profiles:
    """Which application profile stands for a QoS profile: CAMARA names them apart."""

    def __init__(self, ids: Mapping[str, str]) -> None:
        self._ids = ids

    def id_of(self, profile: str | None) -> str | Reason:
        """Its id, or why there is none."""
        known = ", ".join(sorted(self._ids)) or "none"
        if profile is None:
            return Reason(code=NO_APPLICATION_PROFILE, text=f"a profile must be given to compare with; known: {known}")
        text = f"no application profile is configured for '{profile}'; known: {known}"
        return self._ids.get(profile) or Reason(code=NO_APPLICATION_PROFILE, text=text)


class _Part(NamedTuple):
    """What one API said of a link."""

    readings: dict[Parameter, Reading]
    not_told: dict[Parameter, Reason]
    time_ns: int | None = None
    error: NetworkError | None = None


class Links:
    """Reads links."""

    def __init__(self, reachability: CamaraApi, insights: CamaraApi, profiles: Profiles, clock: Clock) -> None:
        self._reachability = reachability
        self._insights = insights
        self._profiles = profiles
        self._clock = clock

    async def read(
        self, device: Device, parameters: Sequence[Parameter], traffic: Traffic | None, profile: str | None
    ) -> LinkReadings:
        """What one of the two APIs refuses is not told; raises NetworkError only if nothing is told at all."""
        identity = device_object(device)
        others: list[Parameter] = [each for each in parameters if each != "reachability"]
        asked: list[Awaitable[_Part]] = []
        if "reachability" in parameters:
            asked.append(self._tried(self._reach(identity), ["reachability"]))
        if others:
            asked.append(self._tried(self._quality(identity, others, traffic, profile), others))
        parts = await asyncio.gather(*asked)
        errors = [part.error for part in parts if part.error is not None]
        if errors and not any(part.readings for part in parts):
            raise errors[0]
        times_ns = [part.time_ns for part in parts if part.time_ns is not None]
        return LinkReadings(
            time_ns=min(times_ns, default=self._clock.now_ns()),
            readings={name: each for part in parts for name, each in part.readings.items()},
            not_told={name: each for part in parts for name, each in part.not_told.items()},
        )

    @staticmethod
    async def _tried(question: Awaitable[_Part], parameters: Sequence[Parameter]) -> _Part:
        try:
            return await question
        except NetworkError as error:
            return _Part({}, dict.fromkeys(parameters, error.reason), error=error)

    async def _reach(self, identity: Mapping[str, str]) -> _Part:
        answer = await self._reachability.request("POST", "/retrieve", body={"device": identity})
        told = answer.read(_Reachability)
        by_data = told.reachable and (told.connectivity is None or "DATA" in told.connectivity)
        return _Part({"reachability": Reading(value=by_data)}, {}, moment_ns(told.last_status_time))

    async def _quality(
        self,
        identity: Mapping[str, str],
        parameters: Sequence[Parameter],
        traffic: Traffic | None,
        profile: str | None,
    ) -> _Part:
        profile_id = self._profiles.id_of(profile)
        if isinstance(profile_id, Reason):
            return _Part({}, dict.fromkeys(parameters, profile_id))
        if traffic is None:
            reason = Reason(code=NO_SERVER, text="a server must be given, to which the link is looked at")
            return _Part({}, dict.fromkeys(parameters, reason))
        body = {"applicationProfileId": profile_id, "device": identity, **server_objects(traffic)}
        answer = await self._insights.request("POST", "/check-network-quality", body=body)
        told = answer.read(NetworkQuality).readings()
        return _Part(
            {name: told[name] for name in parameters if name in told},
            {name: NOT_IN_ANSWER for name in parameters if name not in told},
            self._clock.now_ns(),
        )
