"""Forecasts for the grid of `edgeflex serve powerflow`: by the operator `forecast`, or by one who knows what comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import Forecast, samples_at
from edgeflex_operators import forecast
from edgeflex_operators._voltage_grid import AVAILABLE
from edgeflex_operators.forecast import ForecastAsset, ForecastConfig, Method
from edgeflex_operators.voltage_mpc import LOAD
from edgeflex_services.foresight import perfect_forecast
from edgeflex_services.powerflow_grid import Grid
from edgeflex_services.profiles import QUARTER_S, Inputs

_QUARTER_NS: Final = round(QUARTER_S * 1e9)


class _Quantity(NamedTuple):
    names: tuple[str, ...]
    values: Callable[[Inputs], NDArray[np.float64]]
    """In pu, one for each name."""


class GridForecaster:
    """What sun and loads will be, by inverter and by node, pu, made when a quarter of an hour begins.

    `means` gives the inputs of the grid, as means over a quarter that is counted from `midnight_ns` and may lie before
    it. The operator sees those that are over, one who knows all (`perfect`) also the others.
    """

    def __init__(
        self,
        grid: Grid,
        means: Callable[[int], Inputs],
        method: Method | Literal["perfect"],
        *,
        midnight_ns: int,
        steps: int,
        history_quarters: int,
    ) -> None:
        self._means, self._midnight_ns, self._steps = means, midnight_ns, steps
        self._told_of: int | None = None
        loads = np.flatnonzero(grid.load_w > 0)
        self._quantities = {
            AVAILABLE: _Quantity(grid.inverters.names, lambda inputs: inputs.available_w / grid.power_base_w),
            LOAD: _Quantity(
                tuple(grid.nodes[node] for node in loads), lambda inputs: inputs.load_w[loads] / grid.power_base_w
            ),
        }
        self._forecasters: list[tuple[ForecastConfig, forecast.ForecastState]] = []
        if method != "perfect":
            self._start(grid, method)
            self._learn(history_quarters)

    def _start(self, grid: Grid, method: Method) -> None:
        rated = (grid.inverters.rated_w / grid.power_base_w).tolist()
        suns = {
            name: ForecastAsset(kind="wind" if is_wind else "pv", capacity=most)
            for name, most, is_wind in zip(grid.inverters.names, rated, grid.inverters.is_wind, strict=True)
        }
        loads = {name: ForecastAsset(kind="load") for name in self._quantities[LOAD].names}
        for column, assets in ((AVAILABLE, suns), (LOAD, loads)):
            config = ForecastConfig(column=column, assets=assets, method=method, steps=self._steps)
            self._forecasters.append((config, forecast.start(config)))

    def _learn(self, quarters: int) -> None:
        """From what came before midnight; fits are made until no asset waits for one."""
        for quarter in range(-quarters, -1):
            self._measure(quarter)
        for config, state in self._forecasters:
            turn_ns = self._begin_ns(-1) + _delay_ns(config)
            while forecast.tick(config, state, turn_ns):
                turn_ns += 1

    def _begin_ns(self, quarter: int) -> int:
        return self._midnight_ns + quarter * _QUARTER_NS

    def _measure(self, quarter: int) -> None:
        inputs = self._means(quarter)
        for config, state in self._forecasters:
            names, values = self._quantities[config.column]
            forecast.step(config, state, samples_at(self._begin_ns(quarter), config.column, names, values(inputs)))

    def due(self, time_s: float) -> list[Forecast]:
        """The forecasts, when a quarter has begun since the last call; to be asked for in the order of time."""
        quarter = int(time_s // QUARTER_S)
        if quarter == self._told_of:
            return []
        self._told_of = quarter
        return self._at(quarter)

    def _at(self, quarter: int) -> list[Forecast]:
        """The forecasts when this quarter begins."""
        if not self._forecasters:
            return list(self._truth(quarter))
        self._measure(quarter - 1)
        made = [
            each
            for config, state in self._forecasters
            for each in forecast.tick(config, state, self._begin_ns(quarter) + _delay_ns(config))
        ]
        return [each for each in made if isinstance(each, Forecast)]

    def _truth(self, quarter: int) -> Iterator[Forecast]:
        inputs = [self._means(quarter + step) for step in range(self._steps)]
        begin_ns = self._begin_ns(quarter)
        for column, (names, values) in self._quantities.items():
            table = np.stack([values(each) for each in inputs])
            for name, course in zip(names, table.T.tolist(), strict=True):
                yield perfect_forecast(name, column, begin_ns, QUARTER_S, course)


def _delay_ns(config: ForecastConfig) -> int:
    return round(config.delay * 1e9)
