"""What a value must be, as people write it: `4.2 +- 0.3`, `<= 5 kW`, `49.9 Hz to 50.1 Hz`, `started`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from edgeflex_flow.units import parse_quantity

_AROUND: Final = re.compile(r"(.+?)\s*(?:\+-|±)\s*(.+)")
_BETWEEN: Final = re.compile(r"(.+?)\s+to\s+(.+)")
_COMPARED: Final = re.compile(r"(<=|>=|<|>|!=)\s*(.+)")
_CLOSE: Final = 1e-9
"""Share by which a number may differ from one that is asked for without a tolerance."""
_EDGE: Final = 1e-12
_CHECKS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<=": lambda value, limit: value <= limit,
    ">=": lambda value, limit: value >= limit,
    "<": lambda value, limit: value < limit,
    ">": lambda value, limit: value > limit,
}


class Bound(NamedTuple):
    """What a value must be."""

    text: str
    low: float
    high: float
    """The band, for pictures; infinite where it is open, NaN for what is no number."""
    holds: Callable[[Any], bool]

    @classmethod
    def parse(cls, text: str, unit: str | None) -> Bound:
        """Numbers may have a unit, which becomes `unit`. What is no number is a word to be equal to.

        >>> Bound.parse("4.2 +- 0.3", "s").holds(4.4), Bound.parse("<= 5 kW", "W").holds(6000.0)
        (True, False)
        >>> Bound.parse("started", None).holds("started"), Bound.parse("49.9 to 50.1", "Hz").holds(float("nan"))
        (True, False)
        """
        if (around := _AROUND.fullmatch(text)) is not None:
            middle, off = _number(around[1], unit), _number(around[2], unit)
            return cls._between(text, middle - off, middle + off)
        if (between := _BETWEEN.fullmatch(text)) is not None:
            return cls._between(text, _number(between[1], unit), _number(between[2], unit))
        if (compared := _COMPARED.fullmatch(text)) is not None:
            sign, limit = compared[1], compared[2]
            if sign == "!=":
                return cls(text, math.nan, math.nan, lambda value: not _equals(value, limit, unit))
            number, check = _number(limit, unit), _CHECKS[sign]
            low, high = (number, math.inf) if sign.startswith(">") else (-math.inf, number)
            return cls(text, low, high, lambda value: _is_number(value) and check(value, number))
        return cls(text, *_ends(text, unit), lambda value: _equals(value, text, unit))

    @classmethod
    def _between(cls, text: str, low: float, high: float) -> Bound:
        slack = _EDGE * max(abs(low), abs(high))  # 4.2 - 0.3 is a little more than 3.9
        return cls(text, low, high, lambda value: _is_number(value) and low - slack <= value <= high + slack)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _number(text: str, unit: str | None) -> float:
    """Raises ValueError."""
    try:
        return float(text)
    except ValueError:
        if unit is None:
            raise ValueError(f"'{text}' is no number, and no unit is known for it") from None
        return parse_quantity(text, unit)


def _ends(text: str, unit: str | None) -> tuple[float, float]:
    try:
        number = _number(text, unit)
    except ValueError:
        return math.nan, math.nan
    return number, number


def _equals(value: Any, text: str, unit: str | None) -> bool:
    if isinstance(value, bool) or value is None:
        return text.lower() == str(value).lower()
    if _is_number(value):
        number = _ends(text, unit)[0]
        return math.isclose(value, number, rel_tol=_CLOSE, abs_tol=0.0) if not math.isnan(number) else False
    return str(value) == text
