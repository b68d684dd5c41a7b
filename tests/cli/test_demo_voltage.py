from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeflex_flow.cli.demo.voltage import main


@pytest.mark.long
def test_demo_draws_the_day_with_and_without_control(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--picture", str(tmp_path / "voltage.png")])
    assert result.exit_code == 0, result.output
    highest = [float(text) for text in re.findall(r"highest (\d\.\d+) pu", result.output)]
    minutes = [int(text) for text in re.findall(r"(\d+) min above 1\.051 pu", result.output)]
    assert highest[0] > 1.12
    assert highest[1] < 1.055
    assert minutes[0] > 500
    assert minutes[1] < 10
    assert (tmp_path / "voltage.png").read_bytes().startswith(b"\x89PNG")
