"""npz recordings: phasors of generating units, and the project's own tables."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import read_or_refusal

from edgeflex_connectors.npz_arrays import LARGEST_ARRAY_BYTES
from edgeflex_connectors.recording_table import ACTIVE_POWER, COLUMNS, Recording, RecordingError, UnitFacts
from edgeflex_connectors.recordings import read_recording
from edgeflex_connectors.records import part_file, write_npz
from edgeflex_flow.messages import Quality, Samples, join_samples, samples_from_rows

Fields = dict[str, Any]
TRUTH = (
    "omega",
    "m_sys",
    "h",
    "d_sys",
    "ek_mws",
    "ek_all_mws",
    "event_time",
    "event_kind",
    "event_device",
    "event_mw",
    "tripped",
    "online",
)
NAN = math.nan


def fields(rate: int = 60, nominal_hz: float = 60.0, start_s: float = 0.0, rows: int = 180) -> Fields:
    """A record of two units with all fields, the truth too."""
    t = start_s + np.arange(rows) / rate
    swing = 0.1 * np.sin(t - start_s)[:, np.newaxis] * np.array([1.0, 2.0])
    v_ang = np.array([0.3, -0.2]) + swing
    v_mag, i_mag, lag = np.full((rows, 2), 1.02), np.full((rows, 2), 7.0), 0.25
    power = v_mag * i_mag * math.cos(lag)
    return {
        "t": t,
        "v_mag": v_mag.astype(np.float32),
        "v_ang": v_ang,
        "i_mag": i_mag,
        "i_ang": v_ang - lag,
        "bus_freq": nominal_hz + np.gradient(v_ang, t, axis=0) / math.tau,
        "p": power,
        "q": power,
        "gen": np.array(["G1", "G2"]),
        "sn": np.array([900.0, 1200.0]),
        "xd1": np.array([0.03, NAN]),
        "xd2": np.array([0.02, 0.0]),
        "ra": np.array([0.001, 0.0]),
        "has_gov": np.array([True, False]),
        "monitored": np.array([True, False]),
        "f0": nominal_hz,
        "s_base": 100.0,
        "fps": rate,
        "omega": np.ones((rows, 2)),
        "m_sys": np.array([100.0, 120.0]),
        "h": np.array([5.0, 6.0]),
        "d_sys": np.zeros(2),
        "ek_mws": 1.0,
        "ek_all_mws": 2.0,
        "event_time": 1.0,
        "event_kind": "load",
        "event_device": "PQ_0",
        "event_mw": 100.0,
        "tripped": "",
        "online": np.array([True, True]),
    }


def without(*names: str, **changes: Any) -> Fields:
    return {name: value for name, value in (fields() | changes).items() if name not in names}


def read(tmp_path: Path, arrays: Fields, nominal_hz: float | None = None) -> Recording:
    file = tmp_path / "case.npz"
    np.savez_compressed(file, **arrays)
    return read_recording(file, nominal_hz=nominal_hz)


def refusal(tmp_path: Path, arrays: Fields) -> str:
    with pytest.raises(RecordingError) as caught:
        read(tmp_path, arrays)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "case.npz"))
    return text


def assert_same(one: Recording, other: Recording) -> None:
    assert one.units == other.units
    assert one.warnings == other.warnings
    for name in ("time_ns", "device", "quality"):
        assert np.array_equal(getattr(one.samples, name), getattr(other.samples, name))
    assert list(one.samples.columns) == list(other.samples.columns)
    for name, values in one.samples.columns.items():
        assert np.array_equal(values, other.samples.columns[name], equal_nan=True)


def test_signals_become_columns_in_volts_amperes_and_watts(tmp_path: Path) -> None:
    recording = read(tmp_path, fields())
    samples = recording.samples
    assert list(samples.problems()) == []
    assert samples.devices == ("G1", "G2")
    assert list(samples.columns) == [*COLUMNS, ACTIVE_POWER]
    assert samples.rows == 360
    assert samples.time_ns[:4].tolist() == [0, 0, 16_666_667, 16_666_667]
    assert samples.device[:4].tolist() == [0, 1, 0, 1]
    assert samples.columns["voltage_v"][0] == pytest.approx(1.02 * 20_000 / math.sqrt(3))
    lag = samples.columns["voltage_angle_rad"] - samples.columns["current_angle_rad"]
    power_w = 3 * samples.columns["voltage_v"] * samples.columns["current_a"] * np.cos(lag)
    assert power_w == pytest.approx(samples.columns[ACTIVE_POWER])
    assert samples.columns[ACTIVE_POWER][0] == pytest.approx(1.02 * 7.0 * math.cos(0.25) * 100e6)
    assert set(samples.quality.tolist()) == {int(Quality.REPLAYED)}
    assert recording.warnings == ()


def test_facts_of_units_come_with_the_base_they_are_on(tmp_path: Path) -> None:
    units = read(tmp_path, fields()).units
    assert units == {
        "G1": UnitFacts(900.0, 100.0, 20.0, 0.03, 0.02, 0.001, True, True),
        "G2": UnitFacts(1200.0, 100.0, 20.0, None, None, 0.0, False, False),
    }


def test_the_answer_in_the_file_is_never_read(tmp_path: Path) -> None:
    whole = read(tmp_path, fields())
    assert_same(whole, read(tmp_path, without(*TRUTH)))
    poison = {name: np.array([object()]) for name in TRUTH}
    assert_same(whole, read(tmp_path, fields() | poison))
    wrong = {name: np.full((3, 3, 3), 1e300) for name in TRUTH}
    assert_same(whole, read(tmp_path, fields() | wrong))


def test_records_of_the_project_are_read(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "services/edgeflex_services/data/ieee39_load_step.npz"
    recording = read_recording(file)
    assert recording.samples.rows == 9000
    assert len(recording.samples.devices) == 10


@pytest.mark.parametrize("rate", [25, 30, 50, 60, 100, 120])
@pytest.mark.parametrize("nominal_hz", [50.0, 60.0])
@pytest.mark.parametrize("start_s", [0.0, -3.0, 1.7e9])
def test_any_rate_frequency_and_start_will_do(tmp_path: Path, rate: int, nominal_hz: float, start_s: float) -> None:
    recording = read(tmp_path, fields(rate, nominal_hz, start_s, rows=3 * rate))
    samples = recording.samples
    assert samples.time_ns[0] == round(start_s * 1e9)
    assert np.abs(np.diff(samples.time_ns[::2]) - 1e9 / rate).max() < 500
    batches = list(recording.batches())
    assert [batch.rows for batch in batches] == [2 * rate] * 3
    assert_same(recording, Recording(join_samples(batches), recording.units))


@pytest.mark.parametrize("name", ["v_mag", "i_mag", "i_ang"])
def test_missing_signal_is_a_column_without_values_and_a_warning(tmp_path: Path, name: str) -> None:
    recording = read(tmp_path, without(name))
    column = {"v_mag": "voltage_v", "i_mag": "current_a", "i_ang": "current_angle_rad"}[name]
    assert np.isnan(recording.samples.columns[column]).all()
    assert recording.warnings == (f"fields that are missing: {name}", f"no values of {column}")


def test_missing_power_is_no_column(tmp_path: Path) -> None:
    assert list(read(tmp_path, without("p")).samples.columns) == list(COLUMNS)


def test_missing_frequency_is_derived_from_the_angle_and_marked(tmp_path: Path) -> None:
    recording = read(tmp_path, without("bus_freq"))
    samples = recording.samples
    assert samples.columns["frequency_hz"] == pytest.approx(fields()["bus_freq"].ravel(), abs=1e-6)
    assert set(samples.quality.tolist()) == {int(Quality.REPLAYED | Quality.ESTIMATED)}
    assert "frequency of G1, G2 derived from the angle at nominal 60 Hz" in recording.warnings


def test_derived_frequency_needs_a_nominal_one(tmp_path: Path) -> None:
    assert "there is no frequency in it" in refusal(tmp_path, without("bus_freq", "f0"))
    recording = read(tmp_path, without("bus_freq", "f0"), nominal_hz=50.0)
    assert recording.samples.columns["frequency_hz"].mean() == pytest.approx(50.0, abs=0.1)


def test_missing_ratings_leave_the_units_out(tmp_path: Path) -> None:
    recording = read(tmp_path, without("sn"))
    assert recording.units == {}
    assert recording.warnings == ("field 'sn' is missing: the file tells nothing of its units",)


@pytest.mark.parametrize("name", ["xd1", "xd2", "ra", "has_gov", "monitored"])
def test_missing_fact_is_not_told(tmp_path: Path, name: str) -> None:
    unit = read(tmp_path, without(name)).units["G1"]
    expected = UnitFacts(900.0, 100.0, 20.0, 0.03, 0.02, 0.001, True, True)._asdict()
    expected |= {"xd1": {"transient_reactance_pu": None}, "xd2": {"subtransient_reactance_pu": None}}.get(name, {})
    expected |= {"ra": {"armature_resistance_pu": 0.0}}.get(name, {})
    assert unit._asdict() == expected


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        (without("t"), "field 't' is missing"),
        (without("gen"), "field 'gen' is missing"),
        (without("s_base"), "field 's_base' is missing"),
        (without("bus_freq", "v_ang"), "field 'bus_freq' is missing, and so is 'v_ang'"),
        (without(t=np.arange(180)[::-1] / 60), "field 't' does not rise from index 0 to 1: 2.98"),
        (without(t=np.float32(1.7e9) + np.arange(180, dtype=np.float32) / 60), "field 't' does not rise"),
        (without(t=np.full(180, NAN)), "field 't' is nan at index 0; expected seconds"),
        (without(t=np.arange(180) * 1e9), "field 't' is 9000000000.0 at index 9"),
        (without(t=np.zeros((180, 1))), "field 't' has shape (180, 1) of float64"),
        (without(v_mag=np.ones((180, 3))), "field 'v_mag' has shape (180, 3) of float64; expected numbers of shape"),
        (without(v_mag=np.ones((2, 180))), "field 'v_mag' has shape (2, 180)"),
        (without(i_ang=np.full((180, 2), "x")), "field 'i_ang' has shape (180, 2) of <U1"),
        (without(bus_freq=np.full((180, 2), None)), "field 'bus_freq' holds Python objects, which are never unpickled"),
        (without(gen=np.array(["G1", None], dtype=object)), "field 'gen' holds Python objects"),
        (without(gen=np.array(["G1", "G1"])), "field 'gen' names 'G1' twice"),
        (without(gen=np.array([1, 2])), "field 'gen' has shape (2,) of int64; expected names"),
        (without(sn=np.ones(3)), "field 'sn' has shape (3,)"),
        (without(s_base=0.0), "field 's_base' is 0.0; expected a positive number"),
        ({"x": np.ones(3)}, "field 't' is missing: neither a recording of phasors nor a table of samples"),
    ],
)
def test_file_that_cannot_be_used_is_named_with_the_field(tmp_path: Path, arrays: Fields, complaint: str) -> None:
    assert complaint in refusal(tmp_path, arrays)


def member(name: str, header: str, data: bytes = b"") -> tuple[str, bytes]:
    """An array with a header of our own making."""
    text = (header + " " * (-(len(header) + 11) % 16) + "\n").encode()
    return f"{name}.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def zip_bytes(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            lambda: zip_bytes(("t.npy", bytes(LARGEST_ARRAY_BYTES + 1))),
            f"field 't' has {LARGEST_ARRAY_BYTES + 1} bytes when unpacked",
        ),
        (
            lambda: zip_bytes(member("t", "{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,)}")),
            "field 't' claims a shape of (9999999999999,)",
        ),
        (
            lambda: zip_bytes(member("t", "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", bytes(8))),
            "field 't' claims a shape of (-1,)",
        ),
        (lambda: zip_bytes(member("t", "{'descr': '<f8'")), "field 't' is no NumPy array, or is damaged"),
        (lambda: zip_bytes(("t.npy", b"no array")), "field 't' is no NumPy array, or is damaged"),
        (lambda: zip_bytes(("t.npy", bytes(99)), method=zipfile.ZIP_BZIP2), "compressed in a way that NumPy"),
        (lambda: b"not a zip file", "it is no npz file, or was cut off"),
        (lambda: b"", "it is no npz file, or was cut off"),
    ],
)
def test_hostile_file_is_refused_before_it_takes_memory(
    tmp_path: Path, content: Callable[[], bytes], complaint: str
) -> None:
    file = tmp_path / "case.npz"
    file.write_bytes(content())
    with pytest.raises(RecordingError) as caught:
        read_recording(file)
    assert complaint in str(caught.value)


@settings(max_examples=60)
@given(st.data())
def test_mutated_file_ends_in_a_recording_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **fields(rows=10))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.mktemp("mutated") / "case.npz"
    file.write_bytes(bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))]))
    found = read_or_refusal(file)
    if isinstance(found, str):
        assert found.startswith(str(file))
    else:
        assert list(found.samples.problems()) == []


def own_table(values: float = 50.0) -> Samples:
    rows = [
        (2, "B", {"frequency_hz": values, "voltage_kv": 11.0}),
        (1, "A", {"frequency_hz": values}),
        (1, "B", {"frequency_hz": values, "va_v": 3.0}),
        (1, "A", {"active_power_mw": 2.0}),
    ]
    return samples_from_rows(rows, quality=int(Quality.SYNC_LOST))


def write_own(file: Path, samples: Samples) -> None:
    with file.open("wb") as opened:
        write_npz(opened, samples)


def test_own_table_is_sorted_merged_and_converted(tmp_path: Path) -> None:
    write_own(tmp_path / "day.npz", own_table())
    recording = read_recording(tmp_path / "day.npz")
    samples = recording.samples
    assert samples.time_ns.tolist() == [1, 1, 2]
    assert [samples.devices[code] for code in samples.device] == ["B", "A", "B"]
    assert samples.columns["voltage_v"].tolist()[2] == 11_000.0
    assert samples.columns[ACTIVE_POWER].tolist()[1] == 2e6
    assert set(samples.quality.tolist()) == {int(Quality.SYNC_LOST | Quality.REPLAYED)}
    assert "columns that are not read: 'va_v'" in recording.warnings[0]


def test_parts_of_an_own_recording_are_joined(tmp_path: Path) -> None:
    for number in (1, 2):
        write_own(part_file(tmp_path / "day.npz", number), samples_from_rows([(number, "A", {"frequency_hz": 50.0})]))
    assert read_recording(tmp_path / "day.npz").samples.time_ns.tolist() == [1, 2]


def test_rows_that_contradict_each_other_are_told(tmp_path: Path) -> None:
    rows = [(1, "A", {"frequency_hz": 50.0}), (1, "A", {"frequency_hz": 51.0})]
    write_own(tmp_path / "day.npz", samples_from_rows(rows))
    recording = read_recording(tmp_path / "day.npz")
    assert recording.samples.columns["frequency_hz"].tolist() == [50.0]
    assert recording.warnings[0].startswith("1 rows repeat the time of another row of their device")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"quality": np.zeros(1, dtype=np.uint16)}, "field quality: shape (1,), expected (4,)"),
        ({"frequency_hz": np.zeros(4, dtype=np.float32)}, "field frequency_hz: dtype float32, expected float64"),
        ({"device": np.full(4, 9, dtype=np.int32)}, "field device: a code outside 0..1"),
        ({"devices": np.array([1, 2])}, "field 'devices': one-dimensional text expected"),
        ({"frequency": np.zeros(4)}, "field the name 'frequency' does not end in its unit; known: frequency_hz"),
    ],
)
def test_damaged_own_table_is_named_with_the_field(tmp_path: Path, change: Fields, complaint: str) -> None:
    buffer = io.BytesIO()
    write_npz(buffer, own_table())
    with np.load(io.BytesIO(buffer.getvalue())) as table:
        arrays = dict(table)
    assert complaint in refusal(tmp_path, arrays | change)


def test_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("none.npz", "none.csv", "none.db", "none.pcap"):
        with pytest.raises(RecordingError, match=rf"{name}: .*[Nn]o such file"):
            read_recording(tmp_path / name)


def test_unknown_ending_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"got '\.npy'; known: \.npz, .*did you mean '\.npz'"):
        read_recording(tmp_path / "a.npy")
