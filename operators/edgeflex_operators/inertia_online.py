"""`inertia_online`: a quick, indicative estimate of a unit's inertia from frequency and power alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow import __version__
from edgeflex_flow.kernel import kernel
from edgeflex_flow.messages import EstimateStatus, InertiaEstimate, Quality, Samples
from edgeflex_flow.node import Delays, Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire, quantity, table
from edgeflex_operators._devices import (
    RESTARTS,
    AcceptTest,
    DeviceClock,
    RowRules,
    grown,
    grown_rings,
    near_nominal,
    read_only,
    row_rules,
)
from edgeflex_operators._units import UnitTable, digest, fill_rated_w, without_data

REFUSED_QUALITY = int(Quality.BAD_DATA | Quality.SYNC_LOST)
VERSION = f"{__version__}/online-1"

BASELINE_S = 1.2
"""How far before the onset the power and the frequency at rest are looked for."""
LEAD_S = 0.4
"""How far before the onset the regression begins: what it sees there at rest holds its offset."""
FILTER_S = 0.1
"""The onset may already be felt this long before the row that shows it: a PMU's window, and rows to make sure."""
MEMORY_S = 1.0
"""Of the mean and the variance of the power, against which an excitation shows."""
EXCITED_SIGMA = 5.0
TOLERANCE_NS = 1_000_000
"""For the rounding of tags."""

HIGHEST_ERROR = 0.3
"""Standard error beyond which an estimate is `ill_conditioned`, as a share of it."""
HIGHEST_RESIDUAL = 0.2
"""Residual beyond which it is a `model_mismatch`, as a share of what had to be explained."""
METHOD_ERROR = 0.04
RESIDUAL_ERROR = 0.6
"""What governors and the frequency of a bus in place of a rotor's add to the standard error, as a share of H, and how
much more of it there is for each unit of residual. Chosen on simulated grids, see `docs/estimating-inertia.md`."""
LOWEST_H_S, HIGHEST_H_S = 0.3, 60.0
TRIPPED_RATIO = 0.2
"""Share of its power below which a unit counts as tripped."""
IDLING_RATIO = 0.05
"""A unit with less power than this share of its rating cannot be told from one that trips."""
FEWEST_ROWS = 6
LEAST_APART = 1e-6
"""Least determinant of the normalised equations: with less, power and frequency have the same course."""

# Phases of a device.
IDLE, COLLECTING, RESTING = range(3)
# Columns of the tables `phases` (int64) and `levels` (float64), one row a device.
HEAD, COUNT, PHASE, SINCE_NS, LAST_NS, _PHASES = range(6)
MEAN_PU, VARIANCE, RATED_W, _LEVELS = range(4)
# Columns of the tables `found` (int64) and `values` (float64), one row an outcome.
ROW, OUTCOME, ONSET_NS, BEGIN_NS, ROWS, QUALITY, _FOUND = range(7)
H_S, ERROR_S, RESIDUAL, MOVED_HZ, POWER_RATIO, _VALUES = range(6)

NO_DATA, TRIPPED, NOT_EXCITED, ILL_CONDITIONED, MODEL_MISMATCH, IMPLAUSIBLE, OK = range(7)
STATUSES: dict[int, EstimateStatus] = {
    NO_DATA: "no_data",
    TRIPPED: "tripped",
    NOT_EXCITED: "not_excited",
    ILL_CONDITIONED: "ill_conditioned",
    MODEL_MISMATCH: "model_mismatch",
    IMPLAUSIBLE: "implausible",
    OK: "ok",
}
REASONS = {
    NO_DATA: "rows are missing in the window or in the second before it",
    TRIPPED: "power fell to {power_ratio:.0%} of what it was",
    NOT_EXCITED: "the frequency moved by {moved_mhz:.1f} mHz, less than {displacement_mhz:g} mHz",
    ILL_CONDITIONED: f"H = {{h_s:.2f}} s has a standard error of {{error_s:.2f}} s, more than {HIGHEST_ERROR:.0%}",
    MODEL_MISMATCH: f"{{residual:.0%}} of the course stays unexplained, more than {HIGHEST_RESIDUAL:.0%}",
    IMPLAUSIBLE: f"H = {{h_s:.2f}} s is not within {LOWEST_H_S:g} to {HIGHEST_H_S:g} s",
    OK: "",
}


class InertiaOnlineConfig(NodeConfig, frozen=True, kw_only=True):
    """A quick look at each unit's inertia, `window` after its power has stepped: indicative, no more.

    When the power leaves its mean over the last second by `excitation` of the unit's rating and by five times its
    standard deviation, the rows from 0.4 s before to `window` after that are taken, and
    `2H (w - c) = -integral(P - P0) - 2H X/w0 dP/dt` is solved for H, c and X by least squares: w is the frequency in
    pu, P0 the mean power over the second before. The last term is what the frequency of the terminals lacks of the
    rotor's, since the angle between them moves with the power. The power of the turbine counts as constant, so that a
    governor counts as inertia.

    What it is worth, with noise of 1 mHz and 0.1 % (see `docs/estimating-inertia.md`): accepted estimates of simulated
    grids of eight units are off by 4 % in the median, and nine in ten by at most 11 %. Those of ANDES records of six
    systems are off by 5 %, nine in ten by at most 15 %, one by half, and they are too high by 3 %. Two fifths of the
    units that were excited there are refused as `model_mismatch`, among them most of the IEEE 39-bus system, whose
    governors are faster than the window. Use it to see that something changed, and an estimate from an event to know by
    how much.

    Input:
        Samples with `frequency_hz` and `active_power_w`, the power out of the unit. With `accept_test`, for
        commissioning, rows of a device in test mode are used, and their flag passes on.
    Output:
        `InertiaEstimate` with `method` `online` and `indicative`, for each excitation of a unit, at most one in
        `period`. Its interval joins the standard error of the regression with a share of H for what the method leaves
        out, chosen so that 96 % of the intervals hold the truth on those records. `status` is `not_excited` when the
        frequency moved by less than `displacement`, `tripped` when the unit lost its power, `no_data` when its rows
        have a gap, `model_mismatch` when more than 20 % of the course stays unexplained, `ill_conditioned` when the
        standard error is beyond 30 %, and `implausible` when H is not within 0.3 to 60 s. A device without unit data is
        told once, as `no_unit_data`. `quality` holds the flags of all rows that were used.
    Errors:
        Rows that are not later than the last one of their device are dropped and counted as `out_of_order`, those of
        devices beyond `max_devices` as `too_many_devices`. Rows that are NaN, or flagged `bad_data`, `sync_lost` or
        `test`, are left out.
    Source:
        The swing equation in integral form with a sliding offset; a design of this project.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> from edgeflex_operators._units import GeneratingUnit
    >>> def row(k):  # H = 4 s, 100 MVA: 10 MW more at 2 s, and the frequency falls by 0.625 Hz/s
    ...     after_s = max(0.0, 0.02 * k - 2.01)
    ...     values = {"frequency_hz": 50.0 - 0.625 * after_s, "active_power_w": 60e6 + 10e6 * (after_s > 0)}
    ...     return 20_000_000 * k, "G1", values
    >>> config = InertiaOnlineConfig(units={"G1": GeneratingUnit(rated_power=100.0)})
    >>> [estimate] = step(config, start(config), samples_from_rows([row(k) for k in range(150)]))
    >>> estimate.status, round(estimate.h_s, 1), estimate.time_ns
    ('ok', 4.0, 2020000000)
    """

    units: Annotated[UnitTable, table("Data of the units by the name of the device at their terminals.")]
    window: Annotated[float, quantity("s", "Time after an excitation that is used.", ge=0.25, le=0.5)] = 0.5
    excitation: Annotated[
        float, Meta(gt=0, le=1, description="Change of power that counts as an excitation, as a share of the rating.")
    ] = 0.005
    displacement: Annotated[float, quantity("Hz", "How far the frequency must move in the window.", gt=0, le=5)] = 0.01
    period: Annotated[float, quantity("s", "Shortest time between two estimates of a unit.", ge=1, le=3600)] = 5.0
    nominal: Annotated[float, quantity("Hz", "Nominal frequency.", gt=0, le=400)] = 50.0
    max_gap: Annotated[
        float, quantity("s", "Longest time between two samples that does not end a window.", gt=0, le=0.25)
    ] = 0.1
    max_rate: Annotated[
        float,
        quantity("Hz", "Fastest rate of samples of one device; the windows of a faster one lack rows.", gt=0, le=1e4),
    ] = 120.0
    max_devices: Annotated[int, Meta(ge=1, le=1_000_000, description="How many devices may send.")] = 10_000
    accept_test: AcceptTest = False


@dataclass(slots=True)
class InertiaOnlineState:
    """Recent rows of all devices; tables have a row, rings a column for each slot of `clock`."""

    config: InertiaOnlineConfig
    rules: RowRules = field(init=False)
    config_digest: str = field(init=False)
    unit_digests: dict[str, str] = field(init=False)
    clock: DeviceClock = field(default_factory=DeviceClock)
    phases: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, _PHASES), dtype=np.int64))
    levels: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, _LEVELS)))
    ring_ns: NDArray[np.int64] = field(init=False)
    ring_hz: NDArray[np.float64] = field(init=False)
    ring_w: NDArray[np.float64] = field(init=False)
    ring_flags: NDArray[np.uint16] = field(init=False)
    known: int = 0
    """How many of the slots were asked for their unit data."""

    def __post_init__(self) -> None:
        self.adopt(self.config)

    def adopt(self, config: InertiaOnlineConfig) -> None:
        """Follow a config: what was collected for another one is dropped."""
        self.config = config
        self.rules = row_rules(
            REFUSED_QUALITY, accept_test=config.accept_test, max_gap_s=config.max_gap, max_devices=config.max_devices
        )
        self.config_digest = digest(config)
        self.unit_digests = {name: digest(unit) for name, unit in config.units.items()}
        capacity = math.ceil((BASELINE_S + config.window) * 1.001 * config.max_rate) + 3
        devices = len(self.phases)
        self.phases[:] = 0
        self.ring_ns = np.zeros((capacity, devices), dtype=np.int64)
        self.ring_hz = np.zeros((capacity, devices))
        self.ring_w = np.zeros((capacity, devices))
        self.ring_flags = np.zeros((capacity, devices), dtype=np.uint16)
        fill_rated_w(self.levels[:, RATED_W], self.config.units, self.clock.slot_of)

    def grow(self) -> None:
        """Make room for every device that has a slot."""
        used = self.clock.used
        self.phases = grown(self.phases, used)
        self.levels = grown(self.levels, used)
        self.ring_ns = grown_rings(self.ring_ns, used)
        self.ring_hz = grown_rings(self.ring_hz, used)
        self.ring_w = grown_rings(self.ring_w, used)
        self.ring_flags = grown_rings(self.ring_flags, used)
        fill_rated_w(self.levels[:, RATED_W], self.config.units, self.clock.slot_of)


@kernel(
    "Tuple((int64, int64, int64, float64, float64))(int64[:, ::1], int64[:, ::1], float64[:, ::1], float64[:, ::1], "
    "uint16[:, ::1], int64)"
)
def rest(
    phases: NDArray[np.int64],
    ring_ns: NDArray[np.int64],
    ring_hz: NDArray[np.float64],
    ring_w: NDArray[np.float64],
    ring_flags: NDArray[np.uint16],
    d: int,
) -> tuple[int, int, int, float, float]:
    """What the ring of slot `d` holds around the onset.

    Returns (place in the ring of the first row of the regression, or -1; rows at rest; flags of all rows from the rest
    on; mean frequency and mean power at rest).
    """
    count = phases[d, COUNT]
    first = phases[d, HEAD] - count
    rows = 0
    begin = -1
    flags = 0
    hz = 0.0
    w = 0.0
    for k in range(count):
        i = (first + k) % len(ring_ns)
        before_ns = phases[d, SINCE_NS] - ring_ns[i, d]
        if before_ns > BASELINE_S * 1e9 + TOLERANCE_NS:
            continue
        flags |= ring_flags[i, d]
        if before_ns >= FILTER_S * 1e9 - TOLERANCE_NS:
            hz += ring_hz[i, d]
            w += ring_w[i, d]
            rows += 1
        if begin < 0 and before_ns <= LEAD_S * 1e9 + TOLERANCE_NS:
            begin = k
    return begin, rows, flags, hz / max(rows, 1), w / max(rows, 1)


@kernel(
    "void(int64[:, ::1], int64[:, ::1], float64[:, ::1], float64[:, ::1], int64, int64, float64, float64, float64, "
    "float64, float64[::1])"
)
def sum_up(
    phases: NDArray[np.int64],
    ring_ns: NDArray[np.int64],
    ring_hz: NDArray[np.float64],
    ring_w: NDArray[np.float64],
    d: int,
    begin: int,
    rest_hz: float,
    rest_w: float,
    nominal_hz: float,
    rated_w: float,
    sums: NDArray[np.float64],
) -> None:
    """Sums of y, the integral of P - P0, of v = -w, of x = -dP/dt / w0, and of their products: y, v, x, yy, vv, xx, yv,
    yx, vx."""
    capacity = len(ring_ns)
    first = phases[d, HEAD] - phases[d, COUNT]
    sums[:] = 0.0
    y = 0.0
    for k in range(begin, phases[d, COUNT] - 1):
        i0 = (first + k - 1) % capacity
        i = (first + k) % capacity
        i1 = (first + k + 1) % capacity
        if k > begin:
            mean_w = 0.5 * (ring_w[i0, d] + ring_w[i, d]) - rest_w
            y += mean_w / rated_w * (ring_ns[i, d] - ring_ns[i0, d]) * 1e-9
        v = -(ring_hz[i, d] - rest_hz) / nominal_hz
        slope_w_per_s = (ring_w[i1, d] - ring_w[i0, d]) / ((ring_ns[i1, d] - ring_ns[i0, d]) * 1e-9)
        x = -slope_w_per_s / rated_w / (2.0 * np.pi * nominal_hz)
        sums[0] += y
        sums[1] += v
        sums[2] += x
        sums[3] += y * y
        sums[4] += v * v
        sums[5] += x * x
        sums[6] += y * v
        sums[7] += y * x
        sums[8] += v * x


@kernel("UniTuple(float64, 3)(float64[::1], int64)")
def solve(sums: NDArray[np.float64], n: int) -> tuple[float, float, float]:
    """Least squares of y = 2H v + 2H X x + const over `n` rows.

    Returns (H, its standard error, residual as a share of y); the error is infinite where v and x cannot be told apart.
    """
    yy = sums[3] - sums[0] * sums[0] / n
    vv = sums[4] - sums[1] * sums[1] / n
    xx = sums[5] - sums[2] * sums[2] / n
    yv = sums[6] - sums[0] * sums[1] / n
    yx = sums[7] - sums[0] * sums[2] / n
    vx = sums[8] - sums[1] * sums[2] / n
    apart = vv * xx - vx * vx
    if not apart > LEAST_APART * vv * xx:
        return np.nan, np.inf, 0.0
    of_v = (yv * xx - yx * vx) / apart
    of_x = (yx * vv - yv * vx) / apart
    left = max(yy - of_v * yv - of_x * yx, 0.0)
    return 0.5 * of_v, 0.5 * np.sqrt(left / (n - 3) * xx / apart), np.sqrt(left / yy)


@kernel(
    "int64(int64[:, ::1], float64[:, ::1], int64[:, ::1], float64[:, ::1], float64[:, ::1], uint16[:, ::1], "
    "int64, float64, float64, int64, int64[:, ::1], float64[:, ::1])"
)
def conclude(
    phases: NDArray[np.int64],
    levels: NDArray[np.float64],
    ring_ns: NDArray[np.int64],
    ring_hz: NDArray[np.float64],
    ring_w: NDArray[np.float64],
    ring_flags: NDArray[np.uint16],
    d: int,
    nominal_hz: float,
    displacement_hz: float,
    at: int,
    found: NDArray[np.int64],
    values: NDArray[np.float64],
) -> int:
    """Fill row `at` of `found` and `values` from the rows that the ring of slot `d` holds. Returns the outcome."""
    capacity = len(ring_ns)
    count = phases[d, COUNT]
    first = phases[d, HEAD] - count
    newest = (first + count - 1) % capacity
    rated_w = levels[d, RATED_W]
    begin, resting, flags, rest_hz, rest_w = rest(phases, ring_ns, ring_hz, ring_w, ring_flags, d)
    enough = resting >= 3 and begin >= 1 and count - begin >= FEWEST_ROWS
    found[at, ONSET_NS] = phases[d, SINCE_NS]
    found[at, QUALITY] = flags
    found[at, BEGIN_NS] = ring_ns[(first + max(begin, 0)) % capacity, d]
    found[at, ROWS] = count - max(begin, 0)
    values[at, :] = np.nan
    values[at, POWER_RATIO] = ring_w[newest, d] / rest_w
    values[at, MOVED_HZ] = ring_hz[newest, d] - rest_hz
    outcome = OK
    if not enough:
        outcome = NO_DATA
    elif abs(rest_w) > IDLING_RATIO * rated_w and values[at, POWER_RATIO] < TRIPPED_RATIO:
        outcome = TRIPPED
    elif abs(values[at, MOVED_HZ]) < displacement_hz:
        outcome = NOT_EXCITED
    if outcome != OK:
        return outcome
    sums = np.empty(9)
    sum_up(phases, ring_ns, ring_hz, ring_w, d, begin, rest_hz, rest_w, nominal_hz, rated_w, sums)
    h_s, error_s, residual = solve(sums, count - 1 - begin)
    values[at, H_S] = h_s
    values[at, ERROR_S] = error_s
    values[at, RESIDUAL] = residual
    if residual > HIGHEST_RESIDUAL:
        outcome = MODEL_MISMATCH
    elif not error_s <= HIGHEST_ERROR * abs(h_s):
        outcome = ILL_CONDITIONED
    elif not LOWEST_H_S <= h_s <= HIGHEST_H_S:
        outcome = IMPLAUSIBLE
    return outcome


@kernel("void(int64[:, ::1], int64, int64, int64, int64[:, ::1], float64[:, ::1])")
def give_up(
    phases: NDArray[np.int64], d: int, row: int, at: int, found: NDArray[np.int64], values: NDArray[np.float64]
) -> None:
    """Fill row `at` for a window of slot `d` that a gap has ended."""
    found[at, ROW] = row
    found[at, OUTCOME] = NO_DATA
    found[at, ONSET_NS] = phases[d, SINCE_NS]
    found[at, BEGIN_NS] = phases[d, SINCE_NS]
    found[at, ROWS] = 0
    found[at, QUALITY] = 0
    values[at, :] = np.nan


@kernel(
    f"int64(int32[::1], uint8[::1], {read_only('int64')}, {read_only('float64')}, {read_only('float64')}, "
    f"{read_only('uint16')}, int64, int64, float64, float64, float64, int64[:, ::1], float64[:, ::1], int64[:, ::1], "
    "float64[:, ::1], float64[:, ::1], uint16[:, ::1], int64[:, ::1], float64[:, ::1])"
)
def watch(
    slot: NDArray[np.int32],
    verdict: NDArray[np.uint8],
    time_ns: NDArray[np.int64],
    frequency_hz: NDArray[np.float64],
    power_w: NDArray[np.float64],
    quality: NDArray[np.uint16],
    window_ns: int,
    period_ns: int,
    excitation_pu: float,
    nominal_hz: float,
    displacement_hz: float,
    phases: NDArray[np.int64],
    levels: NDArray[np.float64],
    ring_ns: NDArray[np.int64],
    ring_hz: NDArray[np.float64],
    ring_w: NDArray[np.float64],
    ring_flags: NDArray[np.uint16],
    found: NDArray[np.int64],
    values: NDArray[np.float64],
) -> int:
    """Follow each device by its rows; fill `found` and `values` with what comes of its excitations. Returns how many.

    O(1) a row, and O(window) once for each excitation.
    """
    capacity = len(ring_ns)
    told = 0
    for i in range(len(time_ns)):
        if verdict[i] > RESTARTS:
            continue
        d = slot[i]
        rated_w = levels[d, RATED_W]
        if rated_w == 0.0:
            continue
        now = time_ns[i]
        power_pu = power_w[i] / rated_w
        if verdict[i] == RESTARTS:
            if phases[d, PHASE] == COLLECTING:
                give_up(phases, d, i, told, found, values)
                told += 1
            phases[d, COUNT] = 0
            phases[d, PHASE] = IDLE
            levels[d, MEAN_PU] = power_pu
            levels[d, VARIANCE] = 0.0
        at = phases[d, HEAD]
        ring_ns[at, d] = now
        ring_hz[at, d] = frequency_hz[i]
        ring_w[at, d] = power_w[i]
        ring_flags[at, d] = quality[i]
        phases[d, HEAD] = 0 if at + 1 == capacity else at + 1
        phases[d, COUNT] = min(phases[d, COUNT] + 1, capacity)
        off = power_pu - levels[d, MEAN_PU]
        share = min(1.0, (now - phases[d, LAST_NS]) * 1e-9 / MEMORY_S)
        variance = levels[d, VARIANCE]
        threshold = max(excitation_pu, EXCITED_SIGMA * np.sqrt(variance))
        levels[d, MEAN_PU] += share * off
        if phases[d, PHASE] != COLLECTING:
            levels[d, VARIANCE] = (1.0 - share) * (levels[d, VARIANCE] + share * off * off)
        phases[d, LAST_NS] = now
        if phases[d, PHASE] == RESTING and now - phases[d, SINCE_NS] >= period_ns:
            phases[d, PHASE] = IDLE
        if phases[d, PHASE] == IDLE:
            oldest = phases[d, HEAD] - phases[d, COUNT]
            oldest = oldest + capacity if oldest < 0 else oldest
            if abs(off) > threshold and now - ring_ns[oldest, d] >= MEMORY_S * 1e9 - TOLERANCE_NS:
                phases[d, PHASE] = COLLECTING
                phases[d, SINCE_NS] = now
                levels[d, VARIANCE] = variance
        elif phases[d, PHASE] == COLLECTING and now - phases[d, SINCE_NS] >= window_ns - TOLERANCE_NS:
            found[told, ROW] = i
            found[told, OUTCOME] = conclude(
                phases,
                levels,
                ring_ns,
                ring_hz,
                ring_w,
                ring_flags,
                d,
                nominal_hz,
                displacement_hz,
                told,
                found,
                values,
            )
            told += 1
            phases[d, PHASE] = RESTING
            levels[d, MEAN_PU] = power_pu
    return told


def start(config: InertiaOnlineConfig) -> InertiaOnlineState:
    return InertiaOnlineState(config)


def step(config: InertiaOnlineConfig, state: InertiaOnlineState, samples: Samples) -> list[WireMessage]:
    if config is not state.config and config != state.config:
        state.adopt(config)
    state.config = config
    frequency_hz, power_w = samples.columns["frequency_hz"], samples.columns["active_power_w"]
    both_there = np.where(np.isfinite(power_w), frequency_hz, np.nan)
    both_there, strange = near_nominal(samples, both_there, config.nominal)
    slot, verdict, letters = state.clock.follow(samples, both_there, state.rules)
    letters += strange
    messages: list[WireMessage] = []
    if state.clock.used > state.known:
        state.grow()
        new = list(state.clock.slot_of)[state.known :]
        state.known = state.clock.used
        messages += without_data(
            new,
            config.units,
            int(samples.time_ns[-1]),
            method="online",
            indicative=True,
            config_digest=state.config_digest,
            version=VERSION,
        )
    found = np.empty((samples.rows, _FOUND), dtype=np.int64)
    values = np.empty((samples.rows, _VALUES))
    told = watch(
        slot,
        verdict,
        samples.time_ns,
        frequency_hz,
        power_w,
        samples.quality,
        round(config.window * 1e9),
        round(config.period * 1e9),
        config.excitation,
        config.nominal,
        config.displacement,
        state.phases,
        state.levels,
        state.ring_ns,
        state.ring_hz,
        state.ring_w,
        state.ring_flags,
        found,
        values,
    )
    messages += [_estimate(state, samples, found[k].tolist(), values[k].tolist()) for k in range(told)]
    return [*messages, *letters]


def _estimate(state: InertiaOnlineState, samples: Samples, found: list[int], values: list[float]) -> InertiaEstimate:
    device = samples.devices[samples.device[found[ROW]]]
    unit = state.config.units[device]
    estimate = InertiaEstimate(
        event_id=f"{device}@{found[ONSET_NS]}",
        device=device,
        time_ns=found[ONSET_NS],
        method="online",
        indicative=True,
        status=STATUSES[found[OUTCOME]],
        reason=_reason(state.config, found[OUTCOME], values),
        rated_power_mva=unit.rated_power,
        nominal_hz=state.config.nominal,
        begin_ns=found[BEGIN_NS],
        end_ns=int(samples.time_ns[found[ROW]]),
        rows=found[ROWS],
        quality=found[QUALITY],
        config_digest=state.config_digest,
        unit_digest=state.unit_digests[device],
        version=VERSION,
    )
    if found[OUTCOME] != OK:
        return estimate
    h_s = values[H_S]
    reach_s = 1.96 * math.hypot(values[ERROR_S], (METHOD_ERROR + RESIDUAL_ERROR * values[RESIDUAL]) * h_s)
    return msgspec.structs.replace(
        estimate,
        remarks=("bus_frequency",),
        h_s=h_s,
        h_ci95_low_s=h_s - reach_s,
        h_ci95_high_s=h_s + reach_s,
        kinetic_energy_mws=h_s * unit.rated_power,
    )


def _reason(config: InertiaOnlineConfig, outcome: int, values: list[float]) -> str:
    """Why an estimate is not accepted, with the numbers that decided."""
    return REASONS[outcome].format(
        h_s=values[H_S],
        error_s=values[ERROR_S],
        residual=values[RESIDUAL],
        moved_mhz=1e3 * values[MOVED_HZ],
        displacement_mhz=1e3 * config.displacement,
        power_ratio=values[POWER_RATIO],
    )


def _output(_config: InertiaOnlineConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(InertiaEstimate)


def _delays(config: InertiaOnlineConfig) -> Delays:
    return Delays(onset_window_s=config.window)


NODE = OperatorNode(
    kind="inertia_online",
    config=InertiaOnlineConfig,
    inputs={"in": Input(accepts=(Samples,), needs=("frequency_hz", "active_power_w"), step=step)},
    output=_output,
    start=start,
    delays=_delays,
)
