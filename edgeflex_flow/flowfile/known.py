"""What a node needs and gives, as far as it rests on what is right in the file: no error is to hide another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from edgeflex_flow.node import Input, NodeConfig, OperatorNode, SourceNode, Wire


class UnknownError(Exception):
    """A kind asked for something that nobody knows before the file is mended."""


class KnownFields:
    """Stands for a config of which only some fields are known. Reading another one raises UnknownError."""

    def __init__(self, config: type[NodeConfig], known: Mapping[str, Any]) -> None:
        self._config = config
        self._known = known

    def __getattr__(self, name: str) -> Any:
        if name in self._config.__struct_fields__:
            if name not in self._known:
                raise UnknownError(name)
            return self._known[name]
        found = vars(self._config).get(name, getattr(self._config, name))
        # Methods and properties of the config see the known fields only, too.
        return found.__get__(self, type(self)) if hasattr(found, "__get__") else found


class KnownInputs(Mapping[str, Wire]):
    """What comes in at each port; None where nobody knows. Without `complete`, not even the ports are known."""

    def __init__(self, wires: Mapping[str, Wire | None], *, complete: bool) -> None:
        self._wires = wires
        self._complete = complete

    def __getitem__(self, port: str) -> Wire:
        self._be_complete()
        wire = self._wires[port]
        if wire is None:
            raise UnknownError(port)
        return wire

    def __iter__(self) -> Iterator[str]:
        self._be_complete()
        return iter(self._wires)

    def __len__(self) -> int:
        self._be_complete()
        return len(self._wires)

    def _be_complete(self) -> None:
        if not self._complete:
            raise UnknownError("ports")


def known_output(node: OperatorNode[Any, Any] | SourceNode[Any], config: Any, inputs: KnownInputs) -> Wire | None:
    """What the node gives; None when that rests on something unknown. Raises ValueError when the node refuses it."""
    try:
        return node.output(config, inputs)
    except UnknownError:
        return None


def known_needs(port: Input, config: Any) -> frozenset[str]:
    """The columns that a port needs; none when they rest on something unknown."""
    try:
        return port.columns(config)
    except UnknownError:
        return frozenset()


def kinds_that_give(column: str, given: frozenset[str], kinds: Iterable[object]) -> list[str]:
    """Kinds of operators that give the column whatever their settings, from no more columns than are given."""
    return [
        node.kind
        for node in kinds
        if isinstance(node, OperatorNode) and column in _fixed_columns(node) and _fixed_needs(node) <= given
    ]


def _fixed_columns(node: OperatorNode[Any, Any]) -> frozenset[str]:
    try:
        wire = known_output(node, KnownFields(node.config, {}), KnownInputs({}, complete=False))
    except ValueError:
        return frozenset()
    return frozenset() if wire is None else wire.columns


def _fixed_needs(node: OperatorNode[Any, Any]) -> frozenset[str]:
    config = KnownFields(node.config, {})
    return frozenset(column for port in node.inputs.values() for column in known_needs(port, config))
