"""Clears a market of FlexOffers: the cheapest are taken until the demand is met, interval by interval.

Every energy that may be produced, not consumed, bought or sold is a block of an interval: a price and a size. Blocks
are filled in order of merit until production and consumption of the interval are equal: by price, at one price first
what lets more trade take place, then by arrival. That is the best there is (largest welfare) while intervals do not
depend on each other. They do where an offer bounds its energy as a whole: what such offers produce and consume a linear
program finds (HiGHS), and all others are filled in order of merit around them, the best again.

All energies are in kWh, positive is production; prices in EUR/kWh.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Final, NamedTuple

EPSILON_KWH: Final = 1e-9
PRICE_LIMIT: Final = 1000.0
"""At this price the operator of the market takes what must be produced and nobody wants, and gives what lacks."""


class Bid(NamedTuple):
    """Energy of one offer, or of the demand, in one interval."""

    interval: int
    lower_kwh: float
    upper_kwh: float
    buys_up_to: float = 0.0
    """The most that is paid for what is consumed."""
    sells_from: float = 0.0
    """The least that is taken for what is produced; not below `buys_up_to`."""


class Bidder(NamedTuple):
    """An offer, with bounds of the sum over all of its bids."""

    bids: tuple[Bid, ...]
    total_lower_kwh: float = -math.inf
    total_upper_kwh: float = math.inf

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.total_lower_kwh) or math.isfinite(self.total_upper_kwh)

    def later(self, intervals: int) -> Bidder:
        """The same so many intervals later."""
        return self._replace(bids=tuple(bid._replace(interval=bid.interval + intervals) for bid in self.bids))


class Clearing(NamedTuple):
    """What is taken."""

    energies_kwh: tuple[tuple[float, ...], ...]
    """For each bidder, for each of its bids."""
    demand_kwh: tuple[float, ...]
    """Of each demand what is consumed (negative) or produced."""
    prices: dict[int, float]
    """By interval, what everyone in it pays and gets."""
    imbalances_kwh: dict[int, float]
    """By interval, what must be produced (positive) or consumed though nobody wants it."""

    def cost_eur(self, bidders: Sequence[Bidder], demand: Sequence[Bid]) -> float:
        """Of the system, without trade outside: what is produced less what is paid for by those who consume."""
        taken = [
            pair
            for each, own in zip(bidders, self.energies_kwh, strict=True)
            for pair in zip(each.bids, own, strict=True)
        ]
        taken += zip(demand, self.demand_kwh, strict=True)
        own_eur = sum((bid.sells_from if energy > 0.0 else bid.buys_up_to) * energy for bid, energy in taken)
        return own_eur + PRICE_LIMIT * sum(abs(each) for each in self.imbalances_kwh.values())


class Block:
    """Energy that may be filled between 0 and `size`. One that is bought is consumed as far as it is not filled."""

    __slots__ = ("bid", "fill", "interval", "is_bought", "order", "owner", "price", "size")

    def __init__(
        self, owner: int, bid: int, interval: int, price: float, size: float, *, is_bought: bool, arrival: float
    ) -> None:
        self.owner, self.bid, self.interval, self.price, self.size = owner, bid, interval, price, size
        self.is_bought = is_bought
        self.order = (price, is_bought, -arrival if is_bought else arrival)
        """Of merit: at one price first what lets more trade take place, then by arrival."""
        self.fill = 0.0


OPERATOR: Final = -1


def clear(bidders: Sequence[Bidder], demand: Sequence[Bid] = (), wholesale: float | None = None) -> Clearing:
    """Take what gives the largest welfare.

    Parameters
    ----------
    bidders
        The offers, in order of arrival.
    demand
        What else is bought (consumption, negative) or sold.
    wholesale
        A price at which any energy is bought and sold besides; None: there is no such trade.

    >>> cheap, dear = Bidder((Bid(0, 0.0, 3.0, sells_from=0.1),)), Bidder((Bid(0, 0.0, 3.0, sells_from=0.2),))
    >>> cleared = clear([dear, cheap], [Bid(0, -4.0, 0.0, buys_up_to=0.5)])
    >>> cleared.energies_kwh, cleared.prices
    (((1.0,), (3.0,)), {0: 0.2})
    """
    everyone = [*bidders, *(Bidder((each,)) for each in demand)]
    intervals = list(dict.fromkeys(bid.interval for bidder in everyone for bid in bidder.bids))
    places = {interval: place for place, interval in enumerate(intervals)}
    book = Book(len(intervals))
    for owner, bidder in enumerate(everyone):
        for number, bid in enumerate(bidder.bids):
            book.add(owner, number, places[bid.interval], bid)
    book.add_operator(wholesale)
    coupled = {owner: each for owner, each in enumerate(everyone) if each.is_bounded}
    values: Mapping[int, float] = {}
    if coupled:
        from edgeflex_services.market_program import fill  # noqa: PLC0415 - SciPy is half of the market's start

        values = fill(book, coupled)
    book.fill_others(coupled)
    return book.result(everyone, len(bidders), intervals, values)


class Book:
    """The blocks of all intervals."""

    def __init__(self, intervals: int) -> None:
        self.blocks: list[list[Block]] = [[] for _ in range(intervals)]
        """By interval, in order of merit once they are filled."""
        self.must = [0.0] * intervals
        """What is produced, less what is consumed, whatever is taken."""

    def add(self, owner: int, number: int, interval: int, bid: Bid) -> None:
        low, high = bid.lower_kwh, bid.upper_kwh
        self.must[interval] += max(low, 0.0) + min(high, 0.0)
        for is_bought, price, size in (
            (False, bid.sells_from, high - max(low, 0.0)),
            (True, bid.buys_up_to, min(high, 0.0) - low),
        ):
            if size > 0.0:
                block = Block(owner, number, interval, price, size, is_bought=is_bought, arrival=owner)
                self.blocks[interval].append(block)

    def add_operator(self, wholesale: float | None) -> None:
        """The trade outside, and what keeps every interval balanced: never the first choice, but always possible."""
        prices = [] if wholesale is None else [(wholesale, False), (wholesale, True)]
        for interval, blocks in enumerate(self.blocks):
            size = sum(each.size for each in blocks) + abs(self.must[interval]) + 1.0
            for number, (price, is_bought) in enumerate([*prices, (PRICE_LIMIT, False), (-PRICE_LIMIT, True)]):
                # At its price after all others.
                block = Block(OPERATOR, number, interval, price, size, is_bought=is_bought, arrival=math.inf)
                blocks.append(block)

    def fill_others(self, filled: Container[int]) -> None:
        """In order of merit, until production is consumption; the blocks of some owners are filled already."""
        for blocks, must in zip(self.blocks, self.must, strict=True):
            blocks.sort(key=lambda block: block.order)
            left = sum(each.size for each in blocks if each.is_bought) - must
            left -= sum(each.fill for each in blocks if each.owner in filled)
            for block in blocks:
                if block.owner not in filled:
                    block.fill = min(block.size, max(left, 0.0))
                    left -= block.fill

    def result(
        self, everyone: Sequence[Bidder], count: int, intervals: Sequence[int], values: Mapping[int, float]
    ) -> Clearing:
        """`values`: by owner, what one kWh more of it would be worth because of its bounds as a whole."""
        energies = [[bid.lower_kwh for bid in each.bids] for each in everyone]
        prices: dict[int, float] = {}
        imbalances: dict[int, float] = {}
        for interval, blocks in zip(intervals, self.blocks, strict=True):
            last = -math.inf
            lacking = 0.0
            for block in blocks:
                if block.owner != OPERATOR:
                    energies[block.owner][block.bid] += block.fill
                elif abs(block.price) == PRICE_LIMIT:
                    lacking += block.size - block.fill if block.price < 0 else -block.fill
                if block.fill > EPSILON_KWH:
                    last = max(last, block.price - values.get(block.owner, 0.0))
            prices[interval] = last
            if abs(lacking) > 1e-6:
                imbalances[interval] = lacking
        taken = tuple(tuple(each) for each in energies)
        return Clearing(taken[:count], tuple(each[0] for each in taken[count:]), prices, imbalances)
