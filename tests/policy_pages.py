"""Somebody who uses the page of a policy system that a test serves, without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
from served_policies import GROUP, PASSWORD, ServedPolicies, patiently

from edgeflex_services.policy_system.documents import read_document, schema_of
from edgeflex_services.policy_system.pages_form import FormSchema

CSRF = re.compile(r'name="csrf" value="([^"]+)"')
BOUNDS = {"kind": "operational_bounds", "about": "Band of the feeder.", "fields": {"voltage_max": "1.05 pu"}}
TRIGGER = {
    "kind": "trigger",
    "fields": {"onset": "0.02 Hz/s"},
    "rules": [
        {
            "name": "fast_change",
            "effect": "act",
            "when": {"actions": ["measured"], "state": [{"quantity": "rocof_hz_per_s", "above": "0.5 Hz/s"}]},
            "then": {"do": "run_service", "service": "inertia_estimation", "hold_off": "0s"},
        }
    ],
}
OTHER, LIVE = "vpp", "live"
"""Groups beside the first: of other people, and in which things happen."""
EFFECT = {
    "policy_group": GROUP,
    "version": 1,
    "site": "site_a",
    "flow": "frequency_events",
    "node": "event",
    "setting": "onset",
    "before": "0.01 Hz/s",
    "after": "0.02 Hz/s",
    "time_ns": 1_700_000_000_000_000_000,
}
Fields = Mapping[str, Any]


class Person(httpx.Client):
    """Signs in and fills in forms as a browser would send them."""

    def __init__(self, url: str, name: str = "admin", password: str = PASSWORD, **more: Any) -> None:
        super().__init__(base_url=url, headers={"Origin": url}, timeout=20.0, **more)
        self.name, self.password = name, password

    def sign_in(self, then: str = "/") -> Self:
        typed = {"name": self.name, "password": self.password, "then": then}
        answer = patiently(lambda: self.post("/sign-in", data=typed))
        assert answer.status_code == 303, answer.text
        return self

    def csrf(self) -> str:
        match = CSRF.search(self.get("/account").text)
        assert match is not None, "the page has no form of a session"
        return unescape(match[1])

    def fill(self, path: str, fields: Fields | None = None) -> httpx.Response:
        """Send a form with the session's token."""
        return self.post(path, data={"csrf": self.csrf(), **(fields or {})})


@contextmanager
def serving(folder: Path) -> Iterator[ServedPolicies]:
    """A policy system with three groups."""
    with ServedPolicies(folder) as started:
        for group in (GROUP, OTHER, LIVE):
            started.make_group(group)
        yield started


@contextmanager
def person(service: ServedPolicies, name: str, role: str | None = "editor", group: str = GROUP) -> Iterator[Person]:
    """Somebody with an account and a role in a group, who is signed in."""
    answer = patiently(lambda: service.admin.put(f"/api/v1/users/{name}", json={"password": PASSWORD}))
    assert answer.status_code == 200, answer.text
    if role is not None:
        service.add_member(name, role, group)
    with Person(service.url, name) as client:
        yield client.sign_in()


def edit_fields(document: Mapping[str, Any], based_on: int = 0, do: str = "save", **more: str) -> dict[str, Any]:
    """What the form holds that shows a document."""
    kind = str(document["kind"])
    whole = msgspec.to_builtins(read_document(msgspec.json.encode(document)))
    texts = FormSchema(schema_of(kind)).texts(whole)
    return {**texts, "mode": "form", "based_on": str(based_on), "do": do, "comment": "", **more}
