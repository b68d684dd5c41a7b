"""Grids of generating units and loads for the swing simulator: what they are made of, and two kinds ready-made.

Everything of a unit is on its own rating; everything of the grid in MW and in pu on `BASE_MVA`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeflex_operators._units import GeneratingUnit, Governor

BASE_MVA: Final = 100.0
UNKNOWN_GOVERNOR: Final = Governor()


@dataclass(frozen=True, kw_only=True)
class Turbine:
    """Governor and turbine: a valve with limits, then two lead-lags, as `P = LL2(LL1(valve))`.

    A steam turbine (TGOV1) has its reheater in the first lead-lag and none in the second. Of a hydro turbine, the first
    is the transient droop and the second the water column, whose lead is negative: power first moves the wrong way.
    """

    droop_pu: float = 0.05
    valve_lag_s: float = 0.2
    lead_s: float = 2.1
    lag_s: float = 7.0
    water_lead_s: float = 1.0
    water_lag_s: float = 1.0
    """Equal lead and lag: no second lead-lag."""
    valve_min_pu: float = 0.0
    valve_max_pu: float = 1.2

    @classmethod
    def hydro(cls, *, droop_pu: float = 0.05, transient_droop_pu: float = 0.4, water_s: float = 1.2) -> Turbine:
        """A hydro turbine whose water takes `water_s` to start."""
        reset_s = 5.0
        return cls(
            droop_pu=droop_pu,
            valve_lag_s=0.3,
            lead_s=reset_s,
            lag_s=reset_s * transient_droop_pu / droop_pu,
            water_lead_s=-water_s,
            water_lag_s=0.5 * water_s,
        )


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A round-rotor machine with two windings on each axis, a first-order exciter and maybe a turbine governor.

    The d axis has X''d with T'd0 and T''d0; the q axis has poles T'q0 and T''q0 and X''q = X''d, as GENROU has.
    """

    name: str
    rated_power_mva: float
    rated_voltage_kv: float = 20.0
    power_mw: float
    """Power at the terminals before any event."""
    inertia_s: float
    damping_pu: float = 0.0
    resistance_pu: float = 0.0025
    xd_pu: float = 1.8
    xd1_pu: float = 0.3
    xd2_pu: float = 0.25
    xq_pu: float = 1.7
    xq1_pu: float = 0.55
    td01_s: float = 8.0
    td02_s: float = 0.03
    tq01_s: float = 0.4
    tq02_s: float = 0.05
    exciter_gain: float = 20.0
    exciter_lag_s: float = 0.5
    turbine: Turbine | None = Turbine()

    @property
    def kinetic_energy_mws(self) -> float:
        return self.inertia_s * self.rated_power_mva

    def nameplate(self, *, governor: Governor | None = UNKNOWN_GOVERNOR) -> GeneratingUnit:
        """What an operator of the grid knows of the unit, for estimators: all but its inertia."""
        return GeneratingUnit(
            rated_power=self.rated_power_mva,
            rated_voltage=self.rated_voltage_kv,
            transient_reactance_pu=self.xd1_pu,
            subtransient_reactance_pu=self.xd2_pu,
            armature_resistance_pu=self.resistance_pu,
            quadrature_reactance_pu=self.xq_pu,
            transient_quadrature_reactance_pu=self.xq1_pu,
            quadrature_time_constant=self.tq01_s,
            subtransient_quadrature_time_constant=self.tq02_s,
            governor=governor,
        )


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line or transformer between two nodes, pu on `BASE_MVA`."""

    begin: int
    end: int
    reactance_pu: float
    resistance_pu: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """Constant power; reactive power follows at the same ratio."""

    node: int
    power_mw: float


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Units at nodes 0 to len(units) - 1, one at each; loads at further nodes; all voltages 1 pu before any event."""

    units: tuple[Unit, ...]
    lines: tuple[Line, ...]
    loads: tuple[Load, ...]
    nominal_hz: float = 50.0

    @property
    def nodes(self) -> int:
        return 1 + max(max(line.begin, line.end) for line in self.lines)

    @property
    def kinetic_energy_mws(self) -> float:
        return sum(unit.kinetic_energy_mws for unit in self.units)

    @property
    def unit_table(self) -> dict[str, GeneratingUnit]:
        return {unit.name: unit.nameplate() for unit in self.units}

    def admittance(self, *, without: Sequence[int] = ()) -> NDArray[np.complex128]:
        """Admittance between nodes, pu; `without` these lines."""
        y = np.zeros((self.nodes, self.nodes), dtype=np.complex128)
        for index, line in enumerate(self.lines):
            if index in without:
                continue
            a, b = line.begin, line.end
            series = 1.0 / complex(line.resistance_pu, line.reactance_pu)
            y[a, a] += series
            y[b, b] += series
            y[a, b] -= series
            y[b, a] -= series
        return y

    def equilibrium(self) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Voltages of all nodes and what each takes from the grid (loads) or gives to it (units), pu.

        Angles come from the linear load flow. What it leaves, some losses and all reactive power, is added to units and
        loads: a state of equilibrium needs no solver then, and units and loads keep their power within a few percent.
        """
        wanted = np.zeros(self.nodes)
        for node, unit in enumerate(self.units):
            wanted[node] = unit.power_mw / BASE_MVA
        for load in self.loads:
            wanted[load.node] -= load.power_mw / BASE_MVA
        wanted -= wanted.mean()
        susceptance = -self.admittance().imag
        angle = np.zeros(self.nodes)
        angle[1:] = np.linalg.solve(susceptance[1:, 1:], wanted[1:])
        voltage = np.exp(1j * angle)
        return voltage, voltage * np.conj(self.admittance() @ voltage)


def two_areas(nominal_hz: float = 50.0) -> Grid:
    """Two areas of two units each, 400 MW from one to the other over a weak tie: after Kundur's example."""
    inertia_s = (6.5, 6.5, 6.175, 6.175)
    units = tuple(
        Unit(name=f"G{k + 1}", rated_power_mva=900.0, power_mw=700.0, inertia_s=h, damping_pu=0.5)
        for k, h in enumerate(inertia_s)
    )
    step_up = [Line(begin=k, end=4 + k, reactance_pu=0.15 / 9) for k in range(4)]
    inner = [
        Line(begin=4, end=5, reactance_pu=0.025, resistance_pu=0.0025),
        Line(begin=5, end=8, reactance_pu=0.01, resistance_pu=0.001),
        Line(begin=6, end=7, reactance_pu=0.025, resistance_pu=0.0025),
        Line(begin=7, end=9, reactance_pu=0.01, resistance_pu=0.001),
    ]
    tie = [Line(begin=8, end=9, reactance_pu=0.22, resistance_pu=0.022) for _ in range(3)]
    loads = (Load(node=8, power_mw=1000.0), Load(node=9, power_mw=1800.0))
    return Grid(units=units, lines=(*step_up, *inner, *tie), loads=loads, nominal_hz=nominal_hz)


def random_grid(units: int, seed: int, nominal_hz: float = 50.0) -> Grid:
    """A ring of stations with some chords, a unit and a load at each; sizes, inertia and data differ.

    One unit in five has a hydro turbine, one in five no governor.
    """
    random = np.random.default_rng(seed)
    made = tuple(_random_unit(f"G{k + 1}", random) for k in range(units))
    step_up = [
        Line(begin=k, end=units + k, reactance_pu=0.12 * BASE_MVA / made[k].rated_power_mva) for k in range(units)
    ]
    pairs = [(k, (k + 1) % units) for k in range(units if units > 2 else units - 1)]
    pairs += [
        (a, b) for a in range(units) for b in range(a + 2, units) if (a, b) != (0, units - 1) and random.random() < 0.15
    ]
    # A swing against the rest of the grid takes about a second with these reactances, whatever the units' sizes.
    mean_mva = sum(unit.rated_power_mva for unit in made) / units
    reactances = random.uniform(0.15, 0.4, len(pairs)) * BASE_MVA / mean_mva
    ring = [
        Line(begin=units + a, end=units + b, reactance_pu=x, resistance_pu=0.1 * x)
        for (a, b), x in zip(pairs, reactances.tolist(), strict=True)
    ]
    power_mw = sum(unit.power_mw for unit in made)
    shares = random.uniform(0.5, 1.5, units)
    loads = tuple(
        Load(node=units + k, power_mw=power_mw * share) for k, share in enumerate((shares / shares.sum()).tolist())
    )
    return Grid(units=made, lines=(*step_up, *ring), loads=loads, nominal_hz=nominal_hz)


def _random_unit(name: str, random: np.random.Generator) -> Unit:
    rated_power_mva = float(np.round(random.uniform(200.0, 1200.0)))
    transient = float(random.uniform(0.2, 0.4))
    unit = Unit(
        name=name,
        rated_power_mva=rated_power_mva,
        power_mw=rated_power_mva * float(random.uniform(0.5, 0.85)),
        inertia_s=float(random.uniform(2.0, 7.0)),
        damping_pu=float(random.uniform(0.0, 2.0)),
        resistance_pu=float(random.uniform(0.0, 0.005)),
        xd_pu=float(random.uniform(1.5, 2.2)),
        xd1_pu=transient,
        xd2_pu=transient * float(random.uniform(0.6, 0.85)),
        xq_pu=float(random.uniform(1.4, 2.1)),
        xq1_pu=transient * float(random.uniform(1.2, 2.0)),
        td01_s=float(random.uniform(4.0, 9.0)),
        tq01_s=float(random.uniform(0.3, 1.5)),
        tq02_s=float(random.uniform(0.03, 0.07)),
        turbine=Turbine(
            droop_pu=float(random.uniform(0.03, 0.06)),
            valve_lag_s=float(random.uniform(0.05, 0.5)),
            lead_s=float(random.uniform(1.0, 3.0)),
            lag_s=float(random.uniform(5.0, 9.0)),
        ),
    )
    kind = random.random()
    if kind < 0.2:
        return replace(unit, turbine=Turbine.hydro(water_s=float(random.uniform(0.8, 2.0))))
    return replace(unit, turbine=None) if kind < 0.4 else unit
