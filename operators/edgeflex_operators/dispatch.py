"""`dispatch`: splits what controllers ask of an area among its units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow import __version__
from edgeflex_flow.errors import BadMessageError, FieldError
from edgeflex_flow.messages import Alarm, Samples, Setpoints, ShadowSetpoints
from edgeflex_flow.node import Command, Input, NodeConfig, OperatorNode, WireMessage, quantity, table
from edgeflex_operators._controller import (
    ControllerConfig,
    ControllerState,
    Decision,
    controller_delays,
    controller_wire,
    repeated,
)
from edgeflex_operators._latest import Latest, View, is_ahead
from edgeflex_operators._limits import UNBOUNDED, Bounds

VERSION = f"{__version__}/dispatch-1"
QUANTITY = "active_power_w"
CHARGE = "state_of_charge_percent"
SHORT_SHARE = 1e-3
"""What is short of the power asked for by less than this share of all the units can do is rounding."""


class Storage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What limits the power of a unit that stores energy."""

    capacity: Annotated[float, quantity("Wh", "Energy between empty and full.", gt=0)]
    hold_time: Annotated[
        float, quantity("s", "How long the unit must be able to hold a power that is asked of it.", gt=0, le=86_400)
    ] = 900.0
    least_percent: Annotated[float, Meta(ge=0, le=100, description="State of charge that is kept at least.")] = 10.0
    most_percent: Annotated[float, Meta(ge=0, le=100, description="State of charge that is kept at most.")] = 90.0

    def bounds(self, charge_percent: float) -> Bounds:
        """Powers that the energy allows for the hold time; 0 is always one."""
        watts_per_percent = self.capacity * 36.0 / self.hold_time
        low_w = (charge_percent - self.most_percent) * watts_per_percent
        high_w = (charge_percent - self.least_percent) * watts_per_percent
        return Bounds(min(low_w, 0.0), max(high_w, 0.0))


class DispatchedUnit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One unit that takes a part of what is asked."""

    participation: Annotated[
        float, Meta(ge=0, le=1e6, description="Weight of its share beside its headroom: its readiness; 0 takes it out.")
    ] = 1.0
    scheduled: Annotated[float, quantity("W", "Power when nothing is asked.")] = 0.0
    minimum: Annotated[float, quantity("W", "Least that the hardware can give; negative: it can take.")]
    maximum: Annotated[float, quantity("W", "Most that the hardware can give.")]
    ramp: Annotated[
        Annotated[float, quantity("W/s", "Fastest change.", gt=0)] | None,
        Meta(description="Fastest change of its set-point; none by default."),
    ] = None
    safe: Annotated[
        Annotated[float, quantity("W", "Safe power.")] | None,
        Meta(description="Power in the safe state; `scheduled` by default."),
    ] = None
    storage: Annotated[
        Storage | None, Meta(description="What its energy allows; its device must send `state_of_charge_percent`.")
    ] = None

    @property
    def hardware(self) -> Bounds:
        return Bounds(self.minimum, self.maximum)

    @property
    def safe_w(self) -> float:
        return self.scheduled if self.safe is None else self.safe


class DispatchConfig(ControllerConfig, frozen=True, kw_only=True):
    """Splits what controllers ask of an area among its units: a virtual power plant.

    What the `controllers` ask for `area` is a change of its power; the sum of it is split among the units in proportion
    to `participation` times headroom in that direction. What a unit cannot take goes to the others, until all is placed
    or nothing is left to give. Headroom is what lies between `scheduled` and the limits of hardware, and of the energy
    where there is a storage: P ≤ (state of charge - least) · capacity / hold time, and likewise for charging. Each set-
    point is the power of its unit, `scheduled` included. It keeps to the unit's ramp, except where the energy does not
    allow that; what a ramp keeps a unit from giving, or from giving up, the others make up for meanwhile.

    A controller whose set-points have expired counts with its last value for `hold_for` (`fallback: hold`), then, or
    at once (`safe`), with 0; the others go on. A storage whose state of charge is not known gets its safe power, and
    the others take over its share.

    Input:
        in: `Setpoints` with the quantity `active_power_w` and a value for `area`, and the alarms of controllers, which
        are not looked at. `ShadowSetpoints` count in mode `shadow` alone.
        measurements: Samples with `state_of_charge_percent`, the device named as the unit; where there are storages.
    Output:
        `Setpoints` with the quantity `active_power_w` and the power of each unit at each `period`; `ShadowSetpoints` in
        mode `shadow`. An `Alarm` when less can be given than is asked, or what is given differs from it for longer than
        the slowest ramp takes from end to end; when a controller or a state of charge is missing; and when that is
        over. At the end of the flow the safe state, with the status `safe`.
    Errors:
        Dead letter `wrong_quantity` for set-points for the area with another quantity.
    Source:
        Water-filling; participation factors of automatic generation control as in Wood and Wollenberg, Power
        Generation, Operation, and Control.

    >>> ask = Setpoints(
    ...     controller="agc", time_ns=0, quantity="active_power_w", values={"north": 9e6}, valid_for_s=10.0, status="ok"
    ... )
    >>> units = {
    ...     "bess": DispatchedUnit(minimum=-4e6, maximum=4e6),
    ...     "chp": DispatchedUnit(minimum=0.0, maximum=8e6, scheduled=2e6),
    ... }
    >>> config = DispatchConfig(name="vpp", area="north", controllers=("agc",), units=units)
    >>> state = start(config)
    >>> step(config, state, ask)
    []
    >>> [told] = tick(config, state, 1_000_000_000)
    >>> {name: round(value) for name, value in told.values.items()}
    {'bess': 3600000, 'chp': 7400000}
    """

    max_age: Annotated[float, quantity("s", "Oldest state of charge that is relied on.", gt=0, le=3600)] = 30.0
    frozen_after: Annotated[
        float,
        quantity("s", "Not relied on: a state of charge that stays the same to the last bit for so long.", gt=0),
    ] = 86_400.0
    area: Annotated[str, Meta(min_length=1, description="Area whose power the controllers ask to change.")]
    controllers: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Names of the controllers whose set-points add up.")
    ]
    units: Annotated[dict[str, DispatchedUnit], table("The units by name.")]
    lowest: Annotated[
        Annotated[float, quantity("W", "Least change.", le=0)] | None,
        Meta(description="Least change that may be asked of all units together, for a policy to change."),
    ] = None
    highest: Annotated[
        Annotated[float, quantity("W", "Most change.", ge=0)] | None,
        Meta(description="Most change that may be asked of all units together, for a policy to change."),
    ] = None

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        if twice := repeated(self.controllers):
            yield FieldError("a controller is named twice", "controllers", got=", ".join(twice))
        wrong = [text for name, unit in self.units.items() for text in _unit_problems(name, unit)]
        for text in wrong:
            yield FieldError(text, "units")
        if wrong:
            return
        all_low_w = sum(unit.minimum - unit.scheduled for unit in self.units.values())
        all_high_w = sum(unit.maximum - unit.scheduled for unit in self.units.values())
        for name, value in (("lowest", self.lowest), ("highest", self.highest)):
            if value is not None and not all_low_w <= value <= all_high_w:
                text = f"{name} ({value:g} W) is outside what the units can: {all_low_w:g} to {all_high_w:g} W"
                yield FieldError(text, name, "units")

    @property
    def assets(self) -> tuple[str, ...]:
        return tuple(self.units)

    def advised_by(self, other: NodeConfig, command: Command) -> bool:
        return command == Command.of(self.area, QUANTITY) and getattr(other, "name", None) in self.controllers

    @property
    def policy(self) -> Bounds:
        low, high = self.lowest, self.highest
        return Bounds(UNBOUNDED.low if low is None else low, UNBOUNDED.high if high is None else high)


def _unit_problems(name: str, unit: DispatchedUnit) -> Iterator[str]:
    if unit.minimum >= unit.maximum:
        yield f"unit '{name}': minimum ({unit.minimum:g} W) is not less than maximum ({unit.maximum:g} W)"
        return
    for key, value in (("scheduled", unit.scheduled), ("safe", unit.safe)):
        if value is not None and not unit.minimum <= value <= unit.maximum:
            yield f"unit '{name}': {key} ({value:g} W) is outside {unit.minimum:g} to {unit.maximum:g} W"
    if unit.storage is not None and unit.storage.least_percent >= unit.storage.most_percent:
        yield f"unit '{name}': least_percent is not less than most_percent"
    if unit.storage is not None and not unit.minimum <= 0.0 <= unit.maximum:
        yield f"unit '{name}': a storage can be at rest; 0 W is outside {unit.minimum:g} to {unit.maximum:g} W"


@dataclass(slots=True)
class DispatchState:
    """What was asked, by controller, and how full the storages are."""

    asked: dict[str, Setpoints | ShadowSetpoints] = field(default_factory=dict)
    charge: Latest = field(default_factory=lambda: Latest(CHARGE))
    controller: ControllerState = field(default_factory=ControllerState)
    is_short: bool = False
    behind_since_ns: int | None = None
    """Since when ramps keep the units from giving what is asked."""

    def notice(self, now_ns: int) -> None:
        """What was asked by a clock that was ahead, or before the one here was set back, counts as asked now: it must
        neither last longer than it is valid, nor shut out what is asked later."""
        for name, message in self.asked.items():
            if is_ahead(message.time_ns, now_ns):
                self.asked[name] = msgspec.structs.replace(message, time_ns=now_ns)
        if self.behind_since_ns is not None:
            self.behind_since_ns = min(self.behind_since_ns, now_ns)


class Range(NamedTuple):
    """Where the power of one unit may lie."""

    able: Bounds
    """Within its hardware and its energy."""
    now: Bounds
    """What of that its ramp reaches in this step. The energy wins: a storage that is empty stops at once."""
    energy: Bounds


class Request(NamedTuple):
    """What is asked of the area now."""

    change_w: float
    conditions: tuple[str, ...]
    reasons: tuple[str, ...]
    view: View


def water_filled(
    total: float, weight: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shares that add up to `total` as far as their bounds allow, in proportion to weight times headroom; shape (n,).

    A unit whose bounds do not hold 0 gives (or takes) at least what they force it to, and the others make up for that.

    >>> water_filled(6.0, np.ones(2), np.zeros(2), np.array([2.0, 8.0])).round(1).tolist()
    [1.2, 4.8]
    """
    share: NDArray[np.float64] = np.clip(np.zeros_like(low), low, high)
    left = total - share.sum()
    bound = high if left > 0.0 else low
    headroom = np.abs(bound - share)
    pull = weight * headroom
    free = (pull > 0.0) & (headroom > 0.0)
    while abs(left) > 0.0 and free.any():
        wanted = share[free] + left * pull[free] / pull[free].sum()
        placed = np.clip(wanted, low[free], high[free])
        left -= float((placed - share[free]).sum())
        is_full = placed != wanted
        share[free] = placed
        if not is_full.any():
            break
        free[np.flatnonzero(free)[is_full]] = False
    return share


def start(_config: DispatchConfig) -> DispatchState:
    return DispatchState()


def step(
    config: DispatchConfig, state: DispatchState, message: Setpoints | ShadowSetpoints | Alarm
) -> list[WireMessage]:
    if isinstance(message, Alarm) or (isinstance(message, ShadowSetpoints) and config.mode == "control"):
        return []
    if message.controller not in config.controllers or config.area not in message.values:
        return []
    if message.quantity != QUANTITY or not math.isfinite(message.values[config.area]):
        text = f"set-points of '{message.controller}' for '{config.area}': got {message.quantity} "
        text += f"{message.values[config.area]:g}; known: {QUANTITY}, a finite number"
        raise BadMessageError(text, reason="wrong_quantity")
    before = state.asked.get(message.controller)
    if before is None or message.time_ns >= before.time_ns:
        state.asked[message.controller] = message
    return []


def measure(config: DispatchConfig, state: DispatchState, samples: Samples) -> list[WireMessage]:
    state.charge.take(samples, config.trust(0.0, 100.0), frozenset(_storages(config)))
    return []


def tick(config: DispatchConfig, state: DispatchState, now_ns: int) -> list[WireMessage]:
    state.notice(now_ns)
    request = asked_now(config, state, now_ns)
    charge = state.charge.view(_storages(config), now_ns, config.trust(0.0, 100.0))
    if (request.view.missing or charge.missing) and state.controller.is_starting(config, now_ns):
        return []
    total_w = config.policy.nearest(request.change_w)
    ranges = ranges_of(config, state, now_ns, dict(zip(_storages(config), charge.values.tolist(), strict=True)))
    wanted_w, values = split(config, total_w, ranges)
    conditions = (*request.conditions, *(f"state of charge of {name} unknown" for name in charge.missing))
    reasons = (*request.reasons, *(f"{name}: {why}" for name, why in charge.missing.items()))
    limits = _limits_met(config, wanted_w, ranges)
    if total_w != request.change_w:
        limits = {name: ("policy", *by) for name, by in {**dict.fromkeys(values, ()), **limits}.items()}
    decision = Decision(
        QUANTITY,
        values,
        "; ".join(conditions),
        "; ".join(reasons),
        limits,
        (request.view, charge),
        VERSION,
        is_blind=len(request.view.missing) == len(config.controllers),
    )
    scheduled_w = sum(unit.scheduled for unit in config.units.values())
    able_w, given_w = sum(wanted_w.values()) - scheduled_w, sum(values.values()) - scheduled_w
    short = _shortfall(config, state, now_ns, request.change_w, able_w, given_w)
    return [*short, *state.controller.tell(config, now_ns, decision)]


def asked_now(config: DispatchConfig, state: DispatchState, now_ns: int) -> Request:
    """What the controllers ask for together, and which of them cannot be heard."""
    change_w = 0.0
    conditions: list[str] = []
    reasons: list[str] = []
    missing: dict[str, str] = {}
    heard: list[Setpoints | ShadowSetpoints] = []
    for name in config.controllers:
        message = state.asked.get(name)
        silent_s = math.inf if message is None else (now_ns - message.time_ns) / 1e9 - message.valid_for_s
        if message is not None and silent_s <= (config.hold_for if config.fallback == "hold" else 0.0):
            change_w += message.values[config.area]
            heard.append(message)
        if silent_s > 0.0:
            holds = message is not None and message in heard
            missing[name] = "nothing came" if message is None else f"expired {silent_s:.1f} s ago"
            conditions.append(f"{name} is silent, {'its last value holds' if holds else 'it counts as 0'}")
            reasons.append(f"{name}: {missing[name]}")
        elif message is not None and message.status != "ok":
            conditions.append(f"{name} is in {message.status}")
            reasons.append(f"{name}: {message.reason}")
    quality = 0
    for message in heard:
        quality |= message.quality
    begin_ns = min((each.measured_begin_ns for each in heard if each.measured_begin_ns is not None), default=None)
    end_ns = max((each.measured_end_ns for each in heard if each.measured_end_ns is not None), default=None)
    return Request(change_w, tuple(conditions), tuple(reasons), View(np.empty(0), missing, begin_ns, end_ns, quality))


def ranges_of(
    config: DispatchConfig, state: DispatchState, now_ns: int, charge_percent: dict[str, float]
) -> dict[str, Range]:
    seconds = state.controller.paced_s(config, now_ns)
    before_w = state.controller.values
    return {
        name: _range(unit, charge_percent.get(name, math.nan), before_w.get(name, unit.scheduled), seconds)
        for name, unit in config.units.items()
    }


def _range(unit: DispatchedUnit, charge_percent: float, before_w: float, seconds: float) -> Range:
    ramp_w = math.inf if unit.ramp is None else unit.ramp * seconds
    ramped = Bounds(before_w - ramp_w, before_w + ramp_w)
    if unit.storage is None:
        return Range(unit.hardware, ramped.within(unit.hardware), UNBOUNDED)
    if math.isnan(charge_percent):
        towards_safe_w = ramped.within(unit.hardware).nearest(unit.safe_w)
        safe = Bounds(unit.safe_w, unit.safe_w)
        return Range(safe, Bounds(towards_safe_w, towards_safe_w), safe)
    energy = unit.storage.bounds(charge_percent)
    able = energy.within(unit.hardware)
    return Range(able, ramped.within(able), energy)


def split(
    config: DispatchConfig, total_w: float, ranges: dict[str, Range]
) -> tuple[dict[str, float], dict[str, float]]:
    """The power of each unit for a change of the sum: what it should come to, and what it is now, on its ramp."""
    units = config.units
    weight = np.array([unit.participation for unit in units.values()])
    scheduled = np.array([unit.scheduled for unit in units.values()])
    able, now = _ends(ranges[name].able for name in units), _ends(ranges[name].now for name in units)
    # Sums of numbers of many sizes may miss an end by the last bit.
    wanted = np.clip(scheduled + water_filled(total_w, weight, able[0] - scheduled, able[1] - scheduled), *able)
    placed = np.clip(wanted, *now)
    lacking_w = float((wanted - placed).sum())
    given = np.clip(placed + water_filled(lacking_w, weight, now[0] - placed, now[1] - placed), *now)
    return dict(zip(units, wanted.tolist(), strict=True)), dict(zip(units, given.tolist(), strict=True))


def _ends(bounds: Iterable[Bounds]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    both = np.array(list(bounds)).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _limits_met(
    config: DispatchConfig, wanted_w: dict[str, float], ranges: dict[str, Range]
) -> dict[str, tuple[str, ...]]:
    limits: dict[str, tuple[str, ...]] = {}
    for name, unit in config.units.items():
        is_ramped = ranges[name].now.nearest(wanted_w[name]) != wanted_w[name]
        by = [*_ends_met(wanted_w[name], unit, ranges[name].energy), *["ramp"] * is_ramped]
        if by:
            limits[name] = tuple(by)
    return limits


def _ends_met(value_w: float, unit: DispatchedUnit, energy: Bounds) -> Sequence[str]:
    """Which limits a share that was filled up to them has met."""
    if value_w in energy:
        return ("energy",)
    return ("hardware",) if value_w in unit.hardware and value_w != unit.scheduled else ()


def _shortfall(
    config: DispatchConfig, state: DispatchState, now_ns: int, asked_w: float, able_w: float, given_w: float
) -> Iterator[Alarm]:
    """Tells when less can be given than is asked, or less or more is given for longer than ramps explain."""
    rounding_w = SHORT_SHARE * sum(unit.maximum - unit.minimum for unit in config.units.values())
    if abs(able_w - given_w) <= rounding_w:
        state.behind_since_ns = None
    elif state.behind_since_ns is None:
        state.behind_since_ns = now_ns
    cannot = abs(asked_w - able_w) > rounding_w
    behind_s = 0.0 if state.behind_since_ns is None else (now_ns - state.behind_since_ns) / 1e9
    is_short = cannot or behind_s > _longest_ramp_s(config)
    if is_short == state.is_short:
        return
    state.is_short = is_short
    text = f"the units can give again what is asked of {config.area}"
    if is_short:
        gives = f"can give {able_w:g} W" if cannot else f"have given {given_w:g} W after {behind_s:.0f} s"
        text = f"asked to change the power of {config.area} by {asked_w:g} W, the units {gives}"
    yield Alarm(source=config.name, severity="warning" if is_short else "info", text=text, time_ns=now_ns)


def _longest_ramp_s(config: DispatchConfig) -> float:
    """From one end of its hardware to the other, of the slowest unit."""
    ramps = [(unit.maximum - unit.minimum) / unit.ramp for unit in config.units.values() if unit.ramp is not None]
    return max(ramps, default=0.0) + config.period


def end(config: DispatchConfig, state: DispatchState) -> list[WireMessage]:
    values = {name: unit.safe_w for name, unit in config.units.items()}
    return state.controller.finish(config, Decision(QUANTITY, values, reason="the controller ends", version=VERSION))


def _storages(config: DispatchConfig) -> tuple[str, ...]:
    return tuple(name for name, unit in config.units.items() if unit.storage is not None)


NODE = OperatorNode(
    kind="dispatch",
    config=DispatchConfig,
    inputs={
        "in": Input(accepts=(Setpoints, ShadowSetpoints, Alarm), step=step, decides_after=True),
        "measurements": Input(accepts=(Samples,), needs=(CHARGE,), step=measure, optional=True),
    },
    output=controller_wire,
    start=start,
    tick=tick,
    tick_period_s=lambda config: config.period,
    loose_ticks=True,
    end=end,
    scope="site",
    delays=controller_delays,
)
