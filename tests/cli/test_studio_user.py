"""`edgeflex studio-user`: a file of users that only its owner reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeflex_flow.cli.studio_user import studio_user
from edgeflex_flow.passwords import LONGEST_PASSWORD, SHORTEST_PASSWORD, Passwords
from edgeflex_flow.studio.users import read_users

PASSWORD = "correct-horse-battery-staple"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "users.json"


def command(file: Path, *words: str, typed: str = f"{PASSWORD}\n") -> Result:
    return CliRunner().invoke(studio_user, [*words, "--users", str(file)], input=typed)


def test_users_are_added_with_hashes_and_rights_listed_and_removed(file: Path) -> None:
    assert command(file, "add", "rita").output == "rita may look\n"
    assert command(file, "add", "otto", "--operate").output == "otto may look and operate\n"
    users = read_users(file)
    assert (users["rita"].operate, users["otto"].operate) == (False, True)
    assert PASSWORD not in file.read_text()
    assert Passwords().check(users["rita"].password, PASSWORD)
    assert file.stat().st_mode & 0o777 == 0o600
    assert command(file, "list").output == "otto\toperate\nrita\tlook\n"
    assert command(file, "remove", "rita").exit_code == 0
    assert list(read_users(file)) == ["otto"]


@pytest.mark.parametrize(
    ("words", "typed", "code", "told"),
    [
        (("add", "rita"), "short\n", 1, "Error: a password has 12 to 200 characters; got 5; nothing was written\n"),
        (("add", "rita"), "x" * 201, 1, "Error: a password has 12 to 200 characters; got 201; nothing was written\n"),
        (("add", "../rita"), f"{PASSWORD}\n", 2, "letters, digits"),
        (("remove", "nobody"), "", 1, "there is no user 'nobody'; known: none"),
    ],
)
def test_what_cannot_be_is_said(file: Path, words: tuple[str, ...], typed: str, code: int, told: str) -> None:
    answer = command(file, *words, typed=typed)
    assert answer.exit_code == code
    assert told in answer.output
    assert ("Usage:" in answer.output) == (code == 2)
    assert not file.exists()


def test_how_long_a_password_is_stands_in_the_help(file: Path) -> None:
    told = " ".join(command(file, "add", "--help").output.split())
    assert f"{SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters" in told


def test_a_file_that_is_something_else_is_left_alone(file: Path) -> None:
    file.write_text("site: yard\n")
    answer = command(file, "add", "rita")
    assert "is no file of users" in answer.output
    assert file.read_text() == "site: yard\n"
