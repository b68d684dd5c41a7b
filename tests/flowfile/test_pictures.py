"""Flows as Mermaid and SVG."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from flow_kinds import FLOW
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_flow.flowfile import CheckedFlow, Plan, to_mermaid, to_svg
from edgeflex_flow.flowfile.layout import Layout, lay_out

Check = Callable[..., CheckedFlow]
SVG = "{http://www.w3.org/2000/svg}"


def plan_of(checked: CheckedFlow) -> Plan:
    assert checked.plan is not None
    return checked.plan


def test_mermaid_names_nodes_kinds_and_what_wires_carry(check: Check) -> None:
    lines = to_mermaid(plan_of(check())).splitlines()
    assert lines[0] == "flowchart LR"
    assert '  n_slope["slope<br/><small>slope</small>"]' in lines
    assert '  n_pmu -->|"samples · angle_deg, frequency_hz, …"| n_slope' in lines
    assert '  n_detect -->|"frequency_event<br/>→ events"| n_both' in lines
    assert '  n_dead_letters -->|"dead_letter"| n_tell' in lines
    assert "  class n_tell,n_shed sink" in lines


def test_mermaid_leaves_no_character_that_it_would_read_as_its_own(check: Check) -> None:
    flow = 'flow: a\nnodes:\n  m: {kind: meter, port: 1, channels: ["a\\"]|<b>;#_w"]}\n  s: {kind: slope, from: m}\n'
    [wire] = [line for line in to_mermaid(plan_of(check(flow))).splitlines() if "-->" in line]
    label = wire.split('|"')[1].split('"|')[0]
    assert "a#34;#93;#124;#60;b#62;#59;#35;_w" in label


def test_the_svg_holds_every_node_and_wire(check: Check) -> None:
    plan = plan_of(check())
    root = ElementTree.fromstring(to_svg(plan))
    boxes = root.findall(f".//{SVG}rect[@class='box']")
    wires = root.findall(f".//{SVG}path[@class='wire']")
    assert len(boxes) == len(plan.nodes) + 1  # the dead letters have a box of their own
    assert len(wires) == sum(len(sources) for node in plan.nodes for sources in node.inputs.values())
    texts = {element.text for element in root.iter(f"{SVG}text")}
    assert {"events", "Find events.", "pmu", "meter", "measured", "frequency_event"} <= texts


def test_the_svg_needs_nothing_from_elsewhere(check: Check) -> None:
    text = to_svg(plan_of(check()))
    assert text.count("http") == 1  # the name of SVG's own namespace
    assert "<script" not in text
    assert "prefers-color-scheme:dark" in text


def test_text_in_the_svg_is_escaped(check: Check) -> None:
    flow = FLOW.replace("Find events.", "'<script>&'").replace('"${meter_port}"', "1, channels: ['<i>&_w']")
    text = to_svg(plan_of(check(flow)))
    assert "<script>" not in text
    assert "<i>" not in text
    assert ElementTree.fromstring(text).tag == f"{SVG}svg"


def test_boxes_in_the_svg_do_not_touch(check: Check) -> None:
    root = ElementTree.fromstring(to_svg(plan_of(check())))
    boxes = [
        [float(each.attrib[k]) for k in ("x", "y", "width", "height")]
        for each in root.findall(f".//{SVG}rect[@class='box']")
    ]
    overlaps = [
        (a, b)
        for i, a in enumerate(boxes)
        for b in boxes[i + 1 :]
        if a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
    ]
    assert overlaps == []


def test_a_flow_of_one_node_can_be_drawn(check: Check) -> None:
    plan = plan_of(check("flow: a\nnodes: {m: {kind: meter, port: 1}}\n"))
    assert ElementTree.fromstring(to_svg(plan)).tag == f"{SVG}svg"
    assert "n_m" in to_mermaid(plan)


def test_what_a_missing_secret_hides_is_drawn_as_unknown(check: Check) -> None:
    plan = plan_of(check(FLOW.replace('port: "${meter_port}"', 'port: 1, channels: ["${COLUMN}"]')))
    assert '  n_pmu -->|"?"| n_slope' in to_mermaid(plan).splitlines()
    assert ">?</text>" in to_svg(plan)


def random_graph(seed: int, size: int) -> dict[str, list[str]]:
    chosen = random.Random(seed)
    graph: dict[str, list[str]] = {}
    for i in range(size):
        count = min(i, chosen.choice([0, 1, 1, 1, 2, 3]))
        graph[f"n{i}"] = chosen.sample([f"n{k}" for k in range(i)], count)
    return graph


def gaps_in(layout: Layout) -> list[float]:
    """Vertical distances of neighbours in each layer."""
    rows = [sorted(layout.row[name] for name in layer) for layer in layout.layers]
    return [b - a for layer in rows for a, b in itertools.pairwise(layer)]


@given(st.integers(0, 10**6), st.integers(0, 25))
def test_layouts_keep_order_and_distance(seed: int, size: int) -> None:
    graph = random_graph(seed, size)
    layout = lay_out(graph)
    layer_of = {name: index for index, layer in enumerate(layout.layers) for name in layer}
    assert layer_of.keys() == graph.keys()
    assert all(layer_of[source] < layer_of[node] for node, sources in graph.items() for source in sources)
    assert all(gap > 0.999 for gap in gaps_in(layout))
    assert all(
        len(layout.bends[source, node]) == layer_of[node] - layer_of[source] - 1
        for node, sources in graph.items()
        for source in sources
    )


def test_a_chain_is_a_straight_line() -> None:
    layout = lay_out({"a": [], "b": ["a"], "c": ["b"], "d": ["c"]})
    assert layout.layers == (("a",), ("b",), ("c",), ("d",))
    assert set(layout.row.values()) == {0.0}


def test_a_source_stands_beside_its_only_reader() -> None:
    assert lay_out({"a": [], "b": ["a"], "late": [], "c": ["b", "late"]}).layers[1] == ("b", "late")


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_wires_that_need_not_cross_do_not(order: list[str]) -> None:
    layout = lay_out({"a": [], "b": [], **{f"x{name}": [name] for name in order}})
    first, second = layout.layers
    assert [f"x{name}" for name in first] == list(second)
