"""Means over steps beside a slow twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_operators._step_series import StepSeries

batches = st.lists(st.lists(st.tuples(st.integers(-50, 300), st.floats(-1e6, 1e6)), max_size=12), max_size=8)


def series_of(rows: list[list[tuple[int, float]]], kept: int) -> StepSeries:
    series = StepSeries(step_ns=10, kept=kept)
    for batch in rows:
        times = np.array([time_ns for time_ns, _ in batch], dtype=np.int64)
        values = np.array([value for _, value in batch])
        series.add(times, values, np.full(len(batch), 4, dtype=np.uint16))
    return series


@given(batches)
def test_means_are_those_of_all_rows_of_a_step_in_any_order(rows: list[list[tuple[int, float]]]) -> None:
    series = series_of(rows, 1000)
    by_step: dict[int, list[float]] = {}
    for time_ns, value in (row for batch in rows for row in batch):
        by_step.setdefault(time_ns // 10, []).append(value)
    _, means = series.means(series.end)
    expected = [
        sum(by_step[step]) / len(by_step[step]) if step in by_step else np.nan
        for step in range(series.first, series.end)
    ]
    assert means.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)
    if by_step:
        assert (series.first, series.end) == (min(by_step), max(by_step) + 1)


@given(batches, st.integers(1, 5))
def test_never_more_steps_are_kept_than_asked_for_and_they_are_the_last(
    rows: list[list[tuple[int, float]]], kept: int
) -> None:
    series = series_of(rows, kept)
    steps = [time_ns // 10 for batch in rows for time_ns, _ in batch]
    assert len(series.sums) == len(series.counts) == len(series.flags) <= kept
    if steps:
        assert series.end == max(steps) + 1
        assert series.newest_ns == max(time_ns for batch in rows for time_ns, _ in batch)


def test_steps_beyond_the_rows_have_no_mean() -> None:
    series = series_of([[(0, 1.0), (5, 3.0), (12, 5.0)]], 100)
    first, means = series.means(4)
    assert first == 0
    np.testing.assert_array_equal(means, [2.0, 5.0, np.nan, np.nan])
    np.testing.assert_array_equal(series.means(1)[1], [2.0])
    assert series.means(-3)[1].size == 0
    assert series.flags.tolist() == [4, 4]


def test_a_long_silence_and_a_series_without_rows_cost_no_memory() -> None:
    series = series_of([[(0, 1.0)]], 5)
    first, means = series.means(10**12)
    assert (first, len(means)) == (10**12 - 5, 5)
    assert np.isnan(means).all()
    assert StepSeries(step_ns=10, kept=5).means(10**12)[1].size == 0
