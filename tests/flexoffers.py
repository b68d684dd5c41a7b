"""FlexOffers for tests: a right one, and strategies for all that are right."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from edgeflex_flow.flexoffer import NEXT
from edgeflex_flow.messages import FlexOffer, FlexRequest, FlexSchedule, FlexScheduleSlice, FlexSlice, FlexState
from edgeflex_flow.units import NS_PER_S
from edgeflex_operators.flexoffer_make import FlexofferMakeConfig, make, start, tick

START_NS = 1_700_000_100 * NS_PER_S
"""The beginning of a quarter of an hour."""


def an_offer(**changes: Any) -> FlexOffer:
    """Two slices: production of up to 1 kWh, then consumption of up to 2 kWh."""
    fields: dict[str, Any] = {
        "id": "7",
        "state": "offered",
        "offered_by": "201",
        "location": "24",
        "created_ns": START_NS - 60 * NS_PER_S,
        "accept_before_ns": START_NS - 40 * NS_PER_S,
        "assign_before_ns": START_NS - 20 * NS_PER_S,
        "start_after_ns": START_NS,
        "start_before_ns": START_NS,
        "slices": (
            FlexSlice(lower_kwh=0.0, upper_kwh=1.0, price_min_eur_per_kwh=0.1, price_max_eur_per_kwh=0.1),
            FlexSlice(lower_kwh=-2.0, upper_kwh=0.0, price_min_eur_per_kwh=0.1, price_max_eur_per_kwh=0.1),
        ),
    }
    return FlexOffer(**{**fields, **changes})


def a_schedule(*energies_kwh: float, start_ns: int = START_NS, **changes: Any) -> FlexSchedule:
    return FlexSchedule(
        start_ns=start_ns, slices=tuple(FlexScheduleSlice(energy_kwh=each) for each in energies_kwh), **changes
    )


ENERGIES = st.floats(-1e4, 1e4, allow_subnormal=False)
PRICES = st.none() | st.floats(-1, 1, allow_subnormal=False)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)
STATES: st.SearchStrategy[FlexState] = st.sampled_from(sorted(NEXT))


@st.composite
def slices(draw: st.DrawFn) -> FlexSlice:
    low, high = sorted((draw(ENERGIES), draw(ENERGIES)))
    shortest, longest = sorted((draw(st.integers(1, 8)), draw(st.integers(1, 8))))
    least, most = draw(PRICES), draw(PRICES)
    if least is not None and most is not None and least > most:
        least, most = most, least
    return FlexSlice(
        lower_kwh=low,
        upper_kwh=high,
        min_duration=shortest,
        max_duration=longest,
        price_min_eur_per_kwh=least,
        price_max_eur_per_kwh=most,
    )


@st.composite
def schedules(draw: st.DrawFn, offer: FlexOffer, tick_ns: int) -> FlexSchedule:
    """One that keeps all bounds of an offer."""
    assert offer.start_after_ns is not None
    assert offer.start_before_ns is not None
    steps = (offer.start_before_ns - offer.start_after_ns) // tick_ns
    least = sum(each.lower_kwh for each in offer.slices)
    most = sum(each.upper_kwh for each in offer.slices)
    low = least if offer.total_lower_kwh is None else offer.total_lower_kwh
    high = most if offer.total_upper_kwh is None else offer.total_upper_kwh
    share = 0.0 if most == least else ((low + high) / 2 - least) / (most - least)
    return FlexSchedule(
        start_ns=offer.start_after_ns + draw(st.integers(0, steps)) * tick_ns,
        slices=tuple(
            FlexScheduleSlice(
                energy_kwh=each.lower_kwh + share * (each.upper_kwh - each.lower_kwh),
                duration=draw(st.integers(each.min_duration, each.max_duration)),
                price_eur_per_kwh=draw(PRICES),
            )
            for each in offer.slices
        ),
        update=draw(st.integers(0, 9)),
    )


@st.composite
def offers(draw: st.DrawFn, *, tick_ns: int = 1, ids: st.SearchStrategy[str] = TEXTS) -> FlexOffer:
    """Any that break no rule; times are whole multiples of `tick_ns`."""
    times = st.integers(0, 10**6 * NS_PER_S // tick_ns).map(lambda each: each * tick_ns)
    base = 1_600_000_000 * NS_PER_S
    created, accept, assign, start_before = sorted(base + draw(times) for _ in range(4))
    steps = (start_before - created) // tick_ns
    start_after = created + draw(st.integers(0, steps)) * tick_ns
    profile = tuple(draw(st.lists(slices(), min_size=1, max_size=5)))
    least, most = sum(each.lower_kwh for each in profile), sum(each.upper_kwh for each in profile)
    low, high = sorted(least + (most - least) * draw(st.integers(0, 8)) / 8 for _ in range(2))
    offer = FlexOffer(
        id=draw(ids),
        state=draw(STATES),
        state_reason=draw(st.just("") | TEXTS),
        offered_by=draw(ids),
        location=draw(st.just("") | TEXTS),
        created_ns=created,
        accept_before_ns=draw(st.none() | st.just(accept)),
        assign_before_ns=assign,
        start_after_ns=start_after,
        start_before_ns=start_before,
        interval_s=draw(st.sampled_from([1, 60, 900, 3600])),
        slices=profile,
        total_lower_kwh=draw(st.none() | st.just(low)),
        total_upper_kwh=draw(st.none() | st.just(high)),
    )
    given = draw(schedules(offer, tick_ns))
    has_default = draw(st.booleans())
    changes: dict[str, Any] = {"schedule": given if offer.state in ("assigned", "executed") else None}
    changes["default_schedule"] = given if has_default else None
    return FlexOffer(**{name: getattr(offer, name) for name in offer.__struct_fields__} | changes)


# Requests that become offers ------------------------------------------------------------------------------------------

NOON_NS = 1_700_049_600 * NS_PER_S  # 2023-11-15T12:00:00Z
STEP_NS = 900 * NS_PER_S


def request(rows: list[tuple[float, ...]], **changes: Any) -> FlexRequest:
    fields: dict[str, Any] = {
        "variable": "active_power",
        "nodes": (24, "bay"),
        "unit": "kW",
        "flex_request": {f"prediction {place + 1}": row for place, row in enumerate(rows)},
        "id": "mpc@1",
        "time_ns": NOON_NS,
        "begin_ns": NOON_NS,
        "step_s": 900.0,
    }
    return FlexRequest(**{**fields, **changes})


def made(asked: FlexRequest, **settings_: Any) -> list[FlexOffer]:
    """At noon by the clock, for a request that does not say when it was made."""
    config = FlexofferMakeConfig(**{"offered_by": "site_12", **settings_})
    state = start(config)
    assert tick(config, state, NOON_NS) == []
    return make(config, state, asked)


POWERS = st.floats(-1e4, 1e4).map(lambda each: each if abs(each) > 1e-2 else 0.0)
