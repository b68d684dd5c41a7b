"""Voltage control by dual ascent: each node prices its own voltage, each inverter answers the prices that it hears."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeflex_operators._voltage_program import Decision, Powers, Situation, VoltageProgram

Vector = NDArray[np.float64]

STEP = 1.9
"""Of the inverse of the largest eigenvalue; dual ascent is stable below 2."""
FOLLOWS = 1e-9
"""Of the rated power: an inverter that does what it is asked, but for rounding."""
STORED_COSTS, CURTAILED_COSTS = 2.0, 6.0
"""Marginal costs of storage and curtailment for the same effect on a voltage, relative to those of reactive power."""


@dataclass(slots=True)
class DualAscent:
    """Prices of voltages beyond their limits, and what inverters do at those prices.

    A price moves by what its own node's voltage misses; an inverter weighs the prices by how it moves those voltages.
    None needs to know the limits or costs of another. It takes hundreds of steps where the program takes a few.

    Source: S. Bolognani et al., Distributed reactive power feedback control for voltage regulation and loss
    minimization, arXiv:1303.7173.
    """

    program: VoltageProgram
    high: Vector = field(init=False)
    low: Vector = field(init=False)
    answers: Powers = field(init=False)
    """How far reactive power, curtailment and charging go for one unit of price, shape (m,) each."""
    step: float = field(init=False)

    def __post_init__(self) -> None:
        resistance, reactance = self.program.sensitivities
        nodes, inverters = reactance.shape
        ratio = resistance.max(initial=0.0) / max(float(reactance.max(initial=0.0)), 1e-9)
        squared = self.program.rated**2
        self.answers = Powers(
            squared, squared / max(CURTAILED_COSTS * ratio**2, 1e-9), squared / max(STORED_COSTS * ratio**2, 1e-9)
        )
        active = self.answers.curtailed + self.answers.storage
        together = (reactance * self.answers.reactive) @ reactance.T + (resistance * active) @ resistance.T
        self.step = STEP / max(float(np.linalg.eigvalsh(together).max(initial=0.0)), 1e-12) if inverters else 0.0
        self.high, self.low = np.zeros(nodes), np.zeros(nodes)

    def decide(self, situation: Situation, *, is_new: bool = True) -> Decision:
        """One step of prices and answers; prices stay where nothing new was measured."""
        bounds = situation.voltage_bounds
        above = np.nan_to_num(situation.voltage - bounds.high, nan=0.0)
        below = np.nan_to_num(bounds.low - situation.voltage, nan=0.0)
        step = self.step if is_new else 0.0
        high = np.maximum(self.high + step * above, 0.0)
        low = np.maximum(self.low + step * below, 0.0)
        # A price that nobody can follow any further would take as long to come down again.
        powers, can = self._answer(high - low, situation)
        self.high = np.where(can, high, np.minimum(high, self.high))
        self.low = np.where(can, low, np.minimum(low, self.low))
        return Decision(
            powers,
            np.maximum(np.maximum(above, below), 0.0),
            self.high > 0.0,
            self.low > 0.0,
            0.0,
        )

    def _answer(self, price: Vector, situation: Situation) -> tuple[Powers, NDArray[np.bool_]]:
        """What inverters do at these prices, and for each node whether any that moves its voltage could do more."""
        resistance, reactance = self.program.sensitivities
        wanted = Powers(
            -self.answers.reactive * (price @ reactance),
            self.answers.curtailed * (price @ resistance),
            -self.answers.storage * (price @ resistance),
        )
        given = self.program.within(wanted, situation)
        parts = zip(wanted, given, (reactance, resistance, resistance), strict=True)
        can = np.zeros(len(price), dtype=np.bool_)
        for asked, done, effect in parts:
            follows = np.abs(asked - done) <= FOLLOWS * self.program.rated
            can |= (effect[:, follows] > 0.0).any(axis=1)
        return given, can
