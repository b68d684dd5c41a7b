"""A small feeder whose voltages follow powers by its branches, and a controller around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import Alarm, Samples, Setpoints, ShadowSetpoints, samples_from_rows
from edgeflex_flow.node import WireMessage
from edgeflex_operators import voltage_control
from edgeflex_operators._inverters import Inverter, Storage
from edgeflex_operators._network import Branch
from edgeflex_operators._voltage_state import take_available, take_charge
from edgeflex_operators.voltage_control import VoltageControlConfig

S = 1_000_000_000
NODES = ("n1", "n2", "n3", "n4")
BRANCHES = {
    f"line_{place}": Branch(from_=before, to=node, resistance=0.12, reactance=0.06)
    for place, (before, node) in enumerate(zip(("grid", *NODES), NODES, strict=False))
}
STORAGE = Storage(capacity=20.0, max_charge=10.0, max_discharge=10.0)


def config(**fields: Any) -> VoltageControlConfig:
    settings: dict[str, Any] = {
        "name": "voltage",
        "branches": BRANCHES,
        "inverters": {node: Inverter(rated_power=24.0, min_power_factor=0.9) for node in NODES},
        "power_base": 100.0,
        "frozen_after": 3600.0,  # without noise
    }
    return VoltageControlConfig(**{**settings, **fields})


class Feeder:
    """The controller in closed loop with a feeder on which every inverter could feed in 22 kW."""

    def __init__(
        self, settings: VoltageControlConfig, *, available_pu: float = 0.22, error: float = 1.0, base_pu: float = 1.0
    ) -> None:
        self.config = settings
        self.state = voltage_control.start(settings)
        self.available_pu = available_pu
        self.base_pu = base_pu
        self.names = tuple(settings.inverters)
        # What the controller believes, and what is: `error` times as much.
        resistance, reactance = settings.sensitivities_to(settings.feeders)
        self.resistance, self.reactance = error * resistance, error * reactance
        self.applied: dict[str, dict[str, float]] = {}
        self.alarms: list[Alarm] = []
        self.told: list[Setpoints | ShadowSetpoints] = []
        self.now_ns = 100 * S

    def power(self, quantity: str) -> NDArray[np.float64]:
        return np.array([self.applied.get(quantity, {}).get(name, 0.0) for name in self.names])

    @property
    def voltage(self) -> NDArray[np.float64]:
        """Of each node, in pu."""
        active = self.available_pu + self.power("active_power_pu") + self.power("active_power_ess_pu")
        return self.base_pu + self.resistance @ active + self.reactance @ self.power("reactive_power_pu")

    def step(
        self,
        *,
        seconds: float = 1.0,
        charge: float | None = None,
        late: Mapping[str, tuple[int, float]] | None = None,
        **voltages: float | None,
    ) -> None:
        """Let time pass, measure (each node as said, if it is said; None: it does not send), decide, and follow.

        `late`: nodes that send another voltage with the time when that was measured."""
        self.now_ns += round(seconds * S)
        now_ns, settings, state = self.now_ns, self.config, self.state
        available = {name: {"available_power_pu": self.available_pu} for name in self.names}
        self.take(take_available(settings, state, rows(now_ns, available)))
        if charge is not None:
            full = {name: {"state_of_charge_percent": charge} for name in self.names}
            self.take(take_charge(settings, state, rows(now_ns, full)))
        measured = {**dict(zip(settings.nodes, self.voltage.tolist(), strict=True)), **voltages}
        late = late or {}
        sent = [(now_ns, node, {"voltage_pu": v}) for node, v in measured.items() if v is not None and node not in late]
        sent += [(time_ns, node, {"voltage_pu": value}) for node, (time_ns, value) in late.items()]
        if sent:
            samples = samples_from_rows(sent, received_ns=now_ns)
            self.take(voltage_control.take_voltage(settings, state, samples))
        self.take(voltage_control.tick(settings, state, now_ns))

    def take(self, messages: Sequence[WireMessage]) -> None:
        for message in messages:
            if isinstance(message, Alarm):
                self.alarms.append(message)
            elif isinstance(message, Setpoints | ShadowSetpoints):
                self.told.append(message)
                if isinstance(message, Setpoints):
                    self.applied[message.quantity] = message.values


def rows(time_ns: int, values: Mapping[str, Mapping[str, float]]) -> Samples:
    return samples_from_rows([(time_ns, name, value) for name, value in values.items()], received_ns=time_ns)
