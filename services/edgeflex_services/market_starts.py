"""Chooses when the profiles of FlexOffers begin, where offers leave that open.

One after the other, the cheapest first, each offer takes the start at which it costs the system the least (the
earliest of them), with what came before it in place: first the offers that leave no choice. That is greedy: all starts
together may have a better choice, which only a mixed-integer program would find. Bounds of an offer as a whole count
for itself, and for those that come after it as the energy that it took.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from edgeflex_services.market_clearing import EPSILON_KWH, PRICE_LIMIT, Bid, Bidder

TURNS: Final = 30
"""At most, in which the worth of a kWh more is found for an offer with bounds as a whole; a few are the rule."""
USUAL_TURNS: Final = 6
CHEAPER_EUR: Final = 1e-6
"""Less than this is no reason to begin later."""


def looks(slices: int, starts: int, *, is_bounded: bool) -> int:
    """How much work the choice of an offer is: how many bids are priced."""
    return 0 if starts < 2 else starts * slices * (USUAL_TURNS if is_bounded else 1)


def merit_eur_per_kwh(bidder: Bidder) -> float:
    """What a kWh of an offer costs the system on average, the less the sooner it is taken.

    >>> merit_eur_per_kwh(Bidder((Bid(0, 0.0, 2.0, sells_from=0.1),)))
    0.1
    >>> merit_eur_per_kwh(Bidder((Bid(0, -2.0, 0.0, buys_up_to=0.5),)))
    -0.5
    """
    sold = [(bid.sells_from, max(bid.upper_kwh, 0.0)) for bid in bidder.bids]
    bought = [(-bid.buys_up_to, max(-bid.lower_kwh, 0.0)) for bid in bidder.bids]
    energy_kwh = sum(energy for _, energy in (*sold, *bought))
    return sum(price * energy for price, energy in (*sold, *bought)) / energy_kwh if energy_kwh else math.inf


def looked_at(bidders: Sequence[Bidder], starts: Sequence[Sequence[int]], most: int) -> list[bool]:
    """Of which offers the starts are looked at, with so many `looks` in all: the cheapest, one at least. For others
    only the earliest start counts."""
    found = [len(each) < 2 for each in starts]
    work = 0
    open_ones = [place for place, each in enumerate(found) if not each]
    for place in sorted(open_ones, key=lambda each: merit_eur_per_kwh(bidders[each])):
        own = looks(len(bidders[place].bids), len(starts[place]), is_bounded=bidders[place].is_bounded)
        if work and work + own > most:
            break
        found[place], work = True, work + own
    return found


def choose(bidders: Sequence[Bidder], starts: Sequence[Sequence[int]], demand: Sequence[Bid] = ()) -> list[int]:
    """When each offer begins, in a market without trade outside (with it all starts cost the same).

    Parameters
    ----------
    bidders
        The offers, in order of arrival.
    starts
        For each of them by how many intervals later it may begin, the earliest first.
    demand
        As for `clear`.

    >>> offer = Bidder((Bid(0, 0.0, 2.0, sells_from=0.1),))
    >>> wanted = [Bid(0, -2.0, 0.0, buys_up_to=0.2), Bid(1, -2.0, 0.0, buys_up_to=0.5)]
    >>> choose([offer, offer], [[0, 1], [0, 1]], wanted)
    [1, 0]
    """
    chosen = [each[0] for each in starts]
    if all(len(each) == 1 for each in starts):
        return chosen
    curves: defaultdict[int, _Curve] = defaultdict(_Curve)
    for bid in demand:
        curves[bid.interval].add(bid)
    merits = [merit_eur_per_kwh(each) for each in bidders]
    for place in sorted(range(len(bidders)), key=lambda each: (len(starts[each]) > 1, merits[each])):
        taken: _Taken | None = None
        for start in starts[place]:
            found = _best(curves, bidders[place].later(start))
            if taken is None or found.cost_eur < taken.cost_eur - CHEAPER_EUR:
                taken, chosen[place] = found, start
        if taken is not None:
            _put(curves, bidders[place].later(chosen[place]), taken.energies_kwh)
    return chosen


def _put(curves: Mapping[int, _Curve], bidder: Bidder, energies_kwh: Sequence[float]) -> None:
    """In place: what it may do, and of one with bounds as a whole what it has taken, which others may replace."""
    for bid, energy in zip(bidder.bids, energies_kwh, strict=True):
        low, high = min(energy, max(bid.lower_kwh, 0.0)), max(energy, min(bid.upper_kwh, 0.0))
        curves[bid.interval].add(bid._replace(lower_kwh=low, upper_kwh=high) if bidder.is_bounded else bid)


class _Taken(NamedTuple):
    energies_kwh: tuple[float, ...]
    """Of each bid."""
    cost_eur: float
    """Of the system: what the energy costs less what it saves elsewhere."""

    @property
    def total_kwh(self) -> float:
        return sum(self.energies_kwh)


class _Curve:
    """What a kWh costs in an interval, by how much is produced there."""

    def __init__(self) -> None:
        self._blocks: list[tuple[float, float]] = []
        """Prices and sizes, in order of price. What is bought is a block that is filled while it is not consumed."""
        self._wanted_kwh = 0.0
        """What they hold together; beyond them the market's operator takes and gives."""
        self._prices: list[float] = []
        self._sizes: list[float] = []
        self._costs: list[float] = []
        """Of all blocks up to one and with it."""
        self._is_stale = False

    def add(self, bid: Bid) -> None:
        low, high = bid.lower_kwh, bid.upper_kwh
        self._wanted_kwh -= low
        for price, size in ((bid.sells_from, high - max(low, 0.0)), (bid.buys_up_to, min(high, 0.0) - low)):
            if size > 0.0:
                insort(self._blocks, (price, size))
        self._is_stale = True

    def best(self, bid: Bid, worth: float) -> tuple[float, float]:
        """Energy that is taken of a bid, a kWh of which is worth so much besides, and what it costs without that."""
        if self._is_stale:
            self._prices = [price for price, _ in self._blocks]
            self._sizes = list(itertools.accumulate(size for _, size in self._blocks))
            self._costs = list(itertools.accumulate(price * size for price, size in self._blocks))
            self._is_stale = False
        # It sells as long as the price is above its own, and buys as long as that is below.
        produced = self._wanted_kwh - self._held_at_kwh(bid.sells_from - worth, bisect_right)
        consumed = self._wanted_kwh - self._held_at_kwh(bid.buys_up_to - worth, bisect_left)
        energy = produced if produced > 0.0 else min(consumed, 0.0)
        energy = min(max(energy, bid.lower_kwh), bid.upper_kwh)
        own = bid.sells_from if energy > 0.0 else bid.buys_up_to
        return energy, own * energy + self._cost_eur(self._wanted_kwh - energy) - self._cost_eur(self._wanted_kwh)

    def _held_at_kwh(self, price: float, side: Callable[[list[float], float], int]) -> float:
        """At a price beyond those of the operator without end."""
        return (
            math.copysign(math.inf, price) if abs(price) >= PRICE_LIMIT else self._held_kwh(side(self._prices, price))
        )

    def _held_kwh(self, blocks: int) -> float:
        return self._sizes[blocks - 1] if blocks else 0.0

    def _cost_eur(self, held_kwh: float) -> float:
        inside = min(max(held_kwh, 0.0), self._held_kwh(len(self._sizes)))
        place = bisect_left(self._sizes, inside)
        cost = self._costs[place - 1] if place else 0.0
        if place < len(self._sizes):
            cost += (inside - self._held_kwh(place)) * self._prices[place]
        return cost + abs(held_kwh - inside) * PRICE_LIMIT


def _best(curves: Mapping[int, _Curve], bidder: Bidder) -> _Taken:
    """What is taken of an offer at one of its starts.

    With bounds as a whole, a kWh more of it is worth what keeps them: of what is taken at a smaller and at a larger
    worth a mixture keeps the bound, and nothing is better once no worth between them gives anything else.
    """
    free = _at_worth(curves, bidder, 0.0)
    if bidder.total_lower_kwh <= free.total_kwh <= bidder.total_upper_kwh:
        return free
    is_less = free.total_kwh < bidder.total_lower_kwh
    bound = bidder.total_lower_kwh if is_less else bidder.total_upper_kwh
    low, high = free, _at_worth(curves, bidder, 2 * PRICE_LIMIT if is_less else -2 * PRICE_LIMIT)
    if not is_less:
        low, high = high, low
    for _ in range(TURNS):
        if high.total_kwh - low.total_kwh < EPSILON_KWH:
            return high
        worth = (high.cost_eur - low.cost_eur) / (high.total_kwh - low.total_kwh)
        between = _at_worth(curves, bidder, worth)
        if between.cost_eur - worth * between.total_kwh > low.cost_eur - worth * low.total_kwh - CHEAPER_EUR:
            break
        low, high = (between, high) if between.total_kwh < bound else (low, between)
    share = min(max((bound - low.total_kwh) / (high.total_kwh - low.total_kwh), 0.0), 1.0)
    pairs = zip(low.energies_kwh, high.energies_kwh, strict=True)
    energies = tuple(first + share * (second - first) for first, second in pairs)
    return _Taken(energies, low.cost_eur + share * (high.cost_eur - low.cost_eur))


def _at_worth(curves: Mapping[int, _Curve], bidder: Bidder, worth: float) -> _Taken:
    taken = [curves[bid.interval].best(bid, worth) for bid in bidder.bids]
    return _Taken(tuple(energy for energy, _ in taken), sum(cost for _, cost in taken))
