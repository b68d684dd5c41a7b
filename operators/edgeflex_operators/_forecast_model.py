"""Forecasts of a series of steps from its own past, and optionally from weather that others forecast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_operators._forecast_metrics import coverage, skill
from edgeflex_operators._quantile_regression import quantile_regression

Array = NDArray[np.float64]

PROBABILITIES = (0.1, 0.5, 0.9)
LAGS = 6
DAYS_AVERAGED = 7
"""Days whose mean at the same time of day is what is usual."""
HARMONICS = 2
WEIGHTS_OF_RIDGE = (1e-4, 1e-2, 0.1, 1.0)
"""Per row, on features of variance 1; which one serves best is found for each horizon."""
KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 144, 192, 288)
"""Horizons for which quantiles are fitted; between them their coefficients are interpolated."""
ROWS_OF_QUANTILES = 800
HELD_OUT = 0.3
"""Share of the history, its newest part, on which quantiles are calibrated."""
LEAST_ERRORS = 50
"""Fewer errors than this tell nothing of how sure a forecast is."""
HIGHEST_RATIO = 2.0


class Course(NamedTuple):
    """What is known of a series: means of its steps, NaN in gaps, and of the weather, which goes on into the future."""

    values: Array
    first: int
    """Number of the first step since 1970."""
    per_day: int
    weather: Array | None = None
    """Of the same steps and as many more as are forecast."""


def reference(course: Course, origins: NDArray[np.int64], horizon: int) -> Array:
    """The same time of day, a whole number of days before the step `horizon` after each origin."""
    days = -(-horizon // course.per_day)
    return _at(course.values, origins + horizon - days * course.per_day)


def bridged(values: Array, most: int) -> tuple[Array, int]:
    """Values with gaps of at most `most` steps filled: inside by a line, at the end by the last value; how many.

    >>> bridged(np.array([1.0, np.nan, 3.0, np.nan]), 1)
    (array([1., 2., 3., 3.]), 2)
    """
    gaps = np.isnan(values)
    known = np.flatnonzero(~gaps)
    if not len(known) or not gaps.any():
        return values, 0
    filled = values.copy()
    places = np.flatnonzero(gaps)
    after = np.searchsorted(known, places)
    before = known[np.maximum(after - 1, 0)]
    later = np.where(after < len(known), known[np.minimum(after, len(known) - 1)], len(values))
    short = (after > 0) & (later - before - 1 <= most)
    filled[places[short]] = np.interp(places[short], known, values[known])
    return filled, int(short.sum())


def usual_zero(course: Course, zero: float) -> NDArray[np.bool_]:
    """By step of the day whether it and its neighbours never held more than `zero`, in three days or more: the night
    of a photovoltaic plant."""
    padded = np.full(
        -(-(course.first % course.per_day + len(course.values)) // course.per_day) * course.per_day, np.nan
    )
    start = course.first % course.per_day
    padded[start : start + len(course.values)] = course.values
    days = padded.reshape(-1, course.per_day)
    dark = np.isfinite(days).sum(axis=0) >= 3
    dark &= np.where(np.isnan(days), 0.0, days).max(axis=0, initial=0.0) <= zero
    night: NDArray[np.bool_] = dark & np.roll(dark, 1) & np.roll(dark, -1)
    return night


def _at(values: Array, places: NDArray[np.int64]) -> Array:
    """Values at these places, NaN outside."""
    inside = (places >= 0) & (places < len(values))
    found = np.full(len(places), np.nan)
    found[inside] = values[places[inside]]
    return found


def _usual(course: Course, origins: NDArray[np.int64], horizon: int) -> Array:
    """Mean at the time of day of `horizon` after each origin, over the last days that were known then."""
    days = -(-horizon // course.per_day)
    places = [origins + horizon - (days + day) * course.per_day for day in range(DAYS_AVERAGED)]
    return _mean([_at(course.values, each) for each in places])


def _mean(rows: list[Array]) -> Array:
    """Mean of the rows without their NaN; NaN where all are."""
    table = np.stack(rows)
    known = np.isfinite(table)
    count = known.sum(axis=0)
    total = np.where(known, table, 0.0).sum(axis=0)
    found = np.full(table.shape[1], np.nan)
    np.divide(total, count, out=found, where=count > 0)
    return found


def _angle(course: Course, places: NDArray[np.int64]) -> Array:
    angle: Array = math.tau * ((course.first + places) % course.per_day) / course.per_day
    return angle


def _recent_ratio(course: Course, origins: NDArray[np.int64]) -> Array:
    """What came lately over what is usual at that time of day; 1 where nothing is usual."""
    lately = np.zeros(len(origins))
    usually = np.zeros(len(origins))
    for lag in range(LAGS):
        days = [_at(course.values, origins - lag - day * course.per_day) for day in range(1, DAYS_AVERAGED + 1)]
        usually += _mean(days)
        lately += _at(course.values, origins - lag)
    ratio = np.ones(len(origins))
    np.divide(lately, usually, out=ratio, where=usually > 1e-3 * np.nanmax(np.abs(course.values), initial=0.0))
    return np.clip(ratio, 0.0, HIGHEST_RATIO)


def features(course: Course, origins: NDArray[np.int64], horizon: int, ratio: Array) -> Array:
    """What a forecast made after each origin for `horizon` steps later rests on; shape (n, p), NaN where unknown."""
    usual = _usual(course, origins, horizon)
    before = reference(course, origins, horizon)
    columns = [np.ones(len(origins))]
    columns += [_at(course.values, origins - lag) for lag in range(LAGS)]
    columns += [usual, np.where(np.isnan(before), usual, before), usual * ratio]
    angle = _angle(course, origins + horizon)
    columns += [turn(harmonic * angle) for harmonic in range(1, HARMONICS + 1) for turn in (np.sin, np.cos)]
    if course.weather is not None:
        weather = _at(course.weather, origins + horizon)
        columns += [weather, weather**2, weather**3]
    return np.stack(columns, axis=1)


def spread_features(course: Course, origins: NDArray[np.int64], horizon: int, expected: Array) -> Array:
    """What the quantiles rest on besides: how much is expected, when, and how much it moves lately."""
    angle = _angle(course, origins + horizon)
    moved = np.abs(_at(course.values, origins) - _at(course.values, origins - LAGS + 1))
    return np.stack([np.ones(len(origins)), expected, moved, np.sin(angle), np.cos(angle)], axis=1)


@dataclass(frozen=True, slots=True)
class Model:
    """Coefficients for every horizon from 1 on, and of the quantiles at the knots."""

    coefficients: Array
    """Of the expected value, shape (horizons, features)."""
    knots: tuple[int, ...]
    of_quantiles: Array
    """Shape (knots, probabilities, spread features)."""
    shifts: Array
    """What calibration adds to the quantiles, shape (knots, probabilities)."""
    rows: int
    coverage: float = math.nan
    skill: float = math.nan

    def expected(self, course: Course, origins: NDArray[np.int64], horizon: int, ratio: Array) -> Array:
        found: Array = features(course, origins, horizon, ratio) @ self.coefficients[horizon - 1]
        return found

    def quantiles(self, course: Course, origins: NDArray[np.int64], horizon: int, expected: Array) -> Array:
        """Shape (probabilities, n), in order."""
        spread = spread_features(course, origins, horizon, expected)
        at = np.interp(horizon, self.knots, np.arange(len(self.knots)))
        low, part = int(at), at - int(at)
        high = min(low + 1, len(self.knots) - 1)
        coefficients = (1.0 - part) * self.of_quantiles[low] + part * self.of_quantiles[high]
        shifts = (1.0 - part) * self.shifts[low] + part * self.shifts[high]
        found: Array = np.sort(coefficients @ spread.T + shifts[:, None], axis=0)
        return found


class _Rows(NamedTuple):
    """What one horizon is fitted on, a row for each origin."""

    origins: NDArray[np.int64]
    table: Array
    truth: Array
    whole: NDArray[np.bool_]
    """Rows without NaN."""
    early: NDArray[np.bool_]
    """Those of them that the older part of the history knows."""
    late: NDArray[np.bool_]
    """Those made in the newer part, which is held out."""
    counted: NDArray[np.bool_]
    """Rows that tell something of how sure a forecast is."""


def fit(course: Course, horizons: int, counted: NDArray[np.bool_], low: float, high: float) -> Model | None:
    """A model of the series, its quantiles calibrated on the newest part; None where too few rows are whole.

    `counted` says by step of the day which count: quantiles of a plant at night would only tell of zeros. Forecasts are
    cut to `low` and `high` before they are judged.
    """
    knots = (*(knot for knot in KNOTS if knot < horizons), horizons)
    origins = np.arange(LAGS - 1, len(course.values))
    ratio = _recent_ratio(course, origins)
    coefficients: list[Array] = []
    of_knots: list[_OfKnot] = []
    used = 0
    for horizon in range(1, horizons + 1):
        rows = _rows(course, origins, horizon, ratio, counted)
        if min(rows.early.sum(), rows.late.sum()) < LEAST_ERRORS + 2 * rows.table.shape[1]:
            return None
        used = int(rows.whole.sum())
        weight, first = _best_ridge(rows, low, high)
        coefficients.append(_ridge(rows.table[rows.whole], rows.truth[rows.whole], weight))
        if horizon in knots:
            of_knot = _of_knot(course, horizon, rows, (first, coefficients[-1]), (low, high))
            if of_knot is None:
                return None
            of_knots.append(of_knot)
    return Model(
        np.stack(coefficients),
        knots,
        np.stack([each.coefficients for each in of_knots]),
        np.stack([each.shifts for each in of_knots]),
        rows=used,
        coverage=float(np.mean([each.coverage for each in of_knots])),
        skill=skill(sum(each.error for each in of_knots), sum(each.error_of_persistence for each in of_knots)),
    )


def _rows(course: Course, origins: NDArray[np.int64], horizon: int, ratio: Array, counted: NDArray[np.bool_]) -> _Rows:
    table = features(course, origins, horizon, ratio)
    truth = _at(course.values, origins + horizon)
    whole = np.isfinite(truth) & np.isfinite(table).all(axis=1)
    held_from = int(len(course.values) * (1.0 - HELD_OUT))
    return _Rows(
        origins,
        table,
        truth,
        whole,
        early=whole & (origins + horizon < held_from),
        late=whole & (origins >= held_from - 1),
        counted=counted[(course.first + origins + horizon) % course.per_day],
    )


def _best_ridge(rows: _Rows, low: float, high: float) -> tuple[float, Array]:
    """The weight that serves best on the held-out rows, and the coefficients that the older ones give with it."""
    table, truth = rows.table[rows.early], rows.truth[rows.early]
    tried = [(weight, _ridge(table, truth, weight)) for weight in WEIGHTS_OF_RIDGE]
    late, expected = rows.table[rows.late], rows.truth[rows.late]
    return min(tried, key=lambda each: float(np.abs(np.clip(late @ each[1], low, high) - expected).sum()))


def _ridge(table: Array, truth: Array, weight: float) -> Array:
    """Coefficients of least squares with a penalty on those of standardised features, the first column being 1."""
    middle = table[:, 1:].mean(axis=0)
    scale = table[:, 1:].std(axis=0)
    scale[scale <= 1e-12 * np.abs(middle)] = np.inf
    standard = (table[:, 1:] - middle) / scale
    normal = standard.T @ standard + weight * len(table) * np.eye(standard.shape[1])
    slopes = np.linalg.solve(normal, standard.T @ (truth - truth.mean())) / scale
    return np.concatenate([[truth.mean() - middle @ slopes], slopes])


class _OfKnot(NamedTuple):
    """Quantiles of one horizon, and what held-out rows say of it."""

    coefficients: Array
    shifts: Array
    coverage: float
    error: float
    error_of_persistence: float


def _of_knot(
    course: Course, horizon: int, rows: _Rows, ridges: tuple[Array, Array], bounds: tuple[float, float]
) -> _OfKnot | None:
    """`ridges` are the coefficients that the older rows give and those that all give; None where too few rows count."""
    early, late, every = (np.flatnonzero(each & rows.counted) for each in (rows.early, rows.late, rows.whole))
    if min(len(early), len(late)) < LEAST_ERRORS:
        return None

    def spread(places: NDArray[np.int64], ridge: Array) -> Array:
        return spread_features(course, rows.origins[places], horizon, rows.table[places] @ ridge)

    def regressed(places: NDArray[np.int64], ridge: Array) -> Array:
        some = places[:: -(-len(places) // ROWS_OF_QUANTILES)]
        table = spread(some, ridge)
        return np.stack([quantile_regression(table, rows.truth[some], each) for each in PROBABILITIES])

    truth = rows.truth[late]
    found = np.clip(np.sort(regressed(early, ridges[0]) @ spread(late, ridges[0]).T, axis=0), *bounds)
    expected = np.clip(rows.table[late] @ ridges[0], *bounds)
    return _OfKnot(
        regressed(every, ridges[1]),
        np.array([np.quantile(truth - row, each) for row, each in zip(found, PROBABILITIES, strict=True)]),
        coverage(truth, found[0], found[-1]),
        float(np.abs(truth - expected).mean()),
        float(np.abs(truth - course.values[rows.origins[late]]).mean()),
    )


def forecast_by(model: Model, course: Course, horizons: int) -> tuple[Array, Array]:
    """Expected values and quantiles of the steps after the last one of the series; NaN where the model lacks something.

    Shapes (horizons,) and (probabilities, horizons).
    """
    origin = np.array([len(course.values) - 1])
    ratio = _recent_ratio(course, origin)
    expected = np.empty(horizons)
    quantiles = np.empty((len(PROBABILITIES), horizons))
    for horizon in range(1, horizons + 1):
        value = model.expected(course, origin, horizon, ratio)
        expected[horizon - 1] = value[0]
        quantiles[:, horizon - 1] = model.quantiles(course, origin, horizon, value)[:, 0]
    return expected, quantiles


def simple_forecast(course: Course, horizons: int, *, daily: bool) -> tuple[Array, Array | None]:
    """Persistence of the last value, or of the same time of the last day that is known; quantiles of its past errors.

    None for the quantiles where fewer than `LEAST_ERRORS` errors are known.
    """
    last = len(course.values) - 1
    origins = np.arange(last + 1)
    expected = np.empty(horizons)
    quantiles = np.empty((len(PROBABILITIES), horizons))
    sure = True
    for horizon in range(1, horizons + 1):
        before = reference(course, origins, horizon) if daily else course.values
        expected[horizon - 1] = before[last]
        errors = _at(course.values, origins + horizon) - before
        errors = errors[np.isfinite(errors)]
        sure = sure and len(errors) >= LEAST_ERRORS
        if sure:
            quantiles[:, horizon - 1] = before[last] + np.quantile(errors, PROBABILITIES)
    return expected, quantiles if sure else None
