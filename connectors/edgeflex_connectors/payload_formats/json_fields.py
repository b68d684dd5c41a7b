"""`json`: plain JSON objects, with a declared mapping of their fields to columns and units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgeflex_connectors.payload_formats.channels import Channel, channel_values, own_channels, repeated_columns
from edgeflex_connectors.payload_formats.codec import Decoded, FormatConfig, PayloadFormat, name_refusals
from edgeflex_connectors.payload_formats.objects import ObjectDecoder, ObjectFields, Path
from edgeflex_connectors.payload_formats.times import TimeUnit, time_values
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples


class JsonFields(FormatConfig, frozen=True, kw_only=True, tag="json"):
    """An object or an array of them, each one a row. Fields of inner objects are named with dots, `ac.power`."""

    fields: Annotated[
        dict[str, Channel],
        Meta(description="Fields that do not go by the name and unit of their column: name in the payload to column."),
    ] = msgspec.field(default_factory=dict)
    time: Annotated[str, Meta(min_length=1, description="Field of the time.")]
    time_unit: Annotated[
        TimeUnit,
        Meta(description="A number of this unit since 1970 (UTC), or iso8601; us and ms are sent whole."),
    ]
    device: Annotated[str | None, Meta(description="Field of the device's name.")] = None
    quality: Annotated[str | None, Meta(description="Field of the quality flags.")] = None
    single: Annotated[bool, Meta(description="Whether each row is sent by itself, not in an array.")] = False

    def refusals(self) -> Iterator[FieldError]:
        places = {f"fields.{name}": name for name in self.fields} | {
            key: name for key in ("time", "device", "quality") if (name := getattr(self, key)) is not None
        }
        yield from name_refusals(places)
        yield from path_refusals(places)
        yield from repeated_columns((f"fields.{name}", each) for name, to in self.fields.items() for each in to.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for channel in self.fields.values() for column in channel.columns)

    @property
    def named_fields(self) -> bool:
        return True

    @property
    def taken_names(self) -> frozenset[str]:
        names = (self.time, self.device, self.quality, *self.fields)
        return frozenset(_path(name)[0] for name in names if name is not None)

    @property
    def names_device(self) -> bool:
        return self.device is not None

    @property
    def takes_objects(self) -> bool:
        return True

    @property
    def carries_quality(self) -> bool:
        return self.quality is not None


def path_refusals(places: dict[str, str]) -> Iterator[FieldError]:
    """What is wrong with fields; takes the place of each in the settings, and its name."""
    taken: dict[Path, str] = {}
    for place, name in places.items():
        path = _path(name)
        if not all(path):
            yield FieldError("a field's name has no empty part", place, got=f"'{name}'")
        for other, at in taken.items():
            if path[: len(other)] == other[: len(path)]:
                yield FieldError(f"field '{name}' and field '{places[at]}' cannot both be there", place, at)
        taken[path] = place


def _path(name: str) -> Path:
    return tuple(name.split("."))


class Decoder:
    """Decodes payloads for one subscription.

    >>> config = JsonFields(fields={"u.rms": Channel(column="voltage_v", unit="kV")}, time="t", time_unit="s")
    >>> Decoder(config, (), True).decode(b'{"t":1.5,"u":{"rms":0.23}}', "G1").rows
    [(1500000000, 'G1', 0, (230.0,))]
    """

    def __init__(self, config: JsonFields, columns: tuple[str, ...], given: bool) -> None:
        named = {**{column: Channel(column=column) for column in columns}, **config.fields}
        self._objects = ObjectDecoder(
            ObjectFields(
                times=((_path(config.time), config.time_unit),),
                device=None if given or config.device is None else _path(config.device),
                quality=None if config.quality is None else _path(config.quality),
                channels=tuple((_path(name), channel) for name, channel in named.items()),
            ),
            single=True,
        )

    def decode(self, payload: bytes, device: str | None) -> Decoded:
        return self._objects.decode(payload, device)


class Encoder:
    def __init__(self, config: JsonFields) -> None:
        self._config = config
        self._json = msgspec.json.Encoder(decimal_format="number")

    def encode(self, samples: Samples) -> list[bytes]:
        config = self._config
        fields = config.fields or own_channels(samples, config.taken_names)
        lists: dict[str, list[Any]] = {config.time: time_values(samples.time_ns, config.time_unit)}
        if config.device is not None:
            lists[config.device] = [samples.devices[code] for code in samples.device.tolist()]
        if config.quality is not None:
            lists[config.quality] = samples.quality.tolist()
        lists |= {name: channel_values(samples, channel) for name, channel in fields.items()}
        paths = [_path(name) for name in lists]
        objects = [_nested(paths, row) for row in zip(*lists.values(), strict=True)]
        return [self._json.encode(each) for each in objects] if config.single else [self._json.encode(objects)]


def _nested(paths: list[Path], row: tuple[Any, ...]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for path, value in zip(paths, row, strict=True):
        inner = made
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    return made


FORMAT = PayloadFormat(config=JsonFields, decoder=Decoder, encoder=Encoder)
