"""`edgeflex init`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from edgeflex_flow.cli.check import check
from edgeflex_flow.cli.init import UNKNOWN_VALUE, init
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.flowfile.fields import config_fields
from edgeflex_flow.flowfile.settings import SITE_SETTINGS
from edgeflex_flow.node import NodeConfig

FLOW = """\
flow: watch
params: {port: 4713, file: }
nodes:
  pmu: {kind: pmu_udp, port: "${port}"}
  alarm: {kind: mqtt_publish, from: pmu, bus: databus, topic: "x/${site}"}
  keep: {kind: store_write, from: pmu, store: history}
  log: {kind: file_write, from: pmu, path: "${file}"}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "watch.yaml").write_text(FLOW)
    return tmp_path


def invoke(*arguments: str) -> Result:
    command = check if arguments[0] == "check" else init
    return CliRunner().invoke(command, [*arguments[arguments[0] == "check" :]], obj=shipped_registry())


def test_the_file_has_all_that_the_flows_need(folder: Path) -> None:
    result = invoke("site", "s12")
    assert result.exit_code == 0, result.output
    text = (folder / "sites" / "s12.yaml").read_text()
    assert "site: s12\n" in text
    assert "flows: [watch]\n" in text
    assert re.search(r"  databus:\n    kind: mqtt", text)
    assert re.search(r"  history:\n    kind: sqlite", text)
    assert "  # port: 4713  # watch\n" in text
    assert f"  file: {UNKNOWN_VALUE}  # watch\n" in text
    assert '# Password of the user.\n    # password: "${file:/run/secrets/databus}"\n' in text
    assert '    # username: "${DATABUS_USER}"\n' in text
    assert '    path: "history.db"\n' in text


def test_once_what_is_missing_is_filled_in_the_check_finds_nothing_wrong(folder: Path) -> None:
    invoke("site", "s12")
    file = folder / "sites" / "s12.yaml"
    file.write_text(file.read_text().replace(UNKNOWN_VALUE, "out.jsonl"))
    result = invoke("check", "watch.yaml", str(file), "--site", "s12")
    assert result.exit_code == 0, result.output


def test_settings_in_comments_are_right_when_they_are_uncommented(folder: Path) -> None:
    """Those that are null stay so: they depend on each other."""
    invoke("site", "s12")
    file = folder / "sites" / "s12.yaml"
    text = re.sub(r"(?m)^    # (\w+: (?!null|\"\$\{)\S+)$", r"    \1", file.read_text())
    file.write_text(text.replace(UNKNOWN_VALUE, "out.jsonl"))
    result = invoke("check", "watch.yaml", str(file), "--site", "s12")
    assert "keepalive: 30s" in re.sub(r"(?m)^ *#.*$", "", text)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("key", "kind"), SITE_SETTINGS.items())
def test_settings_at_the_top_stand_in_comments_and_hold_as_ever_when_they_are_uncommented(
    folder: Path, key: str, kind: type[NodeConfig]
) -> None:
    invoke("site", "s12")
    file = folder / "sites" / "s12.yaml"
    block = re.search(rf"(?m)^# {key}:\n(#   .*\n)+", file.read_text())
    assert block is not None
    for each in config_fields(kind):
        assert re.search(rf"(?m)^#   (# )?{each.key}: \S", block[0])
    uncommented = re.sub(r"(?m)^# ", "", block[0])
    file.write_text(file.read_text().replace(block[0], uncommented).replace(UNKNOWN_VALUE, "out.jsonl"))
    assert YAML(typ="safe").load(file)[key]
    result = invoke("check", "watch.yaml", str(file), "--site", "s12")
    assert result.exit_code == 0, result.output
    plan = load_flow(folder / "watch.yaml", shipped_registry(), site=file)
    given = {each.key: "state" for each in config_fields(kind) if each.required}
    assert getattr(plan, key) == kind(**given)


def test_the_next_steps_are_the_check_and_the_supervisor(folder: Path) -> None:
    file = Path("sites", "s12.yaml")
    told = invoke("site", "s12").output.splitlines()
    assert told[-2:] == [f"  edgeflex check {file} --connect", f"  edgeflex up {file}"]


@pytest.mark.parametrize("only", ["watch", "other"])
def test_every_kind_of_connection_stands_there_and_is_right_when_it_is_uncommented(folder: Path, only: str) -> None:
    (folder / "other.yaml").write_text("flow: other\nnodes:\n  pmu: {kind: pmu_udp, port: 1}\n")
    invoke("site", "s12", "--only", only)
    file = folder / "sites" / "s12.yaml"
    used, heading, others = file.read_text().partition("# Other kinds, in comments;")
    used, others = used.replace("# connections:", "connections:"), re.sub(r"(?m)^  # ?", "  ", others)
    file.write_text((used + heading + others).replace("file: CHANGE_ME", "file: events.jsonl"))
    connections = YAML(typ="safe").load(file)["connections"]
    assert sorted(each["kind"] for each in connections.values()) == sorted(shipped_registry().connections)
    result = invoke("check", str(file))
    assert f"site 's12', {len(connections)} connections" in result.output
    assert result.exit_code == 0, result.output


def test_a_kind_whose_name_a_connection_has_already_stands_there_under_another(folder: Path) -> None:
    (folder / "watch.yaml").write_text(FLOW.replace("history", "parquet"))
    invoke("site", "s12")
    text = (folder / "sites" / "s12.yaml").read_text()
    assert "  parquet:\n    kind: sqlite\n" in text
    assert "  # parquet_2:\n  #   kind: parquet\n" in text


def test_a_file_that_is_there_is_never_written_over(folder: Path) -> None:
    invoke("site", "s12")
    (folder / "sites" / "s12.yaml").write_text("mine")
    result = invoke("site", "s12")
    assert result.exit_code == 1
    assert "exists already; nothing was written" in result.output
    assert (folder / "sites" / "s12.yaml").read_text() == "mine"


def test_only_some_flows_may_be_chosen(folder: Path) -> None:
    (folder / "other.yaml").write_text("flow: other\nnodes:\n  pmu: {kind: pmu_udp, port: 1}\n")
    invoke("site", "s12", "--only", "other")
    text = (folder / "sites" / "s12.yaml").read_text()
    assert "flows: [other]" in text
    assert "\nconnections:" not in text
    result = invoke("site", "s13", "--only", "othr")
    assert result.exit_code == 2
    assert "no flow 'othr'" in result.output
    assert "known: other, watch" in result.output


@pytest.mark.parametrize("name", ["S12", "a b", "../x"])
def test_a_name_that_no_site_may_have_is_refused(folder: Path, name: str) -> None:
    result = invoke("site", name)
    assert result.exit_code == 2
    assert not (folder / "sites").exists()


def test_a_folder_without_flows_is_told(tmp_path: Path) -> None:
    result = invoke("site", "s12", "--flows", str(tmp_path))
    assert result.exit_code == 2
    assert f"no flow file in {tmp_path}" in result.output
