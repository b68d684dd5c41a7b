"""An outbox: what waits for a far side that is away, in memory first and then on disk, in the order it was put in.

`put` takes an entry, `take` gives the next one to send, `done` says that the far side has it, `again` that what was
taken has to be sent once more. None of them waits for the disk: a thread writes, reads and deletes segments.

- **What goes to disk.** While entries pass quickly, nothing. Once one has waited `SPILL_AFTER_S`, or half of the memory
  is in use, all that is not done is written, the oldest first, and synced (`fdatasync`) batch by batch. So a killed
  program or a power failure costs at most what came in the last second or so. `save` has all of it written now.
- **Limits.** In memory `memory_entries` and `memory_bytes`, on disk `disk_bytes`; beyond them the oldest in memory, or
  the oldest segment, is dropped and counted under `overflow`. What is older than `age_s` is dropped and counted under
  `too_old`.
- **Expiry.** An entry with `valid_s` is never given after that time, in whichever clock it ends first, and never by a
  later run of the program: it is dropped and counted under `expired`.
- **Disk full, or failing.** Told once, counted under `disk_errors`, tried again with growing waits; meanwhile entries
  wait in memory within its limits. What is on disk stays there and goes out first.
- **After a restart** what was not done goes out again, in order. The `done`s of the last second may be forgotten when
  the program was killed: then some entries go out twice.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from edgeflex_flow.clock import Clock, SystemClock
from edgeflex_flow.disk import lock_file, sync_folder
from edgeflex_flow.errors import RetryableError
from edgeflex_flow.node import Counters
from edgeflex_flow.segments import (
    CORRUPT_ENDING,
    ENDING,
    RECORD_BYTES,
    Entry,
    Segment,
    all_of,
    cut_off,
    encode_done,
    encode_entry,
    find_segments,
    read_some,
    set_rest_aside,
)
from edgeflex_flow.units import NS_PER_S

SPILL_AFTER_S = 1.0
ROUND_S = 0.5
"""How often the thread looks after the disk when nobody wakes it."""
BATCH_ENTRIES = 2000
BATCH_BYTES = 4 << 20
AHEAD = 512
"""Entries from disk that are held in memory, ready to be taken."""
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
LONGEST_NS = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much an outbox holds, and how long."""

    memory_entries: int
    memory_bytes: int = 64 << 20
    disk_bytes: int = 256 << 20
    age_s: float = 86400.0

    @property
    def segment_bytes(self) -> int:
        """Segments are what is dropped at once, so there are some of them."""
        return max(4096, min(self.disk_bytes // 16, 16 << 20))


def _nothing() -> None:
    return None


def _number(entry: Entry) -> int:
    return entry.number


def _ignore(_error: BaseException) -> None:
    return None


class Outbox:
    """The outbox. Without `folder` it is one in memory alone.

    `on_ready` is called by the thread when `take` may give something again after it gave None; `on_failure` when an
    error that nobody foresaw has ended the thread.
    Counts `overflow`, `too_old`, `expired`, `spilled` (written to disk), `recovered` (left by an earlier run),
    `corrupt_bytes` (set aside) and `disk_errors`.
    """

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        log: logging.Logger,
        *,
        folder: Path | None = None,
        clock: Clock | None = None,
        on_ready: Callable[[], None] = _nothing,
        on_failure: Callable[[BaseException], None] = _ignore,
    ) -> None:
        self._limits = limits
        self._most_age_ns = round(limits.age_s * NS_PER_S)
        self._counters = counters
        self._log = log
        self._folder = folder
        self._clock: Clock = clock or SystemClock()
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        # Guarded by the lock. In the order of their numbers: taken, ahead, unread on disk, moving, tail.
        self._taken: dict[int, Entry] = {}
        self._ahead: deque[Entry] = deque()
        self._moving: deque[Entry] = deque()
        self._tail: deque[Entry] = deque()
        self._tail_bytes = 0
        self._next_number = 1
        self._left_behind = 0
        """The last number that an earlier run has given."""
        self._segments: deque[Segment] = deque()
        self._saves_wanted = 0
        self._saves_done = 0
        self._load_wanted = False
        self._stopping = False
        # The thread's own.
        self._thread: threading.Thread | None = None
        self._active: Segment | None = None
        self._noted_done = 0
        self._last_loaded = 0
        self._failures = 0
        self._retry_at_ns = 0
        self._lock_file = -1

    # Any thread -----------------------------------------------------------------------------------------------------

    def put(self, key: str, payload: bytes, valid_s: float = 0.0) -> None:
        """Take an entry over; with `valid_s` it may be sent only so long."""
        time_ns, put_ns = self._clock.now_ns(), self._clock.monotonic_ns()
        with self._lock:
            valid_ns = min(max(1, round(valid_s * NS_PER_S)), LONGEST_NS) if valid_s else 0
            entry = Entry(self._next_number, key, payload, time_ns, put_ns, valid_ns)
            self._next_number += 1
            self._tail.append(entry)
            self._tail_bytes += RECORD_BYTES + len(key) + len(payload)
            if len(self._tail) > self._limits.memory_entries or self._tail_bytes > self._limits.memory_bytes:
                self._drop_from_memory()
            elif len(self._tail) == self._limits.memory_entries // 2:
                self._condition.notify_all()

    def _drop_from_memory(self) -> None:
        dropped = 0
        while self._tail and (
            len(self._tail) > self._limits.memory_entries
            or (self._tail_bytes > self._limits.memory_bytes and len(self._tail) > 1)
        ):
            self._tail_bytes -= self._tail.popleft().size
            dropped += 1
        if dropped:
            self._counters.add("overflow", dropped)

    def take(self) -> Entry | None:
        """The next entry to send; None if there is none, or none that is in memory yet."""
        with self._lock:
            while (entry := self._next()) is not None:
                entry.age_ns = self._age_ns(entry)
                reason = self._why_not(entry)
                if reason is None:
                    self._taken[entry.number] = entry
                    return entry
                self._finish(entry)
                self._counters.add(reason)
            return None

    def _next(self) -> Entry | None:
        if self._ahead:
            if len(self._ahead) <= AHEAD // 2 and self._has_unread():
                self._ask_for_more()
            return self._ahead.popleft()
        if self._moving or (self._segments and self._has_unread()):
            self._ask_for_more()
            return None
        if self._tail:
            entry = self._tail.popleft()
            self._tail_bytes -= entry.size
            return entry
        return None

    def _has_unread(self) -> bool:
        return any(segment.has_unread for segment in self._segments)

    def _ask_for_more(self) -> None:
        if not self._load_wanted:
            self._load_wanted = True
            self._condition.notify_all()

    def _why_not(self, entry: Entry) -> str | None:
        """Why an entry must not be sent any more; None if it may."""
        if entry.valid_ns and entry.age_ns >= entry.valid_ns:
            return "expired"
        return "too_old" if entry.age_ns > self._most_age_ns else None

    def _age_ns(self, entry: Entry) -> int:
        """In the monotonic clock, which nobody sets, where this run put it in; what expires also in the other."""
        age_ns = self._clock.now_ns() - entry.time_ns
        if entry.segment is not None and entry.segment.earlier_run:
            return max(age_ns, 0)
        monotonic_ns = self._clock.monotonic_ns() - entry.put_ns
        return max(age_ns, monotonic_ns) if entry.valid_ns else monotonic_ns

    def done(self, entry: Entry) -> None:
        """The far side has this entry, or never will and that was told. One that is not taken changes nothing."""
        with self._lock:
            if self._taken.pop(entry.number, None) is not None:
                self._finish(entry)

    @staticmethod
    def _finish(entry: Entry) -> None:
        entry.done = True
        if entry.segment is not None:
            entry.segment.held -= 1

    def again(self, entries: Iterable[Entry]) -> None:
        """Of these, what is taken and not done is given once more, in its order and before all else."""
        with self._lock:
            taken = [entry for entry in entries if self._taken.pop(entry.number, None) is not None]
            self._ahead.extendleft(sorted(taken, key=_number, reverse=True))

    @property
    def put_to(self) -> int:
        """How many entries this run has put in."""
        return self._next_number - 1 - self._left_behind

    def safe_to(self) -> int:
        """The first so many of them are done, dropped and counted, or on disk: they outlive the program."""
        with self._lock:
            given = chain(self._taken.values(), self._ahead)
            open_ = min((entry.number for entry in given if entry.segment is None), default=self._next_number)
            waiting = next((entry.number for entry in chain(self._moving, self._tail)), self._next_number)
            return min(open_, waiting) - 1 - self._left_behind

    @property
    def is_on_disk(self) -> bool:
        """Whether it has a folder."""
        return self._folder is not None

    def disk_bytes(self) -> int:
        """Size of the segments on disk."""
        with self._lock:
            return sum(each.size for each in self._segments)

    def held(self) -> int:
        """Entries that are not done."""
        with self._lock:
            unsaved = sum(1 for each in chain(self._taken.values(), self._ahead) if each.segment is None)
            on_disk = sum(each.held for each in self._segments) + self._outlived()
            return unsaved + len(self._tail) + len(self._moving) + on_disk

    def _outlived(self) -> int:
        """Entries on their way whose segment is no more."""
        return sum(1 for each in chain(self._taken.values(), self._ahead) if each.segment and each.segment.dropped)

    def _unsaved(self) -> Iterator[Entry]:
        """Entries that are in memory only, the oldest first."""
        before = [entry for entry in chain(self._taken.values(), self._ahead) if entry.segment is None]
        return chain(sorted(before, key=_number), self._tail)

    # Life -----------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Find what an earlier run left, and start the thread. RetryableError while another process has the folder."""
        if self._folder is None:
            return
        try:
            self._open_folder(self._folder)
        except OSError as error:
            self._disk_failed(error)
        self._thread = threading.Thread(target=self._run, name=f"outbox {self._folder.name}", daemon=True)
        self._thread.start()

    def recover(self) -> None:
        """`open` without the thread, for who calls `work` himself."""
        if self._folder is not None:
            self._open_folder(self._folder)

    def _open_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock_file = lock_file(folder / "lock")
        except BlockingIOError as error:
            text = f"the outbox '{folder}' is in use by another process: does this flow run twice?"
            raise RetryableError(text) from error
        try:
            self._read_left_behind(folder)
        except BaseException:
            os.close(self._lock_file)  # so that it is read whole when it is tried again, before anything is written
            self._lock_file = -1
            raise

    def _read_left_behind(self, folder: Path) -> None:
        """Count what is held in each segment, cut off what was not written whole, set aside what is damaged."""
        segments = find_segments(folder)
        last = done = 0
        numbers: list[tuple[Segment, Entry]] = []
        for segment in segments:
            is_damaged = False
            for found in all_of(segment):
                is_damaged = found.damaged
                done = max(done, found.done)
                for _, entry in found.entries:
                    if entry.number > last:
                        last = entry.number
                        numbers.append((segment, Entry(entry.number, "", b"", entry.time_ns, 0, entry.valid_ns)))
            self._mend(segment, damaged=is_damaged)
        expired = 0
        for segment, entry in numbers:
            if entry.number > done and not entry.valid_ns:
                segment.held += 1
                segment.newest_ns = entry.time_ns
            expired += entry.number > done and bool(entry.valid_ns)
        for segment in segments:
            segment.read_to = 0 if segment.held else segment.size
        held = sum(segment.held for segment in segments)
        self._counters.add_all(recovered=held, expired=expired)
        if held:
            self._log.info("outbox '%s': %d payloads of an earlier run will be sent", folder, held)
        with self._lock:
            # What came before the folder could be opened was numbered without it.
            for entry in self._unsaved():
                entry.number += last
            self._taken = {entry.number: entry for entry in self._taken.values()}
            self._next_number += last
            self._left_behind = last
            self._noted_done = done
            self._segments.extendleft(reversed(segments))

    def _mend(self, segment: Segment, *, damaged: bool) -> None:
        rest = segment.size - segment.read_to
        if damaged:
            self._set_aside(segment, segment.read_to)
        elif rest:
            self._log.info("outbox '%s': %d bytes that were not written whole are cut off", segment.file, rest)
            cut_off(segment, segment.read_to)
        segment.close()

    def _set_aside(self, segment: Segment, place: int) -> None:
        rest = segment.size - place
        self._counters.add("corrupt_bytes", rest)
        self._log.error(
            "outbox '%s' is damaged at byte %d: %d bytes are set aside as '%s'",
            segment.file,
            place,
            rest,
            segment.file.with_suffix(CORRUPT_ENDING).name,
        )
        set_rest_aside(segment, place)

    def held_for_the_next_run(self) -> int:
        """Of the entries that are not done those that do not expire: the others never outlive this run."""
        with self._lock:
            gone = sum(
                bool(each.valid_ns) for each in chain(self._taken.values(), self._ahead, self._moving, self._tail)
            )
            return max(self.held() - gone, 0)

    def save(self, timeout_s: float) -> bool:
        """Wait until everything that is not done is on disk; whether it is."""
        if self._thread is None:
            return self.held() == 0
        with self._lock:
            self._saves_wanted += 1
            wanted = self._saves_wanted
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._saves_done >= wanted, timeout_s)
            return self._saves_done >= wanted

    def close(self) -> int:
        """Save what can be saved and end the thread. Gives how many entries are lost: those that are in memory only."""
        if self._thread is not None:
            with self._lock:
                self._saves_wanted += 1
                self._stopping = True
                self._condition.notify_all()
            self._thread.join()
            self._thread = None
        with self._lock:
            lost = sum(1 for _ in self._unsaved()) + self._outlived()
            for segment in self._segments:
                segment.close()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1
        return lost

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                self._condition.wait_for(self._has_work, ROUND_S)
                stopping = self._stopping
            try:
                self.work()
            except Exception as error:  # noqa: BLE001 - a bug here must not leave a flow that sends nothing, silently
                self._log.debug("the thread of an outbox ended", exc_info=True)
                self._on_failure(error)
                return
            if stopping:
                return

    def _has_work(self) -> bool:
        if self._stopping:
            return True
        if self._failures and self._clock.monotonic_ns() < self._retry_at_ns:
            return False
        return self._saves_wanted > self._saves_done or self._load_wanted or self._is_half_full()

    def _is_half_full(self) -> bool:
        limits = self._limits
        return 2 * len(self._tail) >= limits.memory_entries or 2 * self._tail_bytes >= limits.memory_bytes

    def work(self) -> None:
        """One round: write what has to be on disk, read what will be taken next, delete what is done."""
        if self._failures and self._clock.monotonic_ns() < self._retry_at_ns and not self._stopping:
            return
        assert self._folder is not None
        try:
            if self._lock_file < 0:
                self._open_folder(self._folder)
            self._drop_old_segments()
            while self._spill():
                self._load()
            self._load()
            self._note_done()
            self._delete_done()
        except (RetryableError, OSError) as error:
            self._disk_failed(error)
        else:
            if self._failures:
                self._log.info("outbox '%s': the disk takes entries again", self._folder)
            self._failures = 0

    def _disk_failed(self, error: OSError | RetryableError) -> None:
        self._counters.add("disk_errors")
        if not self._failures:
            reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
            self._log.error(
                "outbox '%s': %s; entries wait in memory, at most %d of them; trying again",
                self._folder,
                reason,
                self._limits.memory_entries,
            )
        delay_s = min(FIRST_RETRY_S * 2.0 ** min(self._failures, 10), LAST_RETRY_S)
        self._failures += 1
        self._retry_at_ns = self._clock.monotonic_ns() + round(delay_s * NS_PER_S)

    def _spill(self) -> bool:
        """Write the oldest entries that are in memory only, if it is time; whether more are to be written."""
        with self._lock:
            wanted = self._saves_wanted
            batch = self._batch()
            if not batch:
                self._saves_done = wanted
                self._condition.notify_all()
                return False
            for entry in batch:
                if self._tail and entry is self._tail[0]:
                    self._moving.append(self._tail.popleft())
                    self._tail_bytes -= entry.size
        try:
            self._write(batch)
        except BaseException:
            with self._lock:
                for entry in reversed(self._moving):
                    self._tail.appendleft(entry)
                    self._tail_bytes += entry.size
                self._moving.clear()
                self._drop_from_memory()
            raise
        self._counters.add("spilled", len(batch))
        self._on_ready()
        return True

    def _batch(self) -> list[Entry]:
        """What to write now, under the lock: everything, the oldest first, once the oldest has waited for long."""
        must = self._saves_wanted > self._saves_done or self._is_half_full()
        batch: list[Entry] = []
        size, most_bytes = 0, min(BATCH_BYTES, self._limits.segment_bytes)
        for entry in self._unsaved():
            if not must:
                age_ns = self._clock.monotonic_ns() - entry.put_ns
                must = age_ns >= SPILL_AFTER_S * NS_PER_S
                if not must:
                    break
            size += entry.size
            if batch and (len(batch) >= BATCH_ENTRIES or size > most_bytes):
                break
            batch.append(entry)
        return batch

    def _write(self, batch: list[Entry]) -> None:
        """Append entries and sync; then put each where `take` finds it: ahead, or unread on disk."""
        records = [encode_entry(entry) for entry in batch]
        segment = self._segment_for(sum(map(len, records)), batch[0].number)
        place = segment.size
        try:
            segment.append(b"".join(records))
            segment.sync()
        except OSError:
            segment.size = place  # what reached the file all the same is known by its numbers
            self._active = None
            if not place:
                with self._lock:
                    self._segments.remove(segment)
                segment.delete()
            raise
        with self._lock:
            self._place(segment, place, zip(batch, map(len, records), strict=True))

    def _place(self, segment: Segment, place: int, written: Iterable[tuple[Entry, int]]) -> None:
        """Put entries that were just appended at `place` where `take` finds them. Under the lock."""
        # Once one has to be read from disk, so have all behind it.
        in_memory = not any(each.has_unread for each in self._segments if each is not segment) and (
            segment.read_to == place
        )
        for entry, size in written:
            place += size
            if not entry.done:
                entry.segment = segment
                segment.held += 1
                segment.newest_ns = entry.time_ns
            if self._moving and self._moving[0] is entry:
                self._moving.popleft()
                in_memory = in_memory and len(self._ahead) < AHEAD
                if in_memory:
                    self._ahead.append(entry)
            if in_memory:
                segment.read_to = place

    def _segment_for(self, size: int, number: int) -> Segment:
        """The segment to append to, after dropping old ones where the limit asks for it."""
        assert self._folder is not None
        if self._active is not None and self._active.size >= self._limits.segment_bytes:
            self._active = None
        while self._segments and sum(each.size for each in self._segments) + size > self._limits.disk_bytes:
            self._drop(self._segments[0], "overflow")
        if self._active is None:
            self._active = Segment(self._folder / f"{number:020d}{ENDING}")
            self._active.open()
            sync_folder(self._folder)
            with self._lock:
                self._segments.append(self._active)
        return self._active

    def _drop_old_segments(self) -> None:
        oldest_ns = self._clock.now_ns() - self._most_age_ns
        while self._segments and self._segments[0].earlier_run and 0 < self._segments[0].newest_ns < oldest_ns:
            self._drop(self._segments[0], "too_old")

    def _drop(self, segment: Segment, reason: str) -> None:
        """Delete a segment with what is held in it; what is on its way stays on its way."""
        with self._lock:
            on_their_way = sum(each.segment is segment for each in self._taken.values())
            self._ahead = deque(each for each in self._ahead if each.segment is not segment)
            segment.dropped = True
            self._segments.remove(segment)
            self._counters.add(reason, segment.held - on_their_way)
        if segment is self._active:
            self._active = None
        segment.delete()

    def _load(self) -> None:
        """Read from disk what will be taken next."""
        with self._lock:
            self._load_wanted = False
            if len(self._ahead) > AHEAD // 2:
                return
            segment = next((each for each in self._segments if each.has_unread), None)
        if segment is None:
            return
        found = read_some(segment)
        with self._lock:
            for _, entry in found.entries:
                # After a failed write a record may stand in two segments.
                is_new = entry.number > max(self._last_loaded, self._noted_done)
                self._last_loaded = max(self._last_loaded, entry.number)
                if is_new and not (segment.earlier_run and entry.valid_ns):
                    entry.segment = segment
                    self._ahead.append(entry)
            segment.read_to += found.end
        if segment.has_unread and not found.end:
            self._set_aside(segment, segment.read_to)
            with self._lock:
                segment.held = sum(each.segment is segment for each in chain(self._taken.values(), self._ahead))
        self._on_ready()

    def _note_done(self) -> None:
        """Write down how far the far side has everything, so that a restart does not send it again."""
        with self._lock:
            if not self._segments:
                return
            before = self._first_open() - 1
        if before > self._noted_done and self._active is not None:
            self._active.append(encode_done(before))
            with self._lock:
                if self._active.read_to + len(encode_done(before)) == self._active.size:
                    self._active.read_to = self._active.size
            self._noted_done = before

    def _first_open(self) -> int:
        """The smallest number that is not done, or that may not be."""
        given = [next(iter(entries)).number for entries in (self._taken.values(), self._ahead) if entries]
        if given:
            return min(given)
        if self._has_unread():
            return 0
        for entry in chain(self._moving, self._tail):
            return entry.number
        return self._next_number

    def _delete_done(self) -> None:
        while True:
            with self._lock:
                if not self._segments or self._segments[0].held > 0:
                    return
                segment = self._segments.popleft()
            if segment is self._active:
                self._active = None
            segment.delete()
