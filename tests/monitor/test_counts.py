"""The table of counters knows every name that the runtime or a node of this project counts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeflex_connectors.pmu_frames import REJECTED
from edgeflex_flow.monitor.counts import COUNTS
from edgeflex_operators.pmu_align import REFUSED

ROOT = Path(__file__).parents[2]
FOLDERS = ("edgeflex_flow/runtime", "connectors", "operators")
FILES = ("edgeflex_flow/outbox.py", "edgeflex_flow/policy_watch.py")
NAME = re.compile(r"[a-z][a-z0-9_]*")
CALLS = {
    "BadMessageError", "DeadLetter", "FrameError", "Refused", "_count", "_dead_letter", "_drop", "_failed", "_give_up",
    "_letters", "_refusal", "_refuse", "_reject", "_send_one", "dead_letter",
}  # fmt: skip
"""Functions whose arguments may be the name of a counter."""


def _constants(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield from _constants(node.body)
        yield from _constants(node.orelse)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
        yield node.value


def _names_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "_why_not":
            given = (each.value for each in ast.walk(node) if isinstance(each, ast.Return))
            for each in given:
                yield from () if each is None else _constants(each)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        receiver, _, name = called.rpartition(".")
        if name in ("add", "set") and "counters" in receiver:
            yield from _constants(node.args[0])
        elif name == "add_all" and "counters" in receiver:
            yield from (each.arg for each in node.keywords if each.arg is not None)
        elif name in CALLS:
            for each in (*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "reason")):
                yield from _constants(each)


def source_files() -> list[Path]:
    return [*(ROOT / file for file in FILES), *(file for each in FOLDERS for file in (ROOT / each).rglob("*.py"))]


def counted() -> dict[str, str]:
    """Names of counters, each with a file that counts it."""
    found = {name: file.name for file in source_files() for name in _names_in(ast.parse(file.read_text("utf-8")))}
    for reason in REJECTED.values():
        found[reason] = "pmu_frames.py"
    for reason, _ in REFUSED.values():
        found[reason] = "pmu_align.py"
    return found


def test_every_name_that_is_counted_has_a_meaning() -> None:
    unknown = {name: file for name, file in counted().items() if name not in COUNTS}
    assert not unknown


def test_no_meaning_is_of_a_name_that_nobody_counts() -> None:
    code = "".join(file.read_text("utf-8") for file in source_files())
    assert not [name for name in COUNTS if f'"{name}"' not in code and f"{name}=" not in code]


@pytest.mark.parametrize("name", COUNTS)
def test_a_meaning_is_a_plain_sentence(name: str) -> None:
    about = COUNTS[name].about
    assert about
    assert about[0].islower() or about[0].isdigit()
    assert about[-1] not in ".;"
