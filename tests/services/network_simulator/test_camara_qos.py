"""Quality-On-Demand and QoS Profiles over real HTTP, each answer and event against the published schemas."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from broker import wait_until
from simulated_network import (
    CORRELATOR,
    CREDENTIAL,
    SERVER,
    SINK_TOKEN,
    SimulatedNetwork,
    gpsi,
    phone,
    some_devices,
)

from edgeflex_services.network_simulator.model import Device

SESSIONS = "/quality-on-demand/v1/sessions"
RETRIEVE = "/quality-on-demand/v1/retrieve-sessions"
PROFILES = "/qos-profiles/v1"
NOBODY = "00000000-0000-4000-8000-000000000000"
STATUS = "qos-status-changed"


def wanted(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A request for a session; what is None is left out."""
    body = {
        "device": phone(number),
        "applicationServer": {"ipv4Address": SERVER},
        "applicationServerPorts": {"ports": [4713]},
        "qosProfile": "QOS_L",
        "duration": 600,
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


def available(network: SimulatedNetwork, number: int = 1, **changes: Any) -> dict[str, Any]:
    """A session that is there."""
    session_id = network.post(SESSIONS, wanted(number, **changes), 201)["sessionId"]
    wait_until(lambda: network.get(f"{SESSIONS}/{session_id}")["qosStatus"] == "AVAILABLE")
    told: dict[str, Any] = network.get(f"{SESSIONS}/{session_id}")
    return told


def test_a_session_is_requested_then_available_and_told_of(network: SimulatedNetwork) -> None:
    sink = network.where("/qod")
    body = wanted(sink=sink, sinkCredential=CREDENTIAL, devicePorts={"ranges": [{"from": 1, "to": 9}]})
    answer = network.ask("POST", SESSIONS, body)
    told = answer.json()
    assert (answer.status_code, answer.headers["x-correlator"]) == (201, CORRELATOR)
    assert "location" not in answer.headers
    assert told["qosStatus"] == "REQUESTED"
    assert not {"startedAt", "expiresAt", "statusInfo", "sinkCredential"} & set(told)
    kept = {name: body[name] for name in body if name != "sinkCredential"}
    assert {name: told[name] for name in kept} == kept
    [data] = network.wait_for_event(STATUS)
    assert data == {"sessionId": told["sessionId"], "qosStatus": "AVAILABLE"}
    [request] = network.sink.of("/qod")
    assert request.headers["authorization"] == f"Bearer {SINK_TOKEN}"
    assert request.headers["x-correlator"] == CORRELATOR
    now = network.get(f"{SESSIONS}/{told['sessionId']}")
    assert now["qosStatus"] == "AVAILABLE"
    assert now["startedAt"] < now["expiresAt"]


def test_a_session_may_be_available_at_once_and_is_told_of_all_the_same(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=0)
    told = network.post(SESSIONS, wanted(sink=network.where("/qod")), 201)
    assert told["qosStatus"] == "AVAILABLE"
    assert network.wait_for_event(STATUS)[0]["qosStatus"] == "AVAILABLE"


def test_a_session_that_is_not_granted_is_told_of(network: SimulatedNetwork) -> None:
    network.behave(refuse_share=1.0)
    session_id = network.post(SESSIONS, wanted(sink=network.where("/qod")), 201)["sessionId"]
    [data] = network.wait_for_event(STATUS)
    assert data == {"sessionId": session_id, "qosStatus": "UNAVAILABLE", "statusInfo": "NETWORK_TERMINATED"}
    assert network.get(f"{SESSIONS}/{session_id}")["statusInfo"] == "NETWORK_TERMINATED"


def test_a_session_expires(network: SimulatedNetwork) -> None:
    session = available(network, sink=network.where("/qod"))
    network.advance(601.0)
    data = network.wait_for_event(STATUS, 2)[1]
    assert data == {"sessionId": session["sessionId"], "qosStatus": "UNAVAILABLE", "statusInfo": "DURATION_EXPIRED"}
    ended = network.get(f"{SESSIONS}/{session['sessionId']}")
    assert (ended["duration"], ended["expiresAt"]) == (600, session["expiresAt"])
    available(network)


def test_a_session_that_the_network_ends_stays_until_it_is_deleted(network: SimulatedNetwork) -> None:
    session = available(network, sink=network.where("/qod"))
    path = f"{SESSIONS}/{session['sessionId']}"
    network.http.post(f"/simulation/sessions/{session['sessionId']}/terminate").raise_for_status()
    assert network.wait_for_event(STATUS, 2)[1]["statusInfo"] == "NETWORK_TERMINATED"
    assert network.get(path)["qosStatus"] == "UNAVAILABLE"
    network.advance(359.0)
    assert network.refusal(SESSIONS, wanted()) == (409, "CONFLICT")
    network.delete(path)
    available(network)
    assert len(network.events(STATUS)) == 2, "what has ended is not told of again when it is deleted"


def test_deleting_a_session_is_told_of(network: SimulatedNetwork) -> None:
    session = available(network, sink=network.where("/qod"))
    path = f"{SESSIONS}/{session['sessionId']}"
    network.delete(path)
    assert network.wait_for_event(STATUS, 2)[1]["statusInfo"] == "DELETE_REQUESTED"
    assert network.ask("GET", path).status_code == 404
    assert network.ask("DELETE", path).status_code == 404


def test_a_session_is_made_longer_up_to_what_its_profile_allows(network: SimulatedNetwork) -> None:
    session = available(network)
    path = f"{SESSIONS}/{session['sessionId']}/extend"
    longer = network.post(path, {"requestedAdditionalDuration": 100}, 200)
    assert (longer["duration"], longer["startedAt"]) == (700, session["startedAt"])
    assert longer["expiresAt"] > session["expiresAt"]
    assert network.post(path, {"requestedAdditionalDuration": 10**6}, 200)["duration"] == 86_400


def test_a_session_that_is_not_there_is_not_made_longer(network: SimulatedNetwork) -> None:
    network.behave(grant_delay_s=60)
    session_id = network.post(SESSIONS, wanted(), 201)["sessionId"]
    path, more = f"{SESSIONS}/{session_id}/extend", {"requestedAdditionalDuration": 1}
    assert network.refusal(path, more) == (409, "QUALITY_ON_DEMAND.SESSION_EXTENSION_NOT_ALLOWED")


def test_a_device_has_one_session_for_a_flow(network: SimulatedNetwork) -> None:
    available(network)
    assert network.refusal(SESSIONS, wanted(qosProfile="QOS_E")) == (409, "CONFLICT")
    available(network, applicationServerPorts={"ports": [4712]})
    available(network, 2)
    assert len(network.post(RETRIEVE, {"device": phone(1)}, 200)) == 2
    assert network.post(RETRIEVE, {"device": phone(3)}, 200) == []


@pytest.mark.parametrize(
    "device",
    [
        phone(1),
        {"networkAccessIdentifier": "pmu1@grid.example"},
        {"ipv4Address": {"publicAddress": "203.0.113.1", "privateAddress": "10.0.0.1"}},
        {"ipv4Address": {"publicAddress": "10.0.0.1", "publicPort": 59_765}},
    ],
)
def test_a_device_is_named_in_many_ways(network: SimulatedNetwork, device: dict[str, Any]) -> None:
    told = network.post(SESSIONS, wanted(device=device), 201)
    assert told["device"] == device
    assert network.everything()["sessions"][0]["gpsi"] == gpsi(1)


def test_answers_name_a_device_by_one_identifier(network: SimulatedNetwork) -> None:
    both = {**phone(1), "networkAccessIdentifier": "pmu1@grid.example"}
    assert network.post(SESSIONS, wanted(device=both), 201)["device"] == phone(1)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"device": phone(99)}, (404, "IDENTIFIER_NOT_FOUND")),
        ({"device": {"networkAccessIdentifier": "nobody@grid.example"}}, (404, "IDENTIFIER_NOT_FOUND")),
        ({"device": {"ipv6Address": "2001:db8::1"}}, (422, "UNSUPPORTED_IDENTIFIER")),
        ({"device": None}, (422, "MISSING_IDENTIFIER")),
        ({"qosProfile": "QOS_X"}, (400, "INVALID_ARGUMENT")),
        ({"qosProfile": "QOS_OLD"}, (422, "QUALITY_ON_DEMAND.QOS_PROFILE_NOT_APPLICABLE")),
        ({"duration": 86_401}, (400, "QUALITY_ON_DEMAND.DURATION_OUT_OF_RANGE")),
    ],
)
def test_what_is_asked_for_rightly_may_be_refused(
    network: SimulatedNetwork, changes: dict[str, Any], refused: tuple[int, str]
) -> None:
    assert network.refusal(SESSIONS, wanted(**changes)) == refused
    assert not network.everything()["sessions"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sink": "http://sink.example/"}, "INVALID_SINK"),
        ({"sink": "https://sink.example/", "sinkCredential": {"credentialType": "PLAIN"}}, "INVALID_CREDENTIAL"),
        (
            {"sink": "https://sink.example/", "sinkCredential": {**CREDENTIAL, "accessTokenType": "mac"}},
            "INVALID_TOKEN",
        ),
        (
            {"sink": "https://sink.example/", "sinkCredential": {**CREDENTIAL, "accessToken": "a b"}},
            "INVALID_TOKEN",
        ),
        ({"sink": "https://sink.example/", "sinkCredential": {**CREDENTIAL, "more": 1}}, "INVALID_ARGUMENT"),
        ({"sink": "https://sink.example/", "sinkCredential": {}}, "INVALID_ARGUMENT"),
        ({"more": 1}, "INVALID_ARGUMENT"),
        ({"device": {**phone(1), "more": 1}}, "INVALID_ARGUMENT"),
        ({"device": {}}, "INVALID_ARGUMENT"),
        ({"device": {"phoneNumber": "4915"}}, "INVALID_ARGUMENT"),
        ({"device": {"ipv4Address": {"publicAddress": "10.0.0.1"}}}, "INVALID_ARGUMENT"),
        ({"device": {"ipv4Address": {"publicAddress": "10.0.0.300", "publicPort": 1}}}, "INVALID_ARGUMENT"),
        ({"device": {"ipv6Address": "10.0.0.1"}}, "INVALID_ARGUMENT"),
        ({"applicationServer": {}}, "INVALID_ARGUMENT"),
        ({"applicationServer": {"ipv4Address": "here"}}, "INVALID_ARGUMENT"),
        ({"applicationServerPorts": {}}, "INVALID_ARGUMENT"),
        ({"applicationServerPorts": {"ports": [65_536]}}, "INVALID_ARGUMENT"),
        ({"applicationServerPorts": {"ranges": [{"from": 1, "to": 2, "step": 1}]}}, "INVALID_ARGUMENT"),
        ({"duration": 0}, "INVALID_ARGUMENT"),
        ({"duration": "600"}, "INVALID_ARGUMENT"),
        ({"qosProfile": "a b"}, "INVALID_ARGUMENT"),
        ({"device": None, "applicationServer": None}, "INVALID_ARGUMENT"),
    ],
)
def test_what_is_asked_for_wrongly_is_refused(network: SimulatedNetwork, changes: dict[str, Any], code: str) -> None:
    assert network.refusal(SESSIONS, wanted(**changes), is_right=False) == (400, code)
    assert not network.everything()["sessions"]


def test_bodies_that_are_none_are_refused(network: SimulatedNetwork) -> None:
    for body in (b"", b"{", b"[]", b"null", b"\xff"):
        assert network.refusal(SESSIONS, body, is_right=False) == (400, "INVALID_ARGUMENT")


def test_a_network_of_servers_may_be_named(network: SimulatedNetwork) -> None:
    server = {"ipv4Address": "198.51.100.0/24", "ipv6Address": "2001:db8::/32"}
    assert network.post(SESSIONS, wanted(applicationServer=server), 201)["applicationServer"] == server


def test_devices_may_be_refused(network: SimulatedNetwork) -> None:
    network.behave(refuse_devices=["extid-pmu1@grid.example"])
    assert network.refusal(SESSIONS, wanted(1)) == (422, "SERVICE_NOT_APPLICABLE")
    available(network, 2)


def test_ids_are_uuids_that_are_there(network: SimulatedNetwork) -> None:
    assert network.refusal(f"{SESSIONS}/{NOBODY}", None, method="GET") == (404, "NOT_FOUND")
    assert network.refusal(f"{SESSIONS}/7", None, method="GET", is_right=False) == (400, "INVALID_ARGUMENT")


def test_nobody_comes_in_without_the_token(network: SimulatedNetwork) -> None:
    for shown in ("", "Bearer wrong", "Basic of-the-network"):
        answer = network.ask("POST", SESSIONS, wanted(), headers={"Authorization": shown})
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")
        assert answer.headers["x-correlator"] == CORRELATOR


def test_a_correlator_that_is_none_is_refused(network: SimulatedNetwork) -> None:
    answer = network.ask("POST", SESSIONS, wanted(), headers={"x-correlator": "a b"}, is_right=False)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_ARGUMENT")
    assert "x-correlator" not in answer.headers


@pytest.mark.parametrize(("status", "code"), [(429, "TOO_MANY_REQUESTS"), (503, "UNAVAILABLE"), (500, "INTERNAL")])
def test_the_network_may_fail(network: SimulatedNetwork, status: int, code: str) -> None:
    network.behave(fail_status=status)
    answer = network.ask("POST", SESSIONS, wanted(), is_listed=status == 429)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status != 500)
    assert not network.everything()["sessions"]


def test_answers_may_be_late_but_what_they_tell_of_is_done(network: SimulatedNetwork) -> None:
    network.behave(answer_delay_s=0.4)
    before_s = time.monotonic()
    network.post(SESSIONS, wanted(), 201)
    assert time.monotonic() - before_s >= 0.4
    assert len(network.everything()["sessions"]) == 1


def test_a_device_that_is_gone_loses_its_sessions(network: SimulatedNetwork) -> None:
    available(network, sink=network.where("/qod"))
    network.http.delete(f"/simulation/devices/{gpsi(1)}").raise_for_status()
    assert network.wait_for_event(STATUS, 2)[1]["statusInfo"] == "NETWORK_TERMINATED"
    assert network.refusal(RETRIEVE, {"device": phone(1)}) == (404, "IDENTIFIER_NOT_FOUND")


def test_what_is_sold_is_told(network: SimulatedNetwork) -> None:
    everything = network.post(f"{PROFILES}/retrieve-qos-profiles", {}, 200)
    assert [each["name"] for each in everything] == ["QOS_E", "QOS_L", "QOS_M", "QOS_S", "QOS_OLD"]
    sold = network.post(f"{PROFILES}/retrieve-qos-profiles", {"status": "ACTIVE", "device": phone(1)}, 200)
    assert len(sold) == 4
    [one] = network.post(f"{PROFILES}/retrieve-qos-profiles", {"name": "QOS_E"}, 200)
    assert one == network.get(f"{PROFILES}/qos-profiles/QOS_E")
    assert one["packetDelayBudget"] == {"value": 10, "unit": "Milliseconds"}
    assert one["packetErrorLossRate"] == 5
    assert one["targetMinDownstreamRate"] == {"value": 1000, "unit": "kbps"}
    assert one["maxDuration"] == {"value": 1, "unit": "Days"}


def test_what_is_not_sold_is_not_found(network: SimulatedNetwork) -> None:
    assert network.refusal(f"{PROFILES}/qos-profiles/QOS_X", None, method="GET") == (404, "NOT_FOUND")
    path = f"{PROFILES}/retrieve-qos-profiles"
    assert network.refusal(path, {"device": phone(99)}) == (404, "IDENTIFIER_NOT_FOUND")
    assert network.post(path, {"name": "QOS_X"}, 200) == []


def test_devices_without_a_number_have_sessions_too(tmp_path: Path) -> None:
    devices = [*some_devices(1), Device(external_id="gateway@grid.example")]
    with SimulatedNetwork(tmp_path, devices) as network:
        told = network.post(SESSIONS, wanted(device={"networkAccessIdentifier": "gateway@grid.example"}), 201)
        assert network.everything()["sessions"][0]["gpsi"] == "extid-gateway@grid.example"
        assert told["device"] == {"networkAccessIdentifier": "gateway@grid.example"}
