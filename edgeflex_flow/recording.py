"""Recordings: what crossed the wires of a flow, in compressed blocks of columns.

A file begins with `MAGIC`. Blocks follow, each three unsigned 32-bit little-endian numbers, the lengths of its head and
its body and the CRC-32 of both, then the head (JSON) and the body. The first block tells what the file is about. All
others hold what happened within a short time (`turn`): what one node gave, rows or messages, when its periods were
over, or what settings it went on with; the last block of a turn tells that it is whole. So the same can be computed
again, in the same order and with the same settings. A file that was cut off, as by a loss of power, is good up to its
last whole block.

An array of a body is packed as its head says: whole numbers as differences from one to the next, in the narrowest type
that holds them; values as float32 where that loses nothing; then byte by byte of all values, compressed by Zstandard
(RFC 8878). Such bytes of measured values are alike: a row of a PMU takes a fifth of its frame.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.messages import BUILT_IN_MESSAGES, Message, Samples, join_samples, pack_messages

SUFFIX: Final = ".rec"
MAGIC: Final = b"EFXREC1\n"
FORMAT: Final = 2
NO_POLICY: Final = "default"
"""In place of a policy's version: the flow file's own value is in force."""
OLDEST_FORMAT: Final = 1
"""Without periods and settings."""
LEVEL: Final = 1
MOST_HEAD_BYTES: Final = 16 << 20
MOST_BODY_BYTES: Final = 1 << 30
MOST_ARRAY_BYTES: Final = 1 << 30
MOST_BLOCK_BYTES: Final = 1 << 31
_LENGTHS: Final = struct.Struct("<III")
_Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = dict[str, NDArray[Any]]
Begins: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""By the times at which batches were given, before which of them a new one must begin."""


class BadRecordingError(EdgeflexError):
    """A file is no recording, or is broken at a place that the text names."""


class NodeAbout(msgspec.Struct, frozen=True, kw_only=True):
    """What a recorded node is, and what it may give."""

    kind: str
    columns: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()


class About(msgspec.Struct, frozen=True, kw_only=True, tag_field="block", tag="about"):
    """What a file is about."""

    format: int = FORMAT
    flow: str
    site: str
    revision: str
    """Digest of the flow as its files said."""
    version: str
    """Of edgeflex-flow."""
    begun_ns: int
    """When this file was begun, UTC nanoseconds on the flow's clock."""
    part: int
    nodes: dict[str, NodeAbout]
    shared: bool = False
    """Of a flow on several processes: what operators gave is not in it."""
    supervised: bool = False
    """Whether somebody watches the flow's process, and moves over to other versions."""


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """An array within a body."""

    name: str
    dtype: str
    """As it is given."""
    packed: str
    """As it is packed."""
    base: int
    """The first of whole numbers."""
    length: int
    size: int
    """Bytes of the body."""


class Rows(msgspec.Struct, frozen=True, kw_only=True, tag_field="block", tag="rows"):
    """Batches of samples. The arrays `batch.*` have one value a batch, all others one a row."""

    node: str
    turn: int
    devices: tuple[str, ...]
    columns: tuple[str, ...]
    arrays: tuple[Packed, ...]


class Lines(msgspec.Struct, frozen=True, kw_only=True, tag_field="block", tag="messages"):
    """Messages: the arrays `batch.seq` and `batch.at_ns`, then all as one array of MessagePack, which knows NaN,
    as JSON does not."""

    node: str
    turn: int
    arrays: tuple[Packed, ...]
    size: int
    """Bytes of the messages, packed."""
    form: Literal["json", "msgpack"] = "json"
    """`json`: one a line, in format 1."""


class Ticks(msgspec.Struct, frozen=True, kw_only=True, tag_field="block", tag="ticks"):
    """Periods of an operator that were over: the arrays `batch.seq`, `batch.at_ns` and `batch.last`."""

    node: str
    turn: int
    arrays: tuple[Packed, ...]


class Settings(msgspec.Struct, frozen=True, kw_only=True, tag_field="block", tag="settings"):
    """What a node goes on with, from its place in the order on. Each file begins with those of all nodes."""

    node: str
    turn: int = 0
    seq: int
    at_ns: int
    kind: str
    version: str
    """Of edgeflex-flow, or of the package that the kind comes from."""
    code: str
    """First 16 hex digits of the SHA-256 of the kind's source, with the modules of its package that it is built on."""
    inputs: dict[str, tuple[str, ...]] = {}
    """By port, the nodes that it reads from."""
    config: msgspec.Raw = msgspec.Raw(b"null")
    """Of an operator, as JSON with times and quantities in base units; null of others, which may hold secrets."""
    policies: dict[str, str] = {}
    """By policy and field, the version of the policy whose value is in force, `default` where the flow's own is."""


class Reached(msgspec.Struct, frozen=True, kw_only=True, tag_field="block", tag="reached"):
    """A turn is whole: nothing of before this time is still to come."""

    turn: int
    at_ns: int
    lost_rows: int = 0
    """Rows (or messages) that were given since the recording began and are not in it."""


_Head: TypeAlias = About | Rows | Lines | Ticks | Settings | Reached
_heads = msgspec.json.Decoder(_Head)


class Given(NamedTuple):
    """What a node gave at one time."""

    seq: int
    """Grows from each to the next, over all nodes."""
    at_ns: int
    """When it was given, UTC nanoseconds on the flow's clock."""
    node: str
    message: Samples | Message


class Ticked(NamedTuple):
    """A period of an operator was over."""

    seq: int
    at_ns: int
    node: str
    last: bool
    """Not a period was over but all: nothing came any more."""


Entry: TypeAlias = Given | Ticked | Settings
"""What happened in a run, in order of `seq`."""


# Writing --------------------------------------------------------------------------------------------------------------


class Encoder:
    """Makes blocks. The same things give the same bytes."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)

    def about(self, about: About) -> bytes:
        return MAGIC + _block(about, b"")

    def settings(self, settings: Settings, turn: int = 0) -> bytes:
        return _block(msgspec.structs.replace(settings, turn=turn), b"")

    def turn(self, number: int, entries: Sequence[Entry], reached_ns: int, lost_rows: int = 0) -> bytes:
        """What happened within a short time, as a block for each node and shape."""
        rows: dict[tuple[str, tuple[str, ...]], list[Given]] = {}
        lines: dict[str, list[Given]] = {}
        ticks: dict[str, list[Ticked]] = {}
        blocks: list[bytes] = []
        for each in entries:
            if isinstance(each, Settings):
                blocks.append(self.settings(each, number))
            elif isinstance(each, Ticked):
                ticks.setdefault(each.node, []).append(each)
            elif isinstance(each.message, Samples):
                rows.setdefault((each.node, tuple(each.message.columns)), []).append(each)
            else:
                lines.setdefault(each.node, []).append(each)
        blocks += [self._rows(number, node, columns, some) for (node, columns), some in rows.items()]
        blocks += [self._lines(number, node, some) for node, some in lines.items()]
        blocks += [self._ticks(number, node, some) for node, some in ticks.items()]
        return b"".join([*blocks, _block(Reached(turn=number, at_ns=reached_ns, lost_rows=lost_rows), b"")])

    def _ticks(self, turn: int, node: str, ticks: Sequence[Ticked]) -> bytes:
        last = np.array([each.last for each in ticks], dtype=np.int8)
        packed, body = self._pack_all({**_batch(ticks), "batch.last": last})
        return _block(Ticks(node=node, turn=turn, arrays=packed), body)

    def _rows(self, turn: int, node: str, columns: tuple[str, ...], given: Sequence[Given]) -> bytes:
        batches = [each.message for each in given if isinstance(each.message, Samples)]
        joined = join_samples(batches)
        arrays: dict[str, _Array] = {
            **_batch(given),
            "batch.rows": np.array([batch.rows for batch in batches], dtype=np.int64),
            "batch.received_ns": np.array([batch.received_ns for batch in batches], dtype=np.int64),
            "time_ns": joined.time_ns,
            "device": joined.device,
            "quality": joined.quality,
            **joined.columns,
        }
        packed, body = self._pack_all(arrays)
        return _block(Rows(node=node, turn=turn, devices=joined.devices, columns=columns, arrays=packed), body)

    def _lines(self, turn: int, node: str, given: Sequence[Given]) -> bytes:
        packed, body = self._pack_all(_batch(given))
        messages = [each.message for each in given if not isinstance(each.message, Samples)]
        lines = self._compressor.compress(pack_messages(messages))
        return _block(Lines(node=node, turn=turn, arrays=packed, size=len(lines), form="msgpack"), body + lines)

    def _pack_all(self, arrays: Mapping[str, _Array]) -> tuple[tuple[Packed, ...], bytes]:
        heads, bodies = [], []
        for name, values in arrays.items():
            narrowed, base = _narrowed(values)
            body = self._compressor.compress(_by_bytes(narrowed).data) if len(narrowed) else b""
            heads.append(Packed(name, values.dtype.str, narrowed.dtype.str, base, len(values), len(body)))
            bodies.append(body)
        return tuple(heads), b"".join(bodies)


def _batch(given: Sequence[Given | Ticked]) -> dict[str, _Array]:
    return {
        "batch.seq": np.array([each.seq for each in given], dtype=np.int64),
        "batch.at_ns": np.array([each.at_ns for each in given], dtype=np.int64),
    }


def _narrowed(values: _Array) -> tuple[_Array, int]:
    """The values in a narrower type, without loss, and the first of whole numbers; none are left of those that are all
    the same.
    """
    if values.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            short = values.astype(np.float32)
        # By their bits: no NaN is another's equal.
        same = short.astype(np.float64).view(np.int64) == values.view(np.int64)
        return (short if same.all() else values), 0
    if not len(values):
        return values.astype(np.int8), 0
    first = int(values[0])
    if not (values != values[0]).any():
        return np.empty(0, dtype=np.int8), first
    wide = values.astype(np.int64, copy=False)
    differences = np.empty_like(wide)
    differences[0] = 0
    np.subtract(wide[1:], wide[:-1], out=differences[1:])
    least, most = int(differences.min()), int(differences.max())
    for dtype in (np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max:
            return differences.astype(dtype), first
    return differences, first


def _by_bytes(values: _Array) -> _Array:
    """The first bytes of all values, then the second ones …"""
    octets = np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.itemsize)
    return np.ascontiguousarray(octets.T)


def _block(head: _Head, body: bytes) -> bytes:
    encoded = msgspec.json.encode(head)
    return _LENGTHS.pack(len(encoded), len(body), zlib.crc32(body, zlib.crc32(encoded))) + encoded + body


# Reading --------------------------------------------------------------------------------------------------------------


_UNREADABLE: Final = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    zstandard.ZstdError,
    msgspec.MsgspecError,
)
_DTYPES: Final = {
    "batch.seq": "<i8",
    "batch.at_ns": "<i8",
    "batch.rows": "<i8",
    "batch.received_ns": "<i8",
    "batch.last": "|i1",
    "time_ns": "<i8",
    "device": "<i4",
    "quality": "<u2",
}
"""By array; those of columns are `<f8`."""
_PACKED: Final = frozenset(("|i1", "<i2", "<i4", "<i8", "<f4", "<f8"))


def _refuse_shapes(head: Rows | Lines | Ticks) -> None:
    """Raises ValueError for arrays that no recording has, before room is taken for any."""
    names = [each.name for each in head.arrays]
    lengths: dict[bool, set[int]] = {True: set(), False: set()}
    for each in head.arrays:
        if each.dtype != _DTYPES.get(each.name, "<f8") or each.packed not in _PACKED:
            raise ValueError(f"array '{each.name}' is of type {each.dtype}, packed as {each.packed}")
        if each.length < 0 or not -(2**63) <= each.base < 2**63:
            raise ValueError(f"array '{each.name}' claims {each.length} values from {each.base} on")
        lengths[each.name.startswith("batch.")].add(each.length)
    if sorted(names) != sorted(_arrays_of(head)) or any(len(found) > 1 for found in lengths.values()):
        raise ValueError("its arrays do not go together")
    if sum(8 * each.length for each in head.arrays) > MOST_BLOCK_BYTES:
        raise ValueError("its arrays claim more than a block holds")
    if not lengths[True] or 0 in lengths[True]:
        raise ValueError("nothing is in it")


def _arrays_of(head: Rows | Lines | Ticks) -> list[str]:
    given = ["batch.seq", "batch.at_ns"]
    if isinstance(head, Rows):
        return [*given, "batch.rows", "batch.received_ns", "time_ns", "device", "quality", *head.columns]
    return given if isinstance(head, Lines) else [*given, "batch.last"]


def _refuse_rows(head: Rows, arrays: Arrays) -> None:
    """Raises ValueError where rows are not what their batches and devices say."""
    rows, device = arrays["batch.rows"], arrays["device"]
    if (rows < 0).any() or int(rows.sum()) != len(device):
        raise ValueError("batches and rows do not go together")
    if len(device) and not 0 <= int(device.min()) <= int(device.max()) < len(head.devices):
        raise ValueError("rows are of devices that it does not name")


class Decoder:
    """Reads blocks again."""

    def __init__(self, types: Iterable[type[Message]] = BUILT_IN_MESSAGES) -> None:
        self._decompressor = zstandard.ZstdDecompressor()
        self._types = {str(each.__struct_config__.tag): each for each in types}
        self._devices: dict[tuple[str, ...], tuple[str, ...]] = {}
        """So that equal names are the same object."""

    def arrays(self, block: Block, columns: Iterable[str] | None = None) -> Arrays:
        """The arrays of a block, of columns only these, or all. Raises one of `_UNREADABLE` for what cannot be."""
        head = block.head
        assert isinstance(head, Rows | Lines | Ticks)
        left_out = frozenset[str]()
        if isinstance(head, Rows) and columns is not None:
            left_out = frozenset(head.columns).difference(columns)
        _refuse_shapes(head)
        arrays = self._unpack_all(head.arrays, block.body, left_out)
        if isinstance(head, Rows):
            _refuse_rows(head, arrays)
        return arrays

    def times(self, block: Block) -> NDArray[np.int64]:
        """When what is in a block was given."""
        assert isinstance(block.head, Rows | Lines)
        _refuse_shapes(block.head)
        every = frozenset(each.name for each in block.head.arrays)
        return self._unpack_all(block.head.arrays, block.body, every - {"batch.at_ns"})["batch.at_ns"]

    def rows(self, head: Rows, arrays: Arrays, begins: NDArray[np.bool_]) -> Iterator[Given]:
        """Batches, joined but where `begins` (a value a batch) says that a new one begins."""
        devices = self._devices.setdefault(head.devices, head.devices)
        names = [name for name in head.columns if name in arrays]
        ends = np.cumsum(arrays["batch.rows"])
        last = np.append(np.flatnonzero(begins)[1:], len(ends)) - 1
        seq, at_ns, received_ns = (arrays[f"batch.{name}"][last].tolist() for name in ("seq", "at_ns", "received_ns"))
        begin = 0
        for place, end in enumerate(ends[last].tolist()):
            there = slice(begin, end)
            begin = end
            samples = Samples(
                time_ns=arrays["time_ns"][there],
                device=arrays["device"][there],
                devices=devices,
                columns={name: arrays[name][there] for name in names},
                quality=arrays["quality"][there],
                received_ns=received_ns[place],
            )
            yield Given(seq[place], at_ns[place], head.node, samples)

    def messages(self, head: Lines, body: bytes, arrays: Arrays) -> Iterator[Given]:
        packed = self._decompress(body[len(body) - head.size :])
        module = msgspec.json if head.form == "json" else msgspec.msgpack
        each_packed = packed.split(b"\n") if head.form == "json" else msgspec.msgpack.decode(packed, type=_RAW)
        told = zip(arrays["batch.seq"].tolist(), arrays["batch.at_ns"].tolist(), each_packed, strict=True)
        for seq, at_ns, one in told:
            name = module.decode(one, type=_Tagged).type
            if name in self._types:
                yield Given(seq, at_ns, head.node, module.decode(one, type=self._types[name]))

    def _unpack_all(self, heads: Sequence[Packed], body: bytes, left_out: frozenset[str]) -> dict[str, _Array]:
        arrays: dict[str, _Array] = {}
        place = 0
        for each in heads:
            if each.name not in left_out:
                arrays[each.name] = self._unpack(each, body[place : place + each.size])
            place += each.size
        return arrays

    def _unpack(self, head: Packed, packed: bytes) -> _Array:
        narrow = np.dtype(head.packed)
        if not packed:  # all are the same
            return np.full(head.length, head.base, dtype=head.dtype)
        octets = np.frombuffer(self._decompress(packed, head.length * narrow.itemsize), dtype=np.uint8)
        values = np.ascontiguousarray(octets.reshape(narrow.itemsize, head.length).T).view(narrow).reshape(-1)
        if narrow.kind == "f":
            return values.astype(head.dtype, copy=False)
        return (np.cumsum(values.astype(np.int64)) + head.base).astype(head.dtype)

    def _decompress(self, packed: bytes, size: int | None = None) -> bytes:
        told = zstandard.frame_content_size(packed)
        if not 0 <= told <= MOST_ARRAY_BYTES or (size is not None and told != size):
            raise ValueError(f"a packed part claims {told} bytes")
        return self._decompressor.decompress(packed)


class _Tagged(msgspec.Struct):
    type: str


_RAW: Final = list[msgspec.Raw]


class Block(NamedTuple):
    """A block as it stands in a file."""

    head: _Head
    body: bytes


def blocks(file: Path) -> Iterator[Block]:
    """The blocks of a file, up to the last whole one. Raises BadRecordingError, and OSError."""
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise BadRecordingError(f"{file}: it is no recording of edgeflex-flow")
        while (block := _next_block(opened, file)) is not None:
            yield block


def _next_block(opened: BinaryIO, file: Path) -> Block | None:
    place = opened.tell()
    lengths = opened.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head_bytes, body_bytes, crc = _LENGTHS.unpack(lengths)
    if head_bytes > MOST_HEAD_BYTES or body_bytes > MOST_BODY_BYTES:
        raise BadRecordingError(f"{file}, byte {place}: there is no block of {head_bytes} and {body_bytes} bytes")
    head, body = opened.read(head_bytes), opened.read(body_bytes)
    if len(head) + len(body) < head_bytes + body_bytes:
        return None
    if zlib.crc32(body, zlib.crc32(head)) != crc:
        raise BadRecordingError(f"{file}, byte {place}: the check sum of the block is wrong")
    try:
        return Block(_heads.decode(head), body)
    except msgspec.MsgspecError as error:
        raise BadRecordingError(f"{file}, byte {place}: {error}") from error


def about(file: Path) -> About:
    """What a file is about. Raises BadRecordingError."""
    first = next(blocks(file), None)
    if first is None or not isinstance(first.head, About):
        raise BadRecordingError(f"{file}: it does not tell what it is about")
    if not OLDEST_FORMAT <= first.head.format <= FORMAT:
        raise BadRecordingError(f"{file}: format {first.head.format}; known: {OLDEST_FORMAT} to {FORMAT}")
    return first.head


def recordings_in(place: Path) -> list[Path]:
    """The files of a recording, which is one or a folder of them, in order of their names and numbers."""
    return sorted(place.glob(f"*{SUFFIX}"), key=_name_and_part) if place.is_dir() else [place]


def _name_and_part(file: Path) -> tuple[str, int, str]:
    part = file.stem.rpartition("-")[2]
    return run_of(file), int(part) if part.isdecimal() else 0, file.name


def run_of(file: Path) -> str:
    """What the parts of one recording have in common: their name without the number."""
    return file.name.rpartition("-")[0]


def runs_in(files: Iterable[Path]) -> list[list[Path]]:
    """The parts of each recording in order, the one that began first first. Raises BadRecordingError, OSError."""
    by_run: dict[tuple[Path, str], list[Path]] = {}
    for file in sorted(files, key=_name_and_part):
        by_run.setdefault((file.parent, run_of(file)), []).append(file)
    return sorted(by_run.values(), key=lambda parts: about(parts[0]).begun_ns)


class Overview(NamedTuple):
    """What is in recordings, and what is known to be missing."""

    first_ns: int
    last_ns: int
    """When the first and the last of the wanted nodes were given, UTC nanoseconds."""
    gaps: tuple[str, ...]
    """Parts and rows that are missing, in words."""
    policies: frozenset[str]
    """Policies, fields and versions that were in force, `rocof_trigger.onset 3`; defaults are left out."""


def overview(files: Sequence[Path], nodes: Iterable[str]) -> Overview:
    """Reads the files to their ends, so that damage is found before anything is made of them.

    Raises BadRecordingError, also where there is nothing of these nodes, and OSError.
    """
    decoder, wanted = Decoder(()), frozenset(nodes)
    ends: list[int] = []
    gaps: list[str] = []
    policies: set[str] = set()
    for parts in runs_in(files):
        lost = 0
        for file in parts:
            for block in blocks(file):
                match block.head:
                    case Rows(node=node) | Lines(node=node) if node in wanted:
                        ends += _ends(decoder, block, file)
                    case Settings(policies=told):
                        policies |= {f"{key} {version}" for key, version in told.items() if version != NO_POLICY}
                    case Reached(lost_rows=lost_rows):
                        lost = max(lost, lost_rows)
                    case _:
                        pass
        gaps += gaps_of(parts, lost)
    if not ends:
        raise BadRecordingError(f"{files[0]}: nothing is in it of {', '.join(sorted(wanted))}")
    return Overview(min(ends), max(ends), tuple(gaps), frozenset(policies))


def _ends(decoder: Decoder, block: Block, file: Path) -> tuple[int, int]:
    assert isinstance(block.head, Rows | Lines)
    try:
        times = decoder.times(block)
    except _UNREADABLE as error:
        raise BadRecordingError(f"{file}: a block of node '{block.head.node}' cannot be read: {error}") from error
    return int(times.min()), int(times.max())


def lost_rows_of(file: Path) -> int:
    """How many rows were lost by the end of a file. Reads no bodies. Raises BadRecordingError, OSError."""
    lost, place, size = 0, len(MAGIC), file.stat().st_size
    with file.open("rb") as opened:
        while place + _LENGTHS.size <= size:
            opened.seek(place)
            head_bytes, body_bytes, _ = _LENGTHS.unpack(opened.read(_LENGTHS.size))
            if not body_bytes:  # what tells it has none
                opened.seek(place)
                block = _next_block(opened, file)
                if block is not None and isinstance(block.head, Reached):
                    lost = block.head.lost_rows
            place += _LENGTHS.size + head_bytes + body_bytes
    return lost


def gaps_of(parts: Sequence[Path], lost_rows: int) -> list[str]:
    """What is missing of a recording, in words. Raises BadRecordingError, OSError."""
    numbers = [about(file).part for file in parts]
    missing = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
    found = [f"{parts[0].name} and on: part {', '.join(map(str, missing))} is missing"] if missing else []
    return [
        *found,
        *([f"{parts[0].name} and on: {lost_rows:,} rows were lost as it was recorded"] if lost_rows else []),
    ]


def read(
    files: Sequence[Path],
    *,
    nodes: Iterable[str] | None = None,
    columns: Mapping[str, Iterable[str]] | None = None,
    types: Iterable[type[Message]] = BUILT_IN_MESSAGES,
    begins: Begins | None = None,
) -> Iterator[Given]:
    """What these nodes gave, or all, in the order in which they did; one turn is in memory at a time.

    `columns`: of each node; of others all. With `begins` batches of a node are joined, but where it says otherwise and
    where something of another node came between; what is joined counts as given when its last batch was. Raises
    BadRecordingError, and OSError.
    """
    reader = _Reader(Decoder(types), None if nodes is None else frozenset(nodes), columns or {}, begins)
    for file in files:
        for turn in _turns(file):
            yield from reader.given(turn, file)


def read_run(
    files: Sequence[Path], *, nodes: Iterable[str] | None = None, types: Iterable[type[Message]] = BUILT_IN_MESSAGES
) -> Iterator[Entry]:
    """What happened, in order: what these nodes gave, or all, and all periods that were over, and settings."""
    reader = _Reader(Decoder(types), None if nodes is None else frozenset(nodes), {}, None)
    for file in files:
        for turn in _turns(file):
            yield from reader.entries(turn, file)


def _turns(file: Path) -> Iterator[list[Block]]:
    """The blocks of each turn that is whole."""
    tells_whole = about(file).format > OLDEST_FORMAT
    held: list[Block] = []
    for block in blocks(file):
        if isinstance(block.head, About):
            continue
        if held and _turn_of(block) != _turn_of(held[0]):
            yield held
            held = []
        held.append(block)
    if held and (isinstance(held[-1].head, Reached) or not tells_whole):
        yield held


def _turn_of(block: Block) -> int:
    assert not isinstance(block.head, About)
    return block.head.turn


class _Reader:
    """Reads what happened in a turn."""

    def __init__(
        self,
        decoder: Decoder,
        nodes: frozenset[str] | None,
        columns: Mapping[str, Iterable[str]],
        begins: Begins | None,
    ) -> None:
        self._decoder = decoder
        self._nodes = nodes
        self._columns = columns
        self._begins = begins

    def given(self, turn: Sequence[Block], file: Path) -> list[Given]:
        """In order. Raises BadRecordingError."""
        given: list[Given] = []
        node = ""
        decoder = self._decoder
        try:
            opened = []
            for block in turn:
                if not isinstance(block.head, Rows | Lines) or not self._wants(block.head.node):
                    continue
                node = block.head.node
                opened.append((block, decoder.arrays(block, self._columns.get(node))))
            for place, (block, arrays) in enumerate(opened):
                if isinstance(block.head, Rows):
                    others = [each["batch.seq"] for at, (_, each) in enumerate(opened) if at != place]
                    given += decoder.rows(block.head, arrays, _begins(arrays, others, self._begins))
                elif isinstance(block.head, Lines):
                    given += decoder.messages(block.head, block.body, arrays)
        except _UNREADABLE as error:
            raise BadRecordingError(f"{file}: a block of node '{node}' cannot be read: {error}") from error
        return sorted(given, key=lambda each: each.seq)

    def _wants(self, node: str) -> bool:
        return self._nodes is None or node in self._nodes

    def entries(self, turn: Sequence[Block], file: Path) -> list[Entry]:
        """In order, settings and periods too. Raises BadRecordingError."""
        found: list[Entry] = [*self.given(turn, file)]
        for block in turn:
            if isinstance(block.head, Settings):
                found.append(block.head)
            elif isinstance(block.head, Ticks):
                found += self._ticks(block, block.head.node, file)
        return sorted(found, key=lambda each: each.seq)

    def _ticks(self, block: Block, node: str, file: Path) -> list[Ticked]:
        try:
            arrays = self._decoder.arrays(block)
            told = [arrays[f"batch.{name}"].tolist() for name in ("seq", "at_ns", "last")]
            return [Ticked(seq, at_ns, node, bool(last)) for seq, at_ns, last in zip(*told, strict=True)]
        except _UNREADABLE as error:
            raise BadRecordingError(f"{file}: a block of node '{node}' cannot be read: {error}") from error


def _begins(arrays: Arrays, others: Sequence[_Array], begins: Begins | None) -> NDArray[np.bool_]:
    seq = arrays["batch.seq"]
    if begins is None:
        return np.ones(len(seq), dtype=np.bool_)
    found = begins(arrays["batch.at_ns"])
    for other in others:
        found[1:] |= np.diff(np.searchsorted(other, seq)) != 0
    return found


class Turn(NamedTuple):
    """What happened within a short time, all of it."""

    file: Path
    about: About
    entries: list[Entry]
    reached_ns: int
    """Nothing of before this time is still to come."""


class Follower:
    """Reads recordings in a folder while they are written, turn by turn."""

    def __init__(self, folder: Path, types: Iterable[type[Message]] = BUILT_IN_MESSAGES) -> None:
        self._folder = folder
        self._reader = _Reader(Decoder(types), None, {}, None)
        self._followed: dict[Path, _Followed] = {}

    def turns(self) -> Iterator[Turn]:
        """Those that are whole by now, since the last call. Raises BadRecordingError, OSError."""
        there = recordings_in(self._folder)
        for file in self._followed.keys() - set(there):
            if not self._followed.pop(file).is_read:
                raise BadRecordingError(
                    f"{file} was dropped before it was read: reading is slower than what is recorded"
                )
        for file in there:
            yield from self._new_turns(file, self._followed.setdefault(file, _Followed()))

    def _new_turns(self, file: Path, followed: _Followed) -> Iterator[Turn]:
        with file.open("rb") as opened:
            opened.seek(followed.place)
            while (block := _next_block(opened, file)) is not None:
                followed.place = opened.tell()
                if isinstance(block.head, About):
                    followed.about = block.head
                elif isinstance(block.head, Reached):
                    if followed.about is None:
                        raise BadRecordingError(f"{file}: it does not tell what it is about")
                    turn, followed.held = followed.held, []
                    yield Turn(file, followed.about, self._reader.entries(turn, file), block.head.at_ns)
                else:
                    followed.held.append(block)
            followed.size = opened.seek(0, os.SEEK_END)


class _Followed:
    """How far a file has been read."""

    def __init__(self) -> None:
        self.about: About | None = None
        self.place = len(MAGIC)
        self.held: list[Block] = []
        self.size = 0

    @property
    def is_read(self) -> bool:
        """All that was in it when it was read last; what came later and is gone by now nobody knows."""
        return self.place >= self.size


# Files ----------------------------------------------------------------------------------------------------------------


class Keep(NamedTuple):
    """How a recording is kept: a new file after so many bytes; the oldest go beyond `total_bytes`."""

    part_bytes: int = 64 << 20
    total_bytes: int | None = None


class RecordingWriter:
    """Writes a recording to `folder/NAME-0001.rec` and on. Not for several threads."""

    def __init__(self, folder: Path, name: str, about: About, keep: Keep = Keep()) -> None:  # noqa: B008 - immutable
        self._folder = folder
        self._name = name
        self._about = about
        self._keep = keep
        self._encoder = Encoder()
        self._turns = 0
        self._in_force: dict[str, Settings] = {}
        self._part = 0
        self._opened: BinaryIO | None = None
        self._size = 0
        self.files: list[Path] = []
        self.bytes_written = 0

    def write(self, entries: Sequence[Entry], reached_ns: int, lost_rows: int = 0) -> None:
        """One turn: what happened up to a time. Raises OSError, and then has written nothing of it.

        There is no file before a node gave something, or a period was over.
        """
        settings = {each.node: each for each in entries if isinstance(each, Settings)}
        if self._opened is None and not self.files and len(settings) == len(entries):
            self._in_force |= settings
            return
        self._turns += 1
        block = self._encoder.turn(self._turns, entries, reached_ns, lost_rows)
        if self._opened is None or self._size + len(block) > self._keep.part_bytes:
            self.begin(entries[0].at_ns if entries else reached_ns)
        self._in_force |= settings
        assert self._opened is not None
        before = self._size
        try:
            self._opened.write(block)
            self._opened.flush()
        except OSError:
            self._cut(before)
            raise
        self._size += len(block)
        self.bytes_written += len(block)

    def begin(self, at_ns: int) -> None:
        """A new file. Raises OSError."""
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{self._name}-{self._part + 1:04d}{SUFFIX}"
        head = self._encoder.about(msgspec.structs.replace(self._about, part=self._part + 1, begun_ns=at_ns))
        head += b"".join(self._encoder.settings(each) for each in self._in_force.values())
        opened = file.open("xb")
        try:
            opened.write(head)
            opened.flush()
        except OSError:
            opened.close()
            file.unlink(missing_ok=True)
            raise
        self._part += 1
        self._opened, self._size = opened, len(head)
        self.bytes_written += len(head)
        self.files.append(file)
        self._drop_oldest()

    def _cut(self, size: int) -> None:
        """Leave no half of a block behind."""
        opened, self._opened = self._opened, None
        assert opened is not None
        try:
            opened.close()
        except OSError:
            pass
        finally:
            os.truncate(self.files[-1], size)

    def _drop_oldest(self) -> None:
        total_bytes = self._keep.total_bytes
        if total_bytes is None:
            return
        while len(self.files) > 1 and len(self.files) * self._keep.part_bytes > total_bytes:
            self.files.pop(0).unlink(missing_ok=True)

    def close(self) -> None:
        """What was written is safe from a loss of power."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        with opened:
            opened.flush()
            os.fsync(opened.fileno())
