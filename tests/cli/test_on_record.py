"""A flow on records: what its nodes see, and in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import toy_nodes
from hypothesis import given, settings
from hypothesis import strategies as st
from preview_cases import NIGHT_NS, rising

from edgeflex_flow.cli.on_record import Record, clock_of, plan_on_record, span_of
from edgeflex_flow.cli.preview_files import Timed
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import Alarm, Samples, samples_from_rows
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.run import FlowRun

MS = 1_000_000


def alarm(at_ms: int) -> Alarm:
    return Alarm(source="n", severity="info", text=f"at {at_ms} ms", time_ns=NIGHT_NS + at_ms * MS)


class Watched:
    """A flow with sources and one operator that notes what it sees, on records of these sources."""

    def __init__(self, records: Mapping[str, Record], *, period_s: float | None = None) -> None:
        self.seen: list[tuple[str, int, int]] = []
        """What (rows, alarm, tick), up to which time, and the clock at that moment; in ms of the night."""
        self.batches: list[Samples] = []
        more: dict[str, Any] = {}
        if period_s is not None:
            more = {"tick": self._tick, "tick_period_s": lambda _config: period_s}
        self.sink = toy_nodes.CollectingSink()
        self.script = toy_nodes.ScriptedSource([])
        nodes = [toy_nodes.planned(name, toy_nodes.source(self.script)) for name in records]
        nodes.append(toy_nodes.planned("watch", toy_nodes.operator(self._step, **more), *records))
        nodes.append(toy_nodes.planned("sink", toy_nodes.sink(self.sink), "watch"))
        plan: Plan = plan_on_record(toy_nodes.plan(*nodes), records, on_time=self._on_time)
        self.told_ns: list[int] = []
        self.run = FlowRun(plan, clock=clock_of(records))
        run_inline(self.run)

    def _on_time(self, time_ns: int) -> None:
        self.told_ns.append(time_ns)

    def _now_ms(self) -> int:
        return (self.run.clock.now_ns() - NIGHT_NS) // MS

    def _step(self, _config: Any, _state: Any, message: Any) -> list[Any]:
        if isinstance(message, Samples):
            self.batches.append(message)
            self.seen.append(("rows", (int(message.time_ns[-1]) - NIGHT_NS) // MS, self._now_ms()))
        else:
            self.seen.append(("alarm", (message.time_ns - NIGHT_NS) // MS, self._now_ms()))
        return [message]

    def _tick(self, _config: Any, _state: Any, now_ns: int) -> list[Any]:
        self.seen.append(("tick", (now_ns - NIGHT_NS) // MS, self._now_ms()))
        return []


def test_rows_come_by_the_second_where_nothing_comes_between() -> None:
    watched = Watched({"pmu": Record(rising(150))})
    assert [each[1] for each in watched.seen] == [980, 1980, 2980]
    rows = np.concatenate([batch.columns["frequency_hz"] for batch in watched.batches])
    assert rows.tolist() == list(range(150))


def test_batches_are_received_when_their_last_row_was_measured() -> None:
    watched = Watched({"pmu": Record(rising(150))})
    assert all(batch.received_ns == batch.time_ns[-1] for batch in watched.batches)
    assert all(row == now for _, row, now in watched.seen)


def test_no_batch_reaches_across_a_tick_and_no_tick_is_left_out() -> None:
    watched = Watched({"pmu": Record(rising(11))}, period_s=0.05)
    assert watched.seen == [
        ("tick", 0, 0),
        ("rows", 40, 40),
        ("tick", 50, 50),
        ("rows", 80, 80),
        ("tick", 100, 100),
        ("rows", 140, 140),
        ("tick", 150, 150),
        ("rows", 180, 180),
        ("tick", 200, 200),
        ("rows", 200, 200),
    ]


def test_ticks_go_on_through_a_gap_of_the_record() -> None:
    rows = samples_from_rows([(NIGHT_NS + at * MS, "G1", {"frequency_hz": 50.0}) for at in (0, 1000)])
    watched = Watched({"pmu": Record(rows)}, period_s=0.25)
    assert [each[1] for each in watched.seen if each[0] == "tick"] == [0, 250, 500, 750, 1000]


def test_rows_that_are_apart_come_one_by_one_as_they_did_live() -> None:
    watched = Watched({"meter": Record(rising(5, step_ms=100))})
    assert [batch.rows for batch in watched.batches] == [1, 1, 1, 1, 1]


def test_sources_and_messages_come_in_order_of_time() -> None:
    pmu = Record(rising(10), (Timed(NIGHT_NS + 50 * MS, alarm(50)),))
    other = Record(samples_from_rows([(NIGHT_NS + 90 * MS, "G2", {"frequency_hz": 1.0})]))
    watched = Watched({"pmu": pmu, "other": other})
    assert [each[:2] for each in watched.seen] == [
        ("rows", 40),
        ("alarm", 50),
        ("rows", 80),
        ("rows", 90),
        ("rows", 180),
    ]


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=40),
    st.lists(st.integers(0, 3000), max_size=40),
    st.sampled_from([None, 0.03, 0.05, 0.25, 1.5]),
)
def test_nothing_is_lost_or_comes_before_its_time(one: list[int], two: list[int], period_s: float | None) -> None:
    records = {
        name: Record(
            samples_from_rows([(NIGHT_NS + at * MS, name, {"frequency_hz": float(at)}) for at in sorted(times)])
            if times
            else None
        )
        for name, times in (("one", one), ("two", two))
    }
    watched = Watched(records, period_s=period_s)
    rows = [value for batch in watched.batches for value in batch.columns["frequency_hz"].tolist()]
    assert sorted(rows) == sorted(map(float, [*one, *two]))
    assert all(at <= now for _, at, now in watched.seen)
    seen_ms = [at for _, at, _ in watched.seen]
    assert seen_ms == sorted(seen_ms)
    if period_s is not None:
        first, last = min([*one, *two]), max([*one, *two])
        period_ns = round(period_s * 1e9)
        wanted = (NIGHT_NS + last * MS) // period_ns - (NIGHT_NS + first * MS) // period_ns
        ticks = sum(each[0] == "tick" for each in watched.seen)
        assert ticks == wanted + 1


def test_sources_and_sinks_of_the_flow_are_never_opened() -> None:
    watched = Watched({"pmu": Record(rising(10))})
    assert watched.script.opened == 0
    assert watched.sink.messages == []
    assert watched.run.counters["watch"].get("rows_out") == 10


def test_plan_keeps_nothing_that_leads_outside() -> None:
    watched = Watched({"pmu": Record(rising(1))})
    assert all(not node.connections for node in watched.run.plan.nodes if node.id != "watch")
    assert [node.id for node in watched.run.plan.nodes] == ["pmu", "watch", "sink"]


def test_how_far_it_is_is_told_up_to_the_end() -> None:
    watched = Watched({"pmu": Record(rising(150))})
    assert watched.told_ns == sorted(watched.told_ns)
    assert watched.told_ns[-1] == span_of({"pmu": Record(rising(150))})[1]


def test_records_of_nothing_have_no_span() -> None:
    with pytest.raises(ValueError, match="min"):
        span_of({"pmu": Record(None)})


def test_plan_itself_stays_as_it_is() -> None:
    node = toy_nodes.planned("pmu", toy_nodes.source(toy_nodes.ScriptedSource([])))
    plan = toy_nodes.plan(node)
    made = plan_on_record(plan, {"pmu": Record(rising(1))})
    assert plan.nodes == (node,)
    assert dataclasses.replace(made, nodes=()) == dataclasses.replace(plan, nodes=())
