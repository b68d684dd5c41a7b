"""What all controllers share: who decides, what is sent and why, and what happens when they cannot see.

A controller decides at its ticks. It asks `_latest` for what it may rely on, brings what it wants within limits by
`_limits`, and hands a `Decision` to `ControllerState.tell`, which makes the message and the alarms. When it cannot see,
it takes `ControllerState.fallback` for what it wanted. Its `end` is `ControllerState.finish`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Alarm, Quality, Setpoints, ShadowSetpoints
from edgeflex_flow.node import Command, Delays, NodeConfig, Wire, WireMessage, message_wire, quantity
from edgeflex_operators._devices import AcceptTest
from edgeflex_operators._latest import Trust, View
from edgeflex_operators._units import digest

NORMAL_AFTER_NS = 1_000_000_000
"""A return to normal is told once it has lasted so long: measurements that come and go must not make an alarm each."""
UNSYNCHRONISED = int(Quality.SYNC_LOST | Quality.TIME_UNCERTAIN)


class ControllerConfig(NodeConfig, frozen=True, kw_only=True):
    """Base of the configs of controllers. Those with other time scales give the fields other defaults."""

    name: Annotated[str, Meta(min_length=1, description="Who decides, in set-points and alarms.")]
    mode: Annotated[
        Literal["control", "shadow"],
        Meta(description="shadow: what would be decided goes out as `shadow_setpoints`, which nothing obeys."),
    ] = "control"
    period: Annotated[float, quantity("s", "Time between two decisions.", gt=0, le=900)] = 0.1
    valid_for: Annotated[float, quantity("s", "How long set-points may be sent and obeyed.", gt=0, le=3600)] = 2.0
    max_age: Annotated[float, quantity("s", "Oldest measurement that is relied on.", gt=0, le=3600)] = 0.5
    frozen_after: Annotated[
        float, quantity("s", "Not relied on: a value that stays the same to the last bit for so long.", gt=0, le=86400)
    ] = 10.0
    require_sync: Annotated[bool, Meta(description="Rely only on devices that are locked to UTC.")] = False
    accept_test: AcceptTest = False
    fallback: Annotated[
        Literal["hold", "safe"],
        Meta(description="What holds when there is nothing to rely on: the last set-points for `hold_for`, or `safe`."),
    ] = "hold"
    hold_for: Annotated[float, quantity("s", "How long set-points are held; then `safe` holds.", ge=0, le=3600)] = 5.0

    def refusals(self) -> Iterator[FieldError]:
        if self.valid_for <= self.period:
            text = f"valid_for ({self.valid_for:g} s) is not longer than period ({self.period:g} s)"
            yield FieldError(f"{text}: set-points would expire before the next ones come", "valid_for", "period")

    @property
    def assets(self) -> tuple[str, ...]:
        """Those that it decides about."""
        raise NotImplementedError

    @property
    def setpoints(self) -> type[Setpoints] | type[ShadowSetpoints]:
        """What its set-points are, by `mode`."""
        return Setpoints if self.mode == "control" else ShadowSetpoints

    def commands(self) -> tuple[Command, ...]:
        return tuple(Command(asset, "active_power") for asset in self.assets) if self.mode == "control" else ()

    def trust(self, lowest: float, highest: float) -> Trust:
        """What is asked of measurements whose plausible values lie between these."""
        refused = int(Quality.BAD_DATA)
        if not self.accept_test:
            refused |= int(Quality.TEST)
        if self.require_sync:
            refused |= UNSYNCHRONISED
        return Trust(self.max_age, lowest, highest, self.frozen_after, refused)


class Decision(NamedTuple):
    """What a controller has decided, and why."""

    quantity: str
    values: Mapping[str, float]
    """By asset."""
    condition: str = ""
    """What is not normal, in words that stay the same while it lasts; each change of it is an alarm."""
    reason: str = ""
    """The same with the numbers that decided."""
    limits: Mapping[str, tuple[str, ...]] = {}
    seen: Sequence[View] = ()
    """What was relied on, and what was missing."""
    version: str = ""
    is_blind: bool = False
    """Made from what was in force before, or from nothing, rather than from measurements."""


@dataclass(slots=True)
class ControllerState:
    """What a controller remembers of its decisions."""

    values: dict[str, float] = field(default_factory=dict)
    """Set-points in force, by asset."""
    decided_ns: int | None = None
    begun_ns: int | None = None
    normal_ns: int | None = None
    """When it last decided from measurements."""
    told: str = ""
    """The condition that the last alarm told."""
    well_since_ns: int | None = None
    known: tuple[ControllerConfig, str] | None = None
    """The config that was last used, and its digest."""

    def notice(self, now_ns: int) -> None:
        """Times that lie ahead are those of a clock that was set back since: they count as now, or nothing would end
        for as long as it was set back."""
        self.decided_ns = _not_ahead(self.decided_ns, now_ns)
        self.begun_ns = _not_ahead(self.begun_ns, now_ns)
        self.normal_ns = _not_ahead(self.normal_ns, now_ns)
        self.well_since_ns = _not_ahead(self.well_since_ns, now_ns)

    def is_starting(self, config: ControllerConfig, now_ns: int) -> bool:
        """Whether nothing was decided yet and measurements still have time to come."""
        self.notice(now_ns)
        if self.begun_ns is None:
            self.begun_ns = now_ns
        return self.decided_ns is None and now_ns - self.begun_ns < config.max_age * 1e9

    def elapsed_s(self, now_ns: int) -> float:
        """Time since the last decision; 0 before the first, and when the clock was set back."""
        self.notice(now_ns)
        return 0.0 if self.decided_ns is None else (now_ns - self.decided_ns) / 1e9

    def paced_s(self, config: ControllerConfig, now_ns: int) -> float:
        """What counts of that for ramps and integrals: after a pause, or when the clock was set forward, no more than
        set-points are valid."""
        return min(self.elapsed_s(now_ns), config.valid_for)

    def fallback(
        self, config: ControllerConfig, now_ns: int, safe: Mapping[str, float]
    ) -> tuple[Literal["hold", "safe"], dict[str, float]]:
        """What holds when there is nothing to rely on, and how that is called."""
        self.notice(now_ns)
        may_hold = config.fallback == "hold" and self.normal_ns is not None
        if may_hold and now_ns - (self.normal_ns or 0) <= config.hold_for * 1e9:
            return "hold", {**safe, **self.values}
        return "safe", dict(safe)

    def tell(self, config: ControllerConfig, now_ns: int, decision: Decision) -> list[WireMessage]:
        """The set-points, after an alarm if operation left normal, changed, or came back."""
        self.notice(now_ns)
        self.values = dict(decision.values)
        self.decided_ns = now_ns
        if not decision.is_blind:
            self.normal_ns = now_ns
        status: Literal["ok", "fallback"] = "fallback" if decision.condition else "ok"
        return [*self._alarms(config, now_ns, decision), self.setpoints(config, now_ns, decision, status)]

    def finish(self, config: ControllerConfig, decision: Decision) -> list[WireMessage]:
        """The safe state, for the `end` of a controller; nothing if it never decided, since then none was changed."""
        if self.decided_ns is None:
            return []
        return [self.setpoints(config, self.decided_ns + 1, decision, "safe")]

    def setpoints(
        self, config: ControllerConfig, now_ns: int, decision: Decision, status: Literal["ok", "fallback", "safe"]
    ) -> Setpoints | ShadowSetpoints:
        """The message alone, for controllers that tell of what is not normal in another way."""
        seen = decision.seen
        quality = 0
        for view in seen:
            quality |= view.quality
        return config.setpoints(
            controller=config.name,
            time_ns=now_ns,
            quantity=decision.quantity,
            values=dict(decision.values),
            valid_for_s=config.valid_for,
            status=status,
            reason=decision.reason,
            limits=dict(decision.limits),
            measured_begin_ns=min((view.begin_ns for view in seen if view.begin_ns is not None), default=None),
            measured_end_ns=max((view.end_ns for view in seen if view.end_ns is not None), default=None),
            missing=tuple(dict.fromkeys(name for view in seen for name in view.missing)),
            quality=quality,
            config_digest=self.config_digest(config),
            version=decision.version,
        )

    def config_digest(self, config: ControllerConfig) -> str:
        """Reckoned once for each config."""
        if self.known is None or self.known[0] is not config:
            self.known = config, digest(config)
        return self.known[1]

    def _alarms(self, config: ControllerConfig, now_ns: int, decision: Decision) -> Iterator[Alarm]:
        if decision.condition:
            self.well_since_ns = None
            if decision.condition != self.told:
                self.told = decision.condition
                text = f"not in normal operation: {decision.condition}: {decision.reason}"
                yield Alarm(source=config.name, severity="warning", text=text, time_ns=now_ns)
        elif self.told:
            if self.well_since_ns is None:
                self.well_since_ns = now_ns
            if now_ns - self.well_since_ns >= NORMAL_AFTER_NS:
                text = f"in normal operation again; it was: {self.told}"
                self.told = ""
                yield Alarm(source=config.name, severity="info", text=text, time_ns=now_ns)


def _not_ahead(time_ns: int | None, now_ns: int) -> int | None:
    return None if time_ns is None else min(time_ns, now_ns)


def reason_of(views: Sequence[View]) -> str:
    """Why there is nothing to rely on, device by device."""
    return "; ".join(f"{name}: {why}" for view in views for name, why in view.missing.items())


def repeated(names: Sequence[str]) -> list[str]:
    """Those that stand there more than once.

    >>> repeated(("b", "a", "b", "c", "a"))
    ['a', 'b']
    """
    return sorted({name for name in names if names.count(name) > 1})


def controller_wire(config: ControllerConfig, _inputs: Mapping[str, Wire]) -> Wire:
    """What a controller gives: the `output` of its node."""
    return message_wire(config.setpoints, Alarm)


def controller_delays(config: ControllerConfig) -> Delays:
    """Of a controller that decides at each `period` alone: the `delays` of its node."""
    return Delays(period_s=config.period, age_s=0.0)
