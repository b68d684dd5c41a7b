from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_streams import cut, one_device

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Quality, Samples
from edgeflex_operators._devices import (
    CLOCK_SET_BACK_NS,
    FOLLOWS,
    OUT_OF_ORDER,
    REFUSED,
    RESTARTS,
    UNUSABLE,
    DeviceClock,
    Rows,
    grown,
    grown_rings,
    row_rules,
    unrolled,
)

MS = 1_000_000
SYNC_LOST = int(Quality.SYNC_LOST)


def follow(clock: DeviceClock, samples: Samples, max_devices: int = 100) -> Rows:
    rules = row_rules(SYNC_LOST, accept_test=True, max_gap_s=0.1, max_devices=max_devices)
    return clock.follow(samples, samples.columns["frequency_hz"], rules)


def verdicts(times_ms: list[int], clock: DeviceClock | None = None) -> list[int]:
    samples = one_device([t * MS for t in times_ms], [50.0] * len(times_ms))
    return [int(verdict) for verdict in follow(clock or DeviceClock(), samples).verdict]


def many(devices: tuple[str, ...], codes: list[int], times_ms: list[int]) -> Samples:
    return Samples(
        time_ns=np.array(times_ms, dtype=np.int64) * MS,
        device=np.array(codes, dtype=np.int32),
        devices=devices,
        columns={"frequency_hz": np.full(len(codes), 50.0)},
        quality=np.zeros(len(codes), dtype=np.uint16),
        received_ns=0,
    )


def test_first_row_restarts_and_later_ones_follow() -> None:
    assert verdicts([0, 20, 40]) == [RESTARTS, FOLLOWS, FOLLOWS]


def test_gap_restarts() -> None:
    assert verdicts([0, 100, 202, 222]) == [RESTARTS, FOLLOWS, RESTARTS, FOLLOWS]


def test_repeated_and_late_rows_are_out_of_order() -> None:
    assert verdicts([0, 20, 20, 10, 40]) == [RESTARTS, FOLLOWS, OUT_OF_ORDER, OUT_OF_ORDER, FOLLOWS]


def test_letter_names_the_devices_whose_rows_are_out_of_order() -> None:
    names = tuple(f"P{k}" for k in range(7))
    clock = DeviceClock()
    follow(clock, many(names, list(range(7)), [100] * 7))
    [letter] = follow(clock, many(names, [*range(7), 0], [90] * 7 + [91])).letters
    assert letter.reason == "out_of_order"
    assert letter.text == (
        "8 rows not later than the last one of their device: 'P0', 'P1', 'P2', 'P3', 'P4' and 2 more devices"
    )


def test_tag_from_the_future_blocks_its_device_for_a_second_only() -> None:
    hour_ms = 3_600_000
    times = [0, 20, hour_ms, *range(40, 1200, 20)]
    found = verdicts(times)
    restart = 3 + CLOCK_SET_BACK_NS // MS // 20
    assert found[:3] == [RESTARTS, FOLLOWS, RESTARTS]
    assert found[3:restart] == [OUT_OF_ORDER] * (restart - 3)
    assert found[restart] == RESTARTS
    assert set(found[restart + 1 :]) == {FOLLOWS}


def test_late_rows_among_current_ones_never_take_over() -> None:
    late = [t for k in range(200) for t in (10_000 + 20 * k, 5_000 + 20 * k)]
    found = verdicts(late)
    assert set(found[1::2]) == {OUT_OF_ORDER}
    assert set(found[2::2]) == {FOLLOWS}


def test_unusable_rows_leave_the_clock_alone() -> None:
    samples = one_device([0, 5000 * MS, 20 * MS, 40 * MS], [50.0, 50.0, np.nan, 50.0], [0, SYNC_LOST, 0, 0])
    assert follow(DeviceClock(), samples).verdict.tolist() == [RESTARTS, UNUSABLE, UNUSABLE, FOLLOWS]


def test_listed_devices_without_rows_take_no_slot() -> None:
    clock = DeviceClock()
    follow(clock, many(tuple(f"P{k}" for k in range(1000)), [7, 999], [0, 0]))
    assert clock.slot_of == {"P7": 0, "P999": 1}


def test_device_keeps_its_slot_in_another_tuple() -> None:
    clock = DeviceClock()
    follow(clock, many(("A", "B"), [0, 1], [0, 0]))
    assert follow(clock, many(("B", "C", "A"), [0, 1, 2], [20, 20, 20])).slot.tolist() == [1, 2, 0]


def test_ever_new_tuples_of_the_same_devices_are_one_stream() -> None:
    clock = DeviceClock()
    found = [follow(clock, many((f"{'A'}",), [0], [20 * k])).verdict[0] for k in range(100)]
    assert found == [RESTARTS, *[FOLLOWS] * 99]
    assert len(clock.known) <= 16


def test_devices_beyond_the_limit_are_refused_and_the_others_go_on() -> None:
    clock = DeviceClock()
    names = tuple(f"P{k}" for k in range(50_000))
    codes = list(range(50_000))
    rows = follow(clock, many(names, codes, [0] * 50_000), max_devices=10)
    assert rows.verdict[:10].tolist() == [RESTARTS] * 10
    assert set(rows.verdict[10:].tolist()) == {REFUSED}
    [letter] = rows.letters
    assert letter.reason == "too_many_devices"
    assert letter.text.startswith("49990 rows of devices beyond max_devices (10): 'P10', 'P11'")
    assert follow(clock, many(names, codes[:10], [20] * 10), max_devices=10).letters == []
    assert clock.used == 10


@pytest.mark.parametrize("code", [-1, 2])
def test_device_code_out_of_range_is_a_bad_message(code: int) -> None:
    with pytest.raises(BadMessageError, match=r"device: a code outside 0\.\.1") as caught:
        follow(DeviceClock(), many(("A", "B"), [0, code], [0, 0]))
    assert caught.value.reason == "malformed_samples"


def test_column_of_another_length_is_a_bad_message() -> None:
    samples = one_device([0, 1], [50.0, 50.0]).with_columns({"frequency_hz": np.zeros(1)})
    with pytest.raises(BadMessageError, match=r"frequency_hz: shape \(1,\), expected \(2,\)"):
        follow(DeviceClock(), samples)


def test_read_only_and_strided_arrays_are_accepted() -> None:
    good = one_device(np.arange(10) * 20 * MS, np.full(10, 50.0))
    table = np.zeros((10, 2))
    table[:, 0] = 50.0
    time_ns = good.time_ns.copy()
    time_ns.flags.writeable = False
    odd = Samples(time_ns, good.device, good.devices, {"frequency_hz": table[:, 0]}, good.quality[::1], 0)
    assert follow(DeviceClock(), odd).verdict.tolist() == follow(DeviceClock(), good).verdict.tolist()


def slow_verdicts(rows: list[tuple[int, int, float, int]]) -> list[int]:
    """The rules once more, row by row, in plain Python."""
    last: dict[int, int] = {}
    behind: dict[int, list[int]] = {}
    found = []
    for device, time_ms, value, quality in rows:
        if quality & SYNC_LOST or not np.isfinite(value):
            found.append(UNUSABLE)
            continue
        if device not in last:
            found.append(RESTARTS)
        elif time_ms > last[device]:
            found.append(RESTARTS if time_ms - last[device] > 101 else FOLLOWS)
        else:
            run = behind.get(device, [])
            run = [*run, time_ms] if run and time_ms > run[-1] else [time_ms]
            behind[device] = run
            if run[-1] - run[0] < CLOCK_SET_BACK_NS // MS:
                found.append(OUT_OF_ORDER)
                continue
            found.append(RESTARTS)
        last[device] = time_ms
        behind.pop(device, None)
    return found


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from([20, 20, 20, 100, 101, 102, 500, 0, -20, -700, -5000, 5000]),
            st.sampled_from([50.0, 50.0, 50.0, np.nan, np.inf]),
            st.sampled_from([0, 0, 0, SYNC_LOST, int(Quality.TEST)]),
        ),
        max_size=120,
    ),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
)
def test_verdicts_agree_with_a_slow_twin(steps: list[tuple[int, int, float, int]], sizes: list[int]) -> None:
    now = {0: 0, 1: 0, 2: 0}
    rows = []
    for device, step_ms, value, quality in steps:
        now[device] += step_ms
        rows.append((device, now[device], value, quality))
    samples = Samples(
        time_ns=np.array([row[1] for row in rows], dtype=np.int64) * MS,
        device=np.array([row[0] for row in rows], dtype=np.int32),
        devices=("A", "B", "C"),
        columns={"frequency_hz": np.array([row[2] for row in rows], dtype=np.float64)},
        quality=np.array([row[3] for row in rows], dtype=np.uint16),
        received_ns=0,
    )
    clock = DeviceClock()
    found: list[int] = []
    for batch in cut(samples, sizes):
        found += follow(clock, batch).verdict.tolist()
        clock = pickle.loads(pickle.dumps(clock))
    assert found == slow_verdicts(rows)


def test_grown_tables_keep_their_rows() -> None:
    table = np.arange(6).reshape(3, 2)
    bigger = grown(table, 4)
    assert bigger.shape[0] >= 4
    assert bigger[:3].tolist() == table.tolist()
    assert not bigger[3:].any()
    assert grown(table, 3) is table


def test_grown_rings_keep_their_columns() -> None:
    rings = np.arange(6).reshape(2, 3)
    wider = grown_rings(rings, 5)
    assert wider[:, :3].tolist() == rings.tolist()
    assert wider.flags.c_contiguous


@given(st.integers(1, 9), st.integers(0, 8), st.integers(0, 9), st.integers(0, 5))
def test_unrolled_ring_starts_with_its_oldest_entry(length: int, first: int, count: int, more: int) -> None:
    first, count = first % length, min(count, length)
    ring = np.arange(1, length + 1)
    moved = unrolled(ring[:, None], np.array([first]), np.array([count]), count + more)[:, 0]
    assert moved.tolist() == [*np.roll(ring, -first)[:count].tolist(), *[0] * more]
