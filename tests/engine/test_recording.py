"""Recordings: what was given comes back bit by bit, files that are broken are said to be, and parts rotate."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgeflex_flow import recording
from edgeflex_flow.messages import Alarm, Message, Quality, Samples, Setpoints, encode_message, samples_from_rows
from edgeflex_flow.recording import (
    About,
    BadRecordingError,
    Entry,
    Given,
    Keep,
    NodeAbout,
    RecordingWriter,
    Settings,
    Ticked,
)

NODES = {"pmu": NodeAbout(kind="toy"), "event": NodeAbout(kind="toy")}
ABOUT = About(flow="f", site="s", revision="r", version="v", begun_ns=0, part=1, nodes=NODES)
COLUMNS = ("frequency_hz", "voltage_v")
ANY_FLOAT = st.floats(width=64, allow_nan=True, allow_infinity=True)


def batch(values: NDArray[np.float64], *, first_ns: int = 0, device: int = 0) -> Samples:
    rows = len(values)
    return Samples(
        time_ns=first_ns + 20_000_000 * np.arange(rows, dtype=np.int64),
        device=np.full(rows, device, dtype=np.int32),
        devices=("G1", "G2"),
        columns={"frequency_hz": values},
        quality=np.full(rows, int(Quality.TEST), dtype=np.uint16),
        received_ns=first_ns + 7,
    )


def alarm(number: int) -> Alarm:
    return Alarm(source="n", severity="info", text=f"number {number}", time_ns=number)


def written(folder: Path, *turns: Sequence[Entry], keep: Keep = Keep()) -> list[Path]:  # noqa: B008 - immutable
    writer = RecordingWriter(folder, "f", ABOUT, keep)
    for turn in turns:
        writer.write(turn, max(each.at_ns for each in turn))
    writer.close()
    return writer.files


def bits(values: NDArray[np.float64]) -> list[int]:
    found: list[int] = values.view(np.int64).tolist()
    return found


def same(one: Samples | Message, other: Samples | Message) -> bool:
    if not isinstance(one, Samples) or not isinstance(other, Samples):
        return one == other
    return (
        one.time_ns.tolist() == other.time_ns.tolist()
        and [one.devices[code] for code in one.device] == [other.devices[code] for code in other.device]
        and one.quality.tolist() == other.quality.tolist()
        and one.received_ns == other.received_ns
        and {name: bits(values) for name, values in one.columns.items()}
        == {name: bits(values) for name, values in other.columns.items()}
    )


@settings(max_examples=60)
@given(
    st.lists(
        arrays(np.float64, st.integers(0, 20), elements=ANY_FLOAT).map(np.ascontiguousarray), min_size=1, max_size=6
    ),
    st.integers(-(2**62), 2**62),
)
def test_rows_come_back_bit_by_bit_with_both_times_and_quality(
    tmp_path_factory: pytest.TempPathFactory, values: list[NDArray[np.float64]], first_ns: int
) -> None:
    turn = [
        Given(seq, first_ns + seq, "pmu", batch(each, first_ns=first_ns, device=seq % 2))
        for seq, each in enumerate(values, 1)
    ]
    files = written(tmp_path_factory.mktemp("recording"), turn)
    back = list(recording.read(files))
    assert [each[:3] for each in back] == [each[:3] for each in turn]
    assert all(same(one.message, other.message) for one, other in zip(turn, back, strict=True))


def test_nodes_come_back_in_the_order_in_which_they_gave(tmp_path: Path) -> None:
    pmu = [Given(seq, seq, "pmu", batch(np.array([float(seq)]))) for seq in (1, 3, 4)]
    event = [Given(seq, seq, "event", alarm(seq)) for seq in (2, 5)]
    files = written(tmp_path, [pmu[0], event[0], pmu[1]], [pmu[2], event[1]])
    assert [each.seq for each in recording.read(files)] == [1, 2, 3, 4, 5]
    assert [each.seq for each in recording.read(files, nodes=["event"])] == [2, 5]
    assert [each.message for each in recording.read(files, nodes=["event"])] == [alarm(2), alarm(5)]


def test_batches_are_joined_up_to_where_another_node_gave_and_where_it_is_said(tmp_path: Path) -> None:
    pmu = [Given(seq, seq, "pmu", batch(np.array([float(seq)]))) for seq in (1, 2, 4, 5, 6)]
    files = written(tmp_path, [*pmu[:2], Given(3, 3, "event", alarm(3)), *pmu[2:]])

    def begins(at_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.append(True, np.diff(at_ns // 5) != 0)

    back = list(recording.read(files, begins=begins))
    assert [(each.seq, each.at_ns) for each in back] == [(2, 2), (3, 3), (4, 4), (6, 6)]
    rows = [each.message.columns["frequency_hz"].tolist() for each in back if isinstance(each.message, Samples)]
    assert rows == [[1.0, 2.0], [4.0], [5.0, 6.0]]


def test_only_wanted_columns_are_read(tmp_path: Path) -> None:
    samples = samples_from_rows([(1, "G1", {"frequency_hz": 50.0, "voltage_v": 1.0})])
    files = written(tmp_path, [Given(1, 1, "pmu", samples)])
    [back] = recording.read(files, columns={"pmu": ["voltage_v"]})
    assert isinstance(back.message, Samples)
    assert set(back.message.columns) == {"voltage_v"}


def test_batches_of_one_node_may_have_other_columns(tmp_path: Path) -> None:
    both = [samples_from_rows([(1, "G1", {name: 1.0})]) for name in COLUMNS]
    files = written(tmp_path, [Given(seq, seq, "pmu", each) for seq, each in enumerate(both, 1)])
    assert [tuple(each.message.columns) for each in recording.read(files) if isinstance(each.message, Samples)] == [
        ("frequency_hz",),
        ("voltage_v",),
    ]


def test_the_same_gives_the_same_bytes(tmp_path: Path) -> None:
    turn = [Given(1, 1, "pmu", batch(np.arange(100.0))), Given(2, 2, "event", alarm(2))]
    [one], [other] = (written(tmp_path / name, turn) for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_values_of_frames_are_small(tmp_path: Path) -> None:
    rows = 10_000
    values = (50.0 + 0.001 * np.random.default_rng(1).standard_normal(rows)).astype(np.float32).astype(np.float64)
    [file] = written(tmp_path, [Given(1, 1, "pmu", batch(values))])
    assert file.stat().st_size < 4 * rows


@pytest.mark.parametrize("cut", [1, 40, 60, 80, 140])
def test_a_file_that_was_cut_off_is_good_up_to_its_last_whole_turn(tmp_path: Path, cut: int) -> None:
    [file] = written(tmp_path, [Given(1, 1, "pmu", batch(np.ones(3)))], [Given(2, 2, "pmu", batch(np.ones(3)))])
    file.write_bytes(file.read_bytes()[:-cut])
    assert [each.seq for each in recording.read([file])] == [1]


def test_a_flipped_bit_is_told_with_file_and_place(tmp_path: Path) -> None:
    [file] = written(tmp_path, [Given(1, 1, "pmu", batch(np.ones(3)))])
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadRecordingError, match=r"f-0001\.rec, byte \d+: the check sum of the block is wrong"):
        list(recording.read([file]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no recording of edgeflex-flow"),
        (b"PK\x03\x04 something", "no recording of edgeflex-flow"),
        (recording.MAGIC, "does not tell what it is about"),
        (recording.MAGIC + struct.pack("<III", 2**31, 0, 0), "there is no block of"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "x.rec"
    file.write_bytes(content)
    with pytest.raises(BadRecordingError, match=words):
        list(recording.read([file]))


@settings(max_examples=200)
@given(st.data())
def test_no_damage_is_anything_but_a_bad_recording(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    turn = [Given(1, 1, "pmu", batch(np.arange(5.0))), Given(2, 2, "event", alarm(2))]
    [file] = written(tmp_path_factory.mktemp("damaged"), turn)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        list(recording.read([file]))
    except BadRecordingError:
        return


def test_parts_rotate_and_the_oldest_go(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).standard_normal(2000)
    turns = [[Given(seq, seq, "pmu", batch(noise))] for seq in range(1, 13)]
    files = written(tmp_path, *turns, keep=Keep(part_bytes=40_000, total_bytes=120_000))
    assert sorted(tmp_path.iterdir()) == files
    assert sum(file.stat().st_size for file in files) <= 120_000
    seqs = [each.seq for each in recording.read(files)]
    assert seqs == list(range(seqs[0], 13))
    assert seqs[0] > 1
    assert [recording.about(file).part for file in files] == sorted(recording.about(file).part for file in files)


def test_messages_that_nobody_knows_are_left_out(tmp_path: Path) -> None:
    files = written(tmp_path, [Given(1, 1, "event", alarm(1))])
    assert list(recording.read(files, types=())) == []


def went_on_with(seq: int, text: str) -> Settings:
    config = msgspec.Raw(msgspec.json.encode({"window": text}))
    return Settings(node="rocof", seq=seq, at_ns=seq, kind="rocof", version="1", code="ab", config=config)


def test_periods_and_settings_are_read_in_their_place_among_what_was_given(tmp_path: Path) -> None:
    turn: list[Entry] = [
        went_on_with(1, "a"),
        Given(2, 2, "event", alarm(2)),
        Ticked(3, 3, "rocof", False),
        went_on_with(4, "b"),
    ]
    files = written(tmp_path, turn, [Given(5, 5, "event", alarm(5)), Ticked(6, 6, "rocof", True)])
    told = [
        each.last if isinstance(each, Ticked) else bytes(each.config) if isinstance(each, Settings) else each.node
        for each in recording.read_run(files)
    ]
    assert told == [b'{"window":"a"}', "event", False, b'{"window":"b"}', "event", True]


def test_each_part_begins_with_what_nodes_went_on_with(tmp_path: Path) -> None:
    turns: list[list[Entry]] = [
        [went_on_with(1, "a"), Given(2, 2, "event", alarm(2))],
        [went_on_with(3, "b")],
        [Given(4, 4, "event", alarm(4))],
    ]
    files = written(tmp_path, *turns, keep=Keep(part_bytes=1))
    in_force = [
        [bytes(each.config) for each in recording.read_run([file]) if isinstance(each, Settings)] for file in files
    ]
    assert in_force == [[b'{"window":"a"}'], [b'{"window":"a"}', b'{"window":"b"}'], [b'{"window":"b"}']]


def test_messages_keep_numbers_that_are_none(tmp_path: Path) -> None:
    told = {"controller": "c", "time_ns": 1, "quantity": "x_w", "valid_for_s": 5.0, "status": "ok"}
    setpoints = Setpoints(values={"a": float("nan"), "b": float("inf")}, **told)  # type: ignore[arg-type]
    [back] = recording.read(written(tmp_path, [Given(1, 1, "droop", setpoints)]))
    assert isinstance(back.message, Setpoints)
    assert np.isnan(back.message.values["a"])
    assert back.message.values["b"] == float("inf")


def test_a_recording_of_the_first_format_is_read(tmp_path: Path) -> None:
    lines = zstandard.ZstdCompressor().compress(b"\n".join(encode_message(alarm(number)) for number in (1, 2)))
    encoder = recording.Encoder()
    packed, body = encoder._pack_all({"batch.seq": np.array([1, 2]), "batch.at_ns": np.array([7, 8])})
    head = recording.Lines(node="event", turn=1, arrays=packed, size=len(lines))
    file = tmp_path / "old.rec"
    file.write_bytes(encoder.about(msgspec.structs.replace(ABOUT, format=1)) + recording._block(head, body + lines))
    assert [(each.seq, each.at_ns, each.message) for each in recording.read([file])] == [
        (1, 7, alarm(1)), (2, 8, alarm(2)),
    ]  # fmt: skip


def test_what_is_being_written_is_followed_turn_by_turn_from_part_to_part(tmp_path: Path) -> None:
    follower = recording.Follower(tmp_path)
    assert list(follower.turns()) == []
    writer = RecordingWriter(tmp_path, "f", ABOUT, Keep(part_bytes=1))
    first: list[Entry] = [went_on_with(1, "a"), Given(2, 2, "event", alarm(2))]
    writer.write(first, 3)
    writer.write([Given(4, 4, "event", alarm(4))], 5)
    told = [(turn.reached_ns, [each.seq for each in turn.entries]) for turn in follower.turns()]
    assert told == [(3, [1, 2]), (5, [1, 4])]
    assert list(follower.turns()) == []
    writer.write([Given(6, 6, "event", alarm(6))], 7)
    assert [turn.reached_ns for turn in follower.turns()] == [7]
    writer.close()


def test_a_turn_that_is_not_yet_whole_is_not_given(tmp_path: Path) -> None:
    [file] = written(tmp_path / "whole", [Given(1, 1, "event", alarm(1))])
    content = file.read_bytes()
    growing = tmp_path / "growing" / "f-0001.rec"
    growing.parent.mkdir()
    follower = recording.Follower(growing.parent)
    for size in range(0, len(content), 7):
        growing.write_bytes(content[:size])
        assert list(follower.turns()) == []
    growing.write_bytes(content)
    assert [[each.seq for each in turn.entries] for turn in follower.turns()] == [[1]]


def test_a_part_that_is_dropped_before_it_was_read_is_told(tmp_path: Path) -> None:
    [file] = written(tmp_path, [Given(1, 1, "event", alarm(1))])
    follower = recording.Follower(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    assert list(follower.turns()) == []
    file.unlink()
    with pytest.raises(BadRecordingError, match=r"f-0001\.rec was dropped before it was read"):
        list(follower.turns())


HOSTILE = [
    {"base": 2**70},
    {"dtype": "(1,"},
    {"packed": "(1,"},
    {"dtype": "O"},
    {"dtype": "<M8[ns]"},
    {"length": 2**40},
    {"length": -1},
    {"length": 2},
    {"name": "time_s"},
]


@pytest.mark.parametrize("lie", HOSTILE, ids=[str(each) for each in HOSTILE])
@pytest.mark.parametrize("array", ["batch.at_ns", "batch.rows", "time_ns", "device", "quality", "frequency_hz"])
def test_heads_that_lie_are_bad_recordings(tmp_path: Path, lie: dict[str, Any], array: str) -> None:
    """With right check sums, as whoever means harm would write them."""
    [file] = written(tmp_path, [Given(1, 1, "pmu", batch(np.ones(3)))])
    about, rows, _ = recording.blocks(file)
    assert isinstance(rows.head, recording.Rows)
    told = [msgspec.structs.replace(each, **(lie if each.name == array else {})) for each in rows.head.arrays]
    forged = msgspec.structs.replace(rows.head, arrays=tuple(told))
    encoder = recording.Encoder()
    assert isinstance(about.head, About)
    file.write_bytes(encoder.about(about.head) + recording._block(forged, rows.body) + encoder.turn(1, [], 2))
    with pytest.raises(BadRecordingError):
        list(recording.read([file]))


@pytest.mark.parametrize(("name", "values"), [("device", [0, 1, 7]), ("device", [-1, 0, 0]), ("batch.rows", [-5])])
def test_rows_that_do_not_go_together_are_bad_recordings(tmp_path: Path, name: str, values: list[int]) -> None:
    [file] = written(tmp_path, [Given(1, 1, "pmu", batch(np.ones(3)))])
    about, rows, _ = recording.blocks(file)
    assert isinstance(rows.head, recording.Rows)
    assert isinstance(about.head, About)
    arrays = {**recording.Decoder().arrays(rows)}
    arrays[name] = np.array(values, dtype=arrays[name].dtype)
    encoder = recording.Encoder()
    packed, body = encoder._pack_all(arrays)
    forged = msgspec.structs.replace(rows.head, arrays=packed)
    file.write_bytes(encoder.about(about.head) + recording._block(forged, body) + encoder.turn(1, [], 2))
    with pytest.raises(BadRecordingError, match="a block of node 'pmu' cannot be read"):
        list(recording.read([file]))


def test_parts_are_in_order_of_their_numbers_and_what_is_missing_is_told(tmp_path: Path) -> None:
    names = ["f-9999.rec", "f-10000.rec", "f-10002.rec"]
    for part, name in zip((9999, 10000, 10002), names, strict=True):
        about = msgspec.structs.replace(ABOUT, part=part)
        (tmp_path / name).write_bytes(recording.Encoder().about(about) + recording.Encoder().turn(1, [], 1, 7))
    assert [file.name for file in recording.recordings_in(tmp_path)] == names
    [parts] = recording.runs_in(tmp_path.glob("*.rec"))
    assert recording.gaps_of(parts, 7) == [
        "f-9999.rec and on: part 10001 is missing",
        "f-9999.rec and on: 7 rows were lost as it was recorded",
    ]


def test_what_was_lost_is_told_of_a_file_that_was_cut_off(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path, "f", ABOUT)
    writer.write([Given(1, 1, "event", alarm(1))], 1, 3)
    writer.write([Given(2, 2, "event", alarm(2))], 2, 3)
    writer.close()
    [file] = writer.files
    file.write_bytes(file.read_bytes()[:-90])
    assert recording.lost_rows_of(file) == 3


def test_an_overview_tells_what_is_in_recordings_and_what_is_not(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path, "f", ABOUT)
    told = msgspec.structs.replace(went_on_with(1, "a"), policies={"trigger.onset": "3", "trigger.other": "default"})
    writer.write([told, Given(2, 20, "pmu", batch(np.ones(3))), Given(3, 90, "event", alarm(3))], 91, 5)
    writer.close()
    found = recording.overview(writer.files, ["pmu"])
    assert (found.first_ns, found.last_ns, found.policies) == (20, 20, frozenset({"trigger.onset 3"}))
    assert found.gaps == ("f-0001.rec and on: 5 rows were lost as it was recorded",)
    with pytest.raises(BadRecordingError, match="nothing is in it of other"):
        recording.overview(writer.files, ["other"])


def test_settings_alone_make_no_file(tmp_path: Path) -> None:
    assert written(tmp_path, [went_on_with(1, "a")]) == []
