"""The studio's web application."""

from __future__ import annotations

from typing import Any, cast

from litestar import Litestar, Response
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, ControllerRouterHandler, ExceptionHandlersMap, Receive, Scope, Send

from edgeflex_flow.studio import live, pages
from edgeflex_flow.studio.forwarded import Forwarded
from edgeflex_flow.studio.state import Studio
from edgeflex_flow.web import PROBLEMS, BodyGuard, http_problem, problem
from edgeflex_flow.web_pages import guard_answer

HANDLERS: tuple[ControllerRouterHandler, ...] = (
    pages.overview,
    pages.flow_page,
    pages.timeline,
    pages.letters,
    pages.static_file,
    pages.sign_in_form,
    pages.sign_in,
    pages.sign_out,
    live.live,
    live.picture,
    live.payload,
    live.replay,
    live.operate,
    live.health,
)
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


def _http_error(request: pages.AnyRequest, error: HTTPException) -> Response[Any]:
    return pages.page_or_problem(request, error) or http_problem(request, error)


ERRORS = cast("ExceptionHandlersMap", {pages.SignInNeeded: pages.sign_in_needed, HTTPException: _http_error})


class _LocalHost:
    """ASGI middleware for a studio that lets everybody on this computer look: another site's page must not be able to
    look, by a name of its own that leads here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name in LOCAL_HOSTS:
            await self._app(scope, receive, send)
            return
        answer = problem(421, "without a file of users the studio answers to this computer's own names only")
        await answer.to_asgi_response(None, None)(scope, receive, send)  # type: ignore[arg-type]


def make_app(studio: Studio, proxies: tuple[str, ...]) -> ASGIApp:
    """The application of a site."""
    app: ASGIApp = Litestar(
        list(HANDLERS),
        state=State({"studio": studio}),
        before_send=[guard_answer],
        exception_handlers={**PROBLEMS, **ERRORS},
        logging_config=None,  # else it would put handlers of its own in place of the program's
        openapi_config=None,
    )
    guarded: ASGIApp = Forwarded(BodyGuard(app), proxies, studio.base_path)
    return _LocalHost(guarded) if studio.door.is_open else guarded
