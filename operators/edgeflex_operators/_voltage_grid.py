"""What controllers of voltage know of their grid: settings that they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from edgeflex_flow.errors import FieldError
from edgeflex_flow.node import quantity, table
from edgeflex_operators._controller import ControllerConfig
from edgeflex_operators._inverters import InverterTable
from edgeflex_operators._network import (
    BranchTable,
    Sensitivities,
    SensitivityTable,
    given_sensitivities,
    nodes_of,
    problems_of,
    radial_sensitivities,
)

VOLTAGE, AVAILABLE, CHARGE = "voltage_pu", "available_power_pu", "state_of_charge_percent"
REACTIVE, ACTIVE, STORED = "reactive_power_pu", "active_power_pu", "active_power_ess_pu"
PLAUSIBLE_VOLTAGE = (0.5, 1.5)


class VoltageGridConfig(ControllerConfig, frozen=True, kw_only=True):
    """Base of the configs of controllers of voltage."""

    inverters: Annotated[InverterTable, table("Inverters by the name under which set-points are sent.")]
    branches: Annotated[BranchTable, table("Branches of a radial grid; or give `sensitivities`.")] | None = None
    sensitivities: Annotated[SensitivityTable, table("How voltages follow powers, by node.")] | None = None
    power_base: Annotated[float, quantity("kVA", "What 1 pu of power is.", gt=0, le=1e6)]
    voltage_base: Annotated[float, quantity("kV", "Rated voltage between phases; for `branches`.", gt=0, le=1000)] = 0.4
    voltage_min: Annotated[float, quantity("pu", "Lower limit of all voltages.", ge=0.5, le=1.5)] = 0.95
    voltage_max: Annotated[float, quantity("pu", "Upper limit of all voltages.", ge=0.5, le=1.5)] = 1.05
    curtailable: Annotated[
        float, Meta(ge=0, le=1, description="Share of the available power that may be curtailed.")
    ] = 1.0

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
    def nodes(self) -> tuple[str, ...]:
        """Nodes whose voltages are kept."""
        return tuple(self.sensitivities) if self.sensitivities is not None else nodes_of(self.branches or {})

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
