"""The seed's four sequences, from the user to the network and back, in both standards, and what may go wrong.

Each test looks at both sides in the end: what the service tells, and what the network really has.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from broker import wait_until
from device_services import OWNER, SERVER, DeviceSite, Standard

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=["camara", "nef"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceSite]:
    standard: Standard = request.param
    with DeviceSite(tmp_path_factory.mktemp(standard), standard, devices=80) as started:
        yield started


@pytest.fixture
def names(site: DeviceSite) -> Iterator[list[str]]:
    """Two devices that no other test has."""
    taken = getattr(site, "taken", 0)
    site.taken = taken + 2  # type: ignore[attr-defined]
    yield [f"pmu{taken}", f"pmu{taken + 1}"]
    site.behave()


camara_alone = pytest.mark.parametrize("site", ["camara"], indirect=True)
"""5GLAN groups take any GPSI, and TS 29.122 has no request that tells the state of a session."""


def members(site: DeviceSite) -> set[str]:
    """GPSIs in any group of the network."""
    return set().union(*site.groups().values())


def has(site: DeviceSite, name: str, profile: str, state: str) -> bool:
    told = site.qos(name)
    return (told["profile"], told["state"]) == (profile, state)


def sessions_of(site: DeviceSite, name: str) -> list[dict[str, Any]]:
    return [each for each in site.sessions() if each["gpsi"] == site.gpsi(name)]


# The four sequences ---------------------------------------------------------------------------------------------------


def test_requirement_1_a_device_is_onboarded_and_removed(site: DeviceSite, names: list[str]) -> None:
    name, gpsi = names[0], site.gpsi(names[0])
    new = {"gpsi": gpsi, "name": name, "owner": OWNER, "ipv4_address": site.known[name]["ipv4_address"]}
    operation = site.done(site.api.post("/devices", json=new, params={"wait_s": 30}))
    assert operation["results"] == [{"gpsi": gpsi, "state": "member", "reason": None}]
    assert site.device(name)["state"] == "onboarded"
    assert gpsi in members(site)

    site.done(site.api.delete(f"/devices/{gpsi}", params={"wait_s": 30}))
    assert site.api.get(f"/devices/{gpsi}").status_code == 404
    assert gpsi not in members(site)


def test_requirement_2_the_quality_of_a_link_is_changed_and_given_back(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.set_qos(name, "QOS_L"))
    assert site.qos(name)["state"] == "available"
    assert [each["profile"] for each in sessions_of(site, name)] == ["QOS_L"]

    site.done(site.set_qos(name, "QOS_E"))
    assert (site.qos(name)["profile"], site.qos(name)["state"]) == ("QOS_E", "available")
    assert [each["profile"] for each in sessions_of(site, name)] == ["QOS_E"]

    site.done(site.api.delete(f"/devices/{site.gpsi(name)}/qos", params={"wait_s": 30}))
    assert site.qos(name)["state"] == "ended"
    assert sessions_of(site, name) == []


def test_requirement_3_the_status_of_a_link_is_monitored(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    path = f"/devices/{site.gpsi(name)}/link"
    asked = {"parameters": "reachability,latency", "server_ipv4": SERVER, "profile": "QOS_L"}
    told = site.api.get(path, params=asked).raise_for_status().json()
    assert told["readings"]["reachability"]["value"] is True
    if site.standard == "camara":
        assert told["readings"]["latency"]["meets_profile"] is False, "40 ms are more than QOS_L allows"
    else:
        assert told["not_told"]["latency"]["text"]

    site.link(name, covered=False)
    told = site.api.get(path, params=asked).raise_for_status().json()
    assert told["readings"]["reachability"]["value"] is False
    site.link(name, covered=True)


def test_requirement_4_a_group_is_made_changed_and_removed(site: DeviceSite, names: list[str]) -> None:
    site.onboard(*names)
    group = f"group_{names[0]}"
    site.done(site.api.post("/groups", json={"name": group, "owner": OWNER}, params={"wait_s": 30}))
    ref = site.api.get(f"/groups/{group}").raise_for_status().json()["network_id"]

    def in_network() -> set[str] | None:
        found = [each for network_id, each in site.groups().items() if network_id in ref]
        return found[0] if found else None

    assert in_network() == set()
    change = {"add": [site.gpsi(name) for name in names]}
    site.done(site.api.patch(f"/groups/{group}", json=change, params={"wait_s": 30}))
    assert in_network() == {site.gpsi(name) for name in names}
    site.done(site.api.patch(f"/groups/{group}", json={"remove": [site.gpsi(names[0])]}, params={"wait_s": 30}))
    assert in_network() == {site.gpsi(names[1])}
    assert site.device(names[1])["groups"] == [group]

    site.done(site.api.delete(f"/groups/{group}", params={"wait_s": 30}))
    assert in_network() is None
    assert site.device(names[1])["state"] == "onboarded", "it stays in the network"


# What the network does by itself --------------------------------------------------------------------------------------


def test_a_watch_tells_of_a_device_that_vanishes_and_returns(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    wanted = {"parameters": ["reachability"], "server_ipv4": SERVER, "lasts_s": 3600}
    path = f"/devices/{site.gpsi(name)}/watch"
    site.done(site.api.put(path, json=wanted, params={"wait_s": 30}))
    seq = site.api.get("/links").raise_for_status().json()["seq"]

    def seen() -> Any:
        links = site.api.get("/links", params={"owner": OWNER}).raise_for_status().json()["links"]
        [link] = [each for each in links if each["gpsi"] == site.gpsi(name)]
        return link["readings"].get("reachability", {}).get("value")

    site.link(name, covered=False)
    changed = site.api.get("/links", params={"since": seq, "wait_s": 20}).raise_for_status().json()
    assert changed["links"]
    wait_until(lambda: seen() is False)
    site.link(name, covered=True)
    wait_until(lambda: seen() is True)
    site.done(site.api.delete(path, params={"wait_s": 30}))


def test_a_session_that_the_network_ends_is_ended_here_too(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.set_qos(name))
    [session] = sessions_of(site, name)
    site.network.post(f"/simulation/sessions/{session['id']}/terminate").raise_for_status()
    wait_until(lambda: site.qos(name)["state"] == "ended")
    assert site.qos(name)["reason"]["code"] in ("NETWORK_TERMINATED", "SESSION_TERMINATION")
    assert sessions_of(site, name) == []


def test_an_expired_session_is_over_on_both_sides(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.set_qos(name, duration_s=3))
    wait_until(lambda: site.qos(name)["state"] == "ended", 30.0)
    wait_until(lambda: sessions_of(site, name) == [])
    assert site.qos(name)["reason"]["code"] in ("DURATION_EXPIRED", "GONE")


def test_the_same_quality_again_makes_it_last_longer_and_no_second_session(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.set_qos(name, duration_s=600))
    before = site.qos(name)["expires_ns"]
    site.done(site.set_qos(name, duration_s=1200))
    assert site.qos(name)["expires_ns"] >= before + 500 * 10**9
    assert len(sessions_of(site, name)) == 1


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_a_refusal_comes_with_the_networks_reason_and_nothing_stays(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.behave(refuse_devices=[site.gpsi(name)])
    answer = site.set_qos(name)
    assert answer.status_code == 422
    assert answer.json()["network"]["code"]
    assert answer.json()["operation"]["state"] == "failed"
    assert site.qos(name)["state"] == "ended"
    assert sessions_of(site, name) == []


def test_a_refused_change_leaves_the_quality_from_before(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.set_qos(name, "QOS_L"))
    assert site.set_qos(name, "QOS_UNKNOWN").status_code == 422
    wait_until(lambda: site.qos(name)["state"] == "available")
    assert site.qos(name)["profile"] == "QOS_L"
    assert [each["profile"] for each in sessions_of(site, name)] == ["QOS_L"]


def test_a_quality_that_is_refused_later_is_a_failure_too_and_the_one_from_before_comes_back(
    site: DeviceSite, names: list[str]
) -> None:
    name = names[0]
    site.onboard(name)
    site.done(site.set_qos(name, "QOS_L"))
    site.behave(refuse_share=1.0, grant_delay_s=0.5)
    answer = site.set_qos(name, "QOS_E", wait_s=0.0)
    wait_until(lambda: "QOS_E" in [each["profile"] for each in site.simulation()["sessions"]])
    wait_until(lambda: [each["profile"] for each in sessions_of(site, name)] != ["QOS_E"])
    site.behave()
    operation = site.api.get(answer.headers["Location"].removeprefix("/api/v1"), params={"wait_s": 30}).json()
    assert (operation["state"], operation["reason"]["code"] != "") == ("failed", True)
    wait_until(lambda: (site.qos(name)["profile"], site.qos(name)["state"]) == ("QOS_L", "available"), 60.0)
    assert [each["profile"] for each in sessions_of(site, name)] == ["QOS_L"]


def test_a_refused_removal_leaves_the_device_as_it_is(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.behave(fail_status=403)
    assert site.api.delete(f"/devices/{site.gpsi(name)}", params={"wait_s": 30}).status_code == 422
    assert site.device(name)["state"] == "onboarded"
    assert site.gpsi(name) in members(site)
    site.behave()
    site.done(site.api.delete(f"/devices/{site.gpsi(name)}", params={"wait_s": 30}))


def test_what_is_asked_for_after_a_removal_finds_no_device(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.behave(answer_delay_s=0.5)
    site.api.delete(f"/devices/{site.gpsi(name)}", params={"wait_s": 0})
    assert site.set_qos(name, wait_s=0.0).status_code == 409
    site.behave()
    wait_until(lambda: site.api.get(f"/devices/{site.gpsi(name)}").status_code == 404)
    assert sessions_of(site, name) == []


def test_who_follows_links_is_told_of_a_removal(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    seq = site.api.get("/links").raise_for_status().json()["seq"]
    site.done(site.api.delete(f"/devices/{site.gpsi(name)}", params={"wait_s": 30}))
    told = site.api.get("/links", params={"since": seq, "wait_s": 10}).raise_for_status().json()["links"]
    assert [(each["name"], each["removed"]) for each in told] == [(name, True)]


def test_a_device_cannot_have_the_address_of_another(site: DeviceSite, names: list[str]) -> None:
    site.onboard(names[0])
    address = site.known[names[0]]["ipv4_address"]
    new = {"gpsi": site.gpsi(names[1]), "name": names[1], "owner": "elsewhere", "ipv4_address": address}
    assert site.api.post("/devices", json=new).status_code == 409


def test_requests_after_a_kill_go_on_in_the_order_in_which_they_came(site: DeviceSite, names: list[str]) -> None:
    site.onboard(*names)
    site.behave(answer_delay_s=1.0)
    for name in names:
        site.set_qos(name, "QOS_S", wait_s=0.0)
        site.api.delete(f"/devices/{site.gpsi(name)}/qos", params={"wait_s": 0})
        site.set_qos(name, "QOS_E", wait_s=0.0)
    site.kill_service()
    site.behave()
    site.start_service()
    for name in names:
        wait_until(partial(has, site, name, "QOS_E", "available"), 30.0)
        assert [each["profile"] for each in sessions_of(site, name)] == ["QOS_E"]


def test_a_group_that_the_network_lost_is_made_again_with_all_who_were_in_it(
    site: DeviceSite, names: list[str]
) -> None:
    site.onboard(*names)
    group = f"lost_{names[0]}"
    site.done(site.api.post("/groups", json={"name": group, "owner": OWNER}, params={"wait_s": 30}))
    everybody = {"add": [site.gpsi(name) for name in names]}
    site.done(site.api.patch(f"/groups/{group}", json=everybody, params={"wait_s": 30}))
    ref = site.api.get(f"/groups/{group}").json()["network_id"]
    site.remove_group(ref)
    wait_until(lambda: site.api.get(f"/groups/{group}").json()["network_id"] not in (ref, None), 60.0)
    renewed = site.api.get(f"/groups/{group}").json()["network_id"]
    found = [each for network_id, each in site.groups().items() if network_id in renewed]
    assert found == [{site.gpsi(name) for name in names}]
    site.done(site.api.delete(f"/groups/{group}", params={"wait_s": 30}))


@camara_alone
def test_a_device_that_the_network_does_not_know_is_refused_and_can_be_tried_again(site: DeviceSite) -> None:
    new = {"gpsi": "msisdn-999000111222", "name": "stranger", "owner": OWNER}
    for _ in range(2):
        answer = site.api.post("/devices", json=new, params={"wait_s": 30})
        assert answer.status_code == 422
        assert answer.json()["network"]["code"] == "IDENTIFIER_NOT_FOUND"
    told = site.api.get(f"/devices/{new['gpsi']}").raise_for_status().json()
    assert (told["state"], told["reason"]["code"]) == ("refused", "IDENTIFIER_NOT_FOUND")
    assert new["gpsi"] not in members(site)
    site.done(site.api.delete(f"/devices/{new['gpsi']}", params={"wait_s": 30}))


def test_notifications_that_come_twice_and_in_the_wrong_order_change_nothing(
    site: DeviceSite, names: list[str]
) -> None:
    name = names[0]
    site.onboard(name)
    site.behave(notify={"double": True, "reorder": True})
    site.done(site.set_qos(name))
    site.done(site.api.delete(f"/devices/{site.gpsi(name)}/qos", params={"wait_s": 30}))
    site.done(site.set_qos(name, "QOS_E"))
    site.behave()
    wait_until(lambda: site.simulation()["notifications"]["waiting"] == 0)
    assert (site.qos(name)["profile"], site.qos(name)["state"]) == ("QOS_E", "available")
    assert [each["profile"] for each in sessions_of(site, name)] == ["QOS_E"]


@camara_alone
def test_callbacks_that_are_lost_are_made_up_for_by_asking(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.behave(notify={"lose_share": 1.0}, grant_delay_s=1.0)
    site.onboard(name)
    assert site.device(name)["state"] == "onboarded"
    site.done(site.set_qos(name, duration_s=600))
    assert site.qos(name)["state"] == "available"
    [session] = sessions_of(site, name)
    site.network.post(f"/simulation/sessions/{session['id']}/terminate").raise_for_status()
    wait_until(lambda: site.qos(name)["state"] == "ended", 30.0)


def test_a_network_that_answers_late_is_waited_for(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.behave(answer_delay_s=1.5, grant_delay_s=1.5)
    answer = site.set_qos(name, wait_s=0.2)
    assert answer.status_code == 202
    operation = site.api.get(answer.headers["Location"].removeprefix("/api/v1"), params={"wait_s": 30}).json()
    assert operation["state"] == "succeeded"
    assert len(sessions_of(site, name)) == 1


def test_a_network_that_fails_for_a_while_is_asked_again_and_does_it_once(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    site.behave(fail_status=503)
    answer = site.set_qos(name, wait_s=1.5)
    assert answer.status_code == 202
    site.behave()
    operation = site.api.get(answer.headers["Location"].removeprefix("/api/v1"), params={"wait_s": 30}).json()
    assert operation["state"] == "succeeded"
    assert len(sessions_of(site, name)) == 1


def test_a_service_that_is_killed_goes_on_with_what_was_under_way(site: DeviceSite, names: list[str]) -> None:
    site.onboard(*names)
    site.behave(grant_delay_s=2.0)
    answer = site.set_qos(names[0], wait_s=0.0)
    assert answer.status_code == 202
    site.kill_service()
    site.behave()
    site.start_service()
    operation = site.api.get(answer.headers["Location"].removeprefix("/api/v1"), params={"wait_s": 30}).json()
    assert operation["state"] == "succeeded", operation
    assert site.qos(names[0])["state"] == "available"
    assert len(sessions_of(site, names[0])) == 1


def test_a_request_that_is_sent_again_with_its_key_is_carried_out_once(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    wanted = {"profile": "QOS_L", "server_ipv4": SERVER, "duration_s": 600}
    path, key = f"/devices/{site.gpsi(name)}/qos", {"Idempotency-Key": f"again-{name}"}
    answers = [site.api.put(path, json=wanted, headers=key, params={"wait_s": 30}) for _ in range(2)]
    assert len({each.json()["id"] for each in answers}) == 1
    other = site.api.put(path, json={**wanted, "duration_s": 700}, headers=key)
    assert other.status_code == 409


def test_who_does_not_know_the_secret_of_a_callback_is_nobody(site: DeviceSite) -> None:
    name = "pmu0"
    site.onboard(name)
    site.done(site.set_qos(name))
    secret = "0" * 64
    headers = {"Content-Type": "application/json"}
    answer = site.api.post(f"/callbacks/{site.callback_of(name)}/{secret}", content=b"{}", headers=headers)
    assert answer.status_code == 404


def test_what_was_done_stands_in_the_audit_log(site: DeviceSite, names: list[str]) -> None:
    name = names[0]
    site.onboard(name)
    told = site.api.get("/audit", params={"limit": 5}).raise_for_status().json()["audit"]
    assert [(each["action"], each["outcome"]) for each in told[:2]] == [("onboard", "succeeded"), ("onboard", "asked")]


def test_a_body_that_is_no_text_is_refused(site: DeviceSite) -> None:
    answer = site.api.post("/devices", content=b'{"name": "\xff"}', headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (400, "the body is not UTF-8")


@pytest.mark.parametrize("wrong", [{"name": "pmu0\n"}, {"ipv4_address": "10.64.0.01"}, {"gpsi": "msisdn-4917012345\n"}])
def test_names_and_addresses_have_one_way_to_be_written(site: DeviceSite, wrong: dict[str, str]) -> None:
    new = {"gpsi": "msisdn-4917012345", "name": "x", "owner": OWNER, "ipv4_address": "10.64.0.250", **wrong}
    assert site.api.post("/devices", json=new).status_code == 400


def test_bad_requests_are_refused_with_what_is_wrong(site: DeviceSite) -> None:
    wrong: list[tuple[str, str, Any]] = [
        ("POST", "/devices", {"gpsi": "pmu7", "name": "x", "owner": OWNER}),
        ("POST", "/devices", {"gpsi": "msisdn-491", "name": "x"}),
        ("POST", "/devices", {"gpsi": "msisdn-4917012345", "name": "x", "owner": OWNER, "more": 1}),
        ("POST", "/groups", {"name": "../etc", "owner": OWNER}),
        ("GET", "/devices/msisdn-4917012345/link?parameters=weather", None),
    ]
    for method, path, body in wrong:
        answer: httpx.Response = site.api.request(method, path, json=body)
        assert answer.status_code in (400, 404), (path, answer.text)
        assert answer.headers["content-type"].startswith("application/problem+json")
