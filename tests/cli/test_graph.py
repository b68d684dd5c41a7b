"""`edgeflex graph`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from click.testing import Result
from flow_kinds import FLOW

from edgeflex_flow.cli.graph import graph

Invoke = Callable[..., Result]


def test_a_flow_is_drawn_as_mermaid_unless_told_otherwise(invoke: Invoke) -> None:
    result = invoke(graph, "flow.yaml", "--site", "yard")
    assert result.exit_code == 0
    assert result.output.startswith("flowchart LR\n  n_pmu")


def test_a_flow_is_drawn_as_svg_into_a_file(invoke: Invoke) -> None:
    result = invoke(graph, "flow.yaml", "--site", "yard", "--format", "svg", "--out", "flow.svg")
    assert (result.exit_code, result.output) == (0, "")
    assert ElementTree.parse("flow.svg").getroot().tag.endswith("svg")


def test_a_wrong_flow_is_not_drawn(invoke: Invoke) -> None:
    Path("flow.yaml").write_text(FLOW.replace("window:", "windw:"), encoding="utf-8")
    result = invoke(graph, "flow.yaml", "--site", "yard", "--out", "flow.mmd")
    assert result.exit_code == 1
    assert "flow.yaml:6:36: error: node 'slope': unknown key 'windw'" in result.stderr
    assert not Path("flow.mmd").exists()


def test_drawing_needs_no_secrets(invoke: Invoke) -> None:
    Path("flow.yaml").write_text(FLOW.replace("${meter_port}", "${NO_SUCH_VARIABLE}"), encoding="utf-8")
    assert invoke(graph, "flow.yaml", "--site", "yard").exit_code == 0


def test_options_reach_the_flow(invoke: Invoke) -> None:
    assert invoke(graph, "flow.yaml", "--site", "yard", "-D", "meter_port=0").exit_code == 1
