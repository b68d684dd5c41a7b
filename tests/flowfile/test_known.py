"""What stands behind a node that is wrong is checked too, as far as it rests on what is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import pytest
from flow_kinds import FLOW
from msgspec import Meta

from edgeflex_connectors.pmu_udp import NODE as PMU_UDP
from edgeflex_flow.flowfile import CheckedFlow, check_flow
from edgeflex_flow.flowfile.known import KnownFields, KnownInputs, UnknownError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Input, NodeConfig, OperatorNode, Wire, samples_wire
from edgeflex_flow.registry import Registry
from edgeflex_operators import convert, frequency_event, rocof, select, threshold

Check = Callable[..., CheckedFlow]


class TwiceConfig(NodeConfig, frozen=True, kw_only=True):
    """Gives rocof too, but needs more for it."""

    title: Annotated[str, Meta(description="Any name.")] = ""
    columns: Annotated[tuple[str, ...], Meta(description="What to give.")] = ()

    @property
    def named(self) -> tuple[str, ...]:
        return tuple(f"{each}_hz" for each in self.columns)

    def first(self) -> str:
        return self.named[0]


def _twice_output(_config: TwiceConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return samples_wire("rocof_hz_per_s", "twice_hz")


TWICE = OperatorNode(
    "twice", TwiceConfig, {"in": Input((Samples,), ("power_w",), lambda *_: [])}, _twice_output, lambda _config: None
)
REGISTRY = Registry([PMU_UDP, convert.NODE, frequency_event.NODE, rocof.NODE, select.NODE, threshold.NODE, TWICE])


def told(nodes: str, tmp_path: Path) -> list[tuple[str | None, str]]:
    """Node and message of each problem of a flow with these nodes."""
    file = tmp_path / "flow.yaml"
    file.write_text(f"flow: a\nnodes:\n{nodes}\n", encoding="utf-8")
    return [(problem.node, problem.message) for problem in check_flow(file, REGISTRY, environment={}).problems]


def nodes_told(nodes: str, tmp_path: Path) -> list[str | None]:
    return [node for node, _ in told(nodes, tmp_path)]


@pytest.mark.parametrize(
    "pmu", ["port: x", "", "port: 1, port: 2", "port: 1, max_rows: 0", "prt: 1", "port: 1, hots: a"]
)
def test_columns_behind_a_source_with_a_wrong_field_are_checked(pmu: str, tmp_path: Path) -> None:
    nodes = f"  pmu: {{kind: pmu_udp, {pmu}}}\n  t: {{kind: threshold, from: pmu, column: q_w, above: 1}}"
    assert nodes_told(nodes, tmp_path)[-1] == "t"


@pytest.mark.parametrize(
    "pmu",
    [
        "port: 1, channels: {P: x}",
        "port: 1, channels: {P: q_w}, channels: {P: q_w}",
        "port: 1, chanels: {P: q_w}",
        "port: 1, qqqq: {P: q_w}",
        "port: 1, channels: {P: rocof_hz_per_s}",
        "port: 1, channels: {P: r_w, Q: r_w}",
    ],
)
def test_columns_that_rest_on_a_wrong_field_are_not_told(pmu: str, tmp_path: Path) -> None:
    nodes = f"  pmu: {{kind: pmu_udp, {pmu}}}\n  t: {{kind: threshold, from: pmu, column: q_w, above: 1}}"
    found = nodes_told(nodes, tmp_path)
    assert found
    assert "t" not in found


def test_an_operator_with_a_fixed_output_tells_it_whatever_is_wrong_before_it(tmp_path: Path) -> None:
    nodes = """\
  pmu: {kind: pmu_udpp, port: 1}
  r: {kind: rocof, from: [pmu, nobody], windw: 1s}
  e: {kind: frequency_event, from: r, onset: fast}
  t: {kind: threshold, from: e, column: frequency_hz, above: 1}
  u: {kind: threshold, from: r, column: q_hz, above: 1}"""
    assert nodes_told(nodes, tmp_path) == ["pmu", "r", "r", "e", "t", "u"]


def test_a_column_that_a_node_lacks_is_not_told_again_behind_it(tmp_path: Path) -> None:
    nodes = """\
  pmu: {kind: pmu_udp, port: 1}
  s: {kind: select, from: pmu, columns: [frequncy_hz]}
  c: {kind: convert, from: s, columns: {q_hz: q_mhz}}
  r: {kind: rocof, from: s}"""
    assert nodes_told(nodes, tmp_path) == ["s"]


def test_what_a_kind_selects_is_known_although_nothing_is_known_before_it(tmp_path: Path) -> None:
    nodes = "  s: {kind: select, from: nobody, columns: [q_w]}\n  r: {kind: rocof, from: s}"
    assert nodes_told(nodes, tmp_path) == ["s", "r"]


def test_a_column_that_a_kind_computes_is_told_with_the_kind(tmp_path: Path) -> None:
    nodes = "  pmu: {kind: pmu_udp, port: 1}\n  e: {kind: frequency_event, from: pmu}"
    assert told(nodes, tmp_path) == [
        (
            "e",
            "port 'in' needs column 'rocof_hz_per_s', which node 'pmu' does not give; node kind 'rocof' gives it: "
            "put one between",
        )
    ]


def test_a_kind_that_lacks_columns_itself_is_not_told(tmp_path: Path) -> None:
    nodes = "  pmu: {kind: pmu_udp, port: 1}\n  t: {kind: threshold, from: pmu, column: twice_hz, above: 1}"
    [(_, message)] = told(nodes, tmp_path)
    assert "if its stream holds this one, name it under 'channels:' of node 'pmu'" in message


def test_all_kinds_that_give_a_column_are_told(tmp_path: Path) -> None:
    nodes = "  pmu: {kind: pmu_udp, port: 1, channels: {P: power_w}}\n  e: {kind: frequency_event, from: pmu}"
    [(_, message)] = told(nodes, tmp_path)
    assert message.endswith("node kinds 'rocof', 'twice' give it: put one between")


@pytest.mark.parametrize(
    ("node", "nearest"),
    [
        ("kind: threshold, from: pmu, above: 1, column: ▶frequncy_hz", "frequency_hz"),
        ("kind: select, from: pmu, columns: [frequency_hz, ▶dfrq_hz_per_s]", "dfreq_hz_per_s"),
        ("kind: convert, from: pmu, columns: {▶frequncy_hz: frequency_mhz}", "frequency_hz"),
        ("kind: rocof, from: ▶s", None),
    ],
)
def test_a_lacking_column_is_told_where_a_field_names_it(node: str, nearest: str | None, tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    text = f"flow: a\nnodes:\n  pmu: {{kind: pmu_udp, port: 1, channels: {{P: q_w}}}}\n  n: {{{node}}}\n"
    text += "  s: {kind: select, from: pmu, columns: [q_w]}\n"
    file.write_text(text.replace("▶", ""), encoding="utf-8")
    [problem] = check_flow(file, REGISTRY, environment={}).problems
    assert (problem.line, problem.column, problem.nearest) == (4, text.splitlines()[3].index("▶") + 1, nearest)


@pytest.mark.parametrize(
    ("node", "named"),
    [
        ("kind: select, from: pmu, columns: [5, q_hz]", "q_hz"),
        ("kind: convert, from: pmu, columns: {frequency_hz: 5, q_hz: q_mhz}", "q_hz"),
    ],
)
def test_items_that_are_right_are_needed_beside_wrong_ones(node: str, named: str, tmp_path: Path) -> None:
    [_, (_, message)] = told(f"  pmu: {{kind: pmu_udp, port: 1}}\n  n: {{{node}}}", tmp_path)
    assert message.startswith(f"port 'in' needs column '{named}'")


@pytest.mark.parametrize(
    "node",
    [
        "kind: select, from: pmu, columns: [5, frequency_hz]",
        "kind: select, from: pmu, columns: [5, q_hz], columns: [frequency_hz]",
        "kind: convert, from: pmu, columns: {q_hz: q_w}",
    ],
)
def test_what_is_wrong_in_a_field_causes_no_second_error(node: str, tmp_path: Path) -> None:
    nodes = f"  pmu: {{kind: pmu_udp, port: 1}}\n  n: {{{node}}}\n  r: {{kind: rocof, from: n}}"
    assert not [message for _, message in told(nodes, tmp_path) if "needs column" in message]


def test_nodes_in_and_behind_a_cycle_are_checked(tmp_path: Path) -> None:
    nodes = """\
  t: {kind: threshold, from: r, column: q_hz, above: 1}
  a: {kind: select, from: b}
  b: {kind: convert, from: [a, e], columns: {q_hz: q_mhz}}
  r: {kind: rocof, from: b}
  e: {kind: frequency_event, from: c}
  c: {kind: convert, from: a, columns: {q_hz: q_mhz}}"""
    found = told(nodes, tmp_path)
    assert [node for node, message in found if "cycle" in message] == ["a"]
    assert [node for node, message in found if "needs column" in message] == ["t"]


def test_known_fields_stand_for_a_config_with_its_methods_and_properties() -> None:
    known = KnownFields(TwiceConfig, {"columns": ("a", "b")})
    assert (known.columns, known.named, known.first()) == (("a", "b"), ("a_hz", "b_hz"), "a_hz")
    with pytest.raises(UnknownError):
        _ = known.title
    with pytest.raises(AttributeError):
        _ = known.nothing
    with pytest.raises(UnknownError):
        KnownFields(TwiceConfig, {}).first()


def test_inputs_that_are_not_known_cannot_be_read() -> None:
    inputs = KnownInputs({"a": samples_wire("x_v"), "b": None}, complete=True)
    assert (inputs["a"], list(inputs), len(inputs), inputs.get("c")) == (samples_wire("x_v"), ["a", "b"], 2, None)
    with pytest.raises(UnknownError):
        inputs.get("b")
    with pytest.raises(UnknownError):
        list(KnownInputs({}, complete=False))


def test_a_wrong_port_does_not_hide_what_stands_behind(check: Check) -> None:
    flow = FLOW.replace('port: "${meter_port}"', "port: x").replace("rocof_hz_per_s\n", "rocf_hz_per_s\n")
    assert [problem.node for problem in check(flow).problems] == ["pmu", "watch"]
