"""Budgets in flow files: what they may say, and what is said of those that are wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flow_kinds
import pytest

from edgeflex_flow.errors import Problem
from edgeflex_flow.flowfile import CheckedFlow
from edgeflex_flow.flowfile.plan import BudgetConfig, Plan
from edgeflex_flow.flowfile.revision import digest_of

Check = Callable[..., CheckedFlow]


def with_budgets(text: str) -> str:
    return f"{flow_kinds.FLOW}budgets: {text}\n"


def plan_of(check: Check, text: str) -> Plan:
    found = check(with_budgets(text))
    assert not found.problems
    assert found.plan is not None
    return found.plan


def test_budgets_are_in_the_plan(check: Check) -> None:
    plan = plan_of(check, "[{from: pmu, to: tell, within: 100ms}]")
    assert plan.budgets == (BudgetConfig(from_="pmu", to="tell", within=0.1, of="age"),)


def test_a_path_may_have_a_budget_of_its_age_and_one_of_the_time_it_takes(check: Check) -> None:
    plan = plan_of(check, "[{from: pmu, to: shed, within: 1s}, {from: pmu, to: shed, within: 20ms, of: took}]")
    assert [(each.of, each.within) for each in plan.budgets] == [("age", 1.0), ("took", 0.02)]


def test_another_budget_is_another_version_of_the_flow(check: Check) -> None:
    plan = plan_of(check, "[{from: pmu, to: tell, within: 100ms}]")
    assert digest_of(plan) != digest_of(dataclasses.replace(plan, budgets=()))
    assert digest_of(plan) == digest_of(plan_of(check, "[{to: tell, from: pmu, within: 0.1 s}]"))


def test_values_of_budgets_may_be_interpolated(check: Check) -> None:
    text = with_budgets('[{from: pmu, to: tell, within: "${WITHIN:-250ms}"}]')
    plan = check(text).plan
    assert plan is not None
    assert plan.budgets[0].within == 0.25


WRONG = [
    ("soon", Problem(file="", message="'budgets' is a list of mappings with from, to, within, of", got="'soon'")),
    ("[soon]", Problem(file="", message="a budget is a mapping with from, to, within, of", got="'soon'")),
    (
        "[{from: pmu, to: tel, within: 1s}]",
        Problem(
            file="", message="'to' names the unknown node 'tel'", got="'tel'", known=("tell", "shed"), nearest="tell"
        ),
    ),
    (
        "[{from: slope, to: tell, within: 1s}]",
        Problem(file="", message="'from' names no source", got="'slope'", known=("pmu",)),
    ),
    (
        "[{from: pmu, to: detect, within: 1s}]",
        Problem(file="", message="'to' names no sink", got="'detect'", known=("tell", "shed")),
    ),
    (
        "[{from: pmu, to: tell, within: 100}]",
        Problem(file="", message="'within': write it with its unit, e.g. 1s", got="100"),
    ),
    (
        "[{from: pmu, to: tell, within: 1s}, {from: pmu, to: tell, within: 2s}]",
        Problem(file="", message="a budget of `age` from 'pmu' to 'tell' stands here twice"),
    ),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[text for text, _ in WRONG])
def test_a_wrong_budget_gives_one_problem(check: Check, text: str, expected: Problem) -> None:
    [problem] = check(with_budgets(text)).problems
    assert problem.file == "flow.yaml"
    assert problem.line == flow_kinds.FLOW.count("\n") + 1
    for name in ("message", "got", "known", "nearest"):
        assert getattr(problem, name) == getattr(expected, name)


def test_nodes_without_a_path_between_them_are_told_with_those_that_have_one(check: Check) -> None:
    second = "  other:  {kind: meter, port: 4999}\n  lone: {kind: slope, from: other, window: 1s}\n"
    text = f"{flow_kinds.FLOW}{second}budgets: [{{from: other, to: tell, within: 1s}}]\n"
    [problem] = check(text).problems
    assert problem.message == "no path leads from 'other' to 'tell'"
    assert problem.known == ()


def test_a_node_that_is_wrong_itself_is_told_once(check: Check) -> None:
    text = with_budgets("[{from: pmu, to: tell, within: 1s}]").replace("from: [detect, watch,", "from: [detct, watch,")
    [problem] = check(text).problems
    assert "'detct'" in problem.message
