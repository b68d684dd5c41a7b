from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeflex_connectors.sqlite import APPLICATION_ID, SCHEMA_VERSION, SqliteConfig, SqliteStore
from edgeflex_connectors.store import stored_message
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.messages import Alarm, FrequencyEvent, join_samples, samples_from_rows

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


@settings(max_examples=30, deadline=None)
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


def test_file_of_a_newer_version_is_refused(file: Path) -> None:
    with closing(store_at(file)) as store:
        store.open()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(FatalError, match=r"history.db: written by a newer version .* schema is 2, known: up to 1"):
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
