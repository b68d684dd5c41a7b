from __future__ import annotations

import math
import pickle
from collections import defaultdict
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from operator_streams import batches, cut, interleaved, letters, one_device, tags

from edgeflex_flow.messages import Quality, Samples, join_samples
from edgeflex_operators import rocof
from edgeflex_operators.rocof import NODE, RocofConfig, RocofState

MS = 1_000_000
BAD = int(Quality.BAD_DATA)
SYNC_LOST = int(Quality.SYNC_LOST)
TEST = int(Quality.TEST)
ESTIMATED = int(Quality.ESTIMATED)


def run(samples: Samples, config: RocofConfig | None = None, sizes: tuple[int, ...] = (10_000,)) -> Samples:
    """Every row that comes out, as one batch."""
    config = config or RocofConfig()
    state = rocof.start(config)
    out: list[Samples] = []
    for batch in cut(samples, sizes):
        out += batches(rocof.step(config, state, batch))
    empty = samples.take(np.zeros(0, dtype=np.int64))
    names = ("frequency_hz", "rocof_hz_per_s", "rocof_delay_s")
    return join_samples([empty.with_columns({name: np.zeros(0) for name in names}), *out])


def frames(count: int, per_s: int = 50, slope: float = 0.0) -> Samples:
    time_s = np.arange(count) / per_s
    return one_device(tags(time_s), 50.0 + slope * time_s)


def polyfit_slope(time_ns: NDArray[np.int64], frequency_hz: NDArray[np.float64]) -> float:
    time_s = (time_ns - time_ns[0]) * 1e-9
    return float(np.polyfit(time_s - time_s.mean(), frequency_hz - frequency_hz.mean(), 1)[0])


def test_slope_of_a_ramp_comes_out_once_the_window_is_full() -> None:
    out = run(frames(40, slope=-0.25))
    assert out.rows == 40 - 25
    assert out.columns["rocof_hz_per_s"] == pytest.approx(np.full(15, -0.25), abs=1e-9)


@pytest.mark.parametrize("per_s", [10, 25, 30, 50, 60, 100])
def test_rounded_tags_of_any_rate_fill_the_window(per_s: int) -> None:
    out = run(frames(3 * per_s, per_s))
    assert out.rows == 3 * per_s - math.ceil(per_s / 2)
    assert out.columns["rocof_delay_s"] == pytest.approx(np.full(out.rows, per_s // 2 / per_s / 2), abs=1e-5)


def test_delay_is_half_of_what_the_window_spans() -> None:
    out = run(frames(100, 30), RocofConfig(window=0.25))
    assert out.columns["rocof_delay_s"] == pytest.approx(np.full(out.rows, 7 / 30 / 2), abs=1e-5)


def test_lost_frame_neither_bends_nor_blinds() -> None:
    whole = frames(100, slope=0.7)
    out = run(whole.take(np.arange(100) != 50))
    assert out.rows == 99 - 25
    assert out.columns["rocof_hz_per_s"] == pytest.approx(np.full(74, 0.7), abs=1e-9)


def test_gap_starts_the_window_anew() -> None:
    samples = frames(200)
    out = run(samples.take((np.arange(200) < 100) | (np.arange(200) >= 106)))
    assert out.rows == 100 - 25 + 94 - 25
    assert samples.time_ns[106 + 25] in out.time_ns
    assert samples.time_ns[106 + 24] not in out.time_ns


@pytest.mark.parametrize(("hz", "quality"), [(math.nan, 0), (math.inf, 0), (50.0, BAD), (50.0, SYNC_LOST)])
def test_unusable_row_starts_the_window_anew(hz: float, quality: int) -> None:
    samples = frames(100)
    samples.columns["frequency_hz"][60] = hz
    samples.quality[60] = quality
    out = run(samples)
    assert out.time_ns.tolist() == samples.time_ns[[*range(25, 60), *range(86, 100)]].tolist()
    assert not out.quality.any()


def test_rows_of_a_device_in_test_mode_are_refused() -> None:
    samples = frames(30)
    samples.quality[:] = TEST
    assert run(samples).rows == 0


def test_rows_of_a_device_in_test_mode_are_used_and_flagged_when_asked_for() -> None:
    samples = frames(30)
    samples.quality[:] = TEST
    assert run(samples, RocofConfig(accept_test=True)).quality.tolist() == [TEST] * 5


def test_flag_stays_as_long_as_its_row_is_in_the_window() -> None:
    samples = frames(100)
    samples.quality[40] = ESTIMATED
    out = run(samples)
    flagged = out.time_ns[out.quality == ESTIMATED]
    assert flagged.tolist() == samples.time_ns[40 : 40 + 26].tolist()


def test_device_faster_than_max_rate_has_a_shorter_window_and_says_so() -> None:
    out = run(frames(600, 200, slope=0.3), RocofConfig(max_rate=50.0))
    assert set(out.quality.tolist()) == {int(Quality.CLIPPED)}
    assert out.columns["rocof_delay_s"].max() < 0.1
    assert out.columns["rocof_hz_per_s"] == pytest.approx(np.full(out.rows, 0.3), abs=1e-9)


def test_the_flag_of_a_cut_row_leaves_the_window_with_it() -> None:
    samples = frames(600, 200)
    samples.quality[300] = ESTIMATED
    config = RocofConfig(max_rate=50.0)
    out = run(samples, config)
    flagged = out.time_ns[out.quality & ESTIMATED != 0]
    rows = rocof.start(config).capacity
    assert flagged.tolist() == samples.time_ns[300 : 300 + rows].tolist()


def test_clipped_ends_when_the_cut_rows_would_have_left_the_window() -> None:
    time_s = np.concatenate([np.arange(200) / 200, 1.0 + np.arange(100) / 50])
    out = run(one_device(tags(time_s), np.full(300, 50.0)), RocofConfig(max_rate=50.0))
    clipped = out.time_ns[out.quality != 0]
    last_cut = tags(np.array([1.0]))[0]
    assert last_cut < clipped.max() <= last_cut + 500 * MS
    assert not out.quality[out.time_ns > last_cut + 501 * MS].any()


def test_full_batch_shares_the_arrays_that_came_in() -> None:
    config = RocofConfig()
    state = rocof.start(config)
    first, second = cut(frames(60), (30,))
    rocof.step(config, state, first)
    [out] = batches(rocof.step(config, state, second))
    assert out.time_ns is second.time_ns
    assert out.device is second.device
    assert out.columns["frequency_hz"] is second.columns["frequency_hz"]


def test_rows_out_of_order_are_dropped_and_reported() -> None:
    samples = frames(40, slope=1.0)
    order = [*range(30), 10, 29, *range(30, 40)]
    config = RocofConfig()
    messages = rocof.step(config, rocof.start(config), samples.take(np.array(order)))
    [letter] = letters(messages)
    assert (letter.reason, letter.text[:6]) == ("out_of_order", "2 rows")
    [out] = batches(messages)
    assert out.time_ns.tolist() == samples.time_ns[25:].tolist()
    assert out.columns["rocof_hz_per_s"] == pytest.approx(np.ones(15), abs=1e-9)


def test_clock_set_back_gives_a_new_window() -> None:
    later = frames(60, slope=1.0)
    earlier = frames(200, slope=-1.0)
    samples = join_samples([msgspec.structs.replace(later, time_ns=later.time_ns + 3_600_000 * MS), earlier])
    out = run(samples)
    after = out.time_ns < later.time_ns[0] + 3_000_000 * MS
    assert after.sum() == 200 - 50 - 25
    assert out.columns["rocof_hz_per_s"][after] == pytest.approx(np.full(125, -1.0), abs=1e-9)


def test_no_rows_give_nothing() -> None:
    config = RocofConfig()
    assert rocof.step(config, rocof.start(config), frames(0)) == []


def test_each_device_has_its_own_window() -> None:
    time_s = np.arange(50) / 50
    slopes = np.linspace(-1.0, 1.0, 40)
    out = run(interleaved(tags(time_s), 50.0 + time_s[:, None] * slopes))
    assert out.columns["rocof_hz_per_s"] == pytest.approx(np.tile(slopes, 25), abs=1e-9)


def test_window_that_a_policy_lengthens_comes_out_when_it_is_full() -> None:
    short, long = RocofConfig(window=0.2), RocofConfig(window=1.0, max_rate=200.0)
    state = rocof.start(short)
    first, second = cut(frames(150, slope=0.1), (60,)), []
    rocof.step(short, state, next(first))
    for batch in first:
        second += batches(rocof.step(long, state, batch))
    out = join_samples(second)
    # 10 rows were in the short window: the long one is full 50 rows after the oldest of them.
    assert out.time_ns[0] == frames(150).time_ns[60 - 1 - 10 + 50]
    assert out.columns["rocof_delay_s"] == pytest.approx(np.full(out.rows, 0.5), abs=1e-5)
    assert out.columns["rocof_hz_per_s"] == pytest.approx(np.full(out.rows, 0.1), abs=1e-9)


def test_window_that_a_policy_shortens_forgets_at_once() -> None:
    long, short = RocofConfig(window=1.0), RocofConfig(window=0.2)
    state = rocof.start(long)
    first, second = cut(frames(120), (60,))
    rocof.step(long, state, first)
    [out] = batches(rocof.step(short, state, second))
    assert out.rows == 60
    assert out.columns["rocof_delay_s"] == pytest.approx(np.full(60, 0.1), abs=1e-5)


def test_gap_longer_than_the_window_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"max_gap \(0.1 s\) is longer than window \(0.05 s\)"):
        msgspec.convert({"window": 0.05}, RocofConfig)


def test_output_has_the_three_columns() -> None:
    wire = NODE.output(RocofConfig(), {})
    assert wire.columns == {"frequency_hz", "rocof_hz_per_s", "rocof_delay_s"}
    assert NODE.inputs["in"].columns(RocofConfig()) == {"frequency_hz"}


def test_long_run_does_not_drift() -> None:
    count = 100_000
    rng = np.random.default_rng(1)
    time_ns = tags(np.arange(count) / 50)
    hz = rng.uniform(45.0, 55.0, count)
    out = run(one_device(time_ns, hz), sizes=(8192,))
    tau = (np.arange(26) - 12.5) / 50
    windows = np.lib.stride_tricks.sliding_window_view(hz, 26)
    expected = (windows - windows.mean(axis=1, keepdims=True)) @ tau / (tau @ tau)
    assert out.rows == count - 25
    assert np.abs(out.columns["rocof_hz_per_s"] - expected).max() < 1e-9


@dataclass
class SlowWindow:
    rows: list[tuple[int, float, int]] = field(default_factory=list)
    start_ns: int = 0
    cut_ns: int = -(2**62)


def slow_rocof(config: RocofConfig, samples: Samples) -> list[tuple[int, int, float, float, int]]:
    """The rules once more, with `numpy.polyfit` on every window; rows must be in order."""
    window_ns = round(config.window * 1e9)
    capacity = math.ceil(config.window * 1.001 * config.max_rate) + 2
    windows: dict[int, SlowWindow] = defaultdict(SlowWindow)
    last: dict[int, int] = {}
    out = []
    for i in range(samples.rows):
        d, now = int(samples.device[i]), int(samples.time_ns[i])
        hz, quality = float(samples.columns["frequency_hz"][i]), int(samples.quality[i])
        if not math.isfinite(hz) or quality & (BAD | SYNC_LOST | (0 if config.accept_test else TEST)):
            windows.pop(d, None)
            continue
        if d not in last or now - last[d] > config.max_gap * 1.01e9:
            windows.pop(d, None)
        last[d] = now
        limit = now - window_ns - window_ns // 1000
        window = windows[d]
        if not window.rows:
            windows[d] = window = SlowWindow(start_ns=now)
        while len(window.rows) >= capacity or (window.rows and window.rows[0][0] < limit):
            if window.rows[0][0] >= limit:
                window.cut_ns = window.rows[0][0]
            window.rows.pop(0)
        window.rows.append((now, hz, quality))
        if now - window.start_ns < window_ns - window_ns // 1000 or len(window.rows) < 2:
            continue
        time_ns = np.array([row[0] for row in window.rows])
        slope = polyfit_slope(time_ns, np.array([row[1] for row in window.rows]))
        flags = int(np.bitwise_or.reduce([row[2] for row in window.rows]))
        if window.cut_ns >= limit:
            flags |= int(Quality.CLIPPED)
        out.append((now, d, slope, (now - int(time_ns[0])) * 0.5e-9, flags))
    return out


STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([20, 20, 20, 20, 5, 33, 60, 95, 100, 101, 150, 800]),
        st.integers(-300_000, 300_000),
        st.floats(45.0, 55.0),
        st.sampled_from([0] * 20 + [TEST, ESTIMATED, TEST | ESTIMATED, BAD, SYNC_LOST]),
    ),
    max_size=150,
)
CONFIGS = st.builds(
    RocofConfig,
    window=st.sampled_from([0.1, 0.2, 0.5, 0.5, 1.0]),
    max_gap=st.sampled_from([0.06, 0.1]),
    max_rate=st.sampled_from([30.0, 60.0, 120.0]),
    accept_test=st.booleans(),
)


def stream(steps: list[tuple[int, int, int, float, int]]) -> Samples:
    now = {0: 10**18, 1: 10**18 + 7}
    time_ns = []
    for device, step_ms, jitter_ns, _, _ in steps:
        now[device] += step_ms * MS + jitter_ns
        time_ns.append(now[device])
    return Samples(
        time_ns=np.array(time_ns, dtype=np.int64),
        device=np.array([step[0] for step in steps], dtype=np.int32),
        devices=("A", "B"),
        columns={"frequency_hz": np.array([step[3] for step in steps], dtype=np.float64)},
        quality=np.array([step[4] for step in steps], dtype=np.uint16),
        received_ns=0,
    )


@settings(max_examples=200)
@given(STEPS, CONFIGS, st.lists(st.integers(1, 60), min_size=1, max_size=3))
def test_rows_agree_with_polyfit(
    steps: list[tuple[int, int, int, float, int]], config: RocofConfig, sizes: list[int]
) -> None:
    samples = stream(steps)
    out = run(samples, config, tuple(sizes))
    expected = slow_rocof(config, samples)
    assert [(int(t), int(d)) for t, d in zip(out.time_ns, out.device, strict=True)] == [row[:2] for row in expected]
    assert np.abs(out.columns["rocof_hz_per_s"] - [row[2] for row in expected]).max(initial=0.0) < 1e-9
    assert out.columns["rocof_delay_s"].tolist() == pytest.approx([row[3] for row in expected])
    assert out.quality.tolist() == [row[4] for row in expected]


def test_random_windows_fill_often_enough_to_test_anything() -> None:
    rng = np.random.default_rng(3)
    steps = [(int(k % 2), 20, int(rng.integers(-300, 300)), float(rng.uniform(45, 55)), 0) for k in range(400)]
    samples = stream(steps)
    assert len(slow_rocof(RocofConfig(), samples)) == run(samples).rows > 300


def outputs(state: RocofState, samples: Samples) -> tuple[list[float], list[int], list[int]]:
    [out] = batches(rocof.step(RocofConfig(), state, samples))
    return out.columns["rocof_hz_per_s"].tolist(), out.quality.tolist(), out.time_ns.tolist()


def test_pickled_state_goes_on_identically() -> None:
    time_s = np.arange(100) / 50
    noise = np.random.default_rng(0).normal(size=(100, 30))
    samples = interleaved(tags(time_s), 50.0 + noise, quality=ESTIMATED)
    first, second = cut(samples, (1700,))
    state = rocof.start(RocofConfig())
    rocof.step(RocofConfig(), state, first)
    copy = pickle.loads(pickle.dumps(state))
    assert outputs(copy, second) == outputs(state, second)


def test_ever_more_devices_are_refused_beyond_the_limit() -> None:
    config = RocofConfig(max_devices=20)
    state = rocof.start(config)
    reasons = []
    for k in range(5):
        samples = interleaved(np.array([20 * MS]), np.full((1, 9), 50.0), [f"{k}-{j}" for j in range(9)])
        reasons.append([letter.reason for letter in letters(rocof.step(config, state, samples))])
    assert reasons == [[], [], *[["too_many_devices"]] * 3]
    assert state.clock.used == 20
