"""Recordings in capture files: C37.118 frames over UDP and TCP, decoded as `pmu_udp` decodes them.

The first voltage and the first current among the phasors of a PMU (of the positive sequence, where a CFG-3 tells)
become `voltage_v` and `current_a`. Frames of any port are taken, and data that come before their configuration too.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from edgeflex_connectors import c37118_kernel as kernel
from edgeflex_connectors.c37118 import ConfigFrame, FrameError, FrameType, Phasor, PmuConfig
from edgeflex_connectors.c37118_fragments import FragmentedConfigs
from edgeflex_connectors.c37118_header import CONFIG_TYPES, SYNC_BYTE
from edgeflex_connectors.c37118_table import StreamTable, TableFullError
from edgeflex_connectors.capture_file import CaptureError, CaptureFile, Packet
from edgeflex_connectors.capture_packets import TCP, PacketReader, Segment, address_text
from edgeflex_connectors.capture_tcp import FrameStream
from edgeflex_connectors.pmu_frames import MOST_CELLS, REJECTED, Block, Rows, decode_block
from edgeflex_connectors.recording_table import (
    MOST_ROWS,
    READABLE,
    Recording,
    RecordingError,
    make_recording,
    read_columns,
)
from edgeflex_flow.messages import Samples, join_samples

FIRST_VOLTAGE: Final = "first voltage"
FIRST_CURRENT: Final = "first current"
OWN_NAMES: Final = {FIRST_VOLTAGE: "voltage_v", FIRST_CURRENT: "current_a"}
"""Names that these channels go by while they are decoded, and their columns."""
MOST_CONNECTIONS: Final = 4096
BLOCK_FRAMES: Final = 4096
BLOCK_BYTES: Final = 1 << 23
_POSITIVE_SEQUENCE: Final = 1


class CapturedFrame(NamedTuple):
    """A frame and who sent it."""

    peer: int
    data: bytes

    @property
    def idcode(self) -> int:
        return int.from_bytes(self.data[4:6], "big")

    @property
    def is_config(self) -> bool:
        return len(self.data) > 6 and self.data[1] >> 4 in CONFIG_TYPES


def read_capture(file: Path, channels: Mapping[str, str]) -> Recording:
    """A recording in a pcap or pcapng file. `channels`: column by the name of a phasor or analog, as in `pmu_udp`.

    Raises RecordingError, OSError.
    """
    frames = _Frames()
    try:
        capture = CaptureFile(file)
        for packet in capture.packets():
            frames.take(packet)
        frames.finish()
    except CaptureError as error:
        raise RecordingError(f"{file}: {error}") from error
    if not frames.found:
        raise RecordingError(f"{file}: no C37.118 frames in its {frames.packets} packets")
    decoder = _Decoder(file, channels, frames.peers)
    samples = decoder.decode(frames.found)
    warnings = [*filter(None, [capture.damage]), *frames.warnings(), *decoder.warnings()]
    if samples is None:
        raise RecordingError(f"{file}: no data that can be decoded: {'; '.join(warnings) or 'only configurations'}")
    return make_recording(file, samples, warnings=warnings)


class _Frames:
    """Collects the frames of a capture."""

    def __init__(self) -> None:
        self.found: list[CapturedFrame] = []
        self.peers: dict[tuple[bytes, int], int] = {}
        """Numbers, from 1, of senders: hosts over UDP (port 0), ends of connections over TCP."""
        self.packets = 0
        self._reader = PacketReader()
        self._connections: dict[tuple[bytes, int, bytes, int], tuple[int, FrameStream]] = {}
        self._refused = 0

    def take(self, packet: Packet) -> None:
        self.packets += 1
        segment = self._reader.segment(packet)
        if segment is None:
            return
        if segment.protocol == TCP:
            self._take_tcp(segment)
        elif segment.payload[:1] == bytes([SYNC_BYTE]) and len(segment.payload) > 6:
            self.found.append(CapturedFrame(self._peer(segment.source, 0), segment.payload))

    def _peer(self, host: bytes, port: int) -> int:
        return self.peers.setdefault((host, port), len(self.peers) + 1)

    def _take_tcp(self, segment: Segment) -> None:
        key = (segment.source, segment.source_port, segment.target, segment.target_port)
        connection = self._connections.get(key)
        if connection is None:
            if len(self._connections) >= MOST_CONNECTIONS:
                self._refused += 1
                return
            connection = self._connections[key] = (self._peer(*key[:2]), FrameStream())
        peer, stream = connection
        for frame in stream.add(segment.sequence, segment.payload, starts=segment.starts):
            self.found.append(CapturedFrame(peer, frame))

    def finish(self) -> None:
        for peer, stream in self._connections.values():
            self.found.extend(CapturedFrame(peer, frame) for frame in stream.finish())

    def warnings(self) -> Iterator[str]:
        gaps = sum(stream.gaps for _, stream in self._connections.values())
        if gaps:
            yield f"{gaps} gaps in TCP connections: segments that were not captured"
        if self._refused:
            yield f"more than {MOST_CONNECTIONS} TCP connections: {self._refused} segments of others left out"


class _Decoder:
    """Decodes frames with the tables and the kernel of `pmu_udp`."""

    def __init__(self, file: Path, channels: Mapping[str, str], peers: Mapping[tuple[bytes, int], int]) -> None:
        self._file = file
        self._channels = channels
        self._names = {
            number: address_text(host) + (f":{port}" if port else "") for (host, port), number in peers.items()
        }
        self._table = StreamTable(
            {}, dict(channels) | {name: own for name, own in OWN_NAMES.items() if name not in channels}
        )
        self._fragments = FragmentedConfigs()
        self._rows = Rows(0, ())
        self._batches: list[Samples] = []
        self._row_count = 0
        self._counts: Counter[str] = Counter()
        self._problems: list[str] = []
        self._unknown: Counter[tuple[int, int]] = Counter()

    def warnings(self) -> Iterator[str]:
        yield from self._problems
        for (peer, idcode), count in self._unknown.items():
            yield f"no configuration of stream {idcode} from {self._names[peer]}: {count} data frames left out"
        for reason, count in self._counts.items():
            yield f"{count} frames that cannot be used: {reason}"

    def decode(self, frames: Sequence[CapturedFrame]) -> Samples | None:
        """The rows of all frames, in the order of the capture; None when there are none."""
        for peer, config in _first_configs(frames):
            self._take_over(peer, config)
        for block in _blocks(frames):
            self._decode_block(block)
        self._give()
        return join_samples(self._batches) if self._batches else None

    def _decode_block(self, block: Block) -> None:
        status = np.zeros(block.count, dtype=np.int8)
        counts = np.zeros(kernel.COUNTS, dtype=np.int64)
        while block.next < block.count:
            self._fit_rows()
            state = decode_block(self._table, self._rows, block, status, counts)
            if state == kernel.FULL:
                self._give()
            elif state == kernel.CONFIG_FRAME:
                frame = CapturedFrame(int(block.peers[block.next]), block.frame(block.next))
                block.next += 1
                self._configure(frame)
        for code, reason in REJECTED.items():
            if counts[code]:
                self._counts[reason] += int(counts[code])
        for index in np.flatnonzero(status == kernel.UNKNOWN_IDCODE):
            self._unknown[int(block.peers[index]), block.idcode(int(index))] += 1

    def _fit_rows(self) -> None:
        capacity = max(self._table.most_rows, MOST_CELLS // len(self._table.columns))
        if self._rows.capacity < capacity or self._rows.names != self._table.columns:
            self._give()
            self._rows = Rows(capacity, self._table.columns)

    def _give(self) -> None:
        self._row_count += self._rows.filled
        if self._row_count > MOST_ROWS:
            raise RecordingError(f"{self._file}: more than {MOST_ROWS} rows")
        if self._rows.filled:
            batch = self._rows.take(self._table.devices, 0)
            read = {name: values for name, values in batch.columns.items() if name in READABLE}
            self._batches.append(read_columns(batch.with_columns(read))[0])

    def _configure(self, frame: CapturedFrame) -> None:
        try:
            config = self._fragments.decode(frame.peer, frame.data)
        except FrameError as error:
            self._counts[error.reason] += 1
            return
        if config is not None:
            self._take_over(frame.peer, config)

    def _take_over(self, peer: int, config: ConfigFrame) -> None:
        try:
            outcome = self._table.configure(peer, self._by_kind(config), self._names[peer])
        except TableFullError as error:
            raise RecordingError(f"{self._file}: more streams, devices or columns than can be read") from error
        if outcome.changes:
            self._problems.append(
                f"{', '.join(outcome.devices)} changed the configuration: {'; '.join(outcome.changes)}"
            )
        given = self._channels.values()
        own = [name for name, column in OWN_NAMES.items() if column in given]  # nobody misses these
        self._problems += [text for text in outcome.problems if not any(f"'{name}'" in text for name in own)]

    def _by_kind(self, config: ConfigFrame) -> ConfigFrame:
        return msgspec.structs.replace(config, pmus=tuple(self._with_names(pmu) for pmu in config.pmus))

    def _with_names(self, pmu: PmuConfig) -> PmuConfig:
        """The PMU with its first voltage and current called so, unless a mapping gives their columns to others."""
        phasors = list(pmu.phasors)
        sent = {phasor.name for phasor in phasors} | {analog.name for analog in pmu.analogs}
        given = {column for name, column in self._channels.items() if name in sent}
        for is_current, name in ((False, FIRST_VOLTAGE), (True, FIRST_CURRENT)):
            place = self._first(phasors, is_current=is_current)
            if place is not None and OWN_NAMES[name] not in given:
                phasors[place] = msgspec.structs.replace(phasors[place], name=name)
        return msgspec.structs.replace(pmu, phasors=tuple(phasors))

    def _first(self, phasors: Sequence[Phasor], *, is_current: bool) -> int | None:
        fitting = [
            place
            for place, phasor in enumerate(phasors)
            if phasor.is_current == is_current and phasor.name not in self._channels
        ]
        positive = [place for place in fitting if phasors[place].component == _POSITIVE_SEQUENCE]
        return next(iter(positive or fitting), None)


def _first_configs(frames: Sequence[CapturedFrame]) -> list[tuple[int, ConfigFrame]]:
    """The configuration that each stream began with, and its peer: its first CFG-2 or CFG-3, else its first CFG-1."""
    first: dict[tuple[int, int], ConfigFrame] = {}
    fragments = FragmentedConfigs()
    for frame in frames:
        config = None
        if frame.is_config:
            with contextlib.suppress(FrameError):  # counted when the frame comes in its turn
                config = fragments.decode(frame.peer, frame.data)
        if config is None:
            continue
        known = first.setdefault((frame.peer, frame.idcode), config)
        if known.kind is FrameType.CFG1 and config.kind is not FrameType.CFG1:
            first[frame.peer, frame.idcode] = config
    return [(peer, config) for (peer, _), config in first.items()]


def _blocks(frames: Sequence[CapturedFrame]) -> Iterator[Block]:
    """Frames in blocks of bounded size."""
    start = longest = 0
    for place, frame in enumerate(frames):
        longest = max(longest, len(frame.data))
        count = place - start + 1
        if count > BLOCK_FRAMES or (count > 1 and longest * count > BLOCK_BYTES):
            yield _block(frames[start:place])
            start, longest = place, len(frame.data)
    if frames:
        yield _block(frames[start:])


def _block(frames: Sequence[CapturedFrame]) -> Block:
    stride = max(len(frame.data) for frame in frames)
    data = np.zeros((len(frames), stride), dtype=np.uint8)
    for row, frame in zip(data, frames, strict=True):
        row[: len(frame.data)] = np.frombuffer(frame.data, dtype=np.uint8)
    lengths = np.array([len(frame.data) for frame in frames], dtype=np.int32)
    peers = np.array([frame.peer for frame in frames], dtype=np.uint64)
    return Block(data.reshape(-1), stride, lengths, peers, len(frames))
