"""Giving recorded samples and messages again, at full speed or paced: what the sources of recordings share."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.messages import Samples, message_time_ns
from edgeflex_flow.node import Context, WireMessage

Speed: TypeAlias = Annotated[float, Meta(gt=0)] | Literal["max"]
Items: TypeAlias = Generator[WireMessage | None, None, None]


class _Pace:
    """When rows are due: as far apart as their time tags, divided by `speed`. Time never runs back."""

    def __init__(self, speed: float, start_ns: int, first_ns: int) -> None:
        self._speed = speed
        self._start_ns = start_ns
        self._first_ns = first_ns
        self._latest_ns = first_ns

    def due_ns(self, item: WireMessage) -> NDArray[np.int64]:
        """When each row of a batch is due (one value for a message), in the clock's `monotonic_ns`."""
        if isinstance(item, Samples):
            times_ns = np.maximum.accumulate(np.maximum(item.time_ns, self._latest_ns))
        else:
            times_ns = np.array([max(message_time_ns(item) or self._latest_ns, self._latest_ns)])
        self._latest_ns = int(times_ns[-1])
        return np.ceil((times_ns - self._first_ns) / self._speed).astype(np.int64) + self._start_ns


class Replay:
    """A source that gives recorded items again: as fast as the flow takes them, or paced by their time tags.

    Reads one item ahead, so that it knows when the next is due and when the recording has ended.
    """

    def __init__(self, speed: Speed, context: Context) -> None:
        self._speed: Speed = speed
        self._context = context
        self._items: Items | None = None
        self._next: WireMessage | None = None
        self._due_ns: NDArray[np.int64] | None = None
        self._pace: _Pace | None = None
        self._ended = False

    def _items_now(self) -> Items:
        """Opens the recording. Items in recorded order; None while there is nothing to give yet."""
        raise NotImplementedError

    def open(self) -> None:
        self._items = self._items_now()
        self._read_on()

    def _read_on(self) -> None:
        assert self._items is not None
        try:
            self._next = next(self._items)
        except StopIteration:
            self._next, self._ended = None, True
        self._due_ns = None if self._next is None or self._pace is None else self._pace.due_ns(self._next)

    def poll(self) -> Sequence[WireMessage]:
        if self._ended:
            return ()
        if self._speed == "max" or self._next is None:
            item = self._next
            self._read_on()
            return () if item is None else (self._received(item),)
        if self._due_ns is None:
            self._pace = _Pace(self._speed, self._context.clock.monotonic_ns(), _first_ns(self._next))
            self._due_ns = self._pace.due_ns(self._next)
        return self._take_due()

    def _take_due(self) -> list[WireMessage]:
        """Everything that is due by now."""
        given: list[WireMessage] = []
        now_ns = self._context.clock.monotonic_ns()
        while self._next is not None and self._due_ns is not None:
            count = int(np.searchsorted(self._due_ns, now_ns, side="right"))
            if count == len(self._due_ns):
                given.append(self._received(self._next))
                self._read_on()
                continue
            if count and isinstance(self._next, Samples):
                given.append(self._received(self._next.take(np.arange(count))))
                self._next = self._next.take(np.arange(count, self._next.rows))
                self._due_ns = self._due_ns[count:]
            break
        return given

    def _received(self, item: WireMessage) -> WireMessage:
        if isinstance(item, Samples):
            return msgspec.structs.replace(item, received_ns=self._context.clock.now_ns())
        return item

    @property
    def ended(self) -> bool:
        return self._ended

    def fileno(self) -> int | None:
        return None

    def next_poll_ns(self) -> int | None:
        if self._speed == "max":
            return None
        return self._context.clock.monotonic_ns() if self._due_ns is None else int(self._due_ns[0])

    def close(self) -> None:
        if self._items is not None:
            self._items.close()
            self._items = None


def _first_ns(item: WireMessage) -> int:
    return int(item.time_ns[0]) if isinstance(item, Samples) else message_time_ns(item) or 0
