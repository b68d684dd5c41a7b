"""The choice of starts, held against trying all of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_bids import bids, offers

from edgeflex_flow.messages import FlexOffer
from edgeflex_services.market_auction import Auction, Lot
from edgeflex_services.market_clearing import PRICE_LIMIT, Bid, Bidder, Clearing, clear
from edgeflex_services.market_demand import OfferKey
from edgeflex_services.market_starts import choose

INTERVALS = 6


def cost_eur(bidders: list[Bidder], demand: list[Bid], cleared: Clearing) -> float:
    """Of all that is taken, the demand and what the operator takes and gives included."""
    everything = [
        *(
            pair
            for each, taken in zip(bidders, cleared.energies_kwh, strict=True)
            for pair in zip(each.bids, taken, strict=True)
        ),
        *zip(demand, cleared.demand_kwh, strict=True),
    ]
    own = sum((bid.sells_from if energy > 0.0 else bid.buys_up_to) * energy for bid, energy in everything)
    return own + PRICE_LIMIT * sum(abs(each) for each in cleared.imbalances_kwh.values())


@st.composite
def profiles(draw: st.DrawFn, *, bounded: bool) -> Bidder:
    """An offer of up to three slices, from the interval 0 on."""
    mine = draw(offers(3, bounded=bounded))
    return mine.later(-mine.bids[0].interval)


@settings(max_examples=150)
@given(
    profiles(bounded=True),
    st.lists(profiles(bounded=False), max_size=3),
    st.lists(st.integers(0, INTERVALS - 1).flatmap(bids), max_size=6),
)
def test_an_offer_begins_where_it_costs_the_system_the_least(
    open_one: Bidder, fixed: list[Bidder], demand: list[Bid]
) -> None:
    demand = [each._replace(lower_kwh=min(each.lower_kwh, 0.0), upper_kwh=max(each.upper_kwh, 0.0)) for each in demand]
    starts = range(INTERVALS - len(open_one.bids) + 1)
    found = choose([*fixed, open_one], [*([0] for _ in fixed), starts], demand)
    assert found[:-1] == [0] * len(fixed)
    ways = [[*fixed, open_one.later(start)] for start in starts]
    costs = [cost_eur(each, demand, clear(each, demand)) for each in ways]
    assert costs[found[-1]] == pytest.approx(min(costs), abs=1e-5)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(profiles(bounded=True), st.integers(1, 4)), min_size=1, max_size=4),
    st.lists(st.integers(0, INTERVALS - 1).flatmap(bids), max_size=6),
    st.integers(1, 200),
)
def test_open_starts_never_cost_the_system_more_than_the_earliest(
    open_ones: list[tuple[Bidder, int]], demand: list[Bid], most_looks: int
) -> None:
    lots = [
        Lot(OfferKey("a", str(place)), FlexOffer(id=str(place), state="accepted"), 0, range(count), bidder)
        for place, (bidder, count) in enumerate(open_ones)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeflex_services.market_auction.MOST_LOOKS", most_looks)
        cleared = Auction(lots, [], demand, None, ()).clear()
    earliest = [each for each, _ in open_ones]
    fixed = cost_eur(earliest, demand, clear(earliest, demand))
    found = cost_eur(list(cleared.bidders), demand, cleared.clearing)
    assert found <= fixed + 1e-5
    assert cleared.clearing.cost_eur(cleared.bidders, demand) == pytest.approx(found)


def test_offers_part_when_one_interval_has_not_enough_for_both() -> None:
    wanted = [Bid(t, -1.0, 0.0, buys_up_to=price) for t, price in enumerate((0.2, 0.5, 0.4))]
    open_one = Bidder((Bid(0, 0.0, 1.0, sells_from=0.1),))
    assert choose([open_one] * 3, [range(3)] * 3, wanted) == [1, 2, 0]


def test_what_leaves_no_choice_is_in_place_before_the_others_choose() -> None:
    wanted = [Bid(0, -1.0, 0.0, buys_up_to=0.5), Bid(1, -1.0, 0.0, buys_up_to=0.4)]
    open_one, fixed = Bidder((Bid(0, 0.0, 1.0, sells_from=0.1),)), Bidder((Bid(0, 0.0, 1.0, sells_from=0.05),))
    assert choose([open_one, fixed], [[0, 1], [0]], wanted) == [1, 0]


def test_a_charge_takes_the_cheap_hours_and_leaves_them_once_they_are_full() -> None:
    supply = [Bid(t, 0.0, 3.0, 0.05 if t in (2, 3) else 0.3, 0.05 if t in (2, 3) else 0.3) for t in range(6)]
    charge = Bidder((Bid(0, -2.0, 0.0, 0.4, 0.4), Bid(1, -2.0, 0.0, 0.4, 0.4)), -math.inf, -3.0)
    assert choose([charge] * 2, [range(5)] * 2, supply) == [2, 2]
    cleared = clear([charge.later(2)] * 2, supply)
    assert [sum(each) for each in cleared.energies_kwh] == pytest.approx([-3.0, -3.0])


def test_at_equal_cost_an_offer_begins_as_early_as_it_can() -> None:
    open_one = Bidder((Bid(0, 0.0, 1.0, sells_from=0.1),))
    assert choose([open_one], [range(4)]) == [0]
