"""A flow as the live page draws it: boxes and wires with their places, and all that is known of a node beforehand."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from edgeflex_flow.flowfile.fields import ConfigField, config_fields, secret_keys, tag_field
from edgeflex_flow.flowfile.graph import kind_words, output_wires, role
from edgeflex_flow.flowfile.layout import lay_out
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.flowfile.report import Secret
from edgeflex_flow.flowfile.secrecy import HIDDEN, SecretKeys, without_user
from edgeflex_flow.flowfile.svg import curve, upstream
from edgeflex_flow.flowfile.wires import describe
from edgeflex_flow.flowfile.wording import format_quantity
from edgeflex_flow.node import DEFAULT_PORT, OpenConnection

ROW_PITCH = 96.0
BOX_HEIGHT = 60.0
WIRE_PITCH = 26.0
"""Room of a wire where it enters a box, with what is told about it above."""
LEAST_BOX_WIDTH = 132.0
LEAD_IN = 140.0
"""Straight end of each wire, above which its rate stands."""
CURVE = 56.0
MARGIN = 24.0
ID_WIDTH, KIND_WIDTH = 8.6, 7.2
"""Of a character, wide enough for the fonts that browsers fall back to."""
LONGEST_VALUE = 400


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A setting of a node, as people write it."""

    name: str
    value: str
    is_default: bool
    about: str
    policy: str = ""
    """`policy.field` that it is bound to; empty if to none."""


class PictureNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node, and the place of its box."""

    id: str
    kind: str
    words: str
    """The kind, and which policies it heeds."""
    role: str
    x: float
    y: float
    """Upper left corner."""
    width: float
    height: float
    gives: tuple[str, ...]
    """What its output carries: message types, and columns of samples."""
    settings: tuple[Setting, ...]
    connections: dict[str, str]
    """By setting, name and kind of the connection that it names, and its URL if it has one."""
    manual: str
    line: int
    """In the flow file; 0 for wires of the flow itself, which are drawn as nodes."""


class PictureWire(msgspec.Struct, frozen=True, kw_only=True):
    """A wire, and the path by which it is drawn."""

    id: str
    """As counters name it, `pmu -> rocof.in`."""
    source: str
    reader: str
    port: str
    path: str
    x: float
    y: float
    """Where its end begins that is straight: what is told about it stands from there on, above it."""


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A flow as it is drawn."""

    flow: str
    about: str
    file: str
    width: float
    height: float
    nodes: tuple[PictureNode, ...]
    wires: tuple[PictureWire, ...]


class _Place(NamedTuple):
    """Of a box: its left edge, its middle, how wide and how high it is."""

    left: float
    middle: float
    width: float
    height: float

    @property
    def top(self) -> float:
        return self.middle - self.height / 2


def picture_of(plan: Plan) -> Picture:
    """The picture of a flow. Shows no secret."""
    drawing = _Drawing(plan)
    nodes = {each.id: each for each in plan.nodes}
    carried = {name: () if wire is None else tuple(describe(wire)) for name, wire in output_wires(plan).items()}
    secrets = secret_keys([type(node.config) for node in plan.nodes])
    return Picture(
        flow=plan.name,
        about=plan.about,
        file=str(plan.file),
        width=drawing.width,
        height=drawing.height,
        nodes=tuple(
            _node(nodes[name], place, carried[name], secrets)
            if name in nodes
            else _flow_wire(name, place, carried[name])
            for name, place in drawing.places.items()
        ),
        wires=tuple(drawing.wires()),
    )


class _Drawing:
    """Where everything stands."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        read = upstream(plan)
        entering = {node.id: sum(len(sources) for sources in node.inputs.values()) for node in plan.nodes}
        heights = {name: max(BOX_HEIGHT, 16 + WIRE_PITCH * entering.get(name, 0)) for name in read}
        between = ROW_PITCH - BOX_HEIGHT
        layout = lay_out(read, {name: (height + between) / ROW_PITCH for name, height in heights.items()})
        nodes = {node.id: node for node in plan.nodes}
        widths = {name: _box_width(name, nodes.get(name)) for name in read}
        self._layout = layout
        self._layer = {name: index for index, layer in enumerate(layout.layers) for name in layer}
        lowest = min((ROW_PITCH * row - heights[name] / 2 for name, row in layout.row.items()), default=0.0)
        bends = [ROW_PITCH * row - WIRE_PITCH for rows in layout.bends.values() for row in rows]
        self._shift = MARGIN - min([lowest, *bends])
        self._lefts: list[float] = []
        self._rights: list[float] = []
        x = MARGIN
        for index, layer in enumerate(layout.layers):
            widest = max((widths[name] for name in layer), default=LEAST_BOX_WIDTH)
            self._lefts.append(x)
            self._rights.append(x + widest)
            x += widest + (CURVE + LEAD_IN if index + 1 < len(layout.layers) else 0.0)
        self.places = {
            name: _Place(
                self._lefts[self._layer[name]],
                self._y(row),
                self._rights[self._layer[name]] - self._lefts[self._layer[name]],
                heights[name],
            )
            for name, row in layout.row.items()
        }
        self.width = x + MARGIN
        bottoms = [place.top + place.height for place in self.places.values()]
        passing = [self._y(row) for rows in layout.bends.values() for row in rows]
        self.height = MARGIN + max([*bottoms, *passing], default=0)

    def _y(self, row: float) -> float:
        return ROW_PITCH * row + self._shift

    def wires(self) -> Iterator[PictureWire]:
        for node in self._plan.nodes:
            ends = [(port, source) for port, sources in node.inputs.items() for source in sources]
            # Those that come from above enter above, so that they do not cross.
            ends.sort(key=lambda end: self._comes_from(end[1], node.id))
            place = self.places[node.id]
            first = place.middle - WIRE_PITCH * (len(ends) - 1) / 2
            for index, (port, source) in enumerate(ends):
                yield self._wire(source, node.id, port, first + WIRE_PITCH * index + (6 if len(ends) > 1 else 0))

    def _comes_from(self, source: str, reader: str) -> float:
        bends = self._layout.bends[source, reader]
        return self._y(bends[-1]) if bends else self.places[source].middle

    def _wire(self, source: str, reader: str, port: str, to_y: float) -> PictureWire:
        begin, end = self.places[source], self.places[reader]
        x, y = self._rights[self._layer[source]], begin.middle
        path = [f"M{x:.1f} {y:.1f}"]
        passed = range(self._layer[source] + 1, self._layer[reader])
        for layer, row in zip(passed, self._layout.bends[source, reader], strict=True):
            path.append(curve(x, y, self._lefts[layer] - LEAD_IN, self._y(row)))
            path.append(f"H{self._rights[layer]:.1f}")
            x, y = self._rights[layer], self._y(row)
        path.append(curve(x, y, end.left - LEAD_IN, to_y))
        path.append(f"H{end.left:.1f}")
        name = f"{source} -> {reader}.{port}"
        return PictureWire(
            id=name,
            source=source,
            reader=reader,
            port="" if port == DEFAULT_PORT else port,
            path="".join(path),
            x=end.left - LEAD_IN,
            y=to_y,
        )


def _box_width(name: str, node: PlannedNode | None) -> float:
    words = "of all nodes" if node is None else node.node.kind
    return max(LEAST_BOX_WIDTH, 44 + ID_WIDTH * len(name), 44 + KIND_WIDTH * len(words))


def _flow_wire(name: str, place: _Place, gives: tuple[str, ...]) -> PictureNode:
    return PictureNode(
        id=name,
        kind="",
        words="of all nodes",
        role="letters",
        x=place.left,
        y=place.top,
        width=place.width,
        height=place.height,
        gives=gives,
        settings=(),
        connections={},
        manual="What comes of all nodes of the flow.",
        line=0,
    )


def _node(node: PlannedNode, place: _Place, gives: tuple[str, ...], secrets: SecretKeys) -> PictureNode:
    return PictureNode(
        id=node.id,
        kind=node.node.kind,
        words=kind_words(node),
        role=role(node),
        x=place.left,
        y=place.top,
        width=place.width,
        height=place.height,
        gives=gives,
        settings=tuple(_setting(node, field, secrets) for field in config_fields(type(node.config))),
        connections={field: _connection(each, secrets) for field, each in node.connections.items()},
        manual=inspect.cleandoc(type(node.config).__doc__ or ""),
        line=node.line,
    )


def _connection(connection: OpenConnection, secrets: SecretKeys) -> str:
    """What people know it by; of its URL neither user nor what is asked."""
    config = connection.config
    words = f"{connection.name} ({connection.node.kind})"
    field = next((each for each in config_fields(type(config)) if each.key == "url"), None)
    url = None if field is None or hides(config, field) else getattr(config, field.name)
    return words if url is None else f"{words}, {in_file_words(url.partition('?')[0], None, secrets)}"


def hides(config: msgspec.Struct, field: ConfigField) -> bool:
    """Whether a setting is a secret."""
    value = getattr(config, field.name)
    return value is not None and (field.hint.noted("secret") or isinstance(value, Secret))


def _setting(node: PlannedNode, field: ConfigField, secrets: SecretKeys) -> Setting:
    value = getattr(node.config, field.name)
    binding = node.policies.get(field.name)
    return Setting(
        name=field.key,
        value=HIDDEN if hides(node.config, field) else in_file_words(value, field.hint.unit, secrets),
        is_default=not field.required and value == field.default,
        about=field.hint.description,
        policy="" if binding is None else binding.key,
    )


def in_file_words(value: Any, unit: str | None, secrets: SecretKeys) -> str:
    """A value as it would stand in a flow file, without secrets, cut where it is long."""
    if value is None:
        return "none"
    if unit is not None and isinstance(value, int | float) and not isinstance(value, bool):
        return format_quantity(value, unit)
    plain = _plain(value, secrets)
    text = plain if isinstance(plain, str) and plain else msgspec.json.encode(plain).decode()
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _plain(value: Any, secrets: SecretKeys) -> Any:
    """As JSON has it, without what its type, where it comes from or its key tells to be a secret."""
    if isinstance(value, Secret):
        return HIDDEN
    if isinstance(value, msgspec.Struct):
        fields = config_fields(type(value))
        told = {
            each.key: HIDDEN if hides(value, each) else _plain(getattr(value, each.name), secrets) for each in fields
        }
        tag = tag_field(type(value))
        return told if tag is None else {tag: value.__struct_config__.tag, **told}
    if isinstance(value, Mapping):
        return {
            str(key): HIDDEN if secrets.name_secret(str(key)) else _plain(each, secrets) for key, each in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each, secrets) for each in value]
    plain = msgspec.to_builtins(value, enc_hook=str)
    return without_user(plain) if isinstance(plain, str) else plain
