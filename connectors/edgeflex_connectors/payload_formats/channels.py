"""Which field of a payload is which column, and in what unit it comes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import UNSET, Meta
from numpy.typing import NDArray

from edgeflex_flow.errors import FieldError, nearest
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import NodeConfig
from edgeflex_flow.units import UNITS, column_unit, names_its_unit

NAN = float("nan")


class Channel(NodeConfig, frozen=True, kw_only=True):
    """The column that a field of a payload becomes."""

    column: Annotated[str, Meta(min_length=1, description="Column; its name ends in its unit.")]
    angle_column: Annotated[
        str | None,
        Meta(description="For complex values {real, imag}: column of the angle; `column` is then the magnitude."),
    ] = None
    unit: Annotated[str | None, Meta(description="Unit in the payload; by default that of the column.")] = None

    def refusals(self) -> Iterator[FieldError]:
        yield from channel_refusals(self.column, self.unit)
        if self.angle_column is not None:
            unit = column_unit(self.angle_column)
            if unit is None or unit.dimension != "angle":
                text = f"`angle_column`: '{self.angle_column}' does not end in `_rad` or `_deg`"
                yield FieldError(text, "angle_column")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,) if self.angle_column is None else (self.column, self.angle_column)


def channel_refusals(column: str, unit: str | None) -> Iterator[FieldError]:
    """What is wrong with a column and the unit in which its values come."""
    if not names_its_unit(column):
        yield FieldError(f"`column`: '{column}' does not end in a unit (`frequency_hz`, `voltage_v`, …)", "column")
        return
    if unit is None:
        return
    own = column_unit(column)
    if own is None:
        yield FieldError(f"`unit`: column '{column}' carries no unit", "unit", "column", got=f"'{unit}'")
    elif unit not in UNITS or UNITS[unit].dimension != own.dimension:
        fitting = [each.symbol for each in UNITS.values() if each.dimension == own.dimension]
        text = f"`unit`: column '{column}' measures {own.dimension.replace('_', ' ')}"
        close = next((each for each in fitting if each.lower() == unit.lower()), nearest(unit, fitting))
        yield FieldError(text, "unit", "column", got=f"'{unit}'", known=fitting, nearest=close)


def repeated_columns(columns: Iterable[tuple[str, str]]) -> Iterator[FieldError]:
    """Refuses columns that two fields would fill; takes the place of each in the settings, and its name."""
    taken: dict[str, str] = {}
    for place, column in columns:
        if column in taken:
            yield FieldError(f"column '{column}' comes from two fields", place, taken[column])
        taken.setdefault(column, place)


class Scale(NamedTuple):
    """From the payload's unit to the column's: value · `times` / `by`, of which one is 1, so it is rounded once."""

    times: float
    by: float

    @property
    def is_one(self) -> bool:
        return self.times == self.by == 1.0


def scale_between(unit: str | None, column: str) -> Scale:
    """What turns values of a unit into those of a column.

    >>> scale_between("kV", "voltage_v"), scale_between("V", "voltage_kv"), scale_between(None, "voltage_v").is_one
    (Scale(times=1000.0, by=1.0), Scale(times=1.0, by=1000.0), True)
    """
    own = column_unit(column)
    if unit is None or own is None:
        return Scale(1.0, 1.0)
    ratio, inverse = UNITS[unit].factor / own.factor, own.factor / UNITS[unit].factor
    if ratio < 1.0:
        whole = round(inverse)
        return Scale(1.0, float(whole) if math.isclose(inverse, whole, rel_tol=1e-12) else inverse)
    whole = round(ratio)
    return Scale(float(whole) if math.isclose(ratio, whole, rel_tol=1e-12) else ratio, 1.0)


class Slot(NamedTuple):
    """What one field's value becomes; `angle` is the scale of the angle of a complex one."""

    scale: Scale
    angle: Scale | None = None


class RowLayout:
    """Makes rows of the values of a payload's fields, which come in the order of `channels`.

    Values are None or UNSET where the payload has none; complex ones come as objects with `real` and `imag`.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        self.columns = tuple(column for channel in channels for column in channel.columns)
        self._slots = tuple(
            Slot(
                scale_between(channel.unit, channel.column),
                None if channel.angle_column is None else scale_between("rad", channel.angle_column),
            )
            for channel in channels
        )
        self._is_plain = all(slot.scale.is_one and slot.angle is None for slot in self._slots)

    def row(self, values: Sequence[Any]) -> tuple[float, ...]:
        """The values of a row, in the order of the columns; NaN where there is none."""
        if self._is_plain:
            return tuple([NAN if value is None or value is UNSET else value for value in values])
        row: list[float] = []
        for slot, value in zip(self._slots, values, strict=True):
            if value is None or value is UNSET:
                row += (NAN,) if slot.angle is None else (NAN, NAN)
            elif slot.angle is None:
                row.append(value * slot.scale.times / slot.scale.by)
            else:
                magnitude, angle = math.hypot(value.real, value.imag), math.atan2(value.imag, value.real)
                row += (magnitude * slot.scale.times / slot.scale.by, angle * slot.angle.times / slot.angle.by)
        return tuple(row)


def payload_values(samples: Samples, channel: Channel) -> NDArray[np.float64]:
    """The values of a channel in the payload's unit; NaN where the batch has no such column."""
    return in_payload_unit(samples, channel.column, scale_between(channel.unit, channel.column))


def in_payload_unit(samples: Samples, column: str, scale: Scale) -> NDArray[np.float64]:
    """The values of a column in the unit from which `scale` leads to the column's."""
    values = samples.columns.get(column)
    if values is None:
        return np.full(samples.rows, NAN)
    return values if scale.is_one else values * scale.by / scale.times


def complex_values(samples: Samples, channel: Channel) -> list[dict[str, float] | None]:
    """Magnitude and angle as complex numbers `{real, imag}`; None where one is not finite."""
    assert channel.angle_column is not None
    magnitude = payload_values(samples, channel)
    angle_rad = in_payload_unit(samples, channel.angle_column, scale_between("rad", channel.angle_column))
    with np.errstate(invalid="ignore"):
        real, imag = magnitude * np.cos(angle_rad), magnitude * np.sin(angle_rad)
    finite = np.isfinite(real) & np.isfinite(imag)
    return [
        {"real": a, "imag": b} if whole else None
        for a, b, whole in zip(real.tolist(), imag.tolist(), finite.tolist(), strict=True)
    ]


def own_channels(samples: Samples, taken: frozenset[str]) -> dict[str, Channel]:
    """All columns of a batch as fields of their own names. Raises ValueError when one is another field's name."""
    for name in samples.columns:
        if name in taken:
            raise ValueError(f"column '{name}' has the name of another field of the format")
    return {name: Channel(column=name) for name in samples.columns}


def channel_values(samples: Samples, channel: Channel) -> list[Any]:
    """The values of a channel as JSON holds them; msgspec writes those that are not finite as null."""
    if channel.angle_column is not None:
        return list(complex_values(samples, channel))
    values: list[Any] = payload_values(samples, channel).tolist()
    return values
