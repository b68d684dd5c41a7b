"""A virtual power plant in closed loop: energy and money are accounted for, and planning pays."""

from __future__ import annotations

import numpy as np
import pytest

from edgeflex_services.vpp_profiles import PER_DAY, Profiles, synthetic_profiles
from edgeflex_services.vpp_simulation import (
    BATTERY,
    CHP,
    EXPORT_LIMIT_W,
    Controller,
    Done,
    Orders,
    by_foresight_eur,
    by_plans,
    by_self_consumption,
    operate,
)

SUNNY = 13 * PER_DAY + 36
"""A morning of wind and sun, which rises to more than may be exported."""


@pytest.fixture(scope="module")
def profiles() -> Profiles:
    return synthetic_profiles(16)


def assert_possible(profiles: Profiles, done: Done, begin: int) -> None:
    span = slice(begin, begin + len(done.load_w))
    assert (done.wind_w <= profiles.wind_w[span] + 1e-6).all()
    assert (done.pv_w <= profiles.pv_w[span] + 1e-6).all()
    assert (done.exchange_w <= EXPORT_LIMIT_W + 1.0).all()
    balance = done.wind_w + done.pv_w + done.chp_w + done.battery_w - done.load_w
    np.testing.assert_allclose(done.exchange_w, balance, atol=1.0)
    assert (np.abs(done.battery_w) <= BATTERY.power).all()
    assert (done.energy_wh >= BATTERY.lowest_wh - 1.0).all()
    assert (done.energy_wh <= BATTERY.highest_wh + 1.0).all()
    assert set(done.chp_w[(done.chp_w > 0.0) & (done.chp_w < CHP.minimum - 1.0)]) == set()


def test_profiles_are_the_same_again_and_within_their_capacities() -> None:
    first, again = synthetic_profiles(3), synthetic_profiles(3)
    np.testing.assert_array_equal(first.prices, again.prices)
    for values, capacity_w in ((first.wind_w, first.wind_capacity_w), (first.pv_w, first.pv_capacity_w)):
        assert 0.0 <= values.min() <= values.max() <= capacity_w
    assert first.steps == 3 * PER_DAY
    assert (first.prices.reshape(-1, 4) == first.prices[::4, None]).all()
    assert first.first % PER_DAY == 0


def test_plant_that_is_told_nothing_sells_what_it_has(profiles: Profiles) -> None:
    done = operate(profiles, 0, PER_DAY, lambda _step, _energy: Orders(0.0, 0.0, np.inf, np.inf, np.nan))
    assert_possible(profiles, done, 0)
    assert set(done.energy_wh) == {0.5 * BATTERY.energy}
    sold = np.maximum(done.exchange_w, 0.0) @ profiles.prices[:PER_DAY]
    bought = np.minimum(done.exchange_w, 0.0) @ (profiles.prices[:PER_DAY] + 30.0)
    assert done.profit_eur == pytest.approx((sold + bought) * 0.25e-6)


def test_orders_that_the_battery_cannot_follow_are_followed_as_far_as_it_can(profiles: Profiles) -> None:
    done = operate(profiles, 0, 8, lambda _step, _energy: Orders(0.0, 9e6, np.inf, np.inf, np.nan))
    assert_possible(profiles, done, 0)
    assert done.battery_w[0] == BATTERY.power
    assert done.energy_wh[-1] == pytest.approx(BATTERY.lowest_wh)


def test_plants_own_control_cuts_what_orders_let_out_too_much(profiles: Profiles) -> None:
    done = operate(profiles, SUNNY, 16, lambda _step, _energy: Orders(0.0, 0.0, np.inf, np.inf, np.nan))
    assert_possible(profiles, done, SUNNY)
    assert done.cut_w.max() > 5e6
    assert done.cut_w.min() == pytest.approx(0.0, abs=1e-6)


def test_orders_of_the_operators_keep_the_export_limit_as_far_as_loads_are_as_forecast(profiles: Profiles) -> None:
    done = by_plans(Controller(profiles, "persistence", horizon=8), SUNNY, 16)
    assert_possible(profiles, done, SUNNY)
    assert done.exchange_w.max() == pytest.approx(EXPORT_LIMIT_W)
    before_w, load_w = profiles.load_w[SUNNY - 1 : SUNNY + 15], profiles.load_w[SUNNY : SUNNY + 16]
    assert (done.cut_w <= np.maximum(before_w - load_w, 0.0) + 1.0).all()


@pytest.mark.long
def test_plans_from_forecasts_earn_more_than_the_rule_and_less_than_foresight(profiles: Profiles) -> None:
    begin, steps = 14 * PER_DAY, PER_DAY
    rule = by_self_consumption(profiles, begin, steps)
    controller = Controller(profiles)
    planned = by_plans(controller, begin, steps)
    best_eur = by_foresight_eur(profiles, begin, steps)
    for done in (rule, planned):
        assert_possible(profiles, done, begin)
    assert rule.profit_eur < planned.profit_eur < 1.001 * best_eur
    assert planned.profit_eur > 0.8 * best_eur
    assert {each.method for each in controller.forecasts} == {"regression"}
    assert len(controller.solver_s) == steps
    assert planned.cut_w.sum() < 1e-3 * (planned.wind_w + planned.pv_w).sum()
