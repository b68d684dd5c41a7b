"""`voltage_mpc`: keeps voltages within limits with foresight, and with flexibility that a market gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeflex_flow import __version__
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Alarm, FlexRequest, FlexResponse, Forecast, Node, Samples, Setpoints
from edgeflex_flow.node import Delays, Input, OperatorNode, Wire, WireMessage, message_wire, quantity
from edgeflex_operators import flex_response
from edgeflex_operators._controller import reason_of
from edgeflex_operators._network import Sensitivities
from edgeflex_operators._outlook import Expected, Forecasts
from edgeflex_operators._qp import SolverFailure
from edgeflex_operators._voltage_grid import (
    AVAILABLE,
    CHARGE,
    VOLTAGE,
    Remark,
    VoltageGridConfig,
    Why,
    named_limits,
)
from edgeflex_operators._voltage_horizon import HorizonProgram, Outlook, Plan
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

VERSION = f"{__version__}/mpc-1"
LOAD = "load_power_pu"
LONGEST_TICK_S = 1.0
"""So often it looks whether the market has answered in time."""


class VoltageMpcConfig(VoltageGridConfig, frozen=True, kw_only=True):
    """Keeps voltages within limits with foresight: storages are empty when the sun comes, and reactive power is ready.

    Every `period` a plan is made for `horizon` steps of `step` by a quadratic program with the prices of
    `voltage_control`, and its first step is sent. Voltages of later steps follow from the last measured ones, what is
    forecast to change, and the set-points themselves. Forecasts err: with `caution` voltages keep a distance to their
    limits in later steps, that share of what the 90 % quantiles of available powers would add.

    With `market`, flexibility is asked for: the plan's first pass goes out as a `FlexRequest` at each `step`, with the
    change of active power of each node that the market owns, in kW. What is given becomes a target of those nodes, at a
    weight beyond all costs but that of voltages, and the next plans go around it. Until the answer comes the market's
    nodes go on with what they were told last, and the others act. Without an answer within `answer_within` the market's
    nodes do nothing, but for voltages that the others cannot keep.
    In shadow nobody is asked: the market is taken to give all that is wanted.

    Voltages that are missing hold the set-points for `hold_for`, then the safe state, in which nothing is asked of the
    inverters; run `voltage_control` where that must not wait. Without a forecast what is available now is to stay.

    Input:
        voltage: Samples with `voltage_pu`, devices being nodes.
        available: Samples with `available_power_pu`: what each inverter could feed in now.
        charge: Samples with `state_of_charge_percent` of inverters with storage; one without it is not used.
        in_force: In shadow, the `Setpoints` of the controller that assets obey; without them, nothing is taken to be
            asked of the assets.
        forecast: `Forecast` of `available_power_pu` by inverter, and of `load_power_pu` (taken from the grid) by node.
        response: `FlexResponse` to the requests.
    Output:
        `Setpoints` as those of `voltage_control`; with a `market` also `FlexRequest`. An `Alarm` when voltages cannot
        be kept, measurements or forecasts are missing, the solver fails or the market does not answer as asked, at each
        change of that, and when it is over.
    Errors:
        As those of `voltage_control`.
    Source:
        edgeFLEX deliverable D4.3, section 6.4; the flexibility loop of the CoVEE software.

    >>> VoltageMpcConfig(name="mpc", power_base=100.0, inverters={}, sensitivities={}).horizon
    24
    """

    period: Annotated[float, quantity("s", "Time between two plans.", gt=0, le=3600)] = 5.0
    valid_for: Annotated[float, quantity("s", "How long set-points may be sent and obeyed.", gt=0, le=7200)] = 180.0
    max_age: Annotated[float, quantity("s", "Oldest measurement that is relied on.", gt=0, le=3600)] = 30.0
    frozen_after: Annotated[
        float,
        quantity("s", "Not relied on: a voltage that stays the same to the last bit for so long.", gt=0, le=86400),
    ] = 600.0
    hold_for: Annotated[float, quantity("s", "How long set-points are held; then `safe` holds.", ge=0, le=7200)] = 300.0
    horizon: Annotated[int, Meta(ge=1, le=288, description="Steps of the plan.")] = 24
    step: Annotated[float, quantity("s", "Length of a step.", gt=0, le=3600)] = 900.0
    wanted_charge: Annotated[
        float, Meta(ge=0, le=1, description="State of charge that storages should have at the end of the horizon.")
    ] = 0.5
    caution: Annotated[
        float, Meta(ge=0, le=3, description="How far voltages keep from limits, for wrong forecasts.")
    ] = 0.5
    forecast_age: Annotated[float, quantity("s", "Oldest forecast that is relied on.", gt=0, le=172_800)] = 7200.0
    market: Annotated[
        dict[str, Node], Meta(description="Node in requests of each inverter whose active power a market gives.")
    ] = msgspec.field(default_factory=dict)
    answer_within: Annotated[float, quantity("s", "How long an answer of the market is waited for.", gt=0, le=900)] = (
        30.0
    )

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        if self.period > self.step:
            yield FieldError(f"period ({self.period:g} s) is longer than step ({self.step:g} s)", "period", "step")
        unknown = [name for name in self.market if name not in self.inverters]
        if unknown:
            text = f"market: no inverter is called '{unknown[0]}'"
            yield FieldError(text, "market", "inverters", known=tuple(self.inverters))
        doubled = [name for name, node in self.market.items() if list(self.market.values()).count(node) > 1]
        if doubled:
            text = f"market: {' and '.join(doubled)} are one node, and what it gives would count twice"
            yield FieldError(text, "market", got=f"{self.market[doubled[0]]}")
        if self.market and self.answer_within >= self.step:
            text = f"answer_within ({self.answer_within:g} s) is not shorter than step ({self.step:g} s)"
            yield FieldError(text, "answer_within", "step", "market")

    @property
    def asks(self) -> bool:
        """Whether a market is asked: in shadow it must not be, since what it gives is meant to be used."""
        return bool(self.market) and self.mode == "control"


@dataclass(slots=True)
class VoltageMpcState(VoltageGridState[VoltageMpcConfig]):
    """What is known of the grid, what is forecast, what was sent, and what the market has given."""

    horizon: HorizonProgram = field(init=False)
    loads: Sensitivities = field(init=False)
    """How voltages follow what is fed in at each node."""
    forecasts: Forecasts = field(default_factory=Forecasts)
    market: flex_response.FlexResponseState = field(default_factory=flex_response.FlexResponseState)
    asked_step: int = -1
    """Number of the step, since 1970, for which flexibility was asked last."""
    waits: bool = False
    """Whether the market has not answered yet."""
    given: NDArray[np.float64] | None = None
    """What the market gives from that step on, pu, (steps, inverters); NaN for inverters that it does not own."""
    has_news: bool = True
    """Whether something came that the last plan did not know."""

    def adopt(self, config: VoltageMpcConfig) -> None:
        if (config.horizon, config.step) != (self.config.horizon, self.config.step):
            self._ask_anew()
        super(VoltageMpcState, self).adopt(config)
        self.has_news = True
        self.horizon = HorizonProgram(self.program, config.horizon, config.step / 3600.0, config.wanted_charge)
        self.loads = config.sensitivities_to(config.nodes)

    def _ask_anew(self) -> None:
        """What was asked and given fits steps that are no longer planned."""
        self.market = flex_response.FlexResponseState()
        self.waits, self.given, self.asked_step = False, None, -1


def start(config: VoltageMpcConfig) -> VoltageMpcState:
    return VoltageMpcState(config)


def take_voltage(config: VoltageMpcConfig, state: VoltageMpcState, samples: Samples) -> list[WireMessage]:
    keep_voltage(config, state, samples)
    return []


def take_forecast(_config: VoltageMpcConfig, state: VoltageMpcState, forecast: Forecast) -> list[WireMessage]:
    state.forecasts.take(forecast)
    return []


def take_response(config: VoltageMpcConfig, state: VoltageMpcState, response: FlexResponse) -> list[WireMessage]:
    """What the market gives; the next tick plans around it."""
    state.follow(config)
    return _after_answer(config, state, flex_response.take(_market_of(config), state.market, response))


def tick(config: VoltageMpcConfig, state: VoltageMpcState, now_ns: int) -> list[WireMessage]:
    state.follow(config)
    told = _after_answer(config, state, flex_response.tick(_market_of(config), state.market, now_ns))
    if not (state.has_news or state.is_due(config, now_ns)):
        return told
    seen = state.look(config, now_ns)
    missing = bool(seen.voltage.missing or seen.available.missing)
    if missing and state.control.is_starting(config, now_ns):
        return told
    state.has_news = False
    if missing:
        return [*told, *_blind(config, state, now_ns, "measurements are missing", reason_of(seen), seen)]
    return [*told, *_plan(config, state, now_ns, seen)]


def end(config: VoltageMpcConfig, state: VoltageMpcState) -> list[WireMessage]:
    """The safe state."""
    return state.finish(config, VERSION)


def _plan(config: VoltageMpcConfig, state: VoltageMpcState, now_ns: int, seen: Seen) -> list[WireMessage]:
    """Set-points; at the beginning of a step, also the question to the market."""
    outlook, lacking = _outlook(config, state, now_ns, seen)
    told: list[WireMessage] = []
    step = now_ns // round(config.step * 1e9)
    try:
        if config.asks and step != state.asked_step:
            told = _ask(config, state, state.horizon.plan(outlook), now_ns)
            state.asked_step, state.waits, state.given = step, True, None
        plan = state.horizon.plan(outlook._replace(targets=_targets(config, state)))
    except SolverFailure as error:
        return [*told, *_blind(config, state, now_ns, "the solver failed", str(error), seen)]
    return [*told, *state.send(config, now_ns, plan.first(), _why(config, seen, plan, lacking), VERSION)]


def _ask(config: VoltageMpcConfig, state: VoltageMpcState, plan: Plan, now_ns: int) -> list[WireMessage]:
    """The first pass: what the plan would like the market to give."""
    request = _request(config, plan, now_ns)
    return [*flex_response.ask(_market_of(config), state.market, request), request]


def _after_answer(config: VoltageMpcConfig, state: VoltageMpcState, held: Sequence[WireMessage]) -> list[WireMessage]:
    """Alarms of the market; what holds is kept for the next plan, the second pass."""
    for answer in held:
        if isinstance(answer, FlexResponse) and state.waits:
            state.given, state.waits, state.has_news = _given(config, answer), False, True
    return [replace(each, source=config.name) for each in held if isinstance(each, Alarm)]


def _blind(
    config: VoltageMpcConfig, state: VoltageMpcState, now_ns: int, condition: str, reason: str, seen: Seen
) -> list[WireMessage]:
    """What is in force while it may be held, then nothing."""
    kind, powers = state.fallback(config, now_ns)
    what = "set-points are held" if kind == "hold" else "the safe state holds"
    return state.send(
        config, now_ns, powers, Why(f"{condition}: {what}", reason, seen=tuple(seen), is_blind=True), VERSION
    )


def _outlook(
    config: VoltageMpcConfig, state: VoltageMpcState, now_ns: int, seen: Seen
) -> tuple[Outlook, dict[str, str]]:
    """What is to come, and whose forecasts are missing, and why."""
    situation = state.situation(config, now_ns, seen)
    resistance = state.program.sensitivities.resistance
    available, above, lacking = _powers_to_come(config, state, now_ns, seen)
    loads = _loads_to_come(config, state, now_ns)
    voltage = state.program.without_setpoints(situation) + (available - available[0]) @ resistance.T
    voltage -= (loads - loads[0]) @ state.loads.resistance.T
    charge = np.nan_to_num(seen.charge.values / 100.0, nan=0.0)
    return Outlook(
        voltage=voltage,
        margin=config.caution * above @ resistance.T,
        available=available,
        energy=charge * state.horizon.capacity,
        first=state.program.bounds(situation),
        voltage_bounds=situation.voltage_bounds,
        curtailable_share=config.curtailable,
        targets=_no_targets(config),
    ), lacking


def _powers_to_come(
    config: VoltageMpcConfig, state: VoltageMpcState, now_ns: int, seen: Seen
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, str]]:
    """Available powers and how far they may be above, (steps, inverters); now they are what is measured."""
    available = np.tile(seen.available.values, (config.horizon, 1))
    above = np.zeros_like(available)
    lacking: dict[str, str] = {}
    for place, (name, inverter) in enumerate(config.inverters.items()):
        found = _expected(config, state, name, AVAILABLE, now_ns)
        if isinstance(found, Expected):
            available[1:, place], above[1:, place] = found.values[1:], found.above[1:]
        elif not inverter.storage_only:
            lacking[name] = found
    return available, above, lacking


def _loads_to_come(config: VoltageMpcConfig, state: VoltageMpcState, now_ns: int) -> NDArray[np.float64]:
    """Forecast loads, (steps, nodes); where there is none it is taken to stay."""
    loads = np.zeros((config.horizon, len(config.nodes)))
    for place, node in enumerate(config.nodes):
        found = _expected(config, state, node, LOAD, now_ns)
        if isinstance(found, Expected):
            loads[:, place] = found.values
    return loads


def _expected(
    config: VoltageMpcConfig, state: VoltageMpcState, name: str, quantity: str, now_ns: int
) -> Expected | str:
    step_ns, age_ns = round(config.step * 1e9), round(config.forecast_age * 1e9)
    return state.forecasts.expected(name, quantity, now_ns, step_ns, config.horizon, age_ns)


def _why(config: VoltageMpcConfig, seen: Seen, plan: Plan, lacking: dict[str, str]) -> Why:
    limits = named_limits(config, {"voltage_max": plan.binds_high, "voltage_min": plan.binds_low})
    remarks: list[Remark] = []
    if lacking:
        condition = f"forecasts of {', '.join(lacking)} are missing: what is available now is taken to stay"
        remarks.append(Remark(condition, "; ".join(f"{name}: {why}" for name, why in lacking.items())))
    remarks += [*without_charge(seen), *not_kept(config, plan.slack[0])]
    return Why(limits=limits, seen=tuple(seen)).remarked(remarks)


# The market ---------------------------------------------------------------------------------------------------------


def _market_of(config: VoltageMpcConfig) -> flex_response.FlexResponseConfig:
    return flex_response.FlexResponseConfig(timeout=config.answer_within)


def _request(config: VoltageMpcConfig, plan: Plan, now_ns: int) -> FlexRequest:
    """The changes of active power that the plan counts on, in kW."""
    changes = config.power_base * (plan.storage - plan.curtailed)[:, _of_market(config)]
    return FlexRequest(
        variable="active_power",
        nodes=tuple(config.market.values()),
        unit="kW",
        flex_request={f"prediction {step + 1}": tuple(row) for step, row in enumerate(changes.tolist())},
        id=f"{config.name}@{now_ns}",
        time_ns=now_ns,
        begin_ns=now_ns,
        step_s=config.step,
    )


def _given(config: VoltageMpcConfig, answer: FlexResponse) -> NDArray[np.float64]:
    """What is given, pu, (steps, inverters); NaN for inverters that the market does not own."""
    targets = _no_targets(config)
    rows = [answer.flex_response[f"prediction {step + 1}"] for step in range(config.horizon)]
    targets[:, _of_market(config)] = np.array(rows) / config.power_base
    return targets


def _no_targets(config: VoltageMpcConfig) -> NDArray[np.float64]:
    return np.full((config.horizon, len(config.inverters)), np.nan)


def _of_market(config: VoltageMpcConfig) -> list[int]:
    """Places of the inverters that the market owns."""
    return [list(config.inverters).index(name) for name in config.market]


def _targets(config: VoltageMpcConfig, state: VoltageMpcState) -> NDArray[np.float64]:
    """What the market has given; while it has not answered, what its inverters were told last goes on."""
    if state.given is not None:
        return state.given
    targets = _no_targets(config)
    if state.waits:
        places = _of_market(config)
        targets[0, places] = (state.last.storage - state.last.curtailed)[places]
    return targets


def _output(config: VoltageMpcConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(config.setpoints, Alarm, *([FlexRequest] if config.asks else []))


def _tick_period_s(config: VoltageMpcConfig) -> float:
    return min(config.period, LONGEST_TICK_S)


def _delays(config: VoltageMpcConfig) -> Delays:
    """A plan is due at the first tick after `period`."""
    tick_s = _tick_period_s(config)
    return Delays(period_s=math.ceil(0.99 * config.period / tick_s) * tick_s, age_s=0.0)


def _delays_of_response(config: VoltageMpcConfig) -> Delays:
    return Delays(period_s=_tick_period_s(config), age_s=0.0)


NODE = OperatorNode(
    kind="voltage_mpc",
    config=VoltageMpcConfig,
    inputs={
        "voltage": Input(accepts=(Samples,), needs=(VOLTAGE,), step=take_voltage),
        "available": Input(accepts=(Samples,), needs=(AVAILABLE,), step=take_available),
        "charge": Input(accepts=(Samples,), needs=(CHARGE,), step=take_charge, optional=True),
        "in_force": Input(accepts=(Setpoints,), step=take_in_force, optional=True),
        "forecast": Input(accepts=(Forecast,), step=take_forecast, optional=True),
        "response": Input(accepts=(FlexResponse,), step=take_response, optional=True, delays=_delays_of_response),
    },
    output=_output,
    start=start,
    tick=tick,
    tick_period_s=_tick_period_s,
    loose_ticks=True,
    end=end,
    scope="site",
    delays=_delays,
)
