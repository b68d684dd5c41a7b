"""What forecasts say of the steps to come, and which of them count."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Forecast
from edgeflex_operators import _outlook
from edgeflex_operators._outlook import Expected, Forecasts

S_NS = 1_000_000_000


def forecast_of(*values: float, made_s: float = 0.0, **changes: Any) -> Forecast:
    given: dict[str, Any] = {
        "device": "a",
        "quantity": "available_power_pu",
        "time_ns": round(made_s * S_NS),
        "begin_ns": 0,
        "step_s": 10.0,
        "values": values,
        "method": "persistence",
        "status": "ok",
        **changes,
    }
    return Forecast(**given)


def expected(forecasts: Forecasts, *, now_s: int = 0, steps: int = 3) -> Expected | str:
    return forecasts.expected("a", "available_power_pu", now_s * S_NS, 10 * S_NS, steps, 60 * S_NS)


def values_of(forecasts: Forecasts, *, now_s: int = 0) -> list[float]:
    found = expected(forecasts, now_s=now_s)
    assert isinstance(found, Expected)
    values: list[float] = found.values.tolist()
    return values


def told(*each: Forecast) -> Forecasts:
    forecasts = Forecasts()
    for one in each:
        forecasts.take(one)
    return forecasts


def test_steps_are_looked_up_at_their_middles_and_the_last_one_stays() -> None:
    found = expected(told(forecast_of(0.1, 0.2, 0.3, quantiles={"0.9": (0.1, 0.5, 0.2)})), now_s=6)
    assert isinstance(found, Expected)
    assert found.values.tolist() == [0.2, 0.3, 0.3]
    np.testing.assert_allclose(found.above, [0.3, 0.0, 0.0])


def test_newest_forecast_counts_whatever_the_order_of_coming() -> None:
    forecasts = told(forecast_of(0.2, made_s=2), forecast_of(0.1, made_s=1))
    assert values_of(forecasts, now_s=2) == [0.2] * 3
    forecasts.take(forecast_of(0.3, made_s=2))
    assert values_of(forecasts, now_s=2) == [0.3] * 3


def test_same_forecast_again_is_not_new() -> None:
    forecasts = Forecasts()
    assert forecasts.take(forecast_of(0.1))
    assert not forecasts.take(forecast_of(0.1))


@pytest.mark.parametrize(
    ("forecast", "now_s", "why"),
    [
        (None, 0, "no forecast came"),
        (forecast_of(0.1), 61, "its forecast is 61 s old, more than 60 s"),
        (forecast_of(0.1, made_s=100), 0, "its forecast comes from a clock that is 100 s ahead"),
        (forecast_of(status="none", reason="silence"), 0, "its forecast has no values: silence"),
    ],
)
def test_why_there_is_no_forecast_is_told(forecast: Forecast | None, now_s: int, why: str) -> None:
    assert expected(told(*[forecast] if forecast else []), now_s=now_s) == why


def test_forecast_from_the_future_takes_the_place_of_none_and_is_dropped() -> None:
    future = forecast_of(9.0, made_s=1e9)
    forecasts = told(forecast_of(0.1), future, future, forecast_of(0.2, made_s=1))
    assert values_of(forecasts, now_s=1) == [0.2] * 3
    assert len(forecasts.kept["a", "available_power_pu"]) == 1
    forecasts.take(future)
    assert values_of(forecasts, now_s=1) == [0.2] * 3


def test_forecast_of_none_leaves_the_one_before() -> None:
    assert values_of(told(forecast_of(0.1), forecast_of(made_s=1, status="none")), now_s=1) == [0.1] * 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"values": ()}, "has no values"),
        ({"values": (0.1, math.nan)}, "has values that are not finite or beyond 1000"),
        ({"values": (0.1, -math.inf)}, "has values that are not finite"),
        ({"values": (1e308,) * 4}, "beyond 1000"),
        ({"values": (-1e9,) * 4}, "beyond 1000"),
        ({"values": (-1.1e4,), "quantity": "price_eur_per_mwh"}, "beyond 10000"),
        ({"values": (1e13,), "quantity": "active_power_w"}, "beyond 1e\\+12"),
        ({"values": (0.1, 0.1), "quantiles": {"0.9": (0.2,)}}, "has 1 values in quantile 0.9 beside 2"),
        ({"values": (0.1,), "quantiles": {"0.9": (math.nan,)}}, "has quantile 0.9 that are not finite"),
        ({"values": (0.1,), "step_s": 1e-300}, "has steps of 1e-300 s"),
        ({"values": (0.1,), "step_s": math.nan}, "has steps of nan s"),
    ],
)
def test_forecast_that_cannot_be_used_is_refused(changes: dict[str, Any], why: str) -> None:
    forecasts = told(forecast_of(0.1))
    with pytest.raises(BadMessageError, match=why) as raised:
        forecasts.take(forecast_of(**changes))
    assert raised.value.reason == "bad_forecast"
    assert values_of(forecasts) == [0.1] * 3


def test_forecasts_that_nobody_asks_for_fill_no_memory_and_those_asked_for_stay() -> None:
    forecasts = told(forecast_of(0.1))
    assert values_of(forecasts) == [0.1] * 3
    for number in range(_outlook.MOST_KEPT + 100):
        for made_s in range(6):
            forecasts.take(forecast_of(0.5, device=f"other{number}", made_s=made_s))
    assert len(forecasts.kept) == _outlook.MOST_KEPT
    assert max(len(each) for each in forecasts.kept.values()) == 1 + _outlook.RECENT
    assert values_of(forecasts) == [0.1] * 3
