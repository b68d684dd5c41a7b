from __future__ import annotations

import dataclasses
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from broker import wait_until

from edgeflex_connectors.writer import Writer
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.node import Context

if TYPE_CHECKING:
    from conftest import ContextMaker


class FakeDisk:
    """Takes ints. `full` and `broken` make it fail; `gate` holds each write up while it is closed."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.batches: list[list[int]] = []
        self.synced = 0
        self.full = False
        self.broken: Exception | None = None
        self.attempts = 0
        self.closed = 0
        self.gate = threading.Event()
        self.gate.set()

    def open(self) -> None:
        self._fail()

    def write(self, batch: deque[int]) -> None:
        self.attempts += 1
        self.gate.wait(30.0)
        self._fail()
        self.written.extend(batch)
        self.batches.append(list(batch))
        batch.clear()

    def _fail(self) -> None:
        if self.broken is not None:
            raise self.broken
        if self.full:
            raise RetryableError("disk.db: no space left")

    def sync(self) -> None:
        self.synced = len(self.written)

    def close(self) -> None:
        self.closed += 1


@contextmanager
def writer(
    make_context: ContextMaker, disk: FakeDisk, *, progressed: Callable[[], None] | None = None, **settings: Any
) -> Iterator[tuple[Writer[int], Context]]:
    context = make_context("out")
    if progressed is not None:
        context = dataclasses.replace(context, progressed=progressed)
    wanted: dict[str, Any] = {"queue_rows": 100, "every_s": 0.001, "large_rows": 10, **settings}
    made: Writer[int] = Writer(disk, context, rows_of=lambda _item: 1, **wanted)
    made.start()
    try:
        yield made, context
    finally:
        made.close()


def test_items_are_written_in_order_and_flush_waits_until_they_are_safe(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    with writer(make_context, disk) as (made, _):
        for number in range(57):
            made.put([number])
        assert made.flush(10.0)
        assert disk.written == list(range(57))
        assert disk.synced == 57


def test_what_comes_while_writing_is_gathered_into_batches_of_bounded_size(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    disk.gate.clear()
    with writer(make_context, disk) as (made, _):
        made.put([0])
        wait_until(lambda: disk.attempts)
        made.put(range(1, 26))
        disk.gate.set()
        assert made.flush(10.0)
    assert [len(batch) for batch in disk.batches] == [1, 10, 10, 5]


def test_batches_wait_for_the_period_unless_they_are_large(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    with writer(make_context, disk, every_s=60.0) as (made, _):
        made.put([0])
        wait_until(lambda: disk.batches == [[0]])  # nothing was written before, so nothing is waited for
        made.put([1])
        made.put(range(2, 12))
        wait_until(lambda: disk.batches == [[0], list(range(1, 11))])
        assert disk.written == list(range(11))  # 11 waits for the minute to pass
    assert disk.written == list(range(12))


def test_what_somebody_waits_for_goes_out_when_nothing_comes_and_is_synced(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    told: list[int] = []
    with writer(make_context, disk, every_s=60.0, progressed=lambda: told.append(disk.synced)) as (made, _):
        made.put([0])
        wait_until(lambda: disk.written == [0])
        assert (made.progress(), disk.synced) == ((1, 0), 0)  # nobody waits for it
        made.hurry()
        wait_until(lambda: made.progress() == (1, 1))
        made.put([1])
        made.put([2])
        made.hurry()
        wait_until(lambda: made.progress() == (3, 3))
        wait_until(lambda: told[-1:] == [3])
        made.put([3])
        assert made.progress() == (4, 3)


def test_dropped_items_count_as_done_and_what_is_being_written_does_not(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    disk.gate.clear()
    with writer(make_context, disk, queue_rows=5) as (made, context):
        made.put([0])
        wait_until(lambda: disk.attempts)
        made.put(range(1, 11))
        assert made.progress() == (11, 0)
        made.hurry()
        disk.gate.set()
        wait_until(lambda: made.progress() == (11, 11))
        assert context.counters.get("overflow_rows") == 5


def test_a_target_that_fails_makes_no_progress(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    with writer(make_context, disk) as (made, context):
        disk.full = True
        made.put(range(5))
        made.hurry()
        wait_until(lambda: context.counters.get("retries") >= 2)
        assert made.progress() == (5, 0)
        disk.full = False


def test_failing_target_keeps_everything_until_it_comes_back(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FakeDisk()
    with writer(make_context, disk) as (made, context):
        disk.full = True
        made.put(range(5))
        wait_until(lambda: context.counters.get("retries") >= 2)
        made.put(range(5, 50))
        assert not made.flush(0.01)
        disk.full = False
        assert made.flush(10.0)
        assert disk.written == list(range(50))
        assert "disk.db: no space left; 5 rows wait; trying again" in caplog.messages[0]
        assert make_context.failures == []


def test_target_that_cannot_be_opened_yet_stops_nothing(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    disk.full = True
    with writer(make_context, disk) as (made, context):
        assert context.counters.get("retries") == 1
        made.put([1])
        disk.full = False
        assert made.flush(10.0)
        assert disk.written == [1]


def test_overflow_drops_the_oldest_and_counts_their_rows(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    disk.gate.clear()
    with writer(make_context, disk) as (made, context):
        made.put([0])
        wait_until(lambda: disk.attempts)  # 0 is being written, not waiting
        for number in range(1, 131):
            made.put([number])
        assert context.counters.get("overflow_rows") == 30
        disk.gate.set()
        assert made.flush(10.0)
    assert disk.written == [0, *range(31, 131)]


def test_fatal_error_reaches_the_runtime_and_ends_the_waiting(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    with writer(make_context, disk) as (made, context):
        disk.broken = FatalError("disk.db: damaged")
        made.put([1, 2])
        assert not made.flush(10.0)
        assert make_context.failures == [disk.broken]
    assert context.counters.get("lost_rows") == 2


def test_mistake_in_a_target_reaches_the_runtime_with_its_cause(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    with writer(make_context, disk) as (made, _):
        disk.broken = ZeroDivisionError("oops")
        made.put([1])
        assert not made.flush(10.0)
    (failure,) = make_context.failures
    assert isinstance(failure, FatalError)
    assert failure.__cause__ is disk.broken


def test_fatal_error_at_open_is_raised(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    disk.broken = FatalError("disk.db: damaged")
    made: Writer[int] = Writer(disk, make_context(), rows_of=lambda _item: 1, queue_rows=1, every_s=1.0, large_rows=1)
    with pytest.raises(FatalError, match="damaged"):
        made.start()
    made.close()
    assert disk.closed == 1


def test_closing_tries_once_more_and_counts_what_is_lost(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FakeDisk()
    with writer(make_context, disk) as (made, context):
        disk.full = True
        made.put(range(50))
        wait_until(lambda: disk.attempts)
        before = disk.attempts
    assert disk.attempts > before
    assert context.counters.get("lost_rows") == 50
    assert caplog.record_tuples[-1][1:] == (logging.ERROR, "50 rows could not be written and are lost")
    assert not any(thread.name.startswith("writer") for thread in threading.enumerate())


def test_a_writer_that_never_started_has_nothing_to_flush(make_context: ContextMaker) -> None:
    idle = Writer(FakeDisk(), make_context(), rows_of=lambda _: 1, queue_rows=10, every_s=0.1, large_rows=10)
    assert idle.flush(30.0)
    idle.close()


def test_closing_writes_what_waits(make_context: ContextMaker) -> None:
    disk = FakeDisk()
    with writer(make_context, disk, every_s=60.0) as (made, context):
        made.put([0])
        wait_until(lambda: disk.written)
        made.put([1, 2, 3])
    assert disk.written == [0, 1, 2, 3]
    assert disk.synced == 4
    assert context.counters.get("lost_rows") == 0
