"""A thread that writes batches to something that may block or fail for a while: a disk, a database."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from edgeflex_connectors.backoff import Backoff
from edgeflex_flow.errors import FatalError, RetryableError, unforeseen
from edgeflex_flow.node import Context, Progress

T = TypeVar("T")

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
QUIET_S = 0.005


class Target(Protocol[T]):
    """What a `Writer` writes to. Its thread alone calls `write` and `sync`."""

    def open(self) -> None:
        """RetryableError: `write` will open it. FatalError: it never will."""

    def write(self, batch: deque[T]) -> None:
        """Write from the left; take out of `batch` what is written. What is left after a RetryableError comes again."""

    def sync(self) -> None:
        """Return when everything written survives a power failure."""

    def close(self) -> None: ...


class Writer(Generic[T]):
    """Takes items without blocking and writes them in batches, the oldest first.

    At most `queue_rows` rows wait, besides the batch that is being written; beyond that the oldest items are dropped
    and their rows counted under `overflow_rows`. A batch goes out `every_s` after the one before, or as soon as
    `large_rows` wait. While the target fails, the batch is kept and tried again with growing waits (`retries` counts).

    While a source waits for what it gave to be durable (`hurry`), a batch goes out also when nothing has come for a
    moment (`quiet_s`), since the source may give nothing more before, and is synced.
    """

    def __init__(
        self,
        target: Target[T],
        context: Context,
        *,
        rows_of: Callable[[T], int],
        queue_rows: int,
        every_s: float,
        large_rows: int,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._target = target
        self._context = context
        self._rows_of = rows_of
        self._queue_rows = queue_rows
        self._every_s = every_s
        self._large_rows = min(large_rows, queue_rows)
        self._quiet_s = quiet_s
        self._backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        self._thread: threading.Thread | None = None
        # What follows is guarded by the condition; nobody holds it while the target works.
        self._condition = threading.Condition()
        self._waiting: deque[T] = deque()
        self._waiting_rows = 0
        self._taken = 0
        self._durable = 0
        self._wanted_durable = 0
        self._last_put_s = float("-inf")
        self._stopping = False
        self._dead = False
        self._flushes_wanted = 0
        self._flushes_done = 0
        # The thread's own.
        self._batch: deque[T] = deque()
        self._last_write_s = float("-inf")

    def start(self) -> None:
        """Open the target and start the thread. FatalError if the target can never be opened."""
        try:
            self._target.open()
        except RetryableError as error:
            self._failed(error)
        self._context.gauges.watch("queue_rows", self._held_rows)
        self._thread = threading.Thread(target=self._run, name=f"writer {self._context.node}", daemon=True)
        self._thread.start()

    def put(self, items: Sequence[T]) -> None:
        """Take items over. Never blocks on the target."""
        with self._condition:
            before = self._waiting_rows
            for item in items:
                self._waiting.append(item)
                self._waiting_rows += self._rows_of(item)
            self._taken += len(items)
            self._last_put_s = time.monotonic()
            self._drop_oldest()
            if not before or before < self._large_rows <= self._waiting_rows:
                self._condition.notify_all()

    def _drop_oldest(self) -> None:
        dropped = 0
        while self._waiting_rows - dropped > self._queue_rows and len(self._waiting) > 1:
            dropped += self._rows_of(self._waiting.popleft())
        if dropped:
            self._waiting_rows -= dropped
            self._context.counters.add("overflow_rows", dropped)

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._backoff.is_failing

    def progress(self) -> Progress:
        """How many items were taken, and how many of them are durable, or were dropped."""
        return Progress(self._taken, self._durable)

    def hurry(self) -> None:
        """Somebody waits for what was taken so far to be durable."""
        with self._condition:
            self._wanted_durable = self._taken
            self._condition.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all items are written and synced; whether they are."""
        if self._thread is None:  # a flow that was stopped before it began opens no sink
            return not self._waiting
        with self._condition:
            self._flushes_wanted += 1
            wanted = self._flushes_wanted
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._dead or self._flushes_done >= wanted, timeout_s)
            return self._flushes_done >= wanted

    def close(self) -> None:
        """End the thread after one last attempt to write; count what is still held under `lost_rows`."""
        if self._thread is not None:
            with self._condition:
                self._stopping = True
                self._condition.notify_all()
            self._thread.join()
            self._thread = None
        self._target.close()
        held = sum(self._rows_of(item) for item in (*self._batch, *self._waiting))
        self._batch.clear()
        self._waiting.clear()
        if held:
            self._context.counters.add("lost_rows", held)
            self._context.log.error("%d rows could not be written and are lost", held)

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop()
        except FatalError as error:
            self._give_up(error)
        except Exception as error:
            self._context.log.debug("the writer ended", exc_info=True)
            self._give_up(unforeseen(f"node '{self._context.node}' cannot write", error))
        finally:
            with self._condition:
                self._dead = True
                self._condition.notify_all()

    def _give_up(self, error: FatalError) -> None:
        self._context.log.error("%s", error)
        self._context.fail(error)

    def _loop(self) -> None:
        while True:
            flush, last = self._next_batch()
            if not self._try(self._write_batch):
                return
            if flush > self._flushes_done or last or self._wanted_durable > self._durable:
                with self._condition:
                    written = self._taken - len(self._waiting)
                if not self._try(self._target.sync):
                    return
                with self._condition:
                    self._durable = written
                    self._flushes_done = max(self._flushes_done, flush)
                    self._condition.notify_all()
                self._context.progressed()
            if last:
                return

    def _next_batch(self) -> tuple[int, bool]:
        """Wait for work and take it. Gives the flush that this batch completes and whether it is the last batch."""
        with self._condition:
            while (wait_s := self._due_in_s()) != 0.0:
                self._condition.wait(wait_s)
            rows = 0
            while self._waiting and rows < self._large_rows:
                item = self._waiting.popleft()
                rows += self._rows_of(item)
                self._batch.append(item)
            self._waiting_rows -= rows
            if self._waiting:
                return self._flushes_done, False
            return self._flushes_wanted, self._stopping

    def _due_in_s(self) -> float | None:
        """How long until there is something to do; None if that depends on others. Under the condition."""
        if self._stopping or self._flushes_wanted > self._flushes_done or self._waiting_rows >= self._large_rows:
            return 0.0
        hurried = self._wanted_durable > self._durable
        if not self._waiting:
            return 0.0 if hurried else None
        due_s = self._last_write_s + self._every_s
        if hurried:
            due_s = min(due_s, self._last_put_s + self._quiet_s)
        return max(0.0, due_s - time.monotonic())

    def _write_batch(self) -> None:
        while self._batch:
            self._target.write(self._batch)
        self._last_write_s = time.monotonic()

    def _try(self, action: Callable[[], None]) -> bool:
        """Do it, again and again while the target is away; False if the writer stops before it worked."""
        while True:
            flushes = self._flushes_wanted
            try:
                action()
            except RetryableError as error:
                self._failed(error)
                if not self._pause(flushes):
                    return False
                continue
            failures = self._backoff.succeeded()
            if failures:
                self._context.log.info("node '%s' writes again after %d attempts", self._context.node, failures)
            return True

    def _failed(self, error: RetryableError) -> None:
        self._context.counters.add("retries")
        if self._backoff.failed():
            self._context.log.warning("%s; %d rows wait; trying again", error, self._held_rows())

    def _held_rows(self) -> int:
        return self._waiting_rows + sum(self._rows_of(item) for item in list(self._batch))

    def _pause(self, flushes: int) -> bool:
        """Wait before the next attempt, less if the end of the writer, or a flush after these, is asked for; False if
        the end was asked for before, so that this was the last attempt."""
        with self._condition:
            if self._stopping:
                return False
            self._condition.wait_for(
                lambda: self._stopping or self._flushes_wanted > flushes, timeout=self._backoff.delay_s()
            )
            return True
