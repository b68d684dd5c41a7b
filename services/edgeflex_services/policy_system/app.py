"""The policy system's web application."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from litestar import Litestar, Response, get
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ControllerRouterHandler, ExceptionHandlersMap

from edgeflex_flow import __version__
from edgeflex_flow.web import PROBLEMS, BodyGuard, problem
from edgeflex_flow.web_pages import guard_answer
from edgeflex_services.policy_system import LOG
from edgeflex_services.policy_system.accounts import BadAccountError
from edgeflex_services.policy_system.api_accounts import AuditApi, GroupApi, UserApi
from edgeflex_services.policy_system.api_events import EventApi
from edgeflex_services.policy_system.api_policies import AccessPoint, PolicyRepository
from edgeflex_services.policy_system.api_tokens import TokenApi
from edgeflex_services.policy_system.documents import DocumentError
from edgeflex_services.policy_system.enforce import AnyRequest, Door, retry_after, system_of
from edgeflex_services.policy_system.events import BadReportError, EventService, MayNotAskError, TooManyRequestsError
from edgeflex_services.policy_system.pages import PAGES
from edgeflex_services.policy_system.pages_common import CANNOT_WRITE, page_or_problem
from edgeflex_services.policy_system.repository import CannotWriteError, ConflictError, UnknownError
from edgeflex_services.policy_system.system import PolicySystem
from edgeflex_services.policy_system.tables import WRITE_WAIT_S
from edgeflex_services.policy_system.tokens import CannotSignError

HANDLERS: tuple[ControllerRouterHandler, ...] = (
    AccessPoint,
    PolicyRepository,
    EventApi,
    UserApi,
    GroupApi,
    AuditApi,
    TokenApi,
)


@get("/health/live", include_in_schema=False, sync_to_thread=False)
def live() -> dict[str, str]:
    return {"status": "live"}


@get("/health/ready", include_in_schema=False, sync_to_thread=True)
def ready(request: AnyRequest) -> Response[dict[str, Any]]:
    """Whether the database takes what is written, and what was counted since the service began."""
    system = system_of(request)
    can_write = system.can_write()
    told = {"status": "ready" if can_write else "the database takes nothing"}
    counts = {name: count() for name, count in system.counts.items()}
    return Response({**told, "counts": counts}, status_code=200 if can_write else 503)


def _not_there(_: AnyRequest, error: UnknownError) -> Response[dict[str, Any]]:
    return problem(404, str(error))


def _conflict(_: AnyRequest, error: ConflictError) -> Response[dict[str, Any]]:
    return problem(409, str(error))


def _wrong_document(_: AnyRequest, error: DocumentError) -> Response[dict[str, Any]]:
    return problem(
        422, "the document is no policy", errors=[{"place": place, "text": text} for place, text in error.problems]
    )


def _wrong(_: AnyRequest, error: Exception) -> Response[dict[str, Any]]:
    return problem(422, str(error))


def _may_not(_: AnyRequest, error: MayNotAskError) -> Response[dict[str, Any]]:
    return problem(403, str(error))


def _too_many(_: AnyRequest, error: TooManyRequestsError) -> Response[dict[str, Any]]:
    answer = problem(429, str(error))
    answer.headers.update(retry_after(error.wait_s))
    return answer


def _cannot_write(_: AnyRequest, error: CannotWriteError) -> Response[dict[str, Any]]:
    LOG.error("the database takes nothing: %s", error)
    answer = problem(503, CANNOT_WRITE)
    answer.headers.update(retry_after(WRITE_WAIT_S))
    return answer


def _cannot_sign(_: AnyRequest, error: CannotSignError) -> Response[dict[str, Any]]:
    LOG.error("%s", error)
    return problem(503, "tokens cannot be granted here for now")


ANSWERS = cast(
    "ExceptionHandlersMap",
    {
        UnknownError: _not_there,
        ConflictError: _conflict,
        DocumentError: _wrong_document,
        BadAccountError: _wrong,
        BadReportError: _wrong,
        MayNotAskError: _may_not,
        TooManyRequestsError: _too_many,
        CannotSignError: _cannot_sign,
        CannotWriteError: _cannot_write,
        msgspec.ValidationError: _wrong,
        NotFoundException: page_or_problem,
    },
)


def make_app(system: PolicySystem, events: EventService) -> Litestar:
    """The application that serves a system, which somebody else starts and closes."""
    return Litestar(
        [live, ready, *HANDLERS, PAGES],
        state=State({"system": system, "events": events, "door": Door(system.clock)}),
        middleware=[BodyGuard],
        before_send=[guard_answer],
        exception_handlers={**PROBLEMS, **ANSWERS},
        logging_config=None,  # else it would put handlers of its own in place of the program's
        openapi_config=OpenAPIConfig(
            title="edgeFLEX policy system",
            version=__version__,
            path="/schema",
            render_plugins=[],
            use_handler_docstrings=True,
            components=Components(
                security_schemes={"token": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")}
            ),
            security=[{"token": []}],
        ),
    )
