"""Who there is: users (people and services), groups, roles, passwords, and the keys by which services sign tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWKError
from msgspec import Meta
from sqlalchemy import Connection, delete, insert, select, update

from edgeflex_flow.passwords import LONGEST_PASSWORD, SHORTEST_PASSWORD, Passwords
from edgeflex_services.policy_system.documents import NAME, Name
from edgeflex_services.policy_system.repository import PUT_GROUP, Repository, UnknownError
from edgeflex_services.policy_system.tables import groups, members, sessions, users

Role: TypeAlias = Literal["blocked", "reader", "reporter", "editor", "manager"]
BLOCKED: Role = "blocked"
"""Refused all that the group has, whatever else gives a right to it."""
ROLES: tuple[Role, ...] = ("reader", "reporter", "editor", "manager")
"""What members of a group may, each also what stands before it: read its policies, ask for data, tell effects; report
events; save policies; say who is a member and who may read a policy."""

MOST_KEYS = 10
SMALLEST_RSA_BITS = 2048
SESSION_NS = 8 * 3600 * 1_000_000_000
"""How long a person stays signed in."""

_NAME = re.compile(NAME)

ALGORITHMS = {"OKP": "EdDSA", "RSA": "RS256"}
"""The one way to sign with each type of key: what a token says of its algorithm never chooses."""


class BadAccountError(ValueError):
    """An account cannot be so."""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person or a service."""

    name: str
    about: str = ""
    is_admin: bool = False
    has_password: bool = False
    has_secret: bool = False
    jwks: dict[str, Any] = {}
    """Public keys of a service that signs its own tokens (RFC 7517)."""
    revoked_ns: int = 0
    """Tokens from before are refused."""
    disabled_because: str | None = None
    roles: dict[str, Role] = {}
    """By group."""

    @property
    def groups(self) -> frozenset[str]:
        """Those in which the user has a role and is not blocked."""
        return frozenset(name for name, role in self.roles.items() if role != BLOCKED)

    def may(self, role: Role, group: str) -> bool:
        """Whether the user has a role in a group, or one that holds more."""
        if self.is_admin:
            return True
        own = self.roles.get(group, BLOCKED)
        return own != BLOCKED and ROLES.index(own) >= ROLES.index(role)


class Group(msgspec.Struct, frozen=True):
    """Policies that belong together, and who may do what with them."""

    name: str
    about: str
    members: dict[str, Role]


class NewUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user is to be. Parts that are left out stay as they are."""

    about: Annotated[str, Meta(max_length=400)] | None = None
    is_admin: bool | None = None
    password: Annotated[str, Meta(min_length=SHORTEST_PASSWORD, max_length=LONGEST_PASSWORD)] | None = None
    jwks: Annotated[dict[str, Any], Meta(max_length=5)] | None = None
    public_key: Annotated[str, Meta(max_length=10_000, description="PEM of one more key.")] | None = None


class Session(msgspec.Struct, frozen=True):
    """Somebody who is signed in to the page."""

    user: str
    csrf: str
    """What forms of this session hold, so that no other page can post in its name."""


class Accounts:
    """Users and groups in the database of a repository, and what they can be checked against."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._passwords = Passwords()

    # Users ----------------------------------------------------------------------------------------------------------

    def users(self) -> list[User]:
        """All users by name."""
        with self._repository.reading() as connection:
            roles: dict[str, dict[str, Role]] = {}
            for row in connection.execute(select(members)).mappings():
                roles.setdefault(row["user"], {})[row["group"]] = row["role"]
            rows = connection.execute(select(users).order_by(users.c.name)).mappings()
            return [_user(row, roles.get(row["name"], {})) for row in rows]

    def user(self, name: str) -> User:
        """A user. Raises UnknownError."""
        with self._repository.reading() as connection:
            row = connection.execute(select(users).where(users.c.name == name)).mappings().first()
            if row is None:
                raise UnknownError(f"there is no user '{name}'")
            found = connection.execute(select(members).where(members.c.user == name)).mappings()
            return _user(row, {each["group"]: each["role"] for each in found})

    def put_user(self, actor: str, name: str, wanted: NewUser) -> None:
        """Make a user, or change one. Raises BadAccountError."""
        msgspec.convert(name, Name)
        values: dict[str, Any] = {
            field: getattr(wanted, field) for field in ("about", "is_admin") if getattr(wanted, field) is not None
        }
        if wanted.password is not None:
            values["password_hash"] = self._passwords.hash(wanted.password)
        with self._repository.writing() as connection:
            if wanted.jwks is not None or wanted.public_key is not None:
                values["jwks"] = msgspec.json.encode(_keys_of(connection, name, wanted)).decode()
            told = sorted(values)
            if connection.scalar(select(users.c.name).where(users.c.name == name)) is None:
                fresh = {"about": "", "is_admin": False, "jwks": '{"keys":[]}', "revoked_ns": 0}
                connection.execute(insert(users).values({**fresh, **values, "name": name}))
                self._repository.note(connection, actor, "add_user", name, {"fields": told})
            elif values:
                self._keep_an_admin(connection, name, is_admin=wanted.is_admin)
                connection.execute(update(users).where(users.c.name == name).values(values))
                if wanted.password is not None:
                    connection.execute(delete(sessions).where(sessions.c.user == name))
                self._repository.note(connection, actor, "change_user", name, {"fields": told})

    def new_secret(self, actor: str, name: str) -> str:
        """A new client secret of a service, told this once. Raises UnknownError."""
        secret = secrets.token_urlsafe(32)
        self._change(actor, name, "new_secret", {"secret_hash": _sha256(secret)}, {})
        return secret

    def disable(self, actor: str, name: str, why: str) -> None:
        """Refuse a user from now on, with tokens and sessions that are out. Raises UnknownError, BadAccountError."""
        values = {"disabled_because": why, "revoked_ns": self._repository.now_ns()}
        self._change(actor, name, "disable_user", values, {"why": why})

    def enable(self, actor: str, name: str) -> None:
        """Allow a user again; tokens from before stay refused."""
        self._change(actor, name, "enable_user", {"disabled_because": None}, {})

    def revoke_tokens(self, actor: str, name: str) -> None:
        """Refuse all tokens that a user has now."""
        self._change(actor, name, "revoke_tokens", {"revoked_ns": self._repository.now_ns()}, {})

    def _change(self, actor: str, name: str, action: str, values: Mapping[str, Any], detail: Mapping[str, Any]) -> None:
        with self._repository.writing() as connection:
            if values.get("disabled_because") is not None:
                self._keep_an_admin(connection, name, is_admin=False)
            changed = connection.execute(update(users).where(users.c.name == name).values(dict(values)))
            if changed.rowcount == 0:
                raise UnknownError(f"there is no user '{name}'")
            if "revoked_ns" in values:
                connection.execute(delete(sessions).where(sessions.c.user == name))
            self._repository.note(connection, actor, action, name, detail)

    @staticmethod
    def _keep_an_admin(connection: Connection, name: str, *, is_admin: bool | None) -> None:
        """Refuse what would leave nobody who can give rights."""
        if is_admin is not False:
            return
        able = users.c.is_admin & users.c.disabled_because.is_(None)
        admins = set(connection.scalars(select(users.c.name).where(able)))
        if admins == {name}:
            raise BadAccountError(f"'{name}' is the only administrator")

    # Groups ---------------------------------------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        """All groups by name, with their members."""
        with self._repository.reading() as connection:
            found: dict[str, dict[str, Role]] = {}
            for row in connection.execute(select(members).order_by(members.c.user)).mappings():
                found.setdefault(row["group"], {})[row["user"]] = row["role"]
            rows = connection.execute(select(groups).order_by(groups.c.name)).mappings()
            return [Group(row["name"], row["about"], found.get(row["name"], {})) for row in rows]

    def put_group(self, actor: str, name: str, about: str) -> None:
        """Make a group, or change what is said about it."""
        msgspec.convert(name, Name)
        with self._repository.writing() as connection:
            changed = connection.execute(update(groups).where(groups.c.name == name).values(about=about))
            if changed.rowcount == 0:
                connection.execute(insert(groups).values(name=name, about=about))
            self._repository.note(connection, actor, PUT_GROUP, name, {"about": about})

    def set_role(self, actor: str, group: str, user: str, role: Role | None, why: str = "") -> None:
        """Give a user a role in a group, or none. Raises UnknownError."""
        with self._repository.writing() as connection:
            for table, name, what in ((users, user, "user"), (groups, group, "group")):
                if connection.scalar(select(table.c.name).where(table.c.name == name)) is None:
                    raise UnknownError(f"there is no {what} '{name}'")
            connection.execute(delete(members).where(members.c.user == user, members.c.group == group))
            if role is not None:
                connection.execute(insert(members).values({"user": user, "group": group, "role": role}))
            self._repository.note(connection, actor, "set_role", f"{group}:{user}", {"role": role, "why": why})

    def block(self, actor: str, group: str, user: str, why: str) -> None:
        """Refuse a user all that a group has, until somebody gives a role there again. Raises UnknownError."""
        self.set_role(actor, group, user, BLOCKED, why)

    # Signing in -----------------------------------------------------------------------------------------------------

    def check_password(self, name: str, password: str) -> bool:
        """Whether it is the password of a user who may sign in. It takes as long for names that nobody has."""
        return self._passwords.check(self._hash_of(name, users.c.password_hash), password)

    def check_secret(self, name: str, secret: str) -> bool:
        """Whether it is the client secret of a service that is not disabled."""
        known = self._hash_of(name, users.c.secret_hash)
        return hmac.compare_digest(known or "", _sha256(secret))

    def _hash_of(self, name: str, column: Any) -> str | None:
        if not _NAME.fullmatch(name):  # nobody has it, and PostgreSQL takes no NUL
            return None
        with self._repository.reading() as connection:
            found: str | None = connection.scalar(
                select(column).where(users.c.name == name, users.c.disabled_because.is_(None))
            )
        return found

    def begin_session(self, user: str) -> tuple[str, Session]:
        """Sign somebody in; the text that the browser shows from now on, of which only a digest is kept."""
        shown, csrf, now_ns = secrets.token_urlsafe(32), secrets.token_urlsafe(32), self._repository.now_ns()
        row = {
            "digest": _sha256(shown),
            "user": user,
            "csrf": csrf,
            "begun_ns": now_ns,
            "expires_ns": now_ns + SESSION_NS,
        }
        with self._repository.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.expires_ns < now_ns))
            connection.execute(insert(sessions).values(row))
            self._repository.note(connection, user, "sign_in", user, {})
        return shown, Session(user, csrf)

    def session(self, shown: str) -> Session | None:
        """The session of a browser that shows this; None if there is none, or it is over."""
        with self._repository.reading() as connection:
            row = connection.execute(select(sessions).where(sessions.c.digest == _sha256(shown))).mappings().first()
        if row is None or not row["begun_ns"] <= self._repository.now_ns() < row["expires_ns"]:
            return None
        return Session(row["user"], row["csrf"])

    def end_session(self, shown: str) -> None:
        """Sign out."""
        with self._repository.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.digest == _sha256(shown)))


def checked_jwks(jwks: Mapping[str, Any]) -> dict[str, Any]:
    """Public keys as they may be kept. Raises BadAccountError that says which one cannot be, and why."""
    keys = jwks.get("keys")
    if not isinstance(keys, list) or len(keys) > MOST_KEYS:
        raise BadAccountError(f"a key set is {{'keys': […]}} with at most {MOST_KEYS} keys (RFC 7517)")
    seen: list[str] = []
    for at, key in enumerate(keys):
        kid = _checked_kid(at, key)
        if kid in seen:
            raise BadAccountError(f"key {at}: another key has the `kid` '{kid}'")
        seen.append(kid)
    return {"keys": keys}


def _keys_of(connection: Connection, name: str, wanted: NewUser) -> dict[str, Any]:
    """The key set that a user is to have: the one that is given, else the one before, and a key more."""
    jwks = wanted.jwks
    if jwks is None:
        known = connection.scalar(select(users.c.jwks).where(users.c.name == name))
        jwks = msgspec.json.decode(known) if known else {"keys": []}
    if wanted.public_key is not None:
        jwks = {"keys": [*checked_jwks(jwks)["keys"], jwk_of(wanted.public_key)]}
    return checked_jwks(jwks)


def jwk_of(pem: str) -> dict[str, Any]:
    """A public key in PEM format as a JWK. Raises BadAccountError."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = "; this is a private key: replace it, and give its public part" if "PRIVATE" in pem else ""
        raise BadAccountError(f"it is no public key in PEM format{hint}") from error
    return jwk_of_key(key)


def jwk_of_key(key: object) -> dict[str, Any]:
    """A public key as a JWK, named by its thumbprint (RFC 7638). Raises BadAccountError."""
    if isinstance(key, Ed25519PublicKey):
        jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
    elif isinstance(key, RSAPublicKey):
        jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
    else:
        raise BadAccountError("the key is neither Ed25519 nor RSA")
    needed: dict[str, Any] = {name: jwk[name] for name in ("crv", "e", "kty", "n", "x") if name in jwk}
    thumbprint = hashlib.sha256(msgspec.json.encode(needed, order="sorted")).digest()
    return {**needed, "kid": base64.urlsafe_b64encode(thumbprint).decode().rstrip("=")}


def _checked_kid(at: int, key: object) -> str:
    if not isinstance(key, dict) or not isinstance(key.get("kid"), str) or not key["kid"]:
        raise BadAccountError(f"key {at}: it needs a `kid`")
    if {"d", "k", "p", "q"} & key.keys():
        raise BadAccountError(f"key {at}: it is private or shared; give the public key only, and replace this one")
    if key.get("kty") not in ALGORITHMS:
        raise BadAccountError(f"key {at}: `kty` is OKP (Ed25519) or RSA")
    try:
        public = jwt.PyJWK(key, algorithm=ALGORITHMS[key["kty"]]).key
    except (PyJWKError, jwt.InvalidKeyError, ValueError, TypeError) as error:
        raise BadAccountError(f"key {at}: it cannot be read as a public key") from error
    if key["kty"] == "RSA" and public.key_size < SMALLEST_RSA_BITS:
        raise BadAccountError(f"key {at}: {public.key_size} bits; RSA needs {SMALLEST_RSA_BITS} or more")
    kid: str = key["kid"]
    return kid


def _user(row: Any, roles: Mapping[str, Role]) -> User:
    return User(
        name=row["name"],
        about=row["about"],
        is_admin=row["is_admin"],
        has_password=row["password_hash"] is not None,
        has_secret=row["secret_hash"] is not None,
        jwks=msgspec.json.decode(row["jwks"]),
        revoked_ns=row["revoked_ns"],
        disabled_because=row["disabled_because"],
        roles=dict(roles),
    )


def _sha256(text: str) -> str:
    """Of secrets with 256 bits of chance, for which a slow hash would add nothing."""
    return hashlib.sha256(text.encode()).hexdigest()
