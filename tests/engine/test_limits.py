from __future__ import annotations

import pytest

from edgeflex_flow import limits
from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.limits import RateLimit

NS = 1_000_000_000


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1_000 * NS)


@pytest.fixture
def limit(clock: VirtualClock) -> RateLimit:
    """Eight times in five minutes."""
    return RateLimit(8, 300.0, clock)


def later(clock: VirtualClock, seconds: float) -> None:
    clock.advance_to(clock.now_ns() + round(seconds * NS))


def test_after_its_window_a_limit_has_forgotten_everything(limit: RateLimit, clock: VirtualClock) -> None:
    for _ in range(2):
        for _ in range(8):
            assert limit.wait_s("a") == 0.0
            limit.add("a")
        assert limit.wait_s("a") == pytest.approx(37.5)
        later(clock, 300.0)


def test_a_limit_lets_one_more_each_so_long(limit: RateLimit, clock: VirtualClock) -> None:
    for _ in range(8):
        limit.add("a")
    later(clock, 37.4)
    assert limit.wait_s("a") == pytest.approx(0.1)
    later(clock, 0.2)
    assert limit.wait_s("a") == 0.0
    limit.add("a")
    assert limit.wait_s("a") > 37.0


def test_one_who_is_limited_limits_no_other(limit: RateLimit) -> None:
    for _ in range(20):
        limit.add("a")
    assert (limit.wait_s("a") > 0, limit.wait_s("b")) == (True, 0.0)


def test_what_is_taken_back_does_not_count(limit: RateLimit) -> None:
    for _ in range(20):
        limit.add("a")
        limit.take_back("a")
    assert limit.wait_s("a") == 0.0


def test_many_at_once_are_waited_for_longer_and_one_more_does_not_shorten_that(limit: RateLimit) -> None:
    limit.add("a")
    limit.add("a", 16)
    assert limit.wait_s("a") == pytest.approx(10 * 37.5)
    limit.add("a")
    assert limit.wait_s("a") == pytest.approx(10 * 37.5)


def test_only_so_many_are_remembered_the_latest(
    limit: RateLimit, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_KEYS", 2)
    for key in ("a", "b", "a", "c"):
        limit.add(key, 8)
        later(clock, 1.0)
    assert [limit.wait_s(key) > 0 for key in ("a", "b", "c")] == [True, False, True]
