"""Notifications over real HTTP, right and wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from http_service import HttpService
from simulated_network import Sink

from edgeflex_flow.errors import FatalError
from edgeflex_services.network_simulator import notify
from edgeflex_services.network_simulator.model import NotifyBehaviour
from edgeflex_services.network_simulator.notify import Notification, Notifier


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as running:
        yield running


def sent(sink: HttpService, path: str = "/a") -> list[int]:
    """The numbers that came to a path."""
    return [each.json["number"] for each in sink.of(path)]


def run(send: Callable[[Notifier], Awaitable[None]], ca: Path | None = None, **behaviour: Any) -> Notifier:
    """Have notifications sent, and wait until all are."""

    async def all_of_it() -> Notifier:
        faults = NotifyBehaviour(**behaviour)
        notifier = Notifier(lambda: faults, random.Random(1), ca)
        await send(notifier)
        async with asyncio.timeout(30.0):
            while notifier.waiting:
                await asyncio.sleep(0.01)
        await notifier.close()
        return notifier

    return asyncio.run(all_of_it())


def numbered(sink: HttpService, count: int, path: str = "/a") -> Callable[[Notifier], Awaitable[None]]:
    async def send(notifier: Notifier) -> None:
        for number in range(count):
            body = f'{{"number": {number}}}'.encode()
            notifier.send(Notification(sink.url + path, "application/json", body))

    return send


def test_what_goes_to_a_place_comes_in_order(sink: Sink) -> None:
    notifier = run(numbered(sink, 50))
    assert sent(sink) == list(range(50))
    assert notifier.counts == {"sent": 50}


def test_the_token_and_the_correlator_are_shown(sink: Sink) -> None:
    async def send(notifier: Notifier) -> None:
        notifier.send(Notification(f"{sink.url}/a", "application/cloudevents+json", b"{}", "secret", "x-1"))
        notifier.send(Notification(f"{sink.url}/a", "application/json", b"{}"))

    run(send)
    first, second = (each.headers for each in sink.requests)
    assert (first["authorization"], first["x-correlator"]) == ("Bearer secret", "x-1")
    assert first["content-type"] == "application/cloudevents+json"
    assert not {"authorization", "x-correlator"} & set(second)


def test_it_is_tried_again_while_the_other_side_is_away(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "RETRIES_S", (0.01, 0.01, 0.01))
    sink.says["/a"] = [503, 429, 204]
    notifier = run(numbered(sink, 2))
    assert sent(sink) == [0, 0, 0, 1]
    assert notifier.counts == {"sent": 2}


def test_it_is_given_up_in_the_end(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "RETRIES_S", (0.01,))
    sink.stop()
    assert run(numbered(sink, 1)).counts == {"failed": 1}


def test_what_is_refused_is_not_tried_again(sink: Sink) -> None:
    sink.says["/a"] = [401]
    assert run(numbered(sink, 2)).counts == {"refused": 1, "sent": 1}
    assert sent(sink) == [0, 1]


def test_a_place_that_is_gone_gets_nothing_more(sink: Sink) -> None:
    sink.says["/a"] = [410]
    assert run(numbered(sink, 3)).counts == {"gone": 3}
    assert sent(sink) == [0]


@pytest.mark.parametrize("url", ["https://[", "https://a:99999999/", "nonsense", "https://\u00e9\u0000/"])
def test_a_place_that_is_none_stops_nothing(sink: Sink, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "RETRIES_S", ())

    async def send(notifier: Notifier) -> None:
        notifier.send(Notification(url, "application/json", b"{}"))
        await numbered(sink, 1)(notifier)

    assert run(send).counts == {"failed": 1, "sent": 1}


def test_notifications_may_be_lost(sink: Sink) -> None:
    assert run(numbered(sink, 5), lose_share=1.0).counts == {"lost": 5}
    assert not sink.requests
    some = run(numbered(sink, 100), lose_share=0.5).counts
    assert some["lost"] + some["sent"] == 100
    assert 20 < some["lost"] < 80


def test_notifications_may_come_twice(sink: Sink) -> None:
    run(numbered(sink, 3), double=True)
    assert sent(sink) == [0, 0, 1, 1, 2, 2]


def test_notifications_may_be_late(sink: Sink) -> None:
    async def send(notifier: Notifier) -> None:
        await numbered(sink, 2)(notifier)
        await asyncio.sleep(0.1)
        assert not sink.requests

    run(send, delay_s=0.3)
    assert sent(sink) == [0, 1]


def test_notifications_may_overtake_each_other(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "HELD_S", 0.1)
    run(numbered(sink, 5), reorder=True)
    assert sent(sink) == [1, 0, 3, 2, 4]


def test_a_place_that_does_not_answer_holds_up_no_other(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "RETRIES_S", (0.5,))
    sink.says["/a"] = [503]

    async def send(notifier: Notifier) -> None:
        await numbered(sink, 1)(notifier)
        await numbered(sink, 3, "/b")(notifier)
        while len(sink.of("/b")) < 3:
            await asyncio.sleep(0.01)
        assert len(sink.of("/a")) == 1

    run(send)


def test_only_authorities_that_are_known_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "RETRIES_S", ())
    authority = Authority(tmp_path)
    with Sink(tls=authority.issue("sink")) as sink:
        assert run(numbered(sink, 1)).counts == {"failed": 1}
        assert run(numbered(sink, 1), ca=authority.certificate).counts == {"sent": 1}


def test_a_bad_authority_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    for file in (tmp_path / "ca.pem", tmp_path / "no.pem"):
        with pytest.raises(FatalError, match=file.name):
            Notifier(NotifyBehaviour, random.Random(1), file)
