"""What follows when a link is bad, and when the network gives, refuses or takes away a better quality."""

from __future__ import annotations

import pickle
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from control_cases import Bench, S
from hypothesis import given, settings
from hypothesis import strategies as st
from link_cases import (
    DEVICE,
    RATE,
    START_S,
    GuardedLink,
    Reaction,
    asked,
    config,
    gives,
    guarded,
    ignores,
    refuses,
    requests,
    row,
    severities,
    status,
    texts,
)

from edgeflex_flow.errors import BadMessageError, ConfigError
from edgeflex_flow.messages import Alarm, DeadLetter, LinkQosRequest, LinkStatus, Quality
from edgeflex_flow.node import WireMessage
from edgeflex_operators.link_guard import NODE, start, step, take_status

SYNC_LOST = int(Quality.SYNC_LOST)


def test_a_good_link_is_left_alone() -> None:
    link = guarded()
    assert link.run(300, latency_s=0.15) == []


def test_rows_that_waited_while_the_flow_began_say_nothing_of_the_link() -> None:
    link = GuardedLink(Bench(NODE, config()))
    for number in range(50):  # five seconds of them, all received now
        link.bench.take(row(number / 10 - 5.0, 0.5))
    assert link.run(60) == []


def test_rows_that_waited_while_the_flow_stood_still_say_nothing_of_the_link() -> None:
    link = guarded(ignores)
    assert link.run(20) == []
    link.now_s += 30
    for number in range(300):
        link.bench.take(row(20.0 + number / 10, 50.5))
    link.now_s += 1
    assert link.bench.tick(START_S + link.now_s) == []


def test_a_latency_above_its_budget_is_told_and_the_first_profile_asked_for_once_it_has_lasted() -> None:
    link = guarded(ignores)
    told = link.run(20, latency_s=0.35)
    [request] = requests(told)
    assert (request.device, request.action, request.profile, request.valid_for_s) == (DEVICE, "raise", "QOS_S", 30.0)
    # Rows of the window, of which one in twenty decides, and the hold.
    assert 5.0 <= request.time_ns / S - START_S - 20.0 <= 8.0
    assert request.reason == "latency 350 ms, budget 200 ms"
    assert texts(told) == [
        "latency 350 ms, budget 200 ms; the network has said nothing of a device of this name yet; QOS_S is asked for"
    ]
    assert severities(told) == ["warning"]


def test_a_latency_that_is_over_within_the_hold_is_nothing() -> None:
    link = guarded(window=2.0)
    assert [*link.run(3, latency_s=0.35), *link.run(30)] == []


def test_lost_rows_are_told_and_asked_against() -> None:
    link = guarded()
    told = link.run(20, lose_every=20)
    assert asked(told)[0][1:] == ("raise", "QOS_S")
    assert re.match(r"[45]\.\d% of its rows are missing, budget 1\.0%; ", texts(told)[0])


def test_what_the_network_measures_stands_in_the_alarm() -> None:
    link = guarded()
    link.hear(status(20, latency_s=0.3, loss=0.02, meets_profile={"latency": False, "loss": True}))
    [text] = texts(link.run(10, latency_s=0.35))
    assert "; the network says: latency 300 ms, loss 2.0%, no latency as its profile promises; " in text


def test_the_next_better_profile_is_asked_for_once_the_first_one_was_given_and_does_not_help() -> None:
    link = guarded()
    steps = asked(link.run(120, latency_s=0.35))
    assert [step[1:] for step in steps] == [("raise", "QOS_S"), ("raise", "QOS_M")]
    given_s = steps[0][0] + 1.0
    assert steps[1][0] - given_s >= 15.0  # rows from before are out of the window, and the hold is over
    assert texts(link.given) == [
        "latency 350 ms, budget 200 ms; the network has said nothing of a device of this name yet; QOS_S is asked for",
    ]


def test_a_quality_is_given_back_when_the_link_has_been_good_for_long_enough() -> None:
    link = guarded()
    link.run(10, latency_s=0.35)
    told = link.run(100)
    [(time_s, action, profile)] = asked(told)
    assert (action, profile) == ("release", None)
    assert 60.0 <= time_s - 30.0 <= 75.0
    assert requests(told)[0].reason.startswith("the link has been good for 60 s")
    assert severities(told) == ["info"]
    assert link.run(300) == []


def given_back_after(link: GuardedLink) -> int:
    """How long a link that was bad for 10 s has a quality once it is good again, in seconds."""
    link.run(10, latency_s=0.35)
    for seconds in range(1, 1000):
        if any(each.action == "release" for each in requests(link.run(1))):
            return seconds
    raise AssertionError("it was never given back")


def test_a_quality_that_was_given_back_too_early_stays_twice_as_long_the_next_time() -> None:
    link = guarded()
    assert [given_back_after(link) for _ in range(3)] == pytest.approx([70, 130, 250], abs=5)


def test_a_quality_that_was_not_missed_for_long_stays_as_long_as_the_first_time() -> None:
    link = guarded()
    first = given_back_after(link)
    link.run(300)
    assert given_back_after(link) == pytest.approx(first, abs=2)


def test_a_refusal_is_told_once_and_asked_again_after_growing_waits() -> None:
    link = guarded(refuses)
    told = link.run(600, latency_s=0.35)
    times = [time_s for time_s, _, _ in asked(told)]
    gaps = np.diff(times)
    assert gaps[0] == pytest.approx(31.0, abs=1.0)
    assert gaps[1] == pytest.approx(61.0, abs=1.0)
    assert gaps[2] == pytest.approx(121.0, abs=1.0)
    assert {profile for _, _, profile in asked(told)} == {"QOS_S"}
    assert "the network refuses QOS_S: CONFLICT: the cell is full; it is asked again in 30 s if it is needed then" in (
        texts(told)
    )
    assert len(severities(told)) == 2


def test_what_is_not_answered_is_asked_again_after_growing_waits() -> None:
    link = guarded(ignores)
    told = link.run(700, latency_s=0.35)
    gaps = np.diff([time_s for time_s, _, _ in asked(told)])
    assert gaps[:3].tolist() == pytest.approx([90.0, 120.0, 180.0], abs=1.0)
    assert "no answer to what was asked for, QOS_S, within 60 s; it is asked again in 30 s if it is needed then" in (
        texts(told)
    )


def test_an_old_refusal_is_no_answer_to_a_new_request() -> None:
    link = guarded(ignores)
    old = status(19, "QOS_S", "ended", reason="NETWORK_TERMINATED")
    link.hear(old)
    link.run(10, latency_s=0.35)
    link.hear(old)
    link.run(1, latency_s=0.35)
    assert link.bench.state.links[DEVICE].wish.asked is not None
    link.hear(status(31, "QOS_S", "ended", reason="NETWORK_TERMINATED"))
    assert link.bench.state.links[DEVICE].wish.asked is None


def test_a_session_that_the_network_ends_is_asked_for_again_while_it_is_needed() -> None:
    link = guarded()
    link.run(20, latency_s=0.35)
    link.hear(status(41, "QOS_S", "ended", reason="DURATION_EXPIRED"))
    told = link.run(50)
    assert [step[1:] for step in asked(told)] == []  # good in the meantime, and nothing is in force
    link = guarded()
    link.run(20, latency_s=0.35)
    link.hear(status(41, "QOS_S", "ended", reason="DURATION_EXPIRED"))
    told = link.run(50, latency_s=0.35)
    assert asked(told)[0][1:] == ("raise", "QOS_S")
    assert asked(told)[0][0] - 40.0 == pytest.approx(30.0, abs=1.5)
    assert any("QOS_S is not in force any more: DURATION_EXPIRED" in text for text in texts(told))


def test_a_session_whose_time_is_over_does_not_count_though_nobody_said_so() -> None:
    def gives_for_half_a_minute(request: LinkQosRequest) -> LinkStatus:
        told = gives(request)
        return msgspec.structs.replace(told, qos_expires_ns=told.time_ns + 30 * S)

    link = guarded(gives_for_half_a_minute, profiles=("QOS_S",), best_profile=None)
    steps = asked(link.run(60, latency_s=0.35))
    assert [step[1:] for step in steps] == [("raise", "QOS_S")] * 2
    assert steps[1][0] - steps[0][0] == pytest.approx(31.0, abs=1.0)


def test_a_network_that_cannot_hold_what_it_gave_is_told() -> None:
    link = guarded()
    link.run(20, latency_s=0.35)
    link.hear(status(41, "QOS_S", "not_guaranteed", reason="QOS_NOT_GUARANTEED"))
    assert "the network cannot hold QOS_S for now: QOS_NOT_GUARANTEED" in texts(link.run(1, latency_s=0.35))


def test_a_device_that_falls_silent_is_noticed_and_nothing_asked_for_it() -> None:
    link = guarded()
    told = link.run(60, silent=True)
    assert severities(told) == ["critical"]
    assert texts(told)[0].startswith("nothing has come for 3.0 s; the network has said nothing of a device")
    assert requests(told) == []
    assert severities(link.run(60))[-1] == "info"


def test_a_device_that_the_network_does_not_reach_gets_no_quality_and_one_that_it_reaches_does() -> None:
    link = guarded()
    link.hear(status(20, reachable=False))
    told = link.run(30, silent=True)
    assert texts(told) == ["nothing has come for 3.0 s; the network does not reach it"]
    assert requests(told) == []
    link.hear(status(50, reachable=True))
    assert asked(link.run(5, silent=True))[0][1:] == ("raise", "QOS_S")


def test_what_a_device_has_that_stays_silent_is_given_back() -> None:
    link = guarded()
    link.run(20, latency_s=0.35)
    steps = [step[1:] for step in asked(link.run(300, silent=True))]
    assert steps[-1] == ("release", None)
    assert steps.count(("release", None)) == 1


def test_a_clock_that_is_ahead_is_told_and_is_no_good_latency() -> None:
    link = guarded()
    told = link.run(30, clock_s=2.0, latency_s=0.35)
    assert any(
        text.startswith("its clock is 1.65 s ahead of the site's; its latency is not known") for text in texts(told)
    )
    assert requests(told) == []
    assert texts(link.run(30))[-1] == "its clock is right again"


def test_a_clock_that_is_far_behind_is_no_bad_latency() -> None:
    link = guarded()
    told = link.run(30, clock_s=-37.0)
    assert any("is wrong: rows come 37" in text for text in texts(told))
    assert requests(told) == []


def test_rows_without_utc_tell_of_losses_alone() -> None:
    link = guarded()
    told = link.run(30, latency_s=0.5, quality=SYNC_LOST)
    assert texts(told) == ["its clock is not set by UTC; its latency is not known"]
    assert asked(link.run(20, latency_s=0.5, quality=SYNC_LOST, lose_every=10))[0][1:] == ("raise", "QOS_S")


def test_a_link_that_was_slow_is_not_good_while_its_latency_is_not_known() -> None:
    link = guarded()
    link.run(10, latency_s=0.35)
    assert requests(link.run(200, quality=SYNC_LOST)) == []
    assert asked(link.run(100))[-1][1:] == ("release", None)


def test_a_quality_of_others_is_left_alone() -> None:
    link = guarded()
    link.hear(status(20, "GOLD", "available"))
    told = link.run(60, latency_s=0.35)
    assert requests(told) == []
    assert "it has GOLD, which is not among what may be asked for here" in texts(told)[0]


def test_a_quality_of_others_counts_but_is_not_given_back() -> None:
    link = guarded()
    link.hear(status(20, "QOS_S", "available"))
    assert [step[1:] for step in asked(link.run(40, latency_s=0.35))] == [("raise", "QOS_M")]
    link = guarded()
    link.hear(status(20, "QOS_M", "available"))
    told = link.run(60, latency_s=0.35)
    assert requests(told) == []
    assert "QOS_M is in force, and nothing better may be asked for" in texts(told)[0]
    assert requests(link.run(300)) == []


def test_a_quality_that_others_gave_before_ours_was_answered_is_not_given_back() -> None:
    link = guarded(ignores)
    link.run(12, latency_s=0.35)
    link.hear(status(33, "GOLD", "available"))
    assert requests(link.run(200, latency_s=0.35)) == []


def test_better_quality_of_others_is_not_taken_away() -> None:
    link = guarded(best_profile=None)
    link.run(20, latency_s=0.35)
    link.hear(status(41, "QOS_L", "available"))
    assert requests(link.run(100, latency_s=0.35)) == []


def test_a_policy_that_allows_less_takes_effect_at_once() -> None:
    link = guarded()
    link.run(100, latency_s=0.35)
    assert link.bench.state.links[DEVICE].wish.in_force == "QOS_M"
    link.bench.config = config(best_profile="QOS_S")
    told = link.run(60, latency_s=0.35)
    assert [step[1:] for step in asked(told)] == [("release", None), ("raise", "QOS_S")]
    assert asked(told)[0][0] == 121.0
    assert requests(told)[0].reason == "QOS_M may not be asked for any more"
    link.bench.config = config(best_profile="none")
    assert [step[1:] for step in asked(link.run(60, latency_s=0.35))] == [("release", None)]


def test_what_is_asked_for_when_a_policy_forbids_it_is_taken_back() -> None:
    link = guarded(ignores)
    link.run(12, latency_s=0.35)
    assert link.bench.state.links[DEVICE].wish.asked is not None
    link.bench.config = config(best_profile="none")
    assert [step[1:] for step in asked(link.run(60, latency_s=0.35))] == [("release", None)]


def test_what_is_forbidden_is_given_back_at_once_though_something_better_was_refused_just_before() -> None:
    link = guarded(lambda request: refuses(request) if request.profile == "QOS_M" else gives(request))
    link.run(30, latency_s=0.35)
    link.hear(status(51, "QOS_S", "available"))  # which the service brings back
    assert link.bench.state.links[DEVICE].wish.failures == 1
    link.bench.config = config(best_profile="none")
    assert [step[1:] for step in asked(link.run(1, latency_s=0.35))] == [("release", None)]


def test_a_release_that_is_not_answered_is_asked_again_after_growing_waits() -> None:
    link = guarded()
    link.run(10, latency_s=0.35)
    link.network = ignores
    told = [step for step in asked(link.run(600)) if step[1] == "release"]
    assert np.diff([time_s for time_s, _, _ in told])[:2].tolist() == pytest.approx([90.0, 120.0], abs=1.0)


def test_a_policy_may_change_the_budgets() -> None:
    link = guarded()
    link.bench.config = config(latency_budget=0.03)
    assert asked(link.run(20))[0][1:] == ("raise", "QOS_S")


def test_without_profiles_there_are_alarms_alone() -> None:
    link = guarded(profiles=(), best_profile=None)
    told = link.run(60, latency_s=0.35)
    assert texts(told) == [
        "latency 350 ms, budget 200 ms; the network has said nothing of a device of this name yet; "
        "no better quality may be asked for"
    ]
    assert requests(told) == []


def test_devices_are_told_apart() -> None:
    bench = Bench(NODE, config())
    for second in range(40):
        for tenth in range(10):
            time_s = second + tenth / 10
            bench.take(row(time_s, time_s + 0.05, device="A"))
            bench.take(row(time_s, time_s + 0.4, device="B"))
        bench.tick(START_S + second + 1)
    assert {each.device for each in bench.told if isinstance(each, Alarm | LinkQosRequest)} == {"B"}


def test_a_status_that_comes_too_late_is_dropped() -> None:
    state = start(config())
    take_status(config(), state, status(20, "QOS_S", "available"))
    with pytest.raises(BadMessageError, match="older than the last one") as caught:
        take_status(config(), state, status(19, "QOS_S", "ended"))
    assert caught.value.reason == "out_of_order"
    assert state.links[DEVICE].wish.here(0) == "QOS_S"


def test_devices_beyond_the_limit_are_dropped_and_counted() -> None:
    few, state = config(max_devices=1), start(config())
    assert step(few, state, row(0, 0, device="A")) == []
    [letter] = step(few, state, row(0, 0, device="B"))
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.count) == ("too_many_devices", 1)
    take_status(few, state, status(0, device="A"))
    with pytest.raises(BadMessageError, match="beyond max_devices"):
        take_status(few, state, status(0, device="B"))


def test_malformed_batches_are_refused() -> None:
    batch = msgspec.structs.replace(row(0, 0), devices=())
    with pytest.raises(BadMessageError) as caught:
        step(config(), start(config()), batch)
    assert caught.value.reason == "malformed_samples"


@pytest.mark.parametrize("jump_s", [-3600, 3600, -5, 5])
def test_a_clock_of_the_site_that_is_set_makes_nobody_silent(jump_s: int) -> None:
    bench = Bench(NODE, config(plausible=5000.0))
    told: list[WireMessage] = []
    for second in range(60):
        shift = jump_s if second >= 30 else 0
        for tenth in range(10):
            time_s = second + shift + tenth / 10
            bench.take(row(time_s, time_s + 0.05))
        told += bench.tick(START_S + second + shift + 1)
    assert "critical" not in severities(told)
    assert requests(told) == []


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"profiles": ("QOS_S", "QOS_S"), "best_profile": None}, "names something twice"),
        ({"profiles": ("none",), "best_profile": None}, "no profile can be called 'none'"),
        (
            {"best_profile": "QOS_E"},
            "`best_profile` is none of `profiles`; got 'QOS_E'; known: QOS_S, QOS_M, QOS_L, none",
        ),
        ({"valid_for": 90.0}, "what counts as not answered could still be sent"),
        ({"retry_max": 10.0}, "must not be less than `retry_min`"),
        ({"retry_max": 50.0}, "waits could not grow"),
        ({"plausible": 0.1}, "is not above latency_budget"),
        ({"window": 0.5}, "is shorter than period"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        config(**values)


# Any course ----------------------------------------------------------------------------------------------------------

REACTIONS: dict[str, Reaction] = {"gives": gives, "refuses": refuses, "ignores": ignores}
COURSES = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.sampled_from([0.05, 0.19, 0.35, None]),
        st.sampled_from(sorted(REACTIONS)),
        st.sampled_from(["none", "QOS_S", "QOS_M", "QOS_L"]),
        st.sampled_from(["", "", "", "ends", "unreachable", "foreign"]),
    ),
    min_size=1,
    max_size=12,
)
Course = list[tuple[int, float | None, str, str, str]]


class Watched(GuardedLink):
    """Holds each request against what is allowed."""

    free_from_s: float = 0.0
    """When a raise may follow on the last one at the earliest."""

    def look(self, told: list[WireMessage], allowed: tuple[str, ...], within_s: float) -> None:
        for request in requests(told):
            time_s = request.time_ns / S - START_S
            if request.action == "raise":
                assert request.profile in allowed
                assert time_s >= self.free_from_s
                self.free_from_s = time_s + within_s
            else:
                self.free_from_s = time_s

    def hear(self, said: LinkStatus) -> None:
        super().hear(said)
        self.free_from_s = 0.0


def run_course(course: Course, *, pickled: bool = False) -> list[WireMessage]:
    link = Watched(Bench(NODE, config(hold=2.0, window=3.0, release_after=20.0)))
    for seconds, latency_s, reaction, best, event in course:
        link.bench.config = used = config(hold=2.0, window=3.0, release_after=20.0, best_profile=best)
        link.network = REACTIONS[reaction]
        if event == "ends":
            link.hear(status(link.now_s, "QOS_S", "ended", reason="NETWORK_TERMINATED"))
        elif event == "unreachable":
            link.hear(status(link.now_s, reachable=False))
        elif event == "foreign":
            link.hear(status(link.now_s, "GOLD", "available"))
        for _ in range(seconds):
            told = link.run(1, latency_s=latency_s or 0.05, silent=latency_s is None)
            link.look(told, used.allowed, used.answer_within)
            if pickled:
                link.bench.state = pickle.loads(pickle.dumps(link.bench.state))
    return link.given


@given(COURSES)
@settings(max_examples=60)
def test_never_two_raises_without_an_answer_and_never_more_than_is_allowed(course: Course) -> None:
    run_course(course)


@given(COURSES)
@settings(max_examples=15)
def test_the_same_course_gives_the_same_also_when_the_state_is_kept_and_taken_up_again(course: Course) -> None:
    assert run_course(course) == run_course(course, pickled=True)


@given(COURSES)
@settings(max_examples=10)
def test_a_link_that_stays_good_ends_without_a_quality_of_ours(course: Course) -> None:
    link = Watched(Bench(NODE, config(hold=2.0, window=3.0, release_after=20.0)), gives)
    for seconds, latency_s, _, best, _ in course:
        link.bench.config = config(hold=2.0, window=3.0, release_after=20.0, best_profile=best)
        link.run(seconds, latency_s=latency_s or 0.05, silent=latency_s is None)
    link.run(1000)
    state = link.bench.state.links[DEVICE].wish
    assert (state.wanted, state.asked, state.ours) == (None, None, set())
    assert link.bench.state.links[DEVICE].told == "good"


def test_rows_that_waited_for_the_flow_to_begin_say_nothing_of_the_link() -> None:
    link = GuardedLink(Bench(NODE, config()))
    link.run(6, silent=True)
    for number in range(50, 0, -1):  # the configuration by which they are read has just come
        link.bench.take(row(6.0 - number / RATE, 6.0))
    assert link.run(30) == []
