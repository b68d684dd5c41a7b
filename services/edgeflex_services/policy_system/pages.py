"""The pages for people, and the files that they load."""

from __future__ import annotations

from litestar import Response, Router, get
from litestar.di import Provide

from edgeflex_flow.web_pages import static_answer
from edgeflex_services.policy_system.pages_accounts import GroupPages, UserPages
from edgeflex_services.policy_system.pages_api import ApiPages
from edgeflex_services.policy_system.pages_common import PAGE_ERRORS, STATIC, provide_form, provide_visitor
from edgeflex_services.policy_system.pages_edit import EditPages
from edgeflex_services.policy_system.pages_events import EventPages, provide_wanted
from edgeflex_services.policy_system.pages_log import LogPages
from edgeflex_services.policy_system.pages_policies import PolicyPages
from edgeflex_services.policy_system.pages_sign import SignInPages


@get("/static/{name:str}", include_in_schema=False, sync_to_thread=False)
def static_file(name: str) -> Response[bytes]:
    """A file that pages load. Its address changes with what it holds."""
    return static_answer(STATIC, name)


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
