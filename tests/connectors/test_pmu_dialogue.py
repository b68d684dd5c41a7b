from __future__ import annotations

import msgspec
import pytest
from c37118_cases import plain_config
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeflex_connectors.c37118 import Command, FrameType
from edgeflex_connectors.pmu_dialogue import NS, TRIES, Dialogue
from edgeflex_flow.errors import RetryableError

ASKS = (Command.SEND_CFG3, Command.SEND_CFG2)
CFG2, CFG3 = plain_config(), plain_config(kind=FrameType.CFG3)


def dialogue() -> Dialogue:
    return Dialogue(ASKS, answer_s=3.0, silence_s=5.0, recheck_s=60.0)


def test_kinds_are_asked_for_in_turn_twice_and_then_the_device_counts_as_silent() -> None:
    speaks = dialogue()
    said = speaks.begin(0)
    for _ in range(3):
        said += speaks.act(speaks.due_ns)
    assert said == [Command.DATA_OFF, *ASKS, *ASKS]
    with pytest.raises(RetryableError, match="no answer to SEND_CFG3 nor to SEND_CFG2 within 3 s each"):
        speaks.act(speaks.due_ns)


def test_the_kind_that_was_answered_is_asked_for_first_the_next_time_and_the_header_once() -> None:
    speaks = dialogue()
    speaks.begin(0)
    speaks.act(3 * NS)
    assert speaks.configured(CFG2, 4 * NS) == [Command.SEND_HEADER, Command.DATA_ON]
    assert speaks.begin(10 * NS) == [Command.DATA_OFF, Command.SEND_CFG2]
    assert speaks.configured(CFG2, 11 * NS) == [Command.DATA_ON]


def test_silence_turns_data_on_again_and_then_ends_the_connection() -> None:
    speaks = dialogue()
    speaks.begin(0)
    speaks.configured(CFG3, 0)
    assert speaks.act(5 * NS) == speaks.act(10 * NS) == [Command.DATA_ON]
    with pytest.raises(RetryableError, match="no data for 15 s, though turned on 3 times"):
        speaks.act(15 * NS)
    speaks.heard_data(16 * NS)
    assert speaks.act(20 * NS) == []


def test_a_device_that_sends_seldom_is_not_taken_for_silent() -> None:
    speaks = dialogue()
    speaks.begin(0)
    speaks.configured(msgspec.structs.replace(CFG2, data_rate=-10), 0)
    assert speaks.act(29 * NS) == []
    assert speaks.act(30 * NS) == [Command.DATA_ON]


def test_a_running_stream_is_asked_now_and_then_and_need_not_answer() -> None:
    speaks = dialogue()
    speaks.begin(0)
    speaks.configured(CFG3, 0)
    asked = []
    for second in range(1, 200):
        speaks.heard_data(second * NS)
        asked += [(second, command) for command in speaks.act(second * NS)]
    assert asked == [(60, Command.SEND_CFG3), (123, Command.SEND_CFG3), (186, Command.SEND_CFG3)]


def test_a_stale_configuration_must_be_answered() -> None:
    speaks = dialogue()
    speaks.begin(0)
    speaks.configured(CFG3, 0)
    for number in range(TRIES):
        now_ns = (10 + 3 * number) * NS
        speaks.heard_data(now_ns)
        speaks.stale(now_ns)
        assert len(speaks.act(now_ns)) == 1
    with pytest.raises(RetryableError, match="no answer"):
        speaks.act((10 + 3 * TRIES) * NS)


EVENTS = st.lists(
    st.tuples(st.floats(0.0, 10.0), st.sampled_from(["begin", "cfg2", "cfg3", "data", "announced", "stale"])),
    max_size=60,
)


@given(EVENTS)
@settings(max_examples=300)
def test_whatever_comes_time_goes_on(events: list[tuple[float, str]]) -> None:
    """After `act` nothing is due at once again, so that nobody waits in a circle; and something always is."""
    speaks = dialogue()
    speaks.begin(0)
    now_ns = 0
    for seconds, event in events:
        now_ns += round(seconds * NS)
        match event:
            case "begin":
                speaks.begin(now_ns)
            case "data":
                speaks.heard_data(now_ns)
            case "announced":
                speaks.announced(now_ns)
            case "stale":
                speaks.stale(now_ns)
            case _:
                speaks.configured(CFG2 if event == "cfg2" else CFG3, now_ns)
        try:
            speaks.act(now_ns)
        except RetryableError:
            speaks.begin(now_ns)
        assert now_ns < speaks.due_ns <= now_ns + 60 * NS
