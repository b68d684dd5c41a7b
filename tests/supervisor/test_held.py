"""Flows that people have stopped, kept over starts of the supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeflex_flow.supervisor.held import HeldFlows


def after(file: Path, *changes: Callable[[HeldFlows], None]) -> HeldFlows:
    """Kept in a file after these changes."""

    async def change() -> HeldFlows:
        held = HeldFlows(file)
        for each in changes:
            each(held)
        await held.end()
        return held

    return asyncio.run(change())


def test_who_stopped_a_flow_is_known_after_a_start(tmp_path: Path) -> None:
    file = tmp_path / "own" / "held.json"
    after(
        file,
        lambda held: held.hold("meters", "otto"),
        lambda held: held.hold("events", "rita"),
        lambda held: held.release("events"),
    )
    again = HeldFlows(file)
    assert (again.by("meters"), again.by("events")) == ("otto", "")
    after(file, lambda held: held.release("meters"))
    assert HeldFlows(file).by("meters") == ""


def test_a_damaged_file_is_told_and_holds_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "held.json").write_text('{"meters": ')
    assert HeldFlows(tmp_path / "held.json").by("meters") == ""
    assert "held.json' cannot be read, so that flows run which people had stopped: " in caplog.text


def test_a_disk_that_takes_nothing_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeflex_flow.supervisor.held.AGAIN_S", 0.01)
    (tmp_path / "own").write_text("no folder")
    file = tmp_path / "own" / "held.json"

    async def mend() -> None:
        held = HeldFlows(file)
        held.hold("meters", "otto")
        await asyncio.sleep(0.1)
        assert held.by("meters") == "otto"
        (tmp_path / "own").unlink()
        await held.end()

    asyncio.run(mend())
    assert HeldFlows(file).by("meters") == "otto"
    assert caplog.text.count("is not kept for the next start: ") == 1
