"""Convex quadratic programs: one way to state them and one to solve them, by PIQP.

No answer leaves here that was not checked: the conditions of optimality (Karush, Kuhn, Tucker) are evaluated on what
the solver gave, in the numbers of the program itself, and an answer that misses them is a failure like any other.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.errors import how_to_install

Vector = NDArray[np.float64]

MOST_ITERATIONS = 100
"""Programs of controllers take 10 to 20."""
ONE_POINT = 1e-8
"""Bounds that are nearer are taken for one: with less than that between them PIQP does not see that it is done."""
LARGEST_RESIDUAL = 1e-6
"""Of an answer, relative to the numbers that it is made of."""


class SolverFailure(Exception):  # noqa: N818 - what happened, which callers handle; no mistake of theirs
    """There is no answer: the program has none, or the solver did not find it. The text says which."""


class Program(NamedTuple):
    """Minimise 1/2 x'Px + c'x subject to Ax = b, low <= Gx <= high and lower <= x <= upper.

    Matrices are `scipy.sparse.csc_matrix`, `hessian` (n, n) symmetric and positive semidefinite; ends may be infinite.
    """

    hessian: Any
    linear: Vector
    equalities: Any
    equal_to: Vector
    rows: Any
    low: Vector
    high: Vector
    lower: Vector
    upper: Vector


class Answer(NamedTuple):
    """The solution of a program."""

    x: Vector
    equality_prices: Vector
    """Multipliers of Ax = b."""
    row_prices: Vector
    """Multipliers of Gx: positive where `high` binds, negative where `low` does."""
    bound_prices: Vector
    """The same of the bounds of x."""
    objective: float
    residual: float
    """How far it is from fulfilling the conditions of optimality, relative."""
    iterations: int


@dataclass(slots=True)
class Solver:
    """Solves programs one after the other; those of one shape reuse what was set up for the first."""

    _solver: Any = field(default=None, repr=False)
    _shape: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[type[Solver], tuple[()]]:
        return Solver, ()  # what is set up means nothing in another process

    def solve(self, program: Program) -> Answer:
        """Raises SolverFailure."""
        piqp = load_piqp()
        shape = tuple(
            part
            for matrix in (program.hessian, program.equalities, program.rows)
            for part in (matrix.shape, matrix.indptr.tobytes(), matrix.indices.tobytes())
        )
        arguments = _arguments(program)
        if shape == self._shape:
            self._solver.update(*arguments)
        else:
            self._solver, self._shape = piqp.SparseSolver(), shape
            self._solver.settings.max_iter = MOST_ITERATIONS
            self._solver.setup(*arguments)
        status = self._solver.solve()
        if status not in (piqp.PIQP_SOLVED, piqp.PIQP_MAX_ITER_REACHED):
            self._shape = ()
            raise SolverFailure(_WORDS.get(status.name, status.name.removeprefix("PIQP_").lower()))
        try:
            return _checked(program, self._solver.result)
        except SolverFailure as failure:
            self._shape = ()
            if status == piqp.PIQP_SOLVED:
                raise
            raise SolverFailure(f"no solution after the most iterations allowed: {failure}") from failure


_WORDS = {
    "PIQP_PRIMAL_INFEASIBLE": "the constraints contradict each other",
    "PIQP_DUAL_INFEASIBLE": "nothing bounds the objective",
    "PIQP_NUMERICS": "the numbers are too far apart to solve it",
}


def load_piqp() -> Any:
    """The solver's module. ModuleNotFoundError names the extra that brings it."""
    try:
        return importlib.import_module("piqp")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the solver PIQP is not installed: {how_to_install('control')}") from error


def _arguments(program: Program) -> tuple[Any, ...]:
    equalities = (program.equalities, program.equal_to) if program.equalities.shape[0] else (None, None)
    rows = (program.rows, program.low, program.high) if program.rows.shape[0] else (None, None, None)
    upper = np.where(program.upper - program.lower < ONE_POINT, program.lower, program.upper)
    return (program.hessian, program.linear, *equalities, *rows, program.lower, upper)


def _checked(program: Program, result: Any) -> Answer:
    x = np.asarray(result.x, dtype=np.float64)
    equality_prices = np.asarray(result.y, dtype=np.float64)
    row_prices = np.asarray(result.z_u - result.z_l, dtype=np.float64)
    bound_prices = np.asarray(result.z_bu - result.z_bl, dtype=np.float64)
    if not all(np.isfinite(part).all() for part in (x, equality_prices, row_prices, bound_prices)):
        raise SolverFailure("the solver gave numbers that are none")
    residual = kkt_residual(program, x, equality_prices, row_prices, bound_prices)
    if residual > LARGEST_RESIDUAL:
        raise SolverFailure(f"the solver's answer misses the conditions of optimality by {residual:.1e}")
    objective = float(x @ (program.hessian @ x) / 2.0 + program.linear @ x)
    return Answer(x, equality_prices, row_prices, bound_prices, objective, residual, int(result.info.iter))


def kkt_residual(
    program: Program, x: Vector, equality_prices: Vector, row_prices: Vector, bound_prices: Vector
) -> float:
    """The largest violation of the conditions of optimality, each relative to 1 or to the numbers it is made of."""
    curved = program.hessian @ x
    pulls = [program.equalities.T @ equality_prices, program.rows.T @ row_prices, bound_prices]
    gradient = curved + program.linear + sum(pulls)
    scale = max(1.0, *(_largest(part) for part in (curved, program.linear, *pulls)))
    rows = program.rows @ x
    return max(
        _largest(gradient) / scale,
        _largest(program.equalities @ x - program.equal_to) / max(1.0, _largest(program.equal_to)),
        _misses(rows, program.low, program.high, row_prices, scale),
        _misses(x, program.lower, program.upper, bound_prices, scale),
    )


def _misses(values: Vector, low: Vector, high: Vector, prices: Vector, scale: float) -> float:
    """By how much values are out of bounds, or away from the bound that their price says binds."""
    if not len(values):
        return 0.0
    size = max(1.0, _largest(values))
    outside = np.maximum(low - values, values - high)
    binding = np.where(prices > 0, high, low)
    # Prices that are next to nothing may stand at bounds that do not bind, or that are not there.
    away = np.where(np.isfinite(binding), np.abs(binding - np.clip(values, low, high)), size)
    return max(_largest(np.maximum(outside, 0.0)) / size, _largest(np.minimum(away, size) * prices) / (size * scale))


def _largest(values: Vector) -> float:
    return float(np.abs(values).max(initial=0.0))
