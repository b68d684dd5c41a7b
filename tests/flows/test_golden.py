"""The golden tests that ship beside the flows pass, and every flow has one."""

from __future__ import annotations

from pathlib import Path

import pytest
from shipped import FLOWS

from edgeflex_flow.cli.golden.case_file import find_tests, read_test
from edgeflex_flow.cli.golden.running import run_test
from edgeflex_flow.cli.kinds import shipped_registry

TESTS = list(find_tests((FLOWS,)))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_flow_makes_of_its_recording_what_is_expected(file: Path) -> None:
    result = run_test(file, shipped_registry())
    assert result.error == ""
    assert [each.differences for each in result.verdicts if not each.good] == []


def test_every_shipped_flow_has_one() -> None:
    tested = {(file.parent / read_test(file).flow).resolve() for file in TESTS}
    assert [file.name for file in sorted(FLOWS.glob("*.yaml")) if file.resolve() not in tested] == []


def test_every_file_beside_the_tests_is_the_recording_of_one() -> None:
    told = "".join(file.read_text() for file in TESTS)
    assert [each.name for each in TESTS[0].parent.iterdir() if each.suffix != ".yaml" and each.name not in told] == []
