from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from voltage_cases import BRANCHES, NODES, STORAGE, Feeder, S, config, rows

from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Setpoints, ShadowSetpoints
from edgeflex_operators import voltage_control
from edgeflex_operators._inverters import Inverter
from edgeflex_operators._network import Branch
from edgeflex_operators._qp import Solver, SolverFailure
from edgeflex_operators._voltage_program import no_powers
from edgeflex_operators._voltage_state import (
    UNTIL_THE_NEXT,
    InForce,
    keep_voltage,
    take_available,
    take_in_force,
)

each_method = pytest.mark.parametrize(("method", "steps"), [("central", 6), ("distributed", 400)])


@each_method
def test_voltages_come_within_limits_and_stay_there(method: str, steps: int) -> None:
    feeder = Feeder(config(method=method))
    assert feeder.voltage.max() > 1.1
    for _ in range(steps):
        feeder.step()
    assert feeder.voltage.max() == pytest.approx(1.05, abs=1e-3)
    assert [alarm.text for alarm in feeder.alarms] == []


@pytest.mark.parametrize("error", [0.6, 1.5])
def test_model_that_is_wrong_is_corrected_by_measuring(error: float) -> None:
    feeder = Feeder(config(), error=error)
    for _ in range(15):
        feeder.step()
    assert feeder.voltage.max() == pytest.approx(1.05, abs=1e-3)


def test_low_voltages_are_raised_too() -> None:
    feeder = Feeder(config(), available_pu=0.1, base_pu=0.88)
    for _ in range(5):
        feeder.step()
    assert feeder.power("reactive_power_pu").sum() > 0
    assert feeder.told[-1].limits  # what decides is told
    feeder = Feeder(config(), available_pu=0.22, base_pu=0.99)
    feeder.step()
    assert "voltage_max" in feeder.told[-1].limits["n4"]


def test_nothing_is_asked_for_while_voltages_are_within_limits() -> None:
    feeder = Feeder(config(), available_pu=0.02)
    feeder.step()
    for quantity in ("reactive_power_pu", "active_power_pu"):
        assert np.abs(feeder.power(quantity)).max() < 1e-6


def test_reactive_power_comes_first_then_storage_and_curtailment_last() -> None:
    inverters = {n: Inverter(rated_power=24.0, min_power_factor=0.9, storage=STORAGE) for n in NODES}
    seen: list[tuple[bool, bool, bool]] = []
    for available_pu in np.linspace(0.04, 0.22, 12).tolist():
        feeder = Feeder(config(inverters=inverters), available_pu=available_pu)
        for _ in range(6):
            feeder.step(charge=50.0)
        used = (
            bool((np.abs(feeder.power("reactive_power_pu")) > 1e-4).any()),
            bool((feeder.power("active_power_ess_pu") < -1e-4).any()),
            bool((feeder.power("active_power_pu") < -1e-4).any()),
        )
        assert used in {(False, False, False), (True, False, False), (True, True, False), (True, True, True)}
        seen.append(used)
        assert feeder.voltage.max() < 1.0505
    assert seen == sorted(seen)
    assert seen[0] == (False, False, False)
    assert (True, True, False) in seen


@pytest.mark.parametrize(("charge", "charges"), [(50.0, True), (90.0, False), (None, False)])
def test_storage_charges_only_while_it_is_known_to_have_room(charge: float | None, charges: bool) -> None:
    inverters = {n: Inverter(rated_power=24.0, storage=STORAGE) for n in NODES}
    feeder = Feeder(config(inverters=inverters))
    for _ in range(4):
        feeder.step(charge=charge)
    assert bool((feeder.power("active_power_ess_pu") < -1e-6).any()) == charges
    assert feeder.voltage.max() < 1.0505


def test_inverters_stay_within_their_hardware_whatever_is_asked() -> None:
    feeder = Feeder(config(voltage_max=0.9, voltage_min=0.85))
    for _ in range(5):
        feeder.step()
        active = feeder.available_pu + feeder.power("active_power_pu")
        reactive = feeder.power("reactive_power_pu")
        assert (active >= -1e-9).all()
        assert (active**2 + reactive**2 <= 0.24**2 + 1e-9).all()
        most = min(math.tan(math.acos(0.9)) * feeder.available_pu, math.sqrt(0.24**2 - feeder.available_pu**2))
        assert (np.abs(reactive) <= most + 1e-9).all()


def test_set_points_change_no_faster_than_the_ramp_also_when_a_policy_moves_a_limit() -> None:
    slow = {n: Inverter(rated_power=24.0, min_power_factor=0.9, ramp=0.05) for n in NODES}
    feeder = Feeder(config(inverters=slow))
    before = {q: feeder.power(q) for q in ("reactive_power_pu", "active_power_pu")}
    for step in range(60):
        if step == 30:
            feeder.config = replace(feeder.config, voltage_max=1.02)
        feeder.step()
        for quantity, last in before.items():
            assert np.abs(feeder.power(quantity) - last).max() <= 0.05 * 0.24 + 1e-9
        before = {q: feeder.power(q) for q in before}
    assert feeder.voltage.max() == pytest.approx(1.02, abs=1e-3)


def test_power_that_fades_is_followed_at_once_whatever_the_ramp() -> None:
    slow = {n: Inverter(rated_power=24.0, min_power_factor=0.9, ramp=0.01) for n in NODES}
    feeder = Feeder(config(inverters=slow))
    for _ in range(40):
        feeder.step()
    feeder.available_pu = 0.01
    feeder.step()
    assert (np.abs(feeder.power("reactive_power_pu")) <= 0.49 * 0.01).all()


def test_limits_that_cannot_be_kept_are_missed_by_little_and_told_once() -> None:
    stiff = {n: Inverter(rated_power=24.0, curtailable=False) for n in NODES}
    feeder = Feeder(config(inverters=stiff))
    for _ in range(6):
        feeder.step()
    [alarm] = feeder.alarms
    assert "voltages cannot be kept within limits: n" in alarm.text
    assert "mpu" in alarm.text
    assert (feeder.power("reactive_power_pu") < -0.05).all()
    feeder.available_pu = 0.02
    for _ in range(4):
        feeder.step()
    assert [each.severity for each in feeder.alarms] == ["warning", "info"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (None, "n4: nothing came"),
        (math.nan, "n4: not a number"),
        (241.5, "n4: 241.5 is not plausible"),
    ],
)
def test_voltage_that_is_no_measurement_has_no_part_in_a_step(wrong: float | None, why: str) -> None:
    feeder = Feeder(config(needed=0.7))
    for _ in range(6):
        feeder.step(n4=wrong)
    assert why in feeder.alarms[-1].text
    assert feeder.told[-1].missing == ("n4",)
    assert feeder.voltage[:3].max() <= 1.051
    assert np.abs(feeder.power("reactive_power_pu")).max() > 0.05


def test_frozen_voltages_are_found_and_told() -> None:
    feeder = Feeder(config(frozen_after=5.0))
    for _ in range(10):
        feeder.step(n1=1.08, n2=1.08, n3=1.08, n4=1.08)
    assert "too few voltages are known" in feeder.alarms[-1].text
    assert "frozen at 1.08" in feeder.alarms[-1].text


def test_without_enough_voltages_inverters_follow_their_own() -> None:
    feeder = Feeder(config(max_age=2.0))
    for _ in range(5):
        feeder.step()
    curtailed = feeder.power("active_power_pu")
    for _ in range(4):
        feeder.step(n1=1.045, n2=None, n3=None, n4=None)
    assert feeder.told[-1].status == "fallback"
    assert "1 inverters follow Q(V) and 3 hold what they had" in feeder.alarms[-1].text
    assert feeder.power("active_power_pu") == pytest.approx(curtailed, abs=1e-6)
    share = voltage_control.local_share(1.045)
    feeds = feeder.available_pu + curtailed[0]
    assert feeder.power("reactive_power_pu")[0] == pytest.approx(share * math.tan(math.acos(0.9)) * feeds)


def test_held_set_points_end_in_the_safe_state() -> None:
    feeder = Feeder(config(max_age=2.0, hold_for=10.0))
    for _ in range(5):
        feeder.step()
    for _ in range(20):
        feeder.step(n1=None, n2=None, n3=None, n4=None)
    assert "4 are in the safe state" in feeder.alarms[-1].text
    assert not feeder.power("reactive_power_pu").any()
    assert not feeder.power("active_power_pu").any()
    for _ in range(4):
        feeder.step()
    assert "in normal operation again" in feeder.alarms[-1].text


def test_nothing_is_sent_before_anything_was_measured() -> None:
    feeder = Feeder(config(max_age=3.0))
    feeder.take(voltage_control.tick(feeder.config, feeder.state, 100 * 10**9))
    feeder.take(voltage_control.tick(feeder.config, feeder.state, 102 * 10**9))
    assert (feeder.told, feeder.alarms) == ([], [])
    feeder.take(voltage_control.tick(feeder.config, feeder.state, 104 * 10**9))
    assert "too few voltages are known" in feeder.alarms[-1].text


def test_solver_that_fails_holds_the_set_points_then_leaves_the_local_characteristic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feeder = Feeder(config(hold_for=3.0))
    for _ in range(5):
        feeder.step()
    held = {quantity: dict(values) for quantity, values in feeder.applied.items()}

    def fail(*_: object) -> None:
        raise SolverFailure("no solution after the most iterations allowed")

    monkeypatch.setattr(Solver, "solve", fail)
    feeder.step()
    assert "the solver failed: set-points are held: no solution after the most" in feeder.alarms[-1].text
    assert feeder.told[-1].status == "fallback"
    assert feeder.applied == held
    for _ in range(3):
        feeder.step()
    assert "the solver failed: 4 inverters follow Q(V)" in feeder.alarms[-1].text
    assert (feeder.power("reactive_power_pu") <= 0).all()


def test_measurement_from_before_the_last_set_points_is_not_taken_for_their_effect() -> None:
    quick = {n: Inverter(rated_power=24.0, min_power_factor=0.9, ramp=100.0) for n in NODES}
    prompt, late = Feeder(config()), Feeder(config(period=0.1, inverters=quick))
    prompt.step()
    late.step()
    # The voltages come again as they were before anything was done.
    was = dict(zip(NODES, Feeder(config()).voltage.tolist(), strict=True))
    late.now_ns += 100_000_000
    state, settings = late.state, late.config
    again = rows(late.now_ns, {n: {"voltage_pu": v} for n, v in was.items()})
    assert voltage_control.take_voltage(settings, state, again) == []  # no step is made of it by itself
    told = voltage_control.tick(settings, state, late.now_ns)
    [reactive, *_] = [each for each in told if isinstance(each, Setpoints)]
    assert reactive.values == pytest.approx(prompt.applied["reactive_power_pu"], abs=0.01)


def test_in_shadow_nothing_is_told_that_an_asset_would_obey() -> None:
    feeder = Feeder(config(mode="shadow"))
    feeder.step()
    assert {type(each) for each in feeder.told} == {ShadowSetpoints}
    wire = voltage_control.NODE.output(feeder.config, {})
    assert Setpoints not in wire.messages


def test_in_shadow_what_nobody_does_is_not_taken_for_done() -> None:
    feeder = Feeder(config(mode="shadow"))
    for _ in range(20):
        feeder.step()
    curtailed = [each.values for each in feeder.told if each.quantity == "active_power_pu"]
    assert curtailed[-1] == pytest.approx(curtailed[0], abs=1e-6)
    assert 0.05 < -sum(curtailed[0].values()) < 0.88  # of all that is fed in


def test_in_shadow_a_controller_beside_the_one_in_force_decides_the_same() -> None:
    feeder = Feeder(config())
    beside = config(name="other", mode="shadow")
    state = voltage_control.start(beside)
    shadows: list[ShadowSetpoints] = []
    for _ in range(10):
        heard = len(feeder.told)
        feeder.step()
        for told in feeder.told[heard:]:
            assert isinstance(told, Setpoints)
            take_in_force(beside, state, told)
        later_ns = feeder.now_ns + 6 * S // 10
        take_available(beside, state, rows(later_ns, {name: {"available_power_pu": 0.22} for name in feeder.names}))
        voltages = zip(beside.nodes, feeder.voltage.tolist(), strict=True)
        measured = rows(later_ns, {node: {"voltage_pu": value} for node, value in voltages})
        told_now = voltage_control.take_voltage(beside, state, measured)
        shadows += [each for each in told_now if isinstance(each, ShadowSetpoints)]
    for quantity, applied in feeder.applied.items():
        [*_, shadow] = [each.values for each in shadows if each.quantity == quantity]
        assert shadow == pytest.approx(applied, abs=1e-3)


def test_set_points_of_another_that_have_expired_are_not_in_force() -> None:
    settings = config(mode="shadow")
    state = voltage_control.start(settings)
    values = dict.fromkeys(settings.inverters, -0.05)
    told = Setpoints(
        controller="other", time_ns=10 * S, quantity="reactive_power_pu", values=values, valid_for_s=5.0, status="ok"
    )
    take_in_force(settings, state, told)
    at = {seconds: float(state.in_force(seconds * S).reactive.sum()) for seconds in (9, 10, 15, 16)}
    assert at == pytest.approx({9: 0.0, 10: -0.2, 15: -0.2, 16: 0.0})


def test_set_points_say_why() -> None:
    feeder = Feeder(config())
    feeder.step()
    told = feeder.told[0]
    assert (told.measured_begin_ns, told.measured_end_ns) == (feeder.now_ns, feeder.now_ns)
    assert told.valid_for_s == 10.0
    assert len(told.config_digest) == 16
    assert told.limits["n4"]
    before = told.config_digest
    feeder.config = replace(feeder.config, voltage_max=1.04)
    feeder.step()
    assert feeder.told[-1].config_digest != before


def test_flow_that_ends_leaves_the_safe_state() -> None:
    feeder = Feeder(config())
    feeder.step()
    told = voltage_control.end(feeder.config, feeder.state)
    assert [(each.status, set(each.values.values())) for each in told if isinstance(each, Setpoints)] == [
        ("safe", {0.0}),
        ("safe", {0.0}),
    ]


def test_state_passes_to_another_process() -> None:
    feeder = Feeder(config())
    feeder.step()
    feeder.state = pickle.loads(pickle.dumps(feeder.state))
    for _ in range(5):
        feeder.step()
    assert feeder.voltage.max() == pytest.approx(1.05, abs=1e-3)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"voltage_min": 1.1}, "voltage_min \\(1.1 pu\\) is not below voltage_max"),
        ({"branches": None}, "give either `branches` or `sensitivities`"),
        ({"inverters": {"n9": Inverter(rated_power=1.0)}}, "node 'n9', which the grid does not have; known: n1, n2"),
        (
            {"branches": {**BRANCHES, "x": Branch(from_="grid", to="n2", resistance=0.1, reactance=0.1)}},
            "branch 'x': node 'n2' is fed by 'line_1' already",
        ),
        (
            {"branches": {**BRANCHES, "x": Branch(from_="b", to="c", resistance=0.1, reactance=0.1)}},
            "branches begin at several feeding points: b, grid",
        ),
        ({"valid_for": 0.5}, "set-points would expire before the next ones come"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config(**wrong)


# Faults that once made it hunt, wind up, or go on with what was -----------------------------------------------------


@pytest.mark.parametrize("late_s", [0.5, 1.0, 3.0])
def test_one_late_meter_does_not_make_voltages_hunt(late_s: float) -> None:
    feeder = Feeder(config())
    before: list[float] = []
    highest: list[float] = []
    for _ in range(60):
        before.append(float(feeder.voltage[3]))
        late_ns = feeder.now_ns + S // 2 - round(late_s * S)
        old = before[max(len(before) - 1 - round(2.0 * late_s), 0)]
        feeder.step(seconds=0.5, late={"n4": (late_ns, old)})
        highest.append(float(feeder.voltage.max()))
    assert max(highest[20:]) == pytest.approx(1.05, abs=1e-3)
    assert min(highest[20:]) == pytest.approx(1.05, abs=1e-3)


def test_effect_of_set_points_is_looked_for_once_they_have_settled() -> None:
    state = voltage_control.start(config(settle=0.5, max_age=30.0))
    for told_s, reactive in ((10, -0.05), (20, -0.1)):
        powers = no_powers(len(NODES))._replace(reactive=np.full(len(NODES), reactive))
        state.told.append(InForce(told_s * S, UNTIL_THE_NEXT, powers))
    measured = {"n1": 20.4, "n2": 20.6, "n3": 10.4, "n4": 10.6}
    for node, seconds in measured.items():
        keep_voltage(state.config, state, rows(round(seconds * S), {node: {"voltage_pu": 1.04}}))
    effects = state.effects(state.config, state.look(state.config, 21 * S))
    per_pu = state.program.effect(no_powers(len(NODES))._replace(reactive=np.full(len(NODES), 1.0)))
    assert effects / per_pu == pytest.approx([-0.05, -0.1, 0.0, -0.05])


def test_clock_that_is_set_back_changes_nothing_for_long() -> None:
    feeder = Feeder(config())
    for _ in range(5):
        feeder.step()
    feeder.now_ns -= 3600 * S
    told = len(feeder.told)
    for _ in range(10):
        feeder.step()
    assert len(feeder.told) - told >= 10
    assert feeder.voltage.max() == pytest.approx(1.05, abs=1e-3)


def test_storage_and_sun_together_stay_within_the_rated_power() -> None:
    inverters = {n: Inverter(rated_power=24.0, min_power_factor=0.9, storage=STORAGE) for n in NODES}
    feeder = Feeder(config(inverters=inverters), available_pu=0.2, base_pu=0.86)
    for _ in range(10):
        feeder.step(charge=80.0)
    active = 0.2 + feeder.power("active_power_pu") + feeder.power("active_power_ess_pu")
    assert np.hypot(active, feeder.power("reactive_power_pu")).max() <= 0.24 + 1e-9
    assert feeder.power("reactive_power_pu").min() > 0.05


def test_what_was_asked_of_an_inverter_whose_power_is_unknown_is_dropped_after_a_while() -> None:
    feeder = Feeder(config(hold_for=20.0))
    for _ in range(5):
        feeder.step()
    asked = feeder.power("active_power_pu")[3]
    assert asked < -0.05
    for second in range(40):
        feeder.now_ns += S
        voltages = zip(feeder.config.nodes, feeder.voltage.tolist(), strict=True)
        known = {name: {"available_power_pu": 0.22} for name in feeder.names[:3]}
        feeder.take(take_available(feeder.config, feeder.state, rows(feeder.now_ns, known)))
        measured = rows(feeder.now_ns, {node: {"voltage_pu": value} for node, value in voltages})
        feeder.take(voltage_control.take_voltage(feeder.config, feeder.state, measured))
        feeder.take(voltage_control.tick(feeder.config, feeder.state, feeder.now_ns))
        if second == 10:
            assert feeder.power("active_power_pu")[3] == pytest.approx(asked)
    assert feeder.power("active_power_pu")[3] == 0.0
    assert feeder.power("reactive_power_pu")[3] == 0.0
    assert any("measurements of n4 are missing" in alarm.text for alarm in feeder.alarms)


def test_storage_without_a_state_of_charge_is_not_used_and_that_is_told() -> None:
    inverters = {n: Inverter(rated_power=24.0, min_power_factor=0.9, storage=STORAGE) for n in NODES}
    feeder = Feeder(config(inverters=inverters))
    for _ in range(5):
        feeder.step()
    assert feeder.power("active_power_ess_pu") == pytest.approx(0.0)
    assert any("storages of n1, n2, n3, n4 are not used" in alarm.text for alarm in feeder.alarms)


def test_prices_of_dual_ascent_do_not_wind_up_while_nobody_can_follow() -> None:
    feeder = Feeder(config(method="distributed"), base_pu=1.08)
    for _ in range(3000):
        feeder.step()
    assert feeder.voltage.max() > 1.06
    feeder.base_pu = 1.0
    steps = 0
    while feeder.power("active_power_pu").sum() < -0.6 and steps < 400:
        feeder.step()
        steps += 1
    assert steps < 400


def test_prices_of_dual_ascent_stay_where_nothing_new_was_measured() -> None:
    feeder = Feeder(config(method="distributed"))
    feeder.step()
    price = feeder.state.dual.high.copy()
    for later in range(1, 4):
        feeder.take(voltage_control.tick(feeder.config, feeder.state, feeder.now_ns + later * S))
    assert feeder.state.dual.high == pytest.approx(price)


def test_power_in_another_unit_is_not_relied_on() -> None:
    feeder = Feeder(config())
    feeder.available_pu = 220.0
    feeder.now_ns += S
    told = {name: {"available_power_pu": 220.0} for name in feeder.names}
    take_available(feeder.config, feeder.state, rows(feeder.now_ns, told))
    assert set(feeder.state.look(feeder.config, feeder.now_ns).available.missing) == set(feeder.names)
