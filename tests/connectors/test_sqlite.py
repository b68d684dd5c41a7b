from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeflex_connectors import sqlite, store_rows
from edgeflex_connectors.recordings import read_recording
from edgeflex_connectors.sqlite import APPLICATION_ID, SCHEMA_VERSION, SqliteConfig, SqliteStore
from edgeflex_connectors.store import Series, WindowTooLargeError, stored_message
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.messages import Alarm, FrequencyEvent, Samples, join_samples, samples_from_rows

READ = """
SELECT devices.name, quantities.name, time_ns, value, quality FROM samples
JOIN devices ON devices.id = device_id JOIN quantities ON quantities.id = quantity_id
ORDER BY devices.name, quantities.name, time_ns
"""
EVENT = FrequencyEvent(
    id="G1@5",
    state="started",
    device="G1",
    onset_time_ns=5,
    detected_time_ns=9,
    rocof_hz_per_s=-1,
    frequency_before_hz=50,
    frequency_extreme_hz=49,
)


def store_at(file: Path, **fields: Any) -> SqliteStore:
    return SqliteStore(SqliteConfig(path=str(file), **fields), file)


def read(file: Path, query: str = READ) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def test_samples_become_rows_with_names_times_and_quality(file: Path) -> None:
    with closing(store_at(file)) as store:
        store.open()
        good = samples_from_rows([(2, "B", {"x_v": 1.5, "y_a": -0.0}), (1, "A", {"x_v": float("nan"), "y_a": 2.0})])
        doubtful = samples_from_rows([(3, "A", {"x_v": 4.0})], quality=0x1FF)
        store.write([good, doubtful], [])
    assert read(file) == [
        ("A", "x_v", 3, 4.0, 0x1FF),
        ("A", "y_a", 1, 2.0, 0),
        ("B", "x_v", 2, 1.5, 0),
        ("B", "y_a", 2, 0.0, 0),
    ]


def test_missing_value_makes_no_row_and_leaves_a_stored_value(file: Path) -> None:
    with closing(store_at(file)) as store:
        store.open()
        value, missing = (samples_from_rows([(1, "A", {"x_v": each})]) for each in (1.0, float("nan")))
        store.write([value], [])
        store.write([missing], [])
        store.write([value, missing], [])
    assert read(file) == [("A", "x_v", 1, 1.0, 0)]


def test_joined_batch_stores_each_device_with_its_own_columns_only(file: Path) -> None:
    batch = join_samples([samples_from_rows([(1, f"G{number}", {f"c{number}_v": 1.0})]) for number in range(20)])
    with closing(store_at(file)) as store:
        store.open()
        store.write([batch], [])
    assert [row[:2] for row in read(file)] == sorted((f"G{number}", f"c{number}_v") for number in range(20))


def test_batch_without_columns_stores_nothing(file: Path) -> None:
    with closing(store_at(file)) as store:
        store.open()
        store.write([samples_from_rows([(1, "A", {})])], [])
    assert read(file) == []


def test_same_device_time_and_column_is_one_row_and_the_last_wins(file: Path) -> None:
    with closing(store_at(file)) as store:
        store.open()
        first, second, third = (samples_from_rows([(1, "A", {"x_v": value})]) for value in (1.0, 2.0, 3.0))
        store.write([first, second], [])
        assert read(file) == [("A", "x_v", 1, 2.0, 0)]
        store.write([third], [])
        store.write([third], [])
    assert read(file) == [("A", "x_v", 1, 3.0, 0)]


KEYS = st.tuples(st.sampled_from("AB"), st.sampled_from(["x_v", "y_a"]), st.integers(0, 3))


@settings(max_examples=30)
@given(st.lists(st.lists(st.tuples(KEYS, st.floats(allow_nan=False)), min_size=1), max_size=4))
def test_store_holds_what_a_dictionary_would(
    tmp_path_factory: pytest.TempPathFactory, writes: list[list[tuple[tuple[str, str, int], float]]]
) -> None:
    file = tmp_path_factory.mktemp("store") / "history.db"
    expected: dict[tuple[str, str, int], float] = {}
    with closing(store_at(file)) as store:
        store.open()
        for write in writes:
            store.write([samples_from_rows([(time, dev, {col: value})]) for (dev, col, time), value in write], [])
            expected.update(write)
    assert {row[:3]: row[3] for row in read(file)} == expected


def test_messages_are_kept_once_with_their_json(file: Path) -> None:
    alarm = Alarm(source="s", severity="info", text="x", time_ns=7)
    with closing(store_at(file)) as store:
        store.open()
        for _ in range(2):
            store.write([], [stored_message(EVENT), stored_message(alarm)])
    rows = read(file, "SELECT type, id, time_ns, device, json_extract(body, '$.type') FROM messages ORDER BY type")
    assert rows == [
        ("alarm", stored_message(alarm).id, 7, None, "alarm"),
        ("frequency_event", "G1@5 started", 5, "G1", "frequency_event"),
    ]


def test_history_goes_on_after_reopening(file: Path) -> None:
    for time in (1, 2):
        with closing(store_at(file)) as store:
            store.open()
            store.write([samples_from_rows([(time, "A", {"x_v": 1.0})])], [])
    assert len(read(file)) == 2
    assert read(file, "SELECT count(*) FROM devices") == [(1,)]


@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_file_is_in_write_ahead_mode_and_syncs(file: Path, synchronous: str) -> None:
    with closing(store_at(file, synchronous=synchronous)) as store:
        store.open()
        store.write([samples_from_rows([(1, "A", {"x_v": 1.0})])], [])
        store.sync()
        assert store._connection is not None
        wanted = {"normal": 1, "full": 2}[synchronous]
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (wanted,)
    assert read(file, "PRAGMA journal_mode") == [("wal",)]
    assert read(file, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_sync_makes_a_commit_that_waits_for_the_disk(file: Path) -> None:
    statements: list[str] = []
    log = file.with_name(f"{file.name}-wal")
    with closing(store_at(file, synchronous="normal")) as store:
        store.open()
        store.write([samples_from_rows([(1, "A", {"x_v": 1.0})])], [])
        assert store._connection is not None
        store._connection.set_trace_callback(statements.append)
        before = log.stat().st_size
        store.sync()
        assert log.stat().st_size > before, "a transaction that changes nothing waits for nothing"
    begin, end = statements.index("PRAGMA synchronous=full"), statements.index("PRAGMA synchronous=normal")
    assert begin < statements.index("BEGIN IMMEDIATE") < statements.index("COMMIT") < end


def test_file_of_a_newer_version_is_refused(file: Path) -> None:
    with closing(store_at(file)) as store:
        store.open()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(FatalError, match=r"history.db: written by a newer version .* schema is 3, known: up to 2"):
        store_at(file).open()


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE bookmarks (url)"],
        ["CREATE TABLE bookmarks (url)", f"PRAGMA user_version={SCHEMA_VERSION}"],
        ["PRAGMA user_version=-1"],
        ["PRAGMA application_id=7"],
        [f"PRAGMA user_version={SCHEMA_VERSION}"],
    ],
)
def test_database_of_another_program_is_refused_and_left_alone(file: Path, statements: list[str]) -> None:
    with closing(sqlite3.connect(file)) as connection:
        for statement in statements:
            connection.execute(statement)
    before = file.read_bytes()
    with pytest.raises(FatalError, match=r"history\.db: belongs to another program: its application_id is [07], ours"):
        store_at(file).open()
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("statement", ["DROP TABLE samples", "PRAGMA user_version=-1", "PRAGMA user_version=0"])
def test_file_of_ours_that_lacks_something_is_refused(file: Path, statement: str) -> None:
    with closing(store_at(file)) as store:
        store.open()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
    with pytest.raises(FatalError, match=r"history\.db: damaged: its schema is"):
        store_at(file).open()


def test_file_is_marked_as_ours(file: Path) -> None:
    with closing(store_at(file)) as store:
        store.open()
    assert read(file, "PRAGMA application_id") == [(APPLICATION_ID,)]


def test_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="must not hold a NUL character"):
        msgspec.convert({"path": "a\0.db"}, SqliteConfig)


def test_file_that_is_no_database_is_refused(file: Path) -> None:
    file.write_text("time;value\n" * 1000)
    with pytest.raises(FatalError, match=r"history.db: file is not a database"):
        store_at(file).open()


def test_lock_of_another_program_is_retryable_and_nothing_is_written_by_halves(file: Path) -> None:
    with closing(store_at(file, busy_timeout=0.0)) as store:
        store.open()
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(RetryableError, match=r"history.db: database is locked \(SQLITE_BUSY\)"):
                store.write([samples_from_rows([(1, "A", {"x_v": 1.0})])], [])
            other.execute("ROLLBACK")
        assert read(file) == []
        store.write([samples_from_rows([(1, "A", {"x_v": 1.0})])], [])
    assert len(read(file)) == 1


def test_full_database_is_retryable_and_its_new_names_are_not_believed(file: Path) -> None:
    rows = [(time, "late", {"x_v": 1.0}) for time in range(10_000)]
    with closing(store_at(file)) as store:
        store.open()
        assert store._connection is not None
        pages: int = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count={pages + 3}")
        with pytest.raises(RetryableError, match=r"database or disk is full \(SQLITE_FULL\)"):
            store.write([samples_from_rows(rows)], [])
        assert read(file, "SELECT count(*) FROM devices") == [(0,)]
        store._connection.execute("PRAGMA max_page_count=1000000")
        store.write([samples_from_rows(rows)], [])
    assert len(read(file)) == 10_000


def test_two_stores_write_to_one_file(file: Path) -> None:
    with closing(store_at(file)) as first, closing(store_at(file)) as second:
        for store in (first, second):
            store.open()
        for number in range(20):
            for store, device in ((first, "A"), (second, "B")):
                store.write([samples_from_rows([(number, device, {"x_v": float(number)})])], [])
    assert len(read(file)) == 40


def test_rows_of_a_large_batch_keep_their_values(file: Path) -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(500, 8))
    batch = samples_from_rows(
        [(time, f"G{dev}", {"x_v": values[time, dev]}) for time in range(500) for dev in range(8)]
    )
    with closing(store_at(file)) as store:
        store.open()
        store.write([batch], [])
    stored = {(device, time): value for device, _, time, value, _ in read(file)}
    assert stored == {(f"G{dev}", time): values[time, dev] for time in range(500) for dev in range(8)}


def bits(samples: Samples) -> dict[tuple[int, str], tuple[list[int], int]]:
    """Each row as the bits of its values, by time and device."""
    table = np.stack([samples.columns[name] for name in sorted(samples.columns)]).view(np.uint64)
    return {
        (int(time), samples.devices[code]): (table[:, row].tolist(), int(flags))
        for row, (time, code, flags) in enumerate(zip(samples.time_ns, samples.device, samples.quality, strict=True))
    }


ROWS = st.dictionaries(
    st.tuples(st.integers(-(2**63), 2**63 - 2), st.sampled_from(["A", "B", "é\0"])),
    st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)).filter(lambda row: 0.0 not in row),
    min_size=1,
    max_size=20,
)


@settings(max_examples=40)
@given(ROWS)
def test_samples_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[tuple[int, str], tuple[float, float]]
) -> None:
    file = tmp_path_factory.mktemp("store") / "history ?#%.db"
    written = samples_from_rows([(t, d, {"x_v": x, "y_a": y}) for (t, d), (x, y) in rows.items()], quality=0x1FF)
    with closing(store_at(file)) as store:
        store.open()
        store.write([written], [])
        during = store_at(file).read()
    after = store_at(file).read()
    for found in (during, after):
        assert list(found.problems()) == []
        assert bits(found) == bits(written)
        assert np.all(np.diff(found.time_ns.astype(object)) >= 0)


def stored(file: Path) -> None:
    with closing(store_at(file)) as store:
        store.open()
        rows = [(time, name, {"x_v": float(time), "y_a": -1.0}) for time in range(10) for name in "ABC"]
        store.write([samples_from_rows(rows, quality=3)], [])


def test_window_columns_and_devices_are_what_was_asked_for(file: Path) -> None:
    stored(file)
    found = store_at(file).read(["y_a", "none_v"], 2, 4, ["C", "nobody", "A"])
    assert found.time_ns.tolist() == [2, 2, 3, 3]
    assert [found.devices[code] for code in found.device] == ["C", "A", "C", "A"]
    assert list(found.columns) == ["y_a", "none_v"]
    assert np.isnan(found.columns["none_v"]).all()
    assert found.quality.tolist() == [3, 3, 3, 3]
    assert store_at(file).read(begin_ns=99).rows == 0


def test_value_that_is_missing_comes_back_as_nan(file: Path) -> None:
    with closing(store_at(file)) as store:
        store.open()
        store.write([samples_from_rows([(1, "A", {"x_v": 1.0}), (2, "A", {"y_a": 2.0})])], [])
    found = store_at(file).read()
    assert np.isnan(found.columns["y_a"]).tolist() == [True, False]


def test_reading_leaves_the_file_and_its_folder_as_they_are(file: Path) -> None:
    stored(file)
    before = file.read_bytes(), file.stat().st_mtime_ns
    store_at(file).read()
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert list(file.parent.iterdir()) == [file]


def test_reading_goes_on_while_another_connection_writes(file: Path) -> None:
    stored(file)
    with closing(store_at(file)) as writer:
        writer.open()
        writer.write([samples_from_rows([(100, "A", {"x_v": 1.0})])], [])
        before = file.read_bytes()
        with closing(sqlite3.connect(file, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            assert store_at(file).read().rows == 31
        assert file.read_bytes() == before
        writer.write([samples_from_rows([(101, "A", {"x_v": 1.0})])], [])
        assert store_at(file).read().rows == 32


def test_what_a_crash_left_in_the_log_is_read(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with closing(store_at(file)) as writer:
        writer.open()
        writer.write([samples_from_rows([(100, "A", {"x_v": 1.0})])], [])
        for end in ("", "-wal"):
            copy.with_name(copy.name + end).write_bytes(file.with_name(file.name + end).read_bytes())
    before = copy.read_bytes()
    assert store_at(copy).read().rows == 1
    assert copy.read_bytes() == before


def test_file_that_changes_while_it_is_read_is_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(file)
    writer = store_at(file)
    real = store_rows.table_of

    def late(*arguments: Any) -> Samples:
        samples = real(*arguments)
        writer.open()
        return samples

    monkeypatch.setattr(sqlite, "table_of", late)
    with closing(writer):
        assert store_at(file).read().rows == 30


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "there is no such file"), (b"", "an empty database"), (b"no database" * 99, "file is not a database")],
)
def test_file_that_is_no_store_is_fatal_and_not_made(file: Path, content: bytes | None, complaint: str) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FatalError, match=complaint):
        store_at(file).read()
    assert (file.read_bytes() if file.exists() else None) == content


def test_store_is_read_as_a_recording(file: Path) -> None:
    with closing(store_at(file)) as store:
        store.open()
        rows = [(time, "A", {"frequency_hz": 50.0, "voltage_kv": 11.0, "va_v": 1.0}) for time in range(3)]
        store.write([samples_from_rows(rows, quality=2)], [])
    recording = read_recording(file)
    assert recording.samples.columns["voltage_v"].tolist() == [11_000.0] * 3
    assert recording.samples.quality.tolist() == [66] * 3


def test_more_values_than_can_be_read_are_refused(file: Path) -> None:
    stored(file)
    with pytest.raises(WindowTooLargeError, match="more than 59 values of that time; read a shorter one"):
        store_at(file).read(most_values=59)
    assert store_at(file).read(["x_v"], most_values=59).rows == 30


VERSION_1 = Path(__file__).parents[1] / "data" / "store_v1.db"


@pytest.fixture
def old_file(file: Path) -> Path:
    """A store that version 1 of the schema wrote: 40 rows of 2 columns, an alarm and a frequency event."""
    shutil.copy(VERSION_1, file)
    return file


def schema(file: Path) -> list[tuple[Any, ...]]:
    return read(file, "SELECT type, name, tbl_name FROM sqlite_schema ORDER BY name")


def test_file_of_an_older_version_is_read_as_it_is(old_file: Path) -> None:
    before = old_file.read_bytes()
    found = store_at(old_file).read()
    assert (found.rows, sorted(found.columns), found.devices) == (40, ["frequency_hz", "rocof_hz_per_s"], ("G1", "G2"))
    assert store_at(old_file).read(series=Series(1_000_000_000, "mean")).rows == 0
    assert store_at(old_file).span(series=Series(1_000_000_000, "mean")) is None
    assert old_file.read_bytes() == before


def test_file_of_an_older_version_is_brought_up_to_the_present_one_and_loses_nothing(old_file: Path) -> None:
    before = bits(store_at(old_file).read())
    with closing(store_at(old_file)) as store:
        store.open()
        assert bits(store.read()) == before
        store.write_series(Series(1_000_000_000, "mean"), [samples_from_rows([(1, "G1", {"x_v": 1.0})])], 2)
    assert read(old_file, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    messages = store_at(old_file).read_messages(["alarm", "frequency_event"], -(2**63), 2**63 - 1)
    assert [json.loads(message.body)["type"] for message in messages] == ["alarm", "frequency_event"]
    new = old_file.with_name("new.db")
    with closing(store_at(new)) as store:
        store.open()
    assert schema(old_file) == schema(new)


def test_migration_that_fails_changes_nothing(old_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = schema(old_file)
    monkeypatch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, "CREATE TABLE devices (id INTEGER)"))
    with pytest.raises(FatalError, match="table devices already exists"):
        store_at(old_file).open()
    assert schema(old_file) == before
    assert read(old_file, "PRAGMA user_version") == [(1,)]


def test_two_programs_that_bring_a_file_up_at_once_do_it_once(old_file: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        stores = [store_at(old_file) for _ in range(4)]
        list(threads.map(lambda store: store.open(), stores))
    for store in stores:
        store.close()
    assert read(old_file, "SELECT count(*) FROM samples") == [(80,)]


WRITE_FOR_EVER = """
import sys, itertools
from pathlib import Path
from edgeflex_connectors.sqlite import SqliteConfig, SqliteStore
from edgeflex_flow.messages import samples_from_rows

file = Path(sys.argv[1])
store = SqliteStore(SqliteConfig(path=str(file)), file)
store.open()
for batch in itertools.count():
    rows = [(batch * 50 + row, device, {"x_v": 1.0}) for row in range(50) for device in "AB"]
    store.write([samples_from_rows(rows)], [])
    print(batch, flush=True)
"""


def test_killed_writer_leaves_every_acknowledged_batch_once_and_none_by_halves(file: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(file)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = [int(child.stdout.readline()) for _ in range(200)]
    child.kill()
    acknowledged += [int(line) for line in child.stdout.read().split("\n")[:-1]]
    child.wait()
    child.stdout.close()
    with closing(store_at(file)) as store:
        store.open()
        again = samples_from_rows([(row, device, {"x_v": 1.0}) for row in range(50) for device in "AB"])
        store.write([again], [])
    [(count,)] = read(file, "SELECT count(*) FROM samples")
    assert count % 100 == 0
    assert 0 <= count // 100 - len(acknowledged) <= 1
    assert read(file, "PRAGMA integrity_check") == [("ok",)]


def test_more_rows_than_one_statement_takes_are_all_written(file: Path) -> None:
    counts = [1, sqlite.ROWS_AT_ONCE, sqlite.ROWS_AT_ONCE + 1, sqlite.CHUNK_ROWS + sqlite.ROWS_AT_ONCE + 1]
    with closing(store_at(file)) as store:
        store.open()
        for place, count in enumerate(counts):
            store.write([samples_from_rows([(time, f"G{place}", {"x_v": 1.0}) for time in range(count)])], [])
    assert read(file, "SELECT count(*) FROM samples GROUP BY device_id") == [(count,) for count in counts]
