from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from edgeflex_flow.clock import moment_ns
from edgeflex_services.policy_system.documents import (
    KINDS,
    DocumentError,
    Flexibility,
    OperationalBounds,
    read_document,
    schema_of,
)
from edgeflex_services.policy_system.lenient import MOST_PROBLEMS

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
        "fields": {"max_duration": "4 h", "window_begin": "06:00", "window_end": "22:30", "price_max": "90 EUR/MWh"},
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
    problem = problems_of(wrong)["feilds"]
    assert problem.startswith("unknown key; known: kind, about, ")
    assert problem.endswith("did you mean 'fields'?")
    assert not Draft202012Validator(schema_of(kind)).is_valid(wrong)


def test_an_unknown_kind_is_told_with_the_known_ones() -> None:
    assert all(kind in problems_of({"kind": "bounds"})["kind"] for kind in KINDS)
    assert problems_of({"kind": "sharring"})["kind"].endswith("got 'sharring'; did you mean 'sharing'?")
    assert all(kind in problems_of({})["kind"] for kind in KINDS)


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
        ({"state": [{"quantity": "voltage_pu", "above": "1.05 pu", "max_age": 0}]}, "state[0].max_age"),
        ({"state": [{"quantity": "voltage_v", "above": "1 kV", "below": "900 V"}]}, "state[0].below"),
        ({"state": [{"quantity": "voltage_v", "above": "1 kV", "below": "1000 V"}]}, "state[0].below"),
        ({"state": [{"quantity": "rocof_hz_per_s", "below": "-1 Hz/s", "magnitude": True}]}, "state[0].below"),
        ({"users": ["vpp_*", "https://*.com"]}, "users[1]"),
        ({"assets": ["*.grid/feeder"]}, "assets[0]"),
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
        {"kind": "flexibility", "fields": {"window_begin": "06:00"}},
        {"kind": "flexibility", "fields": {"min_duration": "1 h", "max_duration": "30 min"}},
        {"kind": "flexibility", "fields": {"accept_within": "20 s", "assign_within": "10 s"}},
        {"kind": "flexibility", "fields": {"min_power": "5 kW", "max_power": "4000 W"}},
        {"kind": "flexibility", "fields": {"price_min": "0.1 EUR/kWh", "price_max": "90 EUR/MWh"}},
        {"kind": "flexibility", "fields": {"template": {"slices": []}}},
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


def test_choices_reach_flows_beside_fields() -> None:
    fields, choices = {"latency_budget": "100 ms"}, {"best_profile": "QOS_L"}
    document = read_document({"kind": "operational_bounds", "fields": fields, "choices": choices})
    assert document.field_values() == {**fields, **choices}
    assert read_document({"kind": "operational_bounds", "choices": choices}).field_values() == choices


def test_a_name_among_fields_and_choices_or_a_choice_that_is_no_word_is_told_at_its_place() -> None:
    both = {"kind": "operational_bounds", "fields": {"a": "1 s"}, "choices": {"a": "QOS_L"}}
    assert problems_of(both) == {"choices.a": "'a' is among the fields already"}
    assert "choices.a" in problems_of({"kind": "operational_bounds", "choices": {"a": "two words"}})


def test_times_of_day_reach_flows_as_the_time_since_midnight() -> None:
    values = read_document(GOOD["flexibility"]).field_values()
    assert (values["window_begin"], values["window_end"]) == ("6 h", "1350 min")


def test_windows_of_versions_from_before_reach_flows_as_they_were_written() -> None:
    kept = msgspec.convert(
        {"kind": "flexibility", "fields": {"window_begin": "6 h", "window_end": "22 h"}}, Flexibility
    )
    assert kept.field_values() == {"window_begin": "6 h", "window_end": "22 h"}


@pytest.mark.parametrize(
    ("fields", "place", "text"),
    [
        ({"window_begin": "6 h", "window_end": "22:00"}, "window_begin", "such as '06:00'; got '6 h'"),
        ({"window_begin": "06:00", "window_end": "24:00"}, "window_end", "such as '06:00'; got '24:00'"),
        (
            {"window_begin": "06:00", "window_end": "06:00"},
            "window_end",
            "for the whole day leave both out; got '06:00'",
        ),
        ({"price_min": "90 EUR/MWh", "price_max": "0.01 EUR/kWh"}, "price_min", "must not be above `price_max`"),
        ({"min_duration": "2 h", "max_duration": "90 min"}, "min_duration", "got '2 h' and '90 min'"),
        (
            {"min_duration": "3 h", "window_begin": "23:00", "window_end": "01:00"},
            "min_duration",
            "longer than the window from 23:00 to 01:00; got '3 h'",
        ),
        ({"max_duration": "-1 h"}, "max_duration", "must be more than 0 s; got '-1 h'"),
        ({"min_duration": "-1 h"}, "min_duration", "must not be less than 0 s; got '-1 h'"),
        ({"accept_within": "0 s"}, "accept_within", "must be more than 0 s; got '0 s'"),
        ({"max_power": "-5 kW"}, "max_power", "must be more than 0 W; got '-5 kW'"),
    ],
)
def test_flexibility_that_cannot_be_meant_is_told_with_what_was_got(
    fields: dict[str, str], place: str, text: str
) -> None:
    problems = problems_of({"kind": "flexibility", "fields": fields})
    assert list(problems) == [f"fields.{place}"]
    assert text in problems[f"fields.{place}"]


def test_prices_below_zero_and_a_window_over_midnight_can_be_meant() -> None:
    fields = {"price_min": "-50 EUR/MWh", "price_max": "0 EUR/MWh", "window_begin": "22:00", "window_end": "06:00"}
    assert read_document({"kind": "flexibility", "fields": fields | {"min_duration": "8 h"}})


@pytest.mark.parametrize(
    ("low", "high"), [("voltage_min", "voltage_max"), ("min_share", "max_share"), ("lowest_power", "highest_power")]
)
def test_a_lower_limit_above_its_upper_one_is_told(low: str, high: str) -> None:
    fields = {low: "2 MW", high: "1500 kW", "else_max": "1 s"}
    assert list(problems_of({"kind": "operational_bounds", "fields": fields})) == [f"fields.{low}"]
    assert read_document({"kind": "operational_bounds", "fields": {**fields, low: "1 MW"}})
    assert read_document({"kind": "operational_bounds", "fields": {**fields, low: "2 s"}})


@pytest.mark.parametrize("source", ["https://*.com", "mqtts://*:8883"])
def test_a_source_of_data_is_one_address(source: str) -> None:
    assert list(problems_of({"kind": "data_management", "fields": {"source": source}})) == ["fields.source"]


def test_all_that_is_wrong_is_told_at_once_in_words() -> None:
    document = {
        "kind": "trigger",
        "about": 5,
        "fields": {"onset": "2 parsec", "fine": "1 s", "no good": "1 s", "odd": [1]},
        "rules": [
            {
                "name": "a b",
                "efect": "act",
                "effect": "allow",
                "when": {
                    "since": "7",
                    "until": "08:00",
                    "timezone": "Atlantis",
                    "users": "me",
                    "begins": "now",
                    "state": [{"quantity": "voltage_pu", "above": "1 V", "max_age": "0 s"}, 7, {}],
                },
                "then": {"do": "run_servce"},
            },
            "no rule",
            {"name": "late", "effect": "act", "then": {"do": "run_service", "hold_off": "-1 s"}},
        ],
    }
    assert problems_of(document) == {
        "about": "needs a text, at most 2000 characters; got 5",
        "fields.onset": "'2 parsec' is no quantity: a number with its unit, such as '0.02 Hz/s' or '5 kW'",
        "fields.no good": "needs a text, at most 64 characters such as 'feeder_3'; got 'no good'",
        "fields.odd": "needs a number, or a text of a number with its unit, such as '0.02 Hz/s'; got a list",
        "rules[0].efect": "unknown key; known: name, effect, when, then, about; did you mean 'effect'?",
        "rules[0].name": "needs a text, at most 64 characters such as 'feeder_3'; got 'a b'",
        "rules[0].effect": "needs one of permit, deny, act; got 'allow'",
        "rules[0].when.since": "needs a text such as '06:00'; got '7'",
        "rules[0].when.timezone": "'Atlantis' is no time zone, such as Europe/Berlin",
        "rules[0].when.users": "needs a list of texts, at most 200 entries; got 'me'",
        "rules[0].when.begins": "needs a moment with its offset, such as '2026-03-01T06:00:00+01:00'; got 'now'",
        "rules[0].when.state[0].above": "unit 'V' is no unit of per_unit (pu); got '1 V'",
        "rules[0].when.state[0].max_age": "must be more than 0 s; got '0 s'",
        "rules[0].when.state[1]": "needs an object; got 7",
        "rules[0].when.state[2].quantity": "is missing: a text, at most 64 characters such as 'feeder_3'",
        "rules[0].then.do": "needs one of run_service, revoke_access, return_data; got 'run_servce'; "
        "did you mean 'run_service'?",
        "rules[1]": "needs an object; got 'no rule'",
        "rules[2].then.service": "is missing: a text, at most 64 characters such as 'feeder_3'",
        "rules[2].then.hold_off": "must not be less than 0 s; got '-1 s'",
    }


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([], ("", "needs an object; got a list")),
        ({"kind": "sharing", "rules": [PERMIT] * 101}, ("rules", "needs at most 100 entries; got 101")),
        ({"kind": "sharing", "rules": {}}, ("rules", "needs a list of objects; got an object")),
        (
            {"kind": "sharing", "rules": [{**PERMIT, "then": {"do": "return_data", "quantities": []}}]},
            ("rules[0].then.quantities", "needs at least 1 entry; got 0"),
        ),
    ],
)
def test_the_whole_is_told_where_no_part_is_wrong(document: Any, problem: tuple[str, str]) -> None:
    [(place, text)] = problems_of(document).items()
    assert (place, text[: len(problem[1])]) == problem


def test_problems_without_end_are_told_up_to_a_limit_and_soon() -> None:
    document = {"kind": "sharing", "rules": [PERMIT], **{f"key_{at}": at for at in range(50_000)}}
    assert len(problems_of(document)) == MOST_PROBLEMS


def test_moments_become_nanoseconds_without_rounding() -> None:
    document = OperationalBounds(fields={"a": 1.0}, valid_from=datetime(2026, 11, 26, 1, 2, 3, 456789, tzinfo=UTC))
    assert moment_ns(document.valid_from) == 1795654923456789000


def test_what_nothing_reads_is_no_field_of_a_sharing_policy() -> None:
    found = problems_of({**GOOD["sharing"], "fields": {"topics": ["edgeflex/+/samples"]}})
    assert found == {"fields.topics": "unknown key; known: variables"}
