"""3GPP's APIs over real HTTP, each answer and notification against the published schemas."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from broker import wait_until
from simulated_network import SERVER, SimulatedNetwork, gpsi

SESSIONS = "/3gpp-as-session-with-qos/v1/scs/subscriptions"
MONITORING = "/3gpp-monitoring-event/v1/scs/subscriptions"
GROUPS = "/3gpp-5glan-pp/v1/af/subscriptions"
MERGE_PATCH = "application/merge-patch+json"
PROBLEM = "application/problem+json"
FLOWS = [
    {
        "flowId": 1,
        "flowDescriptions": [
            f"permit out ip from {SERVER} 4713 to 10.0.0.1",
            f"permit in ip from 10.0.0.1 to {SERVER}",
        ],
    }
]
OS_ID = "97a498e3-fc92-5c94-8986-0333d06e4e47"


def patched(network: SimulatedNetwork, path: str, change: Any, status: int = 200) -> Any:
    answer = network.ask("PATCH", path, change, media=MERGE_PATCH)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def path_of(told: dict[str, Any], network: SimulatedNetwork) -> str:
    return str(told["self"]).removeprefix(network.url)


# Sessions -----------------------------------------------------------------------------------------------------------


def session(network: SimulatedNetwork, **changes: Any) -> dict[str, Any]:
    """A request for a session; what is None is left out."""
    body = {
        "notificationDestination": network.where("/qos"),
        "ueIpv4Addr": "10.0.0.1",
        "flowInfo": FLOWS,
        "qosReference": "QOS_L",
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


def test_a_session_is_told_of_once_it_is_there(network: SimulatedNetwork) -> None:
    body = session(network, supportedFeatures="3f", snssai={"sst": 1, "sd": "00000a"}, dnn="grid")
    answer = network.ask("POST", SESSIONS, body)
    told = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == told["self"]
    assert told["self"].startswith(f"{network.url}{SESSIONS}/")
    assert told == {**body, "supportedFeatures": "22", "self": told["self"]}
    report = network.wait_for_report("/qos", "SUCCESSFUL_RESOURCES_ALLOCATION")
    assert report == {
        "transaction": told["self"],
        "eventReports": [{"event": "SUCCESSFUL_RESOURCES_ALLOCATION", "flowIds": [1]}],
    }
    assert "authorization" not in network.sink.of("/qos")[0].headers
    assert network.get(path_of(told, network)) == told
    assert network.everything()["devices"][0]["profiles"] == ["QOS_L"]


def test_a_session_that_is_not_granted_is_told_of(network: SimulatedNetwork) -> None:
    network.behave(refuse_share=1.0)
    network.post(SESSIONS, session(network), 201)
    network.wait_for_report("/qos", "FAILED_RESOURCES_ALLOCATION")


def test_a_quality_that_is_not_held_is_told_of(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    network.post(SESSIONS, session(network), 201)
    network.link(1, covered=False)
    network.link(1, covered=True)
    network.link(1, holds_profiles=False)
    wait_until(lambda: len(network.reports("/qos")) == 4)
    assert [each["eventReports"][0]["event"] for each in network.reports("/qos")] == [
        "SUCCESSFUL_RESOURCES_ALLOCATION",
        "QOS_NOT_GUARANTEED",
        "QOS_GUARANTEED",
        "QOS_NOT_GUARANTEED",
    ]


def test_only_events_that_are_asked_for_are_told(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    network.post(SESSIONS, session(network, events=["SESSION_TERMINATION"]), 201)
    network.link(1, covered=False)
    [there] = network.everything()["sessions"]
    network.http.post(f"/simulation/sessions/{there['id']}/terminate").raise_for_status()
    network.wait_for_report("/qos", "SESSION_TERMINATION")
    assert len(network.reports("/qos")) == 1


def test_a_session_that_the_network_ended_cannot_be_changed(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    path = path_of(network.post(SESSIONS, session(network), 201), network)
    [there] = network.everything()["sessions"]
    network.http.post(f"/simulation/sessions/{there['id']}/terminate").raise_for_status()
    answer = network.ask("PATCH", path, {"qosReference": "QOS_E"}, media=MERGE_PATCH)
    assert (answer.status_code, answer.json()["cause"]) == (403, "MODIFICATION_NOT_ALLOWED")
    network.delete(path)


def test_a_session_is_changed_by_patch_and_by_put(network: SimulatedNetwork) -> None:
    told = network.post(SESSIONS, session(network, exterAppId="pmu", disUeNotif=True), 201)
    path = path_of(told, network)
    network.wait_for_report("/qos", "SUCCESSFUL")
    after = patched(network, path, {"qosReference": "QOS_E"})
    assert after == {**told, "qosReference": "QOS_E"}
    wait_until(lambda: network.everything()["devices"][0]["profiles"] == ["QOS_E"])
    answer = network.ask("PUT", path, session(network, qosReference="QOS_M"))
    assert answer.json() == {**session(network, qosReference="QOS_M"), "self": told["self"]}
    wait_until(lambda: network.everything()["devices"][0]["profiles"] == ["QOS_M"])
    removed = network.ask("PATCH", path, b'{"disUeNotif": null}', media=MERGE_PATCH, is_right=False)
    assert "disUeNotif" not in removed.json()


def test_what_is_taken_away_by_a_patch_may_be_needed(network: SimulatedNetwork) -> None:
    path = path_of(network.post(SESSIONS, session(network), 201), network)
    answer = network.ask("PATCH", path, {"qosReference": None}, media=MERGE_PATCH, is_right=False)
    assert (answer.status_code, answer.json()["cause"]) == (400, "MANDATORY_IE_MISSING")
    assert network.get(path)["qosReference"] == "QOS_L"


@pytest.mark.parametrize("change", [{"ueIpv4Addr": "10.0.0.2"}, {"dnn": "other"}, {"snssai": {"sst": 2}}])
def test_the_device_of_a_session_cannot_be_changed(network: SimulatedNetwork, change: dict[str, Any]) -> None:
    path = path_of(network.post(SESSIONS, session(network), 201), network)
    put = network.ask("PUT", path, {**session(network), **change})
    patch = network.ask("PATCH", path, change, media=MERGE_PATCH, is_right=False)
    for answer in (put, patch):
        assert (answer.status_code, answer.json()["cause"]) == (403, "MODIFICATION_NOT_ALLOWED")
        assert answer.json()["invalidParams"][0]["param"] == f"/{next(iter(change))}"


def test_sessions_are_listed_by_owner_and_by_address(network: SimulatedNetwork) -> None:
    first = network.post(SESSIONS, session(network), 201)
    second = network.post(SESSIONS, session(network, ueIpv4Addr="10.0.0.2"), 201)
    assert network.get(SESSIONS) == [first, second]
    assert network.get(SESSIONS.replace("/scs/", "/other/")) == []
    addresses = json.dumps([{"ipv4Addr": "10.0.0.2"}, {"ipv4Addr": "10.9.9.9"}, {"ipv4Addr": "10.0.0.2"}])
    assert network.get(f"{SESSIONS}?ip-addrs={addresses}") == [second]
    answer = network.ask("GET", f"{SESSIONS}?ip-addrs=x", is_right=False)
    assert (answer.status_code, answer.json()["cause"]) == (400, "INVALID_QUERY_PARAM")
    other = path_of(first, network).replace("/scs/", "/other/")
    assert network.refusal(other, None, method="GET") == (404, "SUBSCRIPTION_NOT_FOUND")
    network.delete(path_of(first, network))
    assert network.get(SESSIONS) == [second]
    assert network.refusal(path_of(first, network), None, method="DELETE") == (404, "SUBSCRIPTION_NOT_FOUND")
    assert not any("TERMINATION" in json.dumps(each) for each in network.reports("/qos"))


def test_the_last_word_of_a_session_may_be_how_long_it_was_used(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    told = network.post(SESSIONS, session(network, events=["USAGE_REPORT"]), 201)
    network.advance(90)
    answer = network.ask("DELETE", path_of(told, network))
    assert answer.status_code == 200
    assert answer.json()["eventReports"][0]["accumulatedUsage"]["duration"] == 90


def test_a_test_of_the_way_back_may_be_asked_for(network: SimulatedNetwork) -> None:
    told = network.post(SESSIONS, session(network, requestTestNotification=True), 201)
    wait_until(lambda: {"subscription": told["self"]} in network.reports("/qos"))


def test_what_this_network_does_not_know_is_left_out(network: SimulatedNetwork) -> None:
    told = network.post(SESSIONS, session(network, altQoSReferences=["QOS_M"], directNotifInd=True), 201)
    assert not {"altQoSReferences", "directNotifInd"} & set(told)


@pytest.mark.parametrize(
    ("changes", "refused", "param"),
    [
        ({"ueIpv4Addr": "10.9.9.9"}, (404, "PDU_SESSION_NOT_AVAILABLE"), "/ueIpv4Addr"),
        ({"ueIpv4Addr": None}, (400, "MANDATORY_IE_MISSING"), "/ueIpv4Addr"),
        ({"flowInfo": None}, (400, "MANDATORY_IE_MISSING"), "/flowInfo"),
        ({"qosReference": None}, (400, "MANDATORY_IE_MISSING"), "/qosReference"),
        ({"qosReference": "QOS_X"}, (400, "OPTIONAL_IE_INCORRECT"), "/qosReference"),
        ({"qosReference": "QOS_OLD"}, (403, "REQUESTED_SERVICE_NOT_AUTHORIZED"), None),
        (
            {"flowInfo": [{"flowId": 1, "flowDescriptions": ["anything"]}]},
            (400, "OPTIONAL_IE_INCORRECT"),
            "/flowInfo/0",
        ),
    ],
)
def test_what_is_no_session_is_refused(
    network: SimulatedNetwork, changes: dict[str, Any], refused: tuple[int, str], param: str | None
) -> None:
    answer = network.ask("POST", SESSIONS, session(network, **changes))
    assert (answer.status_code, answer.json()["cause"]) == refused
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json().get("invalidParams", [{"param": None}])[0]["param"] == param
    assert not network.everything()["sessions"]


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"", "INVALID_MSG_FORMAT"),
        (b"{", "INVALID_MSG_FORMAT"),
        (b"[]", "OPTIONAL_IE_INCORRECT"),
        (b"{}", "MANDATORY_IE_MISSING"),
        (b'{"notificationDestination": 1}', "OPTIONAL_IE_INCORRECT"),
        (b'{"notificationDestination": "https://a", "flowInfo": []}', "OPTIONAL_IE_INCORRECT"),
    ],
)
def test_bodies_that_are_wrong_are_refused(network: SimulatedNetwork, body: bytes, cause: str) -> None:
    for path in (SESSIONS, MONITORING, GROUPS):
        refused = network.refusal(path, body, is_right=False)
        assert refused[0] == 400
        assert path != SESSIONS or refused[1] == cause


# Delays -------------------------------------------------------------------------------------------------------------


def delays(network: SimulatedNetwork) -> list[dict[str, Any]]:
    """What was told of delays so far."""
    reports = [each for told in network.reports("/qos") for each in told["eventReports"]]
    return [each["qosMonReports"][0] for each in reports if each["event"] == "QOS_MONITORING"]


def test_delays_are_told_again_and_again(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    monitor = {
        "reqQosMonParams": ["ROUND_TRIP", "UPLINK", "DOWNLINK"],
        "repFreqs": ["PERIODIC", "EVENT_TRIGGERED"],
        "repPeriod": 5,
    }
    told = network.post(SESSIONS, session(network, qosReference="QOS_M", qosMonInfo=monitor), 201)
    network.advance(12)
    wait_until(lambda: len(delays(network)) == 2)
    assert delays(network)[0] == {"ulDelays": [40], "dlDelays": [40], "rtDelays": [80]}
    network.link(1, covered=False)
    network.advance(12)
    network.link(1, covered=True, latency_s=0.02)
    network.advance(5)
    wait_until(lambda: len(delays(network)) == 3)
    assert delays(network)[2]["rtDelays"] == [40]
    network.delete(path_of(told, network))
    network.advance(60)
    wait_until(network.is_quiet)
    assert len(delays(network)) == 3


def test_reports_of_delays_may_be_asked_for_later_and_given_up(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    path = path_of(network.post(SESSIONS, session(network), 201), network)
    info = {"reqQosMonParams": ["ROUND_TRIP"], "repFreqs": ["PERIODIC"], "repPeriod": 5}
    patched(network, path, {"qosMonInfo": info})
    network.advance(6)
    wait_until(lambda: len(delays(network)) == 1)
    network.ask("PUT", path, session(network))
    network.advance(60)
    wait_until(network.is_quiet)
    assert len(delays(network)) == 1


def test_delays_over_a_threshold_are_told_but_not_too_often(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    monitor = {
        "reqQosMonParams": ["ROUND_TRIP"],
        "repFreqs": ["EVENT_TRIGGERED"],
        "repThreshRp": 60,
        "waitTime": 30,
    }
    network.link(1, latency_s=0.02)
    network.post(SESSIONS, session(network, qosReference="QOS_S", qosMonInfo=monitor), 201)
    network.link(1, latency_s=0.025)
    network.link(1, latency_s=0.05)
    network.link(1, latency_s=0.06)
    wait_until(lambda: len(delays(network)) == 1)
    network.advance(31)
    wait_until(lambda: len(delays(network)) == 2)
    assert [each["rtDelays"] for each in delays(network)] == [[100], [120]]


# Monitoring ---------------------------------------------------------------------------------------------------------


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def monitor(network: SimulatedNetwork, kind: str, **changes: Any) -> dict[str, Any]:
    """A request to be told whether a device can be reached; what is None is left out."""
    body = {
        "notificationDestination": network.where("/mon"),
        "monitoringType": kind,
        "externalId": "pmu1@grid.example",
        "monitorExpireTime": soon(3600),
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


def test_a_device_that_vanishes_or_returns_is_told_of(network: SimulatedNetwork) -> None:
    lost = network.post(MONITORING, monitor(network, "LOSS_OF_CONNECTIVITY", maximumDetectionTime=10), 201)
    body = monitor(network, "UE_REACHABILITY", reachabilityType="DATA", externalId=None, msisdn="4915550000001")
    answer = network.ask("POST", MONITORING, body)
    assert answer.headers["location"] == answer.json()["self"]
    network.link(1, covered=False)
    network.link(1, covered=True)
    wait_until(lambda: len(network.reports("/mon")) == 2)
    gone, back = network.reports("/mon")
    assert gone["subscription"] == lost["self"]
    [report] = gone["monitoringEventReports"]
    assert (report["monitoringType"], report["externalId"]) == ("LOSS_OF_CONNECTIVITY", "pmu1@grid.example")
    assert "lossOfConnectReason" in report
    [report] = back["monitoringEventReports"]
    assert (report["monitoringType"], report["msisdn"]) == ("UE_REACHABILITY", "4915550000001")
    assert report["reachabilityType"] == "DATA"


def test_a_device_may_be_reached_for_text_messages_alone(network: SimulatedNetwork) -> None:
    network.link(1, sms_only=True)
    once: dict[str, Any] = {"maximumNumberOfReports": 1, "monitorExpireTime": None}
    told = network.post(MONITORING, monitor(network, "UE_REACHABILITY", reachabilityType="SMS", **once), 200)
    assert told["reachabilityType"] == "SMS"
    network.post(MONITORING, monitor(network, "UE_REACHABILITY", reachabilityType="DATA", **once), 201)
    network.post(MONITORING, monitor(network, "LOSS_OF_CONNECTIVITY", **once), 201)


def test_what_is_asked_once_and_can_be_told_now_is_told_at_once(network: SimulatedNetwork) -> None:
    body = monitor(network, "UE_REACHABILITY", maximumNumberOfReports=1, monitorExpireTime=None)
    told = network.post(MONITORING, body, 200)
    assert (told["monitoringType"], told["reachabilityType"]) == ("UE_REACHABILITY", "DATA")
    assert network.get(MONITORING) == []
    network.link(1, covered=False)
    waiting = network.post(MONITORING, body, 201)
    assert "self" in waiting
    network.link(1, covered=True)
    network.wait_for_report("/mon", "UE_REACHABILITY")
    wait_until(lambda: network.get(MONITORING) == [])


def test_a_report_may_come_with_the_subscription(network: SimulatedNetwork) -> None:
    body = monitor(network, "UE_REACHABILITY", immediateRep=True, maximumNumberOfReports=2)
    told = network.post(MONITORING, body, 201)
    assert told["monitoringEventReport"]["monitoringType"] == "UE_REACHABILITY"
    for covered in (False, True, False, True):
        network.link(1, covered=covered)
    wait_until(lambda: network.get(MONITORING) == [])
    wait_until(network.is_quiet)
    assert len(network.reports("/mon")) == 1


def test_nothing_is_told_after_the_end_of_a_subscription(network: SimulatedNetwork) -> None:
    told = network.post(MONITORING, monitor(network, "LOSS_OF_CONNECTIVITY", monitorExpireTime=soon(60)), 201)
    network.advance(61)
    network.link(1, covered=False)
    assert network.refusal(path_of(told, network), None, method="GET") == (404, "SUBSCRIPTION_NOT_FOUND")
    wait_until(network.is_quiet)
    assert not network.reports("/mon")


def test_a_subscription_is_replaced(network: SimulatedNetwork) -> None:
    told = network.post(MONITORING, monitor(network, "LOSS_OF_CONNECTIVITY"), 201)
    path = path_of(told, network)
    answer = network.ask("PUT", path, monitor(network, "UE_REACHABILITY", supportedFeatures="f"))
    assert (answer.status_code, answer.json()["self"]) == (200, told["self"])
    assert network.get(path)["monitoringType"] == "UE_REACHABILITY"
    network.link(1, covered=False)
    network.link(1, covered=True)
    network.wait_for_report("/mon", "UE_REACHABILITY")
    assert len(network.reports("/mon")) == 1
    other = network.ask("PUT", path, monitor(network, "UE_REACHABILITY", externalId="pmu2@grid.example"))
    assert (other.status_code, other.json()["cause"]) == (403, "MODIFICATION_NOT_ALLOWED")
    network.delete(path)
    assert network.get(MONITORING) == []


def test_the_network_cancels_subscriptions_to_devices_that_are_gone(network: SimulatedNetwork) -> None:
    told = network.post(MONITORING, monitor(network, "LOSS_OF_CONNECTIVITY", requestTestNotification=True), 201)
    network.http.delete(f"/simulation/devices/{gpsi(1)}").raise_for_status()
    assert network.wait_for_report("/mon", "cancelInd") == {"subscription": told["self"], "cancelInd": True}
    assert {"subscription": told["self"]} in network.reports("/mon")


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"externalId": "nobody@grid.example"}, (404, "USER_NOT_FOUND")),
        ({"externalId": None, "ipv4Addr": "10.9.9.9"}, (404, "USER_NOT_FOUND")),
        ({"externalId": None}, (400, "MANDATORY_IE_MISSING")),
        ({"monitoringType": "ROAMING_STATUS"}, (403, "EVENT_UNSUPPORTED")),
        ({"monitorExpireTime": "2001-01-01T00:00:00Z"}, (403, "PARAMETER_OUT_OF_RANGE")),
    ],
)
def test_what_is_no_subscription_is_refused(
    network: SimulatedNetwork, changes: dict[str, Any], refused: tuple[int, str]
) -> None:
    body = {**monitor(network, "LOSS_OF_CONNECTIVITY"), **changes}
    body = {name: value for name, value in body.items() if value is not None}
    assert network.refusal(MONITORING, body) == refused
    assert not network.everything()["watches"]


def test_a_subscription_has_an_end(network: SimulatedNetwork) -> None:
    body = monitor(network, "LOSS_OF_CONNECTIVITY", monitorExpireTime=None)
    assert network.refusal(MONITORING, body, is_right=False) == (400, "MANDATORY_IE_MISSING")


# Groups -------------------------------------------------------------------------------------------------------------


def group(*numbers: int, **changes: Any) -> dict[str, Any]:
    parameters = {
        "exterGroupId": "pmus@grid.example",
        "gpsis": {gpsi(each): gpsi(each) for each in numbers},
        "dnn": "grid",
        "snssai": {"sst": 1},
        "sessionType": "IPV4",
        "appDesps": {OS_ID: {"osId": OS_ID, "appIds": {"pmu": "pmu"}}},
        **changes,
    }
    return {"5gLanParams": parameters, "suppFeat": "0"}


def members(network: SimulatedNetwork) -> dict[str, str]:
    [there] = network.everything()["groups"]
    told: dict[str, str] = there["members"]
    return told


def change(**gpsis: str | None) -> dict[str, Any]:
    """A merge patch of members, by key."""
    return {"5gLanParamsPatch": {"gpsis": {name.replace("_", "-"): text for name, text in gpsis.items()}}}


def test_a_group_is_made_and_its_members_come_and_go_by_patch(network: SimulatedNetwork) -> None:
    answer = network.ask("POST", GROUPS, group(1, 2))
    told = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, told["self"])
    assert told == {**group(1, 2), "self": told["self"]}
    path = path_of(told, network)
    assert patched(network, path, change(**{gpsi(1): None, gpsi(3): gpsi(3)}), 204) is None
    assert members(network) == {gpsi(2): "GRANTED", gpsi(3): "GRANTED"}
    assert network.get(path)["5gLanParams"]["gpsis"] == {gpsi(2): gpsi(2), gpsi(3): gpsi(3)}
    assert network.get(GROUPS) == [network.get(path)]
    apps = {"5gLanParamsPatch": {"appDesps": {OS_ID: {"appIds": {"pmu": None, "pdc": "pdc"}}}}}
    patched(network, path, apps, 204)
    assert network.get(path)["5gLanParams"]["appDesps"][OS_ID]["appIds"] == {"pdc": "pdc"}
    patched(network, path, {}, 204)


def test_a_group_is_replaced_and_removed(network: SimulatedNetwork) -> None:
    path = path_of(network.post(GROUPS, group(1, 2), 201), network)
    answer = network.ask("PUT", path, group(2, 4, dnn="other"))
    assert (answer.status_code, answer.json()["5gLanParams"]["dnn"]) == (200, "other")
    assert set(members(network)) == {gpsi(2), gpsi(4)}
    renamed = network.ask("PUT", path, group(2, exterGroupId="others@grid.example"))
    assert (renamed.status_code, renamed.json()["cause"]) == (403, "MODIFICATION_NOT_ALLOWED")
    network.delete(path)
    assert network.get(GROUPS) == []
    assert network.refusal(path, None, method="GET") == (404, "SUBSCRIPTION_NOT_FOUND")
    network.post(GROUPS, group(1), 201)


def test_a_group_is_of_its_owner_alone(network: SimulatedNetwork) -> None:
    path = path_of(network.post(GROUPS, group(1), 201), network)
    assert network.get(GROUPS.replace("/af/", "/other/")) == []
    assert network.refusal(path.replace("/af/", "/other/"), None, method="GET") == (404, "SUBSCRIPTION_NOT_FOUND")
    assert network.refusal(GROUPS, group(2)) == (403, "OPERATION_PROHIBITED")


def test_a_group_has_one_member_at_least(network: SimulatedNetwork) -> None:
    assert network.refusal(GROUPS, group(), is_right=False) == (400, "OPTIONAL_IE_INCORRECT")
    path = path_of(network.post(GROUPS, group(1), 201), network)
    answer = network.ask("PATCH", path, change(**{gpsi(1): None}), media=MERGE_PATCH)
    assert answer.status_code == 400
    assert members(network) == {gpsi(1): "GRANTED"}


def test_a_change_with_a_device_that_is_none_changes_nothing(network: SimulatedNetwork) -> None:
    network.behave(refuse_devices=[gpsi(4)])
    assert network.refusal(GROUPS, group(1, 99)) == (404, "USER_NOT_FOUND")
    path = path_of(network.post(GROUPS, group(1), 201), network)
    for number, refused in ((99, (404, "USER_NOT_FOUND")), (4, (403, "REQUESTED_SERVICE_NOT_AUTHORIZED"))):
        wrong = change(**{gpsi(2): gpsi(2), gpsi(number): gpsi(number)})
        answer = network.ask("PATCH", path, wrong, media=MERGE_PATCH)
        assert (answer.status_code, answer.json()["cause"]) == refused
        assert answer.json()["invalidParams"][0]["param"].endswith(gpsi(number))
    assert members(network) == {gpsi(1): "GRANTED"}


def test_a_member_that_is_gone_does_not_hinder_changes(network: SimulatedNetwork) -> None:
    path = path_of(network.post(GROUPS, group(1, 2), 201), network)
    network.http.delete(f"/simulation/devices/{gpsi(1)}").raise_for_status()
    patched(network, path, change(**{gpsi(3): gpsi(3)}), 204)
    assert members(network) == {gpsi(1): "DENIED", gpsi(2): "GRANTED", gpsi(3): "GRANTED"}


# All of them --------------------------------------------------------------------------------------------------------


def test_nobody_comes_in_without_the_token(network: SimulatedNetwork) -> None:
    for path in (SESSIONS, MONITORING, GROUPS):
        answer = network.ask("GET", path, headers={"Authorization": "Bearer wrong"})
        assert (answer.status_code, answer.headers["content-type"]) == (401, PROBLEM)


@pytest.mark.parametrize(
    ("status", "cause"), [(429, "NF_CONGESTION_RISK"), (503, "NF_CONGESTION"), (500, "SYSTEM_FAILURE")]
)
def test_the_network_may_fail(network: SimulatedNetwork, status: int, cause: str) -> None:
    network.behave(fail_status=status)
    for path in (SESSIONS, MONITORING, GROUPS):
        answer = network.ask("GET", path)
        assert (answer.status_code, answer.json()["cause"]) == (status, cause)
        assert ("retry-after" in answer.headers) == (status != 500)


def test_devices_may_be_refused(network: SimulatedNetwork) -> None:
    network.behave(refuse_devices=[gpsi(1)])
    refused = (403, "REQUESTED_SERVICE_NOT_AUTHORIZED")
    assert network.refusal(SESSIONS, session(network)) == refused
    assert network.refusal(MONITORING, monitor(network, "UE_REACHABILITY")) == refused
    assert network.refusal(GROUPS, group(1)) == refused
