"""Reads a tree of Structs part by part, so that all that is wrong with it is told at once.

msgspec ends at the first error. What cannot be read becomes `UNKNOWN` here, and the rest goes on around it: checks of
what was read find out by themselves that they cannot tell anything (`told`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn, TypeAlias

import msgspec

from edgeflex_flow.errors import nearest
from edgeflex_flow.flowfile.fields import (
    ConfigField,
    Hint,
    config_fields,
    entry_hints,
    forms,
    is_list,
    is_mapping,
    is_struct,
    item_hint,
    read_hint,
    tag_field,
)
from edgeflex_flow.flowfile.wording import expectation

Problem: TypeAlias = tuple[str, str]
"""A place, such as `rules[0].when.since`, and what is wrong there."""

MOST_PROBLEMS = 100
LONGEST_SHOWN = 60


class UnreadError(Exception):
    """A check looked at something that could not be read."""


class _Unknown:
    """Stands for what could not be read: it is there, and whoever looks at it learns that nobody knows."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # Python itself looks at what an object is
            raise AttributeError(name)
        raise UnreadError


def _look(*_: object) -> NoReturn:
    raise UnreadError


for _name in (
    *("eq", "ne", "lt", "le", "gt", "ge", "bool", "iter", "len", "contains", "getitem"),
    *("str", "repr", "format", "float", "int", "hash"),
):
    setattr(_Unknown, f"__{_name}__", _look)

UNKNOWN: Any = _Unknown()


def told(*checks: Iterator[Problem]) -> Iterator[Problem]:
    """What each check finds, as far as it can tell."""
    for check in checks:
        try:
            yield from check
        except UnreadError:
            continue


def shown(value: object) -> str:
    """What was got, for a text: long ones shortened, lists and objects by their name.

    >>> shown("a" * 5), shown(5), shown([1]), shown({}), shown(None)
    ("'aaaaa'", '5', 'a list', 'an object', 'null')
    """
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"'{value}'" if len(value) <= LONGEST_SHOWN else f"'{value[:LONGEST_SHOWN]}…'"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return f"{value:.15g}" if isinstance(value, float) else str(value)


def read_leniently(data: Any, annotation: Any) -> tuple[Any, list[Problem]]:
    """What can be read of `data` as that type, and what cannot: at most `MOST_PROBLEMS`."""
    reader = _Reader()
    value = reader.read(data, read_hint(annotation), "")
    return value, reader.problems


def needs(hint: Hint) -> str:
    """What values of a type look like, in words.

    >>> needs(read_hint(float | str))
    "a number, or a text of a number with its unit, such as '0.02 Hz/s'"
    """
    if set(hint.choices) == {float, str}:
        return "a number, or a text of a number with its unit, such as '0.02 Hz/s'"
    if hint.bare is datetime:
        return "a moment with its offset, such as '2026-03-01T06:00:00+01:00'"
    if is_struct(hint.bare) or is_mapping(hint.bare) or forms(hint):
        return "an object"
    if is_list(hint.bare) and is_struct(item_hint(hint.bare, 0).bare):
        return "a list of objects"
    return expectation(hint)


class _Reader:
    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def read(self, data: Any, hint: Hint, place: str) -> Any:
        try:
            return msgspec.convert(data, hint.full)
        except msgspec.ValidationError:
            pass
        named = forms(hint)
        if isinstance(data, Mapping) and named:
            return self._form(data, named, place)
        if isinstance(data, Mapping) and is_struct(hint.bare):
            return self._struct(data, hint.bare, place)
        if isinstance(data, Mapping) and is_mapping(hint.bare):
            return self._mapping(data, hint, place)
        if isinstance(data, list | tuple) and is_list(hint.bare):
            return self._list(data, hint, place)
        return self._wrong(place, f"needs {needs(hint)}; got {shown(data)}", _close(data, hint.words))

    def _wrong(self, place: str, text: str, close: str | None = None) -> Any:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append((place, f"{text}; did you mean '{close}'?" if close else text))
        return UNKNOWN

    def _form(self, data: Mapping[str, Any], named: Mapping[str, type[msgspec.Struct]], place: str) -> Any:
        """One of several Structs, of which a key says which."""
        key = tag_field(next(iter(named.values()))) or ""
        chosen = data.get(key)
        if isinstance(chosen, str) and chosen in named:
            return self._struct(data, named[chosen], place)
        got = f"got {shown(chosen)}" if key in data else "it is missing"
        return self._wrong(_join(place, key), f"needs one of {', '.join(named)}; {got}", _close(chosen, tuple(named)))

    def _struct(self, data: Mapping[str, Any], kind: type[msgspec.Struct], place: str) -> Any:
        tag = tag_field(kind)
        known = [*(() if tag is None else (tag,)), *(field.key for field in config_fields(kind))]
        for key in data:
            if key not in known and len(self.problems) < MOST_PROBLEMS:
                self._wrong(_join(place, str(key)), f"unknown key; known: {', '.join(known)}", _close(key, known))
        return kind(**{field.name: self._field(data, field, place) for field in config_fields(kind)})

    def _field(self, data: Mapping[str, Any], field: ConfigField, place: str) -> Any:
        inner = _join(place, field.key)
        if field.key in data:
            return self.read(data[field.key], field.hint, inner)
        return self._wrong(inner, f"is missing: {needs(field.hint)}") if field.required else field.default

    def _mapping(self, data: Mapping[str, Any], hint: Hint, place: str) -> Any:
        if self._is_too_long(data, hint, place):
            return UNKNOWN
        keys, values = entry_hints(hint.bare)
        found: dict[Any, Any] = {}
        for key, each in data.items():
            inner = _join(place, str(key)[:LONGEST_SHOWN])
            if self.read(key, keys, inner) is not UNKNOWN:
                found[key] = self.read(each, values, inner)
        return found

    def _list(self, data: list[Any] | tuple[Any, ...], hint: Hint, place: str) -> Any:
        if self._is_too_long(data, hint, place):
            return UNKNOWN
        items = item_hint(hint.bare, 0)
        return tuple(self.read(each, items, f"{place}[{at}]") for at, each in enumerate(data))

    def _is_too_long(self, data: Any, hint: Hint, place: str) -> bool:
        least, most = hint.constraint("min_length") or 0, hint.constraint("max_length")
        if least <= len(data) and (most is None or len(data) <= most):
            return False
        bounds = f"at least {least}" if len(data) < least else f"at most {most}"
        self._wrong(place, f"needs {bounds} {'entry' if bounds.endswith(' 1') else 'entries'}; got {len(data)}")
        return True


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _close(word: object, known: Any) -> str | None:
    return nearest(word, known) if isinstance(word, str) and len(word) <= LONGEST_SHOWN else None
