"""Attacks on the policy system, each by real requests to the real program."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from served_policies import GROUP, PASSWORD, KeyPair, ServedPolicies, b64

BOUNDS = {"kind": "operational_bounds", "about": "the secret reserve", "fields": {"reserve": "7 MW"}}
SECRETS = ("secret reserve", "7 MW", "policy_id", '"version"')


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPolicies]:
    with ServedPolicies(tmp_path_factory.mktemp("policy")) as made:
        made.make_group()
        made.save("reserve", BOUNDS)
        yield made


@pytest.fixture(scope="module")
def reader(served: ServedPolicies) -> KeyPair:
    return served.make_service("reader")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[ServedPolicies]:
    """A policy system of the test's own, for what leaves traces: limits by address."""
    with ServedPolicies(tmp_path / "policy") as made:
        made.make_group()
        made.save("reserve", BOUNDS)
        yield made


WHERE = f"policy_group={b64(GROUP)}&policy_id={b64('reserve')}"
PATHS = (
    f"/api/v1/policies?{WHERE}",
    f"/api/v1/policy?{WHERE}",
    f"/api/v1/policies/{b64(GROUP)}/{b64('reserve')}",
    f"/api/v1/policies/{b64(GROUP)}/{b64('reserve')}/versions/1",
    "/api/v1/events",
    "/api/v1/users/me",
    "/api/v1/groups",
    "/api/v1/audit",
    "/api/v1/schemas/trigger",
)


def forged(reader: KeyPair) -> dict[str, str]:
    """Tokens that must not be taken, by what is wrong with them."""
    good = reader.token("reader")
    header, claims, signature = good.split(".")

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    now = int(time.time())
    return {
        "missing": "",
        "expired": reader.token("reader", iat=now - 600, exp=now - 300),
        "alg none": f"{part({'alg': 'none', 'kid': 'one'})}.{claims}.",
        "alg none, signature kept": f"{part({'alg': 'none', 'kid': 'one'})}.{claims}.{signature}",
        "alg HS256 on a public key": f"{part({'alg': 'HS256', 'kid': 'one'})}.{claims}.{signature}",
        "wrong audience": reader.token("reader", aud="edgeflex-market"),
        "wrong key": KeyPair().token("reader"),
        "key given in the token": KeyPair().token("reader", headers={"jwk": KeyPair().jwk}),
        "key fetched from elsewhere": reader.token("reader", headers={"kid": "http://127.0.0.1:1/jwks"}),
        "subject of another": reader.token("reader", sub="admin"),
        "changed claims": f"{header}.{part({'iss': 'admin', 'sub': 'admin'})}.{signature}",
        "for ever": reader.token("reader", exp=now + 10**9),
    }


def test_without_a_valid_token_nothing_is_told_of_any_policy(served: ServedPolicies, reader: KeyPair) -> None:
    """All refusals are the same text, whether the policy is there or not."""
    texts = set()
    for token in forged(reader).values():
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for path in PATHS:
            answer = httpx.get(served.url + path, headers=headers)
            assert answer.status_code in (401, 429), (token, path)
            assert answer.headers["content-type"] == "application/problem+json"
            assert not any(secret in answer.text for secret in SECRETS)
            texts.add(answer.text)
    assert len(texts) <= 2
    assert httpx.get(served.url + PATHS[0], headers={"Authorization": f"Bearer {reader.token('reader')}"}).is_success


def test_a_revoked_token_that_is_shown_again_is_refused(alone: ServedPolicies) -> None:
    token = alone.make_service("reader").token("reader")
    with alone.client(token) as client:
        assert client.get(PATHS[0]).status_code == 200
        client.post("/revoke", data={"token": token})
        assert client.get(PATHS[0]).status_code == 401


def test_a_token_of_another_group_sees_nothing_and_changes_nothing(served: ServedPolicies) -> None:
    served.make_group("east")
    key = served.make_service("manager_of_east", "manager", "east")
    with served.client(key.token("manager_of_east")) as client:
        assert client.get(PATHS[0]).json() == {"policies": []}
        assert client.get(PATHS[1]).status_code == 404
        assert client.get(PATHS[2]).status_code == 404
        assert client.put(PATHS[2], json={"document": BOUNDS, "based_on": 1}).status_code == 404
        assert client.delete(PATHS[2], params={"based_on": 1}).status_code == 404
        report = {"group": GROUP, "asset": "G1", "values": {"frequency_hz": 1.0}}
        assert client.post("/api/v1/events", json={"reports": [report]}).status_code == 403
        mixed = {"reports": [{**report, "group": "east"}, report]}
        assert client.post("/api/v1/events", json=mixed).status_code == 403
        assert {each["group"] for each in client.get("/api/v1/events").json()} <= {"east"}
        decision = {"group": GROUP, "policy_id": "reserve", "action": "a", "user": "b"}
        assert client.post("/api/v1/decisions", json=decision).status_code == 404


NASTY = (
    "../../etc/passwd",
    "..",
    "a/b",
    "x' OR '1'='1",
    'x"; DROP TABLE policy_versions; --',
    "{{7*7}}",
    "${jndi:ldap://x}",
    "<script>alert(1)</script>",
    "a\x00b",
    "a\nb",
    "reserve\n",
    "🙂",
    "",
    " ",
    "a" * 65,
    "*",
    "%",
)


@pytest.mark.parametrize("name", NASTY)
def test_an_id_that_holds_an_attack_is_no_name(served: ServedPolicies, reader: KeyPair, name: str) -> None:
    with served.client(reader.token("reader")) as client:
        for query in (
            f"policy_group={b64(name)}&policy_id={b64('reserve')}",
            f"policy_group={b64(GROUP)}&policy_id={b64(name)}",
        ):
            for path in ("policy", "policies"):
                answer = client.get(f"/api/v1/{path}?{query}")
                assert answer.status_code == 400
                assert "no base64url text" in answer.text
                assert "49" not in answer.text
                assert name.strip() == "" or len(name) < 3 or name not in answer.text


@pytest.mark.parametrize("text", ["reserve!", "cmVzZXJ2ZQ===", "cmVz ZXJ2ZQ", "c", "%00", "//8", "gA", "A" * 200, "ä"])
def test_an_id_that_is_no_base64_is_refused(served: ServedPolicies, reader: KeyPair, text: str) -> None:
    with served.client(reader.token("reader")) as client:
        answer = client.get("/api/v1/policies", params={"policy_group": b64(GROUP), "policy_id": text})
        assert answer.status_code == 400


def test_passwords_cannot_be_tried_out(alone: ServedPolicies) -> None:
    form = {"grant_type": "client_credentials"}
    codes = [
        httpx.post(f"{alone.url}/token", data=form, auth=("admin", f"guess {at}"), timeout=20).status_code
        for at in range(12)
    ]
    assert codes[:8] == [401] * 8
    assert codes[8:] == [429] * 4
    right = httpx.post(f"{alone.url}/token", data=form, auth=("admin", PASSWORD), timeout=20)
    assert right.status_code == 429
    assert int(right.headers["retry-after"]) > 0
    told = alone.admin.get("/api/v1/events").text
    tries = [each for each in json.loads(told) if each["kind"] == "sign_in"]
    assert len(tries) == 8
    assert {(each["user"], each["source"], each["did"]) for each in tries} == {("admin", "127.0.0.1", "at /token")}
    assert "guess" not in told


def test_a_password_that_was_typed_as_a_name_is_not_written_down(alone: ServedPolicies) -> None:
    form = {"name": "correct-horse", "password": "battery-staple"}
    assert httpx.post(f"{alone.url}/sign-in", data=form, headers={"Origin": alone.url}, timeout=20).status_code == 401
    told = alone.admin.get("/api/v1/events").text
    (entry,) = [each for each in json.loads(told) if each["kind"] == "sign_in"]
    assert (entry["user"], entry["did"]) == ("", "at /sign-in")
    for secret in form.values():
        assert secret not in told + alone.log.read_text()
    key = alone.make_service("reader")
    with alone.client(key.token("reader")) as reader:
        assert "sign_in" not in {each["kind"] for each in reader.get("/api/v1/events").json()}


def test_many_guesses_at_once_are_no_more_than_one_after_the_other(alone: ServedPolicies) -> None:
    def guess(at: int) -> int:
        form = {"grant_type": "client_credentials"}
        return httpx.post(f"{alone.url}/token", data=form, auth=("admin", f"guess {at}"), timeout=60).status_code

    with ThreadPoolExecutor(40) as pool:
        codes = list(pool.map(guess, range(80)))
    assert codes.count(401) <= 9
    assert psutil.Process(alone.process.pid).memory_info().rss < 400e6


def test_a_client_secret_is_let_in_while_passwords_are_tried_out(alone: ServedPolicies) -> None:
    form = {"grant_type": "client_credentials"}
    alone.make_service("plain")
    shown = alone.admin.post("/api/v1/users/plain/secret").json()
    for at in range(12):
        httpx.post(f"{alone.url}/token", data=form, auth=("admin", f"guess {at}"), timeout=20)
    assert httpx.post(f"{alone.url}/token", data={**form, **shown}).status_code == 200


def test_a_head_without_end_is_hung_up_on(alone: ServedPolicies) -> None:
    host, port = alone.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        endless = b"".join(f"X-{at}: {'y' * 1000}\r\n".encode() for at in range(30_000))
        with pytest.raises(OSError):  # noqa: PT011 - reset, or a broken pipe
            connection.sendall(endless)
    assert alone.admin.get(PATHS[2]).status_code == 200


@pytest.mark.parametrize("body", [b'{"document":{"kind":"trigger"},"comment":"a\\u0000b","based_on":1}', b'"\x00"'])
def test_the_character_nul_is_refused(served: ServedPolicies, body: bytes) -> None:
    assert served.admin.put(PATHS[2], content=body).status_code == 400
    form = {"grant_type": "client_credentials", "client_id": "a\x00b", "client_secret": "x"}
    assert httpx.post(f"{served.url}/token", data=form).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/users/%00/enable"),
        ("GET", "/api/v1/policies?policy_group=%00"),
        ("GET", "/events?group=a%00b"),
        ("GET", "/users/%00"),
    ],
)
def test_the_character_nul_is_refused_in_addresses(served: ServedPolicies, method: str, path: str) -> None:
    """PostgreSQL takes none: it would be an error of the service."""
    answer = served.admin.request(method, path)
    assert (answer.status_code, answer.json()["detail"]) == (400, "the address holds the character NUL")


def test_half_a_character_in_a_text_is_refused(served: ServedPolicies) -> None:
    body = b'{"document":{"kind":"trigger"},"comment":"a\\ud800b","based_on":1}'
    assert served.admin.put(PATHS[2], content=body).status_code == 400


def test_who_is_blocked_in_a_group_does_not_see_its_members(served: ServedPolicies) -> None:
    token = served.make_service("troublesome", "blocked").token("troublesome")
    with served.client(token) as client:
        assert client.get("/api/v1/groups").json() == []


def test_tokens_cannot_be_tried_out_and_good_ones_are_let_in_meanwhile(alone: ServedPolicies) -> None:
    key = alone.make_service("reader")
    with alone.client("guess") as client:
        codes = [client.get(PATHS[0]).status_code for _ in range(70)]
    assert codes[0] == 401
    assert codes[-1] == 429
    with alone.client(key.token("reader")) as client:
        assert client.get(PATHS[0]).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"document":' + b"[" * 100_000, 400),
        (b'{"document":' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}", 400),
        (b"[" * 200_000, 400),
        (b'{"document":"' + b"x" * 300_000 + b'"}', 413),
        (b"\xff\xfe" * 1000, 400),
        (b"", 400),
        (b"null", 400),
        (b'{"document":{"kind":"trigger"},"based_on":1e400}', 400),
        (b'{"document":{"kind":"trigger"},"based_on":99999999999999999999}', 400),
    ],
)
def test_a_body_that_is_too_long_or_too_deep_or_none_is_refused(
    served: ServedPolicies, body: bytes, status: int
) -> None:
    answer = served.admin.put(PATHS[2], content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_without_end_is_cut_off(served: ServedPolicies) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(10_000):
            yield b"[" * 1000

    with suppress(httpx.WriteError):  # the service hung up before all was sent
        assert served.admin.put(PATHS[2], content=endless()).status_code == 413
    assert served.admin.get(PATHS[2]).status_code == 200


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "operational_bounds", "fields": {f"f{at}": 1 for at in range(101)}},
        {"kind": "sharing", "rules": [{"name": f"r{at}", "effect": "permit"} for at in range(101)]},
        {"kind": "operational_bounds", "fields": {"a": "1" * 61}},
        {"kind": "operational_bounds", "fields": {"a": "1" * 50 + "." * 9}},
        {"kind": "operational_bounds", "fields": {"a": 1}, "about": "x" * 2001},
        {"kind": "operational_bounds", "fields": {"a": 1}, "$ref": "#"},
        {"kind": "sharing", "rules": [{"name": "a", "effect": "permit", "when": {"users": ["*" * 201]}}]},
    ],
)
def test_a_document_that_would_cost_much_is_refused(served: ServedPolicies, document: dict[str, Any]) -> None:
    answer = served.admin.put(PATHS[2], json={"document": document, "based_on": 1})
    assert answer.status_code == 422, answer.text


def test_a_pattern_of_many_stars_costs_no_time(served: ServedPolicies) -> None:
    """Else one rule would hold up the service: patterns become regular expressions inside."""
    rule = {"name": "a", "effect": "permit", "when": {"assets": ["*a" * 90 + "*b"]}}
    served.save("stars", {"kind": "sharing", "rules": [rule]})
    began = time.monotonic()
    served.admin.post("/api/v1/requests", json={"group": GROUP, "asset": "a" * 64})
    assert time.monotonic() - began < 5.0


def test_no_secret_is_in_the_log_or_in_an_answer(alone: ServedPolicies) -> None:
    key = alone.make_service("reader")
    shown = alone.admin.post("/api/v1/users/reader/secret").json()["client_secret"]
    token = key.token("reader")
    new = "yet another password"
    alone.admin.put("/api/v1/users/ann", json={"password": new})
    with alone.client(token) as client:
        client.get(PATHS[0])
        client.put("/api/v1/users/ann", json={"password": new})
    httpx.post(f"{alone.url}/token", data={"grant_type": "client_credentials"}, auth=("reader", shown + "x"))
    alone.admin.put("/api/v1/users/ann", json={"password": "short", "more": new})
    told = alone.admin.get("/api/v1/users").text + alone.admin.get("/api/v1/audit", params={"limit": 500}).text
    alone.stop()
    for secret in (shown, token, token.split(".")[2], new, PASSWORD, "argon2"):
        assert secret not in told
        assert secret not in alone.log.read_text()


def test_nobody_writes_lines_of_the_services_log_by_a_token(alone: ServedPolicies) -> None:
    line = "2026-11-27 00:00:00,000 INFO audit log: head 99:" + "ab" * 32
    for claims in ({"headers": {"kid": f"x\n{line}"}}, {"iss": f"x\r{line}"}, {"iss": f"x\u2028{line}"}):
        token = KeyPair().token("reader", **claims)
        with alone.client(token) as client:
            assert client.get(PATHS[0]).status_code == 401
    alone.stop()
    lines = alone.log.read_text().splitlines()
    assert len([each for each in lines if "99:abab" in each]) == 3
    assert not [each for each in lines if each.startswith(line)]


def fuzz(served: ServedPolicies, token: str, *arguments: str) -> None:
    program = Path(sys.executable).parent / "st"
    done = subprocess.run(
        [
            program, "run", f"{served.url}/schema/openapi.json", "-H", f"Authorization: Bearer {token}",
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
            "--max-examples", "15", "--seed", "1", *arguments,
        ],
        capture_output=True, text=True, check=False, cwd=served.folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert served.admin.get(PATHS[2]).status_code == 200
    assert "Traceback" not in served.log.read_text()


@pytest.mark.long
def test_schemathesis_finds_no_server_error_as_an_editor(alone: ServedPolicies) -> None:
    key = alone.make_service("fuzzer", "manager")
    fuzz(alone, key.token("fuzzer", exp=int(time.time()) + 3600), "--exclude-path", "/revoke")


@pytest.mark.long
def test_schemathesis_finds_no_server_error_as_an_administrator(alone: ServedPolicies) -> None:
    key = alone.make_service("fuzzer", "manager")
    alone.admin.put("/api/v1/users/fuzzer", json={"is_admin": True})
    # It would shut itself out.
    ends = ("/revoke", "/api/v1/users/{name}/revoke", "/api/v1/users/{name}/disable", "/api/v1/users/{name}")
    excluded = [word for path in ends for word in ("--exclude-path", path)]
    fuzz(alone, key.token("fuzzer", exp=int(time.time()) + 3600), *excluded)
