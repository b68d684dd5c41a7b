"""`agc`: automatic generation control of one area, the automatic frequency restoration reserve."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from msgspec import Meta

from edgeflex_flow import __version__
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Input, OperatorNode, WireMessage, quantity
from edgeflex_operators._active_power import ActivePowerConfig, ActivePowerState, named_twice
from edgeflex_operators._controller import controller_delays, controller_wire
from edgeflex_operators._latest import Latest, Trust

VERSION = f"{__version__}/agc-1"


class AgcConfig(ActivePowerConfig, frozen=True, kw_only=True):
    """Brings frequency and exchange of an area back: a proportional-integral controller on the area control error.

    ACE = (P_tie - `programme`) + `bias` · Δf, with P_tie the sum over `ties`, positive out of the area. The change of
    power is u = -(`gain` · ACE + ∫ACE dt / `integral_time`). Against wind-up the integral is drawn to what came of u
    after limits and ramp, within `tracking_time`. When the config changes (bounds or gains by a policy), the integral
    is set such that u goes on from the set-point in force, without a jump. After a fallback it is so only as far as the
    integral lies between 0 and that set-point: where measurements come back in the middle of a disturbance, u may jump
    towards what the error asks for, within its ramp.

    Input:
        Samples with `frequency_hz` of `devices`, and with `active_power_w` of `ties` where there are any. What can be
        relied on is as with `frequency_droop`; all ties must be known, and may stay the same for long.
    Output:
        `Setpoints` with the quantity `active_power_w` at each `period`, the cycle of the controller; `ShadowSetpoints`
        in mode `shadow`. `Alarm` and end as with `frequency_droop`.
    Errors:
        None: what cannot be used leads to the fallback, and is told in `missing` and `reason`.
    Source:
        Commission Regulation (EU) 2017/1485, Articles 143(3) and 145(4): closed loop, proportional-integral, with
        protection against wind-up. Back-calculation: Åström and Hägglund, PID Controllers, 1995.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> config = AgcConfig(
    ...     name="agc", asset="north", devices=("PMU",), bias=1e8, gain=0.5, minimum=-1e8, maximum=1e8
    ... )
    >>> state = start(config)
    >>> step(config, state, samples_from_rows([(0, "PMU", {"frequency_hz": 49.9})]))
    []
    >>> [told] = tick(config, state, 20_000_000)
    >>> round(told.values["north"])
    5000000
    """

    period: Annotated[float, quantity("s", "Cycle of the controller.", gt=0, le=60)] = 2.0
    valid_for: Annotated[float, quantity("s", "How long set-points may be sent and obeyed.", gt=0, le=3600)] = 10.0
    max_age: Annotated[float, quantity("s", "Oldest measurement that is relied on.", gt=0, le=3600)] = 4.0
    hold_for: Annotated[float, quantity("s", "How long set-points are held; then `safe` holds.", ge=0, le=3600)] = 30.0
    ties: Annotated[
        tuple[str, ...], Meta(description="Devices that measure the exchange, positive out of the area; none: no ties.")
    ] = ()
    tie_power_max: Annotated[
        Annotated[float, quantity("W", "Largest exchange of one tie.", gt=0)] | None,
        Meta(description="Not relied on: an exchange of one of `ties` beyond this, in either direction; none: any is."),
    ] = None
    programme: Annotated[float, quantity("W", "Scheduled exchange.")] = 0.0
    bias: Annotated[float, quantity("W/Hz", "K-factor of the area.", gt=0)]
    gain: Annotated[float, Meta(ge=0, le=10, description="Proportional gain.")] = 0.3
    integral_time: Annotated[float, quantity("s", "Time of the integral.", gt=0, le=3600)] = 100.0
    tracking_time: Annotated[
        Annotated[float, quantity("s", "Time of tracking.", gt=0, le=3600)] | None,
        Meta(description="Time in which the integral follows limits; a tenth of `integral_time` by default."),
    ] = None

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        yield from named_twice("ties", self.ties)
        if self.tracking_time is not None and self.tracking_time > self.integral_time:
            text = f"tracking_time ({self.tracking_time:g} s) is longer than integral_time ({self.integral_time:g} s)"
            yield FieldError(text, "tracking_time", "integral_time")

    @property
    def tie_trust(self) -> Trust:
        """A tie may carry the same power for long, such as none: only a frequency that stays the same is frozen."""
        most_w = math.inf if self.tie_power_max is None else self.tie_power_max
        return self.trust(-most_w, most_w)._replace(frozen_after_s=math.inf)


@dataclass(slots=True)
class AgcState(ActivePowerState):
    tie: Latest = field(default_factory=lambda: Latest("active_power_w"))
    integral_w: float = 0.0
    config: AgcConfig | None = None
    """With which the integral was made; None after a fallback: it has to be set anew."""


def start(_config: AgcConfig) -> AgcState:
    return AgcState(Latest("frequency_hz"))


def step(config: AgcConfig, state: AgcState, samples: Samples) -> list[WireMessage]:
    state.take(config, samples, *config.plausible_hz)
    if config.ties:
        state.tie.take(samples, config.tie_trust, frozenset(config.ties))
    return []


def tick(config: AgcConfig, state: AgcState, now_ns: int) -> list[WireMessage]:
    seen = state.look_at_frequency(config, now_ns)
    ties = state.tie.view(config.ties, now_ns, config.tie_trust)
    views = (seen.view, ties)
    exchange_w = float(np.sum(ties.values)) - config.programme if config.ties else 0.0
    ace_w = exchange_w + config.bias * (seen.hz - config.nominal)
    h_s = state.controller.paced_s(config, now_ns)
    before_w = (config.scheduled if state.power_w is None else state.power_w) - config.scheduled
    if math.isnan(ace_w):
        state.config = None
        return state.set_power(config, now_ns, math.nan, views, VERSION)
    if state.config is not config:
        state.integral_w = _integral_w(state, before_w, config.gain * ace_w)
        state.config = config
    else:
        state.integral_w -= h_s * ace_w / config.integral_time
    wanted_w = state.integral_w - config.gain * ace_w
    told = state.set_power(config, now_ns, config.scheduled + wanted_w, views, VERSION, doubt=seen.doubt)
    sent_w = (state.power_w or 0.0) - config.scheduled
    tracking_s = config.integral_time / 10.0 if config.tracking_time is None else config.tracking_time
    # A cycle that is longer than the time of tracking must not overshoot.
    state.integral_w += min(h_s / tracking_s, 1.0) * (sent_w - wanted_w)
    return told


def _integral_w(state: AgcState, before_w: float, proportional_w: float) -> float:
    """The integral with which u goes on from what is in force. After the start or a fallback it lies between 0 and
    that: more would pull against the error as soon as that becomes smaller."""
    bumpless_w = before_w + proportional_w
    if state.config is not None:
        return bumpless_w
    return min(max(bumpless_w, min(before_w, 0.0)), max(before_w, 0.0))


def end(config: AgcConfig, state: AgcState) -> list[WireMessage]:
    return state.finish(config, VERSION)


def _needs(config: AgcConfig) -> tuple[str, ...]:
    return ("frequency_hz", "active_power_w") if config.ties else ("frequency_hz",)


NODE = OperatorNode(
    kind="agc",
    config=AgcConfig,
    inputs={"in": Input(accepts=(Samples,), needs=_needs, step=step)},
    output=controller_wire,
    start=start,
    tick=tick,
    tick_period_s=lambda config: config.period,
    loose_ticks=True,
    end=end,
    scope="site",
    delays=controller_delays,
)
