"""Asking for flexibility, and what becomes of the answers."""

from __future__ import annotations

import math
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Alarm, DispatchPlan, FlexRequest, FlexResponse
from edgeflex_flow.node import WireMessage
from edgeflex_operators import flex_request
from edgeflex_operators.flex_request import FlexRequestConfig
from edgeflex_operators.flex_response import FlexResponseConfig, FlexResponseState, ask, start, take, tick

S_NS = 1_000_000_000
PLAN = DispatchPlan(
    controller="vpp",
    time_ns=7,
    begin_ns=0,
    step_s=900.0,
    status="ok",
    powers_w={"a": (1e3, 2e3, 3e3), "b": (-4e3, 0.0, 0.0)},
    exchange_w=(0.0, 0.0, 0.0),
    prices_eur_per_mwh=(0.0, 0.0, 0.0),
    profit_eur=0.0,
    solver="lp",
    solver_status="optimal",
    gap=0.0,
    solver_s=0.0,
)
CONFIG = FlexResponseConfig(own=(5,))
REQUEST = FlexRequest(
    variable="active_power",
    nodes=(4, 5),
    unit="kW",
    flex_request={"prediction 1": (2.0, -3.0), "prediction 2": (1.0, 1.0)},
    id="vpp@7",
    time_ns=7,
)


def answer_of(rows: dict[str, tuple[float, ...]], **changes: Any) -> FlexResponse:
    given: dict[str, Any] = {"variable": "active_power", "nodes": (4, 5), "unit": "kW", "time_ns": 9, **changes}
    return FlexResponse(flex_response=rows, **given)


FULL = answer_of({"prediction 1": (1.5, -3.0), "prediction 2": (0.0, 1.0)})


def waiting() -> FlexResponseState:
    state = start(CONFIG)
    assert ask(CONFIG, state, REQUEST) == []
    return state


def held(messages: list[WireMessage]) -> FlexResponse:
    [found] = [each for each in messages if isinstance(each, FlexResponse)]
    return found


def alarms(messages: list[WireMessage]) -> list[str]:
    return [each.text for each in messages if isinstance(each, Alarm)]


def test_request_holds_the_first_steps_of_the_plan_in_kilowatts() -> None:
    [asked] = flex_request.step(FlexRequestConfig(nodes={"b": "north", "a": 4}, predictions=2), None, PLAN)
    assert asked.nodes == ("north", 4)
    assert asked.flex_request == {"prediction 1": (-4.0, 1.0), "prediction 2": (0.0, 2.0)}
    assert (asked.unit, asked.id, asked.begin_ns, asked.step_s) == ("kW", "vpp@7", 0, 900.0)


def test_plan_of_a_controller_in_shadow_asks_nobody() -> None:
    assert flex_request.step(FlexRequestConfig(nodes={"a": 4}), None, replace(PLAN, shadow=True)) == []


def test_plan_without_an_asset_asks_for_nothing() -> None:
    with pytest.raises(BadMessageError, match="the plan lacks c; known: a, b"):
        flex_request.step(FlexRequestConfig(nodes={"c": 1}), None, PLAN)


def test_full_answer_holds_as_it_is() -> None:
    given = take(CONFIG, waiting(), FULL)
    assert alarms(given) == []
    assert held(given).flex_response == FULL.flex_response
    assert (held(given).status, held(given).request_id, held(given).nodes) == ("full", "vpp@7", (4, 5))


def test_second_answer_is_refused() -> None:
    state = waiting()
    take(CONFIG, state, FULL)
    assert alarms(take(CONFIG, state, FULL)) == [
        "an answer is refused: no request waits for one; it is late, or the second"
    ]


def after_timeout(state: FlexResponseState) -> list[WireMessage]:
    assert tick(CONFIG, state, 0) == []
    assert tick(CONFIG, state, 59 * S_NS) == []
    return tick(CONFIG, state, 60 * S_NS)


def test_missing_parts_become_what_was_planned_for_own_nodes_and_zero_for_the_markets() -> None:
    state = waiting()
    assert take(CONFIG, state, answer_of({"prediction 1": (1.0,)}, nodes=(4,))) == []
    given = after_timeout(state)
    assert held(given).flex_response == {"prediction 1": (1.0, -3.0), "prediction 2": (0.0, 1.0)}
    assert held(given).status == "changed"
    assert alarms(given) == [
        "the answer to 'vpp@7': not answered: 5 in prediction 1, 4 in prediction 2, 5 in prediction 2"
    ]


def test_parts_are_put_together_until_nothing_is_missing() -> None:
    state = waiting()
    assert take(CONFIG, state, answer_of({"prediction 1": (9.0,)}, nodes=(), positions=(0,), time_ns=None)) == []
    assert take(CONFIG, state, answer_of({"prediction 1": (1.5,)}, nodes=(), positions=(0,), time_ns=None)) == []
    assert take(CONFIG, state, answer_of({"prediction 1": (-3.0,)}, nodes=(), positions=(1,), time_ns=None)) == []
    assert take(CONFIG, state, answer_of({"prediction 3": (0.0,)}, nodes=(), positions=(1,), time_ns=None)) == []
    assert len(alarms(take(CONFIG, state, answer_of({"prediction 2": (math.nan, 1.0)})))) == 1
    given = take(CONFIG, state, answer_of({"prediction 2": (0.0, 1.0)}, nodes=(), positions=(0, 1), time_ns=None))
    assert held(given).flex_response == FULL.flex_response
    assert held(given).reason == "predictions that were not asked are left out: prediction 3"
    assert "late" in alarms(take(CONFIG, state, answer_of({"prediction 2": (0.0, 1.0)})))[0]


def test_own_nodes_are_not_waited_for() -> None:
    given = take(CONFIG, waiting(), answer_of({"prediction 1": (2.0,), "prediction 2": (1.0,)}, nodes=(4,)))
    assert held(given).flex_response == REQUEST.flex_request


def test_parts_of_the_request_before_do_not_count() -> None:
    state = waiting()
    take(CONFIG, state, answer_of({"prediction 1": (1.0, 0.0)}))
    ask(CONFIG, state, REQUEST)
    assert take(CONFIG, state, answer_of({"prediction 2": (1.0, 1.0)})) == []


def test_answer_that_holds_nothing_of_what_was_asked_is_none() -> None:
    state = waiting()
    assert take(CONFIG, state, answer_of({"prediction 9": (1.0, 1.0)})) == []
    given = after_timeout(state)
    assert held(given).status == "none"
    assert held(given).reason == "no answer within 60 s; predictions that were not asked are left out: prediction 9"


def test_alarms_have_the_time_of_the_answer_or_of_the_last_turn_of_the_clock() -> None:
    state = start(CONFIG)
    tick(CONFIG, state, 70 * S_NS)
    for time_ns, told_ns in ((71 * S_NS, 71 * S_NS), (None, 70 * S_NS)):
        [alarm] = take(CONFIG, state, answer_of({}, time_ns=time_ns))
        assert isinstance(alarm, Alarm)
        assert alarm.time_ns == told_ns


def test_absurd_values_are_cut_to_what_was_asked() -> None:
    given = take(CONFIG, waiting(), answer_of({"prediction 1": (1e308, -1e308), "prediction 2": (-1.0, -1e9)}))
    assert held(given).flex_response == {"prediction 1": (2.0, -3.0), "prediction 2": (0.0, 0.0)}
    assert held(given).status == "changed"


def test_more_than_was_asked_or_the_opposite_is_cut() -> None:
    given = take(CONFIG, waiting(), answer_of({"prediction 1": (9.0, 2.0), "prediction 2": (1.0, 1.0)}))
    assert held(given).flex_response["prediction 1"] == (2.0, 0.0)
    assert "cut: 4 in prediction 1 from 9 to 2 kW, 5 in prediction 1 from 2 to 0 kW" in held(given).reason


def test_nodes_and_predictions_that_were_not_asked_are_left_out_and_told() -> None:
    rows: dict[str, tuple[float, ...]] = {
        "prediction 1": (2.0, -3.0, 7.0),
        "prediction 2": (1.0, 1.0, 7.0),
        "prediction 3": (1.0, 1.0, 7.0),
    }
    given = take(CONFIG, waiting(), answer_of(rows, nodes=(4, 5, 6)))
    assert held(given).flex_response == REQUEST.flex_request
    assert held(given).reason == (
        "nodes that were not asked are left out: 6; predictions that were not asked are left out: prediction 3"
    )


def test_places_among_the_nodes_are_understood() -> None:
    state = waiting()
    take(CONFIG, state, answer_of({"prediction 1": (-1.0, 1.0)}, nodes=(), positions=(1, 7)))
    given = after_timeout(state)
    assert held(given).flex_response["prediction 1"] == (0.0, -1.0)
    assert "left out: 7" in held(given).reason


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (answer_of({}, request_id="old"), "it answers 'old', the request that waits is 'vpp@7'"),
        (answer_of({}, variable="reactive_power", unit="kvar"), "active_power in kW was asked for"),
        (answer_of({"prediction 1": (1.0,)}), "'prediction 1' has 1 values for 2 nodes"),
        (answer_of({"prediction 1": (1.0, math.nan)}), "'prediction 1' has a value that is not a number"),
        (answer_of({"prediction 1": (1.0, math.inf)}), "'prediction 1' has a value that is not a number"),
        (answer_of(FULL.flex_response, time_ns=6), "it is from before the request that waits"),
    ],
)
def test_answer_that_cannot_be_used_is_refused_and_the_request_goes_on_waiting(answer: FlexResponse, text: str) -> None:
    state = waiting()
    [alarm] = take(CONFIG, state, answer)
    assert isinstance(alarm, Alarm)
    assert text in alarm.text
    assert held(take(CONFIG, state, FULL)).status == "full"


def test_silence_becomes_what_was_declared_after_the_timeout_and_once() -> None:
    state = waiting()
    assert tick(CONFIG, state, 100 * S_NS) == []
    assert tick(CONFIG, state, 159 * S_NS) == []
    given = tick(CONFIG, state, 160 * S_NS)
    assert held(given).flex_response == {"prediction 1": (0.0, -3.0), "prediction 2": (0.0, 1.0)}
    assert (held(given).status, held(given).reason) == ("none", "no answer within 60 s")
    assert alarms(given) == ["no answer within 60 s to the request 'vpp@7'"]
    assert tick(CONFIG, state, 500 * S_NS) == []
    assert "late" in alarms(take(CONFIG, state, FULL))[0]


def test_newer_request_takes_the_place_of_the_one_before() -> None:
    state = waiting()
    tick(CONFIG, state, 0)
    ask(CONFIG, state, msgspec.structs.replace(REQUEST, id="vpp@8"))
    assert tick(CONFIG, state, 61 * S_NS) == []
    assert held(take(CONFIG, state, FULL)).request_id == "vpp@8"


def test_request_of_uneven_lists_is_a_bad_message() -> None:
    uneven = msgspec.structs.replace(REQUEST, flex_request={"prediction 1": (1.0,)})
    with pytest.raises(BadMessageError, match="request 'vpp@7': 'prediction 1' has 1 values for 2 nodes"):
        ask(CONFIG, start(CONFIG), uneven)


values = st.floats(-1e6, 1e6)


@given(st.tuples(values, values), st.lists(st.tuples(st.integers(3, 6), values), max_size=5))
def test_whatever_is_answered_nobody_is_told_more_than_was_asked(
    asked: tuple[float, float], answered: list[tuple[int, float]]
) -> None:
    state = start(CONFIG)
    ask(CONFIG, state, msgspec.structs.replace(REQUEST, flex_request={"prediction 1": asked}))
    answer = answer_of(
        {"prediction 1": tuple(value for _, value in answered)}, nodes=tuple(node for node, _ in answered)
    )
    given = take(CONFIG, state, answer) or after_timeout(state)
    for value, most in zip(held(given).flex_response["prediction 1"], asked, strict=True):
        assert min(most, 0.0) <= value <= max(most, 0.0)


def test_state_survives_pickling() -> None:
    again: FlexResponseState = pickle.loads(pickle.dumps(waiting()))
    assert held(take(CONFIG, again, FULL)).status == "full"
