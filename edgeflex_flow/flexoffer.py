"""Rules of FlexOffers: when one is right, which state may follow which, and what a policy may forbid.

Pure functions over `edgeflex_flow.messages.FlexOffer`: flows, connectors and the market hold offers to the same rules.
Source: flexoffer/flexoffer-specifications (V1, sections 1.3, 1.4 and 2.3), GOFLEX `FlexOffer.isCorrect`, and what they
leave out: order of acceptance and assignment, bounds that cannot be kept, and limits of time and duration.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from msgspec.structs import replace

from edgeflex_flow.messages import FlexOffer, FlexSchedule, FlexState
from edgeflex_flow.units import NS_PER_S

DAY_S: Final = 86_400
TOLERANCE_KWH: Final = 1e-4
"""Assigned energy may lie beyond its bounds by so much."""

NEXT: Final[dict[FlexState, frozenset[FlexState]]] = {
    "initial": frozenset({"offered", "invalid", "canceled"}),
    "offered": frozenset({"accepted", "rejected", "invalid", "canceled"}),
    "accepted": frozenset({"assigned", "invalid", "canceled"}),
    "assigned": frozenset({"executed", "invalid", "canceled"}),
    "rejected": frozenset(),
    "executed": frozenset(),
    "invalid": frozenset(),
    "canceled": frozenset(),
}
"""By state, those that may follow it in one step."""


class Violation(NamedTuple):
    """A rule that an offer breaks: at which field, what stands there, and what the rule wants."""

    field: str
    got: str
    rule: str

    def __str__(self) -> str:
        return f"`{self.field}`: {self.rule}; got {self.got}"


class OfferLimits(NamedTuple):
    """What a policy allows of offers."""

    max_duration_s: float = math.inf
    """Longest profile, at its longest."""
    window_begin_s: float = 0.0
    window_end_s: float = DAY_S
    """From and until when in the day (UTC) a profile may run, in seconds since midnight; across midnight if the end is
    before the beginning."""


def may_follow(before: FlexState, after: FlexState) -> bool:
    """Whether a state may follow in one step.

    >>> may_follow("offered", "accepted"), may_follow("offered", "assigned"), may_follow("rejected", "canceled")
    (True, False, False)
    """
    return after in NEXT[before]


def is_later(before: FlexState, after: FlexState) -> bool:
    """Whether a state may follow in one or more steps, of which whoever only looks now and then has missed some.

    >>> is_later("offered", "assigned"), is_later("assigned", "accepted"), is_later("offered", "offered")
    (True, False, False)
    """
    return any(after == state or is_later(state, after) for state in NEXT[before])


def is_final(state: FlexState) -> bool:
    """Whether nothing follows."""
    return not NEXT[state]


def advanced(offer: FlexOffer, state: FlexState, reason: str, schedule: FlexSchedule | None = None) -> FlexOffer:
    """The offer in its next state. Raises ValueError where that may not follow.

    >>> advanced(FlexOffer(id="1", state="offered"), "assigned", "")
    Traceback (most recent call last):
    ValueError: offer '1': 'assigned' cannot follow 'offered'; known: accepted, canceled, invalid, rejected
    """
    if not may_follow(offer.state, state):
        known = ", ".join(sorted(NEXT[offer.state])) or "none"
        raise ValueError(f"offer '{offer.id}': '{state}' cannot follow '{offer.state}'; known: {known}")
    return replace(offer, state=state, state_reason=reason, schedule=schedule or offer.schedule)


# Times --------------------------------------------------------------------------------------------------------------


def start_after_ns(offer: FlexOffer) -> int | None:
    """From when on the profile may begin; None where the offer does not tell."""
    return offer.created_ns if offer.start_after_ns is None else offer.start_after_ns


def assign_before_ns(offer: FlexOffer) -> int | None:
    """Until when a schedule may be assigned; None where the offer does not tell."""
    return start_after_ns(offer) if offer.assign_before_ns is None else offer.assign_before_ns


def send_before_ns(offer: FlexOffer) -> int | None:
    """After this an offer comes too late for whoever is to accept it; None where the offer does not tell."""
    times = [offer.accept_before_ns, assign_before_ns(offer), offer.start_before_ns]
    return min((each for each in times if each is not None), default=None)


def longest_ns(offer: FlexOffer) -> int:
    """How long the profile lasts at its longest."""
    return sum(each.max_duration for each in offer.slices) * offer.interval_s * NS_PER_S


def shortest_ns(offer: FlexOffer) -> int:
    """How long the profile lasts at its shortest."""
    return sum(each.min_duration for each in offer.slices) * offer.interval_s * NS_PER_S


def shown_time(time_ns: int | None) -> str:
    """
    >>> shown_time(1_700_000_000_500_000_000)
    '2023-11-14T22:13:20.500Z'
    """
    if time_ns is None:
        return "nothing"
    try:
        moment = datetime.datetime.fromtimestamp(time_ns // NS_PER_S, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % NS_PER_S // 1_000_000:03d}Z"


# Rules --------------------------------------------------------------------------------------------------------------


def violations(offer: FlexOffer) -> Iterator[Violation]:
    """What is wrong with an offer by itself, whenever it is looked at."""
    if not offer.offered_by:
        yield Violation("offered_by", "nothing", "an offer names its owner")
    for name in ("created_ns", "start_before_ns"):
        if getattr(offer, name) is None:
            yield Violation(name, "nothing", "an offer tells this time")
    yield from _order(offer)
    if not offer.slices:
        yield Violation("slices", "none", "a profile has at least one slice")
    for place in range(len(offer.slices)):
        yield from _of_slice(offer, place)
    yield from _total(offer)
    begin_ns = start_after_ns(offer)
    if begin_ns is not None and offer.end_before_ns is not None and begin_ns + shortest_ns(offer) > offer.end_before_ns:
        got = f"{shown_time(offer.end_before_ns)} with {shortest_ns(offer) / NS_PER_S:g} s of profile"
        yield Violation("end_before_ns", got, f"the profile ends before it when it begins at {shown_time(begin_ns)}")
    for name in ("default_schedule", "schedule"):
        schedule = getattr(offer, name)
        if schedule is not None and offer.slices:
            yield from (each._replace(field=f"{name}.{each.field}") for each in schedule_violations(offer, schedule))
    if offer.state == "assigned" and offer.schedule is None:
        yield Violation("schedule", "nothing", "an offer that is assigned has a schedule")


def _order(offer: FlexOffer) -> Iterator[Violation]:
    times = {
        "created_ns": offer.created_ns,
        "start_after_ns": start_after_ns(offer),
        "start_before_ns": offer.start_before_ns,
        "accept_before_ns": offer.accept_before_ns,
        "assign_before_ns": assign_before_ns(offer),
    }
    for first, second in (
        ("created_ns", "start_after_ns"),
        ("start_after_ns", "start_before_ns"),
        ("accept_before_ns", "start_before_ns"),
        ("assign_before_ns", "start_before_ns"),
        ("accept_before_ns", "assign_before_ns"),
    ):
        earlier_ns, later_ns = times[first], times[second]
        if earlier_ns is not None and later_ns is not None and earlier_ns > later_ns:
            yield Violation(first, shown_time(earlier_ns), f"not after `{second}` ({shown_time(later_ns)})")


def _of_slice(offer: FlexOffer, place: int) -> Iterator[Violation]:
    each, name = offer.slices[place], f"slices[{place}]"
    if not (math.isfinite(each.lower_kwh) and math.isfinite(each.upper_kwh)):
        yield Violation(f"{name}.lower_kwh", f"{each.lower_kwh:g} and {each.upper_kwh:g}", "bounds are finite numbers")
    elif each.lower_kwh > each.upper_kwh:
        yield Violation(f"{name}.lower_kwh", f"{each.lower_kwh:g}", f"not above `upper_kwh` ({each.upper_kwh:g})")
    if each.min_duration > each.max_duration:
        got, rule = str(each.min_duration), f"not above `max_duration` ({each.max_duration})"
        yield Violation(f"{name}.min_duration", got, rule)
    least, most = each.price_min_eur_per_kwh, each.price_max_eur_per_kwh
    for price in (least, most):
        if price is not None and not math.isfinite(price):
            yield Violation(f"{name}.price_min_eur_per_kwh", f"{price:g}", "prices are finite numbers")
    if least is not None and most is not None and least > most:
        got, rule = f"{least:g}", f"not above `price_max_eur_per_kwh` ({most:g})"
        yield Violation(f"{name}.price_min_eur_per_kwh", got, rule)


def _total(offer: FlexOffer) -> Iterator[Violation]:
    low, high = total_bounds_kwh(offer)
    if math.isnan(low) or math.isnan(high):
        yield Violation("total_lower_kwh", f"{low:g} and {high:g}", "bounds are numbers")
        return
    if low > high:
        yield Violation("total_lower_kwh", f"{low:g}", f"not above `total_upper_kwh` ({high:g})")
    least = sum(each.lower_kwh for each in offer.slices)
    most = sum(each.upper_kwh for each in offer.slices)
    if low > most + TOLERANCE_KWH:
        yield Violation("total_lower_kwh", f"{low:g}", f"not above what the slices can hold ({most:g})")
    if high < least - TOLERANCE_KWH:
        yield Violation("total_upper_kwh", f"{high:g}", f"not below what the slices must hold ({least:g})")


def total_bounds_kwh(offer: FlexOffer) -> tuple[float, float]:
    """Bounds of the sum over all slices; infinite where there is none."""
    return (
        -math.inf if offer.total_lower_kwh is None else offer.total_lower_kwh,
        math.inf if offer.total_upper_kwh is None else offer.total_upper_kwh,
    )


def reception_violations(offer: FlexOffer, now_ns: int, owner: str | None = None) -> Iterator[Violation]:
    """What is wrong with an offer for whoever receives it now, from `owner` if that is known."""
    for name, time_ns in (
        ("start_before_ns", offer.start_before_ns),
        ("accept_before_ns", offer.accept_before_ns),
        ("assign_before_ns", assign_before_ns(offer)),
    ):
        if time_ns is not None and time_ns < now_ns:
            yield Violation(name, shown_time(time_ns), f"not in the past (now {shown_time(now_ns)})")
    if owner is not None and offer.offered_by != owner:
        yield Violation("offered_by", f"'{offer.offered_by}'", f"the one who sends it ('{owner}')")


def limit_violations(offer: FlexOffer, limits: OfferLimits) -> Iterator[Violation]:
    """What of an offer a policy does not allow: how long it lasts, and when it may run."""
    longest_s = longest_ns(offer) / NS_PER_S
    if longest_s > limits.max_duration_s:
        rule = f"the profile lasts {limits.max_duration_s:g} s at most"
        yield Violation("slices", f"{longest_s:g} s", rule)
    begin_ns, start_before_ns = start_after_ns(offer), offer.start_before_ns
    if begin_ns is None or start_before_ns is None:
        return
    end_ns = start_before_ns + longest_ns(offer)
    if offer.end_before_ns is not None:
        end_ns = min(end_ns, offer.end_before_ns)
    if not is_within(limits, begin_ns, end_ns):
        window = f"{_of_day(limits.window_begin_s)} to {_of_day(limits.window_end_s)} UTC"
        got = f"{shown_time(begin_ns)} to {shown_time(end_ns)}"
        yield Violation("start_after_ns", got, f"the profile runs from {window}")


def is_within(limits: OfferLimits, begin_ns: int, end_ns: int) -> bool:
    """Whether a stretch of time lies within the hours of a day that the limits allow.

    >>> noon_ns = 43_200 * NS_PER_S
    >>> is_within(OfferLimits(window_begin_s=36_000, window_end_s=46_800), noon_ns, noon_ns + 3600 * NS_PER_S)
    True
    """
    length_s = (limits.window_end_s - limits.window_begin_s) % DAY_S or DAY_S
    if length_s == DAY_S:
        return True
    since_s = (begin_ns / NS_PER_S - limits.window_begin_s) % DAY_S
    return since_s + (end_ns - begin_ns) / NS_PER_S <= length_s


def _of_day(second: float) -> str:
    return f"{int(second) // 3600:02d}:{int(second) % 3600 // 60:02d}"


def schedule_violations(offer: FlexOffer, schedule: FlexSchedule) -> Iterator[Violation]:
    """What is wrong with a schedule of an offer: its start, its slices, each energy, and their sum."""
    begin_ns, start_before_ns = start_after_ns(offer), offer.start_before_ns
    if begin_ns is not None and schedule.start_ns < begin_ns:
        yield Violation(
            "start_ns", shown_time(schedule.start_ns), f"not before `start_after_ns` ({shown_time(begin_ns)})"
        )
    if start_before_ns is not None and schedule.start_ns > start_before_ns:
        rule = f"not after `start_before_ns` ({shown_time(start_before_ns)})"
        yield Violation("start_ns", shown_time(schedule.start_ns), rule)
    if len(schedule.slices) != len(offer.slices):
        yield Violation("slices", str(len(schedule.slices)), f"as many as the profile has ({len(offer.slices)})")
        return
    for place, (given, bound) in enumerate(zip(schedule.slices, offer.slices, strict=True)):
        if not bound.min_duration <= given.duration <= bound.max_duration:
            rule = f"from {bound.min_duration} to {bound.max_duration} intervals"
            yield Violation(f"slices[{place}].duration", str(given.duration), rule)
        if not bound.lower_kwh - TOLERANCE_KWH <= given.energy_kwh <= bound.upper_kwh + TOLERANCE_KWH:
            rule = f"from {bound.lower_kwh:g} to {bound.upper_kwh:g} kWh"
            yield Violation(f"slices[{place}].energy_kwh", f"{given.energy_kwh:g}", rule)
    low, high = total_bounds_kwh(offer)
    total = sum(each.energy_kwh for each in schedule.slices)
    if not low - TOLERANCE_KWH <= total <= high + TOLERANCE_KWH:
        yield Violation("slices", f"{total:g} kWh in all", f"from {low:g} to {high:g} kWh")
    last_ns = sum(each.duration for each in schedule.slices) * offer.interval_s * NS_PER_S
    if offer.end_before_ns is not None and schedule.start_ns + last_ns > offer.end_before_ns:
        got = shown_time(schedule.start_ns + last_ns)
        yield Violation("slices", f"an end at {got}", f"not after `end_before_ns` ({shown_time(offer.end_before_ns)})")
