"""Rules of FlexOffers: each one, and that all offers which are right break none."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from flexoffers import START_NS, STATES, a_schedule, an_offer, offers, schedules
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgeflex_flow.flexoffer import (
    NEXT,
    OfferLimits,
    advanced,
    assign_before_ns,
    is_final,
    is_later,
    is_within,
    limit_violations,
    longest_ns,
    may_follow,
    reception_violations,
    schedule_violations,
    send_before_ns,
    start_after_ns,
    violations,
)
from edgeflex_flow.messages import FlexOffer, FlexSlice, FlexState, decode_message, encode_message
from edgeflex_flow.units import NS_PER_S

S = NS_PER_S


def fields(offer: FlexOffer) -> list[str]:
    return [each.field for each in violations(offer)]


@given(offers())
def test_right_offers_break_no_rule_and_are_the_same_as_messages(offer: FlexOffer) -> None:
    assert [str(each) for each in violations(offer)] == []
    assert decode_message(encode_message(offer), (FlexOffer,)) == offer


def test_times_that_are_not_given_follow_from_others() -> None:
    offer = an_offer(start_after_ns=None, assign_before_ns=None, accept_before_ns=None)
    assert start_after_ns(offer) == assign_before_ns(offer) == offer.created_ns
    assert list(violations(offer)) == []
    assert send_before_ns(an_offer()) == START_NS - 40 * S


SLICE = FlexSlice(lower_kwh=0.0, upper_kwh=1.0)


@pytest.mark.parametrize(
    ("changes", "field", "text"),
    [
        ({"offered_by": ""}, "offered_by", "names its owner; got nothing"),
        ({"created_ns": None, "start_after_ns": START_NS}, "created_ns", "tells this time; got nothing"),
        ({"start_before_ns": None}, "start_before_ns", "tells this time"),
        ({"created_ns": START_NS + S, "assign_before_ns": START_NS}, "created_ns", "not after `start_after_ns`"),
        ({"start_after_ns": START_NS + S}, "start_after_ns", "not after `start_before_ns` (2023-11-14T22:15:00.000Z)"),
        (
            {"accept_before_ns": START_NS + S, "assign_before_ns": None, "start_after_ns": None},
            "accept_before_ns",
            "not after `assign_before_ns` (2023-11-14T22:14:00.000Z)",
        ),
        ({"assign_before_ns": START_NS + S}, "assign_before_ns", "got 2023-11-14T22:15:01.000Z"),
        ({"accept_before_ns": START_NS - 10 * S}, "accept_before_ns", "not after `assign_before_ns`"),
        ({"slices": ()}, "slices", "at least one slice; got none"),
        ({"slices": (FlexSlice(lower_kwh=2.0, upper_kwh=1.0),)}, "slices[0].lower_kwh", "not above `upper_kwh` (1)"),
        ({"slices": (SLICE, FlexSlice(lower_kwh=float("nan"), upper_kwh=1.0))}, "slices[1].lower_kwh", "finite"),
        ({"slices": (replace(SLICE, min_duration=3, max_duration=2),)}, "slices[0].min_duration", "got 3"),
        (
            {"slices": (replace(SLICE, price_min_eur_per_kwh=0.2, price_max_eur_per_kwh=0.1),)},
            "slices[0].price_min_eur_per_kwh",
            "not above `price_max_eur_per_kwh` (0.1); got 0.2",
        ),
        (
            {"slices": (replace(SLICE, price_max_eur_per_kwh=float("inf")),)},
            "slices[0].price_min_eur_per_kwh",
            "finite",
        ),
        ({"total_lower_kwh": 1.0, "total_upper_kwh": 0.5}, "total_lower_kwh", "not above `total_upper_kwh`"),
        ({"total_lower_kwh": 1.5}, "total_lower_kwh", "what the slices can hold (1)"),
        ({"total_upper_kwh": -2.5}, "total_upper_kwh", "what the slices must hold (-2)"),
        ({"total_upper_kwh": float("nan")}, "total_lower_kwh", "bounds are numbers"),
        ({"end_before_ns": START_NS + 1799 * S}, "end_before_ns", "the profile ends before it"),
        ({"state": "assigned"}, "schedule", "has a schedule"),
        ({"schedule": a_schedule(2.0, 0.0)}, "schedule.slices[0].energy_kwh", "from 0 to 1 kWh; got 2"),
        ({"default_schedule": a_schedule(1.0)}, "default_schedule.slices", "as many as the profile has (2); got 1"),
    ],
)
def test_each_rule_says_field_got_and_rule(changes: dict[str, Any], field: str, text: str) -> None:
    found = {each.field: str(each) for each in violations(an_offer(**changes))}
    assert list(found) == [field]
    assert text in found[field]


@pytest.mark.parametrize(
    ("schedule", "field", "text"),
    [
        (a_schedule(1.0, -1.0, start_ns=START_NS - 1), "start_ns", "not before `start_after_ns`"),
        (a_schedule(1.0, -1.0, start_ns=START_NS + 4 * S), "start_ns", "not after `start_before_ns`"),
        (a_schedule(1.0), "slices", "as many as the profile has (2); got 1"),
        (a_schedule(1.00011, -1.0), "slices[0].energy_kwh", "from 0 to 1 kWh"),
        (a_schedule(1.0, -2.0), "slices", "from -0.5 to 0.5 kWh; got -1 kWh in all"),
    ],
)
def test_each_rule_of_schedules_says_field_got_and_rule(schedule: Any, field: str, text: str) -> None:
    offer = an_offer(
        start_before_ns=START_NS + 3 * S,
        end_before_ns=START_NS + 1805 * S,
        total_lower_kwh=-0.5,
        total_upper_kwh=0.5,
    )
    [found] = schedule_violations(offer, schedule)
    assert found.field == field
    assert text in str(found)


def test_schedule_ends_when_the_offer_says() -> None:
    offer = an_offer(start_before_ns=START_NS + 10 * S, end_before_ns=START_NS + 1805 * S)
    assert list(schedule_violations(offer, a_schedule(1.0, -1.0, start_ns=START_NS + 5 * S))) == []
    [found] = schedule_violations(offer, a_schedule(1.0, -1.0, start_ns=START_NS + 6 * S))
    assert "not after `end_before_ns` (2023-11-14T22:45:05.000Z); got an end at 2023-11-14T22:45:06.000Z" in str(found)


def test_duration_of_a_scheduled_slice_is_one_that_the_profile_allows() -> None:
    schedule = a_schedule(1.0, -1.0)
    longer = replace(schedule, slices=(replace(schedule.slices[0], duration=2), schedule.slices[1]))
    [found] = schedule_violations(an_offer(), longer)
    assert str(found) == "`slices[0].duration`: from 1 to 1 intervals; got 2"


def test_energies_may_be_beyond_bounds_by_a_rounding_error() -> None:
    assert list(schedule_violations(an_offer(), a_schedule(1.00009, -2.00009))) == []


@given(st.data(), offers())
def test_schedules_within_all_bounds_break_no_rule(data: st.DataObject, offer: FlexOffer) -> None:
    assert [str(each) for each in schedule_violations(offer, data.draw(schedules(offer, 1)))] == []


@given(st.data(), offers(), st.floats(0.01, 100))
def test_an_energy_beyond_its_bounds_is_always_found(data: st.DataObject, offer: FlexOffer, beyond: float) -> None:
    schedule = data.draw(schedules(offer, 1))
    place = data.draw(st.integers(0, len(offer.slices) - 1))
    wrong = replace(schedule.slices[place], energy_kwh=offer.slices[place].upper_kwh + beyond)
    slices = (*schedule.slices[:place], wrong, *schedule.slices[place + 1 :])
    assert f"slices[{place}].energy_kwh" in [
        each.field for each in schedule_violations(offer, replace(schedule, slices=slices))
    ]


def test_offers_whose_time_is_over_or_of_others_are_found_at_reception() -> None:
    offer = an_offer()
    assert list(reception_violations(offer, START_NS - 50 * S, "201")) == []
    late = [each.field for each in reception_violations(offer, START_NS - 30 * S, "201")]
    assert late == ["accept_before_ns"]
    later = [each.field for each in reception_violations(offer, START_NS + S)]
    assert later == ["start_before_ns", "accept_before_ns", "assign_before_ns"]
    [foreign] = reception_violations(offer, START_NS - 50 * S, "202")
    assert str(foreign) == "`offered_by`: the one who sends it ('202'); got '201'"


def test_policies_limit_duration_and_time_of_day() -> None:
    offer = an_offer()  # 22:15 to 22:45 UTC
    assert list(limit_violations(offer, OfferLimits())) == []
    assert list(limit_violations(offer, OfferLimits(1800.0, 22 * 3600.0, 22.75 * 3600.0))) == []
    [long] = limit_violations(offer, OfferLimits(max_duration_s=1799.0))
    assert str(long) == "`slices`: the profile lasts 1799 s at most; got 1800 s"
    [early] = limit_violations(offer, OfferLimits(window_begin_s=22.3 * 3600.0, window_end_s=23 * 3600.0))
    assert "the profile runs from 22:18 to 23:00 UTC; got 2023-11-14T22:15:00.000Z" in str(early)
    [late] = limit_violations(offer, OfferLimits(window_begin_s=0.0, window_end_s=22.5 * 3600.0))
    assert late.field == "start_after_ns"


@given(st.integers(0, 86_399), st.integers(0, 86_399), st.integers(0, 86_399), st.integers(1, 86_400))
def test_a_stretch_is_within_hours_if_no_gap_cuts_it(begin: int, end: int, first: int, length: int) -> None:
    limits = OfferLimits(window_begin_s=begin, window_end_s=end)
    gap = (begin - end) % 86_400
    gaps = [end + day * 86_400 for day in range(-1, 3)] if gap else []
    is_cut = any(first < each + gap and each < first + length for each in gaps)
    assert is_within(limits, first * S, (first + length) * S) == (not is_cut)


def test_longest_profile_counts() -> None:
    slices = (replace(SLICE, max_duration=3), SLICE)
    assert longest_ns(an_offer(slices=slices)) == 4 * 900 * S


# States -------------------------------------------------------------------------------------------------------------


def test_states_are_those_of_the_message() -> None:
    assert set(NEXT) == set(get_args(FlexState))


def test_an_offer_goes_from_initial_to_executed() -> None:
    offer = an_offer(state="initial")
    for state in ("offered", "accepted", "assigned", "executed"):
        offer = advanced(offer, state, "why", a_schedule(1.0, -1.0) if state == "assigned" else None)
    assert (offer.state, offer.state_reason) == ("executed", "why")
    assert offer.schedule is not None


@given(STATES, STATES)
def test_later_states_are_those_that_steps_lead_to(before: FlexState, after: FlexState) -> None:
    reached = set(NEXT[before])
    while True:
        more = reached.union(*(NEXT[each] for each in reached))
        if more == reached:
            break
        reached = more
    assert is_later(before, after) == (after in reached)
    assert may_follow(before, after) <= is_later(before, after)
    assert not (is_later(before, after) and is_later(after, before))
    assert is_final(before) == (reached == set())


@given(STATES)
def test_any_state_but_an_end_may_turn_invalid_or_canceled(state: FlexState) -> None:
    assert is_final(state) or (may_follow(state, "invalid") and may_follow(state, "canceled"))


def test_a_step_that_may_not_follow_is_refused() -> None:
    with pytest.raises(ValueError, match="'accepted' cannot follow 'executed'; known: none"):
        advanced(an_offer(state="executed"), "accepted", "")
