from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from edgeflex_flow.cli.demo.frequency import main


def test_demo_tells_what_control_does_and_draws_it(tmp_path: Path) -> None:
    file = tmp_path / "frequency.png"
    result = CliRunner().invoke(main, ["--seconds", "25", "--picture", str(file)])
    assert result.exit_code == 0, result.output
    without, held, _ = result.output.splitlines()
    assert without == "without control: nadir -272 mHz, not settled"
    assert held.startswith("with control:    nadir -1")
    assert "within ±50 mHz for good after" in held
    assert file.read_bytes()[:4] == b"\x89PNG"
