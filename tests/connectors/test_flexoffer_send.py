"""Offers out to a market over real HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from broker import wait_until
from flexoffers import a_schedule, an_offer
from http_service import HttpService, Reply, json_reply
from msgspec.structs import replace

from edgeflex_connectors import flexoffer_send, rest
from edgeflex_connectors.flexoffer_send import FlexofferSendConfig
from edgeflex_connectors.payload_formats import FlexOfferFormat
from edgeflex_connectors.payload_formats.flexoffer import decode_offers
from edgeflex_connectors.rest import RestConfig
from edgeflex_connectors.rest_post import RestPost
from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import FlexOffer
from edgeflex_flow.node import Context, OpenConnection
from edgeflex_flow.units import NS_PER_S

if TYPE_CHECKING:
    from conftest import ContextMaker

TAKEN = json_reply([], 200)


def fresh(left_s: float = 30.0, **changes: Any) -> FlexOffer:
    """An offer that is to be accepted within so many seconds from now."""
    now_ns = time.time_ns()
    until_ns = now_ns + round(left_s * NS_PER_S)
    times = {"created_ns": now_ns, "accept_before_ns": until_ns, "assign_before_ns": until_ns}
    begin_ns = max(until_ns, now_ns)
    return an_offer(**{**times, "start_after_ns": begin_ns, "start_before_ns": begin_ns, "state": "initial", **changes})


@contextmanager
def sink(make_context: ContextMaker, url: str, **fields: Any) -> Iterator[tuple[RestPost, Context]]:
    config = RestConfig(url=url, connect_timeout=2.0, read_timeout=2.0)
    context = make_context("out", connections={"api": OpenConnection("market", rest.NODE, config)})
    settings = {"api": "market", "path": "/offers", "retry_min": 0.01, "retry_max": 0.02, **fields}
    opened = flexoffer_send.NODE.open(FlexofferSendConfig(**settings), context)
    assert isinstance(opened, RestPost)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


@pytest.mark.parametrize("dialect", ["edgeflex", "inea", "goflex"])
def test_offers_go_out_one_by_one_in_the_dialect_of_the_market(make_context: ContextMaker, dialect: Any) -> None:
    form = FlexOfferFormat(dialect=dialect)
    with HttpService() as service, sink(make_context, service.url, format=form) as (send, context):
        service.answers("/offers", TAKEN)
        send.write([fresh(id="7"), fresh(id="8")])
        assert send.flush(10.0)
        came = [decode_offers(form, each.body) for each in service.requests]
    assert [[(each.id, each.state) for each in offers] for offers in came] == [[("7", "offered")], [("8", "offered")]]
    assert {each.method for each in service.requests} == {"POST"}
    assert [each.headers["idempotency-key"] for each in service.requests] == ["7", "8"]
    assert context.counters.get("sent") == 2


def test_an_offer_is_tried_again_under_the_same_key(make_context: ContextMaker) -> None:
    with HttpService() as service, sink(make_context, service.url) as (send, context):
        service.answers("/offers", Reply(503), Reply(500), Reply(hangs=False, cut_after=1, body=b"xxxx"), TAKEN)
        send.write([fresh()])
        assert send.flush(10.0)
        assert {each.headers["idempotency-key"] for each in service.requests} == {"7"}
        assert len(service.requests) == 4
        assert context.counters.get("sent") == 1


def test_an_offer_is_never_sent_late(make_context: ContextMaker) -> None:
    service = HttpService()
    service.answers("/offers", TAKEN)
    with service:
        service.stop()
        with sink(make_context, service.url) as (send, context):
            send.write([fresh(0.3)])
            wait_until(lambda: context.counters.get("expired") == 1)
            service.start()
            send.write([fresh(-0.1), fresh(30.0, id="8")])
            assert send.flush(10.0)
            assert [each.json["id"] for each in service.requests] == ["8"]
    [(reason, text, payload)] = make_context.dead_letters
    assert reason == "too_late"
    assert text.startswith("offer '7': its time was over at 20")
    assert json.loads(payload)["type"] == "flex_offer"


def test_offers_that_break_rules_or_limits_are_not_sent(make_context: ContextMaker) -> None:
    hour = time.gmtime().tm_hour
    window = {"window_begin": (hour + 3) % 24 * 3600.0, "window_end": (hour + 5) % 24 * 3600.0}
    with HttpService() as service, sink(make_context, service.url, max_duration=900.0, **window) as (send, _):
        service.answers("/offers", TAKEN)
        send.write([fresh(offered_by="", slices=())])
        send.write([fresh()])
        assert send.flush(10.0)
        assert service.requests == []
    first, second = make_context.dead_letters
    assert first[0] == second[0] == "invalid_offer"
    assert "`offered_by`: an offer names its owner; got nothing; `slices`: a profile has at least one slice" in first[1]
    assert "the profile lasts 900 s at most; got 1800 s; `start_after_ns`: the profile runs from" in second[1]


def test_an_offer_goes_to_the_endpoint_that_it_names_if_the_file_allows_that(make_context: ContextMaker) -> None:
    with HttpService() as service, sink(make_context, service.url, endpoints=["/markets/*/offers"]) as (send, _):
        for path in ("/offers", "/markets/tso/offers"):
            service.answers(path, TAKEN)
        send.write([fresh(id="1"), fresh(id="2", endpoint="/markets/tso/offers"), fresh(id="3", endpoint="/offers")])
        send.write([fresh(id="4", endpoint=path) for path in ("/admin", "/markets/../offers", "/markets/a/b/offers")])
        assert send.flush(10.0)
        assert [(each.path, each.json["id"]) for each in service.requests] == [
            ("/offers", "1"),
            ("/markets/tso/offers", "2"),
            ("/offers", "3"),
        ]
        assert "endpoint" not in service.requests[1].json
    assert [each[0] for each in make_context.dead_letters] == ["invalid_offer"] * 3
    assert "`endpoint`: one of /offers, /markets/*/offers; got '/admin'" in make_context.dead_letters[0][1]


def test_patterns_of_endpoints_are_paths() -> None:
    with pytest.raises(ConfigError, match="a path begins with '/'"):
        FlexofferSendConfig(api="market", path="/offers", endpoints=("https://market.example/offers",))


def test_only_offers_that_were_not_dealt_with_go_out(make_context: ContextMaker) -> None:
    with HttpService() as service, sink(make_context, service.url) as (send, context):
        service.answers("/offers", TAKEN)
        send.write([fresh(state="invalid"), fresh(state="assigned", schedule=a_schedule(1.0, 0.0))])
        assert send.flush(10.0)
        assert service.requests == []
        assert context.counters.snapshot() == {"not_initial": 2}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (json_reply({"title": "no"}, 422), "422 Unprocessable"),
        (json_reply([{"flexOffer": {"id": -2}}]), "the market refuses it: no such prosumer, or one without the right"),
        (json_reply({"flexOffer": [{"id": -9}]}), "the market refuses it: reason -9"),
    ],
)
def test_what_the_market_refuses_is_a_dead_letter(make_context: ContextMaker, reply: Reply, text: str) -> None:
    with HttpService() as service, sink(make_context, service.url) as (send, context):
        service.answers("/offers", reply)
        send.write([fresh()])
        assert send.flush(10.0)
        assert context.counters.get("sent") == 0
    [(reason, told, _)] = make_context.dead_letters
    assert reason == "refused"
    assert text in told


def test_what_the_dialect_cannot_write_is_a_dead_letter(make_context: ContextMaker) -> None:
    form = FlexOfferFormat(dialect="inea")
    with HttpService() as service, sink(make_context, service.url, format=form) as (send, _):
        send.write([replace(fresh(), id="no number")])
        assert send.flush(10.0)
    [(reason, told, _)] = make_context.dead_letters
    assert reason == "not_encodable"
    assert "a whole number in this dialect; got 'no number'" in told
