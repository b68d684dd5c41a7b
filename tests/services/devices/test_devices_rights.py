"""Who may do what, by tokens and groups of a real policy system, and requests that nobody would make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from device_services import OWNER, SERVER, DeviceSite
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from served_policies import PASSWORD, ServedPolicies

pytestmark = pytest.mark.long
PERSON = "a-long-password-of-a-person"


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPolicies]:
    with ServedPolicies(tmp_path_factory.mktemp("policies")) as served:
        for group in (OWNER, "elsewhere"):
            served.make_group(group)
        for name, group in (("reader", OWNER), ("editor", OWNER), ("manager", OWNER), ("other", "elsewhere")):
            served.admin.put(f"/api/v1/users/{name}", json={"password": PERSON}).raise_for_status()
            served.add_member(name, "manager" if name == "other" else name, group)
        yield served


@pytest.fixture(scope="module")
def site(policies: ServedPolicies, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceSite]:
    folder = tmp_path_factory.mktemp("devices")
    with DeviceSite(folder, devices=4, options=("--policy", policies.url), patience_s=5.0) as started:
        started.api.headers["Authorization"] = f"Bearer {policies.password_token('admin', PASSWORD)}"
        started.onboard("pmu0")
        yield started


@pytest.fixture
def users(site: DeviceSite, policies: ServedPolicies) -> Iterator[dict[str, httpx.Client]]:
    """Clients of the service by their user; `nobody` shows no token."""
    names = ("reader", "editor", "manager", "other")
    clients = {name: site.client(policies.password_token(name, PERSON)) for name in names}
    clients["nobody"] = site.client()
    yield clients
    for client in clients.values():
        client.close()


def statuses(users: dict[str, httpx.Client], method: str, path: str, body: Any = None) -> dict[str, int]:
    """What each user is answered, those with the least rights first."""
    order = ("nobody", "other", "reader", "editor", "manager")
    asked = {name: users[name].request(method, path, json=body, params={"wait_s": 20}) for name in order}
    return {name: answer.status_code for name, answer in asked.items()}


def test_readers_see_devices_of_their_groups_alone(site: DeviceSite, users: dict[str, httpx.Client]) -> None:
    seen = statuses(users, "GET", f"/devices/{site.gpsi('pmu0')}")
    assert seen == {"nobody": 401, "other": 404, "reader": 200, "editor": 200, "manager": 200}
    assert users["other"].get("/devices").json()["devices"] == []
    assert users["other"].get("/links").json()["links"] == []
    assert [each["name"] for each in users["reader"].get("/devices").json()["devices"]] == ["pmu0"]


def test_editors_change_qualities_and_watches(site: DeviceSite, users: dict[str, httpx.Client]) -> None:
    qos = {"profile": "QOS_L", "server_ipv4": SERVER, "duration_s": 600}
    seen = statuses(users, "PUT", f"/devices/{site.gpsi('pmu0')}/qos", qos)
    assert seen == {"nobody": 401, "other": 404, "reader": 403, "editor": 200, "manager": 200}
    watch = {"parameters": ["reachability"], "lasts_s": 600}
    seen = statuses(users, "PUT", f"/devices/{site.gpsi('pmu0')}/watch", watch)
    assert seen == {"nobody": 401, "other": 404, "reader": 403, "editor": 200, "manager": 200}


def test_managers_bring_devices_and_groups_in(site: DeviceSite, users: dict[str, httpx.Client]) -> None:
    new = {"gpsi": site.gpsi("pmu1"), "name": "pmu1", "owner": OWNER}
    seen = statuses(users, "POST", "/devices", new)
    assert seen == {"nobody": 401, "other": 403, "reader": 403, "editor": 403, "manager": 200}
    seen = statuses(users, "POST", "/groups", {"name": "south", "owner": OWNER})
    assert seen == {"nobody": 401, "other": 403, "reader": 403, "editor": 403, "manager": 200}
    seen = statuses(users, "PATCH", "/groups/south", {"add": [site.gpsi("pmu1")]})
    assert seen == {"nobody": 401, "other": 404, "reader": 403, "editor": 403, "manager": 200}


def test_a_manager_cannot_take_a_device_of_others_into_a_group(
    site: DeviceSite, users: dict[str, httpx.Client]
) -> None:
    made = users["other"].post("/groups", json={"name": "thieves", "owner": "elsewhere"}, params={"wait_s": 20})
    assert made.status_code == 200
    taken = users["other"].patch("/groups/thieves", json={"add": [site.gpsi("pmu0")]})
    assert taken.status_code == 404


def test_operations_of_others_are_not_there(site: DeviceSite, users: dict[str, httpx.Client]) -> None:
    told = site.api.get("/operations").raise_for_status().json()["operations"]
    path = next(f"/operations/{each['id']}" for each in told if each["kind"] == "onboard")
    seen = {name: users[name].get(path).status_code for name in ("nobody", "other")}
    assert seen == {"nobody": 401, "other": 404}


def test_what_was_tried_without_a_right_is_written_down(site: DeviceSite, users: dict[str, httpx.Client]) -> None:
    path = f"/devices/{site.gpsi('pmu0')}"
    assert users["reader"].delete(path).status_code == 403
    [newest] = site.api.get("/audit", params={"limit": 1}).raise_for_status().json()["audit"]
    assert (newest["actor"], newest["outcome"], newest["target"]) == ("reader", "denied", f"DELETE /api/v1{path}")


def test_the_audit_log_is_for_administrators(users: dict[str, httpx.Client], site: DeviceSite) -> None:
    assert statuses(users, "GET", "/audit")["manager"] == 403
    assert site.api.get("/audit").status_code == 200


def test_schemathesis_finds_no_server_error(site: DeviceSite) -> None:
    site.behave(grant_delay_s=0.0)
    document = schemathesis.openapi.from_dict(site.api.get(f"{site.url}/schema/openapi.json").json())
    operations: list[Any] = [each.ok() for each in document.get_all_operations() if isinstance(each, Ok)]
    assert len(operations) == 23
    for operation in operations:

        @settings(
            max_examples=25,
            database=None,
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            if "wait_s" in (case.query or {}):
                case.query["wait_s"] = 0
            answer = case.call(
                base_url=site.url,
                headers={"Authorization": site.api.headers["Authorization"]},
                verify=str(site.folder / "authority.pem"),
            )
            assert answer.status_code < 500, answer.text

        ask()
