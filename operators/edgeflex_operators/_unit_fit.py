"""Inertia of one generating unit from what was measured around an event: the checks before and after the fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import EstimateStatus, Samples
from edgeflex_operators import _swing as swing
from edgeflex_operators._terminals import Grid, PerUnit, RefusedError, check_base, check_connected, on_grid, per_unit
from edgeflex_operators._units import GeneratingUnit

METHOD_VERSION = "5"
"""Changes whenever the same window may give another estimate."""

PLAUSIBLE_H_S = (0.2, 120.0)
USUAL_H_S = (1.0, 12.0)
USUAL_POWER_PU = 1.2
USUAL_TRANSIENT_REACTANCE_PU = (0.05, 1.0)

# Least noise that is believed of a measurement: 0.1 mrad is a total vector error of 0.01 %.
ANGLE_FLOOR_RAD = 1e-4
POWER_FLOOR_PU = 2e-5
BUS_FREQUENCY_FLOOR_RAD = 1e-3
"""The same for an angle that was summed up from frequency."""


class Assumptions(NamedTuple):
    """What is assumed of all units of all systems: chosen by `python -m benchmarks.inertia_choice`."""

    priors: Mapping[int, tuple[float, float]] = MappingProxyType(
        {
            swing.LOG_M: (8.0, 1.5),
            swing.LOG_K: (20.0, 0.7),
            swing.LOG_T1: (0.15, 1.0),
            swing.LOG_T3: (4.0, 0.8),
            swing.LOG_XQ: (4.5, 0.6),
            swing.LOG_TQ: (0.6, 0.7),
            swing.LOG_XQ1: (1.3, 0.4),
            swing.LOG_TQ1: (0.055, 0.5),
        }
    )
    """Medians, and standard deviations of logarithms, from textbook ranges (P. Kundur 1994, tables 4.2 and 9.1)."""
    lead: tuple[float, float] = (0.35, 0.4)
    damping: tuple[float, float] = (0.0, 0.5)
    drift_share: float = 0.005
    """Unmodelled mechanical power walks by this share of the largest change of power in a second's square root."""
    smooth_s: float = 0.2
    """Currents drive the quadrature axis after a parabola was fitted over so long on either side; 0: as measured."""
    inflation: float = 2.0
    """How many times as wide as the fit's own the interval is."""
    model_deviation: float = 0.01
    """What the interval holds for what the model lacks, beside that."""


CHOSEN = Assumptions()
STEPS_AT = 3.0
"""Values this many times as far from the parabola (squared) as noise puts them are no noise, and are left alone."""
OFFSET_DEVIATION_HZ = 0.1
KNOWN_DEVIATION = 0.1
"""Standard deviation of the logarithm of a machine constant that the unit's data give."""
NO_GOVERNOR_GAIN = 0.01

BUS_FREQUENCY_DEVIATION = 0.08
TYPICAL_REACTANCE_DEVIATION = 0.05
DOUBTFUL_DEVIATION = 0.5
"""At least so uncertain is a fit that does not agree with the measurements."""
LARGEST_ERROR = 30.0
"""Largest normalised error of a predicted angle that is not a jump."""
NORMAL_95 = 1.959964

OTHER_STARTS = ({swing.LOG_TQ: 1.0, swing.LOG_XQ: -0.5}, {swing.LOG_TQ: -0.7, swing.LOG_M: 0.7}, {swing.LOG_M: -0.7})
"""Changes to the priors' medians from which the search begins again when the first did not end well."""
GOOD_RESIDUAL = 1.4
GUESSES = ("ok", "not_excited", "ill_conditioned", "model_mismatch")
"""What a fit with another status says of H is no guess: the angle, the base or the wiring is wrong."""


class Limits(NamedTuple):
    """What an estimate must meet to be accepted."""

    min_deviation_hz: float
    stand_out: float
    """How many times the range before the onset the range after it must be."""
    max_deviation: float
    """Largest standard deviation of the logarithm of H."""
    max_residual: float
    """Largest mean square of normalised prediction errors."""


@dataclass(frozen=True)
class UnitFit:
    """What was found about a unit. `status` other than "ok" comes with `reason`, a sentence with the numbers."""

    status: EstimateStatus
    reason: str = ""
    remarks: tuple[str, ...] = ()
    h_s: float | None = None
    deviation: float | None = None
    """Standard deviation of the logarithm of `h_s`, or of `guess_h_s`."""
    guess_h_s: float | None = None
    """The best that can be said where no estimate is accepted, with `deviation`; None when nothing can."""
    rows: int = 0
    quality: int = 0
    power_before_pu: float | None = None
    rocof_hz_per_s: float | None = None
    """Slope of the rotor's frequency over the first 0.5 s."""
    time_s: NDArray[np.float64] | None = None
    """Relative to the onset, shape (n,), as the next two."""
    measured_hz: NDArray[np.float64] | None = None
    """Rotor frequency as it follows from the phasors."""
    fitted_hz: NDArray[np.float64] | None = None
    """Rotor frequency as the fitted swing equation gives it from the measured power."""

    @property
    def interval_s(self) -> tuple[float, float] | None:
        """The 95 % interval of H; None when not accepted."""
        if self.h_s is None or self.deviation is None:
            return None
        factor = math.exp(NORMAL_95 * self.deviation)
        return self.h_s / factor, self.h_s * factor


def fit_unit(
    samples: Samples,
    device: str,
    unit: GeneratingUnit | None,
    *,
    onset_ns: int,
    begin_ns: int,
    end_ns: int,
    limits: Limits,
    nominal_hz: float,
    assumptions: Assumptions = CHOSEN,
) -> UnitFit:
    """Estimate the inertia of the unit at whose terminals `device` measures. Never raises on bad data: says why not."""
    if unit is None:
        return UnitFit("no_unit_data", f"no data of a unit '{device}' are given")
    rows = quality = 0
    try:
        grid = on_grid(samples, device, unit, onset_ns, begin_ns, end_ns)
        rows, quality = grid.rows, grid.quality
        fitted = _fit(grid, unit, limits, nominal_hz, assumptions)
    except RefusedError as refusal:
        return UnitFit(
            refusal.status,
            str(refusal),
            rows=rows,
            quality=quality,
            power_before_pu=refusal.power_before_pu,
        )
    return fitted


def _lacking_excitation(
    frequency_hz: NDArray[np.float64], power: NDArray[np.float64], grid: Grid, limits: Limits
) -> str | None:
    """Why the event is none for this unit: it must stand out from what went on before it. None if it does."""
    smooth_hz = _smooth(frequency_hz, grid.step_s)
    after = grid.time_s > 0.0
    moved_hz = float(np.abs(smooth_hz[after] - np.median(smooth_hz[: grid.before])).max())
    if moved_hz < limits.min_deviation_hz:
        return f"frequency moved by {1e3 * moved_hz:.1f} mHz; at least {1e3 * limits.min_deviation_hz:g} are needed"
    quiet_hz = float(np.ptp(smooth_hz[: grid.before])) / 2.0
    if moved_hz < limits.stand_out * quiet_hz:
        return f"frequency moved by {1e3 * moved_hz:.1f} mHz after the onset, {1e3 * quiet_hz:.1f} mHz before it"
    smooth_power = _smooth(power, grid.step_s)
    change = float(np.abs(smooth_power[after] - np.median(smooth_power[: grid.before])).max())
    quiet = float(np.ptp(smooth_power[: grid.before])) / 2.0
    if change < 0.5 * limits.stand_out * quiet:  # power follows the swings of neighbours, which frequency shows less
        return f"power changed by {change:.4f} pu after the onset and by {quiet:.4f} pu before it"
    return None


def _smooth(values: NDArray[np.float64], step_s: float) -> NDArray[np.float64]:
    """Moving average over 0.1 s."""
    width = max(1, round(0.1 / step_s)) | 1
    padded = np.pad(values, width // 2, mode="edge")
    averaged: NDArray[np.float64] = np.convolve(padded, np.full(width, 1.0 / width), mode="valid")
    return averaged


def _frequency(angle_rad: NDArray[np.float64], step_s: float) -> NDArray[np.float64]:
    slope: NDArray[np.float64] = np.gradient(angle_rad, step_s) / (2.0 * np.pi)
    return slope


def _rocof(grid: Grid, angle_rad: NDArray[np.float64]) -> float:
    first = (grid.time_s >= 0.0) & (grid.time_s <= 0.5)
    return float(np.polyfit(grid.time_s[first], _frequency(angle_rad, grid.step_s)[first], 1)[0])


# The fit --------------------------------------------------------------------------------------------------------------


def _fit(grid: Grid, unit: GeneratingUnit, limits: Limits, nominal_hz: float, assumptions: Assumptions) -> UnitFit:
    quantities = per_unit(grid, unit, nominal_hz)
    check_connected(quantities, grid, unit.rated_power)
    check_base(quantities, grid, unit.rated_power)
    power = quantities.power
    power_before = float(power[: grid.before].mean())
    power = power - power_before
    inner = quantities.voltage + (quantities.resistance + 1j * quantities.subtransient) * quantities.current
    inner_rad = np.unwrap(np.angle(inner))
    lacking = _lacking_excitation(_frequency(inner_rad, grid.step_s), power, grid, limits)
    search = _Search(grid, quantities, unit, power, inner, inner_rad, nominal_hz, assumptions)
    best = search.best()
    remarks = [*quantities.remarks]
    deviation = math.hypot(assumptions.inflation * best.deviation, assumptions.model_deviation)
    if "bus_frequency" in remarks:
        deviation = math.hypot(deviation, BUS_FREQUENCY_DEVIATION)
    if "typical_reactance" in remarks:
        deviation = math.hypot(deviation, TYPICAL_REACTANCE_DEVIATION)
    verdict = _judge(best, deviation, limits, lacking)
    if power_before > USUAL_POWER_PU:
        remarks.append("overloaded")
    is_usual = USUAL_TRANSIENT_REACTANCE_PU[0] <= quantities.transient <= USUAL_TRANSIENT_REACTANCE_PU[1]
    if not is_usual or quantities.subtransient > (unit.transient_reactance_pu or quantities.transient):
        remarks.append("unusual_reactance")
    if not USUAL_H_S[0] <= best.h_s <= USUAL_H_S[1]:
        remarks.append("unusual_inertia")
    accepted = verdict.status == "ok"
    return UnitFit(
        verdict.status,
        verdict.reason,
        remarks=tuple(remarks) if accepted else (),
        h_s=best.h_s if accepted else None,
        deviation=verdict.deviation,
        guess_h_s=best.h_s if verdict.status in GUESSES else None,
        rows=grid.rows,
        quality=grid.quality,
        power_before_pu=power_before if accepted else None,
        rocof_hz_per_s=_rocof(grid, best.angle_rad) if accepted else None,
        time_s=grid.time_s,
        measured_hz=nominal_hz + _frequency(best.angle_rad, grid.step_s),
        fitted_hz=nominal_hz + search.fitted_hz(best),
    )


@dataclass(frozen=True)
class _Fitted:
    """Where one search ended."""

    parameters: NDArray[np.float64]
    covariance: NDArray[np.float64]
    angle_rad: NDArray[np.float64]
    errors: NDArray[np.float64]
    facts: NDArray[np.float64]

    @property
    def h_s(self) -> float:
        return math.exp(self.parameters[swing.LOG_M]) / 2.0

    @property
    def residual(self) -> float:
        return float(self.facts[swing.RESIDUAL_ANGLE])

    @property
    def deviation(self) -> float:
        """Standard deviation of the logarithm of H, were the model right."""
        return math.sqrt(float(self.covariance[swing.LOG_M, swing.LOG_M]) * max(1.0, self.residual))

    @property
    def is_good(self) -> bool:
        return bool(self.facts[swing.CONVERGED]) and self.residual < GOOD_RESIDUAL


class _Search:
    """Searches for the parameters of one unit."""

    def __init__(
        self,
        grid: Grid,
        quantities: PerUnit,
        unit: GeneratingUnit,
        power: NDArray[np.float64],
        inner: NDArray[np.complex128],
        inner_rad: NDArray[np.float64],
        nominal_hz: float,
        assumptions: Assumptions,
    ) -> None:
        self._grid = grid
        self._power = power
        self._nominal_hz = nominal_hz
        angle_floor = BUS_FREQUENCY_FLOOR_RAD if "bus_frequency" in quantities.remarks else ANGLE_FLOOR_RAD
        self._floors = np.array([angle_floor**2, POWER_FLOOR_PU**2])
        self._reactances = np.array([quantities.subtransient, quantities.transient])
        current = quantities.current
        # Parameters of the axis decide how much noise passes it, so the likeliest would be those that pass least.
        size, lag_rad, current_size = (
            without_noise(values, grid, assumptions.smooth_s)
            for values in (np.abs(inner), np.unwrap(np.angle(current * np.conj(inner))), np.abs(current))
        )
        self._phasors = np.ascontiguousarray(np.stack([inner_rad, size, inner_rad + lag_rad, current_size], axis=1))
        offset_hz = float(np.polyfit(grid.time_s[: grid.before], inner_rad[: grid.before], 1)[0]) / (2.0 * np.pi)
        self._mean, self._deviation = _priors(unit, quantities, offset_hz, assumptions)
        steps = np.diff(power, prepend=power[0]) ** 2
        noise = max(_noise_variance(power, grid), POWER_FLOOR_PU**2)
        # True power changes by what its steps show beyond their noise; a switched load shows for a few frames only.
        self._power_walk = np.maximum(
            np.convolve(np.pad(steps, 4, mode="edge"), np.full(9, 1.0 / 9.0), "valid") - 2.0 * noise, 0.05 * noise
        )
        self._drift_walk = (assumptions.drift_share * float(np.abs(power).max())) ** 2 * grid.step_s
        self._start = np.array(
            [1.0, 4e-10, 1e-12, 1e-12, 1e-8 + noise / grid.before, noise + float(np.var(power[: grid.before]))]
        )

    def best(self) -> _Fitted:
        """The likeliest end of up to four searches; the first is enough when it ends well."""
        found = [self._from(self._mean)]
        for changes in () if found[0].is_good else OTHER_STARTS:
            start = self._mean.copy()
            for parameter, change in changes.items():
                start[parameter] += change
            found.append(self._from(start))
        return min(found, key=lambda each: float(each.facts[swing.UNLIKELINESS]))

    def _from(self, start: NDArray[np.float64]) -> _Fitted:
        n = len(self._power)
        fitted = _Fitted(
            start.copy(),
            np.zeros((swing.PARAMETERS, swing.PARAMETERS)),
            np.zeros(n),
            np.zeros(2 * n),
            np.zeros(swing.FACTS),
        )
        swing.fit(
            fitted.parameters,
            self._mean,
            self._deviation,
            self._phasors,
            self._reactances,
            self._grid.step_s,
            self._nominal_hz,
            self._grid.valid,
            self._power,
            self._grid.before,
            self._power_walk,
            self._drift_walk,
            self._floors,
            self._start,
            fitted.covariance,
            fitted.angle_rad,
            fitted.errors,
            fitted.facts,
        )
        return fitted

    def fitted_hz(self, fitted: _Fitted) -> NDArray[np.float64]:
        """Deviation from nominal that the fitted unit shows when measured power drives it, shape (n,)."""
        deviation_hz = np.empty(len(self._power))
        swing.free_run(fitted.parameters, self._grid.step_s, self._nominal_hz, self._power, deviation_hz)
        return deviation_hz


def _noise_variance(values: NDArray[np.float64], grid: Grid) -> float:
    return float(swing.roughness(values, values, grid.valid, grid.before))


def without_noise(values: NDArray[np.float64], grid: Grid, smooth_s: float) -> NDArray[np.float64]:
    """A parabola through the frames around each value, but where they do not lie on one, as at a step."""
    noise = _noise_variance(values, grid)
    if noise <= 0.0 or smooth_s == 0.0:
        return values
    half = max(2, round(smooth_s / grid.step_s))
    width = 2 * half + 1
    weights = np.linalg.pinv(np.vander(np.arange(-half, half + 1), 3))[2]
    smoothed = np.convolve(np.pad(values, half, mode="edge"), weights, "valid")
    apart = np.convolve(np.pad((values - smoothed) ** 2, half, mode="edge"), np.full(width, 1.0 / width), "valid")
    excess = apart / (noise * (1.0 - weights[half]))
    share = np.clip(STEPS_AT + 1.0 - excess, 0.0, 1.0)
    without: NDArray[np.float64] = share * smoothed + (1.0 - share) * values
    return without


def _priors(
    unit: GeneratingUnit, quantities: PerUnit, offset_hz: float, assumptions: Assumptions
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and standard deviations of the parameters, (PARAMETERS,) each."""
    mean, deviation = np.zeros(swing.PARAMETERS), np.zeros(swing.PARAMETERS)
    for parameter, (median, spread) in assumptions.priors.items():
        mean[parameter], deviation[parameter] = math.log(median), spread
    mean[swing.A_LEAD], deviation[swing.A_LEAD] = assumptions.lead
    mean[swing.DAMPING], deviation[swing.DAMPING] = assumptions.damping
    mean[swing.OFFSET_HZ], deviation[swing.OFFSET_HZ] = offset_hz, OFFSET_DEVIATION_HZ
    if unit.governor is None or unit.governor.gain_pu == 0.0:
        mean[swing.LOG_K], deviation[swing.LOG_K] = math.log(NO_GOVERNOR_GAIN), KNOWN_DEVIATION
    else:
        mean[swing.LOG_K], deviation[swing.LOG_K] = math.log(unit.governor.gain_pu), unit.governor.uncertainty
    known = {
        swing.LOG_XQ: _ratio(unit.quadrature_reactance_pu, quantities.transient),
        swing.LOG_XQ1: _ratio(unit.transient_quadrature_reactance_pu, quantities.transient),
        swing.LOG_TQ: unit.quadrature_time_constant,
        swing.LOG_TQ1: unit.subtransient_quadrature_time_constant,
    }
    if quantities.transient <= 1.001 * quantities.subtransient:
        # A machine described by one reactance is the classical one: a constant voltage behind it.
        known |= {swing.LOG_XQ: 1.002, swing.LOG_XQ1: 1.001}
    for parameter, value in known.items():
        if value is not None:
            mean[parameter], deviation[parameter] = math.log(value), KNOWN_DEVIATION
    if quantities.transient <= 1.001 * quantities.subtransient:
        deviation[[swing.LOG_XQ, swing.LOG_XQ1]] = 1e-3
    return mean, deviation


def _ratio(value: float | None, base: float) -> float | None:
    return None if value is None else value / base


@dataclass(frozen=True)
class _Verdict:
    """Whether a fit is one to believe."""

    status: EstimateStatus
    reason: str
    deviation: float
    """At least so uncertain is what the fit says."""


def _judge(best: _Fitted, deviation: float, limits: Limits, lacking: str | None) -> _Verdict:
    """`lacking`: why the event does not excite the unit enough."""
    doubtful = math.hypot(deviation, DOUBTFUL_DEVIATION)
    worst = float(best.facts[swing.WORST_ANGLE])
    if lacking is not None:
        agrees = worst <= LARGEST_ERROR and best.residual <= limits.max_residual
        return _Verdict("not_excited", lacking, deviation if agrees else doubtful)
    if worst > LARGEST_ERROR:
        return _Verdict(
            "phase_jump",
            f"the angle jumped by {worst:.0f} times what noise and model explain, with no power to go with it",
            doubtful,
        )
    if best.residual > limits.max_residual:
        return _Verdict(
            "model_mismatch",
            f"prediction errors are {math.sqrt(best.residual):.2f} times what noise explains; at most "
            f"{math.sqrt(limits.max_residual):.2f}",
            doubtful,
        )
    if not PLAUSIBLE_H_S[0] <= best.h_s <= PLAUSIBLE_H_S[1]:
        return _Verdict(
            "implausible",
            f"H would be {best.h_s:.2g} s; believed from {PLAUSIBLE_H_S[0]:g} to {PLAUSIBLE_H_S[1]:g} s",
            doubtful,
        )
    if deviation > limits.max_deviation:
        return _Verdict(
            "ill_conditioned",
            f"H could be told to within {100.0 * deviation:.1f} % only (one standard deviation); at most "
            f"{100.0 * limits.max_deviation:.1f} %",
            deviation,
        )
    return _Verdict("ok", "", deviation)
