from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from broker import wait_until
from stores import event

from edgeflex_connectors import sqlite, store_write
from edgeflex_connectors.sqlite import APPLICATION_ID, SqliteConfig
from edgeflex_connectors.store_write import StoreWriteConfig
from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import Alarm, FrequencyEvent, Quality, samples_from_rows
from edgeflex_flow.node import Context, OpenConnection, Sink

if TYPE_CHECKING:
    from conftest import ContextMaker

ALARM = Alarm(source="s", severity="info", text="x", time_ns=7)


@contextmanager
def sink(make_context: ContextMaker, path: str = "history.db", **fields: Any) -> Iterator[tuple[Sink, Context]]:
    config = SqliteConfig(path=path, busy_timeout=0.05)
    context = make_context("archive", connections={"store": OpenConnection("history", sqlite.NODE, config)})
    opened = store_write.NODE.open(StoreWriteConfig(store="history", commit_every=0.01, **fields), context)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


def read(file: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(query).fetchall()


def rows(first: int, count: int, quality: int = 0) -> Any:
    return samples_from_rows(
        [(number, "G1", {"x_v": 1.0, "y_a": 2.0}) for number in range(first, first + count)], quality=quality
    )


def test_samples_and_messages_are_committed_with_their_quality(tmp_path: Path, make_context: ContextMaker) -> None:
    doubtful = Quality.SYNC_LOST | Quality.CLIPPED
    with sink(make_context) as (opened, context):
        opened.write([rows(0, 3), rows(3, 2, quality=doubtful), ALARM])
        assert opened.flush(10.0)
        # Read by another connection while the sink is open: committed means visible.
        stored = read(tmp_path / "history.db", "SELECT time_ns, quality FROM samples WHERE quantity_id = 1")
        assert stored == [(0, 0), (1, 0), (2, 0), (3, doubtful), (4, doubtful)]
        assert read(tmp_path / "history.db", "SELECT type FROM messages") == [("alarm",)]
        counters = context.counters.snapshot()
        assert {name: counters[name] for name in ("rows", "values", "messages")} == {
            "rows": 5,
            "values": 10,
            "messages": 1,
        }
        assert counters["commits"] >= 1


def test_only_the_named_columns_are_kept(tmp_path: Path, make_context: ContextMaker) -> None:
    with sink(make_context, columns=("y_a",)) as (opened, _):
        opened.write([rows(0, 1)])
        assert opened.flush(10.0)
    assert read(tmp_path / "history.db", "SELECT name FROM quantities") == [("y_a",)]


def test_named_columns_are_needed_of_the_wire() -> None:
    port = store_write.NODE.inputs["in"]
    assert port.columns(StoreWriteConfig(store="s", columns=("y_a",))) == {"y_a"}


def test_message_that_no_store_can_hold_is_a_dead_letter(tmp_path: Path, make_context: ContextMaker) -> None:
    late = FrequencyEvent(
        id="x",
        state="started",
        device="G1",
        onset_time_ns=2**63,
        detected_time_ns=0,
        rocof_hz_per_s=0,
        frequency_before_hz=0,
        frequency_extreme_hz=0,
    )
    with sink(make_context) as (opened, context):
        opened.write([late, Alarm(source="\ud800", severity="info", text="", time_ns=1), ALARM])
        assert opened.flush(10.0)
        assert context.counters.get("messages") == 1
    assert [reason for reason, _, _ in make_context.dead_letters] == ["not_storable"] * 2
    assert "does not fit into 64 bits" in make_context.dead_letters[0][1]


@pytest.mark.parametrize("name", ["é" * 256 + "x", "\ud800"])
def test_rows_whose_device_no_store_can_hold_are_a_dead_letter_and_the_others_kept(
    tmp_path: Path, make_context: ContextMaker, name: str
) -> None:
    batch = samples_from_rows([(time, device, {"x_v": 1.0}) for time in (1, 2) for device in ("A", name, "B")])
    with sink(make_context) as (opened, context):
        opened.write([batch, batch.take(batch.device == 1)])
        assert opened.flush(10.0)
        assert (context.counters.get("rows"), context.counters.get("not_storable")) == (4, 4)
    stored = "SELECT time_ns, name FROM samples JOIN devices ON devices.id = device_id ORDER BY time_ns, name"
    assert read(tmp_path / "history.db", stored) == [(1, "A"), (1, "B"), (2, "A"), (2, "B")]
    assert read(tmp_path / "history.db", "SELECT name FROM devices ORDER BY name") == [("A",), ("B",)]
    assert [reason for reason, _, _ in make_context.dead_letters] == ["not_storable"] * 2
    assert make_context.dead_letters[0][1].startswith("2 rows: device '")
    assert make_context.failures == []


def test_column_that_no_store_can_hold_is_a_dead_letter_and_the_others_are_kept(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    with sink(make_context) as (opened, _):
        opened.write([samples_from_rows([(1, "A", {"x_v": 1.0, "y" * 513: 2.0, "z" * 513: 3.0})])])
        assert opened.flush(10.0)
    assert read(tmp_path / "history.db", "SELECT name FROM quantities") == [("x_v",)]
    [(reason, text, _)] = make_context.dead_letters
    longest = "has 513 bytes, at most 512 can be stored"
    assert (reason, text) == ("not_storable", f"1 rows: column '{'y' * 20}…' {longest}, and 1 more such names")


def test_message_with_a_name_that_no_store_can_hold_is_a_dead_letter(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    with sink(make_context) as (opened, context):
        opened.write([event("G" * 600), msgspec.structs.replace(event(), device="G" * 513), event("G" * 400)])
        assert opened.flush(10.0)
        assert context.counters.get("messages") == 1
    assert [text.split(" '")[0] for _, text, _ in make_context.dead_letters] == [
        "a FrequencyEvent: id",
        "a FrequencyEvent: device",
    ]
    assert read(tmp_path / "history.db", "SELECT length(device) FROM messages") == [(400,)]


def test_several_sinks_share_one_file(tmp_path: Path, make_context: ContextMaker) -> None:
    with sink(make_context) as (first, _), sink(make_context) as (second, _):
        for number in range(50):
            first.write([rows(2 * number, 1)])
            second.write([rows(2 * number + 1, 1)])
        assert first.flush(20.0)
        assert second.flush(20.0)
    assert read(tmp_path / "history.db", "SELECT count(*) FROM samples") == [(200,)]


def test_locked_store_keeps_the_rows_and_writes_them_later(
    tmp_path: Path, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with sink(make_context) as (opened, context):
        with closing(sqlite3.connect(tmp_path / "history.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            opened.write([rows(0, 10)])
            wait_until(lambda: context.counters.get("retries"))
            other.execute("ROLLBACK")
        assert opened.flush(10.0)
        assert context.counters.get("rows") == 10
    assert "history.db: database is locked (SQLITE_BUSY); 10 rows wait; trying again" in caplog.messages[0]


def test_newer_schema_stops_the_flow_at_its_start(tmp_path: Path, make_context: ContextMaker) -> None:
    with closing(sqlite3.connect(tmp_path / "history.db")) as connection:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(FatalError, match="newer version"), sink(make_context):
        pass


def test_full_disk_keeps_the_rows_and_writes_them_when_there_is_space(
    small_disk: Path, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    ballast = small_disk / "ballast"
    with sink(make_context, "disk/history.db") as (opened, context):
        opened.write([rows(0, 10)])
        assert opened.flush(10.0)
        free = os.statvfs(small_disk)
        ballast.write_bytes(bytes(free.f_bavail * free.f_bsize - 20_000))
        opened.write([rows(10, 5_000), ALARM])
        wait_until(lambda: context.counters.get("retries"))
        opened.write([rows(5_010, 100)])
        assert not opened.flush(0.1)
        assert context.counters.get("rows") == 10
        ballast.unlink()
        assert opened.flush(20.0)
        assert context.counters.get("rows") == 5_110
        assert context.counters.get("overflow_rows") == context.counters.get("lost_rows") == 0
    assert "disk/history.db: database or disk is full (SQLITE_FULL); 5001 rows wait; trying again" in caplog.messages[0]
    assert read(small_disk / "history.db", "SELECT count(*) FROM samples") == [(10_220,)]
    assert read(small_disk / "history.db", "PRAGMA integrity_check") == [("ok",)]
    assert make_context.failures == []


def test_disk_that_stays_full_drops_the_oldest_waiting_rows(small_disk: Path, make_context: ContextMaker) -> None:
    ballast = small_disk / "ballast"
    with sink(make_context, "disk/history.db", queue=500) as (opened, context):
        opened.write([rows(0, 10)])
        assert opened.flush(10.0)
        free = os.statvfs(small_disk)
        ballast.write_bytes(bytes(free.f_bavail * free.f_bsize - 8_000))
        for number in range(50):
            opened.write([rows(1000 * number, 100)])
        wait_until(lambda: context.counters.get("retries"))
        dropped = context.counters.get("overflow_rows")
        assert dropped > 0
        ballast.unlink()
        assert opened.flush(20.0)
        assert context.counters.get("rows") == 10 + 5000 - context.counters.get("overflow_rows")
    newest = read(small_disk / "history.db", "SELECT max(time_ns) FROM samples")
    assert newest == [(49_099,)]


WITH_LITTLE_ROOM = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from conftest import ContextMaker
from edgeflex_connectors import sqlite, store_write
from edgeflex_connectors.sqlite import SqliteConfig
from edgeflex_connectors.store_write import StoreWriteConfig
from edgeflex_flow.messages import samples_from_rows
from edgeflex_flow.node import OpenConnection

def rows(first, count):
    return samples_from_rows([(number, "G1", {"x_v": 1.0}) for number in range(first, first + count)])

maker = ContextMaker(Path(sys.argv[2]))
config = SqliteConfig(path="history.db")
context = maker("archive", connections={"store": OpenConnection("history", sqlite.NODE, config)})
sink = store_write.NODE.open(StoreWriteConfig(store="history", commit_every=0.01, queue=int(sys.argv[3])), context)
sink.open()
sink.write([rows(0, 10)])
assert sink.flush(20.0)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, most))
written = 10
while written < 50_010 or not context.counters.get("retries"):
    sink.write([rows(written, 1000)])
    written += 1000
    time.sleep(0.0 if written < 50_010 else 0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
assert sink.flush(60.0)
sink.close()
print(json.dumps({**context.counters.snapshot(), "failures": len(maker.failures), "written": written}))
"""


@pytest.mark.parametrize("queue", [5_000, 1_000_000])
def test_file_that_may_not_grow_is_tried_again_and_only_what_was_counted_is_missing(tmp_path: Path, queue: int) -> None:
    command = [sys.executable, "-c", WITH_LITTLE_ROOM, str(Path(__file__).parents[1]), str(tmp_path), str(queue)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    counters = json.loads(done.stdout)
    assert counters["failures"] == 0
    dropped = counters.get("overflow_rows", 0)
    assert (dropped > 0) == (queue < 50_000)
    assert counters["rows"] == counters["written"] - dropped
    assert read(tmp_path / "history.db", "SELECT count(*) FROM samples") == [(counters["rows"],)]
    assert read(tmp_path / "history.db", "SELECT max(time_ns) FROM samples") == [(counters["written"] - 1,)]
    assert read(tmp_path / "history.db", "PRAGMA integrity_check") == [("ok",)]
