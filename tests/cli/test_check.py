"""`edgeflex check`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from flow_kinds import FLOW, SITE

from edgeflex_flow.cli.check import check
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.cli.problems import render
from edgeflex_flow.cli.run import run
from edgeflex_flow.errors import Excerpt, Problem

Invoke = Callable[..., Result]

EVENTS = """\
flow: events
nodes:
  pmu:   {kind: pmu_udp, port: 4713}
  rocof: {kind: rocof, from: pmu}
  event: {kind: frequency_event, from: rocof}
  log:   {kind: file_write, from: event, path: events.jsonl}
budgets: [{from: pmu, to: log, within: 1.5s, of: response}]
"""
"""Of kinds that ship."""


def test_a_right_flow_is_told_with_its_nodes(invoke: Invoke) -> None:
    result = invoke(check, "flow.yaml", "--site", "sites/yard.yaml")
    assert (result.exit_code, result.output) == (0, "✓ flow.yaml: 7 nodes (1 source, 4 operators, 2 sinks)\n")


def test_a_site_may_be_named_by_its_name(invoke: Invoke) -> None:
    assert invoke(check, "flow.yaml", "--site", "yard").exit_code == 0


def test_a_problem_is_shown_with_its_line_and_a_caret(invoke: Invoke) -> None:
    Path("flow.yaml").write_text(FLOW.replace("window:", "windw:"), encoding="utf-8")
    result = invoke(check, "flow.yaml", "--site", "yard")
    assert result.exit_code == 1
    assert result.output == (
        "flow.yaml:6:36: error: node 'slope': unknown key 'windw'\n"
        "  6 |   slope:  {kind: slope, from: pmu, windw: 500ms}\n"
        "    |                                    ^\n"
        "  help: did you mean 'window'?\n"
        "  known: kind, from, window\n"
        "✗ flow.yaml: 1 problem\n"
    )


def test_problems_of_the_site_file_are_shown_once(invoke: Invoke) -> None:
    Path("sites/yard.yaml").write_text(SITE.replace("2s", "2"), encoding="utf-8")
    Path("second.yaml").write_text(FLOW.replace("flow: events", "flow: second"), encoding="utf-8")
    result = invoke(check, "flow.yaml", "second.yaml", "--site", "yard")
    assert result.exit_code == 1
    assert result.output.count("yard.yaml:3:55: error: 'timeout': write it with its unit, e.g. 5s; got 2") == 1


def test_one_wrong_file_does_not_hide_the_others(invoke: Invoke) -> None:
    result = invoke(check, "flow.yaml", "none.yaml", "--site", "yard")
    assert result.exit_code == 1
    assert "none.yaml: error: there is no such file\n" in result.output
    assert "✓ flow.yaml: 7 nodes" in result.output
    assert "✗ none.yaml: 1 problem\n" in result.output


def test_an_option_sets_a_param(invoke: Invoke) -> None:
    result = invoke(check, "flow.yaml", "--site", "yard", "-D", "meter_port=70000")
    assert result.exit_code == 1
    assert "'port' needs an integer from 1 to 65535; got 70000" in result.output


def test_an_unknown_option_is_a_problem(invoke: Invoke) -> None:
    result = invoke(check, "flow.yaml", "--site", "yard", "-D", "metre_port=1")
    assert result.exit_code == 1
    assert "-D metre_port: error: no file declares the param 'metre_port' under 'params:'" in result.output


@pytest.mark.parametrize("command", [check, run])
@pytest.mark.parametrize("nothing", ["", " ", "null"])
def test_an_option_without_a_value_is_a_problem(invoke: Invoke, command: click.Command, nothing: str) -> None:
    result = invoke(command, "flow.yaml", "--site", "yard", "-D", f"meter_port={nothing}")
    assert result.exit_code == 1
    assert "-D meter_port: error: has no value" in result.output


def test_an_option_may_give_an_empty_text_in_quotes(invoke: Invoke) -> None:
    result = invoke(check, "flow.yaml", "--site", "yard", "-D", "meter_port=''")
    assert "has no value" not in result.output
    assert "'port' needs an integer" in result.output


def test_an_option_sets_nothing_in_a_file_that_does_not_declare_it(invoke: Invoke) -> None:
    lent = FLOW.replace("flow: events", "flow: second").replace("${meter_port}", "${lent_port}")
    Path("second.yaml").write_text(lent, encoding="utf-8")
    lending = FLOW.replace("params: {", "params: {lent_port: 1, ")
    Path("flow.yaml").write_text(lending, encoding="utf-8")
    result = invoke(check, "flow.yaml", "second.yaml", "--site", "yard", "-D", "lent_port=2")
    assert result.exit_code == 1
    assert "second.yaml:5:31: error: node 'pmu': unknown param" in result.output


def test_a_missing_secret_is_a_note(invoke: Invoke) -> None:
    Path("flow.yaml").write_text(FLOW.replace("${meter_port}", "${NO_SUCH_VARIABLE}"), encoding="utf-8")
    result = invoke(check, "flow.yaml", "--site", "yard")
    assert result.exit_code == 0
    assert result.output.startswith(
        "note: flow.yaml:5:31: node 'pmu': environment variable NO_SUCH_VARIABLE is not set, needed by 'port'\n✓"
    )


def test_json_tells_that_all_is_right(invoke: Invoke) -> None:
    result = invoke(check, "flow.yaml", "--site", "yard", "--json")
    assert (result.exit_code, json.loads(result.output)) == (
        0,
        {"ok": True, "problems": [], "notes": [], "budgets": []},
    )


def test_json_holds_every_part_of_a_problem(invoke: Invoke) -> None:
    Path("flow.yaml").write_text(FLOW.replace("kind: slope", "kind: slopee"), encoding="utf-8")
    result = invoke(check, "flow.yaml", "--site", "yard", "--json")
    found = json.loads(result.output)
    assert (result.exit_code, found["ok"]) == (1, False)
    [problem] = found["problems"]
    assert problem.pop("known")[0] == "detect"
    assert problem == {
        "file": "flow.yaml",
        "line": 6,
        "column": 18,
        "node": "slope",
        "message": "unknown kind",
        "got": "'slopee'",
        "nearest": "slope",
        "excerpt": {"line": "  slope:  {kind: slopee, from: pmu, window: 500ms}", "column": 18},
    }


def test_budgets_are_shown_behind_their_flow_with_what_they_leave(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_kinds.registry", shipped_registry)
    Path("events.yaml").write_text(EVENTS, encoding="utf-8")
    assert invoke(check, "events.yaml").output == (
        "✓ events.yaml: 4 nodes (1 source, 2 operators, 1 sink)\n"
        "  pmu → log, response: window 800 ms + lag 200 ms + period 0 + epoch 0 = 1 s of 1.5 s, which leaves 500 ms "
        "for networks and computing\n"
    )


def test_a_budget_that_cannot_be_kept_is_shown_with_the_sum_and_its_parts(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_kinds.registry", shipped_registry)
    Path("events.yaml").write_text(EVENTS.replace("1.5s", "900ms"), encoding="utf-8")
    result = invoke(check, "events.yaml")
    assert result.exit_code == 1
    assert result.output.startswith(
        "events.yaml:7:40: error: 'within' is less than settings need from 'pmu' to 'log': 'rocof' window 500 ms + "
        "'event' window 300 ms + 'log' lag 200 ms = 1 s of 900 ms\n"
    )
    assert result.output.endswith(": window 800 ms + lag 200 ms + period 0 + epoch 0 = 1 s of 900 ms\n")


def test_json_has_the_sum_of_each_budget_and_its_parts(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_kinds.registry", shipped_registry)
    Path("events.yaml").write_text(EVENTS, encoding="utf-8")
    [found] = json.loads(invoke(check, "events.yaml", "--json").output)["budgets"]
    assert found == {
        "file": "events.yaml",
        "from": "pmu",
        "to": "log",
        "of": "response",
        "window_s": 0.8,
        "lag_s": 0.2,
        "period_s": 0.0,
        "epoch_s": 0.0,
        "sum_s": 1.0,
        "within_s": 1.5,
        "left_s": 0.5,
        "parts": [
            {"node": "rocof", "sort": "window", "seconds": 0.5},
            {"node": "event", "sort": "window", "seconds": 0.3},
            {"node": "log", "sort": "lag", "seconds": 0.2},
        ],
        "counted_from": None,
        "not_told_by": [],
    }


def test_nodes_whose_kind_does_not_tell_its_delays_are_named(invoke: Invoke) -> None:
    budget = "budgets: [{from: pmu, to: tell, within: 1s, of: response}]\n"
    Path("flow.yaml").write_text(FLOW + budget, encoding="utf-8")
    told = invoke(check, "flow.yaml", "--site", "yard").output
    assert told.endswith("; not told by: 'pmu', 'slope', 'detect', 'watch', 'both', 'tell'\n")


def test_a_site_file_is_checked_by_itself(invoke: Invoke) -> None:
    result = invoke(check, "sites/yard.yaml")
    assert (result.exit_code, result.output) == (0, "✓ sites/yard.yaml: site 'yard_7', 2 connections\n")


def test_all_connections_of_a_site_file_are_checked(invoke: Invoke) -> None:
    wrong = SITE.replace("path: history.db", "path: 5").replace("2s", '2, username: "${NO_SUCH_USER}"')
    Path("sites/yard.yaml").write_text(wrong, encoding="utf-8")
    result = invoke(check, "sites/yard.yaml")
    assert result.exit_code == 1
    assert "yard.yaml:3:55: error: 'timeout': write it with its unit, e.g. 5s; got 2" in result.output
    assert "yard.yaml:4:32: error: 'path' needs a path" in result.output
    assert "NO_SUCH_USER is not set, needed by connection 'databus' ('username')" in result.output
    assert result.output.endswith("✗ sites/yard.yaml: 2 problems\n")


def test_a_site_file_may_stand_beside_flows_that_use_it(invoke: Invoke) -> None:
    result = invoke(check, "flow.yaml", "sites/yard.yaml", "--site", "yard")
    assert (result.exit_code, result.output.count("✓")) == (0, 2)


def test_an_option_may_set_a_param_of_a_site_file_that_is_checked(invoke: Invoke) -> None:
    assert invoke(check, "sites/yard.yaml", "-D", "meter_port=1").exit_code == 0
    assert invoke(check, "sites/yard.yaml", "-D", "metre_port=1").exit_code == 1


def test_a_secret_does_not_reach_the_terminal(invoke: Invoke) -> None:
    wrong = SITE.replace("timeout: 2s", "password: 1234567, timeout: 2")
    Path("sites/yard.yaml").write_text(wrong, encoding="utf-8")
    result = invoke(check, "sites/yard.yaml")
    assert "databus: {kind: broker, host: bus.example, password: ***, timeout: 2}" in result.output
    assert "1234567" not in result.output + invoke(check, "sites/yard.yaml", "--json").output


def test_files_are_chosen_by_their_labels(invoke: Invoke) -> None:
    labelled = FLOW.replace("flow: ", "labels: {region: north}\nflow: ", 1)
    Path("north.yaml").write_text(labelled, encoding="utf-8")
    result = invoke(check, "flow.yaml", "north.yaml", "--site", "yard", "--select", "region=north")
    assert result.exit_code == 0
    assert "north.yaml" in result.output
    assert "flow.yaml" not in result.output


def test_a_flow_has_the_labels_of_its_site(invoke: Invoke) -> None:
    Path("sites/yard.yaml").write_text("labels: {region: north}\n" + SITE, encoding="utf-8")
    assert invoke(check, "flow.yaml", "--site", "yard", "--select", "region=north").exit_code == 0


def test_labels_that_no_file_has_are_wrong_usage_and_the_others_are_named(invoke: Invoke) -> None:
    Path("sites/yard.yaml").write_text("labels: {region: north}\n" + SITE, encoding="utf-8")
    result = invoke(check, "flow.yaml", "--site", "yard", "--select", "region=nroth")
    assert result.exit_code == 2
    assert "no file has the labels region=nroth; known: region=north" in result.output


def test_no_file_is_wrong_usage(invoke: Invoke) -> None:
    assert invoke(check).exit_code == 2


def test_an_unknown_site_is_wrong_usage(invoke: Invoke) -> None:
    assert invoke(check, "flow.yaml", "--site", "yrd").exit_code == 2


def test_control_characters_of_a_file_do_not_reach_the_terminal(invoke: Invoke) -> None:
    Path("flow.yaml").write_bytes(b"flow: \x1b[2Ja\n")
    result = invoke(check, "flow.yaml")
    assert result.exit_code == 1
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("line", "column", "caret"),
    [("\ta: 1", 2, "\t^"), ("量: {b: 1}", 4, "    ^"), ("a", 1, "^"), ("a:", 3, "  ^")],
)
def test_the_caret_stands_under_its_column(line: str, column: int, caret: str) -> None:
    excerpt = Excerpt(line=line, column=column)
    problem = Problem(file="x.yaml", line=1, column=column, message="m", excerpt=excerpt)
    assert render(problem).plain == f"x.yaml:1:{column}: error: m\n  1 | {line}\n    | {caret}"


def test_a_very_long_line_is_shown_around_the_column(invoke: Invoke) -> None:
    Path("flow.yaml").write_text(f"{{flow: a, about: {'a' * 5000}, nods: {{}}, labels: {{b: {'c' * 5000}}}}}")
    _, _, told = invoke(check, "flow.yaml").output.partition("unknown key 'nods'")
    _, shown, caret, *_ = told.split("\n")
    assert shown[caret.index("^")] == "n"
    assert len(shown) < 250


def test_a_problem_without_a_line_shows_none() -> None:
    assert render(Problem(file="-D x", message="m", got="1")).plain == "-D x: error: m; got 1"


def test_without_a_site_the_check_names_the_sites_that_are_there(invoke: Invoke) -> None:
    assert "a site file; known sites: yard; give one with --site; got 'history'" in invoke(check, "flow.yaml").output
    Path("sites/yard.yaml").unlink()
    assert "a site file: give one with --site FILE; got 'history'" in invoke(check, "flow.yaml").output


def test_site_file_alone_stands_for_its_flows(invoke: Invoke) -> None:
    Path("sites/yard.yaml").write_text(f"flows: [events]\n{SITE}", encoding="utf-8")
    result = invoke(check, "sites/yard.yaml")
    assert result.exit_code == 0
    assert "✓ sites/yard.yaml: site 'yard_7', 2 connections" in result.output
    assert "/flow.yaml: 7 nodes" in result.output


def test_two_controllers_of_one_asset_at_the_shipped_site_are_refused() -> None:
    site = shipped_flows() / "sites" / "local.yaml"
    result = CliRunner().invoke(check, [str(site), "-D", "mpc_mode=control"], obj=shipped_registry())
    assert result.exit_code == 1
    for power in ("reactive", "active"):
        assert f"would control the {power} power of 'node_4' and 13 more, as node 'control'" in result.output
    assert "voltage_control.yaml" in result.output


PMU = "{kind: pmu_udp, port: 4716, channels: {P: active_power_w}}"
ADVICE = "area: bess, controllers: [one, two]"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def controlled(*nodes: str, sent: str) -> list[str]:
    """What is told of controllers of the kinds that come with edgeflex-flow; `sent` goes to the bus."""
    Path("site.yaml").write_text("site: yard\nconnections:\n  bus: {kind: mqtt, url: 'mqtt://127.0.0.1:1883'}\n")
    sink = f"out: {{kind: mqtt_publish, from: [{sent}], bus: bus, topic: 'x/{{type}}'}}"
    text = "\n".join(f"  {node}" for node in (f"pmu: {PMU}", *nodes, sink))
    Path("flow.yaml").write_text(f"flow: a\nnodes:\n{text}\n", encoding="utf-8")
    result = CliRunner().invoke(check, ["flow.yaml", "--site", "site.yaml", "--json"], obj=shipped_registry())
    return [problem["message"] for problem in json.loads(result.output)["problems"]]


def droop(name: str, asset: str = "bess") -> str:
    limits = "fcr_power: 1 MW, minimum: -2 MW, maximum: 2 MW"
    return f"{name}: {{kind: frequency_droop, from: pmu, name: {name}, asset: {asset}, devices: [x], {limits}}}"


def dispatch(settings: str, sources: str = "one, two") -> str:
    units = "units: {u: {minimum: -1 MW, maximum: 1 MW}}"
    return f"d: {{kind: dispatch, from: {{in: [{sources}]}}, name: d, {settings}, {units}}}"


def watchdog(name: str, controller: str) -> str:
    settings = "quantity: active_power_w, safe: {bess: 0}, timeout: 1s"
    return (
        f"{name}: {{kind: setpoint_watchdog, from: of_{name}, name: {name}, controller: {controller}, {settings}}}\n"
        f"  of_{name}: {{kind: mqtt_subscribe, bus: bus, topics: [s], messages: [setpoints]}}"
    )


def voltage(inverter: str) -> str:
    return (
        "v: {kind: voltage_control, from: {voltage: q, available: s, charge: c}, name: v, power_base: 100 kVA, "
        f"inverters: {{bess: {{rated_power: 30 kVA, {inverter}}}}}, "
        "branches: {l: {from: s, to: bess, resistance: 0.1 ohm, reactance: 0.1 ohm}}}\n"
        "  q: {kind: mqtt_subscribe, bus: bus, topics: [q], columns: [voltage_pu]}\n"
        "  s: {kind: mqtt_subscribe, bus: bus, topics: [s], columns: [available_power_pu]}\n"
        "  c: {kind: mqtt_subscribe, bus: bus, topics: [c], columns: [state_of_charge_percent]}"
    )


STORAGE = "storage: {capacity: 10 kWh, max_charge: 5 kW, max_discharge: 5 kW}"


@pytest.mark.parametrize(
    ("nodes", "sent"),
    [
        ((droop("one"), droop("two"), dispatch(ADVICE)), "one, two, d"),
        ((droop("one"), watchdog("w", "one")), "one, w"),
        ((droop("one"), voltage("curtailable: false")), "one, v"),
        ((droop("one"), voltage("storage_only: true, curtailable: true")), "one, v"),
    ],
    ids=["advice to a dispatch", "its watchdog", "reactive power of it", "an inverter that does nothing"],
)
def test_shipped_controllers_that_do_not_move_the_same(nodes: tuple[str, ...], sent: str) -> None:
    assert controlled(*nodes, sent=sent) == []


@pytest.mark.parametrize(
    ("nodes", "sent"),
    [
        ((droop("one"), droop("two"), dispatch(f"{ADVICE}, mode: shadow")), "one, two"),
        ((droop("one"), droop("two"), dispatch("area: far, controllers: [one, two]")), "one, two, d"),
        ((droop("one"), droop("two"), dispatch("area: bess, controllers: [other]")), "one, two, d"),
        ((droop("one", "u"), droop("two"), dispatch("area: bess, controllers: [one, two]")), "one, two, d"),
        ((droop("one", "u"), droop("two"), dispatch("area: u, controllers: [two]")), "one, two, d"),
        ((droop("one"), watchdog("w", "two")), "one, w"),
        ((droop("one", "far"), watchdog("w", "x"), watchdog("z", "x")), "w, z"),
        ((droop("one", "far"), watchdog("w", "x"), watchdog("z", "w")), "w, z"),
        ((droop("one"), voltage("curtailable: true")), "one, v"),
        ((droop("one"), voltage(f"storage_only: true, curtailable: false, {STORAGE}")), "one, v"),
    ],
    ids=[
        "a dispatch in shadow",
        "a dispatch of another area",
        "a dispatch of other controllers",
        "a unit of the dispatch",
        "a unit of the dispatch that does not hear it",
        "a watchdog of another controller",
        "two watchdogs",
        "a watchdog of a watchdog",
        "curtailing",
        "a storage",
    ],
)
def test_shipped_controllers_that_move_the_same_are_refused(nodes: tuple[str, ...], sent: str) -> None:
    [problem] = controlled(*nodes, sent=sent)
    assert problem.startswith("would control the active power of ")
