"""`system_inertia`: kinetic energy of the whole system from the estimates of its units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from edgeflex_flow.messages import InertiaEstimate, SystemInertia
from edgeflex_flow.node import (
    Input,
    NodeConfig,
    OperatorNode,
    Wire,
    WireMessage,
    at_once,
    message_wire,
    quantity,
    table,
)
from edgeflex_operators._unit_fit import BUS_FREQUENCY_DEVIATION, NORMAL_95, TYPICAL_REACTANCE_DEVIATION
from edgeflex_operators._units import GeneratingUnit, UnitTable, digest

COMMON_DEVIATION = 0.012
"""Relative error that all units of a system share. `benchmarks.inertia_choice` asks for less, but not on every network
that it had left out."""
SHARED_ERRORS = {"bus_frequency": BUS_FREQUENCY_DEVIATION, "typical_reactance": TYPICAL_REACTANCE_DEVIATION}
"""Of units that lack the same: what it costs goes the same way in all of them."""
KNOWN_DEVIATION = 0.05
"""Relative standard deviation of a constant that the unit's data give."""
LEAST_ESTIMATED_SHARE = 0.5
WIDEST_GUESS = 0.7
"""A guess with a larger relative deviation is none."""
AGREEMENT = 0.25
EVENTS_KEPT = 16


class SystemInertiaConfig(NodeConfig, frozen=True, kw_only=True):
    """Kinetic energy of the whole system at an event: the sum of H times rated power over its units.

    Summing units keeps what one equation for the whole system loses when machines swing against each other. A unit
    whose estimate was not accepted counts with the inertia constant of its data, if they give one, else with what the
    fit told though it was not accepted, and its wide uncertainty; a unit that tripped or is off line does not count.
    There is no sum when nothing is known of a unit, which may be larger than all others, or when less than half is
    estimated or known.

    Where the lost power is known, the energy also follows from how fast the whole slows down in the first 0.5 s,
    somewhat too high since governors help by then; `agrees` tells whether both are within a quarter of each other.

    Input:
        in: InertiaEstimate of each unit of `units`; the sum goes out with the last of them.
    Output:
        SystemInertia with a 95 % interval, which holds the errors of the units and one that they share.
    Errors:
        None.
    Source:
        E_k = sum of H_i S_n,i; the variance of a sum.

    >>> SystemInertiaConfig(units={}).units
    {}
    """

    units: Annotated[UnitTable, table("Data of the units, the same as those of `inertia_event`.")]
    lost_power: Annotated[
        Annotated[float, quantity("MW", "", gt=0, le=1e6)] | None,
        Meta(description="Lost power of the event, if known; else that of units that tripped."),
    ] = None


@dataclass(slots=True)
class SystemInertiaState:
    """Estimates of events that are not complete, by event."""

    waiting: dict[str, dict[str, InertiaEstimate]] = field(default_factory=dict)


def start(_config: SystemInertiaConfig) -> SystemInertiaState:
    return SystemInertiaState()


def step(config: SystemInertiaConfig, state: SystemInertiaState, estimate: InertiaEstimate) -> list[WireMessage]:
    if estimate.device not in config.units:
        return []
    event = state.waiting.setdefault(estimate.event_id, {})
    event[estimate.device] = estimate
    if event.keys() != config.units.keys():
        while len(state.waiting) > EVENTS_KEPT:
            del state.waiting[next(iter(state.waiting))]
        return []
    del state.waiting[estimate.event_id]
    return [system_inertia(list(event.values()), config.units, config.lost_power)]


@dataclass(slots=True)
class _Sum:
    """What the units add up to."""

    energy_mws: float = 0.0
    variance: float = 0.0
    shared_mws: dict[str, float] = field(default_factory=dict)
    """By remark: one standard deviation of an error that all units with this remark share."""
    believed_mws: float = 0.0
    """The part that is estimated or known."""
    weighted_rocof: float = 0.0
    """Energy times relative rate of change of frequency, of units that have one."""
    weight_mws: float = 0.0
    tripped_mw: float = 0.0
    quality: int = 0
    estimated: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    tripped: list[str] = field(default_factory=list)
    offline: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def add(self, estimate: InertiaEstimate, unit: GeneratingUnit) -> None:
        self.quality |= estimate.quality
        if estimate.status == "tripped":
            self.tripped.append(estimate.device)
            self.tripped_mw += estimate.power_before_mw or 0.0
            return
        if estimate.status == "offline":
            self.offline.append(estimate.device)
            return
        told = _of_unit(estimate, unit.inertia_constant)
        if told is None:
            self.unknown.append(estimate.device)
            return
        h_s, deviation = told
        energy_mws = h_s * unit.rated_power
        self.energy_mws += energy_mws
        self.variance += (energy_mws * deviation) ** 2
        for remark in SHARED_ERRORS.keys() & set(estimate.remarks):
            self.shared_mws[remark] = self.shared_mws.get(remark, 0.0) + energy_mws * SHARED_ERRORS[remark]
        (self.assumed if estimate.h_s is None else self.estimated).append(estimate.device)
        if estimate.h_s is not None or unit.inertia_constant is not None:
            self.believed_mws += energy_mws
        if estimate.rocof_hz_per_s is not None and estimate.nominal_hz is not None:
            self.weighted_rocof += energy_mws * estimate.rocof_hz_per_s / estimate.nominal_hz
            self.weight_mws += energy_mws

    def from_lost_power(self, lost_mw: float) -> float | None:
        """Kinetic energy from how fast the system as a whole slows down for a known loss."""
        if not self.weight_mws or not self.weighted_rocof:
            return None
        return abs(lost_mw / (2.0 * self.weighted_rocof / self.weight_mws))


def system_inertia(
    estimates: Sequence[InertiaEstimate], units: UnitTable, lost_power_mw: float | None = None
) -> SystemInertia:
    """The sum over the units' estimates of one event."""
    total = _Sum()
    for estimate in estimates:
        total.add(estimate, units[estimate.device])
    last = estimates[-1]
    lost_mw = lost_power_mw if lost_power_mw is not None else total.tripped_mw or None
    other_mws = None if lost_mw is None else total.from_lost_power(lost_mw)
    found = SystemInertia(
        event_id=last.event_id,
        policies={name: version for estimate in estimates for name, version in estimate.policies.items()},
        time_ns=last.time_ns,
        kinetic_energy_mws=None,
        estimated=tuple(total.estimated),
        assumed=tuple(total.assumed),
        tripped=tuple(total.tripped),
        offline=tuple(total.offline),
        remarks=tuple(dict.fromkeys(remark for estimate in estimates for remark in estimate.remarks)),
        lost_power_mw=lost_mw,
        kinetic_energy_from_lost_power_mws=other_mws,
        quality=total.quality,
        begin_ns=last.begin_ns,
        end_ns=last.end_ns,
        config_digest=digest((lost_power_mw, units)),
        version=last.version,
    )
    if not total.estimated:
        return replace(found, reason="no unit could be estimated")
    if total.unknown:
        names = ", ".join(total.unknown)
        return replace(found, reason=f"nothing is known of {names}; give `inertia_constant` in the units' data")
    if total.believed_mws < LEAST_ESTIMATED_SHARE * total.energy_mws:
        share = 100.0 * total.believed_mws / total.energy_mws
        return replace(found, reason=f"only {share:.0f} % of the sum is estimated or known")
    shared = (COMMON_DEVIATION * total.energy_mws, *total.shared_mws.values())
    half = NORMAL_95 * math.hypot(math.sqrt(total.variance), *shared)
    return replace(
        found,
        kinetic_energy_mws=total.energy_mws,
        ci95_low_mws=max(total.energy_mws - half, 0.0),
        ci95_high_mws=total.energy_mws + half,
        agrees=None if other_mws is None else abs(other_mws - total.energy_mws) <= AGREEMENT * total.energy_mws,
    )


def _of_unit(estimate: InertiaEstimate, known_h_s: float | None) -> tuple[float, float] | None:
    """H in s and its relative deviation; None when nothing is known of it."""
    if estimate.h_s is not None and estimate.deviation is not None:
        return estimate.h_s, estimate.deviation
    if known_h_s is not None:
        return known_h_s, KNOWN_DEVIATION
    if estimate.guess_h_s is None or estimate.deviation is None or estimate.deviation > WIDEST_GUESS:
        return None
    return estimate.guess_h_s, estimate.deviation


def _output(_config: SystemInertiaConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(SystemInertia)


NODE = OperatorNode(
    kind="system_inertia",
    config=SystemInertiaConfig,
    inputs={"in": Input(accepts=(InertiaEstimate,), step=step)},
    output=_output,
    start=start,
    scope="site",
    delays=at_once,
)
