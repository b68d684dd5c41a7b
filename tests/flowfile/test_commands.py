"""One asset has one controller, over all files that are checked together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from flow_kinds import never_opened, no_state, pass_on
from msgspec import Meta

from edgeflex_flow.flowfile import check_flows
from edgeflex_flow.messages import Alarm, Setpoints
from edgeflex_flow.node import (
    ANY,
    ConnectionNode,
    Input,
    NodeConfig,
    OperatorNode,
    SinkNode,
    SourceNode,
    connection,
    message_wire,
    samples_wire,
)
from edgeflex_flow.registry import Registry


class MeterConfig(NodeConfig, frozen=True, kw_only=True):
    """Measures."""


class BossConfig(NodeConfig, frozen=True, kw_only=True):
    """Decides."""

    assets: Annotated[tuple[str, ...], Meta(description="About which assets.")] = ()
    shadow: Annotated[bool, Meta(description="Whether nothing obeys.")] = False

    def commands(self) -> tuple[str, ...]:
        return () if self.shadow else self.assets


class RadioConfig(NodeConfig, frozen=True, kw_only=True):
    """Sends."""

    bus: Annotated[str, connection("bus", "By what.")]


REGISTRY = Registry(
    [
        SourceNode("meter", MeterConfig, lambda _config, _inputs: samples_wire("x_v"), never_opened),
        OperatorNode(
            "boss",
            BossConfig,
            {"in": Input(ANY, step=pass_on)},
            lambda _config, _inputs: message_wire(Setpoints, Alarm),
            no_state,
        ),
        OperatorNode(
            "chief",
            BossConfig,
            {"in": Input((Setpoints, Alarm), step=pass_on, decides_after=True)},
            lambda _config, _inputs: message_wire(Setpoints, Alarm),
            no_state,
        ),
        SinkNode("radio", RadioConfig, {"in": Input(ANY)}, never_opened),
        SinkNode("paper", MeterConfig, {"in": Input(ANY)}, never_opened),
        ConnectionNode("air", MeterConfig, "bus", never_opened),
    ]
)
METER = "  meter: {kind: meter}\n"
RADIO = "  radio: {kind: radio, from: [one, two], bus: air}\n"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(*flows: str) -> list[str]:
    files = [Path(f"{name}.yaml") for name, _ in zip("ab", flows, strict=False)]
    for file, nodes in zip(files, flows, strict=True):
        file.write_text(f"flow: {file.stem}\nnodes:\n{METER}{nodes}", encoding="utf-8")
    site = Path("site.yaml")
    site.write_text("site: yard\nconnections:\n  air: {kind: air}\n", encoding="utf-8")
    checked = check_flows(files, REGISTRY, site=site)
    return [str(problem) for flow in checked for problem in flow.problems]


def flow(one: str, two: str, sink: str = RADIO) -> str:
    return f"  one: {{from: meter, {one}}}\n  two: {{from: meter, {two}}}\n{sink}"


def test_asset_of_two_controllers_is_refused_at_the_second() -> None:
    assert told(flow("kind: boss, assets: [inverter, battery]", "kind: boss, assets: [battery]")) == [
        "a.yaml:5:3: node 'two': would control 'battery', which is controlled by node 'one' (line 4) already; "
        "an asset has one controller: let the other one run in shadow"
    ]


def test_assets_of_controllers_in_two_flows_are_refused_with_the_other_file() -> None:
    other = flow("kind: boss, assets: [c, b, a]", "kind: boss")
    assert told(flow("kind: boss, assets: [a, b]", "kind: boss, assets: [c]"), other) == [
        "b.yaml:4:3: node 'one': would control 'c', which is controlled by node 'two' (a.yaml:5) already; "
        "an asset has one controller: let the other one run in shadow",
        "b.yaml:4:3: node 'one': would control 'b' and 1 more, which are controlled by node 'one' (a.yaml:4) already; "
        "an asset has one controller: let the other one run in shadow",
    ]


@pytest.mark.parametrize(
    "nodes",
    [
        flow("kind: boss, assets: [a]", "kind: boss, assets: [b]"),
        flow("kind: boss, assets: [a]", "kind: boss, assets: [a], shadow: true"),
        flow("kind: boss, assets: [a]", "kind: boss, assets: [a]", "  paper: {kind: paper, from: [one, two]}\n"),
        "  one: {kind: boss, from: meter, assets: [a]}\n  two: {kind: chief, from: one, assets: [a]}\n" + RADIO,
    ],
    ids=["other assets", "in shadow", "whose set-points stay", "one that advises the other"],
)
def test_controllers_do_not_exclude_each_other(nodes: str) -> None:
    assert told(nodes) == []


def test_controller_whose_other_settings_are_wrong_is_told_of_those_alone() -> None:
    [problem] = told(flow("kind: boss, assets: [a]", "kind: boss, assets: [a], shadow: perhaps"))
    assert "'shadow'" in problem
