"""HTTP to a network's API: one client with bounds, who it shows to be, and what an answer means.

Here alone is decided whether an answer is a refusal, says that something is not there, or leaves open what became of
the request.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final, Protocol, TypeAlias, TypeVar
from urllib.parse import quote_plus, urlencode

import httpx
import msgspec
from msgspec import Meta

from edgeflex_connectors.http_client import HIDDEN, KEPT_WHILE_IDLE_S
from edgeflex_connectors.rest_auth import RENEWED_AFTER, Bearer, ClientCredentials
from edgeflex_flow.clock import Clock, moment_ns
from edgeflex_flow.errors import FatalError
from edgeflex_flow.units import NS_PER_S
from edgeflex_flow.web import THIS_COMPUTER
from edgeflex_services.devices.network import (
    BadNotificationError,
    NetworkAwayError,
    NetworkError,
    NetworkMissingError,
    NetworkRefusedError,
    Reason,
)

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
ACCEPTED: Final = f"{JSON}, application/problem+json"
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that hold something else."""
UNAUTHORIZED: Final = 401
MISSING: Final = (404, 410)
COME_AGAIN: Final = (408, 425, 429)
"""The request was not looked at: it may be sent again."""
MOVED: Final = (307, 308)
MOST_MOVES: Final = 3
LONGEST_RETRY_S: Final = 86400.0

NO_ANSWER: Final = "NO_ANSWER"
BAD_CERTIFICATE: Final = "BAD_CERTIFICATE"
BAD_ANSWER: Final = "BAD_ANSWER"
NO_TOKEN: Final = "NO_TOKEN"  # noqa: S105 - a word for people

_T = TypeVar("_T")
ReadReason: TypeAlias = Callable[[int, Mapping[str, Any] | None], Reason]
"""What an error answer of the standard says, by its status and its body if that is a JSON object."""


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the APIs of a network are, and how the service shows who it is.

    Credentials go only over TLS, or to this computer itself.

    >>> Access(url="https://api.network.example", auth=Bearer(token="secret")).auth
    Bearer()
    """

    url: Annotated[str, Meta(pattern=r"^https?://[^\s?#]+$", description="What the paths of the APIs follow.")]
    auth: Annotated[Bearer | ClientCredentials | None, Meta(description="How the service shows who it is.")] = None
    ca: Annotated[str | None, Meta(description="PEM file of the authorities to trust; the system's if none.")] = None
    connect_timeout_s: Annotated[float, Meta(gt=0, le=60, description="How long connecting may take.")] = 5.0
    request_timeout_s: Annotated[float, Meta(gt=0, le=600, description="How long a request may take in all.")] = 20.0
    most_at_once: Annotated[int, Meta(ge=1, le=1000, description="Requests at the same time; others wait.")] = 16
    answer_limit_bytes: Annotated[int, Meta(ge=1024, le=1024**3, description="Largest answer that is read.")] = (
        8 * 1024**2
    )

    def __post_init__(self) -> None:
        granting = {"auth.token_url": self.auth.token_url} if isinstance(self.auth, ClientCredentials) else {}
        for name, text in {"url": self.url, **granting}.items():
            try:
                url = httpx.URL(text)
            except httpx.InvalidURL as error:
                raise ValueError(
                    f"`{name}` is no url: its host or port cannot be read"
                ) from error  # it may hold a password
            if not url.host or url.userinfo:
                raise ValueError(f"`{name}` must name a host, and no user")
            if self.auth is not None and url.scheme != "https" and url.host not in THIS_COMPUTER:
                raise ValueError(f"`{name}` must begin with https://, since credentials go there; got '{text}'")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the network answered, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def read(self, shape: type[_T]) -> _T:
        """What the body holds. Raises NetworkAwayError for anything else: the request may be done all the same."""
        try:
            return msgspec.json.decode(self.body, type=shape)
        except UNREADABLE as error:
            raise bad_answer(self.status, f"the answer is not as the standard has it: {error}") from error


def bad_answer(status: int, text: str) -> NetworkAwayError:
    """An answer of which nothing can be made."""
    return NetworkAwayError(Reason(code=BAD_ANSWER, text=text[:400], status=status), may_be_done=True)


def notified(content_type: str, media: str, body: bytes, shape: type[_T]) -> _T:
    """What came to a callback, which the standard sends as `media`. Raises BadNotificationError."""
    if content_type.partition(";")[0].strip().lower() != media:
        raise BadNotificationError(f"a notification comes as {media}; got '{content_type[:100]}'")
    return decoded(body, shape)


def decoded(body: bytes | msgspec.Raw, shape: type[_T]) -> _T:
    """What a notification, or a part of one, holds. Raises BadNotificationError."""
    try:
        return msgspec.json.decode(body, type=shape)
    except UNREADABLE as error:
        raise BadNotificationError(f"the notification is not as the standard has it: {error}") from error


class _Credentials(Protocol):
    async def token(self) -> str | None:
        """What to show now. Raises NetworkRefusedError or NetworkAwayError when there is none."""

    def renew(self, refused: str) -> bool:
        """The network refused this one: whether another may be had."""
        ...


class NetworkHttp:
    """Requests to one network, several at the same time, all of one event loop.

    Follows a redirect only to where the request went anyway, so that nothing of it goes to another host, and uses no
    proxy, password or certificate that only the environment names.
    """

    def __init__(self, access: Access, read_reason: ReadReason, clock: Clock) -> None:
        """Raises FatalError if the file of `access.ca` cannot be used."""
        # At INFO it logs every request.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._access = access
        self._base = access.url.rstrip("/")
        self._read_reason = read_reason
        self._clock = clock
        self._turns = asyncio.Semaphore(access.most_at_once)
        self._credentials: _Credentials
        if isinstance(access.auth, ClientCredentials):
            self._credentials = _GrantedToken(access.auth, self._exchange, clock)
        else:
            self._credentials = _FixedToken(access.auth)
        self._client = httpx.AsyncClient(
            verify=tls_context(access.ca),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=access.connect_timeout_s),
            limits=httpx.Limits(max_connections=access.most_at_once, keepalive_expiry=KEPT_WHILE_IDLE_S),
            # What is not packed cannot unpack to more than memory holds.
            headers={"User-Agent": "edgeflex-flow", "Accept-Encoding": "identity", "Accept": ACCEPTED},
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: object = None,
        media: str = JSON,
        also: Sequence[int] = (),
    ) -> Answer:
        """The answer if it says that the request was done, or has a status of `also`; after a 401 that of a second
        attempt with a new token.

        Raises NetworkRefusedError, NetworkMissingError or NetworkAwayError.
        """
        content = None if body is None else msgspec.json.encode(body)
        own = {} if content is None else {"Content-Type": media}
        url = httpx.URL(self._base + path, params=list(query)) if query else httpx.URL(self._base + path)
        for again in (True, False):
            token = await self._credentials.token()
            shown = {} if token is None else {"Authorization": f"Bearer {token}"}
            answer = await self._followed(method, url, {**(headers or {}), **own, **shown}, content)
            if answer.status != UNAUTHORIZED or token is None or not again or not self._credentials.renew(token):
                break
        if 200 <= answer.status < 300 or answer.status in also:
            return answer
        raise self.error_of(answer, token)

    def error_of(self, answer: Answer, token: str | None = None) -> NetworkError:
        """What an answer that did not do the request means."""
        status = answer.status
        if 300 <= status < 400:
            where = answer.headers.get("location", "")[:200]
            return NetworkRefusedError(
                Reason(code=f"HTTP_{status}", text=f"sends on to '{where}', which is not followed", status=status)
            )
        reason = self._read_reason(status, _object_in(answer.body, token))
        if status in COME_AGAIN or status >= 500:
            retry_s = _retry_s(answer.headers.get("retry-after", ""), self._clock)
            return NetworkAwayError(reason, may_be_done=status not in COME_AGAIN, retry_s=retry_s)
        return NetworkMissingError(reason) if status in MISSING else NetworkRefusedError(reason)

    async def close(self) -> None:
        await self._client.aclose()

    async def _followed(self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None) -> Answer:
        answer = await self._exchange(method, url, headers, content)
        for _ in range(MOST_MOVES):
            target = _target(answer, url)
            if target is None:
                break
            url = target
            answer = await self._exchange(method, url, headers, content)
        return answer

    async def _exchange(self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None) -> Answer:
        """The answer, whatever its status. Raises NetworkAwayError, which knows whether anything was sent."""
        begun = _Begun()
        request = self._client.build_request(
            method, url, headers=headers, content=content, extensions={"trace": begun.trace}
        )
        limit_s = self._access.request_timeout_s
        async with self._turns:  # waiting for a turn is no fault of the network, and takes none of its time
            try:
                async with asyncio.timeout(limit_s):
                    return await self._read(request)
            except TimeoutError as error:
                raise begun.away(f"not answered within {limit_s:g} s") from error
            except httpx.HTTPError as error:
                if _is_of_certificate(error):  # which no waiting mends
                    raise NetworkRefusedError(Reason(code=BAD_CERTIFICATE, text=_words(error))) from error
                raise begun.away(_words(error)) from error

    async def _read(self, request: httpx.Request) -> Answer:
        most = self._access.answer_limit_bytes
        response = await self._client.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > most:
                    raise bad_answer(response.status_code, f"the answer is larger than {most} bytes")
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, bytes(body))


class _Begun:
    """Whether a request has begun to go out: until then the network cannot have carried it out."""

    def __init__(self) -> None:
        self._is_so = False

    async def trace(self, event: str, _info: Mapping[str, Any]) -> None:
        """Called by httpcore as the request goes on."""
        if event.endswith("send_request_headers.started"):
            self._is_so = True

    def away(self, text: str) -> NetworkAwayError:
        return NetworkAwayError(Reason(code=NO_ANSWER, text=text), may_be_done=self._is_so)


def tls_context(ca: str | None) -> ssl.SSLContext:
    """TLS that trusts the authorities in the file `ca`; the system's if there is none. Raises FatalError."""
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise FatalError(f"ca '{ca}' cannot be read: {error.strerror or error}") from error


def _target(answer: Answer, url: httpx.URL) -> httpx.URL | None:
    """Where the same request is to be made again; None: nowhere, or at another host."""
    where = answer.headers.get("location")
    if answer.status not in MOVED or where is None:
        return None
    try:
        target = url.join(where)
    except httpx.InvalidURL:
        return None
    return target if (target.scheme, target.netloc) == (url.scheme, url.netloc) else None


def _is_of_certificate(error: BaseException | None) -> bool:
    """Whether the network shows a certificate that `api.ca` does not vouch for."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _words(error: BaseException) -> str:
    """What the operating system or TLS said first, which httpx wraps up."""
    text, inner = str(error) or type(error).__name__, error.__cause__ or error.__context__
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            text = inner.strerror
        inner = inner.__cause__ or inner.__context__
    return text


def _object_in(body: bytes, token: str | None) -> Mapping[str, Any] | None:
    """The JSON object of an error answer, without the token that the network may have sent back."""
    safe = body.replace(token.encode(), HIDDEN.encode()) if token else body
    try:
        told = msgspec.json.decode(safe)
    except UNREADABLE:
        return None
    return told if isinstance(told, dict) else None


def _retry_s(text: str, clock: Clock) -> float | None:
    """Seconds that a `Retry-After` asks to wait; None if it holds nothing of use."""
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_S)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    ahead_ns = moment_ns(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - clock.now_ns()
    return min(max(ahead_ns / NS_PER_S, 0.0), LONGEST_RETRY_S)


# Who the service shows to be ------------------------------------------------------------------------------------------


class _FixedToken:
    def __init__(self, auth: Bearer | None) -> None:
        self._token = None if auth is None else str(auth.token)

    async def token(self) -> str | None:
        return self._token

    def renew(self, refused: str) -> bool:
        del refused
        return False


class _Grant(msgspec.Struct, frozen=True):
    """What a token endpoint answers."""

    access_token: Annotated[str, Meta(min_length=1)]
    token_type: str
    expires_in: Annotated[float, Meta(gt=0)] | None = None


_Exchange: TypeAlias = Callable[[str, httpx.URL, Mapping[str, str], bytes | None], Awaitable[Answer]]


class _GrantedToken:
    """Tokens that an OAuth 2.0 server grants for an id and a secret (RFC 6749 section 4.4)."""

    def __init__(self, auth: ClientCredentials, exchange: _Exchange, clock: Clock) -> None:
        self._auth = auth
        self._exchange = exchange
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._token = ""
        self._renew_at_ns = float("inf")

    async def token(self) -> str | None:
        async with self._one_at_a_time:
            if not self._token or self._clock.monotonic_ns() >= self._renew_at_ns:
                await self._fetch()
            return self._token

    def renew(self, refused: str) -> bool:
        if refused == self._token:  # else another request has had a new one meanwhile
            self._token = ""
        return True

    async def _fetch(self) -> None:
        asked_ns = self._clock.monotonic_ns()
        self._token = ""
        try:
            answer = await self._ask()
        except NetworkAwayError as error:  # whatever became of it, the network itself was asked for nothing yet
            raise NetworkAwayError(_no_token(error.reason.text), may_be_done=False) from error
        if answer.status != 200:
            raise _not_granted(answer, self._clock)
        try:
            grant = msgspec.json.decode(answer.body, type=_Grant)
        except UNREADABLE as error:
            # Nothing of the answer is quoted: the token may stand in it.
            reason = _no_token("the answer holds no token", answer.status)
            raise NetworkAwayError(reason, may_be_done=False) from error
        if grant.token_type.lower() != "bearer":
            raise NetworkRefusedError(_no_token(f"tokens of type '{grant.token_type[:60]}' cannot be used"))
        self._token = grant.access_token
        life_s = float("inf") if grant.expires_in is None else grant.expires_in
        self._renew_at_ns = asked_ns + RENEWED_AFTER * life_s * NS_PER_S

    async def _ask(self) -> Answer:
        auth = self._auth
        form = {"grant_type": "client_credentials", **({} if auth.scope is None else {"scope": auth.scope})}
        headers = {"Content-Type": FORM}
        if auth.credentials_in == "body":
            form |= {"client_id": auth.client_id, "client_secret": auth.client_secret}
        else:
            pair = f"{quote_plus(auth.client_id)}:{quote_plus(auth.client_secret)}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        return await self._exchange("POST", httpx.URL(auth.token_url), headers, urlencode(form).encode())


def _no_token(text: str, status: int | None = None) -> Reason:
    return Reason(code=NO_TOKEN, text=f"the authorisation server: {text}", status=status)


def _not_granted(answer: Answer, clock: Clock) -> NetworkError:
    """Why there is no token, by the word that RFC 6749 section 5.2 knows; nothing else of the answer is told."""
    word = str((_object_in(answer.body, None) or {}).get("error", ""))[:60]
    known = f" ({word})" if word.replace("_", "").isalpha() else ""
    reason = _no_token(f"no token: HTTP status {answer.status}{known}", answer.status)
    if 400 <= answer.status < 500 and answer.status not in COME_AGAIN:
        return NetworkRefusedError(reason)
    return NetworkAwayError(reason, may_be_done=False, retry_s=_retry_s(answer.headers.get("retry-after", ""), clock))
