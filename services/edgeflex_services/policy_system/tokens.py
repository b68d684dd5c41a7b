"""Tokens: who sends a request. Those that services sign themselves, and those that the policy system grants.

Source: RFC 7519 (JWT), RFC 8725 (best practice: the key, not the token, says the algorithm), RFC 7517 (JWK sets),
RFC 8037 (EdDSA), RFC 6749 section 4.4 (client credentials).
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.exceptions import PyJWKError
from sqlalchemy import delete, insert, select, update

from edgeflex_flow.errors import FatalError
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.policy_system import LOG
from edgeflex_services.policy_system.accounts import ALGORITHMS, Accounts, User, jwk_of_key
from edgeflex_services.policy_system.repository import Repository, UnknownError
from edgeflex_services.policy_system.tables import revoked_tokens, signing_keys

BEARER = "Bearer "
"""Begins the header that holds a token."""

GRANTED_FOR_S = 300
LONGEST_LIFE_S = 86400
"""A token of a service's own that is valid for longer is refused: it could not be taken back by time."""
LEEWAY_S = 10
"""How far clocks may be apart."""
REVOKED_FOR_S = 7 * 86400
"""How long after its end a revoked token is remembered: the clock may be ahead now, and set right later."""
LONGEST_TOKEN = 4096
LONGEST_JTI = 128
MOST_KNOWN = 20_000
NEEDED = ["iss", "sub", "aud", "iat", "exp", "jti"]


class Refused(Exception):  # noqa: N818 - it is an answer, not a defect
    """A token that shows nobody. Its text is for the log; who sent it learns only that it is refused."""


class CannotSignError(Exception):
    """Tokens cannot be granted here: the key is not there."""


class Shown(NamedTuple):
    """Whom a token shows."""

    user: str
    issuer: str
    jti: str
    issued_s: float
    expires_s: float
    audience: str


@dataclass(frozen=True)
class _Loaded:
    """What tokens are checked against, as it was at one time, and those that were good then."""

    users: dict[str, User] = field(default_factory=dict)
    keys: dict[tuple[str, str], jwt.PyJWK] = field(default_factory=dict)
    revoked: set[tuple[str, str]] = field(default_factory=set)
    kid: str | None = None
    signing: Ed25519PrivateKey | None = None
    known: OrderedDict[str, Shown] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def user(self, name: str) -> User | None:
        """A user who is not disabled."""
        user = self.users.get(name)
        return None if user is None or user.disabled_because is not None else user

    def remember(self, token: str, shown: Shown) -> None:
        with self.lock:
            self.known[token] = shown
            if len(self.known) > MOST_KNOWN:
                self.known.popitem(last=False)


class Tokens:
    """Checks tokens and grants some. Checked ones are known until they expire or anything about accounts changes."""

    def __init__(self, repository: Repository, accounts: Accounts, folder: Path, audience: str, issuer: str) -> None:
        self._repository = repository
        self._accounts = accounts
        self._folder = folder
        self.audience = audience
        self.bus_audience = f"{audience}-databus"
        """Of tokens in messages of the databus, which others may hear: they are good for nothing else."""
        self.issuer = issuer
        self._loaded = _Loaded()

    def load(self) -> None:
        """Read users, keys and revoked tokens anew: what was known of tokens is forgotten."""
        users = {user.name: user for user in self._accounts.users()}
        keys: dict[tuple[str, str], jwt.PyJWK] = {}
        for user in users.values():
            keys |= {(user.name, key["kid"]): _public(key) for key in user.jwks.get("keys", ())}
        with self._repository.reading() as connection:
            rows = list(connection.execute(select(signing_keys).order_by(signing_keys.c.created_ns)).mappings())
            revoked = {(row.issuer, row.jti) for row in connection.execute(select(revoked_tokens))}
        now_ns = self._repository.now_ns()
        # A retired key still shows the tokens that it signed, until the last of them is over.
        good = [
            row
            for row in rows
            if row["retired_ns"] is None or now_ns < row["retired_ns"] + 2 * GRANTED_FOR_S * NS_PER_S
        ]
        keys |= {(self.issuer, row["kid"]): _public(msgspec.json.decode(row["jwk"])) for row in good}
        signing = next((row["kid"] for row in reversed(rows) if row["retired_ns"] is None), None)
        # All at once, what was verified included: a token that is being checked meanwhile is known to the old one only.
        self._loaded = _Loaded(users, keys, revoked, signing, None if signing is None else self._private(signing))

    def user(self, name: str) -> User | None:
        """A user as last loaded, who is not disabled."""
        return self._loaded.user(name)

    # Checking -------------------------------------------------------------------------------------------------------

    def check(self, token: str, *, on_bus: bool = False) -> User:
        """Whom a token shows, by REST or `on_bus`. Raises Refused."""
        now_s = self._repository.now_ns() / NS_PER_S
        loaded = self._loaded
        shown = loaded.known.get(token)
        if shown is None:
            shown = self._verified(loaded, token, now_s)
            loaded.remember(token, shown)
        if not shown.issued_s - LEEWAY_S <= now_s < shown.expires_s + LEEWAY_S:
            raise Refused("it has expired")
        wanted = self.bus_audience if on_bus else self.audience
        if shown.audience != wanted:
            raise Refused(f"it is for '{shown.audience}', not for '{wanted}'")
        user = loaded.user(shown.user)
        if user is None:
            raise Refused(f"user '{shown.user}' is not there or disabled")
        return user

    def _verified(self, loaded: _Loaded, token: str, now_s: float) -> Shown:
        if len(token) > LONGEST_TOKEN:
            raise Refused("it is too long")
        try:
            header = jwt.get_unverified_header(token)
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise Refused(f"it cannot be read: {error}") from error
        if not isinstance(issuer, str):
            raise Refused("it names no issuer")
        key = _key(loaded, issuer, header.get("kid"))
        if "crit" in header:
            raise Refused("it has critical extensions, which nobody here knows")
        try:
            # Times are compared below, by the clock of the service.
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=[self.audience, self.bus_audience],
                issuer=issuer,
                options={"require": NEEDED, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
            return self._shown(loaded, claims, issuer, now_s)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise Refused(str(error)) from error

    def _shown(self, loaded: _Loaded, claims: dict[str, Any], issuer: str, now_s: float) -> Shown:
        subject, jti = claims["sub"], claims["jti"]
        issued_s, expires_s = float(claims["iat"]), float(claims["exp"])
        if issuer not in (self.issuer, subject):
            raise Refused(f"'{issuer}' signs for itself, not for '{subject}'")
        if not expires_s - issued_s <= LONGEST_LIFE_S:
            raise Refused(f"it is valid for longer than {LONGEST_LIFE_S} s")
        if not issued_s - LEEWAY_S <= now_s:
            raise Refused("it comes from the future")
        if float(claims.get("nbf", issued_s)) - LEEWAY_S > now_s:
            raise Refused("it is not valid yet")
        told = [claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"]
        audiences = [each for each in (self.audience, self.bus_audience) if each in told]
        if len(audiences) > 1:
            raise Refused("it is for the databus, where others hear it, and for more")
        # What the database cannot keep could not be revoked.
        if not isinstance(jti, str) or not 0 < len(jti) <= LONGEST_JTI or not jti.isprintable():
            raise Refused("its `jti` is no short text")
        if (issuer, jti) in loaded.revoked:
            raise Refused("it was revoked")
        user = loaded.users.get(subject)
        # The clock of who signs may be ahead: else a token from before would pass for one from after.
        if user is not None and (issued_s - LEEWAY_S) * NS_PER_S <= user.revoked_ns:
            raise Refused("the user's tokens were revoked after it was made")
        return Shown(subject, issuer, jti, issued_s, expires_s, audiences[0])

    def subject(self, token: str) -> str:
        """The user in a token, by REST or on the databus. Raises Refused."""
        return self._verified(self._loaded, token, self._repository.now_ns() / NS_PER_S).user

    def revoke(self, actor: str, token: str) -> None:
        """Refuse one token from now on. Raises Refused when it is none of ours, which needs nothing more."""
        shown = self._verified(self._loaded, token, self._repository.now_ns() / NS_PER_S)
        expires_s = int(shown.expires_s)
        same = (revoked_tokens.c.issuer == shown.issuer) & (revoked_tokens.c.jti == shown.jti)
        with self._repository.writing() as connection:
            over = self._repository.now_ns() // NS_PER_S - REVOKED_FOR_S
            connection.execute(delete(revoked_tokens).where(revoked_tokens.c.expires_s < over))
            # Who signs may have used the name twice: the later end counts.
            known_s = connection.scalar(select(revoked_tokens.c.expires_s).where(same)) or 0
            connection.execute(delete(revoked_tokens).where(same))
            row = {"issuer": shown.issuer, "jti": shown.jti, "expires_s": max(expires_s, known_s)}
            connection.execute(insert(revoked_tokens).values(row))
            self._repository.note(connection, actor, "revoke_token", shown.user, {})

    # Granting -------------------------------------------------------------------------------------------------------

    def grant(self, name: str, *, for_bus: bool = False) -> str:
        """A token for a user who has shown who it is, with its roles for others who trust this system."""
        user = self.user(name)
        if user is None:
            raise UnknownError(f"there is no user '{name}'")
        kid, key = self._loaded.kid, self._loaded.signing
        if key is None:
            raise CannotSignError(f"the key '{self._file(kid or '')}' is not there")
        now_s = self._repository.now_ns() // NS_PER_S
        claims = {
            "iss": self.issuer,
            "sub": name,
            "aud": self.bus_audience if for_bus else self.audience,
            "iat": now_s,
            "exp": now_s + GRANTED_FOR_S,
            "jti": secrets.token_hex(16),
            "roles": dict(sorted(user.roles.items())),
            "admin": user.is_admin,
        }
        return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": kid})

    def rotate(self, actor: str) -> str:
        """Sign with a new key from now on; the ones before stay known for as long as tokens of theirs may live."""
        kid, key = secrets.token_hex(8), Ed25519PrivateKey.generate()
        self._keep(kid, key)
        jwk = {**jwk_of_key(key.public_key()), "alg": "EdDSA", "use": "sig", "kid": kid}
        now_ns = self._repository.now_ns()
        with self._repository.writing() as connection:
            connection.execute(
                update(signing_keys).where(signing_keys.c.retired_ns.is_(None)).values(retired_ns=now_ns)
            )
            row = {"kid": kid, "jwk": msgspec.json.encode(jwk).decode(), "created_ns": now_ns}
            connection.execute(insert(signing_keys).values(row))
            self._repository.note(connection, actor, "rotate_keys", kid, {})
        return kid

    def jwks(self) -> dict[str, Any]:
        """The public keys that show tokens of this system, for other services."""
        kids = {kid for issuer, kid in self._loaded.keys if issuer == self.issuer}
        with self._repository.reading() as connection:
            rows = list(connection.execute(select(signing_keys.c.jwk).where(signing_keys.c.kid.in_(kids))))
        return {"keys": [msgspec.json.decode(row[0]) for row in rows]}

    def check_signing(self, actor: str) -> None:
        """Make the first key by which tokens are signed. Raises FatalError when there is one, but not here."""
        loaded = self._loaded
        if loaded.kid is None:
            self.rotate(actor)
        elif loaded.signing is None:
            text = f"the key '{self._file(loaded.kid)}', by which tokens are signed, cannot be read"
            how = "instances share the folder of keys; give it back from a backup, or start once with --rotate-keys"
            raise FatalError(f"{text}: {how}")

    def _file(self, kid: str) -> Path:
        return self._folder / f"{kid}.pem"

    def _keep(self, kid: str, key: Ed25519PrivateKey) -> None:
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(self._file(kid), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())

    def _private(self, kid: str) -> Ed25519PrivateKey | None:
        """The key by which this instance signs; None if it is not here, which keeps it from nothing else."""
        try:
            key = serialization.load_pem_private_key(self._file(kid).read_bytes(), None)
        except (OSError, ValueError, TypeError):
            LOG.exception("the key '%s', by which tokens are signed, cannot be read", self._file(kid))
            return None
        assert isinstance(key, Ed25519PrivateKey)
        return key


def _key(loaded: _Loaded, issuer: str, kid: object) -> jwt.PyJWK:
    """The issuer's key of that name; of an issuer with one key, that, if the token names none. Raises Refused."""
    if kid is None:
        own = [key for (name, _), key in loaded.keys.items() if name == issuer]
        if len(own) != 1:
            raise Refused(f"it names no key, and '{issuer}' has {len(own)}")
        return own[0]
    key = loaded.keys.get((issuer, kid)) if isinstance(kid, str) else None
    if key is None:
        raise Refused(f"'{issuer}' has no key '{kid}'")
    return key


def _public(jwk: dict[str, Any]) -> jwt.PyJWK:
    try:
        return jwt.PyJWK(jwk, algorithm=ALGORITHMS[jwk["kty"]])
    except (PyJWKError, jwt.InvalidKeyError) as error:
        raise FatalError(f"key '{jwk.get('kid')}' in the database cannot be read") from error
