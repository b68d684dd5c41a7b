"""Qualities of links as subscriptions to a session with QoS.

The resource tells no state: that comes by notifications alone. It has no duration either: whoever asked for the quality
gives it back.

Source: 3GPP TS 29.122 V17.6.0 (AsSessionWithQoS), TS 29.214 (flow descriptions), RFC 6733 (IPFilterRule).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from edgeflex_services.devices.nef_api import NefApi, Resource, ref_in, ref_of
from edgeflex_services.devices.network import (
    Change,
    Device,
    NetworkMissingError,
    NetworkRefusedError,
    Parameter,
    Reading,
    Reason,
    Session,
    SessionChanged,
    SessionState,
    Traffic,
)
from edgeflex_services.devices.network_http import bad_answer

STATES: Final[dict[str, SessionState]] = {
    "SUCCESSFUL_RESOURCES_ALLOCATION": "available",
    "FAILED_RESOURCES_ALLOCATION": "ended",
    "QOS_GUARANTEED": "available",
    "QOS_NOT_GUARANTEED": "not_guaranteed",
    "LOSS_OF_BEARER": "not_guaranteed",
    "RECOVERY_OF_BEARER": "available",
    "RELEASE_OF_BEARER": "ended",
    "SESSION_TERMINATION": "ended",
}
"""What an event makes of a session."""
QOS_MONITORING: Final = "QOS_MONITORING"
MONITORED: Final = ("DOWNLINK", "UPLINK", "ROUND_TRIP")
MONITORING_FEATURE: Final = "20"
"""Feature 6 of the API, QoSMonitoring_5G, without which no delays are measured."""
MS_PER_S: Final = 1000.0
NO_ADDRESS: Final = "NO_ADDRESS"
NO_DURATION: Final = "NO_DURATION"


class Periodic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="when", tag="periodic"):
    """Delays are told at a steady pace."""

    period_s: Annotated[int, Meta(ge=1, le=86400, description="Time between two reports.")] = 60


class AboveThreshold(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="when", tag="above_threshold"
):
    """Delays are told when one is longer than it may be."""

    one_way_ms: Annotated[int, Meta(ge=1, le=60_000, description="Up or down.")]
    round_trip_ms: Annotated[int, Meta(ge=1, le=60_000, description="There and back.")]
    wait_s: Annotated[int, Meta(ge=0, le=86400, description="Shortest time between two reports.")] = 10


Monitoring: TypeAlias = Periodic | AboveThreshold


class _Subscription(Resource, frozen=True, kw_only=True, rename="camel"):
    notification_destination: str = ""
    qos_reference: str = ""

    def session(self, ref: str) -> Session:
        return Session(ref=ref, state="requested", profile=self.qos_reference)


class _Delays(msgspec.Struct, frozen=True, rename="camel"):
    """Milliseconds."""

    ul_delays: list[int] = []
    dl_delays: list[int] = []
    rt_delays: list[int] = []


class _Report(msgspec.Struct, frozen=True, rename="camel"):
    event: str
    applied_qos_ref: str | None = None
    qos_mon_reports: list[_Delays] = []


class UserPlaneNotification(msgspec.Struct, frozen=True, rename="camel"):
    """What the network tells of a session."""

    transaction: str
    event_reports: Annotated[list[_Report], Meta(min_length=1)]

    def changes(self) -> tuple[Change, ...]:
        """In the order in which they are told. Events that the standard may add later change nothing."""
        ref = ref_in(self.transaction)
        return tuple(_change(ref, each) for each in self.event_reports if each.event in {*STATES, QOS_MONITORING})


class QosSessions:
    """Sessions of one application function."""

    def __init__(self, api: NefApi, monitoring: Monitoring | None) -> None:
        self._api = api
        self._monitoring = monitoring

    async def create(self, device: Device, traffic: Traffic, profile: str, callback_url: str) -> Session:
        address = _address(device)
        body: dict[str, Any] = {
            "notificationDestination": callback_url,
            "ueIpv4Addr": address,
            "flowInfo": [{"flowId": 1, "flowDescriptions": flow_descriptions(address, traffic)}],
            "qosReference": profile,
            "events": list(STATES),
        }
        if self._monitoring is not None:
            body["supportedFeatures"] = MONITORING_FEATURE
            body["events"].append(QOS_MONITORING)
            body["qosMonInfo"] = {"reqQosMonParams": MONITORED, **_frequency(self._monitoring)}
        ref = ref_of(await self._api.make(body))
        return Session(ref=ref, state="requested", profile=profile)

    async def get(self, ref: str) -> Session | None:
        try:
            return (await self._api.get(ref, _Subscription)).session(ref)
        except NetworkMissingError:
            return None

    async def find(self, device: Device, callback_url: str) -> Session | None:
        query = [("ip-addrs", msgspec.json.encode([{"ipv4Addr": _address(device)}]).decode())]
        for each in await self._api.all(_Subscription, query):
            if each.notification_destination == callback_url:
                ref = ref_in(each.link)
                if not ref:
                    raise bad_answer(200, "the network does not say where a session is that it has")
                return each.session(ref)
        return None

    async def extend(self, ref: str, more_s: int) -> Session:
        text = f"TS 29.122 knows no duration: '{ref}' lasts until it is ended; got {more_s} s more"
        raise NetworkRefusedError(Reason(code=NO_DURATION, text=text))

    async def end(self, ref: str) -> None:
        await self._api.delete(ref)


def _address(device: Device) -> str:
    if device.ipv4_address is None:
        text = f"TS 29.122 knows the device of a session by its IPv4 address, and that of '{device.gpsi}' is not known"
        raise NetworkRefusedError(Reason(code=NO_ADDRESS, text=text))
    return device.ipv4_address


def flow_descriptions(address: str, traffic: Traffic) -> list[str]:
    """The flow from the server to the device (out of the network), and back.

    >>> flow_descriptions("10.0.0.7", Traffic(server_ipv4="198.51.100.10", server_ports=(4712, 4713)))[0]
    'permit out ip from 198.51.100.10 4712,4713 to 10.0.0.7'
    """
    ports = ",".join(map(str, traffic.server_ports))
    server = f"{traffic.server_ipv4} {ports}".rstrip()
    return [f"permit out ip from {server} to {address}", f"permit in ip from {address} to {server}"]


def _frequency(monitoring: Monitoring) -> dict[str, Any]:
    if isinstance(monitoring, Periodic):
        return {"repFreqs": ["PERIODIC"], "repPeriod": monitoring.period_s}
    return {
        "repFreqs": ["EVENT_TRIGGERED"],
        "repThreshDl": monitoring.one_way_ms,
        "repThreshUl": monitoring.one_way_ms,
        "repThreshRp": monitoring.round_trip_ms,
        "waitTime": monitoring.wait_s,
    }


def _change(ref: str, report: _Report) -> SessionChanged:
    if report.event == QOS_MONITORING:
        return SessionChanged(session_ref=ref, state=None, readings=_readings(report.qos_mon_reports))
    state = STATES[report.event]
    applied = f"now held: {report.applied_qos_ref}" if report.applied_qos_ref else ""
    reason = None if state == "available" and not applied else Reason(code=report.event, text=applied)
    return SessionChanged(session_ref=ref, state=state, reason=reason)


def _readings(reports: Sequence[_Delays]) -> dict[Parameter, Reading]:
    """The longest of the delays on the way from the device to its server, which is where measurements go; half of the
    way there and back where that is all that is told."""
    ways = (
        [each for report in reports for each in report.ul_delays],
        [each / 2 for report in reports for each in report.rt_delays],
        [each for report in reports for each in report.dl_delays],
    )
    delays_ms = next((way for way in ways if way), None)
    return {} if delays_ms is None else {"latency": Reading(value=max(delays_ms) / MS_PER_S, unit="s")}
