from __future__ import annotations

import json
import re
from html import unescape

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from policy_pages import Person
from served_policies import GROUP, PASSWORD, KeyPair, ServedPolicies


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
    proved = admin.get("/audit?proof=1").text
    assert "The log is whole" in proved
    head = re.search(r"[0-9]+:[0-9a-f]{64}", proved)
    assert head is not None
    assert "the noted one is there" in admin.get(f"/audit?proof=1&head={head[0]}").text
    assert "is not there" in admin.get(f"/audit?proof=1&head=9999999:{'0' * 64}").text
    assert "is no head of an audit log" in admin.get("/audit?proof=1&head=7").text
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
    assert linked <= set(re.findall(r'id="schema-([^"]+)"', page.text))
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
