"""Both runtimes, one worker and several, one process and several, do the same with the same flow."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from broker import wait_until
from runtimes import RUNTIMES as SHARED
from runtimes import Run
from toy_nodes import (
    CollectingSink,
    ScriptedSource,
    batch,
    count_by_device,
    misbehave,
    operator,
    plan,
    planned,
    sink,
    source,
    tick_alarm,
)

from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.errors import BadMessageError, FatalError, RetryableError
from edgeflex_flow.messages import Alarm, DeadLetter, Samples, samples_from_rows
from edgeflex_flow.node import WireMessage
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.run import FlowRun

pytestmark = pytest.mark.long

RUNTIMES: dict[str, Run] = {**SHARED, "bytewax-3": lambda run: run_bytewax(run, workers=3)}


@pytest.fixture(params=list(RUNTIMES))
def execute(request: pytest.FixtureRequest) -> Iterator[Run]:
    yield RUNTIMES[request.param]
    gc.collect()  # what a runtime leaves open must be noticed in its own test


def counted(run: FlowRun, node: str, name: str) -> int:
    """In all processes of the flow."""
    return run.summary()["nodes"][node].get(name, 0)


@contextmanager
def stopped_when(run: FlowRun, happened: Callable[[], bool]) -> Iterator[None]:
    def watch() -> None:
        wait_until(happened)
        run.stop()

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    watcher.join()


def many_devices() -> list[list[Any]]:
    return [
        [
            samples_from_rows(
                [(turn * 1000 + k, f"G{k % 23}", {"frequency_hz": float(k)}) for k in range(100)],
            )
        ]
        for turn in range(20)
    ]


def test_stateful_operators_give_each_device_the_same_rows_in_the_same_order(execute: Run) -> None:
    def result(run_it: Run) -> dict[str, list[tuple[int, float]]]:
        out = CollectingSink()
        flow = plan(
            planned("in", source(ScriptedSource(many_devices()))),
            planned("count", operator(count_by_device), "in"),
            planned("again", operator(count_by_device), "count"),
            planned("out", sink(out), "again"),
        )
        run_it(FlowRun(flow))
        by_device: dict[str, list[tuple[int, float]]] = {}
        for time_ns, device, value in out.rows:
            by_device.setdefault(device, []).append((time_ns, value))
        return by_device

    expected = result(run_inline)
    assert sum(len(rows) for rows in expected.values()) == 2000
    assert result(execute) == expected


def test_an_operator_of_scope_site_sees_all_devices(execute: Run) -> None:
    def count_all(_config: object, state: dict[str, int], message: Any) -> list[Alarm]:
        state["rows"] = state.get("rows", 0) + message.rows
        return [Alarm(source="x", severity="info", text=str(state["rows"]), time_ns=0)]

    out = CollectingSink()
    flow = plan(
        planned("in", source(ScriptedSource(many_devices()))),
        planned("all", operator(count_all, scope="site"), "in"),
        planned("out", sink(out), "all"),
    )
    execute(FlowRun(flow))
    assert [alarm.text for alarm in out.of_type(Alarm)][-1] == "2000"


def test_one_wire_feeds_several_readers_and_several_wires_one_reader(execute: Run) -> None:
    first, second = CollectingSink(), CollectingSink()
    flow = plan(
        planned("a", source(ScriptedSource([[batch(50.0)]]))),
        planned("b", source(ScriptedSource([[batch(51.0)]]))),
        planned("one", sink(first), "a", "b"),
        planned("two", sink(second), "a"),
    )
    execute(FlowRun(flow))
    assert sorted(value for _, _, value in first.rows) == [50.0, 51.0]
    assert [value for _, _, value in second.rows] == [50.0]


def test_bad_messages_become_dead_letters_and_the_flow_goes_on(execute: Run) -> None:
    out, dead = CollectingSink(), CollectingSink()
    script = [[batch(1.0)], [batch(2.0)], [batch(4.0)], [batch(50.0)]]
    flow = plan(
        planned("in", source(ScriptedSource(script))),
        planned("op", operator(misbehave), "in"),
        planned("out", sink(out), "op"),
        planned("dead", sink(dead), "dead_letters"),
    )
    run = FlowRun(flow)
    execute(run)
    assert [value for _, _, value in out.rows] == [4.0, 50.0]
    letters = {(letter.node, letter.reason) for letter in dead.of_type(DeadLetter)}
    assert letters == {("op", "is_one"), ("op", "operator_error"), ("op", "is_four")}
    assert counted(run, "op", "dead_letters") == 3


def test_a_fatal_error_in_an_operator_drains_the_flow_and_is_raised(execute: Run) -> None:
    out = CollectingSink()
    made = ScriptedSource([[batch(3.0)]], endless=True)
    flow = plan(planned("in", source(made)), planned("op", operator(misbehave), "in"), planned("out", sink(out), "op"))
    with pytest.raises(FatalError, match="three"):
        execute(FlowRun(flow))
    assert (made.closed, out.closed) == (1, True)


def test_a_run_that_is_stopped_before_it_began_opens_nothing(execute: Run) -> None:
    made, out = ScriptedSource([[batch(50.0)]]), CollectingSink()
    run = FlowRun(plan(planned("in", source(made)), planned("out", sink(out), "in")))
    run.stop()
    execute(run)
    assert (made.opened, out.messages, run.started.is_set()) == (0, [], False)


def test_a_bug_in_a_source_ends_the_flow_in_order(execute: Run) -> None:
    out = CollectingSink()
    made = ScriptedSource([ZeroDivisionError("bug")], endless=True)
    with pytest.raises(FatalError, match="ZeroDivisionError"):
        execute(FlowRun(plan(planned("in", source(made)), planned("out", sink(out), "in"))))
    assert (made.closed, out.closed) == (1, True)


def test_a_bad_message_in_a_source_is_counted(execute: Run) -> None:
    out = CollectingSink()
    made = ScriptedSource([BadMessageError("x", reason="bad_thing"), [batch(50.0)]])
    run = FlowRun(plan(planned("in", source(made)), planned("out", sink(out), "in")))
    execute(run)
    assert counted(run, "in", "bad_thing") == 1
    assert len(out.rows) == 1


def test_a_source_that_is_away_at_the_start_is_tried_again(execute: Run) -> None:
    out = CollectingSink()
    made = ScriptedSource([[batch(50.0)]])
    made.open_errors = [RetryableError("away")]
    run = FlowRun(plan(planned("in", source(made)), planned("out", sink(out), "in")))
    execute(run)
    assert made.opened == 2
    assert counted(run, "in", "retries") == 1
    assert len(out.rows) == 1


def test_a_fatal_error_while_opening_closes_what_was_opened(execute: Run) -> None:
    out = CollectingSink()
    made = ScriptedSource([])
    made.open_errors = [FatalError("port in use")]
    with pytest.raises(FatalError, match="port in use"):
        execute(FlowRun(plan(planned("in", source(made)), planned("out", sink(out), "in"))))
    assert out.closed


def test_a_sink_that_raises_costs_its_message_only(execute: Run) -> None:
    broken, whole = CollectingSink(), CollectingSink()
    broken.error = ValueError("bug")
    flow = plan(
        planned("in", source(ScriptedSource([[batch(50.0)]]))),
        planned("broken", sink(broken), "in"),
        planned("whole", sink(whole), "in"),
    )
    run = FlowRun(flow)
    execute(run)
    assert counted(run, "broken", "sink_error") == 1
    assert len(whole.rows) == 1


def test_what_a_sink_could_not_flush_is_counted(execute: Run) -> None:
    out = CollectingSink()
    out.flushes = False
    run = FlowRun(plan(planned("in", source(ScriptedSource([[batch(50.0)]]))), planned("out", sink(out), "in")))
    execute(run)
    assert run.counters["out"].get("unflushed") == 1
    assert run.lost_at_the_end == {"out": 0}


def test_a_sink_that_could_not_flush_lost_what_it_counts_and_not_one_more(execute: Run) -> None:
    class Counting(CollectingSink):
        def close(self) -> None:
            super().close()
            run.counters["out"].add("lost", 500)

    out = Counting()
    out.flushes = False
    run = FlowRun(plan(planned("in", source(ScriptedSource([[batch(50.0)]]))), planned("out", sink(out), "in")))
    execute(run)
    assert run.lost_at_the_end == {"out": 500}


def test_stopping_drains_what_is_there(execute: Run) -> None:
    out = CollectingSink()
    made = ScriptedSource([[batch(float(k))] for k in range(3)], endless=True)
    run = FlowRun(plan(planned("in", source(made)), planned("out", sink(out), "in")))

    def stop_when_all_came() -> None:
        while made.script and not run.stopping:
            run.started.wait(0.01)
        run.stop()

    stopper = threading.Thread(target=stop_when_all_came)
    stopper.start()
    execute(run)
    stopper.join()
    assert [value for _, _, value in out.rows] == [0.0, 1.0, 2.0]
    assert (made.closed, out.closed) == (1, True)


def test_ticks_come_on_their_period_of_the_clock(execute: Run) -> None:
    out = CollectingSink()
    ticking = operator(
        lambda _config, _state, _message: [], tick=tick_alarm, tick_period_s=lambda _config: 1.0, scope="site"
    )
    script = [[batch(50.0, start_ns=second * 1_000_000_000)] for second in range(1, 5)]
    flow = plan(
        planned("in", source(ScriptedSource([*script, []]))),
        planned("tick", ticking, "in"),
        planned("out", sink(out), "tick"),
    )
    execute(FlowRun(flow, clock=VirtualClock()))
    assert [alarm.time_ns // 1_000_000_000 for alarm in out.of_type(Alarm)] == [1, 2, 3, 4]


def test_counters_tell_what_went_over_each_wire(execute: Run) -> None:
    out = CollectingSink()
    run = FlowRun(plan(planned("in", source(ScriptedSource([[batch(50.0, 51.0)]]))), planned("out", sink(out), "in")))
    execute(run)
    assert run.summary()["wires"] == {"in -> out.in": {"messages": 1, "rows": 2}}


def test_samples_that_lack_a_needed_column_are_dead_letters(execute: Run) -> None:
    out = CollectingSink()
    node = operator(count_by_device)
    needy = type(node)(
        node.kind,
        node.config,
        {"in": type(node.inputs["in"])(node.inputs["in"].accepts, ("voltage_v",), node.inputs["in"].step)},
        node.output,
        node.start,
    )
    run = FlowRun(
        plan(
            planned("in", source(ScriptedSource([[batch(50.0)]]))),
            planned("op", needy, "in"),
            planned("out", sink(out), "op"),
        )
    )
    execute(run)
    assert counted(run, "op", "missing_column") == 1
    assert out.messages == []


class StubbornSource(ScriptedSource):
    """Raises at every poll."""

    def __init__(self, error: Exception) -> None:
        super().__init__([], endless=True)
        self.error = error

    def poll(self) -> Sequence[WireMessage]:
        raise self.error


@pytest.mark.parametrize("error", [FatalError("gone"), ZeroDivisionError("bug")])
def test_a_source_that_goes_on_raising_ends_the_flow_once(execute: Run, error: Exception) -> None:
    made = StubbornSource(error)
    with pytest.raises(FatalError):
        execute(FlowRun(plan(planned("in", source(made)), planned("out", sink(CollectingSink()), "in"))))
    assert made.closed == 1


@pytest.mark.parametrize("given", [5, None, batch(50.0)])
def test_an_operator_that_returns_no_sequence_costs_its_message_only(execute: Run, given: object) -> None:
    out = CollectingSink()
    run = FlowRun(
        plan(
            planned("in", source(ScriptedSource([[batch(50.0)]]))),
            planned("op", operator(lambda _config, _state, _message: given), "in"),  # type: ignore[arg-type,return-value]
            planned("out", sink(out), "op"),
        )
    )
    execute(run)
    assert counted(run, "op", "operator_error") == 1
    assert out.messages == []


def test_a_column_of_another_length_is_caught_at_the_operator_that_made_it(execute: Run) -> None:
    def shorten(_config: object, _state: object, message: Samples) -> list[Samples]:
        return [message.with_columns({"frequency_hz": message.columns["frequency_hz"][:1]})]

    out = CollectingSink()
    run = FlowRun(
        plan(
            planned("in", source(ScriptedSource([[batch(50.0, 50.0)]]))),
            planned("op", operator(shorten), "in"),
            planned("out", sink(out), "op"),
        )
    )
    execute(run)
    assert counted(run, "op", "operator_error") == 1
    assert out.messages == []


def test_the_wire_of_dead_letters_is_counted(execute: Run) -> None:
    dead = CollectingSink()
    run = FlowRun(
        plan(
            planned("in", source(ScriptedSource([[batch(1.0)], [batch(50.0)]]))),
            planned("op", operator(misbehave), "in"),
            planned("out", sink(CollectingSink()), "op"),
            planned("dead", sink(dead), "dead_letters"),
        )
    )
    execute(run)
    assert run.summary()["wires"]["dead_letters -> dead.in"] == {"messages": 1, "rows": 0}


def test_alarms_about_policies_come_on_a_wire_of_their_own_if_the_flow_reads_it(execute: Run) -> None:
    out, alarms = CollectingSink(), CollectingSink()
    run = FlowRun(
        plan(
            planned("in", source(ScriptedSource([[batch(50.0)]]))),
            planned("out", sink(out), "in"),
            planned("alarms", sink(alarms), "flow_alarms"),
        )
    )
    run.alarm("in", "too old")
    execute(run)
    [alarm] = alarms.of_type(Alarm)
    assert (alarm.source, alarm.text, alarm.severity) == ("in", "too old", "warning")
    assert run.summary()["wires"]["flow_alarms -> alarms.in"] == {"messages": 1, "rows": 0}


def test_a_sink_that_cannot_flush_does_not_keep_another_from_flushing(execute: Run) -> None:
    flushed = threading.Event()

    class Waiting(CollectingSink):
        def flush(self, timeout_s: float) -> bool:
            return flushed.wait(timeout_s)

    class Prompt(CollectingSink):
        def flush(self, timeout_s: float) -> bool:
            flushed.set()
            return True

    run = FlowRun(
        plan(
            planned("in", source(ScriptedSource([[batch(50.0)]]))),
            planned("first", sink(Waiting()), "in"),
            planned("second", sink(Prompt()), "in"),
        )
    )
    execute(run)
    assert run.lost_at_the_end == {}


def test_dead_letters_of_a_slow_operator_all_reach_their_wire(execute: Run) -> None:
    def slow(_config: object, _state: object, message: Samples) -> Sequence[WireMessage]:
        time.sleep(0.02)
        raise BadMessageError("slow", reason="slow")

    dead = CollectingSink()
    run = FlowRun(
        plan(
            planned("in", source(ScriptedSource([[batch(50.0, device=f"G{k}")] for k in range(20)]))),
            planned("op", operator(slow), "in"),
            planned("out", sink(CollectingSink()), "op"),
            planned("dead", sink(dead), "dead_letters"),
        )
    )
    execute(run)
    assert counted(run, "op", "slow") == 20
    assert len(dead.of_type(DeadLetter)) == 20


def test_a_dead_letter_counts_as_many_rows_as_it_stands_for(execute: Run) -> None:
    letter = DeadLetter(node="", reason="late", text="3 rows", time_ns=0, count=3)
    run = FlowRun(
        plan(
            planned("in", source(ScriptedSource([[batch(50.0)]]))),
            planned("op", operator(lambda _config, _state, _message: [letter]), "in"),
            planned("out", sink(CollectingSink()), "op"),
        )
    )
    execute(run)
    assert (counted(run, "op", "late"), counted(run, "op", "dead_letters")) == (3, 1)


def test_an_operator_that_cannot_start_ends_the_flow_in_order(execute: Run) -> None:
    def start(_config: object) -> dict[str, Any]:
        raise ZeroDivisionError("bug")

    out, made = CollectingSink(), ScriptedSource([[batch(50.0)]])
    node = replace(operator(count_by_device), start=start)
    with pytest.raises(FatalError, match="operator 'op' cannot start: ZeroDivisionError: bug"):
        execute(FlowRun(plan(planned("in", source(made)), planned("op", node, "in"), planned("out", sink(out), "op"))))
    assert (made.closed, out.closed) == (1, True)


def test_a_message_whose_device_is_no_text_passes(execute: Run) -> None:
    odd = Alarm(source="x", severity="info", text="odd", time_ns=0, device=7)  # type: ignore[arg-type]
    out = CollectingSink()
    flow = plan(
        planned("in", source(ScriptedSource([[odd]]))),
        planned("op", operator(lambda _config, _state, message: [message]), "in"),
        planned("out", sink(out), "op"),
    )
    execute(FlowRun(flow))
    assert out.messages == [odd]


class AwaySink(CollectingSink):
    """Cannot be reached."""

    def open(self) -> None:
        raise RetryableError("away")


def test_a_flow_that_stops_while_a_sink_is_away_ends_soon_and_opens_no_source(execute: Run) -> None:
    made = ScriptedSource([[batch(50.0)]])
    run = FlowRun(plan(planned("in", source(made)), planned("out", sink(AwaySink()), "in")))
    timer = threading.Timer(0.8, run.stop)
    timer.start()
    began_s = time.monotonic()
    execute(run)
    timer.join()
    assert time.monotonic() - began_s < 5.0
    assert made.opened == 0


class PipeSource(ScriptedSource):
    """Gives what a pipe holds, four bytes a batch and at most one batch a poll."""

    def __init__(self) -> None:
        super().__init__([], endless=True)
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK)

    def poll(self) -> Sequence[WireMessage]:
        try:
            got = os.read(self.read_end, 4)
        except BlockingIOError:
            return []
        return [batch(float(len(got)))] if got else []

    def fileno(self) -> int:
        return self.read_end

    def close(self) -> None:
        super().close()
        os.close(self.read_end)


def test_what_waits_in_a_descriptor_when_the_flow_stops_is_read_to_its_end(execute: Run) -> None:
    made, out = PipeSource(), CollectingSink()
    run = FlowRun(plan(planned("in", source(made)), planned("out", sink(out), "in")))

    def fill_and_stop() -> None:
        run.started.wait(30.0)
        os.write(made.write_end, b"abcd" * 200)
        run.stop()

    filler = threading.Thread(target=fill_and_stop)
    filler.start()
    execute(run)
    filler.join()
    os.close(made.write_end)
    assert len(out.rows) == 200


def test_a_descriptor_that_hangs_up_is_opened_again_later_and_does_not_spin(execute: Run) -> None:
    made = PipeSource()
    os.close(made.write_end)
    run = FlowRun(plan(planned("in", source(made)), planned("out", sink(CollectingSink()), "in")))
    seen_s: list[float] = []

    def happened() -> bool:
        if counted(run, "in", "retries") and not seen_s:
            seen_s.append(time.monotonic())
        return bool(seen_s) and time.monotonic() > seen_s[0] + 0.3

    with stopped_when(run, happened):
        execute(run)
    assert counted(run, "in", "retries") == 1


@pytest.mark.parametrize("workers", [2, 3])
def test_an_operator_that_works_by_the_clock_behind_another_scope_is_refused_with_several_workers(workers: int) -> None:
    ticking = operator(count_by_device, tick=tick_alarm, tick_period_s=lambda _config: 1.0, scope="site")
    flow = plan(
        planned("in", source(ScriptedSource([]))),
        planned("op", operator(count_by_device), "in"),
        planned("tick", ticking, "op"),
        planned("out", sink(CollectingSink()), "tick"),
    )
    with pytest.raises(FatalError, match="operator 'tick' works by the clock"):
        run_bytewax(FlowRun(flow), workers=workers)


def test_ticks_that_may_overtake_rows_are_allowed_behind_another_scope(execute: Run) -> None:
    ticking = operator(
        count_by_device, tick=tick_alarm, tick_period_s=lambda _config: 0.05, loose_ticks=True, scope="site"
    )
    out = CollectingSink()
    flow = plan(
        planned("in", source(ScriptedSource([[batch(50.0)]], endless=True))),
        planned("op", operator(count_by_device), "in"),
        planned("tick", ticking, "op"),
        planned("out", sink(out), "tick"),
    )
    run = FlowRun(flow)
    with stopped_when(run, lambda: bool(out.of_type(Alarm))):
        execute(run)
    assert len(out.rows) == 1


def hold(_config: object, state: dict[str, Any], message: Any) -> Sequence[WireMessage]:
    """Keeps everything until the end."""
    state.setdefault("held", []).append(message)
    return []


def let_go(_config: object, state: dict[str, Any]) -> Sequence[WireMessage]:
    held: list[WireMessage] = state.pop("held", [])
    return [*held, DeadLetter(node="", reason="held", text="held", time_ns=0, count=len(held))] if held else []


@pytest.mark.parametrize("scope", ["device", "site"])
def test_operators_give_what_they_hold_at_the_end_those_behind_them_too(execute: Run, scope: str) -> None:
    out, dead = CollectingSink(), CollectingSink()
    flow = plan(
        planned("in", source(ScriptedSource(many_devices()))),
        planned("first", operator(hold, end=let_go, scope=scope), "in"),
        planned("second", operator(hold, end=let_go, scope="site"), "first"),
        planned("out", sink(out), "second"),
        planned("dead", sink(dead), "dead_letters"),
    )
    execute(FlowRun(flow))
    assert len(out.rows) == 2000
    assert {letter.node for letter in dead.of_type(DeadLetter)} == {"first", "second"}


def test_a_flow_that_is_stopped_lets_operators_give_what_they_hold(execute: Run) -> None:
    out = CollectingSink()
    made = ScriptedSource([[batch(50.0)]], endless=True)
    flow = plan(
        planned("in", source(made)), planned("op", operator(hold, end=let_go), "in"), planned("out", sink(out), "op")
    )
    run = FlowRun(flow)
    with stopped_when(run, lambda: not made.script):
        execute(run)
    assert len(out.rows) == 1


def test_an_operator_whose_end_raises_costs_nothing_else(execute: Run) -> None:
    def broken(_config: object, _state: object) -> Sequence[WireMessage]:
        raise ZeroDivisionError("bug")

    out = CollectingSink()
    flow = plan(
        planned("in", source(ScriptedSource([[batch(50.0)]]))),
        planned("op", operator(count_by_device, end=broken, scope="site"), "in"),
        planned("out", sink(out), "op"),
    )
    run = FlowRun(flow)
    execute(run)
    assert len(out.rows) == 1
    assert counted(run, "op", "operator_error") == 1
