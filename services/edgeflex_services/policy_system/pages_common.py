"""What the pages for people share: who is signed in, forms that only our own pages can send, and how pages are made."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec
from anyio.to_thread import run_sync
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import MediaType, Request, Response
from litestar.datastructures import Cookie
from litestar.exceptions import HTTPException, PermissionDeniedException
from litestar.types import ExceptionHandlersMap, Message, Scope

from edgeflex_flow import __version__
from edgeflex_flow.units import NS_PER_S
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
from edgeflex_services.web import problem, title_of

HERE = Path(__file__).parent
COOKIE = "edgeflex_session"
MOST_FIELDS = 10_000
SECRET_FIELDS = ("csrf", "password", "now", "wanted", "again", "jwks")
"""What is never written into a page again; a key set may hold a private key by mistake."""
CANNOT_WRITE = "Nothing can be saved for now: the database takes nothing. What was to be saved is not; try it again."
PATH = re.compile(r"/(?:[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*)?/?(?:\?[A-Za-z0-9_.%&=+-]*)?")

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    # Not `no-referrer`: with it browsers send `Origin: null` with our own forms.
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


async def guard_answer(message: Message, _: Scope) -> None:
    """Tell browsers with every answer what it may be used for."""
    if message["type"] == "http.response.start":
        message["headers"] = [*message["headers"], *HEADERS]


class Static(NamedTuple):
    """A file that pages load."""

    body: bytes
    media_type: str
    digest: str


_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
STATIC: Mapping[str, Static] = {
    file.name: Static(file.read_bytes(), _TYPES[file.suffix], hashlib.sha256(file.read_bytes()).hexdigest()[:12])
    for file in sorted((HERE / "static").iterdir())
}
"""All of them by name: a path in a request is looked up here and never opened."""


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


def cookie_name(request: AnyRequest) -> str:
    """With https a name that browsers let nobody but this very host set."""
    return f"__Host-{COOKIE}" if request.url.scheme == "https" else COOKIE


def session_cookie(request: AnyRequest, shown: str | None) -> Cookie:
    """The cookie that shows a session; None: the one that ends it."""
    return Cookie(
        key=cookie_name(request),
        value=shown or "",
        path="/",
        max_age=None if shown else 0,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def visitor_of(request: AnyRequest) -> Visitor | None:
    shown = request.cookies.get(cookie_name(request))
    session = system_of(request).accounts.session(shown) if shown else None
    user = system_of(request).tokens.user(session.user) if session else None
    return Visitor(user, session) if user is not None and session is not None else None


def this_page(request: AnyRequest) -> str:
    query = request.scope["query_string"].decode("ascii", "replace")
    return request.url.path + (f"?{query}" if query else "")


def safe_path(path: str) -> str:
    """A path of this site; the start page for what leads anywhere else.

    >>> safe_path("/policies?q=x"), safe_path("//evil.example"), safe_path("javascript:1")
    ('/policies?q=x', '/', '/')
    """
    return path if PATH.fullmatch(path) and not path.startswith("//") else "/"


async def provide_visitor(request: AnyRequest) -> Visitor:
    """Who is signed in. Raises SignInNeeded, with what was typed."""
    visitor = await run_sync(visitor_of, request)
    if visitor is None:
        raise SignInNeeded(this_page(request), await read_form(request) if request.method == "POST" else None)
    return visitor


# Forms --------------------------------------------------------------------------------------------------------------


class Form(dict[str, list[str]]):
    """What was typed, by field."""

    def text(self, name: str) -> str:
        """The last value of a field, without spaces around it."""
        return self.get(name, [""])[-1].strip()

    def number(self, name: str) -> int:
        """Raises HTTPException for what is no small number: only our own fields hold them."""
        text = self.text(name)
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise HTTPException(f"'{name}' is no number", status_code=400)
        return int(text)


def check_origin(request: AnyRequest) -> None:
    """Refuse what another site's page sends. Browsers say with every POST where it comes from.

    Raises PermissionDenied.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    from_here = site == "same-origin" if site is not None else True
    if origin is not None:
        from_here = from_here and urlsplit(origin).netloc == request.headers.get("host")
    if not from_here or (site is None and origin is None):
        raise PermissionDeniedException("this was not sent from a page of the policy system")


async def read_form(request: AnyRequest) -> Form:
    check_origin(request)
    try:
        body = (await request.body()).decode("ascii")
        pairs = parse_qsl(body, keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError as error:
        raise HTTPException("the form cannot be read", status_code=400) from error
    form = Form()
    for name, value in pairs:
        form.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return form


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


TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
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
