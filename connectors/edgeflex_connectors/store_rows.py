"""One row for each value, as stores keep samples, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import Samples


class Values(NamedTuple):
    """Values of one column in order of device and time, each device and time once. Arrays of shape (n,)."""

    column: str
    device: NDArray[np.int64]
    """Index into the devices of all."""
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint16]
    row: NDArray[np.int64]
    """Index of the row among those of all batches."""

    def only(self, wanted: NDArray[np.bool_]) -> Values:
        device, time_ns, value, quality, row = self.device, self.time_ns, self.value, self.quality, self.row
        return Values(self.column, device[wanted], time_ns[wanted], value[wanted], quality[wanted], row[wanted])


def rows_without(refused: Sequence[Values], kept: Sequence[Values]) -> int:
    """How many rows have values among those refused, but none among those kept."""
    if not refused:
        return 0
    left = np.concatenate([values.row for values in kept]) if kept else np.empty(0, dtype=np.int64)
    return len(np.setdiff1d(np.concatenate([values.row for values in refused]), left))


class DeviceCodes:
    """One list of devices for batches that each have their own."""

    def __init__(self, batches: Sequence[Samples]) -> None:
        self.names = tuple(dict.fromkeys(name for batch in batches for name in batch.devices))
        self._code = {name: code for code, name in enumerate(self.names)}

    def of(self, batch: Samples) -> NDArray[np.int64]:
        return np.array([self._code[name] for name in batch.devices], dtype=np.int64)[batch.device]


def values_of(batches: Sequence[Samples]) -> tuple[tuple[str, ...], list[Values]]:
    """The devices of all batches, and the values of each column. NaN is no value; of several values for one device,
    column and time the last one counts."""
    codes = DeviceCodes(batches)
    first_row = np.cumsum([0, *(batch.rows for batch in batches)]).tolist()
    with_column: dict[str, list[int]] = {}
    for place, batch in enumerate(batches):
        for column in batch.columns:
            with_column.setdefault(column, []).append(place)
    columns_of: dict[tuple[int, ...], list[str]] = {}
    for column, places in with_column.items():
        columns_of.setdefault(tuple(places), []).append(column)
    found: list[Values] = []
    for shared, columns in columns_of.items():
        rows = np.concatenate([np.arange(first_row[place], first_row[place + 1]) for place in shared])
        found += _sorted_values([batches[place] for place in shared], columns, codes, rows)
    return codes.names, found


def _sorted_values(
    batches: Sequence[Samples], columns: Sequence[str], codes: DeviceCodes, row: NDArray[np.int64]
) -> Iterator[Values]:
    """Values of batches that all have these columns."""
    device = np.concatenate([codes.of(batch) for batch in batches])
    time_ns = np.concatenate([batch.time_ns for batch in batches])
    order = np.lexsort((time_ns, device))
    device, time_ns, row = device[order], time_ns[order], row[order]
    quality = np.concatenate([batch.quality for batch in batches])[order]
    repeated = bool(_followed_by_same(device, time_ns).any())
    for column in columns:
        value = np.concatenate([batch.columns[column] for batch in batches])[order]
        kept = ~np.isnan(value)
        if repeated:
            places = np.flatnonzero(kept)
            kept[places[:-1][_followed_by_same(device[places], time_ns[places])]] = False
        values = Values(column, device, time_ns, value, quality, row)
        if kept.all():
            yield values
        elif kept.any():
            yield values.only(kept)


def _followed_by_same(device: NDArray[np.int64], time_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each row but the last whether the next one has the same device and time."""
    same: NDArray[np.bool_] = (device[1:] == device[:-1]) & (time_ns[1:] == time_ns[:-1])
    return same


class Stored(NamedTuple):
    """Stored values of one device and column in order of time, each time once. Arrays of shape (n,)."""

    code: int
    """Index of the device."""
    place: int
    """Index of the column."""
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint16]


def table_of(stored: Sequence[Stored], columns: Sequence[str], devices: tuple[str, ...]) -> Samples:
    """One row for each device and time, in order of time and device; flags of one row are joined."""
    by_device: dict[int, list[Stored]] = {}
    for each in stored:
        by_device.setdefault(each.code, []).append(each)
    times: list[NDArray[np.int64]] = [_times(by_device[code]) for code in sorted(by_device)]
    rows = sum(map(len, times))
    missing = np.full(rows, np.nan)
    found = {place: missing.copy() for place in {each.place for each in stored}}
    quality = np.zeros(rows, dtype=np.uint16)
    device = np.empty(rows, dtype=np.int32)
    start = 0
    for code, time_ns in zip(sorted(by_device), times, strict=True):
        end = start + len(time_ns)
        device[start:end] = code
        for each in by_device[code]:
            if len(each.time_ns) == len(time_ns):
                found[each.place][start:end] = each.value
                quality[start:end] |= each.quality
            else:
                places = start + np.searchsorted(time_ns, each.time_ns)
                found[each.place][places] = each.value
                quality[places] |= each.quality
        start = end
    time_ns = np.concatenate(times) if times else np.empty(0, dtype=np.int64)
    order = np.argsort(time_ns, kind="stable")
    return Samples(
        time_ns=time_ns[order],
        device=device[order],
        devices=devices,
        columns={name: found[place][order] if place in found else missing for place, name in enumerate(columns)},
        quality=quality[order],
        received_ns=0,
    )


def _times(stored: Sequence[Stored]) -> NDArray[np.int64]:
    """All times of one device, each once."""
    first = max(stored, key=lambda each: len(each.time_ns)).time_ns
    if all(np.array_equal(each.time_ns, first) for each in stored):
        return first
    return np.unique(np.concatenate([each.time_ns for each in stored]))


def table_of_rows(
    device: NDArray[Any],
    place: NDArray[Any],
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    quality: NDArray[np.uint16],
    columns: Sequence[str],
    devices: tuple[str, ...],
) -> Samples:
    """As `table_of`, of rows in order of device, column (`place`) and time."""
    edges = np.flatnonzero((device[1:] != device[:-1]) | (place[1:] != place[:-1])) + 1
    bounds = [0, *edges.tolist(), len(device)] if len(device) else []
    stored = [
        Stored(int(device[start]), int(place[start]), time_ns[start:end], value[start:end], quality[start:end])
        for start, end in pairwise(bounds)
    ]
    return table_of(stored, columns, devices)
