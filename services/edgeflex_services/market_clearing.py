"""Clears a market of FlexOffers: the cheapest are taken until the demand is met, interval by interval.

Every energy that may be produced, not consumed, bought or sold is a block of an interval: a price and a size. Blocks
are filled in order of merit until production and consumption of the interval are equal: by price, at one price first
what lets more trade take place, then by arrival. That is the best there is (largest welfare) while intervals do not
depend on each other. They do where an offer bounds its energy as a whole: then what is too much or too little of it is
moved to other blocks along the cheapest ways (successive shortest paths of minimum cost flow), the best again.

All energies are in kWh, positive is production; prices in EUR/kWh.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

EPSILON_KWH: Final = 1e-9
PRICE_LIMIT: Final = 1000.0
"""At this price the operator of the market takes what must be produced and nobody wants, and gives what lacks."""

Interval = Hashable


class Bid(NamedTuple):
    """Energy of one offer, or of the demand, in one interval."""

    interval: Interval
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


class Clearing(NamedTuple):
    """What is taken."""

    energies_kwh: tuple[tuple[float, ...], ...]
    """For each bidder, for each of its bids."""
    demand_kwh: tuple[float, ...]
    """Of each demand what is consumed (negative) or produced."""
    prices: dict[Interval, float]
    """By interval, what everyone in it pays and gets."""
    imbalances_kwh: dict[Interval, float]
    """By interval, what must be produced (positive) or consumed though nobody wants it."""


class _Block:
    """Energy that may be filled between 0 and `size`; `base` is the bid's energy while it is empty."""

    __slots__ = ("bid", "fill", "interval", "owner", "price", "size")

    def __init__(self, owner: int, bid: int, interval: int, price: float, size: float) -> None:
        self.owner, self.bid, self.interval, self.price, self.size = owner, bid, interval, price, size
        self.fill = 0.0


_OPERATOR: Final = -1


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
    book = _Book(len(intervals))
    for owner, bidder in enumerate(everyone):
        for number, bid in enumerate(bidder.bids):
            book.add(owner, number, places[bid.interval], bid)
    book.add_operator(wholesale)
    book.fill()
    coupled = [owner for owner, each in enumerate(everyone) if each.is_bounded]
    values = _Totals(book, everyone, coupled).enforce() if coupled else {}
    return book.result(everyone, len(bidders), intervals, values)


class _Book:
    """The blocks of all intervals."""

    def __init__(self, intervals: int) -> None:
        self.blocks: list[list[_Block]] = [[] for _ in range(intervals)]
        """By interval, in order of merit once they are filled."""
        self._order: dict[int, tuple[float, int, float]] = {}
        self._wanted = [0.0] * intervals
        """What the blocks of an interval have to hold together."""

    def add(self, owner: int, number: int, interval: int, bid: Bid) -> None:
        """What is consumed counts as energy that is not there unless its block is filled."""
        low, high = bid.lower_kwh, bid.upper_kwh
        self._wanted[interval] -= low
        if high > max(low, 0.0):
            self._put(_Block(owner, number, interval, bid.sells_from, high - max(low, 0.0)), 0, owner)
        if low < min(high, 0.0):
            self._put(_Block(owner, number, interval, bid.buys_up_to, min(high, 0.0) - low), 1, -owner)

    def add_operator(self, wholesale: float | None) -> None:
        """The trade outside, and what keeps every interval balanced: never the first choice, but always possible."""
        for interval, blocks in enumerate(self.blocks):
            size = sum(each.size for each in blocks) + abs(self._wanted[interval]) + 1.0
            prices = (
                [PRICE_LIMIT, -PRICE_LIMIT] if wholesale is None else [wholesale, wholesale, PRICE_LIMIT, -PRICE_LIMIT]
            )
            for number, price in enumerate(prices):
                is_bought = number % 2 == 1
                # At its price after all others.
                self._put(
                    _Block(_OPERATOR, number, interval, price, size),
                    int(is_bought),
                    -math.inf if is_bought else math.inf,
                )
                if is_bought:
                    self._wanted[interval] += size

    def _put(self, block: _Block, kind: int, arrival: float) -> None:
        self.blocks[block.interval].append(block)
        self._order[id(block)] = (block.price, kind, arrival)

    def fill(self) -> None:
        """In order of merit."""
        for blocks, wanted in zip(self.blocks, self._wanted, strict=True):
            blocks.sort(key=lambda block: self._order[id(block)])
            left = wanted
            for block in blocks:
                block.fill = min(block.size, max(left, 0.0))
                left -= block.fill

    def result(
        self, everyone: Sequence[Bidder], count: int, intervals: Sequence[Interval], values: Mapping[int, float]
    ) -> Clearing:
        """`values`: by owner, what one kWh more of it would be worth because of its bounds as a whole."""
        energies = [[bid.lower_kwh for bid in each.bids] for each in everyone]
        prices: dict[Interval, float] = {}
        imbalances: dict[Interval, float] = {}
        for interval, blocks in zip(intervals, self.blocks, strict=True):
            last = -math.inf
            lacking = 0.0
            for block in blocks:
                if block.owner != _OPERATOR:
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


class _Step(NamedTuple):
    """One arc of a way."""

    room: float
    take: Callable[[float], None]
    touched: tuple[tuple[int, int], ...]
    """Nodes and intervals whose prices change."""


class _Totals:
    """Moves energy between blocks until the bounds of offers as a whole are kept.

    Nodes of the graph are the offers with such bounds, and one for all else, the rest, which may take and give any
    amount. An arc from one to another is the cheapest interval in which the one gives up energy and the other takes it.
    """

    def __init__(self, book: _Book, everyone: Sequence[Bidder], coupled: Sequence[int]) -> None:
        self._nodes = {owner: place for place, owner in enumerate(coupled)}
        self._owners = list(coupled)
        self._rest = len(coupled)
        self._book = book
        self._low = np.array([everyone[owner].total_lower_kwh for owner in coupled])
        self._high = np.array([everyone[owner].total_upper_kwh for owner in coupled])
        base = [sum(bid.lower_kwh for bid in everyone[owner].bids) for owner in coupled]
        self._total = np.array(base, dtype=np.float64)
        shape = (len(coupled) + 1, len(book.blocks))
        self._mine: list[list[list[_Block]]] = [[[] for _ in range(shape[1])] for _ in range(shape[0])]
        """By node and interval, in order of merit."""
        for blocks in book.blocks:
            for block in blocks:
                node = self._nodes.get(block.owner, self._rest)
                self._mine[node][block.interval].append(block)
                if node != self._rest:
                    self._total[node] += block.fill
        self._up = np.full(shape, math.inf)
        self._down = np.full(shape, -math.inf)
        """Price of a kWh more, and of the last one, by node and interval."""
        for node in range(shape[0]):
            for interval in range(shape[1]):
                self._look(node, interval)

    def _look(self, node: int, interval: int) -> None:
        blocks = self._mine[node][interval]
        self._up[node, interval] = next(
            (each.price for each in blocks if each.size - each.fill > EPSILON_KWH), math.inf
        )
        self._down[node, interval] = next(
            (each.price for each in reversed(blocks) if each.fill > EPSILON_KWH), -math.inf
        )

    def enforce(self) -> dict[int, float]:
        """Keep all bounds; gives the value of a kWh more of each offer."""
        for node in range(self._rest):
            while self._total[node] - self._high[node] > EPSILON_KWH:
                if not self._move(node, self._rest, self._total[node] - self._high[node]):
                    break
            while self._low[node] - self._total[node] > EPSILON_KWH:
                if not self._move(self._rest, node, self._low[node] - self._total[node]):
                    break
        distance, _ = self._distances(self._rest)
        return {owner: float(distance[node]) for node, owner in enumerate(self._owners)}

    def _move(self, source: int, target: int, most: float) -> bool:
        """Move energy along the cheapest way; whether there is one."""
        distance, before = self._distances(source)
        if not math.isfinite(distance[target]):
            return False
        way = [target]
        while way[-1] != source:
            way.append(int(before[way[-1]]))
        way.reverse()
        steps = [self._step(giver, taker) for giver, taker in itertools.pairwise(way)]
        amount = min(most, *(step.room for step in steps))
        for step in steps:
            step.take(amount)
            for node, interval in step.touched:
                self._look(node, interval)
        return True

    def _step(self, giver: int, taker: int) -> _Step:
        """What the cheapest arc between two nodes does."""
        costs = self._up[taker] - self._down[giver]
        interval = int(np.argmin(costs))
        free = self._freedom(giver, taker)
        if free is not None and free[0] <= costs[interval]:
            return _Step(free[1], lambda _amount: None, ())
        taking = next(each for each in self._mine[taker][interval] if each.size - each.fill > EPSILON_KWH)
        giving = next(each for each in reversed(self._mine[giver][interval]) if each.fill > EPSILON_KWH)

        def take(amount: float) -> None:
            taking.fill += amount
            giving.fill -= amount
            for node, change in ((giver, -amount), (taker, amount)):
                if node != self._rest:
                    self._total[node] += change

        room = min(taking.size - taking.fill, giving.fill)
        return _Step(room, take, ((giver, interval), (taker, interval)))

    def _freedom(self, giver: int, taker: int) -> tuple[float, float] | None:
        """Between an offer within its bounds and the rest: the offer's total changes, which costs nothing by itself."""
        if taker == self._rest and giver != self._rest:
            room = self._high[giver] - self._total[giver]
        elif giver == self._rest and taker != self._rest:
            room = self._total[taker] - self._low[taker]
        else:
            return None
        return (0.0, float(room)) if room > EPSILON_KWH else None

    def _distances(self, source: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Cost of the cheapest way from a node to each other, and the node before it on that way (Bellman-Ford)."""
        # cost[giver, taker]
        cost = np.min(self._up[None, :, :] - self._down[:, None, :], axis=2)
        for node in range(self._rest):
            for giver, taker in ((node, self._rest), (self._rest, node)):
                free = self._freedom(giver, taker)
                if free is not None:
                    cost[giver, taker] = min(cost[giver, taker], free[0])
        distance = np.full(len(cost), math.inf)
        distance[source] = 0.0
        before = np.full(len(cost), source)
        for _ in range(len(cost)):
            through = distance[:, None] + cost
            best = np.argmin(through, axis=0)
            shorter = through[best, np.arange(len(cost))] < distance - 1e-12
            if not shorter.any():
                break
            before[shorter] = best[shorter]
            distance[shorter] = through[best, np.arange(len(cost))][shorter]
        return distance, before
