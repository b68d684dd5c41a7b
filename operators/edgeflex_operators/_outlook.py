"""What is to come by forecasts: a value for each step of a horizon, whatever the steps of the forecast are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import Forecast

HIGH = "0.9"


class Expected(NamedTuple):
    """A forecast at the steps of a horizon, shape (steps,)."""

    values: NDArray[np.float64]
    above: NDArray[np.float64]
    """By how much the 90 % quantile lies above; 0 where it is not known."""


@dataclass(slots=True)
class Forecasts:
    """The newest forecast of each device and quantity."""

    found: dict[tuple[str, str], Forecast] = field(default_factory=dict)

    def take(self, forecast: Forecast) -> None:
        key = forecast.device, forecast.quantity
        before = self.found.get(key)
        if forecast.status != "none" and (before is None or forecast.time_ns >= before.time_ns):
            self.found[key] = forecast

    def expected(
        self, device: str, quantity: str, begin_ns: int, step_ns: int, steps: int, max_age_ns: int
    ) -> Expected | str:
        """At the middle of each step; beyond its end a forecast stays as it is last. Or why there is none."""
        forecast = self.found.get((device, quantity))
        if forecast is None:
            return "no forecast came"
        age_ns = begin_ns - forecast.time_ns
        if age_ns > max_age_ns:
            return f"forecast {age_ns / 1e9:.0f} s old"
        middles = begin_ns + step_ns * (np.arange(steps) + 0.5)
        place = np.floor((middles - forecast.begin_ns) / (1e9 * forecast.step_s)).astype(np.int64)
        at = np.clip(place, 0, len(forecast.values) - 1)
        values = np.array(forecast.values, dtype=np.float64)[at]
        high = forecast.quantiles.get(HIGH)
        above = np.zeros(steps) if high is None else np.maximum(np.array(high, dtype=np.float64)[at] - values, 0.0)
        return Expected(values, above)
