"""What was measured at a generating unit's terminals around an event: rows on a regular grid, then per unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import EstimateStatus, Quality, Samples
from edgeflex_operators._units import GeneratingUnit

PHASORS = ("voltage_v", "voltage_angle_rad", "current_a", "current_angle_rad")
WITHOUT_PHASORS = ("frequency_hz", "active_power_w")
MOST_NAMES = 12
LARGEST_VALUE = 1e12
"""No grid has more V, A or W: what is beyond is no measurement, and would overflow when squared."""
LEAST_FRAMES_PER_S = 20.0
"""25 less what a clock may be off; the rotor's swings are lost between fewer frames."""
UNUSABLE = int(Quality.BAD_DATA | Quality.SYNC_LOST | Quality.TEST)

LEAST_BEFORE_S = 1.0
LEAST_AFTER_S = 3.0
ONSET_MARGIN_S = 0.25
"""How long before the onset the baseline ends: the onset may be told late."""
LEAST_SHARE = 0.9
LONGEST_GAP_S = 0.2
MOST_JITTER = 0.2
"""Of a frame: time tags farther from the grid than this are another stream's, or a clock's that is being set."""

MOST_APPARENT_POWER_PU = 2.5
VOLTAGE_BAND_PU = (0.7, 1.3)
LEAST_POWER_PU = -0.02

TYPICAL_TRANSIENT_REACTANCE_PU = 0.3
TYPICAL_SUBTRANSIENT_RATIO = 0.75


class RefusedError(Exception):
    """No estimate for this reason."""

    def __init__(
        self,
        status: EstimateStatus,
        reason: str,
        *,
        power_before_pu: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.status: EstimateStatus = status
        self.power_before_pu = power_before_pu


@dataclass(frozen=True)
class Grid:
    """A unit's rows on a regular grid of n frames."""

    step_s: float
    time_s: NDArray[np.float64]
    """Relative to the onset."""
    valid: NDArray[np.bool_]
    before: int
    """Frames before the onset, less the margin."""
    columns: dict[str, NDArray[np.float64]]
    rows: int
    quality: int


# From rows to a grid --------------------------------------------------------------------------------------------------


def on_grid(samples: Samples, device: str, unit: GeneratingUnit, onset_ns: int, begin_ns: int, end_ns: int) -> Grid:
    """A device's rows from `begin_ns` until before `end_ns`; refuses wrong time tags and what leaves too little."""
    code = samples.devices.index(device) if device in samples.devices else -1
    mine = (samples.device == code) & (samples.time_ns >= begin_ns) & (samples.time_ns < end_ns)
    time_ns = samples.time_ns[mine]
    if len(time_ns) < 2:
        raise RefusedError("no_data", f"no rows of '{device}' in the window; rows of: {_some(samples.devices)}")
    if np.any(np.diff(time_ns) <= 0):
        raise RefusedError("bad_data", "time tags that do not increase")
    step_s = float(np.median(np.diff(time_ns))) * 1e-9
    steps_per_s = round(1.0 / step_s)
    if abs(1.0 / step_s - steps_per_s) < 0.02 * steps_per_s:
        step_s = 1.0 / steps_per_s  # time tags are rounded
    if step_s > 1.0 / LEAST_FRAMES_PER_S:
        raise RefusedError("bad_data", f"{1.0 / step_s:.3g} frames/s; at least {LEAST_FRAMES_PER_S:g} are needed")
    place_exact = (time_ns - time_ns[0]) * 1e-9 / step_s
    place = np.rint(place_exact).astype(np.int64)
    stray = np.abs(place_exact - place) > MOST_JITTER
    if stray.mean() > 0.02 or np.any(np.diff(place) == 0):
        raise RefusedError("bad_data", f"{int(stray.sum())} of {len(time_ns)} time tags off the frame rate's grid")
    flags = samples.quality[mine]
    usable = (flags & UNUSABLE) == 0
    columns = {name: values[mine] for name, values in samples.columns.items()}
    needed = _needed(columns, has_voltage=unit.rated_voltage is not None)
    for name in needed:
        usable &= np.abs(columns[name]) < LARGEST_VALUE
    n = int(place[-1]) + 1
    valid = np.zeros(n, dtype=np.bool_)
    valid[place[usable]] = True
    time_s = (time_ns[0] - onset_ns) * 1e-9 + step_s * np.arange(n)
    _check_coverage(valid, time_s, step_s, int(usable.sum()), len(time_ns))
    gridded = {name: _filled(columns[name][usable], place[usable], n, angle=name.endswith("_rad")) for name in needed}
    before = int(np.searchsorted(time_s, -ONSET_MARGIN_S))
    quality = int(np.bitwise_or.reduce(flags[usable], initial=0))
    return Grid(step_s, time_s, valid, before, gridded, int(usable.sum()), quality)


def _some(devices: tuple[str, ...]) -> str:
    return ", ".join(devices[:MOST_NAMES]) + (f" and {len(devices) - MOST_NAMES} more" if devices[MOST_NAMES:] else "")


def _needed(columns: dict[str, NDArray[np.float64]], *, has_voltage: bool) -> tuple[str, ...]:
    """The columns to use: phasors where most rows have them and the base is known, else frequency and power."""
    there = [
        names
        for names in (PHASORS, WITHOUT_PHASORS)
        if all(name in columns and np.isfinite(columns[name]).mean() > 0.5 for name in names)
    ]
    if there == [PHASORS] and not has_voltage:
        raise RefusedError(
            "no_unit_data", "phasors need the unit's rated_voltage, and there are no frequency and power"
        )
    if there:
        return there[0] if has_voltage else WITHOUT_PHASORS
    raise RefusedError(
        "no_data", f"neither {', '.join(PHASORS)} nor {', '.join(WITHOUT_PHASORS)}; known: {', '.join(columns)}"
    )


def _check_coverage(
    valid: NDArray[np.bool_], time_s: NDArray[np.float64], step_s: float, usable: int, rows: int
) -> None:
    if usable < rows * LEAST_SHARE:
        raise RefusedError("bad_data", f"only {usable} of {rows} rows are usable")
    first, last = (time_s[valid][[0, -1]]) if valid.any() else (0.0, 0.0)
    if first > -LEAST_BEFORE_S - ONSET_MARGIN_S or last < LEAST_AFTER_S:
        raise RefusedError(
            "no_data",
            f"rows from {first:.2f} s to {last:.2f} s about the onset; at least {-LEAST_BEFORE_S - ONSET_MARGIN_S:g} s "
            f"to {LEAST_AFTER_S:g} s are needed",
        )
    there = np.flatnonzero(valid)
    gap_s = float(np.diff(there).max(initial=1)) * step_s
    if gap_s > LONGEST_GAP_S:
        raise RefusedError("bad_data", f"a gap of {gap_s:.2f} s; at most {LONGEST_GAP_S:g} s")
    if valid[there[0] : there[-1] + 1].mean() < LEAST_SHARE:
        raise RefusedError("bad_data", f"only {int(valid.sum())} of {len(valid)} frames came")


def _filled(values: NDArray[np.float64], place: NDArray[np.int64], n: int, *, angle: bool) -> NDArray[np.float64]:
    """Values on the grid; the filter skips what is between, but the rotor's flux needs a current there."""
    filled: NDArray[np.float64] = np.interp(np.arange(n), place, np.unwrap(values) if angle else values)
    return filled


# From a grid to per unit ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PerUnit:
    """Terminal quantities in pu of the unit."""

    voltage: NDArray[np.complex128]
    current: NDArray[np.complex128]
    subtransient: float
    transient: float
    resistance: float
    remarks: tuple[str, ...]

    @property
    def power(self) -> NDArray[np.float64]:
        """Air-gap power."""
        real: NDArray[np.float64] = (self.voltage * np.conj(self.current)).real
        return real + self.resistance * np.abs(self.current) ** 2


def per_unit(grid: Grid, unit: GeneratingUnit, nominal_hz: float) -> PerUnit:
    """Terminal phasors in pu of the unit, put together from frequency and power where there are none."""
    remarks: list[str] = []
    transient = unit.transient_reactance_pu
    if transient is None:
        transient = TYPICAL_TRANSIENT_REACTANCE_PU
        remarks.append("typical_reactance")
    subtransient = unit.subtransient_reactance_pu or TYPICAL_SUBTRANSIENT_RATIO * transient
    columns = grid.columns
    rated_va = unit.rated_power * 1e6
    if "voltage_v" in columns:
        assert unit.rated_voltage is not None  # else on_grid does not take the phasors
        rated_v = unit.rated_voltage * 1e3 / math.sqrt(3.0)
        rated_a = rated_va / (3.0 * rated_v)
        voltage = _phasor(columns["voltage_v"] / rated_v, columns["voltage_angle_rad"])
        current = _phasor(columns["current_a"] / rated_a, columns["current_angle_rad"])
    else:
        # Nothing is known of voltage and reactive power; at rated voltage and unity power factor the rotor's angle
        # against the terminals still follows from power, which is most of what bus frequency lacks.
        remarks.append("bus_frequency")
        turned_rad = 2.0 * np.pi * np.cumsum(columns["frequency_hz"] - nominal_hz) * grid.step_s
        voltage = _phasor(np.ones_like(turned_rad), turned_rad)
        current = _phasor(columns["active_power_w"] / rated_va, turned_rad)
    return PerUnit(
        voltage, current, subtransient, max(transient, subtransient), unit.armature_resistance_pu, tuple(remarks)
    )


def _phasor(size: NDArray[np.float64], angle_rad: NDArray[np.float64]) -> NDArray[np.complex128]:
    return np.asarray(size * np.exp(1j * angle_rad), dtype=np.complex128)


def check_base(quantities: PerUnit, before: int) -> None:
    """Catch a wrong base, a wrong wiring and a unit that is not running."""
    voltage = float(np.median(np.abs(quantities.voltage[:before])))
    if not VOLTAGE_BAND_PU[0] <= voltage <= VOLTAGE_BAND_PU[1]:
        raise RefusedError(
            "implausible",
            f"voltage is {voltage:.2f} pu; are rated_voltage (line to line), voltage_v (line to ground) and "
            "the order of phases right?",
        )
    apparent = float(np.median(np.abs(quantities.voltage[:before] * quantities.current[:before])))
    if apparent > MOST_APPARENT_POWER_PU:
        raise RefusedError("implausible", f"apparent power is {apparent:.1f} pu; is rated_power right?")
    power = float(np.median(quantities.power[:before]))
    if power < LEAST_POWER_PU:
        raise RefusedError(
            "implausible", f"the unit takes {-power:.2f} pu; are polarity and phases of the current right?"
        )


def check_tripped(quantities: PerUnit, grid: Grid) -> None:
    """Refuse a unit that was lost in the event."""
    current = np.abs(quantities.current)
    first = float(np.median(current[: grid.before]))
    last = float(np.median(current[grid.time_s > grid.time_s[-1] - 0.5]))
    if first > 0.05 and last < 0.2 * first:
        raise RefusedError(
            "tripped",
            f"its current fell from {first:.2f} to {last:.2f} pu",
            power_before_pu=float(np.median(quantities.power[: grid.before])),
        )
