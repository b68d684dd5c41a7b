"""Values that policies give to bound settings: what they become, how they are told, and what they must not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeflex_flow.flowfile.fields import check_text, parse_number, unit_of
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.flowfile.wires import merge
from edgeflex_flow.node import FLOW_WIRES, NodeConfig, OperatorNode, SourceNode, Wire
from edgeflex_flow.policy import Binding, PolicyBinding, TextBinding, is_allowed

MOST_TEXTS = 1000
LONGEST_TEXT = 4096


def value_of(config: NodeConfig, name: str, binding: Binding, value: Any, *, is_written: bool) -> Any:
    """What the setting becomes, if it can be that by itself. Raises ValueError, TypeError.

    `is_written`: by a person, who must say the unit of a number: 30 may mean MW, and would be W.
    """
    if isinstance(binding, TextBinding):
        return _texts_of(config, name, binding, value)
    return _number_of(config, name, binding, value, is_written=is_written)


def _number_of(config: NodeConfig, name: str, binding: PolicyBinding, value: Any, *, is_written: bool) -> float:
    unit = unit_of(type(config), name)
    if is_written and unit and isinstance(value, int | float):
        raise ValueError(f"write it with its unit, e.g. {value:g}{unit}")
    number = parse_number(type(config), name, value)
    if not binding.min <= number <= binding.max:
        raise ValueError(f"{number:g} is outside {binding.min:g} to {binding.max:g}{unit}")
    kind: type[float] = type(getattr(config, name))
    return kind(number)


def _texts_of(config: NodeConfig, name: str, binding: TextBinding, value: Any) -> Any:
    listed = isinstance(binding.default, tuple)
    given = tuple(value) if listed and isinstance(value, list | tuple) else (value,)
    if listed != isinstance(value, list | tuple) or not all(isinstance(each, str) for each in given):
        raise TypeError(f"no {'list of texts' if listed else 'text'}: {str(value)[:100]!r}")
    if len(given) > MOST_TEXTS or any(len(each) > LONGEST_TEXT for each in given):
        raise ValueError(f"at most {MOST_TEXTS} texts of {LONGEST_TEXT} characters each are taken")
    for each in given:
        if not is_allowed(each, binding.allowed):
            raise ValueError(f"{each[:100]!r} is not among what is allowed: {', '.join(binding.allowed)}")
    return check_text(type(config), name, given if listed else given[0])


def in_words(config: NodeConfig, name: str, value: Any) -> str:
    """A value of a setting as people write it."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(str(each) for each in value) + "]"
    if isinstance(value, int | float):
        return f"{value:g}{unit_of(type(config), name)}"
    return "nothing" if value is None else str(value)


def interface_problem(plan: Plan, planned: PlannedNode, new: NodeConfig) -> str | None:
    """Why a node of a running flow cannot have this config, by what it would give or need then; None if it can.

    How nodes are wired was checked with the config that the flow file gives.
    """
    if planned.wire is not None and isinstance(planned.node, OperatorNode | SourceNode):
        try:
            wire = planned.node.output(new, _inputs_of(plan, planned))
        except ValueError as error:
            return str(error)
        if wire != planned.wire:
            return "the node would give other messages or columns than the flow was checked with"
    if isinstance(planned.node, OperatorNode):
        ports = planned.node.inputs.values()
        if any(port.columns(new) != port.columns(planned.config) for port in ports):
            return "the node would need other columns than the flow was checked with"
    if tuple(new.commands()) != tuple(planned.config.commands()):
        return "the node would move other assets than the flow was checked with"
    return None


def _inputs_of(plan: Plan, planned: PlannedNode) -> Mapping[str, Wire]:
    wires = {each.id: each.wire for each in plan.nodes} | dict(FLOW_WIRES)
    return {
        port: merge(wire for source in sources if (wire := wires[source]) is not None)
        for port, sources in planned.inputs.items()
    }
