"""From the JSON of a service that knows nothing of this project to rows of samples.

Names of places are keys with dots between them: `data.items`, `power.value`, and for items of lists their number,
`forecast.0.value`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeflex_connectors.batching import Row
from edgeflex_flow.errors import BadMessageError, FieldError
from edgeflex_flow.messages import Quality
from edgeflex_flow.units import UNITS, column_unit, names_its_unit

Place: TypeAlias = Annotated[str, Meta(pattern=r"^[^.]+(\.[^.]+)*$")]

Text: TypeAlias = Annotated[str, Meta(min_length=1)]

_NS_PER = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_EARLIEST_NS, _LATEST_NS = -(2**63), 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a column's values stand in an object, and in which unit."""

    place: Annotated[Place, Meta(description="Where the value stands in an object.")]
    unit: Annotated[str | None, Meta(description="Its unit there; the column's own if not given.")] = None


class JsonMapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of an answer becomes which part of a row."""

    columns: Annotated[dict[str, Column], Meta(min_length=1, description="Columns, their names ending in a unit.")]
    rows: Annotated[
        Place | None, Meta(description="Where the list of objects stands, one a row; the answer itself if not given.")
    ] = None
    time: Annotated[
        Place | None, Meta(description="Where an object holds its time; without it rows have the time of the answer.")
    ] = None
    time_unit: Annotated[
        Literal["rfc3339", "s", "ms", "us", "ns"],
        Meta(description="How time is written: text with date, time and zone, or a number since 1970 UTC."),
    ] = "rfc3339"
    device: Annotated[Place | None, Meta(description="Where an object holds the name of its device.")] = None
    device_name: Annotated[Text | None, Meta(description="Name of the device, the same for all rows.")] = None


def mapping_refusals(mapping: JsonMapping, field: str) -> Iterator[FieldError]:
    """What is wrong with a mapping that stands in this field of a config."""
    if (mapping.device is None) == (mapping.device_name is None):
        yield FieldError(f"`{field}` needs one of `device` and `device_name`", field)
    for name, column in mapping.columns.items():
        if not names_its_unit(name):
            text = f"`{field}.columns`: '{name}' does not end in a unit (`frequency_hz`, `active_power_w`, …)"
            yield FieldError(text, f"{field}.columns.{name}")
        elif column.unit is not None and _factor(name, column.unit) is None:
            own = column_unit(name)
            known = [unit.symbol for unit in UNITS.values() if own is not None and unit.dimension == own.dimension]
            text = f"`{field}.columns.{name}`: no value of this column has the unit '{column.unit}'"
            yield FieldError(text, f"{field}.columns.{name}", known=known)


def _factor(column: str, unit: str | None) -> float | None:
    """What a value in `unit` is to be multiplied with; None if the two measure different things."""
    if unit is None:
        return 1.0
    own, given = column_unit(column), UNITS.get(unit)
    if own is None or given is None or own.dimension != given.dimension:
        return None
    return given.factor / own.factor


class JsonReader:
    """Reads answers by a mapping that `mapping_refusals` finds good.

    >>> reader = JsonReader(JsonMapping(
    ...     columns={"active_power_w": Column(place="p.value", unit="kW")}, rows="data", time="t", time_unit="s",
    ...     device="id"))
    >>> list(reader.rows(b'{"data": [{"t": 1, "id": "W1", "p": {"value": 2.5}}]}', 0))
    [(1000000000, 'W1', 0, (2500.0,))]
    """

    def __init__(self, mapping: JsonMapping) -> None:
        self._mapping = mapping
        self._columns = [
            (name, column.place.split("."), _factor(name, column.unit) or 1.0)
            for name, column in mapping.columns.items()
        ]
        self._rows = mapping.rows.split(".") if mapping.rows else []
        self._time = mapping.time.split(".") if mapping.time else None
        self._device = mapping.device.split(".") if mapping.device else None
        self.columns = tuple(mapping.columns)

    def rows(self, body: bytes, received_ns: int) -> list[Row]:
        """All rows of an answer. Raises BadMessageError with the place that is wrong; no row of such a one is used."""
        try:
            answer = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _bad(f"no JSON: {error}", body) from error
        found = _at(answer, self._rows)
        where = self._mapping.rows or "$"
        objects = found if isinstance(found, list) else [found]
        try:
            return [self._row(each, received_ns) for each in objects]
        except ValueError as error:
            raise _bad(f"{where}: {error}", body) from error

    def _row(self, item: Any, received_ns: int) -> Row:
        if not isinstance(item, dict):
            raise ValueError(f"an object is expected; got {_kind(item)}")  # noqa: TRY004 - of the answer, not of ours
        values = tuple([_number(_at(item, place), name) * factor for name, place, factor in self._columns])
        if all(_at(item, place) is None for _, place, _ in self._columns):
            raise ValueError(f"an object holds none of {', '.join('.'.join(place) for _, place, _ in self._columns)}")
        if self._time is None:
            return received_ns, self._device_of(item), int(Quality.TIME_UNCERTAIN), values
        return self._time_of(_at(item, self._time)), self._device_of(item), 0, values

    def _device_of(self, item: Any) -> str:
        if self._device is None:
            return self._mapping.device_name or ""
        name = _at(item, self._device)
        if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
            raise ValueError(f"`{self._mapping.device}` holds no name of a device; got {_kind(name)}")
        return str(name)

    def _time_of(self, value: Any) -> int:
        unit = self._mapping.time_unit
        time_ns = _moment(value) if unit == "rfc3339" else _count(value, _NS_PER[unit])
        if time_ns is None or not _EARLIEST_NS <= time_ns <= _LATEST_NS:
            raise ValueError(f"`{self._mapping.time}` holds no time ({unit}); got {_kind(value)}")
        return time_ns


def _moment(value: Any) -> int | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        return None  # nobody knows which hour it means
    since = moment - _EPOCH
    return ((since.days * 86400 + since.seconds) * 10**6 + since.microseconds) * 1000


def _count(value: Any, unit_ns: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not abs(value) * unit_ns <= _LATEST_NS:
        return None
    return round(value * unit_ns)


def _number(value: Any, column: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"`{column}` needs a number; got {_kind(value)}")  # noqa: TRY004 - of the answer, not of ours
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"`{column}` needs a number that fits into 64 bits") from None


def _at(value: Any, place: list[str]) -> Any:
    """What stands at a place; None where there is nothing."""
    for part in place:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isascii() and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _kind(value: Any) -> str:
    """A value in words, for errors."""
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "an object"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else text[:39] + "…"


def _bad(text: str, body: bytes) -> BadMessageError:
    return BadMessageError(text, reason="bad_answer", payload=body)
