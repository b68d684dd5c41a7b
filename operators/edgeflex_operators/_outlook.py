"""What is to come by forecasts: a value for each step of a horizon, whatever the steps of the forecast are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Forecast
from edgeflex_operators._latest import is_ahead

HIGH = "0.9"
LARGEST = {"_pu": 1e3, "_eur_per_mwh": 1e4}
"""By unit: larger values are a mistake, and a solver would fail on them."""
LARGEST_OF_OTHERS = 1e12
RECENT = 3
"""So many forecasts of a quantity are kept between two uses, beside the one in use."""
MOST_KEPT = 1000
"""Devices and quantities; the names may be anybody's."""
LEAST_STEP_S = 1e-3

Key = tuple[str, str]


class Expected(NamedTuple):
    """A forecast at the steps of a horizon, shape (steps,)."""

    values: NDArray[np.float64]
    above: NDArray[np.float64]
    """By how much the 90 % quantile lies above; 0 where it is not known."""


def largest_of(quantity: str) -> float:
    """No value of a quantity is larger.

    >>> largest_of("available_power_pu"), largest_of("active_power_w")
    (1000.0, 1000000000000.0)
    """
    return next((value for unit, value in LARGEST.items() if quantity.endswith(unit)), LARGEST_OF_OTHERS)


@dataclass(slots=True)
class Forecasts:
    """The forecasts of each device and quantity, of which the newest counts that does not come from the future.

    Which those are only the clock at use can tell. Until then some are kept, so that one from the future takes the
    place of none.
    """

    kept: dict[Key, list[Forecast]] = field(default_factory=dict)
    asked: set[Key] = field(default_factory=set)

    def take(self, forecast: Forecast) -> bool:
        """Whether it is new. Raises BadMessageError for a forecast that cannot be used."""
        if forecast.status != "none":
            _refuse_unfit(forecast)
        key = forecast.device, forecast.quantity
        if key not in self.kept and len(self.kept) >= MOST_KEPT:
            self.kept.pop(next((each for each in self.kept if each not in self.asked), key), None)
        known = self.kept.setdefault(key, [])
        if forecast in known:
            return False
        known.append(forecast)
        del known[1:-RECENT]
        return True

    def newest(self, device: str, quantity: str, now_ns: int, max_age_ns: int) -> Forecast | str:
        """The forecast that counts, or why there is none."""
        key = device, quantity
        self.asked.add(key)
        known = self.kept.pop(key, [])
        if not known:
            return "no forecast came"
        past = [each for each in reversed(known) if not is_ahead(each.time_ns, now_ns)]
        if not past:
            ahead_s = (known[-1].time_ns - now_ns) / 1e9
            return f"its forecast comes from a clock that is {ahead_s:.0f} s ahead"
        found = max(past, key=lambda each: (each.status != "none", each.time_ns))
        self.kept[key] = [found]
        age_ns = now_ns - found.time_ns
        if found.status == "none":
            return f"its forecast has no values: {found.reason}"
        if age_ns > max_age_ns:
            return f"its forecast is {age_ns / 1e9:.0f} s old, more than {max_age_ns / 1e9:g} s"
        return found

    def expected(
        self, device: str, quantity: str, begin_ns: int, step_ns: int, steps: int, max_age_ns: int
    ) -> Expected | str:
        """At the middle of each step; beyond its end a forecast stays as it is last. Or why there is none."""
        forecast = self.newest(device, quantity, begin_ns, max_age_ns)
        if isinstance(forecast, str):
            return forecast
        middles = begin_ns + step_ns * (np.arange(steps) + 0.5)
        place = np.floor((middles - forecast.begin_ns) / (1e9 * forecast.step_s)).astype(np.int64)
        at = np.clip(place, 0, len(forecast.values) - 1)
        values = np.array(forecast.values, dtype=np.float64)[at]
        high = forecast.quantiles.get(HIGH)
        above = np.zeros(steps) if high is None else np.maximum(np.array(high, dtype=np.float64)[at] - values, 0.0)
        return Expected(values, above)


def _refuse_unfit(forecast: Forecast) -> None:
    problem = next(_problems(forecast), None)
    if problem is not None:
        text = f"the forecast of `{forecast.quantity}` of '{forecast.device}' {problem}"
        raise BadMessageError(text, reason="bad_forecast")


def _problems(forecast: Forecast) -> Iterator[str]:
    if not forecast.values:
        yield "has no values"
    if not forecast.step_s >= LEAST_STEP_S:
        yield f"has steps of {forecast.step_s:g} s"
    most = largest_of(forecast.quantity)
    rows: dict[str, Sequence[float]] = {"values": forecast.values}
    rows |= {f"quantile {name}": row for name, row in forecast.quantiles.items()}
    for name, row in rows.items():
        if len(row) != len(forecast.values):
            yield f"has {len(row)} values in {name} beside {len(forecast.values)}"
        elif not (np.abs(np.array(row, dtype=np.float64)) <= most).all():
            yield f"has {name} that are not finite or beyond {most:g}"
