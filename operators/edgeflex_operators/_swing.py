"""The fit of a generating unit's swing equation to what was measured at its terminals: numba kernels.

The unit: M dw/dt = p_m - p - D w, a lead-lag governor for p_m, and a rotor angle that is not measured but follows from
the terminal phasors. No source drives the rotor's quadrature axis, so that in the rotor's frame v_d + Ra i_d is what
that axis' circuits make of i_q; the angle of V + (Ra + j X''q) I, which is what phasors give, differs from the rotor's
by the flux in them. (P. Kundur, Power System Stability and Control, 1994, chapters 3 to 5; the circuits are those of
the model GENROU.)

Power is measured with noise, and a model that is driven by a noisy input takes too little of the answer for its effect:
inertia would come out too high. So angle and power are both outputs here: a Kalman filter predicts both from the past
alone, and the parameters are those whose prediction errors are least (L. Ljung, System Identification, 1999, chapter
7). Mechanical power that the governor model lacks is a slow random walk in the same filter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.kernel import kernel

# Parameters. Those before A_LEAD are logarithms.
LOG_M, LOG_K, LOG_T1, LOG_T3, LOG_XQ, LOG_TQ, LOG_XQ1, LOG_TQ1, A_LEAD, DAMPING, OFFSET_HZ, PARAMETERS = range(12)
LOGARITHMS = A_LEAD

# States of the filter: rotor angle, speed, two of the governor, unmodelled mechanical power, measured power.
ANGLE, SPEED, GOV_1, GOV_2, DRIFT, POWER, STATES = range(7)

# What a fit returns in `facts`.
UNLIKELINESS, RESIDUAL_ANGLE, RESIDUAL_POWER, WORST_ANGLE, TURNS, CONVERGED, FACTS = range(7)

# One step of the rotor's quadrature axis: how a and p follow from a, p, the current and its change.
F_AA, F_AP, F_AI, F_AR, F_PA, F_PP, F_PI, F_PR, F_SLOW, F_FAST, F_TOTAL, FLUX_STEP = range(12)
FLUX_SHARE = 0.85
"""(X'q - X''q) / (X'q - Xl): how much of what the axis puts on the terminals comes from its fast circuit."""

TWO_PI = 2.0 * np.pi
TAYLOR_TERMS = 9
NEWTON_TURNS = 2
MOST_TURNS = 12
MOST_TRIES = 10
OUTER_TURNS = 5


@kernel("void(float64[:, ::1], float64[:, ::1], float64[:, ::1])")
def multiply(a: NDArray[np.float64], b: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Set out = a b for square matrices. Numba's own needs a BLAS."""
    n = len(a)
    for i in range(n):
        for j in range(n):
            total = 0.0
            for k in range(n):
                total += a[i, k] * b[k, j]
            out[i, j] = total


@kernel("void(float64[:, ::1], float64[:, ::1])")
def exponential(matrix: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Set out = e^matrix by scaling, a Taylor series and squaring. Changes `matrix`."""
    n = len(matrix)
    norm = 0.0
    for i in range(n):
        row = 0.0
        for j in range(n):
            row += abs(matrix[i, j])
        norm = max(norm, row)
    squarings = 0
    while norm > 0.25:
        norm *= 0.5
        squarings += 1
    matrix *= 0.5**squarings
    term = np.eye(n)
    scratch = np.empty((n, n))
    out[:] = term
    for order in range(1, TAYLOR_TERMS):
        multiply(term, matrix, scratch)
        term[:] = scratch / order
        out += term
    for _ in range(squarings):
        multiply(out, out, scratch)
        out[:] = scratch


@kernel("void(float64[::1], float64, float64, float64[:, ::1])")
def transition(parameters: NDArray[np.float64], step_s: float, nominal_hz: float, out: NDArray[np.float64]) -> None:
    """Transition matrix of the states over one step, shape (STATES, STATES). Speed and power in pu of the unit."""
    m = np.exp(parameters[LOG_M])
    t1 = np.exp(parameters[LOG_T1])
    t3 = np.exp(parameters[LOG_T3])
    lead = parameters[A_LEAD]
    rate = np.zeros((STATES, STATES))
    rate[ANGLE, SPEED] = TWO_PI * nominal_hz
    rate[SPEED, SPEED] = -parameters[DAMPING] / m
    rate[SPEED, GOV_1] = lead / m
    rate[SPEED, GOV_2] = (1.0 - lead) / m
    rate[SPEED, DRIFT] = 1.0 / m
    rate[SPEED, POWER] = -1.0 / m
    rate[GOV_1, SPEED] = -np.exp(parameters[LOG_K]) / t1
    rate[GOV_1, GOV_1] = -1.0 / t1
    rate[GOV_2, GOV_1] = 1.0 / t3
    rate[GOV_2, GOV_2] = -1.0 / t3
    rate *= step_s
    exponential(rate, out)


@kernel("void(float64[::1], float64[::1], float64, float64[::1])")
def flux_step(
    parameters: NDArray[np.float64], reactances: NDArray[np.float64], step_s: float, out: NDArray[np.float64]
) -> None:
    """One step of the quadrature axis, exact for a current that changes linearly: `out`, shape (FLUX_STEP,).

    Two circuits: a = E'd with (Xq - X'q) i_q in equilibrium, and p, which follows a + (X'q - Xl) i_q by T''q0. What
    they put on the terminals is (1 - g) a + g p with g = (X'q - X''q) / (X'q - Xl), as in the model GENROU.
    """
    x2 = reactances[0]
    xq1 = max(reactances[1] * np.exp(parameters[LOG_XQ1]), 1.001 * x2)
    xq = max(reactances[1] * np.exp(parameters[LOG_XQ]), 1.001 * xq1)
    slow_s, fast_s = np.exp(parameters[LOG_TQ]), np.exp(parameters[LOG_TQ1])
    span = (xq1 - x2) / FLUX_SHARE
    pull = (xq - xq1) * FLUX_SHARE / span
    rate = np.zeros((4, 4))
    rate[0, 0] = -(1.0 + pull) / slow_s
    rate[0, 1] = pull / slow_s
    rate[0, 2] = ((xq - xq1) - pull * span) / slow_s
    rate[1, 0] = 1.0 / fast_s
    rate[1, 1] = -1.0 / fast_s
    rate[1, 2] = span / fast_s
    rate *= step_s
    rate[2, 3] = 1.0
    moved = np.empty((4, 4))
    exponential(rate, moved)
    for i in range(2):
        out[F_AA + 4 * i] = moved[i, 0]
        out[F_AP + 4 * i] = moved[i, 1]
        out[F_AI + 4 * i] = moved[i, 2]
        out[F_AR + 4 * i] = moved[i, 3]
    out[F_SLOW] = xq - xq1
    out[F_FAST] = xq - xq1 + span
    out[F_TOTAL] = xq - x2


@kernel("void(float64[::1], float64[:, ::1], float64[::1], float64, float64[::1])")
def rotor_angle(
    parameters: NDArray[np.float64],
    phasors: NDArray[np.float64],
    reactances: NDArray[np.float64],
    step_s: float,
    out: NDArray[np.float64],
) -> None:
    """Rotor angle in rad, shape (n,), from columns of `phasors`: angle and size of V + (Ra + j X''q) I, and of I.

    `reactances`: X''q and X'd in pu of the unit; LOG_XQ and LOG_XQ1 are relative to X'd. Starts in equilibrium.
    """
    f = np.empty(FLUX_STEP)
    flux_step(parameters, reactances, step_s, f)
    # What a change of the current within the step adds at its end.
    gain = (1.0 - FLUX_SHARE) * f[F_AR] + FLUX_SHARE * f[F_PR]
    behind, size, current_angle, current = phasors[0, 0], phasors[0, 1], phasors[0, 2], phasors[0, 3]
    lag = current_angle - behind
    angle = behind + np.arctan2(f[F_TOTAL] * current * np.cos(lag), size - f[F_TOTAL] * current * np.sin(lag))
    quadrature = current * np.cos(angle - current_angle)
    a, p = f[F_SLOW] * quadrature, f[F_FAST] * quadrature
    ahead = before = angle - behind
    for k in range(len(phasors)):
        behind, size, current_angle, current = phasors[k, 0], phasors[k, 1], phasors[k, 2], phasors[k, 3]
        if k > 0:
            next_a = f[F_AA] * a + f[F_AP] * p + (f[F_AI] - f[F_AR]) * quadrature
            next_p = f[F_PA] * a + f[F_PP] * p + (f[F_PI] - f[F_PR]) * quadrature
            known = (1.0 - FLUX_SHARE) * next_a + FLUX_SHARE * next_p
            guess = behind + 2.0 * ahead - before
            for _ in range(NEWTON_TURNS):
                error = size * np.sin(guess - behind) - known - gain * current * np.cos(guess - current_angle)
                slope = size * np.cos(guess - behind) + gain * current * np.sin(guess - current_angle)
                if abs(slope) < 1e-3 * size:
                    break
                guess -= error / slope
            quadrature = current * np.cos(guess - current_angle)
            a = next_a + f[F_AR] * quadrature
            p = next_p + f[F_PR] * quadrature
            angle = guess
            before, ahead = ahead, angle - behind
        out[k] = angle


@kernel(
    "void(float64[::1], float64, float64, boolean[::1], float64[:, ::1], float64[::1], float64, float64[::1], "
    "float64[:, :, ::1], float64[:, ::1])"
)
def filter_gains(
    parameters: NDArray[np.float64],
    step_s: float,
    nominal_hz: float,
    valid: NDArray[np.bool_],
    noise: NDArray[np.float64],
    power_walk: NDArray[np.float64],
    drift_walk: float,
    start: NDArray[np.float64],
    gains: NDArray[np.float64],
    roots: NDArray[np.float64],
) -> None:
    """Kalman gains (n, STATES, 2) and Cholesky factors (n, 3) of the prediction errors' covariance.

    `noise`: covariance of measured angle and power, (2, 2); `power_walk`: variance by which true power changes in each
    step, (n,); `drift_walk`: the same for unmodelled mechanical power; `start`: variances of the states. Where a sample
    is not valid the gain is 0.
    """
    step = np.empty((STATES, STATES))
    transition(parameters, step_s, nominal_hz, step)
    turned = np.ascontiguousarray(step.T)
    covariance = np.diag(start)
    scratch = np.empty((STATES, STATES))
    # Power changes within a step, not at its end: its increment has acted on the speed for half of it.
    lever = -0.5 * step_s / np.exp(parameters[LOG_M])
    for k in range(len(valid)):
        if k > 0:
            multiply(step, covariance, scratch)
            multiply(scratch, turned, covariance)
            covariance[DRIFT, DRIFT] += drift_walk
            covariance[POWER, POWER] += power_walk[k]
            covariance[SPEED, SPEED] += power_walk[k] * lever * lever
            covariance[SPEED, POWER] += power_walk[k] * lever
            covariance[POWER, SPEED] += power_walk[k] * lever
        s00 = covariance[ANGLE, ANGLE] + noise[0, 0]
        s01 = covariance[ANGLE, POWER] + noise[0, 1]
        s11 = covariance[POWER, POWER] + noise[1, 1]
        roots[k, 0] = np.sqrt(s00)
        roots[k, 1] = s01 / roots[k, 0]
        roots[k, 2] = np.sqrt(max(s11 - roots[k, 1] * roots[k, 1], 1e-30))
        if not valid[k]:
            gains[k] = 0.0
            continue
        determinant = s00 * s11 - s01 * s01
        for i in range(STATES):
            a, b = covariance[i, ANGLE], covariance[i, POWER]
            gains[k, i, 0] = (a * s11 - b * s01) / determinant
            gains[k, i, 1] = (b * s00 - a * s01) / determinant
        angle_row, power_row = covariance[ANGLE].copy(), covariance[POWER].copy()
        for i in range(STATES):
            for j in range(STATES):
                covariance[i, j] -= gains[k, i, 0] * angle_row[j] + gains[k, i, 1] * power_row[j]


@kernel(
    "void(float64[::1], float64, float64, boolean[::1], float64[::1], float64[::1], float64[:, :, ::1], "
    "float64[:, ::1], float64[::1])"
)
def prediction_errors(
    parameters: NDArray[np.float64],
    step_s: float,
    nominal_hz: float,
    valid: NDArray[np.bool_],
    angle_rad: NDArray[np.float64],
    power: NDArray[np.float64],
    gains: NDArray[np.float64],
    roots: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Normalised errors of predicting angle (even places of `out`, shape (2n,)) and power (odd) one sample ahead."""
    step = np.empty((STATES, STATES))
    transition(parameters, step_s, nominal_hz, step)
    state = np.zeros(STATES)
    moved = np.zeros(STATES)
    turn = TWO_PI * parameters[OFFSET_HZ] * step_s
    for k in range(len(power)):
        if k > 0:
            for i in range(STATES):
                total = 0.0
                for j in range(STATES):
                    total += step[i, j] * state[j]
                moved[i] = total
            state[:] = moved
        if not valid[k]:
            out[2 * k] = out[2 * k + 1] = 0.0
            continue
        angle_error = angle_rad[k] - angle_rad[0] - turn * k - state[ANGLE]
        power_error = power[k] - state[POWER]
        for i in range(STATES):
            state[i] += gains[k, i, 0] * angle_error + gains[k, i, 1] * power_error
        out[2 * k] = angle_error / roots[k, 0]
        out[2 * k + 1] = (power_error - roots[k, 1] * out[2 * k]) / roots[k, 2]


@kernel("void(float64[::1], float64, float64, float64[::1], float64[::1])")
def free_run(
    parameters: NDArray[np.float64],
    step_s: float,
    nominal_hz: float,
    power: NDArray[np.float64],
    out_hz: NDArray[np.float64],
) -> None:
    """Deviation of the frequency in Hz when measured power drives the model and nothing corrects it, shape (n,)."""
    step = np.empty((STATES, STATES))
    transition(parameters, step_s, nominal_hz, step)
    state = np.zeros(STATES)
    moved = np.zeros(STATES)
    out_hz[0] = parameters[OFFSET_HZ]
    for k in range(1, len(power)):
        state[POWER] = 0.5 * (power[k - 1] + power[k])
        for i in range(STATES):
            total = 0.0
            for j in range(STATES):
                total += step[i, j] * state[j]
            moved[i] = total
        state[:] = moved
        out_hz[k] = nominal_hz * state[SPEED] + parameters[OFFSET_HZ]


@kernel("float64(float64[::1], float64[::1], boolean[::1], int64)")
def roughness(a: NDArray[np.float64], b: NDArray[np.float64], valid: NDArray[np.bool_], end: int) -> float:
    """Covariance of the white noise in `a` and `b`, from their third differences up to `end`."""
    total = 0.0
    count = 0
    for k in range(end - 3):
        if valid[k] and valid[k + 1] and valid[k + 2] and valid[k + 3]:
            of_a = a[k + 3] - 3.0 * a[k + 2] + 3.0 * a[k + 1] - a[k]
            of_b = b[k + 3] - 3.0 * b[k + 2] + 3.0 * b[k + 1] - b[k]
            total += of_a * of_b / 20.0
            count += 1
    return total / count if count > 0 else 0.0


@kernel("boolean(float64[:, ::1], float64[:, ::1])")
def cholesky(matrix: NDArray[np.float64], out: NDArray[np.float64]) -> bool:
    """Lower factor of a symmetric matrix; False when it is not positive definite."""
    n = len(matrix)
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= out[i, k] * out[j, k]
            if i == j:
                if not total > 0.0:
                    return False
                out[i, i] = np.sqrt(total)
            else:
                out[i, j] = total / out[j, j]
        for j in range(i + 1, n):
            out[i, j] = 0.0
    return True


@kernel("void(float64[:, ::1], float64[::1], float64[::1])")
def solve_factored(factor: NDArray[np.float64], right: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Solve L L' x = right."""
    n = len(factor)
    for i in range(n):
        total = right[i]
        for k in range(i):
            total -= factor[i, k] * out[k]
        out[i] = total / factor[i, i]
    for i in range(n - 1, -1, -1):
        total = out[i]
        for k in range(i + 1, n):
            total -= factor[k, i] * out[k]
        out[i] = total / factor[i, i]


@kernel("float64(float64[::1], float64[::1], float64[::1], float64[::1])")
def cost_of(
    errors: NDArray[np.float64],
    parameters: NDArray[np.float64],
    mean: NDArray[np.float64],
    deviation: NDArray[np.float64],
) -> float:
    """Sum of squares of the errors and of how far the parameters are from their priors."""
    total = 0.0
    for k in range(len(errors)):
        total += errors[k] * errors[k]
    for j in range(len(parameters)):
        apart = (parameters[j] - mean[j]) / deviation[j]
        total += apart * apart
    return total


@kernel(
    "void(float64[::1], float64[::1], float64[::1], float64[:, ::1], float64[::1], float64, float64, boolean[::1], "
    "float64[::1], float64[:, :, ::1], float64[:, ::1], float64[:, ::1], float64[::1])"
)
def normal_equations(
    parameters: NDArray[np.float64],
    mean: NDArray[np.float64],
    deviation: NDArray[np.float64],
    phasors: NDArray[np.float64],
    reactances: NDArray[np.float64],
    step_s: float,
    nominal_hz: float,
    valid: NDArray[np.bool_],
    power: NDArray[np.float64],
    gains: NDArray[np.float64],
    roots: NDArray[np.float64],
    matrix: NDArray[np.float64],
    gradient: NDArray[np.float64],
) -> None:
    """Fill J'J + prior and J'e + prior, the derivatives by finite differences."""
    n = len(power)
    angle_rad = np.empty(n)
    moved_rad = np.empty(n)
    errors = np.empty(2 * n)
    moved = np.empty((PARAMETERS, 2 * n))
    rotor_angle(parameters, phasors, reactances, step_s, angle_rad)
    prediction_errors(parameters, step_s, nominal_hz, valid, angle_rad, power, gains, roots, errors)
    for j in range(PARAMETERS):
        shifted = parameters.copy()
        by = 1e-6 if j == OFFSET_HZ else 1e-4
        shifted[j] += by
        if LOG_XQ <= j <= LOG_TQ1:
            rotor_angle(shifted, phasors, reactances, step_s, moved_rad)
            prediction_errors(shifted, step_s, nominal_hz, valid, moved_rad, power, gains, roots, moved[j])
        else:
            prediction_errors(shifted, step_s, nominal_hz, valid, angle_rad, power, gains, roots, moved[j])
        for k in range(2 * n):
            moved[j, k] = (moved[j, k] - errors[k]) / by
    for i in range(PARAMETERS):
        total = (parameters[i] - mean[i]) / deviation[i] ** 2
        for k in range(2 * n):
            total += moved[i, k] * errors[k]
        gradient[i] = total
        for j in range(i + 1):
            total = 1.0 / deviation[i] ** 2 if i == j else 0.0
            for k in range(2 * n):
                total += moved[i, k] * moved[j, k]
            matrix[i, j] = matrix[j, i] = total


@kernel("void(float64[::1], float64[::1])")
def tell_errors(errors: NDArray[np.float64], facts: NDArray[np.float64]) -> None:
    """Mean squares of the normalised errors of angle and power, and the largest of angle."""
    n = len(errors) // 2
    angle = power = worst = 0.0
    count = 0
    for k in range(1, n):
        if errors[2 * k] != 0.0:
            angle += errors[2 * k] ** 2
            power += errors[2 * k + 1] ** 2
            worst = max(worst, abs(errors[2 * k]))
            count += 1
    freedom = max(count - PARAMETERS, 1)
    facts[RESIDUAL_ANGLE] = angle / freedom
    facts[RESIDUAL_POWER] = power / freedom
    facts[WORST_ANGLE] = worst


@kernel(
    "void(float64[::1], float64[::1], float64[::1], float64[:, ::1], float64[::1], float64, float64, boolean[::1], "
    "float64[::1], int64, float64[::1], float64, float64[::1], float64[::1], float64[:, ::1], float64[::1], "
    "float64[::1], float64[::1])"
)
def fit(  # noqa: PLR0912, PLR0915 - one search; its parts are kernels already
    parameters: NDArray[np.float64],
    mean: NDArray[np.float64],
    deviation: NDArray[np.float64],
    phasors: NDArray[np.float64],
    reactances: NDArray[np.float64],
    step_s: float,
    nominal_hz: float,
    valid: NDArray[np.bool_],
    power: NDArray[np.float64],
    before: int,
    power_walk: NDArray[np.float64],
    drift_walk: float,
    floors: NDArray[np.float64],
    start: NDArray[np.float64],
    covariance: NDArray[np.float64],
    angle_rad: NDArray[np.float64],
    errors: NDArray[np.float64],
    facts: NDArray[np.float64],
) -> None:
    """Find the parameters of largest posterior probability, from `parameters` on, by Levenberg-Marquardt.

    `before`: samples before the event, from which the noise is estimated; `floors`: least variances of measured angle
    and power. Gains are those of the parameters at the start of each outer turn, so that an error's derivative depends
    on the past only. Fills the posterior `covariance`, the rotor angle, the normalised errors and `facts`.
    """
    n = len(power)
    gains = np.zeros((n, STATES, 2))
    roots = np.zeros((n, 3))
    noise = np.zeros((2, 2))
    matrix = np.empty((PARAMETERS, PARAMETERS))
    damped = np.empty((PARAMETERS, PARAMETERS))
    factor = np.zeros((PARAMETERS, PARAMETERS))
    gradient = np.empty(PARAMETERS)
    move = np.empty(PARAMETERS)
    tried = np.empty(PARAMETERS)
    tried_rad = np.empty(n)
    tried_errors = np.empty(2 * n)
    damping = 1e-3
    turns = 0
    cost = 0.0
    facts[CONVERGED] = 0.0
    for _ in range(OUTER_TURNS):
        rotor_angle(parameters, phasors, reactances, step_s, angle_rad)
        noise[0, 0] = max(roughness(angle_rad, angle_rad, valid, before), floors[0])
        noise[1, 1] = max(roughness(power, power, valid, before), floors[1])
        most = 0.9 * np.sqrt(noise[0, 0] * noise[1, 1])
        noise[0, 1] = min(max(roughness(angle_rad, power, valid, before), -most), most)
        noise[1, 0] = noise[0, 1]
        filter_gains(parameters, step_s, nominal_hz, valid, noise, power_walk, drift_walk, start, gains, roots)
        prediction_errors(parameters, step_s, nominal_hz, valid, angle_rad, power, gains, roots, errors)
        cost = cost_of(errors, parameters, mean, deviation)
        came_from = parameters.copy()
        for _ in range(MOST_TURNS):
            normal_equations(
                parameters,
                mean,
                deviation,
                phasors,
                reactances,
                step_s,
                nominal_hz,
                valid,
                power,
                gains,
                roots,
                matrix,
                gradient,
            )
            turns += 1
            better = False
            gained = 0.0
            for _ in range(MOST_TRIES):
                damped[:] = matrix
                for j in range(PARAMETERS):
                    damped[j, j] *= 1.0 + damping
                if not cholesky(damped, factor):
                    damping *= 10.0
                    continue
                solve_factored(factor, gradient, move)
                for j in range(PARAMETERS):
                    by = -move[j]
                    if j < LOGARITHMS:
                        by = min(max(by, -1.0), 1.0)
                    tried[j] = parameters[j] + by
                rotor_angle(tried, phasors, reactances, step_s, tried_rad)
                prediction_errors(tried, step_s, nominal_hz, valid, tried_rad, power, gains, roots, tried_errors)
                tried_cost = cost_of(tried_errors, tried, mean, deviation)
                if tried_cost < cost:
                    better = True
                    gained = cost - tried_cost
                    cost = tried_cost
                    parameters[:] = tried
                    errors[:] = tried_errors
                    damping = max(damping * 0.2, 1e-9)
                    break
                damping *= 5.0
            if not better or gained < 1e-2:
                break
        apart = 0.0
        for j in range(PARAMETERS):
            apart = max(apart, abs(parameters[j] - came_from[j]) / deviation[j])
        if apart < 0.02:
            facts[CONVERGED] = 1.0
            break
    rotor_angle(parameters, phasors, reactances, step_s, angle_rad)
    normal_equations(
        parameters,
        mean,
        deviation,
        phasors,
        reactances,
        step_s,
        nominal_hz,
        valid,
        power,
        gains,
        roots,
        matrix,
        gradient,
    )
    if not cholesky(matrix, factor):
        facts[CONVERGED] = 0.0
        covariance[:] = np.diag(deviation * deviation)
    else:
        unit = np.zeros(PARAMETERS)
        for j in range(PARAMETERS):
            unit[:] = 0.0
            unit[j] = 1.0
            solve_factored(factor, unit, covariance[j])
    tell_errors(errors, facts)
    for k in range(n):
        if valid[k]:
            cost += 2.0 * np.log(roots[k, 0] * roots[k, 2])
    facts[UNLIKELINESS] = cost
    facts[TURNS] = turns
