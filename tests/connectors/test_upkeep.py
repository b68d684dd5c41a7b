from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from broker import wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import SECOND_NS, alarm, at, grid, kept, table

from edgeflex_connectors import sqlite, store_write, upkeep
from edgeflex_connectors.downsampling import downsampled
from edgeflex_connectors.sqlite import SqliteConfig, SqliteStore
from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS, Downsampling, Series
from edgeflex_connectors.store_write import StoreWriteConfig
from edgeflex_connectors.upkeep import Newest, Upkeep
from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.errors import RetryableError
from edgeflex_flow.messages import Quality, Samples, join_samples, samples_from_rows
from edgeflex_flow.node import OpenConnection

if TYPE_CHECKING:
    from conftest import ContextMaker

TEN_S = Downsampling(every=10.0)
MEAN = TEN_S.series


class Kept:
    """A store with upkeep, in which time is what the test says."""

    def __init__(self, make_context: ContextMaker, **config: Any) -> None:
        self.config = SqliteConfig(path="h.db", **config)
        self.store = SqliteStore(self.config, make_context.folder / "h.db")
        self.context = make_context("archive")
        self.upkeep = Upkeep(SqliteStore(self.config, make_context.folder / "h.db"), self.config, self.context)
        self.store.open()

    def write(self, samples: Samples) -> None:
        self.store.write([samples], [])
        self.upkeep.note(samples)

    def values(self, series: Series | None = None) -> dict[tuple[int, str], tuple[dict[str, float], int]]:
        return table(self.store.read(series=series))

    def seconds(self, series: Series | None = None) -> list[float]:
        return [(time_ns - at(0)) / SECOND_NS for time_ns, _ in self.values(series)]

    def close(self) -> None:
        self.store.close()
        self.upkeep._store.close()


def hourly(first: int, last: int, devices: Sequence[str] = ("G1",)) -> Samples:
    """A row each hour from this one to that one."""
    return grid([hour * 3600 for hour in range(first, last + 1)], devices, x_v=1.0, y_a=1.0)


@pytest.fixture
def make_kept(make_context: ContextMaker) -> Iterator[Any]:
    made: list[Kept] = []

    def make(**config: Any) -> Kept:
        made.append(Kept(make_context, **config))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_interval_is_down_sampled_a_minute_after_its_end(make_kept: Any) -> None:
    store = make_kept(downsample=(TEN_S,))
    store.write(grid(range(20), ["G1", "G2"], quality=Quality.SYNC_LOST))
    store.upkeep.run_once(at(79.999))
    assert store.seconds(MEAN) == [0, 0]
    store.upkeep.run_once(at(80))
    flags = Quality.SYNC_LOST | Quality.ESTIMATED
    expected = {
        (at(begin), device): ({"x_v": pytest.approx(1.0 + (begin + 4.5) / 1000)}, flags)
        for begin in (0, 10)
        for device in ("G1", "G2")
    }
    assert store.values(MEAN) == expected
    assert store.context.counters.get("downsampled") == 4


def test_rules_keep_minimum_and_maximum_beside_the_mean(make_kept: Any) -> None:
    rules = tuple(Downsampling(every=10.0, how=how) for how in ("mean", "min", "max"))
    store = make_kept(downsample=rules)
    store.write(grid([0, 1, 5]))
    store.upkeep.run_once(at(100))
    found = [store.values(rule.series)[at(0), "G1"][0]["x_v"] for rule in rules]
    assert found == pytest.approx([1.002, 1.0, 1.005])


def test_rows_that_come_late_are_down_sampled_again(make_kept: Any) -> None:
    store = make_kept(downsample=(TEN_S, Downsampling(every=3600.0)))
    store.write(grid([0, 3600 * 3]))
    store.upkeep.run_once(at(3600 * 4))
    store.write(grid([4], x_v=3.0))
    store.upkeep.run_once(at(3600 * 4 + 10))
    assert store.values(MEAN)[at(0), "G1"][0]["x_v"] == pytest.approx(2.002)
    [hour, _] = store.values(Downsampling(every=3600.0).series).values()
    assert hour[0]["x_v"] == pytest.approx(2.002)


@pytest.mark.parametrize("ahead", [3600.0, 1e9])
@pytest.mark.parametrize("every", [10.0, 3600.0])
def test_clock_that_is_ahead_for_one_round_leaves_no_interval_half_made(
    make_kept: Any, ahead: float, every: float
) -> None:
    rule = Downsampling(every=every)
    store = make_kept(downsample=(rule,))
    store.write(grid(range(26), x_v=1.0))
    store.upkeep.run_once(at(26 + ahead))
    for first in range(26, 236, 10):
        store.write(grid(range(first, first + 10), x_v=2.0))
        store.upkeep.run_once(at(first + 10))
    store.upkeep.run_once(at(3600 * 3))
    [made] = downsampled(store.store.read(), rule.series)
    assert store.values(rule.series) == table(made)


def test_nothing_is_made_beyond_the_interval_of_the_newest_row(make_kept: Any) -> None:
    store = make_kept(downsample=(TEN_S,))
    store.write(grid([0, 25]))
    store.upkeep.run_once(at(10**9))
    assert store.store.made_until(MEAN) == at(30)


def test_rows_that_come_late_before_the_end_are_down_sampled_again_at_the_end(make_kept: Any) -> None:
    store = make_kept(downsample=(TEN_S,))
    store.write(grid([0]))
    store.upkeep.start()
    wait_until(lambda: store.seconds(MEAN) == [0], 10.0)
    store.write(grid([4], x_v=3.0))
    store.upkeep.close()
    assert store.values(MEAN)[at(0), "G1"][0]["x_v"] == pytest.approx(2.002)


def test_end_waits_a_bounded_time_for_late_rows_and_tells_of_those_left(
    make_kept: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_kept(downsample=(TEN_S,))
    store.write(grid([0]))
    store.upkeep.start()
    wait_until(lambda: store.seconds(MEAN) == [0], 10.0)
    store.write(grid([4], x_v=3.0))
    monkeypatch.setattr(upkeep, "CLOSE_S", 0)
    store.upkeep.close()
    assert store.values(MEAN)[at(0), "G1"][0]["x_v"] == 1.0
    told = "upkeep: not all rows that came late are down-sampled again: that takes longer than 0 s"
    assert caplog.messages == [told]


def test_late_rows_are_not_forgotten_while_the_store_is_away(make_kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_kept(downsample=(TEN_S,))
    store.write(grid([0, 100]))
    store.upkeep.run_once(at(200))
    store.write(grid([4, 104], x_v=3.0))

    def away(*_: Any) -> None:
        raise RetryableError("away")

    monkeypatch.setattr(SqliteStore, "write_series", away)
    with pytest.raises(RetryableError):
        store.upkeep.run_once(at(201))
    monkeypatch.undo()
    store.upkeep.run_once(at(202))
    assert [row["x_v"] for row, _ in store.values(MEAN).values()] == pytest.approx([2.002, 2.102])


def test_upkeep_goes_on_where_another_one_ended(make_kept: Any, make_context: ContextMaker) -> None:
    first = make_kept(downsample=(TEN_S,))
    first.write(grid(range(40)))
    first.upkeep.run_once(at(80))
    second = make_kept(downsample=(TEN_S,))
    second.upkeep.run_once(at(100))
    assert second.seconds(MEAN) == [0, 10, 20, 30]
    assert second.context.counters.get("downsampled") == 2


def test_backlog_with_a_gap_of_months_is_down_sampled(make_kept: Any) -> None:
    store = make_kept(downsample=(TEN_S,))
    store.write(grid([0, 5_000_000, 9_000_000]))
    store.upkeep.run_once(at(9_000_100))
    assert store.seconds(MEAN) == [0, 5_000_000, 9_000_000]


def test_samples_are_deleted_by_whole_hours_once_they_are_old(make_kept: Any) -> None:
    store = make_kept(keep=2 * 3600.0)
    store.write(hourly(0, 4, ["G1", "G2"]))
    store.upkeep.run_once(at(4 * 3600))
    # 22:13:20 + 2 h lies in the hour that begins at 00:00.
    assert set(store.seconds()) == {2 * 3600, 3 * 3600, 4 * 3600}
    assert store.context.counters.get("deleted") == 8


def test_samples_stay_until_every_rule_has_seen_them(make_kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_kept(keep=3600.0, downsample=(TEN_S,))
    store.write(hourly(0, 10))
    monkeypatch.setattr(Upkeep, "_downsample", lambda *_: None)
    store.upkeep.run_once(at(10 * 3600 + 100))
    assert len(store.seconds()) == 11
    monkeypatch.undo()
    store.upkeep.run_once(at(10 * 3600 + 100))
    assert store.seconds() == [9 * 3600, 10 * 3600]
    assert len(store.seconds(MEAN)) == 11


def test_late_row_of_a_deleted_hour_does_not_replace_what_was_made_of_it(make_kept: Any) -> None:
    store = make_kept(keep=3600.0, downsample=(TEN_S,))
    store.write(grid([1]))
    store.write(hourly(0, 10))
    store.upkeep.run_once(at(10 * 3600 + 100))
    store.write(grid([2], x_v=99.0))
    store.upkeep.run_once(at(10 * 3600 + 110))
    assert store.values(MEAN)[at(0), "G1"][0]["x_v"] == pytest.approx(1.0005)


def test_clock_that_runs_ahead_deletes_nothing(make_kept: Any) -> None:
    store = make_kept(keep=3600.0, keep_messages=3600.0, downsample=(Downsampling(every=10.0, keep=3600.0),))
    store.write(grid([0, 60]))
    store.store.write([], kept(alarm(time_ns=at(0))))
    store.upkeep.run_once(at(10**9))
    assert store.seconds() == [0, 60]
    assert store.seconds(MEAN) == [0, 60]
    assert len(store.store.read_messages(["alarm"], at(-1), at(1))) == 1


def test_clock_that_runs_ahead_deletes_nothing_of_a_store_that_holds_messages_only(make_kept: Any) -> None:
    store = make_kept(keep_messages=3600.0)
    store.upkeep.run_once(at(0))
    store.store.write([], kept(alarm("old", at(0)), alarm("a", at(2 * 3600)), alarm("b", at(3 * 3600))))
    store.upkeep.run_once(at(10**9))
    left = store.store.read_messages(["alarm"], at(-1), at(10**6))
    assert left == kept(alarm("a", at(2 * 3600)), alarm("b", at(3 * 3600)))


def test_row_from_the_future_deletes_nothing(make_kept: Any) -> None:
    store = make_kept(keep=3600.0)
    store.write(grid([0, 10**9]))
    store.upkeep.run_once(at(60))
    assert store.seconds() == [0, 10**9]


YEAR_S = 365 * 86_400


def everything(store: Any) -> tuple[list[float], list[float], int]:
    """The times of samples and of what was made of them, and how many messages there are."""
    messages = store.store.read_messages(["alarm"], at(-1), at(2 * YEAR_S))
    return store.seconds(), store.seconds(MEAN), len(messages)


@pytest.mark.parametrize("wrong", [[0], [0, 3600], range(0, 20 * 3600, 600)])
def test_rows_stamped_by_a_clock_that_runs_ahead_delete_nothing_also_after_a_restart(
    make_kept: Any, wrong: Sequence[float]
) -> None:
    rules = {"keep": 3600.0, "keep_messages": 3600.0, "downsample": (Downsampling(every=10.0, keep=3600.0),)}
    store = make_kept(**rules)
    store.write(hourly(0, 1))
    store.store.write([], kept(alarm("a", at(0)), alarm("b", at(3600))))
    for second in (YEAR_S + each for each in wrong):
        store.write(grid([second]))
        store.store.write([], kept(alarm("c", at(second))))
    for each in (store.upkeep, make_kept(**rules).upkeep):
        for later in (100, 200):
            each.run_once(at(YEAR_S + wrong[-1] + later))
            seconds, made, messages = everything(store)
            assert seconds[:2] == made[:2] == [0, 3600]
            assert (len(seconds), messages) == (2 + len(wrong), 2 + len(wrong))


def test_alarms_stamped_by_a_clock_that_runs_ahead_delete_nothing_of_a_store_without_samples(make_kept: Any) -> None:
    store = make_kept(keep_messages=3600.0)
    store.store.write([], kept(*(alarm("a", at(second)) for second in (0, 3600, YEAR_S, YEAR_S + 86_400))))
    store.upkeep.run_once(at(YEAR_S + 86_401))
    assert everything(store)[2] == 4


def test_age_goes_on_once_what_came_after_a_gap_reaches_over_as_much_as_it(make_kept: Any) -> None:
    store = make_kept(keep=3600.0)
    store.write(hourly(0, 1))
    for hour in range(101, 202):
        store.write(hourly(hour, hour))
        store.upkeep.run_once(at(hour * 3600))
        if hour < 130:
            assert store.seconds()[:2] == [0, 3600]
    assert store.seconds() == [200 * 3600, 201 * 3600]


@given(st.floats(1, 1e4), st.integers(2, 40))
def test_age_goes_on_where_rows_are_rare(apart_h: float, rows: int) -> None:
    times_ns = [round(place * apart_h * 3600 * SECOND_NS) for place in range(rows)]
    newest = Newest(lambda end_ns: max((each for each in times_ns if each < end_ns), default=None))
    assert newest.time_ns(2**62) in times_ns[-2:]


@given(st.lists(st.integers(EARLIEST_NS, LATEST_NS - 1), max_size=30), st.integers(EARLIEST_NS, LATEST_NS - 1))
def test_newest_is_a_time_that_is_there(times_ns: list[int], now_ns: int) -> None:
    newest = Newest(lambda end_ns: max((each for each in times_ns if each < end_ns), default=None))
    found = newest.time_ns(now_ns)
    known = [each for each in times_ns if each <= now_ns]
    assert found in known if known else found is None


def test_old_messages_and_old_down_sampled_values_are_deleted(make_kept: Any) -> None:
    store = make_kept(keep_messages=3600.0, downsample=(Downsampling(every=10.0, keep=7200.0),))
    store.write(hourly(0, 4))
    store.store.write([], kept(alarm("old", at(0)), alarm("new", at(4 * 3600))))
    store.upkeep.run_once(at(4 * 3600 + 100))
    assert store.seconds(MEAN) == [2 * 3600, 3 * 3600, 4 * 3600]
    assert store.store.read_messages(["alarm"], at(-1), at(10**6)) == kept(alarm("new", at(4 * 3600)))


def test_many_rows_are_deleted_in_several_transactions(make_kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "DELETE_ROWS", 7)
    store = make_kept(keep=3600.0)
    store.write(grid([number * 600 for number in range(50)], ["G1", "G2", "G3"]))
    store.upkeep.run_once(at(10**6))
    assert len(store.seconds()) == 3 * len(set(store.seconds()))
    assert min(store.seconds()) >= 50 * 600 - 2 * 3600
    assert store.context.counters.get("deleted") + len(store.seconds()) == 150


def test_very_many_rows_are_deleted_in_several_runs(make_kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "DELETE_ROWS", 7)
    monkeypatch.setattr(sqlite, "MOST_DELETES", 3)
    store = make_kept(keep=3600.0)
    store.write(grid([number * 600 for number in range(50)], ["G1", "G2", "G3"]))
    left = []
    for _ in range(9):
        store.upkeep.run_once(at(10**6))
        left.append(len(store.seconds()))
    assert left[0] > left[1] > left[-2] == left[-1]
    assert min(store.seconds()) >= 50 * 600 - 2 * 3600


def test_mean_of_angles_is_that_of_their_directions() -> None:
    turning = samples_from_rows(
        [(0, "A", {"x_deg": 359.0, "x_rad": math.pi}), (1, "A", {"x_deg": 3.0, "x_rad": -math.pi + 0.2})]
    )
    found = {name: each.columns[name][0] for each in downsampled(turning, Series(5, "mean")) for name in each.columns}
    assert found == {"x_deg": pytest.approx(1.0), "x_rad": pytest.approx(-math.pi + 0.1)}


def test_bad_values_count_only_where_there_are_no_others() -> None:
    good = grid([0, 20], x_v=1.0)
    bad = grid([1, 30], x_v=900.0, quality=Quality.BAD_DATA)
    [made] = downsampled(join_samples([good, bad]), MEAN)
    assert made.columns["x_v"].tolist() == pytest.approx([1.0, 1.02, 900.03])
    assert made.quality.tolist() == [16, 16, 17]


def test_mean_of_infinite_values_is_none(make_kept: Any) -> None:
    store = make_kept(downsample=(TEN_S,))
    store.write(grid([0, 1], x_v=math.inf))
    store.upkeep.run_once(at(100))
    assert store.seconds(MEAN) == []


VALUE = st.floats(-1e6, 1e6)
ROWS = st.dictionaries(st.tuples(st.integers(-200, 200), st.sampled_from("AB")), VALUE, min_size=1, max_size=60)
ORACLE: Mapping[str, Any] = {"mean": np.mean, "min": np.min, "max": np.max}


@settings(max_examples=60)
@given(ROWS, st.integers(1, 70), st.sampled_from(sorted(ORACLE)))
def test_down_sampling_gives_what_a_slow_twin_does(rows: dict[tuple[int, str], float], every_ns: int, how: Any) -> None:
    samples = samples_from_rows([(time_ns, device, {"x_v": value}) for (time_ns, device), value in rows.items()])
    [made] = downsampled(samples, Series(every_ns, how))
    groups: dict[tuple[int, str], list[float]] = {}
    for (time_ns, device), value in rows.items():
        groups.setdefault((time_ns // every_ns * every_ns, device), []).append(value)
    expected = {key: ORACLE[how](values) for key, values in groups.items()}
    assert {key: row["x_v"] for key, (row, _) in table(made).items()} == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_sink_keeps_its_store_up(tmp_path: Path, make_context: ContextMaker) -> None:
    config = SqliteConfig(path="h.db", keep=3600.0, downsample=(TEN_S,))
    connections = {"store": OpenConnection("history", sqlite.NODE, config)}
    context = make_context("archive", clock=VirtualClock(at(10**6)), connections=connections)
    sink = store_write.NODE.open(StoreWriteConfig(store="history", commit_every=0.01), context)
    sink.open()
    try:
        sink.write([hourly(0, 10)])
        assert sink.flush(10.0)
        wait_until(lambda: context.counters.get("deleted"), 30.0)
    finally:
        sink.close()
    with closing(sqlite3.connect(tmp_path / "h.db")) as opened:
        assert opened.execute("SELECT count(*) FROM samples").fetchone() == (4,)
        assert opened.execute("SELECT count(*) FROM downsampled").fetchone() == (22,)


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ([{"every": 7.0}], "an hour must hold a whole number of intervals"),
        ([{"every": 1.0}, {"every": 1.0, "keep": 9000.0}], "two rules with the same `every` and `how`"),
    ],
)
def test_rules_that_cannot_be_are_refused(rules: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert({"path": "h.db", "downsample": rules}, SqliteConfig)
