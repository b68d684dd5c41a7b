"""`parquet`: a history in Parquet files, one for each day."""

from __future__ import annotations

import fcntl
import importlib
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_connectors.folders import make_folder_for, path_refusals
from edgeflex_connectors.store import (
    EARLIEST_NS,
    LATEST_NS,
    MOST_VALUES,
    NewerStoreError,
    NoStoreError,
    NotStorable,
    Refused,
    Series,
    Span,
    StoreConfig,
    StoredMessage,
    WindowTooLargeError,
    check_folder,
    probe_store,
)
from edgeflex_connectors.store_rows import Values, rows_without, table_of_rows, values_of
from edgeflex_flow.disk import sync_folder
from edgeflex_flow.errors import FatalError, FieldError, RetryableError, how_to_install
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import ConnectionNode, Context, Probe
from edgeflex_flow.node import path as file_path

T = TypeVar("T")

SCHEMA_VERSION = 1
DAY_NS = 86_400_000_000_000
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
FACTS = "store.json"
SAMPLES, MESSAGES = "samples", "messages"

PART = re.compile(r"^(\d{4}-\d\d-\d\d)(?:\.(\d{12})\.(\d))?\.parquet$")
UNFINISHED = re.compile(r"^\.\d{4}-\d\d-\d\d\..*parquet\.\d+$")
"""What a program that was killed leaves behind."""
PARTS_TO_MERGE = 16
"""So many parts of one level become one of the next, so that a row is written again a few times only."""
SETTLED_NS = 3_600_000_000_000
"""How long after its end a day becomes one file: rows come late."""
MERGE_NS = 600_000_000_000
"""The time that is merged at once, which bounds memory and makes a row group."""
READ_ATTEMPTS = 20


class ParquetConfig(StoreConfig, frozen=True, kw_only=True):
    """A history in Parquet files, for tools that read those: one file for each day (UTC) and kind, in one folder.

    `samples/2026-05-01.parquet` has one row for each value: `time` (UTC, nanoseconds), `device`, `quantity` (a column
    such as `frequency_hz`), `value`, `quality`; `messages/…` has `time`, `type`, `id`, `device` and `body` (JSON);
    `mean_1s/…` is as `samples`, with what a down-sampling rule made. Each commit is a part of its day, such as
    `2026-05-01.000000000001.0.parquet`, that appears whole or not at all. Parts are merged as they become many, and all
    of a day an hour after its end. Until then a row that was written again may stand in two of them: the one in the
    part with the higher number counts.

    A commit makes a file for each day that it has rows of, which takes some 20 ms. Devices whose time tags are
    scattered would hold up all others, so it takes samples of `days_per_commit` days at most, and messages of as many.
    Raise that to fill in a history of which a commit holds more days, such as hourly values.

    A missing value (NaN) makes no row and leaves a value that is stored already as it is. `keep` deletes whole days.
    Give `store_write` a `commit_every` of some seconds: each commit is a file. Several programs may write to one folder
    on a local file system.

    Input:
        None: nodes name the connection in their field `store`.

    Output:
        None. Counts `not_storable`: messages without a time; values and messages of more days than a commit takes.

    Errors:
        FatalError: the folder cannot be made, holds a store of a newer version or something else, or a file in it is
        damaged. A full disk or an input/output error is tried again.

    Source:
        https://parquet.apache.org/docs/file-format/

    >>> ParquetConfig(path="history").needs_upkeep
    True
    """

    path: Annotated[
        str, file_path("Folder of the store; made, in a folder that exists, if it does not exist.", example="history")
    ]
    days_per_commit: Annotated[
        int, Meta(ge=1, le=100_000, description="Days of which one commit takes rows: those of which it has the most.")
    ] = 31

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        yield from path_refusals(self.path)

    @property
    def hurries(self) -> bool:
        return False  # each transaction makes a file

    @property
    def needs_upkeep(self) -> bool:
        """Parts are to be merged."""
        return True


class _Facts(msgspec.Struct):
    """What store.json holds."""

    version: int = SCHEMA_VERSION
    made_until_ns: dict[str, int] = {}


class _File(NamedTuple):
    """A file of a day. In order of age: the whole day, then parts by number; of one number the merged one last."""

    day: str
    number: int
    level: int
    path: Path


class _Rows(NamedTuple):
    """Two columns that are a row's key beside its time, and the others."""

    keys: tuple[str, str]
    others: tuple[str, ...]


KINDS = {MESSAGES: _Rows(("type", "id"), ("device", "body"))}
VALUES = _Rows(("device", "quantity"), ("value", "quality"))


def _day_of(time_ns: int) -> str:
    return date.fromordinal(EPOCH_ORDINAL + time_ns // DAY_NS).isoformat()


def _begin_of(day: str) -> int:
    return (date.fromisoformat(day).toordinal() - EPOCH_ORDINAL) * DAY_NS


def _kind_of(series: Series | None) -> str:
    return SAMPLES if series is None else f"{series.how}_{series.every_ns / 1e9:.9g}s"


class ParquetStore:
    """The store in a folder. Used by one thread at a time."""

    def __init__(self, config: ParquetConfig, context: Context) -> None:
        self._folder = context.resolve(config.path)
        self._context = context
        self._days_per_commit = config.days_per_commit
        self._arrow, self._parquet = _libraries()
        self._is_open = False
        self._not_storable = NotStorable(str(self._folder), context)
        self._folders: set[str] = set()
        """Kinds whose folders are on the disk."""

    # Files ----------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        if self._is_open:
            return
        with self._translated():
            make_folder_for(self._folder / FACTS)
            with self._lock():
                if self._facts() is None:
                    others = sorted(each.name for each in self._folder.iterdir() if not each.name.startswith("."))
                    if others:
                        raise FatalError(
                            f"{self._folder}: belongs to another program: it holds {', '.join(others[:5])}"
                        )
                    self._put_facts(_Facts())
        self._is_open = True

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._arrow.ArrowInvalid as error:
            raise FatalError(f"{self._folder}: damaged: {error}") from error
        except OSError as error:
            raise RetryableError(f"{self._folder}: {error.strerror or error}") from error

    @contextmanager
    def _lock(self, name: str = ".lock", *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock that other programs respect; whether it is held."""
        with (self._folder / name).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True  # closing the file gives it back

    def _facts(self) -> _Facts | None:
        """What the folder is; None if it is no store. FatalError if it is too new."""
        try:
            content = (self._folder / FACTS).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            facts = msgspec.json.decode(content, type=_Facts)
        except msgspec.DecodeError as error:
            raise FatalError(f"{self._folder / FACTS}: damaged: {error}") from error
        if facts.version > SCHEMA_VERSION:
            raise NewerStoreError(str(self._folder), facts.version, SCHEMA_VERSION)
        return facts

    def _put_facts(self, facts: _Facts) -> None:
        self._put(self._folder / FACTS, lambda file: file.write_bytes(msgspec.json.encode(facts)))

    def _put(self, file: Path, write: Callable[[Path], object]) -> None:
        """Make a file that is there whole and durably, or not at all."""
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            write(unfinished)
            _to_disk(unfinished)
            unfinished.replace(file)
            sync_folder(file.parent)
        finally:
            unfinished.unlink(missing_ok=True)

    def _files(self, kind: str) -> dict[str, list[_File]]:
        """Files by day, days in order, the files of each from the oldest to the newest."""
        days: dict[str, list[_File]] = {}
        folder = self._folder / kind
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            match = PART.match(name)
            if match:
                file = _File(match[1], int(match[2] or -1), int(match[3] or 0), folder / name)
                days.setdefault(file.day, []).append(file)
        return {day: sorted(files, key=lambda each: (each.number, each.level)) for day, files in sorted(days.items())}

    # Writing --------------------------------------------------------------------------------------------------------

    def write(self, samples: Sequence[Samples], messages: Sequence[StoredMessage]) -> Refused:
        self.open()
        refused = Refused()
        devices, columns = values_of(samples)
        some = self._of_some_days(columns, refused)
        taken = self._taken(messages, refused)
        with self._translated():
            tables = [*self._value_tables(SAMPLES, devices, some), *self._message_tables(taken)]
            with self._new_parts(tables):
                pass
        self._not_storable.tell(refused)
        return refused

    def _of_some_days(self, columns: Sequence[Values], refused: Refused) -> Sequence[Values]:
        """The values of as many days as a commit may hold."""
        if not columns:
            return columns
        days = self._days(np.concatenate([values.time_ns for values in columns]))
        if days is None:
            return columns
        kept = [values.only(np.isin(values.time_ns // DAY_NS, days)) for values in columns]
        lost = [values.only(~np.isin(values.time_ns // DAY_NS, days)) for values in columns]
        refused.add_values(sum(len(values.row) for values in lost), f"values of {self._too_many_days()}")
        refused.rows = rows_without(lost, kept)
        return [values for values in kept if len(values.row)]

    def _taken(self, messages: Sequence[StoredMessage], refused: Refused) -> list[StoredMessage]:
        """The messages that have a time, of as many days as a commit may hold."""
        timed = [(message, message.time_ns) for message in messages if message.time_ns is not None]
        for _ in range(len(messages) - len(timed)):
            refused.add_message("a message without a time")
        days = self._days(np.array([time_ns for _, time_ns in timed], dtype=np.int64))
        if days is None:
            return [message for message, _ in timed]
        taken = [message for message, time_ns in timed if time_ns // DAY_NS in days]
        refused.messages += len(timed) - len(taken)
        refused.reasons.append((len(timed) - len(taken), f"messages of {self._too_many_days()}"))
        return taken

    def _days(self, time_ns: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The days, since 1970, of which a commit takes rows: those with the most, of equal ones the later. None for
        all of them."""
        if not len(time_ns) or time_ns.max() // DAY_NS - time_ns.min() // DAY_NS < self._days_per_commit:
            return None  # as most are
        days, rows = np.unique(time_ns // DAY_NS, return_counts=True)
        if len(days) <= self._days_per_commit:
            return None
        chosen: NDArray[np.int64] = days[np.lexsort((days, rows))[-self._days_per_commit :]]
        return chosen

    def _too_many_days(self) -> str:
        return f"more days than the {self._days_per_commit} of 'days_per_commit'"

    def write_series(self, series: Series, values: Sequence[Samples], until_ns: int) -> None:
        self.open()
        kind = _kind_of(series)
        with self._translated(), self._new_parts(self._value_tables(kind, *values_of(values))):
            facts = self._facts() or _Facts()
            if until_ns > facts.made_until_ns.get(kind, EARLIEST_NS):
                facts.made_until_ns[kind] = until_ns
                self._put_facts(facts)

    def _value_tables(self, kind: str, devices: Sequence[str], columns: Sequence[Values]) -> list[tuple[str, Any]]:
        """The table of the values, with its kind, if there are any."""
        if not columns:
            return []
        lengths = [len(values.value) for values in columns]
        names = [values.column for values in columns]
        quantity = np.repeat(np.arange(len(columns), dtype=np.int32), lengths)
        table = self._arrow.table(
            {
                "time": self._times(np.concatenate([values.time_ns for values in columns])),
                "device": self._named(np.concatenate([values.device for values in columns]), devices),
                "quantity": self._named(quantity, names),
                "value": np.concatenate([values.value for values in columns]),
                "quality": np.concatenate([values.quality for values in columns]),
            }
        )
        return [(kind, table)]

    def _times(self, time_ns: NDArray[np.int64]) -> Any:
        return self._arrow.array(time_ns).cast(self._arrow.timestamp("ns", "UTC"))

    def _named(self, codes: NDArray[Any], names: Sequence[str]) -> Any:
        return self._arrow.DictionaryArray.from_arrays(codes.astype(np.int32), self._arrow.array(names, "string"))

    def _message_tables(self, messages: Sequence[StoredMessage]) -> list[tuple[str, Any]]:
        if not messages:
            return []
        text = self._arrow.string()
        table = self._arrow.table(
            {
                "time": self._times(np.array([each.time_ns for each in messages], dtype=np.int64)),
                "type": self._arrow.array([each.type for each in messages], text),
                "id": self._arrow.array([each.id for each in messages], text),
                "device": self._arrow.array([each.device for each in messages], text),
                "body": self._arrow.array([each.body.decode() for each in messages], text),
            }
        )
        return [(MESSAGES, table)]

    @contextmanager
    def _new_parts(self, tables: Sequence[tuple[str, Any]]) -> Iterator[None]:
        """Put the rows of each kind as one new part of each of their days, and hold the lock. No part is left if one of
        them, or what is done meanwhile, fails: rows that are written again would stand in one more part each time."""
        made: list[Path] = []
        try:
            for kind, table in tables:
                self._make_folder(kind)
                self._write_parts(kind, table, made)
            with self._lock():
                # One by one: a name that was given is taken back if the next one fails.
                made.extend(self._with_number(file) for file in tuple(made))
                for kind, _ in tables:
                    sync_folder(self._folder / kind)
                yield
        except BaseException:
            for file in made:
                with suppress(OSError):
                    file.unlink(missing_ok=True)
            raise

    def _write_parts(self, kind: str, table: Any, made: list[Path]) -> None:
        """Write the rows of each day durably into a file that nobody sees yet, and add it to those that were made."""
        table, time_ns = self._in_order(kind, table)
        days = time_ns // DAY_NS
        edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
        for start, end in pairwise(edges):
            span = Span(int(time_ns[start]), int(time_ns[end - 1]))
            file = self._folder / kind / f".{_day_of(span.first_ns)}.{uuid.uuid4().hex}.parquet.{os.getpid()}"
            made.append(file)
            self._write_file(file, [table.slice(start, end - start)], span)
            _to_disk(file)

    def _with_number(self, unfinished: Path) -> Path:
        """Make a file the newest part of its day. Under the lock."""
        day = unfinished.name.split(".")[1]
        files = self._files(unfinished.parent.name).get(day, [])
        number = files[-1].number + 1 if files else 0
        return unfinished.replace(unfinished.with_name(f"{day}.{max(number, 0):012d}.0.parquet"))

    def _make_folder(self, kind: str) -> None:
        """Make the folder of a kind, durably even if a program made it that ended before it could say so."""
        folder = self._folder / kind
        if kind not in self._folders or not folder.is_dir():
            folder.mkdir(exist_ok=True)
            sync_folder(self._folder)
            self._folders.add(kind)

    def _write_file(self, file: Path, tables: Iterator[Any] | list[Any], span: Span) -> None:
        writer = None
        try:
            for table in tables:
                if writer is None:
                    schema = table.schema.with_metadata({"first_ns": str(span.first_ns), "last_ns": str(span.last_ns)})
                    writer = self._parquet.ParquetWriter(file, schema, compression="zstd")
                writer.write_table(table.cast(writer.schema))
        finally:
            if writer is not None:
                writer.close()

    def _in_order(self, kind: str, table: Any) -> tuple[Any, NDArray[np.int64]]:
        """Rows in order of time and key, each key once: of equal ones the last. And their times."""
        rows = KINDS.get(kind, VALUES)
        time_ns = _numbers(table["time"].cast("int64"))
        first, second = (_codes(table[name]) for name in rows.keys)
        order = np.lexsort((second, first, time_ns))
        time_ns, first, second = time_ns[order], first[order], second[order]
        kept = np.ones(len(order), dtype=bool)
        kept[:-1] = (time_ns[1:] != time_ns[:-1]) | (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        return table.take(order[kept]), time_ns[kept]

    def sync(self) -> None:
        """Nothing: every file that was written is on the disk."""

    # Reading --------------------------------------------------------------------------------------------------------

    def read(
        self,
        columns: Sequence[str] | None = None,
        begin_ns: int = EARLIEST_NS,
        end_ns: int = LATEST_NS,
        devices: Sequence[str] | None = None,
        *,
        series: Series | None = None,
        most_values: int = MOST_VALUES,
    ) -> Samples:
        """See `Store`. FatalError for a folder that does not exist or is no store."""
        wanted = [("quantity", columns), ("device", devices)]
        filters = [(name, "in", set(names)) for name, names in wanted if names is not None]
        empty = any(names is not None and not names for _, names in wanted)
        kind = _kind_of(series)
        found = None if empty else self._window(kind, begin_ns, end_ns, filters, most_values)
        names = tuple(columns if columns is not None else ())
        known = tuple(devices if devices is not None else ())
        if found is None:
            return table_of_rows(*_NO_ROWS, names, known)
        table, time_ns = self._in_order(kind, found)
        names = names or tuple(_texts(table["quantity"]))
        known = known or tuple(_texts(table["device"]))
        place, code = _places(table["quantity"], names), _places(table["device"], known)
        order = np.lexsort((time_ns, place, code))
        return table_of_rows(
            code[order],
            place[order],
            time_ns[order],
            _numbers(table["value"])[order],
            _numbers(table["quality"])[order],
            names,
            known,
        )

    def _window(
        self, kind: str, begin_ns: int, end_ns: int, filters: Sequence[Any] = (), most_rows: int = MOST_VALUES
    ) -> Any:
        """All rows of the time, the oldest writes first; None if there are none."""

        def read() -> Any:
            tables, rows = [], 0
            for file in self._files_between(kind, begin_ns, end_ns):
                tables.append(self._rows_between(file, begin_ns, end_ns, filters))
                rows += tables[-1].num_rows
                if rows > most_rows:
                    text = f"{self._folder}: holds more than {most_rows} values of that time; read a shorter one"
                    raise WindowTooLargeError(text)
            return self._arrow.concat_tables(tables).unify_dictionaries() if rows else None

        return self._reading(read)

    def _files_between(self, kind: str, begin_ns: int, end_ns: int) -> Iterator[_File]:
        for day, files in self._files(kind).items():
            if _begin_of(day) < end_ns and begin_ns < _begin_of(day) + DAY_NS:
                for file in files:
                    span = self._span_of(file)
                    if span.first_ns < end_ns and begin_ns <= span.last_ns:
                        yield file

    def _span_of(self, file: _File) -> Span:
        facts = self._parquet.read_metadata(file.path).metadata or {}
        try:
            return Span(int(facts[b"first_ns"]), int(facts[b"last_ns"]))
        except KeyError:
            raise FatalError(f"{file.path}: was not written by this program") from None

    def _rows_between(self, file: _File, begin_ns: int, end_ns: int, filters: Sequence[Any] = ()) -> Any:
        stamp = self._arrow.timestamp("ns", "UTC")
        # The first time of all would be no time for Arrow.
        begin, end = (self._arrow.scalar(max(each, EARLIEST_NS + 1), stamp) for each in (begin_ns, end_ns))
        conditions = [("time", ">=", begin), ("time", "<", end), *filters]
        return self._parquet.read_table(file.path, filters=conditions, partitioning=None)

    def _reading(self, read: Callable[[], T]) -> T:
        """What `read` gives; again, when files were merged or deleted meanwhile."""
        with self._translated():
            for attempt in range(READ_ATTEMPTS):
                if self._facts() is None:
                    raise NoStoreError(f"{self._folder}: there is no store in it")
                try:
                    return read()
                except FileNotFoundError:
                    if attempt == READ_ATTEMPTS - 1:
                        raise
        raise AssertionError

    def read_messages(self, types: Sequence[str], begin_ns: int, end_ns: int) -> list[StoredMessage]:
        found = self._window(MESSAGES, begin_ns, end_ns, [("type", "in", set(types))]) if types else None
        if found is None:
            return []
        table, time_ns = self._in_order(MESSAGES, found)
        rows = zip(
            time_ns.tolist(), *(table[name].to_pylist() for name in ("type", "id", "device", "body")), strict=True
        )
        messages = [
            StoredMessage(type=kind, id=key, time_ns=at_ns, device=device, body=body.encode())
            for at_ns, kind, key, device, body in rows
        ]
        return sorted(messages, key=lambda each: (each.time_ns, each.type, each.id))

    def span(
        self, begin_ns: int = EARLIEST_NS, end_ns: int = LATEST_NS, *, series: Series | None = None
    ) -> Span | None:
        def read() -> Span | None:
            ends = [self._end_of(_kind_of(series), begin_ns, end_ns, last=last) for last in (False, True)]
            return None if ends[0] is None or ends[1] is None else Span(ends[0], ends[1])

        return self._reading(read)

    def _end_of(self, kind: str, begin_ns: int, end_ns: int, *, last: bool) -> int | None:
        """The first or last time of the window."""
        for _, files in sorted(self._files(kind).items(), reverse=last):
            times: list[int] = []
            for file in files:
                span = self._span_of(file)
                if begin_ns <= span.first_ns and span.last_ns < end_ns:
                    times.append(span.last_ns if last else span.first_ns)
                elif span.first_ns < end_ns and begin_ns <= span.last_ns:
                    inside = _numbers(self._rows_between(file, begin_ns, end_ns)["time"].cast("int64"))
                    times += [int(inside.max() if last else inside.min())] if len(inside) else []
            if times:
                return max(times) if last else min(times)
        return None

    def last_message_ns(self, end_ns: int = LATEST_NS) -> int | None:
        return self._reading(lambda: self._end_of(MESSAGES, EARLIEST_NS, end_ns, last=True))

    def made_until(self, series: Series) -> int | None:
        self.open()
        with self._translated():
            facts = self._facts()
        return None if facts is None else facts.made_until_ns.get(_kind_of(series))

    # Upkeep ---------------------------------------------------------------------------------------------------------

    def delete(self, what: Series | Literal["samples", "messages"], before_ns: int) -> int:
        """Deletes the files of days that are over by then."""
        self.open()
        kind = what if isinstance(what, str) else _kind_of(what)
        deleted = 0
        with self._translated():
            for day, files in self._files(kind).items():
                if _begin_of(day) + DAY_NS <= before_ns:
                    deleted += self._delete_files(files)
        return deleted

    def _delete_files(self, files: Sequence[_File]) -> int:
        rows = 0
        for file in files:
            rows += self._parquet.read_metadata(file.path).num_rows
            file.path.unlink()
        return rows

    def tidy(self) -> None:
        """Merge parts that are many, and all of the days that are over."""
        self.open()
        over_ns = self._context.clock.now_ns() - SETTLED_NS
        with self._translated(), self._lock(".merge", wait=False) as held:
            if not held:
                return  # another program does it
            for folder in sorted(each for each in self._folder.iterdir() if each.is_dir()):
                self._clear(folder)
                for day, files in self._files(folder.name).items():
                    if _begin_of(day) + DAY_NS <= over_ns:
                        if len(files) > 1 or files[0].number >= 0:
                            self._merge(files, folder / f"{day}.parquet")
                    else:
                        self._merge_levels(day, files)

    def _clear(self, folder: Path) -> None:
        """Delete what was not finished and is not worked on any more."""
        old_s = (self._context.clock.now_ns() - SETTLED_NS) / 1e9
        for file in folder.iterdir():
            if UNFINISHED.match(file.name) and file.stat().st_mtime < old_s:
                file.unlink(missing_ok=True)

    def _merge_levels(self, day: str, files: Sequence[_File]) -> None:
        for level in range(9):
            parts = [file for file in files if file.number >= 0 and file.level == level]
            if len(parts) >= PARTS_TO_MERGE:
                name = f"{day}.{parts[-1].number:012d}.{level + 1}.parquet"
                self._merge(parts, parts[-1].path.with_name(name))

    def _merge(self, files: Sequence[_File], into: Path) -> None:
        """Put rows of some files of one day into one. The oldest goes first: if the program ends meanwhile, what is
        left over stands in a newer file as well."""
        kind = into.parent.name
        spans = [self._span_of(file) for file in files]
        whole = Span(min(each.first_ns for each in spans), max(each.last_ns for each in spans))

        def merged() -> Iterator[Any]:
            for begin_ns in range(whole.first_ns // MERGE_NS * MERGE_NS, whole.last_ns + 1, MERGE_NS):
                end_ns = begin_ns + MERGE_NS
                chosen = [
                    self._rows_between(file, begin_ns, end_ns)
                    for file, span in zip(files, spans, strict=True)
                    if span.first_ns < end_ns and begin_ns <= span.last_ns
                ]
                if any(table.num_rows for table in chosen):
                    yield self._in_order(kind, self._arrow.concat_tables(chosen).unify_dictionaries())[0]

        self._put(into, lambda place: self._write_file(place, merged(), whole))
        for file in files:
            if file.path != into:
                file.path.unlink()

    def close(self) -> None:
        self._is_open = False


def _to_disk(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


_NO_ROWS = (
    np.empty(0, dtype=np.int64),
    np.empty(0, dtype=np.int64),
    np.empty(0, dtype=np.int64),
    np.empty(0, dtype=np.float64),
    np.empty(0, dtype=np.uint16),
)


def _numbers(column: Any) -> NDArray[Any]:
    found: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return found


def _encoded(column: Any) -> Any:
    """A column of texts as codes and their dictionary, each text in it once."""
    if hasattr(column.type, "index_type"):
        return column.unify_dictionaries().combine_chunks()
    return column.combine_chunks().dictionary_encode()


def _codes(column: Any) -> NDArray[np.int64]:
    """Numbers that are equal where the texts are."""
    return _numbers(_encoded(column).indices).astype(np.int64)


def _texts(column: Any) -> list[str]:
    """Each text of a column once, in order."""
    encoded = _encoded(column)
    texts = encoded.dictionary.to_pylist()
    return sorted(texts[code] for code in np.unique(_numbers(encoded.indices)).tolist())


def _places(column: Any, names: Sequence[str]) -> NDArray[np.int64]:
    """The place of each text among the names, all of which are there."""
    encoded = _encoded(column)
    place = {name: index for index, name in enumerate(names)}
    of_code = np.array([place.get(text, -1) for text in encoded.dictionary.to_pylist()] or [-1], dtype=np.int64)
    found: NDArray[np.int64] = of_code[_numbers(encoded.indices)]
    return found


def _libraries() -> tuple[Any, Any]:
    """pyarrow, which only those need who name such a connection."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise FatalError(f"parquet needs pyarrow: {how_to_install('parquet')}") from error


def open_store(config: ParquetConfig, context: Context) -> ParquetStore:
    return ParquetStore(config, context)


def probe(config: ParquetConfig, context: Context) -> Probe:
    check_folder(context.resolve(config.path) / FACTS)
    return probe_store(open_store(config, context))


NODE = ConnectionNode(
    kind="parquet", config=ParquetConfig, family="store", open=open_store, probe=probe, where=("path",)
)
