"""`sqlite`: a history in one file, by SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_connectors.folders import make_folder_for, path_refusals
from edgeflex_connectors.store import (
    EARLIEST_NS,
    HOUR_NS,
    LATEST_NS,
    MOST_VALUES,
    NewerStoreError,
    NoStoreError,
    Refused,
    Series,
    Span,
    StoreConfig,
    StoredMessage,
    WindowTooLargeError,
    check_folder,
    probe_store,
)
from edgeflex_connectors.store_rows import Stored, table_of, values_of
from edgeflex_flow.errors import FatalError, FieldError, RetryableError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import ConnectionNode, Context, Probe, quantity
from edgeflex_flow.node import path as file_path

T = TypeVar("T")

MIGRATIONS = (
    """
    CREATE TABLE devices (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE quantities (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE samples (
        device_id INTEGER NOT NULL REFERENCES devices,
        quantity_id INTEGER NOT NULL REFERENCES quantities,
        time_ns INTEGER NOT NULL,
        value REAL NOT NULL,
        quality INTEGER NOT NULL,
        PRIMARY KEY (device_id, quantity_id, time_ns)
    ) WITHOUT ROWID;
    CREATE TABLE messages (
        type TEXT NOT NULL, id TEXT NOT NULL, time_ns INTEGER, device TEXT, body TEXT NOT NULL,
        PRIMARY KEY (type, id)
    ) WITHOUT ROWID;
    CREATE INDEX messages_by_time ON messages (time_ns);
    """,
    """
    CREATE TABLE series (
        id INTEGER PRIMARY KEY, every_ns INTEGER NOT NULL, how TEXT NOT NULL, until_ns INTEGER NOT NULL,
        UNIQUE (every_ns, how)
    );
    CREATE TABLE downsampled (
        series_id INTEGER NOT NULL REFERENCES series,
        device_id INTEGER NOT NULL REFERENCES devices,
        quantity_id INTEGER NOT NULL REFERENCES quantities,
        time_ns INTEGER NOT NULL,
        value REAL NOT NULL,
        quality INTEGER NOT NULL,
        PRIMARY KEY (series_id, device_id, quantity_id, time_ns)
    ) WITHOUT ROWID;
    """,
)
"""The statements that make version n + 1 of version n; version 0 is an empty file."""
SCHEMA_VERSION = len(MIGRATIONS)
APPLICATION_ID = int.from_bytes(b"EFlx", "big")
"""Marks the file as ours, for this program and for `file`; see PRAGMA application_id."""
TABLES = frozenset({"devices", "quantities", "samples", "messages"})
"""Tables of every version."""

CHUNK_ROWS = 10_000
"""Rows that are Python objects at one time: these take ten times the room of arrays."""
ROWS_AT_ONCE = 200
"""Rows of one statement: a statement for each row takes twice the time."""
INSERT_MESSAGE = "INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?)"
INSERT_NAME = {
    "devices": "INSERT OR IGNORE INTO devices (name) VALUES (?)",
    "quantities": "INSERT OR IGNORE INTO quantities (name) VALUES (?)",
}
SELECT_ID = {
    "devices": "SELECT id FROM devices WHERE name = ?",
    "quantities": "SELECT id FROM quantities WHERE name = ?",
}
SELECT_SERIES = "SELECT id, until_ns FROM series WHERE every_ns = ? AND how = ?"
PUT_SERIES = """
INSERT INTO series (every_ns, how, until_ns) VALUES (?, ?, ?)
ON CONFLICT (every_ns, how) DO UPDATE SET until_ns = max(until_ns, excluded.until_ns)
"""

CACHE_KIB = 16_384
"""Room for the last page of each series of 1,000 devices with 4 columns."""
CHECKPOINT_PAGES = 4_000
"""Pages that the log gathers before they go to the file: the same page is then written once for several commits."""

SELECT_NAMES = {"devices": "SELECT id, name FROM devices", "quantities": "SELECT id, name FROM quantities"}
SELECT_MESSAGES = """
SELECT type, id, time_ns, device, body FROM messages WHERE time_ns >= ? AND time_ns < ? ORDER BY time_ns, type, id
"""
VALUE_ROW = np.dtype([("time_ns", np.int64), ("value", np.float64), ("quality", np.uint16)])
READ_ATTEMPTS = 3
DELETE_NS = HOUR_NS
"""The time of one series whose rows are deleted at once."""
DELETE_ROWS = 20_000
"""About as many rows are deleted in one transaction, so that writing never waits long for it."""
MOST_DELETES = 50
"""Transactions of one call of `delete`; the next call goes on."""


class _Table(NamedTuple):
    """Where values stand: a table, and what its key begins with."""

    name: str
    prefix: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """The start of a condition on one device and column."""
        series = "series_id = ? AND " if self.prefix else ""
        return f"{series}device_id = ? AND quantity_id = ?"

    def insert(self, rows: int) -> str:
        marks = ", ".join("?" * (5 + len(self.prefix)))
        return f"INSERT OR REPLACE INTO {self.name} VALUES {', '.join([f'({marks})'] * rows)}"  # noqa: S608 - ours


SAMPLES = _Table("samples")

SICK = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR})
"""Errors of the file's content: no database, damaged, tables that are not ours. All others (full, locked, read-only,
input/output) are the world's, which may come right."""
PRIMARY_CODE = 0xFF


class SqliteConfig(StoreConfig, frozen=True, kw_only=True):
    """A history in one SQLite file, readable while it is written (write-ahead log).

    Tables: `samples` (device_id, quantity_id, time_ns, value, quality) with one row for each value, its names in
    `devices` and `quantities` (columns such as `frequency_hz`); `messages` (type, id, time_ns, device, body as JSON);
    `downsampled` as `samples`, with what each rule in `series` made of them. A file of an older version is brought up
    to the present one when it is first written to.
    A missing value (NaN) makes no row and leaves a value that is stored already as it is; the flags of such a sample
    are then kept only with its other values. Writing the same device, time and column again replaces the row.

    `synchronous: normal` survives every crash of the program; a power failure can take the last seconds of commits,
    never the file. `full` waits for the disk at each commit and loses nothing that was committed; it wears flash
    memory more. An orderly stop waits for the disk in both.

    Input:
        None: nodes name the connection in their field `store`.

    Output:
        None.

    Errors:
        FatalError: the folder of the file cannot be made, the file is no SQLite database, belongs to another program
        (such a file is not touched), is damaged, or was written by a newer version. A full disk, a lock held by others
        or an input/output error is tried again.

    Source:
        https://sqlite.org/wal.html

    >>> SqliteConfig(path="history.db").synchronous
    'normal'
    """

    path: Annotated[
        str, file_path("The database file; made, with its folder, if it does not exist.", example="history.db")
    ]
    synchronous: Annotated[
        Literal["normal", "full"], Meta(description="Whether each commit waits for the disk (full) or not (normal).")
    ] = "normal"
    busy_timeout: Annotated[
        float, quantity("s", "How long to wait for another program that writes to the file.", ge=0, le=60)
    ] = 2.0

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        yield from path_refusals(self.path)


class _FileState(NamedTuple):
    """What tells whether somebody wrote to a file meanwhile."""

    has_log: bool
    size: int
    modified_ns: int


class SqliteStore:
    """The store in one file. Used by one thread at a time; open it anew after an error of the operating system."""

    def __init__(self, config: SqliteConfig, file: Path) -> None:
        self._config = config
        self._file = file
        self._connection: sqlite3.Connection | None = None
        self._ids: dict[str, dict[str, int]] = {"devices": {}, "quantities": {}}

    def open(self) -> None:
        make_folder_for(self._file)
        try:
            with self._translated():
                self._connection = self._connect()
                self._prepare(self._connection)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._file, timeout=self._config.busy_timeout, isolation_level=None, check_same_thread=False
        )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._version(connection)  # before anything is written: write-ahead mode would change another program's file
        if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise FatalError(f"{self._file}: this file system cannot hold a write-ahead log (a network drive?)")
        connection.execute(f"PRAGMA synchronous={self._config.synchronous}")
        connection.execute(f"PRAGMA cache_size={-CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        with _transaction(connection):
            version = self._version(connection)
            for migration in MIGRATIONS[version:]:
                for statement in migration.split(";"):
                    connection.execute(statement)
            if version < SCHEMA_VERSION:
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _version(self, connection: sqlite3.Connection) -> int:
        """Version of the file's schema, 0 if it is empty; only reads. FatalError if it is neither empty nor ours."""
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if version == 0 and owner == 0 and not tables:
            return 0
        if owner != APPLICATION_ID:
            raise FatalError(
                f"{self._file}: belongs to another program: its application_id is {owner}, ours {APPLICATION_ID}; "
                f"it holds {_listed(tables)}"
            )
        if version > SCHEMA_VERSION:
            raise NewerStoreError(str(self._file), version, SCHEMA_VERSION)
        if version < 1 or not tables >= TABLES:
            raise FatalError(
                f"{self._file}: damaged: its schema is {version} with {_listed(tables)}, "
                f"expected {SCHEMA_VERSION} with {_listed(TABLES)}"
            )
        return version

    def write(self, samples: Sequence[Samples], messages: Sequence[StoredMessage]) -> Refused:
        with self._writing() as connection:
            self._insert(connection, SAMPLES, samples)
            connection.executemany(
                INSERT_MESSAGE, [(m.type, m.id, m.time_ns, m.device, m.body.decode()) for m in messages]
            )
        return Refused()

    def write_series(self, series: Series, values: Sequence[Samples], until_ns: int) -> None:
        with self._writing() as connection:
            connection.execute(PUT_SERIES, (*series, until_ns))
            (number, _) = connection.execute(SELECT_SERIES, series).fetchone()
            self._insert(connection, _Table("downsampled", (number,)), values)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction."""
        with self._translated(), self._opened() as connection:
            try:
                with _transaction(connection):
                    yield connection
            except BaseException:
                # Ids given in the transaction went with it.
                self._ids = {"devices": {}, "quantities": {}}
                raise

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        if self._connection is None:
            self.open()
        assert self._connection is not None
        yield self._connection

    def _insert(self, connection: sqlite3.Connection, table: _Table, batches: Sequence[Samples]) -> None:
        devices, columns = values_of(batches)
        device_ids = self._lookup(connection, "devices", devices)
        quantity_ids = self._lookup(connection, "quantities", [values.column for values in columns])
        statement = table.insert(ROWS_AT_ONCE)
        for quantity_id, values in zip(quantity_ids.tolist(), columns, strict=True):
            parts = (device_ids[values.device], values.time_ns, values.value, values.quality)
            rows = len(values.value)
            for start in range(0, rows, CHUNK_ROWS):
                device, *rest = (part[start : start + CHUNK_ROWS].tolist() for part in parts)
                flat = _interleaved((*table.prefix, device, quantity_id, *rest), len(device))
                _execute_in_groups(connection, table, statement, flat, len(device))

    def _lookup(self, connection: sqlite3.Connection, table: str, names: Sequence[str]) -> NDArray[np.int64]:
        """The id of each name, shape (len(names),)."""
        ids = self._ids[table]
        for name in names:
            if name not in ids:
                connection.execute(INSERT_NAME[table], (name,))
                ids[name] = connection.execute(SELECT_ID[table], (name,)).fetchone()[0]
        return np.array([ids[name] for name in names], dtype=np.int64)

    def read(
        self,
        columns: Sequence[str] | None = None,
        begin_ns: int = EARLIEST_NS,
        end_ns: int = LATEST_NS,
        devices: Sequence[str] | None = None,
        *,
        series: Series | None = None,
        most_values: int = MOST_VALUES,
    ) -> Samples:
        """See `Store`. Only -0.0 comes back as 0.0, as SQLite keeps it. May go on while another process writes: it
        sees what was committed when it began.

        Raises FatalError for a file that is missing or not ours, and RetryableError when it cannot be read for now.
        """
        limit = _Limit(str(self._file), most_values)

        def window(connection: sqlite3.Connection) -> Samples:
            device_ids, quantity_ids = _ids(connection, "devices", devices), _ids(connection, "quantities", columns)
            table = self._table_of(connection, series)
            found = (
                ()
                if table is None
                else _read_series(connection, table, (device_ids, quantity_ids), (begin_ns, end_ns), limit)
            )
            return table_of(list(found), tuple(quantity_ids), tuple(device_ids))

        return self._reading(window)

    def read_messages(self, types: Sequence[str], begin_ns: int, end_ns: int) -> list[StoredMessage]:
        wanted = frozenset(types)

        def window(connection: sqlite3.Connection) -> list[StoredMessage]:
            return [
                StoredMessage(type=kind, id=key, time_ns=time_ns, device=device, body=body.encode())
                for kind, key, time_ns, device, body in connection.execute(SELECT_MESSAGES, (begin_ns, end_ns))
                if kind in wanted
            ]

        return self._reading(window)

    def span(
        self, begin_ns: int = EARLIEST_NS, end_ns: int = LATEST_NS, *, series: Series | None = None
    ) -> Span | None:
        def window(connection: sqlite3.Connection) -> Span | None:
            table = self._table_of(connection, series)
            if table is None:
                return None
            where = f"FROM {table.name} WHERE {table.key} AND time_ns >= ? AND time_ns < ?"
            # Two statements: SQLite takes a shortcut to a minimum or a maximum, not to both.
            ends = f"SELECT (SELECT min(time_ns) {where}), (SELECT max(time_ns) {where})"
            found = [
                connection.execute(ends, 2 * (*key, begin_ns, end_ns)).fetchone() for key in _keys(connection, table)
            ]
            times = [(first, last) for first, last in found if first is not None]
            return Span(min(first for first, _ in times), max(last for _, last in times)) if times else None

        return self._reading(window)

    def last_message_ns(self, end_ns: int = LATEST_NS) -> int | None:
        def window(connection: sqlite3.Connection) -> int | None:
            newest = "SELECT max(time_ns) FROM messages WHERE time_ns < ?"
            found: int | None = connection.execute(newest, (end_ns,)).fetchone()[0]
            return found

        return self._reading(window)

    def made_until(self, series: Series) -> int | None:
        with self._translated(), self._opened() as connection:
            found = connection.execute(SELECT_SERIES, series).fetchone()
        return None if found is None else found[1]

    def delete(self, what: Series | Literal["samples", "messages"], before_ns: int) -> int:
        if what == "messages":
            with self._writing() as connection:
                return connection.execute("DELETE FROM messages WHERE time_ns < ?", (before_ns,)).rowcount
        with self._translated(), self._opened() as connection:
            table = SAMPLES if what == "samples" else self._table_of(connection, what)
            keys = [] if table is None else list(_keys(connection, table))
            deleted = 0
            for _ in range(MOST_DELETES):
                if table is None or not keys:
                    break
                with _transaction(connection):
                    deleted += _delete_some(connection, table, keys, before_ns)
            return deleted

    def tidy(self) -> None:
        """Nothing: SQLite uses the room of deleted rows again."""

    def _table_of(self, connection: sqlite3.Connection, series: Series | None) -> _Table | None:
        """Where the values stand; None if they were never made."""
        if series is None:
            return SAMPLES
        if self._version(connection) < 2:
            return None
        found = connection.execute(SELECT_SERIES, series).fetchone()
        return None if found is None else _Table("downsampled", (found[0],))

    def _reading(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """What `read` gives, of one state of the file."""
        if not self._file.is_file():
            raise NoStoreError(f"{self._file}: there is no such file")
        with self._translated():
            for _ in range(READ_ATTEMPTS):
                before = self._state()
                try:
                    with closing(self._connect_to_read(has_log=before.has_log)) as connection:
                        if self._version(connection) == 0:
                            raise FatalError(f"{self._file}: an empty database, without the tables of a store")
                        result = read(connection)
                except (sqlite3.DatabaseError, FatalError):
                    if before.has_log or before == self._state():
                        raise
                    continue  # read from a file that changed meanwhile
                if before.has_log or before == self._state():
                    return result
        raise RetryableError(f"{self._file}: another program began to write to it while it was read")

    def _state(self) -> _FileState:
        facts = self._file.stat()
        log = self._file.with_name(f"{self._file.name}-wal")
        return _FileState(log.exists(), facts.st_size, facts.st_mtime_ns)

    def _connect_to_read(self, *, has_log: bool) -> sqlite3.Connection:
        # Without a log nobody writes. SQLite would then make one, beside a file that may lie in a folder that is
        # read-only, unless it is told that the file will not change; whether that was so is checked afterwards.
        mode = "mode=ro" if has_log else "mode=ro&immutable=1"
        connection = sqlite3.connect(
            f"file:{quote(str(self._file.absolute()))}?{mode}",
            uri=True,
            timeout=self._config.busy_timeout,
            isolation_level=None,
        )
        connection.execute("BEGIN")  # all is read from one state of the store
        return connection

    def sync(self) -> None:
        if self._config.synchronous == "full":
            return
        with self._translated(), self._opened() as connection:
            # A commit that waits for the disk takes all commits before it along.
            connection.execute("PRAGMA synchronous=full")
            try:
                with _transaction(connection):
                    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            finally:
                connection.execute("PRAGMA synchronous=normal")

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if not hasattr(error, "sqlite_errorcode"):
                raise  # Python's own: a mistake of ours
            code = error.sqlite_errorcode & PRIMARY_CODE
            text = f"{self._file}: {error} ({error.sqlite_errorname})"
            if code in SICK:
                raise FatalError(text) from error
            if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                self.close()  # the disk may come back as another one
            raise RetryableError(text) from error


@dataclass
class _Limit:
    """How many values one reading may still give."""

    name: str
    most: int
    taken: int = 0

    def take(self, cursor: Iterator[tuple[int, float, int]]) -> NDArray[np.void]:
        """All rows. Raises WindowTooLargeError before they are too many."""
        rows = np.fromiter(islice(cursor, self.most + 1 - self.taken), dtype=VALUE_ROW)
        self.taken += len(rows)
        if self.taken > self.most:
            raise WindowTooLargeError(
                f"{self.name}: holds more than {self.most} values of that time; read a shorter one"
            )
        return rows


def _read_series(
    connection: sqlite3.Connection,
    table: _Table,
    ids: tuple[dict[str, int], dict[str, int]],
    window_ns: tuple[int, int],
    limit: _Limit,
) -> Iterator[Stored]:
    select = (
        f"SELECT time_ns, value, quality FROM {table.name} "  # noqa: S608 - ours
        f"WHERE {table.key} AND time_ns >= ? AND time_ns < ? ORDER BY time_ns"
    )
    for code, device_id in enumerate(ids[0].values()):
        for place, quantity_id in enumerate(ids[1].values()):
            try:
                rows = limit.take(connection.execute(select, (*table.prefix, device_id, quantity_id, *window_ns)))
            except (ValueError, TypeError, OverflowError) as error:
                raise FatalError(f"{limit.name}: damaged: a row of {table.name} holds no numbers: {error}") from error
            if len(rows):
                yield Stored(code, place, rows["time_ns"], rows["value"], rows["quality"])


def _ids(connection: sqlite3.Connection, table: str, names: Sequence[str] | None) -> dict[str, int]:
    """Names that are wanted, all unless told, with their ids; -1 for those that are not stored."""
    stored = {name: number for number, name in connection.execute(SELECT_NAMES[table])}
    return stored if names is None else {name: stored.get(name, -1) for name in names}


def _keys(connection: sqlite3.Connection, table: _Table) -> Iterator[tuple[int, ...]]:
    """The start of the key of each device and column."""
    quantity_ids = list(_ids(connection, "quantities", None).values())
    for device_id in _ids(connection, "devices", None).values():
        for quantity_id in quantity_ids:
            yield (*table.prefix, device_id, quantity_id)


def _delete_some(connection: sqlite3.Connection, table: _Table, keys: list[tuple[int, ...]], before_ns: int) -> int:
    """Delete old rows, about DELETE_ROWS of them, and take out of `keys` those that have none left; how many."""
    first = f"SELECT min(time_ns) FROM {table.name} WHERE {table.key}"  # noqa: S608 - ours
    delete = f"DELETE FROM {table.name} WHERE {table.key} AND time_ns < ?"  # noqa: S608 - ours
    deleted = 0
    while keys and deleted < DELETE_ROWS:
        (first_ns,) = connection.execute(first, keys[-1]).fetchone()
        if first_ns is None or first_ns >= before_ns:
            keys.pop()
            continue
        deleted += connection.execute(delete, (*keys[-1], min(first_ns + DELETE_NS, before_ns))).rowcount
    return deleted


def _interleaved(columns: Sequence[object], rows: int) -> list[object]:
    """Values of rows one after the other; a column is a list, or one value for all rows."""
    flat: list[object] = [None] * (rows * len(columns))
    for place, column in enumerate(columns):
        flat[place :: len(columns)] = column if isinstance(column, list) else [column] * rows
    return flat


def _execute_in_groups(
    connection: sqlite3.Connection, table: _Table, statement: str, flat: list[object], rows: int
) -> None:
    width = len(flat) // rows
    whole = rows // ROWS_AT_ONCE * ROWS_AT_ONCE
    for start in range(0, whole, ROWS_AT_ONCE):
        connection.execute(statement, flat[start * width : (start + ROWS_AT_ONCE) * width])
    if whole < rows:
        connection.execute(table.insert(rows - whole), flat[whole * width :])


def _listed(tables: Set[str]) -> str:
    return f"tables {', '.join(sorted(tables))}" if tables else "no tables"


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def open_store(config: SqliteConfig, context: Context) -> SqliteStore:
    return SqliteStore(config, context.resolve(config.path))


def probe(config: SqliteConfig, context: Context) -> Probe:
    check_folder(context.resolve(config.path))
    return probe_store(open_store(config, context))


NODE = ConnectionNode(kind="sqlite", config=SqliteConfig, family="store", open=open_store, probe=probe, where=("path",))
