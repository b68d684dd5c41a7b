"""What PMUs at the terminals of simulated units report, with the noise and the mistakes that PMUs come with.

    record = measure(simulate(two_areas(), 15.0, [LoadStep(at_s=3.0, load=0, power_mw=100.0)]), frames_per_s=50)
    for batch in record.batches(frames=50): ...
    record.save(Path("case.npz"))

Phasors are those of a class P PMU: a triangular window of one cycle to each side of the time tag. Frequency is the
slope of the voltage's angle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import Quality, Samples
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.swing_grid import BASE_MVA
from edgeflex_services.swing_simulator import STEPS_PER_CYCLE, LineSwitch, LoadStep, SwingRun


@dataclass(frozen=True, kw_only=True)
class PmuNoise:
    """White noise from frame to frame, the same of voltage and current."""

    frequency_hz: float = 0.001
    """Rms of the frequency when it is the central difference of the angle from frame to frame: the angle has the noise
    that makes this one, and the two agree."""
    power: float = 0.001
    """Rms of active power, as a share of it, at a power factor near 1: the magnitudes have the noise that makes it."""


@dataclass(frozen=True, kw_only=True)
class PmuFault:
    """What is wrong with one PMU. Phasors are spoilt; the power is measured apart and stays right."""

    clock_offset_s: float = 0.0
    """How far its clock is ahead: it measures this long before its time tag says. Power and frequency shift too."""
    gaps_s: tuple[tuple[float, float], ...] = ()
    """From when to when its frames are lost."""
    nan_share: float = 0.0
    """Share of frames without values, flagged as bad data."""
    voltage_angle_negated: bool = False
    """Two phases of the voltage are swapped."""
    current_angle_negated: bool = False
    """Two phases of the current are swapped."""
    current_reversed: bool = False
    """The current counts into the unit."""
    voltage_scale: float = 1.0
    """1/√3 for a line-to-ground voltage, or a ratio that was set wrong."""
    current_scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class PhaseJump:
    """All phasors of some PMUs turn at once, as their time source jumps. Nothing happens in the grid."""

    at_s: float
    angle_rad: float
    units: tuple[int, ...] | None = None
    """All by default."""


@dataclass(frozen=True)
class PmuRecord:
    """Frames of all PMUs and the truth beside them; arrays of shape (frames, units), pu on BASE_MVA."""

    run: SwingRun
    frames_per_s: int
    jump: PhaseJump | None
    time_s: NDArray[np.float64]
    voltage_pu: NDArray[np.float64]
    voltage_angle_rad: NDArray[np.float64]
    """Unwrapped, against a reference at nominal frequency."""
    current_pu: NDArray[np.float64]
    current_angle_rad: NDArray[np.float64]
    active_power: NDArray[np.float64]
    reactive_power: NDArray[np.float64]
    frequency_hz: NDArray[np.float64]
    rotor_speed_pu: NDArray[np.float64]
    """The truth, which no PMU sees."""
    lost: NDArray[np.bool_]
    """Frames that never arrived."""
    quality: NDArray[np.uint16]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(unit.name for unit in self.run.grid.units)

    @property
    def columns(self) -> Mapping[str, NDArray[np.float64]]:
        """The columns of `Samples`, each of shape (frames, units)."""
        base_v = np.array([unit.rated_voltage_kv * 1e3 / math.sqrt(3.0) for unit in self.run.grid.units])
        base_a = BASE_MVA * 1e6 / (3.0 * base_v)
        return {
            "frequency_hz": self.frequency_hz,
            "voltage_v": self.voltage_pu * base_v,
            "voltage_angle_rad": _wrapped(self.voltage_angle_rad),
            "current_a": self.current_pu * base_a,
            "current_angle_rad": _wrapped(self.current_angle_rad),
            "active_power_w": self.active_power * BASE_MVA * 1e6,
        }

    def samples(self, *, start_ns: int = 1_700_000_000 * NS_PER_S) -> Samples:
        """The whole record as one batch, frame after frame. Voltages are line to ground, rms."""
        arrived = ~self.lost.ravel()
        frames, units = self.frequency_hz.shape
        tags = start_ns + np.rint(self.time_s * 1e6).astype(np.int64) * 1000
        return Samples(
            time_ns=np.repeat(tags, units)[arrived],
            device=np.tile(np.arange(units, dtype=np.int32), frames)[arrived],
            devices=self.names,
            columns={name: values.ravel()[arrived] for name, values in self.columns.items()},
            quality=self.quality.ravel()[arrived],
            received_ns=int(tags[-1]),
        )

    def batches(self, *, frames: int, start_ns: int = 1_700_000_000 * NS_PER_S) -> Iterator[Samples]:
        """The record in batches of so many frames."""
        whole = self.samples(start_ns=start_ns)
        period_ns = NS_PER_S // self.frames_per_s
        frame = (whole.time_ns - start_ns + period_ns // 2) // period_ns
        cuts = np.searchsorted(frame, np.arange(frames, frame[-1] + 1, frames))
        for rows in np.split(np.arange(whole.rows), cuts):
            if len(rows):
                yield whole.take(rows)

    def save(self, file: Path) -> None:
        """Write a record with the fields of the recorded cases in `tests/data`: per unit, float32, no pickles."""
        units = self.run.grid.units
        scale = np.array([unit.rated_power_mva / BASE_MVA for unit in units])
        h = np.array([unit.inertia_s for unit in units])
        online = self.run.connected
        kind, device, at_s, mw = self._event()
        fields: dict[str, Any] = {
            "t": self.time_s,
            "omega": self.rotor_speed_pu,
            "v_mag": self.voltage_pu,
            "v_ang": self.voltage_angle_rad,
            "i_mag": self.current_pu,
            "i_ang": self.current_angle_rad,
            "p": self.active_power,
            "q": self.reactive_power,
            "bus_freq": self.frequency_hz,
        }
        np.savez_compressed(
            file,
            **{name: values if name == "t" else values.astype(np.float32) for name, values in fields.items()},
            gen=np.array(self.names),
            model=np.array(["swing"] * len(units)),
            bus=np.array([str(k) for k in range(len(units))]),
            sn=scale * BASE_MVA,
            m_sys=2.0 * h * scale,
            h=h,
            d_sys=np.array([unit.damping_pu for unit in units]) * scale,
            xd1=np.array([unit.xd1_pu for unit in units]) / scale,
            xd2=np.array([unit.xd2_pu for unit in units]) / scale,
            ra=np.array([unit.resistance_pu for unit in units]) / scale,
            has_gov=np.array([unit.turbine is not None for unit in units]),
            monitored=np.ones(len(units), dtype=np.bool_),
            online=online,
            f0=self.run.grid.nominal_hz,
            s_base=BASE_MVA,
            fps=self.frames_per_s,
            ek_mws=self.run.inertia_mws[online].sum(),
            ek_all_mws=self.run.inertia_mws.sum(),
            event_time=at_s,
            event_kind=kind,
            event_device=device,
            event_mw=mw,
            tripped=device if kind == "trip" else "",
            total_load_mw=self.run.load_power[0] * BASE_MVA,
        )

    def _event(self) -> tuple[str, str, float, float]:
        """Kind, device, time and lost power of the first event."""
        units = self.run.grid.units
        if self.jump is not None:
            return "phase_jump", "", self.jump.at_s, 0.0
        if not self.run.events:
            return "ambient", "", 0.0, 0.0
        event = self.run.events[0]
        if isinstance(event, LoadStep):
            return "load", f"load {event.load}", event.at_s, event.power_mw
        if isinstance(event, LineSwitch):
            return "line", f"line {event.line}", event.at_s, 0.0
        step = round(event.at_s / (self.run.time_s[1] - self.run.time_s[0]))
        before = (self.run.voltage[step - 1, event.unit] * np.conj(self.run.current[step - 1, event.unit])).real
        return "trip", units[event.unit].name, event.at_s, float(before) * BASE_MVA


def measure(
    run: SwingRun,
    *,
    frames_per_s: int = 50,
    noise: PmuNoise | None = None,
    faults: Mapping[int, PmuFault] | None = None,
    jump: PhaseJump | None = None,
    seed: int = 0,
) -> PmuRecord:
    """Frames of a PMU at each unit; `faults` by the unit's index. The same `seed` gives the same noise.

    Frames lie where the filter has its whole window: they begin after the run does and end before.
    """
    grid = run.grid
    random = np.random.default_rng(seed)
    first = math.ceil(frames_per_s * max((abs(each.clock_offset_s) for each in (faults or {}).values()), default=0.0))
    first += math.ceil(frames_per_s / grid.nominal_hz)
    last = math.floor(run.time_s[-1] * frames_per_s) - first
    time_s = np.arange(first, last + 1) / frames_per_s
    shape = len(time_s), len(grid.units)
    turn = _jump_phasor(run, jump)
    made = {name: np.empty(shape) for name in ("v", "va", "i", "ia", "f", "w")}
    for k in range(len(grid.units)):
        fault = (faults or {}).get(k, PmuFault())
        when = time_s - fault.clock_offset_s
        behind_rad = 2.0 * np.pi * grid.nominal_hz * fault.clock_offset_s
        for magnitude, angle, phasor in (("v", "va", run.voltage[:, k]), ("i", "ia", run.current[:, k])):
            seen = _filtered(phasor * turn[:, k])
            angles = np.unwrap(np.angle(seen))
            made[magnitude][:, k] = np.interp(when, run.time_s, np.abs(seen))
            made[angle][:, k] = np.interp(when, run.time_s, angles) - behind_rad
            if angle == "va":
                slope = np.gradient(angles, run.time_s)
                made["f"][:, k] = grid.nominal_hz + np.interp(when, run.time_s, slope) / (2.0 * np.pi)
        made["w"][:, k] = np.interp(time_s, run.time_s, run.speed_pu[:, k])
    if noise is not None:
        _add_noise(made, noise, frames_per_s, random)
    power = made["v"] * made["i"] * np.exp(1j * (made["va"] - made["ia"]))
    active, reactive = power.real.copy(), power.imag.copy()
    lost = np.zeros(shape, dtype=np.bool_)
    quality = np.zeros(shape, dtype=np.uint16)
    for k, fault in (faults or {}).items():
        _spoil(made, k, fault)
        for begin_s, end_s in fault.gaps_s:
            lost[(time_s >= begin_s) & (time_s < end_s), k] = True
        blank = random.random(len(time_s)) < fault.nan_share
        quality[blank, k] = int(Quality.BAD_DATA)
        for values in (made["v"], made["va"], made["i"], made["ia"], made["f"], active, reactive):
            values[blank, k] = np.nan
    return PmuRecord(
        run=run,
        frames_per_s=frames_per_s,
        jump=jump,
        time_s=time_s,
        voltage_pu=made["v"],
        voltage_angle_rad=made["va"],
        current_pu=made["i"],
        current_angle_rad=made["ia"],
        active_power=active,
        reactive_power=reactive,
        frequency_hz=made["f"],
        rotor_speed_pu=made["w"],
        lost=lost,
        quality=quality,
    )


def _jump_phasor(run: SwingRun, jump: PhaseJump | None) -> NDArray[np.complex128]:
    turn = np.ones((len(run.time_s), len(run.grid.units)), dtype=np.complex128)
    if jump is not None:
        for k in range(turn.shape[1]) if jump.units is None else jump.units:
            turn[run.time_s >= jump.at_s - 1e-9, k] = np.exp(1j * jump.angle_rad)
    return turn


def _filtered(phasor: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """A triangular mean over one cycle to each side; at the ends, where it does not fit, the phasor itself."""
    weights = STEPS_PER_CYCLE + 1 - np.abs(np.arange(-STEPS_PER_CYCLE, STEPS_PER_CYCLE + 1.0))
    seen = phasor.copy()
    seen[STEPS_PER_CYCLE:-STEPS_PER_CYCLE] = np.convolve(phasor, weights / weights.sum(), "valid")
    return seen


def _add_noise(
    made: dict[str, NDArray[np.float64]], noise: PmuNoise, frames_per_s: int, random: np.random.Generator
) -> None:
    frames, units = made["f"].shape
    angle_rad = noise.frequency_hz * 4.0 * np.pi / (frames_per_s * math.sqrt(2.0))
    # One more frame to each side, so that the frequency of every frame has its two neighbours.
    of_voltage = random.normal(0.0, angle_rad, (frames + 2, units))
    made["va"] += of_voltage[1:-1]
    made["f"] += (of_voltage[2:] - of_voltage[:-2]) * frames_per_s / (4.0 * np.pi)
    made["ia"] += random.normal(0.0, angle_rad, (frames, units))
    for name in ("v", "i"):
        made[name] *= 1.0 + random.normal(0.0, noise.power / math.sqrt(2.0), (frames, units))


def _spoil(made: dict[str, NDArray[np.float64]], k: int, fault: PmuFault) -> None:
    if fault.voltage_angle_negated:
        made["va"][:, k] *= -1.0
    if fault.current_angle_negated:
        made["ia"][:, k] *= -1.0
    if fault.current_reversed:
        made["ia"][:, k] += np.pi
    made["v"][:, k] *= fault.voltage_scale
    made["i"][:, k] *= fault.current_scale


def _wrapped(angle_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """The angle within ±π, as PMUs send it."""
    return angle_rad - 2.0 * np.pi * np.rint(angle_rad / (2.0 * np.pi))
