"""`file_replay`: samples and messages from a recording."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edgeflex_connectors.batching import DeviceTable, Row, SamplesBuilder, message_types, promise_refusals
from edgeflex_connectors.folders import path_refusals
from edgeflex_connectors.records import LineDecoder, part_files, read_npz
from edgeflex_connectors.replay import Items, Replay, Speed
from edgeflex_flow.errors import BadMessageError, FatalError, FieldError
from edgeflex_flow.messages import Message, Quality, Samples
from edgeflex_flow.node import Context, NodeConfig, SourceNode, Wire, WireMessage, at_once
from edgeflex_flow.node import path as file_path

LINES_IN_A_POLL = 10_000
"""Lines without anything wanted that one poll reads before it gives the flow its turn."""

LONGEST_LINE = 1 << 20


class FileReplayConfig(NodeConfig, frozen=True, kw_only=True):
    """Give a recording of `file_write` again: `.jsonl`, or `.npz` (one file, or the parts `name-0001.npz` …).

    Time tags stay those of the recording; every row is marked `replayed`. With `speed: max` the flow takes rows as
    fast as it can, in recorded order; with a number, that many times as fast as they were recorded (1: real time),
    paced by the time tags. Ends with the recording.

    Input:
        None: the recording.

    Output:
        Samples with `columns` (NaN where a row has only some of them), and the message types of `messages`. Counts
        `skipped`: rows without any of the columns, and messages of other types.

    Errors:
        Dead letter `bad_line`, with file and line, for a line that is malformed; `bad_file` for a part that is no
        table; the replay goes on. FatalError if there is no such file, or for an npz file that claims to hold more than
        200 times its own size (and more than 1 MiB).

    Source:
        None.

    >>> FileReplayConfig(path="day.jsonl", columns=("frequency_hz",), speed=10.0).batch_rows
    1000
    """

    path: Annotated[str, file_path("The recording: .jsonl or .npz.")]
    columns: Annotated[tuple[str, ...], Meta(description="Columns to give; each name ends in its unit.")] = ()
    messages: Annotated[tuple[str, ...], Meta(description="Types of messages to give, such as frequency_event.")] = ()
    speed: Annotated[Speed, Meta(description="max, or a multiple of real time.")] = "max"
    batch_rows: Annotated[int, Meta(ge=1, le=1_000_000, description="Most rows in one batch of samples.")] = 1000

    def refusals(self) -> Iterator[FieldError]:
        yield from path_refusals(self.path)
        yield from promise_refusals(self.columns, self.messages)
        suffix = Path(self.path).suffix
        if suffix not in {".jsonl", ".npz"}:
            yield FieldError("`path` ends in .jsonl or .npz", "path", got=f"'{self.path}'")
        if suffix == ".npz" and self.messages and not self.columns:
            text = "`columns`: an npz recording holds samples only, so name the columns to give"
            yield FieldError(text, "columns", "messages", "path")


class Recording:
    """Reads a recording batch by batch. Counts and dead-letters what it cannot or shall not give."""

    def __init__(self, config: FileReplayConfig, context: Context) -> None:
        self._config = config
        self._context = context
        file = context.resolve(config.path)
        self._files = [file] if file.is_file() else _parts(file)
        if not self._files:
            raise FatalError(f"{file}: there is no such recording")

    def items(self) -> Generator[WireMessage | None, None, None]:
        """Batches and messages in recorded order; None now and then while there is nothing to give."""
        if self._files[0].suffix == ".npz":
            yield from self._npz_items()
        else:
            yield from self._line_items(self._files[0])

    def _line_items(self, path: Path) -> Generator[WireMessage | None, None, None]:
        config = self._config
        decoder = LineDecoder(config.columns, message_types(config.messages))
        builder = SamplesBuilder(config.columns)
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
                item = self._decode(decoder, line, f"{path}:{number}")
                if isinstance(item, tuple):
                    time_ns, device, quality, values = item
                    builder.add(time_ns, device, quality | Quality.REPLAYED, values)
                if len(builder) and (len(builder) >= config.batch_rows or isinstance(item, Message)):
                    yield builder.take(received_ns=0)
                if isinstance(item, Message):
                    yield item
                elif number % LINES_IN_A_POLL == 0:
                    yield None
        if len(builder):
            yield builder.take(received_ns=0)

    def _decode(self, decoder: LineDecoder, line: bytes, place: str) -> Row | Message | None:
        if not line.strip():
            return None
        try:
            item = decoder.decode(line)
        except BadMessageError as error:
            self._context.dead_letter(error.reason, f"{place}: {error}", line)
            return None
        if item is None:
            self._context.counters.add("skipped")
        return item

    def _npz_items(self) -> Iterator[WireMessage | None]:
        devices = DeviceTable()
        for file in self._files:
            try:
                table = read_npz(file, self._config.columns, devices)
            except BadMessageError as error:
                self._context.dead_letter(error.reason, str(error), error.payload)
                continue
            if not table.columns:
                self._context.counters.add("skipped", table.rows)
                continue
            table = msgspec.structs.replace(table, quality=table.quality | np.uint16(Quality.REPLAYED))
            for start in range(0, table.rows, self._config.batch_rows):
                yield table.take(np.arange(start, min(start + self._config.batch_rows, table.rows)))


def _parts(file: Path) -> list[Path]:
    return part_files(file) if file.suffix == ".npz" and file.parent.is_dir() else []


class FileReplay(Replay):
    """The source."""

    def __init__(self, config: FileReplayConfig, context: Context) -> None:
        super().__init__(config.speed, context)
        self._config = config

    def decode_again(self, payload: bytes) -> Sequence[WireMessage]:
        """A line. Raises BadMessageError."""
        item = LineDecoder(self._config.columns, message_types(self._config.messages)).decode(payload)
        if item is None or isinstance(item, Message):
            return [] if item is None else [item]
        builder = SamplesBuilder(self._config.columns)
        builder.add(*item)
        return [builder.take(received_ns=0)]

    def _items_now(self) -> Items:
        recording = Recording(self._config, self._context)
        try:
            yield from recording.items()
        except OSError as error:
            raise FatalError(f"{self._config.path}: {error.strerror}") from error


def output(config: FileReplayConfig, _inputs: Mapping[str, Wire]) -> Wire:
    types: set[type[WireMessage]] = set(message_types(config.messages))
    if config.columns:
        types.add(Samples)
    return Wire(frozenset(types), frozenset(config.columns))


def open_source(config: FileReplayConfig, context: Context) -> FileReplay:
    return FileReplay(config, context)


NODE = SourceNode(
    kind="file_replay", config=FileReplayConfig, output=output, open=open_source, decodes=True, delays=at_once
)
