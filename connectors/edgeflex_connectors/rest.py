"""`rest`: a connection to an HTTP service, with or without TLS."""

from __future__ import annotations

import ssl
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Annotated, TypeAlias
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta

from edgeflex_connectors.certificate_end import certificate_of_server
from edgeflex_connectors.http_client import DEFAULT_PORTS, Answer, HttpClient, Limits, NotSentError
from edgeflex_connectors.rest_auth import (
    Auth,
    Bearer,
    ClientCredentials,
    Credentials,
    FixedToken,
    GrantedToken,
    NoCredentials,
    SignedJwt,
    SignedToken,
)
from edgeflex_connectors.rest_refused import about_refusal
from edgeflex_connectors.tls import default_tls, load_client_certificate
from edgeflex_flow.clock import SystemClock
from edgeflex_flow.errors import FatalError, FieldError, RetryableError
from edgeflex_flow.node import ConnectionNode, Context, NodeConfig, Probe, path, quantity
from edgeflex_flow.node import url as http_url

PemFile: TypeAlias = Annotated[str, path("A file in PEM format.")]

THIS_COMPUTER = frozenset({"localhost", "127.0.0.1", "::1"})
UNAUTHORIZED = 401


class RestConfig(NodeConfig, frozen=True, kw_only=True):
    """An HTTP service (`https://`, or `http://`) and how this site shows it who it is.

    `auth` is one of

    - `{kind: bearer, token: "${file:/run/secrets/token}"}`: a token that stays the same.
    - `{kind: jwt, key: jwt.pem, issuer: site_12, audience: policies}`: tokens that this client signs itself (EdDSA, or
      RS256), each valid for `lifetime` (5min). With `subject` and `key_id` if the service wants them.
    - `{kind: oauth2, token_url: "https://…", client_id: site_12, client_secret: "${FLEX_SECRET}"}`: tokens that an
      OAuth 2.0 server grants, with a `scope` if it wants one. It gets id and secret by HTTP Basic, or with
      `credentials_in: body` in the form.

    A token is replaced when four fifths of its life are over, and once when the service answers 401: then the request
    is made again with the new one. Credentials need `https://`, other than to this computer itself.

    With TLS the service's certificate must be signed by `ca` (or by an authority that the system trusts) and name the
    host of the url. Redirects are not followed, so that nothing of a request goes to a host that the site file does
    not name. Proxies and certificates that only the environment names are not used. Each node that uses the connection
    is a client of its own.

    Input:
        None: nodes name the connection in their field `api`.

    Output:
        None.

    Errors:
        What the service does never ends the flow: when it is away, refuses the credentials, or shows a certificate that
        is not good, the nodes try again with growing waits and say so in the log at growing intervals.
        FatalError when httpx or PyJWT are not installed (extra `rest`), or a file of `ca`, `certificate`, `key` or
        `auth.key` cannot be used.

    Source:
        RFC 9110 (HTTP), RFC 6750 (bearer tokens), RFC 7519 (JWT), RFC 8037 (EdDSA), RFC 6749 section 4.4 (OAuth 2.0).

    >>> RestConfig(url="https://policies.example/api", auth=Bearer(token="secret"))
    RestConfig(url='https://policies.example/api', auth=Bearer())
    """

    url: Annotated[
        str,
        http_url(
            "https://host:port/path or http://…: what the paths of nodes follow.",
            DEFAULT_PORTS,
            example="https://service.example/api",
        ),
    ]
    auth: Annotated[Auth | None, Meta(description="How this site shows who it is; not at all if not given.")] = None
    ca: Annotated[
        PemFile | None, Meta(description="Certificates of the authorities to trust; the system's if not given.")
    ] = None
    certificate: Annotated[PemFile | None, Meta(description="Certificate by which this client shows who it is.")] = None
    key: Annotated[PemFile | None, Meta(description="Private key, without passphrase, of `certificate`.")] = None
    proxy: Annotated[str | None, http_url("http://host:port of a proxy; none if not given.", DEFAULT_PORTS)] = None
    connect_timeout: Annotated[float, quantity("s", "How long an attempt to connect may take.", gt=0, le=60)] = 5
    read_timeout: Annotated[
        float, quantity("s", "Longest wait for an answer, and for each further part of it.", gt=0, le=600)
    ] = 10
    request_timeout: Annotated[
        float, quantity("s", "How long a request may take as a whole, its answer included.", gt=0, le=3600)
    ] = 30
    answer_limit: Annotated[int, quantity("B", "Largest answer that is read, unpacked.", ge=1024, le=1024**3)] = (
        8 * 1024**2
    )

    def refusals(self) -> Iterator[FieldError]:
        service = yield from _checked("url", self.url)
        granting = yield from _checked("auth.token_url", _token_url(self))
        yield from self._proxy_refusals()
        if (self.certificate is None) != (self.key is None):
            yield FieldError("`certificate` and `key` must be given together", "certificate", "key")
        if service is not None and self.auth is not None and not _is_safe(service):
            yield FieldError("`auth` needs an url that begins with https://", "auth", "url")
        if granting is not None and not _is_safe(granting):
            yield FieldError("`auth.token_url` must begin with https://", "auth.token_url")
        given = [name for name in ("ca", "certificate", "key") if getattr(self, name)]
        plain = [each for each in (service, granting) if each is not None and each.scheme == "http"]
        if given and len(plain) == (1 if _token_url(self) is None else 2):
            yield FieldError(
                "`ca`, `certificate` and `key` need an url that begins with https://", *given, "url", "auth"
            )

    def _proxy_refusals(self) -> Iterator[FieldError]:
        proxy = yield from _checked("proxy", self.proxy)
        if proxy is not None and proxy.path.strip("/"):
            yield FieldError("`proxy` ends after the port", "proxy", got=f"'{self.proxy}'")

    def __repr__(self) -> str:
        """Only what tells the connection; never a secret."""
        auth = "" if self.auth is None else f", auth={self.auth!r}"
        return f"RestConfig(url={self.url!r}{auth})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("url", self.url), ("auth", self.auth, None)]  # type: ignore[list-item]


def _token_url(config: RestConfig) -> str | None:
    return config.auth.token_url if isinstance(config.auth, ClientCredentials) else None


def _checked(name: str, text: str | None) -> Generator[FieldError, None, SplitResult | None]:
    """Tells what is wrong with an url; gives its parts if nothing is. No error holds a user or password."""
    if text is None:
        return None
    try:
        split = _split(text)
    except ValueError as error:
        yield FieldError(f"`{name}` {error}", name)
        return None
    return split


def _split(text: str) -> SplitResult:
    scheme, _, rest = text.partition("://")
    if scheme not in DEFAULT_PORTS:
        raise ValueError("must begin with https:// or http://")
    if "@" in rest:
        raise ValueError("must not hold a user; use `auth`")
    split = urlsplit(text)
    if not split.hostname:
        raise ValueError(f"names no host; got '{text}'")
    if split.query or split.fragment:
        # It would stand in every line of the log.
        raise ValueError("ends with its path: `?` and `#` cannot follow")
    try:
        port = split.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"the port is a number from 1 to 65535; got '{text}'")
    return split


def _is_safe(split: SplitResult) -> bool:
    """Whether credentials may go there: over TLS, or without leaving this computer."""
    return split.scheme == "https" or split.hostname in THIS_COMPUTER


def path_problem(path: str) -> str | None:
    """What is wrong with the path of a node; None if nothing is.

    >>> path_problem("/policies/inertia") is None, path_problem("policies")
    (True, "a path begins with '/'")
    """
    if not path.startswith("/"):
        return "a path begins with '/'"
    if path.startswith("//") or "?" in path or "#" in path or any(part == ".." for part in path.split("/")):
        return "a path holds no '//' at its start, no '..', '?' or '#' (the query stands in `query`)"
    if not path.isprintable() or " " in path:
        return "a path holds no spaces or control characters"
    return None


def path_refusals(path: str) -> Iterator[FieldError]:
    """What is wrong with the path of a node, as an error of its config."""
    problem = path_problem(path)
    if problem is not None:
        yield FieldError(f"`path`: {problem}", "path", got=f"'{path}'")


class RestSession:
    """A client of one service, for one node. `request` is for one thread; `abort` may come from any."""

    def __init__(self, name: str, base: str, client: HttpClient, credentials: Credentials, granting: HttpClient | None):
        self.name = name
        self._base = base.rstrip("/")
        self._client = client
        self._credentials = credentials
        self._granting = granting
        self.also_hidden: tuple[str, ...] = ()
        """Texts of requests that no message may show, such as keys in a query."""

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Answer:
        """The service's answer, whatever its status; after a 401 that of a second attempt with a new token.

        Raises RetryableError (NotSentError if nothing can have arrived) and BadMessageError as `HttpClient` does.
        """
        for again in (True, False):
            try:
                shown = self._credentials.header()
            except RetryableError as error:
                raise NotSentError(str(error)) from error
            own = {} if shown is None else {"Authorization": shown}
            answer = self._client.request(
                method, self._base + path, query=query, headers={**(headers or {}), **own}, content=content
            )
            if answer.status != UNAUTHORIZED or not again or not self._credentials.renew():
                break
        return answer

    def shown(self, answer: Answer) -> str:
        """An answer for people, without credentials that the service may have sent back."""
        return answer.shown((*self._credentials.hidden(), *self.also_hidden))

    def about_refusal(self, answer: Answer) -> str:
        """What a person should look at after a 401 or 403."""
        return about_refusal(answer, self._credentials.token, time.time())

    def abort(self) -> None:
        """Give up the request that is on its way, and refuse all later ones."""
        for client in self._clients():
            client.abort()

    def close(self) -> None:
        for client in self._clients():
            client.close()

    def _clients(self) -> tuple[HttpClient, ...]:
        return (self._client,) if self._granting is None else (self._client, self._granting)


def _tls_context(config: RestConfig, context: Context, name: str) -> ssl.SSLContext:
    """TLS as the config wants it. FatalError names the file that cannot be used."""
    tls = default_tls(config.ca, context, name)
    load_client_certificate(tls, config.certificate, config.key, context, name)
    return tls


def open_session(config: RestConfig, context: Context) -> RestSession:
    """A session with the service. Nothing is asked of the network yet."""
    names = [each.name for each in context.connections.values() if each.config is config]
    name = names[0] if names else "rest"
    tls = _tls_context(config, context, name)
    limits = Limits(
        connect_s=config.connect_timeout,
        read_s=config.read_timeout,
        request_s=config.request_timeout,
        answer_bytes=config.answer_limit,
    )

    def client() -> HttpClient:
        return HttpClient(name, tls, limits, config.proxy)

    # Not the flow's, which in a replay shows the time of the recording.
    clock = SystemClock()
    auth, granting = config.auth, None
    credentials: Credentials
    if isinstance(auth, ClientCredentials):
        granting = client()
        credentials = GrantedToken(auth, granting, name, clock)
    elif isinstance(auth, SignedJwt):
        credentials = SignedToken(auth, context.resolve(auth.key), name, clock)
    elif isinstance(auth, Bearer):
        credentials = FixedToken(auth)
    else:
        credentials = NoCredentials()
    serving = client()
    context.gauges.watch("certificate_until_s", lambda: serving.certificate.until_s)
    return RestSession(name, config.url, serving, credentials, granting)


def certificate_until(config: RestConfig, context: Context) -> float | None:
    """When the certificate of the service ends, seconds since 1970; None when there is none to see."""
    split = _split(config.url)
    if split.scheme != "https" or config.proxy is not None:
        return None
    tls = _tls_context(config, context, context.node)
    host, port = split.hostname or "", split.port or DEFAULT_PORTS["https"]
    return certificate_of_server(host, port, tls, config.connect_timeout)


def probe(config: RestConfig, context: Context) -> Probe:
    """Get the base url, credentials shown. A service that knows no such path is there all the same."""
    session = open_session(config, context)
    try:
        began_s = time.monotonic()
        answer = session.request("GET", "/")
        latency_s = time.monotonic() - began_s
    finally:
        session.close()
    if answer.status in (401, 403):
        raise FatalError(f"{context.node} {config.url}: refused: {session.shown(answer)}")
    if answer.status >= 500:
        raise RetryableError(f"{context.node} {config.url}: {session.shown(answer)}")
    return Probe(latency_s, f"HTTP status {answer.status}", certificate_until(config, context))


NODE = ConnectionNode(kind="rest", config=RestConfig, family="rest", open=open_session, probe=probe)
