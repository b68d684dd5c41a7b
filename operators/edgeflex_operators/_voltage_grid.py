"""What controllers of voltage know of their grid: settings that they share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Setpoints
from edgeflex_flow.node import Command, quantity, table
from edgeflex_operators._controller import ControllerConfig, Decision
from edgeflex_operators._inverters import Inverter, InverterTable
from edgeflex_operators._latest import Latest, Trust, View
from edgeflex_operators._limits import Bounds
from edgeflex_operators._network import (
    BranchTable,
    Sensitivities,
    SensitivityTable,
    given_sensitivities,
    nodes_of,
    problems_of,
    radial_sensitivities,
)
from edgeflex_operators._voltage_program import Powers, Situation, VoltageProgram

Vector = NDArray[np.float64]

VOLTAGE, AVAILABLE, CHARGE = "voltage_pu", "available_power_pu", "state_of_charge_percent"
REACTIVE, ACTIVE, STORED = "reactive_power_pu", "active_power_pu", "active_power_ess_pu"
PLAUSIBLE_VOLTAGE = (0.5, 1.5)
BEYOND_RATED = 2.0
"""Power of more than so many times the rated one is in another unit."""
NEAR = 1e-6
"""Powers that differ by less, in pu, are the same."""


class VoltageGridConfig(ControllerConfig, frozen=True, kw_only=True):
    """Base of the configs of controllers of voltage."""

    inverters: Annotated[InverterTable, table("Inverters by the name under which set-points are sent.")]
    branches: Annotated[
        Annotated[BranchTable, table("A table.")] | None,
        Meta(description="Branches of a radial grid; or give `sensitivities`."),
    ] = None
    sensitivities: Annotated[
        Annotated[SensitivityTable, table("A table.")] | None,
        Meta(description="How voltages follow powers, by node; or give `branches`."),
    ] = None
    power_base: Annotated[float, quantity("kVA", "What 1 pu of power is.", gt=0, le=1e6)]
    voltage_base: Annotated[float, quantity("kV", "Rated voltage between phases; for `branches`.", gt=0, le=1000)] = 0.4
    voltage_min: Annotated[float, quantity("pu", "Lower limit of all voltages.", ge=0.5, le=1.5)] = 0.95
    voltage_max: Annotated[float, quantity("pu", "Upper limit of all voltages.", ge=0.5, le=1.5)] = 1.05
    curtailable: Annotated[
        float, Meta(ge=0, le=1, description="Share of the available power that may be curtailed.")
    ] = 1.0
    settle: Annotated[float, quantity("s", "How long assets take to follow a set-point.", ge=0, le=60)] = 0.5

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        if self.voltage_min >= self.voltage_max:
            text = f"voltage_min ({self.voltage_min:g} pu) is not below voltage_max ({self.voltage_max:g} pu)"
            yield FieldError(text, "voltage_min", "voltage_max")
        if (self.branches is None) == (self.sensitivities is None):
            yield FieldError("give either `branches` or `sensitivities`", "branches", "sensitivities")
            return
        for name, text in problems_of(self.branches) if self.branches else ():
            yield FieldError(f"branch '{name}': {text}", "branches")
        for name, inverter in self.inverters.items():
            if (node := inverter.node or name) not in self.nodes:
                text = f"inverter '{name}' feeds in at node '{node}', which the grid does not have"
                yield FieldError(text, "inverters", "branches", "sensitivities", known=self.nodes)

    @property
    def assets(self) -> tuple[str, ...]:
        return tuple(self.inverters)

    def commands(self) -> tuple[Command, ...]:
        if self.mode != "control":
            return ()
        moved = (Command.of(name, each) for name, inverter in self.inverters.items() for each in moved_by(inverter))
        return tuple(sorted(dict.fromkeys(moved), key=lambda command: command.power, reverse=True))

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes whose voltages are kept."""
        return tuple(self.sensitivities) if self.sensitivities is not None else nodes_of(self.branches or {})

    @property
    def most_power_pu(self) -> float:
        """Power that is more than any inverter could feed in is in another unit."""
        return BEYOND_RATED * max((each.rated_power for each in self.inverters.values()), default=0.0) / self.power_base

    @property
    def feeders(self) -> tuple[str, ...]:
        """The node of each inverter."""
        return tuple(inverter.node or name for name, inverter in self.inverters.items())

    def sensitivities_to(self, feeders: tuple[str, ...]) -> Sensitivities:
        """How the voltages of all nodes follow powers that are fed in at these."""
        if self.sensitivities is not None:
            return given_sensitivities(self.sensitivities, self.nodes, feeders)
        assert self.branches is not None
        return radial_sensitivities(
            self.branches,
            self.nodes,
            feeders,
            voltage_base_kv=self.voltage_base,
            power_base_kva=self.power_base,
        )


class Remark(NamedTuple):
    """Something that is not normal: what stays the same in words while it lasts, and the numbers that decided."""

    condition: str
    reason: str


class Why(NamedTuple):
    """What is told of a step; see `Decision`."""

    condition: str = ""
    reason: str = ""
    limits: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """By node, what decides there."""
    of_inverters: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    """By quantity and inverter."""
    seen: tuple[View, ...] = ()
    is_blind: bool = False
    """Whether it was made from what was in force before rather than from measurements."""

    def remarked(self, remarks: Sequence[Remark]) -> Why:
        """The same with what is not normal."""
        conditions, reasons = ("; ".join(part) for part in zip(*remarks, strict=True)) if remarks else ("", "")
        return self._replace(condition=conditions, reason=reasons)


def moved_by(inverter: Inverter) -> tuple[str, ...]:
    """The quantities that an inverter can do something with."""
    able = {
        REACTIVE: not inverter.storage_only,
        ACTIVE: inverter.curtailable and not inverter.storage_only,
        STORED: inverter.storage is not None,
    }
    return tuple(quantity for quantity, can in able.items() if can)


def steady(trust: Trust) -> Trust:
    """For what may well stay the same: power at night, a full storage."""
    return trust._replace(frozen_after_s=math.inf)


def seen_powers(config: VoltageGridConfig, available: Latest, now_ns: int, trust: Trust) -> View:
    """What each inverter could feed in: nothing where there is only a storage."""
    view = available.view(tuple(config.inverters), now_ns, steady(trust))
    for place, (name, inverter) in enumerate(config.inverters.items()):
        if inverter.storage_only:
            view.values[place] = 0.0
            view.missing.pop(name, None)
    return view


def named_limits(config: VoltageGridConfig, binding: Mapping[str, NDArray[np.bool_]]) -> dict[str, tuple[str, ...]]:
    """By node, the names of the limits that decide there."""
    found: dict[str, tuple[str, ...]] = {}
    for name, binds in binding.items():
        for place in np.flatnonzero(binds).tolist():
            node = config.nodes[place]
            found[node] = (*found.get(node, ()), name)
    return found


def storage_powers(config: VoltageGridConfig, charge: View) -> tuple[Vector, Vector]:
    """Least and most that the storage of each inverter can hold while a set-point is valid, pu; `charge` is that of the
    inverters that have one, in their order."""
    charges = iter(charge.values.tolist())
    bounds = [
        Bounds(0.0, 0.0) if each.storage is None else each.storage.power_kw(next(charges) / 100.0, config.valid_for)
        for each in config.inverters.values()
    ]
    base = config.power_base
    return np.array([each.low for each in bounds]) / base, np.array([each.high for each in bounds]) / base


def limits_of(
    config: VoltageGridConfig, program: VoltageProgram, situation: Situation, powers: Powers
) -> dict[str, dict[str, tuple[str, ...]]]:
    """By quantity and inverter, what keeps its set-points from going further."""
    hardware = program.bounds(situation._replace(ramp=np.full(len(situation.ramp), np.inf)))
    ramped = program.bounds(situation)
    charged, discharged = np.maximum(-powers.storage, 0.0), np.maximum(powers.storage, 0.0)
    kinds = ((REACTIVE, powers.reactive), (ACTIVE, powers.curtailed), (STORED, charged), (STORED, discharged))
    found: dict[str, dict[str, tuple[str, ...]]] = {REACTIVE: {}, ACTIVE: {}, STORED: {}}
    count = len(config.inverters)
    for kind, (name_of_kind, values) in enumerate(kinds):
        at = slice(kind * count, (kind + 1) * count)
        acts = np.abs(values) > NEAR
        by_hardware = acts & _at_an_end(values, hardware[0][at], hardware[1][at])
        by_ramp = acts & ~by_hardware & _at_an_end(values, ramped[0][at], ramped[1][at])
        for place, name in enumerate(config.inverters):
            if by_hardware[place] or by_ramp[place]:
                found[name_of_kind][name] = ("hardware",) if by_hardware[place] else ("ramp",)
    return found


def _at_an_end(values: Vector, low: Vector, high: Vector) -> NDArray[np.bool_]:
    return np.asarray((values <= low + NEAR) | (values >= high - NEAR))


def changed_powers(config: VoltageGridConfig, powers: Powers, setpoints: Setpoints) -> Powers:
    """These powers with what set-points change of them."""
    parts = {REACTIVE: powers.reactive.copy(), ACTIVE: 0.0 - powers.curtailed, STORED: powers.storage.copy()}
    part = parts.get(setpoints.quantity)
    for place, name in enumerate(config.inverters):
        if part is not None and name in setpoints.values:
            part[place] = setpoints.values[name]
    return Powers(parts[REACTIVE], 0.0 - parts[ACTIVE], parts[STORED])


def decisions_of(config: VoltageGridConfig, powers: Powers, why: Why, version: str) -> list[Decision]:
    """A decision for each quantity that the inverters can do something with."""
    values = {REACTIVE: powers.reactive, ACTIVE: 0.0 - powers.curtailed, STORED: powers.storage}
    by_quantity: dict[str, dict[str, float]] = {each: {} for each in values}
    for place, (name, inverter) in enumerate(config.inverters.items()):
        for each in moved_by(inverter):
            by_quantity[each][name] = round(float(values[each][place]), 9) + 0.0
    return [
        Decision(
            quantity=each,
            values=moved,
            condition=why.condition,
            reason=why.reason,
            limits=_merged(why.of_inverters.get(each, {}), why.limits),
            seen=why.seen,
            version=version,
            is_blind=why.is_blind,
        )
        for each, moved in by_quantity.items()
        if moved
    ]


def _merged(one: Mapping[str, tuple[str, ...]], other: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {name: (*one.get(name, ()), *other.get(name, ())) for name in {**one, **other}}
