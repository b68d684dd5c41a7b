"""What must not be shown of a file: the values of fields that hold secrets, wherever and however they are written.

A file may be wrong in any way, so that nobody knows which kind a key belongs to, or where its value ends. Keys are
therefore known by their names alone, those of all kinds at once, misspelt ones included.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from edgeflex_flow.errors import nearest

HIDDEN = "***"

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
REFERENCE = re.compile(r"\$\{(file:[^}]*|[A-Za-z_][A-Za-z0-9_]*)\}")
"""A text that is one reference and nothing else: it is no secret, it tells where one stands."""

_USER = re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]*(?=@)")
"""User and password in an url, where nobody knows where the text around it starts and ends."""

_COMMENT = re.compile(r"(?:^|\s)#")
_SEPARATOR = re.compile(r"[\"']?\s*[:=]\s*(?=\S)")
_PART_OF_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_VOCABULARY = re.compile(
    r"""(?:^|_)(?:
        pw | psk | api_?keys? | private_?keys?
        | (?<!by_)(?<!low_)(?<!high_)(?<!band_)(?<!all_)pass(?!band|ive|ing|age|ed|es|enger|through)[a-z]*
        | (?!(?:by|low|high|band|all|com|sur|tres|over|under)pass)[a-z]+pass
        | [a-z]*(?:passw[a-z]*|passphrases?|pwd|secrets?|tokens?|kennw[oö]rter|kennwort|credentials?)
    )(?=_|$)""",
    re.VERBOSE,
)
"""What people call their secrets, in the words of a key: no kind has to know the key. Filters let bands pass."""

_ONE_VALUE = re.compile(r"\"[^\"]*\"?|'[^']*'?|\$\{[^}]*\}|[^\s,{}\[\]#][^\s,{}\[\]]*")


def _speaks_of_secret(key: str) -> bool:
    """Whether one of the words of a key is one that people use for secrets.

    >>> [_speaks_of_secret(key) for key in ("brokerPwd", "API_KEY", "userpass", "low_pass_hz", "passive")]
    [True, True, True, False, False]
    """
    return _VOCABULARY.search("_".join(_PART_OF_WORD.findall(key)).lower()) is not None


def user_of(text: str) -> tuple[int, int] | None:
    """Where user and password stand in a text that may be an url, right or wrong: no kind takes them there, and people
    write them there. A password may hold anything, so it ends at the last `@`, and starts after the scheme, if any.

    >>> [user_of(text) for text in ("mqtt://u:p@q@bus", "u:p@bus", "mail@bus", "mqtt://bus")]
    [(7, 12), (0, 3), None, None]
    """
    end = text.rfind("@")
    colon = text.find(":", 0, max(end, 0))
    if colon < 0:
        return None
    start = colon + 1
    while text[start] == "/":
        start += 1
    if start == colon + 1:
        start = 0  # what stands before the colon is no scheme but a user
    return (start, end) if start < end else None


def without_user(text: str) -> str:
    """The text without user and password.

    >>> without_user("mqtt://me:my@password@bus")
    'mqtt://***@bus'
    """
    found = user_of(text)
    return text if found is None else text[: found[0]] + HIDDEN + text[found[1] :]


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
    """The keys whose values must not be shown: `names`, and what is close to them or speaks of a secret, and is none
    of `others`.

    >>> keys = SecretKeys(["password"], others=["passband"])
    >>> keys.name_secret("pasword"), keys.name_secret("passband"), keys.hold_secret("password hunter2")
    (True, False, True)
    >>> keys.name_secret("bus_token"), keys.name_secret("total")
    (True, False)
    """

    def __init__(self, names: Iterable[str] = (), *, others: Iterable[str] = ()) -> None:
        self._names = tuple(dict.fromkeys(name.casefold() for name in names))
        self._others = frozenset(others) - frozenset(self._names)
        self._is_close = functools.lru_cache(maxsize=4096)(self._find_close)
        joined = "|".join(re.escape(name) for name in self._names)
        self._spoken = re.compile(rf"\b(?:{joined})\b[\"']?\s*[:=]?\s*(?=\S)", re.IGNORECASE) if joined else None

    def _find_close(self, key: str) -> bool:
        return key not in self._others and nearest(key, self._names) is not None

    def name_secret(self, key: str) -> bool:
        """Whether the value under this key is a secret; also when the key is misspelt, or one that no kind knows."""
        if not self._names or key.casefold() in self._others:
            return False
        return _speaks_of_secret(key) or self._is_close(key.casefold())

    def hold_secret(self, key: str) -> bool:
        """Whether a secret stands in the key itself, its colon forgotten: `password hunter2`."""
        first = _WORD.match(key)
        if first is None or first.end() == len(key):
            return False
        rest = key[first.end()]
        return self.name_secret(first[0]) if rest in " \t=:" else self._is_close(first[0].casefold())

    def censor(self, text: str) -> str:
        """A text of a file, without what follows the name of a secret in it.

        >>> SecretKeys(["password"]).censor("'mqtt password:hunter2'")
        "'mqtt password:***"
        """
        text = without_user(text)
        found = self._spoken.search(text) if self._spoken else None
        return text if found is None else text[: found.end()] + HIDDEN

    def spans_of_line(self, line: str, number: int) -> list[Span]:
        """Stretches of a line that follow the name of a secret and are no reference to one.

        Read as YAML they may belong to another value: a line that goes on the one before, a forgotten space.
        """
        users = [each.span() for each in _USER.finditer(line)]
        named = [each.end() for each in self._spoken.finditer(line)] if self._spoken else []
        found = [_ONE_VALUE.match(line, start) for start in {*named, *self._ends_of_keys(line)}]
        values = [
            value.span() for value in found if value is not None and not REFERENCE.fullmatch(value[0].strip("\"'"))
        ]
        return [_span(number, *each) for each in (*users, *values, *self._told_in_comment(line))]

    def _ends_of_keys(self, line: str) -> Iterator[int]:
        """Where the values start of what looks like a key and names a secret."""
        for word in _WORD.finditer(line):
            separator = _SEPARATOR.match(line, word.end())
            if separator is not None and self.name_secret(word[0]):
                yield separator.end()

    def _told_in_comment(self, line: str) -> Iterator[tuple[int, int]]:
        """Where a comment may tell a secret: it is prose, so that nobody knows which of its words are the secret."""
        comment = _COMMENT.search(line)
        if comment is None:
            return
        user = user_of(line[comment.end() :])
        if user is not None:
            yield comment.end() + user[0], comment.end() + user[1]
        word = next((each for each in _WORD.finditer(line, comment.end()) if self.name_secret(each[0])), None)
        if word is not None and line[word.end() :].strip():
            yield word.end() + 1, len(line)

    def spans_of_unreadable(self, lines: Sequence[str]) -> list[Span]:
        """Stretches that may hold secrets in a file that is no YAML: from the name of one to the end of its value."""
        spans = [_span(index + 1, *user) for index, line in enumerate(lines) if (user := _user_of_line(line))]
        covered = 0
        for index, line in enumerate(lines):
            found = next((word for word in _WORD.finditer(line) if self.name_secret(word[0])), None)
            if found is None or index < covered:
                continue
            covered = _end_of_value(lines, index, line[found.end() :])
            spans.append(Span(Place(index + 1, found.end() + 1), Place(covered + 1, 1)))
        return spans


def _span(number: int, start: int, end: int) -> Span:
    """A stretch of one line, its characters counted from 0."""
    return Span(Place(number, start + 1), Place(number, end + 1))


_FIRST_KEY = re.compile(r"[\s-]*[A-Za-z_][A-Za-z0-9_-]*:\s")


def _user_of_line(line: str) -> tuple[int, int] | None:
    """Where user and password may stand in a line of which nobody knows where its texts start and end."""
    key = _FIRST_KEY.match(line)
    start = key.end() if key else 0
    user = user_of(line[start:])
    return None if user is None else (start + user[0], start + user[1])


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
    return without(line, column, hidden_columns(line, number, spans))


def hidden_columns(line: str, number: int, spans: Iterable[Span]) -> list[tuple[int, int]]:
    """The characters of the line that the spans cover."""
    return merged(_columns(span, line, number) for span in spans)


def without(line: str, column: int, stretches: Iterable[tuple[int, int]]) -> tuple[str, int]:
    """A line and a column in it, after the stretches were taken out: in order, none touching another."""
    before, end_before = column, 0
    kept: list[str] = []
    for start, end in stretches:
        kept += (line[end_before:start], HIDDEN)
        end_before = end
        if before > end:
            column += len(HIDDEN) - (end - start)
        elif before > start:
            column -= before - 1 - start
    return "".join((*kept, line[end_before:])), column


def merged(stretches: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The stretches in order, those that touch each other as one; empty ones left out.

    >>> merged([(5, 9), (1, 2), (7, 12), (3, 3)])
    [(1, 2), (5, 12)]
    """
    found: list[tuple[int, int]] = []
    for start, end in sorted(stretches):
        if start >= end:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _columns(span: Span, line: str, number: int) -> tuple[int, int]:
    """Which characters of the line the span covers; none when start and end are the same."""
    if not span.start.line <= number <= span.end.line:
        return 0, 0
    start = span.start.column - 1 if span.start.line == number else len(line) - len(line.lstrip())
    end = span.end.column - 1 if span.end.line == number else len(line)
    if line[end:].lstrip().startswith("#"):
        end = len(line)  # what is said of a secret beside it may tell it
    return start, end
