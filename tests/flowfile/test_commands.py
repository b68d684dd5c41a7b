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
    Command,
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

    name: Annotated[str, Meta(description="Who decides.")] = "nobody"
    assets: Annotated[tuple[str, ...], Meta(description="About which assets.")] = ()
    quantity: Annotated[str, Meta(description="What of them.")] = "active_power_w"
    shadow: Annotated[bool, Meta(description="Whether nothing obeys.")] = False
    hears: Annotated[str, Meta(description="Whose advice counts.")] = ""
    area: Annotated[str, Meta(description="Advice about what counts.")] = ""

    def commands(self) -> tuple[Command, ...]:
        return () if self.shadow else tuple(Command.of(asset, self.quantity) for asset in self.assets)

    def advised_by(self, other: NodeConfig, command: Command) -> bool:
        return isinstance(other, BossConfig) and (other.name, command.asset) == (self.hears, self.area)


class GuardConfig(BossConfig, frozen=True, kw_only=True):
    """Decides when another one is silent."""

    def stands_in_for(self, other: NodeConfig) -> bool:
        return isinstance(other, BossConfig) and other.name == self.hears


class RadioConfig(NodeConfig, frozen=True, kw_only=True):
    """Sends."""

    bus: Annotated[str, connection("bus", "By what.")]


class PostConfig(NodeConfig, frozen=True, kw_only=True):
    """Sends in another way."""

    service: Annotated[str, connection("rest", "By what.")]


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
            {
                "in": Input((Setpoints, Alarm), step=pass_on, decides_after=True, optional=True),
                "seen": Input((Setpoints, Alarm), step=pass_on, optional=True),
            },
            lambda _config, _inputs: message_wire(Setpoints, Alarm),
            no_state,
        ),
        OperatorNode(
            "guard",
            GuardConfig,
            {"in": Input(ANY, step=pass_on)},
            lambda _config, _inputs: message_wire(Setpoints, Alarm),
            no_state,
        ),
        SinkNode("radio", RadioConfig, {"in": Input(ANY)}, never_opened),
        SinkNode("post", PostConfig, {"in": Input(ANY)}, never_opened),
        SinkNode("paper", MeterConfig, {"in": Input(ANY)}, never_opened),
        ConnectionNode("air", MeterConfig, "bus", never_opened),
        ConnectionNode("mail", MeterConfig, "rest", never_opened),
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
    site.write_text("site: yard\nconnections:\n  air: {kind: air}\n  mail: {kind: mail}\n", encoding="utf-8")
    checked = check_flows(files, REGISTRY, site=site)
    return [str(problem) for flow in checked for problem in flow.problems]


def flow(one: str, two: str, sink: str = RADIO) -> str:
    return f"  one: {{from: meter, {one}}}\n  two: {{from: meter, {two}}}\n{sink}"


def test_asset_of_two_controllers_is_refused_at_the_second() -> None:
    assert told(flow("kind: boss, assets: [inverter, battery]", "kind: boss, assets: [battery]")) == [
        "a.yaml:5:3: node 'two': would control the active power of 'battery', as node 'one' (line 4) does already; "
        "an asset has one controller: let the other one run in shadow"
    ]


def test_assets_of_controllers_in_two_flows_are_refused_with_the_other_file() -> None:
    other = flow("kind: boss, assets: [c, b, a]", "kind: boss")
    assert told(flow("kind: boss, assets: [a, b]", "kind: boss, assets: [c]"), other) == [
        "b.yaml:4:3: node 'one': would control the active power of 'c', as node 'two' (a.yaml:5) does already; "
        "an asset has one controller: let the other one run in shadow",
        "b.yaml:4:3: node 'one': would control the active power of 'b' and 1 more, as node 'one' (a.yaml:4) does "
        "already; an asset has one controller: let the other one run in shadow",
    ]


@pytest.mark.parametrize(
    "nodes",
    [
        flow("kind: boss, assets: [a]", "kind: boss, assets: [b]"),
        flow("kind: boss, assets: [a]", "kind: boss, assets: [a], shadow: true"),
        flow("kind: boss, assets: [a]", "kind: boss, assets: [a]", "  paper: {kind: paper, from: [one, two]}\n"),
        flow("kind: boss, assets: [a]", "kind: boss, assets: [a], quantity: reactive_power_pu"),
        flow("kind: boss, name: ann, assets: [a]", "kind: guard, hears: ann, assets: [a]"),
        flow("kind: guard, hears: ann, assets: [a]", "kind: boss, name: ann, assets: [a]"),
    ],
    ids=[
        "other assets",
        "in shadow",
        "whose set-points stay",
        "other powers",
        "one that stands in for the other",
        "one that stands in for a later one",
    ],
)
def test_controllers_do_not_exclude_each_other(nodes: str) -> None:
    assert told(nodes) == []


def test_controller_whose_other_settings_are_wrong_is_told_of_those_alone() -> None:
    [problem] = told(flow("kind: boss, assets: [a]", "kind: boss, assets: [a], shadow: perhaps"))
    assert "'shadow'" in problem


def test_kinds_of_power_are_told_apart() -> None:
    [problem] = told(flow(*["kind: boss, assets: [a], quantity: reactive_power_pu"] * 2))
    assert "node 'two': would control the reactive power of 'a', as node 'one' (line 4) does already" in problem


def test_set_points_that_leave_by_a_service_count_as_well() -> None:
    post = "  radio: {kind: radio, from: one, bus: air}\n  post: {kind: post, from: two, service: mail}\n"
    assert len(told(flow("kind: boss, assets: [a]", "kind: boss, assets: [a]", post))) == 1


def test_two_that_stand_in_for_the_same_one_are_refused() -> None:
    assert len(told(flow(*["kind: guard, name: bob, hears: ann, assets: [a]"] * 2))) == 1


def test_one_that_stands_in_for_another_is_refused_beside_a_third() -> None:
    assert len(told(flow("kind: boss, name: eve, assets: [a]", "kind: guard, hears: ann, assets: [a]"))) == 1


def advised(chief: str, *, assets: str = "a", port: str = "in", sent: str = "one, two") -> list[str]:
    """Node `two` and node `one`, by name `ann`, which may be its adviser."""
    return told(
        f"  one: {{kind: boss, from: meter, name: ann, assets: [{assets}]}}\n"
        f"  two: {{kind: chief, from: {{{port}: one}}, assets: [a, b], {chief}}}\n"
        f"  other: {{kind: boss, from: meter, assets: [a]}}\n"
        f"  radio: {{kind: radio, from: [{sent}], bus: air}}\n"
        "  paper: {kind: paper, from: [two, other]}\n"
    )


def test_advice_moves_nothing() -> None:
    assert advised("hears: ann, area: a") == []


@pytest.mark.parametrize(
    ("chief", "more"),
    [
        ("hears: bob, area: a", {}),
        ("hears: ann, area: c", {}),
        ("hears: ann, area: a", {"assets": "a, b"}),
        ("hears: ann, area: a", {"port": "seen"}),
        ("hears: ann, area: a, shadow: true", {"sent": "one, two, other"}),
        ("hears: ann, area: a", {"sent": "one, other"}),
    ],
    ids=[
        "of one that is not heard",
        "about something else",
        "and more beside it",
        "at a port that only looks",
        "to one in shadow",
        "to one whose set-points stay",
    ],
)
def test_what_is_no_advice_counts(chief: str, more: dict[str, str]) -> None:
    assert len(advised(chief, **more)) == 1


def test_one_that_may_decide_is_told_of_its_wrong_settings_alone() -> None:
    [problem] = advised("hears: ann, area: a, shadow: perhaps", sent="one, two, other")
    assert "'shadow'" in problem
