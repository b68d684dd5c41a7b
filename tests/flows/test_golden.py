"""The golden tests that ship beside the flows pass, and cover what they name."""

from __future__ import annotations

from pathlib import Path

import pytest
from shipped import FLOWS

from edgeflex_flow.cli.golden.case_file import find_tests
from edgeflex_flow.cli.golden.running import run_test
from edgeflex_flow.cli.kinds import shipped_registry

TESTS = list(find_tests((FLOWS,)))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_flow_makes_of_its_recording_what_is_expected(file: Path) -> None:
    result = run_test(file, shipped_registry())
    assert result.error == ""
    assert [each.differences for each in result.verdicts if not each.good] == []


def test_there_are_some() -> None:
    assert len(TESTS) >= 13
