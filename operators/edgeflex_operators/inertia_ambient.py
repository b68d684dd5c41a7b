"""`inertia_ambient`: the inertia of a unit from minutes of ambient load noise, without any event."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

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
    near_nominal,
    read_only,
    row_rules,
)
from edgeflex_operators._units import GeneratingUnit, UnitTable, digest, fill_rated_w, without_data

REFUSED_QUALITY = int(Quality.BAD_DATA | Quality.SYNC_LOST)
VERSION = f"{__version__}/ambient-1"

SEGMENT_S = 40.0
HOP_S = SEGMENT_S / 2
"""Segments overlap by half: two Hann windows add up to 1."""
LOWEST_BIN, HIGHEST_BIN = 4, 60
"""Of 1/40 Hz each: 0.1 to 1.5 Hz. Below, slow control rules; above, the angle between rotor and terminals does."""
BINS = HIGHEST_BIN - LOWEST_BIN + 1
S = 2j * np.pi / SEGMENT_S * np.arange(LOWEST_BIN, HIGHEST_BIN + 1)
"""Laplace's s at each bin."""
ROUNDS = 5

VALVE_LAGS_S = (0.05, 0.1, 0.2, 0.4)
FLUX_LAG_S = 0.4
"""Of the part of the angle between rotor and terminals that follows the power late, as the rotor's flux does."""
SMOOTHED_BINS = 5
MODEL_ERROR = 0.02
"""What the model leaves out at each bin, as a share: without it the few bins that are known best would decide alone."""
NEIGHBOURS = 1.94
"""Sum of squared correlations of a bin with its neighbours under a Hann window: so much less do the bins tell."""
METHOD_ERROR = 0.06
"""What the model leaves out, as a share of H, beside the standard error. Chosen on simulated grids, see
`docs/estimating-inertia.md`."""
UNSURE_ERROR = 0.5
"""Of what power and frequency do not have in common, so much is counted as an error that averaging does not remove: it
may be noise of the frequency, which makes the response look weaker than it is."""

LEAST_SEGMENTS = 0.8
"""Share of the segments of a window that must be there."""
LEAST_COHERENCE = 0.6
HIGHEST_ERROR = 0.15
HIGHEST_MISFIT = 12.0
"""Weighted mean square of the residuals, 1 where only noise is left."""
LOWEST_H_S, HIGHEST_H_S = 0.3, 60.0
IDLING_RATIO = 0.02
"""A unit with less power than this share of its rating is taken to be off the grid."""

# Columns of the tables `marks` (int64) and `levels` (float64), one row a device.
BEGIN_NS, ORIGIN_NS, LAST_NS, BEFORE_NS, PENDING, HOPS, ROWS, FLAGS, SEGMENTS, IDLE_ROWS, STARTED, _MARKS = range(12)
RATED_W, LAST_HZ, LAST_W, REST_HZ, REST_W, _LEVELS = range(6)
# Rows of `sums` (real and imaginary part of both transforms) and of `spectra` (auto and cross).
HZ_RE, HZ_IM, W_RE, W_IM = range(4)
S_HZ, S_W, S_RE, S_IM = range(4)


class InertiaAmbientConfig(NodeConfig, frozen=True, kw_only=True):
    """The inertia of each unit from at least ten minutes of ambient noise: loads that wander, and nothing else.

    A load that changes moves both the power of a unit and its frequency. What lies between the two is the unit itself:
    from 0.1 to 1.5 Hz, `-P = (2H s + G / (1 + s T) + E / s) w`, inertia and the fast and slow part of its governor,
    where the rotor's speed is `w = f + s (X + X1 / (1 + s T1)) P / w0`, since PMUs see the terminals and the angle
    between the two moves with the power. The response of power to frequency is averaged over half-overlapping segments
    of 40 s, and H, G, E, X and X1 follow by least squares, weighted with how surely each frequency is known; T is the
    best of four, T1 is 0.4 s. Noise on the power does no harm, as the frequency is the instrument; the frequency's own
    noise must be small beside what the loads do to it. A unit without governor (`governor: null`) has a constant in
    place of G and E.

    What it is worth is told in `docs/estimating-inertia.md`. With loads that wander by 1 % and noise of 1 mHz and
    0.1 % at 50 frames/s, the median error is 2 %, and nine in ten are within 5 %; with governors as fast as those of
    the IEEE 39-bus system, 5 % and 13 %. All of that is simulated, with turbines that make no noise of their own: where
    a turbine does, its noise goes into the estimate.

    Input:
        Samples with `frequency_hz` and `active_power_w`, the power out of the unit, at 25 frames/s or more. With
        `accept_test`, for commissioning, rows of a device in test mode are used, and their flag passes on.
    Output:
        `InertiaEstimate` with `method` `ambient` for each unit at the end of each `window`. The interval of 95 % joins
        the standard error of the fit with 6 % of H for what the model leaves out. `status` is `not_excited` when the
        frequency moves by less than `excitation` or power and frequency do not belong together (median coherence below
        0.6), `tripped` when the unit was idle, `no_data` when less than 80 % of the window could be used,
        `model_mismatch` when the fit leaves more than noise, `ill_conditioned` when the standard error is beyond 15 %,
        and `implausible` when H is not within 0.3 to 60 s. A device without unit data is told once, as `no_unit_data`.
        `quality` holds the flags of all rows that were used.
    Errors:
        Rows that are not later than the last one of their device are dropped and counted as `out_of_order`, those of
        devices beyond `max_devices` as `too_many_devices`. Rows that are NaN, or flagged `bad_data`, `sync_lost` or
        `test`, are bridged by their neighbours; a gap of more than `max_gap` costs the segments that it falls into.
    Source:
        Identification of a transfer function from ambient data, as ARMAX does it for areas, here by averaged spectra
        (Welch's method) with frequency as the instrument; a design of this project.

    >>> from edgeflex_operators._units import GeneratingUnit
    >>> rows = np.arange(31_000)
    >>> angle = 2 * np.pi * rows / 50 * np.arange(4, 61)[:, None] / 40 + np.arange(57)[:, None] ** 2
    >>> rate = 2 * np.pi * np.arange(4, 61)[:, None] / 40
    >>> samples = Samples(
    ...     time_ns=rows * 20_000_000,
    ...     device=np.zeros(len(rows), dtype=np.int32),
    ...     devices=("G1",),
    ...     columns={
    ...         "frequency_hz": 50.0 + 0.001 * np.cos(angle).sum(axis=0),
    ...         "active_power_w": 60e6 + 16e6 * 0.001 * (rate * np.sin(angle)).sum(axis=0),  # H = 4 s
    ...     },
    ...     quality=np.zeros(len(rows), dtype=np.uint16),
    ...     received_ns=0,
    ... )
    >>> config = InertiaAmbientConfig(units={"G1": GeneratingUnit(rated_power=100.0)})
    >>> [estimate] = step(config, start(config), samples)
    >>> estimate.status, round(estimate.h_s, 2)
    ('ok', 4.0)
    """

    units: Annotated[UnitTable, table("Data of the units by the name of the device at their terminals.")]
    window: Annotated[float, quantity("s", "How much noise makes one estimate.", ge=600, le=14_400)] = 600.0
    excitation: Annotated[
        float, quantity("Hz", "Least rms of the frequency from 0.1 to 1.5 Hz that tells anything.", gt=0, le=1)
    ] = 0.001
    nominal: Annotated[float, quantity("Hz", "Nominal frequency.", gt=0, le=400)] = 50.0
    max_gap: Annotated[float, quantity("s", "Longest time between two samples that is bridged.", gt=0, le=0.5)] = 0.2
    max_devices: Annotated[int, Meta(ge=1, le=1_000_000, description="How many devices may send.")] = 10_000
    accept_test: AcceptTest = False


@dataclass(slots=True)
class InertiaAmbientState:
    """Spectra of all devices, some 6 KB each; tables have a row for each slot of `clock`."""

    config: InertiaAmbientConfig
    rules: RowRules = field(init=False)
    config_digest: str = field(init=False)
    unit_digests: dict[str, str] = field(init=False)
    clock: DeviceClock = field(default_factory=DeviceClock)
    marks: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, _MARKS), dtype=np.int64))
    levels: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, _LEVELS)))
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2, 4, BINS)))
    """Transforms of the two segments that are under way."""
    spectra: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4, BINS)))
    """Sums over the segments of the window."""
    known: int = 0
    """How many of the slots were asked for their unit data."""

    def __post_init__(self) -> None:
        self.adopt(self.config)

    def adopt(self, config: InertiaAmbientConfig) -> None:
        """Follow a config; what was gathered stays, since nothing in it depends on the config."""
        self.config = config
        self.rules = row_rules(
            REFUSED_QUALITY, accept_test=config.accept_test, max_gap_s=config.max_gap, max_devices=config.max_devices
        )
        self.config_digest = digest(config)
        self.unit_digests = {name: digest(unit) for name, unit in config.units.items()}
        fill_rated_w(self.levels[:, RATED_W], self.config.units, self.clock.slot_of)

    def grow(self) -> None:
        """Make room for every device that has a slot."""
        used = self.clock.used
        self.marks = grown(self.marks, used)
        self.levels = grown(self.levels, used)
        self.sums = grown(self.sums, used)
        self.spectra = grown(self.spectra, used)
        fill_rated_w(self.levels[:, RATED_W], self.config.units, self.clock.slot_of)


@kernel("void(int64[:, ::1], float64[:, :, :, ::1], float64[:, :, ::1], int64, int64)")
def close_segment(
    marks: NDArray[np.int64], sums: NDArray[np.float64], spectra: NDArray[np.float64], d: int, hop: int
) -> None:
    """Let the row at hop `hop` of slot `d` begin a segment; the one whose place it takes counts if it is whole."""
    s = sums[d, hop % 2]
    if hop >= 2:
        marks[d, SEGMENTS] += 1
        for b in range(BINS):
            spectra[d, S_HZ, b] += s[HZ_RE, b] * s[HZ_RE, b] + s[HZ_IM, b] * s[HZ_IM, b]
            spectra[d, S_W, b] += s[W_RE, b] * s[W_RE, b] + s[W_IM, b] * s[W_IM, b]
            spectra[d, S_RE, b] += s[W_RE, b] * s[HZ_RE, b] + s[W_IM, b] * s[HZ_IM, b]
            spectra[d, S_IM, b] += s[W_IM, b] * s[HZ_RE, b] - s[W_RE, b] * s[HZ_IM, b]
    for row in range(4):
        for b in range(BINS):
            s[row, b] = 0.0
    marks[d, HOPS] = hop


@kernel("void(int64[:, ::1], float64[:, ::1], float64[:, :, :, ::1], float64[:, :, ::1], int64, float64)")
def add_row(
    marks: NDArray[np.int64],
    levels: NDArray[np.float64],
    sums: NDArray[np.float64],
    spectra: NDArray[np.float64],
    d: int,
    weight_s: float,
) -> None:
    """Add the last row of slot `d` to the transforms of the two segments that it lies in."""
    time_s = (marks[d, LAST_NS] - marks[d, ORIGIN_NS]) * 1e-9
    hop = int(time_s / HOP_S)
    while marks[d, HOPS] < hop:
        close_segment(marks, sums, spectra, d, marks[d, HOPS] + 1)
    rising = 0.5 - 0.5 * np.cos(2.0 * np.pi * (time_s - hop * HOP_S) / SEGMENT_S)
    new = sums[d, hop % 2]
    old = sums[d, (hop + 1) % 2]
    hz = (levels[d, LAST_HZ] - levels[d, REST_HZ]) * weight_s
    w = (levels[d, LAST_W] - levels[d, REST_W]) * weight_s
    turn = -2.0 * np.pi / SEGMENT_S * time_s
    step_re, step_im = np.cos(turn), np.sin(turn)
    re, im = np.cos(LOWEST_BIN * turn), np.sin(LOWEST_BIN * turn)
    for b in range(BINS):
        new[HZ_RE, b] += rising * hz * re
        new[HZ_IM, b] += rising * hz * im
        new[W_RE, b] += rising * w * re
        new[W_IM, b] += rising * w * im
        old[HZ_RE, b] += (1.0 - rising) * hz * re
        old[HZ_IM, b] += (1.0 - rising) * hz * im
        old[W_RE, b] += (1.0 - rising) * w * re
        old[W_IM, b] += (1.0 - rising) * w * im
        re, im = re * step_re - im * step_im, re * step_im + im * step_re


@kernel("void(int64[:, ::1], float64[:, ::1], float64[:, :, :, ::1], int64, int64, float64, float64)")
def restart(
    marks: NDArray[np.int64],
    levels: NDArray[np.float64],
    sums: NDArray[np.float64],
    d: int,
    now_ns: int,
    hz: float,
    w: float,
) -> None:
    """Begin the segments of slot `d` anew."""
    if marks[d, STARTED] == 0 or now_ns < marks[d, BEGIN_NS]:
        marks[d, STARTED] = 1
        marks[d, BEGIN_NS] = now_ns
    marks[d, ORIGIN_NS] = now_ns
    marks[d, PENDING] = 0
    marks[d, HOPS] = 0
    levels[d, REST_HZ] = hz
    levels[d, REST_W] = w
    sums[d] = 0.0


@kernel(
    f"UniTuple(int64, 2)(int64, int32[::1], uint8[::1], {read_only('int64')}, {read_only('float64')}, "
    f"{read_only('float64')}, {read_only('uint16')}, int64, int64[:, ::1], float64[:, ::1], "
    "float64[:, :, :, ::1], float64[:, :, ::1])"
)
def gather(
    begin: int,
    slot: NDArray[np.int32],
    verdict: NDArray[np.uint8],
    time_ns: NDArray[np.int64],
    frequency_hz: NDArray[np.float64],
    power_w: NDArray[np.float64],
    quality: NDArray[np.uint16],
    window_ns: int,
    marks: NDArray[np.int64],
    levels: NDArray[np.float64],
    sums: NDArray[np.float64],
    spectra: NDArray[np.float64],
) -> tuple[int, int]:
    """Add rows from `begin` on to the spectra of their devices, until the window of one of them ends.

    Returns (row reached, slot whose window ended), or (n, -1). Each row is added when the next one comes, which tells
    how long it stands for.
    """
    for i in range(begin, len(time_ns)):
        if verdict[i] > RESTARTS:
            continue
        d = slot[i]
        if levels[d, RATED_W] == 0.0:
            continue
        now = time_ns[i]
        if verdict[i] == RESTARTS:
            restart(marks, levels, sums, d, now, frequency_hz[i], power_w[i])
        hops = marks[d, HOPS]
        if marks[d, PENDING] > 0:
            since = marks[d, BEFORE_NS] if marks[d, PENDING] > 1 else marks[d, LAST_NS]
            add_row(marks, levels, sums, spectra, d, 0.5e-9 * (now - since))
        marks[d, PENDING] = min(marks[d, PENDING] + 1, 2)
        marks[d, BEFORE_NS] = marks[d, LAST_NS]
        marks[d, LAST_NS] = now
        levels[d, LAST_HZ] = frequency_hz[i]
        levels[d, LAST_W] = power_w[i]
        marks[d, ROWS] += 1
        marks[d, FLAGS] |= quality[i]
        if abs(power_w[i]) < IDLING_RATIO * levels[d, RATED_W]:
            marks[d, IDLE_ROWS] += 1
        if marks[d, HOPS] != hops and now - marks[d, BEGIN_NS] >= window_ns:
            return i + 1, d
    return len(time_ns), -1


class Fit(NamedTuple):
    """What the spectra of a window tell."""

    h_s: float
    error_s: float
    """Standard error of H."""
    misfit: float
    coherence: float
    """Median over the bins."""
    moved_hz: float
    """Rms of the frequency within the band."""


def fit_spectra(spectra: NDArray[np.float64], segments: int, unit: GeneratingUnit, nominal_hz: float) -> Fit:
    """H and the rest from the sums of spectra over `segments`."""
    frequency = spectra[S_HZ] / nominal_hz**2
    power = spectra[S_W] / (unit.rated_power * 1e6) ** 2
    cross = (spectra[S_RE] + 1j * spectra[S_IM]) / (nominal_hz * unit.rated_power * 1e6)
    moved_hz = math.sqrt(2.0 * spectra[S_HZ].sum() / segments / (0.375 * SEGMENT_S**2))
    if not (frequency.min() > 0.0 and power.min() > 0.0):
        return Fit(math.nan, math.inf, math.inf, 0.0, moved_hz)
    coherence = np.abs(cross) ** 2 / (frequency * power)
    response = -cross / frequency
    apart = np.convolve(np.pad(1.0 - coherence, SMOOTHED_BINS // 2, mode="edge"), np.ones(SMOOTHED_BINS), "valid")
    apart /= SMOOTHED_BINS
    # Of the real and of the imaginary part each.
    share = apart / segments + MODEL_ERROR**2 + (UNSURE_ERROR * apart) ** 2
    variance = 0.5 * power / frequency * share
    best = Fit(math.nan, math.inf, math.inf, float(np.median(coherence)), moved_hz)
    for lag_s in VALVE_LAGS_S[:1] if unit.governor is None else VALVE_LAGS_S:
        of_governor = [np.ones_like(S)] if unit.governor is None else [1.0 / (1.0 + S * lag_s), 1.0 / S]
        h_s, error_s, misfit = _fit_response(response, variance, np.stack([S, *of_governor]), nominal_hz)
        if misfit < best.misfit:
            best = best._replace(h_s=h_s, error_s=error_s, misfit=misfit)
    return best


def _fit_response(
    response: NDArray[np.complex128],
    variance: NDArray[np.float64],
    of_rotor: NDArray[Any],
    nominal_hz: float,
) -> tuple[float, float, float]:
    """H, its standard error and the misfit of `response = sum of of_rotor / D`, D being what the terminals add.

    Multiplied by D, this is linear. The response is noisy, though, and would stand on both sides: so its model from the
    round before is the instrument, and takes its place in the weights.
    """
    turn = -(S**2) / (2.0 * np.pi * nominal_hz)
    of_terminals = np.stack([turn, turn / (1.0 + S * FLUX_LAG_S)])
    model = response
    around = np.ones_like(S)
    found = np.zeros(0)
    covariance = np.zeros((0, 0))
    for _ in range(ROUNDS):
        weight = 1.0 / (np.sqrt(variance) * np.abs(around))
        columns = _parts(np.concatenate([of_rotor, of_terminals * response]) * weight)
        instruments = _parts(np.concatenate([of_rotor, of_terminals * model]) * weight)
        scale = np.sqrt((columns**2).sum(axis=1))
        columns /= scale[:, None]
        instruments /= scale[:, None]
        inverse = np.linalg.pinv(instruments @ columns.T)
        found = inverse @ instruments @ _parts(response * weight) / scale
        covariance = inverse @ (instruments @ instruments.T) @ inverse.T / np.outer(scale, scale)
        around = 1.0 - found[-2:] @ of_terminals
        model = found[:-2] @ of_rotor / around
    left = _parts((response - model) / np.sqrt(variance))
    misfit = float(left @ left) / (len(left) - len(found))
    return 0.5 * float(found[0]), 0.5 * math.sqrt(max(misfit, 1.0) * NEIGHBOURS * covariance[0, 0]), misfit


def _parts(values: NDArray[Any]) -> NDArray[np.float64]:
    """Real parts, then imaginary parts, along the last axis."""
    return np.concatenate([np.real(values), np.imag(values)], axis=-1)


def start(config: InertiaAmbientConfig) -> InertiaAmbientState:
    return InertiaAmbientState(config)


def step(config: InertiaAmbientConfig, state: InertiaAmbientState, samples: Samples) -> list[WireMessage]:
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
            method="ambient",
            config_digest=state.config_digest,
            version=VERSION,
        )
    row = 0
    while row < samples.rows:
        row, ended = gather(
            row,
            slot,
            verdict,
            samples.time_ns,
            frequency_hz,
            power_w,
            samples.quality,
            round(config.window * 1e9),
            state.marks,
            state.levels,
            state.sums,
            state.spectra,
        )
        if ended >= 0:
            messages.append(_estimate(state, ended, samples.devices[samples.device[row - 1]]))
    return [*messages, *letters]


def _estimate(state: InertiaAmbientState, slot: int, device: str) -> InertiaEstimate:
    """The estimate at the end of a window, which then begins anew."""
    unit = state.config.units[device]
    marks = state.marks[slot].tolist()
    segments = marks[SEGMENTS]
    fit = fit_spectra(state.spectra[slot], max(segments, 1), unit, state.config.nominal)
    status, reason = _verdict(state.config, marks, fit)
    estimate = InertiaEstimate(
        event_id=f"{device}@{marks[LAST_NS]}",
        device=device,
        time_ns=marks[LAST_NS],
        method="ambient",
        status=status,
        reason=reason,
        rated_power_mva=unit.rated_power,
        nominal_hz=state.config.nominal,
        begin_ns=marks[BEGIN_NS],
        end_ns=marks[LAST_NS],
        rows=marks[ROWS],
        quality=marks[FLAGS],
        config_digest=state.config_digest,
        unit_digest=state.unit_digests[device],
        version=VERSION,
    )
    state.spectra[slot] = 0.0
    state.marks[slot, [ROWS, FLAGS, SEGMENTS, IDLE_ROWS]] = 0
    state.marks[slot, BEGIN_NS] = marks[LAST_NS]
    if status != "ok":
        return estimate
    reach_s = 1.96 * math.hypot(fit.error_s, METHOD_ERROR * fit.h_s)
    return msgspec.structs.replace(
        estimate,
        remarks=("bus_frequency",),
        h_s=fit.h_s,
        h_ci95_low_s=fit.h_s - reach_s,
        h_ci95_high_s=fit.h_s + reach_s,
        kinetic_energy_mws=fit.h_s * unit.rated_power,
    )


def _verdict(config: InertiaAmbientConfig, marks: list[int], fit: Fit) -> tuple[EstimateStatus, str]:
    """Whether an estimate is accepted; if not, why not, with the numbers that decided."""
    whole = config.window / HOP_S - 1.0
    checks: tuple[tuple[bool, EstimateStatus, str], ...] = (
        (
            marks[SEGMENTS] < LEAST_SEGMENTS * whole,
            "no_data",
            f"{marks[SEGMENTS]} of {whole:.0f} segments of {SEGMENT_S:g} s are whole, fewer than {LEAST_SEGMENTS:.0%}",
        ),
        (marks[IDLE_ROWS] > 0, "tripped", f"the power is below {IDLING_RATIO:.0%} of the rating in some rows"),
        (
            fit.moved_hz < config.excitation,
            "not_excited",
            f"the frequency moves by {1e3 * fit.moved_hz:.2f} mHz rms, less than {1e3 * config.excitation:g} mHz",
        ),
        (
            fit.coherence < LEAST_COHERENCE,
            "not_excited",
            f"power and frequency have a coherence of {fit.coherence:.2f}, less than {LEAST_COHERENCE:g}",
        ),
        (
            fit.misfit > HIGHEST_MISFIT,
            "model_mismatch",
            f"residuals are {fit.misfit:.1f} times what noise leaves, more than {HIGHEST_MISFIT:g}",
        ),
        (
            not fit.error_s <= HIGHEST_ERROR * abs(fit.h_s),
            "ill_conditioned",
            f"H = {fit.h_s:.2f} s has a standard error of {fit.error_s:.2f} s, more than {HIGHEST_ERROR:.0%}",
        ),
        (
            not LOWEST_H_S <= fit.h_s <= HIGHEST_H_S,
            "implausible",
            f"H = {fit.h_s:.2f} s is not within {LOWEST_H_S:g} to {HIGHEST_H_S:g} s",
        ),
    )
    for failed, status, reason in checks:
        if failed:
            return status, reason
    return "ok", ""


def _output(_config: InertiaAmbientConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(InertiaEstimate)


def _delays(config: InertiaAmbientConfig) -> Delays:
    """Windows end with a segment and follow on each other: only the second one holds nothing from before a change."""
    return Delays(window_s=2 * (config.window + HOP_S))


NODE = OperatorNode(
    kind="inertia_ambient",
    config=InertiaAmbientConfig,
    inputs={"in": Input(accepts=(Samples,), needs=("frequency_hz", "active_power_w"), step=step)},
    output=_output,
    start=start,
    delays=_delays,
)
