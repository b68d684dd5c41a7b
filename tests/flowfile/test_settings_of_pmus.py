"""What an engineer is told of wrong settings of PMUs: at once, at their place, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile import check_flows

FLOW = """\
flow: devices
params: {rate: 50}
nodes:
  bay: {kind: pmu_client, host: 10.0.0.7, port: 4712, idcode: 7}
  unasked: {kind: pmu_udp, port: 4713, names: {"8": feeder_8}}
  together: {kind: pmu_align, from: [bay, unasked], rate: "${rate}", min: 2 of 2}
  centre: {kind: pmu_send, from: together, host: 10.0.0.9, port: 4714, idcode: 9, devices: {feeder_8: 8}, rate: 50}
"""


def problems(folder: Path, old: str, new: str) -> list[str]:
    assert old in FLOW
    (folder / "flow.yaml").write_text(FLOW.replace(old, new, 1))
    (checked,) = check_flows([folder / "flow.yaml"], shipped_registry())
    return [str(problem).partition(": ")[2] for problem in checked.problems]


def test_right_settings_are_taken(tmp_path: Path) -> None:
    assert problems(tmp_path, FLOW, FLOW) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rate: 50}\nnodes", "rate: 0}\nnodes", "node 'together': 'rate' needs an integer from 1 to 1000; got 0"),
        ("rate: 50}\nnodes", "rate: 49.7}\nnodes", "node 'together': 'rate' needs an integer from 1 to 1000; got 49.7"),
        ("8}, rate: 50", "8}, rate: 49.7", "node 'centre': 'rate' needs an integer from 1 to 1000; got 49.7"),
        ("idcode: 7}", "idcode: 70000}", "node 'bay': 'idcode' needs an integer from 1 to 65534; got 70000"),
        ("idcode: 9", "idcode: 0", "node 'centre': 'idcode' needs an integer from 1 to 65534; got 0"),
        ('{"8": ', '{"70000": ', "node 'unasked': `names`: an IDCODE is a number from 1 to 65534; got '70000'"),
        ('{"8": ', "{bay_8: ", "node 'unasked': 'names' needs a text such as '7'; got 'bay_8'"),
        ("2 of 2", "5 of 4", "node 'together': `min` asks for more devices than there are; got '5 of 4'"),
        ("2 of 2", "three", "node 'together': 'min' needs a text such as '3 of 4'; got 'three'"),
        ("2 of 2", "3", "node 'together': 'min' needs a text such as '3 of 4'; got 3"),
    ],
)
def test_a_wrong_setting_is_told_by_the_check(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert problems(tmp_path, old, new) == [told]
