"""`edgeflex record` of a flow that runs, and `edgeflex replay` of what was recorded."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from broker import wait_until
from click.testing import CliRunner, Result

from edgeflex_flow import recording
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.record import record
from edgeflex_flow.cli.replay import replay
from edgeflex_flow.messages import FrequencyEvent, Quality, Samples
from edgeflex_flow.recording import RecordingWriter
from edgeflex_services.broker import free_udp_port
from edgeflex_services.pmu_simulator import PmuSimulator

FLOW = """
flow: watch
params: {port: 4713}
nodes:
  pmu: {kind: pmu_udp, port: "${port}"}
  rocof: {kind: rocof, from: pmu, window: 500ms}
  event: {kind: frequency_event, from: rocof}
  out: {kind: file_write, from: event, path: events.jsonl}
"""


def run(command: Any, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments], obj=shipped_registry())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow that ran while PMUs saw an event, and the recording of it in `rec`."""
    folder = tmp_path_factory.mktemp("recorded")
    flow = folder / "watch.yaml"
    flow.write_text(FLOW)
    port = free_udp_port()
    command = [sys.executable, "-m", "edgeflex_flow", "run", str(flow), "-D", f"port={port}"]
    stop = threading.Event()
    sending = threading.Thread(target=PmuSimulator("127.0.0.1", port, event_at_s=9.0, loop=False).run, args=(stop,))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "runs" in line:
                    break
            sending.start()
            told = run(record, flow, "--to", folder / "rec", "--for", "12s", "--json")
            assert told.exit_code == 0, told.output
            assert list(json.loads(told.stdout)["files"])
        finally:
            stop.set()
            sending.join()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60.0)
    return folder


pytestmark = pytest.mark.long


def events(place: Path) -> list[FrequencyEvent]:
    given = recording.read(recording.recordings_in(place), nodes=["event"])
    return [each.message for each in given if isinstance(each.message, FrequencyEvent)]


def test_the_recording_has_all_wires_with_both_times(folder: Path) -> None:
    [file] = recording.recordings_in(folder / "rec")
    told = recording.about(file)
    assert (told.flow, list(told.nodes)) == ("watch", ["pmu", "rocof", "event"])
    batches = [each.message for each in recording.read([file], nodes=["pmu"]) if isinstance(each.message, Samples)]
    assert sum(batch.rows for batch in batches) > 4000
    assert all(0 <= batch.received_ns - int(batch.time_ns[0]) < 5_000_000_000 for batch in batches[50:])


def test_two_replays_give_the_same_bytes_and_the_events_that_there_were(folder: Path) -> None:
    made = []
    for name in ("one", "other"):
        told = run(
            replay, folder / "watch.yaml", "--record", folder / "rec", "--to", folder / name, "--lines",
            folder / f"{name}.jsonl", "--json",
        )  # fmt: skip
        assert told.exit_code == 0, told.output
        [file] = recording.recordings_in(folder / name)
        made.append((file.read_bytes(), (folder / f"{name}.jsonl").read_bytes()))
    assert made[0] == made[1]
    live, again = events(folder / "rec"), events(folder / "one")
    assert [each.id for each in live] == [each.id for each in again]
    assert len(live) >= 10
    assert [each.detected_time_ns for each in live] == [each.detected_time_ns for each in again]
    assert {each.quality for each in again} == {int(Quality.REPLAYED)}
    assert not (folder / "events.jsonl").read_bytes().count(b'"quality":64')


def test_a_replay_may_be_paced_sent_and_of_a_part_alone(folder: Path, tmp_path: Path) -> None:
    flow = tmp_path / "watch.yaml"
    flow.write_text(FLOW)
    told = run(replay, flow, "--record", folder / "rec", "--speed", "20", "--send", "--json")
    assert told.exit_code == 0, told.output
    facts = json.loads(told.stdout)
    assert facts["took_s"] >= facts["recorded_s"] / 20
    assert len((tmp_path / "events.jsonl").read_bytes().splitlines()) == len(events(folder / "rec"))
    whole = facts["nodes"]["pmu"]["rows_out"]
    told = run(replay, flow, "--record", folder / "rec", "--begin", "2200-01-01T00:00:00Z", "--json")
    assert told.exit_code == 1
    assert "nothing of it is from --begin to --end" in told.stderr
    assert whole > 4000


def test_of_several_flows_in_a_folder_this_one_is_replayed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "rec", tmp_path / "rec")
    [own] = recording.recordings_in(folder / "rec")
    about = msgspec.structs.replace(recording.about(own), flow="another")
    writer = RecordingWriter(tmp_path / "rec", "another", about)
    writer.write(list(recording.read([own], nodes=["pmu"]))[:50], about.begun_ns)
    writer.close()
    rows = []
    for place in (folder / "rec", tmp_path / "rec"):
        told = run(replay, folder / "watch.yaml", "--record", place, "--json")
        assert told.exit_code == 0, told.output
        rows.append(json.loads(told.stdout)["nodes"]["pmu"]["rows_out"])
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--record", "nothing.rec"], 1, "there is no such recording"),
        (["--record", "rec", "--speed", "0"], 2, "expected max, real or a positive number; got '0'"),
        ([], 2, "Missing option '--record'"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(folder)
    told = run(replay, "watch.yaml", *arguments)
    assert (told.exit_code, words in told.output) == (code, True), told.output


def test_another_flow_says_which_sources_the_recording_has(folder: Path, tmp_path: Path) -> None:
    flow = tmp_path / "watch.yaml"
    flow.write_text(FLOW.replace("pmu:", "north:").replace("from: pmu", "from: north"))
    told = run(replay, flow, "--record", folder / "rec")
    assert told.exit_code == 1
    assert "no source of 'watch' is in it: north; it has event, pmu, rocof" in told.output


def test_a_flow_that_does_not_run_is_said_to_give_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeflex_flow.cli.record.NOBODY_AFTER_S", 0.1)
    told = run(record, folder / "watch.yaml", "--to", tmp_path / "rec")
    assert told.exit_code == 3
    assert "nothing came of watch: does it run on this machine" in told.output
    wait_until(lambda: not [each for each in folder.iterdir() if "record-" in each.name])


def test_a_wire_that_there_is_not_is_told_with_those_that_there_are(folder: Path, tmp_path: Path) -> None:
    told = run(record, folder / "watch.yaml", "--wires", "out", "--to", tmp_path / "rec")
    assert told.exit_code == 2
    assert "flow 'watch' has no wire of 'out'; known: pmu, rocof, event" in told.output
