"""Measures of forecasts beside their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_operators._forecast_metrics import coverage, nmae, nrmse, pinball, skill

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@given(values, st.floats(-1e3, 1e3))
def test_forecast_that_is_off_by_a_constant_has_just_this_error(truth: list[float], off: float) -> None:
    known = np.array(truth)
    assert nmae(known, known + off, 10.0) == pytest.approx(abs(off) / 10.0, abs=1e-6)
    assert nrmse(known, known + off, 10.0) == pytest.approx(abs(off) / 10.0, abs=1e-6)


@given(values, st.floats(0.01, 0.99))
def test_no_constant_has_less_pinball_loss_than_the_quantile(truth: list[float], probability: float) -> None:
    known = np.array(truth)
    best = np.quantile(known, probability, method="inverted_cdf")
    least = pinball(known, np.full(len(known), best), probability)
    for other in (*truth, best + 1.0, best - 1.0):
        assert least <= pinball(known, np.full(len(known), other), probability) + 1e-6


def test_gaps_do_not_count() -> None:
    truth, zero = np.array([1.0, np.nan]), np.zeros(2)
    assert (nmae(truth, zero, 2.0), nrmse(truth, zero, 2.0), pinball(truth, zero, 0.5)) == (0.5, 0.5, 0.5)
    assert coverage(truth, zero, zero + 2.0) == 1.0


def test_coverage_of_nothing_is_unknown() -> None:
    assert math.isnan(coverage(np.array([np.nan]), np.zeros(1), np.ones(1)))


def test_skill_against_a_perfect_reference_is_none_or_minus_infinity() -> None:
    assert (skill(0.0, 0.0), skill(0.1, 0.0)) == (0.0, -math.inf)
