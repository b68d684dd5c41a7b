"""What the policy system does while its database takes nothing."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from broker import wait_until
from policy_pages import BOUNDS, OTHER, TRIGGER, Person
from served_policies import GROUP, ServedPolicies, b64

from edgeflex_flow.clock import VirtualClock
from edgeflex_services.policy_system import system as system_module
from edgeflex_services.policy_system.system import PolicySystem


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Somebody else writes into the database, and does not end."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.rollback()


@pytest.fixture
def database(service: ServedPolicies) -> Path:
    return service.folder / "policy.db"


def ready(service: ServedPolicies) -> httpx.Response:
    return httpx.get(f"{service.url}/health/ready", timeout=20.0)


def test_reading_goes_on_while_nothing_can_be_written_and_what_happens_meanwhile_is_shown_and_kept(
    service: ServedPolicies, admin: Person, database: Path
) -> None:
    service.save("kept_trigger", TRIGGER)
    key = service.make_service("reading")
    report = {"reports": [{"group": GROUP, "asset": "dark_feeder", "values": {"rocof_hz_per_s": 0.9}}]}
    policy = f"/api/v1/policies/{b64(GROUP)}/{b64('kept_trigger')}"

    def asset() -> str:
        return str(service.admin.get("/api/v1/events", params={"limit": 1}).json()[0]["asset"])

    with locked(database):
        wait_until(lambda: ready(service).status_code == 503)
        with service.client(key.token("reading")) as client:
            one = f"/api/v1/policy?policy_group={b64(GROUP)}&policy_id={b64('kept_trigger')}"
            assert client.get(one).status_code == 200
        assert service.admin.post("/api/v1/events", json=report).json()[0]["rule"] == "fast_change"
        for path in ("/policies", f"/policies/{GROUP}/kept_trigger", "/events", f"/events?group={GROUP}"):
            assert admin.get(path).status_code == 200, path
        page = admin.get("/events").text
        keys = re.search(r'data-shown="([0-9a-f ]+)"', page)
        assert keys is not None
        [key_of_row] = re.findall(r'data-key="(\w+)"(?:(?!</tr>).)*dark_feeder', page, re.DOTALL)
        assert key_of_row in keys[1].split()  # it comes again by the stream
        assert "dark_feeder" in admin.get(f"/policies/{GROUP}/kept_trigger").text
        assert [each["user"] for each in service.admin.get(f"{policy}/readers").json()] == ["reading"]
        assert "reading" in admin.get(f"/policies/{GROUP}/kept_trigger").text
        assert asset() == "dark_feeder"
        assert httpx.get(f"{service.url}/health/live").status_code == 200
    wait_until(lambda: ready(service).json()["counts"]["journal"] == {"waiting": 0, "lost": 0})
    assert asset() == "dark_feeder"
    assert admin.get("/events").text.count("dark_feeder") == 1
    assert [each["count"] for each in service.admin.get(f"{policy}/readers").json()] == [1]


def test_who_saves_is_told_to_come_again_at_once_and_no_thread_waits_for_long(
    service: ServedPolicies, admin: Person, database: Path
) -> None:
    path = f"/api/v1/policies/{b64(OTHER)}/{b64('later')}"
    body = {"document": BOUNDS, "based_on": 0}
    csrf = admin.csrf()
    with locked(database):
        begun_s = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: service.admin.put(path, json=body), range(8)))
        assert time.monotonic() - begun_s < 5.0  # one after the other waits for none
        assert {(each.status_code, each.headers["retry-after"]) for each in answers} == {(503, "1")}
        page = admin.post("/groups", data={"csrf": csrf, "name": "new_group", "about": ""})
        assert (page.status_code, page.headers["retry-after"]) == (503, "1")
        assert "Nothing can be saved for now" in page.text
    assert service.admin.put(path, json=body).status_code == 201


def test_health_is_asked_of_the_database_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock(1_800_000_000_000_000_000)
    system = PolicySystem(f"sqlite:///{tmp_path / 'policy.db'}", tmp_path, clock=clock)
    written: list[int] = []
    monkeypatch.setattr(system.repository, "check_writing", lambda: written.append(clock.now_ns()))
    for _ in range(3):
        assert system.can_write()
    clock.advance_to(clock.now_ns() + system_module.CHECKED_NS)
    assert system.can_write()
    assert len(written) == 2
    system.close()
