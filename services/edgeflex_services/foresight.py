"""Forecasts of one who knows what comes: what others are measured against."""

from __future__ import annotations

from collections.abc import Iterable

from edgeflex_flow.messages import Forecast


def perfect_forecast(device: str, quantity: str, begin_ns: int, step_s: float, values: Iterable[float]) -> Forecast:
    """Made when its first step begins."""
    return Forecast(
        device=device,
        quantity=quantity,
        time_ns=begin_ns,
        begin_ns=begin_ns,
        step_s=step_s,
        values=tuple(values),
        method="perfect",
        status="ok",
    )
