"""Data of generating units that inertia estimation needs: a file of its own, `units.yaml`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.messages import InertiaEstimate
from edgeflex_flow.node import quantity


class Governor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a unit's governor: centres of priors, never certainties."""

    gain_pu: Annotated[float, Meta(ge=0, le=200, description="1 / droop, in pu of power over pu of frequency.")] = 20.0
    uncertainty: Annotated[
        float, Meta(gt=0, le=3, description="Standard deviation of the logarithm of the gain: 0.1 is about 10 %.")
    ] = 0.7


class GeneratingUnit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One generating unit. Reactances and resistance are in pu on the machine's own base (rated power and voltage)."""

    rated_power: Annotated[
        float, quantity("MVA", "Rated apparent power; of an equivalent, that of all its units.", gt=0, le=1e6)
    ]
    rated_voltage: (
        Annotated[float, quantity("kV", "Rated line-to-line voltage; needed with phasors.", gt=0, le=1000)] | None
    ) = None
    transient_reactance_pu: Annotated[float, Meta(gt=0, le=5, description="X'd.")] | None = None
    subtransient_reactance_pu: Annotated[float, Meta(gt=0, le=5, description="X''d.")] | None = None
    armature_resistance_pu: Annotated[float, Meta(ge=0, le=0.5, description="Ra.")] = 0.0
    quadrature_reactance_pu: Annotated[float, Meta(gt=0, le=20, description="Xq, if known.")] | None = None
    transient_quadrature_reactance_pu: Annotated[float, Meta(gt=0, le=10, description="X'q, if known.")] | None = None
    quadrature_time_constant: Annotated[float, quantity("s", "T'q0, if known.", gt=0, le=20)] | None = None
    subtransient_quadrature_time_constant: Annotated[float, quantity("s", "T''q0, if known.", gt=0, le=1)] | None = None
    governor: Annotated[
        Governor | None, Meta(description="What is known of the governor; null: the unit has none.")
    ] = Governor()
    inertia_constant: (
        Annotated[float, quantity("s", "H, if known: counts in the sum when no estimate is accepted.", gt=0, le=1000)]
        | None
    ) = None


UnitTable = dict[str, GeneratingUnit]
"""Generating units by the name of the device (PMU) that measures at their terminals."""


def digest(value: object) -> str:
    """First 16 hex digits of the SHA-256 of a value as JSON: names a configuration without repeating it."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:16]


def fill_rated_w(rated_w: NDArray[np.float64], units: UnitTable, slot_of: Mapping[str, int]) -> None:
    """Fill in the rated power in W of each device at its slot; 0 for one without unit data."""
    for name, slot in slot_of.items():
        unit = units.get(name)
        if slot < len(rated_w):
            rated_w[slot] = 0.0 if unit is None else unit.rated_power * 1e6


def without_data(
    devices: Iterable[str],
    units: UnitTable,
    now_ns: int,
    *,
    method: Literal["online", "ambient"],
    indicative: bool = False,
    config_digest: str,
    version: str,
) -> list[InertiaEstimate]:
    """What is told of those of `devices` that have no unit data."""
    return [
        InertiaEstimate(
            event_id="",
            device=name,
            time_ns=now_ns,
            method=method,
            indicative=indicative,
            status="no_unit_data",
            reason=f"no unit data for device '{name}'; known: {', '.join(sorted(units))}",
            begin_ns=now_ns,
            end_ns=now_ns,
            rows=0,
            config_digest=config_digest,
            version=version,
        )
        for name in devices
        if name not in units
    ]
