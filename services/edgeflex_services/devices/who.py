"""Who asks: tokens that the policy system granted, and what their roles in its groups allow here.

Source: RFC 7519 (JWT), RFC 8725 (the key, not the token, says the algorithm), RFC 7517 (JWK sets), RFC 6750 (bearer).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

import httpx
import jwt
import msgspec
from jwt.exceptions import PyJWKError
from litestar.exceptions import HTTPException, NotAuthorizedException, PermissionDeniedException

from edgeflex_services.devices import LOG

Role: TypeAlias = Literal["reader", "editor", "manager"]
LEVELS: Final = {"reader": 0, "reporter": 0, "editor": 1, "manager": 2}
"""Of the policy system's roles. Readers see devices and links; editors change qualities and watches; managers bring
devices and groups in and take them out."""
LEEWAY_S: Final = 10.0
KEYS_FOR_S: Final = 300.0
"""How long keys are believed while the policy system can be asked again."""
KEYS_AT_MOST_S: Final = 86_400.0
"""How long while it cannot: a network must stay manageable while the policy system is away."""
ASK_AGAIN_S: Final = 5.0
LONGEST_TOKEN: Final = 4096
KEYS_PATH: Final = "/.well-known/jwks.json"
NEEDED: Final = ["iss", "sub", "aud", "iat", "exp", "jti"]
ALGORITHM: Final = "EdDSA"
"""By which the policy system signs."""
CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="edgeflex-devices"'}


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    is_admin: bool = False
    roles: Mapping[str, str] = field(default_factory=dict)

    def may(self, role: Role, owner: str) -> bool:
        """Whether the user has a role in a group, or one that holds more."""
        level = LEVELS.get(self.roles.get(owner, ""))
        return self.is_admin or (level is not None and level >= LEVELS[role])

    def need(self, role: Role, owner: str) -> None:
        """Raise PermissionDeniedException where the user may not."""
        if not self.may(role, owner):
            raise PermissionDeniedException(f"user '{self.name}' is no {role} of group '{owner}'")


ANYONE: Final = User("anyone", is_admin=True)


class Door(Protocol):
    """Tells who asks by what a request shows."""

    async def user(self, authorization: str) -> User:
        """Raises NotAuthorizedException, or 503 while that cannot be told."""
        ...


class OpenDoor:
    """Anyone may do everything: for trying it out on one machine."""

    async def user(self, authorization: str) -> User:
        del authorization
        return ANYONE


class PolicyDoor:
    """Believes tokens that a policy system signed, by the keys that it publishes."""

    def __init__(self, client: httpx.AsyncClient, url: str, audience: str) -> None:
        self._client = client
        self._url = url.rstrip("/") + KEYS_PATH
        self._audience = audience
        self._keys: dict[str, jwt.PyJWK] = {}
        self._got_s = -KEYS_AT_MOST_S
        self._asked_s = -ASK_AGAIN_S
        self._asking = asyncio.Lock()

    async def user(self, authorization: str) -> User:
        kind, _, token = authorization.partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or not token:
            raise _refused("a token of the policy system is needed")
        if len(token) > LONGEST_TOKEN:
            raise _refused("the token is too long")
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise _refused("the token cannot be read") from error
        key = await self._key(kid if isinstance(kid, str) else "")
        return self._shown(token, key)

    def _shown(self, token: str, key: jwt.PyJWK) -> User:
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                leeway=LEEWAY_S,
                options={"require": NEEDED},
            )
            return _user(claims)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            LOG.info("a token was refused: %s", error)
            raise _refused("the token is refused") from error

    async def _key(self, kid: str) -> jwt.PyJWK:
        now_s = time.monotonic()
        is_old = now_s - self._got_s > KEYS_FOR_S
        if (is_old or kid not in self._keys) and now_s - self._asked_s > ASK_AGAIN_S:
            async with self._asking:
                if now_s - self._asked_s > ASK_AGAIN_S:
                    await self._ask()
        if time.monotonic() - self._got_s > KEYS_AT_MOST_S:
            text = "the policy system cannot be asked for its keys: who you are cannot be told"
            raise HTTPException(status_code=503, detail=text, headers={"Retry-After": f"{ASK_AGAIN_S:.0f}"})
        key = self._keys.get(kid)
        if key is None:
            raise _refused("the token is signed by nobody who is known here")
        return key

    async def _ask(self) -> None:
        self._asked_s = time.monotonic()
        try:
            answer = await self._client.get(self._url)
            answer.raise_for_status()
            told = msgspec.json.decode(answer.content, type=dict[str, list[dict[str, Any]]])
            keys = {str(each.get("kid")): jwt.PyJWK(each) for each in told["keys"]}
        except (httpx.HTTPError, msgspec.MsgspecError, PyJWKError, KeyError) as error:
            LOG.warning("%s: the keys of the policy system cannot be read: %s", self._url, error)
            return
        self._keys = keys
        self._got_s = time.monotonic()


def _user(claims: dict[str, Any]) -> User:
    roles = msgspec.convert(claims.get("roles", {}), type=dict[str, str])
    return User(str(claims["sub"]), is_admin=claims.get("admin") is True, roles=roles)


def _refused(text: str) -> NotAuthorizedException:
    return NotAuthorizedException(text, headers=CHALLENGE)
