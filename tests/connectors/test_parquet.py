from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import START_NS, alarm, at, event, grid, kept, table

from edgeflex_connectors import parquet
from edgeflex_connectors.parquet import PARTS_TO_MERGE, ParquetConfig, ParquetStore
from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS, NewerStoreError, Series
from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.messages import Samples, join_samples, samples_from_rows

if TYPE_CHECKING:
    from conftest import ContextMaker

DAY_S = 86_400
MIDNIGHT_S = 6_400
"""Seconds from START_NS to the begin of 2023-11-15."""


class Place:
    def __init__(self, make_context: ContextMaker, folder: Path) -> None:
        self.folder = folder
        self.clock = VirtualClock(START_NS)
        self._make_context = make_context

    def store(self) -> ParquetStore:
        return ParquetStore(ParquetConfig(path=str(self.folder)), self._make_context("archive", clock=self.clock))

    def write(self, *batches: Samples) -> None:
        with closing(self.store()) as store:
            for batch in batches:
                store.write([batch], [])

    def read(self) -> Samples:
        return self.store().read()

    def tidy(self, at_second: float) -> None:
        self.clock.advance_to(at(at_second))
        self.store().tidy()

    def names(self, kind: str = "samples") -> list[str]:
        return sorted(each.name for each in (self.folder / kind).iterdir())


@pytest.fixture
def place(make_context: ContextMaker, tmp_path: Path) -> Place:
    return Place(make_context, tmp_path / "history")


def test_other_tools_read_the_files(place: Place) -> None:
    with closing(place.store()) as store:
        store.write([grid([0, 0.25], ["G1"], quality=2, x_v=1.0)], kept(event()))
    found = pq.read_table(place.folder / "samples")
    assert str(found.schema.field("time").type) == "timestamp[ns, tz=UTC]"
    assert found.drop_columns(["time"]).to_pylist() == [
        {"device": "G1", "quantity": "x_v", "value": value, "quality": 2} for value in (1.0, 1.00025)
    ]
    assert found["time"][1].cast(pa.timestamp("us", "UTC")).as_py() == datetime.fromtimestamp(1_700_000_000.25, UTC)
    [message] = pq.read_table(place.folder / "messages").drop_columns(["time"]).to_pylist()
    assert json.loads(message["body"])["id"] == message["id"].split()[0] == "G1@1700000000000000000"


def test_rows_of_each_day_stand_in_files_of_their_own(place: Place) -> None:
    place.write(grid([MIDNIGHT_S - 0.001, MIDNIGHT_S, MIDNIGHT_S + DAY_S]))
    assert [name.partition(".")[0] for name in place.names()] == ["2023-11-14", "2023-11-15", "2023-11-16"]
    assert place.read().rows == 3


def test_day_becomes_one_file_an_hour_after_its_end(place: Place) -> None:
    written = [grid([second], ["A", "B"], x_v=1.0, y_a=2.0) for second in (0, 2000, 1000, MIDNIGHT_S)]
    place.write(*written)
    place.tidy(MIDNIGHT_S + 3599)
    assert len(place.names()) == 4
    place.tidy(MIDNIGHT_S + 3600)
    assert place.names() == ["2023-11-14.parquet", "2023-11-15.000000000000.0.parquet"]
    assert table(place.read()) == table(join_samples(written))
    before = (place.folder / "samples" / "2023-11-14.parquet").stat().st_mtime_ns
    place.tidy(MIDNIGHT_S + 7200)
    assert (place.folder / "samples" / "2023-11-14.parquet").stat().st_mtime_ns == before


def test_late_row_is_merged_into_its_day_and_replaces_what_was_there(place: Place) -> None:
    place.write(grid([0, 1], x_v=1.0))
    place.tidy(MIDNIGHT_S + 3600)
    place.write(grid([1], x_v=7.0))
    expected = {(at(0), "G1"): ({"x_v": 1.0}, 0), (at(1), "G1"): ({"x_v": 7.001}, 0)}
    assert table(place.read()) == expected
    place.tidy(MIDNIGHT_S + 3600)
    assert place.names() == ["2023-11-14.parquet"]
    assert table(place.read()) == expected


def test_many_parts_become_fewer_and_the_last_write_still_wins(place: Place) -> None:
    count = PARTS_TO_MERGE * (PARTS_TO_MERGE + 1)
    with closing(place.store()) as store:
        for number in range(count):
            store.write([grid([number % 7, 100 + number], x_v=float(number))], kept(alarm(f"{number % 3}")))
            if number % PARTS_TO_MERGE == PARTS_TO_MERGE - 1:
                store.tidy()
    assert [name.split(".")[1:3] for name in place.names()] == [
        [f"{PARTS_TO_MERGE**2 - 1:012d}", "2"],
        [f"{count - 1:012d}", "1"],
    ]
    found = table(place.read())
    assert len(found) == 7 + count
    last = {number % 7: number for number in range(count)}
    assert {second: found[at(second), "G1"][0]["x_v"] for second in range(7)} == {
        second: pytest.approx(number + second / 1000) for second, number in last.items()
    }
    assert len(place.store().read_messages(["alarm"], EARLIEST_NS, LATEST_NS)) == 3


@pytest.mark.parametrize("day_is_over", [False, True])
@pytest.mark.parametrize("deleted", range(PARTS_TO_MERGE))
def test_merge_that_was_cut_short_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, deleted: int, day_is_over: bool
) -> None:
    place.write(*(grid([0, number], x_v=float(number)) for number in range(PARTS_TO_MERGE)))
    before = table(place.read())
    left = deleted
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if not path.name.startswith("."):
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        place.tidy(MIDNIGHT_S + 3600 if day_is_over else 1)
    monkeypatch.undo()
    assert table(place.read()) == before
    place.write(grid([2], x_v=99.0))
    place.tidy(MIDNIGHT_S + 3600)
    assert place.names() == ["2023-11-14.parquet"]
    assert table(place.read()) == {**before, (at(2), "G1"): ({"x_v": 99.002}, 0)}


def test_reading_goes_on_while_parts_are_merged(place: Place) -> None:
    place.write(grid([0]))
    stop = threading.Event()
    problems: list[BaseException] = []

    def work() -> None:
        try:
            with closing(place.store()) as store:
                for number in range(1, 4 * PARTS_TO_MERGE):
                    store.write([grid([number])], [])
                    if number % 8 == 0:
                        store.tidy()
        except BaseException as error:  # noqa: BLE001 - looked at below
            problems.append(error)
        finally:
            stop.set()

    thread = threading.Thread(target=work)
    thread.start()
    rows = [place.read().rows]
    while not stop.is_set():
        rows.append(place.read().rows)
    thread.join()
    assert problems == []
    assert rows == sorted(rows)
    assert place.read().rows == 4 * PARTS_TO_MERGE


def test_day_of_many_hours_is_merged_hour_by_hour(place: Place) -> None:
    seconds = np.linspace(MIDNIGHT_S, MIDNIGHT_S + DAY_S - 1, 500)
    batches = [grid(seconds[start::3].tolist(), ["A", "B"]) for start in range(3)]
    place.write(*batches)
    place.tidy(MIDNIGHT_S + DAY_S + 3600)
    [name] = place.names()
    assert pq.ParquetFile(place.folder / "samples" / name).metadata.num_row_groups > 100
    assert table(place.read()) == table(join_samples(batches))


def test_newer_store_is_refused(place: Place) -> None:
    place.write(grid([0]))
    (place.folder / "store.json").write_text('{"version": 99}')
    for use in (place.store().open, place.store().read):
        with pytest.raises(NewerStoreError, match="schema is 99, known: up to 1"):
            use()


def test_folder_of_something_else_is_refused_and_left_alone(place: Place) -> None:
    place.folder.mkdir()
    (place.folder / "holiday.jpg").write_bytes(b"")
    with pytest.raises(FatalError, match=r"belongs to another program: it holds holiday\.jpg"):
        place.store().open()
    assert not (place.folder / "store.json").exists()


@pytest.mark.parametrize("content", [b"", b"no parquet at all", None])
def test_damaged_file_is_fatal_and_named(place: Place, content: bytes | None) -> None:
    place.write(grid([0]))
    [name] = place.names()
    file = place.folder / "samples" / name
    if content is None:
        pq.write_table(pq.read_table(file).replace_schema_metadata({}), file)
    else:
        file.write_bytes(content)
    with pytest.raises(FatalError, match=r"damaged|was not written by this program"):
        place.read()


def test_files_that_are_none_of_the_store_are_left_alone(place: Place) -> None:
    place.write(grid([0]))
    for name in ("notes.txt", ".2023-11-14.000000000007.0.parquet.99", "2023-11-14.copy.parquet"):
        (place.folder / "samples" / name).write_bytes(b"x")
    place.tidy(MIDNIGHT_S + 3600)
    assert place.read().rows == 1
    assert len(place.names()) == 4


def test_file_that_a_killed_program_left_unfinished_is_deleted_an_hour_later(place: Place) -> None:
    place.write(grid([0]))
    unfinished = place.folder / "samples" / ".2023-11-14.000000000007.0.parquet.99"
    unfinished.write_bytes(b"x")
    os.utime(unfinished, (START_NS // 10**9, START_NS // 10**9))
    place.tidy(3600)
    assert unfinished.exists()
    place.tidy(3601)
    assert not unfinished.exists()
    assert place.read().rows == 1


def test_message_without_a_time_is_counted(place: Place, make_context: ContextMaker) -> None:
    context = make_context("archive")
    store = ParquetStore(ParquetConfig(path=str(place.folder)), context)
    [timeless] = [msgspec.structs.replace(each, time_ns=None) for each in kept(alarm())]
    store.write([], [timeless])
    assert context.counters.get("not_storable") == 1


def test_full_disk_is_retryable_and_leaves_no_half_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(grid([0]))
    real = os.fsync

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RetryableError, match="No space left on device"):
        place.write(grid([1]))
    monkeypatch.setattr(os, "fsync", real)
    assert len(place.names()) == 1
    place.write(grid([1]))
    assert place.read().rows == 2


@pytest.mark.parametrize(
    ("owner", "what", "done"),
    [*((os, "fsync", done) for done in range(7)), *((Path, "replace", done) for done in range(5))],
)
def test_write_that_failed_halfway_and_is_tried_again_makes_one_part_of_each_day_and_counts_once(
    place: Place, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch, owner: Any, what: str, done: int
) -> None:
    context = make_context("archive")
    days = [MIDNIGHT_S + day * DAY_S for day in range(4)]
    [timed, timeless] = kept(alarm(), alarm())
    messages = [timed, msgspec.structs.replace(timeless, time_ns=None)]
    real, left = getattr(owner, what), done

    def fails(*arguments: Any) -> Any:
        nonlocal left
        if left == 0:
            raise OSError(28, "No space left on device")
        left -= 1
        return real(*arguments)

    with closing(ParquetStore(ParquetConfig(path=str(place.folder)), context)) as store:
        for kind in ("samples", "messages"):
            store.open()
            store._make_folder(kind)
        monkeypatch.setattr(owner, what, fails)
        with pytest.raises(RetryableError):
            store.write([grid(days)], messages)
        monkeypatch.undo()
        assert place.names("samples") == place.names("messages") == []
        refused = store.write([grid(days)], messages)
    assert (len(place.names("samples")), len(place.names("messages"))) == (4, 1)
    assert (refused.messages, context.counters.get("not_storable")) == (1, 1)


def test_scattered_time_tags_cost_the_days_with_the_fewest_rows(
    place: Place, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    context = make_context("archive")
    live = grid(range(10), ["A", "B"], x_v=1.0, y_a=1.0)
    scattered = grid([day * DAY_S for day in range(-200, 200)], ["C"], x_v=1.0)
    messages = kept(*(alarm(time_ns=at(day * DAY_S)) for day in range(40)))
    with closing(ParquetStore(ParquetConfig(path=str(place.folder)), context)) as store:
        refused = store.write([live, scattered], messages)
        found = store.read_messages(["alarm"], EARLIEST_NS, LATEST_NS)
    assert sorted(each.time_ns or 0 for each in found) == [at(day * DAY_S) for day in range(9, 40)]
    assert len(place.names("samples")) == len(place.names("messages")) == 31
    newest = scattered.take((scattered.time_ns == at(0)) | (scattered.time_ns >= at(170 * DAY_S)))
    assert table(place.read()) == table(join_samples([live, newest]))
    assert (refused.rows, refused.values, refused.messages) == (369, 369, 9)
    assert context.counters.get("not_storable") == 369 + 9
    assert "369 cannot be stored: values of more days than the 31 of 'days_per_commit'" in caplog.text


def test_history_of_many_days_is_filled_in_where_a_commit_may_hold_them(
    place: Place, make_context: ContextMaker
) -> None:
    context = make_context("archive")
    with closing(ParquetStore(ParquetConfig(path=str(place.folder), days_per_commit=50), context)) as store:
        store.write([grid([day * DAY_S for day in range(50)])], [])
        assert store.read().rows == 50
    assert context.counters.get("not_storable") == 0


def test_new_folders_are_on_the_disk_before_what_is_written_into_them(place: Place, synced: list[Path]) -> None:
    with closing(place.store()) as store:
        store.open()
        assert synced[0] == place.folder.parent
        for second in (0, 1):
            synced.clear()
            store.write([grid([second])], [])
            *folders, part, folder_of_part = synced
            assert folders == ([] if second else [place.folder])
            assert part.parent == folder_of_part == place.folder / "samples"
            assert re.fullmatch(rf"\.2023-11-14\.[0-9a-f]+\.parquet\.{os.getpid()}", part.name)


def test_values_of_a_rule_stand_in_a_folder_of_their_own(place: Place) -> None:
    with closing(place.store()) as store:
        store.write_series(Series(500_000_000, "max"), [grid([0])], at(1))
    assert [name.partition(".")[0] for name in place.names("max_0.5s")] == ["2023-11-14"]


WRITE_FOR_EVER = """
import itertools, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from conftest import ContextMaker
from edgeflex_connectors.parquet import ParquetConfig, ParquetStore
from edgeflex_flow.messages import samples_from_rows

store = ParquetStore(ParquetConfig(path=sys.argv[2]), ContextMaker(Path("."))("archive"))
for batch in itertools.count():
    rows = [(batch * 50 + row, device, {"x_v": 1.0}) for row in range(50) for device in "AB"]
    store.write([samples_from_rows(rows)], [])
    print(batch, flush=True)
    if batch % 20 == 19:
        store.tidy()
"""


def test_killed_writer_leaves_every_acknowledged_batch_once_and_none_by_halves(place: Place) -> None:
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(Path(__file__).parents[1]), str(place.folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = [int(child.stdout.readline()) for _ in range(50)]
    child.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in child.stdout.read().split("\n")[:-1]]
    child.wait()
    child.stdout.close()
    place.write(samples_from_rows([(row, device, {"x_v": 1.0}) for row in range(50) for device in "AB"]))
    rows = place.read().rows
    assert rows % 100 == 0
    assert 0 <= rows // 100 - len(acknowledged) <= 1


def test_disk_that_is_full_is_retryable_until_there_is_room(small_disk: Path, make_context: ContextMaker) -> None:
    place = Place(make_context, small_disk / "history")
    place.write(grid([0]))
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk)
    ballast.write_bytes(bytes(free.f_bavail * free.f_bsize - 8192))
    random = np.random.default_rng(1)
    large = samples_from_rows([(START_NS + n, "G1", {"x_v": float(v)}) for n, v in enumerate(random.normal(size=5000))])
    with pytest.raises(RetryableError, match="No space left on device"):
        place.write(large)
    assert place.read().rows == 1
    assert len(place.names()) == 1
    ballast.unlink()
    place.write(large)
    assert place.read().rows == 5000


def test_parts_are_always_to_be_merged() -> None:
    fields: dict[str, Any] = {"path": "history"}
    assert ParquetConfig(**fields).needs_upkeep
    assert parquet.NODE.family == "store"
