from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from broker import wait_until
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from edgeflex_flow import outbox as outbox_module
from edgeflex_flow.errors import RetryableError
from edgeflex_flow.node import Counters
from edgeflex_flow.outbox import Limits, Outbox
from edgeflex_flow.segments import Entry, Segment, encode_entry, scan

LOG = logging.getLogger("edgeflex.test.outbox")
LIMITS = Limits(memory_entries=1000, disk_bytes=10 << 20, age_s=3600)


@dataclass
class HandClock:
    """A clock that the test moves; `set_back` moves the wall clock alone."""

    wall_ns: int = 1_700_000_000_000_000_000
    ns: int = 1_000_000_000

    def now_ns(self) -> int:
        return self.wall_ns

    def monotonic_ns(self) -> int:
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)
        self.wall_ns += round(seconds * 1e9)


def make(
    folder: Path | None, clock: HandClock | None = None, limits: Limits = LIMITS, counters: Counters | None = None
) -> Outbox:
    """An outbox without thread: the test calls `work`."""
    made = Outbox(limits, counters or Counters(), LOG, folder=folder, clock=clock or HandClock())
    made.recover()
    return made


def put(box: Outbox, *numbers: int, valid_s: float = 0.0) -> None:
    for number in numbers:
        box.put("t", str(number).encode(), valid_s)


def take_all(box: Outbox, *, work: bool = True) -> list[int]:
    """Take until there is nothing, letting the disk work in between."""
    taken: list[int] = []
    for _ in range(1000):
        while (entry := box.take()) is not None:
            taken.append(int(entry.payload))
        before = len(taken)
        if not work:
            break
        box.work()
        entry = box.take()
        if entry is not None:
            taken.append(int(entry.payload))
        if len(taken) == before:
            break
    return taken


def finish_all(box: Outbox) -> list[int]:
    """Send everything, as a far side that acknowledges at once."""
    sent: list[int] = []
    idle = 0
    while idle < 3:
        entry = box.take()
        if entry is None:
            box.work()
            idle += 1
            continue
        idle = 0
        sent.append(int(entry.payload))
        box.done(entry)
    return sent


def files(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.suffix == ".segment")


def test_entries_come_out_in_the_order_they_went_in(tmp_path: Path) -> None:
    box = make(None)
    put(box, 1, 2, 3)
    assert take_all(box, work=False) == [1, 2, 3]


def test_quick_entries_touch_no_disk(tmp_path: Path) -> None:
    box = make(tmp_path)
    put(box, 1, 2)
    box.work()
    assert take_all(box) == [1, 2]
    assert files(tmp_path) == []


def test_what_waits_goes_to_disk_and_comes_back_in_order(tmp_path: Path) -> None:
    clock = HandClock()
    box = make(tmp_path, clock)
    put(box, *range(5))
    clock.advance(2)
    box.work()
    assert len(files(tmp_path)) == 1
    put(box, *range(5, 8))
    assert finish_all(box) == list(range(8))
    box.work()
    assert files(tmp_path) == []
    assert box.held() == 0


def test_what_a_killed_run_had_on_disk_is_sent_by_the_next_one(tmp_path: Path) -> None:
    clock, counters = HandClock(), Counters()
    box = make(tmp_path, clock)
    put(box, *range(10))
    clock.advance(2)
    box.work()
    for _ in range(4):
        entry = box.take()
        assert entry is not None
        box.done(entry)
    box.work()  # writes down how far it came
    os.close(box._lock_file)  # as the end of the process does
    assert finish_all(make(tmp_path, clock, counters=counters)) == list(range(4, 10))
    assert counters.get("recovered") == 6


def test_taken_but_unacknowledged_entries_are_sent_again_after_a_restart(tmp_path: Path) -> None:
    clock = HandClock()
    box = make(tmp_path, clock)
    put(box, *range(3))
    assert take_all(box, work=False) == [0, 1, 2]
    clock.advance(2)
    box.work()
    os.close(box._lock_file)
    assert finish_all(make(tmp_path, clock)) == [0, 1, 2]


def test_again_gives_what_is_not_done_before_all_else(tmp_path: Path) -> None:
    box = make(None)
    put(box, 1, 2, 3, 4)
    first, second, third = box.take(), box.take(), box.take()
    assert first is not None
    assert second is not None
    assert third is not None
    box.done(second)
    box.again([third, first])
    assert take_all(box, work=False) == [1, 3, 4]


def test_set_point_is_never_given_late(tmp_path: Path) -> None:
    clock, counters = HandClock(), Counters()
    box = make(None, clock, counters=counters)
    put(box, 1, valid_s=5)
    put(box, 2)
    clock.advance(5)
    assert take_all(box, work=False) == [2]
    assert counters.get("expired") == 1


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_set_point_expires_although_the_computers_clock_is_set(tmp_path: Path, step_s: int) -> None:
    clock = HandClock()
    box = make(None, clock)
    put(box, 1, valid_s=5)
    clock.wall_ns += step_s * 1_000_000_000
    clock.advance(5)
    assert take_all(box, work=False) == []


def test_set_point_that_was_taken_and_not_acknowledged_expires_too(tmp_path: Path) -> None:
    clock = HandClock()
    box = make(None, clock)
    put(box, 1, valid_s=5)
    entry = box.take()
    assert entry is not None
    clock.advance(6)
    box.again([entry])
    assert box.take() is None


def test_set_point_of_an_earlier_run_is_never_given(tmp_path: Path) -> None:
    clock, counters = HandClock(), Counters()
    box = make(tmp_path, clock)
    put(box, 1, valid_s=60)
    put(box, 2)
    clock.advance(2)
    box.work()
    os.close(box._lock_file)
    assert finish_all(make(tmp_path, clock, counters=counters)) == [2]
    assert counters.get("expired") == 1


def test_telemetry_that_is_too_old_is_dropped_and_counted(tmp_path: Path) -> None:
    clock, counters = HandClock(), Counters()
    box = make(tmp_path, clock, counters=counters)
    put(box, 1)
    clock.advance(3601)
    put(box, 2)
    assert finish_all(box) == [2]
    assert counters.get("too_old") == 1


def test_clock_set_ahead_does_not_make_entries_of_this_run_too_old(tmp_path: Path) -> None:
    clock = HandClock(wall_ns=0)  # a computer without a battery clock begins in 1970
    box = make(tmp_path, clock)
    put(box, 1)
    clock.wall_ns = 1_700_000_000_000_000_000
    assert finish_all(box) == [1]


def test_segments_of_an_earlier_run_that_are_too_old_are_deleted_unread(tmp_path: Path) -> None:
    clock, counters = HandClock(), Counters()
    box = make(tmp_path, clock)
    put(box, *range(10))
    clock.advance(2)
    box.work()
    os.close(box._lock_file)
    clock.advance(4000)
    late = make(tmp_path, clock, counters=counters)
    late.work()
    assert files(tmp_path) == []
    assert counters.get("too_old") == 10


def test_memory_is_bounded_and_drops_the_oldest(tmp_path: Path) -> None:
    counters = Counters()
    box = make(None, limits=Limits(memory_entries=3), counters=counters)
    put(box, *range(5))
    assert take_all(box, work=False) == [2, 3, 4]
    assert counters.get("overflow") == 2


def test_memory_is_bounded_in_bytes(tmp_path: Path) -> None:
    counters = Counters()
    box = make(None, limits=Limits(memory_entries=100, memory_bytes=10_000), counters=counters)
    for _ in range(5):
        box.put("t", bytes(4000))
    assert counters.get("overflow") == 3


def test_disk_is_bounded_and_drops_the_oldest_segment(tmp_path: Path) -> None:
    clock, counters = HandClock(), Counters()
    limits = Limits(memory_entries=100, disk_bytes=64 << 10)
    box = make(tmp_path, clock, limits, counters)
    for begin in range(0, 3000, 50):
        put(box, *range(begin, begin + 50))
        clock.advance(2)
        box.work()
        assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= limits.disk_bytes
    sent = finish_all(box)
    assert sent == sorted(sent)
    assert sent[-1] == 2999
    assert len(sent) + counters.get("overflow") == 3000


def test_second_process_waits_for_the_first(tmp_path: Path) -> None:
    first = make(tmp_path)
    with pytest.raises(RetryableError, match="does this flow run twice"):
        make(tmp_path)
    first.close()
    make(tmp_path).close()


def test_entry_that_a_crash_cut_off_is_cut_away_and_the_rest_is_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = HandClock()
    box = make(tmp_path, clock)
    put(box, *range(5))
    clock.advance(2)
    box.work()
    os.close(box._lock_file)
    (name,) = files(tmp_path)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size - 1)
    assert finish_all(make(tmp_path, clock)) == [0, 1, 2, 3]
    assert "bytes that were not written whole are cut off" in caplog.text


@pytest.mark.parametrize("place", ["head", "length", "body"])
def test_damaged_segment_is_set_aside_and_what_is_good_is_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    clock, counters = HandClock(), Counters()
    box = make(tmp_path, clock)
    put(box, *range(5))
    clock.advance(2)
    box.work()
    os.close(box._lock_file)
    (name,) = files(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    at = len(data) // 5 * 2 + {"head": 0, "length": 9, "body": 20}[place]  # in the third of five records of one size
    data[at] ^= 0xFF
    (tmp_path / name).write_bytes(data)
    after = make(tmp_path, clock, counters=counters)
    put(after, 99)
    assert finish_all(after) == [0, 1, 99]
    assert (tmp_path / name).with_suffix(".corrupt").read_bytes() == bytes(data[len(data) // 5 * 2 :])
    assert counters.get("corrupt_bytes") == len(data) // 5 * 3
    assert "are set aside as" in caplog.text


def test_zeros_that_a_power_failure_left_are_cut_off(tmp_path: Path) -> None:
    clock, counters = HandClock(), Counters()
    box = make(tmp_path, clock)
    put(box, 1, 2)
    clock.advance(2)
    box.work()
    os.close(box._lock_file)
    (name,) = files(tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.write(bytes(4096))
    assert finish_all(make(tmp_path, clock, counters=counters)) == [1, 2]
    assert counters.get("corrupt_bytes") == 0


def test_segment_that_is_damaged_while_it_waits_is_set_aside(tmp_path: Path) -> None:
    clock, counters = HandClock(), Counters()
    box = make(tmp_path, clock, Limits(memory_entries=4000), counters)
    put(box, *range(3000))
    clock.advance(2)
    box.work()
    (name,) = files(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[-20] ^= 0xFF
    (tmp_path / name).write_bytes(data)
    sent = finish_all(box)
    assert sent == list(range(len(sent)))
    assert len(sent) >= 512
    assert counters.get("corrupt_bytes") > 0
    put(box, 3000)
    assert finish_all(box) == [3000]


def test_disk_error_is_told_once_and_entries_wait_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, counters = HandClock(), Counters()
    box = make(tmp_path, clock, Limits(memory_entries=10), counters)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", refuse)
        put(box, *range(25))
        for _ in range(10):
            clock.advance(40)
            box.work()
        assert counters.get("disk_errors") == 10
        assert counters.get("overflow") == 15
    (message,) = [each for each in caplog.messages if "no space left" in each]
    assert "entries wait in memory, at most 10 of them" in message
    clock.advance(40)
    assert finish_all(box) == list(range(15, 25))


def test_folder_that_cannot_be_made_is_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    counters = Counters()
    box = Outbox(LIMITS, counters, LOG, folder=tmp_path / "file" / "outbox")
    box.open()
    put(box, 1)
    entry = box.take()
    assert entry is not None
    box.done(entry)
    box.close()
    assert counters.get("disk_errors") >= 1
    assert "not a directory" in caplog.text


def test_thread_saves_everything_when_asked(tmp_path: Path) -> None:
    counters = Counters()
    box = Outbox(LIMITS, counters, LOG, folder=tmp_path)
    box.open()
    put(box, *range(100))
    assert box.save(10.0)
    assert counters.get("spilled") == 100
    assert box.close() == 0
    assert finish_all(make(tmp_path)) == list(range(100))


def test_what_is_done_or_on_disk_outlives_the_program(tmp_path: Path) -> None:
    box = Outbox(LIMITS, Counters(), LOG, folder=tmp_path)
    box.open()
    put(box, 0, 1, 2)
    assert (box.put_to, box.safe_to()) == (3, 0)
    first, second = box.take(), box.take()
    assert first is not None
    assert second is not None
    box.done(second)
    assert box.safe_to() == 0
    box.done(first)
    assert box.safe_to() == 2
    assert box.save(10.0)
    assert box.safe_to() == 3
    box.close()


def test_what_an_earlier_run_left_does_not_count_as_put_in(tmp_path: Path) -> None:
    before = Outbox(LIMITS, Counters(), LOG, folder=tmp_path)
    before.open()
    put(before, 0, 1, 2)
    before.close()
    box = Outbox(LIMITS, Counters(), LOG, folder=tmp_path)
    put(box, 3)
    assert (box.put_to, box.safe_to()) == (1, 0)
    box.open()
    assert (box.put_to, box.safe_to()) == (1, 0)
    assert box.save(10.0)
    assert box.safe_to() == 1
    box.close()


def test_entries_pass_through_the_disk_while_a_thread_puts_and_another_takes(tmp_path: Path) -> None:
    count = 20_000
    ready = threading.Event()
    box = Outbox(Limits(memory_entries=1 << 20), Counters(), LOG, folder=tmp_path, on_ready=ready.set)
    box.open()

    def fill() -> None:
        for number in range(count):
            put(box, number)
            if number % 5000 == 2000:
                box.save(10.0)

    filler = threading.Thread(target=fill)
    filler.start()
    sent: list[int] = []
    while len(sent) < count:
        entry = box.take()
        if entry is None:
            ready.wait(0.01)
            ready.clear()
            continue
        sent.append(int(entry.payload))
        box.done(entry)
    filler.join()
    assert sent == list(range(count))
    assert box.close() == 0


def test_close_tells_what_is_in_memory_only(tmp_path: Path) -> None:
    box = Outbox(LIMITS, Counters(), LOG)
    box.open()
    put(box, 1, 2)
    assert not box.save(0.0)
    assert box.close() == 2


CHILD = """
import json, logging, sys
from pathlib import Path
from edgeflex_flow.node import Counters
from edgeflex_flow.outbox import Limits, Outbox

box = Outbox(Limits(memory_entries=100_000), Counters(), logging.getLogger(), folder=Path(sys.argv[1]))
box.open()
done = 0
for number in range(1_000_000):
    box.put("t", b"%d" % number)
    if number % 50 == 49:
        assert box.save(30.0)
        print(json.dumps({"saved": number, "done": done}), flush=True)
        for _ in range(20):
            entry = box.take()
            if entry is not None:
                done = int(entry.payload)
                box.done(entry)
"""


@pytest.mark.long
@pytest.mark.parametrize("lines", [1, 7, 60])
def test_nothing_that_was_saved_is_lost_by_kill_9(tmp_path: Path, lines: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    last = [json.loads(child.stdout.readline()) for _ in range(lines)][-1]
    child.send_signal(signal.SIGKILL)
    for line in child.stdout:  # what it said before it died
        if line.endswith("\n"):
            last = json.loads(line)
    child.wait()
    child.stdout.close()
    clock = HandClock(wall_ns=time.time_ns())
    sent = finish_all(make(tmp_path, clock, Limits(memory_entries=100_000)))
    assert sent == list(range(sent[0], sent[-1] + 1)), "a gap, or out of order"
    assert sent[-1] >= last["saved"]
    assert sent[0] <= last["done"] + 21


def test_full_disk_is_told_bounded_and_left_behind_when_there_is_space(
    small_disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(outbox_module, "LAST_RETRY_S", 0.05)
    counters = Counters()
    box = Outbox(Limits(memory_entries=200), counters, LOG, folder=small_disk / "outbox")
    box.open()
    put(box, *range(50))
    assert box.save(10.0)
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk)
    ballast.write_bytes(bytes(free.f_bavail * free.f_bsize))
    for number in range(50, 600):
        box.put("t", str(number).encode().rjust(4096))
    wait_until(lambda: counters.get("disk_errors") >= 2)
    assert not box.save(0.1)
    dropped = counters.get("overflow")
    assert dropped >= 550 - 200 - 100
    ballast.unlink()
    assert not [each for each in caplog.messages if "takes entries again" in each]
    ready: list[int] = []

    def drained() -> bool:
        while (entry := box.take()) is not None:
            ready.append(int(entry.payload))
            box.done(entry)
        return len(ready) + counters.get("overflow") == 600

    wait_until(drained)
    assert ready == sorted(ready)
    assert ready[:50] == list(range(50))
    assert ready[-1] == 599
    assert sum("no space left" in each for each in caplog.messages) == 1
    assert box.close() == 0


@settings(max_examples=40, stateful_step_count=40)
class OutboxMachine(RuleBasedStateMachine):
    """An outbox beside what it must give: nothing out of order, nothing late, nothing lost that was saved."""

    @initialize(segment_kib=st.sampled_from([4, 64]))
    def begin(self, segment_kib: int) -> None:
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.clock = HandClock()
        self.limits = Limits(memory_entries=100_000, disk_bytes=16 * segment_kib << 10, age_s=1e6)
        self.box = make(self.folder, self.clock, self.limits)
        self.number = 0
        self.waiting: dict[int, tuple[int, float]] = {}
        """Numbers that are to be given: when they were put in and how long they are valid (0: always)."""
        self.taken: list[Entry] = []
        self.acknowledged: set[int] = set()
        """They may come again after a crash."""
        self.last = -1

    def teardown(self) -> None:
        if hasattr(self, "box"):
            self.box.close()
            self.temporary.cleanup()

    def is_valid(self, number: int) -> bool:
        put_ns, valid_s = self.waiting[number]
        return not valid_s or self.clock.ns - put_ns < valid_s * 1e9

    @rule(count=st.sampled_from([1, 3, 30]), valid_s=st.sampled_from([0.0, 0.0, 5.0]))
    def put(self, count: int, valid_s: float) -> None:
        for _ in range(count):
            put(self.box, self.number, valid_s=valid_s)
            self.waiting[self.number] = (self.clock.ns, valid_s)
            self.number += 1

    @rule(count=st.sampled_from([1, 20]))
    def take(self, count: int) -> None:
        for _ in range(count):
            entry = self.box.take()
            number = self.number if entry is None else int(entry.payload)
            skipped = [each for each in self.waiting if self.last < each < number and self.is_valid(each)]
            if entry is None:
                assert not skipped or self.box._has_unread(), f"{skipped} are not given"
                return
            assert skipped == [], f"{skipped} were skipped"
            assert number > self.last, "out of order, or twice"
            assert number in self.acknowledged or self.is_valid(number)
            self.last = number
            self.taken.append(entry)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        entry = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        self.box.done(entry)
        self.waiting.pop(int(entry.payload), None)
        self.acknowledged.add(int(entry.payload))

    @precondition(lambda self: self.taken)
    @rule()
    def send_the_oldest_again(self) -> None:
        oldest = min(self.taken, key=lambda each: each.number)
        self.taken.remove(oldest)
        self.box.again([oldest])
        entry = self.box.take()
        if self.is_valid(int(oldest.payload)):
            assert entry is not None
            assert entry.number == oldest.number
        elif entry is not None:
            self.box.again([entry])
        if entry is not None and entry.number == oldest.number:
            self.taken.append(entry)

    @rule()
    def lose_the_connection(self) -> None:
        self.box.again(self.taken)
        if self.taken:
            self.last = min(int(each.payload) for each in self.taken) - 1
        self.taken = []

    @rule(seconds=st.sampled_from([0.1, 2.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def work(self) -> None:
        self.box.work()
        in_memory_only = {int(each.payload) for each in self.box._unsaved()}
        old = {number for number, (put_ns, _) in self.waiting.items() if self.clock.ns - put_ns >= 1e9}
        assert not in_memory_only & old

    @rule()
    def crash(self) -> None:
        in_memory_only = {int(each.payload) for each in self.box._unsaved()}
        os.close(self.box._lock_file)
        for segment in self.box._segments:
            segment.close()
        self.box = make(self.folder, self.clock, self.limits)
        self.waiting = {
            number: about for number, about in self.waiting.items() if number not in in_memory_only and not about[1]
        }
        self.taken = []
        self.last = -1

    @rule()
    def empty(self) -> None:
        self.last = min([int(each.payload) for each in self.taken], default=self.last + 1) - 1
        self.box.again(self.taken)
        self.taken = []
        sent = finish_all(self.box)
        assert sent == sorted(set(sent))
        assert set(sent) >= {number for number in self.waiting if self.is_valid(number)}
        assert set(sent) <= self.acknowledged | {number for number in self.waiting if self.is_valid(number)}
        self.acknowledged |= set(sent)
        self.waiting = {}
        self.last = max([self.last, *sent])
        self.box.work()
        assert files(self.folder) == []
        assert self.box.held() == 0


TestOutboxAgainstAList = OutboxMachine.TestCase


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_records_read_back_as_they_were_written(size: int) -> None:
    entry = Entry(3, "grüße/a", os.urandom(size), time_ns=-5, put_ns=7, valid_ns=9)
    ((end, read),) = scan(encode_entry(entry)).entries
    assert (read.number, read.key, read.payload, read.time_ns, read.put_ns, read.valid_ns) == (
        3,
        entry.key,
        entry.payload,
        -5,
        7,
        9,
    )
    assert end == len(encode_entry(entry))


def test_failed_append_leaves_the_segment_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment(tmp_path / "1.segment")
    segment.append(b"first")
    write = os.pwrite

    def half(descriptor: int, data: bytes, place: int) -> int:
        if place > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:2], place)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError, match="No space"):
        segment.append(b"second")
    segment.close()
    assert (tmp_path / "1.segment").read_bytes() == b"first"
