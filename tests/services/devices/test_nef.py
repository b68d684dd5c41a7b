from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import pytest
from http_service import HttpService, Reply, Request, json_reply
from network_schemas import PublishedService, check_notification

from edgeflex_flow.clock import VirtualClock, moment_ns
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.devices.nef import NefConfig, NefNetwork
from edgeflex_services.devices.network import (
    BadNotificationError,
    Device,
    LinkChanged,
    Membership,
    NetworkAwayError,
    NetworkMissingError,
    NetworkRefusedError,
    Notification,
    Reading,
    Reason,
    Session,
    SessionChanged,
    Traffic,
    Watch,
)

GATEWAY = "msisdn-491700000000"
OS = "97a498e3-fc92-5c94-8986-0333d06e4e47"
CALLBACK, TOKEN = "https://dso.example/api/v1/callbacks/1/s3cret", "callback-token"
NOON_NS = moment_ns(datetime(2026, 1, 1, 12, tzinfo=UTC))
PMU = Device(gpsi="extid-pmu7@grid.example", ipv4_address="10.0.0.7")
METER = Device(gpsi="msisdn-491701234567")
SERVER = Traffic(server_ipv4="198.51.100.10", server_ports=(4712, 4713))
GROUPS = "/3gpp-5glan-pp/v1/grid/subscriptions"
SESSIONS = "/3gpp-as-session-with-qos/v1/grid/subscriptions"
MONITORING = "/3gpp-monitoring-event/v1/grid/subscriptions"
T = TypeVar("T")


def config(url: str, **fields: Any) -> NefConfig:
    told = {
        "standard": "nef",
        "api": {"url": url, "request_timeout_s": 2.0},
        "af_id": "grid",
        "lan": {
            "domain": "grid.example",
            "dnn": "grid",
            "snssai": {"sst": 1, "sd": "0000AB"},
            "gateway": GATEWAY,
            "applications": {OS: ["pmu"]},
        },
        **fields,
    }
    return msgspec.convert(told, NefConfig)


def run(service: HttpService, work: Callable[[NefNetwork], Awaitable[T]], **fields: Any) -> T:
    """What the back end does with a network at this service."""

    async def go() -> T:
        network = NefNetwork(config(service.url, **fields), VirtualClock(NOON_NS))
        try:
            return await work(network)
        finally:
            await network.close()

    return asyncio.run(go())


def refused(service: HttpService, work: Callable[[NefNetwork], Awaitable[object]]) -> NetworkRefusedError:
    with pytest.raises(NetworkRefusedError) as caught:
        run(service, work)
    return caught.value


def problem(status: int, cause: str, **more: Any) -> Reply:
    body = json.dumps({"status": status, "cause": cause, "detail": "so it is", **more}).encode()
    return Reply(status, body, {"Content-Type": "application/problem+json"})


def made(request: Request, number: int = 1, **more: Any) -> Reply:
    """The network takes a subscription."""
    where = f"https://nef.example{request.path}/{number}"
    return json_reply({**request.json, "self": where, **more}, 201, Location=where)


# Groups ---------------------------------------------------------------------------------------------------------------


def lan_group(*gpsis: str, group: str = "substation_12@grid.example", number: int = 1) -> dict[str, Any]:
    return {
        "self": f"https://nef.example{GROUPS}/{number}",
        "suppFeat": "0",
        "5gLanParams": {
            "exterGroupId": group,
            "gpsis": {str(index): gpsi for index, gpsi in enumerate((GATEWAY, *gpsis))},
            "dnn": "grid",
            "snssai": {"sst": 1},
            "sessionType": "IPV4",
            "appDesps": {OS: {"osId": OS, "appIds": {"pmu": "pmu"}}},
        },
    }


def test_group_is_a_lan_of_its_gateway() -> None:
    with PublishedService() as service:
        service.script(GROUPS, made)
        assert run(service, lambda net: net.create_group("substation_12", ["QOS_L"], CALLBACK, TOKEN)) == "1"
        assert service.requests[0].json == {
            "suppFeat": "0",
            "5gLanParams": {
                "exterGroupId": "substation_12@grid.example",
                "gpsis": {GATEWAY: GATEWAY},
                "dnn": "grid",
                "snssai": {"sst": 1, "sd": "0000AB"},
                "sessionType": "IPV4",
                "appDesps": {OS: {"osId": OS, "appIds": {"pmu": "pmu"}}},
            },
        }


def test_group_of_a_lost_answer_is_found_by_its_name() -> None:
    with PublishedService() as service:
        others = [lan_group(group="other@grid.example", number=7), lan_group(number=8)]
        service.answers(GROUPS, json_reply(others), json_reply([]))
        assert run(service, lambda net: net.find_group("substation_12", CALLBACK)) == "8"
        assert run(service, lambda net: net.find_group("substation_12", CALLBACK)) is None


def test_group_that_has_no_address_cannot_be_found() -> None:
    with HttpService() as service:
        nameless = {name: each for name, each in lan_group().items() if name != "self"}
        service.answers(GROUPS, json_reply([nameless]))
        with pytest.raises(NetworkAwayError, match="does not say where the group 'substation_12@"):
            run(service, lambda net: net.find_group("substation_12", CALLBACK))


@pytest.mark.parametrize("done", [Reply(204), json_reply(lan_group())])
def test_members_are_changed_by_a_merge_patch(done: Reply) -> None:
    with PublishedService() as service:
        service.answers(f"{GROUPS}/1", done)
        added = run(service, lambda net: net.add_members("1", [PMU, METER]))
        assert added == {PMU.gpsi: Membership(state="member"), METER.gpsi: Membership(state="member")}
        removed = run(service, lambda net: net.remove_members("1", [PMU]))
        assert removed == {PMU.gpsi: Membership(state="gone")}
        add, remove = service.requests
        assert (add.method, add.headers["content-type"]) == ("PATCH", "application/merge-patch+json")
        assert add.json == {"5gLanParamsPatch": {"gpsis": {PMU.gpsi: PMU.gpsi, METER.gpsi: METER.gpsi}}}
        assert remove.json == {"5gLanParamsPatch": {"gpsis": {PMU.gpsi: None}}}


def test_members_are_those_of_the_group_but_for_its_gateway() -> None:
    with PublishedService() as service:
        service.answers(f"{GROUPS}/1", json_reply(lan_group(PMU.gpsi, METER.gpsi)))
        assert run(service, lambda net: net.members("1")) == {
            PMU.gpsi: Membership(state="member"),
            METER.gpsi: Membership(state="member"),
        }


def test_gateway_is_no_member() -> None:
    with HttpService() as service:
        error = refused(service, lambda net: net.remove_members("1", [Device(gpsi=GATEWAY)]))
        assert error.reason.code == "GATEWAY"
        assert not service.requests


def test_devices_that_the_network_does_not_want_are_told_apart_from_the_others() -> None:
    devices = [Device(gpsi=f"msisdn-4917012345{number:02}") for number in range(16)]
    unwanted = {devices[3].gpsi, devices[12].gpsi}

    def choosy(request: Request) -> Reply:
        if unwanted & set(request.json["5gLanParamsPatch"]["gpsis"]):
            return problem(403, "GPSI_NOT_ALLOWED", invalidParams=[{"param": "gpsis", "reason": "not yours"}])
        return Reply(204)

    with PublishedService() as service:
        service.script(f"{GROUPS}/1", choosy)
        added = run(service, lambda net: net.add_members("1", devices))
        assert {gpsi for gpsi, each in added.items() if each.state == "member"} == {
            each.gpsi for each in devices if each.gpsi not in unwanted
        }
        reason = Reason(code="GPSI_NOT_ALLOWED", text="so it is; gpsis: not yours", status=403)
        assert all(added[gpsi] == Membership(state="refused", reason=reason) for gpsi in unwanted)
        assert list(added) == [each.gpsi for each in devices]


def test_device_that_the_network_does_not_know_is_no_missing_group() -> None:
    def unknown(request: Request) -> Reply:
        return json_reply(lan_group()) if request.method == "GET" else problem(404, "USER_NOT_FOUND")

    with PublishedService() as service:
        service.script(f"{GROUPS}/1", unknown)
        added = run(service, lambda net: net.add_members("1", [PMU]))
        assert added[PMU.gpsi].state == "refused"
        service.answers(f"{GROUPS}/2", problem(404, "SUBSCRIPTION_NOT_FOUND"))
        error = refused(service, lambda net: net.add_members("2", [PMU, METER]))
        assert isinstance(error, NetworkMissingError)


def test_refused_credentials_are_not_tried_for_each_device() -> None:
    with PublishedService() as service:
        service.answers(f"{GROUPS}/1", problem(401, "UNAUTHORIZED"))
        assert refused(service, lambda net: net.add_members("1", [PMU, METER])).reason.status == 401
        assert len(service.requests) == 1


def test_group_goes_once() -> None:
    with PublishedService() as service:
        service.answers(f"{GROUPS}/1", Reply(204), problem(404, "SUBSCRIPTION_NOT_FOUND"))
        run(service, lambda net: net.delete_group("1"))
        run(service, lambda net: net.delete_group("1"))


# Sessions -------------------------------------------------------------------------------------------------------------


def test_session_is_asked_for_the_flow_in_both_directions() -> None:
    with PublishedService() as service:
        service.script(SESSIONS, made)
        session = run(service, lambda net: net.create_session(PMU, SERVER, "qos_pmu", 3600, CALLBACK, TOKEN))
        assert session == Session(ref="1", state="requested", profile="qos_pmu")
        asked = service.requests[0].json
        assert (asked["ueIpv4Addr"], asked["qosReference"]) == ("10.0.0.7", "qos_pmu")
        assert asked["notificationDestination"] == CALLBACK
        assert asked["flowInfo"] == [
            {
                "flowId": 1,
                "flowDescriptions": [
                    "permit out ip from 198.51.100.10 4712,4713 to 10.0.0.7",
                    "permit in ip from 10.0.0.7 to 198.51.100.10 4712,4713",
                ],
            }
        ]
        assert {"QOS_GUARANTEED", "QOS_NOT_GUARANTEED", "QOS_MONITORING"} <= set(asked["events"])
        assert asked["qosMonInfo"] == {
            "reqQosMonParams": ["DOWNLINK", "UPLINK", "ROUND_TRIP"],
            "repFreqs": ["PERIODIC"],
            "repPeriod": 60,
        }


def test_delays_may_be_told_only_when_they_are_too_long() -> None:
    monitoring = {"when": "above_threshold", "one_way_ms": 20, "round_trip_ms": 40}
    with PublishedService() as service:
        service.script(SESSIONS, made)
        run(service, lambda net: net.create_session(PMU, SERVER, "q", 60, CALLBACK, TOKEN), monitoring=monitoring)
        assert service.requests[0].json["qosMonInfo"] == {
            "reqQosMonParams": ["DOWNLINK", "UPLINK", "ROUND_TRIP"],
            "repFreqs": ["EVENT_TRIGGERED"],
            "repThreshDl": 20,
            "repThreshUl": 20,
            "repThreshRp": 40,
            "waitTime": 10,
        }


def test_session_without_monitoring_asks_for_no_feature() -> None:
    with PublishedService() as service:
        service.script(SESSIONS, made)
        all_ports = Traffic(server_ipv4="198.51.100.10")
        run(service, lambda net: net.create_session(PMU, all_ports, "q", 60, CALLBACK, TOKEN), monitoring=None)
        asked = service.requests[0].json
        assert not {"supportedFeatures", "qosMonInfo"} & set(asked)
        assert "QOS_MONITORING" not in asked["events"]
        assert asked["flowInfo"][0]["flowDescriptions"][0] == "permit out ip from 198.51.100.10 to 10.0.0.7"


def test_device_without_an_address_can_have_no_session() -> None:
    with HttpService() as service:
        error = refused(service, lambda net: net.create_session(METER, SERVER, "q", 60, CALLBACK, TOKEN))
        assert error.reason.code == "NO_ADDRESS"
        assert METER.gpsi in error.reason.text
        assert not service.requests


def session_of(request_number: int = 1, destination: str = CALLBACK) -> dict[str, Any]:
    return {
        "self": f"https://nef.example{SESSIONS}/{request_number}",
        "notificationDestination": destination,
        "qosReference": "qos_pmu",
    }


def test_session_tells_no_state() -> None:
    with PublishedService() as service:
        service.answers(f"{SESSIONS}/1", json_reply(session_of()), problem(404, "SUBSCRIPTION_NOT_FOUND"))
        found = run(service, lambda net: net.session("1"))
        assert found == Session(ref="1", state="requested", profile="qos_pmu")
        assert run(service, lambda net: net.session("1")) is None


def test_session_of_a_lost_answer_is_found_by_its_callback() -> None:
    with PublishedService() as service:
        service.answers(SESSIONS, json_reply([session_of(3, "https://dso.example/x"), session_of(4)]), json_reply([]))
        found = run(service, lambda net: net.find_session(PMU, CALLBACK))
        assert found is not None
        assert found.ref == "4"
        assert json.loads(service.requests[0].query["ip-addrs"][0]) == [{"ipv4Addr": "10.0.0.7"}]
        assert run(service, lambda net: net.find_session(PMU, CALLBACK)) is None


def test_session_is_not_made_longer() -> None:
    with HttpService() as service:
        assert refused(service, lambda net: net.extend_session("1", 600)).reason.code == "NO_DURATION"
        assert not service.requests


def test_session_ends_once_with_or_without_a_last_report() -> None:
    last = {"transaction": "https://nef.example/1", "eventReports": [{"event": "USAGE_REPORT"}]}
    with PublishedService() as service:
        service.answers(f"{SESSIONS}/1", json_reply(last), Reply(204), problem(404, "SUBSCRIPTION_NOT_FOUND"))
        for _ in range(3):
            run(service, lambda net: net.end_session("1"))
        assert [each.method for each in service.requests] == ["DELETE"] * 3


def test_refusal_carries_the_cause_of_the_network() -> None:
    with PublishedService() as service:
        told = [{"param": "/qosReference", "reason": "not in your contract"}, {"param": "/events"}]
        service.answers(SESSIONS, problem(403, "QOS_NOT_ALLOWED", invalidParams=told))
        error = refused(service, lambda net: net.create_session(PMU, SERVER, "q", 60, CALLBACK, TOKEN))
        assert error.reason == Reason(
            code="QOS_NOT_ALLOWED", text="so it is; /qosReference: not in your contract; /events", status=403
        )


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"title": 5}', b'{"invalidParams": 5}', b'{"invalidParams": [5]}', b"[]"]
)
def test_refusal_without_a_cause_is_told_by_its_status(body: bytes) -> None:
    with HttpService() as service:
        service.answers(SESSIONS, Reply(400, body, {"Content-Type": "application/problem+json"}))
        error = refused(service, lambda net: net.create_session(PMU, SERVER, "q", 60, CALLBACK, TOKEN))
        assert error.reason.code == "HTTP_400"


def test_too_many_requests_are_sent_again_later() -> None:
    with HttpService() as service:
        service.answers(SESSIONS, Reply(429, headers={"Retry-After": "11"}))
        with pytest.raises(NetworkAwayError) as caught:
            run(service, lambda net: net.create_session(PMU, SERVER, "q", 60, CALLBACK, TOKEN))
        assert (caught.value.retry_s, caught.value.may_be_done) == (11.0, False)


@pytest.mark.parametrize("reply", [Reply(hangs=True), json_reply({}, 201), Reply(201, b"<html>"), Reply(503)])
def test_session_without_a_good_answer_may_be_there(reply: Reply) -> None:
    with HttpService() as service:
        service.answers(SESSIONS, reply)
        with pytest.raises(NetworkAwayError) as caught:
            run(service, lambda net: net.create_session(PMU, SERVER, "q", 60, CALLBACK, TOKEN))
        assert caught.value.may_be_done


def test_session_is_called_as_its_resource_where_no_location_is_told() -> None:
    with HttpService() as service:
        service.answers(SESSIONS, json_reply(session_of(9), 201))
        session = run(service, lambda net: net.create_session(PMU, SERVER, "q", 60, CALLBACK, TOKEN))
        assert session.ref == "9"


def test_request_that_is_sent_on_within_the_network_arrives() -> None:
    with HttpService() as service:
        service.answers(f"{SESSIONS}/1", Reply(307, headers={"Location": f"{service.url}/nef2{SESSIONS}/1"}))
        service.answers(f"/nef2{SESSIONS}/1", Reply(204))
        run(service, lambda net: net.end_session("1"))
        assert service.requests[-1].method == "DELETE"


def test_apis_may_be_elsewhere() -> None:
    with HttpService() as service:
        service.answers("/qos/grid/subscriptions/1", json_reply(session_of()))
        assert run(service, lambda net: net.session("1"), paths={"3gpp-as-session-with-qos": "/qos/"}) is not None


def test_no_profiles_are_told() -> None:
    with HttpService() as service:
        assert run(service, lambda net: net.profiles()) == []
        assert not service.requests


# Links ----------------------------------------------------------------------------------------------------------------


def report(kind: str, **more: Any) -> dict[str, Any]:
    return {"monitoringType": kind, **more}


@pytest.mark.parametrize(
    ("told", "value"),
    [
        (report("UE_REACHABILITY", reachabilityType="DATA", eventTime="2026-01-01T11:59:59Z"), True),
        (report("UE_REACHABILITY", reachabilityType="SMS", eventTime="2026-01-01T11:59:59Z"), False),
        (report("LOSS_OF_CONNECTIVITY", lossOfConnectReason=6, eventTime="2026-01-01T11:59:59Z"), False),
        ({"monitoringEventReports": [report("UE_REACHABILITY", eventTime="2026-01-01T11:59:59Z")]}, True),
    ],
)
def test_reachability_is_asked_once_and_answered_at_once(told: dict[str, Any], value: bool) -> None:
    with PublishedService() as service:
        service.answers(MONITORING, json_reply(told))
        link = run(service, lambda net: net.read_link(PMU, ["reachability", "latency"], SERVER, "q"))
        assert link.readings == {"reachability": Reading(value=value)}
        assert [(name, each.code) for name, each in link.not_told.items()] == [("latency", "NOT_IN_STANDARD")]
        assert link.time_ns == NOON_NS - NS_PER_S
        asked = service.requests[0].json
        assert (asked["externalId"], asked["monitoringType"]) == ("pmu7@grid.example", "UE_REACHABILITY")
        assert (asked["reachabilityType"], asked["maximumNumberOfReports"]) == ("DATA", 1)


def test_reachability_that_is_told_only_later_is_not_waited_for() -> None:
    with PublishedService() as service:
        service.script(MONITORING, made)
        service.answers(f"{MONITORING}/1", Reply(204))
        link = run(service, lambda net: net.read_link(METER, ["reachability"], None, None))
        assert not link.readings
        assert link.not_told["reachability"].code == "NOT_NOW"
        assert [each.method for each in service.requests] == ["POST", "DELETE"] * 2
        assert service.requests[0].json["msisdn"] == "491701234567"


def test_device_is_not_reached_where_the_network_tells_that_it_is_lost() -> None:
    def lost_only(request: Request) -> Reply:
        kind = request.json["monitoringType"]
        return json_reply(report(kind)) if kind == "LOSS_OF_CONNECTIVITY" else made(request)

    with PublishedService() as service:
        service.script(MONITORING, lost_only)
        service.answers(f"{MONITORING}/1", Reply(204))
        link = run(service, lambda net: net.read_link(METER, ["reachability"], None, None))
        assert link.readings == {"reachability": Reading(value=False)}


def test_subscription_may_hold_the_report_already() -> None:
    with PublishedService() as service:
        held = report("UE_REACHABILITY", reachabilityType="DATA")
        service.script(MONITORING, lambda request: made(request, monitoringEventReport=held))
        service.answers(f"{MONITORING}/1", Reply(204))
        link = run(service, lambda net: net.read_link(METER, ["reachability"], None, None))
        assert link.readings == {"reachability": Reading(value=True)}
        assert link.time_ns == NOON_NS


def test_what_the_standard_does_not_tell_is_not_asked_for() -> None:
    with HttpService() as service:
        link = run(service, lambda net: net.read_link(PMU, ["latency", "loss"], SERVER, "q"))
        assert set(link.not_told) == {"latency", "loss"}
        assert not service.requests


def test_watch_hears_of_loss_and_of_return() -> None:
    numbers = iter(range(1, 9))
    expires = "2026-01-01T12:30:00Z"
    with PublishedService() as service:
        service.script(MONITORING, lambda request: made(request, next(numbers), monitorExpireTime=expires))
        watch = run(
            service,
            lambda net: net.watch_link(
                METER, ["reachability", "latency"], None, None, NOON_NS + 3600 * NS_PER_S, CALLBACK, TOKEN
            ),
            detection_s=30,
        )
        assert watch == Watch(refs=("1", "2"), parameters=("reachability",), expires_ns=NOON_NS + 1800 * NS_PER_S)
        lost, reached = (each.json for each in service.requests)
        assert (lost["monitoringType"], lost["maximumDetectionTime"]) == ("LOSS_OF_CONNECTIVITY", 30)
        assert (reached["monitoringType"], reached["reachabilityType"]) == ("UE_REACHABILITY", "DATA")
        assert lost["monitorExpireTime"] == "2026-01-01T13:00:00Z"
        assert lost["notificationDestination"] == CALLBACK


def test_watch_of_what_the_standard_does_not_tell_is_refused() -> None:
    with HttpService() as service:
        error = refused(service, lambda net: net.watch_link(PMU, ["latency"], None, None, NOON_NS, CALLBACK, TOKEN))
        assert error.reason.code == "NOT_IN_STANDARD"


def test_watch_of_which_a_part_is_refused_is_none() -> None:
    def first_only(request: Request) -> Reply:
        if request.json["monitoringType"] == "LOSS_OF_CONNECTIVITY":
            return made(request)
        return problem(403, "MONITORING_NOT_ALLOWED")

    with PublishedService() as service:
        service.script(MONITORING, first_only)
        service.answers(f"{MONITORING}/1", Reply(204))
        error = refused(
            service, lambda net: net.watch_link(PMU, ["reachability"], None, None, NOON_NS, CALLBACK, TOKEN)
        )
        assert error.reason.code == "MONITORING_NOT_ALLOWED"
        assert service.requests[-1].method == "DELETE"


def test_all_parts_of_a_watch_end_whatever_becomes_of_one() -> None:
    with PublishedService() as service:
        service.answers(f"{MONITORING}/1", problem(403, "NOT_YOURS"))
        service.answers(f"{MONITORING}/2", json_reply([report("UE_REACHABILITY")]))
        service.answers(f"{MONITORING}/3", problem(404, "SUBSCRIPTION_NOT_FOUND"))
        error = refused(service, lambda net: net.end_watch(Watch(refs=("1", "2", "3"), parameters=())))
        assert error.reason.code == "NOT_YOURS"
        assert len(service.requests) == 3


# Notifications --------------------------------------------------------------------------------------------------------


def read(told: Any, media: str = "application/json") -> Notification:
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    return NefNetwork(config("https://nef.example")).read_notification(media, body)


def user_plane(*reports: dict[str, Any]) -> dict[str, Any]:
    return {"transaction": f"https://nef.example{SESSIONS}/17", "eventReports": list(reports)}


@pytest.mark.parametrize(
    ("told", "change"),
    [
        ({"event": "SUCCESSFUL_RESOURCES_ALLOCATION"}, SessionChanged(session_ref="17", state="available")),
        (
            {"event": "FAILED_RESOURCES_ALLOCATION"},
            SessionChanged(session_ref="17", state="ended", reason=Reason(code="FAILED_RESOURCES_ALLOCATION")),
        ),
        (
            {"event": "QOS_NOT_GUARANTEED", "appliedQosRef": "qos_low"},
            SessionChanged(
                session_ref="17",
                state="not_guaranteed",
                reason=Reason(code="QOS_NOT_GUARANTEED", text="now held: qos_low"),
            ),
        ),
        ({"event": "QOS_GUARANTEED"}, SessionChanged(session_ref="17", state="available")),
        (
            {"event": "SESSION_TERMINATION"},
            SessionChanged(session_ref="17", state="ended", reason=Reason(code="SESSION_TERMINATION")),
        ),
        (
            {"event": "QOS_MONITORING", "qosMonReports": [{"ulDelays": [12, 15], "dlDelays": [99]}, {"ulDelays": [9]}]},
            SessionChanged(session_ref="17", state=None, readings={"latency": Reading(value=0.015, unit="s")}),
        ),
        (
            {"event": "QOS_MONITORING", "qosMonReports": [{"rtDelays": [25], "dlDelays": [99]}]},
            SessionChanged(session_ref="17", state=None, readings={"latency": Reading(value=0.0125, unit="s")}),
        ),
        ({"event": "QOS_MONITORING"}, SessionChanged(session_ref="17", state=None)),
    ],
)
def test_event_of_a_session_is_read(told: dict[str, Any], change: SessionChanged) -> None:
    body = user_plane(told)
    check_notification("TS29122_AsSessionWithQoS.json", "application/json", json.dumps(body).encode())
    notification = read(body)
    assert notification == Notification(id=None, time_ns=None, changes=(change,))


def test_several_events_of_a_session_are_told_in_their_order() -> None:
    events = ("SUCCESSFUL_RESOURCES_ALLOCATION", "USAGE_REPORT", "EVENT_OF_RELEASE_99", "QOS_NOT_GUARANTEED")
    changes = read(user_plane(*({"event": each} for each in events))).changes
    assert [each.state for each in changes if isinstance(each, SessionChanged)] == ["available", "not_guaranteed"]


def test_reports_of_a_device_are_read() -> None:
    told = {
        "subscription": f"https://nef.example{MONITORING}/4",
        "monitoringEventReports": [
            report("LOSS_OF_CONNECTIVITY", eventTime="2026-01-01T11:59:00Z"),
            report("UE_REACHABILITY", reachabilityType="DATA", eventTime="2026-01-01T12:00:00Z"),
            report("ROAMING_STATUS", roamingStatus=True),
        ],
        "cancelInd": True,
    }
    check_notification("TS29122_MonitoringEvent.json", "application/json", json.dumps(told).encode())
    assert read(told) == Notification(
        id=None,
        time_ns=NOON_NS,
        changes=(
            LinkChanged(watch_ref="4", readings={"reachability": Reading(value=False)}),
            LinkChanged(watch_ref="4", readings={"reachability": Reading(value=True)}),
            LinkChanged(watch_ref="4", readings={}, ends_watch=True),
        ),
    )


def test_notification_that_is_a_test_changes_nothing() -> None:
    told = {"subscription": f"https://nef.example{MONITORING}/4"}
    assert read(told) == Notification(id=None, time_ns=None, changes=())


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"no json",
        b"[" * 5000,
        b"\xff",
        [],
        {},
        {"transaction": 5},
        {"transaction": "https://nef.example/1"},
        {"transaction": "https://nef.example/1", "eventReports": []},
        {"transaction": "https://nef.example/1", "eventReports": [{}]},
        {"transaction": "https://nef.example/1", "eventReports": [{"event": "QOS_MONITORING", "qosMonReports": 3}]},
        {"subscription": "https://nef.example/1", "monitoringEventReports": [{"eventTime": "x"}]},
        {"subscription": "https://nef.example/1", "monitoringEventReports": [report("UE_REACHABILITY", eventTime="x")]},
    ],
)
def test_malformed_notification_is_refused(told: Any) -> None:
    with pytest.raises(BadNotificationError):
        read(told)


def test_notification_of_another_media_type_is_refused() -> None:
    with pytest.raises(BadNotificationError, match="comes as application/json; got 'text/plain'"):
        read(user_plane({"event": "QOS_GUARANTEED"}), "text/plain")


# Configuration --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"gateway": "491700000000"}, "matching regex"),
        ({"applications": {}}, "length >= 1"),
        ({"applications": {"linux": ["pmu"]}}, "matching regex"),
        ({"snssai": {"sst": 256}}, "sst"),
        ({"session_type": "IP"}, "Invalid enum value 'IP'"),
    ],
)
def test_config_of_groups_is_what_the_standard_can_say(fields: dict[str, Any], complaint: str) -> None:
    lan = msgspec.to_builtins(config("https://nef.example").lan)
    with pytest.raises(msgspec.ValidationError, match=complaint):
        config("https://nef.example", lan={**lan, **fields})
