"""A stored time window piece by piece, in order of time, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from edgeflex_connectors.store import (
    EARLIEST_NS,
    LATEST_NS,
    Series,
    Store,
    StoredMessage,
    WindowTooLargeError,
)
from edgeflex_flow.messages import Samples

FIRST_LENGTH_NS = 1_000_000_000
WANTED_VALUES = 200_000
"""About as many values make a piece."""
MOST_VALUES = 4 * WANTED_VALUES


class Piece(NamedTuple):
    """What is stored of begin_ns <= t < end_ns."""

    begin_ns: int
    end_ns: int
    samples: Samples | None
    messages: list[StoredMessage]


def at_once(read: Callable[[], Any]) -> Any:
    return read()


def pieces(
    store: Store,
    *,
    columns: Sequence[str] | None = None,
    types: Sequence[str] = (),
    begin_ns: int = EARLIEST_NS,
    end_ns: int = LATEST_NS,
    devices: Sequence[str] | None = None,
    series: Series | None = None,
    attempt: Callable[[Callable[[], Any]], Any] = at_once,
) -> Iterator[Piece]:
    """Pieces of a window that leave nothing of it out. `attempt` makes each call of the store, again if it wants to."""

    def span() -> Any:
        return None if columns == () else store.span(at_ns, end_ns, series=series)

    def read() -> Any:
        try:
            return store.read(columns, at_ns, until_ns, devices, series=series, most_values=MOST_VALUES)
        except WindowTooLargeError:
            if length_ns == 1:
                raise
            return None

    def messages() -> Any:
        return store.read_messages(types, at_ns, until_ns) if types else []

    at_ns, length_ns = begin_ns, FIRST_LENGTH_NS
    left = attempt(span)
    while left is not None and at_ns <= left.last_ns:
        until_ns = min(max(at_ns, left.first_ns) + length_ns, end_ns)
        samples = attempt(read)
        if samples is None:
            length_ns //= 2
            continue
        yield Piece(at_ns, until_ns, samples, attempt(messages))
        values = samples.rows * len(samples.columns)
        if values > WANTED_VALUES:
            length_ns = max(length_ns // 2, 1)
        elif values < WANTED_VALUES // 2:
            length_ns *= 2
        at_ns = until_ns
        if not samples.rows:
            left = attempt(span)
    if at_ns < end_ns:
        until_ns = end_ns
        yield Piece(at_ns, until_ns, None, attempt(messages))
