"""How voltages follow powers in a grid: sensitivities from its branches, or from a table of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.node import quantity


class Branch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line, or a transformer seen from the voltage level of the grid."""

    from_: Annotated[str, Meta(min_length=1, description="Node at the end that is nearer to the feeding point.")] = (
        msgspec.field(name="from")
    )
    to: Annotated[str, Meta(min_length=1, description="Node at the other end.")]
    resistance: Annotated[float, quantity("ohm", "Of one phase, positive sequence.", ge=0, le=1e4)]
    reactance: Annotated[float, quantity("ohm", "The same.", ge=0, le=1e4)]


class NodeSensitivity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the voltage of one node follows powers that are fed in, in pu per pu; nodes that are not named do nothing."""

    voltage_per_active_power: Annotated[dict[str, float], Meta(description="By the node that feeds in.")]
    voltage_per_reactive_power: Annotated[dict[str, float], Meta(description="By the node that feeds in.")]


BranchTable = dict[str, Branch]
SensitivityTable = dict[str, NodeSensitivity]


class Sensitivities(NamedTuple):
    """dv = resistance @ dp + reactance @ dq, in pu, powers fed in; shapes (n nodes, m assets)."""

    resistance: NDArray[np.float64]
    reactance: NDArray[np.float64]


def nodes_of(branches: Mapping[str, Branch]) -> tuple[str, ...]:
    """All nodes that a branch leads to: all but the feeding point."""
    return tuple(dict.fromkeys(branch.to for branch in branches.values()))


def problems_of(branches: Mapping[str, Branch]) -> Iterator[tuple[str, str]]:
    """Why a table of branches is no tree: the branch and a text."""
    feeds: dict[str, str] = {}
    for name, branch in branches.items():
        if branch.to in feeds:
            yield name, f"node '{branch.to}' is fed by '{feeds[branch.to]}' already: the grid must be radial"
        else:
            feeds[branch.to] = name
    roots = sorted({branch.from_ for branch in branches.values()} - feeds.keys())
    if len(roots) != 1:
        text = f"branches begin at several feeding points: {', '.join(roots)}" if roots else "branches form a ring"
        yield next(iter(branches)), text
        return
    for node, name in feeds.items():
        try:
            _way_to(node, branches, feeds)
        except RecursionError:
            yield name, f"node '{node}' is in a ring that the feeding point does not reach"


def _way_to(node: str, branches: Mapping[str, Branch], feeds: Mapping[str, str]) -> list[str]:
    """Names of the branches from the feeding point to a node. RecursionError in a ring."""
    way: list[str] = []
    while node in feeds:
        way.append(feeds[node])
        node = branches[feeds[node]].from_
        if len(way) > len(branches):
            raise RecursionError(node)
    return way[::-1]


def radial_sensitivities(
    branches: Mapping[str, Branch],
    nodes: Sequence[str],
    feeders: Sequence[str],
    *,
    voltage_base_kv: float,
    power_base_kva: float,
) -> Sensitivities:
    """Of a radial grid near its rated voltage, without losses (LinDistFlow): what two nodes share of the way.

    Source: M. E. Baran, F. F. Wu, Optimal sizing of capacitors placed on a radial distribution system, IEEE
    Transactions on Power Delivery 4(1), 1989.

    >>> line = {"resistance": 0.1, "reactance": 0.05}
    >>> grid = {"l1": Branch(from_="grid", to="a", **line), "l2": Branch(from_="a", to="b", **line)}
    >>> found = radial_sensitivities(grid, ("a", "b"), ("b",), voltage_base_kv=0.4, power_base_kva=100.0)
    >>> found.resistance.ravel().round(6).tolist(), found.reactance.ravel().round(6).tolist()
    ([0.0625, 0.125], [0.03125, 0.0625])
    """
    feeds = {branch.to: name for name, branch in branches.items()}
    ways = {node: frozenset(_way_to(node, branches, feeds)) for node in {*nodes, *feeders}}
    base_ohm = 1e3 * voltage_base_kv**2 / power_base_kva

    def shared(impedance: Mapping[str, float]) -> NDArray[np.float64]:
        table = [[sum(impedance[name] for name in ways[node] & ways[other]) for other in feeders] for node in nodes]
        return np.array(table, dtype=np.float64).reshape(len(nodes), len(feeders)) / base_ohm

    return Sensitivities(
        shared({name: branch.resistance for name, branch in branches.items()}),
        shared({name: branch.reactance for name, branch in branches.items()}),
    )


def given_sensitivities(table: SensitivityTable, nodes: Sequence[str], feeders: Sequence[str]) -> Sensitivities:
    """Those of a table, for instance made by a power-flow program."""

    def part(name: str) -> NDArray[np.float64]:
        rows = [[getattr(table[node], name).get(feeder, 0.0) for feeder in feeders] for node in nodes]
        return np.array(rows, dtype=np.float64).reshape(len(nodes), len(feeders))

    return Sensitivities(part("voltage_per_active_power"), part("voltage_per_reactive_power"))
