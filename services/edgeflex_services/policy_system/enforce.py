"""The policy enforcement point at the service's own door: who sends a request, and what they may do."""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import re
from typing import Any, Protocol, TypeAlias, cast

from anyio.to_thread import run_sync
from litestar import Request
from litestar.exceptions import ClientException, HTTPException, NotAuthorizedException, PermissionDeniedException

from edgeflex_flow.clock import Clock
from edgeflex_flow.limits import RateLimit
from edgeflex_services.policy_system import LOG
from edgeflex_services.policy_system.accounts import BLOCKED, Role, User
from edgeflex_services.policy_system.catalogue import Entry, Right
from edgeflex_services.policy_system.documents import NAME
from edgeflex_services.policy_system.events import EventService
from edgeflex_services.policy_system.journal import Entry as JournalEntry
from edgeflex_services.policy_system.system import PolicySystem
from edgeflex_services.policy_system.tokens import BEARER, Refused

AnyRequest: TypeAlias = Request[Any, Any, Any]
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="edgeflex-policy"'}
LONGEST_ID = 128
NOT_THERE = "there is no such policy, or you may not read it"
USER = "edgeflex.user"
"""Where a request keeps who sends it, once that is known."""
_NAME = re.compile(NAME)


class Door:
    """What is kept from request to request about who knocks in vain."""

    def __init__(self, clock: Clock) -> None:
        self.tokens = RateLimit(60, 60.0, clock)
        self.passwords = RateLimit(8, 300.0, clock)
        self.accounts = RateLimit(100, 300.0, clock)
        """Much higher, so that nobody can easily keep the owner of an account out by trying from elsewhere."""
        self.effects = RateLimit(2000, 60.0, clock)
        """By user: each is written down, and must not push out what others did."""
        self.told = RateLimit(300, 3600.0, clock)
        """Sign-ins in vain that are written down, of all addresses: they must not push out what else happened."""
        self.untold = 0
        self.hashing = asyncio.Semaphore(2)


class Knocked(Protocol):
    """Of the application's state, what is at its door."""

    system: PolicySystem
    door: Door


class _State(Knocked, Protocol):
    events: EventService


def state_of(request: AnyRequest) -> _State:
    return cast("_State", request.app.state)


def system_of(request: AnyRequest) -> PolicySystem:
    return state_of(request).system


def address_of(request: AnyRequest) -> str:
    return request.client.host if request.client is not None else "unknown"


class TooManyAttempts(HTTPException):
    """Too many attempts in vain."""

    status_code = 429


def retry_after(wait_s: float) -> dict[str, str]:
    """The header that says when to come again."""
    return {"Retry-After": str(math.ceil(wait_s))}


def refuse_many(limit: RateLimit, key: str) -> None:
    """Raise TooManyAttempts, with how long to wait, while a limit does not allow another attempt."""
    wait_s = limit.wait_s(key)
    if wait_s > 0:
        raise TooManyAttempts("too many attempts; try later", headers=retry_after(wait_s))


async def check_credentials(request: AnyRequest, name: str, secret: str) -> bool:
    """Whether a name goes with a client secret, which nobody can guess, or else with a password."""
    system = system_of(request)
    if system.tokens.user(name) is not None and system.accounts.check_secret(name, secret):
        return True
    return await check_password(request, name, secret)


async def check_password(request: AnyRequest, name: str, password: str) -> bool:
    """Whether a name goes with a password. Raises TooManyAttempts after some in vain.

    It takes as long for names that nobody has. Hashing runs in a thread, so that the service goes on meanwhile, and two
    at most, since each takes 19 MB. An attempt counts before its outcome is known: else many at once would be free.
    """
    state = state_of(request)
    tries = ((state.door.passwords, address_of(request)), (state.door.accounts, name[:64]))
    for limit, key in tries:
        refuse_many(limit, key)
    for limit, key in tries:
        limit.add(key)
    async with state.door.hashing:
        is_right = await run_sync(state.system.accounts.check_password, name, password)
    if not is_right or state.system.tokens.user(name) is None:
        LOG.info("wrong name or password from %s", address_of(request))
        write_down_failure(state, name, address_of(request), request.url.path)
        return False
    for limit, key in tries:
        limit.take_back(key)
    return True


def write_down_failure(state: Knocked, name: str, address: str, path: str) -> None:
    """Write down who was named and from where. A name that nobody has is not told: it may be a password."""
    door, system = state.door, state.system
    if door.told.wait_s("") > 0:
        door.untold += 1
        return
    door.told.add("")
    untold, door.untold = door.untold, 0
    is_known = system.tokens.user(name) is not None
    system.journal.add(
        JournalEntry(
            time_ns=system.repository.now_ns(),
            kind="sign_in",
            group="",
            user=name if is_known else "",
            source=address,
            action="sign_in_failed",
            why="wrong password" if is_known else "a name that nobody has, or of an account that is disabled",
            did=f"at {path}" + (f"; before it, {untold} were not written down" if untold else ""),
        )
    )


def user_of(request: AnyRequest) -> User:
    """Who sends the request, by its token. Raises NotAuthorizedException, which tells nothing more."""
    scope = cast("dict[str, Any]", request.scope)
    if USER not in scope:
        scope[USER] = _shown_by(request)
        system_of(request).traffic.count(scope[USER].name)
    user: User = scope[USER]
    return user


def _shown_by(request: AnyRequest) -> User:
    header = request.headers.get("authorization", "")
    state = state_of(request)
    if header.startswith(BEARER):
        try:
            return state.system.tokens.check(header[len(BEARER) :])
        except Refused as error:
            address = address_of(request)
            # A good token is let in whatever others at the same address did.
            refuse_many(state.door.tokens, address)
            state.door.tokens.add(address)
            LOG.info("token of %s refused: %s", address, error)
    raise NotAuthorizedException("a valid token is needed", headers=CHALLENGE)


def reader_of(request: AnyRequest, group: str) -> User:
    """Who sends the request. Raises PermissionDeniedException for who is blocked in the group.

    An answer without policies would have the flows of a site give up their last good values.
    """
    user = user_of(request)
    if user.roles.get(group) == BLOCKED and not user.is_admin:
        raise PermissionDeniedException("blocked in this group")
    return user


def admin_of(request: AnyRequest) -> User:
    """Who sends the request, who must be an administrator."""
    user = user_of(request)
    if not user.is_admin:
        raise PermissionDeniedException("only administrators may")
    return user


def member_of(request: AnyRequest, role: Role, group: str) -> User:
    """Who sends the request, who must have this role in a group, or one that holds more."""
    user = user_of(request)
    if not user.may(role, group):
        raise PermissionDeniedException(f"role '{role}' in the group is needed")
    return user


def decoded_id(text: str, what: str) -> str:
    """The name in a base64url text. It is an encoding, no protection: what it holds is checked like any other text.

    Raises ClientException.

    >>> decoded_id("cm9jb2ZfdHJpZ2dlcg", "policy_id")
    'rocof_trigger'
    """
    try:
        if len(text) > LONGEST_ID:
            raise ValueError
        padded = text + "=" * (-len(text) % 4)
        name = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True).decode("utf-8")
        if not _NAME.fullmatch(name):
            raise ValueError
    except (ValueError, binascii.Error) as error:
        raise ClientException(f"'{what}' is no base64url text of a name") from error
    return name


def policy_of(request: AnyRequest, user: User, group: str, policy_id: str, right: Right = "read") -> Entry:
    """A policy to which the user has a right. One that may not be read is as one that is not there.

    Raises NotFound or PermissionDenied.
    """
    catalogue = system_of(request).catalogue
    entry = catalogue.entry(user, group, policy_id)
    if entry is None:
        raise HTTPException(NOT_THERE, status_code=404)
    if not entry.may(user, right):
        raise PermissionDeniedException("you may read this policy, not change it")
    return entry
