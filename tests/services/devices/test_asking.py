"""Requests to a network that is away, or whose answers are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from edgeflex_services.devices import asking
from edgeflex_services.devices.asking import Asking
from edgeflex_services.devices.network import NetworkAwayError, NetworkRefusedError, Reason

AWAY = Reason(code="NO_ANSWER")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_WAIT_S", 0.001)


def answers(*outcomes: str | Exception) -> tuple[Callable[[], Awaitable[str]], list[str | Exception]]:
    """A request that has these outcomes, and those that were not reached yet."""
    left = list(outcomes)

    async def request() -> str:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return request, left


def test_what_is_away_is_asked_again() -> None:
    request, left = answers(NetworkAwayError(AWAY, may_be_done=False), "done")
    assert asyncio.run(Asking(5.0).patiently(request)) == "done"
    assert not left


def test_a_refusal_is_final() -> None:
    request, left = answers(NetworkRefusedError(Reason(code="NO")), "done")
    with pytest.raises(NetworkRefusedError):
        asyncio.run(Asking(5.0).patiently(request))
    assert left == ["done"]


def test_what_was_made_before_its_answer_was_lost_is_found_and_not_made_twice() -> None:
    request, left = answers(NetworkAwayError(AWAY, may_be_done=True), "made twice")

    async def find() -> str | None:
        return "found"

    assert asyncio.run(Asking(5.0).patiently(request, find)) == "found"
    assert left == ["made twice"]


def test_what_is_not_found_after_a_lost_answer_is_asked_for_again() -> None:
    request, left = answers(NetworkAwayError(AWAY, may_be_done=True), "made")

    async def find() -> str | None:
        return None

    assert asyncio.run(Asking(5.0).patiently(request, find)) == "made"
    assert not left


def test_a_doubt_stays_while_looking_fails_too() -> None:
    request, left = answers(NetworkAwayError(AWAY, may_be_done=True), "made twice")
    find, found_left = answers(NetworkAwayError(AWAY, may_be_done=False), "found")
    assert asyncio.run(Asking(5.0).patiently(request, find)) == "found"
    assert (left, found_left) == (["made twice"], [])


def test_patience_ends() -> None:
    async def request() -> str:
        raise NetworkAwayError(AWAY, may_be_done=False)

    with pytest.raises(NetworkAwayError):
        asyncio.run(Asking(0.02).patiently(request))


def test_no_more_than_so_many_requests_are_on_their_way() -> None:
    under_way = most = 0

    async def request() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    async def many() -> None:
        one = Asking(1.0)
        await asyncio.gather(*(one.once(request) for _ in range(3 * asking.AT_ONCE)))

    asyncio.run(many())
    assert most == asking.AT_ONCE
