"""What follows a policy system: when it asks, how old what it knows is, and when it writes to disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from broker import wait_until
from http_service import Reply
from policy_server import PolicyServer

from edgeflex_connectors import policy_system
from edgeflex_flow.clock import SystemClock
from edgeflex_flow.node import Counters
from edgeflex_flow.policy_keep import PolicyKeep
from edgeflex_flow.policy_watch import InForcePolicies, PolicyWatch

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
