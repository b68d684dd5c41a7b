"""YAML text to values with places."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_flow.errors import Problem
from edgeflex_flow.flowfile.document import (
    DEEPEST_NESTING,
    LARGEST_FILE_BYTES,
    Value,
    option_scalar,
    parse_document,
    plain_scalar,
    read_document,
)
from edgeflex_flow.flowfile.secrecy import Place


def problems_of(text: str) -> tuple[Problem, ...]:
    return parse_document(text, "x.yaml").problems


def tree(text: str) -> Value:
    document = parse_document(text, "x.yaml")
    assert (document.problems, document.root is None) == ((), False)
    assert document.root is not None
    return document.root


def entry(value: Value, *path: str | int) -> Value:
    for step in path:
        assert not isinstance(value.data, str | int | float | bool | None)
        value = value.data[step]  # type: ignore[index]
    return value


def test_every_value_knows_its_place() -> None:
    root = tree("a: 1\nb:\n  - x\n  - {c: 'd'}\n")
    assert entry(root, "b", 1, "c").place == Place(4, 9)
    assert entry(root, "b").keys == {}
    assert root.keys == {"a": Place(1, 1), "b": Place(2, 1)}


def test_an_absent_value_stands_at_its_key() -> None:
    assert entry(tree("a: 1\nb:\n\n\n"), "b").place == Place(2, 1)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("12:30:00", "12:30:00"),
        ("2026-01-01", "2026-01-01"),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("=", "="),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, meaning: object) -> None:
    found = plain_scalar(text)
    assert (found, type(found)) == (meaning, type(meaning))


def test_quotes_make_text() -> None:
    assert entry(tree("a: '5'"), "a").data == "5"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1")
    root = read_document(file).root
    assert root is not None
    assert root.plain() == {"a": 1}


def test_an_alias_stands_for_its_anchor() -> None:
    assert tree("a: &x {k: 1}\nb: *x\n").plain() == {"a": {"k": 1}, "b": {"k": 1}}


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a: [1, 2\nb: 3", 2, 2, "not valid YAML: expected ',' or ']', but got ':' while parsing a flow sequence"),
        ("a: b: c", 1, 5, "not valid YAML: mapping values are not allowed here"),
        (
            "a: 1\n\tb: 2",
            2,
            1,
            "not valid YAML: found character '\\t' that cannot start any token while scanning for the next token",
        ),
        ("a: 1\nb: x\x07y", 2, 5, "not valid YAML: character U+0007"),
        ("a: 1\n---\nb: 2", 2, 1, "a second YAML document starts here; a file holds one"),
        ("a: 1\na: 2", 2, 1, "key 'a' stands twice; first on line 1"),
        ("1: a", 1, 1, "a key is text; quote it"),
        ("true: a", 1, 1, "a key is text; quote it"),
        ("? [a]\n: b", 1, 3, "a key is text, not a mapping or list"),
        ("a: &k b\n*k : c", 2, 1, "a key is text, not an alias"),
        ("a: !!python/name:os.system x", 1, 4, "tags are not used in flow files"),
        ("a: !secret x", 1, 4, "tags are not used in flow files"),
        ("a: *nowhere", 1, 4, "alias '*nowhere' has no anchor before it"),
        ("a: &x [*x]", 1, 8, "alias '*x' stands for itself"),
        ('a: "\\ud800"', 1, 4, "a text holds half of a character (a lone surrogate)"),
        ("", 1, 1, "the file is empty"),
        ("# only a comment\n", 1, 1, "the file is empty"),
        ("a: " + "[" * 60, 1, 3 + DEEPEST_NESTING, f"nested deeper than {DEEPEST_NESTING} levels"),
    ],
)
def test_what_is_no_plain_yaml_is_a_problem_with_its_place(text: str, line: int, column: int, message: str) -> None:
    first = problems_of(text)[0]
    assert (first.line, first.column, first.message) == (line, column, message)


def test_all_duplicate_keys_are_reported() -> None:
    assert [problem.line for problem in problems_of("a: 1\na: 2\nb: {c: 1, c: 2}\na: 3\n")] == [2, 3, 4]


def test_what_stands_beside_a_wrong_key_is_read() -> None:
    root = parse_document("a: 1\na: 2\n? [x]\n: y\n2: c\n*none : d\nb: &k e\n*k : f\n", "x.yaml").root
    assert root is not None
    assert root.plain() == {"a": 1, "2": "c", "b": "e", "e": "f"}
    assert [(again.key, again.value.plain()) for again in root.repeated] == [("a", 2)]


def test_a_bomb_of_aliases_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    [problem] = problems_of("\n".join(lines))
    assert (problem.line, problem.message) == (6, "more than 200000 values (aliases counted at each use)")


def refusal(file: Path) -> Problem:
    [problem] = read_document(file).problems
    assert problem.file == str(file)
    return problem


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml").message == "there is no such file"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path).message == "this is a directory, a YAML file was expected"


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file" / "x.yaml").message == "the file cannot be read: Not a directory"


def test_an_impossible_name_is_a_problem() -> None:
    assert refusal(Path("a\0b")).message.startswith("the file cannot be read: embedded null")


def test_what_is_not_utf_8_is_shown_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("flow: a\nabout: größer".encode("latin-1"))
    problem = refusal(file)
    assert (problem.line, problem.column, problem.message) == (2, 10, "the file is not UTF-8: byte 0xf6")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "huge.yaml"
    file.write_bytes(b"#" * (LARGEST_FILE_BYTES + 1))
    assert refusal(file).message == "the file is larger than 1024 KiB"


@given(st.text(max_size=200))
def test_any_text_gives_a_value_or_problems(text: str) -> None:
    found = parse_document(text, "x.yaml")
    assert found.root is not None or found.problems


@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,? \n\t~<=1.", max_size=60))
def test_any_yaml_like_text_gives_a_value_or_problems(text: str) -> None:
    found = parse_document(text, "x.yaml")
    assert found.root is not None or found.problems


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("5", 5), ("'5'", "5"), ('"a b"', "a b"), ("[1]", "[1]"), ("  x ", "x"), ("", None), ("'", "'")],
)
def test_an_option_is_a_yaml_scalar(text: str, meaning: object) -> None:
    assert option_scalar(text) == meaning
