"""`voltage_control`: keeps the voltages of a grid within limits by inverters and storages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from edgeflex_flow import __version__
from edgeflex_flow.messages import Samples, Setpoints
from edgeflex_flow.node import Delays, Input, OperatorNode, WireMessage, quantity
from edgeflex_operators._controller import controller_wire, reason_of
from edgeflex_operators._qp import SolverFailure
from edgeflex_operators._voltage_dual import DualAscent
from edgeflex_operators._voltage_grid import (
    AVAILABLE,
    CHARGE,
    VOLTAGE,
    Remark,
    VoltageGridConfig,
    Why,
    limits_of,
    named_limits,
)
from edgeflex_operators._voltage_program import Decision as Step
from edgeflex_operators._voltage_program import Powers, Situation
from edgeflex_operators._voltage_state import (
    Seen,
    VoltageGridState,
    keep_voltage,
    not_kept,
    take_available,
    take_charge,
    take_in_force,
    without_charge,
)

VERSION = f"{__version__}/voltage-1"
GRID = ("inverters", "branches", "sensitivities", "power_base", "voltage_base", "method")
"""Fields from which the program is made."""
FULL_ABSORPTION, NONE_ABOVE, NONE_BELOW, FULL_FEED = 1.06, 1.03, 0.97, 0.94
"""Voltages at which the local characteristic Q(V) ends and begins, per unit."""


class VoltageControlConfig(VoltageGridConfig, frozen=True, kw_only=True):
    """Keeps voltages within limits: by reactive power first, then by storages, and last by curtailing active power.

    Each step solves a quadratic program around the last measured voltages (`central`): what each inverter does follows
    from how it moves every voltage, by sensitivities. These come from the `branches` of a radial grid, or as a table of
    `sensitivities` that a power-flow program has made. Errors of the model are corrected with the next measurement. A
    limit that cannot be kept is missed by as little as can be, and that is told. With `distributed`, prices of voltages
    and answers of inverters take its place (dual ascent), which needs some hundred steps instead of a few.

    A step is made as soon as all voltages have come that were measured once the assets had followed the last one, which
    takes them `settle`, and at each `period` otherwise. Which set-points were in force when a voltage was measured is
    told by its time. Where payloads tell no time, `settle` must cover the delay of measurements too: what is taken for
    the effect of set-points before it can be makes voltages hunt.

    Voltages that are missing, too old, frozen, not plausible or flagged have no part in a step, and inverters whose
    available power is not known stay as they are. Where less than the share `needed` of the voltages is known,
    inverters whose own voltage and power are known follow the local characteristic Q(V): all reactive power at 0.94 and
    1.06 pu, none between 0.97 and 1.03 pu; their curtailment and storage stay as they are. The others hold what they
    have for `hold_for`, then go to the safe state, in which nothing is asked of them. If the solver fails, set-points
    are held for `hold_for`; then it is the same.

    Reactive power goes up to min(P·tan φ, √(S² - P²)), P being what an inverter could feed in and S its rated power:
    one whose sun gives all of its rated power gives none, curtailed or not.

    Input:
        voltage: Samples with `voltage_pu`, devices being nodes.
        available: Samples with `available_power_pu`: what each inverter could feed in now.
        charge: Samples with `state_of_charge_percent` of inverters with storage; one without it is not used.
        in_force: In shadow, the `Setpoints` of the controller that assets obey; without them, nothing is taken to be
            asked of the assets.
    Output:
        `Setpoints` for each quantity that there is something to do with: `reactive_power_pu`; `active_power_pu`, the
        change of active power (not above 0); `active_power_ess_pu` (positive is discharge). Per unit of `power_base`.
        `limits` names beside those of assets the nodes whose `voltage_max` or `voltage_min` decides. In mode `shadow`
        they are `ShadowSetpoints`. At the end of the flow the safe state goes out, with the status `safe`: the feeder
        is without control until it starts again. An `Alarm` when voltages cannot be kept, measurements are missing or
        the solver fails, at each change of that, and when it is over.
    Errors:
        A `node` that the grid does not have, a grid that is not radial: errors of the check.
    Source:
        S. Bolognani et al., arXiv:1303.7173; M. E. Baran, F. F. Wu, 1989 (LinDistFlow). Q(V) as in EN 50549-1.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> from edgeflex_operators._inverters import Inverter
    >>> from edgeflex_operators._network import NodeSensitivity
    >>> sensitivity = NodeSensitivity(
    ...     voltage_per_active_power={"node_2": 0.2}, voltage_per_reactive_power={"node_2": 0.1}
    ... )
    >>> config = VoltageControlConfig(
    ...     name="voltage",
    ...     power_base=100.0,
    ...     inverters={"node_2": Inverter(rated_power=30.0)},
    ...     sensitivities={"node_2": sensitivity},
    ... )
    >>> state = start(config)
    >>> take_available(config, state, samples_from_rows([(0, "node_2", {"available_power_pu": 0.25})]))
    []
    >>> told = take_voltage(config, state, samples_from_rows([(0, "node_2", {"voltage_pu": 1.055})]))
    >>> [(each.quantity, round(each.values["node_2"], 3)) for each in told]
    [('reactive_power_pu', -0.05), ('active_power_pu', 0.0)]
    """

    method: Annotated[
        Literal["central", "distributed"], Meta(description="A program for all, or prices and answers.")
    ] = "central"
    period: Annotated[float, quantity("s", "Longest time between two decisions.", gt=0, le=900)] = 1.0
    valid_for: Annotated[float, quantity("s", "How long set-points may be sent and obeyed.", gt=0, le=3600)] = 10.0
    max_age: Annotated[float, quantity("s", "Oldest measurement that is relied on.", gt=0, le=3600)] = 5.0
    frozen_after: Annotated[
        float,
        quantity("s", "Not relied on: a voltage that stays the same to the last bit for so long.", gt=0, le=86400),
    ] = 300.0
    hold_for: Annotated[float, quantity("s", "How long set-points are held; then `safe` holds.", ge=0, le=3600)] = 60.0
    needed: Annotated[
        float, Meta(gt=0, le=1, description="Share of all voltages that must be known; with less it is Q(V).")
    ] = 0.8


@dataclass(slots=True)
class VoltageControlState(VoltageGridState[VoltageControlConfig]):
    """What is known of the grid, what was sent, and the prices of voltages."""

    dual: DualAscent = field(init=False)
    used_ns: int = -1
    """Time of the newest voltage that the last step was made from."""

    def adopt(self, config: VoltageControlConfig) -> None:
        super(VoltageControlState, self).adopt(config)
        self.dual = DualAscent(self.program)

    def follow(self, config: VoltageControlConfig) -> None:
        """Keep program and prices where the grid is the same."""
        known = self.config
        if config is known or all(getattr(config, name) == getattr(known, name) for name in GRID):
            self.config = config
        else:
            self.adopt(config)


def start(config: VoltageControlConfig) -> VoltageControlState:
    return VoltageControlState(config)


def take_voltage(config: VoltageControlConfig, state: VoltageControlState, samples: Samples) -> list[WireMessage]:
    """A step, once every voltage is newer than all of the last step."""
    state.follow(config)
    keep_voltage(config, state, samples)
    now_ns = samples.received_ns or int(samples.time_ns.max(initial=0))
    seen = state.look(config, now_ns)
    state.used_ns = min(state.used_ns, now_ns)
    shows_ns = (state.told[-1].time_ns + round(config.settle * 1e9)) if state.told else -1
    is_new = seen.voltage.begin_ns is not None and seen.voltage.begin_ns > max(state.used_ns, shows_ns)
    complete = not seen.voltage.missing and not seen.available.missing
    return _decide(config, state, now_ns, seen) if is_new and complete else []


def tick(config: VoltageControlConfig, state: VoltageControlState, now_ns: int) -> list[WireMessage]:
    """A step with what is there, where none was made for a period."""
    state.follow(config)
    if not state.is_due(config, now_ns):
        return []
    seen = state.look(config, now_ns)
    waits = state.control.is_starting(config, now_ns) and (seen.voltage.missing or seen.available.missing)
    return [] if waits else _decide(config, state, now_ns, seen)


def end(config: VoltageControlConfig, state: VoltageControlState) -> list[WireMessage]:
    """The safe state."""
    return state.finish(config, VERSION)


def _decide(config: VoltageControlConfig, state: VoltageControlState, now_ns: int, seen: Seen) -> list[WireMessage]:
    situation = state.situation(config, now_ns, seen)
    known = 1.0 - len(seen.voltage.missing) / max(len(config.nodes), 1)
    if known < config.needed:
        powers, why = _without_program(config, state, now_ns, seen, situation)
        why = why._replace(condition=f"too few voltages are known: {why.condition}")
    else:
        try:
            decided = _decided(config, state, seen, situation)
            powers, why = decided.powers, _why(config, state, seen, situation, decided)
        except SolverFailure as error:
            powers, why = _after_failure(config, state, now_ns, seen, situation)
            why = why._replace(condition=f"the solver failed: {why.condition}", reason=f"{error}; {why.reason}")
    if seen.voltage.end_ns is not None:
        state.used_ns = seen.voltage.end_ns
    return state.send(config, now_ns, powers, why, VERSION)


def _decided(config: VoltageControlConfig, state: VoltageControlState, seen: Seen, situation: Situation) -> Step:
    if config.method == "central":
        return state.program.decide(situation)
    is_new = seen.voltage.end_ns is not None and seen.voltage.end_ns > state.used_ns
    return state.dual.decide(situation, is_new=is_new)


def _why(
    config: VoltageControlConfig, state: VoltageControlState, seen: Seen, situation: Situation, decided: Step
) -> Why:
    limits = named_limits(config, {"voltage_max": decided.binds_high, "voltage_min": decided.binds_low})
    of_inverters = limits_of(config, state.program, situation, decided.powers)
    missing = [*seen.voltage.missing, *seen.available.missing]
    remarks: list[Remark] = []
    if missing:
        condition = f"measurements of {', '.join(dict.fromkeys(missing))} are missing"
        remarks.append(Remark(condition, reason_of((seen.voltage, seen.available))))
    remarks += without_charge(seen)
    if config.method == "central":
        remarks += not_kept(config, decided.slack)
    return Why(limits=limits, of_inverters=of_inverters, seen=tuple(seen)).remarked(remarks)


def _after_failure(
    config: VoltageControlConfig, state: VoltageControlState, now_ns: int, seen: Seen, situation: Situation
) -> tuple[Powers, Why]:
    """What is in force while it may be held: it was right a moment ago, where Q(V) would begin anew."""
    kind, held = state.fallback(config, now_ns)
    if kind == "hold":
        return state.program.within(held, situation), Why("set-points are held", seen=tuple(seen), is_blind=True)
    return _without_program(config, state, now_ns, seen, situation)


def _without_program(
    config: VoltageControlConfig, state: VoltageControlState, now_ns: int, seen: Seen, situation: Situation
) -> tuple[Powers, Why]:
    """Q(V) where the own voltage and power are known; else what is in force, and in the end nothing."""
    kind, kept = state.fallback(config, now_ns)
    wanted = kept.reactive.copy()
    known = dict(zip(config.nodes, seen.voltage.values.tolist(), strict=True))
    local: list[str] = []
    for place, (name, inverter) in enumerate(config.inverters.items()):
        voltage = known[inverter.node or name]
        if np.isfinite(voltage) and np.isfinite(situation.available[place]):
            feeds = max(situation.available[place] - kept.curtailed[place], 0.0)
            wanted[place] = local_share(voltage) * inverter.reactive_per_active * feeds
            local.append(name)
    powers = state.program.within(kept._replace(reactive=wanted), situation)
    unseen = "hold what they had" if kind == "hold" else "are in the safe state"
    others = len(config.inverters) - len(local)
    parts = [f"{len(local)} inverters follow Q(V)"] * bool(local) + [f"{others} {unseen}"] * bool(others)
    return powers, Why(" and ".join(parts), reason_of(seen), seen=tuple(seen), is_blind=True)


def local_share(voltage_pu: float) -> float:
    """Reactive power by the local characteristic Q(V), as a share of the largest; positive is fed in.

    >>> [local_share(v) for v in (0.93, 0.955, 1.0, 1.045, 1.07)]
    [1.0, 0.5, 0.0, -0.5, -1.0]
    """
    low, high = (
        (NONE_BELOW - voltage_pu) / (NONE_BELOW - FULL_FEED),
        (voltage_pu - NONE_ABOVE) / (FULL_ABSORPTION - NONE_ABOVE),
    )
    return round(min(max(low, 0.0), 1.0) - min(max(high, 0.0), 1.0), 12)


def _delays(config: VoltageControlConfig) -> Delays:
    """A step that voltages made just after one tick puts off that of the next tick to the one after it."""
    return Delays(period_s=2 * config.period, age_s=0.0)


NODE = OperatorNode(
    kind="voltage_control",
    config=VoltageControlConfig,
    inputs={
        "voltage": Input(accepts=(Samples,), needs=(VOLTAGE,), step=take_voltage),
        "available": Input(accepts=(Samples,), needs=(AVAILABLE,), step=take_available),
        "charge": Input(accepts=(Samples,), needs=(CHARGE,), step=take_charge, optional=True),
        "in_force": Input(accepts=(Setpoints,), step=take_in_force, optional=True),
    },
    output=controller_wire,
    start=start,
    tick=tick,
    tick_period_s=lambda config: config.period,
    loose_ticks=True,
    end=end,
    scope="site",
    delays=_delays,
)
