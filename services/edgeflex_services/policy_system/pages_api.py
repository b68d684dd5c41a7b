"""The page that tells people of the REST interface."""

from __future__ import annotations

from litestar import Controller, Response, get

from edgeflex_services.api_page import contents
from edgeflex_services.policy_system.documents import KINDS, schema_of
from edgeflex_services.policy_system.enforce import AnyRequest
from edgeflex_services.policy_system.pages_common import html, visitor_of


class ApiPages(Controller):
    path = "/api"
    include_in_schema = False

    @get("/", sync_to_thread=True)
    def page(self, request: AnyRequest) -> Response[str]:
        schema = request.app.openapi_schema.to_schema()
        told = contents(schema, {kind: schema_of(kind) for kind in KINDS})
        return html(request, "api.html", visitor_of(request), schema=schema, told=told)
