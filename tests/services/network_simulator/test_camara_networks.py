"""Dedicated Networks over real HTTP, each answer and event against the published schemas."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from broker import wait_until
from simulated_network import CREDENTIAL, SINK_TOKEN, SimulatedNetwork, gpsi, phone, some_devices

from edgeflex_services.network_simulator.camara_networks import NETWORK_PROFILE_ID, SERVICE_AREA_ID
from edgeflex_services.network_simulator.model import made_up_devices

NETWORKS = "/dedicated-network/v0.2rc1/networks"
ACCESSES = "/dedicated-network-accesses/v0.2rc1/accesses"
NOBODY = "00000000-0000-4000-8000-000000000000"
NO_VALID_DEVICE = "DEDICATED_NETWORK_ACCESSES.NO_VALID_DEVICE"
CHANGED = "device-status-changed"


def network_id(network: SimulatedNetwork) -> str:
    return str(network.everything()["network_id"])


def access(network: SimulatedNetwork, *numbers: int, status: int = 201, **more: Any) -> dict[str, Any]:
    """An access with these devices."""
    body = {"networkId": network_id(network), **({"devices": [phone(each) for each in numbers]} if numbers else {})}
    told: dict[str, Any] = network.post(ACCESSES, {**body, **more}, status)
    return told


def some(*numbers: int) -> dict[str, Any]:
    return {"devices": [phone(each) for each in numbers]}


def statuses(network: SimulatedNetwork, access_id: str) -> dict[str, str]:
    items = network.get(f"{ACCESSES}/{access_id}/devices")["items"]
    return {each["device"]["phoneNumber"]: each["status"] for each in items}


def service_time(begin_s: float, end_s: float) -> dict[str, str]:
    now = datetime.now(UTC)
    begin, end = (now + timedelta(seconds=each) for each in (begin_s, end_s))
    return {"start": begin.isoformat(), "end": end.isoformat()}


# Accesses -----------------------------------------------------------------------------------------------------------


def test_an_access_lets_devices_in_and_tells_of_it(network: SimulatedNetwork) -> None:
    more = {"sink": network.where("/access"), "sinkCredential": CREDENTIAL, "qosProfiles": ["QOS_E", "QOS_L"]}
    body = {"networkId": network_id(network), **some(1, 2), **more, "defaultQosProfile": "QOS_L"}
    answer = network.ask("POST", ACCESSES, body)
    told = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{network.url}{ACCESSES}/{told['id']}"
    assert told["stats"] == {"totalDevices": 2, "totalGranted": 0, "totalDenied": 0}
    assert [each["status"] for each in told["recentAccessDevices"]] == ["REQUESTED", "REQUESTED"]
    assert (told["sink"], told["qosProfiles"]) == (more["sink"], more["qosProfiles"])
    assert "sinkCredential" not in told
    [data] = network.wait_for_event(CHANGED)
    assert data["accessId"] == told["id"]
    assert [(each["device"], each["status"]) for each in data["accessDevices"]] == [
        (phone(1), "GRANTED"),
        (phone(2), "GRANTED"),
    ]
    assert data["accessDevices"][0]["statusInfo"]["reason"]["code"] == "REQUEST_APPROVED"
    assert network.sink.of("/access")[0].headers["authorization"] == f"Bearer {SINK_TOKEN}"
    assert network.get(f"{ACCESSES}/{told['id']}")["stats"]["totalGranted"] == 2


def test_an_access_may_be_made_without_devices(network: SimulatedNetwork) -> None:
    told = access(network)
    assert told["stats"]["totalDevices"] == 0
    assert "recentAccessDevices" not in told


def test_devices_come_and_go(network: SimulatedNetwork) -> None:
    access_id = access(network, 1)["id"]
    path = f"{ACCESSES}/{access_id}/devices"
    told = network.post(f"{path}/add", some(2, 3), 201)
    assert [each["device"] for each in told["recentAccessDevices"]] == [phone(2), phone(3)]
    wait_until(lambda: set(statuses(network, access_id).values()) == {"GRANTED"})
    assert network.post(f"{path}/remove", some(1, 3), 204) is None
    assert list(statuses(network, access_id)) == [phone(2)["phoneNumber"]]
    recent = network.get(f"{ACCESSES}/{access_id}")["recentAccessDevices"]
    assert [each["device"] for each in recent] == [phone(2)]


def test_some_devices_may_be_refused(network: SimulatedNetwork) -> None:
    network.behave(refuse_devices=[gpsi(3)])
    told = access(network, 1, 99, 3, 1, status=207)
    assert [(each["device"], each["status"], each["code"]) for each in told["results"]] == [
        (phone(99), 404, "IDENTIFIER_NOT_FOUND"),
        (phone(3), 422, "SERVICE_NOT_APPLICABLE"),
        (phone(1), 409, "ALREADY_EXISTS"),
    ]
    path = f"{ACCESSES}/{told['id']}/devices"
    added = network.post(f"{path}/add", some(1, 2), 207)
    assert [each["device"] for each in added["recentAccessDevices"]] == [phone(2)]
    assert [each["code"] for each in added["results"]] == ["ALREADY_EXISTS"]
    removed = network.post(f"{path}/remove", some(2, 4, 99), 207)
    assert [each["code"] for each in removed["results"]] == ["NOT_FOUND", "IDENTIFIER_NOT_FOUND"]


def test_an_access_is_made_even_if_it_takes_no_device(network: SimulatedNetwork) -> None:
    told = access(network, 98, 99, status=207)
    assert len(told["results"]) == 2
    assert network.get(f"{ACCESSES}/{told['id']}")["stats"]["totalDevices"] == 0


@pytest.mark.parametrize(("action", "numbers"), [("add", (1, 99)), ("remove", (2, 99))])
def test_a_change_of_no_device_is_refused(network: SimulatedNetwork, action: str, numbers: tuple[int, ...]) -> None:
    access_id = access(network, 1)["id"]
    told = network.post(f"{ACCESSES}/{access_id}/devices/{action}", some(*numbers), 422)
    assert (told["code"], len(told["results"])) == (NO_VALID_DEVICE, 2)


def test_devices_are_known_by_number_alone(network: SimulatedNetwork) -> None:
    named = {"devices": [{"networkAccessIdentifier": "pmu1@grid.example"}, {"phoneNumber": "12"}, {}, {"x": 1}]}
    access_id = access(network)["id"]
    answer = network.ask("POST", f"{ACCESSES}/{access_id}/devices/add", named, is_right=False)
    assert (answer.status_code, answer.json()["code"]) == (422, NO_VALID_DEVICE)
    assert {each["code"] for each in answer.json()["results"]} == {"INVALID_ARGUMENT"}
    both = {"devices": [{**phone(1), "networkAccessIdentifier": "of another"}]}
    told = network.post(f"{ACCESSES}/{access_id}/devices/add", both, 201)
    assert told["recentAccessDevices"][0]["device"] == both["devices"][0]


def test_devices_that_are_not_granted_are_told_of_and_may_be_added_again(network: SimulatedNetwork) -> None:
    network.behave(refuse_share=1.0)
    access_id = access(network, 1, sink=network.where("/access"))["id"]
    [data] = network.wait_for_event(CHANGED)
    assert data["accessDevices"][0]["status"] == "DENIED"
    assert data["accessDevices"][0]["statusInfo"]["reason"]["code"] == "REQUEST_REJECTED"
    assert network.get(f"{ACCESSES}/{access_id}")["stats"]["totalDenied"] == 1
    network.behave()
    network.post(f"{ACCESSES}/{access_id}/devices/add", some(1), 201)
    assert network.wait_for_event(CHANGED, 2)[1]["accessDevices"][0]["status"] == "GRANTED"


def test_the_access_of_a_device_that_is_gone_is_revoked(network: SimulatedNetwork) -> None:
    access_id = access(network, 1, sink=network.where("/access"))["id"]
    network.wait_for_event(CHANGED)
    network.http.delete(f"/simulation/devices/{gpsi(1)}").raise_for_status()
    [device] = network.wait_for_event(CHANGED, 2)[1]["accessDevices"]
    assert (device["status"], device["statusInfo"]["reason"]["code"]) == ("DENIED", "ACCESS_REVOKED")
    assert network.post(f"{ACCESSES}/{access_id}/devices/remove", some(1), 204) is None


def test_a_network_takes_so_many_devices(tmp_path: Path) -> None:
    with SimulatedNetwork(tmp_path, most_members=2) as network:
        told = access(network, 1, 2, 3, status=207)
        assert [(each["device"], each["status"], each["code"]) for each in told["results"]] == [
            (phone(3), 429, "QUOTA_EXCEEDED")
        ]


def test_lists_come_in_pages(tmp_path: Path) -> None:
    with SimulatedNetwork(tmp_path, some_devices(45)) as network:
        access_id = access(network, *range(1, 46))["id"]
        path = f"{ACCESSES}/{access_id}/devices"
        first = network.ask("GET", path)
        assert len(first.json()["items"]) == 20
        assert (first.headers["x-total-count"], first.headers["x-total-pages"]) == ("45", "3")
        assert f'<{network.url}{path}?page=2>; rel="next"' in first.headers["link"]
        third = network.ask("GET", f"{path}?page=3&perPage=20")
        assert third.json()["pagination"] == {"page": 3, "perPage": 20, "totalCount": 45, "totalPages": 3}
        assert len(third.json()["items"]) == 5
        assert 'rel="next"' not in third.headers["link"]
        assert f'<{network.url}{path}?perPage=20&page=2>; rel="prev"' in third.headers["link"]
        assert network.get(f"{path}?page=9")["items"] == []
        for query in ("page=0", "perPage=101", "page=x", "page=99999999999"):
            assert network.refusal(f"{path}?{query}", None, method="GET", is_right=False) == (400, "OUT_OF_RANGE")


def test_members_are_found_by_status_and_by_device(network: SimulatedNetwork) -> None:
    access_id = access(network, 1, 2)["id"]
    path = f"{ACCESSES}/{access_id}/devices"
    wait_until(lambda: set(statuses(network, access_id).values()) == {"GRANTED"})
    assert len(network.get(f"{path}?deviceStatus=GRANTED")["items"]) == 2
    assert network.get(f"{path}?deviceStatus=DENIED")["items"] == []
    header = {"x-device": f'phonenumber="{phone(2)["phoneNumber"]}"'}
    assert [each["device"] for each in network.get(path, headers=header)["items"]] == [phone(2)]
    other = {"x-device": f'phonenumber="{phone(3)["phoneNumber"]}"'}
    assert network.get(path, headers=other)["items"] == []
    assert network.refusal(f"{path}?deviceStatus=GONE", None, method="GET", is_right=False)[0] == 400
    for text, refused in (
        ("+49", (400, "INVALID_ARGUMENT")),
        (phone(99)["phoneNumber"], (404, "IDENTIFIER_NOT_FOUND")),
    ):
        headers = {"x-device": f'phonenumber="{text}"'}
        assert network.refusal(path, None, method="GET", headers=headers) == refused


def test_accesses_are_found_by_network_and_by_device(network: SimulatedNetwork) -> None:
    first, second = access(network, 1)["id"], access(network, 1, 2)["id"]
    header = {"x-device": f'phonenumber="{phone(2)["phoneNumber"]}"'}
    assert [each["id"] for each in network.get(ACCESSES)["items"]] == [first, second]
    assert [each["id"] for each in network.get(ACCESSES, headers=header)["items"]] == [second]
    of_network = f"{ACCESSES}?networkId={network_id(network)}"
    assert len(network.get(of_network)["items"]) == 2
    assert len(network.get(of_network, headers=header)["items"]) == 1
    assert network.refusal(f"{ACCESSES}?networkId={NOBODY}", None, method="GET") == (404, "NOT_FOUND")
    network.delete(f"{ACCESSES}/{first}")
    assert [each["id"] for each in network.get(of_network)["items"]] == [second]
    assert network.refusal(f"{ACCESSES}/{first}", None, method="GET") == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"networkId": NOBODY}, (404, "NOT_FOUND")),
        ({"networkId": "first"}, (400, "INVALID_ARGUMENT")),
        ({"qosProfiles": ["QOS_X"]}, (400, "INVALID_ARGUMENT")),
        ({"qosProfiles": ["QOS_E"], "defaultQosProfile": "QOS_L"}, (400, "INVALID_ARGUMENT")),
        ({"sink": "http://sink.example/"}, (400, "INVALID_ARGUMENT")),
        ({"devices": []}, (400, "INVALID_ARGUMENT")),
        ({"devices": [phone(1)] * 101}, (400, "INVALID_ARGUMENT")),
        ({"name": "mine"}, (400, "INVALID_ARGUMENT")),
    ],
)
def test_what_is_no_access_is_refused(
    network: SimulatedNetwork, changes: dict[str, Any], refused: tuple[int, str]
) -> None:
    body = {"networkId": network_id(network), **changes}
    assert network.refusal(ACCESSES, body, is_right=False) == refused
    assert not network.everything()["groups"]


# Networks -----------------------------------------------------------------------------------------------------------


def new_network(**changes: Any) -> dict[str, Any]:
    body = {
        "serviceAreaId": SERVICE_AREA_ID,
        "networkProfileId": NETWORK_PROFILE_ID,
        "serviceTime": service_time(-10, 3600),
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


def test_one_network_is_there_from_the_beginning(network: SimulatedNetwork) -> None:
    [first] = network.get(NETWORKS)["items"]
    assert (first["id"], first["status"], first["name"]) == (network_id(network), "ACTIVATED", "grid")
    assert network.get(f"{NETWORKS}/{first['id']}") == first
    assert network.get(f"{NETWORKS}?name=other")["items"] == []


def test_a_network_is_requested_and_lives_as_long_as_it_was_asked_for(network: SimulatedNetwork) -> None:
    body = new_network(sink=network.where("/net"), sinkCredential=CREDENTIAL, serviceTime=service_time(60, 3600))
    answer = network.ask("POST", NETWORKS, body)
    told = answer.json()
    assert (answer.status_code, told["status"]) == (201, "REQUESTED")
    assert answer.headers["location"] == f"{network.url}{NETWORKS}/{told['id']}"
    network.wait_for_event("network-status-changed")
    group = access(network, 1, networkId=told["id"], sink=network.where("/access"))
    network.wait_for_event(CHANGED)
    network.advance(61)
    network.advance(3600)
    data = network.wait_for_event("network-status-changed", 3)
    assert [each["status"] for each in data] == ["RESERVED", "ACTIVATED", "TERMINATED"]
    [device] = network.wait_for_event(CHANGED, 2)[1]["accessDevices"]
    assert (device["status"], device["statusInfo"]["reason"]["code"]) == ("DENIED", "ACCESS_REVOKED")
    path = f"{ACCESSES}/{group['id']}/devices"
    assert network.refusal(f"{path}/add", some(2)) == (409, "INCOMPATIBLE_STATE")
    assert network.refusal(f"{path}/remove", some(1)) == (409, "INCOMPATIBLE_STATE")
    assert network.refusal(ACCESSES, {"networkId": told["id"]}) == (409, "INCOMPATIBLE_STATE")
    network.delete(f"{NETWORKS}/{told['id']}")
    assert network.refusal(f"{NETWORKS}/{told['id']}", None, method="GET") == (404, "NOT_FOUND")
    assert network.refusal(f"{ACCESSES}/{group['id']}", None, method="GET") == (404, "NOT_FOUND")


def test_a_network_may_not_be_granted(network: SimulatedNetwork) -> None:
    network.behave(refuse_share=1.0)
    network.post(NETWORKS, new_network(sink=network.where("/net"), networkProfileId=None, qosProfileName="QOS_E"), 201)
    assert network.wait_for_event("network-status-changed")[0]["status"] == "TERMINATED"


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"serviceAreaId": NOBODY}, (404, "DEDICATED_NETWORK.SERVICE_AREA_IDENTIFIER_NOT_FOUND")),
        ({"networkProfileId": NOBODY}, (404, "DEDICATED_NETWORK.NETWORK_PROFILE_IDENTIFIER_NOT_FOUND")),
        (
            {"networkProfileId": None, "qosProfileName": "QOS_X"},
            (404, "DEDICATED_NETWORK.QOS_PROFILE_NAME_NOT_FOUND"),
        ),
        ({"serviceTime": service_time(20, 10)}, (422, "DEDICATED_NETWORK.INCORRECT_SERVICE_TIME")),
        ({"serviceTime": service_time(-20, -10)}, (422, "DEDICATED_NETWORK.INCORRECT_SERVICE_TIME")),
        ({"qosProfileName": "QOS_E"}, (400, "INVALID_ARGUMENT")),
        ({"networkProfileId": None}, (400, "INVALID_ARGUMENT")),
        ({"serviceTime": {"start": "2026-01-01T00:00:00", "end": "2099-01-01T00:00:00Z"}}, (400, "INVALID_ARGUMENT")),
    ],
)
def test_what_is_no_network_is_refused(
    network: SimulatedNetwork, changes: dict[str, Any], refused: tuple[int, str]
) -> None:
    is_right = refused[0] != 400
    assert network.refusal(NETWORKS, new_network(**changes), is_right=is_right) == refused


def test_ten_thousand_devices_in_a_hundred_groups_are_borne(tmp_path: Path) -> None:
    with SimulatedNetwork(tmp_path, made_up_devices(10_000, 1), most_members=10_000) as network:
        body = {"networkId": network_id(network)}
        for first in range(1, 10_001, 100):
            devices = some(*range(first, first + 100))
            network.http.post(ACCESSES, json={**body, **devices}).raise_for_status()
        assert [each["members"] for each in network.everything()["networks"]] == [10_000]
        group = network.get(f"{ACCESSES}?perPage=100")["items"][57]
        began_s = time.monotonic()
        for _ in range(50):
            for action in ("remove", "add"):
                path = f"{ACCESSES}/{group['id']}/devices/{action}"
                network.http.post(path, json=some(5750)).raise_for_status()
        assert time.monotonic() - began_s < 5.0, "a request looks at the devices that it names, not at all"
