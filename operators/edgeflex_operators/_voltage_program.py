"""One step of voltage control as a quadratic program: reactive power first, then storage, then less active power."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_operators._inverters import Inverter
from edgeflex_operators._limits import Bounds
from edgeflex_operators._network import Sensitivities
from edgeflex_operators._qp import Answer, Program, Solver

Vector = NDArray[np.float64]

NEXT_COSTS_MORE = 1.5
"""How much more the first unit of the next means costs than the last one of the means before."""
CURVATURE = 0.01
"""Share by which the price of curtailment grows up to full power: equals are then treated alike."""
SLACK_COSTS_MORE = 10.0
SLACK_DOUBLES_PU = 0.01
FAR = 1e3
"""In pu: what a voltage that is not known may move. PIQP complains of rows without any limit."""
BINDS = 1e-6
"""Of the price of slack: a limit with a smaller price decides nothing."""


class Powers(NamedTuple):
    """Set-points in pu, each of shape (m,)."""

    reactive: Vector
    curtailed: Vector
    storage: Vector
    """Positive is discharge."""


class Situation(NamedTuple):
    """What a step is made from, in pu."""

    voltage: Vector
    """Measured, shape (n,); NaN where it is not known, which then has no part in the step."""
    effect: Vector
    """What the set-points then in force add to each of them, shape (n,)."""
    before: Powers
    """What was sent last: ramps begin there."""
    available: Vector
    """What each inverter could feed in, shape (m,); NaN where that is not known, which then stays as it was."""
    storage: tuple[Vector, Vector]
    """Least and most that storages can do, each of shape (m,)."""
    voltage_bounds: Bounds
    curtailable_share: float
    """Share of what is available that may be curtailed."""
    ramp: Vector
    """How far each set-point may move, shape (m,)."""


class Decision(NamedTuple):
    """What came out of a step."""

    powers: Powers
    slack: Vector
    """By how much each voltage is expected to stay outside, pu, shape (n,)."""
    binds_high: NDArray[np.bool_]
    """Where the upper limit of the voltage decides, shape (n,)."""
    binds_low: NDArray[np.bool_]
    residual: float


def no_powers(count: int) -> Powers:
    return Powers(np.zeros(count), np.zeros(count), np.zeros(count))


@dataclass(slots=True)
class VoltageProgram:
    """The program for nodes (n) and inverters (m). Its variables: reactive powers, what is curtailed, charging,
    discharging (m each), and the slack of each voltage (n).

    Each means costs so much per voltage that at every node the one before it is used up first. Voltages follow from the
    last measured ones by sensitivities, so that errors of the model are corrected with the next measurement. Limits of
    voltages are soft, at a price beyond all others. Reactive power stays within min(P·tan φ, √(S² - P²)) of the active
    power P that is available, whether it is curtailed or not, and storages within what that leaves of S.

    Source: feedback optimisation as in S. Bolognani et al., arXiv:1303.7173; exact penalties as in J. Nocedal,
    S. Wright, Numerical Optimization, 2006, section 17.2.
    """

    sensitivities: Sensitivities
    inverters: Sequence[Inverter]
    power_base_kva: float
    solver: Solver = field(default_factory=Solver)
    rated: Vector = field(init=False)
    per_active: Vector = field(init=False)
    hessian: Any = field(init=False)
    linear: Vector = field(init=False)
    rows: Any = field(init=False)
    slack_price: float = field(init=False)

    def __post_init__(self) -> None:
        sparse = _sparse()
        m, n = len(self.inverters), len(self.sensitivities.reactance)
        self.rated = np.array([each.rated_power for each in self.inverters]) / self.power_base_kva
        self.per_active = np.array([each.reactive_per_active for each in self.inverters])
        stored, curtailed = self.prices()
        most = curtailed * (1.0 + CURVATURE)
        weakest = self.sensitivities.resistance.max(axis=1, initial=0.0)
        self.slack_price = SLACK_COSTS_MORE * most / max(weakest.min(initial=np.inf), 1e-6)
        curved = [1.0 / self.rated**2, CURVATURE * curtailed / self.rated, stored / self.rated, stored / self.rated]
        self.hessian = sparse.diags(np.concatenate([*curved, np.full(n, self.slack_price / SLACK_DOUBLES_PU)])).tocsc()
        prices = [0.0, curtailed, stored, stored]
        self.linear = np.concatenate([*(np.full(m, price) for price in prices), np.full(n, self.slack_price)])
        self.rows = self._rows(sparse)

    @property
    def ramps(self) -> Vector:
        """How far each set-point may move in a second, pu, shape (m,)."""
        return np.array([each.ramp for each in self.inverters]) * self.rated

    def prices(self) -> tuple[float, float]:
        """What the first unit of storage and of curtailment costs."""
        resistance, reactance = self.sensitivities
        strongest = resistance.max(axis=1, initial=0.0, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(reactance > 0.0, strongest / reactance, 0.0).max(axis=0, initial=0.0)
        # The last unit of reactive power of any inverter, for the effect on a voltage of the strongest active power.
        last_reactive = float((ratio * self.per_active / self.rated).max(initial=1.0))
        stored = NEXT_COSTS_MORE * last_reactive
        has_storage = any(each.storage is not None for each in self.inverters)
        return stored, NEXT_COSTS_MORE * (2.0 * stored if has_storage else last_reactive)

    def _rows(self, sparse: Any) -> Any:
        """Voltages with slack against the upper and the lower limit."""
        resistance, reactance = self.sensitivities
        effect = np.hstack([reactance, -resistance, -resistance, resistance])
        slack = sparse.eye(len(reactance))
        return sparse.vstack([sparse.hstack([effect, -slack]), sparse.hstack([effect, slack])]).tocsc()

    def decide(self, situation: Situation) -> Decision:
        """The step from here. Raises SolverFailure."""
        without = self.without_setpoints(situation)
        lower, upper = self.bounds(situation)
        nothing = np.full(len(without), np.inf)
        low = np.nan_to_num(situation.voltage_bounds.low - without, nan=-FAR)
        high = np.nan_to_num(situation.voltage_bounds.high - without, nan=FAR)
        program = Program(
            hessian=self.hessian,
            linear=self.linear,
            equalities=_sparse().csc_matrix((0, len(self.linear))),
            equal_to=np.zeros(0),
            rows=self.rows,
            low=np.concatenate([-nothing, low]),
            high=np.concatenate([high, nothing]),
            lower=np.concatenate([lower, np.zeros_like(nothing)]),
            upper=np.concatenate([upper, nothing]),
        )
        return self._decision(self.solver.solve(program), lower, upper)

    def without_setpoints(self, situation: Situation) -> Vector:
        """The voltages that would be if nothing were asked of the inverters, pu, shape (n,)."""
        return situation.voltage - situation.effect

    def effect(self, powers: Powers) -> Vector:
        """What set-points add to each voltage, pu, shape (n,)."""
        resistance, reactance = self.sensitivities
        moved: Vector = reactance @ powers.reactive - resistance @ (powers.curtailed - powers.storage)
        return moved

    def bounds(self, situation: Situation) -> tuple[Vector, Vector]:
        """Least and most of reactive power, curtailment, charging and discharging: the hardware's, in it the ramp's."""
        available = _power(situation)
        before, ramp = situation.before, situation.ramp
        can = np.array([each.curtailable for each in self.inverters]) * situation.curtailable_share
        curtailed = _ramped(np.zeros_like(available), can * available, before.curtailed, ramp)
        most = self.most_reactive(available)
        reactive = _ramped(-most, most, before.reactive, ramp)
        least, greatest = self.apparent(available)
        stored = _ramped(
            np.maximum(situation.storage[0], least), np.minimum(situation.storage[1], greatest), before.storage, ramp
        )
        charged = (np.maximum(-stored[1], 0.0), np.maximum(-stored[0], 0.0))
        discharged = (np.maximum(stored[0], 0.0), np.maximum(stored[1], 0.0))
        ends = np.array([reactive, curtailed, charged, discharged])
        unknown = np.isnan(situation.available)
        held = (before.reactive, before.curtailed, np.maximum(-before.storage, 0.0), np.maximum(before.storage, 0.0))
        ends[:, :, unknown] = np.array(held)[:, None, unknown]
        return ends[:, 0].ravel(), ends[:, 1].ravel()

    def most_reactive(self, available: NDArray[np.float64]) -> NDArray[np.float64]:
        """Largest reactive power at these available powers, shape (…, m)."""
        feeds = np.minimum(available, self.rated)
        most: NDArray[np.float64] = np.minimum(self.per_active * feeds, np.sqrt(self.rated**2 - feeds**2))
        return most

    def apparent(self, available: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and most that storages can add at these available powers, shape (…, m): beside the largest reactive
        power all of the inverter must stay within its rated one, whether its sun is curtailed or not."""
        feeds = np.minimum(available, self.rated)
        room = np.sqrt(self.rated**2 - self.most_reactive(available) ** 2)
        return -room, np.maximum(room - feeds, 0.0)

    def within(self, wanted: Powers, situation: Situation) -> Powers:
        """The nearest powers that can be."""
        lower, upper = (np.split(each, 4) for each in self.bounds(situation))
        reactive = np.clip(wanted.reactive, lower[0], upper[0])
        curtailed = np.clip(wanted.curtailed, lower[1], upper[1])
        stored = np.clip(wanted.storage, lower[3] - upper[2], upper[3] - lower[2])
        return Powers(reactive, curtailed, stored)

    def _decision(self, answer: Answer, lower: Vector, upper: Vector) -> Decision:
        n, m = self.sensitivities.reactance.shape
        reactive, curtailed, charged, discharged = np.split(np.clip(answer.x[: 4 * m], lower, upper), 4)
        binds = BINDS * self.slack_price
        return Decision(
            Powers(reactive, curtailed, discharged - charged),
            np.maximum(answer.x[4 * m :], 0.0),
            answer.row_prices[:n] > binds,
            answer.row_prices[n : 2 * n] < -binds,
            answer.residual,
        )


def _power(situation: Situation) -> Vector:
    """What inverters could feed in, nothing where that is not known."""
    return np.maximum(np.nan_to_num(situation.available, nan=0.0), 0.0)


def _ramped(low: Vector, high: Vector, before: Vector, ramp: Vector) -> tuple[Vector, Vector]:
    """The part of a range that can be reached from a value; from its nearest end if the value lies outside."""
    start = np.clip(before, low, high)
    return np.maximum(low, start - ramp), np.minimum(high, start + ramp)


def _sparse() -> Any:
    return importlib.import_module("scipy.sparse")  # an extra, as the solver is
