"""What the units of a grid do after a disturbance: rotors, fluxes, governors and the network between them.

    grid = two_areas()
    run = simulate(grid, 15.0, [LoadStep(at_s=3.0, load=0, power_mw=100.0)])
    record = measure(run, frames_per_s=50)          # of swing_record: what PMUs at the terminals report

Each unit is a machine with two windings on each axis, so that `v_d + Ra i_d = Xq(s) i_q` has the poles T'q0 and T''q0.
The angle behind any single reactance is therefore not the rotor's angle, as in a real machine: an estimator that
assumes so is tested against more than its own model. As is usual for studies of this kind, stator voltages do not
depend on speed, and powers stand for torques. Loads take constant power.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.kernel import kernel
from edgeflex_services.swing_grid import BASE_MVA, Grid, Unit

STEPS_PER_CYCLE: Final = 8
NETWORK_ROUNDS: Final = 60
NETWORK_TOLERANCE: Final = 1e-10

# Columns of the table of machine parameters, one row a unit, pu on BASE_MVA.
M, D, RA, XD, XD1, XD2, XQ, XQ1, TD01, TD02, TQ01, TQ02, KA, TA = range(14)
GAIN, T1, T2, T3, TN, TD, VALVE_MIN, VALVE_MAX, POWER, VREF, FIELD, CONNECTED, _PARAMETERS = range(14, 27)
# Columns of the table of states.
DELTA, SPEED, EQ1, EQ2, ED1, ED2, EFD, VALVE, LEAD, WATER, _STATES = range(11)


@dataclass(frozen=True, kw_only=True)
class LoadStep:
    """A load changes by `power_mw`, and by reactive power at its own ratio unless told otherwise."""

    at_s: float
    load: int
    power_mw: float
    reactive_power_mvar: float | None = None


@dataclass(frozen=True, kw_only=True)
class UnitTrip:
    """A unit leaves the grid; its rotor is no longer followed."""

    at_s: float
    unit: int


@dataclass(frozen=True, kw_only=True)
class LineSwitch:
    """A line opens: phases jump and units swing, but no power is lost or gained."""

    at_s: float
    line: int


Event: TypeAlias = LoadStep | UnitTrip | LineSwitch


@dataclass(frozen=True, kw_only=True)
class LoadNoise:
    """Every load wanders by itself, as an Ornstein-Uhlenbeck process."""

    share: float
    """Its rms as a share of the load."""
    memory_s: float = 10.0


@dataclass(frozen=True)
class SwingRun:
    """What happened, at every step; arrays of shape (steps, units) where not told otherwise, pu on BASE_MVA."""

    grid: Grid
    events: tuple[Event, ...]
    noise: LoadNoise | None
    time_s: NDArray[np.float64]
    voltage: NDArray[np.complex128]
    """Terminal voltage against a reference at nominal frequency, positive sequence."""
    current: NDArray[np.complex128]
    """Out of the unit."""
    speed_pu: NDArray[np.float64]
    """Rotor speed; 1 is nominal."""
    mechanical_power: NDArray[np.float64]
    load_power: NDArray[np.float64]
    """Sum of what all loads take, shape (steps,)."""

    @property
    def connected(self) -> NDArray[np.bool_]:
        """Which units are on the grid at the end, shape (units,)."""
        gone = [event.unit for event in self.events if isinstance(event, UnitTrip)]
        return ~np.isin(np.arange(len(self.grid.units)), gone)

    @property
    def inertia_mws(self) -> NDArray[np.float64]:
        """Kinetic energy of each unit at nominal speed, shape (units,)."""
        return np.array([unit.kinetic_energy_mws for unit in self.grid.units])


@kernel(
    "float64(complex128[:, ::1], complex128[::1], complex128[::1], complex128[:, ::1], complex128[::1], "
    "float64[:, ::1], float64[:, ::1])"
)
def solve_network(
    impedance: NDArray[np.complex128],
    load: NDArray[np.complex128],
    shunt: NDArray[np.complex128],
    scratch: NDArray[np.complex128],
    voltage: NDArray[np.complex128],
    parameters: NDArray[np.float64],
    states: NDArray[np.float64],
) -> float:
    """Voltages of the nodes for the units' fluxes and the loads' powers, from `voltage` as a first guess.

    `shunt` is the load as the admittance that `impedance` already holds; `scratch` has three rows. Returns the last
    change of a voltage: more than the tolerance means that the loads cannot be fed.
    """
    units = len(parameters)
    nodes = len(voltage)
    emf, injected, before = scratch[0], scratch[1], scratch[2]
    for k in range(units):
        emf[k] = 0.0
        if parameters[k, CONNECTED] != 0.0:
            turn = np.exp(1j * (states[k, DELTA] - 0.5 * np.pi))
            inside = complex(states[k, ED2], states[k, EQ2]) * turn
            emf[k] = inside / complex(parameters[k, RA], parameters[k, XD2])
    change = 1.0
    for _ in range(NETWORK_ROUNDS):
        for n in range(nodes):
            injected[n] = shunt[n] * voltage[n]
            if load[n] != 0.0:
                injected[n] -= np.conj(load[n] / voltage[n])
        for k in range(units):
            injected[k] += emf[k]
        for n in range(nodes):
            before[n] = voltage[n]
        change = 0.0
        for n in range(nodes):
            total = complex(0.0, 0.0)
            for m in range(nodes):
                total += impedance[n, m] * injected[m]
            voltage[n] = total
            change = max(change, abs(total - before[n]))
        if change < NETWORK_TOLERANCE:
            break
    return change


@kernel("void(float64[:, ::1], float64[:, ::1], complex128[::1], float64, float64[:, ::1])")
def derive(
    parameters: NDArray[np.float64],
    states: NDArray[np.float64],
    voltage: NDArray[np.complex128],
    nominal_rad_per_s: float,
    slopes: NDArray[np.float64],
) -> None:
    """Slopes of all states, given the terminal voltages."""
    for k in range(len(parameters)):
        for s in range(_STATES):
            slopes[k, s] = 0.0
        p = parameters[k]
        if p[CONNECTED] == 0.0:
            continue
        x = states[k]
        turn = np.exp(1j * (x[DELTA] - 0.5 * np.pi))
        emf = complex(x[ED2], x[EQ2])
        v = voltage[k] / turn
        i = (emf - v) / complex(p[RA], p[XD2])
        power = (v * np.conj(i)).real + p[RA] * (i.real * i.real + i.imag * i.imag)
        lead = x[LEAD] + p[T2] / p[T3] * (x[VALVE] - x[LEAD])
        water = x[WATER] + p[TN] / p[TD] * (lead - x[WATER])
        slopes[k, DELTA] = nominal_rad_per_s * x[SPEED]
        slopes[k, SPEED] = (p[POWER] + water - power - p[D] * x[SPEED]) / p[M]
        slopes[k, EQ1] = (x[EFD] - x[EQ1] - (p[XD] - p[XD1]) * i.real) / p[TD01]
        slopes[k, EQ2] = (x[EQ1] - x[EQ2] - (p[XD1] - p[XD2]) * i.real) / p[TD02]
        slopes[k, ED1] = ((p[XQ] - p[XQ1]) * i.imag - x[ED1]) / p[TQ01]
        slopes[k, ED2] = (x[ED1] + (p[XQ1] - p[XD2]) * i.imag - x[ED2]) / p[TQ02]
        slopes[k, EFD] = (p[FIELD] + p[KA] * (p[VREF] - abs(v)) - x[EFD]) / p[TA]
        valve = (-p[GAIN] * x[SPEED] - x[VALVE]) / p[T1]
        if (x[VALVE] >= p[VALVE_MAX] and valve > 0.0) or (x[VALVE] <= p[VALVE_MIN] and valve < 0.0):
            valve = 0.0
        slopes[k, VALVE] = valve
        slopes[k, LEAD] = (x[VALVE] - x[LEAD]) / p[T3]
        slopes[k, WATER] = (lead - x[WATER]) / p[TD]


@kernel(
    "int64(float64, float64, complex128[:, ::1], complex128[::1], complex128[:, ::1], float64[:, ::1], "
    "float64[:, ::1], complex128[::1], complex128[:, ::1], complex128[:, ::1], float64[:, ::1], float64[:, ::1])"
)
def integrate(
    step_s: float,
    nominal_rad_per_s: float,
    impedance: NDArray[np.complex128],
    shunt: NDArray[np.complex128],
    loads: NDArray[np.complex128],
    parameters: NDArray[np.float64],
    states: NDArray[np.float64],
    node_voltage: NDArray[np.complex128],
    voltage: NDArray[np.complex128],
    current: NDArray[np.complex128],
    speed_pu: NDArray[np.float64],
    mechanical: NDArray[np.float64],
) -> int:
    """Runge-Kutta of fourth order. Writes the state at each step, and leaves the one after the last in `states`.

    `loads` has one row more than there are steps. Returns how many steps were made: fewer when the grid collapses.
    """
    steps = len(voltage)
    units = len(parameters)
    nodes = len(node_voltage)
    scratch = np.zeros((3, nodes), dtype=np.complex128)
    between = np.zeros(nodes, dtype=np.complex128)
    total = np.zeros((units, _STATES))
    slopes = np.zeros((units, _STATES))
    moved = np.zeros((units, _STATES))
    for k in range(steps):
        for n in range(nodes):
            between[n] = 0.5 * (loads[k, n] + loads[k + 1, n])
        left = solve_network(impedance, loads[k], shunt, scratch, node_voltage, parameters, states)
        if not left < 1e3 * NETWORK_TOLERANCE:
            return k
        for u in range(units):
            p = parameters[u]
            voltage[k, u] = node_voltage[u]
            speed_pu[k, u] = 1.0 + states[u, SPEED]
            if p[CONNECTED] == 0.0:
                continue
            turn = np.exp(1j * (states[u, DELTA] - 0.5 * np.pi))
            emf = complex(states[u, ED2], states[u, EQ2]) * turn
            current[k, u] = (emf - node_voltage[u]) / complex(p[RA], p[XD2])
            lead = states[u, LEAD] + p[T2] / p[T3] * (states[u, VALVE] - states[u, LEAD])
            mechanical[k, u] = p[POWER] + states[u, WATER] + p[TN] / p[TD] * (lead - states[u, WATER])
        derive(parameters, states, node_voltage, nominal_rad_per_s, slopes)
        for stage in range(3):
            share = 1.0 if stage == 0 else 2.0
            ahead = step_s if stage == 2 else 0.5 * step_s
            for u in range(units):
                for s in range(_STATES):
                    total[u, s] = share * slopes[u, s] + (0.0 if stage == 0 else total[u, s])
                    moved[u, s] = states[u, s] + ahead * slopes[u, s]
            load = loads[k + 1] if stage == 2 else between
            solve_network(impedance, load, shunt, scratch, node_voltage, parameters, moved)
            derive(parameters, moved, node_voltage, nominal_rad_per_s, slopes)
        for u in range(units):
            for s in range(_STATES):
                states[u, s] += step_s / 6.0 * (total[u, s] + slopes[u, s])
            states[u, VALVE] = min(max(states[u, VALVE], parameters[u, VALVE_MIN]), parameters[u, VALVE_MAX])
    return steps


def simulate(
    grid: Grid,
    seconds: float,
    events: Sequence[Event] = (),
    *,
    noise: LoadNoise | None = None,
    seed: int = 0,
) -> SwingRun:
    """Follow the grid from its equilibrium. The same `seed` gives the same noise.

    Raises ValueError when the grid collapses: its loads ask for more than it can carry.
    """
    step_s = 1.0 / (STEPS_PER_CYCLE * grid.nominal_hz)
    steps = round(seconds / step_s) + 1
    units = len(grid.units)
    voltage, injected = grid.equilibrium()
    loads = np.zeros((steps + 1, grid.nodes), dtype=np.complex128)
    loads[:, units:] = -injected[units:]
    if noise is not None:
        loads *= 1.0 + _wander(noise, steps + 1, grid.nodes, step_s, seed)
    shunt = np.conj(loads[0])
    parameters, states = _machines(grid, voltage[:units], injected[:units])
    opened: list[int] = []
    run = SwingRun(
        grid=grid,
        events=tuple(events),
        noise=noise,
        time_s=np.arange(steps, dtype=np.float64) * step_s,
        voltage=np.zeros((steps, units), dtype=np.complex128),
        current=np.zeros((steps, units), dtype=np.complex128),
        speed_pu=np.zeros((steps, units)),
        mechanical_power=np.zeros((steps, units)),
        load_power=np.zeros(steps),
    )
    at = 0
    waiting = sorted(events, key=lambda event: event.at_s)
    while at < steps:
        now = [event for event in waiting if round(event.at_s / step_s) <= at]
        waiting = waiting[len(now) :]
        for event in now:
            if isinstance(event, LoadStep):
                loads[at:, grid.loads[event.load].node] += _step_power(grid, event, loads[at])
            elif isinstance(event, UnitTrip):
                parameters[event.unit, CONNECTED] = 0.0
            else:
                opened.append(event.line)
        end = min(steps, round(waiting[0].at_s / step_s)) if waiting else steps
        connected = parameters[:, CONNECTED]
        admittance = grid.admittance(without=opened) + np.diag(shunt)
        admittance[range(units), range(units)] += connected / (parameters[:, RA] + 1j * parameters[:, XD2])
        made = integrate(
            step_s,
            2.0 * np.pi * grid.nominal_hz,
            np.ascontiguousarray(np.linalg.inv(admittance), dtype=np.complex128),
            shunt,
            # The load of the step at `end` is that before its event.
            np.concatenate([loads[at:end], loads[end : end + 1]]),
            parameters,
            states,
            voltage,
            run.voltage[at:end],
            run.current[at:end],
            run.speed_pu[at:end],
            run.mechanical_power[at:end],
        )
        if made < end - at:
            raise ValueError(f"the grid collapses at {run.time_s[at + made]:.3f} s: it cannot carry its loads")
        at = end
    run.load_power[:] = loads[:steps].real.sum(axis=1)
    return run


def _step_power(grid: Grid, event: LoadStep, loads: NDArray[np.complex128]) -> complex:
    if event.reactive_power_mvar is not None:
        return complex(event.power_mw, event.reactive_power_mvar) / BASE_MVA
    load = loads[grid.loads[event.load].node]
    return event.power_mw / BASE_MVA * complex(1.0, load.imag / load.real)


def _wander(noise: LoadNoise, steps: int, nodes: int, step_s: float, seed: int) -> NDArray[np.float64]:
    kept = float(np.exp(-step_s / noise.memory_s))
    fresh = np.random.default_rng(seed).normal(0.0, noise.share * np.sqrt(1.0 - kept * kept), (steps, nodes))
    fresh[0] = 0.0  # the grid starts in equilibrium
    for k in range(1, steps):
        fresh[k] += kept * fresh[k - 1]
    return fresh


def _machines(
    grid: Grid, voltage: NDArray[np.complex128], power: NDArray[np.complex128]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Parameters and the states at which each unit gives this power at this voltage without moving."""
    parameters = np.zeros((len(grid.units), _PARAMETERS))
    states = np.zeros((len(grid.units), _STATES))
    for row, state, unit, v, s in zip(parameters, states, grid.units, voltage, power, strict=True):
        _fill_parameters(row, unit)
        i = np.conj(s / v)
        delta = float(np.angle(v + complex(row[RA], row[XQ]) * i))
        turn = np.exp(1j * (delta - 0.5 * np.pi))
        v_in, i_in = complex(v / turn), complex(i / turn)
        state[DELTA] = delta
        state[ED1] = (row[XQ] - row[XQ1]) * i_in.imag
        state[ED2] = state[ED1] + (row[XQ1] - row[XD2]) * i_in.imag
        state[EQ2] = v_in.imag + row[RA] * i_in.imag + row[XD2] * i_in.real
        state[EQ1] = state[EQ2] + (row[XD1] - row[XD2]) * i_in.real
        state[EFD] = state[EQ1] + (row[XD] - row[XD1]) * i_in.real
        row[FIELD], row[VREF] = state[EFD], abs(v)
        row[POWER] = s.real + row[RA] * abs(i) ** 2
        # The valve counts from where it stands.
        row[VALVE_MIN] -= row[POWER]
        row[VALVE_MAX] -= row[POWER]
    return parameters, states


def _fill_parameters(row: NDArray[np.float64], unit: Unit) -> None:
    scale = unit.rated_power_mva / BASE_MVA
    row[M], row[D] = 2.0 * unit.inertia_s * scale, unit.damping_pu * scale
    for column, value in (
        (RA, unit.resistance_pu),
        (XD, unit.xd_pu),
        (XD1, unit.xd1_pu),
        (XD2, unit.xd2_pu),
        (XQ, unit.xq_pu),
        (XQ1, unit.xq1_pu),
    ):
        row[column] = value / scale
    row[TD01], row[TD02], row[TQ01], row[TQ02] = unit.td01_s, unit.td02_s, unit.tq01_s, unit.tq02_s
    row[KA], row[TA] = unit.exciter_gain, unit.exciter_lag_s
    row[[T1, T2, T3, TN, TD]] = 1.0
    row[VALVE_MIN], row[VALVE_MAX] = -np.inf, np.inf
    row[CONNECTED] = 1.0
    if unit.turbine is not None:
        turbine = unit.turbine
        row[GAIN] = scale / turbine.droop_pu
        row[T1], row[T2], row[T3] = turbine.valve_lag_s, turbine.lead_s, turbine.lag_s
        row[TN], row[TD] = turbine.water_lead_s, turbine.water_lag_s
        row[VALVE_MIN], row[VALVE_MAX] = turbine.valve_min_pu * scale, turbine.valve_max_pu * scale
