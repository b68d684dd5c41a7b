"""What every recorded file becomes: rows of all devices in order of time, with the columns of `COLUMNS`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeflex_connectors.c37118_columns import without_unit
from edgeflex_flow.errors import EdgeflexError, nearest
from edgeflex_flow.messages import Quality, Samples
from edgeflex_flow.units import SUFFIXES, UNITS, column_unit, conversion_factor, names_its_unit

COLUMNS: Final = ("frequency_hz", "voltage_v", "voltage_angle_rad", "current_a", "current_angle_rad")
"""Columns that a recording always has. Voltages are of the positive sequence, line to ground, rms."""
ACTIVE_POWER: Final = "active_power_w"
"""Three-phase power out of the device; a column only where the file gives it."""
MOST_ROWS: Final = 10_000_000
"""Bound on the rows of one recording, some 600 MB."""

QUANTITIES: Final = {
    "frequency": "frequency_hz",
    "voltage": "voltage_v",
    "voltage_angle": "voltage_angle_rad",
    "angle": "voltage_angle_rad",
    "current": "current_a",
    "current_angle": "current_angle_rad",
    "active_power": ACTIVE_POWER,
    "power": ACTIVE_POWER,
}
"""What a column's name may begin with, and the column that it becomes."""


def _fitting_names() -> Iterator[str]:
    for stem, column in QUANTITIES.items():
        unit = column_unit(column)
        assert unit is not None
        yield from (f"{stem}_{end}" for end, symbol in SUFFIXES.items() if UNITS[symbol].dimension == unit.dimension)


READABLE: Final = tuple(_fitting_names())
"""All names of columns that are read; values are converted by the unit that a name ends in."""


class RecordingError(EdgeflexError):
    """A recorded file cannot be used. The text names the file, the place in it and what is wrong."""


class UnitFacts(NamedTuple):
    """What a file tells of a generating unit. Impedances are in pu on `base_power_mva`; None or NaN: not told."""

    rated_power_mva: float
    base_power_mva: float
    rated_voltage_kv: float
    transient_reactance_pu: float | None
    subtransient_reactance_pu: float | None
    armature_resistance_pu: float
    has_governor: bool
    monitored: bool
    """Whether the unit counts in the sum over the system."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded file."""

    samples: Samples
    """All rows in order of time, each device at most once at each time."""
    units: Mapping[str, UnitFacts] = field(default_factory=dict)
    """By device, where the file tells of them."""
    warnings: tuple[str, ...] = ()
    """What an engineer should know, one text each."""

    def batches(self, period_s: float = 1.0) -> Iterator[Samples]:
        """The rows, those of each period in one batch."""
        samples = self.samples
        if not samples.rows:
            return
        # Modulo 2^64, so that no distance between two times overflows.
        since_ns = samples.time_ns.astype(np.uint64) - samples.time_ns[:1].astype(np.uint64)
        period = since_ns // np.uint64(round(period_s * 1e9))
        edges = np.flatnonzero(period[1:] != period[:-1]) + 1
        for rows in np.split(np.arange(samples.rows), edges):
            yield samples.take(rows)


class Target(NamedTuple):
    """Where the values of a column of a file go: `column` = value · `factor`."""

    column: str
    factor: float


def target_of(name: str) -> Target | None:
    """The column that a file's column becomes; None for one that is not read.

    Raises ValueError when it names a measurement without a unit, or with a unit of something else.

    >>> target_of("voltage_kv")
    Target(column='voltage_v', factor=1000.0)
    """
    if name in QUANTITIES:
        known = [each for each in READABLE if QUANTITIES.get(without_unit(each)) == QUANTITIES[name]]
        raise ValueError(f"the name '{name}' does not end in its unit; known: {', '.join(known)}")
    if not names_its_unit(name):
        close = nearest(name, READABLE)
        if close is None:
            return None
        raise ValueError(f"'{name}' does not end in a unit; did you mean '{close}'?")
    column = QUANTITIES.get(without_unit(name))
    if column is None:
        return None
    return Target(column, conversion_factor(name, column))


def unread(names: Iterable[str]) -> list[str]:
    """A warning that tells of columns that are not read; none when there are none."""
    texts = []
    for name in names:
        close = nearest(name, READABLE)
        texts.append(f"'{name}'" + (f" (did you mean '{close}'?)" if close else ""))
    return [f"columns that are not read: {', '.join(texts)}"] if texts else []


def read_columns(samples: Samples) -> tuple[Samples, list[str]]:
    """The samples with the columns of a recording instead of their own, and warnings.

    Of two columns that become the same, the first that has a value counts. Raises ValueError as `target_of` does.
    """
    columns: dict[str, NDArray[np.float64]] = {}
    others = []
    for name, values in samples.columns.items():
        target = target_of(name)
        if target is None:
            others.append(name)
            continue
        converted = values if target.factor == 1.0 else values * target.factor
        before = columns.get(target.column)
        columns[target.column] = converted if before is None else np.where(np.isnan(before), converted, before)
    return samples.with_columns(columns), unread(others)


def make_recording(
    file: Path,
    samples: Samples,
    *,
    nominal_hz: float | None = None,
    units: Mapping[str, UnitFacts] | None = None,
    warnings: Sequence[str] = (),
) -> Recording:
    """The recording of a file's rows, which may come in any order and lack columns.

    Rows of one device at one time become one row. Where a device has no frequency it is derived from the angle of its
    voltage and `nominal_hz`, and marked `estimated`. Raises RecordingError when nothing could be made of the rows.
    """
    if not samples.rows:
        raise RecordingError(f"{file}: there are no rows of measurements in it")
    missing = np.full(samples.rows, math.nan)
    columns = {name: samples.columns.get(name, missing) for name in COLUMNS}
    if ACTIVE_POWER in samples.columns:
        columns[ACTIVE_POWER] = samples.columns[ACTIVE_POWER]
    finite = {name: np.where(np.isinf(values), math.nan, values) for name, values in columns.items()}
    replayed = msgspec.structs.replace(
        samples, columns=finite, quality=samples.quality | np.uint16(Quality.REPLAYED), received_ns=0
    )
    told = list(warnings)
    merged, conflicts = merge_rows(replayed)
    if conflicts:
        told.append(f"{conflicts} rows repeat the time of another row of their device with other values: left out")
    derived, notes = derive_frequency(merged, nominal_hz)
    told += notes
    without = [name for name in COLUMNS if np.isnan(derived.columns[name]).all()]
    if COLUMNS[0] in without:
        there = [name for name in COLUMNS if name not in without]
        hint = "; to derive it from the angle, give the nominal frequency (--nominal)" if COLUMNS[2] in there else ""
        raise RecordingError(
            f"{file}: there is no frequency in it: no values of {COLUMNS[0]}{hint}; known: {', '.join(there) or 'none'}"
        )
    if without:
        told.append(f"no values of {', '.join(without)}")
    return Recording(derived, units or {}, tuple(told))


def merge_rows(samples: Samples) -> tuple[Samples, int]:
    """Rows in order of time and device, those of one device at one time made one; and how many contradicted another.

    Of several values for one place the first that is not NaN counts; flags are joined.
    """
    order = np.lexsort((samples.device, samples.time_ns))
    rows = samples.take(order)
    again = np.zeros(rows.rows, dtype=bool)
    again[1:] = (rows.time_ns[1:] == rows.time_ns[:-1]) & (rows.device[1:] == rows.device[:-1])
    if not again.any():
        return rows, 0
    place = np.cumsum(~again) - 1
    kept = rows.take(~again)
    # Backwards, since of several writes to one place the last stays.
    repeats = np.flatnonzero(again)[::-1]
    conflict = np.zeros(len(repeats), dtype=bool)
    columns = {}
    for name, values in rows.columns.items():
        first = kept.columns[name].copy()
        other, before = values[repeats], first[place[repeats]]
        fills = np.isnan(before) & ~np.isnan(other)
        first[place[repeats][fills]] = other[fills]
        conflict |= ~np.isnan(before) & ~np.isnan(other) & (before != other)
        columns[name] = first
    quality = kept.quality.copy()
    np.bitwise_or.at(quality, place[repeats], rows.quality[repeats])
    return msgspec.structs.replace(kept, columns=columns, quality=quality), int(conflict.sum())


def derive_frequency(samples: Samples, nominal_hz: float | None) -> tuple[Samples, list[str]]:
    """The samples with a frequency for devices that have none but an angle; and warnings.

    frequency = nominal + slope of the unwrapped angle / 2π, the angle being against a reference at nominal frequency.
    """
    frequency_hz, angle_rad = samples.columns["frequency_hz"], samples.columns["voltage_angle_rad"]
    known = np.bincount(samples.device[~np.isnan(frequency_hz)], minlength=len(samples.devices))
    angles = np.bincount(samples.device[~np.isnan(angle_rad)], minlength=len(samples.devices))
    devices = np.flatnonzero((known == 0) & (angles >= 2))
    if not len(devices):
        return samples, []
    named = ", ".join(samples.devices[device] for device in devices)
    if nominal_hz is None:
        return samples, [f"no frequency of {named}: to derive it from the angle, give the nominal frequency"]
    frequency_hz, quality = frequency_hz.copy(), samples.quality.copy()
    for device in devices:
        rows = np.flatnonzero((samples.device == device) & ~np.isnan(angle_rad))
        time_s = (samples.time_ns[rows] - samples.time_ns[rows[0]]) / 1e9
        frequency_hz[rows] = nominal_hz + np.gradient(np.unwrap(angle_rad[rows]), time_s) / math.tau
        quality[rows] |= np.uint16(Quality.ESTIMATED)
    derived = msgspec.structs.replace(
        samples, columns={**samples.columns, "frequency_hz": frequency_hz}, quality=quality
    )
    return derived, [f"frequency of {named} derived from the angle at nominal {nominal_hz:g} Hz"]
