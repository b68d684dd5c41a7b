from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from html import unescape
from pathlib import Path

import httpx
import pytest
from certificates import Authority
from policy_pages import BOUNDS, OTHER, Person, edit_fields, person
from served_policies import GROUP, PASSWORD, ServedPolicies

from edgeflex_flow.web_pages import LOOK, safe_path
from edgeflex_services.policy_system.pages_common import HERE, STATIC

PLACE = "edgeflex_services/policy_system"
PAGES = ("/policies", "/events", "/groups", "/users", "/audit", "/keys", "/account", "/policies/new")


def cookie_of(answer: httpx.Response) -> str:
    return answer.headers["set-cookie"].partition(";")[0].partition("=")[2]


# Signing in -----------------------------------------------------------------------------------------------------------


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


# What other sites may not ---------------------------------------------------------------------------------------------


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


# Who may see and do what ----------------------------------------------------------------------------------------------


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
        answer = admin.fill(f"/policies/{GROUP}/granted/grants", fields)
        assert answer.status_code == 303
        shown = answer.headers["location"]
        assert emil.get(f"/policies/{GROUP}/granted").status_code == 200
        assert emil.get(f"/policies/{GROUP}/granted/edit").status_code == 403
        assert dora.get(f"/policies/{GROUP}/granted").status_code == 404
        assert "From now on only emil may read it, and nobody may edit it" in admin.get(shown).text
        unsaid = admin.fill(f"/policies/{GROUP}/granted/grants", {"remove": "user:emil:read"})
        assert unsaid.status_code == 422
        assert f"the roles in group &#39;{GROUP}&#39; decide" in unsaid.text
        assert "Check the box" in unsaid.text
        assert dora.get(f"/policies/{GROUP}/granted").status_code == 404
        taken = admin.fill(f"/policies/{GROUP}/granted/grants", {"remove": "user:emil:read", "everybody": "1"})
        assert taken.status_code == 303
        assert dora.get(f"/policies/{GROUP}/granted").status_code == 200


def test_who_shuts_themselves_out_of_a_policy_is_told(service: ServedPolicies) -> None:
    service.save("given_away", BOUNDS)
    with person(service, "gerda", "manager") as gerda:
        fields = {"subject_kind": "user", "subject": "admin", "right": "read"}
        answer = gerda.fill(f"/policies/{GROUP}/given_away/grants", fields)
    assert "You are among those who no longer do." in answer.text


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


def test_templates_and_files_of_the_page_are_in_the_wheel(tmp_path: Path) -> None:
    root = HERE.parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
    for folder, place in ((HERE / "templates", PLACE), (HERE / "static", PLACE), (LOOK, "edgeflex_flow")):
        files = {f"{place}/{folder.name}/{file.name}" for file in folder.iterdir()}
        assert files
        assert files <= packed
