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

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        parts = [f"{place}: node '{self.node}': " if self.node else f"{place}: ", self.message]
        if self.got is not None:
            parts.append(f"; got {self.got}")
        if self.known:
            parts.append(f"; known: {', '.join(self.known)}")
        if self.nearest is not None:
            parts.append(f"; did you mean '{self.nearest}'?")
        return "".join(parts)


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


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` most likely meant, or None.

    >>> nearest("rocoff", ["rocof", "select"])
    'rocof'
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
