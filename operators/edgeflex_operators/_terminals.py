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
POWERS_AGREE = 0.05
"""Relative: errors of two meters, and losses of a transformer between them, are less."""
SMALL_POWER_PU = 0.05
"""With less the ratio of two measured powers tells nothing."""
NO_CURRENT_PU = 0.01
NO_PHASE = 0.7
"""Noise has no phase: the mean of an open transformer's current is this many times smaller than its size, or less. The
small current of a machine that idles at the grid, or of one with a wrong rating, has one."""
FALLS_TO = 0.2
"""Of its current before: what is left of a unit that has tripped."""
TRIPS_WITHIN_S = 0.25
"""A unit that trips later did not make the event: its power is not what the grid lost at the onset."""
COARSEST_HZ = 2.5e-3
"""Frequency in larger steps hides how it bends, and inertia comes out too high. C37.118 has 1 mHz."""

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
    told_power_w: float | None
    """Median before the onset of the power that the device measures by itself, if it does."""
    told_after_w: float | None
    """The same over the last half second."""


# From rows to a grid --------------------------------------------------------------------------------------------------


def on_grid(samples: Samples, device: str, unit: GeneratingUnit, onset_ns: int, begin_ns: int, end_ns: int) -> Grid:
    """A device's rows from `begin_ns` until before `end_ns`; refuses wrong time tags and what leaves too little."""
    code = samples.devices.index(device) if device in samples.devices else -1
    mine = (samples.device == code) & (samples.time_ns >= begin_ns) & (samples.time_ns < end_ns)
    time_ns = samples.time_ns[mine]
    if len(time_ns) < 2:
        raise RefusedError("no_data", f"no rows of '{device}' in the window; rows of: {_some_senders(samples)}")
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
    if needed == WITHOUT_PHASORS:
        _check_fineness(columns["frequency_hz"][usable])
    quality = int(np.bitwise_or.reduce(flags[usable], initial=0))
    told = _told_power_w(columns, usable & (time_ns < onset_ns - ONSET_MARGIN_S * 1e9))
    told_after = _told_power_w(columns, usable & (time_ns > time_ns[-1] - 500_000_000))
    return Grid(step_s, time_s, valid, before, gridded, int(usable.sum()), quality, told, told_after)


def _some_senders(samples: Samples) -> str:
    names = [samples.devices[code] for code in np.unique(samples.device).tolist()]
    more = f" and {len(names) - MOST_NAMES} more" if names[MOST_NAMES:] else ""
    return (", ".join(names[:MOST_NAMES]) or "none") + more


def _told_power_w(columns: dict[str, NDArray[np.float64]], rows: NDArray[np.bool_]) -> float | None:
    if "active_power_w" not in columns:
        return None
    power = columns["active_power_w"][rows]
    power = power[np.isfinite(power)]
    return float(np.median(power)) if len(power) else None


def _check_fineness(frequency_hz: NDArray[np.float64]) -> None:
    levels = np.unique(np.round(frequency_hz, 6))
    finest_hz = float(np.diff(levels).min(initial=np.inf))
    if COARSEST_HZ < finest_hz < np.inf:
        raise RefusedError(
            "bad_data",
            f"frequency comes in steps of {1e3 * finest_hz:.3g} mHz, too coarse without phasors; at most "
            f"{1e3 * COARSEST_HZ:g} mHz",
        )


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


def check_voltage(quantities: PerUnit, before: int, least_pu: float) -> None:
    """Refuse a voltage that no unit has; one that does not turn may have none."""
    voltage = float(np.median(np.abs(quantities.voltage[:before])))
    if not least_pu <= voltage <= VOLTAGE_BAND_PU[1]:
        raise RefusedError(
            "implausible",
            f"voltage is {voltage:.2f} pu; are rated_voltage (line to line), voltage_v (line to ground) and "
            "the order of phases right?",
        )


def check_base(quantities: PerUnit, grid: Grid, rated_power_mva: float) -> None:
    """Catch a wrong base, a wrong wiring and wrong ratios of transformers."""
    before = grid.before
    check_voltage(quantities, before, VOLTAGE_BAND_PU[0])
    apparent = float(np.median(np.abs(quantities.voltage[:before] * quantities.current[:before])))
    if apparent > MOST_APPARENT_POWER_PU:
        raise RefusedError("implausible", f"apparent power is {apparent:.1f} pu; is rated_power right?")
    power = float(np.median(quantities.power[:before]))
    if power < LEAST_POWER_PU:
        raise RefusedError(
            "implausible", f"the unit takes {-power:.2f} pu; are polarity and phases of the current right?"
        )
    if grid.told_power_w is not None:
        _check_ratios(quantities, grid.told_power_w / (rated_power_mva * 1e6), before)


def _check_ratios(quantities: PerUnit, told_pu: float, before: int) -> None:
    """Power that is measured on its own shows a wrong ratio, which scales power and H alike and spoils no fit."""
    ours_pu = float(np.median((quantities.voltage * np.conj(quantities.current)).real[:before]))
    if max(abs(ours_pu), abs(told_pu)) < SMALL_POWER_PU:
        return
    if abs(ours_pu - told_pu) > POWERS_AGREE * abs(told_pu):
        raise RefusedError(
            "implausible",
            f"voltage and current make {ours_pu:.3f} pu of power, active_power_w is {told_pu:.3f} pu; are the ratios "
            "of voltage and current transformers right?",
        )


def check_connected(quantities: PerUnit, grid: Grid, rated_power_mva: float) -> None:
    """Refuse a unit that is off line, or was lost in the event, unless the power that is told says otherwise."""
    check_voltage(quantities, grid.before, 0.0)
    current = np.abs(quantities.current)
    told_pu = [abs(told or 0.0) / (rated_power_mva * 1e6) for told in (grid.told_power_w, grid.told_after_w)]
    first = float(np.median(current[: grid.before]))
    last = float(np.median(current[grid.time_s > grid.time_s[-1] - 0.5]))
    largest = float(np.median(np.sort(current[grid.time_s > 0.0])[-10:]))
    if max(first, largest) < NO_CURRENT_PU and _has_no_phase(quantities):
        _refuse_dead_current(max(told_pu), largest)
        raise RefusedError("offline", f"its current is {largest:.2g} pu at most, and noise")
    if first > 0.05 and last < FALLS_TO * first:
        _refuse_dead_current(told_pu[1] - FALLS_TO * told_pu[0], last)
        fell_s = float(grid.time_s[(grid.time_s > -ONSET_MARGIN_S) & (current < FALLS_TO * first)][0])
        power_pu = float(np.median(quantities.power[: grid.before])) if fell_s <= TRIPS_WITHIN_S else None
        raise RefusedError(
            "tripped",
            f"its current fell from {first:.2f} to {last:.2f} pu {fell_s:.1f} s after the onset",
            power_before_pu=power_pu,
        )


def _has_no_phase(quantities: PerUnit) -> bool:
    turned = quantities.current * np.exp(-1j * np.angle(quantities.voltage))
    return bool(abs(turned.mean()) <= (1.0 - NO_PHASE) * np.abs(turned).mean())


def _refuse_dead_current(told_pu: float, current_pu: float) -> None:
    """A current of none beside power is a meter's fault, not a unit that is off line."""
    if told_pu > SMALL_POWER_PU:
        raise RefusedError(
            "implausible",
            f"its current is {current_pu:.2g} pu, yet active_power_w tells of {told_pu:.2f} pu more; is the current "
            "transformer connected?",
        )
