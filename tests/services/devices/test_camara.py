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
from edgeflex_services.devices.camara import CamaraConfig, CamaraNetwork
from edgeflex_services.devices.network import (
    BadNotificationError,
    Device,
    LinkChanged,
    MembersChanged,
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

NETWORK = "3f1a8d6e-4b59-4c0e-8a7f-2d1c5b6e9f00"
ACCESS = "7c1d2b7e-0f4c-4c57-9f0a-4d2f6f3b1a11"
SESSION = "b69e5404-3871-448d-8f9f-11dc5d29a4c8"
PROFILE = "0d6f2c1b-8a3e-4f5d-9c7b-6e5d4c3b2a10"
CALLBACK, TOKEN = "https://dso.example/api/v1/callbacks/1/s3cret", "callback-token"
NOON_NS = moment_ns(datetime(2026, 1, 1, 12, tzinfo=UTC))
PMU = Device(gpsi="msisdn-491701234567")
METER = Device(gpsi="extid-meter7@grid.example")
SERVER = Traffic(server_ipv4="198.51.100.10", server_ports=(4712, 4713))
QOD, ACCESSES = "/quality-on-demand/v1", "/dedicated-network-accesses/v0.2rc1"
REACH, INSIGHTS = "/device-reachability-status/v1rc3", "/connectivity-insights/v0.7rc1"
REACH_SUBSCRIPTIONS = "/device-reachability-status-subscriptions/v0.9rc1/subscriptions"
INSIGHTS_SUBSCRIPTIONS = "/connectivity-insights-subscriptions/v0.7rc1/subscriptions"
T = TypeVar("T")


def run(service: HttpService, work: Callable[[CamaraNetwork], Awaitable[T]], **fields: Any) -> T:
    """What the back end does with a network at this service."""
    told = {
        "standard": "camara",
        "api": {"url": service.url, "auth": {"kind": "bearer", "token": "service-token"}, "request_timeout_s": 2.0},
        "network_id": NETWORK,
        "application_profiles": {"QOS_L": PROFILE},
        **fields,
    }

    async def go() -> T:
        network = CamaraNetwork(msgspec.convert(told, CamaraConfig), VirtualClock(NOON_NS))
        try:
            return await work(network)
        finally:
            await network.close()

    return asyncio.run(go())


def refused(service: HttpService, work: Callable[[CamaraNetwork], Awaitable[object]]) -> NetworkRefusedError:
    with pytest.raises(NetworkRefusedError) as caught:
        run(service, work)
    return caught.value


def error_reply(status: int, code: str, message: str = "so it is", **more: Any) -> Reply:
    return json_reply({"status": status, "code": code, "message": message, **more}, status)


def pmu(number: int) -> Device:
    return Device(gpsi=f"msisdn-4917000{number:05}")


def key(number: int) -> str:
    return f"+4917000{number:05}"


# Groups ---------------------------------------------------------------------------------------------------------------


def access(ident: str = ACCESS, **more: Any) -> dict[str, Any]:
    stats = {"totalDevices": 0, "totalGranted": 0, "totalDenied": 0}
    return {"id": ident, "networkId": NETWORK, "stats": stats, **more}


def member(number: int, status: str, code: str | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {"device": {"phoneNumber": key(number)}, "status": status}
    return told if code is None else {**told, "statusInfo": {"reason": {"code": code, "message": "so it is"}}}


def failure(number: int, status: int, code: str) -> dict[str, Any]:
    return {"device": {"phoneNumber": key(number)}, "status": status, "code": code, "message": "so it is"}


def page(items: list[dict[str, Any]], number: int = 1, pages: int = 1) -> Reply:
    pagination = {"page": number, "perPage": 100, "totalCount": len(items), "totalPages": pages}
    return json_reply({"items": items, "pagination": pagination})


def test_group_is_an_access_without_devices() -> None:
    with PublishedService() as service:
        service.answers(f"{ACCESSES}/accesses", json_reply(access(sink=CALLBACK), 201, Location=f"https://n/{ACCESS}"))
        ref = run(service, lambda net: net.create_group("substation_12", ["QOS_L"], CALLBACK, TOKEN))
        assert ref == ACCESS
        [asked] = service.requests
        assert asked.json == {
            "networkId": NETWORK,
            "qosProfiles": ["QOS_L"],
            "sink": CALLBACK,
            "sinkCredential": {
                "credentialType": "ACCESSTOKEN",
                "accessToken": TOKEN,
                "accessTokenExpiresUtc": "2035-12-30T12:00:00Z",
                "accessTokenType": "bearer",
            },
        }
        assert asked.headers["authorization"] == "Bearer service-token"
        assert asked.headers["x-correlator"]


def test_group_without_profiles_takes_those_of_the_network() -> None:
    with PublishedService() as service:
        service.answers(f"{ACCESSES}/accesses", json_reply(access(), 201, Location="https://n/1"))
        run(service, lambda net: net.create_group("a", [], CALLBACK, TOKEN))
        assert "qosProfiles" not in service.requests[0].json


def test_group_of_a_lost_answer_is_found_by_its_callback() -> None:
    def pages(request: Request) -> Reply:
        if request.query["page"] == ["2"]:
            return page([access(sink=CALLBACK)], 2, 2)
        return page([access("11111111-1111-4111-8111-111111111111", sink="https://dso.example/other")], 1, 2)

    with PublishedService() as service:
        service.script(f"{ACCESSES}/accesses", pages)
        assert run(service, lambda net: net.find_group("substation_12", CALLBACK)) == ACCESS
        assert [each.query["networkId"] for each in service.requests] == [[NETWORK]] * 2
        assert run(service, lambda net: net.find_group("a", "https://dso.example/none")) is None


def test_pages_end_where_the_network_does_not_say_how_many_there_are() -> None:
    with PublishedService() as service:
        service.answers(
            f"{ACCESSES}/accesses/{ACCESS}/devices",
            json_reply({"items": [member(1, "GRANTED")], "pagination": {}}),
            json_reply({"items": [], "pagination": {}}),
        )
        assert run(service, lambda net: net.members(ACCESS)) == {key(1): Membership(state="member")}


def test_group_goes_once() -> None:
    path = f"{ACCESSES}/accesses/{ACCESS}"
    with PublishedService() as service:
        service.answers(path, Reply(204), error_reply(404, "NOT_FOUND"))
        run(service, lambda net: net.delete_group(ACCESS))
        run(service, lambda net: net.delete_group(ACCESS))
        assert [each.method for each in service.requests] == ["DELETE"] * 2


def test_members_are_told_by_what_the_network_says_of_each() -> None:
    with PublishedService() as service:
        listed = [
            member(1, "GRANTED", "REQUEST_APPROVED"),
            member(2, "REQUESTED"),
            member(3, "DENIED", "REQUEST_REJECTED"),
            member(4, "DENIED", "ACCESS_REVOKED"),
            member(5, "DENIED"),
        ]
        service.answers(f"{ACCESSES}/accesses/{ACCESS}/devices", page(listed))
        assert run(service, lambda net: net.members(ACCESS)) == {
            key(1): Membership(state="member"),
            key(2): Membership(state="pending"),
            key(3): Membership(state="refused", reason=Reason(code="REQUEST_REJECTED", text="so it is")),
            key(4): Membership(state="gone", reason=Reason(code="ACCESS_REVOKED", text="so it is")),
            key(5): Membership(state="refused"),
        }


def test_devices_are_added_and_wait_for_what_the_network_tells() -> None:
    path = f"{ACCESSES}/accesses/{ACCESS}/devices/add"
    with PublishedService() as service:
        told = {"recentAccessDevices": [member(1, "REQUESTED"), member(2, "GRANTED")]}
        service.answers(path, json_reply(told, 201))
        added = run(service, lambda net: net.add_members(ACCESS, [pmu(1), pmu(2)]))
        assert {key: each.state for key, each in added.items()} == {key(1): "pending", key(2): "member"}
        assert service.requests[0].json == {"devices": [{"phoneNumber": key(1)}, {"phoneNumber": key(2)}]}


def test_some_devices_may_be_refused() -> None:
    with PublishedService() as service:
        told = {
            "recentAccessDevices": [member(1, "REQUESTED")],
            "results": [failure(2, 404, "IDENTIFIER_NOT_FOUND"), failure(3, 429, "QUOTA_EXCEEDED")],
        }
        service.answers(f"{ACCESSES}/accesses/{ACCESS}/devices/add", json_reply(told, 207))
        added = run(service, lambda net: net.add_members(ACCESS, [pmu(1), pmu(2), pmu(3)]))
        assert {key: each.state for key, each in added.items()} == {
            key(1): "pending",
            key(2): "refused",
            key(3): "refused",
        }
        assert added[key(2)].reason == Reason(code="IDENTIFIER_NOT_FOUND", text="so it is", status=404)


def test_all_devices_may_be_refused() -> None:
    with PublishedService() as service:
        results = [failure(1, 404, "IDENTIFIER_NOT_FOUND"), failure(2, 422, "SERVICE_NOT_APPLICABLE")]
        service.answers(
            f"{ACCESSES}/accesses/{ACCESS}/devices/add",
            error_reply(422, "DEDICATED_NETWORK_ACCESSES.NO_VALID_DEVICE", results=results),
        )
        added = run(service, lambda net: net.add_members(ACCESS, [pmu(1), pmu(2)]))
        assert [each.state for each in added.values()] == ["refused", "refused"]


def test_device_that_the_network_could_not_read_is_the_one_of_which_it_says_nothing() -> None:
    with PublishedService() as service:
        told = {
            "recentAccessDevices": [member(1, "GRANTED")],
            "results": [{"device": {"phone": "x"}, "status": 400, "code": "INVALID_ARGUMENT", "message": "what?"}],
        }
        service.answers(f"{ACCESSES}/accesses/{ACCESS}/devices/add", json_reply(told, 207))
        added = run(service, lambda net: net.add_members(ACCESS, [pmu(1), pmu(2)]))
        assert added[key(2)].state == "refused"
        assert added[key(2)].reason == Reason(code="INVALID_ARGUMENT", text="what?", status=400)


def test_devices_that_are_in_already_are_as_the_list_has_them() -> None:
    path = f"{ACCESSES}/accesses/{ACCESS}/devices"
    with PublishedService() as service:
        results = [failure(number, 409, "ALREADY_EXISTS") for number in (1, 2, 3)]
        service.answers(f"{path}/add", error_reply(422, "DEDICATED_NETWORK_ACCESSES.NO_VALID_DEVICE", results=results))
        service.answers(path, page([member(1, "GRANTED"), member(2, "DENIED", "REQUEST_FAILED")]))
        added = run(service, lambda net: net.add_members(ACCESS, [pmu(1), pmu(2), pmu(3)]))
        assert [each.state for each in added.values()] == ["member", "refused", "pending"]


def test_other_refusals_of_the_request_are_those_of_all_devices() -> None:
    path = f"{ACCESSES}/accesses/{ACCESS}/devices/add"
    with PublishedService() as service:
        service.answers(path, error_reply(409, "INCOMPATIBLE_STATE", "the network has ended"))
        error = refused(service, lambda net: net.add_members(ACCESS, [pmu(1)]))
        assert str(error) == "INCOMPATIBLE_STATE: the network has ended"
        service.answers(path, error_reply(404, "NOT_FOUND"))
        assert isinstance(refused(service, lambda net: net.add_members(ACCESS, [pmu(1)])), NetworkMissingError)
    with HttpService() as service:
        service.answers(path, error_reply(422, "UNSUPPORTED"))
        assert refused(service, lambda net: net.add_members(ACCESS, [pmu(1)])).reason.code == "UNSUPPORTED"


def test_devices_are_removed_also_those_that_were_not_in() -> None:
    path = f"{ACCESSES}/accesses/{ACCESS}/devices/remove"
    with PublishedService() as service:
        service.answers(path, Reply(204))
        assert run(service, lambda net: net.remove_members(ACCESS, [pmu(1)])) == {key(1): Membership(state="gone")}

        results = [failure(2, 404, "NOT_FOUND"), failure(3, 409, "INCOMPATIBLE_STATE")]
        service.answers(path, json_reply({"results": results}, 207))
        removed = run(service, lambda net: net.remove_members(ACCESS, [pmu(1), pmu(2), pmu(3)]))
        assert [each.state for each in removed.values()] == ["gone", "gone", "member"]
        assert removed[key(3)].reason == Reason(code="INCOMPATIBLE_STATE", text="so it is", status=409)

        nobody = error_reply(422, "DEDICATED_NETWORK_ACCESSES.NO_VALID_DEVICE", results=[failure(1, 404, "NOT_FOUND")])
        service.answers(path, nobody)
        assert run(service, lambda net: net.remove_members(ACCESS, [pmu(1)])) == {key(1): Membership(state="gone")}


def test_removal_that_fails_for_nobody_in_particular_is_looked_up() -> None:
    path = f"{ACCESSES}/accesses/{ACCESS}/devices"
    with PublishedService() as service:
        unnamed = {"device": {}, "status": 400, "code": "INVALID_ARGUMENT", "message": "what?"}
        service.answers(f"{path}/remove", json_reply({"results": [unnamed]}, 207))
        service.answers(path, page([member(2, "GRANTED")]))
        removed = run(service, lambda net: net.remove_members(ACCESS, [pmu(1), pmu(2)]))
        assert [each.state for each in removed.values()] == ["gone", "member"]


@pytest.mark.parametrize("gpsi", ["extid-meter7@grid.example", "msisdn-0123456"])
def test_groups_know_devices_by_their_phone_number_only(gpsi: str) -> None:
    with HttpService() as service:

        async def ask(network: CamaraNetwork) -> str:
            return network.member_key(Device(gpsi=gpsi))

        error = refused(service, ask)
        assert error.reason.code == "UNSUPPORTED_IDENTIFIER"
        assert gpsi in error.reason.text
        assert refused(service, lambda net: net.add_members(ACCESS, [Device(gpsi=gpsi)])).reason == error.reason
        assert not service.requests


# Sessions -------------------------------------------------------------------------------------------------------------


def session_info(status: str = "REQUESTED", **more: Any) -> dict[str, Any]:
    return {
        "sessionId": SESSION,
        "duration": 3600,
        "applicationServer": {"ipv4Address": SERVER.server_ipv4},
        "qosProfile": "QOS_L",
        "qosStatus": status,
        **more,
    }


def test_session_is_asked_for_the_flow_of_the_device() -> None:
    with PublishedService() as service:
        service.answers(f"{QOD}/sessions", json_reply(session_info(sink=CALLBACK), 201))
        session = run(service, lambda net: net.create_session(PMU, SERVER, "QOS_L", 3600, CALLBACK, TOKEN))
        assert session == Session(ref=SESSION, state="requested", profile="QOS_L")
        asked = service.requests[0].json
        assert asked["device"] == {"phoneNumber": "+491701234567"}
        assert asked["applicationServer"] == {"ipv4Address": "198.51.100.10"}
        assert asked["applicationServerPorts"] == {"ports": [4712, 4713]}
        assert (asked["qosProfile"], asked["duration"], asked["sink"]) == ("QOS_L", 3600, CALLBACK)
        assert asked["sinkCredential"]["accessToken"] == TOKEN


def test_session_of_all_ports_for_a_device_with_an_external_identifier() -> None:
    with PublishedService() as service:
        service.answers(f"{QOD}/sessions", json_reply(session_info(), 201))
        all_ports = Traffic(server_ipv4="198.51.100.10")
        run(service, lambda net: net.create_session(METER, all_ports, "QOS_L", 60, CALLBACK, TOKEN))
        asked = service.requests[0].json
        assert asked["device"] == {"networkAccessIdentifier": "meter7@grid.example"}
        assert "applicationServerPorts" not in asked


@pytest.mark.parametrize(
    ("told", "state", "reason"),
    [
        ({"qosStatus": "REQUESTED"}, "requested", None),
        ({"qosStatus": "AVAILABLE"}, "available", None),
        ({"qosStatus": "UNAVAILABLE", "statusInfo": "NETWORK_TERMINATED"}, "ended", Reason(code="NETWORK_TERMINATED")),
        ({"qosStatus": "UNAVAILABLE", "statusInfo": "DURATION_EXPIRED"}, "ended", Reason(code="DURATION_EXPIRED")),
    ],
)
def test_session_is_as_the_network_has_it(told: dict[str, str], state: str, reason: Reason | None) -> None:
    with PublishedService() as service:
        times = {"startedAt": "2026-01-01T12:00:00.250Z", "expiresAt": "2026-01-01T14:00:00+01:00"}
        service.answers(f"{QOD}/sessions/{SESSION}", json_reply({**session_info(**times), **told}))
        session = run(service, lambda net: net.session(SESSION))
        assert session is not None
        assert (session.state, session.reason) == (state, reason)
        assert session.started_ns == NOON_NS + NS_PER_S // 4
        assert session.expires_ns == NOON_NS + 3600 * NS_PER_S


def test_session_that_is_not_there_is_none() -> None:
    with PublishedService() as service:
        service.answers(f"{QOD}/sessions/{SESSION}", error_reply(404, "NOT_FOUND"))
        assert run(service, lambda net: net.session(SESSION)) is None


def test_session_of_a_lost_answer_is_found_by_its_callback() -> None:
    with PublishedService() as service:
        other = session_info("AVAILABLE", sink="https://dso.example/other")
        over = session_info("UNAVAILABLE", sink=CALLBACK, statusInfo="NETWORK_TERMINATED")
        mine = session_info("AVAILABLE", sink=CALLBACK)
        service.answers(f"{QOD}/retrieve-sessions", json_reply([other, over, mine]), json_reply([other, over]))
        found = run(service, lambda net: net.find_session(PMU, CALLBACK))
        assert found is not None
        assert found.state == "available"
        assert service.requests[0].json == {"device": {"phoneNumber": "+491701234567"}}
        found = run(service, lambda net: net.find_session(PMU, CALLBACK))
        assert found is not None
        assert found.state == "ended"


@pytest.mark.parametrize("reply", [json_reply([]), error_reply(404, "IDENTIFIER_NOT_FOUND")])
def test_session_that_was_never_made_is_not_found(reply: Reply) -> None:
    with PublishedService() as service:
        service.answers(f"{QOD}/retrieve-sessions", reply)
        assert run(service, lambda net: net.find_session(PMU, CALLBACK)) is None


def test_session_is_made_longer() -> None:
    path = f"{QOD}/sessions/{SESSION}/extend"
    with PublishedService() as service:
        service.answers(path, json_reply(session_info("AVAILABLE", expiresAt="2026-01-01T13:00:00Z")))
        session = run(service, lambda net: net.extend_session(SESSION, 600))
        assert session.expires_ns == NOON_NS + 3600 * NS_PER_S
        assert service.requests[0].json == {"requestedAdditionalDuration": 600}

        service.answers(path, error_reply(409, "QUALITY_ON_DEMAND.SESSION_EXTENSION_NOT_ALLOWED"))
        assert refused(service, lambda net: net.extend_session(SESSION, 600)).reason.status == 409


def test_session_ends_once() -> None:
    with PublishedService() as service:
        service.answers(f"{QOD}/sessions/{SESSION}", Reply(204), error_reply(404, "NOT_FOUND"))
        run(service, lambda net: net.end_session(SESSION))
        run(service, lambda net: net.end_session(SESSION))
        assert [each.method for each in service.requests] == ["DELETE"] * 2


def test_session_that_is_over_does_not_stand_in_the_way_of_the_next() -> None:
    with PublishedService() as service:
        service.answers(f"{QOD}/sessions", error_reply(409, "CONFLICT"), json_reply(session_info(), 201))
        service.answers(f"{QOD}/retrieve-sessions", json_reply([session_info("UNAVAILABLE")]))
        service.answers(f"{QOD}/sessions/{SESSION}", Reply(204))
        session = run(service, lambda net: net.create_session(PMU, SERVER, "QOS_L", 60, CALLBACK, TOKEN))
        assert session.state == "requested"
        assert [each.method for each in service.requests] == ["POST", "POST", "DELETE", "POST"]


def test_session_of_somebody_else_stands_in_the_way() -> None:
    with PublishedService() as service:
        service.answers(f"{QOD}/sessions", error_reply(409, "CONFLICT"))
        service.answers(f"{QOD}/retrieve-sessions", json_reply([session_info("AVAILABLE")]))
        error = refused(service, lambda net: net.create_session(PMU, SERVER, "QOS_L", 60, CALLBACK, TOKEN))
        assert error.reason.status == 409
        assert len(service.of(f"{QOD}/sessions")) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "QUALITY_ON_DEMAND.DURATION_OUT_OF_RANGE"),
        (400, "INVALID_SINK"),
        (403, "PERMISSION_DENIED"),
        (404, "IDENTIFIER_NOT_FOUND"),
        (422, "QUALITY_ON_DEMAND.QOS_PROFILE_NOT_APPLICABLE"),
    ],
)
def test_refusal_of_a_session_carries_the_reason_of_the_network(status: int, code: str) -> None:
    with PublishedService() as service:
        service.answers(f"{QOD}/sessions", error_reply(status, code, "not for you"))
        error = refused(service, lambda net: net.create_session(PMU, SERVER, "QOS_L", 60, CALLBACK, TOKEN))
        assert error.reason == Reason(code=code, text="not for you", status=status)


def test_too_many_requests_are_sent_again_later() -> None:
    with PublishedService() as service:
        told = {"status": 429, "code": "TOO_MANY_REQUESTS", "message": "slow down"}
        service.answers(f"{QOD}/sessions", json_reply(told, 429, Retry_After="11"))
        with pytest.raises(NetworkAwayError) as caught:
            run(service, lambda net: net.create_session(PMU, SERVER, "QOS_L", 60, CALLBACK, TOKEN))
        assert (caught.value.retry_s, caught.value.may_be_done) == (11.0, False)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(hangs=True),
        Reply(201, b"<html>", {"Content-Type": "text/html"}),
        json_reply({"sessionId": SESSION}, 201),
        json_reply(session_info("PENDING"), 201),
        json_reply(session_info(expiresAt="2026-01-01T13:00:00"), 201),
        error_reply(503, "UNAVAILABLE"),
    ],
)
def test_session_without_a_good_answer_may_be_there(reply: Reply) -> None:
    with HttpService() as service:
        service.answers(f"{QOD}/sessions", reply)
        with pytest.raises(NetworkAwayError) as caught:
            run(service, lambda net: net.create_session(PMU, SERVER, "QOS_L", 60, CALLBACK, TOKEN))
        assert caught.value.may_be_done


def test_apis_may_be_elsewhere() -> None:
    with HttpService() as service:
        service.answers(f"/qod/sessions/{SESSION}", json_reply(session_info()))
        assert run(service, lambda net: net.session(SESSION), paths={"quality-on-demand": "/qod/"}) is not None


# Profiles -------------------------------------------------------------------------------------------------------------


def test_profiles_are_told_in_units_that_all_parts_have() -> None:
    with PublishedService() as service:
        full = {
            "name": "QOS_L",
            "status": "ACTIVE",
            "packetDelayBudget": {"value": 20, "unit": "Milliseconds"},
            "jitter": {"value": 500, "unit": "Microseconds"},
            "packetErrorLossRate": 3,
            "targetMinDownstreamRate": {"value": 512, "unit": "kbps"},
            "targetMinUpstreamRate": {"value": 1, "unit": "Mbps"},
            "priority": 20,
            "maxDuration": {"value": 1, "unit": "Days"},
        }
        bare = {"name": "QOS_E", "status": "DEPRECATED", "jitter": {"value": 3}, "maxDuration": {"unit": "Days"}}
        service.answers("/qos-profiles/v1/retrieve-qos-profiles", json_reply([full, bare]))
        assert run(service, lambda net: net.profiles()) == [
            {
                "name": "QOS_L",
                "state": "active",
                "latency_s": pytest.approx(0.02),
                "jitter_s": pytest.approx(0.0005),
                "loss": pytest.approx(0.001),
                "downlink_bit_per_s": 512_000.0,
                "uplink_bit_per_s": 1_000_000.0,
                "priority": 20,
                "longest_s": 86400.0,
            },
            {"name": "QOS_E", "state": "deprecated"},
        ]


# Links ----------------------------------------------------------------------------------------------------------------


MEETS, FAILS = "meets the application requirements", "unable to meet the application requirements"


def reachable(**more: Any) -> Reply:
    return json_reply({"lastStatusTime": "2026-01-01T11:59:30Z", "reachable": True, **more})


def test_link_is_read_from_two_apis() -> None:
    with PublishedService() as service:
        service.answers(f"{REACH}/retrieve", reachable(connectivity=["DATA", "SMS"]))
        service.answers(
            f"{INSIGHTS}/check-network-quality",
            json_reply(
                {"packetDelayBudget": MEETS, "packetlossErrorRate": FAILS, "additionalKPIs": {"signalStrength": "good"}}
            ),
        )
        link = run(
            service,
            lambda net: net.read_link(PMU, ["reachability", "latency", "loss", "signal", "jitter"], SERVER, "QOS_L"),
        )
        assert link.readings == {
            "reachability": Reading(value=True),
            "latency": Reading(value=None, meets_profile=True),
            "loss": Reading(value=None, meets_profile=False),
            "signal": Reading(value="good"),
        }
        assert [(name, each.code) for name, each in link.not_told.items()] == [("jitter", "NOT_IN_ANSWER")]
        assert link.time_ns == NOON_NS - 30 * NS_PER_S
        [asked] = service.of(f"{INSIGHTS}/check-network-quality")
        assert asked.json == {
            "applicationProfileId": PROFILE,
            "device": {"phoneNumber": "+491701234567"},
            "applicationServer": {"ipv4Address": "198.51.100.10"},
            "applicationServerPorts": {"ports": [4712, 4713]},
        }


@pytest.mark.parametrize(
    ("told", "value"),
    [
        ({"reachable": True}, True),
        ({"reachable": True, "connectivity": ["SMS"]}, False),
        ({"reachable": False}, False),
    ],
)
def test_device_is_reached_only_if_data_reach_it(told: dict[str, Any], value: bool) -> None:
    with PublishedService() as service:
        service.answers(f"{REACH}/retrieve", reachable(**told))
        link = run(service, lambda net: net.read_link(METER, ["reachability"], None, None))
        assert link.readings == {"reachability": Reading(value=value)}


@pytest.mark.parametrize(
    ("traffic", "profile", "code"),
    [
        (SERVER, "QOS_E", "NO_APPLICATION_PROFILE"),
        (SERVER, None, "NO_APPLICATION_PROFILE"),
        (None, "QOS_L", "NO_SERVER"),
    ],
)
def test_quality_needs_something_to_compare_with(traffic: Traffic | None, profile: str | None, code: str) -> None:
    with PublishedService() as service:
        link = run(service, lambda net: net.read_link(PMU, ["latency", "loss"], traffic, profile))
        assert not service.requests
        assert not link.readings
        assert {each.code for each in link.not_told.values()} == {code}
        assert link.time_ns == NOON_NS


def test_what_one_api_refuses_is_not_told_and_the_rest_is() -> None:
    with PublishedService() as service:
        service.answers(f"{REACH}/retrieve", reachable())
        service.answers(f"{INSIGHTS}/check-network-quality", error_reply(403, "PERMISSION_DENIED"))
        link = run(service, lambda net: net.read_link(PMU, ["reachability", "latency"], SERVER, "QOS_L"))
        assert list(link.readings) == ["reachability"]
        assert link.not_told == {"latency": Reason(code="PERMISSION_DENIED", text="so it is", status=403)}


def test_link_of_which_nothing_is_told_is_an_error() -> None:
    with PublishedService() as service:
        service.answers(f"{REACH}/retrieve", error_reply(404, "IDENTIFIER_NOT_FOUND"))
        service.answers(f"{INSIGHTS}/check-network-quality", error_reply(404, "IDENTIFIER_NOT_FOUND"))
        error = refused(service, lambda net: net.read_link(PMU, ["reachability", "latency"], SERVER, "QOS_L"))
        assert isinstance(error, NetworkMissingError)


# Watches --------------------------------------------------------------------------------------------------------------


def subscribed(request: Request, **more: Any) -> Reply:
    """The network takes a subscription and calls it by the end of its type."""
    asked = {name: each for name, each in request.json.items() if name != "sinkCredential"}
    ident = asked["types"][0].rpartition(".")[2]
    return json_reply({**asked, "id": ident, "startsAt": "2026-01-01T12:00:00Z", "status": "ACTIVE", **more}, 201)


def test_watch_has_a_part_for_each_type_of_event() -> None:
    expires_ns = NOON_NS + 7200 * NS_PER_S
    with PublishedService() as service:
        service.script(REACH_SUBSCRIPTIONS, lambda request: json_reply({"id": request.json["types"][0][-9:]}, 202))
        service.script(INSIGHTS_SUBSCRIPTIONS, lambda request: subscribed(request, expiresAt="2026-01-01T13:00:00Z"))
        watch = run(
            service,
            lambda net: net.watch_link(PMU, ["reachability", "latency"], SERVER, "QOS_L", expires_ns, CALLBACK, TOKEN),
        )
        assert watch == Watch(
            refs=(
                "device-reachability-status-subscriptions:lity-data",
                "device-reachability-status-subscriptions:ility-sms",
                "device-reachability-status-subscriptions:connected",
                "connectivity-insights-subscriptions:network-quality",
            ),
            parameters=("reachability", "latency"),
            expires_ns=NOON_NS + 3600 * NS_PER_S,
        )
        asked = service.of(INSIGHTS_SUBSCRIPTIONS)[0].json
        assert asked["sink"] == CALLBACK
        assert asked["sinkCredential"]["accessToken"] == TOKEN
        assert asked["config"]["subscriptionExpireTime"] == "2026-01-01T14:00:00Z"
        assert asked["config"]["subscriptionDetail"]["applicationProfileId"] == PROFILE


def test_watch_leaves_out_what_the_network_cannot_tell() -> None:
    with PublishedService() as service:
        service.script(REACH_SUBSCRIPTIONS, subscribed)
        watch = run(
            service,
            lambda net: net.watch_link(
                PMU, ["reachability", "latency"], None, "QOS_E", NOON_NS + NS_PER_S, CALLBACK, TOKEN
            ),
        )
        assert watch.parameters == ("reachability",)
        error = refused(service, lambda net: net.watch_link(PMU, ["latency"], None, "QOS_E", NOON_NS, CALLBACK, TOKEN))
        assert error.reason.code == "NO_APPLICATION_PROFILE"


def test_watch_of_which_a_part_is_refused_is_none() -> None:
    with PublishedService() as service:
        service.script(REACH_SUBSCRIPTIONS, subscribed)
        service.answers(INSIGHTS_SUBSCRIPTIONS, error_reply(403, "SUBSCRIPTION_MISMATCH"))
        for ident in ("reachability-data", "reachability-sms"):
            service.answers(f"{REACH_SUBSCRIPTIONS}/{ident}", Reply(204))
        service.answers(f"{REACH_SUBSCRIPTIONS}/reachability-disconnected", error_reply(404, "NOT_FOUND"))
        error = refused(
            service,
            lambda net: net.watch_link(
                PMU, ["reachability", "loss"], SERVER, "QOS_L", NOON_NS + NS_PER_S, CALLBACK, TOKEN
            ),
        )
        assert error.reason.code == "SUBSCRIPTION_MISMATCH"
        assert [each.path.rpartition("/")[2] for each in service.requests if each.method == "DELETE"] == [
            "reachability-data",
            "reachability-sms",
            "reachability-disconnected",
        ]


def test_all_parts_of_a_watch_end_whatever_becomes_of_one() -> None:
    refs = (
        "device-reachability-status-subscriptions:a",
        "device-reachability-status-subscriptions:b",
        "connectivity-insights-subscriptions:c:d",
    )
    with PublishedService() as service:
        service.answers(f"{REACH_SUBSCRIPTIONS}/a", error_reply(403, "PERMISSION_DENIED"))
        service.answers(f"{REACH_SUBSCRIPTIONS}/b", error_reply(404, "NOT_FOUND"))
        service.answers(f"{INSIGHTS_SUBSCRIPTIONS}/c%3Ad", json_reply({"id": "c:d"}, 202))
        error = refused(service, lambda net: net.end_watch(Watch(refs=refs, parameters=())))
        assert error.reason.code == "PERMISSION_DENIED"
        assert len(service.requests) == 3


# Notifications --------------------------------------------------------------------------------------------------------

MEDIA = "application/cloudevents+json"
EVENTS = {
    "quality-on-demand.json": "org.camaraproject.quality-on-demand.v1",
    "dedicated-network-accesses.json": "org.camaraproject.dedicated-network-accesses.v0",
    "device-reachability-status-subscriptions.json": "org.camaraproject.device-reachability-status-subscriptions.v0",
    "connectivity-insights-subscriptions.json": "org.camaraproject.connectivity-insights-subscriptions.v0",
}
QOS_CHANGED = f"{EVENTS['quality-on-demand.json']}.qos-status-changed"
REACH_EVENTS = EVENTS["device-reachability-status-subscriptions.json"]


def event(kind: str, data: dict[str, Any], **more: Any) -> bytes:
    told = {
        "id": "e1",
        "source": "https://network.example/qod",
        "type": kind,
        "specversion": "1.0",
        "datacontenttype": "application/json",
        "time": "2026-01-01T12:00:00Z",
        "data": data,
        **more,
    }
    return json.dumps(told).encode()


def read(body: bytes, media: str = MEDIA) -> Notification:
    config = {"standard": "camara", "api": {"url": "https://network.example"}, "network_id": NETWORK}
    return CamaraNetwork(msgspec.convert(config, CamaraConfig)).read_notification(media, body)


@pytest.mark.parametrize(
    ("file", "kind", "data", "changes"),
    [
        (
            "quality-on-demand.json",
            "qos-status-changed",
            {"sessionId": SESSION, "qosStatus": "AVAILABLE"},
            (SessionChanged(session_ref=SESSION, state="available"),),
        ),
        (
            "quality-on-demand.json",
            "qos-status-changed",
            {"sessionId": SESSION, "qosStatus": "UNAVAILABLE", "statusInfo": "DURATION_EXPIRED"},
            (SessionChanged(session_ref=SESSION, state="ended", reason=Reason(code="DURATION_EXPIRED")),),
        ),
        (
            "dedicated-network-accesses.json",
            "device-status-changed",
            {"accessId": ACCESS, "accessDevices": [member(1, "GRANTED"), member(2, "DENIED", "REQUEST_REJECTED")]},
            (
                MembersChanged(
                    group_ref=ACCESS,
                    members={
                        key(1): Membership(state="member"),
                        key(2): Membership(state="refused", reason=Reason(code="REQUEST_REJECTED", text="so it is")),
                    },
                ),
            ),
        ),
        (
            "device-reachability-status-subscriptions.json",
            "reachability-data",
            {"subscriptionId": "s1", "device": {"phoneNumber": "+491701234567"}},
            (
                LinkChanged(
                    watch_ref="device-reachability-status-subscriptions:s1",
                    readings={"reachability": Reading(value=True)},
                ),
            ),
        ),
        (
            "device-reachability-status-subscriptions.json",
            "reachability-disconnected",
            {"subscriptionId": "s1"},
            (
                LinkChanged(
                    watch_ref="device-reachability-status-subscriptions:s1",
                    readings={"reachability": Reading(value=False)},
                ),
            ),
        ),
        (
            "device-reachability-status-subscriptions.json",
            "subscription-started",
            {"subscriptionId": "s1", "initiationReason": "SUBSCRIPTION_CREATED"},
            (),
        ),
        (
            "connectivity-insights-subscriptions.json",
            "network-quality",
            {
                "applicationProfileId": PROFILE,
                "jitter": FAILS,
                "targetMinUpstreamRate": MEETS,
                "additionalKpis": {"signalStrength": "poor"},
            },
            (
                LinkChanged(
                    watch_ref=None,
                    readings={
                        "jitter": Reading(value=None, meets_profile=False),
                        "uplink": Reading(value=None, meets_profile=True),
                        "signal": Reading(value="poor"),
                    },
                ),
            ),
        ),
        (
            "connectivity-insights-subscriptions.json",
            "subscription-ended",
            {"subscriptionId": "s2", "terminationReason": "SUBSCRIPTION_EXPIRED"},
            (LinkChanged(watch_ref="connectivity-insights-subscriptions:s2", readings={}, ends_watch=True),),
        ),
    ],
)
def test_notification_is_read(file: str, kind: str, data: dict[str, Any], changes: tuple[object, ...]) -> None:
    body = event(f"{EVENTS[file]}.{kind}", data)
    check_notification(file, MEDIA, body)
    notification = read(body, f"{MEDIA}; charset=utf-8")
    assert notification.changes == changes
    assert notification.id == "https://network.example/qod e1"
    assert notification.time_ns == NOON_NS


def test_reason_is_read_where_the_standards_own_example_has_it() -> None:
    denied = {"device": {"phoneNumber": key(1)}, "status": "DENIED", "statusInfo": {"code": "ACCESS_REVOKED"}}
    kind = f"{EVENTS['dedicated-network-accesses.json']}.device-status-changed"
    [change] = read(event(kind, {"accessId": ACCESS, "accessDevices": [denied]})).changes
    assert isinstance(change, MembersChanged)
    assert change.members[key(1)] == Membership(state="gone", reason=Reason(code="ACCESS_REVOKED"))


GOOD = {"sessionId": SESSION, "qosStatus": "AVAILABLE"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"[" * 5000,
        b"\xff",
        event("org.camaraproject.quality-on-demand.v7.qos-status-changed", GOOD),
        event(QOS_CHANGED, GOOD, specversion="0.3"),
        event(QOS_CHANGED, GOOD, time="2026-01-01T12:00:00"),
        event(QOS_CHANGED, GOOD, id=""),
        event(QOS_CHANGED, GOOD, datacontenttype="text/xml"),
        event(QOS_CHANGED, {"sessionId": SESSION, "qosStatus": "REQUESTED"}),
        event(QOS_CHANGED, {"qosStatus": "AVAILABLE"}),
        event(f"{REACH_EVENTS}.reachability-data", {}),
        event(f"{REACH_EVENTS}.subscription-ended", {"terminationReason": "x"}),
    ],
)
def test_malformed_notification_is_refused(body: bytes) -> None:
    with pytest.raises(BadNotificationError):
        read(body)


def test_notification_of_another_media_type_is_refused() -> None:
    with pytest.raises(BadNotificationError, match=r"comes as application/cloudevents\+json; got 'text/plain'"):
        read(event(QOS_CHANGED, GOOD), "text/plain")
