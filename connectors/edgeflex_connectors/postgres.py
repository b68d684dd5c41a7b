"""`postgres`: a history in PostgreSQL."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, LiteralString, NamedTuple, TypeVar
from urllib.parse import SplitResult, unquote

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_connectors.store import (
    EARLIEST_NS,
    HOUR_NS,
    LATEST_NS,
    MOST_VALUES,
    NewerStoreError,
    NoStoreError,
    NotStorable,
    Refused,
    Series,
    Span,
    StoreConfig,
    StoredMessage,
    WindowTooLargeError,
    probe_store,
)
from edgeflex_connectors.store_rows import Values, rows_without, table_of_rows, values_of
from edgeflex_connectors.urls import split_url
from edgeflex_flow.errors import FatalError, FieldError, RetryableError, how_to_install
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import ConnectionNode, Context, Probe, login, path, quantity
from edgeflex_flow.node import url as url_of

if TYPE_CHECKING:
    import psycopg
    from psycopg import Connection, Cursor
    from psycopg.sql import Identifier

T = TypeVar("T")

MIGRATIONS: tuple[LiteralString, ...] = (
    """
    CREATE TABLE devices (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);
    CREATE TABLE quantities (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);
    CREATE TABLE samples (
        device_id integer NOT NULL,
        quantity_id integer NOT NULL,
        time_ns bigint NOT NULL,
        value double precision NOT NULL,
        quality integer NOT NULL,
        PRIMARY KEY (device_id, quantity_id, time_ns)
    );
    CREATE TABLE messages (
        type text NOT NULL, id text NOT NULL, time_ns bigint, device text, body json NOT NULL,
        PRIMARY KEY (type, id)
    );
    CREATE INDEX messages_by_time ON messages (time_ns);
    CREATE TABLE series (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        every_ns bigint NOT NULL, how text NOT NULL, until_ns bigint NOT NULL,
        UNIQUE (every_ns, how)
    );
    CREATE TABLE downsampled (
        series_id integer NOT NULL,
        device_id integer NOT NULL,
        quantity_id integer NOT NULL,
        time_ns bigint NOT NULL,
        value double precision NOT NULL,
        quality integer NOT NULL,
        PRIMARY KEY (series_id, device_id, quantity_id, time_ns)
    );
    CREATE VIEW readings AS
        SELECT to_timestamp(time_ns / 1e9) AS time, devices.name AS device, quantities.name AS quantity, value, quality
        FROM samples JOIN devices ON devices.id = device_id JOIN quantities ON quantities.id = quantity_id;
    DO $$ DECLARE place text; BEGIN
        SELECT nspname INTO place FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
        WHERE extname = 'timescaledb';
        IF place IS NOT NULL THEN
            EXECUTE format(
                'SELECT %I.create_hypertable(%L, %L, chunk_time_interval => 86400000000000)',
                place, 'samples', 'time_ns'
            );
        END IF;
    END $$;
    """,
    """
    CREATE VIEW downsampled_readings AS
        SELECT
            to_timestamp(time_ns / 1e9) AS time, devices.name AS device, quantities.name AS quantity,
            (every_ns / 1e9)::double precision AS every_s, how, value, quality
        FROM downsampled JOIN series ON series.id = series_id
        JOIN devices ON devices.id = device_id JOIN quantities ON quantities.id = quantity_id;
    """,
)
"""The statements that make version n + 1 of version n; version 0 is a schema without a store."""
SCHEMA_VERSION = len(MIGRATIONS)
LOCK = int.from_bytes(b"EFlx", "big")
"""Taken while a schema is made or brought up to date: only one program does it."""

UPSERTS = 10
"""Batches that are written row by row after one held a row that was there: the next ones may as well."""

MOST_DELETED = 1_000_000
"""About as many rows are deleted in one call of `delete`; the next call goes on."""

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
DEFAULT_PORT = 5432

REFUSED = 0
"""In place of the id of a name that the server does not take; ids begin at 1."""
CONTENT_CLASSES = ("22", "54")
"""Of SQLSTATE: data exceptions (a letter that the database's encoding lacks), limits exceeded (a key too long)."""

REFUSALS = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "certificate",
    "does not support SSL",
)
"""What servers and libpq say when another attempt would end as this one."""


class PostgresConfig(StoreConfig, frozen=True, kw_only=True):
    """A history in PostgreSQL 13 or newer; in TimescaleDB where its extension is installed in the database.

    Everything stands in one schema, which is made if it does not exist: `samples` (device_id, quantity_id, time_ns,
    value, quality) with one row for each value, its names in `devices` and `quantities`; `messages` (type, id, time_ns,
    device, body as JSON); `downsampled` as `samples`, with what each rule in `series` made of them; for people, the
    views `readings` and `downsampled_readings` of these two with names and timestamps. Where the extension TimescaleDB
    is installed when the schema is made, `samples` is a hypertable of daily chunks. A schema of an older version is
    brought up to the present one when it is first written to; the user needs the right to make views in it.

    A missing value (NaN) makes no row and leaves a value that is stored already as it is. Writing the same device,
    time and column again replaces the row. Each commit is on the server's disk, whatever its `synchronous_commit` says.

    Input:
        None: nodes name the connection in their field `store`.

    Output:
        None. Counts `not_storable`: messages, and values of devices and columns, that the server refuses, such as for a
        letter that the database's encoding lacks.

    Errors:
        A server that is away, is starting, has no room or ends the connection is tried again. FatalError: user,
        password, certificate or database refused, a right that the user lacks, a schema of a newer version, or one
        that holds other tables of these names. NUL, which PostgreSQL cannot hold, stands as ␀ in names.

    Source:
        https://www.postgresql.org/docs/current/sql-copy.html

    >>> PostgresConfig(url="postgresql://db.example/grid", username="flow", password="secret")
    PostgresConfig(url='postgresql://db.example/grid', username='flow')
    """

    url: Annotated[
        str,
        url_of(
            "postgresql://host:port/database; port 5432 if none is given.",
            {"postgresql": DEFAULT_PORT},
            example="postgresql://127.0.0.1:5432/grid",
        ),
    ]
    username: Annotated[str | None, login("user", "User name for the server.")] = None
    password: Annotated[str | None, login("password", "Password of the user.")] = None
    schema: Annotated[
        str, Meta(pattern=r"^[a-z_][a-z0-9_]{0,62}$", description="Schema that holds the store's tables.")
    ] = "edgeflex"
    tls: Annotated[
        Literal["verify", "require", "off"],
        Meta(description="verify: encrypted, and the server's certificate checked; require: encrypted; off: in clear."),
    ] = "verify"
    ca: Annotated[str | None, path("Certificates of the authorities to trust, PEM; the system's if not given.")] = None
    certificate: Annotated[str | None, path("Certificate by which this client shows who it is, PEM.")] = None
    key: Annotated[str | None, path("Private key, without passphrase, of `certificate`, PEM.")] = None
    connect_timeout: Annotated[float, quantity("s", "How long an attempt to connect may take.", ge=2, le=60)] = 5
    answer_timeout: Annotated[
        float, quantity("s", "How long the server may take for one statement, or be silent.", ge=1, le=3600)
    ] = 30

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        try:
            _split(self.url)
        except ValueError as error:
            yield FieldError(str(error), "url")
        if (self.certificate is None) != (self.key is None):
            yield FieldError("`certificate` and `key` must be given together", "certificate", "key")
        if self.password is not None and self.username is None:
            yield FieldError("`password` needs a `username`", "password", "username")
        given = [name for name in ("ca", "certificate", "key") if getattr(self, name)]
        if self.tls == "off" and given:
            yield FieldError("`ca`, `certificate` and `key` need `tls`", *given, "tls")
        if self.tls == "require" and self.ca is not None:
            yield FieldError("`ca` is there to verify: it needs `tls: verify`", "ca", "tls")

    def __repr__(self) -> str:
        """Only what tells the connection; never the password."""
        user = "" if self.username is None else f", username={self.username!r}"
        return f"PostgresConfig(url={self.url!r}{user})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("url", self.url), ("username", self.username)]


def _split(url: str) -> SplitResult:
    return split_url(url, {"postgresql", "postgres"}, "postgresql://", ends_with_database=True)


def _row_type(fields: Sequence[tuple[str, str]]) -> np.dtype[Any]:
    """Rows of PostgreSQL's binary COPY: the count of fields, then each field after its length."""
    layout: list[tuple[str, str]] = [("fields", ">i2")]
    for name, kind in fields:
        layout += [(f"{name}_length", ">i4"), (name, kind)]
    return np.dtype(layout)


SAMPLE_FIELDS = (
    ("device", ">i4"),
    ("quantity", ">i4"),
    ("time_ns", ">i8"),
    ("value", ">f8"),
    ("quality", ">i4"),
)
SAMPLE_ROW = _row_type(SAMPLE_FIELDS)
DOWNSAMPLED_FIELDS = (("series", ">i4"), *SAMPLE_FIELDS)
DOWNSAMPLED_ROW = _row_type(DOWNSAMPLED_FIELDS)


def _empty_rows(count: int, fields: Sequence[tuple[str, str]], row: np.dtype[Any]) -> NDArray[np.void]:
    rows = np.empty(count, dtype=row)
    rows["fields"] = len(fields)
    for name, kind in fields:
        rows[f"{name}_length"] = int(kind[2:])
    return rows


class _Table(NamedTuple):
    """A table with values, and the condition that its rows belong to what is meant."""

    name: LiteralString
    condition: LiteralString
    values: list[int]


class PostgresStore:
    """The store in a schema of a server. Used by one thread at a time; connects again after a failure."""

    def __init__(self, config: PostgresConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._psycopg = _driver()
        self._connection: Connection | None = None
        self._is_open = False
        self._upserts = 0
        self._ids: dict[LiteralString, dict[str, int]] = {"devices": {}, "quantities": {}}
        self._name = f"{config.url} schema {config.schema}"
        self._not_storable = NotStorable(self._name, context)

    def open(self) -> None:
        if self._is_open:
            return
        with self._transaction() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            version = self._version(cursor)
            if version == 0:
                # Only what is missing: the right to use a schema does not hold the right to make one.
                found = cursor.execute("SELECT FROM pg_namespace WHERE nspname = %s", [self._config.schema]).fetchone()
                if found is None:
                    cursor.execute(self._psycopg.sql.SQL("CREATE SCHEMA {}").format(self._schema))
                cursor.execute("CREATE TABLE store_version (version integer NOT NULL)")
                cursor.execute("INSERT INTO store_version VALUES (0)")
            for migration in MIGRATIONS[version:]:
                cursor.execute(migration)
            if version < SCHEMA_VERSION:
                cursor.execute("UPDATE store_version SET version = %s", [SCHEMA_VERSION])
        self._is_open = True

    @property
    def _schema(self) -> Identifier:
        identifier: Identifier = self._psycopg.sql.Identifier(self._config.schema)
        return identifier

    def _version(self, cursor: Cursor) -> int:
        """Version of the store's schema, 0 if there is none."""
        [(table,)] = cursor.execute(
            "SELECT to_regclass(format('%%I.store_version', %s::text))", [self._config.schema]
        ).fetchall()
        if table is None:
            return 0
        [(version,)] = cursor.execute("SELECT version FROM store_version").fetchall()
        if version > SCHEMA_VERSION:
            raise NewerStoreError(self._name, version, SCHEMA_VERSION)
        return int(version)

    def write(self, samples: Sequence[Samples], messages: Sequence[StoredMessage]) -> Refused:
        self.open()
        refused = Refused()
        with self._transaction() as cursor:
            rows = self._rows(cursor, samples, SAMPLE_FIELDS, SAMPLE_ROW, refused)
            self._put(cursor, "samples", rows)
            taken = self._taken(cursor, messages, self._insert_messages, refused)
            refused.messages = len(messages) - len(taken)
        self._not_storable.tell(refused)
        return refused

    def _insert_messages(self, cursor: Cursor, messages: Sequence[StoredMessage]) -> None:
        cursor.executemany(
            """
            INSERT INTO messages VALUES (%s, %s, %s, %s, %s) ON CONFLICT (type, id) DO UPDATE
            SET time_ns = excluded.time_ns, device = excluded.device, body = excluded.body
            """,
            [
                (m.type, _without_nul(m.id), m.time_ns, m.device and _without_nul(m.device), m.body.decode())
                for m in messages
            ],
        )

    def _taken(
        self, cursor: Cursor, items: Sequence[T], put: Callable[[Cursor, Sequence[T]], None], refused: Refused
    ) -> Sequence[T]:
        """Put items in; those that the server took. It refuses all for the sake of one: they are put in halves then."""
        if not items:
            return items
        try:
            with cursor.connection.transaction():
                put(cursor, items)
        except self._psycopg.Error as error:
            if not _is_of_content(error):
                raise
            if len(items) == 1:
                refused.reasons.append((1, _one_line(error)))
                return ()
            middle = len(items) // 2
            return [
                *self._taken(cursor, items[:middle], put, refused),
                *self._taken(cursor, items[middle:], put, refused),
            ]
        return items

    def write_series(self, series: Series, values: Sequence[Samples], until_ns: int) -> None:
        self.open()
        refused = Refused()
        with self._transaction() as cursor:
            [(number,)] = cursor.execute(
                """
                INSERT INTO series (every_ns, how, until_ns) VALUES (%s, %s, %s) ON CONFLICT (every_ns, how) DO UPDATE
                SET until_ns = greatest(series.until_ns, excluded.until_ns) RETURNING id
                """,
                [*series, until_ns],
            ).fetchall()
            rows = self._rows(cursor, values, DOWNSAMPLED_FIELDS, DOWNSAMPLED_ROW, refused)
            rows["series"] = number
            self._put(cursor, "downsampled", rows)
        self._not_storable.tell(refused)

    def _rows(
        self,
        cursor: Cursor,
        batches: Sequence[Samples],
        fields: Sequence[tuple[str, str]],
        row: np.dtype[Any],
        refused: Refused,
    ) -> NDArray[np.void]:
        """Rows as they go over the wire, those of one column and device together, each key once."""
        devices, columns = values_of(batches)
        device_ids = self._lookup(cursor, "devices", devices, refused)
        quantity_ids = self._lookup(cursor, "quantities", [values.column for values in columns], refused)
        if REFUSED in device_ids or REFUSED in quantity_ids:
            columns, quantity_ids = _named(columns, device_ids, quantity_ids, refused)
        rows = _empty_rows(sum(len(values.value) for values in columns), fields, row)
        start = 0
        for quantity_id, values in zip(quantity_ids, columns, strict=True):
            part = rows[start : start + len(values.value)]
            part["device"] = device_ids[values.device]
            part["quantity"] = quantity_id
            part["time_ns"], part["value"], part["quality"] = values.time_ns, values.value, values.quality
            start += len(values.value)
        if _has_same(device_ids) or _has_same(quantity_ids):
            rows = _last_of_each(rows, np.concatenate([values.row for values in columns]))
        return rows

    def _lookup(
        self, cursor: Cursor, table: LiteralString, names: Sequence[str], refused: Refused
    ) -> NDArray[np.int64]:
        """The id of each name, REFUSED for those that the server does not take, shape (len(names),)."""

        def insert(cursor: Cursor, names: Sequence[str]) -> None:
            insert_names = f"INSERT INTO {table} (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING"
            cursor.execute(insert_names, [names])

        ids = self._ids[table]
        clean = [_without_nul(name) for name in names]
        new = sorted({name for name in clean if name not in ids})
        if new:
            taken = self._taken(cursor, new, insert, refused)
            ids.update(dict.fromkeys(new, REFUSED))
            found = cursor.execute(f"SELECT name, id FROM {table} WHERE name = ANY(%s)", [[*taken]]).fetchall()  # noqa: S608
            ids.update((name, number) for name, number in found)
        return np.array([ids[name] for name in clean], dtype=np.int64)

    def _put(self, cursor: Cursor, table: LiteralString, rows: NDArray[np.void]) -> None:
        """Insert new rows straight; where one is there already, all by way of a table beside it."""
        if not len(rows):
            return
        if self._upserts == 0:
            try:
                with cursor.connection.transaction():
                    self._copy(cursor, table, rows)
                return
            except self._psycopg.errors.UniqueViolation:
                self._upserts = UPSERTS
        self._upserts -= 1
        cursor.execute(f"CREATE TEMPORARY TABLE incoming (LIKE {table}) ON COMMIT DROP")
        self._copy(cursor, "incoming", rows)
        key = "series_id, " if table == "downsampled" else ""
        cursor.execute(
            f"INSERT INTO {table} SELECT * FROM incoming ON CONFLICT ({key}device_id, quantity_id, time_ns) "  # noqa: S608
            "DO UPDATE SET value = excluded.value, quality = excluded.quality"
        )

    def _copy(self, cursor: Cursor, table: LiteralString, rows: NDArray[np.void]) -> None:
        with cursor.copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
            copy.write(HEADER)
            copy.write(rows.tobytes())
            copy.write(TRAILER)

    def sync(self) -> None:
        """Nothing: a commit that has returned is durable."""

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
        """See `Store`. FatalError for a schema that holds no store."""
        with self._reading() as cursor:
            device_ids, quantity_ids = _ids(cursor, "devices", devices), _ids(cursor, "quantities", columns)
            table = self._table_of(cursor, series)
            found = self._copied(
                cursor,
                f"""
                SELECT device_id, quantity_id, time_ns, value, quality FROM {table.name}
                WHERE {table.condition} AND device_id = ANY(%s) AND quantity_id = ANY(%s)
                AND time_ns >= %s AND time_ns < %s
                ORDER BY device_id, quantity_id, time_ns LIMIT %s
                """,  # noqa: S608 - ours
                [*table.values, [*device_ids.values()], [*quantity_ids.values()], begin_ns, end_ns, most_values + 1],
            )
        if len(found) > most_values:
            text = f"{self._name}: holds more than {most_values} values of that time; read a shorter one"
            raise WindowTooLargeError(text)
        return table_of_rows(
            _codes(found["device"], device_ids),
            _codes(found["quantity"], quantity_ids),
            found["time_ns"].astype(np.int64),
            found["value"].astype(np.float64),
            found["quality"].astype(np.uint16),
            tuple(quantity_ids),
            tuple(device_ids),
        )

    def _copied(self, cursor: Cursor, query: LiteralString, values: Sequence[Any]) -> NDArray[np.void]:
        """All rows of a query that gives the fields of `samples`."""
        with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)", values) as copy:
            content = b"".join(bytes(part) for part in copy)
        return np.frombuffer(content[len(HEADER) : -len(TRAILER)], dtype=SAMPLE_ROW)

    def _table_of(self, cursor: Cursor, series: Series | None) -> _Table:
        if series is None:
            return _Table("samples", "TRUE", [])
        found = cursor.execute("SELECT id FROM series WHERE every_ns = %s AND how = %s", series).fetchone()
        return _Table("downsampled", "series_id = %s", [-1 if found is None else found[0]])

    def read_messages(self, types: Sequence[str], begin_ns: int, end_ns: int) -> list[StoredMessage]:
        with self._reading() as cursor:
            found = cursor.execute(
                """
                SELECT type, id, time_ns, device, body::text FROM messages
                WHERE type = ANY(%s) AND time_ns >= %s AND time_ns < %s ORDER BY time_ns, type, id
                """,
                [list(types), begin_ns, end_ns],
            ).fetchall()
        return [
            StoredMessage(type=kind, id=key, time_ns=time_ns, device=device, body=body.encode())
            for kind, key, time_ns, device, body in found
        ]

    def span(
        self, begin_ns: int = EARLIEST_NS, end_ns: int = LATEST_NS, *, series: Series | None = None
    ) -> Span | None:
        with self._reading() as cursor:
            table = self._table_of(cursor, series)
            # The first and last row of each device and column by the index: no other way needs so few pages.
            where: LiteralString = f"""
                FROM {table.name} WHERE {table.condition} AND device_id = devices.id AND quantity_id = quantities.id
                AND time_ns >= %s AND time_ns < %s
            """
            [(first_ns, last_ns)] = cursor.execute(
                f"SELECT min((SELECT min(time_ns) {where})), max((SELECT max(time_ns) {where})) "  # noqa: S608 - ours
                "FROM devices CROSS JOIN quantities",
                2 * [*table.values, begin_ns, end_ns],
            ).fetchall()
        return None if first_ns is None else Span(first_ns, last_ns)

    def last_message_ns(self, end_ns: int = LATEST_NS) -> int | None:
        with self._reading() as cursor:
            newest = "SELECT max(time_ns) FROM messages WHERE time_ns < %s"
            [(found,)] = cursor.execute(newest, [end_ns]).fetchall()
        return None if found is None else int(found)

    def made_until(self, series: Series) -> int | None:
        self.open()
        with self._transaction() as cursor:
            found = cursor.execute("SELECT until_ns FROM series WHERE every_ns = %s AND how = %s", series).fetchone()
        return None if found is None else int(found[0])

    def delete(self, what: Series | Literal["samples", "messages"], before_ns: int) -> int:
        self.open()
        if what == "messages":
            with self._transaction() as cursor:
                return cursor.execute("DELETE FROM messages WHERE time_ns < %s", [before_ns]).rowcount
        with self._reading() as cursor:
            devices, quantities = (list(_ids(cursor, table, None).values()) for table in ("devices", "quantities"))
        deleted = 0
        for device in devices:
            while deleted < MOST_DELETED:
                with self._transaction() as cursor:  # short ones: nobody waits long for them
                    table = self._table_of(cursor, None if what == "samples" else what)
                    rows = self._delete_some(cursor, table, device, quantities, before_ns)
                if rows == 0:
                    break
                deleted += rows
        return deleted

    def _delete_some(self, cursor: Cursor, table: _Table, device: int, quantities: list[int], before_ns: int) -> int:
        """Delete the first hour of a device's old rows; how many."""
        [(first_ns,)] = cursor.execute(
            f"SELECT min((SELECT min(time_ns) FROM {table.name} "  # noqa: S608 - ours
            f"WHERE {table.condition} AND device_id = %s AND quantity_id = id)) FROM quantities",
            [*table.values, device],
        ).fetchall()
        if first_ns is None or first_ns >= before_ns:
            return 0
        return cursor.execute(
            f"DELETE FROM {table.name} WHERE {table.condition} "  # noqa: S608 - ours
            "AND device_id = %s AND quantity_id = ANY(%s) AND time_ns < %s",
            [*table.values, device, quantities, min(first_ns + HOUR_NS, before_ns)],
        ).rowcount

    def tidy(self) -> None:
        """Nothing: the server's autovacuum does it."""

    @contextmanager
    def _reading(self) -> Iterator[Cursor]:
        """A transaction in a schema that is known to hold a store."""
        with self._transaction() as cursor:
            if not self._is_open and self._version(cursor) == 0:
                raise NoStoreError(f"{self._name}: there is no store in it")
            yield cursor

    @contextmanager
    def _transaction(self) -> Iterator[Cursor]:
        try:
            if self._connection is None:
                self._connection = self._connect()
            with self._connection.transaction(), self._connection.cursor() as cursor:
                yield cursor
        except self._psycopg.Error as error:
            # Ids given in the transaction went with it.
            self._ids = {"devices": {}, "quantities": {}}
            raise self._problem(error) from error

    def _connect(self) -> Connection:
        config = self._config
        split = _split(config.url)

        def file(text: str | None) -> str | None:
            return None if text is None else str(self._context.resolve(text))

        settings: dict[str, Any] = {
            "host": split.hostname,
            "port": split.port or DEFAULT_PORT,
            "dbname": unquote(split.path[1:]),
            "user": config.username,
            "password": config.password,
            "sslmode": {"verify": "verify-full", "require": "require", "off": "disable"}[config.tls],
            "sslrootcert": file(config.ca) or ("system" if config.tls == "verify" else None),
            "sslcert": file(config.certificate),
            "sslkey": file(config.key),
            "connect_timeout": round(config.connect_timeout),
            "tcp_user_timeout": round(1000 * config.answer_timeout),
            "client_encoding": "utf8",
            "application_name": "-".join(("edgeflex", self._context.site, self._context.flow, self._context.node)),
        }
        connection: Connection = self._psycopg.connect(
            **{name: value for name, value in settings.items() if value is not None}, autocommit=True
        )
        timeout_ms = round(1000 * config.answer_timeout)
        connection.execute("SELECT set_config('search_path', %s, false)", [config.schema])
        connection.execute("SELECT set_config('statement_timeout', %s, false)", [str(timeout_ms)])
        # Whatever the server's default: what is committed is on its disk, since a source may be told so.
        connection.execute("SELECT set_config('synchronous_commit', 'on', false)")
        return connection

    def _problem(self, error: psycopg.Error) -> FatalError | RetryableError:
        """What an error of the driver means. A connection that may be broken is closed."""
        text = f"{self._name}: {_one_line(error)}"
        driver = self._psycopg
        if isinstance(error, driver.OperationalError | driver.InterfaceError) and not _is_of_content(error):
            self.close()
            refused = error.sqlstate is None and any(reason in str(error) for reason in REFUSALS)
            return FatalError(text) if refused else RetryableError(text)
        if isinstance(error, driver.errors.ReadOnlySqlTransaction | driver.errors.QueryCanceled):
            self.close()  # another server may have taken over
            return RetryableError(text)
        return FatalError(text)

    def close(self) -> None:
        self._is_open = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _driver() -> Any:
    """psycopg, which only those need who name such a connection."""
    try:
        return importlib.import_module("psycopg")
    except ImportError as error:
        raise FatalError(f"postgres needs psycopg: {how_to_install('postgres')}") from error


def _one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())


def _is_of_content(error: psycopg.Error) -> bool:
    """Whether what was written is at fault, so that it would be refused again."""
    return (error.sqlstate or "")[:2] in CONTENT_CLASSES


def _without_nul(name: str) -> str:
    return name.replace("\0", "\N{SYMBOL FOR NULL}")


def _named(
    columns: Sequence[Values], device_ids: NDArray[np.int64], quantity_ids: NDArray[np.int64], refused: Refused
) -> tuple[list[Values], NDArray[np.int64]]:
    """The values of devices and columns whose names the server took, and the ids of these columns."""
    named = [
        np.full(len(values.device), quantity_id != REFUSED) & (device_ids[values.device] != REFUSED)
        for quantity_id, values in zip(quantity_ids, columns, strict=True)
    ]
    kept = [values.only(each) for values, each in zip(columns, named, strict=True)]
    lost = [values.only(~each) for values, each in zip(columns, named, strict=True)]
    refused.add_values(sum(len(values.row) for values in lost), "values of a device or column whose name was refused")
    refused.rows = rows_without(lost, kept)
    return kept, quantity_ids


def _has_same(ids: NDArray[np.int64]) -> bool:
    """Whether two names are one to the server: one holds NUL where the other holds ␀."""
    return len(np.unique(ids)) < len(ids)


def _last_of_each(rows: NDArray[np.void], place: NDArray[np.int64]) -> NDArray[np.void]:
    """Each key once, with the row that has the last place: one statement cannot put in two of a key."""
    keys = [rows[name] for name in ("time_ns", "quantity", "device")]
    order = np.lexsort((place, *keys))
    last = np.ones(len(order), dtype=bool)
    last[:-1] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    return rows[order[last]]


def _ids(cursor: Cursor, table: LiteralString, names: Sequence[str] | None) -> dict[str, int]:
    """Names that are wanted, all unless told, with their ids; -1 for those that are not stored."""
    stored: dict[str, int] = dict(cursor.execute(f"SELECT name, id FROM {table} ORDER BY id").fetchall())  # noqa: S608
    return stored if names is None else {name: stored.get(_without_nul(name), -1) for name in names}


def _codes(ids: NDArray[Any], wanted: dict[str, int]) -> NDArray[np.int64]:
    """The place of each id among those wanted."""
    known = np.array(list(wanted.values()) or [-1], dtype=np.int64)
    order = np.argsort(known, kind="stable")
    codes: NDArray[np.int64] = order[np.searchsorted(known[order], ids)]
    return codes


def open_store(config: PostgresConfig, context: Context) -> PostgresStore:
    return PostgresStore(config, context)


def probe(config: PostgresConfig, context: Context) -> Probe:
    return probe_store(open_store(config, context))


NODE = ConnectionNode(
    kind="postgres", config=PostgresConfig, family="store", open=open_store, probe=probe, where=("url", "schema")
)
