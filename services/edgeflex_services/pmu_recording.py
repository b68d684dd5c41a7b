"""A recorded disturbance of the IEEE 39-bus system, as the PMUs at its ten generators would report it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

BASE_VOLTAGE_V: Final = 345e3
"""Nominal line-to-line voltage of the IEEE 39-bus system."""
RESTORE_S: Final = 30.0
"""How long the frequency takes back to nominal when the recording is repeated: slow enough to be no event."""
RECORDING: Final = Path(__file__).parent / "data" / "ieee39_load_step.npz"


class Measurements(NamedTuple):
    """What each generator's PMU measures, all of shape (frames, generators)."""

    voltage_v: NDArray[np.float64]
    """Positive sequence, line to ground."""
    voltage_angle_rad: NDArray[np.float64]
    """Unwrapped, against a reference at nominal frequency."""
    current_a: NDArray[np.float64]
    current_angle_rad: NDArray[np.float64]
    frequency_hz: NDArray[np.float64]
    rocof_hz_per_s: NDArray[np.float64]

    @property
    def active_power_w(self) -> NDArray[np.float64]:
        """Three-phase power out of the generator."""
        return 3.0 * self.voltage_v * self.current_a * np.cos(self.voltage_angle_rad - self.current_angle_rad)


@dataclass(frozen=True)
class Recording:
    """A disturbance from before its onset until the system has settled."""

    generators: tuple[str, ...]
    frames_per_s: int
    nominal_hz: float
    event_frame: int
    """First frame after the onset."""
    measured: Measurements

    @classmethod
    def load(cls, file: Path = RECORDING) -> Recording:
        """Read a recording; its fields are described in `data/README.md`."""
        with np.load(file) as data:
            frames_per_s = int(data["fps"])
            frequency_hz = data["bus_freq"].astype(np.float64)
            power_va = float(data["s_base"]) * 1e6
            return cls(
                generators=tuple(str(name) for name in data["gen"]),
                frames_per_s=frames_per_s,
                nominal_hz=float(data["f0"]),
                event_frame=int(np.searchsorted(data["t"], float(data["event_time"]))),
                measured=Measurements(
                    voltage_v=data["v_mag"].astype(np.float64) * BASE_VOLTAGE_V / math.sqrt(3.0),
                    voltage_angle_rad=data["v_ang"].astype(np.float64),
                    current_a=data["i_mag"].astype(np.float64) * power_va / (math.sqrt(3.0) * BASE_VOLTAGE_V),
                    current_angle_rad=data["i_ang"].astype(np.float64),
                    frequency_hz=frequency_hz,
                    rocof_hz_per_s=np.gradient(frequency_hz, 1.0 / frames_per_s, axis=0),
                ),
            )


class Playback:
    """A recording stretched over any time: equilibrium, the event at `event_at_s`, the response, and then

    - once: the last values go on, angles turning at the last frequency;
    - repeated (`loop`): within RESTORE_S the frequency returns to nominal, as secondary control would have it, and the
      recording begins again. Every quantity goes on without a step, so that only the event is an event.
    """

    def __init__(self, recording: Recording, *, event_at_s: float, loop: bool) -> None:
        self._recording = recording
        self._loop = loop
        self._shift = recording.event_frame - round(event_at_s * recording.frames_per_s)
        measured = recording.measured
        self._cycle = _join(measured, _restoration(recording)) if loop else measured
        self._frames = len(self._cycle.frequency_hz)
        # A cycle ends where it began, turned by an angle that is the same for all generators.
        self._turn_rad = _restored_turn_rad(recording) if loop else 0.0

    def frames_at(self, frame: NDArray[np.int64]) -> Measurements:
        """What is measured at these frames, counted from the start of the playback."""
        place = np.maximum(frame + self._shift, 0)
        if self._loop:
            turns, place = np.divmod(place, self._frames)
            ahead_rad = turns[:, np.newaxis] * self._turn_rad
            over = np.zeros_like(place)
        else:
            over = np.maximum(place - (self._frames - 1), 0)
            place = place - over
            off_hz = self._cycle.frequency_hz[-1] - self._recording.nominal_hz
            ahead_rad = math.tau * off_hz * over[:, np.newaxis] / self._recording.frames_per_s
        taken = Measurements(*(values[place] for values in self._cycle))
        return taken._replace(
            voltage_angle_rad=taken.voltage_angle_rad + ahead_rad,
            current_angle_rad=taken.current_angle_rad + ahead_rad,
            rocof_hz_per_s=np.where(over[:, np.newaxis] > 0, 0.0, taken.rocof_hz_per_s),
        )


def _common_turn_rad(recording: Recording) -> float:
    """By how much the grid as a whole turned against the reference during the recording."""
    angle = recording.measured.voltage_angle_rad
    return float(np.mean(angle[-1] - angle[0]))


def _restored_turn_rad(recording: Recording) -> float:
    """By how much it turned when the frequency is restored too: half of what it would turn without."""
    off_hz = float(np.mean(recording.measured.frequency_hz[-1])) - recording.nominal_hz
    return _common_turn_rad(recording) + math.pi * off_hz * RESTORE_S


def _restoration(recording: Recording) -> Measurements:
    """The frames between the end of a recording and its next beginning.

    The grid's frequency returns by a smoothstep; each generator's angle against the grid and its frequency by a cubic
    Hermite curve; magnitudes and the angle between voltage and current by a smoothstep.
    """
    measured = recording.measured
    steps = round(RESTORE_S * recording.frames_per_s)
    u = (np.arange(1, steps) / steps)[:, np.newaxis]
    smooth = u * u * (3.0 - 2.0 * u)
    end_hz, angle = measured.frequency_hz[-1], measured.voltage_angle_rad
    grid_hz = float(np.mean(end_hz))
    off_hz = grid_hz - recording.nominal_hz
    turned_rad = _common_turn_rad(recording)
    grid_rad = turned_rad + math.tau * off_hz * RESTORE_S * (u - u**3 + u**4 / 2.0)
    slope_rad = math.tau * (end_hz - grid_hz) * RESTORE_S
    apart_rad = (1.0 - smooth) * (angle[-1] - turned_rad) + smooth * angle[0] + (u**3 - 2.0 * u * u + u) * slope_rad
    apart_slope_rad = 6.0 * (u * u - u) * (angle[-1] - turned_rad - angle[0]) + (3 * u * u - 4 * u + 1) * slope_rad
    frequency_hz = recording.nominal_hz + off_hz * (1.0 - smooth) + apart_slope_rad / (math.tau * RESTORE_S)
    lag_rad = measured.current_angle_rad - angle

    def blend(values: NDArray[np.float64]) -> NDArray[np.float64]:
        blended: NDArray[np.float64] = values[-1] + smooth * (values[0] - values[-1])
        return blended

    return Measurements(
        voltage_v=blend(measured.voltage_v),
        voltage_angle_rad=grid_rad + apart_rad,
        current_a=blend(measured.current_a),
        current_angle_rad=grid_rad + apart_rad + blend(lag_rad),
        frequency_hz=frequency_hz,
        rocof_hz_per_s=np.gradient(frequency_hz, 1.0 / recording.frames_per_s, axis=0),
    )


def _join(first: Measurements, second: Measurements) -> Measurements:
    return Measurements(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))
