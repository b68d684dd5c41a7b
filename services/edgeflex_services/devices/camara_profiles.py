"""Which qualities a network offers.

Source: CAMARA qos-profiles 1.1.0.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from edgeflex_services.devices.camara_api import CamaraApi

SECONDS: Final = {
    "Days": 86400.0,
    "Hours": 3600.0,
    "Minutes": 60.0,
    "Seconds": 1.0,
    "Milliseconds": 1e-3,
    "Microseconds": 1e-6,
    "Nanoseconds": 1e-9,
}
BIT_PER_S: Final = {"bps": 1.0, "kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9, "Tbps": 1e12}


class _Quantity(msgspec.Struct, frozen=True):
    """The standard wants neither of the two."""

    value: float | None = None
    unit: str | None = None

    def times(self, units: dict[str, float]) -> float | None:
        factor = units.get(self.unit or "")
        return None if self.value is None or factor is None else self.value * factor


class _Profile(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    status: Literal["ACTIVE", "INACTIVE", "DEPRECATED"]
    packet_delay_budget: _Quantity = _Quantity()
    jitter: _Quantity = _Quantity()
    packet_error_loss_rate: int | None = None
    target_min_downstream_rate: _Quantity = _Quantity()
    target_min_upstream_rate: _Quantity = _Quantity()
    priority: int | None = None
    max_duration: _Quantity = _Quantity()

    def told(self) -> dict[str, Any]:
        exponent = self.packet_error_loss_rate
        told = {
            "name": self.name,
            "state": self.status.lower(),
            "latency_s": self.packet_delay_budget.times(SECONDS),
            "jitter_s": self.jitter.times(SECONDS),
            "loss": None if exponent is None else 10.0**-exponent,
            "downlink_bit_per_s": self.target_min_downstream_rate.times(BIT_PER_S),
            "uplink_bit_per_s": self.target_min_upstream_rate.times(BIT_PER_S),
            "priority": self.priority,
            "longest_s": self.max_duration.times(SECONDS),
        }
        return {name: value for name, value in told.items() if value is not None}


async def profiles(api: CamaraApi) -> list[dict[str, Any]]:
    """All of them, with what they promise at least."""
    answer = await api.request("POST", "/retrieve-qos-profiles", body={})
    return [each.told() for each in answer.read(list[_Profile])]
