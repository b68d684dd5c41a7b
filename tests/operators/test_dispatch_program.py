"""Plans beside what enumeration and dynamic programming find, and what holds for every plan."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeflex_operators import _dispatch_program
from edgeflex_operators._dispatch_program import Array, Generator, NoPlanError, Plan, Storage, Task, dispatch

HOUR_S = 3600.0


def task_of(prices: list[float], **changes: Any) -> Task:
    steps = len(prices)
    empty: dict[str, Any] = {
        "step_s": HOUR_S,
        "prices": np.array(prices),
        "import_fee": 0.0,
        "generators": {},
        "running": frozenset(),
        "storages": {},
        "energies_wh": {},
        "renewables_w": {},
        "load_w": np.zeros(steps),
        "export_limit_w": 1e9,
        "import_limit_w": 1e9,
    }
    return Task(**{**empty, **changes})


def best_of_all_patterns(prices: list[float], generator: Generator, *, runs: bool) -> float:
    """Profit of the best of all ways to switch a generator that nothing else binds, steps of an hour."""
    best = -math.inf
    for pattern in itertools.product((False, True), repeat=len(prices)):
        profit, before = 0.0, runs
        for price, on in zip(prices, pattern, strict=True):
            power_w = (generator.power if price > generator.cost else generator.minimum) if on else 0.0
            profit += (price - generator.cost) * power_w * 1e-6 - generator.running_cost * on
            profit -= generator.start_cost * (on and not before)
            before = on
        best = max(best, profit)
    return best


@settings(max_examples=60)
@given(
    st.lists(st.floats(-50.0, 200.0), min_size=1, max_size=7),
    st.floats(0.0, 100.0),
    st.floats(0.0, 30.0),
    st.floats(0.0, 100.0),
    st.floats(0.0, 1.0),
    st.booleans(),
)
def test_generator_is_switched_as_the_best_of_all_patterns(
    prices: list[float], cost: float, running: float, start: float, least: float, runs: bool
) -> None:
    generator = Generator(power=1e6, minimum=least * 1e6, cost=cost, running_cost=running, start_cost=start)
    plan = dispatch(task_of(prices, generators={"G": generator}, running=frozenset({"G"} if runs else ()), gap=1e-6))
    assert plan.profit_eur == pytest.approx(best_of_all_patterns(prices, generator, runs=runs), rel=1e-4, abs=1e-3)


def best_of_grid(prices: list[float], begin: int, top: int) -> float:
    """Profit of a lossless storage that moves 1 MWh an hour, by dynamic programming over whole MWh."""
    value = {level: 0.0 if level >= begin else -math.inf for level in range(top + 1)}
    for price in reversed(prices):
        value = {
            level: max(
                value[after] + price * (level - after) for after in range(max(level - 1, 0), min(level + 1, top) + 1)
            )
            for level in value
        }
    return value[begin]


@settings(max_examples=60)
@given(st.lists(st.floats(-50.0, 200.0), min_size=1, max_size=10), st.integers(0, 3))
def test_storage_is_used_as_dynamic_programming_does(prices: list[float], begin: int) -> None:
    storage = Storage(power=1e6, energy=3e6, efficiency=1.0, lowest=0.0, highest=1.0, wear_cost=0.0)
    plan = dispatch(task_of(prices, storages={"B": storage}, energies_wh={"B": begin * 1e6}))
    assert plan.profit_eur == pytest.approx(best_of_grid(prices, begin, 3), rel=1e-4, abs=1e-3)


def random_task(seed: int) -> Task:
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(2, 20))
    storages = {
        f"B{number}": Storage(
            power=1e6 * rng.uniform(0.1, 2.0), energy=1e6 * rng.uniform(0.2, 4.0), efficiency=rng.uniform(0.7, 1.0)
        )
        for number in range(rng.integers(0, 3))
    }
    generators = {
        f"G{number}": Generator(
            power=2e6,
            minimum=2e6 * rng.uniform(0.0, 0.8),
            cost=rng.uniform(20.0, 120.0),
            start_cost=rng.uniform(0, 300),
        )
        for number in range(rng.integers(0, 3))
    }
    return task_of(
        rng.normal(60.0, 60.0, steps).tolist(),
        step_s=900.0,
        import_fee=rng.uniform(0.0, 50.0),
        generators=generators,
        storages=storages,
        energies_wh={name: rng.uniform(0.0, 1.0) * each.energy for name, each in storages.items()},
        renewables_w={"W": rng.uniform(0.0, 5e6, steps)},
        load_w=rng.uniform(0.0, 3e6, steps),
        export_limit_w=rng.uniform(0.0, 6e6),
        import_limit_w=rng.uniform(0.0, 6e6),
        reserve_w=float(rng.choice([0.0, 1e6])),
    )


def assert_keeps_its_limits(task: Task, plan: Plan) -> None:
    near = 100.0  # W or Wh of some MW
    hours = task.step_s / 3600.0
    total: Array = -task.load_w
    for power in plan.powers_w.values():
        total = total + power
    np.testing.assert_allclose(plan.exchange_w, total, atol=near)
    assert (plan.exchange_w <= task.export_limit_w + near).all()
    beyond = plan.shortfalls.get("import_limit_w", 0.0)
    assert (-plan.exchange_w <= task.import_limit_w + beyond + near).all()
    for name, generator in task.generators.items():
        power = plan.powers_w[name]
        assert ((power <= near) | (power >= generator.minimum - near)).all()
        assert (power <= generator.power + near).all()
    for name, storage in task.storages.items():
        power, now = plan.powers_w[name], task.energies_wh[name]
        assert (np.abs(power) <= storage.power + near).all()
        change = np.where(power > 0.0, power / storage.efficiency, power * storage.efficiency)
        np.testing.assert_allclose(plan.energies_wh[name], now - hours * np.cumsum(change), atol=near)
        band = plan.energies_wh[name]
        assert (band >= min(storage.lowest_wh, now) - near).all()
        assert (band <= max(storage.highest_wh, now) + near).all()
        assert band[-1] >= min(now, storage.highest_wh) - near
    for name, most in task.renewables_w.items():
        assert (plan.powers_w[name] >= -near).all()
        assert (plan.powers_w[name] <= most + near).all()


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_no_plan_leaves_its_limits(seed: int) -> None:
    task = random_task(seed)
    assert_keeps_its_limits(task, dispatch(task))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_stages_find_what_all_binaries_at_once_find(seed: int) -> None:
    task = random_task(seed)._replace(gap=1e-5)
    found = dispatch(task)
    whole = _dispatch_program._Dispatch(task)
    every = [each.runs for each in whole._generators.values()] + [each.charges for each in whole._storages.values()]
    at_once = whole._program.solve(every, gap=1e-6, time_limit_s=20.0)
    if not found.shortfalls:
        assert found.profit_eur == pytest.approx(-at_once.fun, rel=1e-3, abs=1e-2)


def test_relaxation_that_is_a_plan_needs_no_binaries() -> None:
    storage = Storage(power=1e6, energy=2e6)
    plan = dispatch(task_of([10.0, 90.0] * 8, storages={"B": storage}, energies_wh={"B": 1e6}))
    assert (plan.solver, plan.solver_status) == ("lp", "optimal")


def test_storage_does_not_burn_energy_at_negative_prices() -> None:
    storage = Storage(power=1e6, energy=2e6, efficiency=0.8, wear_cost=0.0)
    plan = dispatch(task_of([-50.0] * 4, storages={"B": storage}, energies_wh={"B": 1.8e6}))
    assert plan.solver == "milp"
    change = np.where(plan.powers_w["B"] > 0, plan.powers_w["B"] / 0.8, plan.powers_w["B"] * 0.8)
    np.testing.assert_allclose(plan.energies_wh["B"], 1.8e6 - np.cumsum(change), atol=10.0)


def test_reserve_holds_generators_back_and_keeps_energy() -> None:
    generator = Generator(power=2e6, cost=10.0)
    free = dispatch(task_of([50.0] * 4, generators={"G": generator}))
    held = dispatch(task_of([50.0] * 4, generators={"G": generator}, reserve_w=5e5))
    assert free.powers_w["G"][0] == pytest.approx(2e6)
    assert held.powers_w["G"][0] == pytest.approx(1.5e6)
    assert held.shortfalls == {}
    more = dispatch(task_of([50.0] * 4, generators={"G": generator}, reserve_w=3e6))
    assert more.shortfalls["reserve_w"] == pytest.approx(1e6)


def test_reserve_of_storage_needs_the_energy_for_one_more_step() -> None:
    storage = Storage(power=1e6, energy=4e6, lowest=0.25, efficiency=1.0)
    task = task_of([90.0, 10.0], storages={"B": storage}, energies_wh={"B": 1.5e6}, import_limit_w=1e7)
    assert dispatch(task).powers_w["B"][0] == pytest.approx(5e5, abs=10.0)
    held = dispatch(task._replace(reserve_w=4e5))
    assert held.powers_w["B"][0] == pytest.approx(1e5, abs=10.0)
    assert held.shortfalls == {}
    empty = dispatch(task._replace(reserve_w=4e5, energies_wh={"B": 1e6}, import_limit_w=0.0))
    assert empty.shortfalls["reserve_w"] == pytest.approx(4e5, abs=10.0)


def test_load_beyond_the_connection_is_served_and_told() -> None:
    plan = dispatch(task_of([50.0] * 2, load_w=np.full(2, 3e6), import_limit_w=2e6))
    assert plan.shortfalls == {"import_limit_w": pytest.approx(1e6)}
    assert plan.profit_eur == pytest.approx(-2 * 2 * 50.0)


def test_energy_outside_its_band_returns_to_it() -> None:
    storage = Storage(power=1e5, energy=1e6, lowest=0.2, highest=0.8, efficiency=1.0)
    plan = dispatch(task_of([50.0] * 4, storages={"B": storage}, energies_wh={"B": 0.0}))
    assert plan.powers_w["B"].tolist() == pytest.approx([-1e5, -1e5, 0.0, 0.0], abs=10.0)
    assert plan.shortfalls["energy_wh B"] == pytest.approx(1e5, rel=1e-4)


def test_solver_without_time_says_so() -> None:
    rng = np.random.default_rng(1)
    generators = {f"G{n}": Generator(power=1e6, minimum=6e5, cost=60.0 + n, start_cost=200.0) for n in range(20)}
    task = task_of(
        rng.normal(60, 30, 96).tolist(), generators=generators, reserve_w=3e6, time_limit_s=1e-4, export_limit_w=7.3e6
    )
    with pytest.raises(NoPlanError, match=r"no plan after \d"):
        dispatch(task)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_plans_are_the_same_for_a_household_and_a_wind_farm(size: float) -> None:
    prices = [10.0, 90.0, 20.0, 70.0]

    def profit_eur(size: float) -> float:
        storage = Storage(power=size * 1e6, energy=size * 2e6)
        task = task_of(prices, storages={"B": storage}, energies_wh={"B": size * 1e6}, export_limit_w=1e12)
        return dispatch(task).profit_eur

    assert profit_eur(size) / size == pytest.approx(profit_eur(1.0), rel=1e-6)
