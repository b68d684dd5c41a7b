"""Reads single arrays of an npz file without trusting it: bounded, and never a pickle."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

LARGEST_ARRAY_BYTES: Final = 1 << 27
"""Unpacked; room for more values than a recording may have rows."""
MOST_MEMBERS: Final = 10_000
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compressions that NumPy writes."""

_NOT_AN_ARRAY: Final = (
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile and NumPy raise for members that are no arrays: damaged, encrypted, with a header that is no Python."""


class NpzError(ValueError):
    """The file, or one array of it, cannot be read."""


class NpzFile:
    """The arrays of an npz file, each read only when it is asked for."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> NDArray[Any]:
        """The array of this name. Raises NpzError that says what is wrong with it."""
        info = self._members[name]
        if info.compress_type not in _METHODS:
            raise NpzError("compressed in a way that NumPy does not use")
        if info.file_size > LARGEST_ARRAY_BYTES:
            raise NpzError(f"has {info.file_size} bytes when unpacked; at most {LARGEST_ARRAY_BYTES} are read")
        try:
            with self._archive.open(info) as member:
                return _read_array(member, info.file_size)
        except NpzError:
            raise
        except _NOT_AN_ARRAY as error:
            raise NpzError(f"is no NumPy array, or is damaged: {error or type(error).__name__}") from error


def _read_array(member: IO[bytes], size: int) -> NDArray[Any]:
    version = npy.read_magic(member)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = read_header(member)
    if dtype.hasobject:
        raise NpzError("holds Python objects, which are never unpickled")
    wanted = math.prod(shape) * dtype.itemsize
    # Before anything of that size is asked for: a header may claim any shape.
    if wanted > size or min(shape, default=0) < 0:
        raise NpzError(f"claims a shape of {shape}, {wanted} bytes, and has {size}")
    data = member.read(wanted)
    if len(data) < wanted:
        raise NpzError(f"ends after {len(data)} of {wanted} bytes")
    return np.frombuffer(data, dtype=dtype, count=math.prod(shape)).reshape(shape, order="F" if by_columns else "C")


@contextmanager
def open_npz(file: Path) -> Iterator[NpzFile]:
    """The arrays of a file. Raises NpzError when it is no npz file, OSError when it cannot be opened."""
    with file.open("rb") as opened:
        try:
            archive = zipfile.ZipFile(opened)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
            raise NpzError(f"it is no npz file, or was cut off: {error}") from error
        with archive:
            if len(archive.infolist()) > MOST_MEMBERS:
                raise NpzError(f"it holds more than {MOST_MEMBERS} arrays")
            yield NpzFile(archive)
