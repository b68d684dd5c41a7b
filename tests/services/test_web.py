"""What a service does with connections, by real sockets. Its limits are a fiftieth of those that it has by default."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from certificates import Authority

PROGRAM = """
import argparse, asyncio
from dataclasses import replace
from pathlib import Path
from edgeflex_flow.web import Limits
from edgeflex_services.web import add_listening, listen

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    if scope["path"] == "/slow":
        await asyncio.sleep(2.0)
    body = b"x" * (20_000_000 if scope["path"] == "/long" else 1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    for at in range(0, len(body), 100_000):
        await send({"type": "http.response.body", "body": body[at : at + 100_000], "more_body": True})
    await send({"type": "http.response.body", "body": b""})

parser = argparse.ArgumentParser()
add_listening(parser, 0)
limits = Limits()
limits = replace(
    limits,
    head_s=limits.head_s / 50,
    keep_alive_s=limits.keep_alive_s / 50,
    of_address=limits.of_address // 200,
)
listen(app, parser.parse_args(), limits=limits)
"""
WHOLE = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
OF_ADDRESS = 10
TOO_LONG_S = 5.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline())["url"])
        finally:
            process.terminate()


@contextmanager
def connected(url: str, address: str = "127.0.0.1") -> Iterator[socket.socket]:
    at = urlsplit(url)
    with socket.create_connection((at.hostname, at.port), TOO_LONG_S, source_address=(address, 0)) as made:
        yield made


def answer(connection: socket.socket) -> bytes:
    """One answer, whose body is one byte."""
    got = b""
    while not got.endswith(b"\r\n\r\nx"):
        came = connection.recv(4096)
        assert came, got
        got += came
    return got


def held_s(connection: socket.socket) -> float:
    """How long until the service hangs up; an error if it does not."""
    began = time.monotonic()
    with suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("before", "then"),
    [
        (b"", b""),
        (b"", b"GET / HTTP/1.1\r\nX-"),
        (WHOLE % b"", b"GET / HTTP/1.1\r\nX-"),
        (WHOLE % b"", b"\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b"y"),
    ],
    ids=["nothing", "half a head", "a request, half a head", "a request, an empty line", "a request, half its body"],
)
def test_who_sends_no_whole_head_in_time_is_hung_up_on(url: str, before: bytes, then: bytes) -> None:
    with connected(url) as connection:
        if before:
            connection.sendall(before)
            answer(connection)
        connection.sendall(then)
        assert 0.2 < held_s(connection) < 1.4


def test_half_a_head_behind_a_request_that_is_on_its_way_is_hung_up_on(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(WHOLE % b"slow" + b"GET / HTTP/1.1\r\nX-")
        assert held_s(connection) < 1.4


def test_a_connection_that_is_idle_between_requests_is_kept_for_longer_but_not_for_ever(url: str) -> None:
    with connected(url) as connection:
        for _ in range(2):
            connection.sendall(WHOLE % b"")
            answer(connection)
            time.sleep(0.6)  # longer than a head may take
        connection.sendall(WHOLE % b"")
        answer(connection)
        assert 1.0 < held_s(connection) < TOO_LONG_S


def test_an_answer_may_take_longer_than_a_head(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(WHOLE % b"slow")
        assert answer(connection).startswith(b"HTTP/1.1 200")


def test_who_does_not_read_a_long_answer_is_hung_up_on(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(WHOLE % b"long")
        time.sleep(1.0)  # it is about not reading meanwhile
        got = 0
        with suppress(ConnectionResetError):
            while came := connection.recv(1 << 20):
                got += len(came)
        assert got < 20_000_000
    assert len(httpx.get(f"{url}/long").content) == 20_000_000


def test_one_address_cannot_take_the_connections_of_all(url: str) -> None:
    with ExitStack() as held:
        for _ in range(OF_ADDRESS):
            one = held.enter_context(connected(url))
            one.sendall(WHOLE % b"")
            answer(one)
        with connected(url) as another:
            assert another.recv(4096).startswith(b"HTTP/1.1 503")
        with connected(url, "127.0.0.2") as of_another:
            of_another.sendall(WHOLE % b"")
            assert answer(of_another).startswith(b"HTTP/1.1 200")
    # Once they are closed there is room again.
    end_s = time.monotonic() + TOO_LONG_S
    while time.monotonic() < end_s:
        with suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return
    raise AssertionError("the address is still shut out")


def test_idle_connections_by_tls_do_not_keep_the_service_from_ending(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("service")
    options = ["--certificate", str(pair.certificate), "--key", str(pair.key)]
    command = [sys.executable, "-c", PROGRAM, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        at = urlsplit(str(json.loads(process.stdout.readline())["url"]))
        trust = ssl.create_default_context(cafile=authority.certificate)
        with (
            socket.create_connection((at.hostname, at.port), TOO_LONG_S) as plain,
            trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(WHOLE % b"")
            answer(connection)
            process.terminate()
            _, log = process.communicate(timeout=30.0)
    assert "exceeded" not in log
