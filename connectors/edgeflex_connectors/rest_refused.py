"""Why a service may have refused a client: what its own token and the answer tell, since services tell nothing.

Source: RFC 9110 (401, 403, Date), RFC 7519 (claims).
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import msgspec

from edgeflex_connectors.http_client import Answer

CLOCKS_APART_S = 10.0
"""Services let clocks differ by so much; `Date` tells whole seconds, and the answer was on its way."""
SHOWN = 100

Part = TypeVar("Part")


class _Header(msgspec.Struct, frozen=True):
    kid: str = ""


class _Claims(msgspec.Struct, frozen=True):
    iss: str = ""
    sub: str = ""
    aud: str | list[str] = ""
    nbf: float | None = None
    iat: float | None = None
    exp: float | None = None


def about_refusal(answer: Answer, token: str, now_s: float) -> str:
    """What a person should look at after a 401 or 403, as words that follow those of the answer. Never the token.

    `token` is what was shown, empty if nothing was; `now_s` the time here, seconds since 1970.

    >>> about_refusal(Answer(401, "", {}, b""), "", 0.0)
    'no token was shown: the connection has no `auth`'
    """
    if not token:
        return "no token was shown: the connection has no `auth`"
    try:
        header, claims = _read(token)
    except (ValueError, RecursionError):
        return "the token tells nothing of itself: was it taken back, or is it for another service?"
    if answer.status != 401:
        return f"the token is good; look at the rights of user {claims.sub[:SHOWN]!r} there"
    return "; ".join(_doubts(answer, header, claims, now_s))


def _read(token: str) -> tuple[_Header, _Claims]:
    """What a JSON Web Token says, its signature not looked at. Raises ValueError."""
    header, claims, _ = token.split(".")
    return _part(header, _Header), _part(claims, _Claims)


def _part(text: str, kind: type[Part]) -> Part:
    return msgspec.json.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=kind)


def _doubts(answer: Answer, header: _Header, claims: _Claims, now_s: float) -> Iterator[str]:
    if (ahead_s := _ahead_s(answer, now_s)) is not None and abs(ahead_s) > CLOCKS_APART_S:
        where = "ahead of" if ahead_s > 0 else "behind"
        yield f"the clock here is {abs(ahead_s):.0f} s {where} that of the service"
    if claims.exp is not None and claims.exp < now_s:
        yield f"the token expired at {_time(claims.exp)}"
    begin_s = max(claims.nbf or 0.0, claims.iat or 0.0)
    if begin_s > now_s:
        yield f"the token is not valid before {_time(begin_s)}"
    audience = claims.aud if isinstance(claims.aud, str) else " ".join(claims.aud)
    parts = {"issuer": claims.iss, "user": claims.sub, "audience": audience, "key": header.kid}
    said = ", ".join(f"{what} {text[:SHOWN]!r}" for what, text in parts.items() if text)
    yield f"the token says {said or 'nothing'}: does the service know this user and key, and want this audience?"


def _ahead_s(answer: Answer, now_s: float) -> float | None:
    """How far the time here is ahead of the service's; None if that is not known."""
    try:
        return now_s - parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return None


def _time(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s"
