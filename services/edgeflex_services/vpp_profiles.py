"""What a virtual power plant meets in quarter hours: wind, photovoltaics, load and prices, made up or of SimBench."""

from __future__ import annotations

import importlib
import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.errors import FatalError, how_to_install

Array = NDArray[np.float64]

STEP_S = 900
PER_DAY = 86_400 // STEP_S
SIMBENCH_GRID = "1-MV-rural--1-sw"
SIMBENCH_BEGIN = int(datetime(2016, 1, 1, tzinfo=UTC).timestamp()) // STEP_S
"""Number of the first step of SimBench's year, whose local time is taken for UTC."""


class Profiles(NamedTuple):
    """A value a step each; step k begins `first + k` quarter hours after 1970."""

    source: str
    first: int
    wind_w: Array
    pv_w: Array
    load_w: Array
    prices: Array
    """EUR/MWh, the same for the four steps of an hour."""
    wind_capacity_w: float
    pv_capacity_w: float

    @property
    def steps(self) -> int:
        return len(self.wind_w)


def synthetic_profiles(days: int, *, seed: int = 1) -> Profiles:
    """Made up: wind as the cube of a wandering speed, the sun's bow under clouds of the day and of the hour, and a load
    with two peaks, lower at weekends. Begins on Monday, 2 June 2025."""
    rng = np.random.default_rng(seed)
    steps = days * PER_DAY
    hour = np.arange(steps) % PER_DAY / 4.0
    day = np.arange(steps) // PER_DAY
    speed = 7.5 + 2.5 * _wandering(rng, steps, hours=24.0) + 0.4 * _wandering(rng, steps, hours=1.0)
    wind = np.clip((np.maximum(speed, 0.0) / 12.0) ** 3, 0.0, 1.0)
    bow = np.maximum(np.sin(math.tau * (hour - 5.0) / 32.0), 0.0) ** 1.3 * ((hour >= 5.0) & (hour <= 21.0))
    clear = rng.uniform(0.35, 1.0, days)[day] * np.clip(1.0 + 0.15 * _wandering(rng, steps, hours=0.7), 0.3, 1.2)
    pv = np.clip(0.85 * bow * clear, 0.0, 1.0)
    peaks = 0.25 * np.exp(-(((hour - 8.0) / 2.0) ** 2)) + 0.4 * np.exp(-(((hour - 19.0) / 2.5) ** 2))
    weekend = np.where(day % 7 >= 5, 0.85, 1.0)
    load = (0.35 + peaks) * weekend * (1.0 + 0.04 * _wandering(rng, steps, hours=0.5))
    first = int(datetime(2025, 6, 2, tzinfo=UTC).timestamp()) // STEP_S
    return Profiles(
        "synthetic", first, 13.4e6 * wind, 15e6 * pv, 8e6 * load, _prices(rng, wind, pv, hour), 13.4e6, 15e6
    )


def simbench_profiles() -> Profiles:
    """A year of SimBench's grid 1-MV-rural--1-sw: its wind, its photovoltaics with the renewables of the low-voltage
    grids, and its loads. Prices are made up. FatalError when the package is not installed.

    The data are under the ODbL; they come from the installed package and are copied nowhere.
    """
    try:
        simbench: Any = importlib.import_module("simbench")
    except ImportError as error:
        raise FatalError(f"profiles of SimBench need: {how_to_install('simbench')}") from error
    grid = simbench.get_simbench_net(SIMBENCH_GRID)
    values = simbench.get_absolute_values(grid, profiles_instead_of_study_cases=True)
    power_w = np.asarray(values[("sgen", "p_mw")], dtype=np.float64) * 1e6
    kinds = np.asarray(grid.sgen["type"], dtype=str)
    wind_w = power_w[:, kinds == "Wind_MV"].sum(axis=1)
    pv_w = power_w[:, (kinds == "PV_MV") | (kinds == "lv_RES")].sum(axis=1)
    load_w = np.asarray(values[("load", "p_mw")], dtype=np.float64).sum(axis=1) * 1e6
    hour = np.arange(len(wind_w)) % PER_DAY / 4.0
    # What the plants are rated at together is never reached by their sum; what it reaches in the year is.
    capacities_w = float(wind_w.max()), float(pv_w.max())
    prices = _prices(np.random.default_rng(2016), wind_w / capacities_w[0], pv_w / capacities_w[1], hour)
    return Profiles("SimBench 1-MV-rural--1-sw", SIMBENCH_BEGIN, wind_w, pv_w, load_w, prices, *capacities_w)


def _prices(rng: np.random.Generator, wind: Array, pv: Array, hour: Array) -> Array:
    """Day-ahead prices: dear in the morning and the evening, cheap in wind and sun, sometimes below zero."""
    peaks = 30.0 * np.exp(-(((hour - 8.0) / 2.0) ** 2)) + 45.0 * np.exp(-(((hour - 19.5) / 2.5) ** 2))
    course = 75.0 + peaks - 55.0 * pv - 35.0 * wind + 10.0 * _wandering(rng, len(hour), hours=6.0)
    hourly = course[: len(course) // 4 * 4].reshape(-1, 4).mean(axis=1)
    return np.repeat(hourly, 4)[: len(hour)].round(2)


def _wandering(rng: np.random.Generator, steps: int, *, hours: float) -> Array:
    """Noise of variance 1 that forgets within these hours."""
    keep = math.exp(-0.25 / hours)
    noise = rng.normal(size=steps) * math.sqrt(1.0 - keep**2)
    found = np.empty(steps)
    value = rng.normal()
    for k in range(steps):
        value = keep * value + noise[k]
        found[k] = value
    return found
