"""Answers of the solver beside those of another one, Clarabel, on programs of many shapes."""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import Any

import numpy as np
import pytest

from benchmarks.other_solver import by_clarabel
from edgeflex_operators import _qp
from edgeflex_operators._qp import LARGEST_RESIDUAL, Program, Solver, SolverFailure, kkt_residual

sparse: Any = importlib.import_module("scipy.sparse")


def random_program(seed: int, *, unbounded: bool = False) -> Program:
    """A program that has a solution: constraints are drawn around a point that fulfils them."""
    random = np.random.default_rng(seed)
    n, equalities, rows = int(random.integers(2, 25)), int(random.integers(0, 4)), int(random.integers(0, 12))
    root = sparse.random(n, n, 0.4, random_state=random)
    inside = random.normal(size=n)
    a = sparse.csc_matrix(random.normal(size=(equalities, n)))
    g = sparse.csc_matrix(random.normal(size=(rows, n)))
    widths = random.exponential(size=(4, max(n, rows)))
    return Program(
        hessian=sparse.csc_matrix(root @ root.T + 1e-3 * sparse.eye(n)),
        linear=random.normal(size=n) * 10.0 ** random.uniform(-2, 2),
        equalities=a,
        equal_to=a @ inside,
        rows=g,
        low=np.where(random.random(rows) < 0.3, -np.inf, g @ inside - widths[0, :rows]),
        high=np.where(random.random(rows) < 0.3, np.inf, g @ inside + widths[1, :rows]),
        lower=np.full(n, -np.inf) if unbounded else inside - widths[2, :n],
        upper=np.full(n, np.inf) if unbounded else inside + widths[3, :n],
    )


@pytest.mark.parametrize("seed", range(60))
def test_objective_agrees_with_another_solver(seed: int) -> None:
    program = random_program(seed, unbounded=seed % 5 == 0)
    answer = Solver().solve(program)
    other = by_clarabel(program)
    assert answer.objective == pytest.approx(other, rel=1e-6, abs=1e-6)
    assert answer.residual <= LARGEST_RESIDUAL


@pytest.mark.parametrize("gap", [0.0, 1e-13, 1e-11, 1e-10, 1e-9, 1e-8, 1e-6])
def test_bounds_that_all_but_meet_are_no_trouble(gap: float) -> None:
    for seed in range(20):
        program = random_program(seed)
        lower = program.lower.copy()
        lower[::2] = program.upper[::2] - gap
        none = sparse.csc_matrix((0, len(lower)))
        answer = Solver().solve(program._replace(lower=lower, rows=none, equalities=none, equal_to=np.zeros(0)))
        assert answer.iterations < 50


def test_programs_of_one_shape_are_solved_as_if_each_were_the_first() -> None:
    solver, first = Solver(), random_program(3)
    for scale in (1.0, 2.0, 0.5):
        program = first._replace(linear=first.linear * scale, upper=first.upper + scale)
        assert solver.solve(program).x == pytest.approx(Solver().solve(program).x, abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_no_other_point_fulfils_the_conditions_of_optimality(seed: int) -> None:
    program = random_program(seed)
    answer = Solver().solve(program)
    prices = (answer.equality_prices, answer.row_prices, answer.bound_prices)
    moved = answer.x + 1e-2 * np.random.default_rng(seed).normal(size=len(answer.x))
    assert kkt_residual(program, moved, *prices) > 1e-4
    assert kkt_residual(program, answer.x, prices[0], prices[1], prices[2] + 1e-2) > LARGEST_RESIDUAL


def test_constraints_that_contradict_each_other_are_told() -> None:
    program = random_program(1)
    with pytest.raises(SolverFailure, match="contradict"):
        Solver().solve(
            program._replace(
                rows=sparse.csc_matrix(np.eye(len(program.linear))),
                low=program.upper + 1.0,
                high=np.full(len(program.linear), np.inf),
            )
        )


def test_objective_without_a_bound_is_told() -> None:
    none = sparse.csc_matrix((0, 1))
    empty, far = np.zeros(0), np.array([np.inf])
    program = Program(sparse.csc_matrix((1, 1)), np.array([-1.0]), none, empty, none, empty, empty, -far, far)
    with pytest.raises(SolverFailure, match="nothing bounds"):
        Solver().solve(program)


def test_answer_that_is_wrong_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    program = random_program(2)
    monkeypatch.setattr(_qp, "kkt_residual", lambda *_: 1e-3)
    with pytest.raises(SolverFailure, match=r"misses the conditions of optimality by 1\.0e-03"):
        Solver().solve(program)


def test_solver_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "piqp", None)
    with pytest.raises(ModuleNotFoundError, match=r"edgeflex-flow\[control\]"):
        Solver().solve(random_program(0))


def test_solver_passes_to_another_process_as_a_new_one() -> None:
    solver, program = Solver(), random_program(4)
    before = solver.solve(program).objective
    assert pickle.loads(pickle.dumps(solver)).solve(program).objective == pytest.approx(before)
