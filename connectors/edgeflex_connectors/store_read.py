"""`store_read`: samples and messages from a store."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from edgeflex_connectors.backoff import Backoff
from edgeflex_connectors.batching import DeviceTable, message_types, promise_refusals
from edgeflex_connectors.replay import Items, Replay, Speed
from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS, How, Series, Store, StoredMessage
from edgeflex_connectors.store_window import Piece, pieces
from edgeflex_flow.clock import moment_ns
from edgeflex_flow.errors import FieldError, RetryableError
from edgeflex_flow.gauges import CONNECTED
from edgeflex_flow.messages import Message, Quality, Samples, decode_message
from edgeflex_flow.node import Context, NodeConfig, SourceNode, Wire, WireMessage, at_once, connection, quantity
from edgeflex_flow.wakeup import Wakeup

AHEAD = 4
"""Pieces that are read ahead of the flow."""
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0


class StoreReadConfig(NodeConfig, frozen=True, kw_only=True):
    """Give what a store holds of a time window again, in order of time, and end.

    The window is `begin` <= t < `end`, or the `last` stretch of time before the flow starts; the whole store if none is
    given. Time tags and quality flags are those that were stored; every row is marked `replayed`. With `every` the
    values come that a down-sampling rule of the store made. With `speed: max` the flow takes rows as fast as it can;
    with a number, that many times as fast as they were recorded (1: real time), paced by the time tags.

    What is stored after the flow has begun may be left out. A message comes after the samples of its time.

    Input:
        None: the store.

    Output:
        Samples with `columns` (NaN where a row has only some of them), and the message types of `messages`. Counts
        `retries`.

    Errors:
        Dead letter `bad_message` for a stored message that does not read as its type; the replay goes on. While the
        store is away the source waits and tries again where it was. FatalError: those of the store, such as one that
        does not exist.

    Source:
        None.

    >>> StoreReadConfig(store="history", columns=("frequency_hz",), begin="2026-05-01T10:00:00Z").speed
    'max'
    """

    store: Annotated[str, connection("store", "Connection to the store.")]
    columns: Annotated[tuple[str, ...], Meta(description="Columns to give; each name ends in its unit.")] = ()
    messages: Annotated[tuple[str, ...], Meta(description="Types of messages to give, such as frequency_event.")] = ()
    devices: Annotated[tuple[str, ...], Meta(description="Devices whose samples to give; all if none are named.")] = ()
    begin: Annotated[str | None, Meta(description="Begin of the window, ISO 8601 with zone: 2026-05-01T10:00:00Z.")] = (
        None
    )
    end: Annotated[str | None, Meta(description="End of the window, itself not in it.")] = None
    last: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        quantity("s", "Length of a window that ends when the flow starts, instead of `begin`."),
    ] = None
    every: Annotated[
        Annotated[float, Meta(gt=0, le=3600)] | None,
        quantity("s", "Give the values that the store's rule with this `every` made, at most 1 h."),
    ] = None
    how: Annotated[How, Meta(description="Which of them, when `every` is given.")] = "mean"
    speed: Annotated[Speed, Meta(description="max, or a multiple of real time.")] = "max"
    batch_rows: Annotated[int, Meta(ge=1, le=1_000_000, description="Most rows in one batch of samples.")] = 10_000

    def refusals(self) -> Iterator[FieldError]:
        yield from promise_refusals(self.columns, self.messages)
        times: list[int] = []
        for name in ("begin", "end"):
            text: str | None = getattr(self, name)
            try:
                times += () if text is None else [time_ns_of(text)]
            except ValueError as error:
                yield FieldError(f"`{name}`: {error}", name)
        if len(times) == 2 and times[0] >= times[1]:
            yield FieldError("`begin` is not before `end`", "begin", "end", got=f"{self.begin} and {self.end}")
        if self.last is not None and (self.begin is not None or self.end is not None):
            given = [name for name in ("begin", "end") if getattr(self, name) is not None]
            yield FieldError("`last` stands instead of `begin` and `end`", "last", *given)

    def window_ns(self, now_ns: int) -> tuple[int, int]:
        if self.last is not None:
            return now_ns - round(self.last * 1e9), now_ns
        begin_ns = EARLIEST_NS if self.begin is None else time_ns_of(self.begin)
        return begin_ns, LATEST_NS if self.end is None else time_ns_of(self.end)

    @property
    def series(self) -> Series | None:
        return None if self.every is None else Series(round(self.every * 1e9), self.how)


def time_ns_of(text: str) -> int:
    """UTC nanoseconds of a time in ISO 8601.

    >>> time_ns_of("1970-01-01T01:00:00.5+01:00")
    500000000
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"a time in ISO 8601 is expected, such as 2026-05-01T10:00:00Z; got '{text}'") from None
    if time.tzinfo is None:
        raise ValueError(f"the time needs its zone (Z for UTC); got '{text}'")
    time_ns = moment_ns(time)
    if not EARLIEST_NS <= time_ns <= LATEST_NS:
        raise ValueError(f"the time is between 1678 and 2262; got '{text}'")
    return time_ns


class ReadAhead:
    """Pieces that a thread has read and the flow has not taken yet, at most AHEAD of them."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._ready: deque[Piece | BaseException | None] = deque()
        self._wanted = False
        self._stopped = False
        self._wakeup = Wakeup()

    def put(self, piece: Piece | BaseException | None) -> bool:
        """Wait until there is room, and hand over; False if nobody wants it any more. The thread calls it."""
        with self._condition:
            self._condition.wait_for(lambda: self._stopped or len(self._ready) < AHEAD)
            if self._stopped:
                return False
            self._ready.append(piece)
            if self._wanted:
                self._wanted = False
                self._wakeup.wake()
            return True

    def take(self) -> tuple[Piece | BaseException | None, ...]:
        """The next one; empty if it is not there yet: `fileno` then tells when it is, and is silent until then."""
        with self._condition:
            self._wakeup.drain()
            if not self._ready:
                self._wanted = True
                return ()
            self._condition.notify_all()
            return (self._ready.popleft(),)

    def fileno(self) -> int:
        return self._wakeup.fileno()

    def wait(self, wait_s: float) -> bool:
        """Wait, less if it is stopped; whether it is. The thread calls it."""
        with self._condition:
            return self._condition.wait_for(lambda: self._stopped, wait_s)

    def stop(self) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def close(self) -> None:
        self._wakeup.close()


class _Stopped(Exception):  # noqa: N818 - no error
    """The flow wants no more."""


class StoreRead(Replay):
    """The source. A thread reads the store."""

    def __init__(self, config: StoreReadConfig, context: Context, store: Store | None = None) -> None:
        super().__init__(config.speed, context)
        self._config = config
        self._store = store
        self._devices = DeviceTable()
        self._ahead: ReadAhead | None = None
        self._thread: threading.Thread | None = None
        self._backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)

    def open(self) -> None:
        if self._store is None:
            named = self._context.connections["store"]
            self._store = named.node.open(named.config, self._context)
        self._ahead = ReadAhead()
        self._thread = threading.Thread(
            target=self._read, args=(self._ahead,), name=f"store_read {self._context.node}", daemon=True
        )
        self._context.gauges.watch(CONNECTED, lambda: not self._backoff.is_failing)
        self._thread.start()
        super().open()

    def _read(self, ahead: ReadAhead) -> None:
        """The thread."""
        config, store = self._config, self._store
        assert store is not None
        begin_ns, end_ns = config.window_ns(self._context.clock.now_ns())
        found = pieces(
            store,
            columns=config.columns,
            types=config.messages,
            begin_ns=begin_ns,
            end_ns=end_ns,
            devices=config.devices or None,
            series=config.series,
            attempt=self._attempt,
        )
        try:
            nothing = True
            for piece in found:
                nothing = nothing and not piece.messages and (piece.samples is None or not piece.samples.rows)
                if not ahead.put(piece):
                    return
            if nothing:
                self._tell_nothing_found(store)
            ahead.put(None)
        except _Stopped:
            return
        except Exception as error:  # noqa: BLE001 - raised again by the thread of the flow
            ahead.put(error)
        finally:
            store.close()

    def _tell_nothing_found(self, store: Store) -> None:
        span = self._attempt(lambda: store.span(series=self._config.series))
        what = "samples" if self._config.series is None else "means or extremes of this interval"
        there = f"the store has no {what}"
        if span is not None:
            ends = [datetime.fromtimestamp(each / 1e9, UTC).isoformat(timespec="seconds") for each in span]
            there = f"the store has {what} from {ends[0]} to {ends[1]}: are `columns`, `devices` and the time right?"
        self._context.log.warning("node '%s' found nothing to read; %s", self._context.node, there)

    def _attempt(self, call: Callable[[], Any]) -> Any:
        """Call the store, again and again while it is away."""
        assert self._ahead is not None
        while True:
            try:
                result = call()
            except RetryableError as error:
                self._context.counters.add("retries")
                if self._backoff.failed():
                    self._context.log.warning("%s; trying again", error)
                if self._ahead.wait(self._backoff.delay_s()):
                    raise _Stopped from None
                continue
            failures = self._backoff.succeeded()
            if failures:
                self._context.log.info("node '%s' reads again after %d attempts", self._context.node, failures)
            return result

    def _items_now(self) -> Items:
        assert self._ahead is not None
        while True:
            taken = self._ahead.take()
            if not taken:
                yield None
                continue
            [piece] = taken
            if piece is None:
                return
            if isinstance(piece, BaseException):
                raise piece
            yield from self._items_of(piece)

    def _items_of(self, piece: Piece) -> Iterator[WireMessage]:
        """The rows and messages of a piece in order of time."""
        rows = None if piece.samples is None or not piece.samples.rows else self._marked(piece.samples)
        done = 0
        for stored in piece.messages:
            message = self._decoded(stored)
            if message is None:
                continue
            if rows is not None:
                assert stored.time_ns is not None
                end = int(np.searchsorted(rows.time_ns, stored.time_ns, side="right"))
                yield from self._batches(rows, done, end)
                done = end
            yield message
        if rows is not None:
            yield from self._batches(rows, done, rows.rows)

    def _batches(self, rows: Samples, start: int, end: int) -> Iterator[Samples]:
        size = self._config.batch_rows
        for first in range(start, end, size):
            yield rows.take(np.arange(first, min(first + size, end)))

    def _marked(self, samples: Samples) -> Samples:
        return msgspec.structs.replace(
            samples,
            device=self._devices.codes(samples.devices)[samples.device],
            devices=self._devices.freeze(),
            quality=samples.quality | np.uint16(Quality.REPLAYED),
        )

    def _decoded(self, stored: StoredMessage) -> Message | None:
        try:
            return decode_message(stored.body, message_types([stored.type]))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._context.dead_letter("bad_message", f"a stored {stored.type} '{stored.id}': {error}", stored.body)
            return None

    def fileno(self) -> int | None:
        return None if self._ahead is None else self._ahead.fileno()

    def next_poll_ns(self) -> int | None:
        if self._next is None and not self._ended:
            return None  # `fileno` tells
        return super().next_poll_ns() or self._context.clock.monotonic_ns()

    def close(self) -> None:
        super().close()
        if self._ahead is not None:
            self._ahead.stop()
            if self._thread is not None:
                self._thread.join()
                self._thread = None
            self._ahead.close()
            self._ahead = None


def output(config: StoreReadConfig, _inputs: Mapping[str, Wire]) -> Wire:
    types: set[type[WireMessage]] = set(message_types(config.messages))
    if config.columns:
        types.add(Samples)
    return Wire(frozenset(types), frozenset(config.columns))


def open_source(config: StoreReadConfig, context: Context) -> StoreRead:
    return StoreRead(config, context)


NODE = SourceNode(kind="store_read", config=StoreReadConfig, output=output, open=open_source, delays=at_once)
