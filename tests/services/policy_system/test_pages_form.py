from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgeflex_services.policy_system.documents import KINDS, DocumentError, read_document, schema_of
from edgeflex_services.policy_system.pages_form import FormSchema, Node, added, indices, is_rows, moved_up, removed
from edgeflex_services.policy_system.pages_templates import document_to_begin_with

EVERYTHING: dict[str, Any] = {
    "kind": "sharing",
    "about": "All that a document can hold,\nin two lines.",
    "asset_id": "feeder_3",
    "valid_from": "2026-03-01T06:00:00+01:00",
    "valid_until": "2027-03-01T06:00:00Z",
    "fields": {"variables": ["frequency_hz", "voltage_*"]},
    "rules": [
        {
            "name": "night",
            "effect": "deny",
            "about": "Not at night.",
            "when": {
                "actions": ["read_data"],
                "users": ["vpp_*", "other"],
                "groups": ["vpp"],
                "assets": ["feeder_*"],
                "begins": "2026-03-01T06:00:00Z",
                "ends": "2026-04-01T06:00:00Z",
                "since": "22:00",
                "until": "06:00",
                "days": ["mon", "sun"],
                "timezone": "Europe/Berlin",
                "state": [
                    {"quantity": "voltage_pu", "above": "1.1 pu", "magnitude": True, "max_age": "5s"},
                    {"quantity": "requests_count", "below": 5.0},
                ],
            },
            "then": {"do": "revoke_access", "user": "vpp_1"},
        },
        {"name": "day", "effect": "permit", "then": {"do": "return_data", "quantities": ["*"]}},
    ],
}
OFFERS = {"kind": "flexibility", "fields": {"max_power": "5 kW", "endpoint": "/api/v1/edgeflex/offers"}}


def form_of(document: dict[str, Any]) -> tuple[FormSchema, dict[str, list[str]]]:
    form = FormSchema(schema_of(document["kind"]))
    return form, form.texts(msgspec.to_builtins(read_document(document)))


def every_node(nodes: tuple[Node, ...]) -> list[Node]:
    return [each for node in nodes for each in (node, *every_node(node.children))]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_new_policy_begins_with_is_a_policy(kind: str) -> None:
    assert read_document(document_to_begin_with(kind)).kind == kind


@pytest.mark.parametrize(
    "document",
    [EVERYTHING, OFFERS, *(document_to_begin_with(kind) for kind in KINDS)],
    ids=["everything", "offers", *KINDS],
)
def test_a_document_comes_out_of_its_form_as_it_went_in(document: dict[str, Any]) -> None:
    form, raw = form_of(document)
    reading = form.read(raw)
    assert reading.problems == []
    assert read_document(reading.document) == read_document(document)


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_has_a_control_for_each_part_of_the_schema(kind: str) -> None:
    form, raw = form_of(document_to_begin_with(kind))
    names = {node.name for node in form.nodes(raw, {})}
    schema = schema_of(kind)
    part = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    assert names == set(part["properties"]) - {"kind"}


@pytest.mark.parametrize(
    ("field", "typed", "wrong"),
    [
        ("rules.0.when.since", "25:00", "a time of day, such as 06:00; got '25:00'"),
        ("rules.0.name", "no spaces", "begins with a letter or digit"),
        ("rules.0.name", "", "is missing"),
        ("rules.0.effect", "allow", "one of act, deny, permit; got 'allow'"),
        ("rules.0.when.begins", "tomorrow", "a moment with its offset"),
        ("rules.0.when.state.0.quantity", "", "is missing"),
        ("rules.0.when.groups", "good\nno good", "begins with a letter or digit"),
        ("about", "x" * 2001, "at most 2000 characters; got 2001"),
    ],
)
def test_what_the_schema_forbids_is_told_at_its_field(field: str, typed: str, wrong: str) -> None:
    form, raw = form_of(EVERYTHING)
    problems = form.read({**raw, field: [typed]}).problems
    assert [name for name, _ in problems] == [field]
    assert wrong in problems[0][1]


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("rules.0.when.state.0.above", "5 kW"),
        ("rules.0.when.timezone", "Europe/Atlantis"),
        ("rules.0.when.until", "22:00"),
        ("rules.1.name", "night"),
        ("valid_until", "2020-01-01T00:00Z"),
    ],
)
def test_what_makes_no_sense_together_is_told_at_its_field(field: str, typed: str) -> None:
    form, raw = form_of(EVERYTHING)
    reading = form.read({**raw, field: [typed]})
    assert reading.problems == []
    with pytest.raises(DocumentError) as caught:
        read_document(reading.document)
    assert [reading.field_of(place) for place, _ in caught.value.problems] == [field]


def test_a_value_without_unit_is_told_at_its_row() -> None:
    form, raw = form_of({"kind": "trigger", "fields": {"a": "1 s", "b": "2 s"}})
    reading = form.read({**raw, "fields.1.value": ["2 parsec"]})
    with pytest.raises(DocumentError) as caught:
        read_document(reading.document)
    assert [reading.field_of(place) for place, _ in caught.value.problems] == ["fields.1.value"]


def test_two_rows_of_one_name_are_told_and_not_merged() -> None:
    form, raw = form_of({"kind": "trigger", "fields": {"a": "1 s", "b": "2 s"}})
    problems = form.read({**raw, "fields.1.name": ["a"]}).problems
    assert problems == [("fields.1.name", "'a' stands above already")]


def test_errors_stand_in_the_nodes_of_their_fields() -> None:
    form, raw = form_of(EVERYTHING)
    nodes = every_node(form.nodes(raw, {"rules.0.when.since": "no"}))
    assert [node.name for node in nodes if node.error] == ["rules.0.when.since"]


def test_a_moment_may_be_typed_without_seconds_and_with_a_space() -> None:
    form, raw = form_of(EVERYTHING)
    reading = form.read({**raw, "valid_from": ["2026-03-01 06:00 +01:00"]})
    assert reading.document["valid_from"] == "2026-03-01T06:00:00+01:00"


def test_rows_and_items_come_go_and_move() -> None:
    form, raw = form_of(EVERYTHING)
    assert is_rows(form.nodes(raw, {}), "rules") is False
    assert is_rows(form.nodes(raw, {}), "about") is None
    more = added(raw, "rules", is_rows=False)
    assert indices(more, "rules") == [0, 1, 2]
    swapped = form.read(moved_up(raw, "rules.1")).document
    assert [rule["name"] for rule in swapped["rules"]] == ["day", "night"]
    assert moved_up(raw, "rules.0") == raw
    less = form.read(removed(raw, "rules.0")).document
    assert [rule["name"] for rule in less["rules"]] == ["day"]


def test_names_of_fields_that_nobody_made_are_ignored() -> None:
    form, raw = form_of(OFFERS)
    reading = form.read({**raw, "rules.x.name": ["a"], "rules.999999999.name": ["b"], "__class__": ["c"], "": ["d"]})
    assert "rules" not in reading.document
