from __future__ import annotations

import base64
import gzip
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import jwt
import msgspec
import pytest
from broker import free_port, wait_until
from certificates import Authority
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from http_service import HOST, HttpService, Reply, Request, json_reply

from edgeflex_connectors import http_client, rest, rest_auth
from edgeflex_connectors.http_client import Answer, NotSentError
from edgeflex_connectors.rest import RestConfig, RestSession
from edgeflex_connectors.rest_auth import Bearer, ClientCredentials, SignedJwt
from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.errors import BadMessageError, FatalError, RetryableError
from edgeflex_flow.node import OpenConnection

if TYPE_CHECKING:
    from conftest import ContextMaker

SECRET = "hunter2-and-more"


@contextmanager
def session(make_context: ContextMaker, url: str, **fields: Any) -> Iterator[RestSession]:
    config = RestConfig(url=url, **{"connect_timeout": 2.0, "read_timeout": 2.0, "request_timeout": 5.0, **fields})
    context = make_context(connections={"api": OpenConnection("grid", rest.NODE, config)})
    opened = rest.NODE.open(config, context)
    assert isinstance(opened, RestSession)
    try:
        yield opened
    finally:
        opened.abort()
        opened.close()


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"url": "ftp://a"}, "must begin with https:// or http://"),
        ({"url": "https://"}, "names no host"),
        ({"url": "https://a:70000"}, "from 1 to 65535"),
        ({"url": "https://a/b?c=d"}, "ends with its path"),
        ({"url": "http://a", "ca": "ca.pem"}, "need an url that begins with https://"),
        ({"url": "https://a", "certificate": "me.pem"}, "given together"),
        (
            {"url": "http://a", "auth": {"kind": "bearer", "token": "t"}},
            "`auth` needs an url that begins with https://",
        ),
        ({"url": "https://a", "auth": {"kind": "basic"}}, "Invalid value 'basic'"),
        ({"url": "https://a", "proxy": "socks5://p"}, "`proxy` must begin with"),
    ],
)
def test_config_refuses_what_cannot_work(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert(fields, RestConfig)


def test_credentials_may_go_to_this_computer_without_tls() -> None:
    assert RestConfig(url="http://localhost:8080", auth=Bearer(token="t")).url == "http://localhost:8080"


@pytest.mark.parametrize("url", ["https://me:hunter2@a", "https://[::1:hunter2@a", "mail:hunter2@a"])
def test_user_in_an_url_is_never_quoted(url: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"url": url}, RestConfig)
    assert "hunter2" not in str(caught.value)


def test_secrets_show_in_no_text_of_the_connection() -> None:
    for auth in (Bearer(token=SECRET), ClientCredentials(token_url="https://a", client_id="i", client_secret=SECRET)):
        config = RestConfig(url="https://a", auth=auth)
        assert SECRET not in repr(config) + str(config) + repr(config.__rich_repr__())


def test_answer_comes_with_status_headers_and_body(make_context: ContextMaker) -> None:
    with HttpService() as service, session(make_context, f"{service.url}/api/") as opened:
        service.answers("/api/a", json_reply([1], etag="x"))
        answer = opened.request("GET", "/a", query=[("q", "a b")])
        assert (answer.status, answer.headers["etag"], answer.body) == (200, "x", b"[1]")
        assert service.requests[0].query == {"q": ["a b"]}


def test_one_connection_serves_many_requests(make_context: ContextMaker) -> None:
    with HttpService() as service, session(make_context, service.url) as opened:
        service.answers("/a", Reply())
        for _ in range(5):
            opened.request("GET", "/a")
        assert len(service._connections) == 1


def test_service_that_is_away_is_retryable_and_surely_not_reached(make_context: ContextMaker) -> None:
    url = f"http://{HOST}:{free_port()}"
    with session(make_context, url) as opened, pytest.raises(NotSentError, match=r"grid: GET .*connection refused"):
        opened.request("GET", "/a")


def test_unknown_host_is_retryable(make_context: ContextMaker) -> None:
    with session(make_context, "http://no-such-host.invalid") as opened, pytest.raises(NotSentError) as caught:
        opened.request("GET", "/a")
    assert "the host cannot be resolved" in str(caught.value)


def test_hanging_service_is_given_up(make_context: ContextMaker) -> None:
    with HttpService() as service, session(make_context, service.url, read_timeout=0.1) as opened:
        service.answers("/a", Reply(hangs=True))
        with pytest.raises(RetryableError, match=r"no answer within 0\.1 s") as caught:
            opened.request("GET", "/a")
        assert not isinstance(caught.value, NotSentError)


def test_dripping_service_is_given_up_though_bytes_keep_coming(make_context: ContextMaker) -> None:
    with HttpService() as service, session(make_context, service.url, request_timeout=0.3) as opened:
        service.answers("/a", Reply(body=b"x" * 1000, drips_s=0.02))
        with pytest.raises(RetryableError, match=r"not done within 0\.3 s"):
            opened.request("GET", "/a")


def test_request_after_one_that_was_cut_works(make_context: ContextMaker) -> None:
    with HttpService() as service, session(make_context, service.url, request_timeout=0.3) as opened:
        service.answers("/a", Reply(body=b"x" * 1000, drips_s=0.02), Reply(body=b"y"))
        with pytest.raises(RetryableError):
            opened.request("GET", "/a")
        assert opened.request("GET", "/a").body == b"y"


def test_answer_cut_in_the_middle_is_retryable(make_context: ContextMaker) -> None:
    with HttpService() as service, session(make_context, service.url) as opened:
        service.answers("/a", Reply(body=b"x" * 100, cut_after=10))
        with pytest.raises(RetryableError):
            opened.request("GET", "/a")


def test_redirect_is_an_answer_and_nothing_goes_to_the_other_host(make_context: ContextMaker) -> None:
    with HttpService() as service, HttpService() as other:
        service.answers("/a", Reply(status=302, headers={"Location": f"{other.url}/b"}))
        with session(make_context, service.url, auth=Bearer(token=SECRET)) as opened:
            answer = opened.request("GET", "/a")
        assert answer.status == 302
        assert str(answer) == f"302 Found: to {other.url}/b"
        assert other.requests == []


def test_answer_beyond_the_limit_is_not_read(make_context: ContextMaker) -> None:
    with HttpService() as service, session(make_context, service.url, answer_limit=1024) as opened:
        service.answers("/a", Reply(body=b"x" * 1024), Reply(body=b"x" * 1025), Reply(body=b"y"))
        assert len(opened.request("GET", "/a").body) == 1024
        with pytest.raises(BadMessageError, match="larger than 1024 bytes"):
            opened.request("GET", "/a")
        assert opened.request("GET", "/a").body == b"y"


def test_packed_answer_is_unpacked_up_to_the_limit(make_context: ContextMaker) -> None:
    packed = {"Content-Encoding": "gzip"}
    bomb = gzip.compress(bytes(64 * 1024**2))
    with HttpService() as service, session(make_context, service.url, answer_limit=4096) as opened:
        service.answers(
            "/a",
            Reply(body=gzip.compress(b"good"), headers=packed),
            Reply(body=bomb, headers=packed),
            Reply(body=gzip.compress(b"cut off")[:-6], headers=packed),
            Reply(body=b"not packed", headers=packed),
            Reply(body=b"?", headers={"Content-Encoding": "br"}),
        )
        assert opened.request("GET", "/a").body == b"good"
        complaints = ("larger than 4096 bytes", "ends too early", "cannot be unpacked", "packed as 'br'")
        for complaint in complaints:
            with pytest.raises(BadMessageError, match=complaint):
                opened.request("GET", "/a")
        assert service.requests[0].headers["accept-encoding"] == "gzip"


def test_environment_names_no_proxy(make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:1")
    with HttpService() as service, session(make_context, service.url) as opened:
        service.answers("/a", Reply(body=b"x"))
        assert opened.request("GET", "/a").body == b"x"


def test_proxy_of_the_config_is_used(make_context: ContextMaker) -> None:
    seen: list[bytes] = []
    with socket.create_server((HOST, 0)) as proxy:

        def answer() -> None:
            connection, _ = proxy.accept()
            with connection:
                seen.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://{HOST}:{proxy.getsockname()[1]}"
        with session(make_context, "http://grid.invalid", proxy=url) as opened:
            assert opened.request("GET", "/a").body == b"x"
        thread.join()
    assert seen[0].startswith(b"GET http://grid.invalid/a HTTP/1.1\r\n")


def test_nothing_of_a_request_is_logged(make_context: ContextMaker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with HttpService() as service, session(make_context, service.url, auth=Bearer(token=SECRET)) as opened:
        service.answers("/a", Reply(headers={"Set-Cookie": SECRET}))
        opened.request("GET", "/a", query=[("api_key", SECRET)])
    assert SECRET not in caplog.text


def test_missing_package_is_fatal_and_says_how_to_get_it(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(FatalError, match=r"httpx is not installed; .*pip install 'PATH/TO/edgeflex-flow\[rest\]'"):
        rest.NODE.open(RestConfig(url="https://a"), make_context())


def test_other_flows_do_not_wait_for_the_packages_of_the_extra() -> None:
    program = (
        "import sys, edgeflex_flow.cli.kinds; print([n for n in ('httpx', 'jwt', 'cryptography') if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout == "[]\n"


# TLS ----------------------------------------------------------------------------------------------------------------


def test_tls_connects_with_the_right_authority(tmp_path: Path, make_context: ContextMaker) -> None:
    authority = Authority(tmp_path)
    with HttpService(tls=authority.issue("service")) as service:
        service.answers("/a", Reply(body=b"x"))
        with session(make_context, service.url, ca="authority.pem") as opened:
            assert opened.request("GET", "/a").body == b"x"


@pytest.mark.parametrize(
    ("issued", "complaint"),
    [
        ({"valid_from": timedelta(days=-3), "valid_to": timedelta(days=-2)}, "certificate has expired"),
        ({"valid_from": timedelta(days=2), "valid_to": timedelta(days=3)}, "is this computer's clock right"),
        ({"host": "other.example", "address": None}, "IP address mismatch"),
    ],
)
def test_wrong_certificate_is_told_and_nothing_is_sent(
    tmp_path: Path, make_context: ContextMaker, issued: dict[str, Any], complaint: str
) -> None:
    wrong = Authority(tmp_path).issue("service", **issued)
    with HttpService(tls=wrong) as service:
        refused = pytest.raises(NotSentError, match=f"the server's certificate is refused: .*{complaint}")
        fields = {"ca": "authority.pem", "auth": Bearer(token=SECRET)}
        with session(make_context, service.url, **fields) as opened, refused:
            opened.request("GET", "/a")
        assert service.requests == []


def test_certificate_of_an_unknown_authority_is_refused(tmp_path: Path, make_context: ContextMaker) -> None:
    stranger = Authority(tmp_path, "stranger")
    with HttpService(tls=Authority(tmp_path).issue("service")) as service:
        refused = pytest.raises(NotSentError, match="unable to get local issuer certificate")
        with session(make_context, service.url, ca=str(stranger.certificate)) as opened, refused:
            opened.request("GET", "/a")


def test_client_certificate_is_shown(tmp_path: Path, make_context: ContextMaker) -> None:
    authority = Authority(tmp_path)
    authority.issue("me")
    with HttpService(tls=authority.issue("service"), client_ca=authority.certificate) as service:
        service.answers("/a", Reply(body=b"x"))
        shown = {"ca": "authority.pem", "certificate": "me.pem", "key": "me.key"}
        with session(make_context, service.url, **shown) as opened:
            assert opened.request("GET", "/a").body == b"x"
        with session(make_context, service.url, ca="authority.pem") as opened, pytest.raises(RetryableError):
            opened.request("GET", "/a")


def test_files_that_cannot_be_used_are_named(tmp_path: Path, make_context: ContextMaker) -> None:
    with pytest.raises(FatalError, match=r"ca '.*/gone.pem' cannot be read: No such file"):
        rest.NODE.open(RestConfig(url="https://a", ca="gone.pem"), make_context())
    authority = Authority(tmp_path)
    authority.issue("one")
    authority.issue("two")
    config = RestConfig(url="https://a", ca="authority.pem", certificate="one.pem", key="two.key")
    with pytest.raises(FatalError, match=r"certificate '.*one.pem' with key '.*two.key' cannot be used"):
        rest.NODE.open(config, make_context())


# Ends ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_abort_ends_a_request_that_hangs(tmp_path: Path, make_context: ContextMaker, tls: bool) -> None:
    service = HttpService(tls=Authority(tmp_path).issue("service") if tls else None)
    fields: dict[str, Any] = {"ca": "authority.pem"} if tls else {}
    with service, session(make_context, service.url, read_timeout=60, request_timeout=60, **fields) as opened:
        service.answers("/a", Reply(hangs=True))
        errors = ended_by_abort(opened, lambda: bool(service.requests))
    assert "given up, because the flow ends" in str(errors[0])


def test_abort_ends_a_handshake_that_hangs(tmp_path: Path, make_context: ContextMaker) -> None:
    Authority(tmp_path)
    with socket.create_server((HOST, 0)) as silent:
        url = f"https://{HOST}:{silent.getsockname()[1]}"
        with session(make_context, url, ca="authority.pem", connect_timeout=60, request_timeout=60) as opened:
            errors = ended_by_abort(opened, lambda: opened._client._cut._during_handshake is not None)
    assert "given up, because the flow ends" in str(errors[0])


def ended_by_abort(opened: RestSession, begun: Any) -> list[RetryableError]:
    errors: list[RetryableError] = []

    def ask() -> None:
        try:
            opened.request("GET", "/a")
        except RetryableError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(begun)
    opened.abort()
    thread.join(10.0)
    assert not thread.is_alive()
    return errors


def test_nothing_is_left_open(tmp_path: Path, make_context: ContextMaker) -> None:
    authority = Authority(tmp_path)
    with HttpService(tls=authority.issue("service")) as service:
        service.answers("/a", Reply())
        before = len(os.listdir("/proc/self/fd"))
        with session(make_context, service.url, ca="authority.pem") as opened:
            opened.request("GET", "/a")
        wait_until(lambda: len(os.listdir("/proc/self/fd")) == before)


def test_service_that_comes_back_is_used_again(make_context: ContextMaker) -> None:
    with HttpService() as service, session(make_context, service.url) as opened:
        service.answers("/a", Reply(body=b"x"))
        opened.request("GET", "/a")
        service.stop()
        with pytest.raises(RetryableError):
            opened.request("GET", "/a")
        service.start()
        assert opened.request("GET", "/a").body == b"x"


# Credentials --------------------------------------------------------------------------------------------------------


def test_fixed_token_is_shown_and_a_refusal_stays_one(make_context: ContextMaker) -> None:
    with HttpService() as service, session(make_context, service.url, auth=Bearer(token=SECRET)) as opened:
        service.answers("/a", Reply(status=401, body=f"no to Bearer {SECRET}".encode()))
        answer = opened.request("GET", "/a")
        assert opened.shown(answer) == "401 Unauthorized: no to Bearer ***"
        assert [each.headers["authorization"] for each in service.requests] == [f"Bearer {SECRET}"]


def ed25519_key(folder: Path, name: str = "jwt.pem") -> ed25519.Ed25519PrivateKey:
    key = ed25519.Ed25519PrivateKey.generate()
    (folder / name).write_bytes(_pem(key))
    return key


def _pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def shown_token(request: Request) -> str:
    kind, _, token = request.headers["authorization"].partition(" ")
    assert kind == "Bearer"
    return token


@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256"])
def test_signed_token_says_who_for_whom_and_until_when(
    tmp_path: Path, make_context: ContextMaker, algorithm: Any
) -> None:
    key = ed25519_key(tmp_path) if algorithm == "EdDSA" else rsa.generate_private_key(65537, 2048)
    (tmp_path / "jwt.pem").write_bytes(_pem(key))
    auth = SignedJwt(
        key="jwt.pem", algorithm=algorithm, issuer="site_12", audience="policies", key_id="k1", lifetime=60
    )
    with HttpService() as service, session(make_context, service.url, auth=auth) as opened:
        service.answers("/a", Reply())
        opened.request("GET", "/a")
        token = shown_token(service.requests[0])
    claims = jwt.decode(token, key.public_key(), algorithms=[algorithm], audience="policies", issuer="site_12")
    assert claims["exp"] - claims["iat"] == 60
    assert abs(claims["iat"] - time.time()) < 60
    assert claims["sub"] == "site_12"
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": "k1", "typ": "JWT"}


def test_signed_token_is_kept_and_replaced_before_it_expires(tmp_path: Path) -> None:
    ed25519_key(tmp_path)
    clock = VirtualClock(1_700_000_000_000_000_000)
    auth = SignedJwt(key="jwt.pem", issuer="i", audience="a", lifetime=100)
    token = rest_auth.SignedToken(auth, tmp_path / "jwt.pem", "grid", clock)
    first = token.header()
    clock.advance_to(clock.now_ns() + 79_000_000_000)
    assert token.header() == first
    clock.advance_to(clock.now_ns() + 2_000_000_000)
    assert token.header() != first


def test_signed_token_is_replaced_when_the_clock_was_set_back(tmp_path: Path) -> None:
    ed25519_key(tmp_path)
    clock = VirtualClock(1_700_000_000_000_000_000)
    token = rest_auth.SignedToken(SignedJwt(key="k", issuer="i", audience="a"), tmp_path / "jwt.pem", "grid", clock)
    first = token.header()
    clock._now_ns -= 3600 * 10**9
    assert token.header() != first


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read: No such file"),
        (b"hunter2", "is no private key in PEM format for EdDSA"),
        (b"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n", "is no private key in PEM format"),
    ],
)
def test_key_that_cannot_sign_is_fatal_and_not_quoted(
    tmp_path: Path, make_context: ContextMaker, content: bytes | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / "jwt.pem").write_bytes(content)
    config = RestConfig(url="https://a", auth=SignedJwt(key="jwt.pem", issuer="i", audience="a"))
    with pytest.raises(FatalError, match=complaint) as caught:
        rest.NODE.open(config, make_context())
    assert "hunter2" not in str(caught.value)


def test_public_key_and_key_of_another_kind_are_fatal(tmp_path: Path, make_context: ContextMaker) -> None:
    public = ed25519_key(tmp_path).public_key()
    (tmp_path / "public.pem").write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    config = RestConfig(url="https://a", auth=SignedJwt(key="public.pem", issuer="i", audience="a"))
    with pytest.raises(FatalError, match="is a public key"):
        rest.NODE.open(config, make_context())
    (tmp_path / "rsa.pem").write_bytes(_pem(rsa.generate_private_key(65537, 2048)))
    config = RestConfig(url="https://a", auth=SignedJwt(key="rsa.pem", issuer="i", audience="a"))
    with pytest.raises(FatalError, match="for EdDSA"):
        rest.NODE.open(config, make_context())


class Granting:
    """A token endpoint that grants `token-1`, `token-2`, …, and a resource that takes only those in `good`."""

    def __init__(self, service: HttpService, expires_in: float | None = 3600) -> None:
        self.granted = 0
        self.good: set[str] = set()
        self.expires_in = expires_in
        service.script("/token", self.grant)
        service.script("/a", self.resource)

    def grant(self, request: Request) -> Reply:
        self.granted += 1
        token = f"token-{self.granted}"
        self.good = {token}
        life = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return json_reply({"access_token": token, "token_type": "Bearer", **life})

    def resource(self, request: Request) -> Reply:
        return Reply(body=b"x") if shown_token(request) in self.good else Reply(status=401)


def granted_by(service: HttpService, **fields: Any) -> ClientCredentials:
    return ClientCredentials(
        **{"token_url": f"{service.url}/token", "client_id": "site:12", "client_secret": "s%cret", **fields}
    )


def test_granted_token_is_asked_for_once_and_kept(make_context: ContextMaker) -> None:
    with HttpService() as service:
        granting = Granting(service)
        with session(make_context, service.url, auth=granted_by(service, scope="a b")) as opened:
            assert [opened.request("GET", "/a").status for _ in range(3)] == [200, 200, 200]
        assert granting.granted == 1
        [asked] = service.of("/token")
        assert parse_qs(asked.body.decode()) == {"grant_type": ["client_credentials"], "scope": ["a b"]}
        assert base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")) == b"site%3A12:s%25cret"


def test_id_and_secret_may_stand_in_the_form(make_context: ContextMaker) -> None:
    with HttpService() as service:
        Granting(service)
        with session(make_context, service.url, auth=granted_by(service, credentials_in="body")) as opened:
            opened.request("GET", "/a")
        [asked] = service.of("/token")
        assert parse_qs(asked.body.decode())["client_secret"] == ["s%cret"]
        assert "authorization" not in asked.headers


def test_granted_token_is_replaced_before_it_expires(make_context: ContextMaker) -> None:
    clock = VirtualClock()
    with HttpService() as service:
        granting = Granting(service, expires_in=100)
        with session(make_context, service.url, auth=granted_by(service)) as opened:
            assert isinstance(opened._credentials, rest_auth.GrantedToken)
            opened._credentials._clock = clock
            opened.request("GET", "/a")
            clock.advance_to(79 * 10**9)
            opened.request("GET", "/a")
            assert granting.granted == 1
            clock.advance_to(81 * 10**9)
            assert opened.request("GET", "/a").status == 200
            assert granting.granted == 2


def test_refused_token_is_replaced_once_and_the_request_made_again(make_context: ContextMaker) -> None:
    with HttpService() as service:
        granting = Granting(service)
        with session(make_context, service.url, auth=granted_by(service)) as opened:
            opened.request("GET", "/a")
            granting.good = set()  # withdrawn
            assert opened.request("GET", "/a").status == 200
            assert granting.granted == 2
            service.script("/a", lambda _: Reply(status=401))
            assert opened.request("GET", "/a").status == 401
            assert granting.granted == 3


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (
            json_reply({"error": "invalid_client", "why": "s%cret"}, 401),
            r"no token: 401 Unauthorized \(invalid_client\)",
        ),
        (json_reply({"error": "s%cret"}, 400), "no token: 400 Bad Request$"),
        (Reply(status=500, body=b"s%cret"), "no token: 500"),
        (Reply(body=b"s%cret"), "the answer holds no token"),
        (json_reply({"access_token": "", "token_type": "Bearer"}), "the answer holds no token"),
        (json_reply({"access_token": "s%cret", "token_type": "mac"}), "tokens of type 'mac' cannot be used"),
        (Reply(status=302, headers={"Location": "https://elsewhere.example"}), "no token: 302"),
        (Reply(body=b"x" * 100_000), "larger than 1024 bytes"),
    ],
)
def test_without_a_token_nothing_is_sent_and_no_secret_told(
    make_context: ContextMaker, reply: Reply, complaint: str
) -> None:
    with HttpService() as service:
        service.answers("/token", reply)
        refused = pytest.raises(NotSentError, match=complaint)
        with (
            session(make_context, service.url, auth=granted_by(service), answer_limit=1024) as opened,
            refused as caught,
        ):
            opened.request("POST", "/a")
        assert service.of("/a") == []
        assert "s%cret" not in str(caught.value)


def test_lifetime_of_a_token_may_be_text_or_missing(make_context: ContextMaker) -> None:
    for life in ({"expires_in": "3600"}, {}):
        with HttpService() as service:
            service.answers("/token", json_reply({"access_token": "t", "token_type": "bearer", **life}))
            service.answers("/a", Reply())
            with session(make_context, service.url, auth=granted_by(service)) as opened:
                assert opened.request("GET", "/a").status == 200


def test_how_an_answer_begins_is_told_on_one_line() -> None:
    answer = http_client.Answer(422, "Unprocessable Content", {}, b"<p>\n too \x1b[31m much" + b"x" * 500)
    assert str(answer).startswith("422 Unprocessable Content: <p> too [31m much")
    assert len(str(answer)) < 240


def test_a_secret_that_a_service_sends_back_is_hidden_though_the_answer_is_cut() -> None:
    token = "t" * 40
    for before in range(0, 260, 7):
        answer = Answer(400, "Bad Request", {}, b"x" * before + token.encode() + b"y" * 300)
        assert "tt" not in answer.shown((token,))
