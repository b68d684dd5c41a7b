"""How services are told where to listen, and tell that they do."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from litestar.types import ASGIApp

from edgeflex_flow.web import THIS_COMPUTER, USUAL_LIMITS, Limits, bind, serve, tls_of, url_of
from edgeflex_services.program import stop_on_signals, tell


def add_listening(parser: argparse.ArgumentParser, port: int) -> None:
    """The options by which a service is told where to listen."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default %(default)s)")
    add("--port", type=_port, default=port, metavar="N", help="TCP port to listen on, 0 for any (default %(default)s)")
    add("--certificate", type=Path, metavar="PEM", help="certificate, for https")
    add("--key", type=Path, metavar="PEM", help="private key of the certificate, without passphrase")


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535; got {number}")
    return number


def listen(
    app: ASGIApp,
    options: argparse.Namespace,
    on_end: Callable[[], None] | None = None,
    *,
    limits: Limits = USUAL_LIMITS,
) -> None:
    """Serve until SIGTERM or SIGINT, as `serve` does, and tell the url. Raises FatalError."""
    tls = tls_of(options.certificate, options.key)
    listening = bind(options.host, options.port)
    if tls is None and options.host not in THIS_COMPUTER:
        tell(event="warning", text=f"{options.host} without TLS: tokens and passwords can be read on the way")
    url = url_of(options.host, listening, tls)
    started = lambda: tell(event="started", url=url)  # noqa: E731
    serve(app, listening, stop_on_signals(), tls=tls, on_start=started, on_end=on_end, limits=limits)
