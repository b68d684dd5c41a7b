"""The book of a market: offers, what became of each and when, and the demand that they are cleared against."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from edgeflex_flow.flexoffer import (
    OfferLimits,
    advanced,
    assign_before_ns,
    is_final,
    limit_violations,
    reception_violations,
    shown_time,
    violations,
)
from edgeflex_flow.messages import FlexOffer, FlexSchedule, FlexScheduleSlice
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.market_auction import Auction, Cleared, auction_of
from edgeflex_services.market_clearing import PRICE_LIMIT
from edgeflex_services.market_demand import LEAST_KWH, TRADE, Demand, DemandBook, OfferKey, Part, parts_of
from edgeflex_services.market_store import Store

MOST_OFFERS: Final = 100_000
MOST_SLICES: Final = 2_000_000
MOST_OF_OWNER: Final = 50_000
"""Offers of one owner, so that it does not take the place of all others."""
MOST_KWH: Final = 1e9
LONGEST_NAME: Final = 200


class OfferConflictError(Exception):
    """Other offers of the same owner stand under these ids."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids
        super().__init__(f"another offer stands under the id {', '.join(repr(each) for each in ids)}")


class FullError(Exception):
    """The market holds as many offers as it can."""


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the market is to behave, for tests of those who trade on it."""

    delay_s: Annotated[float, Meta(ge=0, le=86_400, description="So long all its answers are held back.")] = 0.0
    refuse_share: Annotated[
        float, Meta(ge=0, le=1, description="Share of the offers that it refuses though they are right.")
    ] = 0.0
    refuse_reason: Annotated[str, Meta(max_length=200, description="What it says then.")] = "refused on demand"
    assigns: Annotated[bool, Meta(description="Whether it clears at all.")] = True


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for all offers."""

    interval_s: int = 900
    wholesale_eur_per_kwh: float | None = 0.0
    """The price at which any energy is traded besides; None: only what the demand asks for."""
    max_duration_s: float = float("inf")
    keep_s: float = 7 * 86_400.0
    """How long offers at an end are shown."""

    @property
    def limits(self) -> OfferLimits:
        return OfferLimits(self.max_duration_s)


Tell = Callable[[FlexOffer], None]


class MarketBook:
    """All offers with their history. For one thread. Times are UTC nanoseconds, given by the caller."""

    def __init__(self, rules: Rules, *, file: Path | None = None, tell: Tell | None = None, seed: int | None = None):
        self.rules = rules
        self.behaviour = Behaviour()
        self._needs = DemandBook(rules.interval_s)
        self._tell = tell or (lambda _offer: None)
        self._random = random.Random(seed)  # noqa: S311 - refuses offers in tests, guards nothing
        self._history: dict[OfferKey, list[tuple[int, FlexOffer]]] = {}
        self._came: dict[OfferKey, FlexOffer] = {}
        self._slices = 0
        self._count_of: Counter[str] = Counter()
        """By owner."""
        self._open: dict[OfferKey, None] = {}
        """Offers that are not at an end, in order of arrival."""
        self._store = None if file is None else Store(file)
        if self._store is not None:
            for each in self._store.read():
                self._remember(*each)
            self._needs.set(self._store.demand(rules.interval_s))
            if self.demand:
                self._needs.meet(self._store.parts())

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    # Offers ---------------------------------------------------------------------------------------------------------

    def submit(self, offers: Sequence[FlexOffer], now_ns: int, owner: str | None = None) -> list[FlexOffer]:
        """Take offers and accept or reject each; the same one again changes nothing.

        `owner`: who sends them, if that is known; else an offer is its own owner's. All are kept or none: raises
        OfferConflictError, FullError, StoreError.
        """
        came = [replace(each, policies={}, endpoint="") for each in offers]
        keys = [OfferKey(each.offered_by if owner is None else owner, each.id) for each in came]
        coming: dict[OfferKey, FlexOffer] = {}
        conflicts: list[str] = []
        for key, offer in zip(keys, came, strict=True):
            known = self._came.get(key) or coming.setdefault(key, offer)
            if _terms(known) != _terms(offer):
                conflicts.append(offer.id)
        if conflicts:
            raise OfferConflictError(conflicts)
        self._need_room(coming)
        self._change(now_ns, [pair for key, offer in coming.items() for pair in self._judged(key, offer, now_ns)])
        return [self.seen(key, now_ns) for key in keys]

    def _need_room(self, coming: Mapping[OfferKey, FlexOffer]) -> None:
        slices = sum(len(each.slices) for each in coming.values())
        if len(self._came) + len(coming) > MOST_OFFERS or self._slices + slices > MOST_SLICES:
            raise FullError(f"the market holds {len(self._came)} offers with {self._slices} slices and takes no more")
        for owner, count in Counter(key.owner for key in coming).items():
            if self._count_of[owner] + count > MOST_OF_OWNER:
                raise FullError(f"the market holds {self._count_of[owner]} offers of '{owner}' and takes no more of it")

    def _judged(self, key: OfferKey, offer: FlexOffer, now_ns: int) -> Iterator[tuple[OfferKey, FlexOffer]]:
        offered = replace(offer, state="offered", state_reason="", schedule=None)
        reasons = [str(each) for each in self._wrong(offer, now_ns, key.owner)]
        if not reasons and self._random.random() < self.behaviour.refuse_share:
            reasons = [self.behaviour.refuse_reason]
        yield key, offered
        yield key, advanced(offered, "rejected" if reasons else "accepted", "; ".join(reasons)[:2000])

    def _wrong(self, offer: FlexOffer, now_ns: int, owner: str) -> Iterator[object]:
        if offer.state not in ("initial", "offered") or offer.schedule is not None:
            yield f"`state`: an offer that comes is 'initial' or 'offered', without a schedule; got '{offer.state}'"
        for name, text in (("id", offer.id), ("offered_by", offer.offered_by)):
            if len(text) > LONGEST_NAME:
                yield f"`{name}`: up to {LONGEST_NAME} characters; got {len(text)}"
        yield from violations(replace(offer, state="offered", schedule=None))
        yield from reception_violations(offer, now_ns, owner)
        yield from limit_violations(offer, self.rules.limits)
        if offer.quantity != "active_energy":
            yield f"`quantity`: this market trades active energy; got {offer.quantity}"
        if offer.interval_s != self.rules.interval_s:
            yield f"`interval_s`: this market trades intervals of {self.rules.interval_s} s; got {offer.interval_s}"
        for place, each in enumerate(offer.slices):
            if each.min_duration != 1:
                rule = "this market trades slices of 1 interval"
                yield f"`slices[{place}].min_duration`: {rule}; got {each.min_duration}"
            if max(abs(each.lower_kwh), abs(each.upper_kwh)) > MOST_KWH:
                yield f"`slices[{place}]`: energies of this market are within {MOST_KWH:g} kWh"
            if max(abs(each.price_min_eur_per_kwh or 0.0), abs(each.price_max_eur_per_kwh or 0.0)) >= PRICE_LIMIT:
                yield f"`slices[{place}]`: prices of this market stay below {PRICE_LIMIT:g} EUR/kWh"

    def cancel(self, key: OfferKey, now_ns: int, reason: str) -> FlexOffer:
        """Take an offer back; what it was to meet of the demand is needed again. KeyError for an unknown one,
        ValueError for one that is at an end, StoreError."""
        self._change(now_ns, [(key, advanced(self._history[key][-1][1], "canceled", reason))])
        self._needs.give_back(key)
        return self.seen(key, now_ns)

    def seen(self, key: OfferKey, now_ns: int) -> FlexOffer:
        """An offer as the outside sees it: what happened within the last `delay_s` is not told yet."""
        told = self.history(key, now_ns)
        return told[-1][1] if told else self._history[key][0][1]

    def keys_of(self, owner: str | None = None, offer_id: str | None = None) -> list[OfferKey]:
        """Of all offers in order of arrival: those of one owner, those with an id, or both."""
        if owner is not None and offer_id is not None:
            key = OfferKey(owner, offer_id)
            return [key] if key in self._history else []
        found = (each for each in self._history if owner is None or each.owner == owner)
        return [each for each in found if offer_id is None or each.id == offer_id]

    def history(self, key: OfferKey, now_ns: int) -> list[tuple[int, FlexOffer]]:
        """When an offer came into each of its states, as the outside sees it. KeyError for an unknown one."""
        until_ns = now_ns - round(self.behaviour.delay_s * NS_PER_S)
        return [(time_ns, offer) for time_ns, offer in self._history[key] if time_ns <= until_ns]

    # Clearing -------------------------------------------------------------------------------------------------------

    @property
    def demand(self) -> tuple[Demand, ...]:
        return self._needs.demand

    def set_demand(self, demand: Sequence[Demand]) -> None:
        """What is needed from now on; what was assigned before counts no more. The same again changes nothing."""
        if tuple(demand) == self.demand:
            return
        if self._store is not None:
            self._store.set_demand(self.rules.interval_s, demand)
        self._needs.set(demand)

    def tick(self, now_ns: int) -> None:
        """What time brings, then clears."""
        self.expire(now_ns)
        if self.behaviour.assigns:
            self.clear(now_ns)

    def expire(self, now_ns: int) -> None:
        """What time brings: schedules that were executed, offers that wait in vain."""
        changes: list[tuple[OfferKey, FlexOffer]] = []
        for key in self._open:
            offer = self._history[key][-1][1]
            until_ns = assign_before_ns(offer)
            if offer.state == "accepted" and until_ns is not None and until_ns < now_ns:
                reason = f"nothing was assigned until {shown_time(until_ns)}"
                changes.append((key, advanced(offer, "canceled", reason)))
            elif offer.state == "assigned" and offer.schedule is not None and _end_ns(offer) < now_ns:
                changes.append((key, advanced(offer, "executed", "its schedule is over")))
        self._change(now_ns, changes)
        self._forget(now_ns)

    def clear(self, now_ns: int) -> list[FlexOffer]:
        """Assign schedules to all accepted offers whose time is not over; those that nobody needs are canceled."""
        auction = self.auction(now_ns)
        return [] if auction is None else self.settle(auction, auction.clear(), now_ns)

    def auction(self, now_ns: int) -> Auction | None:
        """What is to be cleared, if there is anything. Offers that would take too long wait for the next time."""
        waiting = [(each, self._history[each][-1][1]) for each in self._open if self._may_be_assigned(each, now_ns)]
        rules = self.rules
        if not waiting:
            return None
        return auction_of(waiting, self._needs, rules.interval_s, rules.wholesale_eur_per_kwh, now_ns)

    def settle(self, auction: Auction, cleared: Cleared, now_ns: int) -> list[FlexOffer]:
        """Assign what was found. Meanwhile offers may have been taken back: theirs is needed still. If the demand is
        another one by now, all wait for the next time."""
        if self.demand is not auction.asked:
            return []
        changes: list[tuple[OfferKey, FlexOffer]] = []
        given: defaultdict[int, dict[OfferKey, float]] = defaultdict(dict)
        for lot, start, bidder, energies, was_looked_at in zip(
            auction.lots,
            cleared.starts,
            cleared.bidders,
            cleared.clearing.energies_kwh,
            cleared.looked_at,
            strict=True,
        ):
            if max(abs(each) for each in energies) < LEAST_KWH:
                if not was_looked_at:  # a later start may be worth something: the next time tells
                    continue
                changes.append((lot.key, advanced(lot.offer, "canceled", "nothing of it is needed at its price")))
                continue
            schedule = FlexSchedule(
                start_ns=lot.start_ns + start * self.rules.interval_s * NS_PER_S,
                slices=tuple(
                    FlexScheduleSlice(energy_kwh=energy, price_eur_per_kwh=cleared.clearing.prices[bid.interval])
                    for bid, energy in zip(bidder.bids, energies, strict=True)
                ),
            )
            changes.append((lot.key, advanced(lot.offer, "assigned", "assigned by merit order", schedule)))
            for bid, energy in zip(bidder.bids, energies, strict=True):
                given[bid.interval][lot.key] = energy
        changes = [(key, each) for key, each in changes if self._may_be_assigned(key, now_ns)]
        parts = parts_of(dict(zip(auction.wanted, cleared.clearing.demand_kwh, strict=True)), given)
        keys = {TRADE, *(key for key, _ in changes)}
        parts = [each for each in parts if each.offer in keys]
        self._change(now_ns, changes, parts)
        self._needs.meet(parts)
        return [each for _, each in changes]

    def _may_be_assigned(self, key: OfferKey, now_ns: int) -> bool:
        offer = self._history[key][-1][1]
        return offer.state == "accepted" and (assign_before_ns(offer) or 0) >= now_ns

    def _forget(self, now_ns: int) -> None:
        """Offers that have been at an end for long; the first ones that came are looked at alone."""
        until_ns = now_ns - round(self.rules.keep_s * NS_PER_S)
        keys = list(
            itertools.takewhile(
                lambda each: each not in self._open and self._history[each][-1][0] < until_ns, self._history
            )
        )
        if keys and self._store is not None:
            self._store.forget(keys)
        for key in keys:
            self._slices -= len(self._came[key].slices)
            self._count_of[key.owner] -= 1
            del self._history[key], self._came[key]
            self._needs.forget(key)

    # History --------------------------------------------------------------------------------------------------------

    def _change(self, now_ns: int, changes: Sequence[tuple[OfferKey, FlexOffer]], parts: Sequence[Part] = ()) -> None:
        """All of it or nothing, if the file cannot be written."""
        if self._store is not None and (changes or parts):
            self._store.add(now_ns, changes, parts)
        for key, offer in changes:
            self._remember(now_ns, key, offer)
            self._tell(offer)

    def _remember(self, time_ns: int, key: OfferKey, offer: FlexOffer) -> None:
        if key not in self._came:
            self._came[key] = offer
            self._slices += len(offer.slices)
            self._count_of[key.owner] += 1
        self._history.setdefault(key, []).append((time_ns, offer))
        if is_final(offer.state):
            self._open.pop(key, None)
        else:
            self._open[key] = None


def _terms(offer: FlexOffer) -> FlexOffer:
    """What is offered, without what becomes of it."""
    return replace(offer, state="offered", state_reason="", schedule=None, policies={})


def _end_ns(offer: FlexOffer) -> int:
    assert offer.schedule is not None
    return offer.schedule.start_ns + sum(each.duration for each in offer.schedule.slices) * offer.interval_s * NS_PER_S
