from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from policy_pages import BOUNDS, TRIGGER, Person, edit_fields, person
from served_policies import GROUP, PASSWORD, KeyPair, ServedPolicies, b64

from edgeflex_services.policy_system.pages_common import HERE, STATIC, safe_path

OTHER = "vpp"
LIVE = "live"
EFFECT = {
    "policy_group": GROUP,
    "version": 1,
    "site": "site_a",
    "flow": "frequency_events",
    "node": "event",
    "setting": "onset",
    "before": "0.01 Hz/s",
    "after": "0.02 Hz/s",
    "time_ns": 1_700_000_000_000_000_000,
}
PAGES = ("/policies", "/events", "/groups", "/users", "/audit", "/keys", "/account", "/policies/new")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPolicies]:
    with ServedPolicies(tmp_path_factory.mktemp("policy")) as started:
        started.make_group(GROUP)
        started.make_group(OTHER)
        started.make_group(LIVE)
        yield started


@pytest.fixture(scope="module")
def admin(service: ServedPolicies) -> Iterator[Person]:
    with Person(service.url) as client:
        yield client.sign_in()


def cookie_of(answer: httpx.Response) -> str:
    return answer.headers["set-cookie"].partition(";")[0].partition("=")[2]


# Signing in ---------------------------------------------------------------------------------------------------------


def test_who_is_not_signed_in_is_asked_to_and_comes_back_to_the_same_page(service: ServedPolicies) -> None:
    with Person(service.url) as client:
        answer = client.get("/policies?q=rocof&group=vpp")
        assert answer.status_code == 303
        then = httpx.URL(answer.headers["location"]).params["then"]
        signed_in = client.post("/sign-in", data={"name": "admin", "password": PASSWORD, "then": then})
        assert signed_in.headers["location"] == "/policies?q=rocof&group=vpp"


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(service: ServedPolicies) -> None:
    with Person(service.url) as client:
        cookie = client.post("/sign-in", data={"name": "admin", "password": PASSWORD}).headers["set-cookie"]
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert not any(part.startswith("domain") for part in parts)


def test_with_https_the_cookie_is_secure_and_bound_to_the_host(tmp_path: Path) -> None:
    from certificates import Authority

    authority = Authority(tmp_path)
    pair = authority.issue("server")
    options = ("--certificate", str(pair.certificate), "--key", str(pair.key), "--host", "localhost")
    service = ServedPolicies(tmp_path / "policy", *options)
    service.start()
    try:
        with httpx.Client(base_url=service.url, verify=False, headers={"Origin": service.url}) as client:
            answer = client.post("/sign-in", data={"name": "admin", "password": PASSWORD})
            assert answer.headers["set-cookie"].startswith("__Host-edgeflex_session=")
            assert "secure" in answer.headers["set-cookie"].lower()
            assert client.get("/policies").status_code == 200
    finally:
        service.stop()


def test_a_wrong_password_begins_no_session_and_keeps_the_name_alone(service: ServedPolicies) -> None:
    with Person(service.url) as client:
        answer = client.post("/sign-in", data={"name": "admin", "password": "wrong-wrong-wrong"})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert 'value="admin"' in answer.text
        assert "wrong-wrong-wrong" not in answer.text


def test_wrong_name_and_wrong_password_look_the_same(service: ServedPolicies) -> None:
    with Person(service.url) as client:
        known = client.post("/sign-in", data={"name": "admin", "password": "wrong-wrong-wrong"})
        unknown = client.post("/sign-in", data={"name": "nimda", "password": "wrong-wrong-wrong"})
    assert known.status_code == unknown.status_code == 401
    assert known.text == unknown.text.replace("nimda", "admin")


def test_a_session_that_was_there_before_signing_in_is_not_taken_over(service: ServedPolicies) -> None:
    with Person(service.url) as client:
        client.cookies.set("edgeflex_session", "chosen-by-somebody-else")
        answer = client.post("/sign-in", data={"name": "admin", "password": PASSWORD})
        first = cookie_of(answer)
        assert first != "chosen-by-somebody-else"
        second = cookie_of(client.post("/sign-in", data={"name": "admin", "password": PASSWORD}))
    assert second != first
    with Person(service.url) as thief:
        for cookie in ("chosen-by-somebody-else", first):
            thief.cookies.set("edgeflex_session", cookie)
            assert thief.get("/policies").status_code == 303


def test_signing_out_ends_the_session_for_every_copy_of_its_cookie(service: ServedPolicies) -> None:
    with Person(service.url) as client, Person(service.url) as copy:
        copy.cookies.update(client.sign_in().cookies)
        assert copy.get("/policies").status_code == 200
        answer = client.fill("/sign-out")
        assert answer.headers["location"] == "/sign-in"
        assert "max-age=0" in answer.headers["set-cookie"].lower()
        assert copy.get("/policies").status_code == 303


def test_attempts_in_vain_are_limited(tmp_path: Path) -> None:
    with ServedPolicies(tmp_path / "policy") as service, Person(service.url) as client:
        answers = [client.post("/sign-in", data={"name": "admin", "password": f"guess-{at}-guess"}) for at in range(10)]
        assert [answer.status_code for answer in answers][-1] == 429
        assert int(answers[-1].headers["retry-after"]) > 0
        right = client.post("/sign-in", data={"name": "admin", "password": PASSWORD})
        assert right.status_code == 429
        assert "Try again in" in right.text


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "https://evil.example", "javascript:alert(1)", "/\\evil.example", "/%0d%0aX:1", "/pol\nicies"],
)
def test_signing_in_leads_to_no_other_site(service: ServedPolicies, path: str) -> None:
    assert safe_path(path) == "/"
    with Person(service.url) as client:
        answer = client.post("/sign-in", data={"name": "admin", "password": PASSWORD, "then": path})
        assert answer.headers["location"] == "/"
        assert client.get("/sign-in", params={"then": path}).headers["location"] == "/"


def test_a_path_with_a_new_line_behind_it_is_no_path() -> None:
    assert safe_path("/policies\n") == "/"


def test_disabling_revoking_and_a_new_password_end_sessions(service: ServedPolicies, admin: Person) -> None:
    for path, fields in (
        ("/users/anna/revoke", {}),
        ("/users/anna", {"about": "", "password": PASSWORD}),
        ("/users/anna/disable", {"why": "left"}),
    ):
        with person(service, "anna") as anna:
            assert anna.get("/policies").status_code == 200
            assert admin.fill(path, fields).status_code == 303
            assert anna.get("/policies").status_code == 303


def test_ones_own_new_password_needs_the_old_one_and_ends_ones_other_sessions(service: ServedPolicies) -> None:
    new = "another-correct-horse"
    with person(service, "bert") as bert, Person(service.url, "bert") as elsewhere:
        elsewhere.sign_in()
        wrong = bert.fill("/account/password", {"now": "not-the-password", "wanted": new, "again": new})
        assert (wrong.status_code, "this is not your password" in wrong.text) == (422, True)
        differs = bert.fill("/account/password", {"now": PASSWORD, "wanted": new, "again": new + "x"})
        assert "not the same as the new password" in differs.text
        assert bert.fill("/account/password", {"now": PASSWORD, "wanted": new, "again": new}).status_code == 303
        assert bert.get("/policies").status_code == 200
        assert elsewhere.get("/policies").status_code == 303
        with Person(service.url, "bert", new) as again:
            again.sign_in()


# What other sites may not -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
def test_a_form_that_another_site_sends_is_refused_even_with_the_right_token(
    service: ServedPolicies, admin: Person, headers: dict[str, str]
) -> None:
    token = admin.csrf()
    fields = {"csrf": token, "name": f"forged_{len(headers)}", "about": ""}
    assert admin.post("/groups", data=fields, headers=headers).status_code == 403
    with Person(service.url) as client:
        signed_in = client.post("/sign-in", data={"name": "admin", "password": PASSWORD}, headers=headers)
        assert (signed_in.status_code, "set-cookie" in signed_in.headers) == (403, False)


def test_a_form_that_does_not_say_where_it_comes_from_is_refused(service: ServedPolicies) -> None:
    with httpx.Client(base_url=service.url) as client:
        assert client.post("/sign-in", data={"name": "admin", "password": PASSWORD}).status_code == 403


@pytest.mark.parametrize("token", ["", "x" * 43, "ünicode"])
def test_a_form_without_the_token_of_the_session_is_refused(admin: Person, token: str) -> None:
    assert admin.post("/groups", data={"csrf": token, "name": "forged", "about": ""}).status_code == 403
    assert "forged" not in admin.get("/groups").text


def test_a_token_of_another_session_is_refused(service: ServedPolicies, admin: Person) -> None:
    with Person(service.url) as other:
        foreign = other.sign_in().csrf()
    assert admin.post("/groups", data={"csrf": foreign, "name": "forged", "about": ""}).status_code == 403


def test_every_answer_forbids_frames_foreign_code_and_guessing_of_types(service: ServedPolicies, admin: Person) -> None:
    static = next(iter(STATIC))
    for path in (
        *PAGES,
        "/sign-in",
        "/api",
        f"/static/{static}",
        "/nothing",
        "/api/v1/policies",
        "/schema/openapi.json",
    ):
        answer = admin.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] == "DENY"


def test_pages_are_not_kept_by_browsers(admin: Person) -> None:
    for path in PAGES:
        assert admin.get(path).headers["cache-control"] == "no-store", path


def test_pages_hold_no_script_or_style_of_their_own_and_load_nothing_from_elsewhere(admin: Person) -> None:
    for path in (*PAGES, "/api"):
        text = admin.get(path).text
        assert re.findall(r"<script(?![^>]*\bsrc=)", text) == [], path
        assert re.findall(r"<style|\sstyle=|\son[a-z]+=", text) == [], path
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]+)"', text)
        assert all(each.startswith("/static/") for each in loaded), path


def test_files_that_pages_load_are_looked_up_and_never_opened(admin: Person) -> None:
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e%2fapp.py", "/static/none.css"):
        assert admin.get(path).status_code == 404


# Who may see and do what --------------------------------------------------------------------------------------------


def test_a_policy_that_may_not_be_read_looks_as_if_it_were_not_there(service: ServedPolicies, admin: Person) -> None:
    service.save("secret_policy", BOUNDS, group=OTHER)
    with person(service, "carl") as carl:
        for more in ("", "/edit", "/compare", "/versions/1"):
            hidden = carl.get(f"/policies/{OTHER}/secret_policy{more}")
            absent = carl.get(f"/policies/{OTHER}/absent_policy{more}")
            assert hidden.status_code == absent.status_code == 404
            assert hidden.text == absent.text
        for verb in ("withdraw", "restore", "grants", "edit"):
            fields = {"based_on": "1", "version": "1"}
            hidden = carl.fill(f"/policies/{OTHER}/secret_policy/{verb}", fields)
            absent = carl.fill(f"/policies/{OTHER}/absent_policy/{verb}", fields)
            assert hidden.status_code == absent.status_code == 404
            assert hidden.text == absent.text
        assert "secret_policy" not in carl.get("/policies?show=all").text
        assert carl.get(f"/groups/{OTHER}").status_code == 404
    assert admin.get(f"/policies/{OTHER}/secret_policy").status_code == 200


def test_a_policy_with_grants_is_hidden_from_others_of_its_group(service: ServedPolicies, admin: Person) -> None:
    service.save("granted", BOUNDS)
    with person(service, "dora") as dora, person(service, "emil") as emil:
        fields = {"subject_kind": "user", "subject": "emil", "right": "read"}
        assert admin.fill(f"/policies/{GROUP}/granted/grants", fields).status_code == 303
        assert emil.get(f"/policies/{GROUP}/granted").status_code == 200
        assert emil.get(f"/policies/{GROUP}/granted/edit").status_code == 403
        assert dora.get(f"/policies/{GROUP}/granted").status_code == 404
        taken = admin.fill(f"/policies/{GROUP}/granted/grants", {"remove": "user:emil:read"})
        assert taken.status_code == 303
        assert dora.get(f"/policies/{GROUP}/granted").status_code == 200


def test_a_policy_of_a_users_name_does_not_tell_of_the_users_roles(service: ServedPolicies, admin: Person) -> None:
    service.save("namesake", BOUNDS)
    with person(service, "namesake", "reader") as namesake:
        page = namesake.get(f"/policies/{GROUP}/namesake").text
    assert "save policy" in page
    assert "set role" not in page


def test_a_reader_sees_no_way_to_change_a_policy_and_has_none(service: ServedPolicies) -> None:
    service.save("read_only", BOUNDS)
    with person(service, "fritz", "reader") as fritz:
        page = fritz.get(f"/policies/{GROUP}/read_only")
        assert page.status_code == 200
        assert "/edit" not in page.text
        assert "/withdraw" not in page.text
        assert "New policy" not in fritz.get("/policies").text
        sent = fritz.fill(f"/policies/{GROUP}/read_only/edit", edit_fields(BOUNDS, 1))
        assert sent.status_code == 403
        assert fritz.fill(f"/policies/{GROUP}/read_only/withdraw", {"based_on": "1"}).status_code == 403
        assert fritz.get("/policies/new").status_code == 403


def test_pages_of_administrators_are_for_administrators(service: ServedPolicies) -> None:
    with person(service, "gerd", "manager") as gerd:
        for path in ("/users", "/users/admin", "/audit", "/keys"):
            assert gerd.get(path).status_code == 403, path
        for path in ("/users", "/users/gerd", "/users/gerd/roles", "/users/admin/secret", "/keys", "/groups"):
            assert (
                gerd.fill(path, {"name": "x", "is_admin": "on", "group": OTHER, "role": "manager"}).status_code == 403
            )
        assert "/users" not in gerd.get("/policies").text


def test_a_manager_says_who_is_in_the_group_and_in_no_other(service: ServedPolicies) -> None:
    with person(service, "hans", "manager") as hans, person(service, "ida", None) as ida:
        assert hans.fill(f"/groups/{GROUP}/members", {"user": "ida", "role": "reader"}).status_code == 303
        assert ida.get(f"/groups/{GROUP}").status_code == 200
        assert ida.fill(f"/groups/{GROUP}/members", {"user": "ida", "role": "manager"}).status_code == 403
        assert hans.fill(f"/groups/{OTHER}/members", {"user": "hans", "role": "manager"}).status_code == 404
        unknown = hans.fill(f"/groups/{GROUP}/members", {"user": "nobody_here", "role": "reader"})
        assert (unknown.status_code, "there is no user" in unescape(unknown.text)) == (422, True)
        assert hans.fill(f"/groups/{GROUP}/members", {"user": "ida", "role": "blocked"}).status_code == 303
        assert ida.get(f"/groups/{GROUP}").status_code == 404


# Policies -----------------------------------------------------------------------------------------------------------


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


# Users, log, keys, interface ----------------------------------------------------------------------------------------


def test_a_user_is_added_given_a_role_disabled_and_enabled(service: ServedPolicies, admin: Person) -> None:
    assert admin.fill("/users", {"name": "karl", "about": "Shift C", "password": PASSWORD}).status_code == 303
    assert admin.fill("/users/karl/roles", {"group": GROUP, "role": "editor"}).status_code == 303
    assert "Shift C" in admin.get("/users").text
    assert admin.fill("/users/karl/disable", {"why": "on leave"}).status_code == 303
    assert "on leave" in admin.get("/users/karl").text
    assert admin.fill("/users/karl/enable").status_code == 303
    with Person(service.url, "karl") as karl:
        karl.sign_in()
    assert admin.fill("/users/karl/roles", {"group": GROUP, "role": ""}).status_code == 303
    assert "None yet." in admin.get("/users/karl").text


@pytest.mark.parametrize(
    ("path", "fields", "field", "wrong"),
    [
        ("/users", {"name": "no good"}, "name", "begins with a letter or digit"),
        ("/users", {"name": "admin"}, "name", "there is a user 'admin' already"),
        ("/users", {"name": "lena", "password": "short"}, "password", "at least 12 characters; got 5"),
        ("/users/admin", {"about": "", "is_admin": ""}, "is_admin", "'admin' is the only administrator"),
        ("/users/admin/disable", {"why": "no more"}, "why", "'admin' is the only administrator"),
        ("/users/admin/disable", {"why": ""}, "why", "say why"),
        ("/users/admin/keys", {"jwks": "{no json"}, "jwks", "no JSON"),
        ("/users/admin/keys", {"jwks": "[]"}, "jwks", "a key set is an object"),
        ("/users/admin/keys", {"jwks": '{"keys": [{"kid": "a", "kty": "OKP", "d": "x"}]}'}, "jwks", "private"),
        ("/users/admin/roles", {"group": GROUP, "role": "king"}, "role", "there is no role 'king'"),
        ("/groups", {"name": GROUP}, "name", "already"),
    ],
)
def test_what_is_wrong_with_an_account_is_told_at_its_field(
    admin: Person, path: str, fields: dict[str, str], field: str, wrong: str
) -> None:
    answer = admin.fill(path, fields)
    assert answer.status_code == 422
    assert wrong in unescape(answer.text)
    assert f'href="#f-{field}"' in answer.text
    assert f'id="f-{field}-error"' in answer.text
    assert fields.get("password", "no password") not in answer.text


def test_a_client_secret_is_shown_once_and_opens_the_door(service: ServedPolicies, admin: Person) -> None:
    service.make_service("new_flow")
    page = admin.fill("/users/new_flow/secret")
    found = re.search(r'id="secret">([^<]+)<', page.text)
    assert found is not None
    assert service.password_token("new_flow", found[1])
    assert found[1] not in admin.get("/users/new_flow").text
    assert found[1] not in admin.get("/audit").text


def test_pasted_keys_let_a_service_in(service: ServedPolicies, admin: Person) -> None:
    key = KeyPair("pasted")
    service.make_service("pasted_flow")
    assert admin.fill("/users/pasted_flow/keys", {"jwks": json.dumps({"keys": [key.jwk]})}).status_code == 303
    with service.client(key.token("pasted_flow")) as client:
        assert client.get("/api/v1/users/me").json()["name"] == "pasted_flow"
    assert admin.fill("/users/pasted_flow/keys", {"jwks": ""}).status_code == 303
    with service.client(key.token("pasted_flow")) as client:
        assert client.get("/api/v1/users/me").status_code == 401


def test_a_pasted_key_in_pem_format_is_added_to_the_others(service: ServedPolicies, admin: Person) -> None:
    first, second = service.make_service("pem_flow"), KeyPair()
    pem = second.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert admin.fill("/users/pem_flow/keys", {"jwks": pem}).status_code == 303
    added = re.findall(r'"kid": "([^"]+)"', unescape(admin.get("/users/pem_flow").text))
    assert (len(added), added[0]) == (2, first.kid)
    for token in (first.token("pem_flow"), second.token("pem_flow", headers={"kid": added[1]})):
        with service.client(token) as client:
            assert client.get("/api/v1/users/me").status_code == 200
    private = admin.fill("/users/pem_flow/keys", {"jwks": second.pem.decode()})
    assert (private.status_code, "this is a private key" in private.text) == (422, True)
    assert second.pem.decode().splitlines()[1] not in private.text


def test_the_audit_log_is_shown_and_proved(admin: Person) -> None:
    assert "sign in" in admin.get("/audit").text
    assert "The log is whole" in admin.get("/audit?proof=1").text
    assert "No entry fits." in admin.get("/audit", params={"what": "nothing/like_this"}).text


def test_keys_are_rotated_and_the_old_one_retired(admin: Person) -> None:
    before = admin.get("/keys").text.count("retired</span>")
    assert admin.fill("/keys").status_code == 303
    after = admin.get("/keys").text
    assert after.count("retired</span>") == before + 1
    assert after.count("signs</span>") == 1


def test_the_page_of_the_interface_tells_every_operation_and_schema(service: ServedPolicies) -> None:
    with httpx.Client(base_url=service.url) as anybody:
        schema = anybody.get("/schema/openapi.json").json()
        page = anybody.get("/api")
    assert page.status_code == 200
    text = unescape(page.text)
    for path, item in schema["paths"].items():
        assert text.count(f"<code>{path}</code>") == len(item), path
    for name in schema["components"]["schemas"]:
        assert f'id="schema-{name}"' in page.text
    linked = set(re.findall(r'href="#schema-([^"]+)"', page.text))
    assert linked <= set(schema["components"]["schemas"])
    assert "<script" not in page.text


def test_an_address_where_nothing_is_gives_people_a_page_and_programs_a_problem(admin: Person) -> None:
    assert "There is nothing at this address." in admin.get("/nothing", headers={"Accept": "text/html"}).text
    assert admin.get("/nothing").headers["content-type"] == "application/problem+json"
    assert admin.get("/api/v1/nothing", headers={"Accept": "text/html"}).json()["status"] == 404


@pytest.mark.parametrize("path", ["/policies?page=0", "/policies?page=x", "/audit?before=-1", "/events?before=x"])
def test_a_query_that_cannot_be_is_a_page_that_says_so(admin: Person, path: str) -> None:
    answer = admin.get(path)
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a=%ff", b"a&" * 20_000, b"csrf=" + b"x" * 100_000])
def test_a_body_that_is_no_form_is_refused(admin: Person, body: bytes) -> None:
    answer = admin.post("/groups", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code in (400, 403)


# Events -------------------------------------------------------------------------------------------------------------


class Stream(threading.Thread):
    """Reads the stream of events of somebody's page until it has so many rows, or it ends."""

    def __init__(self, client: Person, rows: int, query: str = "") -> None:
        super().__init__(daemon=True)
        self.client, self.wanted, self.query = client, rows, query
        self.rows: list[str] = []
        self.opened = threading.Event()
        self.start()
        assert self.opened.wait(10.0)

    def run(self) -> None:
        with self.client.stream("GET", f"/events/stream{self.query}", timeout=30.0) as answer:
            self.opened.set()
            text = ""
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    text += line.removeprefix("data:") + "\n"
                elif not line and text:
                    self.rows.append(text)
                    text = ""
                if len(self.rows) >= self.wanted:
                    return


def test_an_event_comes_in_as_it_happens_and_stays(service: ServedPolicies, admin: Person) -> None:
    service.save("live_trigger", {**TRIGGER, "asset_id": "live_feeder"}, group=LIVE)
    newest = re.search(r"/events/stream\?after=(\d+)", admin.get("/events").text)
    assert newest is not None
    stream = Stream(admin, 1, f"?after={newest[1]}")
    report = {"group": LIVE, "asset": "live_feeder", "values": {"rocof_hz_per_s": 0.9}}
    assert service.admin.post("/api/v1/events", json={"reports": [report]}).status_code == 200
    stream.join(10.0)
    assert len(stream.rows) == 1
    for text in ("live_feeder", f"{LIVE}/live_trigger", "fast_change", "rocof_hz_per_s", "inertia_estimation"):
        assert text in stream.rows[0]
    key = re.search(r'data-key="(\w+)"', stream.rows[0])
    assert key is not None
    assert key[1] in admin.get("/events").text


def test_events_of_other_groups_are_not_told_and_hidden_policies_not_named(
    service: ServedPolicies, admin: Person
) -> None:
    service.save("hidden_trigger", {**TRIGGER, "asset_id": "hidden_feeder"}, group=LIVE)
    fields = {"subject_kind": "user", "subject": "admin", "right": "read"}
    assert admin.fill(f"/policies/{LIVE}/hidden_trigger/grants", fields).status_code == 303
    service.save("other_trigger", {**TRIGGER, "asset_id": "other_feeder"}, group=OTHER)
    for group, asset in ((LIVE, "hidden_feeder"), (OTHER, "other_feeder")):
        report = {"group": group, "asset": asset, "values": {"rocof_hz_per_s": 0.9}}
        assert service.admin.post("/api/v1/events", json={"reports": [report]}).json()
    with person(service, "mia", "reader", LIVE) as mia:
        shown = mia.get("/events").text
        assert "hidden_feeder" in shown
        assert "hidden_trigger" not in shown
        assert "other_feeder" not in shown
        stream = Stream(mia, 1, "?after=0&group=live")
        stream.join(10.0)
        assert stream.rows
        assert all("hidden_trigger" not in row and "other_feeder" not in row for row in stream.rows)
    assert "hidden_trigger" in admin.get("/events").text


def test_what_a_flow_tells_of_a_policy_is_an_event_too(service: ServedPolicies, admin: Person) -> None:
    service.save("told_live", TRIGGER, group=LIVE)
    newest = re.search(r"/events/stream\?after=(\d+)", admin.get("/events").text)
    assert newest is not None
    stream = Stream(admin, 1, f"?after={newest[1]}&kind=effect")
    effect = {**EFFECT, "policy_group": LIVE, "policy_id": "told_live", "refused": "beyond the limits"}
    assert service.admin.post("/api/v1/effects", json={"effects": [effect]}).is_success
    stream.join(10.0)
    assert len(stream.rows) == 1
    for text in (f"{LIVE}/told_live", "beyond the limits", "event.onset 0.01 Hz/s → 0.02 Hz/s"):
        assert text in stream.rows[0]


def test_the_stream_ends_for_who_is_signed_out(service: ServedPolicies, admin: Person) -> None:
    with person(service, "nora") as nora:
        stream = Stream(nora, 10_000, "?after=999999999")
        admin.fill("/users/nora/disable", {"why": "gone"})
        stream.join(15.0)
        assert not stream.is_alive()


def test_the_stream_is_for_those_who_are_signed_in(service: ServedPolicies) -> None:
    with Person(service.url) as nobody:
        assert nobody.get("/events/stream").status_code == 303


def test_the_service_ends_at_once_though_somebody_watches_events(tmp_path: Path) -> None:
    with ServedPolicies(tmp_path / "policy") as service, Person(service.url) as client:
        stream = Stream(client.sign_in(), 10_000)
        assert service.stop() == 0
        stream.join(5.0)
        assert not stream.is_alive()
        assert "Traceback" not in service.log.read_text()


def test_templates_and_files_of_the_page_are_in_the_wheel(tmp_path: Path) -> None:
    import subprocess
    import sys
    import zipfile

    root = HERE.parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name.removeprefix("edgeflex_services/policy_system/") for name in wheel.namelist()}
    for folder in ("templates", "static"):
        files = {f"{folder}/{file.name}" for file in (HERE / folder).iterdir()}
        assert files
        assert files <= packed
