from __future__ import annotations

import re
import threading
from html import unescape
from pathlib import Path

import httpx
import pytest
from broker import wait_until
from policy_pages import BOUNDS, EFFECT, LIVE, OTHER, TRIGGER, Person, person
from served_policies import ServedPolicies

from edgeflex_services.policy_system.journal import Entry
from edgeflex_services.policy_system.pages_events import rows_of


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
    stream = Stream(admin, 1, f"?after={newest[1]}&policy={LIVE}/live_trigger&kind=report")
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


def journal_is_written_down(service: ServedPolicies) -> bool:
    counts = httpx.get(f"{service.url}/health/ready").json()["counts"]
    return bool(counts["journal"]["waiting"] == 0)


def test_events_of_other_groups_are_hidden_in_the_api_the_page_and_the_stream_each(service: ServedPolicies) -> None:
    for group in (LIVE, OTHER):
        service.save("each_way", {**TRIGGER, "asset_id": f"{group}_way"}, group=group)

    def report() -> None:
        for group in (OTHER, LIVE):
            one = {"group": group, "asset": f"{group}_way", "values": {"rocof_hz_per_s": 0.9}}
            assert service.admin.post("/api/v1/events", json={"reports": [one]}).json()

    ours, theirs = f"{LIVE}_way", f"{OTHER}_way"
    key = service.make_service("each_way", group=LIVE)
    with person(service, "lea", "reader", LIVE) as lea, service.client(key.token("each_way")) as api:
        wait_until(lambda: journal_is_written_down(service))
        live = Stream(lea, 1, "?after=999999999&kind=report")
        report()
        for is_kept in (False, True):
            if is_kept:
                wait_until(lambda: journal_is_written_down(service))
            missed = Stream(lea, 1, "?after=0&kind=report")
            for text in (api.get("/api/v1/events").text, lea.get("/events").text):
                assert ours in text
                assert theirs not in text
            missed.join(10.0)
            assert missed.rows
            assert all(theirs not in row for row in missed.rows)
        live.join(10.0)
        assert ours in live.rows[0]


def test_a_policy_that_is_hidden_finds_nothing(service: ServedPolicies, admin: Person) -> None:
    service.save("found_trigger", {**TRIGGER, "asset_id": "found_feeder"}, group=LIVE)

    def grant(name: str) -> None:
        fields = {"subject_kind": "user", "subject": name, "right": "read"}
        assert admin.fill(f"/policies/{LIVE}/found_trigger/grants", fields).status_code == 303

    def report(rocof_hz_per_s: float) -> None:
        one = {"group": LIVE, "asset": "found_feeder", "values": {"rocof_hz_per_s": rocof_hz_per_s}}
        assert service.admin.post("/api/v1/events", json={"reports": [one]}).json()

    grant("admin")
    query = f"?policy={LIVE}/found_trigger&kind=report"
    with person(service, "ida", "reader", LIVE) as ida:
        stream = Stream(ida, 1, f"{query}&after=999999999")
        report(0.7)
        assert "found_feeder" in ida.get("/events?kind=report").text
        for is_kept in (False, True):
            if is_kept:
                wait_until(lambda: journal_is_written_down(service))
            assert "found_feeder" not in ida.get(f"/events{query}").text
            assert "found_feeder" in admin.get(f"/events{query}").text
        grant("ida")
        report(0.9)
        stream.join(10.0)
        [row] = stream.rows
        assert "rocof_hz_per_s</code> 0.9" in row


def rows_with(text: str, page: str) -> list[str]:
    return [row for row in re.findall(r'<tr role="row" data-key.*?</tr>', page, re.DOTALL) if text in row]


def test_what_repeats_itself_shares_a_row_with_its_count_and_its_last_time(
    service: ServedPolicies, admin: Person
) -> None:
    service.save("repeated", {**TRIGGER, "asset_id": "repeating"}, group=LIVE)
    for value in (0.7, 0.8, 0.9):
        report = {"group": LIVE, "asset": "repeating", "values": {"rocof_hz_per_s": value}}
        assert service.admin.post("/api/v1/events", json={"reports": [report]}).status_code == 200
    [row] = rows_with("repeating", admin.get("/events?policy=live/repeated&decision=act").text)
    assert '<span class="count">3</span> times' in row
    assert "rocof_hz_per_s</code> 0.9" in row
    each = re.search(r'<a href="(/events\?[^"]*each=true)"><span class="count">', row)
    assert each is not None
    assert len(rows_with("repeating", admin.get(unescape(each[1])).text)) == 3


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("kind=request", {"permit", "deny"}),
        ("kind=report", set[str]()),
        ("user=asking", {"permit", "deny"}),
        ("user=admin", {"change"}),
        ("decision=deny", {"deny"}),
        ("decision=permit&user=asking", {"permit"}),
        ("policy=asked/sharing", {"permit", "change"}),
        ("policy=asked/sharin_", set[str]()),
        ("policy=%25&user=%22", set[str]()),
        ("kind=change&policy=asked/sharing", {"change"}),
    ],
)
def test_events_are_found_by_what_they_say(asked: Person, query: str, found: set[str]) -> None:
    rows = rows_with("", asked.get(f"/events?group=asked&{query}").text)
    told = "".join(rows)
    assert {name for name in ("permit", "deny") if f'<span class="tag {name}">' in told} == found - {"change"}
    assert ("save policy" in told) == ("change" in found)


@pytest.fixture(scope="module")
def asked(service: ServedPolicies, admin: Person) -> Person:
    """Somebody who sees a group in which one request was permitted and one denied."""
    service.make_group("asked")
    rules = [
        {
            "name": "reading",
            "effect": "permit",
            "when": {"actions": ["read_data"]},
            "then": {"do": "return_data", "quantities": ["voltage_*"]},
        }
    ]
    service.save("sharing", {"kind": "sharing", "rules": rules}, group="asked")
    report = {"group": "asked", "asset": "feeder_7", "values": {"voltage_pu": 1.01}}
    assert service.admin.post("/api/v1/events", json={"reports": [report]}).status_code == 200
    with service.client(service.make_service("asking", group="asked").token("asking")) as client:
        for action in ("read_data", "write_data"):
            request = {"group": "asked", "asset": "feeder_7", "action": action}
            assert client.post("/api/v1/requests", json=request).status_code == 200
    return admin


def test_a_policy_shows_what_its_rules_did_and_leads_to_all_events_of_it(asked: Person) -> None:
    page = asked.get("/policies/asked/sharing").text
    [row] = rows_with("feeder_7", page)
    assert "gave voltage_pu" in row
    assert "asking" in row
    assert 'href="/events?policy=asked%2Fsharing"' in page


def test_a_policy_whose_rules_did_nothing_yet_says_so(service: ServedPolicies, admin: Person) -> None:
    service.save("idle", TRIGGER, group=OTHER)
    assert "No rule of it started a service" in admin.get(f"/policies/{OTHER}/idle").text
    service.save("no_rules", BOUNDS, group=OTHER)
    assert "What its rules did" not in admin.get(f"/policies/{OTHER}/no_rules").text


def test_older_events_stand_on_the_next_page_and_none_is_lost() -> None:
    """No rows in between, none twice."""
    entries = [
        Entry(time_ns=at, kind="change", group="g", user="u", source="s", action="a", did=str(at % 150), id=at)
        for at in range(400, 0, -1)
    ]
    rows = rows_of(entries)
    assert [row.entry.id for row in rows] == list(range(400, 250, -1))
    assert sum(row.times for row in rows) == 400


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
