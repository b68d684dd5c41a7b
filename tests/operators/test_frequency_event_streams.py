"""`rocof` and `frequency_event` together, on recorded disturbances and on what must not be taken for one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from operator_streams import (
    Recording,
    batches,
    cut,
    detect,
    interleaved,
    phase_jump_hz,
    recording,
    seconds,
    started,
    tags,
)

from edgeflex_flow.messages import Samples
from edgeflex_operators import rocof

NOISE_HZ = 1e-3
RATES = [10, 25, 50, 60]
PMU_WINDOWS_S = [0.04, 0.06, 0.08, 0.1]


def samples_of(made: Recording) -> Samples:
    return interleaved(tags(made.time_s), made.frequency_hz, made.names)


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(scale=NOISE_HZ, size=shape)


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("rate", [50, 60])
@pytest.mark.parametrize("name", ["ieee39", "kundur"])
def test_recorded_disturbance_is_found_once_and_in_time_on_every_generator(
    name: str, rate: int, seed: int | None
) -> None:
    made = recording(name).at(rate)
    made = made if seed is None else made.with_noise(NOISE_HZ, seed)
    events = started(detect(samples_of(made)))
    assert Counter(event.device for event in events) == dict.fromkeys(made.names, 1)
    delays_s = [seconds(event.detected_time_ns) - made.event_s for event in events]
    assert max(delays_s) <= 0.8
    assert np.median(delays_s) <= 0.5
    errors_s = [abs(seconds(event.onset_time_ns) - made.event_s) for event in events]
    assert max(errors_s) <= 0.1
    assert all(event.rocof_hz_per_s < -0.02 for event in events)
    assert all(abs(event.frequency_before_hz - 60.0) < NOISE_HZ for event in events)


@pytest.mark.parametrize("rate", [10, 25])
@pytest.mark.parametrize("name", ["ieee39", "kundur"])
def test_recorded_disturbance_is_found_once_at_low_rates(name: str, rate: int) -> None:
    made = recording(name).at(rate).with_noise(NOISE_HZ, 0)
    events = started(detect(samples_of(made)))
    assert Counter(event.device for event in events) == dict.fromkeys(made.names, 1)
    assert np.median([seconds(event.detected_time_ns) - made.event_s for event in events]) <= 0.5


@pytest.mark.parametrize("slope", [-0.03, -0.1])
@pytest.mark.parametrize("window_s", [0.2, 0.5, 1.0, 2.0, 5.0, 10.0])
def test_onset_and_course_before_do_not_depend_on_the_window(window_s: float, slope: float) -> None:
    time_s = np.arange(50 * 50) / 50
    hz = 50.0 + slope * np.maximum(0.0, time_s - 25.0)[:, None] + noise((len(time_s), 8), 9) / 10
    events = started(detect(interleaved(tags(time_s), hz), rocof_config=rocof.RocofConfig(window=window_s)))
    assert len(events) == 8
    assert max(abs(seconds(event.onset_time_ns) - 25.0) for event in events) <= 0.1
    assert max(abs(event.frequency_before_hz - 50.0) for event in events) <= 2e-4


def test_event_ends_at_the_nadir_and_names_it() -> None:
    made = recording("kundur")
    ended = [event for event in detect(samples_of(made)) if event.state == "ended"]
    nadir_hz = dict(zip(made.names, made.frequency_hz.min(axis=0), strict=True))
    assert len(ended) == len(made.names)
    for event in ended:
        assert event.frequency_extreme_hz == nadir_hz[event.device]


def test_events_do_not_depend_on_how_the_stream_is_cut() -> None:
    samples = samples_of(recording("ieee39").with_noise(NOISE_HZ, 1))
    whole = detect(samples)
    assert len(whole) == 20
    assert detect(samples, sizes=(1, 7, 300)) == whole


def jumps(rate: int, seed: int | None) -> Samples:
    """20 s with a phase jump at 5 s: every PMU window, 16 places of the jump within a frame, and both signs."""
    time_s = np.arange(20 * rate) / rate
    columns = [
        50.0 + phase_jump_hz(time_s, 5.0 + place / rate, window_s, jump_deg)
        for window_s in PMU_WINDOWS_S
        for place in np.arange(16) / 16
        for jump_deg in (10.0, -10.0)
    ]
    hz = np.stack(columns, axis=1)
    return interleaved(tags(time_s), hz if seed is None else hz + noise(hz.shape, seed))


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("rate", RATES)
def test_phase_jump_is_no_event(rate: int, seed: int | None) -> None:
    assert detect(jumps(rate, seed)) == []


def test_simulated_phase_jump_moves_the_rocof_as_a_real_one() -> None:
    config = rocof.RocofConfig()
    [out] = batches(rocof.step(config, rocof.start(config), jumps(50, None)))
    slope = np.abs(out.columns["rocof_hz_per_s"]).reshape(-1, len(out.devices))
    assert np.all((slope.max(axis=0) > 0.45) & (slope.max(axis=0) < 0.7))


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("rate", RATES)
def test_two_phase_jumps_in_succession_are_no_event(rate: int, seed: int | None) -> None:
    time_s = np.arange(15 * rate) / rate
    columns = [
        50.0
        + phase_jump_hz(time_s, 5.0 + place / rate, window_s, 10.0)
        + phase_jump_hz(time_s, 5.0 + place / rate + apart_s, window_s, second_deg)
        for window_s in PMU_WINDOWS_S
        for place in (0.0, 0.4, 0.8)
        for apart_s in np.arange(0.02, 1.2, 0.03)
        for second_deg in (10.0, -10.0)
    ]
    hz = np.stack(columns, axis=1)
    assert detect(interleaved(tags(time_s), hz if seed is None else hz + noise(hz.shape, seed))) == []


@pytest.mark.parametrize("slope", [-0.03, -0.1, -0.5])
@pytest.mark.parametrize("rate", RATES)
def test_event_with_a_phase_jump_on_top_is_found(rate: int, slope: float) -> None:
    time_s = np.arange(12 * rate) / rate
    columns = [
        50.0 + slope * np.clip(time_s - 5.0, 0.0, 2.0) + phase_jump_hz(time_s, 5.0 + after_s, window_s, jump_deg)
        for window_s in PMU_WINDOWS_S
        for after_s in (-0.2, 0.0, 0.013, 0.1, 0.3)
        for jump_deg in (10.0, -10.0)
    ]
    hz = np.stack(columns, axis=1)
    events = started(detect(interleaved(tags(time_s), hz + noise(hz.shape, 3))))
    assert len({event.device for event in events}) == len(events) == hz.shape[1]
    assert max(seconds(event.detected_time_ns) for event in events) <= 5.0 + 1.5


@pytest.mark.parametrize("jump_deg", [10.0, -10.0])
@pytest.mark.parametrize("name", ["ieee39", "kundur"])
def test_recorded_disturbance_with_a_phase_jump_on_top_is_found(name: str, jump_deg: float) -> None:
    made = recording(name)
    jump = phase_jump_hz(made.time_s, made.event_s, 0.06, jump_deg)
    events = started(detect(samples_of(made._replace(frequency_hz=made.frequency_hz + jump[:, None]))))
    assert {event.device for event in events} == set(made.names)


@pytest.mark.parametrize("rate", RATES)
def test_ten_minutes_of_noise_hold_no_event(rate: int) -> None:
    time_s = np.arange(600 * rate) / rate
    hz = 50.0 + noise((len(time_s), 6), rate)
    assert detect(interleaved(tags(time_s), hz)) == []


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("gap_s", [0.12, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0])
def test_gap_after_which_the_frequency_is_another_is_no_event(gap_s: float, rate: int) -> None:
    time_s = np.arange((20 + gap_s) * rate) / rate
    after = time_s > 8.0 + gap_s
    change_hz = np.array([0.5, -0.5, 0.05, -0.05, 0.02, -0.02])
    hz = 50.0 + after[:, None] * change_hz + noise((len(time_s), 6), 5)
    there = after | (time_s <= 8.0)
    assert detect(interleaved(tags(time_s[there]), hz[there])) == []


@pytest.mark.parametrize("rate", RATES)
def test_event_soon_after_a_gap_is_found(rate: int) -> None:
    time_s = np.arange(20 * rate) / rate
    there = (time_s < 5.0) | (time_s > 6.0)
    hz = 50.0 - 0.1 * np.clip(time_s - 7.5, 0.0, 1.0)[:, None] + noise((len(time_s), 3), 6)
    events = started(detect(interleaved(tags(time_s[there]), hz[there])))
    assert len(events) == 3
    assert max(seconds(event.detected_time_ns) for event in events) < 8.3


def test_lost_frames_do_not_hide_an_event() -> None:
    made = recording("ieee39").with_noise(NOISE_HZ, 2)
    kept = np.random.default_rng(2).random(len(made.time_s)) > 0.2
    made = made._replace(time_s=made.time_s[kept], frequency_hz=made.frequency_hz[kept])
    events = started(detect(samples_of(made)))
    assert {event.device for event in events} == set(made.names)


def test_interleaved_devices_do_not_touch_each_other() -> None:
    made = recording("ieee39")
    together = {event.device: event for event in started(detect(samples_of(made)))}
    for code, name in enumerate(made.names):
        alone = samples_of(made._replace(frequency_hz=made.frequency_hz[:, [code]], names=(name,)))
        assert started(detect(alone)) == [together[name]]


def test_stream_may_pass_in_single_rows() -> None:
    samples = samples_of(recording("kundur"))
    assert len(list(cut(samples, (1,)))) == samples.rows
    assert detect(samples, sizes=(1,)) == detect(samples)
