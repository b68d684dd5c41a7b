"""`virtual_inertia`: active power against the rate of change of frequency, as a rotating mass would give it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from edgeflex_flow import __version__
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Input, OperatorNode, WireMessage, quantity
from edgeflex_operators._active_power import ActivePowerConfig, ActivePowerState, without_band
from edgeflex_operators._controller import controller_delays, controller_wire
from edgeflex_operators._latest import Latest, is_ahead

VERSION = f"{__version__}/virtual-inertia-1"
ANGLE = "voltage_angle_rad"
PLAUSIBLE_HZ_PER_S = 20.0
"""Faster than any grid that still stands, phase jumps over the shortest window included."""


class VirtualInertiaConfig(ActivePowerConfig, frozen=True, kw_only=True):
    """Virtual inertia: power against the rate of change of frequency.

    The change of power is ΔP = -2 `inertia` · `rated_power` / f0 · r, r the part of the ROCOF beyond the dead-band. A
    wash-out lets it fade with the time constant `wash_out`, so that a ROCOF that lasts does not empty a storage.

    A ROCOF that comes late drives the swings between areas that it should damp. It counts in full up to the age
    `fresh`, less from there on, and not at all at `stale`; `limits` then names `late`. Of several devices the oldest
    measurement is judged.

    Where the port `phasors` is wired, a step of the voltage angle of more than `jump_angle` between two frames, beyond
    what the frequency explains, blocks the change of power for `block_for`: that is a phase jump, which looks like a
    ROCOF and is none. Choose `block_for` at least as long as the window of the ROCOF plus what the PMU takes to settle.

    Input:
        in: Samples with `frequency_hz` and `rocof_hz_per_s`, as `rocof` gives them; a window of 100 to 500 ms. A ROCOF
            whose frequency is not plausible, such as one in mHz, is none.
        phasors: Samples of the same devices with `frequency_hz` and, for anything to be found, `voltage_angle_rad`.
    Output:
        `Setpoints` with the quantity `active_power_w` at each `period`; `ShadowSetpoints` in mode `shadow`. `Alarm` and
        end as with `frequency_droop`. While it is blocked, `limits` names `phase_jump`.
    Errors:
        None: what cannot be used leads to the fallback, and is told in `missing` and `reason`.
    Source:
        Swing equation: 2 H S_n / f0 · df/dt = ΔP.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> config = VirtualInertiaConfig(
    ...     name="inertia", asset="bess", devices=("PMU",), inertia=2.0, rated_power=10e6, minimum=-5e6, maximum=5e6
    ... )
    >>> state = start(config)
    >>> step(config, state, samples_from_rows([(0, "PMU", {"frequency_hz": 49.9, "rocof_hz_per_s": -0.55})]))
    []
    >>> [told] = tick(config, state, 20_000_000)
    >>> round(told.values["bess"])
    400000
    """

    period: Annotated[float, quantity("s", "Time between two decisions.", gt=0, le=10)] = 0.05
    inertia: Annotated[float, quantity("s", "Inertia constant H_v on `rated_power`.", ge=0, le=100)]
    rated_power: Annotated[float, quantity("W", "Rated power that `inertia` counts on.", gt=0)]
    dead_band: Annotated[float, quantity("Hz/s", "ROCOF without answer.", ge=0, le=2)] = 0.05
    wash_out: Annotated[float, quantity("s", "Time constant with which the answer fades.", gt=0, le=60)] = 2.0
    jump_angle: Annotated[float, quantity("deg", "Step of the angle that is a phase jump.", gt=0, le=90)] = 2.0
    block_for: Annotated[float, quantity("s", "How long a phase jump blocks the answer.", gt=0, le=10)] = 0.7
    fresh: Annotated[float, quantity("s", "Age of measurements up to which a ROCOF counts in full.", ge=0, le=10)] = 0.2
    stale: Annotated[float, quantity("s", "Age of measurements from which on a ROCOF counts as none.", gt=0, le=10)] = (
        0.3
    )

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        if self.block_for <= self.period:
            text = f"block_for ({self.block_for:g} s) is not longer than period ({self.period:g} s)"
            yield FieldError(text, "block_for", "period")
        if self.stale <= self.fresh:
            yield FieldError(f"stale ({self.stale:g} s) is not longer than fresh ({self.fresh:g} s)", "stale", "fresh")

    def share_at(self, age_s: float) -> float:
        """How much a ROCOF of this age counts."""
        return min(max((self.stale - age_s) / (self.stale - self.fresh), 0.0), 1.0)


@dataclass(slots=True)
class Phasor:
    """The last frame of a device."""

    time_ns: int
    angle_rad: float
    frequency_hz: float


@dataclass(slots=True)
class VirtualInertiaState(ActivePowerState):
    frequency: Latest = field(default_factory=lambda: Latest("frequency_hz"))
    phasors: dict[str, Phasor] = field(default_factory=dict)
    jumped_ns: dict[str, int] = field(default_factory=dict)
    """Time tag of the last phase jump of each device."""
    faded_w: float = 0.0
    """What the wash-out takes away."""

    def forget_ahead(self, now_ns: int) -> None:
        """A frame from a clock that was ahead, or before the one here was set back, must not shut out the next ones."""
        self.phasors = {name: each for name, each in self.phasors.items() if not is_ahead(each.time_ns, now_ns)}


def start(_config: VirtualInertiaConfig) -> VirtualInertiaState:
    return VirtualInertiaState(Latest("rocof_hz_per_s"))


def step(config: VirtualInertiaConfig, state: VirtualInertiaState, samples: Samples) -> list[WireMessage]:
    state.take(config, samples, -PLAUSIBLE_HZ_PER_S, PLAUSIBLE_HZ_PER_S)
    state.frequency.take(samples, config.trust(*config.plausible_hz), frozenset(config.devices))
    return []


def look_for_jumps(config: VirtualInertiaConfig, state: VirtualInertiaState, samples: Samples) -> list[WireMessage]:
    if ANGLE not in samples.columns:
        return []  # only a stream's own configuration tells whether it has phasors
    angles, frequencies = samples.columns[ANGLE].tolist(), samples.columns["frequency_hz"].tolist()
    times, codes = samples.time_ns.tolist(), samples.device.tolist()
    if samples.received_ns:
        state.forget_ahead(samples.received_ns)
    for code, time_ns, angle_rad, frequency_hz in zip(codes, times, angles, frequencies, strict=True):
        name = samples.devices[code]
        if name not in config.devices or not math.isfinite(angle_rad + frequency_hz):
            continue
        if samples.received_ns and is_ahead(time_ns, samples.received_ns):
            continue
        before = state.phasors.get(name)
        if before is not None and time_ns <= before.time_ns:
            continue
        now = state.phasors[name] = Phasor(time_ns, angle_rad, frequency_hz)
        if before is not None and unexplained_rad(before, now, config.nominal) > math.radians(config.jump_angle):
            state.jumped_ns[name] = time_ns
    return []


def unexplained_rad(before: Phasor, now: Phasor, nominal_hz: float) -> float:
    """How far the angle turned beyond what the mean of the frequencies explains; a long gap explains everything."""
    seconds = (now.time_ns - before.time_ns) / 1e9
    deviation_hz = (before.frequency_hz + now.frequency_hz) / 2.0 - nominal_hz
    if seconds > 0.1:
        return 0.0
    return abs(math.remainder(now.angle_rad - before.angle_rad - 2.0 * math.pi * deviation_hz * seconds, 2.0 * math.pi))


def tick(config: VirtualInertiaConfig, state: VirtualInertiaState, now_ns: int) -> list[WireMessage]:
    state.forget_ahead(now_ns)
    frequencies = state.frequency.view(config.devices, now_ns, config.trust(*config.plausible_hz))
    known = tuple(name for name in config.devices if name not in frequencies.missing)
    rocof_hz_per_s, view = state.look(config, now_ns, -PLAUSIBLE_HZ_PER_S, PLAUSIBLE_HZ_PER_S, known)
    views = (frequencies, view)
    if math.isnan(rocof_hz_per_s):
        state.faded_w = 0.0
        return state.set_power(config, now_ns, math.nan, views, VERSION)
    jumped = [state.jumped_ns[name] for name in config.devices if name in state.jumped_ns]
    is_blocked = any(abs(now_ns - each) <= config.block_for * 1e9 for each in jumped)
    beyond = 0.0 if is_blocked else without_band(rocof_hz_per_s, config.dead_band)
    # The median may rest on the oldest.
    share = config.share_at((now_ns - (view.begin_ns or now_ns)) / 1e9)
    change_w = -2.0 * share * config.inertia * config.rated_power / config.nominal * beyond
    fades = -np.expm1(-state.controller.paced_s(config, now_ns) / config.wash_out)
    state.faded_w += float(fades) * (change_w - state.faded_w)
    wanted_w = config.scheduled + (0.0 if is_blocked else change_w - state.faded_w)
    limits = ("phase_jump",) * is_blocked + ("late",) * (share < 1.0)
    return state.set_power(config, now_ns, wanted_w, views, VERSION, limits)


def end(config: VirtualInertiaConfig, state: VirtualInertiaState) -> list[WireMessage]:
    return state.finish(config, VERSION)


NODE = OperatorNode(
    kind="virtual_inertia",
    config=VirtualInertiaConfig,
    inputs={
        "in": Input(accepts=(Samples,), needs=("frequency_hz", "rocof_hz_per_s"), step=step),
        "phasors": Input(accepts=(Samples,), needs=("frequency_hz",), step=look_for_jumps, optional=True),
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
