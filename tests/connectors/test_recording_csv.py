"""CSV recordings, long and wide."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import read_or_refusal

from edgeflex_connectors.recording_csv import read_csv_table
from edgeflex_connectors.recording_table import ACTIVE_POWER, COLUMNS, Recording, RecordingError
from edgeflex_connectors.recordings import read_recording
from edgeflex_flow.messages import Quality


def read(tmp_path: Path, text: str | bytes, name: str = "r.csv") -> Recording:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_recording(file, nominal_hz=50.0)


def test_long_form_becomes_rows_in_order_of_time(tmp_path: Path) -> None:
    recording = read(
        tmp_path,
        "time_s,device,frequency_hz,voltage_kv,voltage_angle_deg,current_ka,current_angle_deg,active_power_mw,quality\n"
        "0.02,G1,50.01,11.5,180,1.5,-90,20,2\n"
        "0,G1,50.0,11.6,90,1.4,,30,0\n"
        "0,G2,49.9,,,,,,\n",
    )
    samples = recording.samples
    assert list(samples.problems()) == []
    assert samples.time_ns.tolist() == [0, 0, 20_000_000]
    assert [samples.devices[code] for code in samples.device] == ["G1", "G2", "G1"]
    assert samples.columns["frequency_hz"].tolist() == [50.0, 49.9, 50.01]
    assert samples.columns["voltage_v"][[0, 2]].tolist() == [11_600.0, 11_500.0]
    assert samples.columns["voltage_angle_rad"][[0, 2]] == pytest.approx([math.pi / 2, math.pi])
    assert samples.columns["current_a"][[0, 2]].tolist() == [1400.0, 1500.0]
    assert samples.columns["current_angle_rad"][2] == pytest.approx(-math.pi / 2)
    assert samples.columns[ACTIVE_POWER][[0, 2]].tolist() == [30e6, 20e6]
    assert np.isnan(samples.columns["voltage_v"][1])
    assert (samples.quality & ~np.uint16(Quality.REPLAYED)).tolist() == [0, 0, 2]


@pytest.mark.parametrize("mark", [".", ":", "/", " ", " : "])
def test_wide_form_has_the_device_before_the_column(tmp_path: Path, mark: str) -> None:
    recording = read(
        tmp_path,
        f"time_ns,G 1{mark}frequency_hz,G 1{mark}angle_deg,G2{mark}frequency_hz,G2{mark}quality,quality\n"
        "5,50,180,49,4,16\n"
        "9,51,,,,\n",
    )
    samples = recording.samples
    assert samples.time_ns.tolist() == [5, 5, 9]
    assert samples.devices == ("G 1", "G2")
    assert samples.columns["frequency_hz"].tolist() == [50.0, 49.0, 51.0]
    assert (samples.quality & ~np.uint16(Quality.REPLAYED)).tolist() == [16, 20, 0]


def test_wide_form_of_one_device_is_called_as_the_file(tmp_path: Path) -> None:
    recording = read(tmp_path, "frequency_hz,time_s\n50,1\n51,2\n", "north.csv")
    assert recording.samples.devices == ("north",)
    assert list(recording.samples.columns) == list(COLUMNS)
    assert recording.warnings == ("no values of voltage_v, voltage_angle_rad, current_a, current_angle_rad",)


@pytest.mark.parametrize(
    ("time", "time_ns"),
    [
        ("2026-11-25T02:16:01.250000001Z", 1_795_572_961_250_000_001),
        ("2026-11-25 02:16:01,25", 1_795_572_961_250_000_000),
        ("2026-11-25T03:16:01+01:00", 1_795_572_961_000_000_000),
        ("2026-11-24T21:46:01-0430", 1_795_572_961_000_000_000),
        ("2026-11-25T02:16", 1_795_572_960_000_000_000),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
    ],
)
def test_iso_times_are_read_to_the_nanosecond(tmp_path: Path, time: str, time_ns: int) -> None:
    recording = read(tmp_path, f'time,frequency_hz\n"{time}",50\n')
    assert recording.samples.time_ns.tolist() == [time_ns]


def test_seconds_are_read_to_the_nanosecond(tmp_path: Path) -> None:
    recording = read(tmp_path, "time_s,frequency_hz\n1795572961.250000001,50\n1.795572961E9,50\n")
    assert recording.samples.time_ns.tolist() == [1_795_572_961_000_000_000, 1_795_572_961_250_000_001]


def test_files_of_spreadsheets_are_read(tmp_path: Path) -> None:
    text = "time_s;device;frequency_hz\r\n0,5;G1;50,25\r\n\r\n1;G1;n/a\r\n"
    recording = read(tmp_path, b"\xef\xbb\xbf" + text.encode())
    assert recording.samples.time_ns.tolist() == [500_000_000, 1_000_000_000]
    assert recording.samples.columns["frequency_hz"][0] == 50.25
    assert math.isnan(recording.samples.columns["frequency_hz"][1])
    assert read(tmp_path, "time_s\tfrequency_hz\n0\t50\n", "r.tsv").samples.rows == 1


def test_frequency_is_derived_where_only_angles_are_given(tmp_path: Path) -> None:
    turns = "".join(f"{number / 50},{(number * 36 + 180) % 360 - 180}\n" for number in range(100))
    recording = read(tmp_path, "time_s,voltage_angle_deg\n" + turns)
    assert recording.samples.columns["frequency_hz"] == pytest.approx(np.full(100, 55.0))
    assert recording.samples.quality[0] & Quality.ESTIMATED


def test_columns_that_are_not_read_are_told(tmp_path: Path) -> None:
    recording = read(tmp_path, "time_s,device,frequency_hz,rocof_hz_per_s,note,voltge_v\n0,A,50,0,x,1\n")
    assert (
        recording.warnings[0]
        == "columns that are not read: 'rocof_hz_per_s', 'note', 'voltge_v' (did you mean 'voltage_v'?)"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "r.csv:1: the first line holds no names of columns"),
        ("device,frequency_hz\n", "r.csv:1: one column of time_ns, time_s, time is needed; got none"),
        ("times,frequency_hz\n", "got none; is 'times' the time?"),
        ("time_s,time,frequency_hz\n", "r.csv:1: one column of time_ns, time_s, time is needed; got time_s, time"),
        ("time_s,device,note\n", "r.csv:1: no column is a measurement; known: frequency_hz"),
        ("time_s,device,frequency\n", "r.csv:1: column 3 ('frequency'): the name 'frequency' does not end in its unit"),
        ("time_s,device,voltage_a\n", "column 3 ('voltage_a'): 'voltage_a' measures current (A), 'voltage_v' voltage"),
        ("time_s,voltage_v,voltage_kv\n", "r.csv:1: column 3 ('voltage_kv'): the same as column 2 ('voltage_v')"),
        ("time_s,frequency_hz\n0,50\n1\n", "r.csv:3: 1 cells; the header has 2 columns"),
        (
            "time_s,frequency_hz\n0,50\n\n1,fifty\n",
            "r.csv:4: column 2 ('frequency_hz'): a number is expected; got 'fifty'",
        ),
        ("time_s,frequency_hz\n0,inf\n", "r.csv:2: column 2 ('frequency_hz'): a finite number is expected; got 'inf'"),
        ("time_s,frequency_hz\nnoon,50\n", "r.csv:2: column 1 ('time_s'): a time in seconds is expected; got 'noon'"),
        ("time_s,frequency_hz\nNaN,50\n", "column 1 ('time_s'): a time in seconds is expected; got 'NaN'"),
        ("time_ns,frequency_hz\n1.5,50\n", "column 1 ('time_ns'): an integer is expected; got '1.5'"),
        ("time_ns,frequency_hz\n9223372036854775808,50\n", "a time beyond what 64 bits of nanoseconds hold"),
        ("time,frequency_hz\n25.11.2026,50\n", "column 1 ('time'): a time such as 2026-11-25T02:16:01.25Z is expected"),
        ("time,frequency_hz\n2026-02-30T00:00Z,50\n", "column 1 ('time'): no such time: day"),
        ("time_s,device,frequency_hz\n0,,50\n", "column 2 ('device'): the name of a device is missing"),
        ("time_s,frequency_hz,quality\n0,50,70000\n", "column 3 ('quality'): flags are an integer from 0 to 65535"),
        ("time_s,frequency_hz\n", "r.csv: there are no rows of measurements in it"),
        ("time_s,voltage_v\n0,1\n", "r.csv: there is no frequency in it"),
        (b"time_s,frequency_hz\n0,50\xff\n", "r.csv: not UTF-8: byte 0xff"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    with pytest.raises(RecordingError) as caught:
        read(tmp_path, text)
    assert complaint in str(caught.value)


@settings(max_examples=100)
@given(st.text(alphabet='time_sn,;\t"\n\r0123456789.-:frequency_hzdeviceG\0é', max_size=200))
def test_any_text_ends_in_a_recording_or_a_named_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("csv") / "r.csv"
    file.write_text("time_s,frequency_hz\n" + text, encoding="utf-8", newline="")
    found = read_or_refusal(file)
    if isinstance(found, str):
        assert found.startswith(str(file))
    else:
        assert list(found.samples.problems()) == []


def test_table_has_all_columns_that_end_in_their_unit_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "noon.csv"
    file.write_text("time_s,device,voltage_pu,remark,active_power_kw\n0,n1,1.02,fine,5\n1,n2,,x,6\n")
    table = read_csv_table(file)
    assert list(table.columns) == ["voltage_pu", "active_power_kw"]
    assert table.columns["active_power_kw"].tolist() == [5.0, 6.0]
    assert np.isnan(table.columns["voltage_pu"]).tolist() == [False, True]
    assert [table.devices[code] for code in table.device] == ["n1", "n2"]


def test_table_may_be_wide(tmp_path: Path) -> None:
    file = tmp_path / "noon.csv"
    file.write_text("time_s,n1.voltage_pu,n2.voltage_pu\n0,1.02,1.03\n1,1.01,\n")
    table = read_csv_table(file)
    assert sorted(zip(table.time_ns.tolist(), [table.devices[code] for code in table.device], strict=True)) == [
        (0, "n1"),
        (0, "n2"),
        (1_000_000_000, "n1"),
    ]


def test_table_without_any_unit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "noon.csv"
    file.write_text("time_s,device,voltage\n0,n1,1.02\n")
    with pytest.raises(RecordingError, match="no column is a measurement, with its unit at the end of its name"):
        read_csv_table(file)
