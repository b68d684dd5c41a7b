"""How loads and available power move in time.

`constant`: nominal loads and rated power, always. `clear`, `cloudy`: a synthetic day in June, made of a load curve of
households, a sine of the sun and clouds that cross the feeder, with noise; the same seed gives the same day, which
repeats. `simbench`: the quarters of an hour of SimBench's year 2016. Between two values they go straight; on that comes
noise by the minute, since SimBench has none shorter than a quarter of an hour.

Times are seconds since midnight of the first day.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.errors import FatalError
from edgeflex_services.powerflow_grid import SIMBENCH, Grid, rows_of

ProfileName: TypeAlias = Literal["constant", "clear", "cloudy", "simbench"]

DAY_S: Final = 86_400.0
MINUTES_A_DAY: Final = 1440
QUARTER_S: Final = 900.0
QUARTERS_A_DAY: Final = 96
LOAD_NOISE: Final = 0.1
"""Share of a load, rms, by the minute."""
SUN_NOISE: Final = 0.01
SUNRISE_H: Final = 5.0
SUNSET_H: Final = 21.0
CLOUD_SHARE: Final = 0.25
"""What a cloud lets through."""
CLOUD_MINUTES: Final = 8.0
"""Mean time under a cloud; under blue sky as long."""
CLOUD_S_A_NODE: Final = 10.0
"""How much later a cloud reaches the next inverter."""

HOURLY_LOAD: Final = 0.5 * np.array(
    [
        *(0.25, 0.20, 0.18, 0.17, 0.18, 0.22, 0.40, 0.55, 0.50, 0.42, 0.40, 0.42),
        *(0.50, 0.48, 0.42, 0.42, 0.50, 0.65, 0.85, 1.00, 0.95, 0.80, 0.55, 0.35),
    ]
)
"""Share of the nominal load at each full hour: households, with their peak in the evening. In June it is half of what
the grid is made for, a winter's evening."""


@dataclass(frozen=True)
class Inputs:
    """What the world does to a grid at one time."""

    load_w: NDArray[np.float64]
    """By node of the grid."""
    load_var: NDArray[np.float64]
    available_w: NDArray[np.float64]
    """By inverter: what sun or wind would give."""


class Profiles(Protocol):
    def at(self, time_s: float) -> Inputs:
        """The inputs at a time since midnight of the first day."""
        ...


def make_profiles(grid: Grid, name: ProfileName, *, seed: int = 0, day: int = 172) -> Profiles:
    """Profiles of this name for a grid; `day` of the year counts from 1 and is for those of SimBench.

    Raises FatalError when the grid has no such profiles.
    """
    if name == "constant":
        return Constant(grid)
    if name == "simbench":
        return SimbenchYear(grid, seed=seed, day=day)
    return SyntheticDay(grid, is_cloudy=name == "cloudy", seed=seed)


class Constant:
    """Nominal loads and rated power."""

    def __init__(self, grid: Grid) -> None:
        self._inputs = Inputs(grid.load_w, grid.load_var, grid.inverters.rated_w)

    def at(self, time_s: float) -> Inputs:
        del time_s
        return self._inputs


class SyntheticDay:
    """A day in June, clear or with clouds; wind wanders between its rated power and none."""

    def __init__(self, grid: Grid, *, is_cloudy: bool, seed: int) -> None:
        random = np.random.default_rng(seed)
        inverters = grid.inverters
        hours = np.arange(MINUTES_A_DAY) / 60.0
        self._grid = grid
        self._load = _interpolated(HOURLY_LOAD, hours)[:, None] * _noise(random, len(grid.nodes), LOAD_NOISE)
        sun = np.sin(np.pi * (hours - SUNRISE_H) / (SUNSET_H - SUNRISE_H))
        sun = np.where((hours > SUNRISE_H) & (hours < SUNSET_H), np.maximum(sun, 0.0) ** 1.3, 0.0)
        count = len(inverters.names)
        share = np.minimum(1.0, sun[:, None] * _noise(random, count, SUN_NOISE))
        # Drawn also where it is not used, so that clear and cloudy days differ by the clouds alone.
        clouds = _clouds(random)
        wind = np.clip(0.5 + 0.2 * np.cumsum(random.normal(0.0, 0.1, MINUTES_A_DAY)), 0.05, 1.0)
        self._share = np.where(inverters.is_wind, wind[:, None], share)
        self._clouds = clouds if is_cloudy else np.ones(MINUTES_A_DAY)
        self._late_s = np.where(inverters.is_wind, 0.0, CLOUD_S_A_NODE) * np.arange(count)

    def at(self, time_s: float) -> Inputs:
        minute = time_s / 60.0
        load = _row_at(self._load, minute)
        clouds = _interpolated(self._clouds, minute - self._late_s / 60.0)
        sky = np.where(self._grid.inverters.is_wind, 1.0, clouds)
        available_w = self._grid.inverters.rated_w * _row_at(self._share, minute) * sky
        return Inputs(self._grid.load_w * load, self._grid.load_var * load, available_w)


def _clouds(random: np.random.Generator) -> NDArray[np.float64]:
    """What the sky lets through at each minute: all, or `CLOUD_SHARE`."""
    turns = random.random(MINUTES_A_DAY) < 1.0 / CLOUD_MINUTES
    return np.where(np.cumsum(turns) % 2 == 1, CLOUD_SHARE, 1.0)


class SimbenchYear:
    """A year of SimBench from its day `day` on, by quarters of an hour."""

    def __init__(self, grid: Grid, *, seed: int, day: int) -> None:
        if not grid.name.startswith(SIMBENCH):
            raise FatalError(f"grid '{grid.name}' has no profiles of SimBench; known: constant, clear, cloudy")
        random = np.random.default_rng(seed)
        simbench = importlib.import_module("simbench")
        values = simbench.get_absolute_values(grid.net, profiles_instead_of_study_cases=True)
        net, inverters = grid.net, grid.inverters
        load_rows = rows_of(grid.buses, net.load.bus)
        sgen_rows = rows_of(grid.buses[inverters.node], net.sgen.bus)
        self._load_w = _summed(values["load", "p_mw"], load_rows, len(grid.nodes))
        self._load_var = _summed(values["load", "q_mvar"], load_rows, len(grid.nodes))
        self._available_w = _summed(values["sgen", "p_mw"], sgen_rows, len(inverters.names))
        self._rated_w = inverters.rated_w
        self._begin_s = (day - 1) * DAY_S
        self._load_noise = _noise(random, len(grid.nodes), LOAD_NOISE)
        self._sun_noise = _noise(random, len(inverters.names), SUN_NOISE)

    def at(self, time_s: float) -> Inputs:
        quarter = (self._begin_s + time_s) / QUARTER_S
        noise = _row_at(self._load_noise, time_s / 60.0)
        available_w = _row_at(self._available_w, quarter) * _row_at(self._sun_noise, time_s / 60.0)
        return Inputs(
            _row_at(self._load_w, quarter) * noise,
            _row_at(self._load_var, quarter) * noise,
            np.minimum(available_w, self._rated_w),
        )


def _summed(megawatts: object, rows: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """Values by time and element as W or var by time and row."""
    values = 1e6 * np.asarray(megawatts, dtype=np.float64)
    sums = np.zeros((len(values), count))
    for column, row in enumerate(rows):
        sums[:, row] += values[:, column]
    return sums


def _noise(random: np.random.Generator, columns: int, share: float) -> NDArray[np.float64]:
    """Factors around 1 by minute of the day."""
    return np.maximum(0.0, 1.0 + random.normal(0.0, share, (MINUTES_A_DAY, columns)))


def _row_at(table: NDArray[np.float64], place: float) -> NDArray[np.float64]:
    """The row at a place between rows; behind the last comes the first again."""
    first = int(np.floor(place))
    part = place - first
    row: NDArray[np.float64] = (1.0 - part) * table[first % len(table)] + part * table[(first + 1) % len(table)]
    return row


def _interpolated(values: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values at places between them; behind the last comes the first again."""
    return np.interp(places, np.arange(len(values)), values, period=len(values))
