"""The frequency of one area, or of several with tie lines, and what holds it: machines, loads, and resources that obey.

    grid = FrequencyGrid(single_area(), [LoadStep(at_s=5.0, area="north", power_w=50e6)])
    course = close_loop(grid, lambda samples, now_ns: [], 60.0)
    course.nadir_hz("north")

Each area is one swing equation, 2 Σ(H S) / f0 · df/dt = ΔP, with a load that follows the frequency, machines with
governor and reheat turbine, and resources (storages, plants) that take set-points of active power. A resource follows
its set-point with a lag, within its ramp, its hardware and its energy, and goes back to its scheduled power once the
set-point is no longer valid, as it must when its controller falls silent.

`single_area` answers a load step of 5 % with a nadir of -272 mHz without any control. Its machine is the reheat steam
turbine of Kundur, Power System Stability and Control (1994), section 11.1: R = 0.05, T_G = 0.2 s, T_CH = 0.3 s,
T_RH = 7 s, M = 2H = 10 s, D = 1; but for the share of the high-pressure section, 0.36 instead of 0.3, which gives that
nadir. A plant of 0.4 of the area's rating whose power follows within 60 ms gives those with droop and virtual inertia.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import Samples, Setpoints

NOMINAL_HZ: Final = 50.0
FRAMES_PER_S: Final = 50
STEPS_PER_FRAME: Final = 4
START_NS: Final = 1_700_000_000_000_000_000
VOLTAGE_V: Final = 110e3 / math.sqrt(3.0)
QUANTITY: Final = "active_power_w"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A unit with governor and reheat steam turbine, on its own rating."""

    name: str
    rated_power_w: float
    power_w: float
    """Before any event."""
    inertia_s: float = 5.0
    droop_pu: float = 0.05
    valve_lag_s: float = 0.2
    chest_lag_s: float = 0.3
    reheat_lag_s: float = 7.0
    high_pressure_share: float = 0.36


@dataclass(frozen=True, kw_only=True)
class Resource:
    """What obeys set-points."""

    name: str
    minimum_w: float
    maximum_w: float
    scheduled_w: float = 0.0
    lag_s: float = 0.06
    ramp_w_per_s: float = math.inf
    capacity_wh: float | None = None
    """Energy that it stores; None: it is no storage."""
    charge_percent: float = 50.0
    """At the start."""


@dataclass(frozen=True, kw_only=True)
class Area:
    """Machines, resources, and the load that takes what they give."""

    name: str
    machines: tuple[Machine, ...]
    resources: tuple[Resource, ...] = ()
    damping_pu: float = 1.0
    """Relative change of the load over that of the frequency."""
    exchange_w: float = 0.0
    """What it gives to the others before any event."""

    @property
    def load_w(self) -> float:
        given_w = sum(each.power_w for each in self.machines) + sum(each.scheduled_w for each in self.resources)
        return given_w - self.exchange_w


@dataclass(frozen=True, kw_only=True)
class Tie:
    """A line between two areas, without losses."""

    begin: str
    end: str
    most_w: float
    """What it carries when the areas are 90 degrees apart."""
    damping_w_per_hz: float = 100e6
    """Against swings between the areas: what damper windings and stabilisers do. Governors alone let them grow."""


@dataclass(frozen=True, kw_only=True)
class LoadStep:
    """The load of an area changes; positive: it takes more."""

    at_s: float
    area: str
    power_w: float


@dataclass(frozen=True, kw_only=True)
class MachineTrip:
    """A machine leaves the grid, with its power and its inertia."""

    at_s: float
    machine: str


Event: TypeAlias = LoadStep | MachineTrip


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Areas and the lines between them."""

    areas: tuple[Area, ...]
    ties: tuple[Tie, ...] = ()


def plant(area: str) -> tuple[Resource, ...]:
    """A virtual power plant of 400 MW up and down: a storage and a power station at half load."""
    return (
        Resource(name=f"{area}_bess", minimum_w=-200e6, maximum_w=200e6, capacity_wh=400e6),
        Resource(name=f"{area}_chp", minimum_w=0.0, maximum_w=400e6, scheduled_w=200e6),
    )


def single_area(name: str = "north") -> Layout:
    """An area of 1 GW."""
    resources = plant(name)
    machine = Machine(
        name=f"{name}_steam", rated_power_w=1e9, power_w=1e9 - sum(each.scheduled_w for each in resources)
    )
    return Layout(areas=(Area(name=name, machines=(machine,), resources=resources),))


def two_areas(exchange_w: float = 0.0) -> Layout:
    """Two areas of 1 GW each, the first of which gives `exchange_w` to the other."""
    areas = []
    for name, given_w in (("north", exchange_w), ("south", -exchange_w)):
        [area] = single_area(name).areas
        areas.append(replace(area, exchange_w=given_w))
    return Layout(areas=tuple(areas), ties=(Tie(begin="north", end="south", most_w=500e6),))


@dataclass(slots=True)
class _Turbine:
    machine: Machine
    valve: float = 0.0
    chest: float = 0.0
    reheat: float = 0.0
    is_connected: bool = True

    @property
    def change_w(self) -> float:
        share = self.machine.high_pressure_share
        return self.machine.rated_power_w * (share * self.chest + (1.0 - share) * self.reheat)

    def advance(self, deviation_pu: float, h_s: float) -> None:
        machine = self.machine
        self.reheat += _toward(machine.reheat_lag_s, h_s) * (self.chest - self.reheat)
        self.chest += _toward(machine.chest_lag_s, h_s) * (self.valve - self.chest)
        self.valve += _toward(machine.valve_lag_s, h_s) * (-deviation_pu / machine.droop_pu - self.valve)


@dataclass(slots=True)
class _Actuator:
    resource: Resource
    power_w: float
    charge_percent: float
    setpoint_w: float
    decided_ns: int = -(2**62)
    valid_to_ns: int = -(2**62)
    is_obeying: bool = False

    @classmethod
    def of(cls, resource: Resource) -> _Actuator:
        return cls(resource, resource.scheduled_w, resource.charge_percent, resource.scheduled_w)

    def advance(self, now_ns: int, h_s: float) -> bool:
        """Follow the set-point; whether it expired in this step."""
        resource = self.resource
        expires = self.is_obeying and now_ns > self.valid_to_ns
        if expires:
            self.is_obeying = False
            self.setpoint_w = resource.scheduled_w
        wanted_w = min(max(self.setpoint_w, resource.minimum_w), resource.maximum_w)
        if resource.capacity_wh is not None:
            if self.charge_percent <= 0.0:
                wanted_w = min(wanted_w, 0.0)
            if self.charge_percent >= 100.0:
                wanted_w = max(wanted_w, 0.0)
        change_w = _toward(resource.lag_s, h_s) * (wanted_w - self.power_w)
        most_w = resource.ramp_w_per_s * h_s
        self.power_w += min(max(change_w, -most_w), most_w)
        if resource.capacity_wh is not None:
            self.charge_percent -= 100.0 * self.power_w * h_s / 3600.0 / resource.capacity_wh
        return expires


def _toward(lag_s: float, h_s: float) -> float:
    """How much of the way a first-order lag goes in one step."""
    return 1.0 - math.exp(-h_s / lag_s)


@dataclass(slots=True)
class Counts:
    """What became of set-points."""

    obeyed: int = 0
    late: int = 0
    """Not valid any more when they came, or older than the one in force."""
    unknown: int = 0
    """Values for what is no resource here, or in another quantity."""
    clipped: int = 0
    """Beyond what the hardware can: brought back to it."""
    expired: int = 0
    """Resources whose set-point ran out, and that went back to their scheduled power."""


@dataclass(frozen=True)
class Course:
    """What happened, at every frame; arrays of shape (frames, areas or resources)."""

    areas: tuple[str, ...]
    resources: tuple[str, ...]
    time_s: NDArray[np.float64]
    frequency_hz: NDArray[np.float64]
    exchange_w: NDArray[np.float64]
    power_w: NDArray[np.float64]
    setpoint_w: NDArray[np.float64]

    def deviation_hz(self, area: str) -> NDArray[np.float64]:
        return self.frequency_hz[:, self.areas.index(area)] - NOMINAL_HZ

    def nadir_hz(self, area: str) -> float:
        """The largest deviation, with its sign."""
        deviation = self.deviation_hz(area)
        return float(deviation[np.argmax(np.abs(deviation))])

    def settled_s(self, area: str, event_s: float, band_hz: float = 0.05) -> float:
        """How long after the event the deviation has come back into the band for good; infinite if it has not."""
        outside = np.flatnonzero(np.abs(self.deviation_hz(area)) > band_hz)
        if not len(outside):
            return 0.0
        if outside[-1] + 1 == len(self.time_s):
            return math.inf
        return float(self.time_s[outside[-1] + 1]) - event_s


class FrequencyGrid:
    """The grid as it goes on, frame by frame. The same `seed` gives the same noise.

    `delay_s` is how long a frame takes from the grid to whoever reads it; its time tag tells when it was measured.
    """

    def __init__(
        self,
        layout: Layout,
        events: Sequence[Event] = (),
        *,
        start_ns: int = START_NS,
        delay_s: float = 0.0,
        noise_hz: float = 2e-4,
        noise_w: float = 1e4,
        seed: int = 0,
    ) -> None:
        self.layout = layout
        self.counts = Counts()
        self.start_ns = start_ns
        self.frame = 0
        self._events = deque(sorted(events, key=lambda event: event.at_s))
        self._delay_frames = round(delay_s * FRAMES_PER_S)
        self._noise = noise_hz, noise_w
        self._random = np.random.default_rng(seed)
        self._areas = [_AreaState(area) for area in layout.areas]
        self._by_name = {state.area.name: state for state in self._areas}
        self._actuators = {each.resource.name: each for state in self._areas for each in state.actuators}
        self._ties = [(self._by_name[tie.begin], self._by_name[tie.end], tie) for tie in layout.ties]
        for begin, end, tie in self._ties:
            # The angle at rest that carries what the first area gives; with several ties they would share it.
            begin.angle_rad = end.angle_rad + math.asin(begin.area.exchange_w / tie.most_w)
        self.devices = (*self._by_name, *self._actuators)
        """PMUs: one at each area's border, one at each resource."""
        self._held: deque[Samples] = deque()
        self._course: list[tuple[list[float], list[float], list[float], list[float]]] = []
        unknown = {event.area for event in events if isinstance(event, LoadStep)} - self._by_name.keys()
        machines = {each.machine.name for state in self._areas for each in state.turbines}
        unknown |= {event.machine for event in events if isinstance(event, MachineTrip)} - machines
        if unknown:
            known = ", ".join((*self._by_name, *sorted(machines)))
            raise ValueError(f"no area or machine '{', '.join(sorted(unknown))}'; known: {known}")

    @property
    def time_s(self) -> float:
        return self.frame / FRAMES_PER_S

    @property
    def now_ns(self) -> int:
        return self.time_ns(self.frame)

    @property
    def power_w(self) -> float:
        """What all resources give together."""
        return sum(each.power_w for each in self._actuators.values())

    def time_ns(self, frame: int) -> int:
        return self.start_ns + frame * 1_000_000_000 // FRAMES_PER_S

    def happen(self, event: Event) -> None:
        """Let something happen now."""
        if isinstance(event, LoadStep):
            self._by_name[event.area].load_change_w += event.power_w
            return
        for state in self._areas:
            for turbine in state.turbines:
                if turbine.machine.name == event.machine:
                    turbine.is_connected = False

    def obey(self, told: Setpoints) -> None:
        """Take set-points over, at the time of the grid."""
        for name, value_w in told.values.items():
            actuator = self._actuators.get(name)
            if actuator is None or told.quantity != QUANTITY or not math.isfinite(value_w):
                self.counts.unknown += 1
                continue
            valid_to_ns = told.time_ns + round(told.valid_for_s * 1e9)
            if self.now_ns > valid_to_ns or told.time_ns < actuator.decided_ns:
                self.counts.late += 1
                continue
            self.counts.obeyed += 1
            self.counts.clipped += not actuator.resource.minimum_w <= value_w <= actuator.resource.maximum_w
            actuator.setpoint_w = value_w
            actuator.decided_ns, actuator.valid_to_ns = told.time_ns, valid_to_ns
            actuator.is_obeying = True

    def advance(self) -> Samples | None:
        """One frame further; what arrives of what was measured."""
        h_s = 1.0 / (FRAMES_PER_S * STEPS_PER_FRAME)
        while self._events and self._events[0].at_s <= self.time_s + 1e-9:
            self.happen(self._events.popleft())
        for step in range(STEPS_PER_FRAME):
            now_ns = self.now_ns + round(step * h_s * 1e9)
            for begin, end, tie in self._ties:
                flow_w = tie.most_w * math.sin(begin.angle_rad - end.angle_rad)
                flow_w += tie.damping_w_per_hz * (begin.frequency_hz - end.frequency_hz)
                begin.exchange_w += flow_w
                end.exchange_w -= flow_w
            for state in self._areas:
                self.counts.expired += state.advance(now_ns, h_s)
        self.frame += 1
        self._course.append(
            (
                [state.frequency_hz for state in self._areas],
                [state.border_w for state in self._areas],
                [each.power_w for each in self._actuators.values()],
                [each.setpoint_w for each in self._actuators.values()],
            )
        )
        self._held.append(self._measured())
        return self._held.popleft() if len(self._held) > self._delay_frames else None

    def _measured(self) -> Samples:
        states = [*self._areas, *(state for state in self._areas for _ in state.actuators)]
        rows = len(states)
        noise_hz, noise_w = self._noise
        actuators = list(self._actuators.values())
        power_w = np.array([*(state.border_w for state in self._areas), *(each.power_w for each in actuators)])
        power_w += self._random.normal(0.0, noise_w, rows)
        angle_rad = np.array([state.angle_rad for state in states])
        turns = np.rint(angle_rad / (2.0 * math.pi))
        charge = [
            math.nan if each.resource.capacity_wh is None else min(max(each.charge_percent, 0.0), 100.0)
            for each in actuators
        ]
        angle_rad -= 2.0 * math.pi * turns
        columns = {
            "frequency_hz": np.array([state.frequency_hz for state in states])
            + self._random.normal(0.0, noise_hz, rows),
            "rocof_hz_per_s": np.array([state.rocof_hz_per_s for state in states]),
            "voltage_v": np.full(rows, VOLTAGE_V),
            "voltage_angle_rad": angle_rad,
            # In phase with the voltage, or against it: reactive power is no matter here.
            "current_a": np.abs(power_w) / (3.0 * VOLTAGE_V),
            "current_angle_rad": np.where(power_w < 0.0, angle_rad - math.pi * np.sign(angle_rad), angle_rad),
            "active_power_w": power_w,
            "state_of_charge_percent": np.array([*(math.nan for _ in self._areas), *charge]),
        }
        return Samples(
            time_ns=np.full(rows, self.now_ns, dtype=np.int64),
            device=np.arange(rows, dtype=np.int32),
            devices=self.devices,
            columns=columns,
            quality=np.zeros(rows, dtype=np.uint16),
            received_ns=self.now_ns,
        )

    def course(self) -> Course:
        """All that happened so far."""
        columns = [np.array(column, dtype=np.float64) for column in zip(*self._course, strict=True)]
        time_s = np.arange(1, len(self._course) + 1) / FRAMES_PER_S
        return Course(tuple(self._by_name), tuple(self._actuators), time_s, *columns)


@dataclass(slots=True)
class _AreaState:
    area: Area
    turbines: list[_Turbine] = field(init=False)
    actuators: list[_Actuator] = field(init=False)
    frequency_hz: float = NOMINAL_HZ
    rocof_hz_per_s: float = 0.0
    angle_rad: float = 0.0
    """Against a reference at nominal frequency."""
    load_change_w: float = 0.0
    exchange_w: float = 0.0
    """Sum over the ties in the step under way."""
    border_w: float = field(init=False)
    """What went out in the last step."""

    def __post_init__(self) -> None:
        self.turbines = [_Turbine(machine) for machine in self.area.machines]
        self.actuators = [_Actuator.of(resource) for resource in self.area.resources]
        self.border_w = self.area.exchange_w

    def advance(self, now_ns: int, h_s: float) -> int:
        """One step further; how many set-points expired."""
        deviation_pu = self.frequency_hz / NOMINAL_HZ - 1.0
        surplus_w = self.area.exchange_w - self.exchange_w - self.load_change_w
        surplus_w -= self.area.damping_pu * self.area.load_w * deviation_pu
        energy_ws = 0.0
        for turbine in self.turbines:
            if not turbine.is_connected:
                surplus_w -= turbine.machine.power_w
                continue
            energy_ws += turbine.machine.inertia_s * turbine.machine.rated_power_w
            surplus_w += turbine.change_w
            turbine.advance(deviation_pu, h_s)
        for actuator in self.actuators:
            surplus_w += actuator.power_w - actuator.resource.scheduled_w
        if energy_ws <= 0.0:
            raise ValueError(f"area '{self.area.name}' has no machine left: nothing holds its frequency")
        self.border_w, self.exchange_w = self.exchange_w, 0.0
        self.rocof_hz_per_s = surplus_w * NOMINAL_HZ / (2.0 * energy_ws)
        self.frequency_hz += self.rocof_hz_per_s * h_s
        self.angle_rad += 2.0 * math.pi * (self.frequency_hz - NOMINAL_HZ) * h_s
        return sum(actuator.advance(now_ns, h_s) for actuator in self.actuators)


React: TypeAlias = Callable[[Samples | None, int], Iterable[Setpoints]]
"""`react(samples, now_ns)`: what is told after the frame that arrived (None: none did), at this time."""


def close_loop(grid: FrequencyGrid, react: React, seconds: float) -> Course:
    """Let the grid go on for so long, and obey what `react` tells after each frame."""
    for _ in range(round(seconds * FRAMES_PER_S)):
        samples = grid.advance()
        for told in react(samples, grid.now_ns):
            grid.obey(told)
    return grid.course()
