"""Recorded files and stores of every form, read as what the sources of a flow would have given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeflex_connectors import recordings
from edgeflex_connectors.batching import DeviceTable, SamplesBuilder
from edgeflex_connectors.c37118_columns import without_unit
from edgeflex_connectors.npz_arrays import NpzError, open_npz
from edgeflex_connectors.recording_csv import read_csv_table
from edgeflex_connectors.recording_table import COLUMNS, RecordingError
from edgeflex_connectors.records import LineDecoder, part_files, read_npz
from edgeflex_connectors.sqlite import SqliteConfig, SqliteStore
from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS, Store
from edgeflex_connectors.store_window import pieces
from edgeflex_flow import recording
from edgeflex_flow.errors import BadMessageError, FatalError, RetryableError
from edgeflex_flow.messages import Message, Quality, Samples, join_samples, message_time_ns
from edgeflex_flow.units import conversion_factor

LINES: Final = ".jsonl"
SUFFIXES: Final = (LINES, recording.SUFFIX, *recordings.SUFFIXES)
"""Endings of the names of files that can be read."""
MOST_LINE_BYTES: Final = 1 << 20
ROWS_AT_ONCE: Final = 100_000
"""Rows of lines that are held as Python's own numbers, which take ten times the room."""


class Timed(NamedTuple):
    """A recorded message and when it came, UTC nanoseconds."""

    time_ns: int
    message: Message


class Wanted(NamedTuple):
    """What is asked of a file."""

    columns: frozenset[str]
    messages: frozenset[type[Message]]
    channels: Mapping[str, str] = {}
    """Of captures: column by the name of a phasor or analog."""
    begin_ns: int = EARLIEST_NS
    end_ns: int = LATEST_NS
    """Only begin_ns <= t < end_ns."""
    nodes: frozenset[str] = frozenset()
    """Of recordings of wires: of which nodes."""


class Content(NamedTuple):
    """What a file holds of that: rows in order of time, with the wanted columns that it has."""

    samples: Samples | None
    messages: tuple[Timed, ...] = ()
    notes: tuple[str, ...] = ()


def read_file(file: Path, wanted: Wanted) -> Content:
    """What a file holds, by the ending of its name. Raises RecordingError with the file and what is wrong with it."""
    suffix = file.suffix.lower()
    try:
        if suffix == LINES:
            content = _read_lines(file, wanted)
        elif suffix == recording.SUFFIX:
            content = _read_recording(file, wanted)
        elif recordings.SUFFIXES.get(suffix) == "store":
            content = read_store(str(file), SqliteStore(SqliteConfig(path=str(file)), file), wanted)
        elif recordings.SUFFIXES.get(suffix) == "csv":
            content = Content(read_csv_table(file))
        elif suffix == ".npz" and (parts := _table_parts(file)):
            content = _read_tables(parts, wanted)
        else:
            read = recordings.read_recording(file, channels=wanted.channels)
            samples = read.samples
            empty = [name for name in COLUMNS if np.isnan(samples.columns[name]).all()]
            content = Content(_without(samples, empty), notes=tuple(f"{file}: {text}" for text in read.warnings))
    except OSError as error:
        raise RecordingError(f"{file}: {error.strerror or error}") from error
    return _chosen(content, wanted)


def read_store(name: str, store: Store, wanted: Wanted) -> Content:
    """What a store holds. Raises RecordingError."""
    types = {str(each.__struct_config__.tag): each for each in wanted.messages}
    batches: list[Samples] = []
    messages: list[Timed] = []
    try:
        for piece in pieces(
            store,
            columns=tuple(sorted(wanted.columns)),
            types=sorted(types),
            begin_ns=wanted.begin_ns,
            end_ns=wanted.end_ns,
        ):
            if piece.samples is not None and piece.samples.rows:
                batches.append(piece.samples)
            for stored in piece.messages:
                message = msgspec.json.decode(stored.body, type=types[stored.type])
                messages.append(Timed(stored.time_ns or 0, message))
    except (FatalError, RetryableError, msgspec.MsgspecError) as error:
        raise RecordingError(f"{name}: {error}") from error
    finally:
        store.close()
    return _chosen(Content(_joined(batches), tuple(messages)), wanted)


def _table_parts(file: Path) -> list[Path]:
    """The files of a recording of `file_write`; none when it is a recording of another form."""
    files = [file] if file.is_file() else part_files(file) if file.parent.is_dir() else []
    try:
        for each in files[:1]:
            with open_npz(each) as arrays:
                return files if "time_ns" in arrays else []
    except NpzError as error:
        raise RecordingError(f"{files[0]}: {error}") from error
    raise RecordingError(f"{file}: there is no such recording")


def _read_tables(parts: Sequence[Path], wanted: Wanted) -> Content:
    devices = DeviceTable()
    tables: list[Samples] = []
    try:
        for part in parts:
            with open_npz(part) as arrays:
                there = [name for name in sorted(wanted.columns) if name in arrays]
            if there:
                tables.append(read_npz(part, there, devices))
    except (NpzError, BadMessageError, FatalError) as error:
        raise RecordingError(str(error)) from error
    return Content(join_samples(tables) if tables else None)


def _read_lines(file: Path, wanted: Wanted) -> Content:
    columns = tuple(sorted(wanted.columns))
    decoder, builder = LineDecoder(columns, tuple(wanted.messages)), SamplesBuilder(columns)
    batches: list[Samples] = []
    messages: list[Timed] = []
    bad: list[str] = []
    latest_ns = 0
    good = 0
    with file.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MOST_LINE_BYTES), b""), start=1):
            if not line.strip():
                continue
            try:
                item = decoder.decode(line)
            except BadMessageError as error:
                bad.append(f"{file}:{number}: {error}")
                continue
            good += 1
            if isinstance(item, Message):
                # One that tells no time came with what stands before it.
                latest_ns = latest_ns if (time_ns := message_time_ns(item)) is None else time_ns
                messages.append(Timed(latest_ns, item))
            elif item is not None:
                latest_ns = item[0]
                builder.add(*item)
                if len(builder) >= ROWS_AT_ONCE:
                    batches.append(builder.take(received_ns=0))
    if bad and not good:
        raise RecordingError(f"{bad[0]}; it holds no line that can be read")
    notes = (f"{bad[0]}; {len(bad)} lines like this are left out",) if bad else ()
    if len(builder):
        batches.append(builder.take(received_ns=0))
    return Content(_joined(batches), tuple(messages), notes)


def _read_recording(file: Path, wanted: Wanted) -> Content:
    columns = dict.fromkeys(wanted.nodes, wanted.columns)
    batches: list[Samples] = []
    messages: list[Timed] = []
    try:
        for given in recording.read([file], nodes=wanted.nodes, columns=columns, types=wanted.messages):
            if isinstance(given.message, Samples):
                batches.append(given.message)
            else:
                messages.append(Timed(given.at_ns, given.message))
    except recording.BadRecordingError as error:
        raise RecordingError(str(error)) from error
    return Content(_joined(batches), tuple(messages))


def _joined(batches: Sequence[Samples]) -> Samples | None:
    """All rows, without the columns that have no value in any."""
    if not batches:
        return None
    samples = join_samples(batches)
    return _without(samples, [name for name, values in samples.columns.items() if np.isnan(values).all()])


def _chosen(content: Content, wanted: Wanted) -> Content:
    """Only what is wanted, in order of time, marked as replayed."""
    samples, messages, notes = content
    if samples is not None:
        samples = samples.with_columns(dict(_fitting(samples.columns, wanted.columns)))
        there = (samples.time_ns >= wanted.begin_ns) & (samples.time_ns < wanted.end_ns)
        order = np.argsort(samples.time_ns, kind="stable")
        samples = samples.take(order[there[order]])
        samples = msgspec.structs.replace(samples, quality=samples.quality | np.uint16(Quality.REPLAYED))
    kept = [each for each in messages if wanted.begin_ns <= each.time_ns < wanted.end_ns]
    return Content(
        samples if samples is not None and samples.rows and samples.columns else None,
        tuple(sorted(kept, key=lambda each: each.time_ns)),
        notes,
    )


def _fitting(
    there: Mapping[str, NDArray[np.float64]], wanted: Iterable[str]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The wanted columns that are there, if need be in another unit."""
    for name in sorted(wanted):
        if name in there:
            yield name, there[name]
            continue
        for other, values in there.items():
            if without_unit(other) == without_unit(name):
                try:
                    yield name, values * conversion_factor(other, name)
                except ValueError:
                    continue
                break


def _without(samples: Samples, names: Iterable[str]) -> Samples:
    left_out = frozenset(names)
    return samples.with_columns({name: values for name, values in samples.columns.items() if name not in left_out})


def readable_in(folder: Path) -> list[Path]:
    """The recordings in a folder, by name; the parts of one count once."""
    found = {_whole_of(file) for file in folder.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES}
    return sorted(found)


def _whole_of(file: Path) -> Path:
    """The recording of which this file is a part, or the file itself."""
    stem, dash, number = file.stem.rpartition("-")
    is_part = file.suffix == ".npz" and dash and number.isdigit() and len(number) >= 4
    return file.with_name(f"{stem}{file.suffix}") if is_part else file
