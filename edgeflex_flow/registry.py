"""The registry of node kinds: a value, built once by the command line from lists and entry points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from typing import Any

from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.node import AnyNode, ConnectionNode, OperatorNode, SinkNode, SourceNode

ENTRY_POINT_GROUP = "edgeflex_flow.nodes"
"""Third-party packages name their nodes here: `my_kind = "my_package.my_module:NODE"`."""


class RegistryError(EdgeflexError):
    """A kind was given twice, or an entry point does not hold a node."""


class Registry:
    """Node kinds by name. Connection kinds have a namespace of their own (`kind: mqtt` in a site file)."""

    def __init__(self, nodes: Iterable[AnyNode]) -> None:
        self.nodes: dict[str, OperatorNode[Any, Any] | SourceNode[Any] | SinkNode[Any]] = {}
        self.connections: dict[str, ConnectionNode[Any]] = {}
        for node in nodes:
            self._add(node)

    def __iter__(self) -> Iterator[AnyNode]:
        yield from self.nodes.values()
        yield from self.connections.values()

    def _add(self, node: AnyNode) -> None:
        taken: AnyNode | None
        if isinstance(node, ConnectionNode):
            taken = self.connections.get(node.kind)
            self.connections.setdefault(node.kind, node)
        else:
            taken = self.nodes.get(node.kind)
            self.nodes.setdefault(node.kind, node)
        if taken is not None:
            raise RegistryError(
                f"kind '{node.kind}' is registered twice: by {taken.config.__module__} and by {node.config.__module__}"
            )


def third_party_nodes() -> tuple[list[AnyNode], list[str]]:
    """The nodes that installed packages give through the entry point group `edgeflex_flow.nodes`, and what is wrong
    with those that cannot be used: a broken package must not stop flows that do not need it.
    """
    found: list[AnyNode] = []
    problems: list[str] = []
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            node = entry.load()
        except Exception as error:  # noqa: BLE001 - whatever another package's module raises
            problems.append(f"entry point '{entry.name}' ({entry.value}) cannot be loaded: {error!r}")
            continue
        if isinstance(node, OperatorNode | SourceNode | SinkNode | ConnectionNode):
            found.append(node)
        else:
            problems.append(
                f"entry point '{entry.name}' ({entry.value}) holds a {type(node).__name__}; "
                "known: OperatorNode, SourceNode, SinkNode, ConnectionNode"
            )
    return found, problems
