"""Tables of the policy system, in SQLite or PostgreSQL.

Versions of policies and the audit log cannot be changed or deleted: the database itself refuses that.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    Engine,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    make_url,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from edgeflex_flow.errors import FatalError, how_to_install

NAME = String(64)
ROW_ID = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts rows by itself only in a column of this type."""

METADATA = MetaData()

groups = Table("groups", METADATA, Column("name", NAME, primary_key=True), Column("about", Text, nullable=False))

users = Table(
    "users",
    METADATA,
    Column("name", NAME, primary_key=True),
    Column("about", Text, nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("password_hash", Text),
    Column("secret_hash", Text),
    Column("jwks", Text, nullable=False),
    Column("revoked_ns", BigInteger, nullable=False),
    Column("disabled_because", Text),
)

members = Table(
    "members",
    METADATA,
    Column("user", NAME, primary_key=True),
    Column("group", NAME, primary_key=True),
    Column("role", NAME, nullable=False),
    ForeignKeyConstraint(["user"], ["users.name"]),
    ForeignKeyConstraint(["group"], ["groups.name"]),
)

versions = Table(
    "policy_versions",
    METADATA,
    Column("group", NAME, primary_key=True),
    Column("policy_id", NAME, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
    Column("withdrawn", Boolean, nullable=False),
    Column("saved_by", NAME, nullable=False),
    Column("saved_ns", BigInteger, nullable=False),
    Column("comment", Text, nullable=False),
    ForeignKeyConstraint(["group"], ["groups.name"]),
)

grants = Table(
    "grants",
    METADATA,
    Column("group", NAME, primary_key=True),
    Column("policy_id", NAME, primary_key=True),
    Column("subject_kind", String(8), primary_key=True),
    Column("subject", NAME, primary_key=True),
    Column("right", String(8), nullable=False),
)

reads = Table(
    "reads",
    METADATA,
    Column("group", NAME, primary_key=True),
    Column("policy_id", NAME, primary_key=True),
    Column("user", NAME, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("first_ns", BigInteger, nullable=False),
    Column("last_ns", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
)

effects = Table(
    "effects",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("time_ns", BigInteger, nullable=False),
    Column("user", NAME, nullable=False),
    Column("group", NAME, nullable=False),
    Column("policy_id", NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("site", Text, nullable=False),
    Column("flow", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("setting", Text, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("refused", Text),
    Index("effects_by_policy", "group", "policy_id", "id"),
)

events = Table(
    "events",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("time_ns", BigInteger, nullable=False),
    Column("group", NAME, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("entry", Text, nullable=False),
    Index("events_by_group", "group", "id"),
)

audit = Table(
    "audit",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("time_ns", BigInteger, nullable=False),
    Column("actor", NAME, nullable=False),
    Column("action", String(40), nullable=False),
    Column("object", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("digest", String(64), nullable=False),
)

signing_keys = Table(
    "signing_keys",
    METADATA,
    Column("kid", NAME, primary_key=True),
    Column("jwk", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("retired_ns", BigInteger),
)

revoked_tokens = Table(
    "revoked_tokens",
    METADATA,
    Column("issuer", String(128), primary_key=True),
    Column("jti", String(128), primary_key=True),
    Column("expires_s", BigInteger, nullable=False),
)

sessions = Table(
    "sessions",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("user", NAME, nullable=False),
    Column("csrf", String(64), nullable=False),
    Column("begun_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
)

health = Table(
    "health",
    METADATA,
    Column("name", NAME, primary_key=True),
    Column("time_ns", BigInteger, nullable=False),
)

WRITE_WAIT_S = 1.0
"""How long a writer waits for others: then who asked is told to come again, before all threads of the service wait."""

KEPT_FOR_EVER = ("policy_versions", "audit")

for _name in KEPT_FOR_EVER:
    for _verb in ("UPDATE", "DELETE"):
        _sqlite = DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER IF NOT EXISTS no_{_verb.lower()}_of_{_name} BEFORE {_verb} ON {_name} "
            f"BEGIN SELECT RAISE(ABORT, 'rows of {_name} are kept for ever'); END"
        )
        event.listen(METADATA.tables[_name], "after_create", _sqlite.execute_if(dialect="sqlite"))
    # SQLite runs no other trigger when REPLACE takes a row away. Names are those above, of no user's.
    _keys = " AND ".join(f'"{column.name}" = NEW."{column.name}"' for column in METADATA.tables[_name].primary_key)
    _sqlite = DDL(  # type: ignore[no-untyped-call]
        f"CREATE TRIGGER IF NOT EXISTS no_replace_of_{_name} BEFORE INSERT ON {_name} "  # noqa: S608
        f"WHEN EXISTS (SELECT 1 FROM {_name} WHERE rowid = NEW.rowid OR {_keys}) "
        f"BEGIN SELECT RAISE(ABORT, 'rows of {_name} are kept for ever'); END"
    )
    # At each opening: databases from before have the tables already.
    event.listen(METADATA, "after_create", _sqlite.execute_if(dialect="sqlite"))
    _postgres = DDL(  # type: ignore[no-untyped-call]
        f"CREATE OR REPLACE FUNCTION keep_{_name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'rows of {_name} are kept for ever'; END $$;"
        f"CREATE TRIGGER keep_{_name} BEFORE UPDATE OR DELETE OR TRUNCATE ON {_name} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION keep_{_name}()"
    )
    event.listen(METADATA.tables[_name], "after_create", _postgres.execute_if(dialect="postgresql"))


def open_database(url: str) -> Engine:
    """The database with all tables, made where they are missing. Raises FatalError, which tells no password."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise FatalError(f"database '{parsed.render_as_string()}': known are sqlite:///FILE and postgresql://…")
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _set_up_sqlite)
        _check_columns(engine)
        METADATA.create_all(engine)
    except ModuleNotFoundError as error:
        raise FatalError(f"the database needs {error.name}: {how_to_install('postgres')}") from error
    except ArgumentError as error:
        raise FatalError("the database's url cannot be read: sqlite:///FILE or postgresql://…") from error
    except (SQLAlchemyError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        raise FatalError(f"database '{make_url(url).render_as_string()}' cannot be opened: {cause}") from error
    return engine


def _check_columns(engine: Engine) -> None:
    """Raise FatalError for tables of another version of this program."""
    known = inspect(engine)
    for table in METADATA.sorted_tables:
        if known.has_table(table.name):
            there = {column["name"] for column in known.get_columns(table.name)}
            missing = [column.name for column in table.columns if column.name not in there]
            if missing:
                raise FatalError(
                    f"database '{engine.url.render_as_string()}' is of another version: table '{table.name}' has no "
                    f"column {', '.join(missing)}; begin a new one, and save the policies there again"
                )


def _set_up_sqlite(connection: object, _: ConnectionPoolEntry) -> None:
    """Writers wait for each other, readers for nobody; what is committed survives a loss of power."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={WRITE_WAIT_S * 1000:.0f}",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
