from __future__ import annotations

import logging
import sys

from edgeflex_services.program import OneLine

FORMAT = OneLine("%(levelname)s %(message)s")


def formatted(*args: object, message: str = "got %s", **more: object) -> str:
    return FORMAT.format(logging.makeLogRecord({"msg": message, "args": args, "levelname": "INFO", **more}))


def test_what_others_wrote_does_not_begin_a_line_of_the_log() -> None:
    told = formatted("a\nb\rc\x0bd\x1b[31m\x85\u2028\u202e\ud800\0")
    assert told == r"INFO got a\nb\rc\x0bd\x1b[31m\x85\u2028\u202e\ud800\x00"
    assert formatted("Zürich, 5 Ω") == "INFO got Zürich, 5 Ω"


def test_in_the_story_of_an_error_each_line_shows_that_it_belongs_there() -> None:
    try:
        raise ValueError("a\n2026 INFO forged\x1b[2J")
    except ValueError:
        told = formatted("x", exc_info=sys.exc_info(), stack_info="of\nstacks")
    first, *story = told.splitlines()
    assert first == "INFO got x"
    assert {line[0] for line in story} == {"|"}
    assert r"| 2026 INFO forged\x1b[2J" in story
    assert story[-1] == "| stacks"
