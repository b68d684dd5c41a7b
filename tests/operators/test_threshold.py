from __future__ import annotations

import math
import pickle
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_streams import cut, letters, one_device

from edgeflex_flow.messages import Crossing, Quality, Samples
from edgeflex_operators import threshold
from edgeflex_operators.threshold import NODE, ThresholdConfig

MS = 1_000_000
BAD = int(Quality.BAD_DATA)
SYNC_LOST = int(Quality.SYNC_LOST)
TIME_UNCERTAIN = int(Quality.TIME_UNCERTAIN)
TEST = int(Quality.TEST)


def frequency(values: list[float], quality: list[int] | None = None, step_ms: int = 20) -> Samples:
    return one_device(np.arange(len(values)) * step_ms * MS, values, quality)


def run(samples: Samples, config: ThresholdConfig, sizes: tuple[int, ...] = (10_000,)) -> list[Crossing]:
    state = threshold.start(config)
    found: list[Crossing] = []
    for batch in cut(samples, sizes):
        found += [each for each in threshold.step(config, state, batch) if isinstance(each, Crossing)]
        state = pickle.loads(pickle.dumps(state))
    return found


def states(values: list[float], **settings_: Any) -> list[tuple[str, int]]:
    config = ThresholdConfig(column="frequency_hz", **settings_)
    return [(crossing.state, crossing.time_ns // (20 * MS)) for crossing in run(frequency(values), config)]


def test_both_limits_tell_when_they_are_crossed_and_when_left() -> None:
    values = [50.0, 50.3, 50.0, 49.7, 50.0]
    assert states(values, above=50.2, below=49.8) == [("above", 1), ("normal", 2), ("below", 3), ("normal", 4)]


def test_value_at_the_limit_has_not_crossed_it() -> None:
    assert states([50.2, 49.8], above=50.2, below=49.8) == []


def test_jump_from_one_side_to_the_other_is_one_change() -> None:
    assert states([50.3, 49.7], above=50.2, below=49.8) == [("above", 0), ("below", 1)]


def test_value_must_come_back_by_the_hysteresis() -> None:
    values = [50.3, 50.15, 50.25, 50.11, 50.1]
    assert states(values, above=50.2, hysteresis=0.1) == [("above", 0), ("normal", 4)]


def test_value_must_stay_beyond_for_the_hold() -> None:
    values = [50.3, 50.3, 50.0, 50.3, 50.3, 50.3, 50.3]
    assert states(values, above=50.2, hold=0.06) == [("above", 6)]


def test_other_side_has_a_hold_of_its_own() -> None:
    values = [50.3, 50.3, 49.7, 49.7, 49.7]
    assert states(values, above=50.2, below=49.8, hold=0.04) == [("below", 4)]


@pytest.mark.parametrize(
    ("step_ms", "max_gap", "told"), [(1000, 1.0, 1), (1009, 1.0, 1), (1100, 1.0, 0), (60_000, 60.0, 1)]
)
def test_gap_starts_the_hold_anew(step_ms: int, max_gap: float, told: int) -> None:
    config = ThresholdConfig(column="frequency_hz", below=49.8, hold=5.0, max_gap=max_gap)
    assert len(run(frequency([49.7] * 20, step_ms=step_ms), config)) == told


def test_two_samples_beyond_with_silence_between_are_no_hold() -> None:
    config = ThresholdConfig(column="frequency_hz", below=49.8, hold=5.0)
    assert run(one_device([0, 3_600_000 * MS], [49.7, 49.7]), config) == []


def test_gap_without_a_hold_hides_nothing() -> None:
    config = ThresholdConfig(column="frequency_hz", below=49.8)
    crossings = run(one_device([0, 3_600_000 * MS, 7_200_000 * MS], [50.0, 49.7, 50.0]), config)
    assert [crossing.state for crossing in crossings] == ["below", "normal"]


def test_value_that_jumps_to_the_other_side_is_normal_during_the_hold() -> None:
    values = [50.3, 50.3, 50.3, 49.7, 49.7, 49.7]
    assert states(values, above=50.2, below=49.8, hold=0.04) == [("above", 2), ("normal", 3), ("below", 5)]


def test_value_that_jumps_to_the_other_side_names_the_limit_that_it_left() -> None:
    config = ThresholdConfig(column="frequency_hz", above=50.2, below=49.8, hold=0.02)
    _, normal = run(frequency([50.3, 50.3, 49.7], [0, 0, SYNC_LOST]), config)
    assert (normal.state, normal.value, normal.limit, normal.quality) == ("normal", 49.7, 50.2, SYNC_LOST)


def test_flags_of_the_whole_hold_are_told() -> None:
    config = ThresholdConfig(column="frequency_hz", below=49.8, hold=0.04)
    [below] = run(frequency([49.7, 49.7, 49.7], [SYNC_LOST, TIME_UNCERTAIN, 0]), config, sizes=(1,))
    assert (below.state, below.quality) == ("below", SYNC_LOST | TIME_UNCERTAIN)


def test_flags_from_before_the_hold_are_not_told() -> None:
    config = ThresholdConfig(column="frequency_hz", below=49.8, hold=0.04)
    [below] = run(frequency([49.7, 50.0, 49.7, 49.7, 49.7], [SYNC_LOST, TIME_UNCERTAIN, 0, 0, 0]), config)
    assert below.quality == 0


def test_device_in_test_mode_crosses_nothing() -> None:
    config = ThresholdConfig(column="frequency_hz", below=49.8)
    assert run(frequency([50.0, 49.0, 50.0], [0, TEST, 0]), config) == []


def test_device_in_test_mode_crosses_when_asked_for_and_its_flag_passes_on() -> None:
    config = ThresholdConfig(column="frequency_hz", below=49.8, accept_test=True)
    crossings = run(frequency([50.0, 49.0, 50.0], [0, TEST, 0]), config)
    assert [(crossing.state, crossing.quality) for crossing in crossings] == [("below", TEST), ("normal", 0)]


def test_crossing_tells_value_limit_and_quality() -> None:
    config = ThresholdConfig(column="frequency_hz", below=49.8)
    samples = frequency([50.0, 49.5, 50.0], [0, SYNC_LOST, 0])
    below, normal = run(samples, config)
    assert below == Crossing(
        device="G1",
        column="frequency_hz",
        state="below",
        time_ns=20 * MS,
        value=49.5,
        limit=49.8,
        quality=SYNC_LOST,
    )
    assert (normal.state, normal.limit, normal.quality) == ("normal", 49.8, 0)


def test_bad_rows_are_ignored() -> None:
    config = ThresholdConfig(column="frequency_hz", below=49.8)
    assert run(frequency([50.0, 0.0, math.nan, 50.0], [0, BAD, 0, 0]), config) == []


def test_rows_out_of_order_are_dropped_and_reported() -> None:
    config = ThresholdConfig(column="frequency_hz", below=49.8)
    samples = one_device([20 * MS, 0], [50.0, 49.0])
    messages = threshold.step(config, threshold.start(config), samples)
    assert [letter.reason for letter in letters(messages)] == ["out_of_order"]
    assert len(messages) == 1


def test_clock_set_back_starts_the_hold_anew() -> None:
    config = ThresholdConfig(column="frequency_hz", above=50.2, hold=2.0)
    late = frequency([50.3] * 50)
    early = frequency([50.3] * 140)
    samples = one_device(
        np.concatenate([late.time_ns + 3_600_000 * MS, early.time_ns]),
        np.concatenate([late.columns["frequency_hz"], early.columns["frequency_hz"]]),
    )
    assert run(samples, config) == []


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ({"column": "frequency", "above": 1.0}, "column 'frequency' does not end in a unit; known: hz_per_s"),
        ({"column": "frequency_hz"}, "neither 'above' nor 'below' is given"),
        ({"column": "frequency_hz", "above": 49.0, "below": 51.0}, r"below \(51\) is not less than above \(49\)"),
        ({"column": "frequency_hz", "above": 50.0, "below": 50.0}, r"below \(50\) is not less than above \(50\)"),
        (
            {"column": "frequency_hz", "above": 50.2, "below": 49.8, "hysteresis": 0.5},
            r"hysteresis \(0.5\) is not less than above - below \(0.4\)",
        ),
        (
            {"column": "frequency_hz", "above": 50.2, "below": 49.8, "hysteresis": 0.4},
            r"hysteresis \(0.4\) is not less than above - below \(0.4\)",
        ),
    ],
)
def test_config_that_makes_no_sense_is_refused(given_: dict[str, Any], text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=text):
        msgspec.convert(given_, ThresholdConfig)


def test_needs_the_column_of_the_config() -> None:
    config = ThresholdConfig(column="voltage_v", above=1.0)
    assert NODE.inputs["in"].columns(config) == {"voltage_v"}
    assert NODE.output(config, {}).messages == {Crossing}


def slow_crossings(config: ThresholdConfig, samples: Samples) -> list[tuple[int, str, str, int]]:
    """The rules once more, one row after the other; rows must be in order."""
    side: dict[int, str] = {}
    since: dict[tuple[int, str], int] = {}
    flags: dict[tuple[int, str], int] = {}
    last: dict[int, int] = {}
    found = []
    for i in range(samples.rows):
        d, now, value = int(samples.device[i]), int(samples.time_ns[i]), float(samples.columns["frequency_hz"][i])
        quality = int(samples.quality[i])
        if math.isnan(value) or quality & BAD:
            continue
        if now - last.get(d, now) > config.max_gap * 1.01e9:
            since = {key: begun for key, begun in since.items() if key[0] != d}
        last[d] = now
        here = side.get(d, "normal")
        high = config.above is not None and value > config.above
        low = config.below is not None and value < config.below
        for name, beyond in (("above", high), ("below", low)):
            if not beyond:
                since.pop((d, name), None)
        to = here
        if high or low:
            name = "above" if high else "below"
            if name != here:
                if (d, name) not in since:
                    since[d, name], flags[d, name] = now, 0
                flags[d, name] |= quality
                if now - since[d, name] >= config.hold * 0.999e9:
                    to, quality = name, flags[d, name]
                else:
                    to = "normal"
        elif (here == "above" and value <= (config.above or 0.0) - config.hysteresis) or (
            here == "below" and value >= (config.below or 0.0) + config.hysteresis
        ):
            to = "normal"
        if to != here:
            side[d] = to
            since.pop((d, to), None)
            found.append((now, samples.devices[d], to, quality))
    return found


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from([47, 48, 49, 50, 51, 52, 53, math.nan]),
            st.sampled_from([20, 20, 20, 20, 60, 200]),
            st.sampled_from([0, 0, 0, BAD, SYNC_LOST, TIME_UNCERTAIN]),
        ),
        max_size=100,
    ),
    st.sampled_from([(None, 49.0), (51.0, None), (51.0, 49.0), (50.0, 49.5)]),
    st.sampled_from([0.0, 0.25, 0.4]),
    st.sampled_from([0.0, 0.02, 0.06]),
    st.integers(1, 50),
)
def test_crossings_agree_with_a_slow_twin(
    rows: list[tuple[int, float, int, int]],
    limits: tuple[float | None, float | None],
    hysteresis: float,
    hold: float,
    size: int,
) -> None:
    config = ThresholdConfig(
        column="frequency_hz", above=limits[0], below=limits[1], hysteresis=hysteresis, hold=hold, max_gap=0.1
    )
    samples = Samples(
        time_ns=np.cumsum([row[2] for row in rows], dtype=np.int64) * MS,
        device=np.array([row[0] for row in rows], dtype=np.int32),
        devices=("A", "B"),
        columns={"frequency_hz": np.array([row[1] for row in rows], dtype=np.float64)},
        quality=np.array([row[3] for row in rows], dtype=np.uint16),
        received_ns=0,
    )
    found = [
        (crossing.time_ns, crossing.device, crossing.state, crossing.quality)
        for crossing in run(samples, config, (size,))
    ]
    assert found == slow_crossings(config, samples)
