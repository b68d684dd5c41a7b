"""`frequency_event`: finds the moments when the frequency leaves its course and stays away, device by device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.kernel import kernel
from edgeflex_flow.messages import FrequencyEvent, Quality, Samples
from edgeflex_flow.node import Delays, Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire, quantity
from edgeflex_operators._devices import (
    RESTARTS,
    AcceptTest,
    DeviceClock,
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

SHORTEST_WINDOW_S = 0.5
LONGEST_WINDOW_S = 60.0
"""The window of the ROCOF is taken to lie between these: `rocof` allows no longer one."""
TOLERANCE_NS = 1_000_000
"""For the rounding of tags, where a time is compared with the window of the ROCOF."""
HELD_S = 0.099
"""A displacement counts only when it has held for 0.1 s. By then a class P PMU has settled after a phase jump (4.5
cycles, 90 ms at 50 Hz)."""
OFFSET_F = 10.0
"""An offset at the onset is believed when it explains the course better than chance would (F statistic)."""
OUTBOX = 64
"""Events handed over in one call of the kernel; more take another call."""

# Phases of a device.
IDLE, PENDING, ACTIVE, HOLD_OFF = range(4)
# Columns of the tables `episodes` (int64) and `levels` (float64), one row a device.
HEAD, COUNT, MASK, PHASE, LAST_NS, CROSSING_NS, SIGN, ONSET_NS = range(8)
DETECTED_NS, QUIET_NS, END_NS, HOLD_NS, QUALITY, CODE, WINDOW_NS, _EPISODES = range(8, 16)
BEFORE_HZ, EXTREME_HZ, ROCOF, _LEVELS = range(4)


class FrequencyEventConfig(NodeConfig, frozen=True, kw_only=True):
    """Finds frequency events: the frequency leaves its course, goes on leaving, and stays displaced.

    A device goes from idle to pending when |ROCOF| exceeds `onset`, and back to idle when it falls below `clear_ratio`
    of that or changes its sign. It becomes active, and the event is told, once it has been pending for `confirm` and,
    for the last 0.1 s, the frequency has been at least `displacement` away from where it was before, and at least
    `return_ratio` of the farthest that it has been for 0.1 s. This tells an event from a phase jump: after one, the
    frequency that a PMU shows returns as soon as the jump has left the PMU's filter, however long the window of the
    ROCOF remembers it. The event ends when |ROCOF| has stayed below `clear_ratio` of `onset` for `clear_time`; then
    the device rests for `hold_off`.

    The onset is the break of a two-line fit to the frequency, looked for in the window of the ROCOF that crossed: the
    time before the crossing of twice `rocof_delay_s`, but at least 0.5 s and at most 60 s. Far from a disturbance the
    lines meet. Near it the angle jumps with the load, so an offset between them is allowed where the samples call for
    one; without it such onsets come out 0.1 to 0.2 s early.

    `displacement` is ten times the noise of a common PMU and twice the frequency error that the standard allows it.
    `confirm` must be longer than a PMU takes to settle after a step. The default suits class P, which has 4.5 cycles;
    class M has 14 frames, so 300 ms is too short for it below 50 frames/s.

    Input:
        Samples with `frequency_hz` and `rocof_hz_per_s`, and with `rocof_delay_s` when the ROCOF is one over more than
        0.5 s: half the time that its window spans. `rocof` gives all three. With `accept_test`, for commissioning, rows
        of a device in test mode are used, and their flag passes on.
    Output:
        `FrequencyEvent`, `started` when it is found and `ended` with the same `id`. Its `quality` holds the flags of
        all samples from which it was computed: those since `history` before the window in which the onset was looked
        for. It holds `clipped` when that time was not held in full, because the device sends faster than `max_rate`.

        A device that falls silent keeps its event open until it sends again: then, if it was silent for longer than
        `hold_off`, the event ends with the last sample before the silence. After any gap of more than `max_gap` nothing
        from before it is used, and the time of the ROCOF's window, at least 0.5 s, must pass before an event may start.
        Of a device too fast to hold that time, 0.5 s will do; one too fast to hold even that is not watched.
    Errors:
        Rows that are not later than the last one of their device are dropped and counted as `out_of_order`, those of
        devices beyond `max_devices` as `too_many_devices`. NaN rows and those flagged `bad_data`, `sync_lost` or `test`
        are ignored.
    Source:
        A design of this project. Limits of frequency error and settling times: IEC/IEEE 60255-118-1. Onset: least
        squares of a line with one break, with and without an offset there, chosen by their F statistic.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> hz = [50.0 - 0.005 * max(0, k - 20) for k in range(40)]
    >>> slope = [0.0] * 20 + [-0.1] * 20
    >>> rows = [
    ...     (k * 50_000_000, "G1", {"frequency_hz": hz[k], "rocof_hz_per_s": slope[k]}) for k in range(40)
    ... ]
    >>> config = FrequencyEventConfig()
    >>> [event] = step(config, start(config), samples_from_rows(rows))
    >>> event.id, event.state, event.detected_time_ns, event.frequency_before_hz
    ('G1@1000000000', 'started', 1300000000, 50.0)
    """

    onset: Annotated[float, quantity("Hz/s", "|ROCOF| above which an event may begin.", gt=0, le=100)] = 0.02
    confirm: Annotated[float, quantity("s", "How long a device must be pending.", ge=0.1, le=10)] = 0.3
    displacement: Annotated[
        float, quantity("Hz", "How far the frequency must be from where it was before.", gt=0, le=5)
    ] = 0.01
    return_ratio: Annotated[
        float, Meta(ge=0, lt=1, description="Share of its peak below which a displacement counts as returned.")
    ] = 0.3
    clear_ratio: Annotated[
        float, Meta(gt=0, le=1, description="Share of `onset` below which |ROCOF| counts as at rest.")
    ] = 0.5
    clear_time: Annotated[float, quantity("s", "How long |ROCOF| must stay low.", gt=0, le=60)] = 1.0
    hold_off: Annotated[float, quantity("s", "Rest after an event.", ge=0, le=600)] = 5.0
    history: Annotated[float, quantity("s", "Time before the onset that tells the course.", ge=0.5, le=60)] = 2.0
    max_gap: Annotated[float, quantity("s", "Longest time between two samples that is not a gap.", gt=0, le=60)] = 0.1
    max_rate: Annotated[
        float,
        quantity("Hz", "Fastest rate of samples of one device for which the history is held in full.", gt=0, le=1e4),
    ] = 120.0
    max_devices: Annotated[int, Meta(ge=1, le=1_000_000, description="How many devices may send.")] = 10_000
    accept_test: AcceptTest = False


@dataclass(slots=True)
class FrequencyEventState:
    """Phases and recent courses of all devices; tables have a row, rings a column for each slot of `clock`."""

    span_ns: int
    """How far back a decision may look."""
    capacity: int
    window_s: float = SHORTEST_WINDOW_S
    """Longest window of the ROCOF so far, rounded up to half seconds: the rings hold the course for it."""
    clock: DeviceClock = field(default_factory=DeviceClock)
    episodes: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, _EPISODES), dtype=np.int64))
    levels: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, _LEVELS)))
    flag_ns: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, FLAGS), dtype=np.int64))
    """When each quality flag was last seen."""
    ring_ns: NDArray[np.int64] = field(init=False)
    ring_hz: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.ring_ns = np.zeros((self.capacity, 0), dtype=np.int64)
        self.ring_hz = np.zeros((self.capacity, 0))

    def __getstate__(self) -> tuple[object, ...]:
        """Only what a decision may still look at: a third of the rings at 50 frames/s, and snapshots go to disk."""
        used = self.clock.used
        episodes = self.episodes[:used].copy()
        count = episodes[:, COUNT]
        first = (episodes[:, HEAD] - count) % self.capacity
        ring_ns = unrolled(self.ring_ns[:, :used], first, count, self.capacity)
        place = np.arange(self.capacity)[:, None]
        old = ((ring_ns < episodes[:, LAST_NS] - self.span_ns) & (place < count)).sum(axis=0)
        count -= old
        width = int(count.max(initial=0))
        rings = [unrolled(ring[:, :used], first + old, count, width) for ring in (self.ring_ns, self.ring_hz)]
        sizes = self.span_ns, self.capacity, self.window_s
        return *sizes, self.clock, episodes, self.levels[:used], self.flag_ns[:used], *rings

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.span_ns, self.capacity, self.window_s, *tables, ring_ns, ring_hz = state
        self.clock, self.episodes, self.levels, self.flag_ns = tables
        count = self.episodes[:, COUNT]
        self.ring_ns = unrolled(ring_ns, np.zeros_like(count), count, self.capacity)
        self.ring_hz = unrolled(ring_hz, np.zeros_like(count), count, self.capacity)
        self.episodes[:, HEAD] = count % self.capacity

    def grow(self) -> None:
        """Make room for every device that has a slot."""
        used = self.clock.used
        self.episodes = grown(self.episodes, used)
        self.levels = grown(self.levels, used)
        self.flag_ns = grown(self.flag_ns, used)
        self.ring_ns = grown_rings(self.ring_ns, used)
        self.ring_hz = grown_rings(self.ring_hz, used)

    def refit(self, config: FrequencyEventConfig) -> None:
        """Follow a config that a policy changed, or a longer window: hold as much history as it needs."""
        self.span_ns = _span_ns(config, self.window_s)
        capacity = max(self.capacity, _capacity(config, self.window_s))
        if capacity == self.capacity:
            return
        count = self.episodes[:, COUNT]
        first = (self.episodes[:, HEAD] - count) % self.capacity
        self.ring_ns = unrolled(self.ring_ns, first, count, capacity)
        self.ring_hz = unrolled(self.ring_hz, first, count, capacity)
        self.episodes[:, HEAD] = count
        self.capacity = capacity


def _patience_ns(config: FrequencyEventConfig) -> int:
    """How long a crossing is followed: a ROCOF of `onset` takes displacement / onset to move so far."""
    return round((config.confirm + min(config.displacement / config.onset, 5.0) + 0.5) * 1e9)


def _span_ns(config: FrequencyEventConfig, window_s: float) -> int:
    search_ns = round(window_s * 1.001e9) + TOLERANCE_NS  # a window of `rocof` may span 0.1 % more than its length
    return _patience_ns(config) + search_ns + round(config.history * 1e9)


def _capacity(config: FrequencyEventConfig, window_s: float) -> int:
    return math.ceil(_span_ns(config, window_s) * 1e-9 * config.max_rate) + 2


def _longest_window_s(delay_s: NDArray[np.float64]) -> float:
    """Longest window of these delays in half seconds, rounded up, so that rings seldom grow; NaN means the shortest."""
    longest_s = 2.0 * float(np.fmax.reduce(delay_s, initial=SHORTEST_WINDOW_S / 2))
    return min(math.ceil(min(longest_s, LONGEST_WINDOW_S) / 1.001 * 2.0) / 2.0, LONGEST_WINDOW_S)


@kernel("float64(float64[::1])")
def median(values: NDArray[np.float64]) -> float:
    """Median of at least one value; sorts `values` in place. Numba's own would take 3 s to compile."""
    n = len(values)
    stride = n // 2
    while stride > 0:
        for i in range(stride, n):
            value = values[i]
            j = i
            while j >= stride and values[j - stride] > value:
                values[j] = values[j - stride]
                j -= stride
            values[j] = value
        stride //= 2
    return float(0.5 * (values[(n - 1) // 2] + values[n // 2]))


@kernel("UniTuple(float64, 5)(float64[::1], float64[::1])")
def single_line(
    time_s: NDArray[np.float64], frequency_hz: NDArray[np.float64]
) -> tuple[float, float, float, float, float]:
    """Least-squares line: its centre in s and Hz, its slope, and the sums of squares of time and of what is left."""
    centre_s = time_s.mean()
    centre_hz = frequency_hz.mean()
    stt = 0.0
    stf = 0.0
    sff = 0.0
    for i in range(len(time_s)):
        t = time_s[i] - centre_s
        f = frequency_hz[i] - centre_hz
        stt += t * t
        stf += t * f
        sff += f * f
    slope = stf / stt if stt > 0.0 else 0.0
    return centre_s, centre_hz, slope, stt, sff - slope * stf


@kernel("int64(float64[::1], float64[::1], float64, float64)")
def onset_index(
    time_s: NDArray[np.float64], frequency_hz: NDArray[np.float64], earliest_s: float, latest_s: float
) -> int:
    """Index of the sample at which a least-squares fit of two lines has its break.

    Two models are fitted for every break in [earliest_s, latest_s] that leaves three samples on either side: lines that
    meet at the break, and lines with an offset there. The best of the second is taken when its one parameter more
    lowers the sum of squares by `OFFSET_F` times what chance would. With no such break: the last sample up to
    `latest_s`. O(n): whatever depends on the break is a sum over the samples from the break on.
    """
    n = len(time_s)
    centre_s, centre_hz, slope, stt, total = single_line(time_s, frequency_hz)
    meeting = -1
    offset = -1
    meeting_gain = -1.0
    offset_gain = -1.0
    # Sums over samples k to n - 1 of 1, t, t², r and t·r, where r is what the single line leaves.
    m, st, st2, sr, str_ = 0, 0.0, 0.0, 0.0, 0.0
    for k in range(n - 1, -1, -1):
        t = time_s[k] - centre_s
        r = frequency_hz[k] - centre_hz - slope * t
        m, st, st2, sr, str_ = m + 1, st + t, st2 + t * t, sr + r, str_ + t * r
        if time_s[k] < earliest_s or k < 3:
            break
        if m < 3 or time_s[k] > latest_s:
            continue
        # The step s = [i >= k] and the ramp h = max(0, t - t_k), freed of what a single line explains of them.
        h1, ht = st - t * m, st2 - t * st
        ss = m - m * m / n - st * st / stt
        sh = h1 - m * h1 / n - st * ht / stt
        hh = st2 - 2.0 * t * st + t * t * m - h1 * h1 / n - ht * ht / stt
        hr = str_ - t * sr
        determinant = ss * hh - sh * sh
        if hh > 0.0 and hr * hr / hh > meeting_gain:
            meeting_gain = hr * hr / hh
            meeting = k
        if determinant > 0.0 and (sr * sr * hh - 2.0 * sr * hr * sh + hr * hr * ss) / determinant > offset_gain:
            offset_gain = (sr * sr * hh - 2.0 * sr * hr * sh + hr * hr * ss) / determinant
            offset = k
    if meeting < 0:
        latest = 0
        while latest + 1 < n and time_s[latest + 1] <= latest_s:
            latest += 1
        return latest
    left = max(total - offset_gain, 1e-12 * total)
    by_chance = left / (n - 5) if n > 5 else np.inf
    return offset if offset_gain - meeting_gain > OFFSET_F * by_chance else meeting


# Kernels take whole tables and a slot: a view of one row would cost an atomic reference count each time.


@kernel(
    "boolean(int64[:, ::1], float64[:, ::1], int64[:, ::1], int64[:, ::1], float64[:, ::1], int64, "
    "int64, float64, float64)",
)
def becomes_active(
    episodes: NDArray[np.int64],
    levels: NDArray[np.float64],
    flag_ns: NDArray[np.int64],
    ring_ns: NDArray[np.int64],
    ring_hz: NDArray[np.float64],
    d: int,
    history_ns: int,
    displacement_hz: float,
    return_ratio: float,
) -> bool:
    """Judge a crossing that ROCOF has confirmed. When the frequency is displaced for good, it becomes an episode."""
    capacity = len(ring_ns)
    head = episodes[d, HEAD]
    crossing_ns = episodes[d, CROSSING_NS]
    search_ns = episodes[d, WINDOW_NS] + TOLERANCE_NS
    begin_ns = crossing_ns - search_ns - history_ns
    n = 0
    while n < episodes[d, COUNT] and ring_ns[(head - 1 - n) % capacity, d] >= begin_ns:
        n += 1
    time_s = np.empty(n)
    hz = np.empty(n)
    for i in range(n):
        time_s[i] = (ring_ns[(head - n + i) % capacity, d] - crossing_ns) * 1e-9
        hz[i] = ring_hz[(head - n + i) % capacity, d]
    k = onset_index(time_s, hz, search_ns * -1e-9, 0.0)
    onset_ns = ring_ns[(head - n + k) % capacity, d]
    begin = 0
    while ring_ns[(head - n + begin) % capacity, d] < onset_ns - history_ns:
        begin += 1
    before_hz = median(hz[begin : max(k, begin + 1)].copy())
    extreme_hz = before_hz
    held_hz = -np.inf
    peak_hz = -np.inf
    for i in range(k, n):
        if abs(hz[i] - before_hz) > abs(extreme_hz - before_hz):
            extreme_hz = hz[i]
        # What has held until sample i: the least displacement of it and the samples before, back to HELD_S or more.
        j = i
        held_hz = episodes[d, SIGN] * (hz[i] - before_hz)
        while j > 0 and time_s[i] - time_s[j] < HELD_S:
            j -= 1
            held_hz = min(held_hz, episodes[d, SIGN] * (hz[j] - before_hz))
        peak_hz = max(peak_hz, held_hz)
    if held_hz < displacement_hz or held_hz < return_ratio * peak_hz:
        return False
    levels[d, BEFORE_HZ] = before_hz
    levels[d, EXTREME_HZ] = extreme_hz
    episodes[d, PHASE] = ACTIVE
    episodes[d, ONSET_NS] = onset_ns
    episodes[d, DETECTED_NS] = episodes[d, LAST_NS]
    episodes[d, QUIET_NS] = NEVER_NS
    episodes[d, END_NS] = NEVER_NS
    episodes[d, QUALITY] = CLIPPED if n == capacity else 0
    for bit in range(FLAGS):
        if episodes[d, MASK] & (1 << bit) != 0 and flag_ns[d, bit] >= begin_ns:
            episodes[d, QUALITY] |= 1 << bit
    return True


@kernel("void(int64[:, ::1], float64[:, ::1], int64, int32, int64[:, ::1], float64[:, ::1], int64)")
def tell(
    episodes: NDArray[np.int64],
    levels: NDArray[np.float64],
    d: int,
    code: int,
    events: NDArray[np.int64],
    event_levels: NDArray[np.float64],
    place: int,
) -> None:
    """Copy a device's episode as it stands into the outbox."""
    episodes[d, CODE] = code
    for column in range(_EPISODES):
        events[place, column] = episodes[d, column]
    for column in range(_LEVELS):
        event_levels[place, column] = levels[d, column]


@kernel("void(int64[:, ::1], int64[:, ::1], int64, uint16)")
def note_flags(episodes: NDArray[np.int64], flag_ns: NDArray[np.int64], d: int, quality: int) -> None:
    """Note when the flags of slot `d` were seen: now."""
    episodes[d, MASK] |= quality
    for bit in range(FLAGS):
        if quality & (1 << bit) != 0:
            flag_ns[d, bit] = episodes[d, LAST_NS]


@kernel("void(int64[:, ::1], float64[:, ::1], int64[:, ::1], int64, float64, float64, float64)")
def may_cross(
    episodes: NDArray[np.int64],
    levels: NDArray[np.float64],
    ring_ns: NDArray[np.int64],
    d: int,
    slope: float,
    delay_s: float,
    onset_hz_per_s: float,
) -> None:
    """Make the device pending when ROCOF is above its limit and the time of its window is known; idle otherwise.

    Of a device too fast for its ring to hold that time, half a second will do.
    """
    now_ns = episodes[d, LAST_NS]
    known_ns = now_ns - ring_ns[(episodes[d, HEAD] - episodes[d, COUNT]) % len(ring_ns), d]
    window_s = SHORTEST_WINDOW_S
    if 2.0 * delay_s > window_s:  # false when it is NaN
        window_s = min(2.0 * delay_s, LONGEST_WINDOW_S)
    window_ns = np.int64(np.rint(window_s * 1e9))
    needed_s = SHORTEST_WINDOW_S if episodes[d, COUNT] == len(ring_ns) else window_s
    known = known_ns >= np.int64(np.rint(needed_s * 1e9)) - TOLERANCE_NS
    episodes[d, PHASE] = IDLE
    if abs(slope) > onset_hz_per_s and known:
        episodes[d, PHASE] = PENDING
        episodes[d, WINDOW_NS] = window_ns
        episodes[d, CROSSING_NS] = now_ns
        episodes[d, SIGN] = 1 if slope > 0.0 else -1
        levels[d, ROCOF] = slope


@kernel("boolean(int64[:, ::1], int64, int64, int64)")
def interrupt(episodes: NDArray[np.int64], d: int, now_ns: int, hold_off_ns: int) -> bool:
    """Forget the course from before a gap; whether this ends an active event."""
    silent_ns = now_ns - episodes[d, LAST_NS]
    set_back = silent_ns < 0
    episodes[d, COUNT] = 0
    episodes[d, MASK] = 0
    episodes[d, QUIET_NS] = NEVER_NS
    ends = episodes[d, PHASE] == ACTIVE and (set_back or silent_ns > hold_off_ns)
    if ends:
        episodes[d, END_NS] = episodes[d, LAST_NS]
    if ends or set_back or episodes[d, PHASE] == PENDING:
        episodes[d, PHASE] = IDLE
    return bool(ends)


@kernel("boolean(int64[:, ::1], float64[:, ::1], int64, float64, float64, float64, int64, int64)")
def stays_active(
    episodes: NDArray[np.int64],
    levels: NDArray[np.float64],
    d: int,
    hz: float,
    slope: float,
    clear_hz_per_s: float,
    clear_ns: int,
    hold_off_ns: int,
) -> bool:
    """Follow an active event by one row; False when it has ended."""
    now_ns = episodes[d, LAST_NS]
    if abs(hz - levels[d, BEFORE_HZ]) > abs(levels[d, EXTREME_HZ] - levels[d, BEFORE_HZ]):
        levels[d, EXTREME_HZ] = hz
    if abs(slope) > abs(levels[d, ROCOF]):
        levels[d, ROCOF] = slope
    if abs(slope) >= clear_hz_per_s:
        episodes[d, QUIET_NS] = NEVER_NS
        return True
    if episodes[d, QUIET_NS] == NEVER_NS:
        episodes[d, QUIET_NS] = now_ns
    if now_ns - episodes[d, QUIET_NS] < clear_ns:
        return True
    episodes[d, PHASE] = HOLD_OFF
    episodes[d, END_NS] = episodes[d, QUIET_NS]
    episodes[d, HOLD_NS] = now_ns + hold_off_ns
    return False


@kernel(
    f"UniTuple(int64, 2)(int64, int32[::1], uint8[::1], {read_only('int32')}, {read_only('int64')}, "
    f"{read_only('float64')}, {read_only('float64')}, {read_only('float64')}, {read_only('uint16')}, "
    "float64, float64, float64, float64, int64, int64, int64, int64, int64, "
    "int64[:, ::1], float64[:, ::1], int64[:, ::1], int64[:, ::1], float64[:, ::1], int64[:, ::1], float64[:, ::1])"
)
def watch(
    begin: int,
    slot: NDArray[np.int32],
    verdict: NDArray[np.uint8],
    device: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    frequency_hz: NDArray[np.float64],
    rocof_hz_per_s: NDArray[np.float64],
    delay_s: NDArray[np.float64],
    quality: NDArray[np.uint16],
    onset_hz_per_s: float,
    clear_hz_per_s: float,
    displacement_hz: float,
    return_ratio: float,
    confirm_ns: int,
    patience_ns: int,
    history_ns: int,
    clear_ns: int,
    hold_off_ns: int,
    episodes: NDArray[np.int64],
    levels: NDArray[np.float64],
    flag_ns: NDArray[np.int64],
    ring_ns: NDArray[np.int64],
    ring_hz: NDArray[np.float64],
    events: NDArray[np.int64],
    event_levels: NDArray[np.float64],
) -> tuple[int, int]:
    """Take each device through its phases.

    Returns (row reached, events in the outbox). The row reached is n, or less when the outbox is full.
    """
    told = 0
    for i in range(begin, len(time_ns)):
        if told == len(events):
            return i, told
        if verdict[i] > RESTARTS:
            continue
        d = slot[i]
        now = time_ns[i]
        slope = rocof_hz_per_s[i]
        if verdict[i] == RESTARTS and interrupt(episodes, d, now, hold_off_ns):
            tell(episodes, levels, d, device[i], events, event_levels, told)
            told += 1
        if not np.isfinite(slope):
            continue
        # Written out here: as a kernel of its own, which LLVM does not inline, it takes 40 ns instead of 5.
        at = episodes[d, HEAD]
        ring_ns[at, d] = now
        ring_hz[at, d] = frequency_hz[i]
        episodes[d, HEAD] = 0 if at + 1 == len(ring_ns) else at + 1
        episodes[d, COUNT] = min(episodes[d, COUNT] + 1, len(ring_ns))
        episodes[d, LAST_NS] = now
        if quality[i] != 0:
            note_flags(episodes, flag_ns, d, quality[i])
        phase = episodes[d, PHASE]
        calm = phase == IDLE and abs(slope) <= onset_hz_per_s
        if calm or (phase == HOLD_OFF and now < episodes[d, HOLD_NS]):
            continue
        if phase == ACTIVE:
            episodes[d, QUALITY] |= quality[i]
            if not stays_active(episodes, levels, d, frequency_hz[i], slope, clear_hz_per_s, clear_ns, hold_off_ns):
                tell(episodes, levels, d, device[i], events, event_levels, told)
                told += 1
            continue
        since_ns = now - episodes[d, CROSSING_NS]
        if phase != PENDING or slope * episodes[d, SIGN] < clear_hz_per_s or since_ns > patience_ns:
            may_cross(episodes, levels, ring_ns, d, slope, delay_s[i], onset_hz_per_s)
            continue
        if abs(slope) > abs(levels[d, ROCOF]):
            levels[d, ROCOF] = slope
        if since_ns >= confirm_ns and becomes_active(
            episodes, levels, flag_ns, ring_ns, ring_hz, d, history_ns, displacement_hz, return_ratio
        ):
            tell(episodes, levels, d, device[i], events, event_levels, told)
            told += 1
    return len(time_ns), told


def start(config: FrequencyEventConfig) -> FrequencyEventState:
    return FrequencyEventState(
        span_ns=_span_ns(config, SHORTEST_WINDOW_S), capacity=_capacity(config, SHORTEST_WINDOW_S)
    )


def step(config: FrequencyEventConfig, state: FrequencyEventState, samples: Samples) -> list[WireMessage]:
    frequency_hz = samples.columns["frequency_hz"]
    delay_s = samples.columns.get("rocof_delay_s")
    if delay_s is None:
        delay_s = np.broadcast_to(SHORTEST_WINDOW_S / 2, frequency_hz.shape)
    state.window_s = max(state.window_s, _longest_window_s(delay_s))
    if _span_ns(config, state.window_s) != state.span_ns or _capacity(config, state.window_s) > state.capacity:
        state.refit(config)
    rules = row_rules(
        REFUSED_QUALITY, accept_test=config.accept_test, max_gap_s=config.max_gap, max_devices=config.max_devices
    )
    slot, verdict, letters = state.clock.follow(samples, frequency_hz, rules)
    if state.clock.used > len(state.episodes):
        state.grow()
    messages: list[WireMessage] = []
    events = np.empty((OUTBOX, _EPISODES), dtype=np.int64)
    event_levels = np.empty((OUTBOX, _LEVELS))
    row = 0
    while row < samples.rows:
        row, told = watch(
            row,
            slot,
            verdict,
            samples.device,
            samples.time_ns,
            frequency_hz,
            samples.columns["rocof_hz_per_s"],
            delay_s,
            samples.quality,
            config.onset,
            config.onset * config.clear_ratio,
            config.displacement,
            config.return_ratio,
            round(config.confirm * 0.999e9),  # tags are rounded
            _patience_ns(config),
            round(config.history * 1e9),
            round(config.clear_time * 0.999e9),
            round(config.hold_off * 1e9),
            state.episodes,
            state.levels,
            state.flag_ns,
            state.ring_ns,
            state.ring_hz,
            events,
            event_levels,
        )
        for event, level in zip(events[:told].tolist(), event_levels[:told].tolist(), strict=True):
            messages.append(_event_message(samples.devices, event, level))
    return [*messages, *letters]


def _event_message(devices: tuple[str, ...], event: list[int], level: list[float]) -> FrequencyEvent:
    device = devices[event[CODE]]
    ended = event[END_NS] != NEVER_NS
    return FrequencyEvent(
        id=f"{device}@{event[ONSET_NS]}",
        state="ended" if ended else "started",
        device=device,
        onset_time_ns=event[ONSET_NS],
        detected_time_ns=event[DETECTED_NS],
        rocof_hz_per_s=level[ROCOF],
        frequency_before_hz=level[BEFORE_HZ],
        frequency_extreme_hz=level[EXTREME_HZ],
        end_time_ns=event[END_NS] if ended else None,
        quality=event[QUALITY],
    )


def _output(_config: FrequencyEventConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(FrequencyEvent)


def _delays(config: FrequencyEventConfig) -> Delays:
    """At a ROCOF just above `onset` the frequency takes displacement / onset to move so far, and must stay there."""
    return Delays(
        window_s=config.confirm,
        onset_window_s=config.displacement / config.onset + HELD_S,
        end_lag_s=config.clear_time,
    )


NODE = OperatorNode(
    kind="frequency_event",
    config=FrequencyEventConfig,
    inputs={"in": Input(accepts=(Samples,), needs=("frequency_hz", "rocof_hz_per_s"), step=step)},
    output=_output,
    start=start,
    state_version=2,
    delays=_delays,
)
