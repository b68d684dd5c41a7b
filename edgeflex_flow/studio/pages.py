"""The studio's pages: shells that the server makes, which scripts fill with what is live; and signing in."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import quote

from anyio.to_thread import run_sync
from litestar import MediaType, Request, Response, get, post
from litestar.exceptions import HTTPException, NotAuthorizedException, PermissionDeniedException
from litestar.params import PathParameter, QueryParameter

from edgeflex_flow import __version__
from edgeflex_flow.studio import LOG
from edgeflex_flow.studio.state import Studio, studio_of
from edgeflex_flow.studio.users import Visitor
from edgeflex_flow.web import title_of
from edgeflex_flow.web_pages import (
    LOOK,
    Form,
    cookie_name,
    read_form,
    safe_path,
    session_cookie,
    static_answer,
    static_files,
    templates_in,
    this_path,
)

AnyRequest: TypeAlias = Request[Any, Any, Any]
InPath: TypeAlias = Annotated[str, PathParameter()]
InQuery: TypeAlias = Annotated[str, QueryParameter()]

HERE = Path(__file__).parent
COOKIE = "edgeflex_studio"
STATIC = static_files(HERE / "static", HERE / "static" / "vendor", LOOK)
TEMPLATES = templates_in(HERE / "templates")
WRONG = "Name and password do not go together."
VERSION = hashlib.sha256("".join(each.digest for each in STATIC.values()).encode()).hexdigest()[:12]
"""Stands in the addresses of all files: a script finds the others beside it, and browsers keep none of before."""


def _cookie(request: AnyRequest) -> str:
    """One for each site: browsers give a host all its cookies, whatever the port, and a proxy shows several."""
    studio = studio_of(request)
    return f"{COOKIE}_{hashlib.sha256(f'{studio.site} {studio.base_path}'.encode()).hexdigest()[:8]}"


def _cookie_name(request: AnyRequest) -> str:
    return cookie_name(request, _cookie(request))


class SignInNeeded(HTTPException):
    """Nobody is signed in."""

    status_code = 401

    def __init__(self, then: str) -> None:
        super().__init__("you are not signed in")
        self.then = then


def visitor_of(request: AnyRequest) -> Visitor | None:
    return studio_of(request).door.visitor(request.cookies.get(_cookie_name(request), ""))


def looker(request: AnyRequest) -> Visitor:
    """Who looks at a page. Raises SignInNeeded."""
    visitor = visitor_of(request)
    if visitor is None:
        raise SignInNeeded(this_path(request))
    return visitor


def reader(request: AnyRequest) -> Visitor:
    """Who asks for data. Raises NotAuthorizedException."""
    visitor = visitor_of(request)
    if visitor is None:
        raise NotAuthorizedException("you are not signed in")
    return visitor


async def operator(request: AnyRequest) -> Visitor:
    """Who does something with a request that only our own pages can send. Raises NotAuthorized, PermissionDenied."""
    visitor = reader(request)
    form = await read_form(request)
    if not visitor.may_operate:
        raise PermissionDeniedException("you may look, and not operate")
    if not hmac.compare_digest(form.text("csrf").encode(), visitor.csrf.encode()):
        raise PermissionDeniedException("this page belongs to another session; load it again")
    return visitor


def page(
    request: AnyRequest, template: str, visitor: Visitor | None, *, status: int = 200, **values: Any
) -> Response[str]:
    """A page. Browsers keep nothing of it."""
    studio = studio_of(request)

    def asset(name: str) -> str:
        assert name in STATIC, name
        return f"{studio.base_path}/static/{VERSION}/{name}"

    text = TEMPLATES.get_template(template).render(
        visitor=visitor,
        is_open=studio.door.is_open,
        site=studio.site,
        base=studio.base_path,
        here=request.url.path,
        asset=asset,
        program_version=__version__,
        **values,
    )
    return Response(text, status_code=status, media_type=MediaType.HTML, headers={"Cache-Control": "no-store"})


def see_other(studio: Studio, path: str) -> Response[None]:
    return Response(None, status_code=303, headers={"Location": studio.base_path + path, "Cache-Control": "no-store"})


@get("/", sync_to_thread=False)
def overview(request: AnyRequest) -> Response[str]:
    return page(request, "overview.html", looker(request))


@get("/flows/{name:str}", sync_to_thread=False)
def flow_page(request: AnyRequest, name: InPath) -> Response[str]:
    visitor = looker(request)
    model = studio_of(request).model
    if model.status is not None and name not in model.pictures:
        raise HTTPException(f"There is no flow '{name}' at this site.", status_code=404)
    return page(request, "flow.html", visitor, name=name)


@get("/timeline", sync_to_thread=False)
def timeline(request: AnyRequest) -> Response[str]:
    return page(request, "timeline.html", looker(request))


@get("/letters", sync_to_thread=False)
def letters(request: AnyRequest) -> Response[str]:
    return page(request, "letters.html", looker(request))


@get("/static/{version:str}/{name:str}", sync_to_thread=False)
def static_file(version: InPath, name: InPath) -> Response[bytes]:
    """A file that pages load."""
    if version != VERSION:
        raise HTTPException("this is of another version; load the page again", status_code=404)
    return static_answer(STATIC, name)


@get("/sign-in", sync_to_thread=False)
def sign_in_form(request: AnyRequest, then: InQuery = "/") -> Response[Any]:
    if visitor_of(request) is not None:
        return see_other(studio_of(request), safe_path(then))
    return page(request, "sign_in.html", None, then=safe_path(then), name="", problem="")


@post("/sign-in", status_code=200)
async def sign_in(request: AnyRequest) -> Response[Any]:
    """Begin a new session, whatever the browser showed before."""
    form = await read_form(request)
    name, then = form.text("name"), safe_path(form.text("then"))
    studio = studio_of(request)
    wait_s = studio.attempts.wait_s(address_of(request), name)
    if wait_s > 0:
        told = f"Too many attempts. Try again in {wait_s:.0f} s."
        refused = page(request, "sign_in.html", None, status=429, then=then, name=name, problem=told)
        refused.headers["Retry-After"] = f"{wait_s:.0f}"
        return refused
    # It counts before its outcome is known: else many at once would be free.
    studio.attempts.add(address_of(request), name)
    async with studio.hashing:
        is_right = await run_sync(studio.door.check, name, _password(form))
    if not is_right:
        LOG.warning("wrong name or password from %s", address_of(request))
        return page(request, "sign_in.html", None, status=401, then=then, name=name, problem=WRONG)
    studio.attempts.take_back(address_of(request), name)
    studio.door.end(request.cookies.get(_cookie_name(request), ""))
    answer = see_other(studio, then)
    answer.set_cookie(session_cookie(request, _cookie(request), studio.door.begin(name)))
    LOG.info("%s signed in from %s", name, address_of(request))
    return answer


@post("/sign-out", status_code=303)
async def sign_out(request: AnyRequest) -> Response[None]:
    visitor = visitor_of(request)
    form = await read_form(request)
    if visitor is not None and not hmac.compare_digest(form.text("csrf").encode(), visitor.csrf.encode()):
        raise PermissionDeniedException("this page belongs to another session; load it again")
    studio = studio_of(request)
    studio.door.end(request.cookies.get(_cookie_name(request), ""))
    answer = see_other(studio, "/sign-in")
    answer.set_cookie(session_cookie(request, _cookie(request), None))
    answer.headers["Clear-Site-Data"] = '"cache"'
    return answer


def _password(form: Form) -> str:
    """As it was typed: it may begin or end with a space."""
    return form.get("password", [""])[-1]


def address_of(request: AnyRequest) -> str:
    return request.client.host if request.client is not None else "unknown"


def sign_in_needed(request: AnyRequest, error: SignInNeeded) -> Response[Any]:
    then = error.then if error.then != "/" else ""
    return see_other(studio_of(request), "/sign-in" + (f"?then={quote(then, safe='/')}" if then else ""))


def page_or_problem(request: AnyRequest, error: HTTPException) -> Response[Any] | None:
    """A page for people; None for programs."""
    if "text/html" not in request.headers.get("accept", ""):
        return None
    return page(
        request,
        "error.html",
        visitor_of(request),
        status=error.status_code,
        title=title_of(error.status_code),
        text=error.detail,
    )
