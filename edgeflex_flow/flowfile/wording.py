"""Config fields in words: what a value must look like, for error texts and manual pages."""

from __future__ import annotations

import typing
from typing import Any

from edgeflex_flow.flowfile.fields import (
    Hint,
    config_fields,
    entry_hints,
    fixed_length,
    forms,
    is_list,
    is_mapping,
    is_struct,
    item_hint,
    words,
)
from edgeflex_flow.units import UNITS, parse_quantity

_DURATIONS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))


def format_quantity(value: float, unit: str) -> str:
    """A quantity as a person writes it.

    >>> format_quantity(0.5, "s"), format_quantity(0.02, "Hz/s"), format_quantity(90, "s"), format_quantity(65536, "B")
    ('500ms', '0.02 Hz/s', '90s', '64 KiB')
    >>> format_quantity(40e6, "W"), format_quantity(1500, "V"), format_quantity(40e6, "W/Hz"), format_quantity(0, "W")
    ('40 MW', '1.5 kV', '40 MW/Hz', '0 W')
    """
    dimension = UNITS[unit].dimension
    if dimension == "time":
        return _duration(value * UNITS[unit].factor)
    if dimension == "size" and value >= 1024:
        for symbol in ("GiB", "MiB", "KiB"):
            if value * UNITS[unit].factor % UNITS[symbol].factor == 0:
                return f"{value * UNITS[unit].factor / UNITS[symbol].factor:.15g} {symbol}"
    for symbol in (f"{prefix}{unit}" for prefix in "GMk"):
        if symbol in UNITS and UNITS[symbol].dimension == dimension:
            number = value * UNITS[unit].factor / UNITS[symbol].factor
            if abs(number) >= 1 and parse_quantity(text := f"{number:.15g} {symbol}", unit) == value:
                return text
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
    >>> from msgspec import Meta
    >>> from edgeflex_flow.flowfile.fields import read_hint
    >>> expectation(read_hint(Annotated[int, Meta(ge=1, le=65535)]))
    'an integer from 1 to 65535'
    >>> expectation(read_hint(Annotated[str, Meta(pattern="^[0-9] of [0-9]$", examples=["3 of 4"])]))
    "a text such as '3 of 4'"
    """
    text = _choices_words(hint)
    if hint.noted("table"):
        text += ", or the path of a file that holds it"
    limits = bounds(hint)
    joint = " " if limits.startswith("from") else ", "
    return f"{text}{joint + limits if limits else ''}{_pattern_words(hint)}"


def _pattern_words(hint: Hint) -> str:
    pattern, examples = hint.constraint("pattern"), hint.constraint("examples")
    if pattern is None:
        return ""
    return f" such as '{examples[0]}'" if examples else f", matching {pattern}"


def bounds(hint: Hint) -> str:
    """The limits of a field, in words; empty when there are none.

    >>> from typing import Annotated
    >>> from edgeflex_flow.flowfile.fields import read_hint
    >>> from edgeflex_flow.node import quantity
    >>> bounds(read_hint(Annotated[float, quantity("s", "Window.", gt=0, le=60)]))
    'above 0s, at most 60s'
    """

    def number(value: Any) -> str:
        return format_quantity(value, hint.unit) if hint.unit else f"{value:.15g}"

    ge, gt, le, lt = (hint.constraint(name) for name in ("ge", "gt", "le", "lt"))
    parts = []
    if ge is not None and le is not None:
        parts.append(f"from {number(ge)} to {number(le)}")
    else:
        named = (("at least", ge), ("above", gt), ("at most", le), ("below", lt))
        parts += [f"{word} {number(value)}" for word, value in named if value is not None]
    least, most = hint.constraint("min_length"), hint.constraint("max_length")
    if least is not None and not hint.family and not hint.noted("path"):
        parts.append(f"at least {least} {_length_unit(hint, least)}")
    if most is not None:
        parts.append(f"at most {most} {_length_unit(hint, most)}")
    return ", ".join(parts)


def _length_unit(hint: Hint, count: int) -> str:
    noun = "character" if hint.bare is str else "entries" if count != 1 else "entry"
    return noun if noun.startswith("entr") or count == 1 else f"{noun}s"


def type_words(hint: Hint) -> str:
    """The type of a field, in words, without its limits."""
    text = _choices_words(hint)
    if hint.noted("table"):
        text += ", or the path of a file that holds it"
    return f"{text} or nothing" if hint.optional else text


def _choices_words(hint: Hint) -> str:
    named = forms(hint)
    if named:
        return f"one of {', '.join(named)}, by name or with its settings"
    return " or ".join(dict.fromkeys(_kind_words(kind, hint) for kind in hint.choices))


def _kind_words(kind: Any, hint: Hint) -> str:
    if kind in (int, float) and hint.unit:
        return f"{_article(UNITS[hint.unit].dimension)} with its unit"
    if kind is str and hint.family:
        return f"the name of a connection ({hint.family})"
    if kind is str and hint.noted("path"):
        return "a path"
    if kind in _PLAIN_WORDS:
        return _PLAIN_WORDS[kind]
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(str(value) for value in typing.get_args(kind))
    return f"one of {', '.join(words(kind))}" if words(kind) else _container_words(kind)


def _container_words(kind: Any) -> str:
    length = fixed_length(kind)
    if length is not None:
        return "a list of " + ", ".join(type_words(item_hint(kind, index)) for index in range(length))
    if is_list(kind):
        return "a list of " + _plural(type_words(item_hint(kind, 0)))
    if is_mapping(kind):
        key, value = entry_hints(kind)
        return f"a mapping of {_plural(type_words(key))} to {_plural(type_words(value))}"
    if is_struct(kind):
        return "a mapping with " + ", ".join(field.key for field in config_fields(kind))
    return str(getattr(kind, "__name__", kind))


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
