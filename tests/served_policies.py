"""A policy system that runs while a test does, as the program it is, and clients of it."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PASSWORD = "correct-horse-battery-staple"
AUDIENCE = "edgeflex-policy"
BUS_AUDIENCE = f"{AUDIENCE}-databus"
GROUP = "substation_12"
START_S = 30.0
PATIENCE_S = 20.0


def b64(text: str) -> str:
    """As ids go over the wire."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


class KeyPair:
    """A key by which a service signs its tokens."""

    def __init__(self, kid: str = "one") -> None:
        self.kid = kid
        self.private = Ed25519PrivateKey.generate()

    @property
    def jwk(self) -> dict[str, str]:
        raw = self.private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        x = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        return {"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x}

    @property
    def pem(self) -> bytes:
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def token(self, user: str, *, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token of this key; a claim of None is left out."""
        now = int(time.time())
        claims = {"iss": user, "sub": user, "aud": AUDIENCE, "iat": now, "exp": now + 300, "jti": secrets.token_hex(8)}
        kept = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        return jwt.encode(kept, self.private, algorithm="EdDSA", headers={"kid": self.kid, **(headers or {})})

    def bus_token(self, user: str) -> str:
        """One for messages of the databus."""
        return self.token(user, aud=BUS_AUDIENCE)


def patiently(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask again while the service cannot save, as it does for a moment where a disk is busy with other things."""
    until_s = time.monotonic() + PATIENCE_S
    while (answer := ask()).status_code == HTTPStatus.SERVICE_UNAVAILABLE and time.monotonic() < until_s:
        time.sleep(0.5)
    return answer


class ServedPolicies:
    """`edgeflex serve policy` on a free port. `admin` is a client that may do everything."""

    def __init__(self, folder: Path, *arguments: str, database: str | None = None) -> None:
        self.folder = folder
        self._arguments = arguments
        self._environment = {**os.environ, "EDGEFLEX_POLICY_ADMIN_PASSWORD": PASSWORD}
        if database is not None:
            self._environment["EDGEFLEX_POLICY_DATABASE"] = database
        self.log = folder / "service.log"
        self.told: list[dict[str, Any]] = []
        self.url = ""

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "edgeflex_services.policy_system", "--port", "0", "--data", str(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self._arguments], stdout=subprocess.PIPE, stderr=log, env=self._environment
            )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            self.told.append(told)
            if told["event"] == "started":
                self.url = told["url"]
                return
        self.process.stdout.close()
        raise AssertionError(f"ended with {self.process.wait()}: {self.log.read_text()}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(20.0)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> Self:
        self.start()
        self.admin = self.client(self.password_token("admin", PASSWORD))
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.admin.close()
        if self.process.poll() is None:
            self.stop()

    def password_token(self, name: str, password: str) -> str:
        answer = httpx.post(
            f"{self.url}/token", data={"grant_type": "client_credentials"}, auth=(name, password), timeout=20.0
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def client(self, token: str | None = None) -> httpx.Client:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20.0)

    # What tests begin with ------------------------------------------------------------------------------------------

    def make_group(self, group: str = GROUP) -> None:
        answer = patiently(lambda: self.admin.put(f"/api/v1/groups/{group}", json={}))
        assert answer.status_code == 200, answer.text

    def make_service(self, name: str, role: str | None = "reader", group: str = GROUP) -> KeyPair:
        """A service that signs its own tokens, and its role in a group."""
        key = KeyPair()
        answer = patiently(lambda: self.admin.put(f"/api/v1/users/{name}", json={"jwks": {"keys": [key.jwk]}}))
        assert answer.status_code == 200, answer.text
        if role is not None:
            self.add_member(name, role, group)
        return key

    def add_member(self, name: str, role: str, group: str = GROUP) -> None:
        path = f"/api/v1/groups/{group}/members/{name}"
        answer = patiently(lambda: self.admin.put(path, json={"role": role}))
        assert answer.status_code == 200, answer.text

    def save(
        self, policy_id: str, document: dict[str, Any], *, group: str = GROUP, based_on: int = 0
    ) -> dict[str, Any]:
        body = {"document": document, "based_on": based_on}
        path = f"/api/v1/policies/{b64(group)}/{b64(policy_id)}"
        answer = patiently(lambda: self.admin.put(path, json=body))
        assert answer.status_code == 201, answer.text
        saved: dict[str, Any] = msgspec.json.decode(answer.content)
        return saved
