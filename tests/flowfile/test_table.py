"""Tables that stand in files of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import load_flow
from edgeflex_operators.inertia_event import InertiaEventConfig

FLOW = """\
flow: estimate
nodes:
  pmu: {kind: pmu_udp, port: 4713}
  rocof: {kind: rocof, from: pmu}
  event: {kind: frequency_event, from: rocof}
  window: {kind: event_window, from: {samples: pmu, event: event}}
  inertia: {kind: inertia_event, from: window, units: UNITS}
  out: {kind: file_write, from: inertia, path: out.jsonl}
"""


def write(folder: Path, units: str, table: str | None = None) -> Path:
    (folder / "flow.yaml").write_text(FLOW.replace("UNITS", units))
    if table is not None:
        (folder / "units.yaml").write_text(table)
    return folder / "flow.yaml"


def config(flow: Path) -> InertiaEventConfig:
    [node] = [node for node in load_flow(flow, shipped_registry()).nodes if node.id == "inertia"]
    assert isinstance(node.config, InertiaEventConfig)
    return node.config


def test_a_flow_that_is_only_looked_at_has_its_table_where_it_is_there(tmp_path: Path) -> None:
    """As a replay or a comparison looks at it, which open no connections."""
    table = "G1: {rated_power: 100 MVA, rated_voltage: 10 kV, transient_reactance_pu: 0.3}\n"
    found = []
    for there in (None, table):
        flow = write(tmp_path, "units.yaml", there)
        [node] = [n for n in load_flow(flow, shipped_registry(), connections="optional").nodes if n.id == "inertia"]
        assert isinstance(node.config, InertiaEventConfig)
        found.append(sorted(node.config.units))
    assert found == [[], ["G1"]]


def problems(flow: Path) -> list[str]:
    with pytest.raises(FlowFileError) as caught:
        load_flow(flow, shipped_registry())
    return [
        f"{Path(each.file).name}:{each.line}:{each.column}: {each.message}; {each.got}; {each.nearest}"
        for each in caught.value.problems
    ]


def test_a_table_may_stand_in_a_file_beside_the_flow(tmp_path: Path) -> None:
    flow = write(tmp_path, "units.yaml", "G1: {rated_power: 1.2 GVA}\n".replace("GVA", "MVA"))
    assert config(flow).units["G1"].rated_power == 1.2


def test_a_table_may_stand_in_the_flow_itself(tmp_path: Path) -> None:
    assert config(write(tmp_path, "{G1: {rated_power: 900 MVA}}")).units["G1"].rated_power == 900.0


def test_mistakes_in_the_file_are_told_at_their_own_lines(tmp_path: Path) -> None:
    flow = write(tmp_path, "units.yaml", "G1:\n  rated_power: 900 MW\nG2:\n  rated_powr: 3 MVA\n")
    found = problems(flow)
    assert any(each.startswith("units.yaml:2:16:") and "'900 MW'" in each for each in found)
    assert any(each.startswith("units.yaml:4:3:") and each.endswith("rated_power") for each in found)
    assert any(each.startswith("flow.yaml:7:55:") and "'units.yaml'" in each for each in found)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    found = problems(write(tmp_path, "none.yaml"))
    assert any("none.yaml" in each for each in found)
    assert any(each.startswith("flow.yaml:7:55:") for each in found)
