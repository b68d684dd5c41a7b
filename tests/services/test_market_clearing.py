"""Merit order, held against a linear program of the same market."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from edgeflex_services.market_clearing import PRICE_LIMIT, Bid, Bidder, Clearing, clear

PRICES = st.integers(-5, 10).map(lambda step: step / 10)
ENERGIES = st.integers(-8, 8).map(lambda step: step / 2)


def costs(bidders: list[Bidder], demand: list[Bid], cleared: Clearing, wholesale: float | None) -> float:
    """What everything that was taken costs, the trade outside and the operator's included."""
    total = 0.0
    left: dict[object, float] = {}
    for bidder, energies in zip(bidders, cleared.energies_kwh, strict=True):
        for bid, energy in zip(bidder.bids, energies, strict=True):
            total += bid.sells_from * max(energy, 0.0) + bid.buys_up_to * min(energy, 0.0)
            left[bid.interval] = left.get(bid.interval, 0.0) + energy
    for bid in demand:
        left.setdefault(bid.interval, 0.0)
    return total + sum(
        _rest_of(net, [each for each in demand if each.interval == t], wholesale) for t, net in left.items()
    )


def _rest_of(net: float, demand: list[Bid], wholesale: float | None) -> float:
    """The least that demand, trade and operator cost who balance this net production."""
    return _solve([], demand, wholesale, fixed=net)


def _solve(bidders: list[Bidder], demand: list[Bid], wholesale: float | None, fixed: float | None = None) -> float:
    """The least cost by linear programming: each energy is produced less consumed, all at their prices."""
    everyone = [*bidders, *(Bidder((each,)) for each in demand)]
    intervals = sorted({bid.interval for each in everyone for bid in each.bids} | ({0} if fixed is not None else set()))  # type: ignore[type-var]
    if fixed is not None and demand:
        intervals = [demand[0].interval]
    price: list[float] = []
    bounds: list[tuple[float, float | None]] = []
    balance: list[tuple[int, float]] = []
    rows: list[list[tuple[int, float]]] = []
    limits: list[float] = []
    for each in everyone:
        columns: list[tuple[int, float]] = []
        for bid in each.bids:
            for sign, cost, room in (
                (1.0, bid.sells_from, (max(bid.lower_kwh, 0.0), max(bid.upper_kwh, 0.0))),
                (-1.0, -bid.buys_up_to, (max(-bid.upper_kwh, 0.0), max(-bid.lower_kwh, 0.0))),
            ):
                columns.append((len(price), sign))
                price.append(cost)
                bounds.append(room)
                balance.append((intervals.index(bid.interval), sign))
        if math.isfinite(each.total_upper_kwh):
            rows.append(columns)
            limits.append(each.total_upper_kwh)
        if math.isfinite(each.total_lower_kwh):
            rows.append([(column, -sign) for column, sign in columns])
            limits.append(-each.total_lower_kwh)
    for place in range(len(intervals)):
        outside = [(1.0, PRICE_LIMIT), (-1.0, PRICE_LIMIT)]
        outside += [] if wholesale is None else [(1.0, wholesale), (-1.0, -wholesale)]
        for sign, cost in outside:
            price.append(cost)
            bounds.append((0.0, None))
            balance.append((place, sign))
    if not price:
        return 0.0
    equal = np.zeros((len(intervals), len(price)))
    for column, (place, sign) in enumerate(balance):
        equal[place, column] = sign
    above = np.zeros((len(rows), len(price)))
    for number, row in enumerate(rows):
        for column, sign in row:
            above[number, column] += sign
    found = linprog(
        price,
        A_ub=above if rows else None,
        b_ub=limits or None,
        A_eq=equal,
        b_eq=[-(fixed or 0.0)] * len(intervals),
        bounds=bounds,
    )
    assert found.status == 0, found.message
    return float(found.fun)


@st.composite
def bids(draw: st.DrawFn, interval: int) -> Bid:
    low, high = sorted((draw(ENERGIES), draw(ENERGIES)))
    buys, sells = sorted((draw(PRICES), draw(PRICES)))
    return Bid(interval, low, high, buys, sells)


@st.composite
def offers(draw: st.DrawFn, intervals: int, *, bounded: bool) -> Bidder:
    first = draw(st.integers(0, intervals - 1))
    mine = tuple(draw(bids(interval)) for interval in range(first, intervals))
    if not bounded or draw(st.booleans()):
        return Bidder(mine)
    least, most = sum(each.lower_kwh for each in mine), sum(each.upper_kwh for each in mine)
    shares = sorted((draw(st.integers(0, 4)), draw(st.integers(0, 4))))
    low, high = (least + (most - least) * share / 4 for share in shares)
    return Bidder(mine, low if draw(st.booleans()) else -math.inf, high if draw(st.booleans()) else math.inf)


@st.composite
def markets(draw: st.DrawFn, *, bounded: bool) -> tuple[list[Bidder], list[Bid], float | None]:
    intervals = draw(st.integers(1, 4))
    given_offers = draw(st.lists(offers(intervals, bounded=bounded), max_size=6))
    demand = [draw(bids(interval)) for interval in range(intervals) for _ in range(draw(st.integers(0, 2)))]
    # Demand has no bounds that force it.
    demand = [each._replace(lower_kwh=min(each.lower_kwh, 0.0), upper_kwh=max(each.upper_kwh, 0.0)) for each in demand]
    return given_offers, demand, draw(st.none() | PRICES)


def assert_kept(bidders: list[Bidder], cleared: Clearing) -> None:
    for bidder, energies in zip(bidders, cleared.energies_kwh, strict=True):
        assert len(energies) == len(bidder.bids)
        for bid, energy in zip(bidder.bids, energies, strict=True):
            assert bid.lower_kwh - 1e-7 <= energy <= bid.upper_kwh + 1e-7
        assert bidder.total_lower_kwh - 1e-6 <= sum(energies) <= bidder.total_upper_kwh + 1e-6


@settings(max_examples=200)
@given(markets(bounded=False))
def test_merit_order_is_as_good_as_the_linear_program(market: tuple[list[Bidder], list[Bid], float | None]) -> None:
    bidders, demand, wholesale = market
    cleared = clear(bidders, demand, wholesale)
    assert_kept(bidders, cleared)
    assert costs(bidders, demand, cleared, wholesale) == pytest.approx(_solve(bidders, demand, wholesale), abs=1e-5)


@settings(max_examples=300)
@given(markets(bounded=True))
def test_merit_order_with_bounds_of_the_whole_is_as_good_as_the_linear_program(
    market: tuple[list[Bidder], list[Bid], float | None],
) -> None:
    bidders, demand, wholesale = market
    cleared = clear(bidders, demand, wholesale)
    assert_kept(bidders, cleared)
    assert costs(bidders, demand, cleared, wholesale) == pytest.approx(_solve(bidders, demand, wholesale), abs=1e-5)


@settings(max_examples=200)
@given(markets(bounded=False))
def test_nobody_pays_more_or_gets_less_than_it_offered(market: tuple[list[Bidder], list[Bid], float | None]) -> None:
    bidders, demand, wholesale = market
    cleared = clear(bidders, demand, wholesale)
    for bidder, energies in zip(bidders, cleared.energies_kwh, strict=True):
        for bid, energy in zip(bidder.bids, energies, strict=True):
            must = max(bid.lower_kwh, 0.0) + min(bid.upper_kwh, 0.0)
            if energy > must + 1e-9 and energy > 0:
                assert cleared.prices[bid.interval] >= bid.sells_from - 1e-9
            if energy < must - 1e-9 and energy < 0:
                assert cleared.prices[bid.interval] <= bid.buys_up_to + 1e-9


def test_ties_are_served_in_order_of_arrival_and_the_last_one_in_part() -> None:
    one = Bidder((Bid(0, 0.0, 2.0, sells_from=0.1),))
    cleared = clear([one, one, one], [Bid(0, -3.0, 0.0, buys_up_to=0.4)])
    assert cleared.energies_kwh == ((2.0,), (1.0,), (0.0,))
    consumers = Bidder((Bid(0, -2.0, 0.0, buys_up_to=0.4),))
    cleared = clear([consumers, consumers, consumers], [Bid(0, 0.0, 3.0, sells_from=0.1)])
    assert cleared.energies_kwh == ((-2.0,), (-1.0,), (0.0,))


def test_trade_takes_place_at_equal_prices() -> None:
    offered = [Bidder((Bid(0, -1.0, 0.0, 0.2, 0.2),)), Bidder((Bid(0, 0.0, 1.0, 0.2, 0.2),))]
    assert clear(offered).energies_kwh == ((-1.0,), (1.0,))
    assert clear(offered, wholesale=0.2).energies_kwh == ((-1.0,), (1.0,))
    assert clear(offered[:1], wholesale=0.2).energies_kwh == ((-1.0,),)


def test_price_bounds_keep_out_what_is_too_dear() -> None:
    offered = [Bidder((Bid(0, 0.0, 1.0, sells_from=0.3),)), Bidder((Bid(0, -1.0, 0.0, 0.1, 0.1),))]
    assert clear(offered, [Bid(0, -5.0, 0.0, buys_up_to=0.25)]).energies_kwh == ((0.0,), (0.0,))
    assert clear(offered, wholesale=0.2).energies_kwh == ((0.0,), (0.0,))


def test_bound_of_the_whole_goes_to_the_intervals_that_pay_most() -> None:
    storage = Bidder(tuple(Bid(t, 0.0, 2.0, sells_from=0.1) for t in range(3)), total_upper_kwh=3.0)
    demand = [Bid(t, -2.0, 0.0, buys_up_to=price) for t, price in enumerate((0.2, 0.5, 0.3))]
    cleared = clear([storage], demand)
    assert cleared.energies_kwh == ((0.0, 2.0, 1.0),)
    assert cleared.prices == pytest.approx({0: 0.2, 1: 0.3, 2: 0.3})


def test_what_must_be_produced_and_nobody_wants_is_told() -> None:
    cleared = clear([Bidder((Bid(0, 2.0, 3.0, sells_from=0.1),))])
    assert cleared.energies_kwh == ((2.0,),)
    assert cleared.imbalances_kwh == pytest.approx({0: 2.0})


@pytest.mark.parametrize(("offers_of", "bounded", "most_s"), [(1000, False, 20.0), (40, True, 20.0)])
def test_a_day_of_many_offers_is_cleared_in_time(offers_of: int, bounded: bool, most_s: float) -> None:
    random = np.random.default_rng(0)
    total = 20.0 if bounded else math.inf
    offered = [
        Bidder(tuple(Bid(t, -1.0, 1.0, *sorted(random.uniform(0, 1, 2).tolist())) for t in range(96)), -total, total)
        for _ in range(offers_of)
    ]
    demand = [Bid(t, -offers_of * random.uniform(), 0.0, 0.8) for t in range(96)]
    began_s = time.monotonic()
    cleared = clear(offered, demand)
    assert time.monotonic() - began_s < most_s
    assert_kept(offered, cleared)
