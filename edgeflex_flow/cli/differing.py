"""Where two messages differ, as they stand in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

LONGEST: Final = 120


class Differing(NamedTuple):
    """A place at which two messages differ."""

    place: str
    """`values north`, `limits[0]`."""
    one: Any
    other: Any


def differing(one: Any, other: Any, tolerance: float, place: str = "") -> Iterator[Differing]:
    """All places. Numbers may differ by a share of them, and by a thousandth of that where they are next to nothing.

    >>> [each.place for each in differing({"a": {"b": 1.0}, "c": [1]}, {"a": {"b": 2.0}, "c": [1]}, 1e-9)]
    ['a b']
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            yield from differing(one.get(name), other.get(name), tolerance, f"{place} {name}".lstrip())
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differing(a, b, tolerance, f"{place}[{number}]")
    elif isinstance(one, float) and isinstance(other, int | float):
        is_nan = math.isnan(one) and math.isnan(other)
        if not is_nan and not math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance * 1e-3):
            yield Differing(place, one, other)
    elif one != other:
        yield Differing(place, one, other)


def shown(value: Any) -> str:
    """A value for people, cut where it is long."""
    text = f"{value:.9g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
