"""The book of a market: offers, what became of each and when, and the demand that they are cleared against."""

from __future__ import annotations

import random
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from edgeflex_flow.flexoffer import (
    NS_PER_S,
    OfferLimits,
    advanced,
    assign_before_ns,
    is_final,
    limit_violations,
    reception_violations,
    shown_time,
    start_after_ns,
    total_bounds_kwh,
    violations,
)
from edgeflex_flow.messages import FlexOffer, FlexSchedule, FlexScheduleSlice, FlexState, decode_message, encode_message
from edgeflex_services.market_clearing import PRICE_LIMIT, Bid, Bidder, Clearing, clear
from edgeflex_services.market_demand import LEAST_KWH, TRADE, Demand, DemandBook, Part, parts_of

MOST_OFFERS: Final = 100_000
MOST_WORK: Final = 1.2e9
"""Of one clearing, about a second: square of the offers that bound their whole energy, by intervals, by slices."""


class ConflictError(Exception):
    """An offer cannot be taken as it comes, since another stands under its id, or there are too many."""


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
    window_begin_s: float = 0.0
    window_end_s: float = 86_400.0
    keep_s: float = 7 * 86_400.0
    """How long offers at an end are shown."""

    @property
    def limits(self) -> OfferLimits:
        return OfferLimits(self.max_duration_s, self.window_begin_s, self.window_end_s)


class Auction(NamedTuple):
    """What is cleared together, apart from the book: a thread of its own may do it."""

    offers: list[FlexOffer]
    bidders: list[Bidder]
    wanted: list[tuple[int, int]]
    """By demand and interval."""
    bids: list[Bid]
    """Of the demand."""
    wholesale_eur_per_kwh: float | None
    asked: tuple[Demand, ...]

    def clear(self) -> Clearing:
        return clear(self.bidders, self.bids, self.wholesale_eur_per_kwh)


Tell = Callable[[FlexOffer], None]


class MarketBook:
    """All offers with their history. For one thread. Times are UTC nanoseconds, given by the caller."""

    def __init__(self, rules: Rules, *, file: Path | None = None, tell: Tell | None = None, seed: int | None = None):
        self.rules = rules
        self.behaviour = Behaviour()
        self.version = 0
        """Grows with each change."""
        self._needs = DemandBook(rules.interval_s)
        self._tell = tell or (lambda _offer: None)
        self._random = random.Random(seed)  # noqa: S311 - refuses offers in tests, guards nothing
        self._history: dict[str, list[tuple[int, FlexOffer]]] = {}
        self._came: dict[str, FlexOffer] = {}
        self._open: dict[str, None] = {}
        """Ids of offers that are not at an end, in order of arrival."""
        self._store = None if file is None else _Store(file)
        if self._store is not None:
            for time_ns, offer in self._store.read():
                self._remember(time_ns, offer)
            self._needs.set(self._store.demand(rules.interval_s))
            if self.demand:
                self._needs.meet(self._store.parts())

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    # Offers ---------------------------------------------------------------------------------------------------------

    def submit(self, offer: FlexOffer, now_ns: int, owner: str | None = None) -> FlexOffer:
        """Take an offer and accept or reject it; the same one again changes nothing. Raises ConflictError."""
        offer = replace(offer, policies={})
        if offer.id in self._came:
            if _terms(self._came[offer.id]) != _terms(offer):
                raise ConflictError(f"another offer stands under the id '{offer.id}'")
            if owner is not None and self._came[offer.id].offered_by != owner:
                raise ConflictError(f"another offer stands under the id '{offer.id}'")
            return self.seen(offer.id, now_ns)
        if len(self._came) >= MOST_OFFERS:
            raise ConflictError(f"the market holds {MOST_OFFERS} offers and takes no more")
        offered = replace(offer, state="offered", state_reason="", schedule=None)
        self._change(now_ns, offered)
        reasons = [str(each) for each in self._wrong(offer, now_ns, owner)]
        if not reasons and self._random.random() < self.behaviour.refuse_share:
            reasons = [self.behaviour.refuse_reason]
        state: FlexState = "rejected" if reasons else "accepted"
        self._change(now_ns, advanced(offered, state, "; ".join(reasons)[:2000]))
        return self.seen(offer.id, now_ns)

    def _wrong(self, offer: FlexOffer, now_ns: int, owner: str | None) -> Iterator[object]:
        if offer.state not in ("initial", "offered") or offer.schedule is not None:
            yield f"`state`: an offer that comes is 'initial' or 'offered', without a schedule; got '{offer.state}'"
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
            if max(abs(each.price_min_eur_per_kwh or 0.0), abs(each.price_max_eur_per_kwh or 0.0)) >= PRICE_LIMIT:
                yield f"`slices[{place}]`: prices of this market stay below {PRICE_LIMIT:g} EUR/kWh"

    def cancel(self, offer_id: str, now_ns: int, reason: str) -> FlexOffer:
        """Take an offer back; what it was to meet of the demand is needed again. KeyError for an unknown one,
        ValueError for one that is at an end."""
        self._change(now_ns, advanced(self._history[offer_id][-1][1], "canceled", reason))
        self._needs.give_back(offer_id)
        return self.seen(offer_id, now_ns)

    def seen(self, offer_id: str, now_ns: int) -> FlexOffer:
        """An offer as the outside sees it: what happened within the last `delay_s` is not told yet."""
        history = self._history[offer_id]
        until_ns = now_ns - round(self.behaviour.delay_s * NS_PER_S)
        told = [offer for time_ns, offer in history if time_ns <= until_ns]
        return told[-1] if told else history[0][1]

    def all_seen(self, now_ns: int, owner: str | None = None, offer_id: str | None = None) -> list[FlexOffer]:
        """All offers as the outside sees them, in order of arrival: those of one owner, or the one with an id."""
        wanted = self._history if offer_id is None else [offer_id] if offer_id in self._history else []
        found = [self.seen(each, now_ns) for each in wanted]
        return [each for each in found if owner is None or each.offered_by == owner]

    def history(self, offer_id: str) -> list[tuple[int, FlexOffer]]:
        """When an offer came into each of its states. KeyError for an unknown one."""
        return list(self._history[offer_id])

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
        for offer_id in list(self._open):
            offer = self._history[offer_id][-1][1]
            until_ns = assign_before_ns(offer)
            if offer.state == "accepted" and until_ns is not None and until_ns < now_ns:
                reason = f"nothing was assigned until {shown_time(until_ns)}"
                self._change(now_ns, advanced(offer, "canceled", reason))
            elif offer.state == "assigned" and offer.schedule is not None and _end_ns(offer) < now_ns:
                self._change(now_ns, advanced(offer, "executed", "its schedule is over"))
        self._forget(now_ns)

    def clear(self, now_ns: int) -> list[FlexOffer]:
        """Assign schedules to all accepted offers whose time is not over; those that nobody needs are canceled."""
        auction = self.auction(now_ns)
        return [] if auction is None else self.settle(auction, auction.clear(), now_ns)

    def auction(self, now_ns: int) -> Auction | None:
        """What is to be cleared, if there is anything. Offers that would take too long wait for the next time."""
        waiting = [self._history[each][-1][1] for each in self._open if self._may_be_assigned(each, now_ns)]
        if not waiting:
            return None
        offers, bidders = _bearable(waiting, [self._bidder(each) for each in waiting])
        intervals = sorted({int(bid.interval) for each in bidders for bid in each.bids})  # type: ignore[call-overload]
        wanted = [(number, interval) for interval in intervals for number in self._needs.wanted_in(interval)]
        bids = [self._needs.bid_of(number, interval) for number, interval in wanted]
        return Auction(offers, bidders, wanted, bids, self.rules.wholesale_eur_per_kwh, self.demand)

    def settle(self, auction: Auction, cleared: Clearing, now_ns: int) -> list[FlexOffer]:
        """Assign what was found. Meanwhile offers may have been taken back: theirs is needed still. If the demand is
        another one by now, all wait for the next time."""
        if self.demand is not auction.asked:
            return []
        changed: list[FlexOffer] = []
        given: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for offer, bidder, energies in zip(auction.offers, auction.bidders, cleared.energies_kwh, strict=True):
            if max(abs(each) for each in energies) < LEAST_KWH:
                changed.append(advanced(offer, "canceled", "nothing of it is needed at its price"))
                continue
            prices = [cleared.prices[bid.interval] for bid in bidder.bids]
            schedule = FlexSchedule(
                start_ns=start_after_ns(offer) or 0,
                slices=tuple(
                    FlexScheduleSlice(energy_kwh=energy, price_eur_per_kwh=price)
                    for energy, price in zip(energies, prices, strict=True)
                ),
            )
            changed.append(advanced(offer, "assigned", "assigned by merit order", schedule))
            for bid, energy in zip(bidder.bids, energies, strict=True):
                given[int(bid.interval)][offer.id] = energy  # type: ignore[call-overload]
        changed = [each for each in changed if self._may_be_assigned(each.id, now_ns)]
        parts = parts_of(dict(zip(auction.wanted, cleared.demand_kwh, strict=True)), given)
        ids = {TRADE, *(each.id for each in changed)}
        parts = [each for each in parts if each.offer_id in ids]
        self._change(now_ns, *changed, parts=parts)
        self._needs.meet(parts)
        return changed

    def _may_be_assigned(self, offer_id: str, now_ns: int) -> bool:
        offer = self._history[offer_id][-1][1]
        return offer.state == "accepted" and (assign_before_ns(offer) or 0) >= now_ns

    def _bidder(self, offer: FlexOffer) -> Bidder:
        """A slice counts in the interval of the market that holds its middle."""
        begin_ns, length_ns = start_after_ns(offer) or 0, self.rules.interval_s * NS_PER_S
        first = (begin_ns + length_ns // 2) // length_ns
        bids = [
            Bid(
                first + place,
                each.lower_kwh,
                each.upper_kwh,
                each.price_min_eur_per_kwh
                if each.price_min_eur_per_kwh is not None
                else each.price_max_eur_per_kwh or 0.0,
                each.price_max_eur_per_kwh
                if each.price_max_eur_per_kwh is not None
                else each.price_min_eur_per_kwh or 0.0,
            )
            for place, each in enumerate(offer.slices)
        ]
        return Bidder(tuple(bids), *total_bounds_kwh(offer))

    def _forget(self, now_ns: int) -> None:
        """Offers that have been at an end for long; the first ones that came are looked at alone."""
        until_ns = now_ns - round(self.rules.keep_s * NS_PER_S)
        while self._history:
            offer_id, history = next(iter(self._history.items()))
            if offer_id in self._open or history[-1][0] >= until_ns:
                break
            del self._history[offer_id], self._came[offer_id]
            self._needs.forget(offer_id)
            self.version += 1
            if self._store is not None:
                self._store.forget(offer_id)

    # History --------------------------------------------------------------------------------------------------------

    def _change(self, now_ns: int, *offers: FlexOffer, parts: Sequence[Part] = ()) -> None:
        """All of it or nothing, if the file cannot be written."""
        if self._store is not None:
            self._store.add(now_ns, offers, parts)
        for each in offers:
            self._remember(now_ns, each)
            self._tell(each)

    def _remember(self, time_ns: int, offer: FlexOffer) -> None:
        self._came.setdefault(offer.id, offer)
        self._history.setdefault(offer.id, []).append((time_ns, offer))
        self.version += 1
        if is_final(offer.state):
            self._open.pop(offer.id, None)
        else:
            self._open[offer.id] = None


def _bearable(offers: Sequence[FlexOffer], bidders: Sequence[Bidder]) -> tuple[list[FlexOffer], list[Bidder]]:
    """As many as can be cleared at once, the first that came before others; one at least."""
    intervals = len({bid.interval for each in bidders for bid in each.bids})
    taken: list[tuple[FlexOffer, Bidder]] = []
    coupled = bids = 0
    for offer, bidder in zip(offers, bidders, strict=True):
        if bidder.is_bounded:
            if coupled and (coupled + 1) ** 2 * intervals * (bids + len(bidder.bids)) > MOST_WORK:
                continue
            coupled, bids = coupled + 1, bids + len(bidder.bids)
        taken.append((offer, bidder))
    return [offer for offer, _ in taken], [bidder for _, bidder in taken]


def _terms(offer: FlexOffer) -> FlexOffer:
    """What is offered, without what becomes of it."""
    return replace(offer, state="offered", state_reason="", schedule=None, policies={})


def _end_ns(offer: FlexOffer) -> int:
    assert offer.schedule is not None
    return offer.schedule.start_ns + sum(each.duration for each in offer.schedule.slices) * offer.interval_s * NS_PER_S


class _Store:
    """Every change in a file, so that a market goes on where it was."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS changes (id TEXT NOT NULL, time_ns INTEGER NOT NULL, offer TEXT NOT NULL)"
        )
        self._database.execute("CREATE INDEX IF NOT EXISTS changes_by_id ON changes (id)")
        self._database.execute("CREATE TABLE IF NOT EXISTS demand (interval_s INTEGER NOT NULL, demand TEXT NOT NULL)")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS parts (id TEXT NOT NULL, number INTEGER NOT NULL, interval INTEGER NOT NULL, "
            "energy_kwh REAL NOT NULL)"
        )
        self._database.execute("CREATE INDEX IF NOT EXISTS parts_by_id ON parts (id)")
        self._database.commit()

    def read(self) -> Iterator[tuple[int, FlexOffer]]:
        with closing(self._database.execute("SELECT time_ns, offer FROM changes ORDER BY rowid")) as rows:
            for time_ns, text in rows:
                offer: Any = decode_message(text, (FlexOffer,))
                yield time_ns, offer

    def demand(self, interval_s: int) -> list[Demand]:
        """None for a market that had other intervals."""
        found = self._database.execute("SELECT demand FROM demand WHERE interval_s = ?", (interval_s,)).fetchone()
        return [] if found is None else msgspec.json.decode(found[0], type=list[Demand])

    def parts(self) -> list[Part]:
        """Of the demand."""
        rows = self._database.execute("SELECT id, number, interval, energy_kwh FROM parts")
        return [Part(*each) for each in rows.fetchall()]

    def set_demand(self, interval_s: int, demand: Sequence[Demand]) -> None:
        with self._database:
            self._database.execute("DELETE FROM demand")
            self._database.execute("DELETE FROM parts")
            self._database.execute(
                "INSERT INTO demand VALUES (?, ?)", (interval_s, msgspec.json.encode(demand).decode())
            )

    def add(self, time_ns: int, offers: Sequence[FlexOffer], parts: Sequence[Part]) -> None:
        with self._database:
            self._database.executemany(
                "INSERT INTO changes VALUES (?, ?, ?)",
                [(each.id, time_ns, encode_message(each).decode()) for each in offers],
            )
            self._database.executemany(
                "DELETE FROM parts WHERE id = ?", [(each.id,) for each in offers if each.state == "canceled"]
            )
            self._database.executemany("INSERT INTO parts VALUES (?, ?, ?, ?)", parts)

    def forget(self, offer_id: str) -> None:
        with self._database:
            self._database.execute("DELETE FROM changes WHERE id = ?", (offer_id,))

    def close(self) -> None:
        self._database.close()
