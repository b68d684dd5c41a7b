"""What a checked flow file becomes: everything the runtime needs, nothing of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeflex_flow.node import (
    FLOW_WIRES,
    NodeConfig,
    OpenConnection,
    OperatorNode,
    SinkNode,
    SourceNode,
    Wire,
)
from edgeflex_flow.policy import Binding


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """One node of the flow, decoded and wired."""

    id: str
    node: OperatorNode[Any, Any] | SourceNode[Any] | SinkNode[Any]
    config: NodeConfig
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Input port to the ids of the nodes wired to it, in the file's order; it may read wires of the flow itself."""
    connections: Mapping[str, OpenConnection] = field(default_factory=dict)
    """By config field that names the connection."""
    policies: Mapping[str, Binding] = field(default_factory=dict)
    """By config field that a policy may change."""
    wire: Wire | None = None
    """What the node gives; None for sinks."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked flow. `nodes` stand in topological order: each after all that it reads from."""

    name: str
    about: str
    file: Path
    site: str
    folder: Path
    """Where relative paths start: the site file's folder, or the flow file's when there is no site."""
    nodes: tuple[PlannedNode, ...]
    params: frozenset[str] = frozenset()
    """Names that the flow file and its site file declare: those that `-D` may set."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Free names and texts of the site and the flow, for people and programs that choose among flows."""
    policy_system: OpenConnection | None = None
    """The site's connection to a policy system, when something in the flow is bound to a policy."""
    bound_connections: Mapping[str, Mapping[str, Binding]] = field(default_factory=dict)
    """By name of a connection of the flow and its field, what a policy may change there."""

    def readers(self, node_id: str) -> tuple[tuple[PlannedNode, str], ...]:
        """Who reads the node's output: (node, port) pairs."""
        return tuple((reader, port) for reader in self.nodes for port, ids in reader.inputs.items() if node_id in ids)

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids of the policies to which something is bound, sorted."""
        return tuple(sorted(self.policy_fields))

    @property
    def policy_fields(self) -> Mapping[str, frozenset[str]]:
        """By policy to which something is bound, the fields that are read."""
        found: dict[str, set[str]] = {}
        for bindings in (*(each.policies for each in self.nodes), *self.bound_connections.values()):
            for binding in bindings.values():
                found.setdefault(binding.policy, set()).add(binding.field)
        return {name: frozenset(fields) for name, fields in found.items()}

    @property
    def flow_wires(self) -> tuple[str, ...]:
        """Which wires of the flow itself are read."""
        return tuple(name for name in FLOW_WIRES if self.readers(name))
