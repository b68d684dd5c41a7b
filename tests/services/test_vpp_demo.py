"""`make demo-vpp`."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeflex_services.vpp_demo import main


@pytest.mark.long
def test_day_is_run_told_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "day.png"
    assert main(["--synthetic", "--picture", str(picture)]) == 0
    told = capsys.readouterr().out
    assert "before, by self-consumption" in told
    assert str(picture) in told
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_picture_that_cannot_be_drawn_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--synthetic", "--picture", str(tmp_path / "day.nothing")]) == 1
    assert "day.nothing: cannot be drawn" in capsys.readouterr().err
