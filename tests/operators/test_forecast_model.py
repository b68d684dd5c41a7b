"""Models of series whose law is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeflex_operators._forecast_model import (
    Array,
    Course,
    bridged,
    fit,
    forecast_by,
    reference,
    simple_forecast,
    usual_zero,
)

PER_DAY = 24
ALL = np.ones(PER_DAY, dtype=np.bool_)
some_gaps = st.lists(st.one_of(st.just(math.nan), st.floats(-10, 10)), max_size=30).map(np.array)


def course_of(values: Array, first: int = 0, weather: Array | None = None) -> Course:
    return Course(np.asarray(values, dtype=np.float64), first, PER_DAY, weather)


def plant(days: int, seed: int = 1) -> Array:
    """Photovoltaics: a bow by day in the weather of the day."""
    rng = np.random.default_rng(seed)
    bow = np.maximum(np.sin(math.tau * (np.arange(PER_DAY) - 6) / PER_DAY), 0.0)
    return (rng.uniform(0.3, 1.0, (days, 1)) * bow).ravel()


@given(some_gaps, st.integers(0, 6))
def test_bridging_fills_short_gaps_alone_and_changes_nothing_else(values: Array, most: int) -> None:
    filled, count = bridged(values, most)
    known = np.isfinite(values)
    np.testing.assert_array_equal(filled[known], values[known])
    assert count == (np.isfinite(filled) & ~known).sum()
    run = 0
    for place in range(len(values)):
        run = 0 if known[place] else run + 1
        inner_end = place + 1 == len(values) or known[place + 1]
        if run and inner_end:
            short = run <= most and place - run >= 0
            assert np.isfinite(filled[place - run + 1 : place + 1]).all() == short


@given(st.integers(1, 80), st.integers(0, 100))
def test_reference_is_the_newest_known_step_of_the_same_time_of_day(horizon: int, first: int) -> None:
    course = course_of(np.arange(200.0), first)
    [found] = reference(course, np.array([150]), horizon)
    assert found <= 150
    assert (found - (150 + horizon)) % PER_DAY == 0
    assert found + PER_DAY > 150


def test_night_is_where_a_plant_and_its_neighbours_never_gave_anything() -> None:
    values = plant(5)
    night = usual_zero(course_of(values[10:], first=10), 1e-3)
    bow = values.reshape(-1, PER_DAY).max(axis=0)
    assert night.tolist() == [bow[hour - 1 : hour + 2].max() <= 1e-3 if 0 < hour < 23 else True for hour in range(24)]


def test_two_days_tell_no_night() -> None:
    assert not usual_zero(course_of(plant(2)), 1e-3).any()


def test_regression_finds_the_law_of_a_series_that_has_one() -> None:
    time = np.arange(30 * PER_DAY)
    values = 5.0 + 2.0 * np.sin(math.tau * time / PER_DAY)
    course = course_of(values[: 28 * PER_DAY])
    model = fit(course, 24, ALL, -math.inf, math.inf)
    assert model is not None
    expected, quantiles = forecast_by(model, course, 24)
    np.testing.assert_allclose(expected, values[28 * PER_DAY :][:24], atol=0.02)
    assert (np.diff(quantiles, axis=0) >= 0.0).all()
    assert model.skill > 0.98


def test_weather_that_tells_all_is_believed() -> None:
    rng = np.random.default_rng(5)
    weather = np.repeat(rng.uniform(3.0, 12.0, 8 * 31), 3)
    power = weather**3 / 12.0**3
    known = 28 * PER_DAY
    course = course_of(power[:known], weather=weather[: known + 24])
    model = fit(course, 24, ALL, 0.0, 1.0)
    blind = fit(course._replace(weather=None), 24, ALL, 0.0, 1.0)
    assert model is not None
    assert blind is not None
    error, blind_error = (
        np.abs(forecast_by(each, seen, 24)[0] - power[known : known + 24]).mean()
        for each, seen in ((model, course), (blind, course._replace(weather=None)))
    )
    assert error < 0.1 * blind_error


def noise_by_the_hour(seed: int, days: int) -> Array:
    rng = np.random.default_rng(seed)
    values = np.zeros(days * PER_DAY)
    for k in range(1, len(values)):
        values[k] = 0.9 * values[k - 1] + rng.normal() * (0.2 if k % PER_DAY < 12 else 1.0)
    return values


@pytest.mark.long
def test_calibrated_quantiles_cover_what_they_say() -> None:
    inside = []
    known = 56 * PER_DAY
    for seed in range(5):
        values = noise_by_the_hour(seed, 76)
        model = fit(course_of(values[:known]), 12, ALL, -math.inf, math.inf)
        assert model is not None
        for end in range(known, len(values) - 12, 5):
            _, quantiles = forecast_by(model, course_of(values[:end]), 12)
            truth = values[end : end + 12]
            inside.append((truth >= quantiles[0]) & (truth <= quantiles[-1]))
    assert np.mean(inside) == pytest.approx(0.8, abs=0.05)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.floats(0.0, 0.2))
def test_gaps_leave_forecasts_finite_or_openly_unknown(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    values = plant(20, seed)
    values[rng.random(len(values)) < share] = np.nan
    course = course_of(values)
    model = fit(course, 6, ALL, 0.0, 1.0)
    if model is not None:
        expected, quantiles = forecast_by(model, course, 6)
        assert np.isfinite(expected).all() == np.isfinite(quantiles).all()


def test_history_that_is_too_short_makes_no_model() -> None:
    assert fit(course_of(plant(3)), 24, ALL, 0.0, 1.0) is None


def test_persistence_and_the_last_day_are_what_they_say() -> None:
    values = plant(12)
    course = course_of(values)
    persistent, _ = simple_forecast(course, 30, daily=False)
    daily, quantiles = simple_forecast(course, 30, daily=True)
    assert set(persistent.tolist()) == {values[-1]}
    np.testing.assert_array_equal(daily, [*values[-24:], *values[-24:-18]])
    assert quantiles is not None
    assert (np.diff(quantiles, axis=0) >= 0.0).all()


def test_few_errors_tell_no_quantiles() -> None:
    _, quantiles = simple_forecast(course_of(plant(2)), 2, daily=True)
    assert quantiles is None
