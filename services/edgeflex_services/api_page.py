"""The page that tells people of a REST interface, made from what the service says of itself to programs.

`contents` is the part that stands within a page of the service's own; `OperationsPage` a page by itself, for services
that have none. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin
from markupsafe import Markup

from edgeflex_flow.units import column_unit

Schema: TypeAlias = Mapping[str, Any]

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
DEEPEST = 4
"""Levels of a body that are shown with it; what lies deeper stands among the schemas."""
MOMENT, MOMENT_NS = "2026-03-01T06:00:00Z", 1_772_344_800_000_000_000
_LIMITS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "maxProperties": "at most {} entries",
    "pattern": "matches {}",
    "format": "{}",
}
_NOTHING: tuple[Any, ...] = (None, "", [], (), {})
_ALTERNATIVES = ("oneOf", "anyOf", "allOf")


class Operation(NamedTuple):
    """What can be asked of a path."""

    id: str
    method: str
    path: str
    told: Schema


class Piece(NamedTuple):
    """A bit of how a type is written; `part`: the schema to which it leads."""

    text: str
    part: str = ""


class Field(NamedTuple):
    """A field of a body, or of a part of one."""

    path: str
    """Such as `reports[].values`."""
    schema: Schema
    unit: str
    required: bool
    example: str
    """As JSON."""


class Document:
    """An OpenAPI document, and schemas of what it does not describe itself."""

    def __init__(self, schema: Schema, more: Mapping[str, Schema] | None = None) -> None:
        self.told = schema
        self.more = {name: _name_of(each) for name, each in (more or {}).items()}
        self.parts: dict[str, Schema] = dict(schema.get("components", {}).get("schemas", {}))
        for each in (more or {}).values():
            self.parts |= each.get("$defs", {})

    def tags(self) -> dict[str, list[Operation]]:
        """What can be asked, by tag."""
        found: dict[str, list[Operation]] = {}
        for path, item in self.told.get("paths", {}).items():
            for method in METHODS:
                told = item.get(method, {})
                for tag in (told.get("tags") or ["operations"]) if told else ():
                    name = f"{method}{path}".translate(str.maketrans("/{}.", "----")).strip("-")
                    found.setdefault(tag, []).append(Operation(name, method.upper(), path, told))
        return dict(sorted(found.items()))

    def plain(self, schema: Schema) -> Schema:
        """A schema without the reference to it, and without null where something else may be too."""
        told = {key: schema[key] for key in ("description", "default", "examples") if key in schema}
        while "$ref" in schema:
            schema = self.parts.get(_name_of(schema), {})
        for key in _ALTERNATIVES:
            some = [each for each in schema.get(key, ()) if each.get("type") != "null"]
            if len(some) == 1:
                rest = {name: value for name, value in schema.items() if name != key}
                return {**self.plain(some[0]), **rest, **told}
        return {**schema, **told}

    def fields(self, schema: Schema, *, deepest: int = DEEPEST) -> list[Field]:
        """The fields of a body, those within others below them."""
        return list(self._fields(schema, "", deepest))

    def _fields(self, schema: Schema, place: str, deepest: int) -> Iterator[Field]:
        plain = self.plain(schema)
        if "items" in plain:
            yield from self._fields(plain["items"], f"{place}[]", deepest)
        elif isinstance(plain.get("additionalProperties"), dict):
            yield from self._fields(plain["additionalProperties"], f"{place}.*" if place else "*", deepest)
        elif deepest:
            for name, inner in plain.get("properties", {}).items():
                path = f"{place}.{name}" if place else name
                example = json.dumps(self.example(inner, name), ensure_ascii=False)
                yield Field(path, inner, unit_of(name), name in plain.get("required", ()), example)
                yield from self._fields(inner, path, deepest - 1)

    def example(self, schema: Schema, name: str = "", *, deepest: int = DEEPEST + 2) -> Any:  # noqa: PLR0911 - one a type
        """A value that fits: one that the schema names, else one made from it."""
        plain = self.plain(schema)
        if plain.get("default") not in _NOTHING:
            return plain["default"]
        if plain.get("examples"):
            return plain["examples"][0]
        if "enum" in plain or "const" in plain:
            return plain["enum"][0] if "enum" in plain else plain["const"]
        for key in _ALTERNATIVES:
            if key in plain:
                return self.example(plain[key][0], name, deepest=deepest)
        match plain.get("type"):
            case "object":
                return self._example_object(plain, deepest)
            case "array":
                return [self.example(plain.get("items", {}), name, deepest=deepest - 1)] if deepest > 0 else []
            case "integer":
                return MOMENT_NS if unit_of(name) == "ns" else max(int(plain.get("minimum", 1)), 1)
            case "number":
                return max(float(plain.get("minimum", 1.0)), min(1.0, plain.get("maximum", 1.0)))
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return MOMENT if plain.get("format") == "date-time" else "text"

    def _example_object(self, plain: Schema, deepest: int) -> dict[str, Any]:
        if deepest <= 0:
            return {}
        properties: Schema = plain.get("properties", {})
        if isinstance(plain.get("additionalProperties"), dict) and not properties:
            return {"name": self.example(plain["additionalProperties"], deepest=deepest - 1)}
        needed = plain.get("required") or list(properties)[:1]
        told = {
            name: self.example(inner, name, deepest=deepest - 1)
            for name, inner in properties.items()
            if name in needed or self.plain(inner).get("examples")
        }
        tag = plain.get("discriminator", {}).get("propertyName")
        return told if tag is None or tag in told else {tag: "text", **told}


def _name_of(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def unit_of(name: str) -> str:
    """The unit that the name of a field ends in; empty if it has none.

    >>> unit_of("energy_kwh"), unit_of("time_ns"), unit_of("group")
    ('kWh', 'ns', '')
    """
    if name.endswith("_ns"):
        return "ns"
    unit = column_unit(name) if "_" in name else None
    return "" if unit is None else unit.symbol


def pieces(schema: Schema) -> list[Piece]:
    """A type in words.

    >>> "".join(piece.text for piece in pieces({"type": "array", "items": {"$ref": "#/components/schemas/Grant"}}))
    'list of Grant'
    """
    return list(_pieces(schema))


def _pieces(schema: Schema) -> Iterator[Piece]:
    if "$ref" in schema:
        yield Piece(_name_of(schema), _name_of(schema))
        return
    for key in _ALTERNATIVES:
        if key in schema:
            for at, option in enumerate(schema[key]):
                if at:
                    yield Piece(" or " if key != "allOf" else " and ")
                yield from _pieces(option)
            return
    if "enum" in schema or "const" in schema:
        yield Piece(" | ".join(str(each) for each in schema.get("enum", [schema.get("const")])))
        return
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        yield Piece(" or ".join(kind))
    elif kind == "array":
        yield Piece("list of ")
        yield from _pieces(schema.get("items", {}))
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        yield Piece("object of ")
        yield from _pieces(schema["additionalProperties"])
    else:
        yield Piece(kind)


def limits(schema: Schema) -> str:
    """What else a value must keep to.

    >>> limits({"type": "string", "maxLength": 5})
    'at most 5 characters'
    """
    told = [text.format(_shown(schema[key])) for key, text in _LIMITS.items() if key in schema]
    if schema.get("default") not in _NOTHING:
        told.append(f"otherwise {schema['default']}")
    return ", ".join(told)


def _shown(limit: Any) -> str:
    return f"{limit:.15g}" if isinstance(limit, float) else str(limit)


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals |= {"pieces": pieces, "limits": limits}
_TEMPLATES.filters["as_json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)


def contents(schema: Schema, more: Mapping[str, Schema] | None = None) -> Markup:
    """What a page tells of the interface. `more`: schemas of what bodies hold as plain objects, by name."""
    text = _TEMPLATES.get_template("operations.html").render(document=Document(schema, more))
    return Markup(text)  # noqa: S704 - the template escapes what it is given


class OperationsPage(OpenAPIRenderPlugin):
    """Served at the path of the OpenAPI document itself."""

    def __init__(self) -> None:
        super().__init__(path=["/", "/operations"])

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        del request
        page = _TEMPLATES.get_template("operations_page.html")
        return page.render(schema=openapi_schema, contents=contents(openapi_schema)).encode()
