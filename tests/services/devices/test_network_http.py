from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from broker import free_port
from certificates import Authority
from http_service import HOST, HttpService, Reply, Request, json_reply

from edgeflex_flow.clock import VirtualClock, moment_ns
from edgeflex_flow.errors import FatalError
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.devices.camara_api import camara_reason
from edgeflex_services.devices.network import (
    NetworkAwayError,
    NetworkMissingError,
    NetworkRefusedError,
)
from edgeflex_services.devices.network_http import Access, Answer, NetworkHttp

SECRET = "hunter2-and-more"
T = TypeVar("T")


class Told(msgspec.Struct):
    a: int


def run(url: str, work: Callable[[NetworkHttp], Awaitable[T]], clock: VirtualClock | None = None, **fields: Any) -> T:
    """What a client of this service does, with short limits."""

    async def go() -> T:
        limits = {"connect_timeout_s": 2.0, "request_timeout_s": 5.0, **fields}
        access = msgspec.convert({"url": url, **limits}, Access)
        http = NetworkHttp(access, camara_reason, clock or VirtualClock(NS_PER_S))
        try:
            return await work(http)
        finally:
            await http.close()

    return asyncio.run(go())


def get(http: NetworkHttp) -> Awaitable[Answer]:
    return http.request("GET", "/a")


def post(http: NetworkHttp) -> Awaitable[Answer]:
    return http.request("POST", "/a", body={"b": 1})


def away(url: str, work: Callable[[NetworkHttp], Awaitable[object]] = post, **fields: Any) -> NetworkAwayError:
    with pytest.raises(NetworkAwayError) as caught:
        run(url, work, **fields)
    return caught.value


# Answers --------------------------------------------------------------------------------------------------------------


def test_answer_comes_with_its_status_and_body() -> None:
    with HttpService() as service:
        service.answers("/api/a", json_reply({"a": 1}, 201))
        answer = run(f"{service.url}/api/", post)
        assert (answer.status, answer.read(Told).a) == (201, 1)
        assert service.requests[0].json == {"b": 1}
        assert service.requests[0].headers["content-type"] == "application/json"


def test_query_stands_in_the_url() -> None:
    with HttpService() as service:
        service.answers("/a", Reply())
        run(service.url, lambda http: http.request("GET", "/a", query=[("q", "a b&c")]))
        assert service.requests[0].query == {"q": ["a b&c"]}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, NetworkRefusedError),
        (401, NetworkRefusedError),
        (403, NetworkRefusedError),
        (404, NetworkMissingError),
        (409, NetworkRefusedError),
        (410, NetworkMissingError),
        (422, NetworkRefusedError),
        (408, NetworkAwayError),
        (425, NetworkAwayError),
        (429, NetworkAwayError),
        (500, NetworkAwayError),
        (502, NetworkAwayError),
        (503, NetworkAwayError),
    ],
)
def test_each_status_means_what_it_says(status: int, error: type[Exception]) -> None:
    with HttpService() as service:
        service.answers("/a", json_reply({"status": status, "code": "WHY", "message": "so it is"}, status))
        with pytest.raises((NetworkRefusedError, NetworkAwayError), match="WHY: so it is") as caught:
            run(service.url, post)
        assert type(caught.value) is error
        assert caught.value.reason.status == status
        if isinstance(caught.value, NetworkAwayError):
            assert caught.value.may_be_done == (status >= 500)


@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"\xff\xfe", b"[1]", b"[" * 5000])
def test_refusal_without_a_readable_reason_is_told_by_its_status(body: bytes) -> None:
    with HttpService() as service:
        service.answers("/a", Reply(403, body, {"Content-Type": "text/html"}))
        with pytest.raises(NetworkRefusedError) as caught:
            run(service.url, get)
        assert caught.value.reason.code == "HTTP_403"


@pytest.mark.parametrize("body", [b"", b"<html>log in</html>", b'{"a": "x"}', b'{"a": 1', b"\xff", b"[" * 5000])
def test_answer_that_is_not_as_the_standard_has_it_leaves_open_what_became_of_the_request(body: bytes) -> None:
    with HttpService() as service:
        service.answers("/a", Reply(200, body, {"Content-Type": "text/html"}))

        async def ask(http: NetworkHttp) -> None:
            (await post(http)).read(Told)

        error = away(service.url, ask)
        assert error.reason.code == "BAD_ANSWER"
        assert error.may_be_done


def test_answer_that_is_too_large_is_not_read() -> None:
    with HttpService() as service:
        service.answers("/a", Reply(200, b"x" * 5000))
        error = away(service.url, answer_limit_bytes=1024)
        assert "larger than 1024 bytes" in error.reason.text


def test_status_that_the_caller_reads_itself_is_no_error() -> None:
    with HttpService() as service:
        service.answers("/a", json_reply({"a": 1}, 422))
        assert run(service.url, lambda http: http.request("POST", "/a", body={}, also=[422])).status == 422


# Networks that are away -----------------------------------------------------------------------------------------------


def test_network_that_is_not_there_cannot_have_done_anything() -> None:
    error = away(f"http://{HOST}:{free_port()}")
    assert (error.reason.code, error.may_be_done) == ("NO_ANSWER", False)
    assert "Connect call failed" in error.reason.text


def test_host_that_nobody_has_cannot_have_done_anything() -> None:
    assert not away("http://no-such-host.invalid").may_be_done


def test_request_without_an_answer_may_be_done() -> None:
    with HttpService() as service:
        service.answers("/a", Reply(hangs=True))
        error = away(service.url, request_timeout_s=0.3)
        assert error.may_be_done
        assert "not answered within 0.3 s" in error.reason.text


def test_answer_that_drips_has_no_more_time_than_others() -> None:
    with HttpService() as service:
        service.answers("/a", Reply(200, b"x" * 1000, drips_s=0.05))
        assert away(service.url, request_timeout_s=0.5).may_be_done


def test_answer_that_breaks_off_leaves_open_what_became_of_the_request() -> None:
    with HttpService() as service:
        service.answers("/a", Reply(201, b'{"a": 1}', cut_after=3))
        assert away(service.url).may_be_done


def test_certificate_of_an_unknown_authority_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    good, other = Authority(tmp_path), Authority(tmp_path / "other")
    with HttpService(tls=good.issue("network")) as service:
        service.answers("/a", Reply())
        assert run(service.url, get, ca=str(good.certificate)).status == 200
        with pytest.raises(NetworkRefusedError, match="certificate verify failed") as refused:
            run(service.url, get, ca=str(other.certificate))
        assert refused.value.reason.code == "BAD_CERTIFICATE"
        assert len(service.requests) == 1


def test_authority_that_cannot_be_read_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"ca '.*missing\.pem' cannot be read: No such file"):
        run("https://network.example", get, ca=str(tmp_path / "missing.pem"))


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "retry_s"),
    [
        ("7", 7.0),
        ("999999999999", 86400.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("-3", None),
        ("soon", None),
    ],
)
def test_time_to_come_again_is_told(text: str, retry_s: float | None) -> None:
    with HttpService() as service:
        service.answers("/a", json_reply({"code": "TOO_MANY_REQUESTS"}, 429, Retry_After=text))
        error = away(service.url, clock=VirtualClock(moment_ns(NOON)))
        assert (error.retry_s, error.may_be_done) == (retry_s, False)


def test_requests_wait_for_a_turn_without_losing_their_time() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def slowly(_request: Request) -> Reply:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.2)
        with lock:
            now -= 1
        return Reply()

    async def many(http: NetworkHttp) -> None:
        await asyncio.gather(*(get(http) for _ in range(8)))

    with HttpService() as service:
        service.script("/a", slowly)
        run(service.url, many, most_at_once=2, request_timeout_s=0.7)
        assert (len(service.requests), most) == (8, 2)


def test_one_connection_serves_one_request_after_the_other() -> None:
    async def several(http: NetworkHttp) -> int:
        for _ in range(5):
            await get(http)
        return len(service._connections)

    with HttpService() as service:
        service.answers("/a", json_reply({}))
        assert run(service.url, several) == 1


# Redirects ------------------------------------------------------------------------------------------------------------


def test_redirect_within_the_network_is_followed_with_all_of_the_request() -> None:
    with HttpService() as service:
        service.answers("/a", Reply(307, headers={"Location": "/b/a"}))
        service.answers("/b/a", json_reply({"a": 2}))
        assert run(service.url, post).read(Told).a == 2
        assert service.of("/b/a")[0].json == {"b": 1}
        assert service.of("/b/a")[0].method == "POST"


def test_redirect_to_another_host_is_not_followed() -> None:
    with HttpService() as other, HttpService() as service:
        service.answers("/a", Reply(308, headers={"Location": f"{other.url}/a"}))
        with pytest.raises(NetworkRefusedError, match=rf"HTTP_308: sends on to '{other.url}/a', which is not followed"):
            run(service.url, post, auth={"kind": "bearer", "token": SECRET})
        assert not other.requests


@pytest.mark.parametrize("where", [{}, {"Location": "http://["}, {"Location": "/a"}])
def test_redirect_that_leads_nowhere_is_refused(where: dict[str, str]) -> None:
    with HttpService() as service:
        service.answers("/a", Reply(307, headers=where))
        with pytest.raises(NetworkRefusedError, match="HTTP_307"):
            run(service.url, get)
        assert len(service.requests) <= 4


# Who the service shows to be ------------------------------------------------------------------------------------------


def granting(service: HttpService, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "oauth2",
        "token_url": f"{service.url}/token",
        "client_id": "dso",
        "client_secret": SECRET,
        **changes,
    }


def granted(token: str, **more: Any) -> Reply:
    return json_reply({"access_token": token, "token_type": "Bearer", **more})


def test_fixed_token_is_shown() -> None:
    with HttpService() as service:
        service.answers("/a", json_reply({}))
        run(service.url, get, auth={"kind": "bearer", "token": SECRET})
        assert service.requests[0].headers["authorization"] == f"Bearer {SECRET}"


def test_fixed_token_that_is_refused_is_not_shown_again() -> None:
    with HttpService() as service:
        service.answers("/a", json_reply({"code": "UNAUTHENTICATED", "message": f"who is {SECRET}?"}, 401))
        with pytest.raises(NetworkRefusedError) as caught:
            run(service.url, get, auth={"kind": "bearer", "token": SECRET})
        assert caught.value.reason.text == "who is ***?"
        assert len(service.requests) == 1


def test_token_is_granted_once_for_many_requests() -> None:
    async def many(http: NetworkHttp) -> None:
        await asyncio.gather(*(get(http) for _ in range(5)))

    with HttpService() as service:
        service.answers("/a", json_reply({}))
        service.answers("/token", granted("t1", expires_in=3600))
        run(service.url, many, auth=granting(service, scope="all"))
        [asked] = service.of("/token")
        assert asked.headers["authorization"] == f"Basic {base64.b64encode(f'dso:{SECRET}'.encode()).decode()}"
        assert asked.body == b"grant_type=client_credentials&scope=all"
        assert {each.headers["authorization"] for each in service.of("/a")} == {"Bearer t1"}


def test_credentials_may_stand_in_the_form() -> None:
    with HttpService() as service:
        service.answers("/a", json_reply({}))
        service.answers("/token", granted("t1"))
        run(service.url, get, auth=granting(service, credentials_in="body"))
        assert b"client_id=dso&client_secret=hunter2-and-more" in service.of("/token")[0].body


def test_token_is_renewed_before_its_life_is_over() -> None:
    clock = VirtualClock(NS_PER_S)

    async def later(http: NetworkHttp) -> None:
        for at_s in (1, 70, 90):
            clock.advance_to(at_s * NS_PER_S)
            await get(http)

    with HttpService() as service:
        service.answers("/a", json_reply({}))
        service.answers("/token", granted("t1", expires_in=100), granted("t2", expires_in=100))
        run(service.url, later, clock, auth=granting(service))
        assert [each.headers["authorization"] for each in service.of("/a")] == ["Bearer t1", "Bearer t1", "Bearer t2"]


def test_token_that_is_refused_is_replaced_once() -> None:
    with HttpService() as service:
        service.answers("/a", json_reply({}, 401), json_reply({"a": 1}))
        service.answers("/token", granted("t1"), granted("t2"))
        assert run(service.url, post, auth=granting(service)).status == 200
        assert [each.headers["authorization"] for each in service.of("/a")] == ["Bearer t1", "Bearer t2"]

        service.answers("/a", json_reply({}, 401))
        with pytest.raises(NetworkRefusedError):
            run(service.url, post, auth=granting(service))
        assert len(service.of("/a")) == 4


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        (json_reply({"error": "invalid_client"}, 401), NetworkRefusedError, r"HTTP status 401 \(invalid_client\)$"),
        (json_reply({"error": "<script>"}, 400), NetworkRefusedError, "no token: HTTP status 400$"),
        (json_reply({"access_token": "x", "token_type": "mac"}), NetworkRefusedError, "of type 'mac' cannot be used"),
        (Reply(503, headers={"Retry-After": "9"}), NetworkAwayError, "no token: HTTP status 503"),
        (json_reply({"token": SECRET}), NetworkAwayError, "the answer holds no token$"),
        (Reply(hangs=True), NetworkAwayError, "not answered within 0.5 s"),
    ],
)
def test_without_a_token_the_network_is_asked_for_nothing(reply: Reply, error: type[Exception], text: str) -> None:
    with HttpService() as service:
        service.answers("/token", reply)
        with pytest.raises(error, match=text) as caught:
            run(service.url, post, auth=granting(service), request_timeout_s=0.5)
        assert isinstance(caught.value, NetworkRefusedError | NetworkAwayError)
        assert caught.value.reason.code == "NO_TOKEN"
        assert not getattr(caught.value, "may_be_done", False)
        assert not service.of("/a")


def test_server_of_tokens_may_say_when_to_come_again() -> None:
    with HttpService() as service:
        service.answers("/token", Reply(503, headers={"Retry-After": "9"}))
        assert away(service.url, auth=granting(service)).retry_s == 9.0


# Configuration --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"url": "ftp://a"}, "Expected `str` matching regex"),
        ({"url": "https://a/b?c"}, "Expected `str` matching regex"),
        ({"url": "https://a:b"}, "`url` is no url"),
        ({"url": "https://me:hunter2@a"}, "must name a host, and no user"),
        ({"url": "https://me:hunter2@a:b"}, "`url` is no url"),
        ({"url": "http://a", "auth": {"kind": "bearer", "token": "t"}}, "`url` must begin with https://"),
        ({"url": "https://a", "request_timeout_s": 0}, "request_timeout_s"),
        ({"url": "https://a", "timeout": 3}, "unknown field `timeout`"),
        (
            {
                "url": "https://a",
                "auth": {"kind": "oauth2", "token_url": "http://b", "client_id": "i", "client_secret": "hunter2"},
            },
            "`auth.token_url` must begin with https://",
        ),
    ],
)
def test_config_refuses_what_cannot_work(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint) as caught:
        msgspec.convert(fields, Access)
    assert "hunter2" not in str(caught.value)


def test_secrets_show_in_no_text_of_the_config() -> None:
    for auth in ({"kind": "bearer", "token": SECRET}, {**granting(HttpService()), "token_url": "https://a"}):
        assert SECRET not in repr(msgspec.convert({"url": "https://a", "auth": auth}, Access))
