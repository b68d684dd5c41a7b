"""The page that tells people of the REST interface, made from what the service says of itself to programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from litestar import Controller, Response, get

from edgeflex_services.policy_system.enforce import AnyRequest
from edgeflex_services.policy_system.pages_common import html, visitor_of

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
PARTS = "#/components/schemas/"
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


class Operation(NamedTuple):
    """What can be asked of a path."""

    id: str
    method: str
    path: str
    told: Mapping[str, Any]


class ApiPages(Controller):
    path = "/api"
    include_in_schema = False

    @get("/", sync_to_thread=True)
    def page(self, request: AnyRequest) -> Response[str]:
        schema = request.app.openapi_schema.to_schema()
        return html(
            request,
            "api.html",
            visitor_of(request),
            schema=schema,
            tags=_by_tag(schema),
            parts=sorted(schema.get("components", {}).get("schemas", {}).items()),
            pieces=pieces,
            limits=limits,
        )


def _by_tag(schema: Mapping[str, Any]) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for path, item in schema.get("paths", {}).items():
        for method in METHODS:
            told = item.get(method)
            if told is None:
                continue
            for tag in told.get("tags") or ["other"]:
                name = f"{method}{path}".translate(str.maketrans("/{}.", "----")).strip("-")
                found.setdefault(tag, []).append(Operation(name, method.upper(), path, told))
    return dict(sorted(found.items()))


class Piece(NamedTuple):
    """A bit of how a type is written; `part`: the schema to which it leads."""

    text: str
    part: str = ""


def pieces(schema: Mapping[str, Any]) -> list[Piece]:
    """A type in words.

    >>> "".join(piece.text for piece in pieces({"type": "array", "items": {"$ref": PARTS + "Grant"}}))
    'list of Grant'
    """
    return list(_pieces(schema))


def _pieces(schema: Mapping[str, Any]) -> Iterator[Piece]:
    if "$ref" in schema:
        part = schema["$ref"].removeprefix(PARTS)
        yield Piece(part, part)
        return
    for key in ("oneOf", "anyOf", "allOf"):
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


def limits(schema: Mapping[str, Any]) -> str:
    """What else a value must keep to.

    >>> limits({"type": "string", "maxLength": 5})
    'at most 5 characters'
    """
    told = [text.format(schema[key]) for key, text in _LIMITS.items() if key in schema]
    if schema.get("default") not in (None, "", [], {}):
        told.append(f"otherwise {schema['default']}")
    return ", ".join(told)
