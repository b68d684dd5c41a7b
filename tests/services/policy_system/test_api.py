from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from broker import wait_until
from served_policies import GROUP, KeyPair, ServedPolicies, b64

TRIGGER = {"kind": "trigger", "fields": {"onset": "0.05 Hz/s"}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPolicies]:
    with ServedPolicies(tmp_path_factory.mktemp("policy")) as made:
        made.make_group()
        yield made


@pytest.fixture(scope="module")
def reader(served: ServedPolicies) -> Iterator[httpx.Client]:
    key = served.make_service("reader")
    with served.client(key.token("reader")) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(served: ServedPolicies) -> Iterator[httpx.Client]:
    key = served.make_service("stranger", role=None)
    with served.client(key.token("stranger")) as client:
        yield client


@pytest.fixture
def policy(served: ServedPolicies, request: pytest.FixtureRequest) -> str:
    """A policy of its own for each test."""
    name = f"p_{abs(hash(request.node.nodeid)) % 10**9}"
    served.save(name, TRIGGER)
    return name


def path_of(policy: str, group: str = GROUP) -> str:
    return f"/api/v1/policies/{b64(group)}/{b64(policy)}"


def query(*policies: str, group: str = GROUP) -> str:
    return f"/api/v1/policies?policy_group={b64(group)}" + "".join(f"&policy_id={b64(each)}" for each in policies)


def test_a_reader_gets_the_policies_it_asks_for_by_id_and_group(reader: httpx.Client, policy: str) -> None:
    answer = reader.get(query(policy, "not_there"))
    assert answer.status_code == 200
    (found,) = answer.json()["policies"]
    assert (found["type"], found["policy_id"], found["policy_group"], found["version"]) == ("policy", policy, GROUP, 1)
    assert found["fields"] == {"onset": "0.05 Hz/s"}
    one = reader.get(f"/api/v1/policy?policy_id={b64(policy)}&policy_group={b64(GROUP)}")
    assert one.json() == found


def test_an_id_may_be_padded(reader: httpx.Client, served: ServedPolicies) -> None:
    served.save("four", TRIGGER)
    assert reader.get(f"/api/v1/policies?policy_group={b64(GROUP)}&policy_id=Zm91cg==").json()["policies"]


def test_who_knows_the_newest_version_gets_no_body(reader: httpx.Client, served: ServedPolicies, policy: str) -> None:
    first = reader.get(query(policy))
    again = reader.get(query(policy), headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    served.save(policy, {**TRIGGER, "fields": {"onset": "0.06 Hz/s"}}, based_on=1)
    changed = reader.get(query(policy), headers={"If-None-Match": first.headers["etag"]})
    assert changed.json()["policies"][0]["version"] == 2


def test_a_policy_without_a_right_to_it_looks_as_if_it_were_not_there(stranger: httpx.Client, policy: str) -> None:
    for name in (policy, "not_there"):
        assert stranger.get(query(name)).json() == {"policies": []}
        one = stranger.get(f"/api/v1/policy?policy_id={b64(name)}&policy_group={b64(GROUP)}")
        assert one.status_code == 404
        for part in ("", "/versions", "/versions/1", "/readers", "/effects", "/grants", "/audit"):
            assert stranger.get(path_of(name) + part).text == one.text
    assert len({stranger.get(query(name)).headers["etag"] for name in (policy, "not_there")}) == 1


def test_without_policy_ids_all_readable_ones_of_the_group_are_given(
    reader: httpx.Client, stranger: httpx.Client, policy: str
) -> None:
    found = {each["policy_id"] for each in reader.get(query()).json()["policies"]}
    assert policy in found
    assert stranger.get(query()).json() == {"policies": []}


def test_the_policies_of_an_asset_are_found_by_its_id(served: ServedPolicies, reader: httpx.Client) -> None:
    for asset in ("bess_1", "bess_2"):
        served.save(f"limits_of_{asset}", {**TRIGGER, "asset_id": asset})
    answer = reader.get(f"{query()}&asset_id={b64('bess_2')}")
    assert [each["policy_id"] for each in answer.json()["policies"]] == ["limits_of_bess_2"]
    assert reader.get(f"{query()}&asset_id=..%2F..").status_code == 400
    assert reader.get(f"{query()}&asset_id={b64('bess_3')}").json() == {"policies": []}


def test_grants_take_the_place_of_roles(
    served: ServedPolicies, reader: httpx.Client, stranger: httpx.Client, policy: str
) -> None:
    grants = [{"subject_kind": "user", "subject": "stranger", "right": "read"}]
    assert served.admin.put(path_of(policy) + "/grants", json=grants).status_code == 200
    assert reader.get(query(policy)).json() == {"policies": []}
    assert stranger.get(query(policy)).json()["policies"]
    assert stranger.put(path_of(policy), json={"document": TRIGGER, "based_on": 1}).status_code == 403
    served.admin.put(path_of(policy) + "/grants", json=[{**grants[0], "right": "edit"}])
    assert stranger.put(path_of(policy), json={"document": TRIGGER, "based_on": 1}).status_code == 201
    assert reader.put(path_of(policy) + "/grants", json=[]).status_code == 404
    assert stranger.put(path_of(policy) + "/grants", json=[]).status_code == 403


def test_a_change_of_grants_that_others_changed_since_they_were_read_is_refused(
    served: ServedPolicies, policy: str
) -> None:
    path = path_of(policy) + "/grants"
    grants = [[{"subject_kind": "user", "subject": name, "right": "read"}] for name in ("reader", "stranger")]
    read = {"If-Match": served.admin.get(path).headers["etag"]}
    assert served.admin.put(path, json=grants[0], headers=read).status_code == 200
    late = served.admin.put(path, json=grants[1], headers=read)
    assert (late.status_code, late.headers["content-type"]) == (412, "application/problem+json")
    assert served.admin.get(path).json() == grants[0]
    again = {"If-Match": served.admin.get(path).headers["etag"]}
    assert served.admin.put(path, json=grants[1], headers=again).status_code == 200


def test_what_a_change_of_grants_does_is_said_and_opening_to_the_group_again_is_confirmed(
    served: ServedPolicies,
) -> None:
    served.make_group("six")
    for name in ("anna", "bob", "carl"):
        served.make_service(name, group="six")
    served.save("p", TRIGGER, group="six")
    path = path_of("p", "six") + "/grants"
    anna = [{"subject_kind": "user", "subject": "anna", "right": "read"}]
    first = served.admin.put(path, json=anna).json()
    assert first["grants"] == anna
    assert first["says"] == (
        "From now on only anna may read it, and nobody may edit it, beside administrators; 2 others no longer do."
    )
    more = [*anna, {"subject_kind": "group", "subject": GROUP, "right": "edit"}]
    second = served.admin.put(path, json=more).json()["says"]
    assert second.startswith(f"From now on only anna and group {GROUP} may read it, and group {GROUP} may edit it")
    assert second.endswith("beside administrators.")
    refused = served.admin.put(path, json=[])
    assert refused.status_code == 409
    assert "confirm that by `everybody`" in refused.json()["detail"]
    assert served.admin.put(path, json=anna, params={"everybody": "true"}).status_code == 409
    assert len(served.admin.get(path).json()) == 2
    opened = served.admin.put(path, json=[], params={"everybody": "true"}).json()
    assert opened["grants"] == []
    assert opened["says"].startswith("From now on the roles in group 'six' decide: 3 users may read it")
    assert opened["says"] in served.admin.get(path_of("p", "six") + "/audit").json()[0]["detail"]


def test_a_grant_to_a_group_reaches_its_members(served: ServedPolicies, stranger: httpx.Client, policy: str) -> None:
    served.make_group("traders")
    grant = [{"subject_kind": "group", "subject": "traders", "right": "read"}]
    served.admin.put(path_of(policy) + "/grants", json=grant)
    assert stranger.get(query(policy)).json() == {"policies": []}
    served.admin.put("/api/v1/groups/traders/members/stranger", json={"role": "reader"})
    assert stranger.get(query(policy)).json()["policies"]
    served.admin.delete("/api/v1/groups/traders/members/stranger")
    assert stranger.get(query(policy)).json() == {"policies": []}


def test_saving_needs_the_role_of_an_editor(served: ServedPolicies, reader: httpx.Client, policy: str) -> None:
    body = {"document": TRIGGER, "based_on": 1}
    assert reader.put(path_of(policy), json=body).status_code == 403
    assert reader.put(path_of("brand_new"), json={**body, "based_on": 0}).status_code == 403
    assert reader.delete(path_of(policy), params={"based_on": 1}).status_code == 403
    key = served.make_service("editor", "editor")
    with served.client(key.token("editor")) as editor:
        assert editor.put(path_of(policy), json={**body, "comment": "why"}).json()["saved_by"] == "editor"
        assert editor.put(path_of("elsewhere", "other"), json={**body, "based_on": 0}).status_code == 404


def test_who_may_not_save_learns_nothing_of_what_is_there(stranger: httpx.Client, policy: str) -> None:
    body = {"document": TRIGGER, "based_on": 0}
    answers = {stranger.put(path_of(name), json=body).text for name in (policy, "not_there")}
    answers |= {stranger.delete(path_of(name), params={"based_on": 1}).text for name in (policy, "not_there")}
    assert len(answers) == 1


def test_who_is_blocked_gets_no_empty_answer_that_would_undo_the_last_good_one(
    served: ServedPolicies, policy: str
) -> None:
    key = served.make_service("outcast")
    with served.client(key.token("outcast")) as outcast:
        served.admin.put(f"/api/v1/groups/{GROUP}/members/outcast", json={"role": "blocked"})
        assert outcast.get(query(policy)).status_code == 403
        grant = [{"subject_kind": "user", "subject": "outcast", "right": "edit"}]
        served.admin.put(path_of(policy) + "/grants", json=grant)
        assert outcast.get(path_of(policy)).status_code == 404


def test_two_rights_of_one_subject_are_refused(served: ServedPolicies, policy: str) -> None:
    grants = [{"subject_kind": "user", "subject": "reader", "right": right} for right in ("read", "edit")]
    assert served.admin.put(path_of(policy) + "/grants", json=grants).status_code == 409


def test_a_policy_under_grants_is_not_named_in_events_of_the_group(
    served: ServedPolicies, reader: httpx.Client
) -> None:
    rule = {"name": "hidden_rule", "effect": "act", "then": {"do": "run_service", "service": "x"}}
    served.save("hidden", {"kind": "trigger", "rules": [rule]})
    grants = [{"subject_kind": "user", "subject": "admin", "right": "read"}]
    served.admin.put(path_of("hidden") + "/grants", json=grants)
    key = served.make_service("meter", "reporter")
    with served.client(key.token("meter")) as meter:
        report = {"group": GROUP, "asset": "G1", "values": {"frequency_hz": 50.0}}
        told = meter.post("/api/v1/events", json={"reports": [report]}).json()
        assert {"policy": "", "version": 0, "rule": "", "why": "", "did": "acted"} in told
    assert "hidden" not in reader.get("/api/v1/events").text
    assert "hidden_rule" in served.admin.get("/api/v1/events").text
    served.admin.delete(path_of("hidden"), params={"based_on": 1})


def test_a_wrong_document_is_told_by_place_and_a_late_one_as_a_conflict(served: ServedPolicies, policy: str) -> None:
    wrong = {"kind": "operational_bounds", "fields": {"a": "1 kW", "b": "fast"}}
    answer = served.admin.put(path_of(policy), json={"document": wrong, "based_on": 1})
    assert answer.status_code == 422
    assert [each["place"] for each in answer.json()["errors"]] == ["fields.b"]
    late = served.admin.put(path_of(policy), json={"document": TRIGGER, "based_on": 0})
    assert late.status_code == 409
    assert "version 1 is the newest" in late.json()["detail"]


def test_a_withdrawn_policy_is_not_given_and_keeps_its_versions(
    served: ServedPolicies, reader: httpx.Client, policy: str
) -> None:
    known = reader.get(query(policy)).headers["etag"]
    assert served.admin.delete(path_of(policy), params={"based_on": 1, "comment": "over"}).status_code == 200
    answer = reader.get(query(policy), headers={"If-None-Match": known})
    assert answer.json() == {"policies": []}
    versions = served.admin.get(path_of(policy) + "/versions").json()
    assert [(each["version"], each["withdrawn"]) for each in versions] == [(2, True), (1, False)]
    changes = served.admin.get(path_of(policy) + "/changes", params={"before": 1, "after": 2}).json()
    assert changes == [{"place": "withdrawn", "kind": "changed", "before": False, "after": True}]


def test_who_reads_a_policy_and_what_it_changed_can_be_seen(
    served: ServedPolicies, reader: httpx.Client, stranger: httpx.Client, policy: str
) -> None:
    for _ in range(3):
        reader.get(query(policy))
    (seen,) = served.admin.get(path_of(policy) + "/readers").json()
    assert (seen["user"], seen["version"], seen["count"]) == ("reader", 1, 3)
    effect = {
        "policy_group": GROUP, "policy_id": policy, "version": 1, "site": "s", "flow": "frequency_events",
        "node": "event", "setting": "onset", "before": "0.02 Hz/s", "after": "0.05 Hz/s", "time_ns": 1,
    }  # fmt: skip
    assert reader.post("/api/v1/effects", json={"effects": [effect]}).json() == {"kept": 1, "refused": []}
    (told,) = served.admin.get(path_of(policy) + "/effects").json()
    assert told == {"user": "reader", "effect": {**effect, "refused": None}}


def test_effects_are_taken_from_members_who_may_read_the_policy_and_of_versions_that_are_there(
    served: ServedPolicies, reader: httpx.Client, stranger: httpx.Client, policy: str
) -> None:
    served.save("shut", TRIGGER)
    only = [{"subject_kind": "user", "subject": "stranger", "right": "read"}]
    served.admin.put(path_of("shut") + "/grants", json=only)

    def told(name: str, version: int = 1) -> dict[str, Any]:
        words = dict.fromkeys(("site", "flow", "node", "setting", "before", "after"), "x")
        return {"policy_group": GROUP, "policy_id": name, "version": version, "time_ns": 1, **words}

    sent = {"effects": [told("shut"), told(policy), told(policy, 2), told("not_there")]}
    answer = reader.post("/api/v1/effects", json=sent).json()
    assert (answer["kept"], [each["at"] for each in answer["refused"]]) == (1, [0, 2, 3])
    assert len({each["why"] for each in answer["refused"]}) == 1
    assert stranger.post("/api/v1/effects", json=sent).json()["kept"] == 0  # may read one, and is no member
    assert len(served.admin.get(path_of(policy) + "/effects").json()) == 1
    assert served.admin.get(path_of("shut") + "/effects").json() == []
    many = {"effects": [told("not_there")] * 500}
    answers = [reader.post("/api/v1/effects", json=many) for _ in range(6)]
    assert [answers[0].status_code, answers[-1].status_code] == [200, 429]


def test_everything_that_is_done_stands_in_the_audit_log(served: ServedPolicies, policy: str) -> None:
    (entry,) = served.admin.get(path_of(policy) + "/audit").json()
    assert (entry["actor"], entry["action"], entry["object"]) == ("admin", "save_policy", f"{GROUP}/{policy}")
    entries = served.admin.get("/api/v1/audit", params={"limit": 3}).json()
    assert len(entries) == 3
    older = served.admin.get("/api/v1/audit", params={"limit": 1, "before": entries[-1]["id"]}).json()
    assert older[0]["id"] == entries[-1]["id"] - 1
    proof = served.admin.get("/api/v1/audit/proof").json()
    assert proof == {"intact": True, "head": proof["head"], "first_forged": None, "why": ""}
    assert proof["head"].startswith(f"{served.admin.get('/api/v1/audit', params={'limit': 1}).json()[0]['id']}:")
    served.save(policy, TRIGGER, based_on=1)
    for head, is_intact in (
        (proof["head"], True),
        (f"{entry['id']}:{'0' * 64}", False),
        (f"{10**9}:{'0' * 64}", False),
    ):
        assert served.admin.get("/api/v1/audit/proof", params={"head": head}).json()["intact"] is is_intact
    assert served.admin.get("/api/v1/audit/proof", params={"head": "7"}).status_code == 400
    assert "audit log: head " in served.log.read_text()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/users/"),
        ("PUT", "/api/v1/users/eve"),
        ("POST", "/api/v1/users/admin/secret"),
        ("POST", "/api/v1/users/admin/disable"),
        ("POST", "/api/v1/users/admin/enable"),
        ("POST", "/api/v1/users/admin/revoke"),
        ("PUT", "/api/v1/groups/new"),
        ("PUT", f"/api/v1/groups/{GROUP}/members/reader"),
        ("DELETE", f"/api/v1/groups/{GROUP}/members/reader"),
        ("GET", "/api/v1/audit"),
        ("GET", "/api/v1/audit/proof"),
        ("POST", "/api/v1/keys"),
    ],
)
def test_what_is_for_administrators_is_refused_to_others(reader: httpx.Client, method: str, path: str) -> None:
    bodies: dict[str, Any] = {"members": {"role": "manager"}, "disable": {"why": "x"}}
    body: Any = next((each for word, each in bodies.items() if word in path), {})
    answer = reader.request(method, path, json=None if method in ("GET", "DELETE") else body)
    assert answer.status_code == 403


def test_a_manager_gives_roles_in_the_own_group_only(served: ServedPolicies) -> None:
    served.make_group("west")
    key = served.make_service("boss", "manager", "west")
    served.make_service("worker", role=None)
    with served.client(key.token("boss")) as boss:
        assert boss.put("/api/v1/groups/west/members/worker", json={"role": "editor"}).status_code == 200
        assert boss.put(f"/api/v1/groups/{GROUP}/members/worker", json={"role": "reader"}).status_code == 403
        assert [each["name"] for each in boss.get("/api/v1/groups").json()] == ["west"]


def test_a_client_gets_a_token_for_its_secret_and_loses_it(served: ServedPolicies) -> None:
    served.make_service("plain")
    shown = served.admin.post("/api/v1/users/plain/secret").json()
    form = {"grant_type": "client_credentials"}
    answer = httpx.post(f"{served.url}/token", data={**form, **shown})
    assert answer.headers["cache-control"] == "no-store"
    token = answer.json()["access_token"]
    with served.client(token) as client:
        assert client.get("/api/v1/users/me").json()["name"] == "plain"
        assert client.post("/revoke", data={"token": token}).status_code == 200
        assert client.get("/api/v1/users/me").status_code == 401
    basic = httpx.post(f"{served.url}/token", data=form, auth=("plain", shown["client_secret"]))
    assert basic.status_code == 200
    wrong = httpx.post(f"{served.url}/token", data={**form, **shown, "client_secret": "wrong"})
    assert (wrong.status_code, wrong.json()) == (401, {"error": "invalid_client"})
    assert httpx.post(f"{served.url}/token", data=shown).json() == {"error": "unsupported_grant_type"}


def test_nobody_can_revoke_the_token_of_another(served: ServedPolicies, reader: httpx.Client) -> None:
    key = served.make_service("victim")
    token = key.token("victim")
    assert reader.post("/revoke", data={"token": token}).status_code == 200
    with served.client(token) as victim:
        assert victim.get("/api/v1/users/me").status_code == 200


def test_schemas_of_all_kinds_are_served(reader: httpx.Client) -> None:
    assert reader.get("/api/v1/schemas/trigger").json()["$ref"]
    assert reader.get("/api/v1/schemas/x").status_code == 404


def test_health_is_told_to_everybody(served: ServedPolicies) -> None:
    assert httpx.get(f"{served.url}/health/live").json() == {"status": "live"}
    assert httpx.get(f"{served.url}/health/ready").json()["status"] == "ready"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_saved_is_there_after_a_restart(tmp_path: Path, how: signal.Signals) -> None:
    with ServedPolicies(tmp_path / "data") as served:
        served.make_group()
        served.save("kept", TRIGGER)
        code = served.stop(how)
        assert code == (0 if how == signal.SIGTERM else -signal.SIGKILL)
        served.start()
        key = served.client(served.password_token("admin", "correct-horse-battery-staple"))
        with key as admin:
            assert admin.get(query("kept")).json()["policies"][0]["version"] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--port", "99999"), "from 0 to 65535"),
        (("--certificate", "x.pem"), "must be given together"),
        (("--bus", "mqtt://user:hunter2@broker"), "--bus: "),
        (("--database", "mysql://a:hunter2@b/c"), "known are sqlite"),
        (("--host", "203.0.113.1"), "cannot listen on 203.0.113.1"),
    ],
)
def test_a_service_that_cannot_start_says_why(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(AssertionError) as raised:
        ServedPolicies(tmp_path, *arguments).start()
    assert told in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_listening_beyond_this_computer_without_tls_is_warned_of(tmp_path: Path) -> None:
    served = ServedPolicies(tmp_path, "--host", "0.0.0.0")
    served.start()
    served.stop()
    assert [told["event"] for told in served.told] == ["administrator", "warning", "started"]


def test_two_instances_on_one_database_serve_the_same(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'shared.db'}"
    with ServedPolicies(tmp_path / "one", database=database) as first:
        first.make_group()
        first.save("shared", TRIGGER)
        key = first.make_service("site")
        second = ServedPolicies(tmp_path / "one", database=database)
        with second, second.client(key.token("site")) as client:
            assert client.get(query("shared")).json()["policies"][0]["version"] == 1
            first.save("shared", {**TRIGGER, "fields": {"onset": "0.07 Hz/s"}}, based_on=1)
            wait_until(lambda: client.get(query("shared")).json()["policies"][0]["version"] == 2)
            first.admin.post("/api/v1/users/site/disable", json={"why": "lost"})
            wait_until(lambda: client.get(query("shared")).status_code == 401)


def test_a_key_pair_of_the_tests_is_no_key_of_the_service(served: ServedPolicies) -> None:
    with served.client(KeyPair().token("admin")) as client:
        assert client.get("/api/v1/users/me").status_code == 401
