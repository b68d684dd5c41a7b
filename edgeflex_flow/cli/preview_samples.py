"""Samples of two runs compared, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edgeflex_flow.messages import Samples, join_samples


class ColumnDifference(Struct, frozen=True):
    """How one column differs, in its own unit."""

    changed: int
    largest: float
    """The difference of largest magnitude, proposed less today's; NaN when one of the two has no value."""
    device: str
    time_ns: int


class SamplesDifference(Struct, frozen=True):
    """Rows that a node gave."""

    node: str
    today: int
    proposed: int
    only_today: int
    only_proposed: int
    columns: dict[str, ColumnDifference]
    """Those that differ."""

    @property
    def differs(self) -> bool:
        return bool(self.only_today or self.only_proposed or self.columns)


def compare_samples(node: str, today: Sequence[Samples], proposed: Sequence[Samples]) -> SamplesDifference | None:
    """The rows of two runs by device and time; None if there are none in either."""
    batches = [*today, *proposed]
    if not batches:
        return None
    together = join_samples(batches)
    count = sum(each.rows for each in today)
    before, after = together.take(np.arange(count)), together.take(np.arange(count, together.rows))
    both, old, new = np.intersect1d(
        row_keys(before.device, before.time_ns), row_keys(after.device, after.time_ns), return_indices=True
    )
    columns = {
        name: found
        for name in together.columns
        if (found := _column(before.take(old), after.take(new), name)) is not None
    }
    return SamplesDifference(node, before.rows, after.rows, before.rows - len(both), after.rows - len(both), columns)


def row_keys(device: NDArray[np.int32], time_ns: NDArray[np.int64]) -> NDArray[np.void]:
    """Device and time of each row, and which one it is of several that share both; shape (n,)."""
    order = np.lexsort((time_ns, device))
    times, codes = time_ns[order], device[order]
    first = np.ones(len(time_ns), dtype=bool)
    first[1:] = (times[1:] != times[:-1]) | (codes[1:] != codes[:-1])
    starts = np.flatnonzero(first)
    keys = np.empty(len(time_ns), dtype=[("device", np.int32), ("time_ns", np.int64), ("again", np.int64)])
    keys["device"], keys["time_ns"] = device, time_ns
    keys["again"][order] = np.arange(len(time_ns)) - starts[np.cumsum(first) - 1]
    return keys


def _column(before: Samples, after: Samples, name: str) -> ColumnDifference | None:
    old, new = before.columns[name], after.columns[name]
    changed = np.flatnonzero((old != new) & ~(np.isnan(old) & np.isnan(new)))
    if not len(changed):
        return None
    by = new[changed] - old[changed]
    place = int(np.where(np.isnan(by), -1.0, np.abs(by)).argmax())
    row = changed[place]
    return ColumnDifference(
        len(changed), float(by[place]), before.devices[before.device[row]], int(before.time_ns[row])
    )
