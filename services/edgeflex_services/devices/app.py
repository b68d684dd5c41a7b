"""The application of the device management service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from litestar import Litestar, Response, Router, get
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import PermissionDeniedException, ValidationException
from litestar.middleware import DefineMiddleware
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ExceptionHandlersMap

from edgeflex_flow import __version__
from edgeflex_flow.web import PROBLEMS, BodyGuard, http_problem, problem
from edgeflex_services.api_page import OperationsPage
from edgeflex_services.devices import LOG
from edgeflex_services.devices.answering import PATH, RETRY_S, AnyRequest, desk_of, how_asked, network_problem
from edgeflex_services.devices.api_devices import DeviceApi, LinkApi, QosApi
from edgeflex_services.devices.api_groups import GroupApi
from edgeflex_services.devices.api_operations import CallbackApi, OperationApi, RecordApi
from edgeflex_services.devices.desk import Desk
from edgeflex_services.devices.model import WORDS
from edgeflex_services.devices.network import NetworkError
from edgeflex_services.devices.store import StoreError
from edgeflex_services.devices.upkeep import Upkeep
from edgeflex_services.devices.who import Door

PROBE_S = 5.0
BODY_LIMIT_BYTES = 1024 * 1024
"""A thousand devices with the longest names."""


def make_app(desk: Desk, door: Door, compare_s: float) -> Litestar:
    """The application that serves a desk, which goes on with its work while the application runs."""

    @asynccontextmanager
    async def working(_app: Litestar) -> AsyncIterator[None]:
        desk.resume()
        upkeep = asyncio.create_task(Upkeep(desk, compare_s).go_on())
        try:
            yield
        finally:
            upkeep.cancel()
            await asyncio.gather(upkeep, return_exceptions=True)
            await desk.end()
            await desk.network.close()
            desk.book.close()

    routes = Router(PATH, route_handlers=[DeviceApi, QosApi, LinkApi, GroupApi, OperationApi, RecordApi, CallbackApi])
    return Litestar(
        [routes, live, ready],
        lifespan=[working],
        state=State({"desk": desk, "door": door, "health": _Health(desk)}),
        dependencies={"how": Provide(how_asked)},
        middleware=[DefineMiddleware(BodyGuard, limit_bytes=BODY_LIMIT_BYTES)],
        exception_handlers={**PROBLEMS, **ANSWERS},
        logging_config=None,  # else it would put handlers of its own in place of the program's
        openapi_config=OpenAPIConfig(
            title="5G device management",
            version=__version__,
            description="Devices of a grid in a mobile network: onboarding, quality of links, monitoring, groups.",
            path="/schema",
            render_plugins=[JsonRenderPlugin(), OperationsPage()],
            security=[{"bearer": []}],
            components=Components(
                security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")}
            ),
        ),
    )


class _Health:
    """Whether the file takes what is written, tried no oftener than the disk should bear."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._tried_s = -PROBE_S
        self._could = False

    def can_write(self) -> bool:
        if time.monotonic() - self._tried_s >= PROBE_S:
            self._tried_s, self._could = time.monotonic(), self._desk.book.can_write()
        return self._could


@get("/health/live", include_in_schema=False, sync_to_thread=False)
def live() -> dict[str, str]:
    return {"status": "live"}


@get("/health/ready", include_in_schema=False, sync_to_thread=False)
def ready(request: AnyRequest) -> Response[dict[str, Any]]:
    """Whether the file takes what is written, and what was counted since the service began."""
    desk = desk_of(request)
    can_write = request.app.state.health.can_write()
    told = {"status": "ready" if can_write else "the file takes nothing", "counts": dict(desk.counts)}
    return Response(told, status_code=200 if can_write else 503)


def _cannot_write(_: AnyRequest, error: StoreError) -> Response[Any]:
    LOG.error("%s", error)
    answer = problem(503, "the service cannot write now, and nothing was done")
    answer.headers.update({"Retry-After": str(RETRY_S)})
    return answer


def _denied(request: AnyRequest, error: PermissionDeniedException) -> Response[Any]:
    """Who tried what without the right to is written down."""
    book = desk_of(request).book
    with suppress(StoreError):
        what = f"{request.method} {request.url.path}"
        book.change(audit=[book.noted(request.state.user.name, "denied", what, "denied", error.detail)])
    return http_problem(request, error)


def _invalid(request: AnyRequest, error: ValidationException) -> Response[Any]:
    """In place of patterns, what they ask for."""
    found: Any = error.extra
    for each in found if isinstance(found, list) else ():
        for pattern, words in WORDS.items():
            each["message"] = each["message"].replace(f"`str` matching regex {pattern!r}", words)
    return http_problem(request, error)


ANSWERS = cast(
    "ExceptionHandlersMap",
    {
        NetworkError: network_problem,
        StoreError: _cannot_write,
        ValidationException: _invalid,
        PermissionDeniedException: _denied,
    },
)
