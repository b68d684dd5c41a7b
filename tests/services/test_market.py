"""The market as a program, over real HTTP."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from broker import wait_until
from flexoffers import an_offer
from hypothesis import HealthCheck, given, settings
from market_process import MarketProcess
from schemathesis.core.result import Ok

from edgeflex_connectors.payload_formats import FlexOfferFormat
from edgeflex_connectors.payload_formats.flexoffer import decode_offers, encode_offers
from edgeflex_flow.messages import FlexOffer
from edgeflex_flow.units import NS_PER_S
from edgeflex_services import market as market_program

FORMS = {name: FlexOfferFormat(dialect=name) for name in ("edgeflex", "inea", "goflex")}


def fresh(**changes: Any) -> FlexOffer:
    """An offer that may be assigned for a minute from now on."""
    now_ns = time.time_ns() // NS_PER_S * NS_PER_S
    until_ns = now_ns + 60 * NS_PER_S
    times = {
        "created_ns": now_ns,
        "accept_before_ns": until_ns,
        "assign_before_ns": until_ns,
        "start_after_ns": until_ns,
        "start_before_ns": until_ns,
    }
    return an_offer(**{**times, **changes})


class Client:
    """Someone who trades."""

    def __init__(self, market: MarketProcess, token: str | None = None) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.http = httpx.Client(base_url=f"{market.url}/api/v1", headers=headers, timeout=10.0)

    def offer(self, *offers: FlexOffer, dialect: str = "edgeflex") -> httpx.Response:
        return self.http.post(f"/{dialect}/offers", content=encode_offers(FORMS[dialect], list(offers)))

    def look(self, dialect: str = "edgeflex", **query: str) -> list[FlexOffer]:
        answer = self.http.get(f"/{dialect}/offers", params=query)
        answer.raise_for_status()
        return decode_offers(FORMS[dialect], answer.content)


@pytest.fixture(scope="module")
def market() -> Iterator[MarketProcess]:
    with MarketProcess() as running:
        yield running


@pytest.mark.parametrize("dialect", ["edgeflex", "inea", "goflex"])
def test_offers_are_taken_and_assigned_in_every_dialect(market: MarketProcess, dialect: str) -> None:
    client = Client(market)
    offered = fresh(id=str(1000 + len(dialect)))
    answer = client.offer(offered, dialect=dialect)
    assert answer.status_code == 200
    assert decode_offers(FORMS[dialect], answer.content)[0].state == "accepted"
    wait_until(lambda: client.look(dialect, id=offered.id)[0].state == "assigned")
    [seen] = client.look(dialect, id=offered.id)
    assert seen.schedule is not None
    assert [each.energy_kwh for each in seen.schedule.slices] == [0.0, -2.0]
    changes = client.http.get("/history", params={"id": offered.id}).json()
    assert [each["state"] for each in changes] == ["offered", "accepted", "assigned"]
    wait_until(lambda: offered.id in [each["id"] for each in market.states("assigned")])
    [told] = [each for each in market.states("assigned") if each["id"] == offered.id]
    assert told["energy_kwh"] == [0.0, -2.0]


def test_what_is_wrong_is_rejected_and_stays_visible(market: MarketProcess) -> None:
    client = Client(market)
    answer = client.offer(fresh(id="wrong", interval_s=60), fresh(id="right"))
    assert [each["state"] for each in answer.json()] == ["rejected", "accepted"]
    assert "this market trades intervals of 900 s; got 60" in answer.json()[0]["stateReason"]
    assert client.look(id="wrong")[0].state == "rejected"


def test_errors_are_problems(market: MarketProcess) -> None:
    client = Client(market)
    client.offer(fresh(id="taken"))
    deep = b"[" * 50 + b"]" * 50
    cases = [
        (client.http.post("/edgeflex/offers", content=b'[{"id": 1'), 400, "truncated"),
        (client.http.post("/edgeflex/offers", content=deep), 400, "nested deeper"),
        (client.http.post("/edgeflex/offers", content=b" " * 300_000), 413, "longer than"),
        (client.http.get("/other/offers"), 400, "Validation failed"),
        (client.offer(fresh(id="taken", location="25")), 409, "another offer stands under the id 'taken'"),
        (client.http.delete("/edgeflex/offers", params={"id": "nobody's"}), 404, "no offer has the id"),
        (client.http.put("/behaviour", json={"delay_s": -1}), 400, "Validation failed"),
        (client.http.put("/demand", json={"demand": [{"energy": 1}]}), 400, "Validation failed"),
        (client.http.get("/inea/offers", params={"id": "taken"}), 409, "a whole number in this dialect"),
        (client.http.post("/edgeflex/offers", json=[{"id": 1, "state": "offered"}] * 1001), 413, "1000 offers at once"),
    ]
    for answer, status, text in cases:
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert text in answer.json()["detail"]


def test_offers_that_a_dialect_cannot_say_are_left_out_of_its_list() -> None:
    with MarketProcess() as market:
        client = Client(market)
        client.offer(fresh(id="text"), fresh(id="4711"))
        answer = client.http.get("/inea/offers")
        assert (answer.status_code, answer.headers["x-left-out"]) == (200, "1")
        assert [each.id for each in decode_offers(FORMS["inea"], answer.content)] == ["4711"]
        whole = client.http.get("/goflex/offers")
        assert [each.id for each in decode_offers(FORMS["goflex"], whole.content)] == ["text", "4711"]
        assert "x-left-out" not in whole.headers


def test_offers_may_be_taken_back(market: MarketProcess) -> None:
    client = Client(market)
    client.offer(fresh(id="back"))
    assert client.http.delete("/edgeflex/offers", params={"id": "back"}).json()[0]["state"] == "canceled"
    assert client.http.delete("/edgeflex/offers", params={"id": "back"}).status_code == 409


def test_answer_that_did_not_change_is_not_sent_again(market: MarketProcess) -> None:
    client = Client(market)
    client.offer(fresh(id="etag"))
    wait_until(lambda: client.look(id="etag")[0].state == "assigned")
    first = client.http.get("/edgeflex/offers", params={"id": "etag"})
    again = client.http.get("/edgeflex/offers", params={"id": "etag"}, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_demand_and_behaviour_change_what_the_market_does() -> None:
    with MarketProcess("--wholesale", "none", "--demand=0.5:0.3") as market:
        client = Client(market)
        client.offer(fresh(id="1"))
        wait_until(lambda: client.look()[0].schedule)
        assert client.look()[0].schedule.slices[0].energy_kwh == 0.5  # type: ignore[union-attr]
        assert client.http.get("/demand").json()["demand"][0]["energy_kwh"] == 0.5
        market.put("/api/v1/behaviour", {"refuse_share": 1.0, "refuse_reason": "not today"})
        assert client.offer(fresh(id="2")).json()[0]["stateReason"] == "not today"
        market.put("/api/v1/behaviour", {"assigns": False})
        market.put("/api/v1/demand", {"demand": [{"energy_kwh": 1.0, "price_eur_per_kwh": 0.3}]})
        client.offer(fresh(id="3"))
        assert client.look(id="3")[0].state == "accepted"
        assert client.http.post("/clear").json() == {"offers": 1}
        assert client.look(id="3")[0].schedule.slices[0].energy_kwh == 1.0  # type: ignore[union-attr]


def test_clients_see_and_change_their_own_alone(tmp_path: Path) -> None:
    clients = tmp_path / "clients.json"
    clients.write_text(json.dumps({"201": "token-of-201", "202": "token-of-202", "operator": "token-of-operator"}))
    with MarketProcess("--clients", str(clients)) as market:
        first, second = Client(market, "token-of-201"), Client(market, "token-of-202")
        operator, nobody = Client(market, "token-of-operator"), Client(market, "token-of-20")
        assert first.offer(fresh(id="1")).json()[0]["state"] == "accepted"
        assert "the one who sends it ('202'); got '201'" in second.offer(fresh(id="2")).json()[0]["stateReason"]
        assert second.look(id="1") == []
        assert second.http.delete("/edgeflex/offers", params={"id": "1"}).status_code == 404
        assert second.http.get("/history", params={"id": "1", "owner": "201"}).status_code == 404
        assert second.offer(fresh(id="1", offered_by="202", location="25")).json()[0]["state"] == "accepted"
        assert [each.location for each in first.look(id="1")] == ["24"]
        # What 202 sends in the name of 201 takes no id of 201, and is not seen there.
        assert first.offer(fresh(id="2", location="26")).json()[0]["state"] == "accepted"
        assert first.look(id="2")[0].location == "26"
        assert sorted(each.id for each in operator.look()) == ["1", "1", "2", "2"]
        both = operator.http.get("/history", params={"id": "1"})
        assert (both.status_code, both.json()["detail"]) == (
            409,
            "2 owners have an offer '1': say which one by `owner`",
        )
        back = operator.http.delete("/edgeflex/offers", params={"id": "1", "owner": "202"})
        assert [(each["state"], each["locationId"]) for each in back.json()] == [("canceled", "25")]
        assert first.http.put("/behaviour", json={}).status_code == 403
        assert operator.http.put("/behaviour", json={}).status_code == 200
        basic = httpx.get(f"{market.url}/api/v1/demand", headers={"Authorization": "Basic token-of-operator"})
        for call in (
            basic,
            nobody.http.get("/edgeflex/offers"),
            Client(market).http.get("/demand"),
            nobody.offer(fresh()),
        ):
            assert call.status_code == 401
            assert call.headers["www-authenticate"] == "Bearer"
            assert "201" not in call.text


def test_of_several_offers_all_are_taken_or_none_and_each_is_told(market: MarketProcess) -> None:
    client = Client(market)
    client.offer(fresh(id="stands"))
    answer = client.offer(fresh(id="fine"), fresh(id="stands", location="25"))
    assert answer.status_code == 409
    assert answer.json()["detail"] == "another offer stands under the id 'stands'; nothing was taken"
    assert answer.json()["offers"] == [
        {"id": "fine", "detail": "not taken"},
        {"id": "stands", "detail": "another offer stands under this id"},
    ]
    assert client.look(id="fine") == []


def test_an_offer_that_the_dialect_could_not_tell_of_is_not_taken(market: MarketProcess) -> None:
    client = Client(market)
    body = encode_offers(FORMS["edgeflex"], [fresh(id="a text")])
    answer = client.http.post("/inea/offers", content=body)
    assert (answer.status_code, answer.json()["detail"]) == (400, "`id`: a whole number in this dialect; got 'a text'")
    assert client.look(id="a text") == []


def test_a_file_that_another_program_holds_holds_up_nobody(tmp_path: Path) -> None:
    file = tmp_path / "market.db"
    with MarketProcess("--file", str(file)) as market, closing(sqlite3.connect(file, isolation_level=None)) as lock:
        client = Client(market)
        market.put("/api/v1/behaviour", {"assigns": False})
        client.offer(fresh(id="1"))
        lock.execute("BEGIN IMMEDIATE")
        answers: list[httpx.Response] = []
        sending = threading.Thread(target=lambda: answers.append(Client(market).offer(fresh(id="2"))))
        sending.start()
        took_s = []
        while sending.is_alive():
            began_s = time.monotonic()
            assert [each.id for each in client.look()] == ["1"]
            took_s.append(time.monotonic() - began_s)
        sending.join()
        assert len(took_s) > 5
        assert max(took_s) < 0.4
        [refused] = answers
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["detail"] == "the market's file cannot be written: database is locked"
        for call in (
            client.http.delete("/edgeflex/offers", params={"id": "1"}),
            client.http.put("/demand", json={"demand": [{"energy_kwh": 1.0}]}),
            client.http.post("/clear"),
        ):
            assert (call.status_code, call.headers["retry-after"]) == (503, "1")
        lock.execute("ROLLBACK")
        assert client.offer(fresh(id="2")).status_code == 200


def test_a_market_that_is_killed_goes_on_as_it_was(tmp_path: Path) -> None:
    options = ("--file", str(tmp_path / "market.db"), "--wholesale", "none", "--demand=0.75:0.3")
    with MarketProcess(*options) as market:
        market.put("/api/v1/behaviour", {"assigns": False})
        accepted = Client(market).offer(fresh(id="1"), fresh(id="2")).json()
        market.kill()
    with MarketProcess(*options) as market:
        assert [each["state"] for each in accepted] == ["accepted", "accepted"]
        wait_until(lambda: market.states("assigned"))
        market.kill()
    with MarketProcess(*options) as market:
        client = Client(market)
        client.offer(fresh(id="3"))
        wait_until(lambda: client.look(id="3")[0].state == "canceled")
        states = [each["state"] for each in client.http.get("/history", params={"id": "1"}).json()]
        assert states == ["offered", "accepted", "assigned"]
        taken = [each.schedule.slices[0].energy_kwh for each in client.look() if each.schedule is not None]
        assert sum(taken) == pytest.approx(0.75)


def test_market_ends_in_order_and_goes_on_from_its_file(tmp_path: Path) -> None:
    file = str(tmp_path / "market.db")
    with MarketProcess("--file", file) as market:
        Client(market).offer(fresh(id="1"))
        wait_until(lambda: market.states("assigned"))
        assert market.stop() == 0
    with MarketProcess("--file", file) as market:
        assert [each.state for each in Client(market).look()] == ["assigned"]


def test_market_goes_on_once_its_file_can_be_written_again(tmp_path: Path) -> None:
    file = tmp_path / "market.db"
    with MarketProcess("--file", str(file)) as market:
        client = Client(market)
        market.put("/api/v1/behaviour", {"assigns": False})
        client.offer(fresh(id="1"))

        def ready() -> httpx.Response:
            return httpx.get(f"{market.url}/health/ready", timeout=30.0)

        assert ready().json() == {"status": "ready"}
        with closing(sqlite3.connect(file, isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            httpx.put(f"{market.url}/api/v1/behaviour", json={"assigns": True}, timeout=30.0).raise_for_status()
            wait_until(lambda: ready().status_code == 503, 30.0)
            detail = "trading stands still: StoreError: the market's file cannot be written: database is locked"
            assert ready().json()["detail"] == detail
            lock.execute("ROLLBACK")
        wait_until(lambda: market.states("assigned"), 30.0)
        wait_until(lambda: ready().status_code == 200, 30.0)
        assert httpx.get(f"{market.url}/health/live", timeout=30.0).json() == {"status": "live"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--interval", "0"], "--interval is at least 1 s"),
        (["--refuse", "2"], "refuse_share"),
        (["--demand", "x"], "expected KWH or KWH:EUR_PER_KWH, got 'x'"),
        (["--wholesale", "2000"], "expected a price below 1000 EUR/kWh"),
        (["--clients", "/nowhere.json"], "nowhere.json"),
        (["--key", "/nowhere.pem"], "must be given together"),
    ],
)
def test_options_that_cannot_be_are_told(options: list[str], text: str) -> None:
    command = [sys.executable, "-m", "edgeflex_services.market", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert text in done.stderr


def test_example_of_the_help_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall("python -m edgeflex_services.market (.*)", market_program.__doc__ or "")
    with pytest.raises(SystemExit):
        market_program.main([*example.split(), "--interval", "0"])
    assert "error: --interval is at least 1 s" in capsys.readouterr().err


def test_page_lists_all_operations_and_loads_nothing(market: MarketProcess) -> None:
    page = httpx.get(f"{market.url}/schema")
    assert page.headers["content-type"].startswith("text/html")
    document = httpx.get(f"{market.url}/schema/openapi.json").json()
    for path in document["paths"]:
        assert path in page.text
    for field in ("demand[].energy_kwh", "refuse_share"):
        assert f"<code>{field}</code>" in page.text
    assert "http" not in page.text.replace("https", "").partition("</style>")[2]
    assert "<script" not in page.text


def test_nothing_that_the_document_allows_is_an_error_of_the_service(market: MarketProcess) -> None:
    document = schemathesis.openapi.from_url(f"{market.url}/schema/openapi.json")
    operations: list[Any] = [each.ok() for each in document.get_all_operations() if isinstance(each, Ok)]
    assert len(operations) == 9

    for operation in operations:

        @settings(
            max_examples=25,
            database=None,
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            assert case.call().status_code < 500

        ask()
