"""`edgeflex policy preview` on shipped flows and recorded nights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import toy_nodes
from preview_cases import (
    FLOWS,
    NIGHT_NS,
    SWING,
    events_of,
    frequency_night,
    lines,
    npz,
    policies,
    preview,
    preview_json,
    rising,
    voltage_noon,
)
from served_policies import AUDIENCE, GROUP, ServedPolicies

from edgeflex_connectors.sqlite import SqliteConfig, SqliteStore
from edgeflex_flow.cli.preview import EXIT_DIFFERS
from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import FlexOffer, FlexRequest, Forecast, Samples, join_samples, samples_from_rows

AUDITED = Path(__file__).parent / "preview_audited.py"


@pytest.fixture(scope="module")
def frequency_record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npz(tmp_path_factory.mktemp("frequency") / "night.npz", frequency_night())


@pytest.fixture(scope="module")
def voltages() -> list[Samples]:
    return voltage_noon()


def test_a_higher_onset_hides_events_of_a_night(tmp_path: Path) -> None:
    proposed = policies(tmp_path, rocof_trigger={"onset": "30 mHz/s"})
    found = preview_json(proposed, "frequency_events", [SWING])
    [change] = found["changes"]
    assert change == {
        "node": "event",
        "setting": "onset",
        "policy": "rocof_trigger",
        "field": "onset",
        "before": 0.02,
        "after": 0.03,
        "unit": "Hz/s",
    }
    events = events_of(found, "event", "frequency_event")
    assert events["today"] == 10
    gone = {each["who"]["device"] for each in events["only_today"]}
    assert 0 < len(gone) < 10
    assert events["proposed"] == 10 - len(gone)
    assert events["only_proposed"] == []
    assert found["summary"].startswith(f"With the proposed policy {len(gone)} of 10 events would not have been told")
    assert found["open_loop"] is None
    assert found["record"]["rows"] == 9000


def test_changed_fields_are_told_with_how_much_they_changed(tmp_path: Path) -> None:
    found = preview_json(policies(tmp_path, rocof_trigger={"onset": "24 mHz/s"}), "frequency_events", [SWING])
    events = events_of(found, "event", "frequency_event")
    assert events["changed"]
    for each in events["changed"]:
        for name, field in each["fields"].items():
            if field["by"] is not None:
                assert field["by"] == pytest.approx(field["proposed"] - field["today"]), name


def test_same_policy_twice_makes_no_difference(tmp_path: Path, frequency_record: Path) -> None:
    both = policies(tmp_path, frequency_reserve={"fcr_power": "30 MW"})
    found = preview_json(both, "frequency_control", [frequency_record], "--today", both)
    assert found["changes"] == []
    assert not found["differs"]
    assert all(
        each["changed"] == each["only_today"] == each["only_proposed"] == 0 for each in found["comparison"]["setpoints"]
    )
    assert sum(each["today"] for each in found["comparison"]["setpoints"]) > 1000
    assert "nothing would have been different" in found["summary"]


def test_two_previews_are_the_same_to_the_byte(tmp_path: Path, frequency_record: Path) -> None:
    proposed = policies(tmp_path, frequency_reserve={"fcr_power": "20 MW", "inertia": "3 s"})
    first, second = (preview(proposed, "frequency_control", [frequency_record], "--json") for _ in range(2))
    assert first.exit_code == 0
    assert first.stdout == second.stdout


def test_half_the_reserve_halves_the_set_points_of_the_droop(tmp_path: Path, frequency_record: Path) -> None:
    proposed = policies(tmp_path, frequency_reserve={"fcr_power": "20 MW"})
    found = preview_json(proposed, "frequency_control", [frequency_record])
    by_node = {each["node"]: each for each in found["comparison"]["setpoints"] if each["asset"] == "north"}
    droop = by_node["droop"]
    assert droop["changed"] > 100
    assert droop["unit"] == "W"
    assert -20e6 < droop["largest"] < -5e6
    assert NIGHT_NS > droop["largest_time_ns"] > 1_700_000_005_000_000_000
    assert droop["energy"]["unit"] == "kWh"
    assert droop["energy"]["proposed"] == pytest.approx(droop["energy"]["today"] / 2, rel=0.01)
    assert droop["energy"]["shifted"] == pytest.approx(droop["energy"]["today"] / 2, rel=0.01)
    assert by_node["inertia"]["changed"] == 0
    assert "Open loop" in found["open_loop"]
    assert "set-points of active power by 'droop' would have differed by up to" in found["summary"]


def test_flow_on_a_record_gives_the_set_points_that_it_gave_live(tmp_path: Path, frequency_record: Path) -> None:
    """With the policies of that night the droop says what it said, though that was computed in closed loop."""
    found = preview_json(policies(tmp_path, other={"x": 1}), "frequency_control", [frequency_record])
    [droop] = [each for each in found["comparison"]["setpoints"] if each["node"] == "droop"]
    assert droop["today"] == pytest.approx(20.0 / 0.05, abs=3)


def test_a_higher_onset_leaves_fewer_estimates_of_inertia(tmp_path: Path) -> None:
    proposed = policies(tmp_path, inertia_trigger={"onset": "0.5 Hz/s"})
    found = preview_json(proposed, "inertia_estimation", [f"pmu={SWING}"])
    estimates = events_of(found, "inertia", "inertia_estimate")
    assert (estimates["today"], estimates["proposed"]) == (10, 0)
    assert events_of(found, "system", "system_inertia")["only_today"]
    assert "source 'measurements' has no record: it gives nothing" in found["notes"]
    assert "None of today's 10 estimates of inertia would have been told" in found["summary"]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_lower_bound_of_voltage_curtails_more(tmp_path: Path, voltages: list[Samples], form: str) -> None:
    if form == "jsonl":
        records: list[object] = [lines(tmp_path / "noon.jsonl", voltages)]
    else:
        records = [csv_of(tmp_path, "voltages", voltages), csv_of(tmp_path, "sun", voltages)]
    found = preview_json(policies(tmp_path, voltage_bounds={"voltage_max": "1.03 pu"}), "voltage_control", records)
    moved = [each for each in found["comparison"]["setpoints"] if each["changed"]]
    assert {each["quantity"] for each in moved} == {"active_power_pu"}
    energies = [each["energy"] for each in moved]
    assert {each["unit"] for each in energies} == {"kWh"}
    assert sum(each["proposed"] for each in energies) < sum(each["today"] for each in energies) - 1.0
    assert "source 'charges' has no record: it gives nothing" in found["notes"]


def test_another_limit_gives_other_crossings(tmp_path: Path) -> None:
    """The shipped flow of limits, with a band that a policy may move."""
    bound = "{policy: bands, field: voltage_above, default: 115500.0, min: 110000.0, max: 123000.0}"
    text = (FLOWS / "frequency_limits.yaml").read_text(encoding="utf-8").replace("above: 115500.0", f"above: {bound}")
    flow = tmp_path / "limits.yaml"
    flow.write_text(text, encoding="utf-8")
    course_kv = [112.0, 116.0, 116.0, 112.0, 118.0, 112.0]
    rows = [(NIGHT_NS + k * 10**9, "bus_1", {"voltage_kv": v, "frequency_hz": 50.0}) for k, v in enumerate(course_kv)]
    night = lines(tmp_path / "night.jsonl", [samples_from_rows(rows)])
    proposed = policies(tmp_path, bands={"voltage_above": 117000.0})
    site = ("--site", FLOWS / "sites" / "local.yaml")
    found = preview_json(proposed, flow, [night], *site)
    crossings = events_of(found, "voltage", "crossing")
    assert [each["time_ns"] - NIGHT_NS for each in crossings["only_today"]] == [10**9, 3 * 10**9]
    assert crossings["proposed"] == 2
    assert {"limit", "value"} >= set(crossings["changed"][0]["fields"])
    assert "2 of 4 crossings of limits would not have been told" in found["summary"]


def test_controller_with_foresight_runs_on_recorded_forecasts(tmp_path: Path, voltages: list[Samples]) -> None:
    made = Forecast(
        device="node_26",
        quantity="available_power_pu",
        time_ns=NIGHT_NS,
        begin_ns=NIGHT_NS,
        step_s=900.0,
        values=(0.1,) * 24,
        method="daily",
        status="ok",
    )
    night = lines(tmp_path / "night.jsonl", [made, *voltages[:8]])
    found = preview_json(policies(tmp_path, voltage_bounds={"voltage_max": "1.03 pu"}), "voltage_mpc", [night])
    assert found["record"]["messages"] == 1
    assert found["record"]["sources"]["forecasts"] == [str(night)]
    assert any(each["changed"] for each in found["comparison"]["setpoints"])
    again = preview_json(policies(tmp_path, voltage_bounds={"voltage_max": "1.03 pu"}), "voltage_mpc", [night])
    assert again == found


def csv_of(folder: Path, source: str, batches: list[Samples]) -> Path:
    """A wide file for a person's spreadsheet."""
    column = {"voltages": "voltage_pu", "sun": "available_power_pu"}[source]
    rows = join_samples([each for each in batches if column in each.columns])
    file = folder / f"{source}.csv"
    made = zip(rows.time_ns, rows.device, rows.columns[column], strict=True)
    text = "".join(f"{time_ns},{rows.devices[code]},{float(value)!r}\n" for time_ns, code, value in made)
    file.write_text(f"time_ns,device,{column}\n{text}", encoding="utf-8")
    return file


def test_policy_of_the_policy_system_is_read_as_it_comes(tmp_path: Path, frequency_record: Path) -> None:
    given = {
        "type": "policy",
        "policy_id": "frequency_reserve",
        "policy_group": "north",
        "policy_kind": "operational_bounds",
        "version": 7,
        "fields": {"fcr_power": "20 MW"},
        "rules": [{"of": "no flow"}],
        "valid_from_ns": NIGHT_NS,
    }
    file = tmp_path / "policy.json"
    for shape in (given, {"policies": [given]}):
        file.write_text(json.dumps(shape), encoding="utf-8")
        found = preview_json(file, "frequency_control", [frequency_record])
        assert [(each["before"], each["after"]) for each in found["changes"]] == [(40e6, 20e6)]
        assert any("holds for a certain time only" in note for note in found["notes"])


def test_policy_as_it_is_saved_is_read_as_flows_get_it(tmp_path: Path) -> None:
    proposed = tmp_path / "flexibility.json"
    written = {"fields": {"window_begin": "06:00", "window_end": "22:30"}, "valid_from": "2030-01-01T00:00:00Z"}
    proposed.write_text(json.dumps({"kind": "flexibility", **written}), encoding="utf-8")
    request = FlexRequest(
        variable="active_power", nodes=(4,), unit="kW", flex_request={"p1": (-3.0,)}, id="r", time_ns=NIGHT_NS
    )
    record = lines(tmp_path / "requests.jsonl", [request])
    fates = lines(tmp_path / "fates.jsonl", [FlexOffer(id="other", state="accepted", created_ns=NIGHT_NS)])
    found = preview_json(proposed, "flexibility", [f"questions={record}", f"fates={fates}"])
    assert {each["field"]: each["after"] for each in found["changes"]} == {
        "window_begin": 6 * 3600.0,
        "window_end": 22.5 * 3600.0,
    }
    assert any("holds for a certain time only" in note for note in found["notes"])
    assert not any(each["type"] == "alarm" for each in found["comparison"]["messages"])


def test_value_outside_the_limits_is_refused_and_todays_stays(tmp_path: Path, frequency_record: Path) -> None:
    today = policies(tmp_path, "today.yaml", frequency_reserve={"fcr_power": "30 MW"})
    proposed = policies(tmp_path, frequency_reserve={"fcr_power": "900 MW", "inertai": "3 s"})
    found = preview_json(proposed, "frequency_control", [frequency_record], "--today", today)
    assert found["changes"] == []
    [refusal] = found["refused"]
    assert "is outside 0 to 1e+08 W" in refusal
    assert "3e+07 W stays" in refusal
    assert found["unbound"] == [
        {"policy": "frequency_reserve", "field": "inertai", "nearest": "frequency_reserve.inertia"}
    ]


def test_people_get_a_table_and_a_sentence(tmp_path: Path) -> None:
    result = preview(policies(tmp_path, rocof_trigger={"onset": "1 Hz/s"}), "frequency_events", [SWING])
    assert result.exit_code == 0
    assert "event.onset" in result.stdout
    assert "none of today's 10 events would have been told" in result.stdout
    assert "the defaults that the flow file declares" in result.stdout
    assert "GENROU_3" in result.stdout


def test_exit_code_tells_of_differences_only_when_asked(tmp_path: Path) -> None:
    other = policies(tmp_path, rocof_trigger={"onset": "1 Hz/s"})
    same = policies(tmp_path, "same.yaml", rocof_trigger={"onset": "20 mHz/s"})
    assert preview(other, "frequency_events", [SWING]).exit_code == 0
    assert preview(other, "frequency_events", [SWING], "--exit-code").exit_code == EXIT_DIFFERS
    assert preview(same, "frequency_events", [SWING], "--exit-code").exit_code == 0


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_picture_is_drawn_in_the_format_of_its_name(tmp_path: Path, frequency_record: Path, ending: str) -> None:
    file = tmp_path / f"out.{ending}"
    proposed = policies(tmp_path, frequency_reserve={"fcr_power": "20 MW"})
    assert preview(proposed, "frequency_control", [frequency_record], "--picture", file).exit_code == 0
    assert file.read_bytes().startswith(b"\x89PNG" if ending == "png" else b"<?xml")


def test_picture_of_events_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "out.svg"
    proposed = policies(tmp_path, rocof_trigger={"onset": "30 mHz/s"})
    assert preview(proposed, "frequency_events", [SWING], "--picture", file).exit_code == 0
    assert "<svg" in file.read_text(encoding="utf-8")


def test_picture_with_an_unknown_ending_is_wrong_usage(tmp_path: Path) -> None:
    result = preview(policies(tmp_path, a={"b": 1}), "frequency_events", [SWING], "--picture", tmp_path / "out.gif")
    assert result.exit_code == 2


def test_store_of_the_site_is_a_record_and_a_time_is_chosen_from_it(tmp_path: Path) -> None:
    rows = rising(500)
    store = SqliteStore(SqliteConfig(path=str(tmp_path / "history.db")), tmp_path / "history.db")
    store.open()
    store.write([rows], [])
    store.close()
    proposed = policies(tmp_path, rocof_trigger={"onset": "1 Hz/s"})
    whole = preview_json(proposed, "frequency_events", ["store:history"], "-D", f"data_folder={tmp_path}")
    assert whole["record"]["rows"] == 500
    assert whole["record"]["sources"] == {"pmu": ["store:history"]}
    part = preview_json(proposed, "frequency_events", [tmp_path / "history.db"], "--end", "2026-05-28T20:26:41Z")
    assert part["record"]["rows"] == 50


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "error"),
        ("[1, 2]", "a policy file holds policies"),
        ('{"type": "policy", "policy_id": "x"}', "no policy: Object missing required field"),
        ('{"policies": [{"policy_id": 1}]}', "no policy"),
    ],
)
def test_wrong_policy_file_ends_with_code_1_and_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "policy.json"
    file.write_text(text, encoding="utf-8")
    result = preview(file, "frequency_events", [SWING])
    assert result.exit_code == 1
    assert said in result.stderr
    assert "policy.json" in result.stderr


def test_absent_files_end_with_code_1(tmp_path: Path) -> None:
    good = policies(tmp_path, rocof_trigger={"onset": "1 Hz/s"})
    for policy, record in (
        (tmp_path / "none.json", SWING),
        (good, tmp_path / "none.pcap"),
        (good, tmp_path / "none.npz"),
    ):
        result = preview(policy, "frequency_events", [record])
        assert result.exit_code == 1
        assert "none" in result.stderr
    assert preview(good, tmp_path / "none.yaml", [SWING]).exit_code == 1


def test_flow_that_cannot_go_on_ends_with_code_3(tmp_path: Path) -> None:
    def step(_config: object, _state: object, _message: object) -> list[Samples]:
        raise FatalError("the operator has had enough")

    flow = tmp_path / "flow.yaml"
    flow.write_text(
        "flow: fails\nnodes:\n  pmu: {kind: file_replay, path: x.jsonl, columns: [frequency_hz]}\n"
        "  failing: {kind: toy_operator, from: pmu}\n",
        encoding="utf-8",
    )
    night = npz(tmp_path / "night.npz", [rising(3)])
    kinds = [toy_nodes.operator(step)]
    result = preview(policies(tmp_path, a={"b": 1}), flow, [night], more_kinds=kinds)
    assert result.exit_code == 3
    assert "the operator has had enough" in result.stderr


def test_source_without_a_record_is_told_with_what_it_gives(tmp_path: Path, voltages: list[Samples]) -> None:
    sun = lines(tmp_path / "sun.jsonl", [each for each in voltages if "available_power_pu" in each.columns])
    result = preview(policies(tmp_path, voltage_bounds={"voltage_max": "1.03 pu"}), "voltage_control", [sun])
    assert result.exit_code == 1
    assert "source 'voltages' (mqtt_subscribe) has no record" in result.stderr
    assert "port 'voltage' of 'control'" in result.stderr
    assert "--record voltages=FILE" in result.stderr


def audited(folder: Path, *arguments: object) -> str:
    """What a command wrote, connected to or listened on, by Python's own audit; `folder` is where it works."""
    command = [sys.executable, str(AUDITED), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("flow", ["frequency_events", "frequency_control", "inertia_estimation"])
def test_nothing_outside_the_process_is_written_or_spoken_to(tmp_path: Path, flow: str, frequency_record: Path) -> None:
    record = frequency_record if flow == "frequency_control" else SWING
    home = tmp_path / "home"
    home.mkdir()
    proposed = policies(tmp_path, rocof_trigger={"onset": "1 Hz/s"})
    site = FLOWS / "sites" / "local.yaml"
    told = audited(
        home,
        *("policy", "preview", proposed, "--flow", FLOWS / f"{flow}.yaml", "--site", site),
        *("--record", f"pmu={record}", "-D", f"data_folder={home}"),
    )
    assert told == "audit: []"
    assert list(home.iterdir()) == []


def test_the_audit_sees_what_a_running_flow_writes(tmp_path: Path) -> None:
    recording, events = npz(tmp_path / "night.npz", [rising(50)]), tmp_path / "events.jsonl"
    parameters = ("-D", f"recording={recording}", "-D", f"events={events}")
    assert str(events) in audited(tmp_path, "run", FLOWS / "replay_events.yaml", "--runtime", "inline", *parameters)


def site_with_policies(tmp_path: Path, served: ServedPolicies) -> Path:
    """The local site, with a policy system."""
    served.make_group()
    key = served.make_service("site")
    (tmp_path / "site.pem").write_bytes(key.pem)
    auth = f"{{kind: jwt, key: {tmp_path / 'site.pem'}, issuer: site, audience: {AUDIENCE}}}"
    policies = f"  policies: {{kind: policy_system, url: '{served.url}', auth: {auth}, group: {GROUP}}}"
    file = tmp_path / "local.yaml"
    local = (FLOWS / "sites" / "local.yaml").read_text()
    file.write_text(local.replace("connections:\n", f"connections:\n{policies}\n"))
    return file


def test_todays_policies_are_those_that_the_policy_system_gives(tmp_path: Path) -> None:
    proposed = tmp_path / "rocof_trigger.json"
    proposed.write_text('{"kind": "trigger", "fields": {"onset": "40 mHz/s"}}')
    with ServedPolicies(tmp_path / "policy") as served:
        site = site_with_policies(tmp_path, served)
        served.save("rocof_trigger", {"kind": "trigger", "fields": {"onset": "30 mHz/s"}})
        found = preview_json(proposed, "frequency_events", [SWING], "--site", site)
        assert found["today"] == "what the policy system says now"
        [change] = found["changes"]
        assert (change["before"], change["after"]) == (0.03, 0.04)
        defaults = preview_json(proposed, "frequency_events", [SWING], "--site", site, "--today", "defaults")
        assert (defaults["today"], defaults["changes"][0]["before"]) == (None, 0.02)
        assert served.stop() == 0
        away = preview(proposed, "frequency_events", [SWING], "--site", site)
        assert away.exit_code == 1
        assert "--today defaults" in away.stderr


def test_a_connection_that_a_policy_changes_is_told_and_not_replayed(tmp_path: Path) -> None:
    record = tmp_path / "meters.csv"
    record.write_text("time_s,device,active_power_w,voltage_v\n1700000000,feeder_1,1.0,230.0\n", encoding="utf-8")
    options = ["--site", FLOWS / "sites" / "by_policy.yaml", "--today", "defaults"]
    flow = FLOWS / "external_data.yaml"
    place = "connection partner.url (policy 'external_data', field 'source')"
    told = {
        "http://127.0.0.1:8481": f"{place} would be http://127.0.0.1:8481, which a record cannot show",
        "http://elsewhere.example": f"{place} would stay as it is, since the proposed value is refused",
    }
    for source, text in told.items():
        found = preview_json(policies(tmp_path, external_data={"source": source}), flow, [record], *options)
        assert found["unbound"] == []
        assert found["changes"] == []
        [note] = [each for each in found["notes"] if place in each]
        assert note.startswith(text)
