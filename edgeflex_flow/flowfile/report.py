"""Where the check collects problems and notes, and where secrets are taken out of their texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from edgeflex_flow.errors import Excerpt, Problem, nearest
from edgeflex_flow.flowfile.document import NO_SECRETS, Document, Scalar, Value
from edgeflex_flow.flowfile.secrecy import (
    HIDDEN,
    Place,
    SecretKeys,
    Span,
    hidden_columns,
    merged,
    without,
    without_user,
)

LONGEST_SHOWN = 80
LONGEST_LINE = 200
LONGEST_TEXT = 2000
"""Characters of a message or of a word in it."""
LONGEST_READABLE = 20_000
"""Characters of a line of which excerpts are shown; longer ones were written by a program, for programs."""
MOST_PROBLEMS = 1000
"""Problems of one file that are reported; the rest is counted."""
_SHORTEST_SCRUBBED = 3
"""Hidden texts shorter than this would tear holes in every word; where they may show up, nothing is quoted at all."""


class Secret(str):
    """A text that came through the environment or a secret file. Equal to the text, but its `repr` does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{HIDDEN}'"


def shown(data: Scalar) -> str:
    """A scalar as it may stand in an error text.

    >>> shown("a"), shown(5), shown(None), shown(True)
    ("'a'", '5', 'nothing', 'true')
    """
    if data is None:
        return "nothing"
    if isinstance(data, bool):
        return "true" if data else "false"
    text = repr(without_user(data)) if type(data) is str else repr(data)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def line_words(place: Place, file: str, *, seen_from: str) -> str:
    """Where something else stands, for whoever reads of it at a place in a file."""
    return f"line {place.line}" if file == seen_from else f"{file}:{place.line}"


def got(value: Value) -> str:
    """What stands in the file, for an error text; never a hidden value."""
    if value.hidden:
        return HIDDEN
    if isinstance(value.data, tuple):
        return "a list"
    if isinstance(value.data, str | int | float | bool | None):
        return shown(value.data)
    return "a mapping"


class _HiddenTexts:
    """Texts to take out of other texts, found by how they start: their number does not slow down the search."""

    def __init__(self) -> None:
        self._lengths: dict[str, list[int]] = {}
        self._texts: set[str] = set()
        self._known: dict[str, str] = {}
        """Texts that were searched before: words of lists come with many problems."""

    def add(self, text: str) -> None:
        if len(text) < _SHORTEST_SCRUBBED or text in self._texts:
            return
        self._texts.add(text)
        self._known.clear()
        lengths = self._lengths.setdefault(text[:_SHORTEST_SCRUBBED], [])
        if len(text) not in lengths:
            lengths.append(len(text))
            lengths.sort(reverse=True)

    def take_out(self, text: str) -> str:
        """The text without them, shortened where it is long."""
        if text not in self._known:
            found = merged(self._found(text)) if self._texts else []
            left = [(start, min(end, LONGEST_TEXT)) for start, end in found]
            short = text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT]
            self._known[text] = without(short, 0, left)[0] + ("" if short is text else "…")
        cleared = self._known[text]
        return text if cleared == text else cleared  # a Secret stays one

    def _found(self, text: str) -> Iterator[tuple[int, int]]:
        for start in range(min(len(text) - _SHORTEST_SCRUBBED + 1, LONGEST_TEXT)):
            lengths = self._lengths.get(text[start : start + _SHORTEST_SCRUBBED], ())
            for length in lengths:
                if text[start : start + length] in self._texts:
                    yield start, start + length
                    break


class _Spans:
    """Stretches of one file, found by the line that they cover."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._by_line: dict[int, set[Span]] = {}
        self._known: set[Span] = set()
        for span in spans:
            self.add(span)

    def add(self, span: Span) -> None:
        if span in self._known:
            return
        self._known.add(span)
        for line in range(span.start.line, span.end.line + 1):
            self._by_line.setdefault(line, set()).add(span)

    def of_line(self, line: int) -> set[Span]:
        return self._by_line.get(line, set())


class Report:
    """Problems and notes of one check, over all its files."""

    def __init__(self, documents: Iterable[Document], secret_keys: SecretKeys = NO_SECRETS) -> None:
        self._documents = {document.file: document for document in documents}
        self._spans = {document.file: _Spans(document.secrets) for document in self._documents.values()}
        self._secret_keys = secret_keys
        self.notes: list[str] = []
        self._problems = [problem for document in self._documents.values() for problem in document.problems]
        self._hidden = _HiddenTexts()
        for document in self._documents.values():
            for text in document.secret_texts:
                self.hide(text)

    def hide(self, text: str) -> None:
        """Take this text out of every problem and note."""
        for line in (text, *text.splitlines()):
            if len(line.strip()) >= _SHORTEST_SCRUBBED:
                self._hidden.add(line)

    def conceal(self, file: str, value: Value) -> None:
        """Take the stretch of a file that holds this value out of every excerpt."""
        if value.place.line and file in self._spans:
            self._spans[file].add(Span(value.place, value.end))

    def tells_of(self, file: str, place: Place) -> bool:
        """Whether a problem says already that no value stands here."""
        return file in self._documents and place in self._documents[file].told

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The first problems of each file, each once, hidden texts taken out, in the order of files and lines."""
        by_file: dict[str, list[Problem]] = {file: [] for file in self._documents}
        for problem in dict.fromkeys(self._problems):
            by_file.setdefault(problem.file, []).append(problem)
        return tuple(problem for file, found in by_file.items() for problem in self._first(file, found))

    def _first(self, file: str, found: list[Problem]) -> list[Problem]:
        """The first problems of a file as they are shown, and how many more there are.

        More help nobody, and an excerpt of each takes its time.
        """
        found.sort(key=lambda problem: (problem.line, problem.column))
        stretches: dict[int, list[tuple[int, int]]] = {}
        shown = list(dict.fromkeys(self._scrub(problem, stretches) for problem in found[:MOST_PROBLEMS]))
        more = len(found) - MOST_PROBLEMS
        return [*shown, Problem(file=file, message=f"and {more} more")] if more > 0 else shown

    def scrub(self, text: str) -> str:
        """The text without all that is hidden."""
        return self._hidden.take_out(text)

    def _scrub(self, problem: Problem, stretches: dict[int, list[tuple[int, int]]]) -> Problem:
        return msgspec.structs.replace(
            problem,
            message=self.scrub(problem.message),
            got=None if problem.got is None else self._secret_keys.censor(self.scrub(problem.got)),
            known=tuple(self.scrub(word) for word in problem.known),
            nearest=None if problem.nearest is None else self.scrub(problem.nearest),
            excerpt=self._excerpt(problem, stretches),
        )

    def _excerpt(self, problem: Problem, stretches: dict[int, list[tuple[int, int]]]) -> Excerpt | None:
        """The line of a problem; `stretches` keeps what is hidden of each line, for its next problem."""
        document = self._documents.get(problem.file)
        if document is None or not 0 < problem.line <= len(document.lines):
            return None
        line = document.lines[problem.line - 1]
        if len(line) > LONGEST_READABLE:
            return None
        number = problem.line
        if number not in stretches:
            spans = {*self._spans[problem.file].of_line(number), *self._secret_keys.spans_of_line(line, number)}
            stretches[number] = hidden_columns(line, number, spans)
        line, column = without(line, problem.column, stretches[number])
        start = max(0, column - LONGEST_LINE) if len(line) > LONGEST_LINE else 0
        return Excerpt(line=line[start : start + LONGEST_LINE], column=column - start)

    def add(self, problem: Problem) -> None:
        self._problems.append(problem)


class FileReport:
    """The report, seen from one file."""

    def __init__(self, file: str, report: Report, *, secrets_required: bool) -> None:
        self.file = file
        self.all = report
        self._secrets_required = secrets_required

    def problem(
        self,
        place: Place,
        message: str,
        *,
        node: str | None = None,
        got: str | None = None,
        known: Iterable[str] = (),
        nearest: str | None = None,
    ) -> None:
        if self.all.tells_of(self.file, place):
            return
        self.all.add(
            Problem(
                file=self.file,
                line=place.line,
                column=place.column,
                node=node,
                message=message,
                got=got,
                known=tuple(known),
                nearest=nearest,
            )
        )

    def unknown(self, place: Place, what: str, word: str, known: Iterable[str], *, node: str | None = None) -> None:
        """A word that is not among the known ones: `unknown kind; got 'rocoff'; known: …; did you mean 'rocof'?`."""
        names = tuple(known)
        self.problem(place, f"unknown {what}", node=node, got=shown(word), known=names, nearest=nearest(word, names))

    def note(self, place: Place, text: str, *, node: str | None = None) -> None:
        """Something worth knowing that is not wrong."""
        self.all.notes.append(
            str(Problem(file=self.file, line=place.line, column=place.column, node=node, message=text))
        )

    def missing(self, value: Value, needed_by: str, *, node: str | None = None) -> None:
        """A secret or variable is not there: a problem when running, a note when only checking.

        An empty text in `value.missing` stands for a value that a problem tells of already.
        """
        for what in filter(None, value.missing):
            text = f"{what}, needed by {needed_by}"
            if self._secrets_required:
                self.problem(value.place, text, node=node)
            else:
                self.note(value.place, text, node=node)
