from __future__ import annotations

import errno
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from broker import wait_until

from edgeflex_connectors import file_write
from edgeflex_connectors.file_write import FileWriteConfig, NpzParts
from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import Alarm, DeadLetter, Samples, join_samples, samples_from_rows
from edgeflex_flow.node import Context, Sink, WireMessage

if TYPE_CHECKING:
    from conftest import ContextMaker

ALARM = Alarm(source="s", severity="info", text="x", time_ns=7)


def rows(first: int, count: int, column: str = "x_v") -> Samples:
    return samples_from_rows([(number, "G1", {column: float(number)}) for number in range(first, first + count)])


@contextmanager
def sink(make_context: ContextMaker, path: str, **fields: Any) -> Iterator[tuple[Sink, Context]]:
    context = make_context("record")
    opened = file_write.NODE.open(FileWriteConfig(path=path, **fields), context)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def times(file: Path) -> list[int]:
    with np.load(file) as table:
        listed: list[int] = table["time_ns"].tolist()
        return listed


def test_rows_and_messages_become_lines_in_order(tmp_path: Path, make_context: ContextMaker) -> None:
    with sink(make_context, "day.jsonl") as (opened, context):
        opened.write([rows(0, 2), ALARM, rows(2, 1)])
        assert opened.flush(10.0)
        assert [(line["type"], line["time_ns"]) for line in lines(tmp_path / "day.jsonl")] == [
            ("samples", 0),
            ("samples", 1),
            ("alarm", 7),
            ("samples", 2),
        ]
        counters = context.counters.snapshot()
        assert (counters["rows"], counters["messages"]) == (3, 1)
        assert counters["bytes"] == (tmp_path / "day.jsonl").stat().st_size


def test_file_is_on_the_disk_with_its_name_when_it_was_flushed(
    tmp_path: Path, make_context: ContextMaker, synced: list[Path]
) -> None:
    file = tmp_path / "data" / "day.jsonl"
    with sink(make_context, "data/day.jsonl") as (opened, _):
        for first in (0, 5):
            opened.write([rows(first, 1)])
            assert opened.flush(10.0)
    assert synced[:4] == [tmp_path, file, file.parent, file]
    assert synced.count(file.parent) == 1


def test_lines_are_added_to_an_older_recording(tmp_path: Path, make_context: ContextMaker) -> None:
    for first in (0, 5):
        with sink(make_context, "day.jsonl") as (opened, _):
            opened.write([rows(first, 1)])
    assert [line["time_ns"] for line in lines(tmp_path / "day.jsonl")] == [0, 5]


def test_line_that_a_crash_cut_off_does_not_spoil_the_next(tmp_path: Path, make_context: ContextMaker) -> None:
    (tmp_path / "day.jsonl").write_bytes(b'{"type":"samples","time')
    with sink(make_context, "day.jsonl") as (opened, _):
        opened.write([rows(0, 1)])
    torn, whole = (tmp_path / "day.jsonl").read_bytes().splitlines()
    assert torn == b'{"type":"samples","time'
    assert json.loads(whole)["time_ns"] == 0


def test_npz_parts_are_written_when_full_and_at_the_end(tmp_path: Path, make_context: ContextMaker) -> None:
    with sink(make_context, "day.npz", max_rows=10) as (opened, context):
        for first in range(0, 25, 5):
            opened.write([rows(first, 5)])
        wait_until(lambda: context.counters.get("rows") == 20)
        assert not (tmp_path / "day-0003.npz").exists()
    parts = [tmp_path / f"day-000{number}.npz" for number in (1, 2, 3)]
    assert [times(part) for part in parts] == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert sorted(tmp_path.iterdir()) == parts


def test_npz_parts_go_on_after_an_older_recording(tmp_path: Path, make_context: ContextMaker) -> None:
    for first in (0, 5):
        with sink(make_context, "day.npz") as (opened, _):
            opened.write([rows(first, 1)])
    assert [times(tmp_path / f"day-000{number}.npz") for number in (1, 2)] == [[0], [5]]


def test_npz_part_holds_one_set_of_columns(tmp_path: Path, make_context: ContextMaker) -> None:
    with sink(make_context, "day.npz") as (opened, _):
        opened.write([rows(0, 1), rows(1, 1, "y_a"), rows(2, 1)])
    assert [times(tmp_path / f"day-000{number}.npz") for number in (1, 2)] == [[0, 2], [1]]


def test_flush_writes_the_part_that_is_not_full(tmp_path: Path, make_context: ContextMaker) -> None:
    with sink(make_context, "day.npz") as (opened, _):
        opened.write([rows(0, 3)])
        assert opened.flush(10.0)
        assert times(tmp_path / "day-0001.npz") == [0, 1, 2]


def test_message_for_an_npz_recording_is_a_dead_letter(tmp_path: Path, make_context: ContextMaker) -> None:
    with sink(make_context, "day.npz") as (opened, _):
        opened.write([ALARM, rows(0, 1)])
    assert times(tmp_path / "day-0001.npz") == [0]
    assert [reason for reason, _, _ in make_context.dead_letters] == ["not_a_table"]


LETTER = DeadLetter(node="n", reason="r", text="x", time_ns=1)


@pytest.mark.parametrize(
    ("path", "letter", "reason"),
    [
        ("day.npz", LETTER, "not_a_table"),
        ("day.jsonl", msgspec.structs.replace(LETTER, text="\ud800"), "not_encodable"),
    ],
)
def test_dead_letter_that_cannot_be_recorded_makes_no_other(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture, path: str, letter: DeadLetter, reason: str
) -> None:
    with sink(make_context, path) as (opened, context):
        opened.write([letter, letter])
        assert context.counters.get(reason) == 2
    assert make_context.dead_letters == []
    assert [message for message in caplog.messages if "a dead letter of node 'n' is not recorded" in message] == (
        caplog.messages
    )
    assert len(caplog.messages) == 1


def test_second_writer_of_a_jsonl_file_is_refused(tmp_path: Path, make_context: ContextMaker) -> None:
    with sink(make_context, "day.jsonl") as (first, _):
        with (
            pytest.raises(FatalError, match=r"day\.jsonl: another node or program writes to this file"),
            sink(make_context, "./day.jsonl"),
        ):
            pass
        first.write([rows(0, 1)])
    with sink(make_context, "day.jsonl") as (second, _):
        second.write([rows(1, 1)])
    assert [line["time_ns"] for line in lines(tmp_path / "day.jsonl")] == [0, 1]


def no_hard_links(_file: Path, _name: Path) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("link", [os.link, no_hard_links])
def test_two_writers_of_one_npz_recording_lose_nothing(
    tmp_path: Path,
    make_context: ContextMaker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    link: Callable[[Path, Path], None],
) -> None:
    monkeypatch.setattr(os, "link", link)
    with sink(make_context, "day.npz") as (first, _), sink(make_context, "day.npz") as (second, _):
        for number, opened in enumerate((first, second, first)):
            opened.write([rows(number, 1)])
            assert opened.flush(10.0)
    parts = sorted(tmp_path.iterdir())
    assert [part.name for part in parts] == [f"day-000{number}.npz" for number in (1, 2, 3)]
    assert [times(part) for part in parts] == [[0], [1], [2]]
    assert "day-0001.npz: made by another writer meanwhile" in caplog.messages[0]


def test_part_joins_its_batches_once(
    tmp_path: Path, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[int] = []

    def join(batches: list[Samples]) -> Samples:
        joined.append(len(batches))
        return join_samples(batches)

    monkeypatch.setattr(file_write, "join_samples", join)
    parts = NpzParts(tmp_path / "day.npz", 1000, make_context())
    parts.open()
    batch: deque[WireMessage] = deque(rows(number, 1) for number in range(1500))
    whole = list(batch)
    parts.write(batch)
    (held,) = parts._open_parts.values()
    assert joined == [1000]
    assert (held.rows, held.batches) == (500, whole[1000:])
    parts.sync()
    assert times(tmp_path / "day-0002.npz") == list(range(1000, 1500))


def test_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="must not hold a NUL character"):
        msgspec.convert({"path": "a\0.jsonl"}, FileWriteConfig)


def test_message_that_json_cannot_hold_is_a_dead_letter(tmp_path: Path, make_context: ContextMaker) -> None:
    with sink(make_context, "day.jsonl") as (opened, _):
        opened.write([Alarm(source="\ud800", severity="info", text="", time_ns=1), ALARM])
    assert [line["type"] for line in lines(tmp_path / "day.jsonl")] == ["alarm"]
    assert [reason for reason, _, _ in make_context.dead_letters] == ["not_encodable"]


@pytest.mark.parametrize("name", ["day.txt", "day"])
def test_format_must_be_told_when_the_ending_does_not(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="or give `format`"):
        msgspec.convert({"path": name}, FileWriteConfig)
    assert FileWriteConfig(path=name, format="jsonl").format_of_file == "jsonl"


class FullDisk:
    """Lets a number of bytes through `os.pwrite`, then says that the disk is full."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._pwrite: Callable[[int, Any, int], int] = os.pwrite

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._pwrite(descriptor, data[: self.room], offset)
        self.room -= written
        return written


def test_full_disk_leaves_no_torn_line_and_loses_nothing(
    tmp_path: Path,
    make_context: ContextMaker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = FullDisk(room=100)
    monkeypatch.setattr(os, "pwrite", disk.pwrite)
    with sink(make_context, "day.jsonl") as (opened, context):
        opened.write([rows(0, 100), ALARM])
        wait_until(lambda: context.counters.get("retries") >= 2)
        assert (tmp_path / "day.jsonl").read_bytes() == b""
        disk.room = 1_000_000
        assert opened.flush(10.0)
        assert len(lines(tmp_path / "day.jsonl")) == 101
    assert "day.jsonl: No space left on device; 101 rows wait; trying again" in caplog.messages[0]


def test_full_disk_leaves_no_part_of_an_npz_and_loses_nothing(
    tmp_path: Path, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with sink(make_context, "day.npz", max_rows=10) as (opened, context):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            opened.write([rows(0, 10), rows(10, 10), rows(20, 1)])
            wait_until(lambda: context.counters.get("retries"))
            assert list(tmp_path.glob("*.npz")) == []
        assert opened.flush(10.0)
    assert [times(tmp_path / f"day-000{number}.npz") for number in (1, 2, 3)] == [
        list(range(10)),
        list(range(10, 20)),
        [20],
    ]


def test_npz_that_never_finds_space_counts_its_rows_as_lost(
    tmp_path: Path, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with sink(make_context, "day.npz") as (opened, context):
        opened.write([rows(0, 3)])
        assert not opened.flush(0.05)
    assert context.counters.get("lost_rows") == 3
    assert list(tmp_path.iterdir()) == []
