"""`edgeflex schema`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from flow_kinds import registry

from edgeflex_flow.cli.schema import schema
from edgeflex_flow.flowfile import json_schema

Invoke = Callable[..., Result]


def test_the_schema_is_printed_as_json(invoke: Invoke) -> None:
    result = invoke(schema)
    assert (result.exit_code, json.loads(result.output)) == (0, json_schema(registry()))


def test_the_schema_is_written_to_a_file(invoke: Invoke) -> None:
    result = invoke(schema, "--out", "flow.schema.json")
    assert (result.exit_code, result.output) == (0, "")
    assert json.loads(Path("flow.schema.json").read_text(encoding="utf-8")) == json_schema(registry())


def test_a_file_that_cannot_be_written_says_so(invoke: Invoke) -> None:
    result = invoke(schema, "--out", "none/flow.schema.json")
    assert result.exit_code == 1
    assert result.stderr == "Error: none/flow.schema.json cannot be written: No such file or directory\n"
