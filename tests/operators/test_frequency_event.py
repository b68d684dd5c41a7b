"""The rules of `frequency_event`, one by one, on made-up frequency and ROCOF; see also test_frequency_event_streams."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from operator_streams import EPOCH_NS, cut, interleaved, letters, one_device, seconds, tags

from edgeflex_flow.messages import FrequencyEvent, Quality, Samples
from edgeflex_operators import frequency_event
from edgeflex_operators.frequency_event import (
    NODE,
    OUTBOX,
    FrequencyEventConfig,
    FrequencyEventState,
    median,
    onset_index,
)

BAD = int(Quality.BAD_DATA)
TEST = int(Quality.TEST)
REPLAYED = int(Quality.REPLAYED)
ESTIMATED = int(Quality.ESTIMATED)


def made_up(time_s: NDArray[np.float64], hz: NDArray[np.float64], slope: NDArray[np.float64]) -> Samples:
    return one_device(tags(time_s), hz, rocof_hz_per_s=slope)


def ramp(slope: float = -0.1, begin_s: float = 3.0, end_s: float = 4.0, until_s: float = 12.0) -> Samples:
    """50 frames/s of a frequency that leaves 50 Hz; its ROCOF is known at once."""
    time_s = np.arange(round(until_s * 50)) / 50
    hz = 50.0 + slope * np.clip(time_s - begin_s, 0.0, end_s - begin_s)
    return made_up(time_s, hz, np.where((time_s > begin_s) & (time_s <= end_s), slope, 0.0))


def run(
    samples: Samples, config: FrequencyEventConfig | None = None, sizes: tuple[int, ...] = (10_000,)
) -> list[FrequencyEvent]:
    config = config or FrequencyEventConfig()
    state = frequency_event.start(config)
    messages: list[Any] = []
    for batch in cut(samples, sizes):
        messages += frequency_event.step(config, state, batch)
    return [message for message in messages if isinstance(message, FrequencyEvent)]


def with_rows(samples: Samples, rows: NDArray[np.bool_], **values: float) -> Samples:
    columns = {name: np.where(rows, values.get(name, np.nan), column) for name, column in samples.columns.items()}
    return samples.with_columns({**samples.columns, **{name: columns[name] for name in values}})


def time_s(samples: Samples) -> NDArray[np.float64]:
    return np.asarray((samples.time_ns - EPOCH_NS) * 1e-9, dtype=np.float64)


def test_started_tells_what_happened() -> None:
    event = run(ramp())[0]
    assert event.state == "started"
    assert event.id == f"G1@{event.onset_time_ns}"
    assert seconds(event.onset_time_ns) == pytest.approx(3.0, abs=1e-6)
    assert seconds(event.detected_time_ns) == pytest.approx(3.02 + 0.3, abs=1e-6)
    assert event.rocof_hz_per_s == -0.1
    assert event.frequency_before_hz == 50.0
    assert event.frequency_extreme_hz == pytest.approx(50.0 - 0.032)
    assert event.end_time_ns is None


def test_ended_tells_the_extreme_and_when_the_frequency_came_to_rest() -> None:
    begun, ended = run(ramp())
    assert ended.state == "ended"
    assert (ended.id, ended.detected_time_ns) == (begun.id, begun.detected_time_ns)
    assert ended.frequency_extreme_hz == pytest.approx(49.9)
    assert ended.end_time_ns is not None
    assert seconds(ended.end_time_ns) == pytest.approx(4.02, abs=1e-6)


def test_largest_rocof_since_the_crossing_is_told() -> None:
    samples = ramp()
    begun, ended = run(with_rows(samples, np.abs(time_s(samples) - 3.1) < 0.001, rocof_hz_per_s=-0.7))
    assert begun.rocof_hz_per_s == ended.rocof_hz_per_s == -0.7


def test_rise_is_an_event_too() -> None:
    begun, ended = run(ramp(slope=0.1))
    assert begun.rocof_hz_per_s == 0.1
    assert ended.frequency_extreme_hz == pytest.approx(50.1)


def test_rocof_that_does_not_last_is_no_event() -> None:
    assert run(ramp(slope=-1.0, end_s=3.28)) == []
    assert len(run(ramp(slope=-1.0, end_s=3.34))) == 2


def test_rocof_that_changes_its_sign_is_no_event() -> None:
    samples = ramp(slope=-1.0)
    assert (
        run(with_rows(samples, np.abs(time_s(samples) - 3.2) < 0.001, rocof_hz_per_s=1.0))[0].detected_time_ns
        > (tags(np.array([3.5]))[0])
    )


def test_dip_between_the_two_limits_does_not_undo_a_crossing() -> None:
    samples = ramp(slope=-0.1)
    dip = with_rows(samples, np.abs(time_s(samples) - 3.2) < 0.001, rocof_hz_per_s=-0.011)
    assert run(dip)[0].detected_time_ns == run(samples)[0].detected_time_ns
    below = with_rows(samples, np.abs(time_s(samples) - 3.2) < 0.001, rocof_hz_per_s=-0.009)
    assert seconds(run(below)[0].detected_time_ns) == pytest.approx(3.52, abs=1e-6)


def test_rocof_without_displacement_is_no_event() -> None:
    samples = ramp()
    assert run(with_rows(samples, time_s(samples) > 0, frequency_hz=50.0)) == []


def test_displacement_must_have_held_for_a_tenth_of_a_second() -> None:
    samples = ramp(slope=-0.1)
    for k in range(5):
        samples = with_rows(samples, np.abs(time_s(samples) - 3.3 - 0.1 * k) < 0.001, frequency_hz=50.0)
    assert seconds(run(samples)[0].detected_time_ns) == pytest.approx(3.82, abs=1e-6)


def test_displacement_that_has_returned_is_no_event() -> None:
    time = np.arange(600) / 50
    slope = np.where((time > 3.0) & (time < 3.9), -0.1, 0.0)
    # Away by 0.3 Hz for 0.2 s, back to less than 30 % of it, which is still more than `displacement`.
    hz = np.where(time <= 3.0, 50.0, np.where(time < 3.2, 49.7, 49.93))
    assert run(made_up(time, hz, slope)) == []
    assert len(run(made_up(time, hz, slope), FrequencyEventConfig(return_ratio=0.2))) == 2


def test_spike_of_less_than_a_tenth_of_a_second_is_no_peak() -> None:
    samples = ramp(slope=-0.1)
    spike = (time_s(samples) > 3.0) & (time_s(samples) < 3.07)
    assert run(with_rows(samples, spike, frequency_hz=49.0))[0].detected_time_ns == run(samples)[0].detected_time_ns


def test_half_a_second_must_be_known_first() -> None:
    assert run(ramp(begin_s=0.44, end_s=0.9))[0].onset_time_ns > tags(np.array([0.4]))[0]
    assert run(ramp(begin_s=0.1, end_s=0.6)) == []


def test_hold_off_hides_what_follows_at_once() -> None:
    first, second = ramp(until_s=6.0), ramp(begin_s=1.0, end_s=2.0, until_s=8.0)
    moved = second.with_columns({**second.columns, "frequency_hz": second.columns["frequency_hz"] - 0.1})
    both = made_up(
        np.arange(700) / 50,
        np.concatenate([first.columns["frequency_hz"], moved.columns["frequency_hz"]]),
        np.concatenate([first.columns["rocof_hz_per_s"], moved.columns["rocof_hz_per_s"]]),
    )
    assert len(run(both)) == 2
    assert len(run(both, FrequencyEventConfig(hold_off=1.0))) == 4


def test_event_is_open_while_rocof_does_not_rest_for_clear_time() -> None:
    samples = ramp(until_s=8.0)
    swinging = (time_s(samples) > 4.0) & (np.round(time_s(samples) * 50) % 45 == 0)
    restless = with_rows(samples, swinging, rocof_hz_per_s=0.015)
    assert [event.state for event in run(restless)] == ["started"]


@pytest.mark.parametrize("gap_s", [0.12, 1.0, 4.9])
def test_active_event_survives_a_gap_shorter_than_hold_off(gap_s: float) -> None:
    samples = ramp(end_s=4.0, until_s=15.0)
    gap = (time_s(samples) > 3.5) & (time_s(samples) < 3.5 + gap_s)
    begun, ended = run(samples.take(~gap))
    assert ended.id == begun.id
    assert ended.end_time_ns is not None
    assert seconds(ended.end_time_ns) >= 3.5 + gap_s


def test_active_event_ends_with_the_last_row_before_a_longer_gap() -> None:
    samples = ramp(until_s=15.0)
    gap = (time_s(samples) > 3.51) & (time_s(samples) < 8.6)
    begun, ended = run(samples.take(~gap))
    assert (ended.id, ended.state) == (begun.id, "ended")
    assert ended.end_time_ns is not None
    assert seconds(ended.end_time_ns) == pytest.approx(3.5, abs=1e-6)


def test_quiet_before_and_after_a_gap_is_not_one_quiet() -> None:
    samples = ramp(until_s=15.0)
    gap = (time_s(samples) > 4.5) & (time_s(samples) < 5.2)
    _, ended = run(samples.take(~gap))
    assert ended.end_time_ns is not None
    assert seconds(ended.end_time_ns) == pytest.approx(5.2, abs=0.03)


def test_pending_crossing_is_given_up_across_a_gap() -> None:
    samples = ramp(slope=-0.1, end_s=3.4)
    gap = (time_s(samples) > 3.15) & (time_s(samples) < 3.3)
    assert run(samples.take(~gap)) == []


def test_gap_before_a_row_without_rocof_is_a_gap_all_the_same() -> None:
    samples = ramp(slope=-0.1, end_s=3.45)
    after = (time_s(samples) > 3.3) & (time_s(samples) < 3.33)
    gap = (time_s(samples) > 3.15) & (time_s(samples) < 3.3)
    assert run(with_rows(samples, after, rocof_hz_per_s=math.nan).take(~gap)) == []


def test_clock_set_back_ends_an_event() -> None:
    late, early = ramp(until_s=3.6), ramp(until_s=6.0)
    joined = one_device(
        np.concatenate([late.time_ns + 10**12, early.time_ns]),
        np.concatenate([late.columns["frequency_hz"], early.columns["frequency_hz"]]),
        rocof_hz_per_s=np.concatenate([late.columns["rocof_hz_per_s"], early.columns["rocof_hz_per_s"]]),
    )
    events = run(joined)
    assert [event.state for event in events] == ["started", "ended", "started", "ended"]
    assert events[1].end_time_ns == late.time_ns[-1] + 10**12


def test_unusable_rows_are_ignored() -> None:
    samples = ramp()
    odd = np.round(time_s(samples) * 50) % 4 == 1
    wrong = with_rows(samples, odd, frequency_hz=0.0, rocof_hz_per_s=99.0)
    wrong.quality[odd] = BAD
    begun = run(wrong)[0]
    assert begun.frequency_extreme_hz > 49.9
    assert begun.rocof_hz_per_s == -0.1


def test_flags_of_what_the_event_was_computed_from_are_in_it() -> None:
    samples = ramp()
    samples.quality[time_s(samples) < 0.51] = int(Quality.LATE)
    samples.quality[np.abs(time_s(samples) - 2.0) < 0.001] = REPLAYED
    samples.quality[time_s(samples) > 3.5] = ESTIMATED
    begun, ended = run(samples)
    assert begun.quality == REPLAYED
    assert ended.quality == REPLAYED | ESTIMATED


def test_flag_of_the_oldest_sample_in_the_fit_is_in_the_event() -> None:
    samples = ramp()
    # The ROCOF crosses at 3.02 s: the fit begins 2 s of history and 0.501 s before.
    samples.quality[np.abs(time_s(samples) - 0.52) < 0.001] = ESTIMATED
    assert run(samples)[0].quality == ESTIMATED
    samples = ramp()
    samples.quality[np.abs(time_s(samples) - 0.50) < 0.001] = ESTIMATED
    assert run(samples)[0].quality == 0


def test_device_in_test_mode_starts_no_event() -> None:
    samples = ramp()
    samples.quality[:] = TEST
    assert run(samples) == []


def test_device_in_test_mode_starts_an_event_when_asked_for_and_its_flag_passes_on() -> None:
    samples = ramp()
    samples.quality[:] = TEST
    assert [event.quality for event in run(samples, FrequencyEventConfig(accept_test=True))] == [TEST, TEST]


def late(delay_s: float, after_s: float) -> Samples:
    """A ramp from 12 s on, whose ROCOF is known only `after_s` later and says that it lags by `delay_s`."""
    samples = ramp(begin_s=12.0, end_s=20.0, until_s=25.0)
    known = time_s(samples) > 12.0 + after_s
    samples = with_rows(samples, ~known, rocof_hz_per_s=0.0)
    return samples.with_columns({**samples.columns, "rocof_delay_s": np.full(samples.rows, delay_s)})


@pytest.mark.parametrize("window_s", [0.2, 0.5, 1.0, 3.0, 8.0])
def test_onset_is_looked_for_in_the_window_of_the_rocof(window_s: float) -> None:
    begun = run(late(window_s / 2, 0.9 * window_s))[0]
    assert seconds(begun.onset_time_ns) == pytest.approx(12.0, abs=1e-6)
    assert begun.frequency_before_hz == 50.0
    assert begun.quality == 0


@pytest.mark.parametrize("delay_s", [math.nan, 0.0])
def test_delay_that_says_nothing_is_a_window_of_half_a_second(delay_s: float) -> None:
    samples = late(delay_s, 0.3)
    columns = {name: samples.columns[name] for name in ("frequency_hz", "rocof_hz_per_s")}
    assert run(samples) == run(samples.with_columns(columns))
    assert seconds(run(samples)[0].onset_time_ns) == pytest.approx(12.0, abs=1e-6)


def test_time_of_the_window_must_be_known_first() -> None:
    samples = late(2.0, 0.5)
    assert len(run(samples.take(time_s(samples) > 8.0))) > 0
    after = run(samples.take(time_s(samples) > 10.0))[0]
    assert seconds(after.detected_time_ns) == pytest.approx(10.02 + 4.0 + 0.3, abs=1e-6)


def test_delay_without_end_does_not_take_memory_without_end() -> None:
    samples = late(math.inf, 0.5)
    config = FrequencyEventConfig()
    state = frequency_event.start(config)
    frequency_event.step(config, state, samples)
    assert state.window_s == 60.0
    assert state.capacity < 65 * config.max_rate


def test_rows_out_of_order_are_reported() -> None:
    samples = ramp()
    config = FrequencyEventConfig()
    messages = frequency_event.step(config, frequency_event.start(config), samples.take(np.array([0, 1, 1, 2])))
    assert [letter.reason for letter in letters(messages)] == ["out_of_order"]


def test_more_events_at_once_than_the_outbox_holds_are_all_told() -> None:
    one = ramp()
    devices = 3 * OUTBOX + 1
    samples = interleaved(one.time_ns, np.repeat(one.columns["frequency_hz"][:, None], devices, axis=1))
    samples = samples.with_columns(
        {**samples.columns, "rocof_hz_per_s": np.repeat(one.columns["rocof_hz_per_s"], devices)}
    )
    events = run(samples)
    assert {(event.device, event.state) for event in events} == {
        (name, state) for name in samples.devices for state in ("started", "ended")
    }
    assert len(events) == 2 * devices


def test_policy_that_raises_onset_holds_from_the_next_row_on() -> None:
    samples = ramp()
    strict = FrequencyEventConfig(onset=0.5)
    state = frequency_event.start(FrequencyEventConfig())
    first, second = cut(samples, (155, 10_000))
    assert frequency_event.step(FrequencyEventConfig(), state, first) == []
    assert frequency_event.step(strict, state, second) == []


def test_policy_that_asks_for_more_history_keeps_what_is_there() -> None:
    samples = ramp()
    patient = FrequencyEventConfig(history=6.0)
    state = frequency_event.start(FrequencyEventConfig())
    first, second = cut(samples, (149, 10_000))
    frequency_event.step(FrequencyEventConfig(), state, first)
    begun, _ = frequency_event.step(patient, state, second)
    assert isinstance(begun, FrequencyEvent)
    assert begun.frequency_before_hz == 50.0
    assert seconds(begun.onset_time_ns) == pytest.approx(3.0, abs=1e-6)


def test_device_faster_than_max_rate_is_watched_with_less_history() -> None:
    events = run(ramp(), FrequencyEventConfig(max_rate=30.0))
    assert [event.state for event in events] == ["started", "ended"]
    assert {event.quality for event in events} == {int(Quality.CLIPPED)}


def test_ports_and_output_are_declared() -> None:
    assert NODE.inputs["in"].columns(FrequencyEventConfig()) == {"frequency_hz", "rocof_hz_per_s"}
    assert NODE.output(FrequencyEventConfig(), {}).messages == {FrequencyEvent}


@pytest.mark.parametrize("rows", [100, 149, 160, 175, 250])
def test_pickled_state_goes_on_identically(rows: int) -> None:
    samples = ramp()
    config = FrequencyEventConfig()
    first, second = cut(samples, (rows, 10_000))
    state = frequency_event.start(config)
    frequency_event.step(config, state, first)
    copy: FrequencyEventState = pickle.loads(pickle.dumps(state))
    assert frequency_event.step(config, copy, second) == frequency_event.step(config, state, second)


def test_pickled_state_keeps_the_course_for_a_long_window() -> None:
    samples = late(4.0, 7.0)
    config = FrequencyEventConfig()
    first, second = cut(samples, (19 * 50, 10_000))
    state = frequency_event.start(config)
    assert frequency_event.step(config, state, first) == []
    begun = frequency_event.step(config, pickle.loads(pickle.dumps(state)), second)[0]
    assert isinstance(begun, FrequencyEvent)
    assert seconds(begun.onset_time_ns) == pytest.approx(12.0, abs=1e-6)


def test_snapshot_leaves_out_what_no_decision_looks_at() -> None:
    config = FrequencyEventConfig()
    state = frequency_event.start(config)
    count = 3000
    quiet = interleaved(tags(np.arange(count) / 10), np.full((count, 50), 50.0))
    frequency_event.step(config, state, quiet.with_columns({**quiet.columns, "rocof_hz_per_s": np.zeros(50 * count)}))
    kept = state.span_ns * 1e-9 * 10 + 2
    assert len(pickle.dumps(state)) < 50 * (16 * kept + 500) + 2000


@given(st.lists(st.floats(45.0, 55.0), min_size=1, max_size=300))
def test_median_agrees_with_numpy(values: list[float]) -> None:
    assert median(np.array(values)) == np.median(values)


def slow_onset_index(
    time: NDArray[np.float64], hz: NDArray[np.float64], earliest_s: float, latest_s: float
) -> tuple[int, float]:
    """Both models fitted by `numpy.linalg.lstsq` for every break; and how clear the choice is (a ratio above 1)."""
    n = len(time)
    centred = time - time.mean()
    squares: dict[tuple[str, int], float] = {}
    for k in range(3, n - 2):
        if earliest_s <= time[k] <= latest_s:
            after = (np.arange(n) >= k).astype(float)
            meeting = np.stack([np.ones(n), centred, np.maximum(0.0, time - time[k])], axis=1)
            for name, table in (("meeting", meeting), ("offset", np.column_stack([meeting, after]))):
                solved = np.linalg.lstsq(table, hz - hz.mean(), rcond=None)[0]
                squares[name, k] = float(np.sum((hz - hz.mean() - table @ solved) ** 2))
    if not squares:
        return int(np.flatnonzero(time <= latest_s)[-1]), math.inf
    best = {name: sorted((squares[key], key[1]) for key in squares if key[0] == name) for name in ("meeting", "offset")}
    (meeting_left, meeting_at), (offset_left, offset_at) = best["meeting"][0], best["offset"][0]
    f = (meeting_left - offset_left) / (offset_left / (n - 5)) if n > 5 else 0.0
    name, at = ("offset", offset_at) if f > 10.0 else ("meeting", meeting_at)
    runner_up = best[name][1][0] if len(best[name]) > 1 else math.inf
    clear = min(runner_up / best[name][0][0], max(f, 1e-9) / 10.0 if f > 10.0 else 10.0 / max(f, 1e-9))
    return at, clear


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 80),
    st.floats(-0.2, 0.2),
    st.floats(-0.05, 0.05),
    st.floats(-2.0, 0.3),
)
def test_onset_index_agrees_with_lstsq(seed: int, n: int, slope: float, offset_hz: float, onset_s: float) -> None:
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.uniform(0.005, 0.06, n))
    time = time - time[-1] + 0.3
    hz = 50.0 + rng.normal(scale=1e-3, size=n)
    hz += np.where(time > onset_s, offset_hz + slope * (time - onset_s), 0.0)
    if time[0] > 0.0:
        time -= time[0]
    expected, clear = slow_onset_index(time, hz, -0.5, 0.0)
    if clear > 1.0 + 1e-6:
        assert onset_index(time, hz, -0.5, 0.0) == expected


@dataclass
class SlowDetector:
    """The state machine once more, in plain Python on lists, for one device at up to `max_rate`."""

    config: FrequencyEventConfig
    rows: list[tuple[int, float, int]] = field(default_factory=list)
    phase: str = "idle"
    last_ns: int | None = None
    crossing_ns: int = 0
    sign: int = 0
    rocof: float = 0.0
    onset_ns: int = 0
    detected_ns: int = 0
    before: float = 0.0
    extreme: float = 0.0
    flags: int = 0
    quiet_ns: int | None = None
    hold_ns: int = 0
    doubtful: bool = False
    told: list[FrequencyEvent] = field(default_factory=list)

    def row(self, now: int, hz: float, slope: float, quality: int) -> None:
        if quality & (BAD | TEST) or not math.isfinite(hz):
            return
        if self.last_ns is not None and now - self.last_ns > self.config.max_gap * 1.01e9:
            self.gap(now)
        self.last_ns = now
        self.rows.append((now, hz, quality))
        if self.phase == "active":
            self.active(now, hz, slope, quality)
        elif self.phase == "hold_off" and now < self.hold_ns:
            pass
        elif self.phase == "pending" and self.follows(now, slope):
            self.rocof = max(self.rocof, slope, key=abs)
            if now - self.crossing_ns >= self.config.confirm * 0.999e9 and self.displaced(now):
                self.phase = "active"
                self.detected_ns = now
                self.quiet_ns = None
                self.tell(None)
        else:
            self.phase = "idle"
            if abs(slope) > self.config.onset and now - self.rows[0][0] >= 499_000_000:
                self.phase, self.crossing_ns, self.sign, self.rocof = "pending", now, int(np.sign(slope)), slope

    def gap(self, now: int) -> None:
        assert self.last_ns is not None
        self.rows = []
        self.quiet_ns = None
        if self.phase == "active" and now - self.last_ns > self.config.hold_off * 1e9:
            self.tell(self.last_ns)
            self.phase = "idle"
        if self.phase == "pending":
            self.phase = "idle"

    def follows(self, now: int, slope: float) -> bool:
        patience_s = self.config.confirm + self.config.displacement / self.config.onset + 0.5
        off = self.config.onset * self.config.clear_ratio
        return slope * self.sign >= off and now - self.crossing_ns <= round(patience_s * 1e9)

    def displaced(self, now: int) -> bool:
        history_ns = round(self.config.history * 1e9)
        rows = [row for row in self.rows if row[0] >= self.crossing_ns - 501_000_000 - history_ns]
        time = np.array([(row[0] - self.crossing_ns) * 1e-9 for row in rows])
        hz = np.array([row[1] for row in rows])
        k, clear = slow_onset_index(time, hz, -0.501, 0.0)
        self.doubtful = self.doubtful or clear <= 1.0 + 1e-6
        self.onset_ns = rows[k][0]
        earlier = [row[1] for row in rows[:k] if row[0] >= self.onset_ns - history_ns]
        self.before = float(np.median(earlier or [hz[k]]))
        away = self.sign * (hz - self.before)
        held = [away[j : i + 1].min() for i in range(k, len(hz)) for j in [self.begin(time, i)]]
        self.extreme = max([self.before, *hz[k:]], key=lambda value: abs(value - self.before))
        self.flags = 0
        for row in self.rows:
            self.flags |= row[2] if row[0] >= self.crossing_ns - 501_000_000 - history_ns else 0
        return bool(held[-1] >= self.config.displacement and held[-1] >= self.config.return_ratio * max(held))

    @staticmethod
    def begin(time: NDArray[np.float64], i: int) -> int:
        """The first sample of the shortest run up to sample i that lasts a tenth of a second."""
        long_enough = np.flatnonzero(time[i] - time[: i + 1] >= 0.099)
        return int(long_enough[-1]) if len(long_enough) else 0

    def active(self, now: int, hz: float, slope: float, quality: int) -> None:
        self.flags |= quality
        self.extreme = max(self.extreme, hz, key=lambda value: abs(value - self.before))
        self.rocof = max(self.rocof, slope, key=abs)
        if abs(slope) >= self.config.onset * self.config.clear_ratio:
            self.quiet_ns = None
            return
        self.quiet_ns = now if self.quiet_ns is None else self.quiet_ns
        if now - self.quiet_ns >= self.config.clear_time * 0.999e9:
            self.tell(self.quiet_ns)
            self.phase, self.hold_ns = "hold_off", now + round(self.config.hold_off * 1e9)

    def tell(self, end_ns: int | None) -> None:
        self.told.append(
            FrequencyEvent(
                id=f"G1@{self.onset_ns}",
                state="started" if end_ns is None else "ended",
                device="G1",
                onset_time_ns=self.onset_ns,
                detected_time_ns=self.detected_ns,
                rocof_hz_per_s=self.rocof,
                frequency_before_hz=self.before,
                frequency_extreme_hz=float(self.extreme),
                end_time_ns=end_ns,
                quality=self.flags,
            )
        )


def random_course(seed: int) -> Samples:
    """Stretches of random slope, noise, gaps and flags: rich in crossings, confirmations, returns and interruptions."""
    rng = np.random.default_rng(seed)
    stretches: list[NDArray[np.float64]] = []
    while sum(len(stretch) for stretch in stretches) < 1200:
        rows = int(rng.integers(3, 90))
        stretches.append(np.full(rows, rng.choice([0.0, 0.0, -0.05, 0.05, -0.3, 0.3, -0.015, 0.012, -0.03])))
    slope = np.concatenate(stretches)
    step_ms = rng.choice([20] * 300 + [60, 100, 150, 1500], size=len(slope))
    jumps = np.where(rng.random(len(slope)) < 0.003, rng.normal(scale=0.05, size=len(slope)), 0.0)
    hz = 50.0 + np.cumsum(slope * step_ms * 1e-3 + jumps) + rng.normal(scale=2e-4, size=len(slope))
    samples = one_device(
        EPOCH_NS + np.cumsum(step_ms) * 1_000_000,
        hz,
        rng.choice([0] * 100 + [BAD, TEST, REPLAYED, ESTIMATED], size=len(slope)).tolist(),
        rocof_hz_per_s=slope + rng.normal(scale=2e-3, size=len(slope)),
    )
    samples.columns["frequency_hz"][rng.random(len(slope)) < 0.003] = np.nan
    return samples


CONFIGS = st.builds(
    FrequencyEventConfig,
    onset=st.sampled_from([0.02, 0.1]),
    confirm=st.sampled_from([0.1, 0.3, 0.5]),
    displacement=st.sampled_from([0.005, 0.01, 0.05]),
    return_ratio=st.sampled_from([0.0, 0.3, 0.8]),
    clear_ratio=st.sampled_from([0.2, 0.5, 1.0]),
    clear_time=st.sampled_from([0.2, 1.0]),
    hold_off=st.sampled_from([0.0, 1.0, 5.0]),
    history=st.sampled_from([0.5, 2.0]),
)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), CONFIGS, st.lists(st.integers(1, 500), min_size=1, max_size=3))
def test_events_agree_with_a_slow_twin(seed: int, config: FrequencyEventConfig, sizes: list[int]) -> None:
    samples = random_course(seed)
    twin = SlowDetector(config)
    for i in range(samples.rows):
        twin.row(
            int(samples.time_ns[i]),
            float(samples.columns["frequency_hz"][i]),
            float(samples.columns["rocof_hz_per_s"][i]),
            int(samples.quality[i]),
        )
    if not twin.doubtful:
        assert run(samples, config, tuple(sizes)) == twin.told


def test_random_courses_hold_events_to_agree_on() -> None:
    assert sum(len(run(random_course(seed))) for seed in range(5)) > 10
