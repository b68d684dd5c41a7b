"""Errors, grouped by what the runtime does about them.

EdgeflexError
├── FlowFileError     a file is wrong: stops before anything opens, exit code 1
├── RetryableError    the world is away (broker, disk, network): back off and try again
├── BadMessageError   one message is wrong: it goes to the dead letters, counted; the flow goes on
└── FatalError        the flow cannot go on: it stops with exit code 3 and the supervisor decides
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec


class EdgeflexError(Exception):
    """Base of all errors that edgeflex-flow raises on purpose."""


class Excerpt(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a file with all that must not be shown taken out, and the column in it where the problem stands."""

    line: str
    column: int


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong in a flow or site file, with the place where it stands.

    `line` and `column` count from 1; 0 means that the place is not in a file (a `-D` option, say).
    """

    file: str
    line: int = 0
    column: int = 0
    node: str | None = None
    message: str
    got: str | None = None
    known: tuple[str, ...] = ()
    nearest: str | None = None
    excerpt: Excerpt | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        node = f"node '{self.node}': " if self.node else ""
        return f"{place}: {node}{_in_words(self.message, self.got, self.known, self.nearest)}"


def _in_words(message: str, got: str | None, known: Iterable[str], nearest: str | None) -> str:
    parts = [message]
    if got is not None:
        parts.append(f"got {got}")
    if names := ", ".join(known):
        parts.append(f"known: {names}")
    if nearest is not None:
        parts.append(f"did you mean '{nearest}'?")
    return "; ".join(parts)


class FieldError(ValueError):
    """A config refuses the values of some of its fields.

    `fields` are those that the refusal rests on, the one to point at first: as long as they keep their values, the
    config is wrong whatever the others hold. One item of a field is named as in `topics[1]` and `channels.V1`.

    >>> str(FieldError("column 'x' is taken", "columns.a", known=["y", "z"]))
    "column 'x' is taken; known: y, z"
    """

    def __init__(
        self,
        message: str,
        *fields: str,
        got: str | None = None,
        known: Iterable[str] = (),
        nearest: str | None = None,
    ) -> None:
        self.message = message
        self.fields = fields
        self.got = got
        self.known = tuple(known)
        self.nearest = nearest
        super().__init__(_in_words(message, got, self.known, nearest))


class ConfigError(ValueError):
    """A config refuses its values, for all of these reasons."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(str(error) for error in self.errors))


class FlowFileError(EdgeflexError):
    """A flow or site file is wrong. Carries every problem that was found, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RetryableError(EdgeflexError):
    """Something outside is away for now. The runtime backs off and tries again."""


class BadMessageError(EdgeflexError):
    """One message cannot be used. The runtime counts it under `reason` and keeps it as a dead letter.

    `reason` is a short snake_case word for counters; `payload` the bytes at fault, if any.
    """

    def __init__(self, text: str, *, reason: str = "bad_message", payload: bytes = b"") -> None:
        self.reason = reason
        self.payload = payload
        super().__init__(text)


class FatalError(EdgeflexError):
    """The flow cannot go on (a port in use, a wrong password). It stops with exit code 3."""


def how_to_install(extra: str) -> str:
    """The command that brings the packages of an extra, for who lacks one.

    >>> how_to_install("rest")
    "pip install 'PATH/TO/edgeflex-flow[rest]'"
    """
    return f"pip install 'PATH/TO/edgeflex-flow[{extra}]'"


def unforeseen(what: str, error: BaseException) -> FatalError:
    """The FatalError of a thread that ended by an error of another kind: what it could not do, and why."""
    failure = FatalError(f"{what}: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` most likely meant, or None.

    >>> nearest("rocoff", ["rocof", "select"])
    'rocof'
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
