"""Whether data reach a device, as the network sees it. Of latency and the like it tells only within a session.

Source: 3GPP TS 29.122 V17.6.0 (MonitoringEvent).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from edgeflex_flow.clock import Clock, moment_ns
from edgeflex_services.devices.nef_api import NefApi, ref_in, ref_of
from edgeflex_services.devices.network import (
    Change,
    Device,
    LinkChanged,
    LinkReadings,
    NetworkError,
    NetworkRefusedError,
    Parameter,
    Reading,
    Reason,
    Watch,
)
from edgeflex_services.devices.network_http import Answer
from edgeflex_services.devices.times import Moment, time_text

REACHABLE: Final = "UE_REACHABILITY"
LOST: Final = "LOSS_OF_CONNECTIVITY"
REACHED: Final = {"monitoringType": REACHABLE, "reachabilityType": "DATA"}
DONE: Final = 200
NOT_IN_STANDARD: Final = Reason(code="NOT_IN_STANDARD", text="TS 29.122 tells it only of a session with QoS")
NOT_NOW: Final = Reason(code="NOT_NOW", text="the network tells only later when data reach the device")


class _Report(msgspec.Struct, frozen=True, rename="camel"):
    monitoring_type: str
    reachability_type: str | None = None
    event_time: Moment | None = None

    def is_reached(self) -> bool | None:
        """Whether data reach the device; None: it is about something else."""
        if self.monitoring_type == REACHABLE:
            return self.reachability_type != "SMS"
        return False if self.monitoring_type == LOST else None


class _OneTime(msgspec.Struct, frozen=True, rename="camel"):
    """The answer to a question: a report, several, or a subscription that may hold one."""

    monitoring_type: str | None = None
    reachability_type: str | None = None
    event_time: Moment | None = None
    monitoring_event_report: _Report | None = None
    monitoring_event_reports: list[_Report] = []

    def reports(self, *, is_report: bool) -> list[_Report]:
        held = [] if self.monitoring_event_report is None else [self.monitoring_event_report]
        if is_report and self.monitoring_type is not None:
            held.append(_Report(self.monitoring_type, self.reachability_type, self.event_time))
        return held + self.monitoring_event_reports


class _Made(msgspec.Struct, frozen=True, rename="camel"):
    monitor_expire_time: Moment | None = None


class MonitoringNotification(msgspec.Struct, frozen=True, rename="camel"):
    """What the network tells of a device."""

    subscription: str
    monitoring_event_reports: list[_Report] = []
    cancel_ind: bool = False

    def changes(self) -> tuple[Change, ...]:
        """None for a test, and for events that were not asked for."""
        ref = ref_in(self.subscription)
        reached = [each.is_reached() for each in self.monitoring_event_reports]
        seen = [
            LinkChanged(watch_ref=ref, readings={"reachability": Reading(value=each)})
            for each in reached
            if each is not None
        ]
        ended = [LinkChanged(watch_ref=ref, readings={}, ends_watch=True)] if self.cancel_ind else []
        return (*seen, *ended)

    @property
    def time_ns(self) -> int | None:
        times_ns = [moment_ns(each.event_time) for each in self.monitoring_event_reports if each.event_time]
        return max(times_ns, default=None)


class Reachability:
    """Asks and watches whether data reach devices."""

    def __init__(self, api: NefApi, late_reports_url: str, detection_s: int | None, clock: Clock) -> None:
        self._api = api
        self._late_reports_url = late_reports_url
        self._detection_s = detection_s
        self._clock = clock

    async def read(self, device: Device, parameters: Sequence[Parameter]) -> LinkReadings:
        not_told: dict[Parameter, Reason] = {name: NOT_IN_STANDARD for name in parameters if name != "reachability"}
        if "reachability" not in parameters:
            return LinkReadings(time_ns=self._clock.now_ns(), readings={}, not_told=not_told)
        # A network that has nothing to tell of the one may well tell the other.
        for kind in (REACHED, {"monitoringType": LOST}):
            for report in await self._ask(device, kind):
                reached = report.is_reached()
                if reached is not None:
                    time_ns = self._clock.now_ns() if report.event_time is None else moment_ns(report.event_time)
                    readings: dict[Parameter, Reading] = {"reachability": Reading(value=reached)}
                    return LinkReadings(time_ns=time_ns, readings=readings, not_told=not_told)
        not_told["reachability"] = NOT_NOW
        return LinkReadings(time_ns=self._clock.now_ns(), readings={}, not_told=not_told)

    async def _ask(self, device: Device, kind: Mapping[str, str]) -> list[_Report]:
        body = {
            **_identity(device),
            # It must be given, although the report comes with the answer.
            "notificationDestination": self._late_reports_url,
            "maximumNumberOfReports": 1,
            **kind,
        }
        answer = await self._api.make(body)
        if answer.status == DONE:
            return answer.read(_OneTime).reports(is_report=True)
        await self._api.delete(ref_of(answer))  # what it would report later, nobody waits for
        return answer.read(_OneTime).reports(is_report=False)

    async def begin(self, device: Device, parameters: Sequence[Parameter], expires_ns: int, callback_url: str) -> Watch:
        """Two subscriptions, or none: that data reach the device no more, and that they do again."""
        if "reachability" not in parameters:
            raise NetworkRefusedError(NOT_IN_STANDARD)
        common = {
            **_identity(device),
            "notificationDestination": callback_url,
            "monitorExpireTime": time_text(expires_ns),
        }
        lost: dict[str, Any] = {"monitoringType": LOST}
        if self._detection_s is not None:
            lost["maximumDetectionTime"] = self._detection_s
        refs: list[str] = []
        ends_ns = [expires_ns]
        try:
            for kind in (lost, REACHED):
                answer = await self._api.make({**common, **kind})
                refs.append(ref_of(answer))
                ends_ns += _end_ns(answer)
        except NetworkError:
            await self._give_up(refs)
            raise
        return Watch(refs=tuple(refs), parameters=("reachability",), expires_ns=min(ends_ns))

    async def has(self, watch: Watch) -> bool:
        """By its first part: of single parts that end the network tells."""
        return all([await self._api.has(ref) for ref in watch.refs[:1]])

    async def end(self, watch: Watch) -> None:
        """Every part is tried, whatever becomes of the others."""
        failed: list[NetworkError] = []
        for ref in watch.refs:
            try:
                await self._api.delete(ref)
            except NetworkError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    async def _give_up(self, refs: Sequence[str]) -> None:
        """What is left over ends by itself at the watch's time."""
        try:
            await self.end(Watch(refs=tuple(refs), parameters=()))
        except NetworkError:
            return


def _end_ns(answer: Answer) -> list[int]:
    end = answer.read(_Made).monitor_expire_time
    return [] if end is None else [moment_ns(end)]


def _identity(device: Device) -> dict[str, str]:
    """A device as subscriptions name it: an MSISDN is its digits alone."""
    if device.external_id is not None:
        return {"externalId": device.external_id}
    if device.phone_number is not None:
        return {"msisdn": device.phone_number.removeprefix("+")}
    text = f"a device is known by its MSISDN or its External Identifier; got '{device.gpsi}'"
    raise NetworkRefusedError(Reason(code="UNSUPPORTED_GPSI", text=text))
