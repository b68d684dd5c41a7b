"""Places for the boxes of a drawn flow: layers from left to right, few crossings, straight wires where possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SWEEPS = 8
"""Passes over the layers, left to right and back; drawings of some dozen nodes do not change after that."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything stands: the layer of each node, its height, and the bends of wires that pass layers."""

    layers: tuple[tuple[str, ...], ...]
    """Node ids by layer, top to bottom."""
    row: Mapping[str, float]
    """Vertical place of each node, in rows."""
    bends: Mapping[tuple[str, str], tuple[float, ...]]
    """For a wire (from, to): its row in each layer that it passes between its ends."""


def lay_out(upstream: Mapping[str, Sequence[str]], room: Mapping[str, float] | None = None) -> Layout:
    """Lay out an acyclic graph. `upstream` gives for each node those it reads, in topological order; `room`, how many
    rows a box takes, if not one.

    >>> lay_out({"a": [], "b": ["a"], "c": ["a", "b"]}).layers
    (('a',), ('b',), ('c',))
    """
    depth = _depths(upstream)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for node, layer in depth.items():
        layers[layer].append(node)
    links, chains = _links(upstream, depth, layers)
    for sweep in range(_SWEEPS):
        _sort_layers(layers, links, forward=sweep % 2 == 0)
    row = _rows(layers, links, room or {})
    return Layout(
        layers=tuple(tuple(name for name in layer if name in depth) for layer in layers),
        row={node: row[node] for node in depth},
        bends={wire: tuple(row[name] for name in chain) for wire, chain in chains.items()},
    )


def _depths(upstream: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Layer of each node: one right of the rightmost that it reads; those that read nothing, left of their readers."""
    depth: dict[str, int] = {}
    for node, sources in upstream.items():
        depth[node] = 1 + max((depth[source] for source in sources), default=-1)
    for node, sources in upstream.items():
        readers = [depth[reader] for reader, read in upstream.items() if node in read]
        if not sources and readers:
            depth[node] = min(readers) - 1
    return depth


Links = dict[str, tuple[list[str], list[str]]]
"""For each node or bend: what lies left of it, and right."""


def _links(
    upstream: Mapping[str, Sequence[str]], depth: Mapping[str, int], layers: list[list[str]]
) -> tuple[Links, dict[tuple[str, str], list[str]]]:
    """Links between neighbouring layers. Wires that pass a layer get a bend there, which takes a place of its own."""
    links: Links = {node: ([], []) for node in depth}
    chains: dict[tuple[str, str], list[str]] = {}
    for node, sources in upstream.items():
        for source in sources:
            chain = [f"{source} {layer} {node}" for layer in range(depth[source] + 1, depth[node])]
            chains[source, node] = chain
            for layer, bend in enumerate(chain, depth[source] + 1):
                layers[layer].append(bend)
                links[bend] = ([], [])
            for left, right in zip([source, *chain], [*chain, node], strict=True):
                links[left][1].append(right)
                links[right][0].append(left)
    return links, chains


def _sort_layers(layers: list[list[str]], links: Links, *, forward: bool) -> None:
    """Sort each layer by the mean place of its neighbours in the layer before (the barycentre method)."""
    side = 0 if forward else 1
    for layer in layers if forward else reversed(layers):
        place = {name: index for each in layers for index, name in enumerate(each)}
        mean = {
            name: sum(place[other] for other in links[name][side]) / len(links[name][side])
            if links[name][side]
            else place[name]
            for name in layer
        }
        layer.sort(key=mean.__getitem__)


_ROOM_OF_BEND = 0.4
"""A wire that passes a layer needs less room there than a box, which takes 1."""


def _rows(layers: list[list[str]], links: Links, rooms: Mapping[str, float]) -> dict[str, float]:
    """Rows near those of the neighbours, far enough apart within a layer."""
    row = {name: index - (len(layer) - 1) / 2 for layer in layers for index, name in enumerate(layer)}
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = [_mean_row(name, row, links) for name in layer]
            room = [_ROOM_OF_BEND if " " in name else rooms.get(name, 1.0) for name in layer]
            row.update(zip(layer, _spread(wanted, room), strict=True))
    lowest = min(row.values(), default=0.0)
    return {name: at - lowest for name, at in row.items()}


def _mean_row(name: str, row: Mapping[str, float], links: Links) -> float:
    neighbours = [*links[name][0], *links[name][1]]
    return sum(row[other] for other in neighbours) / len(neighbours) if neighbours else row[name]


def _spread(wanted: Sequence[float], room: Sequence[float]) -> list[float]:
    """Places in the same order, as near to the wanted ones as the room that each takes allows.

    >>> _spread([0.0, 0.0, 5.0], [1.0, 1.0, 1.0])
    [-0.5, 0.5, 5.0]
    """
    # Measured without the room they take, places need only not decrease. Each group stands as a block; blocks that
    # overlap become one, at the mean of what its members want.
    offset = [sum(room[:index]) + each / 2 for index, each in enumerate(room)]
    offset = [each - offset[0] for each in offset]
    groups: list[tuple[float, int]] = []
    for want, taken in zip(wanted, offset, strict=True):
        groups.append((want - taken, 1))
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (a, n), (b, m) = groups[-2:]
            groups[-2:] = [((a * n + b * m) / (n + m), n + m)]
    starts = [start for start, count in groups for _ in range(count)]
    return [start + taken for start, taken in zip(starts, offset, strict=True)]
