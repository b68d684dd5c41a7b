"""Latency and loss of links, from the rows that came."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_flow.messages import Quality, Samples, samples_from_rows
from edgeflex_operators._link_measure import MeasuredLink, Measuring, Sight

S = 1_000_000_000
MS = 1_000_000
SIGHT = Sight(window_ns=10 * S, quantile=0.95, plausible_s=10.0, silent_after_ns=2 * S, max_devices=100)
BEGIN_NS = 1_700_000_000 * S


def batch(tags_ms: list[int], received_ms: int | None, *, quality: int = 0) -> Samples:
    rows = [(BEGIN_NS + tag * MS, "A", {"frequency_hz": 50.0}) for tag in tags_ms]
    received_ns = 0 if received_ms is None else BEGIN_NS + received_ms * MS
    return samples_from_rows(rows, quality=quality, received_ns=received_ns)


def measured(measuring: Measuring, now_s: float) -> MeasuredLink:
    [(name, link)] = measuring.look(round(now_s * S), SIGHT)
    assert name == "A"
    return link


def taken(tags_ms: list[int], latency_ms: int = 50, **more: int) -> Measuring:
    """Rows that came one by one."""
    measuring = Measuring()
    for tag in tags_ms:
        measuring.take(batch([tag], tag + latency_ms, **more), SIGHT)
    return measuring


EVEN = list(range(0, 5000, 20))


def test_latency_is_the_quantile_of_what_rows_took() -> None:
    measuring = Measuring()
    for number in range(100):
        measuring.take(batch([20 * number], 20 * number + number), SIGHT)
    assert measured(measuring, 1.0).latency_s == pytest.approx(0.094, abs=0.001)


def test_rows_that_are_all_there_are_no_loss_in_whatever_order_and_however_often_they_came() -> None:
    tags = EVEN.copy()
    np.random.default_rng(1).shuffle(tags)
    assert measured(taken([*tags, *tags[:50]]), 1.0).loss == 0.0


@given(st.sets(st.integers(1, 248), max_size=200))
def test_loss_is_the_share_of_rows_that_are_missing(lost: set[int]) -> None:
    measuring = taken(EVEN)
    measured(measuring, 1.0)  # the period is known
    left = [tag for number, tag in enumerate(EVEN) if number not in lost]
    measuring.heard.clear()
    for tag in left:
        measuring.take(batch([tag], tag + 50), SIGHT)
    assert measured(measuring, 2.0).loss == pytest.approx(len(lost) / len(EVEN))


def test_period_is_seen_though_most_rows_are_lost_from_the_start() -> None:
    kept = np.random.default_rng(2).random(len(EVEN)) < 0.4
    left = [tag for tag, keep in zip(EVEN, kept, strict=True) if keep]
    loss = measured(taken(left), 1.0).loss
    assert loss == pytest.approx(1.0 - len(left) / len(EVEN), abs=0.02)


def test_another_rate_of_the_device_is_believed_when_it_is_even() -> None:
    measuring = taken(EVEN)
    assert measured(measuring, 1.0).loss == 0.0
    for tag in range(5000, 15000, 100):
        measuring.take(batch([tag], tag + 50), SIGHT)
    assert measured(measuring, 12.0).loss == 0.0


def test_rates_that_are_no_whole_milliseconds_are_no_loss() -> None:
    measuring = Measuring()
    for number in range(600):
        tag_ns = BEGIN_NS + (number * S + 30) // 60
        measuring.take(samples_from_rows([(tag_ns, "A", {"a_v": 0.0})], received_ns=tag_ns + 50 * MS), SIGHT)
    assert measured(measuring, 1.0).loss == 0.0


@pytest.mark.parametrize("step_ms", [3_600_000, 2_000, -2_000, -3_600_000])
def test_a_clock_that_is_set_is_no_loss(step_ms: int) -> None:
    measuring = taken(EVEN)
    for tag in range(5000, 10_000, 20):
        measuring.take(batch([tag + step_ms], tag + 50), SIGHT)
    assert measured(measuring, 1.0).loss == 0.0


def test_rows_that_are_missing_for_seconds_are_a_loss_though_their_times_are_not_sure() -> None:
    measuring = taken([*range(0, 3000, 20), *range(5000, 8000, 20)], quality=int(Quality.SYNC_LOST))
    assert measured(measuring, 1.0).loss == pytest.approx(0.25)


def test_silence_counts_as_loss_until_all_is_lost() -> None:
    measuring = taken(EVEN)
    assert measured(measuring, 1.0).silent_s == 0.0
    assert measured(measuring, 2.5).loss == 0.0
    link = measured(measuring, 6.0)
    assert link.silent_s == 5.0
    assert link.loss == pytest.approx(0.5, abs=0.01)
    link = measured(measuring, 20.0)
    assert (link.silent_s, link.loss, link.latency_s) == (19.0, 1.0, None)


def test_nothing_is_known_of_few_rows() -> None:
    assert measured(taken([0, 20]), 1.0) == MeasuredLink(None, None, 0.0, "")


@pytest.mark.parametrize("flag", [Quality.SYNC_LOST, Quality.TIME_UNCERTAIN, Quality.REPLAYED, Quality.LATE])
def test_rows_whose_time_is_not_sure_have_no_latency(flag: Quality) -> None:
    link = measured(taken(EVEN, quality=int(flag)), 1.0)
    assert (link.latency_s, link.loss) == (None, 0.0)
    assert link.doubt == "its clock is not set by UTC"


@pytest.mark.parametrize("flag", [Quality.BAD_DATA, Quality.TEST, Quality.ESTIMATED])
def test_rows_that_are_doubtful_in_other_ways_have_a_latency_all_the_same(flag: Quality) -> None:
    assert measured(taken(EVEN, quality=int(flag)), 1.0).latency_s == pytest.approx(0.05)


def test_rows_whose_reception_is_not_known_have_no_latency() -> None:
    measuring = Measuring()
    measuring.take(batch(EVEN, None), SIGHT)
    assert measured(measuring, 1.0).latency_s is None


def test_rows_that_come_before_their_time_or_far_after_it_are_of_a_wrong_clock() -> None:
    ahead, behind = measured(taken(EVEN, -700), 1.0), measured(taken(EVEN, 37_000), 1.0)
    assert (ahead.latency_s, ahead.doubt) == (None, "its clock is 0.7 s ahead of the site's")
    assert behind.latency_s is None
    assert behind.doubt == "its clock, or the site's, is wrong: rows come 37 s after their time"


def test_a_clock_that_is_a_little_ahead_is_no_latency_below_zero() -> None:
    assert measured(taken(EVEN, -2), 1.0).latency_s == 0.0


def test_devices_that_are_listed_but_do_not_send_are_not_looked_at() -> None:
    measuring = Measuring()
    listed = Samples(
        time_ns=np.array([BEGIN_NS], dtype=np.int64),
        device=np.array([1], dtype=np.int32),
        devices=("A", "B"),
        columns={},
        quality=np.zeros(1, dtype=np.uint16),
        received_ns=BEGIN_NS,
    )
    measuring.take(listed, SIGHT)
    assert [name for name, _ in measuring.look(S, SIGHT)] == ["B"]


def test_rows_older_than_the_window_do_not_count() -> None:
    measuring = taken(EVEN, 900)
    assert measured(measuring, 1.0).latency_s == pytest.approx(0.9)
    for tag in range(20_000, 21_000, 20):
        measuring.take(batch([tag], tag + 50), SIGHT)
    assert measured(measuring, 11.5).latency_s == pytest.approx(0.05)
    assert len(measuring.heard) == 1
