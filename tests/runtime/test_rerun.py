"""Computing again what a run computed, from its recording alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from shipped import FLOWS

from edgeflex_flow import recording
from edgeflex_flow.cli.explained.identity import essence
from edgeflex_flow.cli.golden.running import run_test
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import EventWindow, Samples
from edgeflex_flow.node import OperatorNode, WireMessage
from edgeflex_flow.recording import BadRecordingError, Entry, Given, Settings, Ticked
from edgeflex_flow.runtime.rerun import Rerun, plan_of

GOLDEN_TESTS = sorted((FLOWS / "tests").glob("*.yaml"))


def recorded(name: str, folder: Path) -> list[Path]:
    result = run_test(FLOWS / "tests" / name, shipped_registry(), record=folder)
    assert result.error == ""
    return recording.recordings_in(folder)


def plan_at_first(files: list[Path]) -> Plan:
    first: dict[str, Settings] = {}
    for entry in recording.read_run(files):
        if isinstance(entry, Settings):
            first.setdefault(entry.node, entry)
    return plan_of(recording.about(files[0]), first.values(), shipped_registry())


def plain(message: WireMessage) -> Any:
    if not isinstance(message, Samples):
        return essence(message)
    columns = {name: values.tobytes() for name, values in message.columns.items()}
    devices = [message.devices[code] for code in message.device]
    return message.time_ns.tobytes(), devices, columns, message.quality.tobytes()


def keep(made: list[Any], message: WireMessage) -> None:
    if not isinstance(message, EventWindow):  # no recording has those
        made.append(plain(message))


def differing(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> list[str]:
    """Names of operators alone: pytest would compare megabytes."""
    return [name for name in one | other if one.get(name) != other.get(name)]


def computed(plan: Plan, entries: Iterator[Entry], *, begin_ns: int = 0, **how: Any) -> dict[str, list[Any]]:
    """By operator, what it gives."""
    rerun = Rerun(plan, begin_ns, **how)
    made: dict[str, list[Any]] = {node.id: [] for node in plan.nodes if isinstance(node.node, OperatorNode)}
    for name, all_of_it in made.items():
        rerun.tap(name, partial(keep, all_of_it))
    for entry in entries:
        rerun.take(entry)
    return made


def given(files: list[Path], nodes: dict[str, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in nodes}
    for each in recording.read(files, nodes=nodes):
        found[each.node].append(plain(each.message))
    return found


@pytest.mark.parametrize("test", GOLDEN_TESTS, ids=[each.stem for each in GOLDEN_TESTS])
def test_what_operators_gave_is_computed_again_to_the_last_bit(tmp_path: Path, test: Path) -> None:
    files = recorded(test.name, tmp_path)
    made = computed(plan_at_first(files), recording.read_run(files))
    assert differing(made, given(files, made)) == []
    assert any(made.values()) or not made  # two flows have no operator


def test_settings_that_a_policy_changed_change_at_the_same_place(tmp_path: Path) -> None:
    files = recorded("frequency_events_policy.yaml", tmp_path)
    plan = plan_at_first(files)
    onsets = [
        msgspec.json.decode(each.config)["onset"]
        for each in recording.read_run(files)
        if isinstance(each, Settings) and each.node == "event"
    ]
    assert len(set(onsets)) > 1
    without = computed(plan, recording.read_run(files), with_settings=False)
    assert "event" in differing(without, given(files, without))


def test_a_kind_that_is_not_installed_is_named(tmp_path: Path) -> None:
    about = recording.about(recorded("frequency_limits.yaml", tmp_path)[0])
    strange = Settings(node="magic", seq=1, at_ns=1, kind="magic", version="7", code="")
    with pytest.raises(BadRecordingError, match="node 'magic' is of kind 'magic' 7, which is not installed here"):
        plan_of(about, [strange], shipped_registry())


def test_settings_that_a_kind_does_not_take_any_more_are_named(tmp_path: Path) -> None:
    about = recording.about(recorded("frequency_limits.yaml", tmp_path)[0])
    old = Settings(node="rocof", seq=1, at_ns=1, kind="rocof", version="0", code="", config=msgspec.Raw(b'{"old":1}'))
    with pytest.raises(BadRecordingError, match="node 'rocof': its kind 'rocof' 0 does not take these settings here"):
        plan_of(about, [old], shipped_registry())


def test_operators_without_recorded_periods_have_their_own(tmp_path: Path) -> None:
    files = recorded("setpoint_watchdog.yaml", tmp_path)
    plan = plan_at_first(files)
    ticking = {node.id for node in plan.nodes if isinstance(node.node, OperatorNode) and node.node.tick is not None}
    assert ticking
    silent = (each for each in recording.read_run(files) if not isinstance(each, Ticked))
    made = computed(plan, silent, begin_ns=recording.about(files[0]).begun_ns - 1, own_ticks=ticking)
    assert differing(made, given(files, made)) == []


def test_nothing_is_computed_of_what_operators_gave(tmp_path: Path) -> None:
    files = recorded("frequency_limits.yaml", tmp_path)
    plan = plan_at_first(files)
    operators = {node.id for node in plan.nodes if isinstance(node.node, OperatorNode)}
    theirs = (each for each in recording.read_run(files) if isinstance(each, Given) and each.node in operators)
    assert not any(computed(plan, theirs).values())
