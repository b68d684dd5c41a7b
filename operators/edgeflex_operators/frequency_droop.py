"""`frequency_droop`: frequency containment reserve, and the limited modes at over- and under-frequency."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from edgeflex_flow import __version__
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Input, OperatorNode, WireMessage, quantity
from edgeflex_operators._active_power import ActivePowerConfig, ActivePowerState, without_band
from edgeflex_operators._controller import controller_delays, controller_wire
from edgeflex_operators._latest import Latest

VERSION = f"{__version__}/droop-1"


class AreaRule(NamedTuple):
    """What a synchronous area asks of FCR."""

    dead_band_hz: float
    """Largest that dead-band and insensitivity together may be."""
    full_hz: float
    """Deviation at which all of it is active."""
    full_within_s: float


RULES: dict[str, AreaRule] = {
    "ce": AreaRule(0.010, 0.2, 30.0),
    "gb": AreaRule(0.015, 0.5, 10.0),
    "ie_ni": AreaRule(0.015, 0.5, 15.0),
    "nordic": AreaRule(0.010, 0.5, 30.0),
}


class FrequencyDroopConfig(ActivePowerConfig, frozen=True, kw_only=True):
    """Frequency containment reserve (FCR), and the limited frequency-sensitive modes LFSM-O and LFSM-U.

    FCR changes the power in proportion to the deviation: all of `fcr_power` at 200 mHz in Continental Europe (`ce`), at
    500 mHz in Great Britain (`gb`), Ireland (`ie_ni`) and the Nordic area. Within the dead-band nothing happens, beyond
    it the power grows from 0, so that there is no step at its edge and all is active where the area's rule says so:
    ΔP = -fcr_power · clip(e / (full - dead-band), ±1), e the part of the deviation beyond the dead-band.

    Above `over_threshold` LFSM-O takes the power down from where it was at the crossing, P_ref, by
    P_ref / `lfsm_droop` for each unit of frequency; below `under_threshold` LFSM-U takes it up in the same way. P_ref
    is what `power_device` measured, or the set-point in force. Back inside the threshold the power stays at most (at
    least) P_ref until `release_delay` is over, and a crossing meanwhile starts from the same P_ref.

    Input:
        Samples with `frequency_hz`, and with `active_power_w` where a `power_device` is named. Rows flagged `bad_data`
        or `test` (without `accept_test`), NaN, and frequencies more than 5 Hz from nominal, such as those in mHz, are
        as good as none.
    Output:
        `Setpoints` with the quantity `active_power_w` at each `period`; `ShadowSetpoints` in mode `shadow`. An `Alarm`
        when no PMU can be relied on and the fallback holds, at each change of that, and when it is over; likewise when
        two PMUs are more than 100 mHz apart, of which the one nearer to nominal counts. At the end of the flow the safe
        state, with the status `safe`.
    Errors:
        None: what cannot be used leads to the fallback, and is told in `missing` and `reason`.
    Source:
        FCR: Commission Regulation (EU) 2017/1485, Annex V. LFSM: Regulation (EU) 2016/631, Articles 13 and 15, with the
        release delay of EN 50549; for converters P_ref is the power at the crossing.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> config = FrequencyDroopConfig(
    ...     name="fcr", asset="bess", devices=("PMU",), fcr_power=1e6, dead_band=0.0, minimum=-2e6, maximum=2e6
    ... )
    >>> state = start(config)
    >>> step(config, state, samples_from_rows([(0, "PMU", {"frequency_hz": 49.9})]))
    []
    >>> [told] = tick(config, state, 20_000_000)
    >>> round(told.values["bess"]), told.status
    (500000, 'ok')
    """

    area: Annotated[Literal["ce", "gb", "ie_ni", "nordic"], Meta(description="Synchronous area whose rule holds.")] = (
        "ce"
    )
    fcr_power: Annotated[float, quantity("W", "Reserve; 0: no FCR.", ge=0)]
    dead_band: Annotated[
        Annotated[float, quantity("Hz", "Dead-band.", ge=0, le=0.1)] | None,
        Meta(description="Deviation without answer; the largest that the area allows by default."),
    ] = None
    over_threshold: Annotated[
        Annotated[float, quantity("Hz", "Threshold of LFSM-O.", gt=0)] | None,
        Meta(description="Frequency above which LFSM-O acts, 200 to 500 mHz above nominal; no LFSM-O by default."),
    ] = None
    under_threshold: Annotated[
        Annotated[float, quantity("Hz", "Threshold of LFSM-U.", gt=0)] | None,
        Meta(description="Frequency below which LFSM-U acts, 200 to 500 mHz below nominal; no LFSM-U by default."),
    ] = None
    lfsm_droop: Annotated[
        float, Meta(ge=0.02, le=0.12, description="Droop of LFSM: share of nominal frequency that changes P_ref by 1.")
    ] = 0.05
    release_delay: Annotated[
        float, quantity("s", "How long P_ref holds once the frequency is back.", ge=0, le=3600)
    ] = 600.0
    power_device: Annotated[
        str | None, Meta(description="Device that measures the asset's active power, for P_ref.")
    ] = None

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        rule = RULES[self.area]
        if self.dead_band is not None and self.dead_band > rule.dead_band_hz:
            text = f"dead_band ({self.dead_band:g} Hz) is above the {rule.dead_band_hz:g} Hz that the area allows"
            yield FieldError(text, "dead_band", "area")
        for name, value, sign in (
            ("over_threshold", self.over_threshold, 1.0),
            ("under_threshold", self.under_threshold, -1.0),
        ):
            if value is not None and not 0.2 - 1e-9 <= sign * (value - self.nominal) <= 0.5 + 1e-9:
                ends = sorted(self.nominal + sign * each for each in (0.2, 0.5))
                text = f"{name} ({value:g} Hz) is not within {ends[0]:g} to {ends[1]:g} Hz"
                yield FieldError(text, name, "nominal")
        yield from self._reserve_that_cannot_be_given(rule)

    def _reserve_that_cannot_be_given(self, rule: AreaRule) -> Iterator[FieldError]:
        if self.ramp is not None and self.fcr_power > self.ramp * rule.full_within_s:
            text = f"ramp ({self.ramp:g} W/s) takes {self.fcr_power / self.ramp:.0f} s for fcr_power"
            text += f" ({self.fcr_power:g} W); the area allows {rule.full_within_s:g} s"
            yield FieldError(text, "ramp", "fcr_power", "area")
        if self.fcr_power > max(self.scheduled - self.minimum, self.maximum - self.scheduled):
            text = f"fcr_power ({self.fcr_power:g} W) is more than the hardware can give in either direction"
            yield FieldError(text, "fcr_power", "scheduled", "minimum", "maximum")


@dataclass(slots=True)
class LimitedMode:
    """One side of LFSM."""

    reference_w: float | None = None
    """P_ref while it holds."""
    back_ns: int | None = None
    """Since when the frequency is back."""

    def follow(self, beyond: bool, now_ns: int, power_w: float, release_s: float) -> float | None:
        """P_ref, if the mode acts or has not released yet."""
        if beyond:
            self.back_ns = None
            if self.reference_w is None:
                self.reference_w = power_w
        elif self.reference_w is not None:
            # Not later than now, though the clock was set back.
            self.back_ns = now_ns if self.back_ns is None else min(self.back_ns, now_ns)
            if now_ns - self.back_ns >= release_s * 1e9:
                self.reference_w = self.back_ns = None
        return self.reference_w


@dataclass(slots=True)
class FrequencyDroopState(ActivePowerState):
    power: Latest = field(default_factory=lambda: Latest("active_power_w"))
    over: LimitedMode = field(default_factory=LimitedMode)
    under: LimitedMode = field(default_factory=LimitedMode)

    def measured_w(self, config: FrequencyDroopConfig, now_ns: int) -> float:
        """What the asset gives, for P_ref."""
        in_force_w = config.scheduled if self.power_w is None else self.power_w
        if config.power_device is None:
            return in_force_w
        value = self.power.view((config.power_device,), now_ns, config.trust(-math.inf, math.inf)).values[0]
        return in_force_w if math.isnan(value) else float(value)


def fcr_w(config: FrequencyDroopConfig, deviation_hz: float) -> float:
    """Change of power that FCR asks for."""
    rule = RULES[config.area]
    band_hz = rule.dead_band_hz if config.dead_band is None else config.dead_band
    share = without_band(deviation_hz, band_hz) / (rule.full_hz - band_hz)
    return -config.fcr_power * min(max(share, -1.0), 1.0)


def lfsm_w(config: FrequencyDroopConfig, reference_w: float, beyond_hz: float) -> float:
    """Power that LFSM asks for, `beyond_hz` above (or, negative, below) its threshold."""
    return reference_w - abs(reference_w) / config.lfsm_droop * beyond_hz / config.nominal


def start(_config: FrequencyDroopConfig) -> FrequencyDroopState:
    return FrequencyDroopState(Latest("frequency_hz"))


def step(config: FrequencyDroopConfig, state: FrequencyDroopState, samples: Samples) -> list[WireMessage]:
    state.take(config, samples, *config.plausible_hz)
    if config.power_device is not None:
        state.power.take(samples, config.trust(-math.inf, math.inf), frozenset((config.power_device,)))
    return []


def tick(config: FrequencyDroopConfig, state: FrequencyDroopState, now_ns: int) -> list[WireMessage]:
    seen = state.look_at_frequency(config, now_ns)
    wanted_w = math.nan if math.isnan(seen.hz) else _wanted_w(config, state, seen.hz, now_ns)
    return state.set_power(config, now_ns, wanted_w, (seen.view,), VERSION, doubt=seen.doubt)


def _wanted_w(config: FrequencyDroopConfig, state: FrequencyDroopState, frequency_hz: float, now_ns: int) -> float:
    power_w = config.scheduled + fcr_w(config, frequency_hz - config.nominal)
    measured_w = state.measured_w(config, now_ns)
    if config.over_threshold is not None:
        beyond_hz = max(frequency_hz - config.over_threshold, 0.0)
        reference_w = state.over.follow(beyond_hz > 0.0, now_ns, measured_w, config.release_delay)
        if reference_w is not None:
            power_w = min(power_w, lfsm_w(config, reference_w, beyond_hz))
    if config.under_threshold is not None:
        beyond_hz = min(frequency_hz - config.under_threshold, 0.0)
        reference_w = state.under.follow(beyond_hz < 0.0, now_ns, measured_w, config.release_delay)
        if reference_w is not None:
            power_w = max(power_w, lfsm_w(config, reference_w, beyond_hz))
    return power_w


def end(config: FrequencyDroopConfig, state: FrequencyDroopState) -> list[WireMessage]:
    return state.finish(config, VERSION)


def _needs(config: FrequencyDroopConfig) -> tuple[str, ...]:
    return ("frequency_hz",) if config.power_device is None else ("frequency_hz", "active_power_w")


NODE = OperatorNode(
    kind="frequency_droop",
    config=FrequencyDroopConfig,
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
