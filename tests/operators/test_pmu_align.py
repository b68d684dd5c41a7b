from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_streams import EPOCH_NS, batches, letters

from edgeflex_flow.messages import Quality, Samples, join_samples
from edgeflex_flow.node import WireMessage
from edgeflex_operators import pmu_align
from edgeflex_operators.pmu_align import PmuAlignConfig, PmuAlignState, frame_times

PERIOD_NS = 20_000_000
HOUR_NS = 3_600_000_000_000
NAMES = ("A", "B", "C", "D")


def rows(*cells: tuple[int, str], quality: int = 0, shift_ns: int = 0) -> Samples:
    """Rows of (frame, device); the value of a row tells both."""
    names = tuple(dict.fromkeys(name for _, name in cells))
    frames = np.array([frame for frame, _ in cells], dtype=np.int64)
    return Samples(
        time_ns=EPOCH_NS + frames * PERIOD_NS + shift_ns,
        device=np.array([names.index(name) for _, name in cells], dtype=np.int32),
        devices=names,
        columns={"frequency_hz": np.array([value(frame, name) for frame, name in cells])},
        quality=np.full(len(cells), quality, dtype=np.uint16),
        received_ns=7,
    )


def value(frame: int, name: str) -> float:
    return frame + ord(name[0]) / 1000


class Align:
    """An aligner at work."""

    def __init__(self, least: str = "3 of 4", **settings_of: Any) -> None:
        defaults: dict[str, Any] = {"devices": NAMES[: int(least.split()[2])], "min": least, "lag": 0.1}
        self.config = PmuAlignConfig(**(defaults | settings_of))
        self.state: PmuAlignState = pmu_align.start(self.config)
        self.given: list[WireMessage] = []

    def step(self, *cells: tuple[int, str], **more: Any) -> list[tuple[int, str]]:
        return self._give(pmu_align.step(self.config, self.state, rows(*cells, **more)))

    def tick(self, seconds: float) -> list[tuple[int, str]]:
        return self._give(pmu_align.tick(self.config, self.state, round(seconds * 1e9)))

    def end(self) -> list[tuple[int, str]]:
        return self._give(pmu_align.end(self.config, self.state))

    def _give(self, given: Sequence[WireMessage]) -> list[tuple[int, str]]:
        """(frame, device) of what went out; in lower case what was missing."""
        self.given += given
        found: list[tuple[int, str]] = []
        for batch in batches(given):
            assert list(batch.problems()) == []
            for row in range(batch.rows):
                frame, rest_ns = divmod(int(batch.time_ns[row]) - EPOCH_NS, PERIOD_NS)
                assert rest_ns == 0
                name = batch.devices[batch.device[row]]
                number = float(batch.columns["frequency_hz"][row])
                if math.isnan(number):
                    assert batch.quality[row] == Quality.BAD_DATA
                    name = name.lower()
                else:
                    assert number == value(frame, name)
                found.append((frame, name))
        return found

    def told(self) -> dict[str, int]:
        told: Counter[str] = Counter()
        for letter in letters(self.given):
            told[letter.reason] += letter.count
        return dict(told)


def whole(*frames: int, names: str = "ABCD") -> list[tuple[int, str]]:
    return [(frame, name) for frame in frames for name in names]


# -- times that are complete ------------------------------------------------------------------------------------------


def test_a_time_goes_out_when_all_are_there_and_not_before() -> None:
    align = Align()
    assert align.step((0, "A"), (0, "C")) == []
    assert align.step((0, "D")) == []
    assert align.step((0, "B")) == whole(0)
    assert align.told() == {}


def test_rows_leave_in_the_order_of_time_and_device() -> None:
    align = Align()
    found = align.step(*reversed(whole(0, 1, 2)))
    assert found == whole(0, 1, 2)


def test_quality_and_columns_are_passed_on() -> None:
    align = Align("1 of 1")
    align.step((0, "A"), quality=int(Quality.SYNC_LOST | Quality.TEST))
    [batch] = batches(align.given)
    assert batch.quality.tolist() == [int(Quality.SYNC_LOST | Quality.TEST)]
    assert batch.received_ns == 7


def test_columns_that_a_device_lacks_are_nan() -> None:
    align = Align("2 of 2")
    align.step((0, "A"))
    other = rows((0, "B"))
    align.given += pmu_align.step(
        align.config, align.state, other.with_columns(dict(other.columns) | {"voltage_v": np.array([230.0])})
    )
    [batch] = batches(align.given)
    assert batch.columns["voltage_v"].tolist() == pytest.approx([math.nan, 230.0], nan_ok=True)


def test_a_time_that_waits_holds_up_later_ones() -> None:
    align = Align()
    assert align.step(*whole(0), *whole(1, names="ABC"), *whole(2)) == whole(0)
    assert align.step((1, "D")) == whole(1, 2)


# -- times that are not -----------------------------------------------------------------------------------------------


def test_a_time_goes_out_without_those_that_are_late_once_the_clocks_say_so() -> None:
    align = Align(lag=0.1)
    assert align.step(*whole(0, 1, 2, 3, 4, names="ABC")) == []
    assert align.step(*whole(5, names="ABC")) == [(0, "A"), (0, "B"), (0, "C"), (0, "d")]
    assert align.told() == {"missing": 1}


def test_a_row_whose_time_has_gone_is_late_and_told() -> None:
    align = Align()
    align.step(*whole(0, 1, 2, 3, 4, 5, names="ABC"))
    assert align.step((0, "D"), (1, "D")) == whole(1)
    assert align.told() == {"missing": 1, "late_rows": 1}
    [letter] = [letter for letter in letters(align.given) if letter.reason == "late_rows"]
    assert letter.text == "1 rows of 'D' came when their time had gone out"


def test_a_time_of_too_few_is_left_out_and_told() -> None:
    align = Align("3 of 4")
    found = align.step(*whole(0, names="AB"), *whole(1, 6, names="ABC"))
    assert found == [(1, "A"), (1, "B"), (1, "C"), (1, "d")]
    assert align.told() == {"missing": 1, "too_few": 2}
    assert align.step((0, "C")) == []
    assert align.told()["late_rows"] == 1


def test_missing_rows_may_be_left_out() -> None:
    align = Align(missing="leave_out")
    assert align.step(*whole(0, 6, names="ABC")) == whole(0, names="ABC")
    assert align.told() == {"missing": 1}


def test_missing_rows_are_told_once_a_second() -> None:
    align = Align(lag=0.0)
    for frame in range(150):
        align.step(*whole(frame, names="ABC"))
    told = [letter.count for letter in letters(align.given)]
    assert len(told) == 3
    align.end()
    assert align.told() == {"missing": 150}
    assert "rows of 'D' did not come in time" in letters(align.given)[0].text


def test_a_row_that_comes_twice_counts_once() -> None:
    align = Align("4 of 4")
    align.step((0, "A"), (0, "A"), (0, "B"))
    align.step((0, "B"))
    assert align.step(*whole(0, names="CD")) == whole(0)
    assert align.told() == {"duplicate": 2}


def test_the_end_lets_go_what_waits() -> None:
    align = Align("1 of 4")
    assert align.step((0, "A"), (1, "B")) == []
    assert align.end() == [*((0, name) for name in "Abcd"), *((1, name) for name in "aBcd")]
    assert align.told() == {"missing": 6}


# -- clocks -----------------------------------------------------------------------------------------------------------


def test_rows_that_wait_while_the_clocks_stand_still_go_out_by_the_sites_clock() -> None:
    align = Align(lag=0.1)
    align.step(*whole(0, names="ABC"))
    assert align.tick(100.0) == []
    assert align.tick(100.09) == []
    assert align.tick(100.1) == [(0, "A"), (0, "B"), (0, "C"), (0, "d")]


@pytest.mark.parametrize("active", ["A", "AB", "ABC"])
def test_devices_that_fall_silent_do_not_hold_time_back(active: str) -> None:
    align = Align("1 of 4", lag=0.1, missing="leave_out")
    for frame in range(10):
        align.step(*whole(frame))
    found: list[tuple[int, str]] = []
    for frame in range(10, 500):
        found += align.step(*whole(frame, names=active))
    assert found == whole(*range(10, found[-1][0] + 1), names=active)
    assert 499 - found[-1][0] <= 6
    assert align.told().keys() == {"missing"}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("fast_ns", [HOUR_NS, -HOUR_NS])
def test_a_device_that_is_an_hour_off_neither_stalls_nor_flushes_the_others(first: bool, fast_ns: int) -> None:
    align = Align("3 of 4", missing="leave_out")
    found: list[tuple[int, str]] = []
    for frame in range(500):
        if first:
            align.step((frame, "D"), shift_ns=fast_ns)
        found += align.step(*whole(frame, names="ABC"))
        if not first:
            align.step((frame, "D"), shift_ns=fast_ns)
        align.tick(frame * 0.02)
    assert found == whole(*range(found[-1][0] + 1), names="ABC")
    assert found[-1][0] > 490
    told = align.told()
    assert told.keys() <= {"clock_ahead", "late_rows", "missing", "too_few"}
    assert told["clock_ahead" if fast_ns > 0 else "late_rows"] > 490 - 10
    assert len(align.state.waiting) < 30


def test_clocks_that_go_back_together_begin_anew() -> None:
    align = Align("4 of 4")
    assert align.step(*whole(100_000)) == whole(100_000)
    found: list[tuple[int, str]] = []
    for frame in range(200):
        found += align.step(*whole(frame))
    assert found[-1] == (199, "D")
    assert align.told()["set_back"] == 1


def test_tags_that_are_rounded_are_one_time() -> None:
    align = Align("2 of 2", rate=60, tolerance=1e-6)
    third = np.array([frame_times(np.array([60 * 1_700_000_000 + 1]), 60)[0]])
    for name, off_ns in (("A", 333), ("B", -334)):
        one = msgspec.structs.replace(rows((0, name)), time_ns=third + off_ns)
        align.given += pmu_align.step(align.config, align.state, one)
    [batch] = batches(align.given)
    assert batch.time_ns.tolist() == [1_700_000_000_016_666_667] * 2


def test_rows_between_whole_frames_are_not_used() -> None:
    align = Align("1 of 2", tolerance=1e-4)
    assert align.step((0, "A"), shift_ns=100_001) == []
    assert align.told() == {"off_grid": 1}


@given(st.integers(0, 2**62), st.integers(1, 1000), st.integers(0, 10**6), st.integers(-(10**9), 10**9), st.booleans())
def test_rows_are_judged_as_exact_arithmetic_judges_them(
    time_ns: int, rate: int, tolerance_ns: int, ahead_ns: int, gone: bool
) -> None:
    number, verdict = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.uint8)
    exact = math.floor(Fraction(time_ns * rate, 10**9) + Fraction(1, 2))
    whole_ns = math.floor(Fraction(exact % rate * 10**9, rate) + Fraction(1, 2)) + exact // rate * 10**9
    limit_ns = time_ns + ahead_ns
    pmu_align.judge_rows(
        np.array([time_ns]), rate, tolerance_ns, limit_ns, exact if gone else exact - 1, number, verdict
    )
    assert number.tolist() == [exact]
    assert frame_times(number, rate).tolist() == [whole_ns]
    expected = pmu_align.USED
    if abs(time_ns - whole_ns) > tolerance_ns:
        expected = pmu_align.OFF_GRID
    elif ahead_ns < 0:
        expected = pmu_align.AHEAD
    elif gone:
        expected = pmu_align.LATE
    assert verdict.tolist() == [expected]


# -- devices ----------------------------------------------------------------------------------------------------------


def test_devices_need_no_names() -> None:
    align = Align("2 of 3", devices=())
    assert align.step((0, "x"), (0, "y")) == []
    assert align.step((0, "z")) == [(0, "x"), (0, "y"), (0, "z")]
    assert align.step((1, "w")) == []
    assert align.told() == {"unknown_device": 1}


def test_devices_that_do_not_take_part_are_told() -> None:
    align = Align("1 of 1")
    assert align.step((0, "A"), (0, "B")) == [(0, "A")]
    assert align.told() == {"unknown_device": 1}


def test_a_device_that_never_came_counts_as_missing() -> None:
    align = Align("1 of 2", devices=(), lag=0.0)
    assert align.step((0, "A")) == [(0, "A")]
    assert align.told() == {"missing": 1}


@given(st.integers(0, 2**32), st.floats(0.0, 0.3))
@settings(max_examples=60)
def test_every_row_goes_out_once_or_is_told(seed: int, loss: float) -> None:
    """Rows lost, twice and out of order by up to 200 ms: out in order, and nothing disappears."""
    random = Random(seed)
    cells = [(frame + random.randrange(10), frame, name) for frame in range(60) for name in NAMES]
    cells = [cell for cell in cells if random.random() >= loss]
    cells += [cell for cell in cells if random.random() < 0.05]
    cells.sort(key=lambda cell: cell[0])
    align = Align("2 of 4", missing="leave_out", lag=random.choice([0.0, 0.06, 0.3]))
    found: list[tuple[int, str]] = []
    place = 0
    while place < len(cells):
        size = random.randrange(1, 12)
        found += align.step(*((frame, name) for _, frame, name in cells[place : place + size]))
        place += size
    found += align.end()
    assert found == sorted(set(found))
    told = align.told()
    assert len(found) + sum(told.get(reason, 0) for reason in ("late_rows", "duplicate", "too_few")) == len(cells)


@given(st.lists(st.integers(0, 14), min_size=4, max_size=4), st.integers(1, 40))
@settings(max_examples=60)
def test_devices_that_are_slower_than_others_by_less_than_the_lag_lose_nothing(delays: list[int], size: int) -> None:
    cells = [(frame + delay, frame, name) for frame in range(60) for name, delay in zip(NAMES, delays, strict=True)]
    cells.sort(key=lambda cell: cell[0])
    align = Align("1 of 4", lag=0.32)
    found: list[tuple[int, str]] = []
    for place in range(0, len(cells), size):
        found += align.step(*((frame, name) for _, frame, name in cells[place : place + size]))
    assert found + align.end() == whole(*range(60))
    assert align.told() == {}


def test_a_time_that_nobody_has_holds_nothing_up() -> None:
    align = Align()
    assert align.step(*whole(0), *whole(2)) == whole(0, 2)
    align.step(*whole(1))
    assert align.told() == {"late_rows": 4}


def test_batches_hold_whole_times() -> None:
    align = Align("4 of 4")
    align.step(*whole(*range(10)))
    for batch in batches(align.given):
        assert batch.rows % 4 == 0
    assert join_samples(batches(align.given)).rows == 40


@pytest.mark.parametrize(
    ("settings_of", "text"),
    [
        ({"min": "5 of 4"}, "`min` asks for more devices than there are"),
        ({"min": "three of 4"}, "regex"),
        ({"min": "1 of 2", "devices": ("A",)}, "`min` speaks of 2 devices, `devices` names 1"),
        ({"min": "1 of 2", "devices": ("A", "A")}, "`devices` names something twice"),
        ({"min": "1 of 2", "tolerance": 0.01}, "more than a quarter of a frame"),
    ],
)
def test_config_that_makes_no_sense_is_refused(settings_of: dict[str, Any], text: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(settings_of, PmuAlignConfig)
    assert text in str(caught.value)
