"""Explaining messages: what is behind them, and whether the same comes of it again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from click.testing import CliRunner, Result
from shipped import FLOWS, LOCAL

from edgeflex_connectors.recording_csv import read_csv_table
from edgeflex_connectors.sqlite import SqliteConfig, SqliteStore
from edgeflex_connectors.store import stored_message
from edgeflex_flow import recording
from edgeflex_flow.cli.explain import explain
from edgeflex_flow.cli.explained.identity import identity_of
from edgeflex_flow.cli.golden.running import run_test
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.replay import replay
from edgeflex_flow.messages import FrequencyEvent, InertiaEstimate, Message, Samples, Setpoints
from edgeflex_flow.recording import Entry, Given, RecordingWriter

_Message = TypeVar("_Message", bound=Message)
RECORDED = ("frequency_events", "inertia_estimation", "frequency_control_droop", "inertia_on_request")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What crossed the wires in golden tests of shipped flows, a recording each."""
    folder = tmp_path_factory.mktemp("recordings")
    for name in RECORDED:
        assert run_test(FLOWS / "tests" / f"{name}.yaml", shipped_registry(), record=folder).error == ""
    return folder


def told(*arguments: object, command: Any = explain) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments], obj=shipped_registry())


def explained(*arguments: object, code: int = 0) -> dict[str, Any]:
    result = told(*arguments, "--json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def file_of(folder: Path, name: str) -> Path:
    return folder / f"{name}-0001.rec"


def messages(file: Path, kind: type[_Message]) -> list[_Message]:
    return [each.message for each in recording.read([file]) if isinstance(each.message, kind)]


def rewritten(file: Path, folder: Path, change: Callable[[Entry], Entry | None]) -> Path:
    """The recording with entries as they are changed; None leaves one out."""
    writer = RecordingWriter(folder, "changed", recording.about(file))
    entries = [new for each in recording.read_run([file]) if (new := change(each)) is not None]
    writer.write(entries, entries[-1].at_ns)
    writer.close()
    return writer.files[0]


def test_an_event_rests_on_samples_settings_and_policies_as_they_were(recordings: Path) -> None:
    file = file_of(recordings, "frequency_events")
    event = messages(file, FrequencyEvent)[0]
    found = explained(event.id, "--record", file)
    assert (found["id"], found["node"], found["flow"]) == (event.id, "event", "frequency_events")
    assert found["revision"] == recording.about(file).revision
    assert [node["node"] for node in found["nodes"]] == ["pmu", "rocof", "event"]
    assert all(node["version"] and node["code"] == node["code_now"] for node in found["nodes"])
    assert found["nodes"][-1]["policies"] == event.policies
    settings = {each["name"]: each["value"] for each in found["nodes"][-1]["settings"]}
    assert settings["confirm"] == "300ms"
    [samples] = found["samples"]
    assert samples["devices"] == [event.device]
    assert samples["first_ns"] < event.onset_time_ns <= event.detected_time_ns == samples["last_ns"]
    assert 0 < samples["rows"] < 200


def test_settings_are_those_of_the_moment(recordings: Path) -> None:
    file = file_of(recordings, "frequency_control_droop")
    droops = [each for each in messages(file, Setpoints) if each.controller == "droop"]
    reserves = []
    for setpoints in (droops[0], droops[-1]):
        found = explained(identity_of(setpoints), "--record", file)
        [node] = [each for each in found["nodes"] if each["node"] == "droop"]
        assert node["policies"] == setpoints.policies
        reserves.append(next(each["value"] for each in node["settings"] if each["name"] == "fcr_power"))
    assert reserves == ["40 MW", "20 MW"]


@pytest.mark.parametrize("name", RECORDED)
def test_what_operators_gave_comes_out_the_same_again(recordings: Path, name: str) -> None:
    file = file_of(recordings, name)
    made = [*messages(file, InertiaEstimate)[-1:], *messages(file, Setpoints)[-1:]] or messages(file, FrequencyEvent)[
        :1
    ]
    assert made
    for message in made:
        found = explained(identity_of(message), "--record", file, "--replay")
        assert found["again"]["same"]
        assert found["again"]["exact"]


def test_an_estimate_rests_on_the_event_and_the_samples_around_it(recordings: Path) -> None:
    file = file_of(recordings, "inertia_estimation")
    estimate = messages(file, InertiaEstimate)[0]
    found = explained(f"{estimate.event_id}/{estimate.device}", "--record", file, "--replay")
    [samples] = found["samples"]
    assert samples["first_ns"] <= estimate.begin_ns
    assert samples["last_ns"] <= estimate.end_ns
    assert len(samples["devices"]) == 10
    assert found["again"]["suffices"]["rows"] < found["again"]["rows"]


def test_set_points_rest_on_the_measurements_that_they_name(recordings: Path) -> None:
    file = file_of(recordings, "frequency_control_droop")
    setpoints = [each for each in messages(file, Setpoints) if each.measured_end_ns is not None][-1]
    found = explained(f"{setpoints.controller}@{setpoints.time_ns}/{setpoints.quantity}", "--record", file)
    assert {each["last_ns"] for each in found["samples"]} == {setpoints.measured_end_ns}
    assert {each["first_ns"] for each in found["samples"]} == {setpoints.measured_begin_ns}


def test_a_message_that_was_changed_does_not_come_out_the_same(recordings: Path, tmp_path: Path) -> None:
    file = file_of(recordings, "frequency_events")
    event = messages(file, FrequencyEvent)[0]

    def forged(entry: Entry) -> Entry:
        if isinstance(entry, Given) and entry.message == event:
            return entry._replace(message=msgspec.structs.replace(event, rocof_hz_per_s=-9.0))
        return entry

    found = explained(event.id, "--record", rewritten(file, tmp_path, forged), "--replay", code=5)
    assert found["again"]["why"].startswith("other values came of it")
    [difference] = found["again"]["differences"]
    assert (difference["name"], difference["recorded"]) == ("rocof_hz_per_s", "-9.0")


def test_rows_that_are_missing_show(recordings: Path, tmp_path: Path) -> None:
    file = file_of(recordings, "frequency_events")
    event = messages(file, FrequencyEvent)[0]

    def without_onset(entry: Entry) -> Entry | None:
        if not isinstance(entry, Given) or not isinstance(entry.message, Samples) or entry.node != "pmu":
            return entry
        left = entry.message.take(abs(entry.message.time_ns - event.onset_time_ns) > 300_000_000)
        return entry._replace(message=left) if left.rows else None

    found = explained(event.id, "--record", rewritten(file, tmp_path, without_onset), "--replay", code=5)
    assert not found["again"]["same"]


def test_a_source_that_was_not_recorded_is_named(recordings: Path, tmp_path: Path) -> None:
    file = file_of(recordings, "frequency_events")
    event = messages(file, FrequencyEvent)[0]
    about = recording.about(file)
    nodes = {name: node for name, node in about.nodes.items() if name != "pmu"}
    writer = RecordingWriter(tmp_path, "no_source", msgspec.structs.replace(about, nodes=nodes))
    entries = [each for each in recording.read_run([file]) if not isinstance(each, Given) or each.node != "pmu"]
    writer.write(entries, entries[-1].at_ns)
    writer.close()
    found = explained(event.id, "--record", tmp_path, "--replay", code=5)
    assert found["again"]["why"] == "the recording lacks what pmu gave: record that wire as well"


def test_the_flow_file_that_ran_is_told_from_another_one(recordings: Path, tmp_path: Path) -> None:
    file = file_of(recordings, "inertia_on_request")
    name = identity_of(messages(file, FrequencyEvent)[0])
    shutil.copytree(FLOWS, tmp_path / "flows")
    flow = tmp_path / "flows" / "inertia_on_request.yaml"
    site = tmp_path / "flows" / "sites" / "local.yaml"
    asked = explained(name, "--record", file, "--flow", flow, "--site", site)
    flow.write_text(flow.read_text().replace("window: 500ms", "window: 1s"))
    edited = explained(name, "--record", file, "--flow", flow, "--site", site)
    assert asked["revision_now"] != edited["revision_now"]


def test_the_flow_file_is_known_as_the_one_that_ran(recordings: Path) -> None:
    file = file_of(recordings, "frequency_control_droop")
    setpoints = messages(file, Setpoints)[0]
    found = explained(
        identity_of(setpoints), "--record", file, "--flow", FLOWS / "frequency_control.yaml", "--site", LOCAL
    )
    assert found["revision_now"] == found["revision"]


def test_samples_are_written_as_a_table_that_replays_to_the_same_event(recordings: Path, tmp_path: Path) -> None:
    file = file_of(recordings, "frequency_events")
    event = messages(file, FrequencyEvent)[0]
    table = tmp_path / "behind.csv"
    found = explained(event.id, "--record", file, "--samples", table)
    assert read_csv_table(table).rows == found["samples"][0]["rows"]
    lines = tmp_path / "again.jsonl"
    result = told(
        FLOWS / "frequency_events.yaml", "--site", LOCAL, "--record", f"pmu={table}", "--lines", lines, "--json",
        command=replay,
    )  # fmt: skip
    assert result.exit_code == 0, result.output


def test_a_picture_is_drawn(recordings: Path, tmp_path: Path) -> None:
    file = file_of(recordings, "frequency_events")
    picture = tmp_path / "behind.svg"
    result = told(messages(file, FrequencyEvent)[0].id, "--record", file, "--picture", picture)
    assert result.exit_code == 0, result.output
    assert "frequency_hz" in picture.read_text()


def test_people_read_the_same(recordings: Path) -> None:
    file = file_of(recordings, "frequency_events")
    event = messages(file, FrequencyEvent)[0]
    result = told(event.id, "--record", file, "--replay")
    for text in (
        event.id,
        "samples behind it",
        "rocof_trigger.onset",
        "confirm",
        "computed again: the same to the last",
    ):
        assert text in result.stdout


def test_without_an_id_the_newest_messages_are_listed(recordings: Path) -> None:
    result = told("--record", recordings, "--last", "3", "--json")
    listed = json.loads(result.stdout)
    assert len(listed) == 3
    assert [each["at_ns"] for each in listed] == sorted(each["at_ns"] for each in listed)
    for each in listed:
        assert told(each["id"], "--record", recordings).exit_code == 0
    assert "the newest 2 of" in told("--record", recordings, "--last", "2").stdout


def test_started_and_ended_are_told_apart(recordings: Path) -> None:
    file = file_of(recordings, "frequency_events")
    twice = next(each.id for each in messages(file, FrequencyEvent) if each.state == "ended")  # and it started before
    states = [
        json.loads(json.dumps(explained(twice, "--record", file, "--which", number)["message"]))["state"]
        for number in (1, 2)
    ]
    assert states == ["started", "ended"]
    assert told(twice, "--record", file, "--which", 3).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nobody@1"], 3, "nothing in the recordings is called 'nobody@1'"),
        (["x", "--record", "none.rec"], 3, "there is no none.rec: `edgeflex record` makes recordings"),
        (["x", "--record", "."], 3, ".: no recordings (*.rec) are there; `edgeflex record` makes them"),
        (["x", "--record", "store:history"], 3, "store:history is no recording: --flow FILE says which flow's it is"),
    ],
)
def test_what_is_not_there_is_said(
    recordings: Path, arguments: Sequence[str], code: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = [] if "--record" in arguments else ["--record", recordings]
    result = told(*arguments, *where)
    assert result.exit_code == code
    assert text in result.stderr


def test_a_store_explains_what_it_has_kept(recordings: Path, tmp_path: Path) -> None:
    file = file_of(recordings, "frequency_control_droop")
    database = tmp_path / "history.db"
    store = SqliteStore(SqliteConfig(path=str(database)), database)
    store.open()
    samples = [each.message for each in recording.read([file]) if isinstance(each.message, Samples)]
    made = messages(file, Setpoints)
    store.write(samples, [stored_message(each) for each in made])
    store.close()
    droop = [each for each in made if each.controller == "droop"][20]
    found = explained(
        identity_of(droop),
        "--record",
        database,
        "--flow",
        FLOWS / "frequency_control.yaml",
        "--site",
        LOCAL,
        "--replay",
    )
    assert (found["node"], found["again"]["same"], found["again"]["exact"]) == ("droop", True, False)
    assert found["notes"] == [
        "settings, periods and versions are those of the flow file now: a store does not keep them"
    ]
