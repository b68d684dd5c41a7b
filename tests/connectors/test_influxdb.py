from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from broker import wait_until
from certificates import Authority
from databases import PASSWORD, Influxdb
from http_service import HttpService, Reply, json_reply
from hypothesis import given
from hypothesis import strategies as st
from stores import START_NS, alarm, at, event, grid, kept, table

from edgeflex_connectors import influxdb, store_write
from edgeflex_connectors.influxdb import InfluxdbConfig, InfluxdbStore, decoded, encoded, message_line, sample_blocks
from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS, NewerStoreError, Series, StoredMessage
from edgeflex_connectors.store_rows import Values, values_of
from edgeflex_connectors.store_write import StoreWriteConfig
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.messages import samples_from_rows
from edgeflex_flow.node import Context, OpenConnection, Sink

if TYPE_CHECKING:
    from conftest import ContextMaker

needs_server = pytest.mark.needs("influxd")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxdb]:
    with Influxdb(tmp_path_factory.mktemp("influxdb")) as opened:
        yield opened


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    return f"d{abs(hash(request.node.name))}"


@contextmanager
def store_at(make_context: ContextMaker, config: InfluxdbConfig) -> Iterator[tuple[InfluxdbStore, Context]]:
    context = make_context("archive")
    with closing(InfluxdbStore(config, context)) as store:
        yield store, context


def refused(make_context: ContextMaker, config: InfluxdbConfig, complaint: str) -> str:
    """Check that the store cannot be opened, for ever; what it says."""
    with store_at(make_context, config) as (store, _), pytest.raises(FatalError, match=complaint) as caught:
        store.open()
    return str(caught.value)


@contextmanager
def sink(make_context: ContextMaker, config: InfluxdbConfig, **fields: Any) -> Iterator[tuple[Sink, Context]]:
    connections = {"store": OpenConnection("history", influxdb.NODE, config)}
    context = make_context("archive", connections=connections)
    opened = store_write.NODE.open(StoreWriteConfig(store="history", commit_every=0.01, **fields), context)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


def lines(values: Values, devices: tuple[str, ...]) -> list[str]:
    return [line for block in sample_blocks(values, devices, None) for line in block.text.split("\n")]


def test_lines_hold_value_quality_and_nanoseconds() -> None:
    first = samples_from_rows([(1, "G 1", {"x_v": 0.1}), (2, "G 1", {"x_v": 2.0})], quality=3)
    devices, [values] = values_of([first, samples_from_rows([(3, "b,=", {"x_v": -1e-9}), (4, "b,=", {"x_v": 1.0})])])
    assert lines(values, devices) == [
        "x_v,device=G\\ 1 value=0.1,quality=3i 1",
        "x_v,device=G\\ 1 value=2.0,quality=3i 2",
        "x_v,device=b\\,\\= value=-1e-9,quality=0i 3",
        "x_v,device=b\\,\\= value=1.0,quality=0i 4",
    ]
    assert next(sample_blocks(values, devices, Series(500_000_000, "max"))).text.startswith("x_v.max.0.5s,device=")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.integers(1, 5))
def test_every_number_is_written_so_that_it_comes_back(numbers: list[float], at_once: int) -> None:
    samples = samples_from_rows([(row, f"G{row % 2}", {"x_v": value}) for row, value in enumerate(numbers)])
    devices, [values] = values_of([samples])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(influxdb, "LINES_AT_ONCE", at_once)
        blocks = list(sample_blocks(values, devices, None))
    assert max(block.lines for block in blocks) <= at_once
    found = [line for block in blocks for line in block.text.split("\n")]
    assert [float(line.split("value=")[1].split(",")[0]) for line in found] == values.value.tolist()
    assert [int(line.rpartition(" ")[2]) for line in found] == values.time_ns.tolist()


def test_flags_that_differ_within_a_device_stand_at_their_values() -> None:
    devices, [values] = values_of([grid([0], quality=1), grid([1], quality=2)])
    assert [line.split(",quality=")[1].split("i ")[0] for line in lines(values, devices)] == ["1", "2"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_name_comes_back_and_holds_nothing_that_line_protocol_cannot(name: str) -> None:
    assert decoded(encoded(name)) == name
    assert encoded(name)
    assert not set(encoded(name)) & {"\\", "\n", "\0"}


def test_messages_of_one_time_stand_at_places_of_their_own_within_their_second() -> None:
    messages = kept(*(alarm(str(number), START_NS) for number in range(100)))
    places = [int(message_line(message).rpartition(" ")[2]) for message in messages]
    assert len(set(places)) == 100
    assert all(START_NS <= place < START_NS + 10**9 for place in places)
    assert places == [int(message_line(message).rpartition(" ")[2]) for message in messages]


@needs_server
def test_infinite_values_and_times_out_of_range_are_counted(
    server: Influxdb, database: str, make_context: ContextMaker
) -> None:
    with store_at(make_context, server.config(database)) as (store, context):
        rows = [(time_ns, "A", {"x_v": value}) for time_ns, value in ((1, math.inf), (2, 1.0), (EARLIEST_NS, 2.0))]
        long = StoredMessage(type="alarm", id="1", time_ns=1, device=None, body=b'"' + b"x" * 70_000 + b'"')
        late = StoredMessage(type="alarm", id="2", time_ns=LATEST_NS, device=None, body=b"{}")
        store.write([samples_from_rows(rows)], [long, late])
        assert store.read().time_ns.tolist() == [2]
        assert context.counters.get("not_storable") == 4


@needs_server
def test_points_that_the_server_drops_are_counted_and_the_others_kept(
    server: Influxdb, database: str, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with store_at(make_context, server.config(database)) as (store, context):
        store.open()
        server.ask(f'CREATE RETENTION POLICY short ON "{database}" DURATION 1h REPLICATION 1 DEFAULT')
        store.write([grid([0, 1])], [])
        assert context.counters.get("not_storable") == 2
    assert "2 cannot be stored" in caplog.text
    assert "points beyond retention policy" in caplog.text


@needs_server
@pytest.mark.parametrize("compress", [False, True])
def test_write_that_is_too_large_goes_out_in_halves_and_only_a_line_that_is_too_large_is_dropped(
    tmp_path: Path, make_context: ContextMaker, caplog: pytest.LogCaptureFixture, compress: bool
) -> None:
    batch = grid(range(500), ["A", "B"], x_v=1.0)
    large, small = alarm(random.Random(1).randbytes(10_000).hex()), [alarm(f"{number}\n") for number in range(20)]
    with (
        Influxdb(tmp_path, largest_body=4_000) as server,
        store_at(make_context, server.config("grid", compress=compress)) as (store, context),
    ):
        store.write([batch], kept(*small[:10], large, *small[10:]))
        assert table(store.read()) == table(batch)
        found = store.read_messages(["alarm"], at(0), at(1))
        assert sorted(each.body for each in found) == sorted(each.body for each in kept(*small))
        assert context.counters.get("not_storable") == 1
    assert "1 cannot be stored: a line of 20" in caplog.text


@needs_server
def test_database_that_does_not_keep_everything_is_refused(
    server: Influxdb, database: str, make_context: ContextMaker
) -> None:
    server.ask(f'CREATE DATABASE "{database}" WITH DURATION 1d')
    with store_at(make_context, server.config(database)) as (store, _), pytest.raises(FatalError, match="keep"):
        store.open()


@needs_server
def test_compressed_and_plain_writes_store_the_same(
    server: Influxdb, database: str, make_context: ContextMaker
) -> None:
    batch = grid(range(100), ["G1", "G2"], x_v=1.0)
    found = []
    for compress in (False, True):
        config = server.config(f"{database}{compress}", compress=compress)
        with store_at(make_context, config) as (store, _):
            store.write([batch], kept(event()))
            found.append(table(store.read()))
    assert found[0] == found[1] == table(batch)


@needs_server
def test_commit_of_many_lines_goes_out_in_several_requests(
    server: Influxdb, database: str, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influxdb, "LINES_AT_ONCE", 30)
    monkeypatch.setattr(influxdb, "CHUNK_ROWS", 7)
    batch = grid(range(50), ["G1", "G2"], x_v=1.0)
    with store_at(make_context, server.config(database)) as (store, _):
        store.write([batch], [])
        assert table(store.read()) == table(batch)


@needs_server
def test_newer_store_is_refused(server: Influxdb, database: str, make_context: ContextMaker) -> None:
    with store_at(make_context, server.config(database)) as (store, _):
        store.open()
        store._put_fact("version", 99)
    with store_at(make_context, server.config(database)) as (store, _):
        for use in (store.open, store.read):
            with pytest.raises(NewerStoreError, match="schema is 99, known: up to 1"):
                use()


@needs_server
@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"password": "wrong"}, "refused user 'flow'"),
        ({"username": None, "password": None}, "refused user 'None'"),
        ({"username": "guest"}, "error authorizing|refused user"),
    ],
)
def test_refusal_is_fatal_and_tells_no_password(
    server: Influxdb, database: str, make_context: ContextMaker, fields: dict[str, Any], complaint: str
) -> None:
    assert PASSWORD not in refused(make_context, server.config(database, **fields), complaint)


@needs_server
def test_certificate_of_the_server_is_checked(tmp_path: Path, make_context: ContextMaker) -> None:
    ours, other = Authority(tmp_path), Authority(tmp_path, "other")
    with Influxdb(tmp_path, tls=ours.issue("server")) as server:
        with store_at(make_context, server.config("grid", ca=str(ours.certificate))) as (store, _):
            store.write([grid([0])], [])
            assert store.read().rows == 1
        stranger = server.config("grid", ca=str(other.certificate))
        refused(make_context, stranger, "certificate is refused: unable to get local issuer")
        elsewhere = server.config("grid", ca=str(ours.certificate), url=server.url.replace("127.0.0.1", "127.0.0.2"))
        with store_at(make_context, elsewhere) as (store, _), pytest.raises(RetryableError, match="refused"):
            store.open()


def test_server_that_is_away_is_retryable(make_context: ContextMaker) -> None:
    config = InfluxdbConfig(url="http://127.0.0.1:1", database="grid")
    with store_at(make_context, config) as (store, _), pytest.raises(RetryableError, match="Connection refused"):
        store.open()


WRITTEN = Reply(status=204)
VERSION = json_reply({"results": [{"series": [{"name": "edgeflex_store", "columns": [], "values": [[0, 1]]}]}]})


@contextmanager
def answering(*replies: Reply) -> Iterator[tuple[HttpService, InfluxdbConfig]]:
    """A server that holds a store and answers a write so."""
    with HttpService() as service:
        service.answers("/query", VERSION)
        service.answers("/write", *replies)
        yield service, InfluxdbConfig(url=service.url, database="grid")


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply(status=status) for status in (200, 202, 302, 402, 405, 409, 418, 500, 503)),
        Reply(status=400, body=b"bad request"),
        Reply(status=404, body=b"<html>no such page"),
    ],
    ids=lambda reply: str(reply.status),
)
def test_answer_that_is_not_foreseen_loses_nothing(make_context: ContextMaker, reply: Reply) -> None:
    with answering(reply, WRITTEN) as (service, config), sink(make_context, config) as (opened, context):
        opened.write([grid([0, 1])])
        assert opened.flush(10.0)
        counters = context.counters
        assert [counters.get(name) for name in ("retries", "rows", "not_storable")] == [1, 2, 0]
        first, second = service.of("/write")
        assert first.body == second.body
    assert make_context.failures == []


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (Reply(status=401, body=b"who"), "refused user 'None': who"),
        (Reply(status=403, body=b"may not"), "refused user 'None': may not"),
        (Reply(status=407, body=b"who"), "a proxy before the server wants a login"),
        (Reply(status=404, body=b'{"error":"database not found: \\"grid\\""}'), "database not found"),
    ],
    ids=lambda each: str(each.status) if isinstance(each, Reply) else "",
)
def test_answer_that_no_attempt_changes_is_fatal(make_context: ContextMaker, reply: Reply, complaint: str) -> None:
    with (
        answering(reply) as (_, config),
        store_at(make_context, config) as (store, context),
        pytest.raises(FatalError, match=complaint),
    ):
        store.write([grid([0])], [])
    assert context.counters.get("not_storable") == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("partial write: points beyond retention policy dropped=7", 7),
        ("partial write: unable to parse 'a': x\nunable to parse 'b': x dropped=0", 2),
        ("unable to parse 'a': missing fields", 1),
    ],
)
def test_points_that_the_server_names_cost_nothing_beside_them(
    make_context: ContextMaker, text: str, count: int
) -> None:
    reply = json_reply({"error": text}, status=400)
    with answering(reply) as (_, config), store_at(make_context, config) as (store, context):
        store.write([grid(range(9))], [])
    assert context.counters.get("not_storable") == count


def test_what_the_server_drops_does_not_count_as_committed(make_context: ContextMaker) -> None:
    drop = json_reply({"error": "partial write: points beyond retention policy dropped=5"}, status=400)
    with answering(drop, drop, WRITTEN) as (_, config), sink(make_context, config) as (opened, context):
        opened.write([grid([0, 1, 2], x_v=1.0, y_a=1.0), *(alarm(str(number)) for number in range(7))])
        opened.write([grid([3], x_v=1.0, y_a=math.inf), grid([4], x_v=math.inf), grid([5], x_v=math.nan, y_a=1.0)])
        assert opened.flush(10.0)
        counters = context.counters
        told = {name: counters.get(name) for name in ("rows", "values", "messages", "not_storable")}
    # Of 8 values five were dropped: three are left, in at most three rows.
    assert told == {"rows": 3, "values": 3, "messages": 2, "not_storable": 12}


def test_what_cannot_be_stored_counts_once_however_often_it_is_tried(make_context: ContextMaker) -> None:
    away = Reply(status=503)
    with answering(away, away, WRITTEN) as (_, config), sink(make_context, config) as (opened, context):
        opened.write([grid([0]), grid([1], x_v=math.inf), msgspec.structs.replace(alarm(), text="x" * 70_000)])
        assert opened.flush(10.0)
        names = ("retries", "rows", "values", "messages", "not_storable")
        assert [context.counters.get(name) for name in names] == [2, 1, 1, 0, 2]


@pytest.mark.parametrize("reply", [Reply(body=b"<html>Welcome"), Reply(status=302), Reply(status=502)])
def test_query_that_somebody_else_answers_is_retryable(make_context: ContextMaker, reply: Reply) -> None:
    with answering(WRITTEN) as (service, config), store_at(make_context, config) as (store, _):
        service.answers("/query", reply)
        with pytest.raises(RetryableError, match=r"grid: (did not answer|answered with HTTP status)"):
            store.open()


def test_authority_that_cannot_be_read_is_fatal(make_context: ContextMaker) -> None:
    config = InfluxdbConfig(url="https://127.0.0.1:1", database="grid", ca="none.pem")
    with store_at(make_context, config) as (store, _), pytest.raises(FatalError, match=r"none\.pem' cannot be read"):
        store.open()


@needs_server
@pytest.mark.long
def test_flow_goes_on_while_the_server_is_away_and_everything_arrives_once(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    with Influxdb(tmp_path) as server:
        with sink(make_context, server.config("grid")) as (opened, context):
            for second in range(10):
                opened.write([grid([second]), alarm(str(second), at(second))])
            assert opened.flush(10.0)
            server.kill()
            for second in range(10, 20):
                opened.write([grid([second]), alarm(str(second), at(second))])
            wait_until(lambda: context.counters.get("retries"))
            assert not opened.flush(0.1)
            server.start()
            assert opened.flush(30.0)
            assert context.counters.get("rows") == context.counters.get("messages") == 20
            assert context.counters.get("overflow_rows") == context.counters.get("lost_rows") == 0
        with store_at(make_context, server.config("grid")) as (store, _):
            assert store.read().time_ns.tolist() == [at(second) for second in range(20)]
            assert len(store.read_messages(["alarm"], at(0), at(99))) == 20
    assert make_context.failures == []


def test_password_is_in_no_text_of_a_config() -> None:
    config = InfluxdbConfig(url="http://db", database="grid", username="flow", password="hunter2")
    assert "hunter2" not in f"{config!r} {config.__rich_repr__()}"
