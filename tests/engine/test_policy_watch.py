"""What follows a policy system: when it asks, how old what it knows is, and when it writes to disk."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from broker import wait_until
from http_service import Reply, json_reply
from policy_server import GROUP, PolicyServer

from edgeflex_connectors import policy_system
from edgeflex_flow import policy_watch
from edgeflex_flow.clock import SystemClock, VirtualClock
from edgeflex_flow.node import Counters
from edgeflex_flow.policy import PolicyAnswer, PolicyEffect, PolicySystemError, PolicyTerms, RefusedEffect
from edgeflex_flow.policy_keep import PolicyKeep
from edgeflex_flow.policy_watch import InForcePolicies, PolicyWatch, retry_wait_s

if TYPE_CHECKING:
    from conftest import ContextMaker

NS = 1_000_000_000
TEN_DAYS_NS = 10 * 86_400 * NS


class SetClock(SystemClock):
    """The computer's clock, set by this much."""

    jump_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.jump_ns


class Following:
    """What a watch told."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.counters = Counters()
        self.told: list[InForcePolicies] = []

    @property
    def in_force(self) -> dict[str, int]:
        return {name: each.version for name, each in self.told[-1].policies.items()}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PolicyServer]:
    with PolicyServer(tmp_path) as made:
        yield made


@contextmanager
def following(
    server: PolicyServer, make_context: ContextMaker, *, keep: PolicyKeep | None = None, **more: Any
) -> Iterator[Following]:
    found = Following()
    context = make_context(clock=found.clock)
    watch = PolicyWatch(
        policy_system.NODE.open(server.config(**more), context),
        ["trigger"],
        keep=keep,
        clock=found.clock,
        counters=found.counters,
        log=logging.getLogger("edgeflex.followed"),
        on_change=found.told.append,
        on_fatal=context.fail,
    )
    watch.start()
    try:
        assert watch.answered.wait(10.0)
        yield found
    finally:
        watch.close()


def test_what_is_on_disk_is_too_old_once_the_clock_is_set_after_the_start(
    server: PolicyServer, make_context: ContextMaker, tmp_path: Path
) -> None:
    keep = PolicyKeep(tmp_path / "keep", ("site", "flow"))
    server.save("trigger", onset="0.1 Hz/s")
    with following(server, make_context, keep=keep) as first:
        wait_until(lambda: first.in_force == {"trigger": 1})
    server.fault = lambda _request: Reply(503)
    with following(server, make_context, keep=keep, max_age=3600.0, refresh=60.0) as later:
        assert later.in_force == {"trigger": 1}
        later.clock.jump_ns = TEN_DAYS_NS
        wait_until(lambda: later.told[-1].is_expired)
        assert later.in_force == {}
        later.clock.jump_ns = 0
        wait_until(lambda: later.in_force == {"trigger": 1})


def test_within_a_run_the_time_of_day_makes_nothing_old(server: PolicyServer, make_context: ContextMaker) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with following(server, make_context, max_age=3600.0) as found:
        wait_until(lambda: found.in_force == {"trigger": 1})
        found.clock.jump_ns = TEN_DAYS_NS
        asked = len(server.asked_s)
        wait_until(lambda: len(server.asked_s) > asked + 2)
        assert found.in_force == {"trigger": 1}


def test_after_a_slow_answer_missed_requests_are_left_out(server: PolicyServer, make_context: ContextMaker) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with following(server, make_context, refresh=0.1, read_timeout=5.0, request_timeout=5.0):
        asked = len(server.asked_s)

        def slow(_request: object) -> Reply:
            server.fault = None
            time.sleep(1.0)  # ten periods
            return json_reply({"policies": []})

        server.fault = slow
        wait_until(lambda: len(server.asked_s) > asked + 6)
    gaps_s = [after - before for before, after in pairwise(server.asked_s[asked:])]
    after_s = server.asked_s[asked + gaps_s.index(max(gaps_s)) + 1]
    assert max(gaps_s) > 0.9
    assert sum(after_s <= each < after_s + 0.1 for each in server.asked_s) <= 2


def test_a_policy_system_keeps_nobody_waiting_for_an_hour(
    server: PolicyServer, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeflex_flow.policy_watch.LONGEST_ASKED_S", 0.5)
    server.fault = lambda _request: Reply(429, b"", {"Retry-After": "3600"})
    with following(server, make_context, refresh=0.1):
        wait_until(lambda: len(server.asked_s) >= 3)
    assert min(after - before for before, after in pairwise(server.asked_s)) >= 0.5


def test_only_other_policies_are_written_at_once(
    server: PolicyServer, make_context: ContextMaker, tmp_path: Path, synced: list[Path]
) -> None:
    policy = {"type": "policy", "policy_id": "trigger", "policy_group": GROUP, "policy_kind": "trigger", "fields": {}}
    version = 1

    def give(_request: object) -> Reply:
        return json_reply({"policies": [{**policy, "version": version}]}, etag=f'"{len(server.asked_s)}"')

    server.fault = give
    keep = PolicyKeep(tmp_path / "keep", ("site", "flow"))
    with following(server, make_context, keep=keep, refresh=0.05) as found:
        wait_until(lambda: found.in_force == {"trigger": 1} and len(server.asked_s) > 2)
        asked, written = len(server.asked_s), len(synced)
        wait_until(lambda: len(server.asked_s) > asked + 10)
        assert len(synced) == written
        version = 2
        wait_until(lambda: len(synced) > written)


def test_a_lower_version_is_taken_and_told(
    server: PolicyServer, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    server.save("trigger", version=7, onset="0.1 Hz/s")
    with following(server, make_context, refresh=0.1) as found:
        wait_until(lambda: found.in_force == {"trigger": 7})
        server.save("trigger", version=3, onset="0.2 Hz/s")
        wait_until(lambda: found.in_force == {"trigger": 3})
        asked = len(server.asked_s)
        wait_until(lambda: len(server.asked_s) > asked + 2)
        assert found.counters.get("version_back") == 1
    assert "'trigger' is version 3 now, and was 7" in caplog.text


# Away and back --------------------------------------------------------------------------------------------------------


class VirtualEvent(threading.Event):
    """Waiting moves a clock, and takes no time."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._clock.advance_to(self._clock.now_ns() + max(math.ceil(timeout * NS), 1))
        return self.is_set()


class AwayUntil:
    """A policy system that answers from this second on, and ends the watch once it has."""

    def __init__(self, clock: VirtualClock, back_s: float, refresh_s: float) -> None:
        self.terms = PolicyTerms(GROUP, "https://policies.example", refresh_s, 86400.0, None)
        self.asked_s: list[float] = []
        self.has_answered = threading.Event()
        self._clock, self._back_s = clock, back_s

    def ask(self, policy_ids: Sequence[str], etag: str) -> PolicyAnswer:
        self.asked_s.append(self._clock.now_ns() / NS)
        if self.asked_s[-1] < self._back_s:
            raise PolicySystemError("away")
        self.has_answered.set()
        return PolicyAnswer(())

    def report(self, effects: Sequence[PolicyEffect]) -> Sequence[RefusedEffect]:
        return ()

    def abort(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("refresh_s", "longest_s"), [(0.1, 5.0), (2.0, 5.0), (10.0, 10.0), (60.0, 60.0), (3600.0, 60.0)]
)
def test_a_flow_whose_policy_system_is_back_asks_within_its_period_or_five_seconds(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch, refresh_s: float, longest_s: float
) -> None:
    clock = VirtualClock(NS)
    virtual = SimpleNamespace(Thread=threading.Thread, Event=partial(VirtualEvent, clock))
    monkeypatch.setattr(policy_watch, "threading", virtual)
    system = AwayUntil(clock, 7200.0, refresh_s)
    log = logging.getLogger("edgeflex.followed")
    context = make_context(clock=clock)
    watch = PolicyWatch(
        system,
        ["trigger"],
        keep=None,
        clock=clock,
        counters=context.counters,
        log=log,
        on_change=lambda _in_force: None,
        on_fatal=context.fail,
    )
    watch.start()
    assert system.has_answered.wait(10.0)
    watch.close()
    back = next(at for at, asked_s in enumerate(system.asked_s) if asked_s >= 7200.0)
    gaps_s = [after - before for before, after in pairwise(system.asked_s[: back + 1])]
    assert max(gaps_s) <= longest_s + 1e-6
    assert max(gaps_s) > longest_s / 2


def test_a_thousand_flows_whose_policy_system_went_away_at_once_do_not_come_back_at_once() -> None:
    random.seed(6)
    back_s: list[float] = []
    for _ in range(1000):
        now_s, failures = 0.0, 0
        while now_s < 300.0:
            failures += 1
            now_s += retry_wait_s(failures, 2.0, 0.0)
        back_s.append(now_s)
    assert max(back_s) < 305.0
    most_in_100_ms = max(
        sum(1 for each in back_s if start / 10 <= each < (start + 1) / 10) for start in range(3000, 3050)
    )
    assert most_in_100_ms < 80  # of 40 if all were spread evenly over the wait


def test_a_wait_that_a_policy_system_asks_for_is_heeded_and_spread() -> None:
    waits_s = [retry_wait_s(1, 2.0, 20.0) for _ in range(100)]
    assert min(waits_s) >= 20.0
    assert max(waits_s) <= 30.0
    assert len(set(waits_s)) > 90
