from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_curve_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from served_policies import KeyPair
from sqlalchemy import ColumnElement, select

from edgeflex_flow.clock import VirtualClock
from edgeflex_services.policy_system.accounts import (
    ROLES,
    SESSION_NS,
    Accounts,
    BadAccountError,
    NewUser,
    User,
    checked_jwks,
    jwk_of,
)
from edgeflex_services.policy_system.repository import Repository, UnknownError, about, about_user
from edgeflex_services.policy_system.system import DATABUS, SYSTEM
from edgeflex_services.policy_system.tables import open_database, sessions, users

PASSWORD = "a long enough password"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1_000_000_000)


@pytest.fixture
def accounts(tmp_path: Path, clock: VirtualClock) -> Iterator[Accounts]:
    repository = Repository(open_database(f"sqlite:///{tmp_path / 'policy.db'}"), clock)
    made = Accounts(repository)
    made.put_user(SYSTEM, "root", NewUser(is_admin=True, password=PASSWORD))
    made.put_user("root", "ann", NewUser(about="dispatcher", password=PASSWORD))
    made.put_group("root", "g", "a group")
    yield made
    repository.close()


def test_a_role_holds_all_that_stands_before_it() -> None:
    for at, own in enumerate(ROLES):
        user = User(name="ann", roles={"g": own})
        assert [user.may(role, "g") for role in ROLES] == [other <= at for other in range(len(ROLES))]
        assert not user.may("reader", "other")


def test_who_is_blocked_in_a_group_has_nothing_there() -> None:
    user = User(name="ann", roles={"g": "blocked", "h": "reader"})
    assert not user.may("reader", "g")
    assert user.groups == {"h"}


def test_a_password_is_checked_and_kept_as_a_hash_only(accounts: Accounts) -> None:
    assert accounts.check_password("ann", PASSWORD)
    assert not accounts.check_password("ann", PASSWORD + " ")
    assert not accounts.check_password("nobody", PASSWORD)
    with accounts._repository.reading() as connection:
        rows = connection.execute(select(users)).all()
    assert PASSWORD not in repr(rows)
    assert "argon2id" in repr(rows)


def test_a_password_that_is_left_out_stays(accounts: Accounts) -> None:
    accounts.put_user("root", "ann", NewUser(about="engineer"))
    assert accounts.check_password("ann", PASSWORD)
    assert accounts.user("ann").about == "engineer"


@pytest.mark.parametrize("name", ["a\0b", "a\ud800", "", "x" * 65])
def test_a_name_that_nobody_can_have_goes_with_no_password_and_no_secret(accounts: Accounts, name: str) -> None:
    assert not accounts.check_password(name, PASSWORD)
    assert not accounts.check_secret(name, PASSWORD)


def test_a_new_secret_ends_the_one_before(accounts: Accounts) -> None:
    first = accounts.new_secret("root", "ann")
    second = accounts.new_secret("root", "ann")
    assert accounts.check_secret("ann", second)
    assert not accounts.check_secret("ann", first)
    assert not accounts.check_secret("root", "")  # who has none cannot be had with none


def test_a_disabled_user_is_refused_everything_and_can_be_allowed_again(accounts: Accounts) -> None:
    secret = accounts.new_secret("root", "ann")
    shown, _ = accounts.begin_session("ann")
    accounts.disable("root", "ann", "left the company")
    assert not accounts.check_password("ann", PASSWORD)
    assert not accounts.check_secret("ann", secret)
    assert accounts.session(shown) is None
    assert accounts.user("ann").disabled_because == "left the company"
    accounts.enable("root", "ann")
    assert accounts.check_password("ann", PASSWORD)


def test_the_only_administrator_cannot_be_lost(accounts: Accounts) -> None:
    with pytest.raises(BadAccountError, match="only administrator"):
        accounts.disable("root", "root", "by mistake")
    with pytest.raises(BadAccountError, match="only administrator"):
        accounts.put_user("root", "root", NewUser(is_admin=False))
    accounts.put_user("root", "ann", NewUser(is_admin=True))
    accounts.disable("ann", "root", "on purpose")


def test_a_session_ends_by_time_by_signing_out_and_by_a_new_password(accounts: Accounts, clock: VirtualClock) -> None:
    signed_out, _ = accounts.begin_session("ann")
    accounts.end_session(signed_out)
    before, _ = accounts.begin_session("ann")
    accounts.put_user("ann", "ann", NewUser(password="another long password"))
    late, session = accounts.begin_session("ann")
    assert [accounts.session(each) for each in (signed_out, before)] == [None, None]
    assert accounts.session(late) == session
    clock.advance_to(clock.now_ns() + SESSION_NS)
    assert accounts.session(late) is None


def test_what_a_browser_shows_is_not_in_the_database(accounts: Accounts) -> None:
    shown, _ = accounts.begin_session("ann")
    with accounts._repository.reading() as connection:
        assert shown not in repr(connection.execute(select(sessions)).all())


def test_roles_need_users_and_groups_that_are_there(accounts: Accounts) -> None:
    accounts.set_role("root", "g", "ann", "editor")
    assert accounts.user("ann").roles == {"g": "editor"}
    assert accounts.groups()[0].members == {"ann": "editor"}
    accounts.set_role("root", "g", "ann", None)
    assert accounts.user("ann").roles == {}
    for group, user in (("g", "nobody"), ("nowhere", "ann")):
        with pytest.raises(UnknownError):
            accounts.set_role("root", group, user, "reader")


@pytest.mark.parametrize("name", ["", "a b", "../x", "urn:edgeflex:policy", "-a", "a" * 65, "ä", "ann\n"])
def test_a_name_that_is_none_is_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        accounts.put_user("root", name, NewUser())


def rsa(bits: int) -> dict[str, Any]:
    key = generate_private_key(65537, bits)
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "r"}


@pytest.mark.parametrize("name", [SYSTEM, DATABUS])
def test_no_user_has_a_name_by_which_the_service_acts(accounts: Accounts, name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        accounts.put_user("root", name, NewUser())


def test_public_keys_of_both_kinds_are_taken() -> None:
    assert len(checked_jwks({"keys": [KeyPair("one").jwk, rsa(2048)]})["keys"]) == 2


def public_pem(key: Any) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()  # type: ignore[no-any-return]


def test_a_public_key_in_pem_format_is_one_more_key_named_by_its_thumbprint(accounts: Accounts) -> None:
    first = KeyPair().private.public_key()
    accounts.put_user("root", "ann", NewUser(public_key=public_pem(first)))
    accounts.put_user("root", "ann", NewUser(public_key=public_pem(generate_private_key(65537, 2048).public_key())))
    keys = accounts.user("ann").jwks["keys"]
    assert [key["kty"] for key in keys] == ["OKP", "RSA"]
    assert all(len(key["kid"]) == 43 for key in keys)
    with pytest.raises(BadAccountError, match="another key has the `kid`"):
        accounts.put_user("root", "ann", NewUser(public_key=public_pem(first)))


def test_a_thumbprint_is_as_the_standard_has_it() -> None:
    """The example of RFC 8037, appendix A.3."""
    raw = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    pem = public_pem(Ed25519PublicKey.from_public_bytes(raw))
    assert jwk_of(pem)["kid"] == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize(
    ("pem", "told"),
    [
        ("", "no public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "no public key"),
        (KeyPair().pem.decode(), "replace it"),
        (public_pem(generate_curve_key(SECP256R1()).public_key()), "neither Ed25519 nor RSA"),
    ],
)
def test_what_is_no_public_key_is_told(pem: str, told: str) -> None:
    with pytest.raises(BadAccountError, match=told) as raised:
        jwk_of(pem)
    assert "MC4CAQ" not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("x", "a key set is"),
        ([KeyPair(str(at)).jwk for at in range(11)], "at most 10"),
        ([{**KeyPair().jwk, "kid": ""}], "needs a `kid`"),
        ([KeyPair().jwk, KeyPair().jwk], "another key has the `kid` 'one'"),
        ([{**KeyPair().jwk, "d": "secret"}], "private or shared"),
        ([{"kty": "oct", "kid": "a", "k": base64.b64encode(b"x" * 32).decode()}], "private or shared"),
        ([{"kty": "EC", "kid": "a"}], "`kty` is OKP"),
        ([{**KeyPair().jwk, "x": "AA"}], "cannot be read"),
        ([{**KeyPair().jwk, "crv": "X25519"}], "cannot be read"),
        ([rsa(1024)], "RSA needs 2048"),
        ([7], "needs a `kid`"),
    ],
)
def test_a_key_that_cannot_be_kept_is_told_without_quoting_it(keys: Any, told: str) -> None:
    with pytest.raises(BadAccountError, match=told) as raised:
        checked_jwks({"keys": keys})
    assert "secret" not in str(raised.value)


def test_what_is_told_of_a_user_has_the_roles_and_nothing_of_a_group_of_the_same_name(accounts: Accounts) -> None:
    accounts.put_group("root", "ann", "a group that is called as a user")
    accounts.set_role("root", "g", "ann", "reader")
    accounts.set_role("root", "ann", "root", "reader")
    accounts.put_group("root", "g_too", "")

    def told(condition: ColumnElement[bool]) -> list[tuple[str, str]]:
        return [(each.action, each.object) for each in accounts._repository.audit_entries(condition)][::-1]

    assert told(about_user("ann")) == [("add_user", "ann"), ("set_role", "g:ann")]
    assert told(about("g")) == [("put_group", "g"), ("set_role", "g:ann")]
    assert ("set_role", "ann:root") in told(about("ann"))
