"""Requests of flexibility that become FlexOffers."""

from __future__ import annotations

import math
import uuid
from typing import Any

import pytest
from flexoffers import NOON_NS, POWERS, STEP_NS, made, request
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_flow.errors import BadMessageError, ConfigError
from edgeflex_flow.flexoffer import limit_violations, violations
from edgeflex_flow.units import NS_PER_S
from edgeflex_operators.flexoffer_make import FlexofferMakeConfig, make, start, tick


@given(
    st.lists(st.tuples(POWERS, POWERS), min_size=1, max_size=30),
    st.integers(0, 2 * 86_400 * NS_PER_S),
    st.integers(-3600 * NS_PER_S, 3600 * NS_PER_S),
    st.sampled_from([1.0, 60.0, 900.0, 3600.0]),
    st.tuples(st.integers(0, 24), st.integers(0, 24), st.floats(60.0, 86_400.0)),
)
def test_offers_are_right_and_within_limits_whatever_is_asked(
    rows: list[tuple[float, float]], ago_ns: int, ahead_ns: int, step_s: float, limits: tuple[int, int, float]
) -> None:
    time_ns = NOON_NS - ago_ns
    asked = request(list(rows), time_ns=time_ns, begin_ns=time_ns + ahead_ns, step_s=step_s)
    config = FlexofferMakeConfig(
        offered_by="x", window_begin=limits[0] * 3600.0, window_end=limits[1] * 3600.0, max_duration=limits[2]
    )
    offers = make(config, start(config), asked)
    for each in offers:
        assert [str(wrong) for wrong in violations(each)] == []
        if each.state == "initial":
            assert [str(wrong) for wrong in limit_violations(each, config.limits)] == []
    assert len({each.id for each in offers}) == len(offers)
    # All energy that was asked for is in an offer, and none besides.
    for place, node in enumerate(("24", "bay")):
        energies = sorted(row[place] * step_s / 3600.0 for row in rows if row[place])
        mine = [each for each in offers if each.location == node]
        found = sorted(part.lower_kwh + part.upper_kwh for each in mine for part in each.slices)
        assert [each for each in found if each] == pytest.approx(energies)


def test_bounds_reach_from_zero_to_what_is_asked_and_prices_come_from_the_config() -> None:
    offers = made(request([(-3.0, 0.0), (2.0, 0.0)]), price_min=0.05, price_max=0.2)
    assert [(each.id, each.location, each.request_id) for each in offers] == [("mpc@1:24", "24", "mpc@1")]
    bounds = [(each.lower_kwh, each.upper_kwh) for each in offers[0].slices]
    assert bounds == [(-0.75, 0.0), (0.0, 0.5)]
    assert {(each.price_min_eur_per_kwh, each.price_max_eur_per_kwh) for each in offers[0].slices} == {(0.05, 0.2)}


def test_times_follow_on_the_request() -> None:
    [offer] = made(request([(1.0, 0.0)]), accept_within=5.0, assign_within=7.0, start_within=9.0)
    times = (
        offer.created_ns,
        offer.accept_before_ns,
        offer.assign_before_ns,
        offer.start_after_ns,
        offer.start_before_ns,
    )
    assert times == tuple(NOON_NS + after * NS_PER_S for after in (0, 5, 7, 0, 9))
    [later] = made(request([(1.0, 0.0)], begin_ns=NOON_NS + 2 * STEP_NS))
    assert later.start_after_ns == later.start_before_ns == NOON_NS + 2 * STEP_NS


def test_hours_outside_of_the_window_are_told_and_not_offered() -> None:
    asked = request([(1.0, 0.0)] * 6, begin_ns=NOON_NS)
    offers = made(asked, window_begin=12.25 * 3600.0, window_end=13.02 * 3600.0)
    assert [(each.state, len(each.slices)) for each in offers] == [("invalid", 1), ("initial", 3), ("invalid", 2)]
    assert [each.id for each in offers] == ["mpc@1:24", "mpc@1:24:2", "mpc@1:24:5"]
    assert offers[0].state_reason == "outside of the hours in which offers may run"


def test_what_is_beyond_the_longest_profile_is_told_and_not_offered() -> None:
    offers = made(request([(1.0, 0.0)] * 3), max_duration=1800.0)
    assert [(each.state, len(each.slices), each.state_reason) for each in offers] == [
        ("initial", 2, ""),
        ("invalid", 1, "beyond the longest profile of 1800 s"),
    ]
    [none] = made(request([(1.0, 0.0)]), max_duration=600.0)
    assert none.state == "invalid"


def test_a_profile_that_is_too_short_is_told_and_not_offered() -> None:
    window = {"window_begin": 12.25 * 3600.0, "window_end": 13.02 * 3600.0}
    offers = made(request([(1.0, 0.0)] * 6), **window, min_duration=3600.0)
    assert [(each.state, len(each.slices)) for each in offers] == [("invalid", 1), ("invalid", 3), ("invalid", 2)]
    assert offers[1].state_reason == "shorter than the shortest profile of 3600 s"
    assert [each.state for each in made(request([(1.0, 0.0)] * 4), min_duration=3600.0)] == ["initial"]


def test_power_beyond_the_largest_is_told_and_not_offered() -> None:
    within, beyond = made(request([(-8.0, 0.0), (2.0, 0.0), (7.0, 0.0)]), max_power=4.0)
    assert [(each.lower_kwh, each.upper_kwh) for each in within.slices] == [(-1.0, 0.0), (0.0, 0.5), (0.0, 1.0)]
    assert [(each.lower_kwh, each.upper_kwh) for each in beyond.slices] == [(-1.0, 0.0), (0.0, 0.0), (0.0, 0.75)]
    assert (within.state, within.id) == ("initial", "mpc@1:24")
    assert (beyond.state, beyond.id) == ("invalid", "mpc@1:24:beyond")
    assert beyond.state_reason == "beyond the largest power of 4 kW"


def test_steps_that_are_over_are_not_offered_and_the_one_under_way_begins_now() -> None:
    offers = made(request([(1.0, 0.0)] * 3, begin_ns=NOON_NS - STEP_NS - 60 * NS_PER_S))
    assert [(each.state, len(each.slices)) for each in offers] == [("invalid", 1), ("initial", 2)]
    assert offers[1].start_after_ns == NOON_NS


def test_little_power_is_no_offer() -> None:
    assert made(request([(1e-4, 0.0)])) == []
    assert len(made(request([(0.5, -0.5)]), min_power=1.0)) == 0


@pytest.mark.parametrize("ids", ["text", "number", "uuid"])
def test_the_same_request_gives_the_same_ids(ids: str) -> None:
    asked = request([(1.0, 2.0)])
    first, second = made(asked, ids=ids), made(asked, ids=ids)
    assert [each.id for each in first] == [each.id for each in second]
    assert len({each.id for each in first}) == 2
    if ids == "number":
        assert all(0 <= int(each.id) < 2**53 for each in first)
    if ids == "uuid":
        assert all(str(uuid.UUID(each.id)) == each.id for each in first)


def test_reactive_power_becomes_reactive_energy_under_ids_of_its_own() -> None:
    [offer] = made(request([(4.0, 0.0)], variable="reactive_power", unit="kvar"))
    assert (offer.quantity, offer.id, offer.slices[0].upper_kwh) == ("reactive_energy", "mpc@1:24:reactive", 1.0)


def test_request_without_times_takes_those_of_the_clock() -> None:
    config = FlexofferMakeConfig(offered_by="x", step=600.0)
    state = start(config)
    asked = request([(6.0, 0.0)], time_ns=None, begin_ns=None, step_s=None)
    with pytest.raises(BadMessageError, match="nothing tells when it was made"):
        make(config, state, asked)
    tick(config, state, NOON_NS)
    [offer] = make(config, state, asked)
    assert (offer.start_after_ns, offer.interval_s, offer.slices[0].upper_kwh) == (NOON_NS, 600, 1.0)


@pytest.mark.parametrize(
    ("rows", "changes", "text"),
    [
        ([(1.0,)], {}, "'prediction 1' has 1 values for 2 nodes"),
        ([(1.0, math.nan)], {}, "not a number"),
        ([(1.0, 0.0)], {"step_s": 0.5}, "whole seconds up to a day; got 0.5 s"),
    ],
)
def test_requests_that_cannot_be_offered_are_refused(
    rows: list[tuple[float, ...]], changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(BadMessageError, match=text) as caught:
        made(request(rows, **changes))
    assert caught.value.reason == "bad_request"


def test_times_and_prices_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"times do not follow on each other.*got 30, 20 and 60 s"):
        FlexofferMakeConfig(offered_by="x", accept_within=30.0)
    with pytest.raises(ConfigError, match=r"`price_min` .0.2. is above `price_max` .0.1."):
        FlexofferMakeConfig(offered_by="x", price_min=0.2, price_max=0.1)
    with pytest.raises(ConfigError, match=r"`min_duration` .900 s. is above `max_duration` .600 s."):
        FlexofferMakeConfig(offered_by="x", min_duration=900.0, max_duration=600.0)
    with pytest.raises(ConfigError, match=r"`min_power` .3 kW. is above `max_power` .2 kW."):
        FlexofferMakeConfig(offered_by="x", min_power=3.0, max_power=2.0)
