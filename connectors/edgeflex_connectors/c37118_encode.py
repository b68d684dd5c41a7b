"""Encodes many C37.118.2 data frames at once: for senders of streams, simulators and benchmarks.

One format only: float32 throughout, polar phasors, all PMUs with the same channels. `c37118` encodes any.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeflex_connectors.c37118_header import check_word
from edgeflex_flow.messages import Quality

FORMAT: Final = 0x000F
"""FORMAT of these frames: polar, all floats."""
_CHUNK: Final = 4096
_FEW: Final = 256
"""So few frames are sealed one by one, which is faster than all of them byte by byte."""
PMU_ERROR: Final = 0x4000
"""STAT of a PMU of which nothing is known."""
_BAD_VALUES: Final = 0xC000
_TEST_MODE: Final = 0x8000
_SYNC_LOST: Final = 0x2000
_MODIFIED: Final = 0x0200
_TIME_UNKNOWN: Final = 0x01C0


def _crc_table() -> NDArray[np.uint16]:
    """CRC-CCITT of each byte."""
    table = np.arange(256, dtype=np.uint16) << np.uint16(8)
    for _ in range(8):
        table = np.where(table & 0x8000, (table << np.uint16(1)) ^ np.uint16(0x1021), table << np.uint16(1))
    return table


_CRC_TABLE: Final = _crc_table()


def _layout(pmus: int, phasors: int, analogs: int, words: int) -> np.dtype[np.void]:
    pmu = [
        ("stat", ">u2"),
        ("phasors", ">f4", (phasors, 2)),
        ("frequency", ">f4"),
        ("rocof", ">f4"),
        ("analogs", ">f4", (analogs,)),
        ("digitals", ">u2", (words,)),
    ]
    return np.dtype(
        [
            ("sync", ">u2"),
            ("size", ">u2"),
            ("idcode", ">u2"),
            ("soc", ">u4"),
            ("fracsec", ">u4"),
            ("pmus", pmu, (pmus,)),
            ("check", ">u2"),
        ]
    )


def stat_words(quality: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """STAT of rows with these flags; `c37118.row_quality` gives the flags back as far as STAT can hold them.

    BAD_DATA, TEST, SYNC_LOST, TIME_UNCERTAIN and ESTIMATED have places of their own; BAD_DATA hides TEST, both mean
    that values must not be used. REPLAYED rows go out as test mode, since nobody must take them for what is now;
    CLIPPED ones as modified. STALE and LATE have no place.
    """

    def where(flags: Quality, bits: int) -> NDArray[np.uint16]:
        return np.where(quality & np.uint16(flags), np.uint16(bits), np.uint16(0))

    error = where(Quality.TEST | Quality.REPLAYED, _TEST_MODE) | where(Quality.BAD_DATA, _BAD_VALUES)
    stat: NDArray[np.uint16] = (
        error
        | where(Quality.SYNC_LOST, _SYNC_LOST)
        | where(Quality.TIME_UNCERTAIN, _TIME_UNKNOWN)
        | where(Quality.ESTIMATED | Quality.CLIPPED, _MODIFIED)
    )
    return stat


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
    """Data frames of one PMU each as an array of bytes, shape (n, bytes of a frame).

    `phasors` (n, number of phasors, 2): magnitude in V or A, angle in rad. `analogs` (n, number of analogs). The rest
    is of shape (n,), or one value for all. `time_ns` is UTC nanoseconds since 1970, at most 2106.

    Source: IEEE Std C37.118.2-2011, clause 6.3.
    """
    count = len(phasors)

    def one_pmu(values: ArrayLike) -> NDArray[Any]:
        return np.broadcast_to(np.asarray(values), (count,))[:, np.newaxis]

    return encode_frames(
        idcode=idcode,
        counts=time_counts(np.broadcast_to(np.asarray(time_ns, dtype=np.int64), (count,)), time_base),
        stat=one_pmu(stat),
        phasors=phasors[:, np.newaxis],
        frequency_hz=one_pmu(frequency_hz),
        rocof_hz_per_s=one_pmu(rocof_hz_per_s),
        analogs=analogs[:, np.newaxis],
        digitals=np.zeros((count, 1, 0)),
        time_quality=time_quality,
        time_base=time_base,
    )


def encode_frames(
    *,
    idcode: ArrayLike,
    counts: NDArray[np.int64],
    stat: NDArray[Any],
    phasors: NDArray[np.float64],
    frequency_hz: NDArray[np.float64],
    rocof_hz_per_s: NDArray[np.float64],
    analogs: NDArray[np.float64],
    digitals: NDArray[Any],
    time_quality: ArrayLike = 0,
    time_base: int = 1_000_000,
) -> NDArray[np.uint8]:
    """Data frames of many PMUs each, shape (n, bytes of a frame). `counts` (n,): see `time_counts`. `phasors`
    (n, PMUs, number of phasors, 2), `analogs` and `digitals` (n, PMUs, number of them), the rest (n, PMUs).
    """
    layout = _layout(phasors.shape[1], phasors.shape[2], analogs.shape[2], digitals.shape[2])
    frames = np.empty(len(phasors), dtype=layout)
    frames["sync"] = 0xAA01
    frames["size"] = layout.itemsize
    frames["idcode"] = idcode
    frames["soc"] = counts // time_base
    frames["fracsec"] = counts % time_base | np.asarray(time_quality, dtype=np.int64) << 24
    pmus = frames["pmus"]
    pmus["stat"] = stat
    pmus["phasors"] = phasors
    pmus["frequency"] = frequency_hz
    pmus["rocof"] = rocof_hz_per_s
    pmus["analogs"] = analogs
    pmus["digitals"] = digitals
    data = frames.view(np.uint8).reshape(len(phasors), layout.itemsize)
    if len(data) <= _FEW:
        for row in data:
            row[-2:] = np.frombuffer(check_word(row[:-2].data).to_bytes(2, "big"), dtype=np.uint8)
        return data
    for start in range(0, len(data), _CHUNK):
        _seal(data[start : start + _CHUNK])
    return data


def time_counts(time_ns: NDArray[np.int64], time_base: int) -> NDArray[np.int64]:
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
