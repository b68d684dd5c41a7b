"""What must not be shown of a file: the values of fields that hold secrets, wherever and however they are written.

A file may be wrong in any way, so that nobody knows which kind a key belongs to, or where its value ends. Keys are
therefore known by their names alone, those of all kinds at once, misspelt ones included.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edgeflex_flow.errors import nearest

HIDDEN = "***"

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
REFERENCE = re.compile(r"\$\{(file:[^}]*|[A-Za-z_][A-Za-z0-9_]*)\}")
"""A text that is one reference and nothing else: it is no secret, it tells where one stands."""


_USER = re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]*(?=@)")
"""User and password in an url: no kind takes them there, and people write them there."""

_ONE_VALUE = re.compile(r"\"[^\"]*\"?|'[^']*'?|\$\{[^}]*\}|[^\s,{}\[\]#][^\s,{}\[\]]*")


class Place(NamedTuple):
    """Line and column, counted from 1; zeros when the value stands in no file."""

    line: int = 0
    column: int = 0


NOWHERE = Place()


class Span(NamedTuple):
    """A stretch of a file, its end excluded."""

    start: Place
    end: Place


class SecretKeys:
    """The keys whose values must not be shown: `names`, and what is close to them and is none of `others`.

    >>> keys = SecretKeys(["password"], others=["passband"])
    >>> keys.name_secret("pasword"), keys.name_secret("passband"), keys.hold_secret("password hunter2")
    (True, False, True)
    """

    def __init__(self, names: Iterable[str] = (), *, others: Iterable[str] = ()) -> None:
        self._names = tuple(dict.fromkeys(name.casefold() for name in names))
        self._others = frozenset(others) - frozenset(self._names)
        self._is_secret = functools.lru_cache(maxsize=4096)(self._is_close)
        joined = "|".join(re.escape(name) for name in self._names)
        self._spoken = re.compile(rf"\b(?:{joined})\b[\"']?\s*[:=]?\s*(?=\S)", re.IGNORECASE) if joined else None

    def _is_close(self, key: str) -> bool:
        return key not in self._others and nearest(key, self._names) is not None

    def name_secret(self, key: str) -> bool:
        """Whether the value under this key is a secret; also when the key is misspelt."""
        return bool(self._names) and self._is_secret(key.casefold())

    def hold_secret(self, key: str) -> bool:
        """Whether a secret stands in the key itself, its colon forgotten: `password hunter2`."""
        first = _WORD.match(key)
        return first is not None and first.end() < len(key) and self.name_secret(first[0])

    def censor(self, text: str) -> str:
        """A text of a file, without what follows the name of a secret in it.

        >>> SecretKeys(["password"]).censor("'mqtt password:hunter2'")
        "'mqtt password:***"
        """
        text = _USER.sub(HIDDEN, text)
        found = self._spoken.search(text) if self._spoken else None
        return text if found is None else text[: found.end()] + HIDDEN

    def spans_of_line(self, line: str, number: int) -> list[Span]:
        """Stretches of a line that follow the name of a secret and are no reference to one.

        Read as YAML they may belong to another value: a line that goes on the one before, a forgotten space.
        """
        users = [Span(Place(number, each.start() + 1), Place(number, each.end() + 1)) for each in _USER.finditer(line)]
        named = self._spoken.finditer(line) if self._spoken else ()
        found = [(each.end(), _ONE_VALUE.match(line, each.end())) for each in named]
        return users + [
            Span(Place(number, start + 1), Place(number, value.end() + 1))
            for start, value in found
            if value is not None and not REFERENCE.fullmatch(value[0].strip("\"'"))
        ]

    def spans_of_unreadable(self, lines: Sequence[str]) -> list[Span]:
        """Stretches that may hold secrets in a file that is no YAML: from the name of one to the end of its value."""
        spans: list[Span] = []
        covered = 0
        for index, line in enumerate(lines):
            found = next((word for word in _WORD.finditer(line) if self.name_secret(word[0])), None)
            if found is None or index < covered:
                continue
            covered = _end_of_value(lines, index, line[found.end() :])
            spans.append(Span(Place(index + 1, found.end() + 1), Place(covered + 1, 1)))
        return spans


_OPENING_QUOTE = re.compile(r"[\"']?\s*[:=]?\s*([\"'])")


def _end_of_value(lines: Sequence[str], index: int, rest: str) -> int:
    """The index of the line after a value: it goes on over lines that are indented more, or up to its quote."""
    quoted = _OPENING_QUOTE.match(rest)
    end = index + 1
    if quoted and quoted[1] not in rest[quoted.end() :]:
        while end < len(lines) and quoted[1] not in lines[end]:
            end += 1
        return min(end + 1, len(lines))
    indent = _indent(lines[index])
    while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > indent):
        end += 1
    return end


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" -"))


def masked(line: str, number: int, column: int, spans: Iterable[Span]) -> tuple[str, int]:
    """A line of a file and a column in it, after the spans were taken out.

    >>> masked("{password: abc, prot: 5}", 1, 17, [Span(Place(1, 12), Place(1, 15))])
    ('{password: ***, prot: 5}', 17)
    """
    before = column
    for start, end in reversed(_merged(_columns(span, line, number) for span in spans)):
        line = line[:start] + HIDDEN + line[end:]
        if before > end:
            column += len(HIDDEN) - (end - start)
        elif before > start:
            column -= before - 1 - start
    return line, column


def _merged(stretches: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The stretches in order, those that touch each other as one; empty ones left out.

    >>> _merged([(5, 9), (1, 2), (7, 12), (3, 3)])
    [(1, 2), (5, 12)]
    """
    merged: list[tuple[int, int]] = []
    for start, end in sorted(stretches):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _columns(span: Span, line: str, number: int) -> tuple[int, int]:
    """Which characters of the line the span covers; none when start and end are the same."""
    if not span.start.line <= number <= span.end.line:
        return 0, 0
    start = span.start.column - 1 if span.start.line == number else len(line) - len(line.lstrip())
    end = span.end.column - 1 if span.end.line == number else len(line)
    if line[end:].lstrip().startswith("#"):
        end = len(line)  # what is said of a secret beside it may tell it
    return start, end
