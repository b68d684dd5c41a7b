"""`sqlite`: a history in one file, by SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_connectors.folders import make_folder_for, path_refusals
from edgeflex_connectors.store import StoredMessage
from edgeflex_flow.errors import FatalError, FieldError, RetryableError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import ConnectionNode, Context, NodeConfig, quantity
from edgeflex_flow.node import path as file_path

SCHEMA_VERSION = 1
APPLICATION_ID = int.from_bytes(b"EFlx", "big")
"""Marks the file as ours, for this program and for `file`; see PRAGMA application_id."""
TABLES = frozenset({"devices", "quantities", "samples", "messages"})
SCHEMA = """
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
"""

INSERT_SAMPLE = "INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?)"
INSERT_MESSAGE = "INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?)"
INSERT_NAME = {
    "devices": "INSERT OR IGNORE INTO devices (name) VALUES (?)",
    "quantities": "INSERT OR IGNORE INTO quantities (name) VALUES (?)",
}
SELECT_ID = {
    "devices": "SELECT id FROM devices WHERE name = ?",
    "quantities": "SELECT id FROM quantities WHERE name = ?",
}

CACHE_KIB = 16_384
"""Room for the last page of each series of 1,000 devices with 4 columns."""
CHECKPOINT_PAGES = 4_000
"""Pages that the log gathers before they go to the file: the same page is then written once for several commits."""

CHUNK_ROWS = 10_000

SICK = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR})
"""Errors of the file's content: no database, damaged, tables that are not ours. All others (full, locked, read-only,
input/output) are the world's, which may come right."""
PRIMARY_CODE = 0xFF


class SqliteConfig(NodeConfig, frozen=True, kw_only=True):
    """A history in one SQLite file, readable while it is written (write-ahead log).

    Tables: `samples` (device_id, quantity_id, time_ns, value, quality) with one row for each value, its names in
    `devices` and `quantities` (columns such as `frequency_hz`); `messages` (type, id, time_ns, device, body as JSON).
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

    path: Annotated[str, file_path("The database file; made, with its folder, if it does not exist.")]
    synchronous: Annotated[
        Literal["normal", "full"], Meta(description="Whether each commit waits for the disk (full) or not (normal).")
    ] = "normal"
    busy_timeout: Annotated[
        float, quantity("s", "How long to wait for another program that writes to the file.", ge=0, le=60)
    ] = 2.0

    def refusals(self) -> Iterator[FieldError]:
        yield from path_refusals(self.path)


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
        self._is_new(connection)  # before anything is written: write-ahead mode would change another program's file
        if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise FatalError(f"{self._file}: this file system cannot hold a write-ahead log (a network drive?)")
        connection.execute(f"PRAGMA synchronous={self._config.synchronous}")
        connection.execute(f"PRAGMA cache_size={-CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        with _transaction(connection):
            if self._is_new(connection):
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        """Whether the file is empty; only reads. FatalError if it is neither empty nor ours."""
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if version == 0 and owner == 0 and not tables:
            return True
        if owner != APPLICATION_ID:
            raise FatalError(
                f"{self._file}: belongs to another program: its application_id is {owner}, ours {APPLICATION_ID}; "
                f"it holds {_listed(tables)}"
            )
        if version > SCHEMA_VERSION:
            raise FatalError(
                f"{self._file}: written by a newer version of this program: its schema is {version}, "
                f"known: up to {SCHEMA_VERSION}"
            )
        if version != SCHEMA_VERSION or not tables >= TABLES:
            raise FatalError(
                f"{self._file}: damaged: its schema is {version} with {_listed(tables)}, "
                f"expected {SCHEMA_VERSION} with {_listed(TABLES)}"
            )
        return False

    def write(self, samples: Sequence[Samples], messages: Sequence[StoredMessage]) -> None:
        if self._connection is None:
            self.open()
        connection = self._connection
        assert connection is not None
        with self._translated():
            try:
                with _transaction(connection):
                    if samples:
                        connection.executemany(INSERT_SAMPLE, self._rows(connection, samples))
                    connection.executemany(
                        INSERT_MESSAGE, [(m.type, m.id, m.time_ns, m.device, m.body.decode()) for m in messages]
                    )
            except BaseException:
                # Ids given in the transaction went with it.
                self._ids = {"devices": {}, "quantities": {}}
                raise

    def _rows(self, connection: sqlite3.Connection, batches: Sequence[Samples]) -> Iterator[tuple[object, ...]]:
        """Rows of all batches in the order of the table's key; of equal keys the later stays later, so it wins."""
        pieces: list[tuple[NDArray[Any], ...]] = []
        for batch in batches:
            device_ids = self._lookup(connection, "devices", batch.devices)[batch.device]
            quantity_ids = self._lookup(connection, "quantities", tuple(batch.columns))
            for quantity_id, values in zip(quantity_ids, batch.columns.values(), strict=True):
                # SQLite would store NaN as NULL, in place of a value that another batch gave.
                kept = np.flatnonzero(~np.isnan(values))
                owner = np.full(len(kept), quantity_id)
                pieces.append((device_ids[kept], owner, batch.time_ns[kept], values[kept], batch.quality[kept]))
        if not pieces:
            return iter(())
        columns = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        return _in_chunks(columns, np.lexsort((columns[2], columns[1], columns[0])))

    def _lookup(self, connection: sqlite3.Connection, table: str, names: Sequence[str]) -> NDArray[np.int64]:
        """The id of each name, shape (len(names),)."""
        ids = self._ids[table]
        for name in names:
            if name not in ids:
                connection.execute(INSERT_NAME[table], (name,))
                ids[name] = connection.execute(SELECT_ID[table], (name,)).fetchone()[0]
        return np.array([ids[name] for name in names], dtype=np.int64)

    def sync(self) -> None:
        if self._connection is None:
            self.open()
        connection = self._connection
        assert connection is not None
        if self._config.synchronous == "full":
            return
        with self._translated():
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


def _in_chunks(columns: Sequence[NDArray[Any]], order: NDArray[np.intp]) -> Iterator[tuple[object, ...]]:
    """Rows of the columns in this order, made Python objects piece by piece: they take ten times the room of arrays."""
    for start in range(0, len(order), CHUNK_ROWS):
        chunk = order[start : start + CHUNK_ROWS]
        yield from zip(*(column[chunk].tolist() for column in columns), strict=True)


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


NODE = ConnectionNode(kind="sqlite", config=SqliteConfig, family="store", open=open_store)
