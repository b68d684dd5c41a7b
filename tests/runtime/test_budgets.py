"""A budget is broken when too much is late, and holds again when that is over for long enough."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from toy_nodes import CollectingSink, ScriptedSource, batch, misbehave, operator, plan, planned, tick_alarm
from toy_nodes import sink as sink_node
from toy_nodes import source as source_node

from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.flowfile.plan import BudgetConfig
from edgeflex_flow.messages import Alarm, Samples
from edgeflex_flow.node import FLOW_ALARMS, WireMessage
from edgeflex_flow.runtime.budgets import HOLDS_AFTER_S, WINDOW_S, Budget
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.vitals import vitals_of

MS = 1_000_000
PERIOD_NS = 100 * MS
PER_S = 10
START_NS = 1_800_000_000 * 10**9
AGE = BudgetConfig(from_="pmu", to="out", within=0.1)

LagMs = Callable[[float], float | None]
"""By time in seconds how late a row comes; None: there is none."""


def rows(lag_ms: LagMs, seconds: float) -> Iterator[Sequence[WireMessage]]:
    for number in range(round(seconds * PER_S)):
        lag = lag_ms(number / PER_S)
        tag_ns = START_NS + number * PERIOD_NS
        yield [] if lag is None else [batch(50.0, start_ns=tag_ns - round(lag * MS))]


def run_for(seconds: float, lag_ms: LagMs, budget: BudgetConfig = AGE) -> tuple[FlowRun, list[Alarm]]:
    """Rows each 100 ms of virtual time, which a second source moves on, and the alarms that came of them."""
    alarms = CollectingSink()
    made = plan(
        planned("clock", source_node(ScriptedSource(list(rows(lambda _s: 0.0, seconds))))),
        planned("pmu", source_node(ScriptedSource(list(rows(lag_ms, seconds))))),
        planned("pass", operator(misbehave), "pmu"),
        planned("out", sink_node(CollectingSink()), "pass"),
        planned("other", sink_node(CollectingSink()), "clock"),
        planned("alarms", sink_node(alarms), FLOW_ALARMS),
    )
    run = FlowRun(dataclasses.replace(made, budgets=(budget,)), clock=VirtualClock(START_NS))
    run_inline(run)
    return run, [each for each in alarms.messages if isinstance(each, Alarm)]


def test_messages_in_time_raise_no_alarm() -> None:
    run, alarms = run_for(60, lambda _s: 99.0)
    [told] = vitals_of(run).budgets
    assert (told.messages, told.late, told.is_broken) == (600, 0, False)
    assert not alarms


def test_one_late_message_of_a_busy_path_is_within_the_budget() -> None:
    run, alarms = run_for(60, lambda s: 300.0 if s in (20.0, 40.0) else 10.0)
    assert vitals_of(run).budgets[0].late == 2
    assert not alarms


def test_late_messages_raise_one_alarm_and_another_when_the_budget_holds_again() -> None:
    run, alarms = run_for(90, lambda s: 340.0 if 20 <= s < 40 else 10.0)
    broken, holds = alarms
    assert broken.severity == "warning"
    assert broken.source == "pmu"
    assert broken.text.startswith("the budget of 100 ms for the age of messages at 'out', from 'pmu', is broken: ")
    assert broken.text.endswith(" in 10 s were late, the worst after 340 ms")
    assert 20 <= (broken.time_ns - START_NS) / 1e9 <= 22
    assert holds.severity == "info"
    assert holds.text.endswith("holds again: 0 of 100 in 10 s were late")
    assert (holds.time_ns - START_NS) / 1e9 == pytest.approx(40 + WINDOW_S + HOLDS_AFTER_S, abs=2)
    assert not vitals_of(run).budgets[0].is_broken


def test_a_budget_that_is_broken_again_and_again_raises_no_more_alarms() -> None:
    run, alarms = run_for(120, lambda s: 340.0 if s % 20 < 5 else 10.0)
    assert [alarm.severity for alarm in alarms] == ["warning"]
    assert vitals_of(run).budgets[0].is_broken


def test_a_single_late_event_of_a_quiet_path_breaks_its_budget() -> None:
    _, alarms = run_for(60, lambda s: 500.0 if s == 10.0 else None)
    broken, holds = alarms
    assert "1 of 1 in 10 s were late, the worst after 500 ms" in broken.text
    assert holds.text.endswith("nothing came in 10 s")


def test_silence_breaks_no_budget() -> None:
    run, alarms = run_for(60, lambda _s: None)
    assert vitals_of(run).budgets[0].messages == 0
    assert not alarms


def test_the_time_in_the_flow_is_another_budget_than_the_age() -> None:
    took = BudgetConfig(from_="pmu", to="out", within=30.0, of="took")
    run, alarms = run_for(30, lambda _s: 5000.0, took)
    assert (vitals_of(run).budgets[0].messages, vitals_of(run).budgets[0].late) == (300, 0)
    assert not alarms
    assert str(Budget(took)) == "the budget of 30 s for the time to 'out', from 'pmu',"


def test_a_budget_of_a_response_is_not_measured() -> None:
    run, alarms = run_for(30, lambda _s: 5000.0, BudgetConfig(from_="pmu", to="out", within=0.1, of="response"))
    assert vitals_of(run).budgets == ()
    assert not alarms


def test_other_paths_to_the_sink_do_not_count() -> None:
    made = plan(
        planned("pmu", source_node(ScriptedSource([[batch(1.5)]]))),
        planned("history", source_node(ScriptedSource([[batch(1.5)], [batch(1.5)]]))),
        planned("out", sink_node(CollectingSink()), "pmu", "history"),
    )
    run = FlowRun(dataclasses.replace(made, budgets=(AGE,)))
    run_inline(run)
    assert vitals_of(run).budgets[0].messages == 1


def test_what_an_operator_makes_by_the_clock_counts_for_the_sources_that_it_reads() -> None:
    ticking = operator(misbehave, tick=tick_alarm, tick_period_s=lambda _config: 1.0)
    made = plan(
        planned("pmu", source_node(ScriptedSource(list(rows(lambda _s: 0.0, 5))))),
        planned("tell", ticking, "pmu"),
        planned("out", sink_node(CollectingSink()), "tell"),
    )
    run = FlowRun(dataclasses.replace(made, budgets=(AGE,)), clock=VirtualClock(START_NS))
    run_inline(run)
    assert {path.source for path in vitals_of(run).paths} == {"pmu", "tell"}
    assert vitals_of(run).budgets[0].messages == 50 + 5


@pytest.mark.parametrize("workers", [1, 2])
def test_the_time_in_the_flow_is_that_of_a_message_itself_on_however_many_workers(workers: int) -> None:
    def slow(_config: Any, _state: Any, samples: Samples) -> Sequence[WireMessage]:
        time.sleep(0.05)  # meanwhile the source gives what comes next
        return [samples]

    made = plan(
        planned("pmu", source_node(ScriptedSource([[batch(50.0, device=f"G{n}")] for n in range(6)]))),
        planned("each", operator(slow), "pmu"),
        planned("out", sink_node(CollectingSink()), "each"),
    )
    run = FlowRun(made)
    run_bytewax(run, workers=workers)
    [told] = vitals_of(run).paths
    assert (told.source, told.sink) == ("pmu", "out")
    assert told.took_sum_s >= 6 * 0.05


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_count_whichever_worker_has_them(workers: int) -> None:
    def of_device(_config: Any, _state: Any, samples: Samples) -> Sequence[WireMessage]:
        return [samples]

    made = plan(
        planned("pmu", source_node(ScriptedSource([[batch(50.0, device=f"G{n}")] for n in range(20)]))),
        planned("each", operator(of_device), "pmu"),
        planned("out", sink_node(CollectingSink()), "each"),
    )
    run = FlowRun(dataclasses.replace(made, budgets=(AGE,)))
    run_bytewax(run, workers=workers)
    [told] = vitals_of(run).budgets
    assert (told.messages, told.late) == (20, 20)
