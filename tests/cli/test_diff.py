"""`edgeflex diff`: of files, of sites, and of revisions of git."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeflex_flow.cli.diff import diff
from edgeflex_flow.cli.kinds import shipped_registry

FLOW = """\
flow: grid
nodes:
  pmu: {kind: pmu_udp, port: 4713}
  rocof: {kind: rocof, from: pmu, window: 500ms}
  event: {kind: frequency_event, from: rocof}
  log: {kind: file_write, from: event, path: out.jsonl}
"""
SITE = "site: yard\nflows: [grid]\nstate: {folder: state}\n"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(diff, [str(each) for each in arguments], obj=shipped_registry())


def told(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "grid.yaml").write_text(FLOW)
    (tmp_path / "new.yaml").write_text(
        FLOW.replace("500ms", "1s").replace("  event:", "  seen:").replace(": event", ": seen")
    )
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "yard.yaml").write_text(SITE)
    return tmp_path


def test_two_files_are_compared_and_what_becomes_of_each_node_is_told(folder: Path) -> None:
    shown = run(folder / "grid.yaml", folder / "new.yaml", "--site", folder / "sites" / "yard.yaml")
    assert shown.exit_code == 0
    for words in (
        "~ node event is called seen now",
        "~ rocof.window: 500ms → 1s",
        "rocof: keeps its state",
        "seen: begins anew (it is new)",
        "pmu, log: opens again",
    ):
        assert words in shown.stdout


def test_without_state_at_the_site_all_operators_begin_anew(folder: Path) -> None:
    [found] = told(folder / "grid.yaml", folder / "new.yaml")
    fates = {each["node"]: (each["fate"], each["why"]) for each in found["fates"]}
    assert fates["rocof"] == ("begins anew", "the site keeps no state")


def test_what_is_the_same_is_said_to_be_and_the_exit_code_tells(folder: Path) -> None:
    (folder / "same.yaml").write_text("# a comment\n" + FLOW)
    same = run(folder / "grid.yaml", folder / "same.yaml", "--exit-code")
    assert (same.exit_code, same.stdout) == (0, "flow grid is the same\n")
    assert run(folder / "grid.yaml", folder / "new.yaml", "--exit-code").exit_code == 5


def test_a_file_is_compared_with_what_it_was_in_a_revision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=n", "-c", "user.email=n@example"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    (folder / "grid.yaml").write_text(FLOW.replace("500ms", "300ms"))
    monkeypatch.chdir(folder)
    [found] = told("HEAD:grid.yaml", "grid.yaml")
    assert [(each["before"], each["after"]) for each in found["changes"]] == [("500ms", "300ms")]
    wrong = run("HEAD:sites/none.yaml", "grid.yaml")
    assert (wrong.exit_code, "revision 'HEAD' has no file 'sites/none.yaml'" in wrong.output) == (2, True)
    wrong = run("v9:grid.yaml", "grid.yaml")
    assert (wrong.exit_code, "v9" in wrong.output) == (2, True)


def test_a_site_is_compared_flow_by_flow(folder: Path) -> None:
    for file, name, port in (("new", "other", "4714"), ("third", "third", "4715")):
        flow = FLOW.replace("flow: grid", f"flow: {name}").replace("4713", port).replace("out.jsonl", f"{name}.jsonl")
        (folder / f"{file}.yaml").write_text(flow)
    yard, other = folder / "sites" / "yard.yaml", folder / "sites" / "other.yaml"
    yard.write_text(SITE.replace("[grid]", "[grid, third]"))
    other.write_text(SITE.replace("[grid]", "[third, other]"))
    found = [(each["flow"], each["how"]) for each in told(yard, other)]
    assert found == [("grid", "removed"), ("third", "same"), ("other", "added")]


def test_a_picture_is_drawn_of_the_flow_that_differs(folder: Path) -> None:
    out = folder / "out.svg"
    assert run(folder / "grid.yaml", folder / "new.yaml", "--picture", out).exit_code == 0
    assert 'class="operator changed"' in out.read_text()
    wrong = run(folder / "grid.yaml", folder / "grid.yaml", "--picture", out)
    assert (wrong.exit_code, "these do: none" in wrong.output) == (2, True)
    assert run(folder / "grid.yaml", folder / "new.yaml", "--picture", folder / "out.png").exit_code == 2


def test_a_file_that_is_wrong_or_missing_is_said(folder: Path) -> None:
    (folder / "new.yaml").write_text(FLOW.replace("window", "windw"))
    wrong = run(folder / "grid.yaml", folder / "new.yaml")
    assert (wrong.exit_code, "did you mean 'window'" in wrong.output) == (1, True)
    assert "there is no file" in run(folder / "grid.yaml", folder / "none.yaml").output


def test_a_token_from_a_file_is_shown_nowhere(folder: Path) -> None:
    """Neither in the text, nor as JSON, nor in the picture."""
    poll = "  load: {kind: rest_poll, api: market, path: /load, period: 60s, columns: [active_power_w]}\n"
    (folder / "grid.yaml").write_text(FLOW + poll)
    (folder / "new.yaml").unlink()
    (folder / "token").write_text("filesecret")
    market = 'connections: {market: {kind: rest, url: "https://m.example", auth: AUTH}}\n'
    sites = [folder / "sites" / "yard.yaml", folder / "sites" / "edited.yaml"]
    for site, token in zip(sites, ("plainsecret", f"${{file:{folder / 'token'}}}"), strict=True):
        site.write_text(SITE + market.replace("AUTH", f'{{kind: bearer, token: "{token}"}}'))
    picture = folder / "out.svg"
    shown = run(*sites, "--picture", picture)
    assert "connection market.auth.token: *** → ***" in shown.stdout, shown.output
    for text in (shown.stdout, run(*sites, "--json").stdout, picture.read_text()):
        assert "filesecret" not in text
        assert "plainsecret" not in text
