"""`edgeflex graph`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result
from flow_kinds import FLOW, SITE

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


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("flow.svg", "<svg"),
        ("flow.SVG", "<svg"),
        ("flow.mmd", "flowchart LR\n"),
        ("flow.md", "```mermaid\nflowchart LR\n"),
    ],
)
def test_the_ending_of_the_file_says_the_format(name: str, beginning: str, invoke: Invoke) -> None:
    assert invoke(graph, "flow.yaml", "--site", "yard", "--out", name).exit_code == 0
    assert Path(name).read_text(encoding="utf-8").startswith(beginning)


@pytest.mark.parametrize("name", ["flow.png", "flow"])
def test_an_ending_that_names_no_format_is_refused_unless_the_format_is_given(name: str, invoke: Invoke) -> None:
    result = invoke(graph, "flow.yaml", "--site", "yard", "--out", name)
    assert result.exit_code == 2
    assert "known: .svg, .mmd, .md" in result.stderr
    assert not Path(name).exists()
    assert invoke(graph, "flow.yaml", "--site", "yard", "--out", name, "--format", "svg").exit_code == 0


def test_a_flow_that_names_connections_is_drawn_without_a_site(invoke: Invoke) -> None:
    result = invoke(graph, "flow.yaml")
    assert result.exit_code == 0
    assert result.stdout.startswith("flowchart LR\n  n_pmu")
    assert "names of connections are not known" in result.stderr


def test_nothing_is_noted_of_connections_when_none_is_named(invoke: Invoke) -> None:
    Path("flow.yaml").write_text("flow: a\nnodes:\n  pmu: {kind: meter, port: 1}\n", encoding="utf-8")
    assert invoke(graph, "flow.yaml").stderr == ""


def test_connections_are_looked_up_in_the_site_that_is_given(invoke: Invoke) -> None:
    Path("sites/yard.yaml").write_text(SITE.replace("history:", "past:"), encoding="utf-8")
    result = invoke(graph, "flow.yaml", "--site", "yard")
    assert result.exit_code == 1
    assert "'store' names no connection of sites/yard.yaml" in result.stderr
