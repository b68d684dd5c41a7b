from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from broker import wait_until
from certificates import Authority
from databases import PASSWORD, Postgres
from stores import alarm, at, event, grid, kept, table

from edgeflex_connectors import postgres, store_write
from edgeflex_connectors.postgres import SCHEMA_VERSION, PostgresConfig, PostgresStore
from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS, How, NewerStoreError, Series
from edgeflex_connectors.store_write import StoreWriteConfig
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.messages import samples_from_rows
from edgeflex_flow.node import Context, OpenConnection, Sink

if TYPE_CHECKING:
    from conftest import ContextMaker

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres(settings=["fsync=off"]) as opened:
        yield opened


@pytest.fixture
def database(server: Postgres, request: pytest.FixtureRequest) -> str:
    name = f"d{abs(hash(request.node.name))}"
    server.make_database(name)
    return name


def store_at(make_context: ContextMaker, config: PostgresConfig) -> PostgresStore:
    return PostgresStore(config, make_context("archive"))


def refused(make_context: ContextMaker, config: PostgresConfig, complaint: str) -> str:
    """Check that the store cannot be opened, for ever; what it says."""
    with closing(store_at(make_context, config)) as store, pytest.raises(FatalError, match=complaint) as caught:
        store.open()
    return str(caught.value)


@contextmanager
def sink(make_context: ContextMaker, config: PostgresConfig, **fields: Any) -> Iterator[tuple[Sink, Context]]:
    connections = {"store": OpenConnection("history", postgres.NODE, config)}
    context = make_context("archive", connections=connections)
    opened = store_write.NODE.open(StoreWriteConfig(store="history", commit_every=0.01, **fields), context)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


def query(server: Postgres, database: str, text: str) -> list[tuple[Any, ...]]:
    with server.connect(database) as connection:
        return connection.execute(text.encode()).fetchall()


def test_people_find_names_and_times_in_the_view(server: Postgres, database: str, make_context: ContextMaker) -> None:
    with closing(store_at(make_context, server.config(database))) as store:
        store.write([grid([0.25], x_v=1.0)], [])
    found = query(server, database, "SELECT time AT TIME ZONE 'UTC', device, quantity, value FROM edgeflex.readings")
    assert [(f"{time}", *rest) for time, *rest in found] == [("2023-11-14 22:13:20.250000", "G1", "x_v", 1.00025)]


def test_people_find_down_sampled_values_in_a_view_of_their_own(
    server: Postgres, database: str, make_context: ContextMaker
) -> None:
    with closing(store_at(make_context, server.config(database))) as store:
        rules: list[tuple[How, float]] = [("mean", 1.0), ("max", 2.0)]
        for how, value in rules:
            store.write_series(Series(500_000_000, how), [grid([0.5], quality=16, x_v=value)], at(1))
    shown = "SELECT time AT TIME ZONE 'UTC', device, quantity, every_s, how, value, quality"
    found = query(server, database, f"{shown} FROM edgeflex.downsampled_readings ORDER BY how DESC")
    assert [(f"{time}", *rest) for time, *rest in found] == [
        ("2023-11-14 22:13:20.500000", "G1", "x_v", 0.5, "mean", 1.0005, 16),
        ("2023-11-14 22:13:20.500000", "G1", "x_v", 0.5, "max", 2.0005, 16),
    ]


def test_store_of_version_1_gets_the_view_of_down_sampled_values_and_loses_nothing(
    server: Postgres, database: str, make_context: ContextMaker
) -> None:
    mean = Series(500_000_000, "mean")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres, "MIGRATIONS", postgres.MIGRATIONS[:1])
        patch.setattr(postgres, "SCHEMA_VERSION", 1)
        with closing(store_at(make_context, server.config(database))) as store:
            store.write([grid([0, 1])], kept(alarm()))
            store.write_series(mean, [grid([0.5])], at(1))
    with closing(store_at(make_context, server.config(database))) as store:
        assert table(store.read(series=mean)) == table(grid([0.5]))  # as it is
        store.open()
        assert table(store.read()) == table(grid([0, 1]))
        assert store.read_messages(["alarm"], at(0), at(1)) == kept(alarm())
    assert query(server, database, "SELECT version FROM edgeflex.store_version") == [(SCHEMA_VERSION,)]
    assert query(server, database, "SELECT device, how FROM edgeflex.downsampled_readings") == [("G1", "mean")]


def test_new_rows_go_straight_into_the_table_and_known_ones_by_another(
    server: Postgres, database: str, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    real = PostgresStore._copy

    def noted(*arguments: Any) -> None:
        copied.append(arguments[2])
        real(*arguments)

    monkeypatch.setattr(PostgresStore, "_copy", noted)
    with closing(store_at(make_context, server.config(database))) as store:
        store.write([grid([0, 1])], [])
        assert copied == ["samples"]
        store.write([grid([1, 2], x_v=5.0)], [])
        assert copied == ["samples", "samples", "incoming"]
        for second in range(3, 3 + postgres.UPSERTS):
            store.write([grid([second])], [])
        assert copied[-2:] == ["incoming", "samples"]
        assert {key[0]: row["x_v"] for key, (row, _) in table(store.read(end_ns=at(3))).items()} == {
            at(0): 1.0,
            at(1): 5.001,
            at(2): 5.002,
        }


def test_nul_in_a_name_is_shown_as_a_symbol(server: Postgres, database: str, make_context: ContextMaker) -> None:
    with closing(store_at(make_context, server.config(database))) as store:
        store.write([grid([0], ["a\0b"])], [])
        assert store.read().devices == ("a␀b",)
        assert store.read(devices=["a\0b"]).rows == 1


def test_names_that_become_one_are_one_device_and_column_whose_last_value_counts(
    server: Postgres, database: str, make_context: ContextMaker
) -> None:
    rows: list[tuple[int, str, dict[str, float]]] = [
        (at(0), "a␀", {"x_v": 1.0}),
        (at(0), "a\0", {"x_v": 2.0}),
        (at(1), "a\0", {"x_v": 3.0}),
        (at(1), "a␀", {"x_v": 4.0}),
        (at(2), "b", {"x\0_v": 5.0, "x␀_v": NAN}),
        (at(2), "b", {"x\0_v": NAN, "x␀_v": 6.0}),
    ]
    with closing(store_at(make_context, server.config(database))) as store:
        for _ in range(2):
            store.write([samples_from_rows([row]) for row in rows], kept(event("a\0"), event("a␀")))
        assert table(store.read()) == {
            (at(0), "a␀"): ({"x_v": 2.0}, 0),
            (at(1), "a␀"): ({"x_v": 4.0}, 0),
            (at(2), "b"): ({"x␀_v": 6.0}, 0),
        }
        store.write_series(Series(1, "mean"), [samples_from_rows([row]) for row in rows], at(1))


NAN = float("nan")
LONG = "".join(map(chr, np.random.default_rng(1).integers(0x61, 0x7B, 10_000)))
"""Longer than a key may be, also when PostgreSQL has compressed it."""


def test_what_the_server_refuses_is_counted_and_everything_else_kept(
    server: Postgres, database: str, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    context = make_context("archive")
    messages = kept(*(alarm(str(number)) for number in range(9)))
    long = [msgspec.structs.replace(messages[number], id=LONG) for number in (3, 4)]
    with closing(PostgresStore(server.config(database), context)) as store:
        for second in (0, 1):
            store.write([grid([second], ["A", LONG, "B"], x_v=1.0, y_a=2.0)], [*messages[:4], *long, *messages[4:]])
        store.write([samples_from_rows([(at(2), "A", {LONG: 1.0, "x_v": 1.0})])], [])
        found = store.read()
        assert (found.devices, list(found.columns), found.rows) == (("A", "B"), ["x_v", "y_a"], 5)
        stored = store.read_messages(["alarm"], EARLIEST_NS, LATEST_NS)
        assert sorted(each.id for each in stored) == sorted(each.id for each in messages)
    # Of the device its name, and two values each time; two messages each time; the column's name and its value.
    assert context.counters.get("not_storable") == (1 + 2 * 2) + 2 * 2 + (1 + 1)
    assert "1 cannot be stored: index row requires" in caplog.text


def test_letter_that_the_encoding_of_the_database_lacks_costs_only_what_holds_it(
    server: Postgres, database: str, make_context: ContextMaker
) -> None:
    with server.connect("postgres") as connection:
        options = "ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'"
        connection.execute(f'CREATE DATABASE "{database}_latin" {options}'.encode())
    with sink(make_context, server.config(f"{database}_latin")) as (opened, context):
        named = samples_from_rows([(at(0), "é", {"é_v": 1.0, "🔌_v": 1.0}), (at(1), "é", {"é_v": NAN, "🔌_v": 1.0})])
        opened.write([grid([0], ["é", "🔌"]), named, alarm("é"), alarm("🔌")])
        assert opened.flush(10.0)
        counters = context.counters
        assert [counters.get(name) for name in ("rows", "values", "messages", "retries")] == [2, 2, 1, 0]
        # Names of a device and a column, three values, one message.
        assert counters.get("not_storable") == 6
    with closing(store_at(make_context, server.config(f"{database}_latin"))) as store:
        assert store.read().devices == ("é",)
        assert store.read_messages(["alarm"], EARLIEST_NS, LATEST_NS) == kept(alarm("é"))
    assert make_context.failures == []


def test_limit_that_would_be_exceeded_again_is_fatal(
    server: Postgres, database: str, make_context: ContextMaker
) -> None:
    with (
        closing(store_at(make_context, server.config(database))) as store,
        pytest.raises(FatalError, match="requested length too large"),
        store._transaction() as cursor,
    ):
        cursor.execute("SELECT repeat('x', 2000000000)")


def test_newer_store_is_refused(server: Postgres, database: str, make_context: ContextMaker) -> None:
    with closing(store_at(make_context, server.config(database))) as store:
        store.open()
    with server.connect(database) as connection:
        connection.execute("UPDATE edgeflex.store_version SET version = 99")
    with closing(store_at(make_context, server.config(database))) as store:
        for use in (store.open, store.read):
            with pytest.raises(NewerStoreError, match=rf"schema is 99, known: up to {SCHEMA_VERSION}"):
                use()


def test_older_store_is_brought_up_in_one_transaction(
    server: Postgres, database: str, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(store_at(make_context, server.config(database))) as store:
        store.write([grid([0])], [])
        before = table(store.read())
    monkeypatch.setattr(postgres, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    broken = "ALTER TABLE samples ADD COLUMN more integer; SELECT 1 / 0"
    monkeypatch.setattr(postgres, "MIGRATIONS", (*postgres.MIGRATIONS, broken))
    refused(make_context, server.config(database), "division")
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'samples' AND column_name = 'more'"
    assert query(server, database, columns) == []
    good = "ALTER TABLE samples ADD COLUMN more integer"
    monkeypatch.setattr(postgres, "MIGRATIONS", (*postgres.MIGRATIONS[:-1], good))
    with closing(store_at(make_context, server.config(database))) as store:
        store.open()
        assert table(store.read()) == before
    assert query(server, database, "SELECT version FROM edgeflex.store_version") == [(SCHEMA_VERSION + 1,)]
    assert query(server, database, columns) == [("more",)]


def test_tables_of_another_program_are_left_alone(server: Postgres, database: str, make_context: ContextMaker) -> None:
    with server.connect(database) as connection:
        connection.execute("CREATE SCHEMA edgeflex")
        connection.execute("CREATE TABLE edgeflex.samples (mine text)")
    refused(make_context, server.config(database), 'relation "samples" already exists')
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'edgeflex'"
    assert query(server, database, tables) == [("samples",)]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"username": "nobody"}, "password authentication failed"),
        ({"password": None}, "no password supplied"),
        ({"tls": "require"}, "server does not support SSL"),
    ],
)
def test_refusal_is_fatal_and_tells_no_password(
    server: Postgres, make_context: ContextMaker, fields: dict[str, Any], complaint: str
) -> None:
    text = refused(make_context, server.config("postgres", **fields), complaint)
    assert PASSWORD not in text
    assert "wrong" not in text


def test_database_that_does_not_exist_is_fatal(server: Postgres, make_context: ContextMaker) -> None:
    refused(make_context, server.config("nowhere"), 'database "nowhere" does not exist')


def test_right_that_the_user_lacks_is_fatal(server: Postgres, database: str, make_context: ContextMaker) -> None:
    with server.connect(database) as connection:
        connection.execute(f"CREATE USER guest PASSWORD '{PASSWORD}'".encode())
    refused(make_context, server.config(database, username="guest"), "permission denied")


@pytest.mark.parametrize(
    ("tls", "trusts", "host", "complaint"),
    [
        ("verify", True, "localhost", None),
        ("require", False, "localhost", None),
        ("verify", False, "localhost", "certificate verify failed"),
        ("verify", True, "elsewhere", 'does not match host name "localhost"'),
    ],
)
def test_certificate_of_the_server_is_checked(
    tmp_path: Path, make_context: ContextMaker, tls: str, trusts: bool, host: str, complaint: str | None
) -> None:
    ours, other = Authority(tmp_path), Authority(tmp_path, "other")
    ca = None if tls == "require" else str((ours if trusts else other).certificate)
    with Postgres(tls=ours.issue("server", host=host, address=None), settings=["fsync=off"]) as server:
        config = server.config("postgres", tls=tls, ca=ca)
        named = PostgresConfig(
            url=config.url.replace("127.0.0.1", "localhost"), username="flow", password=PASSWORD, tls=config.tls, ca=ca
        )
        with closing(store_at(make_context, named)) as store:
            if complaint is None:
                store.open()
                assert store.read().rows == 0
                return
            with pytest.raises(FatalError, match=complaint):
                store.open()


def test_server_that_is_away_is_retryable(make_context: ContextMaker) -> None:
    nobody = PostgresConfig(url="postgresql://127.0.0.1:1/grid", tls="off")
    with closing(store_at(make_context, nobody)) as store, pytest.raises(RetryableError, match="Connection refused"):
        store.open()


def test_statement_that_takes_too_long_is_retryable(
    server: Postgres, database: str, make_context: ContextMaker
) -> None:
    with closing(store_at(make_context, server.config(database, answer_timeout=1.0))) as store:
        store.write([grid([0])], [])
        with server.connect(database) as other, other.transaction():
            other.execute("LOCK TABLE edgeflex.samples")
            with pytest.raises(RetryableError, match="canceling statement due to statement timeout"):
                store.write([grid([1])], [])
        store.write([grid([1])], [])
        assert store.read().rows == 2


@pytest.mark.long
def test_flow_goes_on_while_the_server_is_away_and_everything_arrives_once(make_context: ContextMaker) -> None:
    with Postgres() as server:
        server.make_database("grid")
        with sink(make_context, server.config("grid")) as (opened, context):
            for second in range(10):
                opened.write([grid([second])])
            assert opened.flush(10.0)
            server.kill()
            for second in range(10, 20):
                opened.write([grid([second])])
            wait_until(lambda: context.counters.get("retries"))
            assert not opened.flush(0.1)
            server.start()
            assert opened.flush(30.0)
            server.stop()
            opened.write([grid([20])])
            wait_until(lambda: context.counters.get("retries") >= 2)
            server.start()
            assert opened.flush(30.0)
            assert context.counters.get("rows") == 21
            assert context.counters.get("overflow_rows") == context.counters.get("lost_rows") == 0
        with closing(store_at(make_context, server.config("grid"))) as store:
            assert store.read().time_ns.tolist() == [at(second) for second in range(21)]
    assert make_context.failures == []


@pytest.mark.long
def test_server_that_stays_away_drops_the_oldest_waiting_rows(make_context: ContextMaker) -> None:
    with Postgres(settings=["fsync=off"]) as server:
        server.make_database("grid")
        with sink(make_context, server.config("grid"), queue=50) as (opened, context):
            opened.write([grid([0])])
            assert opened.flush(10.0)
            server.kill()
            for second in range(1, 301):
                opened.write([grid([second])])
            dropped = context.counters.get("overflow_rows")
            assert dropped > 0
            server.start()
            assert opened.flush(30.0)
            assert context.counters.get("rows") == 301 - dropped
        with closing(store_at(make_context, server.config("grid"))) as store:
            span = store.span()
            assert span is not None
            assert span.last_ns == at(300)


WRITE_FOR_EVER = """
import itertools, logging, os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from conftest import ContextMaker
from edgeflex_connectors.postgres import PostgresConfig, PostgresStore
from edgeflex_flow.messages import samples_from_rows

config = PostgresConfig(url=sys.argv[2], username="flow", password=os.environ["PASSWORD"], tls="off")
store = PostgresStore(config, ContextMaker(Path("."))("archive"))
for batch in itertools.count():
    rows = [(batch * 50 + row, device, {"x_v": 1.0}) for row in range(50) for device in "AB"]
    store.write([samples_from_rows(rows)], [])
    print(batch, flush=True)
"""


def test_killed_writer_leaves_every_acknowledged_batch_once_and_none_by_halves(
    server: Postgres, database: str, make_context: ContextMaker
) -> None:
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(Path(__file__).parents[1]), f"{server.url}/{database}"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PASSWORD": PASSWORD})
    assert child.stdout is not None
    acknowledged = [int(child.stdout.readline()) for _ in range(50)]
    child.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in child.stdout.read().split("\n")[:-1]]
    child.wait()
    child.stdout.close()
    with closing(store_at(make_context, server.config(database))) as store:
        again = samples_from_rows([(row, device, {"x_v": 1.0}) for row in range(50) for device in "AB"])
        store.write([again], [])
    [(count,)] = query(server, database, "SELECT count(*) FROM edgeflex.samples")
    assert count % 100 == 0
    assert 0 <= count // 100 - len(acknowledged) <= 1


def test_password_is_in_no_text_of_a_config() -> None:
    config = PostgresConfig(url="postgresql://db/grid", username="flow", password="hunter2")
    assert "hunter2" not in f"{config!r} {config.__rich_repr__()}"
