"""How commands ask the device management service."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from edgeflex_flow.errors import how_to_install

try:
    import httpx
except ModuleNotFoundError as _error:
    raise click.UsageError(f"devices needs {_error.name}: {how_to_install('rest')}") from _error

PATH: Final = "/api/v1"
ANSWER_S: Final = 60.0
RENEW_S: Final = 60.0
"""A token is replaced when so much of its life is left."""


class ServiceError(click.ClickException):
    """The service refused, could not do it, or is not there."""

    def __init__(self, text: str, told: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.told = told or {}


@dataclass(frozen=True, kw_only=True)
class Access:
    """Where the service is, and who asks."""

    url: str
    ca: Path | None = None
    token: str | None = None
    policy_url: str | None = None
    """Of the policy system that grants tokens for `client` and `secret`."""
    client: str | None = None
    secret: str | None = field(default=None, repr=False)


class Service:
    """Asks the service. `with` closes its connections."""

    def __init__(self, access: Access) -> None:
        self._access = access
        verify: Any = True if access.ca is None else _tls(access.ca)
        self._client = httpx.Client(base_url=access.url.rstrip("/"), verify=verify, timeout=ANSWER_S, trust_env=False)
        self._token = access.token
        self._until_s = float("inf")

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The answer. Raises ServiceError with what the service, or the network behind it, said."""
        params = {name: value for name, value in query.items() if value is not None}
        content = {} if body is None else {"json": body}
        try:
            answer = self._client.request(method, PATH + path, params=params, headers=self._headers(), **content)
        except httpx.HTTPError as error:
            raise ServiceError(f"{self._access.url}: {error}: is the service there? edgeflex serve devices") from error
        told = _decoded(answer)
        if answer.is_success:
            return told
        raise ServiceError(_words(answer, told), told if isinstance(told, dict) else None)

    def follow(self, method: str, path: str, body: Any = None) -> Iterator[dict[str, Any]]:
        """The operation that a request begins, each time that it is looked at until it is over."""
        operation = self.ask(method, path, body, wait_s=1)
        yield operation
        if operation["state"] == "running":
            yield from self.follow_up(operation["id"])

    def follow_up(self, operation_id: str) -> Iterator[dict[str, Any]]:
        """An operation, until it is over."""
        state = "running"
        while state == "running":
            operation = self.ask("GET", f"/operations/{quote(operation_id, safe='')}", wait_s=1)
            state = operation["state"]
            yield operation

    def gpsi(self, device: str) -> str:
        """Of a device that is named by GPSI or by name. Raises ServiceError."""
        if device.startswith(("msisdn-", "extid-")):
            return device
        found = self.ask("GET", "/devices", name=device)["devices"]
        if not found:
            raise ServiceError(f"there is no device '{device}', or you may not see it: edgeflex devices list")
        return str(found[0]["gpsi"])

    def devices(self, **which: str | None) -> Iterator[dict[str, Any]]:
        """All of them, page by page."""
        after: str | None = None
        while True:
            page = self.ask("GET", "/devices", after=after, **which)
            yield from page["devices"]
            after = page["after"]
            if after is None:
                return

    def _headers(self) -> dict[str, str]:
        if self._access.policy_url is not None and (self._token is None or time.monotonic() > self._until_s):
            self._grant(self._access.policy_url)
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    def _grant(self, policy_url: str) -> None:
        auth = httpx.BasicAuth(quote(self._access.client or "", safe=""), quote(self._access.secret or "", safe=""))
        try:
            answer = self._client.post(
                f"{policy_url.rstrip('/')}/token", data={"grant_type": "client_credentials"}, auth=auth
            )
        except httpx.HTTPError as error:
            raise ServiceError(f"{policy_url}: {error}: is the policy system there?") from error
        if not answer.is_success:
            raise ServiceError(f"{policy_url}: no token for '{self._access.client}': {answer.status_code}")
        told = answer.json()
        self._token = str(told["access_token"])
        self._until_s = time.monotonic() + float(told.get("expires_in", 300)) - RENEW_S


def of(gpsi: str, *more: str) -> str:
    """The path of a device."""
    return "/".join(["/devices", quote(gpsi, safe=""), *more])


def _tls(ca: Path) -> Any:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ServiceError(f"{ca}: cannot be read as certificates: {error}") from error


def _decoded(answer: httpx.Response) -> Any:
    try:
        return answer.json() if answer.content else {}
    except ValueError:
        return {}


def _words(answer: httpx.Response, told: Any) -> str:
    known: Mapping[str, Any] = told if isinstance(told, dict) else {}
    text = str(known.get("detail") or f"{answer.status_code} {answer.reason_phrase}")
    wrong = [f"{each.get('key', '')}: {each.get('message', '')}" for each in known.get("errors", ())]
    text = "; ".join(wrong) or text
    hints = {401: "; give --token-file, EDGEFLEX_DEVICES_TOKEN, or --policy with client and secret"}
    return text + hints.get(answer.status_code, "")
