"""The registry of kinds."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Annotated, Any

import pytest
from msgspec import Meta

from edgeflex_flow import registry as module
from edgeflex_flow.node import ConnectionNode, NodeConfig, OperatorNode
from edgeflex_flow.registry import Registry, RegistryError, third_party_nodes


class Config(NodeConfig, frozen=True, kw_only=True):
    """A kind for tests."""

    size: Annotated[int, Meta(description="Size.")] = 1


def operator(kind: str) -> OperatorNode[Config, None]:
    return OperatorNode(kind, Config, {}, lambda _config, inputs: inputs["in"], lambda _config: None)


def test_two_nodes_of_one_kind_are_refused() -> None:
    with pytest.raises(RegistryError, match="kind 'rocof' is registered twice"):
        Registry([operator("rocof"), operator("rocof")])


def test_a_connection_may_share_its_name_with_a_node() -> None:
    bus = ConnectionNode("mqtt", Config, "bus", lambda _config, _context: None)
    registry = Registry([operator("mqtt"), bus])
    assert set(registry.nodes) == set(registry.connections) == {"mqtt"}


def test_an_entry_point_that_holds_no_node_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(group: str) -> list[Any]:
        return [EntryPoint("pi", "math:pi", group)]

    monkeypatch.setattr(module, "entry_points", entry_points)
    nodes, [problem] = third_party_nodes()
    assert nodes == []
    assert "entry point 'pi' (math:pi) holds a float" in problem


def test_an_entry_point_that_cannot_be_loaded_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(group: str) -> list[Any]:
        return [EntryPoint("gone", "no_such_module:NODE", group)]

    monkeypatch.setattr(module, "entry_points", entry_points)
    nodes, [problem] = third_party_nodes()
    assert nodes == []
    assert "entry point 'gone'" in problem
    assert "No module named 'no_such_module'" in problem
