"""What controllers of voltage remember of their grid: what was measured, and which set-points were sent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import Samples, Setpoints
from edgeflex_flow.node import WireMessage
from edgeflex_operators._controller import ControllerState, reason_of
from edgeflex_operators._latest import Latest, View
from edgeflex_operators._limits import Bounds
from edgeflex_operators._voltage_grid import (
    AVAILABLE,
    CHARGE,
    PLAUSIBLE_VOLTAGE,
    VOLTAGE,
    Remark,
    VoltageGridConfig,
    Why,
    changed_powers,
    decisions_of,
    seen_powers,
    steady,
    storage_powers,
)
from edgeflex_operators._voltage_program import Powers, Situation, VoltageProgram, no_powers

KEPT = 64
"""Set-points that are remembered, to know which were in force when a voltage was measured."""
UNTIL_THE_NEXT = 2**62
"""The own ones are renewed at each period, and payloads of CoVEE tell assets of no end."""
TOLD_PU = 1e-3
"""A voltage that is expected to stay outside by more is told."""

C = TypeVar("C", bound=VoltageGridConfig)


class InForce(NamedTuple):
    """Set-points that assets were told, and until when those are taken to obey them."""

    time_ns: int
    until_ns: int
    powers: Powers


class Seen(NamedTuple):
    """What can be relied on at one moment."""

    voltage: View
    available: View
    charge: View


@dataclass(slots=True)
class VoltageGridState(Generic[C]):
    """What is known of the grid, what was decided, and what assets were told: in shadow, by another controller."""

    config: C
    program: VoltageProgram = field(init=False)
    control: ControllerState = field(default_factory=ControllerState)
    voltage: Latest = field(default_factory=lambda: Latest(VOLTAGE))
    available: Latest = field(default_factory=lambda: Latest(AVAILABLE))
    charge: Latest = field(default_factory=lambda: Latest(CHARGE))
    told: deque[InForce] = field(default_factory=lambda: deque(maxlen=KEPT))
    decided: Powers | None = None

    def __post_init__(self) -> None:
        self.adopt(self.config)

    def adopt(self, config: C) -> None:
        """Follow a config, whose grid is another one perhaps."""
        self.config = config
        inverters = tuple(config.inverters.values())
        self.program = VoltageProgram(config.sensitivities_to(config.feeders), inverters, config.power_base)

    def follow(self, config: C) -> None:
        """Adopt a config if it is a new one."""
        if config is not self.config:
            self.adopt(config)

    @property
    def last(self) -> Powers:
        """The last decision."""
        return no_powers(len(self.config.inverters)) if self.decided is None else self.decided

    def in_force(self, time_ns: int) -> Powers:
        """What assets obeyed at that time."""
        before = [each for each in self.told if each.time_ns <= time_ns]
        obeyed = before and time_ns <= before[-1].until_ns
        return before[-1].powers if obeyed else no_powers(len(self.config.inverters))

    def is_due(self, config: C, now_ns: int) -> bool:
        """Whether a period has passed since the last decision, or the clock was set back behind it."""
        decided_ns = self.control.decided_ns
        return decided_ns is None or not 0 <= now_ns - decided_ns < 0.99e9 * config.period

    def notice(self, now_ns: int) -> None:
        """After the clock was set back, what is in force was told now, not in an hour."""
        if self.told and self.told[-1].time_ns > now_ns:
            self.told = deque([self.told[-1]._replace(time_ns=now_ns)], maxlen=KEPT)

    def look(self, config: C, now_ns: int) -> Seen:
        self.notice(now_ns)
        trust = config.trust(*PLAUSIBLE_VOLTAGE)
        with_storage = tuple(name for name, each in config.inverters.items() if each.storage is not None)
        return Seen(
            self.voltage.view(config.nodes, now_ns, trust),
            seen_powers(config, self.available, now_ns, trust),
            self.charge.view(with_storage, now_ns, steady(trust)),
        )

    def situation(self, config: C, now_ns: int, seen: Seen) -> Situation:
        """What a step is made from."""
        elapsed_s = config.period if self.decided is None else self.control.elapsed_s(now_ns)
        return Situation(
            voltage=seen.voltage.values,
            effect=self.effects(config, seen),
            before=self.remembered(config, now_ns, seen),
            available=seen.available.values,
            storage=storage_powers(config, seen.charge),
            voltage_bounds=Bounds(config.voltage_min, config.voltage_max),
            curtailable_share=config.curtailable,
            ramp=self.program.ramps * min(elapsed_s, config.valid_for),
        )

    def effects(self, config: C, seen: Seen) -> NDArray[np.float64]:
        """What set-points added to each voltage when that was measured: meters tell their voltages at times of their
        own, and the oldest may come from before the last set-points."""
        effects = np.zeros(len(config.nodes))
        by_time: dict[int, NDArray[np.float64]] = {}
        for place, node in enumerate(config.nodes):
            if node in seen.voltage.missing:
                continue
            settled_ns = self.voltage.readings[node].time_ns - round(config.settle * 1e9)
            if settled_ns not in by_time:
                by_time[settled_ns] = self.program.effect(self.in_force(settled_ns))
            effects[place] = by_time[settled_ns][place]
        return effects

    def remembered(self, config: C, now_ns: int, seen: Seen) -> Powers:
        """The last decision, without what it asked of inverters whose available power is not known for `hold_for`."""
        kept = np.ones(len(config.inverters))
        for place, name in enumerate(config.inverters):
            reading = self.available.readings.get(name)
            known_ns = 0 if reading is None else reading.time_ns
            if name in seen.available.missing and now_ns - known_ns > config.hold_for * 1e9:
                kept[place] = 0.0
        last = self.last
        return Powers(kept * last.reactive, kept * last.curtailed, kept * last.storage)

    def fallback(self, config: C, now_ns: int) -> tuple[Literal["hold", "safe"], Powers]:
        """What holds when nothing can be decided: the last decision while it may be held, then the safe state."""
        kind, _ = self.control.fallback(config, now_ns, {})
        return kind, self.last if kind == "hold" else no_powers(len(config.inverters))

    def send(self, config: C, now_ns: int, powers: Powers, why: Why, version: str) -> list[WireMessage]:
        self.decided = powers
        if config.mode == "control":
            self.told.append(InForce(now_ns, UNTIL_THE_NEXT, powers))
        told = decisions_of(config, powers, why, version)
        return [message for each in told for message in self.control.tell(config, now_ns, each)]

    def finish(self, config: C, version: str) -> list[WireMessage]:
        """The safe state, in which nothing is asked of the inverters."""
        told = decisions_of(config, no_powers(len(config.inverters)), Why(reason="the flow ends"), version)
        return [message for each in told for message in self.control.finish(config, each)]


def keep_voltage(config: C, state: VoltageGridState[C], samples: Samples) -> None:
    state.voltage.take(samples, config.trust(*PLAUSIBLE_VOLTAGE), frozenset(config.nodes))


def take_available(config: C, state: VoltageGridState[C], samples: Samples) -> list[WireMessage]:
    most = config.most_power_pu
    state.available.take(samples, steady(config.trust(-most, most)), frozenset(config.inverters))
    return []


def take_charge(config: C, state: VoltageGridState[C], samples: Samples) -> list[WireMessage]:
    state.charge.take(samples, steady(config.trust(0.0, 100.0)), frozenset(config.inverters))
    return []


def take_in_force(config: C, state: VoltageGridState[C], setpoints: Setpoints) -> list[WireMessage]:
    """In shadow, what the controller that is not in shadow tells the assets."""
    state.follow(config)
    before = state.told[-1] if state.told else InForce(0, 0, no_powers(len(config.inverters)))
    if config.mode == "shadow" and setpoints.time_ns >= before.time_ns:
        powers = changed_powers(config, before.powers, setpoints)
        until_ns = setpoints.time_ns + round(setpoints.valid_for_s * 1e9)
        state.told.append(InForce(setpoints.time_ns, until_ns, powers))
    return []


def without_charge(seen: Seen) -> list[Remark]:
    """On states of charge that are missing."""
    if not seen.charge.missing:
        return []
    names = ", ".join(seen.charge.missing)
    return [Remark(f"storages of {names} are not used: no state of charge", reason_of((seen.charge,)))]


def not_kept(config: VoltageGridConfig, slack: NDArray[np.float64]) -> list[Remark]:
    """On voltages that are expected to stay outside by `slack`, pu, shape (n,)."""
    outside = np.flatnonzero(slack > TOLD_PU).tolist()
    if not outside:
        return []
    reason = ", ".join(f"{config.nodes[n]} by {1e3 * slack[n]:.1f} mpu" for n in outside)
    return [Remark("voltages cannot be kept within limits", reason)]
