"""What a store needs done beside writing, by a thread of its own: down-sampling, deleting what is old, tidying up."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import numpy as np

from edgeflex_connectors.backoff import Backoff
from edgeflex_connectors.downsampling import downsampled
from edgeflex_connectors.store import EARLIEST_NS, HOUR_NS, Downsampling, Series, Store, StoreConfig
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Context

PERIOD_S = 10.0
SETTLE_NS = 60_000_000_000
"""How long after its end an interval is down-sampled: rows come late."""
CHUNK_NS = 60_000_000_000
"""The time that is read at once to be down-sampled, unless the interval is longer."""
CLOSE_S = 5.0
"""How long a flow that ends goes on with what came late."""
LAST_RETRY_S = 300.0
LEAST_GAP_NS = HOUR_NS
"""A gap that makes what stands behind it doubtful is longer."""


class LateRows:
    """The stretches of time in which rows were written after they had been down-sampled. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._from_ns: int | None = None
        self._chunks: set[int] = set()

    def note(self, samples: Samples) -> None:
        """Rows that were written."""
        with self._lock:
            late = samples.time_ns if self._from_ns is None else samples.time_ns[samples.time_ns < self._from_ns]
            if len(late):
                self._chunks.update(np.unique(late // CHUNK_NS).tolist())

    def before(self, time_ns: int) -> None:
        """From now on rows before this time are late."""
        with self._lock:
            self._from_ns = time_ns

    def take(self) -> list[int]:
        """The begins of the stretches so far, which are then forgotten."""
        with self._lock:
            chunks, self._chunks = self._chunks, set()
        return [chunk * CHUNK_NS for chunk in sorted(chunks)]

    def put_back(self, begins_ns: list[int]) -> None:
        """Stretches that were taken, but not looked at."""
        with self._lock:
            self._chunks.update(begin_ns // CHUNK_NS for begin_ns in begins_ns)

    def __bool__(self) -> bool:
        return bool(self._chunks)


class Newest:
    """The time from which age counts: the newest that is not after now and does not stand alone.

    Where a clock was ahead for a while, a gap lies between the truth and the rows that have their time from it. So the
    newest stretch of any length counts only if something stands in the stretch of the same length before it, else what
    is before both does. Behind a gap that is real, age stands still until what came after it reaches over a third of
    the gap, or at most all of it. `last_ns(end_ns)` gives the newest time before another.
    """

    def __init__(self, last_ns: Callable[[int], int | None]) -> None:
        self._last_ns = last_ns
        self._hour = EARLIEST_NS
        self._found_ns = EARLIEST_NS

    def time_ns(self, now_ns: int) -> int | None:
        """None if there is nothing before now. It is looked for once in an hour: stores take a while to answer."""
        last_ns = self._last_ns(now_ns + 1)
        if last_ns is None:
            return None
        if last_ns // HOUR_NS != self._hour:
            self._found_ns, self._hour = self._look_for(last_ns), last_ns // HOUR_NS
        return self._found_ns

    def _look_for(self, last_ns: int) -> int:
        found_ns, length_ns = last_ns, LEAST_GAP_NS
        while (before_ns := self._last_ns(max(last_ns - length_ns + 1, EARLIEST_NS))) is not None:
            if before_ns < last_ns - 2 * length_ns:
                found_ns = before_ns
            length_ns *= 2
        return found_ns


class Upkeep:
    """Does it every `PERIOD_S`, with a store of its own. Counts `downsampled` and `deleted` values.

    Samples are never deleted before every rule has seen them. Their age counts from the newest of them that `Newest`
    believes, that of messages from the newest such sample or message: a clock that runs ahead deletes nothing. What
    time went by is not asked: where a clock is set right after the flow began, nothing would be deleted any more.
    Rows that were written late are down-sampled again, as long as all samples of their interval are kept, at the latest
    when the flow ends, for at most `CLOSE_S`. A kill loses sight of those since the last time, some `PERIOD_S` before:
    the samples are kept, what was made of their intervals stays as it was.
    """

    def __init__(self, store: Store, config: StoreConfig, context: Context) -> None:
        self._store = store
        self._config = config
        self._context = context
        self._backoff = Backoff(PERIOD_S, LAST_RETRY_S)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._late = LateRows()
        self._late_until_s = math.inf
        self._newest_sample = Newest(self._last_sample_ns)
        self._newest_message = Newest(store.last_message_ns)
        self._deleted_until_ns = EARLIEST_NS
        """Samples before this time have been deleted by this upkeep."""

    def note(self, samples: Samples) -> None:
        """Rows that were written. Any thread."""
        if self._config.downsample:
            self._late.note(samples)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"upkeep {self._context.node}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._late_until_s = time.monotonic() + CLOSE_S
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            wait_s = 0.0
            while not self._stop.wait(wait_s):
                wait_s = PERIOD_S if self._tried() else self._backoff.delay_s()
            self._finish()
        finally:
            self._store.close()

    def _tried(self) -> bool:
        try:
            self.run_once(self._context.clock.now_ns())
        except (RetryableError, FatalError) as error:
            # The writer of the same store tells what stops a flow; upkeep that is late does no harm.
            self._context.counters.add("upkeep_retries")
            if self._backoff.failed():
                self._context.log.warning("upkeep: %s; trying again", error)
            return False
        self._backoff.succeeded()
        return True

    def _finish(self) -> None:
        """Down-sample again what came late since the last time: nobody else knows of it."""
        why = f"that takes longer than {CLOSE_S:g} s"
        try:
            self._make_again(self._context.clock.now_ns())
        except (RetryableError, FatalError) as error:
            why = str(error)
        if self._late:
            self._context.log.warning("upkeep: not all rows that came late are down-sampled again: %s", why)

    def run_once(self, now_ns: int) -> None:
        """Do what is due at this time."""
        rules = self._config.downsample
        due_ns = [self._due(rule.series, now_ns) for rule in rules]
        if rules:
            self._late.before(max([*due_ns, *(self._store.made_until(rule.series) or EARLIEST_NS for rule in rules)]))
        self._make_again(now_ns)
        for rule, until_ns in zip(rules, due_ns, strict=True):
            self._downsample(rule.series, until_ns)
        self._delete(now_ns, rules)
        if not self._stop.is_set():
            self._store.tidy()

    def _due(self, series: Series, now_ns: int) -> int:
        """Up to when a series is to be made: not beyond the interval of the newest row, whatever the clock says."""
        due_ns = _floor(now_ns - SETTLE_NS, series.every_ns)
        span = self._store.span()
        return due_ns if span is None else min(due_ns, _floor(span.last_ns, series.every_ns) + series.every_ns)

    def _make_again(self, now_ns: int) -> None:
        """Down-sample the stretches in which rows came late."""
        late = self._late.take()
        if not late:
            return
        try:
            newest_ns = self._newest_sample.time_ns(now_ns)
            deleted_ns = self._deleted_before(now_ns if newest_ns is None else newest_ns)
            whole_from_ns = max(deleted_ns, self._deleted_until_ns)
            made = [(rule.series, self._store.made_until(rule.series)) for rule in self._config.downsample]
            while late and time.monotonic() < self._late_until_s:
                for series, made_ns in made:
                    begin_ns = max(_floor(late[0], series.every_ns), whole_from_ns)
                    end_ns = -_floor(-(late[0] + CHUNK_NS), series.every_ns)
                    self._make(series, begin_ns, begin_ns if made_ns is None else min(end_ns, made_ns))
                del late[0]
        finally:
            self._late.put_back(late)

    def _downsample(self, series: Series, until_ns: int) -> None:
        span = self._store.span()
        if span is None:
            return
        first_ns = _floor(span.first_ns, series.every_ns)
        made_ns = self._store.made_until(series)
        at_ns = first_ns if made_ns is None else max(first_ns, made_ns)
        while at_ns < until_ns and not self._stop.is_set():
            left = self._store.span(at_ns, until_ns)
            if left is None:
                break
            at_ns = max(at_ns, _floor(left.first_ns, series.every_ns))
            end_ns = min(_floor(at_ns + CHUNK_NS, series.every_ns), until_ns)
            end_ns = max(end_ns, at_ns + series.every_ns)
            self._make(series, at_ns, end_ns)
            at_ns = end_ns

    def _deleted_before(self, newest_ns: int) -> int:
        """Samples before this time, the begin of an hour, may be deleted."""
        if self._config.keep is None:
            return EARLIEST_NS
        return _floor(newest_ns - round(self._config.keep * 1e9), HOUR_NS)

    def _make(self, series: Series, begin_ns: int, end_ns: int) -> None:
        if begin_ns >= end_ns:
            return
        made = downsampled(self._store.read(begin_ns=begin_ns, end_ns=end_ns), series)
        self._store.write_series(series, made, end_ns)
        self._context.counters.add("downsampled", sum(each.rows for each in made))

    def _last_sample_ns(self, end_ns: int) -> int | None:
        span = self._store.span(end_ns=end_ns)
        return None if span is None else span.last_ns

    def _delete(self, now_ns: int, rules: tuple[Downsampling, ...]) -> None:
        sample_ns = self._newest_sample.time_ns(now_ns)
        deleted = 0 if sample_ns is None else self._delete_values(sample_ns, rules)
        if self._config.keep_messages is not None:
            known_ns = [each for each in (sample_ns, self._newest_message.time_ns(now_ns)) if each is not None]
            if known_ns:
                newest_ns = max(known_ns)
                deleted += self._store.delete("messages", newest_ns - round(self._config.keep_messages * 1e9))
        self._context.counters.add("deleted", deleted)

    def _delete_values(self, newest_ns: int, rules: tuple[Downsampling, ...]) -> int:
        deleted = 0
        if self._config.keep is not None:
            made = [self._store.made_until(rule.series) for rule in rules]
            seen_ns = [EARLIEST_NS if each is None else each for each in made]
            self._deleted_until_ns = max(
                self._deleted_until_ns, _floor(min([self._deleted_before(newest_ns), *seen_ns]), HOUR_NS)
            )
            deleted += self._store.delete("samples", self._deleted_until_ns)
        for rule in rules:
            if rule.keep is not None:
                deleted += self._store.delete(rule.series, newest_ns - round(rule.keep * 1e9))
        return deleted


def _floor(time_ns: int, step_ns: int) -> int:
    return time_ns // step_ns * step_ns
