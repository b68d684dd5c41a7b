"""When power steps at an event: at all devices together, which is the onset, and at each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import Samples

NS = 1_000_000_000
STEP_SEARCH_NS = NS
CLEAR_STEP = 25.0
"""From this ratio on, the joint step of power tells the onset better than the detectors do. Load noise makes up to
15."""
SMALLEST_USUAL = 1e-6
SHARP_FRAMES = 5
SHARPNESS = 4.0
"""By how much (squared) a step of power exceeds what is five frames before and after."""
CLOCKS_AGREE_NS = 80_000_000
"""Two frames at 25 frames/s: the onset is told to a frame, and so is a device's own step."""
STEPS_TOO = 0.25
"""A step at the onset counts beside a sharper one if it is at least so large (squared)."""
LEAST_ROWS = 10
COMMON_NOISE = 5e-4
"""Of a device's power: how much it changes over two frames anyway. A recording without noise has swings like steps."""


class JointStep(NamedTuple):
    """Where the power of all devices together changes most, and how many times more than is usual before (squared)."""

    time_ns: int
    ratio: float


class _Changes(NamedTuple):
    """How a device's apparent power changes over two frames, relative to what is usual before; shape (n,) each."""

    device: str
    time_ns: NDArray[np.int64]
    size: NDArray[np.float64]
    quietness: float
    """How much less than `COMMON_NOISE` is usual; at most 1."""


def joint_step(around: Samples, onset_ns: int) -> JointStep | None:
    """The largest change of power within 1 s of the onset; None when the rows have too little to tell.

    `around`: rows from well before the onset until 1 s after it. Each device has a say by the logarithm of its change,
    so that one with another clock and a large step does not outvote the others.
    """
    quiet_until_ns = onset_ns - STEP_SEARCH_NS
    changes = list(_all_changes(around, quiet_until_ns))
    if not changes:
        return None
    grid_ns = max((each.time_ns for each in changes), key=len)
    near = grid_ns > quiet_until_ns
    if not near.any():
        return None
    squares = np.array([np.interp(grid_ns, each.time_ns, each.size * each.size) for each in changes])
    joint = squares.sum(axis=0)
    votes = np.log1p(squares * np.array([[each.quietness**2] for each in changes])).sum(axis=0)
    largest = int(np.argmax(np.where(near, votes, -np.inf)))
    usual = max(float(np.median(joint[~near])), SMALLEST_USUAL)  # a recording without noise may not change at all
    return JointStep(int(grid_ns[largest]), float(joint[largest]) / usual)


def own_steps(samples: Samples, onset_ns: int) -> dict[str, int]:
    """When the power of each device steps by itself: a sharp peak, as no swing makes one.

    Power steps everywhere at once, so that another time than the others' is another clock. A device whose power steps
    at the onset too, no matter what follows, has the right time.
    """
    found: dict[str, int] = {}
    quiet_until_ns = onset_ns - STEP_SEARCH_NS
    for name, time_ns, size, _ in _all_changes(samples, quiet_until_ns):
        square = size * size
        usual = max(float(np.median(square[time_ns <= quiet_until_ns])), SMALLEST_USUAL)
        around = np.maximum(
            np.pad(square, SHARP_FRAMES)[: len(square)], np.pad(square, SHARP_FRAMES)[2 * SHARP_FRAMES :]
        )
        sharp = np.flatnonzero(
            (time_ns > quiet_until_ns) & (square >= CLEAR_STEP * usual) & (square > SHARPNESS * around)
        )
        if len(sharp):
            first = int(sharp[0])
            peak = first + int(np.argmax(square[first : first + SHARP_FRAMES]))
            at_onset = float(square[np.abs(time_ns - onset_ns) <= CLOCKS_AGREE_NS].max(initial=0.0))
            steps_with_all = at_onset >= max(CLEAR_STEP * usual, STEPS_TOO * square[peak])
            found[name] = onset_ns if steps_with_all else int(time_ns[peak])
    return found


def _all_changes(samples: Samples, quiet_until_ns: int) -> Iterator[_Changes]:
    for code, name in enumerate(samples.devices):
        found = _changes(samples, code, name, quiet_until_ns)
        if found is not None:
            yield found


def _changes(samples: Samples, code: int, name: str, quiet_until_ns: int) -> _Changes | None:
    """From phasors where there are some, since the power that a device tells may lag behind them."""
    mine = samples.device == code
    columns = samples.columns
    if "current_a" in columns and "voltage_v" in columns:
        power = columns["current_a"][mine] * columns["voltage_v"][mine]
    elif "active_power_w" in columns:
        power = columns["active_power_w"][mine]
    else:
        return None
    known = np.isfinite(power)
    time_ns, power = samples.time_ns[mine][known], power[known]
    if len(power) < LEAST_ROWS:
        return None
    middle_ns, change = time_ns[1:-1], np.abs(power[2:] - power[:-2])
    quiet = change[middle_ns <= quiet_until_ns]
    if len(quiet) < LEAST_ROWS:
        return None
    # Power that does not change at all is a recording without noise.
    most = float(np.abs(power).max())
    usual = max(float(np.median(quiet)), 1e-5 * most, 1e-12)
    return _Changes(name, middle_ns, change / usual, min(usual / max(COMMON_NOISE * most, 1e-12), 1.0))
