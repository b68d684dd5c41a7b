"""`csv`: lines of values, with a line of names before them or with names that the settings declare."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgeflex_connectors.payload_formats.channels import (
    Channel,
    RowLayout,
    own_channels,
    payload_values,
    repeated_columns,
)
from edgeflex_connectors.payload_formats.codec import (
    BadFieldError,
    Decoded,
    FormatConfig,
    Gathered,
    PayloadFormat,
    bad_payload,
    quoted,
)
from edgeflex_connectors.payload_formats.times import TimeUnit, time_reader, time_values
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
MOST_SHOWN = 12


class Csv(FormatConfig, frozen=True, kw_only=True, tag="csv"):
    """Lines of values, UTF-8, quoted as in RFC 4180. An empty value is one that is not there."""

    fields: Annotated[
        dict[str, Channel],
        Meta(description="Fields that do not go by the name and unit of their column: name in the payload to column."),
    ] = msgspec.field(default_factory=dict)
    names: Annotated[
        tuple[str, ...],
        Meta(description="Names of the fields of every line, in order; none: the first line of a payload tells them."),
    ] = ()
    time: Annotated[str, Meta(min_length=1, description="Field of the time.")]
    time_unit: Annotated[
        TimeUnit,
        Meta(description="A number of this unit since 1970 (UTC), or iso8601; us and ms are sent whole."),
    ]
    device: Annotated[str | None, Meta(description="Field of the device's name.")] = None
    quality: Annotated[str | None, Meta(description="Field of the quality flags.")] = None
    separator: Annotated[Literal["comma", "semicolon", "tab"], Meta(description="What stands between two values.")] = (
        "comma"
    )
    decimal: Annotated[Literal["point", "comma"], Meta(description="What stands before the decimals of a value.")] = (
        "point"
    )

    def refusals(self) -> Iterator[FieldError]:
        if self.separator == self.decimal:
            yield FieldError("`separator` and `decimal` are the same", "separator", "decimal")
        taken: dict[str, str] = {}
        for place, name in self._places().items():
            if name in taken:
                yield FieldError(f"field '{name}' is named twice", place, taken[name])
            taken.setdefault(name, place)
            if self.names and name not in self.names:
                yield FieldError(f"`names` lacks field '{name}'", place, "names", known=self.names)
        for place, channel in self.fields.items():
            if channel.angle_column is not None:
                yield FieldError("the format holds no complex values", f"fields.{place}.angle_column")
        if len(set(self.names)) != len(self.names):
            yield FieldError("`names` names a field twice", "names")
        yield from repeated_columns((f"fields.{name}", to.column) for name, to in self.fields.items())

    def _places(self) -> dict[str, str]:
        own = {key: name for key in ("time", "device", "quality") if (name := getattr(self, key)) is not None}
        return own | {f"fields.{name}": name for name in self.fields}

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(channel.column for channel in self.fields.values())

    @property
    def named_fields(self) -> bool:
        return True

    @property
    def taken_names(self) -> frozenset[str]:
        return frozenset(self._places().values())

    @property
    def names_device(self) -> bool:
        return self.device is not None

    @property
    def carries_quality(self) -> bool:
        return self.quality is not None


class _Line(msgspec.Struct, frozen=True):
    """Where things stand in a line; -1 for a column that lines do not have."""

    length: int
    time: int
    device: int | None
    quality: int | None
    values: tuple[int, ...]


class Decoder:
    r"""Decodes payloads for one subscription.

    >>> config = Csv(fields={"f": Channel(column="frequency_hz", unit="mHz")}, time="t", time_unit="ms")
    >>> Decoder(config, (), True).decode(b"t,f\n1,49980\n", "G1").rows
    [(1000000, 'G1', 0, (49.98,))]
    """

    def __init__(self, config: Csv, columns: tuple[str, ...], given: bool) -> None:
        self._config = config
        self._given = given
        self._fields = {**{column: Channel(column=column) for column in columns}, **config.fields}
        self._names = tuple(self._fields)
        self._layout = RowLayout(tuple(self._fields.values()))
        self._read_time = time_reader(config.time_unit)
        self._comma = config.decimal == "comma"
        self._declared = self._line(config.names, b"") if config.names else None

    def decode(self, payload: bytes, device: str | None) -> Decoded:
        try:
            text = payload.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise bad_payload(f"no UTF-8 text: byte {payload[error.start]:#04x} at {error.start}", payload) from error
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=SEPARATORS[self._config.separator], strict=True)
        gathered = Gathered()
        line = self._declared
        try:
            if line is None:
                line = self._line(next(reader, []), payload)
            for values in reader:
                if values:
                    self._add(values, line, device, reader.line_num, gathered)
        except csv.Error as error:
            raise bad_payload(f"line {reader.line_num}: {error}", payload) from error
        return gathered.result()

    def _add(self, values: list[str], line: _Line, device: str | None, number: int, gathered: Gathered) -> None:
        try:
            if len(values) != line.length:
                raise BadFieldError(f"{len(values)} values, known: {line.length} fields")
            flags = 0 if line.quality is None else self._flags(values[line.quality])
            numbers = [None if place < 0 else self._number(values[place], place) for place in line.values]
            name = device if line.device is None else values[line.device]
            if not name:
                raise BadFieldError(f"field '{self._config.device}': no device")
            gathered.rows.append((self._time_ns(values[line.time]), name, flags, self._layout.row(numbers)))
        except _BadValueError as error:
            place = self._names[line.values.index(error.place)]
            gathered.refuse(f"line {number}: field '{place}': {error}", _line_bytes(values))
        except BadFieldError as error:
            gathered.refuse(f"line {number}: {error}", _line_bytes(values))

    def _number(self, text: str, place: int) -> float | None:
        text = text.strip()
        if not text:
            return None
        if self._comma:
            if "." in text:
                raise _BadValueError(text, place)
            text = text.replace(",", ".")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or "_" in text:
            raise _BadValueError(text, place)
        return value

    def _flags(self, text: str) -> int:
        if not text:
            return 0
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 0xFFFF):
            name = self._config.quality
            raise BadFieldError(f"field '{name}': expected quality flags from 0 to 65535, got {quoted(text)}")
        return int(text)

    def _time_ns(self, text: str) -> int:
        if self._comma and self._config.time_unit != "iso8601":
            text = text.replace(",", ".")
        try:
            return self._read_time(text.strip())
        except BadFieldError as error:
            raise BadFieldError(f"field '{self._config.time}': {error}") from error

    def _line(self, names: Sequence[str], payload: bytes) -> _Line:
        """Where things stand in lines with these names. Raises BadMessageError when something is not there."""
        names = [name.strip() for name in names]
        config = self._config
        wanted = [config.time, *([] if self._given or config.device is None else [config.device])]
        for name in (*wanted, *self._names, *([config.quality] if config.quality else [])):
            if names.count(name) > 1:
                raise bad_payload(f"line 1: field '{name}' stands twice", payload)
        missing = [name for name in wanted if name not in names]
        if not any(name in names for name in self._names):
            missing += self._names
        if missing:
            got = ", ".join(quoted(name) for name in names[:MOST_SHOWN]) or "nothing"
            raise bad_payload(f"line 1: no field '{missing[0]}'; got {got}", payload)
        return _Line(
            length=len(names),
            time=names.index(config.time),
            device=None if self._given or config.device is None else names.index(config.device),
            quality=None if config.quality not in names else names.index(config.quality),
            values=tuple(names.index(name) if name in names else -1 for name in self._names),
        )


class _BadValueError(BadFieldError):
    def __init__(self, text: str, place: int) -> None:
        self.place = place
        super().__init__(f"expected a number, got {quoted(text)}")


def _line_bytes(values: list[str]) -> bytes:
    return ",".join(values).encode(errors="replace")


class Encoder:
    def __init__(self, config: Csv) -> None:
        self._config = config

    def encode(self, samples: Samples) -> list[bytes]:
        config = self._config
        fields = config.fields or own_channels(samples, config.taken_names)
        lists: dict[str, list[Any]] = {config.time: self._decimal(time_values(samples.time_ns, config.time_unit))}
        if config.device is not None:
            lists[config.device] = [samples.devices[code] for code in samples.device.tolist()]
        if config.quality is not None:
            lists[config.quality] = samples.quality.tolist()
        for name, channel in fields.items():
            values = payload_values(samples, channel).tolist()
            lists[name] = self._decimal([value if math.isfinite(value) else "" for value in values])
        names = config.names or tuple(lists)
        nothing = [""] * samples.rows
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=SEPARATORS[config.separator], lineterminator="\r\n")
        if not config.names:
            writer.writerow(names)
        writer.writerows(zip(*(lists.get(name, nothing) for name in names), strict=True))
        return [text.getvalue().encode()]

    def _decimal(self, values: list[Any]) -> list[Any]:
        if self._config.decimal == "point":
            return values
        return [value if isinstance(value, str) else str(value).replace(".", ",") for value in values]


FORMAT = PayloadFormat(config=Csv, decoder=Decoder, encoder=Encoder)
