"""Answers that are lost after the work was done, kills at any moment, and a disk that takes nothing, in both standards.

Each test looks at both sides in the end: what the service tells, and what the network really has.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from broker import wait_until
from device_services import OWNER, SERVER, DeviceSite, Standard

pytestmark = pytest.mark.long

PARTS = {"camara": 3, "nef": 2}
"""Subscriptions of a watch of reachability."""


@pytest.fixture(scope="module", params=["camara", "nef"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceSite]:
    """Requests to the network are given up after half a second."""
    standard: Standard = request.param
    with DeviceSite(tmp_path_factory.mktemp(standard), standard, devices=80, request_timeout_s=0.5) as started:
        yield started


@pytest.fixture
def names(site: DeviceSite) -> Iterator[list[str]]:
    """Two devices that no other test has."""
    taken = getattr(site, "taken", 0)
    site.taken = taken + 2  # type: ignore[attr-defined]
    yield [f"pmu{taken}", f"pmu{taken + 1}"]
    site.behave()


def new(site: DeviceSite, *names: str) -> dict[str, Any]:
    return {
        "devices": [
            {
                "gpsi": site.gpsi(name),
                "name": name,
                "owner": OWNER,
                "ipv4_address": site.known[name]["ipv4_address"],
            }
            for name in names
        ]
    }


def ended(site: DeviceSite, answer: httpx.Response) -> dict[str, Any]:
    """What became of an operation that was under way."""
    assert answer.status_code == 202, answer.text
    path = answer.headers["Location"].removeprefix("/api/v1")
    told: dict[str, Any] = site.api.get(path, params={"wait_s": 30}).raise_for_status().json()
    return told


def memberships(site: DeviceSite, name: str) -> int:
    return sum(site.gpsi(name) in each for each in site.groups().values())


def watch_of(reading: str = "reachability") -> dict[str, Any]:
    return {"parameters": [reading], "server_ipv4": SERVER, "lasts_s": 3600}


# Answers that are lost ------------------------------------------------------------------------------------------------


def test_onboarding_whose_answers_were_lost_puts_the_device_in_once(site: DeviceSite, names: list[str]) -> None:
    site.behave(answer_delay_s=1.0)
    answer = site.api.post("/devices/many", json=new(site, *names), params={"wait_s": 1.5})
    site.behave()
    assert ended(site, answer)["state"] == "succeeded"
    assert [memberships(site, name) for name in names] == [1, 1]


def test_a_quality_whose_answer_was_lost_is_one_session(site: DeviceSite, names: list[str]) -> None:
    site.onboard(names[0])
    site.behave(answer_delay_s=1.0)
    answer = site.set_qos(names[0], wait_s=1.5)
    site.behave()
    assert ended(site, answer)["state"] == "succeeded"
    assert site.qos(names[0])["state"] == "available"
    assert [each["profile"] for each in site.sessions() if each["gpsi"] == site.gpsi(names[0])] == ["QOS_L"]


def test_a_group_whose_answer_was_lost_is_made_once(site: DeviceSite, names: list[str]) -> None:
    before, group = set(site.groups()), f"group_{names[0]}"
    site.behave(answer_delay_s=1.0)
    answer = site.api.post("/groups", json={"name": group, "owner": OWNER}, params={"wait_s": 1.5})
    site.behave()
    assert ended(site, answer)["state"] == "succeeded"
    assert len(set(site.groups()) - before) == 1


def test_what_waits_for_a_network_says_why(site: DeviceSite, names: list[str]) -> None:
    site.onboard(names[0])
    site.behave(answer_delay_s=1.0)
    answer = site.set_qos(names[0], wait_s=1.5)
    assert answer.status_code == 202
    assert answer.json()["waiting_for"]["code"] == "NO_ANSWER"
    site.behave()
    assert "waiting_for" not in ended(site, answer)


def test_watches_whose_answers_were_lost_leave_nothing_behind_once_the_network_tells(
    site: DeviceSite, names: list[str]
) -> None:
    name = names[0]
    site.onboard(name)
    site.behave(answer_delay_s=1.0)
    answer = site.api.put(f"/devices/{site.gpsi(name)}/watch", json=watch_of(), params={"wait_s": 1.5})
    site.behave()
    assert ended(site, answer)["state"] == "succeeded"
    assert len(site.watches(name)) > PARTS[site.standard]
    for covered in (False, True):
        site.link(name, covered=covered)
    wait_until(lambda: len(site.watches(name)) == PARTS[site.standard], 60.0)


def test_a_watch_that_takes_the_place_of_another_leaves_nothing_behind_though_its_end_had_no_answer(
    site: DeviceSite, names: list[str]
) -> None:
    name = names[0]
    site.onboard(name)
    path = f"/devices/{site.gpsi(name)}/watch"
    site.done(site.api.put(path, json=watch_of(), params={"wait_s": 30}))
    first = {each["id"] for each in site.watches(name)}
    site.kill_service()
    site.start_service()
    site.done(site.api.put(path, json={**watch_of(), "lasts_s": 1800}, params={"wait_s": 30}))
    wait_until(lambda: len(site.watches(name)) == PARTS[site.standard], 60.0)
    assert not first & {each["id"] for each in site.watches(name)}


# Kills ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.3])
def test_onboarding_goes_on_after_a_kill(site: DeviceSite, names: list[str], after_s: float) -> None:
    site.behave(answer_delay_s=0.2)
    answer = site.api.post("/devices/many", json=new(site, *names), params={"wait_s": 0})
    time.sleep(after_s)
    site.kill_service()
    site.start_service()
    assert ended(site, answer)["state"] == "succeeded"
    assert [(site.device(name)["state"], memberships(site, name)) for name in names] == [("onboarded", 1)] * 2


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
def test_a_removal_goes_on_after_a_kill(site: DeviceSite, names: list[str], after_s: float) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.set_qos(name))
    site.behave(answer_delay_s=0.2)
    answer = site.api.delete(f"/devices/{site.gpsi(name)}", params={"wait_s": 0})
    time.sleep(after_s)
    site.kill_service()
    site.start_service()
    assert ended(site, answer)["state"] == "succeeded"
    assert site.api.get(f"/devices/{site.gpsi(name)}").status_code == 404
    assert memberships(site, name) == 0
    assert [each for each in site.sessions() if each["gpsi"] == site.gpsi(name)] == []


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
def test_a_change_of_quality_goes_on_after_a_kill(site: DeviceSite, names: list[str], after_s: float) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.set_qos(name, "QOS_S"))
    site.behave(answer_delay_s=0.2)
    answer = site.set_qos(name, "QOS_L", wait_s=0.0)
    time.sleep(after_s)
    site.kill_service()
    site.start_service()
    assert ended(site, answer)["state"] == "succeeded"
    assert (site.qos(name)["profile"], site.qos(name)["state"]) == ("QOS_L", "available")
    assert [each["profile"] for each in site.sessions() if each["gpsi"] == site.gpsi(name)] == ["QOS_L"]


# Races ----------------------------------------------------------------------------------------------------------------


def test_changes_of_one_group_at_once_leave_both_sides_alike(site: DeviceSite, names: list[str]) -> None:
    site.onboard(*names)
    group = f"group_{names[0]}"
    site.done(site.api.post("/groups", json={"name": group, "owner": OWNER}, params={"wait_s": 30}))
    first, second = (site.gpsi(name) for name in names)
    changes = [{"add": [first]}, {"add": [second]}, {"remove": [first]}, {"add": [first]}, {"remove": [second]}]
    answers = [site.api.patch(f"/groups/{group}", json=each, params={"wait_s": 0}) for each in changes]
    assert [ended(site, each)["state"] for each in answers] == ["succeeded"] * 5
    told = site.api.get(f"/groups/{group}").raise_for_status().json()
    assert [each["gpsi"] for each in told["members"] if each["state"] == "member"] == [first]
    assert [each for network_id, each in site.groups().items() if network_id in told["network_id"]] == [{first}]


def test_a_quality_that_the_groups_of_a_device_do_not_have_is_refused(site: DeviceSite, names: list[str]) -> None:
    site.onboard(*names)
    group = {"name": f"group_{names[0]}", "owner": OWNER, "profiles": ["QOS_L"]}
    site.done(site.api.post("/groups", json=group, params={"wait_s": 30}))
    change = {"add": [site.gpsi(names[0])]}
    site.done(site.api.patch(f"/groups/{group['name']}", json=change, params={"wait_s": 30}))
    refused = site.set_qos(names[0], "QOS_S")
    assert refused.status_code == 409
    assert f"groups of '{names[0]}' have QOS_L; got QOS_S" in refused.json()["detail"]
    site.done(site.set_qos(names[0], "QOS_L"))
    site.done(site.set_qos(names[1], "QOS_S"))


# The disk -------------------------------------------------------------------------------------------------------------


def test_a_disk_that_takes_nothing_is_said_and_nothing_is_done(site: DeviceSite, names: list[str]) -> None:
    assert site.service is not None
    pid = site.service.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        answer = site.api.post("/devices/many", json=new(site, *names), params={"wait_s": 5})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert [memberships(site, name) for name in names] == [0, 0]
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    site.onboard(*names)
    assert [memberships(site, name) for name in names] == [1, 1]
