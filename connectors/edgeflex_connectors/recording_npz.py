"""Recordings in npz files: terminal phasors of simulated or measured generating units, and what `file_write` wrote.

Phasors: arrays `t` (n,) in s and `gen` (m,) names; of shape (n, m) `bus_freq` in Hz, `v_mag`, `i_mag`, `p` in pu and
`v_ang`, `i_ang` in rad against a reference at nominal frequency; `s_base` in MVA, `f0` in Hz. Of the units, shape (m,):
`sn` in MVA, `xd1`, `xd2`, `ra` in pu on `s_base`, `has_gov`, `monitored`. Nothing else in such a file is read: files of
simulations hold the answer too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeflex_connectors.npz_arrays import NpzError, NpzFile, open_npz
from edgeflex_connectors.recording_table import (
    ACTIVE_POWER,
    MOST_ROWS,
    READABLE,
    Recording,
    RecordingError,
    UnitFacts,
    make_recording,
    read_columns,
    target_of,
    unread,
)
from edgeflex_connectors.records import part_files
from edgeflex_flow.messages import Samples, join_samples

NOMINALS_HZ: Final = (50.0, 60.0)
BASE_VOLTAGE_V: Final = 20e3
"""Line-to-line voltage that 1 pu stands for. The files do not tell theirs, and it cancels out of results in pu."""
SIGNALS: Final = ("bus_freq", "v_mag", "v_ang", "i_mag", "i_ang", "p")
TABLE_FIELDS: Final = ("time_ns", "device", "devices", "quality")
"""Arrays of the project's own tables, beside one for each column."""
_LATEST_S: Final = 9e9
"""Time in s that 64 bits of nanoseconds hold."""


def read_npz_recording(file: Path, nominal_hz: float | None) -> Recording:
    """A recording in an npz file, or in the parts `name-0001.npz` … of one. Raises RecordingError, OSError."""
    parts = [file] if file.is_file() or not file.parent.is_dir() else part_files(file)
    if len(parts) > 1:
        tables = [_read_table_file(part) for part in parts]
        samples, _ = read_columns(join_samples(tables))
        return make_recording(file, samples, nominal_hz=nominal_hz)
    only = parts[0] if parts else file
    try:
        with open_npz(only) as arrays:
            if "time_ns" in arrays:
                samples, _ = read_columns(_read_table(only, arrays))
                others = unread(name for name in arrays.names if name not in (*TABLE_FIELDS, *READABLE))
                return make_recording(only, samples, nominal_hz=nominal_hz, warnings=others)
            return _Phasors(only, arrays).recording(nominal_hz)
    except NpzError as error:
        raise RecordingError(f"{only}: {error}") from error


def _read_table_file(file: Path) -> Samples:
    try:
        with open_npz(file) as arrays:
            return _read_table(file, arrays)
    except NpzError as error:
        raise RecordingError(f"{file}: {error}") from error


def _read_table(file: Path, arrays: NpzFile) -> Samples:
    """The table that `file_write` wrote, with those of its columns that are read."""
    fields = {name: _array(file, arrays, name) for name in TABLE_FIELDS}
    devices = fields["devices"]
    if devices.ndim != 1 or devices.dtype.kind != "U":
        raise RecordingError(f"{file}: field 'devices': one-dimensional text expected; got {_form(devices)}")
    if fields["time_ns"].size > MOST_ROWS:
        raise RecordingError(f"{file}: {fields['time_ns'].size} rows; at most {MOST_ROWS} are read")
    try:
        read = [name for name in arrays.names if name not in TABLE_FIELDS and target_of(name) is not None]
    except ValueError as error:
        raise RecordingError(f"{file}: field {error}") from error
    samples = Samples(
        time_ns=fields["time_ns"],
        device=fields["device"],
        devices=tuple(devices.tolist()),
        columns={name: _array(file, arrays, name) for name in read},
        quality=fields["quality"],
        received_ns=0,
    )
    problem = "; ".join(samples.problems())
    if problem:
        raise RecordingError(f"{file}: field {problem}")
    return samples


def _array(file: Path, arrays: NpzFile, name: str) -> NDArray[Any]:
    if name not in arrays:
        raise RecordingError(f"{file}: field '{name}' is missing")
    try:
        return arrays.read(name)
    except NpzError as error:
        raise RecordingError(f"{file}: field '{name}' {error}") from error


def _form(array: NDArray[Any]) -> str:
    return f"shape {array.shape} of {array.dtype}"


class _Phasors:
    """Reads a file of terminal phasors."""

    def __init__(self, file: Path, arrays: NpzFile) -> None:
        self._file = file
        self._arrays = arrays
        self._warnings: list[str] = []
        if "t" not in arrays:
            raise self._wrong("t", "is missing: neither a recording of phasors nor a table of samples")
        self._time_ns = self._read_times()
        self._gens = self._read_names()
        if len(self._time_ns) * len(self._gens) > MOST_ROWS:
            raise self._wrong("t", f"has {len(self._time_ns)} times of {len(self._gens)} units: more than {MOST_ROWS}")

    def _wrong(self, name: str, text: str) -> RecordingError:
        return RecordingError(f"{self._file}: field '{name}' {text}")

    def _numbers(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """An array of numbers of this shape."""
        array = _array(self._file, self._arrays, name)
        if array.dtype.kind not in "fiub" or array.shape != shape:
            raise self._wrong(name, f"has {_form(array)}; expected numbers of shape {shape}")
        return array.astype(np.float64)

    def _read_times(self) -> NDArray[np.int64]:
        array = _array(self._file, self._arrays, "t")
        if array.dtype.kind not in "fiu" or array.ndim != 1 or len(array) < 2:
            raise self._wrong("t", f"has {_form(array)}; expected two or more numbers in one dimension")
        time_s = array.astype(np.float64)
        outside = np.flatnonzero(~(np.abs(time_s) < _LATEST_S))
        if len(outside):
            raise self._wrong("t", f"is {time_s[outside[0]]} at index {outside[0]}; expected seconds")
        time_ns = np.rint(time_s * 1e9).astype(np.int64)
        back = np.flatnonzero(np.diff(time_ns) <= 0)
        if len(back):
            at = back[0]
            raise self._wrong(
                "t", f"does not rise from index {at} to {at + 1}: {time_s[at]:.12g} s, then {time_s[at + 1]:.12g} s"
            )
        return time_ns

    def _read_names(self) -> tuple[str, ...]:
        array = _array(self._file, self._arrays, "gen")
        if array.dtype.kind != "U" or array.ndim != 1 or not len(array):
            raise self._wrong("gen", f"has {_form(array)}; expected names in one dimension")
        names: list[str] = array.tolist()
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise self._wrong("gen", f"names '{twice[0]}' twice")
        return tuple(names)

    def _scalar(self, name: str) -> float:
        value = float(self._numbers(name, ()))
        if not (math.isfinite(value) and value > 0.0):
            raise self._wrong(name, f"is {value}; expected a positive number")
        return value

    def recording(self, nominal_hz: float | None) -> Recording:
        nominal_hz = self._nominal_hz(nominal_hz)
        if "bus_freq" not in self._arrays and "v_ang" not in self._arrays:
            raise self._wrong("bus_freq", "is missing, and so is 'v_ang', from which it could be derived")
        samples = self._samples()
        units = self._units()
        return make_recording(self._file, samples, nominal_hz=nominal_hz, units=units, warnings=self._warnings)

    def _nominal_hz(self, given_hz: float | None) -> float | None:
        if "f0" not in self._arrays:
            return given_hz
        own_hz = self._scalar("f0")
        if own_hz not in NOMINALS_HZ:
            raise self._wrong("f0", f"is {own_hz:g}; nominal is 50 or 60 Hz")
        if given_hz not in (None, own_hz):
            raise self._wrong("f0", f"is {own_hz:g}; {given_hz:g} Hz was given as the nominal frequency")
        return own_hz

    def _samples(self) -> Samples:
        shape = (len(self._time_ns), len(self._gens))
        signals = {name: self._numbers(name, shape).ravel() for name in SIGNALS if name in self._arrays}
        missing = [name for name in SIGNALS if name not in signals]
        if missing:
            self._warnings.append(f"fields that are missing: {', '.join(missing)}")
        return Samples(
            time_ns=np.repeat(self._time_ns, shape[1]),
            device=np.tile(np.arange(shape[1], dtype=np.int32), shape[0]),
            devices=self._gens,
            columns={column: signals[name] * factor for name, column, factor in self._factors() if name in signals},
            quality=np.zeros(shape[0] * shape[1], dtype=np.uint16),
            received_ns=0,
        )

    def _factors(self) -> Sequence[tuple[str, str, float]]:
        """Signal, its column, and what 1 of the signal is worth in the column's unit."""
        root3 = math.sqrt(3.0)
        power_w = self._scalar("s_base") * 1e6 if {"i_mag", "p"} & set(self._arrays.names) else math.nan
        return (
            ("bus_freq", "frequency_hz", 1.0),
            ("v_mag", "voltage_v", BASE_VOLTAGE_V / root3),
            ("v_ang", "voltage_angle_rad", 1.0),
            ("i_mag", "current_a", power_w / (root3 * BASE_VOLTAGE_V)),
            ("i_ang", "current_angle_rad", 1.0),
            ("p", ACTIVE_POWER, power_w),
        )

    def _units(self) -> dict[str, UnitFacts]:
        if "sn" not in self._arrays:
            self._warnings.append("field 'sn' is missing: the file tells nothing of its units")
            return {}
        base_mva = self._scalar("s_base")
        count = (len(self._gens),)

        def numbers(name: str, default: float) -> NDArray[np.float64]:
            return self._numbers(name, count) if name in self._arrays else np.full(count, default)

        ratings = self._numbers("sn", count)
        transient, subtransient = numbers("xd1", math.nan), numbers("xd2", math.nan)
        resistance, governors, monitored = numbers("ra", 0.0), numbers("has_gov", 1.0), numbers("monitored", 1.0)
        return {
            gen: UnitFacts(
                rated_power_mva=float(ratings[place]),
                base_power_mva=base_mva,
                rated_voltage_kv=BASE_VOLTAGE_V / 1e3,
                transient_reactance_pu=_positive(transient[place]),
                subtransient_reactance_pu=_positive(subtransient[place]),
                armature_resistance_pu=float(np.nan_to_num(resistance[place])),
                has_governor=bool(governors[place]),
                monitored=bool(monitored[place]),
            )
            for place, gen in enumerate(self._gens)
        }


def _positive(value: float) -> float | None:
    """A reactance; None where the file has a placeholder."""
    return float(value) if value > 0.0 else None
