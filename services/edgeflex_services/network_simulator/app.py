"""The simulated network's web application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar, get
from litestar.datastructures import State
from litestar.middleware import DefineMiddleware
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from edgeflex_flow import __version__
from edgeflex_flow.web import PROBLEMS, BodyGuard
from edgeflex_services.api_page import OperationsPage
from edgeflex_services.network_simulator import camara_api, control_api, nef_api
from edgeflex_services.network_simulator.simulation import Simulation


@get("/health/live", include_in_schema=False, sync_to_thread=False)
def live() -> dict[str, str]:
    return {"status": "live"}


def make_app(simulation: Simulation) -> Litestar:
    """The application by which a network is spoken to, and in which it lives."""

    @asynccontextmanager
    async def living(_app: Litestar) -> AsyncIterator[None]:
        async with simulation.running():
            yield

    security: list[dict[str, list[str]]] | None = None if simulation.token is None else [{"bearer": []}]
    return Litestar(
        [live, control_api.make_router(), camara_api.make_router(), nef_api.make_router()],
        lifespan=[living],
        state=State({"simulation": simulation}),
        middleware=[DefineMiddleware(BodyGuard, reads_text=False)],  # its standards say how that is refused
        exception_handlers=PROBLEMS,
        logging_config=None,  # else it would put handlers of its own in place of the program's
        openapi_config=OpenAPIConfig(
            title="Simulated network",
            version=__version__,
            description="What happens in a network that is not there. Its other APIs are those of CAMARA and 3GPP.",
            path="/schema",
            render_plugins=[JsonRenderPlugin(), OperationsPage()],
            security=security,
            components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
        ),
    )
