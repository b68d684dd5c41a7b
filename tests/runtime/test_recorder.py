"""Recording a run: all that nodes gave is in it, in order, and a run that is not asked is not recorded."""

from __future__ import annotations

import dataclasses
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import toy_nodes
from broker import wait_until
from shipped import RUNTIMES

from edgeflex_flow import recording
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import Samples, samples_from_rows
from edgeflex_flow.runtime import recording_requests
from edgeflex_flow.runtime.recorder import Recorder
from edgeflex_flow.runtime.recording_requests import (
    RecordingRequest,
    asked_to_record,
    nodes_by_flow,
    recordings_on_request,
)
from edgeflex_flow.runtime.run import FlowRun

BATCHES = 200


def script() -> list[list[Samples]]:
    return [[samples_from_rows([(number, "G1", {"frequency_hz": float(number)})])] for number in range(BATCHES)]


def plan(source: toy_nodes.ScriptedSource, file: Path | None = None) -> Plan:
    nodes = [
        toy_nodes.planned("pmu", toy_nodes.source(source)),
        toy_nodes.planned("pass", toy_nodes.operator(lambda _config, _state, message: [message]), "pmu"),
        toy_nodes.planned("sink", toy_nodes.sink(toy_nodes.CollectingSink()), "pass"),
    ]
    return toy_nodes.plan(*nodes)


def values(folder: Path, node: str) -> list[float]:
    given = recording.read(recording.recordings_in(folder), nodes=[node])
    batches = [each.message for each in given if isinstance(each.message, Samples)]
    return [value for batch in batches for value in batch.columns["frequency_hz"].tolist()]


@pytest.mark.parametrize("execute", RUNTIMES.values(), ids=RUNTIMES)
def test_all_that_nodes_gave_is_recorded_in_order(tmp_path: Path, execute: Callable[[FlowRun], None]) -> None:
    run = FlowRun(plan(toy_nodes.ScriptedSource(script())))
    with Recorder(run, tmp_path, "toy") as recorder:
        execute(run)
    assert (recorder.rows, recorder.lost_rows) == (2 * BATCHES, 0)
    assert values(tmp_path, "pmu") == values(tmp_path, "pass") == [float(number) for number in range(BATCHES)]


def test_only_the_wires_that_are_wanted_are_recorded(tmp_path: Path) -> None:
    run = FlowRun(plan(toy_nodes.ScriptedSource(script())))
    with Recorder(run, tmp_path, "toy", nodes=["pass"], at_once=True):
        RUNTIMES["inline"](run)
    assert list(recording.about(recording.recordings_in(tmp_path)[0]).nodes) == ["pass"]
    assert values(tmp_path, "pmu") == []
    assert len(values(tmp_path, "pass")) == BATCHES


def test_of_a_flow_on_several_processes_sources_alone_are_recorded(tmp_path: Path) -> None:
    """Its operators work in the others, too: what they give here is a part that nobody could make sense of."""
    run = FlowRun(plan(toy_nodes.ScriptedSource(script())))
    run.is_shared = True
    with Recorder(run, tmp_path, "toy", at_once=True):
        RUNTIMES["inline"](run)
    told = recording.about(recording.recordings_in(tmp_path)[0])
    assert (told.shared, list(told.nodes)) == (True, ["pmu"])


def test_rows_that_the_disk_did_not_take_are_told_in_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FlowRun(plan(toy_nodes.ScriptedSource([])))
    recorder = Recorder(run, tmp_path, "toy", at_once=True)
    with recorder:
        recorder.begin()
        for number, full in enumerate((False, True, False)):
            with monkeypatch.context() as disk:
                if full:
                    disk.setattr(recorder._writer, "write", _full)
                recorder.given("pmu", [samples_from_rows([(number, "G1", {"frequency_hz": 50.0})])])
                recorder._write()
    [file] = recording.recordings_in(tmp_path)
    assert recording.lost_rows_of(file) == 1
    assert recording.overview([file], ["pmu"]).gaps == (f"{file.name} and on: 1 rows were lost as it was recorded",)
    run.wakeup.close()


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_sink_has_no_wire_to_record(tmp_path: Path) -> None:
    run = FlowRun(plan(toy_nodes.ScriptedSource([])))
    try:
        with pytest.raises(ValueError, match="no wire of 'sink'; known: pmu, pass"):
            Recorder(run, tmp_path, "toy", nodes=["sink"])
    finally:
        run.wakeup.close()


def test_what_the_disk_does_not_take_is_counted_and_the_flow_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")
    run = FlowRun(plan(toy_nodes.ScriptedSource(script())))
    with Recorder(run, place, "toy") as recorder:
        RUNTIMES["inline"](run)
    assert (recorder.rows, recorder.lost_rows) == (0, 2 * BATCHES)
    assert run.counters["pass"].get("rows_out") == BATCHES


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_requests, "LOOK_S", 0.02)
    monkeypatch.setattr(recording_requests, "FRESH_S", 0.05)


def asked(run: FlowRun, folder: Path, *, site: str | None = None) -> RecordingRequest:
    return RecordingRequest(site=site or run.plan.site, folder=str(folder), part_bytes=1 << 20)


@pytest.mark.usefixtures("quick")
def test_a_flow_that_runs_records_while_it_is_asked_to(tmp_path: Path) -> None:
    source = toy_nodes.ScriptedSource(script(), endless=True)
    made = dataclasses.replace(plan(source), file=tmp_path / "flow.yaml")
    run = FlowRun(made)
    with recordings_on_request(run):
        thread = threading.Thread(target=RUNTIMES["inline"], args=(run,))
        with asked_to_record(made, asked(run, tmp_path / "rec")):
            wait_until(lambda: run.people.recorders)
            thread.start()
            wait_until(lambda: not source.script)
        wait_until(lambda: not run.people.recorders)
        run.stop()
        thread.join()
    assert len(values(tmp_path / "rec", "pmu")) == BATCHES
    assert [file.name for file in tmp_path.iterdir() if "record" in file.name] == []


@pytest.mark.usefixtures("quick")
def test_a_request_for_another_site_or_one_that_is_stale_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dataclasses.replace(plan(toy_nodes.ScriptedSource([])), file=tmp_path / "flow.yaml")
    run = FlowRun(made)
    requests = recording_requests.RecordingsOnRequest(run)
    with asked_to_record(made, asked(run, tmp_path / "rec", site="elsewhere")):
        requests.look()
    assert run.people.recorders == ()
    with asked_to_record(made, asked(run, tmp_path / "rec")):
        monkeypatch.setattr(recording_requests, "STALE_S", -1.0)
        requests.look()
    assert run.people.recorders == ()
    run.wakeup.close()


@pytest.mark.parametrize(
    ("wires", "found"),
    [
        ((), {"a": (), "b": ()}),
        (("pmu",), {"a": ("pmu",), "b": ("pmu",)}),
        (("event",), {"a": ("event",)}),
        (("pmu", "b/droop"), {"a": ("pmu",), "b": ("pmu", "droop")}),
        (("b/pmu",), {"b": ("pmu",)}),
    ],
)
def test_wires_are_named_by_node_or_by_flow_and_node(wires: tuple[str, ...], found: dict[str, tuple[str, ...]]) -> None:
    assert nodes_by_flow({"a": ("pmu", "event"), "b": ("pmu", "droop")}, wires) == found


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        ("toi/pmu", "no flow 'toi'; known: toy, other; did you mean 'toy'?"),
        ("toy/droop", "flow 'toy' has no wire of 'droop'; known: pmu"),
        ("agc", "no flow has a wire of 'agc'; known: pmu, droop"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(wire: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        nodes_by_flow({"toy": ("pmu",), "other": ("droop",)}, (wire,))


def test_a_request_of_a_stranger_or_from_the_future_is_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dataclasses.replace(plan(toy_nodes.ScriptedSource([])), file=tmp_path / "flow.yaml")
    run = FlowRun(made)
    requests = recording_requests.RecordingsOnRequest(run)
    with asked_to_record(made, asked(run, tmp_path / "rec")):
        [file] = tmp_path.glob(".flow.yaml.record-*")
        ahead_s = time.time() + 3600.0
        os.utime(file, (ahead_s, ahead_s))
        requests.look()
        assert run.people.recorders == ()
        os.utime(file)
        real = Path.stat

        def of_a_stranger(path: Path, **how: bool) -> os.stat_result:
            told = real(path, **how)
            return os.stat_result((*told[:4], 4711, *told[5:])) if path == file else told

        monkeypatch.setattr(Path, "stat", of_a_stranger)
        requests.look()
    assert run.people.recorders == ()
    run.wakeup.close()


def test_flow_files_may_have_any_name(tmp_path: Path) -> None:
    made = dataclasses.replace(plan(toy_nodes.ScriptedSource([])), file=tmp_path / "flow[2].yaml")
    run = FlowRun(made)
    requests = recording_requests.RecordingsOnRequest(run)
    with asked_to_record(made, asked(run, tmp_path / "rec")):
        requests.look()
        assert len(run.people.recorders) == 1
    requests.end_all()
    run.wakeup.close()
