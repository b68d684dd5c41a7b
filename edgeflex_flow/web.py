"""What programs with a web interface share: they listen, refuse what is no request, answer errors alike and end."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import msgspec
import uvicorn
from litestar import Request, Response
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, ValidationException
from litestar.status_codes import HTTP_500_INTERNAL_SERVER_ERROR
from litestar.types import ASGIApp, ExceptionHandlersMap, HTTPReceiveMessage, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgeflex_flow.errors import FatalError

LOG = logging.getLogger("edgeflex.web")
PROBLEM_JSON = "application/problem+json"
THIS_COMPUTER = ("127.0.0.1", "::1", "localhost")
STOP_TIMEOUT_S = 5
"""How long requests that are on their way may take once the service ends."""
GOOD_BYE_S = 0.2
"""How long connections on which nothing is on its way may take to close then."""

BODY_LIMIT_BYTES = 256 * 1024
BODY_TIME_S = 15.0
NULS = (b"\x00", b"\\u0000", b"%00")
"""No text of ours has this character, and PostgreSQL takes none that does."""

HEAD_LIMIT_BYTES = 32 * 1024
DEEPEST_BODY = 32
"""How deep JSON may be nested: deeper is no request of ours, and recursion costs stack."""


@dataclass(frozen=True)
class Limits:
    """How long and how often clients may connect."""

    head_s: float = 15.0
    """From the first byte of a request, or from connecting, to the end of its head; and to read a part of an answer."""
    keep_alive_s: float = 75.0
    """Longer than the usual time from one question of a flow to its next, so that it need not connect each time."""
    connections: int = 4000
    of_address: int = 2000
    """Connections of one address, so that no single client can take all of them."""


USUAL_LIMITS = Limits()

_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|$)', re.DOTALL)
_BRACKETS = re.compile(rb"[][{}]")


def is_known(request: Request[Any, Any, Any], etag: str) -> bool:
    """Whether who asks has what this `ETag` names already (RFC 9110, section 13.1.2)."""
    known = request.headers.get("if-none-match", "")
    return bool(known) and (
        known.strip() == "*" or etag in {each.strip().removeprefix("W/") for each in known.split(",")}
    )


def problem(status: int, detail: str, **more: Any) -> Response[dict[str, Any]]:
    """An answer that says what is wrong, as RFC 9457 has it."""
    return Response(_told(status, detail, **more), status_code=status, media_type=PROBLEM_JSON)


def _told(status: int, detail: str, **more: Any) -> dict[str, Any]:
    return {"title": title_of(status), "status": status, "detail": detail, **more}


def title_of(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def http_problem(_: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Any]]:
    """The answer for an error that handlers raise."""
    more = {"errors": error.extra} if isinstance(error, ValidationException) and error.extra else {}
    answer = problem(error.status_code, error.detail, **more)
    if error.headers:
        answer.headers.update(error.headers)
    return answer


def _unforeseen(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    """A defect of ours: told to the log, whole; to the caller, that it is one."""
    LOG.error("%s %s", request.method, request.url.path, exc_info=error)
    return problem(HTTP_500_INTERNAL_SERVER_ERROR, "an error of the service, which its log tells")


PROBLEMS = cast("ExceptionHandlersMap", {HTTPException: http_problem, Exception: _unforeseen})
"""Exception handlers: every error is `application/problem+json`."""


def json_is_too_deep(body: bytes, deepest: int = DEEPEST_BODY) -> bool:
    """Whether brackets outside of texts nest deeper than that. Looks at the bytes alone, in one pass.

    >>> json_is_too_deep(b'[[["]]]["]]]', 2), json_is_too_deep(b'["[[[[["]', 2)
    (True, False)
    """
    depth = 0
    for bracket in _BRACKETS.findall(_TEXTS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > deepest:
            return True
    return False


class BodyGuard:
    """ASGI middleware that reads a body before anything else does, and refuses one that is too long or too deep.

    The character NUL is refused in bodies, paths and queries.
    """

    def __init__(self, app: ASGIApp, limit_bytes: int = BODY_LIMIT_BYTES, *, reads_text: bool = True) -> None:
        """`reads_text`: whether the service leaves it to others to find out that a body is no text."""
        self._app = app
        self._limit_bytes = limit_bytes
        self._reads_text = reads_text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and _has_nul(scope["raw_path"] + b"?" + scope["query_string"]):
            await _refuse(send, 400, "the address holds the character NUL")
        elif scope["type"] != ScopeType.HTTP or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        else:
            await self._give_body(scope, receive, send)

    async def _give_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        more = True
        end_s = time.monotonic() + BODY_TIME_S
        while more:
            try:
                message = await asyncio.wait_for(receive(), max(end_s - time.monotonic(), 0.0))
            except TimeoutError:
                await _refuse(send, 408, f"the body did not come within {BODY_TIME_S:g} s")
                return
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit_bytes:
                await _refuse(send, 413, f"the body is longer than {self._limit_bytes} bytes")
                return
        if self._reads_text and not _is_text(bytes(body), scope):
            await _refuse(send, 400, "the body is not UTF-8")
            return
        if json_is_too_deep(bytes(body)):
            await _refuse(send, 400, f"the body is nested deeper than {DEEPEST_BODY} levels")
            return
        if _has_nul(body):
            await _refuse(send, 400, "the body holds the character NUL")
            return
        given = False

        async def replay() -> HTTPReceiveMessage:
            nonlocal given
            if given:
                return cast("HTTPReceiveMessage", await receive())
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, cast("Receive", replay), send)


def _is_text(body: bytes, scope: Scope) -> bool:
    """Whether a body that says it is JSON, or says nothing, is a text."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"json")
    if b"json" not in kind:
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_nul(data: bytes | bytearray) -> bool:
    return any(each in data for each in NULS)


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = msgspec.json.encode(_told(status, detail))
    headers = [(b"content-type", PROBLEM_JSON.encode()), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class _GuardedProtocol(HttpToolsProtocol):
    """Hangs up on who sends no whole head of a request in time, or one without end, or reads no answer.

    At any time one of these runs, so that nobody holds a connection for nothing: an answer, the time for a head, or the
    time that a connection may be idle.
    """

    def __init__(self, *args: Any, limits: Limits, of_address: Counter[str], **more: Any) -> None:
        super().__init__(*args, **more)
        self._limits = limits
        self._of_address = of_address
        self._address = ""
        self._head_bytes = 0
        self._has_head = False
        self._impatience: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._of_address[self._address] += 1
        if self._of_address[self._address] > self._limits.of_address:
            transport.write(_TOO_MANY)
            transport.close()
            return
        self._begin_to_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._of_address[self._address] -= 1
        if not self._of_address[self._address]:
            del self._of_address[self._address]
        self._end_of_wait()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._begin_to_wait()
        if not self._has_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT_BYTES:
                # What is in it may hold a whole head: a body may be long.
                super().data_received(data[:HEAD_LIMIT_BYTES])
                if not self._has_head:
                    self.transport.abort()
                    return
                data = data[HEAD_LIMIT_BYTES:]
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._has_head = False
        self._begin_to_wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._has_head = True
        self._head_bytes = 0
        self._end_of_wait()
        super().on_headers_complete()

    def shutdown(self) -> None:
        super().shutdown()
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(GOOD_BYE_S, self._hang_up)

    def _hang_up(self) -> None:
        """With TLS the other side, which may not be looking, would be waited for; what it has not got yet, it gets."""
        if self.transport.get_write_buffer_size():
            self.loop.call_later(GOOD_BYE_S, self._hang_up)
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self._limits.head_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def _begin_to_wait(self) -> None:
        if self._impatience is None:
            self._impatience = self.loop.call_later(self._limits.head_s, self.transport.abort)

    def _end_of_wait(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None


_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 60\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class _Server(uvicorn.Server):
    """Tells once it listens, and not before."""

    def __init__(
        self,
        config: uvicorn.Config,
        stop: threading.Event,
        on_start: Callable[[], None],
        on_end: Callable[[], None] | None,
    ) -> None:
        super().__init__(config)
        self._stop = stop
        self._on_start = on_start
        self._on_end = on_end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.should_exit = self.should_exit or self._stop.is_set()
        if self.started and not self.should_exit:
            self._on_start()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stop.is_set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_end is not None:
            self._on_end()
        await super().shutdown(sockets)


@dataclass(frozen=True)
class Tls:
    """The files by which a server shows who it is."""

    certificate: Path
    key: Path


def tls_of(certificate: Path | None, key: Path | None) -> Tls | None:
    """Raises FatalError when one is there without the other, or is no file."""
    if (certificate is None) != (key is None):
        raise FatalError("certificate and key must be given together")
    for file in (certificate, key):
        if file is not None and not file.is_file():
            raise FatalError(f"there is no file '{file}'")
    return None if certificate is None or key is None else Tls(certificate, key)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises FatalError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), backlog=1024, family=family)
    except OSError as error:
        raise FatalError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def url_of(host: str, listening: socket.socket, tls: Tls | None) -> str:
    """The url under which a server is found that listens there."""
    shown = f"[{host}]" if ":" in host else host
    return f"{'http' if tls is None else 'https'}://{shown}:{listening.getsockname()[1]}"


def serve(
    app: ASGIApp,
    listening: socket.socket,
    stop: threading.Event,
    *,
    tls: Tls | None = None,
    on_start: Callable[[], None],
    on_end: Callable[[], None] | None = None,
    limits: Limits = USUAL_LIMITS,
) -> None:
    """Serve on a socket until `stop`, or SIGTERM or SIGINT: requests that are on their way get their answers.

    `on_end` is called once it begins to end, so that answers that never end by themselves do.
    """
    config = uvicorn.Config(
        cast("Any", app),
        loop="uvloop",
        # uvicorn only ever calls it.
        http=cast("Any", partial(_GuardedProtocol, limits=limits, of_address=Counter())),
        limit_concurrency=limits.connections,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        timeout_keep_alive=cast("int", limits.keep_alive_s),
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.key,
    )
    with listening:
        # uvicorn raises signals again once it has ended, for those who heed them beside it: us.
        _Server(config, stop, on_start, on_end).run(sockets=[listening])
