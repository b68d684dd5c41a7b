"""Tokens by REST: granted for a client's id and secret, taken back, and the keys that show them.

Source: RFC 6749 sections 4.4 and 5 (client credentials), RFC 7009 (revocation), RFC 7517 (JWK sets).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, unquote_plus

from litestar import Controller, Response, get, post
from litestar.openapi.datastructures import ResponseSpec

from edgeflex_services.policy_system.api_policies import REFUSED
from edgeflex_services.policy_system.enforce import (
    AnyRequest,
    admin_of,
    check_credentials,
    system_of,
    user_of,
)
from edgeflex_services.policy_system.tokens import GRANTED_FOR_S, Refused

GRANT_REFUSED = {
    400: ResponseSpec(None, description="Another grant type than client_credentials."),
    401: ResponseSpec(None, description="Id and secret do not go together."),
    429: ResponseSpec(None, description="Too many attempts in vain; `Retry-After` tells how long."),
}
BUS_SCOPE = "databus"
NO_STORE = {"Cache-Control": "no-store"}


class TokenApi(Controller):
    tags: Sequence[str] | None = ["tokens"]

    @post("/token", status_code=200, security=[], responses=GRANT_REFUSED)
    async def grant(self, request: AnyRequest) -> Response[dict[str, Any]]:
        """A token for a client that shows its id and secret, or a person's name and password.

        OAuth 2.0 client credentials, by HTTP Basic or in the form. With the scope `databus` it is good for messages
        there, and for nothing else.
        """
        form = _form(await request.body())
        client, secret = _basic(request.headers.get("authorization", "")) or (
            form.get("client_id", ""),
            form.get("client_secret", ""),
        )
        if form.get("grant_type") != "client_credentials":
            return _refused(400, "unsupported_grant_type")
        if not await check_credentials(request, client, secret):
            return _refused(401, "invalid_client")
        if form.get("scope", "") not in ("", BUS_SCOPE):
            return _refused(400, "invalid_scope")
        token = system_of(request).tokens.grant(client, for_bus=form.get("scope") == BUS_SCOPE)
        told = {"access_token": token, "token_type": "Bearer", "expires_in": GRANTED_FOR_S}
        return Response(told, headers=NO_STORE)

    @post("/revoke", status_code=200, responses=REFUSED)
    async def revoke(self, request: AnyRequest) -> None:
        """Refuse a token from now on, one's own or, for administrators, anybody's."""
        user = user_of(request)
        token = _form(await request.body()).get("token", "")
        tokens = system_of(request).tokens
        try:
            if user.is_admin or tokens.subject(token) == user.name:
                tokens.revoke(user.name, token)
        except Refused:
            return  # it is no good already, and RFC 7009 has that a success

    @get("/.well-known/jwks.json", security=[], sync_to_thread=True)
    def keys(self, request: AnyRequest) -> dict[str, Any]:
        """The public keys by which this system's tokens can be checked."""
        return system_of(request).tokens.jwks()

    @post("/api/v1/keys", status_code=201, responses=REFUSED, sync_to_thread=True)
    def rotate(self, request: AnyRequest) -> dict[str, str]:
        """Sign with a new key from now on. Administrators only."""
        actor = admin_of(request)
        system = system_of(request)
        kid = system.tokens.rotate(actor.name)
        return {"kid": kid}


def _refused(status: int, error: str) -> Response[dict[str, Any]]:
    headers = {**NO_STORE, **({"WWW-Authenticate": 'Basic realm="edgeflex-policy"'} if status == 401 else {})}
    return Response({"error": error}, status_code=status, headers=headers)


def _form(body: bytes) -> dict[str, str]:
    """Fields of a form; what is none has none."""
    try:
        found = parse_qs(body.decode("ascii"), max_num_fields=20, strict_parsing=False)
    except ValueError:
        return {}
    return {name: values[0] for name, values in found.items()}


def _basic(header: str) -> tuple[str, str] | None:
    """Id and secret of HTTP Basic, each of them form-encoded before (RFC 6749 section 2.3.1)."""
    if not header.startswith("Basic "):
        return None
    try:
        pair = base64.b64decode(header[6:], validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    client, _, secret = pair.partition(":")
    return unquote_plus(client), unquote_plus(secret)
