"""The kernels of the swing fit against slow twins in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeflex_operators import _swing as swing

Array = NDArray[np.float64]

STEP_S = 1.0 / 50.0


def parameters(**changes: float) -> Array:
    made = np.zeros(swing.PARAMETERS)
    typical = {"M": 8.0, "K": 20.0, "T1": 0.2, "T3": 4.0, "XQ": 4.8, "TQ": 0.6, "XQ1": 1.4, "TQ1": 0.05}
    for name, value in {**typical, **changes}.items():
        if name in typical:
            made[getattr(swing, f"LOG_{name}")] = np.log(value)
        else:
            made[getattr(swing, name)] = value
    made[swing.A_LEAD] = changes.get("A_LEAD", 0.3)
    return made


def series_exponential(matrix: Array) -> Array:
    """e^A by so many halvings that the series needs four terms."""
    small = matrix / 2.0**20
    result = np.eye(len(matrix)) + small + small @ small / 2.0 + small @ small @ small / 6.0
    for _ in range(20):
        result = result @ result
    return result


@settings(max_examples=50)
@given(st.lists(st.floats(-8.0, 8.0), min_size=16, max_size=16))
def test_matrix_exponential_agrees_with_its_series(entries: list[float]) -> None:
    matrix = np.array(entries).reshape(4, 4)
    found = np.empty((4, 4))
    swing.exponential(matrix.copy(), found)
    expected = series_exponential(matrix)
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_cholesky_and_its_solution_agree_with_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(6, 6))
    matrix = root @ root.T + 0.1 * np.eye(6)
    right = rng.normal(size=6)
    factor, found = np.zeros((6, 6)), np.empty(6)
    assert swing.cholesky(matrix, factor)
    swing.solve_factored(factor, right, found)
    assert np.allclose(factor, np.linalg.cholesky(matrix))
    assert np.allclose(matrix @ found, right)


def test_cholesky_refuses_a_matrix_that_is_not_positive_definite() -> None:
    assert not swing.cholesky(np.array([[1.0, 2.0], [2.0, 1.0]]), np.zeros((2, 2)))


def test_a_unit_without_governor_accelerates_by_its_inertia() -> None:
    power = np.full(100, -0.1)
    power[0] = 0.0
    found = np.empty(100)
    swing.free_run(parameters(M=10.0, K=1e-9), STEP_S, 50.0, power, found)
    assert np.diff(found[2:]) == pytest.approx(np.full(97, 50.0 * 0.1 / 10.0 * STEP_S), rel=1e-6)


def test_a_governor_brings_frequency_to_rest_at_its_droop() -> None:
    power = np.full(10_000, 0.1)
    found = np.empty(10_000)
    swing.free_run(parameters(K=25.0), STEP_S, 50.0, power, found)
    assert found[-1] == pytest.approx(-50.0 * 0.1 / 25.0, rel=1e-3)


def phasors_of(behind_rad: Array, size: Array, current_rad: Array, current: Array) -> Array:
    return np.ascontiguousarray(np.stack([behind_rad, size, current_rad, current], axis=1))


def test_the_rotor_rests_at_the_angle_behind_the_synchronous_reactance() -> None:
    reactances = np.array([0.2, 0.3])
    voltage, current = np.exp(0.4j), 0.8 * np.exp(0.1j)
    inner = voltage + 0.2j * current
    n = 200
    given_phasors = phasors_of(
        np.full(n, np.angle(inner)), np.full(n, abs(inner)), np.full(n, np.angle(current)), np.full(n, abs(current))
    )
    found = np.empty(n)
    swing.rotor_angle(parameters(), given_phasors, reactances, STEP_S, found)
    assert found == pytest.approx(np.full(n, np.angle(voltage + 0.3j * 4.8 * current)), abs=1e-9)


def test_rotor_angle_turns_with_the_grid() -> None:
    reactances = np.array([0.2, 0.3])
    turned = 0.3 * np.arange(300)
    still = phasors_of(np.zeros(300), np.ones(300), np.full(300, -0.5), np.linspace(0.5, 0.9, 300))
    moving = still.copy()
    moving[:, 0] += turned
    moving[:, 2] += turned
    at_rest, found = np.empty(300), np.empty(300)
    swing.rotor_angle(parameters(), still, reactances, STEP_S, at_rest)
    swing.rotor_angle(parameters(), moving, reactances, STEP_S, found)
    assert found - turned == pytest.approx(at_rest, abs=1e-6)


def two_axis_machine(fine_s: float, seconds: float, course: Callable[[float], float]) -> tuple[Array, Array]:
    """Rotor angle and phasors of the quadrature axis, integrated in small steps by the equations of GENROU."""
    xq, xq1, x2, xl = 1.44, 0.42, 0.2, 0.42 - 0.22 / swing.FLUX_SHARE
    slow_s, fast_s = 0.6, 0.05
    share = (xq1 - x2) / (xq1 - xl)
    pull = (xq - xq1) * (xq1 - x2) / (xq1 - xl) ** 2
    quadrature = course(0.0)
    a, p = (xq - xq1) * quadrature, (xq - xl) * quadrature
    rows = []
    for k in range(round(seconds / fine_s)):
        rotor = 0.5 + 0.2 * np.sin(2.0 * k * fine_s)
        quadrature = course(k * fine_s)
        direct = 0.3
        flux = (1.0 - share) * a + share * p
        inner = complex(np.sqrt(1.1**2 - flux**2), -flux) * np.exp(1j * rotor)
        current = complex(quadrature, -direct) * np.exp(1j * rotor)
        rows.append((rotor, inner, current))
        slope_a = (-a + (xq - xq1) * quadrature - pull * (a + (xq1 - xl) * quadrature - p)) / slow_s
        slope_p = (-p + a + (xq1 - xl) * quadrature) / fast_s
        a += fine_s * slope_a
        p += fine_s * slope_p
    every = round(STEP_S / fine_s)
    picked = rows[::every]
    inner = np.array([row[1] for row in picked])
    current = np.array([row[2] for row in picked])
    made = phasors_of(np.unwrap(np.angle(inner)), np.abs(inner), np.unwrap(np.angle(current)), np.abs(current))
    return np.array([row[0] for row in picked]), made


def test_rotor_angle_of_a_two_axis_machine_is_found_from_its_phasors() -> None:
    truth, phasors = two_axis_machine(1e-4, 6.0, lambda t: 0.6 + 0.1 * np.sin(7.0 * t))
    found = np.empty(len(truth))
    swing.rotor_angle(parameters(XQ=4.8, XQ1=1.4, TQ=0.6, TQ1=0.05), phasors, np.array([0.2, 0.3]), STEP_S, found)
    # It begins in equilibrium, which the machine did not; after some time constants nothing of that is left.
    assert found[150:] == pytest.approx(truth[150:], abs=2e-3)


def slow_filter(
    transition: Array, angle: Array, power: Array, noise: Array, walk: Array, drift: float, start: Array, lever: float
) -> Array:
    """The Kalman filter in textbook form."""
    pick = np.zeros((2, swing.STATES))
    pick[0, swing.ANGLE] = pick[1, swing.POWER] = 1.0
    covariance, state = np.diag(start), np.zeros(swing.STATES)
    errors = []
    for k in range(len(power)):
        if k:
            state = transition @ state
            push = np.zeros(swing.STATES)
            push[swing.POWER], push[swing.SPEED] = 1.0, lever
            covariance = transition @ covariance @ transition.T + walk[k] * np.outer(push, push)
            covariance[swing.DRIFT, swing.DRIFT] += drift
        spread = pick @ covariance @ pick.T + noise
        error = np.array([angle[k] - angle[0], power[k]]) - pick @ state
        gain = covariance @ pick.T @ np.linalg.inv(spread)
        state = state + gain @ error
        covariance = covariance - gain @ pick @ covariance
        errors.append(np.linalg.solve(np.linalg.cholesky(spread), error))
    return np.concatenate(errors)


def test_prediction_errors_agree_with_a_textbook_kalman_filter() -> None:
    rng = np.random.default_rng(3)
    n = 80
    angle, power = np.cumsum(rng.normal(0, 0.01, n)), rng.normal(0, 0.05, n)
    noise = np.array([[1e-6, 2e-8], [2e-8, 1e-5]])
    walk = np.abs(rng.normal(0, 1e-4, n))
    start = np.array([1.0, 4e-10, 1e-12, 1e-12, 1e-8, 1e-4])
    theta = parameters()
    gains, roots, found = np.zeros((n, swing.STATES, 2)), np.zeros((n, 3)), np.empty(2 * n)
    valid = np.ones(n, dtype=np.bool_)
    swing.filter_gains(theta, STEP_S, 50.0, valid, noise, walk, 1e-9, start, gains, roots)
    swing.prediction_errors(theta, STEP_S, 50.0, valid, angle, power, gains, roots, found)
    transition = np.empty((swing.STATES, swing.STATES))
    swing.transition(theta, STEP_S, 50.0, transition)
    lever = -0.5 * STEP_S / np.exp(theta[swing.LOG_M])
    assert found == pytest.approx(
        slow_filter(transition, angle, power, noise, walk, 1e-9, start, lever), rel=1e-6, abs=1e-8
    )


def test_roughness_is_the_variance_of_white_noise_on_a_smooth_course() -> None:
    rng = np.random.default_rng(1)
    n = 20_000
    smooth = np.sin(np.arange(n) * 0.05)
    noise = rng.normal(0, 0.01, n)
    valid = np.ones(n, dtype=np.bool_)
    assert swing.roughness(smooth + noise, smooth + noise, valid, n) == pytest.approx(1e-4, rel=0.05)
    assert swing.roughness(smooth + noise, 2.0 * noise, valid, n) == pytest.approx(2e-4, rel=0.05)
