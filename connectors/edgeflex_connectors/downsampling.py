"""One value for each interval: what down-sampling keeps of samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeflex_connectors.store import How, Series
from edgeflex_connectors.store_rows import Values, values_of
from edgeflex_flow.messages import Quality, Samples
from edgeflex_flow.units import column_unit, conversion_factor


def downsampled(samples: Samples, series: Series) -> list[Samples]:
    """One row for each device and interval in which it has values, a batch for each column.

    A row's time is the begin of its interval, UTC. Values flagged `bad_data` count only where an interval has no
    others. A row has the flags of all values that it was made from, and `estimated`.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> [made] = downsampled(samples_from_rows([(5, "G1", {"x_v": 1.0}), (9, "G1", {"x_v": 3.0})]), Series(5, "mean"))
    >>> made.time_ns.tolist(), made.columns["x_v"].tolist(), made.quality.tolist()
    ([5], [2.0], [16])
    """
    devices, found = values_of([samples])
    return [_downsampled(values, devices, series) for values in found]


def _downsampled(values: Values, devices: tuple[str, ...], series: Series) -> Samples:
    starts, begin_ns = _intervals(values, series.every_ns)
    good = (values.quality & Quality.BAD_DATA) == 0
    wanted = good | ~np.repeat(np.logical_or.reduceat(good, starts), np.diff([*starts, len(good)]))
    if not wanted.all():
        values = values.only(wanted)
        starts, begin_ns = _intervals(values, series.every_ns)
    return Samples(
        time_ns=begin_ns[starts],
        device=values.device[starts].astype(np.int32),
        devices=devices,
        columns={values.column: _reduced(values, starts, series.how)},
        quality=np.bitwise_or.reduceat(values.quality, starts) | np.uint16(Quality.ESTIMATED),
        received_ns=0,
    )


def _intervals(values: Values, every_ns: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Where each interval of each device starts among the values, and the begin of each value's interval."""
    begin_ns = values.time_ns // every_ns * every_ns
    new = np.ones(len(begin_ns), dtype=bool)
    new[1:] = (begin_ns[1:] != begin_ns[:-1]) | (values.device[1:] != values.device[:-1])
    return np.flatnonzero(new), begin_ns


def _reduced(values: Values, starts: NDArray[np.intp], how: How) -> NDArray[np.float64]:
    if how == "min":
        return np.minimum.reduceat(values.value, starts)
    if how == "max":
        return np.maximum.reduceat(values.value, starts)
    unit = column_unit(values.column)
    if unit is not None and unit.dimension == "angle":
        return _mean_angle(values, starts)
    counts = np.diff([*starts, len(values.value)])
    # From the first value of each interval, so that a small swing of a large value keeps its digits.
    first = values.value[starts]
    with np.errstate(invalid="ignore"):  # of infinite values nothing is made
        return first + np.add.reduceat(values.value - np.repeat(first, counts), starts) / counts


def _mean_angle(values: Values, starts: NDArray[np.intp]) -> NDArray[np.float64]:
    """The direction of the mean of unit vectors: 359° and 1° make 0°, not 180°."""
    suffix = values.column.rpartition("_")[2]
    rad = values.value * conversion_factor(values.column, "x_rad")
    with np.errstate(invalid="ignore"):
        mean = np.arctan2(np.add.reduceat(np.sin(rad), starts), np.add.reduceat(np.cos(rad), starts))
    angle: NDArray[np.float64] = mean * conversion_factor("x_rad", f"x_{suffix}")
    return angle
