"""Times in payloads: whole or broken numbers of a unit since 1970 (UTC), or ISO 8601 texts."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeflex_connectors.payload_formats.codec import BadFieldError, quoted
from edgeflex_flow.units import NS_PER_S

TimeUnit: TypeAlias = Literal["ns", "us", "ms", "s", "iso8601"]

NS_PER_UNIT: dict[str, int] = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
LATEST_NS = 2**63 - 1

_ISO = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:[.,](\d{1,30}))?(Z|[+-]\d\d:?\d\d)?")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

ReadTime: TypeAlias = Callable[[str], int]
"""Gives nanoseconds for the text of a time. Raises BadFieldError, of which the text starts with what is expected."""


def iso_to_ns(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time; one without an offset is UTC. Digits beyond ns are cut off.

    >>> iso_to_ns("2020-05-20T10:27:57.980802+00:00"), iso_to_ns("1970-01-01T02:00:00.0000000019+02:00")
    (1589970477980802000, 1)
    """
    match = _ISO.fullmatch(text)
    if match is None:
        raise BadFieldError(f"expected a time such as 2020-05-20T10:27:57.980802+00:00, got {quoted(text)}")
    try:
        moment = datetime.datetime.fromisoformat(match[1] + (match[3] or "Z"))
    except ValueError as error:
        raise BadFieldError(f"expected a time of the calendar ({error}), got {quoted(text)}") from error
    since = moment - _EPOCH
    ns = (since.days * 86400 + since.seconds) * NS_PER_S + int((match[2] or "")[:9].ljust(9, "0"))
    return _within(ns, text)


def _within(ns: int, text: str) -> int:
    if not 0 <= ns <= LATEST_NS:
        raise BadFieldError(f"expected a time from 1970 to 2262, got {quoted(text)}")
    return ns


def number_to_ns(ns_per_unit: int) -> ReadTime:
    """Reads numbers of a unit since 1970, exactly, to the nearest nanosecond.

    >>> number_to_ns(1_000_000_000)("1633791645.1234567894")
    1633791645123456789
    """
    latest = Decimal(LATEST_NS) / ns_per_unit

    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= 19:
            return _within(int(text) * ns_per_unit, text)
        try:
            number = Decimal(text)
        except InvalidOperation:
            number = Decimal("nan")
        if not number.is_finite() or "_" in text:
            raise BadFieldError(f"expected a number, got {quoted(text)}")
        if not 0 <= number <= latest:
            raise BadFieldError(f"expected a time from 1970 to 2262, got {quoted(text)}")
        return int((number * ns_per_unit).to_integral_value())

    return read


def time_reader(unit: str) -> ReadTime:
    """Reads times of a unit from their text."""
    return iso_to_ns if unit == "iso8601" else number_to_ns(NS_PER_UNIT[unit])


def iso_texts(time_ns: NDArray[np.int64]) -> list[str]:
    """Times as ISO 8601 in UTC, to the microsecond at or before each.

    >>> iso_texts(np.array([1589970477980802999]))
    ['2020-05-20T10:27:57.980802+00:00']
    """
    texts = np.datetime_as_string((time_ns // 1000).astype("datetime64[us]"), unit="us")
    return [f"{text}+00:00" for text in texts.tolist()]


def time_values(time_ns: NDArray[np.int64], unit: str) -> list[Any]:
    """Times as JSON or CSV hold them: whole ns, us and ms at or before each, exact decimals of s, or ISO texts."""
    if unit == "iso8601":
        return iso_texts(time_ns)
    if unit == "s":
        return [Decimal(each).scaleb(-9) for each in time_ns.tolist()]
    whole: list[Any] = (time_ns // NS_PER_UNIT[unit]).tolist()
    return whole
