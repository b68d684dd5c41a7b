"""The APIs of CAMARA that the simulated network speaks."""

from __future__ import annotations

from litestar import Router

from edgeflex_services.network_simulator.camara_common import ERRORS, enter
from edgeflex_services.network_simulator.camara_links import ConnectivityInsights, DeviceReachabilityStatus
from edgeflex_services.network_simulator.camara_networks import DedicatedNetworkAccesses, DedicatedNetworks
from edgeflex_services.network_simulator.camara_qos import QosProfiles, QualityOnDemand
from edgeflex_services.network_simulator.camara_watches import InsightsSubscriptions, ReachabilitySubscriptions
from edgeflex_services.network_simulator.door import LateAnswers


def make_router() -> Router:
    """All of them, under the paths that their documents name."""
    return Router(
        "/",
        route_handlers=[
            QualityOnDemand,
            QosProfiles,
            DedicatedNetworks,
            DedicatedNetworkAccesses,
            DeviceReachabilityStatus,
            ReachabilitySubscriptions,
            ConnectivityInsights,
            InsightsSubscriptions,
        ],
        before_request=enter,
        middleware=[LateAnswers],
        exception_handlers=ERRORS,
        include_in_schema=False,
    )
