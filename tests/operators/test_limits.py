from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_operators._limits import UNBOUNDED, Bounds, limited

numbers = st.floats(-1e6, 1e6)
bounds = st.tuples(numbers, numbers).map(lambda ends: Bounds(min(ends), max(ends)))


@given(wanted=st.floats(allow_nan=False), hardware=bounds, policy=bounds, before=numbers, ramp=st.floats(0, 1e6))
def test_no_policy_and_no_ramp_takes_an_asset_beyond_its_hardware(
    wanted: float, hardware: Bounds, policy: Bounds, before: float, ramp: float
) -> None:
    assert hardware.low <= limited(wanted, hardware, policy=policy, before=before, ramp=ramp).value <= hardware.high


@given(wanted=numbers, hardware=bounds, before=numbers, ramp=st.floats(0, 1e6))
def test_value_moves_by_the_ramp_at_most_while_the_hardware_allows_where_it_was(
    wanted: float, hardware: Bounds, before: float, ramp: float
) -> None:
    before = hardware.nearest(before)
    value = limited(wanted, hardware, before=before, ramp=ramp).value
    assert abs(value - before) <= ramp * (1 + 1e-12) + 1e-9


@given(wanted=numbers, hardware=bounds, policy=bounds)
def test_policy_holds_wherever_the_hardware_can_follow_it(wanted: float, hardware: Bounds, policy: Bounds) -> None:
    value = limited(wanted, hardware, policy=policy).value
    if policy.low <= hardware.high and policy.high >= hardware.low:
        assert policy.low <= value <= policy.high
    else:
        assert value in hardware  # the end that is nearest to what the policy wants


@given(wanted=numbers)
def test_value_within_all_limits_passes_untouched(wanted: float) -> None:
    assert limited(wanted, UNBOUNDED) == (wanted, ())


@given(start=numbers, hardware=bounds, policy=bounds)
def test_bounds_that_a_policy_changes_are_entered_along_the_ramp(
    start: float, hardware: Bounds, policy: Bounds
) -> None:
    value, ramp = hardware.nearest(start), 1e5
    for _ in range(30):
        after = limited(value, hardware, policy=policy, before=value, ramp=ramp).value
        assert abs(after - value) <= ramp * (1 + 1e-12)
        value = after
    assert value == policy.within(hardware).nearest(value)


@pytest.mark.parametrize(
    ("wanted", "by"), [(3.0, ("policy",)), (-1.0, ("ramp",)), (1.5, ()), (-9.0, ("hardware", "ramp"))]
)
def test_what_changed_a_value_is_told(wanted: float, by: tuple[str, ...]) -> None:
    assert limited(wanted, Bounds(-5.0, 8.0), policy=Bounds(-20.0, 2.0), before=1.0, ramp=1.0).by == by


def test_not_a_number_never_becomes_a_set_point() -> None:
    with pytest.raises(ValueError, match="not a number"):
        limited(math.nan, UNBOUNDED)
