"""Linear quantile regression as a linear program."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeflex_operators._highs import load_optimize

Array = NDArray[np.float64]


def quantile_regression(features: Array, values: Array, probability: float) -> Array:
    """Coefficients b that make the mean pinball loss of `values - features @ b` least; features are of shape (n, p).

    Solved in its dual form, `max y'a` subject to `X'a = (1 - q) X'1` and `0 <= a <= 1`, which has as many rows as there
    are coefficients; these are its multipliers. ValueError when HiGHS finds none.
    """
    scale = np.abs(features).max(axis=0)
    scale[scale == 0.0] = 1.0
    scaled = features / scale
    size = float(np.abs(values).max(initial=0.0)) or 1.0
    found = load_optimize().linprog(
        -values / size,
        A_eq=scaled.T,
        b_eq=(1.0 - probability) * scaled.sum(axis=0),
        bounds=(0.0, 1.0),
        method="highs-ds",
    )
    if found.status != 0:
        raise ValueError(f"quantile regression: {found.message}")
    coefficients: Array = -np.asarray(found.eqlin.marginals, dtype=np.float64) * size / scale
    return coefficients
