"""JSON Schema (draft 2020-12) of flow and site files, for editors' completion and checks outside the project.

Made from the same annotations as the decoding. It knows one file at a time: wiring, types on wires and names of
connections are for the check.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import msgspec

from edgeflex_flow.flowfile.bindings import NUMBER_KEYS, TEXT_KEYS, Bindable, not_bindable
from edgeflex_flow.flowfile.fields import (
    ConfigField,
    Hint,
    config_fields,
    entry_hints,
    fixed_length,
    forms,
    is_list,
    is_mapping,
    is_struct,
    item_hint,
    needs_settings,
    tag_field,
)
from edgeflex_flow.flowfile.plan import BudgetConfig, Limits
from edgeflex_flow.flowfile.settings import SITE_SETTINGS
from edgeflex_flow.flowfile.shape import FLOW_KEYS, NAME, SITE_KEYS
from edgeflex_flow.flowfile.wording import bounds, example
from edgeflex_flow.node import DEFAULT_PORT, AnyNode, ConnectionNode, SinkNode, SourceNode
from edgeflex_flow.policy import POLICIES
from edgeflex_flow.registry import Registry
from edgeflex_flow.units import UNITS

Schema = dict[str, Any]

_NAME_PATTERN = f"^{NAME.pattern}$"
_INTERPOLATED: Schema = {"$ref": "#/$defs/interpolated"}
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"


def json_schema(registry: Registry) -> Schema:
    """The schema of every file that this registry can read; a file with the key `site` is a site file."""
    definitions: Schema = {
        "interpolated": {
            "description": "A text in which `${name}`, `${NAME:-default}` or `${file:PATH}` stands for a value.",
            "type": "string",
            "pattern": r"\$\{[^}]*\}",
        },
        "node_id": {"type": "string", "pattern": _NAME_PATTERN},
        "from_port": {
            "anyOf": [
                {"$ref": "#/$defs/node_id"},
                {"type": "array", "items": {"$ref": "#/$defs/node_id"}, "minItems": 1, "uniqueItems": True},
            ]
        },
        "node": _choice_of_kind([f"node_{kind}" for kind in registry.nodes], list(registry.nodes)),
        "connection": _choice_of_kind(
            [f"connection_{kind}" for kind in registry.connections], list(registry.connections)
        ),
        "flow_file": _flow_file(),
        "site_file": _site_file(),
        **{f"node_{kind}": _kind(node) for kind, node in registry.nodes.items()},
        **{f"connection_{kind}": _kind(node) for kind, node in registry.connections.items()},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edgeflex-flow flow or site file",
        "type": "object",
        "if": {"required": ["site"]},
        "then": {"$ref": "#/$defs/site_file"},
        "else": {"$ref": "#/$defs/flow_file"},
        "$defs": definitions,
    }


def _flow_file() -> Schema:
    return _top(
        FLOW_KEYS,
        {
            "flow": {"type": "string", "pattern": _NAME_PATTERN},
            "about": {"type": ["string", "null"]},
            "params": _params(),
            "labels": _map_of({"type": "string"}, optional=True),
            "limits": _struct(Limits, {}),
            "nodes": {**_map_of({"$ref": "#/$defs/node"}), "minProperties": 1},
            "budgets": {"type": ["array", "null"], "items": _struct(BudgetConfig, {})},
        },
        required=["flow", "nodes"],
    )


def _site_file() -> Schema:
    return _top(
        SITE_KEYS,
        {
            "site": {"type": "string", "pattern": _NAME_PATTERN},
            "flows": {"type": ["array", "null"], "items": {"type": "string", "pattern": _NAME_PATTERN}},
            "labels": _map_of({"type": "string"}, optional=True),
            **{key: _struct(kind, {}) for key, kind in SITE_SETTINGS.items()},
            "connections": _map_of({"$ref": "#/$defs/connection"}, optional=True),
            "params": _params(),
        },
        required=["site"],
    )


def _top(descriptions: dict[str, str], properties: Schema, *, required: list[str]) -> Schema:
    described = {key: {"description": descriptions[key], **schema} for key, schema in properties.items()}
    return {"type": "object", "properties": described, "required": required, "additionalProperties": False}


def _params() -> Schema:
    return {
        "type": ["object", "null"],
        "propertyNames": {"pattern": "^([a-z][a-z0-9_]*|[A-Z_][A-Z0-9_]*)$", "not": {"const": "site"}},
        "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    }


def _map_of(schema: Schema, *, optional: bool = False) -> Schema:
    kind: Any = ["object", "null"] if optional else "object"
    return {"type": kind, "propertyNames": {"pattern": _NAME_PATTERN}, "additionalProperties": schema}


def _choice_of_kind(names: list[str], kinds: list[str]) -> Schema:
    """One of several mappings, chosen by `kind`. With if and then, errors speak of the chosen kind only."""
    return {
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"enum": kinds}},
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": f"#/$defs/{name}"},
            }
            for kind, name in zip(kinds, names, strict=True)
        ],
    }


def _kind(node: AnyNode) -> Schema:
    config: type[msgspec.Struct] = node.config
    fields = config_fields(config)
    bindable = _bindable(node)
    properties: Schema = {"kind": {"const": node.kind, "description": _summary(node)}}
    required = ["kind", *(field.key for field in fields if field.required)]
    if not isinstance(node, SourceNode | ConnectionNode):
        properties["from"] = _from(node)
        required.append("from")
    for field in fields:
        properties[field.key] = _field(field, bindable=bindable)
    return {
        "title": node.kind,
        "description": inspect.cleandoc(node.config.__doc__ or "").partition("\n>>>")[0].strip(),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _bindable(node: AnyNode) -> Bindable:
    if isinstance(node, ConnectionNode):
        return "nothing" if node.family == POLICIES else "url"
    return "nothing of a sink" if isinstance(node, SinkNode) else "settings"


def _summary(node: AnyNode) -> str:
    return _first_paragraph(node.config)


def _first_paragraph(config: type[msgspec.Struct]) -> str:
    return " ".join(inspect.cleandoc(config.__doc__ or "").partition("\n\n")[0].split())


def _from(node: Any) -> Schema:
    port: Schema = {"$ref": "#/$defs/from_port"}
    by_port = {
        "type": "object",
        "properties": dict.fromkeys(node.inputs, port),
        "required": [name for name, each in node.inputs.items() if not each.optional],
        "additionalProperties": False,
        "minProperties": 1,
    }
    forms = [port, by_port] if DEFAULT_PORT in node.inputs else [by_port]
    return {"description": "The nodes that it reads.", **(forms[0] if len(forms) == 1 else {"anyOf": forms})}


def _field(field: ConfigField, *, bindable: Bindable) -> Schema:
    schema = _hint(field.hint)
    if field.hint.noted("table"):
        schema = _any_of({"type": "string", "description": "Path of a YAML file that holds the table."}, schema)
    if (field.hint.numeric or field.hint.textual) and not_bindable(bindable, field) is None:
        schema = _any_of(schema, _policy(field.hint))
    limits = bounds(field.hint) if field.hint.unit else ""
    parts = [field.hint.description, f"{limits[:1].upper()}{limits[1:]}." if limits else ""]
    if field.hint.family:
        parts.append(f"Name of a connection of the family '{field.hint.family}' in the site file.")
    described: Schema = {"description": " ".join(part for part in parts if part), **schema}
    if field.hint.unit:
        described["examples"] = [example(field.hint, field.default)]
    elif not field.required:
        described["default"] = msgspec.json.decode(msgspec.json.encode(field.default))
    return described


def _policy(hint: Hint) -> Schema:
    value = _hint(dataclasses.replace(hint, optional=False))
    name: Schema = {"type": "string", "minLength": 1}
    within, keys = ("min and max", NUMBER_KEYS) if hint.numeric else ("the patterns that are allowed", TEXT_KEYS)
    others: Schema = {"policy": name, "field": name, "allowed": {"type": "array", "items": name, "minItems": 1}}
    return {
        "description": f"Bound to a policy, which may change the value within {within} while the flow runs.",
        "type": "object",
        "properties": {key: others.get(key, value) for key in keys},
        "required": list(keys),
        "additionalProperties": False,
    }


def _any_of(*schemas: Schema) -> Schema:
    flat = [each for schema in schemas for each in (schema["anyOf"] if list(schema) == ["anyOf"] else [schema])]
    return {"anyOf": [each for index, each in enumerate(flat) if each not in flat[:index]]}


def _hint(hint: Hint) -> Schema:
    """Schema of a type: containers taken apart, so that every leaf may be an interpolated text."""
    if forms(hint):
        return _any_of(_forms(forms(hint)), *([{"type": "null"}] if hint.optional else []))
    kinds = [_container(kind, hint) for kind in hint.choices if is_list(kind) or is_mapping(kind) or is_struct(kind)]
    for kind, member in zip(hint.choices, hint.members, strict=True):
        if not (is_list(kind) or is_mapping(kind) or is_struct(kind)):
            kinds.append(_leaf(hint, kind, member))
    if hint.optional:
        kinds.append({"type": "null"})
    return _any_of(*kinds) if len(kinds) > 1 else kinds[0]


def _forms(named: dict[str, type[msgspec.Struct]]) -> Schema:
    """One of several forms: the name of one that needs no settings, or a mapping with its name."""
    tag = tag_field(next(iter(named.values())))
    assert tag is not None
    choices = [
        {
            "if": {"properties": {tag: {"const": name}}, "required": [tag]},
            "then": _struct(kind, {tag: {"const": name, "description": _first_paragraph(kind)}}),
        }
        for name, kind in named.items()
    ]
    mapping: Schema = {
        "type": "object",
        "required": [tag],
        "properties": {tag: {"enum": list(named)}},
        "allOf": choices,
    }
    names = [name for name, kind in named.items() if not needs_settings(kind)]
    return _any_of(*([{"enum": names}] if names else []), _INTERPOLATED, mapping)


def _struct(kind: type[msgspec.Struct], more: Schema) -> Schema:
    fields = config_fields(kind)
    return {
        "type": "object",
        "properties": {**more, **{field.key: _field(field, bindable="nothing") for field in fields}},
        "required": [*more, *(field.key for field in fields if field.required)],
        "additionalProperties": False,
    }


def _container(kind: Any, hint: Hint) -> Schema:
    if is_struct(kind):
        return _struct(kind, {})
    least, most = hint.constraint("min_length"), hint.constraint("max_length")
    if is_mapping(kind):
        limits = {"minProperties": least, "maxProperties": most}
        schema: Schema = {"type": "object", "additionalProperties": _hint(entry_hints(kind)[1])}
    else:
        length = fixed_length(kind)
        limits = {"minItems": least if length is None else length, "maxItems": most if length is None else length}
        items = [_hint(item_hint(kind, index)) for index in range(1 if length is None else length)]
        schema = {"type": "array", **({"items": items[0]} if length is None else {"prefixItems": items})}
    return {**schema, **{name: limit for name, limit in limits.items() if limit is not None}}


def _leaf(hint: Hint, kind: Any, member: Any) -> Schema:
    if hint.unit is not None and kind in (int, float):
        return _any_of(_quantity(hint), _INTERPOLATED)
    (made,), components = msgspec.json.schema_components((member,), ref_template="{name}")
    schema = components[made["$ref"]] if "$ref" in made else made  # enums come by reference
    schema.pop("description", None)
    schema.pop("title", None)
    free_text = schema.get("type") == "string" and not schema.keys() & {"pattern", "enum", "maxLength"}
    return schema if not schema or free_text else _any_of(schema, _INTERPOLATED)


def _quantity(hint: Hint) -> Schema:
    assert hint.unit is not None
    symbols = [unit.symbol for unit in UNITS.values() if unit.dimension == UNITS[hint.unit].dimension]
    choices = "|".join(sorted(symbols, key=len, reverse=True))
    return {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*({choices})\s*$"}
