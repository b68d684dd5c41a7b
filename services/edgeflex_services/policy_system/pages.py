"""The pages for people, and the files that they load."""

from __future__ import annotations

from collections.abc import Mapping

from litestar import Response, Router, get
from litestar.di import Provide
from litestar.exceptions import NotFoundException

from edgeflex_services.policy_system.pages_accounts import GroupPages, UserPages
from edgeflex_services.policy_system.pages_api import ApiPages
from edgeflex_services.policy_system.pages_common import PAGE_ERRORS, STATIC, provide_form, provide_visitor
from edgeflex_services.policy_system.pages_edit import EditPages
from edgeflex_services.policy_system.pages_events import EventPages, provide_wanted
from edgeflex_services.policy_system.pages_log import LogPages
from edgeflex_services.policy_system.pages_policies import PolicyPages
from edgeflex_services.policy_system.pages_sign import SignInPages

FOR_EVER: Mapping[str, str] = {"Cache-Control": "public, max-age=31536000, immutable"}


@get("/static/{name:str}", include_in_schema=False, sync_to_thread=False)
def static_file(name: str) -> Response[bytes]:
    """A file that pages load. Its address changes with what it holds."""
    file = STATIC.get(name)
    if file is None:
        raise NotFoundException("there is no such file")
    return Response(file.body, media_type=file.media_type, headers=FOR_EVER)


PAGES = Router(
    "/",
    route_handlers=[
        static_file,
        SignInPages,
        PolicyPages,
        EditPages,
        UserPages,
        GroupPages,
        LogPages,
        EventPages,
        ApiPages,
    ],
    dependencies={
        "visitor": Provide(provide_visitor),
        "form": Provide(provide_form),
        "wanted": Provide(provide_wanted, sync_to_thread=False),
    },
    exception_handlers=PAGE_ERRORS,
)
