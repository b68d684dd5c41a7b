"""What `edgeflex promote` sees of the version that it has put in place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from shipped import FLOWS, LOCAL

from edgeflex_flow.cli import promote
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile import Plan, load_flow
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.recording import About, Turn


@pytest.fixture
def plan() -> Plan:
    return load_flow(FLOWS / "frequency_limits.yaml", shipped_registry(), site=LOCAL, connections="optional")


def seen(plan: Plan, monkeypatch: pytest.MonkeyPatch, *looks: Sequence[str]) -> str:
    """What is told when each look finds turns of these revisions."""
    left = list(looks)
    numbers = iter(range(1000))

    class Scripted:
        def __init__(self, _folder: Path) -> None:
            pass

        def turns(self) -> list[Turn]:
            return [turn(revision) for revision in (left.pop(0) if left else ())]

    def turn(revision: str) -> Turn:
        about = About(
            flow="f",
            site="s",
            revision=revision,
            version="",
            begun_ns=0,
            part=1,
            nodes={},
            supervised=revision != "alone",
        )
        return Turn(Path("x.rec"), about, [], next(numbers))

    monkeypatch.setattr(promote, "Follower", Scripted)
    monkeypatch.setattr(promote, "asked_to_record", lambda _plan, _request: nullcontext())
    monkeypatch.setattr(promote, "LOOK_S", 0.01)
    monkeypatch.setattr(promote, "SEEN_WITHIN_S", 2.0)
    monkeypatch.setattr(promote, "TAKEN_WITHIN_S", 1.0 - plan.limits.settle)
    monkeypatch.setattr(promote, "AFTER_TRIAL_S", 0.5 - plan.limits.settle)
    return promote._went(plan)


def test_a_version_that_outlives_its_trial_runs(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    new = digest_of(plan)
    assert seen(plan, monkeypatch, ["old"], ["old", new], [new]) == "runs"


def test_a_version_that_was_never_seen_is_not_said_to_run(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(plan, monkeypatch, ["alone"], ["alone"]) == "unseen"
    assert seen(plan, monkeypatch) == "unseen"


def test_a_version_that_a_supervisor_does_not_take_is_said_not_to_be_taken(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen(plan, monkeypatch, ["old"], ["old"]) == "not taken"


def test_a_version_that_was_gone_back_from_is_not_said_to_run(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(plan, monkeypatch, ["old"], [digest_of(plan)], ["old"]) == "back"
