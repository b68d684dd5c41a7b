"""`sqlite`: a history in one file, by SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence, Set
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote

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

SELECT_NAMES = {"devices": "SELECT id, name FROM devices", "quantities": "SELECT id, name FROM quantities"}
SELECT_VALUES = """
SELECT time_ns, value, quality FROM samples
WHERE device_id = ? AND quantity_id = ? AND time_ns >= ? AND time_ns < ? ORDER BY time_ns
"""
ALWAYS_NS = -(2**63), 2**63 - 1
MOST_VALUES = 60_000_000
"""Bound on the values of one reading, some 2 GB while they are read."""
READ_ATTEMPTS = 3

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

    def read(
        self,
        columns: Sequence[str] | None = None,
        begin_ns: int = ALWAYS_NS[0],
        end_ns: int = ALWAYS_NS[1],
        devices: Sequence[str] | None = None,
    ) -> Samples:
        """What is stored of the time begin_ns <= t < end_ns, in order of time and device, bit for bit.

        All columns and devices unless they are named; a column that is not stored is NaN. Only -0.0 comes back as 0.0,
        as SQLite keeps it. Flags of one device and time are joined. Neither makes nor changes a file, and may go on
        while another process writes: it sees what was committed when it began.

        Raises FatalError for a file that is missing, is not ours or holds more than MOST_VALUES in that time, and
        RetryableError when it cannot be read for now.
        """
        if not self._file.is_file():
            raise FatalError(f"{self._file}: there is no such file")
        with self._translated():
            for _ in range(READ_ATTEMPTS):
                before = self._state()
                try:
                    with closing(self._connect_to_read(has_log=before.has_log)) as connection:
                        if self._is_new(connection):
                            raise FatalError(f"{self._file}: an empty database, without the tables of a store")
                        samples = _read_window(connection, self._file, columns, (begin_ns, end_ns), devices)
                except (sqlite3.DatabaseError, FatalError):
                    if before.has_log or before == self._state():
                        raise
                    continue  # read from a file that changed meanwhile
                if before.has_log or before == self._state():
                    return samples
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


def _read_window(
    connection: sqlite3.Connection,
    file: Path,
    columns: Sequence[str] | None,
    window_ns: tuple[int, int],
    devices: Sequence[str] | None,
) -> Samples:
    device_ids, quantity_ids = _ids_of(connection, "devices", devices), _ids_of(connection, "quantities", columns)
    series: list[_Series] = []
    values = 0
    for code, device_id in enumerate(device_ids.values()):
        for place, quantity_id in enumerate(quantity_ids.values()):
            found = connection.execute(SELECT_VALUES, (device_id, quantity_id, *window_ns)).fetchmany(
                MOST_VALUES + 1 - values
            )
            values += len(found)
            if values > MOST_VALUES:
                raise FatalError(f"{file}: holds more than {MOST_VALUES} values of that time; read a shorter one")
            if found:
                try:
                    series.append(_series(code, place, found))
                except (ValueError, TypeError, OverflowError) as error:
                    raise FatalError(f"{file}: damaged: a row of samples holds no numbers: {error}") from error
    return _table(series, tuple(quantity_ids), tuple(device_ids))


def _ids_of(connection: sqlite3.Connection, table: str, names: Sequence[str] | None) -> dict[str, int]:
    """Names that are wanted, all unless told, with their ids; -1 for those that are not stored."""
    stored = {name: number for number, name in connection.execute(SELECT_NAMES[table])}
    return stored if names is None else {name: stored.get(name, -1) for name in names}


class _Series(NamedTuple):
    """Values of one device and column, each array of shape (n,)."""

    code: int
    place: int
    time_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    quality: NDArray[np.uint16]


def _series(code: int, place: int, rows: Sequence[tuple[int, float, int]]) -> _Series:
    times, values, flags = zip(*rows, strict=True)
    return _Series(
        code,
        place,
        np.array(times, dtype=np.int64),
        np.array(values, dtype=np.float64),
        np.array(flags, dtype=np.uint16),
    )


def _table(series: Sequence[_Series], columns: Sequence[str], devices: tuple[str, ...]) -> Samples:
    """One row for each device and time of the series."""
    keys = np.concatenate(
        [np.stack([each.time_ns, np.full(len(each.time_ns), each.code, dtype=np.int64)], axis=1) for each in series]
        or [np.empty((0, 2), dtype=np.int64)]
    )
    unique, row_of = np.unique(keys, axis=0, return_inverse=True)
    table = np.full((len(columns), len(unique)), np.nan)
    quality = np.zeros(len(unique), dtype=np.uint16)
    done = 0
    for each in series:
        rows = row_of.reshape(-1)[done : done + len(each.values)]
        table[each.place, rows] = each.values
        quality[rows] |= each.quality
        done += len(each.values)
    return Samples(
        time_ns=np.ascontiguousarray(unique[:, 0]),
        device=unique[:, 1].astype(np.int32),
        devices=devices,
        columns=dict(zip(columns, table, strict=True)),
        quality=quality,
        received_ns=0,
    )


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
