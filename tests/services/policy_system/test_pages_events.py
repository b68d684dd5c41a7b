from __future__ import annotations

import re
import threading
from pathlib import Path

from policy_pages import EFFECT, LIVE, OTHER, TRIGGER, Person, person
from served_policies import ServedPolicies


class Stream(threading.Thread):
    """Reads the stream of events of somebody's page until it has so many rows, or it ends."""

    def __init__(self, client: Person, rows: int, query: str = "") -> None:
        super().__init__(daemon=True)
        self.client, self.wanted, self.query = client, rows, query
        self.rows: list[str] = []
        self.opened = threading.Event()
        self.start()
        assert self.opened.wait(10.0)

    def run(self) -> None:
        with self.client.stream("GET", f"/events/stream{self.query}", timeout=30.0) as answer:
            self.opened.set()
            text = ""
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    text += line.removeprefix("data:") + "\n"
                elif not line and text:
                    self.rows.append(text)
                    text = ""
                if len(self.rows) >= self.wanted:
                    return


def test_an_event_comes_in_as_it_happens_and_stays(service: ServedPolicies, admin: Person) -> None:
    service.save("live_trigger", {**TRIGGER, "asset_id": "live_feeder"}, group=LIVE)
    newest = re.search(r"/events/stream\?after=(\d+)", admin.get("/events").text)
    assert newest is not None
    stream = Stream(admin, 1, f"?after={newest[1]}")
    report = {"group": LIVE, "asset": "live_feeder", "values": {"rocof_hz_per_s": 0.9}}
    assert service.admin.post("/api/v1/events", json={"reports": [report]}).status_code == 200
    stream.join(10.0)
    assert len(stream.rows) == 1
    for text in ("live_feeder", f"{LIVE}/live_trigger", "fast_change", "rocof_hz_per_s", "inertia_estimation"):
        assert text in stream.rows[0]
    key = re.search(r'data-key="(\w+)"', stream.rows[0])
    assert key is not None
    assert key[1] in admin.get("/events").text


def test_events_of_other_groups_are_not_told_and_hidden_policies_not_named(
    service: ServedPolicies, admin: Person
) -> None:
    service.save("hidden_trigger", {**TRIGGER, "asset_id": "hidden_feeder"}, group=LIVE)
    fields = {"subject_kind": "user", "subject": "admin", "right": "read"}
    assert admin.fill(f"/policies/{LIVE}/hidden_trigger/grants", fields).status_code == 303
    service.save("other_trigger", {**TRIGGER, "asset_id": "other_feeder"}, group=OTHER)
    for group, asset in ((LIVE, "hidden_feeder"), (OTHER, "other_feeder")):
        report = {"group": group, "asset": asset, "values": {"rocof_hz_per_s": 0.9}}
        assert service.admin.post("/api/v1/events", json={"reports": [report]}).json()
    with person(service, "mia", "reader", LIVE) as mia:
        shown = mia.get("/events").text
        assert "hidden_feeder" in shown
        assert "hidden_trigger" not in shown
        assert "other_feeder" not in shown
        stream = Stream(mia, 1, "?after=0&group=live")
        stream.join(10.0)
        assert stream.rows
        assert all("hidden_trigger" not in row and "other_feeder" not in row for row in stream.rows)
    assert "hidden_trigger" in admin.get("/events").text


def test_what_a_flow_tells_of_a_policy_is_an_event_too(service: ServedPolicies, admin: Person) -> None:
    service.save("told_live", TRIGGER, group=LIVE)
    newest = re.search(r"/events/stream\?after=(\d+)", admin.get("/events").text)
    assert newest is not None
    stream = Stream(admin, 1, f"?after={newest[1]}&kind=effect")
    effect = {**EFFECT, "policy_group": LIVE, "policy_id": "told_live", "refused": "beyond the limits"}
    assert service.admin.post("/api/v1/effects", json={"effects": [effect]}).is_success
    stream.join(10.0)
    assert len(stream.rows) == 1
    for text in (f"{LIVE}/told_live", "beyond the limits", "event.onset 0.01 Hz/s → 0.02 Hz/s"):
        assert text in stream.rows[0]


def test_the_stream_ends_for_who_is_signed_out(service: ServedPolicies, admin: Person) -> None:
    with person(service, "nora") as nora:
        stream = Stream(nora, 10_000, "?after=999999999")
        admin.fill("/users/nora/disable", {"why": "gone"})
        stream.join(15.0)
        assert not stream.is_alive()


def test_the_stream_is_for_those_who_are_signed_in(service: ServedPolicies) -> None:
    with Person(service.url) as nobody:
        assert nobody.get("/events/stream").status_code == 303


def test_the_service_ends_at_once_though_somebody_watches_events(tmp_path: Path) -> None:
    with ServedPolicies(tmp_path / "policy") as service, Person(service.url) as client:
        stream = Stream(client.sign_in(), 10_000)
        assert service.stop() == 0
        stream.join(5.0)
        assert not stream.is_alive()
        assert "Traceback" not in service.log.read_text()
