"""A policy system for tests: real HTTP, tokens that are verified, ETags, and faults on demand.

with PolicyServer(tmp_path) as server:
    server.save("trigger", onset="0.1 Hz/s")
    config = server.config(refresh=0.2)
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from http_service import HttpService, Reply, Request, json_reply

from edgeflex_connectors import policy_system
from edgeflex_connectors.policy_system import EFFECTS_PATH, POLICIES_PATH, PolicySystemConfig
from edgeflex_connectors.rest_auth import SignedJwt
from edgeflex_flow.messages import Policy
from edgeflex_flow.node import OpenConnection

GROUP = "substation_12"
AUDIENCE = "edgeflex-policy"


def decoded(text: str) -> str:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


class PolicyServer(HttpService):
    """Answers as `edgeflex serve policy` does. `fault` takes its place while it is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._key = Ed25519PrivateKey.generate()
        self.key_file = folder / "site.pem"
        self.key_file.write_bytes(self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self._policies: dict[str, dict[str, Any]] = {}
        self._guard = threading.Lock()
        self.fault: Callable[[Request], Reply] | None = None
        self.effects: list[dict[str, Any]] = []
        self.asked_s: list[float] = []
        self.not_modified = 0
        self.script(POLICIES_PATH, self._give)
        self.script(EFFECTS_PATH, self._take)

    def save(self, policy_id: str, *, fields: dict[str, Any] | None = None, **more: Any) -> float:
        """Save a policy; when that is done, in monotonic seconds. Keys that are no keys of a policy are its fields."""
        known = {name: more.pop(name) for name in Policy.__struct_fields__ if name in more}
        with self._guard:
            version = self._policies.get(policy_id, {"version": 0})["version"] + 1
            self._policies[policy_id] = {
                "type": "policy",
                "policy_id": policy_id,
                "policy_group": GROUP,
                "policy_kind": "operational_bounds",
                "version": version,
                "fields": {**(fields or {}), **more},
                "rules": [],
                **known,
            }
        return time.monotonic()

    def withdraw(self, policy_id: str) -> None:
        with self._guard:
            del self._policies[policy_id]

    def config(self, **more: Any) -> PolicySystemConfig:
        auth = SignedJwt(key=str(self.key_file), issuer=GROUP, audience=AUDIENCE)
        settings = {"refresh": 0.2, "connect_timeout": 1.0, "read_timeout": 1.0, "request_timeout": 1.0, **more}
        return PolicySystemConfig(url=self.url, group=GROUP, auth=auth, **settings)

    def connection(self, **more: Any) -> OpenConnection:
        return OpenConnection("policies", policy_system.NODE, self.config(**more))

    def _is_known(self, request: Request) -> bool:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            jwt.decode(token, self._key.public_key(), algorithms=["EdDSA"], audience=AUDIENCE, issuer=GROUP)
        except jwt.PyJWTError:
            return False
        return True

    def _give(self, request: Request) -> Reply:
        self.asked_s.append(time.monotonic())
        if self.fault is not None:
            return self.fault(request)
        if not self._is_known(request):
            return Reply(401, b"")
        wanted = [decoded(each) for each in request.query.get("policy_id", [])]
        with self._guard:
            given = [
                each
                for name, each in self._policies.items()
                if each["policy_group"] == decoded(request.query["policy_group"][0]) and (not wanted or name in wanted)
            ]
        etag = f'"{hashlib.sha256(json.dumps(given).encode()).hexdigest()[:16]}"'
        if request.headers.get("if-none-match") == etag:
            self.not_modified += 1
            return Reply(304, headers={"ETag": etag})
        return json_reply({"policies": given}, etag=etag)

    def _take(self, request: Request) -> Reply:
        if self.fault is not None:
            return self.fault(request)
        if not self._is_known(request):
            return Reply(401, b"")
        self.effects.extend(request.json["effects"])
        return json_reply({"kept": len(request.json["effects"]), "refused": []})
