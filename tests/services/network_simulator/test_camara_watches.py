"""What CAMARA's APIs tell of links, now and by subscription, over real HTTP, against the published schemas."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from broker import wait_until
from simulated_network import CORRELATOR, CREDENTIAL, SERVER, SINK_TOKEN, SimulatedNetwork, gpsi, phone

from edgeflex_services.network_simulator.model import id_of

REACHABILITY = "/device-reachability-status-subscriptions/v0.9rc1/subscriptions"
INSIGHTS = "/connectivity-insights-subscriptions/v0.7rc1/subscriptions"
RETRIEVE = "/device-reachability-status/v1rc3/retrieve"
CHECK = "/connectivity-insights/v0.7rc1/check-network-quality"
REACHABILITY_TYPE = "org.camaraproject.device-reachability-status-subscriptions.v0."
INSIGHTS_TYPE = "org.camaraproject.connectivity-insights-subscriptions.v0."
NOBODY = "00000000-0000-4000-8000-000000000000"
PROFILE = id_of("application-profile", "QOS_E")
MEETS, FAILS = "meets the application requirements", "unable to meet the application requirements"
THRESHOLDS = ("packetDelayBudget", "jitter", "packetlossErrorRate", "targetMinDownstreamRate", "targetMinUpstreamRate")


def wanted(network: SimulatedNetwork, event: str, *, number: int = 1, **config: Any) -> dict[str, Any]:
    """A request for a subscription to an event of one of the APIs."""
    is_insights = event == "network-quality"
    detail = {"device": phone(number), **({"applicationProfileId": PROFILE} if is_insights else {})}
    return {
        "sink": network.where("/watch"),
        "sinkCredential": CREDENTIAL,
        "protocol": "HTTP",
        "types": [(INSIGHTS_TYPE if is_insights else REACHABILITY_TYPE) + event],
        "config": {"subscriptionDetail": detail, **config},
    }


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


# Now ----------------------------------------------------------------------------------------------------------------


def test_whether_a_device_can_be_reached_is_told(network: SimulatedNetwork) -> None:
    told = network.post(RETRIEVE, {"device": phone(1)}, 200)
    assert (told["reachable"], told["connectivity"], told["device"]) == (True, ["DATA", "SMS"], phone(1))
    network.link(1, sms_only=True)
    told = network.post(RETRIEVE, {"device": phone(1)}, 200)
    assert (told["reachable"], told["connectivity"]) == (True, ["SMS"])
    network.link(1, covered=False)
    told = network.post(RETRIEVE, {"device": phone(1)}, 200)
    assert (told["reachable"], "connectivity" in told) == (False, False)


def test_devices_that_are_none_are_told_nothing_of(network: SimulatedNetwork) -> None:
    assert network.refusal(RETRIEVE, {"device": phone(99)}) == (404, "IDENTIFIER_NOT_FOUND")
    assert network.refusal(RETRIEVE, {}) == (422, "MISSING_IDENTIFIER")
    check = {"applicationProfileId": PROFILE, "applicationServer": {"ipv4Address": SERVER}}
    assert network.refusal(CHECK, {**check, "device": phone(99)}) == (404, "IDENTIFIER_NOT_FOUND")
    assert network.refusal(CHECK, check) == (422, "MISSING_IDENTIFIER")
    assert network.refusal(CHECK, {**check, "applicationProfileId": NOBODY}) == (404, "NOT_FOUND")
    wrong = {**check, "applicationProfileId": "QOS_E"}
    assert network.refusal(CHECK, wrong, is_right=False) == (400, "INVALID_ARGUMENT")


def test_a_link_is_compared_with_what_a_profile_asks_for(network: SimulatedNetwork) -> None:
    check = {"applicationProfileId": PROFILE, "applicationServer": {"ipv4Address": SERVER}, "device": phone(1)}
    told = network.post(CHECK, check, 200)
    assert [told[name] for name in THRESHOLDS] == [FAILS, FAILS, FAILS, MEETS, MEETS]
    assert told["additionalKPIs"] == {"signalStrength": "good", "connectivityType": "5G-SA"}
    session = {"device": phone(1), "applicationServer": {"ipv4Address": SERVER}, "qosProfile": "QOS_E", "duration": 60}
    network.behave(grant_delay_s=0)
    network.post("/quality-on-demand/v1/sessions", session, 201)
    assert {network.post(CHECK, check, 200)[name] for name in THRESHOLDS} == {MEETS}
    network.link(1, covered=False)
    told = network.post(CHECK, {**check, "monitoringTimeStamp": soon(60)}, 200)
    assert {told[name] for name in THRESHOLDS} == {FAILS}
    assert told["additionalKPIs"] == {"signalStrength": "no signal"}


def test_only_what_a_profile_asks_for_is_compared(network: SimulatedNetwork) -> None:
    profile = id_of("application-profile", "QOS_S")
    check = {"applicationProfileId": profile, "applicationServer": {"ipv4Address": SERVER}, "device": phone(1)}
    told = network.post(CHECK, check, 200)
    assert set(told) == {"packetDelayBudget", "packetlossErrorRate", "additionalKPIs", "device"}


# By subscription ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "before", "after"),
    [
        ("reachability-data", {"covered": False}, {"covered": True}),
        ("reachability-data", {"sms_only": True}, {"sms_only": False}),
        ("reachability-sms", {"sms_only": False}, {"sms_only": True}),
        ("reachability-disconnected", {"covered": True}, {"covered": False}),
    ],
)
def test_a_device_that_vanishes_or_returns_is_told_of(
    network: SimulatedNetwork, event: str, before: dict[str, bool], after: dict[str, bool]
) -> None:
    network.link(1, **before)
    body = wanted(network, event)
    answer = network.ask("POST", REACHABILITY, body)
    assert (answer.status_code, answer.headers["x-correlator"]) == (202, CORRELATOR)
    subscription_id = answer.json()["id"]
    started = network.wait_for_event("subscription-started")
    assert started == [{"subscriptionId": subscription_id, "initiationReason": "SUBSCRIPTION_CREATED"}]
    for link in (after, before, after):
        network.link(1, **link)
    seen = network.wait_for_event(event, 2)
    assert seen == [{"subscriptionId": subscription_id, "device": phone(1)}] * 2
    assert network.sink.of("/watch")[0].headers["authorization"] == f"Bearer {SINK_TOKEN}"
    told = network.get(f"{REACHABILITY}/{subscription_id}")
    assert (told["status"], told["types"], told["config"]) == ("ACTIVE", body["types"], body["config"])
    assert "sinkCredential" not in told


def test_a_subscription_may_be_active_at_once(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    body = {**wanted(network, "reachability-data"), "protocolSettings": {"method": "POST", "headers": {"a": "b"}}}
    told = network.post(REACHABILITY, body, 201)
    assert (told["status"], told["protocolSettings"]) == ("ACTIVE", body["protocolSettings"])


def test_a_subscription_that_is_not_granted_yet_can_be_looked_at(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=60)
    subscription_id = network.post(INSIGHTS, wanted(network, "network-quality"), 202)["id"]
    assert network.get(f"{INSIGHTS}/{subscription_id}")["status"] == "ACTIVATION_REQUESTED"


def test_what_is_so_at_the_beginning_is_told_if_that_is_asked_for(network: SimulatedNetwork) -> None:
    network.post(REACHABILITY, wanted(network, "reachability-data", initialEvent=True), 202)
    for event in ("reachability-sms", "reachability-disconnected"):
        network.post(REACHABILITY, wanted(network, event, initialEvent=True), 202)
    network.wait_for_event("reachability-data")
    network.wait_for_event("subscription-started", 3)
    wait_until(network.is_quiet)
    assert len(network.events()) == 4


def test_an_outlook_that_changes_is_told_of(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    told = network.post(INSIGHTS, wanted(network, "network-quality"), 201)
    network.link(1, latency_s=0.005)
    network.link(1, latency_s=0.006)
    network.link(1, latency_s=0.05)
    data = network.wait_for_event("network-quality", 2)
    assert [each["packetDelayBudget"] for each in data] == [MEETS, FAILS]
    assert data[0]["applicationProfileId"] == PROFILE
    assert data[0]["additionalKpis"]["connectivityType"] == "5G-SA"
    network.delete(f"{INSIGHTS}/{told['id']}")
    assert network.wait_for_event("subscription-ended")[0]["terminationReason"] == "SUBSCRIPTION_DELETED"
    assert network.refusal(f"{INSIGHTS}/{told['id']}", None, method="GET") == (404, "NOT_FOUND")


def test_a_subscription_ends_after_so_many_events(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    told = network.post(REACHABILITY, wanted(network, "reachability-disconnected", subscriptionMaxEvents=1), 201)
    network.link(1, covered=False)
    [ended] = network.wait_for_event("subscription-ended")
    assert ended == {"subscriptionId": told["id"], "terminationReason": "MAX_EVENTS_REACHED"}
    assert [each["type"].rpartition(".")[2] for each in network.events()] == [
        "subscription-started",
        "reachability-disconnected",
        "subscription-ended",
    ]
    assert network.get(f"{REACHABILITY}/{told['id']}")["status"] == "EXPIRED"


def test_a_subscription_ends_at_its_time(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    body = wanted(network, "reachability-data", subscriptionExpireTime=soon(60))
    told = network.post(REACHABILITY, body, 201)
    assert datetime.fromisoformat(told["expiresAt"]) == datetime.fromisoformat(body["config"]["subscriptionExpireTime"])
    network.advance(61)
    assert network.wait_for_event("subscription-ended")[0]["terminationReason"] == "SUBSCRIPTION_EXPIRED"


def test_a_subscription_ends_with_the_token_of_its_sink(network: SimulatedNetwork) -> None:
    body = wanted(network, "reachability-data", subscriptionExpireTime=soon(3600))
    body["sinkCredential"] = {**CREDENTIAL, "accessTokenExpiresUtc": soon(60)}
    network.post(REACHABILITY, body, 202)
    network.advance(61)
    assert network.wait_for_event("subscription-ended")[0]["terminationReason"] == "ACCESS_TOKEN_EXPIRED"


def test_a_subscription_ends_with_its_device(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    network.post(INSIGHTS, wanted(network, "network-quality"), 201)
    network.http.delete(f"/simulation/devices/{gpsi(1)}").raise_for_status()
    assert network.wait_for_event("subscription-ended")[0]["terminationReason"] == "NETWORK_TERMINATED"


def test_subscriptions_are_listed_by_api(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    ids = [network.post(REACHABILITY, wanted(network, "reachability-data"), 201)["id"] for _ in range(3)]
    other = network.post(INSIGHTS, wanted(network, "network-quality"), 201)["id"]
    answer = network.ask("GET", f"{REACHABILITY}?perPage=2")
    assert [each["id"] for each in answer.json()["subscriptions"]] == ids[:2]
    assert (answer.headers["x-total-count"], answer.headers["x-total-pages"]) == ("3", "2")
    assert 'rel="next"' in answer.headers["link"]
    assert [each["id"] for each in network.get(INSIGHTS)["subscriptions"]] == [other]
    assert network.refusal(f"{REACHABILITY}/{other}", None, method="GET") == (404, "NOT_FOUND")
    network.delete(f"{REACHABILITY}/{ids[0]}")
    assert network.ask("DELETE", f"{REACHABILITY}/{ids[0]}").status_code == 404


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"protocol": "MQTT5"}, (400, "INVALID_PROTOCOL")),
        ({"sink": "http://sink.example/"}, (400, "INVALID_SINK")),
        ({"sinkCredential": {"credentialType": "PRIVATE_KEY_JWT"}}, (400, "INVALID_CREDENTIAL")),
        ({"sinkCredential": {**CREDENTIAL, "accessTokenType": "mac"}}, (400, "INVALID_TOKEN")),
        ({"types": []}, (400, "INVALID_ARGUMENT")),
        ({"types": [REACHABILITY_TYPE + "subscription-ended"]}, (400, "INVALID_ARGUMENT")),
        (
            {"types": [REACHABILITY_TYPE + "reachability-data", REACHABILITY_TYPE + "reachability-sms"]},
            (422, "MULTIEVENT_SUBSCRIPTION_NOT_SUPPORTED"),
        ),
        ({"config": {}}, (400, "INVALID_ARGUMENT")),
        ({"config": {"subscriptionDetail": {}}}, (422, "MISSING_IDENTIFIER")),
        ({"config": {"subscriptionDetail": {"device": {}}}}, (400, "INVALID_ARGUMENT")),
        ({"config": {"subscriptionDetail": {"device": phone(1), "more": 1}}}, (400, "INVALID_ARGUMENT")),
        (
            {"config": {"subscriptionDetail": {"device": phone(1)}, "subscriptionExpireTime": "2001-01-01T00:00:00Z"}},
            (400, "INVALID_ARGUMENT"),
        ),
        (
            {"config": {"subscriptionDetail": {"device": phone(1)}, "subscriptionMaxEvents": 0}},
            (400, "INVALID_ARGUMENT"),
        ),
        ({"more": 1}, (400, "INVALID_ARGUMENT")),
    ],
)
def test_what_is_no_subscription_is_refused(
    network: SimulatedNetwork, changes: dict[str, Any], refused: tuple[int, str]
) -> None:
    body = {**wanted(network, "reachability-data"), **changes}
    assert network.refusal(REACHABILITY, body, is_right=False) == refused
    assert not network.everything()["watches"]


def test_events_of_another_api_are_refused(network: SimulatedNetwork) -> None:
    body = {**wanted(network, "network-quality"), "types": [REACHABILITY_TYPE + "reachability-data"]}
    assert network.refusal(INSIGHTS, body, is_right=False) == (403, "SUBSCRIPTION_MISMATCH")


def test_a_device_that_is_none_cannot_be_watched(network: SimulatedNetwork) -> None:
    # The status is not listed for this request; the test cases that CAMARA publishes with the APIs ask for it.
    for path, event in ((REACHABILITY, "reachability-data"), (INSIGHTS, "network-quality")):
        body = wanted(network, event, number=99)
        assert network.refusal(path, body, is_listed=False) == (404, "IDENTIFIER_NOT_FOUND")
        network.behave(refuse_devices=[gpsi(1)])
        assert network.refusal(path, wanted(network, event)) == (422, "SERVICE_NOT_APPLICABLE")
