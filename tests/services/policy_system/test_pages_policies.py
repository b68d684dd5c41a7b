from __future__ import annotations

import json
import re
from html import unescape

import pytest
from policy_pages import BOUNDS, EFFECT, TRIGGER, Person, edit_fields, person
from served_policies import GROUP, PASSWORD, ServedPolicies, b64


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("onset", {"list_trigger"}),
        ("0.02 Hz", {"list_trigger"}),
        ("list_trigger", {"list_trigger"}),
        ("TRIGGER", {"list_trigger"}),
        ("operational bounds", {"list_bounds"}),
        (GROUP, {"list_trigger", "list_bounds"}),
        ("feeder_3", {"list_bounds"}),
        ("Band of", {"list_bounds"}),
    ],
)
def test_search_looks_through_all_that_a_policy_says(
    service: ServedPolicies, admin: Person, asked: str, expected: set[str]
) -> None:
    service.admin.put(f"/api/v1/policies/{b64(GROUP)}/{b64('list_trigger')}", json={"document": TRIGGER, "based_on": 0})
    service.admin.put(
        f"/api/v1/policies/{b64(GROUP)}/{b64('list_bounds')}",
        json={"document": {**BOUNDS, "asset_id": "feeder_3"}, "based_on": 0},
    )
    found = set(re.findall(r"/policies/substation_12/(list_\w+)", admin.get("/policies", params={"q": asked}).text))
    assert found == expected


def test_the_list_shows_who_reads_a_policy_now_and_what_was_refused(service: ServedPolicies, admin: Person) -> None:
    service.save("followed", TRIGGER)
    key = service.make_service("flow_site", "reporter")
    refused = "0.02 Hz/s is above the most that the flow allows"
    effect = {**EFFECT, "policy_id": "followed", "refused": refused}
    with service.client(key.token("flow_site")) as flow:
        assert flow.get("/api/v1/policy", params={"policy_id": b64("followed"), "policy_group": b64(GROUP)}).is_success
        assert flow.post("/api/v1/effects", json={"effects": [effect]}).is_success
    listed = admin.get("/policies", params={"q": "followed"}).text
    assert "flow_site" in listed
    assert "1 refused" in listed
    page = admin.get(f"/policies/{GROUP}/followed").text
    assert refused in page
    with service.client(key.token("flow_site")) as flow:
        assert flow.post("/api/v1/effects", json={"effects": [{**effect, "refused": None}]}).is_success
    assert "refused</span>" not in admin.get("/policies", params={"q": "followed"}).text


def test_a_page_of_people_does_not_count_as_reading(service: ServedPolicies, admin: Person) -> None:
    service.save("looked_at", BOUNDS)
    admin.get(f"/policies/{GROUP}/looked_at")
    assert "Nobody read it yet." in admin.get(f"/policies/{GROUP}/looked_at").text


def test_a_new_policy_is_shown_before_it_is_saved(service: ServedPolicies, admin: Person) -> None:
    fields = edit_fields(TRIGGER, do="preview", group=GROUP, policy_id="made_here")
    preview = admin.fill("/policies/new?kind=trigger", fields)
    assert preview.status_code == 200
    assert "Nothing is saved yet." in preview.text
    assert admin.get(f"/policies/{GROUP}/made_here").status_code == 404
    saved = admin.fill("/policies/new?kind=trigger", {**fields, "do": "save", "comment": "why not"})
    assert saved.headers["location"] == f"/policies/{GROUP}/made_here?done=saved"
    page = admin.get(f"/policies/{GROUP}/made_here")
    assert "why not" in page.text
    assert "on measured while rocof_hz_per_s is above 0.5 Hz/s" in page.text


def test_a_new_policy_takes_no_id_that_is_taken_or_none(service: ServedPolicies, admin: Person) -> None:
    service.save("taken", BOUNDS)
    for policy_id, wrong in (
        ("taken", "'taken' is taken in this group"),
        ("no id", "begins with a letter"),
        ("", "begins"),
    ):
        fields = edit_fields(BOUNDS, do="save", group=GROUP, policy_id=policy_id)
        answer = admin.fill("/policies/new?kind=operational_bounds", fields)
        assert answer.status_code == 422
        assert wrong in unescape(answer.text)
        assert 'href="#f-policy_id"' in answer.text


def test_an_error_is_told_at_its_field_and_nothing_that_was_typed_is_lost(
    service: ServedPolicies, admin: Person
) -> None:
    service.save("with_errors", TRIGGER)
    typed = {
        "about": "Much <b>text</b> & more",
        "fields.7.name": "added_field",
        "fields.7.value": "3 parsec",
        "rules.0.when.since": "7 o'clock",
        "rules.0.when.users": "one\ntwo",
    }
    fields = {**edit_fields(TRIGGER, 1), **typed}
    answer = admin.fill(f"/policies/{GROUP}/with_errors/edit", fields)
    assert answer.status_code == 422
    assert 'href="#f-rules-0-when-since"' in answer.text
    assert re.search(r'id="f-rules-0-when-since"[^>]*aria-invalid="true"', answer.text)
    text = unescape(answer.text)
    assert "a time of day, such as 06:00; got '7 o'clock'" in text
    for each in typed.values():
        assert each in text
    assert "<b>text</b>" not in answer.text


def test_rows_are_added_removed_and_moved_without_a_script(service: ServedPolicies, admin: Person) -> None:
    service.save("rows", TRIGGER)
    path = f"/policies/{GROUP}/rows/edit"
    more = admin.fill(path, edit_fields(TRIGGER, 1, do="add:fields"))
    assert 'name="fields.1.name"' in more.text
    rule = admin.fill(path, edit_fields(TRIGGER, 1, do="add:rules"))
    assert 'name="rules.1.name"' in rule.text
    less = admin.fill(path, edit_fields(TRIGGER, 1, do="remove:rules.0"))
    assert 'name="rules.0.name"' not in less.text
    odd = admin.fill(path, edit_fields(TRIGGER, 1, do="add:__class__"))
    assert odd.status_code == 200


def test_the_form_and_the_json_show_the_same_document(service: ServedPolicies, admin: Person) -> None:
    service.save("as_json", TRIGGER)
    path = f"/policies/{GROUP}/as_json/edit"
    shown = admin.fill(path, edit_fields(TRIGGER, 1, do="as_json"))
    text = re.search(r'<textarea id="f-json"[^>]*>\n(.*?)</textarea>', shown.text, re.DOTALL)
    assert text is not None
    document = json.loads(unescape(text[1]))
    assert document["fields"] == TRIGGER["fields"]
    document["fields"]["onset"] = "0.07 Hz/s"
    fields = {"mode": "json", "json": json.dumps(document), "based_on": "1"}
    assert "0.07 Hz/s" in admin.fill(path, {**fields, "do": "as_form"}).text
    assert admin.fill(path, {**fields, "do": "save"}).status_code == 303
    assert "0.07 Hz/s" in admin.get(f"/policies/{GROUP}/as_json").text


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('{"kind": "trigger",\n  oops}', "line 2, column 3"),
        ('{"kind": "trigger", "fields": {"a": "1 parsec"}}', "fields.a: '1 parsec' is no quantity"),
        ('{"kind": "sharing", "rules": [{"name": "a", "effect": "permit"}]}', "kind: it stays 'trigger'"),
        ('{"kind": "trigger", "unknown": 1}', "unknown"),
        ("[" * 60 + "]" * 60, "nested deeper"),
        ("", "line 1, column 1"),
    ],
)
def test_json_that_is_no_policy_is_told_and_kept(admin: Person, service: ServedPolicies, text: str, wrong: str) -> None:
    service.admin.put(f"/api/v1/policies/{b64(GROUP)}/{b64('bad_json')}", json={"document": TRIGGER, "based_on": 0})
    for do in ("preview", "as_form"):
        fields = {"mode": "json", "json": text, "based_on": "1", "do": do}
        answer = admin.fill(f"/policies/{GROUP}/bad_json/edit", fields)
        assert answer.status_code in (200, 422)
        assert wrong in unescape(answer.text)
        assert text in unescape(answer.text)


def test_who_saved_too_late_sees_both_versions_and_can_go_on(service: ServedPolicies, admin: Person) -> None:
    service.save("contested", BOUNDS)
    service.save("contested", {**BOUNDS, "fields": {"voltage_max": "1.07 pu"}}, based_on=1)
    mine = {**BOUNDS, "fields": {"voltage_max": "1.03 pu", "voltage_min": "0.97 pu"}}
    path = f"/policies/{GROUP}/contested/edit"
    answer = admin.fill(path, edit_fields(mine, 1, comment="mine"))
    assert answer.status_code == 409
    for value in ("1.05 pu", "1.07 pu", "1.03 pu", "0.97 pu"):
        assert value in answer.text
    assert "0.97 pu" not in admin.get(f"/policies/{GROUP}/contested").text
    hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', answer.text.rpartition("<form")[2])
    typed = re.findall(r'<textarea hidden name="([^"]+)"[^>]*>\n(.*?)</textarea>', answer.text, re.DOTALL)
    again = {name: unescape(value) for name, value in [*hidden, *typed]}
    assert again["based_on"] == "2"
    assert admin.post(path, data={**again, "do": "save", "comment": "mine"}).status_code == 303
    page = admin.get(f"/policies/{GROUP}/contested").text
    assert "version 3" in page
    assert "0.97 pu" in page


def test_two_versions_are_compared_in_words(service: ServedPolicies, admin: Person) -> None:
    service.save("compared", TRIGGER)
    changed = json.loads(json.dumps(TRIGGER))
    changed["fields"] = {"onset": "0.05 Hz/s"}
    changed["rules"][0]["when"] |= {"since": "06:00", "until": "22:00", "timezone": "Europe/Berlin"}
    service.save("compared", changed, based_on=1)
    page = admin.get(f"/policies/{GROUP}/compared/compare").text
    assert "Field onset" in page
    assert "<del>0.02 Hz/s</del>" in page
    assert "<ins>0.05 Hz/s</ins>" in page
    assert "each day 06:00 to 22:00 Europe/Berlin" in page
    back = admin.get(f"/policies/{GROUP}/compared/compare", params={"before": 2, "after": 1}).text
    assert "<del>0.05 Hz/s</del>" in back
    assert admin.get(f"/policies/{GROUP}/compared/compare", params={"before": 7}).status_code == 404


def test_a_policy_is_withdrawn_and_an_old_version_put_in_force_again(service: ServedPolicies, admin: Person) -> None:
    service.save("comes_back", BOUNDS)
    service.save("comes_back", {**BOUNDS, "fields": {"voltage_max": "1.07 pu"}}, based_on=1)
    path = f"/policies/{GROUP}/comes_back"
    assert admin.fill(f"{path}/withdraw", {"based_on": "2", "comment": "too wide"}).status_code == 303
    assert "comes_back" not in admin.get("/policies?show=in_force").text
    assert "comes_back" in admin.get("/policies?show=withdrawn").text
    assert admin.fill(f"{path}/restore", {"based_on": "2", "version": "1"}).status_code == 409
    assert admin.fill(f"{path}/restore", {"based_on": "3", "version": "1"}).status_code == 303
    query = {"policy_id": b64("comes_back"), "policy_group": b64(GROUP)}
    served = service.admin.get("/api/v1/policy", params=query).json()
    assert (served["version"], served["fields"]) == (4, BOUNDS["fields"])
    assert "version 1 again" in admin.get(path).text


def test_what_was_typed_is_there_again_after_the_session_ended(service: ServedPolicies, admin: Person) -> None:
    service.save("typed_long", BOUNDS)
    path = f"/policies/{GROUP}/typed_long/edit"
    with person(service, "jan") as jan:
        fields = {"csrf": jan.csrf(), **edit_fields({**BOUNDS, "about": "An hour of\nwork."}, 1, do="preview")}
        admin.fill("/users/jan/revoke")
        refused = jan.post(path, data=fields)
        assert refused.status_code == 401
        kept = re.findall(r'<textarea hidden name="(kept\.[^"]+)"[^>]*>\n(.*?)</textarea>', refused.text, re.DOTALL)
        sent = {name: unescape(value) for name, value in kept}
        assert "kept.csrf" not in sent
        secret = jan.post("/users", data={"name": "x", "password": "typed-before-the-end"})
        assert (secret.status_code, "typed-before-the-end" in secret.text) == (401, False)
        back = jan.post("/sign-in", data={"name": "jan", "password": PASSWORD, "then": path, **sent})
        assert back.status_code == 200
        typed = re.findall(r'<textarea hidden name="([^"]+)"[^>]*>\n(.*?)</textarea>', back.text, re.DOTALL)
        again = {name: unescape(value) for name, value in typed}
        preview = jan.fill(path, again)
        assert preview.status_code == 200
        assert "An hour of\nwork." in preview.text
