"""JSON objects whose keys are fields: each one a row. Serves `json.edgeflex` and `json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from edgeflex_connectors.batching import Row
from edgeflex_connectors.payload_formats.channels import Channel, RowLayout
from edgeflex_connectors.payload_formats.codec import LONGEST_GOT, BadFieldError, Decoded, MissingFieldError
from edgeflex_connectors.payload_formats.elements import ElementDecoder, MaybeFlags, Phasor, Value, Word
from edgeflex_connectors.payload_formats.times import LATEST_NS, NS_PER_UNIT, iso_to_ns, number_to_ns
from edgeflex_flow.units import NS_PER_S, column_unit

Path = tuple[str, ...]
"""Keys from the object inwards."""

MaybeName: TypeAlias = Annotated[str, Meta(min_length=1)] | UnsetType | None


class ObjectFields(NamedTuple):
    """Where things stand in an object."""

    times: tuple[tuple[Path, str], ...]
    """Paths of the time and its unit; the first that is there counts."""
    device: Path | None
    quality: Path | None
    channels: tuple[tuple[Path, Channel], ...]


class ObjectDecoder:
    """Decodes objects with these fields."""

    def __init__(self, fields: ObjectFields, *, single: bool) -> None:
        self._fields = fields
        self._layout = RowLayout([channel for _, channel in fields.channels])
        leaves: list[tuple[Path, Any]] = [(path, _time_type(unit)) for path, unit in fields.times]
        leaves += [(path, MaybeName) for path in (fields.device,) if path]
        leaves += [(path, MaybeFlags) for path in (fields.quality,) if path]
        leaves += [(path, _value_type(channel)) for path, channel in fields.channels]
        paths = [path for path, _ in leaves]
        self._element, self._ways = _object_type(leaves)
        self._is_flat = all(len(path) == 1 for path in paths)
        # Seconds are broken by nature, and ISO times are texts: both are read from their text.
        self._factors = [None if unit in ("s", "iso8601") else NS_PER_UNIT[unit] for _, unit in fields.times]
        self._seconds = number_to_ns(NS_PER_S)
        self._has_quality = fields.quality is not None
        self._device_at = len(fields.times)
        self._quality_at = self._device_at + (fields.device is not None)
        self._values_at = self._quality_at + (fields.quality is not None)
        copies = _copies(paths)
        complexes = sum(channel.angle_column is not None for _, channel in fields.channels)
        if complexes:
            copies |= {key: copies.get(key, 0) + complexes for key in (b'"real"', b'"imag"')}
        self._elements = ElementDecoder(
            self._element,
            self._read,
            lambda items: [(key, count * len(items)) for key, count in copies.items()],
            single=single,
        )

    def decode(self, payload: bytes, device: str | None) -> Decoded:
        return self._elements.decode(payload, device)

    def _read(self, item: Any, device: str | None, rows: list[Row]) -> None:
        found = msgspec.structs.astuple(item) if self._is_flat else tuple([_follow(item, way) for way in self._ways])
        values = found[self._values_at :]
        if device is None:
            device = found[self._device_at]
            if device is None or device is UNSET:
                assert self._fields.device is not None
                raise MissingFieldError(f"no device under the key `{dotted(self._fields.device)}` - at `$`")
        if values.count(UNSET) == len(values):
            raise MissingFieldError(f"none of the fields {self._known()} - at `$`")
        quality = found[self._quality_at] if self._has_quality else 0
        time_ns = self._time_ns(found)
        rows.append((time_ns, device, 0 if quality is None or quality is UNSET else quality, self._layout.row(values)))

    def _time_ns(self, found: Sequence[Any]) -> int:
        for place, factor in enumerate(self._factors):
            value = found[place]
            if value is None or value is UNSET:
                continue
            if factor is not None:
                return value * factor if type(value) is int else round(value * factor)
            try:
                return self._time_of_text(value)
            except BadFieldError as error:
                raise BadFieldError(f"{error} - at `$.{dotted(self._fields.times[place][0])}`") from error
        names = " nor ".join(f"`{dotted(path)}`" for path, _ in self._fields.times)
        raise MissingFieldError(f"{'neither' if len(self._factors) > 1 else 'no'} {names} - at `$`")

    def _time_of_text(self, value: str | msgspec.Raw) -> int:
        if isinstance(value, str):
            return iso_to_ns(value)
        text = bytes(value).decode()
        if text[0] in '"[{tfn':
            raise BadFieldError(f"expected a number, got {text[:LONGEST_GOT]}")
        return self._seconds(text)

    def _known(self) -> str:
        return ", ".join(dotted(path) for path, _ in self._fields.channels)


def _copies(paths: Sequence[Path]) -> dict[bytes, int]:
    """How often each key of these paths stands in one object, in its quotes."""
    keys = {path[: depth + 1] for path in paths for depth in range(len(path))}
    quoted_keys = [f'"{key[-1]}"'.encode() for key in keys]
    return {key: quoted_keys.count(key) for key in quoted_keys}


def dotted(path: Path) -> str:
    return ".".join(path)


def _time_type(unit: str) -> Any:
    if unit == "iso8601":
        return str | UnsetType | None
    if unit == "s":
        return msgspec.Raw | UnsetType
    latest = LATEST_NS // NS_PER_UNIT[unit]
    number: Any = Annotated[int, Meta(ge=0, le=latest)] | Annotated[float, Meta(ge=0, lt=latest)]
    return number | UnsetType | None


def _value_type(channel: Channel) -> Any:
    if channel.angle_column is not None:
        return Phasor
    return Value if column_unit(channel.column) is not None else Word


def _object_type(leaves: Sequence[tuple[Path, Any]]) -> tuple[type[msgspec.Struct], list[Path]]:
    """A Struct for objects with these leaves, and the way to each through its attributes.

    Attributes are called f0, f1 …, because keys need not be Python names.
    """
    fields: list[Any] = []
    rename: dict[str, str] = {}
    ways: dict[Path, Path] = {}
    for key in dict.fromkeys(path[0] for path, _ in leaves):
        name = f"f{len(fields)}"
        inner = [(path[1:], kind) for path, kind in leaves if path[0] == key]
        if inner[0][0]:
            kind, inner_ways = _object_type(inner)
            fields.append((name, kind | None | UnsetType, UNSET))
            ways |= {(key, *path): (name, *way) for (path, _), way in zip(inner, inner_ways, strict=True)}
        else:
            fields.append((name, inner[0][1], UNSET))
            ways[(key,)] = (name,)
        rename[name] = key
    made = msgspec.defstruct("Element", fields, rename=rename, kw_only=True, gc=False)
    return made, [ways[path] for path, _ in leaves]


def _follow(item: Any, way: Path) -> Any:
    for name in way:
        item = getattr(item, name)
        if item is None or item is UNSET:
            return item
    return item
