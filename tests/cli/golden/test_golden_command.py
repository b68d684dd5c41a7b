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
    assert "1 test passed" in told.stdout


@pytest.mark.parametrize(
    ("expected", "place", "got"),
    [
        ({"of": "limit", "where": {"state": "above"}, "count": 3}, "count", "2"),
        ({"of": "limit", "where": {"state": "above"}, "after": "0s", "within": "900ms"}, "first", "after 1000 ms"),
        ({"of": "limit", "where": {"state": "above"}, "values": {"value": "< 140 W"}}, "value at 1.000 s", "150 W"),
        (
            {"of": "meters", "type": "samples", "values": {"active_power_w": "<= 0.1 kW"}},
            "active_power_w at 1.000 s",
            "0.15 kW",
        ),
        ({"of": "out", "until": "2s", "count": 0}, "count", "1"),
        ({"of": "limit", "values": {"value.nothing": "1"}}, "value.nothing at 1.000 s", "nothing"),
        ({"of": "limit", "where": {"state": "below"}, "values": {"value": "< 140 W"}}, "count", "0"),
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
        ({"what": "gap", "of": "meters", "at": "900ms", "lasts": "200ms", "devices": ["m1"]}, 1, 4),
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


def test_what_a_sink_held_goes_out_in_the_moment_in_which_its_far_side_is_back(folder: Path) -> None:
    away = {"what": "away", "of": "out", "at": "2500ms", "lasts": "1200ms"}
    expect = [{"of": "out", "after": "2500ms", "count": 2}, {"of": "out", "after": "3700ms", "within": "1ms"}]
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


def test_a_line_is_given_again_and_again_on_the_way_from_one_value_to_another(folder: Path) -> None:
    many = {"at": "1s", "until": "2s", "every": "250ms", "device": ["m1", "m2"], "active_power_w": "100 to 200"}
    expect = [
        {"of": "meters", "type": "samples", "count": 11},
        {"of": "meters", "type": "samples", "where": {"device": "m2"}, "count": 4},
        {"of": "meters", "type": "samples", "where": {"active_power_w": 175}, "count": 2, "after": "1750ms"},
        {"of": "meters", "type": "samples", "where": {"device": "m2"}, "values": {"active_power_w": "100 to 175"}},
        {"of": "meters", "type": "samples", "where": {"active_power_w": 1}, "count": 3},
    ]  # fmt: skip
    once = lines([(0.0, 1.0), (2.0, 1.0), (3.0, 1.0)])
    result = result_of(folder, record={"meters": {"lines": [*once, many]}}, expect=expect)
    assert result.error == ""
    assert [each.differences for each in result.verdicts if not each.good] == []


def test_a_row_of_the_time_to_come_does_not_move_the_clock(folder: Path) -> None:
    ahead = {"at": "1s", "time_ns": "1h", "device": "m2", "active_power_w": 7}
    expect = [
        {"of": "meters", "type": "samples", "where": {"device": "m2"}, "after": "3600s", "count": 1},
        {"of": "limit", "where": {"device": "m1", "state": "above"}, "until": "3100ms", "count": 2},
    ]
    result = result_of(folder, record={"meters": {"lines": [*lines(ROWS), ahead]}}, expect=expect)
    assert result.error == ""
    assert [each.differences for each in result.verdicts if not each.good] == []


PLANS = """\
flow: plans
nodes:
  plans: {kind: mqtt_subscribe, bus: bus, topics: [a], messages: [dispatch_plan], format: json.edgeflex}
  out: {kind: mqtt_publish, from: plans, bus: bus, topic: b}
"""


def test_times_within_messages_count_from_the_begin_and_lists_have_the_unit_of_their_name(folder: Path) -> None:
    (folder / "plans.yaml").write_text(PLANS)
    plan = {
        "type": "dispatch_plan", "controller": "vpp", "begin_ns": "90s", "step_s": 900, "status": "ok", "powers_w": {},
        "exchange_w": [2e6], "prices_eur_per_mwh": [1], "profit_eur": 0, "solver": "lp", "solver_status": "optimal",
        "gap": 0, "solver_s": 0,
    }  # fmt: skip
    expect = {"of": "out", "values": {"begin_ns": "1700000090000000000", "exchange_w.0": "2 MW +- 1 W"}}
    result = result_of(folder, flow="../plans.yaml", record={"plans": {"lines": [plan]}}, expect=[expect])
    assert result.error == ""
    assert result.good


PMUS = """\
flow: pmus
nodes:
  pmu: {kind: pmu_udp, port: 4713, channels: {P: active_power_w}}
  rocof: {kind: rocof, from: pmu}
  out: {kind: mqtt_publish, from: rocof, bus: bus, topic: b}
"""


def test_four_pmus_measure_loads_that_wander(folder: Path) -> None:
    (folder / "pmus.yaml").write_text(PMUS)
    every = {"of": "pmu", "type": "samples", "values": {"frequency_hz": "49.9 Hz to 50.1 Hz", "active_power_w": "> 0"}}
    expect = [{**every, "count": 396}, {**every, "where": {"device": "G4"}, "count": 99}]
    record = {"pmu": {"ambient": {"seconds": 2}}}
    result = result_of(folder, flow="../pmus.yaml", record=record, expect=expect)
    assert result.error == ""
    assert [each.differences for each in result.verdicts if not each.good] == []


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"record": {"meters": {"lines": [{"every": "1s", "device": "m", "active_power_w": 1}]}}}, "stand together"),
        (
            {"record": {"meters": {"lines": [{"every": "0s", "until": "1s", "device": "m", "active_power_w": 1}]}}},
            "`every` is longer than 0 s",
        ),
        ({"expect": [{"of": "limt"}]}, "no node 'limt'; known: meters, limit, out"),
        ({"record": {"meter": {"lines": []}}}, "no source 'meter'; known: meters"),
        ({"record": {"meters": "none.rec"}}, "there is no such recording"),
        ({"expect": [{"of": "limit", "count": "> many"}]}, "tests/one.yaml:1:"),
        ({"expect": [{"of": "limit", "cuont": 1}]}, "unknown key 'cuont'; known: of, type, where"),
        (
            {"expct": []},
            "unknown key 'expct'; known: test, flow, site, params, record",
        ),
        ({"expct": []}, "did you mean 'expect'?"),
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


NONE = {"count": 0}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"expect": [{"of": "limit", "type": "crosing", **NONE}]}, "'limit' has no `type` 'crosing'; known: crossing"),
        ({"expect": [{"of": "limit", "where": {"stat": "above"}, **NONE}]}, "did you mean 'state'?"),
        ({"expect": [{"of": "limit", "values": {"vlaue": "1 W"}, **NONE}]}, "did you mean 'value'?"),
        ({"expect": [{"of": "out", "where": {"stat.x": 1}, **NONE}]}, "'out' has no 'stat'"),
        (
            {"expect": [{"of": "meters", "type": "samples", "where": {"active_power": 1}, **NONE}]},
            "'meters' has no 'active_power'; known: active_power_w, device, quality; did you mean 'active_power_w'?",
        ),
        ({"expect": [{"of": "meters", "values": {"device": 1}, **NONE}]}, "known: active_power_w, quality"),
        ({"policies": [{"values": {"bnad": {"above": "1 W"}}}]}, "known: band; did you mean 'band'?"),
        ({"policies": [{"values": {"band": {"abve": "1 W"}}}]}, "known: above; did you mean 'above'?"),
        ({"policies": [{"at": "5s", "values": {"band": {"above": 1}}}]}, "`policies`: got `at` 5s, and the sources"),
        ({"faults": [{"what": "gap", "of": "meters", "at": "5s", "lasts": "1s"}]}, "`faults`: got `at` 5s"),
        (
            {"faults": [{"what": "gap", "of": "meters", "at": "0s", "lasts": "1s", "devices": ["m2"]}]},
            "'meters' gives no device 'm2'; known: m1",
        ),
        (
            {"faults": [{"what": "nan", "of": "meters", "at": "0s", "lasts": "1s", "columns": ["power_w"]}]},
            "gives no column 'power_w'; known: active_power_w",
        ),
    ],
)  # fmt: skip
def test_a_name_that_nothing_has_is_an_error_also_where_nothing_is_expected(
    folder: Path, parts: dict[str, Any], words: str
) -> None:
    assert words in result_of(folder, **parts).error


def test_rows_and_messages_at_one_sink_are_told_apart_by_their_type(folder: Path) -> None:
    (folder / "band.yaml").write_text(FLOW.replace("from: limit", "from: [limit, meters]"))
    asked = {"of": "out", "where": {"state": "above"}}
    assert "say of which `type` 'state' is" in result_of(folder, expect=[asked]).error
    assert result_of(folder, expect=[{**asked, "type": "crossing", "count": 2}]).good


def test_a_policy_value_that_a_node_refuses_is_a_failure_unless_the_test_means_it(folder: Path) -> None:
    policies = [{"at": "1s", "values": {"band": {"above": 2000}}}, {"at": "2s", "values": {"band": {"above": 100}}}]
    taken = result_of(folder, policies=policies).verdicts[-2]
    assert (taken.text, taken.good, taken.got) == ("policies are taken", False, "1 refused")
    assert taken.differences[0].place == "limit.above"
    assert "2000" in taken.differences[0].got
    assert result_of(folder, policies=policies, allow={"limit": ["policy_refused"]}).good


@pytest.mark.parametrize(
    ("count", "within", "place"),
    [(2, "3s", ""), (2, "2900ms", "number 2"),
     (">= 1", "1s", ""), (">= 1", "900ms", "first"), (">= 2", "2s", "number 2")],
)  # fmt: skip
def test_as_many_as_are_asked_for_are_there_in_time(folder: Path, count: int | str, within: str, place: str) -> None:
    expect = {"of": "limit", "where": {"state": "above"}, "count": count, "after": "0s", "within": within}
    result = result_of(folder, expect=[expect])
    assert result.error == ""
    assert [each.place for each in result.verdicts[0].differences] == ([place] if place else [])


def test_one_of_three_that_is_late_fails(folder: Path) -> None:
    rows = [*ROWS, (5, 150.0), (20, 50.0), (30, 150.0)]
    above = {"of": "limit", "where": {"state": "above"}, "after": "0s", "count": 4}
    record = {"meters": {"lines": lines(rows)}}
    [late] = result_of(folder, record=record, expect=[{**above, "within": "10s"}]).verdicts[0].differences
    assert (late.place, late.got) == ("number 4", "after 30000 ms")
    assert result_of(folder, record=record, expect=[{**above, "within": "30s"}]).good


def test_what_differs_is_told_in_the_unit_of_the_expectation_and_how_many_more_there_are(folder: Path) -> None:
    rows = [(at, 2e6 + at) for at in range(15)]
    expect = {"of": "meters", "type": "samples", "values": {"active_power_w": "1 MW +- 1 kW"}}
    write(folder, record={"meters": {"lines": lines(rows)}}, expect=[expect])
    [result] = json.loads(run(folder, "--workers", "1", "--json").stdout)
    assert result["verdicts"][0]["differences"][0]["got"] == "2 MW"
    assert result["verdicts"][0]["more"] == 5
    assert "and 5 more" in run(folder, "--workers", "1").stdout


def test_a_folder_without_tests_is_said(tmp_path: Path) -> None:
    told = run(tmp_path)
    assert (told.exit_code, "there is no test there" in told.output) == (2, True)
