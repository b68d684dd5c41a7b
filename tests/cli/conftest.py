"""Runs commands on the kinds of `flow_kinds`, in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import click
import flow_kinds
import pytest
from click.testing import CliRunner, Result


class Invoke(Protocol):
    """`invoke(command, *arguments)` in a folder that holds `flow.yaml` and `sites/yard.yaml`."""

    def __call__(self, command: click.Command, *arguments: str) -> Result: ...


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    Path("sites").mkdir()
    Path("sites/yard.yaml").write_text(flow_kinds.SITE, encoding="utf-8")
    Path("flow.yaml").write_text(flow_kinds.FLOW, encoding="utf-8")

    def run(command: click.Command, *arguments: str) -> Result:
        result = CliRunner().invoke(command, list(arguments), obj=flow_kinds.registry())
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return run
