"""Recordings: JSON lines, and `.npz` tables of samples.

JSON lines: one object a line. A row of samples is `{"type": "samples", "time_ns", "device", "quality", columns …}`,
a message is as everywhere (`{"type": "frequency_event", …}`). NaN is null; infinities are the texts "inf" and "-inf".

npz: arrays `time_ns` int64 (n,), `device` int32 (n,) codes into `devices` (text, shape (m,)), `quality` uint16 (n,),
and one float64 array (n,) for each column under its own name. No pickles.
"""

from __future__ import annotations

import lzma
import math
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from edgeflex_connectors.batching import DeviceTable, Row
from edgeflex_flow.errors import BadMessageError, FatalError
from edgeflex_flow.messages import BUILT_IN_MESSAGES, Message, Samples

_TimeNs: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Value: TypeAlias = float | Literal["inf", "-inf"] | UnsetType | None

_NAN = float("nan")

_NOT_OURS = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
    RuntimeError,
    MemoryError,
)
"""What numpy and zipfile raise for files that are no tables of ours; among the last three: a header that is no Python,
an encrypted member, a shape that no memory holds."""

LARGEST_EXPANSION = 200
"""How many times its own size a packed table may take: measured values shrink far less, because their time tags and
their noise do. A file that says more was made to fill the memory."""
SMALL_BYTES = 1 << 20
"""Any table may take this much."""

_TEXTS = {"inf": float("inf"), "-inf": float("-inf"), None: _NAN, UNSET: _NAN}
_encoder = msgspec.json.Encoder()


def encode_lines(samples: Samples) -> bytes:
    r"""A batch as JSON lines, rows in order.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> encode_lines(samples_from_rows([(1, "G1", {"frequency_hz": 49.98})]))
    b'{"type":"samples","time_ns":1,"device":"G1","quality":0,"frequency_hz":49.98}\n'
    """
    names = samples.devices
    keys = ("type", "time_ns", "device", "quality", *samples.columns)
    lists: list[list[Any]] = [
        [Samples.tag] * samples.rows,
        samples.time_ns.tolist(),
        [names[code] for code in samples.device.tolist()],
        samples.quality.tolist(),
        *(_json_values(values) for values in samples.columns.values()),
    ]
    return _encoder.encode_lines([dict(zip(keys, row, strict=True)) for row in zip(*lists, strict=True)])


def _json_values(values: NDArray[np.float64]) -> list[Any]:
    """Values that JSON can hold without loss; msgspec itself writes NaN as null."""
    listed: list[Any] = values.tolist()
    for place in np.flatnonzero(np.isinf(values)).tolist():
        listed[place] = "inf" if listed[place] > 0 else "-inf"
    return listed


def _row_type(columns: Sequence[str]) -> type[msgspec.Struct]:
    """A Struct of one row; its fields c0, c1 … are the columns, which need not be Python names."""
    return msgspec.defstruct(
        "Row",
        [
            ("time_ns", _TimeNs),
            ("device", str),
            ("quality", Annotated[int, Meta(ge=0, le=0xFFFF)]),
            *((f"c{place}", _Value, UNSET) for place in range(len(columns))),
        ],
        rename={f"c{place}": name for place, name in enumerate(columns)},
        tag_field="type",
        tag=Samples.tag,
        kw_only=True,
    )


class LineDecoder:
    """Decodes lines of a recording, taking these columns and these types of messages.

    >>> decoder = LineDecoder(("frequency_hz",), ())
    >>> decoder.decode(b'{"type":"samples","time_ns":1,"device":"G1","quality":0,"frequency_hz":49.98}')
    (1, 'G1', 0, (49.98,))
    """

    def __init__(self, columns: Sequence[str], messages: Sequence[type[Message]]) -> None:
        self._columns = tuple(columns)
        self._messages = tuple(messages)
        self._row = _row_type(columns)
        union: Any = self._row
        for each in BUILT_IN_MESSAGES:
            union = union | each
        self._decoder = msgspec.json.Decoder(union)

    def decode(self, line: bytes) -> Row | Message | None:
        """The row or message of a line; None if it is well made but has none of the columns or another type.

        Raises BadMessageError with what is wrong.
        """
        try:
            item: Any = self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadMessageError(str(error), reason="bad_line", payload=line) from error
        if isinstance(item, Message):
            return item if isinstance(item, self._messages) else None
        given = msgspec.structs.astuple(item)[3:]
        if all(value is UNSET for value in given):
            return None
        values = tuple([value if isinstance(value, float) else _TEXTS[value] for value in given])
        return item.time_ns, item.device, item.quality, values


def write_npz(file: IO[bytes], samples: Samples) -> None:
    """Write a batch as one npz table."""
    arrays: dict[str, NDArray[Any]] = {
        "time_ns": samples.time_ns,
        "device": samples.device,
        "devices": np.array(samples.devices, dtype=np.str_),
        "quality": samples.quality,
        **samples.columns,
    }
    np.savez(file, **arrays)  # type: ignore[arg-type]


def read_npz(file: Path, columns: Sequence[str], devices: DeviceTable) -> Samples:
    """The table of one file with these columns, NaN for those it lacks; without any if it has none of them.

    Raises BadMessageError if the file is no such table, FatalError before it takes absurdly much memory.
    """
    try:
        arrays = _load_arrays(file)
        problem = _table_problem(arrays)
        if not problem:
            samples = _samples_of(arrays, columns)
            problem = "; ".join(samples.problems())
            if not problem:
                codes = devices.codes(samples.devices)
                return msgspec.structs.replace(samples, device=codes[samples.device], devices=devices.freeze())
    except _NOT_OURS as error:
        problem = str(error) or type(error).__name__
    raise BadMessageError(
        f"{file}: no table of samples: {problem}", reason="bad_file", payload=str(file).encode(errors="replace")
    )


def _load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    with file.open("rb") as opened:
        if not zipfile.is_zipfile(opened):
            raise ValueError("it is no npz file, or was cut off")
        opened.seek(0)
        _check_sizes(opened)
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as table:
            return {name: np.asarray(table[name]) for name in table.files}


def _check_sizes(opened: IO[bytes]) -> None:
    """Refuse arrays that are larger than what the file holds: numpy makes room for them before it reads."""
    most_bytes = max(SMALL_BYTES, LARGEST_EXPANSION * os.fstat(opened.fileno()).st_size)
    with zipfile.ZipFile(opened) as archive:
        members = archive.infolist()
        unpacked_bytes = sum(member.file_size for member in members)
        if unpacked_bytes > most_bytes:
            raise FatalError(
                f"{opened.name}: unpacks to {unpacked_bytes} bytes, {most_bytes} are the most for its size"
            )
        for member in members:
            claimed_bytes = _claimed_bytes(archive, member)
            if claimed_bytes > most_bytes:
                text = f"array '{member.filename}' claims {claimed_bytes} bytes and has {member.file_size}"
                raise FatalError(f"{opened.name}: {text}")
            if claimed_bytes > member.file_size:
                raise ValueError(f"array '{member.filename}' claims {claimed_bytes} bytes, has {member.file_size}")


def _claimed_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """The size of an array as its header tells it."""
    with archive.open(member) as content:
        version = np.lib.format.read_magic(content)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(content)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(content)
    if any(length < 0 for length in shape) or not dtype.itemsize:
        raise ValueError(f"array '{member.filename}' has the shape {shape} of {dtype}")
    return math.prod(shape) * dtype.itemsize


def _table_problem(arrays: dict[str, NDArray[Any]]) -> str | None:
    missing = [name for name in ("time_ns", "device", "devices", "quality") if name not in arrays]
    if missing:
        return f"array '{missing[0]}' is missing"
    if arrays["time_ns"].ndim != 1 or arrays["devices"].ndim != 1 or arrays["devices"].dtype.kind != "U":
        return "time_ns must be one-dimensional, devices one-dimensional text"
    return None


def _samples_of(arrays: dict[str, NDArray[Any]], columns: Sequence[str]) -> Samples:
    wanted = columns if any(name in arrays for name in columns) else ()
    missing = np.full(arrays["time_ns"].shape, _NAN)
    return Samples(
        time_ns=arrays["time_ns"],
        device=arrays["device"],
        devices=tuple(arrays["devices"].tolist()),
        columns={name: arrays.get(name, missing) for name in wanted},
        quality=arrays["quality"],
        received_ns=0,
    )


def part_file(path: Path, number: int) -> Path:
    """The path of the part with this number, counting from 1.

    >>> part_file(Path("day.npz"), 7).name
    'day-0007.npz'
    """
    return path.with_name(f"{path.stem}-{number:04d}{path.suffix}")


def part_files(path: Path) -> list[Path]:
    """The parts of an npz recording that exist, by number."""
    pattern = re.compile(rf"{re.escape(path.stem)}-(\d{{4,}}){re.escape(path.suffix)}")
    found = [(int(match[1]), file) for file in path.parent.iterdir() if (match := pattern.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


def part_number(part: Path) -> int:
    """The number of a part.

    >>> part_number(Path("day-0007.npz"))
    7
    """
    return int(part.stem.rpartition("-")[2])
