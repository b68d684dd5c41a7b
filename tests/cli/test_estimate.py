"""`edgeflex estimate inertia`."""

from __future__ import annotations

import importlib
import io
import json
import math
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from inertia_results import inertia_estimate
from rich.console import Console
from rich.progress import Progress

from edgeflex_connectors.sqlite import SqliteConfig, SqliteStore
from edgeflex_flow.cli import estimate as command
from edgeflex_flow.cli.estimate import Estimator, estimate, plot_files, record_keys
from edgeflex_flow.cli.inertia_output import RecordReport
from edgeflex_flow.cli.inertia_pipeline import Choice, RecordResult, UnitResult
from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import EstimateStatus, Samples, SystemInertia, samples_from_rows
from edgeflex_operators._units import GeneratingUnit, UnitTable

UNITS = """\
G1:
  rated_power: 1040 MVA
  rated_voltage: 20 kV
  transient_reactance_pu: 0.31
  governor: {gain_pu: 25}
G2:
  rated_power: 0.5 MVA
  governor: null
"""


def unit_result(device: str, h_s: float, status: EstimateStatus = "ok", reason: str = "") -> UnitResult:
    good = status == "ok"
    numbers = {"h_s": h_s, "h_ci95_low_s": h_s * 0.9, "h_ci95_high_s": h_s * 1.1, "kinetic_energy_mws": h_s * 1000.0}
    remarks = ("bus_frequency",) if good else ()
    made = inertia_estimate(device, status, reason=reason, remarks=remarks, **(numbers if good else {}))
    time_s = np.arange(-60, 300) / 60.0
    measured_hz = 60.0 - 0.04 * (1.0 - np.exp(-np.maximum(time_s, 0.0)))
    return UnitResult(made, time_s, measured_hz, measured_hz + 1e-4)


def system_result(**changes: Any) -> SystemInertia:
    facts: dict[str, Any] = {
        "event_id": "e",
        "time_ns": 3_007_000_000,
        "kinetic_energy_mws": 9000.5,
        "ci95_low_mws": 8000.0,
        "ci95_high_mws": 10_000.0,
        "estimated": ("G1",),
        "assumed": ("G2",),
    }
    return SystemInertia(**(facts | changes))


class Fake:
    """Stands for the estimators: takes all rows, gives a fixed result."""

    def __init__(self, result: RecordResult | Exception) -> None:
        self.result = result
        self.tables: list[UnitTable] = []
        self.rows: list[int] = []

    def __call__(
        self, batches: Iterable[Samples], units: UnitTable, *, choice: Choice, on_progress: Callable[[int], None]
    ) -> RecordResult:
        self.choice = choice
        self.tables.append(units)
        taken = [batch.rows for batch in batches]
        for rows in taken:
            on_progress(rows)
        self.rows.append(sum(taken))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


GOOD = RecordResult(
    {"G1": unit_result("G1", 4.2), "G2": unit_result("G2", 0.0, "not_excited", "largest deviation 4 mHz")},
    system_result(),
    3.007,
    other_events_s=(63.0,),
)
MADE_OF = {
    "begin_ns": 0,
    "end_ns": 1,
    "rows": 420,
    "settings": {},
    "config_digest": "",
    "unit_digest": "",
    "version": "",
}
NO_EVENT = RecordResult({}, SystemInertia(event_id="", time_ns=0, kinetic_energy_mws=None, reason="no event"))


@pytest.fixture
def record(tmp_path: Path) -> Path:
    file = tmp_path / "case.npz"
    rows = 120
    np.savez(
        file,
        t=np.arange(rows) / 60.0,
        gen=np.array(["G1", "G2", "G3"]),
        bus_freq=np.full((rows, 3), 60.0),
        s_base=100.0,
        sn=np.array([900.0, 600.0, 300.0]),
        xd1=np.full(3, 0.03),
        xd2=np.array([0.02, math.nan, 0.02]),
        ra=np.full(3, 0.001),
        has_gov=np.array([True, False, True]),
        monitored=np.array([True, True, False]),
    )
    return file


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(fake, *arguments)` runs the command with a fake in the place of the estimators."""

    def invoke(fake: Fake, *arguments: object) -> Result:
        monkeypatch.setattr(command, "_pipeline", lambda: fake)
        result = CliRunner().invoke(estimate, ["inertia", *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return invoke


def test_json_holds_units_system_and_event(run: Run, record: Path) -> None:
    result = run(Fake(GOOD), record, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "records": {
            "case": {
                "units": {
                    "G1": {
                        "h_s": 4.2,
                        "ci95_low": pytest.approx(3.78),
                        "ci95_high": pytest.approx(4.62),
                        "status": "ok",
                        "remarks": ["bus_frequency"],
                        "made_of": MADE_OF,
                    },
                    "G2": {
                        "h_s": None,
                        "ci95_low": None,
                        "ci95_high": None,
                        "status": "not_excited",
                        "reason": "largest deviation 4 mHz",
                        "remarks": [],
                        "made_of": MADE_OF,
                    },
                },
                "system_ek_mws": 9000.5,
                "system_ci95_mws": [8000.0, 10_000.0],
                "system_reason": "",
                "system_assumed": ["G2"],
                "system_remarks": [],
                "system_tripped": [],
                "system_offline": [],
                "system_agrees": None,
                "not_counted": [],
                "event_id": None,
                "event_time_s": 3.007,
                "other_events_s": [63.0],
            }
        }
    }


def test_json_without_a_value_holds_null_and_the_command_fails(run: Run, record: Path) -> None:
    result = run(Fake(NO_EVENT), record, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["records"]["case"] == {
        "units": {},
        "system_ek_mws": None,
        "system_ci95_mws": None,
        "system_reason": "no event",
        "system_assumed": [],
        "system_remarks": [],
        "system_tripped": [],
        "system_offline": [],
        "system_agrees": None,
        "not_counted": [],
        "event_id": None,
        "event_time_s": None,
        "other_events_s": [],
    }


def test_json_never_holds_what_json_cannot_hold(run: Run, record: Path) -> None:
    odd = RecordResult({"G1": unit_result("G1", math.inf)}, system_result(kinetic_energy_mws=math.nan), math.nan)
    result = run(Fake(odd), record, "--json")
    assert result.exit_code == 1
    case = json.loads(result.stdout)["records"]["case"]
    assert (case["units"]["G1"]["h_s"], case["system_ek_mws"], case["event_time_s"]) == (None, None, None)


def test_file_that_cannot_be_used_is_told_and_the_others_are_estimated(run: Run, record: Path) -> None:
    bad = record.with_name("bad.csv")
    bad.write_text("time_s,frequency_hz\n0,high\n", encoding="utf-8")
    result = run(Fake(GOOD), bad, record, "--json")
    assert result.exit_code == 1
    text = f"{bad}:2: column 2 ('frequency_hz'): a number is expected; got 'high'"
    assert f"error: {text}\n" in result.stderr
    records = json.loads(result.stdout)["records"]
    assert records["bad"] == {
        "units": {},
        "system_ek_mws": None,
        "system_ci95_mws": None,
        "system_reason": "",
        "system_assumed": [],
        "system_remarks": [],
        "system_tripped": [],
        "system_offline": [],
        "system_agrees": None,
        "not_counted": [],
        "event_id": None,
        "event_time_s": None,
        "other_events_s": [],
        "error": text,
    }
    assert records["case"]["system_ek_mws"] == 9000.5


def test_estimators_that_give_up_are_told_with_the_file(run: Run, record: Path) -> None:
    result = run(Fake(FatalError("no memory")), record)
    assert result.exit_code == 1
    assert f"error: {record}: no memory\n" in result.stderr


def test_table_shows_each_unit_and_the_system(run: Run, record: Path) -> None:
    result = run(Fake(GOOD), record)
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "case, event at 3.007 s"
    assert "G1 4.200 3.780 to 4.620 4 200 ok bus_frequency" in lines
    assert "G2 – – – not_excited largest deviation 4 mHz" in lines
    system = (
        "! system: E_k 9 000 MWs, 95 % interval 8 000 to 10 000 MWs (1 estimated, 1 assumed); "
        "assumed, not estimated: G2 other events: 63.000 s; --event TIME chooses one"
    )
    assert system in " ".join(lines)


def test_a_sum_without_doubts_is_ticked_off(run: Run, record: Path) -> None:
    sure = RecordResult({"G1": unit_result("G1", 4.2)}, system_result(assumed=()), 1_795_590_726.25)
    text = " ".join(run(Fake(sure), record).stdout.split())
    assert "✓ system: E_k 9 000 MWs" in text
    assert "event at 1795590726.250 s (2026-11-25 07:12:06 UTC)" in text


def test_a_device_without_unit_data_is_told_where_the_sum_stands(run: Run, record: Path) -> None:
    stranger = UnitResult(inertia_estimate("PMU7", "no_unit_data", rated_power_mva=None))
    found = RecordResult({"G1": unit_result("G1", 4.2), "PMU7": stranger}, system_result(assumed=()), 3.0)
    assert "! system" in (text := " ".join(run(Fake(found), record).stdout.split()))
    assert "not counted, for want of unit data: PMU7" in text
    assert json.loads(run(Fake(found), record, "--json").stdout)["records"]["case"]["not_counted"] == ["PMU7"]


def test_without_any_unit_data_that_is_the_reason(run: Run, record: Path) -> None:
    found = RecordResult(
        {"PMU7": UnitResult(inertia_estimate("PMU7", "no_unit_data", rated_power_mva=None))}, None, 3.0
    )
    assert "✗ system: no value: no data of units are given (--units)" in run(Fake(found), record).stdout


def test_a_unit_that_the_record_calls_no_part_of_the_system_is_not_missed(run: Run, record: Path) -> None:
    stranger = UnitResult(inertia_estimate("G3", "no_unit_data", rated_power_mva=None))
    found = RecordResult({"G1": unit_result("G1", 4.2), "G3": stranger}, system_result(assumed=()), 3.0)
    assert set(json.loads(run(Fake(found), record, "--json").stdout)["records"]["case"]["units"]) == {"G1"}


def test_event_and_settings_may_be_chosen(run: Run, record: Path) -> None:
    fake = Fake(GOOD)
    run(fake, record, "--event", "63", "--set", "min_deviation=12 mHz", "--set", "max_deviation=0.1")
    assert fake.choice == Choice(63.0, {"min_deviation": 0.012, "max_deviation": 0.1})


@pytest.mark.parametrize("event", ["nan", "inf", "soon"])
def test_a_time_that_is_none_is_wrong_usage(run: Run, record: Path, event: str) -> None:
    result = run(Fake(GOOD), record, "--event", event)
    assert result.exit_code == 2
    assert "--event" in result.stderr


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("max_deviaton=0.1", "known: "),
        ("max_deviation=7", "max_deviation: "),
        ("min_deviation=1", "unit"),
        ("min_power_step=1e400", "finite"),
    ],
)
def test_settings_that_cannot_be_are_wrong_usage(run: Run, record: Path, setting: str, words: str) -> None:
    result = run(Fake(GOOD), record, "--set", setting)
    assert result.exit_code == 2
    assert words in result.stderr


def test_table_says_why_there_is_no_value(run: Run, record: Path) -> None:
    result = run(Fake(NO_EVENT), record)
    assert result.exit_code == 1
    assert "case, no event found" in result.stdout
    assert "✗ system: no value: no event" in result.stdout


def test_cross_check_with_the_lost_power_is_shown(run: Run, record: Path) -> None:
    checked = system_result(lost_power_mw=500.0, kinetic_energy_from_lost_power_mws=8500.0, agrees=True)
    result = run(Fake(RecordResult({}, checked, 1.0)), record)
    assert "from the lost power 8 500 MWs, which agrees" in " ".join(result.stdout.split())


def test_units_of_the_record_are_converted_to_the_base_of_the_machine(run: Run, record: Path) -> None:
    fake = Fake(GOOD)
    run(fake, record)
    (table,) = fake.tables
    assert list(table) == ["G1", "G2"]  # G3 is not monitored
    unit = table["G1"]
    assert (unit.rated_power, unit.rated_voltage, unit.inertia_constant) == (900.0, 20.0, None)
    assert unit.transient_reactance_pu == pytest.approx(0.27)
    assert unit.subtransient_reactance_pu == pytest.approx(0.18)
    assert unit.armature_resistance_pu == pytest.approx(0.009)
    assert unit.governor is not None
    assert (table["G2"].governor, table["G2"].subtransient_reactance_pu) == (None, None)


@pytest.mark.parametrize("field", ["sn", "xd1"])
def test_a_unit_whose_data_cannot_be_right_leaves_no_sum(run: Run, record: Path, field: str) -> None:
    with np.load(record) as file:
        fields = {name: file[name] for name in file.files}
    fields[field] = fields[field].copy()
    fields[field][1] = math.nan if field == "sn" else 100.0
    np.savez(record, **fields)
    fake = Fake(GOOD)
    result = run(fake, record)
    assert list(fake.tables[0]) == ["G1"]
    assert f"warning: {record}: what the file tells of unit 'G2' cannot be right" in result.stderr
    assert result.exit_code == 1
    assert "no value: the data of G2 cannot be right" in result.stdout


@pytest.mark.parametrize(("f0", "words"), [(50.0, "is 50; 60 Hz was given"), (55.0, "is 55; nominal is 50 or 60 Hz")])
def test_a_record_of_another_nominal_frequency_is_refused(run: Run, record: Path, f0: float, words: str) -> None:
    with np.load(record) as file:
        fields = {name: file[name] for name in file.files}
    np.savez(record, **fields, f0=f0)
    result = run(Fake(GOOD), record, "--nominal", "60Hz")
    assert result.exit_code == 1
    assert f"field 'f0' {words}" in result.stderr


def test_units_file_goes_before_the_record(run: Run, record: Path, tmp_path: Path) -> None:
    (tmp_path / "units.yaml").write_text(UNITS, encoding="utf-8")
    fake = Fake(GOOD)
    run(fake, record, "--units", tmp_path / "units.yaml")
    (table,) = fake.tables
    assert table["G1"].rated_power == 1040.0
    assert table["G1"].transient_reactance_pu == 0.31
    assert table["G2"] == GeneratingUnit(rated_power=0.5, governor=None)


def test_mistake_in_the_units_file_is_shown_with_its_place(run: Run, record: Path, tmp_path: Path) -> None:
    file = tmp_path / "units.yaml"
    file.write_text("G1:\n  rated_power: 1040\n  rated_volage: 20 kV\n", encoding="utf-8")
    result = run(Fake(GOOD), record, "--units", file)
    assert result.exit_code == 1
    assert f"{file}:2:16: error: 'G1.rated_power': write it with its unit, e.g. 1 MVA; got 1040" in result.stderr
    assert f"{file}:3:3: error: unknown key 'G1.rated_volage'" in result.stderr
    assert "did you mean 'rated_voltage'?" in result.stderr
    assert result.stdout == ""


def test_every_row_is_taken_and_told(record: Path) -> None:
    fake = Fake(GOOD)
    seen = io.StringIO()
    progress = Progress(console=Console(file=seen, force_terminal=True))
    (report,) = Estimator(fake).run([record], progress)
    assert fake.rows == [360]
    assert report.good
    assert "records" in seen.getvalue()


def test_stretch_of_a_store_may_be_chosen(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    start_ns = 1_700_000_000_000_000_000  # 2023-11-14T22:13:20Z
    rows = [(start_ns + second * 10**9, "G1", {"frequency_hz": 50.0}) for second in range(60)]
    with closing(SqliteStore(SqliteConfig(path=str(file)), file)) as store:
        store.open()
        store.write([samples_from_rows(rows)], [])
    fake = Fake(GOOD)
    assert run(fake, file, "--begin", "2023-11-14T22:13:30Z", "--end", "2023-11-14T23:13:40+01:00").exit_code == 0
    assert run(fake, file, "--end", "2023-11-14T22:13:25Z").exit_code == 0
    assert run(fake, file).exit_code == 0
    assert fake.rows == [10, 5, 60]
    nothing = run(fake, file, "--begin", "2024-01-01T00:00:00Z")
    assert nothing.exit_code == 1
    assert "there are no rows of measurements in it" in nothing.stderr


def test_nominal_frequency_serves_records_of_angles(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "angles.csv"
    file.write_text("time_s,voltage_angle_deg\n" + "".join(f"{n / 50},0\n" for n in range(50)), encoding="utf-8")
    without = run(Fake(GOOD), file)
    assert without.exit_code == 1
    assert "there is no frequency in it" in without.stderr
    assert run(Fake(GOOD), file, "--nominal", "50Hz").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--nominal", "55Hz"], "'55Hz' is not one of '50Hz', '60Hz'"),
        (["--begin", "yesterday"], "a time in ISO 8601 is expected"),
        (["--end", "2026-05-01T10:00:00"], "the time needs its zone"),
        (["--channel", "V1"], "'V1' is not of the form name=value"),
        (["--channel", "V1=speed_rpm"], "'speed_rpm' of channel 'V1' is no column of a record"),
        (["--channel", "V1=voltage"], "does not end in its unit"),
        (["--plot", "out.txt"], "'out.txt' ends in none of the known ways: .png, .svg, .pdf"),
    ],
)
def test_wrong_usage_is_told_before_any_work(run: Run, record: Path, arguments: list[str], complaint: str) -> None:
    fake = Fake(GOOD)
    result = run(fake, record, *arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.replace("│", " ").split())
    assert fake.tables == []


def test_help_documents_the_exit_codes(run: Run) -> None:
    text = " ".join(run(Fake(GOOD), "--help").stdout.split())
    assert "Exit codes: 0 every record gave a value for the system; 1 a file cannot be used" in text


def test_plot_is_written_beside_the_json(run: Run, record: Path, tmp_path: Path) -> None:
    result = run(Fake(GOOD), record, "--json", "--plot", tmp_path / "out.png")
    assert result.exit_code == 0
    json.loads(result.stdout)
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_several_records_get_a_picture_each(run: Run, record: Path, tmp_path: Path) -> None:
    second = tmp_path / "other.npz"
    second.write_bytes(record.read_bytes())
    run(Fake(GOOD), record, second, tmp_path / "none.csv", "--plot", tmp_path / "out.svg")
    assert sorted(file.name for file in tmp_path.glob("*.svg")) == ["out-case.svg", "out-other.svg"]


def test_plot_that_cannot_be_written_is_told(run: Run, record: Path, tmp_path: Path) -> None:
    (tmp_path / "out-case.png").mkdir()
    result = run(Fake(GOOD), record, tmp_path / "none.csv", "--plot", tmp_path / "out.png")
    assert result.exit_code == 1
    assert "out-case.png cannot be written: Is a directory" in result.stderr


def test_a_folder_for_the_plot_that_is_not_there_is_told_before_the_work(
    run: Run, record: Path, tmp_path: Path
) -> None:
    fake = Fake(GOOD)
    result = run(fake, record, "--plot", tmp_path / "none" / "out.png")
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr
    assert fake.rows == []


def test_missing_matplotlib_is_told_with_what_to_install(
    run: Run, record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def without_matplotlib(name: str, package: str | None = None) -> Any:
        if name == "edgeflex_flow.cli.inertia_plot":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without_matplotlib)
    fake = Fake(GOOD)
    result = run(fake, record, "--plot", tmp_path / "out.png")
    assert result.exit_code == 2
    assert "--plot needs matplotlib: pip install 'PATH/TO/edgeflex-flow[plot]'" in result.stderr
    assert fake.tables == []


def test_records_of_one_stem_stay_apart() -> None:
    files = [Path("a/x.npz"), Path("b/x.npz"), Path("x.csv"), Path("y.csv"), Path("y.csv")]
    assert record_keys(files) == ["a/x.npz", "b/x.npz", "x.csv", "y.csv", "y.csv#2"]
    reports = [RecordReport(key, file) for key, file in zip(record_keys(files), files, strict=True)]
    assert [file.name for file in plot_files(Path("p/out.png"), reports)][:2] == ["out-a_x.npz.png", "out-b_x.npz.png"]
