"""What a market needs, and by whom it is met."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from edgeflex_flow.units import NS_PER_S
from edgeflex_services.market_clearing import PRICE_LIMIT, Bid

LEAST_KWH: Final = 1e-6
"""Less than this is nothing."""


class OfferKey(NamedTuple):
    """By what a market knows an offer: ids are those of their owner."""

    owner: str
    id: str


TRADE: Final = OfferKey("", "")
"""Stands for an offer where none meets the demand, but the trade outside."""


class Demand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Energy that the market needs, or has too much of, in each of its intervals between two times."""

    energy_kwh: Annotated[float, Meta(ge=-1e9, le=1e9, description="In each interval; positive: production is needed.")]
    price_eur_per_kwh: Annotated[
        float,
        Meta(ge=-PRICE_LIMIT, le=PRICE_LIMIT, description="Most that is paid, or least that is taken if negative."),
    ] = PRICE_LIMIT / 10
    begin_ns: Annotated[int, Meta(ge=0, le=2**63 - 1, description="From when on, UTC nanoseconds.")] = 0
    end_ns: Annotated[int, Meta(ge=0, le=2**63 - 1, description="Until when.")] = 2**63 - 1


class Part(NamedTuple):
    """What an offer meets of a demand in an interval."""

    offer: OfferKey
    number: int
    """Of the demand."""
    interval: int
    """Counted from 1970 on."""
    energy_kwh: float
    """Positive where production is needed."""


class DemandBook:
    """All demands, and what is still needed of each in every interval."""

    def __init__(self, interval_s: int) -> None:
        self._interval_s = interval_s
        self.demand: tuple[Demand, ...] = ()
        self._left: dict[tuple[int, int], float] = {}
        """By demand and interval."""
        self._parts: defaultdict[OfferKey, list[Part]] = defaultdict(list)
        """By offer."""

    def set(self, demand: Sequence[Demand]) -> None:
        """From now on; what was met before counts no more."""
        self.demand, self._left = tuple(demand), {}
        self._parts.clear()

    def wanted_in(self, interval: int) -> list[int]:
        """Numbers of the demands that cover an interval and are not met yet."""
        begin_ns = interval * self._interval_s * NS_PER_S
        covering = [n for n, each in enumerate(self.demand) if each.begin_ns <= begin_ns < each.end_ns]
        return [number for number in covering if abs(self._still_wanted(number, interval)) > LEAST_KWH]

    def bid_of(self, number: int, interval: int) -> Bid:
        """Production that is needed is bought, as energy that is consumed."""
        needed, price = self._still_wanted(number, interval), self.demand[number].price_eur_per_kwh
        return Bid(interval, -max(needed, 0.0), max(-needed, 0.0), price, price)

    def _still_wanted(self, number: int, interval: int) -> float:
        return self._left.get((number, interval), self.demand[number].energy_kwh)

    def meet(self, parts: Iterable[Part]) -> None:
        for each in parts:
            key = (each.number, each.interval)
            self._left[key] = self._still_wanted(*key) - each.energy_kwh
            if each.offer != TRADE:
                self._parts[each.offer].append(each)

    def give_back(self, offer: OfferKey) -> None:
        """What the offer was to meet is needed again."""
        for each in self._parts.pop(offer, []):
            self._left[each.number, each.interval] += each.energy_kwh

    def forget(self, offer: OfferKey) -> None:
        """What the offer has met stays so."""
        self._parts.pop(offer, None)


def parts_of(
    taken_kwh: Mapping[tuple[int, int], float], energies_kwh: Mapping[int, Mapping[OfferKey, float]]
) -> list[Part]:
    """Who meets the demand: all who trade on the other side, in proportion.

    Parameters
    ----------
    taken_kwh
        By demand and interval, what it consumes (negative) or produces.
    energies_kwh
        By interval and offer, what is assigned to it.

    >>> a, b, c = (OfferKey("201", name) for name in "abc")
    >>> [(each.offer.id, each.energy_kwh) for each in parts_of({(0, 5): -2.0}, {5: {a: 3.0, b: -2.0, c: 1.0}})]
    [('a', 1.5), ('c', 0.5)]
    """
    parts: list[Part] = []
    for (number, interval), taken in taken_kwh.items():
        offers = energies_kwh.get(interval, {})
        every = [*offers.values(), *(each for (_, other), each in taken_kwh.items() if other == interval)]
        turnover = max(sum(max(each, 0.0) for each in every), sum(max(-each, 0.0) for each in every))
        shares = {name: abs(each) / turnover for name, each in offers.items() if each * taken < 0}
        parts += [Part(name, number, interval, -taken * share) for name, share in shares.items()]
        outside = 1.0 - sum(shares.values())
        if abs(taken * outside) > LEAST_KWH:
            parts.append(Part(TRADE, number, interval, -taken * outside))
    return parts
