from __future__ import annotations

from typing import Any

import pytest

from edgeflex_services.policy_system.documents import read_document
from edgeflex_services.policy_system.pages_words import Difference, changed_rules, rule_in_words


def sharing(*rules: dict[str, Any]) -> Any:
    return read_document({"kind": "sharing", "rules": list(rules)})


def rule(name: str, effect: str = "permit", **more: Any) -> dict[str, Any]:
    return {"name": name, "effect": effect, **more}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (rule("a"), "permit anything"),
        (
            rule("a", when={"actions": ["read_data"], "groups": ["vpp"], "since": "06:00", "until": "22:00"}),
            "permit read_data for group vpp each day 06:00 to 22:00 UTC",
        ),
        (
            rule("a", "deny", when={"users": ["x*", "y"], "assets": ["f1"], "since": "22:00", "until": "06:00"}),
            "deny anything by x* or y of asset f1 each day 22:00 to 06:00 of the next day UTC",
        ),
        (
            rule("a", when={"days": ["wed", "mon", "tue"], "timezone": "Europe/Berlin"}),
            "permit anything Monday to Wednesday Europe/Berlin",
        ),
        (rule("a", when={"days": ["sat", "mon"]}), "permit anything Monday and Saturday UTC"),
        (
            rule("a", when={"begins": "2026-03-01T06:00:00+01:00", "ends": "2026-03-02T06:00:00Z"}),
            "permit anything from 2026-03-01 05:00:00 UTC on until 2026-03-02 06:00:00 UTC",
        ),
        (
            rule("a", when={"state": [{"quantity": "voltage_pu", "above": "0.9 pu", "below": "1.1 pu"}]}),
            "permit anything while voltage_pu is above 0.9 pu and below 1.1 pu (measured within 10s)",
        ),
        (rule("a", "deny", then={"do": "revoke_access"}), "deny anything, and revoke the access of who caused it"),
        (
            rule("a", then={"do": "return_data", "quantities": ["frequency_hz", "voltage_*"]}),
            "permit anything, and return frequency_hz, voltage_*",
        ),
        (
            rule("a", "act", when={"actions": ["measured"]}, then={"do": "run_service", "service": "inertia"}),
            "on measured: run inertia, for the same asset not again for 60s",
        ),
    ],
)
def test_a_rule_reads_as_a_sentence(told: dict[str, Any], sentence: str) -> None:
    assert rule_in_words(sharing(told).rules[0]) == sentence


def test_rules_that_come_go_and_change_are_told() -> None:
    before = sharing(rule("gone"), rule("same"), rule("other"))
    after = sharing(rule("same"), rule("other", "deny"), rule("new"))
    assert changed_rules(before, after) == [
        Difference("gone", "permit anything", None),
        Difference("other", "permit anything", "deny anything"),
        Difference("new", None, "permit anything"),
    ]


def test_rules_that_change_places_are_told_with_their_numbers_since_the_first_decides() -> None:
    before = sharing(rule("one"), rule("two", "deny"), rule("three"))
    after = sharing(rule("two", "deny"), rule("one"), rule("three"))
    assert changed_rules(before, after) == [
        Difference("one", "1. permit anything", "2. permit anything"),
        Difference("two", "2. deny anything", "1. deny anything"),
    ]
