"""The APIs of 3GPP's Network Exposure Function that the simulated network speaks."""

from __future__ import annotations

from litestar import Router

from edgeflex_services.network_simulator.door import LateAnswers
from edgeflex_services.network_simulator.nef_common import ERRORS, enter
from edgeflex_services.network_simulator.nef_groups import LanGroups
from edgeflex_services.network_simulator.nef_monitoring import MonitoringEvents
from edgeflex_services.network_simulator.nef_sessions import AsSessionWithQos


def make_router() -> Router:
    """All of them, under the paths that their documents name."""
    return Router(
        "/",
        route_handlers=[AsSessionWithQos, MonitoringEvents, LanGroups],
        before_request=enter,
        middleware=[LateAnswers],
        exception_handlers=ERRORS,
        include_in_schema=False,
    )
