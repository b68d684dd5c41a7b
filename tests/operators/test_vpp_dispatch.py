"""The operator `vpp_dispatch`: what it sends, and what it does with less than it needs."""

from __future__ import annotations

import math
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import (
    BUILT_IN_MESSAGES,
    Alarm,
    DeadLetter,
    DispatchPlan,
    Forecast,
    Quality,
    Samples,
    Setpoints,
    ShadowSetpoints,
    decode_message,
    encode_message,
    samples_from_rows,
)
from edgeflex_flow.node import WireMessage
from edgeflex_operators import vpp_dispatch
from edgeflex_operators._dispatch_program import Generator, NoPlanError, Storage
from edgeflex_operators.vpp_dispatch import (
    CHARGE,
    POWER,
    POWER_LIMIT,
    PRICE,
    Renewable,
    VppDispatchConfig,
    VppDispatchState,
    start,
    take_charge,
    take_forecast,
    take_prices,
    tick,
)

STEP_NS = 900_000_000_000
S_NS = 1_000_000_000


def config_of(**changes: Any) -> VppDispatchConfig:
    settings: dict[str, Any] = {
        "name": "vpp",
        "connection": 10e6,
        "steps": 8,
        "generators": {"chp": Generator(power=1e6, minimum=4e5, cost=60.0)},
        "storages": {"battery": Storage(power=1e6, energy=2e6)},
        "renewables": {"wind": Renewable(power=5e6)},
        "loads": ("village",),
        **changes,
    }
    return VppDispatchConfig(**settings)


def forecast_of(device: str, values: list[float], *, made_ns: int = 0, **changes: Any) -> Forecast:
    given: dict[str, Any] = {
        "device": device,
        "quantity": POWER,
        "time_ns": made_ns,
        "begin_ns": made_ns,
        "step_s": 900.0,
        "values": tuple(values),
        "method": "regression",
        "status": "ok",
        **changes,
    }
    return Forecast(**given)


def prices_of(values: list[float], *, begin_ns: int = 0) -> Samples:
    return samples_from_rows(
        [(begin_ns + place * STEP_NS, "market", {PRICE: value}) for place, value in enumerate(values)]
    )


def charge_of(percent: float, *, time_ns: int = 0, quality: int = 0) -> Samples:
    return samples_from_rows([(time_ns, "battery", {CHARGE: percent})], quality=quality)


def told(config: VppDispatchConfig, *, prices: list[float] | None = None, wind_w: float = 2e6) -> VppDispatchState:
    """A state that knows all that it needs at time 0."""
    state = start(config)
    take_prices(config, state, prices_of(prices or [50.0, 90.0] * 4))
    take_charge(config, state, charge_of(50.0))
    for name, power_w in (("wind", wind_w), ("village", 5e5)):
        take_forecast(config, state, forecast_of(name, [power_w] * 8))
    return state


def split(messages: list[WireMessage]) -> tuple[dict[str, Setpoints], DispatchPlan | None, list[Alarm]]:
    setpoints = {each.quantity: each for each in messages if isinstance(each, Setpoints)}
    plans = [each for each in messages if isinstance(each, DispatchPlan)]
    alarms = [each for each in messages if isinstance(each, Alarm)]
    assert len(setpoints) + len(plans) + len(alarms) == len(messages)
    return setpoints, plans[0] if plans else None, alarms


def test_first_step_of_the_plan_goes_out_and_says_why() -> None:
    config = config_of()
    setpoints, plan, alarms = split(tick(config, told(config), 0))
    assert plan is not None
    assert alarms == []
    assert setpoints[POWER].values == pytest.approx({"chp": 0.0, "battery": plan.powers_w["battery"][0]})
    assert setpoints[POWER].values["battery"] < 0.0
    assert setpoints[POWER_LIMIT].values == {"wind": 5e6}
    assert plan.exchange_w[0] == pytest.approx(2e6 - 5e5 + plan.powers_w["battery"][0])
    assert (plan.status, plan.shortfalls, plan.missing) == ("ok", {}, ())
    assert {each.status for each in setpoints.values()} == {"ok"}
    assert setpoints[POWER].measured_begin_ns == 0
    assert decode_message(encode_message(plan), BUILT_IN_MESSAGES) == plan


def test_plan_is_made_once_until_something_is_new_or_a_step_begins() -> None:
    config = config_of(period=300.0)
    state = told(config)
    assert tick(config, state, 0)
    assert tick(config, state, 100 * S_NS) == []
    assert take_prices(config, state, prices_of([50.0])) == []
    assert tick(config, state, 101 * S_NS) == []  # nothing that was not known
    take_prices(config, state, prices_of([51.0]))
    assert tick(config, state, 102 * S_NS)
    assert tick(config, state, 401 * S_NS) == []
    assert tick(config, state, 402 * S_NS)
    assert tick(config, state, STEP_NS)


def test_shadow_tells_and_commands_nothing() -> None:
    config = config_of(mode="shadow")
    given = tick(config, told(config), 0)
    assert not any(isinstance(each, Setpoints) for each in given)
    assert sum(isinstance(each, ShadowSetpoints) for each in given) == 2
    assert vpp_dispatch.NODE.output(config, {}).messages == {ShadowSetpoints, DispatchPlan, Alarm}


def test_renewable_is_limited_where_the_connection_is_full_and_says_so() -> None:
    config = config_of(export_limit=1e6, storages={}, generators={})
    setpoints, plan, _ = split(tick(config, told(config), 0))
    assert setpoints[POWER_LIMIT].values["wind"] == pytest.approx(1.5e6)
    assert setpoints[POWER_LIMIT].limits == {"wind": ("policy",)}
    assert plan is not None
    assert max(plan.exchange_w) == pytest.approx(1e6)


def test_renewable_is_limited_by_a_negative_price_and_says_so() -> None:
    config = config_of(storages={}, generators={}, loads=())
    setpoints, _, _ = split(tick(config, told(config, prices=[-20.0] * 8), 0))
    assert setpoints[POWER_LIMIT].values == {"wind": 0.0}
    assert setpoints[POWER_LIMIT].limits == {"wind": ("price",)}


def test_policy_that_allows_more_than_the_hardware_changes_nothing() -> None:
    config = config_of(connection=1e6, export_limit=9e9, import_limit=9e9)
    _, plan, _ = split(tick(config, told(config), 0))
    assert plan is not None
    assert max(plan.exchange_w) <= 1e6 + 1.0


def test_missing_forecast_of_a_renewable_counts_nothing_from_it_and_leaves_it_what_room_there_is() -> None:
    config = config_of()
    state = told(config)
    del state.forecasts.kept["wind", POWER]
    setpoints, plan, alarms = split(tick(config, state, 0))
    assert plan is not None
    assert (plan.status, plan.missing) == ("fallback", ("wind",))
    assert plan.powers_w["wind"] == (0.0,) * 8
    assert setpoints[POWER_LIMIT].values == {"wind": 5e6}
    assert setpoints[POWER].status == "fallback"
    assert [(each.severity, each.text) for each in alarms] == [("warning", "wind: no forecast came")]


def test_alarm_is_raised_once_and_ends_with_what_raised_it() -> None:
    config = config_of()
    state = told(config)
    [forecast] = state.forecasts.kept.pop(("wind", POWER))
    assert len(split(tick(config, state, 0))[2]) == 1
    state.fresh = True
    assert split(tick(config, state, S_NS))[2] == []
    take_forecast(config, state, forecast)
    [over] = split(tick(config, state, 2 * S_NS))[2]
    assert (over.severity, over.text) == ("info", "over: wind: no forecast came")


def test_storage_of_unknown_charge_stays_at_rest_and_is_told() -> None:
    config = config_of()
    state = told(config)
    state.charge.readings.clear()
    take_charge(config, state, charge_of(50.0, time_ns=1, quality=Quality.BAD_DATA))
    setpoints, plan, alarms = split(tick(config, state, 0))
    assert setpoints[POWER].values["battery"] == 0.0
    assert plan is not None
    assert "battery" not in plan.powers_w
    assert [each.text for each in alarms] == ["battery: flagged bad_data"]


def without(what: str, state: VppDispatchState, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_task: object) -> None:
        raise NoPlanError("no plan: numerical trouble")

    if what == "prices":
        state.prices.clear()
    elif what == "load":
        none = forecast_of("village", [], status="none", reason="nothing was measured")
        state.forecasts.kept["village", POWER] = [none]
    else:
        monkeypatch.setattr(vpp_dispatch, "dispatch", fails)
    state.fresh = True


MISSING = {
    "prices": "market: no price is known for now",
    "load": "village: its forecast has no values: nothing was measured",
    "solver": "no plan: numerical trouble",
}


@pytest.mark.parametrize("what", MISSING)
def test_without_a_plan_the_last_one_goes_on(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of()
    state = told(config)
    _, plan, _ = split(tick(config, state, 0))
    assert plan is not None
    take_charge(config, state, charge_of(70.0, time_ns=STEP_NS))
    for name, power_w in (("wind", 2e6), ("village", 5e5)):
        take_forecast(config, state, forecast_of(name, [power_w] * 8, made_ns=STEP_NS))
    without(what, state, monkeypatch)
    setpoints, after, alarms = split(tick(config, state, STEP_NS))
    assert after is None
    assert setpoints[POWER].values["battery"] == pytest.approx(plan.powers_w["battery"][1])
    assert (setpoints[POWER].status, setpoints[POWER].reason) == ("fallback", MISSING[what])
    assert MISSING[what] in [each.text for each in alarms]


@pytest.mark.parametrize("what", MISSING)
def test_without_any_plan_assets_go_to_their_safe_state(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(export_limit=1e6)
    state = told(config)
    without(what, state, monkeypatch)
    setpoints, plan, alarms = split(tick(config, state, 0))
    assert plan is None
    assert setpoints[POWER].values == {"chp": 0.0, "battery": 0.0}
    assert setpoints[POWER_LIMIT].values == {"wind": 1e6}
    assert {each.status for each in setpoints.values()} == {"safe"}
    assert {each.severity for each in alarms} >= {"critical"}
    assert MISSING[what] in [each.text for each in alarms]


def test_plan_is_not_followed_for_ever() -> None:
    config = config_of(hold_for=1800.0)
    state = told(config)
    tick(config, state, 0)
    state.prices.clear()
    assert [split(tick(config, state, turn * STEP_NS))[0][POWER].status for turn in (1, 2, 3)] == [
        "fallback",
        "fallback",
        "safe",
    ]


def test_followed_plan_does_not_take_a_storage_beyond_its_energy() -> None:
    config = config_of()
    state = told(config, prices=[90.0, 90.0, 10.0, 10.0] * 2)
    _, plan, _ = split(tick(config, state, 0))
    assert plan is not None
    assert plan.powers_w["battery"][0] == pytest.approx(1e6)
    state.prices.clear()
    take_charge(config, state, charge_of(12.0, time_ns=S_NS))
    setpoints, _, _ = split(tick(config, state, STEP_NS))
    assert setpoints[POWER].values["battery"] == pytest.approx(0.02 * 2e6 * 0.95 * 4)
    assert setpoints[POWER].limits["battery"] == ("energy",)


def test_old_forecasts_are_not_used() -> None:
    config = config_of()
    state = told(config)
    _, plan, alarms = split(tick(config, state, 3 * STEP_NS))
    assert plan is None
    assert "village: its forecast is 2700 s old, more than 1800 s" in [each.text for each in alarms]


def test_horizon_ends_where_prices_do() -> None:
    config = config_of(price_step=900.0)
    _, plan, _ = split(tick(config, told(config, prices=[50.0] * 3), 0))
    assert plan is not None
    assert len(plan.exchange_w) == 3


def test_hourly_prices_hold_for_their_hour_and_forecasts_follow() -> None:
    config = config_of()
    state = told(config, prices=[70.0])
    take_forecast(config, state, forecast_of("market", [1.0] * 8, quantity=PRICE))
    _, plan, _ = split(tick(config, state, 0))
    assert plan is not None
    assert plan.prices_eur_per_mwh == (70.0,) * 4 + (1.0,) * 4


@pytest.mark.parametrize(
    "other",
    [
        forecast_of("wind", [9.0] * 8, quantity="wind_speed_m_per_s", made_ns=1),
        forecast_of("market", [9.0] * 8, made_ns=1),
        forecast_of("wind", [], made_ns=1, status="none", reason="nothing was measured"),
        forecast_of("wind", [9.0] * 8, made_ns=2 * S_NS),
    ],
    ids=["another quantity", "power of the market", "none", "from the future"],
)
def test_forecast_in_use_stays_whatever_else_comes(other: Forecast) -> None:
    config = config_of()
    state = told(config)
    take_forecast(config, state, other)
    _, plan, alarms = split(tick(config, state, 1))
    assert alarms == []
    assert plan is not None
    assert plan.available_w["wind"] == (2e6,) * 8
    assert plan.prices_eur_per_mwh == (50.0, 90.0) * 4


def test_forecast_from_the_future_is_told_and_keeps_no_later_one_away() -> None:
    config = config_of()
    state = told(config)
    del state.forecasts.kept["village", POWER]
    take_forecast(config, state, forecast_of("village", [9e6] * 8, made_ns=10**18))
    _, _, alarms = split(tick(config, state, 0))
    assert "village: its forecast comes from a clock that is 1000000000 s ahead" in [each.text for each in alarms]
    take_forecast(config, state, forecast_of("village", [5e5] * 8, made_ns=1, begin_ns=0))
    assert split(tick(config, state, 2))[1] is not None


def test_forecast_is_of_its_steps() -> None:
    config = config_of(storages={}, generators={})
    state = told(config)
    courses = {"wind": [k * 1e5 for k in range(8)], "village": [k * 1e4 for k in range(8)]}
    for name, values in courses.items():
        take_forecast(config, state, forecast_of(name, values, made_ns=1, begin_ns=-STEP_NS))
    _, plan, _ = split(tick(config, state, 1))
    assert plan is not None
    assert plan.available_w["wind"] == pytest.approx(courses["wind"][1:])
    assert plan.loads_w == pytest.approx(courses["village"][1:])


@pytest.mark.parametrize("values", [[], [math.nan] * 8, [math.inf] * 8, [1e308] * 8])
def test_forecast_that_cannot_be_used_is_refused_and_the_one_before_stays(values: list[float]) -> None:
    config = config_of()
    state = told(config)
    with pytest.raises(BadMessageError, match="the forecast of `active_power_w` of 'wind' has") as raised:
        take_forecast(config, state, forecast_of("wind", values, made_ns=1))
    assert raised.value.reason == "bad_forecast"
    assert split(tick(config, state, 1))[0][POWER].status == "ok"


def test_what_nobody_asked_for_is_not_kept() -> None:
    config = config_of()
    state = told(config)
    for number in range(100):
        take_forecast(config, state, forecast_of(f"other{number}", [1.0] * 8))
        take_prices(config, state, prices_of([1.0] * 100, begin_ns=10**18 + number))
    take_prices(config, state, samples_from_rows([(1 + k, "market", {PRICE: 1.0}) for k in range(20_000)]))
    tick(config, state, 2 * STEP_NS)
    assert len(state.forecasts.kept) == 2
    assert len(state.prices) == vpp_dispatch.PRICES_KEPT
    assert max(state.prices) < 10**18


def test_price_that_is_none_is_passed_over_and_counted() -> None:
    config = config_of()
    state = told(config)
    [letter] = take_prices(config, state, prices_of([1e12, math.inf, math.nan, -10_001.0, 70.0]))
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.count, letter.text) == ("bad_price", 3, "a price beyond 10000 EUR/MWh: 1e+12")
    _, plan, _ = split(tick(config, state, 0))
    assert plan is not None
    assert plan.prices_eur_per_mwh == (50.0, 90.0, 50.0, 90.0, 70.0, 90.0, 50.0, 90.0)


SUN = {"wind": Renewable(power=5e6), "sun": Renewable(power=15e6)}


def let_out_w(setpoints: dict[str, Setpoints]) -> float:
    """What generators and storage are told, and all that renewables may give."""
    return sum(setpoints[POWER].values.values()) + sum(setpoints[POWER_LIMIT].values.values())


def test_room_is_shared_where_forecasts_are_too_low() -> None:
    config = config_of(export_limit=8e6, renewables=SUN, storages={}, generators={})
    state = told(config)
    take_forecast(config, state, forecast_of("sun", [1.5e6] * 8))
    setpoints, _, _ = split(tick(config, state, 0))
    # 8 MW of room and 0.5 MW of load, less the 3.5 MW that are counted on: 1 to 3 as their power.
    assert setpoints[POWER_LIMIT].values == pytest.approx({"wind": 2e6 + 1.25e6, "sun": 1.5e6 + 3.75e6})
    assert setpoints[POWER_LIMIT].limits == {"wind": ("policy",), "sun": ("policy",)}


def test_connection_that_limits_renewables_is_hardware() -> None:
    config = config_of(connection=8e6, renewables=SUN, storages={}, generators={})
    setpoints, _, _ = split(tick(config, told(config), 0))
    assert let_out_w(setpoints | {POWER: setpoints[POWER_LIMIT]}) == pytest.approx(2 * 8.5e6)
    assert setpoints[POWER_LIMIT].limits["sun"] == ("hardware",)


def test_renewable_without_forecast_keeps_the_export_limit() -> None:
    config = config_of(export_limit=4e6, renewables=SUN)
    setpoints, plan, _ = split(tick(config, told(config, wind_w=4e6, prices=[200.0] * 8), 0))
    assert plan is not None
    assert let_out_w(setpoints) == pytest.approx(4.5e6)
    assert setpoints[POWER_LIMIT].values["wind"] >= plan.powers_w["wind"][0] - 1.0


def test_limit_by_price_stays_where_there_is_room() -> None:
    config = config_of(export_limit=8e6, renewables=SUN, storages={}, generators={}, loads=())
    state = told(config, prices=[-20.0] * 8)
    setpoints, _, _ = split(tick(config, state, 0))
    assert setpoints[POWER_LIMIT].values == pytest.approx({"wind": 0.0, "sun": 8e6})
    assert setpoints[POWER_LIMIT].limits == {"wind": ("price",), "sun": ("policy",)}


@pytest.mark.parametrize(("export_limit", "battery_w", "chp_w"), [(3e6, 5e5, 1e6), (2e6, 0.0, 5e5), (1.4e6, 0.0, 0.0)])
def test_plan_that_is_followed_keeps_a_lower_export_limit(export_limit: float, battery_w: float, chp_w: float) -> None:
    config = config_of()
    state = told(config, prices=[200.0, 200.0, 10.0, 10.0] * 2)
    first, _, _ = split(tick(config, state, 0))
    assert first[POWER].values == pytest.approx({"battery": 1e6, "chp": 1e6})
    state.prices.clear()
    lower = msgspec.structs.replace(config, export_limit=export_limit)
    setpoints, _, _ = split(tick(lower, state, S_NS))
    assert setpoints[POWER].status == "fallback"
    assert setpoints[POWER].values == pytest.approx({"battery": battery_w, "chp": chp_w})
    assert setpoints[POWER].limits["battery"] == ("policy",)
    assert let_out_w(setpoints) <= export_limit + 5e5 + 1.0


def test_plan_that_is_followed_counts_on_no_load_that_is_not_known() -> None:
    config = config_of()
    state = told(config, prices=[200.0] * 8)
    tick(config, state, 0)
    del state.forecasts.kept["village", POWER]
    setpoints, _, _ = split(tick(msgspec.structs.replace(config, export_limit=3e6), state, STEP_NS))
    assert setpoints[POWER].status == "fallback"
    assert let_out_w(setpoints) == pytest.approx(3e6)


def test_plan_that_is_followed_keeps_a_lower_import_limit() -> None:
    config = config_of(renewables={}, generators={})
    state = told(config, prices=[10.0, 200.0] * 4)
    first, _, _ = split(tick(config, state, 0))
    assert first[POWER].values == pytest.approx({"battery": -1e6})
    state.prices.clear()
    setpoints, _, _ = split(tick(msgspec.structs.replace(config, import_limit=8e5), state, S_NS))
    assert setpoints[POWER].values == pytest.approx({"battery": -3e5})
    assert setpoints[POWER].limits == {"battery": ("policy",)}


def test_shortfall_is_told_with_its_size() -> None:
    config = config_of(reserve=9e6)
    _, plan, alarms = split(tick(config, told(config), 0))
    assert plan is not None
    assert plan.shortfalls["reserve_w"] > 1e6
    assert [each.text.startswith("the plan falls short of reserve_w by up to ") for each in alarms] == [True]


def test_generator_that_runs_starts_no_more() -> None:
    config = config_of(generators={"chp": Generator(power=1e6, minimum=4e5, cost=60.0, start_cost=50.0)})
    state = told(config, prices=[90.0] * 8)
    first = split(tick(config, state, 0))[1]
    state.fresh = True
    again = split(tick(config, state, S_NS))[1]
    assert first is not None
    assert again is not None
    assert again.profit_eur == pytest.approx(first.profit_eur + 50.0)


def test_policy_takes_effect_at_the_next_turn() -> None:
    config = config_of(storages={}, generators={})
    state = told(config)
    tick(config, state, 0)
    changed = msgspec.structs.replace(config, export_limit=1e6)
    setpoints, _, _ = split(tick(changed, state, S_NS))
    assert setpoints[POWER_LIMIT].values["wind"] == pytest.approx(1.5e6)


@settings(max_examples=40)
@given(
    st.lists(st.floats(-100.0, 300.0), min_size=2, max_size=8),
    st.floats(0.0, 100.0),
    st.floats(0.0, 8e6),
    st.floats(0.0, 2e7),
)
def test_set_points_never_leave_the_hardware(
    prices: list[float], percent: float, wind_w: float, limit_w: float
) -> None:
    config = config_of(export_limit=limit_w, renewables=SUN)
    state = told(config, prices=prices, wind_w=wind_w)
    take_charge(config, state, charge_of(percent, time_ns=1))
    setpoints, _, _ = split(tick(config, state, 1))
    values = setpoints[POWER].values
    assert values["chp"] == 0.0 or 4e5 <= values["chp"] <= 1e6
    assert abs(values["battery"]) <= 1e6
    energy = percent / 100.0 * 2e6
    assert values["battery"] <= max(energy - 2e5, 0.0) * 0.95 * 4 + 1.0
    assert -values["battery"] <= max(1.8e6 - energy, 0.0) / 0.95 * 4 + 1.0
    assert 0.0 <= setpoints[POWER_LIMIT].values["wind"] <= 5e6
    assert let_out_w(setpoints) <= min(limit_w, 10e6) + 5e5 + 1.0


def test_state_survives_pickling() -> None:
    config = config_of()
    state = told(config)
    again: VppDispatchState = pickle.loads(pickle.dumps(state))
    first, second = split(tick(config, state, 0))[0], split(tick(config, again, 0))[0]
    assert first == second
