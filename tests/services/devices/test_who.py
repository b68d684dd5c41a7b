"""Who asks: tokens of a real policy system, and those that are none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_service import HttpService, Reply, json_reply
from jwt.algorithms import OKPAlgorithm
from litestar.exceptions import HTTPException, NotAuthorizedException, PermissionDeniedException

from edgeflex_services.devices.who import KEYS_PATH, PolicyDoor, User

AUDIENCE = "edgeflex-policy"
KEY = Ed25519PrivateKey.generate()
JWK = {**OKPAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "one", "alg": "EdDSA"}


def token(key: Any = KEY, *, kid: str = "one", algorithm: str = "EdDSA", **claims: Any) -> str:
    now_s = int(time.time())
    told = {
        "iss": "edgeflex-policy",
        "sub": "ada",
        "aud": AUDIENCE,
        "iat": now_s,
        "exp": now_s + 300,
        "jti": "t1",
        "roles": {"substation_12": "editor"},
        "admin": False,
        **claims,
    }
    return jwt.encode({name: each for name, each in told.items() if each is not None}, key, algorithm, {"kid": kid})


def shown(*texts: str, keys: Callable[[], Reply] | None = None) -> list[User | int]:
    """Whom the door takes each of these for, or the status it answers with."""
    with HttpService() as service:
        if keys is None:
            service.answers(KEYS_PATH, json_reply({"keys": [JWK]}))
        else:
            service.script(KEYS_PATH, lambda _: keys())

        async def ask() -> list[User | int]:
            found: list[User | int] = []
            async with httpx.AsyncClient(trust_env=False) as client:
                door = PolicyDoor(client, service.url, AUDIENCE)
                for text in texts:
                    try:
                        found.append(await door.user(text))
                    except HTTPException as error:
                        found.append(error.status_code)
            return found

        return asyncio.run(ask())


def test_a_token_of_the_policy_system_shows_its_user_and_roles() -> None:
    assert shown(f"Bearer {token()}") == [User("ada", is_admin=False, roles={"substation_12": "editor"})]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(lambda: "", id="none"),
        pytest.param(lambda: "Basic YTpi", id="a password"),
        pytest.param(lambda: "Bearer nonsense", id="no JWT"),
        pytest.param(lambda: "Bearer " + "x" * 5000, id="too long"),
        pytest.param(lambda: f"Bearer {token(aud='databus')}", id="for something else"),
        pytest.param(lambda: f"Bearer {token(exp=int(time.time()) - 60)}", id="expired"),
        pytest.param(lambda: f"Bearer {token(iat=int(time.time()) + 600)}", id="from the future"),
        pytest.param(lambda: f"Bearer {token(jti=None)}", id="without a name"),
        pytest.param(lambda: f"Bearer {token(roles='manager')}", id="roles that are none"),
        pytest.param(lambda: f"Bearer {token(Ed25519PrivateKey.generate())}", id="signed by somebody else"),
        pytest.param(lambda: f"Bearer {token(kid='two')}", id="a key that nobody knows"),
        pytest.param(lambda: f"Bearer {token('x' * 32, algorithm='HS256')}", id="another algorithm"),
        pytest.param(lambda: f"Bearer {token(None, algorithm='none')}", id="not signed"),
    ],
)
def test_what_is_no_good_token_is_refused(bad: Callable[[], str]) -> None:
    assert shown(bad()) == [NotAuthorizedException.status_code]


def test_keys_are_asked_for_once_for_many_requests() -> None:
    asked = []

    def keys() -> Reply:
        asked.append(1)
        return json_reply({"keys": [JWK]})

    shown(*[f"Bearer {token(jti=str(number))}" for number in range(5)], keys=keys)
    assert len(asked) == 1


def test_while_the_keys_were_never_read_nobody_can_be_told_apart() -> None:
    assert shown(f"Bearer {token()}", keys=lambda: Reply(500)) == [503]


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("reader", {"reader"}),
        ("reporter", {"reader"}),
        ("editor", {"reader", "editor"}),
        ("manager", {"reader", "editor", "manager"}),
        ("blocked", set()),
        ("king", set()),
    ],
)
def test_roles_hold_what_lesser_ones_do(role: str, may: set[str]) -> None:
    user = User("ada", roles={"substation_12": role})
    assert {each for each in ("reader", "editor", "manager") if user.may(each, "substation_12")} == may
    assert not user.may("reader", "substation_13")


def test_administrators_may_everything() -> None:
    assert User("root", is_admin=True).may("manager", "anything")


def test_what_a_user_may_not_is_said_with_what_is_missing() -> None:
    with pytest.raises(PermissionDeniedException, match="user 'ada' is no manager of group 'substation_12'"):
        User("ada", roles={"substation_12": "editor"}).need("manager", "substation_12")
