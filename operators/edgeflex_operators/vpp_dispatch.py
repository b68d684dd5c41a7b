"""`vpp_dispatch`: plans generators, storage and renewables of a virtual power plant for the highest profit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow import __version__
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Alarm, DeadLetter, DispatchPlan, Forecast, Samples
from edgeflex_flow.node import Delays, Input, OperatorNode, Wire, WireMessage, message_wire, quantity, table
from edgeflex_operators._controller import ControllerConfig, ControllerState, Decision, repeated
from edgeflex_operators._dispatch_program import Generator, NoPlanError, Plan, Storage, Task, dispatch
from edgeflex_operators._highs import load_optimize
from edgeflex_operators._latest import Latest, Trust, View
from edgeflex_operators._limits import Bounds, limited
from edgeflex_operators._outlook import Forecasts, largest_of

VERSION = f"{__version__}/vpp-1"

Array = NDArray[np.float64]

POWER = "active_power_w"
POWER_LIMIT = "active_power_limit_w"
PRICE = "price_eur_per_mwh"
CHARGE = "state_of_charge_percent"
TICK_S = 1.0
LEAST_STEPS = 2
"""Fewer steps to plan are none."""
NEAR = 1e-4
"""Of an asset's power: so near to a limit it is at the limit."""
PRICES_KEPT = 10_000
PRICES_AHEAD_S = 2 * 86_400
"""Beyond the horizon: prices of the next day are known before they are planned with."""


class Renewable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wind farm or photovoltaic plant that can be limited."""

    power: Annotated[float, quantity("W", "Installed power.", gt=0, le=1e12)]


class VppDispatchConfig(ControllerConfig, frozen=True, kw_only=True):
    """Plans the next `steps` of a virtual power plant for the highest profit, and sends the first one's set-points.

    A plan minimises what generators cost (energy, running, starts), the wear of storage and what is bought (price and
    `import_fee`), less what is sold. Generators run between `minimum` and `power` or not at all. Storage stays within
    `lowest` and `highest`, does not charge and discharge at once, and ends no emptier than it is now. Renewables give
    what is forecast or less, loads take what is forecast. Power at the connection stays within `connection`, and within
    `export_limit` and `import_limit`, which a policy may set. `reserve` is power that can be given at once: what
    running generators hold back, and storage with the energy for one more step.

    What cannot be kept is bought dearly rather than refused: imports beyond their limit, energy outside its band (where
    it was there already), and reserve, in this order; the plan says how much (`shortfalls`), and an alarm too.

    It is solved with HiGHS as a linear program first; where that leaves binaries open, with those of generators, and
    with those of storage where it would charge and discharge at once. It is solved when forecasts or prices came, at
    the beginning of each step and every `period`. The flow waits for the solver, at most `time_limit`.

    Whatever goes out keeps the export limit of now, even if forecasts of renewables are too low and each gives all that
    its limit allows: beside what generators and storage are told and the load that is forecast (0 where it is not),
    each may give what the plan counts on, and the rest of the room in proportion to installed power. Only where loads
    take less than forecast can more flow out.

    With less than it needs, it does this, each with an alarm when it begins and one when it is over:

    - no usable forecast of a renewable: the plan counts on nothing from it; it may give what room the others leave;
    - no usable state of charge of a storage: the storage stays at 0 W and out of the plan;
    - no forecast of a load, no prices, or no plan from the solver: the last plan goes on (`status` `fallback`), for
      `hold_for` at most (with `fallback: safe` not at all), within the limits of now: what would break them is taken
      from storage first, then from generators;
    - then the safe state (`status` `safe`): generators and storage at 0 W, renewables limited in proportion so that
      all together keep the export limit even if nothing is used.

    Forecasts and states of charge older than `max_age`, or more than 1 s ahead of the clock, are not used; a forecast
    `none` leaves the one before in use. The horizon ends where prices or a forecast do.

    Input:
        forecasts: `Forecast` of loads and renewables (`active_power_w`), and of prices (`price_eur_per_mwh`) under the
            device `market`; their expected values count. Loads are positive. Other forecasts are passed over.
        prices: Samples with `price_eur_per_mwh` of the device `market`: each holds from its time on until the next,
            for `price_step` at most. Where both are known, they come before forecasts. Kept are those of the horizon
            and two days more.
        charge: Samples with `state_of_charge_percent` of each storage.
    Output:
        `Setpoints`, or in `shadow` mode `ShadowSetpoints`: one message with `active_power_w` of generators and storage,
        and one with `active_power_limit_w` of renewables, the most that they may give: their installed power unless
        the plan wants less than their forecast or the export limit leaves less. `DispatchPlan` for each plan. `Alarm`
        as above. Set-points never leave what the hardware can do, the energy of storage included. `limits` says what
        holds a value back: `hardware` (the connection's too), `energy`, `policy` (a lower limit of the connection),
        `price`.
    Errors:
        Dead letters: `bad_forecast` for one whose values are none, not finite, absurd or not as many as those of its
        quantiles, `bad_price` for prices beyond 10,000 EUR/MWh. FatalError when scipy is not installed. The solver's
        failures are alarms, never errors.
    Source:
        Unit commitment with storage as a mixed-integer linear program, in the form that edgeFLEX's virtual power plant
        has it; a design of this project.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> config = VppDispatchConfig(
    ...     name="vpp", connection=2e6, steps=4, generators={"chp": Generator(power=1e6, minimum=4e5, cost=60.0)}
    ... )
    >>> state = start(config)
    >>> hours = [(hour * 3_600_000_000_000, "market", {"price_eur_per_mwh": 70.0}) for hour in range(2)]
    >>> take_prices(config, state, samples_from_rows(hours))
    []
    >>> setpoints, plan = tick(config, state, 0)
    >>> setpoints.values, setpoints.limits, plan.profit_eur
    ({'chp': 1000000.0}, {'chp': ('hardware',)}, 10.0)
    """

    connection: Annotated[float, quantity("W", "Highest power at the connection, both ways.", gt=0, le=1e12)]
    generators: Annotated[dict[str, Generator], table("Generators by name.")] = msgspec.field(default_factory=dict)
    storages: Annotated[dict[str, Storage], table("Storage by name.")] = msgspec.field(default_factory=dict)
    renewables: Annotated[dict[str, Renewable], table("Renewables by name.")] = msgspec.field(default_factory=dict)
    loads: Annotated[tuple[str, ...], Meta(description="Names of loads, which are forecast and served.")] = ()
    market: Annotated[str, Meta(min_length=1, description="Device of the prices.")] = "market"
    step: Annotated[float, quantity("s", "Length of a step.", ge=1, le=86_400)] = 900.0
    steps: Annotated[int, Meta(ge=LEAST_STEPS, le=288, description="How many steps to plan.")] = 96
    price_step: Annotated[float, quantity("s", "How long a price holds at most.", ge=1, le=86_400)] = 3600.0
    import_fee: Annotated[float, quantity("EUR/MWh", "What imported energy costs beside its price.", ge=0, le=1e5)] = (
        0.0
    )
    export_limit: Annotated[
        Annotated[float, quantity("W", "A limit.", ge=0, le=1e12)] | None,
        Meta(description="Highest power into the grid; by default that of the connection."),
    ] = None
    import_limit: Annotated[
        Annotated[float, quantity("W", "A limit.", ge=0, le=1e12)] | None,
        Meta(description="Highest power from the grid; by default that of the connection."),
    ] = None
    reserve: Annotated[float, quantity("W", "Power that can be given at once.", ge=0, le=1e12)] = 0.0
    period: Annotated[float, quantity("s", "How often to plan at least.", ge=1, le=86_400)] = 900.0
    valid_for: Annotated[float, quantity("s", "How long set-points may be obeyed.", gt=0, le=86_400)] = 1200.0
    max_age: Annotated[float, quantity("s", "Older forecasts and states of charge are not used.", gt=0, le=86_400)] = (
        1800.0
    )
    frozen_after: Annotated[
        float,
        quantity("s", "Not used: a state of charge that stays the same to the last bit so long.", gt=0, le=8_640_000),
    ] = 604_800.0
    hold_for: Annotated[float, quantity("s", "How long the last plan is followed; then `safe`.", ge=0, le=86_400)] = (
        7200.0
    )
    time_limit: Annotated[float, quantity("s", "How long the solver may take.", gt=0, le=60)] = 5.0
    gap: Annotated[
        float, Meta(ge=0, le=0.1, description="How far a plan may be from the best one, relative to its cost.")
    ] = 1e-4

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        for name, storage in self.storages.items():
            if storage.lowest >= storage.highest:
                yield FieldError(f"`storages`: `lowest` of '{name}' is not below `highest`", f"storages.{name}")
        for name, generator in self.generators.items():
            if generator.minimum > generator.power:
                yield FieldError(f"`generators`: `minimum` of '{name}' is above `power`", f"generators.{name}")
        names = [*self.generators, *self.storages, *self.renewables, *self.loads, self.market]
        if twice := repeated(names):
            fields = ("generators", "storages", "renewables", "loads", "market")
            yield FieldError("names that stand for two things", *fields, got=", ".join(twice))

    @property
    def step_ns(self) -> int:
        return round(self.step * 1e9)

    @property
    def exchange(self) -> Bounds:
        """Power at the connection that the policies allow, never more than the connection can carry."""
        most = self.connection
        lowest = -most if self.import_limit is None else -self.import_limit
        return Bounds(lowest, most if self.export_limit is None else self.export_limit).within(Bounds(-most, most))

    @property
    def export_by(self) -> Literal["hardware", "policy"]:
        """What sets the limit of exports."""
        return "policy" if self.exchange.high < self.connection else "hardware"

    def is_forecast(self, device: str, column: str) -> bool:
        """Whether forecasts of this are used."""
        if device == self.market:
            return column == PRICE
        return column == POWER and (device in self.loads or device in self.renewables)

    @property
    def assets(self) -> tuple[str, ...]:
        return (*self.generators, *self.storages, *self.renewables)

    @property
    def of_charge(self) -> Trust:
        """What is asked of a state of charge."""
        return self.trust(0.0, 100.0)


@dataclass(slots=True)
class VppDispatchState:
    """What came last, the plan in force, and what is wrong."""

    config: VppDispatchConfig
    control: ControllerState = field(default_factory=ControllerState)
    forecasts: Forecasts = field(default_factory=Forecasts)
    prices: dict[int, float] = field(default_factory=dict)
    """By the time from which they hold."""
    charge: Latest = field(default_factory=lambda: Latest(CHARGE))
    fresh: bool = True
    """Whether something came that the last plan did not know."""
    solved_ns: int | None = None
    plan: DispatchPlan | None = None
    running: frozenset[str] = frozenset()
    """Generators that were told to run."""
    wrong: dict[str, str] = field(default_factory=dict)
    """What alarms were raised for and is not over, and the text of each."""


def start(config: VppDispatchConfig) -> VppDispatchState:
    load_optimize()
    return VppDispatchState(config)


def take_forecast(config: VppDispatchConfig, state: VppDispatchState, forecast: Forecast) -> list[WireMessage]:
    if config.is_forecast(forecast.device, forecast.quantity) and state.forecasts.take(forecast):
        state.fresh = True
    return []


def take_prices(config: VppDispatchConfig, state: VppDispatchState, samples: Samples) -> list[WireMessage]:
    values = samples.columns[PRICE]
    usable = ~np.isnan(values) & ((samples.quality & config.of_charge.refused) == 0)
    absurd: list[float] = []
    for row in np.flatnonzero(usable).tolist():
        time_ns, price = int(samples.time_ns[row]), float(values[row])
        if samples.devices[samples.device[row]] != config.market:
            continue
        if abs(price) > largest_of(PRICE):
            absurd.append(price)
        elif state.prices.get(time_ns) != price:
            state.prices[time_ns] = price
            state.fresh = True
    if not absurd:
        return []
    text = f"a price beyond {largest_of(PRICE):g} EUR/MWh: {absurd[0]:g}"
    return [DeadLetter(node="", reason="bad_price", text=text, time_ns=samples.received_ns, count=len(absurd))]


def take_charge(config: VppDispatchConfig, state: VppDispatchState, samples: Samples) -> list[WireMessage]:
    state.charge.take(samples, config.of_charge, frozenset(config.storages))
    return []


def tick(config: VppDispatchConfig, state: VppDispatchState, now_ns: int) -> list[WireMessage]:
    if config is not state.config and config != state.config:
        state.config, state.fresh = config, True
    if not (state.fresh or _is_due(config, state, now_ns)):
        return []
    state.fresh, state.solved_ns = False, now_ns
    _forget_prices(config, state, now_ns)
    return _decide(config, state, now_ns)


def end(config: VppDispatchConfig, state: VppDispatchState) -> list[WireMessage]:
    """The safe state."""
    told = _decisions(_safe(config), "the controller ends", None)
    return [message for each in told for message in state.control.finish(config, each)]


def _forget_prices(config: VppDispatchConfig, state: VppDispatchState, now_ns: int) -> None:
    """Those that are over, and those so far ahead that they are a mistake; the nearest ones stay."""
    oldest_ns = now_ns - round(config.price_step * 1e9) - config.step_ns
    newest_ns = now_ns + config.steps * config.step_ns + round(PRICES_AHEAD_S * 1e9)
    kept = [each for each in sorted(state.prices) if oldest_ns <= each <= newest_ns]
    state.prices = {time_ns: state.prices[time_ns] for time_ns in kept[:PRICES_KEPT]}


def _is_due(config: VppDispatchConfig, state: VppDispatchState, now_ns: int) -> bool:
    if state.solved_ns is None or now_ns // config.step_ns != state.solved_ns // config.step_ns:
        return True
    return now_ns - state.solved_ns >= config.period * 1e9


class _Known(NamedTuple):
    """What a plan may rest on, for the steps from `begin_ns` on; all arrays are of one length."""

    begin_ns: int
    prices: Array
    load_w: Array
    renewables_w: dict[str, Array]
    load_now_w: float
    """Of the loads that are forecast, even where that is too little for a plan."""
    energies_wh: dict[str, float]
    seen: View
    """When what is used was measured or made, its flags, and what is missing."""
    lacking: dict[str, str]
    """What is missing that the plan can do without, and why."""
    needed: dict[str, str]
    """What is missing without which there is no plan, and why."""


def _known(config: VppDispatchConfig, state: VppDispatchState, now_ns: int) -> _Known:
    begin_ns = now_ns // config.step_ns * config.step_ns
    times_ns = begin_ns + config.step_ns * np.arange(config.steps, dtype=np.int64)
    lacking: dict[str, str] = {}
    needed: dict[str, str] = {}
    used: list[Forecast] = []
    courses: dict[str, Array] = {}
    for name in (*config.loads, *config.renewables):
        found = _course(config, state, name, POWER, times_ns, now_ns)
        if isinstance(found, str):
            (needed if name in config.loads else lacking)[name] = found
        else:
            forecast, courses[name] = found
            used.append(forecast)
    prices = _prices(config, state, times_ns, now_ns)
    if np.isnan(prices[0]):
        needed[config.market] = "no price is known for now"
    whole = [_whole(each) for each in (prices, *courses.values())]
    steps = min(whole) if not needed else 0
    if not needed and steps < LEAST_STEPS:
        needed["horizon"] = f"prices and forecasts reach {steps} steps ahead"
    load_w = np.zeros(steps)
    for name in config.loads if not needed else ():
        load_w += np.maximum(courses[name][:steps], 0.0)
    charge = state.charge.view(list(config.storages), now_ns, config.of_charge)
    lacking |= charge.missing
    quality, times = charge.quality, [each for each in (charge.begin_ns, charge.end_ns) if each is not None]
    for each in used:
        quality |= each.quality
        times.append(each.time_ns)
    return _Known(
        begin_ns,
        prices[:steps],
        load_w,
        {
            name: np.clip(courses[name][:steps], 0.0, each.power) if name in courses else np.zeros(steps)
            for name, each in config.renewables.items()
        },
        sum(max(float(courses[name][0]), 0.0) for name in config.loads if name in courses),
        {
            name: float(value) / 100.0 * config.storages[name].energy
            for name, value in zip(config.storages, charge.values, strict=True)
            if name not in charge.missing
        },
        View(np.zeros(0), needed | lacking, min(times, default=None), max(times, default=None), quality),
        lacking,
        needed,
    )


def _course(
    config: VppDispatchConfig, state: VppDispatchState, name: str, column: str, times_ns: NDArray[np.int64], now_ns: int
) -> tuple[Forecast, Array] | str:
    """A forecast and its values at these times, NaN beyond its end; or why there are none."""
    forecast = state.forecasts.newest(name, column, now_ns, round(config.max_age * 1e9))
    if isinstance(forecast, str):
        return forecast
    places = (times_ns - forecast.begin_ns) // round(forecast.step_s * 1e9)
    inside = (places >= 0) & (places < len(forecast.values))
    found = np.full(len(times_ns), np.nan)
    found[inside] = np.array(forecast.values)[places[inside]]
    return (forecast, found) if inside[0] else "its forecast does not hold for now"


def _prices(config: VppDispatchConfig, state: VppDispatchState, times_ns: NDArray[np.int64], now_ns: int) -> Array:
    """NaN where unknown."""
    forecast = _course(config, state, config.market, PRICE, times_ns, now_ns)
    found = np.full(len(times_ns), np.nan) if isinstance(forecast, str) else forecast[1]
    if not state.prices:
        return found
    known_ns = np.array(sorted(state.prices), dtype=np.int64)
    values = np.array([state.prices[time_ns] for time_ns in known_ns.tolist()])
    place = np.searchsorted(known_ns, times_ns, side="right") - 1
    holds = (place >= 0) & (times_ns - known_ns[place] < config.price_step * 1e9)
    return np.where(holds, values[place], found)


def _whole(course: Array) -> int:
    """How many of the first values are known."""
    gaps = np.flatnonzero(np.isnan(course))
    return int(gaps[0]) if len(gaps) else len(course)


def _decide(config: VppDispatchConfig, state: VppDispatchState, now_ns: int) -> list[WireMessage]:
    known = _known(config, state, now_ns)
    wrong = {f"no {name}": f"{name}: {reason}" for name, reason in (known.lacking | known.needed).items()}
    plan: DispatchPlan | None = None
    if not known.needed:
        try:
            plan = _planned(config, state, known, now_ns)
        except NoPlanError as error:
            wrong["solver"] = str(error)
    if plan is not None:
        state.plan = plan
        for name, amount in plan.shortfalls.items():
            wrong[f"shortfall {name}"] = f"the plan falls short of {name} by up to {amount:.6g}"
        if plan.solver_status == "time_limit":
            wrong["slow"] = f"the solver took {plan.solver_s:.1f} s and stopped at a gap of {plan.gap:.2%}"
        orders = _of_plan(config, plan, 0, known)
        status: Literal["ok", "fallback", "safe"] = plan.status
    else:
        orders, status = _without_plan(config, state, known, now_ns)
    reason = "; ".join(wrong.values()) if status != "ok" else ""
    state.running = frozenset(name for name in config.generators if orders.values[name] > 0.0)
    state.control.decided_ns = now_ns
    messages: list[WireMessage] = [
        state.control.setpoints(config, now_ns, each, status) for each in _decisions(orders, reason, known.seen)
    ]
    if plan is not None:
        messages.append(plan)
    return [*messages, *_alarms(config, state, wrong, status, now_ns)]


def _planned(config: VppDispatchConfig, state: VppDispatchState, known: _Known, now_ns: int) -> DispatchPlan:
    """A plan for what is known. Raises NoPlanError."""
    storages = {name: each for name, each in config.storages.items() if name in known.energies_wh}
    plan: Plan = dispatch(
        Task(
            step_s=config.step,
            prices=known.prices,
            import_fee=config.import_fee,
            generators=config.generators,
            running=state.running,
            storages=storages,
            energies_wh=known.energies_wh,
            renewables_w=known.renewables_w,
            load_w=known.load_w,
            export_limit_w=max(config.exchange.high, 0.0),
            import_limit_w=max(-config.exchange.low, 0.0),
            reserve_w=config.reserve,
            gap=config.gap,
            time_limit_s=config.time_limit,
        )
    )
    return DispatchPlan(
        controller=config.name,
        time_ns=now_ns,
        begin_ns=known.begin_ns,
        step_s=config.step,
        status="fallback" if known.lacking else "ok",
        reason="; ".join(f"{name}: {reason}" for name, reason in known.lacking.items()),
        powers_w={name: tuple(each.tolist()) for name, each in plan.powers_w.items()},
        energies_wh={name: tuple(each.tolist()) for name, each in plan.energies_wh.items()},
        available_w={name: tuple(each.tolist()) for name, each in known.renewables_w.items()},
        loads_w=tuple(known.load_w.tolist()),
        exchange_w=tuple(plan.exchange_w.tolist()),
        prices_eur_per_mwh=tuple(known.prices.tolist()),
        profit_eur=plan.profit_eur,
        shortfalls=plan.shortfalls,
        solver=plan.solver,
        solver_status=plan.solver_status,
        gap=plan.gap,
        solver_s=plan.solver_s,
        missing=tuple(known.lacking),
        shadow=config.mode == "shadow",
        config_digest=state.control.config_digest(config),
        version=VERSION,
    )


class _Orders(NamedTuple):
    """Set-points of generators and storage, limits of renewables, and what holds each back."""

    values: dict[str, float]
    limits_w: dict[str, float]
    by: dict[str, tuple[str, ...]]


def _of_plan(config: VppDispatchConfig, plan: DispatchPlan, place: int, known: _Known) -> _Orders:
    """What a plan says for one of its steps, within what the hardware and the connection can do now."""
    values, by = _commanded(config, plan, place, known)
    counted_w = {
        name: min(max(plan.powers_w[name][place], 0.0), each.power) for name, each in config.renewables.items()
    }
    # An import is reckoned with the load of the plan too: a load that is not known may be there.
    _keep_import(config, values, by, sum(counted_w.values()) - max(known.load_now_w, plan.loads_w[place]))
    _keep_export(config, values, by, sum(counted_w.values()) - known.load_now_w)
    room_w = config.exchange.high + known.load_now_w - sum(values.values())
    limits_w, of_limits = _limits(config, counted_w, _most_w(config, plan, place, counted_w), room_w)
    return _Orders(values, limits_w, {name: each for name, each in (by | of_limits).items() if each})


def _commanded(
    config: VppDispatchConfig, plan: DispatchPlan, place: int, known: _Known
) -> tuple[dict[str, float], dict[str, tuple[str, ...]]]:
    """What the plan says for generators and storage as far as their hardware can do it now, and what holds it back."""
    values: dict[str, float] = {}
    by: dict[str, tuple[str, ...]] = {}
    for name, generator in config.generators.items():
        wanted = plan.powers_w[name][place]
        # What is neither off nor at the minimum comes from the solver's rounding.
        wanted = 0.0 if wanted < NEAR * generator.power else max(wanted, generator.minimum)
        values[name], by[name] = _held(wanted, Bounds(0.0, generator.power))
    for name, storage in config.storages.items():
        if name not in known.energies_wh or name not in plan.powers_w:
            values[name], by[name] = 0.0, ()
            continue
        hardware = Bounds(-storage.power, storage.power)
        of_energy = _energy_bounds(config, storage, known.energies_wh[name])
        wanted = of_energy.nearest(hardware.nearest(plan.powers_w[name][place]))
        values[name], by[name] = _held(wanted, hardware)
        if not by[name] and _is_at(wanted, of_energy, storage.power):
            by[name] = ("energy",)
    return values, by


def _most_w(
    config: VppDispatchConfig, plan: DispatchPlan, place: int, counted_w: Mapping[str, float]
) -> dict[str, float]:
    """What each renewable may give where there is room: no more than planned where the price is why it is curtailed."""
    at_limit = plan.exchange_w[place] >= config.exchange.high - NEAR * config.connection
    most_w = {name: each.power for name, each in config.renewables.items()}
    if not at_limit:
        for name, each in config.renewables.items():
            if counted_w[name] < plan.available_w[name][place] - NEAR * each.power:
                most_w[name] = counted_w[name]
    return most_w


def _keep_import(
    config: VppDispatchConfig, values: dict[str, float], by: dict[str, tuple[str, ...]], others_w: float
) -> None:
    """Charges less where more would be imported than may be now."""
    lacking_w = config.exchange.low - others_w - sum(values.values())
    for name in config.storages:
        if lacking_w > NEAR * config.connection and values[name] < 0.0:
            less_w = min(lacking_w, -values[name])
            values[name] += less_w
            lacking_w -= less_w
            by[name] = ("policy" if config.exchange.low > -config.connection else "hardware",)


def _keep_export(
    config: VppDispatchConfig, values: dict[str, float], by: dict[str, tuple[str, ...]], others_w: float
) -> None:
    """Gives less where more would be exported than may be now: storage keeps its energy, generators their fuel."""
    over_w = sum(values.values()) + others_w - config.exchange.high
    for name in (*config.storages, *config.generators):
        if over_w > NEAR * config.connection and values[name] > 0.0:
            left_w = values[name] - over_w
            if left_w < (config.generators[name].minimum if name in config.generators else 0.0):
                left_w = 0.0
            over_w -= values[name] - left_w
            values[name] = left_w
            by[name] = (config.export_by,)


def _limits(
    config: VppDispatchConfig, counted_w: Mapping[str, float], most_w: Mapping[str, float], room_w: float
) -> tuple[dict[str, float], dict[str, tuple[str, ...]]]:
    """Limits of renewables whose sum leaves the room, and what holds each back."""
    limits_w = _shared(room_w, counted_w, most_w, {name: each.power for name, each in config.renewables.items()})
    by: dict[str, tuple[str, ...]] = {}
    for name, each in config.renewables.items():
        is_full = limits_w[name] >= most_w[name] - NEAR * each.power
        of_plan = "price" if most_w[name] < each.power else "hardware"
        by[name] = (of_plan if is_full else config.export_by,)
    return limits_w, by


def _shared(
    room_w: float, counted_w: Mapping[str, float], most_w: Mapping[str, float], weights: Mapping[str, float]
) -> dict[str, float]:
    """Values whose sum is the room at most: what is counted on, and of the rest each its share, up to its most.

    >>> _shared(10.0, {"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 9.0}, {"a": 2.0, "b": 9.0})
    {'a': 2.0, 'b': 8.0}
    >>> _shared(1.0, {"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 9.0}, {"a": 2.0, "b": 9.0})
    {'a': 0.25, 'b': 0.75}
    """
    room_w, total_w = max(room_w, 0.0), sum(counted_w.values())
    if total_w >= room_w:
        return {name: room_w * each / total_w if total_w else 0.0 for name, each in counted_w.items()}
    shared: dict[str, float] = {}
    rest_w, weight = room_w - total_w, sum(weights.values())
    # Those that are full first: what they leave goes to the others.
    for name in sorted(counted_w, key=lambda each: (most_w[each] - counted_w[each]) / weights[each]):
        more_w = min(rest_w * weights[name] / weight, most_w[name] - counted_w[name])
        shared[name] = counted_w[name] + more_w
        rest_w, weight = rest_w - more_w, weight - weights[name]
    return {name: shared[name] for name in counted_w}


def _held(wanted: float, hardware: Bounds) -> tuple[float, tuple[str, ...]]:
    """A value that the hardware can do, and whether it is at its end."""
    value, by = limited(wanted, hardware)
    value += 0.0  # no -0.0
    return value, by or (("hardware",) if value and _is_at(value, hardware, hardware.high) else ())


def _is_at(value: float, bounds: Bounds, size: float) -> bool:
    return min(abs(value - bounds.low), abs(value - bounds.high)) <= NEAR * size


def _energy_bounds(config: VppDispatchConfig, storage: Storage, energy_wh: float) -> Bounds:
    """Power that the energy allows for a whole step; only the way back where it is outside its band."""
    hours = config.step / 3600.0
    down_w = max(energy_wh - storage.lowest_wh, 0.0) * storage.efficiency / hours
    up_w = max(storage.highest_wh - energy_wh, 0.0) / storage.efficiency / hours
    return Bounds(-up_w, down_w)


def _without_plan(
    config: VppDispatchConfig, state: VppDispatchState, known: _Known, now_ns: int
) -> tuple[_Orders, Literal["fallback", "safe"]]:
    """The last plan, as long as it may be followed, then the safe state."""
    plan = state.plan
    may_follow = plan is not None and config.fallback == "hold" and now_ns - plan.time_ns <= config.hold_for * 1e9
    if plan is not None and may_follow and plan.step_s == config.step:
        place = (now_ns - plan.begin_ns) // config.step_ns
        names = {*config.generators, *config.renewables}
        if 0 <= place < len(plan.exchange_w) and names <= plan.powers_w.keys():
            return _of_plan(config, plan, place, known), "fallback"
    return _safe(config), "safe"


def _safe(config: VppDispatchConfig) -> _Orders:
    """Nothing from what can be commanded, and renewables limited so that the export limit holds without loads."""
    power_w = {name: each.power for name, each in config.renewables.items()}
    limits_w, by = _limits(config, dict.fromkeys(power_w, 0.0), power_w, config.exchange.high)
    values = dict.fromkeys((*config.generators, *config.storages), 0.0)
    return _Orders(values, limits_w, {name: each for name, each in by.items() if each != ("hardware",)})


def _decisions(orders: _Orders, reason: str, seen: View | None) -> list[Decision]:
    """One for each quantity."""
    return [
        Decision(
            quantity=column,
            values=values,
            reason=reason,
            limits={name: orders.by[name] for name in values if name in orders.by},
            seen=() if seen is None else (seen,),
            version=VERSION,
        )
        for column, values in ((POWER, orders.values), (POWER_LIMIT, orders.limits_w))
        if values
    ]


def _alarms(
    config: VppDispatchConfig,
    state: VppDispatchState,
    wrong: dict[str, str],
    status: Literal["ok", "fallback", "safe"],
    now_ns: int,
) -> Iterator[Alarm]:
    """One for each thing that begins to be wrong, and one when it is over."""
    if status == "safe":
        wrong = {**wrong, "safe": "no plan to follow: assets are in their safe state"}
    for key, text in wrong.items():
        if key not in state.wrong:
            severity: Literal["warning", "critical"] = "critical" if key in ("safe", "solver") else "warning"
            yield Alarm(source=config.name, severity=severity, text=text, time_ns=now_ns)
    for key, text in state.wrong.items():
        if key not in wrong:
            yield Alarm(source=config.name, severity="info", text=f"over: {text}", time_ns=now_ns)
    state.wrong = wrong


def _output(config: VppDispatchConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(config.setpoints, DispatchPlan, Alarm)


def _delays(_config: VppDispatchConfig) -> Delays:
    return Delays(period_s=TICK_S, age_s=0.0)


def _delays_of_charge(config: VppDispatchConfig) -> Delays:
    """It is looked at when a plan is made, and makes none be made."""
    return Delays(period_s=min(config.step, config.period) + TICK_S, age_s=0.0)


NODE = OperatorNode(
    kind="vpp_dispatch",
    config=VppDispatchConfig,
    inputs={
        "forecasts": Input(accepts=(Forecast,), step=take_forecast, optional=True),
        "prices": Input(accepts=(Samples,), needs=(PRICE,), step=take_prices, optional=True),
        "charge": Input(accepts=(Samples,), needs=(CHARGE,), step=take_charge, optional=True, delays=_delays_of_charge),
    },
    output=_output,
    start=start,
    tick=tick,
    tick_period_s=lambda _config: TICK_S,
    end=end,
    scope="site",
    delays=_delays,
)
