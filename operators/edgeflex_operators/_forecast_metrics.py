"""How good forecasts are: errors by installed capacity, skill, what their quantiles are worth. NaN does not count."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def nmae(truth: Array, forecast: Array, capacity: float) -> float:
    """Mean absolute error over the installed capacity.

    >>> nmae(np.array([1.0, 3.0]), np.array([2.0, 3.0]), 10.0)
    0.05
    """
    return float(np.nanmean(np.abs(truth - forecast)) / capacity)


def nrmse(truth: Array, forecast: Array, capacity: float) -> float:
    """Root mean square error over the installed capacity.

    >>> nrmse(np.array([1.0, 3.0]), np.array([1.0, 1.0]), 10.0)
    0.1414213562373095
    """
    return float(np.sqrt(np.nanmean((truth - forecast) ** 2)) / capacity)


def skill(error: float, reference_error: float) -> float:
    """What a forecast saves of the error of a reference, 1 being all; 0 where both are perfect.

    >>> skill(0.03, 0.04)
    0.25
    """
    if reference_error == 0.0:
        return 0.0 if error == 0.0 else -math.inf
    return 1.0 - error / reference_error


def pinball(truth: Array, quantile: Array, probability: float) -> float:
    """Mean pinball loss of a quantile, in the unit of the values: least where it is the true one.

    >>> pinball(np.array([1.0, 3.0]), np.array([2.0, 2.0]), 0.9)
    0.5
    """
    beyond = truth - quantile
    return float(np.nanmean(np.maximum(probability * beyond, (probability - 1.0) * beyond)))


def coverage(truth: Array, low: Array, high: Array) -> float:
    """Share of the values within an interval, its ends included.

    >>> coverage(np.array([1.0, 3.0, np.nan]), np.array([0.0, 0.0, 0.0]), np.array([2.0, 2.0, 2.0]))
    0.5
    """
    known = np.isfinite(truth)
    return float(np.mean((truth >= low)[known] & (truth <= high)[known])) if known.any() else float("nan")
