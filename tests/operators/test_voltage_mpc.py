from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from voltage_cases import BRANCHES, NODES, STORAGE, rows

from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Alarm, FlexRequest, FlexResponse, Forecast, Setpoints, ShadowSetpoints
from edgeflex_flow.node import WireMessage
from edgeflex_operators import voltage_mpc
from edgeflex_operators._inverters import Inverter
from edgeflex_operators._qp import Solver, SolverFailure
from edgeflex_operators._voltage_horizon import Outlook
from edgeflex_operators._voltage_state import take_available, take_charge
from edgeflex_operators.voltage_mpc import VoltageMpcConfig

S = 1_000_000_000
STEP_S = 900.0


def config(**fields: Any) -> VoltageMpcConfig:
    settings: dict[str, Any] = {
        "name": "mpc",
        "branches": BRANCHES,
        "inverters": {n: Inverter(rated_power=24.0, min_power_factor=0.9, storage=STORAGE) for n in NODES},
        "power_base": 100.0,
        "horizon": 12,
        "period": STEP_S,
        "valid_for": 1800.0,
        "frozen_after": 80_000.0,
        "caution": 0.0,
        "hold_for": 1000.0,
    }
    return VoltageMpcConfig(**{**settings, **fields})


class Day:
    """A feeder whose sun follows `sun_pu`, a value for each step, with the controller around it."""

    def __init__(self, settings: VoltageMpcConfig, sun_pu: list[float], *, known: bool = True) -> None:
        self.config = settings
        self.state = voltage_mpc.start(settings)
        self.sun_pu = sun_pu
        self.known = known
        self.number = 0
        self.charge = np.full(len(NODES), 20.0)
        self.powers: dict[str, dict[str, float]] = {}
        self.highest: list[float] = []
        self.curtailed = 0.0
        self.told: list[WireMessage] = []

    @property
    def now_ns(self) -> int:
        return round(1e6 * S + self.number * STEP_S * S)

    def power(self, quantity: str) -> Any:
        return np.array([self.powers.get(quantity, {}).get(name, 0.0) for name in NODES])

    def voltage(self, sun_pu: float) -> Any:
        resistance, reactance = self.config.sensitivities_to(NODES)
        active = sun_pu + self.power("active_power_pu") + self.power("active_power_ess_pu")
        return 1.0 + resistance @ active + reactance @ self.power("reactive_power_pu")

    def decide(self, later_s: float = 0.0, *, measures: bool = True) -> None:
        """Measure and decide, so long after the step has begun."""
        sun_pu, state, settings = self.sun_pu[self.number], self.state, self.config
        now_ns = self.now_ns + round(later_s * S)
        if measures:
            self.measure(sun_pu, now_ns)
        for name in NODES if self.known else ():
            voltage_mpc.take_forecast(settings, state, self.forecast(name))
        self.take(voltage_mpc.tick(settings, state, now_ns))

    def measure(self, sun_pu: float, now_ns: int) -> None:
        state, settings = self.state, self.config
        measured = dict(zip(NODES, self.voltage(sun_pu).tolist(), strict=True))
        voltages = {n: {"voltage_pu": v} for n, v in measured.items()}
        suns = {n: {"available_power_pu": sun_pu} for n in NODES}
        charges = {n: {"state_of_charge_percent": v} for n, v in zip(NODES, self.charge.tolist(), strict=True)}
        voltage_mpc.take_voltage(settings, state, rows(now_ns, voltages))
        take_available(settings, state, rows(now_ns, suns))
        take_charge(settings, state, rows(now_ns, charges))

    def step(self) -> None:
        """Measure, decide, then let the step pass."""
        self.decide()
        sun_pu = self.sun_pu[self.number]
        self.highest.append(float(self.voltage(sun_pu).max()))
        self.curtailed -= float(self.power("active_power_pu").sum())
        stored = self.power("active_power_ess_pu") * 100.0
        hours = STEP_S / 3600.0
        self.charge -= 100.0 * hours * np.where(stored > 0, stored / 0.95, stored * 0.95) / STORAGE.capacity
        self.number += 1

    def forecast(self, name: str) -> Forecast:
        return Forecast(
            device=name,
            quantity="available_power_pu",
            time_ns=self.now_ns,
            begin_ns=self.now_ns,
            step_s=STEP_S,
            values=tuple(self.sun_pu[self.number :]),
            method="perfect",
            status="ok",
        )

    def take(self, messages: list[WireMessage]) -> None:
        self.told += messages
        for message in messages:
            if isinstance(message, Setpoints):
                self.powers[message.quantity] = message.values

    def alarms(self) -> list[str]:
        return [each.text for each in self.told if isinstance(each, Alarm)]


SUN = [*np.linspace(0.08, 0.22, 8).tolist(), *[0.22] * 8, *np.linspace(0.22, 0.05, 8).tolist()]


def run(day: Day, steps: int = 20) -> Day:
    for _ in range(steps):
        day.step()
    return day


def test_voltages_stay_within_limits_over_a_day() -> None:
    day = run(Day(config(), SUN))
    assert max(day.highest) < 1.0505
    assert day.alarms() == []
    assert (day.charge <= 90.0 + 1e-3).all()


def test_storages_are_kept_for_when_they_spare_most() -> None:
    blind = run(Day(config(horizon=1), SUN))
    foresighted = run(Day(config(), SUN))
    assert foresighted.curtailed < 0.9 * blind.curtailed


def test_without_a_forecast_what_is_available_is_to_stay_and_that_is_told() -> None:
    day = run(Day(config(), SUN, known=False), 8)
    assert max(day.highest) < 1.0505
    assert day.alarms()[0].startswith("not in normal operation: forecasts of n1, n2, n3, n4 are missing")


def test_caution_keeps_a_distance_in_later_steps_alone() -> None:
    day = Day(config(caution=1.0), SUN)
    forecast = day.forecast("n1")
    for name in NODES:
        above = tuple(value + 0.02 for value in forecast.values)
        uncertain: dict[str, Any] = {"device": name, "quantiles": {"0.9": above}}
        voltage_mpc.take_forecast(day.config, day.state, replace(forecast, **uncertain))
    day.known = False
    day.step()
    expected = day.state.forecasts.expected("n1", "available_power_pu", day.now_ns, round(STEP_S * S), 12, 10**15)
    assert not isinstance(expected, str)
    assert expected.above == pytest.approx(np.full(12, 0.02))


def outlook_of(day: Day, *forecasts: Forecast) -> Outlook:
    """What the plan would rest on now."""
    day.measure(day.sun_pu[day.number], day.now_ns)
    for each in forecasts:
        voltage_mpc.take_forecast(day.config, day.state, each)
    seen = day.state.look(day.config, day.now_ns)
    return voltage_mpc._outlook(day.config, day.state, day.now_ns, seen)[0]


def test_voltages_to_come_follow_from_the_sun_and_the_loads_that_are_forecast() -> None:
    day = Day(config(), SUN, known=False)
    sun = day.forecast("n2")
    load = replace(sun, device="n3", quantity="load_power_pu", values=(0.01, 0.04, *[0.02] * 22))
    found = outlook_of(day, sun, load)
    resistance, _ = day.config.sensitivities_to(NODES)
    sun_now, sun_next = SUN[0], SUN[1]
    expected = resistance[:, 1] * (sun_next - sun_now) - resistance[:, 2] * 0.03
    assert found.voltage[1] - found.voltage[0] == pytest.approx(expected)
    assert found.available[:3, 1] == pytest.approx(SUN[:3])


def test_caution_moves_the_limits_by_a_share_of_what_may_come_on_top() -> None:
    day = Day(config(caution=0.5), SUN, known=False)
    forecast = day.forecast("n2")
    above = tuple(value + 0.02 for value in forecast.values)
    found = outlook_of(day, replace(forecast, quantiles={"0.9": above}))
    resistance, _ = day.config.sensitivities_to(NODES)
    assert found.margin[0] == pytest.approx(np.zeros(4))
    assert found.margin[1] == pytest.approx(0.5 * 0.02 * resistance[:, 1])


def test_forecast_that_is_too_old_is_none() -> None:
    day = Day(config(forecast_age=3600.0), SUN, known=False)
    old = replace(day.forecast("n2"), time_ns=day.now_ns - 3601 * S)
    day.number = 0
    for each in (old, *(day.forecast(name) for name in ("n1", "n3", "n4"))):
        voltage_mpc.take_forecast(day.config, day.state, each)
    day.step()
    assert "forecasts of n2 are missing" in day.alarms()[0]
    assert "n2: its forecast is 3601 s old" in day.alarms()[0]


def test_missing_voltages_hold_the_set_points_then_the_safe_state() -> None:
    day = run(Day(config(), SUN), 10)
    held = dict(day.powers["reactive_power_pu"])
    for number in range(3):
        now_ns = day.now_ns + round(number * STEP_S * S)
        day.take(voltage_mpc.tick(day.config, day.state, now_ns))
        if number == 0:
            assert day.powers["reactive_power_pu"] == held
    assert "set-points are held" in day.alarms()[0]
    assert "the safe state holds" in day.alarms()[-1]
    assert set(day.powers["reactive_power_pu"].values()) == {0.0}


def test_solver_that_fails_holds_the_set_points_with_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    day = run(Day(config(), SUN), 6)
    held = dict(day.powers["reactive_power_pu"])

    def fail(*_: object) -> None:
        raise SolverFailure("no solution after the most iterations allowed")

    monkeypatch.setattr(Solver, "solve", fail)
    day.step()
    assert day.powers["reactive_power_pu"] == held
    assert "the solver failed: set-points are held: no solution after" in day.alarms()[-1]


def test_in_shadow_nothing_is_told_that_an_asset_would_obey() -> None:
    day = run(Day(config(mode="shadow"), SUN), 1)
    assert {type(each) for each in day.told} == {ShadowSetpoints}


def test_in_shadow_no_market_is_asked() -> None:
    day = run(Day(config(mode="shadow", market={"n3": 3, "n4": 4}), SUN), 6)
    assert {type(each) for each in day.told} == {ShadowSetpoints}
    assert voltage_mpc.NODE.output(day.config, {}).messages == {ShadowSetpoints, Alarm}


def test_flow_that_ends_leaves_the_safe_state() -> None:
    day = run(Day(config(), SUN), 2)
    assert {each.status for each in voltage_mpc.end(day.config, day.state) if isinstance(each, Setpoints)} == {"safe"}


def test_state_passes_to_another_process() -> None:
    day = run(Day(config(), SUN), 2)
    day.state = pickle.loads(pickle.dumps(day.state))
    assert max(run(day, 4).highest) < 1.0505


# The market ---------------------------------------------------------------------------------------------------------


def asked(**fields: Any) -> tuple[Day, FlexRequest]:
    """A day at noon whose flexibility of n3 and n4 was asked for."""
    day = Day(config(market={"n3": 3, "n4": 4}, answer_within=30.0, **fields), [0.22] * 24)
    day.decide()
    [request] = [each for each in day.told if isinstance(each, FlexRequest)]
    return day, request


def answer(day: Day, request: FlexRequest, values: dict[str, tuple[float, ...]], **fields: Any) -> None:
    given = {"variable": "active_power", "nodes": (3, 4), "unit": "kW", "request_id": request.id, **fields}
    day.take(voltage_mpc.take_response(day.config, day.state, FlexResponse(flex_response=values, **given)))


def changes(day: Day) -> Any:
    """Of the active power of each node, kW."""
    return 100.0 * (day.power("active_power_pu") + day.power("active_power_ess_pu"))


def test_market_is_asked_for_what_the_plan_counts_on() -> None:
    _, request = asked()
    assert (request.variable, request.nodes, request.unit, request.step_s) == ("active_power", (3, 4), "kW", 900.0)
    assert len(request.flex_request) == 12
    assert min(request.flex_request["prediction 1"]) < -1.0


def test_what_the_market_gives_holds_and_the_others_do_the_rest() -> None:
    day, request = asked()
    half = {name: tuple(0.5 * value for value in values) for name, values in request.flex_request.items()}
    answer(day, request, half)
    day.decide(2.0)
    assert changes(day)[2:] == pytest.approx(half["prediction 1"], abs=0.05)
    assert day.voltage(0.22).max() < 1.051
    # The others could not keep the voltages alone, as long as nothing was given.
    assert ["cannot be kept" in text for text in day.alarms()] == [True]


def test_while_the_market_thinks_its_nodes_go_on_and_the_others_keep_the_voltages() -> None:
    day, request = asked(period=5.0)
    answer(day, request, request.flex_request)
    day.decide(2.0)
    given = changes(day)[2:]
    day.number += 1
    for second in (0.0, 6.0, 12.0, 18.0, 24.0):
        day.decide(second)
        assert day.voltage(0.22).max() < 1.051
    assert sum(isinstance(each, FlexRequest) for each in day.told) == 2
    assert changes(day)[2:] == pytest.approx(given, abs=0.5)


def test_what_was_given_ends_with_its_step() -> None:
    day, request = asked()
    answer(day, request, request.flex_request)
    day.decide(2.0)
    assert day.state.given is not None
    day.number += 1
    day.decide()
    assert day.state.given is None
    assert len([each for each in day.told if isinstance(each, FlexRequest)]) == 2


def test_answer_does_not_bring_back_what_was_measured_when_it_was_asked() -> None:
    day, request = asked(max_age=10.0)
    answer(day, request, request.flex_request)
    day.decide(20.0, measures=False)
    assert "measurements are missing: set-points are held" in day.alarms()[-1]
    told = [each for each in day.told if isinstance(each, Setpoints)][-1]
    assert told.time_ns == day.now_ns + 20 * S
    assert told.status == "fallback"


def test_set_points_after_an_answer_count_from_when_they_were_told() -> None:
    day, request = asked(max_age=100.0)
    day.measure(0.22, day.now_ns + 15 * S)
    answer(day, request, request.flex_request)
    voltages = []
    for second in (20.0, 35.0, 50.0):
        day.decide(second)
        voltages.append(float(day.voltage(0.22).max()))
    assert voltages == pytest.approx([1.05, 1.05, 1.05], abs=1e-3)


def test_answer_out_of_bounds_is_cut_and_told() -> None:
    day, request = asked()
    answer(day, request, dict.fromkeys(request.flex_request, (-99.0, 99.0)))
    day.decide(2.0)
    assert changes(day)[2] == pytest.approx(request.flex_request["prediction 1"][0], abs=0.1)
    assert changes(day)[3] == pytest.approx(0.0, abs=0.1)
    assert day.alarms()


def test_without_an_answer_the_market_does_nothing_and_that_is_an_alarm() -> None:
    day, _ = asked()
    for second in (1.0, 10.0, 40.0, 41.0):
        day.decide(second)
    # Only for voltages that the others cannot keep alone.
    assert changes(day)[2:] == pytest.approx([0.0, 0.0], abs=1.0)
    assert any("no answer within 30 s" in text for text in day.alarms())
    assert day.powers["reactive_power_pu"]["n1"] < -0.05


def test_answer_that_comes_too_late_is_refused_and_told() -> None:
    day, request = asked()
    for second in (1.0, 40.0):
        day.decide(second)
    before = changes(day)
    answer(day, request, request.flex_request)
    day.decide(41.0)
    assert changes(day) == pytest.approx(before)
    assert any("an answer is refused" in text for text in day.alarms())


@pytest.mark.parametrize("steps", [6, 18])
def test_horizon_that_a_policy_changes_is_asked_for_anew(steps: int) -> None:
    day, request = asked(max_age=1000.0)
    answer(day, request, request.flex_request)
    day.decide(100.0)
    day.config = replace(day.config, horizon=steps)
    day.decide(200.0)
    anew = [each for each in day.told if isinstance(each, FlexRequest)][-1]
    assert len(anew.flex_request) == steps
    answer(day, anew, anew.flex_request)
    day.decide(202.0)
    assert day.voltage(0.22).max() < 1.051


def test_bounds_that_a_policy_changes_while_the_market_thinks_are_kept_at_once() -> None:
    day, request = asked()
    day.config = replace(day.config, voltage_max=1.03)
    day.decide(2.0)
    answer(day, request, request.flex_request)
    day.decide(4.0)
    assert day.voltage(0.22).max() < 1.031


def test_answer_for_another_horizon_is_refused_and_told() -> None:
    day, request = asked()
    day.config = replace(day.config, horizon=6)
    answer(day, request, request.flex_request)
    assert any("an answer is refused" in text for text in day.alarms())


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"period": 1000.0}, "period \\(1000 s\\) is longer than step"),
        ({"market": {"n9": 9}}, "market: no inverter is called 'n9'"),
        ({"market": {"n1": 1}, "answer_within": 900.0}, "is not shorter than step"),
        ({"market": {"n1": 1, "n2": 1}}, "n1 and n2 are one node"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config(**wrong)
