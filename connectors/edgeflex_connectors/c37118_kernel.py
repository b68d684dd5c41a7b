"""The hot path of IEEE C37.118.2: a block of datagrams in, columns out.

The kernel checks each datagram (SYNC, version, FRAMESIZE, CRC), finds its stream and writes one row per PMU. It handles
data frames only; configuration frames change the tables, which is the caller's work, so it stops in front of them and
is called again behind them. `c37118` is its readable twin, and the oracle of its tests.

Tables, all of them flat arrays made by `c37118_table`:

- `slots` (size, 2) and `slot_peers` (size,): an open-addressing hash table from (peer, IDCODE) to a stream. The size
  is a power of two; a row is (IDCODE, stream), IDCODE `EMPTY` where there is none. Peer 0 stands for any peer.
- `streams` (n, 4): frame bytes, TIME_BASE, first row in `pmus`, number of PMUs.
- `pmus` (n, 7): device code, FORMAT, phasors, analogs, digital words, first row in `channels`, how many columns the PMU
  fills; `nominal_hz` (n,); `announced` (n,) uint8, set to 1 when STAT announces a change of configuration; ARMED makes
  the kernel stop when STAT no longer does.
- `channels` (n, 2): column of the value or magnitude, column of a phasor's angle; `factors` (n, 2): factor and offset.

Places, rows and entries of tables are unsigned throughout: numba checks every signed index for being negative, which
doubles the time of the CRC. Beware: numba makes uint64 + int64 a float64, so constants are unsigned too.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.kernel import kernel

DECODED: Final = 0
TRUNCATED: Final = 1
BAD_SYNC: Final = 2
BAD_VERSION: Final = 3
BAD_SIZE: Final = 4
BAD_CRC: Final = 5
UNKNOWN_IDCODE: Final = 6
SIZE_MISMATCH: Final = 7
HEADER_FRAME: Final = 8
COMMAND_FRAME: Final = 9
CONFIG_FRAME: Final = 10
"""A whole configuration frame: the kernel stopped in front of it."""
ADOPT: Final = 11
"""Data of a stream known for any peer only: the kernel stopped, so that the caller binds the stream to this peer."""
FULL: Final = 12
"""The rows of this frame did not fit: the kernel stopped in front of it."""
OVERSIZE: Final = 13
"""Longer than a slot: the kernel stopped in front of it, so that the caller hands it in whole."""
CHANGED: Final = 14
"""STAT no longer announces a change that the caller asked to be told of, or the size has changed meanwhile: the kernel
stopped in front of the frame."""
ANNOUNCED: Final = 15
"""Not a status but a count: rows whose STAT announces a change of configuration."""
COUNTS: Final = 16
"""Length of the `counts` array."""

ANY_PEER: Final = 0
ARMED: Final = 3
"""In `announced`: stop in front of the first frame that no longer announces the change."""
EMPTY: Final = 0xFFFFFFFF
NO_STREAM: Final = 0xFFFFFFFF
FREQUENCY_COLUMN: Final = 0
ROCOF_COLUMN: Final = 1

_BAD_DATA: Final = 1
_SYNC_LOST: Final = 2
_TIME_UNCERTAIN: Final = 4
_ESTIMATED: Final = 16
_TEST: Final = 32
# The values of `Quality`, which numba cannot read; a test holds the two together.


def _crc_tables() -> list[NDArray[np.uint16]]:
    """Table k tells what a byte contributes to the CRC when k bytes follow it."""
    table = np.zeros(256, dtype=np.uint16)
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021) if crc & 0x8000 else crc << 1
        table[byte] = crc & 0xFFFF
    tables = [table]
    for _ in range(7):
        tables.append(table[tables[-1] >> np.uint16(8)] ^ (tables[-1] << np.uint16(8)))
    return tables


_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7 = _crc_tables()
_LOW_BYTE: Final = np.uint64(0xFF)
_1, _2, _3, _4, _5, _6, _7, _8, _14 = (np.uint64(number) for number in (1, 2, 3, 4, 5, 6, 7, 8, 14))

Index: TypeAlias = Any
"""A uint64 inside a kernel; from Python any int that is not negative."""
_i64: Any = np.int64
_u64: Any = np.uint64


@kernel("int64(uint8[::1], uint64, uint64)")
def crc_ccitt(data: NDArray[np.uint8], start: Index, stop: Index) -> Any:
    """CRC-CCITT of data[start:stop], eight bytes a step: only the first two of them wait for the step before."""
    crc = _u64(0xFFFF)
    i = start
    while i + _8 <= stop:
        crc = (
            _u64(_T7[data[i] ^ (crc >> _8)])
            ^ _T6[data[i + _1] ^ (crc & _LOW_BYTE)]
            ^ _T5[data[i + _2]]
            ^ _T4[data[i + _3]]
            ^ _T3[data[i + _4]]
            ^ _T2[data[i + _5]]
            ^ _T1[data[i + _6]]
            ^ _T0[data[i + _7]]
        )
        i += _8
    while i + _4 <= stop:
        crc = (
            _u64(_T3[data[i] ^ (crc >> _8)])
            ^ _T2[data[i + _1] ^ (crc & _LOW_BYTE)]
            ^ _T1[data[i + _2]]
            ^ _T0[data[i + _3]]
        )
        i += _4
    while i < stop:
        crc = _u64(_T0[data[i] ^ (crc >> _8)]) ^ ((crc & _LOW_BYTE) << _8)
        i += _1
    return _i64(crc)


@kernel("uint64(uint64, int64, int64)")
def slot_of(peer: Index, idcode: int, size: int) -> Index:
    """Where in a hash table of this size (a power of two) the search for a stream begins.

    The product is odd, so the streams of one peer whose IDCODEs follow on each other never collide.
    """
    mixed = (peer ^ (_u64(idcode) << _u64(40))) * _u64(0x9E3779B97F4A7C15)
    return (mixed >> _u64(40)) & _u64(size - 1)


@kernel("int64(uint64[::1], uint32[:, ::1], uint64, int64)")
def find_stream(slot_peers: NDArray[np.uint64], slots: NDArray[np.uint32], peer: Index, idcode: int) -> Any:
    """The stream of (peer, IDCODE), or NO_STREAM. The table must have an empty slot."""
    size = slots.shape[0]
    at = slot_of(peer, idcode, size)
    while slots[at, 0] != EMPTY:
        if slots[at, 0] == idcode and slot_peers[at] == peer:
            return _i64(slots[at, 1])
        at = (at + _1) & _u64(size - 1)
    return _i64(NO_STREAM)


@kernel("void(uint64[::1], uint32[:, ::1], uint64, int64, int64)")
def add_stream(
    slot_peers: NDArray[np.uint64], slots: NDArray[np.uint32], peer: Index, idcode: int, stream: int
) -> None:
    """Enter a stream that is not in the table yet. The table must keep an empty slot."""
    size = slots.shape[0]
    at = slot_of(peer, idcode, size)
    while slots[at, 0] != EMPTY:
        at = (at + _1) & _u64(size - 1)
    slots[at, 0] = idcode
    slots[at, 1] = stream
    slot_peers[at] = peer


@kernel("int64(uint8[::1], uint64, int64)")
def _u16(data: NDArray[np.uint8], at: Index, offset: int) -> Any:
    i = at + _u64(offset)
    return _i64(data[i]) << 8 | _i64(data[i + _1])


@kernel("int64(uint8[::1], uint64, int64)")
def _i16(data: NDArray[np.uint8], at: Index, offset: int) -> Any:
    return (_u16(data, at, offset) ^ 0x8000) - 0x8000


@kernel("int64(uint8[::1], uint64, int64)")
def _u32(data: NDArray[np.uint8], at: Index, offset: int) -> Any:
    i = at + _u64(offset)
    return _i64(data[i]) << 24 | _i64(data[i + _1]) << 16 | _i64(data[i + _2]) << 8 | _i64(data[i + _3])


@kernel("float64(uint8[::1], uint64, int64)")
def _f32(data: NDArray[np.uint8], at: Index, offset: int) -> Any:
    """A float32; NaN when it is not finite, since no measurement is infinite."""
    bits = np.uint32(_u32(data, at, offset))
    value = np.float64(bits.view(np.float32))
    return value if (bits & np.uint32(0x7F800000)) != np.uint32(0x7F800000) else np.nan


@kernel("int64(uint8[::1], uint64, int64)")
def _kind(data: NDArray[np.uint8], at: Index, length: int) -> int:
    """What the frame of `length` bytes at `at` is by its header: DECODED for data, another kind, or what is wrong."""
    if length < 16:
        return TRUNCATED
    kind = data[at + _1] >> 4
    version = data[at + _1] & 0x0F
    if data[at] != 0xAA or kind > 5:
        state = BAD_SYNC
    elif version not in (1, 2):
        state = BAD_VERSION
    elif _u16(data, at, 2) != length:
        state = BAD_SIZE
    elif kind == 0:
        state = DECODED
    elif kind == 1:
        state = HEADER_FRAME
    elif kind == 4:
        state = COMMAND_FRAME
    else:
        state = CONFIG_FRAME
    return state


@kernel("int64(int64, int64, int64, int64)")
def _tag_quality(stat: int, time_quality: int, fraction: int, time_base: int) -> int:
    """Flags that follow from STAT and the time tag; see `c37118.row_quality`."""
    quality = 0
    data_error = stat >> 14
    if data_error == 2:
        quality |= _TEST
    elif data_error != 0:
        quality |= _BAD_DATA
    code = time_quality & 0x0F
    if (stat & 0x2000) != 0 or code == 0x0F:
        quality |= _SYNC_LOST
    if (stat & 0x1000) != 0 or (stat >> 6 & 7) >= 4 or code >= 6 or fraction >= time_base:
        quality |= _TIME_UNCERTAIN
    if (stat & 0x0200) != 0:
        quality |= _ESTIMATED
    return quality


@kernel("int64(int64, int64, int64)")
def _tag_ns(soc: int, fraction: int, time_base: int) -> Any:
    """See `c37118_header.time_ns`. Unsigned, because a signed division takes twice as long."""
    part = (_u64(fraction) * _u64(1_000_000_000) + _u64(time_base >> 1)) // _u64(time_base)
    return soc * 1_000_000_000 + _i64(part)


@kernel("float64(float64, float64)")
def _turned(angle_rad: float, offset_rad: float) -> Any:
    """The angle less a CFG-3 offset, within ±π; as sent when there is no offset."""
    if offset_rad == 0.0:
        return angle_rad
    turned = angle_rad - offset_rad
    return turned - 2.0 * math.pi * np.rint(turned / (2.0 * math.pi))


@kernel("uint64(uint8[::1], uint64, uint32[:, ::1], float64[:, ::1], uint64, uint64, float64[:, ::1], uint64)")
def _float_polar_phasors(
    data: NDArray[np.uint8],
    at: Index,
    channels: NDArray[np.uint32],
    factors: NDArray[np.float64],
    first: Index,
    stop: Index,
    columns: NDArray[np.float64],
    row: Index,
) -> Index:
    """`_phasors` for the most common format: small enough to be compiled into its caller, which saves 20 ns."""
    for channel in range(first, stop):
        magnitude = _f32(data, at, 0)
        angle_rad = _f32(data, at, 4)
        at += _8
        if math.isnan(magnitude) or math.isnan(angle_rad):
            magnitude = np.nan
            angle_rad = np.nan
        columns[channels[channel, 0], row] = magnitude * factors[channel, 0]
        columns[channels[channel, 1], row] = angle_rad
    return at


@kernel("uint64(uint8[::1], uint64, int64, uint32[:, ::1], float64[:, ::1], uint64, uint64, float64[:, ::1], uint64)")
def _phasors(
    data: NDArray[np.uint8],
    at: Index,
    form: int,
    channels: NDArray[np.uint32],
    factors: NDArray[np.float64],
    first: Index,
    stop: Index,
    columns: NDArray[np.float64],
    row: Index,
) -> Index:
    """Write magnitudes and angles of channels first to stop; gives the place behind them."""
    polar = (form & 1) != 0
    floats = (form & 2) != 0
    for channel in range(first, stop):
        if floats:
            magnitude = _f32(data, at, 0)
            angle_rad = _f32(data, at, 4)
            at += _8
            absent = math.isnan(magnitude) or math.isnan(angle_rad)
        else:
            second = _i16(data, at, 2)
            magnitude = np.float64(_u16(data, at, 0)) if polar else np.float64(_i16(data, at, 0))
            angle_rad = second / 10000.0 if polar else np.float64(second)
            at += _4
            absent = second == -0x8000 or (not polar and magnitude == -32768.0)
        if not polar:
            real = magnitude
            magnitude = math.hypot(real, angle_rad)
            angle_rad = math.atan2(angle_rad, real)
        if absent:
            magnitude = np.nan
            angle_rad = np.nan
        columns[channels[channel, 0], row] = magnitude * factors[channel, 0]
        columns[channels[channel, 1], row] = _turned(angle_rad, factors[channel, 1])
    return at


@kernel("uint64(uint8[::1], uint64, int64, uint32[:, ::1], float64[:, ::1], uint64, uint64, float64[:, ::1], uint64)")
def _analogs(
    data: NDArray[np.uint8],
    at: Index,
    form: int,
    channels: NDArray[np.uint32],
    factors: NDArray[np.float64],
    first: Index,
    stop: Index,
    columns: NDArray[np.float64],
    row: Index,
) -> Index:
    """Write analogs of channels first to stop; gives the place behind them."""
    for channel in range(first, stop):
        if (form & 4) != 0:
            value = _f32(data, at, 0)
            at += _4
        else:
            number = _i16(data, at, 0)
            value = number * factors[channel, 0] + factors[channel, 1] if number != -0x8000 else np.nan
            at += _2
        columns[channels[channel, 0], row] = value
    return at


@kernel("uint64(uint8[::1], uint64, int64, float64, float64[:, ::1], uint64)")
def _frequency(
    data: NDArray[np.uint8], at: Index, form: int, nominal_hz: float, columns: NDArray[np.float64], row: Index
) -> Index:
    """Write FREQ and DFREQ. Float FREQ is absolute, integer FREQ the deviation from nominal in mHz."""
    if (form & 8) != 0:
        columns[FREQUENCY_COLUMN, row] = _f32(data, at, 0)
        columns[ROCOF_COLUMN, row] = _f32(data, at, 4)
        return at + _8
    frequency = _i16(data, at, 0)
    rocof = _i16(data, at, 2)
    columns[FREQUENCY_COLUMN, row] = nominal_hz + frequency / 1000.0 if frequency != -0x8000 else np.nan
    columns[ROCOF_COLUMN, row] = rocof / 100.0 if rocof != -0x8000 else np.nan
    return at + _4


@kernel(
    "UniTuple(int64, 2)(uint8[::1], int64, int32[::1], uint64[::1], int64, int64, uint64[::1], uint32[:, ::1],"
    " uint32[:, ::1], uint32[:, ::1], float64[::1], uint8[::1], uint32[:, ::1], float64[:, ::1],"
    " int64[::1], int32[::1], uint16[::1], float64[:, ::1], int64, int8[::1], int64[::1])"
)
def decode_block(  # noqa: PLR0912, PLR0915 - numba pays for each call that takes arrays
    data: NDArray[np.uint8],
    stride: int,
    lengths: NDArray[np.int32],
    peers: NDArray[np.uint64],
    first: int,
    stop: int,
    slot_peers: NDArray[np.uint64],
    slots: NDArray[np.uint32],
    streams: NDArray[np.uint32],
    pmus: NDArray[np.uint32],
    nominal_hz: NDArray[np.float64],
    announced: NDArray[np.uint8],
    channels: NDArray[np.uint32],
    factors: NDArray[np.float64],
    time_ns: NDArray[np.int64],
    device: NDArray[np.int32],
    quality: NDArray[np.uint16],
    columns: NDArray[np.float64],
    first_row: int,
    status: NDArray[np.int8],
    counts: NDArray[np.int64],
) -> tuple[int, int]:
    """Decode datagrams `first` to `stop`, of which i lies at data[i * stride : i * stride + lengths[i]].

    Rows go to `time_ns`, `device`, `quality` (capacity,) and `columns` (columns, capacity), from `first_row` on.
    `status[i]` says what became of datagram i, `counts` (COUNTS,) sums it up. Gives the datagram it stopped in front
    of (`stop` when it did all; otherwise `status` there tells why) and the row behind the last that it wrote.
    """
    capacity = _i64(time_ns.shape[0])
    row = _u64(first_row)
    for i in range(_u64(first), _u64(stop)):
        at = i * _u64(stride)
        length = _i64(lengths[i])
        if length > stride:
            state = OVERSIZE
        elif _i64(at) + length > data.shape[0]:
            state = TRUNCATED
        else:
            state = _kind(data, at, length)
        # Called here and not in `_kind`: numba counts references to arrays there, which costs 10 ns.
        sound = state in (DECODED, HEADER_FRAME, COMMAND_FRAME, CONFIG_FRAME)
        if sound and crc_ccitt(data, at, at + _u64(length - 2)) != _u16(data, at, length - 2):
            state = BAD_CRC
        if state == COMMAND_FRAME and length < 18:
            state = TRUNCATED
        stream = _i64(NO_STREAM)
        if state == DECODED:
            stream = find_stream(slot_peers, slots, peers[i], _u16(data, at, 4))
            if stream == NO_STREAM:
                adopted = find_stream(slot_peers, slots, _u64(ANY_PEER), _u16(data, at, 4))
                state = UNKNOWN_IDCODE if adopted == NO_STREAM else ADOPT
            elif _i64(streams[stream, 0]) != length:
                state = CHANGED if announced[_u64(streams[stream, 2])] == ARMED else SIZE_MISMATCH
            elif _i64(row) + _i64(streams[stream, 3]) > capacity:
                state = FULL
        status[i] = state
        counts[state] += 1
        if state >= CONFIG_FRAME:
            return _i64(i), _i64(row)
        if state != DECODED:
            continue
        time_base = _i64(streams[_u64(stream), 1])
        fraction = _u32(data, at, 10)
        time_quality = fraction >> 24
        fraction &= 0xFFFFFF
        tag_ns = _tag_ns(_u32(data, at, 6), fraction, time_base)
        at += _14
        frame_row = row
        first_pmu = _u64(streams[_u64(stream), 2])
        for pmu in range(first_pmu, first_pmu + _u64(streams[_u64(stream), 3])):
            if pmus[pmu, 6] < columns.shape[0]:
                for column in range(columns.shape[0]):
                    columns[column, row] = np.nan
            stat = _u16(data, at, 0)
            if announced[pmu] == ARMED and (stat & 0x0400) == 0:
                status[i] = CHANGED
                counts[DECODED] -= 1
                counts[CHANGED] += 1
                return _i64(i), _i64(frame_row)
            form = _i64(pmus[pmu, 1])
            phasors = _u64(pmus[pmu, 5])
            analogs = phasors + _u64(pmus[pmu, 2])
            words = analogs + _u64(pmus[pmu, 3])
            if form & 3 == 3:
                at = _float_polar_phasors(data, at + _2, channels, factors, phasors, analogs, columns, row)
            else:
                at = _phasors(data, at + _2, form, channels, factors, phasors, analogs, columns, row)
            at = _frequency(data, at, form, nominal_hz[pmu], columns, row)
            at = _analogs(data, at, form, channels, factors, analogs, words, columns, row)
            for word in range(words, words + _u64(pmus[pmu, 4])):
                columns[channels[word, 0], row] = np.float64(_u16(data, at, 0))
                at += _2
            flags = _tag_quality(stat, time_quality, fraction, time_base)
            if math.isnan(columns[FREQUENCY_COLUMN, row]):
                flags |= _BAD_DATA
            if (stat & 0x0400) != 0:
                announced[pmu] |= 1
                counts[ANNOUNCED] += 1
            time_ns[row] = tag_ns
            device[row] = pmus[pmu, 0]
            quality[row] = flags
            row += _1
    return stop, _i64(row)
