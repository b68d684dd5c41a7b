from __future__ import annotations

import json
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from broker import free_port, wait_until
from certificates import Authority
from http_service import HOST, HttpService, Reply, Request, json_reply
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_connectors import rest, rest_poll
from edgeflex_connectors.http_client import Answer
from edgeflex_connectors.payload_formats import Csv, JsonFields
from edgeflex_connectors.payload_formats.channels import Channel
from edgeflex_connectors.rest import RestConfig
from edgeflex_connectors.rest_auth import Bearer, ClientCredentials
from edgeflex_connectors.rest_poll import AnswerReader, RestPoll, RestPollConfig, part_at
from edgeflex_connectors.rest_retry import retry_after_s
from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Alarm, Crossing, Samples, encode_message
from edgeflex_flow.node import Context, OpenConnection, WireMessage

if TYPE_CHECKING:
    from conftest import ContextMaker

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["p", "t", "id", "data"]), inner),
    max_leaves=12,
)
METERS = JsonFields(fields={"p": Channel(column="active_power_w", unit="kW")}, time="t", time_unit="ms", device="id")
ALARM = Alarm(source="service", severity="info", text="x", time_ns=1)


def meters(*kilowatts: float) -> dict[str, Any]:
    return {"data": [{"id": f"M{place}", "t": 1000 + place, "p": value} for place, value in enumerate(kilowatts)]}


@contextmanager
def source(
    make_context: ContextMaker, url: str, connection: dict[str, Any] | None = None, **fields: Any
) -> Iterator[tuple[RestPoll, Context]]:
    config = RestConfig(url=url, **{"connect_timeout": 2.0, "read_timeout": 2.0, **(connection or {})})
    context = make_context("in", connections={"api": OpenConnection("grid", rest.NODE, config)})
    given = {"format": METERS, "rows": "data"} if "messages" not in fields else {}
    settings = {"api": "grid", "path": "/m", "period": 0.05, "retry_min": 0.01, "retry_max": 0.02, **given, **fields}
    opened = rest_poll.NODE.open(RestPollConfig(**settings), context)
    assert isinstance(opened, RestPoll)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


def next_of(opened: RestPoll) -> Sequence[WireMessage]:
    """What comes next, waited for as the feed does."""
    descriptor = opened.fileno()
    assert descriptor is not None
    readable, _, _ = select.select([descriptor], [], [], 20.0)
    assert readable
    return opened.poll()


def power_of(message: WireMessage) -> list[float]:
    assert isinstance(message, Samples)
    assert list(message.problems()) == []
    return message.columns["active_power_w"].tolist()  # type: ignore[no-any-return]


def test_answer_becomes_one_batch_of_samples(make_context: ContextMaker) -> None:
    with HttpService() as service:
        service.answers("/m", json_reply(meters(1.0, 2.5)))
        with source(make_context, service.url, query={"site": "a b"}) as (opened, context):
            (samples,) = next_of(opened)
            assert power_of(samples) == [1000.0, 2500.0]
            assert isinstance(samples, Samples)
            assert (samples.devices, samples.time_ns.tolist()) == (("M0", "M1"), [1_000_000_000, 1_001_000_000])
            assert context.counters.get("answers") >= 1
        assert service.requests[0].query == {"site": ["a b"]}
        assert service.requests[0].headers["accept"].startswith("application/json,")


def test_names_of_devices_stay_the_same_object(make_context: ContextMaker) -> None:
    with HttpService() as service:
        service.answers("/m", json_reply(meters(1.0)))
        with source(make_context, service.url) as (opened, _):
            first, second = next_of(opened)[0], next_of(opened)[0]
            assert isinstance(first, Samples)
            assert isinstance(second, Samples)
            assert first.devices is second.devices


def test_messages_of_the_named_types_come_out(make_context: ContextMaker) -> None:
    other = Crossing(device="a", column="c", state="above", time_ns=1, value=1.0, limit=0.5)
    body = b"[" + encode_message(ALARM) + b"," + encode_message(other) + b"]"
    with HttpService() as service:
        service.answers("/m", Reply(body=body))
        with source(make_context, service.url, messages=("alarm",)) as (opened, context):
            assert list(next_of(opened)) == [ALARM]
            assert context.counters.get("not_accepted") >= 1


def test_single_message_need_not_stand_in_a_list(make_context: ContextMaker) -> None:
    with HttpService() as service:
        service.answers("/m", Reply(body=encode_message(ALARM)))
        with source(make_context, service.url, messages=("alarm",)) as (opened, _):
            assert list(next_of(opened)) == [ALARM]


def test_rows_that_are_right_come_out_though_others_are_wrong(make_context: ContextMaker) -> None:
    answer = {"data": [{"id": "M0", "t": 1000, "p": 1.0}, {"id": "M1", "t": 1000, "p": "much"}]}
    with HttpService() as service:
        service.answers("/m", json_reply(answer), Reply(status=304))
        with source(make_context, service.url) as (opened, context):
            assert power_of(next_of(opened)[0]) == [1000.0]
            assert (context.counters.get("bad_rows"), context.counters.get("bad_payload")) == (1, 1)
    assert "$[1]" in make_context.dead_letters[0][1]


def test_answer_may_be_in_any_format_and_of_one_device(make_context: ContextMaker) -> None:
    lines = b"t;p\n1000;1.5\n2000;2.5\n"
    fields = {"p": Channel(column="active_power_w", unit="kW")}
    power = Csv(fields=fields, time="t", time_unit="ms", separator="semicolon")
    with HttpService() as service:
        service.answers("/m", Reply(body=lines))
        with source(make_context, service.url, format=power, rows=None, device="farm") as (opened, _):
            (samples,) = next_of(opened)
            assert power_of(samples) == [1500.0, 2500.0]
            assert isinstance(samples, Samples)
            assert samples.devices == ("farm",)


def test_messages_may_stand_at_a_place_of_the_answer(make_context: ContextMaker) -> None:
    body = b'{"page": 1, "items": [' + encode_message(ALARM) + b"]}"
    with HttpService() as service:
        service.answers("/m", Reply(body=body))
        with source(make_context, service.url, messages=("alarm",), rows="items") as (opened, _):
            assert list(next_of(opened)) == [ALARM]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b'{"data": {}}', "nothing stands at `data.rows`"),
        (b'{"date": {}}', "nothing stands at `data`"),
        (b'[{"data": 1}]', "nothing stands at `data`"),
        (b'{"data": 5}', "Expected `object`, got `int`"),
    ],
)
def test_place_that_is_not_there_is_named(body: bytes, complaint: str) -> None:
    config = RestPollConfig(api="a", path="/m", period=1.0, format=METERS, rows="data.rows")
    with pytest.raises(BadMessageError, match=complaint) as caught:
        AnswerReader(config).read(body, 0)
    assert caught.value.reason == "bad_payload"


@given(
    st.binary() | json_values.map(lambda value: json.dumps(value).encode()), st.sampled_from(["data", "data.0", None])
)
def test_any_bytes_give_well_made_messages_or_a_bad_message(body: bytes, rows: str | None) -> None:
    for config in (
        RestPollConfig(api="a", path="/m", period=1.0, format=METERS, rows=rows),
        RestPollConfig(api="a", path="/m", period=1.0, messages=("alarm",), rows=rows),
    ):
        try:
            read = AnswerReader(config).read(body, 0)
        except BadMessageError:
            continue
        assert all(not list(each.problems()) for each in read.messages if isinstance(each, Samples))


@given(json_values, st.lists(st.sampled_from(["data", "p", "0", "1"]), max_size=3))
def test_part_of_a_text_is_what_stands_there(value: Any, place: list[str]) -> None:
    expected = value
    for key in place:
        if isinstance(expected, dict) and key in expected:
            expected = expected[key]
        elif isinstance(expected, list) and key.isdigit() and int(key) < len(expected):
            expected = expected[int(key)]
        else:
            return
    assert json.loads(part_at(json.dumps(value).encode(), place)) == expected


def test_what_was_used_last_is_told_and_nothing_new_gives_nothing(make_context: ContextMaker) -> None:
    def answer(request: Request) -> Reply:
        if request.headers.get("if-none-match") == '"v1"':
            assert request.headers["if-modified-since"] == "Tue, 14 Nov 2023 22:13:20 GMT"
            return Reply(status=304)
        return json_reply(meters(1.0), ETag='"v1"', Last_Modified="Tue, 14 Nov 2023 22:13:20 GMT")

    with HttpService() as service:
        service.script("/m", answer)
        with source(make_context, service.url) as (opened, context):
            next_of(opened)
            wait_until(lambda: context.counters.get("not_modified") >= 3)
            assert opened.poll() == []
            assert context.counters.get("answers") == 1


def test_answer_that_was_no_use_is_asked_for_again(make_context: ContextMaker) -> None:
    with HttpService() as service:
        garbage = Reply(body=b"<html>", headers={"ETag": '"v1"', "Content-Type": "text/html"})
        service.answers("/m", garbage, json_reply(meters(1.0)))
        with source(make_context, service.url) as (opened, context):
            next_of(opened)
            assert context.counters.get("bad_payload") == 1
        assert all("if-none-match" not in each.headers for each in service.requests)
    (reason, text, payload) = make_context.dead_letters[0]
    assert (reason, payload) == ("bad_payload", b"<html>")
    assert text.startswith("grid: GET /m: JSON is malformed")
    assert text.endswith("(content type: text/html)")


def test_answer_that_is_too_large_is_a_dead_letter(make_context: ContextMaker) -> None:
    with HttpService() as service:
        service.answers("/m", Reply(body=b" " * 5000), json_reply(meters(1.0)))
        with source(make_context, service.url, {"answer_limit": 1024}) as (opened, context):
            next_of(opened)
            assert context.counters.get("too_large") == 1
    assert make_context.dead_letters[0][1] == "grid: GET /m: the answer is larger than 1024 bytes"


def test_service_that_fails_is_asked_again_before_the_next_period(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with HttpService() as service:
        failing = [Reply(status=status, body=b"try later") for status in (500, 502, 503, 504)]
        service.answers("/m", *failing, json_reply(meters(1.0)))
        with source(make_context, service.url, period=3600) as (opened, context):
            next_of(opened)
            assert context.counters.get("retries") == 4
            wait_until(lambda: "answers again" in caplog.text)
    assert caplog.messages == [
        "grid: GET /m: 500 Internal Server Error: try later; trying again",
        "grid: GET /m: 502 Bad Gateway: try later; trying again",
        "grid: GET /m: 504 Gateway Timeout: try later; trying again",
        "grid: GET /m: answers again after 4 failures",
    ]


def test_service_that_asks_for_time_gets_it(make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def shortened(answer: Answer) -> float:
        waits.append(retry_after_s(answer))
        return 0.3

    monkeypatch.setattr(rest_poll, "retry_after_s", shortened)
    with HttpService() as service:
        service.answers("/m", Reply(status=429, headers={"Retry-After": "120"}), json_reply(meters(1.0)))
        asked_s = time.monotonic()
        with source(make_context, service.url, period=3600) as (opened, _):
            next_of(opened)
            assert time.monotonic() - asked_s >= 0.3
    assert waits == [120.0]


def test_wait_that_a_service_asks_for_is_read_in_both_forms() -> None:
    def told(text: str) -> float:
        return retry_after_s(Answer(503, "", {"retry-after": text}, b""))

    assert told("7") == 7.0
    assert told("999999") == 3600.0
    assert 50.0 < told(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60.0
    assert [told(text) for text in ("", "-5", "soon", "Tue, 14 Nov 2000 22:13:20 GMT", "٣")] == [0.0] * 5


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 422])
def test_refusal_is_counted_told_at_growing_intervals_and_never_a_tight_loop(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    with HttpService() as service:
        service.answers("/m", Reply(status=status, body=b"no"))
        with source(make_context, service.url) as (_, context):
            begun_s = time.monotonic()
            wait_until(lambda: context.counters.get("refused") >= 9)
            assert time.monotonic() - begun_s >= 8 * 0.05
    assert 4 <= len(caplog.messages) <= 5  # after 1, 2, 4, 8 (and 16, if it came so far)
    assert caplog.messages[0].startswith(f"grid: GET /m: {status} ")
    assert make_context.dead_letters == []
    assert make_context.failures == []


def test_service_that_is_away_is_waited_for(make_context: ContextMaker, caplog: pytest.LogCaptureFixture) -> None:
    service = HttpService()
    service.port = free_port()
    service.answers("/m", json_reply(meters(1.0)))
    with source(make_context, service.url, period=3600) as (opened, context):
        wait_until(lambda: context.counters.get("retries") >= 3)
        with service:
            assert power_of(next_of(opened)[0]) == [1000.0]
    assert caplog.messages[0] == f"grid: GET http://{HOST}:{service.port}/m: connection refused; trying again"
    assert make_context.failures == []


def test_service_that_is_killed_and_comes_back_is_asked_again(make_context: ContextMaker) -> None:
    with HttpService() as service:
        service.answers("/m", json_reply(meters(1.0)))
        with source(make_context, service.url) as (opened, context):
            next_of(opened)
            service.stop()
            wait_until(lambda: context.counters.get("retries") >= 2)
            opened.poll()
            service.start()
            assert power_of(next_of(opened)[0]) == [1000.0]


def test_hang_and_a_cut_in_the_middle_cost_one_attempt_each(make_context: ContextMaker) -> None:
    with HttpService() as service:
        good = json_reply(meters(1.0))
        service.answers("/m", Reply(hangs=True), Reply(body=good.body, cut_after=10), good)
        with source(make_context, service.url, {"read_timeout": 0.1}, period=3600) as (opened, context):
            assert power_of(next_of(opened)[0]) == [1000.0]
            assert context.counters.get("retries") == 2


def test_closing_does_not_wait_for_a_request_that_hangs(tmp_path: Path, make_context: ContextMaker) -> None:
    authority = Authority(tmp_path)
    with HttpService(tls=authority.issue("service")) as service:
        service.answers("/m", Reply(hangs=True))
        patient = {"ca": "authority.pem", "read_timeout": 600, "request_timeout": 3600}
        with source(make_context, service.url, patient) as (opened, context):
            wait_until(lambda: service.requests)
            thread = opened._thread
            opened.close()
            assert thread is not None
            assert not thread.is_alive()
            assert context.counters.get("retries") == 0


def test_closing_does_not_wait_for_an_attempt_to_connect_that_hangs(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rest_poll, "LONGEST_CLOSE_S", 0.05)
    connecting, answered = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> None:
        connecting.set()
        answered.wait(30.0)
        raise OSError("nobody waits for this any more")

    monkeypatch.setattr(socket, "create_connection", hang)
    with source(make_context, f"http://{HOST}:1") as (opened, _):
        wait_until(connecting.is_set)
        thread = opened._thread
        assert thread is not None
        opened.close()
        assert opened.fileno() is None
    assert thread.is_alive()
    assert "closed during an attempt to connect" in caplog.messages[-1]
    answered.set()
    thread.join(10.0)
    assert not thread.is_alive()
    assert make_context.failures == []


def test_wrong_certificate_is_told_and_ends_nothing(
    tmp_path: Path, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = Authority(tmp_path, "stranger")
    service = HttpService(tls=Authority(tmp_path).issue("service"))
    with service, source(make_context, service.url, {"ca": str(stranger.certificate)}) as (_, context):
        wait_until(lambda: context.counters.get("retries") >= 2)
    assert "the server's certificate is refused: unable to get local issuer certificate" in caplog.messages[0]
    assert make_context.failures == []


def test_token_that_is_withdrawn_is_replaced_without_a_failure(make_context: ContextMaker) -> None:
    with HttpService() as service:
        granted: list[str] = []

        def grant(request: Request) -> Reply:
            granted.append(f"token-{len(granted)}")
            return json_reply({"access_token": granted[-1], "token_type": "Bearer", "expires_in": 3600})

        def answer(request: Request) -> Reply:
            good = request.headers["authorization"] == f"Bearer {granted[-1]}" and len(service.of("/m")) != 3
            return json_reply(meters(1.0)) if good else Reply(status=401)

        service.script("/token", grant)
        service.script("/m", answer)
        auth = ClientCredentials(token_url=f"{service.url}/token", client_id="i", client_secret="s")
        with source(make_context, service.url, {"auth": auth}) as (_, context):
            wait_until(lambda: context.counters.get("answers") >= 4)
            assert context.counters.get("refused") == 0
    assert len(granted) == 2


def test_secret_that_the_service_sends_back_is_not_logged(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with HttpService() as service:
        service.answers("/m", Reply(status=403, body=b"not for hunter2"))
        with source(make_context, service.url, {"auth": Bearer(token="hunter2")}):
            wait_until(lambda: caplog.messages)
    assert caplog.messages[0].endswith("403 Forbidden: not for ***; trying again")


def test_oldest_answers_drop_first_when_the_flow_is_slow(make_context: ContextMaker) -> None:
    with HttpService() as service:
        service.script("/m", lambda _: json_reply(meters(float(len(service.requests)))))
        with source(make_context, service.url, queue=2) as (opened, context):
            wait_until(lambda: context.counters.get("overflow") >= 3)
            given = next_of(opened)
            assert len(given) == 2
            (first,), (second,) = (power_of(each) for each in given)
            assert second == first + 1000.0
            assert first > 1000.0


def test_what_nobody_took_is_counted_when_the_flow_ends(make_context: ContextMaker) -> None:
    with HttpService() as service:
        service.answers("/m", json_reply(meters(1.0)), Reply(status=304))
        with source(make_context, service.url) as (_, context):
            wait_until(lambda: context.counters.get("not_modified"))
        assert context.counters.get("lost") == 1
