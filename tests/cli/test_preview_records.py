"""Which record stands in for which source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from c37118_cases import plain_config, plain_data
from captures import ETHERNET, UDP, ip, link, pcap, udp
from preview_cases import NIGHT_NS, SWING, lines, npz, rising, shipped_plan

from edgeflex_connectors.c37118 import encode_config, encode_data
from edgeflex_connectors.recording_table import RecordingError
from edgeflex_flow.cli.preview_files import Wanted, read_file, readable_in
from edgeflex_flow.cli.preview_records import GivenRecord, NoRecordError, Records, Span, find_records, read_records
from edgeflex_flow.messages import (
    Alarm,
    FlexResponse,
    Forecast,
    FrequencyEvent,
    Message,
    Quality,
    Samples,
    Setpoints,
    samples_from_rows,
)

S = 1_000_000_000


def read(flow: str, *texts: object, span: Span = Span()) -> Records:  # noqa: B008 - immutable
    plan = shipped_plan(flow)
    return read_records(plan, find_records(map(str, texts), plan), span)


def feeder(column: str, *values: float) -> Samples:
    return samples_from_rows([(NIGHT_NS + k * 30 * S, "node_2", {column: value}) for k, value in enumerate(values)])


def setpoints(controller: str) -> Setpoints:
    return Setpoints(
        controller=controller,
        time_ns=NIGHT_NS,
        quantity="active_power_pu",
        values={"node_2": 0.0},
        valid_for_s=10.0,
        status="ok",
    )


def test_one_record_serves_all_sources_whose_columns_it_has(tmp_path: Path) -> None:
    night = lines(
        tmp_path / "night.jsonl",
        [feeder("voltage_pu", 1.0, 1.01), feeder("available_power_pu", 0.1), feeder("state_of_charge_percent", 50.0)],
    )
    records = read("voltage_control", night)
    assert set(records.by_source) == {"voltages", "sun", "charges"}
    voltages = records.by_source["voltages"].samples
    assert voltages is not None
    assert list(voltages.columns) == ["voltage_pu"]
    assert voltages.columns["voltage_pu"].tolist() == [1.0, 1.01]
    assert records.notes == ["source 'others' has no record: it gives nothing"]


def test_a_record_by_name_serves_its_source_alone(tmp_path: Path) -> None:
    told = [feeder("voltage_pu", 1.0), feeder("available_power_pu", 0.1), feeder("state_of_charge_percent", 50.0)]
    night = lines(tmp_path / "night.jsonl", told)
    records = read("voltage_control", f"voltages={night}", f"sun={night}")
    assert records.places == {"voltages": [str(night)], "sun": [str(night)]}


def test_files_of_a_folder_serve_the_sources_that_they_are_named_after(tmp_path: Path) -> None:
    lines(tmp_path / "voltages.jsonl", [feeder("voltage_pu", 1.0)])
    (tmp_path / "sun.csv").write_text("time_s,device,available_power_pu\n1780000000,node_2,0.1\n")
    (tmp_path / "notes.txt").write_text("nothing of this")
    records = read("voltage_control", tmp_path)
    assert records.places == {"sun": [str(tmp_path / "sun.csv")], "voltages": [str(tmp_path / "voltages.jsonl")]}


def test_capture_serves_the_source_whose_channels_it_holds(tmp_path: Path) -> None:
    config = plain_config()
    frames = [encode_config(config), *(encode_data(plain_data(config, number), config) for number in range(50))]
    sent = [link(ip(UDP, udp(frame)), ETHERNET) for frame in frames]
    (tmp_path / "night.pcap").write_bytes(pcap(sent))
    samples = read("frequency_events", tmp_path / "night.pcap").by_source["pmu"].samples
    assert samples is not None
    assert samples.rows == 50
    assert samples.columns["voltage_v"].tolist() == [230.0] * 50


def test_parts_of_a_recording_count_once(tmp_path: Path) -> None:
    npz(tmp_path / "pmu-0001.npz", [rising(3)])
    npz(tmp_path / "pmu-0002.npz", [rising(2, start_ns=NIGHT_NS + S)])
    assert readable_in(tmp_path) == [tmp_path / "pmu.npz"]
    samples = read("frequency_events", tmp_path).by_source["pmu"].samples
    assert samples is not None
    assert samples.columns["frequency_hz"].tolist() == [0, 1, 2, 0, 1]


def test_several_records_of_one_source_are_one_in_order_of_time(tmp_path: Path) -> None:
    later = lines(tmp_path / "later.jsonl", [rising(2, start_ns=NIGHT_NS + S)])
    earlier = npz(tmp_path / "earlier.npz", [rising(2)])
    records = read("frequency_events", f"pmu={later}", f"pmu={earlier}")
    samples = records.by_source["pmu"].samples
    assert samples is not None
    assert samples.rows == 4
    assert (np.diff(samples.time_ns) >= 0).all()


def test_rows_are_marked_as_replayed_and_absent_columns_hold_no_values(tmp_path: Path) -> None:
    samples = read("frequency_events", npz(tmp_path / "night.npz", [rising(3)])).by_source["pmu"].samples
    assert samples is not None
    assert (samples.quality == Quality.REPLAYED).all()
    assert np.isnan(samples.columns["active_power_w"]).all()


def test_columns_of_a_csv_are_converted_to_the_unit_that_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "night.csv"
    file.write_text("time;G1.frequency_hz;G1.voltage_v\n2026-05-28T20:26:40Z;50,01;110000\n")
    samples = read("frequency_limits", file).by_source["measurements"].samples
    assert samples is not None
    assert samples.columns["voltage_kv"].tolist() == [110.0]


def test_messages_of_a_record_come_from_their_source(tmp_path: Path) -> None:
    made = Forecast(
        device="node_2",
        quantity="available_power_pu",
        time_ns=NIGHT_NS,
        begin_ns=NIGHT_NS,
        step_s=900.0,
        method="x",
        status="ok",
    )
    alarm = Alarm(source="n", severity="info", text="no source gives it", time_ns=NIGHT_NS)
    night = lines(tmp_path / "night.jsonl", [feeder("voltage_pu", 1.0), feeder("available_power_pu", 0.1), made, alarm])
    records = read("voltage_mpc", night)
    assert [each.message for each in records.by_source["forecasts"].messages] == [made]
    assert records.messages == 1


def test_what_the_flow_itself_told_does_not_come_in_again_unless_it_is_said_whose_it_is(tmp_path: Path) -> None:
    """The archive of a controller holds its own set-points: they are not those of others."""
    night = lines(
        tmp_path / "night.jsonl", [feeder("voltage_pu", 1.0), feeder("available_power_pu", 0.1), setpoints("voltage")]
    )
    assert "others" not in read("voltage_control", night).by_source
    others = lines(tmp_path / "others.jsonl", [setpoints("voltage_mpc")])
    [told] = read("voltage_control", night, f"others={others}").by_source["others"].messages
    assert isinstance(told.message, Setpoints)


def test_watchdog_hears_recorded_set_points(tmp_path: Path) -> None:
    heard = lines(tmp_path / "heard.jsonl", [setpoints("dispatch")])
    records = read("setpoint_watchdog", f"heard={heard}")
    assert records.messages == 1
    assert records.rows == 0


def test_time_chooses_from_any_record(tmp_path: Path) -> None:
    night = npz(tmp_path / "night.npz", [rising(100)])
    records = read("frequency_events", night, span=Span(NIGHT_NS + S // 2, NIGHT_NS + S))
    assert records.rows == 25
    with pytest.raises(NoRecordError, match=r"nothing in it .* \(from --begin to --end\)"):
        read("frequency_events", night, span=Span(0, 1))


def test_record_that_two_sources_would_give_is_refused() -> None:
    with pytest.raises(NoRecordError, match=r"both 'pmu' and 'measurements' give .*: say whose it is, --record pmu="):
        read("inertia_estimation", SWING)


def test_record_without_a_needed_column_is_refused_with_who_needs_it(tmp_path: Path) -> None:
    night = lines(tmp_path / "night.jsonl", [feeder("voltage_v", 63e3)])
    with pytest.raises(NoRecordError, match="lacks what is needed: 'rocof' needs frequency_hz; it has voltage_v"):
        read("frequency_events", f"pmu={night}")
    with pytest.raises(NoRecordError, match="nothing in it of what sources of the flow give: 'pmu' gives samples"):
        read("frequency_events", night)


def test_unknown_source_is_told_with_the_nearest() -> None:
    with pytest.raises(NoRecordError, match=r"no source 'pmuu'; known: pmu; did you mean 'pmu'\?"):
        read("frequency_events", f"pmuu={SWING}")


def test_unknown_store_is_told_with_those_that_the_flow_has() -> None:
    with pytest.raises(NoRecordError, match="no node of the flow names a store 'histroy'; known: history"):
        read("frequency_events", "store:histroy")


def test_empty_folder_holds_no_recording(tmp_path: Path) -> None:
    with pytest.raises(NoRecordError, match=r"there is no recording in it; known endings: \.jsonl, \.rec, \.npz"):
        read("frequency_events", tmp_path)


@pytest.mark.parametrize("name", ["night.npz", "night.db", "night.csv", "night.pcap", "night.txt", "night.jsonl"])
def test_file_that_is_not_what_its_name_says_is_told(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"\x00\x01 no such thing \xff\n")
    with pytest.raises(RecordingError, match="night"):
        read("frequency_events", file)


def test_damaged_lines_are_left_out_and_told(tmp_path: Path) -> None:
    night = lines(tmp_path / "night.jsonl", [rising(3)])
    night.write_bytes(night.read_bytes() + b'{"type":"samp\n')
    records = read("frequency_events", night)
    assert records.rows == 3
    assert any("night.jsonl:4: " in note and "1 lines like this" in note for note in records.notes)


def test_message_that_tells_no_time_comes_with_what_stands_before_it(tmp_path: Path) -> None:
    answer = FlexResponse(variable="active_power", nodes=(4,), unit="kW", flex_response={"prediction 1": (1.0,)})
    night = lines(tmp_path / "night.jsonl", [rising(2), answer, rising(2, start_ns=NIGHT_NS + S)])
    wanted = Wanted(frozenset({"frequency_hz"}), frozenset[type[Message]]({FlexResponse, FrequencyEvent}))
    [told] = read_file(night, wanted).messages
    assert told.time_ns == NIGHT_NS + 20_000_000


def test_given_record_says_for_which_source_it_is() -> None:
    plan = shipped_plan("frequency_events")
    assert find_records([f"pmu={SWING}", str(SWING)], plan) == [
        GivenRecord("pmu", str(SWING)),
        GivenRecord("", str(SWING)),
    ]
