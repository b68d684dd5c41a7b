"""Sources that acknowledge are told what is durable: never too early, and in the end all of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from broker import wait_until
from runtimes import RUNTIMES, Run
from toy_nodes import CollectingSink, ScriptedSource, batch, count_by_device, misbehave, operator, plan, planned
from toy_nodes import sink as sink_node
from toy_nodes import source as source_node

from edgeflex_flow.messages import DeadLetter
from edgeflex_flow.node import Progress, WireMessage
from edgeflex_flow.runtime.receipts import MOST_WAITING
from edgeflex_flow.runtime.run import FlowRun


@pytest.fixture(params=list(RUNTIMES))
def execute(request: pytest.FixtureRequest) -> Run:
    return RUNTIMES[request.param]


class BrokerSource(ScriptedSource):
    """Wants to know what is durable. `acknowledged` has what it was told."""

    def __init__(self, script: Sequence[Any], *, endless: bool = False) -> None:
        super().__init__(script, endless=endless)
        self.holds_acknowledgements = False
        self.polls = 0
        self.acknowledged: list[int] = []
        self.closed_before_told = False

    def poll(self) -> Sequence[WireMessage]:
        given = super().poll()
        self.polls += bool(given)
        return given

    def poll_number(self) -> int:
        return self.polls

    def acknowledge(self, up_to: int) -> None:
        self.closed_before_told |= bool(self.closed)
        self.acknowledged.append(up_to)


class SlowSink(CollectingSink):
    """What it takes is durable when the test says so, or when it is flushed."""

    def __init__(self, *, flushable: bool = True) -> None:
        super().__init__()
        self.taken = self.durable = self.hurried = 0
        self.flushable = flushable
        self.progressed: Callable[[], None] = lambda: None

    def write(self, messages: Sequence[WireMessage]) -> None:
        super().write(messages)
        self.taken += len(messages)

    def progress(self) -> Progress:
        return Progress(self.taken, self.durable)

    def hurry(self) -> None:
        self.hurried = self.taken

    def make_durable(self, count: int) -> None:
        self.durable = count
        self.progressed()

    def flush(self, timeout_s: float) -> bool:
        if self.flushable:
            self.durable = self.taken
        return self.flushable


def during(execute: Run, run: FlowRun, check: Callable[[], None]) -> None:
    """Run a flow and stop it after `check`, which runs beside it."""
    failures: list[BaseException] = []

    def watch() -> None:
        try:
            assert run.started.wait(20.0)
            check()
        except BaseException as error:  # noqa: BLE001 - it is raised in the test's thread
            failures.append(error)
        finally:
            run.stop()

    watcher = threading.Thread(target=watch)
    watcher.start()
    execute(run)
    watcher.join()
    if failures:
        raise failures[0]


def test_nothing_is_acknowledged_before_every_sink_has_it_durable(execute: Run) -> None:
    made = BrokerSource([[batch(50.0)], [batch(51.0)]], endless=True)
    slow, other, quick = SlowSink(), SlowSink(), CollectingSink()
    flow = plan(
        planned("in", source_node(made)),
        planned("op", operator(count_by_device), "in"),
        planned("slow", sink_node(slow), "op"),
        planned("other", sink_node(other), "in"),
        planned("quick", sink_node(quick), "in"),
    )
    run = FlowRun(flow)
    slow.progressed = other.progressed = run.progressed

    def check() -> None:
        wait_until(lambda: slow.hurried == other.hurried == 2)
        assert made.holds_acknowledgements
        slow.make_durable(2)
        assert made.acknowledged == []
        other.make_durable(1)
        other.make_durable(2)
        wait_until(lambda: made.acknowledged[-1:] == [2])

    during(execute, run, check)


def test_a_sink_that_is_away_for_long_costs_no_memory(execute: Run) -> None:
    count = 3 * MOST_WAITING
    made = BrokerSource([[batch(50.0)] for _ in range(count)], endless=True)
    slow = SlowSink()
    run = FlowRun(plan(planned("in", source_node(made)), planned("out", sink_node(slow), "in")))
    slow.progressed = run.progressed

    def check() -> None:
        wait_until(lambda: slow.taken == count)
        slow.make_durable(MOST_WAITING - 1)
        slow.make_durable(count)
        wait_until(lambda: made.acknowledged[-1:] == [count])

    during(execute, run, check)
    assert len(made.acknowledged) <= MOST_WAITING


def test_at_the_end_all_that_could_be_flushed_is_acknowledged_before_the_source_closes(execute: Run) -> None:
    made = BrokerSource([[batch(50.0)], [batch(51.0)]])
    execute(FlowRun(plan(planned("in", source_node(made)), planned("out", sink_node(SlowSink()), "in"))))
    assert made.acknowledged[-1] == 2
    assert made.closed == 1
    assert not made.closed_before_told


def test_what_could_not_be_flushed_is_not_acknowledged(execute: Run) -> None:
    made = BrokerSource([[batch(50.0)]])
    stuck = SlowSink(flushable=False)
    execute(FlowRun(plan(planned("in", source_node(made)), planned("out", sink_node(stuck), "in"))))
    assert made.acknowledged == []
    assert made.closed == 1


def test_a_message_that_becomes_a_dead_letter_is_acknowledged_when_that_is_durable(execute: Run) -> None:
    made = BrokerSource([[batch(1.0)]], endless=True)
    out, dead = SlowSink(), SlowSink()
    flow = plan(
        planned("in", source_node(made)),
        planned("op", operator(misbehave), "in"),
        planned("out", sink_node(out), "op"),
        planned("dead", sink_node(dead), "dead_letters"),
    )
    run = FlowRun(flow)
    dead.progressed = run.progressed

    def check() -> None:
        wait_until(lambda: dead.of_type(DeadLetter))
        assert made.acknowledged == []
        dead.make_durable(1)
        wait_until(lambda: made.acknowledged == [1])

    during(execute, run, check)


def test_a_flow_without_such_a_source_waits_for_nothing(execute: Run) -> None:
    made, out = source_node(ScriptedSource([[batch(50.0)]])), SlowSink()
    execute(FlowRun(plan(planned("in", made), planned("out", sink_node(out), "in"))))
    assert (out.taken, out.hurried) == (1, 0)
