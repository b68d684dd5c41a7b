"""How a client shows an HTTP service who it is: a fixed token, a token that it signs, or one that it is granted.

Source: RFC 6750 (bearer tokens), RFC 7519 (JWT), RFC 8037 (EdDSA), RFC 6749 section 4.4 (client credentials).
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias
from urllib.parse import quote_plus, urlencode

import msgspec
from msgspec import Meta

from edgeflex_connectors.http_client import DEFAULT_PORTS, Answer, HttpClient, missing_extra
from edgeflex_flow.clock import Clock
from edgeflex_flow.errors import BadMessageError, FatalError, RetryableError
from edgeflex_flow.node import path, quantity, url
from edgeflex_flow.units import NS_PER_S

RENEWED_AFTER = 0.8
"""Share of its life after which a token is replaced."""
SHOWN_WORD = 60

Text: TypeAlias = Annotated[str, Meta(min_length=1)]


class Bearer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="bearer"):
    """A token that was given out for this client and stays the same."""

    token: Annotated[str, Meta(min_length=1, description="The token.", extra={"secret": True})]

    def __repr__(self) -> str:
        return "Bearer()"


class SignedJwt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="jwt"):
    """A JSON Web Token that this client signs with its private key, anew before the one before expires."""

    key: Annotated[str, path("Private key in PEM format, without passphrase: Ed25519 for EdDSA, RSA for RS256.")]
    algorithm: Annotated[Literal["EdDSA", "RS256"], Meta(description="How it is signed.")] = "EdDSA"
    issuer: Annotated[str, Meta(min_length=1, description="Claim `iss`: who signs.")]
    audience: Annotated[str, Meta(min_length=1, description="Claim `aud`: the service that the token is for.")]
    subject: Annotated[Text | None, Meta(description="Claim `sub`: whom it is about; the issuer if not given.")] = None
    key_id: Annotated[Text | None, Meta(description="Header `kid`: which of the issuer's keys it is.")] = None
    lifetime: Annotated[float, quantity("s", "How long a token is valid.", ge=10, le=86400)] = 300.0


class ClientCredentials(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="oauth2"
):
    """A token that an OAuth 2.0 server grants for a client's id and secret."""

    token_url: Annotated[str, url("Token endpoint of the OAuth 2.0 server.", DEFAULT_PORTS)]
    client_id: Annotated[str, Meta(min_length=1, description="Id of this client.")]
    client_secret: Annotated[str, Meta(min_length=1, description="Secret of the client.", extra={"secret": True})]
    scope: Annotated[Text | None, Meta(description="Scopes to ask for, with spaces between them.")] = None
    credentials_in: Annotated[
        Literal["header", "body"], Meta(description="Where id and secret stand: HTTP Basic, as is usual, or the form.")
    ] = "header"

    def __repr__(self) -> str:
        return f"ClientCredentials(token_url={self.token_url!r}, client_id={self.client_id!r})"


Auth: TypeAlias = Bearer | SignedJwt | ClientCredentials


class Credentials(Protocol):
    """What a request carries to show who sends it. Used by one thread."""

    def header(self) -> str | None:
        """The value of `Authorization`. Raises RetryableError when there is none for now."""

    def renew(self) -> bool:
        """The service refused it: whether another may be had, by the next call of `header`."""
        ...

    @property
    def token(self) -> str:
        """What was shown last; empty if nothing."""
        ...

    def hidden(self) -> tuple[str, ...]:
        """Texts that no log and no error may show."""
        ...


class NoCredentials:
    token = ""

    def header(self) -> str | None:
        return None

    def renew(self) -> bool:
        return False

    def hidden(self) -> tuple[str, ...]:
        return ()


class FixedToken:
    def __init__(self, auth: Bearer) -> None:
        self.token = str(auth.token)

    def header(self) -> str | None:
        return f"Bearer {self.token}"

    def renew(self) -> bool:
        return False

    def hidden(self) -> tuple[str, ...]:
        return (self.token,)


class SignedToken:
    """Tokens by `SignedJwt`."""

    def __init__(self, auth: SignedJwt, key_file: Path, name: str, clock: Clock) -> None:
        self._auth = auth
        self._clock = clock
        self._sign = _signer(auth, key_file, name)
        self.token = ""
        self._issued_ns = 0

    def header(self) -> str | None:
        now_ns = self._clock.now_ns()
        # The computer's clock may be set back: a token from the future is as bad as an old one.
        if not self.token or not 0 <= now_ns - self._issued_ns < RENEWED_AFTER * self._auth.lifetime * NS_PER_S:
            self.token, self._issued_ns = self._sign(now_ns // NS_PER_S), now_ns
        return f"Bearer {self.token}"

    def renew(self) -> bool:
        self.token = ""
        return True

    def hidden(self) -> tuple[str, ...]:
        return (self.token,) if self.token else ()


def _signer(auth: SignedJwt, key_file: Path, name: str) -> Callable[[int], str]:
    """Signs a token that is valid from a second on. FatalError if the key cannot be used."""
    try:
        import jwt  # noqa: PLC0415
        from jwt.algorithms import get_default_algorithms  # noqa: PLC0415

        algorithm = get_default_algorithms()[auth.algorithm]
    except ImportError as error:
        raise missing_extra(name, error) from error
    except KeyError as error:
        raise missing_extra(name, ImportError(name="cryptography")) from error
    try:
        key: Any = algorithm.prepare_key(key_file.read_bytes())
        if not hasattr(key, "sign"):
            raise FatalError(f"{name}: key '{key_file}' is a public key; the private one is needed")
    except OSError as error:
        raise FatalError(f"{name}: key '{key_file}' cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, jwt.PyJWTError) as error:
        # What the library says may quote the file.
        raise FatalError(f"{name}: key '{key_file}' is no private key in PEM format for {auth.algorithm}") from error

    def sign(now_s: int) -> str:
        claims = {
            "iss": auth.issuer,
            "sub": auth.subject or auth.issuer,
            "aud": auth.audience,
            "iat": now_s,
            "exp": now_s + int(auth.lifetime),
            "jti": secrets.token_hex(16),
        }
        headers = None if auth.key_id is None else {"kid": auth.key_id}
        return jwt.encode(claims, key, algorithm=auth.algorithm, headers=headers)

    return sign


class _Grant(msgspec.Struct, frozen=True):
    """What a token endpoint answers."""

    access_token: Annotated[str, Meta(min_length=1)]
    token_type: str
    expires_in: Annotated[float, Meta(gt=0)] | Annotated[str, Meta(pattern=r"^[0-9]+$")] | None = None


class _Refusal(msgspec.Struct, frozen=True):
    """What it answers when it grants none."""

    error: str = ""


class GrantedToken:
    """Tokens by `ClientCredentials`, from a client of the token endpoint's own."""

    def __init__(self, auth: ClientCredentials, client: HttpClient, name: str, clock: Clock) -> None:
        self._auth = auth
        self._client = client
        self._name = name
        self.token = ""
        self._clock = clock
        self._renew_at_ns = float("inf")

    def header(self) -> str | None:
        if not self.token or self._clock.monotonic_ns() >= self._renew_at_ns:
            self.token = ""
            self._fetch()
        return f"Bearer {self.token}"

    def renew(self) -> bool:
        self.token = ""
        return True

    def hidden(self) -> tuple[str, ...]:
        return tuple(text for text in (str(self._auth.client_secret), self.token) if text)

    def _fetch(self) -> None:
        asked_ns = self._clock.monotonic_ns()
        try:
            answer = self._ask()
        except BadMessageError as error:
            raise RetryableError(f"{self._what()}: {error}") from error
        if not answer.is_success:
            raise RetryableError(f"{self._what()}: no token: {answer.status} {answer.reason}{_why(answer)}")
        try:
            grant = msgspec.json.decode(answer.body, type=_Grant)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # Nothing of the answer is quoted: the token may stand in it.
            raise RetryableError(f"{self._what()}: the answer holds no token") from error
        if grant.token_type.lower() != "bearer":
            raise RetryableError(f"{self._what()}: tokens of type '{grant.token_type[:SHOWN_WORD]}' cannot be used")
        self.token = grant.access_token
        life_s = float("inf") if grant.expires_in is None else float(grant.expires_in)
        self._renew_at_ns = asked_ns + RENEWED_AFTER * life_s * NS_PER_S

    def _ask(self) -> Answer:
        auth = self._auth
        form = {"grant_type": "client_credentials", **({} if auth.scope is None else {"scope": auth.scope})}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if auth.credentials_in == "body":
            form |= {"client_id": auth.client_id, "client_secret": auth.client_secret}
        else:
            pair = f"{quote_plus(auth.client_id)}:{quote_plus(auth.client_secret)}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        return self._client.request("POST", auth.token_url, headers=headers, content=urlencode(form).encode())

    def _what(self) -> str:
        return f"{self._name}: POST {self._auth.token_url}"


def _why(answer: Answer) -> str:
    """The word by which the token endpoint says why it grants none; nothing else of its answer is told."""
    try:
        word = msgspec.json.decode(answer.body, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return f" ({word[:SHOWN_WORD]})" if word.replace("_", "").isalpha() else ""
