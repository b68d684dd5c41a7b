"""`setpoint_watchdog`: sends the safe state when a controller falls silent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from edgeflex_flow import __version__
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Alarm, Setpoints
from edgeflex_flow.node import Command, Delays, Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire
from edgeflex_flow.node import quantity as in_unit
from edgeflex_flow.units import names_its_unit
from edgeflex_operators._latest import is_ahead
from edgeflex_operators._units import digest

VERSION = f"{__version__}/watchdog-1"


class SetpointWatchdogConfig(NodeConfig, frozen=True, kw_only=True):
    """Sends the safe state as set-points when none of a controller came for `timeout`, again at each `period`, until
    the controller is heard again.

    For a flow of its own, which runs in a process of its own and hears the set-points from the databus: it works when
    the flow of the controller was killed. Choose a `timeout` that the controller's `valid_for` outlasts, and the units
    go from its last set-point to the safe state without falling back in between.

    What counts is when a set-point was decided: old ones that a broker keeps or sends again do not count, nor do those
    from a clock more than a second ahead. Nothing counts as heard before the first tick, from which the time runs. A
    clock that is set back does not make the controller seem heard.

    Input:
        in: `Setpoints`. Those of other controllers, its own included, are not looked at.
    Output:
        `Setpoints` with the status `safe`, and an `Alarm` when the controller falls silent and when it is back.
    Errors:
        None.
    Source:
        A design of this project.

    >>> config = SetpointWatchdogConfig(
    ...     name="watchdog", controller="vpp", quantity="active_power_w", safe={"bess": 0.0}, timeout=3.0
    ... )
    >>> state = start(config)
    >>> tick(config, state, 0)
    []
    >>> [alarm, told] = tick(config, state, 4_000_000_000)
    >>> alarm.severity, told.status, told.values, told.reason
    ('critical', 'safe', {'bess': 0.0}, "no set-points of 'vpp' for 4.0 s")
    """

    name: Annotated[str, Meta(min_length=1, description="Who sends the safe state, in set-points and alarms.")]
    controller: Annotated[str, Meta(min_length=1, description="Name of the controller that is watched.")]
    quantity: Annotated[str, Meta(min_length=1, description="What the values are, ending in their unit.")]
    safe: Annotated[dict[str, float], Meta(min_length=1, description="The safe state: a value for each asset.")]
    timeout: Annotated[float, in_unit("s", "How long the controller may be silent.", gt=0, le=3600)]
    period: Annotated[float, in_unit("s", "Time between two looks.", gt=0, le=60)] = 0.5
    valid_for: Annotated[float, in_unit("s", "How long its set-points are valid.", gt=0, le=3600)] = 5.0

    def refusals(self) -> Iterator[FieldError]:
        if self.valid_for <= self.period:
            text = f"valid_for ({self.valid_for:g} s) is not longer than period ({self.period:g} s)"
            yield FieldError(f"{text}: set-points would expire before the next ones come", "valid_for", "period")
        if not names_its_unit(self.quantity):
            yield FieldError(f"quantity '{self.quantity}' does not end in a unit", "quantity")
        if self.name == self.controller:
            yield FieldError(f"'{self.name}' would watch itself", "name", "controller")
        for asset, value in self.safe.items():
            if not math.isfinite(value):
                yield FieldError(f"the safe value of '{asset}' is not finite", "safe", got=f"{value}")

    def commands(self) -> tuple[Command, ...]:
        return tuple(Command.of(asset, self.quantity) for asset in self.safe)

    def stands_in_for(self, other: NodeConfig) -> bool:
        return not isinstance(other, SetpointWatchdogConfig) and getattr(other, "name", None) == self.controller


@dataclass(slots=True)
class SetpointWatchdogState:
    decided_ns: int = -(2**62)
    """Newest time of decision that counted."""
    candidate_ns: int | None = None
    """Newest time of decision since the last look, which is judged by the clock of the look."""
    heard_ns: int | None = None
    """When the controller was last heard, by the clock here."""
    is_silent: bool = False
    looked_ns: int | None = None
    """When it last looked."""

    def notice(self, now_ns: int) -> None:
        """When the clock was set back, what was heard stays as long ago as it was, and what is decided from now on
        counts."""
        if self.looked_ns is not None and self.heard_ns is not None and now_ns < self.looked_ns:
            self.heard_ns -= self.looked_ns - now_ns
            self.decided_ns = min(self.decided_ns, now_ns)
        self.looked_ns = now_ns


def start(_config: SetpointWatchdogConfig) -> SetpointWatchdogState:
    return SetpointWatchdogState()


def step(config: SetpointWatchdogConfig, state: SetpointWatchdogState, message: Setpoints) -> list[WireMessage]:
    if message.controller == config.controller:
        state.candidate_ns = max(message.time_ns, -(2**62) if state.candidate_ns is None else state.candidate_ns)
    return []


def tick(config: SetpointWatchdogConfig, state: SetpointWatchdogState, now_ns: int) -> list[WireMessage]:
    timeout_ns = round(config.timeout * 1e9)
    state.notice(now_ns)
    candidate_ns, state.candidate_ns = state.candidate_ns, None
    if state.heard_ns is None:
        state.heard_ns = now_ns
    if candidate_ns is not None and candidate_ns > state.decided_ns and not is_ahead(candidate_ns, now_ns):
        state.decided_ns = candidate_ns
        state.heard_ns = max(state.heard_ns, min(candidate_ns, now_ns))
    is_silent = now_ns - state.heard_ns > timeout_ns
    changed, state.is_silent = is_silent != state.is_silent, is_silent
    if not is_silent:
        text = f"set-points of '{config.controller}' come again"
        return [Alarm(source=config.name, severity="info", text=text, time_ns=now_ns)] if changed else []
    reason = f"no set-points of '{config.controller}' for {(now_ns - state.heard_ns) / 1e9:.1f} s"
    told = Setpoints(
        controller=config.name,
        time_ns=now_ns,
        quantity=config.quantity,
        values=config.safe,
        valid_for_s=config.valid_for,
        status="safe",
        reason=reason,
        missing=(config.controller,),
        config_digest=digest(config),
        version=VERSION,
    )
    text = f"{reason}: the safe state is sent"
    return [*([Alarm(source=config.name, severity="critical", text=text, time_ns=now_ns)] if changed else []), told]


def _output(_config: SetpointWatchdogConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(Setpoints, Alarm)


def _delays(config: SetpointWatchdogConfig) -> Delays:
    """What it answers to is silence."""
    return Delays(window_s=config.timeout, period_s=config.period, age_s=0.0)


NODE = OperatorNode(
    kind="setpoint_watchdog",
    config=SetpointWatchdogConfig,
    inputs={"in": Input(accepts=(Setpoints,), step=step)},
    output=_output,
    start=start,
    tick=tick,
    tick_period_s=lambda config: config.period,
    loose_ticks=True,
    scope="site",
    delays=_delays,
)
