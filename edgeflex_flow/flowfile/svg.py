"""A flow as a self-contained SVG picture, readable on light and dark pages."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from edgeflex_flow.flowfile.graph import kind_words, output_wires, role
from edgeflex_flow.flowfile.layout import Layout, lay_out
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.flowfile.wires import describe
from edgeflex_flow.node import DEFAULT_PORT, Wire

_BOX_HEIGHT = 56.0
_LEAST_BOX_WIDTH = 116.0
_ROW_PITCH = 104.0
_CURVE = 64.0
"""Room between layers in which wires change their height."""
_MARGIN = 28.0
_HEAD = 76.0
"""Room above the drawing for the title."""
_LABEL_CHARACTERS = 26
_LABEL_LINES = 3

_ID_WIDTH, _KIND_WIDTH, _LABEL_WIDTH, _TITLE_WIDTH = 8.4, 6.9, 6.3, 11.0
"""Width of a character, wide enough for the fonts that browsers fall back to."""

_STYLE = """\
text{font-family:ui-sans-serif,system-ui,-apple-system,'Segoe UI','DejaVu Sans',Helvetica,Arial,sans-serif;fill:#0f172a}
.page{fill:#ffffff}.title{font-size:18px;font-weight:650}.about{font-size:12.5px;fill:#475569}
.id{font-size:14px;font-weight:600}.kind{font-size:11.5px;fill:#475569}
.label{font-size:10.5px;fill:#475569;stroke:#ffffff;stroke-width:4px;paint-order:stroke;stroke-linejoin:round}
.name{font-weight:600;fill:#334155}
.wire{fill:none;stroke:#94a3b8;stroke-width:1.6}.dot{stroke:#ffffff;stroke-width:1.5;fill:#64748b}
.box{stroke-width:1.5}.source .box{fill:#f0fdfa;stroke:#0d9488}.operator .box{fill:#eef2ff;stroke:#6366f1}
.sink .box{fill:#fffbeb;stroke:#d97706}.letters .box{fill:#f8fafc;stroke:#94a3b8;stroke-dasharray:5 4}
.source .bar{fill:#0d9488}.operator .bar{fill:#6366f1}.sink .bar{fill:#d97706}.letters .bar{fill:#94a3b8}
.wire.added{stroke:#16a34a;stroke-width:2.6}.wire.removed{stroke:#dc2626;stroke-width:2;stroke-dasharray:6 5}
.added .box{stroke:#16a34a;stroke-width:3}.changed .box{stroke:#ca8a04;stroke-width:3}
.removed .box{stroke:#dc2626;stroke-width:2.5;stroke-dasharray:6 5}.removed .id{text-decoration:line-through}
@media (prefers-color-scheme:dark){
text{fill:#f1f5f9}.page{fill:#0f172a}.about,.kind{fill:#94a3b8}.label{fill:#94a3b8;stroke:#0f172a}.name{fill:#cbd5e1}
.wire{stroke:#64748b}.dot{stroke:#0f172a;fill:#94a3b8}
.source .box{fill:#0b2b2b;stroke:#2dd4bf}.operator .box{fill:#1e1f4b;stroke:#818cf8}
.sink .box{fill:#3a2708;stroke:#fbbf24}.letters .box{fill:#1e293b;stroke:#64748b}
.source .bar{fill:#2dd4bf}.operator .bar{fill:#818cf8}.sink .bar{fill:#fbbf24}.letters .bar{fill:#64748b}
}"""


class _Marks(NamedTuple):
    nodes: Mapping[str, str]
    wires: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Box:
    """A node as it is drawn."""

    id: str
    kind: str
    role: str
    ports: tuple[str, ...]
    labels: tuple[tuple[str, tuple[str, ...]], ...]
    """What it gives: (message, lines of columns)."""
    read: bool
    """Whether a wire leaves it."""
    x: float = 0.0
    y: float = 0.0
    """Middle of its left edge."""
    width: float = _LEAST_BOX_WIDTH

    @property
    def right(self) -> float:
        return self.x + self.width

    def port_y(self, port: str) -> float:
        step = _BOX_HEIGHT / (len(self.ports) + 1)
        return self.y - _BOX_HEIGHT / 2 + step * (self.ports.index(port) + 1)

    @property
    def lead_in(self) -> float:
        """Room left of the box for the names of its ports."""
        names = [port for port in self.ports if port != DEFAULT_PORT]
        return 12 + _LABEL_WIDTH * max((len(name) for name in names), default=0)

    @property
    def lead_out(self) -> float:
        """Room right of the box for what it gives."""
        if not self.read:
            return 0.0
        texts = [text for name, lines in self.labels for text in (name, *lines)]
        return 20 + _LABEL_WIDTH * max((len(text) for text in texts), default=0)


def to_svg(plan: Plan, *, nodes: Mapping[str, str] | None = None, wires: Mapping[str, str] | None = None) -> str:
    """The flow as the text of an SVG file: boxes by role, wires with what they carry.

    `nodes` and `wires` (`source -> reader.port`): how some of them are marked, `added`, `removed` or `changed`.
    """
    marks = _Marks(nodes or {}, wires or {})
    layout = lay_out(upstream(plan))
    boxes, widths = _place(plan, layout)
    width = max([sum(widths) + 2 * _MARGIN, 2 * _MARGIN + _TITLE_WIDTH * len(plan.name) + 260])
    about = textwrap.wrap(plan.about, int((width - 2 * _MARGIN) / 6.6))[:2]
    width = max(width, 2 * _MARGIN + 260)
    bottom = max((box.y for box in boxes.values()), default=_HEAD) + _ROW_PITCH / 2
    passing = [_row_y(row) + 20 for rows in layout.bends.values() for row in rows]
    height = max([bottom, *passing]) + _MARGIN / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">',
        f"<title>{escape(plan.name)}</title>",
        f"<style>{_STYLE}</style>",
        '<rect class="page" width="100%" height="100%" rx="12"/>',
        f'<text class="title" x="{_MARGIN}" y="38">{escape(plan.name)}</text>',
        *(f'<text class="about" x="{_MARGIN}" y="{58 + 15 * i}">{escape(line)}</text>' for i, line in enumerate(about)),
        *_legend(width),
        *_wires(plan, layout, boxes, marks.wires),
        *(part for box in boxes.values() for part in _draw(box, marks.nodes.get(box.id, ""))),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def upstream(plan: Plan) -> dict[str, list[str]]:
    """For each node those it reads; wires of the flow itself are drawn as nodes when somebody reads them."""
    drawn: dict[str, list[str]] = {name: [] for name in plan.flow_wires}
    for node in plan.nodes:
        drawn[node.id] = list(dict.fromkeys(source for sources in node.inputs.values() for source in sources))
    return drawn


def _labels(wire: Wire | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if wire is None:
        return (("?", ()),)
    labels = []
    for text in describe(wire, most_columns=6):
        name, _, columns = text.partition(" · ")
        lines = textwrap.wrap(columns, _LABEL_CHARACTERS, break_long_words=False)
        if len(lines) > _LABEL_LINES:
            lines = [*lines[: _LABEL_LINES - 1], f"{lines[_LABEL_LINES - 1].rstrip(',')}, …"]
        labels.append((name, tuple(lines)))
    return tuple(labels)


def _row_y(row: float) -> float:
    return _HEAD + _ROW_PITCH * (row + 0.5)


def _place(plan: Plan, layout: Layout) -> tuple[dict[str, _Box], list[float]]:
    """Boxes with their places, and the width that each layer takes with the wires right of it."""
    wires = output_wires(plan)
    nodes = {node.id: node for node in plan.nodes}
    plain: dict[str, _Box] = {}
    for name in layout.row:
        node = nodes.get(name)
        kind = kind_words(node) if node else "from all nodes"
        plain[name] = _Box(
            id=name,
            kind=kind,
            role=role(node) if node else "letters",
            ports=tuple(node.inputs) if node else (),
            labels=_labels(wires[name]),
            read=bool(plan.readers(name)),
            y=_row_y(layout.row[name]),
            width=max(
                _LEAST_BOX_WIDTH, 34 + _ID_WIDTH * len(name), 34 + _KIND_WIDTH * len(kind_words(node) if node else "")
            ),
        )
    boxes: dict[str, _Box] = {}
    widths: list[float] = []
    x = _MARGIN
    for index, layer in enumerate(layout.layers):
        column = max((plain[name].width for name in layer), default=_LEAST_BOX_WIDTH)
        for name in layer:
            boxes[name] = _moved(plain[name], x, column)
        following = layout.layers[index + 1] if index + 1 < len(layout.layers) else ()
        out = max((plain[name].lead_out for name in layer), default=0.0)
        into = max((plain[name].lead_in for name in following), default=0.0)
        last = index + 1 == len(layout.layers)
        widths.append(column + (0 if last else out + into + _CURVE))
        x += widths[-1]
    return boxes, widths


def _moved(box: _Box, x: float, width: float) -> _Box:
    return _Box(
        box.id, box.kind, box.role, ports=box.ports, labels=box.labels, read=box.read, x=x, y=box.y, width=width
    )


def _wires(plan: Plan, layout: Layout, boxes: Mapping[str, _Box], marks: Mapping[str, str]) -> Iterator[str]:
    """Wires, each from an output's trunk (where the label stands) through its bends to an input port."""
    starts = [min(boxes[name].x for name in layer) for layer in layout.layers]
    leaves = [max(boxes[name].right + boxes[name].lead_out for name in layer) for layer in layout.layers]
    enters = [min(boxes[name].x - boxes[name].lead_in for name in layer) for layer in layout.layers]
    layer_of = {name: index for index, layer in enumerate(layout.layers) for name in layer}
    for node in plan.nodes:
        for port, sources in node.inputs.items():
            for source in sources:
                a, b = boxes[source], boxes[node.id]
                path = [f"M{a.right:.1f} {a.y:.1f}H{leaves[layer_of[source]]:.1f}"]
                x, y = leaves[layer_of[source]], a.y
                passed = range(layer_of[source] + 1, layer_of[node.id])
                for layer, row in zip(passed, layout.bends[source, node.id], strict=True):
                    path.append(curve(x, y, enters[layer], _row_y(row)))
                    path.append(f"H{leaves[layer]:.1f}")
                    x, y = leaves[layer], _row_y(row)
                path.append(curve(x, y, enters[layer_of[node.id]], b.port_y(port)))
                path.append(f"H{starts[layer_of[node.id]]:.1f}")
                mark = marks.get(wire_name(source, node.id, port), "")
                yield f'<path class="wire{mark and f" {mark}"}" d="{"".join(path)}"/>'


def curve(x: float, y: float, to_x: float, to_y: float) -> str:
    """A wire from one height to another, level at both ends, as the next part of a path."""
    middle = (x + to_x) / 2
    return f"C{middle:.1f} {y:.1f} {middle:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"


def wire_name(source: str, reader: str, port: str) -> str:
    """A wire as people name it.

    >>> wire_name("pmu", "rocof", "in"), wire_name("pmu", "guard", "status")
    ('pmu -> rocof', 'pmu -> guard.status')
    """
    return f"{source} -> {reader}" + ("" if port == DEFAULT_PORT else f".{port}")


def _draw(box: _Box, mark: str) -> Iterator[str]:
    top = box.y - _BOX_HEIGHT / 2
    yield f'<g class="{box.role}{mark and f" {mark}"}">'
    yield f'<rect class="box" x="{box.x:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{_BOX_HEIGHT}" rx="10"/>'
    yield f'<rect class="bar" x="{box.x + 9:.1f}" y="{top + 13:.1f}" width="3.5" height="{_BOX_HEIGHT - 26}" rx="1.7"/>'
    yield f'<text class="id" x="{box.x + 22:.1f}" y="{box.y - 3:.1f}">{escape(box.id)}</text>'
    yield f'<text class="kind" x="{box.x + 22:.1f}" y="{box.y + 15:.1f}">{escape(box.kind)}</text>'
    for port in box.ports:
        y = box.port_y(port)
        yield f'<circle class="dot" cx="{box.x:.1f}" cy="{y:.1f}" r="4.5"/>'
        if port != DEFAULT_PORT:
            yield f'<text class="label" text-anchor="end" x="{box.x - 9:.1f}" y="{y - 4:.1f}">{escape(port)}</text>'
    if box.read:
        yield f'<circle class="dot" cx="{box.right:.1f}" cy="{box.y:.1f}" r="4.5"/>'
        yield from _draw_labels(box)
    yield "</g>"


def _draw_labels(box: _Box) -> Iterator[str]:
    """What the node gives: names of messages above its wire, columns below."""
    x = box.right + 12
    for index, (name, _) in enumerate(reversed(box.labels)):
        yield f'<text class="label name" x="{x:.1f}" y="{box.y - 7 - 13 * index:.1f}">{escape(name)}</text>'
    columns = [line for _, lines in box.labels for line in lines]
    for index, line in enumerate(columns):
        yield f'<text class="label" x="{x:.1f}" y="{box.y + 15 + 13 * index:.1f}">{escape(line)}</text>'


def _legend(width: float) -> Iterator[str]:
    x = width - _MARGIN - 216
    for name in ("source", "operator", "sink"):
        yield f'<g class="{name}"><rect class="bar" x="{x:.1f}" y="28" width="11" height="11" rx="3"/></g>'
        yield f'<text class="about" x="{x + 17:.1f}" y="38">{name}</text>'
        x += 34 + 7.4 * len(name)
