"""Two outcomes compared: messages by device and time, set-points by asset and time, samples row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
import toy_nodes
from hypothesis import given, settings
from hypothesis import strategies as st
from preview_cases import NIGHT_NS, rising

from edgeflex_flow.cli.preview_compare import Changed, Comparison, MessagesDifference, Told, compare
from edgeflex_flow.cli.preview_run import Outcome
from edgeflex_flow.cli.preview_setpoints import SetpointsDifference
from edgeflex_flow.cli.preview_words import summary
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import (
    Alarm,
    Crossing,
    DispatchPlan,
    FlexOffer,
    FlexSlice,
    FrequencyEvent,
    Message,
    Setpoints,
    samples_from_rows,
)
from edgeflex_flow.node import WireMessage
from edgeflex_flow.runtime.run import FlowRun

S = 1_000_000_000
HOUR_NS = 3600 * S


def told_plan() -> Plan:
    """A flow whose node `told` feeds a sink."""
    source = toy_nodes.planned("pmu", toy_nodes.source(toy_nodes.ScriptedSource([])))
    told = toy_nodes.planned("told", toy_nodes.operator(lambda _config, _state, _message: []), "pmu")
    return toy_nodes.plan(source, told, toy_nodes.planned("sink", toy_nodes.sink(toy_nodes.CollectingSink()), "told"))


def compared(before: list[WireMessage], after: list[WireMessage], *, end_ns: int = NIGHT_NS + HOUR_NS) -> Comparison:
    plan = told_plan()
    outcomes = []
    for messages in (before, after):
        run = FlowRun(plan)
        run.wakeup.close()
        outcome = Outcome(run)
        for message in messages:
            outcome.take("told", message)
        outcomes.append(outcome)
    return compare(plan, outcomes[0], outcomes[1], end_ns)


def event(at_s: float, device: str = "G1", state: Any = "started", **fields: Any) -> FrequencyEvent:
    time_ns = NIGHT_NS + round(at_s * S)
    return FrequencyEvent(
        id=f"{device}@{time_ns}",
        state=state,
        device=device,
        onset_time_ns=time_ns,
        detected_time_ns=time_ns + S,
        rocof_hz_per_s=fields.pop("rocof", -0.1),
        frequency_before_hz=50.0,
        frequency_extreme_hz=49.9,
        **fields,
    )


def crossing(at_s: float, state: Any = "above", value: float = 1.0) -> Crossing:
    return Crossing(
        device="G1", column="voltage_v", state=state, time_ns=NIGHT_NS + round(at_s * S), value=value, limit=1.0
    )


def told(
    at_s: float,
    value: float,
    *,
    asset: str = "bess",
    valid_s: float = 7200.0,
    quantity: str = "active_power_w",
    **more: Any,
) -> Setpoints:
    return Setpoints(
        controller="droop",
        time_ns=NIGHT_NS + round(at_s * S),
        quantity=quantity,
        values={asset: value},
        valid_for_s=valid_s,
        status=more.pop("status", "ok"),
        **more,
    )


def messages(before: list[WireMessage], after: list[WireMessage]) -> MessagesDifference:
    [found] = compared(before, after).messages
    return found


def setpoints(before: list[WireMessage], after: list[WireMessage], **more: Any) -> SetpointsDifference:
    [found] = compared(before, after, **more).setpoints
    return found


def test_start_and_end_of_an_event_are_one() -> None:
    found = messages([event(1.0), event(1.0, state="ended")], [event(1.0)])
    assert (found.today, found.proposed, found.same) == (1, 1, 0)
    assert found.changed[0].fields["state"].today == "ended"


def test_event_that_is_noticed_later_is_the_same_event_changed() -> None:
    found = messages([event(1.0, rocof=-0.1)], [event(1.5, rocof=-0.3)])
    assert found.only_today == found.only_proposed == []
    [changed] = found.changed
    assert changed.fields["rocof_hz_per_s"].by == pytest.approx(-0.2)
    assert changed.fields["onset_time_ns"].by == S // 2


def test_events_of_other_devices_or_far_apart_are_others() -> None:
    found = messages([event(1.0), event(9.0)], [event(1.0, "G2"), event(12.0)])
    assert [each.time_ns for each in found.only_today] == [NIGHT_NS + S, NIGHT_NS + 9 * S]
    assert [each.who for each in found.only_proposed] == [{"device": "G2"}, {"device": "G1"}]


def test_nearest_events_belong_together() -> None:
    found = messages([event(1.0), event(2.5)], [event(2.4)])
    assert [each.time_ns for each in found.only_today] == [NIGHT_NS + S]
    assert [each.time_ns for each in found.changed] == [NIGHT_NS + round(2.5 * S)]


def test_versions_and_digests_make_no_difference() -> None:
    found = messages([event(1.0, policies={"a.b": "1"})], [event(1.0, policies={"a.b": "2"})])
    assert not found.differs
    assert found.same == 1


def test_crossings_are_told_apart_by_their_column_and_alarms_by_their_source() -> None:
    alarm = Alarm(source="a", severity="info", text="x", time_ns=NIGHT_NS)
    other = msgspec.structs.replace(alarm, source="b")
    found = compared([crossing(1.0), alarm], [crossing(1.0, value=2.0), other]).messages
    assert [each.type for each in found] == ["crossing", "alarm"]
    assert found[0].changed[0].fields["value"].by == 1.0
    assert [each.who for each in found[1].only_today] == [{"source": "a"}]


def test_how_long_a_solver_took_makes_no_difference() -> None:
    plan = DispatchPlan(
        controller="vpp",
        time_ns=NIGHT_NS,
        begin_ns=NIGHT_NS,
        step_s=900.0,
        status="ok",
        powers_w={"chp": (1.0, 2.0)},
        exchange_w=(1.0, 2.0),
        prices_eur_per_mwh=(1.0, 2.0),
        profit_eur=3.0,
        solver="lp",
        solver_status="optimal",
        gap=0.0,
        solver_s=0.1,
    )
    assert not messages([plan], [msgspec.structs.replace(plan, solver_s=0.7)]).differs
    found = messages([plan], [msgspec.structs.replace(plan, powers_w={"chp": (1.0, 5.0)})])
    assert found.changed[0].fields["powers_w.chp[1]"].by == 3.0


def offer(node: int, request: int, energy_kwh: float) -> FlexOffer:
    """As `flexoffer_make` makes it of a request each second."""
    return FlexOffer(
        id=f"{request}:{node}",
        state="initial",
        location=str(node),
        request_id=f"mpc@{request}",
        created_ns=NIGHT_NS + request * S,
        slices=(FlexSlice(lower_kwh=-energy_kwh, upper_kwh=0.0),),
    )


def test_offer_that_is_not_made_any_more_is_not_taken_for_that_of_another_node() -> None:
    found = messages([offer(4, 0, 3.0), offer(5, 0, 0.5), offer(6, 0, 2.0)], [offer(4, 0, 3.0), offer(6, 0, 2.0)])
    assert [each.who["location"] for each in found.only_today] == ["5"]
    assert (found.same, found.changed, found.only_proposed) == (2, [], [])


@given(
    st.dictionaries(st.tuples(st.integers(1, 5), st.integers(0, 3)), st.floats(0.5, 5), max_size=12),
    st.dictionaries(st.tuples(st.integers(1, 5), st.integers(0, 3)), st.floats(0.5, 5), max_size=12),
)
def test_offers_are_the_same_by_node_and_request(
    before: dict[tuple[int, int], float], after: dict[tuple[int, int], float]
) -> None:
    both = [[offer(*key, energy) for key, energy in sorted(each.items())] for each in (before, after)]
    for found in compared(list(both[0]), list(both[1])).messages:

        def keys(told: Sequence[Told | Changed]) -> set[tuple[int, int]]:
            return {(int(each.who["location"]), int(each.who["request_id"].removeprefix("mpc@"))) for each in told}

        assert keys(found.only_today) == before.keys() - after.keys()
        assert keys(found.only_proposed) == after.keys() - before.keys()
        assert keys(found.changed) == {key for key in before.keys() & after.keys() if before[key] != after[key]}


@given(st.lists(st.floats(0, 30), max_size=12), st.lists(st.floats(0, 30), max_size=12))
def test_every_message_is_counted_once(before: list[float], after: list[float]) -> None:
    for found in compared([crossing(at) for at in before], [crossing(at) for at in after]).messages:
        assert found.same + len(found.changed) + len(found.only_today) == found.today == len(before)
        assert found.same + len(found.changed) + len(found.only_proposed) == found.proposed == len(after)


def test_what_is_compared_with_itself_does_not_differ() -> None:
    everything: list[WireMessage] = [event(1.0), crossing(2.0), crossing(2.0), told(3.0, 1.0), rising(5), rising(5)]
    assert not compared(everything, everything).differs


def test_set_points_are_compared_at_equal_times_and_as_energy() -> None:
    found = setpoints([told(0, 1e6), told(1800, 1e6)], [told(0, 1e6), told(1800, 3e6)])
    assert (found.changed, found.only_today, found.only_proposed) == (1, 0, 0)
    assert (found.largest, found.largest_time_ns) == (2e6, NIGHT_NS + 1800 * S)
    assert found.energy is not None
    assert found.energy.unit == "kWh"
    assert found.energy.today == pytest.approx(1000.0)
    assert found.energy.proposed == pytest.approx(2000.0)
    assert found.energy.shifted == pytest.approx(1000.0)


def test_set_point_counts_no_longer_than_it_is_valid() -> None:
    found = setpoints([told(0, 1e6, valid_s=360.0)], [told(0, -1e6, valid_s=360.0)])
    assert found.energy is not None
    assert found.energy.today == pytest.approx(100.0)
    assert found.energy.shifted == pytest.approx(200.0)


def test_energy_ends_with_the_record() -> None:
    found = setpoints([told(0, 1e6)], [told(0, 0.0)], end_ns=NIGHT_NS + 1800 * S)
    assert found.energy is not None
    assert found.energy.shifted == pytest.approx(500.0)


def test_set_points_of_one_run_only_have_no_largest_difference() -> None:
    found = setpoints([told(0, 1e6)], [])
    assert (found.today, found.proposed, found.only_today, found.largest) == (1, 0, 1, None)
    assert found.energy is not None
    assert (found.energy.today, found.energy.proposed, found.energy.shifted) == (1000.0, 0.0, 0.0)


def test_two_set_points_of_one_time_are_compared_one_by_one() -> None:
    found = setpoints([told(0, 1.0), told(0, 2.0)], [told(0, 1.0), told(0, 5.0)])
    assert (found.changed, found.largest) == (1, 3.0)


def test_another_status_is_a_difference() -> None:
    found = setpoints([told(0, 1.0)], [told(0, 1.0, status="fallback")])
    assert (found.changed, found.other_status) == (0, 1)
    assert found.differs


def test_what_is_no_power_has_no_energy() -> None:
    assert setpoints([told(0, 1.0, quantity="voltage_v")], []).energy is None
    # Nobody knows the base of these: the controller of the test has none.
    assert setpoints([told(0, 1.0, quantity="active_power_pu")], []).energy is None


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 600), st.floats(-5, 5)), min_size=1, max_size=10, unique_by=lambda each: each[0]),
    st.lists(st.tuples(st.integers(0, 600), st.floats(-5, 5)), min_size=1, max_size=10, unique_by=lambda each: each[0]),
    st.integers(1, 300),
)
def test_energy_agrees_with_second_by_second_sums(
    before: list[tuple[int, float]], after: list[tuple[int, float]], valid_s: int
) -> None:
    def in_force(told_at: list[tuple[int, float]], second: int) -> float:
        at, value = max((each for each in told_at if each[0] <= second), default=(-math.inf, math.nan))
        return value if second < at + valid_s else math.nan

    made = [[told(at, 1e3 * value, valid_s=float(valid_s)) for at, value in sorted(each)] for each in (before, after)]
    found = setpoints(list(made[0]), list(made[1]), end_ns=NIGHT_NS + 700 * S)
    rows = np.array([[in_force(before, second), in_force(after, second)] for second in range(700)])
    assert found.energy is not None
    assert found.energy.today == pytest.approx(np.nansum(rows[:, 0]) / 3600.0, abs=1e-9)
    assert found.energy.shifted == pytest.approx(np.nansum(np.abs(rows[:, 1] - rows[:, 0])) / 3600.0, abs=1e-9)


def test_samples_are_compared_by_device_and_time_whatever_their_batches() -> None:
    before = [rising(4), rising(2, device="G2")]
    after = [rising(2, device="G2"), rising(3)]
    values = after[1].columns["frequency_hz"].copy()
    values[2] = 7.0
    after[1] = after[1].with_columns({"frequency_hz": values})
    [found] = compared(list(before), list(after)).samples
    assert (found.only_today, found.only_proposed) == (1, 0)
    assert (found.columns["frequency_hz"].changed, found.columns["frequency_hz"].largest) == (1, 5.0)
    assert found.columns["frequency_hz"].device == "G1"


def test_absent_values_are_the_same_and_one_that_is_there_in_one_run_only_is_not() -> None:
    nothing = samples_from_rows([(NIGHT_NS, "G1", {"frequency_hz": math.nan})])
    assert not compared([nothing], [nothing]).differs
    [found] = compared([nothing], [samples_from_rows([(NIGHT_NS, "G1", {"frequency_hz": 50.0})])]).samples
    assert math.isnan(found.columns["frequency_hz"].largest)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            [event(1), event(10), event(20)],
            [event(1)],
            "With the proposed policy 2 of 3 events would not have been told.",
        ),
        ([event(1)], [], "With the proposed policy today's only event would not have been told."),
        ([], [event(1)], "With the proposed policy 1 event instead of none would have been told."),
        (
            [event(1)],
            [event(1), event(10)],
            "With the proposed policy 1 event beside today's 1 would have been told.",
        ),
        (
            [event(1), event(10), event(20)],
            [event(1), event(10.1), event(40)],
            "With the proposed policy 1 of 3 events would not have been told, 1 more would have been told and 1 would "
            "have looked different.",
        ),
        (
            [event(1)],
            [event(1)],
            "With the proposed policy nothing would have been different on this record: both tell 1 event.",
        ),
        (
            [],
            [],
            "With the proposed policy nothing would have been different on this record, on which the flow tells "
            "nothing.",
        ),
        (
            [told(0, 1e6)],
            [told(0, 3.5e6)],
            "With the proposed policy set-points of active power by 'droop' would have differed by up to 2.5 MW (bess, "
            "2026-05-28 20:26:40.000), 2.5 MWh in all.",
        ),
    ],
)
def test_a_sentence_says_what_would_have_been_different(before: list[Message], after: list[Message], said: str) -> None:
    assert summary(compared(list(before), list(after))) == said
