from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from broker import free_port, wait_until
from certificates import Authority
from http_service import HttpService, Reply, Request
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_connectors import rest, rest_post
from edgeflex_connectors.payload_formats import JsonFields
from edgeflex_connectors.payload_formats.channels import Channel
from edgeflex_connectors.rest import RestConfig
from edgeflex_connectors.rest_auth import Bearer
from edgeflex_connectors.rest_post import Encoder, RestPost, RestPostConfig
from edgeflex_flow.messages import Alarm, DeadLetter, Message, decode_message, samples_from_rows
from edgeflex_flow.node import Context, OpenConnection

if TYPE_CHECKING:
    from conftest import ContextMaker

ROWS = samples_from_rows(
    [
        (1_000_000_000, "G1", {"frequency_hz": 49.98, "rocof_hz_per_s": float("nan")}),
        (1_020_000_001, "G/2", {"frequency_hz": 50.01, "rocof_hz_per_s": 0.25}),
    ],
    quality=6,
)
TAKEN = Reply(status=201)


def alarm(number: int, device: str | None = None) -> Alarm:
    return Alarm(source="test", severity="info", text="x", time_ns=number, device=device)


@contextmanager
def sink(
    make_context: ContextMaker, url: str, connection: dict[str, Any] | None = None, **fields: Any
) -> Iterator[tuple[RestPost, Context]]:
    config = RestConfig(url=url, **{"connect_timeout": 2.0, "read_timeout": 2.0, **(connection or {})})
    context = make_context("out", connections={"api": OpenConnection("grid", rest.NODE, config)})
    settings = {"api": "grid", "path": "/e", "retry_min": 0.01, "retry_max": 0.02, **fields}
    opened = rest_post.NODE.open(RestPostConfig(**settings), context)
    assert isinstance(opened, RestPost)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


def numbers(service: HttpService) -> list[int]:
    """The times of all alarms that the service got, in order, those of arrays too."""
    found: list[int] = []
    for request in service.requests:
        value = request.json
        found += [each["time_ns"] for each in (value if isinstance(value, list) else [value])]
    return found


def test_messages_go_out_one_by_one_and_in_order(make_context: ContextMaker) -> None:
    with HttpService() as service, sink(make_context, service.url) as (post, context):
        service.answers("/e", TAKEN)
        post.write([alarm(0), alarm(1)])
        post.write([alarm(2)])
        assert post.flush(10.0)
        assert [decode_message(each.body, [Alarm]) for each in service.requests] == [alarm(0), alarm(1), alarm(2)]
        assert {each.headers["content-type"] for each in service.requests} == {"application/json"}
        assert {each.method for each in service.requests} == {"POST"}
        size = sum(len(each.body) for each in service.requests)
        assert context.counters.snapshot() == {"requests": 3, "sent": 3, "bytes": size}


def test_rows_of_samples_are_flat_objects(make_context: ContextMaker) -> None:
    with HttpService() as service, sink(make_context, service.url, batch=10) as (post, _):
        service.answers("/e", TAKEN)
        post.write([ROWS])
        assert post.flush(10.0)
        assert service.requests[0].json == [
            {
                "created": 1000,
                "device": "G1",
                "time_ns": 1_000_000_000,
                "quality": 6,
                "frequency_hz": 49.98,
                "rocof_hz_per_s": None,
            },
            {
                "created": 1020,
                "device": "G/2",
                "time_ns": 1_020_000_001,
                "quality": 6,
                "frequency_hz": 50.01,
                "rocof_hz_per_s": 0.25,
            },
        ]


def test_rows_are_written_in_the_format_of_the_service(make_context: ContextMaker) -> None:
    fields = {"f.mhz": Channel(column="frequency_hz", unit="mHz")}
    given = JsonFields(fields=fields, time="t", time_unit="ms", device="id")
    good = samples_from_rows([(2_000_000, "G1", {"frequency_hz": 50.0})])
    with HttpService() as service, sink(make_context, service.url, format=given) as (post, context):
        service.answers("/e", TAKEN)
        post.write([good, samples_from_rows([(1, "G1", {"frequency_hz": 1.0})], quality=1)])
        assert post.flush(10.0)
        assert [each.json for each in service.requests] == [{"t": 2, "id": "G1", "f": {"mhz": 50_000.0}}]
        assert context.counters.get("withheld") == 1


def test_device_and_type_in_the_path_choose_no_other_path(make_context: ContextMaker) -> None:
    raw: list[str] = []
    with HttpService() as service, sink(make_context, service.url, path="/d/{device}/{type}", batch=10) as (post, _):
        for path in ("/d/G1/samples", "/d/G%2F2/samples", "/d/__/alarm", "/d/_/alarm"):
            service.answers(path, TAKEN)
        post.write([ROWS, alarm(1, ".."), alarm(2)])
        assert post.flush(10.0)
        raw = [each.path for each in service.requests]
    assert raw == ["/d/G1/samples", "/d/G%2F2/samples", "/d/__/alarm", "/d/_/alarm"]


@given(st.text())
def test_any_name_of_a_device_is_one_level_of_the_path(name: str) -> None:
    (item,) = Encoder(RestPostConfig(api="a", path="/d/{device}/x")).items(alarm(1, name), 0.0, 0)
    assert item.path.count("/") == 3
    assert item.path.isascii()
    assert not {"?", "#", " "} & set(item.path)
    assert item.path.split("/")[2].strip(".")


def test_batch_holds_what_waits_up_to_its_size(make_context: ContextMaker) -> None:
    with HttpService() as service, sink(make_context, service.url, batch=4) as (post, context):
        service.answers("/e", TAKEN)
        post.write([alarm(number) for number in range(10)])
        assert post.flush(10.0)
        assert [len(each.json) for each in service.requests] == [4, 4, 2]
        assert numbers(service) == list(range(10))
        assert context.counters.get("sent") == 10


def test_service_that_is_away_gets_everything_once_it_comes(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    service = HttpService()
    service.port = free_port()
    service.answers("/e", TAKEN)
    with sink(make_context, service.url) as (post, context):
        post.write([alarm(0), alarm(1)])
        wait_until(lambda: context.counters.get("retries") >= 3)
        with service:
            assert post.flush(10.0)
            assert numbers(service) == [0, 1]
    assert f"grid: POST {service.url}/e: connection refused; 2 wait; trying again" == caplog.messages[0]
    assert make_context.dead_letters == []


def test_killed_and_restarted_service_gets_everything_in_order(make_context: ContextMaker) -> None:
    with HttpService() as service, sink(make_context, service.url, idempotency_key=True) as (post, context):
        service.answers("/e", TAKEN)
        for number in range(100):
            post.write([alarm(number)])
            if number == 30:
                service.stop()
            if number == 60:
                wait_until(lambda: context.counters.get("retries") >= 1)
                service.start()
        assert post.flush(20.0)
        assert list(dict.fromkeys(numbers(service))) == list(range(100))
        assert sorted(numbers(service)) == numbers(service)
        assert context.counters.get("sent") == 100


@pytest.mark.parametrize(
    "failure",
    [Reply(status=500), Reply(status=504), Reply(body=b"x" * 100, cut_after=5), Reply(hangs=True)],
    ids=["500", "504", "cut", "hang"],
)
@pytest.mark.parametrize("fields", [{"method": "PUT"}, {"idempotency_key": True}], ids=["put", "key"])
def test_what_may_be_done_twice_is_sent_again_with_the_same_key(
    make_context: ContextMaker, failure: Reply, fields: dict[str, Any]
) -> None:
    with HttpService() as service, sink(make_context, service.url, {"read_timeout": 0.1}, **fields) as (post, context):
        service.answers("/e", failure, TAKEN)
        post.write([alarm(0), alarm(1)])
        assert post.flush(10.0)
        assert numbers(service) == [0, 0, 1]
        keys = [each.headers.get("idempotency-key") for each in service.requests]
        assert keys[0] == keys[1]
        assert (keys[1] != keys[2]) == ("idempotency_key" in fields)
        assert (context.counters.get("retries"), context.counters.get("sent")) == (1, 2)
    assert make_context.dead_letters == []


@pytest.mark.parametrize(
    "failure",
    [Reply(status=500), Reply(status=504), Reply(body=b"x" * 100, cut_after=5), Reply(hangs=True)],
    ids=["500", "504", "cut", "hang"],
)
def test_what_may_have_arrived_is_not_sent_again_but_told(make_context: ContextMaker, failure: Reply) -> None:
    with HttpService() as service, sink(make_context, service.url, {"read_timeout": 0.1}) as (post, context):
        service.answers("/e", failure, TAKEN)
        post.write([alarm(0), alarm(1)])
        assert post.flush(10.0)
        assert numbers(service) == [0, 1]
        assert context.counters.get("unclear") == 1
    ((reason, _, payload),) = make_context.dead_letters
    assert (reason, decode_message(payload, [Alarm])) == ("unclear", alarm(0))


@pytest.mark.parametrize("status", [425, 429, 503])
def test_what_the_service_has_not_begun_with_is_sent_again(make_context: ContextMaker, status: int) -> None:
    with HttpService() as service, sink(make_context, service.url) as (post, context):
        service.answers("/e", Reply(status=status), TAKEN)
        post.write([alarm(0)])
        assert post.flush(10.0)
        assert numbers(service) == [0, 0]
        assert context.counters.get("sent") == 1


def test_service_that_asks_for_time_gets_it(make_context: ContextMaker) -> None:
    with HttpService() as service, sink(make_context, service.url) as (post, context):
        service.answers("/e", Reply(status=503, headers={"Retry-After": "1"}), TAKEN)
        begun_s = time.monotonic()
        post.write([alarm(0)])
        wait_until(lambda: context.counters.get("sent"))
        assert time.monotonic() - begun_s >= 1.0


@pytest.mark.parametrize("status", [301, 400, 403, 409, 422])
def test_refusal_is_a_dead_letter_with_the_beginning_of_the_answer(make_context: ContextMaker, status: int) -> None:
    why = Reply(status=status, body=b"the field is wrong " + b"x" * 5000)
    with HttpService() as service, sink(make_context, service.url, batch=2) as (post, context):
        service.answers("/e", why, TAKEN)
        post.write([alarm(0), alarm(1), alarm(2)])
        assert post.flush(10.0)
        assert numbers(service) == [0, 1, 2]
        assert (context.counters.get("refused"), context.counters.get("sent")) == (2, 1)
    for number, (reason, text, payload) in enumerate(make_context.dead_letters):
        assert (reason, decode_message(payload, [Alarm])) == ("refused", alarm(number))
        assert text.startswith(f"grid: POST /e: {status} ")
        assert "the field is wrong" in text
        assert len(text) < 300


def test_dead_letter_that_is_refused_makes_no_other(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    letter = DeadLetter(node="pmu", reason="bad", text="x", time_ns=1)
    with HttpService() as service, sink(make_context, service.url) as (post, context):
        service.answers("/e", Reply(status=400))
        post.write([letter, letter])
        assert post.flush(10.0)
        assert context.counters.get("refused") == 2
    assert make_context.dead_letters == []
    assert [each for each in caplog.messages if "a dead letter of node 'pmu' is not sent" in each] == caplog.messages


def test_secret_that_the_service_sends_back_shows_in_no_dead_letter(make_context: ContextMaker) -> None:
    auth = {"auth": Bearer(token="hunter2")}
    with HttpService() as service, sink(make_context, service.url, auth) as (post, _):
        service.script("/e", lambda request: Reply(status=400, body=request.headers["authorization"].encode()))
        post.write([alarm(0)])
        assert post.flush(10.0)
    assert make_context.dead_letters[0][1].endswith("Bearer ***")


def test_oldest_drop_first_while_the_service_is_away(make_context: ContextMaker) -> None:
    service = HttpService()
    service.port = free_port()
    service.answers("/e", TAKEN)
    with sink(make_context, service.url, queue=3, batch=1) as (post, context):
        post.write([alarm(0)])
        wait_until(lambda: context.counters.get("retries"))  # the first is on its way, beside the queue
        post.write([alarm(number) for number in range(1, 6)])
        assert context.counters.get("overflow") == 2
        with service:
            assert post.flush(10.0)
            assert numbers(service) == [0, 3, 4, 5]


def test_what_is_too_old_is_not_sent(make_context: ContextMaker) -> None:
    service = HttpService()
    service.port = free_port()
    service.answers("/e", TAKEN)
    with sink(make_context, service.url, expires=0.2, batch=2) as (post, context):
        post.write([alarm(0), alarm(1), alarm(2)])
        wait_until(lambda: context.counters.get("expired") == 3)
        with service:
            post.write([alarm(3)])
            assert post.flush(10.0)
            assert numbers(service) == [3]


def test_closing_does_not_wait_for_a_request_that_hangs(tmp_path: Path, make_context: ContextMaker) -> None:
    patient = {"ca": "authority.pem", "read_timeout": 600, "request_timeout": 3600}
    with HttpService(tls=Authority(tmp_path).issue("service")) as service:
        service.answers("/e", Reply(hangs=True))
        with sink(make_context, service.url, patient) as (post, context):
            post.write([alarm(0), alarm(1)])
            wait_until(lambda: service.requests)
            assert not post.flush(0.05)
            thread = post._thread
            post.close()
            assert thread is not None
            assert not thread.is_alive()
            assert context.counters.get("lost") == 2
    assert make_context.dead_letters == []


def test_flush_ends_the_wait_before_the_next_attempt(make_context: ContextMaker) -> None:
    with HttpService() as service, sink(make_context, service.url, retry_min=600, retry_max=600) as (post, context):
        service.answers("/e", Reply(status=503), TAKEN)
        post.write([alarm(0)])
        wait_until(lambda: context.counters.get("retries"))
        assert post.flush(10.0)


def test_message_that_json_cannot_hold_is_a_dead_letter(make_context: ContextMaker) -> None:
    with HttpService() as service, sink(make_context, service.url) as (post, context):
        service.answers("/e", TAKEN)
        post.write([Alarm(source="s", severity="info", text="\ud800", time_ns=1), alarm(1)])
        assert post.flush(10.0)
        assert numbers(service) == [1]
        assert context.counters.get("not_encodable") == 1


def test_service_that_recovers_is_told_once(make_context: ContextMaker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def answer(request: Request) -> Reply:
        return Reply(status=503, body=json.dumps("later").encode()) if len(service.requests) < 3 else TAKEN

    with HttpService() as service, sink(make_context, service.url) as (post, _):
        service.script("/e", answer)
        post.write([alarm(0), alarm(1)])
        assert post.flush(10.0)
    assert caplog.messages == [
        'grid: POST /e: 503 Service Unavailable: "later"; 2 wait; trying again',
        'grid: POST /e: 503 Service Unavailable: "later"; 2 wait; trying again',
        "grid: POST /e: answers again after 2 failures",
    ]


def test_what_the_service_has_answered_or_what_was_dropped_is_done(make_context: ContextMaker) -> None:
    with HttpService() as service:
        service.answers("/e", Reply(status=503), Reply(status=204))
        with sink(make_context, service.url, queue=2) as (opened, context):
            opened.write([alarm(number) for number in range(5)])
            assert opened.progress().taken == 5
            wait_until(lambda: opened.progress() == (5, 5))
            assert context.counters.get("overflow") + context.counters.get("sent") == 5


def test_what_is_lost_at_the_end_is_not_done(make_context: ContextMaker) -> None:
    with HttpService() as service:
        service.answers("/e", Reply(status=503))
        with sink(make_context, service.url) as (opened, context):
            opened.write([alarm(0), alarm(1)])
            wait_until(lambda: context.counters.get("retries"))
        assert opened.progress() == (2, 0)


class Setpoint(Message, frozen=True, kw_only=True, tag="test_rest_setpoint"):
    valid_for_s: ClassVar[float | None] = 0.2
    time_ns: int


def test_a_message_of_a_type_that_is_valid_for_some_time_is_not_sent_later(make_context: ContextMaker) -> None:
    service = HttpService()
    service.port = free_port()
    service.answers("/e", TAKEN)
    with sink(make_context, service.url) as (opened, context):
        opened.write([Setpoint(time_ns=0), alarm(1)])
        wait_until(lambda: context.counters.get("expired") == 1)
        with service:
            assert opened.flush(10.0)
            assert numbers(service) == [1]
