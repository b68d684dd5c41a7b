"""What paths need by the settings of their nodes, and what the check says of budgets that are less."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeflex_flow.cli.kinds import SHIPPED, shipped_registry
from edgeflex_flow.flowfile import CheckedFlow, check_flow
from edgeflex_flow.flowfile.delays import BudgetSum
from edgeflex_flow.node import OperatorNode
from edgeflex_flow.registry import Registry

SITE = """\
site: yard
connections:
  databus: {kind: mqtt, url: "mqtt://127.0.0.1"}
  history: {kind: sqlite, path: history.db}
  api: {kind: rest, url: "https://127.0.0.1"}
  policies: {kind: policy_system, url: "https://127.0.0.1", group: a, refresh: 20s}
"""
EVENTS = """\
  pmu:   {kind: pmu_udp, port: 4713}
  rocof: {kind: rocof, from: pmu, window: 500ms}
  event: {kind: frequency_event, from: rocof}
  alarm: {kind: mqtt_publish, from: event, bus: databus, topic: a}
"""
CONTROL = """\
  pmu:   {kind: pmu_udp, port: 4713}
  rocof: {kind: rocof, from: pmu, window: 300ms}
  inertia: {kind: virtual_inertia, from: rocof, name: i, asset: bess, devices: [G], inertia: 2 s, rated_power: 1 MW,
            minimum: -1 MW, maximum: 1 MW, period: 50ms}
  units: {kind: mqtt_publish, from: inertia, bus: databus, topic: a}
"""

Look = Callable[..., CheckedFlow]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """`look(nodes, budget, …)`: what the check finds in a flow of these nodes and budgets."""

    def check(nodes: str, *budgets: str, registry: Registry | None = None) -> CheckedFlow:
        (tmp_path / "site.yaml").write_text(SITE)
        listed = "".join(f"  - {{{each}}}\n" for each in budgets)
        (tmp_path / "flow.yaml").write_text(f"flow: look\nnodes:\n{nodes}budgets:\n{listed}")
        site = tmp_path / "site.yaml"
        return check_flow(tmp_path / "flow.yaml", registry or shipped_registry(), site=site, environment={})

    return check


def found(checked: CheckedFlow) -> BudgetSum:
    assert checked.problems == ()
    [only] = checked.budgets
    return only


def parts(budget: BudgetSum) -> list[tuple[str, str, float]]:
    return [(part.node, part.sort, round(part.seconds, 6)) for part in budget.parts]


def test_a_response_needs_the_windows_of_its_path(look: Look) -> None:
    told = found(look(EVENTS, "from: pmu, to: alarm, within: 1s, of: response"))
    assert parts(told) == [("rocof", "window", 0.5), ("event", "window", 0.3)]
    assert told.sum_s == 0.8
    assert told.left_s == pytest.approx(0.2)


def test_a_small_onset_takes_long_to_move_the_frequency_whatever_the_windows_are(look: Look) -> None:
    nodes = EVENTS.replace("from: rocof}", "from: rocof, onset: 0.005 Hz/s}")
    told = found(look(nodes, "from: pmu, to: alarm, within: 3s, of: response"))
    assert told.sum_s == pytest.approx(0.01 / 0.005 + 0.1, abs=0.002)
    assert {part.node: part.sort for part in told.parts} == {"rocof": "window", "event": "window"}


def test_windows_do_not_count_for_the_time_in_the_flow(look: Look) -> None:
    assert parts(found(look(EVENTS, "from: pmu, to: alarm, within: 10ms, of: took"))) == []


def test_an_event_tells_its_onset_so_that_windows_count_for_its_age(look: Look) -> None:
    [problem] = look(EVENTS, "from: pmu, to: alarm, within: 100ms").problems
    assert problem.message == (
        "'within' is less than settings need from 'pmu' to 'alarm': "
        "'rocof' window 500 ms + 'event' window 300 ms + 'event' lag 200 ms = 1 s of 100 ms"
    )


def test_samples_of_a_window_carry_the_newest_time_so_that_it_does_not_count_for_their_age(look: Look) -> None:
    nodes = EVENTS + "  archive: {kind: store_write, from: rocof, store: history}\n"
    assert parts(found(look(nodes, "from: pmu, to: archive, within: 50ms"))) == []


def test_a_lag_counts_for_age_time_and_response(look: Look) -> None:
    nodes = (
        "  pmu: {kind: pmu_udp, port: 4713}\n"
        "  align: {kind: pmu_align, from: pmu, min: 3 of 4, lag: 200ms}\n"
        "  out: {kind: mqtt_publish, from: align, bus: databus, topic: a}\n"
    )
    for what in ("age", "took", "response"):
        told = found(look(nodes, f"from: pmu, to: out, within: 1s, of: {what}"))
        assert parts(told) == [("align", "lag", 0.2)]


def test_a_period_counts_for_time_and_response_and_the_age_begins_anew_with_a_set_point(look: Look) -> None:
    took = found(look(CONTROL, "from: pmu, to: units, within: 1s, of: took"))
    response = found(look(CONTROL, "from: pmu, to: units, within: 1s, of: response"))
    age = found(look(CONTROL, "from: pmu, to: units, within: 10ms, of: age"))
    assert parts(took) == [("inertia", "period", 0.05)]
    assert parts(response) == [("rocof", "window", 0.3), ("inertia", "period", 0.05)]
    assert (parts(age), age.since) == ([], "inertia")


def test_the_worst_of_several_paths_counts(look: Look) -> None:
    nodes = EVENTS.replace("from: event,", "from: [event, slow, dead_letters],") + (
        "  slow: {kind: threshold, from: pmu, column: frequency_hz, below: 49.8, hold: 2s}\n"
    )
    told = found(look(nodes, "from: pmu, to: alarm, within: 3s, of: response"))
    assert parts(told) == [("slow", "window", 2.0)]


def test_a_window_around_an_event_counts_from_the_onset_and_not_after_the_event(look: Look) -> None:
    nodes = EVENTS + (
        "  window: {kind: event_window, from: {samples: pmu, event: event}, after: 2s, wait: 1s}\n"
        "  inertia: {kind: inertia_event, from: window, units: {G1: {rated_power: 100 MVA}}}\n"
        "  tell: {kind: mqtt_publish, from: inertia, bus: databus, topic: b}\n"
    )
    for what in ("response", "age", "took"):
        told = found(look(nodes, f"from: pmu, to: tell, within: 5s, of: {what}"))
        assert told.sum_s == pytest.approx(2.0 + 1.0 + 1.5)


def test_what_a_sink_holds_counts_for_the_response_alone(look: Look) -> None:
    nodes = (
        "  pmu: {kind: pmu_udp, port: 4713}\n"
        "  archive: {kind: store_write, from: pmu, store: history, commit_every: 2s}\n"
    )
    assert parts(found(look(nodes, "from: pmu, to: archive, within: 3s, of: response"))) == [("archive", "lag", 2.0)]
    assert parts(found(look(nodes, "from: pmu, to: archive, within: 1s, of: age"))) == []


def test_what_waits_on_the_far_side_counts_until_it_is_read(look: Look) -> None:
    nodes = (
        "  ask: {kind: rest_poll, api: api, path: /a, period: 5s, messages: [alarm]}\n"
        "  out: {kind: mqtt_publish, from: ask, bus: databus, topic: a}\n"
    )
    assert parts(found(look(nodes, "from: ask, to: out, within: 6s, of: age"))) == [("ask", "period", 5.0)]
    assert parts(found(look(nodes, "from: ask, to: out, within: 1s, of: took"))) == []


def test_what_a_connection_waits_for_counts_for_its_nodes(look: Look) -> None:
    nodes = (
        "  read: {kind: policy_read, policies: policies}\n"
        "  out: {kind: mqtt_publish, from: read, bus: databus, topic: a}\n"
    )
    assert parts(found(look(nodes, "from: read, to: out, within: 30s, of: response"))) == [("read", "period", 20.0)]


def test_each_input_of_an_operator_may_wait_for_so_long_as_it_does(look: Look) -> None:
    nodes = (
        "  charge: {kind: mqtt_subscribe, bus: databus, topics: [a], columns: [state_of_charge_percent]}\n"
        "  prices: {kind: mqtt_subscribe, bus: databus, topics: [b], columns: [price_eur_per_mwh]}\n"
        "  vpp: {kind: vpp_dispatch, from: {prices: prices, charge: charge}, name: vpp, connection: 1 MW}\n"
        "  out: {kind: mqtt_publish, from: vpp, bus: databus, topic: c}\n"
    )
    prices = found(look(nodes, "from: prices, to: out, within: 5s, of: response"))
    charge = found(look(nodes, "from: charge, to: out, within: 20min, of: response"))
    assert parts(prices) == [("vpp", "period", 1.0)]
    assert parts(charge) == [("vpp", "period", 901.0)]


def test_no_path_waits_for_an_epoch(look: Look) -> None:
    assert found(look(EVENTS, "from: pmu, to: alarm, within: 1s, of: response")).of_sort("epoch") == 0.0


def test_a_budget_that_settings_break_is_a_problem_at_its_value(look: Look) -> None:
    checked = look(EVENTS, "from: pmu, to: alarm, within: 700ms, of: response")
    [problem] = checked.problems
    line = EVENTS.count("\n") + 4
    assert (problem.line, problem.column) == (line, "  - {from: pmu, to: alarm, within: 700ms".index("700ms") + 1)
    assert problem.message.endswith("'rocof' window 500 ms + 'event' window 300 ms = 800 ms of 700 ms")
    assert [each.is_kept for each in checked.budgets] == [False]


def test_a_budget_that_is_just_kept_is_no_problem(look: Look) -> None:
    assert found(look(EVENTS, "from: pmu, to: alarm, within: 800ms, of: response")).is_kept


def test_the_default_of_a_policy_counts_and_a_bound_that_would_break_the_budget_is_noted(look: Look) -> None:
    onset = "onset: {policy: trigger, field: onset, default: 0.02 Hz/s, min: 0.005 Hz/s, max: 1 Hz/s}"
    nodes = EVENTS.replace("from: rocof}", f"from: rocof, {onset}}}")
    checked = look(nodes, "from: pmu, to: alarm, within: 1s, of: response")
    assert found(checked).sum_s == 0.8
    [note] = checked.notes
    assert note.endswith(
        "with `onset` of 'event' at 0.005 Hz/s, which policy 'trigger' may say, the path from 'pmu' to 'alarm' would "
        "need 2.1 s of 1 s"
    )
    assert look(nodes, "from: pmu, to: alarm, within: 2.2s, of: response").notes == ()


def test_bounds_that_only_break_a_budget_together_are_noted_together(look: Look) -> None:
    window = "window: {policy: trigger, field: window, default: 500ms, min: 200ms, max: 700ms}"
    confirm = "confirm: {policy: trigger, field: confirm, default: 300ms, min: 200ms, max: 400ms}"
    nodes = EVENTS.replace("window: 500ms", window).replace("from: rocof}", f"from: rocof, {confirm}}}")
    checked = look(nodes, "from: pmu, to: alarm, within: 1050ms, of: response")
    [note] = checked.notes
    assert "`window` of 'rocof' at 0.7 s" in note
    assert "`confirm` of 'event' at 0.4 s" in note
    assert note.endswith("would need 1.1 s of 1.05 s")


def test_a_bound_that_the_node_would_refuse_is_not_noted(look: Look) -> None:
    window = "window: {policy: trigger, field: window, default: 500ms, min: 50ms, max: 600ms}"
    nodes = EVENTS.replace("window: 500ms", window)
    assert look(nodes, "from: pmu, to: alarm, within: 900ms, of: response").notes == ()


def test_a_kind_that_does_not_tell_is_named_and_the_rest_is_added_up(look: Look) -> None:
    kinds: list[Any] = [
        dataclasses.replace(node, delays=None) if isinstance(node, OperatorNode) and node.kind == "rocof" else node
        for node in SHIPPED
    ]
    budget = "from: pmu, to: alarm, within: 1s, of: response"
    told = found(look(EVENTS, budget, registry=Registry(kinds)))
    assert told.unknown == ("rocof",)
    assert parts(told)[0][:2] == ("event", "window")


def test_what_is_wrong_elsewhere_does_not_hide_a_budget_that_cannot_hold(look: Look) -> None:
    nodes = EVENTS + "  other: {kind: pmu_udp, port: 99999}\n"
    messages = [each.message for each in look(nodes, "from: pmu, to: alarm, within: 700ms, of: response").problems]
    assert any("'within' is less than settings need" in each for each in messages)
    assert len(messages) == 2


def test_nothing_is_said_of_a_path_on_which_something_is_wrong(look: Look) -> None:
    nodes = EVENTS.replace("window: 500ms", "window: 500")
    [problem] = look(nodes, "from: pmu, to: alarm, within: 100ms, of: response").problems
    assert "'window'" in problem.message


def test_a_setting_that_is_not_there_yet_leaves_a_budget_unjudged(look: Look) -> None:
    nodes = EVENTS.replace("window: 500ms", 'window: "${WINDOW}"')
    checked = look(nodes, "from: pmu, to: alarm, within: 100ms, of: response")
    assert checked.budgets == ()
    assert not any("'within'" in problem.message for problem in checked.problems)
