"""The HTTP server of metrics and health: `/metrics`, `/health/live`, `/health/ready`.

It answers from memory, in a few threads of its own. Each answer ends its connection. A client that is slow holds one of
`MOST_CLIENTS` places, and loses it to the next who comes once all are taken.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

import msgspec
from prometheus_client import CollectorRegistry, make_wsgi_app

from edgeflex_flow.errors import FatalError
from edgeflex_flow.monitor.health import Health, liveness, readiness
from edgeflex_flow.monitor.metrics import SiteCollector
from edgeflex_flow.monitor.status import SiteStatus

MOST_CLIENTS = 16
SLOW_S = 5.0
"""How long a client may be silent within its request, or not read its answer."""
PATHS = ("/health/live", "/health/ready", "/metrics")

log = logging.getLogger("edgeflex.monitor")

Known = Callable[[], SiteStatus]


class _Server(WSGIServer):
    """One thread a connection, of which there are `MOST_CLIENTS` at the most: the oldest has to go."""

    request_queue_size = 64

    def __init__(self, host: str, port: int) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, threading.Thread] = {}
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # That of the base asks name servers for the name of the machine, which may take long.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="monitor client", daemon=True
        )
        with self._lock:
            if len(self._clients) >= MOST_CLIENTS:
                _hang_up(next(iter(self._clients)))
            thread.start()
            self._clients[request] = thread

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            log.debug("a client went away: %s", error)
        except Exception:
            log.exception("a question about metrics or health could not be answered")
        finally:
            with self._lock:
                del self._clients[request]
            self.shutdown_request(request)

    def close(self) -> None:
        """No more questions; those that are being answered end."""
        self.shutdown()
        self.server_close()
        with self._lock:
            clients = dict(self._clients)
        for request, thread in clients.items():
            _hang_up(request)
            thread.join()


def _hang_up(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    timeout = SLOW_S
    server_version = "edgeflex"
    sys_version = ""

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base
        log.debug(format, *args)


class _App:
    """What is answered on which path."""

    def __init__(self, known: Known) -> None:
        self._known = known
        registry = CollectorRegistry(support_collectors_without_names=True)
        registry.register(SiteCollector(known))
        self._metrics = make_wsgi_app(registry)
        self._health: dict[str, Callable[[SiteStatus], Health]] = {
            "/health/live": liveness,
            "/health/ready": readiness,
        }

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Sequence[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return list(self._metrics(environ, start))
        if path not in self._health:
            return _answer(start, "404 Not Found", {"error": f"no path '{path[:200]}'", "known": PATHS})
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _answer(start, "405 Method Not Allowed", {"error": "GET alone"}, ("Allow", "GET, HEAD"))
        health = self._health[path](self._known())
        return _answer(start, "200 OK" if health.ok else "503 Service Unavailable", health)


def _answer(start: StartResponse, status: str, content: object, *headers: tuple[str, str]) -> Sequence[bytes]:
    body = msgspec.json.encode(content)
    start(
        status,
        [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            *headers,
        ],
    )
    return [body]


@contextmanager
def serve_monitor(host: str, port: int, known: Known) -> Iterator[int]:
    """Answer while the block runs; gives the port. `known` is called from any thread.

    Raises FatalError when the address cannot be used.
    """
    server = _listen(host, port)
    server.set_app(_App(known))
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="monitor", daemon=True)
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    log.info("http://%s:%d tells metrics and health: %s", shown, server.server_port, ", ".join(PATHS))
    try:
        yield server.server_port
    finally:
        server.close()
        thread.join()


def _listen(host: str, port: int) -> _Server:
    try:
        return _Server(host, port)
    except socket.gaierror as error:
        raise FatalError(f"monitor: '{host}' is no address of this machine: {error.strerror}") from error
    except OSError as error:
        why = "another program has this port" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise FatalError(f"monitor: cannot listen at {host}:{port}: {why}") from error
