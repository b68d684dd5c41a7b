"""Pictures for the live page: everything is there, apart from each other, and no secret."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta
from shipped import FLOWS, LOCAL

from edgeflex_connectors.rest_auth import Bearer
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.errors import ConfigError
from edgeflex_flow.flowfile import CheckedFlow, check_flows
from edgeflex_flow.flowfile.fields import secret_keys
from edgeflex_flow.flowfile.picture import LEAD_IN, WIRE_PITCH, Picture, PictureNode, in_file_words, picture_of
from edgeflex_flow.flowfile.plan import StudioConfig
from edgeflex_flow.flowfile.report import Secret
from edgeflex_flow.flowfile.secrecy import SecretKeys
from edgeflex_flow.node import NodeConfig

Check = Callable[..., CheckedFlow]


def pictures() -> list[Picture]:
    files = sorted(FLOWS.glob("*.yaml"))
    checked = check_flows(files, shipped_registry(), site=LOCAL, params={}, secrets="optional")
    return [picture_of(each.plan) for each in checked if each.plan is not None]


@pytest.fixture(params=pictures(), ids=lambda picture: picture.flow)
def picture(request: pytest.FixtureRequest) -> Picture:
    found: Picture = request.param
    return found


def test_every_node_and_wire_of_a_shipped_flow_is_drawn(picture: Picture) -> None:
    nodes = {node.id for node in picture.nodes}
    assert {wire.source for wire in picture.wires} | {wire.reader for wire in picture.wires} <= nodes
    assert all(wire.id.startswith(f"{wire.source} -> {wire.reader}.") for wire in picture.wires)
    assert all(node.manual for node in picture.nodes)


def test_nothing_overlaps_and_all_is_within_the_picture(picture: Picture) -> None:
    for a, b in itertools.combinations(picture.nodes, 2):
        assert apart(a, b), f"{a.id} and {b.id}"
    for node in picture.nodes:
        assert 0 <= node.x <= node.x + node.width <= picture.width
        assert 0 <= node.y <= node.y + node.height <= picture.height
    boxes = {node.id: node for node in picture.nodes}
    for wire in picture.wires:
        reader = boxes[wire.reader]
        assert wire.x == pytest.approx(reader.x - LEAD_IN)
        assert reader.y < wire.y < reader.y + reader.height
    for one, other in itertools.combinations(picture.wires, 2):
        assert one.reader != other.reader or abs(one.y - other.y) >= WIRE_PITCH - 0.01, f"{one.id} and {other.id}"


def apart(a: PictureNode, b: PictureNode) -> bool:
    return a.x + a.width < b.x or b.x + b.width < a.x or a.y + a.height < b.y or b.y + b.height < a.y


class LoginConfig(NodeConfig, frozen=True, kw_only=True):
    """A login."""

    password: Annotated[str, Meta(description="Word.", extra={"secret": True})] = ""


def test_values_are_shown_as_they_stand_in_files_and_without_secrets() -> None:
    secrets = secret_keys([LoginConfig])
    assert in_file_words(0.5, "s", secrets) == "500ms"
    assert in_file_words(None, None, secrets) == "none"
    assert in_file_words(("a", 1), None, secrets) == '["a",1]'
    assert in_file_words({"user": "u", "password": "hunter2"}, None, secrets) == '{"user":"u","password":"***"}'
    assert in_file_words("mqtt://me:hunter2@bus", None, secrets) == "mqtt://***@bus"
    assert in_file_words({"auth": Bearer(token="t")}, None, SecretKeys()) == '{"auth":{"kind":"bearer","token":"***"}}'
    assert in_file_words([Secret("hunter2")], None, SecretKeys()) == '["***"]'
    assert len(in_file_words("x" * 5000, None, secrets)) < 500


def test_what_a_policy_may_change_and_where_a_node_stands_is_told(check: Check) -> None:
    plan = check().plan
    assert plan is not None
    nodes = {node.id: node for node in picture_of(plan).nodes}
    bound = [(name, each.name, each.policy) for name, node in nodes.items() for each in node.settings if each.policy]
    assert bound
    lines = Path("flow.yaml").read_text().splitlines()
    for node in nodes.values():
        assert not node.line or f"{node.id}:" in lines[node.line - 1]


def test_a_node_tells_to_where_its_connections_lead_without_their_secrets() -> None:
    told = {text for picture in pictures() for node in picture.nodes for text in node.connections.values()}
    assert all(re.fullmatch(r"\w+ \(\w+\)(, [a-z]+://[^@?]+)?", text) for text in told), told
    assert any("://" in text for text in told)


def test_without_users_the_page_is_for_this_computer_alone() -> None:
    assert StudioConfig().host == "127.0.0.1"
    with pytest.raises(ConfigError, match="for this computer alone"):
        StudioConfig(host="0.0.0.0")
    assert StudioConfig(host="0.0.0.0", users="users.json").users == "users.json"
    with pytest.raises(ConfigError, match="go together"):
        StudioConfig(certificate="a.pem")
