"""Signals that end a run: remembered from the first moment of the process on, until there is a run to heed them."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_held: list[int] = []
_before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}


def hold() -> None:
    """Remember signals instead of dying by them. Call it before anything is imported that takes its time."""
    for number in _heeded():
        _before[number] = signal.signal(number, _remember)
    # Whoever started this process may have blocked them, so that none came before this.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def release() -> None:
    """Undo `hold`, for what may simply die: signals that were held do their work now."""
    for number, handler in _before.items():
        signal.signal(number, handler)
    _before.clear()
    for number in _taken():
        signal.raise_signal(number)


@contextmanager
def heed(handler: Callable[[int], None]) -> Iterator[None]:
    """Pass signals to `handler` while the block runs, first those that were held."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_closed_terminal()
        handler(number)

    before = {number: signal.signal(number, handle) for number in _heeded()}
    try:
        for number in _taken():
            handle(number, None)
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def blocked() -> Iterator[None]:
    """Block the signals. A process started meanwhile gets those sent to it when it calls `hold`, none before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """Ignore signals from now on: the process has done its work, and its exit code stands."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def _heeded() -> list[signal.Signals]:
    """All but a SIGHUP that `nohup` made the process ignore."""
    return [each for each in ENDING if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


def _remember(number: int, _frame: FrameType | None) -> None:
    _held.append(number)


def _taken() -> list[int]:
    taken = _held[:]
    _held.clear()
    return taken


def _leave_closed_terminal() -> None:
    """Send output that nobody can read any more to /dev/null, so that writing it cannot fail the drain."""
    poller = select.poll()
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            poller.register(stream.fileno(), 0)
    for descriptor, _ in poller.poll(0):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
