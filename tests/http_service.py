"""A real HTTP service for tests, on a free port of this computer, with or without TLS, whose answers a test scripts.

with HttpService() as service:
    service.answers("/meters", Reply(body=b"[]"), Reply(status=503))
    ...
    assert service.requests[0].path == "/meters"

The last reply to a path is given again and again.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from certificates import KeyPair

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Request:
    """What a client asked. Names of headers are lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What the service answers.

    `hangs`: it reads the request and answers nothing until it is stopped. `drips_s`: it sends a byte each so many
    seconds. `cut_after`: it closes the connection after so many bytes of the body, though it has announced all.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False
    drips_s: float = 0.0
    cut_after: int | None = None


def json_reply(value: Any, status: int = 200, **headers: str) -> Reply:
    """A reply of JSON; `etag="x"` becomes the header `ETag`."""
    told = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **told})


Script = Callable[[Request], Reply]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 50
    service: HttpService

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what some tests are about."""


class HttpService:
    """Keeps its port over `stop` and `start`."""

    def __init__(self, *, tls: KeyPair | None = None, client_ca: Path | None = None) -> None:
        self.requests: list[Request] = []
        self.port = 0
        self.stopping = threading.Event()
        self._tls, self._client_ca = tls, client_ca
        self._scripts: dict[str, Script] = {}
        self._replies: dict[str, list[Reply]] = defaultdict(list)
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._connections: set[socket.socket] = set()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{HOST}:{self.port}"

    def answers(self, path: str, *replies: Reply) -> None:
        """Answer requests to this path so, one after the other."""
        with self._lock:
            self._replies[path] = list(replies)

    def script(self, path: str, script: Script) -> None:
        """Answer requests to this path as a function says."""
        self._scripts[path] = script

    def of(self, path: str) -> list[Request]:
        """The requests to this path so far."""
        return [each for each in list(self.requests) if each.path == path]

    def reply_to(self, request: Request) -> Reply:
        self.requests.append(request)
        if request.path in self._scripts:
            return self._scripts[request.path](request)
        with self._lock:
            waiting = self._replies[request.path]
            if not waiting:
                return Reply(status=404, body=b"no such thing")
            return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    def start(self) -> None:
        self.stopping.clear()
        self._server = server = _Server((HOST, self.port), _Handler)
        server.service = self
        self.port = server.server_address[1]
        if self._tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._tls.certificate, self._tls.key)
            if self._client_ca is not None:
                context.load_verify_locations(self._client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            # The handshake takes place in the thread of the request: one client must not hold up the others.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """End at once, as a killed process does: all connections break."""
        server, self._server = self._server, None
        if server is None:
            return
        self.stopping.set()
        server.shutdown()
        server.server_close()
        with self._lock:
            open_ones = list(self._connections)
        for each in open_ones:
            try:
                socket.socket.shutdown(each, socket.SHUT_RDWR)
            except OSError:
                continue
        assert self._thread is not None
        self._thread.join()

    def keep(self, connection: socket.socket, *, is_open: bool) -> None:
        with self._lock:
            (self._connections.add if is_open else self._connections.discard)(connection)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride] - made by no other

    def setup(self) -> None:
        self.server.service.keep(self.request, is_open=True)
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.server.service.keep(self.request, is_open=False)

    def _handle(self) -> None:
        service = self.server.service
        split = urlsplit(self.path)
        headers = {name.lower(): text for name, text in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", "0")))
        reply = service.reply_to(Request(self.command, split.path, parse_qs(split.query), headers, body))
        if reply.hangs:
            service.stopping.wait(60.0)
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, text in reply.headers.items():
            self.send_header(name, text)
        if reply.status not in (204, 304):
            self.send_header("Content-Length", str(len(reply.body)))
        if reply.drips_s:
            self._drip(reply)
            return
        self.end_headers()
        if reply.cut_after is not None:
            self.wfile.write(reply.body[: reply.cut_after])
            self.close_connection = True
            return
        self.wfile.write(reply.body)

    def _drip(self, reply: Reply) -> None:
        self.end_headers()
        for byte in reply.body:
            if self.server.service.stopping.wait(reply.drips_s):
                break
            self.wfile.write(bytes([byte]))
        self.close_connection = True

    do_DELETE = do_GET = do_PATCH = do_POST = do_PUT = _handle  # noqa: N815 - names of the standard library

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Not on standard error."""
