"""What check lists tell people to type works as it is written."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from deployed import DEPLOY

from edgeflex_flow.cli import main

COMMAND = re.compile(r"(?:^|[ /])edgeflex (?:check|acl|ports) \S")
PLACEHOLDER = re.compile(r"…|\$\{")
"""What people have to fill in first: these commands are left out."""


def written_commands() -> Iterator[tuple[str, str]]:
    """Deployment and command, of all check lists. A mere name, `edgeflex acl`, is none."""
    for file in sorted(DEPLOY.glob("*/CHECKLIST.md")):
        for span in re.findall(r"`([^`]+)`", file.read_text()):
            command = " ".join(span.split())
            if COMMAND.search(command) and not PLACEHOLDER.search(command):
                yield file.parent.name, command


COMMANDS = list(written_commands())


def test_every_deployment_with_a_site_of_its_own_has_commands_that_are_tried() -> None:
    assert {name for name, _ in COMMANDS} == {folder.parent.name for folder in DEPLOY.glob("*/sites")}


def test_extras_to_install_exist_and_that_of_the_live_page_is_named_where_people_install() -> None:
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    installed = {
        (file.parent.name, extra)
        for file in DEPLOY.glob("*/CHECKLIST.md")
        for extras in re.findall(r"'\.\[([\w,]+)\]'", file.read_text())
        for extra in extras.split(",")
    }
    assert {extra for _, extra in installed} <= set(project["optional-dependencies"])
    assert installed == {("decentralised", "control"), ("decentralised", "studio")}


@pytest.mark.parametrize("command", [command for _, command in COMMANDS])
def test_a_command_works_as_written_in_the_folder_of_the_repository(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(DEPLOY.parent)
    words = shlex.split(command)
    program = words.index("edgeflex")
    environment = dict(word.split("=", 1) for word in words[:program])
    done = CliRunner().invoke(main, words[program + 1 :], env=environment)
    assert done.exit_code == 0, done.output
