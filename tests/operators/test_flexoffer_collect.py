"""What becomes of FlexOffers, as the answer to the request."""

from __future__ import annotations

from typing import Any

import pytest
from flexoffers import NOON_NS, POWERS, made, request
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Alarm, FlexOffer, FlexRequest, FlexResponse, FlexSchedule, FlexScheduleSlice
from edgeflex_flow.node import WireMessage
from edgeflex_flow.units import NS_PER_S
from edgeflex_operators.flexoffer_collect import (
    FlexofferCollectConfig,
    FlexofferCollectState,
    ask,
    offer,
    start,
    take,
    tick,
)

CONFIG = FlexofferCollectConfig(timeout=25.0)


def waiting(asked: FlexRequest, **settings_: Any) -> tuple[FlexofferCollectState, list[FlexOffer]]:
    """A collector that has seen the request and its offers, and one turn of the clock."""
    state = start(CONFIG)
    offers = made(asked, **settings_)
    assert ask(CONFIG, state, asked) == []
    for each in offers:
        assert offer(CONFIG, state, each) == []
    assert tick(CONFIG, state, NOON_NS) == []
    return state, offers


def assigned(each: FlexOffer, *shares: float, shift_s: int = 0) -> FlexOffer:
    """All slices with a share of what is offered."""
    given = [
        FlexScheduleSlice(energy_kwh=share * (part.lower_kwh + part.upper_kwh))
        for share, part in zip(shares * len(each.slices), each.slices, strict=False)
    ]
    assert each.start_after_ns is not None
    schedule = FlexSchedule(start_ns=each.start_after_ns + shift_s * NS_PER_S, slices=tuple(given))
    return FlexOffer(id=each.id, state="assigned", schedule=schedule)


def answer_of(told: list[WireMessage]) -> FlexResponse:
    [answer] = told
    assert isinstance(answer, FlexResponse)
    return answer


@given(
    st.lists(st.tuples(POWERS, POWERS), min_size=1, max_size=30),
    st.integers(-86_400 * NS_PER_S, 0),
    st.integers(0, 3600 * NS_PER_S),
    st.sampled_from([1.0, 60.0, 900.0, 3600.0]),
)
def test_offers_that_are_assigned_whole_give_back_the_request(
    rows: list[tuple[float, float]], time_ns: int, ahead_ns: int, step_s: float
) -> None:
    time_ns += NOON_NS
    asked = request(list(rows), time_ns=time_ns, begin_ns=time_ns + ahead_ns, step_s=step_s)
    state, offers = waiting(asked, max_duration=7 * 86_400.0)
    told: list[WireMessage] = []
    for each in offers:
        told += take(CONFIG, state, assigned(each, 1.0))
    answer = answer_of(told or tick(CONFIG, state, NOON_NS + NS_PER_S))
    assert (answer.nodes, answer.unit, answer.request_id, answer.variable) == (
        asked.nodes,
        "kW",
        "mpc@1",
        "active_power",
    )
    assert (answer.status, answer.reason) == ("full", "")
    assert list(answer.flex_response) == list(asked.flex_request)
    for key, row in asked.flex_request.items():
        assert answer.flex_response[key] == pytest.approx(row, abs=1e-6)


def test_request_without_a_time_is_answered_in_the_steps_that_were_offered() -> None:
    # At noon, for offers from a quarter past on: the first step may not be offered.
    asked = request([(-3.0, 0.0), (-2.0, 0.0), (-1.0, 0.0)], time_ns=None, begin_ns=None)
    state, [beyond, inside] = waiting(asked, window_begin=12.25 * 3600.0, window_end=22 * 3600.0)
    assert (beyond.state, inside.state) == ("invalid", "initial")
    answer = answer_of(take(CONFIG, state, assigned(inside, 1.0)))
    assert list(answer.flex_response.values()) == [(0.0, 0.0), (-2.0, 0.0), (-1.0, 0.0)]


ASKED = request([(-4.0, 2.0), (-8.0, 0.0)])


def test_parts_and_refusals_are_counted_and_told() -> None:
    state, [first, second] = waiting(ASKED)
    assert take(CONFIG, state, replace(first, state="accepted")) == []
    assert take(CONFIG, state, assigned(first, 0.5)) == []
    answer = answer_of(take(CONFIG, state, replace(second, state="rejected", state_reason="too dear")))
    assert answer.flex_response == {"prediction 1": (-2.0, 0.0), "prediction 2": (-4.0, 0.0)}
    assert (answer.status, answer.reason) == ("changed", "of 2 offers 1 assigned, 1 rejected (bay: too dear)")


def test_nothing_is_given_when_all_is_refused() -> None:
    state, offers = waiting(ASKED)
    told: list[WireMessage] = []
    for each in offers:
        told += take(CONFIG, state, FlexOffer(id=each.id, state="canceled", state_reason="no need"))
    answer = answer_of(told)
    assert answer.status == "none"
    assert answer.reason == "of 2 offers 2 canceled (24: no need, bay: no need)"
    assert set(answer.flex_response["prediction 1"]) == {0.0}


def test_late_and_missing_answers_are_not_waited_for() -> None:
    state, [first, second] = waiting(ASKED)
    take(CONFIG, state, replace(first, state="accepted"))
    assert tick(CONFIG, state, NOON_NS + 24 * NS_PER_S) == []
    answer = answer_of(tick(CONFIG, state, NOON_NS + 25 * NS_PER_S))
    assert answer.status == "none"
    assert answer.reason == "of 2 offers 2 without an answer in time (24: still accepted)"
    [alarm] = take(CONFIG, state, assigned(second, 1.0))
    assert isinstance(alarm, Alarm)
    assert "'mpc@1:bay' was assigned after 'mpc@1' had been answered" in alarm.text
    assert take(CONFIG, state, assigned(second, 1.0)) == []
    assert take(CONFIG, state, replace(first, state="canceled")) == []


def test_schedule_that_breaks_the_bounds_of_its_offer_is_not_used() -> None:
    state, [first, second] = waiting(ASKED)
    take(CONFIG, state, assigned(first, 1.5))
    answer = answer_of(take(CONFIG, state, FlexOffer(id=second.id, state="assigned")))
    assert answer.status == "none"
    assert "of 2 offers 2 unusable (24: schedule: `slices[0].energy_kwh`: from -1 to 0 kWh; got -1.5" in answer.reason
    assert "bay: assigned without a schedule" in answer.reason


def test_what_could_not_be_offered_is_told() -> None:
    state, offers = waiting(ASKED, max_duration=900.0)
    assert [each.state for each in offers] == ["initial", "invalid", "initial"]
    assert take(CONFIG, state, assigned(offers[0], 1.0)) == []
    answer = answer_of(take(CONFIG, state, assigned(offers[2], 1.0)))
    assert answer.flex_response == {"prediction 1": (-4.0, 2.0), "prediction 2": (0.0, 0.0)}
    assert answer.reason == "of 3 offers 2 assigned, 1 not offered (24: beyond the longest profile of 900 s)"


def test_what_runs_beyond_the_steps_that_were_asked_for_is_told() -> None:
    state, [each] = waiting(request([(0.0, 0.0), (4.0, 0.0)]), start_within=1800.0)
    answer = answer_of(take(CONFIG, state, assigned(each, 1.0, shift_s=900)))
    assert answer.flex_response == {"prediction 1": (0.0, 0.0), "prediction 2": (0.0, 0.0)}
    assert (answer.status, answer.reason) == (
        "none",
        "of 1 offers 1 assigned (24: its schedule runs beyond the steps that were asked for)",
    )


def test_an_offer_of_another_owner_under_the_same_id_is_passed_over() -> None:
    state, [each] = waiting(request([(4.0, 0.0)]))
    assert take(CONFIG, state, replace(assigned(each, 0.5), offered_by="site_13")) == []
    answer = answer_of(take(CONFIG, state, replace(assigned(each, 1.0), offered_by="site_12")))
    assert answer.flex_response == {"prediction 1": (4.0, 0.0)}


def test_schedule_that_begins_a_step_later_counts_a_step_later() -> None:
    state, [each] = waiting(request([(4.0, 0.0), (8.0, 0.0), (0.0, 0.0)]), start_within=1800.0)
    answer = answer_of(take(CONFIG, state, assigned(each, 1.0, shift_s=900)))
    assert [row[0] for row in answer.flex_response.values()] == [0.0, 4.0, 8.0]
    assert answer.status == "changed"


def test_states_that_cannot_follow_and_offers_of_others_change_nothing() -> None:
    state, [first, second] = waiting(ASKED)
    take(CONFIG, state, assigned(first, 1.0))
    assert take(CONFIG, state, replace(first, state="accepted")) == []
    assert take(CONFIG, state, replace(first, state="offered")) == []
    assert take(CONFIG, state, FlexOffer(id="of others", state="rejected")) == []
    answer = answer_of(take(CONFIG, state, assigned(second, 1.0)))
    assert answer.status == "full"


def test_offers_that_are_executed_when_they_are_first_seen_count_as_assigned() -> None:
    state, offers = waiting(ASKED)
    told: list[WireMessage] = []
    for each in offers:
        told += take(CONFIG, state, replace(assigned(each, 1.0), state="executed"))
    assert answer_of(told).status == "full"


def test_request_of_nothing_is_answered_with_nothing_in_full() -> None:
    state, offers = waiting(request([(0.0, 1e-4)]))
    assert offers == []
    answer = answer_of(tick(CONFIG, state, NOON_NS + NS_PER_S))
    assert (answer.status, answer.flex_response) == ("full", {"prediction 1": (0.0, 0.0)})


def test_request_that_comes_twice_is_answered_once() -> None:
    state, offers = waiting(ASKED)
    told = [message for each in offers for message in take(CONFIG, state, assigned(each, 1.0))]
    assert len(told) == 1
    assert ask(CONFIG, state, ASKED) == []
    assert offer(CONFIG, state, offers[0]) == []
    assert tick(CONFIG, state, NOON_NS + NS_PER_S) == tick(CONFIG, state, NOON_NS + 60 * NS_PER_S) == []


def test_two_requests_may_wait_at_once() -> None:
    state, offers = waiting(ASKED)
    other = replace(ASKED, id="vpp@2")
    more = made(other)
    ask(CONFIG, state, other)
    for each in more:
        offer(CONFIG, state, each)
    tick(CONFIG, state, NOON_NS + NS_PER_S)
    told = [message for each in (*more, *offers) for message in take(CONFIG, state, assigned(each, 1.0))]
    assert [each.request_id for each in told if isinstance(each, FlexResponse)] == ["vpp@2", "mpc@1"]


def test_request_that_nothing_names_is_refused() -> None:
    with pytest.raises(BadMessageError, match="by which its answer is told"):
        ask(CONFIG, start(CONFIG), replace(ASKED, id="", time_ns=None))
    with pytest.raises(BadMessageError, match="2 nodes"):
        ask(CONFIG, start(CONFIG), request([(1.0,)]))


def test_offer_that_is_canceled_after_its_assignment_was_answered_raises_an_alarm() -> None:
    state, [first, second] = waiting(ASKED)
    take(CONFIG, state, assigned(first, 1.0))
    assert answer_of(take(CONFIG, state, assigned(second, 1.0))).status == "full"
    assert take(CONFIG, state, assigned(first, 1.0)) == []
    canceled = replace(first, state="canceled", state_reason="line is out")
    [alarm] = take(CONFIG, state, canceled)
    assert isinstance(alarm, Alarm)
    assert alarm.text == (
        f"offer '{first.id}' became canceled (line is out) after its assignment had been told in the answer to "
        "'mpc@1': the market counts on it no more"
    )
    assert take(CONFIG, state, canceled) == []
    assert take(CONFIG, state, replace(second, state="executed")) == []
    assert state.promised == {}


def test_offer_whose_schedule_was_unusable_may_be_canceled_without_an_alarm() -> None:
    state, [first, second] = waiting(ASKED)
    take(CONFIG, state, assigned(first, 2.0))
    take(CONFIG, state, assigned(second, 1.0))
    assert take(CONFIG, state, replace(first, state="canceled")) == []
