"""Quadratic programs by Clarabel, to check PIQP's answers and to compare times with."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from edgeflex_operators._qp import Program

clarabel: Any = importlib.import_module("clarabel")
sparse: Any = importlib.import_module("scipy.sparse")


def by_clarabel(program: Program) -> float:
    """The least objective, according to Clarabel."""
    blocks: list[tuple[Any, Any]] = []
    identity = sparse.eye(len(program.linear), format="csc")
    for matrix, low, high in ((program.rows, program.low, program.high), (identity, program.lower, program.upper)):
        blocks += [(matrix[np.isfinite(high)], high[np.isfinite(high)])]
        blocks += [(-matrix[np.isfinite(low)], -low[np.isfinite(low)])]
    inequalities = sparse.vstack([each for each, _ in blocks])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cones = [clarabel.ZeroConeT(len(program.equal_to)), clarabel.NonnegativeConeT(inequalities.shape[0])]
    solver = clarabel.DefaultSolver(
        sparse.csc_matrix(sparse.triu(program.hessian)),
        program.linear,
        sparse.csc_matrix(sparse.vstack([program.equalities, inequalities])),
        np.concatenate([program.equal_to, *(ends for _, ends in blocks)]),
        cones,
        settings,
    )
    solution = solver.solve()
    assert str(solution.status) == "Solved"
    return float(solution.obj_val)
