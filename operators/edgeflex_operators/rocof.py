"""`rocof`: rate of change of frequency over a sliding window of time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.errors import FieldError
from edgeflex_flow.kernel import kernel
from edgeflex_flow.messages import Quality, Samples
from edgeflex_flow.node import Delays, Input, NodeConfig, OperatorNode, Wire, WireMessage, quantity, samples_wire
from edgeflex_operators._devices import (
    RESTARTS,
    UNUSABLE,
    AcceptTest,
    DeviceClock,
    RowRules,
    grown,
    grown_rings,
    read_only,
    row_rules,
    unrolled,
)

REFUSED_QUALITY = int(Quality.BAD_DATA | Quality.SYNC_LOST)
CLIPPED = int(Quality.CLIPPED)
FLAGS = 16
NEVER_NS = -(2**62)

# Columns of the tables `windows` (int64) and `sums` (float64), one row a device.
FIRST, COUNT, START_NS, BASE_NS, CLIPPED_NS, MASK, _WINDOWS = range(7)
SUM_T, SUM_TT, SUM_F, SUM_TF, BASE_HZ, _SUMS = range(6)


class RocofConfig(NodeConfig, frozen=True, kw_only=True):
    """Rate of change of frequency: the slope of the least-squares line through each device's last `window` of samples.

    The line is fitted to the true time tags, so that a lost sample neither bends nor blinds it. A row comes out for
    every row that comes in once the window is full. The window of a device starts anew after a sample that must not
    be used (NaN, or flagged `bad_data`, `test`, or `sync_lost`, whose time tag cannot be trusted either) and after a
    gap of more than `max_gap`. With `accept_test`, for commissioning, samples of a device in test mode are used, and
    their flag passes on.

    Choose 500 ms unless there is a reason: a 10-degree phase jump looks like 5 Hz/s over 100 ms, like 0.5 Hz/s over
    500 ms and like 0.15 Hz/s over 1 s, while noise of 1 mHz rms at 50 frames/s makes 15, 1.4 and 0.5 mHz/s.

    Input:
        Samples with `frequency_hz`.
    Output:
        Samples with `frequency_hz`, `rocof_hz_per_s` and `rocof_delay_s`: half the time that the window spans, by which
        the slope lags behind its time tag. `quality` holds every flag of any sample in the window, and `clipped` when
        the device sends faster than `max_rate`, so that the window is shorter than asked for.
    Errors:
        Rows that are not later than the last one of their device are dropped and counted as `out_of_order`; once they
        have kept coming for 1 s of their own time, the device's clock is taken to have been set back and its window
        starts anew. Rows of devices beyond `max_devices` are dropped and counted as `too_many_devices`.
    Source:
        ROCOF = df/dt in Hz/s as in IEC/IEEE 60255-118-1; the window of 500 ms is the practice of European
        transmission operators. Rows are refused by the rule of IEEE C37.118.2-2011 for STAT bits 15 to 13.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> config = RocofConfig(window=0.2)
    >>> falling = [(k * 100_000_000, "G1", {"frequency_hz": 50.0 - 0.05 * k}) for k in range(4)]
    >>> [out] = step(config, start(config), samples_from_rows(falling))
    >>> out.columns["rocof_hz_per_s"].round(9).tolist(), out.columns["rocof_delay_s"].tolist()
    ([-0.5, -0.5], [0.1, 0.1])
    """

    window: Annotated[float, quantity("s", "Length of the window.", gt=0, le=60)] = 0.5
    max_gap: Annotated[
        float, quantity("s", "Longest time between two samples that does not start the window anew.", gt=0, le=60)
    ] = 0.1
    max_rate: Annotated[
        float,
        quantity("Hz", "Fastest rate of samples of one device for which the window is held in full.", gt=0, le=1e4),
    ] = 120.0
    max_devices: Annotated[int, Meta(ge=1, le=1_000_000, description="How many devices may send.")] = 10_000
    accept_test: AcceptTest = False

    def refusals(self) -> Iterator[FieldError]:
        if self.max_gap > self.window:
            yield FieldError(
                f"max_gap ({self.max_gap:g} s) is longer than window ({self.window:g} s): "
                "a window could hold a single sample, which has no slope",
                "max_gap",
                "window",
            )


@dataclass(slots=True)
class RocofState:
    """Windows of all devices; tables have a row, rings a column for each slot of `clock`."""

    config: RocofConfig
    """What the windows were filled for."""
    window_ns: int = field(init=False)
    capacity: int = field(init=False)
    rules: RowRules = field(init=False)
    clock: DeviceClock = field(default_factory=DeviceClock)
    windows: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, _WINDOWS), dtype=np.int64))
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, _SUMS)))
    flag_ns: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, FLAGS), dtype=np.int64))
    """When each quality flag was last seen."""
    ring_ns: NDArray[np.int64] = field(init=False)
    ring_hz: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.window_ns = _window_ns(self.config)
        self.capacity = _capacity(self.config)
        self.rules = _rules(self.config)
        self.ring_ns = np.zeros((self.capacity, 0), dtype=np.int64)
        self.ring_hz = np.zeros((self.capacity, 0))

    def grow(self) -> None:
        """Make room for every device that has a slot."""
        used = self.clock.used
        self.windows = grown(self.windows, used)
        self.sums = grown(self.sums, used)
        self.flag_ns = grown(self.flag_ns, used)
        self.ring_ns = grown_rings(self.ring_ns, used)
        self.ring_hz = grown_rings(self.ring_hz, used)

    def refit(self, config: RocofConfig) -> None:
        """Follow a config that a policy changed: more room, and a longer window is full only once it has filled."""
        self.config = config
        self.rules = _rules(config)
        first, count = self.windows[:, FIRST], self.windows[:, COUNT]
        capacity = max(self.capacity, _capacity(config))
        self.ring_ns = unrolled(self.ring_ns, first, count, capacity)
        self.ring_hz = unrolled(self.ring_hz, first, count, capacity)
        first[:] = 0
        if _window_ns(config) > self.window_ns:
            self.windows[:, START_NS] = self.ring_ns[0]
        self.capacity = capacity
        self.window_ns = _window_ns(config)


def _window_ns(config: RocofConfig) -> int:
    return round(config.window * 1e9)


def _capacity(config: RocofConfig) -> int:
    """Samples that a window holds at `max_rate`: both ends belong to it, and rounding may add one."""
    return math.ceil(config.window * 1.001 * config.max_rate) + 2


def _rules(config: RocofConfig) -> RowRules:
    return row_rules(
        REFUSED_QUALITY, accept_test=config.accept_test, max_gap_s=config.max_gap, max_devices=config.max_devices
    )


# Kernels take whole tables and a slot: a view of one row would cost an atomic reference count each time.


@kernel("void(float64[:, ::1], int64, int64, float64, int64, float64)")
def add_row(sums: NDArray[np.float64], d: int, time_ns: int, hz: float, base_ns: int, sign: float) -> None:
    """Add a row to the running sums of slot `d`, or take it out (`sign` -1), as seen from the base."""
    t = (time_ns - base_ns) * 1e-9
    f = hz - sums[d, BASE_HZ]
    sums[d, SUM_T] += sign * t
    sums[d, SUM_TT] += sign * t * t
    sums[d, SUM_F] += sign * f
    sums[d, SUM_TF] += sign * t * f


@kernel("void(float64[:, ::1], int64[:, ::1], int64[:, ::1], float64[:, ::1], int64)")
def sum_up(
    sums: NDArray[np.float64],
    windows: NDArray[np.int64],
    ring_ns: NDArray[np.int64],
    ring_hz: NDArray[np.float64],
    d: int,
) -> None:
    """Compute the running sums of slot `d` anew from its ring, as seen from its newest row."""
    capacity = len(ring_ns)
    count = windows[d, COUNT]
    at = windows[d, FIRST] + count - 1
    at = at - capacity if at >= capacity else at
    windows[d, BASE_NS] = ring_ns[at, d]
    for column in range(BASE_HZ):
        sums[d, column] = 0.0
    sums[d, BASE_HZ] = ring_hz[at, d]
    for _ in range(count):
        add_row(sums, d, ring_ns[at, d], ring_hz[at, d], windows[d, BASE_NS], 1.0)
        at = capacity - 1 if at == 0 else at - 1


@kernel("float64(float64[:, ::1], int64, int64)")
def slope_hz_per_s(sums: NDArray[np.float64], d: int, count: int) -> float:
    """Slope of the least-squares line through the `count` rows that are in the sums of slot `d`."""
    top = count * sums[d, SUM_TF] - sums[d, SUM_T] * sums[d, SUM_F]
    bottom = count * sums[d, SUM_TT] - sums[d, SUM_T] * sums[d, SUM_T]
    return float(top / bottom)


@kernel("int64(int64[:, ::1], int64, int64, uint16, int64, int64)")
def flags_in_window(flag_ns: NDArray[np.int64], d: int, mask: int, quality: int, now_ns: int, first_ns: int) -> int:
    """All flags seen since `first_ns`, when those in `quality` are seen now and those in `mask` were before."""
    for bit in range(FLAGS):
        flag = 1 << bit
        if quality & flag != 0:
            flag_ns[d, bit] = now_ns
            mask |= flag
        elif mask & flag != 0 and flag_ns[d, bit] < first_ns:
            mask &= ~flag
    return mask


@kernel("void(int64[:, ::1], int64, int64)")
def open_window(windows: NDArray[np.int64], d: int, now_ns: int) -> None:
    """Let the window of slot `d` begin anew, empty."""
    windows[d, FIRST] = 0
    windows[d, COUNT] = 0
    windows[d, START_NS] = now_ns
    windows[d, CLIPPED_NS] = NEVER_NS
    windows[d, MASK] = 0


@kernel(
    f"int64(int32[::1], uint8[::1], {read_only('int64')}, {read_only('float64')}, {read_only('uint16')}, int64, int64, "
    "int64[:, ::1], float64[:, ::1], int64[:, ::1], int64[:, ::1], float64[:, ::1], "
    "boolean[::1], float64[::1], float64[::1], uint16[::1])"
)
def slide(
    slot: NDArray[np.int32],
    verdict: NDArray[np.uint8],
    time_ns: NDArray[np.int64],
    frequency_hz: NDArray[np.float64],
    quality: NDArray[np.uint16],
    window_ns: int,
    tolerance_ns: int,
    windows: NDArray[np.int64],
    sums: NDArray[np.float64],
    flag_ns: NDArray[np.int64],
    ring_ns: NDArray[np.int64],
    ring_hz: NDArray[np.float64],
    full: NDArray[np.bool_],
    rocof_hz_per_s: NDArray[np.float64],
    delay_s: NDArray[np.float64],
    flags: NDArray[np.uint16],
) -> int:
    """Slide each device's window over its rows. Fills the last four arrays where `full`; returns in how many rows.

    O(1) a row: sums are kept while rows enter and leave, and computed anew once a window, which bounds both the
    rounding error that they gather and the distance of their rows from the base.
    """
    capacity = len(ring_ns)
    filled = 0
    for i in range(len(time_ns)):
        full[i] = False
        d = slot[i]
        if verdict[i] > RESTARTS:
            if verdict[i] == UNUSABLE:
                windows[d, COUNT] = 0
            continue
        now = time_ns[i]
        limit = now - window_ns - tolerance_ns
        if windows[d, COUNT] == 0 or verdict[i] == RESTARTS:
            open_window(windows, d, now)
        count = windows[d, COUNT]
        first = windows[d, FIRST]
        base_ns = windows[d, BASE_NS]
        while count > 0 and (ring_ns[first, d] < limit or count == capacity):
            if ring_ns[first, d] >= limit:
                windows[d, CLIPPED_NS] = ring_ns[first, d]
            add_row(sums, d, ring_ns[first, d], ring_hz[first, d], base_ns, -1.0)
            count -= 1
            first = 0 if first + 1 == capacity else first + 1
        at = first + count
        at = at - capacity if at >= capacity else at
        ring_ns[at, d] = now
        ring_hz[at, d] = frequency_hz[i]
        count += 1
        windows[d, FIRST] = first
        windows[d, COUNT] = count
        if count == 1 or now - base_ns > window_ns:
            sum_up(sums, windows, ring_ns, ring_hz, d)
        else:
            add_row(sums, d, now, frequency_hz[i], base_ns, 1.0)
        mask = windows[d, MASK]
        if mask != 0 or quality[i] != 0:
            mask = flags_in_window(flag_ns, d, mask, quality[i], now, ring_ns[first, d])
            windows[d, MASK] = mask
        if count < 2 or now - windows[d, START_NS] < window_ns - tolerance_ns:
            continue
        full[i] = True
        rocof_hz_per_s[i] = slope_hz_per_s(sums, d, count)
        delay_s[i] = (now - ring_ns[first, d]) * 0.5e-9
        flags[i] = mask | CLIPPED if windows[d, CLIPPED_NS] >= limit else mask
        filled += 1
    return filled


def start(config: RocofConfig) -> RocofState:
    return RocofState(config)


def step(config: RocofConfig, state: RocofState, samples: Samples) -> list[WireMessage]:
    frequency_hz = samples.columns["frequency_hz"]
    if config is not state.config:
        state.refit(config)
    window_ns = state.window_ns
    slot, verdict, letters = state.clock.follow(samples, frequency_hz, state.rules)
    if state.clock.used > len(state.windows):
        state.grow()
    n = samples.rows
    full = np.empty(n, dtype=np.bool_)
    rocof_hz_per_s = np.empty(n)
    delay_s = np.empty(n)
    flags = np.empty(n, dtype=np.uint16)
    filled = slide(
        slot,
        verdict,
        samples.time_ns,
        frequency_hz,
        samples.quality,
        window_ns,
        window_ns // 1000,
        state.windows,
        state.sums,
        state.flag_ns,
        state.ring_ns,
        state.ring_hz,
        full,
        rocof_hz_per_s,
        delay_s,
        flags,
    )
    if not filled:
        return [*letters]
    columns = {"frequency_hz": frequency_hz, "rocof_hz_per_s": rocof_hz_per_s, "rocof_delay_s": delay_s}
    out = Samples(samples.time_ns, samples.device, samples.devices, columns, flags, samples.received_ns)
    return [out if filled == n else out.take(full), *letters]


def _output(_config: RocofConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return samples_wire("frequency_hz", "rocof_hz_per_s", "rocof_delay_s")


def _delays(config: RocofConfig) -> Delays:
    return Delays(window_s=config.window)


NODE = OperatorNode(
    kind="rocof",
    config=RocofConfig,
    inputs={"in": Input(accepts=(Samples,), needs=("frequency_hz",), step=step)},
    output=_output,
    start=start,
    delays=_delays,
)
