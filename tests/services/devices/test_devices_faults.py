"""Answers that are lost after the work was done, kills at any moment, and a disk that takes nothing, in both standards.

Each test looks at both sides in the end: what the service tells, and what the network really has.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from broker import wait_until
from device_services import OWNER, SERVER, DeviceSite, Standard

from edgeflex_flow.errors import FatalError
from edgeflex_services.devices.store import Store

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


def reachable(site: DeviceSite, name: str) -> Any:
    """What the service says of a link."""
    links = site.api.get("/links").raise_for_status().json()["links"]
    found = [each for each in links if each["gpsi"] == site.gpsi(name)]
    return found[0]["readings"].get("reachability", {}).get("value") if found else None


def sessions_of(site: DeviceSite, name: str) -> list[dict[str, Any]]:
    return [each for each in site.sessions() if each["gpsi"] == site.gpsi(name)]


def reached(site: DeviceSite, name: str, when: str) -> dict[str, Any]:
    """What the network tells when data reach a device."""
    watch = next(each["id"] for each in site.watches(name))
    if site.standard == "camara":
        kind = "org.camaraproject.device-reachability-status-subscriptions.v0.reachability-data"
        event = {"id": f"of {name}", "source": "https://network.example", "type": kind, "specversion": "1.0"}
        return {**event, "time": when, "data": {"subscriptionId": watch}}
    assert site.simulator is not None
    place = f"{site.simulator.url}/3gpp-monitoring-event/v1/edgeflex/subscriptions/{watch}"
    report = {"monitoringType": "UE_REACHABILITY", "reachabilityType": "DATA", "eventTime": when}
    return {"subscription": place, "monitoringEventReports": [report]}


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


def test_a_watch_that_cannot_be_changed_goes_on_as_it_was(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    path = f"/devices/{site.gpsi(name)}/watch"
    site.done(site.api.put(path, json=watch_of(), params={"wait_s": 30}))
    site.behave(refuse_devices=[site.gpsi(name)])
    assert site.api.put(path, json={**watch_of(), "lasts_s": 60}, params={"wait_s": 30}).status_code == 422
    site.behave()
    site.link(name, covered=False)
    wait_until(lambda: reachable(site, name) is False)
    site.link(name, covered=True)
    wait_until(lambda: reachable(site, name) is True)
    wait_until(lambda: len(site.watches(name)) == PARTS[site.standard], 60.0)


def test_a_watch_that_the_network_lost_without_a_word_is_asked_for_anew(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.api.put(f"/devices/{site.gpsi(name)}/watch", json=watch_of(), params={"wait_s": 30}))
    for each in site.watches(name):
        site.lose_watch(each["id"])
    wait_until(lambda: len(site.watches(name)) >= PARTS[site.standard], 60.0)
    site.link(name, covered=False)
    wait_until(lambda: reachable(site, name) is False)
    site.link(name, covered=True)


# What is newer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["camara"], indirect=True)  # TS 29.122 has no request that tells it
def test_the_same_quality_again_is_a_new_session_where_the_network_has_ended_the_old_one(
    site: DeviceSite, names: list[str]
) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.set_qos(name))
    site.behave(notify={"lose_share": 1.0})
    [session] = sessions_of(site, name)
    site.network.post(f"/simulation/sessions/{session['id']}/terminate").raise_for_status()
    site.behave()
    site.done(site.set_qos(name))
    assert site.qos(name)["state"] == "available"
    [again] = sessions_of(site, name)
    assert again["id"] != session["id"]


def test_what_a_link_was_read_as_does_not_undo_what_was_told_meanwhile(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.api.put(f"/devices/{site.gpsi(name)}/watch", json=watch_of(), params={"wait_s": 30}))
    site.behave(answer_delay_s=0.4)
    asking = threading.Thread(target=lambda: site.client().get(f"/devices/{site.gpsi(name)}/link"))
    asking.start()
    time.sleep(0.1)
    site.link(name, covered=False)
    asking.join()
    wait_until(lambda: reachable(site, name) is False)
    time.sleep(0.5)
    assert reachable(site, name) is False
    site.behave()
    site.link(name, covered=True)


def test_a_notification_from_the_future_does_not_make_all_later_ones_too_late(
    site: DeviceSite, names: list[str]
) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.api.put(f"/devices/{site.gpsi(name)}/watch", json=watch_of(), params={"wait_s": 30}))
    assert site.tell(name, "watch", reached(site, name, "2036-01-01T00:00:00Z")).status_code == 204
    site.link(name, covered=False)
    wait_until(lambda: reachable(site, name) is False)
    site.link(name, covered=True)


def test_notifications_that_come_twice_or_late_are_counted_and_dropped(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.api.put(f"/devices/{site.gpsi(name)}/watch", json=watch_of(), params={"wait_s": 30}))
    site.link(name, covered=False)
    wait_until(lambda: reachable(site, name) is False)
    before = site.counts()
    late = reached(site, name, "2020-01-01T00:00:00Z")
    for _ in range(2):
        assert site.tell(name, "watch", late).status_code == 204
    assert reachable(site, name) is False
    counts = site.counts()
    twice = counts.get("notifications_twice", 0) - before.get("notifications_twice", 0)
    too_late = counts.get("notifications_late", 0) - before.get("notifications_late", 0)
    # Those of TS 29.122 have no identifier by which a second one would be known.
    assert (twice, too_late) == ((1, 1) if site.standard == "camara" else (0, 2))
    site.link(name, covered=True)


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


def test_a_device_that_changed_hands_meanwhile_is_not_put_into_the_group(site: DeviceSite, names: list[str]) -> None:
    site.onboard(*names)
    group, (first, second) = f"group_{names[0]}", (site.gpsi(name) for name in names)
    site.done(site.api.post("/groups", json={"name": group, "owner": OWNER}, params={"wait_s": 30}))
    site.behave(grant_delay_s=2.0)
    site.set_qos(names[0], wait_s=0.0)  # for which the change of the group has to wait
    site.behave()
    change = site.api.patch(f"/groups/{group}", json={"add": [first, second]}, params={"wait_s": 0})
    site.done(site.api.delete(f"/devices/{second}", params={"wait_s": 30}))
    site.onboard(names[1], owner="elsewhere")
    results = {each["gpsi"]: each["state"] for each in ended(site, change)["results"]}
    assert results == {first: "member", second: "missing"}
    assert site.device(names[1])["groups"] == []


def test_of_two_who_make_a_group_of_one_name_one_is_refused(site: DeviceSite, names: list[str]) -> None:
    for number in range(20):
        body = {"name": f"{names[0]}_{number}", "owner": OWNER}
        answers: list[int] = []

        def make(owner: str, body: dict[str, Any] = body, answers: list[int] = answers) -> None:
            with site.client() as client:
                asked = client.post("/groups", json={**body, "owner": owner}, params={"wait_s": 20})
                answers.append(asked.status_code)

        makers = [threading.Thread(target=make, args=(owner,)) for owner in (OWNER, "elsewhere")]
        for each in makers:
            each.start()
        for each in makers:
            each.join()
        assert sorted(answers) == [200, 409]


def test_a_device_whose_link_has_a_quality_keeps_its_address(site: DeviceSite, names: list[str]) -> None:
    site.onboard(names[0])
    site.done(site.set_qos(names[0]))
    [device] = new(site, names[0])["devices"]
    other = site.api.post("/devices", json={**device, "ipv4_address": "10.99.0.1"})
    assert (other.status_code, "give it back first" in other.json()["detail"]) == (409, True)


def test_a_link_whose_quality_a_group_does_not_have_does_not_come_into_it(site: DeviceSite, names: list[str]) -> None:
    site.onboard(*names)
    site.done(site.set_qos(names[0], "QOS_S"))
    group = {"name": f"group_{names[0]}", "owner": OWNER, "profiles": ["QOS_L"]}
    site.done(site.api.post("/groups", json=group, params={"wait_s": 30}))
    change = {"add": [site.gpsi(name) for name in names]}
    told = site.api.patch(f"/groups/{group['name']}", json=change, params={"wait_s": 30}).json()
    assert {each["gpsi"]: each["state"] for each in told["results"]} == {
        site.gpsi(names[0]): "refused",
        site.gpsi(names[1]): "member",
    }


# Groups that the network lost ---------------------------------------------------------------------------------------


def test_a_group_that_was_lost_is_made_again_with_all_though_the_service_is_killed_meanwhile(
    site: DeviceSite, names: list[str]
) -> None:
    site.onboard(*names)
    group = f"group_{names[0]}"
    site.done(site.api.post("/groups", json={"name": group, "owner": OWNER}, params={"wait_s": 30}))
    site.done(
        site.api.patch(f"/groups/{group}", json={"add": [site.gpsi(name) for name in names]}, params={"wait_s": 30})
    )
    ref = site.api.get(f"/groups/{group}").json()["network_id"]
    site.remove_group(ref)
    site.behave(answer_delay_s=0.4)
    wait_until(lambda: site.api.get(f"/groups/{group}").json()["network_id"] is None, 60.0)
    site.kill_service()
    site.behave()
    site.start_service()

    def there() -> set[str]:
        network_id = site.api.get(f"/groups/{group}").json()["network_id"]
        found = [each for each_id, each in site.groups().items() if network_id and each_id in network_id]
        return found[0] if found else set()

    wait_until(lambda: there() == {site.gpsi(name) for name in names}, 90.0)


def test_a_device_that_was_refused_does_not_come_in_when_a_group_is_made_again(site: DeviceSite) -> None:
    stranger = {"gpsi": "msisdn-4915559999999", "name": "stranger", "owner": OWNER, "ipv4_address": "10.98.0.1"}
    site.onboard("pmu79")
    assert site.api.post("/devices", json=stranger, params={"wait_s": 30}).status_code == 422
    ref = next(each_id for each_id, members in site.groups().items() if site.gpsi("pmu79") in members)
    site.remove_group(ref)
    wait_until(lambda: any(site.gpsi("pmu79") in members for members in site.groups().values()), 90.0)
    assert site.api.get(f"/devices/{stranger['gpsi']}").json()["state"] == "refused"
    site.done(site.api.delete(f"/devices/{stranger['gpsi']}", params={"wait_s": 30}))


# The book -----------------------------------------------------------------------------------------------------------


def test_the_book_of_another_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "devices.db"
    for network, refused in (("NEF, af_id a, domain d", False), ("CAMARA, network_id n", True)):
        store = Store(file)
        try:
            if refused:
                with pytest.raises(FatalError, match="a service in another network: NEF, af_id a, domain d"):
                    store.of_network(network)
            else:
                store.of_network(network)
        finally:
            store.close()


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
