"""One HTTP client with bounds: on the time of a request, on the size of an answer, and on how long an end takes.

httpx bounds each wait for bytes, not a whole request: a server that sends a byte a second would hold it for ever.
Here a timer cuts the connection when the request has had its time, and `abort` does so when the flow ends, from any
thread.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeflex_connectors.certificate_end import SeenCertificate
from edgeflex_flow.errors import BadMessageError, FatalError, RetryableError, how_to_install

if TYPE_CHECKING:
    import httpx

DEFAULT_PORTS = {"http": 80, "https": 443}
HIDDEN = "***"
GZIP_WINDOW = 16 + zlib.MAX_WBITS
SHOWN_BYTES = 200
KEPT_WHILE_IDLE_S = 30.0
"""A node that asks every ten seconds need not shake hands each time; longer, and a firewall may have forgotten it."""
"""Of an answer, in texts for people."""

X509_V_ERR_CERT_NOT_YET_VALID = 9


class NotSentError(RetryableError):
    """The request has certainly not reached the service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times in seconds; `answer_bytes` is the largest answer, unpacked."""

    connect_s: float
    read_s: float
    request_s: float
    answer_bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered, read to its end. Names of headers are lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def __str__(self) -> str:
        return self.shown()

    def shown(self, secrets: Iterable[str] = ()) -> str:
        """Status and how the answer begins, for people, without these texts, which the service may have sent back."""
        body, where = self.body, self.headers.get("location", "") if 300 <= self.status < 400 else ""
        for secret in secrets:  # before anything is cut off, or a part of one would stay
            body, where = body.replace(secret.encode(), HIDDEN.encode()), where.replace(secret, HIDDEN)
        text = body[:SHOWN_BYTES].decode("utf-8", "replace")
        shown = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        parts = [f"{self.status} {self.reason}".strip(), f"to {where[:SHOWN_BYTES]}" if where else "", shown]
        return ": ".join(part for part in parts if part)


def load_httpx(name: str) -> Any:
    """The module; FatalError says how to get it. It takes time to import, so only flows that use it do so."""
    try:
        import httpx  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra(name, error) from error
    # At INFO it logs each url with its query, and below that headers, where keys may stand.
    for logger in ("httpx", "httpcore"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    return httpx


def missing_extra(name: str, error: ImportError) -> FatalError:
    """What to say when a package of the extra `rest` is not installed."""
    return FatalError(f"{name}: {error.name} is not installed; it comes with: {how_to_install('rest')}")


class HttpClient:
    """Sends one request at a time, all from one thread, over at most one connection. Follows no redirects, and uses no
    proxy, password file or certificate that only the environment names."""

    def __init__(self, name: str, tls: ssl.SSLContext, limits: Limits, proxy: str | None = None) -> None:
        self._name = name
        self._limits = limits
        self._httpx = load_httpx(name)
        timeout = self._httpx.Timeout(limits.read_s, connect=limits.connect_s)
        self._client: httpx.Client = self._httpx.Client(
            verify=tls,
            trust_env=False,
            follow_redirects=False,
            proxy=proxy,
            timeout=timeout,
            limits=self._httpx.Limits(
                max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEPT_WHILE_IDLE_S
            ),
            headers={"User-Agent": "edgeflex-flow", "Accept-Encoding": "gzip"},
        )
        self._cut = _Cut()
        self.certificate = SeenCertificate()

    def request(
        self,
        method: str,
        url: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Answer:
        """The answer, whatever its status.

        Raises NotSentError or another RetryableError when none came in time, BadMessageError for one that is too large
        or cannot be unpacked.
        """
        request = self._client.build_request(
            method,
            url,
            params=list(query) or None,
            headers=headers,
            content=content,
            extensions={"trace": self._cut.trace},
        )
        with self._cut.after(self._limits.request_s), self._told(method, url):
            response = self._client.send(request, stream=True)
            self.certificate.look(response.extensions)
            try:
                body = self._read(response)
            finally:
                response.close()
        return Answer(response.status_code, response.reason_phrase, dict(response.headers.items()), body)

    def _read(self, response: httpx.Response) -> bytes:
        """The body, unpacked, up to the limit: what packs to little may unpack to more than memory holds."""
        most = self._limits.answer_bytes
        packing = response.headers.get("content-encoding", "identity").strip().lower()
        if packing not in ("identity", "gzip", ""):
            raise BadMessageError(f"the answer is packed as '{packing[:20]}'", reason="bad_answer")
        unpack = zlib.decompressobj(GZIP_WINDOW) if packing == "gzip" else None
        body = bytearray()
        try:
            for chunk in response.iter_raw():
                body += chunk if unpack is None else unpack.decompress(chunk, most + 1 - len(body))
                if len(body) > most:
                    text = f"the answer is larger than {most} bytes"
                    raise BadMessageError(text, reason="too_large", payload=bytes(body[:SHOWN_BYTES]))
        except zlib.error as error:
            raise BadMessageError(f"the answer cannot be unpacked: {error}", reason="bad_answer") from error
        if unpack is not None and body and not unpack.eof:
            raise BadMessageError("the packed answer ends too early", reason="bad_answer")
        return bytes(body)

    @contextmanager
    def _told(self, method: str, url: str) -> Iterator[None]:
        """Turns what httpx raises into this project's errors."""
        httpx, what = self._httpx, f"{self._name}: {method} {url}"
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise NotSentError(f"{what}: {self._reason(error)}") from error
        except httpx.HTTPError as error:
            raise RetryableError(f"{what}: {self._reason(error)}") from error
        except httpx.InvalidURL as error:
            raise BadMessageError(str(error), reason="bad_url") from error

    def _reason(self, error: Exception) -> str:
        if self._cut.aborted:
            return "given up, because the flow ends"
        if self._cut.late:
            return f"not done within {self._limits.request_s:g} s"
        if isinstance(error, self._httpx.ConnectTimeout):
            return f"no connection within {self._limits.connect_s:g} s"
        if isinstance(error, self._httpx.TimeoutException):
            return f"no answer within {self._limits.read_s:g} s"
        return _words(error) or str(error) or type(error).__name__

    def abort(self) -> None:
        """Give up the request that is on its way, and all later ones. Any thread."""
        self._cut.abort()

    def close(self) -> None:
        """Once no request is on its way."""
        self._client.close()


def _words(error: BaseException | None) -> str:
    """The reason that the operating system or TLS gave; empty if it comes from neither."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "; is this computer's clock right?" if error.verify_code == X509_V_ERR_CERT_NOT_YET_VALID else ""
        return f"the server's certificate is refused: {error.verify_message}{hint}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return f"the host cannot be resolved: {error.strerror}"
    return "" if error is None else (error.strerror or "").lower()


class _Cut:
    """Cuts the connection of a client: later, or now and for ever. It learns of the socket by httpcore's trace."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._during_handshake: socket.socket | None = None
        self._request = 0
        self.late = False
        self.aborted = False

    @contextmanager
    def after(self, seconds: float) -> Iterator[None]:
        """Cut the connection if the block takes longer."""
        with self._lock:
            self._request += 1
            self.late = False
            number = self._request
        timer = threading.Timer(seconds, self._too_late, (number,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._request += 1

    def _too_late(self, number: int) -> None:
        with self._lock:
            if number == self._request:
                self.late = True
                self._shut()

    def abort(self) -> None:
        with self._lock:
            self.aborted = True
            self._shut()

    def _shut(self) -> None:
        for each in (self._socket, self._during_handshake):
            if each is not None:
                with suppress(OSError):  # not connected any more
                    socket.socket.shutdown(each, socket.SHUT_RDWR)  # past TLS, which would wait for the other side

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpcore as a request goes on."""
        what = event.partition(".")[2]
        with self._lock:
            if what in ("connect_tcp.complete", "start_tls.complete"):
                self._socket = info["return_value"].get_extra_info("socket")
            if what == "start_tls.started" and self._socket is not None:
                # TLS takes the descriptor away from its socket, and gives the new one only after the handshake.
                self._during_handshake = self._socket.dup()
            if what in ("start_tls.complete", "start_tls.failed") and self._during_handshake is not None:
                self._during_handshake.close()
                self._during_handshake = None
            if self.aborted or self.late:
                self._shut()
