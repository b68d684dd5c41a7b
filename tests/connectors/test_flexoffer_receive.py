"""What a market makes of offers, over real HTTP."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from broker import wait_until
from flexoffers import a_schedule, an_offer
from http_service import HttpService, Reply
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_connectors import flexoffer_receive, rest
from edgeflex_connectors.flexoffer_receive import ChangedOffers, FlexofferReceiveConfig
from edgeflex_connectors.payload_formats import FlexOfferFormat
from edgeflex_connectors.payload_formats.flexoffer import encode_offers
from edgeflex_connectors.rest import RestConfig
from edgeflex_connectors.rest_poll import RestPoll
from edgeflex_flow.flexoffer import is_later
from edgeflex_flow.messages import FlexOffer, FlexState
from edgeflex_flow.node import Context, OpenConnection

if TYPE_CHECKING:
    from conftest import ContextMaker

ASSIGNED = {"state": "assigned", "schedule": a_schedule(1.0, -1.0)}


class Got:
    """A source, and what it has given."""

    def __init__(self, source: RestPoll, context: Context) -> None:
        self.source, self.context = source, context
        self.offers: list[FlexOffer] = []

    def take(self) -> list[str]:
        """The states that came so far."""
        self.offers += [each for each in self.source.poll() if isinstance(each, FlexOffer)]
        return [each.state for each in self.offers]


@contextmanager
def source(make_context: ContextMaker, url: str, **fields: Any) -> Iterator[Got]:
    config = RestConfig(url=url, connect_timeout=2.0, read_timeout=2.0)
    context = make_context("in", connections={"api": OpenConnection("market", rest.NODE, config)})
    settings = {"api": "market", "path": "/offers", "period": 0.05, "retry_min": 0.01, "retry_max": 0.02, **fields}
    opened = flexoffer_receive.NODE.open(FlexofferReceiveConfig(**settings), context)
    assert isinstance(opened, RestPoll)
    opened.open()
    try:
        yield Got(opened, context)
    finally:
        opened.close()


def reply(*offers: FlexOffer, dialect: Any = "edgeflex", etag: str = "") -> Reply:
    headers = {"Content-Type": "application/json", **({"ETag": etag} if etag else {})}
    return Reply(200, encode_offers(FlexOfferFormat(dialect=dialect), list(offers)), headers)


@pytest.mark.parametrize("dialect", ["edgeflex", "inea", "goflex"])
def test_changes_come_out_once_each(make_context: ContextMaker, dialect: Any) -> None:
    accepted, assigned = an_offer(state="accepted"), an_offer(**ASSIGNED)
    with HttpService() as service, source(make_context, service.url, format=FlexOfferFormat(dialect=dialect)) as got:
        service.answers("/offers", *(reply(each, dialect=dialect) for each in (accepted, accepted, assigned)))
        wait_until(lambda: got.take() == ["accepted", "assigned"])
        wait_until(lambda: got.context.counters.get("duplicates") >= 3)
        assert got.take() == ["accepted", "assigned"]
    assert got.offers == [accepted, assigned]


def test_states_that_cannot_follow_are_dropped(make_context: ContextMaker) -> None:
    replies = [reply(an_offer(**ASSIGNED)), reply(an_offer(state="accepted")), reply(an_offer(state="rejected"))]
    with HttpService() as service, source(make_context, service.url) as got:
        service.answers("/offers", *replies)
        wait_until(lambda: got.take() and got.context.counters.get("out_of_order") >= 2)
        assert got.take() == ["assigned"]


def test_newer_schedule_of_the_same_offer_is_a_change(make_context: ContextMaker) -> None:
    newer = an_offer(state="assigned", schedule=a_schedule(0.5, -1.0, update=2))
    older = an_offer(state="assigned", schedule=a_schedule(0.7, -1.0, update=1))
    with HttpService() as service, source(make_context, service.url) as got:
        service.answers("/offers", reply(an_offer(**ASSIGNED)), reply(newer), reply(older))
        wait_until(lambda: got.take() == ["assigned", "assigned"] and got.context.counters.get("duplicates"))
        assert got.offers[-1] == newer


def test_an_answer_that_did_not_change_is_not_read_again(make_context: ContextMaker) -> None:
    with HttpService() as service, source(make_context, service.url) as got:
        service.answers("/offers", reply(an_offer(state="accepted"), etag='"1"'), Reply(304))
        wait_until(lambda: got.take() and got.context.counters.get("not_modified") >= 2)
        assert service.requests[-1].headers["if-none-match"] == '"1"'
        assert got.context.counters.get("duplicates") == 0


def test_market_that_is_away_is_asked_again(make_context: ContextMaker) -> None:
    with HttpService() as service, source(make_context, service.url, query={"owner": "201"}) as got:
        service.answers("/offers", Reply(503), Reply(500), reply(an_offer(state="accepted")))
        wait_until(lambda: got.take() == ["accepted"])
        assert got.context.counters.get("retries") == 2
        assert service.requests[0].query == {"owner": ["201"]}


def test_answer_that_cannot_be_read_is_a_dead_letter(make_context: ContextMaker) -> None:
    with HttpService() as service, source(make_context, service.url) as got:
        service.answers("/offers", Reply(200, b'[{"id":"7","state":"gone"}]'), reply(an_offer(state="accepted")))
        wait_until(lambda: got.take() == ["accepted"])
    [(reason, text, _)] = make_context.dead_letters
    assert reason == "bad_payload"
    assert "`state`: expected one of" in text


@given(st.randoms(use_true_random=False), st.lists(st.sampled_from(["offered", "accepted", "assigned", "executed"])))
def test_in_whatever_order_answers_come_states_only_go_on(order: random.Random, states: list[Any]) -> None:
    from conftest import ContextMaker as Maker

    order.shuffle(states)
    reader = ChangedOffers(FlexOfferFormat(), Maker(Path())("in"))
    given_states: list[FlexState] = [
        each.state
        for state in states
        for each in reader.read(encode_offers(FlexOfferFormat(), [an_offer(state=state)]), 0).messages
        if isinstance(each, FlexOffer)
    ]
    assert given_states[:1] == states[:1]
    assert all(is_later(before, after) for before, after in itertools.pairwise(given_states))
