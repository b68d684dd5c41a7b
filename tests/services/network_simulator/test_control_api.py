"""How tests and people let things happen in the network."""

from __future__ import annotations

import time

import pytest
from simulated_network import TOKEN, SimulatedNetwork, gpsi

NEW = {"msisdn": "491700000001", "external_id": "new@grid.example", "ipv4_address": "10.0.1.1"}


def test_all_that_is_in_the_network_is_told(network: SimulatedNetwork) -> None:
    told = network.everything()
    first = told["devices"][0]
    assert (first["gpsi"], first["external_id"], first["ipv4_address"]) == (gpsi(1), "pmu1@grid.example", "10.0.0.1")
    assert first["measured"]["latency_s"] == first["link"]["latency_s"] == 0.04
    assert told["profiles"][0]["name"] == "QOS_E"
    assert [each["id"] for each in told["networks"]] == [told["network_id"]]
    assert abs(told["time_ns"] - time.time_ns()) < 10**10
    assert network.http.get(f"/simulation/devices/{gpsi(1)}").json() == first


def test_a_link_changes_in_part(network: SimulatedNetwork) -> None:
    network.link(1, latency_s=0.5)
    network.link(1, covered=False)
    told = network.http.get("/simulation/devices/extid-pmu1@grid.example").json()
    assert (told["link"]["latency_s"], told["link"]["covered"], told["measured"]) == (0.5, False, None)


def test_a_device_that_vanishes_may_return_by_itself(network: SimulatedNetwork) -> None:
    network.link(1, covered=False, for_s=50)
    network.advance(51)
    assert network.everything()["devices"][0]["link"]["covered"]


def test_time_is_moved_ahead(network: SimulatedNetwork) -> None:
    network.advance(1000)
    network.advance(0.5)
    told = network.everything()
    assert told["ahead_s"] == 1000.5
    assert told["time_ns"] - time.time_ns() > 990 * 10**9


def test_devices_come_and_go(network: SimulatedNetwork) -> None:
    path = "/simulation/devices/msisdn-491700000001"
    assert network.http.put(path, json=NEW).status_code == 201
    changed = network.http.put(path, json={**NEW, "link": {"loss": 0.5}})
    assert (changed.status_code, changed.json()["link"]["loss"]) == (200, 0.5)
    assert len(network.everything()["devices"]) == 5
    assert network.http.delete(path).status_code == 204
    assert network.http.get(path).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "devices/msisdn-491700000002", NEW, 422),
        ("PUT", "devices/msisdn-491700000001", {**NEW, "ipv4_address": "10.0.0.1"}, 409),
        ("PUT", f"devices/{gpsi(1)}", {"msisdn": "4915550000001"}, 409),
        ("PUT", "devices/msisdn-491700000001", {**NEW, "ipv4_address": "here"}, 400),
        ("PATCH", f"devices/{gpsi(99)}", {"link": {}}, 404),
        ("PATCH", f"devices/{gpsi(1)}", {"link": {"loss": 2}}, 400),
        ("PATCH", f"devices/{gpsi(1)}", {"covered": False}, 400),
        ("DELETE", f"devices/{gpsi(99)}", None, 404),
        ("PUT", "behaviour", {"refuse_share": 2}, 400),
        ("PUT", "behaviour", {"refuse_devices": ["me"]}, 400),
        ("PUT", "behaviour", {"kind": True}, 400),
        ("POST", "advance", {"seconds": -1}, 400),
        ("POST", "sessions/none/terminate", None, 404),
    ],
)
def test_what_cannot_happen_is_a_problem(
    network: SimulatedNetwork, method: str, path: str, body: object, status: int
) -> None:
    answer = network.http.request(method, f"/simulation/{path}", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert len(network.everything()["devices"]) == 4


def test_how_the_network_behaves_is_said_whole_each_time(network: SimulatedNetwork) -> None:
    network.behave(fail_status=500, notify={"double": True})
    assert network.http.get("/simulation/behaviour").json()["notify"]["double"]
    network.behave()
    told = network.http.get("/simulation/behaviour").json()
    assert (told["fail_status"], told["notify"]["double"]) == (None, False)


def test_the_simulation_is_open_to_those_who_run_it(network: SimulatedNetwork) -> None:
    answer = network.http.get("/simulation", headers={"Authorization": "none"})
    assert answer.status_code == 200
    assert TOKEN not in answer.text


def test_the_page_for_people_names_the_operations(network: SimulatedNetwork) -> None:
    page = network.http.get("/schema", headers={"Accept": "text/html"})
    assert "Move time ahead" in page.text
    assert "/simulation/behaviour" in network.http.get("/schema/openapi.json").json()["paths"]
    assert network.http.get("/health/live").json() == {"status": "live"}
