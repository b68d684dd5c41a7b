"""YAML 1.2 text to a tree of values that know where they stand.

Built from ruamel's parse events with a stack of our own, so that the position of every key and value is exact, every
duplicate key is reported, and hostile input (deep nesting, alias bombs) ends in a `Problem` and not in the recursion
limit. Scalars follow the YAML 1.2 core schema: `on` and `12:30` are text, `012` is 12, `1e3` is a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from edgeflex_flow.errors import FlowFileError, Problem

LARGEST_FILE_BYTES = 1024 * 1024
DEEPEST_NESTING = 40
MOST_VALUES = 200_000
"""Values in one file, those behind aliases counted at each use."""


class Place(NamedTuple):
    """Line and column, counted from 1; zeros when the value stands in no file."""

    line: int = 0
    column: int = 0


NOWHERE = Place()

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a YAML file, before or after interpolation."""

    data: Scalar | Mapping[str, Value] | tuple[Value, ...] = field(repr=False)
    place: Place = NOWHERE
    keys: Mapping[str, Place] = field(default_factory=dict, repr=False)
    """Where each key of a mapping stands."""
    size: int = 1
    """Values in it, itself included."""
    hidden: bool = False
    """It came through the environment or a secret file, and must not be shown."""
    textual: bool = False
    """Text from outside YAML: it may stand for a number where a number is wanted."""
    missing: tuple[str, ...] = ()
    """What it needs and what is not there; `data` is then without meaning."""

    def mapping(self) -> Mapping[str, Value] | None:
        return self.data if isinstance(self.data, Mapping) else None

    def plain(self) -> Any:
        """The value as plain Python data."""
        if isinstance(self.data, Mapping):
            return {key: value.plain() for key, value in self.data.items()}
        if isinstance(self.data, tuple):
            return [value.plain() for value in self.data]
        return self.data


_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_LONGEST_NUMBER = 400
"""Characters of a number; longer digits stay text, since Python refuses to read them as an integer."""


def plain_scalar(text: str) -> Scalar:
    """What an unquoted scalar means in YAML 1.2 (core schema).

    >>> [plain_scalar(text) for text in ("012", "1e3", "on", "12:30", "~", "0x10")]
    [12, 1000.0, 'on', '12:30', None, 16]
    """
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _LONGEST_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def option_scalar(text: str) -> Scalar:
    """What the value of `-D name=value` means: a YAML scalar, quotes allowed.

    >>> option_scalar("4713"), option_scalar("'4713'"), option_scalar("a: b")
    (4713, '4713', 'a: b')
    """
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return plain_scalar(text)


def split_lines(text: str) -> list[str]:
    """Lines as YAML counts them."""
    return re.split("\r\n|[\n\r\x85\u2028\u2029]", text)


def _place_at(text: str) -> Place:
    """The place that follows `text`."""
    lines = split_lines(text)
    return Place(len(lines), len(lines[-1]) + 1)


def read_text(file: Path) -> str:
    """The text of a YAML file. Raises FlowFileError when it is missing, too large, or not UTF-8."""

    def refuse(message: str, place: Place = NOWHERE) -> FlowFileError:
        return FlowFileError([Problem(file=str(file), line=place.line, column=place.column, message=message)])

    try:
        with file.open("rb") as stream:
            raw = stream.read(LARGEST_FILE_BYTES + 1)
    except IsADirectoryError:
        raise refuse("this is a directory, a YAML file was expected") from None
    except FileNotFoundError:
        raise refuse("there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise refuse(f"the file cannot be read: {reason}") from None
    if len(raw) > LARGEST_FILE_BYTES:
        raise refuse(f"the file is larger than {LARGEST_FILE_BYTES // 1024} KiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8-sig", errors="replace")
        raise refuse(f"the file is not UTF-8: byte 0x{raw[error.start]:02x}", _place_at(before)) from None


def read_document(file: Path) -> Value:
    """The one YAML document in a file. Raises FlowFileError with syntax errors and all duplicate keys."""
    return parse_document(read_text(file), str(file))


def parse_document(text: str, file: str) -> Value:
    """The one YAML document in a text; `file` is named in errors."""
    builder = _Builder(file)
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except _UnreadableError:
        pass
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place()
        what = " ".join(part for part in (error.problem, error.context) if part)
        builder.problem(place, f"not valid YAML: {what}")
    except ReaderError as error:
        # The reader hands over in chunks; its position counts from the start of the text.
        builder.problem(_place_at(text[: error.position]), f"not valid YAML: character U+{_code(error.character)}")
    except (YAMLError, ValueError, IndexError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # ruamel's scanner fails with plain Python errors in some corners; what it fails on is bad YAML all the same.
        builder.problem(Place(), f"not valid YAML: {error}")
    if builder.root is None and not builder.problems:
        builder.problem(Place(1, 1), "the file is empty")
    if builder.problems:
        raise FlowFileError(builder.problems)
    assert builder.root is not None
    return builder.root


def _code(character: Any) -> str:
    return f"{character if isinstance(character, int) else ord(character):04X}"


class _UnreadableError(Exception):
    """Nothing more can be made of the file."""


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    place: Place
    is_mapping: bool
    anchor: str | None
    items: list[Value] = field(default_factory=list)
    entries: dict[str, Value] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)
    key: str | None = None
    """The key whose value comes next."""
    key_place: Place = NOWHERE
    expects_key: bool = True


class _Builder:
    """Makes a tree of values from parse events."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.root: Value | None = None
        self._stack: list[_Open] = []
        self._anchors: dict[str, Value | None] = {}

    def problem(self, place: Place, message: str, *, got: str | None = None, known: Iterable[str] = ()) -> None:
        self.problems.append(
            Problem(file=self.file, line=place.line, column=place.column, message=message, got=got, known=tuple(known))
        )

    def take(self, event: Any) -> None:
        place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
        match event:
            case DocumentStartEvent() if self.root is not None:
                self.problem(place, "a second YAML document starts here; a file holds one")
                raise _UnreadableError
            case ScalarEvent():
                self._scalar(event, place)
            case AliasEvent():
                self._alias(event.anchor, place)
            case MappingStartEvent() | SequenceStartEvent():
                self._start(event, place, is_mapping=isinstance(event, MappingStartEvent))
            case MappingEndEvent() | SequenceEndEvent():
                self._end()

    def _scalar(self, event: Any, place: Place) -> None:
        self._refuse_tag(event, place)
        data: Scalar = event.value if event.style or event.tag == _TEXT_TAG else plain_scalar(event.value)
        empty = event.value == "" and not event.style
        if self._stack and self._stack[-1].is_mapping:
            if self._stack[-1].expects_key:
                self._key(event, data, place)
                return
            if empty:
                place = self._stack[-1].key_place  # ruamel places an absent value where the next token stands
        self._put(Value(data, place), event.anchor)

    def _refuse_tag(self, event: Any, place: Place) -> None:
        if event.tag is not None and event.tag != _TEXT_TAG:
            self.problem(place, "tags are not used in flow files", got=str(event.tag))

    def _key(self, event: Any, data: Scalar, place: Place) -> None:
        top = self._stack[-1]
        if not isinstance(data, str):
            self.problem(place, "a key is text; quote it", got=str(event.value))
        top.key, top.key_place, top.expects_key = event.value, place, False
        if event.anchor:
            self._anchors[event.anchor] = Value(data, place)

    def _alias(self, anchor: str, place: Place) -> None:
        top = self._stack[-1] if self._stack else None
        if top and top.is_mapping and top.expects_key:
            self.problem(place, "a key is text, not an alias", got=f"*{anchor}")
            raise _UnreadableError
        value = self._anchors.get(anchor)
        if value is None:
            known = sorted(name for name, held in self._anchors.items() if held is not None)
            text = "stands for itself" if anchor in self._anchors else "has no anchor before it"
            self.problem(place, f"alias '*{anchor}' {text}", known=known)
            raise _UnreadableError
        self._put(value, None)

    def _start(self, event: Any, place: Place, *, is_mapping: bool) -> None:
        self._refuse_tag(event, place)
        top = self._stack[-1] if self._stack else None
        if top and top.is_mapping and top.expects_key:
            self.problem(place, "a key is text, not a mapping or list")
            raise _UnreadableError
        if len(self._stack) >= DEEPEST_NESTING:
            self.problem(place, f"nested deeper than {DEEPEST_NESTING} levels")
            raise _UnreadableError
        if event.anchor:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(place, is_mapping, event.anchor))

    def _end(self) -> None:
        done = self._stack.pop()
        if done.is_mapping:
            size = 1 + sum(value.size for value in done.entries.values())
            value = Value(done.entries, done.place, keys=done.keys, size=size)
        else:
            value = Value(tuple(done.items), done.place, size=1 + sum(item.size for item in done.items))
        self._put(value, done.anchor)

    def _put(self, value: Value, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = value
        # A size counts what is behind aliases, so that a bomb is seen before anyone walks it.
        if value.size > MOST_VALUES:
            self.problem(value.place, f"more than {MOST_VALUES} values (aliases counted at each use)")
            raise _UnreadableError
        if not self._stack:
            self.root = value
            return
        top = self._stack[-1]
        if not top.is_mapping:
            top.items.append(value)
            return
        assert top.key is not None
        if top.key in top.keys:
            first = top.keys[top.key]
            self.problem(top.key_place, f"key '{top.key}' stands twice; first on line {first.line}")
        else:
            top.entries[top.key] = value
            top.keys[top.key] = top.key_place
        top.expects_key = True


_TEXT_TAG = "tag:yaml.org,2002:str"
