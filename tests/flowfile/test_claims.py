"""Two nodes cannot have the same UDP port, nor write the same file, nor read what another one writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pytest
from flow_kinds import never_opened
from msgspec import Meta

from edgeflex_flow import node
from edgeflex_flow.flowfile import check_flows
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Input, NodeConfig, SinkNode, SourceNode, samples_wire, udp_port
from edgeflex_flow.registry import Registry


class EarConfig(NodeConfig, frozen=True, kw_only=True):
    """Listens."""

    port: Annotated[int, udp_port("Where it listens.", host="host", group="group")]
    group: Annotated[str | None, Meta(description="To which group.")] = None
    host: Annotated[str, Meta(description="On which address.")] = "0.0.0.0"
    gain: Annotated[int, Meta(description="How loud.")] = 1


class PenConfig(NodeConfig, frozen=True, kw_only=True):
    """Writes."""

    path: Annotated[str, node.path("Where to.", written=True, parts=".npz")] = "out.txt"
    log: Annotated[str | None, node.path("Where to tell of it.", written=True)] = None
    source: Annotated[str | None, node.path("What it copies.")] = None


REGISTRY = Registry(
    [
        SourceNode("ear", EarConfig, lambda _config, _inputs: samples_wire("x_v"), never_opened),
        SinkNode("pen", PenConfig, {"in": Input((Samples,))}, never_opened),
    ]
)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").symlink_to(tmp_path)


def told(
    *flows: str, site: Path | None = None, environment: Mapping[str, str] | None = None, folders: bool = False
) -> list[str]:
    files = []
    for name, nodes in zip("ab", flows, strict=False):
        file = Path(name, "flow.yaml") if folders else Path(f"{name}.yaml")
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"flow: {name}\nnodes:\n{nodes}\n", encoding="utf-8")
        files.append(file)
    checked = check_flows(files, REGISTRY, site=site, environment=environment or {})
    return [str(problem) for flow in checked for problem in flow.problems]


EAR = "  one: {kind: ear, port: 4713}"


def test_a_port_that_two_nodes_take_is_told_at_the_second() -> None:
    assert told(f"{EAR}\n  two: {{kind: ear, port: 4713}}") == [
        "a.yaml:4:26: node 'two': the UDP port is taken by node 'one' already (line 3); got 4713"
    ]


def test_a_port_that_two_flows_take_is_told_with_the_other_file() -> None:
    assert told(EAR, EAR.replace("one", "two")) == [
        "b.yaml:3:26: node 'two': the UDP port is taken by node 'one' already (a.yaml:3); got 4713"
    ]


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        ("0.0.0.0", "10.0.0.1", True),
        ("10.0.0.1", "0.0.0.0", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("localhost", "127.0.0.1", True),
        ("LOCALHOST", "localhost", True),
        ("pmu.example", "pmu.example", True),
        ("pmu.example", "10.0.0.1", False),
        ("pmu.example", "0.0.0.0", True),
        ("::", "10.0.0.1", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("::1", "127.0.0.1", False),
        ("0.0.0.0", "::1", False),
    ],
)
def test_a_port_is_taken_where_addresses_overlap(first: str, second: str, taken: bool) -> None:
    nodes = [f"  n{i}: {{kind: ear, port: 4713, host: '{host}'}}" for i, host in enumerate((first, second))]
    assert bool(told("\n".join(nodes))) == taken


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        ("group: 239.0.0.1", "group: 239.0.0.2", False),
        ("group: 239.0.0.1", "group: 239.0.0.1", True),
        ("group: 239.0.0.1, host: 10.0.0.1", "host: 10.0.0.1", False),
        ("group: 239.0.0.1", "host: 0.0.0.0", True),
    ],
)
def test_a_port_is_taken_on_the_group_where_there_is_one(first: str, second: str, taken: bool) -> None:
    nodes = [f"  n{i}: {{kind: ear, port: 4713, {where}}}" for i, where in enumerate((first, second))]
    assert bool(told("\n".join(nodes))) == taken


def test_port_0_takes_nothing() -> None:
    assert told("  one: {kind: ear, port: 0}\n  two: {kind: ear, port: 0}") == []


def test_a_port_from_a_param_is_taken_too() -> None:
    nodes = '  one: {kind: ear, port: "${PORT}"}\n  two: {kind: ear, port: 4713}'
    assert len(told(nodes, environment={"PORT": "4713"})) == 1
    assert told(nodes) == []


def test_a_taken_port_is_told_beside_another_error_of_the_node() -> None:
    assert len(told(f"{EAR}\n  two: {{kind: ear, port: 4713, gain: loud}}")) == 2


def test_a_port_on_an_address_that_is_wrong_is_not_told() -> None:
    assert len(told(f"{EAR}\n  two: {{kind: ear, port: 4713, host: 5}}")) == 1


def test_a_file_that_two_nodes_write_is_told_whatever_its_name() -> None:
    pens = "  p: {kind: pen, from: one, path: a/../x}\n  q: {kind: pen, from: one, path: ./here/x}"
    assert told(f"{EAR}\n{pens}") == [
        "a.yaml:5:35: node 'q': the file is taken by node 'p' already (line 4); got './here/x'"
    ]


def test_a_file_that_a_default_names_is_told_at_the_node() -> None:
    pens = "  p: {kind: pen, from: one}\n  q: {kind: pen, from: one}"
    assert told(f"{EAR}\n{pens}") == ["a.yaml:5:3: node 'q': the file is taken by node 'p' already (line 4)"]


def test_one_node_cannot_write_two_things_into_one_file() -> None:
    assert len(told(f"{EAR}\n  p: {{kind: pen, from: one, path: x, log: x}}")) == 1


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ("path: x", "path: b, source: here/x", "written by node 'p' (line 4), so it cannot be read; got 'here/x'"),
        ("path: a, source: x", "path: x", "read by node 'p' (line 4), so it cannot be written; got 'x'"),
        ("path: a, log: x", "path: b, source: x", "written by node 'p' (line 4), so it cannot be read; got 'x'"),
        ("path: x.npz", "path: b, source: x.npz", "written by node 'p' (line 4), so it cannot be read; got 'x.npz'"),
        ("path: x.npz", "path: b, source: x-0007.npz", "written by node 'p' (line 4)"),
        ("path: a, source: x-10007.npz", "path: x.npz", "read by node 'p' (line 4)"),
        ("path: x.npz", "path: x-0001.npz", "taken by node 'p' already (line 4)"),
    ],
)
def test_a_file_that_a_node_writes_cannot_be_read(first: str, second: str, text: str) -> None:
    [problem] = told(f"{EAR}\n  p: {{kind: pen, from: one, {first}}}\n  q: {{kind: pen, from: one, {second}}}")
    assert problem.startswith("a.yaml:5:")
    assert f"the file is {text}" in problem


@pytest.mark.parametrize("source", ["x-1.npz", "x-y.npz", "y-0001.npz", "x-0001.txt", "a/x-0001.npz"])
def test_files_that_are_no_parts_of_what_is_written_may_be_read(source: str) -> None:
    pens = f"  p: {{kind: pen, from: one, path: x.npz}}\n  q: {{kind: pen, from: one, path: b, source: {source}}}"
    assert told(f"{EAR}\n{pens}") == []


def test_a_file_that_another_flow_writes_cannot_be_read() -> None:
    writes, reads = f"{EAR}\n  p: {{kind: pen, from: one, path: x}}", EAR.replace("4713", "0")
    [problem] = told(writes, f"{reads}\n  q: {{kind: pen, from: one, path: b, source: x}}")
    assert "b.yaml:4:46: node 'q': the file is written by node 'p' (a.yaml:4)" in problem


def test_a_node_cannot_read_what_it_writes() -> None:
    assert len(told(f"{EAR}\n  p: {{kind: pen, from: one, path: x, source: x}}")) == 1


def test_a_file_that_two_nodes_read_is_not_taken() -> None:
    pens = "  p: {kind: pen, from: one, path: a, source: x}\n  q: {kind: pen, from: one, path: b, source: x}"
    assert told(f"{EAR}\n{pens}") == []


def test_relative_paths_of_flows_in_different_folders_are_different_files() -> None:
    nodes = "  one: {kind: ear, port: 0}\n  p: {kind: pen, from: one}"
    assert told(nodes, nodes, folders=True) == []
    Path("site.yaml").write_text("site: s\n", encoding="utf-8")
    assert len(told(nodes, nodes, folders=True, site=Path("site.yaml"))) == 1
