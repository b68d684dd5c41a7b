"""Problems of files as a compiler would print them: place, text, the line itself, a caret under the column."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from edgeflex_flow.errors import Excerpt, Problem

WIDTH_OF_FILES = 120
"""Columns of tables when the output is no terminal."""


def console(*, err: bool = False) -> Console:
    """A console on standard output or error; colours only where it is a terminal."""
    return Console(file=sys.stderr if err else sys.stdout, soft_wrap=True, highlight=False)


def table_console() -> Console:
    """A console on standard output for tables, which need a width where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES, highlight=False)


def show_problems(problems: Iterable[Problem], out: Console) -> None:
    """Print problems with the lines they stand on."""
    for problem in problems:
        out.print(render(problem))


def render(problem: Problem) -> Text:
    """One problem, with the line that it stands on."""
    place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
    text = Text()
    text.append(_printable(place), style="bold").append(": ").append("error", style="bold red").append(": ")
    if problem.node:
        text.append("node ").append(f"'{problem.node}'", style="cyan").append(": ")
    text.append(_printable(problem.message), style="bold")
    if problem.got is not None:
        text.append(f"; got {_printable(problem.got)}")
    if problem.excerpt is not None:
        text.append_text(_excerpt(problem.excerpt, problem.line))
    if problem.nearest is not None:
        text.append("\n  help: ", style="green").append(f"did you mean '{_printable(problem.nearest)}'?")
    if problem.known:
        text.append("\n  known: ", style="dim").append(_printable(", ".join(problem.known)), style="dim")
    return text


def _excerpt(excerpt: Excerpt, line: int) -> Text:
    shown = _printable(excerpt.line)
    # The caret keeps its column under tabs, and under letters that take two cells.
    indent = "".join("\t" if each == "\t" else " " * cell_len(each) for each in shown[: excerpt.column - 1])
    number = str(line)
    margin = " " * len(number)
    text = Text(f"\n  {number} | ", style="blue")
    text.append(shown, style="default").append(f"\n  {margin} | ").append(indent).append("^", style="bold red")
    return text


def _printable(text: str) -> str:
    """Text without control characters, which could do anything to a terminal."""
    return "".join(each if each.isprintable() or each == "\t" else "\ufffd" for each in text)
