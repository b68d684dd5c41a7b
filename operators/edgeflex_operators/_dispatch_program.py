"""The dispatch of a virtual power plant as a linear program, with binaries where those decide.

Powers are in units of the largest one and energies in that for one step, so that HiGHS's tolerances mean the same for a
household and a wind farm.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.node import quantity
from edgeflex_operators._highs import load_optimize, load_sparse

Array = NDArray[np.float64]
Columns = NDArray[np.int64]

SHORTFALL_EUR_PER_MWH = 10_000.0
"""What it costs to import more than allowed or to leave the energy band: beyond any price, so that it is the last
resort."""
RESERVE_SHORTFALL_EUR_PER_MWH = 3_000.0
"""Beyond any price too, but a load is served before a reserve is kept."""
ROUNDING = 1e-5
"""Of the largest power: less is nothing. Above the 1e-6 that HiGHS allows itself."""


class Generator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A generator that can be switched on and off."""

    power: Annotated[float, quantity("W", "Highest power.", gt=0, le=1e12)]
    minimum: Annotated[float, quantity("W", "Lowest power while it runs.", ge=0, le=1e12)] = 0.0
    cost: Annotated[float, quantity("EUR/MWh", "Cost of what it gives.", ge=0, le=1e5)]
    running_cost: Annotated[float, quantity("EUR/h", "Cost of running, whatever it gives.", ge=0, le=1e6)] = 0.0
    start_cost: Annotated[float, quantity("EUR", "Cost of a start.", ge=0, le=1e7)] = 0.0


class Storage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A battery, or anything else that holds energy."""

    power: Annotated[float, quantity("W", "Highest power of charging and of discharging.", gt=0, le=1e12)]
    energy: Annotated[float, quantity("Wh", "Capacity.", gt=0, le=1e13)]
    efficiency: Annotated[float, Meta(gt=0, le=1, description="Of charging, and once more of discharging.")] = 0.95
    lowest: Annotated[float, Meta(ge=0, lt=1, description="Lowest state of charge to use, as a share.")] = 0.1
    highest: Annotated[float, Meta(gt=0, le=1, description="Highest state of charge to use, as a share.")] = 0.9
    wear_cost: Annotated[
        float, quantity("EUR/MWh", "Cost of wear, of what goes in and of what goes out.", ge=0, le=1e5)
    ] = 1.0

    @property
    def lowest_wh(self) -> float:
        return self.lowest * self.energy

    @property
    def highest_wh(self) -> float:
        return self.highest * self.energy


class Task(NamedTuple):
    """What is known when a plan is made; arrays have a value a step."""

    step_s: float
    prices: Array
    """Of what is sold, EUR/MWh."""
    import_fee: float
    """What imported energy costs beside its price, EUR/MWh; not negative."""
    generators: Mapping[str, Generator]
    running: frozenset[str]
    """Generators that run already."""
    storages: Mapping[str, Storage]
    energies_wh: Mapping[str, float]
    """Of each storage now."""
    renewables_w: Mapping[str, Array]
    """What each can give."""
    load_w: Array
    export_limit_w: float
    import_limit_w: float
    reserve_w: float = 0.0
    gap: float = 1e-4
    time_limit_s: float = 5.0


class Plan(NamedTuple):
    """What to do, and what that is worth."""

    powers_w: dict[str, Array]
    energies_wh: dict[str, Array]
    exchange_w: Array
    profit_eur: float
    shortfalls: dict[str, float]
    solver: Literal["lp", "milp"]
    solver_status: Literal["optimal", "time_limit"]
    gap: float
    solver_s: float


class NoPlanError(Exception):
    """The solver found no plan; the text says why."""


@dataclass(slots=True)
class _Program:
    """Columns and rows as they are stated."""

    cost: list[Array] = field(default_factory=list)
    lower: list[Array] = field(default_factory=list)
    upper: list[Array] = field(default_factory=list)
    low: list[Array] = field(default_factory=list)
    high: list[Array] = field(default_factory=list)
    entries: list[tuple[Columns, Columns, Array]] = field(default_factory=list)
    """Rows, columns and values of the matrix."""
    columns: int = 0
    rows: int = 0

    def add(
        self,
        count: int,
        *,
        cost: float | Array = 0.0,
        lower: float | Array = 0.0,
        upper: float | Array = math.inf,
    ) -> Columns:
        """So many new columns."""
        for table, value in ((self.cost, cost), (self.lower, lower), (self.upper, upper)):
            table.append(np.broadcast_to(np.asarray(value, dtype=np.float64), count))
        self.columns += count
        return np.arange(self.columns - count, self.columns)

    def require(
        self, terms: Sequence[tuple[Columns, float]], low: float | Array = -math.inf, high: float | Array = math.inf
    ) -> None:
        """One row for each place of the terms' columns: low <= sum of factor * column <= high."""
        count = len(terms[0][0])
        rows = np.arange(self.rows, self.rows + count)
        for columns, factor in terms:
            self.entries.append((rows, columns, np.full(count, factor)))
        self.low.append(np.broadcast_to(np.asarray(low, dtype=np.float64), count))
        self.high.append(np.broadcast_to(np.asarray(high, dtype=np.float64), count))
        self.rows += count

    def solve(self, whole: Sequence[Columns], *, gap: float, time_limit_s: float) -> Any:
        """What `scipy.optimize.milp` gives with these columns as whole numbers."""
        optimize = load_optimize()
        integrality = np.zeros(self.columns)
        for each in whole:
            integrality[each] = 1.0
        rows, columns, values = (np.concatenate(each) for each in zip(*self.entries, strict=True))
        matrix = load_sparse().csc_array((values, (rows, columns)), shape=(self.rows, self.columns))
        return optimize.milp(
            np.concatenate(self.cost),
            integrality=integrality,
            bounds=optimize.Bounds(np.concatenate(self.lower), np.concatenate(self.upper)),
            constraints=optimize.LinearConstraint(matrix, np.concatenate(self.low), np.concatenate(self.high)),
            options={"time_limit": time_limit_s, "mip_rel_gap": gap},
        )


class _GeneratorColumns(NamedTuple):
    power: Columns
    runs: Columns
    starts: Columns


class _StorageColumns(NamedTuple):
    charge: Columns
    discharge: Columns
    energy: Columns
    charges: Columns
    beyond: Columns | None
    """How far the energy is outside its band, where it is so at the beginning."""


class _Dispatch:
    """The program of a task and what its columns mean."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._steps = len(task.prices)
        self._base_w = max(
            1.0,
            *(each.power for each in task.generators.values()),
            *(each.power for each in task.storages.values()),
            *(float(each.max(initial=0.0)) for each in (*task.renewables_w.values(), task.load_w)),
        )
        self._hours = task.step_s / 3600.0
        self._base_wh = self._base_w * self._hours
        self._eur = self._base_wh * 1e-6
        """What a price of 1 EUR/MWh makes of one unit of power in one step."""
        self._program = _Program()
        self._generators = {name: self._generator(name, each) for name, each in task.generators.items()}
        self._storages = {name: self._storage(name, each) for name, each in task.storages.items()}
        self._renewables = {
            name: self._program.add(self._steps, upper=np.maximum(each, 0.0) / self._base_w)
            for name, each in task.renewables_w.items()
        }
        self._exchange()
        self._reserve()

    def _generator(self, name: str, generator: Generator) -> _GeneratorColumns:
        program, steps, most = self._program, self._steps, generator.power / self._base_w
        power = program.add(steps, cost=generator.cost * self._eur, upper=most)
        runs = program.add(steps, cost=generator.running_cost * self._hours, upper=1.0)
        starts = program.add(steps, cost=generator.start_cost, upper=1.0)
        program.require([(power, 1.0), (runs, -most)], high=0.0)
        program.require([(power, 1.0), (runs, -min(generator.minimum / self._base_w, most))], low=0.0)
        program.require([(starts[:1], 1.0), (runs[:1], -1.0)], low=-1.0 if name in self._task.running else 0.0)
        program.require([(starts[1:], 1.0), (runs[1:], -1.0), (runs[:-1], 1.0)], low=0.0)
        return _GeneratorColumns(power, runs, starts)

    def _storage(self, name: str, storage: Storage) -> _StorageColumns:
        program, steps, most = self._program, self._steps, storage.power / self._base_w
        now = min(max(self._task.energies_wh[name], 0.0), storage.energy) / self._base_wh
        low, high = storage.lowest_wh / self._base_wh, storage.highest_wh / self._base_wh
        lower, upper = np.full(steps, min(low, now)), np.full(steps, max(high, now))
        lower[-1] = max(lower[-1], min(now, high))
        wear = storage.wear_cost * self._eur
        charge, discharge = (program.add(steps, cost=wear, upper=most) for _ in range(2))
        energy = program.add(steps, lower=lower, upper=upper)
        charges = program.add(steps, upper=1.0)
        program.require([(charge, 1.0), (charges, -most)], high=0.0)
        program.require([(discharge, 1.0), (charges, most)], high=most)
        gain, loss = storage.efficiency, 1.0 / storage.efficiency
        first, later = slice(0, 1), slice(1, None)
        program.require([(energy[first], 1.0), (charge[first], -gain), (discharge[first], loss)], low=now, high=now)
        program.require(
            [(energy[later], 1.0), (energy[:-1], -1.0), (charge[later], -gain), (discharge[later], loss)],
            low=0.0,
            high=0.0,
        )
        beyond = None
        if not low <= now <= high:
            beyond = program.add(steps, cost=SHORTFALL_EUR_PER_MWH * self._eur)
            program.require([(energy, 1.0), (beyond, 1.0)], low=low)
            program.require([(energy, 1.0), (beyond, -1.0)], high=high)
        return _StorageColumns(charge, discharge, energy, charges, beyond)

    def _exchange(self) -> None:
        task, program, steps = self._task, self._program, self._steps
        price = task.prices * self._eur
        self._sold = program.add(steps, cost=-price, upper=task.export_limit_w / self._base_w)
        self._bought = program.add(
            steps, cost=price + task.import_fee * self._eur, upper=task.import_limit_w / self._base_w
        )
        self._beyond_import = program.add(steps, cost=SHORTFALL_EUR_PER_MWH * self._eur)
        terms = [(self._sold, -1.0), (self._bought, 1.0), (self._beyond_import, 1.0)]
        terms += [(each.power, 1.0) for each in self._generators.values()]
        terms += [(each, 1.0) for each in self._renewables.values()]
        for each in self._storages.values():
            terms += [(each.discharge, 1.0), (each.charge, -1.0)]
        load = task.load_w / self._base_w
        program.require(terms, low=load, high=load)

    def _reserve(self) -> None:
        """More power at once: what runs below its highest power, and storage with the energy for one more step."""
        self._without_reserve: Columns | None = None
        if self._task.reserve_w <= 0.0:
            return
        program, steps = self._program, self._steps
        self._without_reserve = program.add(steps, cost=RESERVE_SHORTFALL_EUR_PER_MWH * self._eur)
        terms = [(self._without_reserve, 1.0)]
        for name, generator in self._generators.items():
            most = self._task.generators[name].power / self._base_w
            terms += [(generator.runs, most), (generator.power, -1.0)]
        for name, columns in self._storages.items():
            storage = self._task.storages[name]
            ready = program.add(steps)
            program.require(
                [(ready, 1.0), (columns.discharge, 1.0), (columns.charge, -1.0)], high=storage.power / self._base_w
            )
            lowest = min(storage.lowest_wh, self._task.energies_wh[name]) / self._base_wh
            program.require([(columns.energy, storage.efficiency), (ready, -1.0)], low=storage.efficiency * lowest)
            terms.append((ready, 1.0))
        program.require(terms, low=self._task.reserve_w / self._base_w)

    def plan(self) -> Plan:
        """Raises NoPlanError.

        First the relaxation, then the binaries of generators, and those of storage only where it would charge and
        discharge at once, which pays at negative prices alone. Each stage bounds what the next can reach.
        """
        task = self._task
        began_s = time.perf_counter()
        runs = [each.runs for each in self._generators.values()]
        charges = [each.charges for each in self._storages.values()]
        bound, found = -math.inf, None
        stages = list({len(whole): whole for whole in ([], runs, [*runs, *charges])}.values())
        for whole in stages:
            left_s = max(task.time_limit_s - (time.perf_counter() - began_s), 0.05)
            found = self._program.solve(whole, gap=task.gap, time_limit_s=left_s)
            if found.x is None:
                break
            bound = max(bound, float(found.mip_dual_bound if whole else found.fun))
            rounded = self._rounded(found.x)
            if rounded is None:
                continue
            cost = float(np.concatenate(self._program.cost) @ rounded)
            gap = max(cost - bound, 0.0) / max(abs(cost), 1e-9)
            if gap <= task.gap or found.status != 0 or whole is stages[-1]:
                status: Literal["optimal", "time_limit"] = "optimal" if found.status == 0 else "time_limit"
                took_s = time.perf_counter() - began_s
                return self._read(rounded, "milp" if whole else "lp", status, gap, took_s)
        assert found is not None
        raise NoPlanError(f"no plan after {time.perf_counter() - began_s:.2f} s: {found.message}")

    def _rounded(self, x: Array) -> Array | None:
        """The solution with all binaries whole; None if it does not allow them."""
        rounded = x.copy()
        for name, columns in self._generators.items():
            runs = x[columns.runs] > ROUNDING
            least = self._task.generators[name].minimum / self._base_w
            if (x[columns.power][runs] < least - ROUNDING).any():
                return None
            before = np.concatenate([[name in self._task.running], runs[:-1]])
            rounded[columns.runs] = runs
            rounded[columns.starts] = runs & ~before
        for each in self._storages.values():
            charge, discharge = x[each.charge], x[each.discharge]
            if (np.minimum(charge, discharge) > ROUNDING).any():
                return None
            rounded[each.charges] = charge > discharge
        return rounded

    def _read(
        self,
        x: Array,
        solver: Literal["lp", "milp"],
        status: Literal["optimal", "time_limit"],
        gap: float,
        took_s: float,
    ) -> Plan:
        base_w = self._base_w
        x = x + 0.0  # no -0.0
        powers = {name: x[each.power] * base_w for name, each in self._generators.items()}
        powers |= {name: (x[each.discharge] - x[each.charge]) * base_w for name, each in self._storages.items()}
        powers |= {name: x[each] * base_w for name, each in self._renewables.items()}
        beyond = {"import_limit_w": (self._beyond_import, base_w)}
        if self._without_reserve is not None:
            beyond["reserve_w"] = (self._without_reserve, base_w)
        for name, each in self._storages.items():
            if each.beyond is not None:
                beyond[f"energy_wh {name}"] = (each.beyond, self._base_wh)
        cost = np.concatenate(self._program.cost)
        penalties = sum(float(cost[columns] @ x[columns]) for columns, _ in beyond.values())
        return Plan(
            powers_w=powers,
            energies_wh={name: x[each.energy] * self._base_wh for name, each in self._storages.items()},
            exchange_w=(x[self._sold] - x[self._bought] - x[self._beyond_import]) * base_w,
            profit_eur=penalties - float(cost @ x),
            shortfalls={
                name: float(x[columns].max()) * base
                for name, (columns, base) in beyond.items()
                if x[columns].max() > ROUNDING
            },
            solver=solver,
            solver_status=status,
            gap=gap,
            solver_s=took_s,
        )


def dispatch(task: Task) -> Plan:
    """The plan of the highest profit. Raises NoPlanError when the solver has none to give.

    >>> plan = dispatch(Task(
    ...     step_s=3600.0, prices=np.array([10.0, 90.0]), import_fee=0.0, generators={}, running=frozenset(),
    ...     storages={"B": Storage(power=1e6, energy=2e6, efficiency=1.0)}, energies_wh={"B": 1e6},
    ...     renewables_w={}, load_w=np.zeros(2), export_limit_w=1e7, import_limit_w=1e7,
    ... ))
    >>> (plan.powers_w["B"] / 1e3).round().tolist(), plan.solver
    ([-800.0, 800.0], 'lp')
    """
    return _Dispatch(task).plan()
