"""What a config's fields are: their types, units, bounds and descriptions, read from the annotations.

Decoding, the JSON Schema and the manual pages all read fields through here, so that they cannot disagree.
"""

from __future__ import annotations

import collections.abc
import enum
import functools
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Meta

from edgeflex_flow.units import UNITS

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

    @property
    def bare(self) -> Any:
        """The type without metadata and without None; a union when several remain."""
        return self.choices[0] if len(self.choices) == 1 else self.full

    def extra(self, name: str) -> Any:
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
        found: str | None = self.extra("unit")
        return found

    @property
    def family(self) -> str | None:
        """Family of the connection that the value names."""
        found: str | None = self.extra("connection")
        return found

    @property
    def description(self) -> str:
        return self.constraint("description") or ""

    @property
    def numeric(self) -> bool:
        """Whether a policy could change it: a number or a quantity."""
        return self.bare in (int, float)


def read_hint(annotation: Any) -> Hint:
    """Take an annotation apart.

    >>> from typing import Annotated
    >>> hint = read_hint(Annotated[float, Meta(ge=0)] | None)
    >>> hint.bare, hint.optional, hint.constraint("ge")
    (<class 'float'>, True, 0)
    """
    metas: list[Meta] = []

    def members(kind: Any) -> Iterator[Any]:
        origin = typing.get_origin(kind)
        if origin is typing.Annotated:
            metas.extend(each for each in kind.__metadata__ if isinstance(each, Meta))
            yield from members(kind.__origin__)
        elif origin in (typing.Union, types.UnionType):
            for member in typing.get_args(kind):
                yield from members(member)
        else:
            yield kind

    found = tuple(members(annotation))
    return Hint(
        full=annotation,
        choices=tuple(kind for kind in found if kind is not type(None)) or found,
        optional=type(None) in found,
        metas=tuple(metas),
    )


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
        return None if field.default_factory is _NOT_GIVEN else field.default_factory()  # type: ignore[misc]

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


def words(kind: Any) -> tuple[str, ...]:
    """The texts among the values that a Literal or an enum allows; nothing for other types."""
    if typing.get_origin(kind) is typing.Literal:
        return tuple(value for value in typing.get_args(kind) if isinstance(value, str))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return tuple(member.value for member in kind if isinstance(member.value, str))
    return ()


_DURATIONS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))


def format_quantity(value: float, unit: str) -> str:
    """A quantity as a person writes it.

    >>> format_quantity(0.5, "s"), format_quantity(0.02, "Hz/s"), format_quantity(90, "s"), format_quantity(65536, "B")
    ('500ms', '0.02 Hz/s', '90s', '64 KiB')
    """
    dimension = UNITS[unit].dimension
    if dimension == "time":
        return _duration(value * UNITS[unit].factor)
    if dimension == "size" and value >= 1024:
        for symbol in ("GiB", "MiB", "KiB"):
            if value * UNITS[unit].factor % UNITS[symbol].factor == 0:
                return f"{value * UNITS[unit].factor / UNITS[symbol].factor:.15g} {symbol}"
    return f"{value:.15g}{'' if unit == '%' else ' '}{unit}"


def _duration(seconds: float) -> str:
    for symbol, factor in _DURATIONS:
        number = seconds / factor
        if abs(number) >= (2 if factor > 1 else 1) and abs(number - round(number)) < 1e-9 * abs(number):
            return f"{round(number)}{symbol}"
    return f"{seconds:.15g}s"


def example(hint: Hint, default: Any) -> str:
    """A quantity that would do for the field, as a person writes it."""
    assert hint.unit is not None
    lower = hint.constraint("ge") if hint.constraint("ge") is not None else hint.constraint("gt")
    upper = hint.constraint("le") if hint.constraint("le") is not None else hint.constraint("lt")
    value = default if isinstance(default, int | float) and default else None
    if value is None:
        value = 1.0
        if lower is not None and value <= lower:
            value = lower * 2
        if upper is not None and value >= upper:
            value = upper / 2
    return format_quantity(value, hint.unit)


def expectation(hint: Hint) -> str:
    """What values of the type look like, in words.

    >>> from typing import Annotated
    >>> expectation(read_hint(Annotated[int, Meta(ge=1, le=65535)]))
    'an integer from 1 to 65535'
    """
    text = " or ".join(dict.fromkeys(_kind_words(kind, hint) for kind in hint.choices))
    limits = bounds(hint)
    pattern = hint.constraint("pattern")
    return f"{text}{f' {limits}' if limits else ''}{f' that matches {pattern}' if pattern else ''}"


def bounds(hint: Hint) -> str:
    """The limits of a field, in words; empty when there are none.

    >>> from edgeflex_flow.node import quantity
    >>> bounds(read_hint(typing.Annotated[float, quantity("s", "Window.", gt=0, le=60)]))
    'above 0s to 60s'
    """

    def number(value: Any) -> str:
        return format_quantity(value, hint.unit) if hint.unit else f"{value:.15g}"

    ge, gt, le, lt = (hint.constraint(name) for name in ("ge", "gt", "le", "lt"))
    parts = []
    if ge is not None:
        parts.append(f"from {number(ge)}")
    elif gt is not None:
        parts.append(f"above {number(gt)}")
    if le is not None:
        parts.append(f"{'to' if parts else 'up to'} {number(le)}")
    elif lt is not None:
        parts.append(f"{'and ' if parts else ''}below {number(lt)}")
    least, most = hint.constraint("min_length"), hint.constraint("max_length")
    if least is not None and not hint.family and not hint.extra("path"):
        parts.append(f"of at least {least} {_length_unit(hint, least)}")
    if most is not None:
        parts.append(f"{'and' if parts else 'of'} at most {most} {_length_unit(hint, most)}")
    return " ".join(parts)


def _length_unit(hint: Hint, count: int) -> str:
    noun = "character" if hint.bare is str else "entries" if count != 1 else "entry"
    return noun if noun.startswith("entr") or count == 1 else f"{noun}s"


def type_words(hint: Hint) -> str:
    """The type of a field, in words, without its limits."""
    text = " or ".join(dict.fromkeys(_kind_words(kind, hint) for kind in hint.choices))
    return f"{text} or nothing" if hint.optional else text


def _kind_words(kind: Any, hint: Hint) -> str:
    if hint.unit and kind in (int, float):
        return f"{_article(UNITS[hint.unit].dimension)} with its unit (like {hint.unit})"
    if hint.family and kind is str:
        return f"the name of a connection ({hint.family})"
    if hint.extra("path") and kind is str:
        return "a path"
    if kind in _PLAIN_WORDS:
        return _PLAIN_WORDS[kind]
    if words(kind):
        return "one of " + ", ".join(words(kind))
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(str(value) for value in typing.get_args(kind))
    if is_list(kind):
        length = fixed_length(kind)
        if length is not None:
            return "a list of " + ", ".join(_kind_of(item_hint(kind, index)) for index in range(length))
        return "a list of " + _plural(_kind_of(item_hint(kind, 0)))
    if is_mapping(kind):
        return f"a mapping of {_plural(_kind_of(entry_hints(kind)[0]))} to {_plural(_kind_of(entry_hints(kind)[1]))}"
    if is_struct(kind):
        return "a mapping with " + ", ".join(field.key for field in config_fields(kind))
    return str(getattr(kind, "__name__", kind))


def _kind_of(hint: Hint) -> str:
    return type_words(hint)


_PLAIN_WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "true or false",
    bytes: "base64 text",
    Any: "anything",
}


def _article(dimension: str) -> str:
    noun = dimension.replace("_", " ")
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _plural(text: str) -> str:
    plurals = {"an integer": "integers", "a number": "numbers", "a text": "texts", "a path": "paths"}
    return plurals.get(text, text)
