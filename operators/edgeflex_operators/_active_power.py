"""What controllers of frequency share: they see it at some PMUs, and set the active power of one asset or area."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta

from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import WireMessage, quantity
from edgeflex_operators._controller import ControllerConfig, ControllerState, Decision, reason_of, repeated
from edgeflex_operators._latest import Latest, View
from edgeflex_operators._limits import UNBOUNDED, Bounds, limited

QUANTITY = "active_power_w"
DISAGREEMENT = "two PMUs disagree, the one nearer to nominal counts"
DISAGREE_HZ = 0.1
"""Farther apart no two PMUs of one area are for long: one of the two is wrong, and which cannot be known."""
PLAUSIBLE_HZ = 5.0
"""A frequency farther from nominal is no grid's that still stands: another unit, a broken sensor."""


class ActivePowerConfig(ControllerConfig, frozen=True, kw_only=True):
    """Base of the configs of controllers that see the frequency and set one active power."""

    asset: Annotated[str, Meta(min_length=1, description="Whose active power is set: one asset, or an area.")]
    devices: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="PMUs that are looked at; the median of those that can be relied on counts."),
    ]
    nominal: Annotated[float, quantity("Hz", "Nominal frequency.", gt=0, le=100)] = 50.0
    scheduled: Annotated[
        float, quantity("W", "Power when there is nothing to do; 0 makes the set-point a change, as for an area.")
    ] = 0.0
    minimum: Annotated[float, quantity("W", "Least that the hardware can give; negative: it can take.")]
    maximum: Annotated[float, quantity("W", "Most that the hardware can give.")]
    lowest: Annotated[
        Annotated[float, quantity("W", "Least that may be asked for.")] | None,
        Meta(description="Least that may be asked for, for a policy to change; within the hardware's limits."),
    ] = None
    highest: Annotated[
        Annotated[float, quantity("W", "Most that may be asked for.")] | None,
        Meta(description="Most that may be asked for, for a policy to change; within the hardware's limits."),
    ] = None
    ramp: Annotated[
        Annotated[float, quantity("W/s", "Fastest change.", gt=0)] | None,
        Meta(description="Fastest change of the set-point; none by default."),
    ] = None
    safe: Annotated[
        Annotated[float, quantity("W", "Safe power.")] | None,
        Meta(description="Power in the safe state; `scheduled` by default."),
    ] = None

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        yield from named_twice("devices", self.devices)
        if self.minimum >= self.maximum:
            text = f"minimum ({self.minimum:g} W) is not less than maximum ({self.maximum:g} W)"
            yield FieldError(text, "minimum", "maximum")
        for name, value in (("scheduled", self.scheduled), ("safe", self.safe)):
            yield from self._outside_hardware(name, value)
        yield from self._outside_hardware("lowest", self.lowest)
        yield from self._outside_hardware("highest", self.highest)
        if self.lowest is not None and self.highest is not None and self.lowest > self.highest:
            text = f"lowest ({self.lowest:g} W) is above highest ({self.highest:g} W)"
            yield FieldError(text, "lowest", "highest")

    def _outside_hardware(self, name: str, value: float | None) -> Iterator[FieldError]:
        if value is not None and self.minimum < self.maximum and not self.minimum <= value <= self.maximum:
            text = f"{name} ({value:g} W) is outside what the hardware can: {self.minimum:g} to {self.maximum:g} W"
            yield FieldError(text, name, "minimum", "maximum")

    @property
    def assets(self) -> tuple[str, ...]:
        return (self.asset,)

    @property
    def plausible_hz(self) -> tuple[float, float]:
        return self.nominal - PLAUSIBLE_HZ, self.nominal + PLAUSIBLE_HZ

    @property
    def hardware(self) -> Bounds:
        return Bounds(self.minimum, self.maximum)

    @property
    def policy(self) -> Bounds:
        low, high = self.lowest, self.highest
        return Bounds(self.minimum if low is None else low, self.maximum if high is None else high)

    @property
    def safe_w(self) -> float:
        return self.scheduled if self.safe is None else self.safe


def named_twice(field_name: str, names: Sequence[str]) -> Iterator[FieldError]:
    """What is named twice would count twice."""
    if twice := repeated(names):
        yield FieldError(f"{field_name}: named twice", field_name, got=", ".join(twice))


class Frequency(NamedTuple):
    """What is seen of the frequency."""

    hz: float
    """NaN if nothing can be relied on."""
    view: View
    doubt: str = ""
    """Why it may be wrong."""


@dataclass(slots=True)
class ActivePowerState:
    """What is seen at the PMUs, and what was decided."""

    seen: Latest
    controller: ControllerState = field(default_factory=ControllerState)

    @property
    def power_w(self) -> float | None:
        """The set-point in force."""
        return next(iter(self.controller.values.values()), None)

    def take(self, config: ActivePowerConfig, samples: Samples, lowest: float, highest: float) -> None:
        self.seen.take(samples, config.trust(lowest, highest), frozenset(config.devices))

    def look(
        self,
        config: ActivePowerConfig,
        now_ns: int,
        lowest: float,
        highest: float,
        devices: tuple[str, ...] | None = None,
    ) -> tuple[float, View]:
        """The median of what can be relied on (NaN if nothing can), and what that was. All `devices` by default."""
        asked = config.devices if devices is None else devices
        view = self.seen.view(asked, now_ns, config.trust(lowest, highest))
        known = view.values[np.isfinite(view.values)]
        return (float(np.median(known)) if len(known) else math.nan), view

    def look_at_frequency(self, config: ActivePowerConfig, now_ns: int) -> Frequency:
        """The median, but never the mean of two that disagree: then the one that asks for less."""
        hz, view = self.look(config, now_ns, *config.plausible_hz)
        known = view.values[np.isfinite(view.values)]
        if len(known) != 2 or np.ptp(known) <= DISAGREE_HZ:
            return Frequency(hz, view)
        nearer_hz = float(known[np.argmin(np.abs(known - config.nominal))])
        return Frequency(nearer_hz, view, f"{known[0]:.3f} and {known[1]:.3f} Hz")

    def set_power(
        self,
        config: ActivePowerConfig,
        now_ns: int,
        wanted_w: float,
        views: tuple[View, ...],
        version: str,
        limits: tuple[str, ...] = (),
        doubt: str = "",
    ) -> list[WireMessage]:
        """Set the power within all limits; NaN is what a controller wants that cannot see. `limits`: its own ones;
        `doubt`: that of `look_at_frequency`."""
        controller, policy = self.controller, config.policy
        condition, reason = (DISAGREEMENT, doubt) if doubt else ("", "")
        is_blind = math.isnan(wanted_w)
        if is_blind:
            if controller.is_starting(config, now_ns):
                return []
            condition, values = controller.fallback(config, now_ns, {config.asset: config.safe_w})
            wanted_w, reason = values[config.asset], reason_of(views)
            # No policy may keep an asset from its safe state.
            policy = UNBOUNDED if condition == "safe" else policy
        ramp_w = math.inf if config.ramp is None else config.ramp * controller.paced_s(config, now_ns)
        before_w = config.scheduled if self.power_w is None else self.power_w
        made = limited(wanted_w, config.hardware, policy=policy, before=before_w, ramp=ramp_w)
        values = {config.asset: made.value}
        by = {config.asset: (*limits, *made.by)} if limits or made.by else {}
        decision = Decision(QUANTITY, values, condition, reason, by, views, version, is_blind)
        return controller.tell(config, now_ns, decision)

    def finish(self, config: ActivePowerConfig, version: str) -> list[WireMessage]:
        """The safe state: the hardware's ramp alone leads there."""
        decision = Decision(QUANTITY, {config.asset: config.safe_w}, reason="the controller ends", version=version)
        return self.controller.finish(config, decision)


def without_band(deviation: float, dead_band: float) -> float:
    """What of a deviation lies beyond a dead-band around 0; no step at its edge.

    >>> without_band(0.25, 0.125), without_band(-0.125, 0.125), without_band(-0.25, 0.125)
    (0.125, 0.0, -0.125)
    """
    return math.copysign(max(abs(deviation) - dead_band, 0.0), deviation) if abs(deviation) > dead_band else 0.0
