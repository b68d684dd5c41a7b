"""What the grid of `edgeflex serve powerflow` and a controller of voltages tell each other, where no databus is between
them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from edgeflex_flow.messages import Samples, Setpoints, samples_at
from edgeflex_flow.node import WireMessage
from edgeflex_operators._voltage_grid import ACTIVE, AVAILABLE, CHARGE, REACTIVE, STORED, VOLTAGE
from edgeflex_services.powerflow_grid import Grid
from edgeflex_services.powerflow_plant import ACTIVE_POWER, REACTIVE_POWER, STORAGE_POWER, Measurements, Plant

QUANTITIES: Final = {REACTIVE: REACTIVE_POWER, ACTIVE: ACTIVE_POWER, STORED: STORAGE_POWER}
"""What the plant calls what set-points move."""


class Batches(NamedTuple):
    """What was measured at one time."""

    available: Samples
    charge: Samples | None
    """None where there are no storages."""
    voltage: Samples


def batches_of(grid: Grid, measured: Measurements, now_ns: int) -> Batches:
    """What is measured, as the field publishes it."""
    storages = grid.storages.names
    return Batches(
        samples_at(now_ns, AVAILABLE, grid.inverters.names, measured.available_w / grid.power_base_w),
        samples_at(now_ns, CHARGE, storages, 100.0 * measured.state_of_charge) if storages else None,
        samples_at(now_ns, VOLTAGE, grid.nodes, measured.voltage_pu),
    )


def obey(plant: Plant, told: Iterable[WireMessage], until_s: float = math.inf) -> None:
    """Have the plant follow all set-points among the messages."""
    for message in told:
        if isinstance(message, Setpoints):
            plant.apply(QUANTITIES[message.quantity], message.values, until_s)
