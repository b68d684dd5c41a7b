"""What a market clears together: offers as bids at each of their starts, and the demand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from edgeflex_flow.flexoffer import longest_ns, start_after_ns, total_bounds_kwh
from edgeflex_flow.messages import FlexOffer
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.market_clearing import Bid, Bidder, Clearing, clear
from edgeflex_services.market_demand import Demand, DemandBook, OfferKey
from edgeflex_services.market_starts import CHEAPER_EUR, choose, looked_at, looks

MOST_BOUNDED_BIDS: Final = 100_000
"""Of one clearing, a few seconds: slices of the offers that bound their whole energy."""
MOST_LOOKS: Final = 500_000
"""The same of the choice of starts: how many slices are priced. It is the cheapest offers that have a choice then."""
MOST_STARTS: Final = 672
"""So many intervals after its earliest start one is looked for: a week of quarters of an hour."""
MOST_OF_ONE: Final = 50_000
"""The same of one offer: of more starts than that allows every second, third … is looked at."""


class Lot(NamedTuple):
    """An offer, and when it may begin."""

    key: OfferKey
    offer: FlexOffer
    start_ns: int
    """The earliest."""
    starts: Sequence[int]
    """By how many intervals later it may begin, 0 the first."""
    bidder: Bidder
    """At the earliest."""


class Cleared(NamedTuple):
    """What is taken, and by how many intervals later than it could each offer begins."""

    starts: Sequence[int]
    bidders: Sequence[Bidder]
    """At these starts."""
    clearing: Clearing
    looked_at: Sequence[bool]
    """Of which offers every start was looked at, not the earliest alone."""


class Auction(NamedTuple):
    """What is cleared together, apart from the book: a thread of its own may do it."""

    lots: Sequence[Lot]
    wanted: Sequence[tuple[int, int]]
    """By demand and interval."""
    bids: Sequence[Bid]
    """Of the demand."""
    wholesale_eur_per_kwh: float | None
    asked: tuple[Demand, ...]

    def clear(self) -> Cleared:
        """All together, at the starts that were chosen, or at the earliest if that is better: a choice made one by one
        may be worse."""
        bidders = [each.bidder for each in self.lots]
        seen = looked_at(bidders, [each.starts for each in self.lots], MOST_LOOKS)
        chosen = choose(
            bidders, [each.starts[: None if all_ else 1] for each, all_ in zip(self.lots, seen, strict=True)], self.bids
        )
        earliest = [each.starts[0] for each in self.lots]
        found = self._clear_at(chosen, seen)
        if chosen == earliest:
            return found
        other = self._clear_at(earliest, seen)
        is_better = self._cost_eur(other) < self._cost_eur(found) - CHEAPER_EUR
        return other if is_better else found

    def _clear_at(self, starts: Sequence[int], seen: Sequence[bool]) -> Cleared:
        bidders = [each.bidder.later(start) for each, start in zip(self.lots, starts, strict=True)]
        return Cleared(starts, bidders, clear(bidders, self.bids, self.wholesale_eur_per_kwh), seen)

    def _cost_eur(self, cleared: Cleared) -> float:
        return cleared.clearing.cost_eur(cleared.bidders, self.bids)


def auction_of(
    waiting: Iterable[tuple[OfferKey, FlexOffer]],
    needs: DemandBook,
    interval_s: int,
    wholesale_eur_per_kwh: float | None,
    now_ns: int,
) -> Auction:
    """Of the offers that wait, as many as can be cleared at once: the first that came before others, one at least."""
    lots: list[Lot] = []
    bids = 0
    for key, offer in waiting:
        lot = _lot(key, offer, interval_s, now_ns, may_wait=wholesale_eur_per_kwh is None)
        bounded = len(lot.bidder.bids) if lot.bidder.is_bounded else 0
        if lots and bids + bounded > MOST_BOUNDED_BIDS:
            continue
        bids += bounded
        lots.append(lot)
    every = {bid.interval + later for lot in lots for bid in lot.bidder.bids for later in lot.starts}
    wanted = [(number, interval) for interval in sorted(every) for number in needs.wanted_in(interval)]
    bids_of_demand = [needs.bid_of(number, interval) for number, interval in wanted]
    return Auction(lots, wanted, bids_of_demand, wholesale_eur_per_kwh, needs.demand)


def _lot(key: OfferKey, offer: FlexOffer, interval_s: int, now_ns: int, *, may_wait: bool) -> Lot:
    """`may_wait`: whether a later start can be worth anything; with trade outside an interval is as good as another."""
    length_ns = interval_s * NS_PER_S
    first_ns = start_after_ns(offer) or 0
    last_ns = max(first_ns, offer.start_before_ns or first_ns)
    if offer.end_before_ns is not None:
        last_ns = max(first_ns, min(last_ns, offer.end_before_ns - longest_ns(offer)))
    # One that began more than half an interval ago would count in an interval that is over.
    begun = max(0, -((first_ns + length_ns // 2 - now_ns) // length_ns))
    count = (last_ns - first_ns) // length_ns + 1 - begun
    start_ns = (
        first_ns + begun * length_ns if count > 0 else max(first_ns, min(last_ns, -(-now_ns // NS_PER_S) * NS_PER_S))
    )
    bidder = _bidder(offer, (start_ns + length_ns // 2) // length_ns)
    starts = range(min(count, MOST_STARTS)) if may_wait and count > 1 else range(1)
    own = looks(len(bidder.bids), len(starts), is_bounded=bidder.is_bounded)
    return Lot(key, offer, start_ns, starts[:: max(1, -(-own // MOST_OF_ONE))], bidder)


def _bidder(offer: FlexOffer, first: int) -> Bidder:
    """A slice counts in the interval of the market that holds its middle."""
    bids = [
        Bid(
            first + place,
            each.lower_kwh,
            each.upper_kwh,
            each.price_min_eur_per_kwh if each.price_min_eur_per_kwh is not None else each.price_max_eur_per_kwh or 0.0,
            each.price_max_eur_per_kwh if each.price_max_eur_per_kwh is not None else each.price_min_eur_per_kwh or 0.0,
        )
        for place, each in enumerate(offer.slices)
    ]
    return Bidder(tuple(bids), *total_bounds_kwh(offer))
