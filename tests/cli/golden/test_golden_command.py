"""`edgeflex test`: what passes, what fails and how that is told, faults, and files that are wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from edgeflex_flow.cli.golden.running import GoldenResult, run_test
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.test import test as command

FLOW = """\
flow: band
nodes:
  meters: {kind: mqtt_subscribe, bus: bus, topics: [a], columns: [active_power_w], format: json.edgeflex}
  limit:
    kind: threshold
    from: meters
    column: active_power_w
    above: {policy: band, field: above, default: 100, min: 0, max: 1000}
    max_gap: 60s
  out: {kind: mqtt_publish, from: limit, bus: bus, topic: b}
"""
SITE = 'site: yard\nconnections: {bus: {kind: mqtt, url: "mqtt://127.0.0.1:1"}}\n'
ROWS = [(0, 50.0), (1, 150.0), (2, 50.0), (3, 150.0), (4, 50.0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "band.yaml").write_text(FLOW)
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "tests").mkdir()
    return tmp_path


def lines(rows: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    return [{"at": f"{at}s", "device": "m1", "active_power_w": value} for at, value in rows]


def write(folder: Path, name: str = "one", **parts: Any) -> Path:
    told = {
        "test": "crossings",
        "flow": "../band.yaml",
        "site": "../site.yaml",
        "record": {"meters": {"lines": lines(ROWS)}},
        "expect": [{"of": "limit", "where": {"state": "above"}, "count": 2}],
        **parts,
    }
    file = folder / "tests" / f"{name}.yaml"
    file.write_text(json.dumps(told))
    return file


def result_of(folder: Path, **parts: Any) -> GoldenResult:
    return run_test(write(folder, **parts), shipped_registry())


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments], obj=shipped_registry())


def test_what_is_as_expected_passes(folder: Path) -> None:
    write(folder)
    told = run(folder, "--workers", "1")
    assert told.exit_code == 0, told.output
    assert "✓ crossings one.yaml" in told.stdout
    assert "1 tests passed" in told.stdout


@pytest.mark.parametrize(
    ("expected", "place", "got"),
    [
        ({"of": "limit", "where": {"state": "above"}, "count": 3}, "count", "2"),
        ({"of": "limit", "where": {"state": "above"}, "after": "0s", "within": "900ms"}, "first", "after 1000 ms"),
        ({"of": "limit", "where": {"state": "above"}, "values": {"value": "< 140 W"}}, "value at 1.000 s", "150 W"),
        (
            {"of": "meters", "type": "samples", "values": {"active_power_w": "<= 0.1 kW"}},
            "active_power_w at 1.000 s",
            "150 W",
        ),
        ({"of": "out", "until": "2s", "count": 0}, "count", "1"),
        ({"of": "limit", "values": {"nothing": "1"}}, "nothing at 1.000 s", "nothing"),
    ],
)
def test_what_is_not_as_expected_is_told_with_place_and_values(
    folder: Path, expected: dict[str, Any], place: str, got: str
) -> None:
    result = result_of(folder, expect=[expected])
    assert not result.good
    first = result.verdicts[0].differences[0]
    assert (first.place, first.got) == (place, got)


def test_policies_hold_from_their_moment_on(folder: Path) -> None:
    policies = [{"at": "2500ms", "values": {"band": {"above": 200}}}]
    above = {"of": "limit", "where": {"state": "above"}}
    expect = [{**above, "until": "2500ms", "count": 1}, {**above, "after": "2500ms", "count": 0}]
    assert result_of(folder, policies=policies, expect=expect).good


@pytest.mark.parametrize(
    ("fault", "above", "rows"),
    [
        ({"what": "gap", "of": "meters", "at": "900ms", "lasts": "200ms"}, 1, 4),
        ({"what": "nan", "of": "meters", "at": "900ms", "lasts": "200ms", "columns": ["active_power_w"]}, 1, 5),
        ({"what": "delay", "of": "meters", "at": "2900ms", "lasts": "200ms", "by": "500ms"}, 2, 5),
        ({"what": "double", "of": "meters", "at": "0s", "lasts": "100ms"}, 2, 6),
        ({"what": "gap", "of": "meters", "at": "900ms", "lasts": "200ms", "devices": ["other"]}, 2, 5),
    ],
)
def test_faults_of_sources_lose_change_delay_and_double_rows(
    folder: Path, fault: dict[str, Any], above: int, rows: int
) -> None:
    expect = [
        {"of": "limit", "where": {"state": "above"}, "count": above},
        {"of": "meters", "type": "samples", "count": rows},
    ]
    result = result_of(folder, faults=[fault], expect=expect, allow={"limit": ["out_of_order"]})
    assert [each.differences for each in result.verdicts if not each.good] == []


def test_a_sink_whose_far_side_is_away_gets_what_waited_when_it_is_back(folder: Path) -> None:
    away = {"what": "away", "of": "out", "at": "500ms", "lasts": "1s"}
    expect = [{"of": "out", "until": "1500ms", "count": 0}, {"of": "out", "count": 4}]
    assert result_of(folder, faults=[away], expect=expect).good


def test_what_a_sink_could_not_bring_out_until_the_end_is_a_failure(folder: Path) -> None:
    away = {"what": "away", "of": "out", "at": "500ms", "lasts": "1h"}
    result = result_of(folder, faults=[away])
    assert result.verdicts[-1].text == "nothing is lost"
    [lost] = result.verdicts[-1].differences
    assert (lost.place, lost.got) == ("out: lost", "4")
    assert result_of(folder, faults=[away], allow={"out": ["lost"]}).good


def test_a_dead_letter_is_a_failure_unless_it_is_expected(folder: Path) -> None:
    twice = [{"what": "double", "of": "meters", "at": "900ms", "lasts": "200ms"}]
    late = {"what": "delay", "of": "meters", "at": "900ms", "lasts": "200ms", "by": "3500ms"}
    result = result_of(folder, faults=[*twice, late], expect=[{"of": "limit"}])
    assert [each.place.partition(":")[0] for each in result.verdicts[-1].differences] == ["limit"]


def test_a_file_of_what_there_was_is_written_and_compared_with(folder: Path) -> None:
    expect = [{"of": "limit", "same_as": "band.jsonl", "tolerance": 1e-6}]
    missing = result_of(folder, expect=expect).verdicts[0].differences[0]
    assert "edgeflex test --update" in missing.got
    assert run(write(folder, expect=expect), "--update", "--workers", "1").exit_code == 0
    assert len((folder / "tests" / "band.jsonl").read_text().splitlines()) == 4
    assert result_of(folder, expect=expect).good
    rows = [(at, value + (value > 100)) for at, value in ROWS]
    changed = result_of(folder, expect=expect, record={"meters": {"lines": lines(rows)}}).verdicts[0]
    assert (changed.differences[0].place, changed.differences[0].got) == ("band.jsonl:1 value", "151")


def test_results_are_told_to_programs_as_json_and_junit(folder: Path) -> None:
    write(folder)
    write(folder, "two", test="fails", expect=[{"of": "limit", "count": 0}])
    write(folder, "three", test="breaks", flow="../none.yaml")
    told = run(folder, "--json", "--junit", folder / "out.xml", "--workers", "1")
    assert told.exit_code == 1
    results = {each["name"]: each for each in json.loads(told.stdout)}
    assert {name: each["error"] != "" for name, each in results.items()} == {
        "crossings": False,
        "fails": False,
        "breaks": True,
    }
    suite = ElementTree.parse(folder / "out.xml").getroot()[0]
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
    }
    [failure] = suite.iter("failure")
    assert "count: should be 0, is 4" in str(failure.get("message"))


@pytest.mark.long
def test_several_run_at_once_and_what_failed_is_drawn(folder: Path) -> None:
    for number in range(3):
        expect = [{"of": "limit", "values": {"value": "< 140 W"}}]
        write(folder, f"t{number}", **({} if number else {"expect": expect}))
    told = run(folder, "--workers", "2", "--pictures", folder / "drawn")
    assert told.exit_code == 1
    assert "3 tests, 1 failed" in told.stdout
    assert [file.name for file in (folder / "drawn").iterdir()] == ["t0.png"]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"expect": [{"of": "limt"}]}, "no node 'limt'; known: meters, limit, out"),
        ({"record": {"meter": {"lines": []}}}, "no source 'meter'; known: meters"),
        ({"record": {"meters": "none.rec"}}, "there is no such recording"),
        ({"expect": [{"of": "limit", "count": "> many"}]}, "tests/one.yaml:1:"),
        ({"expect": [{"of": "limit", "cuont": 1}]}, "unknown field `cuont`"),
        ({"expect": [{"of": "limit", "within": "1s"}]}, "`within` counts from `after`"),
        ({"faults": [{"what": "away", "of": "meters", "at": "0s", "lasts": "1s"}]}, "'away' is of a sink"),
        ({"faults": [{"what": "gap", "of": "out", "at": "0s", "lasts": "1s"}]}, "'gap' is of a source of `record`"),
        ({"faults": [{"what": "delay", "of": "meters", "at": "0s", "lasts": "1s"}]}, "`by` is of a delay"),
        ({"record": {"meters": {"lines": [{"at": "soon", "device": "m", "active_power_w": 1}]}}}, "got 'soon'"),
    ],
)
def test_a_test_that_is_wrong_says_what_and_where(folder: Path, parts: dict[str, Any], words: str) -> None:
    result = result_of(folder, **parts)
    assert not result.good
    assert words in result.error


def test_a_folder_without_tests_is_said(tmp_path: Path) -> None:
    told = run(tmp_path)
    assert (told.exit_code, "there is no test there" in told.output) == (2, True)
