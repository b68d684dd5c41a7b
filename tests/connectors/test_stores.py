"""What every store must do, whatever it is: written once, run on each."""

from __future__ import annotations

import itertools
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from databases import PASSWORD, Influxdb, Postgres
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import SECOND_NS, alarm, at, event, grid, kept, table

from edgeflex_connectors import influxdb, parquet, postgres, sqlite
from edgeflex_connectors.store import (
    EARLIEST_NS,
    LATEST_NS,
    MOST_NAME_BYTES,
    Downsampling,
    Series,
    Span,
    Store,
    StoreConfig,
    StoredMessage,
    WindowTooLargeError,
)
from edgeflex_connectors.store_window import pieces
from edgeflex_connectors.upkeep import Upkeep
from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import Samples, join_samples, samples_from_rows
from edgeflex_flow.node import ConnectionNode, Probe

if TYPE_CHECKING:
    from conftest import ContextMaker

MEAN = Series(10 * SECOND_NS, "mean")
NAN = float("nan")


class Place:
    """Where one store is: `open()` gives it, again and again the same; `fresh()` gives a new place."""

    def __init__(self, node: ConnectionNode[Any], make_context: ContextMaker, make_config: Callable[..., Any]) -> None:
        self._node = node
        self._make_context = make_context
        self._make_config = make_config
        self._fields = make_config()

    def config(self, **fields: Any) -> StoreConfig:
        config: StoreConfig = self._node.config(**{**self._fields, **fields})
        return config

    def unopened(self) -> Store:
        store: Store = self._node.open(self.config(), self._make_context("archive"))
        return store

    @contextmanager
    def open(self) -> Iterator[Store]:
        with closing(self.unopened()) as store:
            store.open()
            yield store

    def tried(self) -> Probe:
        assert self._node.probe is not None
        return self._node.probe(self.config(), self._make_context("archive"))

    def fresh(self) -> Place:
        return Place(self._node, self._make_context, self._make_config)

    def upkeep(self, **fields: Any) -> Upkeep:
        return Upkeep(self.unopened(), self.config(**fields), self._make_context("archive"))


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[Postgres]:
    with Postgres(settings=["fsync=off"]) as server:
        server.make_database("grid")
        yield server


@pytest.fixture(scope="module")
def influxdb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxdb]:
    with Influxdb(tmp_path_factory.mktemp("influxdb")) as server:
        yield server


@pytest.fixture(
    params=[
        "sqlite",
        "parquet",
        pytest.param("postgres", marks=pytest.mark.needs("postgres")),
        pytest.param("influxdb", marks=pytest.mark.needs("influxd")),
    ]
)
def place(request: pytest.FixtureRequest, make_context: ContextMaker) -> Place:
    numbers = itertools.count()
    if request.param == "sqlite":
        return Place(sqlite.NODE, make_context, lambda: {"path": f"history{next(numbers)}.db"})
    if request.param == "parquet":
        return Place(parquet.NODE, make_context, lambda: {"path": f"history{next(numbers)}"})
    if request.param == "influxdb":
        influxdb_server: Influxdb = request.getfixturevalue("influxdb_server")
        common = {"url": influxdb_server.url, "username": "flow", "password": PASSWORD}
        return Place(influxdb.NODE, make_context, lambda: {**common, "database": f"d{uuid.uuid4().hex}"})
    server: Postgres = request.getfixturevalue("postgres_server")
    start = f"s{abs(hash(request.node.name))}"

    def fields() -> dict[str, Any]:
        config = server.config("grid")
        names = ("url", "username", "password", "tls")
        return {"schema": f"{start}_{next(numbers)}", **{name: getattr(config, name) for name in names}}

    return Place(postgres.NODE, make_context, fields)


def test_samples_come_back_with_names_times_and_quality(place: Place) -> None:
    good = samples_from_rows([(2, "B", {"x_v": 1.5, "y_a": -3.0}), (1, "A", {"x_v": NAN, "y_a": 2.0})])
    doubtful = samples_from_rows([(3, "A", {"x_v": 4.0})], quality=0x1FF)
    with place.open() as store:
        store.write([good, doubtful], [])
        found = store.read()
    assert list(found.problems()) == []
    assert found.time_ns.tolist() == [1, 2, 3]
    assert table(found) == {
        (1, "A"): ({"y_a": 2.0}, 0),
        (2, "B"): ({"x_v": 1.5, "y_a": -3.0}, 0),
        (3, "A"): ({"x_v": 4.0}, 0x1FF),
    }


def test_batch_that_is_written_twice_is_kept_once(place: Place) -> None:
    batch = grid(range(50), ["G1", "G2"], x_v=1.0, y_a=2.0)
    messages = kept(alarm(), event())
    with place.open() as store:
        for _ in range(3):
            store.write([batch], messages)
        store.write([batch, batch], [*messages, *messages])
    with place.open() as store:
        assert table(store.read()) == table(batch)
        assert store.read().rows == batch.rows
        assert store.read_messages(["alarm", "frequency_event"], EARLIEST_NS, LATEST_NS) == messages


def test_same_device_time_and_column_is_replaced_and_the_last_wins(place: Place) -> None:
    first, second, third = (grid([0], x_v=value, quality=flag) for value, flag in ((1.0, 1), (2.0, 2), (3.0, 0)))
    with place.open() as store:
        store.write([first, second], [])
        assert table(store.read()) == table(second)
        store.write([third], [])
        assert table(store.read()) == table(third)


def test_missing_value_leaves_a_stored_value_as_it_is(place: Place) -> None:
    with place.open() as store:
        store.write([grid([0], x_v=1.0)], [])
        store.write([grid([0], x_v=NAN)], [])
        store.write([grid([1], x_v=2.0), grid([1], x_v=NAN)], [])
        found = table(store.read())
    assert found == {(at(0), "G1"): ({"x_v": 1.0}, 0), (at(1), "G1"): ({"x_v": 2.001}, 0)}


def test_columns_of_one_row_may_come_one_after_the_other_with_flags_of_their_own(place: Place) -> None:
    with place.open() as store:
        store.write([grid([0], quality=1, x_v=1.0)], [])
        store.write([grid([0], quality=2, y_a=2.0)], [])
        assert table(store.read()) == {(at(0), "G1"): ({"x_v": 1.0, "y_a": 2.0}, 3)}
        assert table(store.read(["x_v"])) == {(at(0), "G1"): ({"x_v": 1.0}, 1)}


KEYS = st.tuples(st.integers(0, 5), st.sampled_from(["A", "B", "é, =\"'\\ x"]))
FINITE = st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: value != 0.0)
ROWS = st.dictionaries(
    KEYS,
    st.tuples(st.dictionaries(st.sampled_from(["x_v", "y_a"]), FINITE, min_size=1), st.integers(0, 0x1FF)),
    min_size=1,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, max_size=4))
def test_store_holds_bit_for_bit_what_a_dictionary_would(place: Place, writes: list[Any]) -> None:
    values: dict[tuple[int, str, str], tuple[float, int]] = {}
    with place.fresh().open() as store:
        for write in writes:
            batches = [
                samples_from_rows([(time_ns, device, row)], quality=flags)
                for (time_ns, device), (row, flags) in write.items()
            ]
            store.write(batches, [])
            for (time_ns, device), (row, flags) in write.items():
                values.update({(time_ns, device, name): (value, flags) for name, value in row.items()})
        found = table(store.read())
    expected: dict[tuple[int, str], tuple[dict[str, float], int]] = {}
    for (time_ns, device, name), (value, flags) in values.items():
        row, joined = expected.get((time_ns, device), ({}, 0))
        expected[time_ns, device] = ({**row, name: value}, joined | flags)
    assert found == expected


def test_window_columns_and_devices_are_what_was_asked_for(place: Place) -> None:
    with place.open() as store:
        store.write([grid(range(10), ["A", "B", "C"], quality=3, x_v=1.0, y_a=-1.0)], [])
        found = store.read(["y_a", "none_v"], at(2), at(4), ["C", "nobody", "A"])
        assert found.time_ns.tolist() == [at(2), at(2), at(3), at(3)]
        assert [found.devices[code] for code in found.device] == ["C", "A", "C", "A"]
        assert list(found.columns) == ["y_a", "none_v"]
        assert np.isnan(found.columns["none_v"]).all()
        assert found.quality.tolist() == [3] * 4
        assert store.read(begin_ns=at(99)).rows == 0


def test_more_values_than_can_be_read_are_refused(place: Place) -> None:
    with place.open() as store:
        store.write([grid(range(10), x_v=1.0, y_a=1.0)], [])
        with pytest.raises(WindowTooLargeError, match="more than 19 values of that time; read a shorter one"):
            store.read(most_values=19)
        assert store.read(["x_v"], most_values=10).rows == 10


def test_span_tells_the_first_and_last_time(place: Place) -> None:
    with place.open() as store:
        assert store.span() is None
        store.write([grid([5, 6, 20]), grid([7], ["late"], y_a=1.0)], [])
        assert store.span() == Span(at(5), at(20))
        assert store.span(at(6), at(20)) == Span(at(6), at(7))
        assert store.span(at(8), at(20)) is None


def test_messages_come_in_order_of_time_by_type_and_window(place: Place) -> None:
    written = [alarm("b", at(2)), alarm("a", at(1)), event(time_ns=at(1)), event(state="ended", time_ns=at(1))]
    with place.open() as store:
        store.write([], kept(*written))
        assert store.read_messages(["alarm"], at(0), at(9)) == kept(written[1], written[0])
        assert store.read_messages(["alarm"], at(1), at(2)) == kept(written[1])
        found = store.read_messages(["frequency_event"], at(1), at(2))
        assert sorted(each.id for each in found) == sorted(each.id for each in kept(*written[2:]))
        assert store.read_messages(["crossing"], at(0), at(9)) == []


def test_newest_message_is_known_and_those_without_a_time_do_not_count(place: Place) -> None:
    [timeless] = [msgspec.structs.replace(each, time_ns=None) for each in kept(alarm("none"))]
    with place.open() as store:
        assert store.last_message_ns() is None
        store.write([grid([9])], [timeless])
        assert store.last_message_ns() is None
        store.write([], kept(alarm("a", at(5)), event(time_ns=at(2)), alarm("b", at(1))))
        assert store.last_message_ns() == at(5)
        assert store.last_message_ns(at(5)) == at(2)
        assert store.last_message_ns(at(1)) is None


def test_message_that_is_hard_to_write_comes_back_as_it_is(place: Place) -> None:
    [hard] = kept(alarm("quotes \" and ' and \\ and\n, = NUL \0 é 🔌"))
    with place.open() as store:
        store.write([], [hard])
        assert store.read_messages(["alarm"], at(0), at(1)) == [hard]


def test_longest_names_are_kept(place: Place) -> None:
    """Letters at random: PostgreSQL compresses others before it finds them too long."""
    random = np.random.default_rng(1)
    names = ["".join(map(chr, random.integers(0x21, 0x7F, MOST_NAME_BYTES))) for _ in range(4)]
    written = samples_from_rows([(1, "\0" * MOST_NAME_BYTES, {names[0]: 1.0}), (1, names[1], {names[0]: 2.0})])
    message = StoredMessage(type=names[2], id=names[3], time_ns=1, device=names[1], body=b"{}")
    with place.open() as store:
        store.write([written], [message])
        found = store.read()
        assert found.rows == 2
        assert names[1] in found.devices
        assert list(found.columns) == names[:1]
        assert store.read_messages([names[2]], 0, 2) == [message]


def test_history_goes_on_after_reopening(place: Place) -> None:
    for second in range(3):
        with place.open() as store:
            store.write([grid([second])], [])
            store.sync()
    with place.open() as store:
        assert store.read().time_ns.tolist() == [at(0), at(1), at(2)]


def test_store_is_read_without_being_opened(place: Place) -> None:
    with place.open() as store:
        store.write([grid([0])], kept(alarm()))
    with closing(place.unopened()) as store:
        assert store.read().rows == 1
        assert store.span() == Span(at(0), at(0))
        assert store.read_messages(["alarm"], at(0), at(1)) == kept(alarm())


def test_store_that_does_not_exist_is_fatal_when_read_and_not_made(place: Place) -> None:
    for _ in range(2):
        with closing(place.unopened()) as store, pytest.raises(FatalError):
            store.read()


def test_two_stores_write_to_one_place(place: Place) -> None:
    with place.open() as first, place.open() as second:
        for number in range(10):
            for store, device in ((first, "A"), (second, "B")):
                store.write([grid([number], [device])], [])
        assert first.read().rows == second.read().rows == 20


def test_down_sampled_values_stand_beside_the_samples(place: Place) -> None:
    with place.open() as store:
        assert store.made_until(MEAN) is None
        store.write([grid(range(20))], [])
        store.write_series(MEAN, [grid([0], quality=16), grid([0], y_a=1.0)], at(10))
        store.write_series(MEAN, [grid([0, 10], x_v=7.0)], at(20))
        assert store.made_until(MEAN) == at(20)
        store.write_series(MEAN, [], at(10))
        assert store.made_until(MEAN) == at(20)
        assert store.read().rows == 20
        assert table(store.read(series=MEAN)) == {
            (at(0), "G1"): ({"x_v": 7.0, "y_a": 1.0}, 0),
            (at(10), "G1"): ({"x_v": 7.01}, 0),
        }
        assert store.span(series=MEAN) == Span(at(0), at(10))
        other = Series(MEAN.every_ns, "max")
        assert (store.read(series=other).rows, store.span(series=other), store.made_until(other)) == (0, None, None)


DAY = 86_400


def test_what_is_old_is_deleted_and_nothing_else(place: Place) -> None:
    days = [number * DAY for number in range(10)]
    with place.open() as store:
        store.write([grid(days, ["A", "B"])], kept(alarm("a", at(DAY)), alarm("b", at(6 * DAY))))
        store.write_series(MEAN, [grid(days)], at(10 * DAY))
        store.delete("samples", at(4 * DAY))
        assert store.read().time_ns.tolist() == [at(day) for day in days[4:] for _ in range(2)]
        store.delete(MEAN, at(7 * DAY))
        assert store.span(series=MEAN) == Span(at(7 * DAY), at(9 * DAY))
        store.delete("messages", at(5 * DAY))
        assert store.read_messages(["alarm"], at(0), at(9 * DAY)) == kept(alarm("b", at(6 * DAY)))
        store.delete("samples", at(99 * DAY))
        assert store.read().rows == 0
        store.write([grid([3])], [])
        assert store.read().rows == 1


def test_upkeep_down_samples_and_deletes(place: Place) -> None:
    upkeep = place.upkeep(keep=7200.0, downsample=(Downsampling(every=10.0, keep=10 * 3600.0),))
    with place.open() as store:
        store.write([grid([0, 1, 10, 6120, 14_400, 19_800], ["A", "B"], x_v=1.0)], [])
        upkeep.run_once(at(19_900))
        assert store.read().time_ns.tolist() == [at(14_400), at(14_400), at(19_800), at(19_800)]
        means = {
            (time_ns, device): row["x_v"] for (time_ns, device), (row, _) in table(store.read(series=MEAN)).items()
        }
        expected = {(at(second), "A"): 1.0 + second / 1000 for second in (10, 6120, 14_400, 19_800)}
        expected[at(0), "A"] = 1.0005
        expected.update({(time_ns, "B"): value for (time_ns, _), value in expected.items()})
        assert means == pytest.approx(expected)
    upkeep._store.close()


def test_pieces_make_the_whole_window(place: Place) -> None:
    written = grid([0, 1, 1000, *(2000 + number / 50 for number in range(100))], ["A", "B"], x_v=1.0, y_a=2.0)
    with place.open() as store:
        store.write([written], [])
        found = [piece.samples for piece in pieces(store) if piece.samples is not None]
    joined: Samples = join_samples(found)
    assert table(joined) == table(written)
    assert joined.rows == written.rows
    assert np.all(np.diff(joined.time_ns) >= 0)


@pytest.mark.parametrize(
    ("node", "library", "fields"),
    [
        (postgres.NODE, "psycopg", {"url": "postgresql://db/grid"}),
        (influxdb.NODE, "httpx", {"url": "http://db", "database": "grid"}),
        (parquet.NODE, "pyarrow", {"path": "history"}),
    ],
    ids=lambda each: getattr(each, "kind", None),
)
def test_missing_library_is_told_with_what_to_install(
    make_context: ContextMaker,
    monkeypatch: pytest.MonkeyPatch,
    node: ConnectionNode[Any],
    library: str,
    fields: dict[str, Any],
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    told = rf"{node.kind} needs {library}: pip install 'PATH/TO/edgeflex-flow\[{node.kind}\]'"
    with pytest.raises(FatalError, match=told):
        node.open(node.config(**fields), make_context("archive"))


def test_trying_a_store_makes_nothing_and_tells_what_is_there(place: Place) -> None:
    assert "no store yet" in place.tried().peer
    with place.open() as store:
        store.write([grid([0.0, 2.0])], [])
    assert place.tried().peer == "samples until 2023-11-14 22:13:22 UTC"
