"""How well the clock of this machine is kept, as the operating system knows it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

STA_UNSYNC = 0x0040
STA_NANO = 0x2000
TIME_ERROR = 5
"""What `adjtimex` gives for a clock that nobody keeps."""


class ClockState(NamedTuple):
    """What `adjtimex(2)` says. The times are None while nothing keeps the clock: they would mean nothing."""

    is_synchronized: bool
    offset_s: float | None
    """How far the clock is still to be moved."""
    most_error_s: float | None
    """Bound of its error against UTC."""


class _Timex(ctypes.Structure):
    """`struct timex` of Linux; C's `long` has the machine's own size."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        *((name, ctypes.c_long) for name in ("constant", "precision", "tolerance", "seconds", "microseconds", "tick")),
        ("rest", ctypes.c_byte * 128),
    ]


@cache
def _adjtimex() -> Callable[[Any], int] | None:
    function = getattr(ctypes.CDLL(None), "adjtimex", None)  # Linux only
    if function is not None:
        function.argtypes, function.restype = [ctypes.POINTER(_Timex)], ctypes.c_int
    return function


def clock_state() -> ClockState | None:
    """Reads, and sets nothing. None where the operating system tells nothing."""
    ask, told = _adjtimex(), _Timex()
    if ask is None:
        return None
    state = ask(ctypes.byref(told))
    return None if state < 0 else read_timex(state, told.status, told.offset, told.maxerror)


def read_timex(state: int, status: int, offset: int, most_error_us: int) -> ClockState:
    """
    >>> read_timex(0, STA_NANO, 1500, 2000)
    ClockState(is_synchronized=True, offset_s=1.5e-06, most_error_s=0.002)
    >>> read_timex(TIME_ERROR, STA_UNSYNC, 0, 16_000_000)
    ClockState(is_synchronized=False, offset_s=None, most_error_s=None)
    """
    if state == TIME_ERROR or status & STA_UNSYNC:
        return ClockState(is_synchronized=False, offset_s=None, most_error_s=None)
    per_s = 1e9 if status & STA_NANO else 1e6
    return ClockState(is_synchronized=True, offset_s=offset / per_s, most_error_s=most_error_us / 1e6)
