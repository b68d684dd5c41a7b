"""A virtual power plant in closed loop: the operators `forecast` and `vpp_dispatch` against what really comes.

Beside them stand a plan that knows the future, and the rule that most batteries follow today: charge what is left over,
discharge what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import DispatchPlan, Forecast, Samples, Setpoints, samples_from_rows
from edgeflex_operators import forecast, vpp_dispatch
from edgeflex_operators._dispatch_program import Generator, Storage, Task, dispatch
from edgeflex_operators.forecast import ForecastAsset, ForecastConfig, Method
from edgeflex_operators.vpp_dispatch import CHARGE, POWER, POWER_LIMIT, PRICE, Renewable, VppDispatchConfig
from edgeflex_services.foresight import perfect_forecast
from edgeflex_services.vpp_profiles import PER_DAY, STEP_S, Profiles

Array = NDArray[np.float64]

STEP_NS = STEP_S * 1_000_000_000
HOURS = STEP_S / 3600.0
DELAY_NS = 5_000_000_000

BATTERY = Storage(power=5e6, energy=10e6, efficiency=0.95, wear_cost=2.0)
"""About as much as SimBench's grid has in 53 of them."""
CHP = Generator(power=3e6, minimum=1.2e6, cost=85.0, running_cost=20.0, start_cost=120.0)
EXPORT_LIMIT_W = 14e6
IMPORT_LIMIT_W = 14e6
IMPORT_FEE = 30.0
"""EUR/MWh."""
BEGIN_SHARE = 0.5
GAP = 1e-3
"""Of every plan, relative."""
HISTORY_DAYS = 56


class Done(NamedTuple):
    """What came of a stretch of time; arrays have a value a step."""

    wind_w: Array
    pv_w: Array
    load_w: Array
    chp_w: Array
    battery_w: Array
    energy_wh: Array
    exchange_w: Array
    planned_w: Array
    """Of the exchange; NaN where nothing was planned."""
    cut_w: Array
    """What the plant's own control had to take from renewables because orders let too much out."""
    profit_eur: float
    """Sales less purchases and costs. What the battery lacks at the end is bought back at the highest price, what it
    has more is sold at the lowest: nobody gains by what was not asked for."""

    @property
    def deviation_mwh(self) -> float:
        """Energy by which the exchange missed its plan."""
        return float(np.nansum(np.abs(self.exchange_w - self.planned_w))) * HOURS * 1e-6


class Orders(NamedTuple):
    """What to do in a step."""

    chp_w: float
    battery_w: float
    wind_limit_w: float
    pv_limit_w: float
    planned_w: float


def operate(profiles: Profiles, begin: int, steps: int, decide: Callable[[int, float], Orders]) -> Done:
    """Let the plant run from step `begin` on. `decide(step, energy_wh)` says what to do before each step."""
    rows: list[tuple[float, ...]] = []
    energy_wh, runs = BEGIN_SHARE * BATTERY.energy, False
    money = 0.0
    for step in range(begin, begin + steps):
        orders = decide(step, energy_wh)
        battery_w = _possible(orders.battery_w, energy_wh)
        load_w = float(profiles.load_w[step])
        wind_w = min(float(profiles.wind_w[step]), orders.wind_limit_w)
        pv_w = min(float(profiles.pv_w[step]), orders.pv_limit_w)
        # The plant's own control keeps the connection: photovoltaics give way first.
        over_w = max(orders.chp_w + battery_w + wind_w + pv_w - load_w - EXPORT_LIMIT_W, 0.0)
        allowed_w = wind_w + pv_w
        pv_w, over_w = max(pv_w - over_w, 0.0), max(over_w - pv_w, 0.0)
        wind_w = max(wind_w - over_w, 0.0)
        exchange_w = orders.chp_w + battery_w + wind_w + pv_w - load_w
        energy_wh += HOURS * (-battery_w / BATTERY.efficiency if battery_w > 0.0 else -battery_w * BATTERY.efficiency)
        price = float(profiles.prices[step])
        money += _worth(exchange_w, price) - _cost(orders.chp_w, battery_w, runs)
        runs = orders.chp_w > 0.0
        cut_w = allowed_w - wind_w - pv_w
        rows.append((wind_w, pv_w, load_w, orders.chp_w, battery_w, energy_wh, exchange_w, orders.planned_w, cut_w))
    money += _worth_of_rest(energy_wh - BEGIN_SHARE * BATTERY.energy, profiles.prices[begin : begin + steps])
    wind, pv, load, chp, battery, energy, exchange, planned, cut = np.array(rows).T
    return Done(wind, pv, load, chp, battery, energy, exchange, planned, cut, money)


def _worth_of_rest(left_wh: float, prices: Array) -> float:
    if left_wh < 0.0:
        return left_wh * 1e-6 / BATTERY.efficiency * float(prices.max() + IMPORT_FEE)
    return left_wh * 1e-6 * BATTERY.efficiency * float(prices.min())


def _possible(wanted_w: float, energy_wh: float) -> float:
    """Power that the battery can give or take for a step."""
    most_w = max(energy_wh - BATTERY.lowest_wh, 0.0) * BATTERY.efficiency / HOURS
    least_w = -max(BATTERY.highest_wh - energy_wh, 0.0) / BATTERY.efficiency / HOURS
    return min(max(wanted_w, least_w, -BATTERY.power), most_w, BATTERY.power)


def _worth(exchange_w: float, price: float) -> float:
    paid = price if exchange_w >= 0.0 else price + IMPORT_FEE
    return paid * exchange_w * HOURS * 1e-6


def _cost(chp_w: float, battery_w: float, runs: bool) -> float:
    wear = BATTERY.wear_cost * abs(battery_w) * HOURS * 1e-6
    if chp_w <= 0.0:
        return wear
    start = 0.0 if runs else CHP.start_cost
    return wear + start + (CHP.cost * chp_w * 1e-6 + CHP.running_cost) * HOURS


@dataclass(slots=True)
class Controller:
    """The operators, and what they said."""

    profiles: Profiles
    method: Method | Literal["perfect"] = "regression"
    """`perfect`: forecasts are what comes, instead of those of the operator."""
    horizon: int = PER_DAY
    end: int | None = None
    """A step after which nothing is known any more, for `perfect`."""
    solver_s: list[float] = field(default_factory=list)
    forecasts: list[Forecast] = field(default_factory=list)
    _forecaster: tuple[ForecastConfig, forecast.ForecastState] | None = None
    _planner: tuple[VppDispatchConfig, vpp_dispatch.VppDispatchState] = field(init=False)

    def __post_init__(self) -> None:
        config = VppDispatchConfig(
            name="vpp",
            connection=30e6,
            export_limit=EXPORT_LIMIT_W,
            import_limit=IMPORT_LIMIT_W,
            import_fee=IMPORT_FEE,
            generators={"chp": CHP},
            storages={"battery": BATTERY},
            renewables={
                "wind": Renewable(power=self.profiles.wind_capacity_w),
                "pv": Renewable(power=self.profiles.pv_capacity_w),
            },
            loads=("load",),
            steps=self.horizon,
            gap=GAP,
        )
        self._planner = config, vpp_dispatch.start(config)
        if self.method != "perfect":
            assets = {
                "wind": ForecastAsset(kind="wind", capacity=self.profiles.wind_capacity_w),
                "pv": ForecastAsset(kind="pv", capacity=self.profiles.pv_capacity_w),
                "load": ForecastAsset(kind="load"),
            }
            settings = ForecastConfig(column=POWER, assets=assets, method=self.method, steps=self.horizon)
            self._forecaster = settings, forecast.start(settings)

    def learn(self, begin: int, end: int) -> None:
        """Take in what was measured in these steps."""
        if self._forecaster is None:
            return
        for name, values in self._series().items():
            forecast.step(*self._forecaster, self._samples(name, POWER, begin, values[begin:end]))

    def _series(self) -> dict[str, Array]:
        return {"wind": self.profiles.wind_w, "pv": self.profiles.pv_w, "load": self.profiles.load_w}

    def _samples(self, device: str, column: str, begin: int, values: Sequence[float] | Array) -> Samples:
        times = [(self.profiles.first + begin + place) * STEP_NS for place in range(len(values))]
        return samples_from_rows(
            [(time_ns, device, {column: float(value)}) for time_ns, value in zip(times, values, strict=True)]
        )

    def decide(self, step: int, energy_wh: float) -> Orders:
        """What to do in this step, before it begins."""
        now_ns = (self.profiles.first + step) * STEP_NS + DELAY_NS
        self.learn(step - 1, step)
        for each in self._foresee(step, now_ns):
            vpp_dispatch.take_forecast(*self._planner, each)
        # Prices of the hours to come are known, as after an auction.
        prices = self.profiles.prices[step : step + self.horizon]
        vpp_dispatch.take_prices(*self._planner, self._samples("market", PRICE, step, prices))
        charge = samples_from_rows([(now_ns, "battery", {CHARGE: 100.0 * energy_wh / BATTERY.energy})])
        vpp_dispatch.take_charge(*self._planner, charge)
        said = vpp_dispatch.tick(*self._planner, now_ns)
        setpoints = {each.quantity: each.values for each in said if isinstance(each, Setpoints)}
        [plan] = [each for each in said if isinstance(each, DispatchPlan)]
        self.solver_s.append(plan.solver_s)
        return Orders(
            setpoints[POWER]["chp"],
            setpoints[POWER]["battery"],
            setpoints[POWER_LIMIT]["wind"],
            setpoints[POWER_LIMIT]["pv"],
            plan.exchange_w[0],
        )

    def _foresee(self, step: int, now_ns: int) -> list[Forecast]:
        if self._forecaster is None:
            return [self._truth(name, values, step) for name, values in self._series().items()]
        found: dict[str, Forecast] = {}
        turn_ns = now_ns
        while made := forecast.tick(*self._forecaster, turn_ns):  # the first at the step's end, then after fits
            found |= {each.device: each for each in made if isinstance(each, Forecast)}
            turn_ns += 1
        self.forecasts += found.values()
        return list(found.values())

    def _truth(self, name: str, values: Array, step: int) -> Forecast:
        begin_ns = (self.profiles.first + step) * STEP_NS
        return perfect_forecast(name, POWER, begin_ns, STEP_S, values[step : step + self.horizon].tolist())


def by_plans(controller: Controller, begin: int, steps: int) -> Done:
    """By the operators, which have learned from the days before."""
    controller.learn(begin - min(HISTORY_DAYS * PER_DAY, begin), begin - 1)
    return operate(controller.profiles, begin, steps, controller.decide)


def by_self_consumption(profiles: Profiles, begin: int, steps: int) -> Done:
    """By the rule: the battery takes what is left over and gives what is missing; the generator runs where the price
    pays for it."""

    def decide(step: int, energy_wh: float) -> Orders:
        pays = profiles.prices[step] > CHP.cost + CHP.running_cost / (CHP.power * 1e-6)
        chp_w = CHP.power if pays else 0.0
        left_w = float(profiles.wind_w[step] + profiles.pv_w[step] - profiles.load_w[step])
        return Orders(chp_w, _possible(-left_w, energy_wh), np.inf, np.inf, np.nan)

    return operate(profiles, begin, steps, decide)


def by_foresight_eur(profiles: Profiles, begin: int, steps: int, *, time_limit_s: float = 60.0) -> float:
    """Profit of one plan over the whole time that knows all: no one can have more, within 1e-3 of it."""
    span = slice(begin, begin + steps)
    task = Task(
        step_s=STEP_S,
        prices=profiles.prices[span],
        import_fee=IMPORT_FEE,
        generators={"chp": CHP},
        running=frozenset(),
        storages={"battery": BATTERY},
        energies_wh={"battery": BEGIN_SHARE * BATTERY.energy},
        renewables_w={"wind": profiles.wind_w[span], "pv": profiles.pv_w[span]},
        load_w=profiles.load_w[span],
        export_limit_w=EXPORT_LIMIT_W,
        import_limit_w=IMPORT_LIMIT_W,
        gap=GAP,
        time_limit_s=time_limit_s,
    )
    return dispatch(task).profit_eur
