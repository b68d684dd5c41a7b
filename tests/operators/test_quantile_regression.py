"""Quantile regression beside what it must be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from edgeflex_operators._forecast_metrics import pinball
from edgeflex_operators._quantile_regression import Array, quantile_regression


def primal(features: Array, values: Array, probability: float) -> float:
    """The least mean pinball loss, by the textbook's program with the residuals' parts as variables."""
    rows, columns = features.shape
    cost = np.concatenate([np.zeros(columns), np.full(rows, probability), np.full(rows, 1.0 - probability)])
    matrix = np.hstack([features, np.eye(rows), -np.eye(rows)])
    bounds = [(None, None)] * columns + [(0.0, None)] * (2 * rows)
    least = float(linprog(cost, A_eq=matrix, b_eq=values, bounds=bounds).fun)
    return least / len(values)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([1e-3, 1.0, 1e7]))
def test_loss_is_the_least_of_the_textbooks_program(seed: int, probability: float, size: float) -> None:
    rng = np.random.default_rng(seed)
    features = np.column_stack([np.ones(40), rng.normal(size=(40, 2)) * [1.0, 1e4]])
    values = size * (features @ [1.0, 2.0, 1e-4] + rng.normal(size=40))
    found = pinball(values, features @ quantile_regression(features, values, probability), probability)
    assert found == pytest.approx(primal(features, values, probability), rel=1e-6, abs=1e-9 * size)


def test_quantile_of_a_constant_is_that_of_the_values() -> None:
    values = np.arange(101.0)
    [found] = quantile_regression(np.ones((101, 1)), values, 0.9)
    assert found == pytest.approx(90.0)


def test_share_below_the_quantile_is_its_probability() -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(0.0, 1.0, 2000)
    values = x * (1.0 + rng.normal(size=2000))  # the spread grows with x
    features = np.column_stack([np.ones(2000), x])
    for probability in (0.1, 0.9):
        below = values <= features @ quantile_regression(features, values, probability)
        assert below.mean() == pytest.approx(probability, abs=0.005)
        assert below[x > 0.5].mean() == pytest.approx(probability, abs=0.04)


def test_features_without_values_of_a_column_do_no_harm() -> None:
    features = np.column_stack([np.ones(10), np.zeros(10)])
    found = quantile_regression(features, np.arange(10.0), 0.5)
    assert np.isfinite(found).all()


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inf|nan|NaN"):
        quantile_regression(np.ones((3, 1)), np.array([1.0, np.nan, 2.0]), 0.5)
