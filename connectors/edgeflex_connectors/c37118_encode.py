"""Encodes many C37.118.2 data frames at once, for senders that must be fast: simulators and benchmarks.

One format only: one PMU a frame, float32 throughout, polar phasors. `edgeflex_connectors.c37118` encodes any.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

FORMAT: Final = 0x000F
"""FORMAT of these frames: polar, all floats."""
_CHUNK: Final = 4096


def _crc_table() -> NDArray[np.uint16]:
    """CRC-CCITT of each byte."""
    table = np.arange(256, dtype=np.uint16) << np.uint16(8)
    for _ in range(8):
        table = np.where(table & 0x8000, (table << np.uint16(1)) ^ np.uint16(0x1021), table << np.uint16(1))
    return table


_CRC_TABLE: Final = _crc_table()


def _layout(phasors: int, analogs: int) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("sync", ">u2"),
            ("size", ">u2"),
            ("idcode", ">u2"),
            ("soc", ">u4"),
            ("fracsec", ">u4"),
            ("stat", ">u2"),
            ("phasors", ">f4", (phasors, 2)),
            ("frequency", ">f4"),
            ("rocof", ">f4"),
            ("analogs", ">f4", (analogs,)),
            ("check", ">u2"),
        ]
    )


def encode_data_block(
    *,
    idcode: ArrayLike,
    time_ns: ArrayLike,
    phasors: NDArray[np.float64],
    frequency_hz: ArrayLike,
    rocof_hz_per_s: ArrayLike,
    analogs: NDArray[np.float64],
    stat: ArrayLike = 0,
    time_quality: ArrayLike = 0,
    time_base: int = 1_000_000,
) -> NDArray[np.uint8]:
    """Data frames as an array of bytes, shape (n, bytes of a frame).

    `phasors` (n, number of phasors, 2): magnitude in V or A, angle in rad. `analogs` (n, number of analogs). The rest
    is of shape (n,), or one value for all. `time_ns` is UTC nanoseconds since 1970, at most 2106.

    Source: IEEE Std C37.118.2-2011, clause 6.3.
    """
    layout = _layout(phasors.shape[1], analogs.shape[1])
    frames = np.empty(len(phasors), dtype=layout)
    frames["sync"] = 0xAA01
    frames["size"] = layout.itemsize
    frames["idcode"] = idcode
    counts = _counts(np.asarray(time_ns, dtype=np.int64), time_base)
    frames["soc"] = counts // time_base
    frames["fracsec"] = counts % time_base | np.asarray(time_quality, dtype=np.int64) << 24
    frames["stat"] = stat
    frames["phasors"] = phasors
    frames["frequency"] = frequency_hz
    frames["rocof"] = rocof_hz_per_s
    frames["analogs"] = analogs
    data = frames.view(np.uint8).reshape(len(phasors), layout.itemsize)
    for start in range(0, len(data), _CHUNK):
        _seal(data[start : start + _CHUNK])
    return data


def _counts(time_ns: NDArray[np.int64], time_base: int) -> NDArray[np.int64]:
    """Time in counts of TIME_BASE, rounded to the nearest: a fraction may round up to the next second."""
    seconds, rest_ns = np.divmod(time_ns, 1_000_000_000)
    counts: NDArray[np.int64] = seconds * time_base + (rest_ns * time_base + 500_000_000) // 1_000_000_000
    return counts


def _seal(frames: NDArray[np.uint8]) -> None:
    """Write CHK into each row."""
    crc = np.full(len(frames), 0xFFFF, dtype=np.uint16)
    # One contiguous row for each place in the frame, so that a step of the CRC goes through all frames at once.
    for place in np.ascontiguousarray(frames[:, :-2].T):
        crc = (crc << np.uint16(8)) ^ _CRC_TABLE[(crc >> np.uint16(8)) ^ place]
    frames[:, -2] = crc >> np.uint16(8)
    frames[:, -1] = crc & np.uint16(0xFF)
