"""What two flows give on the same inputs: rows belong together by device and time, messages by subject and time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeflex_flow.cli.shadowed.compare import Comparison, Deviation, Side
from edgeflex_flow.messages import Alarm, FrequencyEvent, Message, Samples, Setpoints, samples_from_rows

S = 1_000_000_000


def comparison(tolerance: float = 1e-9) -> Comparison:
    return Comparison("node", tolerance=tolerance, apart_ns=S)


def rows(*values: tuple[int, str, float]) -> Samples:
    return samples_from_rows([(time_ns, device, {"frequency_hz": value}) for time_ns, device, value in values])


def setpoints(time_ns: int, **values: float) -> Setpoints:
    fixed: dict[str, Any] = {"controller": "droop", "quantity": "active_power_w", "valid_for_s": 2.0, "status": "ok"}
    return Setpoints(time_ns=time_ns, values=values, **fixed)


def event(onset_ns: int, device: str = "G1", state: Any = "started") -> FrequencyEvent:
    return FrequencyEvent(
        id=f"{device}@{onset_ns}",
        state=state,
        device=device,
        onset_time_ns=onset_ns,
        detected_time_ns=7 * S,
        rocof_hz_per_s=-0.5,
        frequency_before_hz=50.0,
        frequency_extreme_hz=49.9,
    )


def compared(running: list[Message | Samples], new: list[Message | Samples], **how: Any) -> list[Deviation]:
    """All that deviates in the end."""
    made = comparison(**how)
    sides: list[tuple[Side, list[Message | Samples]]] = [("running", running), ("new", new)]
    for side, given in sides:
        for message in given:
            made.take(side, message, 0)
    return [*made.settle(0), *made.settle(100 * S)]


def test_the_same_rows_and_messages_do_not_deviate() -> None:
    given: list[Message | Samples] = [rows((1, "G1", 50.0), (1, "G2", 49.0)), event(S), setpoints(S, a=1.0)]
    made = comparison()
    for message in given:
        made.take("running", message, 0)
        made.take("new", message, 0)
    assert made.settle(0) == []
    assert (made.counts.alike, made.counts.deviating) == (4, 0)


def test_a_batch_tells_the_row_that_deviates_most_and_how_many_do() -> None:
    one = rows((1, "G1", 50.0), (1, "G2", 50.0), (1, "G3", 50.0))
    other = rows((1, "G1", 50.0), (1, "G2", 49.0), (1, "G3", 49.9))
    [found] = compared([one], [other])
    assert (found.what, found.about, found.place, found.running, found.new) == (
        "differs", "G2", "frequency_hz", "50", "49",
    )  # fmt: skip
    assert (found.rows, found.time_ns) == (2, 1)


def test_rows_belong_together_however_they_are_cut_into_batches() -> None:
    whole = rows((1, "G1", 50.0), (2, "G1", 50.1), (3, "G1", 50.2))
    parts = [whole.take(np.array([0])), whole.take(np.array([1, 2]))]
    assert compared([whole], [*parts]) == []


def test_rows_that_one_flow_alone_gives_are_told_when_the_others_had_their_time() -> None:
    made = comparison()
    made.take("running", rows((1, "G1", 50.0)), 0)
    assert made.settle(S) == []
    [found] = made.settle(S + 1)
    assert (found.what, found.about) == ("only running", "G1")
    assert made.counts.only_running == 1


def test_nan_is_as_nan() -> None:
    nothing = rows((1, "G1", float("nan")))
    assert compared([nothing], [nothing]) == []
    [found] = compared([nothing], [rows((1, "G1", 50.0))])
    assert (found.running, found.new) == ("nan", "50")


def test_flags_of_quality_count() -> None:
    one = rows((1, "G1", 50.0))
    bad = samples_from_rows([(1, "G1", {"frequency_hz": 50.0})], quality=1)
    [found] = compared([one], [bad])
    assert (found.place, found.running, found.new) == ("quality", "0", "1")


@pytest.mark.parametrize(("tolerance", "deviating"), [(1e-9, 1), (0.02, 0)])
def test_numbers_may_differ_by_the_tolerance(tolerance: float, deviating: int) -> None:
    found = compared([setpoints(S, a=100.0)], [setpoints(S, a=101.0)], tolerance=tolerance)
    assert len(found) == deviating


def test_a_message_tells_the_place_that_deviates_most() -> None:
    [found] = compared([setpoints(S, a=100.0, b=1.0)], [setpoints(S, a=101.0, b=2.0)])
    assert (found.about, found.place, found.running, found.new) == (
        "setpoints droop active_power_w", "values b", "1", "2",
    )  # fmt: skip


def test_an_event_with_another_onset_is_the_same_event_at_another_time() -> None:
    [found] = compared([event(5 * S)], [event(5 * S + S // 50)])
    assert (found.what, found.place, found.new) == ("differs", "time", "+0.02 s")


def test_events_further_apart_are_two() -> None:
    found = compared([event(5 * S)], [event(7 * S)])
    assert sorted(each.what for each in found) == ["only new", "only running"]


def test_of_several_the_nearest_belong_together() -> None:
    running = [event(5 * S), event(5 * S + S // 2)]
    assert compared([*running], [*reversed(running)]) == []


def test_started_and_ended_are_not_each_other() -> None:
    found = compared([event(5 * S)], [event(5 * S, state="ended")])
    assert sorted(each.what for each in found) == ["only new", "only running"]


def test_what_says_how_a_message_came_to_be_does_not_count() -> None:
    one = setpoints(S, a=1.0)
    fixed: dict[str, Any] = {"controller": "droop", "quantity": "active_power_w", "valid_for_s": 2.0, "status": "ok"}
    other = Setpoints(time_ns=S, values={"a": 1.0}, config_digest="ab", version="9", policies={"p.f": "2"}, **fixed)
    assert compared([one], [other]) == []


def test_messages_without_partner_are_told_with_what_they_say() -> None:
    alarm = Alarm(source="rocof", severity="warning", text="too slow", time_ns=S)
    [found] = compared([], [alarm])
    assert (found.what, found.about) == ("only new", "alarm rocof warning")
    assert '"text": "too slow"' in found.new
