"""`make bench-stores`: values per second into and out of each store, beside its driver alone with the same schema.

The driver alone gets rows that are ready in the form it takes: parameters, binary rows, lines, a table. The stores
start from batches as they come on a wire, with names, flags and gaps. Both write commits of the same size.
"""

from __future__ import annotations

import functools
import logging
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx
import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from databases import PASSWORD, Influxdb, Postgres

from benchmarks.report import Report
from edgeflex_connectors import influxdb, parquet, postgres, sqlite, store_write
from edgeflex_connectors.influxdb import LINES_AT_ONCE, InfluxdbStore
from edgeflex_connectors.parquet import ParquetConfig, ParquetStore
from edgeflex_connectors.postgres import HEADER, SAMPLE_FIELDS, SAMPLE_ROW, TRAILER, PostgresStore
from edgeflex_connectors.sqlite import CACHE_KIB, CHECKPOINT_PAGES, MIGRATIONS, SqliteConfig, SqliteStore
from edgeflex_connectors.store import Store
from edgeflex_connectors.store_rows import values_of
from edgeflex_connectors.store_window import pieces
from edgeflex_connectors.store_write import StoreWriteConfig
from edgeflex_flow.clock import SystemClock
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Context, Counters, NodeConfig, OpenConnection

DEVICES = 40
RATE_HZ = 50
COLUMNS = ("frequency_hz", "voltage_v", "voltage_angle_rad", "active_power_w")
COMMIT_ROWS = 10_000
"""Five seconds of the devices."""
START_NS = 1_700_000_000_000_000_000
SHARE = 0.8
SQLITE_VALUES_PER_S = 150_000


def commits(count: int, seed: int) -> list[Samples]:
    """Consecutive batches of all devices in turn."""
    noise = np.random.default_rng(seed)
    devices = tuple(f"PMU{number}" for number in range(DEVICES))
    made = []
    for number in range(count):
        row = np.arange(number * COMMIT_ROWS, (number + 1) * COMMIT_ROWS)
        made.append(
            Samples(
                time_ns=START_NS + (row // DEVICES) * (1_000_000_000 // RATE_HZ),
                device=(row % DEVICES).astype(np.int32),
                devices=devices,
                columns={name: noise.normal(size=COMMIT_ROWS) for name in COLUMNS},
                quality=np.zeros(COMMIT_ROWS, dtype=np.uint16),
                received_ns=0,
            )
        )
    return made


def context(folder: Path, config: NodeConfig | None = None, node: Any = None) -> Context:
    return Context(
        flow="bench",
        site="bench",
        node="archive",
        clock=SystemClock(),
        counters=Counters(),
        log=logging.getLogger("bench"),
        dead_letter=lambda _reason, text, _payload: sys.exit(text),
        fail=lambda error: sys.exit(str(error)),
        folder=folder,
        connections={} if config is None else {"store": OpenConnection("store", node, config)},
    )


@contextmanager
def timed(took: list[float]) -> Iterator[None]:
    start_s = time.perf_counter()
    yield
    took.append(time.perf_counter() - start_s)


Commits = Iterator[Sequence[Callable[[], object]]]
"""What a context manager of a writer gives: a function for each commit."""


@contextmanager
def ours(store: Store, batches: Sequence[Samples]) -> Commits:
    with closing(store):
        store.open()
        yield [functools.partial(store.write, [batch], []) for batch in batches]


def read_all(store: Store) -> float:
    took: list[float] = []
    with closing(store), timed(took):
        rows = sum(piece.samples.rows for piece in pieces(store) if piece.samples is not None)
    assert rows % COMMIT_ROWS == 0
    return took[0]


def sink_all(config: NodeConfig, node: Any, folder: Path, batches: Sequence[Samples]) -> float:
    """Through `store_write`, which hands over to its thread."""
    took: list[float] = []
    sink = store_write.NODE.open(StoreWriteConfig(store="store", queue=10**8), context(folder, config, node))
    sink.open()
    with timed(took):
        for batch in batches:
            sink.write([batch])
        assert sink.flush(600.0)
    sink.close()
    return took[0]


# The drivers alone --------------------------------------------------------------------------------------------------


@contextmanager
def bare_sqlite(file: Path, batches: Sequence[Samples], rows_at_once: int) -> Commits:
    """Rows in the order of the key; one statement for each (executemany), or for `rows_at_once`."""
    ready: list[list[list[Any]]] = []
    for batch in batches:
        rows = [
            (device + 1, place + 1, time_ns, value, flags)
            for place, values in enumerate(values_of([batch])[1])
            for device, time_ns, value, flags in zip(
                *(part.tolist() for part in (values.device, values.time_ns, values.value, values.quality)), strict=True
            )
        ]
        if rows_at_once > 1:
            groups = [rows[start : start + rows_at_once] for start in range(0, len(rows), rows_at_once)]
            ready.append([[field for row in group for field in row] for group in groups])
        else:
            ready.append([rows])
    pragmas = (
        "journal_mode=WAL",
        "synchronous=normal",
        f"cache_size={-CACHE_KIB}",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
    )
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        connection.executescript(MIGRATIONS[0])
        statement = f"INSERT OR REPLACE INTO samples VALUES {', '.join(['(?, ?, ?, ?, ?)'] * rows_at_once)}"

        def commit(groups: list[list[Any]]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            for group in groups:
                if rows_at_once > 1:
                    connection.execute(statement, group)
                else:
                    connection.executemany(statement, group)
            connection.execute("COMMIT")

        yield [functools.partial(commit, groups) for groups in ready]


@contextmanager
def bare_postgres(server: Postgres, database: str, batches: Sequence[Samples]) -> Commits:
    """Binary rows that are ready, straight into the table: no replacement of rows that are there."""
    ready = []
    for batch in batches:
        columns = values_of([batch])[1]
        rows = np.empty(sum(len(values.value) for values in columns), dtype=SAMPLE_ROW)
        rows["fields"] = len(SAMPLE_FIELDS)
        for name, kind in SAMPLE_FIELDS:
            rows[f"{name}_length"] = int(kind[2:])
        rows["quantity"] = np.repeat(np.arange(len(columns)), [len(values.value) for values in columns])
        for name in ("device", "time_ns", "value", "quality"):
            rows[name] = np.concatenate([getattr(values, name) for values in columns])
        ready.append(HEADER + rows.tobytes() + TRAILER)
    with server.connect(database) as connection:
        connection.execute("CREATE SCHEMA bare")
        connection.execute("SET search_path = bare")
        connection.execute(postgres.MIGRATIONS[0])

        def commit(content: bytes) -> None:
            with connection.cursor() as cursor, cursor.copy("COPY samples FROM STDIN (FORMAT binary)") as copy:
                copy.write(content)

        yield [functools.partial(commit, content) for content in ready]


def bare_postgres_rows(server: Postgres, database: str, batches: Sequence[Samples]) -> float:
    """As the driver's documentation shows it: COPY, row by row."""
    ready = [
        [
            (device, place, time_ns, value, flags)
            for place, values in enumerate(values_of([batch])[1])
            for device, time_ns, value, flags in zip(
                *(part.tolist() for part in (values.device, values.time_ns, values.value, values.quality)), strict=True
            )
        ]
        for batch in batches
    ]
    took: list[float] = []
    with server.connect(database) as connection:
        connection.execute("CREATE SCHEMA rows")
        connection.execute("SET search_path = rows")
        connection.execute(postgres.MIGRATIONS[0])
        with timed(took):
            for rows in ready:
                with connection.cursor() as cursor, cursor.copy("COPY samples FROM STDIN (FORMAT binary)") as copy:
                    copy.set_types(["int4", "int4", "int8", "float8", "int4"])
                    for row in rows:
                        copy.write_row(row)
    return took[0]


@contextmanager
def bare_influxdb(server: Influxdb, database: str, batches: Sequence[Samples]) -> Commits:
    """Lines that are ready, over one kept connection."""
    server.ask(f'CREATE DATABASE "{database}"')
    ready: list[list[bytes]] = []
    for batch in batches:
        devices, columns = values_of([batch])
        blocks = [block for values in columns for block in influxdb.sample_blocks(values, devices, None)]
        lines = [line for block in blocks for line in block.text.split("\n")]
        starts = range(0, len(lines), LINES_AT_ONCE)
        ready.append(["\n".join(lines[start : start + LINES_AT_ONCE]).encode() for start in starts])
    with httpx.Client(base_url=server.url, auth=("flow", PASSWORD), timeout=60, trust_env=False) as client:

        def commit(bodies: list[bytes]) -> None:
            for body in bodies:
                answer = client.post("/write", params={"db": database, "precision": "ns"}, content=body)
                assert answer.status_code == 204, answer.text

        yield [functools.partial(commit, bodies) for bodies in ready]


@contextmanager
def bare_parquet(folder: Path, source: Path) -> Commits:
    """Tables that are ready, each into a file, without waiting for the disk."""
    folder.mkdir()
    tables = [pq.read_table(file) for file in sorted((source / "samples").glob("*.parquet"))]
    yield [
        functools.partial(pq.write_table, table, folder / f"{number}.parquet", compression="zstd")
        for number, table in enumerate(tables)
    ]


# Measuring ----------------------------------------------------------------------------------------------------------


class Took(NamedTuple):
    """Time of the clock, and of the processor for this process."""

    seconds: float
    cpu_seconds: float


class Bench:
    """Adds the rows of one store to the report."""

    def __init__(self, report: Report, rounds: int, batches: Sequence[Samples]) -> None:
        self.report = report
        self.rounds = rounds
        self.values = len(batches) * COMMIT_ROWS * len(COLUMNS)
        self.batches = batches

    def rates(self, seconds: Sequence[float]) -> list[float]:
        return [self.values / each for each in seconds]

    def alternate(self, *writers: AbstractContextManager[Sequence[Callable[[], object]]]) -> list[Took]:
        """What each writer took. They take turns, commit by commit, so that all meet the same machine."""
        took = [Took(0.0, 0.0)] * len(writers)
        with ExitStack() as stack:
            for turn in zip(*(stack.enter_context(writer) for writer in writers), strict=True):
                for place, commit in enumerate(turn):
                    start_s, start_cpu_s = time.perf_counter(), time.process_time()
                    commit()
                    seconds, cpu_seconds = took[place]
                    seconds += time.perf_counter() - start_s
                    took[place] = Took(seconds, cpu_seconds + time.process_time() - start_cpu_s)
        return took

    def compare(
        self,
        section: str,
        store: Callable[[int], Store],
        bare: Callable[[int], Sequence[AbstractContextManager[Sequence[Callable[[], object]]]]],
        sink: Callable[[int], float],
        *,
        asked_rate: float | None = None,
        share: float | None = SHARE,
    ) -> None:
        """The store beside the fastest of the driver's ways."""
        written: list[float] = []
        processor: list[float] = []
        alone: list[float] = []
        for number in range(self.rounds):
            first, *others = self.alternate(ours(store(number), self.batches), *bare(number))
            written.append(first.seconds)
            processor.append(first.cpu_seconds)
            alone.append(min(other.seconds for other in others))
        sunk = [sink(number) for number in range(self.rounds)]
        read_s = [read_all(store(number)) for number in range(self.rounds)]
        add = self.report.add
        add(section, "driver alone, rows ready", "values/s", self.rates(alone))
        asked = "" if asked_rate is None else f"≥ {asked_rate:,.0f}"
        rate_good = None if asked_rate is None else (lambda rate: rate >= asked_rate)
        add(section, "the store", "values/s", self.rates(written), asked=asked, good=rate_good)
        ratios = [driver / own for driver, own in zip(alone, written, strict=True)]
        share_good = None if share is None else (lambda ratio: ratio >= share)
        asked = "" if share is None else f"≥ {share:g}"
        add(section, "the store beside the driver", "share", ratios, asked=asked, good=share_good)
        add(section, "the store, of this process's own time", "values/CPU s", self.rates(processor))
        add(section, "through `store_write`", "values/s", self.rates(sunk))
        add(section, "read in order of time", "values/s", self.rates(read_s))


def measure_sqlite(bench: Bench, folder: Path) -> None:
    bench.compare(
        "SQLite",
        store=lambda number: SqliteStore(SqliteConfig(path="x"), folder / f"ours{number}.db"),
        bare=lambda number: [
            bare_sqlite(folder / f"bare{number}.{rows}.db", bench.batches, rows) for rows in (1, sqlite.ROWS_AT_ONCE)
        ],
        sink=lambda number: sink_all(SqliteConfig(path=f"sink{number}.db"), sqlite.NODE, folder, bench.batches),
        asked_rate=SQLITE_VALUES_PER_S,
    )


def measure_postgres(bench: Bench, folder: Path) -> None:
    with Postgres() as server:

        def store(number: int) -> PostgresStore:
            return PostgresStore(server.config(f"d{number}"), context(folder))

        for number in range(bench.rounds):
            server.make_database(f"d{number}")
        bench.compare(
            "PostgreSQL",
            store=store,
            bare=lambda number: [bare_postgres(server, f"d{number}", bench.batches)],
            sink=lambda number: sink_all(
                server.config(f"d{number}", schema="sink"), postgres.NODE, folder, bench.batches
            ),
        )
        rows = [bare_postgres_rows(server, f"d{number}", bench.batches) for number in range(bench.rounds)]
        bench.report.add("PostgreSQL", "driver alone, COPY row by row", "values/s", bench.rates(rows))
        again = [bench.alternate(ours(store(number), bench.batches))[0].seconds for number in range(bench.rounds)]
        bench.report.add("PostgreSQL", "the store, rows that are all there already", "values/s", bench.rates(again))


def measure_influxdb(bench: Bench, folder: Path) -> None:
    place = folder / "server"
    place.mkdir()
    with Influxdb(place) as server:
        bench.compare(
            "InfluxDB",
            store=lambda number: InfluxdbStore(server.config(f"ours{number}"), context(folder)),
            bare=lambda number: [bare_influxdb(server, f"bare{number}", bench.batches)],
            sink=lambda number: sink_all(server.config(f"sink{number}"), influxdb.NODE, folder, bench.batches),
        )


def measure_parquet(bench: Bench, folder: Path) -> None:
    source = ParquetStore(ParquetConfig(path="source"), context(folder))
    bench.alternate(ours(source, bench.batches))
    bench.compare(
        "Parquet",
        store=lambda number: ParquetStore(ParquetConfig(path=f"ours{number}"), context(folder)),
        bare=lambda number: [bare_parquet(folder / f"bare{number}", folder / "source")],
        sink=lambda number: sink_all(ParquetConfig(path=f"sink{number}"), parquet.NODE, folder, bench.batches),
        share=None,
    )


PARTS = {
    "sqlite": measure_sqlite,
    "postgres": measure_postgres,
    "influxdb": measure_influxdb,
    "parquet": measure_parquet,
}


@click.command()
@click.option(
    "--only", type=click.Choice(list(PARTS)), multiple=True, help="Measure only this; nothing is written then."
)
@click.option("--quick", is_flag=True, help="Little data and few rounds, to see that it runs; nothing is written then.")
def main(only: tuple[str, ...], quick: bool) -> None:
    """Measure the stores beside their drivers alone."""
    console = Console()
    report = Report("connectors-stores", "make bench-stores")
    bench = Bench(report, 2 if quick else 5, commits(5 if quick else 12, seed=1))
    report.notes.append(
        f"{bench.values:,} values in commits of {COMMIT_ROWS * len(COLUMNS):,}: {DEVICES} devices, {len(COLUMNS)} "
        "columns each, none there before. The servers run on the same machine and wait for the disk."
    )
    report.notes.append("Store and driver take turns, commit by commit.")
    report.notes.append("The driver alone of Parquet does not wait for the disk; the store does, for each file.")
    for part in only or PARTS:
        folder = Path(tempfile.mkdtemp(prefix="edgeflex-bench-"))
        try:
            with console.status(f"measuring {part}"):
                PARTS[part](bench, folder)
        finally:
            shutil.rmtree(folder)
    report.show(console)
    if not only and not quick:
        report.save()


if __name__ == "__main__":
    main()
