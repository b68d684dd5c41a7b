"""What a value must be, as people write it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeflex_flow.cli.golden.bounds import Bound


@pytest.mark.parametrize(
    ("text", "unit", "good", "bad"),
    [
        ("4.2 +- 0.3", "s", [3.9, 4.2, 4.5], [3.89, 4.51, float("nan"), "4.2"]),
        ("4.2 ± 0.3", None, [4.2], [5]),
        ("60 Hz +- 5 mHz", "Hz", [60.004], [60.006]),
        ("<= 5 kW", "W", [5000, -1e9], [5000.1, None]),
        ("> 0", None, [1e-9], [0, True]),
        ("49.9 Hz to 50.1 Hz", "Hz", [49.9, 50.1], [50.11]),
        ("-1 to 1", None, [-1, 0], [1.1]),
        ("!= started", None, ["ended"], ["started"]),
        ("started", None, ["started"], ["ended", 1]),
        ("True", None, [True], [False, 1]),
        ("10", None, [10, 10.0], [11, "ten"]),
        ("500 ms", "s", [0.5], [0.51]),
    ],
)
def test_a_bound_holds_for_what_is_in_it_alone(text: str, unit: str | None, good: list[Any], bad: list[Any]) -> None:
    bound = Bound.parse(text, unit)
    assert [value for value in good if not bound.holds(value)] == []
    assert [value for value in bad if bound.holds(value)] == []


@pytest.mark.parametrize(("text", "unit"), [("<= 5 kW", None), ("> many", "W"), ("1 kV +- 1 A", "V")])
def test_a_number_without_a_unit_that_fits_is_refused(text: str, unit: str | None) -> None:
    with pytest.raises(ValueError, match=r"number|unit"):
        Bound.parse(text, unit)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(-3e6, 3e6))
def test_a_band_is_as_wide_as_it_says(middle: float, off: float, value: float) -> None:
    assume(min(abs(value - middle - off), abs(value - middle + off)) > 1e-3)
    held = Bound.parse(f"{middle!r} +- {off!r}", None).holds(value)
    assert held == (middle - off <= value <= middle + off)
