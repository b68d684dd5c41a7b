"""What the pages for people share: who is signed in, forms that only our own pages can send, and how pages are made."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import msgspec
from anyio.to_thread import run_sync
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, PermissionDeniedException
from litestar.types import ExceptionHandlersMap

from edgeflex_flow import __version__
from edgeflex_flow.units import NS_PER_S
from edgeflex_flow.web import problem, title_of
from edgeflex_flow.web_pages import LOOK, Form, cookie_name, read_form, static_files, templates_in, this_path
from edgeflex_services.policy_system import LOG
from edgeflex_services.policy_system.accounts import BadAccountError, Session, User
from edgeflex_services.policy_system.enforce import AnyRequest, retry_after, system_of
from edgeflex_services.policy_system.pages_words import (
    DAYS,
    field_in_words,
    fields_in_words,
    label_of,
    rule_in_words,
    value_in_words,
)
from edgeflex_services.policy_system.repository import CannotWriteError, UnknownError
from edgeflex_services.policy_system.tables import WRITE_WAIT_S

HERE = Path(__file__).parent
COOKIE = "edgeflex_session"
SECRET_FIELDS = ("csrf", "password", "now", "wanted", "again", "jwks")
"""What is never written into a page again; a key set may hold a private key by mistake."""
CANNOT_WRITE = "Nothing can be saved for now: the database takes nothing. What was to be saved is not; try it again."
STATIC = static_files(HERE / "static", LOOK)
"""What pages load."""


# Who is signed in ---------------------------------------------------------------------------------------------------


class Visitor(NamedTuple):
    """Somebody who is signed in."""

    user: User
    session: Session


class SignInNeeded(HTTPException):
    """Nobody is signed in. Holds what was typed, so that it is there again afterwards."""

    status_code = 401

    def __init__(self, then: str, kept: Form | None = None) -> None:
        super().__init__("you are not signed in")
        self.then = then
        self.kept = kept


def visitor_of(request: AnyRequest) -> Visitor | None:
    shown = request.cookies.get(cookie_name(request, COOKIE))
    session = system_of(request).accounts.session(shown) if shown else None
    user = system_of(request).tokens.user(session.user) if session else None
    return Visitor(user, session) if user is not None and session is not None else None


async def provide_visitor(request: AnyRequest) -> Visitor:
    """Who is signed in. Raises SignInNeeded, with what was typed."""
    visitor = await run_sync(visitor_of, request)
    if visitor is None:
        raise SignInNeeded(this_path(request), await read_form(request) if request.method == "POST" else None)
    return visitor


# Forms --------------------------------------------------------------------------------------------------------------


async def provide_form(request: AnyRequest, visitor: Visitor) -> Form:
    """What somebody who is signed in sends with a form of this session. Raises PermissionDenied."""
    form = await read_form(request)
    if not hmac.compare_digest(form.text("csrf").encode(), visitor.session.csrf.encode()):
        raise PermissionDeniedException("this form belongs to another session; go back and load the page again")
    return form


# Pages --------------------------------------------------------------------------------------------------------------


def moment(time_ns: int | None) -> str:
    """UTC, to the second."""
    if time_ns is None:
        return "never"
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S")


def machine_moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ago(time_ns: int, now_ns: int) -> str:
    """How long ago, roughly.

    >>> ago(0, 90 * NS_PER_S), ago(0, 3 * 86400 * NS_PER_S)
    ('1 min ago', '3 days ago')
    """
    past_s = max((now_ns - time_ns) // NS_PER_S, 0)
    for length_s, name in ((86400, "day"), (3600, "hour"), (60, "min")):
        if past_s >= length_s:
            count = past_s // length_s
            plural = "s" if count > 1 and name != "min" else ""
            return f"{count} {name}{plural} ago"
    return f"{past_s} s ago"


def policy_path(group: str, policy_id: str, *more: str) -> str:
    return "/policies/" + "/".join(quote(part, safe="") for part in (group, policy_id, *more))


def asset(name: str) -> str:
    return f"/static/{name}?v={STATIC[name].digest}"


TEMPLATES = templates_in(HERE / "templates")
_WEEK = list(DAYS)


def _pairs(options: Iterable[Any]) -> list[tuple[str, str]]:
    """Options of a list to choose from, each shown as it is."""
    return [(str(option), str(option)) for option in options]


def _by_week(options: Iterable[str]) -> list[str]:
    """Days as they follow each other; anything else by the alphabet."""
    return sorted(options, key=lambda option: (_WEEK.index(option) if option in _WEEK else len(_WEEK), option))


def _detail_in_words(detail: str) -> str:
    """The detail of an entry of the audit log."""
    told = {label_of(name): each for name, each in msgspec.json.decode(detail).items() if each not in ("", None, [])}
    return value_in_words(told) if told else ""


TEMPLATES.filters |= {
    "pairs": _pairs,
    "by_week": _by_week,
    "detail": _detail_in_words,
    "fields": fields_in_words,
    "label": label_of,
    "place_of_field": field_in_words,
    "moment": moment,
    "machine_moment": machine_moment,
    "rule": rule_in_words,
    "value": value_in_words,
    "pretty": lambda value: msgspec.json.format(msgspec.json.encode(value), indent=2).decode(),
}
TEMPLATES.globals |= {
    "asset": asset,
    "policy_path": policy_path,
    "program_version": __version__,
}


def html(
    request: AnyRequest, template: str, visitor: Visitor | None, *, status: int = 200, **values: Any
) -> Response[str]:
    """A page. Nothing of it is kept by browsers: whoever uses the computer next sees nothing."""
    now_ns = system_of(request).repository.now_ns()
    text = TEMPLATES.get_template(template).render(
        visitor=visitor,
        user=None if visitor is None else visitor.user,
        csrf="" if visitor is None else visitor.session.csrf,
        here=request.url.path,
        ago=lambda time_ns: ago(time_ns, now_ns),
        now_ns=now_ns,
        **values,
    )
    return Response(text, status_code=status, media_type=MediaType.HTML, headers={"Cache-Control": "no-store"})


def html_form(
    request: AnyRequest,
    template: str,
    visitor: Visitor,
    errors: Mapping[str, str] | None,
    typed: Form | None,
    **values: Any,
) -> Response[str]:
    """A page with a form: as it is at first, or again with what was typed and what is wrong with it."""
    status = 422 if errors else 200
    return html(request, template, visitor, status=status, errors=errors or {}, typed=typed or Form(), **values)


def see_other(path: str, **query: str) -> Response[None]:
    """Go on to another page, so that loading it again repeats nothing."""
    told = "&".join(f"{name}={quote(text, safe='')}" for name, text in query.items())
    location = f"{path}?{told}" if told else path
    return Response(None, status_code=303, headers={"Location": location, "Cache-Control": "no-store"})


def manages(user: User, groups: Mapping[str, Any] | list[str]) -> list[str]:
    """The groups, of those, that a user manages."""
    return [name for name in groups if user.may("manager", name)]


# What went wrong ----------------------------------------------------------------------------------------------------


def error_page(request: AnyRequest, status: int, text: str) -> Response[str]:
    visitor = visitor_of(request)
    return html(request, "error.html", visitor, status=status, title=title_of(status), text=text)


def _http_error(request: AnyRequest, error: HTTPException) -> Response[str]:
    answer = error_page(request, error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer


def _not_there(request: AnyRequest, error: UnknownError) -> Response[str]:
    return error_page(request, 404, str(error))


def _wrong(request: AnyRequest, error: Exception) -> Response[str]:
    return error_page(request, 422, str(error))


def _cannot_write(request: AnyRequest, error: CannotWriteError) -> Response[str]:
    LOG.error("%s %s: %s", request.method, request.url.path, error)
    answer = error_page(request, 503, CANNOT_WRITE)
    answer.headers.update(retry_after(WRITE_WAIT_S))
    return answer


def _unforeseen(request: AnyRequest, error: Exception) -> Response[str]:
    LOG.error("%s %s", request.method, request.url.path, exc_info=error)
    return error_page(request, 500, "An error of the service, which its log tells.")


def _sign_in_needed(request: AnyRequest, error: SignInNeeded) -> Response[Any]:
    if error.kept is None:
        return see_other("/sign-in", then=error.then)
    kept = [(name, value) for name, values in error.kept.items() for value in values if name not in SECRET_FIELDS]
    return html(request, "sign_in.html", None, status=401, then=error.then, name="", problem="", kept=kept)


PAGE_ERRORS = cast(
    "ExceptionHandlersMap",
    {
        SignInNeeded: _sign_in_needed,
        HTTPException: _http_error,
        UnknownError: _not_there,
        BadAccountError: _wrong,
        CannotWriteError: _cannot_write,
        msgspec.ValidationError: _wrong,
        Exception: _unforeseen,
    },
)


def page_or_problem(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """Where nothing is: a page for people, a problem for programs."""
    if "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/"):
        return error_page(request, error.status_code, "There is nothing at this address.")
    return problem(error.status_code, error.detail)
