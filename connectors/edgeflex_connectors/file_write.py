"""`file_write`: record samples and messages to files."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from edgeflex_connectors.folders import make_folder_for, path_refusals
from edgeflex_connectors.records import encode_lines, part_file, part_files, part_number, write_npz
from edgeflex_connectors.writer import Target, Writer
from edgeflex_flow.disk import sync_folder
from edgeflex_flow.errors import FatalError, FieldError, RetryableError
from edgeflex_flow.messages import DeadLetter, Message, Samples, encode_message, join_samples
from edgeflex_flow.node import (
    ANY,
    DEFAULT_PORT,
    Context,
    Counters,
    Delays,
    Input,
    NodeConfig,
    Progress,
    SinkNode,
    WireMessage,
)
from edgeflex_flow.node import path as file_path

NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""What file systems without hard links answer, such as FAT on a USB stick."""

WRITE_EVERY_S = 0.2
LARGE_ROWS = 50_000

SUFFIXES: Mapping[str, Literal["jsonl", "npz"]] = {".jsonl": "jsonl", ".npz": "npz"}


class FileWriteConfig(NodeConfig, frozen=True, kw_only=True):
    """Record samples and messages, as JSON lines or as npz tables. Never writes over an older recording.

    `jsonl`: one object a line, a row of samples or a message; lines are added to a file that exists.
    `npz`: samples only, in parts `name-0001.npz`, `name-0002.npz` …, each with up to about `max_rows` rows of one set
    of columns. A part is written when it is full and when the flow ends; until then its rows are in memory, and a
    crash takes them; one in the middle of a part leaves a file `*.unfinished`, which may be deleted. Numbers go on
    after the highest that exists.

    Two nodes with one path are an error of the check. At run time one node writes a `jsonl` file at a time: a second,
    of a flow that was checked by itself, is refused. Two that record npz under one name take turns with the numbers,
    and the log warns of it.

    Sources that acknowledge what has become durable, such as `mqtt_subscribe`, wait for lines, not for npz parts.

    While the disk is full or fails, what comes is kept and tried again with growing waits. At most `queue` rows wait;
    beyond that the oldest are dropped and counted under `overflow_rows`.

    Input:
        in: Samples with any columns, or any message.

    Output:
        None. Counts `rows` and `messages` written, `bytes`, `retries`, `overflow_rows`, `lost_rows` (still held when
        the flow ended).

    Errors:
        Dead letter `not_a_table` for a message sent to an npz recording, `not_encodable` for one that JSON cannot hold.
        A dead letter that cannot be recorded makes no other: it is counted under these reasons, the first is logged.
        FatalError if the file cannot be made (its folder is made, but not the folder around that), or if another
        writer has the `jsonl` file.

    Source:
        https://jsonlines.org, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

    >>> FileWriteConfig(path="day.npz").format_of_file
    'npz'
    """

    path: Annotated[
        str, file_path("The file to write; its ending .jsonl or .npz tells the format.", written=True, parts=".npz")
    ]
    format: Annotated[
        Literal["jsonl", "npz"] | None, Meta(description="The format, for a path with another ending.")
    ] = None
    max_rows: Annotated[int, Meta(ge=1, le=10_000_000, description="Rows after which a part (npz) is full.")] = 200_000
    queue: Annotated[
        int, Meta(ge=1, le=100_000_000, description="Rows held while the disk is away; the oldest drop first.")
    ] = 500_000

    def refusals(self) -> Iterator[FieldError]:
        yield from path_refusals(self.path)
        if self.format is None and Path(self.path).suffix not in SUFFIXES:
            text = f"`path` ends in {' or '.join(SUFFIXES)}, or give `format`"
            yield FieldError(text, "path", "format", got=f"'{self.path}'")

    @property
    def format_of_file(self) -> Literal["jsonl", "npz"]:
        return self.format or SUFFIXES[Path(self.path).suffix]


class JsonLinesFile:
    """A file of JSON lines, locked while it is open. After a failed write the file ends where it ended before."""

    def __init__(self, file: Path, context: Context) -> None:
        self._file = file
        self._counters = context.counters
        self._descriptor: int | None = None
        self._end = 0
        self._is_named = False
        """Whether the name in its folder survives a power failure."""

    def open(self) -> None:
        make_folder_for(self._file)
        try:
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            # Before its end is looked for: two writers would each write over what the other wrote.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = os.lseek(self._descriptor, 0, os.SEEK_END)
            if self._end and os.pread(self._descriptor, 1, self._end - 1) != b"\n":
                self._append(b"\n")  # a crash cut the last line off; it must not spoil the next
        except BlockingIOError as error:
            self.close()
            raise FatalError(f"{self._file}: another node or program writes to this file") from error
        except OSError as error:
            self.close()
            raise RetryableError(f"{self._file}: {error.strerror}") from error

    def write(self, batch: deque[WireMessage]) -> None:
        if self._descriptor is None:
            self.open()
        lines = [encode_lines(m) if isinstance(m, Samples) else encode_message(m) + b"\n" for m in batch]
        data = b"".join(lines)
        try:
            self._append(data)
        except OSError as error:
            self._cut_back()
            raise RetryableError(f"{self._file}: {error.strerror}") from error
        _count(self._counters, batch, len(data))
        batch.clear()

    def _append(self, data: bytes) -> None:
        assert self._descriptor is not None
        rest = memoryview(data)
        while rest:
            rest = rest[os.pwrite(self._descriptor, rest, self._end + len(data) - len(rest)) :]
        self._end += len(data)

    def _cut_back(self) -> None:
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, self._end)
        except OSError:
            self.close()  # opened anew for the next attempt, it ends its torn line first

    def sync(self) -> None:
        if self._descriptor is None:
            return
        try:
            os.fsync(self._descriptor)
            if not self._is_named:
                sync_folder(self._file.parent)
                self._is_named = True
        except OSError as error:
            raise RetryableError(f"{self._file}: {error.strerror}") from error

    def close(self) -> None:
        self._is_named = False
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@dataclass(slots=True)
class _OpenPart:
    """Rows of a part that is not full."""

    batches: list[Samples] = field(default_factory=list)
    rows: int = 0

    def add(self, samples: Samples) -> None:
        self.batches.append(samples)
        self.rows += samples.rows


class NpzParts:
    """A recording in npz parts. Holds the rows of parts that are not full, by their columns."""

    def __init__(self, file: Path, max_rows: int, context: Context) -> None:
        self._file = file
        self._max_rows = max_rows
        self._context = context
        self._next = 1
        self._open_parts: dict[frozenset[str], _OpenPart] = {}

    def open(self) -> None:
        make_folder_for(self._file)
        parts = part_files(self._file)
        self._next = 1 + (part_number(parts[-1]) if parts else 0)

    def write(self, batch: deque[WireMessage]) -> None:
        while batch:
            samples = batch[0]
            assert isinstance(samples, Samples)
            part = self._open_parts.setdefault(frozenset(samples.columns), _OpenPart())
            if part.rows + samples.rows >= self._max_rows:
                # Taken out of `batch` only when the part is on the disk: what is left there is tried again.
                self._save([*part.batches, samples])
                del self._open_parts[frozenset(samples.columns)]
            else:
                part.add(samples)
            batch.popleft()

    def sync(self) -> None:
        for columns, part in list(self._open_parts.items()):
            if part.rows:
                self._save(part.batches)
            del self._open_parts[columns]

    def _save(self, rows: list[Samples]) -> None:
        """Write a whole part or nothing: under another name first, and to the disk."""
        part = part_file(self._file, self._next)
        # A name that no other writer of this recording has.
        unfinished = part.with_name(f"{part.name}.{secrets.token_hex(4)}.unfinished")
        try:
            with unfinished.open("xb") as file:
                write_npz(file, join_samples(rows))
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            self._name(unfinished)
        except OSError as error:
            raise RetryableError(f"{part}: {error.strerror}") from error
        finally:
            unfinished.unlink(missing_ok=True)
        _count(self._context.counters, rows, size)

    def _name(self, unfinished: Path) -> None:
        """Give a finished part the next number that is free. Never takes the place of another file."""
        while True:
            part = part_file(self._file, self._next)
            self._next += 1
            try:
                _link(unfinished, part)
            except FileExistsError:
                self._context.log.warning("%s: made by another writer meanwhile; the next number is tried", part)
                continue
            except OSError:
                self._next -= 1
                raise
            return

    def close(self) -> None:
        held = sum(part.rows for part in self._open_parts.values())
        self._open_parts.clear()
        if held:
            self._context.counters.add("lost_rows", held)
            self._context.log.error("%s: %d rows could not be written and are lost", self._file, held)


def _link(file: Path, name: Path) -> None:
    """Give `file` another name. FileExistsError if that is taken: a rename would destroy what has it."""
    try:
        os.link(file, name)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        name.open("xb").close()  # the name is ours from here on
        file.replace(name)


def _count(counters: Counters, items: Sequence[WireMessage], size: int) -> None:
    counters.add("bytes", size)
    counters.add("rows", sum(item.rows for item in items if isinstance(item, Samples)))
    counters.add("messages", sum(not isinstance(item, Samples) for item in items))


class FileWrite:
    """The sink. The writer's thread alone uses the file."""

    def __init__(self, config: FileWriteConfig, context: Context) -> None:
        self._context = context
        file = context.resolve(config.path)
        self._unrecorded: set[str] = set()
        """Reasons for which a dead letter was not recorded."""
        self._only_samples = config.format_of_file == "npz"
        target: Target[WireMessage] = (
            NpzParts(file, config.max_rows, context) if self._only_samples else JsonLinesFile(file, context)
        )
        self._writer = Writer(
            target,
            context,
            rows_of=lambda item: item.rows if isinstance(item, Samples) else 1,
            queue_rows=config.queue,
            every_s=WRITE_EVERY_S,
            large_rows=LARGE_ROWS,
        )

    def open(self) -> None:
        self._writer.start()

    def write(self, messages: Sequence[WireMessage]) -> None:
        self._writer.put([message for message in messages if self._can_take(message)])

    def _can_take(self, message: WireMessage) -> bool:
        if isinstance(message, Samples):
            return message.rows > 0
        return self._can_take_message(message)

    def _can_take_message(self, message: Message) -> bool:
        name = type(message).__name__
        try:
            payload = encode_message(message)
        except (ValueError, OverflowError) as error:
            self._refuse(message, "not_encodable", f"a {name}: {error}", b"")
            return False
        if self._only_samples:
            self._refuse(message, "not_a_table", f"a {name} does not fit into a table of samples (npz)", payload)
        return not self._only_samples

    def _refuse(self, message: Message, reason: str, text: str, payload: bytes) -> None:
        if not isinstance(message, DeadLetter):
            self._context.dead_letter(reason, text, payload)
            return
        # A dead letter about a dead letter would come back here by `from: dead_letters`, without end.
        self._context.counters.add(reason)
        if reason not in self._unrecorded:
            self._unrecorded.add(reason)
            self._context.log.warning("a dead letter of node '%s' is not recorded: %s", message.node, text)

    def progress(self) -> Progress:
        taken, durable = self._writer.progress()
        return Progress(taken, taken if self._only_samples else durable)

    def hurry(self) -> None:
        if not self._only_samples:  # a part is full after hours perhaps: nobody could wait for that
            self._writer.hurry()

    def flush(self, timeout_s: float) -> bool:
        return self._writer.flush(timeout_s)

    def close(self) -> None:
        self._writer.close()


def open_sink(config: FileWriteConfig, context: Context) -> FileWrite:
    return FileWrite(config, context)


NODE = SinkNode(
    kind="file_write",
    config=FileWriteConfig,
    inputs={DEFAULT_PORT: Input(accepts=ANY)},
    open=open_sink,
    delays=lambda _config: Delays(lag_s=WRITE_EVERY_S),
)
