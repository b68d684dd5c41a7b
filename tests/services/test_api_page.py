from __future__ import annotations

import warnings
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from litestar import Litestar
from litestar.exceptions import LitestarDeprecationWarning
from litestar.openapi import OpenAPIConfig

from edgeflex_services.api_page import Document, contents, pieces
from edgeflex_services.policy_system.app import HANDLERS
from edgeflex_services.policy_system.documents import KINDS, read_document, schema_of

KINDS_TOLD = {kind: schema_of(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def policies() -> dict[str, Any]:
    """What the policy system says of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        config = OpenAPIConfig(title="policies", version="1", render_plugins=[])
        schema: dict[str, Any] = Litestar(HANDLERS, openapi_config=config).openapi_schema.to_schema()
    return schema


def bodies(told: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", body["schema"])
        for path, item in told["paths"].items()
        for method, operation in item.items()
        if isinstance(operation, dict) and "requestBody" in operation
        for body in operation["requestBody"]["content"].values()
    ]


def test_the_example_of_each_body_is_one(policies: dict[str, Any]) -> None:
    found = bodies(policies)
    assert len(found) == 10
    for _, schema in found:
        example = Document(policies).example(schema)
        Draft202012Validator({**schema, "components": policies["components"]}).validate(example)


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_each_field_of_a_policy_fits_it(policies: dict[str, Any], kind: str) -> None:
    document = Document(policies, KINDS_TOLD)
    part = document.parts[document.more[kind]]
    for name, inner in part["properties"].items():
        Draft202012Validator({**inner, "$defs": KINDS_TOLD[kind]["$defs"]}).validate(document.example(inner, name))


def test_the_policy_in_the_example_of_what_is_saved_is_one(policies: dict[str, Any]) -> None:
    [schema] = [schema for _, schema in bodies(policies) if schema.get("$ref", "").endswith("/NewVersion")]
    assert read_document(Document(policies).example(schema)["document"]).kind == "operational_bounds"


def test_fields_within_others_stand_below_them_with_unit_type_and_example(policies: dict[str, Any]) -> None:
    fields = {field.path: field for field in Document(policies).fields({"$ref": "#/components/schemas/Reports"})}
    assert list(fields)[:3] == ["reports", "reports[].group", "reports[].asset"]
    time = fields["reports[].time_ns"]
    assert (time.unit, time.required) == ("ns", False)
    assert fields["reports[].group"].required
    assert fields["reports[].action"].example == '"measured"'
    assert [piece.part for piece in pieces(fields["reports"].schema)] == ["", "Report"]


def test_a_schema_that_holds_itself_ends() -> None:
    node = {"type": "object", "properties": {"inner": {"$ref": "#/components/schemas/Node"}}, "required": ["inner"]}
    document = Document({"components": {"schemas": {"Node": node}}})
    found = document.fields({"$ref": "#/components/schemas/Node"})
    assert [field.path for field in found] == ["inner", "inner.inner", "inner.inner.inner", "inner.inner.inner.inner"]
    assert document.example({"$ref": "#/components/schemas/Node"})


def test_what_the_document_says_stays_text() -> None:
    told = {
        "paths": {"/<i>": {"get": {"description": "<script>", "responses": {"200": {"description": "<b>"}}}}},
        "components": {"schemas": {"X": {"properties": {"<u>": {"description": "<s>", "examples": ["<hr>"]}}}}},
    }
    page = contents(told)
    assert not any(each in page for each in ("<i>", "<script>", "<b>", "<u>", "<s>", "<hr>"))


def test_the_page_of_policies_shows_the_fields_of_each_kind(policies: dict[str, Any]) -> None:
    page = contents(policies, KINDS_TOLD)
    for kind in KINDS:
        assert f">{kind}</a>" in page
    for path in ("window_begin", "reports[].values", "document"):
        assert f"<code>{path}</code>" in page
