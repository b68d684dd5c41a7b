from __future__ import annotations

import numpy as np
import pytest
from inertia_cases import NS, Case, event_at, load_case, seconds
from msgspec.structs import replace

from edgeflex_flow.messages import DeadLetter, EventWindow, FrequencyEvent, Samples
from edgeflex_operators.event_window import EventWindowConfig, end, start, take_event, take_samples, tick


@pytest.fixture(scope="module")
def case() -> Case:
    return load_case("kundur_load_step", seed=1)


def run(
    batches: list[Samples], events: list[FrequencyEvent], config: EventWindowConfig | None = None
) -> list[EventWindow]:
    """Feed batches in order, each event once its detection is there."""
    config = config or EventWindowConfig()
    state = start(config)
    waiting, given = list(events), []
    for batch in batches:
        given += take_samples(config, state, batch)
        newest = int(batch.time_ns.max())
        for event in [each for each in waiting if each.detected_time_ns <= newest]:
            waiting.remove(event)
            given += take_event(config, state, event)
    assert all(isinstance(window, EventWindow) for window in given)
    return given  # type: ignore[return-value]


def rows_of(window: EventWindow, device: str) -> int:
    return int((window.samples.device == window.samples.devices.index(device)).sum())


def test_an_event_comes_with_the_rows_of_all_devices_around_it(case: Case) -> None:
    [window] = run(seconds(case.samples), [event_at(case.onset_ns)])
    assert (window.end_ns - window.begin_ns) / NS == 7.0
    assert [rows_of(window, device) for device in case.units] == [420] * 4
    assert window.missing == ()
    assert window.event.device == "GENROU_1"


def test_rows_stand_device_after_device_in_order_of_time(case: Case) -> None:
    shuffled = [batch.take(np.random.default_rng(2).permutation(batch.rows)) for batch in seconds(case.samples)]
    [window] = run(shuffled, [event_at(case.onset_ns)])
    keys = list(zip(window.samples.device.tolist(), window.samples.time_ns.tolist(), strict=True))
    assert keys == sorted(set(keys))


@pytest.mark.parametrize("late_s", [-0.4, 0.0, 0.7])
def test_the_onset_is_where_power_steps_though_detectors_tell_another_time(case: Case, late_s: float) -> None:
    told = case.onset_ns + round(late_s * NS)
    [window] = run(seconds(case.samples), [event_at(told)])
    assert abs(window.onset_time_ns - case.onset_ns) <= 20_000_000
    assert window.power_step is not None
    assert window.power_step > 100.0


def test_without_power_the_median_onset_counts(case: Case) -> None:
    samples = case.samples.with_columns({"frequency_hz": case.samples.columns["frequency_hz"]})
    told = [event_at(case.onset_ns + shift, f"GENROU_{k}") for k, shift in ((1, 0), (2, NS // 10), (3, NS // 5))]
    [window] = run(seconds(samples), told)
    assert (window.onset_time_ns, window.power_step) == (case.onset_ns + NS // 10, None)


def test_noise_without_event_makes_no_clear_step(case: Case) -> None:
    quiet = case.samples.take(case.samples.time_ns > 9 * NS)
    [window] = run(seconds(quiet), [event_at(11 * NS)], EventWindowConfig(after=2.0))
    assert window.power_step is not None
    assert window.power_step < 25.0


def test_what_several_devices_tell_of_one_event_is_one_window(case: Case) -> None:
    told = [event_at(case.onset_ns + k * NS // 4, f"GENROU_{k + 1}") for k in range(4)]
    assert len(run(seconds(case.samples), told)) == 1


def test_a_window_names_the_policies_that_asked_for_any_of_its_events(case: Case) -> None:
    asked = [
        replace(event_at(case.onset_ns, "GENROU_1"), policies={"south/excitation": "3"}),
        replace(event_at(case.onset_ns + NS // 4, "GENROU_2"), policies={"north/excitation": "1"}),
    ]
    [window] = run(seconds(case.samples), asked)
    assert window.policies == {"south/excitation": "3", "north/excitation": "1"}


def test_a_device_that_tells_much_later_makes_no_second_window(case: Case) -> None:
    told = [event_at(case.onset_ns), event_at(case.onset_ns + 9 * NS // 10 + NS, "GENROU_3")]
    assert len(run(seconds(case.samples), [*told[:1], replace(told[1], onset_time_ns=case.onset_ns + NS)])) == 1


def test_events_further_apart_have_a_window_each(case: Case) -> None:
    samples = case.samples.with_columns({"frequency_hz": case.samples.columns["frequency_hz"]})
    windows = run(seconds(samples), [event_at(3 * NS), event_at(6 * NS)], EventWindowConfig(after=3.0))
    assert [window.onset_time_ns for window in windows] == [3 * NS, 6 * NS]


def test_events_that_end_are_ignored(case: Case) -> None:
    assert run(seconds(case.samples), [replace(event_at(case.onset_ns), state="ended")]) == []


def test_a_device_that_stops_is_waited_for_and_named(case: Case) -> None:
    stopped = (case.samples.device == 2) & (case.samples.time_ns > 5 * NS)
    [window] = run(seconds(case.samples.take(~stopped)), [event_at(case.onset_ns)])
    assert window.missing == ("GENROU_3",)
    assert rows_of(window, "GENROU_1") == 420


def test_late_rows_that_come_in_time_belong_to_the_window(case: Case) -> None:
    is_late = case.samples.device == 1
    prompt, late = seconds(case.samples.take(~is_late)), seconds(case.samples.take(is_late))
    batches = [*prompt[:1], *(batch for pair in zip(prompt[1:], late, strict=False) for batch in pair)]
    [window] = run(batches, [event_at(case.onset_ns)])
    assert rows_of(window, "GENROU_2") == 420
    assert window.missing == ()


def test_the_same_rows_in_other_batches_give_the_same_window(case: Case) -> None:
    [one] = run(seconds(case.samples), [event_at(case.onset_ns)])
    halves = [
        half
        for batch in seconds(case.samples)
        for half in (batch.take(np.arange(min(97, batch.rows))), batch.take(np.arange(97, batch.rows)))
    ]
    [other] = run([half for half in halves if half.rows], [event_at(case.onset_ns)])
    assert (one.begin_ns, one.power_step, one.missing) == (other.begin_ns, other.power_step, other.missing)
    assert one.samples.time_ns.tolist() == other.samples.time_ns.tolist()
    assert np.array_equal(one.samples.columns["current_a"], other.samples.columns["current_a"])


def test_memory_is_bounded_by_the_window(case: Case) -> None:
    config = EventWindowConfig(before=2.0, after=1.0, wait=0.0)
    state = start(config)
    for turn in range(20):
        for batch in seconds(case.samples):
            take_samples(config, state, replace(batch, time_ns=batch.time_ns + turn * 15 * NS))
    assert sum(batch.rows for _, batch in state.batches) == state.rows < 12 * 240


def test_rows_beyond_max_rows_let_go_of_the_oldest(case: Case) -> None:
    config = EventWindowConfig(max_rows=1000)
    state = start(config)
    for batch in seconds(case.samples):
        take_samples(config, state, batch)
    assert sum(batch.rows for _, batch in state.batches) == state.rows <= 1000


def test_a_recording_without_noise_has_no_clock_of_its_own() -> None:
    """Without noise any swing is many times what is usual; power that steps at the onset too tells the right time."""
    quiet = load_case("kundur_load_step")
    [window] = run(seconds(quiet.samples), [event_at(quiet.onset_ns)])
    assert set(window.own_steps_ns) == set(quiet.units)
    assert all(abs(time_ns - window.onset_time_ns) <= 80_000_000 for time_ns in window.own_steps_ns.values())


# Wrong clocks ---------------------------------------------------------------------------------------------------------


def shifted(samples: Samples, device: str, by_ns: int) -> Samples:
    mine = samples.device == samples.devices.index(device)
    return replace(samples, time_ns=np.where(mine, samples.time_ns + by_ns, samples.time_ns))


@pytest.mark.parametrize("ahead_s", [9, 3600])
@pytest.mark.parametrize("second", [0, 2, 5])
def test_a_row_from_the_future_changes_nothing_but_itself(case: Case, second: int, ahead_s: int) -> None:
    batches = seconds(case.samples)
    time_ns = batches[second].time_ns.copy()
    time_ns[-1] += ahead_s * NS
    batches[second] = replace(batches[second], time_ns=time_ns)
    [window] = run(batches, [event_at(case.onset_ns + k * NS // 10, f"GENROU_{k + 1}") for k in range(4)])
    assert rows_of(window, "GENROU_1") == 420
    assert window.onset_time_ns == run(seconds(case.samples), [event_at(case.onset_ns)])[0].onset_time_ns
    assert window.missing == ()


@pytest.mark.parametrize("by_s", [8, -8, 20, 3600, -3600])
def test_a_clock_that_is_far_off_costs_its_own_device_alone(case: Case, by_s: int) -> None:
    """Its rows come with the others', so their tags are not in order any more."""
    batches = [shifted(batch, "GENROU_3", by_s * NS) for batch in seconds(case.samples)]
    [window] = run(batches, [event_at(case.onset_ns)])
    assert {device: rows_of(window, device) for device in ("GENROU_1", "GENROU_2", "GENROU_4")} == {
        "GENROU_1": 420,
        "GENROU_2": 420,
        "GENROU_4": 420,
    }
    assert ("GENROU_3" in window.missing) == (rows_of(window, "GENROU_3") < 411)


def test_an_event_that_a_clock_far_ahead_tells_is_a_dead_letter(case: Case) -> None:
    config = EventWindowConfig()
    state = start(config)
    for batch in seconds(case.samples)[:6]:
        take_samples(config, state, shifted(batch, "GENROU_3", 8 * NS))
    [letter] = take_event(config, state, event_at(case.onset_ns + 8 * NS, "GENROU_3"))
    assert isinstance(letter, DeadLetter)
    assert letter.reason == "clock_ahead"
    assert "'GENROU_3' are 8.0 s ahead" in letter.text


def test_with_two_devices_nobody_knows_whose_clock_is_wrong(case: Case) -> None:
    two = case.samples.take(case.samples.device < 2)
    batches = [shifted(batch, "GENROU_2", 8 * NS) for batch in seconds(two)]
    assert len(run(batches, [event_at(case.onset_ns)])) == 1


def test_an_event_is_told_once_however_late_others_tell_it(case: Case) -> None:
    config = EventWindowConfig()
    state = start(config)
    told = 0
    for turn in range(3):
        for batch in seconds(case.samples):
            told += len(take_samples(config, state, replace(batch, time_ns=batch.time_ns + turn * 15 * NS)))
            told += len(take_event(config, state, event_at(case.onset_ns, "GENROU_2")))
    assert told == 1


@pytest.mark.parametrize("off_s", [-0.5, -0.3, -0.1, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("device", ["GENROU_1", "GENROU_2", "GENROU_3", "GENROU_4"])
def test_the_onset_does_not_follow_a_clock_that_is_off(case: Case, device: str, off_s: float) -> None:
    """Each of the units in turn, so also that next to the load, whose power steps most."""
    [window] = run(seconds(shifted(case.samples, device, round(off_s * NS))), [event_at(case.onset_ns)])
    assert abs(window.onset_time_ns - case.onset_ns) <= 20_000_000
    apart = {name for name, time_ns in window.own_steps_ns.items() if abs(time_ns - window.onset_time_ns) > 80_000_000}
    assert apart == {device}


# Ends -----------------------------------------------------------------------------------------------------------------


def test_the_end_gives_what_is_waited_for_with_what_there_is(case: Case) -> None:
    config = EventWindowConfig()
    state = start(config)
    for batch in seconds(case.samples)[:5]:
        take_samples(config, state, batch)
    assert take_event(config, state, event_at(case.onset_ns)) == []
    [window] = end(config, state)
    assert isinstance(window, EventWindow)
    assert window.missing == tuple(case.units)
    assert end(config, state) == []


def test_an_event_without_any_rows_is_told_at_the_end(case: Case) -> None:
    config = EventWindowConfig()
    state = start(config)
    assert take_event(config, state, event_at(case.onset_ns)) == []
    [window] = end(config, state)
    assert isinstance(window, EventWindow)
    assert window.samples.rows == 0


def test_when_all_devices_fall_silent_the_window_goes_out_after_the_wait(case: Case) -> None:
    config = EventWindowConfig()
    state = start(config)
    for batch in seconds(case.samples)[:5]:
        take_samples(config, state, batch)
    take_event(config, state, event_at(case.onset_ns))
    given = [len(tick(config, state, 10**18 + half * NS // 2)) for half in range(30)]
    assert given[:17] == [0] * 17
    assert sum(given) == 1
