"""`sogno`: readings of the SOGNO platform, nested (one message for a device) and flat (one for each reading)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from edgeflex_connectors.batching import Row
from edgeflex_connectors.payload_formats.channels import (
    NAN,
    channel_refusals,
    in_payload_unit,
    repeated_columns,
    scale_between,
)
from edgeflex_connectors.payload_formats.codec import BadFieldError, Decoded, FormatConfig, PayloadFormat, quoted
from edgeflex_connectors.payload_formats.elements import ElementDecoder, Flags, Number
from edgeflex_connectors.payload_formats.times import iso_texts, iso_to_ns, number_to_ns
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import NodeConfig
from edgeflex_flow.units import column_unit

Measurand: TypeAlias = Literal[
    "voltmagnitude",
    "voltangle",
    "currmagnitude",
    "currangle",
    "activepower",
    "reactivepower",
    "apparentpower",
    "frequency",
]
UNITS_OF: dict[str, str] = {
    "voltmagnitude": "V",
    "voltangle": "rad",
    "currmagnitude": "A",
    "currangle": "rad",
    "activepower": "W",
    "reactivepower": "var",
    "apparentpower": "VA",
    "frequency": "Hz",
}
"""The format's own units; voltages are phase to ground, powers those of one phase."""

MOST_SHOWN = 8


class Reading(NodeConfig, frozen=True, kw_only=True):
    """The column that readings of one measurand become."""

    column: Annotated[str, Meta(min_length=1, description="Column; its name ends in its unit.")]
    measurand: Annotated[Measurand, Meta(description="What is measured.")]
    phase: Annotated[Literal["A", "B", "C"] | None, Meta(description="Its phase; none: any.")] = None
    component: Annotated[str | None, Meta(description="Id of the component; none: any.")] = None
    unit: Annotated[
        str | None, Meta(description="Unit in the payload, for senders that keep to another than the format's.")
    ] = None

    def refusals(self) -> Iterator[FieldError]:
        yield from channel_refusals(self.column, self.unit)
        own, theirs = column_unit(self.column), self.payload_unit
        if self.unit is None and own is not None:
            for error in channel_refusals(self.column, theirs):
                yield FieldError(
                    f"`column`: '{self.column}' does not hold what `measurand` measures",
                    "column",
                    "measurand",
                    got=f"'{theirs}'",
                    known=error.known,
                )

    @property
    def payload_unit(self) -> str:
        return self.unit or UNITS_OF[self.measurand]


class Sogno(FormatConfig, frozen=True, kw_only=True, tag="sogno"):
    """Readings of a device at one time: each names its component, measurand and phase. Both forms are read.

    With `extension`, which other readers skip, a message also has `time_ns` (the exact time) and `quality` (flags).
    Without it, `timestamp` is the time, sent to the µs. One without an offset is UTC.
    """

    readings: Annotated[tuple[Reading, ...], Meta(min_length=1, description="The readings that become columns.")]
    device: Annotated[
        Literal["device", "component"],
        Meta(description="What names the rows: with component, a message is a row for each of its components."),
    ] = "device"
    flat: Annotated[bool, Meta(description="Whether each reading is sent by itself, the older form.")] = False
    extension: Annotated[bool, Meta(description="Whether time_ns and quality are read and written.")] = True

    def refusals(self) -> Iterator[FieldError]:
        yield from repeated_columns(
            (f"readings[{place}].column", each.column) for place, each in enumerate(self.readings)
        )

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(reading.column for reading in self.readings)

    @property
    def names_device(self) -> bool:
        return True

    @property
    def takes_objects(self) -> bool:
        return True

    @property
    def carries_quality(self) -> bool:
        return self.extension


class _Reading(msgspec.Struct, gc=False):
    measurand: str
    data: Number | None
    component: str | None = None
    phase: str | None = None


class _Message(msgspec.Struct, gc=False):
    """Both forms; the flat one has the fields of its only reading beside those of the message."""

    timestamp: str
    device: str | None = None
    time_ns: msgspec.Raw | UnsetType = UNSET
    quality: msgspec.Raw | UnsetType = UNSET
    readings: list[_Reading] | UnsetType = UNSET
    measurand: str | UnsetType = UNSET
    data: Number | UnsetType | None = UNSET
    component: str | None = None
    phase: str | None = None


class Decoder:
    """Decodes payloads for one subscription."""

    def __init__(self, config: Sogno, _columns: tuple[str, ...], given: bool) -> None:
        self._config = config
        self._given = given
        self._wanted: dict[str, list[tuple[int, Reading]]] = {}
        for place, reading in enumerate(config.readings):
            self._wanted.setdefault(reading.measurand, []).append((place, reading))
        self._scales = [scale_between(reading.payload_unit, reading.column) for reading in config.readings]
        self._read_ns = number_to_ns(1)
        self._elements = ElementDecoder(_Message, self._read, _counts, single=True, many=False)

    def decode(self, payload: bytes, device: str | None) -> Decoded:
        return self._elements.decode(payload, device)

    def _read(self, message: _Message, device: str | None, rows: list[Row]) -> None:
        flat = message.readings is UNSET
        readings = _flat_reading(message) if isinstance(message.readings, UnsetType) else message.readings
        found: dict[str, list[float]] = {}
        for number, reading in enumerate(readings):
            path = "$" if flat else f"$.readings[{number}]"
            for place, wanted in self._wanted.get(reading.measurand, ()):
                if wanted.phase in (None, reading.phase) and wanted.component in (None, reading.component):
                    name = device if device is not None else self._name(message, reading, path)
                    self._put(found.setdefault(name, []), place, reading.data, path)
        if not found:
            raise BadFieldError(
                f"no reading that is asked for; got {_shown(readings)}; known: {self._known()} - at `$`"
            )
        time_ns, quality = self._time_ns(message), self._quality(message)
        for name, values in found.items():
            scaled = [value * scale.times / scale.by for value, scale in zip(values, self._scales, strict=True)]
            rows.append((time_ns, name, quality, tuple(scaled)))

    def _name(self, message: _Message, reading: _Reading, path: str) -> str:
        name = message.device if self._config.device == "device" else reading.component
        if not name:
            place = "$" if self._config.device == "device" else path
            raise BadFieldError(f"no device under the key `{self._config.device}` - at `{place}`")
        return name

    def _put(self, values: list[float], place: int, value: float | None, path: str) -> None:
        if not values:
            values += [NAN] * len(self._scales)
        if values[place] == values[place]:
            column = self._config.readings[place].column
            raise BadFieldError(f"a second reading for column '{column}': name its phase or component - at `{path}`")
        values[place] = NAN if value is None else value

    def _time_ns(self, message: _Message) -> int:
        path = "timestamp"
        try:
            if self._config.extension and not isinstance(message.time_ns, UnsetType):
                path = "time_ns"
                return self._read_ns(bytes(message.time_ns).decode())
            return iso_to_ns(message.timestamp)
        except BadFieldError as error:
            raise BadFieldError(f"{error} - at `$.{path}`") from error

    def _quality(self, message: _Message) -> int:
        if not self._config.extension or message.quality is UNSET:
            return 0
        try:
            return msgspec.json.decode(message.quality, type=Flags)
        except msgspec.ValidationError as error:
            raise BadFieldError(f"{error} - at `$.quality`") from error

    def _known(self) -> str:
        return ", ".join(f"{each.measurand} {each.phase or ''}".strip() for each in self._config.readings)


def _flat_reading(message: _Message) -> list[_Reading]:
    for key in ("measurand", "data"):
        if getattr(message, key) is UNSET:
            raise BadFieldError(f"neither `readings` nor `{key}` - at `$`")
    assert isinstance(message.measurand, str)
    assert not isinstance(message.data, UnsetType)
    return [_Reading(message.measurand, message.data, message.component, message.phase)]


def _shown(readings: Sequence[_Reading]) -> str:
    names = [f"{quoted(each.measurand)[1:-1]} {each.phase or ''}".strip() for each in readings[:MOST_SHOWN]]
    return ", ".join(names) + (", …" if len(readings) > MOST_SHOWN else "") or "none"


def _counts(messages: Sequence[Any]) -> list[tuple[bytes, int]]:
    readings = sum(1 if message.readings is UNSET else len(message.readings) for message in messages)
    top = (b'"device"', b'"timestamp"', b'"readings"', b'"time_ns"', b'"quality"')
    each = (b'"measurand"', b'"data"', b'"component"', b'"phase"')
    return [*((key, len(messages)) for key in top), *((key, readings) for key in each)]


class Encoder:
    """Encodes batches. A value that is NaN is left out, as the format holds numbers only."""

    def __init__(self, config: Sogno) -> None:
        self._config = config

    def encode(self, samples: Samples) -> list[bytes]:
        config = self._config
        columns = [
            in_payload_unit(samples, each.column, scale_between(each.payload_unit, each.column)).tolist()
            for each in config.readings
        ]
        times, exact = iso_texts(samples.time_ns), samples.time_ns.tolist()
        codes, quality = samples.device.tolist(), samples.quality.tolist()
        payloads: list[bytes] = []
        for row in range(samples.rows):
            device = samples.devices[codes[row]]
            head: dict[str, Any] = {"device": device, "timestamp": times[row]}
            if config.extension:
                head |= {"time_ns": exact[row], "quality": quality[row]}
            readings = list(self._readings(device, [values[row] for values in columns]))
            if config.flat:
                payloads += [msgspec.json.encode({**head, **reading}) for reading in readings]
            elif readings:
                payloads.append(msgspec.json.encode({**head, "readings": readings}))
        return payloads

    def _readings(self, device: str, values: list[float]) -> Iterator[dict[str, Any]]:
        for reading, value in zip(self._config.readings, values, strict=True):
            if abs(value) < float("inf"):
                phase = {} if reading.phase is None else {"phase": reading.phase}
                component = device if self._config.device == "component" else reading.component or device
                yield {"component": component, "measurand": reading.measurand, **phase, "data": value}


FORMAT = PayloadFormat(config=Sogno, decoder=Decoder, encoder=Encoder)
