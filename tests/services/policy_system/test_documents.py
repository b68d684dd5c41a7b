from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from edgeflex_services.policy_system.documents import (
    KINDS,
    DocumentError,
    OperationalBounds,
    read_document,
    schema_of,
    time_ns,
)

PERMIT = {"name": "all", "effect": "permit"}
GOOD: dict[str, dict[str, Any]] = {
    "operational_bounds": {"kind": "operational_bounds", "fields": {"droop": "25 MW/Hz", "share": 0.5}},
    "trigger": {
        "kind": "trigger",
        "rules": [
            {
                "name": "excited",
                "effect": "act",
                "when": {"state": [{"quantity": "rocof_hz_per_s", "above": "20 mHz/s", "magnitude": True}]},
                "then": {"do": "run_service", "service": "inertia_estimation"},
            }
        ],
    },
    "data_management": {
        "kind": "data_management",
        "fields": {
            "source": "https://kibernet.example",
            "topic": "/pv",
            "variables": ["power.p50"],
            "period": "15 min",
        },
    },
    "flexibility": {
        "kind": "flexibility",
        "fields": {"max_duration": "4 h", "window_begin": "6 h", "window_end": "22 h", "price_max": "90 EUR/MWh"},
    },
    "sharing": {"kind": "sharing", "rules": [PERMIT]},
}


def problems_of(document: Any) -> dict[str, str]:
    with pytest.raises(DocumentError) as raised:
        read_document(document)
    return dict(raised.value.problems)


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_of_each_kind_is_read_and_fits_the_schema_of_its_kind(kind: str) -> None:
    document = read_document(GOOD[kind])
    assert document.kind == kind
    assert Draft202012Validator(schema_of(kind)).is_valid(GOOD[kind])
    assert read_document(msgspec.json.encode(document)) == document


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_key_is_an_error_and_no_silent_no(kind: str) -> None:
    wrong = {**GOOD[kind], "feilds": {}}
    assert "unknown field `feilds`" in problems_of(wrong)[""]
    assert not Draft202012Validator(schema_of(kind)).is_valid(wrong)


def test_an_unknown_kind_is_told_with_the_known_ones() -> None:
    assert all(kind in problems_of({"kind": "bounds"})["kind"] for kind in KINDS)
    assert all(kind in problems_of({})[""] for kind in KINDS)


@pytest.mark.parametrize("value", ["0.02 Hx/s", "20", "", "fast", "1e400"])
def test_a_field_that_is_no_quantity_is_told_at_its_place(value: str) -> None:
    document = {"kind": "operational_bounds", "fields": {"fine": "1 kW", "onset": value}}
    assert list(problems_of(document)) == ["fields.onset"]


@pytest.mark.parametrize(
    "text", ['{"kind":"operational_bounds","fields":{"a":1e999}}', '{"kind":"x"', "[]", "\xff", ""]
)
def test_what_is_no_document_is_told_whatever_it_is(text: str) -> None:
    with pytest.raises(DocumentError):
        read_document(text.encode("latin-1"))


@pytest.mark.parametrize(
    ("when", "place"),
    [
        ({"since": "06:00"}, "since"),
        ({"since": "06:00", "until": "06:00"}, "until"),
        ({"timezone": "Europe/Atlantis"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"begins": "2026-01-02T00:00:00Z", "ends": "2026-01-01T00:00:00Z"}, "ends"),
        ({"state": [{"quantity": "voltage", "above": 1.0}]}, "state[0].quantity"),
        ({"state": [{"quantity": "voltage_pu"}]}, "state[0].above"),
        ({"state": [{"quantity": "voltage_pu", "above": 1.05}]}, "state[0].above"),
        ({"state": [{"quantity": "voltage_pu", "above": "1.05 V"}]}, "state[0].above"),
        ({"state": [{"quantity": "trips_count", "below": "5 W"}]}, "state[0].below"),
        ({"state": [{"quantity": "voltage_pu", "above": "1.05 pu", "max_age": "-1 s"}]}, "state[0].max_age"),
    ],
)
def test_a_condition_that_cannot_be_is_told_at_its_place(when: dict[str, Any], place: str) -> None:
    document = {"kind": "sharing", "rules": [{**PERMIT, "when": when}]}
    assert list(problems_of(document)) == [f"rules[0].when.{place}"]


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-05:00", "9999-12-31T00:00:00Z"])
def test_a_moment_that_no_clock_can_tell_is_refused(moment: str) -> None:
    for place in ("valid_from", "valid_until"):
        assert place in problems_of({**GOOD["sharing"], place: moment})
    for place in ("begins", "ends"):
        rule = {**PERMIT, "when": {place: moment}}
        assert f"rules[0].when.{place}" in problems_of({"kind": "sharing", "rules": [rule]})


@pytest.mark.parametrize(
    "rule",
    [
        {"effect": "act"},
        {"effect": "deny", "then": {"do": "return_data", "quantities": ["*"]}},
        {"effect": "permit", "then": {"do": "revoke_access"}},
    ],
)
def test_a_rule_whose_effect_and_action_do_not_go_together_is_refused(rule: dict[str, Any]) -> None:
    assert list(problems_of({"kind": "sharing", "rules": [{"name": "a", **rule}]})) == ["rules[0].then"]


def test_two_rules_of_one_name_are_refused() -> None:
    assert list(problems_of({"kind": "sharing", "rules": [PERMIT, PERMIT]})) == ["rules[1].name"]


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "operational_bounds"},
        {"kind": "trigger"},
        {"kind": "data_management"},
        {"kind": "sharing"},
        {"kind": "flexibility", "fields": {"max_duration": 3600}},
        {"kind": "flexibility", "fields": {"window_begin": "6 h"}},
        {"kind": "data_management", "fields": {"topic": "a", "period": "5 W"}},
        {**GOOD["sharing"], "valid_from": "2026-01-02T00:00:00Z", "valid_until": "2026-01-02T00:00:00Z"},
        {**GOOD["sharing"], "valid_from": "2026-01-02T00:00:00"},
    ],
)
def test_a_policy_that_says_nothing_or_contradicts_itself_is_refused(document: dict[str, Any]) -> None:
    assert problems_of(document)


def test_fields_are_what_parameters_of_flows_bind_to() -> None:
    assert read_document(GOOD["operational_bounds"]).field_values() == {"droop": "25 MW/Hz", "share": 0.5}
    assert read_document(GOOD["flexibility"]).field_values()["max_duration"] == "4 h"
    assert "endpoint" not in read_document(GOOD["flexibility"]).field_values()


def test_moments_become_nanoseconds_without_rounding() -> None:
    document = OperationalBounds(fields={"a": 1.0}, valid_from=datetime(2026, 11, 26, 1, 2, 3, 456789, tzinfo=UTC))
    assert time_ns(document.valid_from) == 1795654923456789000


def test_what_nothing_reads_is_no_field_of_a_sharing_policy() -> None:
    (text,) = problems_of({**GOOD["sharing"], "fields": {"topics": ["edgeflex/+/samples"]}}).values()
    assert "unknown field `topics`" in text
