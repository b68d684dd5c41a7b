"""Voltage control with foresight: reactive power, storage and curtailment over a horizon, as one quadratic program."""

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
from edgeflex_operators._voltage_program import CURVATURE, SLACK_DOUBLES_PU, Powers, VoltageProgram

Vector = NDArray[np.float64]
"""Of the values of one step."""
Table = NDArray[np.float64]
"""A row for each step."""

TARGET_COSTS_MORE = 1e5
"""How much more a deviation from what a market has bought costs than the same curtailed: the weight of CoVEE."""
LATER_COUNTS_LESS = 0.3
"""Share by which curtailing in the last step is cheaper than now: forecasts err, so storages are filled early."""
TINY = 1e-9
"""Where nothing is to be paid for: matrices of one shape have no zeros on the diagonal."""


class Outlook(NamedTuple):
    """What a plan is made from, in pu; tables have a row for each step."""

    voltage: Table
    """Without any set-points, (steps, nodes)."""
    margin: Table
    """By how much voltages stay within their limits, since forecasts err, (steps, nodes)."""
    available: Table
    """(steps, inverters)."""
    energy: Vector
    """What storages hold, in pu of power times hours, (storages,)."""
    first: tuple[Vector, Vector]
    """Bounds of all powers in the first step, as `VoltageProgram.bounds` gives them."""
    voltage_bounds: Bounds
    curtailable_share: float
    targets: Table
    """Changes of active power that are bought, (steps, inverters); NaN where none is."""


class Plan(NamedTuple):
    """Set-points of all steps, in pu, with a row for each step."""

    reactive: Table
    curtailed: Table
    storage: Table
    """(steps, inverters); positive is discharge."""
    energy: Table
    """At the end of each step, (steps, storages)."""
    voltage: Table
    slack: Table
    binds_high: NDArray[np.bool_]
    binds_low: NDArray[np.bool_]
    """Whose voltage decides in the first step, (nodes,)."""
    objective: float
    residual: float

    def first(self) -> Powers:
        return Powers(self.reactive[0], self.curtailed[0], self.storage[0])


@dataclass(slots=True)
class HorizonProgram:
    """The program for `steps` of `step_h` hours. Prices of means, and what voltages follow from, are those of
    `VoltageProgram`; storages carry energy from step to step, and what they lack at the end of what they should hold
    costs something, so that they are used and have room again.

    Variables of a step: reactive power, curtailment (inverters each), charging, discharging, energy (storages each),
    change of active power (inverters), slack, voltage (nodes each). Voltages as variables keep the matrix sparse: with
    them 24 steps of 14 nodes take a third of the time.
    """

    now: VoltageProgram
    steps: int
    step_h: float
    wanted_charge: float
    """State of charge at the end of the horizon, 0 to 1."""
    solver: Solver = field(default_factory=Solver)
    stored: tuple[int, ...] = field(init=False)
    """Places of the inverters that have a storage."""
    sizes: tuple[int, ...] = field(init=False)
    hessian: Vector = field(init=False)
    linear: Vector = field(init=False)
    equalities: Any = field(init=False)
    rows: Any = field(init=False)

    def __post_init__(self) -> None:
        self.stored = tuple(place for place, each in enumerate(self.inverters) if each.storage is not None)
        n, m, s = len(self.sensitivities.reactance), len(self.inverters), len(self.stored)
        self.sizes = (m, m, s, s, s, m, n, n)
        prices, curvatures = self._prices(n, m)
        self.linear = np.tile(np.concatenate(prices), self.steps)
        for step in range(self.steps):
            self.linear[self._at(step, 1) : self._at(step, 2)] *= 1.0 - LATER_COUNTS_LESS * step / self.steps
        self.hessian = np.tile(np.concatenate(curvatures), self.steps)
        self._value_energy()
        sparse = importlib.import_module("scipy.sparse")
        self.equalities = self._equalities(sparse)
        zero, one = sparse.csc_matrix((n, sum(self.sizes[:-2]))), sparse.eye(n)
        step = sparse.vstack([sparse.hstack([zero, -one, one]), sparse.hstack([zero, one, one])])
        self.rows = sparse.block_diag([step] * self.steps).tocsc()

    @property
    def inverters(self) -> Sequence[Inverter]:
        return self.now.inverters

    @property
    def sensitivities(self) -> Sensitivities:
        return self.now.sensitivities

    @property
    def capacity(self) -> Vector:
        """Of the storages, in pu of power times hours."""
        found = [each.storage.capacity for each in self.inverters if each.storage is not None]
        return np.array(found) / self.now.power_base_kva

    def _prices(self, n: int, m: int) -> tuple[list[Vector], list[Vector]]:
        """Of a step: prices and how fast they grow, by kind of variable."""
        stored_price, curtailed_price = self.now.prices()
        rated, of_stores = self.now.rated, self.now.rated[list(self.stored)]
        slack = self.now.slack_price
        curved = CURVATURE * stored_price / of_stores
        nothing = np.zeros_like(of_stores)
        prices = [
            np.zeros(m),
            np.full(m, curtailed_price),
            nothing + stored_price,
            nothing + stored_price,
            nothing,
            np.zeros(m),
            np.full(n, slack),
            np.zeros(n),
        ]
        curvatures = [
            1.0 / rated**2,
            CURVATURE * curtailed_price / rated,
            curved,
            curved,
            nothing + TINY,
            np.full(m, TINY),
            np.full(n, slack / SLACK_DOUBLES_PU),
            np.full(n, TINY),
        ]
        return prices, curvatures

    def _value_energy(self) -> None:
        """Price what storages hold at the end: at a missing tenth of their capacity as much as using them costs."""
        stored_price, _ = self.now.prices()
        last = slice(self._at(self.steps - 1, 4), self._at(self.steps - 1, 5))
        price = 10.0 * stored_price / self.step_h / np.maximum(self.capacity, TINY)
        self.hessian[last] = price
        self.linear[last] = -price * self.wanted_charge * self.capacity

    def _at(self, step: int, kind: int) -> int:
        return step * sum(self.sizes) + sum(self.sizes[:kind])

    def _equalities(self, sparse: Any) -> Any:
        """What powers change in sum, voltages, and the energy that storages carry from step to step."""
        resistance, reactance = self.sensitivities
        n, m = reactance.shape
        s = len(self.stored)
        pick = sparse.csc_matrix((np.ones(s), (list(self.stored), range(s))), shape=(m, s))
        efficiency = [each.storage.efficiency for each in self.inverters if each.storage is not None]
        charged = sparse.diags(-self.step_h * np.array(efficiency)) if s else None
        discharged = sparse.diags(self.step_h / np.array(efficiency)) if s else None
        one_m, one_s, one_n = sparse.eye(m), sparse.eye(s) if s else None, sparse.eye(n)
        blocks = [
            [None, one_m, pick, -pick, None, one_m, None, None],
            [-sparse.csc_matrix(reactance), None, None, None, None, -sparse.csc_matrix(resistance), None, one_n],
        ]
        if s:
            blocks.append([None, None, charged, discharged, one_s, None, None, None])
        step = _filled(sparse, blocks, (m, n, s)[: len(blocks)], self.sizes)
        whole = sparse.block_diag([step] * self.steps)
        if not s or self.steps == 1:
            return whole.tocsc()
        before = sparse.lil_matrix((m + n + s, sum(self.sizes)))
        for place in range(s):
            before[m + n + place, sum(self.sizes[:4]) + place] = -1.0
        return (whole + sparse.kron(sparse.eye(self.steps, k=-1), before.tocsc())).tocsc()

    def plan(self, outlook: Outlook) -> Plan:
        """The plan from here. Raises SolverFailure."""
        return self._plan(self.solver.solve(self.program(outlook)))

    def program(self, outlook: Outlook) -> Program:
        """The quadratic program of this outlook."""
        sparse = importlib.import_module("scipy.sparse")
        n, m, s = len(self.sensitivities.reactance), len(self.inverters), len(self.stored)
        equal_to = np.concatenate([np.zeros((self.steps, m)), outlook.voltage, np.zeros((self.steps, s))], axis=1)
        equal_to[0, m + n :] = outlook.energy
        lower, upper = self._bounds(outlook)
        hessian, linear = self.hessian.copy(), self.linear.copy()
        for step, inverter in np.argwhere(~np.isnan(outlook.targets)).tolist():
            at = self._at(step, 5) + inverter
            hessian[at] = TARGET_COSTS_MORE / self.now.rated[inverter] ** 2
            linear[at] = -hessian[at] * outlook.targets[step, inverter]
        bounds, nothing = outlook.voltage_bounds, np.full((self.steps, n), np.inf)
        return Program(
            hessian=sparse.diags(hessian).tocsc(),
            linear=linear,
            equalities=self.equalities,
            equal_to=equal_to.ravel(),
            rows=self.rows,
            low=np.concatenate([-nothing, bounds.low + outlook.margin], axis=1).ravel(),
            high=np.concatenate([bounds.high - outlook.margin, nothing], axis=1).ravel(),
            lower=lower.ravel(),
            upper=upper.ravel(),
        )

    def _bounds(self, outlook: Outlook) -> tuple[Table, Table]:
        available = np.maximum(outlook.available, 0.0)
        steps, reactive = self.steps, self.now.most_reactive(available)
        least, greatest = (each[:, list(self.stored)] for each in self.now.apparent(available))
        can = np.array([each.curtailable and not each.storage_only for each in self.inverters])
        stores = [each.storage for each in self.inverters if each.storage is not None]
        base = self.now.power_base_kva

        def each_step(values: Sequence[float]) -> Table:
            return np.tile(np.array(values, dtype=np.float64).reshape(1, -1), (steps, 1))

        zero_m, zero_s = np.zeros_like(available), each_step([0.0] * len(stores))
        charging = np.minimum(each_step([each.max_charge / base for each in stores]), -least)
        discharging = np.minimum(each_step([each.max_discharge / base for each in stores]), greatest)
        lowest = each_step([each.lowest * each.capacity / base for each in stores])
        highest = each_step([each.highest * each.capacity / base for each in stores])
        # A storage that is beyond its bounds now may stay there.
        lowest, highest = np.minimum(lowest, outlook.energy), np.maximum(highest, outlook.energy)
        free_m, free_n = np.full_like(available, np.inf), np.full((steps, len(self.sensitivities.reactance)), np.inf)
        most = outlook.curtailable_share * can * available
        lower = [-reactive, zero_m, zero_s, zero_s, lowest, -free_m, np.zeros_like(free_n), -free_n]
        upper = [reactive, most, charging, discharging, highest, free_m, free_n, free_n]
        for kind, (low, high) in enumerate(zip(*(np.split(each, 4) for each in outlook.first), strict=True)):
            at = list(self.stored) if kind >= 2 else slice(None)
            lower[kind][0], upper[kind][0] = low[at], high[at]
        return np.concatenate(lower, axis=1), np.concatenate(upper, axis=1)

    def _plan(self, answer: Answer) -> Plan:
        m, n = len(self.inverters), len(self.sensitivities.reactance)
        kinds = np.split(answer.x.reshape(self.steps, -1), np.cumsum(self.sizes)[:-1], axis=1)
        reactive, curtailed, charged, discharged, energy, _, slack, voltage = kinds
        storage = np.zeros((self.steps, m))
        storage[:, list(self.stored)] = discharged - charged
        prices = answer.row_prices.reshape(self.steps, 2, n)[0]
        binds = 1e-6 * self.now.slack_price
        return Plan(
            reactive=reactive,
            curtailed=np.maximum(curtailed, 0.0),
            storage=storage,
            energy=energy,
            voltage=voltage,
            slack=np.maximum(slack, 0.0),
            binds_high=prices[0] > binds,
            binds_low=prices[1] < -binds,
            objective=answer.objective,
            residual=answer.residual,
        )


def _filled(sparse: Any, blocks: list[list[Any]], heights: Sequence[int], widths: Sequence[int]) -> Any:
    """A matrix of blocks, of which any may be missing."""
    return sparse.vstack(
        [
            sparse.hstack(
                [
                    sparse.csc_matrix((height, width)) if each is None else each
                    for each, width in zip(line, widths, strict=True)
                ]
            )
            for line, height in zip(blocks, heights, strict=True)
        ]
    )
