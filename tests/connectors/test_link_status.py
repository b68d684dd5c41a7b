"""What the mobile network says of links, over real HTTP."""

from __future__ import annotations

import json
import logging
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from broker import free_port, wait_until
from http_service import Reply, json_reply
from hypothesis import given
from hypothesis import strategies as st
from link_services import BASE, LinkService, gpsi_of

from edgeflex_connectors import link_status, rest
from edgeflex_connectors.link_status import ChangedLinks, LinkPoll, LinkStatusConfig, LinkWatch
from edgeflex_connectors.rest import RestConfig
from edgeflex_connectors.rest_auth import Bearer
from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import LinkStatus
from edgeflex_flow.node import Context, OpenConnection

if TYPE_CHECKING:
    from conftest import ContextMaker

LINKS = f"{BASE}/links"
READING = st.fixed_dictionaries(
    {"value": st.none() | st.booleans() | st.floats() | st.text(max_size=3)},
    optional={"unit": st.sampled_from(["s", "1", "ms", "bit/s", ""]), "meets_profile": st.none() | st.booleans()},
)
LINK = st.fixed_dictionaries(
    {
        "gpsi": st.sampled_from(["extid-a@b", "msisdn-49170", "../x"]),
        "name": st.text(max_size=3),
        "seq": st.integers(0, 9),
    },
    optional={
        "time_ns": st.integers(-(2**64), 2**64) | st.none(),
        "readings": st.dictionaries(st.sampled_from(["reachability", "latency", "loss", "signal", "x"]), READING),
        "qos": st.dictionaries(st.sampled_from(["profile", "state", "reason"]), st.text(max_size=3)),
    },
)


@contextmanager
def source(
    make_context: ContextMaker, url: str, connection: dict[str, Any] | None = None, **fields: Any
) -> Iterator[tuple[LinkPoll, Context]]:
    config = RestConfig(url=url, **{"connect_timeout": 2.0, "read_timeout": 2.0, **(connection or {})})
    context = make_context("network", connections={"api": OpenConnection("devices", rest.NODE, config)})
    settings = {"api": "devices", "owner": "yard", "period": 0.05, "retry_min": 0.01, "retry_max": 0.05, **fields}
    opened = link_status.NODE.open(LinkStatusConfig(**settings), context)
    assert isinstance(opened, LinkPoll)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


def next_of(opened: LinkPoll) -> list[LinkStatus]:
    """What comes next, waited for as the feed does."""
    descriptor = opened.fileno()
    assert descriptor is not None
    readable, _, _ = select.select([descriptor], [], [], 20.0)
    assert readable
    given_ = [each for each in opened.poll() if isinstance(each, LinkStatus)]
    assert given_
    return given_


def test_what_is_known_of_a_link_comes_out_in_the_units_of_its_fields(make_context: ContextMaker) -> None:
    service = LinkService("PMU7")
    service.tell("PMU7", reachability=True, latency={"value": 0.12, "unit": "s", "meets_profile": False}, jitter=0.01)
    service.tell("PMU7", loss=0.02, downlink=5e6, uplink=1e6, signal=-85)
    service.set_qos("PMU7", "QOS_S", "not_guaranteed", expires_ns=7, reason={"code": "BUSY", "text": "a full cell"})
    with service, source(make_context, service.url) as (opened, _):
        [told] = next_of(opened)
    qos = service.qos[gpsi_of("PMU7")]
    assert told == LinkStatus(
        device="PMU7",
        gpsi=gpsi_of("PMU7"),
        time_ns=service.links[gpsi_of("PMU7")]["time_ns"],
        reachable=True,
        latency_s=0.12,
        jitter_s=0.01,
        loss=0.02,
        downlink_bit_per_s=5e6,
        uplink_bit_per_s=1e6,
        signal="-85 dBm",
        profile="QOS_S",
        qos_state="not_guaranteed",
        qos_expires_ns=7,
        qos_confirmed_ns=qos["confirmed_ns"],
        meets_profile={"latency": False},
        reason="BUSY: a full cell",
    )


def test_what_the_network_tells_in_words_is_no_number(make_context: ContextMaker) -> None:
    service = LinkService("PMU7")
    service.tell(
        "PMU7", latency={"value": True, "meets_profile": True}, signal={"value": "EXCELLENT"}, loss={"value": None}
    )
    with service, source(make_context, service.url) as (opened, _):
        [told] = next_of(opened)
    assert (told.latency_s, told.loss, told.signal, told.reachable) == (None, None, "EXCELLENT", None)
    assert told.meets_profile == {"latency": True}


def test_changes_come_at_once_and_each_one_once(make_context: ContextMaker) -> None:
    with LinkService("A", "B") as service, source(make_context, service.url, wait=30.0) as (opened, context):
        wait_until(lambda: len(service.of(LINKS)) >= 2)
        for number in range(5):
            service.tell("A", latency=number / 10)
            changed_s = time.monotonic()
            assert [each.latency_s for each in next_of(opened)] == [number / 10]
            assert time.monotonic() - changed_s < 1.0
        service.tell("B", reachability=False)
        assert [(each.device, each.reachable) for each in next_of(opened)] == [("B", False)]
        assert context.counters.get("stale") == 0
    waits = [float(each.query["wait_s"][0]) for each in service.of(LINKS)]
    assert waits[0] == 0.0
    assert set(waits[1:]) == {1.6}  # four fifths of what the connection waits for an answer


def test_a_service_that_was_away_is_asked_for_what_is_new_since(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    service = LinkService("A")
    service.port = free_port()
    service.tell("A", latency=0.1)
    with source(make_context, service.url) as (opened, context):
        wait_until(lambda: context.counters.get("retries") >= 2)
        service.start()
        assert len(next_of(opened)) == 1
        service.stop()
        failures = context.counters.get("retries")
        wait_until(lambda: context.counters.get("retries") > failures)
        assert context.gauges.read()["connected"] == 0.0
        before = len(service.of(LINKS))
        service.start()
        wait_until(lambda: len(service.of(LINKS)) > before + 1)
        assert opened.poll() == []
        assert context.gauges.read()["connected"] == 1.0
        service.tell("A", latency=0.2)
        assert [each.latency_s for each in next_of(opened)] == [0.2]
        service.stop()
    assert {each.query["since"][0] for each in service.of(LINKS)[before:]} >= {"1"}
    assert "0" not in {each.query["since"][0] for each in service.of(LINKS)[before:]}
    assert "connection refused; trying again" in caplog.messages[0]


def test_no_rights_are_told_and_waited_for(make_context: ContextMaker, caplog: pytest.LogCaptureFixture) -> None:
    with LinkService("A") as service:
        service.tell("A", latency=0.1)
        body = json.dumps({"title": "Unauthorized", "status": 401}).encode()
        allowed = json_reply({"seq": 1, "links": [service.links[gpsi_of("A")]]})
        service.answers(LINKS, Reply(401, body), Reply(403, b"for hunter22"), allowed)
        with source(make_context, service.url, {"auth": Bearer(token="hunter22")}) as (opened, context):
            assert len(next_of(opened)) == 1
            assert context.counters.get("refused") == 2
    assert caplog.messages[0].startswith("devices: GET /api/v1/links: 401 Unauthorized")
    assert "hunter22" not in caplog.text


def test_links_that_cannot_be_read_cost_no_others(make_context: ContextMaker) -> None:
    service = LinkService("A", "B", "C")
    for name in ("A", "B", "C"):
        service.tell(name, latency=0.1)
    service.links[gpsi_of("A")]["readings"]["latency"]["unit"] = "ms"
    service.links[gpsi_of("B")]["time_ns"] = "now"
    with service, source(make_context, service.url) as (opened, context):
        assert [each.device for each in next_of(opened)] == ["C"]
        assert context.counters.get("bad_rows") == 2
        service.tell("C", latency=0.2)
        assert [each.latency_s for each in next_of(opened)] == [0.2]
    [(reason, text, payload)] = make_context.dead_letters
    assert reason == "bad_payload"
    assert "a link: `latency` in another unit; got 'ms', known: s" in text
    assert json.loads(payload)["name"] == "A"


def test_an_answer_that_is_none_is_a_dead_letter_and_asked_for_again(make_context: ContextMaker) -> None:
    with LinkService("A") as service:
        good = json_reply({"seq": 0, "links": []})
        service.answers(
            LINKS, Reply(body=b"<html>"), json_reply({"links": []}), json_reply({"seq": -1, "links": []}), good
        )
        with source(make_context, service.url) as (_, context):
            wait_until(lambda: context.counters.get("answers") >= 1)
            assert context.counters.get("bad_payload") == 3
            assert make_context.failures == []
        assert {each.query["since"][0] for each in service.of(LINKS)[:4]} == {"0"}


def test_links_that_were_given_are_not_given_again(make_context: ContextMaker) -> None:
    with LinkService("A") as service:
        service.tell("A", latency=0.1)
        old = json_reply({"seq": 1, "links": [service.links[gpsi_of("A")]]})
        service.answers(LINKS, old)
        with source(make_context, service.url) as (opened, context):
            assert len(next_of(opened)) == 1
            wait_until(lambda: context.counters.get("stale") >= 2)
            assert opened.poll() == []


def test_a_service_that_begins_to_count_anew_is_believed(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    service = LinkService("A")
    service.seq = 500
    service.tell("A", latency=0.1)
    with service, source(make_context, service.url) as (opened, _):
        next_of(opened)
        service.seq = 0
        service.tell("A", latency=0.2)
        service.answers(
            LINKS, json_reply({"seq": 1, "links": [service.links[gpsi_of("A")]]}), json_reply({"seq": 1, "links": []})
        )
        assert [each.latency_s for each in next_of(opened)] == [0.2]
    assert "counts from 1 again, after 501" in caplog.text


def test_all_devices_of_the_owner_are_watched_and_watches_renewed(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_status, "LOOK_FOR_DEVICES_S", 0.2)
    monkeypatch.setattr(link_status, "RENEWED_AFTER", 1.0 / 120.0)
    monkeypatch.setattr(link_status, "WATCHES_AT_ONCE", 2)
    watch = LinkWatch(parameters=("reachability", "latency"), server_ipv4="198.51.100.10", lasts=60.0)
    with LinkService(*(f"D{number}" for number in range(5))) as service:
        service.page = 2
        with source(make_context, service.url, watch=watch) as (_, context):
            wait_until(lambda: len(service.watches) == 5)
            service.add("new")
            wait_until(lambda: gpsi_of("new") in service.watches)
            wait_until(lambda: context.counters.get("watches") >= 12)
            assert context.counters.get("watches_refused") == 0
        [told] = {json.dumps(each) for each in service.watches.values()}
        assert json.loads(told) == {
            "parameters": ["reachability", "latency"],
            "server_ipv4": "198.51.100.10",
            "lasts_s": 60,
        }


def test_watches_that_are_refused_are_told_and_do_not_keep_links_from_coming(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with LinkService("A", "B") as service:
        service.tell("A", latency=0.1)
        service.answers(f"{BASE}/devices/extid-a%40grid.example/watch", json_reply({"detail": "no editor"}, 403))
        with source(make_context, service.url, watch=LinkWatch(parameters=("latency",))) as (opened, context):
            assert len(next_of(opened)) == 1
            wait_until(lambda: gpsi_of("B") in service.watches)
            assert context.counters.get("watches_refused") == 1
    assert "devices: PUT /api/v1/devices/extid-a%40grid.example/watch: 403 Forbidden" in caplog.text


def test_devices_that_cannot_be_asked_for_do_not_keep_links_from_coming(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with LinkService("A") as service:
        service.tell("A", latency=0.1)
        service.answers(f"{BASE}/devices", Reply(500, b"a defect"))
        with source(make_context, service.url, watch=LinkWatch(parameters=("latency",))) as (opened, _):
            assert len(next_of(opened)) == 1
        assert len(service.of(f"{BASE}/devices")) == 1
    assert (
        "watches: devices: GET /api/v1/devices: 500 Internal Server Error: a defect; asked for again in 60 s"
        in caplog.text
    )


def test_closing_does_not_wait_for_news(make_context: ContextMaker) -> None:
    with LinkService("A") as service:
        patient = {"read_timeout": 600.0, "request_timeout": 3600.0}
        with source(make_context, service.url, patient, wait=30.0) as (opened, context):
            wait_until(lambda: len(service.of(LINKS)) >= 2)
            closing_s = time.monotonic()
            opened.close()
            assert time.monotonic() - closing_s < 2.0
            assert context.counters.get("retries") == 0


@given(
    st.binary()
    | st.builds(lambda seq, links: json.dumps({"seq": seq, "links": links}).encode(), st.integers(), st.lists(LINK))
)
def test_any_answer_gives_well_made_messages_or_a_bad_message(body: bytes) -> None:
    from pathlib import Path

    from conftest import ContextMaker as Maker

    reader = ChangedLinks(Maker(Path())())
    try:
        read = reader.read(body, 0)
    except BadMessageError:
        return
    assert all(isinstance(each, LinkStatus) for each in read.messages)
    assert (read.error is None) == (read.bad_rows == 0)
