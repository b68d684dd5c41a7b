"""What a run shows to people: wires that they watch, events, dead letters, and what they give once more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from broker import wait_until
from toy_nodes import CollectingSink, ScriptedSource, ToyConfig, batch, operator, plan, planned, sink, source

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Alarm, DeadLetter, Quality, Samples, samples_from_rows
from edgeflex_flow.node import SourceNode, WireMessage, samples_wire
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.letters import (
    KEPT_BYTES,
    LETTERS_KEPT,
    PAYLOAD_BYTES,
    TOLD_AT_ONCE,
    Letters,
    Refused,
    shown_payload,
)
from edgeflex_flow.runtime.run import FlowRun, Replay
from edgeflex_flow.runtime.showing import MOST_EVENTS, MOST_SEEN, SeenMessages, SeenRows, Showing, Shown, seen_rows

Run = Callable[[FlowRun], None]
RUNTIMES: dict[str, Run] = {
    "inline": run_inline,
    "bytewax": run_bytewax,
    "bytewax-2": lambda run: run_bytewax(run, workers=2),
}


@pytest.fixture(params=list(RUNTIMES))
def execute(request: pytest.FixtureRequest) -> Run:
    return RUNTIMES[request.param]


@contextmanager
def running(run: FlowRun, execute: Run) -> Iterator[list[Shown]]:
    """What the run shows while it goes on."""
    told: list[Shown] = []
    with Showing(run, told.append):
        thread = threading.Thread(target=execute, args=(run,))
        thread.start()
        try:
            yield told
        finally:
            run.stop()
            thread.join()


class Picky:
    """Refuses what it sees for the first time."""

    def __init__(self) -> None:
        self.seen = 0

    def step(self, _config: ToyConfig, _state: dict[str, Any], given: Samples) -> Sequence[WireMessage]:
        self.seen += 1
        if self.seen == 1:
            raise BadMessageError("not yet", reason="not_yet")
        return [given]


def replay_when_there(run: FlowRun, told: list[Shown]) -> list[tuple[bool, str]]:
    """Give the first dead letter once more; what came of it."""
    letters = run.people.letters
    assert letters is not None
    wait_until(lambda: letters.has_new or any(each.letters for each in told))
    wait_until(lambda: any(each.letters for each in told) or bool(letters.take_new()))
    found = next(each for number in range(letters.newest - 5, letters.newest + 1) if (each := letters.find(number)))
    outcome: list[tuple[bool, str]] = []
    run.replay(Replay(found, "otto", lambda is_done, text: outcome.append((is_done, text))))
    wait_until(lambda: bool(outcome))
    return outcome


def test_a_message_that_an_operator_refused_is_given_to_its_port_again(execute: Run) -> None:
    picky, out = Picky(), CollectingSink()
    run = FlowRun(
        plan(
            planned("in", source(ScriptedSource([[batch(50.0)]], endless=True))),
            planned("picky", operator(picky.step), "in"),
            planned("out", sink(out), "picky"),
        )
    )
    with running(run, execute) as told:
        assert replay_when_there(run, told) == [(True, "given to 'picky' once more")]
        wait_until(lambda: bool(out.messages))
    [given] = out.messages
    assert isinstance(given, Samples)
    assert given.quality.tolist() == [Quality.REPLAYED]
    assert run.counters["picky"].get("replayed") == 1


def test_messages_that_a_sink_refused_are_given_to_it_again(execute: Run) -> None:
    out = CollectingSink()
    out.error = BadMessageError("full", reason="full")
    script = ScriptedSource([[batch(50.0)]], endless=True)
    run = FlowRun(plan(planned("in", source(script)), planned("out", sink(out), "in")))
    with running(run, execute) as told:
        wait_until(lambda: run.counters["out"].get("full") == 1)
        out.error = None
        replay_when_there(run, told)
        wait_until(lambda: bool(out.messages))
    [again] = [each for each in out.messages if isinstance(each, Samples)]
    assert again.quality.tolist() == [Quality.REPLAYED]
    assert again.quality.dtype == np.uint16, "kernels take no other"


class Decoding(ScriptedSource):
    """Could not read `50`, and can now."""

    def decode_again(self, payload: bytes) -> Sequence[WireMessage]:
        if payload != b"50":
            raise BadMessageError("no number", reason="bad_payload", payload=payload)
        return [batch(float(payload))]


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [
        (b"50", (True, "decoded by 'in' once more: 1 message(s)")),
        (b"fifty", (False, "refused again: no number")),
    ],
)
def test_a_payload_that_a_source_refused_is_decoded_again(payload: bytes, outcome: tuple[bool, str]) -> None:
    refusal = BadMessageError("cannot be read", reason="bad_payload", payload=payload)
    made, out = Decoding([refusal], endless=True), CollectingSink()
    kind = SourceNode(
        "toy_source",
        ToyConfig,
        lambda _config, _inputs: samples_wire("frequency_hz"),
        lambda _config, _context: made,
        decodes=True,
    )
    run = FlowRun(plan(planned("in", kind), planned("out", sink(out), "in")))
    with running(run, run_inline) as told:
        assert replay_when_there(run, told) == [outcome]
        if outcome[0]:
            wait_until(lambda: bool(out.messages))
            assert isinstance(out.messages[0], Samples)
            assert out.messages[0].quality.tolist() == [Quality.REPLAYED]


def test_a_letter_says_why_it_cannot_be_given_again() -> None:
    letters = Letters()
    told = DeadLetter(node="in", reason="bad", text="bad", time_ns=0)
    letters.add(told, b"x", None, decodes=False)
    letters.add(told, b"", None, decodes=True)
    letters.add(told, b"x" * (PAYLOAD_BYTES + 1), None, decodes=True)
    letters.add(told, b"x", None, decodes=True)
    whys = [head.why_not for head in letters.take_new()]
    assert whys == [
        "its node cannot decode a payload by itself",
        "nothing of it was kept",
        f"only its first {PAYLOAD_BYTES} bytes were kept",
        "",
    ]


def test_letters_are_bounded_in_number_and_bytes() -> None:
    letters = Letters()
    told = DeadLetter(node="in", reason="bad", text="bad", time_ns=0)
    for _ in range(LETTERS_KEPT + 100):
        letters.add(told, b"x", None, decodes=True)
    heads = letters.take_new()
    assert len(heads) == TOLD_AT_ONCE
    assert letters.find(heads[-1].id - LETTERS_KEPT) is None
    assert letters.find(heads[-1].id - LETTERS_KEPT + 1) is not None
    for _ in range(2 * KEPT_BYTES // PAYLOAD_BYTES):
        letters.add(told, b"x" * PAYLOAD_BYTES, None, decodes=True)
    newest = letters.newest
    assert letters.find(newest - KEPT_BYTES // PAYLOAD_BYTES) is None
    assert letters.find(newest) is not None


def test_messages_of_a_letter_are_shown_as_json() -> None:
    letters = Letters()
    told = DeadLetter(node="op", reason="bad", text="bad", time_ns=0)
    letters.add(told, b"", Refused("in", [batch(50.0, 49.0)]), decodes=False)
    found = letters.find(letters.newest)
    assert found is not None
    assert b'"frequency_hz":[50.0,49.0]' in shown_payload(found)


def test_only_watched_nodes_are_tapped_and_the_newest_rows_are_told() -> None:
    turns = 200
    script: list[Sequence[WireMessage] | Exception] = [
        [samples_from_rows([(turn, "G1", {"frequency_hz": float(turn)})])] for turn in range(turns)
    ]
    made, out = ScriptedSource(script), CollectingSink()
    run = FlowRun(plan(planned("in", source(made)), planned("out", sink(out), "in")))
    told: list[Shown] = []
    with Showing(run, told.append) as showing:
        assert run.taps == {}
        showing.watch(["in", "no_such_node"])
        assert set(run.taps) == {"in"}
        run_inline(run)

        def seen() -> list[SeenRows]:
            return [each for shown in list(told) for each in shown.seen if isinstance(each, SeenRows)]

        wait_until(lambda: any(turns - 1 in each.columns["frequency_hz"] for each in seen()))
        showing.watch([])
        assert run.taps == {}
    assert all(len(each.time_s) <= MOST_SEEN for each in seen())
    assert sum(len(each.time_s) + each.left_out for each in seen()) == turns


def test_rows_hold_no_number_that_json_has_not() -> None:
    rows = samples_from_rows([(0, "G1", {"frequency_hz": float("nan")}), (1, "G2", {"frequency_hz": 50.0})])
    seen = seen_rows("in", [rows], 7)
    assert (seen.columns["frequency_hz"], seen.device, seen.left_out) == ([None, 50.0], ["G1", "G2"], 5)


def test_events_are_told_without_anybody_watching_and_of_many_the_newest() -> None:
    alarms = [Alarm(source="in", severity="info", text=str(number), time_ns=number) for number in range(500)]
    made, out = ScriptedSource([alarms]), CollectingSink()
    run = FlowRun(plan(planned("in", source(made)), planned("out", sink(out), "in")))
    told: list[Shown] = []
    with Showing(run, told.append):
        run_inline(run)
    events = [each for shown in told for each in shown.events]
    assert events[-1].time_ns == 499
    assert len(events) <= 2 * MOST_EVENTS
    assert not any(isinstance(each, SeenMessages) for shown in told for each in shown.seen)
