"""The book of a market: what becomes of offers."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flexoffers import START_NS, an_offer, offers
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edgeflex_flow.errors import FatalError
from edgeflex_flow.flexoffer import may_follow, schedule_violations
from edgeflex_flow.messages import FlexOffer, FlexSlice
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.market_api import Trade
from edgeflex_services.market_book import Behaviour, FullError, MarketBook, OfferConflictError, Rules
from edgeflex_services.market_demand import Demand, OfferKey
from edgeflex_services.market_store import StoreError

NOW_NS = START_NS - 50 * NS_PER_S


def key(offer_id: str, owner: str = "201") -> OfferKey:
    return OfferKey(owner, offer_id)


def submit(book: MarketBook, offer: FlexOffer, now_ns: int, owner: str | None = None) -> FlexOffer:
    return book.submit([offer], now_ns, owner)[0]


def everything(book: MarketBook, now_ns: int) -> list[FlexOffer]:
    return [book.seen(each, now_ns) for each in book.keys_of()]


def market(**rules: Any) -> MarketBook:
    return MarketBook(Rules(**rules))


def test_an_offer_is_accepted_assigned_and_executed() -> None:
    told: list[FlexOffer] = []
    book = MarketBook(Rules(), tell=told.append)
    assert submit(book, an_offer(), NOW_NS).state == "accepted"
    [assigned] = book.clear(NOW_NS + 1)
    # Wholesale at 0 takes what is consumed at 0.1 and nothing that is produced for 0.1.
    assert assigned.schedule is not None
    assert [each.energy_kwh for each in assigned.schedule.slices] == [0.0, -2.0]
    assert [each.price_eur_per_kwh for each in assigned.schedule.slices] == [0.0, 0.0]
    book.tick(START_NS + 1800 * NS_PER_S + 1)
    assert [each.state for each in told] == ["offered", "accepted", "assigned", "executed"]


def test_demand_is_met_in_order_of_merit_and_only_once() -> None:
    book = market(wholesale_eur_per_kwh=None)
    book.set_demand([Demand(energy_kwh=1.5, price_eur_per_kwh=0.3)])
    for number, price in enumerate((0.2, 0.1, 0.4)):
        slices = (FlexSlice(lower_kwh=0.0, upper_kwh=1.0, price_max_eur_per_kwh=price),)
        submit(book, an_offer(id=str(number), slices=slices), NOW_NS)
    found = {each.id: each for each in book.clear(NOW_NS)}
    energies = {
        name: [part.energy_kwh for part in each.schedule.slices] for name, each in found.items() if each.schedule
    }
    assert energies == {"0": [0.5], "1": [1.0]}
    assert (found["2"].state, found["2"].state_reason) == ("canceled", "nothing of it is needed at its price")
    slices = (FlexSlice(lower_kwh=0.0, upper_kwh=1.0),)
    submit(book, an_offer(id="later", slices=slices), NOW_NS)
    [later] = book.clear(NOW_NS)
    assert later.state == "canceled"


def production(name: str, energy_kwh: float, price: float = 0.1) -> FlexOffer:
    slices = (FlexSlice(lower_kwh=0.0, upper_kwh=energy_kwh, price_max_eur_per_kwh=price),)
    return an_offer(id=name, slices=slices)


def assigned_kwh(book: MarketBook, name: str) -> list[float]:
    """What is assigned to an offer, nothing if it is none."""
    schedule = book.seen(key(name), START_NS).schedule
    return [] if schedule is None else [each.energy_kwh for each in schedule.slices]


def test_offer_that_is_taken_back_after_its_assignment_is_replaced() -> None:
    book = market(wholesale_eur_per_kwh=None)
    book.set_demand([Demand(energy_kwh=4.0)])
    for name, energy_kwh in (("1", 3.0), ("2", 1.0)):
        submit(book, production(name, energy_kwh), NOW_NS)
    book.clear(NOW_NS)
    book.cancel(key("1"), NOW_NS, "taken back")
    submit(book, production("3", 4.0), NOW_NS)
    book.clear(NOW_NS)
    assert [assigned_kwh(book, name) for name in ("2", "3")] == [[1.0], [pytest.approx(3.0)]]
    submit(book, production("4", 4.0), NOW_NS)
    assert [each.state for each in book.clear(NOW_NS)] == ["canceled"]


def test_what_the_trade_outside_meets_is_not_bought_again_when_an_offer_is_taken_back() -> None:
    book = market(wholesale_eur_per_kwh=0.2)
    book.set_demand([Demand(energy_kwh=4.0, price_eur_per_kwh=0.5)])
    submit(book, production("1", 1.0), NOW_NS)
    book.clear(NOW_NS)
    book.cancel(key("1"), NOW_NS, "taken back")
    book.rules = Rules(wholesale_eur_per_kwh=None)
    submit(book, production("2", 4.0), NOW_NS)
    book.clear(NOW_NS)
    assert assigned_kwh(book, "2") == [pytest.approx(1.0)]


def test_energy_that_is_too_much_is_sold_to_consumers() -> None:
    book = market(wholesale_eur_per_kwh=None)
    book.set_demand([Demand(energy_kwh=-1.5, price_eur_per_kwh=0.05)])
    submit(book, an_offer(), NOW_NS)
    [assigned] = book.clear(NOW_NS)
    assert assigned.schedule is not None
    assert [each.energy_kwh for each in assigned.schedule.slices] == [0.0, -1.5]


def test_demand_counts_between_its_times_alone() -> None:
    book = market(wholesale_eur_per_kwh=None)
    book.set_demand([Demand(energy_kwh=1.0, begin_ns=START_NS, end_ns=START_NS + 900 * NS_PER_S)])
    slices = (FlexSlice(lower_kwh=0.0, upper_kwh=1.0),) * 2
    submit(book, an_offer(slices=slices), NOW_NS)
    [assigned] = book.clear(NOW_NS)
    assert assigned.schedule is not None
    assert [each.energy_kwh for each in assigned.schedule.slices] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"offered_by": ""}, "`offered_by`"),
        ({"id": "7" * 201}, "`id`: up to 200 characters; got 201"),
        ({"slices": (FlexSlice(lower_kwh=0, upper_kwh=2e9),)}, "energies of this market are within 1e+09 kWh"),
        ({"accept_before_ns": NOW_NS - 1}, "`accept_before_ns`: not in the past"),
        ({"interval_s": 60}, "`interval_s`: this market trades intervals of 900 s; got 60"),
        ({"slices": (FlexSlice(lower_kwh=0, upper_kwh=1, min_duration=2, max_duration=2),)}, "slices of 1 interval"),
        ({"slices": (FlexSlice(lower_kwh=0, upper_kwh=1, price_max_eur_per_kwh=1000),)}, "stay below 1000 EUR/kWh"),
        ({"quantity": "reactive_energy"}, "this market trades active energy"),
        ({"state": "accepted"}, "`state`: an offer that comes is 'initial' or 'offered'"),
        ({"slices": (FlexSlice(lower_kwh=0, upper_kwh=1),) * 3}, "the profile lasts 1800 s at most; got 2700 s"),
    ],
)
def test_what_is_wrong_is_rejected_with_the_reason(changes: dict[str, Any], text: str) -> None:
    found = submit(market(max_duration_s=1800.0), an_offer(**changes), NOW_NS)
    assert found.state == "rejected"
    assert text in found.state_reason


def test_offer_of_someone_else_is_rejected() -> None:
    found = submit(market(), an_offer(), NOW_NS, owner="202")
    assert found.state_reason == "`offered_by`: the one who sends it ('202'); got '201'"


def test_the_same_offer_again_changes_nothing_and_another_one_is_a_conflict() -> None:
    book = market()
    submit(book, an_offer(), NOW_NS)
    [assigned] = book.clear(NOW_NS)
    assert submit(book, an_offer(state="initial"), NOW_NS + 1) == assigned
    with pytest.raises(OfferConflictError, match="another offer stands under the id '7'"):
        submit(book, an_offer(location="25"), NOW_NS + 1)


def test_ids_are_those_of_their_owner() -> None:
    book = market()
    for owner in ("201", "202"):
        assert submit(book, an_offer(offered_by=owner, location=f"of {owner}"), NOW_NS, owner).state == "accepted"
    # What someone sends in the name of another takes no id of theirs.
    assert submit(book, an_offer(id="8"), NOW_NS, owner="202").state == "rejected"
    assert submit(book, an_offer(id="8"), NOW_NS, owner="201").state == "accepted"
    book.cancel(key("7"), NOW_NS, "taken back")
    assert [book.seen(key("7", owner), NOW_NS).state for owner in ("201", "202")] == ["canceled", "accepted"]
    assert book.keys_of(offer_id="7") == [key("7"), key("7", "202")]
    assert [book.seen(each, NOW_NS).location for each in book.keys_of("202", "7")] == ["of 202"]


def test_of_several_offers_all_are_taken_or_none(tmp_path: Path) -> None:
    file = tmp_path / "market.db"
    book = MarketBook(Rules(), file=file)
    submit(book, an_offer(), NOW_NS)
    with pytest.raises(OfferConflictError) as caught:
        book.submit([an_offer(id="8"), an_offer(location="25"), an_offer(id="9")], NOW_NS)
    assert caught.value.ids == ["7"]
    with pytest.raises(OfferConflictError, match="under the id '8'"):
        book.submit([an_offer(id="8"), an_offer(id="8", location="25")], NOW_NS)
    assert book.keys_of() == [key("7")]
    taken = book.submit([an_offer(id="8"), an_offer(), an_offer(id="9", slices=()), an_offer(id="8")], NOW_NS)
    assert [(each.id, each.state) for each in taken] == [
        ("8", "accepted"),
        ("7", "accepted"),
        ("9", "rejected"),
        ("8", "accepted"),
    ]
    book.close()
    again = MarketBook(Rules(), file=file)
    assert again.keys_of() == [key("7"), key("8"), key("9")]
    again.close()


def test_what_cannot_be_written_has_not_happened(tmp_path: Path) -> None:
    file = tmp_path / "market.db"
    told: list[FlexOffer] = []
    book = MarketBook(Rules(wholesale_eur_per_kwh=None), file=file, tell=told.append)
    book.set_demand([Demand(energy_kwh=1.0)])
    submit(book, production("1", 2.0), NOW_NS)
    before, count = everything(book, NOW_NS), len(told)
    with closing(sqlite3.connect(file, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        began_s = time.monotonic()
        for change in (
            lambda: submit(book, production("2", 2.0), NOW_NS),
            lambda: book.cancel(key("1"), NOW_NS, "taken back"),
            lambda: book.set_demand([]),
            lambda: book.clear(NOW_NS),
            lambda: book.expire(START_NS + 3600 * NS_PER_S),
        ):
            with pytest.raises(StoreError, match="database is locked") as caught:
                change()
            assert caught.value.is_busy
        assert time.monotonic() - began_s < 1.0
        lock.execute("ROLLBACK")
    assert (everything(book, NOW_NS), len(told), book.demand) == (before, count, (Demand(energy_kwh=1.0),))
    book.clear(NOW_NS)
    assert assigned_kwh(book, "1") == [1.0]
    book.close()


def test_a_file_that_is_none_of_a_market_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "market.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE changes (id TEXT NOT NULL, time_ns INTEGER NOT NULL, offer TEXT NOT NULL)")
    with pytest.raises(FatalError, match="expected the file of a market with layout 2, got none: begin a new one"):
        MarketBook(Rules(), file=file)
    file.write_text("no database at all, but long enough to be looked at as one: " * 20)
    with pytest.raises(FatalError, match="cannot be opened as the file of a market: file is not a database"):
        MarketBook(Rules(), file=file)


def test_one_owner_does_not_take_the_place_of_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeflex_services.market_book.MOST_OF_OWNER", 2)
    monkeypatch.setattr("edgeflex_services.market_book.MOST_SLICES", 7)
    book = market(keep_s=60.0)
    book.submit([an_offer(id="1", slices=()), an_offer(id="2", slices=())], NOW_NS)
    with pytest.raises(FullError, match="holds 2 offers of '201' and takes no more of it"):
        submit(book, an_offer(id="3"), NOW_NS)
    assert submit(book, an_offer(id="3"), NOW_NS, owner="202").state == "rejected"
    with pytest.raises(FullError, match="holds 3 offers with 2 slices"):
        book.submit([an_offer(id=str(each)) for each in range(3)], NOW_NS, owner="203")
    book.tick(NOW_NS + 61 * NS_PER_S)
    assert submit(book, an_offer(id="3"), NOW_NS + 61 * NS_PER_S).state == "rejected"


def test_profiles_begin_when_they_are_needed_most() -> None:
    book = market(wholesale_eur_per_kwh=None)
    wanted_ns = START_NS + 4 * 900 * NS_PER_S
    book.set_demand(
        [
            Demand(energy_kwh=1.0, price_eur_per_kwh=0.2, end_ns=wanted_ns),
            Demand(energy_kwh=1.0, price_eur_per_kwh=0.4, begin_ns=wanted_ns),
        ]
    )
    for offer_id, later_s in (("fixed", 0), ("open", 6 * 900)):
        submit(book, replace(production(offer_id, 1.0), start_before_ns=START_NS + later_s * NS_PER_S), NOW_NS)
    found = {each.id: each for each in book.clear(NOW_NS)}
    starts = {name: each.schedule.start_ns for name, each in found.items() if each.schedule is not None}
    assert starts == {"fixed": START_NS, "open": wanted_ns}
    assert [str(wrong) for each in found.values() for wrong in schedule_violations(each, each.schedule)] == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("ago_s", "start_s"), [(300, 0), (600, 900), (2000, 1800), (2600, 2600)])
def test_no_profile_begins_in_an_interval_that_is_over(ago_s: int, start_s: int) -> None:
    book = market()
    until_ns = START_NS + 2700 * NS_PER_S - 1
    times = {"accept_before_ns": until_ns, "assign_before_ns": until_ns, "start_before_ns": until_ns}
    now_ns = START_NS + ago_s * NS_PER_S
    submit(book, an_offer(**times), now_ns)
    [assigned] = book.clear(now_ns)
    assert assigned.schedule is not None
    assert (assigned.schedule.start_ns - START_NS) / NS_PER_S == start_s


def test_a_profile_ends_in_time_wherever_it_begins() -> None:
    book = market(wholesale_eur_per_kwh=None)
    book.set_demand([Demand(energy_kwh=1.0, begin_ns=START_NS + 5 * 900 * NS_PER_S)])
    offer = replace(production("1", 1.0), start_before_ns=START_NS + 9 * 900 * NS_PER_S)
    submit(book, replace(offer, end_before_ns=START_NS + 5 * 900 * NS_PER_S), NOW_NS)
    submit(book, replace(offer, id="2", end_before_ns=START_NS + 6 * 900 * NS_PER_S), NOW_NS)
    assert [each.state for each in book.clear(NOW_NS)] == ["canceled", "assigned"]


def test_offer_that_waits_in_vain_is_canceled() -> None:
    book = market()
    book.behaviour = Behaviour(assigns=False)
    submit(book, an_offer(), NOW_NS)
    book.tick(START_NS)
    assert book.seen(key("7"), START_NS).state_reason == "nothing was assigned until 2023-11-14T22:14:40.000Z"


def test_offers_may_be_taken_back_until_they_are_at_an_end() -> None:
    book = market()
    submit(book, an_offer(), NOW_NS)
    assert book.cancel(key("7"), NOW_NS, "changed my mind").state == "canceled"
    assert book.clear(NOW_NS) == []
    with pytest.raises(ValueError, match="'canceled' cannot follow 'canceled'"):
        book.cancel(key("7"), NOW_NS, "again")
    with pytest.raises(KeyError):
        book.cancel(key("8"), NOW_NS, "unknown")


def test_delay_holds_back_what_happened_lately() -> None:
    book = market()
    book.behaviour = Behaviour(delay_s=5.0)
    assert submit(book, an_offer(), NOW_NS).state == "offered"
    book.clear(NOW_NS + 2 * NS_PER_S)
    seen = [book.seen(key("7"), NOW_NS + after * NS_PER_S).state for after in (4, 5, 6, 7)]
    assert seen == ["offered", "accepted", "accepted", "assigned"]


def test_share_of_offers_is_refused_on_demand() -> None:
    book = MarketBook(Rules(), seed=1)
    book.behaviour = Behaviour(refuse_share=0.5, refuse_reason="not today")
    found = [submit(book, an_offer(id=str(number)), NOW_NS) for number in range(100)]
    reasons = [each.state_reason for each in found if each.state == "rejected"]
    assert 30 < len(reasons) < 70
    assert set(reasons) == {"not today"}


def test_market_goes_on_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "market.db"
    book = MarketBook(Rules(), file=file)
    submit(book, an_offer(id="1"), NOW_NS)
    book.clear(NOW_NS)
    submit(book, an_offer(id="2"), NOW_NS)
    before = everything(book, NOW_NS)
    book.close()
    again = MarketBook(Rules(), file=file)
    assert everything(again, NOW_NS) == before
    assert [each.id for each in again.clear(NOW_NS)] == ["2"]
    assert [each.state for _, each in again.history(key("1"), NOW_NS)] == ["offered", "accepted", "assigned"]
    again.close()


def test_what_changes_while_an_auction_is_cleared_is_respected() -> None:
    book = market(wholesale_eur_per_kwh=None)
    book.set_demand([Demand(energy_kwh=4.0)])
    for name in ("1", "2"):
        submit(book, production(name, 2.0), NOW_NS)
    auction = book.auction(NOW_NS)
    assert auction is not None
    cleared = auction.clear()
    book.cancel(key("1"), NOW_NS, "taken back")
    assert [each.id for each in book.settle(auction, cleared, NOW_NS)] == ["2"]
    submit(book, production("3", 4.0), NOW_NS)
    auction = book.auction(NOW_NS)
    assert auction is not None
    cleared = auction.clear()
    assert cleared.clearing.energies_kwh[0] == pytest.approx((2.0,))
    book.set_demand([])
    assert book.settle(auction, cleared, NOW_NS) == []
    assert book.seen(key("3"), NOW_NS).state == "accepted"


def of_a_day(name: str) -> FlexOffer:
    """Bounds its energy as a whole, which couples its intervals."""
    slices = tuple(
        FlexSlice(lower_kwh=0.0, upper_kwh=4.0, price_max_eur_per_kwh=(place * 37 % 96) / 100) for place in range(96)
    )
    return an_offer(id=name, slices=slices, total_lower_kwh=10.0, total_upper_kwh=50.0)


def test_offers_that_take_long_to_clear_are_cleared_in_lots_in_order_of_arrival(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeflex_services.market_auction.MOST_BOUNDED_BIDS", 5 * 96)
    book = market()
    book.submit([of_a_day(str(number)) for number in range(6)], NOW_NS)
    submit(book, production("simple", 1.0), NOW_NS)
    lots = [[each.id for each in book.clear(NOW_NS)] for _ in range(3)]
    assert lots == [[*map(str, range(5)), "simple"], ["5"], []]


def openly(name: str, price: float) -> FlexOffer:
    """1 kWh in one of nine intervals."""
    offer = production(name, 1.0, price)
    return replace(offer, start_before_ns=START_NS + 8 * 900 * NS_PER_S)


def test_choices_that_take_long_are_those_of_the_cheapest_and_look_at_fewer_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeflex_services.market_auction.MOST_LOOKS", 12)
    monkeypatch.setattr("edgeflex_services.market_auction.MOST_OF_ONE", 5)
    book = market(wholesale_eur_per_kwh=None)
    for name, price in (("dear", 0.4), ("cheap", 0.1), ("middle", 0.2)):
        submit(book, openly(name, price), NOW_NS)
    auction = book.auction(NOW_NS)
    assert auction is not None
    assert [list(each.starts) for each in auction.lots] == [[0, 2, 4, 6, 8]] * 3
    assert list(auction.clear().looked_at) == [False, True, True]
    # What was not looked at may be worth something later on, and waits.
    assert [[each.id for each in book.clear(NOW_NS)] for _ in range(2)] == [["cheap", "middle"], ["dear"]]


def test_with_open_starts_the_cheapest_come_first_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeflex_services.market_auction.MOST_LOOKS", 4 * 9)
    book = market(wholesale_eur_per_kwh=None)
    book.set_demand([Demand(energy_kwh=1.0, price_eur_per_kwh=0.5)])
    names = [*((f"dear{number}", 0.4) for number in range(9)), *((f"cheap{number}", 0.1) for number in range(9))]
    for name, price in names:
        submit(book, openly(name, price), NOW_NS)
    assigned = [each.id for _ in range(6) for each in book.clear(NOW_NS) if each.state == "assigned"]
    assert sorted(assigned) == [f"cheap{number}" for number in range(9)]


def test_requests_need_not_wait_for_a_clearing() -> None:
    async def turns() -> int:
        book = market()
        now_ns = time.time_ns() // NS_PER_S * NS_PER_S
        for number in range(50):
            times = ("accept_before_ns", "assign_before_ns", "start_after_ns", "start_before_ns")
            later = dict.fromkeys(times, now_ns + 600 * NS_PER_S)
            submit(book, replace(of_a_day(str(number)), created_ns=now_ns, **later), now_ns)
        clearing = asyncio.create_task(Trade(book).clear())
        count = 0
        while not clearing.done():
            await asyncio.sleep(0.001)
            count += 1
        assert await clearing == 50
        return count

    assert asyncio.run(turns()) > 5


def test_demand_is_not_met_twice_after_a_restart(tmp_path: Path) -> None:
    demand = [Demand(energy_kwh=4.0)]
    for number, (taken_back, expected) in enumerate([(None, [4.0]), (None, []), ("1-0", [4.0]), (None, [])]):
        book = MarketBook(Rules(wholesale_eur_per_kwh=None), file=tmp_path / "market.db")
        assert list(book.demand) == (demand if number else [])
        book.set_demand(demand)
        if taken_back is not None:
            book.cancel(key("1-0"), NOW_NS, "taken back")
        submit(book, production(f"1-{number}", 4.0), NOW_NS)
        book.clear(NOW_NS)
        assert assigned_kwh(book, f"1-{number}") == expected
        book.close()


def test_demand_that_was_given_back_is_needed_after_a_restart_too(tmp_path: Path) -> None:
    file = tmp_path / "market.db"
    book = MarketBook(Rules(wholesale_eur_per_kwh=None), file=file)
    book.set_demand([Demand(energy_kwh=4.0)])
    submit(book, production("1", 4.0), NOW_NS)
    book.clear(NOW_NS)
    book.cancel(key("1"), NOW_NS, "taken back")
    book.close()
    again = MarketBook(Rules(wholesale_eur_per_kwh=None), file=file)
    submit(again, production("2", 4.0), NOW_NS)
    again.clear(NOW_NS)
    assert assigned_kwh(again, "2") == [4.0]
    again.close()


def test_file_of_a_market_is_that_of_one_market(tmp_path: Path) -> None:
    file = tmp_path / "market.db"
    book = MarketBook(Rules(), file=file)
    other = tmp_path / "other.db"
    other.symlink_to(file)
    for name in (file, other):
        with pytest.raises(FatalError, match=f"{name.name}: another market uses this file"):
            MarketBook(Rules(), file=name)
    submit(book, production("1", 4.0), NOW_NS)
    book.close()
    again = MarketBook(Rules(), file=file)
    assert again.keys_of(offer_id="1")
    again.close()


def test_demand_of_a_market_with_other_intervals_counts_no_more(tmp_path: Path) -> None:
    book = MarketBook(Rules(interval_s=60), file=tmp_path / "market.db")
    book.set_demand([Demand(energy_kwh=4.0)])
    book.close()
    again = MarketBook(Rules(interval_s=900), file=tmp_path / "market.db")
    assert again.demand == ()
    again.close()


def test_offers_at_an_end_are_forgotten_after_a_time(tmp_path: Path) -> None:
    book = MarketBook(Rules(keep_s=60.0), file=tmp_path / "market.db")
    submit(book, an_offer(id="1", offered_by=""), NOW_NS)
    submit(book, an_offer(id="2"), NOW_NS + 30 * NS_PER_S)
    book.tick(NOW_NS + 61 * NS_PER_S)
    assert [each.id for each in everything(book, START_NS)] == ["2"]
    book.close()
    again = MarketBook(Rules(), file=tmp_path / "market.db")
    assert [each.id for each in everything(again, START_NS)] == ["2"]
    again.close()


@settings(max_examples=60)
@given(st.lists(offers(tick_ns=NS_PER_S), max_size=6), st.lists(st.floats(-1e3, 1e3), max_size=3), st.booleans())
def test_whatever_is_offered_states_follow_and_schedules_keep_all_bounds(
    came: list[FlexOffer], needed: list[float], trades: bool
) -> None:
    told: list[FlexOffer] = []
    book = MarketBook(Rules(wholesale_eur_per_kwh=0.1 if trades else None), tell=told.append)
    book.set_demand([Demand(energy_kwh=each) for each in needed])
    for number, each in enumerate(came):
        fit = tuple(replace(part, min_duration=1, max_duration=1) for part in each.slices)
        assert each.created_ns is not None
        changed = replace(
            each, id=str(number), state="offered", interval_s=900, slices=fit, schedule=None, default_schedule=None
        )
        submit(book, changed, each.created_ns)
        book.clear(each.created_ns)
    for number in range(len(came)):
        mine = [each for each in told if each.id == str(number)]
        for before, after in itertools.pairwise(mine):
            assert may_follow(before.state, after.state)
        assert mine[-1].state in ("assigned", "canceled", "rejected")
        if mine[-1].schedule is not None:
            assert [str(wrong) for wrong in schedule_violations(mine[-1], mine[-1].schedule)] == []
