from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeflex_flow.cli.demo.mpc import answer, main
from edgeflex_flow.messages import FlexRequest


@pytest.mark.long
def test_demo_draws_a_morning_with_and_without_plans(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--until", "8.5", "--picture", str(tmp_path / "mpc.png")])
    assert result.exit_code == 0, result.output
    highest = [float(text) for text in re.findall(r"highest (\d\.\d+) pu", result.output)]
    assert highest[0] > 1.07
    assert highest[1] < 1.0525
    assert (tmp_path / "mpc.png").read_bytes().startswith(b"\x89PNG")


def test_market_of_the_demo_gives_a_share_of_all_that_is_asked() -> None:
    rows: dict[str, tuple[float, ...]] = {"prediction 1": (2.0, -4.0), "prediction 2": (0.0, 1.0)}
    request = FlexRequest(variable="active_power", nodes=(24, 26), unit="kW", flex_request=rows, id="mpc@1")
    given = answer(request, 0.5)
    assert given.flex_response == {"prediction 1": (1.0, -2.0), "prediction 2": (0.0, 0.5)}
    assert (given.nodes, given.request_id) == ((24, 26), "mpc@1")
