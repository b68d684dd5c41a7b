from __future__ import annotations

import math

import numpy as np
import pytest

from edgeflex_flow.messages import Quality, samples_from_rows
from edgeflex_operators._latest import Latest, Trust, View

S = 1_000_000_000
TRUST = Trust(max_age_s=2.0, lowest=0.5, highest=1.5, frozen_after_s=10.0)
NODES = ("a", "b")


def fed(
    *rows: tuple[float, str, float], quality: int = 0, latest: Latest | None = None, received_s: float = 0.0
) -> Latest:
    latest = latest or Latest("voltage_pu")
    for time_s, name, value in rows:
        row = round(time_s * S), name, {"voltage_pu": value}
        samples = samples_from_rows([row], quality=quality, received_ns=round(received_s * S))
        latest.take(samples, TRUST, frozenset(NODES))
    return latest


def seen(latest: Latest, now_s: float) -> View:
    return latest.view(NODES, round(now_s * S), TRUST)


def test_newest_value_of_each_device_is_seen_with_its_times_and_flags() -> None:
    latest = fed((1.0, "a", 1.01), (2.0, "a", 1.02), (1.5, "b", 0.99), quality=int(Quality.TIME_UNCERTAIN))
    view = seen(latest, 2.5)
    assert view.values.tolist() == [1.02, 0.99]
    assert (view.begin_ns, view.end_ns) == (1_500_000_000, 2_000_000_000)
    assert (view.missing, view.quality) == ({}, int(Quality.TIME_UNCERTAIN))


def test_row_that_is_older_than_what_is_known_changes_nothing() -> None:
    assert seen(fed((2.0, "a", 1.02), (1.0, "a", 1.01)), 2.5).values[0] == 1.02


def test_second_row_with_the_same_time_changes_nothing() -> None:
    assert seen(fed((2.0, "a", 1.02), (2.0, "a", 1.01)), 2.5).values[0] == 1.02


def test_row_from_a_clock_that_is_ahead_is_refused_and_shuts_out_no_other() -> None:
    latest = fed((3600.0, "a", 1.05), latest=fed((1.0, "a", 1.01), received_s=1.0), received_s=1.5)
    assert seen(latest, 1.5).values[0] == 1.01
    assert seen(fed((2.0, "a", 1.02), latest=latest, received_s=2.0), 2.0).values[0] == 1.02


def test_source_whose_clock_is_ahead_is_told_as_missing() -> None:
    latest = Latest("voltage_pu")
    for k in range(1, 6):
        fed((k + 30.0, "a", 1.0), latest=latest, received_s=float(k))
    assert seen(latest, 5.0).missing["a"] == "from a clock that is 30.0 s ahead"


@pytest.mark.parametrize("is_reception_known", [True, False])
def test_new_rows_count_after_the_clock_was_set_back_by_an_hour(is_reception_known: bool) -> None:
    latest = fed((7200.0, "a", 1.01), received_s=7200.0)
    if not is_reception_known:
        assert seen(latest, 3600.0).missing["a"] == "from a clock that is 3600.0 s ahead"
    for k in range(20):
        fed((3600.0 + k, "a", 1.01 + 1e-9 * k), latest=latest, received_s=is_reception_known * (3600.0 + k))
    assert seen(latest, 3619.0).missing == {"b": "nothing came"}


def test_value_that_stays_is_not_frozen_only_because_the_clock_was_set_back_between() -> None:
    latest = fed((3601.0, "a", 1.01), latest=fed((7200.0, "a", 1.01), received_s=7200.0), received_s=3601.0)
    for k in range(2, 12):
        fed((3600.0 + k, "a", 1.01), latest=latest, received_s=3600.0 + k)
    assert seen(latest, 3611.0).missing["a"] == "frozen at 1.01 for 10 s"


@pytest.mark.parametrize(
    ("rows", "now_s", "why"),
    [
        ([], 1.0, "nothing came"),
        ([(1.0, "a", 1.0)], 3.5, "2.5 s old"),
        ([(9.0, "a", 1.0)], 3.5, "from a clock that is 5.5 s ahead"),
        ([(1.0, "a", 231.0)], 1.0, "231 is not plausible: outside 0.5 to 1.5"),
        ([(1.0, "a", math.nan)], 1.0, "not a number"),
        ([(t, "a", 1.0) for t in range(12)], 11.0, "frozen at 1 for 11 s"),
    ],
)
def test_why_nothing_can_be_relied_on_is_told(rows: list[tuple[float, str, float]], now_s: float, why: str) -> None:
    view = seen(fed(*rows), now_s)
    assert view.missing["a"] == why
    assert np.isnan(view.values[0])


@pytest.mark.parametrize("flag", [Quality.BAD_DATA, Quality.TEST])
def test_rows_with_refused_flags_are_as_good_as_none(flag: Quality) -> None:
    view = seen(fed((1.0, "a", 1.0), quality=int(flag)), 1.0)
    assert view.missing["a"] == f"flagged {str(flag.name).lower()}"


def test_good_value_is_relied_on_until_it_is_too_old_though_worse_ones_follow() -> None:
    latest = fed((2.0, "a", math.nan), latest=fed((1.0, "a", 1.01)))
    assert seen(latest, 2.5).values[0] == 1.01
    assert seen(latest, 4.0).missing["a"] == "not a number"


def test_value_that_moves_is_not_frozen() -> None:
    assert seen(fed(*[(float(t), "a", 1.0 + 1e-9 * t) for t in range(30)]), 29.0).values[0] > 1.0


def test_devices_that_nobody_asked_for_leave_no_trace() -> None:
    assert fed((1.0, "stranger", 1.0)).readings == {}
