"""What a config's fields are: their types, units, bounds and descriptions, read from the annotations.

Decoding, the JSON Schema and the manual pages all read fields through here, so that they cannot disagree.
"""

from __future__ import annotations

import collections.abc
import enum
import functools
import math
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Meta

from edgeflex_flow.flowfile.secrecy import SecretKeys
from edgeflex_flow.units import parse_quantity

_NOT_GIVEN = msgspec.NODEFAULT


@dataclass(frozen=True, slots=True)
class Hint:
    """A type annotation taken apart."""

    full: Any
    """As annotated: what msgspec converts to."""
    choices: tuple[Any, ...]
    """The members of a union without None; one member for any other type."""
    optional: bool
    """Whether None will do."""
    metas: tuple[Meta, ...]
    """All metadata, that of the whole and that of single members of a union."""
    members: tuple[Any, ...] = ()
    """`choices`, each with the metadata that is its own."""

    @property
    def words(self) -> tuple[str, ...]:
        """The texts that a Literal or an enum among the choices allows."""
        return tuple(word for kind in self.choices for word in words(kind))

    @property
    def bare(self) -> Any:
        """The type without metadata and without None; a union when several remain."""
        return self.choices[0] if len(self.choices) == 1 else self.full

    def noted(self, name: str) -> Any:
        """What `quantity`, `connection` or `path` noted in the annotation; None when they did not."""
        for meta in self.metas:
            if meta.extra and name in meta.extra:
                return meta.extra[name]
        return None

    def constraint(self, name: str) -> Any:
        """A constraint of msgspec's `Meta` (`ge`, `pattern`, …); None when there is none."""
        found = (getattr(meta, name) for meta in self.metas)
        return next((value for value in found if value is not None), None)

    @property
    def unit(self) -> str | None:
        found: str | None = self.noted("unit")
        return found

    @property
    def family(self) -> str | None:
        """Family of the connection that the value names."""
        found: str | None = self.noted("connection")
        return found

    @property
    def description(self) -> str:
        return self.constraint("description") or ""

    @property
    def numeric(self) -> bool:
        """Whether a policy could change it: a number or a quantity."""
        return self.bare in (int, float)

    @property
    def textual(self) -> bool:
        """Whether a policy could change it: a text, or a list of any number of texts, that is no secret and names no
        connection."""
        kind = self.bare
        if is_list(kind):
            item = item_hint(kind, 0)
            kind = item.bare if fixed_length(kind) is None and not item.words else None
        return kind is str and not self.words and not self.noted("secret") and not self.noted("connection")


def read_hint(annotation: Any) -> Hint:
    """Take an annotation apart.

    >>> from typing import Annotated
    >>> hint = read_hint(Annotated[float, Meta(ge=0)] | None)
    >>> hint.bare, hint.optional, hint.constraint("ge")
    (<class 'float'>, True, 0)
    """
    metas: list[Meta] = []

    def take_apart(kind: Any, own: tuple[Meta, ...]) -> Iterator[tuple[Any, tuple[Meta, ...]]]:
        origin = typing.get_origin(kind)
        if origin is typing.Annotated:
            found = tuple(each for each in kind.__metadata__ if isinstance(each, Meta))
            metas.extend(found)
            yield from take_apart(kind.__origin__, (*own, *found))
        elif origin in (typing.Union, types.UnionType):
            several = len([each for each in typing.get_args(kind) if each is not type(None)]) > 1
            for each in typing.get_args(kind):
                yield from take_apart(each, () if several else own)
        else:
            yield kind, own

    apart = tuple(take_apart(annotation, ()))
    kept = tuple((kind, own) for kind, own in apart if kind is not type(None)) or apart
    return Hint(
        full=annotation,
        choices=tuple(kind for kind, _ in kept),
        optional=any(kind is type(None) for kind, _ in apart),
        metas=tuple(metas),
        members=tuple(functools.reduce(_annotated, own, kind) for kind, own in kept),
    )


def _annotated(kind: Any, meta: Meta) -> Any:
    return typing.Annotated[kind, meta]


@dataclass(frozen=True, slots=True)
class ConfigField:
    """A field of a config."""

    name: str
    """Attribute of the config."""
    key: str
    """Key in the flow file."""
    hint: Hint
    required: bool
    default: Any
    """None also when the field is required."""


@functools.cache
def config_fields(config: type[msgspec.Struct]) -> tuple[ConfigField, ...]:
    """The fields of a config, in the order of its definition."""

    def default(field: msgspec.structs.FieldInfo) -> Any:
        if field.default is not _NOT_GIVEN:
            return field.default
        return None if field.default_factory is _NOT_GIVEN else field.default_factory()

    return tuple(
        ConfigField(field.name, field.encode_name, read_hint(field.type), field.required, default(field))
        for field in msgspec.structs.fields(config)
    )


def is_list(kind: Any) -> bool:
    """Whether values of the type are written as a YAML list."""
    return (typing.get_origin(kind) or kind) in _LISTS


def is_mapping(kind: Any) -> bool:
    """Whether values of the type are written as a YAML mapping with free keys."""
    return (typing.get_origin(kind) or kind) in _MAPPINGS


def is_struct(kind: Any) -> bool:
    """Whether values of the type are written as a YAML mapping with fixed keys."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


_LISTS = frozenset({list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Collection})
_MAPPINGS = frozenset({dict, collections.abc.Mapping, collections.abc.MutableMapping})


def item_hint(kind: Any, index: int) -> Hint:
    """The type of one item of a list type."""
    arguments = typing.get_args(kind)
    if not arguments:
        return read_hint(Any)
    if typing.get_origin(kind) is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return read_hint(arguments[index] if index < len(arguments) else Any)
    return read_hint(arguments[0])


def fixed_length(kind: Any) -> int | None:
    """How many items a tuple type of fixed length has; None for other types."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is not tuple or (len(arguments) == 2 and arguments[1] is Ellipsis):
        return None
    return len(arguments)


def entry_hints(kind: Any) -> tuple[Hint, Hint]:
    """The types of keys and values of a mapping type."""
    key, value = typing.get_args(kind) or (Any, Any)
    return read_hint(key), read_hint(value)


def tag_field(kind: Any) -> str | None:
    """The key by which a mapping says that it is of this Struct; None for a Struct that needs no such key."""
    found: str | None = kind.__struct_config__.tag_field if is_struct(kind) else None
    return found


def forms(hint: Hint) -> dict[str, type[msgspec.Struct]]:
    """The Structs that a setting may be, by the name under which the file chooses one; nothing for other settings."""
    return {str(kind.__struct_config__.tag): kind for kind in hint.choices if tag_field(kind) is not None}


def needs_settings(form: type[msgspec.Struct]) -> bool:
    """Whether its name alone does not say all that a form needs."""
    return any(field.required for field in config_fields(form))


def secret_keys(configs: Iterable[type[msgspec.Struct]]) -> SecretKeys:
    """The keys of all secrets of these configs, those of their parts included."""
    fields = list(_all_fields(configs))
    secrets = [field.key for field in fields if field.hint.noted("secret")]
    return SecretKeys(secrets, others=[field.key for field in fields if not field.hint.noted("secret")])


def _all_fields(configs: Iterable[type[msgspec.Struct]]) -> Iterator[ConfigField]:
    waiting, seen = list(configs), set[type[msgspec.Struct]]()
    while waiting:
        config = waiting.pop()
        if config in seen:
            continue
        seen.add(config)
        for field in config_fields(config):
            yield field
            waiting.extend(_structs_in(field.hint))


def _structs_in(hint: Hint) -> Iterator[type[msgspec.Struct]]:
    for kind in hint.choices:
        if is_struct(kind):
            yield kind
        elif is_list(kind):
            yield from (
                each for index in range(fixed_length(kind) or 1) for each in _structs_in(item_hint(kind, index))
            )
        elif is_mapping(kind):
            yield from _structs_in(entry_hints(kind)[1])


def words(kind: Any) -> tuple[str, ...]:
    """The texts among the values that a Literal or an enum allows; nothing for other types."""
    if typing.get_origin(kind) is typing.Literal:
        return tuple(value for value in typing.get_args(kind) if isinstance(value, str))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return tuple(member.value for member in kind if isinstance(member.value, str))
    return ()


def parse_number(config: type[msgspec.Struct], name: str, value: Any) -> float:
    """The value of a numeric setting from a number in its unit or a text with it. Raises ValueError, TypeError.

    The bounds of the setting are not looked at: `check_bounds` does.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"no number: {value!r}")
    if not isinstance(value, str):
        return float(value)
    unit = _field(config, name).hint.unit
    if unit:
        return parse_quantity(value, unit)
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"a number without a unit is expected; got '{value[:100]}'") from None


def unit_of(config: type[msgspec.Struct], name: str) -> str:
    """The unit of a setting as it follows a number in a text: empty, or a space and the unit."""
    unit = _field(config, name).hint.unit
    return f" {unit}" if unit else ""


def check_bounds(config: type[msgspec.Struct], name: str, number: float) -> None:
    """Raise ValueError when a setting cannot have this value, as a flow file cannot give it."""
    if not math.isfinite(number):
        raise ValueError(f"a finite number is expected; got {number}")
    try:
        msgspec.convert(number, _field(config, name).hint.full, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def check_text(config: type[msgspec.Struct], name: str, value: Any) -> Any:
    """A text, or texts, in the type that the setting has. Raises ValueError when it cannot have this value."""
    try:
        return msgspec.convert(value, _field(config, name).hint.full)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def _field(config: type[msgspec.Struct], name: str) -> ConfigField:
    return next(field for field in config_fields(config) if field.name == name)
