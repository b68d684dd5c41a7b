"""What decoding frames keeps between two calls of the kernel: frames to decode, frames that wait, rows decoded."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_connectors import c37118_kernel as kernel
from edgeflex_connectors.c37118_table import StreamTable
from edgeflex_flow.messages import Samples

HELD_FRAMES: Final = 4096
HELD_BYTES: Final = 4 * 1024 * 1024
"""Bounds on data kept until their configuration comes; 4096 frames are 82 s of one PMU at 50 frames/s."""
MOST_CELLS: Final = 2 * 1024 * 1024
"""Bound on rows times columns of a batch: 16 MiB."""
REJECTED: Final = {
    kernel.TRUNCATED: "truncated",
    kernel.BAD_SYNC: "bad_sync",
    kernel.BAD_VERSION: "bad_version",
    kernel.BAD_SIZE: "bad_size",
    kernel.BAD_CRC: "bad_crc",
    kernel.SIZE_MISMATCH: "size_mismatch",
}
"""Why the kernel rejects a frame, by its status."""


class Block:
    """Datagrams to decode, of which i lies at data[i * stride : i * stride + lengths[i]], and how far that has come."""

    def __init__(
        self, data: NDArray[np.uint8], stride: int, lengths: NDArray[np.int32], peers: NDArray[np.uint64], count: int
    ) -> None:
        self.data = data
        self.stride = stride
        self.lengths = lengths
        self.peers = peers
        self.count = count
        self.next = 0

    def frame(self, index: int) -> bytes:
        start = index * self.stride
        return self.data[start : start + int(self.lengths[index])].tobytes()

    def idcode(self, index: int) -> int:
        """IDCODE in the header of a sound frame."""
        start = index * self.stride
        return int(self.data[start + 4]) << 8 | int(self.data[start + 5])


def block_of(frames: Sequence[bytes], peer: int) -> Block:
    """A block of frames that one peer sent."""
    stride = max(map(len, frames))
    data = np.zeros(stride * len(frames), dtype=np.uint8)
    for index, frame in enumerate(frames):
        data[index * stride : index * stride + len(frame)] = np.frombuffer(frame, dtype=np.uint8)
    lengths = np.array([len(frame) for frame in frames], dtype=np.int32)
    return Block(data, stride, lengths, np.full(len(frames), peer, dtype=np.uint64), len(frames))


class HeldFrame(NamedTuple):
    """A data frame that waits for its configuration."""

    peer: int
    idcode: int
    frame: bytes


class HeldFrames:
    """Data frames that wait for their configuration, at most HELD_FRAMES and HELD_BYTES of them."""

    def __init__(self) -> None:
        self._frames: deque[HeldFrame] = deque()
        self._bytes = 0
        self._streams: Counter[tuple[int, int]] = Counter()

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, held: HeldFrame) -> Iterator[HeldFrame]:
        """Keep a frame; gives those that had to go for it, the oldest first."""
        self._frames.append(held)
        self._bytes += len(held.frame)
        self._streams[held.peer, held.idcode] += 1
        while len(self._frames) > HELD_FRAMES or self._bytes > HELD_BYTES:
            oldest = self._frames.popleft()
            self._bytes -= len(oldest.frame)
            self._streams[oldest.peer, oldest.idcode] -= 1
            yield oldest

    def release(self, peer: int, idcode: int) -> list[bytes]:
        """All frames of a stream, oldest first; they wait no longer."""
        if not self._streams.pop((peer, idcode), 0):
            return []
        released = [held.frame for held in self._frames if (held.peer, held.idcode) == (peer, idcode)]
        self._frames = deque(held for held in self._frames if (held.peer, held.idcode) != (peer, idcode))
        self._bytes -= sum(map(len, released))
        return released


class Rows:
    """Where the kernel writes rows."""

    def __init__(self, capacity: int, columns: tuple[str, ...]) -> None:
        self.names = columns
        self.capacity = capacity
        self.filled = 0
        self.time_ns = np.empty(capacity, dtype=np.int64)
        self.device = np.empty(capacity, dtype=np.int32)
        self.quality = np.empty(capacity, dtype=np.uint16)
        self.columns = np.empty((len(columns), capacity), dtype=np.float64)

    def take(self, devices: tuple[str, ...], received_ns: int) -> Samples:
        """The rows as a batch of their own, which no later write touches."""
        n = self.filled
        self.filled = 0
        return Samples(
            time_ns=self.time_ns[:n].copy(),
            device=self.device[:n].copy(),
            devices=devices,
            columns=dict(zip(self.names, self.columns[:, :n].copy(), strict=True)),
            quality=self.quality[:n].copy(),
            received_ns=received_ns,
        )


def decode_block(
    table: StreamTable, rows: Rows, block: Block, status: NDArray[np.int8], counts: NDArray[np.int64]
) -> int:
    """Go on with a block until its end or a frame that is the caller's work; the kernel's state of that frame.

    `status` has room for each frame of the block; `counts` is added to. Afterwards `block.next` is the frame at which
    the kernel stopped.
    """
    stop, filled = kernel.decode_block(
        block.data,
        block.stride,
        block.lengths,
        block.peers,
        block.next,
        block.count,
        table.slot_peers,
        table.slots,
        table.streams,
        table.pmus,
        table.nominal_hz,
        table.announced,
        table.channels,
        table.factors,
        rows.time_ns,
        rows.device,
        rows.quality,
        rows.columns,
        rows.filled,
        status,
        counts,
    )
    block.next, rows.filled = stop, filled
    return kernel.DECODED if stop == block.count else int(status[stop])
