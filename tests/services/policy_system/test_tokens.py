from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm
from served_policies import AUDIENCE, BUS_AUDIENCE, KeyPair
from sqlalchemy import func, select

from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.errors import FatalError
from edgeflex_services.policy_system import tokens
from edgeflex_services.policy_system.accounts import NewUser
from edgeflex_services.policy_system.system import ISSUER, PolicySystem
from edgeflex_services.policy_system.tables import revoked_tokens
from edgeflex_services.policy_system.tokens import GRANTED_FOR_S, LEEWAY_S, CannotSignError, Refused

NS = 1_000_000_000
KEY = KeyPair()
RSA: RSAPrivateKey = generate_private_key(65537, 2048)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(int(time.time()) * NS)


@pytest.fixture
def system(tmp_path: Path, clock: VirtualClock) -> Iterator[PolicySystem]:
    made = PolicySystem(f"sqlite:///{tmp_path / 'policy.db'}", tmp_path, clock=clock)
    made.start(admin_password="a long enough password")
    rsa_jwk = {**RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True), "kid": "rsa"}
    made.accounts.put_user("admin", "site", NewUser(jwks={"keys": [KEY.jwk, rsa_jwk]}))
    made.accounts.put_user("admin", "other", NewUser(jwks={"keys": [KeyPair("own").jwk]}))
    made.changed()
    yield made
    made.close()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def by_hand(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = [b64(json.dumps(part).encode()) for part in (header, claims)]
    return ".".join([*parts, b64(signature)])


def claims(**changes: Any) -> dict[str, Any]:
    token = jwt.decode(KEY.token("site", **changes), options={"verify_signature": False})
    return dict(token)


def refused(system: PolicySystem, token: str) -> str:
    with pytest.raises(Refused) as raised:
        system.tokens.check(token)
    return str(raised.value)


def test_a_token_that_a_service_signs_itself_shows_it(system: PolicySystem) -> None:
    assert system.tokens.check(KEY.token("site")).name == "site"
    signed = jwt.encode(claims(), RSA, algorithm="RS256", headers={"kid": "rsa"})
    assert system.tokens.check(signed).name == "site"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"aud": "another-service"}, "Audience"),
        ({"aud": None}, "aud"),
        ({"exp": None}, "exp"),
        ({"iat": None}, "iat"),
        ({"jti": None}, "jti"),
        ({"jti": "x" * 129}, "jti"),
        ({"sub": None}, "sub"),
        ({"sub": "admin"}, "signs for itself"),
        ({"iss": "other"}, "has no key"),
        ({"iss": None}, "names no issuer"),
        ({"iss": ISSUER}, "has no key"),
        ({"exp": int(time.time()) + 10 * 86400}, "longer than"),
        ({"iat": int(time.time()) - 600, "exp": int(time.time()) - 300}, "expired"),
        ({"iat": int(time.time()) + 3600, "exp": int(time.time()) + 3900}, "future"),
        ({"nbf": int(time.time()) + 3600}, "not valid yet"),
        ({"exp": "soon"}, ""),
        ({"exp": float("inf")}, ""),
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(system: PolicySystem, changes: dict[str, Any], told: str) -> None:
    assert told in refused(system, KEY.token("site", **changes))


@pytest.mark.parametrize(
    "headers",
    [{"kid": "two"}, {"kid": 7}, {"kid": "../one"}, {"crit": ["exp"], "exp": 1}],
)
def test_a_token_with_a_wrong_header_is_refused(system: PolicySystem, headers: dict[str, Any]) -> None:
    header = {"alg": "EdDSA", "typ": "JWT", "kid": "one", **headers}
    signing = ".".join(b64(json.dumps(part).encode()) for part in (header, claims()))
    token = f"{signing}.{b64(KEY.private.sign(signing.encode()))}"
    assert refused(system, token)


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], None, "exp"])
def test_a_token_with_critical_extensions_is_refused_for_them(system: PolicySystem, crit: Any) -> None:
    header = {"alg": "EdDSA", "typ": "JWT", "kid": "one", "exp": 1, "b64": True}
    for extra, is_good in (({}, True), ({"crit": crit}, False)):
        signing = ".".join(b64(json.dumps(part).encode()) for part in ({**header, **extra}, claims()))
        token = f"{signing}.{b64(KEY.private.sign(signing.encode()))}"
        if is_good:
            assert system.tokens.check(token).name == "site"
        else:
            assert "crit" in refused(system, token)


def test_a_token_is_valid_from_its_beginning_on_but_for_how_far_clocks_may_be_apart(
    system: PolicySystem, clock: VirtualClock
) -> None:
    now_s = clock.now_ns() // NS
    token = KEY.token("site", iat=now_s, exp=now_s + 300, nbf=now_s + 60)
    clock.advance_to((now_s + 60 - LEEWAY_S) * NS - NS // 1000)
    assert refused(system, token) == "it is not valid yet"
    clock.advance_to((now_s + 60 - LEEWAY_S) * NS)
    assert system.tokens.check(token).name == "site"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "nOnE"])
def test_a_token_without_a_signature_is_refused(system: PolicySystem, algorithm: str) -> None:
    assert refused(system, by_hand({"alg": algorithm, "kid": "one"}, claims()))


def test_a_public_key_taken_for_a_shared_secret_signs_nothing(system: PolicySystem) -> None:
    """RS256 to HS256 confusion: the attacker knows the public key, and signs with its bytes."""
    public = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (public, public.strip(), KEY.jwk["x"].encode()):
        for kid in ("rsa", "one"):
            header = {"alg": "HS256", "typ": "JWT", "kid": kid}
            signing = ".".join(b64(json.dumps(part).encode()) for part in (header, claims()))
            signature = hmac.new(secret, signing.encode(), hashlib.sha256).digest()
            assert refused(system, f"{signing}.{b64(signature)}")


def test_a_key_of_one_kind_does_not_show_a_token_of_another(system: PolicySystem) -> None:
    signed = jwt.encode(claims(), RSA, algorithm="RS256", headers={"kid": "one"})
    assert refused(system, signed)
    for algorithm in ("RS384", "RS512", "PS256"):
        assert refused(system, jwt.encode(claims(), RSA, algorithm=algorithm, headers={"kid": "rsa"}))


def test_a_token_of_a_key_that_nobody_has_is_refused(system: PolicySystem) -> None:
    assert refused(system, KeyPair().token("site"))


@pytest.mark.parametrize("place", range(3))
def test_a_token_that_was_changed_on_the_way_is_refused(system: PolicySystem, place: int) -> None:
    parts = KEY.token("site").split(".")
    parts[place] = parts[place][:-2] + ("A" if parts[place][-2] != "A" else "B") + parts[place][-1]
    assert refused(system, ".".join(parts))


@pytest.mark.parametrize("text", ["", "a", "a.b.c", "." * 5000, "ä.ö.ü", "e30.e30.", "W10.W10.W10", "[" * 4000])
def test_what_is_no_token_is_refused(system: PolicySystem, text: str) -> None:
    assert refused(system, text)


def test_a_token_expires_also_when_it_was_checked_before(system: PolicySystem, clock: VirtualClock) -> None:
    token = KEY.token("site")
    system.tokens.check(token)
    clock.advance_to(clock.now_ns() + (305 + LEEWAY_S) * NS)
    assert "expired" in refused(system, token)


def test_a_revoked_token_is_refused_when_it_is_shown_again(system: PolicySystem) -> None:
    token, another = KEY.token("site"), KEY.token("site")
    system.tokens.check(token)
    system.tokens.revoke("site", token)
    assert "revoked" in refused(system, token)
    assert system.tokens.check(another).name == "site"


def test_a_token_for_the_databus_can_be_revoked_and_is_refused_for_both_at_once(system: PolicySystem) -> None:
    token = KEY.bus_token("site")
    assert system.tokens.check(token, on_bus=True).name == system.tokens.subject(token) == "site"
    assert f"it is for '{BUS_AUDIENCE}', not for '{AUDIENCE}'" in refused(system, token)
    both = KEY.token("site", aud=[AUDIENCE, BUS_AUDIENCE])
    assert "and for more" in refused(system, both)
    with pytest.raises(Refused, match="and for more"):
        system.tokens.check(both, on_bus=True)
    system.tokens.revoke("site", token)
    with pytest.raises(Refused, match="revoked"):
        system.tokens.check(token, on_bus=True)


def test_a_token_whose_check_outlasts_a_change_is_not_known_after_it(
    system: PolicySystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who holds a leaked key need only keep sending while the key is taken away."""
    token = KEY.token("site")
    real = tokens._key

    def slow(loaded: Any, issuer: str, kid: object) -> Any:
        key = real(loaded, issuer, kid)
        monkeypatch.undo()
        system.accounts.put_user("admin", "site", NewUser(jwks={"keys": []}))
        system.changed()
        return key

    monkeypatch.setattr(tokens, "_key", slow)
    system.tokens.check(token)
    assert refused(system, token)


def test_a_revocation_outlasts_another_token_of_the_same_name(system: PolicySystem, clock: VirtualClock) -> None:
    stolen = KEY.token("site", jti="twice")
    system.tokens.revoke("site", stolen)
    system.tokens.revoke("site", KEY.token("site", jti="twice2", exp=int(time.time()) + 20))
    clock.advance_to(clock.now_ns() + 60 * NS)
    system.tokens.revoke("site", KEY.token("site", jti="third", iat=clock.now_ns() // NS, exp=clock.now_ns() // NS + 9))
    assert "revoked" in refused(system, stolen)


def test_a_revocation_outlasts_a_clock_that_was_ahead(system: PolicySystem, clock: VirtualClock) -> None:
    """What is forgotten while the clock is wrong would be good again once it is right."""
    stolen, began_ns = KEY.token("site"), clock.now_ns()
    system.tokens.revoke("site", stolen)
    clock.advance_to(began_ns + 5 * 86400 * NS)
    ahead = KEY.token("site", iat=clock.now_ns() // NS, exp=clock.now_ns() // NS + 9)
    system.tokens.revoke("site", ahead)
    system.repository._clock = VirtualClock(began_ns)
    system.changed()
    assert "revoked" in refused(system, stolen)


def test_what_is_over_for_long_is_forgotten(system: PolicySystem, clock: VirtualClock) -> None:
    for _ in range(2):
        system.tokens.revoke("site", KEY.token("site", iat=clock.now_ns() // NS, exp=clock.now_ns() // NS + 9))
        clock.advance_to(clock.now_ns() + 8 * 86400 * NS)
    with system.repository.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(revoked_tokens)) == 1


@pytest.mark.parametrize("jti", ["a\0b", "a\ud800", "a\nb"])
def test_a_token_that_could_not_be_revoked_is_refused(system: PolicySystem, jti: str) -> None:
    assert "`jti`" in refused(system, KEY.token("site", jti=jti))


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
def test_a_number_that_is_too_large_is_refused(system: PolicySystem, claim: str) -> None:
    changes: dict[str, Any] = {claim: 10**400}
    assert refused(system, KEY.token("site", **changes))


def test_an_instance_without_the_key_of_another_serves_on(system: PolicySystem, tmp_path: Path) -> None:
    other = PolicySystem(f"sqlite:///{tmp_path / 'policy.db'}", tmp_path / "elsewhere")
    other.start(rotate_keys=True)
    other.accounts.disable("admin", "site", "stolen")
    system.changed()
    assert refused(system, KEY.token("site"))
    with pytest.raises(CannotSignError):
        system.tokens.grant("other")
    other.close()


def test_all_tokens_of_a_user_can_be_revoked_and_new_ones_are_good(system: PolicySystem, clock: VirtualClock) -> None:
    own, granted = KEY.token("site"), system.tokens.grant("site")
    system.accounts.revoke_tokens("admin", "site")
    system.changed()
    for token in (own, granted):
        assert "revoked" in refused(system, token)
    clock.advance_to(clock.now_ns() + (LEEWAY_S + 1) * NS)
    assert system.tokens.check(KEY.token("site", iat=clock.now_ns() // NS)).name == "site"


def test_a_token_from_a_clock_that_is_ahead_is_revoked_with_all_others(
    system: PolicySystem, clock: VirtualClock
) -> None:
    now_s = clock.now_ns() // NS
    system.accounts.revoke_tokens("admin", "site")
    system.changed()
    for ahead_s, is_good in ((LEEWAY_S - 1, False), (LEEWAY_S, False), (LEEWAY_S + 1, True)):
        clock.advance_to(max(clock.now_ns(), (now_s + ahead_s - LEEWAY_S + 1) * NS))
        token = KEY.token("site", iat=now_s + ahead_s)
        if is_good:
            assert system.tokens.check(token).name == "site"
        else:
            assert "revoked" in refused(system, token)


def test_a_disabled_users_token_is_refused_at_once(system: PolicySystem) -> None:
    token = KEY.token("site")
    system.tokens.check(token)
    system.accounts.disable("admin", "site", "stolen")
    system.changed()
    assert refused(system, token)


def test_a_key_that_was_taken_away_shows_nothing_any_more(system: PolicySystem) -> None:
    token, new = KEY.token("site"), KeyPair("new")
    system.accounts.put_user("admin", "site", NewUser(jwks={"keys": [KEY.jwk, new.jwk]}))
    system.changed()
    for good in (token, new.token("site")):
        assert system.tokens.check(good).name == "site"
    system.accounts.put_user("admin", "site", NewUser(jwks={"keys": [new.jwk]}))
    system.changed()
    assert refused(system, token)
    assert system.tokens.check(new.token("site")).name == "site"


def test_granted_tokens_hold_roles_and_are_shown_by_the_published_keys(system: PolicySystem) -> None:
    system.accounts.put_group("admin", "g", "")
    system.accounts.set_role("admin", "g", "site", "editor")
    system.changed()
    token = system.tokens.grant("site")
    assert system.tokens.check(token).roles == {"g": "editor"}
    keys = jwt.PyJWKSet.from_dict(system.tokens.jwks())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    told = jwt.decode(token, key, algorithms=["EdDSA"], audience=AUDIENCE, issuer=ISSUER)
    assert (told["sub"], told["roles"], told["admin"]) == ("site", {"g": "editor"}, False)


def test_after_a_rotation_old_tokens_are_good_until_they_expire(system: PolicySystem, clock: VirtualClock) -> None:
    old = system.tokens.grant("site")
    system.tokens.rotate("admin")
    assert len(system.tokens.jwks()["keys"]) == 2
    assert system.tokens.check(old).name == "site"
    assert system.tokens.check(system.tokens.grant("site")).name == "site"
    clock.advance_to(clock.now_ns() + 2 * GRANTED_FOR_S * NS)
    system.changed()
    assert len(system.tokens.jwks()["keys"]) == 1
    assert refused(system, old)


def test_nobody_can_be_named_as_who_signs_for_the_system(system: PolicySystem) -> None:
    """Else the keys of that user would show tokens of everybody."""
    forged = KEY.token("admin", iss=ISSUER)
    assert "has no key" in refused(system, forged)


def test_a_private_key_is_readable_by_its_owner_only(system: PolicySystem) -> None:
    (file,) = (system.folder / "keys").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_lost_signing_key_is_told_with_what_helps(system: PolicySystem, tmp_path: Path) -> None:
    for file in (system.folder / "keys").iterdir():
        file.unlink()
    again = PolicySystem(f"sqlite:///{tmp_path / 'policy.db'}", tmp_path)
    with pytest.raises(FatalError, match="--rotate-keys"):
        again.start()
    again.start(rotate_keys=True)
    assert again.tokens.check(again.tokens.grant("site")).name == "site"
    again.close()
