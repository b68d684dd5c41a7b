"""Offers and bids of a market, for tests of its clearing: round prices and energies, so that many are alike."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from edgeflex_services.market_clearing import Bid, Bidder

PRICES = st.integers(-5, 10).map(lambda step: step / 10)
ENERGIES = st.integers(-8, 8).map(lambda step: step / 2)


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
