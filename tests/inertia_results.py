"""Results of estimating inertia, for tests of what shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from edgeflex_flow.messages import InertiaEstimate


def inertia_estimate(device: str, status: str = "ok", **facts: Any) -> InertiaEstimate:
    """An estimate with these facts, the others plain."""
    plain = {"type": "inertia_estimate", "event_id": "e", "method": "event", "nominal_hz": 60.0, "time_ns": 0}
    plain |= {"begin_ns": 0, "end_ns": 1, "rows": 420, "rated_power_mva": 1000.0}
    return msgspec.convert({**plain, "device": device, "status": status, **facts}, InertiaEstimate)
