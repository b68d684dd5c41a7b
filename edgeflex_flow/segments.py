"""Segments of an outbox on disk: files of records with checksums, written at the end and read from the front.

A record is `eo`, CRC-32 and length of its body, and the body: kind, number, times, key and payload, little-endian. A
record that a crash cut off at the end of a file is cut away when the file is next opened. From a record that is damaged
otherwise, the rest of the file is set aside as `NUMBER.corrupt`, since nobody knows where the next record begins.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ENDING = ".segment"
CORRUPT_ENDING = ".corrupt"
MOST_CORRUPT_FILES = 4

MAGIC = b"eo"
HEAD = struct.Struct("<2sII")
BODY = struct.Struct("<BQqqqH")
RECORD_BYTES = HEAD.size + BODY.size
"""What a record needs besides key and payload."""
ENTRY, DONE = 1, 2
READ_BYTES = 1 << 20


@dataclass(slots=True, eq=False)
class Entry:
    """A payload and what it is for. Times are nanoseconds."""

    number: int
    key: str
    payload: bytes
    time_ns: int
    """When it was put in, UTC."""
    put_ns: int
    """The same in the monotonic clock of the run that put it in."""
    valid_ns: int = 0
    """How long it may be sent; 0: as long as the outbox keeps it."""
    segment: Segment | None = None
    """Where it is on disk; None while it is in memory only."""
    done: bool = False
    """The far side has it."""
    age_ns: int = 0
    """How long it had waited when it was last taken."""

    @property
    def size(self) -> int:
        return RECORD_BYTES + len(self.key) + len(self.payload)


@dataclass(slots=True, eq=False)
class Segment:
    """A file of records and how far it is read. `held`: its entries that are not done, read or not."""

    file: Path
    size: int = 0
    read_to: int = 0
    held: int = 0
    newest_ns: int = 0
    """When its newest entry was put in, UTC."""
    earlier_run: bool = False
    dropped: bool = False
    descriptor: int = field(default=-1, repr=False)

    @property
    def has_unread(self) -> bool:
        return self.read_to < self.size

    def open(self) -> int:
        if self.descriptor < 0:
            self.descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self.descriptor

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def append(self, data: bytes) -> None:
        """Write at the end. On an OSError what came of it is cut off again, as far as that is possible."""
        descriptor = self.open()
        rest, place = memoryview(data), self.size
        try:
            while rest:
                written = os.pwrite(descriptor, rest, place)
                rest, place = rest[written:], place + written
        except OSError:
            os.ftruncate(descriptor, self.size)
            raise
        self.size = place

    def sync(self) -> None:
        """Return when what was appended survives a power failure."""
        os.fdatasync(self.open())

    def delete(self) -> None:
        self.close()
        self.file.unlink(missing_ok=True)


def encode_entry(entry: Entry) -> bytes:
    key = entry.key.encode()
    body = BODY.pack(ENTRY, entry.number, entry.time_ns, entry.put_ns, entry.valid_ns, len(key))
    return _record(b"".join((body, key, entry.payload)))


def encode_done(number: int) -> bytes:
    """The record that all entries up to this number are done."""
    return _record(BODY.pack(DONE, number, 0, 0, 0, 0))


def _record(body: bytes) -> bytes:
    return HEAD.pack(MAGIC, zlib.crc32(body), len(body)) + body


@dataclass(slots=True)
class Scan:
    """Records of a stretch of a file: entries and the highest number that a `done` record tells. `end`: where the last
    good record ends. `damaged`: what follows is no record and was not merely cut off by the end of the data."""

    entries: list[tuple[int, Entry]] = field(default_factory=list)
    """Each with the place where its record ends."""
    done: int = 0
    end: int = 0
    damaged: bool = False


def scan(data: bytes) -> Scan:
    """Read records from the front.

    >>> entry = Entry(7, "a/b", b"payload", time_ns=5, put_ns=1)
    >>> found = scan(encode_entry(entry) + encode_done(6) + b"eo")
    >>> [each.payload for _, each in found.entries], found.done, found.damaged
    ([b'payload'], 6, False)
    """
    found = Scan()
    while True:
        begin = found.end + HEAD.size
        if begin > len(data):
            found.damaged = not MAGIC.startswith(data[found.end : found.end + len(MAGIC)]) and any(data[found.end :])
            return found
        magic, checksum, length = HEAD.unpack_from(data, found.end)
        body = data[begin : begin + length]
        is_whole = magic == MAGIC and len(body) == length
        if not is_whole or zlib.crc32(body) != checksum or not _take(body, begin + length, found):
            # A power failure may leave zeros where a record was to be, or a record whose end was not written.
            cut_off = begin + length >= len(data) if magic == MAGIC else not any(data[found.end :])
            found.damaged = not cut_off or _has_record(data, found.end + len(MAGIC))
            return found
        found.end = begin + length


def _has_record(data: bytes, place: int) -> bool:
    """Whether a whole record begins somewhere behind `place`: then what stands before it was not cut off at the end."""
    while (place := data.find(MAGIC, place)) >= 0:
        begin = place + HEAD.size
        if begin <= len(data):
            _, checksum, length = HEAD.unpack_from(data, place)
            if length and begin + length <= len(data) and zlib.crc32(data[begin : begin + length]) == checksum:
                return True
        place += 1
    return False


def _take(body: bytes, end: int, found: Scan) -> bool:
    if len(body) < BODY.size:
        return False
    kind, number, time_ns, put_ns, valid_ns, key_length = BODY.unpack_from(body)
    if kind == DONE:
        found.done = max(found.done, number)
        return True
    payload_at = BODY.size + key_length
    try:
        key = body[BODY.size : payload_at].decode()
    except UnicodeDecodeError:
        return False
    if kind != ENTRY or payload_at > len(body):
        return False
    found.entries.append((end, Entry(number, key, body[payload_at:], time_ns, put_ns, valid_ns)))
    return True


def read_some(segment: Segment) -> Scan:
    """The next unread records: about `READ_BYTES` of them, at least one unless the rest of the file is none."""
    left = segment.size - segment.read_to
    size = min(left, READ_BYTES)
    while True:
        data = os.pread(segment.open(), size, segment.read_to)
        found = scan(data)
        if found.end or size >= left:
            return found
        size = min(left, 4 * size)


def find_segments(folder: Path) -> list[Segment]:
    """The segments that an earlier run left in a folder, the oldest first, not read yet."""
    return [
        Segment(file, size=file.stat().st_size, earlier_run=True)
        for file in sorted(folder.glob(f"*{ENDING}"))
        if file.is_file()
    ]


def all_of(segment: Segment) -> Iterator[Scan]:
    """Read a whole segment from the front, stretch by stretch; the last one tells whether the rest is damaged.

    Moves `read_to`; at the end it is where the good records end.
    """
    while segment.has_unread:
        found = read_some(segment)
        segment.read_to += found.end
        yield found
        if found.damaged or not found.end:
            return


def set_rest_aside(segment: Segment, place: int) -> None:
    """Move what follows `place` into a file of its own and end the segment there."""
    aside = segment.file.with_suffix(CORRUPT_ENDING)
    try:
        aside.write_bytes(os.pread(segment.open(), segment.size - place, place))
    except OSError:
        aside.unlink(missing_ok=True)  # a full disk must not cost what may still be read by hand
        raise
    for old in sorted(segment.file.parent.glob(f"*{CORRUPT_ENDING}"))[:-MOST_CORRUPT_FILES]:
        old.unlink()
    cut_off(segment, place)


def cut_off(segment: Segment, place: int) -> None:
    """End the segment at `place`."""
    os.ftruncate(segment.open(), place)
    segment.size = place
    segment.read_to = min(segment.read_to, place)
