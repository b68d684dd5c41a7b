from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeflex_connectors.batching import DeviceTable
from edgeflex_connectors.records import LineDecoder, encode_lines, part_file, part_files, read_npz, write_npz
from edgeflex_flow.errors import BadMessageError, FatalError
from edgeflex_flow.messages import Alarm, FrequencyEvent, encode_message, samples_from_rows

DECODER = LineDecoder(("x_v", "y_a"), (Alarm,))
GOOD = samples_from_rows([(1, "A", {"x_v": 1.0}), (2, "B", {"x_v": float("nan")})], quality=3)


def npz_bytes() -> bytes:
    buffer = io.BytesIO()
    write_npz(buffer, GOOD)
    return buffer.getvalue()


def test_lines_say_what_their_docstring_says() -> None:
    assert encode_lines(GOOD) == (
        b'{"type":"samples","time_ns":1,"device":"A","quality":3,"x_v":1.0}\n'
        b'{"type":"samples","time_ns":2,"device":"B","quality":3,"x_v":null}\n'
    )


def test_infinities_survive() -> None:
    line = encode_lines(samples_from_rows([(1, "A", {"x_v": float("inf"), "y_a": float("-inf")})]))
    assert b'"x_v":"inf","y_a":"-inf"' in line
    assert DECODER.decode(line) == (1, "A", 0, (float("inf"), float("-inf")))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"type":"samples","time_ns":1', "truncated"),
        (b'{"type":"samples","time_ns":1,"device":"A","quality":0,"x_v":"high"}', "Invalid enum value 'high'"),
        (b'{"type":"samples","time_ns":1.5,"device":"A","quality":0}', "Expected `int`, got `float`"),
        (b'{"type":"samples","time_ns":1,"device":"A","quality":70000}', "<= 65535"),
        (b'{"type":"samples","device":"A","quality":0}', "missing required field `time_ns`"),
        (b'{"type":"unheard_of"}', "Invalid value 'unheard_of'"),
        (b"[1]", "Expected `object`, got `array`"),
    ],
)
def test_bad_line_is_refused_with_what_is_wrong(line: bytes, complaint: str) -> None:
    with pytest.raises(BadMessageError, match=complaint):
        DECODER.decode(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"samples","time_ns":1,"device":"A","quality":0,"z_w":1}',
        encode_message(
            FrequencyEvent(
                id="x",
                state="ended",
                device="A",
                onset_time_ns=1,
                detected_time_ns=1,
                rocof_hz_per_s=1,
                frequency_before_hz=1,
                frequency_extreme_hz=1,
            )
        ),
    ],
)
def test_what_is_not_asked_for_is_none(line: bytes) -> None:
    assert DECODER.decode(line) is None


@given(st.binary())
@example(b"[" * 100_000)
@example(b'{"type":' * 100_000)
def test_no_line_raises_anything_but_bad_message(line: bytes) -> None:
    try:
        DECODER.decode(line)
    except BadMessageError:
        return


def test_npz_opens_with_numpy_alone(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz_bytes())
    with np.load(tmp_path / "a.npz", allow_pickle=False) as table:
        assert sorted(table.files) == ["device", "devices", "quality", "time_ns", "x_v"]
        assert table["devices"][table["device"]].tolist() == ["A", "B"]
        assert {name: str(table[name].dtype) for name in ("time_ns", "device", "quality", "x_v")} == {
            "time_ns": "int64",
            "device": "int32",
            "quality": "uint16",
            "x_v": "float64",
        }


def test_codes_follow_the_reader_table_over_files(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    file.write_bytes(npz_bytes())
    devices = DeviceTable()
    devices.code("B")
    samples = read_npz(file, ("x_v", "y_a"), devices)
    assert samples.devices == ("B", "A")
    assert samples.device.tolist() == [1, 0]
    assert np.isnan(samples.columns["y_a"]).all()
    assert read_npz(file, ("x_v",), devices).devices is samples.devices


def arrays(**changed: object) -> dict[str, object]:
    good: dict[str, object] = {
        "time_ns": np.array([1, 2]),
        "device": np.array([0, 0], dtype=np.int32),
        "devices": np.array(["A"]),
        "quality": np.zeros(2, dtype=np.uint16),
        "x_v": np.zeros(2),
    }
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"quality": None}, "array 'quality' is missing"),
        ({"time_ns": np.array(1)}, "must be one-dimensional"),
        ({"devices": np.array([1])}, "one-dimensional text"),
        ({"x_v": np.zeros(3)}, r"x_v: shape \(3,\), expected \(2,\)"),
        ({"x_v": np.zeros(2, dtype=np.float32)}, "x_v: dtype float32"),
        ({"device": np.array([0, 1], dtype=np.int32)}, r"a code outside 0..0"),
        ({"devices": np.array([object()])}, "allow_pickle=False"),
    ],
)
def test_npz_that_is_no_table_of_samples_is_refused(tmp_path: Path, changed: dict[str, object], complaint: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays(**changed))  # type: ignore[arg-type]
    with pytest.raises(BadMessageError, match=complaint):
        read_npz(tmp_path / "a.npz", ("x_v",), DeviceTable())


@given(st.data())
def test_damaged_npz_raises_nothing_but_bad_message(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(npz_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    file = tmp_path_factory.mktemp("npz") / "a.npz"
    file.write_bytes(content)
    try:
        samples = read_npz(file, ("x_v",), DeviceTable())
    except (BadMessageError, FatalError):  # fatal where the damage hit a size
        return
    assert list(samples.problems()) == []


def npz_with_header(header: bytes) -> bytes:
    """A zip whose member time_ns.npy has this header and no data."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("time_ns.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return buffer.getvalue()


def npz_of_shape(dtype: str, shape: str) -> bytes:
    return npz_with_header(f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}\n".encode())


def bomb(size_bytes: int) -> bytes:
    """A table of zeros, packed."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays(x_v=np.zeros(size_bytes // 8)))  # type: ignore[arg-type]
    return buffer.getvalue()


def lying_directory() -> bytes:
    """A table whose directory tells a size that its first member does not have."""
    content = bytearray(npz_bytes())
    place = content.find(b"PK\x01\x02") + 24
    content[place : place + 4] = (2**31).to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(npz_of_shape("'<i8'", "(9000000000000000,)"), "claims 72000000000000000 bytes", id="long"),
        pytest.param(npz_of_shape("'<i8'", "(99999999, 99999999)"), "claims 79999998", id="long and wide"),
        pytest.param(npz_of_shape("'<U99999999'", "(1,)"), "claims 399999996 bytes", id="wide text"),
        pytest.param(bomb(50_000_000), r"unpacks to 5000\d+ bytes, \d{7} are the most", id="bomb"),
        pytest.param(lying_directory(), "unpacks to 21474", id="directory"),
    ],
)
def test_npz_that_would_fill_the_memory_ends_the_flow_before_it_does(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(FatalError, match=rf"a\.npz: .*{text}"):
        read_npz(tmp_path / "a.npz", ("x_v",), DeviceTable())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2_000_000


def test_packed_table_of_ordinary_values_is_read(tmp_path: Path) -> None:
    rows = 100_000
    table = arrays(
        time_ns=np.arange(rows) * 20_000_000,
        device=np.zeros(rows, dtype=np.int32),
        quality=np.zeros(rows, dtype=np.uint16),
        x_v=np.full(rows, 230.0),
    )
    np.savez_compressed(tmp_path / "a.npz", **table)  # type: ignore[arg-type]
    assert read_npz(tmp_path / "a.npz", ("x_v",), DeviceTable()).rows == rows


def encrypted_npz() -> bytes:
    """A table whose members are marked as encrypted, in their own headers and in the directory."""
    content = bytearray(npz_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(mark)
        while start >= 0:
            content[start + place] |= 1
            start = content.find(mark, start + 4)
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(npz_with_header(b"{'descr': '<i8', 'shape': (((\n"), id="header that is no Python"),
        pytest.param(npz_of_shape("'<i8'", "(9000,)"), id="array cut off"),
        pytest.param(npz_of_shape("'<i8'", "(-1,)"), id="negative shape"),
        pytest.param(npz_of_shape("'|V0'", "(9000000000000000,)"), id="items without a size"),
        pytest.param(encrypted_npz(), id="encrypted"),
    ],
)
def test_npz_of_others_raises_nothing_but_bad_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BadMessageError, match=r"a\.npz: no table of samples: .") as raised:
        read_npz(tmp_path / "a.npz", ("x_v",), DeviceTable())
    assert raised.value.reason == "bad_file"


def test_parts_are_found_by_number(tmp_path: Path) -> None:
    file = tmp_path / "a[1].npz"
    for number in (10000, 2, 9999, 1):
        part_file(file, number).touch()
    for other in ("a[1]-x.npz", "a1-0001.npz", "a[1]-0003.npz.unfinished"):
        (tmp_path / other).touch()
    assert part_files(file) == [part_file(file, number) for number in (1, 2, 9999, 10000)]
