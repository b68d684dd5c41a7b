"""An edited flow beside a recording of the running one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from shipped import FLOWS, LOCAL

from edgeflex_flow.cli.golden.running import run_test
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.shadowed.compare import Deviation
from edgeflex_flow.cli.shadowed.trial import Trial, settle_s
from edgeflex_flow.flowfile import Plan, load_flow
from edgeflex_flow.recording import Follower, Turn

TEST = "frequency_control_droop"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What crossed the wires while a policy halved the reserve."""
    folder = tmp_path_factory.mktemp("recorded")
    assert run_test(FLOWS / "tests" / f"{TEST}.yaml", shipped_registry(), record=folder).error == ""
    return folder


def plan(folder: Path, *changes: tuple[str, str]) -> Plan:
    """The shipped flow, edited."""
    text = (FLOWS / "frequency_control.yaml").read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    file = folder / "edited.yaml"
    file.write_text(text)
    return load_flow(file, shipped_registry(), site=LOCAL, connections="optional")


def shipped() -> Plan:
    return load_flow(FLOWS / "frequency_control.yaml", shipped_registry(), site=LOCAL, connections="optional")


def trial_of(new: Plan) -> Trial:
    return Trial(shipped(), new, shipped_registry(), tolerance=1e-9, apart_ns=10**9, settle_ns=0)


def taken(trial: Trial, folder: Path) -> list[Deviation]:
    return [each for turn in _settled(Follower(folder).turns()) for each in trial.take(turn)]


def _settled(turns: Iterator[Turn]) -> Iterator[Turn]:
    """As they come, and in the end one that tells that time went on."""
    last = None
    for turn in turns:
        yield turn
        last = turn
    assert last is not None
    yield last._replace(entries=[], reached_ns=last.reached_ns + 10**11)


def test_the_same_flow_does_not_deviate_and_is_what_runs(recorded: Path, tmp_path: Path) -> None:
    trial = trial_of(plan(tmp_path))
    assert taken(trial, recorded) == []
    assert trial.compared > 500
    assert (trial.deviating, trial.agrees) == (0, 1.0)


def test_what_an_edit_changes_is_told(recorded: Path, tmp_path: Path) -> None:
    trial = trial_of(plan(tmp_path, ("default: 40 MW", "default: 30 MW")))
    found = taken(trial, recorded)
    assert {each.node for each in found} >= {"droop"}
    droop = {(each.running, each.new) for each in found if each.node == "droop"}
    assert ("40000000", "30000000") in droop
    assert all(0.0 < abs(float(new)) < abs(float(running)) for running, new in droop)


def test_settings_of_policies_hold_for_the_edited_flow_too(recorded: Path, tmp_path: Path) -> None:
    """The reserve is the policy's in the end, whatever the edited default."""
    trial = trial_of(plan(tmp_path, ("default: 40 MW", "default: 30 MW")))
    found = [each for each in taken(trial, recorded) if each.node == "droop"]
    last_ns = max(each.time_ns for each in found)
    assert last_ns < trial.reached_ns - 10**11 - 3 * 10**9  # the policy came 4 s before the end
    assert not trial.notes


def test_a_policy_that_the_edited_flow_refuses_is_noted(recorded: Path, tmp_path: Path) -> None:
    trial = trial_of(plan(tmp_path, ("default: 40 MW, min: 0 MW", "default: 40 MW, min: 30 MW")))
    taken(trial, recorded)
    [note] = trial.notes
    assert note.startswith("policy frequency_reserve.fcr_power at droop.fcr_power: the edited flow refuses it:")


def test_a_source_that_the_running_flow_lacks_is_noted(recorded: Path, tmp_path: Path) -> None:
    more = "  more: {kind: samples_udp, port: 0, format: json.edgeflex, columns: [frequency_hz, active_power_w]}"
    new = plan(
        tmp_path,
        ("nodes:\n", f"nodes:\n{more}\n"),
        ("kind: frequency_droop\n    from: pmu", "kind: frequency_droop\n    from: [pmu, more]"),
    )
    trial = trial_of(new)
    taken(trial, recorded)
    assert list(trial.notes) == ["source 'more' is new: nothing comes of it here"]


def test_when_the_running_flow_begins_anew_so_do_both(recorded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "twice"
    folder.mkdir()
    [file] = recorded.glob("*.rec")
    shutil.copy(file, folder / "a-0001.rec")
    shutil.copy(file, folder / "b-0001.rec")
    trial = trial_of(plan(tmp_path))
    assert taken(trial, folder) == []
    assert len(trial.notes) == 1
    assert "the running flow began anew" in next(iter(trial.notes))


def test_a_process_that_was_left_and_goes_on_alone_is_the_running_one_again(recorded: Path, tmp_path: Path) -> None:
    [turn] = Follower(recorded).turns()
    old, new = tmp_path / "old-0001.rec", tmp_path / "new-0001.rec"
    trial = trial_of(plan(tmp_path))
    trial.take(turn._replace(file=old))
    trial.take(turn._replace(file=new))
    assert len(trial.notes) == 1
    last = turn._replace(file=old, entries=[], reached_ns=turn.reached_ns + 10**9)
    trial.take(last)  # the last of the process that was left
    assert len(trial.notes) == 1
    trial.take(last._replace(reached_ns=turn.reached_ns + 10**10))
    assert len(trial.notes) == 2


def test_it_settles_for_twice_the_longest_window(tmp_path: Path) -> None:
    flow = load_flow(FLOWS / "inertia_estimation.yaml", shipped_registry(), site=LOCAL, connections="optional")
    assert settle_s([flow]) > settle_s([plan(tmp_path)]) == 5.0


def test_what_only_one_flow_gives_to_a_sink_is_told(recorded: Path, tmp_path: Path) -> None:
    without = plan(tmp_path, ("from: [pmu, droop, inertia, agc, dispatch]", "from: [droop, inertia, agc, dispatch]"))
    found = taken(trial_of(without), recorded)
    assert {(each.node, each.what) for each in found} == {("pmu → archive", "only running")}


def test_a_setting_that_only_the_edited_flow_binds_to_a_policy_is_noted(recorded: Path, tmp_path: Path) -> None:
    bound = "hold_for: {policy: frequency_hold, field: hold_for, default: 5s, min: 1s, max: 10s}"
    trial = trial_of(plan(tmp_path, ("kind: frequency_droop\n", f"kind: frequency_droop\n    {bound}\n")))
    taken(trial, recorded)
    note = "policy frequency_hold.hold_for at droop.hold_for: only the edited flow has it; its default holds here"
    assert note in trial.notes


def test_settings_of_sources_and_sinks_are_said_not_to_be_judged(recorded: Path, tmp_path: Path) -> None:
    trial = trial_of(plan(tmp_path, ("qos: 1", "qos: 0")))
    assert taken(trial, recorded) == []
    assert all(note.startswith("not judged, since sources and sinks are not opened: ") for note in trial.notes)
    assert any("qos: 1 → 0" in note for note in trial.notes)
