"""Inverters that controllers of voltage act on: PV, with or without storage."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta

from edgeflex_flow.node import quantity
from edgeflex_operators._limits import Bounds


class Storage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A storage behind an inverter."""

    capacity: Annotated[float, quantity("kWh", "Energy from empty to full.", gt=0, le=1e6)]
    max_charge: Annotated[float, quantity("kW", "Largest power of charging.", gt=0, le=1e6)]
    max_discharge: Annotated[float, quantity("kW", "Largest power of discharging.", gt=0, le=1e6)]
    lowest: Annotated[float, Meta(ge=0, le=1, description="It is not discharged below this state of charge.")] = 0.1
    highest: Annotated[float, Meta(ge=0, le=1, description="It is not charged above this state of charge.")] = 0.9
    efficiency: Annotated[float, Meta(gt=0, le=1, description="Of charging, and of discharging.")] = 0.95

    def power_kw(self, charge: float, hold_s: float) -> Bounds:
        """What it can hold for so long from this state of charge (0 to 1); positive is discharge. NaN: nothing.

        >>> Storage(capacity=10.0, max_charge=5.0, max_discharge=5.0, efficiency=1.0).power_kw(0.12, 3600.0)
        Bounds(low=-5.0, high=0.2)
        """
        if math.isnan(charge):
            return Bounds(0.0, 0.0)
        hours = hold_s / 3600.0
        room = max(0.0, self.highest - charge) * self.capacity / self.efficiency / hours
        energy = max(0.0, charge - self.lowest) * self.capacity * self.efficiency / hours
        return Bounds(-min(self.max_charge, round(room, 9)), min(self.max_discharge, round(energy, 9)))


class Inverter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An inverter that follows set-points."""

    node: Annotated[str | None, Meta(description="Where it feeds in; by default the node of its own name.")] = None
    rated_power: Annotated[float, quantity("kVA", "Rated apparent power.", gt=0, le=1e6)]
    min_power_factor: Annotated[
        float,
        Meta(gt=0, le=1, description="Reactive power goes up to that of this power factor at the power available."),
    ] = 0.95
    curtailable: Annotated[bool, Meta(description="Whether its active power may be reduced.")] = True
    storage: Annotated[Storage | None, Meta(description="Its storage, if it has one.")] = None
    storage_only: Annotated[
        bool, Meta(description="Whether nothing but its storage feeds in: then it gives no reactive power either.")
    ] = False
    ramp: Annotated[
        float, Meta(gt=0, le=100, description="Share of its rated power by which a set-point may change in a second.")
    ] = 1.0

    @property
    def reactive_per_active(self) -> float:
        """Largest reactive power per active power that it feeds in."""
        return math.sqrt(1.0 - self.min_power_factor**2) / self.min_power_factor


InverterTable = dict[str, Inverter]
"""By the name under which set-points are sent and measurements come."""
