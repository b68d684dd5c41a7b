from __future__ import annotations

import select
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from broker import wait_until
from stores import SECOND_NS, START_NS, alarm, at, event, grid, kept, table

from edgeflex_connectors import sqlite, store_read, store_window
from edgeflex_connectors.sqlite import SqliteConfig, SqliteStore
from edgeflex_connectors.store import Series, StoredMessage
from edgeflex_connectors.store_read import ReadAhead, StoreReadConfig
from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import Alarm, Message, Quality, Samples, join_samples
from edgeflex_flow.node import Context, OpenConnection, Source, WireMessage

if TYPE_CHECKING:
    from conftest import ContextMaker


def store(folder: Path, samples: Sequence[Samples], messages: Sequence[StoredMessage] = ()) -> None:
    with closing(SqliteStore(SqliteConfig(path="h.db"), folder / "h.db")) as opened:
        opened.open()
        opened.write(samples, messages)


@contextmanager
def source(
    make_context: ContextMaker, *, clock: VirtualClock | None = None, **fields: Any
) -> Iterator[tuple[Source, Context]]:
    config = SqliteConfig(path="h.db", busy_timeout=0.01)
    context = make_context("replay", clock=clock, connections={"store": OpenConnection("history", sqlite.NODE, config)})
    wanted: dict[str, Any] = {"columns": ("x_v",), **fields}
    opened = store_read.NODE.open(StoreReadConfig(store="history", **wanted), context)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


def is_readable(opened: Source, wait_s: float) -> bool:
    descriptor = opened.fileno()
    assert descriptor is not None
    return bool(select.select([descriptor], [], [], wait_s)[0])


def drain(opened: Source) -> list[WireMessage]:
    """All that the source gives, polled as the feed does."""
    given: list[WireMessage] = []
    while not opened.ended:
        if opened.next_poll_ns() is None:
            assert is_readable(opened, 20.0), "nothing came"
        given.extend(opened.poll())
    return given


def rows(given: Sequence[WireMessage]) -> Samples:
    return join_samples([each for each in given if isinstance(each, Samples)])


def seconds(given: Sequence[WireMessage]) -> list[float]:
    return [
        (int(time_ns) - START_NS) / SECOND_NS for each in given if isinstance(each, Samples) for time_ns in each.time_ns
    ]


def test_a_whole_store_comes_in_order_of_time_and_marked_as_replayed(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    written = grid(range(10), ["G2", "G1"], quality=Quality.SYNC_LOST, x_v=1.0, y_a=2.0)
    store(tmp_path, [written])
    with source(make_context, columns=("y_a", "x_v")) as (opened, _):
        given = drain(opened)
    marked = msgspec.structs.replace(written, quality=written.quality | np.uint16(Quality.REPLAYED))
    assert table(rows(given)) == table(marked)
    assert seconds(given) == sorted(seconds(given))


@pytest.mark.parametrize("wanted", [1, 7, 1_000])
def test_pieces_of_any_size_make_the_same_window(
    tmp_path: Path, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch, wanted: int
) -> None:
    monkeypatch.setattr(store_window, "WANTED_VALUES", wanted)
    monkeypatch.setattr(store_window, "MOST_VALUES", 4 * wanted)
    sparse, dense = [0, 86_400 * 30, 86_400 * 31], [86_400 * 40 + number / 50 for number in range(200)]
    store(tmp_path, [grid([*sparse, *dense], ["G1", "G2"])])
    with source(make_context, begin="2023-11-14T00:00:00Z") as (opened, _):
        given = drain(opened)
    assert seconds(given) == [each for each in [*sparse, *dense] for _ in range(2)]
    assert len({id(each.devices) for each in given if isinstance(each, Samples)}) == 1


def test_window_devices_and_columns_are_those_asked_for(tmp_path: Path, make_context: ContextMaker) -> None:
    store(tmp_path, [grid(range(10), ["G1", "G2"], x_v=1.0, y_a=2.0)])
    with source(make_context, devices=("G2",), begin="2023-11-14T22:13:22Z", end="2023-11-14T23:13:25+01:00") as (
        opened,
        _,
    ):
        given = drain(opened)
    assert seconds(given) == [2, 3, 4]
    assert {(rows(given).devices[code], *rows(given).columns) for code in rows(given).device} == {("G2", "x_v")}


def test_last_stretch_of_time_ends_when_the_flow_starts(tmp_path: Path, make_context: ContextMaker) -> None:
    store(tmp_path, [grid(range(10))])
    with source(make_context, clock=VirtualClock(at(8)), last=3.0) as (opened, _):
        assert seconds(drain(opened)) == [5, 6, 7]


def test_batches_hold_no_more_rows_than_told(tmp_path: Path, make_context: ContextMaker) -> None:
    store(tmp_path, [grid([number / 10 for number in range(10)])])
    with source(make_context, batch_rows=4) as (opened, _):
        assert [each.rows for each in drain(opened) if isinstance(each, Samples)] == [4, 4, 2]


def test_messages_come_after_the_samples_of_their_time(tmp_path: Path, make_context: ContextMaker) -> None:
    messages = [alarm("before", at(-5)), event(time_ns=at(1)), alarm("after", at(99)), alarm("between", at(1.5))]
    store(tmp_path, [grid(range(3))], kept(*messages))
    with source(make_context, messages=("alarm", "frequency_event")) as (opened, _):
        given = drain(opened)
    order: list[float | str] = []
    for each in given:
        if isinstance(each, Samples):
            order += seconds([each])
        else:
            order.append(each.text if isinstance(each, Alarm) else "event")
    assert order == ["before", 0, 1, "event", "between", 2, "after"]
    found = [each for each in given if isinstance(each, Message)]
    assert len(found) == len(messages)
    assert all(each in found for each in messages)


def test_messages_alone_can_be_asked_for(tmp_path: Path, make_context: ContextMaker) -> None:
    store(tmp_path, [grid(range(3))], kept(alarm(), event()))
    with source(make_context, columns=(), messages=("alarm",)) as (opened, _):
        assert drain(opened) == [alarm()]


def test_message_that_does_not_read_is_a_dead_letter(tmp_path: Path, make_context: ContextMaker) -> None:
    broken = StoredMessage(type="alarm", id="1", time_ns=at(0), device=None, body=b'{"type":"alarm"}')
    store(tmp_path, [], [broken, *kept(alarm())])
    with source(make_context, messages=("alarm",)) as (opened, _):
        assert drain(opened) == [alarm()]
    assert [reason for reason, _, _ in make_context.dead_letters] == ["bad_message"]


def test_values_of_a_down_sampling_rule_are_given(tmp_path: Path, make_context: ContextMaker) -> None:
    with closing(SqliteStore(SqliteConfig(path="h.db"), tmp_path / "h.db")) as opened_store:
        opened_store.open()
        opened_store.write([grid(range(10))], [])
        opened_store.write_series(Series(SECOND_NS, "max"), [grid([3, 4])], at(5))
    with source(make_context, every=1.0, how="max") as (opened, _):
        assert seconds(drain(opened)) == [3, 4]
    with source(make_context, every=1.0) as (opened, _):
        assert drain(opened) == []


def test_pace_follows_the_time_tags(tmp_path: Path, make_context: ContextMaker) -> None:
    store(tmp_path, [grid(range(6))])
    clock = VirtualClock(at(0))
    with source(make_context, clock=clock, speed=2.0) as (opened, _):
        begin_ns = clock.monotonic_ns()
        wait_until(lambda: opened.next_poll_ns() is not None or (not list(opened.poll()) and False))
        given: list[tuple[float, list[float]]] = []
        while not opened.ended:
            due_ns = opened.next_poll_ns()
            if due_ns is None:
                assert is_readable(opened, 20.0)
            else:
                clock.advance_to(clock.now_ns() + max(0, due_ns - clock.monotonic_ns()))
            came = seconds(opened.poll())
            if came:
                given.append(((clock.monotonic_ns() - begin_ns) / SECOND_NS, came))
    assert given == [(number / 2, [float(number)]) for number in range(6)]


def test_what_has_been_taken_wakes_nobody() -> None:
    with closing(ReadAhead()) as ahead:
        assert not ahead.take()
        ahead.put(None)  # wakes who has just found nothing
        assert ahead.take() == (None,)
        assert not select.select([ahead], [], [], 0)[0]


def test_descriptor_is_silent_while_the_next_row_is_not_due(tmp_path: Path, make_context: ContextMaker) -> None:
    store(tmp_path, [grid([0, 60_000])])  # far off, on a busy machine too
    with source(make_context, speed=1.0) as (opened, _):
        given: list[float] = []
        while not given:
            given += seconds(opened.poll())
        wait_until(lambda: seconds(opened.poll()) or opened.next_poll_ns() is not None)
        assert not is_readable(opened, 0.05)


def test_store_that_does_not_exist_ends_the_flow(make_context: ContextMaker) -> None:
    with pytest.raises(FatalError, match="there is no such file"), source(make_context) as (opened, _):
        drain(opened)


def test_store_that_is_away_is_tried_again_where_it_was(tmp_path: Path, make_context: ContextMaker) -> None:
    store(tmp_path, [grid(range(5))])
    other = sqlite3.connect(tmp_path / "h.db", isolation_level=None)
    other.execute("PRAGMA locking_mode=exclusive")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("DELETE FROM messages")
    with source(make_context) as (opened, context):
        wait_until(lambda: context.counters.get("retries"))
        other.close()
        assert seconds(drain(opened)) == [0, 1, 2, 3, 4]


def test_flow_that_stops_does_not_wait_for_the_rest(tmp_path: Path, make_context: ContextMaker) -> None:
    store(tmp_path, [grid([day * 86_400 for day in range(500)])])
    with source(make_context) as (opened, _):
        opened.poll()


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"columns": ()}, "give `columns`, `messages` or both"),
        ({"begin": "yesterday"}, "a time in ISO 8601 is expected"),
        ({"begin": "2026-05-01T10:00:00"}, "the time needs its zone"),
        ({"end": "9999-05-01T10:00:00Z"}, "the time is between 1678 and 2262"),
        ({"begin": "2026-05-01T10:00:00Z", "end": "2026-05-01T10:00:00Z"}, "`begin` is not before `end`"),
        ({"last": 5.0, "end": "2026-05-01T10:00:00Z"}, "`last` stands instead of"),
    ],
)
def test_windows_that_make_no_sense_are_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert({"store": "h", "columns": ("x_v",), **fields}, StoreReadConfig)
