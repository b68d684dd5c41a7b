"""What the page on previews of policies shows is what the command prints."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from preview_cases import FLOWS, SWING, frequency_night, npz

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.policy import policy

PAGE = Path(__file__).parents[2] / "docs" / "policy-preview.md"
SHOWN = re.compile(r"```console\n\$ edgeflex policy (.*)\n((?:.*\n)*?)```")
STEPS_W = {30.0: 50e6, 150.0: -90e6, 220.0: 60e6}
RESERVE = {
    "type": "policy",
    "policy_id": "frequency_reserve",
    "policy_group": "north",
    "policy_kind": "operational_bounds",
    "version": 4,
    "fields": {"fcr_power": "20 MW"},
}


@pytest.mark.long
def test_commands_of_the_page_print_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows").symlink_to(FLOWS)
    Path("onset.yaml").write_text("rocof_trigger: {onset: 32 mHz/s}\n", encoding="utf-8")
    Path("reserve.json").write_text(json.dumps(RESERVE), encoding="utf-8")
    shutil.copy(SWING, "ieee39_load_step.npz")
    npz(Path("night.npz"), frequency_night(300.0, STEPS_W))
    shown = SHOWN.findall(PAGE.read_text(encoding="utf-8"))
    assert len(shown) == 2
    for command, output in shown:
        result = CliRunner().invoke(policy, command.split(), obj=shipped_registry())
        assert result.exit_code == 0, result.output
        assert [line.rstrip() for line in result.stdout.splitlines()] == output.splitlines()
