"""YAML 1.2 text to a tree of values that know where they stand.

Built from ruamel's parse events with a stack of our own, so that the position of every key and value is exact, every
duplicate key is reported, and hostile input (deep nesting, alias bombs) ends in a `Problem` and not in the recursion
limit. Scalars follow the YAML 1.2 core schema: `on` and `12:30` are text, `012` is 12, `1e3` is a number.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
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
from edgeflex_flow.flowfile.secrecy import HIDDEN, NOWHERE, REFERENCE, Place, SecretKeys, Span, user_of

LARGEST_FILE_BYTES = 1024 * 1024
DEEPEST_NESTING = 40
MOST_VALUES = 200_000
"""Values in one file, those behind aliases counted at each use."""


NO_SECRETS = SecretKeys()
_NAMED = ("nodes", "connections")

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
    end: Place = NOWHERE
    """The place after its last character."""
    repeated: tuple[Repeated, ...] = ()
    """Entries of a mapping whose key stands in it already: wrong, and still to be checked."""

    def mapping(self) -> Mapping[str, Value] | None:
        return self.data if isinstance(self.data, Mapping) else None

    def plain(self) -> Any:
        """The value as plain Python data."""
        if isinstance(self.data, Mapping):
            return {key: value.plain() for key, value in self.data.items()}
        if isinstance(self.data, tuple):
            return [value.plain() for value in self.data]
        return self.data


class Repeated(NamedTuple):
    """An entry whose key stands in its mapping already."""

    key: str
    place: Place
    value: Value


@dataclass(frozen=True, slots=True)
class Document:
    """A file, as far as it can be read."""

    file: str
    lines: Sequence[str] = ()
    root: Value | None = None
    """None when the file holds no YAML at all, or breaks off in the middle."""
    problems: tuple[Problem, ...] = ()
    told: frozenset[Place] = frozenset()
    """Places of values of which nothing more need be said: a problem tells that they are no values."""
    secrets: tuple[Span, ...] = ()
    """Stretches that must not be shown."""
    secret_texts: frozenset[str] = frozenset()
    """Texts of the file that must not be shown in what is said of it."""


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


_recalled: ContextVar[Mapping[str, str] | None] = ContextVar("recalled", default=None)
_remembered: ContextVar[Remembered | None] = ContextVar("remembered", default=None)


class Remembered(NamedTuple):
    """What was read, by absolute path."""

    texts: dict[str, str]
    """Of YAML files; what secret files hold is remembered nowhere."""
    stamps: dict[str, object]
    """By which a change of a YAML or secret file since then is seen."""


def stamp_of(name: str) -> object:
    """Another one when the file is another, or is not there any more."""
    try:
        found = os.stat(name)
    except (OSError, ValueError):  # a NUL in the name
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


@contextmanager
def remembered() -> Iterator[Remembered]:
    """Collects what is read of files meanwhile."""
    read = Remembered({}, {})
    token = _remembered.set(read)
    try:
        yield read
    finally:
        _remembered.reset(token)


def remember_stamp(file: Path) -> None:
    """Call it before the file is read."""
    read = _remembered.get()
    if read is not None:
        name = os.path.abspath(file)
        read.stamps.setdefault(name, stamp_of(name))


@contextmanager
def recalled(texts: Mapping[str, str]) -> Iterator[None]:
    """Files that `remembered` collected read as they did then, whatever has become of them."""
    token = _recalled.set(texts)
    try:
        yield
    finally:
        _recalled.reset(token)


def read_text(file: Path) -> str:
    """The text of a YAML file. Raises FlowFileError when it is missing, too large, or not UTF-8."""
    name = os.path.abspath(file)
    remember_stamp(file)
    text = (_recalled.get() or {}).get(name)
    if text is None:
        text = _read_text(file)
    read = _remembered.get()
    if read is not None:
        read.texts[name] = text
    return text


def _read_text(file: Path) -> str:
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


def read_document(file: Path, keys: SecretKeys = NO_SECRETS) -> Document:
    """The one YAML document in a file, and all that is wrong with the file as such."""
    try:
        return parse_document(read_text(file), str(file), keys)
    except FlowFileError as error:
        return Document(str(file), problems=error.problems)


def parse_document(text: str, file: str, keys: SecretKeys = NO_SECRETS) -> Document:
    """The one YAML document in a text; `file` is named in problems."""
    lines = split_lines(text)
    builder = _Builder(file, keys, lines)
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except _UnreadableError:
        pass
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place()
        what = " ".join(part for part in (error.problem, error.context) if part)
        builder.unreadable(place, f"not valid YAML: {what}")
    except ReaderError as error:
        # The reader hands over in chunks; its position counts from the start of the text.
        builder.unreadable(_place_at(text[: error.position]), f"not valid YAML: character U+{_code(error.character)}")
    except (YAMLError, ValueError, IndexError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # ruamel's scanner fails with plain Python errors in some corners; what it fails on is bad YAML all the same.
        builder.unreadable(Place(), f"not valid YAML: {error}")
    if builder.root is None and not builder.problems:
        builder.problem(Place(1, 1), "the file is empty")
    guessed = keys.spans_of_unreadable(lines) if builder.root is None else []
    return Document(
        file=file,
        lines=lines,
        root=builder.root,
        problems=tuple(builder.problems),
        told=frozenset(builder.told),
        secrets=(*builder.secrets, *guessed),
        secret_texts=frozenset(builder.secret_texts),
    )


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
    is_flow: bool
    is_key: bool
    """It stands where a key should."""
    is_secret: bool
    items: list[Value] = field(default_factory=list)
    entries: dict[str, Value] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)
    repeated: list[Repeated] = field(default_factory=list)
    key: str | None = None
    """The key whose value comes next; None when what stands in its place is no key."""
    key_place: Place = NOWHERE
    expects_key: bool = True
    last_was_secret: bool = False
    """Whether the entry before holds a secret."""


class _Builder:
    """Makes a tree of values from parse events."""

    def __init__(self, file: str, keys: SecretKeys, lines: Sequence[str]) -> None:
        self.file = file
        self._lines = lines
        self.problems: list[Problem] = []
        self.root: Value | None = None
        self.told: set[Place] = set()
        self.secrets: list[Span] = []
        self.secret_texts: set[str] = set()
        self._secret_keys = keys
        self._stack: list[_Open] = []
        self._anchors: dict[str, Value | None] = {}

    def problem(self, place: Place, message: str, *, got: str | None = None, known: Iterable[str] = ()) -> None:
        self.problems.append(
            Problem(file=self.file, line=place.line, column=place.column, message=message, got=got, known=tuple(known))
        )

    def unreadable(self, place: Place, message: str) -> None:
        """The file breaks off here: of a tree that lacks its rest, nothing can be said."""
        self.root = None
        self.problem(place, message)

    def take(self, event: Any) -> None:
        place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
        match event:
            case DocumentStartEvent() if self.root is not None:
                self.problem(place, "a second YAML document starts here; a file holds one")
                raise _UnreadableError
            case ScalarEvent():
                self._scalar(event, place)
            case AliasEvent():
                self._alias(event, place)
            case MappingStartEvent() | SequenceStartEvent():
                self._start(event, place, is_mapping=isinstance(event, MappingStartEvent))
            case MappingEndEvent() | SequenceEndEvent():
                self._end(event)

    @property
    def _top(self) -> _Open | None:
        return self._stack[-1] if self._stack else None

    @property
    def _expects_key(self) -> bool:
        return self._top is not None and self._top.is_mapping and self._top.expects_key

    @property
    def _in_secret(self) -> bool:
        """Whether what comes next is a secret, or part of one."""
        top = self._top
        if top is None:
            return False
        return top.is_secret or (top.is_mapping and top.key is not None and self._secret_keys.name_secret(top.key))

    @property
    def _starts_named(self) -> bool:
        """Whether a mapping that comes next is a node or connection: its name is free, and makes it no secret."""
        return len(self._stack) == 2 and self._stack[0].key in _NAMED

    def _scalar(self, event: Any, place: Place) -> None:
        self._refuse_tag(event, place)
        data: Scalar = event.value if event.style or event.tag == _TEXT_TAG else plain_scalar(event.value)
        end = _end_of(event)
        if self._expects_key:
            self._key(event, data, place, end)
            return
        top = self._top
        empty = event.value == "" and not event.style
        if empty and top and top.is_mapping:
            place = end = top.key_place  # ruamel places an absent value where the next token stands
        if not _is_unicode(event.value):
            self.problem(place, "a text holds half of a character (a lone surrogate)")
            self.told.add(place)
        secret = self._in_secret and not empty and not REFERENCE.fullmatch(event.value)
        if secret:
            self._hide(place, end)
        else:
            self._hide_user(event.value, place, end)
        self._put(Value(data, place, end=end, hidden=secret), event.anchor)

    def _hide(self, start: Place, end: Place) -> None:
        if self._top is None or not self._top.is_secret:  # else the whole that it is part of is hidden
            self.secrets.append(Span(start, end))

    def _hide_user(self, text: str, start: Place, end: Place) -> None:
        """Hide user and password in a text that may be an url."""
        user = user_of(text)
        if user is not None:
            self._hide_part(text[slice(*user)], start, end)

    def _hide_part(self, part: str, start: Place, end: Place) -> None:
        """Hide a part of a text; the whole of it where its quotes and folds leave open where the part stands."""
        self.secret_texts.add(part)
        at = self._lines[start.line - 1].find(part, start.column - 1) if start.line == end.line else -1
        if at >= 0:
            start, end = Place(start.line, at + 1), Place(start.line, at + len(part) + 1)
        self.secrets.append(Span(start, end))

    def _refuse_tag(self, event: Any, place: Place) -> None:
        if event.tag is not None and event.tag != _TEXT_TAG:
            self.problem(place, "tags are not used in flow files", got=self._shown(str(event.tag)))
            self.told.add(place)

    def _shown(self, text: str) -> str:
        return HIDDEN if self._in_secret and not self._expects_key else text

    def _key(self, event: Any, data: Scalar, place: Place, end: Place) -> None:
        top = self._stack[-1]
        key = str(event.value)
        if top.is_secret or self._secret_keys.hold_secret(key):
            self._hide(place, end)
            key = HIDDEN
        else:
            self._hide_user(key, place, end)
        if not isinstance(data, str):
            self.problem(place, "a key is text; quote it", got=key or "nothing")
        top.key, top.key_place, top.expects_key = key, place, False
        if event.anchor:
            self._anchors[event.anchor] = Value(data, place, end=end)

    def _alias(self, event: Any, place: Place) -> None:
        name, top = event.anchor, self._top
        value = self._anchors.get(name)
        if top and self._expects_key:
            self.problem(place, "a key is text, not an alias", got=f"*{name}")
            is_text = value is not None and isinstance(value.data, str)
            top.key = str(value.data) if value is not None and is_text else None
            top.key_place, top.expects_key = place, False
            return
        if value is None:
            known = sorted(each for each, held in self._anchors.items() if held is not None)
            text = "stands for itself" if name in self._anchors else "has no anchor before it"
            shown = self._shown(f"*{name}")
            self.problem(place, f"alias '{shown}' {text}", known=[self._shown(each) for each in known])
            self.told.add(place)
            if self._in_secret:
                self._hide(place, _end_of(event))
            value = Value("", place, missing=("",), end=_end_of(event))
        elif self._in_secret:
            self.secrets.append(Span(value.place, value.end))
            value = replace(value, hidden=True)
        self._put(value, None)

    def _start(self, event: Any, place: Place, *, is_mapping: bool) -> None:
        self._refuse_tag(event, place)
        is_key = self._expects_key
        if is_key:
            self.problem(place, "a key is text, not a mapping or list")
        if len(self._stack) >= DEEPEST_NESTING:
            self.unreadable(place, f"nested deeper than {DEEPEST_NESTING} levels")
            raise _UnreadableError
        if event.anchor:
            self._anchors[event.anchor] = None
        is_flow = bool(event.flow_style)
        is_secret = self._in_secret and not (is_mapping and self._starts_named)
        self._stack.append(_Open(place, is_mapping, event.anchor, is_flow, is_key, is_secret))

    def _end(self, event: Any) -> None:
        done = self._stack.pop()
        size = 1 + sum(value.size for value in done.entries.values()) + sum(item.size for item in done.items)
        size += sum(each.value.size for each in done.repeated)
        value = Value(
            done.entries if done.is_mapping else tuple(done.items),
            done.place,
            keys=done.keys,
            size=size,
            hidden=done.is_secret,
            end=_end_of(event),
            repeated=tuple(done.repeated),
        )
        if done.is_secret:
            self._hide(value.place, value.end)
        if done.is_key:
            self._stack[-1].key, self._stack[-1].expects_key = None, False
        else:
            self._put(value, done.anchor)

    def _put(self, value: Value, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = value
        # A size counts what is behind aliases, so that a bomb is seen before anyone walks it.
        if value.size > MOST_VALUES:
            self.unreadable(value.place, f"more than {MOST_VALUES} values (aliases counted at each use)")
            raise _UnreadableError
        top = self._top
        if top is None:
            self.root = value
        elif not top.is_mapping:
            top.items.append(value)
        else:
            self._put_entry(top, value)

    def _put_entry(self, top: _Open, value: Value) -> None:
        top.expects_key = True
        if top.key is None:
            return
        # In `{password: one,two}` the comma ends the text, and the rest of it becomes a key without a value.
        if top.is_flow and top.last_was_secret and value.place == top.key_place:
            self._hide(top.key_place, Place(top.key_place.line, top.key_place.column + len(top.key)))
            top.key = HIDDEN
        else:
            top.last_was_secret = self._secret_keys.name_secret(top.key)
        if top.key == HIDDEN:
            top.entries[HIDDEN], top.keys[HIDDEN] = value, top.key_place
        elif top.key in top.keys:
            first = top.keys[top.key]
            self.problem(top.key_place, f"key '{top.key}' stands twice; first on line {first.line}")
            top.repeated.append(Repeated(top.key, top.key_place, value))
        else:
            top.entries[top.key] = value
            top.keys[top.key] = top.key_place


def _is_unicode(text: str) -> bool:
    """Whether the text can leave the program: as a path, as JSON, to a terminal."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _end_of(event: Any) -> Place:
    return Place(event.end_mark.line + 1, event.end_mark.column + 1)


_TEXT_TAG = "tag:yaml.org,2002:str"
